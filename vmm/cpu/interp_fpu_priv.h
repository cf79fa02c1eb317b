/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_INTERP_FPU_PRIV_H
#define SARDINE_VMM_CPU_INTERP_FPU_PRIV_H
/*
 * What the files of the interpreter's vector unit share: the guest's registers
 * in v->fpu (xstate.h), and running an instruction in a native thunk.
 */
#include "vmm/cpu/interp_priv.h"
#include "vmm/cpu/native.h"
#include "vmm/cpu/xstate.h"

#define FX_FCW	   0
#define FX_FSW	   2
#define FX_FTW	   4
#define FX_FOP	   6
#define FX_FIP	   8
#define FX_FDP	   16
#define FX_MXCSR   24
#define FX_MXMASK  28
#define FX_ST	   32
#define FX_XMM	   160

/* State components, by bit of XCR0 and XSTATE_BV. */
#define XC_X87	   1u
#define XC_SSE	   2u
#define XC_AVX	   4u
#define XC_OPMASK  0x20u
#define XC_ZMM	   0x40u
#define XC_HI16	   0x80u
#define XC_AVX512  (XC_OPMASK | XC_ZMM | XC_HI16)
#define XC_ALL	   (XC_X87 | XC_SSE | XC_AVX | XC_AVX512)
#define MXCSR_MASK 0xffffu
#define MXCSR_INIT 0x1f80u
#define FSW_ES	   0x80

static inline uint8_t *image(struct vcpu *v)
{
	return v->fpu;
}

/* clang-format off */
#define GETTER(t)                                                              \
static inline t get_##t(const void *p)                                         \
{                                                                              \
	t x;                                                                   \
	memcpy(&x, p, sizeof(x));                                              \
	return x;                                                              \
}                                                                              \
static inline void put_##t(void *p, t x)                                       \
{                                                                              \
	memcpy(p, &x, sizeof(x));                                              \
}
GETTER(uint16_t)
GETTER(uint32_t)
GETTER(uint64_t)
/* clang-format on */

/* Registers n of the image: 16 low bytes, 16 high bytes. */
static inline uint8_t *xmm(struct vcpu *v, unsigned n)
{
	return image(v) + FX_XMM + 16 * n;
}

static inline uint8_t *ymm_hi(struct vcpu *v, unsigned n)
{
	return image(v) + XS_YMM + 16 * n;
}

/* Upper half of ZMM register n, 0 to 15. */
static inline uint8_t *zmm_hi(struct vcpu *v, unsigned n)
{
	return image(v) + xstate()->zmm + 32 * n;
}

static inline unsigned in_use(struct vcpu *v)
{
	return get_uint64_t(image(v) + XS_BV);
}

static inline void set_in_use(struct vcpu *v, unsigned bv)
{
	put_uint64_t(image(v) + XS_BV, bv);
}

struct mem_opnd {
	uint8_t size; /* 0: none */
	bool read, write;
};

/* The components in which are to be found in the image: those that XSTATE_BV
 * says are in their initial state are filled in. */
void interp_fpu_normalise(struct vcpu *v, unsigned which);
/* Put components of the area at f into their initial state, but MXCSR. */
void interp_fpu_init(uint8_t *f, unsigned which);
enum cpu_status interp_fpu_check(struct vcpu *v, unsigned cls);
struct mem_opnd interp_fpu_mem(const struct insn *in);
void interp_fpu_run(struct vcpu *v, const struct insn *in,
		    struct native_regs *r);
void interp_fpu_results(struct vcpu *v, const struct insn *in,
			const struct native_regs *r);
enum cpu_status interp_fpu_exception(struct vcpu *v, uint32_t mxcsr,
				     uint32_t raised);
/* AVX-512 (interp_fpu_evex.c): an instruction with a thunk. */
enum cpu_status interp_evex(struct vcpu *v, const struct insn *in);
/* True: x is a gather or scatter, and its handler is set. */
bool interp_vsib_decode(const struct x86_insn *x, struct insn *in);

static inline void normalise(struct vcpu *v)
{
	interp_fpu_normalise(v, XC_X87 | XC_SSE | XC_AVX);
}
#endif
