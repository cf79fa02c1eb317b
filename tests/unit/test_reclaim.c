/* SPDX-License-Identifier: Apache-2.0 */
/* The manager's policy: the idle tax, bounds, and that quotas never promise
 * memory that is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "mm/reclaim.h"
#include "tests/prop/prop.h"

#define MB 1048576ull

static struct reclaim_vm vm(uint64_t shares, uint64_t active)
{
	return (struct reclaim_vm){.shares = shares,
				   .min = 8 * MB,
				   .max = 1024 * MB,
				   .used = 500 * MB,
				   .want = 1024 * MB,
				   .active = active,
				   .quota = 500 * MB};
}

/* rho of the paper. */
static double rho(const struct reclaim_vm *v, double tax)
{
	double k = 1 / (1 - tax), p = (double)v->target;
	double f = (double)v->active / p;

	f = f < 1 ? f : 1;
	return (double)v->shares / (p * (f + k * (1 - f)));
}

static void close_to(double is, double should, double part)
{
	if (is < should * (1 - part) || is > should * (1 + part))
		fail_msg("%g, should be %g", is, should);
}

/* Equal shares, one idle and one that uses all it gets: 1 to 4. */
static void test_idle_tax(void **s)
{
	struct reclaim_vm v[2] = {vm(1000, 0), vm(1000, 1024 * MB)};

	reclaim_divide(v, 2, 500 * MB, 0.75);
	close_to(v[0].target, 100 * MB, 0.01);
	close_to(v[1].target, 400 * MB, 0.01);
	/* No tax: activity does not count. */
	reclaim_divide(v, 2, 500 * MB, 0);
	close_to(v[0].target, 250 * MB, 0.01);
	/* Twice the shares, as idle as the other: twice as much. */
	v[0] = vm(2000, 0), v[1] = vm(1000, 0);
	reclaim_divide(v, 2, 600 * MB, 0.75);
	close_to(v[0].target, 400 * MB, 0.01);
}

/* Whatever is measured, at rest all prices are equal. */
static void test_equal_rho(void **s)
{
	struct rnd r = rnd_seeded("test_reclaim", 1);

	for (unsigned n = 0; n < 2000; n++) {
		struct reclaim_vm v[5];
		double tax = rnd_below(&r, 95) / 100.0, first;
		uint64_t sum = 0;

		for (unsigned i = 0; i < 5; i++) {
			v[i] = vm(100 + rnd_below(&r, 1000),
				  rnd_below(&r, 900) * MB);
			v[i].min = PAGE_SIZE;
			v[i].max = v[i].want = 1ull << 40;
		}
		reclaim_divide(v, 5, 2000 * MB, tax);
		first = rho(&v[0], tax);
		for (unsigned i = 0; i < 5; i++) {
			close_to(rho(&v[i], tax), first, 0.01);
			sum += v[i].target;
		}
		close_to(sum, 2000 * MB, 0.001);
		assert_true(sum <= 2000 * MB);
	}
}

static void test_bounds(void **s)
{
	struct reclaim_vm v[3] = {vm(1000, 0), vm(1000, 0), vm(1000, 0)};

	v[0].min = 300 * MB;
	v[1].max = 50 * MB;
	reclaim_divide(v, 3, 600 * MB, 0.75);
	assert_int_equal(v[0].target, 300 * MB);
	assert_int_equal(v[1].target, 50 * MB);
	close_to(v[2].target, 250 * MB, 0.01);
	/* Who wants little gets that; the rest is the others'. */
	v[0].min = 8 * MB;
	v[0].want = 20 * MB;
	reclaim_divide(v, 3, 600 * MB, 0.75);
	assert_int_equal(v[0].target, 20 * MB);
	close_to(v[2].target, 530 * MB, 0.01);
	/* There is more than all want: limits are generous. */
	v[0].want = v[1].want = v[2].want = 30 * MB;
	reclaim_divide(v, 3, 600 * MB, 0.75);
	assert_true(v[0].target > 200 * MB && v[2].target > 200 * MB);
	assert_int_equal(v[1].target, 50 * MB);
	/* Less than the minima. */
	v[0].min = v[1].min = v[2].min = 50 * MB;
	reclaim_divide(v, 3, 75 * MB, 0.75);
	assert_int_equal(v[0].target, 25 * MB);
}

static uint64_t promised(const struct reclaim_vm *v, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += v[i].used > v[i].quota ? v[i].used : v[i].quota;
	return sum;
}

/* VMs that grow as far as they may, and shrink when they must and feel like it:
 * what they have is within the budget once it has been, also when the budget
 * moves. */
static void test_never_over(void **s)
{
	struct rnd r = rnd_seeded("test_reclaim", 2);
	struct reclaim_vm v[6];
	uint64_t budget = 1000 * MB, met = 0;
	enum reclaim_state st = RECLAIM_HIGH;

	for (unsigned i = 0; i < 6; i++) {
		v[i] = vm(1000, 100 * MB);
		v[i].used = v[i].quota = 50 * MB;
		v[i].min = 16 * MB;
	}
	for (unsigned n = 0; n < 20000; n++) {
		uint64_t used = 0, before = promised(v, 6);

		if (!rnd_below(&r, 500))
			budget = (300 + rnd_below(&r, 1500)) * MB;
		for (unsigned i = 0; i < 6; i++) {
			v[i].active = rnd_below(&r, 300) * MB;
			v[i].want = v[i].used + rnd_below(&r, 200) * MB;
			used += v[i].used;
		}
		st = reclaim_next_state(st, budget > used ? budget - used : 0,
					budget);
		reclaim_divide(v, 6, budget, 0.75);
		reclaim_step(v, 6, budget, st);
		assert_true(promised(v, 6) <= budget ||
			    promised(v, 6) <= before);
		for (unsigned i = 0; i < 6; i++) {
			if (v[i].used < v[i].quota)
				v[i].used = v[i].quota; /* as fast as it can */
			else if (rnd_below(&r, 3))
				v[i].used -= (v[i].used - v[i].quota) / 2;
		}
		met += promised(v, 6) <= budget;
	}
	/* A budget that shrank is met again soon. */
	assert_true(met > 19000);
}

static void test_converges(void **s)
{
	struct reclaim_vm v[2] = {vm(1000, 0), vm(1000, 1024 * MB)};

	for (unsigned n = 0; n < 100; n++) {
		reclaim_divide(v, 2, 500 * MB, 0.75);
		reclaim_step(v, 2, 500 * MB, RECLAIM_HARD);
		for (unsigned i = 0; i < 2; i++)
			v[i].used = v[i].quota;
	}
	close_to(v[0].used, 100 * MB, 0.02);
	close_to(v[1].used, 400 * MB, 0.02);
}

static void test_states(void **s)
{
	enum reclaim_state st = RECLAIM_HIGH;

	st = reclaim_next_state(st, 70, 1000);
	assert_int_equal(st, RECLAIM_HIGH);
	st = reclaim_next_state(st, 59, 1000);
	assert_int_equal(st, RECLAIM_SOFT);
	st = reclaim_next_state(st, 65, 1000);
	assert_int_equal(st, RECLAIM_SOFT); /* not yet */
	st = reclaim_next_state(st, 10, 1000);
	assert_int_equal(st, RECLAIM_LOW); /* at once */
	st = reclaim_next_state(st, 500, 1000);
	assert_int_equal(st, RECLAIM_HARD); /* step by step */
	st = reclaim_next_state(st, 500, 1000);
	st = reclaim_next_state(st, 500, 1000);
	assert_int_equal(st, RECLAIM_HIGH);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_idle_tax),
		cmocka_unit_test(test_equal_rho),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_never_over),
		cmocka_unit_test(test_converges),
		cmocka_unit_test(test_states),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
