/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_SWAP_H
#define SARDINE_MM_SWAP_H
/*
 * A VM's swap file: slots of one page, written by a thread of its own in
 * batches, read by the caller. All calls by the owner of the VM's p2m.
 */
#include "mm/types.h"

#define SWAP_NONE  ~0u
#define SWAP_BATCH 64u /* pages written together */
#define SWAP_AHEAD 8u  /* pages read together at most */

struct swap;

/* fd (dup'ed) is the file, its size settled and reserved. done is called on the
 * writing thread when a batch has been written: swap_reap has work. 0 or
 * -errno. */
int swap_create(int fd, void (*done)(void *ctx), void *ctx, struct swap **out);
/* Waits for what is being written. */
void swap_destroy(struct swap *s);

/*
 * Take a page (its bytes are copied) to be written to a slot. 0, -EAGAIN: as
 * much as may be is under way; -ENOSPC: the file is full; -EIO: the disk
 * failed a moment ago. Batches go out when they are full, or by swap_flush.
 */
int swap_write(struct swap *s, uint32_t ppn, const void *page);
void swap_flush(struct swap *s);
/* Pages taken and not reaped. */
uint32_t swap_under_way(const struct swap *s);
/*
 * For each page that has been written (err 0) or could not be: fn. page is the
 * copy that was written. fn answers whether it wants to keep the slot; it is
 * free otherwise. */
void swap_reap(struct swap *s,
	       bool (*fn)(void *ctx, uint32_t ppn, uint32_t slot,
			  const void *page, int err),
	       void *ctx);

/* Whose page is in a slot; SWAP_NONE: none is. Any slot number. */
uint32_t swap_ppn(const struct swap *s, uint32_t slot);
/* n pages of slots slot.. into buf (aligned to a page), n <= SWAP_AHEAD. 0,
 * -EIO, or -EBADMSG: not the bytes that were written. */
int swap_read(struct swap *s, uint32_t slot, unsigned n, void *buf);
void swap_free(struct swap *s, uint32_t slot);

uint64_t swap_used(const struct swap *s); /* slots, those under way included */
uint64_t swap_slots(const struct swap *s);
/* Recount; kept: slots that pages name, as the caller has counted. 0 or
 * -EUCLEAN after logging. */
int swap_audit(struct swap *s, uint64_t kept);
#endif
