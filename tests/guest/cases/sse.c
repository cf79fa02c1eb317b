/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 state: operations through every kind of address, VEX forms,
 * alignment, MXCSR and #XM, x87 and #MF, FXSAVE and the XSAVE family, CR0.TS,
 * and that nothing of it changes over interrupts, faults, system calls and
 * whatever the monitor does in between.
 */
#include "tests/guest/rt/enc.h"

static u8 buf[8192] __attribute__((aligned(64)));
static u8 img[2][4096] __attribute__((aligned(64)));

/* Loads 16 xmm (or ymm) registers from, or stores them to, 32-byte cells. */
static void load_xmm(const u8 *p)
{
	asm volatile(
		"movups (%0), %%xmm0\n movups 32(%0), %%xmm1\n"
		"movups 64(%0), %%xmm2\n movups 96(%0), %%xmm3\n"
		"movups 128(%0), %%xmm4\n movups 160(%0), %%xmm5\n"
		"movups 192(%0), %%xmm6\n movups 224(%0), %%xmm7\n"
		"movups 256(%0), %%xmm8\n movups 288(%0), %%xmm9\n"
		"movups 320(%0), %%xmm10\n movups 352(%0), %%xmm11\n"
		"movups 384(%0), %%xmm12\n movups 416(%0), %%xmm13\n"
		"movups 448(%0), %%xmm14\n movups 480(%0), %%xmm15\n"
		::"r"(p) : "memory");
}

static void store_xmm(u8 *p)
{
	asm volatile(
		"movups %%xmm0, (%0)\n movups %%xmm1, 32(%0)\n"
		"movups %%xmm2, 64(%0)\n movups %%xmm3, 96(%0)\n"
		"movups %%xmm4, 128(%0)\n movups %%xmm5, 160(%0)\n"
		"movups %%xmm6, 192(%0)\n movups %%xmm7, 224(%0)\n"
		"movups %%xmm8, 256(%0)\n movups %%xmm9, 288(%0)\n"
		"movups %%xmm10, 320(%0)\n movups %%xmm11, 352(%0)\n"
		"movups %%xmm12, 384(%0)\n movups %%xmm13, 416(%0)\n"
		"movups %%xmm14, 448(%0)\n movups %%xmm15, 480(%0)\n"
		::"r"(p) : "memory");
}

static void load_ymm(const u8 *p)
{
	asm volatile(
		"vmovups (%0), %%ymm0\n vmovups 32(%0), %%ymm1\n"
		"vmovups 64(%0), %%ymm2\n vmovups 96(%0), %%ymm3\n"
		"vmovups 128(%0), %%ymm4\n vmovups 160(%0), %%ymm5\n"
		"vmovups 192(%0), %%ymm6\n vmovups 224(%0), %%ymm7\n"
		"vmovups 256(%0), %%ymm8\n vmovups 288(%0), %%ymm9\n"
		"vmovups 320(%0), %%ymm10\n vmovups 352(%0), %%ymm11\n"
		"vmovups 384(%0), %%ymm12\n vmovups 416(%0), %%ymm13\n"
		"vmovups 448(%0), %%ymm14\n vmovups 480(%0), %%ymm15\n"
		::"r"(p) : "memory");
}

static void store_ymm(u8 *p)
{
	asm volatile(
		"vmovups %%ymm0, (%0)\n vmovups %%ymm1, 32(%0)\n"
		"vmovups %%ymm2, 64(%0)\n vmovups %%ymm3, 96(%0)\n"
		"vmovups %%ymm4, 128(%0)\n vmovups %%ymm5, 160(%0)\n"
		"vmovups %%ymm6, 192(%0)\n vmovups %%ymm7, 224(%0)\n"
		"vmovups %%ymm8, 256(%0)\n vmovups %%ymm9, 288(%0)\n"
		"vmovups %%ymm10, 320(%0)\n vmovups %%ymm11, 352(%0)\n"
		"vmovups %%ymm12, 384(%0)\n vmovups %%ymm13, 416(%0)\n"
		"vmovups %%ymm14, 448(%0)\n vmovups %%ymm15, 480(%0)\n"
		::"r"(p) : "memory");
}

static void randomize(void *p, unsigned n)
{
	for (unsigned i = 0; i < n / 8; i++)
		((u64 *)p)[i] = rnd();
}

/* ---- every address form with SSE loads and stores ---- */
static void addresses(void)
{
	static const u64 places[] = { 0, 0x0000140000010000,
				      0xffffc10000020000 };
	u8 *code = pages_alloc(2, PG), *frame = page_alloc();

	part("addresses");
	for (unsigned i = 1; i < 3; i++)
		map_page(places[i], frame, KRW);
	for (unsigned n = 0; n < 600; n++) {
		struct mem m = { .base = n & 15, .index = (n >> 4) & 15,
				 .scale = 1 << (rnd() & 3),
				 .disp_size = n & 1 ? 1 : 4, .disp = 0x40 };
		u64 place = n % 3 ? places[n % 3] : (u64)frame;
		u8 *p = code + (n & 63) * 64, *start = p;
		unsigned x = rnd() & 15, kind = n % 6;
		static const struct {
			u8 prefix, op;
			bool store;
		} k[6] = { { 0, 0x10, 0 },    { 0, 0x11, 1 },
			   { 0x66, 0x6f, 0 }, { 0x66, 0x7f, 1 },
			   { 0xf3, 0x6f, 0 }, { 0x66, 0xef, 0 } };
		struct regs r, a;
		u8 want[16];

		if (m.index == 4 || (n & 0x100))
			m.index = -1;
		e_insn(&p, k[kind].prefix, 0, 0x0f, k[kind].op, x, &m, false);
		e_done(&p);
		regs_kernel(&r, start);
		if (m.index == m.base) {
			m.index = -1;
			p = start;
			e_insn(&p, k[kind].prefix, 0, 0x0f, k[kind].op, x, &m,
			       false);
			e_done(&p);
		}
		*reg_n(&r, m.base) = place + 0x100 - m.disp;
		if (m.index >= 0)
			*reg_n(&r, m.base) -= *reg_n(&r, m.index) * m.scale;
		randomize(buf, 512);
		randomize(frame, PG);
		memcpy(want, k[kind].store ? buf + x * 32 : frame + 0x100, 16);
		if (kind == 5)
			for (unsigned i = 0; i < 16; i++)
				want[i] ^= buf[x * 32 + i];
		a = r;
		load_xmm(buf);
		run(&r);
		store_xmm(buf + 1024);
		CHECK_EQ(r.vec, VEC_DONE);
		same_regs(&a, &r, 0);
		if (k[kind].store) {
			CHECK(!memcmp(frame + 0x100, want, 16), "store %u", n);
		} else {
			CHECK(!memcmp(buf + 1024 + x * 32, want, 16),
			      "load %u base %d", n, m.base);
			memcpy(buf + x * 32, want, 16);
		}
		for (unsigned i = 0; i < 16; i++)
			CHECK(!memcmp(buf + i * 32, buf + 1024 + i * 32, 16),
			      "xmm%u changed (kind %u)", i, kind);
	}
	for (unsigned i = 1; i < 3; i++)
		unmap_page(places[i]);
}

/* ---- VEX: 2- and 3-byte forms, extended bases, memory operands ---- */
#define VX(n, body) SNIP(vx_##n, body)
VX(load8, "vmovups (%r8), %ymm3");
VX(load10, "vmovups 64(%r10), %ymm3");
VX(load11, "vmovups 32(%r11,%rax,2), %ymm13");
VX(load12, "vmovups (%r12), %xmm3");
VX(load13, "vmovups (%r13), %ymm3");
VX(load15, "vmovups (%r15,%r14,4), %ymm3");
VX(loadsp, "vmovups -64(%rsp), %ymm3");
VX(store10, "vmovups %ymm4, (%r10)");
VX(store11, "vmovups %ymm14, 8(%r11,%r15)");
VX(add, "vpaddq (%r10), %ymm5, %ymm6");
VX(rip, "vmovups vx_const(%rip), %ymm7\n jmp 1f\n .balign 32\n vx_const:"
	".quad 1, 2, 3, 4\n 1:");
VX(xmm, "vpxor (%r11), %xmm5, %xmm6"); /* zeroes the upper half of ymm6 */
VX(bcast, "vpbroadcastd (%r10), %ymm8");
VX(gather, "vpcmpeqd %ymm1, %ymm1, %ymm1\n"
	   "vpgatherdd %ymm1, 16(%r10,%ymm2,4), %ymm9");
VX(gatherq, "vpcmpeqd %xmm1, %xmm1, %xmm1\n"
	    "vpgatherqq %xmm1, (%r11,%xmm2,1), %xmm9");
VX(maskmov, "vpmaskmovd %ymm4, %ymm2, (%r10)");
VX(insert, "vinserti128 $1, (%r10), %ymm5, %ymm6");
VX(mulx, "mulx (%r10), %rax, %r11");
VX(shrx, "shrx %rcx, (%r11), %r10");
VX(andn, "andn (%r10), %r11, %r10");
VX(zeroupper, "vzeroupper");

static u8 ym[512] __attribute__((aligned(32)));
static u8 yo[512] __attribute__((aligned(32)));

static void vex_run(const char *code, struct regs *r, struct regs *a, unsigned dst)
{
	r->rip = (u64)code;
	*a = *r;
	load_ymm(ym);
	run(r);
	store_ymm(yo);
	CHECK_EQ(r->vec, VEC_DONE);
	for (unsigned i = 0; i < 16; i++)
		if (i != dst && i != 1)
			CHECK(!memcmp(ym + i * 32, yo + i * 32, 32),
			      "ymm%u changed", i);
}

static void vex(void)
{
	u64 va = slot_va(88, 0x1000), vb = slot_va(444, 0x3000);
	u8 *f = page_alloc();
	struct regs r, a;

	part("vex");
	if (!xsave_enable() || !has_avx2())
		return skip("AVX2");
	map_page(va, f, KRW);
	map_page(vb, f, KRW);
	static const struct {
		const char *code;
		unsigned reg, dst, off;
		bool half;
	} ld[] = { { vx_load8, 8, 3, 0, 0 },	{ vx_load10, 10, 3, 64, 0 },
		   { vx_load11, 11, 13, 32, 0 }, { vx_load12, 12, 3, 0, 1 },
		   { vx_load13, 13, 3, 0, 0 },	{ vx_load15, 15, 3, 0, 0 },
		   { vx_loadsp, 4, 3, -64, 0 } };

	for (unsigned n = 0; n < 200; n++) {
		u64 at = (n & 1 ? va : vb) + 0x400 + (rnd() & 0xff);
		unsigned i = n % 7;

		randomize(ym, 512);
		randomize(f, PG);
		regs_kernel(&r, ld[i].code);
		r.rax = 0, r.r14 = 0;
		*reg_n(&r, ld[i].reg) = at - (s64)(int)ld[i].off;
		vex_run(ld[i].code, &r, &a, ld[i].dst);
		same_regs(&a, &r, 0);
		CHECK(!memcmp(yo + ld[i].dst * 32, f + (at & 0xfff), 16));
		if (ld[i].half)
			CHECK_EQ(*(u64 *)(yo + ld[i].dst * 32 + 16), 0);
		else
			CHECK(!memcmp(yo + ld[i].dst * 32, f + (at & 0xfff), 32));
		regs_kernel(&r, vx_store10);
		r.r10 = at;
		vex_run(vx_store10, &r, &a, 99);
		CHECK(!memcmp(ym + 4 * 32, f + (at & 0xfff), 32));
		regs_kernel(&r, vx_store11);
		r.r11 = at - 0x1008, r.r15 = 0x1000;
		vex_run(vx_store11, &r, &a, 99);
		CHECK(!memcmp(ym + 14 * 32, f + (at & 0xfff), 32));
		same_regs(&a, &r, 0);
		regs_kernel(&r, vx_add);
		r.r10 = at;
		vex_run(vx_add, &r, &a, 6);
		for (unsigned k = 0; k < 4; k++)
			CHECK_EQ(((u64 *)(yo + 6 * 32))[k],
				 ((u64 *)(ym + 5 * 32))[k] +
				 *(u64 *)(f + (at & 0xfff) + k * 8));
		regs_kernel(&r, vx_xmm);
		r.r11 = at;
		vex_run(vx_xmm, &r, &a, 6);
		CHECK_EQ(*(u64 *)(yo + 6 * 32 + 16), 0);
		regs_kernel(&r, vx_bcast);
		r.r10 = at;
		vex_run(vx_bcast, &r, &a, 8);
		for (unsigned k = 0; k < 8; k++)
			CHECK_EQ(((u32 *)(yo + 8 * 32))[k],
				 *(u32 *)(f + (at & 0xfff)));
		/* gathers: 32-bit indexes, signed; 64-bit indexes that reach
		 * into another slot */
		for (unsigned k = 0; k < 8; k++)
			((u32 *)(ym + 2 * 32))[k] = (int)(rnd() % 128) - 64;
		regs_kernel(&r, vx_gather);
		r.r10 = at - 16;
		vex_run(vx_gather, &r, &a, 9);
		for (unsigned k = 0; k < 8; k++)
			CHECK_EQ(((u32 *)(yo + 9 * 32))[k],
				 *(u32 *)(f + (at & 0xfff) +
					  (s64)((int *)(ym + 2 * 32))[k] * 4));
		((u64 *)(ym + 64))[0] = va + 0x123 - at;
		((u64 *)(ym + 64))[1] = vb + 0x321 - at;
		regs_kernel(&r, vx_gatherq);
		r.r11 = at;
		vex_run(vx_gatherq, &r, &a, 9);
		CHECK_EQ(*(u64 *)(yo + 9 * 32), *(u64 *)(f + 0x123));
		CHECK_EQ(*(u64 *)(yo + 9 * 32 + 8), *(u64 *)(f + 0x321));
		regs_kernel(&r, vx_rip);
		vex_run(vx_rip, &r, &a, 7);
		CHECK_EQ(*(u64 *)(yo + 7 * 32 + 24), 4);
		regs_kernel(&r, vx_mulx);
		r.r10 = at;
		vex_run(vx_mulx, &r, &a, 99);
		CHECK_EQ(r.rax, a.rdx * *(u64 *)(f + (at & 0xfff)));
		same_regs(&a, &r, 1 | 1 << 11);
		regs_kernel(&r, vx_shrx);
		r.r11 = at;
		vex_run(vx_shrx, &r, &a, 99);
		CHECK_EQ(r.r10, *(u64 *)(f + (at & 0xfff)) >> (a.rcx & 63));
		same_regs(&a, &r, 1 << 10);
		regs_kernel(&r, vx_andn);
		r.r10 = at;
		vex_run(vx_andn, &r, &a, 99);
		CHECK_EQ(r.r10, ~a.r11 & *(u64 *)(f + (at & 0xfff)));
		regs_kernel(&r, vx_insert);
		r.r10 = at;
		vex_run(vx_insert, &r, &a, 6);
		CHECK(!memcmp(yo + 6 * 32 + 16, f + (at & 0xfff), 16));
	}
	/* a masked store touches what the mask says, no fault for the rest */
	memset(ym + 2 * 32, 0, 32);
	((u32 *)(ym + 2 * 32))[0] = 0x80000000;
	memset(f + 0xff0, 0, 16);
	regs_kernel(&r, vx_maskmov);
	r.r10 = va + 0xffc;
	vex_run(vx_maskmov, &r, &a, 99);
	CHECK_EQ(*(u32 *)(f + 0xffc), *(u32 *)(ym + 4 * 32));
	/* a gather with a bad element faults at that one */
	((u64 *)(ym + 64))[0] = 0;
	((u64 *)(ym + 64))[1] = 0x100000000;
	load_ymm(ym);
	regs_kernel(&r, vx_gatherq);
	r.r11 = va;
	a = r;
	run(&r);
	CHECK_EQ(r.vec, 14);
	CHECK_EQ(r.cr2, va + 0x100000000);
	same_regs(&a, &r, 0);
	/* VZEROUPPER */
	randomize(ym, 512);
	load_ymm(ym);
	regs_kernel(&r, vx_zeroupper);
	run_ok(&r);
	store_ymm(yo);
	for (unsigned i = 0; i < 16; i++) {
		CHECK(!memcmp(ym + i * 32, yo + i * 32, 16));
		CHECK_EQ(*(u64 *)(yo + i * 32 + 16), 0);
	}
	unmap_page(va);
	unmap_page(vb);
}

/* ---- alignment ---- */
SNIP(al_movaps, "movaps (%rdi), %xmm1");
SNIP(al_movdqas, "movdqa %xmm1, (%r11)");
SNIP(al_paddd, "paddd (%rsp), %xmm1");
SNIP(al_movntps, "movntps %xmm1, (%rdi)");
SNIP(al_fxsave, "fxsave (%rdi)");
SNIP(al_vmov, "vmovaps (%r10), %ymm1");
SNIP(al_vadd, "vpaddd 1(%r10), %ymm1, %ymm2");
SNIP(al_cx16, "cmpxchg16b (%rdi)");
static void alignment(void)
{
	static const struct {
		const char *code;
		unsigned reg;
		bool avx;
	} t[] = { { al_movaps, 7, 0 }, { al_movdqas, 11, 0 },
		  { al_paddd, 4, 0 }, { al_movntps, 7, 0 },
		  { al_fxsave, 7, 0 }, { al_vmov, 10, 1 }, { al_cx16, 7, 0 } };

	part("alignment");
	if (is_tcg())
		return skip("alignment (TCG does not check)");
	for (unsigned i = 0; i < 7; i++) {
		struct regs r, a;

		if (t[i].avx && !has_avx())
			continue;
		for (unsigned d = 0; d < 16; d++) {
			regs_kernel(&r, t[i].code);
			*reg_n(&r, t[i].reg) = (u64)buf + 512 + d;
			a = r;
			run(&r);
			if (!d) {
				CHECK_EQ(r.vec, VEC_DONE);
				continue;
			}
			expect_fault(&r, 13, 0, t[i].code);
			same_regs(&a, &r, 0);
		}
	}
	struct regs r;

	if (has_avx2()) { /* VEX operands need not be aligned */
		regs_kernel(&r, al_vadd);
		r.r10 = (u64)buf + 3;
		run_ok(&r);
	}
}

/* ---- MXCSR, #XM ---- */
static u32 mxcsr(void)
{
	u32 v;

	asm volatile("stmxcsr %0" : "=m"(v)::"memory");
	return v;
}
static void set_mxcsr(u32 v)
{
	asm volatile("ldmxcsr %0" ::"m"(v) : "memory");
}
SNIP(fp_div, "inc %rax\n.globl fp_div_at\nfp_div_at: divsd %xmm1, %xmm0");
SNIP(fp_divm, ".globl fp_divm_at\nfp_divm_at: divsd (%r10), %xmm0");
SNIP(fp_cvt, "cvtsd2si %xmm0, %rax\n cvttsd2si %xmm0, %rbx\n"
	     "cvtsi2sd %rcx, %xmm1\n ucomisd %xmm1, %xmm0");
SNIP(fp_bad, ".globl fp_bad_at\nfp_bad_at: ldmxcsr (%rdi)");
USNIP(fp_udiv, "divsd %xmm1, %xmm0");
extern char fp_div_at[], fp_divm_at[], fp_bad_at[];

static void set_x(unsigned n, u64 v)
{
	u64 c[2] = { v, 0 };

	if (n)
		asm volatile("movups %0, %%xmm1" ::"m"(c));
	else
		asm volatile("movups %0, %%xmm0" ::"m"(c));
}

static void mxcsrs(void)
{
	static u64 cell;
	static u32 bad;
	struct regs r, a;

	part("mxcsr");
	set_mxcsr(0x1f80);
	CHECK_EQ(mxcsr(), 0x1f80);
	set_x(0, 0x3ff0000000000000); /* 1.0 */
	set_x(1, 0);
	regs_kernel(&r, fp_div);
	run_ok(&r);
	CHECK_EQ(mxcsr() & 0x3f, 4); /* ZE sticks */
	asm volatile("movq %%xmm0, %0" : "=r"(cell));
	CHECK_EQ(cell, 0x7ff0000000000000); /* inf */
	/* rounding modes: 2.5 to integer */
	static const u8 want[4] = { 2, 2, 3, 2 };

	for (unsigned rc = 0; rc < 4; rc++) {
		set_mxcsr(0x1f80 | rc << 13);
		set_x(0, 0x4004000000000000);
		regs_kernel(&r, fp_cvt);
		r.rcx = 3;
		run_ok(&r);
		CHECK_EQ(r.rax, want[rc]);
		CHECK_EQ(r.rbx, 2);
		CHECK_EQ(r.rflags & FL_ARITH, FL_CF); /* 2.5 < 3 */
		CHECK_EQ(mxcsr() & ~0x3fu, 0x1f80 | rc << 13);
	}
	set_mxcsr(0x1f80);
	if (is_tcg()) {
		skip("#XM (TCG does not raise it)");
	} else {
		/* ZE unmasked: #XM before the result is written */
		for (unsigned i = 0; i < 3; i++) {
			set_mxcsr(0x1f80 & ~0x200u);
			set_x(0, 0x4008000000000000);
			set_x(1, 0);
			cell = 0;
			if (i < 2)
				regs_kernel(&r, i ? fp_divm : fp_div);
			else
				regs_user(&r, fp_udiv);
			r.r10 = (u64)&cell;
			a = r;
			if (!i)
				a.rax++;
			run(&r);
			expect_fault(&r, 19, 0, i == 0 ? fp_div_at : i == 1 ?
				     fp_divm_at : fp_udiv);
			same_regs(&a, &r, 0);
			asm volatile("movq %%xmm0, %0" : "=r"(cell));
			CHECK_EQ(cell, 0x4008000000000000);
			CHECK_EQ(mxcsr() & 0x3f, 4);
		}
		/* without OSXMMEXCPT it is #UD */
		write_cr4(read_cr4() & ~0x400ull);
		set_mxcsr(0x1f80 & ~0x200u);
		set_x(1, 0);
		regs_kernel(&r, fp_div);
		run(&r);
		expect_fault(&r, 6, 0, fp_div_at);
		write_cr4(read_cr4() | 0x400);
		bad = 0x10000;
		regs_kernel(&r, fp_bad);
		r.rdi = (u64)&bad;
		run(&r);
		expect_fault(&r, 13, 0, fp_bad_at);
	}
	set_mxcsr(0x1f80);
}

/* ---- x87 ---- */
SNIP(x_math, "fninit\n fldpi\n fld1\n faddp\n fstpl (%rdi)\n fildll (%rsi)\n"
	     "fsqrt\n fistpll 8(%rdi)\n fldt (%r10)\n fld %st(0)\n fmulp\n"
	     "fstpt (%r11)\n fnstsw %ax\n fnstcw 16(%rdi)");
SNIP(x_mf, "fninit\n fldcw (%rdi)\n fld1\n fldz\n.globl x_mf_div\nx_mf_div:"
	   "fdivrp\n inc %rax\n.globl x_mf_at\nx_mf_at: fwait");
SNIP(x_mf2, "fninit\n fldcw (%rdi)\n fld1\n fldz\n fdivrp\n nop\n"
	    ".globl x_mf2_at\nx_mf2_at: fld1\n");
SNIP(x_stack, "fninit\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n"
	      "fnstsw %ax\n mov %eax, %ecx\n fld1\n fnstsw %ax\n mov %eax, %ebx\n"
	      "mov %ecx, %eax\n fxch %st(3)\n fcomi %st(1)\n"
	      "fnstenv (%rdi)");
SNIP(x_mmx, "fninit\n movq (%rdi), %mm1\n paddb (%r10), %mm1\n movq %mm1, (%r11)"
	    "\n emms");
extern char x_mf_at[], x_mf2_at[];
static void x87(void)
{
	static u64 out[8], in = 144;
	static u8 t[2][16];
	static u16 cw = 0x037b; /* ZE unmasked */
	struct regs r;

	part("x87");
	memcpy(t[0], "\0\0\0\0\0\0\0\xc0\0\x40", 10); /* 3.0 */
	regs_kernel(&r, x_math);
	r.rdi = (u64)out, r.rsi = (u64)&in;
	r.r10 = (u64)t[0], r.r11 = (u64)t[1];
	run_ok(&r);
	CHECK_EQ(out[0], 0x401090fdaa22168c); /* pi + 1 */
	CHECK_EQ(out[1], 12);
	CHECK(!memcmp(t[1], "\0\0\0\0\0\0\0\x90\x02\x40", 10)); /* 9.0 */
	CHECK_EQ(r.rax & 0x3800, 0); /* the stack is empty again */
	CHECK_EQ((u16)out[2], 0x037f);
	/* #MF comes at the next waiting instruction */
	regs_kernel(&r, x_mf);
	r.rdi = (u64)&cw;
	r.rax = 5;
	run(&r);
	expect_fault(&r, 16, 0, x_mf_at);
	CHECK_EQ(r.rax, 6);
	asm volatile("fnclex");
	regs_kernel(&r, x_mf2);
	r.rdi = (u64)&cw;
	run(&r);
	if (!is_tcg()) /* which looks at FWAIT only */
		expect_fault(&r, 16, 0, x_mf2_at);
	asm volatile("fnclex\n fninit");
	regs_kernel(&r, x_stack);
	r.rdi = (u64)buf;
	run_ok(&r);
	CHECK_EQ(r.rax & 0x41, 0);
	if (!is_tcg())
		CHECK_EQ(r.rbx & 0x241, 0x241); /* overflow: IE, SF, C1 */
	CHECK_EQ(*(u16 *)buf, 0x037f);
	asm volatile("fninit");
	out[0] = 0x0102030405060708;
	out[1] = 0x1010101010101010;
	regs_kernel(&r, x_mmx);
	r.rdi = (u64)out, r.r10 = (u64)&out[1], r.r11 = (u64)&out[2];
	run_ok(&r);
	CHECK_EQ(out[2], 0x1112131415161718);
}

/* ---- save areas ---- */
SNIP(sv_fx, "fxsave (%rdi)\n fninit\n xorps %xmm0, %xmm0\n xorps %xmm15, %xmm15\n"
	    "fxrstor (%rdi)\n fxsave64 (%r10)");
SNIP(sv_x, "mov %r8d, %eax\n xor %edx, %edx\n xsave (%rdi)");
SNIP(sv_xr, "mov %r8d, %eax\n xor %edx, %edx\n xrstor (%rdi)");
SNIP(sv_xc, "mov %r8d, %eax\n xor %edx, %edx\n xsavec (%r10)");
SNIP(sv_xcr, "mov %r8d, %eax\n xor %edx, %edx\n xrstor (%r10)");
SNIP(sv_xo, "mov %r8d, %eax\n xor %edx, %edx\n xsaveopt64 (%r11)");
static void save_areas(void)
{
	struct regs r, a;

	part("fxsave");
	randomize(buf, 512);
	load_xmm(buf);
	asm volatile("fninit\n fldpi");
	regs_kernel(&r, sv_fx);
	r.rdi = (u64)img[0], r.r10 = (u64)img[1];
	a = r;
	memset(img, 0xcc, sizeof(img));
	run_ok(&r);
	same_regs(&a, &r, 0);
	for (unsigned i = 0; i < 16; i++)
		CHECK(!memcmp(img[1] + 160 + i * 16, buf + i * 32, 16), "xmm%u",
		      i);
	CHECK(!memcmp(img[0] + 32, "\x35\xc2\x68\x21\xa2\xda\x0f\xc9\0\x40", 10));
	CHECK_EQ(*(u32 *)(img[0] + 24), mxcsr());
	CHECK_EQ(*(u16 *)img[0], 0x037f);
	CHECK_EQ(img[0][4], 0x80); /* abridged tag: one register */
	CHECK_EQ(img[0][512], 0xcc);
	asm volatile("fninit");
	part("xsave");
	if (!xsave_enable())
		return skip("XSAVE");
	if (!has_avx())
		return skip("AVX");
	for (unsigned n = 0; n < 60; n++) {
		u32 mask = n % 8;

		memset(img, 0, sizeof(img));
		randomize(ym, 512);
		load_ymm(ym);
		regs_kernel(&r, sv_x);
		r.r8 = mask | 0xffffff00;
		r.rdi = (u64)img[0];
		a = r;
		run_ok(&r);
		same_regs(&a, &r, 5);
		if (mask & 2)
			for (unsigned i = 0; i < 16; i++)
				CHECK(!memcmp(img[0] + 160 + i * 16,
					      ym + i * 32, 16));
		else
			CHECK_EQ(*(u64 *)(img[0] + 160), 0);
		if (mask & 4)
			for (unsigned i = 0; i < 16; i++)
				CHECK(!memcmp(img[0] + 576 + i * 16,
					      ym + i * 32 + 16, 16));
		else
			CHECK_EQ(*(u64 *)(img[0] + 576), 0);
		CHECK_EQ(*(u64 *)(img[0] + 512) & ~mask, 0);
		CHECK_EQ(*(u64 *)(img[0] + 512) & 6, mask & 6);
		/* other values, then back */
		randomize(yo, 512);
		load_ymm(yo);
		regs_kernel(&r, sv_xr);
		r.r8 = mask;
		r.rdi = (u64)img[0];
		run_ok(&r);
		store_ymm(buf);
		for (unsigned i = 0; i < 16; i++) {
			CHECK(!memcmp(buf + i * 32,
				      (mask & 2 ? ym : yo) + i * 32, 16));
			CHECK(!memcmp(buf + i * 32 + 16,
				      (mask & 4 ? ym : yo) + i * 32 + 16, 16));
		}
	}
	/* components that the header says are in their initial state */
	memset(img, 0, sizeof(img));
	*(u32 *)(img[0] + 24) = 0x1f80;
	load_ymm(ym);
	regs_kernel(&r, sv_xr);
	r.r8 = 7, r.rdi = (u64)img[0];
	run_ok(&r);
	store_ymm(buf);
	for (unsigned i = 0; i < 64; i++)
		CHECK_EQ(((u64 *)buf)[i], 0);
	/* a bad header */
	for (unsigned k = 0; k < 3; k++) {
		memset(img, 0, sizeof(img));
		*(u32 *)(img[0] + 24) = k == 2 ? 0x10000 : 0x1f80;
		if (k == 0)
			*(u64 *)(img[0] + 512) = 1ull << 20;
		if (k == 1)
			img[0][512 + 16] = 1;
		if (k == 2)
			*(u64 *)(img[0] + 512) = 7;
		regs_kernel(&r, sv_xr);
		r.r8 = 7, r.rdi = (u64)img[0];
		run(&r);
		if (!is_tcg())
			expect_fault(&r, 13, 0, sv_xr + 5);
	}
	if (!has_xsavec())
		return skip("XSAVEC");
	memset(img, 0, sizeof(img));
	randomize(ym, 512);
	load_ymm(ym);
	regs_kernel(&r, sv_xc);
	r.r8 = 6, r.r10 = (u64)img[0];
	run_ok(&r);
	CHECK_EQ(*(u64 *)(img[0] + 520), 1ull << 63 | 6);
	CHECK(!memcmp(img[0] + 576, ym + 16, 16));
	load_ymm(yo);
	regs_kernel(&r, sv_xcr);
	r.r8 = 6, r.r10 = (u64)img[0];
	run_ok(&r);
	store_ymm(buf);
	CHECK(!memcmp(buf, ym, 512));
	if (cpuid(13, 1).a & 1) {
		memset(img[1], 0, sizeof(img[1]));
		regs_kernel(&r, sv_xo);
		r.r8 = 7, r.r11 = (u64)img[1];
		run_ok(&r);
		CHECK(!memcmp(img[1] + 160, ym, 16));
	}
}

/* ---- CR0.TS, EM ---- */
SNIP(nm_sse, "inc %rax\n.globl nm_sse_at\nnm_sse_at: movups (%rdi), %xmm3");
SNIP(nm_x87, "inc %rax\n.globl nm_x87_at\nnm_x87_at: fld1");
SNIP(nm_avx, "inc %rax\n.globl nm_avx_at\nnm_avx_at: vmovups (%r10), %ymm3");
SNIP(nm_fx, "inc %rax\n.globl nm_fx_at\nnm_fx_at: fxsave (%rdi)");
SNIP(nm_xs, "inc %rax\n.globl nm_xs_at\nnm_xs_at: xsave (%rdi)");
SNIP(nm_wait, "inc %rax\n.globl nm_wait_at\nnm_wait_at: fwait");
SNIP(nm_int, "inc %rax\n.globl nm_int_at\nnm_int_at: rorx $1, %rax, %rbx\n"
	     "prefetcht0 (%rdi)\n mfence\n pause\n movnti %rax, (%rdi)");
extern char nm_sse_at[], nm_x87_at[], nm_avx_at[], nm_fx_at[], nm_xs_at[],
	nm_wait_at[];
static void ts_handler(struct regs *r)
{
	asm volatile("clts");
}

static void lazy(void)
{
	static const struct {
		const char *code, *at;
		u8 avx, always;
	} t[] = { { nm_sse, nm_sse_at, 0, 1 }, { nm_x87, nm_x87_at, 0, 1 },
		  { nm_fx, nm_fx_at, 0, 1 }, { nm_avx, nm_avx_at, 1, 1 },
		  { nm_xs, nm_xs_at, 1, 1 }, { nm_wait, nm_wait_at, 0, 0 } };
	struct regs r, a;

	part("#NM");
	for (unsigned n = 0; n < 20; n++)
		for (unsigned i = 0; i < 6; i++) {
			if (t[i].avx && !(has_avx() && has_xsave()))
				continue;
			if (is_tcg() && t[i].code == nm_xs)
				continue;
			regs_kernel(&r, t[i].code);
			r.rdi = (u64)img[0], r.r10 = (u64)buf;
			a = r;
			a.rax++;
			write_cr0(read_cr0() | CR0_TS);
			run(&r);
			asm volatile("clts");
			expect_fault(&r, 7, 0, t[i].at);
			same_regs(&a, &r, 0);
			/* lazily: the handler clears TS */
			handlers[7] = ts_handler;
			write_cr0(read_cr0() | CR0_TS);
			regs_kernel(&r, t[i].code);
			r.rdi = (u64)img[0], r.r10 = (u64)buf;
			u64 before = irq_count[7];

			run_ok(&r);
			CHECK_EQ(irq_count[7], before + 1);
			CHECK_EQ(read_cr0() & CR0_TS, 0);
			handlers[7] = NULL;
		}
	/* FWAIT traps only with MP; integer instructions never */
	write_cr0((read_cr0() | CR0_TS) & ~CR0_MP);
	regs_kernel(&r, nm_wait);
	run_ok(&r);
	write_cr0(read_cr0() | CR0_MP);
	if (has_bmi2()) {
		regs_kernel(&r, nm_int);
		r.rdi = (u64)buf;
		run_ok(&r);
	}
	asm volatile("clts");
	/* EM: x87 #NM, SSE #UD */
	write_cr0(read_cr0() | CR0_EM);
	regs_kernel(&r, nm_x87);
	run(&r);
	expect_fault(&r, 7, 0, nm_x87_at);
	regs_kernel(&r, nm_sse);
	r.rdi = (u64)buf;
	run(&r);
	expect_fault(&r, 6, 0, nm_sse_at);
	write_cr0(read_cr0() & ~CR0_EM);
	/* OSFXSR off: SSE #UD */
	write_cr4(read_cr4() & ~0x200ull);
	regs_kernel(&r, nm_sse);
	r.rdi = (u64)buf;
	run(&r);
	expect_fault(&r, 6, 0, nm_sse_at);
	write_cr4(read_cr4() | 0x200);
}

/* ---- the state survives everything ---- */
SNIP(work, "mov $400, %ecx\n 1: push %rax\n pop %rbx\n out %al, $0x80\n"
	   "mov %cr3, %rax\n mov %rax, %cr3\n pushfq\n popfq\n"
	   "mov (%rdi), %rdx\n addq $64, %rdi\n xor %eax, %eax\n push %rcx\n"
	   "cpuid\n pop %rcx\n rdtsc\n dec %ecx\n jnz 1b");
static void tick(struct regs *r)
{
	apic_eoi();
	apic_oneshot(0x60, 3000 + rnd() % 30000);
}

static void survives(void)
{
	bool avx = has_avx() && xsave_enable();
	u64 va = slot_va(45, 0);
	struct regs r;

	part("survives");
	for (unsigned i = 0; i < 8; i++)
		map_page(va + i * PG, NULL, KRW);
	apic_init();
	handlers[0x60] = tick;
	for (unsigned n = 0; n < 20; n++) {
		static u8 in[512] __attribute__((aligned(32)));
		u16 cw;

		randomize(in, 512);
		asm volatile("fninit\n fldl2e\n fldpi");
		set_mxcsr(0x1f80 | (n & 3) << 13);
		if (avx)
			load_ymm(in);
		else
			load_xmm(in);
		regs_kernel(&r, work);
		r.rdi = va;
		r.rflags |= FL_IF;
		apic_oneshot(0x60, 3000);
		run(&r);
		if (avx)
			store_ymm(buf);
		else
			store_xmm(buf);
		apic_timer_stop();
		CHECK_EQ(r.vec, VEC_DONE);
		for (unsigned i = 0; i < 16; i++)
			CHECK(!memcmp(in + i * 32, buf + i * 32, avx ? 32 : 16),
			      "register %u", i);
		CHECK_EQ(mxcsr(), 0x1f80 | (n & 3) << 13);
		asm volatile("fnstcw %0\n fstpt %1\n fnstsw %%ax" : "=m"(cw),
			     "=m"(img[0][0])::"rax");
		CHECK_EQ(cw, 0x037f);
		CHECK(!memcmp(img[0], "\x35\xc2\x68\x21\xa2\xda\x0f\xc9\0\x40",
			      10));
		sti();
		asm volatile("nop\n nop");
		cli();
	}
	set_mxcsr(0x1f80);
	asm volatile("fninit");
	handlers[0x60] = NULL;
	/* printing, page faults, port I/O between a load and a store */
	randomize(ym, 512);
	load_xmm(ym);
	for (unsigned i = 0; i < 50; i++) {
		regs_kernel(&r, nm_int);
		r.rdi = slot_va(46, i * PG);
		run(&r);
		cpuid(0, 0);
		outb(0x80, i);
		map_page(slot_va(47, i * PG), NULL, KRW);
		*(volatile u64 *)slot_va(47, i * PG) = i;
	}
	store_xmm(buf);
	for (unsigned i = 0; i < 16; i++)
		CHECK(!memcmp(ym + i * 32, buf + i * 32, 16), "xmm%u", i);
}

int main(void)
{
	addresses();
	vex();
	alignment();
	mxcsrs();
	x87();
	save_areas();
	lazy();
	survives();
	return 0;
}
