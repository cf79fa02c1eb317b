#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# plot_density.sh [-n VMS] [-t SECONDS] [-o FILE.svg]: what the host's memory
# does while VMS guests of 128 MiB boot and go quiet, as the picture that the
# README shows. From a run, every time; to be made on a quiet machine.
. "$(dirname "$0")/lib.sh"
vms=8 seconds=45 out=$(dirname "$0")/plots/density.svg
while getopts n:t:o: o; do
	case $o in
	n) vms=$OPTARG ;;
	t) seconds=$OPTARG ;;
	o) out=$OPTARG ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
"$SARDINE" pack -n "$vms" --mem 128M --kernel "$KERNEL" --initrd "$INITRD" \
	--append console=ttyS0 --socket "$work/s" --for "$seconds" \
	--record "$work/run.jsonl" || die "the run failed"
"$SARDINE" report "$work/run.jsonl" -o "$out" --title \
	"$vms Debian guests of 128 MiB boot and rest: memory of the host" &&
	ls -l "$out"
