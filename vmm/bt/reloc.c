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
 * What an address does to the code is learnt, not told. When a unit (PPN,
 * offset, mode) is translated for the second time, at another address, the two
 * are compared. Every difference must be a field that moves with the guest
 * address or with the place in the TC in one of the ways below; then the newer
 * one becomes a template, and from the third address on it is copied and its
 * fields are moved. If anything else differs, there is no template, and the
 * unit is translated as ever. So the translator may change as it likes; what it
 * must keep to is that code depends on the guest address only by its value, its
 * low 16 bits times 8 (IBTC), and its slot (delta table).
 *
 * A guest chooses its addresses, and to a degree where its code is in the TC: it
 * can make two of these ways look alike for its two samples, as when both have
 * moved equally far, and differ for the third. So a difference that can be
 * explained in two ways is not explained. (It took a jump of the host's where it
 * liked when the first way that fitted was believed.)
 *
 * Slots: two samples in one slot do not show the fields that depend on it. Such
 * a template serves that slot alone. A unit's PC-relative operands must be in its
 * own slot: how far they are is known (reach), and where a slot's border is nearer
 * than that there are no copies, and a unit there takes no template's place.
 *
 * Low addresses: below 4 GiB a guest address may be emitted in 32 bits, and such a
 * field, moved as one of 64 bits, would change the code behind it. So there are no
 * copies and no templates within 2 GiB of those, nor of the end of the canonical
 * half, past which a branch is another thing. (A unit that has the low half of an
 * address at any place is CCF_OWN.)
 *
 * Exits that are chained and the miss jump of the check are no part of the
 * comparison; a copy begins with all of them unchained. The cold part is made
 * anew (translate_cold.c). The recovery table is
 * relative to the unit and shared.
 *
 * Data: a table, TMPL_WAYS entries a set, of the newest unit for (PPN, offset,
 * mode), and of its newest copies; what is pushed out is translated again (a
 * direct-mapped one had an exec translate 160 units anew each time). A copy
 * that its context has outlived is moved to the new address, or the oldest when
 * there are TMPL_COPIES, so that processes that come and go do not fill the TC. An entry may name a unit that has been
 * evicted since: it is looked at before it is believed. Fields lie in the part
 * of their array that belongs to the unit's region of the TC, and go with it.
 *
 * Whole pages. The copies of a page that a context has are a group. When the
 * context has been emptied since, and code of that page is run at another
 * address, a process has most likely taken the place of another: the group is
 * moved there in place, all at once, with the chains between its units. Chains
 * to and from any other unit are undone, as are those that lead out of the page;
 * the units leave the IBTC. A copy has its fields of its own for that.
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

#define SLOT_SHIFT 39
#define LOW_END	   (1ull << 32)
#define TOP	   (1ull << 47)
/* How far constants and branches reach from rip, whatever they are. */
#define MARGIN	   ((2ull << 30) + (1ull << 20))

enum kind {
	R_GUEST64,     /* + the guest address's move */
	R_MINUS_GUEST, /* - it, 64 bits */
	R_HOST32,      /* + the move in the TC */
	R_TO_FIXED,    /* - it: a rel32 to a fixed place */
	R_IBTC,	       /* 8 * (low 16 bits of a guest address), displaced */
	R_TABLE,       /* 8 * (slot of a guest address), displaced */
	NR_KINDS
};

struct move {
	uint64_t guest; /* by how much */
	int64_t host;
	uint64_t slot_from, slot_to;
};

static uint64_t slot_of(uint64_t rip)
{
	return rip >> SLOT_SHIFT;
}

/* May operands so far from rip lie in another slot, or what it names be small, or
 * not canonical? */
static bool near_border(uint64_t rip, uint32_t reach)
{
	uint64_t in = rip & ((1ull << SLOT_SHIFT) - 1);
	uint64_t far = (uint64_t)reach + PAGE_SIZE;

	return in < far || in > (1ull << SLOT_SHIFT) - far ||
	       rip < LOW_END + MARGIN || rip > TOP - MARGIN;
}

/* Can a unit such as c, whose fields are known as tmpl says, be at rip? */
static bool fits_at(const struct ccf *c, uint8_t tmpl, uint64_t rip)
{
	return (tmpl == TMPL_ANY || slot_of(c->rip) == slot_of(rip)) &&
	       !near_border(rip, c->reach);
}

/* What is not paired is no longer wanted where calls are. */
static bool pairs_as_now(const struct bt *bt, const struct ccf *c)
{
	return !(c->flags & CCF_UNPAIRED) || !ret_pairs(bt);
}

static unsigned width(enum kind k)
{
	return k == R_GUEST64 || k == R_MINUS_GUEST ? 8 : 4;
}

/* n: 4 or 8 */
static uint64_t get(const uint8_t *p, unsigned n)
{
	uint32_t half;
	uint64_t v;

	if (n == 8) {
		memcpy(&v, p, 8);
		return v;
	}
	memcpy(&half, p, 4);
	return half;
}

static void put(uint8_t *p, unsigned n, uint64_t v)
{
	if (n == 8)
		memcpy(p, &v, 8);
	else
		memcpy(p, &v, 4);
}

/* The field's value after a move; false: it cannot be of this kind. */
static bool moved(enum kind k, uint64_t v, const struct move *m, uint64_t *out)
{
	int64_t at;

	switch (k) {
	case R_GUEST64:
		*out = v + m->guest;
		return true;
	case R_MINUS_GUEST:
		*out = v - m->guest;
		return true;
	case R_HOST32:
		*out = (uint32_t)(v + m->host);
		return true;
	case R_TO_FIXED:
		*out = (uint32_t)(v - m->host);
		return true;
	case R_IBTC:
		at = (int64_t)(int32_t)v - BT_D_IBTC;
		if (at & 7 || at < 0 || at >= BT_IBTC_BYTES)
			return false;
		at = ((uint64_t)at / 8 + m->guest) & (BT_IBTC_ENTRIES - 1);
		*out = (uint32_t)(BT_D_IBTC + 8 * at);
		return true;
	default:
		if (v != BT_D_TABLE + 8 * m->slot_from)
			return false;
		*out = (uint32_t)(BT_D_TABLE + 8 * m->slot_to);
		return true;
	}
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

/* Is offset o of the unit in a place that chaining patches? Answers how many
 * bytes to step over. */
static unsigned patched(const struct ccf *c, unsigned o)
{
	if (c->direct && o == c->miss)
		return 4;
	for (unsigned i = 0; i < ARRAY_SIZE(c->exit); i++)
		if (c->exit[i].patch && o == c->exit[i].patch)
			return 4;
	return 0;
}

/* Which field holds the difference at offset o, not before `from`? There has to be
 * just one that may, which is then the true one. */
static bool find_field(const uint8_t *a, const uint8_t *b, unsigned len,
		       unsigned from, unsigned o, const struct move *m,
		       struct reloc *r)
{
	bool found = false;

	for (unsigned k = 0; k < NR_KINDS; k++) {
		unsigned n = width(k), lo = o >= n - 1 ? o - (n - 1) : 0;

		for (unsigned p = lo < from ? from : lo; p <= o; p++) {
			uint64_t v;

			if (p + n > len || !moved(k, get(a + p, n), m, &v) ||
			    v != get(b + p, n))
				continue;
			if (found)
				return false;
			r->at = p;
			r->kind = k;
			found = true;
		}
	}
	return found;
}

static bool same_shape(const struct ccf *a, const struct ccf *b)
{
	for (unsigned i = 0; i < ARRAY_SIZE(a->exit); i++)
		if (a->exit[i].patch != b->exit[i].patch ||
		    a->exit[i].target != b->exit[i].target)
			return false;
	/* The miss of one without a check in front is in its cold part. */
	return a->host_len == b->host_len && a->direct == b->direct &&
	       a->guest_len == b->guest_len && a->n_insn == b->n_insn &&
	       a->n_recov == b->n_recov && (!a->direct || a->miss == b->miss);
}

/* Make b a template by comparing it with a. */
static void compare(struct bt *bt, const struct ccf *a, struct ccf *b)
{
	const uint8_t *pa = bt->rw + a->host, *pb = bt->rw + b->host;
	struct move m = {b->rip - a->rip, (int64_t)b->host - a->host,
			 slot_of(a->rip), slot_of(b->rip)};
	struct tc_region *g = &bt->region[bt->tc_cur];
	uint32_t first = bt->tc_cur * bt->region_reloc + g->n_reloc;
	struct reloc *r = &bt->reloc[first];
	unsigned n = 0, from = 0;

	if (!same_shape(a, b) || !m.guest ||
	    g->n_reloc + RELOC_MAX > bt->region_reloc)
		return;
	for (unsigned o = 0; o < b->host_len;) {
		unsigned skip = patched(b, o);

		if (skip) {
			o = from = o + skip;
			continue;
		}
		if (pa[o] == pb[o]) {
			o++;
			continue;
		}
		if (n == RELOC_MAX ||
		    !find_field(pa, pb, b->host_len, from, o, &m, &r[n]))
			return;
		o = from = r[n].at + width(r[n].kind);
		n++;
	}
	b->reloc = first;
	b->n_reloc = n;
	b->tmpl = m.slot_from == m.slot_to ? TMPL_SLOT : TMPL_ANY;
	g->n_reloc += n;
}

/* Is it a whole unit of this PPN, offset in the page and mode? */
static bool is_same(const struct bt *bt, uint32_t id, uint64_t rip,
		    uint32_t ppn, uint8_t mode)
{
	const struct ccf *a = &bt->ccf[id];
	unsigned r = id / bt->region_ccf;

	return id && id - r * bt->region_ccf < bt->region[r].n_ccf &&
	       a->ppn == ppn && !((a->mode ^ mode) & ~MODE_CTX_MASK) &&
	       !((a->rip ^ rip) & (PAGE_SIZE - 1)) &&
	       !(a->flags & (CCF_DEAD | CCF_STRADDLE | CCF_OWN));
}

void reloc_learn(struct bt *bt, uint32_t id)
{
	struct ccf *b = &bt->ccf[id];
	struct tmpl *t;

	if (!(b->mode & MODE_USER) || (b->flags & (CCF_STRADDLE | CCF_OWN)) ||
	    near_border(b->rip, b->reach) || bt->lockstep)
		return;
	t = tmpl_take(bt, tmpl_key(b->rip, b->ppn, b->mode));
	if (is_same(bt, t->src, b->rip, b->ppn, b->mode))
		compare(bt, &bt->ccf[t->src], b);
	t->src = id;
}

static void copy_code(struct bt *bt, const struct ccf *from, struct ccf *to)
{
	const uint8_t *s = bt->rw + from->host;
	uint8_t *d = bt->rw + to->host;
	struct move m = {to->rip - from->rip, (int64_t)to->host - from->host,
			 slot_of(from->rip), slot_of(to->rip)};
	unsigned n = from->host_len, i = 0;

	for (; i + 8 <= n; i += 8)
		*(uint64_t *)(d + i) = *(const uint64_t *)(s + i);
	for (; i < n; i++)
		d[i] = s[i];
	for (i = 0; i < from->n_reloc; i++) {
		const struct reloc *r = &bt->reloc[from->reloc + i];
		unsigned w = width(r->kind);
		uint64_t v = get(d + r->at, w);

		moved(r->kind, v, &m, &v);
		put(d + r->at, w, v);
	}
}

/* May this copy be moved elsewhere? */
static bool spare(const struct bt *bt, const struct tmpl *t, uint32_t id,
		  const struct ccf *a, uint32_t from)
{
	return id != from && id != t->src &&
	       is_same(bt, id, a->rip, a->ppn, a->mode) &&
	       bt->ccf[id].host_len == a->host_len &&
	       bt->ccf[id].cold_len == a->cold_len &&
	       bt->ccf[id].n_recov == a->n_recov;
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

/* c, whose place is known, as is that of its fields if it may be moved later
 * (move), becomes a copy of a. */
static void become(struct bt *bt, struct ccf *c, const struct ccf *a,
		   uint64_t rip, bool move)
{
	struct ccf old = *c;

	*c = *a;
	c->rip = rip;
	c->mode = bt_key(bt);
	c->host = old.host;
	c->cold = old.cold;
	c->recov = old.recov;
	c->next_page = old.next_page;
	c->flags = a->flags & CCF_UNPAIRED;
	c->incoming = c->ibtc_next = 0;
	c->in_ibtc = c->reached = false;
	c->tmpl = 0;
	c->life = life_now(bt);
	for (unsigned i = 0; i < ARRAY_SIZE(c->exit); i++)
		c->exit[i].to = c->exit[i].next_in = c->exit[i].again = 0;
	for (unsigned i = 0; i < c->n_recov; i++)
		bt->recov[c->recov + i] = bt->recov[a->recov + i];
	copy_code(bt, a, c);
	c->move = move ? a->tmpl : 0;
	c->reloc = old.reloc;
	for (unsigned i = 0; move && i < a->n_reloc; i++)
		bt->reloc[c->reloc + i] = bt->reloc[a->reloc + i];
}

/* Room for n fields in the region that the unit belongs to? */
static bool take_fields(struct bt *bt, uint32_t id, unsigned n)
{
	unsigned r = id / bt->region_ccf;
	struct tc_region *g = &bt->region[r];

	if (g->n_reloc + n > bt->region_reloc)
		return false;
	bt->ccf[id].reloc = r * bt->region_reloc + g->n_reloc;
	g->n_reloc += n;
	return true;
}

/* A copy that becomes another: its fields' place serves again, unless there were
 * none, or fewer (the template has learnt of slots since). */
static bool keep_fields(struct bt *bt, uint32_t id, unsigned n)
{
	const struct ccf *c = &bt->ccf[id];

	return (c->move && c->n_reloc >= n) || take_fields(bt, id, n);
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
	       c->mode == g->mode && c->rip >> PAGE_SHIFT == vpage && c->move;
}

static void group_add(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	struct page_group *g = group_of(bt, c->ppn);
	uint64_t vpage = c->rip >> PAGE_SHIFT;
	unsigned n = 0;

	if (!c->move)
		return;
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
	struct move m = {rip - c->rip, 0, slot_of(c->rip), slot_of(rip)};
	uint8_t *d = bt->rw + c->host;

	for (unsigned i = 0; i < c->n_reloc; i++) {
		const struct reloc *r = &bt->reloc[c->reloc + i];
		unsigned w = width(r->kind);
		uint64_t v = get(d + r->at, w);

		moved(r->kind, v, &m, &v);
		put(d + r->at, w, v);
	}
	ccf_move(bt, id, rip);
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
		if (!in_group(bt, g, old, id) || !fits_at(c, c->move, to) ||
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
	bool move;

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
	if (!is_same(bt, t->src, rip, ppn, bt->mode) || !a->tmpl ||
	    !fits_at(a, a->tmpl, rip) || !pairs_as_now(bt, a))
		return 0;
	i = recycle(bt, t, a, from);
	if (i < TMPL_COPIES) {
		id = t->copy[i];
		ccf_unlink(bt, id);
		move = keep_fields(bt, id, a->n_reloc);
		become(bt, &bt->ccf[id], a, rip, move);
		cold_put(bt, id);
		ccf_relink(bt, id);
	} else {
		if (fast && !(tc_has_room(bt) && ccf_hash_has_room(bt)))
			return 0;
		id = tc_place(bt);
		if (!is_same(bt, t->src, rip, ppn, bt->mode))
			return 0; /* evicted to make room */
		move = take_fields(bt, id, a->n_reloc);
		become(bt, &bt->ccf[id], a, rip, move);
		tc_commit(bt, id);
	}
	group_add(bt, id);
	for (i = i < TMPL_COPIES ? i : TMPL_COPIES - 1; i; i--)
		t->copy[i] = t->copy[i - 1];
	t->copy[0] = id;
	bt->stats.copies++;
	return id;
}
