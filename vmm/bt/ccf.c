/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The books about CCFs: finding them by what they translate, linking them to
 * one another, and taking them out again.
 *
 * A CCF is found by (rip, PPN, mode) through a hash, and by PPN for
 * invalidation: each page has a list of its CCFs, newest first, and a CCF that
 * straddles two pages is in both lists. Exits chained to a CCF are in a list
 * that begins at it, so that they can be unchained.
 *
 * Most look-ups of an exec find nothing (the code is at a new address), so the
 * buckets are many, and those of a page, which are asked for in turn, lie side by
 * side. The hash grows with the number of CCFs (a VM at rest has few, and its table
 * is a page) by making it anew; it never shrinks but when it is emptied.
 *
 * Straight on. What is translated next is most often what is run next: the target
 * of the exit that has just been taken. Where that exit is the jump at the end of
 * the newest CCF, the new one is placed right behind it (tc_place), and the jump,
 * as long as it is chained there, is a NOP. A conditional jump before the last one
 * changes places with it for that, its condition turned round, if it is the one that
 * was taken first (ccf_make_last). So paths lie in the TC as they were first run,
 * and jump only where they part; and the host's front end, which code of bt keeps
 * busier than the guest's own, fetches whole lines.
 *
 * A CCF dies when its page is written. It leaves the hash, the chains and the
 * IBTC at once, and the list of the page that was written; from the other list
 * of a straddler it goes when that one is walked next. Its memory is used again
 * when its region of the TC is (tc.c). CCF_OFF and CCF_OFF2 say that it is not
 * in the list of ppn or of ppn2 any more.
 *
 * Built with -mgeneral-regs-only: bt_fast_dispatch calls in here.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"

#define HASH_MIN_BITS 10
#define HASH_MAX_BITS 19
#define JMP	      0xe9
/* Units of one page lie beside each other: so many bytes of it share a bucket. */
#define HASH_GRAIN    4

/* ---- the hash ---- */

int ccf_hash_init(struct bt *bt)
{
	bt->hash = mmap(NULL, sizeof(*bt->hash) << HASH_MAX_BITS,
			PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bt->hash_bits = HASH_MIN_BITS;
	return bt->hash == MAP_FAILED ? -ENOMEM : 0;
}

void ccf_hash_fini(struct bt *bt)
{
	munmap(bt->hash, sizeof(*bt->hash) << HASH_MAX_BITS);
}

void ccf_hash_reset(struct bt *bt)
{
	memset(bt->hash, 0, sizeof(*bt->hash) << bt->hash_bits);
	bt->hash_bits = HASH_MIN_BITS;
}

void ccf_hash_trim(struct bt *bt)
{
	madvise(bt->hash, sizeof(*bt->hash) << HASH_MAX_BITS, MADV_DONTNEED);
}

static uint32_t *hash_bucket(struct bt *bt, uint64_t rip, uint32_t ppn,
			     uint8_t mode)
{
	uint64_t page = (rip >> PAGE_SHIFT) ^ (uint64_t)ppn << 32 ^
			(uint64_t)mode << 24;
	uint64_t h = page * 0x9e3779b97f4a7c15ull >> 32;

	h += (rip & (PAGE_SIZE - 1)) / HASH_GRAIN;
	return &bt->hash[h & ((1u << bt->hash_bits) - 1)];
}

static void hash_add(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t *h = hash_bucket(bt, c->rip, c->ppn, c->mode);

	c->next_hash = *h;
	*h = id;
}

static void hash_grow(struct bt *bt)
{
	memset(bt->hash, 0, sizeof(*bt->hash) << bt->hash_bits);
	bt->hash_bits++;
	for (unsigned r = 0; r < TC_REGIONS; r++) {
		uint32_t first = r * bt->region_ccf;

		for (uint32_t k = r ? 0 : 1; k < bt->region[r].n_ccf; k++)
			if (!(bt->ccf[first + k].flags & CCF_DEAD))
				hash_add(bt, first + k);
	}
}

uint32_t tc_lookup(struct bt *bt, uint64_t rip, uint32_t ppn, uint8_t mode)
{
	uint32_t id, ppn2;

	for (id = *hash_bucket(bt, rip, ppn, mode); id;
	     id = bt->ccf[id].next_hash) {
		const struct ccf *c = &bt->ccf[id];

		if (c->rip != rip || c->ppn != ppn || c->mode != mode)
			continue;
		if (!(c->flags & CCF_STRADDLE))
			return id;
		if (exec_cached(bt, (rip | (PAGE_SIZE - 1)) + 1, &ppn2) &&
		    ppn2 == c->ppn2)
			return id;
	}
	return 0;
}

bool tc_straddles(struct bt *bt, uint64_t rip, uint32_t ppn, uint8_t mode)
{
	uint32_t id;

	for (id = *hash_bucket(bt, rip, ppn, mode); id;
	     id = bt->ccf[id].next_hash) {
		const struct ccf *c = &bt->ccf[id];

		if (c->rip == rip && c->ppn == ppn && c->mode == mode &&
		    c->flags & CCF_STRADDLE)
			return true;
	}
	return false;
}

/* ---- lists of a page ---- */

/* Is it in the list of ppn by its second page? With ppn == ppn2 there is one
 * list, and the CCF is in it once. */
static bool by_second(const struct ccf *c, uint32_t ppn)
{
	return (c->flags & CCF_STRADDLE) && c->ppn2 == ppn && c->ppn != ppn;
}

static uint32_t *page_next(struct bt *bt, uint32_t id, uint32_t ppn)
{
	struct ccf *c = &bt->ccf[id];

	return by_second(c, ppn) ? &c->next_page2 : &c->next_page;
}

static void page_add(struct bt *bt, uint32_t id, uint32_t ppn)
{
	*page_next(bt, id, ppn) = bt->page_head[ppn];
	bt->page_head[ppn] = id;
}

/* Take *p, a link of the list of ppn, out of it. */
static void page_cut(struct bt *bt, uint32_t *p, uint32_t ppn)
{
	uint32_t id = *p;
	struct ccf *c = &bt->ccf[id];

	c->flags |= by_second(c, ppn) ? CCF_OFF2 : CCF_OFF;
	*p = *page_next(bt, id, ppn);
}

/* Take the CCFs of region r out of the list of ppn: one walk, for all of its
 * CCFs at once. */
static void page_evict(struct bt *bt, uint32_t ppn, unsigned r)
{
	uint32_t first = r * bt->region_ccf, *p = &bt->page_head[ppn];

	while (*p) {
		if (*p - first < bt->region_ccf)
			page_cut(bt, p, ppn);
		else
			p = page_next(bt, *p, ppn);
	}
	if (!bt->page_head[ppn])
		p2m_set_code(bt->p2m, (ppn_t){ppn}, false);
}

static void page_forget(struct bt *bt, uint32_t ppn)
{
	bt->page_head[ppn] = 0;
	p2m_set_code(bt->p2m, (ppn_t){ppn}, false);
}

void ccf_forget_pages(struct bt *bt, uint32_t id)
{
	const struct ccf *c = &bt->ccf[id];

	page_forget(bt, c->ppn);
	if (c->flags & CCF_STRADDLE)
		page_forget(bt, c->ppn2);
}

bool ccf_hash_has_room(const struct bt *bt)
{
	return !((2 * bt->stats.units_live + 1) >> bt->hash_bits) ||
	       bt->hash_bits == HASH_MAX_BITS;
}

static unsigned n_exits(const struct ccf *c)
{
	unsigned n = 0;

	for (unsigned e = 0; e < CCF_EXITS; e++)
		n += !!c->exit[e].patch;
	return n;
}

void ccf_insert(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	bool room = ccf_hash_has_room(bt);

	bt->stats.units_live++;
	if (!room)
		hash_grow(bt); /* which finds the new one, too */
	else
		hash_add(bt, id);
	page_add(bt, id, c->ppn);
	if ((c->flags & CCF_STRADDLE) && c->ppn2 != c->ppn)
		page_add(bt, id, c->ppn2);
	bt->stats.exits += n_exits(c);
}

/* ---- chains ---- */

/* A jump to what follows it. */
static const uint8_t nop5[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};

void ccf_lead(struct bt *bt, const struct ccf *c, unsigned e, uint32_t to)
{
	uint32_t at = c->host + c->exit[e].patch;
	int32_t d = (int32_t)(to - (at + 4));
	uint8_t *p = bt->rw + at;

	if (p[-1] == nop5[0])
		p[-1] = JMP;
	if (p[-1] == JMP && !d) {
		memcpy(p - 1, nop5, sizeof(nop5));
		bt->stats.straight++;
		return;
	}
	memcpy(p, &d, 4);
}

uint32_t ccf_leads(const struct bt *bt, const struct ccf *c, unsigned e)
{
	uint32_t at = c->host + c->exit[e].patch;
	int32_t d = 0;

	if (memcmp(bt->rw + at - 1, nop5, sizeof(nop5)))
		memcpy(&d, bt->rw + at, 4);
	return at + 4 + (uint32_t)d;
}

/* Where is exit e's jump, of c with this code? */
static bool is_last_jump(const struct ccf *c, const uint8_t *code, unsigned e)
{
	unsigned at = c->exit[e].patch;

	return at && at + 4 == c->host_len && code[at - 1] == JMP;
}

static bool is_jcc_before(const struct ccf *c, const uint8_t *code, unsigned e)
{
	unsigned at = c->exit[e].patch;

	return at && at + 9 == c->host_len && code[at - 2] == 0x0f &&
	       (code[at - 1] & 0xf0) == 0x80;
}

bool ccf_turn(struct ccf *c, uint8_t *code)
{
	unsigned a, b;

	for (a = 0; a < CCF_EXITS && !is_jcc_before(c, code, a); a++)
		;
	for (b = 0; b < CCF_EXITS && !is_last_jump(c, code, b); b++)
		;
	if (a == CCF_EXITS || b == CCF_EXITS)
		return false;
	code[c->exit[a].patch - 1] ^= 1;
	c->exit[a].patch += 5;
	c->exit[b].patch -= 5;
	c->flags ^= CCF_TURNED;
	return true;
}

void ccf_make_last(struct bt *bt, uint32_t id, unsigned e)
{
	struct ccf *c = &bt->ccf[id];
	uint8_t *code = bt->rw + c->host;
	uint32_t end =
		bt->tc_cur * bt->region_bytes + bt->region[bt->tc_cur].used;

	if (c->host + c->host_len != end || c->flags & CCF_DEAD ||
	    !is_jcc_before(c, code, e))
		return;
	for (unsigned k = 0; k < CCF_EXITS; k++)
		if (c->exit[k].to && c->exit[k].patch + 9u >= c->host_len)
			return;
	if (!ccf_turn(c, code))
		return;
	for (unsigned k = 0; k < CCF_EXITS; k++)
		if (c->exit[k].patch + 9u >= c->host_len)
			ccf_lead(bt, c, k, ccf_stub(c, k));
}

bool ccf_falls_to(const struct bt *bt, uint32_t id, uint64_t rip)
{
	const struct ccf *c = &bt->ccf[id];

	for (unsigned e = 0; e < CCF_EXITS; e++)
		if (is_last_jump(c, bt->rw + c->host, e))
			return c->rip + (int64_t)c->exit[e].target == rip &&
			       c->mode == bt_key(bt) && !c->exit[e].to &&
			       !(c->flags & CCF_DEAD);
	return false;
}

/*
 * Have an exit go to c, and back to its stub. A paired call arrives with the
 * host's RSP in r10: there is an entry for that in a unit that was first reached by
 * one, and for others the call's stub puts it back.
 */
static void lead_exit(struct bt *bt, uint32_t from, unsigned e,
		      const struct ccf *c)
{
	const struct ccf *f = &bt->ccf[from];
	uint32_t to = c->host + c->direct;

	if (f->exit[e].call && !(c->flags & CCF_CALLED))
		cold_lead_stub(bt, from, e, to);
	else
		ccf_lead(bt, f, e, f->exit[e].call ? to - CALL_ENTRY : to);
}

static void lead_back(struct bt *bt, uint32_t from, unsigned e)
{
	const struct ccf *f = &bt->ccf[from];

	if (f->exit[e].call)
		cold_put_stub(bt, from, e);
	ccf_lead(bt, f, e, ccf_stub(f, e));
}

void tc_chain(struct bt *bt, uint32_t from, unsigned exit, uint32_t to)
{
	struct ccf *f = &bt->ccf[from], *c = &bt->ccf[to];
	struct ccf_exit *x = &f->exit[exit];

	if (x->to || (f->flags & CCF_DEAD) || f->mode != c->mode)
		return;
	if (ccf_crosses(f, exit)) {
		ibtc_note_cross(bt, from, exit, to);
		x->again = true;
	}
	lead_exit(bt, from, exit, c);
	x->to = to;
	x->next_in = c->incoming;
	c->incoming = EXIT_ID(from, exit);
	bt->stats.chained++;
	bt->stats.exits_chained++;
}

static void unchain_incoming(struct bt *bt, struct ccf *c)
{
	uint32_t in = c->incoming;

	while (in) {
		struct ccf *f = &bt->ccf[EXIT_CCF(in)];
		struct ccf_exit *x = &f->exit[EXIT_NO(in)];

		lead_back(bt, EXIT_CCF(in), EXIT_NO(in));
		x->to = 0;
		in = x->next_in;
		x->next_in = 0;
		bt->stats.exits_chained--;
	}
	c->incoming = 0;
}

/* Take exit e of CCF id out of its target's list of incoming exits. */
static void unlink_exit(struct bt *bt, uint32_t id, unsigned e)
{
	struct ccf_exit *x = &bt->ccf[id].exit[e];
	uint32_t *p;

	if (!x->to)
		return;
	for (p = &bt->ccf[x->to].incoming; *p != EXIT_ID(id, e);
	     p = &bt->ccf[EXIT_CCF(*p)].exit[EXIT_NO(*p)].next_in)
		;
	*p = x->next_in;
	x->to = 0;
	bt->stats.exits_chained--;
}

void ccf_unchain_cross(struct bt *bt, uint32_t id, unsigned e)
{
	struct ccf *f = &bt->ccf[id];
	struct ccf_exit *x = &f->exit[e];

	if (!x->to || !ccf_crosses(f, e))
		return;
	unlink_exit(bt, id, e);
	lead_back(bt, id, e);
}

/* ---- the end ---- */

static void hash_del(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t *p = hash_bucket(bt, c->rip, c->ppn, c->mode);

	while (*p != id)
		p = &bt->ccf[*p].next_hash;
	*p = c->next_hash;
}

void ccf_unlink(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];

	hash_del(bt, id);
	unchain_incoming(bt, c);
	for (unsigned e = 0; e < CCF_EXITS; e++)
		unlink_exit(bt, id, e);
	ibtc_clear(bt, id);
	ret_forget(bt, c);
}

void ccf_relink(struct bt *bt, uint32_t id)
{
	hash_add(bt, id);
}

void ccf_move(struct bt *bt, uint32_t id, uint64_t rip)
{
	hash_del(bt, id);
	ibtc_clear(bt, id);
	ret_forget(bt, &bt->ccf[id]);
	bt->ccf[id].rip = rip;
	hash_add(bt, id);
}

/* Does exit e of CCF f, if it is chained, lead where it should without anybody's
 * having walked for it? */
static bool chain_holds(const struct bt *bt, const struct ccf *f, unsigned e)
{
	const struct ccf_exit *x = &f->exit[e];
	const struct ccf *c = &bt->ccf[x->to];

	return !ccf_crosses(f, e) && f->rip + (int64_t)x->target == c->rip &&
	       f->mode == c->mode && f->ppn == c->ppn;
}

void ccf_move_soon(struct bt *bt, uint32_t id, uint64_t rip)
{
	const struct ccf *c = &bt->ccf[id];

	__builtin_prefetch(hash_bucket(bt, c->rip, c->ppn, c->mode), 1);
	__builtin_prefetch(hash_bucket(bt, rip, c->ppn, c->mode), 1);
}

void ccf_moved(struct bt *bt, uint32_t id)
{
	uint32_t *p = &bt->ccf[id].incoming;

	for (unsigned e = 0; e < CCF_EXITS; e++) {
		struct ccf *f = &bt->ccf[id];

		if (!f->exit[e].to || chain_holds(bt, f, e))
			continue;
		unlink_exit(bt, id, e);
		lead_back(bt, id, e);
	}
	while (*p) {
		struct ccf *f = &bt->ccf[EXIT_CCF(*p)];
		unsigned e = EXIT_NO(*p);
		struct ccf_exit *x = &f->exit[e];

		if (chain_holds(bt, f, e)) {
			p = &x->next_in;
			continue;
		}
		lead_back(bt, EXIT_CCF(*p), e);
		*p = x->next_in;
		x->to = x->next_in = 0;
		bt->stats.exits_chained--;
	}
}

static void ccf_kill(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];

	ccf_unlink(bt, id);
	bt->stats.exits -= n_exits(c);
	bt->stats.units_live--;
	c->flags |= CCF_DEAD;
}

void ccf_evict(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned r = id / bt->region_ccf;

	if (!(c->flags & CCF_DEAD)) {
		ccf_kill(bt, id);
		bt->stats.tc_evicted++;
	}
	if (!(c->flags & CCF_OFF))
		page_evict(bt, c->ppn, r);
	if ((c->flags & CCF_STRADDLE) && c->ppn2 != c->ppn &&
	    !(c->flags & CCF_OFF2))
		page_evict(bt, c->ppn2, r);
}

/* Offsets of page ppn that CCF c was made from. */
static bool ccf_overlaps(const struct ccf *c, uint32_t ppn, unsigned off,
			 unsigned len)
{
	unsigned start = c->rip & (PAGE_SIZE - 1), end = start + c->guest_len;

	if (c->ppn == ppn && off < end && start < off + len)
		return true;
	return (c->flags & CCF_STRADDLE) && c->ppn2 == ppn &&
	       off < end - PAGE_SIZE;
}

void tc_drop_unpaired(struct bt *bt, uint32_t ppn, uint8_t mode)
{
	uint32_t *p = &bt->page_head[ppn];

	while (*p) {
		uint32_t id = *p;
		const struct ccf *c = &bt->ccf[id];

		if (c->flags & CCF_DEAD) {
			page_cut(bt, p, ppn);
		} else if (c->mode == mode && c->flags & CCF_UNPAIRED) {
			ccf_kill(bt, id);
			page_cut(bt, p, ppn);
			bt->stats.unpaired++;
		} else {
			p = page_next(bt, id, ppn);
		}
	}
	if (!bt->page_head[ppn])
		p2m_set_code(bt->p2m, (ppn_t){ppn}, false);
}

unsigned tc_drop_page(struct bt *bt, uint32_t ppn, unsigned off, unsigned len)
{
	uint32_t *p = &bt->page_head[ppn];
	unsigned n = 0;

	while (*p) {
		uint32_t id = *p;
		struct ccf *c = &bt->ccf[id];

		if (c->flags & CCF_DEAD) {
			page_cut(bt, p, ppn);
		} else if (ccf_overlaps(c, ppn, off, len)) {
			ccf_kill(bt, id);
			page_cut(bt, p, ppn);
			n++;
		} else {
			p = page_next(bt, id, ppn);
		}
	}
	return n;
}
