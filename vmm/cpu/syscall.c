/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS, with Intel's rules (the guest
 * CPU calls itself GenuineIntel): SYSCALL and SYSRET in 64-bit mode only, and
 * SYSRET faults on a non-canonical RCX while still in ring 0.
 */
#include "vmm/cpu/protection.h"

enum cpu_status cpu_syscall(struct vcpu *v, gva_t next)
{
	uint16_t cs = v->star >> 32 & 0xfffc;
	uint16_t ss = (v->star >> 32 & 0xffff) + 8;

	if (!(v->efer & EFER_SCE) || !vcpu_code64(v))
		return vcpu_raise(v, EXC_UD);
	v->gpr[R_RCX] = next;
	v->gpr[R_R11] = v->rflags & ~FL_RF;
	v->rflags = (v->rflags & ~(v->fmask | FL_RF)) | FL_R1;
	v->seg[SEG_CS] = seg_flat_code(cs, 0, true);
	v->seg[SEG_SS] = seg_flat_data(ss, 0);
	v->cpl = 0;
	v->rip = v->lstar;
	return CPU_OK;
}

#define SYSRET_FLAGS 0x3c7fd7ull

enum cpu_status cpu_sysret(struct vcpu *v, unsigned opsize)
{
	uint16_t sel = v->star >> 48;
	bool l = opsize == 8;

	if (!(v->efer & EFER_SCE) || !vcpu_code64(v))
		return vcpu_raise(v, EXC_UD);
	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	if (l && !gva_canonical(v->gpr[R_RCX]))
		return vcpu_raise(v, EXC_GP);
	v->rip = l ? v->gpr[R_RCX] : (uint32_t)v->gpr[R_RCX];
	v->rflags = (v->gpr[R_R11] & SYSRET_FLAGS) | FL_R1;
	v->seg[SEG_CS] = seg_flat_code((sel + (l ? 16 : 0)) | 3, 3, l);
	v->seg[SEG_SS] = seg_flat_data((sel + 8) | 3, 3);
	v->cpl = 3;
	return CPU_OK;
}

enum cpu_status cpu_sysenter(struct vcpu *v, gva_t next)
{
	uint16_t sel = v->sysenter_cs & 0xfffc;
	bool l = v->in_long_mode;

	if (cpu_is_real(v) || !sel)
		return vcpu_raise(v, EXC_GP);
	v->rflags &= ~(FL_VM | FL_IF | FL_RF);
	v->seg[SEG_CS] = seg_flat_code(sel, 0, l);
	v->seg[SEG_SS] = seg_flat_data(sel + 8, 0);
	v->cpl = 0;
	v->rip = l ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
	v->gpr[R_RSP] = l ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
	return CPU_OK;
}

enum cpu_status cpu_sysexit(struct vcpu *v, unsigned opsize)
{
	uint16_t sel = v->sysenter_cs & 0xfffc;
	bool l = opsize == 8;

	if (cpu_is_real(v) || v->cpl || !sel)
		return vcpu_raise(v, EXC_GP);
	if (l &&
	    (!gva_canonical(v->gpr[R_RCX]) || !gva_canonical(v->gpr[R_RDX])))
		return vcpu_raise(v, EXC_GP);
	v->rip = l ? v->gpr[R_RDX] : (uint32_t)v->gpr[R_RDX];
	v->gpr[R_RSP] = l ? v->gpr[R_RCX] : (uint32_t)v->gpr[R_RCX];
	v->seg[SEG_CS] = seg_flat_code((sel + (l ? 32 : 16)) | 3, 3, l);
	v->seg[SEG_SS] = seg_flat_data((sel + (l ? 40 : 24)) | 3, 3);
	v->cpl = 3;
	return CPU_OK;
}

enum cpu_status cpu_swapgs(struct vcpu *v)
{
	uint64_t base = v->seg[SEG_GS].base;

	if (!vcpu_code64(v))
		return vcpu_raise(v, EXC_UD);
	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	v->seg[SEG_GS].base = v->kernel_gs_base;
	v->kernel_gs_base = base;
	return CPU_OK;
}
