/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What memory costs: latency of loads at each distance, TLB misses, faults.
 *
 *   chase    a random cycle of pointers, one a cache line, through 16 KiB
 *	      (L1), 256 KiB (L2), 4 MiB (L3) and 64 MiB (memory): each load
 *	      waits for the one before, so a translator's address arithmetic
 *	      is on the critical path
 *   tlbread  random reads over 512 MiB, apart (-ind) and each address made of
 *	      the last read (-dep), in 4 KiB or in 2 MiB pages
 *   faults   map, touch each page, unmap: the fault path and the page tables
 *
 * Pages are of the size that the program says, whatever the kernel's default
 * for transparent large pages: native and guest must ask the same of it.
 */
#include "guest.h"

#include <string.h>
#include <sys/mman.h>

#define LINE 64

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void *map(size_t size, int advice)
{
	/* Room to begin at a 2 MiB boundary. */
	const size_t big = 2ul << 20;
	uint8_t *p = mmap(NULL, size + big, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	p = (uint8_t *)(((uintptr_t)p + big - 1) & -big);
	madvise(p, size, advice);
	return p;
}

/* One cycle through all lines of the buffer, in an order that no prefetcher
 * guesses (Sattolo's shuffle of the identity gives a single cycle). */
static void **cycle(uint8_t *buf, size_t size)
{
	size_t n = size / LINE;
	uint32_t *perm = map(n * sizeof(*perm), MADV_NOHUGEPAGE);
	uint64_t s = 0x9e3779b97f4a7c15ull;

	for (size_t i = 0; i < n; i++)
		perm[i] = i;
	for (size_t i = n - 1; i; i--) {
		size_t k = next(&s) % i;
		uint32_t t = perm[i];

		perm[i] = perm[k];
		perm[k] = t;
	}
	for (size_t i = 0; i < n; i++)
		*(void **)(buf + i * LINE) = buf + (size_t)perm[i] * LINE;
	munmap(perm, n * sizeof(*perm));
	return (void **)buf;
}

static __attribute__((noipa)) void **follow(void **p, long n)
{
	for (long i = 0; i < n; i += 8) {
		p = *p, p = *p, p = *p, p = *p;
		p = *p, p = *p, p = *p, p = *p;
	}
	return p;
}

/* chase [PERCENT]: how much of the usual number of loads */
int chase_main(int argc, char **argv)
{
	static const struct {
		const char *name;
		size_t size;
		long loads;
	} sizes[] = {
		{"16k", 16 << 10, 240000000},
		{"256k", 256 << 10, 120000000},
		{"4m", 4 << 20, 32000000},
		{"64m", 64 << 20, 6400000},
	};
	long percent = arg_long(argc, argv, 1, 100);
	uint8_t *buf = map(64 << 20, MADV_NOHUGEPAGE);

	for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		/* Not a multiple of a cycle: it must not end where it began. */
		long n = sizes[k].loads / 800 * percent * 8 + 104;
		void **p = follow(cycle(buf, sizes[k].size),
				  sizes[k].size / LINE); /* warm */
		double t = now_s();

		p = follow(p, n);
		t = now_s() - t;
		printf("chase-%s n=%ld result=%lu seconds=%.3f ns=%.2f\n",
		       sizes[k].name, n, ((uint8_t *)p - buf) / LINE, t,
		       t * 1e9 / n);
	}
	return 0;
}

/* How much of this process is in large pages, in MiB. */
static long huge_mib(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long kib = 0;

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "AnonHugePages: %ld", &kib);
	if (f)
		fclose(f);
	return kib >> 10;
}

static __attribute__((noipa)) uint64_t read_apart(const uint64_t *a,
						  uint64_t mask, long n)
{
	uint64_t s = 88172645463325252ull, sum = 0;

	for (long i = 0; i < n; i++)
		sum += a[next(&s) & mask];
	return sum;
}

static __attribute__((noipa)) uint64_t read_chained(const uint64_t *a,
						    uint64_t mask, long n)
{
	uint64_t x = 1;

	for (long i = 0; i < n; i++)
		x = x * 0x5851f42d4c957f2dull + (a[(x >> 33) & mask] | 1);
	return x;
}

static int tlbread(const char *name, int advice, int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 8000000);
	uint64_t size = arg_long(argc, argv, 2, 512) << 20;
	uint64_t words = size / sizeof(uint64_t), r;
	uint64_t *a = map(size, advice);
	double t;

	if (words & (words - 1)) {
		fprintf(stderr, "%s: MiB must be a power of two\n", name);
		return 1;
	}
	for (uint64_t i = 0; i < words; i++)
		a[i] = i * 0x9e3779b97f4a7c15ull;
	t = now_s();
	r = read_apart(a, words - 1, n);
	t = now_s() - t;
	printf("%s-ind n=%ld mib=%ld result=%016lx seconds=%.3f ns=%.2f "
	       "huge_mib=%ld\n",
	       name, n, size >> 20, r, t, t * 1e9 / n, huge_mib());
	n /= 2;
	t = now_s();
	r = read_chained(a, words - 1, n);
	t = now_s() - t;
	printf("%s-dep n=%ld mib=%ld result=%016lx seconds=%.3f ns=%.2f "
	       "huge_mib=%ld\n",
	       name, n, size >> 20, r, t, t * 1e9 / n, huge_mib());
	return 0;
}

int tlbread4k_main(int argc, char **argv)
{
	return tlbread("tlbread4k", MADV_NOHUGEPAGE, argc, argv);
}

int tlbread2m_main(int argc, char **argv)
{
	return tlbread("tlbread2m", MADV_HUGEPAGE, argc, argv);
}

int faults_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 100), sum = 0;
	size_t size = 16 << 20;
	double t = now_s();

	for (long i = 0; i < n; i++) {
		uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED) {
			perror("faults: mmap");
			return 1;
		}
		madvise(p, size, MADV_NOHUGEPAGE);
		/* Written first, as a heap's pages are: one fault a page. */
		for (size_t k = i & 4095; k < size; k += 4096) {
			p[k] = 1;
			sum += p[k] + p[k ^ 1];
		}
		munmap(p, size);
	}
	t = now_s() - t;
	printf("faults n=%ld result=%ld seconds=%.3f ns=%.0f\n", n, sum, t,
	       t * 1e9 / (n * (size / 4096)));
	return sum != n * (long)(size / 4096);
}
