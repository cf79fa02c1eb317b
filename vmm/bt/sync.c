/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the architectural state (struct vcpu, as C code knows it) and what
 * translated code runs on: host forms of RSP, FS and GS, the flags' two
 * halves, the view, the mode. Done at every slow entry and exit, so C code
 * may change anything.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/x86/regs.h"

static uint8_t mode_of(const struct vcpu *v)
{
	uint8_t m = v->cpl == 3 ? MODE_USER : v->cpl ? MODE_CPL12 : 0;

	if ((v->cr0 & (CR0_EM | CR0_TS)) || !(v->cr4 & CR4_OSFXSR))
		m |= MODE_NOSSE | MODE_NOAVX;
	if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
		m |= MODE_NOAVX;
	if (v->tsc_offset || (v->cr4 & CR4_TSD))
		m |= MODE_TSC_OUT;
	return m;
}

void bt_sync_mode(struct bt *bt)
{
	bt->mode = mode_of(bt->v);
}

void bt_sync_in(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint64_t *hot = v->bt_hot;
	unsigned user = bt->mode & MODE_USER ? 1 : 0;
	uint64_t delta = shadow_delta(bt->sh, v->gpr[R_RSP], user);
	uint64_t fs = v->seg[SEG_FS].base, gs = v->seg[SEG_GS].base;

	hot[HOT_RSP_DELTA] = delta;
	hot[HOT_RSP_NOTD] = ~delta;
	hot[HOT_RSP_HOST] = v->gpr[R_RSP] + delta;
	hot[HOT_FS] = fs + shadow_delta(bt->sh, fs, user);
	hot[HOT_GS] = gs + shadow_delta(bt->sh, gs, user);
	hot[HOT_KGS] =
		v->kernel_gs_base + shadow_delta(bt->sh, v->kernel_gs_base, 0);
	hot[HOT_RT] = (uint64_t)bt->view[user] - BT_T_BIAS;
	hot[HOT_TMP0] = (v->rflags & FL_HOST) | FL_IF | FL_R1;
	hot[HOT_IF] = v->rflags & FL_IF;
	/* RF lasts for one instruction, and matters to none here. */
	v->rflags &= ~(FL_HOST | FL_IF | FL_RF);
	hot[HOT_FPU_MASK] = 7 & v->host_xcr0;
}

void bt_sync_out(struct bt *bt)
{
	struct vcpu *v = bt->v;

	v->rflags |= (v->bt_hot[HOT_TMP0] & FL_HOST) | v->bt_hot[HOT_IF];
}
