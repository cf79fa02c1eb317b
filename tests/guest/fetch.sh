#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch.sh kernel|busybox|modules DEB-DIR OUT: take one file out of a Debian
# package, downloaded by apt into DEB-DIR (kept for the next time) and never
# installed. modules: OUT is a directory for the virtio drivers of that kernel.
# Needs apt and dpkg-deb; works as root or not, also in a bare chroot.
set -eu
what=$1 debs=$2 out=$3
die() { echo "fetch.sh: $*" >&2; exit 1; }

fetch() { # package: leaves its file's name in $deb
	mkdir -p "$debs"
	deb=$(find "$debs" -name "$1_*_amd64.deb" -size +0 | sort | tail -1)
	[ -n "$deb" ] && return
	# A directory of our own: two builds may fetch at the same time.
	part=$(mktemp -d "$debs/part.XXXXXX")
	(cd "$part" && apt-get -q -o APT::Sandbox::User="$(id -un)" \
		download "$1" >&2) ||
		{ rm -rf "$part"; die "cannot download $1: try apt-get update"; }
	mv "$part"/*.deb "$debs"
	rmdir "$part"
	deb=$(find "$debs" -name "$1_*_amd64.deb" | sort | tail -1)
}

# The newest 6.1 cloud kernel: what the metapackage depends on, or else (no
# metapackage offered) the highest of those that apt lists.
kernel_package() {
	apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/.*Depends: \(linux-image-6\.1\.[0-9-]*-cloud-amd64\)$/\1/p' |
		head -1 | grep . ||
	apt-cache pkgnames linux-image-6.1. | sort -V |
		grep -x 'linux-image-6\.1\.[0-9-]*-cloud-amd64' | tail -1
}

kernel_deb() { # leaves its file's name in $deb
	deb=$(find "$debs" -name 'linux-image-6.1.*-cloud-amd64_*.deb' \
		2>/dev/null | sort -V | tail -1)
	[ -n "$deb" ] && return
	pkg=$(kernel_package)
	[ -n "$pkg" ] || die "apt offers no 6.1 cloud kernel:" \
		"try apt-get update on Debian 12"
	fetch "$pkg"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/sardine-fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM
case $what in
kernel)
	kernel_deb
	dpkg-deb --fsys-tarfile "$deb" |
		tar -x -C "$tmp" --wildcards './boot/vmlinuz-*'
	cp "$tmp"/boot/vmlinuz-* "$out.tmp" ;;
modules)
	kernel_deb
	mkdir -p "$out"
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp" --wildcards \
		'*/kernel/drivers/virtio/virtio*.ko' '*/virtio_blk.ko' \
		'*/virtio-rng.ko' '*/virtio_console.ko' '*/virtio_net.ko' \
		'*/net_failover.ko' '*/net/core/failover.ko'
	find "$tmp" -name '*.ko' -exec cp {} "$out" \;
	exit 0 ;;
busybox)
	# Always the package's file, so that the image depends on nothing that
	# the host has installed.
	fetch busybox-static
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp" --wildcards \
		'./bin/busybox' './usr/bin/busybox' 2>/dev/null || :
	bb=$(find "$tmp" -name busybox -type f)
	[ -n "$bb" ] || die "$deb holds no busybox"
	cp "$bb" "$out.tmp" ;;
*)
	die "kernel, busybox or modules, not $what" ;;
esac
chmod 0755 "$out.tmp"
mv "$out.tmp" "$out"
