/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87, MMX, SSE and AVX; the rest is in interp_fpu_evex.c (AVX-512) and
 * interp_fpu_save.c (XSAVE and its kin). The guest's registers are in v->fpu, an XSAVE image in
 * standard format. Most instructions run in a native thunk (native.c) on that
 * image; what touches memory in a way of its own (gathers, masked moves) is done
 * in C.
 *
 * Checks come first, in the order of the manuals: #UD by control registers, #NM,
 * a pending x87 exception (#MF), the operand's address (#GP when misaligned,
 * #PF). A destination in memory is probed before the instruction runs, so that
 * storing the result afterwards cannot fail.
 *
 * SIMD exceptions: the thunk runs with all of them masked. If the flags that it
 * raised include one that the guest has not masked, the image from before comes
 * back, the flags are added, and #XM is raised. Known gap, when a guest unmasks
 * underflow or overflow of SIMD (FE_UNDERFLOW, FE_OVERFLOW): the masked response
 * tells less. An exact tiny result raises nothing here, and PE may be set beside
 * OE or UE where the CPU leaves it clear. DPPS and DPPD, which the CPU does in two
 * stages, may set other flags too. x87 exceptions wait for the next waiting instruction anyway.
 *
 * XSTATE_BV: x87, SSE and AVX are always in use here; an image that comes
 * from outside (XSAVE by the translator's exit) with some in their initial
 * state is filled in first. The components of AVX-512 are taken into use by
 * AVX-512 instructions alone: they are large, and a guest pays for them at each
 * of its context switches.
 */
#include "vmm/cpu/interp_fpu_priv.h"

/* ---- the image ---- */
void interp_fpu_init(uint8_t *f, unsigned which)
{
	if (which & XC_X87) {
		memset(f, 0, FX_MXCSR);
		put_uint16_t(f + FX_FCW, 0x37f);
		memset(f + FX_ST, 0, 128);
	}
	if (which & XC_SSE)
		memset(f + FX_XMM, 0, 256);
	if (which & XC_AVX)
		memset(f + XS_YMM, 0, XS_YMM_BYTES);
	if (which & XC_OPMASK)
		memset(f + xstate()->opmask, 0, XS_OPMASK_BYTES);
	if (which & XC_ZMM)
		memset(f + xstate()->zmm, 0, XS_ZMM_BYTES);
	if (which & XC_HI16)
		memset(f + xstate()->hi16, 0, XS_HI16_BYTES);
}

void interp_fpu_normalise(struct vcpu *v, unsigned which)
{
	unsigned missing = ~in_use(v) & which;

	if (likely(!missing))
		return;
	interp_fpu_init(image(v), missing);
	set_in_use(v, in_use(v) | missing);
}

/* ---- may it run? ---- */
/* Computed, because a loaded image may hold an ES that does not fit the flags;
 * the CPU goes by the flags. */
static bool x87_pending(struct vcpu *v)
{
	const uint8_t *f = image(v);

	return get_uint16_t(f + FX_FSW) & ~get_uint16_t(f + FX_FCW) & 0x3f;
}

enum cpu_status interp_fpu_check(struct vcpu *v, unsigned cls)
{
	switch (cls) {
	case CLS_X87:
		if (v->cr0 & (CR0_EM | CR0_TS))
			return vcpu_raise(v, EXC_NM);
		return CPU_OK;
	case CLS_FWAIT:
		if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
			return vcpu_raise(v, EXC_NM);
		return CPU_OK;
	case CLS_MMX:
		if (v->cr0 & CR0_EM)
			return vcpu_raise(v, EXC_UD);
		break;
	case CLS_SSE:
	case CLS_SSEMMX:
		if ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR))
			return vcpu_raise(v, EXC_UD);
		break;
	case CLS_AVX:
		if (!(v->cr4 & CR4_OSXSAVE) || !(v->cr0 & CR0_PE) ||
		    (v->rflags & FL_VM) ||
		    (v->xcr0 & (XC_SSE | XC_AVX)) != (XC_SSE | XC_AVX))
			return vcpu_raise(v, EXC_UD);
		break;
	case CLS_AVX512:
		if (!(v->cr4 & CR4_OSXSAVE) || !(v->cr0 & CR0_PE) ||
		    (v->rflags & FL_VM) || (v->xcr0 & XC_ALL) != XC_ALL)
			return vcpu_raise(v, EXC_UD);
		break;
	case CLS_XSAVE:
		if (!(v->cr4 & CR4_OSXSAVE))
			return vcpu_raise(v, EXC_UD);
		break;
	default:
		return CPU_OK;
	}
	if (v->cr0 & CR0_TS)
		return vcpu_raise(v, EXC_NM);
	return CPU_OK;
}

/* clang-format off */
/* x87 instructions that do not wait for a pending exception. */
static bool non_waiting(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTCW: case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FENI8087_NOP: case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return true;
	default:
		return false;
	}
}
/* clang-format on */

static enum cpu_status check_fpu(struct vcpu *v, const struct insn *in)
{
	TRY(interp_fpu_check(v, in->cls));
	normalise(v);
	if (in->cls == CLS_SSE || in->cls == CLS_AVX)
		return CPU_OK;
	if (unlikely(x87_pending(v)) && !non_waiting(in->mnemonic))
		return vcpu_raise(v, EXC_MF);
	return CPU_OK;
}

/* ---- running a thunk ---- */
/* Number of the operand of this kind, or -1. */
static int find_operand(const struct insn *in, enum opnd_kind kind)
{
	for (unsigned k = 0; k < 4; k++)
		if (in->op[k].kind == kind)
			return k;
	return -1;
}

void interp_fpu_run(struct vcpu *v, const struct insn *in,
		    struct native_regs *r)
{
	const struct native_thunk *t = in->thunk;
	int g = t->gpr ? find_operand(in, OPK_REG) : -1;

	if (g >= 0)
		r->gpr = v->gpr[in->op[g].reg];
	if (t->implicit) {
		r->rax = v->gpr[R_RAX];
		r->rcx = v->gpr[R_RCX];
		r->rdx = v->gpr[R_RDX];
	}
	r->rflags = (v->rflags & FL_ARITH) | FL_R1 | FL_IF;
	asm volatile("stmxcsr %0" : "=m"(r->host_mxcsr));
	t->code(r, v->fpu);
}

/* Take over what the thunk changed besides the image. */
void interp_fpu_results(struct vcpu *v, const struct insn *in,
			const struct native_regs *r)
{
	const struct native_thunk *t = in->thunk;
	int g = t->gpr ? find_operand(in, OPK_REG) : -1;

	if (g >= 0 && (op_action(in, g) & 2))
		v->gpr[in->op[g].reg] = r->gpr;
	if (t->implicit) {
		v->gpr[R_RAX] = r->rax;
		v->gpr[R_RCX] = r->rcx;
		v->gpr[R_RDX] = r->rdx;
	}
	if (t->flags)
		v->rflags = (v->rflags & ~FL_ARITH) | (r->rflags & FL_ARITH);
}

/* A SIMD exception that the guest has not masked: flags, and #XM. */
enum cpu_status interp_fpu_exception(struct vcpu *v, uint32_t mxcsr,
				     uint32_t raised)
{
	uint32_t unmasked = raised & ~(mxcsr >> 7);

	/* Before computing (invalid, denormal, zero): nothing later counts. */
	if (unmasked & 7)
		raised &= 7;
	put_uint32_t(image(v) + FX_MXCSR, mxcsr | raised);
	return vcpu_raise(v, v->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
}

struct mem_opnd interp_fpu_mem(const struct insn *in)
{
	int k = find_operand(in, OPK_MEM);

	if (k < 0)
		return (struct mem_opnd){0};
	return (struct mem_opnd){.size = in->op[k].size,
				 .read = op_action(in, k) & 1,
				 .write = op_action(in, k) & 2};
}

/* Memory operand in before (or the right to write it). lin is its address. */
static enum cpu_status operand_in(struct vcpu *v, const struct insn *in,
				  const struct mem_opnd *m, gva_t *lin,
				  struct native_regs *r)
{
	unsigned acc = m->write ? MEM_WRITE : MEM_READ;

	TRY(ea_linear(v, in, m->size, acc, lin));
	if (unlikely(in->align && (*lin & (in->align - 1))))
		return vcpu_raise_err(v, EXC_GP, 0);
	if (m->read)
		return mem_read(v, *lin, r->mem, m->size, mem_acc(in, acc));
	return mem_probe_write(v, *lin, m->size, mem_acc(in, acc));
}

/* A VEX-encoded instruction clears the rest of what it writes, as far as XCR0
 * has it (and as far as the translator would see to it). */
static void zero_uppers(struct vcpu *v, unsigned regs)
{
	if (likely(!(in_use(v) & v->xcr0 & XC_ZMM)))
		return;
	for (unsigned n = 0; n < 16; n++)
		if (regs >> n & 1)
			memset(zmm_hi(v, n), 0, 32);
}

/* SSE and AVX without MMX: the image's registers, one by one. */
static enum cpu_status h_vec(struct vcpu *v, const struct insn *in)
{
	struct mem_opnd m = interp_fpu_mem(in);
	uint32_t mxcsr, raised;
	uint8_t saved[XS_MIN_BYTES];
	struct native_regs r;
	bool may_trap;
	gva_t lin = 0;

	TRY(check_fpu(v, in));
	if (m.size)
		TRY(operand_in(v, in, &m, &lin, &r));
	mxcsr = get_uint32_t(image(v) + FX_MXCSR);
	may_trap = (mxcsr & MXCSR_INIT) != MXCSR_INIT;
	if (unlikely(may_trap))
		memcpy(saved, image(v), sizeof(saved));
	r.mxcsr = (mxcsr | MXCSR_INIT) & ~0x3fu;
	interp_fpu_run(v, in, &r);
	raised = r.mxcsr & 0x3f;
	if (unlikely(may_trap && (raised & ~(mxcsr >> 7)))) {
		memcpy(image(v), saved, sizeof(saved));
		return interp_fpu_exception(v, mxcsr, raised);
	}
	if (m.write)
		TRY(mem_write(v, lin, r.mem, m.size, mem_acc(in, MEM_WRITE)));
	put_uint32_t(image(v) + FX_MXCSR, mxcsr | raised);
	zero_uppers(v, in->thunk->vex_written);
	interp_fpu_results(v, in, &r);
	return CPU_OK;
}

/* ---- x87 and MMX ---- */
static bool is_environment(uint16_t mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
	       mnemonic == ZYDIS_MNEMONIC_FNSAVE;
}

/* The instruction pointers in a stored environment are the guest's, not those
 * of the thunk. SDM vol. 1, 8.1.10. */
static void patch_environment(const struct insn *in, const uint8_t *before,
			      uint8_t *env)
{
	uint64_t ip = get_uint64_t(before + FX_FIP);
	uint64_t dp = get_uint64_t(before + FX_FDP);
	uint16_t op = get_uint16_t(before + FX_FOP) & 0x7ff;

	if (in->opsize == 2) {
		put_uint16_t(env + 6, ip);
		put_uint16_t(env + 8, ip >> 32);
		put_uint16_t(env + 10, dp);
		put_uint16_t(env + 12, dp >> 32);
		return;
	}
	put_uint32_t(env + 12, ip);
	put_uint32_t(env + 16, (uint16_t)(ip >> 32) | (uint32_t)op << 16);
	put_uint32_t(env + 20, dp);
	put_uint32_t(env + 24, (uint16_t)(dp >> 32));
}

/* Instruction and data pointers: what this instruction is, if it left an
 * unmasked exception behind (only then do CPUs such as the host save them);
 * else what they were. */
static void set_pointers(struct vcpu *v, const struct insn *in,
			 const uint8_t *before, gva_t lin)
{
	uint8_t *f = image(v);

	memcpy(f + FX_FOP, before + FX_FOP, 18);
	if (in->mnemonic == ZYDIS_MNEMONIC_FNINIT ||
	    in->mnemonic == ZYDIS_MNEMONIC_FNSAVE)
		memset(f + FX_FOP, 0, 18);
	if (in->cls == CLS_X87 && !non_waiting(in->mnemonic) &&
	    x87_pending(v)) {
		put_uint64_t(f + FX_FIP, v->rip);
		put_uint64_t(f + FX_FDP, lin);
	}
	put_uint32_t(f + FX_MXMASK, MXCSR_MASK);
}

static bool loads_pointers(uint16_t mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_FLDENV ||
	       mnemonic == ZYDIS_MNEMONIC_FRSTOR;
}

/* The image numbers registers from the top of the stack, MMX does not. */
static uint8_t *mm_reg(struct vcpu *v, unsigned n)
{
	unsigned top = get_uint16_t(image(v) + FX_FSW) >> 11 & 7;

	return image(v) + FX_ST + 16 * ((n - top) & 7);
}

/* What every MMX instruction does: TOP = 0, all registers valid. */
static void enter_mmx(struct vcpu *v)
{
	uint8_t *f = image(v), regs[128];

	for (unsigned n = 0; n < 8; n++)
		memcpy(regs + 16 * n, mm_reg(v, n), 16);
	memcpy(f + FX_ST, regs, sizeof(regs));
	put_uint16_t(f + FX_FSW, get_uint16_t(f + FX_FSW) & ~0x3800);
	f[FX_FTW] = 0xff;
}

static enum cpu_status h_x87(struct vcpu *v, const struct insn *in)
{
	struct mem_opnd m = interp_fpu_mem(in);
	uint8_t saved[512], *f = image(v);
	uint32_t mxcsr, raised;
	struct native_regs r;
	gva_t lin = 0;

	TRY(check_fpu(v, in));
	if (m.size)
		TRY(operand_in(v, in, &m, &lin, &r));
	if (m.write && !m.read) /* an exception may suppress the store */
		TRY(mem_read(v, lin, r.mem, m.size, mem_acc(in, MEM_WRITE)));
	memcpy(saved, f, sizeof(saved));
	mxcsr = get_uint32_t(f + FX_MXCSR);
	r.mxcsr = (mxcsr | MXCSR_INIT) & ~0x3fu;
	interp_fpu_run(v, in, &r);
	raised = r.mxcsr & 0x3f;
	if (unlikely(raised & ~(mxcsr >> 7))) {
		memcpy(f, saved, sizeof(saved));
		enter_mmx(v); /* CPUs do that first */
		return interp_fpu_exception(v, mxcsr, raised);
	}
	if (is_environment(in->mnemonic))
		patch_environment(in, saved, r.mem);
	if (m.write)
		TRY(mem_write(v, lin, r.mem, m.size, mem_acc(in, MEM_WRITE)));
	put_uint32_t(f + FX_MXCSR, mxcsr | raised);
	if (loads_pointers(in->mnemonic))
		put_uint32_t(f + FX_MXMASK, MXCSR_MASK);
	else
		set_pointers(v, in, saved, lin);
	interp_fpu_results(v, in, &r);
	return CPU_OK;
}

static enum cpu_status h_fwait(struct vcpu *v, const struct insn *in)
{
	TRY(interp_fpu_check(v, CLS_FWAIT));
	normalise(v);
	return x87_pending(v) ? vcpu_raise(v, EXC_MF) : CPU_OK;
}

/* ---- MXCSR ---- */
static enum cpu_status h_ldmxcsr(struct vcpu *v, const struct insn *in)
{
	uint32_t a;

	TRY(interp_fpu_check(v, in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR
					? CLS_AVX
					: CLS_SSE));
	TRY(mop_read(v, in, &a, 4, MEM_READ));
	if (a & ~MXCSR_MASK)
		return vcpu_raise_err(v, EXC_GP, 0);
	put_uint32_t(image(v) + FX_MXCSR, a);
	return CPU_OK;
}

static enum cpu_status h_stmxcsr(struct vcpu *v, const struct insn *in)
{
	TRY(interp_fpu_check(v, in->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR
					? CLS_AVX
					: CLS_SSE));
	return mop_write(v, in, image(v) + FX_MXCSR, 4);
}

static enum cpu_status h_vzero(struct vcpu *v, const struct insn *in)
{
	unsigned n = in->mode == X86_MODE_LONG64 ? 16 : 8;

	TRY(interp_fpu_check(v, CLS_AVX));
	normalise(v);
	memset(ymm_hi(v, 0), 0, 16 * n);
	zero_uppers(v, (1u << n) - 1);
	if (in->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		memset(xmm(v, 0), 0, 16 * n);
	return CPU_OK;
}

/* ---- masked and gathered memory ---- */
/* Both halves of a vector register as 32 bytes. */
static void vec_get(struct vcpu *v, unsigned n, uint8_t b[32])
{
	memcpy(b, xmm(v, n), 16);
	memcpy(b + 16, ymm_hi(v, n), 16);
}

static void vec_set(struct vcpu *v, unsigned n, const uint8_t b[32])
{
	memcpy(xmm(v, n), b, 16);
	memcpy(ymm_hi(v, n), b + 16, 16);
	zero_uppers(v, 1u << n);
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: bytes of op 0 chosen by op 1 to [rDI]. */
static enum cpu_status h_maskmov(struct vcpu *v, const struct insn *in)
{
	bool mm = in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	unsigned n = mm ? 8 : 16, acc = mem_acc(in, MEM_WRITE);
	uint64_t off = reg_get(v, R_RDI, in->asize);
	uint8_t *src, *mask;
	gva_t lin[16];

	TRY(interp_fpu_check(v, mm ? CLS_MMX
				: in->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU
					? CLS_SSE
					: CLS_AVX));
	normalise(v);
	if (mm && x87_pending(v))
		return vcpu_raise(v, EXC_MF);
	src = mm ? mm_reg(v, in->op[0].reg) : xmm(v, in->op[0].reg);
	mask = mm ? mm_reg(v, in->op[1].reg) : xmm(v, in->op[1].reg);
	for (unsigned k = 0; k < n; k++) {
		if (!(mask[k] & 0x80))
			continue;
		TRY(off_linear(v, in, (off + k) & size_mask(in->asize), 1,
			       MEM_WRITE, &lin[k]));
		TRY(mem_probe_write(v, lin[k], 1, acc));
	}
	for (unsigned k = 0; k < n; k++)
		if (mask[k] & 0x80)
			TRY(mem_write(v, lin[k], src + k, 1, acc));
	if (mm)
		enter_mmx(v);
	return CPU_OK;
}

/* clang-format off */
static unsigned element_size(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPD: case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_VGATHERDPD: case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ: case ZYDIS_MNEMONIC_VPGATHERQQ:
		return 8;
	default:
		return 4;
	}
}

/* VMASKMOVPS and friends: elements whose mask is off are not touched. */
static enum cpu_status h_vmaskmov(struct vcpu *v, const struct insn *in)
{
	bool store = in->op[0].kind == OPK_MEM;
	unsigned es = element_size(in->mnemonic);
	unsigned total = in->op[1].kind == OPK_YMM ? 32 : 16;
	unsigned acc = mem_acc(in, store ? MEM_WRITE : MEM_READ);
	uint8_t mask[32], data[32] = {0}, src[32];
	gva_t lin[8];

	TRY(interp_fpu_check(v, CLS_AVX));
	normalise(v);
	vec_get(v, in->op[1].reg, mask);
	for (unsigned k = 0; k < total; k += es) {
		if (!(mask[k + es - 1] & 0x80))
			continue;
		TRY(off_linear(v, in,
			       (ea_offset(v, in) + k) & size_mask(in->asize),
			       es, acc, &lin[k / es]));
		if (store)
			TRY(mem_probe_write(v, lin[k / es], es, acc));
		else
			TRY(mem_read(v, lin[k / es], data + k, es, acc));
	}
	if (!store) {
		vec_set(v, in->op[0].reg, data);
		return CPU_OK;
	}
	vec_get(v, in->op[2].reg, src);
	for (unsigned k = 0; k < total; k += es)
		if (mask[k + es - 1] & 0x80)
			TRY(mem_write(v, lin[k / es], src + k, es, acc));
	return CPU_OK;
}

/* clang-format on */
/* clang-format off */
static bool gather_index_is_64(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERQPS: case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQD: case ZYDIS_MNEMONIC_VPGATHERQQ:
		return true;
	default:
		return false;
	}
}
/* clang-format on */

/* Gathers: dst (op 0), VSIB memory (op 1), mask (op 2). An element that has
 * been loaded clears its mask, so a fault in the middle can be resumed. */
static enum cpu_status h_gather(struct vcpu *v, const struct insn *in)
{
	unsigned d = in->op[0].reg, m = in->op[2].reg;
	unsigned es = element_size(in->mnemonic);
	unsigned is = gather_index_is_64(in->mnemonic) ? 8 : 4;
	/* The longer of index and data fills the vector length, which is the
	 * instruction's: kept in align by the decoder. */
	unsigned vl = in->align, n = vl / (es > is ? es : is);
	uint8_t dst[32], mask[32], idx[32];

	TRY(interp_fpu_check(v, CLS_AVX));
	normalise(v);
	if (d == m || d == in->index || m == in->index)
		return vcpu_raise(v, EXC_UD);
	vec_get(v, d, dst);
	vec_get(v, m, mask);
	vec_get(v, in->index, idx);
	for (unsigned k = 0; k < n; k++) {
		enum cpu_status st;
		uint64_t off = (int64_t)in->disp;
		gva_t lin;

		if (!(mask[k * es + es - 1] & 0x80)) {
			memset(mask + k * es, 0, es);
			continue;
		}
		off += (is == 8 ? get_uint64_t(idx + 8 * k)
				: (uint64_t)(int32_t)get_uint32_t(idx + 4 * k))
		       << in->scale;
		if (in->base != REG_NONE)
			off += v->gpr[in->base];
		off &= size_mask(in->asize);
		st = off_linear(v, in, off, es, MEM_READ, &lin);
		if (!st)
			st = mem_read(v, lin, dst + k * es, es,
				      mem_acc(in, MEM_READ));
		if (st) {
			vec_set(v, d, dst);
			vec_set(v, m, mask);
			return st;
		}
		memset(mask + k * es, 0, es);
	}
	memset(mask, 0, 32);
	memset(dst + n * es, 0, 32 - n * es);
	vec_set(v, d, dst);
	vec_set(v, m, mask);
	return CPU_OK;
}

/* clang-format off */
/* ---- decoding ---- */
static bool aligned_by_name(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMOVAPS: case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA: case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD: case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
		return true;
	default:
		return false;
	}
}

static bool unaligned_by_name(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS: case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU: case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default:
		return false;
	}
}

/* clang-format on */
static unsigned alignment(const struct x86_insn *x, const struct insn *in)
{
	struct mem_opnd m = interp_fpu_mem(in);

	if (!m.size || in->cls == CLS_X87 || in->cls == CLS_MMX)
		return 0;
	/* AMD's SHA instructions take any address, against the manuals. */
	if (x->i.meta.isa_set == ZYDIS_ISA_SET_SHA && __builtin_cpu_is("amd"))
		return 0;
	if (x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
	    x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return aligned_by_name(in->mnemonic) ? m.size : 0;
	return m.size == 16 && !unaligned_by_name(in->mnemonic) ? 16 : 0;
}

/* From memory to MM: no XMM operand shows that they are SSE instructions. */
static bool converts_to_mmx(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return true;
	default:
		return false;
	}
}

static enum insn_class classify(const struct x86_insn *x, const struct insn *in)
{
	bool mm = false, vec = false;

	if (x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	    x->i.meta.category == ZYDIS_CATEGORY_KMASK)
		return CLS_AVX512;
	if (x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return CLS_AVX;
	if (x->i.meta.isa_set == ZYDIS_ISA_SET_X87 ||
	    x->i.meta.isa_set == ZYDIS_ISA_SET_FCMOV ||
	    x->i.meta.isa_set == ZYDIS_ISA_SET_SSE3X87 ||
	    x->i.meta.isa_ext == ZYDIS_ISA_EXT_X87 ||
	    in->mnemonic == ZYDIS_MNEMONIC_FISTTP)
		return CLS_X87;
	for (unsigned k = 0; k < 4; k++) {
		mm |= in->op[k].kind == OPK_MM;
		vec |= in->op[k].kind == OPK_XMM;
	}
	if (mm || x->i.meta.isa_ext == ZYDIS_ISA_EXT_MMX)
		return vec || converts_to_mmx(in->mnemonic) ? CLS_SSEMMX
							    : CLS_MMX;
	switch (x->i.meta.isa_ext) {
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_GFNI:
		return CLS_SSE;
	default:
		return CLS_NONE;
	}
}

/* VPINSRQ and VPEXTRQ do not turn into the narrow forms in 32-bit code, as
 * VMOVQ does: they are undefined. */
static bool wide_outside_64(const struct x86_insn *x)
{
	return x->i.machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
	       x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	       x->i.raw.vex.W &&
	       (x->i.mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
		x->i.mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

bool interp_fpu_decode(struct vcpu *v, const struct x86_insn *x,
		       const uint8_t *bytes, struct insn *in)
{
	const struct native_thunk *t;
	enum native_kind kind;
	bool full;

	in->cls = classify(x, in);
	if (in->cls == CLS_NONE || wide_outside_64(x))
		return false;
	in->align = alignment(x, in);
	if (in->cls == CLS_AVX512 && interp_vsib_decode(x, in))
		return true;
	kind = in->cls == CLS_SSE || in->cls == CLS_AVX ? NATIVE_VEC
	       : in->cls == CLS_AVX512			? NATIVE_EVEX
							: NATIVE_X87;
	for (int tries = 0; tries < 2; tries++) {
		t = native_get(v->interp->native, kind, x, bytes, &full);
		if (t || !full)
			break;
		interp_native_full(v);
	}
	in->fn = kind == NATIVE_X87    ? h_x87
		 : kind == NATIVE_EVEX ? interp_evex
				       : h_vec;
	in->thunk = t;
	return t;
}

/* clang-format off */
const struct op_desc interp_ops_fpu[] = {
	OPS1(FWAIT, 0, h_fwait),
	OPS1(LDMXCSR, 0, h_ldmxcsr), OPS1(VLDMXCSR, 0, h_ldmxcsr),
	OPS1(STMXCSR, 0, h_stmxcsr), OPS1(VSTMXCSR, 0, h_stmxcsr),
	OPS1(VZEROALL, 0, h_vzero), OPS1(VZEROUPPER, 0, h_vzero),
	OPS1(MASKMOVQ, 0, h_maskmov), OPS1(MASKMOVDQU, 0, h_maskmov),
	OPS1(VMASKMOVDQU, 0, h_maskmov),
	OPS1(VMASKMOVPS, 0, h_vmaskmov), OPS1(VMASKMOVPD, 0, h_vmaskmov),
	OPS1(VPMASKMOVD, 0, h_vmaskmov), OPS1(VPMASKMOVQ, 0, h_vmaskmov),
	OPS1(VGATHERDPS, 0, h_gather), OPS1(VGATHERDPD, 0, h_gather),
	OPS1(VGATHERQPS, 0, h_gather), OPS1(VGATHERQPD, 0, h_gather),
	OPS1(VPGATHERDD, 0, h_gather), OPS1(VPGATHERDQ, 0, h_gather),
	OPS1(VPGATHERQD, 0, h_gather), OPS1(VPGATHERQQ, 0, h_gather),
	{0},
};
/* clang-format on */
