/* SPDX-License-Identifier: Apache-2.0 */
/* zero_page sees every bit; host facts and nodes are believable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "mm/arena.h"
#include "mm/host.h"
#include "mm/numa/nodes.h"
#include "mm/zero.h"

static void test_every_byte(void **s)
{
	static uint64_t page[PAGE_SIZE / 8];
	uint8_t *b = (uint8_t *)page;

	assert_true(zero_page(page));
	for (unsigned i = 0; i < PAGE_SIZE; i++) {
		b[i] = 1 << i % 8;
		assert_false(zero_page(page));
		b[i] = 0;
	}
	assert_true(zero_page(page));
}

static void test_host(void **s)
{
	struct host_mem m;
	uint64_t b;

	host_mem_read(&m);
	assert_true(m.total_bytes > 64ull << 20);
	assert_in_range(m.available_bytes, 1, m.total_bytes);
	assert_true(m.max_map_count >= 1024);
	assert_true(m.thp[0] && m.thp_shmem[0]);
	assert_int_equal(host_mem_budget(&m, 0, &b), 0);
	assert_in_range(b, 1, m.total_bytes);
	assert_int_equal(host_mem_budget(&m, 64 << 20, &b), 0);
	assert_int_equal(b, 64 << 20);
	assert_int_equal(host_mem_budget(&m, 1ull << 60, &b), -ERANGE);
}

static void test_nodes(void **s)
{
	struct numa_node_info n[64];
	int k = numa_nodes(n, 64), cpus = 0;
	uint64_t bytes = 0;

	assert_in_range(k, 1, 64);
	for (int i = 0; i < k; i++) {
		bytes += n[i].total_bytes;
		cpus += n[i].cpus;
	}
	assert_true(bytes > 64ull << 20);
	assert_true(cpus >= 1);
}

static void test_arena(void **s)
{
	struct arena *a = arena_create();
	char *m;

	assert_non_null(a);
	m = arena_alloc(a, 1000);
	memset(m, 7, 1000);
	m = arena_realloc(a, m, 1000, 100000);
	assert_int_equal(m[999], 7);
	assert_int_equal(arena_asked(a), 100000);
	assert_true(arena_resident(a) >= 100000);
	arena_free(a, m, 100000);
	arena_free(a, NULL, 0);
	assert_int_equal(arena_asked(a), 0);
	arena_destroy(a);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_host),
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_arena),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
