#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Debian's virtio_net against ours: libslirp's network through its helper, both
# ways; the helper killed; a tap device where the host lets us have one.
. "$(dirname "$0")/../run/lib.sh"
K=$GUEST/vmlinuz I=$GUEST/initrd-virtio.img BB=$GUEST/busybox
port=$((20000 + RANDOM % 20000))
mkdir "$T/www"
head -c 8000000 /dev/urandom >"$T/www/file"
sum=$(sha256sum <"$T/www/file" | cut -c 1-64)
bg "$BB" httpd -f -p "127.0.0.1:$port" -h "$T/www"

# What the guest shall run; by a disk (a command line has room for 32 words).
script()
{
	{ printf '%s\n%s\n' "$tools" "$1"; printf '\n%.0s' {1..511}; } >"$T/script"
	truncate -s $(($(stat -c %s "$T/script") / 512 * 512)) "$T/script"
}
# dhcp: ask for an address, and take it.
tools='cat >/tmp/lease <<"END"
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
echo address $ip dns $dns
END
chmod +x /tmp/lease; ifconfig lo 127.0.0.1; ifconfig eth0 up
dhcp() { udhcpc -i eth0 -s /tmp/lease -n -q -t 20 -T 1 2>/dev/null; }
sum_of() { sha256sum | cut -c 1-64; }'
start() # OPTION...: in the background, console in $T/out
{
	timeout -k 5 240 "$SARDINE" run --kernel "$K" --initrd "$I" --no-reboot \
		--append "console=ttyS0 quiet sardine.run=sh /dev/vda" \
		--disk "$T/script,ro" --stats "$T/stats.json" "$@" \
		>"$T/raw" 2>"$T/err" </dev/null &
	pid=$!
	started+=("$pid")
}
ended()
{
	wait "$pid"
	rc=$?
	tr -d '\r' <"$T/raw" >"$T/out"
}
said() # NAME PATTERN
{
	ok "$1" grep -aqE -- "$2" "$T/out" || { tail "$T/out" | show; show "$T/err"; }
}
count() { jq ".net0_io.$1" "$T/stats.json"; }
fetch() { curl -s --max-time 60 "http://127.0.0.1:$1/file" | sha256sum |
	cut -c 1-64; }

# ---- both ways, then without a helper ----

script "dhcp; ping -c 1 -w 2 192.0.2.1; ping -c 1 -w 5 10.0.2.2
wget -q -O /tmp/file http://10.0.2.2:$port/file
echo got \$(sum_of </tmp/file)
wget -q -O - http://10.0.2.2:$port/file | sum_of
busybox httpd -p 80 -h /tmp; echo serving; cat /sys/class/net/eth0/address
until [ \$(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done
echo carrier \$(cat /sys/class/net/eth0/carrier)
wget -T 2 -q -O - http://10.0.2.2:$port/file || echo unreachable"
start --net "user,hostfwd=tcp:127.0.0.1:$((port + 1))-:80"
ok "the guest comes up with a network" until_true 150 has "$T/raw" '^serving'
ok "the host reaches the guest by hostfwd" is "$(fetch $((port + 1)))" "$sum"
# Two at a time.
fetch $((port + 1)) >"$T/one" &
one=$!
ok "and again, twice at once" is "$(fetch $((port + 1)))" "$sum"
wait $one
ok "the other one too" is "$(cat "$T/one")" "$sum"
helper=$(pgrep -P "$(pgrep -P "$pid")" -f 'netd --fd')
ok "the helper is a process of its own, confined" grep -q '^Seccomp:.*2' \
	"/proc/$helper/status"
kill -9 "$helper"
ended
ok "a killed helper: the guest goes on" is "$rc" 0 || show "$T/err"
said "DHCP" '^address 10.0.2.15 dns 10.0.2.3'
said "a ping to the host" '^1 packets transmitted, 1 packets received'
said "the guest fetches from the host's loopback" "^got $sum"
said "a killed helper: the cable is pulled" '^carrier 0'
said "a killed helper: nothing is reached" '^unreachable'
ok "no frame was dropped before that" is "$(count rx_dropped)" 0
ok "the link went down once" is "$(count link_downs)" 1
mac=$(grep -aE '^([0-9a-f]{2}:){5}[0-9a-f]{2}$' "$T/out")

# ---- restrict; the same address again ----

script "dhcp; wget -T 2 -q -O - http://10.0.2.2:$port/file || echo unreachable
cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu"
start --net "user,restrict,mtu=1500"
ended
said "restrict: no way out" '^unreachable'
said "the VM keeps its address" "^$mac\$"
said "the MTU is as asked for" '^1500$'

# ---- packed ----

script "dhcp; wget -q -O /tmp/file http://10.0.2.2:$port/file; busybox httpd -p 80 -h /tmp
echo serving; until [ -e /tmp/never ]; do sleep 1; done"
cat >"$T/fleet" <<END
a count=2 net=user,hostfwd=tcp::$((port + 10))+{n}-:80
END
bg "$SARDINE" pack "$T/fleet" --kernel "$K" --initrd "$I" --disk "$T/script,ro" \
	--append "console=ttyS0 quiet sardine.run=sh /dev/vda" --socket "$SOCK" \
	--log-dir "$T" >"$T/pack.out" 2>"$T/pack.err"
serving() { grep -aq ^serving "$T/a0.log" && grep -aq ^serving "$T/a1.log"; }
ok "packed: both are up" until_true 150 serving || show "$T/pack.err" "$T/pack.out"
ok "packed: the first is reached" is "$(fetch $((port + 10)))" "$sum"
ok "packed: the second is reached" is "$(fetch $((port + 11)))" "$sum"
of_vm() { pgrep -P "$(vm_pid "$1")" -f 'netd --fd'; }
h=$(of_vm a0)
kill -9 "$(vm_pid a0)"
ok "a dead VM's helper ends" until_true 10 dead "$h"
kill -TERM "$pid"
wait "$pid"

# ---- a tap device ----

if unshare -n sh -c 'ip tuntap add t0 mode tap' 2>/dev/null; then
	script "ifconfig eth0 10.9.9.2; ping -c 3 -w 10 10.9.9.1
ping -c 2 -w 10 -s 1400 10.9.9.1"
	timeout -k 5 60 unshare -n sh -c "ip tuntap add t0 mode tap
		ip addr add 10.9.9.1/24 dev t0; ip link set t0 up
		exec \"\$@\"" sh "$SARDINE" run --kernel "$K" --initrd "$I" \
		--append "console=ttyS0 quiet sardine.run=sh /dev/vda" \
		--disk "$T/script,ro" --net tap=t0 </dev/null >"$T/raw" 2>"$T/err"
	pid=
	tr -d '\r' <"$T/raw" >"$T/out"
	said "tap: the host answers" '^3 packets transmitted, 3 packets received'
	said "tap: and long packets" '^2 packets transmitted, 2 packets received'
else
	skip "tap" "no rights for a network of our own"
fi

# ---- mistakes: one line ----

bad() # NAME WORD STATUS OPTION...
{
	local name=$1 word=$2 st=$3
	shift 3
	run_for 20 "$SARDINE" run --kernel "$K" "$@"
	ok "$name" test "$rc" = "$st" -a "$(wc -l <"$T/err")" = 1 -a \
		-n "$(grep -- "$word" "$T/err")" || show "$T/err"
}
bad "a port that is taken" "port cannot be had: Address already in use" 1 \
	--net "user,hostfwd=tcp::$port-:80"
bad "a word that is none" "write user" 2 --net user,fast
bad "no such tap" "ip tuntap add" 1 --net tap=x/y
finish
