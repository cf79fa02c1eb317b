#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mkredis.sh OUT ROOT GUEST [MODULES]: a small initramfs with redis out of ROOT
# (the userland of `make guest-user`), and GUEST, our programs. /bench/redis.sh
# runs the server and a client that checks every answer (tests/guest/image/kv.c).
# MODULES, a directory: with the kernel's virtio drivers, the balloon's among them.
set -eu
umask 022
out=$1 from=$2 guest=$3
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d "${TMPDIR:-/tmp}/sardine-redis.XXXXXX")
trap 'rm -rf "$root"' EXIT INT TERM
chmod 0755 "$root"

mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" \
	"$root/root" "$root/etc" "$root/bench/bin" "$root/usr/bin" "$root/lib64"
cp -a "$from/bin/." "$root/bin"
cp -a "$from/etc/passwd" "$root/etc"
install -m 0755 "$guest" "$root/bench/bin/guest"
for a in kv memwork work; do
	ln -s guest "$root/bench/bin/$a"
done
install -m 0755 "$here/../image/init" "$root/init"
install -m 0755 "$here/redis.sh" "$root/bench/redis.sh"
if [ $# -gt 3 ]; then
	mv "$root/init" "$root/init.stock"
	install -m 0755 "$here/../image/init-virtio" "$root/init"
	mkdir -p "$root/lib/modules"
	install -m 0644 "$4"/*.ko "$root/lib/modules"
	[ -e "$root/bin/insmod" ] || ln -s busybox "$root/bin/insmod"
fi
for p in redis-server redis-check-rdb; do
	cp -aL "$from/usr/bin/$p" "$root/usr/bin" 2>/dev/null || :
done
cp -aL "$from/lib64/ld-linux-x86-64.so.2" "$root/lib64"
"$from/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path \
	"$from/lib/x86_64-linux-gnu:$from/usr/lib/x86_64-linux-gnu" \
	--list "$from/usr/bin/redis-server" |
	sed -n "s|.* => $from/\(.*\) (0x.*|\1|p" |
	while read -r l; do
		mkdir -p "$root/${l%/*}"
		cp -aL "$from/$l" "$root/$l"
	done
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | LC_ALL=C sort |
	cpio --quiet --reproducible -R 0:0 -o -H newc) >"$out.tmp"
mv "$out.tmp" "$out"
