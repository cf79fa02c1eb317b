#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a bound of the translation cache costs: the stock guest boots and runs a
# small build-like job under each size, RUNS (3) times, in turn.
#
#   bench_tc.sh [-n RUNS] [-b BASE-SARDINE] [SIZE...]
#
# Prints the medians: units translated, regions evicted, CPU seconds. -b: the
# same with another sardine beside it (one that flushes everything, say).
. "$(dirname "$0")/lib.sh"
runs=3 base=''
while getopts n:b: o; do
	case $o in
	n) runs=$OPTARG ;;
	b) base=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
sizes=("$@")
[ ${#sizes[@]} -gt 0 ] || sizes=(256K 512K 1M 2M 4M 32M)
need "$SARDINE" "$KERNEL" "$INITRD"
job='console=ttyS0 nokaslr sardine.run=for i in 1 2 3 4 5 6; do sh -c "ls -lR /proc/1 /bin; echo $i; cat /proc/meminfo | sort | md5sum" >/dev/null 2>&1; done'

one() # SARDINE SIZE NAME
{
	local SARDINE=$1

	sardine_cmd bt 128 "$job"
	timed "${LIMIT:-120}" "${cmd[@]}" --tc-size "$2" --stats "$work/s.json"
	[ "$status" = 0 ] || { echo "FAIL $3 $2: status $status"; return; }
	jq -r '.bt | "\(.translations) \(.tc_evictions // 0) \(.tc_flushes)"' \
		"$work/s.json" | sed "s/\$/ $cpu/" >>"$work/$3.$2"
}
column() { awk -v c="$1" '{print $c}' "$2" | median; }

for _ in $(seq "$runs"); do
	for s in "${sizes[@]}"; do
		one "$SARDINE" "$s" new
		[ -z "$base" ] || one "$base" "$s" base
	done
done
printf '%-6s %-6s %9s %9s %9s %7s\n' size who units evictions flushes 'CPU s'
for s in "${sizes[@]}"; do
	for w in new ${base:+base}; do
		f=$work/$w.$s
		[ -s "$f" ] || continue
		printf '%-6s %-6s %9.0f %9.0f %9.0f %7.2f\n' "$s" "$w" \
			"$(column 1 "$f")" "$(column 2 "$f")" \
			"$(column 3 "$f")" "$(column 4 "$f")"
	done
done
