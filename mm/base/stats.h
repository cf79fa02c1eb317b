/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_BASE_STATS_H
#define SARDINE_MM_BASE_STATS_H
/*
 * Counters are tables with a sentence each. A subsystem writes
 *
 *   #define FOO_STATS(X) \
 *	X(fills, "pages mapped into a window after a hidden fault") \
 *	X(...)
 *   struct foo_stats { FOO_STATS(STAT_FIELD) };
 *   static const struct stat_desc foo_stat_desc[] = {
 *	FOO_STATS(STAT_DESC(foo_stats)) };
 *
 * and registers (prefix, desc, count, base) with the VM's list; --stats writes
 * them as JSON {"prefix":{"name":value}}.
 */
#include <stddef.h>
#include <stdint.h>

#define STAT_FIELD(name, help) uint64_t name;

struct stat_desc {
	const char *name, *help;
	size_t offset; /* of a uint64_t in the stats struct */
};
/* clang-format off */
#define STAT_DESC_ENTRY(st, name, help) {#name, help, offsetof(struct st, name)}
/* clang-format on */

struct stat_group {
	const char *prefix;
	const struct stat_desc *desc;
	size_t n;
	const void *base;
	struct stat_group *next;
};
#endif
