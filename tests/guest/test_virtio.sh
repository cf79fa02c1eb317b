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

# ---- virtio-rng, and PCI with it ----

rng='cat /sys/class/misc/hw_random/rng_current;
dd if=/dev/hwrng of=/tmp/a bs=4096 count=64 2>/dev/null;
dd if=/dev/hwrng of=/tmp/b bs=4096 count=64 2>/dev/null;
wc -c </tmp/a; cmp -s /tmp/a /tmp/b || echo differ; grep virtio /proc/interrupts'
guest "sardine.virtio=virtio-rng sardine.run=$(tr '\n' ' ' <<<"$rng")" --rng
good "virtio-rng by MSI-X" '^virtio_rng.0' '^262144' '^differ' \
	'PCI-MSI.*virtio0-input'
ok "and its counters" test "$(jq '.rng0.interrupts > 100 and
	.rng0.broken == 0' "$T/stats.json")" = true
guest "pci=nomsi sardine.virtio=virtio-rng sardine.run=$(tr '\n' ' ' <<<"$rng")" \
	--rng
good "virtio-rng by INTA" '^virtio_rng.0' '^262144' '^differ' \
	'IO-APIC.*fasteoi.*virtio0'
guest "sardine.run=ls /sys/bus/pci/devices | wc -l"
good "no device, no PCI" '^0'

finish
