/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sites that keep faulting.
 *
 * The problem. A fault of the host costs two microseconds before any of our code
 * runs: the exception, and the delivery of a signal. Most instructions that
 * fault do so once and never again; but one that touches fresh memory page after
 * page (a heap that grows, a file that is mapped), a driver's access to a device
 * register, or a store to a page that holds code faults each time it is run, or
 * nearly.
 *
 * What is done. Faults that are the guest's business (its page fault, a device,
 * code) are counted by the physical place of the instruction. One that has had
 * SITE_FAULTS of them is a careful site: its units are dropped, and translated
 * anew with a touch in front of the instruction (gen_touch): bt_do_touch asks
 * the shadow's books whether the page is mapped for this access. Mapped pages
 * have a node, others have none, so the answer is exact. If it is, the
 * instruction follows as ever, and faults as ever should the host have taken
 * the page away meanwhile. If it is not, the unit is left as by a callout, with
 * all of the guest's state as it is before the instruction, and the engine's
 * loop does what the signal handler would have done.
 *
 * A touch costs 30 ns or so, so a site that hits more than SITE_HITS times for
 * each miss is one no longer: its units are dropped again, and it needs twice as
 * many faults the next time.
 *
 * Isolation. The touch makes no access; the address that it computes is looked up
 * as a number. What follows it is the same code as without it.
 *
 * Limits. Only plain instructions with one memory operand, without a segment.
 * An access that reaches into a second page faults there as ever, and one that
 * must be aligned is left out, as a #GP goes before a #PF. The table is small and
 * forgets, careful sites too, when nothing is foreseen there while SITE_FAULTS
 * faults of other places want the entry: a place that is not in it only faults more
 * often. Invariant: a unit touches for an entry only while that is careful, and for
 * its place, but for units that are due to go (site_apply). Physical
 * places may come to hold other code: a touch there does no harm, and it
 * settles. A site is the same one in each of its copies (reloc.c), as these are
 * of the same physical page, and all of them go with it.
 *
 * Built with -mgeneral-regs-only: bt_do_touch calls bt_touch with the guest's
 * vector registers in place.
 */
#include "vmm/bt/bt_priv.h"

#define SITE_FAULTS 64u
#define SITE_LEVELS 8u
#define SITE_HITS   16u
#define SITE_MAX    (1u << 20) /* of the counts */

static struct site *site_at(struct bt *bt, uint32_t ppn, unsigned off)
{
	return &bt->site[((ppn << 12 | off) * 0x9e3779b1u) >> (32 - SITE_BITS)];
}

int site_find(struct bt *bt, uint32_t ppn, unsigned off)
{
	struct site *s = site_at(bt, ppn, off);

	if (bt->touch_all)
		return 0;
	return s->careful && s->ppn == ppn && s->off == off
		       ? (int)(s - bt->site)
		       : -1;
}

static void site_drop_later(struct bt *bt, const struct site *s)
{
	bt->site_due = true;
	bt->due_ppn = s->ppn;
	bt->due_off = s->off;
}

void site_fault(struct bt *bt)
{
	const struct ccf *c = &bt->ccf[bt->recovered];
	unsigned off = bt->v->rip & (PAGE_SIZE - 1);
	struct site *s = site_at(bt, c->ppn, off);

	/* One at a time: what is due must be dropped. */
	if (bt->lockstep || (c->flags & CCF_STRADDLE) || bt->site_due)
		return;
	if (s->ppn != c->ppn || s->off != off) {
		/* The place is another's: who faults more often gets it. */
		if (s->faults) {
			s->faults--;
			return;
		}
		if (s->careful) {
			s->careful = false;
			site_drop_later(bt, s);
			return;
		}
		*s = (struct site){.ppn = c->ppn, .off = off};
	}
	if (s->careful || ++s->faults < SITE_FAULTS << s->level)
		return;
	s->careful = true;
	s->faults = SITE_FAULTS;
	s->hits = s->misses = 0;
	bt->stats.sites++;
	site_drop_later(bt, s);
}

void site_settle(struct bt *bt, struct site *s)
{
	if (!s->careful)
		return;
	s->careful = false;
	s->faults = 0;
	if (s->level < SITE_LEVELS)
		s->level++;
	bt->stats.sites_settled++;
	tc_drop_page(bt, s->ppn, s->off, 1);
}

void site_apply(struct bt *bt)
{
	bt->site_due = false;
	tc_drop_page(bt, bt->due_ppn, bt->due_off, 1);
}

struct site *site_missed(struct bt *bt)
{
	struct site *s = &bt->site[bt->v->bt_hot[HOT_TMP2] & (NR_SITES - 1)];

	bt->stats.touches++;
	if (s->careful)
		s->faults = SITE_FAULTS;
	if (++s->misses >= SITE_MAX) {
		s->misses /= 2;
		s->hits /= 2;
	}
	return s;
}

unsigned bt_touch(struct vcpu *v, uint64_t hva, unsigned write)
{
	struct bt *bt = (struct bt *)v->bt;
	struct site *s = &bt->site[v->bt_hot[HOT_TMP2] & (NR_SITES - 1)];

	if (!shadow_has(bt->sh, hva, write))
		return 0;
	if (!s->careful || ++s->hits < (s->misses + 16) * SITE_HITS)
		return 1;
	s->settled = true;
	return 0;
}
