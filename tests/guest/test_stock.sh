#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# Debian's own kernel and userland: to a shell that runs commands, with little
# and much memory, by each entry, and every way out. Under bt; the interpreter,
# some twenty times slower, boots it once.
. "$(dirname "$0")/../run/lib.sh"
K=$GUEST/vmlinuz I=$GUEST/initrd.img

boot() # ENGINE MEM APPEND [OPTION...]
{
	local engine=$1 mem=$2 append=$3
	shift 3
	run_for "${LIMIT:-120}" "$SARDINE" run --engine "$engine" --mem "$mem" \
		--no-reboot --kernel "$K" --initrd "$I" \
		--append "console=ttyS0 $append" "$@"
}

# The last boot ended with status $2, and its console has the line $3.
good()
{
	ok "$1" test "$rc" = "$2" -a -n "$(grep -aE -- "$3" "$T/out")" || {
		tail -n 15 "$T/out" | tr -d '\r' | show
		show "$T/err"
	}
}

UP='SARDINE-GUEST: userland'
boot bt 128M sardine.poweroff
good "userland and power-off" 0 "$UP"
boot bt 128M "nokaslr sardine.poweroff"
good "without KASLR" 0 "$UP"
boot bt 4G sardine.poweroff
good "4 GiB of memory" 0 "$UP"
# What this kernel takes for its event tracing alone is more than is left.
boot bt 64M "initcall_blacklist=tracer_init_tracefs sardine.poweroff"
good "64 MiB of memory" 0 "$UP"
boot bt 128M sardine.reboot
good "a reset under --no-reboot" 3 "$UP"
boot bt 128M "sardine.exit sardine.run=exit 5" --debug-exit
good "the debug exit" 11 "$UP"
boot bt 128M "quiet sardine.run=selftest"
good "selftest" 0 'selftest: [0-9]+ passed, 0 failed'
ok "every test of it passed" test -z "$(grep -a ^FAIL "$T/out")" ||
	grep -a ^FAIL "$T/out" | show
"$GUEST/unpack_kernel" "$K" "$T/vmlinux"
K=$T/vmlinux boot bt 128M sardine.poweroff
good "ELF vmlinux by its PVH entry" 0 "$UP"

# A shell at the console, as a person would use it.
mkfifo "$T/in"
bg "$SARDINE" run --engine bt --mem 128M --kernel "$K" --initrd "$I" \
	--append "console=ttyS0 sardine.seed=7" <"$T/in" >"$T/shell" 2>"$T/err"
exec 9>"$T/in"
ok "a guest left alone does its work" \
	until_true 120 has "$T/shell" 'SARDINE-GUEST: work done seed=7 .* good'
ok "and comes to a shell prompt" until_true 30 has "$T/shell" '# '
echo 'echo six times seven is $((6 * 7)); uname -r' >&9
ok "that runs commands" until_true 30 \
	has "$T/shell" 'six times seven is 42'
echo 'cat /proc/interrupts; poweroff -f' >&9
ok "and powers off" until_true 60 dead "$pid"
wait "$pid"
ok "with status 0" is $? 0
exec 9>&-

LIMIT=400 boot interp 128M sardine.poweroff
good "the interpreter boots it too" 0 "$UP"
finish
