/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_HOST_H
#define SARDINE_MM_HOST_H
/* What the host's kernel says about memory, and how much of it we may use. */
#include <stdint.h>

struct host_mem {
	uint64_t total_bytes;	  /* MemTotal */
	uint64_t available_bytes; /* MemAvailable */
	uint64_t limit_bytes;	  /* of our control group, or ~0 */
	uint64_t max_map_count;	  /* VMAs a process may have */
	char thp[16];		  /* the chosen word of enabled: "madvise" */
	char thp_shmem[16];	  /* of shmem_enabled: "never" */
};
/* Fields that the host does not tell are 0 or "unknown". Always succeeds. */
void host_mem_read(struct host_mem *m);
/*
 * Bytes that all VMs together may use: want if not 0, else what is available
 * now less a reserve for the host (an eighth, at least 256 MiB). -ERANGE when
 * want is more than the host could ever give.
 */
int host_mem_budget(const struct host_mem *m, uint64_t want, uint64_t *budget);
/* MemAvailable now, for those who sample it; 0: unknown. */
uint64_t host_mem_available(void);
#endif
