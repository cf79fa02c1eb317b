/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_OVERLAY_H
#define SARDINE_VMM_DEV_OVERLAY_H
/*
 * The file format of a copy-on-write overlay, and the map of what is in it.
 *
 *	0		struct overlay_header, padded to 4096
 *	4096		the map: a bit a sector, least significant first
 *	data_off	sector s at data_off + 512 * s, in a sparse file
 *
 * A set bit: the sector is in the overlay; else it is the base's.
 */
#include "mm/types.h"

#define OVERLAY_MAGIC	"SRDNCOW1"
#define OVERLAY_MAP_OFF 4096ull

struct overlay_header {
	char magic[8];
	uint32_t version; /* 1 */
	uint32_t header_bytes;
	uint64_t sectors;
	uint64_t map_off, data_off;
	uint64_t base_bytes; /* the base's size, and the hash of its */
	uint64_t base_hash;  /* first 64 KiB: is it still the same? */
};

struct overlay;
/* fd: an open file; base: the base's. fresh: fd is empty, make it an overlay;
 * lasting: it is kept when the VM is gone. 0; -errno; -EBADMSG: not an
 * overlay; -ESTALE: not of this base. */
int overlay_create(int fd, int base, uint64_t sectors, bool fresh, bool lasting,
		   struct overlay **out);
void overlay_destroy(struct overlay *o); /* saves nothing */
uint64_t overlay_data_off(const struct overlay *o);
/* How many of n sectors from s on are all in the overlay (*in), or all not. */
uint64_t overlay_run(const struct overlay *o, uint64_t s, uint64_t n, bool *in);
/* They are in the overlay from now on. */
void overlay_set(struct overlay *o, uint64_t s, uint64_t n);

/*
 * Saving the map: whoever saves takes blocks (4 KiB of the map each) with
 * overlay_take, writes them at the offset that goes with them, and syncs. A
 * block that could not be written is put back with overlay_untake.
 */
#define OVERLAY_BLOCK 4096u
bool overlay_is_dirty(const struct overlay *o);
/* The first dirty block from *i on: copied into buf, its offset in *off, *i
 * moved behind it. False: there is none. */
bool overlay_take(struct overlay *o, uint64_t *i, void *buf, uint64_t *off);
void overlay_untake(struct overlay *o, uint64_t off);
#endif
