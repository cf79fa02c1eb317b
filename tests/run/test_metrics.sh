#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# `pack --metrics`: what it serves, and clients that mean no good.
. "$(dirname "$0")/lib.sh"

check=$BUILD/tests/unit/test_prom
start()
{
	bg "$SARDINE" pack -n 2 --socket "$SOCK" --kernel "$TINY" --mem 32M \
		--append i --metrics 0 >"$T/mout" 2>"$T/merr"
	manager=$pid
}
url() { sed -n 's,^metrics at \(http://127.0.0.1:[0-9]*/metrics\)$,\1,p' "$T/mout"; }
has_url() { [ -n "$(url)" ]; }
up() { is "$(sample '[.vms[] | select(.boot_ms > 0)] | length')" 2; }
port() { url | sed 's,.*:\([0-9]*\)/.*,\1,'; }
scrape() { curl -sf -m 5 -o "$T/text" "$(url)"; }
value() { sed -n "s/^$1 //p" "$T/text"; }
cpu_of() { awk '{print $14 + $15}' "/proc/$manager/stat"; }
open_fds() { ls "/proc/$manager/fd" | wc -l; }

start
ok "the address is told" until_true 10 has_url || show "$T/mout" "$T/merr"
ok "VMs come up" until_true 20 up
ok "it answers" scrape
ok "the text passes a strict check" "$check" "$T/text" || show "$T/text"
top_json >"$T/json"
ok "figures are those of top --json" test \
	"$(value 'sardine_vm_configured_bytes{vm="vm1"}')" = \
	"$(jq '.vms[1].configured_bytes' "$T/json")" \
	-a "$(value sardine_host_budget_bytes)" = \
	"$(jq .host.budget_bytes "$T/json")"
ok "each number of a VM in JSON is there, the process id aside" test \
	"$(jq -r '.vms[0] | keys[] | select(endswith("_bytes"))' "$T/json" |
		sort | tr '\n' ' ')" = \
	"$(sed -n 's/^sardine_vm_\([a-z]*_bytes\){vm="vm0"}.*/\1/p' "$T/text" |
		sort | tr '\n' ' ')"
ok "the content type names the format" test "$(curl -s -m 5 -o /dev/null \
	-w '%{content_type}' "$(url)")" = \
	"text/plain; version=0.0.4; charset=utf-8"
code() { curl -s -m 5 -o /dev/null -w '%{http_code}' "$@"; }
ok "another path: 404, another method: 405" test \
	"$(code "$(url)x")$(code -X POST -d x "$(url)")$(code -I "$(url)")" = \
	404405200

# Listens on loopback alone.
hex=$(printf ':%04X' "$(port)")
ok "it listens on loopback alone" test "$(awk -v p="$hex" '$4 == "0A" &&
	substr($2, length($2) - 4) == p { print substr($2, 1, 8) }' \
	/proc/net/tcp)" = 0100007F -a "$(grep -c "$hex .* 0A " /proc/net/tcp6)" = 0

# ---- clients that mean no good ----
# A byte at a time.
drip()
{
	exec 9<>"/dev/tcp/127.0.0.1/$(port)"
	printf 'GET /metrics HTTP/1.1\r\nX: ' >&9
	for i in $(seq 400); do
		printf 'a' >&9 || break
		sleep 0.1
	done
}
drip 2>/dev/null &
dripper=$!
started+=("$dripper")
before=$(open_fds)
# Twice as many as there are places, and all of them say nothing.
for i in $(seq 64); do
	exec {fd}<>"/dev/tcp/127.0.0.1/$(port)" && silent="${silent-} $fd"
done
sleep 0.5
a=$(cpu_of)
ok "silent clients: the manager answers top" up
sleep 1.5
b=$(cpu_of)
ok "and does not spin (at most 0.3 s CPU in 1.5 s)" test $((b - a)) -le 30 ||
	echo "# $((b - a)) ticks"
ok "no more than 32 of them are held" test $(($(open_fds) - before)) -le 32
ok "they time out, and a scrape works again" until_true 12 scrape
for fd in $silent; do eval "exec $fd>&-"; done
# A request without end, rubbish, a body that never comes.
(
	exec 9<>"/dev/tcp/127.0.0.1/$(port)"
	printf 'GET /' >&9
	head -c 4000000 /dev/zero | tr '\0' a >&9
) 2>/dev/null
(
	exec 9<>"/dev/tcp/127.0.0.1/$(port)"
	head -c 100000 /dev/urandom >&9
) 2>/dev/null
(
	exec 9<>"/dev/tcp/127.0.0.1/$(port)"
	printf 'POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n' >&9
	timeout 2 cat <&9 >"$T/post"
) 2>/dev/null
ok "a body is refused, not waited for" has "$T/post" '405'
ok "the manager goes on" scrape
ok "and its VMs, too" is "$(sample '[.vms[] | select(.state == "running")] |
	length')" 2
ok "who drips was ended after 8 s" until_true 4 dead $dripper
kill -TERM "$manager"
wait "$manager"
ok "the run ends with status 0" is $? 0 || show "$T/mout" "$T/merr"

# ---- addresses ----
refused()
{
	run_for 10 "$SARDINE" pack -n 1 --kernel "$TINY" --mem 32M \
		--append i --socket "$SOCK" --for 1 --metrics "$2"
	ok "--metrics '$2' is refused with one line" test $rc = "$1" \
		-a "$(wc -l <"$T/err")" = 1 \
		-a "$(grep -c -- '--metrics' "$T/err")" = 1 || show "$T/err"
}
refused 2 :9464
refused 2 localhost
refused 2 1.2.3.4:port
refused 2 70000
refused 1 192.0.2.1:9464
start
until_true 10 has_url
refused2=$(port)
kill -0 "$manager" && run_for 10 "$SARDINE" pack -n 1 --kernel "$TINY" \
	--mem 32M --append i --socket "$SOCK.2" --for 1 --metrics "$refused2"
ok "a port in use is refused with one line" test $rc = 1 \
	-a "$(wc -l <"$T/err")" = 1 -a "$(grep -c 'in use' "$T/err")" = 1 ||
	show "$T/err"
kill -TERM "$manager"
wait "$manager"
ok "nothing is left" test ! -e "$SOCK" -a ! -e "$SOCK.2"
finish
