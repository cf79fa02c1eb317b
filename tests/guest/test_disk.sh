#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# The Debian guest on its disk (make guest-disk), under bt.
. "$(dirname "$0")/../run/lib.sh"
K=$GUEST/vmlinuz I=$GUEST/initrd-disk.img D=$BUILD/guest-disk/disk.img
before=$(sha256sum <"$D")

# What runs in it: its work is checked by itself.
run_for 120 "$SARDINE" run --kernel "$K" --initrd "$I" --mem 256M --rng \
	--disk "$D,snapshot" --append "console=ttyS0 quiet sardine.run=\
rediswork 16 25 3; sqlitework 4 50 3; wget -q -O - http://127.0.0.1/; \
rediswork 4 50 1 2 7 || echo no-server"
# The getty's prompt may stand in front of any line.
said()
{
	tr -d '\r' <"$T/out" | sed 's/^sardine login: //' >"$T/said"
	ok "$1" grep -aqE -- "$2" "$T/said" ||
		{ tail -n 25 "$T/said" | show; show "$T/err"; }
}
ok "it powers off" is "$rc" 0
said "services come up" '^.*SARDINE-GUEST: services [0-9.]+$'
said "redis: every answer right" '^rediswork: mib=16 .* good$'
said "sqlite: every row right" '^sqlitework: mib=4 .* good$'
said "nginx answers" '<h1>Welcome to nginx!</h1>'
said "no server is said to be none" '^no-server$'

# The console: somebody logs in.
mkfifo "$T/in"
exec 4<>"$T/in"
timeout -k 5 120 "$SARDINE" run --kernel "$K" --initrd "$I" \
	--disk "$D,cow=$T/o.cow" --append "console=ttyS0 quiet sardine.services=none sardine.name=alice" \
	<"$T/in" >"$T/out" 2>"$T/err" &
pid=$!
started+=("$pid")
until_true 40 has "$T/out" 'alice login:'
echo root >&4
until_true 40 has "$T/out" 'root@alice:~#'
# Split up, so that the echo of the line is not the answer.
echo 'grep -c ^redis: /etc/passwd; echo kept >/root/k; echo wrote""-it; poweroff' >&4
until_true 40 dead "$pid"
wait "$pid"
ok "a login on the serial console" is "$?" 0 || show "$T/err"
said "and a shell" '^wrote-it$'
exec 4>&-
run_for 60 "$SARDINE" run --kernel "$K" --initrd "$I" --disk "$D,cow=$T/o.cow" \
	--append "console=ttyS0 quiet sardine.services=none sardine.run=cat /root/k"
said "the overlay keeps what was written" '^kept$'
# Its services, from the host.
port=$((20000 + RANDOM % 20000))
timeout -k 5 200 "$SARDINE" run --kernel "$K" --initrd "$I" --mem 256M --rng \
	--disk "$D,snapshot" --append "console=ttyS0 quiet" \
	--net "user,hostfwd=tcp::$port-:22,hostfwd=tcp::$((port + 1))-:80,\
hostfwd=tcp::$((port + 2))-:6379" >"$T/out" 2>"$T/err" </dev/null &
pid=$!
started+=("$pid")
until_true 100 has "$T/out" 'GUEST: services'
ok "nginx answers the host" grep -q 'Welcome to nginx' \
	<(curl -s --max-time 30 "http://127.0.0.1:$((port + 1))/")
ok "redis answers the host" is "$(exec 3<>"/dev/tcp/127.0.0.1/$((port + 2))" &&
	printf 'PING\r\n' >&3 && head -c 5 <&3)" +PONG
in_guest() { timeout 60 ssh -i "$BUILD/guest-disk/disk-key" -p "$port" -o \
	StrictHostKeyChecking=no -o UserKnownHostsFile="$T/known" -o BatchMode=yes \
	-o LogLevel=ERROR root@127.0.0.1 "$1"; }
if command -v ssh >/dev/null; then
	ok "sshd lets us in with the image's key" is \
		"$(in_guest 'redis-cli set k v >/dev/null; redis-cli get k')" v
	in_guest poweroff
	ok "and it powers off" until_true 30 dead "$pid"
else
	skip "sshd" "no ssh here"
	kill "$pid"
fi
ok "the disk is what it was" is "$(sha256sum <"$D")" "$before"
finish
