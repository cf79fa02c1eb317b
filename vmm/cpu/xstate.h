/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_XSTATE_H
#define SARDINE_VMM_CPU_XSTATE_H
/*
 * The XSAVE area (SDM vol. 1, 13.4): where things are in v->fpu, which has the
 * standard format of this host, and in the guest's own areas, for which the
 * translator lets the host's XSAVE do the work. So a guest's CPUID leaf 0Dh
 * tells the host's places: these of the AVX-512 components differ between Intel
 * and AMD.
 */
#include <stdbool.h>
#include <stdint.h>

#include "vmm/x86/regs.h"

#define XS_LEGACY	576 /* legacy region and header */
#define XS_BV		512 /* XSTATE_BV */
#define XS_COMP		520 /* XCOMP_BV */
#define XS_XMM		160
#define XS_YMM		576 /* upper halves of YMM0-15 */
#define XS_YMM_BYTES	256
#define XS_OPMASK_BYTES 64   /* K0-7 */
#define XS_ZMM_BYTES	512  /* upper halves of ZMM0-15 */
#define XS_HI16_BYTES	1024 /* ZMM16-31 */
#define XS_MIN_BYTES	832  /* up to AVX */
/* An area with all that a guest can have, wherever the host has its parts. */
#define XS_MAX_BYTES	2752

struct xstate {
	bool avx512; /* the host has F, DQ, CD, BW and VL, enabled in XCR0 */
	uint16_t opmask, zmm, hi16; /* offsets; 0 without AVX-512 */
	uint32_t size;		    /* bytes of the host's area */
	uint64_t host_xcr0;
};

/* What this host has. Any thread. */
const struct xstate *xstate(void);

/* Size and offset (standard format) of component n, 2 or 5 to 7. False: none
 * that a guest may have. */
bool xstate_component(unsigned n, uint32_t *size, uint32_t *off);
/* Bytes of an area with the components in xcr0. */
uint32_t xstate_bytes(uint64_t xcr0, bool compacted);
#endif
