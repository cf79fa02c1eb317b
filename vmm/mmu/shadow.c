/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows: guest virtual memory behind the host's MMU.
 *
 * The 48-bit guest space has 512 slots of 512 GiB. A slot in use has a window:
 * 512 GiB of the monitor's address space, with at least as much of nothing on
 * each side. host = guest + delta[slot]; slots without a window have a delta
 * that leads into the void, a slot of nothing. A window is a hole in which
 * pages are mapped as host faults ask for them: it is a TLB, made of the
 * host's page tables, and obeys the rules of one (SDM vol. 3, 4.10):
 *
 *   - what is mapped was allowed by a walk since the last flush that covers
 *     it; mapped writable only if the guest's leaf entry is writable and dirty
 *     and the p2m has been told;
 *   - flushes *revalidate*: every page now mapped that they are for (with
 *     INVLPG, one; with MOV CR3 and wider ones, all) is walked again, and
 *     dropped if its translation has become another, or less; one that INVLPG
 *     names in a large page of the guest's goes with all of that;
 *   - guests that never flush keep stale entries, as on hardware.
 *
 * Address spaces ("spaces") are known by their root and keep their windows for
 * the user half while other spaces run, as PCIDs do in hardware: a CR3 write
 * that says "no flush" for a space last run under that PCID finds its windows
 * as they were. The kernel half (slots 256..511) is one set of windows that
 * all spaces share; its pages that are not global are "loose" and walked again
 * at every CR3 write.
 *
 * CPL 3 sees only user-half windows, and those hold user pages only. If CPL 0
 * needs a supervisor page in a user-half slot, the slot gets a second window,
 * for CPL 0 alone ("super"). Without SMAP, which CPUID does not show, CPL 0
 * otherwise sees what CPL 3 sees.
 *
 * Books: one node for each mapped page, found by (window, page), by window,
 * and by PPN (so the p2m's listener and the translator can drop or protect
 * every alias of a page). Invariant: a page is mapped in a window if and only
 * if it has a node, and writable only if the node says so.
 *
 * Limits: VMAs. Each scattered page is one. An estimate counts what may have
 * split one; when it nears the kernel's limit the VMAs are counted out of the
 * books, and if there are that many everything is dropped and comes back by
 * faults.
 *
 * One thread. shadow_fill may run in the signal handler, on top of translated
 * code only. A killed process leaves nothing.
 */
#include "vmm/mmu/shadow_priv.h"

#include <string.h>
#include <sys/mman.h>

#include "mm/base/log.h"

/* ---- windows and spaces ---- */

/* Forget every page of a window. */
void window_clear(struct shadow *s, int wi)
{
	struct window *w = &s->win[wi];

	if (!w->n && !w->n_carpets)
		return;
	munmap((void *)w->hbase, SLOT_SIZE);
	carpet_cut_window(s, wi);
	while (node_first(w))
		node_del(s, node_first(w));
}

static void window_free(struct shadow *s, int wi)
{
	struct window *w = &s->win[wi];
	struct space *sp = w->sp;

	window_clear(s, wi);
	s->host_win[w->hslot] = 0;
	s->free_slot[s->n_free++] = w->hslot;
	w->used = false;
	if (sp) {
		int *p = &sp->windows;

		while (*p != wi)
			p = &s->win[*p].next;
		*p = w->next;
		if (sp == s->cur)
			update_slot(s, w->gslot);
	} else {
		s->kern_win[w->gslot] = 0;
		set_delta(s, 0, w->gslot, void_delta(s, w->gslot));
	}
}

static void space_free(struct shadow *s, struct space *sp)
{
	while (sp->windows >= 0)
		window_free(s, sp->windows);
	sp->used = false;
}

static struct space *space_oldest(struct shadow *s, bool with_windows)
{
	struct space *best = NULL;

	for (int i = 0; i < MAX_SPACE; i++) {
		struct space *sp = &s->space[i];

		if (sp->used && sp != s->cur &&
		    (!with_windows || sp->windows >= 0) &&
		    (!best || sp->lru < best->lru))
			best = sp;
	}
	return best;
}

/* A host slot for a window; takes it from somebody if need be. */
static int take_slot(struct shadow *s)
{
	if (!s->n_free) {
		struct space *sp = space_oldest(s, true);

		if (sp) {
			space_free(s, sp);
			s->st.recycled++;
		}
	}
	if (!s->n_free) {
		int old = 0;

		for (int i = 1; i <= MAX_WIN; i++)
			if (s->win[i].used &&
			    (!old || s->win[i].born < s->win[old].born))
				old = i;
		BUG_ON(!old);
		window_free(s, old);
	}
	return s->free_slot[--s->n_free];
}

static int window_new(struct shadow *s, struct space *sp, unsigned gslot,
		      bool super)
{
	int hslot = take_slot(s), wi = 1;
	struct window *w;

	while (s->win[wi].used)
		wi++;
	w = &s->win[wi];
	memset(w, 0, sizeof(*w));
	w->used = true;
	w->super = super;
	w->sp = sp;
	w->gslot = gslot;
	w->hslot = hslot;
	w->hbase = (uint64_t)hslot << SLOT_SHIFT;
	w->gbase = slot_gbase(gslot);
	w->born = ++s->clock;
	s->host_win[hslot] = wi;
	s->st.windows++;
	if (sp) {
		w->next = sp->windows;
		sp->windows = wi;
		update_slot(s, gslot);
	} else {
		s->kern_win[gslot] = wi;
		set_delta(s, 0, gslot, w->hbase - w->gbase);
	}
	return wi;
}

bool shadow_need_window(struct shadow *s, gva_t gva, unsigned user)
{
	unsigned gslot = gva >> SLOT_SHIFT & 511;
	int normal, super;
	struct walk wk;

	if (!gva_canonical(gva) || !s->cur || (user && gslot >= 256))
		return false;
	if (mmu_walk(s->v, gva, WALK_PROBE, &wk) ||
	    p2m_get_state(s->p, gpa_to_ppn(wk.gpa)) == P2M_NONE)
		return false;
	if (gslot >= 256) {
		if (s->kern_win[gslot])
			return false;
		window_new(s, NULL, gslot, false);
		return true;
	}
	find_windows(s, gslot, &normal, &super);
	if (!wk.user) {
		if (user || super)
			return false;
		window_new(s, s->cur, gslot, true);
		return true;
	}
	if (normal || (super && !user))
		return false;
	window_new(s, s->cur, gslot, false);
	return true;
}

struct space *space_find(struct shadow *s, gpa_t root)
{
	struct space *free = space_of(s, root);

	if (free)
		return free;
	for (int i = 0; i < MAX_SPACE && !free; i++)
		if (!s->space[i].used)
			free = &s->space[i];
	if (!free) {
		free = space_oldest(s, false);
		space_free(s, free);
		s->st.recycled++;
	}
	*free = (struct space){
		.used = true, .root = root, .windows = -1, .epoch = ++s->epoch};
	s->st.spaces++;
	return free;
}

gva_t shadow_gva(const struct shadow *s, uint64_t hva)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;

	return wi ? s->win[wi].gbase + (hva & SLOT_MASK) : 0;
}

uint64_t shadow_space_epoch(const struct shadow *s)
{
	return s->cur && s->cur->root == root_of(s->v) ? s->cur->epoch : 0;
}

void shadow_new_epoch(struct shadow *s)
{
	if (s->cur)
		s->cur->epoch = ++s->epoch;
}

void shadow_reset(struct shadow *s)
{
	for (int i = 1; i <= MAX_WIN; i++)
		if (s->win[i].used)
			window_free(s, i);
	for (int i = 0; i < MAX_SPACE; i++)
		s->space[i].used = false;
	s->cur = NULL;
	s->epoch++;
}
