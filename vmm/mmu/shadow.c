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
 *   - INVLPG and its kin drop entries; MOV CR3 and the wider flushes
 *     *revalidate*: every page now mapped is walked again and dropped if its
 *     translation has become another, or less;
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
 * Limits: VMAs. Each scattered page is one; when the estimate nears the
 * kernel's limit everything is dropped and comes back by faults.
 *
 * One thread. shadow_fill may run in the signal handler, on top of translated
 * code only. A killed process leaves nothing.
 */
#include "vmm/mmu/shadow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/base/log.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define SLOT_SHIFT 39
#define SLOT_SIZE  (1ull << SLOT_SHIFT)
#define SLOT_MASK  (SLOT_SIZE - 1)
#define HOST_SLOTS 256
#define MAX_WIN	   128
#define MAX_SPACE  64
#define HASH_BITS  14
#define RUN_READ   64
#define RUN_WRITE  16

enum { N_W = 1, N_USER = 2, N_LOOSE = 4, N_LARGE = 8, N_HUGE = 16 };
struct node {
	uint32_t hnext, rnext; /* same hash; same PPN */
	uint32_t wnext, wprev; /* same window */
	uint32_t vpn;	       /* page within the window */
	uint32_t ppn;
	uint8_t win, flags;
};

struct space;
struct window {
	struct space *sp; /* NULL: kernel half */
	bool used, super;
	uint16_t gslot, hslot;
	uint64_t hbase, gbase;
	uint32_t head; /* nodes */
	uint32_t n, n_loose, n_large, n_huge;
	uint64_t born;
	int next; /* of the space; -1 ends */
};
struct space {
	bool used, stale;
	uint16_t pcid;
	gpa_t root;
	uint64_t epoch, lru;
	int windows; /* list, -1 ends */
};

#define SHADOW_FIELD(S, n, h) uint64_t n;
struct shadow_stats {
	SHADOW_STATS(SHADOW_FIELD, )
};

struct shadow {
	struct vcpu *v;
	struct p2m *p;
	struct shadow_tables t;
	struct window win[MAX_WIN + 1]; /* 0 is no window */
	uint8_t host_win[HOST_SLOTS];	/* window in this host slot, or 0 */
	uint16_t free_slot[HOST_SLOTS];
	unsigned n_free;
	uint64_t void_base;
	struct space space[MAX_SPACE];
	struct space *cur;
	uint8_t kern_win[512];
	uint32_t n_loose; /* in kernel windows */
	struct node *node;
	uint32_t n_node, max_node, free_node;
	uint32_t *rmap; /* by PPN */
	uint32_t *hash;
	uint64_t clock, epoch, vmas, vma_limit;
	struct shadow_stats st;
	struct stat_group stat_group;
};

static const struct stat_desc shadow_stat_desc[] = {
#define DESC(S, n, h) {#n, h, offsetof(struct shadow_stats, n)},
	SHADOW_STATS(DESC, )
#undef DESC
};

/* ---- nodes ---- */

static uint32_t *node_bucket(struct shadow *s, unsigned win, uint32_t vpn)
{
	uint32_t h = (vpn + win * 0x1000193u) * 0x9e3779b1u;

	return &s->hash[h >> (32 - HASH_BITS)];
}

static uint32_t node_find(struct shadow *s, unsigned win, uint32_t vpn)
{
	uint32_t i = *node_bucket(s, win, vpn);

	while (i && (s->node[i].vpn != vpn || s->node[i].win != win))
		i = s->node[i].hnext;
	return i;
}

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
}

/* Room for n more nodes? */
static bool node_room(struct shadow *s, unsigned n)
{
	return s->max_node - s->n_node > n;
}

static void node_add(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn,
		     uint8_t flags)
{
	struct window *w = &s->win[win];
	uint32_t i = s->free_node, *b = node_bucket(s, win, vpn);
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
	n->rnext = s->rmap[ppn];
	s->rmap[ppn] = i;
	n->wprev = 0;
	n->wnext = w->head;
	if (w->head)
		s->node[w->head].wprev = i;
	w->head = i;
	count_flags(s, w, flags, 1);
}

static void node_del(struct shadow *s, uint32_t i)
{
	struct node *n = &s->node[i];
	struct window *w = &s->win[n->win];
	uint32_t *p;

	for (p = node_bucket(s, n->win, n->vpn); *p != i;
	     p = &s->node[*p].hnext)
		;
	*p = n->hnext;
	for (p = &s->rmap[n->ppn]; *p != i; p = &s->node[*p].rnext)
		;
	*p = n->rnext;
	if (n->wprev)
		s->node[n->wprev].wnext = n->wnext;
	else
		w->head = n->wnext;
	if (n->wnext)
		s->node[n->wnext].wprev = n->wprev;
	count_flags(s, w, n->flags, -1);
	n->hnext = s->free_node;
	s->free_node = i;
}

static void *node_hva(const struct shadow *s, const struct node *n)
{
	return (void *)(s->win[n->win].hbase +
			((uint64_t)n->vpn << PAGE_SHIFT));
}

static void node_unmap(struct shadow *s, uint32_t i)
{
	/* It may split a VMA, and there may be no VMA left. The whole window
	 * needs none; the nodes of its other pages go at the next fill. */
	if (munmap(node_hva(s, &s->node[i]), PAGE_SIZE)) {
		munmap((void *)s->win[s->node[i].win].hbase, SLOT_SIZE);
		s->vmas = s->vma_limit;
	}
	node_del(s, i);
	s->vmas++;
	s->st.unmaps++;
}

/* ---- tables ---- */

static void set_delta(struct shadow *s, unsigned view, unsigned gslot,
		      uint64_t delta)
{
	(gslot < 256 ? s->t.lo : s->t.hi)[view][gslot] = delta;
}

static uint64_t slot_gbase(unsigned gslot)
{
	uint64_t a = (uint64_t)gslot << SLOT_SHIFT;

	return gslot < 256 ? a : a | 0xffffull << 48;
}

static uint64_t void_delta(const struct shadow *s, unsigned gslot)
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

static void tables_init(struct shadow *s)
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
static void find_windows(struct shadow *s, unsigned gslot, int *normal,
			 int *super)
{
	*normal = *super = 0;
	for (int i = s->cur ? s->cur->windows : -1; i >= 0; i = s->win[i].next)
		if (s->win[i].gslot == gslot)
			*(s->win[i].super ? super : normal) = i;
}

/* The views of one user-half slot follow from the windows it has. */
static void update_slot(struct shadow *s, unsigned gslot)
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

/* ---- windows and spaces ---- */

/* Forget every page of a window. */
static void window_clear(struct shadow *s, int wi)
{
	struct window *w = &s->win[wi];

	if (!w->n)
		return;
	munmap((void *)w->hbase, SLOT_SIZE);
	while (w->head)
		node_del(s, w->head);
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

static void drop_for_vmas(struct shadow *s)
{
	s->st.flushes_vma++;
	shadow_drop_all(s);
}

/* ---- filling ---- */

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
		uint64_t mask = PTE_P | PTE_W | PTE_U | PTE_A | PTE_G | PTE_D;
		uint64_t first = pt[at];

		if (!(first & PTE_A))
			return 1;
		while (n < max && at + n < 512 &&
		       ((pt[at + n] ^ first) & mask) == 0 &&
		       (pt[at + n] & PTE_ADDR) ==
			       (first & PTE_ADDR) + n * PAGE_SIZE)
			n++;
	}
	return n;
}

static int map_run(struct shadow *s, uint64_t hva, unsigned n, bool write,
		   const struct p2m_backing *b, bool upgrade)
{
	int prot = PROT_READ | (write ? PROT_WRITE : 0);

	if (upgrade) {
		s->st.upgrades++;
		s->vmas += 2;
		return mprotect((void *)hva, n * PAGE_SIZE, prot) ? -errno : 0;
	}
	s->vmas++;
	if (mmap((void *)hva, n * PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
		 b->fd, b->offset) == MAP_FAILED)
		return -errno;
	return 0;
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
	unsigned n, i;
	uint8_t flags;
	bool upgrade;
	long got;

	if (!wi || (w->sp && w->sp != s->cur))
		return SHADOW_NOTOURS;
	gva = w->gbase + (hva & SLOT_MASK);
	if (mmu_walk(s->v, gva,
		     (write ? WALK_WRITE : 0) | (user ? WALK_USER : 0), &wk))
		return SHADOW_FAULT;
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
	if (s->vmas > s->vma_limit || !node_room(s, RUN_READ))
		drop_for_vmas(s);

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
	if (p2m_get_backing(s->p, ppn, n, &b))
		return SHADOW_MMIO;
	if (b.run < n)
		n = b.run;
	/* A read maps writable what may be written without telling anyone. */
	if (!write && b.writable && wk.writable && wk.dirty)
		write = true;
	if (old && !upgrade)
		node_unmap(s, old);
	if (map_run(s, hva & PAGE_MASK, n, write, &b, upgrade)) {
		drop_for_vmas(s);
		if (map_run(s, hva & PAGE_MASK, n, write, &b, false))
			return SHADOW_NOMEM;
		upgrade = false;
	}
	flags = (write ? N_W : 0) | (wk.user ? N_USER : 0) |
		(!wk.global ? N_LOOSE : 0) |
		(wk.page_shift >= 30   ? N_HUGE
		 : wk.page_shift >= 21 ? N_LARGE
				       : 0);
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

gva_t shadow_gva(const struct shadow *s, uint64_t hva)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;

	return wi ? s->win[wi].gbase + (hva & SLOT_MASK) : 0;
}

/* ---- flushing ---- */

enum node_state {
	NODE_GONE,
	NODE_SAME,
	NODE_READ_ONLY, /* the same page, but no longer to be written freely */
};

/* What do the page tables say of a mapped page now? */
static enum node_state node_judge(struct shadow *s, const struct node *n)
{
	const struct window *w = &s->win[n->win];
	gva_t gva = w->gbase + ((uint64_t)n->vpn << PAGE_SHIFT);
	struct walk wk;

	s->st.revalidated++;
	if (mmu_walk(s->v, gva, WALK_PROBE, &wk) ||
	    gpa_to_ppn(wk.gpa).n != n->ppn || !wk.accessed ||
	    (!wk.user && (n->flags & N_USER)) ||
	    (!w->super && w->sp && !wk.user) ||
	    wk.global != !(n->flags & N_LOOSE))
		return NODE_GONE;
	return (n->flags & N_W) && !(wk.writable && wk.dirty) ? NODE_READ_ONLY
							      : NODE_SAME;
}

/* After an exec or an exit nothing of a user window is valid: one munmap. */
static bool window_dead(struct shadow *s, int wi)
{
	uint32_t i;

	for (i = s->win[wi].head; i; i = s->node[i].wnext)
		if (node_judge(s, &s->node[i]) != NODE_GONE)
			return false;
	return true;
}

static void node_set_readonly(struct shadow *s, uint32_t i)
{
	struct node *n = &s->node[i];

	if (mprotect(node_hva(s, n), PAGE_SIZE, PROT_READ)) {
		node_unmap(s, i);
		return;
	}
	n->flags &= ~N_W;
	s->vmas += 2;
}

static void window_revalidate(struct shadow *s, int wi, bool loose_only)
{
	uint32_t i = s->win[wi].head, next;

	if (!loose_only && s->win[wi].n > 1 && window_dead(s, wi)) {
		window_clear(s, wi);
		return;
	}
	for (; i; i = next) {
		next = s->node[i].wnext;
		if (loose_only && !(s->node[i].flags & N_LOOSE))
			continue;
		switch (node_judge(s, &s->node[i])) {
		case NODE_GONE:
			node_unmap(s, i);
			break;
		case NODE_READ_ONLY:
			node_set_readonly(s, i);
			break;
		case NODE_SAME:
			break;
		}
	}
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

static gpa_t root_of(const struct vcpu *v)
{
	return v->cr3 & CR3_ADDR;
}
static uint16_t pcid_of(const struct vcpu *v)
{
	return v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID : 0;
}

static void flush_page_window(struct shadow *s, int wi, gva_t gva)
{
	struct window *w = &s->win[wi];
	uint32_t vpn = (gva & SLOT_MASK) >> PAGE_SHIFT, i, next;

	i = node_find(s, wi, vpn);
	if (i && !(s->node[i].flags & (N_LARGE | N_HUGE))) {
		node_unmap(s, i);
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
	for (i = w->head; i; i = next) {
		next = s->node[i].wnext;
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

void shadow_new_epoch(struct shadow *s)
{
	if (s->cur)
		s->cur->epoch = ++s->epoch;
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

static struct space *space_find(struct shadow *s, gpa_t root)
{
	struct space *free = NULL;

	for (int i = 0; i < MAX_SPACE; i++) {
		struct space *sp = &s->space[i];

		if (sp->used && sp->root == root)
			return sp;
		if (!sp->used && !free)
			free = sp;
	}
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

void shadow_cr3(struct shadow *s, bool noflush)
{
	struct space *old = s->cur, *sp;

	s->cur = NULL;
	sp = space_find(s, root_of(s->v));
	s->cur = sp;
	sp->lru = ++s->clock;
	if (sp != old) {
		if (old && old->used)
			for (int i = old->windows; i >= 0; i = s->win[i].next)
				update_slot(s, s->win[i].gslot);
		for (int i = sp->windows; i >= 0; i = s->win[i].next)
			update_slot(s, s->win[i].gslot);
	}
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

void shadow_drop_ppn(struct shadow *s, ppn_t ppn)
{
	while (s->rmap[ppn.n])
		node_unmap(s, s->rmap[ppn.n]);
	s->st.drops++;
}

void shadow_protect_ppn(struct shadow *s, ppn_t ppn)
{
	for (uint32_t i = s->rmap[ppn.n]; i; i = s->node[i].rnext) {
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

uint64_t shadow_space_epoch(const struct shadow *s)
{
	return s->cur ? s->cur->epoch : 0;
}

void shadow_enter(struct shadow *s)
{
	if ((s->v->cr0 & CR0_PG) && (!s->cur || s->cur->root != root_of(s->v)))
		shadow_cr3(s, false);
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

/* ---- set-up ---- */

/* Host slots with nothing in them and nothing beside them. The kernel places
 * new mappings below the lowest one at the top (and above the heap), so a slot
 * below a slot in use is not taken either. */
static int find_slots(struct shadow *s)
{
	bool busy[HOST_SLOTS + 1] = {0};
	char line[512];
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned k = 0;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx", &a, &b) != 2)
			continue;
		for (a >>= SLOT_SHIFT, b = (b - 1) >> SLOT_SHIFT; a <= b; a++)
			if (a < HOST_SLOTS)
				busy[a] = true;
	}
	fclose(f);
	busy[HOST_SLOTS - 1] = true;
	for (unsigned i = 1; i + 2 < HOST_SLOTS; i++) {
		if (busy[i - 1] || busy[i] || busy[i + 1] || busy[i + 2])
			continue;
		if (!s->void_base)
			s->void_base = (uint64_t)i << SLOT_SHIFT;
		else if (k < MAX_WIN)
			s->free_slot[k++] = i;
		i++;
	}
	s->n_free = k;
	return k >= 16 ? 0 : -ENOMEM;
}

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint64_t vma_limit(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
	unsigned long n = 65530;

	if (f) {
		if (fscanf(f, "%lu", &n) != 1)
			n = 65530;
		fclose(f);
	}
	return n / 4 * 3;
}

int shadow_create(struct vcpu *v, struct p2m *p, const struct shadow_tables *t,
		  struct shadow **out)
{
	struct shadow *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->v = v;
	s->p = p;
	s->t = *t;
	s->max_node = 4 * p2m_ram_bytes(p) / PAGE_SIZE + 65536;
	s->node = reserve(s->max_node * sizeof(*s->node));
	s->rmap = reserve(p2m_max_ppn(p) * sizeof(*s->rmap));
	s->hash = reserve(sizeof(*s->hash) << HASH_BITS);
	s->n_node = 1;
	s->vma_limit = vma_limit();
	err = s->node && s->rmap && s->hash ? find_slots(s) : -ENOMEM;
	if (err) {
		shadow_destroy(s);
		return err;
	}
	tables_init(s);
	*out = s;
	return 0;
}

void shadow_destroy(struct shadow *s)
{
	shadow_drop_all(s);
	if (s->node)
		munmap(s->node, s->max_node * sizeof(*s->node));
	if (s->rmap)
		munmap(s->rmap, p2m_max_ppn(s->p) * sizeof(*s->rmap));
	if (s->hash)
		munmap(s->hash, sizeof(*s->hash) << HASH_BITS);
	free(s);
}

void shadow_add_stats(struct shadow *s, struct vm *vm)
{
	s->stat_group =
		(struct stat_group){"shadow", shadow_stat_desc,
				    ARRAY_SIZE(shadow_stat_desc), &s->st, NULL};
	vm_add_stats(vm, &s->stat_group);
}
