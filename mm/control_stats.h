/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_CONTROL_STATS_H
#define SARDINE_MM_CONTROL_STATS_H
/*
 * A monitor's counters where its manager can read them: the last part of the
 * control area. The monitor writes the names once, before it runs the guest,
 * and copies the values from time to time, on a thread that is not the
 * vCPU's: a relaxed load and store a counter, so the guest is not disturbed.
 * Counters of one sample may be a few events apart.
 *
 * Trust: as for the rest of the area. The reader takes each word once, stays
 * within the struct whatever it says, and passes only names of [a-z0-9_] on.
 */
#include "mm/base/stats.h"
#include "mm/types.h"

#define CONTROL_STATS_MAX  511
#define CONTROL_STATS_NAME 40
#define CONTROL_STATS_TEXT 12288

struct control_stats {
	uint64_t n; /* values that are there; written last */
	uint64_t value[CONTROL_STATS_MAX];
	/* For each group ":prefix" and a newline, then its counters' names,
	 * each and a newline, in the values' order. NUL ends it. */
	char text[CONTROL_STATS_TEXT];
};

/* Monitor: write the names of all groups of the list. What does not fit is
 * left out (-ENOSPC). */
int control_stats_init(struct control_stats *s, const struct stat_group *list);
/* Monitor, any one thread: copy the values. The list is that of the init. */
void control_stats_publish(struct control_stats *s,
			   const struct stat_group *list);
/* Manager: call fn for each counter. -EBADMSG: it is not what it should be
 * (what came before the mistake has been passed on). */
int control_stats_read(const struct control_stats *s,
		       void (*fn)(void *ctx, const char *group,
				  const char *name, uint64_t value),
		       void *ctx);
#endif
