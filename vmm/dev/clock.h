/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_CLOCK_H
#define SARDINE_VMM_DEV_CLOCK_H
/*
 * Time as devices see it. It is injected: the I/O thread implements it with
 * the host's clocks (iothread.h), tests with a number that they advance.
 *
 * All calls, and the timers' callbacks, are under the device lock.
 */
#include "mm/types.h"

/* Embedded in its owner; zeroed (and fn, ctx set) before first use. A timer
 * fires once for each arming, never early. */
struct timer {
	void (*fn)(void *ctx);
	void *ctx;
	uint64_t at_ns;	     /* the clock's: when it fires */
	uint32_t heap_index; /* the clock's: place + 1; 0 = not armed */
};

struct clock_ops {
	/* Monotonic, ns. Any thread, no lock needed. */
	uint64_t (*now_ns)(void *ctx);
	/* Of day: ns since 1970, UTC. Any thread, no lock needed. */
	uint64_t (*wall_ns)(void *ctx);
	/* Fire at that time of now_ns (as soon as possible when it is past);
	 * an armed timer is moved. */
	void (*arm)(void *ctx, struct timer *t, uint64_t at_ns);
	void (*disarm)(void *ctx, struct timer *t);
};
struct clock {
	const struct clock_ops *ops;
	void *ctx;
};

static inline uint64_t clock_now(const struct clock *c)
{
	return c->ops->now_ns(c->ctx);
}
static inline uint64_t clock_wall(const struct clock *c)
{
	return c->ops->wall_ns(c->ctx);
}
static inline void clock_arm(const struct clock *c, struct timer *t,
			     uint64_t at_ns)
{
	c->ops->arm(c->ctx, t, at_ns);
}
static inline void clock_disarm(const struct clock *c, struct timer *t)
{
	if (t->heap_index)
		c->ops->disarm(c->ctx, t);
}
static inline bool timer_armed(const struct timer *t)
{
	return t->heap_index != 0;
}

/* a * b / c without overflow in the middle; c != 0. */
static inline uint64_t muldiv64(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)((unsigned __int128)a * b / c);
}
#define NS_PER_SEC 1000000000ull
#endif
