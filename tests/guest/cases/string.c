/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions: MOVS STOS LODS CMPS SCAS in every size, with each
 * repeat prefix, both directions, overlap, page crossing, 67h, a segment
 * override, source and destination in different 512 GiB slots; and faults half
 * way, where RSI, RDI and RCX must say exactly how far it got. The model works
 * on the same bytes element by element.
 */
#include "tests/guest/rt/enc.h"

#define AREA_PAGES 6
#define AREA (AREA_PAGES * PG)
static u8 *mem, *model_mem;	/* identity */
static u8 *code;
static const u64 places[] = {
	0x0000000060000000, 0x0000028000100000, 0x00007ffffff00000,
	0xffff800000100000, 0xffffff8000200000, 0xffffffff90000000,
};
#define NPLACE (sizeof(places) / sizeof(places[0]))

enum sop { MOVS, STOS, LODS, CMPS, SCAS };
static const u8 opcode[] = { 0xa4, 0xaa, 0xac, 0xa6, 0xae };

static void remap(void)
{
	for (unsigned p = 0; p < NPLACE; p++)
		for (unsigned i = 0; i < AREA_PAGES; i++)
			map_page(places[p] + i * PG, mem + i * PG, KRW);
}

/* Which places have which pages missing (bit n: page n) or read-only. */
static unsigned missing[NPLACE], readonly[NPLACE];

static u8 *emit(u8 **p, enum sop op, unsigned sz, u8 rep, u8 seg, bool a32)
{
	u8 *at;

	e8(p, 0x90);
	at = *p;
	if (a32)
		e8(p, 0x67);
	if (seg)
		e8(p, seg);
	if (rep)
		e8(p, rep);
	if (sz == 2)
		e8(p, 0x66);
	if (sz == 8)
		e8(p, 0x48);
	e8(p, opcode[op] + (sz > 1));
	e_done(p);
	return at;
}

static int place_of(u64 va)
{
	for (unsigned i = 0; i < NPLACE; i++)
		if (va - places[i] < AREA)
			return i;
	return -1;
}

/* Does an access fault? *cr2, *err for kernel mode. */
static bool faults(u64 va, unsigned sz, bool write, u64 *cr2, u64 *err)
{
	for (unsigned i = 0; i < 2; i++) {
		u64 a = i ? (va + sz - 1) & ~(PG - 1) : va;
		int p = place_of(a);
		unsigned page;

		if (i && (a ^ va) < PG)
			break;
		*cr2 = a;
		*err = write ? PF_W : 0;
		if (p < 0)
			return true;
		page = (a - places[p]) / PG;
		if (missing[p] >> page & 1)
			return true;
		if (write && readonly[p] >> page & 1) {
			*err |= PF_P;
			return true;
		}
	}
	return false;
}

static u8 *model_at(u64 va)
{
	/* elements may run from one page into the next of the same place */
	return model_mem + (va - places[place_of(va)]);
}

static u64 get(u64 va, unsigned sz)
{
	u64 v = 0;

	memcpy(&v, model_at(va), sz);
	return v;
}

/* Like the CPU, on r and model_mem. True: done; false: faulted. */
static bool model(struct regs *r, enum sop op, unsigned sz, u8 rep, bool a32,
		  u64 src_base)
{
	u64 m = a32 ? 0xffffffff : ~0ull;
	s64 step = r->rflags & FL_DF ? -(s64)sz : (s64)sz;
	u64 f, a, b, d, msz = sz == 8 ? ~0ull : (1ull << sz * 8) - 1;

	if (rep && !(r->rcx & m))
		return true;
	for (;;) {
		u64 si = (r->rsi & m) + src_base, di = r->rdi & m;
		u64 cr2, err;

		if (op == MOVS || op == LODS || op == CMPS)
			if (faults(si, sz, false, &cr2, &err))
				goto fault;
		if (op != LODS &&
		    faults(di, sz, op == MOVS || op == STOS, &cr2, &err))
			goto fault;
		switch (op) {
		case MOVS:
			a = get(si, sz);
			memcpy(model_at(di), &a, sz);
			break;
		case STOS:
			memcpy(model_at(di), &r->rax, sz);
			break;
		case LODS:
			a = get(si, sz);
			if (sz >= 4)
				r->rax = a;
			else
				r->rax = (r->rax & ~msz) | a;
			break;
		case CMPS:
		case SCAS:
			a = op == CMPS ? get(si, sz) : r->rax & msz;
			b = get(di, sz);
			d = (a - b) & msz;
			f = a < b ? FL_CF : 0;
			f |= d ? 0 : FL_ZF;
			f |= d >> (sz * 8 - 1) ? FL_SF : 0;
			f |= (a ^ b ^ d) & 0x10;
			f |= ((a ^ b) & (a ^ d)) >> (sz * 8 - 1) & 1 ? FL_OF : 0;
			f |= __builtin_parity(d & 0xff) ? 0 : FL_PF;
			r->rflags = (r->rflags & ~FL_ARITH) | f;
			break;
		}
		if (op == MOVS || op == LODS || op == CMPS)
			r->rsi = (r->rsi + step) & m;
		if (op != LODS)
			r->rdi = (r->rdi + step) & m;
		if (!rep)
			return true;
		r->rcx = (r->rcx - 1) & m;
		if (!r->rcx)
			return true;
		if (op >= CMPS && !(r->rflags & FL_ZF) == (rep == 0xf3))
			return true;
		continue;
fault:
		r->vec = 14;
		r->err = err;
		r->cr2 = cr2;
		return false;
	}
}

static void fill(void)
{
	for (unsigned i = 0; i < AREA / 8; i++)
		((u64 *)mem)[i] = rnd();
	/* runs of equal bytes, so that the compares go far */
	for (unsigned i = 0; i < 4; i++)
		memset(mem + i * PG + 0xd00, 0x33, 0x600);
	memcpy(model_mem, mem, AREA);
}

static unsigned runs, faulted;

static void one(u8 *p, enum sop op, unsigned sz, u8 rep, u8 seg, bool a32,
		struct regs *in, u64 src_base)
{
	u8 *start = p, *at = emit(&p, op, sz, rep, seg, a32);
	struct regs r = *in, w;
	bool done, differs;

	r.rip = (u64)start;
	w = r;
	done = model(&w, op, sz, rep, a32, src_base);
	run(&r);
	runs++;
	if (done) {
		w.vec = VEC_DONE;
	} else {
		faulted++;
		if (r.rip != (u64)at || r.err != w.err || r.cr2 != w.cr2)
			fail_at("fault", op, "rip %lx err %lx cr2 %lx, want %lx "
				"%lx %lx", r.rip, r.err, r.cr2, (u64)at, w.err,
				w.cr2);
		/* flags of a compare that was cut short are in between */
		if (op >= CMPS)
			w.rflags = r.rflags;
	}
	differs = memcmp(mem, model_mem, AREA);
	if (!same_regs(&w, &r, 0) || r.vec != w.vec ||
	    (r.rflags ^ w.rflags) & (FL_ARITH | FL_DF) || differs)
		fail_at("string", op, "size %u rep %x seg %x a32 %d: rsi %lx rdi "
			"%lx rcx %lx flags %lx: vec %lu flags %lx want %lx, "
			"memory %s", sz, rep, seg, a32, in->rsi, in->rdi,
			in->rcx, in->rflags, r.vec, r.rflags, w.rflags,
			differs ? "differs" : "same");
	if (differs)
		memcpy(mem, model_mem, AREA);
}

static void good_runs(void)
{
	static const u8 reps[] = { 0, 0xf3, 0xf2 };
	static const u16 counts[] = { 0, 1, 2, 7, 64, 511, 700 };
	u8 *p = code;

	part("string");
	for (unsigned op = 0; op < 5; op++)
		for (unsigned s = 0; s < 4; s++)
			for (unsigned k = 0; k < 3; k++) {
				if (p > code + 4 * PG - 64)
					p = code;
				for (unsigned c = 0; c < 7; c++)
					for (unsigned df = 0; df < 2; df++) {
						struct regs r;
						unsigned sz = 1 << s;
						u64 a = places[rnd() % NPLACE];
						u64 b = places[rnd() % NPLACE];
						u64 len = counts[c] * sz;

						if (k == 2 && op < CMPS)
							continue;
						regs_kernel(&r, p);
						r.rflags = 2 | FL_CF | FL_OF |
							   (df ? FL_DF : 0);
						r.rcx = counts[c];
						r.rsi = a + PG - 0x30 +
							rnd() % 0x40;
						r.rdi = b + PG - 0x30 +
							rnd() % 0x40;
						if (c & 1) /* overlap, equal runs */
							r.rdi = b + (r.rsi - a) +
								(c & 2 ? sz : 3);
						if (df) {
							r.rsi += len;
							r.rdi += len;
						}
						if (op == SCAS && (c & 1))
							r.rax = 0x3333333333333333;
						if (!(rnd() & 7))
							fill();
						one(p, op, sz, reps[k], 0, false,
						    &r, 0);
					}
				p += 32;
			}
}

static void overrides(void)
{
	u8 *p = code;

	part("override");
	for (unsigned i = 0; i < 40; i++) {
		static const enum sop ops[] = { MOVS, LODS, CMPS, STOS };
		u64 base = places[1 + i % (NPLACE - 1)];
		bool gs = i & 1;
		struct regs r;

		wrmsr(gs ? MSR_GS_BASE : MSR_FS_BASE, base);
		regs_kernel(&r, p);
		r.rflags = 2;
		r.rcx = i * 3;
		r.rsi = 0x100 + i;
		r.rdi = places[(i * 5) % NPLACE] + 0x2000;
		one(p, ops[i & 3], 1 << (i >> 2 & 3), i & 16 ? 0xf3 : 0,
		    gs ? 0x65 : 0x64, false, &r, base);
		p += 32;
	}
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	part("67h");
	p = code;
	for (unsigned i = 0; i < 40; i++) {
		enum sop op = i % 5;
		struct regs r;

		regs_kernel(&r, p);
		r.rflags = 2 | (i & 1 ? FL_DF : 0);
		r.rcx = 0xabcd000000000000 + i + 1;
		r.rsi = places[0] + 0x1010;
		r.rdi = places[0] + 0x3010;
		/* only what the instruction uses is cut to 32 bits */
		if (op != STOS && op != SCAS)
			r.rsi |= 0x7700000000;
		if (op != LODS)
			r.rdi |= 0x5500000000;
		one(p, op, 1 << (i & 3), 0xf3, 0, true, &r, 0);
		p += 32;
	}
}

static void faults_half_way(void)
{
	u8 *p = code;

	part("half way");
	for (unsigned i = 0; i < 600; i++) {
		enum sop op = i % 5;
		unsigned sz = 1 << (rnd() & 3), sp, dp;
		struct regs r;
		u64 span, n;

		sp = rnd() % NPLACE;
		dp = (sp + 1 + rnd() % (NPLACE - 1)) % NPLACE;
		memset(missing, 0, sizeof(missing));
		memset(readonly, 0, sizeof(readonly));
		if (rnd() & 1)
			missing[sp] |= 8;
		if (rnd() & 1)
			missing[dp] |= 4;
		else
			readonly[dp] |= 16;
		for (unsigned k = 0; k < AREA_PAGES; k++) {
			map_page(places[sp] + k * PG, mem + k * PG, KRW);
			map_page(places[dp] + k * PG, mem + k * PG, KRW);
			if (missing[sp] >> k & 1)
				unmap_page(places[sp] + k * PG);
			if (missing[dp] >> k & 1)
				unmap_page(places[dp] + k * PG);
			else if (readonly[dp] >> k & 1)
				protect_page(places[dp] + k * PG, PTE_P);
		}
		if (!(i & 15))
			fill();
		if (op == CMPS || op == SCAS) {
			memset(mem, 0x44, AREA);
			memset(model_mem, 0x44, AREA);
		}
		regs_kernel(&r, p);
		r.rflags = 2 | (i & 1 ? FL_DF : 0);
		r.rax = 0x4444444444444444;
		span = rnd() % 0x1800;
		n = span / sz + 1;
		r.rcx = n;
		r.rsi = places[sp] + 2 * PG + rnd() % PG;
		r.rdi = places[dp] + (i & 2 ? 3 : 1) * PG + rnd() % PG;
		if (i & 1) { /* downwards, start inside the area */
			r.rsi = places[sp] + 4 * PG + rnd() % PG;
			r.rdi = places[dp] + (i & 2 ? 5 : 3) * PG + rnd() % 0xf00;
		}
		/* an element that runs off the area has no model */
		if (r.rsi + n * sz + 8 > places[sp] + AREA && !(i & 1))
			r.rcx = (places[sp] + AREA - 8 - r.rsi) / sz;
		if (r.rdi + r.rcx * sz + 8 > places[dp] + AREA && !(i & 1))
			r.rcx = (places[dp] + AREA - 8 - r.rdi) / sz;
		if (p > code + 4 * PG - 64)
			p = code;
		one(p, op, sz, i % 7 ? 0xf3 : 0, 0, false, &r, 0);
		p += 32;
		if (i % 50 == 49)
			remap();
		else
			for (unsigned k = 0; k < AREA_PAGES; k++) {
				map_page(places[sp] + k * PG, mem + k * PG, KRW);
				map_page(places[dp] + k * PG, mem + k * PG, KRW);
			}
	}
	memset(missing, 0, sizeof(missing));
	memset(readonly, 0, sizeof(readonly));
	remap();
}

/* A handler that maps the page: the instruction goes on where it was. */
static unsigned mended;
static u64 mend_frames[64];
static void mend(struct regs *r)
{
	u64 a = read_cr2() & ~(PG - 1);

	mend_frames[mended] = (u64)map_page(a, NULL, KRW);
	mended++;
}

SNIP(rep_movsb, "rep movsb");
SNIP(rep_stosq, "rep stosq");
SNIP(rep_movsq_std, "std\n rep movsq\n cld");
static void demand(void)
{
	struct regs r;
	u64 va = slot_va(9, 0x10000), vb = slot_va(400, 0x20000);

	part("demand");
	set_gate(14, (void *)0, 0, 0, false);
	gate_default(14);
	handlers[14] = mend;
	regs_kernel(&r, rep_stosq);
	r.rdi = va + 4;
	r.rcx = 10 * 512;
	r.rax = 0x1122334455667788;
	run_ok(&r);
	CHECK_EQ(mended, 11);
	CHECK_EQ(r.rdi, va + 4 + 10 * PG);
	CHECK_EQ(r.rcx, 0);
	for (u64 a = va + 4; a < va + 4 + 10 * PG; a += 8)
		if (*(u64 *)a != 0x1122334455667788)
			fail_at("demand", 0, "at %lx: %lx", a, *(u64 *)a);
	regs_kernel(&r, rep_movsb);
	r.rsi = va + 100;
	r.rdi = vb + 50;
	r.rcx = 9 * PG;
	run_ok(&r);
	CHECK_EQ(mended, 11 + 10);
	CHECK(!memcmp((void *)(va + 100), (void *)(vb + 50), 9 * PG));
	regs_kernel(&r, rep_movsq_std);
	r.rsi = va + 9 * PG;
	r.rdi = vb + 30 * PG + 1;
	r.rcx = 3 * 512;
	run_ok(&r);
	CHECK_EQ(mended, 21 + 4);
	CHECK(!memcmp((void *)(va + 6 * PG + 8), (void *)(vb + 27 * PG + 9),
		      3 * PG));
	handlers[14] = NULL;
}

/* Non-canonical and hole-crossing pointers: #GP, and how far it got. */
static void holes(void)
{
	struct regs r;
	u64 last = 0x00007ffffffff000;

	part("holes");
	map_page(last, NULL, KRW);
	memset((void *)last, 0x5c, PG);
	regs_kernel(&r, rep_stosq);
	r.rdi = last + PG - 64;
	r.rcx = 100;
	r.rax = 1;
	run(&r);
	expect_fault(&r, 13, 0, rep_stosq);
	CHECK_EQ(r.rcx, 92);
	CHECK_EQ(r.rdi, last + PG);
	CHECK_EQ(*(u64 *)(last + PG - 8), 1);
	CHECK_EQ(*(u64 *)(last + PG - 72), 0x5c5c5c5c5c5c5c5c);
	regs_kernel(&r, rep_movsb);
	r.rsi = 0xffff7fffffffffff;
	r.rdi = last;
	r.rcx = 5;
	run(&r);
	expect_fault(&r, 13, 0, rep_movsb);
	CHECK_EQ(r.rcx, 5);
	regs_kernel(&r, rep_movsb);
	r.rsi = 0x1234567890123456;
	r.rdi = 0x2234567890123456;
	r.rcx = 0; /* nothing is touched */
	run_ok(&r);
	CHECK_EQ(r.rsi, 0x1234567890123456);
	unmap_page(last);
}

/* INS and OUTS on the UART's scratch register. */
SNIP(outs, "mov $0x3ff, %edx\n rep outsb\n in %dx, %al");
SNIP(ins, "mov $0x3ff, %edx\n mov $0x5a, %al\n out %al, %dx\n rep insb");
static void port_strings(void)
{
	struct regs r;
	u64 va = slot_va(33, 0);

	part("ins outs");
	map_page(va, NULL, KRW);
	for (unsigned i = 0; i < 64; i++)
		((u8 *)va)[i] = i + 1;
	regs_kernel(&r, outs);
	r.rsi = va + PG - PG;
	r.rcx = 40;
	run_ok(&r);
	CHECK_EQ(r.rax & 0xff, 40);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rsi, va + 40);
	regs_kernel(&r, ins);
	r.rdi = va + 100;
	r.rcx = 9;
	run_ok(&r);
	for (unsigned i = 0; i < 9; i++)
		CHECK_EQ(((u8 *)va)[100 + i], 0x5a);
	CHECK_EQ(((u8 *)va)[109], 0);
	CHECK_EQ(r.rdi, va + 109);
	/* off the end of the page */
	regs_kernel(&r, ins);
	r.rdi = va + PG - 3;
	r.rcx = 9;
	run(&r);
	CHECK_EQ(r.vec, 14);
	CHECK_EQ(r.cr2, va + PG);
	CHECK_EQ(r.rcx, 6);
	CHECK_EQ(r.rdi, va + PG);
	CHECK_EQ(((u8 *)va)[PG - 1], 0x5a);
	unmap_page(va);
}

int main(void)
{
	mem = pages_alloc(AREA_PAGES, PG);
	model_mem = pages_alloc(AREA_PAGES, PG);
	code = pages_alloc(4, PG);
	remap();
	fill();
	good_runs();
	overrides();
	faults_half_way();
	demand();
	holes();
	port_strings();
	printf("%u runs, %u faulted\n", runs, faulted);
	CHECK(faulted > 100);
	return 0;
}
