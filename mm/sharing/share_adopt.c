/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new manager takes over the VMs of one that was killed.
 *
 * The problem: the old one's memory is gone, and with it who uses which frame.
 * The frames themselves are in a file that the monitors keep, and each monitor
 * knows which ones its own pages are on. So everything can be found out again,
 * as long as nothing changes under the way it is:
 *
 *   1. What the pool's file has memory for is a frame in use. Each is held, by
 *      one reference more, so that none can be freed; its content is read and
 *      goes to the index, so that others may come to it.
 *   2. Each monitor leaves the old manager's socket for good, so that no
 *      proposal can come from there any more, clears its released map, and
 *      writes down what its pages are on, all in one go on the thread that
 *      alone changes it. Each page so named becomes SHARED here. What leaves a
 *      frame from then on is in the released map, as ever.
 *   3. When the last one has told, or its process has ended, the holds go; what
 *      nobody named is free with that (a frame that was written and not yet
 *      proposed, or not proposed any more and not yet punched).
 *
 * A monitor that does not come (stopped, say) delays the third step, and costs
 * memory; it never costs a page.
 *
 * Pages that rest in protection, whose hints were lost, are told too, and read
 * again. Where frames lie in the pool, that is which extent belongs to whom, is
 * not known any more; new pages go beside their neighbours, or to new extents.
 *
 * Trust: what a monitor tells is checked for being a frame of its group's pool
 * with memory behind it. One that lies keeps frames from being freed, until it
 * ends, or loses its own guest's memory.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/p2m_share.h"
#include "mm/sharing/share_priv.h"

#define BATCH 1024u

static void hold(struct share_group *g, uint32_t f)
{
	uint64_t hash = XXH3_64bits(pool_read(g->pool, f), PAGE_SIZE);

	g->frame[f].refs = 1;
	g->frame[f].held = 1;
	/* Without a node nobody finds it: a loss of sharing only. */
	g->frame[f].node = index_insert(g->index, hash, INDEX_FRAME, f);
	g->h->st.no_memory += !g->frame[f].node;
}

int share_group_adopt(struct share_host *h, const char *name, int pool_fd,
		      struct share_group **out)
{
	struct pool *pool;
	int r = pool_adopt(pool_fd, &pool);

	if (!r)
		r = share_group_make(h, name, pool, out);
	if (r)
		return r;
	(*out)->held = true;
	for (uint32_t f = 0; f < pool_end(pool); f++)
		if (pool_in_use(pool, f))
			hold(*out, f);
	return 0;
}

bool share_group_held(const struct share_group *g)
{
	return g->held;
}

void share_group_settle(struct share_group *g)
{
	uint32_t end = pool_end(g->pool);

	for (uint32_t f = 0; f < end; f++) {
		if (!g->frame[f].held)
			continue;
		g->frame[f].held = 0;
		share_frame_put(g, f);
	}
	g->held = false;
}

static int take_word(struct share_vm *v, uint64_t ppn, uint32_t word)
{
	uint32_t f = word - 1;

	if (word == P2M_TELL_PRIVATE) {
		share_todo_add(v, ppn);
		return 0;
	}
	if (!pool_in_use(v->g->pool, f) || v->rec[ppn])
		return -EUCLEAN;
	v->rec[ppn] = rec_make(REC_SHARED, f);
	v->g->frame[f].refs++;
	v->shared++;
	return 0;
}

int share_vm_adopt(struct share_vm *v, int frames_fd)
{
	uint32_t words[BATCH];
	int r = 0;

	for (uint64_t n = 0; n < v->max_ppn && !r; n += BATCH) {
		ssize_t got = pread(frames_fd, words, sizeof(words),
				    (off_t)(n * sizeof(words[0])));

		if (got < 0)
			return -errno;
		for (uint64_t i = 0; !r && i < (size_t)got / sizeof(words[0]);
		     i++)
			if (words[i] && share_vm_is_ram(v, n + i))
				r = take_word(v, n + i, words[i]);
	}
	return r;
}
