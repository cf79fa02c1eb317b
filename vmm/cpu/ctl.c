/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control and debug registers, TLB instructions, XCR0, flags (SDM vol. 3,
 * ch. 2, 4.10, 17).
 *
 * Who is told what. The software TLB (mem_flush) is dropped here on anything
 * that could make it wrong. ops->tlb_flush says what the architecture says
 * must be invalidated, ops->cr3_written that the root changed, and
 * ops->mode_changed that any CR0, CR4, EFER or XCR0 bit changed that code
 * generation or paging depends on (TS, EM and MP too, for #NM).
 *
 * Hardware breakpoints: DR0..DR7 hold what is written; no engine matches them.
 */
#include <string.h>

#include "vmm/cpu/protection.h"

/* ---- telling the engine ---- */

static void tell_flush(struct vcpu *v, enum tlb_flush kind, uint16_t pcid,
		       gva_t gva)
{
	mem_flush(v);
	if (v->ops && v->ops->tlb_flush)
		v->ops->tlb_flush(v, kind, pcid, gva);
}

static void tell_mode(struct vcpu *v)
{
	mem_flush(v);
	if (v->ops && v->ops->mode_changed)
		v->ops->mode_changed(v);
}

static enum cpu_status need_cpl0(struct vcpu *v)
{
	return v->cpl ? vcpu_raise(v, EXC_GP) : CPU_OK;
}

/* ---- CR0 ---- */

#define CR0_KNOWN                                                              \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP |        \
	 CR0_AM | CR0_NW | CR0_CD | CR0_PG)

/* The four PDPTEs of PAE paging must have no reserved bit set (vol. 3,
 * 4.4.1). Memory that is not there is taken for zeroes. */
static bool pdptes_ok(struct vcpu *v, uint64_t cr3)
{
	uint64_t rsvd = ~((1ull << MMU_PHYS_BITS) - 1) | 0x1e6, e[4];

	if (!v->vm || phys_read(v->vm, cr3 & 0xffffffe0, e, sizeof(e)))
		return true;
	for (unsigned i = 0; i < 4; i++)
		if ((e[i] & PTE_P) && (e[i] & rsvd))
			return false;
	return true;
}

static bool cr0_ok(struct vcpu *v, uint64_t val)
{
	bool pg_on = (val & CR0_PG) && !(v->cr0 & CR0_PG);
	bool pg_off = !(val & CR0_PG) && (v->cr0 & CR0_PG);

	if ((val & CR0_PG) && !(val & CR0_PE))
		return false;
	if ((val & CR0_NW) && !(val & CR0_CD))
		return false;
	if (pg_off && (vcpu_code64(v) || (v->cr4 & CR4_PCIDE)))
		return false;
	if (!pg_on)
		return true;
	if (v->efer & EFER_LME)
		return (v->cr4 & CR4_PAE) &&
		       !(v->seg[SEG_CS].attr & SEG_ATTR_L);
	return !(v->cr4 & CR4_PAE) || pdptes_ok(v, v->cr3);
}

static enum cpu_status write_cr0(struct vcpu *v, uint64_t val)
{
	uint64_t old = v->cr0;
	bool lma;

	if (val >> 32)
		return vcpu_raise(v, EXC_GP);
	val = (val & CR0_KNOWN) | CR0_ET;
	if (!cr0_ok(v, val))
		return vcpu_raise(v, EXC_GP);
	v->cr0 = val;
	lma = (val & CR0_PG) && (v->efer & EFER_LME);
	v->in_long_mode = lma;
	v->efer = lma ? v->efer | EFER_LMA : v->efer & ~EFER_LMA;
	if (!(val & CR0_PE))
		v->cpl = 0;
	if ((old ^ val) & CR0_PG)
		tell_flush(v, TLB_FLUSH_ALL, 0, 0);
	if ((old ^ val) & (CR0_KNOWN & ~(CR0_CD | CR0_NW)))
		tell_mode(v);
	return CPU_OK;
}

/* ---- CR3 ---- */

static enum cpu_status write_cr3(struct vcpu *v, uint64_t val)
{
	bool noflush = false;

	if (v->in_long_mode) {
		if (v->cr4 & CR4_PCIDE) {
			noflush = val & CR3_NOFLUSH;
			val &= ~CR3_NOFLUSH;
		}
		if (val >> MMU_PHYS_BITS)
			return vcpu_raise(v, EXC_GP);
	} else {
		val = (uint32_t)val;
		if ((v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) &&
		    !pdptes_ok(v, val))
			return vcpu_raise(v, EXC_GP);
	}
	v->cr3 = val;
	mem_flush(v);
	if (!noflush)
		tell_flush(v, TLB_FLUSH_PCID, cpu_pcid(v), 0);
	if (v->ops && v->ops->cr3_written)
		v->ops->cr3_written(v, noflush);
	return CPU_OK;
}

/* ---- CR4 ---- */

#define CR4_KNOWN                                                              \
	(CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |  \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE |   \
	 CR4_OSXSAVE | CR4_SMEP)

/* Reserved because the CPUID of this guest does not have the feature. */
static uint64_t cr4_allowed(const struct vcpu *v)
{
	uint64_t ok = CR4_KNOWN;

	if (!cpu_has(v, FEAT_FSGSBASE))
		ok &= ~CR4_FSGSBASE;
	if (!cpu_has(v, FEAT_XSAVE))
		ok &= ~CR4_OSXSAVE;
	return ok;
}

static bool cr4_ok(struct vcpu *v, uint64_t val)
{
	uint64_t old = v->cr4;

	if (val & ~cr4_allowed(v))
		return false;
	if (v->in_long_mode && !(val & CR4_PAE))
		return false;
	if ((val & CR4_PCIDE) && !(old & CR4_PCIDE) &&
	    (!v->in_long_mode || (v->cr3 & CR3_PCID)))
		return false;
	if ((v->cr0 & CR0_PG) && !v->in_long_mode && (val & CR4_PAE) &&
	    ((old ^ val) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)))
		return pdptes_ok(v, v->cr3);
	return true;
}

static enum cpu_status write_cr4(struct vcpu *v, uint64_t val)
{
	uint64_t changed = v->cr4 ^ val;

	if (!cr4_ok(v, val))
		return vcpu_raise(v, EXC_GP);
	v->cr4 = val;
	/* Vol. 3, 4.10.4.1 */
	if ((changed & (CR4_PGE | CR4_PAE | CR4_PSE)) ||
	    ((changed & CR4_PCIDE) && !(val & CR4_PCIDE)) ||
	    ((changed & CR4_SMEP) && (val & CR4_SMEP)))
		tell_flush(v, TLB_FLUSH_ALL, 0, 0);
	if (changed)
		tell_mode(v);
	return CPU_OK;
}

/* ---- CR8 ---- */

static enum cpu_status write_cr8(struct vcpu *v, uint64_t val)
{
	if (val > 15)
		return vcpu_raise(v, EXC_GP);
	if (v->irq && v->irq->set_tpr)
		v->irq->set_tpr(v->irq_ctx, val);
	return CPU_OK;
}

enum cpu_status cpu_read_cr(struct vcpu *v, unsigned cr, uint64_t *val)
{
	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
		return vcpu_raise(v, EXC_UD);
	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	switch (cr) {
	case 0:
		*val = v->cr0;
		break;
	case 2:
		*val = v->cr2;
		break;
	case 3:
		*val = v->cr3;
		break;
	case 4:
		*val = v->cr4;
		break;
	default:
		*val = v->irq && v->irq->get_tpr ? v->irq->get_tpr(v->irq_ctx)
						 : 0;
	}
	return CPU_OK;
}

enum cpu_status cpu_write_cr(struct vcpu *v, unsigned cr, uint64_t val)
{
	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
		return vcpu_raise(v, EXC_UD);
	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	if (!vcpu_code64(v))
		val = (uint32_t)val;
	switch (cr) {
	case 0:
		return write_cr0(v, val);
	case 2:
		v->cr2 = val;
		return CPU_OK;
	case 3:
		return write_cr3(v, val);
	case 4:
		return write_cr4(v, val);
	default:
		return write_cr8(v, val);
	}
}

enum cpu_status cpu_clts(struct vcpu *v)
{
	enum cpu_status s = need_cpl0(v);

	if (s || !(v->cr0 & CR0_TS))
		return s;
	v->cr0 &= ~CR0_TS;
	tell_mode(v);
	return CPU_OK;
}

enum cpu_status cpu_lmsw(struct vcpu *v, uint16_t val)
{
	uint64_t bits = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
	enum cpu_status s = need_cpl0(v);

	if (s)
		return s;
	/* LMSW can set PE but not clear it. */
	return write_cr0(v, (v->cr0 & ~(bits & ~CR0_PE)) | (val & bits));
}

/* ---- debug registers ---- */

static enum cpu_status check_dr(struct vcpu *v, unsigned *dr)
{
	if (*dr > 7 || ((*dr == 4 || *dr == 5) && (v->cr4 & CR4_DE)))
		return vcpu_raise(v, EXC_UD);
	if (*dr == 4 || *dr == 5)
		*dr += 2;
	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	if (v->dr[7] & DR7_GD) {
		vcpu_raise(v, EXC_DB);
		v->exc.dr6 = DR6_BD;
		return CPU_EXC;
	}
	return CPU_OK;
}

enum cpu_status cpu_read_dr(struct vcpu *v, unsigned dr, uint64_t *val)
{
	enum cpu_status s = check_dr(v, &dr);

	if (!s)
		*val = v->dr[dr];
	return s;
}

enum cpu_status cpu_write_dr(struct vcpu *v, unsigned dr, uint64_t val)
{
	enum cpu_status s = check_dr(v, &dr);

	if (s)
		return s;
	if (!vcpu_code64(v))
		val = (uint32_t)val;
	if (dr >= 6 && val >> 32)
		return vcpu_raise(v, EXC_GP);
	if (dr == 6)
		val = (val & DR6_WRITABLE) | DR6_FIXED1;
	else if (dr == 7)
		val = (val & DR7_WRITABLE) | DR7_FIXED1;
	v->dr[dr] = val;
	return CPU_OK;
}

/* ---- TLB ---- */

enum cpu_status cpu_invlpg(struct vcpu *v, gva_t a)
{
	enum cpu_status s = need_cpl0(v);

	if (s)
		return s;
	/* Not canonical: does nothing (vol. 2, INVLPG). */
	if (!v->in_long_mode)
		a = (uint32_t)a;
	else if (!gva_canonical(a))
		return CPU_OK;
	tell_flush(v, TLB_FLUSH_PAGE, cpu_pcid(v), a);
	return CPU_OK;
}

enum cpu_status cpu_invpcid(struct vcpu *v, uint64_t type,
			    const uint64_t desc[2])
{
	static const enum tlb_flush kinds[] = {TLB_FLUSH_PAGE_PCID,
					       TLB_FLUSH_PCID, TLB_FLUSH_ALL,
					       TLB_FLUSH_NONGLOBAL};
	bool one = type < 2; /* names a PCID */
	enum cpu_status s = need_cpl0(v);

	if (s)
		return s;
	if (type > 3 || desc[0] >> 12)
		return vcpu_raise(v, EXC_GP);
	if (one && desc[0] && !(v->cr4 & CR4_PCIDE))
		return vcpu_raise(v, EXC_GP);
	if (type == 0 && !gva_canonical(desc[1]))
		return vcpu_raise(v, EXC_GP);
	tell_flush(v, kinds[type], one ? desc[0] : 0, type ? 0 : desc[1]);
	return CPU_OK;
}

/* ---- XCR0 ---- */

/* The three components of AVX-512 come together, and with AVX. */
static bool avx512_ok(const struct vcpu *v, uint64_t xcr0)
{
	const uint64_t all = XCR0_AVX | XCR0_AVX512;

	return !(xcr0 & XCR0_AVX512) ||
	       ((xcr0 & all) == all && cpu_has(v, FEAT_AVX512));
}

enum cpu_status cpu_xsetbv(struct vcpu *v, uint32_t idx, uint64_t val)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		return vcpu_raise(v, EXC_UD);
	if (v->cpl || idx || !(val & XCR0_X87) || (val & ~XCR0_ALL) ||
	    ((val & XCR0_AVX) && !(val & XCR0_SSE)) ||
	    ((val & XCR0_AVX) && !cpu_has(v, FEAT_AVX)) || !avx512_ok(v, val))
		return vcpu_raise(v, EXC_GP);
	if (v->xcr0 == val)
		return CPU_OK;
	v->xcr0 = val;
	tell_mode(v);
	return CPU_OK;
}

enum cpu_status cpu_xgetbv(struct vcpu *v, uint32_t idx, uint64_t *val)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		return vcpu_raise(v, EXC_UD);
	if (idx)
		return vcpu_raise(v, EXC_GP);
	*val = v->xcr0;
	return CPU_OK;
}

/* ---- HLT and flags ---- */

enum cpu_status cpu_hlt(struct vcpu *v)
{
	enum cpu_status s = need_cpl0(v);

	if (!s)
		v->halted = 1;
	return s;
}

enum cpu_status cpu_write_flags(struct vcpu *v, uint64_t val, unsigned opsize)
{
	uint64_t mask = FL_ARITH | FL_TF | FL_DF | FL_NT;

	if (opsize > 2)
		mask |= FL_AC | FL_ID;
	if (v->cpl <= cpu_iopl(v))
		mask |= FL_IF;
	if (!v->cpl)
		mask |= FL_IOPL;
	v->rflags = (v->rflags & ~mask) | (val & mask) | FL_R1;
	if (opsize > 2)
		v->rflags &= ~FL_RF;
	return CPU_OK;
}

enum cpu_status cpu_cli(struct vcpu *v)
{
	if (v->cpl > cpu_iopl(v))
		return vcpu_raise(v, EXC_GP);
	v->rflags &= ~FL_IF;
	return CPU_OK;
}

enum cpu_status cpu_sti(struct vcpu *v)
{
	if (v->cpl > cpu_iopl(v))
		return vcpu_raise(v, EXC_GP);
	if (!(v->rflags & FL_IF))
		v->irq_shadow = 1;
	v->rflags |= FL_IF;
	return CPU_OK;
}
