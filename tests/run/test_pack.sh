#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# `sardine pack` and `top`: tables, JSON, sharing, and what survives whose
# death. With the tiny guest, which is up at once under any engine.
. "$(dirname "$0")/lib.sh"

# The manager in the background; its output in $T/mout and $T/merr.
start()
{
	bg "$SARDINE" pack --socket "$SOCK" --kernel "$TINY" --mem 32M "$@" \
		>"$T/mout" 2>"$T/merr"
	manager=$pid
}
holds() { jq -e "$1" "$2" >/dev/null; }
up() { is "$(sample '[.vms[] | select(.boot_ms > 0)] | length')" "$1"; }
saved_above() { [ "$(sample .sharing.saved_bytes)" -gt "$1" ]; }
monitors() { pgrep -fc "monitor.*--kernel $TINY" || true; }
memfd_gone() { ! ls -l /proc/"$manager"/fd 2>/dev/null | grep -q "sardine-$1 "; }

# ---- a run with a time limit, everything on ----
run_for 60 "$SARDINE" pack -n 4 --socket "$SOCK" --kernel "$TINY" --mem 32M \
	--append i --for 6 --oracle --json "$T/json" --log-dir "$T/logs"
ok "pack --for ends with status 0" is $rc 0 || show "$T/out" "$T/err"
ok "the final table has every VM and the audit" test \
	"$(grep -cE '^vm[0-3] +running +32\.0' "$T/out")" = 4 \
	-a "$(grep -c '^audit clean' "$T/out")" = 1 || show "$T/out"
ok "each userland was told" test "$(grep -c 'userland after' "$T/out")" = 4
ok "consoles are in the logs" test \
	"$(cat "$T"/logs/vm[0-3].log | grep -c 'SARDINE-GUEST: userland')" = 4
ok "JSON has the promised shape" holds '
	(.host | .budget_bytes > 0 and .used_bytes > 0 and .pool_bytes >= 0
		and (.state | type == "string")) and
	(.vms | length == 4) and
	(.vms | all(.name and .pid > 0 and .state == "running" and
		.configured_bytes == 33554432 and .private_bytes >= 0 and
		.shared_bytes >= 0 and .zero_bytes >= 0 and
		.overhead_bytes > 0 and .boot_ms > 0)) and
	(.sharing | .saved_bytes > 0 and .oracle_bytes > 0 and
		.merged_pages > 0 and .broken_pages >= 0 and
		.scanned_pages > 0 and (.refused | type == "object"))' \
	"$T/json" || show "$T/json"
# 4 MiB in each are the same in all four: three quarters can be saved.
ok "at least 90% of what the oracle could save is saved" holds \
	'.sharing | .saved_bytes >= 0.9 * .oracle_bytes and
	.oracle_bytes > 11 * 1048576' "$T/json" || show "$T/json"
ok "private + shared + zero is what was configured" holds \
	'.vms | all(.private_bytes + .shared_bytes + .zero_bytes ==
	.configured_bytes)' "$T/json" || show "$T/json"
ok "no process, socket or lock is left" test "$(monitors)" = 0 \
	-a ! -e "$SOCK" -a ! -e "$SOCK.lock"

# ---- top, the second manager, the death of a monitor ----
start -n 4 --append i
ok "all VMs come up" until_true 20 up 4 || show "$T/mout" "$T/merr"
ok "they share" until_true 20 saved_above $((11 << 20))
"$SARDINE" top --socket "$SOCK" >"$T/top"
ok "top prints the table" test "$(grep -cE '^vm[0-3] +running' "$T/top")" = 4
run_for 20 "$SARDINE" pack -n 1 --kernel "$TINY" --socket "$SOCK"
ok "a second manager on the socket is refused with one line" test $rc = 1 \
	-a "$(wc -l <"$T/err")" = 1 -a "$(grep -c -- --socket "$T/err")" = 1
ok "the first one goes on" up 4
run_for 20 "$SARDINE" pack -n 1 --kernel "$TINY" --mem 32M --append i \
	--socket "$SOCK.2" --for 1
ok "a second manager on its own socket runs" is $rc 0
pids=$(sample '.vms[].pid')
confined=0 extra=0 batch=0
# SCHED_BATCH is 3; field 41 of the line, the second of which may hold blanks.
policy() { sed 's/.*) //' "$1/stat" | cut -d' ' -f39; }
for p in $pids; do
	[ "$(policy /proc/$p)" = 3 ] && for t in /proc/$p/task/*; do
		[ "$(policy $t)" != 0 ] || { batch=$((batch + 1)) && break; }
	done
	grep -q '^Seccomp:.2' /proc/$p/status && confined=$((confined + 1))
	# 0-2, socket, memfd, control, pool, kernel, and its own eventfds etc.
	ls -l /proc/$p/fd | grep -qE '/dev/kvm|/dev/mem|\.sock' &&
		extra=$((extra + 1))
	grep -q '^CapEff:.0000000000000000' /proc/$p/status ||
		extra=$((extra + 1))
done
ok "monitors are confined and hold nothing that they should not" test \
	$confined = 4 -a $extra = 0
ok "their vCPUs wait for their turn, their I/O threads do not" is $batch 4
victim=$(vm_pid vm1)
kill -9 "$victim"
ok "kill -9 of a monitor: shown as killed within a second" \
	until_true 1 vm_state_is vm1 killed || top_json | show
ok "its memory is back within a second" until_true 1 memfd_gone vm1
ok "the others run on" test "$(sample '[.vms[] | select(.state ==
	"running")] | length')" = 3
ok "it holds no memory in the table" is "$(sample '.vms[1] |
	.private_bytes + .shared_bytes + .overhead_bytes')" 0
ok "sharing goes on" until_true 5 saved_above $((7 << 20))
zombies() { ps -o stat= --ppid "$manager" | grep -c '^Z'; }
ok "no zombie" is "$(zombies)" 0
kill -TERM "$manager"
wait "$manager"
rc=$?
ok "SIGTERM ends the run with the final table and status 0" test $rc = 0 \
	-a "$(grep -cE '^vm1 +killed' "$T/mout")" = 1 \
	-a "$(grep -c '^audit clean' "$T/mout")" = 1 || show "$T/mout" "$T/merr"
ok "and nothing is left" test "$(monitors)" = 0 -a ! -e "$SOCK"

# ---- the death of the manager ----
start -n 3 --append w
ok "writers come up" until_true 20 up 3
pids=$(sample '.vms[].pid')
kill -9 "$manager"
wait "$manager" 2>/dev/null
sleep 1.5
cpu_of() { awk '{print $14 + $15}' "/proc/$1/stat" 2>/dev/null; }
running=0
for p in $pids; do
	a=$(cpu_of "$p")
	sleep 0.5
	[ "$(cpu_of "$p")" -gt "${a:-999999999}" ] 2>/dev/null &&
		running=$((running + 1))
done
ok "kill -9 of the manager: the guests run on" is $running 3
gone() { ! [ -d "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
all_gone() { for p in $pids; do gone "$p" || return 1; done; }
kill -TERM "${pids%%[!0-9]*}"
ok "SIGTERM ends an orphan" until_true 5 gone "${pids%%[!0-9]*}"
run_for 20 "$SARDINE" pack --adopt --socket "$SOCK" --for 1
ok "the dead manager's socket is replaced" is $rc 0 || show "$T/err"
ok "a new manager takes the others over" is \
	"$(grep -c ': taken over' "$T/out")" 2 || show "$T/out"
ok "and ends them at its end" until_true 5 all_gone
for p in $pids; do kill -9 "$p" 2>/dev/null; done

# ---- guests that end by themselves, errors, signals ----
cat >"$T/fleet" <<END
# a comment
off0   append=off
reset0 append="i reset"
stay   append=i group=other count=2 mem=16M
END
run_for 60 "$SARDINE" pack "$T/fleet" --kernel "$TINY" --mem 32M \
	--socket "$SOCK" --for 3 --json -
ok "fleet file: status 0" is $rc 0 || show "$T/out" "$T/err"
ok "fleet file: names, sizes and ends" test \
	"$(grep -cE '^off0 +off +32\.0' "$T/out")" = 1 \
	-a "$(grep -cE '^stay[01] +running +16\.0' "$T/out")" = 2 ||
	show "$T/out"
run_for 60 "$SARDINE" pack -n 3 --kernel "$TINY" --mem 32M --append off \
	--socket "$SOCK"
ok "all guests off: the run ends by itself" test $rc = 0 \
	-a "$(grep -cE '^vm[0-2] +off' "$T/out")" = 3
printf 'a append=i group=x\nb append=i group=y\n' >"$T/fleet"
run_for 60 "$SARDINE" pack "$T/fleet" --kernel "$TINY" --mem 32M \
	--socket "$SOCK" --for 4 --oracle --json "$T/json"
ok "VMs of different groups share nothing" holds \
	'.vms | all(.shared_bytes == 0)' "$T/json" || show "$T/json"
bg setsid "$SARDINE" pack -n 2 --kernel "$TINY" --mem 32M --append i \
	--socket "$SOCK" >"$T/mout" 2>"$T/merr"
manager=$pid
until_true 20 up 2
kill -INT "$manager"
wait "$manager"
ok "SIGINT ends the run with status 0 and the table" test $? = 0 \
	-a "$(grep -c '^total' "$T/mout")" = 1
run_for 30 "$SARDINE" pack -n 2 --kernel "$TINY" --mem 32M --append v86 \
	--socket "$SOCK"
ok "VMs that the engine stops: status 4, state error, the reason" test \
	$rc = 4 -a "$(grep -cE '^vm[01] +error' "$T/out")" = 2 \
	-a "$(grep -c 'stopped:.*virtual-8086' "$T/out")" = 2 ||
	show "$T/out" "$T/err"
# ---- KASLR ----
# Where the kernels of three VMs lie: a and b are of one group.
printf '%s\n' 'a group=x' 'b group=x' 'c group=y' >"$T/three"
bases() # MODE
{
	run_for 90 "$SARDINE" pack "$T/three" --kernel "$GUEST/vmlinuz" \
		--initrd "$GUEST/initrd.img" --socket "$SOCK" --kaslr "$1" \
		--log-dir "$T/kaslr-$1" --append "console=ttyS0 quiet \
sardine.run=grep -w _text /proc/kallsyms"
	for vm in a b c; do
		grep -a ' _text' "$T/kaslr-$1/$vm.log" | cut -d' ' -f1
	done
}
if [ -e "$GUEST/vmlinuz" ]; then
	mapfile -t group < <(bases group)
	mapfile -t own < <(bases vm)
	# Two layouts are the same by chance once in some 500 times, so what
	# must differ is counted over several.
	distinct=$(printf '%s\n' "${group[2]}" "${own[@]}" | sort -u | wc -l)
	ok "a group has one kernel layout" test ${#group[@]} = 3 \
		-a "${group[0]}" = "${group[1]}" || echo "# ${group[*]}"
	ok "--kaslr vm, and other groups: layouts of their own" test \
		${#own[@]} = 3 -a "$distinct" -ge 3 ||
		echo "# ${group[*]} ${own[*]}"
	ok "no default layouts" test "$(printf '%s\n' "${group[@]}" \
		"${own[@]}" | grep -c ffffffff81000000)" -le 2
else
	skip "KASLR" "no $GUEST/vmlinuz"
fi
run_for 10 "$SARDINE" pack -n 1 --kernel "$TINY" --socket "$SOCK" --kaslr x
ok "--kaslr x is refused" test $rc = 2 -a "$(grep -c 'group or vm' "$T/err")" = 1
# A truncated image: each VM fails with its reason, the run with status 1.
head -c 60 "$TINY" >"$T/cut"
run_for 30 "$SARDINE" pack -n 2 --kernel "$T/cut" --mem 32M --socket "$SOCK"
ok "VMs that cannot start: status 1 and the reason" test $rc = 1 \
	-a "$(grep -c 'failed: .*cut' "$T/out")" = 2 || show "$T/out" "$T/err"
# A monitor that makes a forbidden call would be seen: nobody did.
ok "no monitor died of its filter" test \
	"$(grep -l 'forbids' "$T"/mout "$T"/out "$T"/err | wc -l)" = 0
timeout 30 "$SARDINE" pack -n 2 --kernel "$TINY" --mem 32M --append i \
	--socket "$SOCK" | head -1 >/dev/null
ok "a reader that goes away ends the run" test "${PIPESTATUS[0]}" = 0
ok "nothing is left at the end" test "$(monitors)" = 0 -a ! -e "$SOCK" \
	-a ! -e "$SOCK.lock"
finish
