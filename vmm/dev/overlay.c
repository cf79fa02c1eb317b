/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copy on write by the sector.
 *
 * The map has a bit for each sector of 512 bytes, so a write never has to read
 * what is around it: there is no cluster to be completed, and a write that is
 * torn leaves no sector half old, half new. It costs 256 KiB a GiB of disk, of
 * which only pages that hold a bit are there, in memory as in the file.
 *
 * When a bit may be on the file. The map in memory is the truth while the VM
 * runs. The file's map must never claim a sector whose data is not there, or a
 * crash of the host would turn base data into zeroes. So a flush syncs the
 * data, then writes the blocks of the map that had changed before, as they
 * were before that sync, then syncs those. What a crash (kill -9 of the VM's
 * process, of the host) loses is what was written since the last flush that was
 * answered, sector by sector, which is what a disk's cache promises; sectors
 * whose bit got lost are the base's again, and their data in the overlay is
 * dead. Nothing has to be repaired afterwards.
 *
 * The base must not change under an overlay. Its size and a hash of its first
 * 64 KiB (partition table, superblock: what a mount changes) are checked.
 *
 * Zeroes: a hole in the data with its bits set.
 */
#include "vmm/dev/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/base/log.h"

#define BLOCK_BITS  (OVERLAY_BLOCK * 8ull)
#define DATA_ALIGN  65536ull
#define HASH_BYTES  65536u
#define MAX_SECTORS (1ull << 42)

struct overlay {
	int fd;
	uint64_t sectors, data_off;
	uint64_t *map;
	size_t map_bytes; /* whole blocks */
	uint8_t *dirty;	  /* a byte a block */
	uint64_t n_blocks, n_dirty;
};

static uint64_t map_bytes(uint64_t sectors)
{
	return (sectors + BLOCK_BITS - 1) / BLOCK_BITS * OVERLAY_BLOCK;
}

static int base_hash(int base, uint64_t *hash)
{
	uint8_t *buf = calloc(1, HASH_BYTES);
	ssize_t n = buf ? pread(base, buf, HASH_BYTES, 0) : -1;

	if (n >= 0)
		*hash = XXH3_64bits(buf, (size_t)n);
	free(buf);
	return n < 0 ? -EIO : 0;
}

static int write_header(struct overlay *o, const struct overlay_header *h)
{
	uint8_t page[OVERLAY_MAP_OFF];

	memset(page, 0, sizeof(page));
	memcpy(page, h, sizeof(*h));
	/* The length first: a file that has a header is whole. */
	if (ftruncate(o->fd, (off_t)(o->data_off + 512 * o->sectors)))
		return -errno;
	if (pwrite(o->fd, page, sizeof(page), 0) != (ssize_t)sizeof(page))
		return -EIO;
	return fdatasync(o->fd) ? -errno : 0;
}

static int check_header(const struct overlay *o, const struct overlay_header *w)
{
	struct overlay_header h;

	if (pread(o->fd, &h, sizeof(h), 0) != (ssize_t)sizeof(h) ||
	    memcmp(h.magic, w->magic, 8) || h.version != w->version ||
	    h.header_bytes != w->header_bytes || h.map_off != w->map_off)
		return -EBADMSG;
	if (h.sectors != w->sectors || h.base_bytes != w->base_bytes ||
	    h.base_hash != w->base_hash)
		return -ESTALE;
	if (h.data_off != w->data_off)
		return -EBADMSG;
	return 0;
}

/* Only what is there: a hole of the file stays untouched memory. */
static int load_map(struct overlay *o)
{
	off_t end = (off_t)(OVERLAY_MAP_OFF + o->map_bytes), at, stop;

	for (at = OVERLAY_MAP_OFF; at < end; at = stop) {
		at = lseek(o->fd, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			return 0;
		if (at < 0)
			return -errno;
		if (at >= end)
			return 0;
		stop = lseek(o->fd, at, SEEK_HOLE);
		if (stop < 0)
			return -errno;
		stop = stop < end ? stop : end;
		if (pread(o->fd, (char *)o->map + (at - OVERLAY_MAP_OFF),
			  (size_t)(stop - at), at) != stop - at)
			return -EIO;
	}
	return 0;
}

int overlay_create(int fd, int base, uint64_t sectors, bool fresh, bool lasting,
		   struct overlay **out)
{
	struct overlay_header h = {.magic = OVERLAY_MAGIC,
				   .version = 1,
				   .header_bytes = sizeof(h),
				   .sectors = sectors,
				   .map_off = OVERLAY_MAP_OFF,
				   .base_bytes = 512 * sectors};
	struct overlay *o = calloc(1, sizeof(*o));
	int r;

	if (!o || sectors > MAX_SECTORS) {
		free(o);
		return o ? -EFBIG : -ENOMEM;
	}
	o->fd = fd;
	o->sectors = sectors;
	o->map_bytes = map_bytes(sectors);
	o->n_blocks = o->map_bytes / OVERLAY_BLOCK;
	o->data_off = (OVERLAY_MAP_OFF + o->map_bytes + DATA_ALIGN - 1) &
		      ~(DATA_ALIGN - 1);
	h.data_off = o->data_off;
	o->dirty = calloc(1, o->n_blocks);
	o->map = mmap(NULL, o->map_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (o->map == MAP_FAILED || !o->dirty) {
		o->map = o->map == MAP_FAILED ? NULL : o->map;
		overlay_destroy(o);
		return -ENOMEM;
	}
	r = base_hash(base, &h.base_hash);
	if (!r && fresh && lasting)
		r = write_header(o, &h);
	else if (!r && fresh)
		r = ftruncate(fd, (off_t)(o->data_off + 512 * sectors)) ? -errno
									: 0;
	else if (!r)
		r = check_header(o, &h);
	if (!r && !fresh)
		r = load_map(o);
	if (r) {
		overlay_destroy(o);
		return r;
	}
	*out = o;
	return 0;
}

void overlay_destroy(struct overlay *o)
{
	if (!o)
		return;
	if (o->map)
		munmap(o->map, o->map_bytes);
	free(o->dirty);
	free(o);
}

uint64_t overlay_data_off(const struct overlay *o)
{
	return o->data_off;
}

uint64_t overlay_run(const struct overlay *o, uint64_t s, uint64_t n, bool *in)
{
	uint64_t end = s + n, at = s;

	ASSERT(n && end <= o->sectors);
	*in = o->map[s / 64] >> (s % 64) & 1;
	while (at < end) {
		uint64_t w = o->map[at / 64];

		/* The first bit of the other kind at or after `at`. */
		w = (*in ? ~w : w) >> (at % 64);
		if (w) {
			at += (uint64_t)__builtin_ctzll(w);
			break;
		}
		at = (at | 63) + 1;
	}
	return (at < end ? at : end) - s;
}

static void mark_dirty(struct overlay *o, uint64_t block)
{
	o->n_dirty += !o->dirty[block];
	o->dirty[block] = 1;
}

void overlay_set(struct overlay *o, uint64_t s, uint64_t n)
{
	uint64_t end = s + n;

	ASSERT(end <= o->sectors);
	while (s < end) {
		uint64_t stop = (s | 63) + 1, m = ~0ull << (s % 64);

		stop = stop < end ? stop : end;
		if (stop % 64)
			m &= ~(~0ull << (stop % 64));
		if ((o->map[s / 64] & m) != m) {
			o->map[s / 64] |= m;
			mark_dirty(o, s / BLOCK_BITS);
		}
		s = stop;
	}
}

bool overlay_is_dirty(const struct overlay *o)
{
	return o->n_dirty;
}

bool overlay_take(struct overlay *o, uint64_t *i, void *buf, uint64_t *off)
{
	for (; *i < o->n_blocks; ++*i) {
		if (!o->dirty[*i])
			continue;
		o->dirty[*i] = 0;
		o->n_dirty--;
		*off = OVERLAY_MAP_OFF + *i * OVERLAY_BLOCK;
		memcpy(buf, (char *)o->map + *i * OVERLAY_BLOCK, OVERLAY_BLOCK);
		++*i;
		return true;
	}
	return false;
}

void overlay_untake(struct overlay *o, uint64_t off)
{
	mark_dirty(o, (off - OVERLAY_MAP_OFF) / OVERLAY_BLOCK);
}
