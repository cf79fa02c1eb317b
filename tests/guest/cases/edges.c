/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Corners that a translator falls over: byte registers beside RSP, branches out
 * of the canonical half by a constant, INVLPG of page 0 and of large pages of
 * code, code of address spaces that come back, GS over SYSRET, x87 pointers.
 */
#include "tests/guest/rt/rt.h"

SNIP(e_movzx, "movzbl %ah, %esp");
SNIP(e_movsx, "movsbl %bh, %esp");
SNIP(e_movzw, "movzbw %ch, %sp");
SNIP(e_flags, "add %rax, %rsp");

static void high_bytes(void)
{
	struct regs r;

	part("high bytes into RSP");
	regs_kernel(&r, e_movzx);
	r.rax = 0x1234567890abcdefull;
	run_ok(&r);
	CHECK_EQ(r.rsp, 0xcd);
	regs_kernel(&r, e_movsx);
	r.rbx = 0x8765;
	run_ok(&r);
	CHECK_EQ(r.rsp, 0xffffff87);
	regs_kernel(&r, e_movzw);
	r.rcx = 0xfe00;
	r.rsp = 0x1122334455667788ull;
	run_ok(&r);
	CHECK_EQ(r.rsp, 0x11223344556600feull);
	part("RSP by an instruction with other effects");
	regs_kernel(&r, e_flags);
	r.rsp = 0x7fffffffff00;
	r.rax = 0x1234567890000000ull;
	run_ok(&r);
	CHECK_EQ(r.rsp, 0x1234d6788fffff00ull);
	CHECK_EQ(r.rax, 0x1234567890000000ull);
}

/* Bytes at the end of the lower half. */
static void at_the_end(const char *what, const u8 *code, unsigned n, u64 at,
		       unsigned vec, u64 rip, bool user)
{
	u8 *page = map_page(0x7ffffffff000, NULL, URW);
	struct regs r, a;

	part(what);
	memcpy(page + (at & 0xfff), code, n);
	(user ? regs_user : regs_kernel)(&r, (void *)at);
	a = r;
	run(&r);
	CHECK_EQ(r.vec, vec);
	CHECK_EQ(r.rip, rip);
	CHECK_EQ(r.err, 0);
	same_regs(&a, &r, 0);
	unmap_page(0x7ffffffff000);
	page_free(page);
}

static void canonical_end(void)
{
	static const u8 jmp[] = { 0xe9, 0, 0x10, 0, 0 };
	static const u8 jz[] = { 0x39, 0xc0, 0x0f, 0x84, 0, 0x10, 0, 0 };
	static const u8 call[] = { 0xe8, 0, 0x10, 0, 0 };
	static const u8 nops[] = { 0x90, 0x90, 0x90 };
	static const u8 jnz[] = { 0x39, 0xc0, 0x0f, 0x85, 0, 0xf0, 0xff, 0xff };
	u64 end = 0x800000000000;

	if (is_tcg()) {
		skip("branches to non-canonical addresses (TCG goes there)");
		return;
	}
	for (int user = 0; user < 2; user++) {
		at_the_end("jmp out", jmp, 5, end - 0x800, 13, end - 0x800,
			   user);
		at_the_end("jz out", jz, 8, end - 0x800, 13, end - 0x7fe,
			   user);
		at_the_end("call out", call, 5, end - 0x800, 13, end - 0x800,
			   user);
		at_the_end("fall out", nops, 3, end - 3, 13, end, user);
		at_the_end("jnz, fall out", jnz, 8, end - 8, 13, end, user);
	}
}

/* mov $v, %eax; int $0x81 */
static void put_code(u8 *p, u32 v)
{
	static const u8 code[] = { 0xb8, 0, 0, 0, 0, 0xcd, 0x81 };

	memcpy(p, code, sizeof(code));
	memcpy(p + 1, &v, 4);
}

static void code_at(u64 va, u32 want)
{
	struct regs r;

	regs_user(&r, (void *)va);
	run_ok(&r);
	CHECK_EQ(r.rax, want);
}

static void code_pages(void)
{
	u64 va = slot_va(9, 0x200000), a, b;
	u8 *big[2] = { pages_alloc(512, 1 << 21), pages_alloc(512, 1 << 21) };
	u8 *p[3];

	part("invlpg of page 0");
	invlpg(0);
	invlpg(0xfff);
	part("invlpg of a large page of code");
	if (is_tcg()) {
		skip("INVLPG of a large page of code (TCG 7.2 keeps jumps)");
		return;
	}
	for (u32 i = 0; i < 2; i++)
		put_code(big[i] + 0x5000, 100 + i);
	map2m(root_now(), va, (u64)big[0], URW);
	invlpg(va);
	code_at(va + 0x5000, 100);
	map2m(root_now(), va, (u64)big[1], URW);
	invlpg(va);
	code_at(va + 0x5000, 101);
	if (!has_pcid())
		return;
	part("code of a space that comes back");
	for (u32 i = 0; i < 3; i++) {
		p[i] = page_alloc();
		put_code(p[i], 200 + i);
	}
	a = root_new();
	b = root_new();
	va = slot_va(10, 0x3000);
	map4k(a, va, (u64)p[0], URW);
	map4k(b, va + 0x4000, (u64)p[1], URW);
	u64 old = read_cr3();
	write_cr4(read_cr4() | CR4_PCIDE);
	write_cr3(a | 1);
	code_at(va, 200);
	write_cr3(b | 2);
	code_at(va + 0x4000, 201);
	write_cr3(a | 1 | NOFLUSH);
	map4k(a, va, (u64)p[2], URW);
	invlpg(va);
	code_at(va, 202);
	write_cr3(b | 2 | NOFLUSH);
	code_at(va + 0x4000, 201);
	write_cr3(old);
	write_cr4(read_cr4() & ~CR4_PCIDE);
}

USNIP(e_gs, "mov %gs:-4096, %rax");
SNIP(e_sysret, "str %ax\n.byte 0x48, 0x0f, 0x07");

static void gs_over_sysret(void)
{
	u64 va = slot_va(11, 0x10000), gs = rdmsr(MSR_GS_BASE);
	volatile u64 *k;
	struct regs r;

	part("GS in the user half over SYSRET");
	map_page(va, NULL, KRW);
	map_page(va + PG, NULL, URW);
	k = (volatile u64 *)va;
	*k = 0x5ec4e7;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)KCS << 32);
	wrmsr(MSR_GS_BASE, va + PG);
	CHECK_EQ(*k, 0x5ec4e7);
	for (int i = 0; i < 4; i++) { /* the jumps are linked by then */
		regs_kernel(&r, e_sysret);
		r.rcx = (u64)e_gs;
		r.r11 = 2;
		r.rsp = USTACK_TOP;
		run(&r);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.err, PF_P | PF_U);
		CHECK_EQ(r.cr2, va);
		CHECK_EQ(r.rip, (u64)e_gs);
	}
	wrmsr(MSR_GS_BASE, gs);
}

u8 fx[512] __attribute__((aligned(64)));
u16 cw = 0x37b; /* #Z is not masked */
SNIP(e_fpu, "fninit\nfldcw cw\nfldz\nfld1\n.globl e_fdiv\ne_fdiv: fdiv %st(1), %st\n"
	    "fxsave64 fx\nfninit");
extern char e_fdiv[];

static void x87_pointers(void)
{
	struct regs r;
	u64 ip;

	part("x87 pointers");
	if (is_tcg()) {
		skip("x87 instruction pointers (TCG keeps none)");
		return;
	}
	regs_kernel(&r, e_fpu);
	run_ok(&r);
	memcpy(&ip, fx + 8, 8);
	CHECK(fx[2] & 0x80, "no exception is pending");
	CHECK_EQ(ip, (u64)e_fdiv);
}

/* RSP moves by a constant, and what looks like an access to the stack is none:
 * down over a hole, must not end in another slot's memory. 1 TiB (1 << 40) leads
 * into the next window, but takes 20 s each when all is well: this is less. */
#define WALK (1ull << 30)
#define SUB8                                                                  \
	"sub $65536, %rsp\nsub $65536, %rsp\nsub $65536, %rsp\n"              \
	"sub $65536, %rsp\nsub $65536, %rsp\nsub $65536, %rsp\n"              \
	"sub $65536, %rsp\nsub $65536, %rsp\n"
SNIP(e_walk_bt, "push %rcx\npop %rcx\n1: " SUB8 "bts %rax, (%rsp)\n"
		"add %rdx, %rax\ndec %rcx\njnz 1b\nmov (%rsp), %rbx");
SNIP(e_walk_mask, "push %rcx\npop %rcx\nvpxor %xmm0, %xmm0, %xmm0\n1: " SUB8
		  "vpmaskmovd %ymm1, %ymm0, (%rsp)\n"
		  "dec %rcx\njnz 1b\nmov (%rsp), %rbx");

SNIP(e_walk_evex, "push %rcx\npop %rcx\nkxorq %k1, %k1, %k1\n1: " SUB8
		  "vmovdqu32 %zmm1, (%rsp){%k1}\n"
		  "dec %rcx\njnz 1b\nmov (%rsp), %rbx");

static void rsp_walk(const char *what, const void *code)
{
	static const unsigned slot[] = { 200, 100, 50, 30, 25 };
	volatile u64 *p;
	struct regs r;

	part(what);
	for (unsigned i = 0; i < 5; i++) {
		p = map_page(slot_va(slot[i], 0x7000), NULL, KRW);
		p = (u64 *)slot_va(slot[i], 0x7000);
		p[0x100] = slot[i];
	}
	for (unsigned i = 0; i < 5; i++) {
		regs_kernel(&r, code);
		r.rsp = slot_va(slot[i], 0x7800);
		r.rcx = WALK / (8 * 65536);
		r.rax = 8 * 65536 * 8;
		r.rdx = 8 * 65536 * 8;
		run(&r);
		CHECK_EQ(r.vec, 14);
		CHECK_EQ(r.cr2, slot_va(slot[i], 0x7800) - WALK);
		CHECK_EQ(r.rsp, r.cr2);
	}
	for (unsigned i = 0; i < 5; i++)
		unmap_page(slot_va(slot[i], 0x7000));
}

int main(void)
{
	rsp_walk("RSP walks, BTS", e_walk_bt);
	if (has_avx2() && xsave_enable())
		rsp_walk("RSP walks, VPMASKMOVD", e_walk_mask);
	if (has_avx512())
		rsp_walk("RSP walks, VMOVDQU32", e_walk_evex);
	high_bytes();
	canonical_end();
	code_pages();
	gs_over_sysret();
	x87_pointers();
	return 0;
}
