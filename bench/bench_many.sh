#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How many idle guests fit, and what does each cost? Starts VMS (200) stock
# guests of MIB (128) one after the other in a memory cgroup of the run's own,
# lets them rest, and prints a table: host memory by the cgroup with so many
# guests, what the last of them cost each, CPU at rest.
#
#   bench_many.sh [-n VMS] [-a AT_ONCE] [-r REST_S] [-o FILE.svg] [-k]
#
# Needs root (for the cgroup) and some 12 MiB a VM. Guests run with the balloon
# driver (initrd-virtio.img). -o: draw it (sardine report). -k: keep idle pages
# (pack --keep-idle), for comparison.
. "$(dirname "$0")/lib.sh"
vms=200 once=1 rest=150 out='' limit=${LIMIT:-1800} more=()
while getopts n:a:r:o:k o; do
	case $o in
	n) vms=$OPTARG ;;
	a) once=$OPTARG ;;
	r) rest=$OPTARG ;;
	o) out=$OPTARG ;;
	k) more+=(--keep-idle) ;;
	*) exit 2 ;;
	esac
done
INITRD=${INITRD_VIRTIO:-$BUILD/guest/initrd-virtio.img}
need "$SARDINE" "$KERNEL" "$INITRD"
command -v jq >/dev/null || die "needs jq: apt-get install jq"

at=$(awk -F: '$2 == "memory" { print $3 }' /proc/self/cgroup)
if [ -n "$at" ]; then
	cgroup=/sys/fs/cgroup/memory$at usage=memory.usage_in_bytes
else
	cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
	usage=memory.current
fi
cgroup=$cgroup/sardine-many.$$
mkdir "$cgroup" && [ -r "$cgroup/$usage" ] || die "no memory cgroup here"
manager=''
trap '[ -z "$manager" ] || { kill -TERM $manager; wait $manager; } 2>/dev/null
	rmdir "$cgroup"; rm -rf "$work"' EXIT

(
	echo $BASHPID >"$cgroup/cgroup.procs"
	exec "$SARDINE" pack -n "$vms" --at-once "$once" --mem 128M \
		--kernel "$KERNEL" --initrd "$INITRD" --socket "$work/sock" \
		--append "console=ttyS0 quiet sardine.virtio=virtio_balloon" \
		--record "$work/run.jsonl" "${more[@]}"
) >"$work/out" 2>"$work/err" &
manager=$!

used() { cat "$cgroup/$usage"; }
# VMs up, CPU ticks of all, host bytes as accounted, per-VM averages in MiB.
sample() { "$SARDINE" top --json --socket "$work/sock" >"$work/top" 2>/dev/null; }
up() { jq '[.vms[] | select(.boot_ms > 0 and .pid > 0)] | length' "$work/top"; }
ticks()
{
	local p
	for p in "$manager" $(jq -r '.vms[].pid' "$work/top"); do
		cat "/proc/$p/stat" 2>/dev/null
	done | awk '{ t += $14 + $15 } END { print t + 0 }'
}
row()
{
	awk -v s=$SECONDS -v n="$1" -v u="$2" 'BEGIN {
		printf "%6d s %5d VMs %9.1f MiB %7.2f each\n",
			s, n, u / 1048576, n ? u / 1048576 / n : 0 }'
}

base=$(used) last=0
until sample && [ "$(up)" -ge "$vms" ]; do
	kill -0 $manager 2>/dev/null || { tail "$work/err" "$work/out"; die "it ended"; }
	if [ $SECONDS -gt $limit ]; then
		echo "not all came up in $limit s; going on with $(up)"
		break
	fi
	n=$(up)
	if [ "${n:-0}" -ge $((last + 20)) ]; then
		last=$((n / 20 * 20))
		row "$n" "$(used)"
	fi
	sleep 1
done
n=$(up)
row "$n" "$(used)"
sleep "$rest"
sample
n=$(jq '[.vms[] | select(.pid > 0)] | length' "$work/top")
row "$n" "$(used)"
t0=$(ticks)
sleep 20
t1=$(ticks)
awk -v t=$((t1 - t0)) -v hz="$(getconf CLK_TCK)" -v n="$n" 'BEGIN {
	printf "at rest: %.1f%% of a core for all, %.3f%% for each\n",
		t / hz / 20 * 100, t / hz / 20 * 100 / n }'
jq -r '(.vms | map(select(.pid > 0))) as $v | ($v | length) as $n |
	def mean(f): ($v | map(f // 0) | add) / $n / 1048576 * 100 | round / 100;
	"each: private \(mean(.private_bytes)), store \(mean(.store_bytes)) for \(mean(.compressed_bytes)) compressed, overhead \(mean(.overhead_bytes)) MiB; pool \(.host.pool_bytes / 1048576 | round) MiB for all"' \
	"$work/top"
[ -z "$out" ] || "$SARDINE" report "$work/run.jsonl" -o "$out" --title \
	"$n Debian guests of 128 MiB boot in turn and rest: memory of the host"
kill -TERM $manager
wait $manager
status=$?
manager=''
grep '^audit' "$work/out"
[ $status = 0 ] || die "pack ended with status $status: $(tail -n 3 "$work/err")"
