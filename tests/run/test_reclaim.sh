#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# More memory sold than there is: stock guests that check every byte of their
# memory, under a budget that is far below the sum, and a manager that dies in
# the middle of it.
. "$(dirname "$0")/lib.sh"

K=$GUEST/vmlinuz
I=$GUEST/initrd.img
[ -e "$K" ] || {
	skip "reclaim" "no guest: make guest"
	finish
}

# start N MEMWORK-ARGUMENTS PACK-ARGUMENTS...
start()
{
	local n=$1 work=$2
	shift 2
	rm -rf "$T/logs"
	bg "$SARDINE" pack -n "$n" --socket "$SOCK" --kernel "$K" --initrd "$I" \
		--mem 128M --append "console=ttyS0 nokaslr sardine.run=memwork $work" \
		--log-dir "$T/logs" --json "$T/json" "$@" >"$T/mout" 2>"$T/merr"
	manager=$pid
}
good() { is "$(grep -l 'memwork:.* good' "$T"/logs/*.log | wc -l)" "$1"; }
filled() { is "$(grep -l 'memwork: filled' "$T"/logs/*.log | wc -l)" "$1"; }

# Samples until the manager ends: the most that was used, in percent of the
# budget; for how many samples on end it was more than 102 (the promise is: no
# longer than a second); the most that was compressed, in pages.
watch_budget()
{
	local over=0

	most=0 packed=0 samples=0 swapped=0 longest=0
	while alive "$1"; do
		read -r a b c < <(sample '[(.host.used_bytes * 100 /
			.host.budget_bytes | floor), ([.vms[].compressed_bytes] |
			add / 4096), ([.vms[].swapped_bytes] | add / 4096)] |
			join(" ")' 2>/dev/null)
		[ "${a:-0}" -gt $most ] && most=$a
		[ "${a:-0}" -gt 102 ] && over=$((over + 1)) || over=0
		[ $over -gt $longest ] && longest=$over
		[ "${b:-0}" -gt $packed ] && packed=$b
		[ "${c:-0}" -gt $swapped ] && swapped=$c
		samples=$((samples + 1))
		sleep 0.2
	done
}

budget_kept()
{
	ok "the budget was kept" test $most -gt 40 -a $most -le 106 -a \
		$longest -lt 5 ||
		echo "# at most $most%, $longest samples on end above 102"
}

start 3 "48 25 2 70" --host-mem 216M
watch_budget "$manager"
wait "$manager"
rc=$?
echo "# $samples samples, at most $most% used, $packed pages compressed"
ok "guests of 384 MiB under a budget of 216: status 0" is $rc 0 ||
	show "$T/mout" "$T/merr"
ok "every byte of every guest was right" good 3 || show "$T"/logs/*.log
budget_kept
ok "pages were compressed" test $packed -gt 1000
ok "the audit is clean" has "$T/mout" "^audit clean"

# ---- a swap file, on a disk that fails for a while ----
swap_dir=/var/tmp
export SARDINE_FAIL=swap-write-eio:2:2,swap-write-short:20:9,swap-full:900:50,swap-read-eio:50:5,swap-read-short:20:20
start 2 "48 25 2 20" --host-mem 128M --swap "$swap_dir"
watch_budget "$manager"
wait "$manager"
rc=$?
echo "# at most $most% used, $packed pages compressed, $swapped swapped"
ok "memory that does not compress is swapped: status 0" is $rc 0 ||
	show "$T/mout" "$T/merr"
ok "every byte was right, though the disk failed now and then" good 2 ||
	show "$T"/logs/*.log
budget_kept
ok "pages were swapped" test $swapped -gt 1000
SARDINE_FAIL=swap-read-eio:500:1000000
start 1 "64 25 60 20" --host-mem 84M --swap "$swap_dir"
watch_budget "$manager"
wait "$manager"
ok "a disk that does not read any more stops the VM: status 4" is $? 4 ||
	show "$T/mout"
ok "with the reason" has "$T/mout" "swap file cannot be read" || show "$T/mout"
unset SARDINE_FAIL
run_for 20 "$SARDINE" pack -n 1 --kernel "$K" --mem 128M --host-mem 96M \
	--socket "$SOCK" --swap "$T/none"
ok "a swap directory that is not there is refused" test $rc = 1 -a \
	"$(grep -c -- "--swap $T/none" "$T/err")" = 1 || show "$T/err"

# ---- the budget moves; the manager dies, the guests go on under their quotas --
start 2 "48 25 4 70" --host-mem 300M --swap "$swap_dir"
ok "guests fill their memory" until_true 90 filled 2 || show "$T/mout"
used_below() { [ "$(sample .host.used_bytes)" -lt "$1" ]; }
set_() { "$SARDINE" set -s "$SOCK" "$@" 2>"$T/err"; }
ok "set host mem= makes them smaller" set_ host mem=140M
ok "within 10 seconds" until_true 10 used_below $((143 << 20))
ok "set: a budget that the minima do not fit in is refused" test \
	"$(set_ host mem=20M; echo $?)" = 1 -a \
	"$(grep -c 'need .* at the least' "$T/err")" = 1
ok "set: shares and bounds of a VM" set_ vm0 mem.shares=4000 mem.min=24M \
	mem.max=100M
ok "set: nonsense is refused" test "$(set_ vm0 mem.mix=1; echo $?)" = 1 -a \
	"$(set_ vm7 mem.min=1M; echo $?)" = 1
pids=$(sample '.vms[].pid')
kill -9 "$manager"
wait "$manager" 2>/dev/null
ok "kill -9 of the manager: every byte right" until_true 90 good 2 ||
	show "$T"/logs/*.log
gone() { for p in $pids; do dead "$p" || return 1; done; }
ok "and the guests end by themselves" until_true 20 gone

# ---- room again: what is away comes back before it is touched ----
start 2 "48 10 25 70" --host-mem 300M --swap "$swap_dir"
ok "guests fill their memory once more" until_true 90 filled 2 || show "$T/mout"
away() { sample '[.vms[] | .compressed_bytes + .swapped_bytes] | add'; }
set_ host mem=140M
until_true 10 used_below $((143 << 20))
was=$(away)
set_ host mem=300M
# A tenth of it is in use: the rest would stay where it is.
home() { [ "$(away)" -lt $((was / 4)) ]; }
ok "under a budget with room, pages come back ahead" until_true 15 home ||
	echo "# $was bytes were away, $(away) are"
wait "$manager"
ok "and every byte is right" good 2 || show "$T"/logs/*.log

# ---- it dies with one VM's quota written and the other's not; one VM stood
# still for a while ----
SARDINE_FAIL=kill-manager-quota:121
export SARDINE_FAIL
start 2 "48 25 10 70" --host-mem 148M --swap "$swap_dir"
until_true 20 sample .host.state
pids=$(sample '.vms[].pid')
one=$(vm_pid vm0)
sleep 1
kill -STOP "$one"
sleep 1
kill -CONT "$one"
wait "$manager" 2>/dev/null
ok "the manager was killed between two quotas" is $? 137
unset SARDINE_FAIL
ok "every byte right after that, too" until_true 90 good 2 ||
	show "$T"/logs/*.log
until_true 20 gone
finish
