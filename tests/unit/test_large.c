/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions of the p2m and the policy of large pages, on real memory. Tests that
 * need the host's MADV_COLLAPSE are skipped where it does not work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/largepage/largepage.h"
#include "mm/p2m_share.h"

#define REGIONS	 6u
#define PAGES	 (REGIONS * P2M_REGION_PAGES)
#define S	 1000000000ull
#define FIRST(r) ((ppn_t){(r)*P2M_REGION_PAGES})

struct fix {
	struct p2m *p;
	struct largepage *lp;
	unsigned drops, protects; /* range calls */
	uint64_t now;
};

static void on_page(void *c, ppn_t p)
{
}
static void on_drop_range(void *c, ppn_t p, uint64_t n)
{
	((struct fix *)c)->drops++;
}
static void on_protect_range(void *c, ppn_t p, uint64_t n)
{
	((struct fix *)c)->protects++;
	assert_int_equal(n, P2M_REGION_PAGES);
	assert_int_equal(p.n % P2M_REGION_PAGES, 0);
}
static const struct p2m_listener_ops ops = {.drop = on_page,
					    .protect = on_page,
					    .drop_range = on_drop_range,
					    .protect_range = on_protect_range};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	/* the last region hangs over the end of RAM */
	struct p2m_config c = {.ram_bytes = (PAGES - 100) * PAGE_SIZE,
			       .memfd = -1,
			       .pool_fd = -1};

	assert_int_equal(p2m_create(&c, &f->p), 0);
	p2m_set_listener(f->p, &ops, f);
	f->now = 100 * S;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	assert_int_equal(p2m_audit(f->p), 0);
	largepage_destroy(f->lp);
	p2m_destroy(f->p);
	free(f);
	return 0;
}

static void write_page(struct fix *f, uint64_t n, uint64_t val)
{
	uint64_t *w = p2m_write(f->p, (ppn_t){n}, 0, 8);

	assert_non_null(w);
	*w = val;
}

static void fill(struct fix *f, uint64_t region, unsigned pages)
{
	for (unsigned i = 0; i < pages; i++)
		write_page(f, FIRST(region).n + i, region << 32 | (i + 1));
}

/* An engine maps a page. */
static void touch(struct fix *f, uint64_t region)
{
	struct p2m_backing b;

	p2m_get_backing(f->p, FIRST(region), 1, &b);
}

static bool promote(struct fix *f, uint64_t region)
{
	p2m_region_prepare(f->p, region);
	if (p2m_region_collapse(f->p, region, 1))
		return false;
	return p2m_region_finish(f->p, region, true);
}

static bool host_can(void)
{
	struct p2m_config c = {
		.ram_bytes = LARGE_PAGE_SIZE, .memfd = -1, .pool_fd = -1};
	struct p2m *p;
	bool yes;

	assert_int_equal(p2m_create(&c, &p), 0);
	yes = !p2m_region_collapse(p, 0, 1);
	p2m_destroy(p);
	return yes;
}
#define NEED_HOST()                                                            \
	do {                                                                   \
		if (!host_can())                                               \
			skip();                                                \
	} while (0)

static uint64_t private_bytes(struct fix *f)
{
	struct p2m_usage u;

	p2m_get_usage(f->p, &u);
	return u.private_bytes;
}

/* ---- regions ---- */

static void counts_pages(void **state)
{
	struct fix *f = *state;
	struct p2m_region_info i;

	fill(f, 1, 10);
	p2m_set_code(f->p, (ppn_t){FIRST(1).n + 3}, true);
	p2m_set_code(f->p, (ppn_t){FIRST(1).n + 3}, true);
	p2m_region_take(f->p, 1, &i);
	assert_true(i.ram && !i.large && !i.touched);
	assert_int_equal(i.priv, 10);
	assert_int_equal(i.code, 1);
	assert_int_equal(i.away, 0);
	touch(f, 1);
	p2m_region_hint(f->p, FIRST(1));
	assert_true(p2m_hints(f->p));
	p2m_region_take(f->p, 1, &i);
	assert_true(i.touched && i.hinted);
	p2m_region_take(f->p, 1, &i);
	assert_false(i.touched || i.hinted);
	p2m_region_take(f->p, REGIONS - 1, &i);
	assert_false(i.ram);
	/* not RAM: no harm */
	p2m_region_hint(f->p, (ppn_t){1ull << 40});
	assert_false(p2m_is_large(f->p, (ppn_t){1ull << 40}));
}

static void promotes_and_demotes(void **state)
{
	struct fix *f = *state;
	bool prepare;

	NEED_HOST();
	fill(f, 2, 100);
	assert_true(promote(f, 2));
	assert_true(p2m_is_large(f->p, FIRST(2)));
	assert_int_equal(p2m_large_regions(f->p), 1);
	assert_int_equal(f->drops, 2); /* before the collapse, and after */
	/* bytes are as before, holes are zeroes and count as memory */
	assert_int_equal(*(uint64_t *)p2m_read(f->p, FIRST(2)), 2ull << 32 | 1);
	assert_int_equal(*(uint64_t *)p2m_read(f->p, (ppn_t){FIRST(2).n + 300}),
			 0);
	assert_int_equal(private_bytes(f), LARGE_PAGE_SIZE);
	assert_int_equal(p2m_region_access(f->p, FIRST(2), &prepare), 3);
	assert_true(prepare);
	assert_int_equal(p2m_make_writable(f->p, FIRST(2), P2M_REGION_PAGES),
			 P2M_REGION_PAGES);
	assert_int_equal(p2m_region_access(f->p, FIRST(2), &prepare), 3);
	assert_false(prepare);
	p2m_set_code(f->p, (ppn_t){FIRST(2).n + 9}, true);
	assert_int_equal(p2m_region_access(f->p, FIRST(2), &prepare), 1);
	assert_int_equal(p2m_audit(f->p), 0);
}

/* A page that is shared leaves, and its block comes back. */
static void sharing_first(void **state)
{
	struct fix *f = *state;
	ppn_t zero = {FIRST(2).n + 400};

	NEED_HOST();
	fill(f, 2, 100);
	assert_true(promote(f, 2));
	assert_int_equal(p2m_commit_zero(f->p, zero), SHARE_ok);
	assert_false(p2m_is_large(f->p, FIRST(2)));
	assert_int_equal(p2m_large_regions(f->p), 0);
	p2m_punch(f->p, zero, 1);
	assert_int_equal(private_bytes(f), LARGE_PAGE_SIZE - PAGE_SIZE);
	assert_int_equal(p2m_control(f->p)->large_demoted, 1);
	assert_int_equal(p2m_control(f->p)->punch_failed, 0);
}

/* A page left while the host was at work. */
static void leaves_meanwhile(void **state)
{
	struct fix *f = *state;
	ppn_t zero = {FIRST(3).n + 400};

	NEED_HOST();
	fill(f, 3, 512);
	write_page(f, zero.n, 0);
	/* not noted any more, as if it had been collected */
	{
		bool more;

		p2m_collect(f->p, 1000 * S, 10000, &more);
		p2m_collect(f->p, 2000 * S, 10000, &more);
	}
	p2m_region_prepare(f->p, 3);
	assert_int_equal(p2m_commit_zero(f->p, zero), SHARE_ok);
	p2m_punch(f->p, zero, 1);
	assert_int_equal(p2m_region_collapse(f->p, 3, 1), 0);
	assert_int_equal(private_bytes(f), LARGE_PAGE_SIZE);
	assert_false(p2m_region_finish(f->p, 3, true));
	assert_int_equal(private_bytes(f), LARGE_PAGE_SIZE - PAGE_SIZE);
	assert_false(p2m_is_large(f->p, FIRST(3)));
}

static void collects_as_one(void **state)
{
	struct fix *f = *state;
	uint32_t taken;
	bool more;

	NEED_HOST();
	fill(f, 1, 512);
	fill(f, 4, 7);
	assert_true(promote(f, 1));
	taken = p2m_collect(f->p, 1000 * S, 10, &more);
	assert_true(more);
	assert_int_equal(taken, P2M_REGION_PAGES);
	assert_int_equal(f->protects, 1);
	taken = p2m_collect(f->p, 1000 * S, 10, &more);
	assert_int_equal(taken, 7);
	assert_int_equal(f->protects, 1);
	/* written again: it has to rest */
	p2m_make_writable(f->p, FIRST(1), P2M_REGION_PAGES);
	assert_int_equal(p2m_collect(f->p, 1000 * S + S / 4, 10, &more), 0);
	assert_int_equal(p2m_collect(f->p, 1010 * S, 10, &more),
			 P2M_REGION_PAGES);
}

/* ---- the policy ---- */

static void begin(struct fix *f, enum backing mode, bool shared)
{
	assert_int_equal(largepage_create(f->p, mode, shared, &f->lp), 0);
}

/* A second goes by. How many were promoted. */
static unsigned second(struct fix *f)
{
	unsigned done = 0;

	f->now += S;
	while (largepage_plan(f->lp, f->now)) {
		largepage_work(f->lp);
		done += largepage_finish(f->lp);
	}
	return done;
}

static void auto_wants_dense_and_hot(void **state)
{
	struct fix *f = *state;
	unsigned s, done = 0;

	NEED_HOST();
	begin(f, BACKING_AUTO, false);
	fill(f, 0, 512); /* dense, never mapped */
	fill(f, 1, 511); /* not dense */
	fill(f, 2, 512); /* dense and hot */
	fill(f, 3, 512); /* hot, with code */
	p2m_set_code(f->p, FIRST(3), true);
	for (s = 0; s < 20 && !done; s++) {
		touch(f, 1);
		touch(f, 2);
		touch(f, 3);
		done = second(f);
	}
	assert_int_equal(done, 1);
	assert_in_range(s, 2, 3); /* as it was filled just now */
	assert_true(p2m_is_large(f->p, FIRST(2)));
	p2m_discard(f->p, (ppn_t){FIRST(1).n}, 1);
	fill(f, 1, 512);
	assert_true(largepage_hinted(f->lp));
	for (s = 0; s < 20 && largepage_hinted(f->lp); s++)
		second(f); /* nobody maps it */
	assert_in_range(s, 2, 3);
	assert_false(p2m_is_large(f->p, FIRST(1)));
	p2m_discard(f->p, FIRST(1), 1);
	second(f);
	assert_int_equal(largepage_why(f->lp, 0), LARGE_cold);
	assert_int_equal(largepage_why(f->lp, 1), LARGE_sparse);
	assert_int_equal(largepage_why(f->lp, 2), LARGE_ok);
	assert_int_equal(largepage_why(f->lp, 3), LARGE_code);
	assert_int_equal(largepage_why(f->lp, 4), LARGE_untouched);
	assert_int_equal(largepage_why(f->lp, REGIONS - 1), LARGE_not_ram);
	assert_int_equal(largepage_counts(f->lp)->now[LARGE_ok], 1);
	assert_true(largepage_counts(f->lp)->samples > 0);
}

/* The guest maps it where 2 MiB do not fit: nobody would gain. */
static void auto_wants_it_straight(void **state)
{
	struct fix *f = *state;
	struct p2m_region_info i;

	NEED_HOST();
	begin(f, BACKING_AUTO, false);
	for (unsigned r = 0; r < 4; r++)
		fill(f, r, 512);
	for (unsigned s = 0; s < 12; s++) {
		/* 1 askew, 2 in both ways, 3 askew and then hinted */
		for (unsigned r = 1; r < 4; r++) {
			p2m_region_place(f->p, FIRST(r), true);
			touch(f, r);
		}
		p2m_region_place(f->p, FIRST(2), false);
		touch(f, 2);
		p2m_region_place(f->p, FIRST(2), true);
		touch(f, 2);
		if (s > 5)
			p2m_region_hint(f->p, FIRST(3));
		second(f);
		if (s == 5)
			assert_int_equal(largepage_why(f->lp, 3), LARGE_askew);
	}
	assert_int_equal(largepage_why(f->lp, 0), LARGE_cold);
	assert_int_equal(largepage_why(f->lp, 1), LARGE_askew);
	assert_int_equal(largepage_why(f->lp, 2), LARGE_ok);
	assert_int_equal(largepage_why(f->lp, 3), LARGE_ok);
	p2m_region_look(f->p, 1, &i);
	assert_false(i.askew || i.touched);
}

/* Under a manager it waits longer; with its guest's word, half as long. */
static void patience(void **state)
{
	struct fix *f = *state;
	unsigned hot = 0, hinted = 0;

	NEED_HOST();
	begin(f, BACKING_AUTO, true);
	fill(f, 0, 512);
	fill(f, 1, 512);
	for (unsigned s = 1; s < 20; s++) {
		touch(f, 0);
		p2m_region_hint(f->p, FIRST(1));
		second(f);
		if (!hot && p2m_is_large(f->p, FIRST(0)))
			hot = s;
		if (!hinted && p2m_is_large(f->p, FIRST(1)))
			hinted = s;
	}
	assert_in_range(hot, 7, 9);
	assert_in_range(hinted, 3, 5);
}

static void cools_down(void **state)
{
	struct fix *f = *state;
	ppn_t page = {FIRST(1).n + 5};
	unsigned s = 0;

	NEED_HOST();
	begin(f, BACKING_2M, false);
	fill(f, 1, 1);
	assert_int_equal(second(f), 1);
	assert_int_equal(p2m_commit_zero(f->p, page), SHARE_ok);
	p2m_punch(f->p, page, 1);
	write_page(f, page.n, 1);
	second(f);
	assert_int_equal(largepage_why(f->lp, 1), LARGE_cooling);
	while (s < 40 && !second(f))
		s++;
	assert_in_range(s, 12, 18);
}

static void everything(void **state)
{
	struct fix *f = *state;

	NEED_HOST();
	begin(f, BACKING_ALL, false);
	second(f);
	assert_int_equal(p2m_large_regions(f->p), REGIONS - 1);
	assert_int_equal(private_bytes(f), (REGIONS - 1) * LARGE_PAGE_SIZE);
}

static unsigned now(struct fix *f, uint64_t region, enum largepage_use use)
{
	return largepage_now(f->lp, region, use, f->now);
}

/* Met while the guest clears it; those that follow are taken along. */
static void cleared_at_once(void **state)
{
	struct fix *f = *state;

	NEED_HOST();
	begin(f, BACKING_AUTO, true);
	fill(f, 0, 4);
	assert_int_equal(now(f, 0, LARGEPAGE_CLEARED), 1);
	assert_true(p2m_is_large(f->p, FIRST(0)));
	assert_int_equal(*(uint64_t *)p2m_read(f->p, FIRST(0)), 1);
	assert_int_equal(*(uint64_t *)p2m_read(f->p, (ppn_t){300}), 0);
	assert_int_equal(private_bytes(f), LARGE_PAGE_SIZE);
	assert_int_equal(now(f, 0, LARGEPAGE_CLEARED), 0);
	fill(f, 4, 1); /* in use: nothing to guess about */
	assert_int_equal(now(f, 1, LARGEPAGE_CLEARED), 2);
	assert_int_equal(p2m_large_regions(f->p), 3);
	assert_int_equal(now(f, 3, LARGEPAGE_CLEARED), 1);
	assert_int_equal(now(f, REGIONS - 1, LARGEPAGE_CLEARED), 0);
	assert_int_equal(now(f, REGIONS, LARGEPAGE_CLEARED), 0);
	assert_int_equal(largepage_counts(f->lp)->at_once, 4);
	assert_int_equal(largepage_counts(f->lp)->once_calls, 3);
}

static void cleared_downwards(void **state)
{
	struct fix *f = *state;

	NEED_HOST();
	begin(f, BACKING_AUTO, false);
	assert_int_equal(now(f, 4, LARGEPAGE_CLEARED), 1);
	assert_int_equal(now(f, 3, LARGEPAGE_CLEARED), 2);
	assert_true(p2m_is_large(f->p, FIRST(2)));
	assert_int_equal(now(f, 1, LARGEPAGE_CLEARED), 2);
}

static void not_at_once(void **state)
{
	struct fix *f = *state;
	struct control *c = p2m_control(f->p);

	NEED_HOST();
	begin(f, BACKING_AUTO, true);
	fill(f, 0, 200); /* too much in use */
	assert_int_equal(now(f, 0, LARGEPAGE_CLEARED), 0);
	fill(f, 1, 2); /* code */
	p2m_set_code(f->p, FIRST(1), true);
	assert_int_equal(now(f, 1, LARGEPAGE_CLEARED), 0);
	assert_int_equal(p2m_balloon(f->p, FIRST(2), 1), 1); /* away */
	assert_int_equal(now(f, 2, LARGEPAGE_CLEARED), 0);
	fill(f, 3, 512); /* sharing comes first */
	assert_int_equal(now(f, 3, LARGEPAGE_MAPPED), 0);
	control_set(&c->quota_bytes, 8 * LARGE_PAGE_SIZE);
	assert_int_equal(now(f, 4, LARGEPAGE_CLEARED), 0);
	control_set(&c->quota_bytes, 16 * LARGE_PAGE_SIZE);
	assert_int_equal(now(f, 4, LARGEPAGE_CLEARED), 1);
	assert_int_equal(p2m_large_regions(f->p), 1);
}

/* A VM by itself whose guest has mapped it so. */
static void mapped_at_once(void **state)
{
	struct fix *f = *state;

	NEED_HOST();
	begin(f, BACKING_AUTO, false);
	fill(f, 0, 511);
	assert_int_equal(now(f, 0, LARGEPAGE_MAPPED), 0);
	fill(f, 1, 512);
	fill(f, 2, 512);
	assert_int_equal(now(f, 1, LARGEPAGE_MAPPED), 2);
	assert_int_equal(*(uint64_t *)p2m_read(f->p, (ppn_t){FIRST(2).n + 511}),
			 2ull << 32 | 512);
}

static void names(void **state)
{
	enum backing b;

	assert_int_equal(backing_parse("2m", &b), 0);
	assert_int_equal(b, BACKING_2M);
	assert_int_equal(backing_parse("auto", &b), 0);
	assert_int_equal(backing_parse("2M", &b), -EINVAL);
	assert_string_equal(large_reason_names[LARGE_cold], "cold");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(counts_pages),
		T(promotes_and_demotes),
		T(sharing_first),
		T(leaves_meanwhile),
		T(collects_as_one),
		T(auto_wants_dense_and_hot),
		T(auto_wants_it_straight),
		T(patience),
		T(cools_down),
		T(everything),
		T(cleared_at_once),
		T(cleared_downwards),
		T(not_at_once),
		T(mapped_at_once),
		T(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
