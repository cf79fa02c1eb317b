/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Properties of system semantics over random guest state (a guest controls its
 * page tables, descriptor tables, TSS, stacks and registers):
 *
 *   walk	  mmu_walk answers and marks what a second, plainly written model of
 *	  SDM vol. 3, 4.3 to 4.7 does, for random tables in every paging mode.
 *   memory  mem_read and mem_write move exactly the bytes that byte-wise
 *	  translation by the model names, or fault and move none.
 *   atomic  every operation of sys.h that answers CPU_EXC has changed no
 *	  register; what it answers leaves a state that a CPU can be in.
 *
 * PROP_SEED in the environment repeats a run, PROP_SCALE lengthens it.
 */
#include <stdlib.h>

#include "tests/unit/sys_fixture.h"

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull;
}
static unsigned below(unsigned n)
{
	return (rnd() >> 33) % n;
}
static bool chance(unsigned percent)
{
	return below(100) < percent;
}
static unsigned rounds(unsigned n)
{
	const char *s = getenv("PROP_SCALE");

	return s ? n * (unsigned)strtoul(s, NULL, 0) : n;
}

/* ---- the model of paging ---- */

struct model {
	uint32_t fault; /* 0 or error code | WALK_FAULT */
	gpa_t gpa;
	unsigned shift;
	bool w, u, nx;
	gpa_t used[4]; /* entries that must have A */
	unsigned n_used, size;
};

static uint64_t entry_at(struct fix *f, gpa_t a, unsigned size)
{
	uint64_t e = 0;

	if (p2m_copy_out(f->vm.p2m, a, &e, size))
		return size == 8 ? ~0ull : 0xffffffff;
	return e;
}

static uint64_t bits(unsigned hi, unsigned lo)
{
	return (~0ull >> (63 - hi)) & (~0ull << lo);
}

static uint32_t model_error(struct vcpu *v, unsigned acc, uint32_t e)
{
	bool i = (acc & WALK_EXEC) &&
		 ((v->cr4 & CR4_SMEP) ||
		  ((v->cr4 & CR4_PAE) && (v->efer & EFER_NXE)));

	return WALK_FAULT | e | (acc & WALK_WRITE ? PF_W : 0) |
	       (acc & WALK_USER ? PF_U : 0) | (i ? PF_I : 0);
}

/* 4.3, tables 4-3 to 4-6 */
static void model_32(struct fix *f, gva_t a, unsigned acc, struct model *m)
{
	struct vcpu *v = f->v;
	gpa_t at = (v->cr3 & 0xfffff000) | (a >> 22 & 0x3ff) << 2;
	uint32_t pde = entry_at(f, at, 4), pte;

	m->size = 4;
	m->used[m->n_used++] = at;
	if (!(pde & 1)) {
		m->fault = model_error(v, acc, 0);
		return;
	}
	m->w = pde & 2;
	m->u = pde & 4;
	if ((pde & 0x80) && (v->cr4 & CR4_PSE)) {
		if (pde & bits(21, 21)) {
			m->fault = model_error(v, acc, PF_P | PF_RSVD);
			return;
		}
		m->shift = 22;
		m->gpa = (pde & bits(31, 22)) |
			 ((uint64_t)pde & bits(20, 13)) << 19 |
			 (a & bits(21, 0));
		return;
	}
	at = (pde & 0xfffff000) | (a >> 12 & 0x3ff) << 2;
	pte = entry_at(f, at, 4);
	m->used[m->n_used++] = at;
	if (!(pte & 1)) {
		m->fault = model_error(v, acc, 0);
		return;
	}
	m->w &= !!(pte & 2);
	m->u &= !!(pte & 4);
	m->shift = 12;
	m->gpa = (pte & 0xfffff000) | (a & 0xfff);
}

/* 4.4 and 4.5: from a given level down (4 = PML4E ... 1 = PTE) */
static void model_64(struct fix *f, gpa_t table, unsigned level, gva_t a,
		     unsigned acc, struct model *m, bool pae)
{
	struct vcpu *v = f->v;
	unsigned low = 12 + 9 * (level - 1);
	unsigned idx = a >> low & (pae && level == 3 ? 3 : 511);
	gpa_t at = table + idx * 8;
	uint64_t e = entry_at(f, at, 8), rsvd = bits(51, MMU_PHYS_BITS);
	bool pdpte = pae && level == 3, large;

	m->size = 8;
	if (!pdpte)
		m->used[m->n_used++] = at;
	if (!(e & 1)) {
		m->fault = model_error(v, acc, 0);
		return;
	}
	if (!(v->efer & EFER_NXE) || pdpte)
		rsvd |= bits(63, 63);
	if (pae)
		rsvd |= bits(62, 52);
	if (pdpte)
		rsvd |= bits(2, 1) | bits(8, 5);
	if (level == 4)
		rsvd |= bits(7, 7);
	large = (e & 0x80) && (level == 2 || (level == 3 && !pae));
	if (large)
		rsvd |= bits(low - 1, 13);
	if (e & rsvd) {
		m->fault = model_error(v, acc, PF_P | PF_RSVD);
		return;
	}
	if (!pdpte) {
		m->w &= !!(e & 2);
		m->u &= !!(e & 4);
		m->nx |= e >> 63;
	}
	if (large || level == 1) {
		m->shift = low;
		m->gpa = (e & bits(51, low)) | (a & (bits(low - 1, 0)));
		return;
	}
	model_64(f, e & bits(51, 12), level - 1, a, acc, m, pae);
}

static void model_rights(struct vcpu *v, unsigned acc, struct model *m)
{
	bool user = acc & WALK_USER, ok = true;

	if (user && !m->u)
		ok = false;
	if ((acc & WALK_WRITE) && !m->w && (user || (v->cr0 & CR0_WP)))
		ok = false;
	if ((acc & WALK_EXEC) && m->nx)
		ok = false;
	if ((acc & WALK_EXEC) && !user && m->u && (v->cr4 & CR4_SMEP))
		ok = false;
	if (!ok)
		m->fault = model_error(v, acc, PF_P);
}

static void model_walk(struct fix *f, gva_t a, unsigned acc, struct model *m)
{
	struct vcpu *v = f->v;

	*m = (struct model){.w = true, .u = true};
	if (!(v->cr0 & CR0_PG)) {
		m->gpa = a;
		return;
	}
	if (v->in_long_mode)
		model_64(f, v->cr3 & bits(51, 12), 4, a, acc, m, false);
	else if (v->cr4 & CR4_PAE)
		model_64(f, v->cr3 & 0xffffffe0, 3, a, acc, m, true);
	else
		model_32(f, a, acc, m);
	if (!m->fault)
		model_rights(v, acc, m);
}

/* ---- random page tables ---- */

#define AREA	TABLES
#define N_PAGES 24 /* of tables; entries point at each other and at data */
#define DATA	0x100000ul
#define N_DATA	16

static uint64_t random_entry(unsigned mode)
{
	uint64_t e = chance(75) ? AREA + below(N_PAGES) * PAGE_SIZE
				: DATA + below(N_DATA) * PAGE_SIZE;

	if (chance(20)) /* aligned for a large page */
		e &= ~0x1fffffull;
	e |= chance(92) | (uint64_t)chance(80) << 1 | (uint64_t)chance(80) << 2;
	e |= (rnd() & 0x178); /* PWT PCD A D G */
	if (chance(12))
		e |= PTE_PS;
	if (mode == 0)
		return chance(5) ? e | 1ull << (13 + below(9)) : e;
	if (chance(8))
		e |= PTE_NX;
	if (mode == 1 && chance(60)) /* fit for a PDPTE */
		e &= ~0x1e6ull;
	if (chance(3))
		e |= 1ull << (MMU_PHYS_BITS + below(63 - MMU_PHYS_BITS));
	if (chance(2))
		e |= rnd() & 0x3ffffffff000;
	return e;
}

static void random_tables(struct fix *f, unsigned mode)
{
	uint64_t page[512];
	uint32_t *half = (uint32_t *)page;

	for (unsigned p = 0; p < N_PAGES; p++) {
		for (unsigned i = 0; i < 512; i++) {
			if (mode) {
				page[i] = random_entry(mode);
				continue;
			}
			half[2 * i] = random_entry(0);
			half[2 * i + 1] = random_entry(0);
		}
		poke(f, AREA + p * PAGE_SIZE, page, PAGE_SIZE);
	}
}

static void random_mode(struct fix *f, unsigned mode)
{
	struct vcpu *v = f->v;

	v->cr0 = CR0_PE | CR0_PG | (chance(50) ? CR0_WP : 0);
	v->cr4 = (mode ? CR4_PAE : 0) | (chance(50) ? CR4_PSE : 0) |
		 (chance(50) ? CR4_PGE : 0) | (chance(50) ? CR4_SMEP : 0);
	v->efer = (chance(75) ? EFER_NXE : 0) |
		  (mode == 2 ? EFER_LME | EFER_LMA : 0);
	v->in_long_mode = mode == 2;
	v->cr3 = AREA + below(N_PAGES) * PAGE_SIZE;
	v->cpl = chance(50) ? 3 : 0;
	mem_flush(v);
}

static gva_t random_gva(unsigned mode)
{
	uint64_t a = rnd();

	if (mode < 2)
		return (uint32_t)a;
	return (uint64_t)((int64_t)(a << 16) >> 16);
}

static unsigned random_access(void)
{
	unsigned acc = chance(50) ? WALK_USER : 0;

	return acc | (chance(40) ? WALK_WRITE : chance(40) ? WALK_EXEC : 0);
}

/* A at each entry used, D at the last if written, nothing else changed. */
static void check_marks(struct fix *f, const struct model *m, unsigned acc,
			const uint64_t *old)
{
	for (unsigned i = 0; i < m->n_used; i++) {
		uint64_t now = entry_at(f, m->used[i], m->size);
		uint64_t want = old[i] | PTE_A;

		if (i == m->n_used - 1 && (acc & WALK_WRITE))
			want |= PTE_D;
		/* tables may contain each other: a bit set through one entry
		 * may be seen in another */
		if ((now & want) != want || (now & ~(want | PTE_A | PTE_D)))
			fail_msg("entry %lx: %lx -> %lx", m->used[i], old[i],
				 now);
	}
}

static void walk_is_the_model(void **state)
{
	struct fix *f = *state;
	unsigned good = 0, bad[4] = {0};

	for (unsigned round = 0; round < rounds(300); round++) {
		unsigned mode = below(3);

		random_tables(f, mode);
		for (unsigned i = 0; i < 200; i++) {
			unsigned acc = random_access();
			gva_t a = random_gva(mode);
			uint64_t old[4];
			struct model m;
			struct walk w;
			uint32_t r;

			if (i % 20 == 0)
				random_mode(f, mode);
			model_walk(f, a, acc, &m);
			for (unsigned k = 0; k < m.n_used; k++)
				old[k] = entry_at(f, m.used[k], m.size);
			r = mmu_walk(f->v, a, acc, &w);
			if (r != m.fault)
				fail_msg("mode %u %lx acc %x: %x, not %x", mode,
					 a, acc, r, m.fault);
			if (r) {
				bad[r & PF_RSVD ? 2 : r & PF_P ? 1 : 0]++;
				for (unsigned k = 0; k < m.n_used; k++)
					assert_true(entry_at(f, m.used[k],
							     m.size) == old[k]);
				continue;
			}
			good++;
			assert_true(w.gpa == m.gpa);
			assert_int_equal(w.page_shift, m.shift);
			assert_int_equal(w.writable, m.w);
			assert_int_equal(w.user, m.u);
			assert_int_equal(w.nx, m.nx);
			check_marks(f, &m, acc, old);
		}
	}
	print_message("# walks: %u good, %u absent, %u denied, %u reserved\n",
		      good, bad[0], bad[1], bad[2]);
	assert_true(good > 100 && bad[0] > 100 && bad[1] > 100 && bad[2] > 100);
}

/* ---- memory ---- */

/* Byte by byte through the model; false: it faults, at *cr2. */
static bool model_bytes(struct fix *f, gva_t a, unsigned len, unsigned acc,
			gpa_t *at, gva_t *cr2)
{
	struct model m;

	for (unsigned i = 0; i < len; i++) {
		model_walk(f, a + i, acc, &m);
		if (m.fault) {
			*cr2 = i ? (a + i) & PAGE_MASK : a;
			return false;
		}
		at[i] = m.gpa;
	}
	return true;
}

static bool all_ram(struct fix *f, const gpa_t *at, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (p2m_get_state(f->vm.p2m, gpa_to_ppn(at[i])) == P2M_NONE)
			return false;
	return true;
}

/* Long mode, four-level, tables kept clear of the data that is written. */
static void memory_is_the_model(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	unsigned moved = 0, faulted = 0;

	long_mode(f);
	for (unsigned round = 0; round < rounds(20000); round++) {
		gva_t base = 0x7f0000000000ull, a, cr2 = 0;
		unsigned len = 1 + below(32), acc;
		uint8_t buf[32], got[32] = {0};
		enum cpu_status s;
		gpa_t at[32];
		bool ok, wr = chance(50);

		if (round % 16 == 0) {
			for (unsigned p = 0; p < 4; p++)
				map_page(f, base + p * PAGE_SIZE,
					 DATA + below(N_DATA) * PAGE_SIZE,
					 (chance(85) ? PTE_P : 0) |
						 (chance(70) ? PTE_W : 0) |
						 (chance(70) ? PTE_U : 0));
			mem_flush(v);
			v->cpl = chance(50) ? 3 : 0;
		}
		if (chance(2)) /* like a shared or scanned page */
			p2m_set_code(f->vm.p2m,
				     (ppn_t){(DATA >> 12) + below(N_DATA)},
				     chance(50));
		a = base + below(3 * PAGE_SIZE);
		if (chance(50))
			a = base + (1 + below(3)) * PAGE_SIZE - below(33);
		acc = (v->cpl == 3 ? WALK_USER : 0) | (wr ? WALK_WRITE : 0);
		ok = model_bytes(f, a, len, acc, at, &cr2) &&
		     all_ram(f, at, len);
		for (unsigned i = 0; i < len; i++)
			buf[i] = rnd();
		s = wr ? mem_write(v, a, buf, len, 0)
		       : mem_read(v, a, got, len, 0);
		assert_int_equal(s, ok ? CPU_OK : CPU_EXC);
		if (!ok) {
			assert_int_equal(v->exc.vector, EXC_PF);
			assert_true(v->exc.cr2 == cr2);
			faulted++;
			continue;
		}
		moved++;
		for (unsigned i = 0; i < len; i++) {
			uint8_t byte;

			p2m_copy_out(f->vm.p2m, at[i], &byte, 1);
			/* two of the pages may be the same frame */
			if (wr && len > 1 && at[i] == at[0] && i)
				break;
			assert_int_equal(byte, wr ? buf[i] : got[i]);
		}
	}
	print_message("# accesses: %u moved, %u faulted\n", moved, faulted);
	assert_true(moved > 1000 && faulted > 1000);
	assert_int_equal(p2m_audit(f->vm.p2m), 0);
}

/* ---- operations ---- */

struct image {
	struct vcpu_arch arch;
	uint64_t gpr[16];
};

static void take(const struct vcpu *v, struct image *im)
{
	memcpy(&im->arch, v, sizeof(im->arch));
	memcpy(im->gpr, v->gpr, sizeof(im->gpr));
}

static uint16_t random_sel(void)
{
	if (chance(85))
		return (below(S_LAST / 8) << 3) | (chance(30) ? below(8) : 0);
	return rnd();
}

static uint64_t random_address(void)
{
	switch (below(8)) {
	case 0:
		return rnd();
	case 1:
		return 1ull << 47;
	case 2:
		return 0xffff800000000000ull | (rnd() & 0xffffff);
	default:
		return below(8 << 20);
	}
}

/* Break a few things in the tables that the fixture made. */
static void random_damage(struct fix *f)
{
	for (unsigned i = below(4); i; i--) {
		gpa_t at = GDT + below(S_LAST);
		uint64_t d = peek64(f, at & ~7ul);

		poke64(f, at & ~7ul, d ^ 1ull << below(64));
	}
	for (unsigned i = below(3); i; i--) {
		gpa_t at = IDT + below(0x1000);
		uint64_t d = peek64(f, at & ~7ul);

		poke64(f, at & ~7ul, d ^ 1ull << below(64));
	}
	if (chance(10))
		poke64(f, TSS + 4 * below(26), random_address());
	if (chance(10))
		f->v->gdtr.limit = below(S_LAST);
	if (chance(5))
		f->v->idtr.limit = below(0x1000);
	if (chance(5))
		f->v->tr.limit = below(0x70);
}

static void random_stack(struct fix *f)
{
	uint64_t sp = chance(90) ? (f->v->cpl ? USER_STACK : STACK) - 64
				 : random_address();
	gpa_t at = f->v->cpl ? USER_STACK - 64 : STACK - 64;

	f->v->gpr[R_RSP] = sp;
	for (unsigned i = 0; i < 8; i++) {
		uint64_t val = i == 0 || i == 3 ? random_address()
			       : i == 2		? rnd() & 0x3fffff
						: random_sel();

		poke64(f, at + 8 * i, val);
	}
}

static enum cpu_status random_op(struct fix *f, unsigned *op)
{
	static const unsigned sizes[] = {2, 4, 8};
	struct vcpu *v = f->v;
	/* 8 needs REX.W */
	unsigned size = sizes[below(vcpu_code64(v) ? 3 : 2)];
	uint64_t val, d[2] = {below(8), random_address()};
	uint32_t v32;
	gva_t a;

	switch (*op = below(24)) {
	case 0:
		return cpu_load_seg(v, below(NR_SEGS), random_sel());
	case 1:
		return cpu_far_jmp(v, random_sel(), random_address(), size);
	case 2:
		return cpu_far_call(v, random_sel(), random_address(), size,
				    random_address());
	case 3:
		return cpu_far_ret(v, size, chance(20) ? 8 : 0);
	case 4:
		return cpu_iret(v, size);
	case 5:
		return cpu_soft_interrupt(v, below(256), 0x8002);
	case 6:
		return cpu_lldt(v, random_sel());
	case 7:
		return cpu_ltr(v, random_sel());
	case 8:
		return cpu_lgdt(v, chance(50), 0xfff, random_address());
	case 9:
		return cpu_write_cr(
			v, 0, chance(50) ? rnd() : v->cr0 ^ 1ull << below(32));
	case 10:
		return cpu_write_cr(v, 3, chance(50) ? rnd() : v->cr3);
	case 11:
		return cpu_write_cr(v, 4, v->cr4 ^ 1ull << below(24));
	case 12:
		return cpu_write_cr(v, 8, below(32));
	case 13:
		return cpu_wrmsr(v,
				 chance(50) ? 0xc0000080 + below(8)
					    : 0xc0000100 + below(4),
				 rnd());
	case 14:
		return cpu_wrmsr(v, below(0x900), rnd());
	case 15:
		return cpu_rdmsr(v, rnd(), &val);
	case 16:
		return cpu_invpcid(v, below(6), d);
	case 17:
		return cpu_xsetbv(v, below(2), below(16));
	case 18:
		return cpu_syscall(v, 0x8002);
	case 19:
		v->gpr[R_RCX] = random_address();
		v->gpr[R_R11] = rnd();
		return cpu_sysret(v, size);
	case 20:
		v->gpr[R_RCX] = random_address();
		v->gpr[R_RDX] = random_address();
		return chance(50) ? cpu_sysexit(v, size) : cpu_sysenter(v, 0);
	case 21:
		return seg_linear(v, below(NR_SEGS), random_address(), 8,
				  MEM_WRITE, &a);
	case 22:
		return cpu_write_dr(v, below(9), rnd());
	default:
		return cpu_in(v, rnd(), 1 << below(3), &v32);
	}
}

/* A state that a CPU can be in after any of these. */
static void check_state(const struct vcpu *v, unsigned op, bool *real)
{
	bool lma = v->efer & EFER_LMA;

	/* a CS that real mode loaded says nothing, until it is loaded anew */
	*real |= !(v->cr0 & CR0_PE);

	if (lma != v->in_long_mode ||
	    lma != ((v->efer & EFER_LME) && (v->cr0 & CR0_PG)) ||
	    ((v->cr0 & CR0_PG) && !(v->cr0 & CR0_PE)) ||
	    (lma && !(v->cr4 & CR4_PAE)) || !(v->rflags & FL_R1) ||
	    (v->rflags & (FL_VM | 0xffffffffffc08028)))
		fail_msg("op %u: modes", op);
	if (!*real) {
		uint16_t cs = v->seg[SEG_CS].attr;

		if (v->cpl != (v->seg[SEG_CS].sel & 3))
			fail_msg("op %u: cpl %u cs %x", op, v->cpl,
				 v->seg[SEG_CS].sel);
		if (!(cs & SEG_ATTR_P) || (cs & 0x18) != 0x18 ||
		    (lma && (cs & SEG_ATTR_L) && (cs & SEG_ATTR_DB)))
			fail_msg("op %u: cs attr %x", op, cs);
	}
	if (vcpu_code64(v) ? !gva_canonical(v->rip) : v->rip >> 32)
		fail_msg("op %u: rip %lx", op, v->rip);
	for (unsigned s = 0; s < NR_SEGS; s++)
		if (!gva_canonical(v->seg[s].base))
			fail_msg("op %u: base of %u", op, s);
}

static void check_unchanged(const struct vcpu *v, const struct image *was,
			    unsigned op)
{
	struct image now;

	take(v, &now);
	if (op == 19 || op == 20) { /* the test itself set these */
		now.gpr[R_RCX] = was->gpr[R_RCX];
		now.gpr[R_RDX] = was->gpr[R_RDX];
		now.gpr[R_R11] = was->gpr[R_R11];
	}
	if (memcmp(&now, was, sizeof(now)))
		fail_msg("op %u raised %u and changed something", op,
			 v->exc.vector);
}

static void operations_are_atomic(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	unsigned ok = 0, exc = 0, stop = 0, op;
	static struct image was;

	for (unsigned round = 0; round < rounds(400); round++) {
		bool real = false;

		f->next_table = TABLES + PAGE_SIZE;
		vcpu_reset(v);
		if (chance(75))
			long_mode(f);
		else
			prot_mode(f);
		if (v->in_long_mode && chance(40))
			go_user(f);
		v->star = (uint64_t)S_UCODE32 << 48 | (uint64_t)S_CODE64 << 32;
		v->sysenter_cs = S_CODE64;
		if (chance(50))
			cpu_lldt(v, S_LDT);
		random_damage(f);
		for (unsigned i = 0; i < 40; i++) {
			enum cpu_status s;

			random_stack(f);
			v->exc.pending = false;
			take(v, &was);
			s = random_op(f, &op);
			if (s == CPU_EXIT) {
				stop++;
				break;
			}
			if (s == CPU_EXC) {
				exc++;
				assert_true(v->exc.pending);
				check_unchanged(v, &was, op);
				if (chance(80))
					continue;
				s = cpu_deliver_exception(v);
				assert_true(s == CPU_OK || s == CPU_EXIT);
				if (s == CPU_EXIT)
					break;
				op += 100;
			}
			ok++;
			assert_false(v->exc.pending);
			check_state(v, op, &real);
		}
	}
	print_message("# operations: %u done, %u faulted, %u stopped\n", ok,
		      exc, stop);
	assert_true(ok > 1000 && exc > 1000);
}

static int start(void **state)
{
	const char *s = getenv("PROP_SEED");

	seed = s ? strtoull(s, NULL, 0) : 0x5a7d17e;
	return fix_setup(state);
}

#define PROP(name) cmocka_unit_test_setup_teardown(name, start, fix_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROP(walk_is_the_model),
		PROP(memory_is_the_model),
		PROP(operations_are_atomic),
	};
	return cmocka_run_group_tests_name("sys properties", tests, NULL, NULL);
}
