#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The five programs of the field: native, in a Sardine guest, in a QEMU TCG
# guest. The same static binary everywhere; each prints its own seconds.
#
#   bench_programs.sh [-n RUNS] [-m MIB] [-e ENGINE] [-p LIST] [-s] [-j FILE]
#
# RUNS (3) rounds; in each, for each program (-p primes,fib: only these): native,
# Sardine, QEMU, one right after the other, a guest booted for each. -s: without
# QEMU. Seconds are medians; a ratio is the median of the rounds' ratios, which
# holds when the machine's speed drifts. Status 0: every result is the native
# one, each program is within its floor against native and faster than under
# QEMU; 1 otherwise.
. "$(dirname "$0")/lib.sh"
declare -A floor=([primes]=1.2 [fib]=2.5 [getppid]=3 [forkwait]=4.5
	[memsweep]=1.3)
runs=3 mem=128 engine=bt list=primes,fib,getppid,forkwait,memsweep json='' solo=''
while getopts n:m:e:p:sj: o; do
	case $o in
	n) runs=$OPTARG ;;
	m) mem=$OPTARG ;;
	e) engine=$OPTARG ;;
	p) list=$OPTARG ;;
	s) solo=1 ;;
	j) json=$OPTARG ;;
	*) exit 2 ;;
	esac
done
guest=$BUILD/guest/guest
need "$SARDINE" "$KERNEL" "$INITRD" "$guest"
command -v qemu-system-x86_64 >/dev/null || solo=1
append="console=ttyS0 quiet sardine.bench="
limit=${LIMIT:-300} bad=0
IFS=, read -ra progs <<<"$list"
who=(native sardine)
[ -n "$solo" ] || who+=(qemu)

# The output of program $2 under $1.
run()
{
	case $1 in
	native) cmd=("$guest" "$2") ;;
	sardine) sardine_cmd "$engine" "$mem" "$append$2" ;;
	qemu) qemu_cmd "$mem" "$append$2" ;;
	esac
	timed "$limit" "${cmd[@]}"
	[ "$status" = 0 ] ||
		echo "$1: status $status: $(tail -n 1 "$work/err")" >&2
	tr -d '\r' <"$work/out"
}

for i in $(seq "$runs"); do
	for p in "${progs[@]}"; do
		for w in "${who[@]}"; do
			run "$w" "$p" >"$work/log"
			if grep -a "^$p .*seconds=" "$work/log" >"$work/line"
			then
				sed 's/ seconds=.*//' "$work/line" \
					>>"$work/res.$w.$p"
				sed 's/.*seconds=//' "$work/line"
			else
				echo "FAIL $w $p: no result in round $i" >&2
				bad=1
				echo nan
			fi >>"$work/sec.$w.$p"
		done
	done
done

# ratio WHO PROGRAM: median of the rounds' ratios against native.
ratio()
{
	[ -s "$work/sec.$1.$2" ] || { echo nan; return; }
	paste "$work/sec.$1.$2" "$work/sec.native.$2" |
		awk '$1 != "nan" && $2 != "nan" {printf "%.3f\n", $1 / $2}' |
		median
}
seconds() { grep -v nan "$work/sec.$1.$2" 2>/dev/null | median; }

printf '%-9s %8s %8s %8s   %s\n' program native sardine qemu \
	'sardine/native (floor)  qemu/native  verdict'
out=
for p in "${progs[@]}"; do
	declare -A m=([native]=nan [sardine]=nan [qemu]=nan)
	verdict=ok
	for w in "${who[@]}"; do
		m[$w]=$(seconds "$w" "$p")
		[ "${m[$w]}" != nan ] || { verdict="no figure"; continue; }
		[ "$(cat "$work/res.$w.$p" "$work/res.native.$p" | sort -u |
			wc -l)" = 1 ] || verdict="WRONG RESULT in $w"
	done
	rs=$(ratio sardine "$p") rq=$(ratio qemu "$p")
	read -r slow beaten < <(awk -v s="$rs" -v q="$rq" -v f="${floor[$p]:-0}" \
		'BEGIN { print (s == "nan" || (f && s > f)) + 0,
			(q != "nan" && s >= q) + 0 }')
	[ "$verdict" != ok ] || [ "$slow" = 0 ] || verdict="MISSED the floor"
	[ "$verdict" != ok ] || [ "$beaten" = 0 ] || verdict="SLOWER than qemu"
	[ "$verdict" = ok ] || bad=1
	printf '%-9s %8s %8s %8s   %5s (%s)  %5s  %s\n' "$p" "${m[native]}" \
		"${m[sardine]}" "${m[qemu]}" "$rs" "${floor[$p]:--}" "$rq" \
		"$verdict"
	out="$out${out:+,}{\"program\":\"$p\",\"native_s\":${m[native]},\"sardine_s\":${m[sardine]},\"qemu_s\":${m[qemu]},\"ratio\":$rs,\"floor\":${floor[$p]:-0},\"ok\":$([ "$verdict" = ok ] && echo true || echo false)}"
done
[ -z "$json" ] || printf '{"bench":"programs","mem_mib":%s,"engine":"%s","runs":%s,"programs":[%s]}\n' \
	"$mem" "$engine" "$runs" "${out//nan/null}" >"$json"
exit $bad
