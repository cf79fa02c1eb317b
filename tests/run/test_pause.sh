#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A paused VM uses no CPU time, gives memory up, and goes on where it was.
. "$(dirname "$0")/lib.sh"

K=$GUEST/vmlinuz
[ -e "$K" ] || {
	skip "pause" "no guest: make guest"
	finish
}
bg "$SARDINE" pack -n 1 --socket "$SOCK" --kernel "$K" --initrd \
	"$GUEST/initrd.img" --mem 128M --log-dir "$T/logs" --host-mem 256M \
	--append "console=ttyS0 nokaslr sardine.run=memwork 40 25 6 70" \
	>"$T/mout" 2>"$T/merr"
manager=$pid
cmd() { "$SARDINE" "$@" -s "$SOCK" 2>"$T/err"; }
ticks() { sed 's/.*) //' "/proc/$vm/stat" | awk '{print $12 + $13}'; }
ok "a guest is at work" until_true 60 has "$T/logs/vm0.log" "memwork: filled" ||
	show "$T/mout" "$T/merr"
vm=$(vm_pid vm0)
ok "pause" cmd pause vm0 || show "$T/err"
ok "it is paused" vm_state_is vm0 paused
sleep 0.5
a=$(ticks)
sleep 2
b=$(ticks)
ok "and uses no CPU time to speak of" test $((b - a)) -lt 20 ||
	echo "# $((b - a)) ticks in 2 s"
private() { sample '.vms[0] | .private_bytes'; }
was=$(private)
ok "its memory is given up when the budget shrinks" \
	cmd set host mem=72M || show "$T/err"
smaller() { [ "$(private)" -lt $((was - (8 << 20))) ]; }
ok "though it does not run" until_true 20 smaller || echo "# $was, $(private)"
ok "not done meanwhile" test "$(grep -c 'memwork: mib' "$T/logs/vm0.log")" = 0
ok "an unknown VM is refused" test "$(cmd pause vm9; echo $?)" = 1
ok "resume" cmd resume vm0
ok "it goes on, every byte right" until_true 60 has "$T/logs/vm0.log" \
	"memwork:.* good" || show "$T/logs/vm0.log"
wait "$manager"
ok "and ends well" is $? 0 || show "$T/mout"
finish
