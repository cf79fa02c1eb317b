/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_JEMALLOC 0
#else
#define HAVE_JEMALLOC 1
#include <jemalloc/jemalloc.h>
#endif

struct arena {
	unsigned id;
	uint64_t asked;
};

#if HAVE_JEMALLOC
/* No thread cache: what is freed here goes back to this arena at once. */
#define FLAGS(a) (MALLOCX_ARENA((a)->id) | MALLOCX_TCACHE_NONE)

static int open_arena(struct arena *a)
{
	size_t n = sizeof(a->id);

	return mallctl("arenas.create", &a->id, &n, NULL, 0);
}

static void close_arena(struct arena *a)
{
	char name[48];

	snprintf(name, sizeof(name), "arena.%u.destroy", a->id);
	(void)mallctl(name, NULL, NULL, NULL, 0);
}

static void *get(struct arena *a, void *m, size_t n)
{
	return m ? rallocx(m, n, FLAGS(a)) : mallocx(n, FLAGS(a));
}

static void put(struct arena *a, void *m)
{
	dallocx(m, FLAGS(a));
}

uint64_t arena_resident(const struct arena *a)
{
	size_t bytes = 0, n = sizeof(bytes);
	uint64_t epoch = 1;
	char name[48];

	(void)mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch));
	snprintf(name, sizeof(name), "stats.arenas.%u.resident", a->id);
	if (mallctl(name, &bytes, &n, NULL, 0))
		return a->asked;
	return bytes;
}
#else
static int open_arena(struct arena *a)
{
	return 0;
}

static void close_arena(struct arena *a)
{
}

static void *get(struct arena *a, void *m, size_t n)
{
	return realloc(m, n);
}

static void put(struct arena *a, void *m)
{
	free(m);
}

uint64_t arena_resident(const struct arena *a)
{
	return a->asked;
}
#endif

struct arena *arena_create(void)
{
	struct arena *a = calloc(1, sizeof(*a));

	if (a && open_arena(a)) {
		free(a);
		return NULL;
	}
	return a;
}

void arena_destroy(struct arena *a)
{
	if (!a)
		return;
	close_arena(a);
	free(a);
}

void *arena_alloc(struct arena *a, size_t n)
{
	return arena_realloc(a, NULL, 0, n);
}

void *arena_realloc(struct arena *a, void *m, size_t old, size_t n)
{
	void *r = get(a, m, n);

	if (r)
		a->asked += n - old;
	return r;
}

void arena_free(struct arena *a, void *m, size_t n)
{
	if (!m)
		return;
	put(a, m);
	a->asked -= n;
}

uint64_t arena_asked(const struct arena *a)
{
	return a->asked;
}
