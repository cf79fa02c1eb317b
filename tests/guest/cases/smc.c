/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Self-modifying code: the page that runs, another alias of it, the next
 * instruction, pages that hold code and data, code written by string
 * instructions and by CPL 3, JIT loops, and code that changes by remapping.
 */
#include "tests/guest/rt/enc.h"

static u8 *page; /* identity */
#define VA_A slot_va(2, 0x1000000)
#define VA_B slot_va(310, 0x7000)
#define VA_U slot_va(17, 0x40000)

/* mov eax, imm32; int: 7 bytes */
static u8 *put_mov(u8 *p, u32 v)
{
	e8(&p, 0xb8);
	e32(&p, v);
	e_done(&p);
	return p;
}

static u64 call_at(u64 va)
{
	struct regs r;

	regs_kernel(&r, (void *)va);
	run_ok(&r);
	return r.rax;
}

static void same_page(void)
{
	part("rewrite");
	for (unsigned i = 0; i < 2000; i++) {
		put_mov(page, i);
		if (call_at((u64)page) != i)
			return fail_at("smc", i, "stale code (identity)");
	}
	/* one byte of the immediate, in the middle */
	put_mov(page, 0x11223344);
	CHECK_EQ(call_at((u64)page), 0x11223344);
	page[2] = 0x99;
	CHECK_EQ(call_at((u64)page), 0x11229944);
	*(volatile u16 *)(page + 3) = 0xabcd;
	CHECK_EQ(call_at((u64)page), 0xabcd9944);
}

static void aliases(void)
{
	part("alias");
	map_page(VA_A, page, KRW);
	map_page(VA_B, page, KRW);
	for (unsigned i = 0; i < 300; i++) {
		u64 w[3] = { (u64)page, VA_A, VA_B };

		put_mov((u8 *)w[i % 3] + 0x100, 5 * i);
		for (unsigned k = 0; k < 3; k++)
			if (call_at(w[(i + k) % 3] + 0x100) != 5 * i)
				return fail_at("alias", i, "stale by %u", k);
	}
	/* run only by one alias, write only by another that never ran */
	u64 va = slot_va(90, 0);

	put_mov(page + 0x200, 1);
	CHECK_EQ(call_at(VA_A + 0x200), 1);
	map_page(va, page, KRW);
	put_mov((u8 *)va + 0x200, 2);
	CHECK_EQ(call_at(VA_A + 0x200), 2);
	unmap_page(va);
	/* a read-only mapping runs; writes come through a writable one */
	map_page(VA_B, page, PTE_P);
	CHECK_EQ(call_at(VA_B + 0x200), 2);
	put_mov(page + 0x200, 3);
	CHECK_EQ(call_at(VA_B + 0x200), 3);
	map_page(VA_B, page, KRW);
}

/* Patches the instruction right after the store, and the one two further, in
 * straight-line code; RIP-relative stores. */
SNIP(patch_next, "movb %cl, 1f+1(%rip)\n 1: mov $0x11, %al\n mov $0x22, %bl\n"
		 "movb %ch, 2f+1(%rip)\n nop\n nop\n 2: mov $0x33, %dl");
/* A loop that changes its own addend each time round. */
SNIP(patch_loop, "xor %eax, %eax\n mov $100, %ecx\n"
		 "1: .byte 0x05\n patch_loop_imm: .long 0\n"
		 "incl patch_loop_imm(%rip)\n dec %ecx\n jnz 1b");
extern char patch_loop_imm[];
/* The store faults, then another instruction is written in its place. */
SNIP(patch_self, "lea 1f(%rip), %rdi\n mov %rax, (%rdi)\n nop\n"
		 "1: .quad 0x9090909090909090\n inc %rbx");
/* cmpxchg, xchg, rep movsb, push, movups, call as the writer */
SNIP(patch_by_xchg, "mov $0x04b3, %eax\n xchg %ax, 1f(%rip)\n"
		    "1: mov $0, %cl\n");
SNIP(patch_by_movs, "lea 2f(%rip), %rsi\n lea 1f(%rip), %rdi\n mov $2, %ecx\n"
		    "rep movsb\n 1: mov $1, %bl\n jmp 3f\n 2: mov $7, %bl\n 3:");
SNIP(patch_by_push, "mov %rsp, %rdx\n lea 1f+8(%rip), %rsp\n"
		    "mov $0x90909090909006b3, %rax\n push %rax\n"
		    "1: .quad 0x90909090909005b3\n mov %rdx, %rsp");
SNIP(patch_by_sse, "movups (%rsi), %xmm1\n movups %xmm1, 1f(%rip)\n"
		   "1: .fill 16, 1, 0x90\n");

static void next_insn(void)
{
	struct regs r;

	part("next instruction");
	for (unsigned i = 0; i < 50; i++) {
		regs_kernel(&r, patch_next);
		r.rcx = i | (0xff - i) << 8;
		run_ok(&r);
		CHECK_EQ(r.rax & 0xff, i);
		CHECK_EQ(r.rbx & 0xff, 0x22);
		CHECK_EQ(r.rdx & 0xff, 0xff - i);
	}
	for (unsigned i = 0; i < 5; i++) {
		*(volatile u32 *)patch_loop_imm = i;
		regs_kernel(&r, patch_loop);
		run_ok(&r);
		CHECK_EQ(r.rax, 100 * i + 99 * 100 / 2);
	}
	for (unsigned i = 0; i < 20; i++) {
		regs_kernel(&r, patch_self);
		/* nops, or `add $i, %ebx; nop..` */
		r.rax = i & 1 ? 0x909090909000c383 | (u64)i << 16 :
				0x9090909090909090;
		r.rbx = 100;
		run_ok(&r);
		CHECK_EQ(r.rbx, 101 + (i & 1 ? i : 0));
	}
	for (unsigned i = 0; i < 3; i++) {
		regs_kernel(&r, patch_by_xchg);
		run_ok(&r);
		CHECK_EQ(r.rbx & 0xff, 4);
		regs_kernel(&r, patch_by_movs);
		run_ok(&r);
		CHECK_EQ(r.rbx & 0xff, 7);
		regs_kernel(&r, patch_by_push);
		run_ok(&r);
		CHECK_EQ(r.rbx & 0xff, 6);
		static u8 code[16] = { 0xb3, 9, 0x48, 0xff, 0xc0, 0x90, 0x90,
				       0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
				       0x90, 0x90 };

		code[1] = 9 + i;
		regs_kernel(&r, patch_by_sse);
		r.rsi = (u64)code;
		r.rax = 0;
		run_ok(&r);
		CHECK_EQ(r.rbx & 0xff, 9 + i);
		CHECK_EQ(r.rax, 1);
	}
}

/* A page with code and a counter that the code increments; and a loop of two
 * functions on one page where each rewrites the other. */
static void code_and_data(void)
{
	static const u8 c[] = {
		0x48, 0xff, 0x05, 0xf9, 0x00, 0x00, 0x00, /* inc [rip+f9] */
		0xff, 0xc9,				  /* dec ecx */
		0x75, 0xf5,				  /* jnz 0 */
		0xcd, VEC_DONE,
	};
	struct regs r;
	u8 *p = page + 0x400;

	part("code and data");
	memcpy(p, c, sizeof(c));
	*(u64 *)(p + 0x100) = 0;
	for (unsigned k = 1; k <= 3; k++) {
		regs_kernel(&r, p);
		r.rcx = 20000;
		run_ok(&r);
		CHECK_EQ(*(u64 *)(p + 0x100), 20000ull * k);
		/* and code beside it that is called in between */
		put_mov(page + 0x600, k);
		CHECK_EQ(call_at(VA_A + 0x600), k);
	}
	/* stack on the code page */
	static const u8 s[] = {
		0x50, 0x53, 0x58, 0x5b, /* push rax, push rbx, pop rax, rbx */
		0xe8, 0x04, 0, 0, 0,	/* call +4 */
		0xff, 0xc9, 0x75, 0xf3, /* dec ecx; jnz 0 */
		/* 13: */
		0xcd, VEC_DONE,
	};
	memcpy(page + 0x800, s, 9);
	u8 *q = page + 0x809;

	e8(&q, 0xff), e8(&q, 0xc9), e8(&q, 0x75), e8(&q, 0xf3);
	e_done(&q);
	/* call goes to +9+4 = 0x80d: the INT; make that a ret before it */
	q = page + 0x80d;
	e8(&q, 0xeb), e8(&q, 0x01), e8(&q, 0xc3), e_done(&q);
	/* 80d: jmp 810; 80f: ret; 810: int. The call must go to 80f. */
	page[0x805] = 0x80f - 0x809;
	regs_kernel(&r, page + 0x800);
	r.rsp = (u64)page + 0xf00;
	r.rcx = 1001;
	struct regs a = r;

	run_ok(&r);
	CHECK_EQ(r.rax, a.rbx);
	CHECK_EQ(r.rbx, a.rax);
	CHECK_EQ(r.rsp, a.rsp);
}

/* Writes and reads beside code on one page, by all sizes, without harm. */
static void neighbours(void)
{
	part("neighbours");
	put_mov(page + 0xa00, 77);
	for (unsigned i = 0; i < 500; i++) {
		u64 off = 0xa10 + rnd() % 0x100;

		switch (i & 3) {
		case 0: *(volatile u8 *)(page + off) = i; break;
		case 1: *(volatile u16 *)(VA_B + off) = i; break;
		case 2: *(volatile u64 *)(VA_A + off) = i; break;
		case 3: memset(page + off, i, 40); break;
		}
		if (!(i & 31))
			CHECK_EQ(call_at(VA_A + 0xa00), 77);
	}
	CHECK_EQ(call_at((u64)page + 0xa00), 77);
}

/* Code across a page boundary: only the second page's bytes change. */
static void cross_page(void)
{
	u8 *two = pages_alloc(2, PG);
	u64 va = slot_va(21, 0x8000);

	part("cross page");
	map_page(va, two, KRW);
	map_page(va + PG, two + PG, KRW);
	for (unsigned k = 1; k < 7; k++) {
		u8 *p = two + PG - k;

		put_mov(p, 0x01010101);
		CHECK_EQ(call_at(va + PG - k), 0x01010101);
		for (unsigned b = k; b < 5; b++) {
			if (b == 0)
				continue;
			p[b] = 0x40 + b;
			CHECK_EQ(call_at(va + PG - k) >> (8 * (b - 1)) & 0xff,
				 0x40 + b);
			CHECK_EQ(call_at((u64)p) >> (8 * (b - 1)) & 0xff,
				 0x40 + b);
		}
		/* the second page replaced by another frame */
		u8 *other = page_alloc();

		memset(other, 0x90, PG);
		memcpy(other, two + PG, 16);
		if (k < 5 && k > 0) {
			other[4 - k] = 0x7e;
			map_page(va + PG, other, KRW);
			CHECK_EQ(call_at(va + PG - k) >> 24, 0x7e);
			map_page(va + PG, two + PG, KRW);
			CHECK(call_at(va + PG - k) >> 24 != 0x7e);
		}
		page_free(other);
	}
	unmap_page(va);
	unmap_page(va + PG);
}

/* A branch whose last bytes are alone on the second page: no other code runs
 * there, and still a write to them counts. */
static void cross_branch(void)
{
	static u64 stk[64];
	struct regs r;
	u8 *p;

	part("cross branch");
	for (unsigned k = 1; k < 3; k++) {
		u8 *two = pages_alloc(2, PG);

		put_mov(two + 0x100, 0xa);
		put_mov(two + 0x200, 0xb);
		p = two + PG - k;
		e8(&p, 0xe9);
		e32(&p, 0x100 - (int)(PG - k + 5));
		p = two + PG - k;
		for (unsigned i = 0; i < 20; i++) {
			int rel = (i & 1 ? 0x200 : 0x100) - (int)(PG - k + 5);

			/* only what is on the second page */
			for (unsigned b = k; b < 5; b++)
				((volatile u8 *)p)[b] = (u32)rel >> (8 * (b - 1));
			CHECK_EQ(call_at((u64)p), i & 1 ? 0xb : 0xa);
		}
	}
	/* ret imm16 */
	p = pages_alloc(2, PG);
	p[PG - 1] = 0xc2;
	stk[32] = (u64)done;
	for (unsigned i = 0; i < 20; i++) {
		*(volatile u16 *)(p + PG) = 8 * i;
		regs_kernel(&r, p + PG - 1);
		r.rsp = (u64)&stk[32];
		run_ok(&r);
		CHECK_EQ(r.rsp, (u64)&stk[33] + 8 * i);
	}
}

/* At CPL 3: a program that writes code for itself. */
USNIP(ujit, "1: movb $0xb8, (%rdi)\n mov %ecx, 1(%rdi)\n movb $0xc3, 5(%rdi)\n"
	    "call *%rdi\n add %rax, %rbx\n dec %ecx\n jnz 1b");
USNIP(ujit2, "1: mov %ecx, 1(%rsi)\n call *%rdi\n add %rax, %rbx\n dec %ecx\n"
	     "jnz 1b");
static void user_jit(void)
{
	struct regs r;
	u64 n = 3000;
	void *f = page_alloc();

	part("user jit");
	map_page(VA_U, f, URW);
	map_page(VA_U + PG, f, URW); /* an alias for writes */
	regs_user(&r, ujit);
	r.rdi = VA_U;
	r.rbx = 0;
	r.rcx = n;
	run_ok(&r);
	CHECK_EQ(r.rbx, n * (n + 1) / 2);
	map_page(VA_U, f, PTE_P | PTE_U);
	regs_user(&r, ujit2);
	r.rdi = VA_U;
	r.rsi = VA_U + PG;
	r.rbx = 0;
	r.rcx = n;
	run_ok(&r);
	CHECK_EQ(r.rbx, n * (n + 1) / 2);
	/* the kernel writes, the user runs */
	for (unsigned i = 0; i < 50; i++) {
		put_mov((u8 *)f + 0x80, i);
		regs_user(&r, (void *)(VA_U + 0x80));
		run_ok(&r);
		CHECK_EQ(r.rax, i);
	}
	unmap_page(VA_U);
	unmap_page(VA_U + PG);
}

/* A JIT with a code cache: many functions, at random, rewritten at random. */
static void jit_cache(void)
{
	u8 *cache = pages_alloc(16, PG);
	u32 val[256];

	part("jit cache");
	for (unsigned i = 0; i < 256; i++)
		put_mov(cache + i * 256, val[i] = rnd());
	for (unsigned i = 0; i < 5000; i++) {
		unsigned k = rnd() & 255;

		if (!(rnd() % 5))
			put_mov(cache + k * 256, val[k] = rnd());
		k = rnd() & 255;
		if (call_at((u64)cache + k * 256) != val[k])
			return fail_at("jit", i, "function %u is stale", k);
	}
}

/* The page tables change under the code: another frame, with INVLPG; through
 * CR3; and a frame that goes away and comes back. */
static void remapping(void)
{
	u8 *f[4];
	u64 va = slot_va(140, 0x9000), root2;

	part("remap");
	for (unsigned i = 0; i < 4; i++) {
		f[i] = page_alloc();
		put_mov(f[i], 0xf0 + i);
	}
	for (unsigned i = 0; i < 400; i++) {
		map_page(va, f[i & 3], KRW);
		CHECK_EQ(call_at(va), 0xf0 + (i & 3));
	}
	/* the data moves with it */
	for (unsigned i = 0; i < 40; i++) {
		map_page(va, f[i & 3], KRW);
		put_mov((u8 *)va, 1000 + i);
		CHECK_EQ(call_at(va), 1000 + i);
		CHECK_EQ(call_at((u64)f[i & 3]), 1000 + i);
	}
	root2 = root_new();
	map4k(root2, va, (u64)f[0], KRW);
	map_page(va, f[1], KRW);
	u64 root1 = root_now();

	for (unsigned i = 0; i < 100; i++) {
		put_mov(f[0], i);
		put_mov(f[1], i + 500);
		write_cr3(root2);
		CHECK_EQ(call_at(va), i);
		write_cr3(root1);
		CHECK_EQ(call_at(va), i + 500);
	}
	/* code in a 2 MiB page, written through a 4 KiB alias of its frame */
	u64 big = (u64)pages_alloc(512, 2 << 20), bva = slot_va(143, 0);

	map2m(root1, bva, big, KRW);
	invlpg(bva);
	for (unsigned i = 0; i < 60; i++) {
		u64 off = 0x5000 + (i % 3) * 0x40000;

		map_page(va, (u8 *)big + off, KRW);
		put_mov((u8 *)(i & 1 ? va + 0x40 : bva + off + 0x40), 7 * i);
		CHECK_EQ(call_at(bva + off + 0x40), 7 * i);
		CHECK_EQ(call_at(va + 0x40), 7 * i);
	}
	/* gone: a fetch fault; back: runs */
	struct regs r;

	for (unsigned i = 0; i < 10; i++) {
		unmap_page(va);
		regs_kernel(&r, (void *)va);
		run(&r);
		expect_pf(&r, PF_I, va, va);
		map_page(va, f[2], i & 1 ? KRW : KRW | PTE_NX);
		if (i & 1) {
			CHECK(call_at(va) >= 0xf2);
		} else {
			regs_kernel(&r, (void *)va);
			run(&r);
			expect_pf(&r, PF_I | PF_P, va, va);
		}
	}
	unmap_page(va);
}

/* As remapping(), but the code is reached by a jump from code that stays, at
 * CPL 0 and 3, often enough to be cached whichever way. */
SNIP(kjump, "1: call *%rdi\n add %rax, %rbx\n dec %rcx\n jnz 1b");
USNIP(ujump, "1: call *%rdi\n add %rax, %rbx\n dec %rcx\n jnz 1b");
static void put_ret(u8 *p, u32 v)
{
	e8(&p, 0xb8);
	e32(&p, v);
	e8(&p, 0xc3);
}

/* The same over the end of the frame, into its own beginning: for a frame that
 * is mapped twice in a row. */
static void put_split(u8 *f, u32 v)
{
	u8 b[6];

	put_ret(b, v);
	memcpy(f + PG - 3, b, 3);
	memcpy(f, b + 3, 3);
}

static void jumped_to(void)
{
	static const unsigned slots[] = { 141, 371 };
	u64 root[4], first = root_now();
	u8 *f[4];

	part("jumped to");
	for (unsigned i = 0; i < 4; i++) {
		f[i] = page_alloc();
		put_ret(f[i] + 0x20, 0xc0 + i);
		/* one that straddles into the next page, mapped likewise */
		put_split(f[i], 0xd0 + i);
		root[i] = root_new();
	}
	for (unsigned s = 0; s < 2; s++)
		for (unsigned user = 0; user < 2; user++) {
			u64 va = slot_va(slots[s], 0x9000 + user * 0x10000);
			u64 fl = user ? URW : KRW;
			struct regs r;

			for (unsigned i = 0; i < 120; i++) {
				unsigned n = 1 + i % 4, k = i % 3;
				u64 at = va + (i & 1 ? 0x20 : PG - 3), want;

				map_page(va, f[k], fl);
				map_page(va + PG, f[k], fl);
				put_split(f[k], 0xd0 + i);
				if (user)
					regs_user(&r, ujump);
				else
					regs_kernel(&r, kjump);
				r.rdi = at;
				r.rbx = 0;
				r.rcx = n;
				run_ok(&r);
				want = i & 1 ? 0xc0 + k : 0xd0 + i;
				CHECK_EQ(r.rbx, n * want);
				if (i % 8)
					continue;
				/* gone, not executable, or the other side's */
				if (i % 24 == 0)
					unmap_page(va);
				else if (i % 24 == 8)
					protect_page(va, fl | PTE_NX);
				else if (user)
					protect_page(va, KRW);
				else
					continue;
				if (user)
					regs_user(&r, ujump);
				else
					regs_kernel(&r, kjump);
				r.rdi = at;
				r.rcx = n;
				run(&r);
				expect_pf(&r, PF_I | (i % 24 ? PF_P : 0) |
					  (user ? PF_U : 0), at, at);
			}
			unmap_page(va);
			unmap_page(va + PG);
			/* the same address in four address spaces */
			for (unsigned i = 0; i < 4; i++)
				map4k(root[i], va, (u64)f[i], fl);
			for (unsigned i = 0; i < 200; i++) {
				unsigned k = i < 100 ? i % 4 : rnd() % 4;

				write_cr3(root[k]);
				if (user)
					regs_user(&r, ujump);
				else
					regs_kernel(&r, kjump);
				r.rdi = va + 0x20;
				r.rbx = 0;
				r.rcx = 3;
				run_ok(&r);
				CHECK_EQ(r.rbx, 3 * (0xc0 + k));
			}
			write_cr3(first);
		}
}

/* Chained blocks: A jumps to B in another page; B's page is rewritten. */
SNIP(hopper, "mov $1000, %ecx\n 1: jmp *%rdi\n ud2\n.globl hopper_back\n"
	     "hopper_back: add %rax, %rbx\n dec %ecx\n jnz 1b");
extern char hopper_back[];
static void chained(void)
{
	u8 *a = page_alloc(), *b = page_alloc(), *p;
	struct regs r;

	part("chained");
	/* a: jmp b; b: mov eax, imm; jmp back */
	p = a;
	e8(&p, 0xe9);
	e32(&p, (u32)(b - (p + 4)));
	for (unsigned i = 0; i < 30; i++) {
		p = b + (i / 10) * 8;
		e8(&p, 0xb8);
		e32(&p, i);
		e8(&p, 0xe9);
		e32(&p, (u32)((u8 *)hopper_back - (p + 4)));
		if (i == 10 || i == 20) { /* retarget the jump itself */
			p = a + 1;
			e32(&p, (u32)(b + (i / 10) * 8 - (p + 4)));
		}
		regs_kernel(&r, hopper);
		r.rdi = (u64)a;
		r.rbx = 0;
		run_ok(&r);
		CHECK_EQ(r.rbx, 1000 * i);
	}
}

/* int3 poking as Linux does it: first byte, tail, first byte. */
static void text_poke(void)
{
	u64 alias = slot_va(200, 0x3000);
	struct regs r;
	u8 *at = page + 0xc00;

	part("text poke");
	map_page(alias, page, KRW);
	put_mov(at, 1);
	for (unsigned i = 2; i < 60; i++) {
		volatile u8 *w = (u8 *)alias + 0xc00;

		CHECK_EQ(call_at((u64)at), i - 1);
		w[0] = 0xcc;
		regs_kernel(&r, at);
		run(&r);
		expect_fault(&r, 3, 0, at + 1);
		*(volatile u32 *)(w + 1) = i;
		regs_kernel(&r, at);
		run(&r);
		expect_fault(&r, 3, 0, at + 1);
		w[0] = 0xb8;
	}
	unmap_page(alias);
}

int main(void)
{
	page = page_alloc();
	same_page();
	aliases();
	next_insn();
	code_and_data();
	neighbours();
	cross_page();
	cross_branch();
	user_jit();
	jit_cache();
	remapping();
	jumped_to();
	chained();
	text_poke();
	return 0;
}
