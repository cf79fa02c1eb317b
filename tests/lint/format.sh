#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# format.sh --fix [FILE...]: write every C file as clang-format has it; those
# that lint.sh leaves alone (tables of instructions set by hand) only when named.
set -eu
cd "$(dirname "$0")/../.."
[ "${1:-}" = --fix ] || { echo "usage: format.sh --fix [FILE...]" >&2; exit 2; }
shift
if [ $# = 0 ]; then
	mapfile -t files < <(git ls-files '*.c' '*.h' \
		':!tests/guest' ':!tests/diff')
	set -- "${files[@]}"
fi
exec "${CLANG_FORMAT:-clang-format}" -i --style=file "$@"
