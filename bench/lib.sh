# SPDX-License-Identifier: Apache-2.0
# What the benches share; sourced by bash.
#
# The baseline is QEMU's translator in the fastest configuration that boots and
# powers off the stock guest: the pc machine without any default device, and
# TCG's default CPU model qemu64 (-cpu max makes the kernel do more: about 15%
# slower to userland). microvm is no option: its guest finds no power-off and
# times out. One vCPU, as here. QEMU_ARGS adds to it, QEMU_CPU changes the CPU.
set -u
BUILD=${BUILD:-build}
SARDINE=${SARDINE:-$BUILD/sardine}
KERNEL=${KERNEL:-$BUILD/guest/vmlinuz}
INITRD=${INITRD:-$BUILD/guest/initrd.img}
QEMU_CPU=${QEMU_CPU:-qemu64}
read -ra QEMU_EXTRA <<<"${QEMU_ARGS:-}"
TIMEFORMAT='%U %S %R'

die() { echo "$0: $*" >&2; exit 2; }
need() { for f; do [ -e "$f" ] || die "no $f: make it with make all guest"; done; }

work=$(mktemp -d "${TMPDIR:-/tmp}/sardine-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

# timed LIMIT CMD...: runs it, console to $work/out; sets cpu (user + sys, in
# seconds, of the whole process), wall and status.
timed()
{
	local limit=$1 t
	shift
	t=$({ time timeout -k 5 "$limit" "$@" </dev/null \
		>"$work/out" 2>"$work/err"; echo $? >"$work/status"; } 2>&1)
	status=$(cat "$work/status")
	read -r cpu wall < <(tail -n 1 <<<"$t" | awk '{print $1 + $2, $3}')
}

sardine_cmd() # ENGINE MEM APPEND
{
	cmd=("$SARDINE" run --engine "$1" --mem "$2M" --no-reboot
		--kernel "$KERNEL" --initrd "$INITRD" --append "$3")
}

qemu_cmd() # MEM APPEND
{
	cmd=(qemu-system-x86_64 -accel tcg -cpu "$QEMU_CPU" -nodefaults
		-display none -serial stdio -no-reboot -m "$1"
		"${QEMU_EXTRA[@]}"
		-kernel "$KERNEL" -initrd "$INITRD" -append "$2")
}

# Numbers on standard input, one a line.
median()
{
	sort -n | awk '{v[NR] = $1} END {
		if (!NR) print "nan"
		else if (NR % 2) print v[(NR + 1) / 2]
		else print (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
least() { sort -n | head -1; }
most() { sort -n | tail -n 1; }
