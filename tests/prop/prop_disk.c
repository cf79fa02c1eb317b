/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks against a model: raw, overlay and snapshot, by ring and by thread. A
 * sector holds one version (all of its words say which, and where), so torn,
 * lost and misplaced sectors show.
 *
 * Kill. At any time the overlay's file is copied, which is what a process that
 * was killed leaves behind, and opened as a disk: each sector must be what it
 * was at the last flush that was answered, or what was written since.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/prop/prop.h"
#include "vmm/dev/disk.h"

#define SECTORS 6000ull /* not a whole block of the map */
#define BATCH	8
#define MAX_N	300
#define SINCE	24

static char dir[] = "/tmp/sardine-disk.XXXXXX";
static char base[64], cow[64], copy[64];
static uint32_t version; /* the last that was given out; 0: zeroes */

struct sector {
	uint32_t now, flushed;
	uint32_t since[SINCE]; /* versions since the flush */
	unsigned n_since;
};
static struct sector model[SECTORS];

struct batch {
	struct disk_req rq[BATCH];
	struct iovec iov[BATCH][16];
	uint8_t *buf[BATCH];
	uint32_t ver[BATCH];
	int err[BATCH];
	unsigned n, done;
};
static struct batch bt;

static void put_sector(uint8_t *p, uint64_t s, uint32_t ver)
{
	uint64_t *w = (uint64_t *)p;

	for (unsigned i = 0; i < SECTOR_SIZE / 8; i++)
		w[i] = ver ? (uint64_t)ver << 32 | s : 0;
}

static uint32_t get_sector(const uint8_t *p, uint64_t s)
{
	const uint64_t *w = (const uint64_t *)p;

	for (unsigned i = 1; i < SECTOR_SIZE / 8; i++)
		assert_int_equal(w[i], w[0]);
	if (w[0])
		assert_int_equal((uint32_t)w[0], s);
	return w[0] >> 32;
}

static void write_base(struct rnd *r)
{
	int fd = open(base, O_RDWR | O_CREAT | O_TRUNC, 0600);
	uint8_t buf[SECTOR_SIZE];

	assert_true(fd >= 0);
	version = 0;
	for (uint64_t s = 0; s < SECTORS; s++) {
		uint32_t v = rnd_below(r, 4) ? ++version : 0;

		put_sector(buf, s, v);
		model[s] = (struct sector){.now = v, .flushed = v};
		assert_int_equal(
			pwrite(fd, buf, sizeof(buf), (off_t)(s * SECTOR_SIZE)),
			SECTOR_SIZE);
	}
	close(fd);
}

static void ready(void *ctx)
{
}

static struct disk *open_disk(const struct disk_config *c)
{
	struct disk *d;
	char err[256] = "";

	if (disk_open(c, ready, NULL, &d, err, sizeof(err)))
		fail_msg("%s", err);
	assert_int_equal(disk_sectors(d), SECTORS);
	return d;
}

static void on_done(struct disk_req *rq, int err)
{
	unsigned i = (unsigned)(rq - bt.rq);

	bt.err[i] = err;
	bt.done++;
}

/* A buffer in a few odd pieces. */
static void set_iov(struct rnd *r, unsigned i, uint64_t len)
{
	unsigned n = 0;
	uint64_t at = 0;

	while (at < len) {
		uint64_t part = n == 15 ? len - at : 1 + rnd_below(r, len - at);

		bt.iov[i][n++] = (struct iovec){bt.buf[i] + at, part};
		at += part;
	}
	bt.rq[i].iov = bt.iov[i];
	bt.rq[i].n_iov = n;
}

static bool overlaps(uint64_t s, uint64_t n)
{
	for (unsigned i = 0; i < bt.n; i++)
		if (bt.rq[i].n && s < bt.rq[i].sector + bt.rq[i].n &&
		    bt.rq[i].sector < s + n)
			return true;
	return false;
}

/* Requests that do not touch each other, all under way at once. */
static void make_batch(struct rnd *r, struct disk *d)
{
	unsigned want = 1 + rnd_below(r, BATCH);

	bt.n = bt.done = 0;
	while (bt.n < want) {
		unsigned i = bt.n, k = rnd_below(r, 10);
		uint64_t n = 1 + rnd_below(r, rnd_below(r, 3) ? 20 : MAX_N);
		uint64_t s = rnd_below(r, SECTORS - n);

		if (overlaps(s, n)) {
			want--;
			continue;
		}
		bt.rq[i] = (struct disk_req){.kind = k < 4   ? DISK_READ
						     : k < 8 ? DISK_WRITE
							     : DISK_ZERO,
					     .sector = s,
					     .n = n,
					     .done = on_done};
		bt.ver[i] = bt.rq[i].kind == DISK_WRITE ? ++version : 0;
		bt.buf[i] = malloc(n * SECTOR_SIZE);
		for (uint64_t j = 0; j < n; j++)
			put_sector(bt.buf[i] + j * SECTOR_SIZE, s + j,
				   bt.ver[i]);
		set_iov(r, i, n * SECTOR_SIZE);
		bt.n++;
		disk_submit(d, &bt.rq[i]);
		if (rnd_below(r, 3) == 0)
			disk_poll(d);
	}
	disk_drain(d);
	assert_int_equal(bt.done, bt.n);
}

static void note(struct sector *m, uint32_t v)
{
	m->now = v;
	if (m->n_since < SINCE)
		m->since[m->n_since++] = v;
}

static void check_batch(void)
{
	for (unsigned i = 0; i < bt.n; i++) {
		struct disk_req *rq = &bt.rq[i];

		assert_int_equal(bt.err[i], 0);
		for (uint64_t j = 0; j < rq->n; j++) {
			struct sector *m = &model[rq->sector + j];
			uint8_t *p = bt.buf[i] + j * SECTOR_SIZE;

			if (rq->kind == DISK_READ)
				assert_int_equal(get_sector(p, rq->sector + j),
						 m->now);
			else
				note(m, bt.ver[i]);
		}
		free(bt.buf[i]);
	}
}

static void flush(struct rnd *r, struct disk *d)
{
	unsigned n = 1 + rnd_below(r, 3);

	bt.n = bt.done = 0;
	for (unsigned i = 0; i < n; i++) {
		bt.rq[i] =
			(struct disk_req){.kind = DISK_FLUSH, .done = on_done};
		bt.n++;
		disk_submit(d, &bt.rq[i]);
	}
	disk_drain(d);
	assert_int_equal(bt.done, n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(bt.err[i], 0);
	for (uint64_t s = 0; s < SECTORS; s++) {
		model[s].flushed = model[s].now;
		model[s].n_since = 0;
	}
}

static void read_all(struct disk *d, uint32_t *ver)
{
	static uint8_t buf[SECTORS * SECTOR_SIZE];
	struct iovec iov = {buf, sizeof(buf)};

	bt.n = 1;
	bt.done = 0;
	bt.rq[0] = (struct disk_req){.kind = DISK_READ,
				     .n = SECTORS,
				     .iov = &iov,
				     .n_iov = 1,
				     .done = on_done};
	disk_submit(d, &bt.rq[0]);
	disk_drain(d);
	assert_int_equal(bt.done, 1);
	assert_int_equal(bt.err[0], 0);
	for (uint64_t s = 0; s < SECTORS; s++)
		ver[s] = get_sector(buf + s * SECTOR_SIZE, s);
}

static void check_all(struct disk *d)
{
	static uint32_t ver[SECTORS];

	read_all(d, ver);
	for (uint64_t s = 0; s < SECTORS; s++)
		assert_int_equal(ver[s], model[s].now);
}

static void copy_file(const char *from, const char *to)
{
	int a = open(from, O_RDONLY),
	    b = open(to, O_RDWR | O_CREAT | O_TRUNC, 0600);
	static uint8_t buf[1 << 16];
	ssize_t n;

	assert_true(a >= 0 && b >= 0);
	while ((n = read(a, buf, sizeof(buf))) > 0)
		assert_int_equal(write(b, buf, (size_t)n), n);
	close(a);
	close(b);
}

/* What is there after a kill now. */
static void killed(const struct disk_config *c)
{
	struct disk_config k = *c;
	static uint32_t ver[SECTORS];
	struct disk *d;

	copy_file(cow, copy);
	k.overlay = copy;
	d = open_disk(&k);
	read_all(d, ver);
	for (uint64_t s = 0; s < SECTORS; s++) {
		const struct sector *m = &model[s];
		bool ok = ver[s] == m->flushed || m->n_since == SINCE;

		for (unsigned i = 0; i < m->n_since && !ok; i++)
			ok = ver[s] == m->since[i];
		assert_true(ok);
	}
	disk_close(d);
}

static void run(const char *name, struct disk_config c, uint64_t seed)
{
	struct rnd r = rnd_seeded(name, seed);
	uint64_t steps = prop_env("PROP_STEPS", 250);
	struct disk *d;

	write_base(&r);
	unlink(cow);
	c.path = base;
	d = open_disk(&c);
	assert_true(disk_can_zero(d));
	for (uint64_t i = 0; i < steps; i++) {
		make_batch(&r, d);
		check_batch();
		if (rnd_below(&r, 8) == 0)
			flush(&r, d);
		if (c.overlay && rnd_below(&r, 16) == 0)
			killed(&c);
		if (!c.snapshot && rnd_below(&r, 30) == 0) {
			disk_close(d);
			d = open_disk(&c);
			check_all(d);
		}
	}
	check_all(d);
	disk_close(d);
	if (!c.overlay && !c.snapshot)
		return;
	/* The base is what it was. */
	version = 0;
	c = (struct disk_config){.path = base, .read_only = true};
	d = open_disk(&c);
	r = rnd_seeded(name, seed);
	{
		static uint32_t ver[SECTORS];

		read_all(d, ver);
		for (uint64_t s = 0; s < SECTORS; s++)
			assert_int_equal(ver[s],
					 rnd_below(&r, 4) ? ++version : 0);
	}
	disk_close(d);
}

#define BOTH(name, ...)                                                        \
	static void name##_ring(void **state)                                  \
	{                                                                      \
		struct disk_config c = {.aio = AIO_URING, __VA_ARGS__};        \
                                                                               \
		if (!have_ring)                                                \
			skip();                                                \
		run(#name " ring", c, 1);                                      \
	}                                                                      \
	static void name##_thread(void **state)                                \
	{                                                                      \
		struct disk_config c = {.aio = AIO_THREAD, __VA_ARGS__};       \
                                                                               \
		run(#name " thread", c, 2);                                    \
	}

static bool have_ring;

BOTH(raw, .read_only = false)
BOTH(overlay, .overlay = cow)
BOTH(snapshot, .snapshot = true)

/* ---- opening: what is refused, in a line that names it ---- */

static void refused(struct disk_config c, const char *word)
{
	char err[256] = "";
	struct disk *d;

	if (!disk_open(&c, ready, NULL, &d, err, sizeof(err)))
		fail_msg("not refused: %s", word);
	if (!strstr(err, word) || strchr(err, '\n'))
		fail_msg("'%s' instead of '%s'", err, word);
}

static void test_refused(void **state)
{
	struct disk_config raw = {.path = base},
			   ro = {.path = base, .read_only = true};
	struct disk_config ov = {.path = base, .overlay = cow};
	struct rnd r = {1};
	char path[96];
	struct disk *d, *e;
	int fd;

	write_base(&r);
	unlink(cow);
	refused((struct disk_config){.path = "/nowhere/x"}, "no such file");
	refused((struct disk_config){.path = dir}, "is a directory");
	refused((struct disk_config){.path = "/dev/null"},
		"not a file or block device");
	snprintf(path, sizeof(path), "%s/odd", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	refused((struct disk_config){.path = path}, "is empty");
	assert_int_equal(ftruncate(fd, 1000), 0);
	refused((struct disk_config){.path = path}, "multiple of 512");
	/* Locks: one writer, or readers. */
	d = open_disk(&raw);
	refused(raw, "in use");
	refused(ro, "being written");
	refused(ov, "being written");
	disk_close(d);
	d = open_disk(&ro);
	e = open_disk(&ov);
	refused(raw, "in use");
	refused(ov, "in use");
	disk_close(d);
	disk_close(e);
	refused((struct disk_config){.path = base, .overlay = base}, "in use");
	/* Overlays: ours, of this base, unchanged. */
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	refused((struct disk_config){.path = base, .overlay = path},
		"not an overlay");
	refused((struct disk_config){.path = path, .overlay = cow},
		"another base");
	close(fd);
	fd = open(base, O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, 1000), 1);
	close(fd);
	refused(ov, "was changed");
	d = open_disk(&raw);
	disk_close(d);
}

/* The file became shorter: an error, not zeroes. */
static void test_short(void **state)
{
	struct disk_config c = {.path = base};
	struct rnd r = {1};
	struct iovec iov;
	struct disk *d;

	for (unsigned m = AIO_URING; m <= AIO_THREAD; m++) {
		if (m == AIO_URING && !have_ring)
			continue;
		c.aio = m;
		write_base(&r);
		d = open_disk(&c);
		assert_int_equal(truncate(base, 4096), 0);
		bt.buf[0] = malloc(8192);
		iov = (struct iovec){bt.buf[0], 8192};
		bt.done = 0;
		bt.rq[0] = (struct disk_req){.kind = DISK_READ,
					     .n = 16,
					     .iov = &iov,
					     .n_iov = 1,
					     .done = on_done};
		disk_submit(d, &bt.rq[0]);
		disk_drain(d);
		assert_int_equal(bt.done, 1);
		assert_int_equal(bt.err[0], -EIO);
		free(bt.buf[0]);
		disk_close(d);
	}
}

static int setup(void **state)
{
	const int fds[] = {0};
	struct aio_config c = {AIO_URING, fds, 1, 8, ready, NULL};
	struct aio *a;

	assert_non_null(mkdtemp(dir));
	snprintf(base, sizeof(base), "%s/base", dir);
	snprintf(cow, sizeof(cow), "%s/cow", dir);
	snprintf(copy, sizeof(copy), "%s/copy", dir);
	have_ring = !aio_create(&c, &a);
	if (have_ring)
		aio_destroy(a);
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(raw_ring),
		cmocka_unit_test(raw_thread),
		cmocka_unit_test(overlay_ring),
		cmocka_unit_test(overlay_thread),
		cmocka_unit_test(snapshot_ring),
		cmocka_unit_test(snapshot_thread),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_short),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
