/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_BUS_STATS_H
#define SARDINE_VMM_DEV_BUS_STATS_H
/* What a bus counts. */
#include "mm/base/stats.h"
#include "vmm/dev/bus.h"

#define BUS_STATS(X)                                                           \
	X(reads, "reads by the guest, after splitting")                        \
	X(writes, "writes by the guest, after splitting")                      \
	X(reads_nobody, "reads that no device answered (all ones)")            \
	X(writes_nobody, "writes that no device took")                         \
	X(splits, "accesses split into bytes at a range's end")
struct bus_stats {
	BUS_STATS(STAT_FIELD)
};
/* Fills g for this bus (prefix: the bus's name); base lives as the bus. */
void bus_stat_group(struct bus *b, struct stat_group *g);
#endif
