/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults: every kind of operand form on absent, read-only, straddling and non-
 * canonical addresses, in the middle of a block, with the whole register state
 * compared; the error codes of #PF; single step; INT n and its gates; double
 * faults; the frame that an interrupt pushes.
 */
#include "tests/guest/rt/enc.h"

enum {
	R = 1,
	W = 2,
	RW = 3,
	PRIV = 4,  /* CPL 0 only */
	A16 = 8,   /* wants alignment: not straddled */
	NOTCG = 32, /* TCG is wrong here */
	LOOSE = 16 /* in which order its parts are touched is not told */
};
static const struct form {
	const char *name;
	u8 prefix, w, esc, op, reg, imm;
	u16 size;
	u8 kind;
} forms[] = {
	{ "mov r,m", 0x00, 1, 0x00, 0x8b, 2, 0, 8, R },
	{ "mov r8,m", 0x00, 0, 0x00, 0x8a, 2, 0, 1, R },
	{ "mov m,r", 0x00, 1, 0x00, 0x89, 2, 0, 8, W },
	{ "mov m16,r", 0x66, 0, 0x00, 0x89, 2, 0, 2, W },
	{ "mov m,imm", 0x00, 1, 0x00, 0xc7, 0, 4, 8, W },
	{ "mov m8,imm", 0x00, 0, 0x00, 0xc6, 0, 1, 1, W },
	{ "add m,r", 0x00, 1, 0x00, 0x01, 2, 0, 8, RW },
	{ "add r,m", 0x00, 1, 0x00, 0x03, 2, 0, 8, R },
	{ "adc m,imm8", 0x00, 1, 0x00, 0x83, 2, 1, 8, RW },
	{ "cmp m,r", 0x00, 1, 0x00, 0x39, 2, 0, 8, R },
	{ "cmp m,imm8", 0x00, 0, 0x00, 0x83, 7, 1, 4, R },
	{ "test m,r", 0x00, 1, 0x00, 0x85, 2, 0, 8, R },
	{ "xchg m,r", 0x00, 1, 0x00, 0x87, 2, 0, 8, RW },
	{ "xadd", 0x00, 1, 0x0f, 0xc1, 2, 0, 8, RW },
	{ "cmpxchg", 0x00, 1, 0x0f, 0xb1, 2, 0, 8, RW },
	{ "cmpxchg8b", 0x00, 0, 0x0f, 0xc7, 1, 0, 8, RW },
	{ "cmpxchg16b", 0x00, 1, 0x0f, 0xc7, 1, 0, 16, RW | A16 },
	{ "inc m", 0x00, 1, 0x00, 0xff, 0, 0, 8, RW },
	{ "dec m8", 0x00, 0, 0x00, 0xfe, 1, 0, 1, RW },
	{ "not m", 0x00, 1, 0x00, 0xf7, 2, 0, 8, RW },
	{ "neg m", 0x00, 1, 0x00, 0xf7, 3, 0, 8, RW },
	{ "shl m,1", 0x00, 1, 0x00, 0xd1, 4, 0, 8, RW },
	{ "sar m,cl", 0x00, 1, 0x00, 0xd3, 7, 0, 8, RW },
	{ "rcl m,imm", 0x00, 0, 0x00, 0xc1, 2, 1, 4, RW | NOTCG },
	{ "shld m,cl", 0x00, 1, 0x0f, 0xa5, 2, 0, 8, RW },
	{ "bts m,imm", 0x00, 1, 0x0f, 0xba, 5, 1, 8, RW },
	{ "bt m,imm", 0x00, 1, 0x0f, 0xba, 4, 1, 8, R },
	{ "imul r,m", 0x00, 1, 0x0f, 0xaf, 2, 0, 8, R },
	{ "imul r,m,imm", 0x00, 1, 0x00, 0x69, 2, 4, 8, R },
	{ "mul m", 0x00, 1, 0x00, 0xf7, 4, 0, 8, R },
	{ "div m", 0x00, 1, 0x00, 0xf7, 6, 0, 8, R },
	{ "push m", 0x00, 0, 0x00, 0xff, 6, 0, 8, R },
	{ "pop m", 0x00, 0, 0x00, 0x8f, 0, 0, 8, W },
	{ "call m", 0x00, 0, 0x00, 0xff, 2, 0, 8, R },
	{ "jmp m", 0x00, 0, 0x00, 0xff, 4, 0, 8, R },
	{ "sete m", 0x00, 0, 0x0f, 0x94, 0, 0, 1, W },
	{ "cmovne r,m", 0x00, 1, 0x0f, 0x45, 2, 0, 8, R },
	{ "cmove r,m", 0x00, 1, 0x0f, 0x44, 2, 0, 8, R },
	{ "movzx b", 0x00, 0, 0x0f, 0xb6, 2, 0, 1, R },
	{ "movsx w", 0x00, 1, 0x0f, 0xbf, 2, 0, 2, R },
	{ "movsxd", 0x00, 1, 0x00, 0x63, 2, 0, 4, R },
	{ "bsf r,m", 0x00, 1, 0x0f, 0xbc, 2, 0, 8, R },
	{ "popcnt", 0xf3, 1, 0x0f, 0xb8, 2, 0, 8, R },
	{ "movnti", 0x00, 1, 0x0f, 0xc3, 2, 0, 8, W },
	{ "movups x,m", 0x00, 0, 0x0f, 0x10, 2, 0, 16, R },
	{ "movups m,x", 0x00, 0, 0x0f, 0x11, 2, 0, 16, W },
	{ "movaps x,m", 0x00, 0, 0x0f, 0x28, 2, 0, 16, R | A16 },
	{ "movaps m,x", 0x00, 0, 0x0f, 0x29, 2, 0, 16, W | A16 },
	{ "movdqu x,m", 0xf3, 0, 0x0f, 0x6f, 2, 0, 16, R },
	{ "movq m,x", 0x66, 0, 0x0f, 0xd6, 2, 0, 8, W },
	{ "movss x,m", 0xf3, 0, 0x0f, 0x10, 2, 0, 4, R },
	{ "paddd x,m", 0x66, 0, 0x0f, 0xfe, 2, 0, 16, R | A16 },
	{ "addsd x,m", 0xf2, 0, 0x0f, 0x58, 2, 0, 8, R },
	{ "cvtsi2sd", 0xf2, 1, 0x0f, 0x2a, 2, 0, 8, R },
	{ "ucomisd", 0x66, 0, 0x0f, 0x2e, 2, 0, 8, R },
	{ "pinsrw", 0x66, 0, 0x0f, 0xc4, 2, 1, 2, R },
	{ "fld m64", 0x00, 0, 0x00, 0xdd, 0, 0, 8, R },
	{ "fst m64", 0x00, 0, 0x00, 0xdd, 2, 0, 8, W },
	{ "fild m32", 0x00, 0, 0x00, 0xdb, 0, 0, 4, R },
	{ "fnstcw", 0x00, 0, 0x00, 0xd9, 7, 0, 2, W },
	{ "fldcw", 0x00, 0, 0x00, 0xd9, 5, 0, 2, R },
	{ "stmxcsr", 0x00, 0, 0x0f, 0xae, 3, 0, 4, W },
	{ "ldmxcsr", 0x00, 0, 0x0f, 0xae, 2, 0, 4, R },
	{ "fxsave", 0x00, 0, 0x0f, 0xae, 0, 0, 512, W | A16 | LOOSE },
	{ "fxrstor", 0x00, 0, 0x0f, 0xae, 1, 0, 512, R | A16 | LOOSE },
	{ "clflush", 0x00, 0, 0x0f, 0xae, 7, 0, 1, R | NOTCG },
	{ "sldt m", 0x00, 0, 0x0f, 0x00, 0, 0, 2, W },
	{ "smsw m", 0x00, 0, 0x0f, 0x01, 4, 0, 2, W },
	{ "mov ds,m", 0x00, 0, 0x00, 0x8e, 3, 0, 2, R },
	{ "mov m,ds", 0x00, 0, 0x00, 0x8c, 3, 0, 2, W },
	{ "verr m", 0x00, 0, 0x0f, 0x00, 4, 0, 2, R },
	{ "lar r,m", 0x00, 0, 0x0f, 0x02, 2, 0, 2, R },
	{ "lgdt", 0x00, 0, 0x0f, 0x01, 2, 0, 10, R | PRIV | LOOSE },
	{ "lmsw m", 0x00, 0, 0x0f, 0x01, 6, 0, 2, R | PRIV },
	{ "sgdt", 0x00, 0, 0x0f, 0x01, 0, 0, 10, W | LOOSE },
};
#define NF (sizeof(forms) / sizeof(forms[0]))
static const s64 bases[] = { 0, 3, 4, 5, 6, 8, 10, 11, 12, 13, 15 };
#define NB (sizeof(bases) / sizeof(bases[0]))

static u8 *kcode;
static u8 ucode[PG] __attribute__((section(".user.data"), aligned(4096)));

#define ABSENT 0x0000012300000000ull
#define RDONLY 0x0000012400000000ull
#define LASTPG 0x0000012500000000ull /* followed by an absent page */
static u8 *ro_frame, *last_frame;

/* lea r9, [r9 + 1]; stc; INSN; inc r14; done. Returns the address of INSN. */
static u8 *emit(u8 *p, const struct form *f, const struct mem *m)
{
	static const u8 pre[] = { 0x4d, 0x8d, 0x49, 0x01, 0xf9 };
	static const u8 post[] = { 0x49, 0xff, 0xc6 };
	u8 *at;

	ebytes(&p, pre, sizeof(pre));
	at = p;
	e_insn(&p, f->prefix, f->w, f->esc, f->op, f->reg, m, false);
	for (unsigned i = 0; i < f->imm; i++)
		e8(&p, 3);
	ebytes(&p, post, sizeof(post));
	e_done(&p);
	return at;
}

static void check(const struct form *f, const struct mem *m, u64 addr, bool user,
		  u64 vec, u64 err, u64 cr2)
{
	u8 *start = user ? ucode : kcode, *at;
	struct regs r, a;

	at = emit(start, f, m);
	if (user)
		regs_user(&r, start);
	else
		regs_kernel(&r, start);
	r.rflags = 2 | FL_SF | FL_OF;
	*reg_n(&r, m->base) = addr - (m->disp_size ? m->disp : 0);
	if (m->index >= 0)
		*reg_n(&r, m->base) -= *reg_n(&r, m->index) * m->scale;
	a = r;
	a.r9++;
	run(&r);
	if ((f->kind & RW) == RW)
		tcg_rmw(&r);
	if (vec == 12)
		tcg_ss(&r);
	if (vec == 14 && (f->kind & LOOSE) && r.vec == 14)
		cr2 = r.cr2; /* within the operand, at least */
	if (r.vec != vec || r.err != err || r.rip != (u64)at ||
	    r.cr2 != (vec == 14 ? cr2 : 0) ||
	    (r.rflags & FL_ARITH) != (FL_SF | FL_OF | FL_CF)) {
		fail_at(f->name, m->base, "at %lx: vec %lu err %lx rip %lx cr2 "
			"%lx flags %lx, want %lu %lx %lx %lx", addr, r.vec,
			r.err, r.rip, r.cr2, r.rflags, vec, err, (u64)at, cr2);
		return;
	}
	same_regs_at(f->name, m->base, &a, &r, 0);
}

static void operand_forms(void)
{
	u64 n = 0;

	part("forms");
	for (unsigned i = 0; i < NF; i++) {
		const struct form *f = &forms[i];
		u64 w = f->kind & W ? PF_W : 0;

		if (f->kind & NOTCG && is_tcg())
			continue;
		for (unsigned b = 0; b < NB; b++, n++) {
			struct mem m = { .base = bases[b], .index = -1,
					 .scale = 1, .disp_size = b & 1 ? 4 : 1,
					 .disp = b & 1 ? -0x12340 : 0x10 };
			bool stk = m.base == 4 || m.base == 5;

			if (f->op == 0x8f && m.base == 4)
				continue; /* the stack itself is bad, too */

			if (n % 3 == 1) {
				m.index = (m.base + 3) & 15;
				m.scale = 1 << (n & 3);
				if (m.index == 4 || m.index == 9 ||
				    m.index == m.base)
					m.index = -1;
			}
			check(f, &m, ABSENT + (n & 0xff) * 16, false, 14, w,
			      ABSENT + (n & 0xff) * 16);
			if (f->kind & W)
				check(f, &m, RDONLY + 0x100, false, 14,
				      PF_P | PF_W, RDONLY + 0x100);
			check(f, &m, 0x1234567800000000 + n * 16, false,
			      stk ? 12 : 13, 0, 0);
			if (f->size > 1 && !(f->kind & A16))
				check(f, &m, LASTPG + PG - 1 - n % (f->size - 1),
				      false, 14, w, LASTPG + PG);
			if (f->kind & PRIV)
				continue;
			if (f->kind & LOOSE) {
				memset(ro_frame, 0x5a, PG);
				memset(last_frame, 0x5a, PG);
			}
			check(f, &m, (u64)kcode, true, 14, PF_U | PF_P | w,
			      (u64)kcode);
			check(f, &m, ABSENT + 0x20, true, 14, PF_U | w,
			      ABSENT + 0x20);
			check(f, &m, 0xffff7ffffffffff0 - n * 16, true,
			      stk ? 12 : 13, 0, 0);
		}
	}
	/* nothing may have been written */
	for (unsigned i = 0; i < PG; i++)
		if (ro_frame[i] != 0x5a || last_frame[i] != 0x5a) {
			fail_at("forms", i, "a faulting instruction wrote");
			break;
		}
	printf("%lu forms\n", n);
}

/* ---- instructions on a stack that is not there ---- */
#define ST(n, body)                                                           \
	SNIP(st_##n, "lea 1(%r9), %r9\n stc\n.globl st_" #n "_at\nst_" #n "_at: "     \
		     body "\n inc %r14");                                     \
	extern char st_##n##_at[]
ST(push, "push %rax");
ST(pushi, "push $3");
ST(pushm, "push (%rdi)");
ST(pushf, "pushfq");
ST(pushw, "pushw %bx");
ST(pushfs, "push %fs");
ST(pop, "pop %rbx");
ST(popm, "pop (%rdi)");
ST(popf, "popfq");
ST(popw, "popw %ax");
ST(popgs, "pop %gs");
ST(call, "call done");
ST(callr, "call *%rsi");
ST(callm, "call *(%rdi)");
ST(ret, "ret");
ST(reti, "ret $16");
ST(lret, "lretq");
ST(iret, "iretq");
ST(leave, "leave");
ST(enter, "enter $16, $0");
ST(movs, "movb $1, (%rsp)");
ST(alu, "add %rax, 8(%rsp)");
ST(ld, "cmp -8(%rsp), %rax");
ST(lea, "lea 8(%rsp), %rsp\n push %rsp");

static void stack_forms(void)
{
	static const struct {
		const char *name, *code, *at;
		u8 kind;
		int off; /* of the first byte touched, from rsp (rbp: leave) */
		u8 size;
	} t[] = {
#define E(n, k, o, s) { #n, st_##n, st_##n##_at, k, o, s }
		E(push, W, -8, 8), E(pushi, W, -8, 8), E(pushm, W, -8, 8),
		E(pushf, W, -8, 8), E(pushw, W, -2, 2), E(pushfs, W, -8, 8),
		E(pop, R, 0, 8), E(popm, R, 0, 8), E(popf, R, 0, 8),
		E(popw, R, 0, 2), E(popgs, R, 0, 8), E(call, W, -8, 8),
		E(callr, W, -8, 8), E(callm, W, -8, 8), E(ret, R, 0, 8),
		E(reti, R, 0, 8), E(lret, R, 0, 8), E(iret, R, 0, 8),
		E(leave, R, 0, 8), E(enter, W, -8, 8), E(movs, W, 0, 1),
		E(alu, RW, 8, 8), E(ld, R, -8, 8),
	};
	static const u64 nc[] = { 0x800000001000, 0xffff7ffffffff000,
				  0x1234567812345678, 0x8000000000000000 };
	static u64 cell;

	part("stack forms");
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (unsigned k = 0; k < 8; k++) {
			struct regs r, a;
			u64 sp, want;
			bool leave = t[i].code == st_leave;

			switch (k) {
			case 0: sp = ABSENT + 0x800; break;
			case 1: sp = RDONLY + 0x800; break;
			case 2: /* straddles into the absent page */
				sp = LASTPG + PG - t[i].off - 1;
				if (t[i].size == 1 || t[i].code == st_iret ||
				    t[i].code == st_lret)
					continue;
				break;
			case 3: sp = ABSENT + PG + 1; break;
			default: sp = nc[k - 4];
			}
			if (k == 1 && !(t[i].kind & W))
				continue;
			cell = (u64)done;
			regs_kernel(&r, t[i].code);
			if (leave)
				r.rbp = sp;
			else
				r.rsp = sp;
			r.rdi = r.rsi = (u64)&cell;
			r.rsi = (u64)done;
			r.rflags = 2 | FL_ZF;
			a = r;
			a.r9++;
			run(&r);
			if (k >= 4)
				tcg_ss(&r);
			if (t[i].kind == RW)
				tcg_rmw(&r);
			want = k == 2 ? LASTPG + PG : sp + t[i].off;
			if (r.vec != (k >= 4 ? 12 : 14) ||
			    r.rip != (u64)t[i].at ||
			    (k < 4 && r.cr2 != want) ||
			    r.err != (k >= 4 ? 0 : (t[i].kind & W ? PF_W : 0) |
					      (k == 1 ? PF_P : 0)) ||
			    (r.rflags & FL_ARITH) != (FL_ZF | FL_CF))
				fail_at(t[i].name, k, "rsp %lx: vec %lu err %lx "
					"rip %lx cr2 %lx, want %lx %lx", sp,
					r.vec, r.err, r.rip, r.cr2,
					(u64)t[i].at, want);
			same_regs_at(t[i].name, k, &a, &r, 0);
		}
	/* the other operand faults: rsp has not moved */
	for (unsigned k = 0; k < 3; k++) {
		static const struct {
			const char *code, *at;
			u64 err;
		} m[] = { { st_pushm, st_pushm_at, 0 },
			  { st_popm, st_popm_at, PF_W },
			  { st_callm, st_callm_at, 0 } };
		struct regs r, a;

		regs_kernel(&r, m[k].code);
		r.rdi = ABSENT;
		a = r;
		a.r9++;
		run(&r);
		expect_pf(&r, m[k].err, m[k].at, ABSENT);
		same_regs(&a, &r, 0);
	}
	/* after a lea: the first instruction counts, the push faults */
	struct regs r;

	regs_kernel(&r, st_lea);
	r.rsp = ABSENT + 0x100;
	run(&r);
	expect_pf(&r, PF_W, st_lea_at + 5, ABSENT + 0x100);
	CHECK_EQ(r.rsp, ABSENT + 0x108);
}

/* ---- #PF error codes ---- */
SNIP(ld, "mov (%rdi), %rax");
SNIP(sto, "mov %rax, (%rdi)");
SNIP(jmpto, "jmp *%rdi");
USNIP(uld, "mov (%rdi), %rax");
USNIP(usto, "mov %rax, (%rdi)");
USNIP(ujmpto, "jmp *%rdi");

#define AS_IT_IS ~0ull
static void code_of(u64 va, u64 pte, int kld, int ksto, int kx, int uld_, int
		    usto_, int ux)
{
	static const char *const snip[6] = { ld, sto, jmpto, uld, usto, ujmpto };
	int want[6] = { kld, ksto, kx, uld_, usto_, ux };

	for (unsigned i = 0; i < 6; i++) {
		struct regs r;

		if (pte != AS_IT_IS)
			*pte_at(root_now(), va, 1, true) = pte;
		invlpg(va);
		if (i < 3)
			regs_kernel(&r, snip[i]);
		else
			regs_user(&r, snip[i]);
		r.rdi = va;
		run(&r);
		if (want[i] < 0) {
			/* allowed: the page holds INT VEC_DONE */
			CHECK(r.vec == VEC_DONE, "pte %lx form %u: vec %lu err "
			      "%lx", pte, i, r.vec, r.err);
			continue;
		}
		if (is_tcg() && r.err & PF_RSVD)
			r.err |= PF_P; /* TCG forgets it */
		if (r.vec != 14 || r.err != (u64)want[i] || r.cr2 != va)
			fail_at("codes", i, "pte %lx: vec %lu err %lx cr2 %lx, "
				"want err %x", pte, r.vec, r.err, r.cr2,
				want[i]);
	}
}

static void error_codes(void)
{
	u64 va = slot_va(44, 0x3000), f = (u64)page_alloc();
	unsigned maxphys = cpuid(0x80000008, 0).a & 0xff;
	pte_t *e;

	part("error codes");
	((u8 *)f)[0] = 0xcd;
	((u8 *)f)[1] = VEC_DONE;
	code_of(va, 0, 0, 2, 0x10, 4, 6, 0x14);
	code_of(va, f | PTE_P, -1, 3, -1, 5, 7, 0x15);
	code_of(va, f | PTE_P | PTE_U, -1, 3, -1, -1, 7, -1);
	code_of(va, f | KRW | PTE_NX, -1, -1, 0x11, 5, 7, 0x15);
	((u8 *)f)[0] = 0xcd, ((u8 *)f)[1] = VEC_DONE;
	code_of(va, f | PTE_P | PTE_U | PTE_NX, -1, 3, 0x11, -1, 7, 0x15);
	if (maxphys < 52) {
		u64 bad = 1ull << 51;

		code_of(va, f | KRW | bad, 9, 0xb, 0x19, 0xd, 0xf, 0x1d);
		code_of(va, f | URW | bad, 9, 0xb, 0x19, 0xd, 0xf, 0x1d);
		/* not present: anything goes */
		code_of(va, f | bad, 0, 2, 0x10, 4, 6, 0x14);
		/* in an upper level */
		e = pte_at(root_now(), va, 2, false);
		*pte_at(root_now(), va, 1, true) = f | URW;
		*e |= bad;
		flush_all();
		code_of(va, AS_IT_IS, 9, 0xb, 0x19, 0xd, 0xf, 0x1d);
		*e &= ~bad;
	}
	/* 2 MiB page with address bits 13..20 set */
	e = pte_at(root_now(), va, 2, false);
	u64 keep = *e;

	*e = (16ull << 20) | 0x4000 | URW | PTE_PS;
	flush_all();
	struct regs r;

	regs_kernel(&r, ld);
	r.rdi = va;
	run(&r);
	if (is_tcg())
		r.err |= PF_P;
	expect_pf(&r, PF_P | PF_RSVD, ld, va);
	*e = keep;
	*pte_at(root_now(), va, 1, true) = f | URW;
	/* PS in a PML4 entry */
	e = pte_at(root_now(), va, 4, false);
	*e |= PTE_PS;
	flush_all();
	regs_user(&r, usto);
	r.rdi = va;
	run(&r);
	if (is_tcg())
		r.err |= PF_P;
	expect_pf(&r, PF_P | PF_RSVD | PF_W | PF_U, usto, va);
	*e &= ~PTE_PS;
	flush_all();
	/* rights come from every level: a read-only PML4E */
	*e &= ~PTE_W;
	flush_all();
	regs_kernel(&r, sto);
	r.rdi = va;
	run(&r);
	expect_pf(&r, PF_P | PF_W, sto, va);
	*e |= PTE_W;
	e = pte_at(root_now(), va, 3, false);
	*e &= ~PTE_U;
	flush_all();
	regs_user(&r, uld);
	r.rdi = va;
	run(&r);
	expect_pf(&r, PF_P | PF_U, uld, va);
	*e |= PTE_U | PTE_NX;
	flush_all();
	regs_kernel(&r, jmpto);
	r.rdi = va;
	run(&r);
	expect_pf(&r, PF_P | PF_I, va, va);
	*e &= ~PTE_NX;
	flush_all();
	/* without NXE the NX bit is reserved */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~0x800ull);
	flush_all();
	*pte_at(root_now(), va, 1, true) = f | KRW | PTE_NX;
	invlpg(va);
	regs_kernel(&r, ld);
	r.rdi = va;
	run(&r);
	if (is_tcg())
		r.err |= PF_P;
	expect_pf(&r, PF_P | PF_RSVD, ld, va);
	*pte_at(root_now(), va, 1, true) = 0;
	invlpg(va);
	regs_kernel(&r, jmpto);
	r.rdi = va;
	run(&r);
	expect_pf(&r, 0, va, va); /* and fetches do not say so */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x800ull);
	flush_all();
	unmap_page(va);
}

/* ---- software interrupts and gates ---- */
SNIP(s_int3, "nop\n int3\n.globl s_int3_n\ns_int3_n: nop");
SNIP(s_cd3, "int $3\n.globl s_cd3_n\ns_cd3_n: nop");
SNIP(s_int50, ".globl s_int50_at\ns_int50_at: int $0x50\n.globl s_int50_n\n"
	      "s_int50_n: nop");
SNIP(s_icebp, "nop\n .byte 0xf1\n.globl s_icebp_n\ns_icebp_n: nop");
USNIP(u_int50, ".globl u_int50_at\nu_int50_at: int $0x50\n.globl u_int50_n\n"
	       "u_int50_n: nop");
USNIP(u_int3, "int3\n.globl u_int3_n\nu_int3_n: nop");
extern char s_int3_n[], s_cd3_n[], s_int50_at[], s_int50_n[], u_int50_at[],
	u_int50_n[], u_int3_n[], s_icebp_n[];

/* TCG in long mode reports vector * 16, and no EXT. */
static u64 idt_err(unsigned vec, unsigned ext)
{
	return is_tcg() ? vec * 16 + 2 : vec * 8 + 2 + ext;
}

static u64 frame_at;
static void note_frame(struct regs *r)
{
	frame_at = (u64)r;
	r->rax = 0x1234;
	r->rip += 1; /* over the nop after INT: that one is 1 byte */
}

static void gates(void)
{
	struct regs r, a;

	part("gates");
	regs_kernel(&r, s_int3);
	run(&r);
	expect_fault(&r, 3, 0, s_int3_n);
	regs_kernel(&r, s_cd3);
	run(&r);
	expect_fault(&r, 3, 0, s_cd3_n);
	regs_user(&r, u_int3);
	a = r;
	run(&r);
	expect_fault(&r, 3, 0, u_int3_n);
	same_regs(&a, &r, 0);
	if (!is_tcg()) {
		regs_kernel(&r, s_icebp);
		run(&r);
		expect_fault(&r, 1, 0, s_icebp_n);
	}
	/* DPL 0 gate from CPL 3: #GP with the vector's error code */
	regs_user(&r, u_int50);
	run(&r);
	expect_fault(&r, 13, idt_err(0x50, 0), u_int50_at);
	set_gate(0x50, (void *)((u64)idt[0x50].off0 |
				(u64)idt[0x50].off1 << 16), 3, 1, false);
	regs_user(&r, u_int50);
	run(&r);
	expect_fault(&r, 0x50, 0, u_int50_n);
	/* a gate that is not present: #NP */
	idt[0x50].attr &= ~0x8000;
	regs_kernel(&r, s_int50);
	run(&r);
	expect_fault(&r, 11, idt_err(0x50, 0), s_int50_at);
	idt[0x50].attr |= 0x8000;
	/* a type that is no gate, a bad selector, a null selector */
	idt[0x50].attr = (idt[0x50].attr & ~0x1f00) | 0x0500;
	regs_kernel(&r, s_int50);
	run(&r);
	expect_fault(&r, 13, idt_err(0x50, 0), s_int50_at);
	gate_default(0x50);
	idt[0x50].sel = 0;
	regs_kernel(&r, s_int50);
	run(&r);
	expect_fault(&r, 13, 0, s_int50_at);
	idt[0x50].sel = KDS;
	regs_kernel(&r, s_int50);
	run(&r);
	expect_fault(&r, 13, KDS, s_int50_at);
	gate_default(0x50);
	/* limit: vector 0x50 is beyond, but 0x81 is needed: use 0xf0 */
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = { 0x90 * 16 - 1, (u64)idt };
	static u8 *c;

	c = kcode;
	u8 *p = c;

	e8(&p, 0xcd);
	e8(&p, 0xf0);
	asm volatile("lidt %0" ::"m"(idtr));
	regs_kernel(&r, c);
	run(&r);
	expect_fault(&r, 13, idt_err(0xf0, 0), c);
	idtr.limit = 4095;
	asm volatile("lidt %0" ::"m"(idtr));

	/* the frame: aligned to 16 below rsp, whatever rsp is */
	handlers[0x50] = note_frame;
	for (unsigned d = 0; d < 16; d++) {
		regs_kernel(&r, s_int50);
		r.rsp = KSTACK_TOP - 0x400 - d;
		a = r;
		run_ok(&r);
		CHECK_EQ(frame_at + 17 * 8, (a.rsp & ~15ull) - 40);
		CHECK_EQ(r.rax, 0x1234);
		same_regs(&a, &r, 1);
	}
	/* from CPL 3: on rsp0 */
	set_gate(0x50, (void *)((u64)idt[0x50].off0 |
				(u64)idt[0x50].off1 << 16), 3, 0, true);
	regs_user(&r, u_int50);
	r.rsp = 0x1234567890;
	a = r;
	run_ok(&r);
	CHECK_EQ(frame_at + 22 * 8, tss.rsp[0]);
	CHECK_EQ(r.cs, UCS);
	CHECK_EQ(r.ss, UDS);
	same_regs(&a, &r, 1);
	handlers[0x50] = NULL;
	gate_default(0x50);
}

/* ---- double fault ---- */
SNIP(df_ld, "inc %rcx\n.globl df_ld_at\ndf_ld_at: mov (%rdi), %rax");
SNIP(df_push, ".globl df_push_at\ndf_push_at: int $0x51");
extern char df_ld_at[], df_push_at[];
/* The order in which a frame is pushed is not told. */
static bool in_frame(u64 a)
{
	return a >= ABSENT + 0x2000 - 48 && a < ABSENT + 0x2000;
}

static void double_fault(void)
{
	struct regs r, a;

	part("double fault");
	/* #PF whose gate is absent: #NP on top of #PF */
	idt[14].attr &= ~0x8000;
	regs_kernel(&r, df_ld);
	r.rdi = ABSENT;
	a = r;
	a.rcx++;
	run(&r);
	idt[14].attr |= 0x8000;
	expect_fault(&r, 8, 0, df_ld_at);
	same_regs(&a, &r, 0);
	CHECK_EQ(read_cr2(), ABSENT);
	/* #PF while #PF is pushed: no IST, bad stack */
	set_ist(14, 0);
	regs_kernel(&r, df_ld);
	r.rdi = ABSENT;
	r.rsp = ABSENT + 0x2000;
	a = r;
	a.rcx++;
	run(&r);
	set_ist(14, 1);
	expect_fault(&r, 8, 0, df_ld_at);
	same_regs(&a, &r, 0);
	CHECK(in_frame(read_cr2()), "cr2 %lx", read_cr2());
	/* but INT n onto a bad stack is just a #PF, at the INT */
	regs_kernel(&r, df_push);
	r.rsp = ABSENT + 0x2000;
	a = r;
	run(&r);
	expect_fault(&r, 14, PF_W, df_push_at);
	CHECK(in_frame(r.cr2), "cr2 %lx", r.cr2);
	same_regs(&a, &r, 0);
	/* and onto a non-canonical one #SS */
	regs_kernel(&r, df_push);
	r.rsp = 0x800000001000;
	run(&r);
	tcg_ss(&r);
	expect_fault(&r, 12, 0, df_push_at);
	/* #GP with #UD's gate absent is no double fault: #UD is benign */
	idt[6].attr &= ~0x8000;
	static const u8 ud[] = { 0x0f, 0x0b };

	memcpy(kcode, ud, 2);
	regs_kernel(&r, kcode);
	run(&r);
	idt[6].attr |= 0x8000;
	expect_fault(&r, 11, idt_err(6, 1), kcode);
}

/* ---- single step ---- */
static u64 steps[64], nsteps;
static bool step_on;
static void step(struct regs *r)
{
	if (nsteps < 64)
		steps[nsteps] = r->rip;
	nsteps++;
	if (!step_on)
		r->rflags &= ~FL_TF;
}

SNIP(ss1, "1: nop\n inc %rax\n jmp 2f\n nop\n 2: push %rbx\n call 3f\n"
	  "pop %rbx\n jmp 4f\n 3: ret\n 4: xor %ecx, %ecx\n jnz 1b\n"
	  "mov $3, %ecx\n rep stosb\n pushfq\n pop %rdx\n nop\n nop");
SNIP(ss_popf, "pushfq\n orq $0x100, (%rsp)\n popfq\n"
	      ".globl ss_popf_1\nss_popf_1: nop\n.globl ss_popf_2\nss_popf_2:"
	      "nop\n pushfq\n andq $~0x100, (%rsp)\n popfq\n"
	      ".globl ss_popf_3\nss_popf_3: nop\n nop");
SNIP(ss_movss, "mov %ss, %eax\n.globl ss_m1\nss_m1: mov %eax, %ss\n"
	       ".globl ss_m2\nss_m2: nop\n.globl ss_m3\nss_m3: nop");
extern char ss_popf_1[], ss_popf_2[], ss_popf_3[], ss_m1[], ss_m2[], ss_m3[];

static void single_step(void)
{
	struct regs r, a;
	static u8 dst[8];

	part("single step");
	handlers[1] = step;
	step_on = true;
	nsteps = 0;
	regs_kernel(&r, ss1);
	r.rflags = 2 | FL_TF;
	r.rdi = (u64)dst;
	a = r;
	run_ok(&r);
	/* nop inc jmp push call ret pop jmp xor jnz mov, 3 of rep (the last
	 * is the instruction's end), pushf pop nop nop: 18; INT clears TF */
	CHECK_EQ(nsteps, 18);
	CHECK_EQ(steps[0], ss1 + 1);
	CHECK_EQ(steps[2] > (u64)ss1 + 4, 1);
	CHECK_EQ(r.rax, a.rax + 1);
	CHECK_EQ(r.rdx & FL_TF, FL_TF);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rdi, (u64)dst + 3);
	same_regs(&a, &r, 1 | 2 | 4 | 1 << 7);
	CHECK_EQ(steps[11], steps[12]);
	CHECK(steps[13] > steps[12]);
	/* POPF that sets TF: the next instruction is stepped, and so on */
	nsteps = 0;
	regs_kernel(&r, ss_popf);
	run_ok(&r);
	CHECK_EQ(nsteps, 5); /* nop nop pushf and popf */
	CHECK_EQ(steps[0], ss_popf_2);
	/* one step: the trap handler clears TF */
	step_on = false;
	nsteps = 0;
	regs_kernel(&r, ss1);
	r.rdi = (u64)dst;
	r.rflags = 2 | FL_TF;
	run_ok(&r);
	CHECK_EQ(nsteps, 1);
	/* MOV SS holds the trap back until after the next instruction */
	step_on = true;
	nsteps = 0;
	regs_kernel(&r, ss_movss);
	r.rflags = 2 | FL_TF;
	run_ok(&r);
	CHECK_EQ(steps[0], ss_m1);
	CHECK_EQ(steps[1], ss_m3);
	CHECK_EQ(nsteps, 3);
	handlers[1] = NULL;
	/* DR6 says single step */
	u64 dr6 = 0;
	asm volatile("mov %0, %%dr6" ::"r"(dr6));
	regs_kernel(&r, ss1);
	r.rflags = 2 | FL_TF;
	run(&r);
	expect_fault(&r, 1, 0, ss1 + 1);
	CHECK_EQ(r.rflags & FL_TF, FL_TF);
	asm volatile("mov %%dr6, %0" : "=r"(dr6));
	CHECK_EQ(dr6 & 0x4000, 0x4000);
	regs_user(&r, u_int3);
	r.rflags = 2 | FL_TF;
	run(&r);
	expect_fault(&r, 3, 0, u_int3_n);
}

/* ---- other faults in the middle of blocks ---- */
SNIP(mid_ud, "inc %rax\n add %rbx, %rcx\n push %rcx\n stc\n.globl mid_ud_at\n"
	     "mid_ud_at: ud2\n inc %rax");
SNIP(mid_de, "inc %rax\n sub $8, %rsp\n xor %edx, %edx\n cmp $1, %edx\n"
	     ".globl mid_de_at\nmid_de_at: div %rdx\n");
SNIP(mid_gp, "inc %rax\n pop %rbx\n mov %rax, %r10\n mov $0x80000000, %r11\n"
	     ".globl mid_gp_at\nmid_gp_at: mov %r11, %cr4");
SNIP(mid_ds, "inc %rax\n pop %rbx\n mov %rax, %r10\n mov $0x1234, %r11d\n"
	     ".globl mid_ds_at\nmid_ds_at: mov %r11d, %ds");
SNIP(mid_msr, "mov $0x12345678, %ecx\n.globl mid_msr_at\nmid_msr_at: rdmsr");
SNIP(mid_mmio, "1: mov (%rdi), %rax\n add $8, %rdi\n inc %rcx\n jmp 1b");
extern char mid_ds_at[], mid_ud_at[], mid_de_at[], mid_gp_at[], mid_msr_at[];

static void mid_block(void)
{
	struct regs r, a;
	u64 va = slot_va(66, 0);

	part("mid block");
	regs_kernel(&r, mid_ud);
	a = r;
	run(&r);
	expect_fault(&r, 6, 0, mid_ud_at);
	a.rax++, a.rcx += a.rbx, a.rsp -= 8;
	same_regs(&a, &r, 0);
	CHECK_EQ(r.rflags & FL_CF, FL_CF);
	CHECK_EQ(*(u64 *)r.rsp, a.rcx);
	regs_kernel(&r, mid_de);
	a = r;
	run(&r);
	expect_fault(&r, 0, 0, mid_de_at);
	a.rax++, a.rsp -= 8, a.rdx = 0;
	same_regs(&a, &r, 0);
	CHECK_EQ(r.rflags & FL_ARITH, FL_CF | FL_PF | FL_SF | FL_AF);
	for (unsigned k = is_tcg(); k < 2; k++) { /* TCG takes any CR4 */
		regs_kernel(&r, k ? mid_ds : mid_gp);
		r.rsp -= 64;
		a = r;
		run(&r);
		expect_fault(&r, 13, k ? 0x1234 : 0, k ? mid_ds_at : mid_gp_at);
		a.rax++, a.rbx = *(u64 *)a.rsp, a.rsp += 8, a.r10 = a.rax;
		a.r11 = k ? 0x1234 : 0x80000000;
		same_regs(&a, &r, 0);
	}
	if (!is_tcg()) {
		regs_kernel(&r, mid_msr);
		run(&r);
		expect_fault(&r, 13, 0, mid_msr_at);
	}
	/* a loop that walks off a page, at each of 8 phases, in one block */
	map_page(va, NULL, KRW);
	for (unsigned i = 0; i < 8; i++) {
		u64 n = (PG - i) / 8;

		regs_kernel(&r, mid_mmio);
		r.rdi = va + i;
		r.rcx = 0;
		run(&r);
		expect_pf(&r, 0, mid_mmio, va + i + n * 8 + 8 > va + PG &&
			  i ? va + PG : va + i + n * 8);
		CHECK_EQ(r.rcx, n);
		CHECK_EQ(r.rdi, va + i + n * 8);
	}
	unmap_page(va);
}

int main(void)
{
	kcode = pages_alloc(2, PG);
	ro_frame = page_alloc();
	last_frame = page_alloc();
	memset(ro_frame, 0x5a, PG);
	memset(last_frame, 0x5a, PG);
	map_page(RDONLY, ro_frame, PTE_P);
	map_page(LASTPG, last_frame, KRW);
	operand_forms();
	stack_forms();
	error_codes();
	gates();
	double_fault();
	single_step();
	mid_block();
	return 0;
}
