/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus: a sorted array of ranges, found by binary search, with the range
 * found last tried first (a driver talks to one device for a while). Ranges
 * are added while the machine is built and never change afterwards, so the
 * search needs no lock; the device's functions run under the device lock.
 */
#include "vmm/dev/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "vmm/dev/bus_stats.h"

struct range {
	uint64_t start, len;
	const struct bus_ops *ops;
	void *dev;
	const char *name;
};

struct bus {
	const char *name;
	pthread_mutex_t *lock;
	struct range *r;
	size_t n, cap;
	size_t last;
	struct bus_stats st;
};

static const struct stat_desc bus_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(bus_stats, name, help),
	BUS_STATS(D)
#undef D
};

struct bus *bus_create(const char *name, pthread_mutex_t *lock)
{
	struct bus *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->name = name;
	b->lock = lock;
	return b;
}

void bus_destroy(struct bus *b)
{
	if (!b)
		return;
	free(b->r);
	free(b);
}

/* Index of the first range that ends after addr. */
static size_t bus_search(const struct bus *b, uint64_t addr)
{
	size_t lo = 0, hi = b->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (b->r[mid].start + (b->r[mid].len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *b, const char *name, uint64_t start, uint64_t len,
	    const struct bus_ops *ops, void *dev)
{
	size_t i;

	if (!len || start + (len - 1) < start)
		return -EINVAL;
	i = bus_search(b, start);
	if (i < b->n && b->r[i].start <= start + (len - 1)) {
		log_error("%s bus: %s overlaps %s", b->name, name,
			  b->r[i].name);
		return -EEXIST;
	}
	if (b->n == b->cap) {
		size_t cap = b->cap ? 2 * b->cap : 16;
		struct range *r = realloc(b->r, cap * sizeof(*r));

		if (!r)
			return -ENOMEM;
		b->r = r;
		b->cap = cap;
	}
	memmove(&b->r[i + 1], &b->r[i], (b->n - i) * sizeof(*b->r));
	b->r[i] = (struct range){start, len, ops, dev, name};
	b->n++;
	return 0;
}

static struct range *bus_find(struct bus *b, uint64_t addr)
{
	/* last is a hint that two threads may race on: any value will do. */
	size_t i = __atomic_load_n(&b->last, __ATOMIC_RELAXED);

	if (i < b->n && addr - b->r[i].start < b->r[i].len)
		return &b->r[i];
	i = bus_search(b, addr);
	if (i >= b->n || addr < b->r[i].start)
		return NULL;
	__atomic_store_n(&b->last, i, __ATOMIC_RELAXED);
	return &b->r[i];
}

static bool bus_fits(const struct range *r, uint64_t addr, unsigned len)
{
	return r->len - (addr - r->start) >= len;
}

static uint64_t all_ones(unsigned len)
{
	return len >= 8 ? ~0ull : (1ull << (8 * len)) - 1;
}

/* One device or nobody; the lock is held. */
static uint64_t bus_read_one(struct bus *b, struct range *r, uint64_t addr,
			     unsigned len)
{
	b->st.reads++;
	if (!r || !r->ops->read) {
		b->st.reads_nobody++;
		return all_ones(len);
	}
	return r->ops->read(r->dev, addr - r->start, len) & all_ones(len);
}

static void bus_write_one(struct bus *b, struct range *r, uint64_t addr,
			  unsigned len, uint64_t val)
{
	b->st.writes++;
	if (!r || !r->ops->write)
		b->st.writes_nobody++;
	else
		r->ops->write(r->dev, addr - r->start, len,
			      val & all_ones(len));
}

/* Does the access touch one range only, or none at all? */
static bool bus_is_whole(struct bus *b, struct range *r, uint64_t addr,
			 unsigned len)
{
	size_t i;

	if (r)
		return bus_fits(r, addr, len);
	i = bus_search(b, addr);
	return i >= b->n || b->r[i].start - addr >= len;
}

uint64_t bus_read(struct bus *b, uint64_t addr, unsigned len)
{
	struct range *r = bus_find(b, addr);
	uint64_t val = 0;
	unsigned i;

	pthread_mutex_lock(b->lock);
	if (likely(bus_is_whole(b, r, addr, len))) {
		val = bus_read_one(b, r, addr, len);
	} else {
		b->st.splits++;
		for (i = 0; i < len; i++)
			val |= bus_read_one(b, bus_find(b, addr + i), addr + i,
					    1)
			       << (8 * i);
	}
	pthread_mutex_unlock(b->lock);
	return val;
}

void bus_write(struct bus *b, uint64_t addr, unsigned len, uint64_t val)
{
	struct range *r = bus_find(b, addr);
	unsigned i;

	pthread_mutex_lock(b->lock);
	if (likely(bus_is_whole(b, r, addr, len))) {
		bus_write_one(b, r, addr, len, val);
	} else {
		b->st.splits++;
		for (i = 0; i < len; i++)
			bus_write_one(b, bus_find(b, addr + i), addr + i, 1,
				      val >> (8 * i) & 0xff);
	}
	pthread_mutex_unlock(b->lock);
}

void bus_stat_group(struct bus *b, struct stat_group *g)
{
	*g = (struct stat_group){b->name, bus_stat_desc,
				 ARRAY_SIZE(bus_stat_desc), &b->st, NULL};
}
