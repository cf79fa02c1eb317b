#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How `sardine run` ends: exit statuses, the console in pipes and on a
# terminal, signals, --stats. Under every engine that works here.
. "$(dirname "$0")/lib.sh"

run_tiny() { run_for 30 "$SARDINE" run --kernel "$TINY" --mem 32M \
	--engine "$engine" "$@"; }

statuses()
{
	run_tiny --append off
	ok "$engine: power-off is 0" is $rc 0
	run_tiny --append reset --no-reboot
	ok "$engine: reset under --no-reboot is 3" is $rc 3
	run_tiny --append triple --no-reboot
	ok "$engine: triple fault under --no-reboot is 3" is $rc 3
	run_tiny --append exit --debug-exit
	ok "$engine: debug exit 0x10 is 33" is $rc 33
	# Without --debug-exit the port is nobody's: the guest goes on.
	run_for 2 "$SARDINE" run --kernel "$TINY" --mem 32M --append exit \
		--engine "$engine"
	ok "$engine: port 0xf4 does nothing without --debug-exit" is $rc 124
}

# What is not built stops the VM, and says all that is needed to see why.
engine_error()
{
	run_tiny --append v86
	ok "$engine: an engine error is 4, with reason, rip, bytes, registers" \
		test $rc = 4 \
		-a "$(grep -c 'virtual-8086' "$T/err")" -ge 1 \
		-a "$(grep -ciE '^ *rip|rip[ =]' "$T/err")" -ge 1 \
		-a "$(grep -ciE 'rax[ =]' "$T/err")" -ge 1 \
		-a "$(grep -ciE 'cf' "$T/err")" -ge 1 || show "$T/err"
}

# Without --no-reboot a reset loads the kernel again, confined or not: this
# guest resets for ever, so it must still run when the time is up.
reboots()
{
	run_for 2 "$SARDINE" run --kernel "$TINY" --mem 32M --append reset \
		--engine "$engine"
	ok "$engine: resets go on under the system call filter" is $rc 124
	[ $rc = 124 ] || show "$T/err"
}

stats()
{
	run_tiny --append off --stats "$T/stats.json"
	ok "$engine: --stats" test "$(jq -r .run.exit "$T/stats.json")" = \
		poweroff -a "$(jq -r .run.engine "$T/stats.json")" = "$engine"
}

pipes()
{
	printf 'hello%04096dq' 0 >"$T/in"
	for kind in file pipe; do
		if [ $kind = file ]; then
			timeout 30 "$SARDINE" run --kernel "$TINY" --mem 32M \
				--append c --engine "$engine" <"$T/in" >"$T/out"
		else
			cat "$T/in" | timeout 30 "$SARDINE" run --mem 32M \
				--kernel "$TINY" --append c \
				--engine "$engine" >"$T/out"
		fi
		rc=$?
		{ echo ready; head -c -1 "$T/in"; } >"$T/want"
		ok "$engine: console input from a $kind, every byte" \
			test $rc = 0 -a "$(cmp "$T/out" "$T/want" 2>&1)" = ""
	done
}

signals()
{
	for sig in TERM INT HUP QUIT; do
		# setsid: a background job of a script ignores SIGINT.
		bg setsid "$SARDINE" run --kernel "$TINY" --mem 32M \
			--append spin --engine "$engine" >"$T/out" </dev/null
		until_true 20 has "$T/out" userland
		kill -$sig $pid
		wait $pid
		rc=$?
		ok "$engine: SIG$sig ends it at once with 128 + number" \
			is $rc $((128 + $(kill -l $sig)))
	done
}

# The tests of the terminal: `script` gives the program a pty.
terminal()
{
	local cmd="$SARDINE run --kernel $TINY --mem 32M --engine $engine"
	local show='stty -a | grep -o "[-]*icanon\|[-]*echo\b"'

	command -v script >/dev/null || {
		skip "$engine: terminal" "script is not installed"
		return
	}
	# Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-C goes to the guest, Ctrl-A x
	# quits; then the terminal must be cooked again.
	(sleep 1; printf 'a\001\001b\003c'; sleep 1; printf '\001x') |
		timeout 30 script -qec "$cmd --append c; echo st=\$?; $show" \
			/dev/null >"$T/out" 2>&1
	ok "$engine: terminal: escapes and raw bytes" \
		grep -qaP 'a\x01b\x03c' "$T/out"
	ok "$engine: terminal: Ctrl-A x quits with 0" grep -qa 'st=0' "$T/out"
	ok "$engine: terminal: cooked again" test \
		"$(grep -aoE -- '-?(icanon|echo)\b' "$T/out" | tail -2 |
			tr -d '\n')" = icanonecho
	(sleep 3) | timeout 30 script -qec \
		"(sleep 1; kill -TERM \$\$) & exec $cmd --append s" \
		/dev/null >"$T/out" 2>&1
	ok "$engine: terminal: raw mode ends with a signal, too" \
		test $? != 124
}

for engine in interp bt; do
	"$SARDINE" check --json | jq -e ".[] | select(.section == \"engine\"
		and .name == \"$engine\" and .usable == \"yes\")" >/dev/null || {
		skip "$engine" "does not work here; see sardine check"
		continue
	}
	statuses
	engine_error
	reboots
	stats
	pipes
	signals
	terminal
done
finish
