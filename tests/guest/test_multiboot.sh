#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A Multiboot image that checks its loader from inside (tests/guest/mb), under
# each engine, and under QEMU's loader, which shows that the image is right.
. "$(dirname "$0")/../run/lib.sh"
IMAGE=$GUEST/mb.elf
head -c 100000 /dev/zero | tr '\0' 'm' >"$T/module"

good()
{
	ok "$1: every check inside passes" is $rc 1 || show "$T/out" "$T/err"
	ok "$1: the command line, after the program's name" \
		grep -qE '^cmdline [^ ]*mb.elf one two=3$' "$T/out"
	ok "$1: the module, whole" \
		grep -qE "^module [^ ]*module 000186a0${2:-}" "$T/out"
}

if command -v qemu-system-x86_64 >/dev/null; then
	run_for 20 qemu-system-x86_64 -accel tcg -m 64 -display none \
		-serial stdio -monitor none -nodefaults \
		-device isa-debug-exit,iobase=0xf4,iosize=4 \
		-kernel "$IMAGE" -initrd "$T/module" -append 'one two=3'
	good qemu
	sum=$(sed -n 's/^module .* 000186a0//p' "$T/out")
fi
for engine in interp bt; do
	for mem in 4M 64M 5G; do
		run_for 20 "$SARDINE" run --engine $engine --mem $mem \
			--debug-exit --no-reboot --kernel "$IMAGE" \
			--initrd "$T/module" --append 'one two=3'
		good "$engine $mem" "${sum:-}"
		# The map tells all of it, but for the hole under 1 MiB.
		want=$(printf '%016x' $(($(numfmt --from=iec $mem) - 0x60400)))
		ok "$engine $mem: RAM in the map" has "$T/out" "^ram $want"
	done
done
finish
