/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's TLB events: flushes revalidate what is mapped and drop what has
 * changed, a CR3 write changes the space. shadow.c has the essay.
 */
#include "vmm/mmu/shadow_priv.h"

/* What do the page tables say of a mapped page now? */
static enum node_state judge(struct shadow *s, const struct node *n,
			     struct walk_hint *h)
{
	const struct window *w = &s->win[n->win];
	gva_t gva = w->gbase + ((uint64_t)n->vpn << PAGE_SHIFT);
	struct walk wk;

	if (mmu_probe(s->v, gva, h, &wk) || gpa_to_ppn(wk.gpa).n != n->ppn ||
	    !wk.accessed || (!wk.user && (n->flags & N_USER)) ||
	    (!w->super && w->sp && !wk.user) ||
	    wk.global != !(n->flags & N_LOOSE) ||
	    (large_flag(&wk) & ~n->flags)) /* INVLPG must drop all of it */
		return n->flags & N_BIG ? NODE_MIXED : NODE_GONE;
	if ((n->flags & N_BIG) && !big_translation(s, gva, &wk))
		return NODE_MIXED;
	return (n->flags & N_W) && !(wk.writable && wk.dirty) ? NODE_READ_ONLY
							      : NODE_SAME;
}

enum node_state node_judge(struct shadow *s, const struct node *n)
{
	struct walk_hint h = {0};

	return judge(s, n, &h);
}

static void node_revalidate(struct shadow *s, uint32_t i)
{
	unsigned win = s->node[i].win;
	uint32_t vpn = s->node[i].vpn, k;

	switch (node_judge(s, &s->node[i])) {
	case NODE_GONE:
		node_unmap(s, i);
		break;
	case NODE_READ_ONLY:
		node_set_readonly(s, i);
		break;
	case NODE_SAME:
		break;
	case NODE_MIXED:
		node_split(s, i, false);
		for (k = vpn; k < vpn + BIG_PAGES; k++) {
			i = node_find(s, win, k);
			if (i)
				node_revalidate(s, i);
		}
	}
}

/* After an exec or an exit nothing of a user window is valid: one munmap. */
static bool window_dead(struct shadow *s, int wi)
{
	const struct window *w = &s->win[wi];
	struct walk_hint h = {0};
	uint32_t i;

	for (i = node_first(w); i; i = node_after(s, w, i))
		if (judge(s, &s->node[i], &h) != NODE_GONE)
			return false;
	return true;
}

/* Pages [lo, hi) of a window that are to go: neighbours go in one call. */
struct doomed {
	uint32_t lo, hi;
};

static void doomed_unmap(struct shadow *s, int wi, struct doomed *d)
{
	if (d->lo != d->hi)
		range_unmap(s, wi, d->lo, d->hi - d->lo);
	d->lo = d->hi = 0;
}

static void doomed_add(struct shadow *s, int wi, struct doomed *d, uint32_t vpn)
{
	if (d->lo != d->hi && vpn + 1 == d->lo) {
		d->lo = vpn;
	} else if (d->lo != d->hi && vpn == d->hi) {
		d->hi++;
	} else {
		doomed_unmap(s, wi, d);
		d->lo = vpn;
		d->hi = vpn + 1;
	}
}

static void window_revalidate(struct shadow *s, int wi, bool loose_only)
{
	const struct window *w = &s->win[wi];
	uint32_t i = node_first(w), next;
	struct doomed d = {0, 0};
	struct walk_hint h = {0};

	if (!loose_only && w->n > 1 && window_dead(s, wi)) {
		s->st.revalidated += w->n;
		s->st.reval_gone += w->n;
		window_clear(s, wi);
		return;
	}
	for (; i; i = next) {
		if (loose_only && !(s->node[i].flags & N_LOOSE))
			break;
		next = node_after(s, w, i);
		s->st.revalidated++;
		/* A big one: all of it, or page by page. */
		if (s->node[i].flags & N_BIG) {
			node_revalidate(s, i);
			continue;
		}
		switch (judge(s, &s->node[i], &h)) {
		case NODE_GONE:
			s->st.reval_gone++;
			doomed_add(s, wi, &d, s->node[i].vpn);
			node_del(s, i);
			break;
		case NODE_READ_ONLY:
			s->st.reval_readonly++;
			node_set_readonly(s, i);
			break;
		default:
			break;
		}
	}
	doomed_unmap(s, wi, &d);
}

static void kernel_revalidate(struct shadow *s, bool loose_only)
{
	if (loose_only && !s->n_loose)
		return;
	for (unsigned g = 256; g < 512; g++)
		if (s->kern_win[g])
			window_revalidate(s, s->kern_win[g], loose_only);
}

/* The running space, whose root is in CR3. */
static void space_revalidate(struct shadow *s, struct space *sp)
{
	s->st.revalidations++;
	for (int i = sp->windows; i >= 0; i = s->win[i].next)
		window_revalidate(s, i, false);
	sp->stale = false;
	sp->epoch = ++s->epoch;
}

/* Pages whose entries a kernel changes together it flushes one by one. */
#define FLUSH_RUN 64u

/* Node i is of one small page of the guest's, which is flushed. Those after it
 * that have met the same fate go with it, in one call, before their own turn: a
 * TLB may drop what it likes. */
static void flush_run(struct shadow *s, uint32_t i)
{
	unsigned wi = s->node[i].win;
	uint32_t vpn = s->node[i].vpn, n = 1;
	struct walk_hint h = {0};
	enum node_state is = judge(s, &s->node[i], &h);

	if (is == NODE_SAME)
		return;
	while (n < FLUSH_RUN) {
		i = node_find(s, wi, vpn + n);
		if (!i || (s->node[i].flags & (N_BIG | N_LARGE | N_HUGE)) ||
		    judge(s, &s->node[i], &h) != is)
			break;
		n++;
	}
	if (is == NODE_GONE)
		run_drop(s, wi, vpn, n);
	else
		run_set_readonly(s, wi, vpn, n);
}

static void flush_page_window(struct shadow *s, int wi, gva_t gva)
{
	struct window *w = &s->win[wi];
	uint32_t vpn = (gva & SLOT_MASK) >> PAGE_SHIFT, i, next;

	i = node_at(s, wi, vpn);
	if (i && !(s->node[i].flags & (N_LARGE | N_HUGE))) {
		/* One of 512 guest PTEs: the others are not flushed. */
		if (s->node[i].flags & N_BIG) {
			node_split(s, i, false);
			i = node_find(s, wi, vpn);
			if (!i)
				return;
		}
		/* What the page tables still say may come back at any time:
		 * pages that are made read-only are read again, mostly. */
		flush_run(s, i);
		return;
	}
	/* One INVLPG drops the whole of a large page. */
	if (w->n_large) {
		for (uint32_t k = 0; k < 512; k++) {
			i = node_find(s, wi, (vpn & ~511u) + k);
			if (i && (s->node[i].flags & N_LARGE))
				node_unmap(s, i);
		}
	}
	if (!w->n_huge)
		return;
	for (i = node_first(w); i; i = next) {
		next = node_after(s, w, i);
		if ((s->node[i].flags & N_HUGE) &&
		    s->node[i].vpn >> 18 == vpn >> 18)
			node_unmap(s, i);
	}
}

static void flush_page(struct shadow *s, gva_t gva)
{
	unsigned gslot = gva >> SLOT_SHIFT & 511;
	int normal, super;

	if (!gva_canonical(gva))
		return;
	if (gslot >= 256) {
		if (s->kern_win[gslot])
			flush_page_window(s, s->kern_win[gslot], gva);
		return;
	}
	find_windows(s, gslot, &normal, &super);
	if (normal)
		flush_page_window(s, normal, gva);
	if (super)
		flush_page_window(s, super, gva);
}

static void mark_stale(struct shadow *s, bool all, uint16_t pcid)
{
	for (int i = 0; i < MAX_SPACE; i++)
		if (s->space[i].used && (all || s->space[i].pcid == pcid))
			s->space[i].stale = true;
}

void shadow_flush(struct shadow *s, enum tlb_flush kind, uint16_t pcid,
		  gva_t gva)
{
	struct space *cur = s->cur;

	switch (kind) {
	case TLB_FLUSH_PAGE:
		flush_page(s, gva);
		return;
	case TLB_FLUSH_PAGE_PCID:
		if (pcid == pcid_of(s->v))
			flush_page(s, gva);
		else
			mark_stale(s, false, pcid);
		return;
	case TLB_FLUSH_PCID:
		mark_stale(s, false, pcid);
		break;
	case TLB_FLUSH_NONGLOBAL:
	case TLB_FLUSH_ALL:
		mark_stale(s, true, 0);
		break;
	}
	/* During a CR3 write the new space is judged by shadow_cr3. */
	if (cur && cur->root == root_of(s->v) && cur->stale)
		space_revalidate(s, cur);
	kernel_revalidate(s, kind != TLB_FLUSH_ALL);
}

void shadow_cr3(struct shadow *s, bool noflush)
{
	struct space *old = s->cur, *sp;

	s->cur = NULL;
	sp = space_find(s, root_of(s->v));
	space_switch(s, old, sp);
	if (sp->stale || sp->pcid != pcid_of(s->v) || !noflush) {
		sp->pcid = pcid_of(s->v);
		space_revalidate(s, sp);
	} else {
		s->st.space_hits++;
	}
	kernel_revalidate(s, true);
}

void shadow_mode(struct shadow *s)
{
	mark_stale(s, true, 0);
	if (!(s->v->cr0 & CR0_PG))
		return;
	if (!s->cur || s->cur->root != root_of(s->v))
		shadow_cr3(s, false);
	else
		space_revalidate(s, s->cur);
	kernel_revalidate(s, false);
}

void shadow_enter(struct shadow *s)
{
	if ((s->v->cr0 & CR0_PG) && (!s->cur || s->cur->root != root_of(s->v)))
		shadow_cr3(s, false);
}
