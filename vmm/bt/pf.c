/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's own page faults, without a detour.
 *
 * When a host fault in a window finds that the guest's page tables say no, the
 * #PF is known whole: the walk gave the error code, and the host's fault
 * address, taken back through the window, is CR2, because the host instruction
 * accesses just what the guest's does (RK_TOUCH marks the one that does not).
 * So the signal handler delivers it at once, as the interpreter would after
 * executing the instruction again, and goes on in the TC at the guest's
 * handler. Vector state stays in the signal frame meanwhile, where it costs
 * nothing. All this is ordinary C on another stack: the code that was
 * interrupted is translated code, which holds no lock and no half-done state.
 *
 * When the guest comes back to the instruction that faulted, it is about to
 * touch the page again: if the walk succeeds now, the window is filled right
 * away, which saves the second host fault. That sets nothing in the guest's
 * entries that speculation could not: a page is filled for writing only if its
 * entry is dirty already.
 *
 * Limits: not under lockstep, which compares whole instructions. A fault while
 * the #PF is delivered, and a handler not yet translated, leave by the engine's
 * loop, with the event delivered (BT_EXIT_EVENT).
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/cpu/sys.h"
#include "vmm/x86/regs.h"

/* After the delivery: straight to the handler's translation? */
static bool enter_handler(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint32_t ppn, id;

	bt_sync_mode(bt);
	if (bt_interp_only(v) || !exec_cached(bt, v->rip, &ppn))
		return false;
	id = tc_lookup(bt, v->rip, ppn, bt_key(bt));
	if (!id)
		return false;
	bt_sync_in(bt);
	v->bt_hot[HOT_PC] =
		(uint64_t)(bt->rx + bt->ccf[id].host + bt->ccf[id].direct);
	return true;
}

enum cpu_status bt_pf_raise(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint32_t err;
	gva_t gva;

	shadow_last_fault(bt->sh, &gva, &err);
	bt->pf.rip = v->rip;
	bt->pf.cpl = v->cpl;
	bt->pf.gva = gva;
	bt->pf.write = err & PF_W;
	bt->pf.others = 0;
	v->bt_hot[HOT_PF_PENDING] = 1;
	bt->stats.faults_direct++;
	vcpu_raise_pf(v, gva, err);
	return cpu_deliver_exception(v);
}

int bt_pf_deliver(struct bt *bt)
{
	struct vcpu *v = bt->v;

	site_fault(bt);
	v->rflags |= (v->bt_hot[HOT_TMP0] & FL_HOST) | v->bt_hot[HOT_IF];
	v->bt_hot[HOT_TMP0] = v->bt_hot[HOT_IF] = 0;
	bt->event_status = bt_pf_raise(bt);
	if (bt->event_status == CPU_OK && enter_handler(bt))
		return BT_SIG_ENTER;
	v->bt_hot[HOT_EXIT_KIND] = BT_EXIT_EVENT;
	return BT_SIG_LEAVE;
}

void bt_pf_fill(struct bt *bt)
{
	if (shadow_prefill(bt->sh, bt->pf.gva, bt->pf.write, bt->v->cpl == 3))
		bt->stats.prefills++;
}
