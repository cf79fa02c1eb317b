/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions. What they mean is in sys.h's functions; here operands
 * are fetched, the privilege level and mode are checked, and results stored.
 */
#include <cpuid.h>
#include <string.h>
#include <x86intrin.h>

#include "vmm/cpu/interp_priv.h"
#include "vmm/cpu/layout.h"

static enum cpu_status need_cpl0(struct vcpu *v)
{
	return v->cpl ? vcpu_raise_err(v, EXC_GP, 0) : CPU_OK;
}

/* Instructions that exist in protected mode only. */
static enum cpu_status need_protected(struct vcpu *v)
{
	if (!(v->cr0 & CR0_PE) || (v->rflags & FL_VM))
		return vcpu_raise(v, EXC_UD);
	return CPU_OK;
}

static enum cpu_status gp0(struct vcpu *v)
{
	return vcpu_raise_err(v, EXC_GP, 0);
}

/* ---- identification, time, randomness ---- */
static enum cpu_status h_cpuid(struct vcpu *v, const struct insn *in)
{
	struct cpuid_regs r;

	cpu_cpuid(v, v->gpr[R_RAX], v->gpr[R_RCX], &r);
	v->gpr[R_RAX] = r.eax;
	v->gpr[R_RBX] = r.ebx;
	v->gpr[R_RCX] = r.ecx;
	v->gpr[R_RDX] = r.edx;
	return CPU_OK;
}

static enum cpu_status h_rdtsc(struct vcpu *v, const struct insn *in)
{
	uint64_t t;

	if ((v->cr4 & CR4_TSD) && v->cpl)
		return gp0(v);
	if (!cpu_layout_word(v, &t))
		t = cpu_guest_tsc(v);
	v->gpr[R_RAX] = (uint32_t)t;
	v->gpr[R_RDX] = t >> 32;
	if (in->mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		v->gpr[R_RCX] = (uint32_t)v->tsc_aux;
	return CPU_OK;
}

static enum cpu_status h_rdpid(struct vcpu *v, const struct insn *in)
{
	v->gpr[in->op[0].reg] = (uint32_t)v->tsc_aux;
	return CPU_OK;
}

static enum cpu_status h_rdrand(struct vcpu *v, const struct insn *in)
{
	uint64_t a = 0;
	bool ok;

	if (cpu_layout_word(v, &a))
		ok = true;
	else if (in->mnemonic == ZYDIS_MNEMONIC_RDRAND)
		asm volatile("rdrand %0" : "=r"(a), "=@ccc"(ok));
	else
		asm volatile("rdseed %0" : "=r"(a), "=@ccc"(ok));
	reg_set(v, in->op[0].reg, in->op[0].size, ok ? a : 0);
	v->rflags = (v->rflags & ~FL_ARITH) | (ok ? FL_CF : 0);
	return CPU_OK;
}

/* ---- MSRs, extended control registers ---- */
static enum cpu_status h_rdmsr(struct vcpu *v, const struct insn *in)
{
	uint64_t val;

	TRY(need_cpl0(v));
	TRY(cpu_rdmsr(v, v->gpr[R_RCX], &val));
	v->gpr[R_RAX] = (uint32_t)val;
	v->gpr[R_RDX] = val >> 32;
	return CPU_OK;
}

static uint64_t edx_eax(const struct vcpu *v)
{
	return v->gpr[R_RDX] << 32 | (uint32_t)v->gpr[R_RAX];
}

static enum cpu_status h_wrmsr(struct vcpu *v, const struct insn *in)
{
	TRY(need_cpl0(v));
	return cpu_wrmsr(v, v->gpr[R_RCX], edx_eax(v));
}

/* No counters are shown: any index is invalid. */
static enum cpu_status h_rdpmc(struct vcpu *v, const struct insn *in)
{
	return gp0(v);
}

static enum cpu_status h_xgetbv(struct vcpu *v, const struct insn *in)
{
	uint64_t val;

	if (!(v->cr4 & CR4_OSXSAVE))
		return vcpu_raise(v, EXC_UD);
	TRY(cpu_xgetbv(v, v->gpr[R_RCX], &val));
	v->gpr[R_RAX] = (uint32_t)val;
	v->gpr[R_RDX] = val >> 32;
	return CPU_OK;
}

static enum cpu_status h_xsetbv(struct vcpu *v, const struct insn *in)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		return vcpu_raise(v, EXC_UD);
	TRY(need_cpl0(v));
	return cpu_xsetbv(v, v->gpr[R_RCX], edx_eax(v));
}

/* ---- fast system calls ---- */
static enum cpu_status h_syscall(struct vcpu *v, const struct insn *in)
{
	return cpu_syscall(v, rip_next(v, in));
}

static enum cpu_status h_sysret(struct vcpu *v, const struct insn *in)
{
	return cpu_sysret(v, in->opsize == 8 ? 8 : 4);
}

static enum cpu_status h_sysenter(struct vcpu *v, const struct insn *in)
{
	return cpu_sysenter(v, rip_next(v, in));
}

static enum cpu_status h_sysexit(struct vcpu *v, const struct insn *in)
{
	return cpu_sysexit(v, in->opsize == 8 ? 8 : 4);
}

static enum cpu_status h_swapgs(struct vcpu *v, const struct insn *in)
{
	if (in->mode != X86_MODE_LONG64)
		return vcpu_raise(v, EXC_UD);
	return cpu_swapgs(v);
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE */
static enum cpu_status h_fsgsbase(struct vcpu *v, const struct insn *in)
{
	bool gs = in->mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
		  in->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	bool wr = in->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ||
		  in->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	struct segment *s = &v->seg[gs ? SEG_GS : SEG_FS];
	const struct opnd *o = &in->op[0];
	uint64_t a;

	if (in->mode != X86_MODE_LONG64 || !(v->cr4 & CR4_FSGSBASE))
		return vcpu_raise(v, EXC_UD);
	if (!wr) {
		reg_set(v, o->reg, o->size, s->base);
		return CPU_OK;
	}
	a = reg_get(v, o->reg, o->size);
	if (!gva_canonical(a))
		return gp0(v);
	s->base = a;
	return CPU_OK;
}

/* ---- interrupts, halt ---- */
static enum cpu_status h_cli(struct vcpu *v, const struct insn *in)
{
	return cpu_cli(v);
}

static enum cpu_status h_sti(struct vcpu *v, const struct insn *in)
{
	return cpu_sti(v);
}

static enum cpu_status h_hlt(struct vcpu *v, const struct insn *in)
{
	return cpu_hlt(v);
}

static enum cpu_status h_clac(struct vcpu *v, const struct insn *in)
{
	if (v->cpl)
		return vcpu_raise(v, EXC_UD);
	if (in->mnemonic == ZYDIS_MNEMONIC_STAC)
		v->rflags |= FL_AC;
	else
		v->rflags &= ~FL_AC;
	return CPU_OK;
}

/* ---- ports ---- */
static uint16_t io_port(const struct vcpu *v, const struct insn *in, unsigned n)
{
	return in->op[n].kind == OPK_IMM ? (uint8_t)in->imm
					 : (uint16_t)v->gpr[R_RDX];
}

static enum cpu_status h_in(struct vcpu *v, const struct insn *in)
{
	uint16_t port = io_port(v, in, 1);
	unsigned size = in->op[0].size;
	uint32_t val = 0;

	TRY(cpu_in(v, port, size, &val));
	reg_set(v, R_RAX, size, val);
	return CPU_OK;
}

static enum cpu_status h_out(struct vcpu *v, const struct insn *in)
{
	uint16_t port = io_port(v, in, 0);
	unsigned size = in->op[1].size;

	return cpu_out(v, port, size, reg_get(v, R_RAX, size));
}

/* ---- control and debug registers ---- */
static enum cpu_status h_mov_from_cr(struct vcpu *v, const struct insn *in)
{
	uint64_t val;

	TRY(need_cpl0(v));
	if (in->op[1].kind == OPK_CR)
		TRY(cpu_read_cr(v, in->op[1].reg, &val));
	else
		TRY(cpu_read_dr(v, in->op[1].reg, &val));
	reg_set(v, in->op[0].reg, in->mode == X86_MODE_LONG64 ? 8 : 4, val);
	return CPU_OK;
}

static enum cpu_status h_mov_to_cr(struct vcpu *v, const struct insn *in)
{
	uint64_t val =
		reg_get(v, in->op[1].reg, in->mode == X86_MODE_LONG64 ? 8 : 4);

	TRY(need_cpl0(v));
	if (in->op[0].kind == OPK_CR)
		return cpu_write_cr(v, in->op[0].reg, val);
	return cpu_write_dr(v, in->op[0].reg, val);
}

static enum cpu_status h_clts(struct vcpu *v, const struct insn *in)
{
	TRY(need_cpl0(v));
	return cpu_clts(v);
}

static enum cpu_status h_lmsw(struct vcpu *v, const struct insn *in)
{
	uint64_t a;

	TRY(need_cpl0(v));
	TRY(opnd_read(v, in, 0, 2, MEM_READ, &a));
	return cpu_lmsw(v, a);
}

/* ---- segment registers ---- */
static enum cpu_status h_mov_from_seg(struct vcpu *v, const struct insn *in)
{
	uint16_t sel = v->seg[in->op[1].reg].sel;

	if (in->op[0].kind == OPK_MEM)
		return mop_write(v, in, &sel, 2);
	reg_set(v, in->op[0].reg, in->opsize, sel);
	return CPU_OK;
}

static enum cpu_status h_mov_to_seg(struct vcpu *v, const struct insn *in)
{
	enum seg_reg s = in->op[0].reg;
	uint64_t a;

	if (s == SEG_CS)
		return vcpu_raise(v, EXC_UD);
	TRY(opnd_read(v, in, 1, 2, MEM_READ, &a));
	TRY(cpu_load_seg(v, s, a));
	if (s == SEG_SS)
		v->irq_shadow = 1;
	return CPU_OK;
}

insn_fn interp_mov_system(const struct insn *in)
{
	uint8_t a = in->op[0].kind, b = in->op[1].kind;

	if (a == OPK_SEG)
		return h_mov_to_seg;
	if (b == OPK_SEG)
		return h_mov_from_seg;
	if (a == OPK_CR || a == OPK_DR)
		return h_mov_to_cr;
	if (b == OPK_CR || b == OPK_DR)
		return h_mov_from_cr;
	return NULL;
}

static enum cpu_status h_lds(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->op[0].size;
	enum seg_reg s;
	uint8_t buf[10];
	uint64_t off = 0;
	uint16_t sel;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_LDS:
		s = SEG_DS;
		break;
	case ZYDIS_MNEMONIC_LES:
		s = SEG_ES;
		break;
	case ZYDIS_MNEMONIC_LFS:
		s = SEG_FS;
		break;
	case ZYDIS_MNEMONIC_LGS:
		s = SEG_GS;
		break;
	default:
		s = SEG_SS;
		break;
	}
	TRY(mop_read(v, in, buf, size + 2, MEM_READ));
	memcpy(&off, buf, size);
	memcpy(&sel, buf + size, 2);
	TRY(cpu_load_seg(v, s, sel));
	reg_set(v, in->op[0].reg, size, off);
	return CPU_OK;
}

/* ---- descriptor tables ---- */
static enum cpu_status h_lgdt(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->mode == X86_MODE_LONG64 ? 8 : 4;
	uint8_t buf[10];
	uint16_t limit;
	uint64_t base = 0;

	TRY(need_cpl0(v));
	TRY(mop_read(v, in, buf, size + 2, MEM_READ));
	memcpy(&limit, buf, 2);
	memcpy(&base, buf + 2, size);
	if (size == 4 && in->opsize == 2)
		base &= 0xffffff;
	return cpu_lgdt(v, in->mnemonic == ZYDIS_MNEMONIC_LIDT, limit, base);
}

static enum cpu_status h_sgdt(struct vcpu *v, const struct insn *in)
{
	const struct dtable *t =
		in->mnemonic == ZYDIS_MNEMONIC_SIDT ? &v->idtr : &v->gdtr;
	unsigned size = in->mode == X86_MODE_LONG64 ? 8 : 4;
	uint8_t buf[10];

	TRY(cpu_umip_check(v));
	memcpy(buf, &t->limit, 2);
	memcpy(buf + 2, &t->base, size);
	return mop_write(v, in, buf, size + 2);
}

static enum cpu_status h_lldt(struct vcpu *v, const struct insn *in)
{
	uint64_t a;

	TRY(need_protected(v));
	TRY(need_cpl0(v));
	TRY(opnd_read(v, in, 0, 2, MEM_READ, &a));
	return in->mnemonic == ZYDIS_MNEMONIC_LTR ? cpu_ltr(v, a)
						  : cpu_lldt(v, a);
}

/* SLDT, STR, SMSW: 16 bits to memory, zero-extended to a register (SMSW gives
 * it CR0's other bits too). */
static enum cpu_status h_sldt(struct vcpu *v, const struct insn *in)
{
	uint64_t a;

	if (in->mnemonic != ZYDIS_MNEMONIC_SMSW)
		TRY(need_protected(v));
	TRY(cpu_umip_check(v));
	a = in->mnemonic == ZYDIS_MNEMONIC_SLDT	 ? v->ldtr.sel
	    : in->mnemonic == ZYDIS_MNEMONIC_STR ? v->tr.sel
						 : v->cr0;
	if (in->op[0].kind == OPK_MEM)
		return mop_write(v, in, &a, 2);
	reg_set(v, in->op[0].reg, in->opsize, a);
	return CPU_OK;
}

static enum cpu_status h_lar(struct vcpu *v, const struct insn *in)
{
	uint64_t a;
	uint32_t val = 0;
	bool ok = false;

	TRY(need_protected(v));
	TRY(opnd_read(v, in, 1, 2, MEM_READ, &a));
	if (in->mnemonic == ZYDIS_MNEMONIC_LAR)
		cpu_lar(v, a, &val, &ok);
	else
		cpu_lsl(v, a, &val, &ok);
	if (ok)
		reg_set(v, in->op[0].reg, in->opsize, val);
	v->rflags = (v->rflags & ~FL_ZF) | (ok ? FL_ZF : 0);
	return CPU_OK;
}

static enum cpu_status h_verr(struct vcpu *v, const struct insn *in)
{
	uint64_t a;
	bool ok = false;

	TRY(need_protected(v));
	TRY(opnd_read(v, in, 0, 2, MEM_READ, &a));
	cpu_verr(v, a, in->mnemonic == ZYDIS_MNEMONIC_VERW, &ok);
	v->rflags = (v->rflags & ~FL_ZF) | (ok ? FL_ZF : 0);
	return CPU_OK;
}

static enum cpu_status h_arpl(struct vcpu *v, const struct insn *in)
{
	uint64_t a, b;
	bool adj;

	TRY(need_protected(v));
	TRY(opnd_read(v, in, 0, 2, MEM_WRITE, &a));
	TRY(opnd_read(v, in, 1, 2, MEM_READ, &b));
	adj = (a & 3) < (b & 3);
	if (adj)
		TRY(opnd_write(v, in, 0, 2, (a & ~3ull) | (b & 3)));
	v->rflags = (v->rflags & ~FL_ZF) | (adj ? FL_ZF : 0);
	return CPU_OK;
}

/* ---- caches and TLB ---- */
static enum cpu_status h_invlpg(struct vcpu *v, const struct insn *in)
{
	uint64_t a = ea_offset(v, in);

	TRY(need_cpl0(v));
	if (!(in->flags & INSN_FLAT))
		a += v->seg[in->seg].base;
	if (in->mode != X86_MODE_LONG64)
		a = (uint32_t)a;
	return cpu_invlpg(v, a);
}

static enum cpu_status h_invpcid(struct vcpu *v, const struct insn *in)
{
	uint64_t desc[2], type = reg_get(v, in->op[0].reg, in->op[0].size);

	TRY(need_cpl0(v));
	TRY(mop_read(v, in, desc, 16, MEM_READ));
	return cpu_invpcid(v, type, desc);
}

static enum cpu_status h_wbinvd(struct vcpu *v, const struct insn *in)
{
	return need_cpl0(v);
}

/* CLFLUSH, CLFLUSHOPT, CLWB check their address as a load does. */
static enum cpu_status h_clflush(struct vcpu *v, const struct insn *in)
{
	uint8_t b;

	return mop_read(v, in, &b, 1, MEM_READ);
}

/* F3 90, which Zydis calls so whatever REX says. With REX.B it is XCHG rAX, r8, and
 * F3 is for nothing: Zen 4 does that, as do QEMU and Xen in their decoders. */
static enum cpu_status h_pause(struct vcpu *v, const struct insn *in)
{
	uint8_t rex = in->bytes_[in->len - 2];
	unsigned size = rex & 8					 ? 8
			: memchr(in->bytes_, 0x66, in->len - 2u) ? 2
								 : 4;
	uint64_t a = reg_get(v, R_RAX, size);

	if (in->mode != X86_MODE_LONG64 || (rex & 0xf1) != 0x41)
		return CPU_OK;
	reg_set(v, R_RAX, size, reg_get(v, R_R8, size));
	reg_set(v, R_R8, size, a);
	return CPU_OK;
}

/* MONITOR, VMCALL, XBEGIN and the like have no entry: #UD. */
#define BR INSN_BRANCH
#define VO INSN_VOLATILE
/* clang-format off */
const struct op_desc interp_ops_sys[] = {
	OPS1(CPUID, 0, h_cpuid), OPS1(RDTSC, VO, h_rdtsc),
	OPS1(RDTSCP, VO, h_rdtsc), OPS1(RDPID, 0, h_rdpid),
	OPS1(RDRAND, VO, h_rdrand), OPS1(RDSEED, VO, h_rdrand),
	OPS1(RDMSR, VO, h_rdmsr), OPS1(WRMSR, VO, h_wrmsr),
	OPS1(RDPMC, 0, h_rdpmc), OPS1(XGETBV, 0, h_xgetbv),
	OPS1(XSETBV, VO, h_xsetbv),
	OPS1(SYSCALL, BR | INSN_NOTRAP, h_syscall),
	OPS1(SYSRET, BR | INSN_NOTRAP, h_sysret),
	OPS1(SYSENTER, BR, h_sysenter), OPS1(SYSEXIT, BR, h_sysexit),
	OPS1(SWAPGS, 0, h_swapgs), OPS1(RDFSBASE, 0, h_fsgsbase),
	OPS1(RDGSBASE, 0, h_fsgsbase), OPS1(WRFSBASE, 0, h_fsgsbase),
	OPS1(WRGSBASE, 0, h_fsgsbase),
	OPS1(CLI, 0, h_cli), OPS1(STI, 0, h_sti), OPS1(HLT, VO, h_hlt),
	OPS1(CLAC, 0, h_clac), OPS1(STAC, 0, h_clac),
	OPS1(IN, VO, h_in), OPS1(OUT, VO, h_out),
	OPS1(CLTS, VO, h_clts), OPS1(LMSW, VO, h_lmsw),
	OPS1(LDS, 0, h_lds), OPS1(LES, 0, h_lds), OPS1(LFS, 0, h_lds),
	OPS1(LGS, 0, h_lds), OPS1(LSS, 0, h_lds),
	OPS1(LGDT, 0, h_lgdt), OPS1(LIDT, 0, h_lgdt), OPS1(SGDT, 0, h_sgdt),
	OPS1(SIDT, 0, h_sgdt), OPS1(LLDT, 0, h_lldt), OPS1(LTR, 0, h_lldt),
	OPS1(SLDT, 0, h_sldt), OPS1(STR, 0, h_sldt), OPS1(SMSW, 0, h_sldt),
	OPS1(LAR, 0, h_lar), OPS1(LSL, 0, h_lar), OPS1(VERR, 0, h_verr),
	OPS1(VERW, 0, h_verr), OPS1(ARPL, 0, h_arpl),
	OPS1(INVLPG, VO, h_invlpg), OPS1(INVPCID, VO, h_invpcid),
	OPS1(INVD, 0, h_wbinvd), OPS1(WBINVD, 0, h_wbinvd),
	OPS1(CLFLUSH, 0, h_clflush), OPS1(CLFLUSHOPT, 0, h_clflush),
	OPS1(CLWB, 0, h_clflush),
	OPS1(NOP, 0, interp_nop), OPS1(PAUSE, 0, h_pause),
	OPS1(LFENCE, 0, interp_nop), OPS1(MFENCE, 0, interp_nop),
	OPS1(SFENCE, 0, interp_nop), OPS1(PREFETCH, 0, interp_nop),
	OPS1(PREFETCHNTA, 0, interp_nop), OPS1(PREFETCHT0, 0, interp_nop),
	OPS1(PREFETCHT1, 0, interp_nop), OPS1(PREFETCHT2, 0, interp_nop),
	OPS1(PREFETCHW, 0, interp_nop), OPS1(PREFETCHWT1, 0, interp_nop),
	OPS1(ENDBR32, 0, interp_nop), OPS1(ENDBR64, 0, interp_nop),
	OPS1(UD0, 0, interp_ud), OPS1(UD1, 0, interp_ud),
	OPS1(UD2, 0, interp_ud),
	{0},
};
/* clang-format on */
