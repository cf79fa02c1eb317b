/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_X86_EMIT_H
#define SARDINE_VMM_X86_EMIT_H
/*
 * Writing 64-bit host instructions into a buffer. Registers are numbers 0..15
 * in hardware order. Names say operation and operand kinds: r register, m
 * memory [base + disp], x memory [base + index * scale + disp], i immediate.
 * Nothing here writes the flags unless its comment says so.
 * The caller makes sure that the buffer has room (a maximum is known per
 * guest instruction); emit_ok() tells if it ever overflowed.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct emit {
	uint8_t *p, *start, *end;
	bool overflow;
};

static inline void e8(struct emit *e, uint8_t b)
{
	if (e->p < e->end)
		*e->p++ = b;
	else
		e->overflow = true;
}
static inline void e32(struct emit *e, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		e8(e, v >> (8 * i));
}
static inline void e64(struct emit *e, uint64_t v)
{
	e32(e, v);
	e32(e, v >> 32);
}
static inline void ebytes(struct emit *e, const uint8_t *b, unsigned n)
{
	while (n--)
		e8(e, *b++);
}
static inline bool fits8(int64_t d)
{
	return d == (int8_t)d;
}
static inline bool fits32(int64_t d)
{
	return d == (int32_t)d;
}

/* ModRM + SIB + displacement for [base + index*2^ss + disp]; index -1: none. */
static inline void emit_modrm_mem(struct emit *e, unsigned reg, unsigned base,
				  int index, unsigned ss, int32_t disp)
{
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : fits8(disp) ? 1 : 2;

	if (index < 0 && (base & 7) != 4) {
		e8(e, mod << 6 | (reg & 7) << 3 | (base & 7));
	} else {
		e8(e, mod << 6 | (reg & 7) << 3 | 4);
		e8(e, ss << 6 | (index < 0 ? 4 : index & 7) << 3 | (base & 7));
	}
	if (mod == 1)
		e8(e, disp);
	else if (mod == 2)
		e32(e, disp);
}
static inline uint8_t rex(unsigned w, unsigned reg, int index, unsigned base)
{
	return 0x40 | w << 3 | (reg >> 3 & 1) << 2 |
	       (index < 0 ? 0 : index >> 3 & 1) << 1 | (base >> 3 & 1);
}
static inline void emit_op_mem(struct emit *e, unsigned w, uint8_t op,
			       unsigned reg, unsigned base, int index,
			       unsigned ss, int32_t disp)
{
	e8(e, rex(w, reg, index, base));
	e8(e, op);
	emit_modrm_mem(e, reg, base, index, ss, disp);
}
/* mov r64, [base+disp] and back */
static inline void emit_load(struct emit *e, unsigned r, unsigned base,
			     int32_t d)
{
	emit_op_mem(e, 1, 0x8b, r, base, -1, 0, d);
}
static inline void emit_store(struct emit *e, unsigned r, unsigned base,
			      int32_t d)
{
	emit_op_mem(e, 1, 0x89, r, base, -1, 0, d);
}
static inline void emit_load_x(struct emit *e, unsigned r, unsigned base,
			       unsigned index, unsigned ss, int32_t d)
{
	emit_op_mem(e, 1, 0x8b, r, base, index, ss, d);
}
static inline void emit_lea(struct emit *e, unsigned r, unsigned base,
			    int32_t d)
{
	emit_op_mem(e, 1, 0x8d, r, base, -1, 0, d);
}
static inline void emit_lea_x(struct emit *e, unsigned r, unsigned base,
			      unsigned index, unsigned ss, int32_t d)
{
	emit_op_mem(e, 1, 0x8d, r, base, index, ss, d);
}
static inline void emit_mov(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, rex(1, src, -1, dst));
	e8(e, 0x89);
	e8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}
static inline void emit_mov32(struct emit *e, unsigned dst, unsigned src)
{
	if ((dst | src) & 8)
		e8(e, rex(0, src, -1, dst));
	e8(e, 0x89);
	e8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}
/* mov r, imm: the shortest form */
static inline void emit_imm(struct emit *e, unsigned r, uint64_t v)
{
	if (v == (uint32_t)v) {
		if (r & 8)
			e8(e, 0x41);
		e8(e, 0xb8 | (r & 7));
		e32(e, v);
	} else if (fits32(v)) {
		e8(e, rex(1, 0, -1, r));
		e8(e, 0xc7);
		e8(e, 0xc0 | (r & 7));
		e32(e, v);
	} else {
		e8(e, rex(1, 0, -1, r));
		e8(e, 0xb8 | (r & 7));
		e64(e, v);
	}
}
/* mov dword [base+disp], imm32 */
static inline void emit_store_imm32(struct emit *e, unsigned base, int32_t d,
				    uint32_t v)
{
	if (base & 8)
		e8(e, 0x41);
	e8(e, 0xc7);
	emit_modrm_mem(e, 0, base, -1, 0, d);
	e32(e, v);
}
/* mov qword [base+disp], simm32 */
static inline void emit_store_imm(struct emit *e, unsigned base, int32_t d,
				  int32_t v)
{
	e8(e, rex(1, 0, -1, base));
	e8(e, 0xc7);
	emit_modrm_mem(e, 0, base, -1, 0, d);
	e32(e, v);
}
static inline void emit_not(struct emit *e, unsigned r)
{
	e8(e, rex(1, 0, -1, r));
	e8(e, 0xf7);
	e8(e, 0xd0 | (r & 7));
}
/* shrx dst, src, count */
static inline void emit_shrx(struct emit *e, unsigned dst, unsigned src,
			     unsigned count)
{
	e8(e, 0xc4);
	e8(e, (dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 2);
	e8(e, 0x80 | (~count & 15) << 3 | 3); /* W1 vvvv L0 pp=F2 */
	e8(e, 0xf7);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
/* pext/pdep dst, src, mask */
static inline void emit_pextdep(struct emit *e, bool dep, unsigned dst,
				unsigned src, unsigned mask)
{
	e8(e, 0xc4);
	e8(e, (dst & 8 ? 0 : 0x80) | 0x40 | (mask & 8 ? 0 : 0x20) | 2);
	e8(e, 0x80 | (~src & 15) << 3 | (dep ? 3 : 2));
	e8(e, 0xf5);
	e8(e, 0xc0 | (dst & 7) << 3 | (mask & 7));
}
/* sarx dst, src, count: the same opcode, pp = F3 */
static inline void emit_sarx(struct emit *e, bool wide, unsigned dst,
			     unsigned src, unsigned count)
{
	e8(e, 0xc4);
	e8(e, (dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 2);
	e8(e, (wide ? 0x80 : 0) | (~count & 15) << 3 | 2);
	e8(e, 0xf7);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
static inline void emit_movsxd(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, rex(1, dst, -1, src));
	e8(e, 0x63);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
static inline void emit_push(struct emit *e, unsigned r)
{
	if (r & 8)
		e8(e, 0x41);
	e8(e, 0x50 | (r & 7));
}
static inline void emit_pop(struct emit *e, unsigned r)
{
	if (r & 8)
		e8(e, 0x41);
	e8(e, 0x58 | (r & 7));
}
/* push, pop qword [base+disp] */
static inline void emit_push_m(struct emit *e, unsigned base, int32_t d)
{
	if (base & 8)
		e8(e, 0x41);
	e8(e, 0xff);
	emit_modrm_mem(e, 6, base, -1, 0, d);
}
static inline void emit_pop_m(struct emit *e, unsigned base, int32_t d)
{
	if (base & 8)
		e8(e, 0x41);
	e8(e, 0x8f);
	emit_modrm_mem(e, 0, base, -1, 0, d);
}
/* movzx r32, src16 */
static inline void emit_movzx16(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, rex(0, dst, -1, src));
	e8(e, 0x0f);
	e8(e, 0xb7);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
static inline void emit_movzx8(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, rex(0, dst, -1, src) | 0x40);
	e8(e, 0x0f);
	e8(e, 0xb6);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
static inline void emit_xchg(struct emit *e, unsigned a, unsigned b)
{
	e8(e, rex(1, a, -1, b));
	e8(e, 0x87);
	e8(e, 0xc0 | (a & 7) << 3 | (b & 7));
}
static inline void emit_ret(struct emit *e)
{
	e8(e, 0xc3);
}
/* call rel32: returns where the rel32 is */
static inline uint8_t *emit_call(struct emit *e)
{
	e8(e, 0xe8);
	e32(e, 0);
	return e->p - 4;
}
/* jmp [base+disp], jmp [base+index*8+disp] */
static inline void emit_jmp_m(struct emit *e, unsigned base, int32_t d)
{
	if (base & 8)
		e8(e, 0x41);
	e8(e, 0xff);
	emit_modrm_mem(e, 4, base, -1, 0, d);
}
static inline void emit_jmp_x(struct emit *e, unsigned base, unsigned index,
			      int32_t d)
{
	e8(e, rex(0, 0, index, base));
	e8(e, 0xff);
	emit_modrm_mem(e, 4, base, index, 3, d);
}
/* jmp rel32, jcc rel32: return where the rel32 is, to be patched */
static inline uint8_t *emit_jmp(struct emit *e)
{
	e8(e, 0xe9);
	e32(e, 0);
	return e->p - 4;
}
static inline uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
	e8(e, 0x0f);
	e8(e, 0x80 | cc);
	e32(e, 0);
	return e->p - 4;
}
static inline void emit_patch(uint8_t *rel32, const uint8_t *target)
{
	int32_t d = (int32_t)(target - (rel32 + 4));

	memcpy(rel32, &d, 4);
}
#endif
