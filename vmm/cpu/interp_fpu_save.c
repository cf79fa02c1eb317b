/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, XSAVE, XSAVEOPT, XSAVEC and what restores their areas (SDM vol. 1,
 * chapter 13). In the standard format the extended components are where they
 * are in v->fpu, in the compacted one they follow each other.
 *
 * XSAVEOPT and XSAVEC leave out what is in its initial state, and x87, SSE and
 * AVX are said never to be: a CPU may do so.
 */
#include "vmm/cpu/interp_fpu_priv.h"

/* XMM8-15 exist in 64-bit mode only. */
static unsigned xmm_bytes(const struct insn *in)
{
	return in->mode == X86_MODE_LONG64 ? 256 : 128;
}

static bool wide_pointers(const struct insn *in)
{
	return in->opsize == 8;
}

/* The x87 head (bytes 0..23) as the operand size wants it: 64-bit pointers, or
 * 32 bits and a selector, which this CPU deprecates to 0. */
static void x87_head_out(const struct insn *in, const uint8_t *f, uint8_t *h)
{
	memcpy(h, f, FX_MXCSR);
	if (!wide_pointers(in)) {
		put_uint32_t(h + FX_FIP + 4, 0);
		put_uint32_t(h + FX_FDP + 4, 0);
	}
}

static void x87_head_in(const struct insn *in, uint8_t *f, const uint8_t *h)
{
	memcpy(f, h, FX_MXCSR);
	f[FX_FTW + 1] = 0;
	if (!wide_pointers(in)) {
		put_uint32_t(f + FX_FIP + 4, 0);
		put_uint32_t(f + FX_FDP + 4, 0);
	}
}

static enum cpu_status state_address(struct vcpu *v, const struct insn *in,
				     unsigned len, unsigned align, unsigned acc,
				     gva_t *lin)
{
	TRY(ea_linear(v, in, len, acc, lin));
	if (*lin & (align - 1))
		return vcpu_raise_err(v, EXC_GP, 0);
	return CPU_OK;
}

static enum cpu_status check_fxsave(struct vcpu *v)
{
	if (v->cr0 & (CR0_EM | CR0_TS))
		return vcpu_raise(v, EXC_NM);
	normalise(v);
	return CPU_OK;
}

static enum cpu_status h_fxsave(struct vcpu *v, const struct insn *in)
{
	unsigned len = FX_XMM + xmm_bytes(in), acc = mem_acc(in, MEM_WRITE);
	uint8_t buf[512];
	gva_t lin;

	TRY(check_fxsave(v));
	TRY(state_address(v, in, 512, 16, MEM_WRITE, &lin));
	TRY(mem_probe_write(v, lin, 512, acc));
	memcpy(buf, image(v), len);
	x87_head_out(in, image(v), buf);
	put_uint32_t(buf + FX_MXMASK, MXCSR_MASK);
	return mem_write(v, lin, buf, len, acc);
}

static enum cpu_status h_fxrstor(struct vcpu *v, const struct insn *in)
{
	uint8_t buf[512], *f = image(v);
	gva_t lin;

	TRY(check_fxsave(v));
	TRY(state_address(v, in, 512, 16, MEM_READ, &lin));
	TRY(mem_read(v, lin, buf, 512, mem_acc(in, MEM_READ)));
	if (get_uint32_t(buf + FX_MXCSR) & ~MXCSR_MASK)
		return vcpu_raise_err(v, EXC_GP, 0);
	x87_head_in(in, f, buf);
	put_uint32_t(f + FX_MXCSR, get_uint32_t(buf + FX_MXCSR));
	memcpy(f + FX_ST, buf + FX_ST, 128);
	memcpy(f + FX_XMM, buf + FX_XMM, xmm_bytes(in));
	return CPU_OK;
}

static unsigned xsave_mask(const struct vcpu *v)
{
	return (uint32_t)v->gpr[R_RAX] & v->xcr0 & XC_ALL;
}

/* A piece of an extended component: its places in the area and in v->fpu. */
struct piece {
	unsigned comp; /* XC_ */
	uint32_t at, src, len;
};
#define MAX_PIECES 4

/* The pieces of the components in which; comp: XCOMP_BV, or 0 for the standard
 * format. Outside of 64-bit mode there are 8 registers of each kind. */
static unsigned pieces(const struct insn *in, unsigned which, uint64_t comp,
		       struct piece *p)
{
	bool wide = in->mode == X86_MODE_LONG64;
	uint32_t next = XS_LEGACY;
	unsigned n = 0;

	for (unsigned i = 2; i <= 7; i++) {
		uint32_t size, off, at;

		if (!xstate_component(i, &size, &off) ||
		    (comp && !(comp >> i & 1)))
			continue;
		at = comp ? next : off;
		next += size;
		if (!(which >> i & 1) || (!wide && 1u << i == XC_HI16))
			continue;
		if (!wide && 1u << i != XC_OPMASK)
			size /= 2;
		p[n++] = (struct piece){1u << i, at, off, size};
	}
	return n;
}

/* The x87 and SSE parts and the header of an area, as XSAVE leaves them. */
static void save_legacy(struct vcpu *v, const struct insn *in, unsigned rfbm,
			bool compact, uint8_t *buf)
{
	uint64_t used = rfbm & (XC_X87 | XC_SSE | XC_AVX | in_use(v));
	uint8_t *f = image(v);

	if (rfbm & XC_X87) {
		x87_head_out(in, f, buf);
		memcpy(buf + FX_ST, f + FX_ST, 128);
	}
	if (rfbm & (compact ? XC_SSE : XC_SSE | XC_AVX)) {
		put_uint32_t(buf + FX_MXCSR, get_uint32_t(f + FX_MXCSR));
		put_uint32_t(buf + FX_MXMASK, MXCSR_MASK);
	}
	if (rfbm & XC_SSE)
		memcpy(buf + FX_XMM, f + FX_XMM, xmm_bytes(in));
	if (compact) {
		put_uint64_t(buf + XS_BV, used);
		put_uint64_t(buf + XS_COMP, rfbm | 1ull << 63);
	} else {
		uint64_t bv = get_uint64_t(buf + XS_BV);

		put_uint64_t(buf + XS_BV, (bv & ~(uint64_t)rfbm) | used);
	}
}

static bool is_xsavec(uint16_t mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_XSAVEC ||
	       mnemonic == ZYDIS_MNEMONIC_XSAVEC64;
}

static bool is_plain_xsave(uint16_t mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_XSAVE ||
	       mnemonic == ZYDIS_MNEMONIC_XSAVE64;
}

static enum cpu_status h_xsave(struct vcpu *v, const struct insn *in)
{
	static const uint8_t zeros[XS_HI16_BYTES];
	bool compact = is_xsavec(in->mnemonic);
	unsigned rfbm = xsave_mask(v), acc = mem_acc(in, MEM_WRITE), n, which;
	uint8_t buf[XS_LEGACY];
	struct piece p[MAX_PIECES];
	gva_t lin;

	TRY(interp_fpu_check(v, CLS_XSAVE));
	normalise(v);
	which = is_plain_xsave(in->mnemonic) ? rfbm : rfbm & in_use(v);
	n = pieces(in, which, compact ? rfbm | 1ull << 63 : 0, p);
	TRY(state_address(v, in, xstate_bytes(rfbm, compact), 64, MEM_WRITE,
			  &lin));
	TRY(mem_probe_write(v, lin, XS_LEGACY, acc));
	for (unsigned i = 0; i < n; i++)
		TRY(mem_probe_write(v, lin + p[i].at, p[i].len, acc));
	/* Read, change, write back: what is not saved stays. */
	TRY(mem_read(v, lin, buf, XS_LEGACY, acc));
	save_legacy(v, in, rfbm, compact, buf);
	TRY(mem_write(v, lin, buf, XS_LEGACY, acc));
	for (unsigned i = 0; i < n; i++)
		TRY(mem_write(v, lin + p[i].at,
			      in_use(v) & p[i].comp ? image(v) + p[i].src
						    : zeros,
			      p[i].len, acc));
	return CPU_OK;
}

/* Is this header one that XRSTOR takes? SDM vol. 1, 13.8. */
static bool xrstor_header_ok(const struct vcpu *v, const uint8_t *buf)
{
	uint64_t bv = get_uint64_t(buf + XS_BV);
	uint64_t comp = get_uint64_t(buf + XS_COMP);
	unsigned rest = XS_COMP + 8;

	if (comp >> 63) {
		if (!cpu_has(v, FEAT_XSAVEC))
			return false;
		comp &= ~(1ull << 63);
		if ((comp & ~v->xcr0) || (bv & ~comp))
			return false;
	} else if (comp || (bv & ~v->xcr0)) {
		return false;
	}
	/* The standard form wants bytes 8..23 of the header to be 0, the
	 * compacted one 16..63. */
	for (unsigned k = rest;
	     k < (get_uint64_t(buf + XS_COMP) >> 63 ? XS_LEGACY : XS_BV + 24);
	     k++)
		if (buf[k])
			return false;
	return true;
}

/* The components in load come from the area in buf, the others of rfbm get
 * their initial state. */
static void restore(struct vcpu *v, const struct insn *in, unsigned rfbm,
		    unsigned load, const uint8_t *buf, const struct piece *p,
		    unsigned n)
{
	unsigned init = rfbm & ~load;
	uint8_t *f = image(v);

	interp_fpu_init(f, init & ~XC_AVX512);
	set_in_use(v, in_use(v) & ~(init & XC_AVX512));
	if (load & XC_X87) {
		x87_head_in(in, f, buf);
		memcpy(f + FX_ST, buf + FX_ST, 128);
	}
	if (load & XC_SSE)
		memcpy(f + FX_XMM, buf + FX_XMM, xmm_bytes(in));
	interp_fpu_normalise(v, load);
	for (unsigned i = 0; i < n; i++)
		memcpy(f + p[i].src, buf + p[i].at, p[i].len);
}

static enum cpu_status h_xrstor(struct vcpu *v, const struct insn *in)
{
	unsigned rfbm = xsave_mask(v), load, acc = mem_acc(in, MEM_READ), n;
	uint8_t buf[XS_MAX_BYTES], *f = image(v);
	struct piece p[MAX_PIECES];
	uint64_t comp;
	uint32_t mxcsr;
	bool compact;
	gva_t lin;

	if (in->mode != X86_MODE_LONG64)
		rfbm &= ~XC_HI16;
	TRY(interp_fpu_check(v, CLS_XSAVE));
	normalise(v);
	TRY(state_address(v, in, XS_LEGACY, 64, MEM_READ, &lin));
	TRY(mem_read(v, lin, buf, XS_LEGACY, acc));
	if (!xrstor_header_ok(v, buf))
		return vcpu_raise_err(v, EXC_GP, 0);
	comp = get_uint64_t(buf + XS_COMP);
	compact = comp >> 63;
	load = rfbm & get_uint64_t(buf + XS_BV);
	n = pieces(in, load, comp, p);
	for (unsigned i = 0; i < n; i++)
		TRY(mem_read(v, lin + p[i].at, buf + p[i].at, p[i].len, acc));
	mxcsr = get_uint32_t(buf + FX_MXCSR);
	if (compact && !(load & XC_SSE))
		mxcsr = MXCSR_INIT;
	if (!(rfbm & (compact ? XC_SSE : XC_SSE | XC_AVX)))
		mxcsr = get_uint32_t(f + FX_MXCSR);
	if (mxcsr & ~MXCSR_MASK)
		return vcpu_raise_err(v, EXC_GP, 0);
	restore(v, in, rfbm, load, buf, p, n);
	put_uint32_t(f + FX_MXCSR, mxcsr);
	return CPU_OK;
}

/* clang-format off */
const struct op_desc interp_ops_save[] = {
	OPS1(FXSAVE, 0, h_fxsave), OPS1(FXSAVE64, 0, h_fxsave),
	OPS1(FXRSTOR, 0, h_fxrstor), OPS1(FXRSTOR64, 0, h_fxrstor),
	OPS1(XSAVE, 0, h_xsave), OPS1(XSAVE64, 0, h_xsave),
	OPS1(XSAVEOPT, 0, h_xsave), OPS1(XSAVEOPT64, 0, h_xsave),
	OPS1(XSAVEC, 0, h_xsave), OPS1(XSAVEC64, 0, h_xsave),
	OPS1(XRSTOR, 0, h_xrstor), OPS1(XRSTOR64, 0, h_xrstor),
	{0},
};
/* clang-format on */
