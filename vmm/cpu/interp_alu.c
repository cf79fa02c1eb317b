/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer instructions: arithmetic, logic, data movement, BCD.
 *
 * An operation is executed by the very instruction, in inline assembly, with
 * the guest's flags loaded before and stored after (FLAGS_IN, FLAGS_OUT), one
 * function for each operation and size. A handler reads its operands (a
 * destination in memory with the right to write it), computes on locals, writes
 * memory, and only then commits registers and flags: a fault leaves nothing
 * half done. What could fault in the monitor itself (DIV) is refused before.
 */
#include "vmm/cpu/interp_priv.h"

/* clang-format off */
/* X(size, suffix of the mnemonic, operand modifier) */
#define FOR_SIZES(X, nm) X(nm, 1, "b", "b") X(nm, 2, "w", "w")                 \
	X(nm, 4, "l", "k") X(nm, 8, "q", "q")
#define FOR_SIZES3(X, nm) X(nm, 2, "w", "w") X(nm, 4, "l", "k")                \
	X(nm, 8, "q", "q")

/* ---- two operands: add or adc sbb and sub xor; cmp, test ---- */
#define ALU2(nm, sz, sfx, mod)                                                 \
static inline uint64_t nm##_do_##sz(uint64_t a, uint64_t b, uint64_t *fl)      \
{                                                                              \
	uint32_t ax = flags_pack(*fl);                                         \
	asm(FLAGS_IN #nm sfx " %" mod "[b], %" mod "[a]" FLAGS_OUT             \
	    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");                      \
	*fl = flags_unpack(*fl, ax);                                           \
	return a;                                                              \
}
#define BIN_HANDLER(nm, sz, sfx, mod)                                          \
ALU2(nm, sz, sfx, mod)                                                         \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a, b, fl = v->rflags;                                         \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &b));                            \
	a = nm##_do_##sz(a, b, &fl);                                           \
	TRY(opnd_write(v, in, 0, sz, a));                                      \
	v->rflags = fl;                                                        \
	return CPU_OK;                                                         \
}
#define CMP_HANDLER(nm, sz, sfx, mod)                                          \
ALU2(nm, sz, sfx, mod)                                                         \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a, b, fl = v->rflags;                                         \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_READ, &a));                            \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &b));                            \
	nm##_do_##sz(a, b, &fl);                                               \
	v->rflags = fl;                                                        \
	return CPU_OK;                                                         \
}
FOR_SIZES(BIN_HANDLER, add)
FOR_SIZES(BIN_HANDLER, or)
FOR_SIZES(BIN_HANDLER, adc)
FOR_SIZES(BIN_HANDLER, sbb)
FOR_SIZES(BIN_HANDLER, and)
FOR_SIZES(BIN_HANDLER, sub)
FOR_SIZES(BIN_HANDLER, xor)
FOR_SIZES(CMP_HANDLER, cmp)
FOR_SIZES(CMP_HANDLER, test)
/* clang-format on */

void interp_cmp(unsigned size, uint64_t a, uint64_t b, uint64_t *fl)
{
	switch (size) {
	case 1:
		cmp_do_1(a, b, fl);
		break;
	case 2:
		cmp_do_2(a, b, fl);
		break;
	case 4:
		cmp_do_4(a, b, fl);
		break;
	default:
		cmp_do_8(a, b, fl);
		break;
	}
}

/* clang-format off */
/* ---- one operand ---- */
#define UN_HANDLER(nm, sz, sfx, mod)                                           \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a;                                                            \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	asm(FLAGS_IN #nm sfx " %" mod "[a]" FLAGS_OUT                          \
	    : [a] "+r"(a), "+a"(ax) : : "cc");                                 \
	TRY(opnd_write(v, in, 0, sz, a));                                      \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
FOR_SIZES(UN_HANDLER, inc)
FOR_SIZES(UN_HANDLER, dec)
FOR_SIZES(UN_HANDLER, neg)
FOR_SIZES(UN_HANDLER, not)

/* ---- shifts and rotates: count in op 1 (imm8, CL, or 1) ---- */
#define SHIFT_HANDLER(nm, sz, sfx, mod)                                        \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a, n;                                                         \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	TRY(opnd_read(v, in, 1, 1, MEM_READ, &n));                             \
	asm(FLAGS_IN #nm sfx " %%cl, %" mod "[a]" FLAGS_OUT                    \
	    : [a] "+r"(a), "+a"(ax) : "c"(n) : "cc");                          \
	TRY(opnd_write(v, in, 0, sz, a));                                      \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
FOR_SIZES(SHIFT_HANDLER, shl)
FOR_SIZES(SHIFT_HANDLER, shr)
FOR_SIZES(SHIFT_HANDLER, sar)
FOR_SIZES(SHIFT_HANDLER, rol)
FOR_SIZES(SHIFT_HANDLER, ror)
FOR_SIZES(SHIFT_HANDLER, rcl)
FOR_SIZES(SHIFT_HANDLER, rcr)

#define SHIFTD_HANDLER(nm, sz, sfx, mod)                                       \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a, b, n;                                                      \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &b));                            \
	TRY(opnd_read(v, in, 2, 1, MEM_READ, &n));                             \
	asm(FLAGS_IN #nm sfx " %%cl, %" mod "[b], %" mod "[a]" FLAGS_OUT       \
	    : [a] "+r"(a), "+a"(ax) : [b] "r"(b), "c"(n) : "cc");              \
	TRY(opnd_write(v, in, 0, sz, a));                                      \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
FOR_SIZES3(SHIFTD_HANDLER, shld)
FOR_SIZES3(SHIFTD_HANDLER, shrd)
/* clang-format on */

/* ---- multiply: one operand ---- */
static enum cpu_status h_mul_any(struct vcpu *v, const struct insn *in,
				 bool sign)
{
	unsigned size = in->op[0].size;
	uint64_t b, lo = v->gpr[R_RAX], hi = v->gpr[R_RDX];
	uint32_t ax = flags_pack(v->rflags);

	TRY(opnd_read(v, in, 0, size, MEM_READ, &b));
#define WIDE_ASM(ins, x)                                                       \
	asm(FLAGS_IN "movq %[lo], %%rax\n\t" ins                               \
		     "\n\tmovq %%rax, %[lo]" FLAGS_OUT                         \
	    : [lo] "+r"(lo), [hi] "+d"(hi), "+a"(ax)                           \
	    : [b] "r"(x)                                                       \
	    : "cc")
#define MUL_ASM(ins) WIDE_ASM(ins, b)
	switch (size | sign << 4) {
	case 1:
		MUL_ASM("mulb %b[b]");
		break;
	case 2:
		MUL_ASM("mulw %w[b]");
		break;
	case 4:
		MUL_ASM("mull %k[b]");
		break;
	case 8:
		MUL_ASM("mulq %q[b]");
		break;
	case 17:
		MUL_ASM("imulb %b[b]");
		break;
	case 18:
		MUL_ASM("imulw %w[b]");
		break;
	case 20:
		MUL_ASM("imull %k[b]");
		break;
	default:
		MUL_ASM("imulq %q[b]");
		break;
	}
	v->rflags = flags_unpack(v->rflags, ax);
	v->gpr[R_RAX] = lo;
	if (size > 1)
		v->gpr[R_RDX] = hi;
	return CPU_OK;
}

static enum cpu_status h_mul(struct vcpu *v, const struct insn *in)
{
	return h_mul_any(v, in, false);
}

/* ---- multiply: two and three operands ---- */
static enum cpu_status h_imul(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size, first = in->nops == 3 ? 1 : 0;
	uint64_t a, b;
	uint32_t ax = flags_pack(v->rflags);

	if (in->nops == 1)
		return h_mul_any(v, in, true);
	TRY(opnd_read(v, in, first, size, MEM_READ, &a));
	TRY(opnd_read(v, in, first + 1, size, MEM_READ, &b));
	switch (size) {
	case 2:
		asm(FLAGS_IN "imulw %w[b], %w[a]" FLAGS_OUT
		    : [a] "+r"(a), "+a"(ax)
		    : [b] "r"(b)
		    : "cc");
		break;
	case 4:
		asm(FLAGS_IN "imull %k[b], %k[a]" FLAGS_OUT
		    : [a] "+r"(a), "+a"(ax)
		    : [b] "r"(b)
		    : "cc");
		break;
	default:
		asm(FLAGS_IN "imulq %q[b], %q[a]" FLAGS_OUT
		    : [a] "+r"(a), "+a"(ax)
		    : [b] "r"(b)
		    : "cc");
	}
	reg_set(v, in->op[0].reg, size, a);
	v->rflags = flags_unpack(v->rflags, ax);
	return CPU_OK;
}

/* ---- divide ---- */
/* Would the quotient of hi:lo by d (each of size bytes) not fit? */
static bool div_overflows(uint64_t hi, uint64_t d)
{
	return d == 0 || hi >= d;
}

static bool idiv_overflows(unsigned size, uint64_t hi, uint64_t lo, uint64_t d)
{
	unsigned bits = size * 8;
	__int128 n, sd = (int64_t)(d << (64 - bits)) >> (64 - bits);
	unsigned __int128 un, ud, q, lim = (unsigned __int128)1 << (bits - 1);

	if (sd == 0)
		return true;
	if (size == 8)
		n = (__int128)((unsigned __int128)hi << 64 | lo);
	else
		n = (int64_t)((hi << bits | lo) << (64 - 2 * bits)) >>
		    (64 - 2 * bits);
	un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n;
	ud = sd < 0 ? -sd : sd;
	q = un / ud;
	return (n < 0) == (sd < 0) ? q >= lim : q > lim;
}

static enum cpu_status h_div_any(struct vcpu *v, const struct insn *in,
				 bool sign)
{
	unsigned size = in->op[0].size;
	uint64_t d, m = size_mask(size);
	uint64_t lo = v->gpr[R_RAX], hi = v->gpr[R_RDX];
	uint64_t h = size == 1 ? (lo >> 8) & 0xff : hi & m;
	uint32_t ax = flags_pack(v->rflags);

	TRY(opnd_read(v, in, 0, size, MEM_READ, &d));
	if (sign ? idiv_overflows(size, h, lo & m, d) : div_overflows(h, d))
		return vcpu_raise(v, EXC_DE);
	switch (size | sign << 4) {
#define DIV_ASM(ins) WIDE_ASM(ins, d)
	case 1:
		DIV_ASM("divb %b[b]");
		break;
	case 2:
		DIV_ASM("divw %w[b]");
		break;
	case 4:
		DIV_ASM("divl %k[b]");
		break;
	case 8:
		DIV_ASM("divq %q[b]");
		break;
	case 17:
		DIV_ASM("idivb %b[b]");
		break;
	case 18:
		DIV_ASM("idivw %w[b]");
		break;
	case 20:
		DIV_ASM("idivl %k[b]");
		break;
	default:
		DIV_ASM("idivq %q[b]");
		break;
	}
	v->rflags = flags_unpack(v->rflags, ax);
	v->gpr[R_RAX] = lo;
	if (size > 1)
		v->gpr[R_RDX] = hi;
	return CPU_OK;
}

static enum cpu_status h_div(struct vcpu *v, const struct insn *in)
{
	return h_div_any(v, in, false);
}

static enum cpu_status h_idiv(struct vcpu *v, const struct insn *in)
{
	return h_div_any(v, in, true);
}

/* ---- moves ---- */
/* clang-format off */
#define MOV_HANDLER(nm, sz, sfx, mod)                                          \
static enum cpu_status h_##nm##_##sz(struct vcpu *v, const struct insn *in)    \
{                                                                              \
	uint64_t a;                                                            \
									       \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &a));                            \
	return opnd_write(v, in, 0, sz, a);                                    \
}
FOR_SIZES(MOV_HANDLER, mov)
/* clang-format on */

/* The hottest forms. */
static enum cpu_status h_mov_rr8(struct vcpu *v, const struct insn *in)
{
	v->gpr[in->op[0].reg] = v->gpr[in->op[1].reg];
	return CPU_OK;
}

static enum cpu_status h_mov_rr4(struct vcpu *v, const struct insn *in)
{
	v->gpr[in->op[0].reg] = (uint32_t)v->gpr[in->op[1].reg];
	return CPU_OK;
}

static enum cpu_status h_mov_rm8(struct vcpu *v, const struct insn *in)
{
	uint64_t a = 0;

	TRY(mop_read(v, in, &a, 8, MEM_READ));
	v->gpr[in->op[0].reg] = a;
	return CPU_OK;
}

static enum cpu_status h_mov_rm4(struct vcpu *v, const struct insn *in)
{
	uint32_t a = 0;

	TRY(mop_read(v, in, &a, 4, MEM_READ));
	v->gpr[in->op[0].reg] = a;
	return CPU_OK;
}

static enum cpu_status h_mov_mr8(struct vcpu *v, const struct insn *in)
{
	return mop_write(v, in, &v->gpr[in->op[1].reg], 8);
}

static enum cpu_status h_mov_mr4(struct vcpu *v, const struct insn *in)
{
	return mop_write(v, in, &v->gpr[in->op[1].reg], 4);
}

insn_fn interp_mov_fast(const struct insn *in)
{
	bool r0 = in->op[0].kind == OPK_REG, r1 = in->op[1].kind == OPK_REG;
	bool m0 = in->op[0].kind == OPK_MEM, m1 = in->op[1].kind == OPK_MEM;
	unsigned size = in->op[0].size;

	if (size != 4 && size != 8)
		return NULL;
	if (r0 && r1)
		return size == 8 ? h_mov_rr8 : h_mov_rr4;
	if (r0 && m1)
		return size == 8 ? h_mov_rm8 : h_mov_rm4;
	if (m0 && r1)
		return size == 8 ? h_mov_mr8 : h_mov_mr4;
	return NULL;
}

static enum cpu_status h_movzx(struct vcpu *v, const struct insn *in)
{
	uint64_t a;

	TRY(opnd_read(v, in, 1, in->op[1].size, MEM_READ, &a));
	reg_set(v, in->op[0].reg, in->op[0].size, a);
	return CPU_OK;
}

static enum cpu_status h_movsx(struct vcpu *v, const struct insn *in)
{
	unsigned sh = 64 - in->op[1].size * 8;
	uint64_t a;

	TRY(opnd_read(v, in, 1, in->op[1].size, MEM_READ, &a));
	reg_set(v, in->op[0].reg, in->op[0].size,
		(uint64_t)((int64_t)(a << sh) >> sh));
	return CPU_OK;
}

static enum cpu_status h_lea(struct vcpu *v, const struct insn *in)
{
	reg_set(v, in->op[0].reg, in->op[0].size, ea_offset(v, in));
	return CPU_OK;
}

static enum cpu_status h_xchg(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	uint64_t a, b;

	TRY(opnd_read(v, in, 0, size, MEM_WRITE, &a));
	TRY(opnd_read(v, in, 1, size, MEM_WRITE, &b));
	/* The memory operand, if any, first: it may still refuse. */
	if (in->op[1].kind == OPK_MEM) {
		TRY(opnd_write(v, in, 1, size, a));
		return opnd_write(v, in, 0, size, b);
	}
	TRY(opnd_write(v, in, 0, size, b));
	return opnd_write(v, in, 1, size, a);
}

/* clang-format off */
#define XADD_HANDLER(nm, sz, sfx, mod)                                         \
static enum cpu_status h_xadd_##sz(struct vcpu *v, const struct insn *in)      \
{                                                                              \
	uint64_t a, b, fl = v->rflags;                                         \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &b));                            \
	b = add_do_##sz(a, b, &fl);                                            \
	if (in->op[0].kind == OPK_MEM) {                                       \
		TRY(opnd_write(v, in, 0, sz, b));                              \
		opnd_write(v, in, 1, sz, a);                                   \
	} else {                                                               \
		opnd_write(v, in, 1, sz, a);                                   \
		opnd_write(v, in, 0, sz, b);                                   \
	}                                                                      \
	v->rflags = fl;                                                        \
	return CPU_OK;                                                         \
}
FOR_SIZES(XADD_HANDLER, xadd)

/* A failed CMPXCHG still writes its memory destination (SDM vol. 2). */
#define CMPXCHG_HANDLER(nm, sz, sfx, mod)                                      \
static enum cpu_status h_cmpxchg_##sz(struct vcpu *v, const struct insn *in)   \
{                                                                              \
	uint64_t a, b, rax = reg_get(v, R_RAX, sz), fl = v->rflags;            \
									       \
	TRY(opnd_read(v, in, 0, sz, MEM_WRITE, &a));                           \
	TRY(opnd_read(v, in, 1, sz, MEM_READ, &b));                            \
	cmp_do_##sz(rax, a, &fl);                                              \
	if (fl & FL_ZF) {                                                      \
		TRY(opnd_write(v, in, 0, sz, b));                              \
	} else {                                                               \
		if (in->op[0].kind == OPK_MEM)                                 \
			TRY(opnd_write(v, in, 0, sz, a));                      \
		reg_set(v, R_RAX, sz, a);                                      \
	}                                                                      \
	v->rflags = fl;                                                        \
	return CPU_OK;                                                         \
}
FOR_SIZES(CMPXCHG_HANDLER, cmpxchg)
/* clang-format on */

static enum cpu_status h_cmpxchg8b(struct vcpu *v, const struct insn *in)
{
	uint32_t m[2], old[2] = {v->gpr[R_RAX], v->gpr[R_RDX]};
	uint32_t nw[2] = {v->gpr[R_RBX], v->gpr[R_RCX]};
	bool eq;

	TRY(mop_read(v, in, m, 8, MEM_WRITE));
	eq = m[0] == old[0] && m[1] == old[1];
	TRY(mop_write(v, in, eq ? nw : m, 8));
	if (!eq) {
		v->gpr[R_RAX] = m[0];
		v->gpr[R_RDX] = m[1];
	}
	v->rflags = (v->rflags & ~FL_ZF) | (eq ? FL_ZF : 0);
	return CPU_OK;
}

static enum cpu_status h_cmpxchg16b(struct vcpu *v, const struct insn *in)
{
	uint64_t m[2], nw[2] = {v->gpr[R_RBX], v->gpr[R_RCX]};
	gva_t lin;
	bool eq;

	TRY(ea_linear(v, in, 16, MEM_WRITE, &lin));
	if (lin & 15)
		return vcpu_raise_err(v, EXC_GP, 0);
	TRY(mem_read(v, lin, m, 16, mem_acc(in, MEM_WRITE)));
	eq = m[0] == v->gpr[R_RAX] && m[1] == v->gpr[R_RDX];
	TRY(mem_write(v, lin, eq ? nw : m, 16, mem_acc(in, MEM_WRITE)));
	if (!eq) {
		v->gpr[R_RAX] = m[0];
		v->gpr[R_RDX] = m[1];
	}
	v->rflags = (v->rflags & ~FL_ZF) | (eq ? FL_ZF : 0);
	return CPU_OK;
}

static enum cpu_status h_bswap(struct vcpu *v, const struct insn *in)
{
	uint64_t *r = &v->gpr[in->op[0].reg];

	if (in->op[0].size == 8)
		*r = __builtin_bswap64(*r);
	else if (in->op[0].size == 4)
		*r = __builtin_bswap32(*r);
	else
		*r &= ~0xffffull; /* undefined; what CPUs do */
	return CPU_OK;
}

static enum cpu_status h_movbe(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	uint64_t a;

	TRY(opnd_read(v, in, 1, size, MEM_READ, &a));
	a = __builtin_bswap64(a) >> (64 - size * 8);
	return opnd_write(v, in, 0, size, a);
}

static enum cpu_status h_cmov(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	uint64_t a;

	TRY(opnd_read(v, in, 1, size, MEM_READ, &a)); /* read in any case */
	if (!cond_true(v->rflags, in->cc))
		a = v->gpr[in->op[0].reg];
	reg_set(v, in->op[0].reg, size, a);
	return CPU_OK;
}

static enum cpu_status h_setcc(struct vcpu *v, const struct insn *in)
{
	return opnd_write(v, in, 0, 1, cond_true(v->rflags, in->cc));
}

/* CBW, CWDE, CDQE: rAX from its lower half. */
static enum cpu_status h_cbw(struct vcpu *v, const struct insn *in)
{
	uint64_t a = v->gpr[R_RAX];

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CBW:
		reg_set(v, R_RAX, 2, (int8_t)a);
		break;
	case ZYDIS_MNEMONIC_CWDE:
		reg_set(v, R_RAX, 4, (int16_t)a);
		break;
	default:
		v->gpr[R_RAX] = (int32_t)a;
	}
	return CPU_OK;
}

/* CWD, CDQ, CQO: rDX from the sign of rAX. */
static enum cpu_status h_cwd(struct vcpu *v, const struct insn *in)
{
	uint64_t a = v->gpr[R_RAX];

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CWD:
		reg_set(v, R_RDX, 2, (int16_t)a < 0 ? ~0ull : 0);
		break;
	case ZYDIS_MNEMONIC_CDQ:
		reg_set(v, R_RDX, 4, (int32_t)a < 0 ? ~0ull : 0);
		break;
	default:
		v->gpr[R_RDX] = (int64_t)a < 0 ? ~0ull : 0;
	}
	return CPU_OK;
}

static enum cpu_status h_xlat(struct vcpu *v, const struct insn *in)
{
	uint64_t off = v->gpr[R_RBX] + (uint8_t)v->gpr[R_RAX];
	uint8_t b;
	gva_t lin;

	off &= size_mask(in->asize);
	TRY(off_linear(v, in, off, 1, MEM_READ, &lin));
	TRY(mem_read(v, lin, &b, 1, mem_acc(in, MEM_READ)));
	reg_set(v, R_RAX, 1, b);
	return CPU_OK;
}

/* ---- flags ---- */
static enum cpu_status h_lahf(struct vcpu *v, const struct insn *in)
{
	uint64_t fl = (v->rflags & FL_ARITH & 0xff) | FL_R1;

	v->gpr[R_RAX] = (v->gpr[R_RAX] & ~0xff00ull) | fl << 8;
	return CPU_OK;
}

static enum cpu_status h_sahf(struct vcpu *v, const struct insn *in)
{
	uint64_t m = FL_ARITH & 0xff;

	v->rflags = (v->rflags & ~m) | ((v->gpr[R_RAX] >> 8) & m);
	return CPU_OK;
}

/* clang-format off */
#define FLAG_HANDLER(nm, e)                                                    \
static enum cpu_status h_##nm(struct vcpu *v, const struct insn *in)           \
{                                                                              \
	v->rflags = e;                                                         \
	return CPU_OK;                                                         \
}
FLAG_HANDLER(clc, v->rflags & ~FL_CF)
FLAG_HANDLER(stc, v->rflags | FL_CF)
FLAG_HANDLER(cmc, v->rflags ^ FL_CF)
FLAG_HANDLER(cld, v->rflags & ~FL_DF)
FLAG_HANDLER(std, v->rflags | FL_DF)
/* clang-format on */

/* ---- BCD (not in 64-bit mode, so not for the host to execute) ---- */
static uint64_t szp_flags(uint8_t r)
{
	return (r ? 0 : FL_ZF) | (r & 0x80 ? FL_SF : 0) |
	       (__builtin_parity(r) ? 0 : FL_PF);
}

static void set_flags(struct vcpu *v, uint64_t mask, uint64_t val)
{
	v->rflags = (v->rflags & ~mask) | (val & mask);
}

/* What the manuals leave undefined here is what an AMD CPU gives: OF, and AF
 * and CF of AAD, come from the addition or subtraction inside (SF, ZF, PF of AAA
 * follow no rule that we know). DAA, DAS: SDM vol. 2. */
static enum cpu_status h_daa(struct vcpu *v, const struct insn *in)
{
	bool sub = in->mnemonic == ZYDIS_MNEMONIC_DAS;
	uint8_t old = v->gpr[R_RAX], adj = 0, al;
	uint64_t fl = v->rflags, nf = 0, inner = 0;

	if ((old & 15) > 9 || (fl & FL_AF)) {
		adj = 6;
		nf |= FL_AF;
		if (sub && old < 6)
			nf |= FL_CF;
	}
	if (old > 0x99 || (fl & FL_CF)) {
		adj += 0x60;
		nf |= FL_CF;
	}
	al = sub ? sub_do_1(old, adj, &inner) : add_do_1(old, adj, &inner);
	reg_set(v, R_RAX, 1, al);
	set_flags(v, FL_ARITH, nf | szp_flags(al) | (inner & FL_OF));
	return CPU_OK;
}

static enum cpu_status h_aaa(struct vcpu *v, const struct insn *in)
{
	uint16_t ax = v->gpr[R_RAX];
	bool adj = (ax & 15) > 9 || (v->rflags & FL_AF);

	if (adj)
		ax = in->mnemonic == ZYDIS_MNEMONIC_AAS ? ax - 0x106
							: ax + 0x106;
	reg_set(v, R_RAX, 2, ax & 0xff0f);
	set_flags(v, FL_ARITH, (adj ? FL_AF | FL_CF : 0) | szp_flags(ax & 15));
	return CPU_OK;
}

static enum cpu_status h_aam(struct vcpu *v, const struct insn *in)
{
	uint8_t al = v->gpr[R_RAX], b = in->imm;

	if (!b)
		return vcpu_raise(v, EXC_DE);
	reg_set(v, R_RAX, 2, (al / b) << 8 | (al % b));
	set_flags(v, FL_ARITH, szp_flags(al % b));
	return CPU_OK;
}

static enum cpu_status h_aad(struct vcpu *v, const struct insn *in)
{
	uint16_t ax = v->gpr[R_RAX];
	uint64_t fl = v->rflags;
	uint8_t al = add_do_1(ax & 0xff, (ax >> 8) * (uint8_t)in->imm, &fl);

	reg_set(v, R_RAX, 2, al);
	v->rflags = fl;
	return CPU_OK;
}

static enum cpu_status h_salc(struct vcpu *v, const struct insn *in)
{
	reg_set(v, R_RAX, 1, v->rflags & FL_CF ? 0xff : 0);
	return CPU_OK;
}

/* BOUND: index in op 0, two signed bounds in memory. */
static enum cpu_status h_bound(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	uint8_t b[8];
	int32_t idx, lo, hi;

	TRY(mop_read(v, in, b, 2 * size, MEM_READ));
	if (size == 2) {
		idx = (int16_t)v->gpr[in->op[0].reg];
		lo = (int16_t)(b[0] | b[1] << 8);
		hi = (int16_t)(b[2] | b[3] << 8);
	} else {
		idx = (int32_t)v->gpr[in->op[0].reg];
		memcpy(&lo, b, 4);
		memcpy(&hi, b + 4, 4);
	}
	return idx < lo || idx > hi ? vcpu_raise(v, EXC_BR) : CPU_OK;
}

/* clang-format off */
#define CMOV(c) OPS1(CMOV##c, 0, h_cmov)
#define SETCC(c) OPS1(SET##c, 0, h_setcc)
const struct op_desc interp_ops_alu[] = {
	OPS4(ADD, 0, h_add), OPS4(OR, 0, h_or), OPS4(ADC, 0, h_adc),
	OPS4(SBB, 0, h_sbb), OPS4(AND, 0, h_and), OPS4(SUB, 0, h_sub),
	OPS4(XOR, 0, h_xor), OPS4(CMP, 0, h_cmp), OPS4(TEST, 0, h_test),
	OPS4(INC, 0, h_inc), OPS4(DEC, 0, h_dec), OPS4(NEG, 0, h_neg),
	OPS4(NOT, 0, h_not),
	OPS4(SHL, 0, h_shl), OPS4(SHR, 0, h_shr), OPS4(SAR, 0, h_sar),
	OPS4(ROL, 0, h_rol), OPS4(ROR, 0, h_ror), OPS4(RCL, 0, h_rcl),
	OPS4(RCR, 0, h_rcr), OPS3(SHLD, 0, h_shld), OPS3(SHRD, 0, h_shrd),
	OPS1(MUL, 0, h_mul), OPS1(IMUL, 0, h_imul), OPS1(DIV, 0, h_div),
	OPS1(IDIV, 0, h_idiv),
	OPS4(MOV, 0, h_mov), OPS1(MOVZX, 0, h_movzx), OPS1(MOVSX, 0, h_movsx),
	OPS4(MOVNTI, 0, h_mov),
	OPS1(MOVSXD, 0, h_movsx), OPS1(LEA, 0, h_lea), OPS1(XCHG, 0, h_xchg),
	OPS4(XADD, 0, h_xadd), OPS4(CMPXCHG, 0, h_cmpxchg),
	OPS1(CMPXCHG8B, 0, h_cmpxchg8b), OPS1(CMPXCHG16B, 0, h_cmpxchg16b),
	OPS1(BSWAP, 0, h_bswap), OPS1(MOVBE, 0, h_movbe),
	CMOV(O), CMOV(NO), CMOV(B), CMOV(NB), CMOV(Z), CMOV(NZ), CMOV(BE),
	CMOV(NBE), CMOV(S), CMOV(NS), CMOV(P), CMOV(NP), CMOV(L), CMOV(NL),
	CMOV(LE), CMOV(NLE),
	SETCC(O), SETCC(NO), SETCC(B), SETCC(NB), SETCC(Z), SETCC(NZ),
	SETCC(BE), SETCC(NBE), SETCC(S), SETCC(NS), SETCC(P), SETCC(NP),
	SETCC(L), SETCC(NL), SETCC(LE), SETCC(NLE),
	OPS1(CBW, 0, h_cbw), OPS1(CWDE, 0, h_cbw), OPS1(CDQE, 0, h_cbw),
	OPS1(CWD, 0, h_cwd), OPS1(CDQ, 0, h_cwd), OPS1(CQO, 0, h_cwd),
	OPS1(XLAT, 0, h_xlat), OPS1(LAHF, 0, h_lahf), OPS1(SAHF, 0, h_sahf),
	OPS1(CLC, 0, h_clc), OPS1(STC, 0, h_stc), OPS1(CMC, 0, h_cmc),
	OPS1(CLD, 0, h_cld), OPS1(STD, 0, h_std),
	OPS1(DAA, 0, h_daa), OPS1(DAS, 0, h_daa), OPS1(AAA, 0, h_aaa),
	OPS1(AAS, 0, h_aaa), OPS1(AAM, 0, h_aam), OPS1(AAD, 0, h_aad),
	OPS1(SALC, 0, h_salc), OPS1(BOUND, 0, h_bound),
	{0},
};
/* clang-format on */
