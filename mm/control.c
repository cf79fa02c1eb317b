/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control area's layout: the header struct on its own pages, then three
 * bitmaps, each page aligned, so that a bitmap of a quiet VM costs nothing, then
 * the statistics.
 *
 * The layout is a function of the VM's size alone. The manager computes it
 * from its own configuration and never follows the offsets in the header once
 * a monitor can write them (control_offsets).
 */
#include "mm/control.h"
#include "mm/control_stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const control_state_names[CONTROL_NR_STATES] = {
	"new", "starting", "running", "poweroff", "reset", "error",
};
const char *const share_reason_names[SHARE_NR_REASONS] = {
#define X(n, h) #n,
	SHARE_REASONS(X)
#undef X
};
const char *const share_reason_help[SHARE_NR_REASONS] = {
#define X(n, h) h,
	SHARE_REASONS(X)
#undef X
};

const char *const evict_names[EVICT_NR] = {
#define X(n, h) #n,
	EVICT_REASONS(X)
#undef X
};
const char *const evict_help[EVICT_NR] = {
#define X(n, h) h,
	EVICT_REASONS(X)
#undef X
};

static size_t page_up(size_t n)
{
	return (n + PAGE_SIZE - 1) & PAGE_MASK;
}

uint64_t control_max_ppn(uint64_t ram_bytes, uint64_t low_limit)
{
	uint64_t low = low_limit ? low_limit : 3ull << 30;

	if (ram_bytes <= low)
		return ram_bytes >> PAGE_SHIFT;
	return ((4ull << 30) + (ram_bytes - low)) >> PAGE_SHIFT;
}

static size_t bitmap_bytes(uint64_t max_ppn)
{
	return page_up((max_ppn + 63) / 64 * 8);
}

uint64_t control_stats_offset(uint64_t ram_bytes, uint64_t low_limit)
{
	uint64_t max = control_max_ppn(ram_bytes, low_limit);

	return page_up(sizeof(struct control)) + 3 * bitmap_bytes(max);
}

size_t control_bytes(uint64_t ram_bytes, uint64_t low_limit)
{
	return control_stats_offset(ram_bytes, low_limit) +
	       page_up(sizeof(struct control_stats));
}

void control_offsets(uint64_t ram_bytes, uint64_t low_limit, uint64_t off[3])
{
	uint64_t max = control_max_ppn(ram_bytes, low_limit);

	off[0] = page_up(sizeof(struct control));
	off[1] = off[0] + bitmap_bytes(max);
	off[2] = off[1] + bitmap_bytes(max);
}

void control_init(struct control *c, uint64_t ram_bytes, uint64_t low_limit,
		  const char *name)
{
	uint64_t off[3];

	control_offsets(ram_bytes, low_limit, off);
	c->magic = CONTROL_MAGIC;
	c->version = CONTROL_VERSION;
	c->size = control_bytes(ram_bytes, low_limit);
	c->max_ppn = control_max_ppn(ram_bytes, low_limit);
	c->changed_off = off[0];
	c->collected_off = off[1];
	c->released_off = off[2];
	c->stats_off = control_stats_offset(ram_bytes, low_limit);
	snprintf(c->name, sizeof(c->name), "%s", name ? name : "");
	c->state = CONTROL_NEW;
}

int control_create(uint64_t ram_bytes, uint64_t low_limit, const char *name,
		   int *fd, struct control **out)
{
	size_t bytes = control_bytes(ram_bytes, low_limit);
	void *m;
	int e;

	*fd = memfd_create("sardine-control", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0)
		return -errno;
	if (ftruncate(*fd, bytes) ||
	    fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		goto fail;
	m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (m == MAP_FAILED)
		goto fail;
	control_init(m, ram_bytes, low_limit, name);
	*out = m;
	return 0;
fail:
	e = errno;
	close(*fd);
	*fd = -1;
	return -e;
}

static bool header_fits(const struct control *c, uint64_t bytes)
{
	uint64_t bm;

	if (c->magic != CONTROL_MAGIC || c->version != CONTROL_VERSION ||
	    c->size != bytes || c->max_ppn > bytes * 8)
		return false;
	bm = bitmap_bytes(c->max_ppn);
	return c->changed_off == page_up(sizeof(*c)) &&
	       c->collected_off == c->changed_off + bm &&
	       c->released_off == c->collected_off + bm &&
	       c->stats_off == c->released_off + bm &&
	       c->stats_off + page_up(sizeof(struct control_stats)) == bytes;
}

int control_map(int fd, struct control **out, size_t *bytes)
{
	struct stat st;
	void *m;

	if (fstat(fd, &st))
		return -errno;
	if ((size_t)st.st_size < page_up(sizeof(struct control)))
		return -EPROTO;
	m = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	if (!header_fits(m, st.st_size)) {
		munmap(m, st.st_size);
		return -EPROTO;
	}
	*out = m;
	*bytes = st.st_size;
	return 0;
}

void control_unmap(struct control *c, size_t bytes)
{
	if (c)
		munmap(c, bytes);
}
