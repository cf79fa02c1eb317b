/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESERVE (256ull << 20)

/* A small file as a string; false if there is none. */
static int slurp(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	buf[0] = 0;
	if (fd < 0)
		return 0;
	n = read(fd, buf, len - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n > 0;
}

/* "name:   123 kB" of /proc/meminfo, in bytes. */
static uint64_t meminfo(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* "always [madvise] never" */
static void chosen(const char *path, char out[16])
{
	char buf[256], *a, *b;

	snprintf(out, 16, "unknown");
	if (!slurp(path, buf, sizeof(buf)))
		return;
	a = strchr(buf, '[');
	b = a ? strchr(a, ']') : NULL;
	if (b)
		snprintf(out, 16, "%.*s", (int)(b - a - 1), a + 1);
}

static uint64_t cgroup_limit(void)
{
	static const char *const files[] = {
		"/sys/fs/cgroup/memory.max",
		"/sys/fs/cgroup/memory/memory.limit_in_bytes",
	};
	char buf[64];

	for (unsigned i = 0; i < 2; i++)
		if (slurp(files[i], buf, sizeof(buf)) && buf[0] >= '0' &&
		    buf[0] <= '9')
			return strtoull(buf, NULL, 10);
	return ~0ull;
}

void host_mem_read(struct host_mem *m)
{
	char buf[4096];

	slurp("/proc/meminfo", buf, sizeof(buf));
	m->total_bytes = meminfo(buf, "MemTotal:");
	m->available_bytes = meminfo(buf, "MemAvailable:");
	m->limit_bytes = cgroup_limit();
	slurp("/proc/sys/vm/max_map_count", buf, sizeof(buf));
	m->max_map_count = strtoull(buf, NULL, 10);
	chosen("/sys/kernel/mm/transparent_hugepage/enabled", m->thp);
	chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
	       m->thp_shmem);
}

int host_mem_budget(const struct host_mem *m, uint64_t want, uint64_t *budget)
{
	uint64_t most = m->total_bytes, now = m->available_bytes, keep;

	if (m->limit_bytes < most)
		most = m->limit_bytes;
	if (want > most)
		return -ERANGE;
	if (now > most)
		now = most;
	keep = now / 8 > RESERVE ? now / 8 : RESERVE;
	if (!want)
		want = now > 2 * keep ? now - keep : now / 2;
	*budget = want;
	return 0;
}

uint64_t host_mem_available(void)
{
	char buf[4096];

	slurp("/proc/meminfo", buf, sizeof(buf));
	return meminfo(buf, "MemAvailable:");
}
