/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle: what perfect sharing would save, found the slow way.
 *
 * Every guest page with content of every VM of a group is listed with a 128-bit
 * hash (pages on a pool frame once as that frame), the list is sorted, and pages
 * of one hash are compared byte by byte: a page equal to an earlier one of its
 * hash is a duplicate. Nothing of the scanner's index is used. All-zero pages
 * count as wanted when they have a block, or had one until we merged them.
 *
 * Guests run meanwhile; a page that changes between hash and comparison counts
 * as distinct. 32 bytes a page while it runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/sharing/share_priv.h"
#include "mm/zero.h"

struct item {
	XXH128_hash_t hash;
	uint32_t vm; /* or INDEX_FRAME */
	uint32_t page;
};

struct list {
	struct share_group *g;
	struct item *item;
	size_t n, cap;
	uint8_t *a, *b; /* CHUNK pages; one page */
	struct share_oracle o;
};

static int add(struct list *l, const void *page, uint32_t vm, uint32_t no)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 4096;
		struct item *m = realloc(l->item, cap * sizeof(*m));

		if (!m)
			return -ENOMEM;
		l->item = m;
		l->cap = cap;
	}
	l->item[l->n++] = (struct item){XXH3_128bits(page, PAGE_SIZE), vm, no};
	return 0;
}

/* Pages [n, n + k) of a VM, all with blocks. */
static int add_chunk(struct list *l, struct share_vm *v, uint64_t n, unsigned k)
{
	int r = 0;

	if (pread(v->memfd, l->a, k * PAGE_SIZE, n << PAGE_SHIFT) !=
	    (ssize_t)(k * PAGE_SIZE))
		return -EIO;
	for (unsigned i = 0; i < k && !r; i++) {
		const uint8_t *page = l->a + i * PAGE_SIZE;

		/* Committed, and its block not yet punched. */
		if (rec_kind(v->rec[n + i]) == REC_SHARED ||
		    !share_vm_is_ram(v, n + i))
			continue;
		l->o.wanted_pages++;
		if (zero_page(page))
			l->o.zero_pages++;
		else
			r = add(l, page, v->id, n + i);
	}
	return r;
}

static int add_vm(struct list *l, struct share_vm *v)
{
	off_t a, b = 0, end = v->max_ppn << PAGE_SHIFT;
	int r = 0;

	while (!r && (a = lseek(v->memfd, b, SEEK_DATA)) >= 0) {
		b = lseek(v->memfd, a, SEEK_HOLE);
		b = b < 0 || b > end ? end : b;
		for (uint64_t n = a >> PAGE_SHIFT, k;
		     n < (uint64_t)b >> PAGE_SHIFT && !r; n += k) {
			k = ((uint64_t)b >> PAGE_SHIFT) - n;
			k = k < CHUNK ? k : CHUNK;
			r = add_chunk(l, v, n, k);
		}
	}
	l->o.wanted_pages += v->shared + share_zero_merged(v);
	l->o.zero_pages += share_zero_merged(v);
	return r;
}

static int add_frames(struct list *l)
{
	uint32_t end = pool_end(l->g->pool);
	int r = 0;

	for (uint32_t f = 0; f < end && !r; f++)
		if (pool_in_use(l->g->pool, f))
			r = add(l, pool_read(l->g->pool, f), INDEX_FRAME, f);
	return r;
}

static int by_hash(const void *a, const void *b)
{
	return XXH128_cmp(a, b);
}

static const void *bytes_of(struct list *l, const struct item *i, uint8_t *buf)
{
	struct share_vm *v;

	if (i->vm == INDEX_FRAME)
		return pool_read(l->g->pool, i->page);
	v = l->g->h->vm[i->vm];
	if (pread(v->memfd, buf, PAGE_SIZE, (off_t)i->page << PAGE_SHIFT) !=
	    (ssize_t)PAGE_SIZE)
		memset(buf, 0, PAGE_SIZE);
	return buf;
}

/* Distinct contents among items [i, j), all of one hash. */
static uint64_t distinct(struct list *l, size_t i, size_t j)
{
	uint64_t n = 0;

	for (size_t k = i; k < j; k++) {
		const void *p = bytes_of(l, &l->item[k], l->a);
		bool dup = false;

		/* Equal hashes of unequal pages do not happen by accident, so
		 * the first one nearly always settles it. */
		for (size_t m = i; m < k && !dup; m++)
			dup = !memcmp(p, bytes_of(l, &l->item[m], l->b),
				      PAGE_SIZE);
		n += !dup;
	}
	return n;
}

static int group_oracle(struct list *l)
{
	int r = add_frames(l);

	for (uint32_t i = 0; i < l->g->h->vms && !r; i++)
		if (l->g->h->vm[i] && l->g->h->vm[i]->g == l->g)
			r = add_vm(l, l->g->h->vm[i]);
	if (r)
		return r;
	if (l->n)
		qsort(l->item, l->n, sizeof(*l->item), by_hash);
	for (size_t i = 0, j; i < l->n; i = j) {
		for (j = i + 1; j < l->n && XXH128_isEqual(l->item[i].hash,
							   l->item[j].hash);)
			j++;
		l->o.distinct_pages += distinct(l, i, j);
	}
	return 0;
}

int share_oracle(struct share_host *h, struct share_oracle *o)
{
	struct list l = {0};
	int r = 0;

	l.a = aligned_alloc(PAGE_SIZE, CHUNK * PAGE_SIZE);
	l.b = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	if (!l.a || !l.b)
		r = -ENOMEM;
	for (l.g = h->groups; l.g && !r; l.g = l.g->next) {
		l.n = 0;
		r = group_oracle(&l);
	}
	if (l.o.wanted_pages > l.o.distinct_pages)
		l.o.oracle_bytes = (l.o.wanted_pages - l.o.distinct_pages)
				   << PAGE_SHIFT;
	*o = l.o;
	free(l.a);
	free(l.b);
	free(l.item);
	return r;
}
