#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Run the guest cases under configurations and say which passed.
#
#   run-cases.sh [-c CASE]... [-v] [CONFIG...]
#
# CONFIG: interp bt bt-nochain bt-tinytc bt-tu1 bt-2m bt-pair bt-touch bt-lockstep qemu; without any,
# all but bt-lockstep (qemu only when it is installed). -c: only these cases; -v:
# print each console. BUILD (build) is where the images and sardine are; JOBS (2)
# cases run at a time; LOGS keeps the consoles there. Status 0: all passed.
set -u
BUILD=${BUILD:-build}
JOBS=${JOBS:-2}
GCB=$BUILD/guest-cases
SARDINE=${SARDINE:-$BUILD/sardine}
LIST=$(dirname "$0")/cases.list
only=() verbose=0
while getopts c:v o; do
	case $o in
	c) only+=("$OPTARG") ;;
	v) verbose=1 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
configs=("$@")
if [ ${#configs[@]} = 0 ]; then
	configs=(interp bt bt-nochain bt-tinytc bt-tu1 bt-2m bt-pair bt-touch)
	command -v qemu-system-x86_64 >/dev/null && configs+=(qemu)
fi
out=${LOGS:-$(mktemp -d)}
mkdir -p "$out"
[ -n "${LOGS:-}" ] || trap 'rm -rf "$out"' EXIT

# The command line of a configuration: $1 config, $2 image, $3 memory.
command_of()
{
	local run="$SARDINE run --kernel $2 --mem $3 --debug-exit --no-reboot"

	case $1 in
	interp) echo "$run --engine interp" ;;
	bt) echo "$run --engine bt" ;;
	bt-nochain) echo "$run --engine bt --no-chain" ;;
	bt-tinytc) echo "$run --engine bt --tc-size 256K" ;;
	bt-tu1) echo "$run --engine bt --tu-max 1" ;;
	bt-2m) echo "$run --engine bt --backing 2m-all" ;;
	bt-pair) echo "$run --engine bt --pair-all" ;;
	bt-touch) echo "$run --engine bt --touch-all" ;;
	bt-lockstep) echo "$run --engine bt --lockstep" ;;
	qemu) echo "qemu-system-x86_64 -accel tcg -cpu max -kernel $2" \
		"-device isa-debug-exit,iobase=0xf4,iosize=4 -display none" \
		"-serial stdio -monitor none -no-reboot -m $3 -net none" ;;
	*) return 1 ;;
	esac
}

# One case under one configuration; one line of result.
one()
{
	local config=$1 name=$2 limit=$3 mem=$4 cmd status t0 t1 why
	local log=$out/$name.$config.log

	cmd=$(command_of "$config" "$GCB/$name.elf" "$mem")
	t0=$(date +%s%N)
	timeout -k 2 "$limit" $cmd </dev/null >"$log" 2>"$log.err"
	status=$?
	t1=$(($(date +%s%N) - t0))
	case $status in
	33) why="" ;;
	124 | 137) why=": timeout after ${limit}s" ;;
	35) why=": $(grep -am1 FAIL "$log" | tr -d '\r' | cut -c1-160)" ;;
	*) why=": status $status: $(head -c 300 "$log.err" | head -1)" ;;
	esac
	printf '%s %-12s %-12s %5d ms%s\n' \
		"$([ $status = 33 ] && echo ok || echo FAIL)" "$name" \
		"$config" $((t1 / 1000000)) "$why"
	[ $verbose = 0 ] || cat "$log" "$log.err" >&2
}

results=$out/results
: >"$results"
while read -r name opts; do
	case $name in '' | \#*) continue ;; esac
	if [ ${#only[@]} -gt 0 ]; then
		[[ " ${only[*]} " == *" $name "* ]] || continue
	fi
	limit=60 mem=64M
	for o in $opts; do
		case $o in
		timeout=*) limit=${o#*=} ;;
		mem=*) mem=${o#*=} ;;
		esac
	done
	for config in "${configs[@]}"; do
		command_of "$config" x x >/dev/null ||
			{ echo "unknown configuration $config" >&2; exit 2; }
		while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do
			wait -n
		done
		one "$config" "$name" "$limit" "$mem" | tee -a "$results" &
	done
done <"$LIST"
wait
passed=$(grep -c '^ok' "$results")
failed=$(grep -c '^FAIL' "$results")
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
