#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# The live tables of `top` and `pack`: keys, sizes, and a terminal that is as it
# was afterwards, whatever ended them.
. "$(dirname "$0")/lib.sh"

if ! command -v script >/dev/null; then
	skip "live tables" "script is not installed"
	finish
fi
# on_tty NAME KEYS COMMAND: on a terminal of 100x24, with the terminal's state
# before and after around it; KEYS is run, its output typed.
# script's shell has to outlive the Ctrl-C that its program takes: bash does, when
# the program ended by itself, dash does not.
on_tty()
{
	$2 "$1" | SHELL=/bin/bash TERM=${term:-xterm} timeout 30 script -qec \
		"stty rows ${rows:-24} cols ${cols:-100}; stty -g; $3
		echo status=\$?; stty -g" /dev/null >"$T/$1" 2>&1
}
nothing() { :; }
restored() # NAME: the two states are equal, and the screen was given back
{
	local states

	states=$(tr -d '\r' <"$T/$1" | grep -aoE '([0-9a-f]+:){20,}[0-9a-f]+')
	[ "$(wc -l <<<"$states")" = 2 ] &&
		[ "$(uniq <<<"$states" | wc -l)" = 1 ] &&
		[ "$(grep -ao $'\033\[?1049[hl]' "$T/$1" | tail -1)" = \
			$'\033[?1049l' ]
}
status_of() { grep -ao 'status=[0-9]*' "$T/$1" | tail -1; }
top="$SARDINE top --socket $SOCK"
up() { is "$(sample '[.vms[] | select(.boot_ms > 0)] | length')" 30; }

bg "$SARDINE" pack -n 30 --kernel "$TINY" --mem 16M --append i \
	--socket "$SOCK" >"$T/mout" 2>"$T/merr"
manager=$pid
ok "VMs come up" until_true 30 up

# All at the same time: each waits for its table, mostly.
# Typing waits for what is to be seen before.
seen() { until_true 15 grep -aq -- "$2" "$T/$1"; }
keys()
{
	seen q 'vm3'
	# Ctrl-L: drawn in full, or only what differs would be sent.
	printf '>\033[6~\033[6~\014'
	seen q '14-30 of 30'
	printf '>>rr<q'
	sleep 1
}
on_tty q keys "$top" &
jobs="$!"
on_tty term nothing "timeout --foreground -s TERM 2 $top" &
jobs="$jobs $!"
on_tty int nothing "timeout --foreground -s INT 2 $top" &
jobs="$jobs $!"
ctrl_c() { seen "$1" "${until:-vm1}"; printf '\003'; sleep 1; }
on_tty ctrlc ctrl_c "$top" &
jobs="$jobs $!"
narrow() { seen narrow sardine; printf '<<<<'; sleep 0.3; printf '\033[B\033[B'; sleep 0.3; printf q; sleep 1; }
rows=5 cols=18 on_tty narrow narrow "$top" &
jobs="$jobs $!"
resize() { sleep 4; printf q; sleep 1; }
on_tty resize resize "(sleep 2; stty rows 40 cols 60 </dev/tty) & $top" &
jobs="$jobs $!"
term=nonsense on_tty unknown nothing "$top" &
jobs="$jobs $!"
pack="$SARDINE pack -n 2 --kernel $TINY --mem 32M --append i"
keys2() { seen pack vm1; printf '>>r'; sleep 0.3; printf 'q'; }
on_tty pack keys2 "$pack --socket $SOCK.1 --for 4" &
jobs="$jobs $!"
until='vm1: userland' on_tty packint ctrl_c "$pack --socket $SOCK.2" &
jobs="$jobs $!"
term=nonsense on_tty packlines nothing "$pack --socket $SOCK.3 --for 2" &
jobs="$jobs $!"
# shellcheck disable=SC2086 # a list of numbers
wait $jobs
ok "q ends top, status 0" is "$(status_of q)" status=0 || show "$T/q"
ok "and the terminal is as it was" restored q
ok "it showed the VMs, and the last ones after a page key" test \
	"$(grep -ac vm3 "$T/q")" -ge 1 -a "$(grep -ac vm29 "$T/q")" -ge 1
ok "it showed only what fits" test "$(grep -ac '14-30 of 30' "$T/q")" -ge 1
for how in term int ctrlc narrow resize; do
	ok "$how: the terminal is as it was" restored $how || cat -v "$T/$how"
done
ok "a new size is taken" test "$(grep -ac '1-3[0-9] of 30\|vm29' "$T/resize")" -ge 1
ok "a terminal of unknown type gets the plain table once" test \
	"$(grep -acE '^vm[0-9]+ +running' "$T/unknown")" = 30 ||
	cat -v "$T/unknown"

# The manager goes away.
on_tty gone nothing "$top" &
job=$!
sleep 2
kill -TERM "$manager"
wait "$manager"
wait $job
ok "top ends with its manager, status 0" is "$(status_of gone)" status=0
ok "and the terminal is as it was" restored gone

# ---- pack ----
ok "pack: the whole time, though q was pressed" test \
	"$(status_of pack)" = status=0
for how in pack packint; do
	ok "$how: the terminal is as it was" restored $how || cat -v "$T/$how"
	ok "$how: then come the events and the final table" test \
		"$(grep -acE '^vm[01] +running' "$T/$how")" = 2 \
		-a "$(sed $'s/.*\033\[?1049l[^v]*//' "$T/$how" |
			grep -ac '^vm[01]: userland after')" = 2 ||
		cat -v "$T/$how"
done
ok "Ctrl-C ends pack with status 0" is "$(status_of packint)" status=0
ok "a terminal of unknown type gets lines" test \
	"$(grep -ac '^vm[01]: userland after' "$T/packlines")" = 2 \
	-a "$(grep -ac $'\033' "$T/packlines")" = 0
ok "nothing is left" test ! -e "$SOCK" -a ! -e "$SOCK.1" -a \
	! -e "$SOCK.2" -a ! -e "$SOCK.3"
finish
