/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: read-only for monitors, frames in runs, memory given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/sharing/pool.h"

#define MB (1ull << 20)

static struct pool *make(uint64_t bytes)
{
	struct pool *q = NULL;

	assert_int_equal(pool_create("test", bytes, &q), 0);
	return q;
}

static uint32_t get(struct pool *q, uint32_t owner, uint64_t page)
{
	struct pool_wish w = {owner, page};
	uint8_t bytes[PAGE_SIZE];
	uint32_t f = pool_alloc(q, POOL_NONE, &w, 1);

	if (f == POOL_NONE)
		return f;
	memset(bytes, page | 1, sizeof(bytes));
	assert_int_equal(pool_write(q, f, bytes), 0);
	return f;
}

static void test_read_only(void **s)
{
	struct pool *q = make(4 * MB);
	int fd = pool_ro_fd(q);
	struct stat st;
	uint8_t *m;

	get(q, 1, 7);
	assert_ptr_equal(mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_SHARED, fd, 0),
			 MAP_FAILED);
	assert_int_equal(errno, EACCES);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fallocate(fd,
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   0, PAGE_SIZE),
			 -1);
	assert_int_equal(ftruncate(pool_rw_fd(q), 0), -1);
	m = mmap(NULL, 4 * MB, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(m, MAP_FAILED);
	/* Nor can a read-only mapping be made writable later. */
	assert_int_equal(mprotect(m, PAGE_SIZE, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(m[7 * PAGE_SIZE + 5], 7);
	munmap(m, 4 * MB);
	/* Only the owner's read permission is left on the file. */
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0400);
	pool_destroy(q);
}

static void test_any_order_makes_runs(void **s)
{
	struct pool *q = make(8 * MB);
	uint32_t f[512];

	for (unsigned i = 0; i < 512; i++) {
		unsigned p = i * 205 % 512; /* all, in a jumbled order */

		f[p] = get(q, 3, 1024 + p);
	}
	for (unsigned p = 1; p < 512; p++)
		assert_int_equal(f[p], f[0] + p);
	assert_int_equal(f[0] % 512, 0);
	assert_int_equal(pool_audit(q), 0);
	pool_destroy(q);
}

static void test_near_and_wishes(void **s)
{
	struct pool *q = make(8 * MB);
	uint32_t a = get(q, 1, 10), b;
	struct pool_wish w[2] = {{2, 700}, {1, 20}};

	/* Near wins; else the wish that has an extent; else a new one. */
	assert_int_equal(pool_alloc(q, a + 1, w, 2), a + 1);
	assert_int_equal(pool_alloc(q, a + 1, w, 2), a + 10);
	w[1].page = 700;
	b = pool_alloc(q, POOL_NONE, w, 2);
	assert_int_equal(b % 512, 700 % 512);
	assert_int_not_equal(b / 512, a / 512);
	/* Near in an extent that nobody uses is not taken. */
	assert_int_not_equal(pool_alloc(q, 3 * 512 + 5, w, 2), 3 * 512 + 5);
	pool_destroy(q);
}

static void test_full_and_free(void **s)
{
	struct pool *q = make(4 * MB);
	struct stat st;
	uint32_t n = 0, f;

	/* Two extents, three owners with two pages at each place. */
	for (unsigned i = 0; i < 2000; i++) {
		f = get(q, 1 + i % 3, i % 512);
		n += f != POOL_NONE;
		if (i % 100 == 0)
			assert_int_equal(pool_audit(q), 0);
	}
	assert_int_equal(n, 1024);
	assert_int_equal(pool_used(q), 1024);
	assert_int_equal(get(q, 1, 5), POOL_NONE);
	for (f = 0; f < 1024; f += 2)
		pool_free(q, f);
	assert_int_equal(pool_audit(q), 0);
	pool_forget_owner(q, 1);
	for (f = 1; f < 1024; f += 2)
		pool_free(q, f);
	assert_int_equal(pool_audit(q), 0);
	assert_int_equal(fstat(pool_rw_fd(q), &st), 0);
	assert_int_equal(st.st_blocks, 0);
	/* And again from the start. */
	for (unsigned i = 0; i < 1024; i++)
		assert_int_not_equal(get(q, 9, i), POOL_NONE);
	assert_int_equal(pool_audit(q), 0);
	pool_destroy(q);
}

static void test_audit_finds(void **s)
{
	struct pool *q = make(4 * MB);

	get(q, 1, 1);
	assert_int_equal(pool_audit(q), 0);
	assert_int_equal(pwrite(pool_rw_fd(q), "x", 1, 100 * PAGE_SIZE), 1);
	assert_int_equal(pool_audit(q), -EUCLEAN);
	pool_destroy(q);
}

static void test_bad_size(void **s)
{
	struct pool *q;

	assert_int_equal(pool_create("t", 0, &q), -EINVAL);
	assert_int_equal(pool_create("t", 1ull << 50, &q), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_any_order_makes_runs),
		cmocka_unit_test(test_near_and_wishes),
		cmocka_unit_test(test_full_and_free),
		cmocka_unit_test(test_audit_finds),
		cmocka_unit_test(test_bad_size),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
