#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run-tests.sh PROGRAM...: run test programs one after the other and end with
# the line `N passed, N failed`; the exit status is 0 only if none failed.
#
# A test program prints TAP lines, one a test: `ok 1 - name`,
# `not ok 2 - name`, `ok 3 - name # SKIP why`. cmocka programs are asked to
# (CMOCKA_MESSAGE_OUTPUT); `FAIL name` is understood as `not ok` is; scripts do so themselves, or print nothing and count
# as one test by their exit status. A program that dies, exits nonzero without
# a `not ok`, or runs into the time limit counts as one failed test more.
#
# In the environment of each: SARDINE (the program), BUILD (the build
# directory, absolute), GUEST (a directory with vmlinuz and initrd.img).
# TEST_TIMEOUT is the limit in seconds for one program (default 300); a script
# may raise its own with a line `# timeout: N` in its first 20.
# TEST_ONLY=pattern runs only programs whose path contains it.
set -u

BUILD=${BUILD:-build}
mkdir -p "$BUILD/test-logs"
BUILD=$(cd "$BUILD" && pwd)
export BUILD
export SARDINE=${SARDINE:-$BUILD/sardine}
export GUEST=${GUEST:-$BUILD/guest}
export CMOCKA_MESSAGE_OUTPUT=TAP
passed=0 failed=0 skipped=0
failures=()

limit_of() {
	local own=
	case $1 in
	*.sh) own=$(sed -n '1,20s/^# timeout: \([0-9]*\)$/\1/p' "$1") ;;
	esac
	echo "${own:-${TEST_TIMEOUT:-300}}"
}

run_one() {
	local prog=$1 limit log t0 rc ok bad skip note=
	limit=$(limit_of "$prog")
	log=$BUILD/test-logs/$(echo "${prog#"$BUILD"/}" | tr / _).log
	t0=$(date +%s%N)
	timeout -k 10 "$limit" "$prog" >"$log" 2>&1 </dev/null
	rc=$?
	ok=$(grep -acE '^ok\b' "$log")
	skip=$(grep -acE '^ok\b.*# ?SKIP' "$log")
	bad=$(grep -acE '^(not ok|FAIL)\b' "$log")
	ok=$((ok - skip))
	if [ $rc = 124 ] || [ $rc = 137 ]; then
		bad=$((bad + 1)) note=" (over its limit of $limit s)"
	elif [ $rc != 0 ] && [ "$bad" = 0 ]; then
		bad=1 note=" (status $rc)"
	elif [ $rc = 0 ] && [ $((ok + bad + skip)) = 0 ]; then
		ok=1
	fi
	passed=$((passed + ok)) failed=$((failed + bad))
	skipped=$((skipped + skip))
	printf '%-44s %4d ok %3d failed %3d skipped %6.1f s%s\n' \
		"${prog#"$PWD"/}" "$ok" "$bad" "$skip" \
		"$((($(date +%s%N) - t0) / 1000000))e-3" "$note"
	grep -aE '^ok\b.*# ?SKIP' "$log" | sed 's/^/    /'
	[ "$bad" = 0 ] && return
	failures+=("$prog")
	# Each failure and the comment lines that follow it.
	awk '/^(not ok|FAIL)/ { on = 1; n++ } /^ok/ { on = 0 }
		on && n <= 40 && ++k[n] <= 12 { print "    " $0 }' "$log"
	[ -n "$note" ] && tail -n 25 "$log" | sed 's/^/    /'
}

for prog; do
	case $prog in
	*"${TEST_ONLY:-}"*) run_one "$prog" ;;
	esac
done

echo
for f in "${failures[@]+"${failures[@]}"}"; do
	echo "failed: $f"
done
[ $skipped = 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed" | tee "$BUILD/test-logs/summary"
[ $failed = 0 ]
