# SPDX-License-Identifier: Apache-2.0
# The programs of the bench and how to run each; sourced by bash after lib.sh.
#
# A program prints a line for each figure (tests/guest/image/guest.h says how).
# $RECORDS collects one line a figure and run:
#	ROUND WHO FIGURE SECONDS BUSY RESULT
# where BUSY is CPU time over wall time of the whole process: much below 1, and
# something else had the CPU meanwhile.
NATIVE=${NATIVE:-tests/guest/user/native.sh}
USER_ROOT=${USER_ROOT:-$BUILD/guest-user/root}
USER_INITRD=${USER_INITRD:-$BUILD/guest-user/initrd.img}
STATIC=${STATIC:-$BUILD/guest/guest}
RECORDS=$work/records
engine=${engine:-bt}

five="primes fib getppid forkwait memsweep"
micro="$five chase tlbread4k tlbread2m faults pipe signals syscalls execloop"
real="sqlite xz zstd openssl gcc python redis"

# Issue 3: seconds against native, at most; "-" where it only says to measure.
# A member of the real set may be twice the floor of the set's mean.
real_floor=1.5 real_target=1.15
declare -A floor=([primes]=1.10 [fib]=1.8 [getppid]=1.3 [forkwait]=3
	[memsweep]=1.15 [chase-16k]=2 [chase-256k]=1.1 [chase-4m]=1.1
	[chase-64m]=1.1 [tlbread2m-ind]=1.05 [tlbread2m-dep]=1.05 [faults]=3
	[execloop]=3)
declare -A target=([primes]=1.03 [fib]=1.2 [getppid]=0.5 [forkwait]=2
	[memsweep]=1.05 [faults]=1.5 [execloop]=2)
for p in $real; do
	floor[$p]=$(awk -v f=$real_floor 'BEGIN {print 2 * f}')
	target[$p]=$real_target
done

# The programs that -p names, groups spelled out.
programs_of() # LIST
{
	local p
	for p in ${1//,/ }; do
		case $p in
		five) echo "$five" ;;
		micro) echo "$micro" ;;
		real) echo "$real" ;;
		all) echo "$micro $real" ;;
		*) echo "$p" ;;
		esac
	done | tr '\n' ' '
}

needs_user() # PROGRAM
{
	case " $real execloop " in *" $1 "*) ;; *) return 1 ;; esac
}

memory_of() # PROGRAM: MiB
{
	case $1 in
	tlbread*) echo 1024 ;;
	*) if needs_user "$1"; then echo 1024; else echo 256; fi ;;
	esac
}

# command_of WHO PROGRAM: sets cmd. WHO is native, no512 (natively, without
# AVX-512), qemu, or anything else with a Sardine in
# sardine_of[WHO].
declare -A sardine_of=([sardine]=$SARDINE)
no512=GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ
# Leaf 7: F DQ IFMA PF ER CD BW VL, VBMI VBMI2 VNNI BITALG VPOPCNTDQ.
no512="$no512 OPENSSL_ia32cap=:~0x5842dc230000"
command_of()
{
	local INITRD=$INITRD append="console=ttyS0 quiet sardine.bench=$2"
	needs_user "$2" && INITRD=$USER_INITRD
	case $1 in
	native | no512)
		if needs_user "$2"; then
			cmd=("$NATIVE" "$USER_ROOT" "$2")
		else
			cmd=("$STATIC" "$2")
		fi
		# shellcheck disable=SC2206 # two words
		[ "$1" = native ] || cmd=(env BENCH_ENV="$no512" $no512 "${cmd[@]}")
		;;
	qemu) qemu_cmd "$(memory_of "$2")" "$append" ;;
	*) SARDINE=${sardine_of[$1]} \
		sardine_cmd "$engine" "$(memory_of "$2")" "$append" ;;
	esac
}

# A run with less of a CPU than this is disturbed.
BUSY=${BUSY:-0.85}

# measure ROUND WHO PROGRAM: one run into $RECORDS; a run that shared its CPU
# is repeated, twice at most, and the least disturbed one counts.
measure()
{
	local best=0 busy try
	command_of "$2" "$3"
	for try in 1 2 3; do
		timed "$limit" "${cmd[@]}"
		busy=$(awk -v c="$cpu" -v w="$wall" \
			'BEGIN {printf "%.2f", w ? c / w : 0}')
		if awk -v a="$busy" -v b="$best" 'BEGIN {exit !(a > b)}'; then
			best=$busy
			tr -d '\r' <"$work/out" >"$work/best"
			echo "$status" >"$work/best.status"
		fi
		[ "$status" = 0 ] || break
		at_most "$BUSY" "$busy" && break
	done
	status=$(cat "$work/best.status")
	if [ "$status" != 0 ] || ! grep -qa "seconds=" "$work/best"; then
		echo "FAIL $2 $3 (round $1): status $status:" \
			"$(tail -n 1 "$work/err") $(tail -n 1 "$work/best")" >&2
		echo "$1 $2 $3 nan 0 none" >>"$RECORDS"
		return
	fi
	# ROUND WHO FIGURE SECONDS BUSY RESULT, one for each line of it.
	sed -n 's/^\([a-z0-9-]*\) \(.*\)seconds=\([0-9.]*\).*/\1 \3 \2/p' \
		"$work/best" | awk -v r="$1" -v w="$2" -v b="$best" '{
			what = $3
			for (i = 4; i <= NF; i++) what = what "," $i
			print r, w, $1, $2, b, what }' >>"$RECORDS"
}

# clock_check WHO: does its clock run as the host's does? Prints guest seconds
# over host seconds.
clock_check()
{
	local line b='' e='' s=''
	command_of "$1" clock
	while IFS= read -r line; do
		case $line in
		*'clock begin'*) b=$EPOCHREALTIME ;;
		*'clock end'*) e=$EPOCHREALTIME s=${line##*seconds=} ;;
		esac
	done < <(timeout -k 5 "$limit" "${cmd[@]}" </dev/null 2>/dev/null)
	awk -v b="$b" -v e="$e" -v s="${s%%[!0-9.]*}" 'BEGIN {
		if (e - b > 0) printf "%.3f\n", s / (e - b)
		else print "nan" }'
}

# ratios FIGURE WHO BASE: one for each round in which both have seconds.
ratios()
{
	awk -v f="$1" -v w="$2" -v n="$3" '
		$3 != f || $4 == "nan" { next }
		$2 == w { a[$1] = $4 }
		$2 == n { b[$1] = $4 }
		END { for (r in a) if (r in b && b[r] > 0)
			printf "%.3f\n", a[r] / b[r] }' "$RECORDS"
}
ratio() { ratios "$@" | median; }
seconds() # FIGURE WHO
{
	awk -v f="$1" -v w="$2" '$3 == f && $2 == w && $4 != "nan" {print $4}' \
		"$RECORDS" | median
}
# The least and the largest ratio, as words.
spread() { ratios "$@" | sort -n | sed -n '1p;$p' | xargs; }
figures() { awk '!seen[$3]++ {print $3}' "$RECORDS"; }
failures() # FIGURE WHO: rounds without a figure
{
	awk -v f="$1" -v w="$2" '$3 == f && $2 == w && $4 == "nan" {n++}
		END {print n + 0}' "$RECORDS"
}
# Did everyone get the same answer each time?
agreed() # FIGURE
{
	[ "$(awk -v f="$1" '$3 == f && $4 != "nan" {print $6}' "$RECORDS" |
		sort -u | wc -l)" -le 1 ]
}
geomean()
{
	awk '$1 == "nan" {bad = 1} {s += log($1); n++}
		END { if (bad || !n) print "nan"
			else printf "%.3f\n", exp(s / n) }'
}
at_most() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a != "nan" && a <= b)}'; }
