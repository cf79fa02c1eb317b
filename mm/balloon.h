/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_BALLOON_H
#define SARDINE_MM_BALLOON_H
/*
 * How big a VM's balloon should be: the manager's policy as a pure function.
 * Sizes are bytes.
 */
#include <stdbool.h>

#include "mm/types.h"

struct balloon_vm {
	uint64_t size;	 /* configured */
	uint64_t own;	 /* pages with bytes of its own, here or away */
	uint64_t target; /* what it may have (mm/reclaim.h) */
	uint64_t asked;	 /* of the balloon, now */
	uint64_t actual; /* and what it has */
	/* The guest's word, as new as asked: */
	uint64_t free, available; /* ~0: unknown */
	bool reports;		  /* free pages cost nothing */
};

/* What to ask for next. Call it once for each word of the guest's. */
uint64_t balloon_next(const struct balloon_vm *v);
#endif
