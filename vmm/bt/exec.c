/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instruction fetch: which physical page does a virtual page of code come
 * from, with execute rights at the present privilege. A direct-mapped cache
 * in front of the walker plays the instruction TLB; it is emptied by changing
 * the epoch, of the kernel's half or of one address space.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/walk.h"

/* One INVLPG drops the whole of a large page. */
static void exec_note(struct bt *bt, uint64_t vpage, unsigned page_shift)
{
	unsigned half = vpage >> 51, h = vpage & 0xffff;

	if (!(bt->exec_seen[half][h >> 3] >> (h & 7) & 1))
		bt->n_exec_seen[half]++;
	bt->exec_seen[half][h >> 3] |= 1 << (h & 7);
	if (page_shift >= 30)
		bt->exec_huge[half] = true;
	if (page_shift <= PAGE_SHIFT)
		return;
	h = vpage >> 9 & 0xffff;
	bt->exec_large[half][h >> 3] |= 1 << (h & 7);
}

bool exec_page(struct bt *bt, uint64_t rip, uint32_t *ppn)
{
	struct itlb_entry *e = &bt->itlb[(rip >> 12) % ITLB_SIZE];
	unsigned acc = WALK_EXEC | (bt->mode & MODE_USER ? WALK_USER : 0);
	struct walk w;

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
	if (!(bt->mode & MODE_USER) || rip >> 63 || w.page_shift > PAGE_SHIFT)
		exec_note(bt, rip >> 12, w.page_shift);
	return true;
}
