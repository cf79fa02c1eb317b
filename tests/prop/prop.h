/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_PROP_H
#define SARDINE_TESTS_PROP_H
/*
 * What the property tests share: a seeded generator (printed, PROP_SEED=n
 * repeats a run, PROP_STEPS=n makes it longer) and page contents by number
 * (0: all zero).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mm/types.h"

struct rnd {
	uint64_t s;
};

static inline uint64_t rnd64(struct rnd *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline uint64_t rnd_below(struct rnd *r, uint64_t n)
{
	return rnd64(r) % n;
}

static inline uint64_t prop_env(const char *name, uint64_t dflt)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 0) : dflt;
}

/* A fixed seed unless asked: a test of the suite says the same each time. */
static inline struct rnd rnd_seeded(const char *test, uint64_t dflt)
{
	struct rnd r = {prop_env("PROP_SEED", dflt)};

	printf("# %s: PROP_SEED=%llu\n", test, (unsigned long long)r.s);
	return r;
}

static inline void fill_page(void *page, uint64_t id)
{
	struct rnd r = {id};
	uint64_t *w = page;

	for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
		w[i] = id ? rnd64(&r) : 0;
}

/* The same, but a quarter of it random and the rest easily compressed. */
static inline void fill_page_soft(void *page, uint64_t id)
{
	uint64_t *w = page;

	fill_page(page, id);
	for (unsigned i = PAGE_SIZE / 32; i < PAGE_SIZE / 8; i++)
		w[i] = id;
}

/* One difference at one place, for equal-but-for-a-byte pages. */
static inline void fill_page_but(void *page, uint64_t id, unsigned off)
{
	fill_page(page, id);
	((uint8_t *)page)[off % PAGE_SIZE] ^= 1;
}
#endif
