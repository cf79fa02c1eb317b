#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much does disk I/O cost: 100 MiB written through ext4 and synced, 100 MiB
# read back uncached, 8000 direct reads of 4 KiB; Sardine against QEMU TCG, the
# same image and Debian's virtio-blk in both?
#
#   bench_disk.sh [-n RUNS]
#
# RUNS (3) of each, in turn. Printed: the guest's own seconds for each step
# (wall: a busy host shows) and the CPU time of the whole process, less that of
# a run which only boots. Status 0: all of Sardine's runs did their work.
. "$(dirname "$0")/lib.sh"
INITRD=${INITRD_VIRTIO:-$BUILD/guest/initrd-virtio.img}
export PATH=$PATH:/sbin:/usr/sbin
runs=3
while getopts n: o; do
	case $o in
	n) runs=$OPTARG ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
append='console=ttyS0 quiet nokaslr sardine.virtio=virtio_blk
sardine.run=sh /dev/vdb'
append=${append//$'\n'/ }
truncate -s 256M "$work/disk"
mke2fs -q -F -t ext4 -E lazy_itable_init=0 "$work/disk"

script() # FILE TEXT: padded to sectors with newlines
{
	{ printf '%s\n' "$2"; printf '\n%.0s' {1..511}; } >"$1"
	truncate -s $(($(stat -c %s "$1") / 512 * 512)) "$1"
}
script "$work/idle" 'echo bench-end'
script "$work/work" 'read t _ </proc/uptime
step() { read u _ </proc/uptime; echo "bench $1 $t $u"; t=$u; }
mount /dev/vda /root || exit 1; step mount
dd if=/dev/zero of=/root/f bs=64k count=1600 conv=fsync 2>/dev/null; step write
echo 3 >/proc/sys/vm/drop_caches; step drop
dd if=/root/f of=/dev/null bs=64k 2>/dev/null; step read
dd if=/dev/vda of=/dev/null bs=4k count=8000 iflag=direct 2>/dev/null
step direct; rm /root/f; umount /root; echo bench-end'

one() # WHO SCRIPT: cpu, and the console in $work/out
{
	if [ "$1" = sardine ]; then
		sardine_cmd bt 128 "$append"
		cmd+=(--disk "$work/disk" --disk "$2,ro")
	else
		qemu_cmd 128 "$append"
		cmd+=(-drive "file=$work/disk,if=none,id=a,format=raw"
			-device virtio-blk-pci,drive=a -drive
			"file=$2,if=none,id=b,format=raw,readonly=on"
			-device virtio-blk-pci,drive=b)
	fi
	timed 120 "${cmd[@]}"
	grep -q '^bench-end' "$work/out" && return
	echo "FAIL $1: status $status: $(tail -n 1 "$work/out")"
	[ "$1" = sardine ] && failed=1
	return 1
}

who=(sardine) failed=0
command -v qemu-system-x86_64 >/dev/null && who+=(qemu)
for _ in $(seq "$runs"); do
	for w in "${who[@]}"; do
		one "$w" "$work/idle" || continue
		idle=$cpu
		one "$w" "$work/work" || continue
		awk -v a="$cpu" -v b="$idle" 'BEGIN {print a - b}' \
			>>"$work/cpu.$w"
		tr -d '\r' <"$work/out" | awk -v f="$work/$w" '
			$1 == "bench" {print $4 - $3 >>(f "." $2)}'
	done
done
printf '%-8s %8s %8s %8s   %s\n' '' write read direct 'CPU seconds for it'
for w in "${who[@]}"; do
	[ -s "$work/cpu.$w" ] || { echo "$w: no good run"; continue; }
	printf '%-8s %7.2fs %7.2fs %7.2fs   %.2f (%.2f .. %.2f)\n' "$w" \
		"$(median <"$work/$w.write")" "$(median <"$work/$w.read")" \
		"$(median <"$work/$w.direct")" "$(median <"$work/cpu.$w")" \
		"$(least <"$work/cpu.$w")" "$(most <"$work/cpu.$w")"
done
exit $failed
