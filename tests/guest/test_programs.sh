#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 200
# The programs of the bench, with small parameters: under bt they find what they
# find natively. And the bench's own arithmetic, with programs that only pretend.
. "$(dirname "$0")/../run/lib.sh"

list='primes 200000
fib 22
getppid 5000
forkwait 100
memsweep 3000000 4
chase 1
tlbread4k 200000 64
tlbread2m 200000 64
faults 2
pipe 2000
signals 3000
syscalls 2000
execloop 50 /bin/quit
timed hash seq 20000'
# What of a line depends on the parameters alone.
lines() { tr -d '\r' <"$1" | sed -n 's/^\([a-z].* result=[^ ]*\) seconds=.*/\1/p'; }

ln -s "$GUEST/guest" "$T/quit"
while read -r name args; do
	# shellcheck disable=SC2086 # words
	(exec -a "$name" "$GUEST/guest" ${args//\/bin\/quit/"$T/quit"})
done <<<"$list" >"$T/native.out"
lines "$T/native.out" >"$T/native"
all=$(sed 's/$/ \&\&/' <<<"$list" | tr '\n' ' ')
run_for 120 "$SARDINE" run --engine bt --mem 192M --no-reboot --stats "$T/stats" \
	--kernel "$GUEST/vmlinuz" --initrd "$GUEST/initrd.img" --append \
	"console=ttyS0 quiet sardine.run=sh -c \"$all true\""
# (Quoted: the kernel takes no more than 32 words for others.)
lines "$T/out" >"$T/guest"
ok "every program ran natively" is "$(wc -l <"$T/native")" 19 ||
	show "$T/native.out"
ok "and under bt" is $rc 0 || show "$T/out" "$T/err"
while read -r line; do
	ok "under bt: ${line%% *}" has "$T/guest" "^$line$" ||
		{ echo "# want $line"; grep "^${line%% *} " "$T/guest" | show; }
done <"$T/native"
# Nearly all of the 8192 pages of `faults`.
touches=$(jq .bt.touches "$T/stats")
ok "a place that faults again and again is foreseen" test "$touches" -gt 7000 ||
	echo "# $touches of the faults"

# The bench: who pretends to be Sardine, QEMU and native prints these.
pretend() # FILE LINE
{
	printf '#!/bin/sh\ncase "$*" in *clock*) echo clock begin; sleep 0.1
		echo clock end seconds=1.000; exit ;; esac\necho "%s"\n' "$2" >"$1"
	chmod +x "$1"
}
mkdir "$T/bin"
bench() # SARDINE-LINE [QEMU-LINE]
{
	pretend "$T/bin/native" 'primes n=1 result=7 seconds=1.000'
	pretend "$T/bin/sardine" "$1"
	pretend "$T/bin/qemu-system-x86_64" \
		"${2:-primes n=1 result=7 seconds=3.000}"
	PATH=$T/bin:$PATH SARDINE=$T/bin/sardine STATIC=$T/bin/native \
		KERNEL=/dev/null INITRD=/dev/null BUSY=0 \
		run_for 60 "$here/../../bench/bench_programs.sh" -n 2 -q 1 \
		-p primes -j "$T/json" ${noclock--c}
}
says() { is "$(jq -r '.programs[0].verdict' "$T/json")" "$1"; }

bench 'primes n=1 result=7 seconds=1.080'
ok "within the floor: ok" eval 'is $rc 0 && says ok' || show "$T/out" "$T/err"
ok "ratios are to native" is "$(jq -c '.programs[0] | [.ratio, .qemu_ratio]' \
	"$T/json")" '[1.08,3]' || show "$T/json"
bench 'primes n=1 result=7 seconds=1.010'
ok "and the target is told" eval 'is $rc 0 && says "target met"' || show "$T/out"
bench 'primes n=1 result=7 seconds=1.500'
ok "above the floor: missed" eval 'is $rc 1 && says "MISSED the floor"' ||
	show "$T/out"
bench 'primes n=1 result=8 seconds=1.000'
ok "another result: wrong" eval 'is $rc 1 && says "WRONG RESULT"' ||
	show "$T/out"
bench 'primes n=1 result=7 seconds=1.050' 'primes n=1 result=7 seconds=1.040'
ok "slower than QEMU" eval 'is $rc 1 && says "SLOWER than qemu"' ||
	show "$T/out"
bench 'no figure at all'
ok "no figure: failed" eval 'is $rc 1 && says FAILED' || show "$T/out"
noclock='' bench 'primes n=1 result=7 seconds=1.010'
ok "a clock that does not keep time is found" \
	eval 'is $rc 1 && has "$T/out" "not to be trusted"' || show "$T/out"
finish
