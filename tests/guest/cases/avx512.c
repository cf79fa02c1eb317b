/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AVX-512: #UD and #NM as XCR0 and CR0 have it, masked memory (no fault, no
 * change), the operands and registers that a translator treats in ways of its
 * own, gathers and scatters with faults, the places of the XSAVE family, and
 * that the registers survive what the monitor does in between. (All the
 * instructions with random operands: tests/unit/test_diff_interp.c.)
 */
#include "tests/guest/rt/rt.h"

u8 buf[4096] __attribute__((aligned(64)));
static u8 img[2][4096] __attribute__((aligned(64)));

/* What a test reads and writes: K1-7, ZMM0-31. */
struct state {
	u64 k[8];
	u8 zmm[32][64];
} __attribute__((aligned(64)));
static struct state in, out;

#define LD(n) "vmovups 64+64*" #n "(%0), %%zmm" #n "\n"
#define ST(n) "vmovups %%zmm" #n ", 64+64*" #n "(%0)\n"
#define KL(n) "kmovq 8*" #n "(%0), %%k" #n "\n"
#define KS(n) "kmovq %%k" #n ", 8*" #n "(%0)\n"
#define ALL8(o) o(0) o(1) o(2) o(3) o(4) o(5) o(6) o(7)
#define ALL32(o)                                                              \
	ALL8(o) o(8) o(9) o(10) o(11) o(12) o(13) o(14) o(15) o(16) o(17)     \
	o(18) o(19) o(20) o(21) o(22) o(23) o(24) o(25) o(26) o(27) o(28)     \
	o(29) o(30) o(31)

static void load(const struct state *s)
{
	asm volatile(ALL32(LD) ALL8(KL)::"r"(s) : "memory");
}

static void store(struct state *s)
{
	asm volatile(ALL32(ST) ALL8(KS)::"r"(s) : "memory");
}

static void randomize(void *p, unsigned n)
{
	for (unsigned i = 0; i < n; i += 8)
		*(u64 *)((u8 *)p + i) = rnd();
}

static void set_xcr0(u32 x)
{
	asm volatile("xsetbv" ::"a"(x), "d"(0), "c"(0));
}

/* ---- may it run? ---- */
SNIP(p_zmm, "vpaddd %zmm1, %zmm2, %zmm3");
SNIP(p_hi, "vpaddd %xmm17, %xmm2, %xmm3");
SNIP(p_evex, "vmovdqu64 (%r10), %xmm3");
SNIP(p_mask, "vpaddd %ymm1, %ymm2, %ymm3{%k1}");
SNIP(p_kmovr, "kmovd %eax, %k1");
SNIP(p_kmovm, "kmovq (%r10), %k1");
SNIP(p_kortest, "kortestw %k1, %k2");
SNIP(p_gather, "vpgatherdd (%r10,%zmm1), %zmm2{%k1}");
SNIP(p_ymm, "vpaddd %ymm1, %ymm2, %ymm3");
USNIP(u_zmm, "vpaddd %zmm1, %zmm2, %zmm3");
USNIP(u_kmov, "kmovd %eax, %k1");
static const struct {
	const char *name, *code;
	bool user;
} may[] = {
	{ "zmm", p_zmm, 0 },	     { "xmm17", p_hi, 0 },
	{ "evex", p_evex, 0 },	     { "mask", p_mask, 0 },
	{ "kmov r", p_kmovr, 0 },    { "kmov m", p_kmovm, 0 },
	{ "kortest", p_kortest, 0 }, { "gather", p_gather, 0 },
	{ "user zmm", u_zmm, 1 },    { "user kmov", u_kmov, 1 },
};

static void each_may(const char *what, u64 vec)
{
	struct regs r;

	part(what);
	for (unsigned i = 0; i < sizeof(may) / sizeof(*may); i++) {
		if (may[i].user)
			regs_user(&r, may[i].code);
		else
			regs_kernel(&r, may[i].code);
		r.r10 = (u64)buf;
		asm volatile("kxorq %%k1, %%k1, %%k1" ::);
		run(&r);
		if (r.vec != vec)
			fail_at(may[i].name, i, "vec %lu, not %lu", r.vec, vec);
	}
}

static void permission(void)
{
	struct regs r;

	each_may("allowed", VEC_DONE);
	part("state over XCR0");
	randomize(&in, sizeof(in));
	load(&in);
	set_xcr0(7);
	for (unsigned i = 0; i < 2; i++) { /* translated, and found again */
		for (unsigned k = 0; k < sizeof(may) / sizeof(*may); k++) {
			if (may[k].user)
				regs_user(&r, may[k].code);
			else
				regs_kernel(&r, may[k].code);
			r.r10 = (u64)buf;
			run(&r);
			if (r.vec != 6)
				fail_at(may[k].name, k, "vec %lu", r.vec);
		}
	}
	regs_kernel(&r, p_ymm);
	asm volatile("vmovups %0, %%ymm1\n vmovups %0, %%ymm2" ::"m"(in.zmm[7]));
	run_ok(&r);
	set_xcr0(0xe7);
	store(&out);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(out.k[i], in.k[i]);
	for (unsigned i = 4; i < 32; i++)
		CHECK(!memcmp(out.zmm[i], in.zmm[i], 64), "zmm%u", i);
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	regs_kernel(&r, p_zmm);
	run(&r);
	CHECK_EQ(r.vec, 6);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	write_cr0(read_cr0() | CR0_TS);
	regs_kernel(&r, p_zmm);
	run(&r);
	CHECK_EQ(r.vec, 7);
	regs_kernel(&r, p_kmovr);
	run(&r);
	CHECK_EQ(r.vec, 7);
	asm volatile("clts");
}

/* ---- operands ---- */
/* Bases and indexes that are not in the registers of their numbers, every kind
 * of displacement; the result goes through another form. */
#define MEM(name, m, sub)                                                     \
	SNIP(ld_##name, sub "vmovdqu64 " m ", %zmm17\n"                       \
			"vpaddq %zmm17, %zmm17, %zmm18\n"                     \
			"vmovdqu64 %zmm18, " m "\n")
MEM(r10, "(%r10)", "");
MEM(r10d8, "64(%r10)", "");
MEM(r10d8n, "-8192(%r10)", "");
MEM(r10odd, "-1(%r10)", "");
MEM(r11, "128(%r11)", "");
MEM(r15, "0x12340(%r15)", "");
MEM(r13, "(%r13)", "");
MEM(rbp, "(%rbp)", "");
MEM(r12, "(%r12)", "");
MEM(x, "64(%r10,%r11,2)", "mov %r8d, %r11d\n");
MEM(y, "1(%r13,%r15,8)", "mov %r8d, %r15d\n");
MEM(z, "-64(%rbx,%rcx)", "");
MEM(sp, "640(%rsp)", "");
MEM(spx, "640(%rsp,%r10)", "mov %r8d, %r10d\n");
MEM(neg, "-0x12340(%rax)", "");

static void memory(void)
{
	/* where the operand is, from what the base has */
	static const struct {
		const char *name, *code;
		s64 off;
	} t[] = {
		{ "r10", ld_r10, 0 },	     { "r10d8", ld_r10d8, 64 },
		{ "r10d8n", ld_r10d8n, -8192 }, { "r10odd", ld_r10odd, -1 },
		{ "r11", ld_r11, 128 },	     { "r15", ld_r15, 0x12340 },
		{ "r13", ld_r13, 0 },	     { "rbp", ld_rbp, 0 },
		{ "r12", ld_r12, 0 },	     { "x", ld_x, 64 + 2 * 48 },
		{ "y", ld_y, 1 + 8 * 48 },   { "z", ld_z, -64 + 48 },
		{ "sp", ld_sp, 640 },	     { "spx", ld_spx, 640 + 48 },
		{ "neg", ld_neg, -0x12340 },
	};
	u64 *q = (u64 *)(buf + 1024), was[8];
	struct regs r;

	part("memory");
	for (unsigned i = 0; i < 3 * sizeof(t) / sizeof(*t); i++) {
		unsigned k = i % (sizeof(t) / sizeof(*t));
		u64 base = (u64)q - t[k].off;

		randomize(buf, sizeof(buf));
		memcpy(was, q, 64);
		regs_kernel(&r, t[k].code);
		r.rax = r.rbx = r.rbp = r.r10 = r.r11 = r.r12 = r.r13 = r.r15 =
			r.rsp = base;
		r.rcx = r.r8 = 48;
		run_ok(&r);
		for (unsigned j = 0; j < 8; j++)
			if (q[j] != 2 * was[j]) {
				fail_at(t[k].name, k, "%lx, not %lx", q[j],
					2 * was[j]);
				break;
			}
	}
}

SNIP(g_all, "kmovq %r10, %k1\n kmovq %k1, %r11\n kmovd %r11d, %k2\n"
	    "kmovw %k2, %r15d\n kmovb %r15d, %k3\n kmovq %k3, %rbx\n"
	    "vmovq %r10, %xmm17\n vpbroadcastq %r10, %zmm18\n"
	    "vpinsrq $1, %r11, %xmm17, %xmm19\n vpextrq $1, %xmm19, %r12\n"
	    "vpextrd $0, %xmm18, %ebp\n vmovq %xmm18, %r15\n"
	    "vcvtusi2sd %r8, %xmm20, %xmm20\n vcvttsd2usi %xmm20, %r11\n"
	    "vcvtsd2si {rd-sae}, %xmm20, %r10\n vpextrw $2, %xmm18, %esi\n");
SNIP(g_sp, "mov %rsp, %rbx\n vpbroadcastq %rsp, %zmm16\n vmovq %xmm16, %rcx\n"
	   "kmovq %rcx, %k1\n kmovq %k1, %rsp\n mov %rsp, %rdx\n");

static void general(void)
{
	struct regs r;

	part("general registers");
	for (unsigned i = 0; i < 4; i++) {
		u64 x = rnd();

		regs_kernel(&r, g_all);
		r.r10 = x, r.r8 = 1000 + i;
		run_ok(&r);
		CHECK_EQ(r.rbx, (u8)x);
		CHECK_EQ(r.r12, x);
		CHECK_EQ(r.rbp, (u32)x);
		CHECK_EQ(r.r15, x);
		CHECK_EQ(r.r11, 1000 + i);
		CHECK_EQ(r.r10, 1000 + i);
		CHECK_EQ(r.rsi, (u16)(x >> 32));
		regs_kernel(&r, g_sp);
		run_ok(&r);
		CHECK_EQ(r.rcx, r.rbx);
		CHECK_EQ(r.rdx, r.rbx);
	}
}

/* ---- masks and memory ---- */
SNIP(m_load, "kmovq %r8, %k1\n.globl m_load_at\n"
	     "m_load_at: vmovdqu32 (%r10), %zmm1{%k1}{z}\n"
	     "vmovdqu64 %zmm1, buf\n");
SNIP(m_store, "kmovq %r8, %k1\n vmovdqu64 buf, %zmm1\n.globl m_store_at\n"
	      "m_store_at: vmovdqu32 %zmm1, (%r10){%k1}\n");
SNIP(m_bc, "kmovq %r8, %k1\n vpxor %xmm1, %xmm1, %xmm1\n.globl m_bc_at\n"
	   "m_bc_at: vpaddd (%r10){1to16}, %zmm1, %zmm1{%k1}\n");
SNIP(m_comp, "kmovq %r8, %k1\n vmovdqu64 buf, %zmm1\n.globl m_comp_at\n"
	     "m_comp_at: vpcompressd %zmm1, (%r10){%k1}\n");
SNIP(m_exp, "kmovq %r8, %k1\n.globl m_exp_at\n"
	    "m_exp_at: vpexpandd (%r10), %zmm1{%k1}{z}\n"
	    "vmovdqu64 %zmm1, buf\n");
extern char m_load_at[], m_store_at[], m_bc_at[], m_comp_at[], m_exp_at[];

static unsigned bits_of(u32 m)
{
	unsigned n = 0;

	for (; m; m &= m - 1)
		n++;
	return n;
}

/* An operand that ends n elements before the end of its page; a hole follows. */
static void masked(void)
{
	u64 va = slot_va(60, 0x5000);
	u32 *b = (u32 *)buf;
	u8 *page = map_page(va, NULL, KRW);
	struct regs r;

	part("masked");
	for (unsigned i = 0; i < 400; i++) {
		unsigned n = rnd() % 16; /* in the page */
		u32 m = (u16)rnd() & (i & 1 ? (1u << n) - 1 : 0xffff);
		u64 a = va + PG - 4 * n;
		bool over = m >> n;
		unsigned pop = bits_of(m), first, at;
		u32 was[16];

		randomize(page, PG);
		memcpy(was, page + PG - 4 * n, 4 * n);
		regs_kernel(&r, m_load);
		r.r8 = m | (u64)rnd() << 16, r.r10 = a;
		run(&r);
		CHECK_EQ(r.vec, over ? 14 : VEC_DONE);
		if (over) {
			CHECK_EQ(r.rip, (u64)m_load_at);
			/* the first element that is not there */
			CHECK_EQ(r.cr2, va + PG + 4 * __builtin_ctz(m >> n));
		}
		for (unsigned k = 0; k < 16 && !over; k++)
			CHECK_EQ(b[k], m >> k & 1 ? was[k] : 0);

		randomize(buf, 64);
		regs_kernel(&r, m_store);
		r.r8 = m, r.r10 = a;
		run(&r);
		CHECK_EQ(r.vec, over ? 14 : VEC_DONE);
		for (unsigned k = 0; k < n; k++)
			CHECK_EQ(((u32 *)(page + PG - 4 * n))[k],
				 m >> k & 1 && !over ? b[k] : was[k]);

		memcpy(page + PG - 4 * n, was, 4 * n);
		regs_kernel(&r, m_bc);
		r.r8 = m, r.r10 = va + PG;
		run(&r);
		CHECK_EQ(r.vec, m ? 14 : VEC_DONE);

		/* packed: as many as there are bits */
		regs_kernel(&r, m_comp);
		r.r8 = m, r.r10 = a;
		run(&r);
		CHECK_EQ(r.vec, pop > n ? 14 : VEC_DONE);
		for (first = at = 0; first < 16 && pop <= n; first++)
			if (m >> first & 1)
				CHECK_EQ(((u32 *)(page + PG - 4 * n))[at++],
					 b[first]);
		for (; at < n && pop <= n; at++)
			CHECK_EQ(((u32 *)(page + PG - 4 * n))[at], was[at]);
		memcpy(was, page + PG - 4 * n, 4 * n);
		regs_kernel(&r, m_exp);
		r.r8 = m, r.r10 = a;
		run(&r);
		CHECK_EQ(r.vec, pop > n ? 14 : VEC_DONE);
		for (first = at = 0; first < 16 && pop <= n; first++)
			CHECK_EQ(b[first], m >> first & 1 ? was[at++] : 0);
	}
	/* nothing is accessed: even where no address is */
	regs_kernel(&r, m_store);
	r.r8 = 0, r.r10 = 1ull << 50;
	run_ok(&r);
	r.r8 = 1, r.r10 = 1ull << 50;
	regs_kernel(&r, m_store);
	r.r8 = 1, r.r10 = 1ull << 50;
	run(&r);
	expect_fault(&r, 13, 0, m_store_at);
	unmap_page(va);
}

/* ---- gathers and scatters ---- */
SNIP(v_gather, "kmovq %r8, %k1\n vmovdqu64 buf, %zmm30\n"
	       "vpxor %xmm1, %xmm1, %xmm1\n vmovdqa64 %zmm1, %zmm31\n"
	       ".globl v_gather_at\n"
	       "v_gather_at: vpgatherdd (%r10,%zmm30,4), %zmm31{%k1}\n"
	       "kmovq %k1, %r9\n vmovdqu64 %zmm31, buf+64\n");
SNIP(v_scatter, "kmovq %r8, %k1\n vmovdqu64 buf, %zmm30\n"
		"vmovdqu64 buf+64, %zmm31\n.globl v_scatter_at\n"
		"v_scatter_at: vpscatterdd %zmm31, (%r10,%zmm30,4){%k1}\n"
		"kmovq %k1, %r9\n");
extern char v_gather_at[], v_scatter_at[];
static u64 k1_now(void)
{
	u64 k;

	asm volatile("kmovq %%k1, %0" : "=r"(k));
	return k;
}

static void gathers(void)
{
	u64 va = slot_va(61, 0x5000);
	u32 *b = (u32 *)buf, *p = (u32 *)map_page(va, NULL, KRW);
	struct regs r;

	part("gathers");
	for (unsigned i = 0; i < 200; i++) {
		u32 m = (u16)rnd(), before = m, bad = i & 1 ? rnd() % 16 : 16;

		randomize(p, PG);
		for (unsigned k = 0; k < 16; k++)
			b[k] = k == bad ? 1024 : 64 * k + rnd() % 64;
		regs_kernel(&r, v_gather);
		r.r8 = m | 0xabcull << 16, r.r10 = va;
		run(&r);
		if (bad < 16 && m >> bad & 1) {
			CHECK_EQ(r.vec, 14);
			CHECK_EQ(r.rip, (u64)v_gather_at);
			CHECK_EQ(r.cr2, va + PG);
			/* those before are done, and this one is not */
			before = m & ~((1u << bad) - 1);
			CHECK_EQ(k1_now() & ((2u << bad) - 1) & 0xffff,
				 before & ((2u << bad) - 1));
		} else {
			CHECK_EQ(r.vec, VEC_DONE);
			CHECK_EQ(r.r9, 0);
			for (unsigned k = 0; k < 16; k++)
				CHECK_EQ(b[16 + k],
					 m >> k & 1 ? p[b[k]] : 0);
		}
		randomize(buf + 64, 64);
		regs_kernel(&r, v_scatter);
		r.r8 = m, r.r10 = va;
		run(&r);
		if (bad < 16 && m >> bad & 1) {
			CHECK_EQ(r.vec, 14);
			CHECK_EQ(r.rip, (u64)v_scatter_at);
			CHECK(r.err == PF_W, "error %lx", r.err);
			for (unsigned k = 0; k < bad; k++)
				if (m >> k & 1)
					CHECK_EQ(p[b[k]], b[16 + k]);
		} else {
			CHECK_EQ(r.vec, VEC_DONE);
			CHECK_EQ(r.r9, 0);
			for (unsigned k = 0; k < 16; k++)
				if (m >> k & 1)
					CHECK_EQ(p[b[k]], b[16 + k]);
		}
	}
	unmap_page(va);
}

/* ---- save areas ---- */
SNIP(x_save, "mov %r8d, %eax\n xor %edx, %edx\n xsave64 (%rdi)");
SNIP(x_savec, "mov %r8d, %eax\n xor %edx, %edx\n xsavec64 (%rdi)");
SNIP(x_rstor, "mov %r8d, %eax\n xor %edx, %edx\n xrstor64 (%rdi)");

/* Is component n of the area what the registers in s are? at: its place. */
static void check_component(const struct state *s, unsigned n, const u8 *at)
{
	switch (n) {
	case 5:
		CHECK(!memcmp(at, s->k, 64), "masks");
		break;
	case 6:
		for (unsigned i = 0; i < 16; i++)
			CHECK(!memcmp(at + 32 * i, s->zmm[i] + 32, 32),
			      "zmm%u", i);
		break;
	case 7:
		for (unsigned i = 0; i < 16; i++)
			CHECK(!memcmp(at + 64 * i, s->zmm[16 + i], 64),
			      "zmm%u", 16 + i);
	}
}

static const u8 *place(const u8 *area, unsigned n, u32 mask, bool compact)
{
	u32 off = 576;

	if (!compact)
		return area + cpuid(13, n).b;
	for (unsigned i = 2; i < n; i++)
		if (mask >> i & 1)
			off += cpuid(13, i).a;
	return area + off;
}

static void save_one(u32 mask, bool compact)
{
	static struct state other, want;
	struct regs r, a;

	randomize(&in, sizeof(in));
	randomize(&other, sizeof(other));
	memset(img, 0, sizeof(img));
	load(&in);
	regs_kernel(&r, compact ? x_savec : x_save);
	r.r8 = mask, r.rdi = (u64)img[0];
	a = r;
	run_ok(&r);
	same_regs(&a, &r, 5);
	for (unsigned n = 5; n < 8; n++)
		if (mask >> n & 1)
			check_component(&in, n,
					place(img[0], n, mask, compact));
	CHECK_EQ(*(u64 *)(img[0] + 512) & 0xe6, mask & 0xe6);
	CHECK_EQ(*(u64 *)(img[0] + 520), compact ? mask | 1ull << 63 : 0);
	if (!compact)
		CHECK_EQ(*(u64 *)(img[0] + cpuid(13, 0).b), 0);
	load(&other);
	regs_kernel(&r, x_rstor);
	r.r8 = mask | 0xff000000, r.rdi = (u64)img[0];
	run_ok(&r);
	store(&out);
	want = other;
	if (mask >> 5 & 1)
		memcpy(want.k, in.k, 64);
	for (unsigned i = 0; i < 16; i++) {
		if (mask & 2)
			memcpy(want.zmm[i], in.zmm[i], 16);
		if (mask & 4)
			memcpy(want.zmm[i] + 16, in.zmm[i] + 16, 16);
		if (mask & 0x40)
			memcpy(want.zmm[i] + 32, in.zmm[i] + 32, 32);
		if (mask & 0x80)
			memcpy(want.zmm[16 + i], in.zmm[16 + i], 64);
	}
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(out.k[i], want.k[i]);
	for (unsigned i = 0; i < 32; i++)
		if (memcmp(out.zmm[i], want.zmm[i], 64))
			fail_at("xrstor", i, "zmm%u mask %x compact %d", i,
				mask, compact);
}

static void saves(void)
{
	struct cpuid d = cpuid(13, 0);
	struct regs r;
	u32 sum = 576;

	part("xsave");
	CHECK_EQ(d.a & 0xe7, 0xe7);
	for (unsigned n = 2; n < 8; n++)
		sum += n == 3 || n == 4 ? 0 : cpuid(13, n).a;
	CHECK_EQ(cpuid(13, 5).a, 64);
	CHECK_EQ(cpuid(13, 6).a, 512);
	CHECK_EQ(cpuid(13, 7).a, 1024);
	CHECK_EQ(d.b, cpuid(13, 7).a + cpuid(13, 7).b);
	set_xcr0(7);
	CHECK_EQ(cpuid(13, 0).b, 832);
	CHECK_EQ(cpuid(13, 0).c, d.c);
	set_xcr0(0xe7);
	CHECK_EQ(cpuid(13, 0).b, d.b);
	if (has_xsavec())
		CHECK_EQ(cpuid(13, 1).b, sum);
	for (unsigned i = 0; i < 60; i++) {
		save_one(rnd() & 0xe7, false);
		if (has_xsavec())
			save_one(rnd() & 0xe7, true);
	}
	save_one(0xe7, false);
	/* x87 in use: another way in the translator */
	asm volatile("fldpi");
	save_one(0xe7, false);
	if (has_xsavec())
		save_one(0xe7, true);
	asm volatile("fninit");
	/* initial states come back */
	load(&in);
	memset(img, 0, sizeof(img));
	*(u32 *)(img[0] + 24) = 0x1f80;
	regs_kernel(&r, x_rstor);
	r.r8 = 0xe7, r.rdi = (u64)img[0];
	run_ok(&r);
	store(&out);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(out.k[i], 0);
	for (unsigned i = 0; i < 32 * 8; i++)
		CHECK_EQ(((u64 *)out.zmm)[i], 0);
	/* the header asks for what is not in XCR0 */
	set_xcr0(7);
	*(u64 *)(img[0] + 512) = 0x20;
	regs_kernel(&r, x_rstor);
	r.r8 = 7, r.rdi = (u64)img[0];
	run(&r);
	expect_fault(&r, 13, 0, x_rstor + 5);
	*(u64 *)(img[0] + 512) = 0, *(u64 *)(img[0] + 520) = 1ull << 63 | 0xe0;
	regs_kernel(&r, x_rstor);
	r.r8 = 7, r.rdi = (u64)img[0];
	run(&r);
	expect_fault(&r, 13, 0, x_rstor + 5);
	set_xcr0(0xe7);
}

/* ---- in between ---- */
SNIP(b_int, "int3\n");
USNIP(b_user, "vpaddd %zmm31, %zmm31, %zmm30\n");
/* What VEX and SSE instructions leave of the upper halves */
SNIP(b_upper, "vmovups buf, %xmm1\n movups buf, %xmm2\n"
	      "vaddps %ymm3, %ymm3, %ymm3\n addps %xmm4, %xmm4\n"
	      "vmovq %rax, %xmm5\n");
SNIP(b_zero, "vzeroupper");

static void survives(void)
{
	struct regs r;

	part("survives");
	randomize(&in, sizeof(in));
	load(&in);
	for (unsigned i = 0; i < 60; i++) {
		regs_kernel(&r, b_int);
		run(&r);
		cpuid(0, 0);
		outb(0x80, i);
		map_page(slot_va(62, i * PG), NULL, KRW);
		*(volatile u64 *)slot_va(62, i * PG) = i;
	}
	store(&out);
	CHECK(!memcmp(&in, &out, sizeof(in)), "registers");
	regs_user(&r, b_user);
	load(&in);
	run_ok(&r);
	store(&out);
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(((u32 *)out.zmm[30])[i], 2 * ((u32 *)in.zmm[31])[i]);
	load(&in);
	regs_kernel(&r, b_upper);
	run_ok(&r);
	store(&out);
	for (unsigned i = 2; i < 8; i++) {
		CHECK_EQ(((u64 *)out.zmm[1])[i], 0);
		CHECK_EQ(((u64 *)out.zmm[2])[i], ((u64 *)in.zmm[2])[i]);
		CHECK(i < 4 || !((u64 *)out.zmm[3])[i]);
		CHECK_EQ(((u64 *)out.zmm[4])[i], ((u64 *)in.zmm[4])[i]);
		CHECK_EQ(((u64 *)out.zmm[5])[i], 0);
	}
	load(&in);
	regs_kernel(&r, b_zero);
	run_ok(&r);
	store(&out);
	for (unsigned i = 0; i < 32; i++) {
		static const u8 zero[64];

		CHECK(!memcmp(out.zmm[i], in.zmm[i], 16));
		CHECK(!memcmp(out.zmm[i] + 16, i < 16 ? zero : in.zmm[i] + 16,
			      48), "zmm%u", i);
	}
}

int main(void)
{
	if (!xsave_enable() || !has_avx512()) {
		skip("AVX-512");
		return 0;
	}
	permission();
	memory();
	general();
	masked();
	gathers();
	saves();
	survives();
	return 0;
}
