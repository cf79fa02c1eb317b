#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every unit that a whole boot and the five programs execute, compared with the
# interpreter: registers, flags, x87, SSE and AVX state, memory (vmm/bt/lockstep.c).
#
#   bench_lockstep.sh [-m MIB] [-t SECONDS] [PROGRAM-LINE]
#
# Guest time passes 64 times slower, or the guest would do nothing but tick. Ten
# to twenty minutes. Not covered: chaining, the IBTC, copies of units and what
# stubs.S does, because under lockstep each unit is entered by the engine.
# Status 0: the guest powered off with right results, so nothing differed.
. "$(dirname "$0")/lib.sh"
mem=128 limit=3600
while getopts m:t: o; do
	case $o in
	m) mem=$OPTARG ;;
	t) limit=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
run=${1:-primes 30000 && fib 20 && getppid 5000 && forkwait 20 &&
 memsweep 500000 1}
need "$SARDINE" "$KERNEL" "$INITRD"
sardine_cmd bt "$mem" "console=ttyS0 quiet sardine.run=${run//$'\n'/}"
timed "$limit" "${cmd[@]}" --lockstep --time-shift 6 --stats "$work/stats.json"
tr -d '\r' <"$work/out" | grep -aE 'result=|SARDINE-GUEST'
if [ "$status" != 0 ] || ! grep -qa 'done status=0' "$work/out"; then
	cat "$work/err" >&2
	die "status $status: $(grep -aE 'lockstep|panic' "$work/out" | head -1)"
fi
printf '%s units compared, none differed; %s s of CPU time\n' "$(
	grep -o '"lockstep_tus": *[0-9]*' "$work/stats.json" | grep -o '[0-9]*$'
)" "$cpu"
