/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_DMA_H
#define SARDINE_VMM_DEV_DMA_H
/*
 * Guest memory as an iovec for I/O that runs beside the vCPU thread.
 *
 * To the guest: the pages are made private, pinned, and written in place. From
 * the guest: private and zero pages are pinned and read in place; a shared page
 * is copied, because breaking it for the sake of reading it would cost memory.
 * A pinned page keeps its place until dma_unmap; the guest may still read and
 * write it.
 *
 * Owner thread.
 */
#include <sys/uio.h>

#include "vmm/dev/virtq.h"

struct dma_page;
struct dma {
	struct p2m *p2m;
	bool to_guest;
	struct iovec *iov; /* neighbours are merged */
	unsigned n_iov;
	struct dma_page *pages;
	unsigned n_pages;
	void *mem;
};

/* Map bytes [skip, skip+len) of n segments (checked by virtq_pop). 0; -ENOMEM,
 * -EINVAL (there are fewer bytes), and nothing is mapped. */
int dma_map(struct dma *d, struct p2m *p, bool to_guest,
	    const struct virtq_seg *seg, unsigned n, uint64_t skip,
	    uint64_t len);
/* The I/O is over (also when it failed). */
void dma_unmap(struct dma *d);
/* The same; each page that the device has filled wholly is told to fn. */
void dma_unmap_tell(struct dma *d, void (*fn)(void *ctx, ppn_t ppn), void *ctx);
#endif
