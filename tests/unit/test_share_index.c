/* SPDX-License-Identifier: Apache-2.0 */
/* The content index: many nodes, equal hashes, removal, growth and shrinking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "mm/sharing/index.h"

static void test_many(void **s)
{
	struct share_index *x = index_create();
	const uint32_t n = 50000;
	uint32_t *id = calloc(n, sizeof(*id));
	uint64_t most;

	assert_non_null(x);
	for (uint32_t i = 0; i < n; i++) {
		id[i] = index_insert(x, i * 0x9e3779b97f4a7c15ull, 1, i);
		assert_int_not_equal(id[i], 0);
	}
	assert_int_equal(index_count(x), n);
	assert_int_equal(index_audit(x), 0);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t f = index_find(x, i * 0x9e3779b97f4a7c15ull);

		assert_int_equal(f, id[i]);
		assert_int_equal(index_node(x, f)->page, i);
		assert_int_equal(index_find_next(x, f), 0);
	}
	assert_int_equal(index_find(x, 12345), 0);
	most = index_bytes(x);
	assert_true(most < n * 48ull);
	for (uint32_t i = 0; i < n; i++)
		if (i % 100)
			index_remove(x, id[i]);
	assert_int_equal(index_audit(x), 0);
	assert_int_equal(index_count(x), n / 100);
	assert_int_equal(index_find(x, 100 * 0x9e3779b97f4a7c15ull), id[100]);
	assert_int_equal(index_find(x, 101 * 0x9e3779b97f4a7c15ull), 0);
	assert_true(index_bytes(x) < most);
	/* Numbers are used again. */
	assert_in_range(index_insert(x, 1, 2, 3), 1, n);
	free(id);
	index_destroy(x);
}

static void test_equal_hashes(void **s)
{
	struct share_index *x = index_create();
	uint32_t a = index_insert(x, 7, 1, 10), b = index_insert(x, 7, 2, 20);
	uint32_t c = index_insert(x, 7 + (1ull << 40), 3, 30), f;
	unsigned seen = 0;

	for (f = index_find(x, 7); f; f = index_find_next(x, f))
		seen += index_node(x, f)->page;
	assert_int_equal(seen, 30);
	index_remove(x, b);
	assert_int_equal(index_find(x, 7), a);
	index_remove(x, a);
	assert_int_equal(index_find(x, 7), 0);
	assert_int_equal(index_find(x, 7 + (1ull << 40)), c);
	assert_int_equal(index_audit(x), 0);
	index_destroy(x);
}

static void test_audit_finds(void **s)
{
	struct share_index *x = index_create();
	uint32_t a = index_insert(x, 7, 1, 10);

	index_node(x, a)->hash = 8;
	assert_int_not_equal(index_audit(x), 0);
	index_node(x, a)->hash = 7;
	assert_int_equal(index_audit(x), 0);
	index_destroy(x);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_equal_hashes),
		cmocka_unit_test(test_audit_finds),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
