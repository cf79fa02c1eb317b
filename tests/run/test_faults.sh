#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# Faults on the monitors' side, while guests check every byte of their memory:
# monitors that die in the middle of each step of reclaim take nothing with them
# but their own guest; a swap file that is really full; a monitor that does not
# answer for a while.
. "$(dirname "$0")/lib.sh"

K=$GUEST/vmlinuz
[ -e "$K" ] || {
	skip "faults" "no guest: make guest"
	finish
}
swap_dir=/var/tmp

# start N WORK PACK-ARGUMENTS...: vm2 has a balloon driver.
start()
{
	local n=$1 work=$2 i
	shift 2
	rm -rf "$T/logs"
	for ((i = 0; i < n; i++)); do
		echo "vm$i append=\"console=ttyS0 nokaslr sardine.report=9" \
			"sardine.virtio=virtio_balloon" \
			"sardine.run=n=$i; $work\"" \
			"initrd=$GUEST/initrd$([ $i != 2 ] || echo -virtio).img"
	done >"$T/fleet"
	bg "$SARDINE" pack --socket "$SOCK" --kernel "$K" --mem 128M \
		--log-dir "$T/logs" --json "$T/json" "$@" "$T/fleet" \
		>"$T/mout" 2>"$T/merr"
	manager=$pid
}
log() { echo "$T/logs/$1.log"; }
good() { is "$(grep -l 'memwork:.* good' "$T"/logs/*.log | wc -l)" "$1"; }
bad() { grep -l 'BAD\|should be' "$T"/logs/*.log; }

# ---- each step of reclaim, one VM each; two live on ----
points=(commit:100 released:3 balloon:200 compress:400 compact:3
	decompress:60 swapped:100 swap-in:40)
fail=kill-swap-write@vm8:6
for i in "${!points[@]}"; do
	fail+=,kill-monitor-${points[i]/:/@vm$i:}
done
points+=(swap-write)
export SARDINE_FAIL=$fail
start 11 "while memwork 40 30 4 60 \$n; do :; done" --host-mem 400M \
	--swap "$swap_dir"
unset SARDINE_FAIL
killed() { [ "$(grep -c 'killed by signal 9' "$T/mout")" -ge "$1" ]; }
rounds() { grep -c 'memwork:.* good' "$(log "$1")"; }
more() { [ "$(rounds vm9)" -gt "$nine" -a "$(rounds vm10)" -gt "$ten" ]; }
# Those that are left are short of memory only when it is less.
until_true 40 killed 5
"$SARDINE" set -s "$SOCK" host mem=320M
until_true 20 killed 7
"$SARDINE" set -s "$SOCK" host mem=150M
until_true 60 killed 9
for i in "${!points[@]}"; do
	ok "vm$i was killed in step ${points[i]%:*}" has "$T/mout" \
		"^vm$i: killed by signal 9" || show "$T/mout"
done
nine=$(rounds vm9) ten=$(rounds vm10)
ok "those that were not killed check their memory" until_true 60 more ||
	tail -n 20 "$(log vm9)" "$(log vm10)"
ok "no guest has seen a wrong byte" is "$(bad)" "" || tail "$T"/logs/*.log
kill -INT "$manager"
wait "$manager"
ok "the manager's status is 0" is $? 0 || show "$T/mout" "$T/merr"
ok "the audit is clean" has "$T/mout" "^audit clean" || show "$T/mout"

# ---- a swap file that is smaller than what wants to go there ----
start 2 "memwork 40 25 4 10 \$n" --host-mem 150M --swap "$swap_dir" --swap-size 8M
wait "$manager"
rc=$?
ok "a full swap file: status 0" is $rc 0 || show "$T/mout" "$T/merr"
ok "every byte was right" good 2 || show "$T"/logs/*.log
ok "it was full, and that was said" has "$T/mout" ": its swap file is full" ||
	show "$T/mout"
ok "the audit is clean" has "$T/mout" "^audit clean"
run_for 20 "$SARDINE" pack -n 1 --kernel "$K" --mem 128M --host-mem 96M \
	--socket "$SOCK" --swap "$swap_dir" --swap-size 4096T
ok "a disk that has no room is refused" test $rc = 1 -a \
	"$(grep -c 'cannot reserve' "$T/err")" = 1 || show "$T/err"

# ---- a monitor that does not answer ----
start 3 "while memwork 40 30 4 60 \$n; do :; done" --host-mem 230M \
	--swap "$swap_dir"
filled() { is "$(grep -l 'memwork: filled' "$T"/logs/*.log | wc -l)" "$1"; }
all_rounds() { echo "$(rounds vm0) $(rounds vm1) $(rounds vm2)"; }
each_more() # ROUNDS-OF-EACH NAME...
{
	local was=($1) i
	shift
	for i; do
		[ "$(rounds "$i")" -gt "${was[${i#vm}]}" ] || return 1
	done
}
ok "guests fill their memory" until_true 60 filled 3 || show "$T/mout"
one=$(vm_pid vm1)
kill -STOP "$one"
quick() { timeout 4 "$SARDINE" top --json --socket "$SOCK" >/dev/null; }
for i in 1 2 3 4; do
	sleep 1
	quick || break
done
ok "one stands still: the manager answers" is $i 4
ok "and says so" until_true 20 has "$T/mout" "^vm1: its monitor does not answer" ||
	show "$T/mout"
ok "others go on" until_true 60 each_more "$(all_rounds)" vm0 vm2
kill -CONT "$one"
ok "it goes on" until_true 20 has "$T/mout" "^vm1: its monitor answers again" ||
	show "$T/mout"
ok "all check their memory" until_true 60 each_more "$(all_rounds)" vm0 vm1 vm2
ok "no guest has seen a wrong byte" is "$(bad)" "" || tail "$T"/logs/*.log
kill -INT "$manager"
wait "$manager"
ok "they end well: status 0" is $? 0 || show "$T/mout" "$T/merr"
ok "the audit is clean" has "$T/mout" "^audit clean"
finish
