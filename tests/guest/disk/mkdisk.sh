#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mkdisk.sh OUT DEB-DIR GUEST: the disk of the Debian guest, OUT/disk.img (raw,
# sparse, ext4 without partitions), and OUT/disk-key, the ssh key of its root.
#
# mmdebstrap installs Debian 12 packages (with their scripts) into a tar file,
# which stays in DEB-DIR for the next build; what is in root/ beside this script
# goes on top. busybox is its init: a boot under a translator should be ours to
# measure, not systemd's. mke2fs fills the image: nothing is mounted.
#
# Nobody can log in over the network without disk-key, which is made here and
# never leaves this build (Debian's sshd takes no empty password, and root by key
# only); on the serial console root needs no password.
set -eu
umask 022
out=$1 debs=$2 guest=$3
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
packages=busybox,iproute2,login,mount,openssh-server,passwd,procps,redis-server
packages=$packages,redis-tools,nginx,sqlite3,usr-is-merged,util-linux
size=1G
die() { echo "mkdisk.sh: $*" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/sardine-disk.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM

make_tar() # FILE
{
	local drop=() d
	for d in doc man info locale lintian i18n bash-completion; do
		drop+=(--dpkgopt="path-exclude=/usr/share/$d/*")
	done
	mmdebstrap --quiet --variant=essential --include="$packages" \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--aptopt='Apt::Install-Recommends "false"' "${drop[@]}" \
		bookworm "$tmp/all.tar" ||
		die "mmdebstrap failed: does apt work here?"
	mv "$tmp/all.tar" "$1.$$"
	mv "$1.$$" "$1"
}

# Files keep their owners when root builds; else all are root's in a namespace
# of our own, and the few that matter are mended in the image.
[ "$(id -u)" = 0 ] || [ -n "${MKDISK_INNER:-}" ] ||
	MKDISK_INNER=1 exec unshare -r "$0" "$@"

mkdir -p "$debs" "$out"
tar=$debs/disk-$(declare -p packages | cat - <(declare -f make_tar) |
	md5sum | cut -c1-8).tar
[ -s "$tar" ] || make_tar "$tar"

root=$tmp/root
mkdir "$root"
tar -x -C "$root" --exclude='./dev/*' -f "$tar"
cp -R "$here/root/." "$root/"
install -m 0755 "$guest" "$root/usr/local/bin/guest"
for a in selftest work memwork hog rediswork debugexit clock quit timed; do
	ln -s guest "$root/usr/local/bin/$a"
done
ln -s /usr/bin/busybox "$root/sbin/init"
for a in poweroff reboot halt; do
	ln -s /usr/bin/busybox "$root/sbin/$a"
done
for a in udhcpc wget nc httpd vi ping; do
	[ -e "$root/usr/bin/$a" ] || ln -s busybox "$root/usr/bin/$a"
done
ln -sf /run/resolv.conf "$root/etc/resolv.conf"
echo sardine >"$root/etc/hostname"
echo '127.0.0.1 localhost sardine' >"$root/etc/hosts"
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
sed -i 's/^worker_processes.*/worker_processes 1;/' "$root/etc/nginx/nginx.conf"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/log/*.log "$root"/var/cache/*/*.bin
keygen() # TYPE FILE: with the image's own program, whatever the host has
{
	"$root/lib64/ld-linux-x86-64.so.2" --library-path \
		"$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/ssh-keygen" \
		-q -t "$1" -N '' -C sardine -f "$2" ||
		die "cannot make an ssh key"
}
keygen ed25519 "$root/etc/ssh/ssh_host_ed25519_key"
keygen ed25519 "$tmp/disk-key"
mkdir -m 0700 "$root/root/.ssh"
install -m 0600 "$tmp/disk-key.pub" "$root/root/.ssh/authorized_keys"

truncate -s "$size" "$tmp/disk.img"
# One fixed name, no work left for the guest, no room kept for root.
mke2fs -q -F -t ext4 -d "$root" -L sardine -m 0 -J size=16 \
	-U 5a2d1e00-0000-4000-8000-000000000001 \
	-E lazy_itable_init=0,lazy_journal_init=0 "$tmp/disk.img" ||
	die "mke2fs failed"
if [ -n "${MKDISK_INNER:-}" ]; then
	id=$(sed -n 's/^redis:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")
	for d in lib log; do
		debugfs -w -R "sif /var/$d/redis uid $id" "$tmp/disk.img"
	done 2>/dev/null
fi
mv "$tmp/disk-key" "$out/disk-key"
cp --sparse=always "$tmp/disk.img" "$out/disk.img.tmp"
mv "$out/disk.img.tmp" "$out/disk.img"
