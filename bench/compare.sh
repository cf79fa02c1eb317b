#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Is this tree faster than another revision of it? The base is built from a
# scratch worktree under $BUILD/base; then both run the same programs in turn.
#
#   compare.sh [-n RUNS] [-e ENGINE] [-p LIST] [-t TOLERANCE] [-j FILE] REV
#
# RUNS (5) rounds; in each, for each program (-p: as for bench_programs.sh;
# micro), the base and this tree, one right after the other, first the one, then
# the other by turns. Printed: median seconds of both and the median, least and
# largest of the rounds' ratios, this over base. Status 1 when a result differs,
# a run fails, or a median ratio is above 1 + TOLERANCE (0.05) while every ratio
# is above 1 (else it may be noise); 0 otherwise.
. "$(dirname "$0")/lib.sh"
runs=5 list=micro json='' tolerance=0.05
while getopts n:e:p:t:j: o; do
	case $o in
	n) runs=$OPTARG ;;
	e) engine=$OPTARG ;;
	p) list=$OPTARG ;;
	t) tolerance=$OPTARG ;;
	j) json=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 1 ] || die "which revision? compare.sh [options] REV"
. "$(dirname "$0")/programs.sh"
limit=${LIMIT:-180} bad=0
read -ra progs <<<"$(programs_of "$list")"
need "$SARDINE" "$KERNEL" "$INITRD" "$STATIC"
for p in "${progs[@]}"; do
	needs_user "$p" && need "$USER_INITRD" "$USER_ROOT"
done

rev=$(git rev-parse --verify -q "$1^{commit}") || die "no revision $1"
tree=$(realpath -m "$BUILD/base/$rev")
if [ ! -x "$tree/build/sardine" ]; then
	mkdir -p "${tree%/*}"
	git worktree prune # of those that were deleted by hand
	[ -d "$tree" ] || git worktree add -q --detach "$tree" "$rev" ||
		die "cannot check out $rev"
	make -C "$tree" BUILD=build -j"$(nproc)" all >"$work/build" 2>&1 ||
		{ tail -n 20 "$work/build" >&2; die "$1 does not build"; }
fi
sardine_of[base]=$tree/build/sardine sardine_of[this]=$SARDINE
: >"$RECORDS"

for i in $(seq "$runs"); do
	who=(base this)
	[ $((i % 2)) = 1 ] || who=(this base)
	for p in "${progs[@]}"; do
		for w in "${who[@]}"; do
			measure "$i" "$w" "$p"
		done
	done
done

echo "compare: this tree against $1 ($rev), engine $engine, $runs rounds"
printf '%-14s %8s %8s %10s %6s %6s  %s\n' program base this this/base low \
	high verdict
out=
for f in $(figures); do
	r=$(ratio "$f" this base)
	read -r low high <<<"$(spread "$f" this base)"
	v=ok
	if ! agreed "$f"; then
		v="WRONG RESULT"
	elif [ "$(failures "$f" this)" != 0 ]; then
		v=FAILED
	elif ! at_most "$r" "$(awk -v t="$tolerance" 'BEGIN {print 1 + t}')" &&
		! at_most "$low" 1; then
		v=SLOWER
	elif [ "$high" != nan ] && ! at_most 1 "$high"; then
		v=faster
	fi
	case $v in ok | faster) ;; *) bad=1 ;; esac
	b=$(seconds "$f" base) t=$(seconds "$f" this)
	printf '%-14s %8s %8s %10s %6s %6s  %s\n' "$f" "$b" "$t" "$r" \
		"${low:-nan}" "${high:-nan}" "$v"
	out="$out${out:+,}{\"program\":\"$f\",\"base_s\":$b,\"this_s\":$t,\"ratio\":$r,\"low\":${low:-nan},\"high\":${high:-nan},\"verdict\":\"$v\"}"
done
[ -z "$json" ] || printf '{"bench":"compare","base":"%s","engine":"%s","runs":%s,"programs":[%s]}\n' \
	"$rev" "$engine" "$runs" "${out//nan/null}" >"$json"
exit $bad
