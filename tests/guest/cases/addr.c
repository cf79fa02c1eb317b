/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every addressing form: all bases and indexes, scales, displacements, FS and
 * GS with a base, 67h, RIP-relative, moffs64, in several 512 GiB slots. The case
 * writes the code, gives the registers values so that the address is inside a
 * known area, and compares loads, stores, read-modify-writes and LEA.
 *
 * The area is 8 pages, mapped at several places; expected contents come
 * through the identity mapping.
 */
#include "tests/guest/rt/enc.h"

#define AREA_SIZE (8 * PG)
#define MID (AREA_SIZE / 2)
static u8 *area; /* identity */
static u8 *code; /* identity, writable */

static const u64 places[] = {
	0x0000000070000000, /* low: no base reaches it */
	0xffffffff90000000, /* -2G: likewise, sign-extended */
	0x0000028000100000, /* slot 5 */
	0x00007ffffff00000, /* the end of the lower half */
	0xffff800000100000, /* the start of the upper half */
	0xffff9ab000200000,
};
#define NPLACE (sizeof(places) / sizeof(places[0]))

static void setup(void)
{
	area = pages_alloc(8, PG);
	code = pages_alloc(4, PG);
	for (unsigned p = 0; p < NPLACE; p++)
		for (unsigned i = 0; i < 8; i++)
			map_page(places[p] + i * PG, area + i * PG, KRW);
}

static void fill(void)
{
	for (unsigned i = 0; i < AREA_SIZE / 8; i++)
		((u64 *)area)[i] = 0x0101010101010101ull * (i & 0xff) ^
				   (u64)i << 32 ^ i;
}

static u64 peek(u64 off, unsigned sz)
{
	u64 v = 0;

	memcpy(&v, area + off, sz);
	return v;
}

/* Give the registers values so that the form reaches the middle of the place.
 * seg_base is added by the segment. False: this form cannot. */
static bool aim(struct regs *r, struct mem *m, u64 place, u64 seg_base, u64 next)
{
	u64 target = place + MID - seg_base;
	u64 dev;

	if (m->a32 && target >> 32)
		return false;
	if (m->base == -2) {
		m->disp = target - next;
		return (u64)(s64)m->disp == target - next;
	}
	if (m->base == -1) {
		u64 ix = 0;

		if (m->index >= 0) {
			ix = rnd() & 0xff;
			*reg_n(r, m->index) = ix;
		}
		m->disp = target - ix * m->scale;
		return (u64)(s64)m->disp == target - ix * m->scale;
	}
	if (m->disp_size == 1)
		m->disp = (int8_t)rnd();
	else if (m->disp_size == 4)
		m->disp = (int)rnd() >> (rnd() & 15);
	else
		m->disp = 0;
	if (m->index == m->base) {
		/* x * (1 + scale) mod 2^64 has no exact answer in general */
		if (m->disp_size == 4)
			m->disp >>= 16;
		target -= (s64)m->disp;
		if (target >> 63)
			return false;
		*reg_n(r, m->base) = target / (1 + m->scale);
		return true;
	}
	if (m->index >= 0) {
		/* any 64-bit index: it wraps around */
		*reg_n(r, m->index) = rnd() & 1 ? rnd() : rnd() & 0xfff;
		target -= *reg_n(r, m->index) * m->scale;
	}
	dev = rnd() & 0x7f8;
	*reg_n(r, m->base) = target - (s64)m->disp - dev;
	if (m->a32) /* the upper halves must not matter */
		*reg_n(r, m->base) ^= rnd() << 32;
	return true;
}

enum what { LOAD8, LOAD4, LOAD2, LOAD1, STORE8, STORE1, ADDM, LEA, CMPM, NWHAT };
static const struct {
	u8 prefix, op;
	bool w;
	u8 size;
} insns[NWHAT] = {
	[LOAD8] = { 0, 0x8b, true, 8 },	  [LOAD4] = { 0, 0x8b, false, 4 },
	[LOAD2] = { 0x66, 0x8b, false, 2 }, [LOAD1] = { 0, 0x8a, false, 1 },
	[STORE8] = { 0, 0x89, true, 8 },  [STORE1] = { 0, 0x88, false, 1 },
	[ADDM] = { 0, 0x01, true, 8 },	  [LEA] = { 0, 0x8d, true, 8 },
	[CMPM] = { 0, 0x3b, true, 8 },
};

static unsigned tried;

/* One form, one instruction. Code goes to *p; it is run at once. */
static void one(u8 **p, struct mem m, enum what w, unsigned reg, u64 place,
		u64 seg_base)
{
	u8 *start = *p, *end;
	struct regs r, a;
	u64 ea, off, got, want, flags, old;

	regs_kernel(&r, start);
	/* RIP-relative needs the length first */
	e_insn(p, insns[w].prefix, insns[w].w, 0, insns[w].op, reg, &m, true);
	end = *p;
	*p = start;
	if (!aim(&r, &m, place, w == LEA ? 0 : seg_base, (u64)end))
		return;
	ea = e_ea(&r, &m, (u64)end);
	off = ea + (w == LEA ? 0 : seg_base) - place;
	if (off > AREA_SIZE - 8 && w != LEA) {
		fail_at("addr", 0, "bad aim: ea %lx place %lx", ea, place);
		return;
	}
	/* flags must survive everything but ADD and CMP */
	flags = rnd() & FL_ARITH;
	r.rflags = 2 | flags;
	e_insn(p, insns[w].prefix, insns[w].w, 0, insns[w].op, reg, &m, true);
	e_done(p);
	old = w != LEA ? peek(off, 8) : 0;
	a = r;
	run(&r);
	tried++;
	got = *reg_n(&r, reg);
	switch (w) {
	case LOAD8: want = old; break;
	case LOAD4: want = (u32)old; break;
	case LOAD2: want = (*reg_n(&a, reg) & ~0xffffull) | (old & 0xffff); break;
	case LOAD1: want = (*reg_n(&a, reg) & ~0xffull) | (old & 0xff); break;
	case LEA: want = ea; break;
	default: want = *reg_n(&a, reg);
	}
	if (r.vec != VEC_DONE || got != want ||
	    (w != ADDM && w != CMPM && (r.rflags & FL_ARITH) != flags))
		fail_at("addr", w, "base %d index %d*%u disp %d (%d) seg %x "
			"a32 %d reg %u at %lx: vec %lu rip %lx cr2 %lx got %lx "
			"want %lx flags %lx", m.base, m.index, m.scale,
			m.disp_size, m.disp, m.seg, m.a32, reg, ea, r.vec, r.rip,
			r.cr2, got, want, r.rflags ^ flags);
	same_regs(&a, &r, 1 << reg);
	if (w == STORE8)
		CHECK_EQ(peek(off, 8), *reg_n(&a, reg));
	else if (w == STORE1)
		CHECK_EQ(peek(off, 8), (old & ~0xffull) |
				       (*reg_n(&a, reg) & 0xff));
	else if (w == ADDM)
		CHECK_EQ(peek(off, 8), old + *reg_n(&a, reg));
	else if (w == CMPM)
		CHECK_EQ(r.rflags & FL_ZF, old == *reg_n(&a, reg) ? FL_ZF : 0);
	else if (w != LEA)
		CHECK_EQ(peek(off, 8), old);
	if (w != LEA)
		memcpy(area + off, &old, 8);
}

/* Code is written in a ring of pages, so that most of it runs where something
 * else ran before: the code of each form is new. */
static u8 *ring(u8 *p)
{
	return p > code + 4 * PG - 64 ? code : p;
}

static void all_forms(void)
{
	static const int dsz[3] = { 0, 1, 4 };
	static const unsigned scales[4] = { 1, 2, 4, 8 };
	u8 *p = code;
	unsigned n = 0;

	for (int base = -1; base < 16; base++)
		for (int index = -1; index < 16; index++)
			for (unsigned d = 0; d < 3; d++) {
				struct mem m = {
					.base = base, .index = index,
					.disp_size = dsz[d],
					.scale = scales[n & 3],
				};

				if (!e_valid(&m) || (base < 0 && d))
					continue;
				for (unsigned k = 0; k < 2; k++, n++) {
					unsigned reg = rnd() & 15;

					if (base < 0)
						m.scale = scales[rnd() & 3];
					p = ring(p);
					one(&p, m, n % NWHAT, reg,
					    places[base < 0 ? k :
							      rnd() % NPLACE],
					    0);
				}
			}
	printf("general forms: %u\n", tried);
}

static void segments(void)
{
	static const u64 bases[] = {
		0, 0x1000, 0x0000028000000000, 0xffff9ab000000000, 0x7fff,
		0xfffffffffffff000,
	};
	static const int forms[] = { -1, 0, 3, 4, 5, 10, 11, 12, 13, 15 };
	u8 *p = code;

	part("fs gs");
	for (unsigned s = 0; s < 2; s++)
		for (unsigned b = 0; b < 6; b++) {
			wrmsr(s ? MSR_GS_BASE : MSR_FS_BASE, bases[b]);
			for (unsigned f = 0; f < sizeof(forms) / 4; f++)
				for (unsigned k = 0; k < 6; k++) {
					struct mem m = {
						.base = forms[f], .index = -1,
						.scale = 1,
						.disp_size = k & 1 ? 1 : 4,
						.seg = s ? 0x65 : 0x64,
					};
					u64 place = places[rnd() % NPLACE];

					if (k & 2) {
						m.index = rnd() & 15;
						if (m.index == 4)
							m.index = -1;
					}
					if (m.base == -1 && bases[b] >> 39)
						place = (bases[b] + 0x200000) &
							~0xfffffull;
					for (unsigned i = 0; i < NPLACE; i++)
						if (places[i] == place)
							goto found;
					continue;
found:
					p = ring(p);
					one(&p, m, rnd() % NWHAT, rnd() & 15,
					    place, bases[b]);
				}
			/* RIP-relative with a segment */
			for (unsigned k = 0; k < 2; k++) {
				struct mem m = { .base = -2, .index = -1,
						 .scale = 1,
						 .seg = s ? 0x65 : 0x64 };

				p = ring(p);
				one(&p, m, k, 9, places[0], bases[b]);
			}
		}
	/* DS, ES, SS, CS overrides do nothing in 64-bit mode */
	for (unsigned k = 0; k < 4; k++) {
		static const u8 pre[4] = { 0x26, 0x2e, 0x36, 0x3e };
		struct mem m = { .base = 3, .index = -1, .scale = 1,
				 .disp_size = 1, .seg = pre[k] };

		p = ring(p);
		one(&p, m, k, 2, places[k], 0);
	}
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

static void a32(void)
{
	u8 *p = code;

	part("67h");
	for (int base = 0; base < 16; base++)
		for (unsigned k = 0; k < 6; k++) {
			struct mem m = { .base = base, .index = -1,
					 .scale = 1 << (k & 3), .a32 = true,
					 .disp_size = k & 1 ? 4 : 1 };

			if (k & 4)
				m.index = (base + 5) & 15;
			if (!e_valid(&m))
				continue;
			p = ring(p);
			one(&p, m, k < NWHAT ? k : 0, rnd() & 15, places[0], 0);
		}
	/* fs base + 32-bit address: the sum is 64 bits wide */
	wrmsr(MSR_FS_BASE, places[2] - 0xfffff000);
	for (int base = 0; base < 16; base++) {
		struct mem m = { .base = base, .index = -1, .scale = 1,
				 .a32 = true, .disp_size = 1, .seg = 0x64 };

		p = ring(p);
		one(&p, m, base % NWHAT == LEA ? 0 : base % NWHAT, 6, places[2],
		    places[2] - 0xfffff000);
	}
	wrmsr(MSR_FS_BASE, 0);
}

/* 67h wraps at 4 GiB, also inside the address sum; an access itself that
 * crosses goes on at 4 GiB. */
static void wrap(void)
{
	struct mem m = { .base = 0, .index = 3, .scale = 4, .disp_size = 4,
			 .disp = 0x1000, .a32 = true };
	struct regs r;
	u8 *p = code;

	part("wrap");
	e_insn(&p, 0, true, 0, 0x8b, 1, &m, true);
	e_done(&p);
	fill();
	regs_kernel(&r, code);
	r.rbx = 0xffffffff40000000; /* * 4 = 0 mod 2^32 */
	r.rax = 0x12345678ffffffff & ~0xfffull;
	r.rax = (r.rax & ~0xffffffffull) | (u32)(0x70000000 - 0x1000 + 0x18);
	run_ok(&r);
	CHECK_EQ(r.rcx, peek(0x18, 8));
	/* 4G - 4, 8 bytes: half below, half above 4 GiB */
	map_page(0xfffff000, area, KRW);
	map_page(0x100000000, area + PG, KRW);
	p = code;
	m = (struct mem){ .base = 10, .index = -1, .scale = 1, .disp_size = 1,
			  .disp = -4, .a32 = true };
	e_insn(&p, 0, true, 0, 0x8b, 1, &m, true);
	e_done(&p);
	regs_kernel(&r, code);
	r.r10 = 0xabcd00000000;
	run_ok(&r);
	CHECK_EQ(r.rcx, peek(PG - 4, 8));
	/* and 64-bit sums wrap at 2^64: -8 + 16 is page 0, not mapped */
	p = code;
	m = (struct mem){ .base = 11, .index = -1, .scale = 1, .disp_size = 1,
			  .disp = 16 };
	e_insn(&p, 0, true, 0, 0x8b, 1, &m, true);
	e_done(&p);
	regs_kernel(&r, code);
	r.r11 = -8ull;
	run(&r);
	expect_pf(&r, 0, code, 8);
	unmap_page(0xfffff000);
	unmap_page(0x100000000);
}

static void moffs(void)
{
	part("moffs");
	for (unsigned i = 0; i < NPLACE * 4; i++) {
		u64 at = places[i % NPLACE] + 0x123, old, want;
		struct regs r, a;
		u8 *p = code + (i & 1) * 2 * PG;
		u8 *start = p;
		unsigned k = i / NPLACE;

		/* A0 al<-m8, A1 (rax<-m64), A2 m8<-al, A3 with 66h m16<-ax */
		if (k == 1)
			e8(&p, 0x48);
		if (k == 3)
			e8(&p, 0x66);
		e8(&p, 0xa0 + k);
		e64(&p, at);
		e_done(&p);
		old = peek(0x123, 8);
		regs_kernel(&r, start);
		a = r;
		run_ok(&r);
		same_regs(&a, &r, 1);
		want = k == 0 ? (a.rax & ~0xffull) | (old & 0xff) :
		       k == 1 ? old : a.rax;
		CHECK_EQ(r.rax, want);
		want = k == 2 ? (old & ~0xffull) | (a.rax & 0xff) :
		       k == 3 ? (old & ~0xffffull) | (a.rax & 0xffff) : old;
		CHECK_EQ(peek(0x123, 8), want);
		memcpy(area + 0x123, &old, 8);
	}
	/* with 67h: a 32-bit offset; with FS */
	u8 *p = code;
	struct regs r;

	e8(&p, 0x67);
	e8(&p, 0x48);
	e8(&p, 0xa1);
	e32(&p, 0x70000040);
	e8(&p, 0x64);
	e8(&p, 0x8a + 0);
	p[-1] = 0xa0; /* fs: mov al, moffs64 */
	e64(&p, 0x70000000 - 0x5000);
	e_done(&p);
	wrmsr(MSR_FS_BASE, 0x5001);
	fill();
	regs_kernel(&r, code);
	run_ok(&r);
	CHECK_EQ(r.rax, (peek(0x40, 8) & ~0xffull) | peek(1, 1));
	wrmsr(MSR_FS_BASE, 0);
}

/* Accesses that straddle a page, and the last bytes of a half. */
static void straddle(void)
{
	struct mem m = { .base = 7, .index = -1, .scale = 1, .disp_size = 1 };
	struct regs r;
	u8 *p = code;

	part("straddle");
	e_insn(&p, 0, true, 0, 0x8b, 0, &m, true);
	u8 *st = p;
	e_insn(&p, 0, true, 0, 0x89, 3, &m, true);
	u8 *rmw = p;
	e_insn(&p, 0, true, 0, 0x29, 3, &m, true);
	e_done(&p);
	fill();
	for (unsigned i = 0; i < NPLACE; i++)
		for (unsigned d = 1; d < 8; d++) {
			u64 old = peek(PG - d, 8);

			regs_kernel(&r, code);
			r.rdi = places[i] + PG - d;
			r.rbx = 0x1122334455667788ull * (d + 1);
			run_ok(&r);
			CHECK_EQ(r.rax, old);
			CHECK_EQ(peek(PG - d, 8), 0);
		}
	/* the second page is missing: #PF names the page's first byte */
	for (unsigned i = 0; i < NPLACE; i++) {
		u64 end = places[i] + AREA_SIZE;
		struct regs a;

		for (unsigned d = 1; d < 8; d += 2) {
			u64 old = peek(AREA_SIZE - 8, 8);

			regs_kernel(&r, st);
			r.rdi = end - d;
			a = r;
			run(&r);
			expect_pf(&r, PF_W, st, end);
			same_regs(&a, &r, 0);
			regs_kernel(&r, rmw);
			r.rdi = end - d;
			run(&r);
			tcg_rmw(&r);
			expect_pf(&r, PF_W, rmw, end);
			regs_kernel(&r, code);
			r.rdi = end - d;
			run(&r);
			expect_pf(&r, 0, code, end);
			CHECK_EQ(peek(AREA_SIZE - 8, 8), old);
		}
	}
	/* over the canonical hole: #GP, and the half below it is whole */
	map_page(0x7ffffffff000, area, KRW);
	regs_kernel(&r, code);
	r.rdi = 0x7ffffffffff8;
	r.rbx = 5;
	fill();
	run_ok(&r);
	CHECK_EQ(r.rax, (u64)(0x0101010101010101ull * 0xff ^ 0x1ffull << 32 ^
			      0x1ff));
	if (!is_tcg())
		for (unsigned d = 1; d < 8; d++) {
			regs_kernel(&r, code);
			r.rdi = 0x800000000000 - d;
			run(&r);
			expect_fault(&r, 13, 0, code);
		}
	else
		skip("straddle of the canonical hole (TCG does #PF)");
	unmap_page(0x7ffffffff000);
}

int main(void)
{
	setup();
	fill();
	all_forms();
	segments();
	a32();
	wrap();
	moffs();
	straddle();
	printf("forms: %u\n", tried);
	CHECK(tried > 1200);
	return 0;
}
