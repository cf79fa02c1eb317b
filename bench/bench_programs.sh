#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The five programs of the field: native, in a Sardine guest, in a QEMU TCG
# guest. The same static binary everywhere; each prints its own seconds.
#
#   bench_programs.sh [-n RUNS] [-m MIB] [-e ENGINE] [-p LIST] [-s] [-j FILE]
#
# RUNS (3) rounds; in each, native, Sardine and QEMU in turn, a guest running
# all programs (-p primes,fib: only these). -s: without QEMU. Figures are
# medians. Status 0: every result is the native one, each program is within its
# floor against native and faster than under QEMU; 1 otherwise.
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
append="console=ttyS0 quiet sardine.bench=$list"
limit=${LIMIT:-300} bad=0
IFS=, read -ra progs <<<"$list"
who=(native sardine)
[ -n "$solo" ] || who+=(qemu)

# Lines "NAME PARAMETERS result=R seconds=S" of one whole run of WHO.
run()
{
	case $1 in
	native)
		for p in "${progs[@]}"; do
			timed "$limit" "$guest" "$p"
			cat "$work/out"
		done ;;
	sardine | qemu)
		if [ "$1" = sardine ]; then
			sardine_cmd "$engine" "$mem" "$append"
		else
			qemu_cmd "$mem" "$append"
		fi
		timed "$limit" "${cmd[@]}"
		[ "$status" = 0 ] ||
			echo "$1: status $status: $(tail -n 1 "$work/err")" >&2
		tr -d '\r' <"$work/out" ;;
	esac
}

for i in $(seq "$runs"); do
	for w in "${who[@]}"; do
		run "$w" >"$work/log"
		for p in "${progs[@]}"; do
			grep -a "^$p .*seconds=" "$work/log" >"$work/line" || {
				echo "FAIL $w $p: no result in round $i"
				bad=1
				continue
			}
			sed 's/ seconds=.*//' "$work/line" >>"$work/res.$w.$p"
			sed 's/.*seconds=//' "$work/line" >>"$work/sec.$w.$p"
		done
	done
done

printf '%-9s %8s %8s %8s   %s\n' program native sardine qemu \
	'sardine/native (floor)  qemu/native  verdict'
out=
for p in "${progs[@]}"; do
	declare -A m=([native]=nan [sardine]=nan [qemu]=nan)
	verdict=ok
	for w in "${who[@]}"; do
		[ -s "$work/sec.$w.$p" ] || { verdict="no figure"; continue; }
		m[$w]=$(median <"$work/sec.$w.$p")
		[ "$(cat "$work/res.$w.$p" "$work/res.native.$p" | sort -u |
			wc -l)" = 1 ] || verdict="WRONG RESULT in $w"
	done
	read -r rs rq slow beaten < <(awk -v n="${m[native]}" \
		-v s="${m[sardine]}" -v q="${m[qemu]}" -v f="${floor[$p]:-0}" '
		BEGIN { if (n == "nan" || s == "nan") print "nan nan 1 0"
		else printf "%.2f %s %d %d\n", s / n,
			(q == "nan" ? "nan" : sprintf("%.2f", q / n)),
			(f && s / n > f), (q != "nan" && s >= q) }')
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
