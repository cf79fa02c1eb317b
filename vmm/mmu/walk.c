/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest page-table walk (SDM vol. 3, 4.3 to 4.8).
 *
 * One loop serves the three paging modes. A mode is a small table: how many
 * levels, how wide an index and an entry are, where the index of each level
 * starts. The loop gathers rights (AND of W and U, OR of NX) and remembers
 * each entry that it used; rights are judged once at the leaf, and only when
 * the access is allowed are accessed and dirty bits set, bottom entry last.
 * (Hardware may set A bits of a walk that then faults; it need not.)
 *
 * Entries are read through p2m_read and changed through p2m_write, so that a
 * shared frame is broken and a code page is noticed. A change is one locked
 * OR: nothing else of the entry is written back, so that a device or a
 * second vCPU that changes it at the same time loses nothing. Page tables
 * outside of RAM read as all ones, as an empty bus does: present, with
 * reserved bits set.
 *
 * In lockstep the log of writes not yet done (v->mem_log) lies over memory, and
 * accessed and dirty bits are such writes too.
 *
 * Limits: PDPTEs of PAE paging are read at each walk rather than when CR3 is
 * loaded (as AMD does); a bad one answers a reserved-bit fault then. No
 * protection keys, SMAP or 5 levels: CPUID does not offer them.
 *
 * Runs inside bt's fault handler: no locks, no malloc.
 */
#include "vmm/mmu/walk.h"

#include <string.h>

#include "mm/p2m.h"
#include "vmm/mmu/mem.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define RSVD_PHYS (PTE_ADDR & ~((1ull << MMU_PHYS_BITS) - 1))

struct mode {
	uint8_t levels;	    /* of tables */
	uint8_t entry_size; /* bytes */
	uint8_t index_bits;
	uint64_t root_mask; /* of CR3 */
	uint8_t shift[4];   /* lowest bit of the index, top level first */
	uint8_t large;	    /* bit n: level n (0 = top) may be a leaf by PS */
};

enum { MODE_32, MODE_PAE, MODE_4LEVEL };
static const struct mode modes[] = {
	[MODE_32] = {2, 4, 10, 0xfffff000, {22, 12}, 1 << 0},
	[MODE_PAE] = {3, 8, 9, 0xffffffe0, {30, 21, 12}, 1 << 1},
	[MODE_4LEVEL] = {4, 8, 9, CR3_ADDR, {39, 30, 21, 12}, 3 << 1},
};

/* What a walk has met so far. */
struct trail {
	gpa_t at[4];
	uint64_t entry[4];
	unsigned n;
};

static unsigned walk_mode(const struct vcpu *v)
{
	if (!(v->cr4 & CR4_PAE))
		return MODE_32;
	return v->in_long_mode ? MODE_4LEVEL : MODE_PAE;
}

static uint64_t read_entry(struct vcpu *v, gpa_t at, unsigned size)
{
	const uint8_t *page = p2m_read(v->vm->p2m, gpa_to_ppn(at));
	uint64_t e = ~0ull;

	if (page)
		page += at & (PAGE_SIZE - 1);
	if (size == 8) {
		if (page)
			e = __atomic_load_n((const uint64_t *)page,
					    __ATOMIC_RELAXED);
	} else {
		e = UINT32_MAX;
		if (page)
			e = __atomic_load_n((const uint32_t *)page,
					    __ATOMIC_RELAXED);
	}
	if (unlikely(v->mem_log && v->mem_log->n))
		mem_log_overlay(v->mem_log, at, &e, size);
	return e;
}

static void or_entry(struct vcpu *v, gpa_t at, unsigned size, uint32_t bits)
{
	unsigned off = at & (PAGE_SIZE - 1);
	uint8_t *page;

	if (unlikely(v->used_log)) {
		if (v->used_log->n < USED_LOG_MAX)
			v->used_log->at[v->used_log->n] = at;
		v->used_log->n++;
	}
	if (unlikely(v->mem_log)) {
		uint64_t e = read_entry(v, at, size) | bits;

		mem_log_write(v->mem_log, at, &e, size);
		return;
	}
	page = p2m_write(v->vm->p2m, gpa_to_ppn(at), off, size);

	/* A and D are in the low half in every format. */
	if (page)
		__atomic_fetch_or((uint32_t *)(page + off), bits,
				  __ATOMIC_RELAXED);
}

/* Reserved bits of a present entry at a level (vol. 3, tables 4-4 to 4-20). */
static uint64_t reserved_bits(const struct vcpu *v, unsigned mode,
			      unsigned level, bool leaf_large)
{
	uint64_t r = 0;

	if (mode == MODE_32)
		/* PSE-36 with 40 bits: 20..13 are address bits 39..32 */
		return leaf_large ? 1ull << 21 : 0;
	if (!(v->efer & EFER_NXE))
		r |= PTE_NX;
	if (mode == MODE_PAE) {
		r |= 0x7ff0000000000000ull; /* 62..52 */
		if (level == 0)
			return r | RSVD_PHYS | PTE_NX | 0x1e6;
	} else if (level == 0) {
		r |= PTE_PS;
	}
	r |= RSVD_PHYS;
	if (leaf_large) {
		uint64_t size = 1ull << modes[mode].shift[level];

		r |= (size - 1) & ~0x1fffull; /* bit 12 is PAT */
	}
	return r;
}

static gpa_t large_base(unsigned mode, uint64_t e, unsigned shift)
{
	if (mode == MODE_32)
		return (e & 0xffc00000) | (e >> 13 & 0xff) << 32;
	return e & PTE_ADDR & ~((1ull << shift) - 1);
}

static uint32_t fault(const struct vcpu *v, unsigned access, uint32_t why)
{
	uint32_t err = why | WALK_FAULT;

	if (access & WALK_WRITE)
		err |= PF_W;
	if (access & WALK_USER)
		err |= PF_U;
	if ((access & WALK_EXEC) &&
	    ((v->cr4 & CR4_SMEP) ||
	     ((v->cr4 & CR4_PAE) && (v->efer & EFER_NXE))))
		err |= PF_I;
	return err;
}

static bool allowed(const struct vcpu *v, unsigned access, const struct walk *w)
{
	if (access & WALK_USER) {
		if (!w->user)
			return false;
		if ((access & WALK_WRITE) && !w->writable)
			return false;
	} else {
		if ((access & WALK_WRITE) && !w->writable && (v->cr0 & CR0_WP))
			return false;
		if ((access & WALK_EXEC) && w->user && (v->cr4 & CR4_SMEP))
			return false;
	}
	return !((access & WALK_EXEC) && w->nx);
}

/* Set A on the way down and D at the leaf where they are missing. */
static void mark_used(struct vcpu *v, unsigned mode, const struct trail *t,
		      unsigned access)
{
	unsigned size = modes[mode].entry_size;
	/* PDPTEs of PAE paging have no accessed bit */
	unsigned first = mode == MODE_PAE ? 1 : 0;

	for (unsigned i = first; i < t->n; i++) {
		uint32_t want = PTE_A;

		if (i == t->n - 1 && (access & WALK_WRITE))
			want |= PTE_D;
		if ((t->entry[i] & want) != want)
			or_entry(v, t->at[i], size, want);
	}
}

static uint32_t walk_none(gva_t gva, struct walk *w)
{
	*w = (struct walk){.gpa = gva,
			   .writable = true,
			   .user = true,
			   .dirty = true,
			   .accessed = true,
			   .leaf_gpa = ~0ull};
	return 0;
}

static void fill_leaf(const struct vcpu *v, unsigned mode, gva_t gva,
		      unsigned shift, uint64_t e, gpa_t at, struct walk *w)
{
	gpa_t base = shift > 12 ? large_base(mode, e, shift) : e & PTE_ADDR;

	w->gpa = base | (gva & ((1ull << shift) - 1));
	w->page_shift = shift;
	w->global = (e & PTE_G) && (v->cr4 & CR4_PGE);
	w->dirty = e & PTE_D;
	w->accessed = e & PTE_A;
	w->leaf_gpa = at;
}

uint32_t mmu_walk_root(struct vcpu *v, gpa_t root, gva_t gva, unsigned access,
		       struct walk *w)
{
	unsigned mode = walk_mode(v), shift;
	const struct mode *m = &modes[mode];
	gpa_t table = root & m->root_mask;
	struct trail t = {.n = 0};
	uint64_t e;
	bool leaf;

	if (!(v->cr0 & CR0_PG))
		return walk_none(gva, w);
	*w = (struct walk){.writable = true, .user = true};
	do {
		unsigned level = t.n;
		uint64_t idx;
		bool large;

		shift = m->shift[level];
		idx = gva >> shift & ((1u << m->index_bits) - 1);
		if (mode == MODE_PAE && level == 0)
			idx &= 3;
		t.at[level] = table + idx * m->entry_size;
		t.entry[level] = e = read_entry(v, t.at[level], m->entry_size);
		t.n++;
		if (!(e & PTE_P))
			return fault(v, access, 0);
		large = (e & PTE_PS) && (m->large >> level & 1) &&
			(mode != MODE_32 || (v->cr4 & CR4_PSE));
		if (e & reserved_bits(v, mode, level, large))
			return fault(v, access, PF_P | PF_RSVD);
		/* PAE PDPTEs carry no rights */
		if (mode != MODE_PAE || level) {
			w->writable &= !!(e & PTE_W);
			w->user &= !!(e & PTE_U);
			w->nx |= mode != MODE_32 && (e & PTE_NX);
		}
		table = e & PTE_ADDR;
		leaf = large || t.n == m->levels;
	} while (!leaf);

	fill_leaf(v, mode, gva, shift, e, t.at[t.n - 1], w);
	if (access & WALK_PROBE)
		return 0;
	if (!allowed(v, access, w))
		return fault(v, access, PF_P);
	mark_used(v, mode, &t, access);
	w->accessed = true;
	if (access & WALK_WRITE)
		w->dirty = true;
	return 0;
}

/* The upper levels are those of the leaf less the leaf entry's own rights: read
 * them once more, without it. */
static void learn(struct vcpu *v, gva_t gva, const struct walk *w,
		  struct walk_hint *h)
{
	const struct mode *m = &modes[MODE_4LEVEL];
	gpa_t table = v->cr3 & m->root_mask;

	*h = (struct walk_hint){
		.region = gva >> 21, .writable = true, .user = true};
	for (unsigned level = 0; level < 3; level++) {
		uint64_t e = read_entry(
			v, table + (gva >> m->shift[level] & 511) * 8, 8);

		h->writable &= !!(e & PTE_W);
		h->user &= !!(e & PTE_U);
		h->nx |= !!(e & PTE_NX);
		table = e & PTE_ADDR;
	}
	if (table == (w->leaf_gpa & PAGE_MASK))
		h->table = table;
}

uint32_t mmu_probe(struct vcpu *v, gva_t gva, struct walk_hint *h,
		   struct walk *w)
{
	uint32_t err;
	uint64_t e;
	gpa_t at;

	if (!h->table || h->region != gva >> 21) {
		err = mmu_walk(v, gva, WALK_PROBE, w);
		h->table = 0;
		if (!err && (v->cr0 & CR0_PG) && w->page_shift == PAGE_SHIFT &&
		    walk_mode(v) == MODE_4LEVEL)
			learn(v, gva, w, h);
		return err;
	}
	at = h->table + (gva >> PAGE_SHIFT & 511) * 8;
	e = read_entry(v, at, 8);
	if (!(e & PTE_P))
		return fault(v, WALK_PROBE, 0);
	if (e & reserved_bits(v, MODE_4LEVEL, 3, false))
		return fault(v, WALK_PROBE, PF_P | PF_RSVD);
	w->writable = h->writable && (e & PTE_W);
	w->user = h->user && (e & PTE_U);
	w->nx = h->nx || (e & PTE_NX);
	fill_leaf(v, MODE_4LEVEL, gva, PAGE_SHIFT, e, at, w);
	return 0;
}

uint32_t mmu_walk(struct vcpu *v, gva_t gva, unsigned access, struct walk *w)
{
	return mmu_walk_root(v, v->cr3, gva, access, w);
}
