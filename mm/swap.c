/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The swap file of one VM.
 *
 * The problem: cold pages that do not compress, or that even the compressed
 * store has no room for, must leave memory; a disk is slow, may be full, and
 * may fail; no byte may be lost or wrong.
 *
 * Writing. The owner copies pages into a batch; a full batch goes to a thread
 * that writes it, in as few calls as its slots have runs (slots are handed out
 * one after the other, so usually one). The page itself stays where it is all
 * the while. When the batch has been written the owner looks at each page again
 * (swap_reap) and lets go of it only if its bytes are still those of the copy.
 * A write that fails frees the slots again: the page never left. After a
 * failure nothing is written for a second.
 *
 * Reading is done by the owner, who has nothing better to do: the guest waits
 * for the page. A sum of each page, kept in memory, is compared, so what a bad
 * disk gives back is an error, not a guest's memory.
 *
 * The file is the VM's alone: opened by the manager, unlinked, its space
 * reserved; a monitor holds a descriptor of its own file and no other. With
 * O_DIRECT where the file system has it: the host's page cache would hold the
 * memory that we want to win.
 *
 * Data: a bitmap, a PPN and a sum a slot (sparse mappings), BATCHES batches of
 * SWAP_BATCH pages. A batch is FILLING (owner), BUSY (thread), DONE (owner).
 *
 * Locking: state and count of batches under the mutex; all else is the owner's.
 *
 * Killed here: the file has no name, so its space is free when the last
 * descriptor is closed; the guest is gone with its monitor.
 */
#include "mm/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"

#define BATCHES	   4u
#define SLOTS_MAX  ((1u << 27) - 1)
#define STACK	   65536u
#define PAUSE_NS   1000000000ull
#define BATCH_SIZE (SWAP_BATCH * PAGE_SIZE)

enum batch_state { FREE, FILLING, BUSY, DONE };
struct batch {
	enum batch_state state;
	unsigned n;
	int err;
	uint32_t ppn[SWAP_BATCH], slot[SWAP_BATCH];
	uint8_t *page; /* BATCH_SIZE bytes */
};

struct swap {
	int fd;
	uint32_t slots, used, next;
	uint64_t *map;
	uint32_t *ppn, *sum;
	uint8_t *pages; /* of all batches */
	struct batch batch[BATCHES];
	uint32_t under_way;
	uint64_t bad_until, told;
	void (*done)(void *ctx);
	void *ctx;
	pthread_t thread;
	bool started, ending; /* under the lock */
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* ---- the writing thread ---- */

static int write_run(struct swap *s, const struct batch *b, unsigned from,
		     unsigned n)
{
	const uint8_t *at = b->page + from * PAGE_SIZE;
	off_t off = (off_t)b->slot[from] << PAGE_SHIFT;
	size_t left = n * PAGE_SIZE;

	(void)fail_point("kill-swap-write");
	if (fail_point("swap-write-eio"))
		return -EIO;
	while (left) {
		ssize_t w = pwrite(s->fd, at, left, off);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w ? -errno : -EIO;
		if (fail_point("swap-write-short"))
			w = PAGE_SIZE;
		at += w, off += w, left -= (size_t)w;
	}
	return 0;
}

static int write_batch(struct swap *s, const struct batch *b)
{
	int r = 0;

	for (unsigned i = 0, n; i < b->n && !r; i += n) {
		n = 1;
		while (i + n < b->n && b->slot[i + n] == b->slot[i] + n)
			n++;
		r = write_run(s, b, i, n);
	}
	return r;
}

static struct batch *in_state(struct swap *s, enum batch_state st)
{
	for (unsigned i = 0; i < BATCHES; i++)
		if (s->batch[i].state == st)
			return &s->batch[i];
	return NULL;
}

static void *writer(void *arg)
{
	struct swap *s = arg;
	struct batch *b;
	int r;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!(b = in_state(s, BUSY)) && !s->ending)
			pthread_cond_wait(&s->cond, &s->lock);
		if (!b)
			break;
		pthread_mutex_unlock(&s->lock);
		r = write_batch(s, b);
		pthread_mutex_lock(&s->lock);
		b->err = r;
		b->state = DONE;
		pthread_mutex_unlock(&s->lock);
		s->done(s->ctx);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int start(struct swap *s)
{
	pthread_attr_t at;
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_attr_init(&at);
	pthread_attr_setstacksize(&at, STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&s->thread, &at, writer, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&at);
	s->started = !r;
	return -r;
}

/* ---- life ---- */

static void *sparse(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

static size_t map_bytes(const struct swap *s)
{
	return (s->slots + 63) / 64 * 8;
}

int swap_create(int fd, void (*done)(void *ctx), void *ctx, struct swap **out)
{
	struct swap *s = calloc(1, sizeof(*s));
	struct stat st;
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->done = done;
	s->ctx = ctx;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (s->fd < 0 || fstat(s->fd, &st))
		r = -errno;
	else if (st.st_size >> PAGE_SHIFT == 0)
		r = -EINVAL;
	if (!r) {
		s->slots = st.st_size >> PAGE_SHIFT < SLOTS_MAX
				   ? st.st_size >> PAGE_SHIFT
				   : SLOTS_MAX;
		s->map = sparse(map_bytes(s));
		s->ppn = sparse(s->slots * sizeof(*s->ppn));
		s->sum = sparse(s->slots * sizeof(*s->sum));
		s->pages = sparse(BATCHES * BATCH_SIZE);
		if (!s->map || !s->ppn || !s->sum || !s->pages)
			r = -ENOMEM;
	}
	for (unsigned i = 0; i < BATCHES && !r; i++)
		s->batch[i].page = s->pages + i * BATCH_SIZE;
	if (!r)
		r = start(s);
	if (r) {
		swap_destroy(s);
		return r;
	}
	*out = s;
	return 0;
}

void swap_destroy(struct swap *s)
{
	if (!s)
		return;
	if (s->started) {
		pthread_mutex_lock(&s->lock);
		s->ending = true;
		pthread_cond_signal(&s->cond);
		pthread_mutex_unlock(&s->lock);
		pthread_join(s->thread, NULL);
	}
	if (s->map)
		munmap(s->map, map_bytes(s));
	if (s->ppn)
		munmap(s->ppn, s->slots * sizeof(*s->ppn));
	if (s->sum)
		munmap(s->sum, s->slots * sizeof(*s->sum));
	if (s->pages)
		munmap(s->pages, BATCHES * BATCH_SIZE);
	if (s->fd >= 0)
		close(s->fd);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* ---- slots ---- */

static bool slot_used(const struct swap *s, uint32_t slot)
{
	return s->map[slot / 64] >> slot % 64 & 1;
}

/* The next free one, going round. */
static uint32_t take_slot(struct swap *s)
{
	uint32_t words = (s->slots + 63) / 64, w = s->next / 64;
	uint64_t bits;

	if (s->used == s->slots)
		return SWAP_NONE;
	bits = ~s->map[w] & ~0ull << s->next % 64;
	for (uint32_t i = 0; i <= words; i++) {
		uint32_t slot = w * 64 + (bits ? __builtin_ctzll(bits) : 0);

		if (bits && slot < s->slots) {
			s->map[w] |= 1ull << slot % 64;
			s->used++;
			s->next = slot + 1 < s->slots ? slot + 1 : 0;
			return slot;
		}
		w = w + 1 < words ? w + 1 : 0;
		bits = ~s->map[w];
	}
	return SWAP_NONE;
}

void swap_free(struct swap *s, uint32_t slot)
{
	ASSERT(slot < s->slots && slot_used(s, slot));
	s->map[slot / 64] &= ~(1ull << slot % 64);
	s->used--;
}

uint32_t swap_ppn(const struct swap *s, uint32_t slot)
{
	if (slot >= s->slots || !slot_used(s, slot))
		return SWAP_NONE;
	return s->ppn[slot];
}

uint64_t swap_used(const struct swap *s)
{
	return s->used;
}
uint64_t swap_slots(const struct swap *s)
{
	return s->slots;
}
uint32_t swap_under_way(const struct swap *s)
{
	return s->under_way;
}

/* ---- writing ---- */

static uint32_t sum_of(const void *page)
{
	return (uint32_t)XXH3_64bits(page, PAGE_SIZE);
}

/* Once a second at most. */
static void tell(struct swap *s, const char *what)
{
	uint64_t now = now_ns();

	if (s->told && now - s->told < PAUSE_NS)
		return;
	s->told = now;
	log_error("swap: %s; its pages stay in memory", what);
}

static struct batch *batch_to_fill(struct swap *s)
{
	struct batch *b;

	pthread_mutex_lock(&s->lock);
	b = in_state(s, FILLING);
	if (!b && (b = in_state(s, FREE))) {
		b->state = FILLING;
		b->n = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return b;
}

int swap_write(struct swap *s, uint32_t ppn, const void *page)
{
	struct batch *b;
	uint32_t slot;

	if (s->bad_until && now_ns() < s->bad_until)
		return -EIO;
	b = batch_to_fill(s);
	if (!b)
		return -EAGAIN;
	slot = fail_point("swap-full") ? SWAP_NONE : take_slot(s);
	if (slot == SWAP_NONE) {
		tell(s, "the swap file is full");
		return -ENOSPC;
	}
	s->ppn[slot] = ppn;
	s->sum[slot] = sum_of(page);
	b->ppn[b->n] = ppn;
	b->slot[b->n] = slot;
	memcpy(b->page + b->n * PAGE_SIZE, page, PAGE_SIZE);
	s->under_way++;
	if (++b->n == SWAP_BATCH)
		swap_flush(s);
	return 0;
}

void swap_flush(struct swap *s)
{
	struct batch *b;

	pthread_mutex_lock(&s->lock);
	b = in_state(s, FILLING);
	if (b && b->n) {
		b->state = BUSY;
		pthread_cond_signal(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
}

static void
reap_batch(struct swap *s, struct batch *b,
	   bool (*fn)(void *, uint32_t, uint32_t, const void *, int), void *ctx)
{
	if (b->err) {
		s->bad_until = now_ns() + PAUSE_NS;
		tell(s, strerror(-b->err));
	}
	for (unsigned i = 0; i < b->n; i++) {
		s->under_way--;
		if (!fn(ctx, b->ppn[i], b->slot[i], b->page + i * PAGE_SIZE,
			b->err))
			swap_free(s, b->slot[i]);
	}
}

void swap_reap(struct swap *s,
	       bool (*fn)(void *ctx, uint32_t ppn, uint32_t slot,
			  const void *page, int err),
	       void *ctx)
{
	for (;;) {
		struct batch *b;

		pthread_mutex_lock(&s->lock);
		b = in_state(s, DONE);
		pthread_mutex_unlock(&s->lock);
		if (!b)
			break;
		reap_batch(s, b, fn, ctx);
		pthread_mutex_lock(&s->lock);
		b->state = FREE;
		pthread_mutex_unlock(&s->lock);
	}
	/* Copies of pages are memory, too. */
	if (!s->under_way)
		(void)madvise(s->pages, BATCHES * BATCH_SIZE, MADV_DONTNEED);
}

/* ---- reading ---- */

int swap_read(struct swap *s, uint32_t slot, unsigned n, void *buf)
{
	size_t want = n * PAGE_SIZE, got = 0;

	if (fail_point("swap-read-eio"))
		return -EIO;
	while (got < want) {
		ssize_t r = pread(s->fd, (uint8_t *)buf + got, want - got,
				  ((off_t)slot << PAGE_SHIFT) + got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		if (fail_point("swap-read-short"))
			r = r > 512 ? 512 : r;
		/* What remains must begin at a sector for O_DIRECT. */
		got += (size_t)r & ~(size_t)511;
		if (r < 512)
			return -EIO;
	}
	for (unsigned i = 0; i < n; i++)
		if (sum_of((uint8_t *)buf + i * PAGE_SIZE) != s->sum[slot + i])
			return -EBADMSG;
	return 0;
}

/* ---- audit ---- */

int swap_audit(struct swap *s, uint64_t kept)
{
	uint64_t used = 0, out = 0;

	for (uint32_t w = 0; w < (s->slots + 63) / 64; w++)
		used += __builtin_popcountll(s->map[w]);
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < BATCHES; i++)
		if (s->batch[i].state != FREE)
			out += s->batch[i].n;
	pthread_mutex_unlock(&s->lock);
	if (used == s->used && out == s->under_way && used == kept + out)
		return 0;
	log_error("audit: swap has %lu slots in use (recounted %lu), %lu under "
		  "way (recounted %lu), %lu pages name one",
		  (unsigned long)s->used, (unsigned long)used,
		  (unsigned long)s->under_way, (unsigned long)out,
		  (unsigned long)kept);
	return -EUCLEAN;
}
