#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# native.sh ROOT PROGRAM [ARG...]: run a program of the guest userland on the
# host itself, in a chroot of the very files that the guest boots, with a /tmp
# in memory and a loopback network of its own. Leaves nothing behind. Needs
# root, or a kernel that lets users make namespaces.
set -eu
root=$1
shift
map=
[ "$(id -u)" = 0 ] || map=-r
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare $map -m -n sh -c '
	root=$1
	shift
	mount -t tmpfs tmp "$root/tmp"
	mount --rbind /proc "$root/proc"
	mount --rbind /dev "$root/dev"
	exec chroot "$root" /bin/busybox env -i TERM=dumb \
		${BENCH_ENV:-} PATH=/bench/bin:/bin HOME=/root "/bench/bin/$@"' sh "$root" "$@"
