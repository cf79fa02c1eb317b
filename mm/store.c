/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where compressed pages live.
 *
 * The problem: objects of some 30 to 3072 bytes come and go in any order; their
 * memory must be little more than their sum, and must go back to the host when
 * they go. Whoever is killed, no guest may read a wrong byte.
 *
 * The answer: a sparse file of memory per VM, used by that VM's monitor alone.
 * Nobody else need be alive to read a page back, and a monitor that dies takes
 * with it what only it could use. The file is cut into slabs of 16 KiB; a slab
 * holds objects of one size class, as many as fit (5 to 128). A class keeps
 * lists of its slabs that have room, by how full they are, and fills the fullest
 * first. An empty slab is punched out of the file at once and joins the list of
 * free ones.
 *
 * Objects die in any order, and would leave slabs half empty. When a quarter of
 * a class's places are free, the objects of one of its emptiest slabs move into
 * the others (some three copies for three places), so memory stays within 4/3
 * of what is in it.
 *
 * Access is by pread and pwrite, not through a mapping: no page tables for it,
 * and when the host has no memory that is an error, not a SIGBUS.
 *
 * Data: a record a slab (bitmap, class, links) in a sparse mapping; a head of
 * 12 bytes before each object (its page, its length, a sum of the page). The
 * books are the monitor's memory, so they cannot be out of step with the file:
 * both go when the process does.
 *
 * Invariants: a slab is on one of its class's lists if it has both objects and
 * room; on
 * the free list if it has neither owner nor objects and was used before; its
 * file blocks exist only while it has objects.
 *
 * Limits: 2^20 slabs (16 GiB) a VM.
 *
 * Locking: none, one thread.
 */
#include "mm/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"

#define SLAB_SHIFT 14
#define SLAB_SIZE  (1u << SLAB_SHIFT)
#define SLOT_BITS  7
#define SLABS_MAX  (1u << 20)
#define FILLS	   8u /* lists of slabs with room a class, by how full */

struct head {
	uint32_t ppn, sum;
	uint16_t len, when;
};

/* Objects a slab, by class; the size follows. */
static const uint8_t per_slab[] = {128, 64, 42, 32, 24, 20, 16, 14,
				   12,	10, 9,	8,  7,	6,  5};
#define CLASSES ARRAY_SIZE(per_slab)

struct slab {
	uint64_t used[2];
	uint32_t prev, next; /* number + 1 */
	uint8_t class, count;
};

struct store {
	int fd;
	uint32_t slabs, touched; /* [touched, slabs) were never used */
	struct slab *slab;
	size_t slab_bytes;
	uint32_t partial[CLASSES][FILLS], free; /* lists, number + 1 */
	uint32_t objects[CLASSES], slabs_of[CLASSES];
	void (*moved)(void *ctx, uint32_t ppn, uint32_t from, uint32_t to);
	void *moved_ctx;
	uint64_t in_use, payload, count;
};

static unsigned class_size(unsigned c)
{
	return SLAB_SIZE / per_slab[c] & ~15u;
}

static int class_of(unsigned bytes)
{
	for (unsigned c = 0; c < CLASSES; c++)
		if (bytes <= class_size(c))
			return c;
	return -1;
}

int store_create(int fd, uint64_t bytes, struct store **out)
{
	struct store *s;
	struct stat st;

	if (!bytes || fstat(fd, &st) || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->slabs = bytes >> SLAB_SHIFT < SLABS_MAX ? bytes >> SLAB_SHIFT
						   : SLABS_MAX;
	s->slab_bytes = s->slabs * sizeof(*s->slab);
	s->slab = mmap(NULL, s->slab_bytes + 1, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (s->slab == MAP_FAILED || s->fd < 0) {
		if (s->slab == MAP_FAILED)
			s->slab = NULL;
		store_destroy(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void store_destroy(struct store *s)
{
	if (!s)
		return;
	if (s->slab)
		munmap(s->slab, s->slab_bytes + 1);
	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

uint64_t store_bytes(const struct store *s)
{
	return s->in_use << SLAB_SHIFT;
}
uint64_t store_payload(const struct store *s)
{
	return s->payload;
}
uint64_t store_count(const struct store *s)
{
	return s->count;
}

/* Lists. */

static void push(struct store *s, uint32_t *list, struct slab *b)
{
	uint32_t id = b - s->slab + 1;

	b->prev = 0;
	b->next = *list;
	if (*list)
		s->slab[*list - 1].prev = id;
	*list = id;
}

static void take_out(struct store *s, uint32_t *list, struct slab *b)
{
	if (b->prev)
		s->slab[b->prev - 1].next = b->next;
	else
		*list = b->next;
	if (b->next)
		s->slab[b->next - 1].prev = b->prev;
}

/* The list that a slab with room and objects belongs on. */
static uint32_t *list_of(struct store *s, const struct slab *b)
{
	return &s->partial[b->class][b->count * FILLS / per_slab[b->class]];
}

/* A slab's count changes. It is on no list while it has no room, or none. */
static void set_count(struct store *s, struct slab *b, unsigned count)
{
	unsigned full = per_slab[b->class];
	uint32_t *from = b->count && b->count < full ? list_of(s, b) : NULL;
	uint32_t *to;

	b->count = (uint8_t)count;
	to = count && count < full ? list_of(s, b) : NULL;
	if (from == to)
		return;
	if (from)
		take_out(s, from, b);
	if (to)
		push(s, to, b);
}

static struct slab *fullest(struct store *s, unsigned class)
{
	for (unsigned f = FILLS; f--;)
		if (s->partial[class][f])
			return &s->slab[s->partial[class][f] - 1];
	return NULL;
}

static struct slab *emptiest(struct store *s, unsigned class)
{
	for (unsigned f = 0; f < FILLS; f++)
		if (s->partial[class][f])
			return &s->slab[s->partial[class][f] - 1];
	return NULL;
}

static struct slab *new_slab(struct store *s, unsigned class)
{
	struct slab *b;

	if (s->free) {
		b = &s->slab[s->free - 1];
		take_out(s, &s->free, b);
	} else if (s->touched < s->slabs) {
		b = &s->slab[s->touched++];
	} else {
		return NULL;
	}
	memset(b, 0, sizeof(*b));
	b->class = class;
	s->in_use++;
	s->slabs_of[class]++;
	return b;
}

static void give_back(struct store *s, struct slab *b)
{
	off_t at = (off_t)(b - s->slab) << SLAB_SHIFT;

	push(s, &s->free, b);
	s->in_use--;
	s->slabs_of[b->class]--;
	if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
		      SLAB_SIZE))
		log_error("compressed memory cannot be given back: %s",
			  strerror(errno));
}

/* Slots. */

static bool slot_used(const struct slab *b, unsigned i)
{
	return b->used[i / 64] >> i % 64 & 1;
}

static unsigned first_free(const struct slab *b)
{
	if (~b->used[0])
		return __builtin_ctzll(~b->used[0]);
	return 64 + __builtin_ctzll(~b->used[1]);
}

static off_t slot_at(const struct store *s, uint32_t handle)
{
	uint32_t n = handle >> SLOT_BITS, i = handle & ((1 << SLOT_BITS) - 1);

	return ((off_t)n << SLAB_SHIFT) + i * class_size(s->slab[n].class);
}

static void drop_slot(struct store *s, struct slab *b, unsigned i)
{
	b->used[i / 64] &= ~(1ull << i % 64);
	s->objects[b->class]--;
	set_count(s, b, b->count - 1u);
	if (!b->count)
		give_back(s, b);
}

static unsigned take_slot(struct store *s, struct slab *b)
{
	unsigned i = first_free(b);

	b->used[i / 64] |= 1ull << i % 64;
	s->objects[b->class]++;
	set_count(s, b, b->count + 1u);
	return i;
}

static uint32_t handle_of(const struct store *s, const struct slab *b,
			  unsigned i)
{
	return (uint32_t)(b - s->slab) << SLOT_BITS | i;
}

/* 0, or -ENOMEM: it stays where it is. */
static int move(struct store *s, struct slab *from, unsigned i, struct slab *to)
{
	uint8_t buf[sizeof(struct head) + STORE_MAX_LEN];
	unsigned size = class_size(from->class), k;
	uint32_t was = handle_of(s, from, i), is;
	struct head h;
	ssize_t n;

	if (size > sizeof(buf))
		size = sizeof(buf);
	/* The last object of the file may have been written short. */
	n = pread(s->fd, buf, size, slot_at(s, was));
	if (n < (ssize_t)sizeof(h))
		return -EIO;
	memcpy(&h, buf, sizeof(h));
	k = take_slot(s, to);
	is = handle_of(s, to, k);
	if (pwrite(s->fd, buf, (size_t)n, slot_at(s, is)) != n) {
		drop_slot(s, to, k);
		return -ENOMEM;
	}
	(void)fail_point("kill-monitor-compact");
	s->moved(s->moved_ctx, h.ppn, was, is);
	drop_slot(s, from, i);
	return 0;
}

/* A quarter of the class's places are free: empty one slab. */
static void move_together(struct store *s, unsigned class)
{
	uint32_t places = s->slabs_of[class] * per_slab[class];
	struct slab *from, *to;

	if (!s->moved || places - s->objects[class] <= per_slab[class] ||
	    places - s->objects[class] < places / 4)
		return;
	from = emptiest(s, class);
	for (unsigned i = 0, left = from->count; left; i++) {
		if (!slot_used(from, i))
			continue;
		to = fullest(s, class);
		if (!to || to == from || move(s, from, i, to))
			return;
		left--;
	}
}

void store_set_moved(struct store *s,
		     void (*fn)(void *ctx, uint32_t ppn, uint32_t from,
				uint32_t to),
		     void *ctx)
{
	s->moved = fn;
	s->moved_ctx = ctx;
}

int store_put(struct store *s, const void *bytes, unsigned len,
	      const struct store_tag *tag, uint32_t *handle)
{
	uint8_t buf[sizeof(struct head) + STORE_MAX_LEN];
	struct head h = {tag->ppn, tag->sum, len, tag->when};
	unsigned i, all = sizeof(h) + len;
	struct slab *b;
	int class;

	if (len > STORE_MAX_LEN)
		return -E2BIG;
	class = class_of(all);
	b = fullest(s, class);
	if (!b)
		b = new_slab(s, class);
	if (!b)
		return -ENOSPC;
	i = take_slot(s, b);
	*handle = handle_of(s, b, i);
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), bytes, len);
	if (pwrite(s->fd, buf, all, slot_at(s, *handle)) != (ssize_t)all) {
		drop_slot(s, b, i);
		return -ENOMEM;
	}
	s->payload += len;
	s->count++;
	return 0;
}

static bool live(const struct store *s, uint32_t handle)
{
	uint32_t n = handle >> SLOT_BITS, i = handle & ((1 << SLOT_BITS) - 1);

	return n < s->touched && s->slab[n].count &&
	       i < per_slab[s->slab[n].class] && slot_used(&s->slab[n], i);
}

static int get_head(const struct store *s, uint32_t handle, struct head *h)
{
	if (pread(s->fd, h, sizeof(*h), slot_at(s, handle)) !=
		    (ssize_t)sizeof(*h) ||
	    h->len > STORE_MAX_LEN)
		return -EIO;
	return 0;
}

int store_get(struct store *s, uint32_t handle, void *buf,
	      struct store_tag *tag)
{
	uint8_t all[sizeof(struct head) + STORE_MAX_LEN];
	unsigned size = class_size(s->slab[handle >> SLOT_BITS].class);
	struct head h;
	ssize_t n;

	ASSERT(live(s, handle));
	/* The last object of a class may have been written short. */
	n = pread(s->fd, all, size < sizeof(all) ? size : sizeof(all),
		  slot_at(s, handle));
	if (n < (ssize_t)sizeof(h))
		return -EIO;
	memcpy(&h, all, sizeof(h));
	if (h.len > STORE_MAX_LEN || n < (ssize_t)(sizeof(h) + h.len))
		return -EIO;
	memcpy(buf, all + sizeof(h), h.len);
	*tag = (struct store_tag){h.ppn, h.sum, h.when};
	return h.len;
}

void store_free(struct store *s, uint32_t handle)
{
	struct slab *b = &s->slab[handle >> SLOT_BITS];
	unsigned class = b->class;
	struct head h = {0};

	ASSERT(live(s, handle));
	(void)get_head(s, handle, &h);
	s->payload -= h.len;
	s->count--;
	drop_slot(s, b, handle & ((1 << SLOT_BITS) - 1));
	move_together(s, class);
}

/* Audit. */

bool store_holds(struct store *s, uint32_t handle, uint32_t ppn)
{
	struct head h;

	return live(s, handle) && !get_head(s, handle, &h) && h.ppn == ppn;
}

struct recount {
	struct store *s;
	uint64_t count, payload, in_use;
	int bad;
};

static void differ(struct recount *rc, const char *what, uint64_t is,
		   uint64_t should)
{
	if (is == should)
		return;
	log_error("audit: store: %s is %lu, recounted %lu", what,
		  (unsigned long)is, (unsigned long)should);
	rc->bad++;
}

static void count_slab(struct recount *rc, uint32_t n)
{
	const struct slab *b = &rc->s->slab[n];
	unsigned used = 0;

	for (unsigned i = 0; i < 128; i++) {
		struct head h;

		if (!slot_used(b, i))
			continue;
		used++;
		if (i >= per_slab[b->class] ||
		    get_head(rc->s, n << SLOT_BITS | i, &h))
			differ(rc, "a slot that is none", i, 0);
		else
			rc->payload += h.len;
	}
	differ(rc, "objects of a slab", b->count, used);
	rc->count += used;
	rc->in_use += used != 0;
}

/* Each list's slabs: as many as should be on it, linked both ways. */
static void count_lists(struct recount *rc)
{
	struct store *s = rc->s;
	uint64_t free = 0, partial = 0, room = 0;

	for (uint32_t n = 0; n < s->touched; n++)
		room += s->slab[n].count &&
			s->slab[n].count < per_slab[s->slab[n].class];
	for (uint32_t i = s->free; i && free <= s->touched;
	     i = s->slab[i - 1].next, free++)
		if (s->slab[i - 1].count)
			differ(rc, "objects of a free slab", 1, 0);
	for (unsigned c = 0; c < CLASSES * FILLS; c++)
		for (uint32_t i = s->partial[c / FILLS][c % FILLS];
		     i && partial <= s->touched;
		     i = s->slab[i - 1].next, partial++)
			if (list_of(s, &s->slab[i - 1]) !=
			    &s->partial[c / FILLS][c % FILLS])
				differ(rc, "list of a slab", c, 0);
	differ(rc, "slabs in use and free", rc->in_use + free, s->touched);
	differ(rc, "slabs with room", partial, room);
}

/* No memory behind free slabs. */
static void check_blocks(struct recount *rc)
{
	struct store *s = rc->s;
	off_t a, b = 0;

	while ((a = lseek(s->fd, b, SEEK_DATA)) >= 0) {
		b = lseek(s->fd, a, SEEK_HOLE);
		if (b < 0)
			break;
		for (off_t n = a >> SLAB_SHIFT; n <= (b - 1) >> SLAB_SHIFT; n++)
			if (n >= s->touched || !s->slab[n].count)
				differ(rc, "memory behind a free slab", n, 0);
	}
}

int store_audit(struct store *s)
{
	struct recount rc = {.s = s};

	for (uint32_t n = 0; n < s->touched; n++)
		count_slab(&rc, n);
	differ(&rc, "objects", s->count, rc.count);
	differ(&rc, "bytes of objects", s->payload, rc.payload);
	differ(&rc, "slabs in use", s->in_use, rc.in_use);
	count_lists(&rc);
	check_blocks(&rc);
	return rc.bad ? -EUCLEAN : 0;
}
