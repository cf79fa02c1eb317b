#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Debian's own virtio drivers against our devices, under bt.
. "$(dirname "$0")/../run/lib.sh"
K=$GUEST/vmlinuz I=$GUEST/initrd-virtio.img

guest() # APPEND [OPTION...]
{
	local append=$1
	shift
	run_for "${LIMIT:-60}" "$SARDINE" run --engine "${ENGINE:-bt}" \
		--no-reboot --kernel "$K" --initrd "$I" \
		--append "console=ttyS0 nokaslr quiet $append" \
		--stats "$T/stats.json" "$@"
}

# The last run ended with status 0, and its console has these lines.
good() # NAME PATTERN...
{
	local name=$1 miss= p
	shift
	for p; do
		grep -aqE -- "$p" "$T/out" || miss="$miss '$p'"
	done
	ok "$name" test "$rc" = 0 -a -z "$miss" || {
		echo "# status $rc; missing:$miss"
		tail -n 25 "$T/out" | tr -d '\r' | show
		show "$T/err"
	}
}

B=$T/base.img
export PATH=$PATH:/sbin:/usr/sbin
truncate -s 64M "$B"
mke2fs -q -F -t ext4 -E lazy_itable_init=0 "$B"
# What the guest shall run: on a disk of its own, because a command line has room
# for 32 words; padded to whole sectors with newlines.
script()
{
	{ printf '%s\n%s\n' "$tools" "$1"; printf '\n%.0s' {1..511}; } >"$T/script"
	truncate -s $(($(stat -c %s "$T/script") / 512 * 512)) "$T/script"
}
# write DISK, reread DISK: a file system's worth of work, in the guest.
tools='write() { mount /dev/$1 /root || exit 1;
dd if=/dev/urandom of=/root/f bs=64k count=256 2>/dev/null; sync;
sha256sum /root/f; echo 3 >/proc/sys/vm/drop_caches; sha256sum /root/f;
umount /root; };
reread() { mount /dev/$1 /root || exit 1; sha256sum /root/f; umount /root; };'
# The sums that the last guest printed.
sums() { grep -aE '^[0-9a-f]{64}  /root/f' "$T/out" | cut -c 1-64; }
sum() { sums | sed -n "$1p"; }
clean() { e2fsck -fn "$1" >"$T/fsck" 2>&1; }
host_sum() { debugfs -R "cat /f" "$1" 2>/dev/null | sha256sum | cut -c 1-64; }

# ---- everything at once: five disks and a virtio-rng, by MSI-X ----

cp --sparse=always "$B" "$T/ring.img"
cp --sparse=always "$B" "$T/thread.img"
before=$(sha256sum <"$B")
script "for d in vda vdb vdc vdd; do write \$d;
done; cat /sys/class/misc/hw_random/rng_current;
dd if=/dev/hwrng of=/tmp/a bs=4096 count=16 2>/dev/null;
dd if=/dev/hwrng of=/tmp/b bs=4096 count=16 2>/dev/null;
wc -c </tmp/a; cmp -s /tmp/a /tmp/b || echo differ;
grep virtio /proc/interrupts; cat /sys/block/vda/serial; echo;
mount -o ro /dev/vde /root && ls /root/f;
dd if=/dev/zero of=/dev/vde count=1"
guest "sardine.run=sh /dev/vdf" --rng \
	--disk "$T/ring.img,serial=no.1" --disk "$T/thread.img,aio=thread" \
	--disk "$B,cow=$T/o.cow" --disk "$B,snapshot" --disk "$B,ro" \
	--disk "$T/script,ro"
good "five disks, and a virtio-rng" '^virtio_rng.0' '^65536' '^differ' \
	'PCI-MSI.*virtio6-input' 'PCI-MSI.*virtio0-req' '^no.1'
for d in 1 2 3 4; do
	ok "disk $d: reads what it wrote" test -n "$(sum $((2 * d)))" -a \
		"$(sum $((2 * d - 1)))" = "$(sum $((2 * d)))"
done
for d in ring thread; do
	ok "$d: a clean file system" clean "$T/$d.img" || show "$T/fsck"
done
ok "ring: the host sees the same bytes" is "$(host_sum "$T/ring.img")" "$(sum 1)"
ok "thread: the host sees the same bytes" \
	is "$(host_sum "$T/thread.img")" "$(sum 3)"
ok "a read-only disk is one" has "$T/out" 'dd: .*/dev/vde.*not permitted'
ok "overlay and snapshot: the base is what it was" \
	is "$(sha256sum <"$B")" "$before"
ok "no request failed but on that" test "$(jq '[.[] | objects | .errors // 0] |
	add' "$T/stats.json")" = 0 || jq -c . "$T/stats.json" | show
cow=$(sum 5)

# ---- again, by INTA: the overlay kept it, the snapshot did not; discard ----

script "reread vda; reread vdb;
mount /dev/vdc /root && rm /root/f && sync && fstrim -v /root; umount /root;
dd if=/dev/hwrng bs=4096 count=16 2>/dev/null | wc -c;
grep virtio /proc/interrupts; echo end"
guest "pci=nomsi sardine.run=sh /dev/vdd" --rng --disk "$B,cow=$T/o.cow" \
	--disk "$B,ro" --disk "$T/ring.img" --disk "$T/script,ro"
good "by INTA" '^65536' 'IO-APIC.*fasteoi.*virtio0' '^end' \
	'^/root: [0-9]+ bytes'
ok "what was written to the overlay is there" is "$(sums)" "$cow"
ok "discard gave the blocks back" test "$(stat -c %b "$T/ring.img")" -lt 16000

# Killed in the middle of writing, after a sync: what was synced is there. The
# same guest talks over a virtio-console first.
script "exec 3<>/dev/hvc0; echo hvc-asks >&3; read x <&3; echo hvc-got:\$x >&3;
mount /dev/vda /root; dd if=/dev/urandom of=/root/f bs=64k count=64;
sync; sha256sum /root/f; echo synced;
while :; do cat /root/f >/root/g; sync; cat /root/f >/root/h; rm /root/g; done"
mkfifo "$T/in"
exec 4<>"$T/in"
"$SARDINE" run --hvc --kernel "$K" --initrd "$I" --disk "$B,cow=$T/k.cow" \
	--disk "$T/script,ro" --append "console=ttyS0 quiet sardine.run=sh /dev/vdb" \
	>"$T/out" 2>"$T/err" <"$T/in" &
pid=$!
started+=("$pid")
until_true 40 has "$T/out" '^hvc-asks'
echo answer >&4
until_true 40 has "$T/out" '^synced'
sleep 0.3
kill -9 "$pid"
wait "$pid" 2>/dev/null
exec 4>&-
sum=$(sums | head -1)
cp "$T/out" "$T/talk"
script "reread vda; dmesg | grep -c 'I/O erro[r]'; echo end"
guest "sardine.run=sh /dev/vdb" --disk "$B,cow=$T/k.cow" --disk "$T/script,ro"
ok "virtio-console: both ways" has "$T/talk" '^hvc-got:answer'
ok "kill -9: what was synced is there" test -n "$sum" -a "$(sums)" = "$sum"
good "kill -9: without an I/O error" '^0' '^end'

# Packed, each with an overlay of its own.
script "write vda"
run_for 90 "$SARDINE" pack -n 2 --kernel "$K" --initrd "$I" \
	--disk "$B,cow=$T/{vm}.cow" --rng --log-dir "$T/logs" \
	--disk "$T/script,ro" --socket "$SOCK" \
	--append "console=ttyS0 quiet nokaslr sardine.run=sh /dev/vdb"
ok "packed: both write and read back" test \
	"$(cat "$T"/logs/*.log | grep -acE '^[0-9a-f]{64}  /root/f')" = 4 -a \
	"$(cat "$T"/logs/*.log | grep -ac 'done status=0')" = 2 ||
	{ show "$T/out" "$T/err"; tail -n 5 "$T"/logs/*.log | show; }
ok "packed: into overlays of their own" test -s "$T/vm0.cow" -a -s "$T/vm1.cow"
ok "packed: the base is what it was" is "$(sha256sum <"$B")" "$before"

# Mistakes: one line that names the file.
bad() # NAME WORD OPTION...
{
	local name=$1 word=$2
	shift 2
	run_for 20 "$SARDINE" run --kernel "$K" "$@"
	ok "$name" test "$rc" -gt 0 -a "$(wc -l <"$T/err")" = 1 -a \
		-n "$(grep -- "$word" "$T/err")" || show "$T/err"
}
bad "no such disk" "$T/none: no such file" --disk "$T/none"
bad "a directory" "is a directory" --disk "$T"
bad "two VMs on one image" "in use" --disk "$B" --disk "$B"
bad "words that are not there" "write FILE" --disk "$B,rw"
bad "too much at once" "exclude" --disk "$B,ro,snapshot"
finish
