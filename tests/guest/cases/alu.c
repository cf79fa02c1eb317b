/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer instructions: results and the defined flags, at every operand size,
 * against formulas in C. The operands are edge values and a fixed random
 * sequence; the flags going in alternate between all clear and all set.
 */
#include "tests/guest/rt/rt.h"

#define FL_IN(n) ((n) & 1 ? FL_ARITH | 2 : 2ull)

static const u64 edge[] = {
	0, 1, 2, 0xf, 0x10, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff,
	0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
	0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
	0x123456789abcdef0, 0xaaaaaaaaaaaaaaaa, 0x5555555555555555,
};
#define NE (sizeof(edge) / sizeof(edge[0]))

static u64 mask_of(unsigned sz)
{
	return sz == 8 ? ~0ull : (1ull << sz * 8) - 1;
}

/* What is left of the old register: 8 and 16 bit keep, 32 bit zeroes. */
static u64 merge(u64 old, u64 res, unsigned sz)
{
	if (sz == 8 || sz == 4)
		return res & mask_of(sz);
	return (old & ~mask_of(sz)) | (res & mask_of(sz));
}

static u64 szp(u64 r, unsigned sz)
{
	u64 f = 0, m = mask_of(sz);
	u8 p = r;

	r &= m;
	p ^= p >> 4;
	p ^= p >> 2;
	p ^= p >> 1;
	if (!(p & 1))
		f |= FL_PF;
	if (!r)
		f |= FL_ZF;
	if (r >> (sz * 8 - 1) & 1)
		f |= FL_SF;
	return f;
}

static u64 add_flags(u64 a, u64 b, unsigned c, u64 r, unsigned sz)
{
	u64 m = mask_of(sz), f = szp(r, sz);
	unsigned __int128 w = (unsigned __int128)(a & m) + (b & m) + c;

	if (w >> (sz * 8))
		f |= FL_CF;
	if ((a ^ b ^ r) & 0x10)
		f |= FL_AF;
	if (((a ^ r) & (b ^ r)) >> (sz * 8 - 1) & 1)
		f |= FL_OF;
	return f;
}

static u64 sub_flags(u64 a, u64 b, unsigned c, u64 r, unsigned sz)
{
	u64 m = mask_of(sz), f = szp(r, sz);

	if ((unsigned __int128)(a & m) < (unsigned __int128)(b & m) + c)
		f |= FL_CF;
	if ((a ^ b ^ r) & 0x10)
		f |= FL_AF;
	if (((a ^ b) & (a ^ r)) >> (sz * 8 - 1) & 1)
		f |= FL_OF;
	return f;
}

typedef void (*op2_fn)(u64 *a, u64 *b, u64 *fl);
/* All four sizes of a two-operand instruction: register to register, to memory,
 * from memory. The flags go in and out by POPF and PUSHF. */
#define OP_RR(name, insn, sz, mod)                                            \
	static void name##_##sz##_rr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 x = *a, y = *b, f = *fl;                                  \
		asm volatile("push %2\n popfq\n" insn " %" mod "1, %" mod     \
			     "0\n pushfq\n pop %2"                            \
			     : "+q"(x), "+q"(y), "+r"(f)::"cc", "memory");    \
		*a = x, *b = y, *fl = f;                                      \
	}                                                                     \
	static void name##_##sz##_mr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 y = *b, f = *fl;                                          \
		asm volatile("push %0\n popfq\n" insn " %" mod "1, (%2)\n"    \
			     "pushfq\n pop %0"                                \
			     : "+r"(f), "+q"(y) : "r"(a) : "cc", "memory");   \
		*b = y, *fl = f;                                              \
	}
#define OP_RM(name, insn, sz, mod)                                            \
	static void name##_##sz##_rm(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %0\n popfq\n" insn " (%2), %" mod "1\n"    \
			     "pushfq\n pop %0"                                \
			     : "+r"(f), "+q"(x) : "r"(b) : "cc", "memory");   \
		*a = x, *fl = f;                                              \
	}
#define SIZES(M, name, insn)                                                  \
	M(name, insn "b", 1, "b") M(name, insn "w", 2, "w")                   \
	M(name, insn "l", 4, "k") M(name, insn "q", 8, "")
#define TABLE(name, form)                                                     \
	{ name##_1_##form, name##_2_##form, name##_4_##form, name##_8_##form }

SIZES(OP_RR, add, "add") SIZES(OP_RM, add, "add")
SIZES(OP_RR, or_, "or") SIZES(OP_RM, or_, "or")
SIZES(OP_RR, adc, "adc") SIZES(OP_RM, adc, "adc")
SIZES(OP_RR, sbb, "sbb") SIZES(OP_RM, sbb, "sbb")
SIZES(OP_RR, and_, "and") SIZES(OP_RM, and_, "and")
SIZES(OP_RR, sub, "sub") SIZES(OP_RM, sub, "sub")
SIZES(OP_RR, xor_, "xor") SIZES(OP_RM, xor_, "xor")
SIZES(OP_RR, cmp, "cmp") SIZES(OP_RM, cmp, "cmp")
SIZES(OP_RR, test, "test")
SIZES(OP_RR, mov, "mov") SIZES(OP_RM, mov, "mov")
SIZES(OP_RR, xadd, "xadd")
SIZES(OP_RR, xchg, "xchg")

enum op {
	ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, MOV, XADD, XCHG
};

/* b is changed by XADD and XCHG alone. Mask of the flags that are defined. */
static u64 model(enum op op, unsigned sz, u64 *a, u64 *b, u64 *fl)
{
	u64 x = *a, y = *b, r = 0, f = 0, def = FL_ARITH;
	unsigned c = *fl & 1;

	switch (op) {
	case ADD: r = x + y; f = add_flags(x, y, 0, r, sz); break;
	case ADC: r = x + y + c; f = add_flags(x, y, c, r, sz); break;
	case SUB:
	case CMP: r = x - y; f = sub_flags(x, y, 0, r, sz); break;
	case SBB: r = x - y - c; f = sub_flags(x, y, c, r, sz); break;
	case OR: r = x | y; f = szp(r, sz); def &= ~FL_AF; break;
	case XOR: r = x ^ y; f = szp(r, sz); def &= ~FL_AF; break;
	case AND:
	case TEST: r = x & y; f = szp(r, sz); def &= ~FL_AF; break;
	case MOV: r = y; f = *fl & FL_ARITH; break;
	case XCHG: r = y; f = *fl & FL_ARITH; *b = merge(y, x, sz); break;
	case XADD:
		r = x + y;
		f = add_flags(x, y, 0, r, sz);
		*b = merge(y, x, sz);
		break;
	}
	if (op != CMP && op != TEST)
		*a = merge(x, r, sz);
	*fl = f;
	return def;
}

static void check_op2(const char *name, enum op op, op2_fn fn[4], int dest_mem)
{
	for (unsigned s = 0; s < 4; s++)
		for (unsigned i = 0; i < NE; i++)
			for (unsigned j = 0; j < NE + 2; j++) {
				unsigned sz = 1 << s;
				u64 x = edge[i];
				u64 y = j < NE ? edge[j] : rnd();
				u64 a = x, b = y, f = FL_IN(i + j);
				u64 ma = x, mb = y, mf = f, def;

				def = model(op, sz, &ma, &mb, &mf);
				/* a memory operand keeps its other bytes */
				if (dest_mem && sz == 4)
					ma = (x & ~mask_of(4)) |
					     (ma & mask_of(4));
				fn[s](&a, &b, &f);
				if (a != ma || b != mb || ((f ^ mf) & def))
					fail_at(name, sz, "%lx,%lx: got %lx %lx "
						"flags %lx, want %lx %lx %lx",
						x, y, a, b, f & def, ma, mb,
						mf & def);
			}
}
#define CHECK_OP2(name, op, form)                                             \
	check_op2(#name "_" #form, op, (op2_fn[4])TABLE(name, form),          \
		  #form[0] == 'm')

/* ---- one operand: inc dec neg not ---- */
#define OP1(name, insn, sz, mod)                                              \
	static void name##_##sz##_rr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %1\n popfq\n" insn " %" mod "0\n pushfq\n" \
			     "pop %1" : "+q"(x), "+r"(f)::"cc", "memory");    \
		*a = x, *fl = f;                                              \
	}                                                                     \
	static void name##_##sz##_mr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 f = *fl;                                                  \
		asm volatile("push %0\n popfq\n" insn " (%1)\n pushfq\n"      \
			     "pop %0" : "+r"(f) : "r"(a) : "cc", "memory");   \
		*fl = f;                                                      \
	}
SIZES(OP1, inc, "inc") SIZES(OP1, dec, "dec") SIZES(OP1, neg, "neg")
SIZES(OP1, not_, "not")

static void check_op1(const char *name, op2_fn fn[4], char kind, int mem)
{
	for (unsigned s = 0; s < 4; s++)
		for (unsigned i = 0; i < NE; i++) {
			unsigned sz = 1 << s;
			u64 x = edge[i], a = x, f = FL_IN(i), r, mf, in = f;

			if (kind == 'i') {
				r = x + 1;
				mf = (add_flags(x, 1, 0, r, sz) & ~FL_CF) |
				     (in & FL_CF);
			} else if (kind == 'd') {
				r = x - 1;
				mf = (sub_flags(x, 1, 0, r, sz) & ~FL_CF) |
				     (in & FL_CF);
			} else if (kind == 'n') {
				r = -x;
				mf = sub_flags(0, x, 0, r, sz);
			} else {
				r = ~x;
				mf = in & FL_ARITH;
			}
			r = mem ? (x & ~mask_of(sz)) | (r & mask_of(sz)) :
				  merge(x, r, sz);
			fn[s](&a, NULL, &f);
			if (a != r || ((f ^ mf) & FL_ARITH))
				fail_at(name, sz, "%lx: %lx flags %lx, want "
					"%lx %lx", x, a, (u64)(f & FL_ARITH), r, mf);
		}
}

/* ---- shifts and rotates by CL, by an immediate, by 1 ---- */
#define SH_CL(name, insn, sz, mod)                                            \
	static void name##_##sz##_rr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %1\n popfq\n" insn " %%cl, %" mod "0\n"    \
			     "pushfq\n pop %1"                                \
			     : "+q"(x), "+r"(f) : "c"(*b) : "cc", "memory");  \
		*a = x, *fl = f;                                              \
	}                                                                     \
	static void name##_##sz##_mr(u64 *a, u64 *b, u64 *fl)                 \
	{                                                                     \
		u64 f = *fl;                                                  \
		asm volatile("push %0\n popfq\n" insn " %%cl, (%1)\n"         \
			     "pushfq\n pop %0"                                \
			     : "+r"(f) : "r"(a), "c"(*b) : "cc", "memory");   \
		*fl = f;                                                      \
	}                                                                     \
	static void name##1_##sz##_rr(u64 *a, u64 *b, u64 *fl)                \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %1\n popfq\n" insn " %" mod "0\n"          \
			     "pushfq\n pop %1"                                \
			     : "+q"(x), "+r"(f)::"cc", "memory");             \
		*a = x, *fl = f;                                              \
	}                                                                     \
	static void name##5_##sz##_rr(u64 *a, u64 *b, u64 *fl)                \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %1\n popfq\n" insn " $5, %" mod "0\n"      \
			     "pushfq\n pop %1"                                \
			     : "+q"(x), "+r"(f)::"cc", "memory");             \
		*a = x, *fl = f;                                              \
	}
SIZES(SH_CL, shl, "shl") SIZES(SH_CL, shr, "shr") SIZES(SH_CL, sar, "sar")
SIZES(SH_CL, rol, "rol") SIZES(SH_CL, ror, "ror") SIZES(SH_CL, rcl, "rcl")
SIZES(SH_CL, rcr, "rcr")

enum sh { SHL, SHR, SAR, ROL, ROR, RCL, RCR };

/* Bit by bit. Returns the mask of the flags that are defined. */
static u64 model_shift(enum sh op, unsigned sz, u64 *a, unsigned count, u64 *fl)
{
	unsigned bits = sz * 8, n = count & (sz == 8 ? 63 : 31);
	u64 m = mask_of(sz), x = *a & m, cf = *fl & 1, top = 1ull << (bits - 1);
	u64 def = FL_ARITH, first = x, f;

	if (!n) {
		*fl &= FL_ARITH;
		if (sz == 4)
			*a &= m; /* the destination is still written */
		return FL_ARITH;
	}
	for (unsigned i = 0; i < n; i++) {
		u64 hi = x >> (bits - 1) & 1, lo = x & 1, old = cf;

		switch (op) {
		case SHL: cf = hi; x = x << 1 & m; break;
		case SHR: cf = lo; x >>= 1; break;
		case SAR: cf = lo; x = x >> 1 | (x & top); break;
		case ROL: cf = hi; x = (x << 1 & m) | hi; break;
		case ROR: cf = lo; x = x >> 1 | lo << (bits - 1); break;
		case RCL: cf = hi; x = (x << 1 & m) | old; break;
		case RCR: cf = lo; x = x >> 1 | old << (bits - 1); break;
		}
	}
	if (op <= SAR) {
		f = szp(x, sz) | cf;
		def &= ~FL_AF;
		if (op != SAR && n >= bits && sz < 4)
			def &= ~FL_CF; /* beyond the operand's size */
	} else {
		f = (*fl & (FL_SF | FL_ZF | FL_PF | FL_AF)) | cf;
	}
	if (n != 1) {
		def &= ~FL_OF;
	} else {
		u64 msb = x >> (bits - 1) & 1, ov = 0;

		switch (op) {
		case SHL: case ROL: case RCL: ov = msb ^ cf; break;
		case SHR: ov = first >> (bits - 1) & 1; break;
		case SAR: ov = 0; break;
		case ROR: case RCR: ov = msb ^ (x >> (bits - 2) & 1); break;
		}
		if (ov)
			f |= FL_OF;
	}
	*a = merge(*a, x, sz);
	*fl = f;
	return def;
}

static void check_shift(const char *name, enum sh op, op2_fn fn[4], int fixed,
			int mem)
{
	static const u8 counts[] = { 0,	 1,  2,	 3,  5,	 7,  8,	 9,  15, 16,
				     17, 18, 31, 32, 33, 63, 64, 65, 255 };

	for (unsigned s = 0; s < 4; s++)
		for (unsigned i = 0; i < NE; i++)
			for (unsigned j = 0; j < sizeof(counts); j++) {
				unsigned sz = 1 << s;
				u64 x = edge[i], c = fixed ? (u64)fixed :
							     counts[j];
				u64 a = x, ma = x, f = FL_IN(i + j), mf = f;
				u64 def, b = c | 0xab00;

				def = model_shift(op, sz, &ma, c, &mf);
				if (mem && sz == 4)
					ma = (x & ~mask_of(4)) |
					     (ma & mask_of(4));
				fn[s](&a, &b, &f);
				if (a != ma || ((f ^ mf) & def))
					fail_at(name, sz, "%lx by %lu: %lx "
						"flags %lx, want %lx %lx", x, c,
						a, f & def, ma, mf & def);
				if (fixed)
					break;
			}
}
#define CHECK_SHIFT(name, op)                                                 \
	do {                                                                  \
		check_shift(#name " cl", op, (op2_fn[4])TABLE(name, rr), 0,   \
			    0);                                               \
		check_shift(#name " cl,m", op, (op2_fn[4])TABLE(name, mr), 0, \
			    1);                                               \
		check_shift(#name " 1", op, (op2_fn[4])TABLE(name##1, rr), 1, \
			    0);                                               \
		check_shift(#name " 5", op, (op2_fn[4])TABLE(name##5, rr), 5, \
			    0);                                               \
	} while (0)

/* ---- shld, shrd ---- */
#define DSH(name, insn, sz, mod)                                              \
	static void name##_##sz(u64 *a, u64 b, u64 c, u64 *fl)                \
	{                                                                     \
		u64 x = *a, f = *fl;                                          \
		asm volatile("push %1\n popfq\n" insn " %%cl, %" mod "2, %"   \
			     mod "0\n pushfq\n pop %1"                        \
			     : "+r"(x), "+r"(f) : "r"(b), "c"(c) : "cc",      \
			     "memory");                                       \
		*a = x, *fl = f;                                              \
	}
DSH(shld, "shldw", 2, "w") DSH(shld, "shldl", 4, "k") DSH(shld, "shldq", 8, "")
DSH(shrd, "shrdw", 2, "w") DSH(shrd, "shrdl", 4, "k") DSH(shrd, "shrdq", 8, "")

static void check_dshift(void)
{
	static void (*const fn[2][3])(u64 *, u64, u64, u64 *) = {
		{ shld_2, shld_4, shld_8 }, { shrd_2, shrd_4, shrd_8 }
	};

	part("shld shrd");
	for (unsigned left = 0; left < 2; left++)
		for (unsigned s = 0; s < 3; s++)
			for (unsigned k = 0; k < 800; k++) {
				unsigned sz = 2 << s, bits = sz * 8;
				u64 m = mask_of(sz), x = edge[k % NE];
				u64 y = k & 1 ? rnd() : edge[k / 7 % NE];
				u64 c = rnd() & 63, n, a = x, f = 2, r, cf;

				n = c & (sz == 8 ? 63 : 31);
				if (n > bits)
					continue; /* undefined */
				if (!n) {
					r = x & m;
					cf = 0;
				} else if (!left) {
					r = n == bits ? y : x << n | (y & m) >> (bits - n);
					cf = (x & m) >> (bits - n) & 1;
				} else {
					r = n == bits ? y : (x & m) >> n | y << (bits - n);
					cf = (x & m) >> (n - 1) & 1;
				}
				fn[left][s](&a, y, c, &f);
				CHECK_EQ(a, merge(x, r, sz));
				if (n && n < bits) {
					CHECK_EQ(f & FL_CF, cf);
					CHECK_EQ(f & (FL_SF | FL_ZF | FL_PF),
						 szp(r, sz));
				}
			}
}

/* ---- mul, imul, div, idiv ---- */
static void check_mul(void)
{
	part("mul");
	for (unsigned i = 0; i < NE; i++)
		for (unsigned j = 0; j < NE; j++) {
			u64 a = edge[i], b = edge[j], lo, hi, f, l2, f2;
			unsigned __int128 p = (unsigned __int128)a * b;
			__int128 q = (__int128)(s64)a * (s64)b;
			u32 l4, h4;
			u16 ax;

			asm volatile("mulq %4\n pushfq\n pop %2" : "=a"(lo),
				     "=d"(hi), "=r"(f) : "a"(a), "r"(b));
			CHECK(lo == (u64)p && hi == (u64)(p >> 64));
			CHECK_EQ(f & (FL_CF | FL_OF), hi ? FL_CF | FL_OF : 0);
			asm volatile("imulq %4\n pushfq\n pop %2" : "=a"(lo),
				     "=d"(hi), "=r"(f) : "a"(a), "r"(b));
			CHECK(lo == (u64)q && hi == (u64)(q >> 64));
			CHECK_EQ(f & (FL_CF | FL_OF),
				 q != (s64)q ? FL_CF | FL_OF : 0);
			l2 = a;
			asm volatile("imulq %2, %0\n pushfq\n pop %1"
				     : "+r"(l2), "=r"(f2) : "r"(b));
			CHECK_EQ(l2, (u64)q);
			CHECK_EQ(f2 & (FL_CF | FL_OF),
				 q != (s64)q ? FL_CF | FL_OF : 0);
			asm volatile("imulq $-77, %1, %0" : "=r"(l2) : "r"(b));
			CHECK_EQ(l2, b * (u64)-77);
			asm volatile("imull $100000, %k1, %k0" : "=r"(l2)
				     : "r"(b));
			CHECK_EQ(l2, (u32)((u32)b * 100000u));
			asm volatile("mull %k3" : "=a"(l4), "=d"(h4) : "a"(a),
				     "r"(b));
			CHECK_EQ((u64)h4 << 32 | l4, (u64)(u32)a * (u32)b);
			asm volatile("imull %k3" : "=a"(l4), "=d"(h4) : "a"(a),
				     "r"(b));
			CHECK_EQ((u64)h4 << 32 | l4,
				 (u64)((s64)(int)a * (int)b));
			asm volatile("mulb %b2" : "=a"(ax) : "a"(a), "q"(b));
			CHECK_EQ(ax, (u16)((u8)a * (u8)b));
			asm volatile("imulb %b2" : "=a"(ax) : "a"(a), "q"(b));
			CHECK_EQ(ax, (u16)((int8_t)a * (int8_t)b));
			lo = a, hi = 0x1111222233334444;
			asm volatile("mulw %w2" : "+a"(lo), "+d"(hi) : "r"(b));
			CHECK_EQ(lo, merge(a, (u32)(u16)a * (u16)b, 2));
			CHECK_EQ(hi, merge(0x1111222233334444,
					   (u32)(u16)a * (u16)b >> 16, 2));
		}
}

static void check_div(void)
{
	part("div");
	for (unsigned k = 0; k < 400; k++) {
		u64 b = rnd() >> (rnd() & 63), q = rnd() >> (rnd() & 63), r;
		u64 lo, hi;
		unsigned __int128 n;

		if (!b)
			continue;
		r = rnd() % b;
		n = (unsigned __int128)q * b + r;
		lo = n, hi = n >> 64;
		asm volatile("divq %2" : "+a"(lo), "+d"(hi) : "r"(b));
		CHECK(lo == q && hi == r, "divq");
		/* signed: |q| < 2^63, remainder has the dividend's sign */
		q >>= 1;
		b = b >> 1 | 1;
		r %= b;
		n = -((unsigned __int128)q * b + r);
		lo = n, hi = n >> 64;
		asm volatile("idivq %2" : "+a"(lo), "+d"(hi) : "r"(b));
		CHECK(lo == -q && hi == -r, "idivq");
		lo = (u32)rnd(), hi = 0;
		q = lo, b = (u32)b | 1;
		asm volatile("divl %k2" : "+a"(lo), "+d"(hi) : "r"(b));
		CHECK(lo == q / (u32)b && hi == q % (u32)b, "divl");
		lo = (rnd() & 0x3fff) | 0xabc0000;
		q = lo & 0xffff;
		b = (b & 0x7f) | 0x40;
		asm volatile("divb %b1" : "+a"(lo) : "q"(b));
		CHECK_EQ(lo, 0xabc0000ull | (q / b & 0xff) | (q % b) << 8);
	}
}

/* Division faults leave all registers alone. */
SNIP(de_zero, "xor %ecx, %ecx\n.globl de_zero_at\nde_zero_at: div %rcx");
SNIP(de_over, "mov $1, %edx\nmov $1, %ecx\n.globl de_over_at\nde_over_at: "
	      "divl %ecx");
SNIP(de_min, "mov $0x80000000, %eax\ncltd\nmov $-1, %ecx\n.globl de_min_at\n"
	     "de_min_at: idivl %ecx");
SNIP(de_mem, "movb $0, (%rdi)\n.globl de_mem_at\nde_mem_at: idivb (%rdi)");
extern char de_zero_at[], de_over_at[], de_min_at[], de_mem_at[];

static void check_de(void)
{
	static u8 zero;
	struct regs r, a;

	part("#DE");
	regs_kernel(&r, de_zero);
	a = r;
	run(&r);
	expect_fault(&r, 0, 0, de_zero_at);
	same_regs(&a, &r, 1 << 1);
	regs_kernel(&r, de_over);
	a = r;
	run(&r);
	expect_fault(&r, 0, 0, de_over_at);
	same_regs(&a, &r, 1 << 1 | 1 << 2);
	regs_kernel(&r, de_min);
	run(&r);
	expect_fault(&r, 0, 0, de_min_at);
	CHECK_EQ(r.rax, 0x80000000);
	CHECK_EQ(r.rdx, 0xffffffff);
	regs_kernel(&r, de_mem);
	r.rdi = (u64)&zero;
	a = r;
	run(&r);
	expect_fault(&r, 0, 0, de_mem_at);
	same_regs(&a, &r, 0);
}

/* ---- bits ---- */
static void check_bits(void)
{
	u64 buf[9];

	part("bits");
	for (unsigned i = 0; i < NE * 4; i++) {
		u64 x = i < NE ? edge[i] : rnd(), r, f, n = rnd();
		u64 lo, hi;

		if (x) {
			for (lo = 0; !(x >> lo & 1); lo++)
				;
			for (hi = 63; !(x >> hi & 1); hi--)
				;
			asm volatile("bsfq %1, %0" : "=r"(r) : "r"(x));
			CHECK_EQ(r, lo);
			asm volatile("bsrq %1, %0" : "=r"(r) : "r"(x));
			CHECK_EQ(r, hi);
		}
		asm volatile("bsfq %2, %0\n pushfq\n pop %1" : "=r"(r),
			     "=r"(f) : "r"(x));
		CHECK_EQ(f & FL_ZF, x ? 0 : FL_ZF);
		asm volatile("btq %2, %1\n pushfq\n pop %0" : "=r"(f)
			     : "r"(x), "r"(n));
		CHECK_EQ(f & FL_CF, x >> (n & 63) & 1);
		r = x;
		asm volatile("btcl %k2, %k0\n pushfq\n pop %1" : "+r"(r),
			     "=r"(f) : "r"(n));
		CHECK_EQ(r, (u32)x ^ 1u << (n & 31));
		CHECK_EQ(f & FL_CF, x >> (n & 31) & 1);
		r = x;
		asm volatile("btsw $3, %w0\n btrq $60, %0" : "+r"(r));
		CHECK_EQ(r, (x | 8) & ~(1ull << 60));
		/* a register bit offset reaches beyond the operand */
		memset(buf, 0x5a, sizeof(buf));
		n = (s64)(rnd() % 512) - 256;
		asm volatile("btcq %1, %0\n setc %b2" : "+m"(buf[4])
			     : "r"(n), "q"(r) : "memory");
		for (unsigned k = 0; k < 9; k++) {
			s64 bit = (s64)n + 4 * 64 - k * 64;
			u64 want = 0x5a5a5a5a5a5a5a5aull;

			if (bit >= 0 && bit < 64)
				want ^= 1ull << bit;
			CHECK_EQ(buf[k], want);
		}
		asm volatile("bswapq %0" : "=r"(r) : "0"(x));
		CHECK_EQ(r, __builtin_bswap64(x));
		asm volatile("bswapl %k0" : "=r"(r) : "0"(x));
		CHECK_EQ(r, __builtin_bswap32(x));
		if (cpuid(1, 0).c >> 23 & 1) {
			for (lo = 0, hi = 0; lo < 64; lo++)
				hi += x >> lo & 1;
			asm volatile("popcntq %2, %0\n pushfq\n pop %1"
				     : "=r"(r), "=r"(f) : "r"(x));
			CHECK_EQ(r, hi);
			CHECK_EQ(f & FL_ARITH, x ? 0 : FL_ZF);
		}
		if (cpuid(0x80000001, 0).c >> 5 & 1) {
			asm volatile("lzcntl %k2, %k0\n pushfq\n pop %1"
				     : "=r"(r), "=r"(f) : "r"(x));
			CHECK_EQ(r, (u32)x ? __builtin_clz((u32)x) : 32);
			CHECK_EQ(f & FL_CF, (u32)x ? 0 : 1);
		}
		if (has_bmi1()) {
			asm volatile("tzcntq %1, %0" : "=r"(r) : "r"(x));
			CHECK_EQ(r, x ? __builtin_ctzll(x) : 64);
			asm volatile("andnq %2, %1, %0\n pushfq\n pop %3"
				     : "=r"(r), "+r"(x), "+r"(n), "=r"(f));
			CHECK_EQ(r, ~x & n);
			CHECK_EQ(f & (FL_CF | FL_OF | FL_ZF | FL_SF),
				 szp(r, 8) & (FL_ZF | FL_SF));
			asm volatile("blsrq %1, %0" : "=r"(r) : "r"(x));
			CHECK_EQ(r, x & (x - 1));
			asm volatile("bextrq %2, %1, %0" : "=r"(r)
				     : "r"(x), "r"(0x1005ull));
			CHECK_EQ(r, x >> 5 & 0xffff);
		}
		if (has_bmi2()) {
			u64 a, b;

			asm volatile("rorxq $13, %1, %0" : "=r"(r) : "r"(x));
			CHECK_EQ(r, x >> 13 | x << 51);
			asm volatile("shlxq %2, %1, %0" : "=r"(r)
				     : "m"(x), "r"(n));
			CHECK_EQ(r, x << (n & 63));
			asm volatile("sarxl %k2, %k1, %k0" : "=r"(r)
				     : "r"(x), "r"(n));
			CHECK_EQ(r, (u32)((int)x >> (n & 31)));
			asm volatile("mulxq %3, %0, %1" : "=r"(a), "=r"(b)
				     : "d"(x), "r"(n));
			CHECK(a == x * n, "mulx low");
			CHECK_EQ(b, (unsigned __int128)x * n >> 64);
			asm volatile("bzhiq %2, %1, %0" : "=r"(r)
				     : "r"(x), "r"(20ull));
			CHECK_EQ(r, x & 0xfffff);
			asm volatile("pextq %2, %1, %0" : "=r"(a)
				     : "r"(x), "r"(0xff00ff00ull));
			CHECK_EQ(a, (x >> 8 & 0xff) | (x >> 24 & 0xff) << 8);
			asm volatile("pdepq %2, %1, %0" : "=r"(a)
				     : "r"(x), "r"(0xff00ff00ull));
			CHECK_EQ(a, (x & 0xff) << 8 | (x >> 8 & 0xff) << 24);
		}
	}
}

/* ---- cmpxchg, cmpxchg8b/16b, widening moves ---- */
static void check_xchg(void)
{
	part("cmpxchg");
	for (unsigned i = 0; i < NE; i++)
		for (unsigned j = 0; j < NE; j++) {
			u64 m = edge[i], a = edge[j], n = rnd(), f;
			u64 m0 = m, a0 = a;
			u64 w[2] __attribute__((aligned(16)));
			u64 lo, hi;

			asm volatile("lock cmpxchgq %3, %0\n pushfq\n pop %2"
				     : "+m"(m), "+a"(a), "=r"(f) : "r"(n)
				     : "memory");
			CHECK_EQ(m, m0 == a0 ? n : m0);
			CHECK_EQ(a, m0 == a0 ? a0 : m0);
			CHECK_EQ(f & FL_ARITH, sub_flags(a0, m0, 0, a0 - m0, 8));
			m = m0, a = a0;
			asm volatile("cmpxchgl %k3, %k0\n pushfq\n pop %2"
				     : "+r"(m), "+a"(a), "=r"(f) : "r"(n));
			if ((u32)m0 == (u32)a0)
				CHECK_EQ(m, (u32)n);
			else
				CHECK_EQ(a, (u32)m0);
			CHECK_EQ(f & FL_ARITH, sub_flags(a0, m0, 0, a0 - m0, 4));
			m = m0, a = a0;
			asm volatile("cmpxchgb %b2, %0" : "+m"(m), "+a"(a)
				     : "q"(n) : "memory");
			CHECK_EQ(m, (u8)m0 == (u8)a0 ? merge(m0, n, 1) : m0);
			CHECK_EQ(a, (u8)m0 == (u8)a0 ? a0 : merge(a0, m0, 1));
			w[0] = m0, w[1] = ~m0;
			lo = a0, hi = ~a0;
			asm volatile("lock cmpxchg16b %0\n pushfq\n pop %3"
				     : "+m"(w), "+a"(lo), "+d"(hi), "=r"(f)
				     : "b"(n), "c"(n + 1) : "memory");
			CHECK_EQ(f & FL_ZF, m0 == a0 ? FL_ZF : 0);
			CHECK_EQ(w[0], m0 == a0 ? n : m0);
			CHECK_EQ(w[1], m0 == a0 ? n + 1 : ~m0);
			CHECK_EQ(lo, m0);
			CHECK_EQ(hi, ~m0);
			w[0] = m0;
			lo = (u32)m0, hi = (u32)(m0 >> 32);
			asm volatile("cmpxchg8b %0\n pushfq\n pop %3"
				     : "+m"(w[0]), "+a"(lo), "+d"(hi), "=r"(f)
				     : "b"(a0), "c"(n) : "memory");
			CHECK_EQ(f & FL_ZF, FL_ZF);
			CHECK_EQ(w[0], (u32)a0 | n << 32);
		}
	part("widen");
	for (unsigned i = 0; i < NE; i++) {
		u64 x = edge[i], r = 0x1111111111111111, d;

		asm volatile("movsbq %b1, %0" : "=r"(r) : "q"(x));
		CHECK_EQ(r, (s64)(int8_t)x);
		asm volatile("movswl %w1, %k0" : "=r"(r) : "r"(x));
		CHECK_EQ(r, (u32)(int16_t)x);
		asm volatile("movslq %k1, %0" : "=r"(r) : "r"(x));
		CHECK_EQ(r, (s64)(int)x);
		r = 0x1111111111111111;
		asm volatile("movzbw %b1, %w0" : "+r"(r) : "q"(x));
		CHECK_EQ(r, 0x1111111111110000 | (u8)x);
		asm volatile("movzwq %1, %0" : "=r"(r) : "m"(x));
		CHECK_EQ(r, (u16)x);
		r = x;
		asm volatile("cbtw" : "+a"(r));
		CHECK_EQ(r, merge(x, (u16)(int8_t)x, 2));
		r = x;
		asm volatile("cwtl" : "+a"(r));
		CHECK_EQ(r, (u32)(int16_t)x);
		r = x;
		asm volatile("cltq" : "+a"(r));
		CHECK_EQ(r, (s64)(int)x);
		r = x, d = 0x2222222222222222;
		asm volatile("cwtd" : "+a"(r), "+d"(d));
		CHECK_EQ(d, x & 0x8000 ? 0x222222222222ffff :
					 0x2222222222220000);
		asm volatile("cltd" : "+a"(r), "+d"(d));
		CHECK_EQ(d, x & 0x80000000 ? 0xffffffff : 0);
		asm volatile("cqto" : "+a"(r), "+d"(d));
		CHECK_EQ(d, x >> 63 ? ~0ull : 0);
	}
}

/* ---- conditions: setcc and cmovcc on all 64 flag values ---- */
#define CC_LIST(M)                                                            \
	M(0, "o") M(1, "no") M(2, "b") M(3, "ae") M(4, "e") M(5, "ne")        \
	M(6, "be") M(7, "a") M(8, "s") M(9, "ns") M(10, "p") M(11, "np")      \
	M(12, "l") M(13, "ge") M(14, "le") M(15, "g")

static bool cond(unsigned cc, u64 f)
{
	bool c = f & FL_CF, z = f & FL_ZF, s = f & FL_SF, o = f & FL_OF,
	     p = f & FL_PF, r = false;

	switch (cc >> 1) {
	case 0: r = o; break;
	case 1: r = c; break;
	case 2: r = z; break;
	case 3: r = c || z; break;
	case 4: r = s; break;
	case 5: r = p; break;
	case 6: r = s != o; break;
	case 7: r = z || s != o; break;
	}
	return r ^ (cc & 1);
}

static void check_cc(void)
{
	static const u64 bit[6] = { FL_CF, FL_PF, FL_AF, FL_ZF, FL_SF, FL_OF };

	part("cc");
	for (unsigned n = 0; n < 64; n++) {
		u64 f = 2, r, out;

		for (unsigned i = 0; i < 6; i++)
			if (n >> i & 1)
				f |= bit[i];
#define ONE(cc, name)                                                         \
	r = 0xaaaaaaaaaaaaaaaa;                                               \
	asm volatile("push %1\n popfq\n set" name " %b0" : "+q"(r) : "r"(f)   \
		     : "cc", "memory");                                       \
	CHECK_EQ(r, 0xaaaaaaaaaaaaaa00 | cond(cc, f));                        \
	r = 0xaaaaaaaaaaaaaaaa;                                               \
	asm volatile("push %2\n popfq\n cmov" name "l %k3, %k0\n pushfq\n"    \
		     "pop %1" : "+r"(r), "=&r"(out) : "r"(f),                 \
		     "r"(0x1234567812345678ull) : "cc", "memory");            \
	CHECK_EQ(r, cond(cc, f) ? 0x12345678 : 0xaaaaaaaa);                   \
	CHECK_EQ(out & FL_ARITH, f & FL_ARITH);                               \
	asm volatile("push %1\n popfq\n mov $1, %k0\n j" name " 1f\n"         \
		     "mov $0, %k0\n1:" : "=&r"(r) : "r"(f) : "cc", "memory"); \
	CHECK_EQ(r, cond(cc, f));
		CC_LIST(ONE)
#undef ONE
		asm volatile("push %1\n popfq\n lahf" : "=a"(r) : "r"(f)
			     : "cc", "memory");
		CHECK_EQ(r >> 8 & 0xff, (f & 0xd5) | 2);
		r = f << 8;
		asm volatile("push %2\n popfq\n sahf\n pushfq\n pop %0"
			     : "=&r"(out) : "a"(r), "r"(FL_OF | 2) : "cc",
			     "memory");
		CHECK_EQ(out & FL_ARITH, (f & 0xd5) | FL_OF);
		asm volatile("push %1\n popfq\n cmc\n pushfq\n pop %0"
			     : "=r"(out) : "r"(f) : "cc", "memory");
		CHECK_EQ(out & FL_ARITH, (f ^ 1) & FL_ARITH);
	}
}

/* ---- high-byte registers, with and without memory ---- */
SNIP(hb1, "mov %ah, %bl\n add %bh, %ch\n mov %dl, %ah\n xchg %dh, %cl\n"
	  "mov %ch, (%rdi)\n add %dh, 1(%rdi)\n mov (%rsi), %bh\n"
	  "sub 1(%rsi), %ah");
static void check_high(void)
{
	static u8 out[2], in[2] = { 0x77, 0x11 };
	struct regs r, a;
	u64 ah;

	part("high bytes");
	regs_kernel(&r, hb1);
	r.rax = 0x1111111111111122;
	r.rbx = 0x3333333333333344;
	r.rcx = 0x5555555555555566;
	r.rdx = 0x7777777777778899;
	r.rdi = (u64)out;
	r.rsi = (u64)in;
	out[1] = 5;
	a = r;
	run_ok(&r);
	/* bl = 11; ch = 55+33 = 88; ah = 99; dh<->cl: dh=66 cl=88 */
	ah = 0x99 - 0x11;
	CHECK_EQ(r.rax, 0x1111111111110022 | ah << 8);
	CHECK_EQ(r.rbx, 0x3333333333337711);
	CHECK_EQ(r.rcx, 0x5555555555558888);
	CHECK_EQ(r.rdx, 0x7777777777776699);
	CHECK_EQ(out[0], 0x88);
	CHECK_EQ(out[1], 0x66 + 5);
	same_regs(&a, &r, 0xf);
}

/* Memory operands off a register that the translator may want for itself, with
 * the high bytes around them; every base. */
#define HB(base, name)                                                        \
	SNIP(hbm_##name, "mov %ah, (%" base ")\n mov 1(%" base "), %bh\n"     \
	     "add %ch, 2(%" base ")\n cmp %dh, 3(%" base ")\n sete 4(%" base  \
	     ")\n")
HB("rsi", rsi); HB("rdi", rdi); HB("rbp", rbp); HB("rsp", rsp);

static void check_high_mem(void)
{
	static const struct {
		const char *snip;
		unsigned n;
	} t[] = { { hbm_rsi, 6 }, { hbm_rdi, 7 }, { hbm_rbp, 5 },
		  { hbm_rsp, 4 } };
	static u8 m[8];

	part("high bytes, memory");
	for (unsigned i = 0; i < 4; i++) {
		struct regs r, a;

		m[0] = 0, m[1] = 0xcd, m[2] = 0x10, m[3] = 0x42, m[4] = 9;
		regs_kernel(&r, t[i].snip);
		r.rax = 0xab00, r.rbx = ~0ull, r.rcx = 0x2200, r.rdx = 0x4200;
		*reg_n(&r, t[i].n) = (u64)m;
		a = r;
		run_ok(&r);
		CHECK_EQ(m[0], 0xab);
		CHECK_EQ(r.rbx, 0xffffffffffffcdff);
		CHECK_EQ(m[2], 0x32);
		CHECK_EQ(m[4], 1);
		same_regs(&a, &r, 1 << 3);
	}
}

int main(void)
{
	part("two operands");
#define ALL3(n, op)                                                           \
	CHECK_OP2(n, op, rr);                                                 \
	CHECK_OP2(n, op, mr);                                                 \
	CHECK_OP2(n, op, rm)
	ALL3(add, ADD);
	ALL3(or_, OR);
	ALL3(adc, ADC);
	ALL3(sbb, SBB);
	ALL3(and_, AND);
	ALL3(sub, SUB);
	ALL3(xor_, XOR);
	ALL3(cmp, CMP);
	ALL3(mov, MOV);
	CHECK_OP2(test, TEST, rr);
	CHECK_OP2(test, TEST, mr);
	CHECK_OP2(xadd, XADD, rr);
	CHECK_OP2(xadd, XADD, mr);
	CHECK_OP2(xchg, XCHG, rr);
	CHECK_OP2(xchg, XCHG, mr);
	part("one operand");
	check_op1("inc", (op2_fn[4])TABLE(inc, rr), 'i', 0);
	check_op1("inc m", (op2_fn[4])TABLE(inc, mr), 'i', 1);
	check_op1("dec", (op2_fn[4])TABLE(dec, rr), 'd', 0);
	check_op1("dec m", (op2_fn[4])TABLE(dec, mr), 'd', 1);
	check_op1("neg", (op2_fn[4])TABLE(neg, rr), 'n', 0);
	check_op1("neg m", (op2_fn[4])TABLE(neg, mr), 'n', 1);
	check_op1("not", (op2_fn[4])TABLE(not_, rr), '~', 0);
	check_op1("not m", (op2_fn[4])TABLE(not_, mr), '~', 1);
	part("shifts");
	CHECK_SHIFT(shl, SHL);
	CHECK_SHIFT(shr, SHR);
	CHECK_SHIFT(sar, SAR);
	CHECK_SHIFT(rol, ROL);
	CHECK_SHIFT(ror, ROR);
	CHECK_SHIFT(rcl, RCL);
	CHECK_SHIFT(rcr, RCR);
	check_dshift();
	check_mul();
	check_div();
	check_de();
	check_bits();
	check_xchg();
	check_cc();
	check_high();
	check_high_mem();
	return 0;
}
