/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_NATIVE_H
#define SARDINE_VMM_CPU_NATIVE_H
/*
 * Native thunks: one guest vector or x87 instruction, re-encoded so that it can
 * be executed by the host CPU on a copy of the guest's state. See native.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "vmm/x86/decode.h"

/* What a thunk works on besides the XSAVE image. */
struct native_regs {
	uint64_t gpr;		/* the instruction's general register operand */
	uint64_t rcx, rdx, rax; /* implicit ones (PCMPESTRI, FNSTSW) */
	uint64_t rflags;	/* in and out: arithmetic flags */
	uint32_t mxcsr;		/* in: to run with; out: after */
	uint32_t host_mxcsr;
	uint8_t mem[128] __attribute__((aligned(64))); /* memory operand */
};

enum native_kind {
	NATIVE_VEC,  /* SSE, AVX: only the registers named are loaded */
	NATIVE_EVEX, /* the same, all 64 bytes of them, and mask registers */
	NATIVE_X87,  /* x87, MMX: FXRSTOR and FXSAVE around it */
};

struct native_thunk {
	void (*code)(struct native_regs *r, void *xsave_image);
	bool gpr;      /* native_regs.gpr stands for a general register */
	bool implicit; /* rcx, rdx, rax take part */
	bool flags;    /* rflags is an output */
	uint16_t vex_written; /* registers that a VEX encoding writes */
	struct x86_evex_mask mask;
};

struct native;
int native_create(struct native **out); /* 0 or -errno */
void native_destroy(struct native *n);
/* Forget all thunks. The caller drops its pointers. */
void native_clear(struct native *n);

/* A thunk for the instruction x whose bytes are given: with any memory operand
 * redirected to native_regs.mem. An equal one made before is returned again.
 * NULL: cannot be encoded (mnemonic needs emulation), or the cache is full:
 * *full is set. */
const struct native_thunk *native_get(struct native *n, enum native_kind kind,
				      const struct x86_insn *x,
				      const uint8_t *bytes, bool *full);
#endif
