#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# lint.sh [CHECK...]: prove what style.md says about includes and form.
#
#   direction  tests, bench -> vmm -> mm -> mm/base; sched -> mm/base; vmm/x86
#              depends on nothing; vmm/dev on bus, irq and phys only; siblings
#              in mm (sharing, largepage, numa) never include each other
#   private    X_priv.h is included by X.c, X_*.c and what is in the folder X of
#              its own folder alone, and by tests
#   acyclic    no header includes itself, however long the way round
#   alone      every header compiles by itself
#   spdx       the licence is named at the top of every file
#   exit       only cli/ ends the process
#   format     clang-format agrees (but for tests/guest and tests/diff, which
#              are tables of instructions set by hand)
#
# Prints TAP, one test a check; status 0 if all hold. CC and CLANG_FORMAT name
# the tools.
set -u
cd "$(dirname "$0")/../.."
CC=${CC:-gcc}
CLANG_FORMAT=${CLANG_FORMAT:-clang-format}

if git rev-parse --git-dir >/dev/null 2>&1; then
	mapfile -t files < <(git ls-files '*.c' '*.h' '*.S')
else
	mapfile -t files < <(find vmm mm sched tests bench -name '*.[chS]')
fi
existing=()
for f in "${files[@]}"; do [ -e "$f" ] && existing+=("$f"); done
files=("${existing[@]}")
headers=()
for f in "${files[@]}"; do case $f in *.h) headers+=("$f") ;; esac; done

# "FILE LINE INCLUDED" for each #include "..." in the tree.
includes=$(awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*"[^"]*"/) {
	s = $0; sub(/^[^"]*"/, "", s); sub(/".*/, "", s)
	print FILENAME, FNR, s }' "${files[@]}")

check_direction()
{
	awk '
	function bad(why) { printf "%s:%s: includes %s: %s\n", $1, $2, $3, why }
	function in_dir(f, d) { return index(f, d "/") == 1 }
	BEGIN { n = split("sharing largepage numa", sib) }
	# The guest images are freestanding programs of their own.
	in_dir($1, "tests/guest") { next }
	$3 !~ /^(vmm|mm|sched|tests|bench)\// {
		bad("not rooted at the repository"); next }
	in_dir($1, "tests") || in_dir($1, "bench") { next }
	in_dir($3, "tests") || in_dir($3, "bench") {
		bad("tests depend on the rest, never the other way"); next }
	in_dir($1, "mm/base") && !in_dir($3, "mm/base") && $3 != "mm/types.h" {
		bad("mm/base depends on nothing above it"); next }
	in_dir($1, "mm") && !in_dir($3, "mm") {
		bad("mm depends on mm alone"); next }
	in_dir($1, "sched") && !in_dir($3, "sched") && !in_dir($3, "mm/base") &&
	    $3 != "mm/types.h" {
		bad("sched may see headers of mm/base only"); next }
	in_dir($1, "vmm/x86") && !in_dir($3, "vmm/x86") && $3 != "mm/types.h" {
		bad("x86 depends on nothing"); next }
	# Pure constants; and the upcalls that the local APIC implements.
	in_dir($1, "vmm/dev") && $3 == "vmm/x86/regs.h" { next }
	$1 ~ /^vmm\/dev\/lapic\./ && $3 == "vmm/cpu/vcpu.h" { next }
	in_dir($1, "vmm/dev") && !in_dir($3, "vmm/dev") &&
	    !in_dir($3, "mm/base") && $3 != "mm/types.h" &&
	    $3 != "mm/p2m.h" && $3 != "vmm/mmu/mem.h" &&
	    $3 != "vmm/mmu/phys.h" && $3 != "vmm/cpu/irq.h" {
		bad("a device sees the bus, its irq lines and phys only"); next }
	{ for (i = 1; i <= n; i++) for (j = 1; j <= n; j++)
		if (i != j && in_dir($1, "mm/" sib[i]) &&
		    in_dir($3, "mm/" sib[j]))
			bad("siblings never include each other") }
	' <<<"$includes"
}

check_private()
{
	awk '$3 ~ /_priv\.h$/ {
		stem = $3; sub(/_priv\.h$/, "", stem)
		dir = stem; sub(/\/[^\/]*$/, "", dir)
		name = stem; sub(/.*\//, "", name)
		if (dir ~ "(^|/)" name "$" && index($1, dir "/") == 1)
			next
		if (index($1, "tests/") == 1)
			next
		if ($1 != stem ".c" && $1 != stem ".S" &&
		    index($1, stem "_") != 1)
			printf "%s:%s: %s is for %s_*.c alone\n", $1, $2, $3,
				stem
	}' <<<"$includes"
}

check_acyclic()
{
	awk '$1 == $3 { print $1 ": includes itself" }' <<<"$includes"
	awk '$1 ~ /\.h$/ { print $1, $3 }' <<<"$includes" |
		tsort 2>&1 >/dev/null | sed 's/^tsort: *//'
}

check_alone()
{
	local h
	for h in "${headers[@]}"; do
		case $h in tests/guest/*) continue ;; esac
		echo "#include \"$h\"" |
			$CC -std=gnu11 -fms-extensions -D_GNU_SOURCE -I. \
				-march=x86-64-v3 -mfsgsbase -Wall -Wextra \
				-Wno-unused-parameter -Werror -fsyntax-only \
				-x c - 2>&1 | head -5
	done
}

check_spdx()
{
	local f
	for f in $(git ls-files 2>/dev/null || printf '%s\n' "${files[@]}"); do
		case $f in
		LICENSE | README.md | .gitignore | .clang-format) continue ;;
		*.json | *.list | *.txt | *.md | *.svg | *.bin) continue ;;
		esac
		[ -f "$f" ] || continue
		head -3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' ||
			echo "$f: no SPDX line at its top"
	done
}

check_exit()
{
	local f
	for f in "${files[@]}"; do
		case $f in
		vmm/cli/* | tests/* | bench/*) continue ;;
		esac
		# In code, not in comments: a call at the start of a statement.
		grep -nE '^[[:space:]]+(_?exit|_Exit|quick_exit)\(' "$f" |
			sed "s|^|$f:|; s|\$| only cli/ ends the process|"
	done
}

check_format()
{
	local f
	command -v "$CLANG_FORMAT" >/dev/null || {
		echo "clang-format is not installed: apt-get install clang-format"
		return
	}
	for f in "${files[@]}"; do
		case $f in *.S | tests/guest/* | tests/diff/*) continue ;; esac
		$CLANG_FORMAT --style=file "$f" | cmp -s "$f" - ||
			echo "$f: not as clang-format has it; make format mends it"
	done
}

all=(direction private acyclic alone spdx exit format)
[ $# = 0 ] || all=("$@")
n=0 status=0
echo "1..${#all[@]}"
for c in "${all[@]}"; do
	n=$((n + 1))
	out=$(check_"$c" 2>&1)
	if [ -z "$out" ]; then
		echo "ok $n - lint $c"
	else
		echo "not ok $n - lint $c"
		sed 's/^/# /' <<<"$out"
		status=1
	fi
done
exit $status
