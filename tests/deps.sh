#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deps.sh PACKAGE...: install the Debian packages that are not there yet.
# Does nothing (and needs no rights) when all of them are.
set -eu

if ! command -v dpkg-query >/dev/null; then
	echo "sardine: this is not Debian: install by hand what these" \
		"packages hold: $*" >&2
	exit 1
fi

missing=
for p; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) ||
		state=absent
	[ "$state" = installed ] || missing="$missing $p"
done
# The guest's kernel is downloaded by apt, which needs its lists for that.
lists=$(find /var/lib/apt/lists -name '*Packages*' 2>/dev/null | head -1)
if [ -z "$missing" ]; then
	[ -n "$lists" ] || [ "$(id -u)" != 0 ] || apt-get update -q >/dev/null ||
		true
	exit 0
fi

sudo=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "sardine: these packages are missing and installing them" \
			"takes root; as root, run: apt-get install$missing" >&2
		exit 1
	fi
	sudo=sudo
fi

echo "sardine: installing$missing"
run() {
	$sudo env DEBIAN_FRONTEND=noninteractive "$@"
}
# shellcheck disable=SC2086 # one word a package is what we want
install() {
	run apt-get install -qy --no-install-recommends \
		-o Dpkg::Use-Pty=0 $missing >"$log" 2>&1
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lists may be old: try, and fetch them anew only when that fails.
[ -n "$lists" ] || run apt-get update -q >"$log" 2>&1 || true
if ! install; then
	run apt-get update -q >"$log" 2>&1 || true
	if ! install; then
		cat "$log" >&2
		echo "sardine: apt-get could not install$missing; see above," \
			"and check the network and /etc/apt/sources.list" >&2
		exit 1
	fi
fi
