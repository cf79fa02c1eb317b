/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames in extents.
 *
 * The problem: a monitor maps shared pages as runs of (PPN, frame) that go up
 * together; each run is a mapping (VMA) of its own, and the kernel allows
 * 65,530 a process. Pages are found equal in any order and in many rounds, so
 * frames cannot simply be handed out one after the other.
 *
 * The answer is reservation: the file is sparse, so address space in it costs
 * nothing. The pages of one 2 MiB piece of an owner go to one 512-frame extent,
 * page p at place p mod 512, in whatever order they come. VMs made from the
 * same image find the frames of the first one in their own order, so their
 * runs are its runs. A frame also keeps its alignment in 2 MiB, which large
 * pages will want.
 *
 * Data: an extent table (bitmap, count, owner), a hash from (owner, piece) to
 * extent, a list of empty extents. An extent that becomes empty loses its
 * owner. A page whose place is taken (its earlier contents live on in other
 * VMs) goes to an extent of nobody's; when no extent is empty, places in others'
 * extents are given away (first fit): runs suffer then, not sharing.
 *
 * The file: monitors get a descriptor opened O_RDONLY; its mode is 0400, so
 * that reopening it for writing takes CAP_DAC_OVERRIDE or chmod, which the
 * monitors' seccomp filter does not allow (no open, no fchmod). F_SEAL_FUTURE_
 * WRITE would say the same to the kernel, but it also forbids punching holes,
 * and giving memory back is the point of it all.
 *
 * When the writer has died, the next one gets the file from a monitor's
 * descriptor and opens it anew for writing, as its owner may. The mode allows
 * that for a moment; what keeps monitors from it is the filter, then as ever.
 */
#include "mm/sharing/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/base/log.h"

#define WORDS (POOL_EXTENT / 64)

struct extent {
	uint64_t used[WORDS];
	uint64_t piece; /* of its owner: PPN / 512 */
	uint32_t owner; /* 0: none */
	uint32_t count;
	uint32_t next; /* hash chain, or list of empty ones; number + 1 */
};

struct pool {
	int rw, ro;
	const uint8_t *map;
	uint64_t bytes;
	struct extent *ext;	   /* sparse mapping */
	uint32_t extents, touched; /* [touched, extents) were never used */
	uint32_t empty;		   /* list, number + 1 */
	uint32_t spill;		   /* for pages without a place, number + 1 */
	uint32_t fit;		   /* where first fit goes on */
	uint32_t *hash, hash_size;
	uint32_t used;
};

static int open_files(struct pool *q, const char *name)
{
	char buf[64];

	snprintf(buf, sizeof(buf), "sardine-pool-%.40s", name);
	q->rw = memfd_create(buf, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (q->rw < 0 || ftruncate(q->rw, q->bytes) || fchmod(q->rw, 0400) ||
	    fcntl(q->rw, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	snprintf(buf, sizeof(buf), "/proc/self/fd/%d", q->rw);
	q->ro = open(buf, O_RDONLY | O_CLOEXEC);
	return q->ro < 0 ? -errno : 0;
}

static void *sparse(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

static int reopen_files(struct pool *q, int fd)
{
	char buf[64];
	int e;

	q->ro = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (q->ro < 0 || fchmod(q->ro, 0600))
		return -errno;
	snprintf(buf, sizeof(buf), "/proc/self/fd/%d", q->ro);
	q->rw = open(buf, O_RDWR | O_CLOEXEC);
	e = errno;
	if (fchmod(q->ro, 0400))
		return -errno;
	return q->rw < 0 ? -e : 0;
}

static int create_parts(struct pool *q)
{
	void *m;

	m = mmap(NULL, q->bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, q->rw,
		 0);
	if (m == MAP_FAILED)
		return -errno;
	q->map = m;
	q->ext = sparse(q->extents * sizeof(*q->ext));
	q->hash = sparse(q->hash_size * sizeof(*q->hash));
	return q->ext && q->hash ? 0 : -ENOMEM;
}

#define EXTENT_BYTES (POOL_EXTENT * PAGE_SIZE)

static struct pool *new_pool(uint64_t bytes)
{
	struct pool *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->rw = q->ro = -1;
	q->bytes = bytes;
	q->extents = bytes / EXTENT_BYTES;
	for (q->hash_size = 64; q->hash_size < q->extents;)
		q->hash_size *= 2;
	return q;
}

int pool_create(const char *name, uint64_t bytes, struct pool **out)
{
	struct pool *q;
	int r;

	bytes = (bytes + EXTENT_BYTES - 1) / EXTENT_BYTES * EXTENT_BYTES;
	if (!bytes || bytes > 1ull << 38)
		return -EINVAL;
	q = new_pool(bytes);
	if (!q)
		return -ENOMEM;
	r = open_files(q, name);
	if (!r)
		r = create_parts(q);
	if (r) {
		pool_destroy(q);
		return r;
	}
	*out = q;
	return 0;
}

void pool_destroy(struct pool *q)
{
	if (!q)
		return;
	if (q->map)
		munmap((void *)q->map, q->bytes);
	if (q->ext)
		munmap(q->ext, q->extents * sizeof(*q->ext));
	if (q->hash)
		munmap(q->hash, q->hash_size * sizeof(*q->hash));
	if (q->rw >= 0)
		close(q->rw);
	if (q->ro >= 0)
		close(q->ro);
	free(q);
}

int pool_ro_fd(const struct pool *q)
{
	return q->ro;
}
int pool_rw_fd(const struct pool *q)
{
	return q->rw;
}
uint32_t pool_used(const struct pool *q)
{
	return q->used;
}
uint32_t pool_frames(const struct pool *q)
{
	return q->extents * POOL_EXTENT;
}
uint32_t pool_end(const struct pool *q)
{
	return q->touched * POOL_EXTENT;
}

bool pool_in_use(const struct pool *q, uint32_t f)
{
	return f < pool_frames(q) &&
	       q->ext[f / POOL_EXTENT].used[f % POOL_EXTENT / 64] >> f % 64 & 1;
}

/* Extents of owners. */

static uint32_t *chain_of(struct pool *q, uint32_t owner, uint64_t piece)
{
	uint64_t h = (piece * 0x9e3779b97f4a7c15ull) ^
		     (owner * 0xc2b2ae3d27d4eb4full);

	return &q->hash[(h >> 32) & (q->hash_size - 1)];
}

static struct extent *find_extent(struct pool *q, const struct pool_wish *w)
{
	uint64_t piece = w->page / POOL_EXTENT;
	uint32_t i = *chain_of(q, w->owner, piece);

	for (; i; i = q->ext[i - 1].next)
		if (q->ext[i - 1].owner == w->owner &&
		    q->ext[i - 1].piece == piece)
			return &q->ext[i - 1];
	return NULL;
}

static void disown(struct pool *q, struct extent *e)
{
	uint32_t id = e - q->ext + 1, *link;

	if (!e->owner)
		return;
	link = chain_of(q, e->owner, e->piece);
	while (*link != id)
		link = &q->ext[*link - 1].next;
	*link = e->next;
	e->owner = 0;
	e->next = 0;
}

/* w NULL: an extent of nobody's. */
static struct extent *new_extent(struct pool *q, const struct pool_wish *w)
{
	uint32_t id = q->empty, *link;
	struct extent *e;

	if (id)
		q->empty = q->ext[id - 1].next;
	else if (q->touched < q->extents)
		id = ++q->touched;
	else
		return NULL;
	e = &q->ext[id - 1];
	e->next = 0;
	if (!w)
		return e;
	e->owner = w->owner;
	e->piece = w->page / POOL_EXTENT;
	link = chain_of(q, e->owner, e->piece);
	e->next = *link;
	*link = id;
	return e;
}

/* Frames. */

static uint32_t take(struct pool *q, struct extent *e, unsigned place)
{
	ASSERT(!(e->used[place / 64] >> place % 64 & 1));
	e->used[place / 64] |= 1ull << place % 64;
	e->count++;
	q->used++;
	return (e - q->ext) * POOL_EXTENT + place;
}

static bool is_free(const struct extent *e, unsigned place)
{
	return !(e->used[place / 64] >> place % 64 & 1);
}

static uint32_t take_first(struct pool *q, struct extent *e)
{
	for (unsigned w = 0; w < WORDS; w++)
		if (~e->used[w])
			return take(q, e,
				    w * 64 + __builtin_ctzll(~e->used[w]));
	return POOL_NONE;
}

/* No place of its own: the spill extent, a new one, then anybody's. Empty
 * extents are on the list and only new_extent takes them off. */
static uint32_t take_any(struct pool *q)
{
	if (!q->spill || q->ext[q->spill - 1].count == POOL_EXTENT) {
		struct extent *e = new_extent(q, NULL);

		q->spill = e ? e - q->ext + 1 : 0;
	}
	if (q->spill)
		return take_first(q, &q->ext[q->spill - 1]);
	for (uint32_t i = 0; i < q->touched; i++) {
		struct extent *e = &q->ext[(q->fit + i) % q->touched];

		if (!e->count || e->count == POOL_EXTENT)
			continue;
		q->fit = e - q->ext;
		return take_first(q, e);
	}
	return POOL_NONE;
}

uint32_t pool_alloc(struct pool *q, uint32_t near, const struct pool_wish *w,
		    unsigned n)
{
	struct extent *e;

	/* An extent in use only: an empty one is on the list. */
	if (near < pool_frames(q) && q->ext[near / POOL_EXTENT].count &&
	    !pool_in_use(q, near))
		return take(q, &q->ext[near / POOL_EXTENT], near % POOL_EXTENT);
	for (unsigned i = 0; i < n; i++) {
		e = find_extent(q, &w[i]);
		if (e && is_free(e, w[i].page % POOL_EXTENT))
			return take(q, e, w[i].page % POOL_EXTENT);
	}
	/* A wish whose own extent has its place taken gets no second one. */
	for (unsigned i = 0; i < n; i++) {
		if (find_extent(q, &w[i]))
			continue;
		e = new_extent(q, &w[i]);
		if (e)
			return take(q, e, w[i].page % POOL_EXTENT);
	}
	return take_any(q);
}

void pool_free(struct pool *q, uint32_t f)
{
	struct extent *e = &q->ext[f / POOL_EXTENT];
	unsigned place = f % POOL_EXTENT;

	ASSERT(pool_in_use(q, f));
	e->used[place / 64] &= ~(1ull << place % 64);
	q->used--;
	if (fallocate(q->rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)f << PAGE_SHIFT, PAGE_SIZE))
		log_error("pool frame %u cannot be given back: %s", f,
			  strerror(errno));
	if (--e->count)
		return;
	disown(q, e);
	if (q->spill == e - q->ext + 1)
		q->spill = 0;
	e->next = q->empty;
	q->empty = e - q->ext + 1;
}

/* Every frame that has memory; extents in between that have none. */
static int find_frames(struct pool *q)
{
	off_t a, b = 0;

	while ((a = lseek(q->rw, b, SEEK_DATA)) >= 0) {
		b = lseek(q->rw, a, SEEK_HOLE);
		if (b < 0)
			return -errno;
		for (uint32_t f = a >> PAGE_SHIFT; f < b >> PAGE_SHIFT; f++) {
			q->touched = f / POOL_EXTENT + 1;
			take(q, &q->ext[f / POOL_EXTENT], f % POOL_EXTENT);
		}
	}
	if (errno != ENXIO)
		return -errno;
	for (uint32_t i = q->touched; i--;) {
		if (q->ext[i].count)
			continue;
		q->ext[i].next = q->empty;
		q->empty = i + 1;
	}
	return 0;
}

int pool_adopt(int fd, struct pool **out)
{
	struct pool *q;
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || !st.st_size || st.st_size > 1ll << 38 ||
	    st.st_size % EXTENT_BYTES)
		return -EINVAL;
	q = new_pool((uint64_t)st.st_size);
	if (!q)
		return -ENOMEM;
	r = reopen_files(q, fd);
	if (!r)
		r = create_parts(q);
	if (!r)
		r = find_frames(q);
	if (r) {
		pool_destroy(q);
		return r;
	}
	*out = q;
	return 0;
}

void pool_forget_owner(struct pool *q, uint32_t owner)
{
	for (uint32_t i = 0; i < q->touched; i++)
		if (q->ext[i].owner == owner)
			disown(q, &q->ext[i]);
}

int pool_write(struct pool *q, uint32_t f, const void *page)
{
	ASSERT(pool_in_use(q, f));
	if (pwrite(q->rw, page, PAGE_SIZE, (off_t)f << PAGE_SHIFT) !=
	    (ssize_t)PAGE_SIZE)
		return -ENOMEM;
	return 0;
}

const void *pool_read(const struct pool *q, uint32_t f)
{
	return q->map + ((size_t)f << PAGE_SHIFT);
}

/* Audit. */

static int audit_extents(const struct pool *q)
{
	uint32_t used = 0, empty = 0, listed = 0;
	int bad = 0;

	for (uint32_t i = 0; i < q->touched; i++) {
		const struct extent *e = &q->ext[i];
		uint32_t n = 0;

		for (unsigned w = 0; w < WORDS; w++)
			n += __builtin_popcountll(e->used[w]);
		used += n;
		empty += !n;
		if (n != e->count || (!n && e->owner))
			bad = -EUCLEAN;
	}
	for (uint32_t i = q->empty; i && listed <= empty;
	     i = q->ext[i - 1].next)
		listed++;
	if (bad || used != q->used || listed != empty) {
		log_error("audit: pool has %u frames in use (recounted %u), "
			  "%u empty extents (listed %u)",
			  q->used, used, empty, listed);
		return -EUCLEAN;
	}
	return 0;
}

int pool_audit(struct pool *q)
{
	uint64_t data = 0, stray = 0;
	off_t a, b = 0;
	struct stat st;

	while ((a = lseek(q->rw, b, SEEK_DATA)) >= 0) {
		b = lseek(q->rw, a, SEEK_HOLE);
		for (off_t f = a >> PAGE_SHIFT; f < b >> PAGE_SHIFT; f++) {
			data++;
			stray += !pool_in_use(q, f);
		}
	}
	if (stray || data != q->used || fstat(q->rw, &st) ||
	    (uint64_t)st.st_blocks * 512 != data << PAGE_SHIFT) {
		log_error("audit: pool file has %lu pages, %lu of them free; "
			  "%u frames are in use",
			  (unsigned long)data, (unsigned long)stray, q->used);
		return -EUCLEAN;
	}
	return audit_extents(q);
}
