/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of a page that was read: zero, equal to a shared frame, equal to
 * a hint's page, or a new hint. A hash only says where to look: bytes are
 * compared here before a frame is spent, and again by the monitor, when nobody
 * can write them, before anything is switched.
 *
 * Which frame. Two pages meet, the hint's (older) and the new one. First
 * choice: right after the frame of the page before the hint's page, then of
 * the page before the new page; then places by 2 MiB pieces (pool.c), the
 * hint's VM first, so that the VM that was first keeps its order and those made
 * from the same image find it.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/sharing/share_priv.h"
#include "mm/zero.h"

static uint32_t after_neighbour(const struct share_vm *v, uint64_t ppn)
{
	uint32_t r = ppn ? v->rec[ppn - 1] : 0;

	return rec_holds(r) ? rec_pay(r) + 1 : POOL_NONE;
}

static uint32_t choose_frame(struct share_vm *v, uint64_t ppn,
			     struct share_vm *w, uint64_t hint)
{
	struct pool *q = v->g->pool;
	struct pool_wish wish[2] = {{w->id + 1, hint}, {v->id + 1, ppn}};
	uint32_t near = after_neighbour(w, hint);

	if (near == POOL_NONE || pool_in_use(q, near))
		near = after_neighbour(v, ppn);
	return pool_alloc(q, near, wish, 2);
}

/* Two equal pages without a frame. node is the hint's. */
static void join(struct share_vm *v, uint64_t ppn, const uint8_t *page,
		 uint32_t node)
{
	struct share_group *g = v->g;
	struct index_node *n = index_node(g->index, node);
	struct share_vm *w = v->h->vm[n->vm];
	uint64_t hint = n->page;
	uint32_t f = choose_frame(v, ppn, w, hint);

	if (f == POOL_NONE) {
		v->h->st.pool_full++;
		return;
	}
	if (pool_write(g->pool, f, page)) {
		v->h->st.no_memory++;
		pool_free(g->pool, f);
		return;
	}
	(void)fail_point("kill-manager-pool");
	/* The node changes hands: from the hint's record to the frame. */
	w->rec[hint] = 0;
	n->vm = INDEX_FRAME;
	n->page = f;
	g->frame[f] = (struct frame){.node = node, .refs = 1};
	(void)share_propose(w, hint, f);
	(void)share_propose(v, ppn, f);
	share_frame_put(g, f); /* our own hold while proposing */
}

static bool in_use(const struct share_vm *v, uint64_t ppn)
{
	return control_get(&v->changed[ppn / 64]) >> ppn % 64 & 1;
}

/* Is the hint's page still what it was? Reads it into buf2. */
static bool hint_equal(struct share_vm *w, uint64_t ppn, const uint8_t *page)
{
	if (!w->enabled || w->broken_pipe || in_use(w, ppn) ||
	    pread(w->memfd, w->h->buf2, PAGE_SIZE, ppn << PAGE_SHIFT) !=
		    (ssize_t)PAGE_SIZE)
		return false;
	return !memcmp(w->h->buf2, page, PAGE_SIZE);
}

/* The page found a node with its hash. True: the page is dealt with; false:
 * the hint was stale and is gone. */
static bool meet(struct share_vm *v, uint64_t ppn, const uint8_t *page,
		 uint32_t node)
{
	struct share_stats *st = &v->h->st;
	struct index_node *n = index_node(v->g->index, node);
	struct share_vm *w;
	uint64_t hint;

	if (n->vm == INDEX_FRAME) {
		if (memcmp(pool_read(v->g->pool, n->page), page, PAGE_SIZE)) {
			st->collisions++;
			return true;
		}
		st->frame_matches++;
		(void)share_propose(v, ppn, n->page);
		return true;
	}
	w = v->h->vm[n->vm];
	if (!hint_equal(w, n->page, page)) {
		st->hint_stale++;
		hint = n->page;
		share_rec_clear(w, hint);
		if (!w->enabled) /* not stale: for when it takes part again */
			share_todo_add(w, hint);
		return false;
	}
	st->hint_matches++;
	join(v, ppn, page, node);
	return true;
}

void share_match_page(struct share_vm *v, uint64_t ppn, const uint8_t *page)
{
	uint64_t hash;
	uint32_t node;

	v->h->st.scanned_pages++;
	if (zero_page(page)) {
		(void)share_propose(v, ppn, SHARE_FRAME_ZERO);
		return;
	}
	hash = XXH3_64bits(page, PAGE_SIZE);
	while ((node = index_find(v->g->index, hash)))
		if (meet(v, ppn, page, node))
			return;
	share_rec_hint(v, ppn, hash);
}
