#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# N guests read the same 100 MiB of one read-only disk: how much private memory
# do they have meanwhile, and how long after the last one is done is all of it
# shared?
#
#   bench_read.sh [-n GUESTS]
#
# Private memory is what the manager says, looked at every 0.2 s; before: when
# the first guest begins. Status 0: what was read is shared in the end.
. "$(dirname "$0")/lib.sh"
INITRD=${INITRD_VIRTIO:-$BUILD/guest/initrd-virtio.img}
n=4
while getopts n: o; do
	case $o in
	n) n=$OPTARG ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
head -c 104857600 /dev/urandom >"$work/data"
{
	echo 'sleep 4; echo bench-begin
dd if=/dev/vdb of=/dev/null bs=1M 2>/dev/null; echo bench-end
while :; do sleep 100; done'
	printf '\n%.0s' {1..511}
} >"$work/script"
truncate -s $(($(stat -c %s "$work/script") / 512 * 512)) "$work/script"
"$SARDINE" pack -n "$n" --kernel "$KERNEL" --initrd "$INITRD" --mem 256M \
	--disk "$work/script,ro" --disk "$work/data,ro" --socket "$work/s" \
	--append "console=ttyS0 quiet sardine.virtio=virtio_blk sardine.run=sh /dev/vda" \
	--log-dir "$work" --for 170 >"$work/out" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid; rm -rf "$work"' EXIT
said() { grep -al "^bench-$1" "$work"/vm*.log 2>/dev/null | wc -l; }
private() { "$SARDINE" top --json --socket "$work/s" 2>/dev/null |
	jq '[.vms[].private_bytes] | add / 1048576 | floor'; }
until [ "$(said begin)" -gt 0 ]; do
	kill -0 $pid 2>/dev/null || die "pack: $(tail -n 1 "$work/out")"
	sleep 0.2
done
before=$(private) peak=0 end=0 shared=
for _ in $(seq 300); do
	p=$(private)
	p=${p:-0}
	[ "$p" -le "$peak" ] || peak=$p
	now=$(date +%s%N)
	if [ "$(said end)" = "$n" ]; then
		[ "$end" != 0 ] || end=$now
		# Within 5 MiB a guest of what it was.
		[ "$p" -gt $((before + 5 * n)) ] || { shared=$now; break; }
	fi
	sleep 0.2
done
[ -n "$shared" ] || { echo "not shared after a minute: $p MiB private"; exit 1; }
echo "$n guests: private $before MiB before, $peak at most, $p in the end;" \
	"shared $(((shared - end) / 1000000)) ms after the last one had read it"
