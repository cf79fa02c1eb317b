/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Isolation of guessed slots (vmm/bt/translate_mem.c), by counting: for each
 * slot g that may be guessed and each slot a that the address may be in instead,
 * either the check is a load of nothing, or no window of g's makes a host address
 * in the user half of it.
 */
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/bt/layout.h"

#define SLOTS (1l << 25)
#define PAGE  4096l

/* Is all of the view's page at T + o nothing? What view_init maps, and no more. */
static bool is_nothing(int64_t o, bool user)
{
	int64_t page = o & ~(PAGE - 1);

	if (page < PAGE || page >= (int64_t)BT_VIEW_SPAN)
		return false;
	return page != BT_TABLE_SPAN - PAGE && page != BT_O_GUESS &&
	       page != BT_O_GUARD_LO && (user || page != BT_O_GUARD_HI);
}

/* Where the check of an address with these top bits loads from, less T. */
static int64_t check_load(int64_t g, int64_t addr_30)
{
	int64_t disp = g < 256 ? BT_D_GUARD_LO(g) : BT_D_GUARD_HI(g);

	return addr_30 * 8 + disp - BT_T_BIAS;
}

/* Could an access to slot a, with the delta of g and up to a slot off, be in the
 * user half of the host, whatever window g has? */
static bool reaches(int64_t g, int64_t a)
{
	int64_t d = (a - g) & (SLOTS - 1);

	/* host slots of windows are 0..255; one is allowed for the facts */
	return d <= 256 || d >= SLOTS - 256;
}

static void pair(int64_t g, int64_t a, bool user)
{
	int64_t first = check_load(g, a << 9);
	int64_t last = check_load(g, (a << 9) + 511) + 7;

	if (a == g) {
		assert_int_equal(first,
				 g < 256 ? BT_O_GUARD_LO : BT_O_GUARD_HI);
		assert_int_equal(last, first + PAGE - 1);
		return;
	}
	if (!reaches(g, a))
		return;
	if (!is_nothing(first, user) || !is_nothing(last, user))
		fail_msg("slot %lx for %lx: a load at T + %#lx", g, a, first);
}

static void one_view(bool user)
{
	for (int64_t i = 0; i < (user ? 256 : 512); i++) {
		int64_t g = i < 256 ? i : SLOTS - 512 + i;

		for (int64_t a = -1024; a < 1024; a++) {
			pair(g, (g + a) & (SLOTS - 1), user);
			pair(g, a & (SLOTS - 1), user);
		}
	}
}

static void kernel_view(void **state)
{
	one_view(false);
}

static void user_view(void **state)
{
	one_view(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_view),
		cmocka_unit_test(user_view),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
