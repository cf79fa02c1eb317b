/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is each unit that may be moved, wherever reloc.c has put it, what a translation
 * at its address would be? For tests, between two runs of the guest: decode and
 * translate it again, as if it were to lie where it lies, and compare the code,
 * byte by byte, and the books, with the notes for the next move among them.
 *
 * Left out are the jumps that chaining patches or makes NOPs of (tc_audit.c
 * follows them), guesses (tests/unit/test_bt_list.c proves that they may be any
 * number), and units that would be translated in another way now: those that a
 * change of pairing or of a careful site is about to drop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"

static bool books_differ(const struct bt *bt, const struct ccf *a,
			 const struct ccf *b)
{
	for (unsigned i = 0; i < CCF_EXITS; i++)
		if (a->exit[i].patch != b->exit[i].patch ||
		    a->exit[i].target != b->exit[i].target ||
		    a->exit[i].cross != b->exit[i].cross ||
		    a->exit[i].call != b->exit[i].call)
			return true;
	for (unsigned i = 0; i < CCF_PADS; i++)
		if (a->pad[i].host != b->pad[i].host ||
		    a->pad[i].next != b->pad[i].next)
			return true;
	for (unsigned i = 0; i < a->n_recov && i < b->n_recov; i++) {
		const struct recov *x = &bt->recov[a->recov + i];
		const struct recov *y = &bt->recov[b->recov + i];

		if (x->host != y->host || x->guest != y->guest ||
		    x->kind != y->kind)
			return true;
	}
	for (unsigned i = 0; i < a->n_reloc && i < b->n_reloc; i++) {
		const struct reloc *x = &bt->reloc[a->reloc + i];
		const struct reloc *y = &bt->reloc[b->reloc + i];

		if (x->at != y->at || x->kind != y->kind ||
		    (x->off != y->off && x->kind != R_GUESS))
			return true;
	}
	return a->n_recov != b->n_recov || a->n_reloc != b->n_reloc ||
	       a->lo != b->lo || a->hi != b->hi || a->direct != b->direct ||
	       a->n_pad != b->n_pad || a->guest_len != b->guest_len ||
	       a->n_insn != b->n_insn ||
	       ((a->flags ^ b->flags) & (CCF_UNPAIRED | CCF_CALLED)) ||
	       a->mode != b->mode || a->check != b->check;
}

/* Offset of the first byte of code that differs, or host_len. */
static unsigned code_differs(struct bt *bt, const struct ccf *c,
			     const struct ccf *d, uint8_t *code)
{
	const uint8_t *is = bt->rw + c->host;
	unsigned o = 0;

	/* Of the header, where it leads and the id. */
	if (c->check)
		memcpy(code + c->check - 8, is + c->check - 8, 8);
	for (unsigned i = 0; i < CCF_EXITS; i++) {
		uint8_t *p = code + d->exit[i].patch;

		if (!d->exit[i].patch)
			continue;
		if (ccf_leads(bt, c, i) == c->host + d->exit[i].patch + 4)
			memcpy(p - 1, is + d->exit[i].patch - 1, 5);
		memcpy(p, is + d->exit[i].patch, 4);
	}
	for (unsigned i = 0; i < d->n_reloc; i++) {
		unsigned at = bt->reloc[d->reloc + i].at;

		if (bt->reloc[d->reloc + i].kind == R_GUESS)
			memcpy(code + at, is + at, 4);
	}
	while (o < c->host_len && code[o] == is[o])
		o++;
	return o;
}

/* Too large for a stack or thread-local data, of which each thread has its own. */
struct work {
	struct tu tu;
	uint8_t code[CCF_MAX_BYTES];
};

static bool unit_differs(struct bt *bt, uint32_t id, struct work *w)
{
	const struct ccf *c = &bt->ccf[id];
	const struct tc_region *g = &bt->region[bt->tc_cur];
	/* Notes and recovery go where the next unit's will. */
	struct ccf d = {
		.host = c->host,
		.recov = bt->tc_cur * bt->region_recov + g->n_recov,
		.reloc = bt->tc_cur * bt->region_reloc + g->n_reloc,
	};
	unsigned o;

	bt->mode = c->mode & ~MODE_CTX_MASK;
	bt->ctx = mode_view(c->mode) - VIEW_USER;
	bt->pend_ibtc = c->check;
	bt->pend_call = c->flags & CCF_CALLED;
	bt->pair_all = !(c->flags & CCF_UNPAIRED);
	if (ret_pairs(bt) != bt->pair_all ||
	    tu_decode(bt, c->rip, c->ppn, &w->tu))
		return false;
	translate_into(bt, &w->tu, &d, w->code);
	if (c->flags & CCF_TURNED)
		ccf_turn(&d, w->code);
	if (books_differ(bt, c, &d) || c->host_len != d.host_len)
		o = 0;
	else
		o = code_differs(bt, c, &d, w->code);
	if (o == c->host_len)
		return false;
	log_error("audit: CCF %u (rip %#llx, %u bytes) is no translation: "
		  "byte %u",
		  id, (unsigned long long)c->rip, c->host_len, o);
	return true;
}

int reloc_audit(struct bt *bt)
{
	bool ibtc = bt->pend_ibtc, call = bt->pend_call;
	bool pair_all = bt->pair_all;
	unsigned mode = bt->mode, ctx = bt->ctx, bad = 0;
	struct bt_stats stats = bt->stats;
	uint64_t gpr[ARRAY_SIZE(bt->v->gpr)];
	struct work *w;

	if (bt->site_due || !tc_has_room(bt))
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	/* What guesses a slot is not moved: nothing to guess from. */
	memcpy(gpr, bt->v->gpr, sizeof(gpr));
	for (unsigned i = 0; i < ARRAY_SIZE(gpr); i++)
		bt->v->gpr[i] = 1ull << 62;
	for (unsigned r = 0; r < TC_REGIONS; r++)
		for (uint32_t k = 0; k < bt->region[r].n_ccf; k++) {
			uint32_t id = r * bt->region_ccf + k;

			if (bt->ccf[id].hi && !(bt->ccf[id].flags & CCF_DEAD))
				bad += unit_differs(bt, id, w);
		}
	bt->pend_ibtc = ibtc;
	bt->pend_call = call;
	bt->pair_all = pair_all;
	bt->mode = mode;
	bt->ctx = ctx;
	bt->stats = stats;
	memcpy(bt->v->gpr, gpr, sizeof(gpr));
	free(w);
	return bad ? -EUCLEAN : 0;
}
