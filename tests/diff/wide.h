/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_DIFF_WIDE_H
#define SARDINE_TESTS_DIFF_WIDE_H
/* The AVX-512 part of a gen_state and an XSAVE area of this host's. */
#include <string.h>

#include "tests/diff/gen.h"
#include "vmm/cpu/xstate.h"

static inline void wide_part(unsigned n, uint32_t *off, uint32_t *len,
			     uint32_t *at)
{
	*at = n == 5 ? 0 : n == 6 ? 64 : 64 + 512;
	xstate_component(n, len, off);
}

static inline void wide_in(uint8_t *area, const uint8_t *wide)
{
	uint32_t off, len, at;
	uint64_t bv;

	if (!xstate()->avx512)
		return;
	for (unsigned n = 5; n <= 7; n++) {
		wide_part(n, &off, &len, &at);
		memcpy(area + off, wide + at, len);
	}
	memcpy(&bv, area + XS_BV, 8);
	bv |= XCR0_AVX512;
	memcpy(area + XS_BV, &bv, 8);
}

static inline void wide_out(const uint8_t *area, uint8_t *wide)
{
	uint32_t off, len, at;

	memset(wide, 0, GEN_WIDE_BYTES);
	if (!xstate()->avx512)
		return;
	for (unsigned n = 5; n <= 7; n++) {
		wide_part(n, &off, &len, &at);
		if (area[XS_BV] >> n & 1)
			memcpy(wide + at, area + off, len);
	}
}
#endif
