/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages to give up, and how much of its memory a guest uses.
 *
 * The clock has two hands that go round the VM's pages. The front hand marks
 * PRIVATE pages as idle (unmapped, p2m_reclaim.c); the back hand follows at a
 * quarter of the memory's distance and gives up those that still are. So a page
 * has as long to show that it is used as the hands need for a quarter of a
 * round: long when little is asked for, short under pressure. A page that was
 * touched costs its guest one fault a round and is passed over.
 *
 * That fault costs a third or less of what it costs to take the wrong page
 * (compress it, fault, unpack it), but where nearly all pages are in use dozens are
 * marked for each that goes. So a page that is found touched time after time is
 * looked at less often: every second round, every fourth, ... every 16th (its use,
 * up to USE_MAX). One that is found idle for the first time after that stays
 * marked and has another round; only then it goes. So pages that came once for
 * a moment go first, and those that are in use stay (tests/unit/test_clock.c).
 * For a guest that fills its quota by nine tenths and takes one page in 500 from
 * elsewhere it is a quarter of the marks; one that turns to other pages
 * altogether brings in half as many again as before, once. (Before, the hands
 * moved closer together when most pages were touched. That saved a third of
 * the marks, and lost five times as many pages in use where the quota is
 * just enough.)
 *
 * When a whole round gives nothing, all pages are in use and some must go
 * nevertheless: then the hand takes pages as they come (counted as forced).
 * Pages that did not compress go to the swap file, if there is one; else they
 * are passed over until they are written again.
 *
 * The store is memory, too: what is in it the guest does not have. With a swap
 * file it has a limit, beyond which a third hand sends what was compressed first
 * to the swap file: it clears the mark that a page got when it was compressed,
 * and takes those that have none. Pages on their way count as gone, or a slow
 * disk would have ever more pages sent.
 *
 * How much is good for the store? A page of memory taken from it saves what the
 * guest waits for pages of the store, each S-th of it if there are S; and it
 * sends 1/r pages to the swap file (r: what a page takes in the store), each of
 * which will be asked for about as often as one of the W that are there. At the
 * best limit the two are equal. So the limit goes up, for each page that comes
 * back from the swap file, by S/(r * W) pages times what that takes longer than
 * one from the store, and down by two for each of those: one, and one more as
 * pages that were compressed last are asked for more often than the average. A
 * guest whose working set fits has nearly all of the quota for it; one that uses
 * all of its memory has a store of half of the quota, the most that it may be.
 *
 * The cost of marking is the guest's: 7 to 11 us for each page that it uses. It
 * is paid only by a VM that is over its quota, or that the manager says soon
 * will be (p2m_look_ahead, a bounded number at a time).
 *
 * Sampling (Waldspurger, OSDI'02, 5.3). In each period SAMPLE pages are chosen
 * at random from all of the VM's memory and marked; those that were touched are
 * counted as it goes on. Pages that are away or that the clock has marked count
 * as idle unless they come back. The estimate is the greatest of a slow and a
 * fast average of whole periods and the running period's count: quick to see
 * that a guest wakes up, slow to believe that it sleeps. Quotas follow it, so its
 * noise evicts pages in use: of 512 MiB, a quarter active, the 100 pages of the
 * paper tell the activity to 22 MiB (one sigma), 400 to 11.
 *
 * A guest that waits for the disk at every touch touches little in a period,
 * and would seem the more idle the more it lacks. But the pages that it waited
 * for are in use: those that came back in this period and the last are the least
 * that the estimate can be.
 *
 * Killed here: nothing is promised to anybody.
 */
#include <errno.h>
#include <stdlib.h>

#include "mm/p2m_priv.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"

#define SAMPLE	    400u
#define ONE	    65536u /* averages are fractions of that */
#define SLOW	    4u	   /* of a new value, one part in so many */
#define FAST	    2u
#define PUNCH_MAX   64u
#define MARK_RUN    32u
#define USE_MAX	    4u
#define LOOKS	    3u	   /* calls of p2m_sample a period */
#define TOUCH_NS    12000u /* of a touch, whatever it takes to bring it in */
#define STORE_MOST  2u	   /* the store's part of the quota, at most */
#define STORE_LEAST 32u

struct p2m_clock {
	/* Positions among the RAM pages, in [0, ram pages); front is ahead
	 * of back by lead of them. */
	uint64_t back, lead;
	uint64_t cold;	      /* of the hand that empties the store */
	uint64_t store_limit; /* bytes; 0: not known yet */
	/* ns: rather the best than the average, for it is not the disk's fault
	 * when others have the CPU. */
	uint64_t cost[LATENCY_KINDS];

	ppn_t sample[SAMPLE];
	unsigned samples, looks;
	uint64_t back_in[2]; /* pages that had come back when the last period
				began, and the one before */
	uint32_t slow, fast;
	bool begun;
};

int p2m_clock_init(struct p2m *p)
{
	p->clock = calloc(1, sizeof(*p->clock));
	return p->clock ? 0 : -ENOMEM;
}

void p2m_clock_fini(struct p2m *p)
{
	free(p->clock);
}

static uint64_t ram_pages(const struct p2m *p)
{
	return p->low_pages + p->high_pages;
}

/* lead at most */
static uint64_t far_of(const struct p2m *p)
{
	return ram_pages(p) / 4;
}

static ppn_t nth(const struct p2m *p, uint64_t i)
{
	i %= ram_pages(p);
	return (ppn_t){i < p->low_pages ? i : HIGH_PPN + i - p->low_pages};
}

static bool is_private(const struct p2m *p, ppn_t ppn)
{
	return ent_state(p->ent[ppn.n]) == P2M_PRIVATE;
}

/* Is the page looked at in the round in which a hand is at position at? */
static bool due(const struct p2m *p, uint64_t at, ppn_t ppn)
{
	uint64_t turn = at / ram_pages(p) + ppn.n / MARK_RUN;

	return !(turn & ((1u << p->use[ppn.n]) - 1));
}

/* The front hand: some pages further, to far ahead at most; marks those that are
 * in use next to each other. How many. */
static unsigned advance(struct p2m *p, uint64_t far)
{
	struct p2m_clock *c = p->clock;
	ppn_t first = nth(p, c->back + c->lead);
	unsigned n = 0;

	while (c->lead < far && n < MARK_RUN) {
		ppn_t ppn = nth(p, c->back + c->lead);

		if (ppn.n != first.n + n)
			break;
		if (!is_private(p, ppn) || bit_test(p->idle, ppn.n) ||
		    !due(p, c->back + c->lead, ppn)) {
			c->lead += !n;
			break;
		}
		c->lead++;
		n++;
	}
	p2m_mark_idle_range(p, first, n);
	control_add(&p->ctl->marked_pages, n);
	return n;
}

void p2m_look_ahead(struct p2m *p, uint64_t max)
{
	uint64_t far = far_of(p), done = 0;

	while (done < max && p->clock->lead < far)
		done += advance(p, far);
}

/* Blocks of neighbours are punched together. */
struct run {
	uint64_t start, n;
};

static void punch_run(struct p2m *p, struct run *r)
{
	p2m_punch(p, (ppn_t){r->start}, r->n);
	r->n = 0;
}

static void add_run(struct p2m *p, struct run *r, ppn_t ppn)
{
	if (r->n && (ppn.n != r->start + r->n || r->n == PUNCH_MAX))
		punch_run(p, r);
	if (!r->n++)
		r->start = ppn.n;
}

/* The back hand looks at one page. True: it is given up. */
static bool take(struct p2m *p, struct run *r, bool force)
{
	struct p2m_clock *c = p->clock;
	uint64_t at = c->back++;
	ppn_t ppn = nth(p, at);
	enum evict why;

	if (c->lead)
		c->lead--;
	if (!is_private(p, ppn) || p2m_pinned(p, ppn) ||
	    (ent_payload(p->ent[ppn.n]) & PRIV_STIFF && !p->swap))
		return false;
	if (!bit_test(p->idle, ppn.n)) {
		if (due(p, at, ppn) && p->use[ppn.n] < USE_MAX)
			p->use[ppn.n]++;
		if (!force)
			return false;
		control_add(&p->ctl->forced_pages, 1);
	} else if (p->use[ppn.n] && !force) {
		p->use[ppn.n] = 0;
		return false;
	}
	why = ent_payload(p->ent[ppn.n]) & PRIV_STIFF ? EVICT_incompressible
						      : p2m_compress(p, ppn);
	if (p->swap && (why == EVICT_incompressible || why == EVICT_no_store)) {
		why = p2m_swap_out(p, ppn);
		if (why == EVICT_swapped)
			return true;
	}
	if (why != EVICT_compressed && why != EVICT_zero)
		return false;
	add_run(p, r, ppn);
	return true;
}

/* How big the store may be, moved by so many bytes. */
static uint64_t store_limit(struct p2m *p, int64_t by)
{
	struct p2m_clock *c = p->clock;
	uint64_t quota = p2m_quota(p);
	int64_t most = quota / STORE_MOST, least = quota / STORE_LEAST;
	int64_t limit = c->store_limit ? (int64_t)c->store_limit + by : most;

	limit = limit < least ? least : limit;
	c->store_limit = limit > most ? most : limit;
	control_set(&p->ctl->store_limit, c->store_limit);
	return c->store_limit;
}

/* Pages that a page of the store's memory holds, in 256ths. */
static uint64_t packed_256(const struct p2m *p)
{
	uint64_t bytes = control_get(&p->ctl->store_bytes);
	uint64_t n = p->count[P2M_COMPRESSED];

	return bytes ? (n << (PAGE_SHIFT + 8)) / bytes : 256;
}

/* What the limit grows by for a page out of the swap file. */
static uint64_t worth(const struct p2m *p)
{
	const uint64_t *cost = p->clock->cost;
	uint64_t s = p->count[P2M_COMPRESSED], w = p->count[P2M_SWAPPED] + 1;
	uint64_t in = cost[LATENCY_SWAP_IN], out = cost[LATENCY_DECOMPRESS];
	uint64_t by;

	if (!out || in <= out)
		return PAGE_SIZE;
	by = PAGE_SIZE * packed_256(p) / 256 * (in - out) / out;
	s = s < w / 64 ? w / 64 : s; /* it must be able to begin */
	return s < w ? by * s / w : by;
}

void p2m_clock_in(struct p2m *p, unsigned kind, uint64_t ns)
{
	uint64_t *cost = &p->clock->cost[kind];

	ns += TOUCH_NS;
	if (!*cost)
		*cost = ns;
	else if (ns < *cost)
		*cost -= (*cost - ns) / 4;
	else
		*cost += (ns - *cost) / 256;
	if (!p->swap)
		return;
	if (kind == LATENCY_SWAP_IN)
		store_limit(p, (int64_t)worth(p));
	else
		store_limit(p, -2 * (int64_t)PAGE_SIZE);
}

static bool store_too_big(struct p2m *p)
{
	return p->swap && p->count[P2M_COMPRESSED] &&
	       control_get(&p->ctl->store_bytes) >
		       store_limit(p, 0) + p->out_bytes;
}

/* Send the next page of the store to the swap file. */
static bool empty_store(struct p2m *p)
{
	struct p2m_clock *c = p->clock;

	for (uint64_t i = 0; i < 2 * ram_pages(p); i++) {
		ppn_t ppn = nth(p, c->cold);
		enum evict why;

		if (ent_state(p->ent[ppn.n]) != P2M_COMPRESSED) {
			c->cold++;
			continue;
		}
		if (bit_test(p->fresh, ppn.n)) {
			p->fresh[ppn.n / 64] &= ~(1ull << ppn.n % 64);
			c->cold++;
			continue;
		}
		why = p2m_swap_out(p, ppn);
		if (why == EVICT_busy && !bit_test(p->out, ppn.n))
			return false;
		c->cold++;
		if (why == EVICT_swapped)
			return true;
		if (why == EVICT_swap_full || why == EVICT_swap_error)
			return false;
	}
	return false;
}

uint64_t p2m_shrink(struct p2m *p, uint64_t bytes, uint64_t max_pages)
{
	uint64_t round = ram_pages(p), since = 0, taken = 0;
	struct run r = {0};

	for (uint64_t i = 0;
	     p2m_resident(p) > bytes + p->out_bytes && i < max_pages; i++) {
		if (store_too_big(p) && empty_store(p)) {
			taken++;
			continue;
		}
		while (p->clock->lead < far_of(p))
			advance(p, far_of(p));
		if (take(p, &r, since >= round)) {
			taken++;
			since = since >= round ? round : 0;
		} else if (++since > 2 * round) {
			break;
		}
	}
	punch_run(p, &r);
	p2m_swap_flush(p);
	return taken;
}

/* Sampling. */

static uint32_t sample_touched(const struct p2m *p)
{
	const struct p2m_clock *c = p->clock;
	uint32_t touched = 0;

	for (unsigned i = 0; i < c->samples; i++)
		touched += !bit_test(p->idle, c->sample[i].n);
	return touched;
}

static uint64_t came_back(const struct p2m *p)
{
	return p->ctl->decompressed + p->ctl->swapped_in - p->ctl->swap_ahead;
}

static void average(struct p2m_clock *c, uint32_t now)
{
	if (!c->begun)
		c->slow = c->fast = now;
	c->begun = true;
	c->slow += ((int32_t)now - (int32_t)c->slow) / (int32_t)SLOW;
	c->fast += ((int32_t)now - (int32_t)c->fast) / (int32_t)FAST;
}

static void publish_estimate(struct p2m *p, uint32_t now)
{
	struct p2m_clock *c = p->clock;
	uint32_t best = c->slow > c->fast ? c->slow : c->fast;
	uint64_t pages, back = came_back(p) - c->back_in[1];

	best = now > best ? now : best;
	pages = ram_pages(p) * best / ONE;
	pages = back > pages ? back : pages;
	if (pages > ram_pages(p))
		pages = ram_pages(p);
	control_set(&p->ctl->active_bytes, pages << PAGE_SHIFT);
}

static void begin_period(struct p2m *p, uint64_t rnd)
{
	struct p2m_clock *c = p->clock;

	c->back_in[1] = c->back_in[0];
	c->back_in[0] = came_back(p);
	for (c->samples = 0; c->samples < SAMPLE; c->samples++) {
		ppn_t ppn;

		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		ppn = nth(p, rnd >> 8);
		p2m_mark_idle(p, ppn);
		c->sample[c->samples] = ppn;
	}
}

void p2m_sample(struct p2m *p, uint64_t rnd)
{
	struct p2m_clock *c = p->clock;
	uint32_t touched, now;

	if (c->samples) {
		touched = sample_touched(p);
		now = touched * ONE / c->samples;
		if (++c->looks % LOOKS == 0) {
			average(c, now);
			control_add(&p->ctl->sampled_pages, c->samples);
			control_add(&p->ctl->touched_pages, touched);
		}
		publish_estimate(p, now);
	}
	if (c->looks % LOOKS == 0)
		begin_period(p, rnd);
}
