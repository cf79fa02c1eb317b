/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The p2m recounted from scratch: every counter from the entries, every block
 * of the memfd against the state of its page. Runs after each step of the
 * property tests; quadratic in nothing, one pass and one lseek an extent.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/p2m_priv.h"
#include "mm/store.h"

struct recount {
	const struct p2m *p;
	uint64_t state[P2M_NR_STATES];
	uint64_t noted, zero_merged, runs, bad, large;
};

static void differ(struct recount *rc, const char *what, uint64_t is,
		   uint64_t should)
{
	if (is == should)
		return;
	log_error("audit: %s is %lu, recounted %lu", what, (unsigned long)is,
		  (unsigned long)should);
	rc->bad++;
}

static void bad_page(struct recount *rc, uint64_t ppn, const char *what)
{
	log_error("audit: page %#lx (entry %#x): %s", (unsigned long)ppn,
		  rc->p->ent[ppn], what);
	rc->bad++;
}

static void count_page(struct recount *rc, uint64_t n)
{
	const struct p2m *p = rc->p;
	uint32_t e = p->ent[n], prev = n ? p->ent[n - 1] : 0;
	bool noted = e & ENT_NOTED;

	rc->state[ent_state(e)]++;
	rc->noted += noted;
	if (noted != bit_test(p->changed, n))
		bad_page(rc, n, "noted and the changed map disagree");
	if (noted && ent_state(e) != P2M_PRIVATE)
		bad_page(rc, n, "noted but not private");
	if (ent_state(e) == P2M_ZERO) {
		rc->zero_merged += ent_payload(e);
		if (ent_payload(e) > 1)
			bad_page(rc, n, "payload of a zero page");
	}
	if (p->pins[n] && ent_state(e) > P2M_ZERO)
		bad_page(rc, n, "pinned, and may move");
	if (ent_state(e) == P2M_COMPRESSED &&
	    (!p->store || !store_holds(p->store, ent_payload(e), n)))
		bad_page(rc, n, "not in the compressed store");
	if (ent_state(e) == P2M_SWAPPED &&
	    !p2m_swap_holds(p, ent_payload(e), (ppn_t){n}))
		bad_page(rc, n, "not in the swap file");
	if (ent_state(e) != P2M_SHARED)
		return;
	if (ent_payload(e) >= p->pool_frames)
		bad_page(rc, n, "no such frame in the pool");
	rc->runs += ent_state(prev) != P2M_SHARED ||
		    ent_payload(prev) + 1 != ent_payload(e);
}

/* [low, 4 GiB) is a million pages that nothing ever touches: by words. */
static void check_hole(struct recount *rc)
{
	const struct p2m *p = rc->p;
	uint64_t w = (p->low_pages + 63) / 64;

	for (; p->high_pages && w < HIGH_PPN / 64; w++)
		if (control_get(&p->changed[w]))
			differ(rc, "changed pages that are not RAM", 1, 0);
	for (uint64_t n = p->low_pages; n % 64 && n < p->max_ppn; n++)
		if (p->ent[n] || bit_test(p->changed, n))
			bad_page(rc, n, "not RAM, but in use");
}

static void check_region(struct recount *rc, uint64_t r)
{
	const struct p2m_region *g = &rc->p->region[r];
	uint64_t priv = 0, away = 0, code = 0;

	for (uint64_t n = r * P2M_REGION_PAGES;
	     n < (r + 1) * P2M_REGION_PAGES && n < rc->p->max_ppn; n++) {
		uint32_t e = rc->p->ent[n];

		priv += ent_state(e) == P2M_PRIVATE;
		away += ent_state(e) != P2M_PRIVATE && ent_state(e) != P2M_ZERO;
		code += !!(e & ENT_CODE);
	}
	differ(rc, "private pages of a region", g->priv, priv);
	differ(rc, "pages away of a region", g->away, away);
	differ(rc, "code pages of a region", g->code, code);
	if (g->large)
		differ(rc, "private pages of a large region", priv,
		       P2M_REGION_PAGES);
	rc->large += g->large;
}

static void check_regions(struct recount *rc)
{
	const struct p2m *p = rc->p;

	for (uint64_t r = 0; r * P2M_REGION_PAGES < p->max_ppn; r++) {
		uint64_t first = r * P2M_REGION_PAGES;

		/* [low, 4 GiB) has no books */
		if (first >= p->low_pages &&
		    first + P2M_REGION_PAGES <= HIGH_PPN)
			continue;
		check_region(rc, r);
	}
	differ(rc, "large regions", p->n_large, rc->large);
	differ(rc, "large_regions shown", p->ctl->large_regions, rc->large);
}

/* Only PRIVATE pages may have blocks. */
static void check_blocks(struct recount *rc)
{
	const struct p2m *p = rc->p;
	uint64_t end = p->max_ppn << PAGE_SHIFT, data = 0, stray = 0;
	off_t a, b = 0;
	struct stat st;

	while ((a = lseek(p->memfd, b, SEEK_DATA)) >= 0) {
		b = lseek(p->memfd, a, SEEK_HOLE);
		if (b < 0 || (uint64_t)b > end)
			b = end;
		data += b - a;
		for (uint64_t n = a >> PAGE_SHIFT;
		     n < (uint64_t)b >> PAGE_SHIFT; n++)
			if (!p2m_is_ram(p, (ppn_t){n}) ||
			    ent_state(p->ent[n]) != P2M_PRIVATE)
				stray++;
	}
	if (stray > p->ctl->punch_failed)
		differ(rc, "blocks behind pages that are not private", stray,
		       p->ctl->punch_failed);
	if (!fstat(p->memfd, &st))
		differ(rc, "bytes of blocks in the memfd",
		       (uint64_t)st.st_blocks * 512, data);
}

/* Each page's object carries its PPN, so if all pages have theirs and there
 * are no more, each has one of its own. */
static void check_store(struct recount *rc)
{
	const struct p2m *p = rc->p;

	if (!p->store)
		return;
	differ(rc, "objects in the store", store_count(p->store),
	       rc->state[P2M_COMPRESSED]);
	differ(rc, "store_bytes", p->ctl->store_bytes, store_bytes(p->store));
	rc->bad += store_audit(p->store) != 0;
}

int p2m_audit(struct p2m *p)
{
	struct recount rc = {.p = p};

	for (uint64_t n = 0; n < p->low_pages; n++)
		count_page(&rc, n);
	for (uint64_t n = HIGH_PPN; n < HIGH_PPN + p->high_pages; n++)
		count_page(&rc, n);
	check_hole(&rc);
	check_regions(&rc);
	for (int s = 0; s < P2M_NR_STATES; s++)
		differ(&rc, p2m_state_names[s], p->count[s], rc.state[s]);
	differ(&rc, "runs", p->runs, rc.runs);
	differ(&rc, "noted_pages", p->ctl->noted_pages, rc.noted);
	differ(&rc, "zero_merged_pages", p->ctl->zero_merged_pages,
	       rc.zero_merged);
	differ(&rc, "private_pages", p->ctl->private_pages,
	       p->count[P2M_PRIVATE]);
	differ(&rc, "shared_pages", p->ctl->shared_pages, p->count[P2M_SHARED]);
	differ(&rc, "zero_pages", p->ctl->zero_pages, p->count[P2M_ZERO]);
	differ(&rc, "ballooned_pages", p->ctl->ballooned_pages,
	       p->count[P2M_BALLOONED]);
	differ(&rc, "compressed_pages", p->ctl->compressed_pages,
	       p->count[P2M_COMPRESSED]);
	differ(&rc, "swapped_pages", p->ctl->swapped_pages,
	       p->count[P2M_SWAPPED]);
	check_store(&rc);
	rc.bad += p2m_swap_audit(p, rc.state[P2M_SWAPPED]) != 0;
	check_blocks(&rc);
	return rc.bad ? -EUCLEAN : 0;
}
