#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Who gets how much, and how fast.
#
#   move  a budget that is halved under guests at work: how long until what the
#         host uses is within it (bar: 20 s), no VM dead; and when it is what it
#         was again, how long until the guests wait for pages from the store and
#         the swap file no more often than a tenth of the rate under the small one
#         (bar: 10 s); and the same for all that come back, waited for or not
#   tax   two guests of equal shares, one that holds memory and does nothing, one
#         that works on all of its own: what they were granted against the
#         formula of mm/reclaim.c for the activity that was measured (bar: 10%)
. "$(dirname "$0")/lib.sh"

vms=4 mem=256 swap=/var/tmp parts="move tax" big= small= fill=60
usage()
{
	cat >&2 <<-EOT
	usage: $0 [-n GUESTS] [-m MIB] [-s SWAP-DIR] [-p PARTS] [-b MIB] [-c MIB] [-f PCT]
	  $vms guests of $mem MiB; parts: move, tax
	  -b, -c  the budget, and what it shrinks to (all memory and a half more;
	          half of all memory)
	  -f      of its memory each guest fills ($fill)
	  bar 2 of the overcommit issue: -p move -n 8 -m 512 -b 4096 -c 2048 -f 70
	EOT
	exit "$1"
}
while getopts n:m:s:p:b:c:f:h o; do
	case $o in
	n) vms=$OPTARG ;; m) mem=$OPTARG ;; s) swap=$OPTARG ;;
	p) parts=${OPTARG//,/ } ;; b) big=$OPTARG ;; c) small=$OPTARG ;;
	f) fill=$OPTARG ;; h) usage 0 ;; *) usage 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
bad=

top() { "$SARDINE" top --json --socket "$work/s" 2>/dev/null | jq -r "$1"; }
used() { top '.host.used_bytes / 1048576 | floor'; }
# Pages that came back, ever; and of these, those that a guest waited for.
came_back() { top '[.vms[] | .decompressed_pages + .swapped_in_pages] | add'; }
waited_for() { top '[.vms[] | .decompressed_pages + .swapped_in_pages - .fetched_pages] | add'; }
away() { top '[.vms[] | .compressed_bytes + .swapped_bytes] | add / 1048576 | floor'; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.1f", b - a}'; }
filled() { [ "$(grep -al ': filled' "$work"/logs/*.log 2>/dev/null | wc -l)" -ge "$1" ]; }
within() # SECONDS COMMAND...
{
	local begin limit=$1
	begin=$(now)
	shift
	until "$@"; do
		awk -v t="$(since "$begin")" -v l="$limit" 'BEGIN {exit t > l}' ||
			return 1
		sleep 0.2
	done
	took=$(since "$begin")
}

start() # BUDGET, the fleet in $work/fleet
{
	rm -rf "$work/logs"
	"$SARDINE" pack --kernel "$KERNEL" --initrd "$INITRD" --mem "${mem}M" \
		--socket "$work/s" --log-dir "$work/logs" --host-mem "$1M" \
		--swap "$swap" "$work/fleet" >"$work/out" 2>"$work/err" &
	pack=$!
}

end()
{
	kill "$pack"
	wait "$pack"
	status=$?
	[ "$status" = 0 ] || { bad=1; tail -n 5 "$work/out" "$work/err"; }
}

rate() # COUNT: how many a second, over a second
{
	local a b
	a=$("$1")
	sleep 1
	b=$("$1")
	echo $((b - a))
}

move()
{
	local before under all waits i
	big=${big:-$((vms * mem * 3 / 2))} small=${small:-$((vms * mem / 2))}
	for ((i = 1; i <= vms; i++)); do
		echo "w$i append=\"console=ttyS0 sardine.run=memwork $((mem * fill / 100)) 50 3000 60 $i\""
	done >"$work/fleet"
	start "$big"
	within 300 filled "$vms" || die "the guests do not come up"
	sleep 3
	before=$(used)
	"$SARDINE" set -s "$work/s" host mem="${small}M" || bad=1
	fits() { [ "$(used)" -le "$small" ]; }
	took=never
	within 60 fits || bad=1
	echo "move: $before MiB in use, budget from $big to $small: met after $took s"
	awk -v t="$took" 'BEGIN {exit !(t == "never" || t > 20)}' && bad=1
	sleep 5
	under=$(rate waited_for)
	all=$(rate came_back)
	"$SARDINE" set -s "$work/s" host mem="${big}M" || bad=1
	calm() { [ $(($(rate waited_for) * 10)) -le "$under" ]; }
	all_calm() { [ $(($(rate came_back) * 10)) -le "$all" ]; }
	took=never
	within 60 calm || bad=1
	echo "move: guests waited for $under pages a second; under $big again, for" \
		"a tenth of that after $took s ($(away) MiB still away)"
	awk -v t="$took" 'BEGIN {exit !(t == "never" || t > 10)}' && bad=1
	waits=$took took=never
	within 60 all_calm || bad=1
	echo "move: $all a second came back, waited for or not; a tenth of that" \
		"after $(awk -v a="$waits" -v b="$took" 'BEGIN {print a + b}') s" \
		"($(away) MiB still away)"
	[ "$(top '[.vms[] | select(.state == "running")] | length')" = "$vms" ] ||
		{ echo "move: VMs died"; bad=1; }
	end
}

# The formula (mm/reclaim.c) for two VMs, by bisection: what the first should
# have of what both have.
formula() # GRANTED-1 GRANTED-2 ACTIVE-1 ACTIVE-2
{
	awk -v sum=$(($1 + $2)) -v a="$3" -v b="$4" '
		function p(x, act) { return x <= act ? x : act + (x - act) / 4 }
		BEGIN {
			lo = 0; hi = 64 * sum
			for (i = 0; i < 80; i++) {
				x = (lo + hi) / 2
				if (p(x, a) + p(x, b) <= sum) lo = x
				else hi = x
			}
			printf "%d\n", p(lo, a)
		}'
}

tax()
{
	local hold=$((mem * 6 / 10)) off n=0 sum=0
	{
		echo "idle mem.min=16M append=\"console=ttyS0 sardine.run=hog $hold 3000 1\""
		echo "busy mem.min=16M append=\"console=ttyS0 sardine.run=memwork $hold 100 3000 60\""
	} >"$work/fleet"
	start $((mem * 3 / 4))
	within 200 filled 1 || {
		tail -n 5 "$work/out" "$work/err" "$work"/logs/*
		die "the guests do not come up"
	}
	sleep 40
	for ((i = 0; i < 10; i++)); do
		read -r a b x y < <(top '[.vms[] | .granted_bytes] +
			[.vms[] | .active_bytes] | map(. / 1048576 | floor) |
			join(" ")')
		f=$(formula "$a" "$b" "$x" "$y")
		off=$(awk -v a="$a" -v f="$f" 'BEGIN {d = a - f
			if (d < 0) d = -d
			printf "%.1f", d * 100 / f}')
		echo "$off" >>"$work/off"
		last="idle granted $a MiB (active $x), busy $b (active $y); formula: idle $f"
		sleep 2
	done
	off=$(median <"$work/off")
	echo "tax: $last; off by $off% (median of ten)"
	awk -v o="$off" 'BEGIN {exit !(o > 10)}' && bad=1
	end
}

for p in $parts; do
	"$p"
done
[ -z "$bad" ]
