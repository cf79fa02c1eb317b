/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor's side of sharing: does what a message asks and writes the
 * answer. A batch is at most SHARE_BATCH pages, about a millisecond: the guest
 * does not run meanwhile. Neighbouring pages of a batch lose their blocks in
 * one call.
 */
#include <errno.h>

#include "mm/base/failpoint.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"

static enum share_reason commit_one(struct p2m *p,
				    const struct share_proposal *q)
{
	ppn_t ppn = {q->ppn};

	if (q->frame == SHARE_FRAME_ZERO)
		return p2m_commit_zero(p, ppn);
	return p2m_commit_frame(p, ppn, q->frame);
}

static void commit_all(struct p2m *p, const struct share_msg *in,
		       struct share_msg *out, bool busy)
{
	uint64_t start = 0, n = 0; /* the run to punch */

	for (uint32_t i = 0; i < in->n; i++) {
		const struct share_proposal *q = &in->proposals[i];
		enum share_reason r = busy ? SHARE_busy : commit_one(p, q);

		out->answers[i].ppn = q->ppn;
		out->answers[i].frame = q->frame;
		out->answers[i].reason = r;
		if (r)
			continue;
		(void)fail_point("kill-monitor-commit");
		if (n && q->ppn != start + n) {
			p2m_punch(p, (ppn_t){start}, n);
			n = 0;
		}
		if (!n)
			start = q->ppn;
		n++;
	}
	p2m_punch(p, (ppn_t){start}, n);
}

static void count_refusals(struct control *c, const struct share_msg *out)
{
	for (uint32_t i = 0; i < out->n; i++)
		if (out->answers[i].reason)
			control_add(&c->refused[out->answers[i].reason], 1);
}

int share_monitor_handle(struct p2m *p, const struct share_msg *in,
			 struct share_msg *out, bool busy)
{
	bool more = false;

	out->seq = in->seq;
	out->n = 0;
	switch (in->type) {
	case SHARE_MSG_COLLECT:
		out->type = SHARE_MSG_COLLECTED;
		out->collected.taken =
			busy ? 0
			     : p2m_collect(p, in->collect.now_ns,
					   in->collect.budget, &more);
		out->collected.more = more;
		return 0;
	case SHARE_MSG_PROPOSE:
		if (in->n > SHARE_BATCH)
			return -EPROTO;
		out->type = SHARE_MSG_ANSWER;
		out->n = in->n;
		commit_all(p, in, out, busy);
		count_refusals(p2m_control(p), out);
		return 0;
	}
	return -EPROTO;
}
