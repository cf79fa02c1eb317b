#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How fast do programs run in a Sardine guest, against native and QEMU TCG?
# The same binaries everywhere (bench/programs.sh); each prints its own seconds.
#
#   bench_programs.sh [-n RUNS] [-q QRUNS] [-e ENGINE] [-p LIST] [-s] [-A]
#		      [-c] [-j FILE]
#
# RUNS (3) rounds; in each, for each program, natively, under Sardine and (in
# the first QRUNS (RUNS) rounds) under QEMU, one right after the other, a guest
# booted for each. -p: a list of programs and groups: five, micro, real, all
# (all). -s: without QEMU. -A: natively without AVX-512, too. -c: do not check
# the guests' clocks. LIMIT (180) seconds for a run.
#
# Seconds are medians; a ratio is the median of the rounds' ratios, which holds
# when the machine's speed drifts; low and high are the least and largest of
# them. Native is the whole CPU; where it has AVX-512, -A tells what that is
# worth.
#
# Status 0: every result is the native one, each program is within its floor
# against native and faster than under QEMU, and guests' clocks keep time; 1
# otherwise.
. "$(dirname "$0")/lib.sh"
QEMU_CPU=max
runs=3 qruns='' list=all json='' who=(native sardine)
command -v qemu-system-x86_64 >/dev/null && with_qemu=1 || with_qemu=
clock=
while getopts n:q:e:p:sAcj: o; do
	case $o in
	n) runs=$OPTARG ;;
	q) qruns=$OPTARG ;;
	e) engine=$OPTARG ;;
	p) list=$OPTARG ;;
	s) with_qemu= ;;
	A) who+=(no512) ;;
	c) clock=none ;;
	j) json=$OPTARG ;;
	*) exit 2 ;;
	esac
done
. "$(dirname "$0")/programs.sh"
[ -n "$qruns" ] || qruns=$runs
[ "$qruns" != 0 ] || with_qemu=
[ -z "$with_qemu" ] || who+=(qemu)
limit=${LIMIT:-180} bad=0
read -ra progs <<<"$(programs_of "$list")"
need "$SARDINE" "$KERNEL" "$INITRD" "$STATIC"
for p in "${progs[@]}"; do
	needs_user "$p" && need "$USER_INITRD" "$USER_ROOT"
done
: >"$RECORDS"

for w in "${who[@]}"; do
	case $w$clock in native | no512 | *none) continue ;; esac
	for _ in 1 2 3; do # lines may be read late
		c=$(clock_check "$w")
		at_most "$c" 1.02 && at_most 0.98 "$c" && break
	done
	if at_most "$c" 1.02 && at_most 0.98 "$c"; then
		echo "clock: $w: $c of the host's"
	else
		echo "clock: $w: $c of the host's: seconds are not to be trusted"
		bad=1
	fi
done
for i in $(seq "$runs"); do
	for p in "${progs[@]}"; do
		for w in "${who[@]}"; do
			[ "$w" != qemu ] || [ "$i" -le "$qruns" ] || continue
			measure "$i" "$w" "$p"
		done
	done
done

# verdict FIGURE SARDINE/NATIVE QEMU/NATIVE
verdict()
{
	local f=${floor[$1]:-}
	if ! agreed "$1"; then
		echo "WRONG RESULT"
	elif [ "$2" = nan ] || [ "$(failures "$1" sardine)" != 0 ]; then
		echo "FAILED"
	elif [ "$3" != nan ] && ! at_most "$2" "$3"; then
		echo "SLOWER than qemu"
	elif [ -n "$f" ] && ! at_most "$2" "$f"; then
		echo "MISSED the floor"
	elif [ -n "${target[$1]:-}" ] && at_most "$2" "${target[$1]}"; then
		echo "target met"
	else
		echo ok
	fi
}

echo "programs: engine $engine, $runs rounds, $qruns with QEMU, seconds"
printf '%-14s %8s %8s %8s  %8s %6s %6s %6s %6s  %8s  %s\n' program native \
	sardine qemu /native low high floor target qemu/nat verdict
out=
for f in $(figures); do
	rs=$(ratio "$f" sardine native) rq=$(ratio "$f" qemu native)
	read -r low high <<<"$(spread "$f" sardine native)"
	n=$(seconds "$f" native) s=$(seconds "$f" sardine)
	q=$(seconds "$f" qemu)
	v=$(verdict "$f" "$rs" "$rq")
	case $v in ok | target*) ;; *) bad=1 ;; esac
	printf '%-14s %8s %8s %8s  %8s %6s %6s %6s %6s  %8s  %s\n' "$f" "$n" \
		"$s" "$q" "$rs" "${low:-nan}" "${high:-nan}" \
		"${floor[$f]:--}" "${target[$f]:--}" "$rq" "$v"
	out="$out${out:+,}{\"program\":\"$f\",\"native_s\":$n,\"sardine_s\":$s,\"qemu_s\":$q,\"ratio\":$rs,\"low\":${low:-nan},\"high\":${high:-nan},\"qemu_ratio\":$rq,\"floor\":${floor[$f]:-null},\"target\":${target[$f]:-null},\"verdict\":\"$v\"}"
done

# The mean of the whole set, when the whole set was run.
mean=nan qmean=nan
case " ${progs[*]} " in
*" $real "*)
	mean=$(for p in $real; do ratio "$p" sardine native; done | geomean)
	qmean=$(for p in $real; do ratio "$p" qemu native; done | geomean)
	v="MISSED the floor"
	at_most "$mean" $real_floor && v=ok || bad=1
	at_most "$mean" $real_target && v="target met"
	printf '%-41s  %8s %6s %6s %6s %6s  %8s  %s\n' \
		"real-program set, geometric mean" "$mean" '' '' $real_floor \
		$real_target "$qmean" "$v" ;;
esac
case " ${who[*]} " in
*" no512 "*)
	echo "natively without AVX-512, against native:"
	for f in $(figures); do
		printf '%-14s %8s\n' "$f" "$(ratio "$f" no512 native)"
	done
	grep -qw avx512f /proc/cpuinfo ||
		echo "(this CPU has no AVX-512: only noise)" ;;
esac
awk -v b="$BUSY" '$5 < b && $5 > 0 {n++} END { if (n)
	printf "%d of %d figures come from disturbed runs\n", n, NR }' "$RECORDS"
[ -z "$json" ] || printf '{"bench":"programs","engine":"%s","runs":%s,"qemu_runs":%s,"real_geomean":%s,"qemu_real_geomean":%s,"programs":[%s]}\n' \
	"$engine" "$runs" "$qruns" "${mean//nan/null}" "${qmean//nan/null}" \
	"${out//nan/null}" >"$json"
[ -z "${KEEP_RECORDS:-}" ] || cp "$RECORDS" "$KEEP_RECORDS"
exit $bad
