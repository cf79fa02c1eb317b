#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The translation statistics of a whole boot of the stock guest, power-on to
# power-off, in the form of the field's tables.
#
#   bench_boot_stats.sh [-m MIB] [-t TC-SIZE] [-j FILE] [-c]
#
# -j: every counter as JSON, too. -c: translated code counts what it executes
# (slower), so that hit rates are exact.
. "$(dirname "$0")/lib.sh"
mem=128 more=() json=''
while getopts m:t:j:c o; do
	case $o in
	m) mem=$OPTARG ;;
	t) more+=(--tc-size "$OPTARG") ;;
	j) json=$OPTARG ;;
	c) more+=(--count) ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
sardine_cmd bt "$mem" "console=ttyS0 sardine.poweroff"
timed "${LIMIT:-120}" "${cmd[@]}" "${more[@]}" --stats "$work/stats.json"
[ "$status" = 0 ] || die "the boot failed with status $status"
"$SARDINE" stats "$work/stats.json"
printf '\n%s s of CPU time in all\n' "$cpu"
[ -z "$json" ] || cp "$work/stats.json" "$json"
