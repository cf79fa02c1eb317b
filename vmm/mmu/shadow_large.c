/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 2 MiB of a window as one mapping, so that the host's MMU holds it in one
 * entry of a page directory: fewer and shorter TLB misses, one host fault and
 * one node for 512 pages.
 *
 * When. The guest maps the 2 MiB as one: with a page of 2 MiB or more, or with
 * 512 PTEs of one page table that are contiguous and alike, accessed all of
 * them, dirty all or none. The p2m has them in a region that lies on a large
 * host page. And guest address and guest-physical address (which is the file's
 * offset) agree modulo 2 MiB; windows are aligned to 512 GiB, so the host's
 * address does as well.
 *
 * Writable means all of it, so all 512 pages are noted at once, and collected
 * at once (mm/p2m_share.c). With code in the region it is mapped for reading
 * only, and only while no page of it is mapped by itself: else the two would
 * take turns.
 *
 * When one page must be treated by itself (INVLPG of one of 512 PTEs, a page
 * shared or dropped by the p2m, code) the node splits into 512 of one page;
 * nothing is unmapped for that. They are joined again when a fault finds all
 * of the above to be true, with patience: after k splits that the guest caused,
 * 2^k faults have to go by (at most 256). A join costs some 10 us, as does a
 * split, so what a guest that does both by turns loses stays a small part of
 * its faults.
 */
#include "vmm/mmu/shadow_priv.h"

#include <errno.h>
#include <sys/mman.h>

#include "mm/base/log.h"
#include "mm/p2m_large.h"
#include "vmm/large.h"

#define SPLITS_MAX 8u
/* This many fills in a row are no accident. */
#define FRESH_RUN  4u
/* Regions promoted for a user that may not come. */
#define USER_LARGE 4u

void node_split(struct shadow *s, uint32_t i, bool again)
{
	struct node n = s->node[i];
	uint8_t *sp = &s->splits[n.ppn / BIG_PAGES];

	s->st.big_splits++;
	if (!node_room(s, BIG_PAGES)) {
		node_unmap(s, i);
		return;
	}
	if (!again && *sp < SPLITS_MAX)
		++*sp;
	node_del(s, i);
	for (uint32_t k = 0; k < BIG_PAGES; k++)
		node_add(s, n.win, n.vpn + k, n.ppn + k, n.flags & ~N_BIG);
}

/* Whether a join may be tried now. */
static bool cooled(struct shadow *s, uint32_t ppn)
{
	uint8_t sp = s->splits[ppn / BIG_PAGES];

	return !sp || !(++s->join_clock & ((1u << sp) - 1));
}

/* 512 entries of one page table: contiguous, alike, all accessed? */
static bool table_is_run(struct shadow *s, const struct walk *w)
{
	const uint64_t mask = PTE_P | PTE_W | PTE_U | PTE_A | PTE_G | PTE_D;
	const uint64_t *pt = p2m_read(s->p, gpa_to_ppn(w->leaf_gpa));
	uint64_t want, diff = 0;

	if (!pt || !(pt[0] & PTE_A))
		return false;
	want = pt[0] & (PTE_ADDR | mask);
	if ((pt[BIG_MASK] & (PTE_ADDR | mask)) != want + BIG_MASK * PAGE_SIZE)
		return false;
	for (unsigned k = 0; k < BIG_PAGES; k++, want += PAGE_SIZE)
		diff |= (pt[k] & (PTE_ADDR | mask)) ^ want;
	return !diff;
}

static bool aligned(gva_t gva, const struct walk *w)
{
	return !((gva ^ w->gpa) & (LARGE_PAGE_SIZE - 1));
}

bool big_translation(struct shadow *s, gva_t gva, const struct walk *w)
{
	if (!aligned(gva, w))
		return false;
	if (w->page_shift >= LARGE_PAGE_SHIFT)
		return true;
	return w->page_shift == PAGE_SHIFT && w->leaf_gpa != ~0ull &&
	       table_is_run(s, w);
}

/* Take the nodes of 512 pages out of the books; the mappings stay. */
static unsigned forget_pages(struct shadow *s, int wi, uint32_t base)
{
	unsigned n = 0;

	for (uint32_t k = 0; k < BIG_PAGES && s->win[wi].n; k++) {
		uint32_t i = node_find(s, wi, base + k);

		if (!i)
			continue;
		node_del(s, i);
		n++;
	}
	return n;
}

static bool any_page(struct shadow *s, int wi, uint32_t base)
{
	for (uint32_t k = 0; k < BIG_PAGES && s->win[wi].n; k++)
		if (node_find(s, wi, base + k))
			return true;
	return false;
}

/* The 2 MiB may be mapped; do it. */
static bool map_big(struct shadow *s, int wi, uint32_t base, uint32_t ppn,
		    bool write, uint8_t flags)
{
	void *hva = (void *)(s->win[wi].hbase + ((uint64_t)base << PAGE_SHIFT));
	int prot = PROT_READ | (write ? PROT_WRITE : 0);

	forget_pages(s, wi, base);
	carpet_cut(s, wi, base, BIG_PAGES);
	s->vmas += 2;
	if (mmap(hva, LARGE_PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
		 p2m_memfd(s->p), (off_t)ppn << PAGE_SHIFT) == MAP_FAILED) {
		/* What was there may still be, without nodes. */
		drop_for_vmas(s);
		munmap((void *)s->win[wi].hbase, SLOT_SIZE);
		carpet_cut_window(s, wi);
		return false;
	}
	node_add(s, wi, base, ppn, flags | N_BIG | (write ? N_W : 0));
	s->st.big_maps++;
	s->st.pages += BIG_PAGES;
	return true;
}

/* A big node is there and maps the right pages: more rights, if they may be. */
static bool upgrade_big(struct shadow *s, uint32_t i)
{
	struct node *n = &s->node[i];

	if (n->flags & N_W)
		return true; /* somebody was faster */
	if (mprotect(node_hva(s, n), LARGE_PAGE_SIZE, PROT_READ | PROT_WRITE))
		return false;
	n->flags |= N_W;
	s->st.big_upgrades++;
	return true;
}

/* Why not? A counter, or NULL: nothing speaks against it. */
static uint64_t *give_up(struct shadow *s, gva_t gva, const struct walk *w,
			 bool whole)
{
	ppn_t ppn = gpa_to_ppn(w->gpa);

	if (!aligned(gva, w))
		return &s->st.big_no_align;
	if (!whole && !cooled(s, ppn.n))
		return &s->st.big_cooling;
	return big_translation(s, gva, w) ? NULL : &s->st.big_no_run;
}

/* Nothing big may cover the page when the fill goes on for single pages. */
static bool small_only(struct shadow *s, uint32_t i, uint64_t *why)
{
	if (why)
		++*why;
	if (i)
		node_split(s, i, false);
	return false;
}

/*
 * A fault in a large page of the guest, over memory that is not large. Mapped
 * for a user; or written for the first time, a piece after the other, as a
 * kernel does through its map of all memory when it clears a large page for its
 * user. It fills other memory in the same way, so that counts only while users
 * do come for what was cleared.
 */
static bool large_now(struct shadow *s, const struct walk *w, bool write)
{
	ppn_t ppn = gpa_to_ppn(w->gpa);
	uint64_t last = s->fresh_ppn;
	bool down = ppn.n < last;

	if (w->page_shift == LARGE_PAGE_SHIFT && w->user)
		return vm_large_now(s->v->vm, ppn, LARGEPAGE_MAPPED);
	if (!write || p2m_get_state(s->p, ppn) != P2M_ZERO)
		return false;
	s->fresh_ppn = ppn.n;
	if (down != s->fresh_down ||
	    (down ? last - ppn.n : ppn.n - last) > RUN_WRITE) {
		s->fresh_down = down;
		s->fresh_n = 0;
	}
	if (++s->fresh_n < FRESH_RUN || !s->user_large)
		return false;
	s->user_large--;
	return vm_large_now(s->v->vm, ppn, LARGEPAGE_CLEARED);
}

static uint32_t node_big(struct shadow *s, int wi, uint32_t base)
{
	uint32_t i = node_find(s, wi, base);

	return i && s->node[i].flags & N_BIG ? i : 0;
}

bool fill_big(struct shadow *s, int wi, gva_t gva, const struct walk *w,
	      bool write, uint8_t flags)
{
	uint32_t vpn = (gva & SLOT_MASK) >> PAGE_SHIFT, base = vpn & ~BIG_MASK;
	ppn_t ppn = gpa_to_ppn(w->gpa), first = {ppn.n & ~(uint64_t)BIG_MASK};
	uint32_t i = node_big(s, wi, base);
	uint64_t *why;
	unsigned can;
	bool prepare;

	if (i && s->node[i].ppn != first.n) {
		node_unmap(s, i);
		i = 0;
	}
	if (!p2m_is_large(s->p, ppn) && w->page_shift < LARGE_PAGE_SHIFT)
		return small_only(s, i, NULL);
	if (w->page_shift == LARGE_PAGE_SHIFT && w->user)
		s->user_large = USER_LARGE;
	if (!p2m_is_large(s->p, ppn) && large_now(s, w, write))
		i = node_big(s, wi, base);
	if (!p2m_is_large(s->p, ppn)) {
		if (w->page_shift == LARGE_PAGE_SHIFT && w->user)
			p2m_region_hint(s->p, ppn);
		return small_only(s, i, &s->st.big_no_region);
	}
	why = give_up(s, gva, w, i);
	if (why)
		return small_only(s, i, why);
	can = p2m_region_access(s->p, ppn, &prepare);
	if (!can)
		return small_only(s, i, &s->st.big_no_idle);
	if (!(can & 2) && (write || (!i && any_page(s, wi, base))))
		return small_only(s, i, &s->st.big_no_code);
	if (write && prepare &&
	    p2m_make_writable(s->p, first, BIG_PAGES) != BIG_PAGES)
		return small_only(s, node_big(s, wi, base),
				  &s->st.big_no_write);
	i = node_big(s, wi, base);
	if (!write)
		write = (can & 2) && !prepare && w->writable && w->dirty;
	if (i && write && upgrade_big(s, i))
		return true;
	return map_big(s, wi, base, first.n, write, flags);
}

/* ---- ranges of PPNs ---- */

/* How many pages from node i on are mapped one after the other as it is:
 * single pages of the PPNs that follow, writable if it is, max at most. */
static unsigned node_run(struct shadow *s, uint32_t i, uint64_t max)
{
	const struct node *a = &s->node[i];
	unsigned n = 1;

	for (; n < max && a->vpn + n < SLOT_SIZE >> PAGE_SHIFT; n++) {
		uint32_t k = node_find(s, a->win, a->vpn + n);

		if (!k || s->node[k].ppn != a->ppn + n ||
		    (s->node[k].flags ^ a->flags) & (N_W | N_BIG))
			break;
	}
	return n;
}

/* Unmap the run of n single pages that begins with node i. */
static void run_unmap(struct shadow *s, uint32_t i, unsigned n)
{
	unsigned win = s->node[i].win;
	uint32_t vpn = s->node[i].vpn;

	if (n == 1 || munmap(node_hva(s, &s->node[i]), n * PAGE_SIZE)) {
		node_unmap(s, i);
		return;
	}
	carpet_cut(s, win, vpn, n);
	s->vmas++;
	s->st.unmaps += n;
	for (unsigned k = 0; k < n; k++)
		node_del(s, node_find(s, win, vpn + k));
}

void shadow_drop_range(struct shadow *s, ppn_t ppn, uint64_t n)
{
	uint64_t end = ppn.n + n;

	for (uint64_t at = ppn.n; at < end; at++) {
		uint32_t *big = &s->rmap_big[at / BIG_PAGES];

		while (*big) {
			if (at % BIG_PAGES || end - at < BIG_PAGES)
				node_split(s, *big, true);
			else
				node_unmap(s, *big);
		}
		while (s->rmap[at])
			run_unmap(s, s->rmap[at],
				  node_run(s, s->rmap[at], end - at));
	}
	carpet_drop_range(s, ppn.n, n + 1); /* p2m_region_prepare */
	s->st.drops += n;
}

static void run_protect(struct shadow *s, uint32_t i, unsigned n)
{
	unsigned win = s->node[i].win;
	uint32_t vpn = s->node[i].vpn;

	if (mprotect(node_hva(s, &s->node[i]), n * PAGE_SIZE, PROT_READ)) {
		drop_for_vmas(s);
		return;
	}
	s->vmas += 2;
	s->st.protects += n;
	for (unsigned k = 0; k < n; k++)
		s->node[node_find(s, win, vpn + k)].flags &= ~N_W;
}

static uint32_t writable_node(struct shadow *s, uint32_t i)
{
	while (i && !(s->node[i].flags & N_W))
		i = s->node[i].rnext;
	return i;
}

void shadow_protect_range(struct shadow *s, ppn_t ppn, uint64_t n)
{
	uint64_t end = ppn.n + n;
	uint32_t i;

	for (uint64_t at = ppn.n; at < end; at++) {
		while ((i = writable_node(s, s->rmap_big[at / BIG_PAGES]))) {
			if (at % BIG_PAGES || end - at < BIG_PAGES)
				node_split(s, i, true);
			else
				node_set_readonly(s, i);
		}
		while ((i = writable_node(s, s->rmap[at])))
			run_protect(s, i, node_run(s, i, end - at));
	}
}
