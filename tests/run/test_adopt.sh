#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 500
# kill -9 of the manager in the middle of every step of its work, and a new one
# that takes the VMs over, again and again, while the guests check every byte
# of their memory.
. "$(dirname "$0")/lib.sh"

K=$GUEST/vmlinuz
[ -e "$K" ] || {
	skip "adopt" "no guest: make guest"
	finish
}
swap_dir=/var/tmp
logs=$T/logs

# fleet WORK NAME...: vm2 has a balloon driver.
fleet()
{
	local work=$1 name
	shift
	for name; do
		echo "$name append=\"console=ttyS0 nokaslr sardine.report=9" \
			"sardine.virtio=virtio_balloon" \
			"sardine.run=$work\"" \
			"initrd=$GUEST/initrd$([ "$name" != vm2 ] ||
				echo -virtio).img"
	done >"$T/fleet"
}
# manager FAIL-POINTS ARGUMENTS...
manager()
{
	local fail=$1
	shift
	rm -f "$T/json"
	SARDINE_FAIL=$fail bg "$SARDINE" pack --socket "$SOCK" --json "$T/json" \
		--host-mem 250M --swap "$swap_dir" "$@" >"$T/mout" 2>"$T/merr"
	manager=$pid
}
running() { is "$(sample '[.vms[] | select(.state == "running")] | length')" "$1"; }
good() { is "$(grep -l 'memwork:.* good' "$logs"/*.log | wc -l)" "$1"; }
filled() { is "$(grep -l 'memwork: filled' "$logs"/*.log | wc -l)" "$1"; }
wrong() { grep -l 'BAD\|should be' "$logs"/*.log; }
audit() { "$SARDINE" audit -s "$SOCK" 2>"$T/aerr"; }
cmd() { "$SARDINE" "$@" -s "$SOCK" 2>"$T/err"; }
ms() { echo $(($(date +%s%N) / 1000000)); }
# The manager has died, within SECONDS.
died()
{
	until_true "$1" dead "$manager" || return 1
	wait "$manager" 2>/dev/null
	is $? 137
}

# ---- a chain of managers, each killed somewhere else; guests that check all of
# their memory every few seconds, until a byte is wrong ----
fleet "while memwork 40 25 8 60; do :; done" vm0 vm1 vm2
set -- --kernel "$K" --mem 128M --log-dir "$logs" "$T/fleet"
manager kill-manager-noted:1 "$@"
ok "the first manager dies: a VM is noted and not started" died 60 ||
	show "$T/mout" "$T/merr"
manager kill-manager-started:0 "$@"
ok "the next dies when it has started that one" died 60 ||
	show "$T/mout" "$T/merr"
ok "having taken the first over, and seen that the other was not" test \
	"$(grep -c '^vm0: taken over' "$T/mout")$(grep -c '^vm1: has ended' \
		"$T/mout")" = 11 || show "$T/mout"
manager kill-manager-propose:20 "$@"
ok "the third starts the third VM, and dies proposing" died 60 ||
	show "$T/mout" "$T/merr"
ok "and had two before" is "$(grep -c ': taken over' "$T/mout")" 2 ||
	show "$T/mout"
until_true 30 filled 3
slowest=0
for point in proposed:3 pool:30 answer:50 released:3 frame:10 divide:8 \
	quota:11 nudge:4 balloon:0 budget:0 offer:1 adopt:1 settle:0; do
	# What is done to it so that it comes there.
	manager "kill-manager-$point" --adopt
	begin=$(ms)
	case $point in
	budget:*)
		until_true 20 running 3
		cmd set host mem=200M
		;;
	balloon:*)
		until_true 20 running 3
		cmd balloon vm2 16M
		;;
	esac
	ok "killed in step ${point%:*}" died 30 || {
		show "$T/mout" "$T/merr"
		kill -9 "$manager"
	}
	lived=$(($(ms) - begin))
	begin=$(ms)
	manager "" --adopt
	ok "the next one takes all over" until_true 20 running 3 ||
		show "$T/mout" "$T/merr"
	took=$(($(ms) - begin))
	echo "# it lived $lived ms, the VMs were back after $took ms"
	[ $took -lt $slowest ] || slowest=$took
	ok "and its audit is clean" audit || show "$T/aerr"
	kill -9 "$manager"
	wait "$manager" 2>/dev/null
done
echo "# slowest to take three VMs over: $slowest ms"
# Seconds, when tests share two processors with others.
ok "within seconds" test $slowest -lt 10000

# ---- sharing, reclaim and settings go on ----
manager "" --adopt
ok "taken over once more" until_true 20 running 3
merged() { [ "$(sample .sharing.merged_pages)" -gt 100 ]; }
ok "equal pages are found again" until_true 40 merged ||
	"$SARDINE" top -s "$SOCK"
ok "a pause" cmd pause vm0
kill -9 "$manager"
wait "$manager" 2>/dev/null
manager "" --adopt
paused() { vm_state_is vm0 paused; }
ok "is still one for the next manager" until_true 20 paused
ok "and ends there" cmd resume vm0
pids=$(sample '.vms[].pid')

# ---- every guest has checked all that it wrote before the last death ----
for i in 0 1 2; do
	before[i]=$(grep -c 'memwork:.* good' "$logs/vm$i.log")
done
checked()
{
	local i
	for i in 0 1 2; do
		[ "$(grep -c 'memwork:.* good' "$logs/vm$i.log")" -gt \
			"${before[i]}" ] || return 1
	done
}
ok "the guests check their memory" until_true 90 checked || tail "$logs"/*.log
ok "no byte was wrong all the while" is "$(wrong)" "" || tail "$logs"/*.log
kill -INT "$manager"
wait "$manager"
ok "the last manager ends with status 0" is $? 0 || show "$T/mout" "$T/merr"
ok "and a clean audit" has "$T/mout" "^audit clean"
dead3() { ! ls -d /proc/$1 /proc/$2 /proc/$3; }
ok "and leaves no VM" until_true 10 dead3 $pids
ok "nor anything else" is "$(ls "$T" | grep -c '^s')" 0 || ls "$T"

# ---- one stands still, one ends, one dies answering, one starts ----
rm -rf "$logs"
fleet "memwork 24 25 30 60" vm0 vm1 vm3 vm4
manager kill-monitor-adopt@vm4 --kernel "$K" --mem 128M --log-dir "$logs" \
	"$T/fleet"
ok "four guests" until_true 60 filled 4 || show "$T/mout"
one=$(vm_pid vm1) other=$(vm_pid vm3)
kill -STOP "$one"
kill -9 "$manager"
wait "$manager" 2>/dev/null
kill -9 "$other"
fleet "memwork 24 25 2 60" vm0 vm1 vm5
manager "" --kernel "$K" --mem 128M --log-dir "$logs" "$T/fleet"
ok "one is taken over, one started" until_true 20 running 2 ||
	show "$T/mout" "$T/merr"
ok "one has ended, and is forgotten" has "$T/mout" "^vm3: has ended meanwhile"
ok "so is one that dies while it is asked" has "$T/mout" \
	"^vm4: has ended meanwhile"
ok "one does not answer, and that is said" has "$T/mout" \
	"^vm1: its monitor does not answer" || show "$T/mout"
ok "the audit is clean meanwhile" audit || show "$T/aerr"
kill -CONT "$one"
ok "it answers later" until_true 5 has "$T/mout" "^vm1: taken over"
wait "$manager"
ok "they end well" is $? 0 || show "$T/mout" "$T/merr"
ok "it knows how they ended" is \
	"$(grep -c 'vm[015]: powered off' "$T/mout")" 3 || show "$T/mout"
ok "every byte was right" test "$(wrong | wc -l)" = 0 -a \
	"$(grep -l 'memwork:.* good' "$logs"/vm[015].log | wc -l)" = 3 ||
	show "$logs"/*.log
ok "the audit is clean" has "$T/mout" "^audit clean"
# ---- one that cannot be started ends none of those that ran before ----
fleet "sleep 1000" vm0
manager "" --kernel "$K" --mem 128M "$T/fleet"
ok "a guest" until_true 60 running 1 || show "$T/mout"
kill -9 "$manager"
wait "$manager" 2>/dev/null
fleet "sleep 1000" vm0 vm6
manager "" --kernel "$K" --mem 128M --log-dir "$T/fleet/no" "$T/fleet"
ok "a log directory that cannot be made" until_true 20 dead "$manager"
manager "" --kernel "$K" --mem 128M --swap "$T/none" "$T/fleet"
ok "a VM that cannot be started is told of" until_true 20 has "$T/merr" "$T/none" ||
	show "$T/mout" "$T/merr"
ok "and the other runs on" running 1
kill -INT "$manager"
wait "$manager"
ok "the status tells" is $? 1
run_for 20 "$SARDINE" pack --adopt --socket "$SOCK"
ok "--adopt where nothing is: status 1, and says so" test $rc = 1 -a \
	"$(grep -c 'no VM was left' "$T/err")" = 1 || show "$T/err"
finish
