#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does the network cost: 64 MiB fetched from the host, 64 MiB sent to it,
# and 300 small requests one after the other; Sardine against QEMU TCG, both
# with the same libslirp and Debian's virtio_net?
#
#   bench_net.sh [-n RUNS] [-m MTU,MTU...]
#
# RUNS (3) of each, in turn; with -m Sardine at those MTUs. Printed: the guest's
# own seconds for each step (wall: a busy host shows) and CPU seconds of the VM
# with its helper, less those of a run that only boots. Status 0: all of
# Sardine's runs did their work.
. "$(dirname "$0")/lib.sh"
INITRD=${INITRD_VIRTIO:-$BUILD/guest/initrd-virtio.img}
BB=$BUILD/guest/busybox
runs=3 who=(sardine)
while getopts n:m: o; do
	case $o in
	n) runs=$OPTARG ;;
	m) IFS=, read -ra who <<<"$OPTARG" ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD" "$BB"
command -v qemu-system-x86_64 >/dev/null && who+=(qemu)
append='console=ttyS0 quiet nokaslr sardine.run=sh /dev/vda'
port=$((20000 + RANDOM % 20000))
mkdir "$work/www"
head -c 67108864 /dev/zero >"$work/www/big"
echo small >"$work/www/small"
"$BB" httpd -f -p "127.0.0.1:$port" -h "$work/www" &
servers=$!
# Takes what anyone sends, and drops it: busybox's nc knows no address to bind.
"$BB" nc -ll -p $((port + 1)) -e "$BB" dd of=/dev/null bs=64k 2>/dev/null &
servers="$servers $!"
# shellcheck disable=SC2086,SC2154 # two numbers; work is lib.sh's
trap 'kill $servers; rm -rf "$work"' EXIT

script() # FILE TEXT: padded to sectors with newlines
{
	{ printf '%s\n' "$2"; printf '\n%.0s' {1..511}; } >"$1"
	truncate -s $(($(stat -c %s "$1") / 512 * 512)) "$1"
}
script "$work/idle" 'echo bench-end'
script "$work/work" "ifconfig eth0 10.0.2.15 netmask 255.255.255.0
read t _ </proc/uptime
step() { read u _ </proc/uptime; echo \"bench \$1 \$t \$u\"; t=\$u; }
wget -q -O /dev/null http://10.0.2.2:$port/small; step first
wget -q -O /dev/null http://10.0.2.2:$port/big || exit 1; step down
dd if=/dev/zero bs=64k count=1024 2>/dev/null | nc 10.0.2.2 $((port + 1)) ||
	exit 1; step up
for i in \$(seq 300); do wget -q -O /dev/null http://10.0.2.2:$port/small ||
	exit 1; done; step small; echo bench-end"

# CPU seconds of Sardine's helper, which nobody waits for: its last reading.
watch_helper()
{
	local p
	echo 0 >"$work/helper"
	while sleep 0.2; do
		for p in $(pgrep -f "^sardine netd"); do
			grep -qz "$work" "/proc/$(ps -o ppid= -p "$p" |
				tr -d ' ')/cmdline" 2>/dev/null || continue
			awk -v hz="$(getconf CLK_TCK)" \
				'{print ($14 + $15) / hz}' "/proc/$p/stat" \
				>"$work/helper.new" 2>/dev/null &&
				mv "$work/helper.new" "$work/helper"
		done
	done
}

one() # WHO SCRIPT: cpu, and the console in $work/out
{
	local watcher
	if [ "$1" = qemu ]; then
		qemu_cmd 128 "$append"
		cmd+=(-netdev user,id=n -device virtio-net-pci,netdev=n,romfile=
			-drive "file=$2,if=none,id=b,format=raw,readonly=on"
			-device virtio-blk-pci,drive=b)
	else
		sardine_cmd bt 128 "$append"
		cmd+=(--disk "$2,ro" --net)
		[ "$1" = sardine ] && cmd+=(user) || cmd+=("user,mtu=$1")
	fi
	watch_helper &
	watcher=$!
	timed 150 "${cmd[@]}"
	kill "$watcher"
	wait "$watcher" 2>/dev/null
	cpu=$(awk -v a="$cpu" -v b="$(cat "$work/helper")" 'BEGIN {print a + b}')
	grep -q '^bench-end' "$work/out" && return
	echo "FAIL $1: status $status: $(tail -n 1 "$work/out")"
	[ "$1" = qemu ] || failed=1
	return 1
}

failed=0
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
printf '%-8s %8s %8s %8s   %s\n' '' down up small 'CPU seconds for it'
for w in "${who[@]}"; do
	[ -s "$work/cpu.$w" ] || { echo "$w: no good run"; continue; }
	printf '%-8s %7.2fs %7.2fs %7.2fs   %.2f (%.2f .. %.2f)\n' "$w" \
		"$(median <"$work/$w.down")" "$(median <"$work/$w.up")" \
		"$(median <"$work/$w.small")" "$(median <"$work/cpu.$w")" \
		"$(least <"$work/cpu.$w")" "$(most <"$work/cpu.$w")"
done
exit $failed
