#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mkinitrd.sh OUT BUSYBOX GUEST INIT [MODULES LOADER]: pack the initramfs (newc, not compressed:
# unpacking would be most of a guest's time to userland). The same input gives
# the same bytes: sorted names, fixed times, owners, modes and inode numbers.
# With a directory of kernel modules, /init is LOADER, which goes on with INIT.
set -eu
umask 022
out=$1 busybox=$2 guest=$3 init=$4
root=$(mktemp -d "${TMPDIR:-/tmp}/sardine-initrd.XXXXXX")
trap 'rm -rf "$root"' EXIT INT TERM
chmod 0755 "$root"
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" \
	"$root/root" "$root/etc"
install -m 0755 "$busybox" "$root/bin/busybox"
install -m 0755 "$guest" "$root/bin/guest"
install -m 0755 "$init" "$root/init"
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
for a in sh mount umount cat echo ls ps top dmesg poweroff reboot hostname \
	setsid cttyhack sleep uname free head tail grep sed awk cut tr wc seq \
	sha256sum md5sum dd sync kill true false test vi less find mkdir rm \
	cp mv ln date uptime env sort yes time taskset; do
	ln -s busybox "$root/bin/$a"
done
for a in primes fib getppid forkwait memsweep chase tlbread4k tlbread2m faults \
	pipe signals syscalls execloop quit timed clock selftest work memwork hog \
	rediswork debugexit; do
	ln -s guest "$root/bin/$a"
done
if [ $# -gt 4 ]; then
	mv "$root/init" "$root/init.stock"
	install -m 0755 "$6" "$root/init"
	mkdir -p "$root/lib/modules"
	install -m 0644 "$5"/*.ko "$root/lib/modules"
	for a in insmod switch_root lsmod cmp stat hexdump blockdev fstrim mknod dmesg \
		ip ifconfig route ping wget nc udhcpc nslookup stty od tee \
		losetup truncate fallocate; do
		[ -e "$root/bin/$a" ] || ln -s busybox "$root/bin/$a"
	done
fi
find "$root" -exec touch -h -d @0 {} +
# /dev/console is in the kernel's own built-in initramfs.
(cd "$root" && find . | LC_ALL=C sort |
	cpio --quiet --reproducible -R 0:0 -o -H newc) > "$out.tmp"
mv "$out.tmp" "$out"
