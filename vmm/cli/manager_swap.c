/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap files: one a VM, so that a monitor holds what is its own and no more.
 * They have no name from the beginning (O_TMPFILE, or unlinked at once), so
 * none is left behind, whoever is killed; their space is reserved, so that a
 * disk that others fill up cannot fail a write later.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/options.h"

uint64_t manager_swap_bytes(const struct manager *m, uint64_t mem)
{
	uint64_t bytes = mem;

	if (m->cfg.swap_bytes && m->cfg.fleet_bytes)
		bytes = (double)m->cfg.swap_bytes * (double)mem /
			(double)m->cfg.fleet_bytes;
	bytes &= PAGE_MASK;
	return bytes ? bytes : PAGE_SIZE;
}

static int open_nameless(const char *dir)
{
	char path[4096];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	if ((size_t)snprintf(path, sizeof(path), "%s/sardine-swap.XXXXXX",
			     dir) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC); /* 0600 */
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

static bool is_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) &&
	       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

int manager_swap_file(const struct manager *m, uint64_t bytes, char *err,
		      size_t errlen)
{
	const char *dir = m->cfg.swap_dir;
	int fd = open_nameless(dir), r;
	char a[32];

	if (fd < 0) {
		snprintf(err, errlen,
			 "--swap %s: %s; give a directory that can be written",
			 dir, strerror(-fd));
		return fd;
	}
	if (is_memory(fd)) {
		snprintf(err, errlen,
			 "--swap %s: is memory itself; give a directory on a "
			 "disk",
			 dir);
		close(fd);
		return -EINVAL;
	}
	r = -posix_fallocate(fd, 0, (off_t)bytes);
	if (r) {
		snprintf(err, errlen,
			 "--swap %s: cannot reserve %s for a VM: %s; give "
			 "another directory or a smaller --swap-size",
			 dir, size_format(bytes, a, sizeof(a)), strerror(-r));
		close(fd);
		return r;
	}
	/* Past the page cache where the file system can. */
	(void)fcntl(fd, F_SETFL, O_RDWR | O_DIRECT);
	return fd;
}
