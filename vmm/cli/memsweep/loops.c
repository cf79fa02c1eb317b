/* SPDX-License-Identifier: Apache-2.0 */
/* See loops.h. No calls, no data: position-independent by nature. */
#include "vmm/cli/memsweep/loops.h"

#define LINE 64u

/* x -> a x + c modulo 2^k is one cycle through all numbers (a = 1 mod 4, c
 * odd); the page of the next line is as good as random. */
#define MUL  2891336453u
#define ADD  1234567891u

static void init_bytes(uint64_t *m, uint64_t size)
{
	for (uint64_t i = 0; i < size / 8; i++)
		m[i] = i * 0x9e3779b97f4a7c15u;
}

static void init_chase(uint64_t *m, uint64_t size)
{
	uint64_t lines = size / LINE;

	for (uint64_t i = 0; i < lines; i++) {
		m[i * (LINE / 8)] =
			((i * MUL + ADD) & (lines - 1)) * (LINE / 8);
		for (unsigned k = 1; k < LINE / 8; k++)
			m[i * (LINE / 8) + k] = 0;
	}
}

void loop_init(enum loop_kind kind, void *mem, uint64_t size)
{
	if (kind == LOOP_CHASE)
		init_chase(mem, size);
	else
		init_bytes(mem, size);
}

static uint64_t sweep(volatile uint8_t *large, uint64_t size, uint64_t n)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++)
		large[(4096 * i + i) & (size - 1)] = 1 + large[i & (size - 1)];
	for (uint64_t i = 0; i < size; i += 4093)
		sum = sum * 31 + large[i];
	return sum;
}

static uint64_t random_reads(const uint64_t *m, uint64_t size, uint64_t n)
{
	uint64_t x = 88172645463325252u, sum = 0, mask = size / 8 - 1;

	for (uint64_t i = 0; i < n; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		sum += m[x >> 33 & mask];
	}
	return sum;
}

static uint64_t chase(const uint64_t *m, uint64_t n)
{
	uint64_t p = 0;

	for (uint64_t i = 0; i < n; i++)
		p = m[p];
	return p;
}

uint64_t loop_run(enum loop_kind kind, void *mem, uint64_t size, uint64_t n)
{
	switch (kind) {
	case LOOP_SWEEP:
		return sweep(mem, size, n);
	case LOOP_RANDOM:
		return random_reads(mem, size, n);
	case LOOP_CHASE:
		return chase(mem, n);
	default:
		return 0;
	}
}
