/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_SHARING_POOL_H
#define SARDINE_MM_SHARING_POOL_H
/*
 * The pool of a share group: a sparse memfd of frames, written by the manager
 * alone, and the choice of frame numbers so that runs of guest pages become
 * runs of frames.
 */
#include "mm/types.h"

#define POOL_EXTENT 512u /* frames: 2 MiB */
#define POOL_NONE   (~0u)

/* Where a page would like to be: owner is any nonzero number (VM + 1), and
 * page the PPN. Pages of one 2 MiB piece of one owner go to one extent, each at
 * its own place in it. */
struct pool_wish {
	uint32_t owner;
	uint64_t page;
};

struct pool;
/* 0 or -errno. bytes is a limit, not a cost; rounded up to 2 MiB. */
int pool_create(const char *name, uint64_t bytes, struct pool **out);
/*
 * The pool in that file (of any access mode), which a process that is dead
 * made: what has memory is in use, each frame, and its extents have no owners.
 * The caller knows that it is such a file. 0 or -errno.
 */
int pool_adopt(int fd, struct pool **out);
void pool_destroy(struct pool *q);
int pool_ro_fd(const struct pool *q);
int pool_rw_fd(const struct pool *q);

/*
 * A free frame that suits the wishes, best first: near (POOL_NONE: none) if it
 * is free; else the place in an extent that a wish's piece already has; else
 * the place in a new extent for the first wish; else any. POOL_NONE: full.
 */
uint32_t pool_alloc(struct pool *q, uint32_t near, const struct pool_wish *w,
		    unsigned n);
/* The frame's memory goes back to the host. */
void pool_free(struct pool *q, uint32_t frame);
/* This owner asks for nothing more: its extents fill up with others' pages. */
void pool_forget_owner(struct pool *q, uint32_t owner);
/* 0 or -ENOMEM. */
int pool_write(struct pool *q, uint32_t frame, const void *page);
/* Read-only; only for frames that were written. */
const void *pool_read(const struct pool *q, uint32_t frame);
bool pool_in_use(const struct pool *q, uint32_t frame);
uint32_t pool_used(const struct pool *q);
uint32_t pool_frames(const struct pool *q);
/* One past the highest frame ever given out. */
uint32_t pool_end(const struct pool *q);
/* Recount; frames written and not freed are what the file has. 0, -EUCLEAN */
int pool_audit(struct pool *q);
#endif
