#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --backing and `sardine memsweep`.
. "$(dirname "$0")/lib.sh"

run_tiny() { run_for 30 "$SARDINE" run --kernel "$TINY" --mem 32M \
	--append off --stats "$T/stats" "$@"; }
stat_of() { jq -r "$1" "$T/stats"; }

run_tiny --backing 2m-all
ok "a VM whose memory is all on large pages powers off" is $rc 0
# What the host cannot do is counted, not hidden.
all=$(stat_of .memory.large_bytes)
ok "all of it is, or the reason is counted" test "$all" = $((32 << 20)) -o \
	"$(stat_of '[.largepage|to_entries[]|select(.key|startswith("failed_"))
		|.value]|add')" -gt 0
run_tiny --backing 4k
ok "--backing 4k: none" test $rc = 0 -a "$(stat_of .memory.large_bytes)" = 0
ok "and no policy" is "$(stat_of .largepage)" null
run_tiny --backing auto
ok "--backing auto" is $rc 0
run_for 5 "$SARDINE" run --kernel "$TINY" --backing 3m
ok "--backing 3m is refused, in one line" test $rc = 2 -a \
	"$(wc -l <"$T/err")" = 1
echo "a kernel=$TINY backing=8k" >"$T/fleet"
run_for 5 "$SARDINE" pack "$T/fleet"
ok "backing=8k in a fleet, too" test $rc != 0 -a \
	"$(grep -c 'line 1.*backing=8k' "$T/err")" = 1

# The numbers are the host's affair; the table must be there, and right sums.
run_for 120 "$SARDINE" memsweep --quick --rounds 1 --max 32M --json
if grep -q 'gives no 2 MiB pages' "$T/err"; then
	ok "memsweep says that the host has no 2 MiB pages" is $rc 1
else
	ok "memsweep ends well" is $rc 0 || show "$T/err"
	ok "with six cells a loop" is "$(jq -c \
		'[.loops[].cells|length]|unique' "$T/out")" '[6]'
	ok "each took time" is "$(jq '[.loops[].cells[].seconds
		|select(. <= 0)]|length' "$T/out")" 0
	ok "2 MiB cells are on large pages" is "$(jq '[.loops[]|.bytes as $b|
		.cells[]|select(.backing=="2m" and .large_bytes<$b)]|length' \
		"$T/out")" 0
	ok "4 KiB cells are not" is "$(jq '[.loops[].cells[]
		|select(.backing=="4k" and .large_bytes>0)]|length' \
		"$T/out")" 0
fi
finish
