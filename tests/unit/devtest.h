/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_UNIT_DEVTEST_H
#define SARDINE_TESTS_UNIT_DEVTEST_H
/* What device tests share: a clock that the test advances, a line that records
 * its edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/irq.h"
#include "vmm/dev/timerheap.h"

#define USEC 1000ull
#define MSEC 1000000ull
#define SEC  1000000000ull

struct test_clock {
	uint64_t now, wall;
	unsigned fired;
	struct timer_heap heap;
};

static inline uint64_t test_clock_now(void *ctx)
{
	return ((struct test_clock *)ctx)->now;
}
static inline uint64_t test_clock_wall(void *ctx)
{
	return ((struct test_clock *)ctx)->wall;
}
static inline void test_clock_arm(void *ctx, struct timer *t, uint64_t at)
{
	timer_heap_set(&((struct test_clock *)ctx)->heap, t, at);
}
static inline void test_clock_disarm(void *ctx, struct timer *t)
{
	timer_heap_remove(&((struct test_clock *)ctx)->heap, t);
}

static inline struct clock test_clock(struct test_clock *tc)
{
	static const struct clock_ops ops = {test_clock_now, test_clock_wall,
					     test_clock_arm, test_clock_disarm};

	return (struct clock){&ops, tc};
}

/* Let ns pass; timers run at their time, in order. */
static inline void test_advance(struct test_clock *tc, uint64_t ns)
{
	uint64_t end = tc->now + ns, at;
	struct timer *t;

	while ((at = timer_heap_next(&tc->heap)) <= end) {
		if (at > tc->now) {
			tc->wall += at - tc->now;
			tc->now = at;
		}
		t = timer_heap_pop(&tc->heap, tc->now);
		tc->fired++;
		t->fn(t->ctx);
	}
	tc->wall += end - tc->now;
	tc->now = end;
}

/* The host is busy: time passes, and the timers hear of it afterwards. */
static inline void test_late(struct test_clock *tc, uint64_t ns)
{
	tc->now += ns;
	tc->wall += ns;
	test_advance(tc, 0);
}

struct test_line {
	bool level;
	unsigned rises, falls;
};

static inline void test_line_set(void *ctx, unsigned pin, bool level)
{
	struct test_line *l = ctx;

	l->rises += level && !l->level;
	l->falls += !level && l->level;
	l->level = level;
}

static inline struct irq_line test_line(struct test_line *l)
{
	return (struct irq_line){test_line_set, l, 0};
}
#endif
