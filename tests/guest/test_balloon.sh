#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Debian's own virtio-balloon driver: what a guest frees is the host's again
# within seconds.
. "$(dirname "$0")/../run/lib.sh"
K=$GUEST/vmlinuz I=$GUEST/initrd-virtio.img
[ -e "$I" ] || {
	skip "balloon" "no guest: make guest"
	finish
}

start() # APPEND [OPTION...]
{
	local append=$1
	shift
	bg "$SARDINE" pack -n 1 --socket "$SOCK" --kernel "$K" --initrd "$I" \
		--log-dir "$T/logs" \
		--append "console=ttyS0 quiet nokaslr $append" "$@" \
		>"$T/mout" 2>"$T/merr"
	manager=$pid
}
said() { has "$T/logs/vm0.log" "$1"; }
mib() { echo $(($(sample ".vms[0].$1_bytes") >> 20)); }
private_below() { [ "$(mib private)" -le "$1" ]; }

# ---- 300 MB filled and freed; twice, so that pages come back, too ----
start "sardine.run=sleep 2; echo re'st'; sleep 6; hog 300 0 1; sleep 7; hog 200 0 1" \
	--mem 512M
ok "the guest rests" until_true 40 said '^rest' || show "$T/mout"
# What its boot has freed goes back in the next seconds, and would be taken
# for hog's if hog were first: the least of this time is what it rests with.
before=$(mib private)
least() # of what it has while it rests and fills
{
	local now
	now=$(mib private)
	[ "$now" -ge "$before" ] || before=$now
	said 'filled'
}
ok "it fills 300 MB" until_true 120 least
full=$(mib private)
ok "which the host has to provide" test $((full - before)) -ge 295 ||
	echo "# $before MiB, then $full MiB" >&2
ok "it frees them" until_true 20 said 'freed'
from=$(date +%s%N)
# The guest's own timer of 2 s, twice; more on a machine that is overloaded.
within=5
[ "$(cut -d. -f1 /proc/loadavg)" -lt 8 ] || within=20
ok "95% are back within $within seconds" \
	until_true $within private_below $((full - 285))
echo "# $before MiB, $full MiB, $(mib private) MiB after" \
	"$((($(date +%s%N) - from) / 1000000)) ms"

# ---- asked for memory ----
balloon() { "$SARDINE" balloon -s "$SOCK" "$@" 2>"$T/err"; }
is_ballooned() { [ "$(mib ballooned)" -ge "$1" ]; }
ok "balloon: 300 MB of it" balloon vm0 300M
ok "which the guest gives" until_true 10 is_ballooned 299
refused() { balloon "$@"; [ $? = 1 -a "$(wc -l <"$T/err")" = 1 ]; }
ok "more than it has is refused" refused vm0 512M
ok "nonsense is refused" refused vm0 much
ok "and a VM that is not there" refused vm1 10M
# More is used than is left: the guest takes it back rather than die.
wait "$manager"
ok "status 0, and the audit is clean" test $? = 0 -a \
	"$(grep -c '^audit clean' "$T/mout")" = 1 || show "$T/mout" "$T/merr"
ok "fresh memory was zero, and held what was written" \
	is "$(grep -c 'freed, good' "$T/logs/vm0.log")" 2 ||
	show "$T/logs/vm0.log"

# ---- without one ----
start "sardine.run=ls /sys/bus/virtio/devices | wc -l" --no-balloon
wait "$manager"
ok "--no-balloon: the guest has none" said '^0' || show "$T/logs/vm0.log"

# ---- --at-once: the second one starts when the first is up ----
rm -rf "$T/logs"
bg "$SARDINE" pack -n 2 --at-once 1 --socket "$SOCK" --kernel "$K" \
	--initrd "$GUEST/initrd.img" --log-dir "$T/logs" \
	--append "console=ttyS0 quiet sardine.run=true" >"$T/mout" 2>"$T/merr"
manager=$pid
ok "--at-once 1: a second VM comes" until_true 40 test -e "$T/logs/vm1.log"
ok "when the first is in userland" said userland
wait "$manager"
ok "status 0" is $? 0 || show "$T/mout" "$T/merr"
finish
