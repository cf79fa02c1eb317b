/* SPDX-License-Identifier: Apache-2.0 */
/* The guest page-table walk against hand-made tables and the rights matrix
 * of SDM vol. 3, 4.6. */
#include "tests/unit/sys_fixture.h"

#define ROOT 0x800000ul
#define T1   0x801000ul
#define T2   0x802000ul
#define T3   0x803000ul
#define VA   0x0000123456789abcul
#define DATA 0x5000ul

/* One 4-level path to VA with the same low bits everywhere. */
static void path4(struct fix *f, uint64_t l4, uint64_t l3, uint64_t l2,
		  uint64_t l1)
{
	poke64(f, ROOT + (VA >> 39 & 511) * 8, l4 ? T1 | l4 : 0);
	poke64(f, T1 + (VA >> 30 & 511) * 8, l3 ? T2 | l3 : 0);
	poke64(f, T2 + (VA >> 21 & 511) * 8, l2 ? T3 | l2 : 0);
	poke64(f, T3 + (VA >> 12 & 511) * 8, l1 ? DATA | l1 : 0);
}

static void paging4(struct fix *f)
{
	struct vcpu *v = f->v;

	v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	v->cr4 = CR4_PAE | CR4_PGE;
	v->efer = EFER_LME | EFER_LMA | EFER_NXE;
	v->in_long_mode = 1;
	v->cr3 = ROOT;
}

static void no_paging(void **state)
{
	struct fix *f = *state;
	struct walk w;

	f->v->cr0 = CR0_PE;
	assert_int_equal(mmu_walk(f->v, 0x1234, WALK_WRITE | WALK_USER, &w), 0);
	assert_int_equal(w.gpa, 0x1234);
	assert_int_equal(w.page_shift, 0);
	assert_true(w.writable && w.user && !w.nx && w.dirty);
	assert_true(w.leaf_gpa == ~0ull);
}

static void four_level(void **state)
{
	struct fix *f = *state;
	const uint64_t all = PTE_P | PTE_W | PTE_U;
	struct walk w;

	paging4(f);
	path4(f, all, all, all, all | PTE_G);
	assert_int_equal(mmu_walk(f->v, VA, 0, &w), 0);
	assert_int_equal(w.gpa, DATA | 0xabc);
	assert_int_equal(w.page_shift, 12);
	assert_int_equal(w.leaf_gpa, T3 + (VA >> 12 & 511) * 8);
	assert_true(w.writable && w.user && !w.nx && w.global && !w.dirty &&
		    w.accessed);
	/* A at every level, D nowhere */
	assert_int_equal(peek64(f, ROOT + (VA >> 39 & 511) * 8),
			 T1 | all | PTE_A);
	assert_int_equal(peek64(f, T1 + (VA >> 30 & 511) * 8),
			 T2 | all | PTE_A);
	assert_int_equal(peek64(f, T2 + (VA >> 21 & 511) * 8),
			 T3 | all | PTE_A);
	assert_int_equal(peek64(f, w.leaf_gpa), DATA | all | PTE_G | PTE_A);
	/* D at the leaf only */
	assert_int_equal(mmu_walk(f->v, VA, WALK_WRITE, &w), 0);
	assert_true(w.dirty);
	assert_int_equal(peek64(f, w.leaf_gpa),
			 DATA | all | PTE_G | PTE_A | PTE_D);
	assert_int_equal(peek64(f, T2 + (VA >> 21 & 511) * 8),
			 T3 | all | PTE_A);
	/* G means nothing without CR4.PGE */
	f->v->cr4 &= ~CR4_PGE;
	assert_int_equal(mmu_walk(f->v, VA, 0, &w), 0);
	assert_false(w.global);
}

static void probe_touches_nothing(void **state)
{
	struct fix *f = *state;
	struct walk w;
	uint64_t gen;

	paging4(f);
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P | PTE_NX);
	gen = p2m_gen(f->vm.p2m);
	assert_int_equal(
		mmu_walk(f->v, VA,
			 WALK_PROBE | WALK_WRITE | WALK_USER | WALK_EXEC, &w),
		0);
	assert_true(!w.writable && !w.user && w.nx && !w.dirty && !w.accessed);
	assert_int_equal(peek64(f, w.leaf_gpa), DATA | PTE_P | PTE_NX);
	assert_int_equal(p2m_gen(f->vm.p2m), gen);
	path4(f, PTE_P, PTE_P, 0, 0);
	assert_int_equal(mmu_walk(f->v, VA, WALK_PROBE, &w), WALK_FAULT);
}

/* A fault sets no bits, and each level's absence is a not-present fault. */
static void not_present(void **state)
{
	struct fix *f = *state;
	const uint64_t all = PTE_P | PTE_W | PTE_U;
	struct walk w;

	paging4(f);
	for (unsigned gone = 0; gone < 4; gone++) {
		path4(f, gone == 0 ? 0 : all, gone == 1 ? 0 : all,
		      gone == 2 ? 0 : all, gone == 3 ? 0 : all);
		assert_int_equal(mmu_walk(f->v, VA, 0, &w), WALK_FAULT);
		assert_int_equal(mmu_walk(f->v, VA, WALK_WRITE | WALK_USER, &w),
				 WALK_FAULT | PF_W | PF_U);
		assert_int_equal(mmu_walk(f->v, VA, WALK_EXEC, &w),
				 WALK_FAULT | PF_I);
		if (gone)
			assert_int_equal(peek64(f, ROOT + (VA >> 39 & 511) * 8),
					 T1 | all);
	}
}

/* Which bit of a combination is set at which level. */
static uint64_t level_bits(unsigned combo, unsigned level)
{
	uint64_t e = PTE_P;

	/* combo: two bits each for W, U, X: 0 = lacking at the top,
	 * 1 = lacking at the PDPTE, 2 = lacking at the leaf, 3 = granted */
	unsigned w = combo & 3, u = combo >> 2 & 3, x = combo >> 4 & 3;
	static const unsigned at[] = {0, 1, 3};

	if (w == 3 || at[w] != level)
		e |= PTE_W;
	if (u == 3 || at[u] != level)
		e |= PTE_U;
	if (x != 3 && at[x] == level)
		e |= PTE_NX;
	return e;
}

static void rights_matrix(void **state)
{
	struct fix *f = *state;
	struct walk w;
	unsigned denied = 0, granted = 0;

	paging4(f);
	for (unsigned combo = 0; combo < 64; combo++) {
		bool can_w = (combo & 3) == 3, is_u = (combo >> 2 & 3) == 3,
		     can_x = (combo >> 4 & 3) == 3;

		for (unsigned how = 0; how < 24; how++) {
			/* access: r, w, x by kernel, user; WP; SMEP */
			unsigned kind = how % 3;
			bool user = how / 3 & 1, wp = how / 6 & 1,
			     smep = how / 12;
			unsigned acc = (user ? WALK_USER : 0) |
				       (kind == 1 ? WALK_WRITE : 0) |
				       (kind == 2 ? WALK_EXEC : 0);
			bool ok = true;
			uint32_t got, want;

			f->v->cr0 = CR0_PE | CR0_PG | (wp ? CR0_WP : 0);
			f->v->cr4 = CR4_PAE | (smep ? CR4_SMEP : 0);
			path4(f, level_bits(combo, 0), level_bits(combo, 1),
			      level_bits(combo, 2), level_bits(combo, 3));
			if (user && !is_u)
				ok = false;
			if (kind == 1 && !can_w && (user || wp))
				ok = false;
			if (kind == 2 && !can_x)
				ok = false;
			if (kind == 2 && !user && smep && is_u)
				ok = false;
			want = ok ? 0
				  : WALK_FAULT | PF_P | (user ? PF_U : 0) |
					       (kind == 1 ? PF_W : 0) |
					       (kind == 2 ? PF_I : 0);
			got = mmu_walk(f->v, VA, acc, &w);
			if (got != want)
				fail_msg("combo %u how %u: %x, not %x", combo,
					 how, got, want);
			assert_int_equal(peek64(f, T3 + (VA >> 12 & 511) * 8) &
						 (PTE_A | PTE_D),
					 !ok ? 0
					     : PTE_A | (kind == 1 ? PTE_D : 0));
			ok ? granted++ : denied++;
		}
	}
	assert_true(granted > 100 && denied > 100);
}

static void nxe_off(void **state)
{
	struct fix *f = *state;
	struct walk w;

	paging4(f);
	f->v->efer &= ~EFER_NXE;
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P);
	assert_int_equal(mmu_walk(f->v, VA, WALK_EXEC, &w), 0);
	/* no I/D bit without NXE and SMEP */
	assert_int_equal(mmu_walk(f->v, VA, WALK_EXEC | WALK_USER, &w),
			 WALK_FAULT | PF_P | PF_U);
	/* NX is a reserved bit then */
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P | PTE_NX);
	assert_int_equal(mmu_walk(f->v, VA, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
}

static void reserved4(void **state)
{
	struct fix *f = *state;
	struct walk w;
	const struct {
		uint64_t e[4];
		bool bad;
	} t[] = {
		{{PTE_PS, 0, 0, 0}, true}, /* PML4E.PS */
		{{1ull << 46, 0, 0, 0}, true},
		{{0, 1ull << 51, 0, 0}, true},
		{{0, 0, 1ull << 46, 0}, true},
		{{0, 0, 0, 1ull << 46}, true},
		{{1ull << 52, 1ull << 58, 1ull << 62, 7ull << 52}, false},
		{{PTE_G, PTE_G, PTE_G, 0}, false}, /* ignored there */
		{{0, 0, 0, PTE_PS}, false},	   /* PAT */
		{{0, 0, PTE_PS | 1ull << 13, 0}, true},
		{{0, 0, PTE_PS | 1ull << 20, 0}, true},
		{{0, PTE_PS | 1ull << 13, 0, 0}, true},
		{{0, PTE_PS | 1ull << 29, 0, 0}, true},
	};

	paging4(f);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		uint32_t r;

		/* tables that a large-page bit would make misaligned are
		 * covered by the bits given */
		path4(f, PTE_P | t[i].e[0], PTE_P | t[i].e[1],
		      PTE_P | t[i].e[2], PTE_P | t[i].e[3]);
		r = mmu_walk(f->v, VA, 0, &w);
		if (r != (t[i].bad ? WALK_FAULT | PF_P | PF_RSVD : 0))
			fail_msg("case %u: %x", i, r);
	}
}

static void large_pages(void **state)
{
	struct fix *f = *state;
	const uint64_t all = PTE_P | PTE_W | PTE_U;
	struct walk w;

	paging4(f);
	path4(f, all, all, 0, 0);
	/* bit 12 is PAT in a large leaf, not an address bit */
	poke64(f, T2 + (VA >> 21 & 511) * 8,
	       0x600000 | all | PTE_PS | PTE_G | 1 << 12);
	assert_int_equal(mmu_walk(f->v, VA, WALK_WRITE, &w), 0);
	assert_int_equal(w.page_shift, 21);
	assert_int_equal(w.gpa, 0x600000 | (VA & 0x1fffff));
	assert_true(w.dirty && w.global);
	assert_int_equal(peek64(f, w.leaf_gpa), 0x600000 | all | PTE_PS |
							PTE_G | 1 << 12 |
							PTE_A | PTE_D);
	poke64(f, T1 + (VA >> 30 & 511) * 8, 0x40000000 | all | PTE_PS);
	assert_int_equal(mmu_walk(f->v, VA, 0, &w), 0);
	assert_int_equal(w.page_shift, 30);
	assert_int_equal(w.gpa, 0x40000000 | (VA & 0x3fffffff));
	assert_false(w.dirty || w.global);
}

static void pae(void **state)
{
	struct fix *f = *state;
	gva_t va = 0xc0a03123; /* PDPTE 3, PDE 5, PTE 3 */
	const uint64_t all = PTE_P | PTE_W | PTE_U;
	struct walk w;

	f->v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	f->v->cr4 = CR4_PAE;
	f->v->efer = EFER_NXE;
	f->v->cr3 = ROOT + 0x20;
	poke64(f, ROOT + 0x20 + 3 * 8, T1 | PTE_P);
	poke64(f, T1 + 5 * 8, T2 | all);
	poke64(f, T2 + 3 * 8, DATA | all);
	/* a PDPTE has no rights and no A bit */
	assert_int_equal(mmu_walk(f->v, va, WALK_WRITE | WALK_USER, &w), 0);
	assert_int_equal(w.gpa, DATA | 0x123);
	assert_int_equal(peek64(f, ROOT + 0x20 + 3 * 8), T1 | PTE_P);
	assert_int_equal(peek64(f, T1 + 5 * 8), T2 | all | PTE_A);
	assert_int_equal(peek64(f, T2 + 3 * 8), DATA | all | PTE_A | PTE_D);
	/* 62..52 are reserved here, though ignored with 4 levels */
	poke64(f, T2 + 3 * 8, DATA | all | 1ull << 52);
	assert_int_equal(mmu_walk(f->v, va, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
	poke64(f, T2 + 3 * 8, DATA | all | PTE_NX);
	assert_int_equal(mmu_walk(f->v, va, WALK_EXEC, &w),
			 WALK_FAULT | PF_P | PF_I);
	poke64(f, T1 + 5 * 8, 0x600000 | all | PTE_PS);
	assert_int_equal(mmu_walk(f->v, va, 0, &w), 0);
	assert_int_equal(w.page_shift, 21);
	assert_int_equal(w.gpa, 0x603123);
	/* a PDPTE with a writable bit has a reserved bit set */
	poke64(f, ROOT + 0x20 + 3 * 8, T1 | PTE_P | PTE_W);
	assert_int_equal(mmu_walk(f->v, va, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
}

static void legacy32(void **state)
{
	struct fix *f = *state;
	gva_t va = 0xc0803123; /* PDE 0x302, PTE 3 */
	const uint32_t all = PTE_P | PTE_W | PTE_U;
	struct walk w;

	f->v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	f->v->cr4 = 0;
	f->v->cr3 = ROOT;
	poke32(f, ROOT + 0x302 * 4, T1 | all);
	poke32(f, ROOT + 0x303 * 4, 0xdeadbeef); /* the neighbour stays */
	poke32(f, T1 + 3 * 4, DATA | all);
	assert_int_equal(mmu_walk(f->v, va, WALK_WRITE | WALK_USER, &w), 0);
	assert_int_equal(w.gpa, DATA | 0x123);
	assert_int_equal(peek32(f, ROOT + 0x302 * 4), T1 | all | PTE_A);
	assert_int_equal(peek32(f, T1 + 3 * 4), DATA | all | PTE_A | PTE_D);
	assert_int_equal(peek32(f, ROOT + 0x303 * 4), 0xdeadbeef);
	/* PS means a 4 MiB page only with CR4.PSE */
	poke32(f, ROOT + 0x302 * 4, 0x400000 | all | PTE_PS);
	poke32(f, 0x400000 + 3 * 4, DATA | all);
	assert_int_equal(mmu_walk(f->v, va, 0, &w), 0);
	assert_int_equal(w.page_shift, 12);
	f->v->cr4 = CR4_PSE;
	assert_int_equal(mmu_walk(f->v, va, 0, &w), 0);
	assert_int_equal(w.page_shift, 22);
	assert_int_equal(w.gpa, 0x400000 | (va & 0x3fffff));
	/* PSE-36: bits 20..13 are address bits 39..32; 21 is reserved */
	poke32(f, ROOT + 0x302 * 4, 0x400000 | all | PTE_PS | 0x5 << 13);
	assert_int_equal(mmu_walk(f->v, va, 0, &w), 0);
	assert_int_equal(w.gpa, 0x500400000 | (va & 0x3fffff));
	poke32(f, ROOT + 0x302 * 4, 0x400000 | all | PTE_PS | 1 << 21);
	assert_int_equal(mmu_walk(f->v, va, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
}

static void tables_outside_ram(void **state)
{
	struct fix *f = *state;
	struct walk w;

	paging4(f);
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P);
	poke64(f, T1 + (VA >> 30 & 511) * 8, 0x7000000 | PTE_P);
	assert_int_equal(mmu_walk(f->v, VA, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
	f->v->cr3 = 0x3ffffffff000;
	assert_int_equal(mmu_walk(f->v, VA, 0, &w),
			 WALK_FAULT | PF_P | PF_RSVD);
}

static void another_root(void **state)
{
	struct fix *f = *state;
	struct walk w;

	paging4(f);
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P);
	f->v->cr3 = 0;
	assert_int_equal(mmu_walk(f->v, VA, 0, &w), WALK_FAULT);
	assert_int_equal(mmu_walk_root(f->v, ROOT | 0x5, VA, 0, &w), 0);
	assert_int_equal(w.gpa, DATA | 0xabc);
}

/* In lockstep the tables are read through the log. */
static void logged_tables(void **state)
{
	struct fix *f = *state;
	struct mem_log *log = calloc(1, sizeof(*log));
	struct walk w;
	uint64_t e = 0x6000 | PTE_P | PTE_A;

	paging4(f);
	path4(f, PTE_P, PTE_P, PTE_P, PTE_P);
	log->n = 1;
	log->e[0].gpa = T3 + (VA >> 12 & 511) * 8;
	log->e[0].len = 8;
	memcpy(log->e[0].bytes, &e, 8);
	f->v->mem_log = log;
	assert_int_equal(mmu_walk(f->v, VA, 0, &w), 0);
	assert_int_equal(w.gpa, 0x6abc);
	f->v->mem_log = NULL;
	free(log);
}

/* With what the walk before learnt, the answer is that of a whole walk. */
static void probes_with_a_hint(void **state)
{
	static const uint64_t may[] = {PTE_P, PTE_P, PTE_W,  PTE_U, PTE_A,
				       PTE_D, PTE_G, PTE_NX, PTE_P, 1ull << 50};
	struct fix *f = *state;
	struct walk_hint h = {0};
	unsigned hinted = 0;

	paging4(f);
	srandom(7);
	for (unsigned n = 0; n < 4000; n++) {
		gva_t va = (VA & ~0x3ffffful) | (random() & 0x3fffff);
		struct walk a = {0}, b = {0};
		uint32_t err;

		if (n % 64 == 0) {
			/* other rights above, other leaves; a large page */
			uint64_t l[3] = {PTE_P, PTE_P, PTE_P};

			for (unsigned k = 0; k < 3; k++)
				l[k] |= (random() & (PTE_W | PTE_U)) |
					(random() & 1 ? PTE_NX : 0);
			path4(f, l[0], l[1], l[2], 0);
			poke64(f, T2 + ((VA >> 21 & 511) ^ 1) * 8,
			       random() & 1 ? 0x400000 | PTE_P | PTE_PS
					    : T3 | PTE_P | PTE_W);
			for (unsigned k = 0; k < 512; k++) {
				uint64_t e = (uint64_t)(random() & 0xff) << 12;

				for (unsigned i = 0; i < 10; i++)
					if (random() & 1 &&
					    (i < 9 || !(random() & 7)))
						e |= may[i];
				poke64(f, T3 + k * 8, e);
			}
			h = (struct walk_hint){0};
		}
		hinted += h.table && h.region == va >> 21;
		err = mmu_walk(f->v, va, WALK_PROBE, &a);
		assert_int_equal(mmu_probe(f->v, va, &h, &b), err);
		if (err)
			continue;
		assert_int_equal(a.gpa, b.gpa);
		assert_int_equal(a.page_shift, b.page_shift);
		assert_int_equal(a.leaf_gpa, b.leaf_gpa);
		assert_int_equal(a.writable, b.writable);
		assert_int_equal(a.user, b.user);
		assert_int_equal(a.nx, b.nx);
		assert_int_equal(a.global, b.global);
		assert_int_equal(a.dirty, b.dirty);
		assert_int_equal(a.accessed, b.accessed);
	}
	assert_true(hinted > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(no_paging),
		TEST(four_level),
		TEST(probe_touches_nothing),
		TEST(not_present),
		TEST(rights_matrix),
		TEST(nxe_off),
		TEST(reserved4),
		TEST(large_pages),
		TEST(pae),
		TEST(legacy32),
		TEST(tables_outside_ram),
		TEST(another_root),
		TEST(logged_tables),
		TEST(probes_with_a_hint),
	};
	return cmocka_run_group_tests_name("walk", tests, NULL, NULL);
}
