/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_DIFF_GEN_H
#define SARDINE_TESTS_DIFF_GEN_H
/*
 * Random user-level code, 64-bit or 32-bit (for compatibility mode with flat
 * segments), and the state it starts from: a pure function
 * of the seed, for whoever wants to run it (the CPU, interp, bt) and compare.
 *
 * The code lies at GEN_CODE and touches no memory but the arena; control transfers
 * go forward only (GEN_FLOW); it ends with HLT (#GP at CPL 3). It may raise #DE, #MF,
 * #GP (misaligned SSE operand) before that: state and rip at the exception are
 * to be compared then. R15 (arena's middle), R14 (0..255) and RSP (in the arena)
 * are kept by the code; all other registers are free. In 32-bit code EBP and EBX
 * take the places of R15 and R14.
 */
#include <stddef.h>
#include <stdint.h>

#define GEN_CODE       0x10000000ull
#define GEN_CODE_SIZE  0x4000ull
#define GEN_ARENA      0x10100000ull
#define GEN_ARENA_SIZE 0x10000ull
#define GEN_MAX_INSNS  256

/* Kinds of instruction to take from; OR them. */
#define GEN_INT	       1u /* integer, shifts, bits, BMI, ADX, CRC32 */
#define GEN_STRING     2u
#define GEN_SSE	       4u /* legacy SSE to SSE4.2, AES, SHA, PCLMUL, GFNI */
#define GEN_AVX	       8u
#define GEN_X87	       16u /* and MMX */
#define GEN_FLOW       64u /* forward jumps, calls, returns, POPF, ENTER */
#define GEN_ALL	       (31u | GEN_FLOW)
#define GEN_CODE32     32u /* 32-bit code; not part of ALL */
#define GEN_AVX512     128u /* nor is this: EVEX, mask registers */

struct gen_code {
	unsigned n;   /* instructions, HLT included */
	unsigned len; /* bytes */
	unsigned code32;
	uint16_t off[GEN_MAX_INSNS + 1]; /* where each begins */
	uint8_t bytes[GEN_CODE_SIZE];
};

/* XSAVE image, standard format: 832 bytes (x87, SSE, AVX). */
#define GEN_FPU_BYTES 832
/* K0-7, the upper halves of ZMM0-15, ZMM16-31. */
#define GEN_WIDE_BYTES (64 + 512 + 1024)
struct gen_state {
	uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8.. */
	uint64_t rip, rflags;
	uint8_t fpu[GEN_FPU_BYTES] __attribute__((aligned(64)));
	uint8_t wide[GEN_WIDE_BYTES]; /* no matter without AVX-512 */
	uint8_t arena[GEN_ARENA_SIZE];
	unsigned vector; /* out: the exception that ended it (13 for HLT) */
	uint64_t cr2;	 /* out: with vector 14 */
};

void gen_code(uint64_t seed, unsigned n, unsigned kinds, struct gen_code *c);
/* The same code cut after k instructions (HLT there). */
void gen_cut(const struct gen_code *c, unsigned k, struct gen_code *out);
void gen_state(uint64_t seed, unsigned kinds, struct gen_state *s);
/* Text of instruction k. */
void gen_print(const struct gen_code *c, unsigned k, char *buf, size_t len);
/* What the comparison must not look at: fields of the image that CPUs fill in
 * differently (pointers of the last x87 instruction, reserved bytes). */
void gen_normalise(struct gen_state *s);
#endif
