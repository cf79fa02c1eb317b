/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths and shapes of the sharing messages; see share.h. */
#include "mm/sharing/share.h"

static size_t body_bytes(uint32_t type, uint32_t n)
{
	struct share_msg *m = NULL;

	switch (type) {
	case SHARE_MSG_COLLECT:
		return sizeof(m->collect);
	case SHARE_MSG_COLLECTED:
		return sizeof(m->collected);
	case SHARE_MSG_PROPOSE:
		return n * sizeof(m->proposals[0]);
	case SHARE_MSG_ANSWER:
		return n * sizeof(m->answers[0]);
	case SHARE_MSG_READ:
		return n * sizeof(m->ppns[0]);
	}
	return 0;
}

size_t share_msg_bytes(const struct share_msg *m)
{
	return offsetof(struct share_msg, proposals) +
	       body_bytes(m->type, m->n);
}

bool share_msg_ok(const struct share_msg *m, size_t len)
{
	if (len < offsetof(struct share_msg, proposals) || len > sizeof(*m))
		return false;
	if (m->type < SHARE_MSG_COLLECT || m->type > SHARE_MSG_READ ||
	    m->n > SHARE_BATCH)
		return false;
	return len == share_msg_bytes(m);
}
