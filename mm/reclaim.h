/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_RECLAIM_H
#define SARDINE_MM_RECLAIM_H
/*
 * Who may have how much memory: the manager's policy as pure functions. No
 * clocks, files or processes here; sizes are bytes.
 */
#include "mm/types.h"

/* How the host stands, by what is free of its budget. */
enum reclaim_state {
	RECLAIM_HIGH, /* plenty: nobody is asked for anything */
	RECLAIM_SOFT, /* VMs look for idle pages, and keep what they have */
	RECLAIM_HARD, /* VMs go down to their share, at a bounded pace */
	RECLAIM_LOW,  /* at any pace, and nobody grows */
	RECLAIM_STATES
};
extern const char *const reclaim_state_names[RECLAIM_STATES];

/* The next state. It gets worse at once (below 6%, 4%, 2% free) and better one
 * step at a time, when there is a percent more than that. */
enum reclaim_state reclaim_next_state(enum reclaim_state s, uint64_t free,
				      uint64_t budget);

struct reclaim_vm {
	/* What its owner asks for. min <= max. */
	uint64_t shares, min, max;
	/* How it stands. */
	uint64_t used;	 /* memory of its own now: guest and store */
	uint64_t want;	 /* what it would have if there were plenty */
	uint64_t active; /* estimate of what it uses often */
	/* What it may have now, and what reclaim_step makes of that. */
	uint64_t quota;
	uint64_t target; /* out: its share of what there is */
};

/*
 * Divide bytes among n VMs: sets target, between min and max. See reclaim.c for
 * the formula; tax in [0, 1).
 */
void reclaim_divide(struct reclaim_vm *v, size_t n, uint64_t bytes, double tax);

/*
 * One step towards the targets: sets quota. Promise: the sum over all VMs of
 * the greater of used and quota is at most bytes, or no greater than before.
 * Quotas sink to what the VM has until RECLAIM_HARD, then by an eighth of that
 * at a step; in RECLAIM_LOW at once, and none rises.
 */
void reclaim_step(struct reclaim_vm *v, size_t n, uint64_t bytes,
		  enum reclaim_state s);
#endif
