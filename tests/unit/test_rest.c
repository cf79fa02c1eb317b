/* SPDX-License-Identifier: Apache-2.0 */
/* A VM at rest: what is not touched is compressed, what is touched stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"

#define PAGES 64u

static struct p2m *p;

/* Two ranges of RAM, as above 3 GiB. */
static int setup(void **state)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE,
			       .low_limit = PAGES / 2 * PAGE_SIZE,
			       .memfd = -1,
			       .pool_fd = -1};

	c.store_fd = memfd_create("store", MFD_CLOEXEC);
	assert_int_equal(ftruncate(c.store_fd, c.ram_bytes), 0);
	assert_int_equal(p2m_create(&c, &p), 0);
	close(c.store_fd);
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
	return 0;
}

static ppn_t nth(unsigned i)
{
	return (ppn_t){i < PAGES / 2
			       ? i
			       : (4ull << (30 - PAGE_SHIFT)) + i - PAGES / 2};
}

static void fill(unsigned i)
{
	memset(p2m_write(p, nth(i), 0, PAGE_SIZE), 1 + i, PAGE_SIZE);
}

/* As the scanner has it some seconds later. */
static void collect(void)
{
	bool more;

	for (uint64_t s = 1; s < 10; s++)
		p2m_collect(p, s * 5000000000ull, 1000, &more);
}

static unsigned compressed(void)
{
	return p2m_control(p)->compressed_pages;
}

static void test_round(void **state)
{
	uint64_t at = 0;
	unsigned calls = 1;

	for (unsigned i = 0; i < PAGES; i++)
		fill(i);
	collect();
	/* In pieces, over both ranges. */
	for (; !p2m_rest_mark(p, &at, 10); calls++)
		;
	assert_int_equal(at, 0);
	assert_in_range(calls, 7, 8);
	/* One is read, one written, a device works on one. */
	assert_int_equal(*(const char *)p2m_read(p, nth(3)), 4);
	fill(40);
	p2m_pin(p, nth(50), false);
	while (!p2m_rest_take(p, &at, 10))
		;
	assert_int_equal(compressed(), PAGES - 3);
	assert_int_equal(p2m_get_state(p, nth(3)), P2M_PRIVATE);
	assert_int_equal(p2m_get_state(p, nth(40)), P2M_PRIVATE);
	assert_int_equal(p2m_get_state(p, nth(50)), P2M_PRIVATE);
	p2m_unpin(p, nth(50));
	for (unsigned i = 0; i < PAGES; i++) {
		const char *b = p2m_read(p, nth(i));

		assert_int_equal(b[0], (char)(1 + i));
		assert_int_equal(b[PAGE_SIZE - 1], (char)(1 + i));
	}
	assert_int_equal(compressed(), 0);
}

/* What the scanner has not seen yet is left to it. */
static void test_noted(void **state)
{
	uint64_t at = 0;

	fill(0);
	collect();
	fill(1);
	assert_true(p2m_rest_mark(p, &at, PAGES));
	assert_true(p2m_rest_take(p, &at, PAGES));
	assert_int_equal(p2m_get_state(p, nth(0)), P2M_COMPRESSED);
	assert_int_equal(p2m_get_state(p, nth(1)), P2M_PRIVATE);
	/* Zeroes need no store; what is not marked is not taken. */
	memset(p2m_write(p, nth(2), 0, PAGE_SIZE), 0, PAGE_SIZE);
	collect();
	assert_true(p2m_rest_take(p, &at, PAGES));
	assert_int_equal(p2m_get_state(p, nth(2)), P2M_PRIVATE);
	assert_true(p2m_rest_mark(p, &at, PAGES));
	assert_true(p2m_rest_take(p, &at, PAGES));
	assert_int_equal(p2m_get_state(p, nth(2)), P2M_ZERO);
	assert_int_equal(p2m_get_state(p, nth(1)), P2M_COMPRESSED);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest t[] = {T(test_round), T(test_noted)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
