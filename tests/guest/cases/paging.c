/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page tables: what must be seen after INVLPG, MOV CR3, CR4.PGE and INVPCID;
 * accessed and dirty bits; WP, SMEP, SMAP; 2 MiB and 1 GiB pages, split and
 * merged; hundreds of address spaces and slots. Where the SDM allows more than
 * one outcome (a stale entry that was not flushed, an early A bit) nothing is
 * checked.
 */
#include "tests/guest/rt/enc.h"

SNIP(ld, "mov (%rdi), %rax");
SNIP(st, "mov %rax, (%rdi)");
SNIP(rmw, "lock incq (%rdi)");
SNIP(psh, "push %rax");
SNIP(jmpto, "jmp *%rdi");
USNIP(uld, "mov (%rdi), %rax");
USNIP(ust, "mov %rax, (%rdi)");

/* Runs one access; returns the #PF error code, -1 if there was none. */
static int access(const char *code, bool user, u64 va)
{
	struct regs r;

	if (user)
		regs_user(&r, code);
	else
		regs_kernel(&r, code);
	r.rdi = va;
	if (code == psh)
		r.rsp = va + 8;
	run(&r);
	if (r.vec == VEC_DONE)
		return -1;
	if (r.vec != 14) {
		fail_at("access", 0, "vector %lu rip %lx", r.vec, r.rip);
		return -2;
	}
	if (r.cr2 != va)
		fail_at("access", 0, "cr2 %lx, not %lx", r.cr2, va);
	return r.err;
}

static pte_t *leaf(u64 va)
{
	return pte_at(root_now(), va, 1, true);
}

/* ---- INVLPG and what needs none ---- */
static void invlpgs(void)
{
	u64 va = slot_va(8, 0x123000);
	pte_t *e = leaf(va);
	u64 *f[4];

	part("invlpg");
	for (unsigned i = 0; i < 4; i++) {
		f[i] = page_alloc();
		*f[i] = 0x100 + i;
	}
	for (unsigned i = 0; i < 500; i++) {
		*e = (u64)f[i & 3] | KRW;
		invlpg(va + (i * 8 & 0xff8));
		CHECK_EQ(*(volatile u64 *)va, 0x100 + (i & 3));
		*(volatile u64 *)(va + 8) = i;
		CHECK_EQ(f[i & 3][1], i);
	}
	/* absent to present needs no flush: absence is not cached */
	for (unsigned i = 0; i < 100; i++) {
		*e = 0;
		invlpg(va);
		CHECK_EQ(access(i & 1 ? ld : st, false, va), i & 1 ? 0 : PF_W);
		*e = (u64)f[i & 3] | KRW;
		CHECK_EQ(*(volatile u64 *)va & ~3, 0x100);
		if (i & 1)
			CHECK_EQ(access(st, false, va), -1);
		*f[i & 3] = 0x100 + (i & 3);
	}
	/* more rights without a flush: one spurious fault at most */
	for (unsigned i = 0; i < 50; i++) {
		*e = (u64)f[0] | PTE_P;
		invlpg(va);
		CHECK_EQ(access(ld, false, va), -1);
		CHECK_EQ(access(st, false, va), PF_P | PF_W);
		*e = (u64)f[0] | KRW;
		if (access(st, false, va) != -1)
			CHECK_EQ(access(st, false, va), -1);
		*e |= PTE_U;
		if (access(ust, true, va) != -1)
			CHECK_EQ(access(ust, true, va), -1);
		/* fewer rights with one */
		*e = (u64)f[0] | PTE_P | PTE_W;
		invlpg(va);
		CHECK_EQ(access(uld, true, va), PF_P | PF_U);
	}
	/* an upper-level entry goes and comes */
	pte_t *pde = pte_at(root_now(), va, 2, false);
	u64 keep = *pde;

	*e = (u64)f[1] | KRW;
	*f[1] = 0x777;
	for (unsigned i = 0; i < 20; i++) {
		CHECK_EQ(*(volatile u64 *)va, 0x777);
		*pde = 0;
		invlpg(va);
		CHECK_EQ(access(ld, false, va), 0);
		*pde = keep;
	}
	pte_t *pml4e = pte_at(root_now(), va, 4, false);
	u64 keep4 = *pml4e;

	*pml4e = 0;
	write_cr3(read_cr3());
	CHECK_EQ(access(st, false, va), PF_W);
	*pml4e = keep4;
	CHECK_EQ(*(volatile u64 *)va, 0x777);
	/* the flushed page alone: its neighbour still works */
	map_page(va + PG, f[2], KRW);
	*(volatile u64 *)(va + PG) = 5;
	*e = 0;
	invlpg(va);
	CHECK_EQ(*(volatile u64 *)(va + PG), 5);
	CHECK_EQ(access(ld, false, va), 0);
	unmap_page(va + PG);
}

/* ---- accessed and dirty ---- */
#define AD (PTE_A | PTE_D)
static void accessed_dirty(void)
{
	u64 va = slot_va(260, 0x5000);
	pte_t *e = leaf(va), *pde, *pdpte, *pml4e;
	u64 f = (u64)page_alloc(), early = 0;

	part("accessed dirty");
	pde = pte_at(root_now(), va, 2, false);
	pdpte = pte_at(root_now(), va, 3, false);
	pml4e = pte_at(root_now(), va, 4, false);
	((u8 *)f)[0] = 0xcd;
	((u8 *)f)[1] = VEC_DONE;
	for (unsigned i = 0; i < 40; i++) {
		bool user = i & 1;
		u64 rights = URW | (i & 2 ? PTE_G : 0);

		*pde &= ~AD, *pdpte &= ~AD, *pml4e &= ~AD;
		*e = f | rights;
		write_cr3(read_cr3());
		invlpg(va);
		CHECK_EQ(access(user ? uld : ld, user, va), -1);
		CHECK_EQ(*e & AD, PTE_A);
		CHECK_EQ(*pde & PTE_A, PTE_A);
		CHECK_EQ(*pdpte & PTE_A, PTE_A);
		CHECK_EQ(*pml4e & PTE_A, PTE_A);
		CHECK_EQ(access(user ? uld : ld, user, va), -1);
		CHECK_EQ(*e & AD, PTE_A);
		/* read first, then a write: D comes without a flush */
		CHECK_EQ(access(user ? ust : st, user, va), -1);
		CHECK_EQ(*e & AD, AD);
		/* cleared, flushed: a write sets both at once */
		*e = f | rights;
		invlpg(va);
		CHECK_EQ(access(i & 4 ? rmw : psh, false, va), -1);
		CHECK_EQ(*e & AD, AD);
		/* cleared D alone */
		*e = f | rights | PTE_A;
		invlpg(va);
		CHECK_EQ(access(ld, false, va), -1);
		CHECK_EQ(*e & AD, PTE_A);
		CHECK_EQ(access(st, false, va), -1);
		CHECK_EQ(*e & AD, AD);
		/* a failed write does not make it dirty */
		*e = f | (rights & ~PTE_W);
		invlpg(va);
		CHECK_EQ(access(user ? ust : st, user, va),
			 PF_P | PF_W | (user ? PF_U : 0));
		CHECK_EQ(*e & PTE_D, 0);
		CHECK_EQ(access(ld, false, va), -1);
		CHECK_EQ(access(st, false, va), PF_P | PF_W);
		CHECK_EQ(*e & AD, PTE_A);
		/* fetch */
		((u8 *)f)[0] = 0xcd;
		((u8 *)f)[1] = VEC_DONE;
		*e = f | rights;
		invlpg(va);
		CHECK_EQ(access(jmpto, false, va), -1);
		CHECK_EQ(*e & AD, PTE_A);
		/* absent, with junk bits: untouched */
		*e = 0xabc000ull | 0xe0e;
		invlpg(va);
		CHECK_EQ(access(st, false, va), PF_W);
		CHECK_EQ(*e, 0xabc000ull | 0xe0e);
	}
	/* a run of 64 pages: writing one makes one dirty */
	u64 base = slot_va(261, 0), frames = (u64)pages_alloc(64, PG);

	for (unsigned i = 0; i < 64; i++)
		*leaf(base + i * PG) = (frames + i * PG) | KRW;
	for (unsigned i = 0; i < 64; i += 7)
		*(volatile u64 *)(base + i * PG) = i;
	(void)*(volatile u64 *)(base + 5 * PG);
	for (unsigned i = 0; i < 64; i++) {
		u64 v = *leaf(base + i * PG) & AD;

		if (i % 7 == 0)
			CHECK_EQ(v, AD);
		else if (i == 5)
			CHECK_EQ(v, PTE_A);
		else
			CHECK_EQ(v & PTE_D, 0);
		early += i % 7 && i != 5 && (v & PTE_A);
	}
	if (early)
		printf("note: %lu early A bits\n", early);
	/* harvest: clear A in all, flush, touch a few */
	for (unsigned i = 0; i < 64; i++)
		*leaf(base + i * PG) &= ~AD;
	write_cr3(read_cr3());
	for (unsigned i = 0; i < 64; i += 9)
		(void)*(volatile u64 *)(base + i * PG);
	for (unsigned i = 0; i < 64; i++) {
		u64 v = *leaf(base + i * PG) & AD;

		if (i % 9 == 0)
			CHECK_EQ(v, PTE_A);
		else
			CHECK_EQ(v & PTE_D, 0);
	}
	/* each bit alone, by each kind of flush */
	for (unsigned i = 0; i < 24; i++) {
		volatile u64 *w = (u64 *)(base + (i & 7) * PG + 64);
		pte_t *x = leaf((u64)w);
		u64 bit = i & 8 ? PTE_D : PTE_A;

		*w = i;
		CHECK_EQ(*x & AD, AD);
		*x &= ~bit;
		if (i % 3 == 0)
			write_cr3(read_cr3());
		else if (i % 3 == 1)
			flush_all();
		else
			invlpg((u64)w);
		CHECK_EQ(*w, i);
		if (bit == PTE_A)
			CHECK_EQ(*x & AD, AD);
		else
			CHECK_EQ(*x & AD, PTE_A);
		*w = i + 1;
		CHECK_EQ(*x & AD, AD);
	}
	/* straddling write: both dirty */
	for (unsigned i = 0; i < 2; i++)
		*leaf(base + i * PG) &= ~AD;
	write_cr3(read_cr3());
	*(volatile u64 *)(base + PG - 3) = ~0ull;
	CHECK_EQ(*leaf(base) & AD, AD);
	CHECK_EQ(*leaf(base + PG) & AD, AD);
	/* rep stos over 10 pages, rep movs from 3 to 3 */
	for (unsigned i = 0; i < 64; i++)
		*leaf(base + i * PG) &= ~AD;
	write_cr3(read_cr3());
	memset((void *)(base + 10 * PG), 1, 10 * PG);
	memcpy((void *)(base + 40 * PG), (void *)(base + 30 * PG), 3 * PG);
	for (unsigned i = 0; i < 64; i++) {
		u64 v = *leaf(base + i * PG) & AD;

		if ((i >= 10 && i < 20) || (i >= 40 && i < 43))
			CHECK_EQ(v, AD);
		else if (i >= 30 && i < 33)
			CHECK_EQ(v, PTE_A);
		else
			CHECK_EQ(v & PTE_D, 0);
	}
}

/* ---- CR0.WP, SMEP, SMAP ---- */
static void protections(void)
{
	u64 va = slot_va(4, 0x9000), f = (u64)page_alloc();
	pte_t *e = leaf(va);

	part("wp smep smap");
	for (unsigned i = 0; i < 30; i++) {
		*e = f | PTE_P | (i & 1 ? PTE_U : 0);
		invlpg(va);
		CHECK_EQ(access(st, false, va), PF_P | PF_W);
		write_cr0(read_cr0() & ~CR0_WP);
		CHECK_EQ(access(st, false, va), -1);
		CHECK_EQ(*e & AD, AD);
		CHECK_EQ(access(ust, true, va),
			 i & 1 ? PF_P | PF_W | PF_U : PF_P | PF_W | PF_U);
		CHECK_EQ(access(st, false, va), -1);
		write_cr0(read_cr0() | CR0_WP);
		CHECK_EQ(access(st, false, va), PF_P | PF_W);
		CHECK_EQ(access(ld, false, va), -1);
	}
	((u8 *)f)[0] = 0xcd;
	((u8 *)f)[1] = VEC_DONE;
	if (has_smep()) {
		for (unsigned i = 0; i < 20; i++) {
			*e = f | PTE_P | PTE_U;
			invlpg(va);
			CHECK_EQ(access(jmpto, false, va), -1);
			write_cr4(read_cr4() | CR4_SMEP);
			CHECK_EQ(access(jmpto, false, va), PF_P | PF_I);
			CHECK_EQ(access(ld, false, va), -1);
			CHECK_EQ(access((void *)va, true, 0), -1);
			*e = f | PTE_P;
			invlpg(va);
			CHECK_EQ(access(jmpto, false, va), -1);
			write_cr4(read_cr4() & ~CR4_SMEP);
		}
	} else {
		skip("SMEP");
	}
	if (!has_smap())
		return skip("SMAP");
	*e = f | URW;
	invlpg(va);
	for (unsigned i = 0; i < 30; i++) {
		struct regs r;

		CHECK_EQ(access(ld, false, va), -1);
		write_cr4(read_cr4() | CR4_SMAP);
		CHECK_EQ(access(ld, false, va), PF_P);
		CHECK_EQ(access(st, false, va), PF_P | PF_W);
		CHECK_EQ(access(psh, false, va), PF_P | PF_W);
		regs_kernel(&r, st);
		r.rdi = va + 64;
		r.rflags |= FL_AC;
		run_ok(&r);
		CHECK_EQ(*(u64 *)(f + 64), r.rax);
		CHECK_EQ(access(uld, true, va), -1); /* CPL 3 may */
		CHECK_EQ(access(jmpto, false, va), -1); /* no data access */
		/* STAC and CLAC */
		asm volatile("stac" ::: "memory");
		*(volatile u64 *)(va + 64) = i;
		asm volatile("clac" ::: "memory");
		CHECK_EQ(access(ld, false, va), PF_P);
		CHECK_EQ(*(u64 *)(f + 64), i);
		write_cr4(read_cr4() & ~CR4_SMAP);
	}
}

/* User and supervisor pages side by side in one slot: whoever touched which
 * first, CPL 3 never gets a supervisor page. */
USNIP(ufetch, "jmp *%rdi");
static void mixed_rights(void)
{
	part("mixed rights");
	for (unsigned i = 0; i < 64; i++) {
		u64 base = slot_va(130 + i % 8 + (i & 32 ? 256 : 0), 0x100000);
		u64 uva = base + PG * (i & 15), kva = base + PG * 20;
		u8 *k = map_page(kva, NULL, KRW);

		map_page(uva, NULL, URW);
		memset(k, 0x77, PG);
		for (unsigned round = 0; round < 3; round++) {
			if (i & 1)
				CHECK_EQ(access(uld, true, uva), -1);
			if (i & 2)
				CHECK_EQ(access(ld, false, uva), -1);
			if (i & 4)
				CHECK_EQ(access(ust, true, uva), -1);
			if (i & 8)
				CHECK_EQ(access(ld, false, kva), -1);
			if (i & 16)
				CHECK_EQ(access(st, false, kva), -1);
			CHECK_EQ(access(uld, true, kva), PF_P | PF_U);
			CHECK_EQ(access(ust, true, kva + 8), PF_P | PF_U | PF_W);
			CHECK_EQ(access(ufetch, true, kva), PF_P | PF_U | PF_I);
			CHECK_EQ(access(uld, true, uva), -1);
			/* and after the page changed sides */
			protect_page(uva, KRW);
			CHECK_EQ(access(st, false, uva), -1);
			CHECK_EQ(access(uld, true, uva), PF_P | PF_U);
			protect_page(uva, URW);
			CHECK_EQ(access(ust, true, uva), -1);
		}
		CHECK_EQ(*(u64 *)(k + 8), 0x7777777777777777);
		unmap_page(uva);
		unmap_page(kva);
	}
}

/* ---- large pages ---- */
static void large(void)
{
	u64 va = slot_va(30, 0x40000000), pa = (u64)pages_alloc(1024, 2 << 20);
	pte_t *pde = pte_at(root_now(), va, 2, true);
	struct regs r;

	part("2M");
	for (unsigned i = 0; i < 1024; i++)
		*(u64 *)(pa + i * PG) = 0x4000 + i;
	map2m(root_now(), va, pa, KRW);
	for (unsigned i = 0; i < 512; i += 37)
		CHECK_EQ(*(volatile u64 *)(va + i * PG), 0x4000 + i);
	CHECK_EQ(*pde & AD, PTE_A);
	*(volatile u64 *)(va + 300 * PG + 8) = 99;
	CHECK_EQ(*pde & AD, AD);
	CHECK_EQ(*(u64 *)(pa + 300 * PG + 8), 99);
	for (unsigned i = 0; i < 4; i++) { /* harvested */
		*pde &= ~AD;
		invlpg(va + i * 0x12345);
		CHECK_EQ(*(volatile u64 *)(va + 17 * PG), 0x4011);
		CHECK_EQ(*pde & AD, PTE_A);
		*(volatile u64 *)(va + 300 * PG + 8) = 99;
		CHECK_EQ(*pde & AD, AD);
	}
	/* INVLPG of any address in it drops all of it */
	for (unsigned i = 0; i < 20; i++) {
		*pde = (pa + (i & 1 ? 2 << 20 : 0)) | KRW | PTE_PS;
		invlpg(va + (rnd() & 0x1fffff));
		for (unsigned k = 0; k < 512; k += 50)
			CHECK_EQ(*(volatile u64 *)(va + k * PG),
				 0x4000 + k + (i & 1 ? 512 : 0));
	}
	/* split: the same frames by 4 KiB, then some others; merge */
	u64 *pt = page_alloc();

	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < 512; i++)
			pt[i] = (pa + i * PG) | KRW;
		*pde = (u64)pt | URW;
		invlpg(va);
		for (unsigned i = 0; i < 512; i += 11)
			CHECK_EQ(*(volatile u64 *)(va + i * PG), 0x4000 + i);
		pt[100] = (pa + (512 + 7) * PG) | PTE_P;
		invlpg(va + 100 * PG);
		CHECK_EQ(*(volatile u64 *)(va + 100 * PG), 0x4000 + 519);
		CHECK_EQ(*(volatile u64 *)(va + 101 * PG), 0x4000 + 101);
		CHECK_EQ(access(st, false, va + 100 * PG), PF_P | PF_W);
		pt[101] = 0;
		invlpg(va + 101 * PG);
		CHECK_EQ(access(ld, false, va + 101 * PG), 0);
		*pde = pa | KRW | PTE_PS;
		invlpg(va);
		write_cr3(read_cr3());
		CHECK_EQ(*(volatile u64 *)(va + 100 * PG), 0x4000 + 100);
		CHECK_EQ(*(volatile u64 *)(va + 101 * PG), 0x4000 + 101);
		CHECK_EQ(access(st, false, va + 100 * PG + 16), -1);
	}
	/* rights of a large page */
	*pde = pa | PTE_P | PTE_PS;
	invlpg(va);
	CHECK_EQ(access(st, false, va + 0x12348), PF_P | PF_W);
	CHECK_EQ(access(ld, false, va + 0x12348), -1);
	CHECK_EQ(access(uld, true, va + 0x12348), PF_P | PF_U);
	*pde = pa | URW | PTE_PS | PTE_NX;
	invlpg(va);
	CHECK_EQ(access(ust, true, va + 0x12348), -1);
	CHECK_EQ(access(jmpto, false, va + 0x12348), PF_P | PF_I);
	/* one access over the boundary of two large pages */
	pde[0] = pa | KRW | PTE_PS;
	pde[1] = (pa + (2 << 20)) | KRW | PTE_PS;
	flush_all();
	*(volatile u64 *)(va + (2 << 20) - 4) = 0x1122334455667788;
	CHECK_EQ(*(u32 *)(pa + (2 << 20)), 0x11223344);
	*(u64 *)(pa + (2 << 20)) = 0x4000 + 512;
	pde[1] = 0;
	invlpg(va + (2 << 20));
	regs_kernel(&r, ld);
	r.rdi = va + (2 << 20) - 4;
	run(&r);
	expect_pf(&r, 0, ld, va + (2 << 20));

	part("1G");
	if (!has_1g())
		return skip("1 GiB pages");
	u64 vg = slot_va(31, 0);
	pte_t *pdpte = pte_at(root_now(), vg, 3, true);

	*pdpte = 0 | KRW | PTE_PS;
	CHECK_EQ(*(volatile u64 *)(vg + pa + 5 * PG), 0x4005);
	CHECK_EQ(*pdpte & AD, PTE_A);
	*(volatile u64 *)(vg + pa + 5 * PG) = 0x1005;
	CHECK_EQ(*pdpte & AD, AD);
	CHECK_EQ(*(volatile u64 *)(pa + 5 * PG), 0x1005);
	CHECK_EQ(access(ust, true, vg + pa), PF_P | PF_W | PF_U);
	/* split into 2 MiB */
	u64 *pd = page_alloc();

	for (unsigned i = 0; i < 512; i++)
		pd[i] = (u64)i << 21 | KRW | PTE_PS;
	pd[(pa >> 21) & 511] = (pa + (2 << 20)) | KRW | PTE_PS;
	*pdpte = (u64)pd | URW;
	invlpg(vg);
	flush_all();
	CHECK_EQ(*(volatile u64 *)(vg + pa + 5 * PG), 0x4000 + 517);
	*pdpte = 0;
	flush_all();
	CHECK_EQ(access(ld, false, vg + pa), 0);
}

/* ---- address spaces ---- */
static void address_spaces(void)
{
	enum { N = 200 };
	static u64 root[N];
	static u64 *frame[N];
	u64 first = root_now();
	static const unsigned slots[] = { 1, 2, 255, 256, 511 };

	part("address spaces");
	for (unsigned i = 0; i < N; i++) {
		root[i] = root_new();
		frame[i] = page_alloc();
		frame[i][0] = 0x5000 + i;
		for (unsigned s = 0; s < 5; s++)
			map4k(root[i], slot_va(slots[s], 0x10000 + i % 3 * PG),
			      (u64)frame[i], URW);
		/* one slot that only this one has */
		map4k(root[i], slot_va(20 + i, 0x8000), (u64)frame[i], KRW);
	}
	for (unsigned k = 0; k < 1500; k++) {
		unsigned i = k < 2 * N ? k % N : rnd() % N, s = k % 5;
		u64 va = slot_va(slots[s], 0x10000 + i % 3 * PG);
		struct regs r;

		write_cr3(root[i]);
		if (*(volatile u64 *)va != 0x5000 + i)
			return fail_at("spaces", k, "space %u: %lx", i,
				       *(volatile u64 *)va);
		if (*(volatile u64 *)slot_va(20 + i, 0x8000) != 0x5000 + i)
			return fail_at("spaces", k, "space %u, own slot", i);
		*(volatile u64 *)(va + 8) += 1;
		/* what the others have is not there */
		regs_kernel(&r, ld);
		r.rdi = slot_va(20 + (i + 1) % N, 0x8000);
		if (!(k & 7)) {
			run(&r);
			expect_pf(&r, 0, ld, r.rdi);
			r.rdi = slot_va(slots[s], 0x10000 + (i + 1) % 3 * PG);
			regs_user(&r, uld);
			r.rdi = slot_va(slots[s], 0x10000 + (i + 1) % 3 * PG);
			run(&r);
			expect_pf(&r, PF_U, uld, r.rdi);
		}
	}
	write_cr3(first);
	u64 sum = 0;

	for (unsigned i = 0; i < N; i++)
		sum += frame[i][1];
	CHECK_EQ(sum, 1500);
	/* roots reused with other contents: MOV CR3 flushes */
	for (unsigned k = 0; k < 200; k++) {
		u64 va = slot_va(2, 0x10000);
		pte_t *e = pte_at(root[0], va, 1, false);

		write_cr3(root[0]);
		*e = (u64)frame[k % N] | KRW;
		write_cr3(root[0]);
		CHECK_EQ(*(volatile u64 *)va, 0x5000 + k % N);
	}
	/* a root page used as data, then as another root */
	write_cr3(first);
	for (unsigned k = 0; k < 50; k++) {
		u64 va = slot_va(2, 0x10000);

		memcpy((void *)root[1], (void *)root[2 + k], PG);
		write_cr3(root[1]);
		va = slot_va(2, 0x10000 + (2 + k) % 3 * PG);
		CHECK_EQ(*(volatile u64 *)va, 0x5000 + 2 + k);
		write_cr3(first);
	}
	for (unsigned i = 0; i < N; i++)
		page_free(frame[i]);
}

static void many_slots(void)
{
	u64 *tab = pages_alloc(512, PG);

	part("many slots");
	for (unsigned s = 1; s < 512; s++) {
		tab[s * 512] = s * 0x101;
		map_page(slot_va(s, 0x77000), &tab[s * 512], KRW);
	}
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned s = 1; s < 512; s++) {
			u64 va = slot_va(s, 0x77000);

			CHECK_EQ(*(volatile u64 *)va, s * 0x101);
			*(volatile u64 *)(va + 8) = s + round;
		}
		for (unsigned i = 0; i < 1000; i++) {
			unsigned s = 1 + rnd() % 511;

			CHECK_EQ(*(volatile u64 *)(slot_va(s, 0x77000) + 8),
				 s + round);
		}
	}
	/* a copy from each slot to the next, and code from each */
	for (unsigned s = 1; s < 511; s++)
		memcpy((void *)slot_va(s, 0x77100), (void *)slot_va(s + 1,
			0x77000), 64);
	for (unsigned s = 1; s < 511; s++)
		CHECK_EQ(tab[s * 512 + 32], (s + 1) * 0x101);
	for (unsigned s = 1; s < 512; s++) {
		u8 *p = (u8 *)slot_va(s, 0x77800);
		struct regs r;

		e8(&p, 0xb8);
		e32(&p, s);
		e_done(&p);
		regs_kernel(&r, (void *)slot_va(s, 0x77800));
		r.rsp = slot_va(512 - s, 0x77f00);
		run_ok(&r);
		CHECK_EQ(r.rax, s);
	}
	for (unsigned s = 1; s < 512; s++)
		unmap_page(slot_va(s, 0x77000));
	for (unsigned s = 1; s < 512; s += 5)
		CHECK_EQ(access(ld, false, slot_va(s, 0x77000)), 0);
}

/* The page tables mapped into themselves, and edited there. */
static void recursive(void)
{
	u64 root = root_new(), old = root_now(), va = slot_va(3, 0x201000);
	u64 *f = page_alloc(), *g = page_alloc();

	part("recursive");
	((u64 *)root)[400] = root | KRW;
	*f = 0xf1, *g = 0xf2;
	write_cr3(root);
	map4k(root, va, (u64)f, KRW);
	CHECK_EQ(*(volatile u64 *)va, 0xf1);
	/* the PTE of va by the window at slot 400 */
	volatile u64 *e = (u64 *)(slot_va(400, 0) |
				  ((va & 0xfffffffff000) >> 9));

	CHECK_EQ(*e & PTE_ADDR, (u64)f);
	for (unsigned i = 0; i < 50; i++) {
		*e = (u64)(i & 1 ? f : g) | KRW;
		invlpg(va);
		CHECK_EQ(*(volatile u64 *)va, i & 1 ? 0xf1 : 0xf2);
		CHECK_EQ(*e & AD, PTE_A);
	}
	/* tables that the walker writes are written in every alias */
	*(volatile u64 *)va = 3;
	CHECK_EQ(*e & AD, AD);
	CHECK_EQ(*pte_at(root, va, 1, false) & AD, AD);
	write_cr3(old);
}

/* ---- global pages ---- */
static void global(void)
{
	u64 va = slot_va(350, 0x6000), *f = page_alloc(), *g = page_alloc();
	pte_t *e = leaf(va);
	u64 root2 = root_new();

	part("global");
	if (!has_pge())
		return skip("PGE");
	*f = 1, *g = 2;
	((u64 *)root2)[350] = ((u64 *)root_now())[350];
	write_cr4(read_cr4() | CR4_PGE);
	for (unsigned i = 0; i < 20; i++) {
		u64 first = root_now();

		*e = (u64)f | KRW | PTE_G;
		invlpg(va);
		CHECK_EQ(*(volatile u64 *)va, 1);
		write_cr3(root2);
		CHECK_EQ(*(volatile u64 *)va, 1);
		*e = (u64)g | KRW | PTE_G;
		switch (i & 3) {
		case 0: invlpg(va); break;
		case 1:
			write_cr4(read_cr4() & ~CR4_PGE);
			write_cr4(read_cr4() | CR4_PGE);
			break;
		case 2: /* not global any more, then a CR3 write */
			*e = (u64)g | KRW;
			invlpg(va);
			break;
		case 3:
			if (has_invpcid()) {
				u64 d[2] = { 0, 0 };

				asm volatile("invpcid %0, %1" ::"m"(d),
					     "r"(2ull) : "memory");
			} else {
				invlpg(va);
			}
		}
		CHECK_EQ(*(volatile u64 *)va, 2);
		write_cr3(first);
		CHECK_EQ(*(volatile u64 *)va, 2);
	}
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK_EQ(*(volatile u64 *)va, 2);
}

/* ---- PCID ---- */
static void invpcid(u64 type, u64 pcid, u64 va)
{
	u64 d[2] = { pcid, va };

	asm volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

SNIP(cr3w, ".globl cr3w_at\ncr3w_at: mov %rax, %cr3");
SNIP(cr4w, "mov %rax, %cr4");
SNIP(invp, ".globl invp_at\ninvp_at: invpcid (%rdi), %rax");
extern char cr3w_at[], invp_at[];

static void pcid(void)
{
	u64 va = slot_va(12, 0x3000), root[6], first = root_now();
	u64 *f[6];
	struct regs r;

	part("pcid");
	if (!has_pcid())
		return skip("PCID");
	/* CR4.PCIDE needs CR3[11:0] = 0 */
	write_cr3(first | 0x18);
	regs_kernel(&r, cr4w);
	r.rax = read_cr4() | CR4_PCIDE;
	run(&r);
	expect_fault(&r, 13, 0, cr4w);
	write_cr3(first);
	write_cr4(read_cr4() | CR4_PCIDE);
	for (unsigned i = 0; i < 6; i++) {
		root[i] = root_new();
		f[i] = page_alloc();
		*f[i] = 0x60 + i;
		map4k(root[i], va, (u64)f[i], KRW);
	}
	for (unsigned k = 0; k < 600; k++) {
		unsigned i = rnd() % 6;
		bool keep = k > 6 && (rnd() & 1);

		write_cr3(root[i] | (i + 1) | (keep ? NOFLUSH : 0));
		CHECK_EQ(*(volatile u64 *)va, 0x60 + i);
		CHECK_EQ(read_cr3(), root[i] | (i + 1)); /* bit 63 reads 0 */
		*(volatile u64 *)(va + 8) = k;
		CHECK_EQ(f[i][1], k);
	}
	/* the same root under two PCIDs, and two roots with one PCID, flushed */
	for (unsigned k = 0; k < 60; k++) {
		unsigned i = k % 6;

		write_cr3(root[i] | 7);
		CHECK_EQ(*(volatile u64 *)va, 0x60 + i);
		write_cr3(root[i] | 8);
		CHECK_EQ(*(volatile u64 *)va, 0x60 + i);
	}
	/* change a PTE of another PCID, flush it there, come back NOFLUSH */
	if (has_invpcid()) {
		for (unsigned k = 0; k < 200; k++) {
			pte_t *e = pte_at(root[1], va, 1, false);
			unsigned want = k % 6;

			write_cr3(root[1] | 2 | NOFLUSH);
			(void)*(volatile u64 *)va;
			write_cr3(root[0] | 1 | NOFLUSH);
			*e = (u64)f[want] | KRW;
			switch (k & 3) {
			case 0: invpcid(0, 2, va); break;
			case 1: invpcid(1, 2, 0); break;
			case 2: invpcid(2, 0, 0); break;
			case 3: invpcid(3, 0, 0); break;
			}
			write_cr3(root[1] | 2 | NOFLUSH);
			CHECK_EQ(*(volatile u64 *)va, 0x60 + want);
		}
		/* bad types, reserved bits, non-canonical, PCID too large */
		static u64 d[2];
		static const struct {
			u64 type, pcid, va;
		} bad[] = { { 4, 0, 0 }, { 0, 0x1000, 0 }, { 1, 1ull << 40, 0 },
			    { 0, 1, 0x800000000000 } };
		for (unsigned k = 0; k < 4; k++) {
			d[0] = bad[k].pcid, d[1] = bad[k].va;
			regs_kernel(&r, invp);
			r.rax = bad[k].type;
			r.rdi = (u64)d;
			run(&r);
			expect_fault(&r, 13, 0, invp_at);
		}
	} else {
		skip("INVPCID");
	}
	/* MOV CR3 without NOFLUSH flushes that PCID; INVLPG the present one */
	for (unsigned k = 0; k < 100; k++) {
		pte_t *e = pte_at(root[2], va, 1, false);

		write_cr3(root[2] | 3 | NOFLUSH);
		(void)*(volatile u64 *)va;
		*e = (u64)f[k % 6] | KRW;
		if (k & 1)
			invlpg(va);
		else
			write_cr3(root[2] | 3);
		CHECK_EQ(*(volatile u64 *)va, 0x60 + k % 6);
		write_cr3(root[3] | 4 | NOFLUSH);
		*e = (u64)f[(k + 1) % 6] | KRW;
		write_cr3(root[2] | 3);
		CHECK_EQ(*(volatile u64 *)va, 0x60 + (k + 1) % 6);
	}
	/* globals across PCIDs */
	u64 gva = slot_va(352, 0), *g = page_alloc(), *h = page_alloc();

	write_cr4(read_cr4() | CR4_PGE);
	*g = 1, *h = 2;
	map4k(root[0], gva, (u64)g, KRW | PTE_G);
	for (unsigned i = 1; i < 6; i++)
		((u64 *)root[i])[352] = ((u64 *)root[0])[352];
	for (unsigned k = 0; k < 30; k++) {
		pte_t *e = pte_at(root[0], gva, 1, false);

		*e = (u64)(k & 1 ? h : g) | KRW | PTE_G;
		invlpg(gva); /* drops it for every PCID */
		for (unsigned i = 0; i < 6; i++) {
			write_cr3(root[i] | (i + 1));
			CHECK_EQ(*(volatile u64 *)gva, k & 1 ? 2 : 1);
		}
	}
	/* dirty bits with PCIDs */
	for (unsigned k = 0; k < 20; k++) {
		pte_t *e = pte_at(root[4], va, 1, false);

		write_cr3(root[4] | 5 | NOFLUSH);
		*e = (u64)f[4] | KRW;
		invlpg(va);
		(void)*(volatile u64 *)va;
		CHECK_EQ(*e & AD, PTE_A);
		write_cr3(root[5] | 6 | NOFLUSH);
		write_cr3(root[4] | 5 | NOFLUSH);
		*(volatile u64 *)(va + 16) = 1;
		CHECK_EQ(*e & AD, AD);
	}
	write_cr3(first);
	write_cr4(read_cr4() & ~(CR4_PCIDE | CR4_PGE));
	/* without PCIDE bit 63 is reserved */
	regs_kernel(&r, cr3w);
	r.rax = first | NOFLUSH;
	run(&r);
	expect_fault(&r, 13, 0, cr3w_at);
}

/* Physical memory that does not exist: no crash; reads answer something. */
static void no_memory(void)
{
	u64 va = slot_va(13, 0);
	static const u64 pa[] = { 0x100000000, 0xf0000000, 0x7ffffff000 };

	part("no memory");
	for (unsigned i = 0; i < 3; i++) {
		map4k(root_now(), va, pa[i], KRW);
		invlpg(va);
		access(ld, false, va + 8);
		CHECK_EQ(access(st, false, va + 8), -1);
		CHECK_EQ(access(rmw, false, va + 16), -1);
	}
	unmap_page(va);
}

int main(void)
{
	invlpgs();
	accessed_dirty();
	protections();
	mixed_rights();
	large();
	address_spaces();
	many_slots();
	recursive();
	global();
	pcid();
	no_memory();
	return 0;
}
