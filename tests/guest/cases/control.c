/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control flow: near conditions, loops, indirect jumps and calls that change
 * their target, flags that live across block ends, code in every slot, jumps
 * into the middle of instructions, instructions that straddle pages with the
 * second page missing, and fetch faults.
 */
#include "tests/guest/rt/enc.h"

#define PF_FETCH PF_I /* EFER.NXE is set: fetches say so */
static u8 *buf;

/* ---- loops ---- */
SNIP(loops, "xor %eax, %eax\n mov $1000, %ecx\n1: add $3, %eax\n loop 1b\n"
	    "mov $50, %ecx\n2: inc %eax\n cmp $3020, %eax\n loopne 2b\n"
	    "mov %rcx, %rdx\n mov $10, %ecx\n xor %ebx, %ebx\n"
	    "3: inc %ebx\n cmp %ebx, %ebx\n loope 3b\n"
	    "jrcxz 4f\n ud2\n4: mov $1, %ecx\n jrcxz 5f\n inc %ebx\n"
	    "5: mov $0x100000000, %rcx\n jrcxz 6f\n inc %ebx\n 6:\n"
	    "jecxz 7f\n ud2\n 7: mov $0x700000003, %rsi\n mov %rsi, %rcx\n"
	    "8: inc %ebx\n addr32 loop 8b\n mov %rcx, %rdi");
/* carry lives through dec/jnz, jmp, call, ret and lea */
SNIP(carry, "xor %eax, %eax\n xor %edx, %edx\n mov $64, %ecx\n stc\n"
	    "1: adc %rax, %rax\n lea 1(%rdx), %rdx\n jmp 2f\n nop\n"
	    "2: call 3f\n dec %ecx\n jnz 1b\n setc %bl\n jmp 4f\n"
	    "3: push %rcx\n pop %rcx\n ret\n 4:");
SNIP(flagflow, "cmp $5, %eax\n jmp *%r10\n ud2\n.globl ff_1\nff_1: call ff_2\n"
	       "setl %bl\n setb %bh\n seta %cl\n jmp 9f\n"
	       "ff_2: push %rdx\n mov (%rsp), %rdx\n pop %rdx\n jl 8f\n ret\n"
	       "8: lea 8(%rdx), %rdx\n ret\n 9:");
extern char ff_1[];

static void loops_and_flags(void)
{
	struct regs r, a;

	part("loops");
	regs_kernel(&r, loops);
	run_ok(&r);
	CHECK_EQ(r.rax, 3020);
	CHECK_EQ(r.rdx, 30);
	CHECK_EQ(r.rbx, 10 + 2 + 3);
	CHECK_EQ(r.rdi, 0); /* a 32-bit count */
	regs_kernel(&r, carry);
	a = r;
	run_ok(&r);
	/* shifts a 1 up through 64 bits: after 64 steps carry comes out */
	CHECK_EQ(r.rax, 1ull << 63);
	CHECK_EQ(r.rbx & 0xff, 0);
	CHECK_EQ(r.rdx, 64);
	same_regs(&a, &r, 0xf);
	for (unsigned v = 0; v < 10; v++) {
		regs_kernel(&r, flagflow);
		r.rax = v;
		r.rdx = 100;
		r.r10 = (u64)ff_1;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rbx & 0xff, v < 5);
		CHECK_EQ(r.rbx >> 8 & 0xff, v < 5);
		CHECK_EQ(r.rcx & 0xff, v > 5);
		CHECK_EQ(r.rdx, v < 5 ? 108 : 100);
		same_regs(&a, &r, 0xe);
	}
}

/* ---- conditions with 32-bit offsets, both ways, all registers kept ---- */
static void near_jcc(void)
{
	part("near jcc");
	for (unsigned cc = 0; cc < 16; cc++)
		for (unsigned v = 0; v < 32; v++) {
			u64 f = 2 | (v & 1 ? FL_CF : 0) | (v & 2 ? FL_ZF : 0) |
				(v & 4 ? FL_SF : 0) | (v & 8 ? FL_OF : 0) |
				(v & 16 ? FL_PF : 0);
			bool c = f & FL_CF, z = f & FL_ZF, s = f & FL_SF,
			     o = f & FL_OF, taken;
			u8 *p = buf + cc * 1024;
			struct regs r, a;
			static const u8 mid[] = { 0x0f, 0x0b };

			switch (cc >> 1) {
			case 0: taken = o; break;
			case 1: taken = c; break;
			case 2: taken = z; break;
			case 3: taken = c || z; break;
			case 4: taken = s; break;
			case 5: taken = f & FL_PF; break;
			case 6: taken = s != o; break;
			default: taken = z || s != o;
			}
			taken ^= cc & 1;
			if (!v) { /* jcc +400; int; 400: jcc -> back */
				e8(&p, 0x0f);
				e8(&p, 0x80 + cc);
				e32(&p, 400);
				e_done(&p);
				ebytes(&p, mid, 2);
				u8 *back = p;
				e8(&p, 0x41); /* mov $7, r10b */
				e8(&p, 0xb2);
				e8(&p, 7);
				e_done(&p);
				p = buf + cc * 1024 + 406;
				e8(&p, 0x0f);
				e8(&p, 0x80 + cc);
				e32(&p, (u32)(back - (p + 4)));
				ebytes(&p, mid, 2);
			}
			regs_kernel(&r, buf + cc * 1024);
			r.rflags = f;
			a = r;
			run_ok(&r);
			CHECK_EQ(r.rflags & FL_ARITH, f & FL_ARITH);
			CHECK_EQ(r.r10 & 0xff, taken ? 7 : a.r10 & 0xff);
			same_regs(&a, &r, 1 << 10);
		}
}

/* ---- indirect: a bytecode machine whose every dispatch goes elsewhere ---- */
SNIP(vm_jmp, "xor %eax, %eax\n"
	     "0: movzbl (%rsi), %edx\n inc %rsi\n jmp *vm_tab(,%rdx,8)\n"
	     "1: add $1, %rax\n jmp 0b\n"
	     "2: lea (%rax,%rax,2), %rax\n jmp 0b\n"
	     "3: xor $0x55, %rax\n jmp 0b\n"
	     "4: rol $7, %rax\n jmp 0b\n"
	     "5: jmp 9f\n"
	     "6: call *vm_sub(,%rbx,8)\n jmp 0b\n"
	     "vm_s0: inc %rbx\n add $0x100, %rax\n ret\n"
	     "vm_s1: inc %rbx\n sub $0x33, %rax\n ret\n"
	     "vm_s2: xor %ebx, %ebx\n not %rax\n ret\n"
	     ".balign 8\n vm_tab: .quad 1b, 2b, 3b, 4b, 6b, 5b\n"
	     "vm_sub: .quad vm_s0, vm_s1, vm_s2\n 9:");

static void dispatch(void)
{
	static u8 prog[4000];

	part("dispatch");
	for (unsigned round = 0; round < 5; round++) {
		struct regs r;
		u64 acc = 0, sub = 0;

		for (unsigned i = 0; i < sizeof(prog) - 1; i++) {
			prog[i] = rnd() % 5;
			switch (prog[i]) {
			case 0: acc++; break;
			case 1: acc *= 3; break;
			case 2: acc ^= 0x55; break;
			case 3: acc = acc << 7 | acc >> 57; break;
			case 4:
				if (sub == 0)
					acc += 0x100, sub++;
				else if (sub == 1)
					acc -= 0x33, sub++;
				else
					acc = ~acc, sub = 0;
			}
		}
		prog[sizeof(prog) - 1] = 5;
		regs_kernel(&r, vm_jmp);
		r.rsi = (u64)prog;
		r.rbx = 0;
		run_ok(&r);
		CHECK_EQ(r.rax, acc);
		CHECK_EQ(r.rbx, sub);
		CHECK_EQ(r.rsi, (u64)prog + sizeof(prog));
	}
	/* jmp and call through every register */
	for (unsigned reg = 0; reg < 16; reg++) {
		u8 *p = buf + reg * 32, *start = p;
		struct regs r, a;

		if (reg == 4)
			continue;
		if (reg >= 8)
			e8(&p, 0x41);
		e8(&p, 0xff);
		e8(&p, 0xd0 + (reg & 7)); /* call */
		if (reg >= 8)
			e8(&p, 0x41);
		e8(&p, 0xff);
		e8(&p, 0xe0 + (reg & 7)); /* jmp to the same: a ret to.. */
		u8 *end = p;
		e8(&p, 0x58); /* pop rax: the first return address */
		e_done(&p);
		regs_kernel(&r, start);
		*reg_n(&r, reg) = (u64)end;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, start + (reg >= 8 ? 3 : 2));
		same_regs(&a, &r, 1);
	}
}

/* ---- overlapping instructions ---- */
/* A MOV whose immediate holds other instructions, entered at both places. */
static void overlap(void)
{
	static const u8 d[] = {
		0x48, 0xb8, 0xb9, 0x07, 0x00, 0x00, 0x00, 0xeb, 0x01, 0x00,
		/* from 0: movabs rax, 0001eb00000007b9 (10 bytes)
		 * from 2: mov ecx, 7; jmp +1 (over the 00) */
		0xff, 0xc2, /* inc edx */
		0xcd, VEC_DONE,
	};
	struct regs r, a;

	part("overlap");
	memcpy(buf, d, sizeof(d));
	for (unsigned k = 0; k < 6; k++) {
		regs_kernel(&r, buf + (k & 1) * 2);
		r.rdx = 1;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rdx, 2);
		if (k & 1)
			CHECK_EQ(r.rcx, 7);
		else
			CHECK_EQ(r.rax, 0x0001eb00000007b9);
		same_regs(&a, &r, k & 1 ? 6 : 5);
	}
}

/* ---- code that straddles two pages ---- */
static void straddling(void)
{
	static const struct {
		u8 b[12], len;
	} insn[] = {
		{ { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8 }, 10 }, /* movabs rax */
		{ { 0x48, 0x05, 0x10, 0, 0, 0 }, 6 },	     /* add rax, 16 */
		{ { 0xe9, 0, 0, 0, 0 }, 5 },		     /* jmp +0 */
		{ { 0x0f, 0x84, 0, 0, 0, 0 }, 6 },	     /* je +0 */
		{ { 0xff, 0xc0 }, 2 },			     /* inc eax */
		{ { 0x66, 0x90 }, 2 },			     /* nop */
		{ { 0xc4, 0xe2, 0x7b, 0xf7, 0xc1 }, 5 },     /* shrx */
		{ { 0x48, 0x81, 0x05, 0, 0, 0x10, 0, 0x78, 0x56, 0x34, 0x12 },
		  11 }, /* add [rip+0x100000], imm32: faults, too */
		{ { 0xe8, 0, 0, 0, 0 }, 5 },		     /* call +0 */
		{ { 0xcd, VEC_DONE }, 2 },
	};
	u64 va = slot_va(3, 0x5000);
	u8 *pages = pages_alloc(2, PG);

	part("straddling code");
	map_page(va, pages, KRW);
	for (unsigned i = 0; i < sizeof(insn) / sizeof(insn[0]); i++)
		for (unsigned k = 1; k < insn[i].len; k++) {
			u8 *p = pages + PG - k;
			struct regs r, a;
			u64 at = va + PG - k;

			memset(pages, 0x90, 2 * PG);
			ebytes(&p, insn[i].b, insn[i].len);
			e_done(&p);
			if (i == 6 && !has_bmi2())
				continue;
			unmap_page(va + PG);
			/* two nops before, so that it is inside a block */
			regs_kernel(&r, (void *)(at - 2));
			a = r;
			run(&r);
			expect_pf(&r, PF_FETCH, at, va + PG);
			same_regs(&a, &r, 0);
			CHECK_EQ(r.rflags & FL_ARITH, 0);
			/* no execute is a fetch fault, too */
			map_page(va + PG, pages + PG, KRW | PTE_NX);
			regs_kernel(&r, (void *)(at - 2));
			run(&r);
			expect_pf(&r, PF_FETCH | PF_P, at, va + PG);
			map_page(va + PG, pages + PG, KRW);
			regs_kernel(&r, (void *)(at - 2));
			run(&r);
			if (i == 7) {
				tcg_rmw(&r);
				expect_pf(&r, PF_W, at, at + 11 + 0x100000);
				continue;
			}
			CHECK_EQ(r.vec, VEC_DONE);
			if (i == 8) {
				CHECK_EQ(r.rsp, a.rsp - 8);
				CHECK_EQ(*(u64 *)r.rsp, at + 5);
			} else if (i == 0) {
				CHECK_EQ(r.rax, 0x0807060504030201);
			} else if (i == 1) {
				CHECK_EQ(r.rax, a.rax + 16);
			} else if (i == 9) {
				CHECK_EQ(r.rip, at + 2);
			}
			/* the second page gets other bytes by remapping */
			u8 *other = page_alloc();

			memcpy(other, pages + PG, PG);
			if (i == 0 && k < 10)
				other[9 - k] = 0x77;
			map_page(va + PG, other, KRW);
			regs_kernel(&r, (void *)(at - 2));
			run_ok(&r);
			if (i == 0)
				CHECK_EQ(r.rax, 0x7707060504030201);
			page_free(other);
		}
	unmap_page(va);
	unmap_page(va + PG);
}

/* ---- fetch faults and non-canonical targets ---- */
SNIP(jmp_rax, ".globl jmp_rax_at\njmp_rax_at: jmp *%rax");
SNIP(call_r11, ".globl call_r11_at\ncall_r11_at: call *%r11");
SNIP(ret_to, "push %rax\n.globl ret_to_at\nret_to_at: ret");
SNIP(ret16_to, "push %rax\n.globl ret16_to_at\nret16_to_at: ret $64");
SNIP(jmp_m, ".globl jmp_m_at\njmp_m_at: jmp *8(%rdi)");
extern char jmp_rax_at[], call_r11_at[], ret_to_at[], ret16_to_at[], jmp_m_at[];
USNIP(ujmp, "jmp *%rax");

static void fetches(void)
{
	static const u64 absent[] = {
		0x10, 0x70000000, 0x28000000123, 0x7ffffffff123,
		0xffff800000000000, 0xffffffffffff1000,
	};
	static const u64 nc[] = {
		0x0000800000000000, 0x1234567812345678, 0xffff7fffffffffff,
		0x8000000000000000, 0x7fffffffffffffff,
	};
	u64 cell[2];
	struct regs r, a;

	part("fetch faults");
	for (unsigned i = 0; i < sizeof(absent) / 8; i++) {
		regs_kernel(&r, jmp_rax);
		r.rax = absent[i];
		a = r;
		run(&r);
		expect_pf(&r, PF_FETCH, absent[i], absent[i]);
		same_regs(&a, &r, 0);
		regs_kernel(&r, call_r11);
		r.r11 = absent[i];
		a = r;
		run(&r);
		expect_pf(&r, PF_FETCH, absent[i], absent[i]);
		CHECK_EQ(r.rsp, a.rsp - 8);
		CHECK_EQ(*(u64 *)r.rsp, call_r11 + 3);
		regs_kernel(&r, ret16_to);
		r.rax = absent[i];
		a = r;
		run(&r);
		expect_pf(&r, PF_FETCH, absent[i], absent[i]);
		CHECK_EQ(r.rsp, a.rsp + 64);
		regs_user(&r, ujmp);
		r.rax = absent[i];
		run(&r);
		expect_pf(&r, PF_FETCH | PF_U, absent[i], absent[i]);
	}
	regs_user(&r, ujmp);
	r.rax = (u64)done; /* a supervisor page */
	run(&r);
	expect_pf(&r, PF_FETCH | PF_U | PF_P, done, done);
	if (is_tcg()) {
		skip("branches to non-canonical addresses (TCG goes there)");
		return;
	}
	for (unsigned i = 0; i < sizeof(nc) / 8; i++) {
		regs_kernel(&r, jmp_rax);
		r.rax = nc[i];
		a = r;
		run(&r);
		expect_fault(&r, 13, 0, jmp_rax_at);
		same_regs(&a, &r, 0);
		regs_kernel(&r, call_r11);
		r.r11 = nc[i];
		a = r;
		run(&r);
		expect_fault(&r, 13, 0, call_r11_at);
		same_regs(&a, &r, 0);
		regs_kernel(&r, ret_to);
		r.rax = nc[i];
		a = r;
		run(&r);
		expect_fault(&r, 13, 0, ret_to_at);
		CHECK_EQ(r.rsp, a.rsp - 8);
		regs_kernel(&r, jmp_m);
		cell[1] = nc[i];
		r.rdi = (u64)cell;
		a = r;
		run(&r);
		expect_fault(&r, 13, 0, jmp_m_at);
		same_regs(&a, &r, 0);
		regs_user(&r, ujmp);
		r.rax = nc[i];
		run(&r);
		expect_fault(&r, 13, 0, ujmp);
	}
}

/* ---- the same code in many slots, jumping between them ---- */
static void far_apart(void)
{
	static const unsigned slots[] = { 1, 2, 100, 255, 256, 383, 511 };
	u8 *page = page_alloc(), *p = page;
	struct regs r, a;
	u64 n = sizeof(slots) / sizeof(slots[0]);

	part("slots");
	/* rdi: table of addresses; each stop adds a RIP-relative constant */
	e8(&p, 0x48);
	e8(&p, 0x03);
	e8(&p, 0x05);
	e32(&p, 0x100 - 7); /* add rax, [rip -> page + 0x100] */
	static const u8 next[] = {
		0x48, 0x8d, 0x1d, 0, 0, 0, 0,  /* lea rbx, [rip] */
		0x48, 0x01, 0xda,	       /* add rdx, rbx */
		0x48, 0x83, 0xc7, 0x08,	       /* add rdi, 8 */
		0x48, 0xff, 0xc9,	       /* dec rcx */
		0x74, 0x02,		       /* jz +2 */
		0xff, 0x27,		       /* jmp [rdi] */
		0xcd, VEC_DONE,
	};
	ebytes(&p, next, sizeof(next));
	*(u64 *)(page + 0x100) = 0x10001;
	for (unsigned i = 0; i < n; i++)
		map_page(slot_va(slots[i], 0x7000), page, KRW);
	static u64 table[64];
	u64 sum = 0;

	for (unsigned round = 0; round < 20; round++) {
		sum = 0;
		for (unsigned i = 0; i < 64; i++) {
			table[i] = slot_va(slots[rnd() % n], 0x7000);
			sum += table[i] + 14;
		}
		regs_kernel(&r, (void *)table[0]);
		r.rax = 0, r.rdx = 0, r.rcx = 64, r.rdi = (u64)table;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, 64 * 0x10001ull);
		CHECK_EQ(r.rdx, sum);
		same_regs(&a, &r, 0x8f);
	}
	for (unsigned i = 0; i < n; i++)
		unmap_page(slot_va(slots[i], 0x7000));
}

/* ---- prefetches: hints, wherever they lead ---- */
static void prefetch(void)
{
	static const struct {
		u8 b[10], len;
	} form[] = {
		{ { 0x0f, 0x18, 0x00 }, 3 },		/* nta [rax] */
		{ { 0x0f, 0x18, 0x08 }, 3 },		/* t0 [rax] */
		{ { 0x0f, 0x18, 0x10 }, 3 },		/* t1 [rax] */
		{ { 0x0f, 0x18, 0x18 }, 3 },		/* t2 [rax] */
		{ { 0x0f, 0x0d, 0x08 }, 3 },		/* w [rax] */
		{ { 0x41, 0x0f, 0x18, 0x0a }, 4 },	/* t0 [r10] */
		{ { 0x43, 0x0f, 0x18, 0x0c, 0xbb }, 5 }, /* [r11 + r15 * 4] */
		{ { 0x43, 0x0f, 0x18, 0x0c, 0x83 }, 5 }, /* [r11 + r8 * 4] */
		{ { 0x0f, 0x18, 0x8c, 0xd8, 0, 0, 0, 0x7f }, 8 },
		{ { 0x0f, 0x18, 0x4c, 0x04, 8 }, 5 },	/* [rsp + rax + 8] */
		{ { 0x0f, 0x18, 0x44, 0x24, 8 }, 5 },	/* [rsp + 8] */
		{ { 0x0f, 0x18, 0x0d, 0, 0, 0, 0x80 }, 7 }, /* [rip - 2G] */
		{ { 0x65, 0x0f, 0x18, 0x08 }, 4 },	/* gs:[rax] */
		{ { 0x65, 0x0f, 0x18, 0x0c, 0x25, 0, 0, 0, 0 }, 9 },
	};
	static const u64 where[] = { 0, 1, 0x7fffffffffff, 1ul << 47, 1ul << 63,
				     ~0ul, 0xffff800000000000, 0x5500001234 };

	part("prefetch");
	for (unsigned i = 0; i < sizeof(form) / sizeof(form[0]); i++)
		for (unsigned k = 0; k < sizeof(where) / sizeof(where[0]); k++) {
			u8 *p = buf;
			struct regs r, a;

			ebytes(&p, form[i].b, form[i].len);
			ebytes(&p, form[i].b, form[i].len);
			e_done(&p);
			regs_kernel(&r, buf);
			r.rax = r.rbx = r.r10 = r.r11 = r.r15 = where[k];
			a = r;
			run(&r);
			if (r.vec != VEC_DONE)
				fail_at("prefetch", i, "at %lx: vector %lu",
					where[k], r.vec);
			same_regs(&a, &r, 1);
		}
}

/* 90 with REX.B is XCHG rAX, r8, F3 or not. */
static void pause_or_xchg(void)
{
	static const struct {
		u8 b[4], len, size;
	} t[] = {
		{ { 0x49, 0x90 }, 2, 8 },	{ { 0x41, 0x90 }, 2, 4 },
		{ { 0x66, 0x41, 0x90 }, 3, 2 }, { { 0xf2, 0x41, 0x90 }, 3, 4 },
		{ { 0xf3, 0x41, 0x90 }, 3, 4 }, { { 0xf3, 0x49, 0x90 }, 3, 8 },
		{ { 0xf3, 0x90 }, 2, 0 },	{ { 0xf3, 0x48, 0x90 }, 3, 0 },
	};

	part("pause");
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		u64 mask = t[i].size == 2 ? 0xffff : ~0ull >> 32;
		u8 *p = buf;
		struct regs r, a;

		ebytes(&p, t[i].b, t[i].len);
		/* A unit that goes on, to memory: mov rcx, [rsp - 8] */
		ebytes(&p, (u8[]){ 0x48, 0x8b, 0x4c, 0x24, 0xf8 }, 5);
		e_done(&p);
		regs_kernel(&r, buf);
		r.rax = 0x1122334455667788;
		r.r8 = 0x99aabbccddeeff00;
		a = r;
		run_ok(&r);
		if (t[i].size == 8) {
			CHECK_EQ(r.rax, a.r8);
			CHECK_EQ(r.r8, a.rax);
		} else if (t[i].size) {
			u64 keep = t[i].size == 2 ? ~mask : 0;

			CHECK_EQ(r.rax, (a.rax & keep) | (a.r8 & mask));
			CHECK_EQ(r.r8, (a.r8 & keep) | (a.rax & mask));
		}
		same_regs(&a, &r, 1 << 1 | (t[i].size ? 1 | 1 << 8 : 0));
	}
}

/* ---- odd encodings ---- */
static void odd(void)
{
	static const struct {
		u8 b[18], len, vec;
		u64 rax;
	} t[] = {
		/* 14 prefixes and a nop: 15 bytes are fine */
		{ { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
		    0x66, 0x66, 0x66, 0x66, 0x90 }, 15, VEC_DONE, 5 },
		/* 16 are not */
		{ { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
		    0x66, 0x66, 0x66, 0x66, 0x66, 0x90 }, 16, 13, 5 },
		{ { 0x2e, 0x66, 0x0f, 0x1f, 0x84, 0, 0, 2, 0, 0 }, 10, VEC_DONE,
		  5 },				      /* long nop */
		{ { 0xf3, 0x90 }, 2, VEC_DONE, 5 },   /* pause */
		{ { 0xf3, 0x0f, 0x1e, 0xfa }, 4, VEC_DONE, 5 }, /* endbr64 */
		{ { 0x48, 0x66, 0x05, 1, 0 }, 5, VEC_DONE, 6 }, /* lost REX:
			add ax, 1 */
		{ { 0x48, 0x48, 0x05, 1, 0, 0, 0 }, 7, VEC_DONE, 6 },
		{ { 0x40, 0x90 }, 2, VEC_DONE, 5 },
		{ { 0x0f, 0x0d, 0x08 }, 3, VEC_DONE, 5 },	 /* prefetchw */
		{ { 0x0f, 0x18, 0x00 }, 3, VEC_DONE, 5 },	 /* prefetch */
		{ { 0x0f, 0xae, 0xf0 }, 3, VEC_DONE, 5 },	 /* mfence */
		{ { 0x0f, 0xae, 0xe8 }, 3, VEC_DONE, 5 },	 /* lfence */
		{ { 0x0f, 0xff, 0xc0 }, 3, 6, 5 },		 /* ud0 */
		{ { 0x0f, 0xb9, 0xc0 }, 3, 6, 5 },		 /* ud1 */
		{ { 0x06 }, 1, 6, 5 },	     /* push es */
		{ { 0x27 }, 1, 6, 5 },	     /* daa */
		{ { 0x60 }, 1, 6, 5 },	     /* pusha */
		{ { 0x9a, 0, 0, 0, 0, 0, 0 }, 7, 6, 5 }, /* call far */
		{ { 0xea, 0, 0, 0, 0, 0, 0 }, 7, 6, 5 },
		{ { 0xd4, 0x0a }, 2, 6, 5 },		   /* aam */
		{ { 0xf0, 0x90 }, 2, 6, 5 },		   /* lock nop */
		{ { 0xf0, 0x01, 0xc0 }, 3, 6, 5 },	   /* lock add reg */
		{ { 0xf0, 0x8b, 0x00 }, 3, 6, 5 },	   /* lock mov */
		{ { 0xf0, 0x39, 0x00 }, 3, 6, 5 },	   /* lock cmp */
		{ { 0x0f, 0x0b }, 2, 6, 5 },
		{ { 0x8d, 0xc0 }, 2, 6, 5 },		   /* lea reg */
		{ { 0xc6, 0x08, 0x00 }, 3, 6, 5 },	   /* c6 /1 */
		{ { 0xff, 0xf8 }, 2, 6, 5 },		   /* ff /7 */
		{ { 0x0f, 0xc7, 0x00 }, 3, 6, 5 },	   /* 0f c7 /0 */
		{ { 0x8e, 0xc8 }, 2, 6, 5 },		   /* mov cs, eax */
		{ { 0x66, 0x40, 0xb8, 9, 0 }, 5, VEC_DONE, 9 }, /* mov ax, 9 */
		{ { 0x26, 0x64, 0x90 }, 3, VEC_DONE, 5 },
		{ { 0x9b }, 1, VEC_DONE, 5 },		   /* fwait */
	};

	part("odd");
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		u8 *p = buf, *at;
		struct regs r, a;

		/* TCG 7.2 decodes these three loosely */
		if (is_tcg() && (i == 5 || i == 22 || i == 26))
			continue;
		e8(&p, 0x90);
		at = p;
		ebytes(&p, t[i].b, t[i].len);
		e_done(&p);
		regs_kernel(&r, buf);
		r.rax = 5;
		a = r;
		run(&r);
		if (r.vec != t[i].vec || r.rax != t[i].rax ||
		    (t[i].vec < 32 && r.rip != (u64)at))
			fail_at("odd", i, "byte %x: vector %lu rip %lx rax %lx "
				"(code at %lx)", t[i].b[0], r.vec, r.rip,
				r.rax, (u64)at);
		same_regs(&a, &r, 1);
	}
	/* a long straight line: 20,000 instructions without a branch */
	u8 *line = pages_alloc(16, PG), *p = line;
	struct regs r, a;

	for (unsigned i = 0; i < 15000; i++) {
		static const u8 k[3][4] = { { 0x49, 0xff, 0xc2 },
					    { 0x4d, 0x01, 0xd3 },
					    { 0x48, 0x31, 0xd8 } };
		ebytes(&p, k[i % 3], 3); /* inc r10; add r11, r10; xor rax, rbx*/
	}
	e_done(&p);
	regs_kernel(&r, line);
	a = r;
	run_ok(&r);
	CHECK_EQ(r.r10, a.r10 + 5000);
	CHECK_EQ(r.r11, a.r11 + 5000 * a.r10 + 5000ull * 5001 / 2);
	CHECK_EQ(r.rax, a.rax);
	same_regs(&a, &r, 1 << 10 | 1 << 11);
}

int main(void)
{
	buf = pages_alloc(8, PG);
	loops_and_flags();
	near_jcc();
	dispatch();
	overlap();
	straddling();
	fetches();
	far_apart();
	prefetch();
	pause_or_xchg();
	odd();
	return 0;
}
