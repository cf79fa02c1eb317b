#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# `pack --record` and `sardine report`: what is recorded, what survives whose
# death, the page, and bad input.
. "$(dirname "$0")/lib.sh"

start()
{
	bg "$SARDINE" pack -n 3 --socket "$SOCK" --kernel "$TINY" --mem 32M \
		--append i "$@" >"$T/mout" 2>"$T/merr"
	manager=$pid
}
up() { is "$(sample '[.vms[] | select(.boot_ms > 0)] | length')" 3; }
report() { run_for 20 "$SARDINE" report "$@"; }
# XML, nothing fetched, no script.
sound()
{
	[ -s "$1" ] && ! grep -q '<script\|url(\|src=\|href=' "$1" &&
		{ ! command -v xmllint >/dev/null || xmllint --noout "$1"; }
}
lines_are_json() { jq -e . "$1" >/dev/null; }
samples() { jq -s '[.[] | select(.host)] | length' "$1"; }

# ---- a run, a VM killed in it, the manager killed at the end ----
start --record "$T/r.jsonl"
until_true 20 up
sleep 1.2
kill -9 "$(vm_pid vm1)"
until_true 2 vm_state_is vm1 killed
sleep 1.5
# From a running host, too.
report --socket "$SOCK" --for 1 -o "$T/live.html"
ok "report of a running host" test $rc = 0 -a ! -s "$T/err" || show "$T/err"
ok "its page is sound and has the three VMs" test \
	"$(grep -c 'Memory of vm[012]' "$T/live.html")" = 3
ok "it is XML and fetches nothing" sound "$T/live.html"
pids=$(sample '.vms[] | select(.pid > 0) | .pid')
kill -9 "$manager"
wait "$manager" 2>/dev/null
ok "kill -9 of the manager leaves a record of whole lines" lines_are_json \
	"$T/r.jsonl"
for p in $pids; do kill -TERM "$p"; done
ok "with a sample a second" test "$(samples "$T/r.jsonl")" -ge 4
ok "a sample is what top --json prints, and a time" test \
	"$(jq -s '[.[] | select(.host)][-1] | has("host") and has("vms") and
		has("sharing") and has("time")' "$T/r.jsonl")" = true
ok "events are recorded" test "$(jq -r .event "$T/r.jsonl" |
	grep -c 'vm1: killed by signal 9')" = 1
report "$T/r.jsonl" -o "$T/r.html"
ok "report makes a page" test $rc = 0 -a ! -s "$T/err" || show "$T/err"
ok "it is XML and fetches nothing" sound "$T/r.html"
ok "it tells the death" test "$(grep -c 'ended: vm1 killed' "$T/r.html")" -ge 1 \
	-a "$(grep -c 'killed by signal 9' "$T/r.html")" = 1
report -o - "$T/r.jsonl"
ok "the same on standard output" cmp -s "$T/out" "$T/r.html"
report "$T/r.jsonl" -o "$T/r.svg" --title 'a < b & c'
ok "and as SVG" test $rc = 0 -a "$(head -c 5 "$T/r.svg")" = '<svg '
ok "which is XML and fetches nothing" sound "$T/r.svg"
ok "its title is escaped" has "$T/r.svg" 'a &lt; b &amp; c'

# ---- torn, bad, full ----
head -c -100 "$T/r.jsonl" >"$T/torn.jsonl"
report "$T/torn.jsonl" -o "$T/x.html"
ok "a torn last line does not matter" test $rc = 0 -a ! -s "$T/err"
one_line() # NAME STATUS WORD
{
	ok "$1: one line and status $2" test $rc = "$2" \
		-a "$(wc -l <"$T/err")" = 1 \
		-a "$(grep -c -- "$3" "$T/err")" = 1 || show "$T/err"
}
rm -f "$T/x.html"
sed '2s/.*/rubbish/' "$T/r.jsonl" >"$T/bad.jsonl"
report "$T/bad.jsonl" -o "$T/x.html"
one_line "rubbish in the middle" 1 'bad.jsonl:2: no sample'
report "$T/nothing" -o "$T/x.html"
one_line "no such record" 1 'no such file'
report "$T" -o "$T/x.html"
one_line "a directory" 1 'is a directory'
report "$SARDINE" -o "$T/x.html"
one_line "a program" 1 'no sample'
report /dev/zero -o "$T/x.html"
one_line "a device" 1 'not a regular file'
report "$T/r.jsonl" --socket "$SOCK" -o "$T/x.html"
one_line "file and socket" 2 'not both'
report "$T/r.jsonl"
one_line "no output" 2 '--output is missing'
report --for 0 -o "$T/x.html"
one_line "no time" 2 '--for 0'
report --socket "$T/nobody" -o "$T/x.html"
one_line "no manager" 1 'no manager'
report "$T/r.jsonl" -o "$T/none/x.html"
one_line "output in no directory" 1 '-o .*none/x.html'
report "$T/r.jsonl" -o /dev/full
one_line "output full" 1 'No space'
ok "none of them left a page" test ! -e "$T/x.html"

record() # FILE: a run of a second that records there
{
	run_for 20 "$SARDINE" pack -n 1 --socket "$SOCK" --kernel "$TINY" \
		--mem 32M --append i --for 1 --record "$1"
}
record "$TINY"
one_line "a record over a kernel" 1 'no record of a run'
ok "the kernel is as it was" test "$(head -c 4 "$TINY" | tail -c 3)" = ELF
record "$T"
one_line "a record over a directory" 1 '--record'
record /dev/full
one_line "a record in a device" 1 'not a regular file'
record "$T/r.jsonl"
ok "a second run starts its record anew" test $rc = 0 \
	-a "$(jq -s '[.[] | select(.host)][-1].vms | length' "$T/r.jsonl")" = 1
ok "nothing is left" test ! -e "$SOCK" -a ! -e "$T/r.jsonl.tmp"
finish
