/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See dma.h. Code: a page that the device writes is told to the engine twice,
 * when it is pinned (p2m_pin) and when the I/O is over, because the guest may
 * have run code from it in between.
 */
#include "vmm/dev/dma.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct dma_page {
	uint64_t ppn;
	uint16_t off, len;
	bool pinned;
	void *copy;
};

static unsigned count_pages(const struct virtq_seg *seg, unsigned n)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < n; i++)
		pages += (seg[i].len + PAGE_SIZE - 1) / PAGE_SIZE + 1;
	return pages < 1u << 24 ? pages : 1u << 24;
}

static void *get_page(struct dma *d, struct dma_page *pg)
{
	ppn_t ppn = {pg->ppn};
	char *m;

	if (d->to_guest || p2m_get_state(d->p2m, ppn) != P2M_SHARED) {
		m = p2m_pin(d->p2m, ppn, d->to_guest);
		pg->pinned = m;
		return m ? m + pg->off : NULL;
	}
	pg->copy = malloc(pg->len);
	if (!pg->copy ||
	    p2m_copy_out(d->p2m, ppn_to_gpa(ppn) + pg->off, pg->copy, pg->len))
		return NULL;
	return pg->copy;
}

static int add_page(struct dma *d, gpa_t gpa, unsigned len)
{
	struct iovec *last = d->n_iov ? &d->iov[d->n_iov - 1] : NULL;
	struct dma_page *pg = &d->pages[d->n_pages++];
	void *m;

	*pg = (struct dma_page){
		.ppn = gpa_to_ppn(gpa).n, .off = gpa & ~PAGE_MASK, .len = len};
	m = get_page(d, pg);
	if (!m)
		return -ENOMEM;
	if (last && (char *)last->iov_base + last->iov_len == m)
		last->iov_len += len;
	else
		d->iov[d->n_iov++] = (struct iovec){m, len};
	return 0;
}

static int add_range(struct dma *d, gpa_t gpa, uint64_t len)
{
	int r = 0;

	while (len && !r) {
		uint64_t part = PAGE_SIZE - (gpa & ~PAGE_MASK);

		part = part < len ? part : len;
		r = add_page(d, gpa, part);
		gpa += part;
		len -= part;
	}
	return r;
}

int dma_map(struct dma *d, struct p2m *p, bool to_guest,
	    const struct virtq_seg *seg, unsigned n, uint64_t skip,
	    uint64_t len)
{
	unsigned max = count_pages(seg, n);
	int r = 0;

	*d = (struct dma){.p2m = p, .to_guest = to_guest};
	if (max > len / PAGE_SIZE + 2ull * n + 2)
		max = len / PAGE_SIZE + 2ull * n + 2;
	d->mem = malloc(max * (sizeof(*d->pages) + sizeof(*d->iov)));
	if (!d->mem)
		return -ENOMEM;
	d->pages = d->mem;
	d->iov = (struct iovec *)(d->pages + max);
	for (unsigned i = 0; i < n && len && !r; i++) {
		uint64_t part = seg[i].len;

		if (skip >= part) {
			skip -= part;
			continue;
		}
		part = part - skip < len ? part - skip : len;
		r = add_range(d, seg[i].gpa + skip, part);
		skip = 0;
		len -= part;
	}
	if (!r && len)
		r = -EINVAL;
	if (r)
		dma_unmap(d);
	return r;
}

void dma_unmap(struct dma *d)
{
	dma_unmap_tell(d, NULL, NULL);
}

void dma_unmap_tell(struct dma *d, void (*fn)(void *ctx, ppn_t ppn), void *ctx)
{
	for (unsigned i = 0; i < d->n_pages; i++) {
		struct dma_page *pg = &d->pages[i];
		ppn_t ppn = {pg->ppn};

		free(pg->copy);
		if (!pg->pinned)
			continue;
		p2m_unpin(d->p2m, ppn);
		if (d->to_guest && p2m_is_code(d->p2m, ppn))
			(void)p2m_write(d->p2m, ppn, pg->off, pg->len);
		if (fn && d->to_guest && pg->len == PAGE_SIZE)
			fn(ctx, ppn);
	}
	free(d->mem);
	*d = (struct dma){.p2m = NULL};
}
