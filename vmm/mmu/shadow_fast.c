/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is asked of the shadow while the guest's vector registers and FS base are in
 * place: built with -mgeneral-regs-only (Makefile), calls nothing outside, and uses
 * no thread-local data. The delta tables; whether a page is mapped; and a change to an
 * address space whose windows are as it left them.
 */
#include "vmm/mmu/shadow_priv.h"

/* ---- delta tables ---- */

void set_delta(struct shadow *s, unsigned view, unsigned gslot, uint64_t delta)
{
	(gslot < 256 ? s->t.lo : s->t.hi)[view][gslot] = delta;
}

uint64_t void_delta(const struct shadow *s, unsigned gslot)
{
	return s->void_base - slot_gbase(gslot);
}

uint64_t shadow_delta(struct shadow *s, uint64_t gva, unsigned user)
{
	unsigned gslot = gva >> SLOT_SHIFT & 511;

	if (!gva_canonical(gva))
		return s->void_base - (gva & ~SLOT_MASK);
	return (gslot < 256 ? s->t.lo : s->t.hi)[user][gslot];
}

void shadow_tables_init(struct shadow *s)
{
	for (unsigned view = 0; view < 2; view++) {
		for (unsigned i = 0; i < 512; i++) {
			uint64_t lo = (uint64_t)i << SLOT_SHIFT;
			uint64_t hi = ((1ull << 25) - 512 + i) << SLOT_SHIFT;

			s->t.lo[view][i] = s->void_base - lo;
			s->t.hi[view][i] = s->void_base - hi;
		}
	}
}

/* Windows of the running space that are for gslot: normal and super. */
void find_windows(struct shadow *s, unsigned gslot, int *normal, int *super)
{
	*normal = *super = 0;
	for (int i = s->cur ? s->cur->windows : -1; i >= 0; i = s->win[i].next)
		if (s->win[i].gslot == gslot)
			*(s->win[i].super ? super : normal) = i;
}

void update_slot(struct shadow *s, unsigned gslot)
{
	int normal, super, k;

	find_windows(s, gslot, &normal, &super);
	set_delta(s, 1, gslot,
		  normal ? s->win[normal].hbase - slot_gbase(gslot)
			 : void_delta(s, gslot));
	k = super ? super : normal;
	set_delta(s, 0, gslot,
		  k ? s->win[k].hbase - slot_gbase(gslot)
		    : void_delta(s, gslot));
}

/* ---- pages ---- */

/* The books say so exactly (shadow_node.c), but for a page that the host took out of
 * a carpet, which faults then. */
bool shadow_has(const struct shadow *s, uint64_t hva, bool write)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;
	uint32_t i = wi ? node_at(s, wi, (hva & SLOT_MASK) >> PAGE_SHIFT) : 0;

	return i && (!write || (s->node[i].flags & N_W));
}

/* ---- spaces ---- */

struct space *space_of(const struct shadow *s, gpa_t root)
{
	for (int i = 0; i < MAX_SPACE; i++)
		if (s->space[i].used && s->space[i].root == root)
			return (struct space *)&s->space[i];
	return NULL;
}

void space_switch(struct shadow *s, struct space *old, struct space *sp)
{
	s->cur = sp;
	sp->lru = ++s->clock;
	if (sp == old)
		return;
	if (old && old->used)
		for (int i = old->windows; i >= 0; i = s->win[i].next)
			update_slot(s, s->win[i].gslot);
	for (int i = sp->windows; i >= 0; i = s->win[i].next)
		update_slot(s, s->win[i].gslot);
}

uint64_t shadow_cr3_known(const struct shadow *s, uint64_t cr3)
{
	const struct space *sp = space_of(s, cr3 & CR3_ADDR);

	/* Loose pages would have to be walked for (kernel_revalidate). */
	return sp && s->cur && !sp->stale && sp->pcid == (cr3 & CR3_PCID) &&
			       !s->n_loose
		       ? sp->epoch
		       : 0;
}

void shadow_cr3_take(struct shadow *s)
{
	space_switch(s, s->cur, space_of(s, root_of(s->v)));
	s->st.space_hits++;
}
