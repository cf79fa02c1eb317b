/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shadow's books recounted: every node is found by window, by page and by
 * PPN; big nodes are aligned and overlap nothing; counters are what they
 * count. For tests; linear in the nodes.
 */
#include "vmm/mmu/shadow_priv.h"

#include <errno.h>

#include "mm/base/log.h"

static unsigned bad(const struct shadow *s, const struct node *n,
		    const char *what)
{
	log_error("audit: shadow node: window %u page %#x ppn %#x flags %#x: "
		  "%s",
		  n->win, n->vpn, n->ppn, n->flags, what);
	return 1;
}

static bool in_rmap(const struct shadow *s, uint32_t i)
{
	const struct node *n = &s->node[i];
	uint32_t k = n->flags & N_BIG ? s->rmap_big[n->ppn / BIG_PAGES]
				      : s->rmap[n->ppn];

	while (k && k != i)
		k = s->node[k].rnext;
	return k;
}

static unsigned check_node(struct shadow *s, int wi, uint32_t i)
{
	const struct node *n = &s->node[i];
	unsigned wrong = 0;

	if (n->win != wi)
		wrong += bad(s, n, "in the list of another window");
	if (node_find(s, wi, n->vpn) != i)
		wrong += bad(s, n, "not found by its page");
	if (!in_rmap(s, i))
		wrong += bad(s, n, "not found by its PPN");
	if (!(n->flags & N_BIG))
		return wrong;
	if ((n->vpn | n->ppn) & BIG_MASK)
		wrong += bad(s, n, "big and not aligned");
	for (uint32_t k = 1; k < BIG_PAGES; k++)
		if (node_find(s, wi, n->vpn + k))
			wrong += bad(s, n, "big, with a node inside");
	return wrong;
}

/* What is mapped in a carpet is mapped as the carpet goes. */
static unsigned check_carpets(struct shadow *s)
{
	uint32_t n[MAX_WIN + 1] = {0};
	unsigned wrong = 0;

	for (unsigned i = 0; i < 1u << CARPET_BITS; i++) {
		const struct carpet *c = &s->carpet[i];

		n[c->win] += c->here && c->win;
		for (unsigned k = 0; k < CARPET_PAGES; k++) {
			uint32_t at =
				node_at(s, c->win, c->block * CARPET_PAGES + k);

			if (c->here >> k & 1 && at &&
			    s->node[at].ppn != c->ppn + k)
				wrong += bad(s, &s->node[at],
					     "not as its carpet goes");
		}
	}
	for (int wi = 1; wi <= MAX_WIN; wi++)
		if (n[wi] != s->win[wi].n_carpets) {
			log_error("audit: carpets of shadow window %d", wi);
			wrong++;
		}
	return wrong;
}

int shadow_audit(struct shadow *s)
{
	uint64_t big = 0, loose = 0;
	unsigned wrong = 0;

	for (int wi = 1; wi <= MAX_WIN; wi++) {
		struct window *w = &s->win[wi], c = {0};

		if (!w->used)
			continue;
		for (uint32_t i = node_first(w); i; i = node_after(s, w, i)) {
			uint8_t f = s->node[i].flags;

			wrong += check_node(s, wi, i);
			c.n++;
			c.n_loose += !!(f & N_LOOSE);
			c.n_large += !!(f & N_LARGE);
			c.n_huge += !!(f & N_HUGE);
			c.n_big += !!(f & N_BIG);
		}
		if (c.n != w->n || c.n_loose != w->n_loose ||
		    c.n_large != w->n_large || c.n_huge != w->n_huge ||
		    c.n_big != w->n_big) {
			log_error("audit: counters of shadow window %d", wi);
			wrong++;
		}
		big += c.n_big;
		loose += w->sp ? 0 : c.n_loose;
	}
	if (big != s->st.big_now || loose != s->n_loose) {
		log_error("audit: counters of the shadow");
		wrong++;
	}
	wrong += check_carpets(s);
	return wrong ? -EUCLEAN : 0;
}
