/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records, references and the queue of proposals.
 *
 * A reference on a frame is a record that names it (PENDING, EARLY, SHARED), so
 * the audit can recount references by walking the records. Order of events for
 * one page, and what the record does:
 *
 *   proposed             PENDING (frame + 1)
 *   answered ok          SHARED
 *   answered no          NONE    (frame - 1)
 *   released bit         SHARED -> NONE (frame - 1); PENDING -> EARLY, because
 *                        the answer is still under way: a page cannot be
 *                        released before it was committed
 *   answered ok, EARLY   NONE    (frame - 1)
 *   VM gone              NONE    (frame - 1)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/sharing/share_priv.h"

void share_frame_put(struct share_group *g, uint32_t f)
{
	ASSERT(g->frame[f].refs);
	if (--g->frame[f].refs)
		return;
	if (g->frame[f].node)
		index_remove(g->index, g->frame[f].node);
	g->frame[f].node = 0;
	(void)fail_point("kill-manager-frame");
	pool_free(g->pool, f);
}

void share_rec_clear(struct share_vm *v, uint64_t ppn)
{
	uint32_t r = v->rec[ppn];

	if (!r)
		return;
	v->rec[ppn] = 0;
	switch (rec_kind(r)) {
	case REC_HINT:
		index_remove(v->g->index, rec_pay(r));
		break;
	case REC_SHARED:
		v->shared--;
		share_frame_put(v->g, rec_pay(r));
		break;
	case REC_PENDING:
	case REC_EARLY:
		v->pending--;
		share_frame_put(v->g, rec_pay(r));
		break;
	case REC_ZEROING:
		v->pending--;
		break;
	case REC_NONE:
		break;
	}
}

void share_rec_hint(struct share_vm *v, uint64_t ppn, uint64_t hash)
{
	uint32_t id = index_insert(v->g->index, hash, v->id, ppn);

	ASSERT(!v->rec[ppn]);
	if (!id) {
		v->h->st.no_memory++;
		return;
	}
	v->rec[ppn] = rec_make(REC_HINT, id);
	v->h->st.hints_made++;
}

void share_rec_released(struct share_vm *v, uint64_t ppn)
{
	uint32_t r = v->rec[ppn];

	if (rec_kind(r) == REC_PENDING) {
		v->rec[ppn] = rec_make(REC_EARLY, rec_pay(r));
	} else if (rec_kind(r) == REC_SHARED) {
		share_rec_clear(v, ppn);
		v->broken++;
		v->h->st.broken_pages++;
	}
}

void share_todo_add(struct share_vm *v, uint64_t ppn)
{
	uint64_t bit = 1ull << ppn % 64;

	if (v->todo[ppn / 64] & bit)
		return;
	v->todo[ppn / 64] |= bit;
	v->todo_pages++;
}

/* The queue. */

static int queue_room(struct share_vm *v)
{
	uint32_t n = v->out_tail - v->out_head, cap;
	struct share_proposal *q;

	if (v->out_tail < v->out_cap)
		return 0;
	if (v->out_head >= v->out_cap / 2 && v->out_head) {
		memmove(v->out, v->out + v->out_head, n * sizeof(*v->out));
	} else {
		cap = v->out_cap ? v->out_cap * 2 : SHARE_BATCH;
		q = realloc(v->out, cap * sizeof(*q));
		if (!q)
			return -ENOMEM;
		memmove(q, q + v->out_head, n * sizeof(*q));
		v->out = q;
		v->out_cap = cap;
	}
	v->out_head = 0;
	v->out_tail = n;
	return 0;
}

int share_propose(struct share_vm *v, uint64_t ppn, uint32_t frame)
{
	if (v->broken_pipe)
		return -EPIPE;
	if (queue_room(v))
		return -ENOMEM;
	ASSERT(!v->rec[ppn]);
	v->out[v->out_tail++] =
		(struct share_proposal){.ppn = ppn, .frame = frame};
	v->pending++;
	if (frame == SHARE_FRAME_ZERO) {
		v->rec[ppn] = rec_make(REC_ZEROING, 0);
	} else {
		v->rec[ppn] = rec_make(REC_PENDING, frame);
		v->g->frame[frame].refs++;
	}
	return 0;
}

void share_flush(struct share_vm *v)
{
	struct share_msg m;

	/* Messages, however few proposals are in each: what a monitor takes at
	 * once is bounded (vmm/monitor.c), and it hangs up beyond that. */
	while (v->out_head < v->out_tail && v->in_flight < v->h->par.inflight &&
	       !v->broken_pipe) {
		uint32_t n = v->out_tail - v->out_head;
		int r;

		m.type = SHARE_MSG_PROPOSE;
		m.n = n < SHARE_BATCH ? n : SHARE_BATCH;
		m.seq = ++v->seq;
		memcpy(m.proposals, v->out + v->out_head,
		       m.n * sizeof(m.proposals[0]));
		(void)fail_point("kill-manager-propose");
		r = v->h->ops->send(v->h->ctx, v, &m);
		(void)fail_point("kill-manager-proposed");
		if (r == -EAGAIN)
			return;
		if (r) {
			v->broken_pipe = true;
			return;
		}
		v->out_head += m.n;
		v->unanswered += m.n;
		v->in_flight++;
	}
	if (v->out_head == v->out_tail)
		v->out_head = v->out_tail = 0;
}
