/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The p2m: the states of a VM's pages and the roads between them.
 *
 *            first write / break            p2m_share.c: commit
 *   ZERO ------------------------> PRIVATE -------------------> SHARED
 *     ^ <--- commit, found zero ------+  <--- break (copy) -------+
 *     |                               |
 *     | touch             touch       | p2m_reclaim.c
 *   BALLOONED        COMPRESSED, SWAPPED
 *
 * From the three lower states a page comes back before anybody sees it: every
 * road of p2m.h begins with p2m_touch.
 *
 * Data. One 32-bit entry a PPN (p2m_priv.h) in an anonymous mapping: memory
 * that was never touched costs nothing here either. The VM's memfd is mapped
 * once, read-write, at natural offsets; the pool once, read-only. So p2m_read
 * and p2m_write are a range check, a load and an add.
 *
 * Noted pages. A page must be "noted" before anybody may write it: the bit in
 * the entry, and the same bit in the control area's changed map. Invariant: a
 * writable mapping of a page (in an engine) or a pointer from p2m_write exists
 * only while the page is PRIVATE and noted. Whoever clears the bit (collect)
 * first has the engine make its mappings read-only and bumps gen. So a page
 * that is not noted cannot change, and comparing it needs no further lock.
 *
 * Zero. A ZERO page is read from a constant frame in this program, or for
 * mappings from a sealed one-page file: reading a hole of the memfd through a
 * mapping would allocate a block.
 *
 * Breaks copy with pwrite: out of memory is then an error, not a SIGBUS.
 *
 * Locking: none. One thread owns the p2m; the control area is written with
 * atomics for readers in other processes.
 *
 * Limits: 2^27 pool frames (512 GiB). A PRIVATE page may be a hole; reading it
 * through a mapping allocates its block, which is ours to pay.
 */
#include "mm/p2m.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/p2m_priv.h"

const char *const p2m_state_names[P2M_NR_STATES] = {
	"none",	     "private",	   "zero",    "shared",
	"ballooned", "compressed", "swapped",
};

static const uint8_t zero_frame[PAGE_SIZE] __attribute__((aligned(4096)));

/* Creation. */

static int make_memfd(const struct p2m_config *cfg, uint64_t bytes)
{
	char name[64];
	struct stat st;
	int fd, e;

	if (cfg->memfd >= 0) {
		fd = fcntl(cfg->memfd, F_DUPFD_CLOEXEC, 3);
	} else {
		snprintf(name, sizeof(name), "sardine-%.48s",
			 cfg->name ? cfg->name : "vm");
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) ||
	    ((uint64_t)st.st_size != bytes && ftruncate(fd, bytes))) {
		e = errno;
		close(fd);
		return -e;
	}
	/* The size is settled: nobody's mapping may come to lie beyond the
	 * end. The manager may have sealed it already. */
	(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	return fd;
}

static int make_zero_fd(void)
{
	int fd = memfd_create("sardine-zero", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int e;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, PAGE_SIZE) ||
	    fcntl(fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)) {
		e = errno;
		close(fd);
		return -e;
	}
	return fd;
}

static void *map_rw(void *at, uint64_t bytes, int fd, uint64_t off)
{
	return mmap(at, bytes, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED : 0), fd, off);
}

/* The memfd as one range of addresses, with nothing behind [low, 4 GiB). */
static int map_ram(struct p2m *p)
{
	uint64_t bytes = p->max_ppn << PAGE_SHIFT, lead;
	uint8_t *m = mmap(NULL, bytes + LARGE_PAGE_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		return -errno;
	/* Address and offset agree modulo 2 MiB, as large pages want it. */
	lead = -(uintptr_t)m & (LARGE_PAGE_SIZE - 1);
	if (lead)
		munmap(m, lead);
	m += lead;
	if (lead < LARGE_PAGE_SIZE)
		munmap(m + bytes, LARGE_PAGE_SIZE - lead);
	p->base = m;
	if (map_rw(m, p->low_pages << PAGE_SHIFT, p->memfd, 0) == MAP_FAILED)
		return -errno;
	if (p->high_pages &&
	    map_rw(m + (HIGH_PPN << PAGE_SHIFT), p->high_pages << PAGE_SHIFT,
		   p->memfd, HIGH_PPN << PAGE_SHIFT) == MAP_FAILED)
		return -errno;
	/* A core of the monitor without its guest is the more useful one. */
	(void)madvise(m, bytes, MADV_DONTDUMP);
	return 0;
}

static int map_pool(struct p2m *p, int fd)
{
	struct stat st;
	void *m;

	p->pool_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (p->pool_fd < 0 || fstat(p->pool_fd, &st))
		return -errno;
	p->pool_bytes = st.st_size & PAGE_MASK;
	if (!p->pool_bytes)
		return 0;
	m = mmap(NULL, p->pool_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE,
		 p->pool_fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	p->pool = m;
	p->pool_frames = p->pool_bytes >> PAGE_SHIFT;
	if (p->pool_frames > ENT_PAY_MAX)
		p->pool_frames = ENT_PAY_MAX;
	return 0;
}

static int set_control(struct p2m *p, const struct p2m_config *cfg)
{
	struct control *c = cfg->control;

	if (!c) {
		p->own_ctl_bytes =
			control_bytes(cfg->ram_bytes, cfg->low_limit);
		c = mmap(NULL, p->own_ctl_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (c == MAP_FAILED)
			return -errno;
		control_init(c, cfg->ram_bytes, cfg->low_limit, cfg->name);
	}
	p->ctl = c;
	if (c->magic != CONTROL_MAGIC || c->max_ppn != p->max_ppn)
		return -EPROTO;
	p->changed = control_changed(c);
	p->collected = control_collected(c);
	p->released = control_released(c);
	control_set(&c->zero_pages, p->ram_bytes >> PAGE_SHIFT);
	return 0;
}

static int create_parts(struct p2m *p, const struct p2m_config *cfg)
{
	int r;

	r = make_memfd(cfg, p->max_ppn << PAGE_SHIFT);
	if (r < 0)
		return r;
	p->memfd = r;
	r = make_zero_fd();
	if (r < 0)
		return r;
	p->zero_fd = r;
	r = map_ram(p);
	if (r)
		return r;
	/* One entry more, so that "the next page" can always be looked at. */
	p->ent_bytes = (p->max_ppn + 1) * sizeof(*p->ent);
	p->ent = mmap(NULL, p->ent_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->ent == MAP_FAILED) {
		p->ent = NULL;
		return -errno;
	}
	r = p2m_region_init(p);
	if (r)
		return r;
	r = cfg->pool_fd >= 0 ? map_pool(p, cfg->pool_fd) : 0;
	if (!r)
		r = p2m_reclaim_init(p, cfg);
	return r ? r : set_control(p, cfg);
}

int p2m_create(const struct p2m_config *cfg, struct p2m **out)
{
	uint64_t low = cfg->low_limit ? cfg->low_limit : 3ull << 30;
	struct p2m *p;
	int r;

	if (!cfg->ram_bytes || cfg->ram_bytes & ~PAGE_MASK ||
	    low & ~PAGE_MASK || low > 3ull << 30 || cfg->ram_bytes > 1ull << 46)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->memfd = p->pool_fd = p->zero_fd = -1;
	p->gen = 1;
	p->ram_bytes = cfg->ram_bytes;
	p->max_ppn = control_max_ppn(cfg->ram_bytes, low);
	p->low_pages =
		(cfg->ram_bytes < low ? cfg->ram_bytes : low) >> PAGE_SHIFT;
	p->high_pages = (cfg->ram_bytes >> PAGE_SHIFT) - p->low_pages;
	p->count[P2M_ZERO] = cfg->ram_bytes >> PAGE_SHIFT;
	r = create_parts(p, cfg);
	if (r) {
		p2m_destroy(p);
		return r;
	}
	*out = p;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void p2m_destroy(struct p2m *p)
{
	if (!p)
		return;
	p2m_reclaim_fini(p);
	if (p->base)
		munmap(p->base, p->max_ppn << PAGE_SHIFT);
	if (p->ent)
		munmap(p->ent, p->ent_bytes);
	if (p->region)
		munmap(p->region, p->region_bytes);
	if (p->pool)
		munmap((void *)p->pool, p->pool_bytes);
	if (p->own_ctl_bytes && p->ctl)
		munmap(p->ctl, p->own_ctl_bytes);
	close_fd(p->memfd);
	close_fd(p->pool_fd);
	close_fd(p->zero_fd);
	free(p);
}

void p2m_set_listener(struct p2m *p, const struct p2m_listener_ops *ops,
		      void *ctx)
{
	p->ops = ops;
	p->ctx = ctx;
}

/* Questions. */

uint64_t p2m_ram_bytes(const struct p2m *p)
{
	return p->ram_bytes;
}
uint64_t p2m_low_bytes(const struct p2m *p)
{
	return p->low_pages << PAGE_SHIFT;
}
uint64_t p2m_high_bytes(const struct p2m *p)
{
	return p->high_pages << PAGE_SHIFT;
}
uint64_t p2m_max_ppn(const struct p2m *p)
{
	return p->max_ppn;
}
int p2m_memfd(const struct p2m *p)
{
	return p->memfd;
}
uint64_t p2m_gen(const struct p2m *p)
{
	return p->gen;
}

enum p2m_state p2m_get_state(const struct p2m *p, ppn_t ppn)
{
	return p2m_is_ram(p, ppn) ? ent_state(p->ent[ppn.n]) : P2M_NONE;
}

static bool ent_writable(uint32_t e)
{
	return (e & (ENT_STATE_MASK | ENT_CODE | ENT_NOTED)) ==
	       ((P2M_PRIVATE ^ P2M_ZERO) | ENT_NOTED);
}

/* Does page n, with entry b, go on where page n-1, with entry a, ends? */
static bool same_run(uint32_t a, uint32_t b)
{
	if (ent_state(a) != ent_state(b) || ent_writable(a) != ent_writable(b))
		return false;
	return ent_state(a) != P2M_SHARED ||
	       ent_payload(b) == ent_payload(a) + 1;
}

int p2m_get_backing(struct p2m *p, ppn_t ppn, uint64_t max,
		    struct p2m_backing *b)
{
	unsigned around;
	uint64_t n;
	uint32_t e;

	if (!p2m_is_ram(p, ppn))
		return -ENXIO;
	p2m_touch(p, ppn);
	around = p2m_around(p, ppn);
	p2m_region_of(p, ppn)->touched = 1;
	e = p->ent[ppn.n];
	b->writable = ent_writable(e);
	b->run = 1;
	if (ent_state(e) == P2M_ZERO) {
		b->fd = p->zero_fd;
		b->offset = 0;
		return 0;
	}
	if (ent_state(e) == P2M_SHARED) {
		b->fd = p->pool_fd;
		b->offset = (uint64_t)ent_payload(e) << PAGE_SHIFT;
	} else {
		b->fd = p->memfd;
		b->offset = ppn.n << PAGE_SHIFT;
	}
	for (n = 1; n < max && p2m_is_ram(p, (ppn_t){ppn.n + n}); n++)
		if (!same_run(p->ent[ppn.n + n - 1], p->ent[ppn.n + n]) ||
		    !p2m_run_on(p, ppn.n + n, &around))
			break;
	b->run = n;
	return 0;
}

uint64_t p2m_run_before(struct p2m *p, ppn_t ppn, uint64_t max)
{
	uint64_t n = 0;

	if (!p2m_is_ram(p, ppn))
		return 0;
	p2m_touch(p, ppn);
	if (ent_state(p->ent[ppn.n]) == P2M_ZERO)
		return 0;
	while (n < max && (ppn.n - n) % P2M_REGION_PAGES &&
	       p2m_is_ram(p, (ppn_t){ppn.n - n - 1}) &&
	       !bit_test(p->idle, ppn.n - n - 1) &&
	       same_run(p->ent[ppn.n - n - 1], p->ent[ppn.n - n]))
		n++;
	return n;
}

/* Changing. */

/* 1 if a run of shared frames begins at page n (n may be one past the end). */
static unsigned run_starts(const struct p2m *p, uint64_t n)
{
	uint32_t e = p->ent[n];

	if (ent_state(e) != P2M_SHARED)
		return 0;
	return !n || ent_state(p->ent[n - 1]) != P2M_SHARED ||
	       ent_payload(e) != ent_payload(p->ent[n - 1]) + 1;
}

static void publish(struct p2m *p)
{
	control_set(&p->ctl->private_pages, p->count[P2M_PRIVATE]);
	control_set(&p->ctl->shared_pages, p->count[P2M_SHARED]);
	control_set(&p->ctl->zero_pages, p->count[P2M_ZERO]);
	control_set(&p->ctl->shared_runs, p->runs);
	control_set(&p->ctl->ballooned_pages, p->count[P2M_BALLOONED]);
	control_set(&p->ctl->compressed_pages, p->count[P2M_COMPRESSED]);
	control_set(&p->ctl->swapped_pages, p->count[P2M_SWAPPED]);
}

void p2m_set_ent(struct p2m *p, ppn_t ppn, uint32_t e)
{
	uint32_t old = p->ent[ppn.n];

	p->runs -= run_starts(p, ppn.n) + run_starts(p, ppn.n + 1);
	p->ent[ppn.n] = e;
	p->runs += run_starts(p, ppn.n) + run_starts(p, ppn.n + 1);
	p->count[ent_state(old)]--;
	p->count[ent_state(e)]++;
	p2m_region_change(p, ppn, old, e);
	if (ent_state(old) == P2M_ZERO)
		control_add(&p->ctl->zero_merged_pages,
			    -(uint64_t)ent_payload(old));
	if (ent_state(e) == P2M_ZERO)
		control_add(&p->ctl->zero_merged_pages, ent_payload(e));
	publish(p);
	if (ent_state(e) == P2M_PRIVATE)
		p2m_grown(p);
}

static void note(struct p2m *p, ppn_t ppn)
{
	uint32_t e = p->ent[ppn.n], heat = PRIV_HEAT(ent_payload(e));
	uint16_t idle = p->tick - PRIV_TICK(ent_payload(e));

	/* Long quiet: what it did before no longer counts. */
	if (idle > 16u << heat)
		heat = 0;
	p->ent[ppn.n] = ent_make(P2M_PRIVATE, (e & ENT_CODE) | ENT_NOTED,
				 PRIV_PAY(p->tick, heat));
	bit_set(p->changed, ppn.n);
	control_add(&p->ctl->noted_pages, 1);
}

void p2m_zero_to_private(struct p2m *p, ppn_t ppn)
{
	uint32_t e = p->ent[ppn.n];

	p2m_call_drop(p, ppn);
	p2m_set_ent(p, ppn,
		    ent_make(P2M_PRIVATE, e & ENT_CODE, PRIV_PAY(p->tick, 0)));
	control_add(&p->ctl->zero_broken, 1);
	p->gen++;
}

void p2m_release_frame(struct p2m *p, ppn_t ppn)
{
	(void)fail_point("kill-monitor-released");
	/* From here on the manager may reuse the frame. */
	bit_set(p->released, ppn.n);
	control_add(&p->ctl->released_seq, 1);
}

/* Copy first, then let go: a failure leaves the page as it was. */
static int break_shared(struct p2m *p, ppn_t ppn)
{
	uint32_t e = p->ent[ppn.n];
	const uint8_t *from = p->pool + ((size_t)ent_payload(e) << PAGE_SHIFT);
	ssize_t n = pwrite(p->memfd, from, PAGE_SIZE, ppn.n << PAGE_SHIFT);

	if (n != (ssize_t)PAGE_SIZE)
		return -ENOMEM;
	p2m_call_drop(p, ppn);
	p2m_set_ent(p, ppn,
		    ent_make(P2M_PRIVATE, e & ENT_CODE, PRIV_PAY(p->tick, 0)));
	p->gen++;
	control_add(&p->ctl->broken, 1);
	p2m_release_frame(p, ppn);
	return 0;
}

/* Make one RAM page PRIVATE and noted. */
static int prepare(struct p2m *p, ppn_t ppn)
{
	int r;

	p2m_touch(p, ppn);
	switch (ent_state(p->ent[ppn.n])) {
	case P2M_PRIVATE:
		break;
	case P2M_ZERO:
		p2m_zero_to_private(p, ppn);
		break;
	case P2M_SHARED:
		r = break_shared(p, ppn);
		if (r)
			return r;
		break;
	default:
		return -ENXIO;
	}
	if (!(p->ent[ppn.n] & ENT_NOTED))
		note(p, ppn);
	return 0;
}

long p2m_make_writable(struct p2m *p, ppn_t ppn, uint64_t n)
{
	unsigned around;
	uint64_t i;
	int r;

	if (!p2m_is_ram(p, ppn))
		return -ENXIO;
	r = prepare(p, ppn);
	around = p2m_around(p, ppn);
	if (r)
		return r;
	for (i = 1; i < n; i++) {
		ppn_t q = {ppn.n + i};
		enum p2m_state s = p2m_get_state(p, q);

		if ((s != P2M_PRIVATE && s != P2M_ZERO) ||
		    p->ent[q.n] & ENT_CODE || !p2m_run_on(p, q.n, &around) ||
		    prepare(p, q))
			break;
	}
	return i;
}

const void *p2m_read(struct p2m *p, ppn_t ppn)
{
	uint32_t e;

	if (unlikely(!p2m_is_ram(p, ppn)))
		return NULL;
	p2m_touch(p, ppn);
	e = p->ent[ppn.n];
	if (likely(ent_state(e) == P2M_PRIVATE))
		return p->base + (ppn.n << PAGE_SHIFT);
	if (ent_state(e) == P2M_ZERO)
		return zero_frame;
	return p->pool + ((size_t)ent_payload(e) << PAGE_SHIFT);
}

static void *write_slow(struct p2m *p, ppn_t ppn, unsigned off, unsigned len)
{
	if (p->ent[ppn.n] & ENT_CODE && p->ops && p->ops->code_written)
		p->ops->code_written(p->ctx, ppn, off, len);
	if (prepare(p, ppn)) {
		log_error("out of host memory: page %#lx of the guest cannot "
			  "be written; give the host more memory or run fewer "
			  "VMs",
			  (unsigned long)ppn.n);
		return NULL;
	}
	return p->base + (ppn.n << PAGE_SHIFT);
}

void *p2m_write(struct p2m *p, ppn_t ppn, unsigned off, unsigned len)
{
	if (unlikely(!p2m_is_ram(p, ppn)))
		return NULL;
	if (likely(ent_writable(p->ent[ppn.n]) && !bit_test(p->idle, ppn.n)))
		return p->base + (ppn.n << PAGE_SHIFT);
	return write_slow(p, ppn, off, len);
}

static unsigned page_part(gpa_t gpa, size_t len)
{
	size_t room = PAGE_SIZE - (gpa & ~PAGE_MASK);

	return len < room ? len : room;
}

int p2m_copy_out(struct p2m *p, gpa_t gpa, void *buf, size_t len)
{
	unsigned n;

	for (; len; len -= n, gpa += n, buf = (char *)buf + n) {
		const char *m = p2m_read(p, gpa_to_ppn(gpa));

		if (!m)
			return -ENXIO;
		n = page_part(gpa, len);
		memcpy(buf, m + (gpa & ~PAGE_MASK), n);
	}
	return 0;
}

int p2m_copy_in(struct p2m *p, gpa_t gpa, const void *buf, size_t len)
{
	unsigned n;

	for (; len; len -= n, gpa += n, buf = (const char *)buf + n) {
		unsigned off = gpa & ~PAGE_MASK;
		char *m;

		n = page_part(gpa, len);
		m = p2m_write(p, gpa_to_ppn(gpa), off, n);
		if (!m)
			return -ENXIO;
		memcpy(m + off, buf, n);
	}
	return 0;
}

void p2m_set_code(struct p2m *p, ppn_t ppn, bool code)
{
	uint32_t e;

	if (!p2m_is_ram(p, ppn))
		return;
	e = p->ent[ppn.n];
	if (code && !(e & ENT_CODE))
		p->gen++;
	p->ent[ppn.n] = code ? e | ENT_CODE : e & ~ENT_CODE;
	p2m_region_change(p, ppn, e, p->ent[ppn.n]);
}

bool p2m_is_code(const struct p2m *p, ppn_t ppn)
{
	return p2m_is_ram(p, ppn) && p->ent[ppn.n] & ENT_CODE;
}

void p2m_get_usage(const struct p2m *p, struct p2m_usage *u)
{
	struct stat st = {0};
	uint64_t backed;

	(void)fstat(p->memfd, &st);
	u->private_bytes = (uint64_t)st.st_blocks * 512;
	u->shared_bytes = p->count[P2M_SHARED] << PAGE_SHIFT;
	u->away_bytes = (p->count[P2M_BALLOONED] + p->count[P2M_COMPRESSED] +
			 p->count[P2M_SWAPPED])
			<< PAGE_SHIFT;
	u->store_bytes = control_get(&p->ctl->store_bytes);
	backed = u->private_bytes + u->shared_bytes + u->away_bytes;
	u->zero_bytes = p->ram_bytes > backed ? p->ram_bytes - backed : 0;
}
