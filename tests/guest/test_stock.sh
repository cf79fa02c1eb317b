#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# Debian's own kernel and userland, in the less common ways (the common ones
# are tests/run/test_linux.sh): as little memory as it can do with, by its PVH
# entry, a selftest of CPU and kernel inside, the debug exit. Under bt; the
# interpreter, some twenty times slower, boots it once.
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
# What this kernel takes for its event tracing alone is more than is left.
boot bt 64M "initcall_blacklist=tracer_init_tracefs sardine.poweroff"
good "64 MiB of memory" 0 "$UP"
boot bt 128M "sardine.exit sardine.run=exit 5" --debug-exit
good "the debug exit" 11 "$UP"
boot bt 128M "quiet sardine.run=selftest"
good "selftest" 0 'selftest: [0-9]+ passed, 0 failed'
ok "every test of it passed" test -z "$(grep -a ^FAIL "$T/out")" ||
	grep -a ^FAIL "$T/out" | show
"$GUEST/unpack_kernel" "$K" "$T/vmlinux"
K=$T/vmlinux boot bt 128M sardine.poweroff
good "ELF vmlinux by its PVH entry" 0 "$UP"

LIMIT=400 boot interp 128M sardine.poweroff
good "the interpreter boots it too" 0 "$UP"
finish
