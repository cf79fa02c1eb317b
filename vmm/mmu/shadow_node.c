/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shadow's books: which page is mapped where (shadow.c has the essay), and
 * what keeps the mappings and the books together: nothing else unmaps or
 * protects a single page.
 */
#include "vmm/mmu/shadow_priv.h"

#include <sys/mman.h>

#include "mm/p2m_share.h"

static void count_flags(struct shadow *s, struct window *w, uint8_t flags,
			int by)
{
	w->n += by;
	if (flags & N_LOOSE) {
		w->n_loose += by;
		if (!w->sp)
			s->n_loose += by;
	}
	if (flags & N_LARGE)
		w->n_large += by;
	if (flags & N_HUGE)
		w->n_huge += by;
	if (flags & N_BIG) {
		w->n_big += by;
		s->st.big_now += by;
	}
}

static uint32_t *node_rmap(struct shadow *s, uint32_t ppn, uint8_t flags)
{
	return flags & N_BIG ? &s->rmap_big[ppn / BIG_PAGES] : &s->rmap[ppn];
}

void node_add(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn,
	      uint8_t flags)
{
	struct window *w = &s->win[win];
	uint32_t i = s->free_node, *b = node_bucket(s, win, vpn);
	uint32_t *r = node_rmap(s, ppn, flags);
	uint32_t *head = &w->head[!!(flags & N_LOOSE)];
	struct node *n;

	if (i)
		s->free_node = s->node[i].hnext;
	else
		i = s->n_node++;
	n = &s->node[i];
	n->vpn = vpn;
	n->ppn = ppn;
	n->win = win;
	n->flags = flags;
	n->hnext = *b;
	*b = i;
	n->rnext = *r;
	*r = i;
	n->wprev = 0;
	n->wnext = *head;
	if (*head)
		s->node[*head].wprev = i;
	*head = i;
	count_flags(s, w, flags, 1);
}

void node_del(struct shadow *s, uint32_t i)
{
	struct node *n = &s->node[i];
	struct window *w = &s->win[n->win];
	uint32_t *p;

	for (p = node_bucket(s, n->win, n->vpn); *p != i;
	     p = &s->node[*p].hnext)
		;
	*p = n->hnext;
	for (p = node_rmap(s, n->ppn, n->flags); *p != i;
	     p = &s->node[*p].rnext)
		;
	*p = n->rnext;
	if (n->wprev)
		s->node[n->wprev].wnext = n->wnext;
	else
		w->head[!!(n->flags & N_LOOSE)] = n->wnext;
	if (n->wnext)
		s->node[n->wnext].wprev = n->wprev;
	count_flags(s, w, n->flags, -1);
	n->hnext = s->free_node;
	s->free_node = i;
}

void range_unmap(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n)
{
	uint64_t base = s->win[win].hbase;

	carpet_cut(s, win, vpn, n);
	/* It may split a VMA, and there may be no VMA left. The whole window
	 * needs none; the nodes of its other pages go at the next fill. */
	if (munmap((void *)(base + ((uint64_t)vpn << PAGE_SHIFT)),
		   (size_t)n << PAGE_SHIFT)) {
		munmap((void *)base, SLOT_SIZE);
		carpet_cut_window(s, win);
		s->vmas = s->vma_limit;
	}
	s->vmas++;
	s->st.unmaps += n;
}

void node_unmap(struct shadow *s, uint32_t i)
{
	range_unmap(s, s->node[i].win, s->node[i].vpn, node_pages(&s->node[i]));
	node_del(s, i);
}

void run_drop(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n)
{
	range_unmap(s, win, vpn, n);
	for (uint32_t k = 0; k < n; k++)
		node_del(s, node_find(s, win, vpn + k));
}

void run_set_readonly(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n)
{
	void *hva = node_hva(s, &s->node[node_find(s, win, vpn)]);

	if (mprotect(hva, (size_t)n << PAGE_SHIFT, PROT_READ)) {
		run_drop(s, win, vpn, n);
		return;
	}
	for (uint32_t k = 0; k < n; k++)
		s->node[node_find(s, win, vpn + k)].flags &= ~N_W;
	s->vmas += 2;
}

void node_set_readonly(struct shadow *s, uint32_t i)
{
	struct node *n = &s->node[i];

	if (mprotect(node_hva(s, n), node_pages(n) * PAGE_SIZE, PROT_READ)) {
		node_unmap(s, i);
		return;
	}
	n->flags &= ~N_W;
	s->vmas += 2;
}

void drop_for_vmas(struct shadow *s)
{
	s->st.flushes_vma++;
	shadow_drop_all(s);
}

/* Are the two, neighbours in a window, in one VMA? */
static bool joined(const struct shadow *s, const struct node *a,
		   const struct node *b)
{
	ppn_t p = {a->ppn}, q = {b->ppn};
	enum p2m_state st = p2m_get_state(s->p, p);

	if ((a->flags ^ b->flags) & N_W || st != p2m_get_state(s->p, q))
		return false;
	if (st == P2M_SHARED)
		return p2m_frame(s->p, p).n + 1 == p2m_frame(s->p, q).n;
	return st == P2M_PRIVATE && p.n + node_pages(a) == q.n;
}

/* The VMAs of a window: its runs, and what of a carpet goes on behind one. */
static uint64_t count_vmas(struct shadow *s, unsigned win)
{
	const struct window *w = &s->win[win];
	uint64_t n = w->n_carpets;

	for (uint32_t i = node_first(w); i; i = node_after(s, w, i)) {
		uint32_t end = s->node[i].vpn + node_pages(&s->node[i]);
		uint32_t k = node_at(s, win, end);

		if (k)
			n += !joined(s, &s->node[i], &s->node[k]);
		else
			n += 1 + carpet_has(s, win, end);
	}
	return n;
}

void spare_vmas(struct shadow *s)
{
	s->vmas = 0;
	for (unsigned i = 1; i <= MAX_WIN; i++)
		if (s->win[i].used)
			s->vmas += count_vmas(s, i);
	s->st.recounts++;
	s->st.vmas_counted = s->vmas;
	if (s->vmas > s->vma_limit / 8 * 7)
		drop_for_vmas(s);
}

void shadow_drop_ppn(struct shadow *s, ppn_t ppn)
{
	while (s->rmap_big[ppn.n / BIG_PAGES])
		node_split(s, s->rmap_big[ppn.n / BIG_PAGES], true);
	while (s->rmap[ppn.n])
		node_unmap(s, s->rmap[ppn.n]);
	s->st.drops++;
}

void shadow_protect_ppn(struct shadow *s, ppn_t ppn)
{
	uint32_t i, next;

	for (i = s->rmap_big[ppn.n / BIG_PAGES]; i; i = next) {
		next = s->node[i].rnext;
		if (s->node[i].flags & N_W)
			node_split(s, i, false);
	}
	for (i = s->rmap[ppn.n]; i; i = s->node[i].rnext) {
		struct node *n = &s->node[i];

		if (!(n->flags & N_W))
			continue;
		if (mprotect(node_hva(s, n), PAGE_SIZE, PROT_READ)) {
			/* No VMAs to split: start over. */
			drop_for_vmas(s);
			return;
		}
		n->flags &= ~N_W;
		s->vmas += 2;
		s->st.protects++;
	}
}

void shadow_drop_all(struct shadow *s)
{
	for (int i = 1; i <= MAX_WIN; i++)
		if (s->win[i].used)
			window_clear(s, i);
	/* No node is left: what node_room counts begins anew. */
	s->n_node = 1;
	s->free_node = 0;
	s->vmas = 0;
}
