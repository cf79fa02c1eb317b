/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_NUMA_NODES_H
#define SARDINE_MM_NUMA_NODES_H
/* The host's NUMA nodes, as libnuma tells. */
#include <stdint.h>

struct numa_node_info {
	int id;
	uint64_t total_bytes, free_bytes;
	int cpus;
};
/* At most max nodes into out; returns how many there are (at least 1: a host
 * without NUMA is one node with all memory), or -errno. */
int numa_nodes(struct numa_node_info *out, int max);
#endif
