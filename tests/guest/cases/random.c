/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random programs, made and run in the guest. Each is a few dozen instructions:
 * arithmetic, loads and stores by all forms into areas in several 512 GiB
 * slots, stack operations with RSP moved between stacks, forward branches,
 * short loops, calls, indirect jumps, string instructions, and now and then an
 * access that faults.
 *
 * Every program runs from the same state five times: straight; single-stepped
 * by TF; straight again (by then it is translated and chained); with its pages
 * absent, then read-only, until a fault handler maps them; and with a timer that
 * interrupts it. All must end in the same registers, flags, memory and fault.
 * The end states also go into a digest, which is the same on every correct
 * engine: QEMU TCG, interp and bt agree on DIGEST. (Flags that the SDM leaves
 * undefined are never looked at.)
 */
#include "tests/guest/rt/enc.h"

#ifndef NPROG
#define NPROG 1000
#endif
#define DIGEST 0xf48d0153e0d9e5bfull

#define NAREA 5
#define AREA 4096ull
static const u64 area_va[NAREA] = {
	0x0000000040000000, 0x0000038000010000, 0x00007fffffe00000,
	0xffff800000400000, 0xffffffff80600000,
};
static u8 *area[NAREA]; /* identity; each mapped U */
static u8 saved[NAREA * AREA], first[NAREA * AREA];
static u8 *code;	/* identity, U */

/* rsp is special; r8 holds nothing special; all others are free */
static unsigned any_reg(void)
{
	unsigned r;

	do
		r = rnd() & 15;
	while (r == 4);
	return r;
}

static bool user; /* the present program runs at CPL 3 */

static u64 any_addr(void)
{
	return area_va[rnd() % NAREA] + 0x400 + (rnd() & 0x7ff);
}

static void movabs(u8 **p, unsigned reg, u64 v)
{
	e8(p, 0x48 | reg >> 3);
	e8(p, 0xb8 + (reg & 7));
	e64(p, v);
}

/* A memory operand that reaches an area (a register is loaded for it first);
 * rarely one that reaches nothing. */
static struct mem any_mem(u8 **p)
{
	struct mem m = { .base = -1, .index = -1, .scale = 1 };
	u64 a = any_addr();

	switch (rnd() % 8) {
	case 0: /* whatever the register holds; at CPL 3 only, as a kernel
		 * could hit its own memory by chance */
		if (user && rnd() % 4 == 0) {
			m.base = any_reg();
			m.disp_size = 4;
			m.disp = (int)rnd();
			return m;
		} /* fall through */
	case 1: /* the stack */
	case 2:
		m.base = 4;
		m.disp_size = rnd() & 1 ? 1 : 4;
		m.disp = (int)(rnd() & 0x78) - 0x40;
		return m;
	case 3: /* absolute */
		m.disp = (int)(area_va[rnd() & 1 ? 0 : 4] + 0x400 +
			       (rnd() & 0x7ff));
		return m;
	case 4: /* base + index */
		m.base = any_reg();
		do
			m.index = any_reg();
		while (m.index == m.base);
		m.scale = 1 << (rnd() & 3);
		m.disp_size = 1;
		m.disp = (int8_t)rnd();
		{
			u64 ix = rnd() >> (rnd() & 63);

			movabs(p, m.index, ix);
			movabs(p, m.base, a - ix * m.scale - (s64)m.disp);
		}
		return m;
	case 5: /* GS */
		m.seg = 0x65;
		m.disp = rnd() & 0x3f8;
		return m;
	default:
		m.base = any_reg();
		m.disp_size = (m.base & 7) == 5 || rnd() & 1 ? 1 : 0;
		m.disp = m.disp_size ? (int8_t)rnd() : 0;
		movabs(p, m.base, a - (s64)m.disp);
		return m;
	}
}

static void alu_rr(u8 **p)
{
	static const u8 op[] = { 0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39,
				 0x85, 0x89, 0x03, 0x0b, 0x2b, 0x33, 0x3b,
				 0x00, 0x28, 0x30, 0x38, 0x88 };
	unsigned a = any_reg(), b = any_reg();
	u8 o = op[rnd() % sizeof(op)];

	if (rnd() % 8 == 0)
		e8(p, 0x66);
	e8(p, 0x40 | (rnd() & 1) << 3 | (a >> 3) << 2 | b >> 3);
	e8(p, o);
	e8(p, 0xc0 | (a & 7) << 3 | (b & 7));
}

static void alu_mem(u8 **p)
{
	static const u8 op[] = { 0x01, 0x03, 0x09, 0x0b, 0x11, 0x13, 0x19, 0x1b,
				 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x39, 0x3b,
				 0x89, 0x8b, 0x89, 0x8b, 0x8b, 0x00, 0x02, 0x88,
				 0x8a, 0x87, 0x63, 0x85 };
	struct mem m = any_mem(p);
	u8 o = op[rnd() % sizeof(op)];

	e_insn(p, rnd() % 8 ? 0 : 0x66, o == 0x63 || rnd() & 1, 0, o, any_reg(),
	       &m, true);
}

static void misc(u8 **p)
{
	unsigned a = any_reg(), b = any_reg();
	struct mem m;

	switch (rnd() % 13) {
	case 0: /* lea */
		m = (struct mem){ .base = (int)any_reg(), .index = (int)b,
				  .scale = 1 << (rnd() & 3), .disp_size = 4,
				  .disp = (int)rnd() };
		e_insn(p, 0, true, 0, 0x8d, a, &m, true);
		break;
	case 1: /* shift by an immediate; then flags that are all defined */
		e8(p, 0x48 | b >> 3);
		e8(p, 0xc1);
		e8(p, 0xc0 | (b & 7) | (unsigned[]){ 0, 1, 4, 5, 7 }[rnd() % 5]
					       << 3);
		e8(p, rnd() & 63);
		e8(p, 0x48 | (b >> 3) << 2 | b >> 3); /* test b, b */
		e8(p, 0x85);
		e8(p, 0xc0 | (b & 7) << 3 | (b & 7));
		break;
	case 2: /* imul; test */
		e8(p, 0x48 | (a >> 3) << 2 | b >> 3);
		e8(p, 0x0f);
		e8(p, 0xaf);
		e8(p, 0xc0 | (a & 7) << 3 | (b & 7));
		e8(p, 0x48 | (a >> 3) << 2 | a >> 3);
		e8(p, 0x85);
		e8(p, 0xc0 | (a & 7) << 3 | (a & 7));
		break;
	case 3: /* setcc, conditions without OF and PF-of-AF troubles */
	case 4: { /* cmovcc */
		static const u8 cc[] = { 2, 3, 4, 5, 6, 7, 8, 9 };
		u8 c = cc[rnd() & 7];
		bool set = rnd() & 1;

		e8(p, 0x48 | (set ? 0 : (a >> 3) << 2) | b >> 3);
		e8(p, 0x0f);
		e8(p, (set ? 0x90 : 0x40) + c);
		e8(p, 0xc0 | (set ? 0 : (a & 7) << 3) | (b & 7));
		break;
	}
	case 5: /* movzx, movsx from memory */
		m = any_mem(p);
		e_insn(p, 0, true, 0x0f,
		       (u8[]){ 0xb6, 0xb7, 0xbe, 0xbf }[rnd() & 3], a, &m, true);
		break;
	case 6: /* bswap */
		e8(p, 0x48 | b >> 3);
		e8(p, 0x0f);
		e8(p, 0xc8 + (b & 7));
		break;
	case 7: /* xadd, cmpxchg with memory */
		m = any_mem(p);
		e_insn(p, 0, true, 0x0f, rnd() & 1 ? 0xc1 : 0xb1, a, &m, true);
		break;
	case 8: /* group 1 with imm8, on memory */
		m = any_mem(p);
		e_insn(p, 0, rnd() & 1, 0, 0x83, rnd() & 7, &m, true);
		e8(p, rnd());
		break;
	case 9: /* inc, dec, not, neg of memory */
		m = any_mem(p);
		if (rnd() & 1)
			e_insn(p, 0, true, 0, 0xff, rnd() & 1, &m, true);
		else
			e_insn(p, 0, true, 0, 0xf7, 2 + (rnd() & 1), &m, true);
		break;
	case 10: /* xmm through memory */
		m = any_mem(p);
		e_insn(p, 0, 0, 0x0f, 0x10 + (rnd() & 1), a, &m, false);
		break;
	case 11: /* paddq xmm, xmm; movq r, xmm */
		e8(p, 0x66);
		e8(p, 0x40 | (a >> 3) << 2 | b >> 3);
		e8(p, 0x0f);
		e8(p, 0xd4);
		e8(p, 0xc0 | (a & 7) << 3 | (b & 7));
		e8(p, 0x66);
		e8(p, 0x48 | (a >> 3) << 2 | b >> 3);
		e8(p, 0x0f);
		e8(p, 0x7e);
		e8(p, 0xc0 | (a & 7) << 3 | (b & 7));
		break;
	case 12: /* high bytes */
		e8(p, 0x00);
		e8(p, 0xc0 | (rnd() & 7) << 3 | (rnd() & 7)); /* add r8, r8 */
		break;
	}
}

static void push_reg(u8 **p, unsigned r)
{
	if (r >= 8)
		e8(p, 0x41);
	e8(p, 0x50 + (r & 7));
}

static void pop_reg(u8 **p, unsigned r)
{
	if (r >= 8)
		e8(p, 0x41);
	e8(p, 0x58 + (r & 7));
}

static void stack_op(u8 **p)
{
	struct mem m;

	switch (rnd() % 10) {
	case 0:
	case 1: push_reg(p, any_reg()); break;
	case 2:
	case 3: pop_reg(p, any_reg()); break;
	case 4: /* another stack */
		movabs(p, 4, any_addr() & ~7ull);
		break;
	case 5: { /* by way of a register */
		unsigned r = any_reg();

		movabs(p, r, any_addr() & ~15ull);
		e8(p, 0x48 | (r >> 3));
		e8(p, 0x87);
		e8(p, 0xe0 | (r & 7)); /* xchg r, rsp */
		break;
	}
	case 6: /* sub, add rsp, imm8; flags follow */
		e8(p, 0x48);
		e8(p, 0x83);
		e8(p, rnd() & 1 ? 0xec : 0xc4);
		e8(p, (rnd() & 7) * 8);
		break;
	case 7: /* push, pop of memory */
		m = any_mem(p);
		if (rnd() & 1)
			e_insn(p, 0, false, 0, 0xff, 6, &m, false);
		else
			e_insn(p, 0, false, 0, 0x8f, 0, &m, false);
		break;
	case 8: /* lea, and of rsp */
		e8(p, 0x48);
		if (rnd() & 1) {
			e8(p, 0x8d);
			e8(p, 0x64);
			e8(p, 0x24);
			e8(p, (int)(rnd() % 16) * 8 - 64);
		} else {
			e8(p, 0x83);
			e8(p, 0xe4);
			e8(p, 0xf0);
		}
		break;
	case 9: /* mov r, rsp; add */
		e8(p, 0x48);
		e8(p, 0x89);
		e8(p, 0xe0 | (unsigned[]){ 0, 1, 2, 3, 5, 6, 7 }[rnd() % 7]);
		break;
	}
}

/* rsi, rdi, rcx set up, then a string instruction */
static void string_op(u8 **p)
{
	static const u8 op[] = { 0xa4, 0xaa, 0xac };
	unsigned sz = rnd() & 3, n = rnd() % 20;

	movabs(p, 6, any_addr());
	movabs(p, 7, any_addr());
	movabs(p, 1, n);
	if (rnd() & 1)
		e8(p, 0xf3);
	if (sz == 1)
		e8(p, 0x66);
	if (sz == 3)
		e8(p, 0x48);
	e8(p, op[rnd() % 3] + (sz > 0));
}

static bool avx2;

/* Rarer things: bit strings, vectors, RIP-relative, FS, segment bases, system
 * instructions (at CPL 0), code patched through an alias. */
#define ALIAS 0x61000000ull /* of the code pages, for writes */
static void test_reg(u8 **p, unsigned r) /* defines all flags but AF */
{
	e8(p, 0x48 | (r >> 3) << 2 | r >> 3);
	e8(p, 0x85);
	e8(p, 0xc0 | (r & 7) << 3 | (r & 7));
}

static void vex3(u8 **p, unsigned map, unsigned pp, bool w, bool l, u8 op,
		 unsigned reg, unsigned vvvv, const struct mem *m)
{
	if (m->seg)
		e8(p, m->seg);
	e8(p, 0xc4);
	e8(p, (reg >= 8 ? 0 : 0x80) | (m->index >= 8 ? 0 : 0x40) |
		      (m->base >= 8 ? 0 : 0x20) | map);
	e8(p, w << 7 | (~vvvv & 15) << 3 | l << 2 | pp);
	e8(p, op);
	e_modrm(p, reg, m);
}

static void rare(u8 **p)
{
	unsigned a = any_reg(), b;
	struct mem m;
	u64 at;

	do
		b = any_reg();
	while (b == a);
	switch (rnd() % 20) {
	case 0: { /* bt, bts, btr, btc m64, r64: the offset reaches far */
		s64 off = (s64)rnd() >> (20 + rnd() % 40);
		static const u8 op[] = { 0xa3, 0xab, 0xb3, 0xbb };

		at = any_addr() & ~7ull;
		movabs(p, a, off);
		movabs(p, b, at - (off >> 6) * 8);
		m = (struct mem){ .base = b, .index = -1, .scale = 1,
				  .disp_size = 1 };
		e_insn(p, 0, true, 0x0f, op[rnd() & 3], a, &m, true);
		test_reg(p, a);
		break;
	}
	case 1: /* mul, imul of memory */
		m = any_mem(p);
		e_insn(p, 0, rnd() & 1, 0, 0xf7, 4 + (rnd() & 1), &m, true);
		test_reg(p, 0);
		break;
	case 2: /* div: quotient fits when rdx = 0; may be #DE */
		movabs(p, 2, 0);
		m = any_mem(p);
		e_insn(p, 0, true, 0, 0xf7, 6, &m, true);
		test_reg(p, 2);
		break;
	case 3: /* shld, shrd m, r, imm */
		m = any_mem(p);
		e_insn(p, 0, true, 0x0f, rnd() & 1 ? 0xa4 : 0xac, a, &m, true);
		e8(p, 1 + rnd() % 63);
		test_reg(p, a);
		break;
	case 4: /* rotates and shifts of memory by CL, by 1 */
		m = any_mem(p);
		e_insn(p, 0, rnd() & 1, 0, rnd() & 1 ? 0xd3 : 0xd1,
		       (unsigned[]){ 0, 1, 4, 5, 7 }[rnd() % 5], &m, true);
		test_reg(p, a);
		break;
	case 5: /* cmpxchg16b: aligned */
		at = any_addr() & ~15ull;
		movabs(p, 6, at);
		m = (struct mem){ .base = 6, .index = -1, .scale = 1 };
		e_insn(p, 0, true, 0x0f, 0xc7, 1, &m, true);
		test_reg(p, 0);
		break;
	case 6: /* RIP-relative, to area 0 */
		m = (struct mem){ .base = -2, .index = -1, .scale = 1 };
		e_insn(p, 0, true, 0, rnd() & 1 ? 0x8b : 0x01, a, &m, true);
		*(u32 *)(*p - 4) = (u32)(area_va[0] + 0x400 + (rnd() & 0x7ff) -
					 (u64)*p);
		break;
	case 7: /* FS */
		m = (struct mem){ .base = -1, .index = -1, .scale = 1,
				  .disp = (int)(rnd() & 0x3f8) - 0x200,
				  .seg = 0x64 };
		e_insn(p, 0, true, 0, (u8[]){ 0x8b, 0x89, 0x31, 0x87 }[rnd() & 3],
		       a, &m, true);
		break;
	case 8: /* cmps, scas */
		movabs(p, 6, any_addr());
		movabs(p, 7, any_addr());
		movabs(p, 1, rnd() % 30);
		e8(p, rnd() & 1 ? 0xf3 : 0xf2);
		if (rnd() & 1)
			e8(p, 0x48);
		e8(p, rnd() & 1 ? 0xa7 : 0xaf);
		break;
	case 9: /* enter, leave; leave from another frame */
		if (rnd() & 1) {
			e8(p, 0xc8);
			e8(p, (rnd() & 7) * 8);
			e8(p, 0);
			e8(p, 0);
		} else {
			movabs(p, 5, any_addr() & ~7ull);
		}
		e8(p, 0xc9);
		break;
	case 10: /* xchg rsp, m; mov rsp, m: through a word that holds a stack */
		movabs(p, a, any_addr() & ~7ull);
		movabs(p, b, any_addr() & ~7ull);
		m = (struct mem){ .base = b, .index = -1, .scale = 1,
				  .disp_size = 1 };
		e_insn(p, 0, true, 0, 0x89, a, &m, true);
		e_insn(p, 0, true, 0, rnd() & 1 ? 0x8b : 0x87, 4, &m, true);
		break;
	case 11: /* loop, jrcxz */
		movabs(p, 1, 1 + rnd() % 5);
		e8(p, 0x48);
		e8(p, 0x8d);
		e8(p, 0x40);
		e8(p, 0x03); /* lea rax, [rax+3] */
		e8(p, 0xe2);
		e8(p, 0xfa);
		e8(p, 0xe3);
		e8(p, 0x01);
		e8(p, 0x90);
		break;
	case 12: /* 67h: area 0 is below 4 GiB */
		movabs(p, a, (u32)(area_va[0] + 0x400 + (rnd() & 0x7ff)) |
				     rnd() << 32);
		m = (struct mem){ .base = a, .index = -1, .scale = 1,
				  .disp_size = 1, .a32 = true };
		e_insn(p, 0, true, 0, rnd() & 1 ? 0x8b : 0x29, b, &m, true);
		break;
	case 13: /* patch the immediate of the instruction after next */
		e8(p, 0x41); /* mov byte [r10], imm; mov ebx, imm32 */
		e8(p, 0xba);
		at = (u64)*p + 4 + 4 + 2 - (u64)code + ALIAS;
		e32(p, (u32)at);
		e8(p, 0x41);
		e8(p, 0xc6);
		e8(p, 0x02);
		e8(p, rnd());
		e8(p, 0xbb);
		e32(p, 0x11223344);
		break;
	case 14: /* vectors, VEX */
	case 15:
		if (!avx2)
			break;
		m = any_mem(p);
		switch (rnd() % 5) {
		case 0: vex3(p, 1, 2, 0, rnd() & 1, 0x6f, a, 0, &m); break;
		case 1: vex3(p, 1, 2, 0, rnd() & 1, 0x7f, a, 0, &m); break;
		case 2: vex3(p, 1, 1, 0, 1, 0xfe, a, b, &m); break;
		case 3: vex3(p, 1, 1, 0, 1, 0xef, a, b, &m); break;
		case 4: vex3(p, 2, 1, 0, 1, 0x58, a, 0, &m); break;
		}
		break;
	case 16: /* BMI2 with memory: shlx, sarx, shrx, mulx, rorx */
		if (!avx2)
			break;
		m = any_mem(p);
		switch (rnd() % 4) {
		case 0: vex3(p, 2, 1, 1, 0, 0xf7, a, b, &m); break;
		case 1: vex3(p, 2, 3, 1, 0, 0xf7, a, b, &m); break;
		case 2: vex3(p, 2, 3, 1, 0, 0xf6, a, b, &m); break;
		case 3:
			vex3(p, 3, 3, 1, 0, 0xf0, a, 0, &m);
			/* RIP-relative forms do not come here */
			e8(p, rnd());
			break;
		}
		break;
	case 17: /* CPL 0: things that leave translated code */
		if (user)
			break;
		switch (rnd() % 5) {
		case 0: ebytes(p, "\x0f\x01\xf8\x0f\x01\xf8", 6); break;
		case 1: ebytes(p, "\x0f\x20\xd8\x0f\x22\xd8", 6); break;
		case 2: ebytes(p, "\xe6\x80", 2); break;
		case 3: ebytes(p, "\xfa", 1); break;
		case 4: /* invlpg [area] */
			movabs(p, a, any_addr());
			m = (struct mem){ .base = a, .index = -1, .scale = 1,
					  .disp_size = 1 };
			e_insn(p, 0, 0, 0x0f, 0x01, 7, &m, false);
			break;
		}
		break;
	case 18: /* rdfsbase, wrgsbase: within the same area */
		e8(p, 0xf3);
		e8(p, 0x48 | a >> 3);
		e8(p, 0x0f);
		e8(p, 0xae);
		e8(p, 0xc0 | (rnd() & 1) << 3 | (a & 7));
		break;
	case 19: /* push imm, pushw, popw */
		e8(p, 0x6a);
		e8(p, rnd());
		e8(p, 0x66);
		push_reg(p, any_reg());
		e8(p, 0x66);
		pop_reg(p, any_reg());
		break;
	}
}

static u32 counters[64] USER_DATA = { 1 };
static unsigned ncounters;

static void body(u8 **p, unsigned n, unsigned depth);

static void branch(u8 **p, unsigned depth)
{
	static const u8 cc[] = { 2, 3, 4, 5, 6, 7, 8, 9 };
	u8 *at, *top;

	switch (rnd() % 6) {
	case 0:
	case 1: /* forward */
		e8(p, 0x0f);
		e8(p, 0x80 + cc[rnd() & 7]);
		at = *p;
		e32(p, 0);
		body(p, 1 + rnd() % 3, depth + 1);
		*(u32 *)at = (u32)(*p - (at + 4));
		break;
	case 2: /* a counted loop: the counter is in memory, reset here */
		if (ncounters == 64 || depth)
			break;
		/* mov dword [rip+counter], n */
		e8(p, 0xc7);
		e8(p, 0x05);
		at = *p;
		e32(p, 0);
		e32(p, 2 + rnd() % 6);
		*(u32 *)at = (u32)((u8 *)&counters[ncounters] - *p);
		top = *p;
		body(p, 2 + rnd() % 4, depth + 1);
		e8(p, 0xff); /* dec dword [rip+counter] */
		e8(p, 0x0d);
		e32(p, (u32)((u8 *)&counters[ncounters] - (*p + 4)));
		e8(p, 0x0f);
		e8(p, 0x85);
		e32(p, (u32)(top - (*p + 4)));
		ncounters++;
		break;
	case 3: { /* indirect jump over junk */
		unsigned r = any_reg();

		at = *p;
		movabs(p, r, 0);
		if (r >= 8)
			e8(p, 0x41);
		e8(p, 0xff);
		e8(p, 0xe0 + (r & 7));
		e8(p, 0x0f);
		e8(p, 0x0b);
		*(u64 *)(at + 2) = (u64)*p;
		break;
	}
	case 4: /* call over a function, and it */
		e8(p, 0xeb);
		at = *p;
		e8(p, 0);
		top = *p;
		e8(p, 0x48); /* lea rax, [rax+rax+n]: a short function */
		e8(p, 0x8d);
		e8(p, 0x44);
		e8(p, 0x00);
		e8(p, rnd());
		e8(p, 0xc3);
		*at = *p - (at + 1);
		e8(p, 0xe8);
		e32(p, (u32)(top - (*p + 4)));
		break;
	case 5: /* a return address of our own */
		at = *p;
		movabs(p, 0, 0);
		e8(p, 0x50);
		e8(p, 0xc3);
		e8(p, 0xcc);
		*(u64 *)(at + 2) = (u64)*p;
		break;
	}
}

static void body(u8 **p, unsigned n, unsigned depth)
{
	while (n--) {
		switch (rnd() % 16) {
		case 0: case 1: case 2: case 3: alu_rr(p); break;
		case 4: case 5: case 6: case 7: alu_mem(p); break;
		case 8: case 9: case 10: misc(p); break;
		case 11: case 12: stack_op(p); break;
		case 13:
			if (rnd() & 1)
				string_op(p);
			else
				rare(p);
			break;
		case 14: rare(p); break;
		default:
			if (depth < 2)
				branch(p, depth);
		}
	}
}

/* ---- running ---- */
static u64 stepped;
static void step(struct regs *r)
{
	stepped++;
}

static u8 xmm[512] __attribute__((aligned(32)));
static void xmm_io(bool save)
{
#define X(n)                                                                  \
	if (save && avx2)                                                     \
		asm volatile("vmovups %%ymm" #n ", %0" : "=m"(xmm[n * 32])    \
			     ::"memory");                                     \
	else if (save)                                                        \
		asm volatile("movups %%xmm" #n ", %0" : "=m"(xmm[n * 32])     \
			     ::"memory");                                     \
	else if (avx2)                                                        \
		asm volatile("vmovups %0, %%ymm" #n ::"m"(xmm[n * 32])        \
			     : "memory");                                     \
	else                                                                  \
		asm volatile("movups %0, %%xmm" #n ::"m"(xmm[n * 32])         \
			     : "memory")
	X(0); X(1); X(2); X(3); X(4); X(5); X(6); X(7);
	X(8); X(9); X(10); X(11); X(12); X(13); X(14); X(15);
#undef X
}

/* Pages come on demand, read-only at first: an instruction may fault, and begin
 * again, several times. */
static u64 demanded, interrupts;
static void demand(struct regs *r)
{
	u64 a = read_cr2() & -PG;
	pte_t *e;

	for (unsigned i = 0; i < NAREA; i++)
		if (a == area_va[i]) {
			e = pte_at(root_now(), a, 1, false);
			if (*e & PTE_P && !(r->err & PF_W))
				trap_default(r);
			*e = (u64)area[i] | PTE_P | PTE_U |
			     (*e & PTE_P ? PTE_W : 0);
			if (demanded & 1)
				invlpg(a);
			demanded++;
			return;
		}
	if (a - (u64)code >= 4 * PG)
		trap_default(r);
	e = pte_at(root_now(), a, 1, false);
	if (*e & PTE_P) {
		/* an entry that was not flushed: once is allowed */
		invlpg(a);
		return;
	}
	*e |= PTE_P;
	demanded++;
}

static void interrupt(struct regs *r)
{
	apic_eoi();
	interrupts++;
	if (interrupts & 1)
		apic_oneshot(0x60, 1 + rdtsc() % 3000);
}

static u64 gs, fs;	   /* bases for the present program */
static u8 program[2048];   /* its code as it was written */

enum how { STRAIGHT, STEPPED, AGAIN, DEMAND, INTERRUPTED, NHOW };
static const char *const how_name[NHOW] = {
	"", "when stepped", "the second time", "with demand paging",
	"when interrupted",
};

static void prepare(enum how how, bool on)
{
	if (how == DEMAND) {
		for (unsigned i = 0; i < NAREA; i++) {
			*pte_at(root_now(), area_va[i], 1, false) =
				on ? 0 : (u64)area[i] | URW;
			invlpg(area_va[i]);
		}
		for (unsigned i = 0; i < 4; i++) {
			u64 va = (u64)code + i * PG;
			pte_t *e = pte_at(root_now(), va, 1, false);

			*e = on ? *e & ~PTE_P : *e | PTE_P;
			invlpg(va);
		}
		handlers[14] = on ? demand : NULL;
	}
	if (how == INTERRUPTED) {
		if (on)
			apic_oneshot(0x60, 1 + rdtsc() % 20000);
		else
			apic_timer_stop();
	}
}

static void once(struct regs *r, const struct regs *start, enum how how)
{
	for (unsigned i = 0; i < NAREA; i++)
		memcpy(area[i], saved + i * AREA, AREA);
	for (unsigned i = 0; i < 512; i++)
		xmm[i] = i * 7;
	xmm_io(false);
	wrmsr(MSR_GS_BASE, gs);
	wrmsr(MSR_KGS_BASE, gs ^ 0x100);
	wrmsr(MSR_FS_BASE, fs);
	memcpy((void *)(ALIAS + (start->rip - (u64)code)), program, 2048);
	*r = *start;
	if (how == STEPPED)
		r->rflags |= FL_TF;
	if (how == INTERRUPTED)
		r->rflags |= FL_IF;
	prepare(how, true);
	run(r);
	prepare(how, false);
	r->rflags &= ~(FL_TF | FL_RF | FL_IF);
	xmm_io(true);
	/* what engines of the reference may differ in */
	if (r->vec == 12)
		r->vec = 13;
	if (r->vec == 14)
		r->err &= ~(u64)PF_W;
	r->rflags &= ~(FL_AF | FL_OF);
}

static u64 mix(u64 h, const void *p, size_t n)
{
	const u64 *q = p;

	for (; n >= 8; n -= 8)
		h = (h ^ *q++) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
	return h;
}

int main(void)
{
	u64 digest = 0, nfault = 0, done_ok = 0;

	part("random");
#ifdef SEED /* -DSEED=n -DNPROG=n: other programs (the digest differs) */
	for (unsigned i = 0; i < SEED * 1000003u; i++)
		rnd();
#endif
	for (unsigned i = 0; i < NAREA; i++) {
		area[i] = page_alloc();
		map_page(area_va[i], area[i], URW);
	}
	code = (u8 *)0x60000000;
	for (unsigned i = 0; i < 4; i++)
		map_page(ALIAS + i * PG, map_page((u64)code + i * PG, NULL, URW),
			 URW);
	handlers[1] = step;
	if (has_fsgsbase())
		write_cr4(read_cr4() | CR4_FSGSBASE);
	avx2 = xsave_enable() && has_avx2() && has_bmi2();
	apic_init();
	handlers[0x60] = interrupt;
	set_ist(0x60, 4);
	for (unsigned n = 0; n < NPROG; n++) {
		struct regs start, a, b;
		u8 *p = code + (n & 3) * 2048, *begin = p;
		bool bad;

		user = n & 1;
		ncounters = 0;
		body(&p, 8 + rnd() % 24, 0);
		e_done(&p);
		if (p > begin + 2048)
			fail_at("random", n, "program too long");
		memcpy(program, begin, 2048);
		for (unsigned i = 0; i < NAREA * AREA / 8; i++)
			((u64 *)saved)[i] = i * 0x9e3779b97f4a7c15ull + n;
		if (user)
			regs_user(&start, begin);
		else
			regs_kernel(&start, begin);
		start.rsp = any_addr() & ~7ull;
		for (unsigned i = 0; i < 16; i++)
			if (i != 4 && (rnd() & 1))
				*reg_n(&start, i) = rnd() >> (rnd() & 63);
		start.rflags = 2 | (rnd() & (FL_CF | FL_ZF | FL_SF));
		gs = area_va[rnd() % NAREA] + 0x400;
		fs = area_va[rnd() % NAREA] + 0x800;
		once(&a, &start, STRAIGHT);
		for (unsigned i = 0; i < NAREA; i++)
			memcpy(first + i * AREA, area[i], AREA);
		digest = mix(digest, &a, sizeof(a));
		digest = mix(digest, first, sizeof(first));
		digest = mix(digest, xmm, sizeof(xmm));
		if (a.vec == VEC_DONE)
			done_ok++;
		else
			nfault++;
		for (enum how k = STEPPED; k < NHOW; k++) {
			once(&b, &start, k);
			bad = memcmp(&a, &b, sizeof(a));
			for (unsigned i = 0; i < NAREA && !bad; i++)
				bad = memcmp(first + i * AREA, area[i], AREA);
			if (!bad)
				continue;
			fail_at("random", n, "program %u differs %s: vec %lu "
				"rip %lx cr2 %lx flags %lx, then %lu %lx %lx %lx",
				n, how_name[k], a.vec, a.rip - (u64)begin,
				a.cr2, a.rflags, b.vec, b.rip - (u64)begin,
				b.cr2, b.rflags);
			same_regs(&a, &b, 0);
			printf("code:");
			for (u8 *q = begin; q < p; q++)
				printf(" %02x", *q);
			printf("\n");
		}
	}
	printf("%lu ended, %lu faulted, %lu steps, %lu pages, %lu interrupts, "
	       "digest %lx\n", done_ok, nfault, stepped, demanded, interrupts,
	       digest);
	CHECK(stepped > NPROG * 10 && demanded > NPROG);
	CHECK(done_ok > NPROG / 4 && nfault > NPROG / 20);
	CHECK_EQ(digest, DIGEST);
	return 0;
}
