/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_X86_DECODE_H
#define SARDINE_VMM_X86_DECODE_H
/*
 * A thin layer over Zydis: decode one instruction in one of the modes that the
 * CPU can be in, and small questions about the result. Pure.
 */
#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

/* What the bytes mean depends on: real/VM86 or protected, and CS.D/CS.L. */
enum x86_mode {
	X86_MODE_REAL16,
	X86_MODE_PROT16,
	X86_MODE_PROT32, /* also compatibility mode */
	X86_MODE_LONG64,
};

struct x86_insn {
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/*
 * How the mask of an EVEX instruction chooses what is accessed of its memory
 * operand: count elements of elem bytes, of which number j is, if any of the
 * first n bits of the mask that are j modulo count is set (broadcasts: count <
 * n). Packed: as many elements as bits are set, from the first on.
 */
struct x86_evex_mask {
	uint8_t k;	  /* mask register 1 to 7; 0: the operand is whole */
	uint8_t elem;	  /* bytes */
	uint8_t count, n; /* elements; bits of the mask */
	bool packed;
};

enum x86_decode_result {
	X86_DECODE_OK,
	X86_DECODE_SHORT,    /* more than len bytes are needed */
	X86_DECODE_TOO_LONG, /* more than 15 bytes: #GP(0) */
	X86_DECODE_BAD,	     /* #UD */
};

/* Decode at buf[0..len), len <= 15. Hidden operands are included. Fills *out
 * only for X86_DECODE_OK. Any thread. */
enum x86_decode_result x86_decode(enum x86_mode mode, const uint8_t *buf,
				  unsigned len, struct x86_insn *out);

/* The mask as far as it matters to the memory operand. */
struct x86_evex_mask x86_evex_mask(const struct x86_insn *x);

/* Number 0..15 of a general register of any size; the byte registers AH, CH,
 * DH, BH give 0..3 and set *high. -1: not a general register. */
int x86_gpr_number(ZydisRegister r, bool *high);
/* Number 0..15 (0..31) of an XMM, YMM or ZMM register, or -1. */
int x86_vec_number(ZydisRegister r);
/* Number of a mask register K0 to K7, or -1. */
int x86_mask_number(ZydisRegister r);
/* Segment register in the order ES CS SS DS FS GS, or -1. */
int x86_seg_number(ZydisRegister r);
#endif
