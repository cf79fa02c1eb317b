/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manager's side recounted from scratch: references from the records, the
 * index against records and frames, counters, queues, the pool's file. One
 * pass over each; nothing is believed that can be counted.
 */
#include <errno.h>
#include <sys/mman.h>

#include "mm/base/log.h"
#include "mm/sharing/share_priv.h"

struct recount {
	struct share_group *g;
	uint32_t *refs; /* by frame */
	uint64_t nodes;
	int bad;
};

static void check(struct recount *rc, const char *what, uint64_t is,
		  uint64_t should)
{
	if (is == should)
		return;
	log_error("audit: group %s: %s is %lu, recounted %lu", rc->g->name,
		  what, (unsigned long)is, (unsigned long)should);
	rc->bad++;
}

static void check_hint(struct recount *rc, struct share_vm *v, uint64_t ppn)
{
	uint32_t id = rec_pay(v->rec[ppn]);
	struct index_node *n = index_node(rc->g->index, id);

	rc->nodes++;
	check(rc, "a hint's node is in use", n->used, 1);
	check(rc, "a hint's VM", n->vm, v->id);
	check(rc, "a hint's PPN", n->page, ppn);
}

static void check_vm(struct recount *rc, struct share_vm *v)
{
	uint64_t shared = 0, pending = 0, todo = 0, young[2] = {0};

	for (uint64_t n = 0; n < v->max_ppn; n++) {
		uint32_t r;

		if (!share_vm_is_ram(v, n))
			continue;
		r = v->rec[n];
		shared += rec_kind(r) == REC_SHARED;
		pending += rec_kind(r) == REC_ZEROING ||
			   (rec_holds(r) && rec_kind(r) != REC_SHARED);
		if (rec_holds(r))
			rc->refs[rec_pay(r)]++;
		if (rec_kind(r) == REC_HINT)
			check_hint(rc, v, n);
	}
	for (uint64_t w = 0; w < v->words; w++) {
		todo += __builtin_popcountll(v->todo[w]);
		young[0] += __builtin_popcountll(v->young[0][w]);
		young[1] += __builtin_popcountll(v->young[1][w]);
	}
	check(rc, "shared pages", v->shared, shared);
	check(rc, "pending pages", v->pending, pending);
	check(rc, "proposals queued and unanswered",
	      v->out_tail - v->out_head + v->unanswered, pending);
	check(rc, "todo pages", v->todo_pages, todo);
	check(rc, "young pages", v->young_pages[0], young[0]);
	check(rc, "rested pages", v->young_pages[1], young[1]);
}

static void check_frames(struct recount *rc)
{
	uint32_t end = pool_end(rc->g->pool);

	for (uint32_t f = 0; f < end; f++) {
		struct frame *fr = &rc->g->frame[f];

		if (fr->held)
			rc->refs[f]++;
		check(rc, "references of a frame", fr->refs, rc->refs[f]);
		check(rc, "a frame is in use", pool_in_use(rc->g->pool, f),
		      rc->refs[f] > 0);
		check(rc, "a frame is held", fr->held, fr->held && rc->g->held);
		if (!fr->node)
			continue;
		rc->nodes++;
		check(rc, "a frame's node names it",
		      index_node(rc->g->index, fr->node)->page, f);
		check(rc, "a frame's node is one of a frame",
		      index_node(rc->g->index, fr->node)->vm, INDEX_FRAME);
	}
}

static int audit_group(struct share_group *g)
{
	size_t bytes = pool_frames(g->pool) * sizeof(uint32_t);
	struct recount rc = {.g = g};

	rc.refs = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rc.refs == MAP_FAILED)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->h->vms; i++)
		if (g->h->vm[i] && g->h->vm[i]->g == g)
			check_vm(&rc, g->h->vm[i]);
	check_frames(&rc);
	check(&rc, "index nodes", index_count(g->index), rc.nodes);
	rc.bad += index_audit(g->index) != 0;
	rc.bad += pool_audit(g->pool) != 0;
	munmap(rc.refs, bytes);
	return rc.bad ? -EUCLEAN : 0;
}

int share_audit(struct share_host *h)
{
	int r = 0;

	for (struct share_group *g = h->groups; g && !r; g = g->next)
		r = audit_group(g);
	return r;
}
