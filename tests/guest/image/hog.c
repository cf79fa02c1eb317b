/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Take memory, fill it with what neither compresses nor is twice there, and
 * give it back: `hog MIB [HOLD_S [ROUNDS]]`. Each round checks what it finds
 * in fresh memory (zeroes) and, at its end, what it wrote.
 */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

#define PAGE 4096

static uint64_t number(uint64_t i, uint64_t round)
{
	uint64_t x = (i + round * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;

	return x ^ x >> 29;
}

static int hog_round(size_t bytes, long hold, uint64_t round)
{
	uint64_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t n = bytes / 8, bad = 0;

	if (m == MAP_FAILED) {
		printf("hog: no memory\n");
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		bad += m[i] != 0;
		m[i] = number(i, round);
	}
	printf("hog: filled %zu MiB\n", bytes >> 20);
	fflush(stdout);
	sleep(hold);
	for (size_t i = 0; i < n; i++)
		bad += m[i] != number(i, round);
	munmap(m, bytes);
	printf("hog: freed, %s\n", bad ? "BAD" : "good");
	fflush(stdout);
	return bad != 0;
}

int hog_main(int argc, char **argv)
{
	size_t bytes = (size_t)arg_long(argc, argv, 1, 64) << 20;
	long hold = arg_long(argc, argv, 2, 2);
	long rounds = arg_long(argc, argv, 3, 1);
	int bad = 0;

	for (long i = 0; i < rounds; i++)
		bad |= hog_round(bytes, hold, i);
	return bad;
}
