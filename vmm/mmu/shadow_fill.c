/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling windows: a host fault becomes a walk of the guest's page tables, a
 * look into the p2m, and a mapping of the page with the neighbours that
 * continue it. shadow.c has the essay.
 */
#include "vmm/mmu/shadow_priv.h"

#include <errno.h>
#include <sys/mman.h>

#include "mm/base/log.h"

#define RUN_BITS (PTE_P | PTE_W | PTE_U | PTE_A | PTE_G | PTE_D)

/* How many pages from gva on have translations that continue the walk's, up
 * to max, in one large page or one page table. */
static unsigned run_length(struct shadow *s, gva_t gva, const struct walk *w,
			   unsigned max, bool write)
{
	unsigned n = 1;

	if (w->page_shift > PAGE_SHIFT) {
		uint64_t left =
			(1ull << w->page_shift) -
			(gva & ((1ull << w->page_shift) - 1) & PAGE_MASK);

		return left / PAGE_SIZE < max ? left / PAGE_SIZE : max;
	}
	if (w->page_shift != PAGE_SHIFT || w->leaf_gpa == ~0ull)
		return 1;
	{
		unsigned at = (w->leaf_gpa & (PAGE_SIZE - 1)) / 8;
		const uint64_t *pt = p2m_read(s->p, gpa_to_ppn(w->leaf_gpa));
		uint64_t first = pt[at];

		if (!(first & PTE_A))
			return 1;
		while (n < max && at + n < 512 &&
		       ((pt[at + n] ^ first) & RUN_BITS) == 0 &&
		       (pt[at + n] & PTE_ADDR) ==
			       (first & PTE_ADDR) + n * PAGE_SIZE)
			n++;
	}
	return n;
}

/* The same of the pages before: a kernel that maps what lies around a fault does
 * so on both sides of it. In one page table, of pages that are mapped nowhere in
 * the window, and in use. */
static unsigned run_before(struct shadow *s, unsigned wi, uint32_t vpn,
			   const struct walk *w)
{
	unsigned n = 0, at = (w->leaf_gpa & (PAGE_SIZE - 1)) / 8;
	const uint64_t *pt;
	uint64_t here;

	if (w->page_shift != PAGE_SHIFT || w->leaf_gpa == ~0ull)
		return 0;
	pt = p2m_read(s->p, gpa_to_ppn(w->leaf_gpa));
	here = pt[at] & (RUN_BITS | PTE_ADDR);
	if (!(here & PTE_A))
		return 0;
	while (n < RUN_BEFORE && n < at && n < vpn &&
	       (pt[at - n - 1] & (RUN_BITS | PTE_ADDR)) ==
		       here - (n + 1) * PAGE_SIZE &&
	       !node_find(s, wi, vpn - n - 1))
		n++;
	return p2m_run_before(s->p, gpa_to_ppn(w->gpa), n);
}

static int map_run(struct shadow *s, uint64_t hva, unsigned n, bool write,
		   const struct p2m_backing *b, bool upgrade)
{
	unsigned wi = s->host_win[hva >> SLOT_SHIFT];
	int prot = PROT_READ | (write ? PROT_WRITE : 0);

	if (upgrade) {
		s->st.upgrades++;
		s->vmas += 2;
		return mprotect((void *)hva, n * PAGE_SIZE, prot) ? -errno : 0;
	}
	carpet_cut(s, wi, (hva & SLOT_MASK) >> PAGE_SHIFT, n);
	s->vmas++;
	if (mmap((void *)hva, n * PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
		 b->fd, b->offset) == MAP_FAILED)
		return -errno;
	return 0;
}

/* By a carpet that is there or can be laid: how many of n pages? A longer run
 * is as well mapped by itself. */
static unsigned map_carpet(struct shadow *s, unsigned wi, uint32_t vpn,
			   uint32_t ppn, unsigned n)
{
	unsigned got = carpet_open(s, wi, vpn, ppn, n);

	if (!got && n < RUN_WRITE && carpet_lay(s, wi, vpn, ppn))
		got = carpet_open(s, wi, vpn, ppn, n);
	return got;
}

/* The page's entry goes, which is node i: all of a large page of the guest,
 * one of its small ones. */
static void drop_page(struct shadow *s, uint32_t i, uint32_t vpn)
{
	unsigned win = s->node[i].win;

	if ((s->node[i].flags & (N_BIG | N_LARGE | N_HUGE)) == N_BIG) {
		node_split(s, i, false);
		i = node_find(s, win, vpn);
	}
	if (i)
		node_unmap(s, i);
}

enum shadow_fill shadow_fill(struct shadow *s, uint64_t hva, bool write,
			     unsigned user)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;
	struct window *w = &s->win[wi];
	uint32_t vpn = (hva & SLOT_MASK) >> PAGE_SHIFT, old;
	struct p2m_backing b;
	struct walk wk;
	gva_t gva;
	ppn_t ppn;
	unsigned n, i, before;
	uint32_t err;
	uint8_t flags;
	bool upgrade;
	long got;

	if (!wi || (w->sp && w->sp != s->cur))
		return SHADOW_NOTOURS;
	gva = w->gbase + (hva & SLOT_MASK);
	err = mmu_walk(s->v, gva,
		       (write ? WALK_WRITE : 0) | (user ? WALK_USER : 0), &wk);
	if (err) {
		/* A page fault drops the page's entry (vol. 3, 4.10.4.1),
		 * unless a walk would bring it back. */
		old = node_at(s, wi, vpn);
		if (old && node_judge(s, &s->node[old]) != NODE_SAME)
			drop_page(s, old, vpn);
		s->fault_gva = gva;
		s->fault_err = err & ~WALK_FAULT;
		return SHADOW_PF;
	}
	/* Supervisor writes with CR0.WP clear are left to the interpreter. */
	if (write && !wk.writable)
		return SHADOW_FAULT;
	if (w->sp && !w->super && !wk.user)
		return SHADOW_NOTOURS;
	ppn = gpa_to_ppn(wk.gpa);
	if (p2m_get_state(s->p, ppn) == P2M_NONE)
		return SHADOW_MMIO;
	if (write && p2m_is_code(s->p, ppn))
		return SHADOW_CODE;
	if (!node_room(s, RUN_READ + RUN_BEFORE))
		drop_for_vmas(s);
	else if (s->vmas > s->vma_limit)
		spare_vmas(s);

	flags = (wk.user ? N_USER : 0) | (!wk.global ? N_LOOSE : 0) |
		large_flag(&wk);
	if (fill_big(s, wi, gva, &wk, write, flags)) {
		s->st.fills++;
		return SHADOW_OK;
	}
	n = run_length(s, gva, &wk, write ? RUN_WRITE : RUN_READ, write);
	old = node_find(s, wi, vpn);
	upgrade = old && s->node[old].ppn == ppn.n;
	if (upgrade)
		n = 1;
	for (i = 1; i < n; i++)
		if (node_find(s, wi, vpn + i))
			break;
	n = i;
	if (write) {
		/* May drop mappings of these pages (a broken share). */
		got = p2m_make_writable(s->p, ppn, n);
		if (got < 0)
			return SHADOW_NOMEM;
		n = got;
		for (i = 1; i < n; i++)
			if (p2m_is_code(s->p, (ppn_t){ppn.n + i}))
				break;
		n = i;
		old = node_find(s, wi, vpn);
		upgrade = upgrade && old;
	}
	p2m_region_place(s->p, ppn, (gva ^ wk.gpa) & (LARGE_PAGE_SIZE - 1));
	/* What will be mapped writable goes forward only, by a carpet maybe. */
	before = write || old || (wk.writable && wk.dirty)
			 ? 0
			 : run_before(s, wi, vpn, &wk);
	vpn -= before;
	ppn.n -= before;
	hva -= (uint64_t)before << PAGE_SHIFT;
	n += before;
	if (p2m_get_backing(s->p, ppn, n, &b))
		return SHADOW_MMIO;
	BUG_ON(b.run <= before);
	if (b.run < n)
		n = b.run;
	/* A read maps writable what may be written without telling anyone. */
	if (!write && b.writable && wk.writable && wk.dirty)
		write = true;
	if (old && !upgrade)
		node_unmap(s, old);
	got = write && !upgrade && b.fd == p2m_memfd(s->p)
		      ? map_carpet(s, wi, vpn, ppn.n, n)
		      : 0;
	if (got) {
		n = got;
	} else if (map_run(s, hva & PAGE_MASK, n, write, &b, upgrade)) {
		drop_for_vmas(s);
		if (map_run(s, hva & PAGE_MASK, n, write, &b, false))
			return SHADOW_NOMEM;
		upgrade = false;
	}
	flags |= write ? N_W : 0;
	if (upgrade) {
		s->node[old].flags |= N_W;
	} else {
		for (i = 0; i < n; i++)
			node_add(s, wi, vpn + i, ppn.n + i, flags);
	}
	s->st.fills++;
	s->st.pages += n;
	return SHADOW_OK;
}

void shadow_last_fault(const struct shadow *s, gva_t *gva, uint32_t *err)
{
	*gva = s->fault_gva;
	*err = s->fault_err;
}

bool shadow_prefill(struct shadow *s, gva_t gva, bool write, unsigned user)
{
	uint64_t hva = gva + shadow_delta(s, gva, user);
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;
	struct walk wk;
	uint32_t i;

	if (!wi || mmu_walk(s->v, gva, WALK_PROBE, &wk))
		return false;
	write = write && wk.writable && wk.dirty;
	i = node_at(s, wi, (hva & SLOT_MASK) >> PAGE_SHIFT);
	if (i && (!write || (s->node[i].flags & N_W)))
		return false;
	return shadow_fill(s, hva, write, user) == SHADOW_OK;
}
