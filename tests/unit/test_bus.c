/* SPDX-License-Identifier: Apache-2.0 */
/* The bus: who answers, overlaps, splits, nobody home; and the timer heap. */
#include <errno.h>

#include "tests/unit/devtest.h"
#include "vmm/dev/bus_stats.h"

struct ram {
	uint8_t b[16];
	unsigned reads, writes, last_len;
};

static uint64_t ram_read(void *dev, uint64_t off, unsigned len)
{
	struct ram *r = dev;
	uint64_t v = 0;

	r->reads++;
	r->last_len = len;
	assert_true(off + len <= sizeof(r->b));
	memcpy(&v, r->b + off, len);
	return v | (len < 8 ? ~0ull << (8 * len) : 0); /* dirty upper bits */
}

static void ram_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct ram *r = dev;

	r->writes++;
	r->last_len = len;
	assert_true(off + len <= sizeof(r->b));
	assert_true(len == 8 || val >> (8 * len) == 0);
	memcpy(r->b + off, &val, len);
}

static const struct bus_ops ram_ops = {ram_read, ram_write};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void test_dispatch(void **state)
{
	struct bus *b = bus_create("t", &lock);
	struct ram r[3] = {0};
	struct stat_group g;
	const struct bus_stats *st;

	assert_int_equal(bus_add(b, "mid", 0x100, 16, &ram_ops, &r[1]), 0);
	assert_int_equal(bus_add(b, "low", 0x20, 16, &ram_ops, &r[0]), 0);
	assert_int_equal(
		bus_add(b, "high", 0xfffffffffffffff0, 16, &ram_ops, &r[2]), 0);
	bus_write(b, 0x100, 4, 0x11223344);
	bus_write(b, 0x2f, 1, 0x55);
	bus_write(b, 0xfffffffffffffff8, 8, 0x0102030405060708);
	assert_int_equal(bus_read(b, 0x100, 4), 0x11223344);
	assert_int_equal(bus_read(b, 0x102, 1), 0x22);
	assert_int_equal(bus_read(b, 0x2f, 1), 0x55);
	assert_true(bus_read(b, 0xfffffffffffffff8, 8) == 0x0102030405060708);
	assert_int_equal(r[0].writes, 1);
	assert_int_equal(r[1].writes, 1);

	/* nobody */
	assert_int_equal(bus_read(b, 0x30, 1), 0xff);
	assert_int_equal(bus_read(b, 0x1000, 4), 0xffffffff);
	assert_true(bus_read(b, 0x1000, 8) == ~0ull);
	bus_write(b, 0x110, 2, 7);
	bus_stat_group(b, &g);
	st = g.base;
	assert_int_equal(st->reads_nobody, 3);
	assert_int_equal(st->writes_nobody, 1);
	assert_int_equal(st->splits, 0);
	bus_destroy(b);
}

static void test_overlap(void **state)
{
	struct bus *b = bus_create("t", &lock);
	struct ram r = {0};
	unsigned i;
	static const struct {
		uint64_t start, len;
		int err;
	} c[] = {
		{100, 10, 0},	   {100, 1, -EEXIST},	{109, 1, -EEXIST},
		{90, 11, -EEXIST}, {95, 100, -EEXIST},	{110, 5, 0},
		{99, 1, 0},	   {0, 99, 0},		{50, 1, -EEXIST},
		{10, 0, -EINVAL},  {~0ull, 2, -EINVAL}, {~0ull, 1, 0},
	};

	for (i = 0; i < ARRAY_SIZE(c); i++)
		assert_int_equal(
			bus_add(b, "x", c[i].start, c[i].len, &ram_ops, &r),
			c[i].err);
	bus_destroy(b);
}

/* An access over a range's end is bytes: to this device, the next, nobody. */
static void test_split(void **state)
{
	struct bus *b = bus_create("t", &lock);
	struct ram r[2] = {0};

	bus_add(b, "a", 0x10, 16, &ram_ops, &r[0]);
	bus_add(b, "b", 0x20, 16, &ram_ops, &r[1]);
	bus_write(b, 0x1e, 4, 0xddccbbaa);
	assert_int_equal(r[0].b[14], 0xaa);
	assert_int_equal(r[0].b[15], 0xbb);
	assert_int_equal(r[1].b[0], 0xcc);
	assert_int_equal(r[1].b[1], 0xdd);
	assert_int_equal(r[1].last_len, 1);
	assert_int_equal(bus_read(b, 0x1e, 4), 0xddccbbaa);
	/* from nowhere into a range, and out of one */
	bus_write(b, 0xf, 2, 0x7766);
	assert_int_equal(r[0].b[0], 0x77);
	assert_int_equal(bus_read(b, 0xf, 2), 0x77ff);
	assert_int_equal(bus_read(b, 0x2f, 2), 0xff00);
	bus_destroy(b);
}

static unsigned ran[4];
static void note(void *ctx)
{
	ran[*(unsigned *)ctx]++;
}

/* The heap against a plain array, for many random moves. */
static void test_timer_heap(void **state)
{
	struct timer_heap h = {.n = 0};
	unsigned id[32], i, step;
	struct timer t[32] = {{0}};
	uint64_t at[32], now = 0;

	srandom(1);
	for (i = 0; i < 32; i++) {
		id[i] = i % 4;
		t[i].fn = note;
		t[i].ctx = &id[i];
		at[i] = ~0ull;
	}
	for (step = 0; step < 20000; step++) {
		uint64_t first = ~0ull;
		struct timer *p;

		i = random() % 32;
		if (random() % 3) {
			at[i] = now + random() % 100;
			timer_heap_set(&h, &t[i], at[i]);
		} else {
			at[i] = ~0ull;
			timer_heap_remove(&h, &t[i]);
		}
		now += random() % 8;
		while ((p = timer_heap_pop(&h, now))) {
			assert_true(at[p - t] <= now);
			assert_false(timer_armed(p));
			at[p - t] = ~0ull;
			p->fn(p->ctx);
		}
		for (i = 0; i < 32; i++) {
			assert_int_equal(timer_armed(&t[i]), at[i] != ~0ull);
			first = at[i] < first ? at[i] : first;
		}
		assert_true(timer_heap_next(&h) == first);
		assert_true(first > now);
	}
	assert_true(ran[0] && ran[1] && ran[2] && ran[3]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dispatch),
		cmocka_unit_test(test_overlap),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_timer_heap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
