/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions of 2 MiB: what they consist of, and promotion.
 *
 * The host's part is MADV_COLLAPSE on the p2m's own mapping, which is aligned
 * so that address and file offset agree modulo 2 MiB. It works on a memfd
 * whatever /sys/kernel/mm/transparent_hugepage/shmem_enabled says, wants at
 * least one page to be there, and fills holes with zeroes. Where that setting
 * lets an madvised mapping have large pages ("advise", or more), an empty
 * region gets its page by a fault instead, with nothing to copy.
 *
 * Books. For each region the number of its pages that are PRIVATE, that are
 * elsewhere (SHARED and below) and that hold code, kept by p2m_region_change
 * from every change of an entry and recounted by the audit.
 *
 * Demotion is passive. When a page of a large region stops being PRIVATE the
 * flag goes, in p2m_set_ent, before anybody punches its block. Punching part
 * of a large page has the kernel split it into 512 small ones; it cannot while
 * somebody else holds a reference (a per-CPU list, for an instant), and then
 * clears the bytes, keeps the block and reports success. p2m_punch looks, in
 * regions that were large once, and tries again.
 *
 * A collapse runs beside the owner thread, which may meanwhile share pages of
 * the region and punch them; collapsing then fills the holes again. So finish
 * looks at the region as it is then, and punches what should not be there.
 * A process killed in between leaves nothing: the file dies with it.
 */
#include "mm/p2m_large.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/p2m_priv.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int p2m_region_init(struct p2m *p)
{
	void *m;

	p->region_bytes = p2m_regions(p) * sizeof(*p->region);
	m = mmap(NULL, p->region_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m == MAP_FAILED)
		return -errno;
	p->region = m;
	return 0;
}

static bool state_away(enum p2m_state s)
{
	return s != P2M_PRIVATE && s != P2M_ZERO;
}

static void demote(struct p2m *p, struct p2m_region *g)
{
	g->large = 0;
	p->n_large--;
	control_set(&p->ctl->large_regions, p->n_large);
	control_add(&p->ctl->large_demoted, 1);
}

void p2m_region_change(struct p2m *p, ppn_t ppn, uint32_t old, uint32_t e)
{
	struct p2m_region *g = p2m_region_of(p, ppn);
	enum p2m_state a = ent_state(old), b = ent_state(e);

	g->priv += (b == P2M_PRIVATE) - (a == P2M_PRIVATE);
	g->away += state_away(b) - state_away(a);
	g->code += !!(e & ENT_CODE) - !!(old & ENT_CODE);
	if (g->large && g->priv < P2M_REGION_PAGES)
		demote(p, g);
	if (b == P2M_PRIVATE && a != b && g->priv == P2M_REGION_PAGES) {
		g->filled = 1;
		__atomic_store_n(&p->fills, true, __ATOMIC_RELAXED);
	}
}

/* ---- questions ---- */

uint64_t p2m_regions(const struct p2m *p)
{
	return (p->max_ppn + P2M_REGION_PAGES - 1) / P2M_REGION_PAGES;
}

static ppn_t first_page(uint64_t region)
{
	return (ppn_t){region * P2M_REGION_PAGES};
}

static bool all_ram(const struct p2m *p, uint64_t region)
{
	ppn_t a = first_page(region);

	/* RAM is two ranges, so the ends tell, if they are in the same one */
	return p2m_is_ram(p, a) &&
	       p2m_is_ram(p, (ppn_t){a.n + P2M_REGION_PAGES - 1});
}

void p2m_region_look(const struct p2m *p, uint64_t region,
		     struct p2m_region_info *i)
{
	const struct p2m_region *g = &p->region[region];

	i->ram = all_ram(p, region);
	i->large = g->large;
	i->touched = g->touched;
	i->hinted = g->hinted;
	i->filled = g->filled;
	i->askew = g->askew;
	i->priv = g->priv;
	i->away = g->away;
	i->code = g->code;
}

void p2m_region_take(struct p2m *p, uint64_t region, struct p2m_region_info *i)
{
	p2m_region_look(p, region, i);
	p->region[region].touched = p->region[region].hinted = 0;
	p->region[region].filled = p->region[region].askew = 0;
}

void p2m_region_place(struct p2m *p, ppn_t ppn, bool askew)
{
	struct p2m_region *g = p2m_region_of(p, ppn);

	g->askew = askew && (g->askew || !g->touched);
}

bool p2m_has_room(const struct p2m *p, uint64_t bytes)
{
	uint64_t quota = p2m_quota(p);

	return !quota || p2m_resident(p) + bytes <= quota - quota / 8;
}

bool p2m_is_large(const struct p2m *p, ppn_t ppn)
{
	return p2m_is_ram(p, ppn) && p2m_region_of(p, ppn)->large;
}

bool p2m_region_has_code(const struct p2m *p, ppn_t ppn)
{
	return p2m_is_ram(p, ppn) && p2m_region_of(p, ppn)->code;
}

void p2m_region_hint(struct p2m *p, ppn_t ppn)
{
	if (!p2m_is_ram(p, ppn))
		return;
	p2m_region_of(p, ppn)->hinted = 1;
	__atomic_store_n(&p->hints, true, __ATOMIC_RELAXED);
}

bool p2m_hints(const struct p2m *p)
{
	return __atomic_load_n(&p->hints, __ATOMIC_RELAXED);
}

bool p2m_fills(const struct p2m *p)
{
	return __atomic_load_n(&p->fills, __ATOMIC_RELAXED);
}

void p2m_clear_hints(struct p2m *p)
{
	__atomic_store_n(&p->fills, false, __ATOMIC_RELAXED);
	__atomic_store_n(&p->hints, false, __ATOMIC_RELAXED);
}

bool p2m_region_populated(const struct p2m *p, uint64_t region)
{
	off_t at = first_page(region).n << PAGE_SHIFT;
	off_t hole = lseek(p->memfd, at, SEEK_HOLE);

	return hole >= at + (off_t)LARGE_PAGE_SIZE;
}

uint64_t p2m_large_regions(const struct p2m *p)
{
	return p->n_large;
}

/* Pages marked idle (p2m_reclaim.h) have to be seen when they are used. */
static bool any_idle(const struct p2m *p, ppn_t first)
{
	uint64_t any = 0;

	for (unsigned i = 0; i < P2M_REGION_PAGES / 64; i++)
		any |= p->idle[first.n / 64 + i];
	return any;
}

unsigned p2m_region_access(struct p2m *p, ppn_t ppn, bool *prepare)
{
	ppn_t a = first_page(ppn.n / P2M_REGION_PAGES);
	struct p2m_region *g;
	struct p2m_backing b;

	*prepare = false;
	if (!p2m_is_large(p, ppn))
		return 0;
	if (any_idle(p, a))
		return 0;
	g = p2m_region_of(p, ppn);
	if (g->code)
		return 1;
	*prepare = p2m_get_backing(p, a, P2M_REGION_PAGES, &b) ||
		   b.run < P2M_REGION_PAGES || !b.writable;
	return 3;
}

/* ---- promotion ---- */

void p2m_region_prepare(struct p2m *p, uint64_t region)
{
	ppn_t a = first_page(region), next = first_page(region + 1);

	/* Linux does not collapse a region with holes while a mapping of it, or
	 * of the page after it, has to be told of missing pages (as those of
	 * vmm/mmu/shadow_carpet.c have). */
	p2m_call_drop_range(p, a, P2M_REGION_PAGES);
	if (p2m_is_ram(p, next) && !p2m_is_large(p, next))
		p2m_call_drop(p, next);
	for (uint64_t n = a.n; n < a.n + P2M_REGION_PAGES; n++)
		if (ent_state(p->ent[n]) == P2M_ZERO)
			p2m_zero_to_private(p, (ppn_t){n});
}

int p2m_region_collapse(const struct p2m *p, uint64_t region, uint64_t n)
{
	uint8_t *at = p->base + (first_page(region).n << PAGE_SHIFT);

	/* Nothing to collapse where nothing is: a read brings one page (or all
	 * of them, if this mapping may have large ones by itself). */
	for (uint64_t i = 0; i < n; i++)
		(void)*(volatile uint8_t *)(at + i * LARGE_PAGE_SIZE);
	return madvise(at, n * LARGE_PAGE_SIZE, MADV_COLLAPSE) ? -errno : 0;
}

static void punch_strangers(struct p2m *p, uint64_t region)
{
	ppn_t a = first_page(region);

	for (uint64_t n = a.n; n < a.n + P2M_REGION_PAGES; n++)
		if (ent_state(p->ent[n]) != P2M_PRIVATE)
			p2m_punch(p, (ppn_t){n}, 1);
}

bool p2m_region_finish(struct p2m *p, uint64_t region, bool collapsed)
{
	struct p2m_region *g = &p->region[region];

	/* The first page was touched in any case. */
	g->was_large = g->was_large || collapsed;
	if (g->priv < P2M_REGION_PAGES) {
		punch_strangers(p, region);
		return false;
	}
	if (!collapsed || g->large)
		return g->large;
	g->large = 1;
	p->n_large++;
	control_set(&p->ctl->large_regions, p->n_large);
	control_add(&p->ctl->large_promoted, 1);
	/* They come back as one mapping each. */
	p2m_call_drop_range(p, first_page(region), P2M_REGION_PAGES);
	return true;
}

void p2m_region_sample(struct p2m *p, ppn_t ppn)
{
	p2m_call_drop(p, ppn);
}
