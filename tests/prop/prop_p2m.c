/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The p2m against a model. Random operations on a small VM with a high part;
 * the model knows each page's bytes and state and what the listener must have
 * been told. After each step: states, some bytes, and the audit from scratch.
 *
 * The fake engine keeps mappings: a page may be mapped read-only or writable,
 * according to what p2m_get_backing allowed. A drop or protect takes that away;
 * a write through a mapping goes straight to the file, as the hardware would,
 * so a mapping that should have been taken away and was not shows as bytes that
 * differ from the model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"
#include "mm/sharing/pool.h"
#include "tests/prop/prop.h"

#define LOW	48u
#define HIGH	24u
#define PAGES	(LOW + HIGH)
#define FRAMES	16u
#define HIGH_AT (4ull << 18)

enum mapped { UNMAPPED, READ_ONLY, WRITABLE };

struct model {
	struct p2m *p;
	struct pool *pool;
	struct rnd r;
	uint32_t frame[FRAMES];
	uint8_t bytes[PAGES][PAGE_SIZE];
	enum p2m_state state[PAGES];
	uint32_t at[PAGES]; /* frame of a SHARED page */
	enum mapped map[PAGES];
	bool code[PAGES], told[PAGES];
	unsigned pins[PAGES];
	unsigned pressed;
	_Atomic unsigned written;
	uint64_t now;
	uint64_t done[8];
};

static ppn_t ppn_of(unsigned i)
{
	return (ppn_t){i < LOW ? i : HIGH_AT + i - LOW};
}
static unsigned index_of(ppn_t p)
{
	return p.n < LOW ? p.n : p.n - HIGH_AT + LOW;
}

static void on_drop(void *c, ppn_t p)
{
	((struct model *)c)->map[index_of(p)] = UNMAPPED;
}
static void on_protect(void *c, ppn_t p)
{
	struct model *m = c;

	if (m->map[index_of(p)] == WRITABLE)
		m->map[index_of(p)] = READ_ONLY;
}
static void on_code(void *c, ppn_t p, unsigned off, unsigned len)
{
	struct model *m = c;
	unsigned i = index_of(p);

	assert_true(m->code[i]);
	assert_in_range(off + len, 1, PAGE_SIZE);
	m->told[i] = true;
	/* As an engine does: translations dropped, mark cleared. */
	if (rnd_below(&m->r, 2)) {
		p2m_set_code(m->p, p, false);
		m->code[i] = false;
	}
}
static const struct p2m_listener_ops ops = {
	.drop = on_drop, .protect = on_protect, .code_written = on_code};

static void on_pressure(void *c)
{
	((struct model *)c)->pressed++;
}

static void on_written(void *c)
{
	((struct model *)c)->written++;
}

static int swap_file(void)
{
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(posix_fallocate(fd, 0, PAGES * PAGE_SIZE), 0);
	return fd;
}

static void setup(struct model *m)
{
	int swap = swap_file();
	int store = memfd_create("prop-store", MFD_CLOEXEC);

	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE,
			       .low_limit = LOW * PAGE_SIZE,
			       .memfd = -1};
	uint8_t page[PAGE_SIZE];

	assert_int_equal(pool_create("prop", 4 << 20, &m->pool), 0);
	for (unsigned f = 0; f < FRAMES; f++) {
		struct pool_wish w = {1, f};

		m->frame[f] = pool_alloc(m->pool, POOL_NONE, &w, 1);
		fill_page(page, f + 1);
		assert_int_equal(pool_write(m->pool, m->frame[f], page), 0);
	}
	c.pool_fd = pool_ro_fd(m->pool);
	assert_int_equal(ftruncate(store, PAGES * PAGE_SIZE), 0);
	c.store_fd = store;
	c.swap_fd = swap;
	assert_int_equal(p2m_create(&c, &m->p), 0);
	close(store);
	close(swap);
	p2m_set_written(m->p, on_written, m);
	p2m_set_pressure(m->p, on_pressure, m);
	p2m_set_listener(m->p, &ops, m);
	for (unsigned i = 0; i < PAGES; i++)
		m->state[i] = P2M_ZERO;
}

/* Operations. */

static void do_write(struct model *m, unsigned i)
{
	uint64_t gen = p2m_gen(m->p), id = rnd_below(&m->r, 2 * FRAMES);
	bool code = m->code[i];
	uint8_t *w;

	m->told[i] = false;
	w = p2m_write(m->p, ppn_of(i), 0, PAGE_SIZE);
	assert_non_null(w);
	assert_int_equal(m->told[i], code);
	if (m->state[i] != P2M_PRIVATE)
		assert_int_not_equal(gen, p2m_gen(m->p));
	if (id <= FRAMES)
		fill_page(m->bytes[i], id);
	else
		fill_page_soft(m->bytes[i], id);
	memcpy(w, m->bytes[i], PAGE_SIZE);
	m->state[i] = P2M_PRIVATE;
}

static void do_copy_in(struct model *m, unsigned i)
{
	uint8_t buf[2 * PAGE_SIZE];
	unsigned len = 1 + rnd_below(&m->r, sizeof(buf)), k, at;
	unsigned off = rnd_below(&m->r, PAGE_SIZE);
	int r, fits = 0;

	for (k = 0; k < len; k++)
		buf[k] = rnd64(&m->r);
	r = p2m_copy_in(m->p, ppn_to_gpa(ppn_of(i)) + off, buf, len);
	for (k = 0; k < len; k++) {
		at = off + k;
		if (i + at / PAGE_SIZE >= (i < LOW ? LOW : PAGES))
			break;
		m->bytes[i + at / PAGE_SIZE][at % PAGE_SIZE] = buf[k];
		m->state[i + at / PAGE_SIZE] = P2M_PRIVATE;
		fits++;
	}
	assert_int_equal(r, fits == (int)len ? 0 : -ENXIO);
}

/* The engine maps a run for writing. */
static void do_map_writable(struct model *m, unsigned i)
{
	uint64_t want = 1 + rnd_below(&m->r, 8);
	struct p2m_backing b;
	long n;

	if (m->code[i]) { /* its own duty before asking */
		p2m_set_code(m->p, ppn_of(i), false);
		m->code[i] = false;
	}
	n = p2m_make_writable(m->p, ppn_of(i), want);
	assert_in_range(n, 1, want);
	assert_int_equal(p2m_get_backing(m->p, ppn_of(i), n, &b), 0);
	assert_true(b.writable);
	assert_int_equal(b.run, n);
	assert_int_equal(b.fd, p2m_memfd(m->p));
	for (long k = 0; k < n; k++) {
		m->state[i + k] = P2M_PRIVATE;
		m->map[i + k] = WRITABLE;
	}
}

/* The model's page is brought back. */
static void touched(struct model *m, unsigned i)
{
	if (m->state[i] == P2M_BALLOONED)
		m->state[i] = P2M_ZERO;
	if (m->state[i] == P2M_COMPRESSED || m->state[i] == P2M_SWAPPED)
		m->state[i] = P2M_PRIVATE;
}

static void do_map_readable(struct model *m, unsigned i)
{
	struct p2m_backing b;
	uint8_t buf[PAGE_SIZE];

	assert_int_equal(p2m_get_backing(m->p, ppn_of(i), 8, &b), 0);
	assert_false(p2m_is_idle(m->p, ppn_of(i)));
	touched(m, i);
	for (uint64_t k = 0; k < b.run; k++) {
		assert_int_equal(
			pread(b.fd, buf, PAGE_SIZE, b.offset + k * PAGE_SIZE),
			PAGE_SIZE);
		assert_memory_equal(buf, m->bytes[i + k], PAGE_SIZE);
		if (m->map[i + k] == UNMAPPED)
			m->map[i + k] = READ_ONLY;
	}
}

/* The guest stores through the mapping that the engine has. */
static void do_store(struct model *m, unsigned i)
{
	unsigned off = rnd_below(&m->r, PAGE_SIZE);
	uint8_t b = rnd64(&m->r);

	if (m->map[i] != WRITABLE || m->code[i])
		return;
	assert_int_equal(
		pwrite(p2m_memfd(m->p), &b, 1, ppn_to_gpa(ppn_of(i)) + off), 1);
	m->bytes[i][off] = b;
}

static void do_code(struct model *m, unsigned i)
{
	m->code[i] = !m->code[i];
	if (m->code[i] && m->map[i] == WRITABLE)
		m->map[i] = READ_ONLY; /* the engine's duty */
	p2m_set_code(m->p, ppn_of(i), m->code[i]);
	assert_int_equal(p2m_is_code(m->p, ppn_of(i)), m->code[i]);
}

static void do_collect(struct model *m)
{
	bool more;
	uint32_t budget = 1 + rnd_below(&m->r, 40);
	uint64_t gen = p2m_gen(m->p);
	uint32_t n;

	m->now += rnd_below(&m->r, 3000000000ull);
	n = p2m_collect(m->p, m->now, budget, &more);
	assert_in_range(n, 0, budget);
	assert_int_equal(more, n == budget);
	if (n)
		assert_int_not_equal(gen, p2m_gen(m->p));
}

static void do_commit(struct model *m, unsigned i)
{
	uint8_t page[PAGE_SIZE];
	unsigned f = rnd_below(&m->r, FRAMES);
	bool zero = rnd_below(&m->r, 4) == 0, equal;
	enum share_reason why;

	/* Mostly the right frame. */
	for (unsigned k = 0; k < FRAMES && rnd_below(&m->r, 8); k++) {
		fill_page(page, k + 1);
		if (!memcmp(page, m->bytes[i], PAGE_SIZE))
			f = k;
	}
	fill_page(page, zero ? 0 : f + 1);
	equal = !memcmp(page, m->bytes[i], PAGE_SIZE);
	if (m->pins[i]) {
		assert_int_not_equal(p2m_commit_zero(m->p, ppn_of(i)),
				     SHARE_ok);
		return;
	}
	why = zero ? p2m_commit_zero(m->p, ppn_of(i))
		   : p2m_commit_frame(m->p, ppn_of(i), m->frame[f]);
	m->done[0]++;
	if (why == SHARE_ok) {
		assert_true(equal);
		assert_int_equal(m->state[i], P2M_PRIVATE);
		assert_int_equal(m->map[i], UNMAPPED);
		m->state[i] = zero ? P2M_ZERO : P2M_SHARED;
		m->at[i] = m->frame[f];
		p2m_punch(m->p, ppn_of(i), 1);
		m->done[1]++;
	} else if (why == SHARE_differs) {
		assert_false(equal);
	} else if (why == SHARE_not_private) {
		assert_int_not_equal(m->state[i], P2M_PRIVATE);
	} else {
		assert_int_equal(why, SHARE_changed);
	}
	assert_int_equal(p2m_commit_frame(m->p, ppn_of(i), 1u << 26),
			 m->state[i] == P2M_PRIVATE && why != SHARE_changed
				 ? SHARE_bad_frame
			 : m->state[i] == P2M_PRIVATE ? SHARE_changed
						      : SHARE_not_private);
}

/* Reclaiming. */

static void do_compress(struct model *m, unsigned i)
{
	static const uint8_t zero[PAGE_SIZE];
	enum evict why = p2m_compress(m->p, ppn_of(i));

	switch (why) {
	case EVICT_compressed:
		m->state[i] = P2M_COMPRESSED;
		m->done[2]++;
		break;
	case EVICT_zero:
		assert_memory_equal(m->bytes[i], zero, PAGE_SIZE);
		m->state[i] = P2M_ZERO;
		m->done[3]++;
		break;
	case EVICT_not_private:
		assert_int_not_equal(m->state[i], P2M_PRIVATE);
		return;
	case EVICT_pinned:
		assert_int_not_equal(m->pins[i], 0);
		return;
	default:
		assert_true(why == EVICT_incompressible ||
			    why == EVICT_no_store);
		assert_int_equal(m->state[i], P2M_PRIVATE);
		m->done[4]++;
		return;
	}
	assert_int_equal(m->pins[i], 0);
	assert_int_equal(m->map[i], UNMAPPED);
	p2m_punch(m->p, ppn_of(i), 1);
}

/* Some pages go out; sooner or later the owner hears of it. */
static void do_swap(struct model *m, unsigned i)
{
	enum evict why = p2m_swap_out(m->p, ppn_of(i));

	if (why == EVICT_zero) {
		assert_int_equal(m->state[i], P2M_PRIVATE);
		m->state[i] = P2M_ZERO;
		p2m_punch(m->p, ppn_of(i), 1);
	} else if (why == EVICT_swapped) {
		assert_true(m->state[i] == P2M_PRIVATE ||
			    m->state[i] == P2M_COMPRESSED);
	} else if (why == EVICT_not_private) {
		assert_true(m->state[i] != P2M_PRIVATE &&
			    m->state[i] != P2M_COMPRESSED);
	} else {
		assert_true(why == EVICT_pinned || why == EVICT_busy ||
			    why == EVICT_swap_full);
	}
}

static void do_reap(struct model *m)
{
	p2m_swap_flush(m->p);
	while (rnd_below(&m->r, 4) && p2m_swapping(m->p) && !m->written)
		sched_yield();
	m->written = 0;
	p2m_swap_reap(m->p);
	for (unsigned i = 0; i < PAGES; i++) {
		if (p2m_get_state(m->p, ppn_of(i)) != P2M_SWAPPED ||
		    m->state[i] == P2M_SWAPPED)
			continue;
		assert_true(m->state[i] == P2M_PRIVATE ||
			    m->state[i] == P2M_COMPRESSED);
		assert_int_equal(m->map[i], UNMAPPED);
		assert_int_equal(m->pins[i], 0);
		m->state[i] = P2M_SWAPPED;
		m->done[6]++;
	}
}

/* Pages that came with another one. */
static void came_along(struct model *m)
{
	for (unsigned i = 0; i < PAGES; i++)
		if (m->state[i] == P2M_SWAPPED &&
		    p2m_get_state(m->p, ppn_of(i)) == P2M_PRIVATE)
			m->state[i] = P2M_PRIVATE;
}

static void do_give_back(struct model *m, unsigned i)
{
	unsigned n = 1 + rnd_below(&m->r, 4), took = 0;
	bool balloon = rnd_below(&m->r, 2);
	uint64_t r;

	for (unsigned k = 0; k < n; k++)
		m->told[(i + k) % PAGES] = false;
	r = balloon ? p2m_balloon(m->p, ppn_of(i), n)
		    : p2m_discard(m->p, ppn_of(i), n);
	for (unsigned k = i; k < i + n && k < (i < LOW ? LOW : PAGES); k++) {
		if (m->pins[k])
			continue;
		took++;
		memset(m->bytes[k], 0, PAGE_SIZE);
		m->state[k] = balloon ? P2M_BALLOONED : P2M_ZERO;
		/* It may have had its state already. */
		if (m->code[k])
			m->code[k] = p2m_is_code(m->p, ppn_of(k));
	}
	assert_in_range(r, 0, took);
	m->done[5] += r;
	if (rnd_below(&m->r, 4) || !balloon)
		return;
	p2m_unballoon(m->p, ppn_of(i), n);
	for (unsigned k = i; k < i + n && k < (i < LOW ? LOW : PAGES); k++)
		touched(m, k);
}

static void do_idle(struct model *m, unsigned i)
{
	p2m_mark_idle(m->p, ppn_of(i));
	if (m->state[i] < P2M_BALLOONED) {
		assert_int_equal(m->map[i], UNMAPPED);
		assert_true(p2m_is_idle(m->p, ppn_of(i)));
	}
}

static void do_pin(struct model *m, unsigned i)
{
	bool write = rnd_below(&m->r, 2);
	uint8_t *page;

	/* Mostly short: a few pages at a time. */
	for (unsigned k = 0; k < PAGES; k++)
		if (m->pins[k] && !rnd_below(&m->r, 4)) {
			p2m_unpin(m->p, ppn_of(k));
			m->pins[k]--;
		}
	if (m->pins[i] > 3)
		return;
	page = p2m_pin(m->p, ppn_of(i), write);
	assert_non_null(page);
	assert_memory_equal(page, m->bytes[i], PAGE_SIZE);
	m->pins[i]++;
	touched(m, i);
	if (write || m->state[i] == P2M_SHARED)
		m->state[i] = P2M_PRIVATE;
	if (write) {
		m->bytes[i][7]++;
		page[7]++;
	}
}

static void do_quota(struct model *m)
{
	p2m_control(m->p)->quota_bytes = rnd_below(&m->r, PAGES) * PAGE_SIZE;
}

/* After each step. */

static void check(struct model *m, unsigned i)
{
	uint64_t shared = 0;
	const void *p = p2m_read(m->p, ppn_of(i));
	struct p2m_backing b;

	assert_memory_equal(p, m->bytes[i], PAGE_SIZE);
	touched(m, i);
	came_along(m);
	for (unsigned k = 0; k < PAGES; k++) {
		assert_int_equal(p2m_get_state(m->p, ppn_of(k)), m->state[k]);
		if (m->state[k] == P2M_SHARED)
			assert_int_equal(p2m_frame(m->p, ppn_of(k)).n,
					 m->at[k]);
		shared += m->state[k] == P2M_SHARED;
		/* Who may write is noted. */
		if (m->map[k] == UNMAPPED)
			continue;
		p2m_get_backing(m->p, ppn_of(k), 1, &b);
		if (m->map[k] == WRITABLE)
			assert_true(b.writable || m->code[k]);
	}
	struct p2m_usage u;
	p2m_get_usage(m->p, &u);
	assert_int_equal(u.shared_bytes, shared * PAGE_SIZE);
	assert_int_equal(p2m_audit(m->p), 0);
}

static void step(struct model *m)
{
	unsigned i = rnd_below(&m->r, PAGES);

	switch (rnd_below(&m->r, 30)) {
	case 0 ... 2:
		do_write(m, i);
		break;
	case 3:
		do_copy_in(m, i);
		break;
	case 4:
		do_map_writable(m, i);
		break;
	case 5:
		do_map_readable(m, i);
		break;
	case 6 ... 7:
		do_store(m, i);
		break;
	case 8:
		do_code(m, i);
		break;
	case 9 ... 10:
		do_collect(m);
		break;
	case 11 ... 15:
		do_commit(m, i);
		break;
	case 16 ... 19:
		do_compress(m, i);
		break;
	case 20:
		do_give_back(m, i);
		break;
	case 21:
		do_idle(m, i);
		break;
	case 22:
		do_pin(m, i);
		break;
	case 23 ... 26:
		do_swap(m, i);
		break;
	case 27 ... 28:
		do_reap(m);
		break;
	default:
		do_quota(m);
	}
	came_along(m);
	check(m, rnd_below(&m->r, 4) ? i : rnd_below(&m->r, PAGES));
}

static void test_model(void **s)
{
	uint64_t steps = prop_env("PROP_STEPS", 30000);
	struct model *m = calloc(1, sizeof(*m));

	m->r = rnd_seeded("prop_p2m", 1);
	setup(m);
	for (uint64_t n = 0; n < steps; n++)
		step(m);
	for (unsigned i = 0; i < PAGES; i++)
		check(m, i);
	printf("# %llu commits tried, %llu done\n",
	       (unsigned long long)m->done[0], (unsigned long long)m->done[1]);
	printf("# compressed %llu, found zero %llu, could not %llu, given back "
	       "%llu, swapped %llu, over quota %u\n",
	       (unsigned long long)m->done[2], (unsigned long long)m->done[3],
	       (unsigned long long)m->done[4], (unsigned long long)m->done[5],
	       (unsigned long long)m->done[6], m->pressed);
	assert_true(m->done[1] > steps / 400);
	for (unsigned i = 2; i < 7; i++)
		assert_true(m->done[i] > steps / 2000);
	assert_true(m->pressed > steps / 1000);
	p2m_destroy(m->p);
	pool_destroy(m->pool);
	free(m);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(test_model)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
