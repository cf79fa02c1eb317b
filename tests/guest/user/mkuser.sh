#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mkuser.sh OUT DEB-DIR BUSYBOX GUEST: the guest userland of the bench, out of
# Debian 12 packages: OUT/root, for use by chroot, and OUT/initrd.img, the same
# files as an initramfs that is not compressed. Native and guest runs use the
# very same binaries and inputs.
#
# The packages are extracted, not installed (no maintainer script runs), and of
# them is kept only what the programs need: themselves, their libraries (asked
# of the dynamic linker), headers, Python's modules. What was kept stays in
# DEB-DIR as a tar file for the next build. Inputs are made by gen.awk with a
# fixed seed; but for the RSA key, they are the same bytes everywhere.
set -eu
shopt -s extglob
umask 022
out=$1 debs=$2 busybox=$3 guest=$4
here=$(cd "$(dirname "$0")" && pwd)
packages=sqlite3,xz-utils,zstd,openssl,gcc,libc6-dev,python3-minimal,redis-tools
packages=$packages,redis-server
programs="usr/bin/sqlite3 usr/bin/xz usr/bin/zstd usr/bin/openssl usr/bin/gcc
	usr/bin/as usr/bin/ld usr/bin/python3 usr/bin/redis-server
	usr/bin/redis-benchmark usr/bin/redis-cli"
die() { echo "mkuser.sh: $*" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/sardine-user.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM

# Copy $all/$1, and what it links to, into $kept.
keep()
{
	local f=$1 to
	[ -e "$kept/$f" ] && return
	[ -e "$all/$f" ] || [ -L "$all/$f" ] || die "no $f in the packages"
	mkdir -p "$kept/${f%/*}"
	cp -a "$all/$f" "$kept/$f"
	if [ -L "$all/$f" ]; then
		to=$(readlink "$all/$f")
		case $to in
		/*) to=${to#/} ;;
		*) to=$(realpath -ms --relative-to="$all" \
			"$all/${f%/*}/$to") ;;
		esac
		keep "$to"
	fi
}

libraries() # of FILE: its shared objects, relative to $all
{
	"$all/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path \
		"$all/lib/x86_64-linux-gnu:$all/usr/lib/x86_64-linux-gnu" \
		--list "$all/$1" |
		sed -n "s|.* => $all/\(.*\) (0x.*|\1|p"
}

make_tar() # FILE
{
	all=$tmp/all kept=$tmp/kept
	mkdir -p "$all" "$kept"
	mmdebstrap --quiet --variant=extract --include="$packages" \
		bookworm - >"$tmp/all.tar" ||
		die "mmdebstrap failed: does apt work here?"
	tar -x -C "$all" --no-same-owner --exclude='./dev/*' -f "$tmp/all.tar"
	rm "$tmp/all.tar"
	local gcc
	gcc=$(cd "$all" && echo usr/lib/gcc/x86_64-linux-gnu/*)
	programs="$programs $gcc/cc1 $gcc/collect2"
	keep lib64/ld-linux-x86-64.so.2
	for p in $programs; do
		keep "$p"
		for l in $(libraries "$p"); do
			keep "$l"
		done
	done
	for d in "$gcc/include" usr/include usr/lib/python3.11; do
		mkdir -p "$kept/${d%/*}"
		cp -a "$all/$d" "$kept/$d"
	done
	(cd "$kept/usr/include" && rm -rf linux/!(limits.h|errno.h) rdma sound \
		drm scsi video misc xen mtd rpc rpcsvc tirpc x86_64-linux-gnu/c++)
	for l in crt1.o crti.o crtn.o libc.so libc_nonshared.a; do
		keep usr/lib/x86_64-linux-gnu/$l
	done
	for l in crtbegin.o crtend.o crtbeginS.o crtendS.o libgcc.a libgcc_s.so; do
		keep "$gcc/$l"
	done
	tar -c -C "$kept" --sort=name -f "$1.$$" .
	mv "$1.$$" "$1"
}

mkdir -p "$debs" "$out"
tar=$debs/user-$(declare -p packages programs | cat - <(declare -f) |
	md5sum | cut -c1-8).tar
[ -s "$tar" ] || make_tar "$tar"

root=$tmp/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,root,etc,bench/bin,var/tmp}
tar -x -C "$root" --no-same-owner -f "$tar"
install -m 0755 "$busybox" "$root/bin/busybox"
for a in sh mount cat echo ls ps dmesg poweroff reboot hostname setsid \
	cttyhack sleep uname head tail grep sed awk cut tr wc seq sha256sum \
	true false test mkdir rm cp mv env sort ifconfig chroot; do
	ln -s busybox "$root/bin/$a"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
install -m 0755 "$here/../image/init" "$root/init"
install -m 0755 "$guest" "$root/bench/bin/guest"
for a in primes fib getppid forkwait memsweep chase tlbread4k tlbread2m faults \
	pipe signals syscalls execloop clock selftest work debugexit; do
	ln -s guest "$root/bench/bin/$a"
done
install -m 0755 "$here/real.sh" "$root/bench/real.sh"
for a in sqlite xz zstd openssl gcc python redis; do
	ln -s ../real.sh "$root/bench/bin/$a"
done
install -m 0644 "$here/pure.py" "$root/bench/pure.py"
${CC:-gcc} -O1 -s -o "$root/bench/bin/dyn" "$here/dyn.c" -lm
for what in text sql c; do
	"$busybox" awk -v what=$what -f "$here/gen.awk" \
		>"$root/bench/input.$what"
done
openssl genrsa -out "$root/bench/key.pem" 2048 2>/dev/null ||
	die "cannot make an RSA key"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | LC_ALL=C sort |
	cpio --quiet --reproducible -R 0:0 -o -H newc) >"$out/initrd.img.tmp"
rm -rf "$out/root"
cp -a "$root" "$out/root"
mv "$out/initrd.img.tmp" "$out/initrd.img"
