/* SPDX-License-Identifier: Apache-2.0 */
/* The p2m alone: states, backings, pointers, notes, breaks, seals, audit. */
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

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"

#define MB (1ull << 20)

struct heard {
	int drops, protects, code;
	ppn_t last;
	unsigned off, len;
};

static void on_drop(void *c, ppn_t p)
{
	struct heard *h = c;

	h->drops++;
	h->last = p;
}
static void on_protect(void *c, ppn_t p)
{
	((struct heard *)c)->protects++;
}
static void on_code(void *c, ppn_t p, unsigned off, unsigned len)
{
	struct heard *h = c;

	h->code++;
	h->last = p;
	h->off = off;
	h->len = len;
}
static const struct p2m_listener_ops ops = {
	.drop = on_drop, .protect = on_protect, .code_written = on_code};

static struct p2m *make(uint64_t ram, uint64_t low)
{
	struct p2m_config c = {.ram_bytes = ram,
			       .low_limit = low,
			       .memfd = -1,
			       .pool_fd = -1,
			       .name = "test"};
	struct p2m *p = NULL;

	assert_int_equal(p2m_create(&c, &p), 0);
	return p;
}

static uint64_t blocks(struct p2m *p)
{
	struct stat st;

	assert_int_equal(fstat(p2m_memfd(p), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_layout(void **s)
{
	struct p2m *p = make(8 * MB, 4 * MB);
	uint64_t hi = (4ull << 30) >> 12;

	assert_int_equal(p2m_low_bytes(p), 4 * MB);
	assert_int_equal(p2m_high_bytes(p), 4 * MB);
	assert_int_equal(p2m_max_ppn(p), hi + 1024);
	assert_int_equal(p2m_get_state(p, (ppn_t){1023}), P2M_ZERO);
	assert_int_equal(p2m_get_state(p, (ppn_t){1024}), P2M_NONE);
	assert_int_equal(p2m_get_state(p, (ppn_t){hi - 1}), P2M_NONE);
	assert_int_equal(p2m_get_state(p, (ppn_t){hi}), P2M_ZERO);
	assert_int_equal(p2m_get_state(p, (ppn_t){hi + 1024}), P2M_NONE);
	assert_int_equal(p2m_get_state(p, PPN_NONE), P2M_NONE);
	assert_null(p2m_read(p, (ppn_t){1024}));
	assert_null(p2m_write(p, PPN_NONE, 0, 1));
	assert_int_equal(p2m_make_writable(p, (ppn_t){1024}, 1), -ENXIO);
	*(char *)p2m_write(p, (ppn_t){hi + 1023}, 0, 1) = 1;
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_bad_config(void **s)
{
	struct p2m_config c = {.memfd = -1, .pool_fd = -1};
	struct p2m *p;

	assert_int_equal(p2m_create(&c, &p), -EINVAL);
	c.ram_bytes = 4097;
	assert_int_equal(p2m_create(&c, &p), -EINVAL);
	c.ram_bytes = ~0xfffull;
	assert_int_equal(p2m_create(&c, &p), -EINVAL);
	c.ram_bytes = MB;
	c.low_limit = 4ull << 30;
	assert_int_equal(p2m_create(&c, &p), -EINVAL);
}

static void test_zero_read_costs_nothing(void **s)
{
	struct p2m *p = make(16 * MB, 0);
	char buf[8192];

	for (uint64_t n = 0; n < 4096; n++) {
		const char *m = p2m_read(p, (ppn_t){n});

		assert_int_equal(m[n & 4095], 0);
	}
	assert_int_equal(p2m_copy_out(p, 12345, buf, sizeof(buf)), 0);
	assert_int_equal(blocks(p), 0);
	assert_int_equal(p2m_get_state(p, (ppn_t){7}), P2M_ZERO);
	p2m_destroy(p);
}

static void test_write_and_usage(void **s)
{
	struct p2m *p = make(4 * MB, 0);
	struct p2m_usage u;
	char *w;

	w = p2m_write(p, (ppn_t){5}, 10, 1);
	w[10] = 'x';
	assert_int_equal(p2m_get_state(p, (ppn_t){5}), P2M_PRIVATE);
	assert_ptr_equal(p2m_read(p, (ppn_t){5}), w);
	assert_ptr_equal(p2m_write(p, (ppn_t){5}, 0, 4096), w);
	p2m_get_usage(p, &u);
	assert_int_equal(u.private_bytes, 4096);
	assert_int_equal(u.zero_bytes, 4 * MB - 4096);
	assert_int_equal(u.shared_bytes, 0);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_copy_edges(void **s)
{
	struct p2m *p = make(MB, 0);
	char a[10000], b[10000];

	for (unsigned i = 0; i < sizeof(a); i++)
		a[i] = i * 7;
	assert_int_equal(p2m_copy_in(p, 4000, a, sizeof(a)), 0);
	assert_int_equal(p2m_copy_out(p, 4000, b, sizeof(b)), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(p2m_copy_in(p, MB - 100, a, 101), -ENXIO);
	assert_int_equal(p2m_copy_out(p, MB - 100, b, 100), 0);
	assert_memory_equal(a, b, 100);
	assert_int_equal(p2m_copy_out(p, MB, b, 1), -ENXIO);
	assert_int_equal(p2m_copy_out(p, ~0ull, b, 1), -ENXIO);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_backing_runs(void **s)
{
	struct p2m *p = make(MB, 0);
	struct p2m_backing b;

	assert_int_equal(p2m_get_backing(p, (ppn_t){3}, 100, &b), 0);
	assert_int_equal(b.run, 1);
	assert_false(b.writable);
	assert_int_equal(p2m_make_writable(p, (ppn_t){3}, 10), 10);
	assert_int_equal(p2m_get_backing(p, (ppn_t){3}, 100, &b), 0);
	assert_int_equal(b.run, 10);
	assert_true(b.writable);
	assert_int_equal(b.fd, p2m_memfd(p));
	assert_int_equal(b.offset, 3 * 4096);
	assert_int_equal(p2m_get_backing(p, (ppn_t){3}, 4, &b), 0);
	assert_int_equal(b.run, 4);
	p2m_set_code(p, (ppn_t){6}, true);
	assert_int_equal(p2m_get_backing(p, (ppn_t){3}, 100, &b), 0);
	assert_int_equal(b.run, 3);
	assert_int_equal(p2m_get_backing(p, (ppn_t){6}, 100, &b), 0);
	assert_int_equal(b.run, 1);
	assert_false(b.writable);
	/* Runs stop at a code page and at the end of RAM. */
	assert_int_equal(p2m_make_writable(p, (ppn_t){4}, 10), 2);
	assert_int_equal(p2m_make_writable(p, (ppn_t){250}, 100), 6);
	assert_int_equal(p2m_get_backing(p, (ppn_t){256}, 1, &b), -ENXIO);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_zero_backing_maps(void **s)
{
	struct p2m *p = make(MB, 0);
	struct p2m_backing b;
	char *m;

	assert_int_equal(p2m_get_backing(p, (ppn_t){3}, 1, &b), 0);
	m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, b.fd, b.offset);
	assert_ptr_not_equal(m, MAP_FAILED);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(m[i], 0);
	munmap(m, 4096);
	/* Nobody can write the zero frame. */
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
			      b.fd, b.offset),
			 MAP_FAILED);
	assert_int_equal(pwrite(b.fd, "x", 1, 0), -1);
	assert_int_equal(blocks(p), 0);
	p2m_destroy(p);
}

static void test_listener_and_gen(void **s)
{
	struct p2m *p = make(MB, 0);
	struct heard h = {0};
	uint64_t g;

	p2m_set_listener(p, &ops, &h);
	g = p2m_gen(p);
	p2m_read(p, (ppn_t){1});
	assert_int_equal(p2m_gen(p), g);
	p2m_write(p, (ppn_t){1}, 0, 1);
	assert_int_not_equal(p2m_gen(p), g);
	assert_int_equal(h.drops, 1);
	assert_int_equal(h.last.n, 1);
	g = p2m_gen(p);
	p2m_write(p, (ppn_t){1}, 0, 1);
	assert_int_equal(p2m_gen(p), g);
	p2m_set_code(p, (ppn_t){1}, true);
	assert_int_not_equal(p2m_gen(p), g);
	assert_true(p2m_is_code(p, (ppn_t){1}));
	p2m_write(p, (ppn_t){1}, 100, 8);
	assert_int_equal(h.code, 1);
	assert_int_equal(h.off, 100);
	assert_int_equal(h.len, 8);
	g = p2m_gen(p);
	p2m_set_code(p, (ppn_t){1}, false);
	assert_int_equal(p2m_gen(p), g);
	p2m_write(p, (ppn_t){1}, 100, 8);
	assert_int_equal(h.code, 1);
	assert_int_equal(h.drops, 1);
	p2m_destroy(p);
}

/* A page that was prepared and never written goes back without a block ever
 * having been made, and is not counted as one that was found zero. */
static void test_hole_is_zero(void **s)
{
	struct p2m *p = make(MB, 0);
	bool more;

	assert_int_equal(p2m_make_writable(p, (ppn_t){0}, 8), 8);
	*(char *)p2m_write(p, (ppn_t){3}, 0, 1) = 0;
	assert_int_equal(blocks(p), 4096);
	assert_int_equal(p2m_commit_zero(p, (ppn_t){2}), SHARE_changed);
	assert_int_equal(p2m_collect(p, 10000000000ull, 100, &more), 8);
	assert_false(more);
	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(p2m_commit_zero(p, (ppn_t){n}), SHARE_ok);
	assert_int_equal(p2m_commit_zero(p, (ppn_t){2}), SHARE_not_private);
	assert_int_equal(p2m_commit_zero(p, (ppn_t){256}), SHARE_not_ram);
	assert_int_equal(blocks(p), 4096);
	p2m_punch(p, (ppn_t){0}, 8);
	assert_int_equal(blocks(p), 0);
	assert_int_equal(control_get(&p2m_control(p)->zero_merged_pages), 1);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

/* A page that keeps being written is asked for ever less often. */
static void test_heat(void **s)
{
	struct p2m *p = make(MB, 0);
	uint64_t now = 1000000000, taken = 0;
	bool more;

	for (unsigned i = 0; i < 12000; i++, now += 50000000) {
		p2m_write(p, (ppn_t){1}, 0, 1);
		taken += p2m_collect(p, now, 100, &more);
	}
	/* 600 s: after 1, 2, 4, 8, 16, 32 and 64 s, then each 128 s. */
	assert_in_range(taken, 10, 11);
	/* A quiet guest has no hot pages. */
	p2m_write(p, (ppn_t){1}, 0, 1);
	now += 1250000000;
	assert_int_equal(p2m_collect(p, now, 100, &more), 0);
	p2m_set_quiet(p, true);
	assert_int_equal(p2m_collect(p, now, 100, &more), 1);
	p2m_set_quiet(p, false);
	/* Quiet for long, it is new again. */
	now += 600000000000ull;
	p2m_collect(p, now, 100, &more);
	p2m_write(p, (ppn_t){1}, 0, 1);
	now += 1250000000;
	assert_int_equal(p2m_collect(p, now, 100, &more), 1);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_collect_budget(void **s)
{
	struct p2m *p = make(MB, 0);
	uint64_t now = 10000000000ull, n = 0;
	bool more = true;

	assert_int_equal(p2m_make_writable(p, (ppn_t){0}, 200), 200);
	for (unsigned i = 0; i < 7 && more; i++)
		n += p2m_collect(p, now, 30, &more);
	assert_int_equal(n, 200);
	assert_false(more);
	for (unsigned w = 0; w < 3; w++)
		assert_int_equal(control_collected(p2m_control(p))[w], ~0ull);
	assert_int_equal(control_get(&p2m_control(p)->noted_pages), 0);
	assert_int_equal(p2m_audit(p), 0);
	p2m_destroy(p);
}

static void test_seals(void **s)
{
	struct p2m *p = make(MB, 0);

	assert_int_equal(ftruncate(p2m_memfd(p), 4096), -1);
	assert_int_equal(ftruncate(p2m_memfd(p), 4 * MB), -1);
	assert_int_equal(fallocate(p2m_memfd(p),
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   0, 4096),
			 0);
	p2m_destroy(p);
}

/* The audit must be able to fail. */
static void test_audit_finds(void **s)
{
	struct p2m *p = make(MB, 0);

	assert_int_equal(p2m_audit(p), 0);
	assert_int_equal(pwrite(p2m_memfd(p), "x", 1, 8192), 1);
	assert_int_equal(p2m_audit(p), -EUCLEAN);
	p2m_destroy(p);
}

static void test_control(void **s)
{
	struct control *c, *d;
	size_t bytes;
	struct p2m *p;
	int fd;

	assert_int_equal(control_create(8 * MB, 4 * MB, "vm0", &fd, &c), 0);
	assert_int_equal(control_map(fd, &d, &bytes), 0);
	assert_int_equal(bytes, control_bytes(8 * MB, 4 * MB));
	assert_string_equal(d->name, "vm0");
	struct p2m_config cfg = {.ram_bytes = 8 * MB,
				 .low_limit = 4 * MB,
				 .memfd = -1,
				 .pool_fd = -1,
				 .control = d};
	assert_int_equal(p2m_create(&cfg, &p), 0);
	assert_int_equal(control_get(&c->zero_pages), 2048);
	p2m_write(p, (ppn_t){65}, 0, 1);
	assert_int_equal(control_changed(c)[1], 2);
	assert_int_equal(control_get(&c->noted_pages), 1);
	assert_int_equal(control_get(&c->private_pages), 1);
	p2m_destroy(p);
	/* Another size does not fit. */
	cfg.ram_bytes = 16 * MB;
	assert_int_equal(p2m_create(&cfg, &p), -EPROTO);
	d->collected_off += 8;
	struct control *e;
	assert_int_equal(control_map(fd, &e, &bytes), -EPROTO);
	control_unmap(c, control_bytes(8 * MB, 4 * MB));
	control_unmap(d, control_bytes(8 * MB, 4 * MB));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_bad_config),
		cmocka_unit_test(test_zero_read_costs_nothing),
		cmocka_unit_test(test_write_and_usage),
		cmocka_unit_test(test_copy_edges),
		cmocka_unit_test(test_backing_runs),
		cmocka_unit_test(test_zero_backing_maps),
		cmocka_unit_test(test_listener_and_gen),
		cmocka_unit_test(test_hole_is_zero),
		cmocka_unit_test(test_heat),
		cmocka_unit_test(test_collect_budget),
		cmocka_unit_test(test_seals),
		cmocka_unit_test(test_audit_finds),
		cmocka_unit_test(test_control),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
