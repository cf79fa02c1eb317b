/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy of large pages.
 *
 * Problem. A guest that walks through much memory gains 15 to 20% from 2 MiB
 * pages, and a VM that shares its pages loses by them: a large page is broken
 * up when one page of it is shared, and was made (3 ms of copying) for
 * nothing. Filling a region's holes costs memory that nobody uses.
 *
 * "auto" therefore promotes a region only if
 *   - it is dense: all 512 pages PRIVATE and in the file, so that it costs no
 *     memory; and without translated code, which needs protection by the page;
 *   - it is hot. What an engine has mapped it does not report again, so each
 *     look unmaps one page of every dense region, and the next look sees
 *     whether a page of the region was mapped again: in use, heat + 1; else
 *     heat - 1. A guest that maps the region with a large page for its user has
 *     said so itself, which counts. One that its guest maps only where 2 MiB do not
 *     fit (addresses that do not agree modulo 2 MiB) would gain nothing, and is as
 *     good as not in use;
 *   - it has been so for a while: 4 looks of a VM by itself, 8 (seconds) of
 *     one under a manager, which has compared its pages by then. By itself, a
 *     region whose last page has just come is nearly there: it is looked at
 *     within a quarter of a second, and again.
 * A region that a page has left rests for 16 s, twice as long each time.
 *
 * "2m" promotes whatever has a page in use and none shared; it fills holes.
 * "2m-all" (for tests and comparisons) promotes everything as the VM starts.
 *
 * At once. A guest that clears a large page for its user is met on the way
 * (largepage_now): a region that is still nearly empty costs the host one call
 * and no copying, a tenth of what its 512 pages would cost one by one, and is
 * large before anybody uses it. The call has to wait for every CPU once, so the
 * regions after it are taken along: one, two, four, eight as the guest keeps
 * going their way. (To do so for all memory that is filled for the first time
 * was tried: an idle guest took half as much memory again, and no program
 * gained.) A region that is dense when the guest maps it so is collapsed at once
 * if no manager may want to share it. Nothing when the VM would come near its
 * quota.
 *
 * Cost. A look is a few ns a region, a sample one fault (7 us) a dense region
 * and second; both bounded by the VM's size, none for a VM without dense
 * regions. The collapse runs on a thread of its own, 16 MiB at a time.
 *
 * One round is under way at a time; between plan and finish the batch belongs
 * to whoever works. Nothing here changes what a guest sees: a promotion that
 * fails, or that the process dies in, leaves 4 KiB pages.
 */
#include "mm/largepage/largepage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_NS	   1000000000ull
#define SOON_NS	   200000000ull /* with hints, or in 2m mode */
#define HEAT_MAX   9u
#define ALONE	   4u /* looks that a region must have been hot */
#define SHARED	   8u
#define WARM	   (ALONE - 1) /* heat of a region that was filled just now */
#define COOL_S	   16u
#define COOL_SHIFT 6u	/* at most COOL_S << this */
#define FRESH	   128u /* pages in use of a region that counts as fresh */
#define WAIT_NS	   1000000000ull
#define TRIES_MAX  4u /* EINVAL this often and never success: not supported */

const char *const backing_names[BACKING_NR] = {"auto", "4k", "2m", "2m-all"};
const char *const large_reason_names[LARGE_NR_REASONS] = {
#define X(n, h) #n,
	LARGE_REASONS(X)
#undef X
};

static const struct stat_desc stat_desc[] = {
	STAT_DESC_ENTRY(largepage_counts, looks, "looks at all regions"),
	STAT_DESC_ENTRY(largepage_counts, samples,
			"pages unmapped to see whether they are in use"),
	STAT_DESC_ENTRY(largepage_counts, rounds, "batches given to the host"),
	STAT_DESC_ENTRY(largepage_counts, promoted, "regions promoted"),
	STAT_DESC_ENTRY(largepage_counts, work_ns,
			"nanoseconds that the host took for it"),
	STAT_DESC_ENTRY(largepage_counts, at_once,
			"regions promoted as the guest came to them"),
	STAT_DESC_ENTRY(largepage_counts, once_calls,
			"calls of the host for them"),
	STAT_DESC_ENTRY(largepage_counts, once_ns,
			"nanoseconds that the guest waited for that"),
#define X(n, h)                                                                \
	{"regions_" #n, h, offsetof(struct largepage_counts, now[LARGE_##n])},
	LARGE_REASONS(X)
#undef X
#define X(n, h)                                                                \
	{"failed_" #n, h, offsetof(struct largepage_counts, failed[LARGE_##n])},
		LARGE_REASONS(X)
#undef X
};

struct region {
	uint8_t heat, why;
	uint8_t broken;	  /* times demoted */
	bool large;	  /* at the last look */
	uint32_t cool_to; /* seconds of the caller's clock */
};

struct largepage {
	struct p2m *p;
	enum backing mode;
	unsigned patience;
	_Atomic bool warm; /* a region is nearly as hot as it must be */
	uint64_t n, at;	   /* regions; where the next plan goes on */
	uint64_t next_look, look_no;
	/* The last batch of largepage_now, what it may be, and until when
	 * there is none. */
	uint64_t once_begin, once_end, wait_to;
	unsigned once_max;
	bool off;
	unsigned refused; /* EINVAL, before any success */
	unsigned n_batch;
	uint64_t batch[LARGEPAGE_BATCH];
	int result[LARGEPAGE_BATCH];
	struct largepage_counts st;
	struct region r[];
};

int backing_parse(const char *name, enum backing *out)
{
	for (unsigned i = 0; i < BACKING_NR; i++) {
		if (strcmp(name, backing_names[i]))
			continue;
		*out = i;
		return 0;
	}
	return -EINVAL;
}

int largepage_create(struct p2m *p, enum backing mode, bool shared,
		     struct largepage **out)
{
	uint64_t n = p2m_regions(p);
	struct largepage *lp = calloc(1, sizeof(*lp) + n * sizeof(lp->r[0]));

	if (!lp)
		return -ENOMEM;
	lp->p = p;
	lp->mode = mode;
	lp->patience = shared ? SHARED : ALONE;
	lp->n = n;
	*out = lp;
	return 0;
}

void largepage_destroy(struct largepage *lp)
{
	free(lp);
}

/* ---- looking ---- */

/* Any page of the region will do, another one each time. */
static void sample(struct largepage *lp, uint64_t region)
{
	uint64_t k = (region * 31 + lp->look_no * 197) % P2M_REGION_PAGES;

	p2m_region_sample(lp->p, (ppn_t){region * P2M_REGION_PAGES + k});
	lp->st.samples++;
}

static void warm(const struct largepage *lp, struct region *r,
		 const struct p2m_region_info *i)
{
	if ((i->touched && !i->askew) || i->hinted)
		r->heat += r->heat < HEAT_MAX;
	else
		r->heat -= r->heat > 0;
	/* Its guest has decided; half the patience will do. */
	if (i->hinted)
		r->heat += r->heat < HEAT_MAX;
	/* Just now; one look more shows whether it is done with. */
	if (i->filled && lp->patience == ALONE && r->heat < WARM)
		r->heat = WARM;
}

static enum large_reason judge_auto(struct largepage *lp, uint64_t region,
				    const struct p2m_region_info *i)
{
	struct region *r = &lp->r[region];

	if (i->priv < P2M_REGION_PAGES)
		return LARGE_sparse;
	if (i->code)
		return LARGE_code;
	warm(lp, r, i);
	if (r->heat < lp->patience) {
		if (r->heat >= WARM)
			lp->warm = true;
		sample(lp, region);
		return i->askew ? LARGE_askew : LARGE_cold;
	}
	return p2m_region_populated(lp->p, region) ? LARGE_chosen : LARGE_holes;
}

static enum large_reason judge(struct largepage *lp, uint64_t region,
			       uint32_t now_s)
{
	struct region *r = &lp->r[region];
	struct p2m_region_info i;

	p2m_region_take(lp->p, region, &i);
	if (i.large) {
		r->large = true;
		return LARGE_ok;
	}
	if (!i.ram)
		return LARGE_not_ram;
	if (r->large) {
		unsigned shift =
			r->broken < COOL_SHIFT ? r->broken++ : COOL_SHIFT;

		r->large = false;
		r->heat = 0;
		r->cool_to = now_s + (COOL_S << shift);
	}
	if (i.away)
		return LARGE_shared;
	if (r->cool_to > now_s)
		return LARGE_cooling;
	if (!i.priv && lp->mode != BACKING_ALL)
		return LARGE_untouched;
	return lp->mode != BACKING_AUTO ? LARGE_chosen
					: judge_auto(lp, region, &i);
}

static void look(struct largepage *lp, uint64_t now_ns)
{
	uint32_t now_s = now_ns / 1000000000;

	p2m_clear_hints(lp->p);
	lp->warm = false;
	memset(lp->st.now, 0, sizeof(lp->st.now));
	for (uint64_t k = 0; k < lp->n; k++) {
		lp->r[k].why = judge(lp, k, now_s);
		lp->st.now[lp->r[k].why]++;
	}
	lp->st.looks++;
	lp->look_no++;
	lp->next_look = now_ns + LOOK_NS;
	lp->at = 0;
}

bool largepage_hinted(struct largepage *lp)
{
	return lp->mode != BACKING_AUTO || p2m_hints(lp->p) ||
	       (lp->patience == ALONE && (lp->warm || p2m_fills(lp->p)));
}

unsigned largepage_plan(struct largepage *lp, uint64_t now_ns)
{
	lp->n_batch = 0;
	if (lp->off)
		return 0;
	if (now_ns >= lp->next_look ||
	    (lp->at >= lp->n && now_ns + LOOK_NS - SOON_NS >= lp->next_look &&
	     largepage_hinted(lp)))
		look(lp, now_ns);
	for (; lp->at < lp->n && lp->n_batch < LARGEPAGE_BATCH; lp->at++) {
		if (lp->r[lp->at].why != LARGE_chosen)
			continue;
		p2m_region_prepare(lp->p, lp->at);
		lp->batch[lp->n_batch++] = lp->at;
	}
	return lp->n_batch;
}

/* ---- at once ---- */

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* fresh: at most so many pages of it may be in use; else all must be. */
static bool fits(struct largepage *lp, uint64_t region, uint32_t now_s,
		 enum largepage_use use, unsigned fresh)
{
	struct p2m_region_info i;

	if (region >= lp->n)
		return false;
	p2m_region_look(lp->p, region, &i);
	if (!i.ram || i.large || i.away || i.code)
		return false;
	if (use == LARGEPAGE_CLEARED)
		return i.priv <= fresh;
	return i.priv == P2M_REGION_PAGES && lp->r[region].cool_to <= now_s;
}

static bool allowed(const struct largepage *lp, enum largepage_use use,
		    uint64_t now_ns)
{
	if (lp->off || now_ns < lp->wait_to)
		return false;
	return lp->mode != BACKING_AUTO || lp->patience == ALONE ||
	       use == LARGEPAGE_CLEARED;
}

/* The batch: *first and how many. */
static unsigned ahead(struct largepage *lp, uint64_t *first, uint32_t now_s,
		      enum largepage_use use)
{
	uint64_t at = *first;
	unsigned n = 1, max = LARGEPAGE_BATCH;
	bool up = at == lp->once_end, down = at + 1 == lp->once_begin;

	/* What nobody may ever use: as much as the guesses were worth. */
	if (use == LARGEPAGE_CLEARED) {
		lp->once_max =
			(up || down) && lp->once_max ? 2 * lp->once_max : 1;
		if (lp->once_max > max)
			lp->once_max = max;
		max = lp->once_max;
	}
	while (n < max && !down && fits(lp, at + n, now_s, use, 0))
		n++;
	while (n < max && !up && *first &&
	       fits(lp, *first - 1, now_s, use, 0)) {
		--*first;
		n++;
	}
	lp->once_begin = *first;
	lp->once_end = *first + n;
	return n;
}

unsigned largepage_now(struct largepage *lp, uint64_t region,
		       enum largepage_use use, uint64_t now_ns)
{
	uint64_t begin = clock_ns(), first = region;
	uint32_t now_s = now_ns / 1000000000;
	unsigned n, done = 0;
	int err;

	if (!allowed(lp, use, now_ns) || !fits(lp, region, now_s, use, FRESH) ||
	    !p2m_has_room(lp->p, LARGEPAGE_BATCH * LARGE_PAGE_SIZE))
		return 0;
	n = ahead(lp, &first, now_s, use);
	for (unsigned k = 0; k < n; k++)
		p2m_region_prepare(lp->p, first + k);
	err = p2m_region_collapse(lp->p, first, n);
	/* Some may have worked, but it is no time to try more. */
	if (err)
		lp->wait_to = now_ns + WAIT_NS;
	for (unsigned k = 0; k < n; k++)
		if (p2m_region_finish(lp->p, first + k, !err)) {
			lp->r[first + k].large = true;
			done++;
		}
	lp->st.at_once += done;
	lp->st.once_calls++;
	lp->st.once_ns += clock_ns() - begin;
	return done;
}

/* ---- promoting ---- */

/* Neighbours in one call, which is what it costs to empty the CPUs' lists of
 * pages; singly when that fails, to know which. */
void largepage_work(struct largepage *lp)
{
	uint64_t t = clock_ns();
	unsigned i, k, n;

	for (i = 0; i < lp->n_batch; i += n) {
		int r;

		for (n = 1; i + n < lp->n_batch &&
			    lp->batch[i + n] == lp->batch[i] + n;
		     n++)
			;
		r = p2m_region_collapse(lp->p, lp->batch[i], n);
		for (k = i; k < i + n; k++)
			lp->result[k] =
				!r || n == 1 ? r
					     : p2m_region_collapse(
						       lp->p, lp->batch[k], 1);
	}
	lp->st.rounds++;
	lp->st.work_ns += clock_ns() - t;
}

static enum large_reason why_failed(struct largepage *lp, int err)
{
	switch (err) {
	case -ENOMEM:
		return LARGE_no_memory;
	case -EAGAIN:
	case -EBUSY:
		return LARGE_busy;
	default:
		if (!lp->st.promoted && ++lp->refused >= TRIES_MAX)
			lp->off = true;
		return LARGE_unsupported;
	}
}

unsigned largepage_finish(struct largepage *lp)
{
	unsigned done = 0;

	for (unsigned i = 0; i < lp->n_batch; i++) {
		struct region *r = &lp->r[lp->batch[i]];
		int err = lp->result[i];

		if (p2m_region_finish(lp->p, lp->batch[i], !err)) {
			r->why = LARGE_ok;
			r->large = true;
			done++;
			continue;
		}
		r->why = err ? why_failed(lp, err) : LARGE_changed;
		r->cool_to = lp->next_look / 1000000000 + COOL_S;
		r->heat = 0;
		lp->st.failed[r->why]++;
	}
	lp->st.promoted += done;
	lp->n_batch = 0;
	return done;
}

const struct largepage_counts *largepage_counts(const struct largepage *lp)
{
	return &lp->st;
}

enum large_reason largepage_why(const struct largepage *lp, uint64_t region)
{
	return lp->r[region].why;
}

void largepage_stat_group(struct largepage *lp, struct stat_group *g)
{
	*g = (struct stat_group){"largepage", stat_desc, ARRAY_SIZE(stat_desc),
				 &lp->st, NULL};
}
