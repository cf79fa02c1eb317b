/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation cache on large pages.
 *
 * Units lie in the order in which they were translated, so those that a program
 * runs all the time are spread over everything that it ran once, and translated
 * code is several times as long as the guest's: a TC of 4 KiB pages misses in the
 * instruction TLB where the same program on the host does not. So each aligned
 * 2 MiB of the TC are made one large page (MADV_COLLAPSE, which works on a memfd
 * whatever shmem_enabled says) once half of them is filled; the memory that
 * this takes ahead of its use is bounded by that, two blocks of a region at a
 * time. Both mappings are aligned so that address and offset agree modulo 2 MiB.
 *
 * A block that the host cannot make large now is left as it is for good. A TC
 * whose regions are no whole blocks (--tc-size) has no large pages. tc_trim
 * gives the pages back, and a VM at rest fills too little of a block to get one
 * again. The bytes do not change, nor what may be written or run: W^X is a matter
 * of the two mappings.
 *
 * Limits: only from the engine's loop, while no translated code is running.
 */
#include <sys/mman.h>

#include "vmm/bt/bt_priv.h"
#include "vmm/vm.h"

_Static_assert(VM_TC_MAX <= TC_LARGE_MAX * LARGE_PAGE_SIZE, "tc_large[]");

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* linux/mman.h, 6.1 */
#endif

/* A block is collapsed when so much of it is in use. */
#define LARGE_USED (LARGE_PAGE_SIZE / 2)

uint8_t *tc_large_map(int fd, size_t bytes, int prot)
{
	size_t room = bytes + LARGE_PAGE_SIZE;
	uint8_t *p, *at;

	p = mmap(NULL, room, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	at = (uint8_t *)(((uintptr_t)p + LARGE_PAGE_SIZE - 1) &
			 -LARGE_PAGE_SIZE);
	if (mmap(at, bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED) {
		munmap(p, room);
		return NULL;
	}
	if (at > p)
		munmap(p, at - p);
	munmap(at + bytes, room - bytes - (at - p));
	return at;
}

/* How many bytes of [a, a + n) are in the block at b? */
static uint32_t part(uint32_t a, uint32_t n, uint32_t b)
{
	uint32_t lo = a > b ? a : b;
	uint32_t hi = a + n < b + LARGE_PAGE_SIZE ? a + n : b + LARGE_PAGE_SIZE;

	return hi > lo ? hi - lo : 0;
}

static void look_at(struct bt *bt, uint32_t off)
{
	uint32_t b = off & -LARGE_PAGE_SIZE, k = b / LARGE_PAGE_SIZE;
	uint32_t start = bt->tc_cur * bt->region_bytes;
	const struct tc_region *g = &bt->region[bt->tc_cur];

	if (bt->tc_large[k / 8] >> k % 8 & 1 ||
	    part(start, g->used, b) + part(start + bt->region_bytes - g->cold,
					   g->cold, b) <
		    LARGE_USED)
		return;
	bt->tc_large[k / 8] |= 1 << k % 8;
	if (!madvise(bt->rx + b, LARGE_PAGE_SIZE, MADV_COLLAPSE))
		bt->stats.tc_large += LARGE_PAGE_SIZE;
}

void tc_large_look(struct bt *bt, const struct ccf *c)
{
	if (bt->region_bytes % LARGE_PAGE_SIZE)
		return;
	look_at(bt, c->host);
	look_at(bt, c->cold);
}

void tc_large_trim(struct bt *bt)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bt->tc_large); i++)
		bt->tc_large[i] = 0;
	bt->stats.tc_large = 0;
}
