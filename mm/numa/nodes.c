/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/numa/nodes.h"

#include <numa.h>
#include <unistd.h>

static int whole_host(struct numa_node_info *n)
{
	uint64_t page = sysconf(_SC_PAGESIZE);

	n->id = 0;
	n->total_bytes = sysconf(_SC_PHYS_PAGES) * page;
	n->free_bytes = sysconf(_SC_AVPHYS_PAGES) * page;
	n->cpus = sysconf(_SC_NPROCESSORS_ONLN);
	return 1;
}

static int cpus_of(int node)
{
	struct bitmask *m = numa_allocate_cpumask();
	int n = 0;

	if (m && !numa_node_to_cpus(node, m))
		n = numa_bitmask_weight(m);
	if (m)
		numa_free_cpumask(m);
	return n;
}

int numa_nodes(struct numa_node_info *out, int max)
{
	int n = 0;

	if (max < 1)
		return 0;
	if (numa_available() < 0)
		return whole_host(out);
	for (int i = 0; i <= numa_max_node(); i++) {
		long long free_bytes = 0,
			  total = numa_node_size64(i, &free_bytes);

		if (total <= 0)
			continue;
		if (n < max)
			out[n] = (struct numa_node_info){i, total, free_bytes,
							 cpus_of(i)};
		n++;
	}
	/* A container may hide the nodes' sizes. */
	return n ? n : whole_host(out);
}
