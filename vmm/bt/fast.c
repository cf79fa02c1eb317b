/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way out of the TC that stays cheap: an exit that wants to be chained, or
 * an indirect branch that missed in the IBTC, when the target is translated
 * already. Runs with the guest's vector registers and FS base in place: this
 * file is built with -mgeneral-regs-only (Makefile), calls nothing outside
 * tc.c's lookup (which is built the same way) and uses no thread-local data.
 */
#include "vmm/bt/bt_priv.h"

uint64_t bt_fast_dispatch(struct vcpu *v)
{
	struct bt *bt = (struct bt *)v->bt;
	uint64_t kind = v->bt_hot[HOT_EXIT_KIND], rip;
	uint32_t from = 0, id, ppn = 0;
	unsigned exit = 0;
	struct ccf *c;

	if (kind == BT_EXIT_CHAIN) {
		bt->stats.chain_misses++;
		from = EXIT_CCF(v->bt_hot[HOT_EXIT_INFO]);
		exit = EXIT_NO(v->bt_hot[HOT_EXIT_INFO]);
		c = &bt->ccf[from];
		rip = c->rip + (int64_t)c->exit[exit].target;
		ppn = c->ppn;
	} else {
		bt->stats.ibtc_misses++;
		rip = v->bt_hot[HOT_EXIT_INFO];
	}
	v->rip = rip;
	if (bt->lockstep)
		return 0;
	if ((!from || ccf_crosses(&bt->ccf[from], exit)) &&
	    !exec_cached(bt, rip, &ppn))
		return 0;
	id = tc_lookup(bt, rip, ppn, bt_key(bt));
	if (!id)
		id = reloc_copy(bt, rip, ppn, from, true);
	if (!id)
		return 0;
	bt->stats.fast_exits++;
	c = &bt->ccf[id];
	if (!bt->chain)
		return (uint64_t)(bt->rx + c->host + c->direct);
	if (from && !(bt->ccf[from].flags & CCF_DEAD)) {
		bool again = bt->ccf[from].exit[exit].again;

		tc_chain(bt, from, exit, id);
		if (again)
			reloc_chain(bt, from);
	} else {
		ibtc_fill(bt, id);
	}
	return (uint64_t)(bt->rx + c->host + c->direct);
}
