# SPDX-License-Identifier: Apache-2.0
# What the tests of the command line share. Sourced; TAP on standard output.
#
# Each test works in $T, which is removed at the end with every process that
# was started through `bg`.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
BUILD=${BUILD:-$root/build}
SARDINE=${SARDINE:-$BUILD/sardine}
GUEST=${GUEST:-$BUILD/guest}
TINY=$BUILD/run-guest.elf
T=$(mktemp -d "${TMPDIR:-/tmp}/sardine-test.XXXXXX")
SOCK=$T/s
n=0 status=0 started=()

cleanup()
{
	local p
	for p in "${started[@]+"${started[@]}"}"; do
		kill -9 "$p" 2>/dev/null
	done
	wait 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# ok NAME CONDITION...: one test; the condition is a command.
ok()
{
	local name=$1
	shift
	n=$((n + 1))
	if "$@"; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		status=1
		return 1
	fi
}

skip()
{
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

# Show a file under a failed test.
show()
{
	sed 's/^/# /' "$@" | head -40
}

# bg COMMAND...: in the background, its process id in $pid, to be killed at
# the end at the latest.
bg()
{
	"$@" &
	pid=$!
	started+=("$pid")
}

# until_true SECONDS COMMAND...: try it every 50 ms.
until_true()
{
	local end=$(($(date +%s%N) + $1 * 1000000000))
	shift
	while ! "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# run_for SECONDS COMMAND...: its output in $T/out and $T/err, status in $rc.
run_for()
{
	local limit=$1
	shift
	timeout -k 5 "$limit" "$@" >"$T/out" 2>"$T/err" </dev/null
	rc=$?
}

is() { [ "$1" = "$2" ]; }
alive() { kill -0 "$1" 2>/dev/null; }
dead() { ! alive "$1"; }
has() { grep -q -- "$2" "$1"; }
top_json() { "$SARDINE" top --json --socket "$SOCK"; }
# jq over a sample of the running manager.
sample() { top_json | jq -r "$1"; }
vm_pid() { sample ".vms[] | select(.name == \"$1\") | .pid"; }
vm_state() { sample ".vms[] | select(.name == \"$1\") | .state"; }
vm_state_is() { is "$(vm_state "$1")" "$2"; }

finish()
{
	echo "1..$n"
	exit $status
}
