/* SPDX-License-Identifier: Apache-2.0 */
/* What the policy asks of balloons: with a model of a guest that has cache to
 * give, one that has none, and one that does not listen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mm/balloon.h"

#define MB 1048576ull

/* A guest: used + cache + free + balloon = size. */
struct guest {
	uint64_t size, used, cache, balloon;
	bool reports, deaf;
};

static uint64_t free_of(const struct guest *g)
{
	return g->size - g->used - g->cache - g->balloon;
}

static struct balloon_vm seen(const struct guest *g, uint64_t target,
			      uint64_t asked)
{
	return (struct balloon_vm){
		.size = g->size,
		.own = g->used + g->cache + (g->reports ? 0 : free_of(g)),
		.target = target,
		.asked = asked,
		.actual = g->balloon,
		.free = free_of(g),
		.available = free_of(g) + g->cache,
		.reports = g->reports,
	};
}

/* It takes free pages first, then cache, and stops when there is no more. */
static void obey(struct guest *g, uint64_t asked)
{
	uint64_t more, from_free;

	if (g->deaf)
		return;
	if (asked <= g->balloon) {
		g->balloon = asked;
		return;
	}
	more = asked - g->balloon;
	if (more > free_of(g) + g->cache)
		more = free_of(g) + g->cache;
	from_free = more < free_of(g) ? more : free_of(g);
	g->cache -= more - from_free;
	g->balloon += more;
}

/* Steps until nothing changes; at most 100. */
static unsigned settle(struct guest *g, uint64_t target, uint64_t *asked)
{
	for (unsigned i = 0; i < 100; i++) {
		struct balloon_vm v = seen(g, target, *asked);
		uint64_t next = balloon_next(&v);

		assert_true(next <= g->size && next % PAGE_SIZE == 0);
		if (next == *asked && i)
			return i;
		*asked = next;
		obey(g, next);
	}
	fail_msg("it swings");
	return 0;
}

static void test_cache(void **state)
{
	for (unsigned reports = 0; reports < 2; reports++) {
		struct guest g = {.size = 512 * MB,
				  .used = 60 * MB,
				  .cache = 300 * MB,
				  .reports = reports};
		uint64_t asked = 0, own;

		/* Plenty: nothing is asked for. */
		settle(&g, 600 * MB, &asked);
		assert_int_equal(asked, 0);
		assert_int_equal(g.cache, 300 * MB);
		assert_in_range(settle(&g, 200 * MB, &asked), 1, 10);
		own = seen(&g, 200 * MB, asked).own;
		assert_in_range(own, 150 * MB, 188 * MB);
		/* In between nothing moves. */
		settle(&g, 210 * MB, &asked);
		assert_int_equal(seen(&g, 210 * MB, asked).own, own);
		/* Plenty again: the guest has it all back. */
		settle(&g, 600 * MB, &asked);
		assert_int_equal(g.balloon, 0);
	}
}

/* All of it is in use: the reserve stays. */
static void test_busy(void **state)
{
	struct guest g = {.size = 512 * MB, .used = 400 * MB, .reports = true};
	uint64_t asked = 0;

	settle(&g, 100 * MB, &asked);
	assert_true(free_of(&g) >= 31 * MB);
	g = (struct guest){.size = 64 * MB, .used = 50 * MB, .reports = true};
	asked = 0;
	settle(&g, 20 * MB, &asked);
	assert_int_equal(asked, 0);
}

static void test_deaf(void **state)
{
	struct guest g = {.size = 512 * MB,
			  .used = 60 * MB,
			  .cache = 300 * MB,
			  .reports = true,
			  .deaf = true};
	struct balloon_vm v;
	uint64_t asked = 0;

	for (unsigned i = 0; i < 10; i++) {
		v = seen(&g, 100 * MB, asked);
		asked = balloon_next(&v);
		assert_true(asked <= g.size / 4);
	}
	/* Nor one that says nothing about its memory. */
	v = seen(&g, 100 * MB, 7 * PAGE_SIZE);
	v.available = ~0ull;
	assert_int_equal(balloon_next(&v), 7 * PAGE_SIZE);
	/* Or nonsense. */
	v.available = ~0ull - 1;
	v.free = ~0ull / 2;
	v.actual = v.size;
	assert_true(balloon_next(&v) <= v.size);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(test_cache),
				       cmocka_unit_test(test_busy),
				       cmocka_unit_test(test_deaf)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
