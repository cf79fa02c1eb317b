/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MMU_SHADOW_PRIV_H
#define SARDINE_VMM_MMU_SHADOW_PRIV_H
/*
 * Inside the shadow, for vmm/mmu/shadow*.c alone. The essay is in shadow.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "vmm/mmu/shadow.h"
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
#define RUN_BEFORE 16

/* N_LARGE, N_HUGE: the guest maps it with a page of 2 MiB, 1 GiB. N_BIG: the
 * node is for 512 pages and not for one. */
enum {
	N_W = 1,
	N_USER = 2,
	N_LOOSE = 4,
	N_LARGE = 8,
	N_HUGE = 16,
	N_BIG = 32,
};
#define BIG_PAGES 512u
#define BIG_MASK  (BIG_PAGES - 1)
struct node {
	uint32_t hnext, rnext; /* same hash; same PPN */
	uint32_t wnext, wprev; /* same window */
	uint32_t vpn;	       /* page within the window */
	uint32_t ppn;
	uint8_t win, flags;
};

#define CARPET_PAGES 64u
#define CARPET_BITS  11
/* The carpet in a block of 64 pages of a window (shadow_carpet.c). */
struct carpet {
	uint64_t here;	/* bit k: page k lies in it; 0: there is none */
	uint32_t block; /* vpn / 64 */
	uint32_t ppn;	/* of the block's first page, if it reached so far */
	uint8_t win;
};

struct space;
struct window {
	struct space *sp; /* NULL: kernel half */
	bool used, super;
	uint16_t gslot, hslot;
	uint64_t hbase, gbase;
	uint32_t head[2]; /* nodes; [1] those that are N_LOOSE */
	uint32_t n, n_loose, n_large, n_huge, n_big, n_carpets;
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
	uint32_t *rmap;	    /* by PPN */
	uint32_t *rmap_big; /* N_BIG ones, by PPN / 512 */
	uint8_t *splits;    /* by PPN / 512: see shadow_large.c */
	uint32_t join_clock;
	uint64_t fresh_ppn; /* of the last first write in a large page */
	unsigned fresh_n;   /* in a row, one after the other */
	bool fresh_down;
	unsigned user_large;
	int uffd; /* or -1 */
	unsigned n_lost;
	uint64_t lost_at; /* host page: this often in a row */
	struct carpet carpet[1 << CARPET_BITS];
	uint32_t *hash;
	uint64_t clock, epoch, vmas, vma_limit;
	gva_t fault_gva; /* of the last SHADOW_PF */
	uint32_t fault_err;
	struct shadow_stats st;
	struct stat_group stat_group;
};

/* ---- shadow_node.c: the books ---- */

static inline uint32_t *node_bucket(const struct shadow *s, unsigned win,
				    uint32_t vpn)
{
	uint32_t h = (vpn + win * 0x1000193u) * 0x9e3779b1u;

	return &s->hash[h >> (32 - HASH_BITS)];
}

static inline uint32_t node_find(const struct shadow *s, unsigned win,
				 uint32_t vpn)
{
	uint32_t i = *node_bucket(s, win, vpn);

	while (i && (s->node[i].vpn != vpn || s->node[i].win != win))
		i = s->node[i].hnext;
	return i;
}

/* The node that covers the page, big or not. */
static inline uint32_t node_at(const struct shadow *s, unsigned win,
			       uint32_t vpn)
{
	uint32_t i = node_find(s, win, vpn);

	if (i || !s->win[win].n_big)
		return i;
	i = node_find(s, win, vpn & ~BIG_MASK);
	return i && s->node[i].flags & N_BIG ? i : 0;
}

/* The nodes of a window in turn, the loose ones first. */
static inline uint32_t node_first(const struct window *w)
{
	return w->head[1] ? w->head[1] : w->head[0];
}
static inline uint32_t node_after(const struct shadow *s,
				  const struct window *w, uint32_t i)
{
	if (s->node[i].wnext || !(s->node[i].flags & N_LOOSE))
		return s->node[i].wnext;
	return w->head[0];
}

static inline uint64_t node_pages(const struct node *n)
{
	return n->flags & N_BIG ? BIG_PAGES : 1;
}

/* N_LARGE, N_HUGE or neither, by the guest's page. */
static inline uint8_t large_flag(const struct walk *w)
{
	if (w->page_shift >= 30)
		return N_HUGE;
	return w->page_shift >= LARGE_PAGE_SHIFT ? N_LARGE : 0;
}

/* Room for n more nodes? */
static inline bool node_room(struct shadow *s, unsigned n)
{
	return s->max_node - s->n_node > n;
}

static inline void *node_hva(const struct shadow *s, const struct node *n)
{
	return (void *)(s->win[n->win].hbase +
			((uint64_t)n->vpn << PAGE_SHIFT));
}

void node_add(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn,
	      uint8_t flags);
/* Takes it out of the books; the mapping is the caller's affair. */
void node_del(struct shadow *s, uint32_t i);
void node_unmap(struct shadow *s, uint32_t i);
/* The mapping of n pages alone: their nodes are gone or go. */
void range_unmap(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n);
enum node_state {
	NODE_GONE,
	NODE_SAME,
	NODE_READ_ONLY, /* the same page, but no longer to be written freely */
	NODE_MIXED,	/* a big one: the page tables no longer say one thing */
};
/* What do the page tables say of a mapped page now? */
enum node_state node_judge(struct shadow *s, const struct node *n);
/* Without VMAs to split for it the page is unmapped. */
void node_set_readonly(struct shadow *s, uint32_t i);
/* n single pages that have nodes, neighbours: unmapped, made read-only, as one. */
void run_drop(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n);
void run_set_readonly(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n);
/* VMAs have run out: everything goes. */
void drop_for_vmas(struct shadow *s);
/* The estimate says that they nearly have: they are counted, and everything
 * goes if that is so. */
void spare_vmas(struct shadow *s);

/* ---- shadow_large.c: 2 MiB at once ---- */

/* One node becomes 512, as what is mapped stays; or, for want of nodes, it is
 * unmapped. again: it would be no surprise to see it whole again soon. */
void node_split(struct shadow *s, uint32_t i, bool again);
/* The page at gva, whose walk is w, faulted: map the 2 MiB around it if that
 * can be. False: it cannot, and nothing big covers the page any more. */
bool fill_big(struct shadow *s, int wi, gva_t gva, const struct walk *w,
	      bool write, uint8_t flags);
/* Do the page tables that w is a walk of map the 2 MiB around gva as one? */
bool big_translation(struct shadow *s, gva_t gva, const struct walk *w);

/* ---- shadow_carpet.c: stretches laid ahead ---- */

/* Looks for userfaultfd; without it nothing is ever laid. */
void carpet_init(struct shadow *s);
/* When no window has anything mapped. */
void carpet_fini(struct shadow *s);
/* The n pages from vpn on, all of a window: they are, or will be, mapped in
 * another way, or unmapped. */
void carpet_cut(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n);
void carpet_cut_window(struct shadow *s, unsigned win);
/* Does the page lie in one? */
bool carpet_has(struct shadow *s, unsigned win, uint32_t vpn);
/* None is to be over these pages of memory, opened or not: for large ranges, of
 * which no page is mapped. */
void carpet_drop_range(struct shadow *s, uint64_t ppn, uint64_t n);
/* Pages from vpn on, none of them mapped, to be mapped writable from ppn on: how
 * many of n were mapped by a carpet that is there? */
unsigned carpet_open(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn,
		     unsigned n);
/* Lay one from page vpn on, if that is promising. May drop everything. */
bool carpet_lay(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn);

/* ---- shadow_fast.c ---- */

/* Windows of the running space that are for gslot: normal and super, or 0. */
void find_windows(struct shadow *s, unsigned gslot, int *normal, int *super);
/* The views of one user-half slot follow from the windows it has. */
void update_slot(struct shadow *s, unsigned gslot);
/* The entry of any slot in the table of a view (0: CPL 0); and the one that leads into
 * the void. */
void set_delta(struct shadow *s, unsigned view, unsigned gslot, uint64_t delta);
uint64_t void_delta(const struct shadow *s, unsigned gslot);
/* The space of this root, or NULL. */
struct space *space_of(const struct shadow *s, gpa_t root);
/* sp runs, no longer old (NULL, or perhaps freed): its windows are seen. */
void space_switch(struct shadow *s, struct space *old, struct space *sp);

static inline uint64_t slot_gbase(unsigned gslot)
{
	uint64_t a = (uint64_t)gslot << SLOT_SHIFT;

	return gslot < 256 ? a : a | 0xffffull << 48;
}

/* ---- shadow.c: windows and spaces ---- */

/* Forget every page of a window. */
void window_clear(struct shadow *s, int wi);
/* The space of this root; a new one, with nothing in it, if there is none. */
struct space *space_find(struct shadow *s, gpa_t root);
void shadow_tables_init(struct shadow *s);

static inline gpa_t root_of(const struct vcpu *v)
{
	return v->cr3 & CR3_ADDR;
}
static inline uint16_t pcid_of(const struct vcpu *v)
{
	return v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID : 0;
}
#endif
