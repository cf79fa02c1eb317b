/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tiny encoder: cases that try every addressing form write the code
 * themselves. Registers are numbers in the encoding's order (0 rax .. 15 r15).
 */
#ifndef GUEST_RT_ENC_H
#define GUEST_RT_ENC_H
#include "tests/guest/rt/rt.h"

struct mem {
	int base;	/* register, -1 none, -2 RIP (disp is from the end) */
	int index;	/* register or -1 */
	unsigned scale; /* 1 2 4 8 */
	int disp_size;	/* 0 1 4; RIP and no base always have 4 */
	int disp;
	u8 seg;		/* 0 or the prefix byte: 0x64 fs, 0x65 gs, 0x2e.. */
	bool a32;	/* 67h */
};

static inline void e8(u8 **p, u8 b) { *(*p)++ = b; }
static inline void e32(u8 **p, u32 v)
{
	__builtin_memcpy(*p, &v, 4);
	*p += 4;
}
static inline void e64(u8 **p, u64 v)
{
	__builtin_memcpy(*p, &v, 8);
	*p += 8;
}
static inline void ebytes(u8 **p, const void *b, size_t n)
{
	memcpy(*p, b, n);
	*p += n;
}
static inline void e_done(u8 **p)
{
	e8(p, 0xcd);
	e8(p, VEC_DONE);
}

/* ModRM, SIB and displacement. */
static inline void e_modrm(u8 **p, unsigned reg, const struct mem *m)
{
	unsigned ss = m->scale == 8 ? 3 : m->scale == 4 ? 2 : m->scale == 2;
	unsigned mod = m->disp_size == 4 ? 2 : m->disp_size;
	unsigned r = (reg & 7) << 3;

	if (m->base == -2) {
		e8(p, r | 5);
		e32(p, m->disp);
		return;
	}
	if (m->base == -1) {
		e8(p, r | 4);
		e8(p, ss << 6 | (m->index < 0 ? 4 : m->index & 7) << 3 | 5);
		e32(p, m->disp);
		return;
	}
	if (m->index < 0 && (m->base & 7) != 4) {
		e8(p, mod << 6 | r | (m->base & 7));
	} else {
		e8(p, mod << 6 | r | 4);
		e8(p, ss << 6 | (m->index < 0 ? 4 : m->index & 7) << 3 |
			      (m->base & 7));
	}
	if (mod == 1)
		e8(p, m->disp);
	else if (mod == 2)
		e32(p, m->disp);
}

/* Is the form encodable? rsp cannot be an index; rbp, r13 need a disp. */
static inline bool e_valid(const struct mem *m)
{
	if (m->index == 4)
		return false;
	return m->base < 0 || (m->base & 7) != 5 || m->disp_size;
}

/* [prefix] [seg] [67] REX op ModRM. esc: 0, 0x0f; prefix: 0, 0x66, 0xf2, 0xf3.
 * w: REX.W; rex is emitted when needed, or always when force. */
static inline void e_insn(u8 **p, u8 prefix, bool w, u8 esc, u8 op,
			  unsigned reg, const struct mem *m, bool force)
{
	u8 rex = 0x40 | w << 3 | (reg >> 3 & 1) << 2;

	if (m->index >= 8)
		rex |= 2;
	if (m->base >= 8)
		rex |= 1;
	if (m->seg)
		e8(p, m->seg);
	if (m->a32)
		e8(p, 0x67);
	if (prefix)
		e8(p, prefix);
	if (rex != 0x40 || force)
		e8(p, rex);
	if (esc)
		e8(p, esc);
	e8(p, op);
	e_modrm(p, reg, m);
}

/* The effective address of the form (without a segment base) and with the
 * registers of r; next: the address after the instruction, for RIP. */
static inline u64 e_ea(struct regs *r, const struct mem *m, u64 next)
{
	u64 a = 0;

	if (m->base == -2)
		a = next;
	else if (m->base >= 0)
		a = *reg_n(r, m->base);
	if (m->index >= 0)
		a += *reg_n(r, m->index) * m->scale;
	if (m->disp_size || m->base < 0)
		a += (s64)m->disp;
	return m->a32 ? (u32)a : a;
}
#endif
