/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translations of user code at another address.
 *
 * The problem: a translation holds its guest address in many places (targets,
 * return addresses, PC-relative operands), and address-space randomisation puts
 * the same page of a library at another address in each process. An exec of a
 * dynamically linked program translated 2,400 units anew, which was most of its
 * cost.
 *
 * What is done: the translator notes the fields of a unit that depend on where it
 * is (struct reloc: where, of which kind, how far from rip). A unit so is a
 * template for its (PPN, offset, mode): for another address, or another context,
 * it is copied, and its fields are written anew.
 *
 * Why a copy is what a translation at its address would be, byte by byte:
 *
 * 1. In translated code an address is only what field() wrote, by reloc_put, from
 *    the unit's rip and place and the note. Here the same function writes it
 *    again, from the same note.
 * 2. What was decided by an address was asked of moves() or is_canonical(), which
 *    have narrowed [lo, hi) to where the answer is the same; or the unit is
 *    pinned. fits_at() keeps to that (translate_addr.c).
 * 3. All else comes from the bytes, the mode and the offset in the page, which are
 *    the template's key, and from what units are dropped for (site.c, ibtc.c).
 * 4. Chained exits, the jump of a check that fails and the cold part are made anew
 *    (cold_put), unchained; the recovery table has no address in it.
 * 5. Which of the last two exits comes first is the template's (ccf_turn): either is
 *    a translation.
 *
 * The value in the code is never read, and nothing is learnt from a guest. (It once
 * was: two samples were compared, and a guest chose its addresses so that they
 * looked alike in another way than they were.) Tests have each unit translated
 * again where it is and compare (reloc_audit.c).
 *
 * Data: a table, TMPL_WAYS entries a set, of the newest unit for (PPN, offset,
 * mode), and of its newest copies; what is pushed out is translated again (a
 * direct-mapped one had an exec translate 160 units anew each time). A copy
 * that its context has outlived is moved to the new address, or the oldest when
 * there are TMPL_COPIES, so that processes that come and go do not fill the TC. An
 * entry may name a unit that has been evicted since: it is looked at before it is
 * believed. Notes lie in the part of their array that belongs to the unit's region
 * of the TC, and go with it; a copy has its own.
 *
 * Whole pages. The copies of a page that a context has are a group. When the
 * context has been emptied since, and code of that page is run at another
 * address, a process has most likely taken the place of another: the group is
 * moved there in place, all at once, with the chains between its units. Chains
 * to and from any other unit are undone, as are those that lead out of the page;
 * the units leave the IBTC.
 *
 * What was undone most likely comes back: the process is one more of the same
 * program. So units that had been in the IBTC are put there at once, for their
 * page has just been walked for; and exits out of the page that had been chained
 * are chained again as soon as the walk for their target is known to hold (in the
 * ITLB) and its unit is there: when their page is moved, and whenever one of them
 * is taken. Without that each was an exit from the TC, 840 of them an exec. It is
 * the same look-up, under the same conditions, that such an exit would have made.
 *
 * Called from fast.c as well: no vector registers (Makefile), no libc (a memcpy of
 * a constant size is none).
 */
#include <string.h>

#include "vmm/bt/bt_priv.h"

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

void reloc_put(const struct ccf *c, uint8_t *code, const struct reloc *r)
{
	uint8_t *p = code + r->at;
	uint64_t a = c->rip + (int64_t)r->off;

	switch (r->kind) {
	case R_ADDR:
		put64(p, a);
		break;
	case R_MINUS:
		put64(p, check_bias() - a);
		break;
	case R_TABLE:
		put32(p, table_disp(a));
		break;
	case R_HOST:
		put32(p, c->host + r->off);
		break;
	case R_GUESS:
		put32(p, r->off);
		break;
	case R_STUB:
		put32(p, r->off - (c->host + r->at + 4));
		break;
	}
}

static void put_fields(struct bt *bt, const struct ccf *c)
{
	for (unsigned i = 0; i < c->n_reloc; i++)
		reloc_put(c, bt->rw + c->host, &bt->reloc[c->reloc + i]);
}

static bool fits_at(const struct ccf *c, uint64_t rip)
{
	return (int64_t)rip >= c->lo && (int64_t)rip < c->hi;
}

/* What is not paired is no longer wanted where calls are. */
static bool pairs_as_now(const struct bt *bt, const struct ccf *c)
{
	return !(c->flags & CCF_UNPAIRED) || !ret_pairs(bt);
}

/* Never 0: there are only user units in the table. */
static uint64_t tmpl_key(uint64_t rip, uint32_t ppn, uint8_t mode)
{
	return (uint64_t)(mode & ~MODE_CTX_MASK) << 56 | (uint64_t)ppn << 12 |
	       (rip & (PAGE_SIZE - 1));
}

static struct tmpl *tmpl_set(struct bt *bt, uint64_t key)
{
	return &bt->tmpl[(key * 0x9e3779b97f4a7c15ull >> (64 - TMPL_BITS)) &
			 -TMPL_WAYS];
}

static struct tmpl *tmpl_find(struct bt *bt, uint64_t key)
{
	struct tmpl *t = tmpl_set(bt, key);

	for (unsigned i = 0; i < TMPL_WAYS; i++)
		if (t[i].key == key)
			return &t[i];
	return NULL;
}

/* Its entry, or a new one, for which another may have to go. */
static struct tmpl *tmpl_take(struct bt *bt, uint64_t key)
{
	struct tmpl *t = tmpl_find(bt, key), *set = tmpl_set(bt, key);

	if (t)
		return t;
	t = &set[bt->stats.translations % TMPL_WAYS];
	for (unsigned i = 0; i < TMPL_WAYS; i++)
		if (!set[i].key || bt->ccf[set[i].src].flags & CCF_DEAD) {
			t = &set[i];
			break;
		}
	*t = (struct tmpl){.key = key};
	return t;
}

/* Is it a unit of this PPN, offset in the page and mode that may be moved? */
static bool is_same(const struct bt *bt, uint32_t id, uint64_t rip,
		    uint32_t ppn, uint8_t mode)
{
	const struct ccf *a = &bt->ccf[id];
	unsigned r = id / bt->region_ccf;

	return id && id - r * bt->region_ccf < bt->region[r].n_ccf &&
	       a->ppn == ppn && !((a->mode ^ mode) & ~MODE_CTX_MASK) &&
	       !((a->rip ^ rip) & (PAGE_SIZE - 1)) && !(a->flags & CCF_DEAD) &&
	       a->hi;
}

void reloc_learn(struct bt *bt, uint32_t id)
{
	const struct ccf *b = &bt->ccf[id];

	if (b->hi)
		tmpl_take(bt, tmpl_key(b->rip, b->ppn, b->mode))->src = id;
}

static void copy_code(struct bt *bt, const struct ccf *from,
		      const struct ccf *to)
{
	const uint8_t *s = bt->rw + from->host;
	uint8_t *d = bt->rw + to->host;
	unsigned n = from->host_len, i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t w;

		memcpy(&w, s + i, 8);
		memcpy(d + i, &w, 8);
	}
	for (; i < n; i++)
		d[i] = s[i];
}

/* May this copy be moved elsewhere? */
static bool spare(const struct bt *bt, const struct tmpl *t, uint32_t id,
		  const struct ccf *a, uint32_t from)
{
	return id != from && id != t->src &&
	       is_same(bt, id, a->rip, a->ppn, a->mode) &&
	       bt->ccf[id].host_len == a->host_len &&
	       bt->ccf[id].cold_len == a->cold_len &&
	       bt->ccf[id].n_recov == a->n_recov &&
	       bt->ccf[id].n_reloc == a->n_reloc;
}

static uint16_t life_now(const struct bt *bt)
{
	return bt->set[bt->ctx].life;
}

/*
 * Which copy shall be moved? One of this context that is from before it was last
 * emptied: most likely of a process that has ended, and so its lines are in the
 * caches still. Else the oldest, if all are in use. TMPL_COPIES: none.
 */
static unsigned recycle(const struct bt *bt, const struct tmpl *t,
			const struct ccf *a, uint32_t from)
{
	unsigned i;

	for (i = 0; i < TMPL_COPIES; i++) {
		const struct ccf *c = &bt->ccf[t->copy[i]];

		if (t->copy[i] && c->mode == bt_key(bt) &&
		    c->life != life_now(bt) &&
		    spare(bt, t, t->copy[i], a, from))
			return i;
	}
	return spare(bt, t, t->copy[i - 1], a, from) ? i - 1 : i;
}

/* c, whose places are known, becomes a copy of a. */
static void become(struct bt *bt, struct ccf *c, const struct ccf *a,
		   uint64_t rip)
{
	struct ccf old = *c;

	*c = *a;
	c->rip = rip;
	c->mode = bt_key(bt);
	c->host = old.host;
	c->cold = old.cold;
	c->recov = old.recov;
	c->reloc = old.reloc;
	c->next_page = old.next_page;
	c->flags = a->flags & (CCF_UNPAIRED | CCF_CALLED | CCF_TURNED);
	c->incoming = c->ibtc_next = 0;
	c->in_ibtc = c->reached = false;
	c->life = life_now(bt);
	for (unsigned i = 0; i < ARRAY_SIZE(c->exit); i++)
		c->exit[i].to = c->exit[i].next_in = c->exit[i].again = 0;
	for (unsigned i = 0; i < c->n_recov; i++)
		bt->recov[c->recov + i] = bt->recov[a->recov + i];
	for (unsigned i = 0; i < c->n_reloc; i++)
		bt->reloc[c->reloc + i] = bt->reloc[a->reloc + i];
	copy_code(bt, a, c);
	put_fields(bt, c);
}

/* ---- pages ---- */

static bool group_is(const struct bt *bt, const struct page_group *g,
		     uint32_t ppn)
{
	return g->n && g->ppn == ppn && g->mode == bt_key(bt);
}

/* The page's, or the entry that it would take. */
static struct page_group *group_of(struct bt *bt, uint32_t ppn)
{
	uint64_t key = (uint64_t)bt_key(bt) << 32 | ppn;
	struct page_group *set =
		&bt->group[key * 0x9e3779b97f4a7c15ull >> (64 - GROUP_BITS) &
			   -GROUP_WAYS];
	struct page_group *g = &set[ppn % GROUP_WAYS];

	for (unsigned i = 0; i < GROUP_WAYS; i++) {
		if (group_is(bt, &set[i], ppn))
			return &set[i];
		if (!set[i].n)
			g = &set[i];
	}
	return g;
}

/* It may name units that have gone or been moved by themselves. */
static bool in_group(const struct bt *bt, const struct page_group *g,
		     uint64_t vpage, uint32_t id)
{
	const struct ccf *c = &bt->ccf[id];

	return is_same(bt, id, vpage << PAGE_SHIFT | (c->rip & ~PAGE_MASK),
		       g->ppn, g->mode) &&
	       c->mode == g->mode && c->rip >> PAGE_SHIFT == vpage;
}

static void group_add(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	struct page_group *g = group_of(bt, c->ppn);
	uint64_t vpage = c->rip >> PAGE_SHIFT;
	unsigned n = 0;

	if (!group_is(bt, g, c->ppn) || g->vpage != vpage) {
		g->vpage = vpage;
		g->ppn = c->ppn;
		g->mode = c->mode;
		g->n = 0;
	}
	g->life = life_now(bt);
	if (g->n == GROUP_MAX) {
		for (unsigned i = 0; i < GROUP_MAX; i++)
			if (in_group(bt, g, vpage, g->id[i]))
				g->id[n++] = g->id[i];
		g->n = n;
	}
	/* Those that are too many are copied one by one. */
	if (g->n < GROUP_MAX)
		g->id[g->n++] = id;
}

static void move_unit(struct bt *bt, uint32_t id, uint64_t rip)
{
	struct ccf *c = &bt->ccf[id];

	ccf_move(bt, id, rip);
	put_fields(bt, c);
	c->life = life_now(bt);
	cold_move(bt, id);
	bt->stats.moves++;
}

/* The units of a page lie all over the place: have them on their way. */
#define AHEAD 6u
static void fetch_unit(struct bt *bt, const struct page_group *g, unsigned n,
		       unsigned i)
{
	const struct ccf *c;

	if (i + 2 * AHEAD < n) {
		c = &bt->ccf[g->id[i + 2 * AHEAD]];
		__builtin_prefetch(c);
		__builtin_prefetch((const uint8_t *)c + 64);
		__builtin_prefetch((const uint8_t *)c + 128);
	}
	if (i + AHEAD >= n)
		return;
	c = &bt->ccf[g->id[i + AHEAD]];
	ccf_move_soon(bt, g->id[i + AHEAD],
		      g->vpage << PAGE_SHIFT | (c->rip & ~PAGE_MASK));
	__builtin_prefetch(bt->rw + c->host, 1);
	__builtin_prefetch(bt->rw + c->host + 64, 1);
	__builtin_prefetch(bt->rw + c->cold, 1);
	__builtin_prefetch(&bt->reloc[c->reloc]);
}

/* Chain the exits of a unit that lead out of its page and were chained before, if
 * their targets are at hand. */
static void chain_again(struct bt *bt, uint32_t id)
{
	const struct ccf *c = &bt->ccf[id];

	for (unsigned e = 0; e < CCF_EXITS; e++) {
		const struct ccf_exit *x = &c->exit[e];
		uint64_t rip = c->rip + (int64_t)x->target;
		uint32_t ppn, to;

		if (!x->again || x->to || !ccf_crosses(c, e) ||
		    !exec_cached(bt, rip, &ppn))
			continue;
		to = tc_lookup(bt, rip, ppn, c->mode);
		if (to)
			tc_chain(bt, id, e, to);
	}
}

void reloc_chain(struct bt *bt, uint32_t id)
{
	const struct ccf *c = &bt->ccf[id];
	struct page_group *g = group_of(bt, c->ppn);

	if (c->mode != bt_key(bt) || !group_is(bt, g, c->ppn))
		return;
	for (unsigned i = 0; i < g->n; i++)
		if (in_group(bt, g, g->vpage, g->id[i]))
			chain_again(bt, g->id[i]);
}

/* The units of a page have just been moved. */
static void settle_page(struct bt *bt, const struct page_group *g)
{
	for (unsigned i = 0; i < g->n; i++)
		ccf_moved(bt, g->id[i]);
	for (unsigned i = 0; i < g->n && bt->chain; i++) {
		if (bt->ccf[g->id[i]].reached && !bt->cold)
			ibtc_fill(bt, g->id[i]);
		chain_again(bt, g->id[i]);
	}
}

/*
 * Move what this context had of the page, in its life before, to where the page
 * is now. Not while one of it is being run, which is so only if the jump comes
 * from there.
 */
static bool move_page(struct bt *bt, uint64_t rip, uint32_t ppn, uint32_t from)
{
	struct page_group *g = group_of(bt, ppn);
	uint64_t vpage = rip >> PAGE_SHIFT, old = g->vpage;
	unsigned all = g->n, n = 0;

	if (!group_is(bt, g, ppn) || old == vpage || g->life == life_now(bt) ||
	    (from && bt->ccf[from].ppn == ppn))
		return false;
	g->vpage = vpage;
	g->life = life_now(bt);
	for (unsigned i = 0; i < all; i++) {
		uint32_t id = g->id[i];
		const struct ccf *c = &bt->ccf[id];
		uint64_t to = vpage << PAGE_SHIFT | (c->rip & ~PAGE_MASK);

		fetch_unit(bt, g, all, i);
		/* One that is there twice has been moved the second time. */
		if (!in_group(bt, g, old, id) || !fits_at(c, to) ||
		    !pairs_as_now(bt, c))
			continue;
		move_unit(bt, id, to);
		g->id[n++] = id;
	}
	g->n = n;
	settle_page(bt, g);
	return true;
}

uint32_t reloc_copy(struct bt *bt, uint64_t rip, uint32_t ppn, uint32_t from,
		    bool fast)
{
	struct tmpl *t;
	const struct ccf *a;
	unsigned i;
	uint32_t id;

	if (!(bt->mode & MODE_USER))
		return 0;
	if (move_page(bt, rip, ppn, from)) {
		id = tc_lookup(bt, rip, ppn, bt_key(bt));
		if (id)
			return id;
	}
	t = tmpl_find(bt, tmpl_key(rip, ppn, bt->mode));
	if (!t)
		return 0;
	a = &bt->ccf[t->src];
	if (!is_same(bt, t->src, rip, ppn, bt->mode) || !fits_at(a, rip) ||
	    !pairs_as_now(bt, a))
		return 0;
	i = recycle(bt, t, a, from);
	if (i < TMPL_COPIES) {
		id = t->copy[i];
		ccf_unlink(bt, id);
		become(bt, &bt->ccf[id], a, rip);
		cold_put(bt, id);
		ccf_relink(bt, id);
	} else {
		if (fast && !(tc_has_room(bt) && ccf_hash_has_room(bt)))
			return 0;
		id = tc_place(bt, rip);
		if (!is_same(bt, t->src, rip, ppn, bt->mode))
			return 0; /* evicted to make room */
		become(bt, &bt->ccf[id], a, rip);
		tc_commit(bt, id);
	}
	group_add(bt, id);
	for (i = i < TMPL_COPIES ? i : TMPL_COPIES - 1; i; i--)
		t->copy[i] = t->copy[i - 1];
	t->copy[0] = id;
	bt->stats.copies++;
	return id;
}
