#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much CPU time (user and system, of the whole process) does the stock guest
# take from power-on through userland to power-off: Sardine against QEMU TCG?
#
#   bench_boot.sh [-n RUNS] [-m MIB] [-e ENGINE] [-a APPEND] [-k] [-s] [-j FILE]
#
# RUNS (5) of each, in turn (S Q S Q ...), after one uncounted run of each. -k:
# nokaslr (KASLR is on otherwise). -s: Sardine alone. -a: more command line. -j:
# the figures as JSON too. The ratio is that of the medians. Status 0: every run
# reached userland and powered off, and Sardine's median is no larger than
# QEMU's; 1 otherwise.
. "$(dirname "$0")/lib.sh"
runs=5 mem=128 engine=bt append="console=ttyS0 sardine.poweroff" json='' solo=''
while getopts n:m:e:a:ksj: o; do
	case $o in
	n) runs=$OPTARG ;;
	m) mem=$OPTARG ;;
	e) engine=$OPTARG ;;
	a) append="$append $OPTARG" ;;
	k) append="$append nokaslr" ;;
	s) solo=1 ;;
	j) json=$OPTARG ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
command -v qemu-system-x86_64 >/dev/null || solo=1
limit=${LIMIT:-120} failed=0

# one WHO FILE: one run, its CPU time into FILE.
one()
{
	case $1 in
	sardine) sardine_cmd "$engine" "$mem" "$append" ;;
	qemu) qemu_cmd "$mem" "$append" ;;
	esac
	timed "$limit" "${cmd[@]}"
	if [ "$status" != 0 ] ||
		! grep -q 'SARDINE-GUEST: userland' "$work/out" ||
		! grep -q 'Power down' "$work/out"; then
		echo "FAIL $1: status $status:" \
			"$(cat "$work/err" "$work/out" | tail -n 1)"
		failed=$((failed + 1))
		return
	fi
	echo "$1 cpu=$cpu wall=$wall"
	echo "$cpu" >>"$2"
}

who=(sardine)
[ -n "$solo" ] || who+=(qemu)
echo "boot: $KERNEL, $mem MiB, engine $engine, \"$append\", $runs runs"
for w in "${who[@]}"; do
	one "$w" "$work/warm.$w" >/dev/null
done
for _ in $(seq "$runs"); do
	for w in "${who[@]}"; do
		one "$w" "$work/cpu.$w"
	done
done
for w in "${who[@]}"; do
	[ -s "$work/cpu.$w" ] || { echo "boot: no good run of $w"; exit 1; }
	printf '%-8s median %6.2f s  (%.2f .. %.2f)\n' "$w" \
		"$(median <"$work/cpu.$w")" "$(least <"$work/cpu.$w")" \
		"$(most <"$work/cpu.$w")"
done
s=$(median <"$work/cpu.sardine") q=null ratio=null ok=1
if [ -z "$solo" ]; then
	q=$(median <"$work/cpu.qemu")
	ratio=$(awk -v s="$s" -v q="$q" 'BEGIN {printf "%.3f", s / q}')
	ok=$(awk -v r="$ratio" 'BEGIN {print r <= 1}')
	echo "ratio    sardine/qemu = $ratio (bar: 1.0)" \
		"$([ "$ok" = 1 ] && echo met || echo MISSED)"
fi
[ "$failed" = 0 ] || echo "boot: $failed runs failed"
[ -z "$json" ] || printf '{"bench":"boot","mem_mib":%s,"engine":"%s","append":"%s","runs":%s,"failed":%s,"sardine_cpu_s":%s,"qemu_cpu_s":%s,"ratio":%s}\n' \
	"$mem" "$engine" "$append" "$runs" "$failed" "$s" "$q" "$ratio" \
	>"$json"
[ "$failed" = 0 ] && [ "$ok" = 1 ]
