/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOV CR3 without leaving translated code.
 *
 * A kernel that has two processes work in turn writes CR3 each time, with PCIDs and
 * "no flush" (SDM vol. 3, 4.10.4.1). Mostly the space that it goes to is as it was
 * left: its windows hold, and its context of user code (ibtc.c) was seen to hold at
 * the epoch that it still has. Then all there is to do is to put other words into the
 * delta tables and the vCPU. Whatever has to be walked for, flushed or emptied is the
 * callout's: so this answers before it changes anything, and both do the same where
 * both can.
 *
 * The unit goes on behind it, so nothing else that it relies on may depend on the
 * address space. All code that the kernel ran lies in its own half, on global pages
 * (else kern_loose is set). The GDT is in that half, whose windows all spaces share.
 * The stack may be anywhere: RSP is derived anew, as are the bases of FS and GS; what
 * the unit knew of other registers is forgotten (translate_facts.c).
 *
 * Limits. With one page mapped in the kernel's half that is not global, all such are
 * walked for at each write of CR3, and so each is a callout. Not under lockstep: the
 * interpreter, which goes first there, would have to take CR3 back.
 *
 * Built with -mgeneral-regs-only: runs with the guest's vector registers and FS base
 * in place.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"

unsigned bt_cr3(struct vcpu *v, uint64_t val)
{
	struct bt *bt = (struct bt *)v->bt;
	uint64_t *hot = v->bt_hot, cr3 = val & ~CR3_NOFLUSH, epoch;
	uint64_t rsp = hot[HOT_RSP_HOST] + hot[HOT_RSP_NOTD] + 1;
	int ctx;

	if (!(v->cr4 & CR4_PCIDE) || !(val & CR3_NOFLUSH) ||
	    cr3 >> MMU_PHYS_BITS || bt->kern_loose || hot[HOT_PF_PENDING] ||
	    !(v->gdtr.base >> 63))
		return 0;
	epoch = shadow_cr3_known(bt->sh, cr3);
	ctx = epoch ? ibtc_known(bt, cr3 & PAGE_MASK, epoch) : -1;
	if (ctx < 0 || !mem_flush_plain(v))
		return 0;
	v->cr3 = cr3;
	shadow_cr3_take(bt->sh);
	ibtc_take(bt, ctx);
	hot[HOT_RT_USER] = (uint64_t)bt->view[VIEW_USER + ctx] - BT_T_BIAS;
	bt_sync_rsp(bt, rsp);
	bt_sync_bases(bt);
	bt->stats.cr3s++;
	return 1;
}
