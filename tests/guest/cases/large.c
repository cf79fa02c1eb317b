/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 2 MiB of memory seen through one large page and through 512 small ones that
 * form a run, which a translator may map as one: parts of it change, and the
 * rest must not. Worth most under bt-2m, where all memory is on large host
 * pages.
 */
#include "tests/guest/rt/rt.h"

#define L     (2ull << 20)
#define AD    (PTE_A | PTE_D)
#define WORD(va, i) (*(volatile u64 *)((va) + (i) * PG + 8 * ((i) % 512)))

SNIP(ld, "mov (%rdi), %rax");
SNIP(st, "mov %rax, (%rdi)");

static u64 pa;		/* two large pages of memory, identity mapped */
static u64 vl, vs;	/* a large page, and a table of small ones */
static pte_t *pde, *pt; /* their entries */

/* The error code of an access, or -1: it went well. */
static int try(char *code, u64 va)
{
	struct regs r;

	regs_kernel(&r, code);
	r.rdi = va;
	run(&r);
	return r.vec == 14 && r.cr2 == va ? (int)r.err : r.vec == VEC_DONE ? -1 : -2;
}

static void fill(void)
{
	for (unsigned i = 0; i < 1024; i++)
		WORD(pa, i) = 0xabc000 + i;
}

static void table_of(u64 frames, u64 flags)
{
	for (unsigned i = 0; i < 512; i++)
		pt[i] = (frames + i * PG) | flags;
	flush_all();
}

/* All pages of a mapping, but for one, show the frames from `frames` on. */
static void same_but(u64 va, unsigned from, int but)
{
	for (unsigned i = 0; i < 512; i++)
		if ((int)i != but && WORD(va, i) != 0xabc000 + from + i) {
			CHECK_EQ(WORD(va, i), 0xabc000 + from + i);
			return;
		}
}

/* A run of 512, of which one is changed, with INVLPG of just that one. */
static void one_of_512(void)
{
	part("one of 512");
	fill();
	table_of(pa, KRW | AD);
	for (unsigned round = 0; round < 24; round++) {
		unsigned k = (round * 211 + 3) % 512;
		u64 copy = pa + L + k * PG;

		same_but(vs, 0, -1);
		/* write through the whole, see it through the other */
		WORD(vs, k) = 5;
		CHECK_EQ(WORD(vl, k), 5);
		WORD(vl, k) = 0xabc000 + k;
		CHECK_EQ(WORD(vs, k), 0xabc000 + k);
		/* copy on write, as a kernel does it */
		pt[k] = (pa + k * PG) | PTE_P | AD;
		invlpg(vs + k * PG);
		CHECK_EQ(try(st, vs + k * PG), PF_P | PF_W);
		CHECK_EQ(WORD(vs, k), 0xabc000 + k);
		WORD(vs, (k + 1) % 512) = 0xabc000 + (k + 1) % 512;
		pt[k] = copy | KRW | AD;
		invlpg(vs + k * PG);
		CHECK_EQ(WORD(vs, k), 0xabc000 + 512 + k);
		WORD(vs, k) = 77;
		CHECK_EQ(WORD(pa + L, k), 77);
		CHECK_EQ(WORD(pa, k), 0xabc000 + k);
		WORD(pa + L, k) = 0xabc000 + 512 + k;
		same_but(vs, 0, k);
		/* gone */
		pt[k] = 0;
		invlpg(vs + k * PG);
		CHECK_EQ(try(ld, vs + k * PG), 0);
		same_but(vs, 0, k);
		pt[k] = (pa + k * PG) | KRW | AD;
	}
}

/* Accessed and dirty bits are each entry's own. */
static void bits(void)
{
	part("A and D");
	table_of(pa, KRW | AD);
	same_but(vs, 0, -1);
	pt[7] &= ~AD;
	invlpg(vs + 7 * PG);
	(void)WORD(vs, 7);
	CHECK_EQ(pt[7] & AD, PTE_A);
	WORD(vs, 7) = 0xabc007;
	CHECK_EQ(pt[7] & AD, AD);
	/* none dirty: what is written becomes so, and nothing else */
	table_of(pa, KRW | PTE_A);
	same_but(vs, 0, -1);
	for (unsigned i = 3; i < 512; i += 100) {
		WORD(vs, i) = 0xabc000 + i;
		CHECK_EQ(pt[i] & AD, AD);
	}
	for (unsigned i = 0; i < 512; i++)
		if (!!(pt[i] & PTE_D) != (i % 100 == 3))
			CHECK(false, "entry %u: %lx", i, pt[i]);
	/* none accessed */
	table_of(pa, KRW);
	(void)WORD(vs, 100);
	for (unsigned i = 0; i < 512; i++)
		if (!!(pt[i] & PTE_A) != (i == 100))
			CHECK(false, "entry %u: %lx", i, pt[i]);
	/* the large page has one of each */
	*pde &= ~AD;
	invlpg(vl + 300 * PG);
	(void)WORD(vl, 9);
	CHECK_EQ(*pde & AD, PTE_A);
	WORD(vl, 400) = 0xabc000 + 400;
	CHECK_EQ(*pde & AD, AD);
}

/* A large page elsewhere, and INVLPG somewhere in it; small pages that become
 * a large one, and back. */
static void whole(void)
{
	part("whole");
	for (unsigned i = 0; i < 12; i++) {
		u64 at = i & 1 ? L : 0;

		*pde = (pa + at) | KRW | AD | PTE_PS;
		invlpg(vl + (i * 0x2b003 & (L - 1)));
		same_but(vl, i & 1 ? 512 : 0, -1);
	}
	*pde = pa | KRW | AD | PTE_PS;
	invlpg(vl);
	pte_t *up = pte_at(root_now(), vs, 2, false);
	u64 table = *up;

	for (unsigned i = 0; i < 6; i++) {
		table_of(pa, KRW | AD);
		same_but(vs, 0, -1);
		*up = pa | KRW | AD | PTE_PS;
		flush_all();
		same_but(vs, 0, -1);
		*up = (pa + L) | KRW | AD | PTE_PS;
		invlpg(vs + 0x1f3000);
		same_but(vs, 512, -1);
		*up = table;
		flush_all();
		same_but(vs, 0, -1);
	}
}

/* Code in the middle of data, written through two mappings. */
static void code(void)
{
	static const u8 body[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $0,%eax; ret */
	u64 at = vl + 200 * PG + 0x100;

	part("code");
	table_of(pa, KRW | AD);
	memcpy((void *)at, body, sizeof(body));
	for (u32 i = 0; i < 40; i++) {
		u64 via = (i & 1 ? vs : vl) + 200 * PG + 0x101;

		*(volatile u32 *)via = i;
		CHECK_EQ(((u32(*)(void))at)(), i);
		WORD(vl, 201) = i;
		WORD(vs, 199) = i;
		CHECK_EQ(WORD(vs, 201) + WORD(vl, 199), 2 * i);
	}
	fill();
	same_but(vl, 0, 200);
	same_but(vs, 0, 200);
}

int main(void)
{
	pa = (u64)pages_alloc(1024, L);
	vl = slot_va(40, 3 * L);
	vs = slot_va(40, 7 * L);
	fill();
	map2m(root_now(), vl, pa, KRW | AD);
	pde = pte_at(root_now(), vl, 2, false);
	pt = pte_at(root_now(), vs, 1, true);
	one_of_512();
	bits();
	whole();
	code();
	/* the same in the kernel half, which all address spaces share */
	vl = slot_va(300, 3 * L);
	vs = slot_va(300, 7 * L);
	map2m(root_now(), vl, pa, KRW | AD);
	pde = pte_at(root_now(), vl, 2, false);
	pt = pte_at(root_now(), vs, 1, true);
	one_of_512();
	bits();
	whole();
	code();
	return 0;
}
