/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chained hash table over an array of 24-byte nodes, both in an arena of
 * their own. The table doubles when there are as many nodes as buckets (and
 * halves when there are eight times fewer); nodes keep their numbers.
 */
#include "mm/sharing/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/arena.h"
#include "mm/base/log.h"

#define MIN_BUCKETS 1024u

struct share_index {
	struct arena *arena;
	struct index_node *node; /* [0] unused */
	uint32_t *bucket;
	uint32_t buckets; /* a power of two */
	uint32_t cap, end, count, free;
};

static uint32_t *bucket_of(const struct share_index *x, uint64_t hash)
{
	return &x->bucket[(hash ^ hash >> 32) & (x->buckets - 1)];
}

struct share_index *index_create(void)
{
	struct share_index *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->arena = arena_create();
	x->buckets = MIN_BUCKETS;
	x->cap = MIN_BUCKETS;
	x->end = 1;
	if (x->arena) {
		x->bucket = arena_alloc(x->arena, x->buckets * 4ul);
		x->node = arena_alloc(x->arena, x->cap * sizeof(*x->node));
	}
	if (!x->bucket || !x->node) {
		index_destroy(x);
		return NULL;
	}
	memset(x->bucket, 0, x->buckets * 4ul);
	return x;
}

void index_destroy(struct share_index *x)
{
	if (!x)
		return;
	if (x->arena) {
		arena_free(x->arena, x->bucket, x->buckets * 4ul);
		arena_free(x->arena, x->node, x->cap * sizeof(*x->node));
		arena_destroy(x->arena);
	}
	free(x);
}

/* Another number of buckets; on failure the old ones stay and are slower. */
static void rehash(struct share_index *x, uint32_t buckets)
{
	uint32_t *b = arena_alloc(x->arena, buckets * 4ul);

	if (!b)
		return;
	memset(b, 0, buckets * 4ul);
	arena_free(x->arena, x->bucket, x->buckets * 4ul);
	x->bucket = b;
	x->buckets = buckets;
	for (uint32_t i = 1; i < x->end; i++) {
		uint32_t *head = bucket_of(x, x->node[i].hash);

		if (!x->node[i].used)
			continue;
		x->node[i].next = *head;
		*head = i;
	}
}

static uint32_t take_node(struct share_index *x)
{
	struct index_node *n;
	uint32_t id = x->free;

	if (id) {
		x->free = x->node[id].next;
		return id;
	}
	if (x->end == x->cap) {
		size_t old = x->cap * sizeof(*n), more = old + old / 2;

		more -= more % sizeof(*n);
		if (x->cap >= INDEX_MAX_NODES / 2)
			return 0;
		n = arena_realloc(x->arena, x->node, old, more);
		if (!n)
			return 0;
		x->node = n;
		x->cap = more / sizeof(*n);
	}
	return x->end++;
}

uint32_t index_insert(struct share_index *x, uint64_t hash, uint32_t vm,
		      uint32_t page)
{
	uint32_t id, *head;

	if (x->count >= x->buckets)
		rehash(x, x->buckets * 2);
	id = take_node(x);
	if (!id)
		return 0;
	head = bucket_of(x, hash);
	x->node[id] = (struct index_node){hash, *head, vm, page, 1};
	*head = id;
	x->count++;
	return id;
}

void index_remove(struct share_index *x, uint32_t id)
{
	struct index_node *n = &x->node[id];
	uint32_t *link = bucket_of(x, n->hash);

	ASSERT(id && id < x->end && n->used);
	while (*link != id)
		link = &x->node[*link].next;
	*link = n->next;
	*n = (struct index_node){.next = x->free, .page = ~0u};
	x->free = id;
	x->count--;
	if (x->buckets > MIN_BUCKETS && x->count < x->buckets / 8)
		rehash(x, x->buckets / 2);
}

static uint32_t chain(const struct share_index *x, uint32_t id, uint64_t hash)
{
	while (id && x->node[id].hash != hash)
		id = x->node[id].next;
	return id;
}

uint32_t index_find(const struct share_index *x, uint64_t hash)
{
	return chain(x, *bucket_of(x, hash), hash);
}

uint32_t index_find_next(const struct share_index *x, uint32_t id)
{
	return chain(x, x->node[id].next, x->node[id].hash);
}

struct index_node *index_node(struct share_index *x, uint32_t id)
{
	return &x->node[id];
}

uint32_t index_count(const struct share_index *x)
{
	return x->count;
}

uint32_t index_end(const struct share_index *x)
{
	return x->end;
}

uint64_t index_bytes(const struct share_index *x)
{
	return arena_asked(x->arena);
}

int index_audit(const struct share_index *x)
{
	uint32_t seen = 0, used = 0;

	for (uint32_t i = 1; i < x->end; i++)
		used += x->node[i].used;
	for (uint32_t b = 0; b < x->buckets; b++)
		for (uint32_t i = x->bucket[b]; i; i = x->node[i].next) {
			if (!x->node[i].used || seen++ > used ||
			    bucket_of(x, x->node[i].hash) != &x->bucket[b]) {
				log_error("audit: index node %u is on the "
					  "wrong chain",
					  i);
				return -EUCLEAN;
			}
		}
	if (seen == used && used == x->count)
		return 0;
	log_error("audit: index counts %u nodes, has %u, chains %u", x->count,
		  used, seen);
	return -EUCLEAN;
}
