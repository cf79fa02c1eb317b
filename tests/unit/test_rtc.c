/* SPDX-License-Identifier: Apache-2.0 */
/* The MC146818: forms of the time, setting it, UIP, the three interrupts. */
#include <time.h>

#include "tests/unit/devtest.h"
#include "vmm/dev/rtc.h"

/* 2026-11-22 13:45:56 UTC, a Sunday */
#define WALL 1795355156ull

struct box {
	pthread_mutex_t lock;
	struct bus *pio;
	struct test_clock tc;
	struct test_line irq;
	struct rtc *r;
};

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));

	pthread_mutex_init(&b->lock, NULL);
	b->tc.now = 99;
	b->tc.wall = WALL * SEC;
	b->pio = bus_create("pio", &b->lock);
	b->r = rtc_create(test_clock(&b->tc), test_line(&b->irq));
	assert_int_equal(rtc_attach(b->r, b->pio), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	rtc_destroy(b->r);
	assert_int_equal(b->tc.heap.n, 0);
	bus_destroy(b->pio);
	free(b);
	return 0;
}

static uint8_t rd(struct box *b, uint8_t i)
{
	bus_write(b->pio, 0x70, 1, i);
	return bus_read(b->pio, 0x71, 1);
}
static void wr(struct box *b, uint8_t i, uint8_t v)
{
	bus_write(b->pio, 0x70, 1, i);
	bus_write(b->pio, 0x71, 1, v);
}

/* sec min hour wday mday mon year century */
static void expect_time(struct box *b, const uint8_t t[8])
{
	static const uint8_t reg[8] = {0, 2, 4, 6, 7, 8, 9, 0x32};
	unsigned i;

	for (i = 0; i < 8; i++)
		assert_int_equal(rd(b, reg[i]), t[i]);
}

static void test_forms(void **state)
{
	struct box *b = *state;

	assert_int_equal(rd(b, 0xd), 0x80);
	expect_time(b, (const uint8_t[]){0x56, 0x45, 0x13, 1, 0x22, 0x11, 0x26,
					 0x20});
	wr(b, 0xb, 0x06);
	expect_time(b, (const uint8_t[]){56, 45, 13, 1, 22, 11, 26, 20});
	wr(b, 0xb, 0x04); /* 12 hours */
	assert_int_equal(rd(b, 4), 0x80 | 1);
	wr(b, 0xb, 0x00);
	assert_int_equal(rd(b, 4), 0x80 | 0x01);
	test_advance(&b->tc, 11 * 3600 * SEC); /* 00:45 is 12 AM */
	assert_int_equal(rd(b, 4), 0x12);
	test_advance(&b->tc, 12 * 3600 * SEC); /* 12:45 is 12 PM */
	assert_int_equal(rd(b, 4), 0x92);
	test_advance(&b->tc, 4 * SEC); /* carries */
	assert_int_equal(rd(b, 0), 0);
	assert_int_equal(rd(b, 2), 0x46);
}

static void test_set(void **state)
{
	struct box *b = *state;
	unsigned i;
	static const uint8_t reg[8] = {0, 2, 4, 6, 7, 8, 9, 0x32};
	static const uint8_t val[8] = {0x58, 0x59, 0x23, 5,
				       0x28, 0x02, 0x00, 0x20};

	wr(b, 0xb, 0x82); /* SET: frozen */
	test_advance(&b->tc, 10 * SEC);
	assert_int_equal(rd(b, 0), 0x56);
	for (i = 0; i < 8; i++)
		wr(b, reg[i], val[i]);
	wr(b, 0xb, 0x02);
	expect_time(b, (const uint8_t[]){0x58, 0x59, 0x23, 2, 0x28, 0x02, 0x00,
					 0x20}); /* a Monday it was */
	test_advance(&b->tc, 2 * SEC);
	expect_time(b, (const uint8_t[]){0, 0, 0, 3, 0x29, 0x02, 0x00, 0x20});
	/* one field, without SET */
	wr(b, 9, 0x99);
	wr(b, 0x32, 0x19);
	assert_int_equal(rd(b, 9), 0x99);
	assert_int_equal(rd(b, 7), 0x01); /* no Feb 29 in 1999 */
	/* a reset keeps the time */
	rtc_reset(b->r);
	assert_int_equal(rd(b, 9), 0x99);
}

static void test_uip(void **state)
{
	struct box *b = *state;

	assert_int_equal(rd(b, 0xa), 0x26);
	test_advance(&b->tc, SEC - 245 * USEC);
	assert_int_equal(rd(b, 0xa), 0x26);
	test_advance(&b->tc, 2 * USEC);
	assert_int_equal(rd(b, 0xa), 0xa6);
	assert_int_equal(rd(b, 0), 0x56); /* still the old second */
	test_advance(&b->tc, 243 * USEC);
	assert_int_equal(rd(b, 0xa), 0x26);
	assert_int_equal(rd(b, 0), 0x57);
	wr(b, 0xb, 0x82); /* no updates while SET */
	test_advance(&b->tc, SEC - USEC);
	assert_int_equal(rd(b, 0xa), 0x26);
	wr(b, 0xa, 0xff); /* UIP is read-only */
	assert_int_equal(rd(b, 0xa), 0x7f);
}

static void test_update_irq(void **state)
{
	struct box *b = *state;

	wr(b, 0xb, 0x12);
	test_advance(&b->tc, 999 * MSEC);
	assert_false(b->irq.level);
	test_advance(&b->tc, 1 * MSEC);
	assert_true(b->irq.level);
	assert_int_equal(rd(b, 0xc) & 0xb0, 0x90);
	assert_false(b->irq.level);
	assert_int_equal(rd(b, 0xc), 0);
	test_advance(&b->tc, SEC);
	assert_true(b->irq.level);
	/* not read: no further interrupt, and no host timer either */
	b->tc.fired = 0;
	test_advance(&b->tc, 100 * SEC);
	assert_int_equal(b->irq.rises, 2);
	assert_int_equal(b->tc.fired, 0);
	wr(b, 0xb, 0x02);
	assert_false(b->irq.level);
	/* the flag comes without the interrupt too */
	rd(b, 0xc);
	test_advance(&b->tc, SEC);
	assert_int_equal(rd(b, 0xc) & 0x90, 0x10);
}

static void test_alarm(void **state)
{
	struct box *b = *state;

	wr(b, 1, 0x10); /* 13:46:10 */
	wr(b, 3, 0x46);
	wr(b, 5, 0x13);
	wr(b, 0xb, 0x22);
	rd(b, 0xc);
	test_advance(&b->tc, 14 * SEC - MSEC);
	assert_false(b->irq.level);
	test_advance(&b->tc, 2 * MSEC);
	assert_true(b->irq.level);
	assert_int_equal(rd(b, 0xc) & 0xa0, 0xa0);
	test_advance(&b->tc, 86399 * SEC);
	assert_false(b->irq.level);
	test_advance(&b->tc, SEC);
	assert_true(b->irq.level);
	assert_int_equal(b->tc.fired, 2); /* it slept between */
	rd(b, 0xc);
	/* any hour, any minute */
	wr(b, 3, 0xff);
	wr(b, 5, 0xc0);
	rd(b, 0xc);
	b->irq.rises = 0;
	for (unsigned i = 0; i < 10; i++) {
		test_advance(&b->tc, 60 * SEC);
		rd(b, 0xc);
	}
	assert_int_equal(b->irq.rises, 10);
	/* an impossible one */
	wr(b, 5, 0x77);
	rd(b, 0xc);
	b->irq.rises = 0;
	test_advance(&b->tc, 86400 * SEC);
	assert_int_equal(b->irq.rises, 0);
}

static void test_periodic(void **state)
{
	struct box *b = *state;
	unsigned i, n = 0;

	wr(b, 0xa, 0x2a); /* 64 Hz */
	wr(b, 0xb, 0x42);
	rd(b, 0xc);
	for (i = 0; i < 1000; i++) {
		test_advance(&b->tc, 2 * MSEC);
		if (b->irq.level) {
			assert_int_equal(rd(b, 0xc) & 0xc0, 0xc0);
			n++;
		}
	}
	assert_int_equal(n, 128);
	wr(b, 0xa, 0x20); /* rate 0: none */
	rd(b, 0xc);
	test_advance(&b->tc, SEC);
	assert_false(b->irq.level);
}

static void test_ram(void **state)
{
	struct box *b = *state;
	unsigned i;

	for (i = 0xe; i < 0x80; i++)
		if (i != 0x32)
			wr(b, i, i ^ 0x5a);
	for (i = 0xe; i < 0x80; i++)
		if (i != 0x32)
			assert_int_equal(rd(b, 0x80 | i), i ^ 0x5a);
	wr(b, 0xd, 0);
	wr(b, 0xc, 0xff);
	assert_int_equal(rd(b, 0xd), 0x80);
	assert_int_equal(rd(b, 0xc) & 0x80, 0);
	assert_int_equal(bus_read(b->pio, 0x70, 1), 0xff);
}

/* Our calendar against the C library's, and back through the registers. */
static void test_calendar(void **state)
{
	struct box *b = *state;
	unsigned i;

	wr(b, 0xb, 0x06);
	srandom(11);
	for (i = 0; i < 20000; i++) {
		time_t t = (uint64_t)random() << 2 | (random() & 3);
		struct tm tm;

		if (i < 4000) /* around each new year */
			t = (i / 4 % 270) * 31556952ull + (i & 3) * 40000;
		gmtime_r(&t, &tm);
		b->tc.wall = t * SEC;
		rtc_destroy(b->r);
		bus_destroy(b->pio);
		b->pio = bus_create("pio", &b->lock);
		b->r = rtc_create(test_clock(&b->tc), test_line(&b->irq));
		rtc_attach(b->r, b->pio);
		wr(b, 0xb, 0x06);
		expect_time(b,
			    (const uint8_t[]){tm.tm_sec, tm.tm_min, tm.tm_hour,
					      tm.tm_wday + 1, tm.tm_mday,
					      tm.tm_mon + 1, tm.tm_year % 100,
					      19 + tm.tm_year / 100});
		wr(b, 7, tm.tm_mday); /* all but the fraction stays */
		assert_int_equal(rd(b, 8), tm.tm_mon + 1);
		assert_int_equal(rd(b, 4), tm.tm_hour);
	}
}

static void test_random(void **state)
{
	struct box *b = *state;
	unsigned i;

	srandom(5);
	for (i = 0; i < 200000; i++) {
		if (random() & 1)
			wr(b, random(), random());
		else
			rd(b, random());
		if (random() % 4 == 0)
			test_advance(&b->tc, random() % (20 * MSEC));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_forms),	    T(test_set),      T(test_uip),
		T(test_update_irq), T(test_alarm),    T(test_periodic),
		T(test_ram),	    T(test_calendar), T(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
