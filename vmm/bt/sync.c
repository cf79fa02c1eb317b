/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the architectural state (struct vcpu, as C code knows it) and what
 * translated code runs on: host forms of RSP, FS and GS, the flags' two
 * halves, the view, the mode. Done at every slow entry and exit, so C code
 * may change anything.
 *
 * Built with -mgeneral-regs-only: cr3.c calls in here.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

_Static_assert(offsetof(struct vcpu, rflags) == VCPU_RFLAGS, "layout.h");
_Static_assert(offsetof(struct vcpu, cpl) == VCPU_CPL, "layout.h");
_Static_assert(offsetof(struct vcpu, seg[SEG_CS]) == VCPU_CS, "layout.h");
_Static_assert(offsetof(struct vcpu, seg[SEG_SS]) == VCPU_SS, "layout.h");
_Static_assert(offsetof(struct vcpu, seg[SEG_GS].base) == VCPU_GS_BASE,
	       "layout.h");
_Static_assert(sizeof(struct segment) == 16, "two words");

/* Host form of a segment base, in the view of CPL 0 or 3: a base in the user
 * half may be user code's at the next SYSRET, which must not be led into a
 * window that only CPL 0 may see, so it always has that of CPL 3 (the kernel
 * then gets there through the interpreter). */
static uint64_t host_base(struct bt *bt, uint64_t base, unsigned user)
{
	return base + shadow_delta(bt->sh, base, user);
}

static void sync_syscall(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint64_t *hot = v->bt_hot;
	uint16_t kcs = (v->star >> 32) & 0xfffc, ucs = (v->star >> 48) | 3;
	struct segment *s;

	s = (struct segment *)&hot[HOT_KCS];
	*s = (struct segment){kcs, 0xa9b, ~0u, 0};
	s = (struct segment *)&hot[HOT_KSS];
	*s = (struct segment){kcs + 8, 0xc93, ~0u, 0};
	s = (struct segment *)&hot[HOT_UCS];
	*s = (struct segment){(ucs + 16) | 3, 0xafb, ~0u, 0};
	s = (struct segment *)&hot[HOT_USS];
	*s = (struct segment){(ucs + 8) | 3, 0xcf3, ~0u, 0};
	hot[HOT_FMASK] = v->fmask;
	hot[HOT_LSTAR] = v->lstar;
	hot[HOT_RT_KERN] = (uint64_t)bt->view[0] - BT_T_BIAS;
	hot[HOT_RT_USER] = (uint64_t)bt->view[VIEW_USER + bt->ctx] - BT_T_BIAS;
	hot[HOT_MODE_P] = (uint64_t)&bt->mode;
	hot[HOT_J_SYSCALL] = (uint64_t)(v->efer & EFER_SCE ? bt_do_syscall
							   : bt_exit_callout);
	hot[HOT_J_SYSRET] =
		(uint64_t)(v->efer & EFER_SCE ? bt_do_sysret : bt_exit_callout);
}

/* Would a return to CPL 3 leave the data segments as they are? */
static bool segments_stay(const struct vcpu *v)
{
	static const enum seg_reg data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		uint16_t a = v->seg[data[i]].attr;

		if ((a & SEG_ATTR_P) && (a & SEG_ATTR_DPL) != SEG_ATTR_DPL)
			return false;
	}
	return true;
}

/* The GDT in host form, or 0. Its slot gets a window: without one each IRET would
 * fault in the void, and be left to the interpreter all the same. */
static uint64_t host_gdt(struct bt *bt)
{
	uint64_t base = bt->v->gdtr.base;

	if (!gva_canonical(base))
		return 0;
	if (!shadow_gva(bt->sh, base + shadow_delta(bt->sh, base, 0)) &&
	    !shadow_need_window(bt->sh, base, 0))
		return 0;
	return base + shadow_delta(bt->sh, base, 0);
}

/* What stubs.S relies on. The selectors' TI bits are clear, and the GDT reaches
 * as far as they do. */
static void sync_stubs(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint64_t *hot = v->bt_hot;
	uint16_t sels = 0, top = 0;
	bool inline_ok = !bt->lockstep;

	for (unsigned i = HOT_KCS; i <= HOT_USS; i += 2) {
		uint16_t sel = hot[i];

		sels |= sel;
		if (sel > top)
			top = sel;
	}
	hot[HOT_GDT] = 0;
	if (!(sels & 4) && (top | 7) <= v->gdtr.limit && segments_stay(v))
		hot[HOT_GDT] = host_gdt(bt);
	hot[HOT_J_IRET] = (uint64_t)(inline_ok ? bt_do_iret : bt_exit_callout);
	inline_ok &= bt->xgetbv1;
	hot[HOT_J_XSAVE] =
		(uint64_t)(inline_ok ? bt_do_xsave : bt_exit_callout);
	hot[HOT_J_XSAVEC] =
		(uint64_t)(inline_ok ? bt_do_xsavec : bt_exit_callout);
	hot[HOT_J_XRSTOR] =
		(uint64_t)(inline_ok ? bt_do_xrstor : bt_exit_callout);
}

static uint8_t mode_of(const struct vcpu *v)
{
	uint8_t m = v->cpl == 3 ? MODE_USER : v->cpl ? MODE_CPL12 : 0;

	if ((v->cr0 & (CR0_EM | CR0_TS)) || !(v->cr4 & CR4_OSFXSR))
		m |= MODE_NOSSE;
	else if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
		m |= MODE_NOAVX;
	else if ((v->xcr0 & XCR0_AVX512) != XCR0_AVX512)
		m |= MODE_NO512;
	if (!(v->cr4 & CR4_FSGSBASE))
		m |= MODE_NOFSGS;
	if (v->tsc_offset || v->vm->cfg.time_shift || (v->cr4 & CR4_TSD) ||
	    v->layout_seed)
		m |= MODE_TSC_OUT;
	return m;
}

void bt_sync_mode(struct bt *bt)
{
	bt->mode = mode_of(bt->v);
}

/*
 * The components that change hands between the guest and the monitor. Those of
 * AVX-512 do while the guest has them in XCR0: else no instruction reaches them,
 * the image keeps what it has, and the registers have whatever the monitor left
 * there. (It is the guest's XCR0 when that has AVX: stubs.S.)
 */
static uint64_t fpu_mask(const struct vcpu *v)
{
	return (7 | (v->xcr0 & XCR0_AVX512)) & v->host_xcr0;
}

void bt_sync_bases(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint64_t *hot = v->bt_hot, gs = v->seg[SEG_GS].base;

	hot[HOT_FS] = host_base(bt, v->seg[SEG_FS].base, 1);
	/* The host forms stay across SYSCALL, SWAPGS and SYSRET. */
	hot[HOT_GS] = host_base(bt, gs, (bt->mode & MODE_USER) || !(gs >> 63));
	hot[HOT_KGS] =
		host_base(bt, v->kernel_gs_base, !(v->kernel_gs_base >> 63));
}

void bt_sync_rsp(struct bt *bt, uint64_t rsp)
{
	uint64_t *hot = bt->v->bt_hot;
	uint64_t delta = shadow_delta(bt->sh, rsp, !!(bt->mode & MODE_USER));

	hot[HOT_RSP_DELTA] = delta;
	hot[HOT_RSP_NOTD] = ~delta;
	hot[HOT_RSP_HOST] = rsp + delta;
}

void bt_sync_in(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint64_t *hot = v->bt_hot;

	bt_sync_rsp(bt, v->gpr[R_RSP]);
	bt_sync_bases(bt);
	sync_syscall(bt);
	sync_stubs(bt);
	hot[HOT_RT] = (uint64_t)bt->view[mode_view(bt_key(bt))] - BT_T_BIAS;
	hot[HOT_TMP0] = (v->rflags & FL_HOST) | FL_IF | FL_R1;
	hot[HOT_IF] = v->rflags & FL_IF;
	/* RF lasts for one instruction, and matters to none here. */
	v->rflags &= ~(FL_HOST | FL_IF | FL_RF);
	hot[HOT_FPU_MASK] = fpu_mask(v);
}

/* The pointers of the last x87 instruction are those of the host: its PC in the
 * TC, its operand in a window. Nothing of that for the guest. */
static void sync_x87_pointers(struct bt *bt)
{
	uint64_t *p = (uint64_t *)((uint8_t *)bt->v->fpu + 8); /* FIP, FDP */
	uint64_t host = p[0] - (uint64_t)bt->rx;
	const struct recov *r;
	uint32_t id;

	if (host >= bt->tc_size)
		return;
	id = tc_find(bt, host);
	r = id ? tc_recov(bt, id, host) : NULL;
	p[0] = r ? bt->ccf[id].rip + r->guest : 0;
	p[1] = shadow_gva(bt->sh, p[1]);
}

void bt_sync_out(struct bt *bt)
{
	struct vcpu *v = bt->v;

	sync_x87_pointers(bt);

	v->rflags |= (v->bt_hot[HOT_TMP0] & FL_HOST) | v->bt_hot[HOT_IF];
}
