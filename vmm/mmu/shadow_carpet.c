/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carpets: stretches of a window laid ahead of a run of faults.
 *
 * The problem. A program that touches fresh memory page after page has a guest
 * fault for each, and each page then cost an mmap (3 us) and a second host
 * fault (2 us). The guest's kernel gives such pages out in ascending order most
 * of the time (96% of the faults of a loop of mmap, touch, munmap), so what the
 * next page will be mapped from is known; but it may not be accessible before
 * the guest's entry is there.
 *
 * What is done. When a page that can be written continues the page before it,
 * in addresses and in the memfd, the rest of its block of 64 pages is mapped in
 * one piece at the place in the file where the run would go on, and registered
 * with userfaultfd: for missing pages and for those that are in the file but
 * not in this mapping. Such a VMA maps nothing by itself: an access to it
 * raises SIGBUS, as one to a hole raises SIGSEGV. Opening a page of it
 * (UFFDIO_CONTINUE, or ZEROPAGE where the file has a hole) takes a microsecond,
 * a run of pages less, and no host fault follows.
 *
 * Invariants. "Mapped if and only if it has a node" holds as ever: what a
 * carpet has not opened cannot be accessed. The bit of a page in the record of
 * its block is set exactly if the page lies in a VMA that goes on as the record
 * says. Whoever maps or unmaps pages in another way tells carpet_cut; pages are
 * always unmapped by munmap, never emptied, so that no page falls back into a
 * carpet. A record that has to make room takes the VMA away where nothing is
 * opened; the pages that are stay as they are. The host does not collapse part
 * of a file to a large page while such a VMA maps a hole there: p2m_large.c
 * drops the range before.
 *
 * The kernel may take an opened page out of the mapping again (it moves or
 * collapses pages of the file). An ordinary mapping would bring it back
 * silently; here it is a SIGBUS at a page that has a node: shadow_bus unmaps
 * the page, and it is filled anew. So does one whose memory the host cannot
 * give; that this goes on for ever is noticed.
 *
 * Limits: blocks are 64 pages, pages that are writable at once, the VM's own
 * file. Where a host has no userfaultfd of this kind (before 5.14, or it is
 * forbidden), everything is mapped page by page. The descriptor is for faults
 * of user mode alone, which needs no privilege. When the process is killed the
 * kernel takes the VMAs and the descriptor away together; while it lives, the
 * descriptor stays open, for its end would turn carpets into plain mappings.
 */
#include "vmm/mmu/shadow_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/base/log.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define NEEDED                                                                 \
	(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM |                      \
	 UFFD_FEATURE_MISSING_SHMEM)
#define BLOCK_SHIFT 6
#define BLOCK_MASK  (CARPET_PAGES - 1)
/* Fewer pages are not worth laying. */
#define LAY_MIN	    4u
/* Pages lost in a row before the host is said to be out of memory. */
#define LOST_MAX    64u

void carpet_init(struct shadow *s)
{
	struct uffdio_api api = {.api = UFFD_API, .features = NEEDED};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	s->uffd = -1;
	if (fd < 0)
		return;
	if (ioctl(fd, UFFDIO_API, &api) || (api.features & NEEDED) != NEEDED) {
		close(fd);
		return;
	}
	s->uffd = fd;
}

void carpet_fini(struct shadow *s)
{
	if (s->uffd >= 0)
		close(s->uffd);
	s->uffd = -1;
}

static struct carpet *slot_of(struct shadow *s, unsigned win, uint32_t vpn)
{
	uint32_t h = ((vpn >> BLOCK_SHIFT) + win * 0x1000193u) * 0x9e3779b1u;

	return &s->carpet[h >> (32 - CARPET_BITS)];
}

static bool is_of(const struct carpet *c, unsigned win, uint32_t vpn)
{
	return c->here && c->win == win && c->block == vpn >> BLOCK_SHIFT;
}

static uint64_t bits(unsigned from, unsigned n)
{
	return (n >= 64 ? ~0ull : (1ull << n) - 1) << from;
}

static void *page_hva(struct shadow *s, unsigned win, uint32_t vpn)
{
	return (void *)(s->win[win].hbase + ((uint64_t)vpn << PAGE_SHIFT));
}

/* No page of it lies in a carpet any more, as far as `gone` goes. */
static void forget(struct shadow *s, struct carpet *c, uint64_t gone)
{
	c->here &= ~gone;
	if (!c->here)
		s->win[c->win].n_carpets--;
}

void carpet_cut(struct shadow *s, unsigned win, uint32_t vpn, uint32_t n)
{
	while (n && s->win[win].n_carpets) {
		unsigned at = vpn & BLOCK_MASK, k = CARPET_PAGES - at;
		struct carpet *c = slot_of(s, win, vpn);

		if (k > n)
			k = n;
		if (is_of(c, win, vpn))
			forget(s, c, bits(at, k));
		vpn += k;
		n -= k;
	}
}

bool carpet_has(struct shadow *s, unsigned win, uint32_t vpn)
{
	const struct carpet *c = slot_of(s, win, vpn);

	return s->win[win].n_carpets && is_of(c, win, vpn) &&
	       c->here >> (vpn & BLOCK_MASK) & 1;
}

void carpet_cut_window(struct shadow *s, unsigned win)
{
	for (unsigned i = 0; s->win[win].n_carpets && i < 1u << CARPET_BITS;
	     i++)
		if (s->carpet[i].here && s->carpet[i].win == win)
			forget(s, &s->carpet[i], ~0ull);
}

/* The VMA goes wherever nothing of it is opened, and the record with it. */
static void roll_up(struct shadow *s, struct carpet *c)
{
	uint32_t base = c->block << BLOCK_SHIFT;
	unsigned k = 0;

	while (k < CARPET_PAGES) {
		unsigned from = k;

		while (k < CARPET_PAGES && c->here >> k & 1 &&
		       !node_at(s, c->win, base + k))
			k++;
		if (k > from && munmap(page_hva(s, c->win, base + from),
				       (size_t)(k - from) << PAGE_SHIFT)) {
			/* No VMA to split it with. */
			drop_for_vmas(s);
			return;
		}
		if (k == from)
			k++;
	}
	forget(s, c, ~0ull);
}

void carpet_drop_range(struct shadow *s, uint64_t ppn, uint64_t n)
{
	if (n < BIG_PAGES)
		return;
	for (unsigned i = 0; i < 1u << CARPET_BITS; i++) {
		struct carpet *c = &s->carpet[i];

		if (c->here && c->ppn + CARPET_PAGES > ppn && c->ppn < ppn + n)
			roll_up(s, c);
	}
}

/* How many pages from hva on were opened, 0..n? */
static unsigned open_pages(struct shadow *s, uint64_t hva, unsigned n)
{
	struct uffdio_continue c = {.range = {hva, (uint64_t)n << PAGE_SHIFT},
				    .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};
	struct uffdio_zeropage z = {.range = {hva, PAGE_SIZE},
				    .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};

	if (!ioctl(s->uffd, UFFDIO_CONTINUE, &c))
		return n;
	if (c.mapped > 0)
		return c.mapped >> PAGE_SHIFT;
	if (errno != EFAULT) /* the file has the page */
		return 0;
	return ioctl(s->uffd, UFFDIO_ZEROPAGE, &z) ? 0 : 1;
}

unsigned carpet_open(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn,
		     unsigned n)
{
	struct carpet *c = slot_of(s, win, vpn);
	unsigned at = vpn & BLOCK_MASK, k = 0;

	if (!s->win[win].n_carpets || !is_of(c, win, vpn) || c->ppn + at != ppn)
		return 0;
	while (k < n && at + k < CARPET_PAGES && c->here >> (at + k) & 1)
		k++;
	if (k)
		k = open_pages(s, (uint64_t)page_hva(s, win, vpn), k);
	s->st.carpet_pages += k;
	return k;
}

/* Does the page go on where the one before it ends, and can that be written? */
static bool continues(struct shadow *s, unsigned win, uint32_t vpn,
		      uint32_t ppn)
{
	uint32_t i = vpn ? node_find(s, win, vpn - 1) : 0;

	return i && s->node[i].ppn + 1 == ppn && s->node[i].flags & N_W &&
	       !(s->node[i].flags & N_BIG);
}

/* How many pages from here on are mapped nowhere, and RAM in the file? */
static unsigned room(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn)
{
	unsigned n = 0, max = CARPET_PAGES - (vpn & BLOCK_MASK);

	while (n < max && !node_at(s, win, vpn + n) &&
	       p2m_get_state(s->p, (ppn_t){ppn + n}) != P2M_NONE)
		n++;
	return n;
}

bool carpet_lay(struct shadow *s, unsigned win, uint32_t vpn, uint32_t ppn)
{
	struct carpet *c = slot_of(s, win, vpn);
	struct uffdio_register r = {.mode = UFFDIO_REGISTER_MODE_MISSING |
					    UFFDIO_REGISTER_MODE_MINOR};
	void *hva = page_hva(s, win, vpn);
	unsigned n;

	if (s->uffd < 0 || !continues(s, win, vpn, ppn))
		return false;
	n = room(s, win, vpn, ppn);
	if (n < LAY_MIN)
		return false;
	if (c->here)
		roll_up(s, c);
	r.range.start = (uint64_t)hva;
	r.range.len = (uint64_t)n << PAGE_SHIFT;
	s->vmas += 2;
	if (mmap(hva, r.range.len, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, p2m_memfd(s->p),
		 (off_t)ppn << PAGE_SHIFT) == MAP_FAILED)
		return false;
	if (ioctl(s->uffd, UFFDIO_REGISTER, &r)) {
		/* It must not stay. Without VMAs to split it goes with all. */
		if (munmap(hva, r.range.len))
			drop_for_vmas(s);
		return false;
	}
	*c = (struct carpet){.block = vpn >> BLOCK_SHIFT,
			     .ppn = ppn - (vpn & BLOCK_MASK),
			     .here = bits(vpn & BLOCK_MASK, n),
			     .win = win};
	s->win[win].n_carpets++;
	s->st.carpets++;
	return true;
}

bool shadow_bus(struct shadow *s, uint64_t hva)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;
	uint32_t i;

	if (!wi)
		return true;
	i = node_at(s, wi, (hva & SLOT_MASK) >> PAGE_SHIFT);
	if (!i) {
		s->n_lost = 0;
		return true;
	}
	node_unmap(s, i);
	s->st.carpet_lost++;
	/* One after the other is what a collapse of much memory looks like. */
	if (s->lost_at != hva >> PAGE_SHIFT)
		s->n_lost = 0;
	s->lost_at = hva >> PAGE_SHIFT;
	return ++s->n_lost < LOST_MAX;
}
