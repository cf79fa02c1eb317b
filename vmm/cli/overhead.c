/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/overhead.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the "Key: N kB" lines of a /proc file say, in the order of keys. */
static int read_keys(pid_t pid, const char *file, const char *const keys[],
		     uint64_t bytes[])
{
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		uint64_t kb;
		char *colon = strchr(line, ':');

		if (!colon)
			continue;
		*colon = '\0';
		for (unsigned i = 0; keys[i]; i++)
			if (!strcmp(line, keys[i]) &&
			    sscanf(colon + 1, " %" SCNu64, &kb) == 1)
				bytes[i] = kb << 10;
	}
	fclose(f);
	return 0;
}

static bool is_one_of(const struct stat *st, const int *skip, unsigned n)
{
	struct stat s;

	for (unsigned i = 0; i < n; i++)
		if (skip[i] >= 0 && !fstat(skip[i], &s) &&
		    s.st_ino == st->st_ino && s.st_dev == st->st_dev)
			return true;
	return false;
}

/* A file open twice (the translation cache's two views may be) counts once. */
#define SEEN_MAX 64
static int sum_memfds(pid_t pid, const int *skip, unsigned n_skip,
		      uint64_t *bytes)
{
	char path[64], name[400], link[64];
	ino_t seen[SEEN_MAX];
	unsigned n_seen = 0;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		struct stat st;
		unsigned i;
		ssize_t n;

		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		n = readlink(name, link, sizeof(link) - 1);
		if (n < 7 || memcmp(link, "/memfd:", 7) || stat(name, &st))
			continue;
		for (i = 0; i < n_seen && seen[i] != st.st_ino; i++)
			;
		if (i < n_seen || is_one_of(&st, skip, n_skip))
			continue;
		if (n_seen < SEEN_MAX)
			seen[n_seen++] = st.st_ino;
		*bytes += (uint64_t)st.st_blocks * 512;
	}
	closedir(d);
	return 0;
}

/* sharers 0: exactly. */
static int sum_one(pid_t pid, unsigned sharers, uint64_t *bytes)
{
	static const char *const rollup[] = {"Pss_Anon", "Pss_File", NULL};
	static const char *const status[] = {"VmPTE", "RssAnon", "RssFile",
					     NULL};
	uint64_t own[3] = {0}, pss[2] = {0};
	int r = read_keys(pid, "status", status, own);

	if (!r && !sharers)
		r = read_keys(pid, "smaps_rollup", rollup, pss);
	if (r)
		return r;
	*bytes += own[0];
	*bytes += sharers ? own[1] + own[2] / sharers : pss[0] + pss[1];
	return 0;
}

/* The processes that the monitor started (its network). One that has just
 * ended counts nothing, nor do any where the kernel does not list them. */
static void sum_children(pid_t pid, unsigned sharers, uint64_t *bytes)
{
	char path[64];
	int child;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid,
		 (int)pid);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1)
		(void)sum_one(child, sharers, bytes);
	if (f)
		fclose(f);
}

static int sum_all(pid_t pid, const int *skip, unsigned n_skip,
		   unsigned sharers, uint64_t *bytes)
{
	uint64_t sum = 0;
	int r = sum_one(pid, sharers, &sum);

	if (!r)
		r = sum_memfds(pid, skip, n_skip, &sum);
	if (r)
		return r;
	sum_children(pid, sharers, &sum);
	*bytes = sum;
	return 0;
}

int overhead_exact(pid_t pid, const int *skip, unsigned n_skip, uint64_t *bytes)
{
	return sum_all(pid, skip, n_skip, 0, bytes);
}

int overhead_sample(pid_t pid, const int *skip, unsigned n_skip,
		    unsigned sharers, uint64_t *bytes)
{
	return sum_all(pid, skip, n_skip, sharers, bytes);
}
