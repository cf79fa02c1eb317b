#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does one more VM cost the host, and how much of what is equal is shared?
#
#   bench_density.sh [-n FEW] [-N MANY] [-m MIB] [-e ENGINE] [-c] [-k]
#                    [-o OPTION] [-w SECONDS] [-j FILE]
#
# Packs FEW (4) and then MANY (8) stock guests of MIB (128). When all of them
# have said that they are idle, and SECONDS (10) later:
#
#   marginal   host memory of one more VM: by how much more MemAvailable fell
#              with MANY than with FEW, per VM; monitor, translation cache and
#              the manager's records included
#   saved      of what an exact-duplicate oracle could save (all guest pages
#              compared, taken at the end of the run)
#   idle CPU   of manager and monitors together in the next 10 s, in percent
#              of one core
#   audit      of sharing and of each VM's memory
#
# The machine must be otherwise quiet: MemAvailable is everybody's. -c: judge by
# a memory cgroup of the run's own instead, which counts the kernel's part (page
# tables, inodes, sockets) and nobody else's; needs root. -k: nokaslr (KASLR is
# on otherwise). -o: one more option for pack, such as --kaslr=vm. -j: figures as
# JSON too. Status 0: all bars of issue 2 are met (24 MB, 90%, 5%, clean); 1
# otherwise.
. "$(dirname "$0")/lib.sh"
few=4 many=8 mem=128 engine=auto append="console=ttyS0" json='' limit=${LIMIT:-180}
cgroup='' more=() wait=10
while getopts n:N:m:e:cko:w:j: o; do
	case $o in
	n) few=$OPTARG ;;
	N) many=$OPTARG ;;
	m) mem=$OPTARG ;;
	e) engine=$OPTARG ;;
	c) cgroup=1 ;;
	k) append="$append nokaslr" ;;
	o) more+=("$OPTARG") ;;
	w) wait=$OPTARG ;;
	j) json=$OPTARG ;;
	*) exit 2 ;;
	esac
done
need "$SARDINE" "$KERNEL" "$INITRD"
command -v jq >/dev/null || die "needs jq: apt-get install jq"
[ "$many" -gt "$few" ] || die "-N must be larger than -n"

# The directory of a new memory cgroup beside ours, version 1 or 2.
make_cgroup()
{
	local at
	at=$(awk -F: '$2 == "memory" { print $3 }' /proc/self/cgroup)
	if [ -n "$at" ]; then
		cgroup=/sys/fs/cgroup/memory$at
		usage=memory.usage_in_bytes
	else
		cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
		usage=memory.current
	fi
	cgroup=$cgroup/sardine-bench.$$
	mkdir "$cgroup" && [ -r "$cgroup/$usage" ] ||
		die "-c: no memory cgroup can be made here"
}

manager=''
trap '[ -z "$manager" ] || { kill -TERM $manager; wait $manager; } 2>/dev/null
	[ ! -d "$cgroup" ] || rmdir "$cgroup"
	rm -rf "$work"' EXIT
[ -z "$cgroup" ] || make_cgroup

available() { awk '/^MemAvailable:/ { printf "%.0f", $2 * 1024 }' /proc/meminfo; }
# Freed pages sit for some ten seconds in the CPUs' own lists, which
# MemAvailable does not count (seen: 90 MB): wait until it stands still.
settled()
{
	local last=0 now same=0 i

	for i in $(seq 40); do
		now=$(available)
		if [ $((now - last)) -lt 2000000 ] && [ $((last - now)) -lt 2000000 ]; then
			same=$((same + 1))
		else
			same=0
		fi
		last=$now
		[ $same -ge 6 ] && break
		sleep 1
	done
	echo "$now"
}
# Clock ticks that the manager and its monitors have used.
ticks()
{
	local p t=0 v
	for p in "$manager" $(jq -r '.vms[].pid' "$work/sample"); do
		v=$(awk '{ print $14 + $15 }' "/proc/$p/stat" 2>/dev/null)
		t=$((t + ${v:-0}))
	done
	echo "$t"
}
all_idle()
{
	[ "$(cat "$work"/logs/*.log 2>/dev/null |
		grep -c 'SARDINE-GUEST: idle')" = "$1" ]
}

# pack N: fills used (bytes of host memory), idle (percent), $work/sample (10 s
# after quiet) and $work/final (with the oracle).
pack()
{
	local before t0 t1 end status
	rm -rf "$work/logs"
	sleep 1
	[ -n "$cgroup" ] || before=$(settled)
	# The subshell moves itself, and becomes the manager.
	(
	[ -z "$cgroup" ] || echo $BASHPID >"$cgroup/cgroup.procs"
	exec "$SARDINE" pack -n "$1" --mem "${mem}M" --engine "$engine" \
		--kernel "$KERNEL" --initrd "$INITRD" --append "$append" \
		--socket "$work/sock" --log-dir "$work/logs" --oracle \
		--json "$work/final" "${more[@]}") >"$work/out" 2>"$work/err" &
	manager=$!
	end=$((SECONDS + limit))
	until all_idle "$1"; do
		if [ $SECONDS -ge $end ] || ! kill -0 $manager 2>/dev/null; then
			kill -TERM $manager 2>/dev/null
			wait $manager
			tail -n 20 "$work/out" "$work/err" >&2
			die "the guests did not all become idle in $limit s"
		fi
		sleep 0.2
	done
	sleep "$wait"
	"$SARDINE" top --json --socket "$work/sock" >"$work/sample"
	if [ -n "$cgroup" ]; then
		used=$(cat "$cgroup/$usage")
	else
		used=$((before - $(settled)))
	fi
	t0=$(ticks)
	sleep 10
	t1=$(ticks)
	idle=$(awk -v t=$((t1 - t0)) -v hz="$(getconf CLK_TCK)" \
		'BEGIN { printf "%.1f", t / hz / 10 * 100 }')
	kill -TERM $manager
	wait $manager
	status=$?
	manager=''
	[ $status = 0 ] || die "pack ended with status $status: $(cat "$work/err")"
}

mib() { awk -v b="$1" 'BEGIN { printf "%.1f", b / 1048576 }'; }
q() { jq -r "$1" "$2"; }

echo "density: $KERNEL, $mem MiB each, engine $engine, \"$append\""
pack "$few"
used_few=$used
told_few=$(q .host.used_bytes "$work/sample")
echo "$few VMs: $(mib "$used") MiB of the host, idle CPU $idle% of a core"
pack "$many"
echo "$many VMs: $(mib "$used") MiB of the host, idle CPU $idle% of a core"
sed -n '/^NAME/,$p' "$work/out"
marginal=$(((used - used_few) / (many - few)))
told=$((($(q .host.used_bytes "$work/sample") - told_few) / (many - few)))
saved=$(q .sharing.saved_bytes "$work/sample")
oracle=$(q .sharing.oracle_bytes "$work/final")
audit=$(q .host.audit "$work/final")
percent=$(awk -v s="$saved" -v o="$oracle" \
	'BEGIN { printf "%.1f", o ? 100 * s / o : 100 }')
boots=$(q '[.vms[].boot_ms] | add / length | floor' "$work/final")

echo
echo "marginal host memory of one more VM: $(mib "$marginal") MiB (bar: 24 MB);"
[ -n "$cgroup" ] && by="a memory cgroup" || by=MemAvailable
echo "    by $by, the kernel's part included;"
echo "    by the table, without the kernel's part: $(mib "$told") MiB"
echo "saved $wait s after quiet: $(mib "$saved") of $(mib "$oracle") MiB, $percent% (bar: 90%)"
echo "idle CPU of $many VMs and the manager: $idle% of a core (bar: 5%)"
echo "audit: $audit; userland after $boots ms on average, all $many at once"
[ -z "$json" ] || jq -n --argjson marginal "$marginal" \
	--argjson accounted "$told" --argjson saved "$saved" \
	--argjson oracle "$oracle" --argjson idle "$idle" --arg audit "$audit" \
	--argjson boot_ms "$boots" --argjson vms "$many" \
	'{vms: $vms, marginal_bytes: $marginal,
	accounted_bytes: $accounted, saved_bytes: $saved,
	oracle_bytes: $oracle, idle_percent: $idle, audit: $audit,
	boot_ms: $boot_ms}' >"$json"
awk -v m="$marginal" -v p="$percent" -v i="$idle" -v a="$audit" \
	'BEGIN { exit !(m <= 24000000 && p >= 90 && i < 5 && a == "clean") }'
