/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bit instructions: BT*, bit scans, population counts, BMI1/2, ADX, CRC32.
 * Same rules as interp_alu.c.
 */
#include <immintrin.h>

#include "vmm/cpu/interp_priv.h"

/* clang-format off */
/* ---- BT, BTS, BTR, BTC ---- */
static uint64_t bt_do(uint16_t mnemonic, unsigned size, uint64_t a, uint64_t n,
		      uint64_t *fl)
{
	uint32_t ax = flags_pack(*fl);

#define BT_ASM(op)                                                             \
	if (size == 2)                                                         \
		asm(FLAGS_IN op "w %w[n], %w[a]" FLAGS_OUT                     \
		    : [a] "+r"(a), "+a"(ax) : [n] "r"(n) : "cc");              \
	else if (size == 4)                                                    \
		asm(FLAGS_IN op "l %k[n], %k[a]" FLAGS_OUT                     \
		    : [a] "+r"(a), "+a"(ax) : [n] "r"(n) : "cc");              \
	else                                                                   \
		asm(FLAGS_IN op "q %q[n], %q[a]" FLAGS_OUT                     \
		    : [a] "+r"(a), "+a"(ax) : [n] "r"(n) : "cc");
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_BT:
		BT_ASM("bt")
		break;
	case ZYDIS_MNEMONIC_BTS:
		BT_ASM("bts")
		break;
	case ZYDIS_MNEMONIC_BTR:
		BT_ASM("btr")
		break;
	default:
		BT_ASM("btc")
	}
	*fl = flags_unpack(*fl, ax);
	return a;
}
/* clang-format on */

static enum cpu_status h_bt(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	bool wr = in->mnemonic != ZYDIS_MNEMONIC_BT;
	uint64_t a = 0, n, fl = v->rflags, off;
	gva_t lin = 0;

	TRY(opnd_read(v, in, 1, size, MEM_READ, &n));
	if (in->op[0].kind == OPK_REG) {
		a = bt_do(in->mnemonic, size, v->gpr[in->op[0].reg], n, &fl);
		if (wr)
			reg_set(v, in->op[0].reg, size, a);
		v->rflags = fl;
		return CPU_OK;
	}
	off = ea_offset(v, in);
	if (in->op[1].kind == OPK_REG) {
		/* A bit string: the bit number is signed and moves the
		 * address by whole operands. */
		unsigned sh = 64 - size * 8;
		int64_t s = (int64_t)(n << sh) >> sh;

		off += (s >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;
		off &= size_mask(in->asize);
	}
	TRY(off_linear(v, in, off, size, wr ? MEM_WRITE : MEM_READ, &lin));
	TRY(mem_read(v, lin, &a, size, mem_acc(in, wr ? MEM_WRITE : MEM_READ)));
	a = bt_do(in->mnemonic, size, a, n, &fl);
	if (wr)
		TRY(mem_write(v, lin, &a, size, mem_acc(in, MEM_WRITE)));
	v->rflags = fl;
	return CPU_OK;
}

/* clang-format off */
/* ---- one source, one destination register, native semantics ---- */
/* The whole 64-bit destination goes through: BSF and BSR of zero leave it. */
#define SCAN_HANDLER(nm)                                                       \
static enum cpu_status h_##nm(struct vcpu *v, const struct insn *in)           \
{                                                                              \
	unsigned size = in->op[0].size;                                        \
	uint64_t a = v->gpr[in->op[0].reg], b;                                 \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 1, size, MEM_READ, &b));                          \
	if (size == 2)                                                         \
		asm(FLAGS_IN #nm "w %w[b], %w[a]" FLAGS_OUT                    \
		    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	else if (size == 4)                                                    \
		asm(FLAGS_IN #nm "l %k[b], %k[a]" FLAGS_OUT                    \
		    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	else                                                                   \
		asm(FLAGS_IN #nm "q %q[b], %q[a]" FLAGS_OUT                    \
		    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	v->gpr[in->op[0].reg] = a;                                             \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
SCAN_HANDLER(bsf)
SCAN_HANDLER(bsr)
SCAN_HANDLER(popcnt)
SCAN_HANDLER(lzcnt)
SCAN_HANDLER(tzcnt)

/* dst = op(src), 32 or 64 bits, VEX */
#define BMI_UN_HANDLER(nm)                                                     \
static enum cpu_status h_##nm(struct vcpu *v, const struct insn *in)           \
{                                                                              \
	unsigned size = in->op[0].size;                                        \
	uint64_t a, b;                                                         \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 1, size, MEM_READ, &b));                          \
	if (size == 4)                                                         \
		asm(FLAGS_IN #nm " %k[b], %k[a]" FLAGS_OUT                     \
		    : [a] "=r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	else                                                                   \
		asm(FLAGS_IN #nm " %q[b], %q[a]" FLAGS_OUT                     \
		    : [a] "=r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	reg_set(v, in->op[0].reg, size, a);                                    \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
BMI_UN_HANDLER(blsi)
BMI_UN_HANDLER(blsmsk)
BMI_UN_HANDLER(blsr)

/* dst = op(src1, src2): AT&T order is src2, src1, dst */
#define BMI_BIN_HANDLER(nm)                                                    \
static enum cpu_status h_##nm(struct vcpu *v, const struct insn *in)           \
{                                                                              \
	unsigned size = in->op[0].size;                                        \
	uint64_t a, b, c;                                                      \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 1, size, MEM_READ, &b));                          \
	TRY(opnd_read(v, in, 2, size, MEM_READ, &c));                          \
	if (size == 4)                                                         \
		asm(FLAGS_IN #nm " %k[c], %k[b], %k[a]" FLAGS_OUT              \
		    : [a] "=r"(a), "+a"(ax) : [b] "r"(b), [c] "r"(c) : "cc");  \
	else                                                                   \
		asm(FLAGS_IN #nm " %q[c], %q[b], %q[a]" FLAGS_OUT              \
		    : [a] "=r"(a), "+a"(ax) : [b] "r"(b), [c] "r"(c) : "cc");  \
	reg_set(v, in->op[0].reg, size, a);                                    \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
BMI_BIN_HANDLER(andn)
BMI_BIN_HANDLER(bextr)
BMI_BIN_HANDLER(bzhi)
BMI_BIN_HANDLER(pdep)
BMI_BIN_HANDLER(pext)
BMI_BIN_HANDLER(sarx)
BMI_BIN_HANDLER(shlx)
BMI_BIN_HANDLER(shrx)
/* clang-format on */

static enum cpu_status h_rorx(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size, n = in->imm & (size * 8 - 1);
	uint64_t b;

	TRY(opnd_read(v, in, 1, size, MEM_READ, &b));
	if (n)
		b = b >> n | b << (size * 8 - n);
	reg_set(v, in->op[0].reg, size, b);
	return CPU_OK;
}

static enum cpu_status h_mulx(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	uint64_t b, lo, hi;
	unsigned __int128 p;

	TRY(opnd_read(v, in, 2, size, MEM_READ, &b));
	p = (unsigned __int128)reg_get(v, R_RDX, size) * b;
	lo = (uint64_t)p & size_mask(size);
	hi = (uint64_t)(p >> (size * 8)) & size_mask(size);
	reg_set(v, in->op[1].reg, size, lo);
	reg_set(v, in->op[0].reg, size, hi); /* wins when they are the same */
	return CPU_OK;
}

/* clang-format off */
#define ADX_HANDLER(nm)                                                        \
static enum cpu_status h_##nm(struct vcpu *v, const struct insn *in)           \
{                                                                              \
	unsigned size = in->op[0].size;                                        \
	uint64_t a = v->gpr[in->op[0].reg], b;                                 \
	uint32_t ax = flags_pack(v->rflags);                                   \
									       \
	TRY(opnd_read(v, in, 1, size, MEM_READ, &b));                          \
	if (size == 4)                                                         \
		asm(FLAGS_IN                                                   \
		    #nm " %k[b], %k[a]" FLAGS_OUT                              \
		    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	else                                                                   \
		asm(FLAGS_IN #nm " %q[b], %q[a]" FLAGS_OUT                     \
		    : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");              \
	reg_set(v, in->op[0].reg, size, a);                                    \
	v->rflags = flags_unpack(v->rflags, ax);                               \
	return CPU_OK;                                                         \
}
ADX_HANDLER(adcx)
ADX_HANDLER(adox)
/* clang-format on */

static enum cpu_status h_crc32(struct vcpu *v, const struct insn *in)
{
	uint32_t crc = v->gpr[in->op[0].reg];
	uint64_t b;

	TRY(opnd_read(v, in, 1, in->op[1].size, MEM_READ, &b));
	switch (in->op[1].size) {
	case 1:
		crc = _mm_crc32_u8(crc, b);
		break;
	case 2:
		crc = _mm_crc32_u16(crc, b);
		break;
	case 4:
		crc = _mm_crc32_u32(crc, b);
		break;
	default:
		crc = _mm_crc32_u64(crc, b);
		break;
	}
	v->gpr[in->op[0].reg] = crc;
	return CPU_OK;
}

/* clang-format off */
const struct op_desc interp_ops_bits[] = {
	OPS1(BT, 0, h_bt), OPS1(BTS, 0, h_bt), OPS1(BTR, 0, h_bt),
	OPS1(BTC, 0, h_bt), OPS1(BSF, 0, h_bsf), OPS1(BSR, 0, h_bsr),
	OPS1(POPCNT, 0, h_popcnt), OPS1(LZCNT, 0, h_lzcnt),
	OPS1(TZCNT, 0, h_tzcnt), OPS1(ANDN, 0, h_andn),
	OPS1(BEXTR, 0, h_bextr), OPS1(BLSI, 0, h_blsi),
	OPS1(BLSMSK, 0, h_blsmsk), OPS1(BLSR, 0, h_blsr),
	OPS1(BZHI, 0, h_bzhi), OPS1(MULX, 0, h_mulx), OPS1(PDEP, 0, h_pdep),
	OPS1(PEXT, 0, h_pext), OPS1(RORX, 0, h_rorx), OPS1(SARX, 0, h_sarx),
	OPS1(SHLX, 0, h_shlx), OPS1(SHRX, 0, h_shrx), OPS1(ADCX, 0, h_adcx),
	OPS1(ADOX, 0, h_adox), OPS1(CRC32, 0, h_crc32),
	{0},
};
/* clang-format on */
