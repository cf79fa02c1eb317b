/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cpu/xstate.h"

#include <cpuid.h>
#include <pthread.h>
#include <x86intrin.h>

/* CPUID.7:EBX: F, DQ, CD, BW, VL. */
#define AVX512_ALL (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)

static struct xstate host;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t __attribute__((target("xsave"))) read_xcr0(void)
{
	return _xgetbv(0);
}

/* The offset of a component, or 0 if the host has none of that size. */
static uint16_t offset_of(unsigned n, uint32_t bytes)
{
	uint32_t a, b, c, d;

	if (!__get_cpuid_count(0xd, n, &a, &b, &c, &d) || a != bytes ||
	    b < XS_MIN_BYTES || b + bytes > XS_MAX_BYTES ||
	    b + bytes > host.size)
		return 0;
	return b;
}

static void find(void)
{
	uint32_t a, b, c, d;

	host.size = XS_MIN_BYTES;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return;
	host.host_xcr0 = read_xcr0();
	if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d) && c > XS_MIN_BYTES)
		host.size = c;
	if ((host.host_xcr0 & XCR0_ALL) != XCR0_ALL ||
	    !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
	    (b & AVX512_ALL) != AVX512_ALL)
		return;
	host.opmask = offset_of(5, XS_OPMASK_BYTES);
	host.zmm = offset_of(6, XS_ZMM_BYTES);
	host.hi16 = offset_of(7, XS_HI16_BYTES);
	host.avx512 = host.opmask && host.zmm && host.hi16;
}

const struct xstate *xstate(void)
{
	pthread_once(&once, find);
	return &host;
}

bool xstate_component(unsigned n, uint32_t *size, uint32_t *off)
{
	const struct xstate *x = xstate();

	switch (n) {
	case 2:
		*size = XS_YMM_BYTES;
		*off = XS_YMM;
		return true;
	case 5:
		*size = XS_OPMASK_BYTES;
		*off = x->opmask;
		return x->avx512;
	case 6:
		*size = XS_ZMM_BYTES;
		*off = x->zmm;
		return x->avx512;
	case 7:
		*size = XS_HI16_BYTES;
		*off = x->hi16;
		return x->avx512;
	default:
		return false;
	}
}

uint32_t xstate_bytes(uint64_t xcr0, bool compacted)
{
	uint32_t sum = XS_LEGACY, end = XS_LEGACY, size, off;

	for (unsigned n = 2; n <= 7; n++) {
		if (!(xcr0 >> n & 1) || !xstate_component(n, &size, &off))
			continue;
		sum += size;
		if (off + size > end)
			end = off + size;
	}
	return compacted ? sum : end;
}
