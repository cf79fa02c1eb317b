/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A workload for a host that has too little memory: fills a large piece of
 * memory with pages that say who they are, works on a part of it for a while,
 * and reads all of it back. Every page that it reads it checks: a byte that is
 * not what was written last ends the run as BAD.
 *
 *	memwork MIB [ACTIVE% [SECONDS [SOFT% [SEED]]]]
 *
 * SOFT: how much of a page is the same word over and over (compresses away).
 * Prints how many pages it worked on.
 */
#include "guest.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE  4096ul
#define WORDS (PAGE / 8)

static unsigned soft_words;
static uint64_t seed;

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint64_t start_of(uint64_t page, uint32_t version)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull ^
	       (version + 1) * 0xc2b2ae3d27d4eb4full ^ seed << 32;
}

static void fill(uint64_t *p, uint64_t page, uint32_t version)
{
	uint64_t s = start_of(page, version), first = s;

	for (unsigned i = 0; i < WORDS; i++)
		p[i] = i < soft_words ? first : next(&s);
}

/* 1: the page is not what it was. */
static int check(const uint64_t *p, uint64_t page, uint32_t version)
{
	uint64_t s = start_of(page, version), first = s;

	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t should = i < soft_words ? first : next(&s);

		if (p[i] == should)
			continue;
		printf("memwork: page %lu word %u is %#lx, should be %#lx\n",
		       page, i, p[i], should);
		return 1;
	}
	return 0;
}

int memwork_main(int argc, char **argv)
{
	uint64_t pages = arg_long(argc, argv, 1, 64) << 8;
	uint64_t active = pages * arg_long(argc, argv, 2, 25) / 100;
	double seconds = arg_long(argc, argv, 3, 10), begin, slowest = 0;
	uint32_t *version = calloc(pages, sizeof(*version));
	uint64_t ops = 0, bad = 0, r;
	uint64_t *m = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	soft_words = WORDS * arg_long(argc, argv, 4, 60) / 100;
	seed = arg_long(argc, argv, 5, 1);
	r = seed * 0x2545f4914f6cdd1dull + 1;
	if (m == MAP_FAILED || !version || !pages) {
		printf("memwork: no memory\n");
		return 1;
	}
	active = active ? active : 1;
	for (uint64_t i = 0; i < pages; i++)
		fill(m + i * WORDS, i, 0);
	printf("memwork: filled %lu pages\n", pages);
	fflush(stdout);
	begin = now_s();
	while (now_s() - begin < seconds && !bad) {
		double t = now_s(), took;

		/* One in a hundred goes anywhere. */
		for (unsigned k = 0; k < 100; k++) {
			uint64_t i = next(&r) % (k ? active : pages);

			bad += check(m + i * WORDS, i, version[i]);
			if (next(&r) & 1)
				fill(m + i * WORDS, i, ++version[i]);
			ops++;
		}
		took = now_s() - t;
		slowest = took > slowest ? took : slowest;
	}
	begin = now_s() - begin;
	for (uint64_t i = 0; i < pages && bad < 10; i++)
		bad += check(m + i * WORDS, i, version[i]);
	printf("memwork: mib=%lu active=%lu ops=%lu seconds=%.1f "
	       "slowest_ms=%.0f %s\n",
	       pages >> 8, active, ops, begin, slowest * 1000,
	       bad ? "BAD" : "good");
	return bad != 0;
}
