/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IRETQ, XSAVE, XSAVEC, XRSTOR as a kernel uses them, many times over, and
 * with everything wrong with them that can be: frames, selectors, descriptors
 * that change in memory, flags, pages that are not there, headers.
 */
#include "tests/guest/rt/enc.h"

SNIP(ret, "iretq");
USNIP(landed, "mov %ds, %eax");
USNIP(landed2, "nop\n nop");
#define REP 25
#define VA slot_va(9, 0x80000)

static bool null_segs;

static void segs(u16 s)
{
	asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"((u32)s));
}

/* IRETQ with this frame, at `at`. */
static void iret(struct regs *r, u64 *at, u64 rip, u64 cs, u64 fl, u64 rsp,
		 u64 ss)
{
	at[0] = rip;
	at[1] = cs;
	at[2] = fl;
	at[3] = rsp;
	at[4] = ss;
	regs_kernel(r, ret);
	r->rsp = (u64)at;
	segs(null_segs ? 0 : KDS);
	run(r);
	segs(KDS);
}

static void good(u64 *at)
{
	struct regs r, want;

	part("to user code");
	for (unsigned i = 0; i < REP; i++) {
		regs_kernel(&want, ret);
		iret(&r, at, (u64)landed, UCS, 2 | FL_CF | FL_ZF, USTACK_TOP,
		     UDS);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.cs, UCS);
		CHECK_EQ(r.ss, UDS);
		CHECK_EQ(r.rsp, USTACK_TOP);
		CHECK_EQ(r.rip, (u64)landed_end);
		CHECK_EQ(r.rflags & ~FL_RF, 2 | FL_CF | FL_ZF);
		CHECK_EQ((u32)r.rax, 0);
		same_regs(&want, &r, 1 << 0 | 1 << 4);
	}
	part("stack pointers that are none");
	for (unsigned i = 0; i < REP; i++) {
		iret(&r, at, (u64)landed, UCS, 2, 1ull << 47, UDS);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.rsp, 1ull << 47);
		iret(&r, at, (u64)landed, UCS, 2, ~0ull << 47, UDS);
		CHECK_EQ(r.rsp, ~0ull << 47);
	}
	part("flags");
	for (unsigned i = 0; i < REP; i++) {
		iret(&r, at, (u64)landed2, UCS, 2 | FL_TF, USTACK_TOP, UDS);
		CHECK_EQ(r.vec, 1);
		CHECK_EQ(r.rip, (u64)landed2 + 1);
		iret(&r, at, (u64)landed, UCS,
		     2 | FL_AC | FL_ID | FL_IOPL | FL_DF | FL_RF, USTACK_TOP,
		     UDS);
		CHECK_EQ(r.rflags & ~FL_RF,
			 2 | FL_AC | FL_ID | FL_IOPL | FL_DF);
		iret(&r, at, (u64)landed, UCS, 0x2 | 1ull << 40 | 1 << 22,
		     USTACK_TOP, UDS);
		CHECK_EQ(r.rflags & ~FL_RF, 2);
	}
}

static void bad_one(u64 *at, u64 rip, u64 cs, u64 ss, u64 vec, u64 err)
{
	struct regs r, want;

	for (unsigned i = 0; i < REP; i++) {
		regs_kernel(&want, ret);
		iret(&r, at, rip, cs, 2, USTACK_TOP, ss);
		CHECK_EQ(r.vec, vec);
		CHECK_EQ(r.err, err);
		CHECK_EQ(r.rip, (u64)ret);
		CHECK_EQ(r.rsp, (u64)at);
		CHECK_EQ(r.cs, KCS);
		same_regs(&want, &r, 1 << 4);
	}
}

static void bad(u64 *at)
{
	u64 keep = gdt[UCS / 8], keep2 = gdt[UDS / 8];
	struct regs r;

	part("selectors and addresses");
	if (!is_tcg())
		bad_one(at, 1ull << 47, UCS, UDS, 13, 0);
	bad_one(at, (u64)landed, UCS, KDS, 13, KDS);
	bad_one(at, (u64)landed, UCS, 0, 13, 0);
	bad_one(at, (u64)landed, 0, UDS, 13, 0);
	bad_one(at, (u64)landed, 0x7f8 | 3, UDS, 13, 0x7f8);
	bad_one(at, (u64)landed, KDS | 3, UDS, 13, KDS);
	part("descriptors");
	gdt[UCS / 8] = keep & ~(1ull << 47); /* not present */
	bad_one(at, (u64)landed, UCS, UDS, 11, UCS & ~3);
	gdt[UCS / 8] = keep & ~(3ull << 45); /* DPL 0 */
	bad_one(at, (u64)landed, UCS, UDS, 13, UCS & ~3);
	gdt[UCS / 8] = keep & ~(1ull << 43); /* data */
	bad_one(at, (u64)landed, UCS, UDS, 13, UCS & ~3);
	gdt[UCS / 8] = keep;
	gdt[UDS / 8] = keep2 & ~(1ull << 47);
	bad_one(at, (u64)landed, UCS, UDS, is_tcg() ? 11 : 12, UDS & ~3);
	gdt[UDS / 8] = keep2 & ~(1ull << 41); /* read only */
	bad_one(at, (u64)landed, UCS, UDS, 13, UDS & ~3);
	part("accessed bits of descriptors");
	for (unsigned i = 0; i < REP && !is_tcg(); i++) {
		gdt[UCS / 8] = keep & ~(1ull << 40);
		gdt[UDS / 8] = keep2 & ~(1ull << 40);
		iret(&r, at, (u64)landed, UCS, 2, USTACK_TOP, UDS);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(gdt[UCS / 8], keep | 1ull << 40);
		CHECK_EQ(gdt[UDS / 8], keep2 | 1ull << 40);
	}
	gdt[UCS / 8] = keep;
	gdt[UDS / 8] = keep2;
}

/* The frame may be on pages that are not there. */
static void absent(void)
{
	u8 *f = page_alloc(), *g = page_alloc();
	struct regs r;

	part("frames in pages");
	for (unsigned i = 0; i < REP; i++) {
		u64 at = VA + PG - 8 * (i % 5);

		map_page(VA, f, KRW);
		map_page(VA + PG, g, KRW);
		iret(&r, (u64 *)at, (u64)landed, UCS, 2, USTACK_TOP, UDS);
		CHECK_EQ(r.vec, VEC_DONE);
		unmap_page(VA + PG);
		regs_kernel(&r, ret);
		r.rsp = at;
		segs(null_segs ? 0 : KDS);
		run(&r);
		segs(KDS);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.err, 0);
		CHECK_EQ(r.cr2, VA + PG);
		CHECK_EQ(r.rsp, at);
		regs_kernel(&r, ret);
		r.rsp = 1ull << 47;
		run(&r);
		tcg_ss(&r);
		CHECK_EQ(r.vec, 12);
	}
	page_free(f);
	page_free(g);
}

/* Within the kernel, at an address in the upper half. */
#define HI slot_va(300, 0x10000)
static void kernel_half(void)
{
	u8 *f = page_alloc(), *p = f;
	struct regs r;

	part("in the kernel's half");
	*p++ = 0x48; /* iretq */
	*p++ = 0xcf;
	p = f + 0x10;
	e_done(&p);
	map_page(HI, f, KRW);
	for (unsigned i = 0; i < 4 * REP; i++) {
		u64 *at = (u64 *)(HI + 0x800), ss = i & 2 ? 0 : KDS;

		at[0] = HI + 0x10;
		at[1] = KCS;
		at[2] = 2 | FL_SF | (i & 1 ? FL_AC : 0);
		at[3] = HI + 0x900 + i;
		at[4] = ss;
		regs_kernel(&r, (void *)HI);
		r.rsp = (u64)at;
		segs(null_segs ? 0 : KDS);
		run(&r);
		segs(KDS);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.cs, KCS);
		CHECK_EQ(r.ss, ss);
		CHECK_EQ(r.rsp, HI + 0x900 + i);
		CHECK_EQ(r.rflags & ~FL_RF, at[2]);
	}
	unmap_page(HI);
	page_free(f);
}

/* ---- XSAVE ---- */
#define X(name, insn)                                                         \
	SNIP(name, "vpcmpeqd %ymm3, %ymm3, %ymm3\n vmovq %rbx, %xmm5\n"       \
		   "xor %edx, %edx\n .globl " #name "_at\n" #name "_at: " insn \
		   " (%rdi)");                                                \
	extern char name##_at[]
X(xs, "xsave64");
X(xsc, "xsavec64");
SNIP(xr, "vpxor %xmm3, %xmm3, %xmm3\n vpxor %xmm5, %xmm5, %xmm5\n"
	 "xor %edx, %edx\n .globl xr_at\nxr_at: xrstor64 (%rdi)\n"
	 "vmovq %xmm5, %rbx\n vextracti128 $1, %ymm3, %xmm4\n"
	 "vmovq %xmm4, %rcx");
extern char xr_at[];
SNIP(fpu_used, "fninit\n fld1\n lea fpu_data(%rip), %rsi\n fadds (%rsi)\n"
	       "xor %edx, %edx\n xsave64 (%rdi)\n fninit\n xrstor64 (%rdi)");
asm(".pushsection .data\nfpu_data: .float 1.0\n.popsection");

static void x_run(struct regs *r, const char *code, u64 area, u64 mask)
{
	regs_kernel(r, code);
	r->rdi = area;
	r->rax = mask;
	r->rbx = 0x1122334455667788;
	run(r);
}

static void xsaves(void)
{
	u8 *f = pages_alloc(2, PG);
	u64 *h = (u64 *)(f + 512);
	struct regs r;

	part("xsave");
	/* AVX-512's components: avx512.c */
	asm volatile("xsetbv" ::"a"(7), "d"(0), "c"(0));
	for (unsigned i = 0; i < REP; i++) {
		memset(f, 0xcc, 2 * PG);
		memset(h, 0, 64);
		x_run(&r, i & 1 ? xs : xsc, (u64)f, i & 2 ? 7 : 0xffffffff);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(*(u64 *)(f + 160 + 16 * 5), 0x1122334455667788);
		CHECK_EQ(*(u64 *)(f + 576 + 16 * 3), ~0ull);
		CHECK_EQ(h[0] & ~7ull, 0);
		CHECK_EQ(h[1], i & 1 ? 0 : 7 | 1ull << 63);
		for (unsigned k = 832; k < 2 * PG; k++)
			if (f[k] != 0xcc) {
				fail_at("xsave", k, "written beyond");
				break;
			}
		x_run(&r, xr, (u64)f, 7);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.rbx, 0x1122334455667788);
		CHECK_EQ(r.rcx, ~0ull);
		/* one component alone */
		memset(f, 0xcc, PG);
		memset(h, 0, 64);
		x_run(&r, xs, (u64)f, 2);
		CHECK_EQ(*(u64 *)(f + 160 + 16 * 5), 0x1122334455667788);
		CHECK_EQ(f[0], 0xcc);
		CHECK_EQ(f[576], 0xcc);
	}
	part("xrstor headers");
	for (unsigned i = 0; i < REP; i++) {
		static const u64 no[][3] = {
			{ 1 << 9 }, { 0xe0 }, { 1ull << 62 }, { 3, 1 },
			{ 3, 7 | 1ull << 63 | 1 << 9 }, { 3, 0, 1 },
			{ 7, 3 | 1ull << 63 },
		};
		memset(f, 0, PG);
		*(u32 *)(f + 24) = 0x1f80;
		memcpy(h, no[i % 7], sizeof(no[0]));
		x_run(&r, xr, (u64)f, 7);
		if (is_tcg() && r.vec != 13)
			continue;
		expect_fault(&r, 13, 0, xr_at);
		memset(h, 0, 64);
		h[0] = 2;
		*(u32 *)(f + 24) = 0xffff1f80; /* MXCSR */
		x_run(&r, xr, (u64)f, 7);
		if (!is_tcg())
			expect_fault(&r, 13, 0, xr_at);
		x_run(&r, xr, (u64)f + 16, 7);
		if (!is_tcg())
			expect_fault(&r, 13, 0, xr_at);
	}
	part("areas in pages");
	for (unsigned i = 0; i < REP; i++) {
		/* the header, or the upper halves, on the second page */
		u64 at = VA + PG - (i & 1 ? 512 : 640);

		memset(f, 0, 2 * PG);
		map_page(VA, f, KRW);
		unmap_page(VA + PG);
		x_run(&r, xs, at, 7);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.cr2, VA + PG);
		CHECK_EQ(r.rip, (u64)xs_at);
		map_page(VA + PG, f + PG, PTE_P);
		x_run(&r, xsc, at, 7);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.rip, (u64)xsc_at);
		map_page(VA + PG, f + PG, KRW);
		x_run(&r, xs, at, 7);
		CHECK_EQ(r.vec, VEC_DONE);
		unmap_page(VA + PG);
		x_run(&r, xr, at, 7);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.err, 0);
		CHECK_EQ(r.cr2, VA + PG);
		map_page(VA + PG, f + PG, PTE_P);
		x_run(&r, xr, at, 7);
		CHECK_EQ(r.rbx, 0x1122334455667788);
		CHECK_EQ(r.rcx, ~0ull);
	}
	part("x87 in use");
	for (unsigned i = 0; i < REP; i++) {
		u64 *p = (u64 *)(f + 8);

		memset(f, 0, PG);
		x_run(&r, fpu_used, (u64)f, 7);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(*(u64 *)(f + 32), 0x8000000000000000); /* 2.0 */
		CHECK(!p[0] || p[0] - (u64)fpu_used < 64, "FIP %lx", p[0]);
	}
}

int main(void)
{
	u64 *at = (u64 *)(KSTACK_TOP - 256);

	wrmsr(MSR_STAR, 0x1bull << 48 | 8ull << 32);
	asm volatile("mov %0, %%fs\n mov %0, %%gs" ::"r"(0));
	for (unsigned k = 0; k < 2; k++) {
		null_segs = k;
		good(at);
		bad(at);
		absent();
		kernel_half();
	}
	if (has_xsave() && has_xsavec() && has_avx2() && xsave_enable())
		xsaves();
	else
		skip("xsave");
	return 0;
}
