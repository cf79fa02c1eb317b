/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four VMs under one budget, and everything that reclaiming does to their pages:
 * writes, reads, discards, balloons, quotas by the real policy while the budget
 * moves, shrinking, compression, swapping on a disk that fails now and then,
 * deaths. The model knows what each word of each page is; PROP_STEPS up to
 * 10^8 (three minutes or so a 10^7).
 *
 * The rule of the pages: word i of a page of kind HARD is the i-th number of a
 * generator seeded with the page's id; of a SOFT one only in its first quarter,
 * and the id itself beyond; word 0 is a version. So any word can be checked for
 * itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"
#include "mm/reclaim.h"
#include "tests/prop/prop.h"

#define VMS   4u
#define PAGES 256u
#define WORDS (PAGE_SIZE / 8)

enum kind { ZERO, SOFT, HARD };
struct page {
	enum kind kind;
	uint64_t id, version;
};

struct fake {
	struct p2m *p;
	struct control *ctl;
	struct page page[PAGES];
	_Atomic unsigned written;
	uint64_t rest; /* hand of p2m_rest_* */
	uint64_t min, max, shares;
};

struct rig {
	struct rnd r;
	struct fake vm[VMS];
	uint64_t budget, ids, now;
	bool failing;
	uint64_t compressed, swapped, in, over, deaths, fails;
};

static uint64_t word_of(const struct page *pg, unsigned i)
{
	struct rnd r;

	if (!i || pg->kind == ZERO)
		return i ? 0 : pg->version;
	if (pg->kind == SOFT && i >= WORDS / 4)
		return pg->id;
	r.s = pg->id + (i - 1) * 0x9e3779b97f4a7c15ull;
	return rnd64(&r);
}

static void on_written(void *ctx)
{
	((struct fake *)ctx)->written++;
}

static int file_of(const char *dir, uint64_t bytes)
{
	int fd = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
		     : memfd_create("prop", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	return fd;
}

static void start(struct rig *g, struct fake *v)
{
	struct p2m_config c = {
		.ram_bytes = PAGES * PAGE_SIZE, .memfd = -1, .pool_fd = -1};
	int fd;

	memset(v, 0, sizeof(*v));
	assert_int_equal(control_create(c.ram_bytes, 0, "prop", &fd, &v->ctl),
			 0);
	close(fd);
	c.control = v->ctl;
	c.store_fd = file_of(NULL, c.ram_bytes);
	c.swap_fd = file_of("/var/tmp", c.ram_bytes);
	assert_int_equal(p2m_create(&c, &v->p), 0);
	close(c.store_fd);
	close(c.swap_fd);
	p2m_set_written(v->p, on_written, v);
	v->min = 16 * PAGE_SIZE;
	v->max = PAGES * PAGE_SIZE * 9 / 8;
	v->shares = 100 + rnd_below(&g->r, 900);
	control_set(&v->ctl->quota_bytes, v->min);
}

static void stop(struct rig *g, struct fake *v)
{
	for (unsigned i = 0; i < EVICT_NR; i++) {
		g->compressed += i == EVICT_compressed ? v->ctl->evict[i] : 0;
		g->swapped += i == EVICT_swapped ? v->ctl->evict[i] : 0;
	}
	g->in += v->ctl->decompressed + v->ctl->swapped_in;
	p2m_destroy(v->p);
	control_unmap(v->ctl, control_bytes(PAGES * PAGE_SIZE, 0));
}

/* ---- the guest ---- */

static void check_page(struct rig *g, struct fake *v, unsigned i, unsigned n)
{
	const uint64_t *p = p2m_read(v->p, (ppn_t){i});

	assert_non_null(p);
	for (unsigned k = 0; k < n; k++) {
		unsigned w = n == WORDS ? k : rnd_below(&g->r, WORDS);

		if (p[w] != word_of(&v->page[i], w))
			fail_msg("VM %u page %u word %u: %#lx, should be %#lx",
				 (unsigned)(v - g->vm), i, w,
				 (unsigned long)p[w],
				 (unsigned long)word_of(&v->page[i], w));
	}
}

static void do_fill(struct rig *g, struct fake *v, unsigned i)
{
	uint64_t *p = p2m_write(v->p, (ppn_t){i}, 0, PAGE_SIZE);
	unsigned kind = rnd_below(&g->r, 8);

	assert_non_null(p);
	v->page[i] =
		(struct page){.kind = kind ? (kind < 5 ? SOFT : HARD) : ZERO,
			      .id = ++g->ids * 0xc2b2ae3d27d4eb4full};
	for (unsigned w = 0; w < WORDS; w++)
		p[w] = word_of(&v->page[i], w);
}

static void do_word(struct rig *g, struct fake *v, unsigned i)
{
	uint64_t *p = p2m_write(v->p, (ppn_t){i}, 0, 8);

	assert_non_null(p);
	assert_int_equal(p[0], v->page[i].version);
	p[0] = ++v->page[i].version;
}

/* Pages that will be written, as an engine has it: some never are. */
static void do_prepare(struct rig *g, struct fake *v, unsigned i)
{
	assert_true(p2m_make_writable(v->p, (ppn_t){i},
				      1 + rnd_below(&g->r, 8)) > 0);
}

static void do_give_back(struct rig *g, struct fake *v, unsigned i)
{
	unsigned n = 1 + rnd_below(&g->r, 8);

	switch (rnd_below(&g->r, 3)) {
	case 0:
		p2m_discard(v->p, (ppn_t){i}, n);
		break;
	case 1:
		p2m_balloon(v->p, (ppn_t){i}, n);
		break;
	default: /* no page's bytes change by it */
		p2m_unballoon(v->p, (ppn_t){i}, n);
		return;
	}
	for (unsigned k = i; k < i + n && k < PAGES; k++)
		v->page[k] = (struct page){0};
}

/* ---- the host ---- */

static void settle(struct fake *v)
{
	p2m_swap_flush(v->p);
	while (p2m_swapping(v->p)) {
		while (!v->written)
			sched_yield();
		v->written = 0;
		p2m_swap_reap(v->p);
	}
}

/* Down to the quota, as a monitor does it. */
static void shrink(struct rig *g, struct fake *v)
{
	uint64_t quota = p2m_quota(v->p);

	/* After a failure nothing is written for a second. */
	for (unsigned i = 0;
	     i < (g->failing ? 100 : 3000) && p2m_resident(v->p) > quota; i++) {
		p2m_shrink(v->p, quota, 4 * PAGES);
		settle(v);
		if (i > 100)
			usleep(1000);
	}
	if (p2m_resident(v->p) <= quota)
		return;
	g->over++;
	assert_true(g->failing);
}

static void do_policy(struct rig *g)
{
	struct reclaim_vm r[VMS];
	uint64_t used = 0;

	if (!rnd_below(&g->r, 50))
		g->budget =
			(VMS * 24 + rnd_below(&g->r, VMS * PAGES)) * PAGE_SIZE;
	for (unsigned i = 0; i < VMS; i++) {
		struct fake *v = &g->vm[i];

		r[i] = (struct reclaim_vm){
			.shares = v->shares,
			.min = v->min,
			.max = v->max,
			.used = p2m_resident(v->p),
			.want = rnd_below(&g->r, v->max),
			.active = control_get(&v->ctl->active_bytes),
			.quota = control_get(&v->ctl->quota_bytes)};
		used += r[i].used;
	}
	reclaim_divide(r, VMS, g->budget, 0.75);
	reclaim_step(r, VMS, g->budget,
		     used < g->budget ? RECLAIM_HARD : RECLAIM_LOW);
	for (unsigned i = 0; i < VMS; i++) {
		struct fake *v = &g->vm[i];
		uint64_t cache = control_get(&v->ctl->cache_bytes);

		control_set(&v->ctl->quota_bytes, r[i].quota);
		control_set(&v->ctl->cache_seen, cache);
		/* Translations between two looks, or a trim. */
		p2m_set_cache(v->p,
			      rnd_below(&g->r, 4)
				      ? cache + rnd_below(&g->r, r[i].quota / 4)
				      : 0);
		shrink(g, v);
	}
}

static void do_misc(struct rig *g, struct fake *v, unsigned i)
{
	bool more;

	switch (rnd_below(&g->r, 8)) {
	case 0:
		p2m_sample(v->p, rnd64(&g->r) | 1);
		break;
	case 1:
		p2m_look_ahead(v->p, rnd_below(&g->r, 64));
		break;
	case 2:
		g->now += rnd_below(&g->r, 2000000000);
		p2m_collect(v->p, g->now, 64, &more);
		break;
	case 3:
		if (p2m_commit_zero(v->p, (ppn_t){i}) == SHARE_ok)
			p2m_punch(v->p, (ppn_t){i}, 1);
		break;
	case 4:
		if (p2m_swap_out(v->p, (ppn_t){i}) == EVICT_zero)
			p2m_punch(v->p, (ppn_t){i}, 1);
		break;
	case 5:
		p2m_rest_mark(v->p, &v->rest, rnd_below(&g->r, 64));
		break;
	case 6:
		p2m_rest_take(v->p, &v->rest, rnd_below(&g->r, 16));
		break;
	default:
		if (v->written)
			p2m_swap_reap(v->p);
	}
}

/* The disk fails, for a few calls; reads are tried 50 times. */
static void do_fail(struct rig *g)
{
	static const char *const what[] = {
		"swap-write-eio:1:2",
		"swap-write-short:0:5",
		"swap-full:3:20",
		"swap-read-eio:0:3",
		"swap-read-short:0:9",
		NULL,
		NULL,
	};
	const char *w = what[rnd_below(&g->r, ARRAY_SIZE(what))];

	fail_points_set(w);
	g->failing = w != NULL;
	g->fails += g->failing;
}

static void step(struct rig *g)
{
	struct fake *v = &g->vm[rnd_below(&g->r, VMS)];
	/* Half of the time in a quarter of the pages. */
	unsigned i = rnd_below(&g->r, rnd_below(&g->r, 2) ? PAGES : PAGES / 4);

	switch (rnd_below(&g->r, 64)) {
	case 0 ... 7:
		do_fill(g, v, i);
		break;
	case 8 ... 19:
		do_word(g, v, i);
		break;
	case 20 ... 21:
		do_prepare(g, v, i);
		break;
	case 22:
		if (!rnd_below(&g->r, 2))
			do_give_back(g, v, i);
		break;
	case 23 ... 25:
		do_misc(g, v, i);
		break;
	case 26:
		do_policy(g);
		break;
	case 27:
		if (!rnd_below(&g->r, 100))
			do_fail(g);
		break;
	case 28:
		if (rnd_below(&g->r, 500))
			break;
		stop(g, v);
		start(g, v);
		g->deaths++;
		break;
	default:
		check_page(g, v, i, 4);
	}
}

static void test_reclaim(void **state)
{
	uint64_t steps = prop_env("PROP_STEPS", 200000);
	struct rig *g = calloc(1, sizeof(*g));

	g->r = rnd_seeded("prop_reclaim", 1);
	g->budget = VMS * PAGES * PAGE_SIZE / 2;
	for (unsigned i = 0; i < VMS; i++)
		start(g, &g->vm[i]);
	for (uint64_t n = 0; n < steps; n++) {
		step(g);
		if (n % 1024 == 0)
			assert_int_equal(p2m_audit(g->vm[n / 1024 % VMS].p), 0);
	}
	fail_points_set(NULL);
	for (unsigned i = 0; i < VMS; i++) {
		settle(&g->vm[i]);
		assert_int_equal(p2m_audit(g->vm[i].p), 0);
		for (unsigned k = 0; k < PAGES; k++)
			check_page(g, &g->vm[i], k, WORDS);
		assert_int_equal(p2m_audit(g->vm[i].p), 0);
		stop(g, &g->vm[i]);
	}
	printf("# %llu compressed, %llu swapped, %llu came back, %llu deaths, "
	       "%llu failures of the disk, %llu times over\n",
	       (unsigned long long)g->compressed,
	       (unsigned long long)g->swapped, (unsigned long long)g->in,
	       (unsigned long long)g->deaths, (unsigned long long)g->fails,
	       (unsigned long long)g->over);
	assert_true(g->compressed > steps / 200 && g->swapped > steps / 200 &&
		    g->in > steps / 200);
	free(g);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(test_reclaim)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
