/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_PHASE_H
#define SARDINE_VMM_BT_PHASE_H
/*
 * What the translator did when: the run cut into at most PHASES spans of equal
 * length (in TSC cycles). When a run outgrows them, neighbours are added up and
 * the span doubles, so a boot of a second and a VM of a month both have four
 * to eight rows.
 */
#include <stdint.h>

#include "mm/base/stats.h"

#define PHASES 8
#define PHASE_STATS(X)                                                         \
	X(units, "units translated in this span")                              \
	X(guest_bytes, "bytes of guest code in them")                          \
	X(guest_insns, "instructions in them")                                 \
	X(cycles, "TSC cycles that took, decoding included")                   \
	X(timed_insns, "instructions in the units that were timed")            \
	X(host_bytes, "bytes of host code generated")

struct phase {
	PHASE_STATS(STAT_FIELD)
};
struct phases {
	struct phase row[PHASES];
	uint64_t start, span; /* TSC */
	struct stat_group group[PHASES];
};

struct vm;
void phases_init(struct phases *p, struct vm *vm);
/* One more unit, finished at TSC now. */
void phases_add(struct phases *p, uint64_t now, const struct phase *unit);
#endif
