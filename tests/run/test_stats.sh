#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Statistics: `run --stats` as a file and as tables, `stats` of the file and of
# the VMs of a running pack.
. "$(dirname "$0")/lib.sh"

holds() { jq -e "$1" "$2" >/dev/null; }
run_tiny() { run_for 30 "$SARDINE" run --kernel "$TINY" --mem 32M "$@"; }
stats() { "$SARDINE" stats --socket "$SOCK" "$@" >"$T/out" 2>"$T/err"; }

"$SARDINE" check --json | jq -e '.[] | select(.section == "engine" and
	.name == "bt" and .usable == "yes")' >/dev/null || {
	skip "statistics" "bt does not work here; see sardine check"
	finish
}

run_tiny --append off --stats "$T/tiny.json"
ok "run --stats FILE" test $rc = 0 -a -s "$T/tiny.json"
stats "$T/tiny.json"
ok "stats FILE prints the tables" test $? = 0 \
	-a "$(grep -cE '^Total +[0-9]' "$T/out")" = 1 || show "$T/out" "$T/err"
stats --json "$T/tiny.json"
ok "stats --json FILE is the file" test \
	"$(jq -S . "$T/out")" = "$(jq -S . "$T/tiny.json")"
run_tiny --append off --stats -
ok "run --stats - prints them on standard error" test $rc = 0 \
	-a "$(grep -cE '^Total +[0-9]' "$T/err")" = 1 || show "$T/err"
run_tiny --append off --engine interp --stats -
ok "without a translator they say so" has "$T/err" 'no translator ran'
echo '[1, 2]' >"$T/bad.json"
stats "$T/bad.json"
ok "another file is refused with one line" test $? = 1 \
	-a "$(wc -l <"$T/err")" = 1
echo '{"bt": {"translations": "x"}, "callouts": {"\u001b[2J": 5, "a": -1}}' \
	>"$T/odd.json"
stats "$T/odd.json"
ok "odd values and names do no harm" test $? = 0 \
	-a "$(grep -c "$(printf '\033')" "$T/out")" = 0 || show "$T/out"

if [ -s "$GUEST/vmlinuz" ]; then
	run_for 60 "$SARDINE" run --kernel "$GUEST/vmlinuz" --mem 128M \
		--initrd "$GUEST/initrd.img" --tc-size 1M --engine bt \
		--append 'console=ttyS0 sardine.poweroff' --count \
		--stats "$T/linux.json"
	ok "a boot with a TC of 1M" is $rc 0 || show "$T/err"
	ok "its rows add up" holds '
		([.[keys[] | select(startswith("phase"))]] |
			map(.units) | add) == .bt.translations' "$T/linux.json"
	ok "the TC kept its bound, by evicting" holds '.bt |
		.tc_bytes == 1048576 and .tc_peak <= .tc_bytes and
		.tc_used <= .tc_peak and .tc_evictions > 8 and
		.tc_flushes == 0 and .units_live > 1000 and
		.units_live < .translations - .tc_evicted + 1 and
		.exits_chained <= .exits' "$T/linux.json" ||
		jq -c .bt "$T/linux.json" | show
	ok "the code counted what it executed" holds '.executed |
		.units > 10000000 and .insns > 2 * .units and
		.ibtc > 1000000 and .ibtc < .units' "$T/linux.json" ||
		jq -c .executed "$T/linux.json" | show
	ok "every callout has a reason" holds '
		([.callouts[]] | add) == .bt.callouts' "$T/linux.json"
	ok "every fault has a kind" holds '
		(.faults.hidden == .bt.faults_hidden) and
		(([.faults[]] | add) - .faults.hidden <=
			.bt.faults_slow + (.bt.faults_direct // 0))' \
		"$T/linux.json" || jq -c .faults,.bt "$T/linux.json" | show
	ok "what is common was timed" holds '. as $r | .callouts | to_entries |
		map(select(.value > 1000) | $r.callouts_cycles[.key] > 0) |
		length > 2 and all' "$T/linux.json"
else
	skip "statistics of a boot" "no guest kernel in $GUEST"
fi

stats nobody
ok "without a manager: status 1 and one line" test $? = 1 \
	-a "$(wc -l <"$T/err")" = 1 -a "$(grep -c 'no manager' "$T/err")" = 1
bg "$SARDINE" pack --socket "$SOCK" --kernel "$TINY" --mem 32M -n 2 \
	--append i --engine bt >"$T/mout" 2>"$T/merr"
published()
{
	stats --json vm1 && holds '.vm1.bt.interp_insns > 10' "$T/out"
}
ok "a VM's counters reach the manager" until_true 20 published ||
	show "$T/out" "$T/err" "$T/merr"
ok "they are those of a file" test \
	"$(jq -r '.vm1 | keys[]' "$T/out")" = \
	"$(jq -r 'keys[] | select(. != "run" and . != "memory")' \
		"$T/tiny.json")" || show "$T/out"
stats vm1
ok "stats VM prints the tables" test $? = 0 \
	-a "$(grep -cE '^Total +[0-9]' "$T/out")" = 1 || show "$T/out"
stats
ok "stats prints those of every VM" test $? = 0 \
	-a "$(grep -cE '^vm[01]$' "$T/out")" = 2 || show "$T/out"
stats vm9
ok "a VM that is not there: status 1 and one line" test $? = 1 \
	-a "$(wc -l <"$T/err")" = 1
ok "top works beside it" until_true 10 holds '.vms | length == 2' \
	<(top_json)
kill "$pid"
wait "$pid"
finish
