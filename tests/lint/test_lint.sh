#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint.sh over the tree, and proof that lint.sh finds what it looks for: each
# rule is broken on purpose in a copy.
set -u
here=$(cd "$(dirname "$0")" && pwd)
status=0
"$here/lint.sh" || status=1

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=7
# breaks CHECK FILE CONTENT: a tree with just this file must fail that check.
breaks()
{
	local check=$1 file=$2 content=$3 t=$tmp/$((++n))
	mkdir -p "$t/tests/lint" "$t/$(dirname "$file")" "$t"/{vmm,mm,sched,bench}
	cp "$here/lint.sh" "$t/tests/lint/"
	printf '%b' "$content" >"$t/$file"
	if (cd "$t" && GIT_DIR=/nonexistent tests/lint/lint.sh "$check") \
		>/dev/null 2>&1; then
		echo "not ok $n - lint $check must find $file"
		status=1
	else
		echo "ok $n - lint $check finds $file"
	fi
}
# holds CHECK FILE CONTENT: and this one must pass.
holds()
{
	local check=$1 file=$2 content=$3 t=$tmp/$((++n))
	mkdir -p "$t/tests/lint" "$t/$(dirname "$file")" "$t"/{vmm,mm,sched,bench}
	cp "$here/lint.sh" "$t/tests/lint/"
	cp "$here/../../.clang-format" "$t/"
	printf '%b' "$content" >"$t/$file"
	if (cd "$t" && GIT_DIR=/nonexistent tests/lint/lint.sh "$check") \
		>/dev/null 2>&1; then
		echo "ok $n - lint $check lets $file pass"
	else
		echo "not ok $n - lint $check must let $file pass"
		status=1
	fi
}
good='/* SPDX-License-Identifier: Apache-2.0 */\n#include "mm/types.h"\n'
for check in direction private acyclic spdx exit format; do
	holds $check vmm/x86/a.c "$good"
done
breaks direction mm/a.c '#include "vmm/vm.h"\n'
breaks direction mm/base/a.c '#include "mm/p2m.h"\n'
breaks direction vmm/x86/a.c '#include "vmm/cpu/vcpu.h"\n'
breaks direction vmm/dev/a.c '#include "vmm/bt/bt.h"\n'
breaks direction vmm/cpu/a.c '#include "tests/a.h"\n'
breaks direction vmm/cpu/a.c '#include "vcpu.h"\n'
breaks direction mm/sharing/a.c '#include "mm/numa/numa.h"\n'
breaks private mm/a.c '#include "mm/p2m_priv.h"\n'
breaks private vmm/cpu/a.c '#include "vmm/bt/bt_priv.h"\n'
holds private vmm/bt/tc.c '#include "vmm/bt/bt_priv.h"\n'
holds private mm/p2m_audit.c '#include "mm/p2m_priv.h"\n'
breaks direction vmm/dev/uart.c '#include "vmm/cpu/vcpu.h"\n'
holds direction vmm/dev/lapic.c '#include "vmm/cpu/vcpu.h"\n'
breaks acyclic mm/b.h '#include "mm/b.h"\n'
breaks alone mm/a.h 'uint64_t f(void);\n'
breaks spdx mm/a.c 'int a;\n'
breaks exit mm/a.c 'void f(void)\n{\n\texit(1);\n}\n'
breaks format mm/a.c 'int  a ;\n'
exit $status
