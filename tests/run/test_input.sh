#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bad input: one clear line that names the thing, the right status, nothing
# left behind.
. "$(dirname "$0")/lib.sh"

before=$(ls /dev/shm 2>/dev/null; ls -d /tmp/sardine-[0-9]* 2>/dev/null)

# bad STATUS THING REMEDY ARGUMENTS...: sardine must end so, with one line on
# stderr that holds both texts, and nothing on stdout.
bad()
{
	local want=$1 thing=$2 remedy=$3 name
	shift 3
	name="$(echo "$*" | sed "s|$T|T|g; s|$BUILD|B|g" | cut -c1-60)"
	run_for 20 "$SARDINE" "$@"
	bad_is_right "$want" "$thing" "$remedy" || {
		ok "$name" false
		echo "# status $rc, wanted $want; '$thing', '$remedy' in:"
		show "$T/err" "$T/out"
		return
	}
	ok "$name" true
}
bad_is_right()
{
	[ "$rc" = "$1" ] && [ "$(wc -l <"$T/err")" = 1 ] &&
		[ ! -s "$T/out" ] && grep -qF -- "$2" "$T/err" &&
		grep -qE -- "$3" "$T/err"
}

mkdir "$T/dir"
: >"$T/empty"
printf 'MZ' >"$T/two"
head -c 600 "$TINY" | tail -c 500 >"$T/rubbish"
head -c 65536 /dev/zero >"$T/zeroes"
head -c 60 "$TINY" >"$T/cut"
mkfifo "$T/fifo"
truncate -s 64M "$T/big"
K=$TINY

for cmd in "run" "pack -n 2 -s $SOCK --for 1"; do
	bad 2 --kernel --kernel $cmd
	bad 1 "$T/none" "no such file" $cmd --kernel "$T/none"
	bad 1 "$T/dir" "is a directory" $cmd --kernel "$T/dir"
	bad 1 "$T/fifo" "regular file" $cmd --kernel "$T/fifo"
	bad 1 "$T/empty" "empty" $cmd --kernel "$T/empty"
	bad 1 "$T/none" "no such file" $cmd --kernel "$K" --initrd "$T/none"
	bad 1 "$T/dir" "is a directory" $cmd --kernel "$K" --initrd "$T/dir"
	bad 2 "--mem 0" "size such as" $cmd --kernel "$K" --mem 0
	bad 2 "--mem 4097" "multiple of 4096" $cmd --kernel "$K" --mem 4097
	bad 1 "--mem 1 TiB" "smaller" $cmd --kernel "$K" --mem 1T
	bad 2 "--mem 12Q" "128M" $cmd --kernel "$K" --mem 12Q
	bad 2 "--mem -1" "size" $cmd --kernel "$K" --mem -1
	bad 2 "--mem" "argument" $cmd --kernel "$K" --mem
	bad 2 "--frobnicate" "unknown option.*--help" $cmd --frobnicate
	bad 2 "--engine qemu" "auto, bt or interp" $cmd --kernel "$K" \
		--engine qemu
	bad 1 "--engine kvm" "not built yet" $cmd --kernel "$K" --engine kvm
done
# What only the loader can see, of a kernel that is there and no kernel.
for f in two rubbish zeroes cut; do
	bad 1 "$T/$f" "" run --kernel "$T/$f" --engine interp
done
bad 1 "$T/big" "larger|more --mem|too" run --kernel "$K" --engine interp \
	--initrd "$T/big" --mem 32M
bad 2 "extra" "too many" run --kernel "$K" extra
bad 1 "$T/dir" "" run --kernel "$K" --stats "$T/dir"
bad 1 "$T/none/x" "" run --kernel "$K" --stats "$T/none/x"
if [ -s "$GUEST/vmlinuz" ]; then
	head -c 100000 "$GUEST/vmlinuz" >"$T/short"
	bad 1 "$T/short" "truncated" run --kernel "$T/short" --engine interp
	bad 1 "$T/big" "larger|more --mem|too" run --engine interp --mem 64M \
		--kernel "$GUEST/vmlinuz" --initrd "$T/big"
else
	skip "truncated bzImage" "no guest kernel in $GUEST"
fi

bad 2 "--tc-size 64 KiB" "128 KiB to 1 GiB" run --kernel "$K" --tc-size 64K
bad 2 "--tc-size 2 GiB" "128 KiB to 1 GiB" pack -n 1 --kernel "$K" --tc-size 2G
bad 2 "nothing to pack" "-n N" pack --kernel "$K"
bad 2 "missing or 0" "1 to 1024" pack --kernel "$K" -n 0
bad 2 "-n 5000" "1 to 1024" pack --kernel "$K" -n 5000
bad 2 "-n x" "digits" pack --kernel "$K" -n x
bad 2 "one of them" "not both" pack --kernel "$K" -n 2 "$T/fleet"
bad 1 "$T/none" "fleet file" pack "$T/none"
printf 'a kernel=%s\nb kernel=%s mem=1X\n' "$K" "$K" >"$T/fleet"
bad 1 "line 2" "mem=1X" pack "$T/fleet"
bad 1 "--host-mem 32 MiB" "fewer or smaller" pack -n 2 --kernel "$K" \
	--mem 64M --host-mem 32M -s "$SOCK"
bad 1 "--host-mem 1 TiB" "more than this host" pack -n 2 --kernel "$K" \
	--mem 64M --host-mem 1T -s "$SOCK"
bad 1 "$T/none/s" "--socket" pack -n 1 --kernel "$K" -s "$T/none/s"
bad 1 "$T/none/x" "--log-dir" pack -n 1 --kernel "$K" -s "$SOCK" \
	--log-dir "$T/none/x"
bad 1 "$T/empty" "socket" pack -n 1 --kernel "$K" -s "$T/empty" --for 1
bad 1 "$T/none/x" "--json" pack -n 1 --kernel "$K" -s "$SOCK" --json "$T/none/x"
bad 1 "$T/dir" "--json" pack -n 1 --kernel "$K" -s "$SOCK" --json "$T/dir"
bad 1 "--socket" "empty" pack -n 1 --kernel "$K" -s ""
bad 1 "--socket" "empty" top -s ""
printf 'a \033[2J\001=x\n' >"$T/escape"
bad 1 "line 1" "no such key" pack "$T/escape"
ok "what a file holds does not reach the terminal" test \
	"$(tr -d '\n' <"$T/err" | tr -d ' -~' | wc -c)" = 0
bad 1 "$T/nobody" "no manager" top -s "$T/nobody"
bad 1 "$T/nobody" "no manager" top --json -s "$T/nobody"
bad 1 "$T/nobody" "no manager" stats vm0 -s "$T/nobody"
bad 1 "$T/none.json" "cannot be read" stats "$T/none.json"
bad 2 "frobnicate" "no such command" frobnicate
bad 2 "frobnicate" "no such command" help frobnicate

# Good ways of asking.
run_for 20 "$SARDINE" --help
ok "--help: status 0, text on stdout" test "$rc" = 0 -a -s "$T/out" -a ! -s "$T/err"
for c in run pack top stats report check man; do
	run_for 20 "$SARDINE" $c --help
	ok "$c --help" test "$rc" = 0 -a -s "$T/out" -a ! -s "$T/err"
done
run_for 20 "$SARDINE"
ok "no command: usage on stderr, status 2" test "$rc" = 2 -a -s "$T/err"
run_for 20 "$SARDINE" man
ok "man names every option of run" test "$(grep -c 'debug.-exit\|no.-reboot' "$T/out")" -ge 2
run_for 20 "$SARDINE" check
ok "check says what each engine can" test "$rc" = 0 \
	-a "$(grep -cE '^ +(yes|NO|-) +(bt|kvm|interp) ' "$T/out")" = 3
ok "check: memory, THP, VMAs, NUMA" test \
	"$(grep -cE 'max_map_count|shmem_enabled|node 0|MiB|GiB' "$T/out")" -ge 4
run_for 20 sh -c '"$0" check --json | jq -e "length > 5" >/dev/null' "$SARDINE"
ok "check --json is JSON" test "$rc" = 0
# With stdout closed or full nothing hangs.
run_for 20 sh -c '"$0" check >&-' "$SARDINE"
ok "closed stdout" test "$rc" != 124
run_for 20 sh -c '"$0" run --kernel "$1" --append off --engine interp <&- >&- 2>&-' \
	"$SARDINE" "$K"
ok "run with 0, 1 and 2 closed" test "$rc" = 0

after=$(ls /dev/shm 2>/dev/null; ls -d /tmp/sardine-[0-9]* 2>/dev/null)
ok "nothing left in /dev/shm and /tmp" is "$before" "$after"
ok "no socket left" test ! -e "$SOCK" -a ! -e "$SOCK.lock"
# Ours would have this test's directory or image in their command line.
left=$(pgrep -fc "sardine (run|monitor|pack).*$T")
ok "no process left" is "$left" 0
finish
