#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does a budget cost guests that are all at work? Runs the same guests in
# turn without a budget and with one far below the sum of their sizes, and
# compares how much they get done. In each guest redis holds records, and a
# client reads and writes a part of them and checks every byte of every answer
# (tests/guest/image/kv.c); at the end it checks all records.
#
# With -x some guests are hostile or in the way: two dirty nearly all of their
# memory as fast as they can (and check it), one of the others has no balloon
# (without -x no guest has a driver for it), and another is paused for a third of
# the time. The figure counts the redis guests but for the last.
#
# While it runs, what the host uses is looked at twice a second: it may be over
# 102% of the budget for a second at the longest.
. "$(dirname "$0")/lib.sh"

vms=16 mem=512 budget=2048 fill=45 active=25 seconds=60 rounds=1 hostile= json=
free_seconds=
swap=/var/tmp only=
usage()
{
	cat <<-EOT
	usage: $0 [options]
	  -n N     guests (default $vms)         -m MIB   memory of each ($mem)
	  -b MIB   the budget ($budget)             -t SEC   at work, once full ($seconds)
	  -f PCT   of its memory each fills ($fill) -a PCT   of its memory it works on ($active)
	  -r N     rounds, each without and with the budget ($rounds)
	  -u SEC   at work without the budget (as with it); the figure is a rate
	  -x       a hostile mix                 -s DIR   swap files there ($swap), '' none
	  -B       with the budget only          -j FILE  figures as JSON
	EOT
	exit "$1"
}
while getopts n:m:b:t:f:a:r:u:xs:Bj:h o; do
	case $o in
	n) vms=$OPTARG ;; m) mem=$OPTARG ;; b) budget=$OPTARG ;;
	t) seconds=$OPTARG ;; f) fill=$OPTARG ;; a) active=$OPTARG ;;
	r) rounds=$OPTARG ;; x) hostile=1 ;; s) swap=$OPTARG ;;
	u) free_seconds=$OPTARG ;;
	B) only=1 ;; j) json=$OPTARG ;; h) usage 0 ;; *) usage 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$BUILD/guest/guest" "$BUILD/guest/modules"
USER_ROOT=${USER_ROOT:-$BUILD/guest-user/root}
[ -d "$USER_ROOT" ] || die "no $USER_ROOT: make guest-user"
"$(dirname "$0")/../tests/guest/user/mkredis.sh" "$work/redis.img" \
	"$USER_ROOT" "$BUILD/guest/guest" ${hostile:+"$BUILD/guest/modules"}

# The kernel, redis and the client are 40 MiB of what a guest works on.
data=$((mem * fill / 100))
part=$(((mem * active / 100 - 40) * 100 / data))
[ "$part" -gt 0 ] || die "-a $active: less than what the guest itself needs"
# What is more has the guest kernel kill the program.
dirty=$((mem * 70 / 100))
plain=$vms
[ -z "$hostile" ] || plain=$((vms - 3))
[ "$plain" -gt 0 ] || die "-x needs four guests"

fleet() # SECONDS
{
	local a="console=ttyS0 quiet sardine.virtio=virtio_balloon sardine.run=" i
	# Records of its own for each, or they would be shared.
	for ((i = 1; i <= plain; i++)); do
		echo "kv$i mem=${mem}M append=\"$a/bench/redis.sh $data $part $1 $i\"" \
			"$([ -z "$hostile" ] || [ "$i" -gt 1 ] || echo balloon=off)"
	done
	[ -z "$hostile" ] || {
		for i in 1 2; do
			echo "dirty$i mem=${mem}M append=\"${a}memwork $dirty 100 $1 30 $i\""
		done
		echo "paused mem=${mem}M append=\"$a/bench/redis.sh $data $part $1 99\""
	}
}

logs_with() { grep -al "$1" "$logs"/*.log 2>/dev/null | wc -l; }
ended() { ! kill -0 "$pack" 2>/dev/null; }
say() { echo "# $*" >&2; }

# What the host uses, in thousandths of the budget, until the run ends.
watch()
{
	while ! ended; do
		"$SARDINE" top --json --socket "$work/s" 2>/dev/null | jq -r \
			'[now, .host.used_bytes / 1048576,
			([.vms[] | select(.state == "running" or
				.state == "paused")] | length),
			([.vms[].compressed_bytes] | add) / 1048576,
			([.vms[].swapped_bytes] | add) / 1048576] |
			map(. * 10 | round / 10) | join(" ")' 2>/dev/null
		sleep 0.5
	done >"$1"
}

# CPU time of the manager, and of the monitors of the plain guests, in seconds.
# Not from the manager: it may be late with its answer on a busy machine.
cpu_of()
{
	local p
	for p in "$pack" $(pgrep -P "$pack"); do
		[ "$p" = "$pack" ] || tr '\0' ' ' <"/proc/$p/cmdline" |
			grep -q -- ' --name kv' || continue
		sed 's/.*) //' "/proc/$p/stat" 2>/dev/null
	done | awk -v hz="$(getconf CLK_TCK)" '{s += $12 + $13}
		END {print s / hz}'
}

# pass NAME SECONDS PACK-ARGUMENTS...: one run; sets rate (commands a second, all plain
# guests, while all were at work), percpu (commands a CPU second, which other
# work on the machine changes less) and leaves $work/NAME.*
pass()
{
	local name=$1 seconds=$2 t0 t1 full cpu0 cpu1
	shift 2
	logs=$work/$name.logs
	fleet "$seconds" >"$work/fleet"
	"$SARDINE" pack --kernel "$KERNEL" --initrd "$work/redis.img" \
		--socket "$work/s" --log-dir "$logs" --json "$work/$name.json" \
		"$@" "$work/fleet" >"$work/$name.out" 2>"$work/$name.err" &
	pack=$!
	watch "$work/$name.used" &
	watcher=$!
	full=$((plain + ${hostile:+1} + 0))
	until [ "$(logs_with 'kv: filled')" -ge "$full" ] || ended; do
		sleep 1
	done
	t0=$(date +%s)
	cpu0=$(cpu_of)
	say "$name: all full; at work"
	for l in "$logs"/kv*.log; do
		wc -l <"$l" >"$l.skip"
	done
	[ -z "$hostile" ] || {
		sleep $((seconds / 4))
		"$SARDINE" pause -s "$work/s" paused
		sleep $((seconds / 3))
		"$SARDINE" resume -s "$work/s" paused
	}
	until [ "$(logs_with 'kv: reading all')" -ge 1 ] || ended; do
		sleep 0.5
	done
	t1=$(date +%s)
	cpu1=$(cpu_of)
	for l in "$logs"/kv*.log; do
		wc -l <"$l" >"$l.stop"
	done
	wait "$pack"
	status=$?
	wait "$watcher"
	rate=$(for l in "$logs"/kv*.log; do
		tr -d '\r' <"$l" | awk -v from="$(cat "$l.skip")" \
			-v to="$(cat "$l.stop")" \
			'/kv: at / && NR > from + 1 && NR <= to {
				s += $5; n++ }
			END { print n ? s / n : 0 }'
	done | awk '{s += $1} END {print s}')
	percpu=$(awk -v r="$rate" -v s=$((t1 - t0)) -v a="$cpu0" -v b="$cpu1" \
		'BEGIN {print (b > a) ? r * s / (b - a) : 0}')
	good=$(cat "$logs"/*.log | tr -d '\r' | grep -c ' good$')
	say "$name: $((t1 - t0)) s with all at work, $rate commands a second, $percpu a CPU second," \
		"$good of $vms good, status $status"
	[ "$status" = 0 ] && [ "$good" = "$vms" ] && return
	bad=1
	grep -a BAD "$logs"/*.log
	tail -n 5 "$work/$name.err" "$work/$name.out"
}

# The most used, and the longest time over 102%, in seconds.
kept() # FILE BUDGET
{
	awk -v b="$2" '{
		if ($2 > most) most = $2
		if ($2 > b * 1.02) { if (!since) since = $1
			if ($1 - since > long) long = $1 - since }
		else since = 0
		if ($4 > z) z = $4
		if ($5 > w) w = $5
	} END { printf "%.1f %.1f %d %d\n", most * 100 / b, long, z, w }' "$1"
}

bad= ; : >"$work/ratios"
swapping=()
[ -z "$swap" ] || swapping=(--swap "$swap")
for ((i = 1; i <= rounds; i++)); do
	without=nan without_cpu=nan
	[ -n "$only" ] || {
		pass "without$i" "${free_seconds:-$seconds}"
		without=$rate without_cpu=$percpu
	}
	pass "with$i" "$seconds" --host-mem "${budget}M" "${swapping[@]}"
	read -r most long packed swapped < <(kept "$work/with$i.used" "$budget")
	ratio=$(awk -v a="$rate" -v b="$without" 'BEGIN {printf "%.3f", (b > 0) ? a / b : 0}')
	cpu_ratio=$(awk -v a="$percpu" -v b="$without_cpu" 'BEGIN {printf "%.3f", (b > 0) ? a / b : 0}')
	echo "$ratio" >>"$work/ratios"
	echo "$cpu_ratio" >>"$work/cpu_ratios"
	echo "round $i: $rate commands a second with $budget MiB," \
		"$without without: $ratio (by CPU time $cpu_ratio); at most $most% of the budget," \
		"$long s over 102%; compressed $packed MiB, swapped $swapped MiB"
	awk -v l="$long" 'BEGIN {exit l <= 1}' && bad=1
	[ -z "${KEEP:-}" ] || { mkdir -p "$KEEP"; cp -r "$work"/* "$KEEP"; }
done
echo "$vms guests of $mem MiB${hostile:+ (hostile mix)}, median ratio" \
	"$(median <"$work/ratios") (by CPU time $(median <"$work/cpu_ratios")), every answer ${bad:+NOT }right and the budget" \
	"${bad:+not }kept"
[ -z "$json" ] || jq -n --argjson n "$vms" --argjson mem "$mem" \
	--argjson budget "$budget" --argjson seconds "$seconds" \
	--argjson ratio "$(median <"$work/ratios")" \
	--argjson cpu_ratio "$(median <"$work/cpu_ratios")" --argjson most "$most" \
	--argjson over "$long" '$ARGS.named' >"$json"
[ -z "$bad" ]
