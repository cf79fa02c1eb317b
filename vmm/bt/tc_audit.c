/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation cache's books recounted: everything that tc.c, ccf.c and
 * ibtc.c say of a CCF in one place is looked for in the others, down to the
 * jumps in the code itself. For tests, between two runs of the guest.
 */
#include <errno.h>
#include <string.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"

struct recount {
	struct bt *bt;
	uint64_t live, exits, chained, used, in_ibtc, bad;
};

static void bad_ccf(struct recount *rc, uint32_t id, const char *what)
{
	const struct ccf *c = &rc->bt->ccf[id];

	if (rc->bad++ < 20)
		log_error("audit: CCF %u (rip %#llx, flags %#x): %s", id,
			  (unsigned long long)c->rip, c->flags, what);
}

static void differ(struct recount *rc, const char *what, uint64_t is,
		   uint64_t should)
{
	if (is == should)
		return;
	log_error("audit: %s is %llu, recounted %llu", what,
		  (unsigned long long)is, (unsigned long long)should);
	rc->bad++;
}

static bool is_live(const struct bt *bt, uint32_t id)
{
	unsigned r = id / bt->region_ccf;

	return id && r < TC_REGIONS &&
	       id - r * bt->region_ccf < bt->region[r].n_ccf &&
	       !(bt->ccf[id].flags & CCF_DEAD);
}

/* Where the jump whose rel32 is at TC offset at leads. */
static uint32_t jump_target(const struct bt *bt, uint32_t at)
{
	int32_t d;

	memcpy(&d, bt->rw + at, 4);
	return at + 4 + (uint32_t)d;
}

/* The stub of an exit that is chained to nothing, or not through it. */
static bool stub_is_whole(const struct bt *bt, uint32_t id, unsigned e)
{
	const struct ccf *c = &bt->ccf[id];
	uint32_t at = ccf_stub(c, e), eid = EXIT_ID(id, e);
	const uint8_t *p = bt->rw + at;

	if (c->exit[e].call && memcmp(p, "\x4c\x89\xd4", CALL_ENTRY))
		return false; /* mov rsp, r10 */
	at += ccf_stub_bytes(c) - CCF_STUB;
	p = bt->rw + at;
	return !memcmp(p, "\x41\xbb", 2) && !memcmp(p + 2, &eid, 4) &&
	       jump_target(bt, at + 7) == TC_CHAIN_STUB;
}

/* Is an exit's jump whole: which it is, and where a NOP may be? */
static bool jump_is_whole(const struct bt *bt, const struct ccf *c, unsigned e)
{
	static const uint8_t nop5[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	unsigned at = c->exit[e].patch;
	const uint8_t *p = bt->rw + c->host + at;

	if (c->exit[e].call)
		return p[-1] == 0xe8;
	if (p[-1] == nop5[0])
		return at + 4u == c->host_len && c->exit[e].to &&
		       !memcmp(p - 1, nop5, sizeof(nop5));
	return p[-1] == 0xe9 || (p[-2] == 0x0f && (p[-1] & 0xf0) == 0x80);
}

static void audit_exit(struct recount *rc, uint32_t id, unsigned e)
{
	struct bt *bt = rc->bt;
	const struct ccf *c = &bt->ccf[id];
	const struct ccf_exit *x = &c->exit[e];
	uint32_t want = ccf_stub(c, e), in, n = 0;
	bool whole = true;

	if (!x->patch) {
		if (x->to)
			bad_ccf(rc, id, "chained without an exit");
		return;
	}
	rc->exits++;
	if (x->to) {
		rc->chained++;
		if (!is_live(bt, x->to)) {
			bad_ccf(rc, id, "chained to a CCF that is gone");
			return;
		}
		if (bt->ccf[x->to].rip != c->rip + (int64_t)x->target)
			bad_ccf(rc, id, "chained to what is elsewhere");
		want = bt->ccf[x->to].host + bt->ccf[x->to].direct;
		if (x->call && bt->ccf[x->to].flags & CCF_CALLED) {
			want -= CALL_ENTRY;
		} else if (x->call) {
			if (jump_target(bt, ccf_stub(c, e) + CALL_ENTRY + 1) !=
			    want)
				bad_ccf(rc, id,
					"a call's stub leads elsewhere");
			want = ccf_stub(c, e);
			whole = false;
		}
		for (in = bt->ccf[x->to].incoming; in;
		     in = bt->ccf[EXIT_CCF(in)].exit[EXIT_NO(in)].next_in)
			n += in == EXIT_ID(id, e);
		if (n != 1)
			bad_ccf(rc, id, "not in its target's list once");
	}
	if (!jump_is_whole(bt, c, e))
		bad_ccf(rc, id, "an exit's jump is none");
	if (ccf_leads(bt, c, e) != want)
		bad_ccf(rc, id, "an exit leads elsewhere");
	if (whole && !stub_is_whole(bt, id, e))
		bad_ccf(rc, id, "an exit's stub is another's");
}

static bool any_chained(const struct ccf *c)
{
	for (unsigned e = 0; e < CCF_EXITS; e++)
		if (c->exit[e].to)
			return true;
	return false;
}

static void audit_page(struct recount *rc, uint32_t id, uint32_t ppn)
{
	struct bt *bt = rc->bt;
	unsigned n = 0;

	for (uint32_t k = bt->page_head[ppn]; k;) {
		const struct ccf *c = &bt->ccf[k];

		n += k == id;
		k = (c->flags & CCF_STRADDLE) && c->ppn2 == ppn && c->ppn != ppn
			    ? c->next_page2
			    : c->next_page;
	}
	if (n != 1)
		bad_ccf(rc, id, "not in its page's list once");
	if (!p2m_is_code(bt->p2m, (ppn_t){ppn}))
		bad_ccf(rc, id, "its page is not marked as code");
}

static void audit_live(struct recount *rc, uint32_t id)
{
	struct bt *bt = rc->bt;
	const struct ccf *c = &bt->ccf[id];
	uint32_t in, next;

	rc->live++;
	if (tc_find(bt, c->host) != id ||
	    tc_find(bt, c->host + c->host_len - 1) != id)
		bad_ccf(rc, id, "not found by its host PC");
	if (!(c->flags & CCF_STRADDLE) &&
	    !tc_lookup(bt, c->rip, c->ppn, c->mode))
		bad_ccf(rc, id, "not found by its rip");
	audit_page(rc, id, c->ppn);
	if (c->flags & CCF_STRADDLE)
		audit_page(rc, id, c->ppn2);
	for (unsigned e = 0; e < CCF_EXITS; e++)
		audit_exit(rc, id, e);
	for (in = c->incoming; in;
	     in = bt->ccf[EXIT_CCF(in)].exit[EXIT_NO(in)].next_in)
		if (!is_live(bt, EXIT_CCF(in)) ||
		    bt->ccf[EXIT_CCF(in)].exit[EXIT_NO(in)].to != id) {
			bad_ccf(rc, id, "a wrong exit in its list");
			break;
		}
	if (memcmp(bt->rw + c->checked - sizeof(id), &id, sizeof(id)))
		bad_ccf(rc, id, "another's id in front of its check");
	next = c->ibtc_next;
	if (next && (!c->in_ibtc || !is_live(bt, next)))
		bad_ccf(rc, id, "a wrong successor in the IBTC");
	if (jump_target(bt, ccf_miss(c)) !=
	    (next ? bt->ccf[next].checked : TC_MISS_STUB))
		bad_ccf(rc, id, "its failed check leads elsewhere");
	rc->in_ibtc += c->in_ibtc;
}

static void audit_region(struct recount *rc, unsigned r)
{
	struct bt *bt = rc->bt;
	const struct tc_region *g = &bt->region[r];
	uint32_t first = r * bt->region_ccf;
	uint32_t at = r * bt->region_bytes, cold = at + bt->region_bytes;

	rc->used += g->used + g->cold;
	for (uint32_t k = r ? 0 : 1; k < g->n_ccf; k++) {
		const struct ccf *c = &bt->ccf[first + k];

		if (c->host < at ||
		    c->host + c->host_len > r * bt->region_bytes + g->used)
			bad_ccf(rc, first + k, "out of its place");
		at = c->host + c->host_len;
		if (c->cold + c->cold_len > cold)
			bad_ccf(rc, first + k, "its cold part out of place");
		cold = c->cold;
		if (!(c->flags & CCF_DEAD))
			audit_live(rc, first + k);
		else if (c->incoming || any_chained(c) || c->in_ibtc)
			bad_ccf(rc, first + k, "dead and linked");
	}
}

static void audit_hash(struct recount *rc)
{
	struct bt *bt = rc->bt;
	uint64_t n = 0;

	for (uint32_t b = 0; b < 1u << bt->hash_bits; b++)
		for (uint32_t id = bt->hash[b]; id;
		     id = bt->ccf[id].next_hash) {
			n++;
			if (!is_live(bt, id))
				bad_ccf(rc, id, "in the hash, but gone");
		}
	differ(rc, "the number of CCFs in the hash", n, rc->live);
}

static uint32_t head_of(struct bt *bt, unsigned v, unsigned slot)
{
	const uint8_t *e = bt->ibtc[v][slot];
	uint32_t id;

	if (e == bt->ibtc_miss)
		return 0;
	memcpy(&id, bt->rw + (e - bt->rx) - sizeof(id), sizeof(id));
	return is_live(bt, id) ? id : 0;
}

static void audit_ibtc(struct recount *rc)
{
	struct bt *bt = rc->bt;
	uint64_t n = 0;

	for (unsigned v = 0; v < NR_VIEWS; v++)
		for (uint32_t i = 0; i < BT_IBTC_ENTRIES; i++) {
			uint32_t id = head_of(bt, v, i);
			void *want = id ? bt->rx + bt->ccf[id].checked
					: bt->ibtc_miss;

			if (bt->ibtc[v][i] != want)
				bad_ccf(rc, id,
					"an IBTC entry leads elsewhere");
			for (; id; id = bt->ccf[id].ibtc_next) {
				n++;
				if (!is_live(bt, id) || !bt->ccf[id].in_ibtc)
					bad_ccf(rc, id,
						"in the IBTC, but gone");
			}
		}
	differ(rc, "the number of CCFs in the IBTC", n, rc->in_ibtc);
}

static bool is_pad(struct bt *bt, const struct ccf *c, uint32_t at,
		   const uint64_t *entry)
{
	for (unsigned i = 0; i < c->n_pad; i++)
		if (at == c->host + c->pad[i].host &&
		    entry == ret_entry(bt, c->mode, c->rip + c->pad[i].next))
			return true;
	return false;
}

/* Each entry is the stub's, or the pad of a CCF whose call it is for. */
static void audit_returns(struct recount *rc)
{
	struct bt *bt = rc->bt;

	for (unsigned u = 0; u < 2; u++)
		for (unsigned i = 0; i < ARRAY_SIZE(bt->v->bt_ret[u]); i++) {
			uint32_t at = bt->v->bt_ret[u][i] - (uint64_t)bt->rx;
			uint32_t id = tc_find(bt, at);

			if (at == TC_RET_STUB)
				continue;
			if (!is_live(bt, id) ||
			    !is_pad(bt, &bt->ccf[id], at, &bt->v->bt_ret[u][i]))
				bad_ccf(rc, id, "a wrong pad of a return");
		}
}

int tc_audit(struct bt *bt)
{
	struct recount rc = {.bt = bt};

	for (unsigned r = 0; r < TC_REGIONS; r++)
		audit_region(&rc, r);
	audit_hash(&rc);
	audit_ibtc(&rc);
	audit_returns(&rc);
	differ(&rc, "units_live", bt->stats.units_live, rc.live);
	differ(&rc, "exits", bt->stats.exits, rc.exits);
	differ(&rc, "exits_chained", bt->stats.exits_chained, rc.chained);
	differ(&rc, "tc_used", bt->stats.tc_used, rc.used);
	return rc.bad ? -EUCLEAN : 0;
}
