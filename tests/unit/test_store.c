/* SPDX-License-Identifier: Apache-2.0 */
/* The store: objects come back as they were, memory goes back, its audit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/store.h"
#include "tests/prop/prop.h"

#define KB 1024ul
#define MB (KB * KB)

static struct store *make(uint64_t bytes, int *fd)
{
	struct store *s = NULL;

	*fd = memfd_create("store", MFD_CLOEXEC);
	assert_int_equal(ftruncate(*fd, bytes), 0);
	assert_int_equal(store_create(*fd, bytes, &s), 0);
	return s;
}

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_sizes(void **state)
{
	uint8_t in[STORE_MAX_LEN + 1], out[STORE_MAX_LEN];
	struct store_tag tag = {7, 0x12345678, 9}, got;
	struct rnd r = {1};
	uint32_t h;
	int fd;
	struct store *s = make(4 * MB, &fd);

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = rnd64(&r);
	assert_int_equal(store_put(s, in, sizeof(in), &tag, &h), -E2BIG);
	for (unsigned len = 1; len <= STORE_MAX_LEN; len += 37) {
		assert_int_equal(store_put(s, in, len, &tag, &h), 0);
		assert_true(h < 1u << 27);
		assert_true(store_holds(s, h, 7));
		assert_false(store_holds(s, h, 8));
		memset(out, 0, sizeof(out));
		assert_int_equal(store_get(s, h, out, &got), (int)len);
		assert_memory_equal(in, out, len);
		assert_int_equal(got.sum, tag.sum);
		assert_int_equal(got.when, tag.when);
		assert_int_equal(store_audit(s), 0);
		store_free(s, h);
		assert_false(store_holds(s, h, 7));
	}
	assert_int_equal(store_bytes(s), 0);
	assert_int_equal(store_payload(s), 0);
	assert_int_equal(blocks(fd), 0);
	assert_int_equal(store_audit(s), 0);
	store_destroy(s);
	close(fd);
}

static void test_full(void **state)
{
	uint8_t in[3000] = {1};
	struct store_tag tag = {0};
	unsigned n = 0;
	uint32_t h, last = 0;
	int fd;
	struct store *s = make(64 * KB, &fd);

	while (!store_put(s, in, sizeof(in), &tag, &h)) {
		last = h;
		n++;
	}
	/* Four slabs of five. */
	assert_int_equal(n, 20);
	assert_int_equal(store_put(s, in, 1, &tag, &h), -ENOSPC);
	store_free(s, last);
	assert_int_equal(store_put(s, in, 1, &tag, &h), -ENOSPC);
	assert_int_equal(store_put(s, in, sizeof(in), &tag, &h), 0);
	assert_int_equal(h, last);
	assert_int_equal(store_audit(s), 0);
	store_destroy(s);
	close(fd);
}

#define OBJECTS 2000u

static struct {
	uint32_t handle;
	unsigned len;
	uint64_t seed;
} o[OBJECTS];

static void on_moved(void *ctx, uint32_t ppn, uint32_t from, uint32_t to)
{
	assert_true(ppn < OBJECTS && o[ppn].len);
	assert_int_equal(o[ppn].handle, from);
	o[ppn].handle = to;
	++*(unsigned *)ctx;
}

/* Against a table of what was put in. */
static void test_random(void **state)
{
	unsigned moves = 0;
	uint64_t steps = prop_env("PROP_STEPS", 60000), most = 0, sum = 0;
	struct rnd r = rnd_seeded("test_store", 3), c;
	uint8_t buf[STORE_MAX_LEN], out[STORE_MAX_LEN];
	int fd;
	struct store *s = make(16 * MB, &fd);

	memset(o, 0, sizeof(o));
	store_set_moved(s, on_moved, &moves);
	for (uint64_t n = 0; n < steps; n++) {
		unsigned i = rnd_below(&r, OBJECTS);
		struct store_tag tag = {i, i * 3, i & 0xffff}, got;

		if (!o[i].len) {
			o[i].len = 1 + rnd_below(&r, STORE_MAX_LEN);
			o[i].seed = rnd64(&r);
			c.s = o[i].seed;
			for (unsigned k = 0; k < o[i].len; k++)
				buf[k] = rnd64(&c);
			assert_int_equal(
				store_put(s, buf, o[i].len, &tag, &o[i].handle),
				0);
			sum += o[i].len;
		} else {
			c.s = o[i].seed;
			for (unsigned k = 0; k < o[i].len; k++)
				buf[k] = rnd64(&c);
			assert_int_equal(store_get(s, o[i].handle, out, &got),
					 o[i].len);
			assert_memory_equal(buf, out, o[i].len);
			assert_int_equal(got.ppn, i);
			store_free(s, o[i].handle);
			sum -= o[i].len;
			o[i].len = 0;
		}
		if (sum > most)
			most = sum;
		assert_int_equal(store_payload(s), sum);
		if (n % 256 == 0)
			assert_int_equal(store_audit(s), 0);
	}
	printf("# %lu bytes of objects in %lu of memory (%lu%%), %u moved\n",
	       (unsigned long)sum, (unsigned long)store_bytes(s),
	       (unsigned long)(sum * 100 / store_bytes(s)), moves);
	/* Random births and deaths of random sizes: the worst that there is. */
	assert_true(sum * 100 / store_bytes(s) > 60);
	/* Most die: what is left moves together. */
	for (unsigned i = 0; i < OBJECTS; i++)
		if (o[i].len && i % 3) {
			store_free(s, o[i].handle);
			sum -= o[i].len;
			o[i].len = 0;
		}
	assert_true(sum * 100 / store_bytes(s) > 60);
	assert_int_equal(store_audit(s), 0);
	assert_true(blocks(fd) <= store_bytes(s));
	for (unsigned i = 0; i < OBJECTS; i++)
		if (o[i].len)
			store_free(s, o[i].handle);
	assert_int_equal(blocks(fd), 0);
	assert_int_equal(store_audit(s), 0);
	store_destroy(s);
	close(fd);
}

static void test_refuses(void **state)
{
	struct store *s;
	int fd = memfd_create("store", MFD_CLOEXEC);

	assert_int_equal(store_create(fd, MB, &s), -EINVAL);
	assert_int_equal(store_create(fd, 0, &s), -EINVAL);
	assert_int_equal(store_create(-1, MB, &s), -EINVAL);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_refuses),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
