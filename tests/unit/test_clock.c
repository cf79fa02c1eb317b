/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages go: a guest whose working set fits into its quota is to have it
 * there, whatever else it has, and its store has to make room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_reclaim.h"
#include "tests/prop/prop.h"

#define PAGES 4096u
#define QUOTA 1024u
#define HOT   800u
#define ALL   3000u

struct rig {
	struct p2m *p;
	struct control *ctl;
	struct rnd r;
	_Atomic unsigned written;
};

static void on_written(void *ctx)
{
	((struct rig *)ctx)->written++;
}

static int file_of(const char *dir)
{
	int fd = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
		     : memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAGES * PAGE_SIZE), 0);
	return fd;
}

static void start(struct rig *g)
{
	struct p2m_config c = {
		.ram_bytes = PAGES * PAGE_SIZE, .memfd = -1, .pool_fd = -1};
	int fd;

	assert_int_equal(control_create(c.ram_bytes, 0, "test", &fd, &g->ctl),
			 0);
	close(fd);
	c.control = g->ctl;
	c.store_fd = file_of(NULL);
	c.swap_fd = file_of("/var/tmp");
	assert_int_equal(p2m_create(&c, &g->p), 0);
	close(c.store_fd);
	close(c.swap_fd);
	p2m_set_written(g->p, on_written, g);
	control_set(&g->ctl->quota_bytes, QUOTA * PAGE_SIZE);
}

static void keep_within(struct rig *g)
{
	while (p2m_resident(g->p) > QUOTA * PAGE_SIZE) {
		p2m_shrink(g->p, (QUOTA - 16) * PAGE_SIZE, 4 * PAGES);
		while (p2m_swapping(g->p) && !g->written)
			sched_yield();
		g->written = 0;
		p2m_swap_reap(g->p);
	}
}

/* Half of it compresses. */
static void fill(struct rig *g, uint64_t n)
{
	uint64_t *p = p2m_write(g->p, (ppn_t){n}, 0, PAGE_SIZE);

	assert_non_null(p);
	p[0] = n;
	for (unsigned i = 1; i < PAGE_SIZE / 8; i++)
		p[i] = i % 2 ? rnd64(&g->r) : n;
	keep_within(g);
}

static void touch(struct rig *g, uint64_t n)
{
	const uint64_t *p = p2m_read(g->p, (ppn_t){n});

	assert_non_null(p);
	assert_int_equal(p[0], n);
	assert_int_equal(p[510], n);
	keep_within(g);
}

/* What is marked, and what comes back, of a guest that uses nearly all of its
 * quota all the time, and now and then a page from elsewhere. */
static void work(uint64_t seed, uint64_t *marked, uint64_t *back)
{
	struct rig g = {.r = rnd_seeded("test_clock", seed)};

	start(&g);
	for (uint64_t n = 0; n < ALL; n++)
		fill(&g, n);
	for (unsigned i = 0; i < 400 * HOT; i++) {
		if (i == 200 * HOT) {
			*marked -= g.ctl->marked_pages;
			*back -= g.ctl->decompressed + g.ctl->swapped_in;
		}
		touch(&g, rnd_below(&g.r, i % 500 ? HOT : ALL));
	}
	*marked += g.ctl->marked_pages;
	*back += g.ctl->decompressed + g.ctl->swapped_in;
	assert_int_equal(p2m_audit(g.p), 0);
	p2m_destroy(g.p);
	control_unmap(g.ctl, control_bytes(PAGES * PAGE_SIZE, 0));
}

/* It must not pay for each of those with a fault for each page in use. Single
 * runs differ, by when the swap file's thread is done. */
static void test_hot_rest(void **state)
{
	uint64_t marked = 0, back = 0;

	for (uint64_t seed = 2; seed < 8; seed++)
		work(seed, &marked, &back);
	print_message("%lu marked, %lu came back\n", marked, back);
	assert_true(back < 6 * 600);
	assert_true(marked < 8 * back);
}

static void test_working_set(void **state)
{
	struct rig g = {.r = rnd_seeded("test_clock", 1)};
	uint64_t before;

	start(&g);
	for (uint64_t n = 0; n < ALL; n++)
		fill(&g, n);
	/* The oldest of all, and the store is as big as it may be. */
	assert_true(control_get(&g.ctl->store_limit) == QUOTA * PAGE_SIZE / 2);
	assert_true(control_get(&g.ctl->swapped_pages) > 0);
	for (unsigned i = 0; i < 60 * HOT; i++)
		touch(&g, rnd_below(&g.r, HOT));
	before = g.ctl->decompressed + g.ctl->swapped_in;
	for (unsigned i = 0; i < 20 * HOT; i++)
		touch(&g, rnd_below(&g.r, HOT));
	assert_true(g.ctl->decompressed + g.ctl->swapped_in - before < HOT / 4);
	assert_true(control_get(&g.ctl->store_limit) < QUOTA * PAGE_SIZE / 4);
	/* And nothing is lost by it. */
	for (uint64_t n = 0; n < ALL; n++)
		touch(&g, n);
	assert_int_equal(p2m_audit(g.p), 0);
	p2m_destroy(g.p);
	control_unmap(g.ctl, control_bytes(PAGES * PAGE_SIZE, 0));
}

/* What translations grow by is the quota's until the manager has seen it. */
static void count(void *ctx)
{
	++*(unsigned *)ctx;
}

static void test_cache(void **state)
{
	struct rig g = {0};
	uint64_t quota = QUOTA * PAGE_SIZE;
	unsigned pressed = 0;

	(void)state;
	start(&g);
	p2m_set_pressure(g.p, count, &pressed);
	for (unsigned i = 0; i < QUOTA - 8; i++)
		*(uint64_t *)p2m_write(g.p, (ppn_t){i}, 0, 8) = i + 1;
	assert_int_equal(p2m_quota(g.p), quota);
	p2m_set_cache(g.p, 8 * PAGE_SIZE);
	assert_int_equal(p2m_quota(g.p), quota - 8 * PAGE_SIZE);
	assert_int_equal(pressed, 0);
	p2m_set_cache(g.p, 9 * PAGE_SIZE);
	assert_int_equal(pressed, 1);
	/* A trim presses nobody; nor does the quota grow by it. */
	p2m_set_cache(g.p, 0);
	assert_int_equal(pressed, 1);
	control_set(&g.ctl->cache_seen, 9 * PAGE_SIZE);
	assert_int_equal(p2m_quota(g.p), quota);
	p2m_set_cache(g.p, quota);
	assert_int_equal(p2m_quota(g.p), quota - quota / 4);
	control_set(&g.ctl->quota_bytes, 0);
	assert_int_equal(p2m_quota(g.p), 0);
	p2m_destroy(g.p);
	control_unmap(g.ctl, control_bytes(PAGES * PAGE_SIZE, 0));
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(test_working_set),
				       cmocka_unit_test(test_hot_rest),
				       cmocka_unit_test(test_cache)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
