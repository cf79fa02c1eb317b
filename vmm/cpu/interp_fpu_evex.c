/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AVX-512: EVEX-encoded instructions, and those on mask registers. They run in
 * native thunks as the others do; what is special is memory. An element that
 * the mask leaves out is not accessed: it cannot fault, and it is neither
 * changed nor, where it is a device's, read. So the operand is taken apart into
 * runs of bytes that are. (Some instructions read theirs whole whatever the
 * mask: x86_evex_mask.)
 *
 * Gathers and scatters are done in C, element after element; what is done is
 * taken out of the mask, so that a fault in the middle can be resumed.
 */
#include "vmm/cpu/interp_fpu_priv.h"

/* Mask register k. */
static uint64_t mask_get(struct vcpu *v, unsigned k)
{
	return get_uint64_t(image(v) + xstate()->opmask + 8 * k);
}

static void mask_set(struct vcpu *v, unsigned k, uint64_t x)
{
	put_uint64_t(image(v) + xstate()->opmask + 8 * k, x);
}

/* ---- masked memory ---- */
static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ull : (1ull << n) - 1;
}

/* The bytes of the memory operand that are accessed, a bit each. */
static uint64_t bytes_accessed(struct vcpu *v, const struct x86_evex_mask *m,
			       unsigned size)
{
	uint64_t mask, bytes = 0;

	if (!m->k)
		return low_bits(size);
	mask = mask_get(v, m->k) & low_bits(m->n);
	if (m->packed)
		mask = low_bits(__builtin_popcountll(mask));
	for (unsigned i = 0; i < m->n; i++)
		if (mask >> i & 1)
			bytes |= low_bits(m->elem) << i % m->count * m->elem;
	return bytes;
}

enum how { READ, PROBE, WRITE };

/* Do it to each run of bytes. */
static enum cpu_status each_run(struct vcpu *v, const struct insn *in,
				uint64_t bytes, enum how how, uint8_t *mem)
{
	unsigned acc = mem_acc(in, how == READ ? MEM_READ : MEM_WRITE);
	uint64_t off = ea_offset(v, in);
	gva_t lin;

	while (bytes) {
		unsigned at = __builtin_ctzll(bytes), len;
		uint64_t rest = ~(bytes >> at);

		len = rest ? __builtin_ctzll(rest) : 64;
		TRY(off_linear(v, in, (off + at) & size_mask(in->asize), len,
			       acc, &lin));
		if (how == READ)
			TRY(mem_read(v, lin, mem + at, len, acc));
		else if (how == PROBE)
			TRY(mem_probe_write(v, lin, len, acc));
		else
			TRY(mem_write(v, lin, mem + at, len, acc));
		bytes &= ~(low_bits(len) << at);
	}
	return CPU_OK;
}

static enum cpu_status aligned(struct vcpu *v, const struct insn *in)
{
	gva_t lin;

	if (!in->align)
		return CPU_OK;
	TRY(off_linear(v, in, ea_offset(v, in), 1, MEM_READ, &lin));
	return lin & (in->align - 1) ? vcpu_raise_err(v, EXC_GP, 0) : CPU_OK;
}

enum cpu_status interp_evex(struct vcpu *v, const struct insn *in)
{
	struct mem_opnd m = interp_fpu_mem(in);
	uint32_t mxcsr, raised;
	uint8_t saved[XS_MAX_BYTES];
	struct native_regs r;
	uint64_t bytes = 0;
	bool may_trap;

	TRY(interp_fpu_check(v, CLS_AVX512));
	interp_fpu_normalise(v, XC_ALL);
	if (m.size) {
		bytes = bytes_accessed(v, &in->thunk->mask, m.size);
		if (bytes)
			TRY(aligned(v, in));
		TRY(each_run(v, in, bytes, m.read ? READ : PROBE, r.mem));
	}
	mxcsr = get_uint32_t(image(v) + FX_MXCSR);
	may_trap = (mxcsr & MXCSR_INIT) != MXCSR_INIT;
	if (unlikely(may_trap))
		memcpy(saved, image(v), xstate()->hi16 + XS_HI16_BYTES);
	r.mxcsr = (mxcsr | MXCSR_INIT) & ~0x3fu;
	interp_fpu_run(v, in, &r);
	raised = r.mxcsr & 0x3f;
	if (unlikely(may_trap && (raised & ~(mxcsr >> 7)))) {
		memcpy(image(v), saved, xstate()->hi16 + XS_HI16_BYTES);
		return interp_fpu_exception(v, mxcsr, raised);
	}
	if (m.write)
		TRY(each_run(v, in, bytes, WRITE, r.mem));
	put_uint32_t(image(v) + FX_MXCSR, mxcsr | raised);
	interp_fpu_results(v, in, &r);
	return CPU_OK;
}

/* ---- gathers and scatters ---- */
/* Register n, all 64 bytes. */
static void zmm_get(struct vcpu *v, unsigned n, uint8_t b[64])
{
	if (n >= 16) {
		memcpy(b, image(v) + xstate()->hi16 + 64 * (n - 16), 64);
		return;
	}
	memcpy(b, xmm(v, n), 16);
	memcpy(b + 16, ymm_hi(v, n), 16);
	memcpy(b + 32, zmm_hi(v, n), 32);
}

static void zmm_set(struct vcpu *v, unsigned n, const uint8_t b[64])
{
	if (n >= 16) {
		memcpy(image(v) + xstate()->hi16 + 64 * (n - 16), b, 64);
		return;
	}
	memcpy(xmm(v, n), b, 16);
	memcpy(ymm_hi(v, n), b + 16, 16);
	memcpy(zmm_hi(v, n), b + 32, 32);
}

/* What struct insn has no room for, in imm. */
union vsib {
	uint64_t imm;
	struct {
		uint8_t reg;   /* data */
		uint8_t k;     /* mask */
		uint8_t elem;  /* bytes of an element */
		uint8_t index; /* and of an index */
		uint8_t n;     /* elements */
	};
};

/* clang-format off */
static bool vsib_sizes(uint16_t mnemonic, union vsib *s)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERDPS: case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VSCATTERDPS: case ZYDIS_MNEMONIC_VPSCATTERDD:
		s->elem = 4, s->index = 4;
		return true;
	case ZYDIS_MNEMONIC_VGATHERDPD: case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VSCATTERDPD: case ZYDIS_MNEMONIC_VPSCATTERDQ:
		s->elem = 8, s->index = 4;
		return true;
	case ZYDIS_MNEMONIC_VGATHERQPS: case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VSCATTERQPS: case ZYDIS_MNEMONIC_VPSCATTERQD:
		s->elem = 4, s->index = 8;
		return true;
	case ZYDIS_MNEMONIC_VGATHERQPD: case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPD: case ZYDIS_MNEMONIC_VPSCATTERQQ:
		s->elem = 8, s->index = 8;
		return true;
	default:
		return false;
	}
}

/* clang-format on */
static uint64_t vsib_offset(struct vcpu *v, const struct insn *in,
			    const union vsib *s, const uint8_t *idx, unsigned k)
{
	uint64_t off = (int64_t)in->disp, x;

	x = s->index == 8
		    ? get_uint64_t(idx + 8 * k)
		    : (uint64_t)(int64_t)(int32_t)get_uint32_t(idx + 4 * k);
	off += x << in->scale;
	if (in->base != REG_NONE)
		off += v->gpr[in->base];
	return off & size_mask(in->asize);
}

static enum cpu_status h_gather(struct vcpu *v, const struct insn *in)
{
	union vsib s = {.imm = in->imm};
	unsigned acc = mem_acc(in, MEM_READ);
	uint8_t dst[64], idx[64];
	enum cpu_status st = CPU_OK;
	uint64_t mask;

	TRY(interp_fpu_check(v, CLS_AVX512));
	interp_fpu_normalise(v, XC_ALL);
	if (s.reg == in->index)
		return vcpu_raise(v, EXC_UD);
	zmm_get(v, s.reg, dst);
	zmm_get(v, in->index, idx);
	mask = mask_get(v, s.k);
	for (unsigned k = 0; k < s.n; k++) {
		gva_t lin;

		if (!(mask >> k & 1))
			continue;
		st = off_linear(v, in, vsib_offset(v, in, &s, idx, k), s.elem,
				MEM_READ, &lin);
		if (!st)
			st = mem_read(v, lin, dst + k * s.elem, s.elem, acc);
		if (st)
			break;
		mask &= ~(1ull << k);
	}
	if (!st) {
		mask = 0;
		memset(dst + s.n * s.elem, 0, 64 - s.n * s.elem);
	}
	zmm_set(v, s.reg, dst);
	mask_set(v, s.k, mask);
	return st;
}

static enum cpu_status h_scatter(struct vcpu *v, const struct insn *in)
{
	union vsib s = {.imm = in->imm};
	unsigned acc = mem_acc(in, MEM_WRITE);
	uint8_t src[64], idx[64];
	enum cpu_status st = CPU_OK;
	uint64_t mask;

	TRY(interp_fpu_check(v, CLS_AVX512));
	interp_fpu_normalise(v, XC_ALL);
	zmm_get(v, s.reg, src);
	zmm_get(v, in->index, idx);
	mask = mask_get(v, s.k);
	for (unsigned k = 0; k < s.n; k++) {
		gva_t lin;

		if (!(mask >> k & 1))
			continue;
		st = off_linear(v, in, vsib_offset(v, in, &s, idx, k), s.elem,
				MEM_WRITE, &lin);
		if (!st)
			st = mem_write(v, lin, src + k * s.elem, s.elem, acc);
		if (st)
			break;
		mask &= ~(1ull << k);
	}
	mask_set(v, s.k, st ? mask : 0);
	return st;
}

bool interp_vsib_decode(const struct x86_insn *x, struct insn *in)
{
	bool gather = x->i.meta.category == ZYDIS_CATEGORY_GATHER;
	const ZydisDecodedOperand *o;
	union vsib s = {0};
	unsigned most;

	if ((!gather && x->i.meta.category != ZYDIS_CATEGORY_SCATTER) ||
	    !vsib_sizes(in->mnemonic, &s))
		return false;
	/* dst, mask, memory; memory, mask, src */
	o = &x->op[gather ? 0 : 2];
	s.reg = x86_vec_number(o->reg.value);
	s.k = x->i.raw.evex.aaa;
	/* The longer of index and data fills the vector length. */
	most = s.elem > s.index ? s.elem : s.index;
	s.n = x->i.avx.vector_length / 8 / most;
	in->imm = s.imm;
	in->fn = gather ? h_gather : h_scatter;
	return true;
}
