/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in windows (mmu/shadow_fill.c, shadow_flush.c): a fill takes the pages on
 * both sides that may be mapped as the one that faulted is, and no other; an
 * INVLPG drops what comes after its page if the page tables say so, and nothing
 * else.
 */
#include "tests/unit/bt_fixture.h"

#define DATA 0x600000ul
#define VA   0x7000020000ul
#define N    40

static struct fix *f;
static struct bt *bt;

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	for (uint64_t k = 0; k < N; k++)
		poke64(f, DATA + k * PAGE_SIZE, 100 + k);
	go_user(f);
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

static void map(unsigned k, unsigned to, uint64_t bits)
{
	map_page(f, VA + k * PAGE_SIZE, DATA + to * PAGE_SIZE, PTE_P | bits);
}

static uint64_t *hva(unsigned k)
{
	uint64_t va = VA + k * PAGE_SIZE;

	return (uint64_t *)(va + shadow_delta(bt->sh, va, 1));
}

static bool has(unsigned k, bool write)
{
	return shadow_has(bt->sh, (uint64_t)hva(k), write);
}

static enum shadow_fill fill(unsigned k, bool write)
{
	enum shadow_fill r;

	shadow_enter(bt->sh);
	shadow_need_window(bt->sh, VA + k * PAGE_SIZE, 1);
	r = shadow_fill(bt->sh, (uint64_t)hva(k), write, 1);
	assert_int_equal(shadow_audit(bt->sh), 0);
	return r;
}

static void flush(unsigned k)
{
	shadow_flush(bt->sh, TLB_FLUSH_PAGE, 0, VA + k * PAGE_SIZE);
	assert_int_equal(shadow_audit(bt->sh), 0);
}

#define RO (PTE_U | PTE_A)
#define RW (PTE_U | PTE_A | PTE_W | PTE_D)

static void test_both_sides(void **state)
{
	for (unsigned k = 4; k < 24; k++)
		map(k, k, RO);
	assert_int_equal(fill(14, false), SHADOW_OK);
	for (unsigned k = 0; k < N; k++) {
		assert_int_equal(has(k, false), k >= 4 && k < 24);
		assert_false(has(k, true));
		if (has(k, false))
			assert_int_equal(*hva(k), 100 + k);
	}
	/* No further than RUN_BEFORE (16); and what is there is left alone. */
	for (unsigned k = 0; k < N; k++)
		map(k, k, RO);
	assert_int_equal(fill(39, false), SHADOW_OK);
	assert_true(has(24, false));
	assert_false(has(0, false));
	for (unsigned k = 24; k < N; k++)
		assert_int_equal(*hva(k), 100 + k);
}

/* Whatever makes a page before the fault another one. */
static void test_not_that_one(void **state)
{
	static const uint64_t bits[] = {
		PTE_A,		       /* not the user's */
		PTE_U,		       /* never accessed */
		PTE_U | PTE_A | PTE_W, /* writable: its own affair */
		PTE_U | PTE_A | PTE_D, /* as the run needs one kind */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		shadow_drop_all(bt->sh);
		map(1, 1, RO);
		map(2, 2, bits[i]);
		map(3, 3, RO);
		map(4, 4, RO);
		assert_int_equal(fill(4, false), SHADOW_OK);
		assert_true(has(3, false));
		assert_false(has(2, false));
		assert_false(has(1, false));
	}
	/* Elsewhere in memory. */
	shadow_drop_all(bt->sh);
	map(2, 9, RO);
	assert_int_equal(fill(4, false), SHADOW_OK);
	assert_true(has(3, false));
	assert_false(has(2, false));
	/* Not present. */
	shadow_drop_all(bt->sh);
	map_page(f, VA + 3 * PAGE_SIZE, DATA + 3 * PAGE_SIZE, RO);
	assert_int_equal(fill(4, false), SHADOW_OK);
	assert_false(has(3, false));
	/* A page whose contents are elsewhere: never written. */
	shadow_drop_all(bt->sh);
	map(3, 0x100, RO);
	map(4, 0x101, RO);
	poke64(f, DATA + 0x101 * PAGE_SIZE, 7);
	assert_int_equal(fill(4, false), SHADOW_OK);
	assert_false(has(3, false));
	assert_int_equal(*hva(4), 7);
}

/* A run that will be written does not go back. */
static void test_writable(void **state)
{
	for (unsigned k = 0; k < 8; k++)
		map(k, k, RW);
	assert_int_equal(fill(4, true), SHADOW_OK);
	assert_false(has(3, false));
	assert_true(has(4, true));
	assert_true(has(7, true));
	assert_int_equal(fill(3, false), SHADOW_OK);
	assert_false(has(2, false));
}

static void test_flush(void **state)
{
	for (unsigned k = 0; k < 16; k++)
		map(k, k, RW);
	for (unsigned k = 0; k < 16; k++)
		fill(k, true);
	/* 4..7 are gone, 8..9 read-only, 10 as ever, 11 gone. */
	for (unsigned k = 4; k < 8; k++)
		map_page(f, VA + k * PAGE_SIZE, 0, 0);
	map(8, 8, RO);
	map(9, 9, PTE_U | PTE_A | PTE_W);
	map_page(f, VA + 11 * PAGE_SIZE, 0, 0);
	flush(4);
	for (unsigned k = 0; k < 16; k++) {
		assert_int_equal(has(k, false), k < 4 || k > 7);
		assert_int_equal(has(k, true), k < 4 || k > 7);
	}
	flush(5);
	flush(8);
	for (unsigned k = 8; k < 16; k++) {
		assert_true(has(k, false));
		assert_int_equal(has(k, true), k > 9);
		assert_int_equal(*hva(k), 100 + k);
	}
	flush(11);
	assert_false(has(11, false));
	/* Another page there now: the new one, not the old. */
	map(12, 20, RW);
	map(13, 21, RW);
	flush(12);
	assert_false(has(12, false));
	assert_false(has(13, false));
	assert_int_equal(fill(12, false), SHADOW_OK);
	assert_int_equal(*hva(12), 120);
	assert_int_equal(*hva(13), 121);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_both_sides),
		T(test_not_that_one),
		T(test_writable),
		T(test_flush),
	};

	return cmocka_run_group_tests_name("shadow", tests, NULL, NULL);
}
