/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254: counting, reading, modes, the interrupt, port 0x61. */
#include "tests/unit/devtest.h"
#include "vmm/dev/pit.h"

#define TICK_NS(n) ((n)*SEC / PIT_HZ)

struct box {
	pthread_mutex_t lock;
	struct bus *pio;
	struct test_clock tc;
	struct test_line irq;
	struct pit *p;
};

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));

	pthread_mutex_init(&b->lock, NULL);
	b->tc.now = 777;
	b->pio = bus_create("pio", &b->lock);
	b->p = pit_create(test_clock(&b->tc), test_line(&b->irq));
	assert_int_equal(pit_attach(b->p, b->pio), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	pit_destroy(b->p);
	assert_int_equal(b->tc.heap.n, 0);
	bus_destroy(b->pio);
	free(b);
	return 0;
}

static void out(struct box *b, uint16_t port, uint8_t v)
{
	bus_write(b->pio, port, 1, v);
}
static uint8_t in(struct box *b, uint16_t port)
{
	return bus_read(b->pio, port, 1);
}
static void program(struct box *b, unsigned ch, unsigned mode, uint16_t n)
{
	out(b, 0x43, ch << 6 | 3 << 4 | mode << 1);
	out(b, 0x40 + ch, n);
	out(b, 0x40 + ch, n >> 8);
}
static uint16_t count(struct box *b, unsigned ch)
{
	uint8_t low;

	out(b, 0x43, ch << 6);
	low = in(b, 0x40 + ch);
	return low | in(b, 0x40 + ch) << 8;
}

static void test_quiet(void **state)
{
	struct box *b = *state;

	test_advance(&b->tc, 10 * SEC);
	assert_int_equal(b->tc.fired, 0);
	assert_int_equal(b->irq.rises, 0);
}

static void test_rate(void **state)
{
	struct box *b = *state;

	program(b, 0, 2, 11932); /* 100 Hz */
	b->irq.rises = 0;
	test_advance(&b->tc, SEC + MSEC);
	assert_int_equal(b->irq.rises, 100);
	test_advance(&b->tc, 100 * SEC);
	assert_in_range(b->irq.rises, 10099, 10101); /* no drift */
	/* late ones do not shift those after */
	for (unsigned i = 0; i < 100; i++) {
		test_late(&b->tc, 13 * MSEC);
		test_advance(&b->tc, 7 * MSEC);
	}
	test_late(&b->tc, 13 * MSEC);
	b->irq.rises = 0;
	test_advance(&b->tc, TICK_NS(count(b, 0) - 2));
	assert_int_equal(b->irq.rises, 0);
	test_advance(&b->tc, TICK_NS(4));
	assert_int_equal(b->irq.rises, 1);
	/* the square wave interrupts as often */
	program(b, 0, 3, 11932);
	b->irq.rises = 0;
	test_advance(&b->tc, SEC + MSEC);
	assert_int_equal(b->irq.rises, 100);
	/* mode 0 with no count stops it (how Linux turns it off) */
	out(b, 0x43, 0x30);
	b->irq.rises = 0;
	test_advance(&b->tc, SEC);
	assert_int_equal(b->irq.rises, 0);
	assert_false(b->irq.level);
	/* an absurd rate is held down */
	program(b, 0, 2, 1);
	b->tc.fired = 0;
	test_advance(&b->tc, 10 * MSEC);
	assert_in_range(b->tc.fired, 1, 102);
}

static void test_oneshot(void **state)
{
	struct box *b = *state;

	program(b, 0, 0, 1000);
	assert_false(b->irq.level);
	test_advance(&b->tc, TICK_NS(250));
	assert_in_range(count(b, 0), 749, 751);
	test_advance(&b->tc, TICK_NS(749));
	assert_false(b->irq.level);
	test_advance(&b->tc, TICK_NS(3));
	assert_true(b->irq.level);
	test_advance(&b->tc, SEC);
	assert_int_equal(b->irq.rises, 1); /* once */
	program(b, 0, 0, 1000);		   /* lowers OUT */
	assert_false(b->irq.level);
	test_advance(&b->tc, TICK_NS(1002));
	assert_int_equal(b->irq.rises, 2);
}

static void test_reading(void **state)
{
	struct box *b = *state;
	uint8_t low;

	program(b, 2, 2, 0x1234);
	out(b, 0x61, 1);
	test_advance(&b->tc, TICK_NS(0x34) + 1);
	out(b, 0x43, 0x80); /* latch */
	test_advance(&b->tc, TICK_NS(5));
	low = in(b, 0x42);
	assert_int_equal(low | in(b, 0x42) << 8, 0x1200);
	/* unlatched: as it is now */
	low = in(b, 0x42);
	assert_in_range(low | in(b, 0x42) << 8, 0x11fa, 0x11fc);
	/* a second latch before the read changes nothing */
	out(b, 0x43, 0x80);
	test_advance(&b->tc, TICK_NS(100));
	assert_in_range(count(b, 2), 0x11fa, 0x11fc);
	/* read back: status, then count */
	out(b, 0x43, 0xc0 | 8);
	assert_int_equal(in(b, 0x42), 0x80 | 3 << 4 | 2 << 1);
	low = in(b, 0x42);
	assert_in_range(low | in(b, 0x42) << 8, 0x1196, 0x1198);
	/* null count: programmed, no count yet; OUT of mode 0 is low */
	out(b, 0x43, 0x80 | 0x30);
	out(b, 0x43, 0xe0 | 8); /* status alone */
	assert_int_equal(in(b, 0x42), 0x40 | 3 << 4);
	/* low byte only, high byte only */
	out(b, 0x43, 0x80 | 0x10);
	out(b, 0x42, 0x40);
	assert_int_equal(in(b, 0x42), 0x40);
	out(b, 0x43, 0x80 | 0x20);
	out(b, 0x42, 0x40);
	assert_int_equal(in(b, 0x42), 0x40);
	test_advance(&b->tc, TICK_NS(256) + 1);
	assert_int_equal(in(b, 0x42), 0x3f);
}

static void test_bcd(void **state)
{
	struct box *b = *state;
	uint8_t low;

	out(b, 0x43, 0x80 | 0x30 | 4 | 1);
	out(b, 0x42, 0x00);
	out(b, 0x42, 0x20); /* 2000 */
	out(b, 0x61, 1);
	test_advance(&b->tc, TICK_NS(1) + 1);
	low = in(b, 0x42);
	assert_int_equal(low | in(b, 0x42) << 8, 0x1999);
}

/* How Linux measures the TSC: gate on, mode 0, wait for OUT2. */
static void test_gate(void **state)
{
	struct box *b = *state;

	out(b, 0x61, 0);
	program(b, 2, 0, 0xffff);
	test_advance(&b->tc, SEC);
	assert_int_equal(count(b, 2), 0xffff); /* gate is off */
	assert_int_equal(in(b, 0x61) & 0x23, 0);
	out(b, 0x61, 1);
	assert_int_equal(in(b, 0x61) & 3, 1);
	program(b, 2, 0, 11932); /* 10 ms */
	test_advance(&b->tc, 9 * MSEC);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	out(b, 0x61, 0); /* a pause */
	test_advance(&b->tc, 9 * MSEC);
	assert_in_range(count(b, 2), 1190, 1195);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	out(b, 0x61, 1);
	test_advance(&b->tc, 900 * USEC);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	test_advance(&b->tc, 110 * USEC);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	/* past zero it goes on */
	test_advance(&b->tc, TICK_NS(100));
	assert_in_range(count(b, 2), 0xff00, 0xffff);
}

/* Mode 1: a pulse from the gate's rising edge. */
static void test_retrigger(void **state)
{
	struct box *b = *state;

	out(b, 0x61, 0);
	program(b, 2, 1, 1000);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	out(b, 0x61, 1);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	test_advance(&b->tc, TICK_NS(900));
	out(b, 0x61, 0);
	out(b, 0x61, 1); /* again */
	test_advance(&b->tc, TICK_NS(900));
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	test_advance(&b->tc, TICK_NS(102));
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
}

static void test_square(void **state)
{
	struct box *b = *state;
	unsigned high = 0, i;

	program(b, 2, 3, 100);
	out(b, 0x61, 1);
	for (i = 0; i < 1000; i++) {
		high += in(b, 0x61) >> 5 & 1;
		assert_true(count(b, 2) <= 100);
		assert_int_equal(count(b, 2) & 1, 0);
		test_advance(&b->tc, TICK_NS(1));
	}
	assert_in_range(high, 480, 520);
}

static void test_refresh(void **state)
{
	struct box *b = *state;
	unsigned i, toggles = 0, last = in(b, 0x61) & 0x10;

	for (i = 0; i < 1000; i++) {
		unsigned now;

		test_advance(&b->tc, USEC);
		now = in(b, 0x61) & 0x10;
		toggles += now != last;
		last = now;
	}
	assert_in_range(toggles, 65, 67);
}

static void test_random(void **state)
{
	struct box *b = *state;
	unsigned i;

	srandom(3);
	for (i = 0; i < 200000; i++) {
		uint16_t port = random() % 5 == 4 ? 0x61 : 0x40 + random() % 4;

		if (random() & 1)
			bus_write(b->pio, port, 1, random());
		else
			bus_read(b->pio, port, 1);
		if (random() % 4 == 0)
			test_advance(&b->tc, random() % MSEC);
	}
	pit_reset(b->p);
	assert_int_equal(b->tc.heap.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_quiet),	   T(test_rate),   T(test_oneshot),
		T(test_reading),   T(test_bcd),	   T(test_gate),
		T(test_retrigger), T(test_square), T(test_refresh),
		T(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
