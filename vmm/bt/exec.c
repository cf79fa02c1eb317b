/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instruction fetch: which physical page does a virtual page of code come
 * from, with execute rights at the present privilege. A direct-mapped cache
 * in front of the walker plays the instruction TLB; it is emptied by changing
 * the epoch, of the kernel's half or of one address space.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/walk.h"

bool exec_page(struct bt *bt, uint64_t rip, uint32_t *ppn)
{
	struct itlb_entry *e = &bt->itlb[(rip >> 12) % ITLB_SIZE];
	unsigned acc = WALK_EXEC | (bt->mode & MODE_USER ? WALK_USER : 0);
	struct walk w;
	unsigned h;

	if (exec_cached(bt, rip, ppn))
		return true;
	if (!gva_canonical(rip) || mmu_walk(bt->v, rip, acc, &w))
		return false;
	if (p2m_get_state(bt->p2m, gpa_to_ppn(w.gpa)) == P2M_NONE)
		return false;
	*ppn = gpa_to_ppn(w.gpa).n;
	if (!(bt->mode & MODE_USER) && (!w.global || !(rip >> 63)))
		bt->kern_loose = true;
	e->vpage = rip >> 12;
	e->epoch = exec_epoch(bt, rip);
	e->user = bt->mode & MODE_USER;
	e->ppn = *ppn;
	h = (rip >> 12) & 0xffff;
	bt->exec_seen[rip >> 63][h >> 3] |= 1 << (h & 7);
	return true;
}
