/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon: what drivers ask for, and what a hostile one may try. */
#include "mm/control.h"
#include "mm/p2m_share.h"
#include "tests/unit/virtio_util.h"
#include "vmm/dev/virtio_balloon.h"

#define LIST	    0x200000ull /* page numbers */
#define FREE	    0x300000ull /* pages to give away: 1 MiB */
#define F_STATS	    (1ull << 1)
#define F_HINT	    (1ull << 3)
#define F_POISON    (1ull << 4)
#define F_REPORTING (1ull << 5)
#define ALL	    (VIRTIO_F_VERSION_1 | 0x3eull)
#define RAM_PAGES   (VD_RAM / PAGE_SIZE)

enum { INFLATE, DEFLATE, STATS, HINT, REPORT };

static struct vdrv v;
static struct stat_group counters;

static uint64_t counter(const char *name)
{
	for (size_t i = 0; i < counters.n; i++)
		if (!strcmp(counters.desc[i].name, name))
			return *(const uint64_t *)((const char *)counters.base +
						   counters.desc[i].offset);
	fail_msg("no counter %s", name);
	return 0;
}

static void go(void)
{
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
	assert_int_equal(vd_status(&v), 15);
}

static int setup(void **state)
{
	struct virtio_host h;

	vd_machine(&v, &h);
	vd_plug(&v, virtio_balloon_create(&h, "balloon0"));
	virtio_balloon_stat_group(v.d, &counters);
	assert_int_equal(vd_offered(&v) & 0x3f, 0x3e);
	assert_true(vd_negotiate(&v, ALL));
	for (unsigned i = 0; i < 5; i++)
		vd_queue(&v, i, 64);
	go();
	return 0;
}

static int teardown(void **state)
{
	vd_unplug(&v);
	return 0;
}

static enum p2m_state state_of(uint64_t pfn)
{
	return p2m_get_state(v.p2m, (ppn_t){pfn});
}

static uint64_t private_pages(void)
{
	return p2m_control(v.p2m)->private_pages;
}

static void fill(uint64_t pfn, uint64_t n)
{
	char page[PAGE_SIZE];

	memset(page, 0x5a, sizeof(page));
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(p2m_copy_in(v.p2m, (pfn + i) << PAGE_SHIFT,
					     page, PAGE_SIZE),
				 0);
}

static bool is_zero(uint64_t pfn)
{
	static const char zero[PAGE_SIZE];
	const void *p = p2m_read(v.p2m, (ppn_t){pfn});

	return p && !memcmp(p, zero, PAGE_SIZE);
}

static bool done(unsigned q)
{
	uint32_t id, len;

	return vd_used(&v, q, &id, &len);
}

/* A list of page numbers in one buffer. */
static void list(unsigned q, const uint32_t *pfn, unsigned n)
{
	assert_int_equal(p2m_copy_in(v.p2m, LIST, pfn, 4 * n), 0);
	vd_set_desc(&v, v.q[q].desc, 0, LIST, 4 * n, 0, 0);
	vd_avail(&v, q, 0);
	vd_bell(&v, q);
	vd_run(&v);
	assert_true(done(q));
}

static void report(gpa_t at, uint32_t len)
{
	vd_set_desc(&v, v.q[REPORT].desc, 0, at, len, 2, 0);
	vd_avail(&v, REPORT, 0);
	vd_bell(&v, REPORT);
	vd_run(&v);
	assert_true(done(REPORT));
}

#define F (FREE >> PAGE_SHIFT)

static void test_inflate(void **state)
{
	/* As Linux gives them, and as nobody should. */
	const uint32_t pfn[] = {F + 7,	   F + 6, F + 5,      F + 9,
				F + 5,	   F + 5, 0xffffffff, RAM_PAGES,
				0x100000u, F + 9, F + 1};

	fill(F, 16);
	list(INFLATE, pfn, ARRAY_SIZE(pfn));
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(state_of(F + i),
				 0x2e2 >> i & 1 ? P2M_BALLOONED : P2M_PRIVATE);
	assert_int_equal(counter("inflated"), 5);
	assert_int_equal(counter("ignored"), 6);
	assert_int_equal(p2m_control(v.p2m)->ballooned_pages, 5);
	assert_int_equal(p2m_audit(v.p2m), 0);
	/* Again: they are there. */
	list(INFLATE, pfn, ARRAY_SIZE(pfn));
	assert_int_equal(counter("inflated"), 5);
	/* One is used without a word: zeroes, and then it is a page. */
	assert_true(is_zero(F + 5));
	fill(F + 5, 1);
	list(DEFLATE, pfn, ARRAY_SIZE(pfn));
	assert_int_equal(counter("deflated"), 4);
	assert_int_equal(state_of(F + 5), P2M_PRIVATE);
	assert_int_equal(state_of(F + 6), P2M_ZERO);
	assert_int_equal(p2m_control(v.p2m)->ballooned_pages, 0);
}

/* A page that a device works on stays, and so does what is not RAM. */
static void test_pinned(void **state)
{
	const uint32_t pfn[] = {F, F + 1, F + 2};
	char *page;

	fill(F, 3);
	page = p2m_pin(v.p2m, (ppn_t){F + 1}, true);
	list(INFLATE, pfn, 3);
	assert_int_equal(state_of(F + 1), P2M_PRIVATE);
	report(FREE, 3 * PAGE_SIZE);
	assert_int_equal(page[77], 0x5a);
	p2m_unpin(v.p2m, (ppn_t){F + 1});
	list(INFLATE, pfn, 3);
	assert_int_equal(state_of(F + 1), P2M_BALLOONED);
}

/* The ring itself in the balloon: the device reads zeroes, and goes on. */
static void test_ring(void **state)
{
	const uint32_t pfn[] = {v.q[INFLATE].avail >> PAGE_SHIFT,
				v.q[INFLATE].desc >> PAGE_SHIFT};

	list(INFLATE, pfn, 2);
	vd_bell(&v, INFLATE);
	vd_run(&v);
	assert_true(vd_status(&v) & VIRTIO_S_NEEDS_RESET);
	assert_int_equal(p2m_audit(v.p2m), 0);
}

static void test_report(void **state)
{
	uint64_t before;

	fill(F, 64);
	before = private_pages();
	report(FREE, 64 * PAGE_SIZE);
	assert_int_equal(private_pages(), before - 64);
	assert_int_equal(counter("reported"), 64);
	for (unsigned i = 0; i < 64; i++)
		assert_true(is_zero(F + i));
	/* Only whole pages. */
	fill(F, 4);
	report(FREE + 1, 3 * PAGE_SIZE);
	assert_int_equal(state_of(F), P2M_PRIVATE);
	assert_int_equal(state_of(F + 1), P2M_ZERO);
	assert_int_equal(state_of(F + 2), P2M_ZERO);
	assert_int_equal(state_of(F + 3), P2M_PRIVATE);
	report(FREE, PAGE_SIZE - 1);
	report(FREE + 10, 20);
	report(FREE, 0);
	assert_int_equal(state_of(F), P2M_PRIVATE);
	/* Beyond RAM the queue itself refuses it. */
	vd_set_desc(&v, v.q[REPORT].desc, 0, VD_RAM - PAGE_SIZE, 2 * PAGE_SIZE,
		    2, 0);
	vd_avail(&v, REPORT, 0);
	vd_bell(&v, REPORT);
	vd_run(&v);
	assert_true(vd_status(&v) & VIRTIO_S_NEEDS_RESET);
}

static void test_poison(void **state)
{
	fill(F, 2);
	vd_out(&v, v.device + 12, 4, 0x5a5a5a5a);
	report(FREE, PAGE_SIZE);
	assert_int_equal(state_of(F), P2M_PRIVATE);
	assert_int_equal(counter("poisoned"), 1);
	vd_out(&v, v.device + 12, 4, 0);
	report(FREE, PAGE_SIZE);
	assert_int_equal(state_of(F), P2M_ZERO);
}

/* All of memory many times over, in one chain: a turn is bounded. */
static void test_huge(void **state)
{
	unsigned turns;

	for (unsigned q = INFLATE; q <= REPORT; q++) {
		if (q == STATS || q == HINT)
			continue;
		for (unsigned i = 0; i < 64; i++)
			vd_set_desc(&v, v.q[q].desc, i, LIST, VD_RAM - LIST,
				    (i < 63) | (q == REPORT ? 2 : 0), i + 1);
		vd_avail(&v, q, 0);
		vd_bell(&v, q);
		for (turns = 0; !done(q) && turns < 10000; turns++) {
			v.n_deferred = 0;
			virtio_run(v.d);
		}
		/* 64 times 2 MiB of numbers, or of pages. */
		assert_in_range(turns, q == REPORT ? 4 : 4000, 4200);
	}
	assert_int_equal(vd_status(&v), 15);
	v.n_deferred = 0;
}

/* In the middle of it, a reset. */
static void test_reset(void **state)
{
	for (unsigned i = 0; i < 64; i++)
		vd_set_desc(&v, v.q[INFLATE].desc, i, LIST, VD_RAM - LIST,
			    i < 63, i + 1);
	vd_avail(&v, INFLATE, 0);
	vd_bell(&v, INFLATE);
	v.n_deferred = 0;
	virtio_run(v.d);
	assert_true(v.n_deferred > 0);
	assert_true(vd_negotiate(&v, ALL));
	vd_run(&v);
	for (unsigned i = 0; i < 5; i++)
		vd_queue(&v, i, 64);
	go();
	fill(F, 1);
	list(INFLATE, &(uint32_t){F}, 1);
	assert_int_equal(state_of(F), P2M_BALLOONED);
}

static struct virtio_balloon_state now(void)
{
	struct virtio_balloon_state s;

	pthread_mutex_lock(&v.lock);
	virtio_balloon_get_state(v.d, &s);
	pthread_mutex_unlock(&v.lock);
	return s;
}

static void set_target(uint64_t pages)
{
	pthread_mutex_lock(&v.lock);
	virtio_balloon_set_target(v.d, pages);
	pthread_mutex_unlock(&v.lock);
	vd_run(&v);
}

static void test_target(void **state)
{
	unsigned told = v.msis[0x40];

	set_target(100);
	assert_int_equal(v.msis[0x40], told + 1);
	assert_int_equal(vd_in(&v, v.device, 4), 100);
	set_target(100);
	assert_int_equal(v.msis[0x40], told + 1);
	vd_out(&v, v.device + 4, 4, 60);
	assert_int_equal(now().actual, 60);
	vd_out(&v, v.device + 4, 4, 100);
	/* Asked to deflate, it does. */
	set_target(80);
	vd_out(&v, v.device + 4, 4, 90);
	vd_out(&v, v.device + 4, 4, 80);
	assert_int_equal(now().target, 80);
	assert_int_equal(now().oom, 0);
	/* Out of memory: the target sinks, and is not pressed again. */
	vd_out(&v, v.device + 4, 4, 20);
	assert_int_equal(now().oom, 1);
	assert_int_equal(now().target, 20);
	set_target(80);
	assert_int_equal(now().target, 20);
	set_target(81);
	assert_int_equal(now().target, 81);
	/* num_pages is not the driver's. */
	vd_out(&v, v.device, 4, 7);
	assert_int_equal(now().target, 81);
}

static void put_stats(const void *s, size_t n)
{
	assert_int_equal(p2m_copy_in(v.p2m, LIST, s, n), 0);
	vd_set_desc(&v, v.q[STATS].desc, 0, LIST, n, 0, 0);
	vd_avail(&v, STATS, 0);
	vd_bell(&v, STATS);
	vd_run(&v);
}

static void ask(void)
{
	pthread_mutex_lock(&v.lock);
	virtio_balloon_ask_stats(v.d);
	pthread_mutex_unlock(&v.lock);
	vd_run(&v);
}

static void test_stats(void **state)
{
	struct __attribute__((packed)) {
		uint16_t tag;
		uint64_t val;
	} s[] = {{4, 1000}, {5, 2000}, {99, 5}, {6, 1500}}, many[200];

	assert_int_equal(now().free_bytes, BALLOON_UNKNOWN);
	ask(); /* before there is a buffer */
	put_stats(s, sizeof(s));
	assert_true(done(STATS));
	assert_int_equal(now().free_bytes, 1000);
	put_stats(s, sizeof(s));
	assert_false(done(STATS)); /* it is held until asked for */
	assert_int_equal(now().total_bytes, 2000);
	assert_int_equal(now().available_bytes, 1500);
	assert_int_equal(now().cache_bytes, BALLOON_UNKNOWN);
	assert_int_equal(now().stats_seq, 2);
	ask();
	assert_true(done(STATS));
	ask();
	assert_false(done(STATS));
	/* A part of an entry, and too many. */
	put_stats(s, 9);
	assert_int_equal(now().free_bytes, BALLOON_UNKNOWN);
	memset(many, 0xff, sizeof(many));
	many[63].tag = 4;
	many[64].tag = 5;
	put_stats(many, sizeof(many));
	assert_int_equal(now().free_bytes, ~0ull);
	assert_int_equal(now().total_bytes, BALLOON_UNKNOWN);
}

/* Hints that nobody asked for go back, and change nothing. */
static void test_hint(void **state)
{
	fill(F, 1);
	vd_set_desc(&v, v.q[HINT].desc, 0, FREE, PAGE_SIZE, 2, 0);
	vd_avail(&v, HINT, 0);
	vd_bell(&v, HINT);
	vd_run(&v);
	assert_true(done(HINT));
	assert_int_equal(state_of(F), P2M_PRIVATE);
}

/* Drivers that leave out features number their queues in two ways. */
static void test_numbering(void **state)
{
	static const struct {
		uint64_t features;
		unsigned queues, report;
	} way[] = {{F_REPORTING, 3, 2},
		   {F_REPORTING, 5, 4},
		   {F_REPORTING | F_STATS, 4, 3},
		   {F_REPORTING | F_STATS, 5, 4},
		   {F_REPORTING | F_HINT, 4, 3}};

	for (unsigned i = 0; i < ARRAY_SIZE(way); i++) {
		unsigned q = way[i].report;

		assert_true(
			vd_negotiate(&v, VIRTIO_F_VERSION_1 | way[i].features));
		for (unsigned k = 0; k < way[i].queues; k++)
			if (k < 2 || k == q || way[i].queues < 5)
				vd_queue(&v, k, 64);
		go();
		fill(F, 1);
		vd_set_desc(&v, v.q[q].desc, 0, FREE, PAGE_SIZE, 2, 0);
		vd_avail(&v, q, 0);
		vd_bell(&v, q);
		vd_run(&v);
		assert_true(done(q));
		assert_int_equal(state_of(F), P2M_ZERO);
	}
	/* Queues of features that were not agreed to are dead. */
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 64);
	vd_queue(&v, 4, 64);
	go();
	fill(F, 1);
	vd_set_desc(&v, v.q[4].desc, 0, FREE, PAGE_SIZE, 2, 0);
	vd_avail(&v, 4, 0);
	vd_bell(&v, 4);
	vd_run(&v);
	assert_false(done(4));
	assert_int_equal(state_of(F), P2M_PRIVATE);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest t[] = {
		T(test_inflate), T(test_pinned),    T(test_ring),
		T(test_report),	 T(test_poison),    T(test_huge),
		T(test_reset),	 T(test_target),    T(test_stats),
		T(test_hint),	 T(test_numbering),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
