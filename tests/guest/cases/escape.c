/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile kernel. It tries to reach memory that is not its own by every form
 * of access: all 512 slots of the address space at many offsets, slot ends, the
 * places where a host process keeps its image, heap, stacks and libraries, and
 * non-canonical addresses; through plain operands, RSP-based ones after large
 * drifts, FS and GS with any base, RIP-relative ones, string instructions that
 * run off the end of a slot, XSAVE, gathers, straddling and far displacements.
 *
 * Its page tables map its own pages only, so each try must end in exactly the
 * guest fault that the SDM says, and nothing else may change. A try that
 * succeeds has reached somebody else's memory.
 */
#include "tests/guest/rt/enc.h"

static u64 tries;
static u8 *code;
static u8 user_page[PG] __attribute__((section(".user.data"), aligned(4096)));

static bool canonical(u64 a)
{
	return (u64)((s64)(a << 16) >> 16) == a;
}

/* Everything that is mapped is below 64 MiB, in the APIC's 2 MiB page, or in
 * the slot MINE. */
#define MINE 6
static bool mapped(u64 a)
{
	return (a >= PG && a < 64ull << 20) ||
	       (a >= 0xfee00000 && a < 0xff000000) ||
	       a >> 39 == MINE;
}

/* What a try must end in. stack: #SS instead of #GP. */
static void verdict(const char *what, struct regs *r, u64 a, unsigned size,
		    bool write, bool stack, bool user, u64 at)
{
	u64 last = a + size - 1;

	tries++;
	if (canonical(a) && canonical(last) && last >= a) {
		if (r->vec == 14 && r->rip == at && r->cr2 - a < size &&
		    !(r->err & PF_P) &&
		    !!(r->err & PF_U) == user &&
		    (!!(r->err & PF_W) == write || is_tcg()))
			return;
	} else {
		if ((r->vec == (stack ? 12 : 13) || r->vec == 13) &&
		    r->err == 0 && r->rip == at)
			return;
		/* half of it is canonical: TCG looks at that half first */
		if (is_tcg() && (r->vec == 14 || r->vec == 13 || r->vec == 12) &&
		    r->rip == at)
			return;
		/* wraps around the top: the last bytes are in page 0 */
		if (canonical(a) && canonical(last) && r->vec == 14 &&
		    r->rip == at)
			return;
	}
	fail_at("escape", 0, "%s at %lx: vec %lu err %lx rip %lx cr2 %lx (at "
		"%lx)", what, a, r->vec, r->err, r->rip, r->cr2, at);
}

/* ---- a plain battery on one address ---- */
struct form {
	const char *name;
	u8 prefix, w, esc, op, reg, imm, size;
	bool write, user_ok;
};
static const struct form forms[] = {
	{ "load", 0, 1, 0, 0x8b, 2, 0, 8, 0, 1 },
	{ "store", 0, 1, 0, 0x89, 2, 0, 8, 1, 1 },
	{ "load8", 0, 0, 0, 0x8a, 2, 0, 1, 0, 1 },
	{ "store8", 0, 0, 0, 0x88, 2, 0, 1, 1, 1 },
	{ "add", 0, 1, 0, 0x01, 2, 0, 8, 1, 1 },
	{ "xchg", 0, 1, 0, 0x87, 2, 0, 8, 1, 1 },
	{ "push m", 0, 0, 0, 0xff, 6, 0, 8, 0, 1 },
	{ "jmp m", 0, 0, 0, 0xff, 4, 0, 8, 0, 1 },
	{ "call m", 0, 0, 0, 0xff, 2, 0, 8, 0, 1 },
	{ "movups", 0, 0, 0x0f, 0x10, 2, 0, 16, 0, 1 },
	{ "movups st", 0, 0, 0x0f, 0x11, 2, 0, 16, 1, 1 },
	{ "cmpxchg", 0, 1, 0x0f, 0xb1, 2, 0, 8, 1, 1 },
	{ "bts r", 0, 1, 0x0f, 0xab, 9, 0, 8, 1, 1 }, /* r9 = 0 */
	{ "fld", 0, 0, 0, 0xdd, 0, 0, 8, 0, 1 },
	{ "fst", 0, 0, 0, 0xdd, 2, 0, 8, 1, 1 },
	{ "sete", 0, 0, 0x0f, 0x94, 0, 0, 1, 1, 1 },
	{ "mov imm", 0, 1, 0, 0xc7, 0, 4, 8, 1, 1 },
	{ "stmxcsr", 0, 0, 0x0f, 0xae, 3, 0, 4, 1, 1 },
};
#define NFORM (sizeof(forms) / sizeof(forms[0]))

/* Code built once: form x addressing kind. */
enum kind { BASE, SP, R10IDX, FSBASE, GSBASE, SPIDX, DISP, BP, NKIND };
static u8 *built[2][NFORM][NKIND];

static void emit_at(u8 **p, unsigned f, enum kind k)
{
	static const struct mem m[NKIND] = {
		[BASE] = { .base = 11, .index = -1, .scale = 1 },
		[SP] = { .base = 4, .index = -1, .scale = 1, .disp_size = 1,
			 .disp = 8 },
		[R10IDX] = { .base = 10, .index = 12, .scale = 8 },
		[FSBASE] = { .base = 3, .index = -1, .scale = 1, .seg = 0x64 },
		[GSBASE] = { .base = -1, .index = -1, .scale = 1, .disp = 0x40,
			     .seg = 0x65 },
		[SPIDX] = { .base = 4, .index = 12, .scale = 4 },
		[DISP] = { .base = 7, .index = -1, .scale = 1, .disp_size = 4,
			   .disp = 0x7fffffff },
		[BP] = { .base = 5, .index = -1, .scale = 1, .disp_size = 4,
			 .disp = (int)0x80000000 },
	};

	e_insn(p, forms[f].prefix, forms[f].w, forms[f].esc, forms[f].op,
	       forms[f].reg, &m[k], false);
	for (unsigned i = 0; i < forms[f].imm; i++)
		e8(p, 1);
	e_done(p);
}

static void build(void)
{
	u8 *p = code, *q = user_page;

	for (unsigned f = 0; f < NFORM; f++)
		for (unsigned k = 0; k < NKIND; k++) {
			built[0][f][k] = p;
			emit_at(&p, f, k);
			if (k == BASE || k == SP || k == R10IDX) {
				built[1][f][k] = q;
				emit_at(&q, f, k);
			}
		}
	CHECK((u64)(p - code) < 4 * PG);
	CHECK((u64)(q - user_page) < PG);
}

static void try(unsigned f, enum kind k, u64 a, bool user)
{
	u8 *c = built[user][f][k];
	struct regs r, before;

	if (!c)
		return;
	if (user)
		regs_user(&r, c);
	else
		regs_kernel(&r, c);
	r.r9 = 0;
	switch (k) {
	case BASE: r.r11 = a; break;
	case SP: r.rsp = a - 8; break;
	case R10IDX:
		r.r12 = rnd() >> (rnd() & 63);
		r.r10 = a - r.r12 * 8;
		break;
	case FSBASE:
		r.rbx = rnd();
		if (!canonical(a - r.rbx))
			r.rbx = a & ~0xfffull ? a & 0xfff : 0;
		if (!canonical(a - r.rbx))
			r.rbx = a;
		wrmsr(MSR_FS_BASE, a - r.rbx);
		break;
	case GSBASE:
		if (!canonical(a - 0x40))
			return;
		wrmsr(MSR_GS_BASE, a - 0x40);
		break;
	case SPIDX:
		r.r12 = rnd() >> (rnd() & 63);
		r.rsp = a - r.r12 * 4;
		break;
	case DISP: r.rdi = a - 0x7fffffff; break;
	case BP: r.rbp = a + 0x80000000; break;
	default: break;
	}
	before = r;
	run(&r);
	verdict(forms[f].name, &r, a, forms[f].size, forms[f].write,
		k == SP || k == SPIDX || k == BP, user, (u64)c);
	if (r.vec != VEC_DONE && memcmp(&r, &before, 15 * 8))
		same_regs(&before, &r, 0);
}

/* All forms on one address, or a sample of them. */
static void probe(u64 a, bool all)
{
	for (u64 d = 0; d < 16; d++)
		if (mapped(a + d))
			return;
	if (all) {
		for (unsigned f = 0; f < NFORM; f++)
			for (unsigned k = 0; k < NKIND; k++) {
				try(f, k, a, false);
				try(f, k, a, true);
			}
		return;
	}
	for (unsigned i = 0; i < 3; i++)
		try(rnd() % NFORM, rnd() % NKIND, a, !(rnd() & 7));
}

static void sweep(void)
{
	static const u64 off[] = { 0, 8, 0xff8, 0x1000, 0x12345678,
				   0x1fffff000, 0x3fffffffff, 0x4000000000,
				   0x7ffffff000, 0x7ffffffff0, 0x7ffffffff9,
				   0x7fffffffff };

	part("all slots");
	for (unsigned s = 0; s < 512; s++)
		for (unsigned i = 0; i < sizeof(off) / 8; i++)
			if (s)
				probe(slot_va(s, off[i]), false);
	part("non-canonical");
	for (unsigned i = 0; i < 1500; i++) {
		u64 a = rnd();

		if (!canonical(a) && !canonical(a + 15))
			probe(a, false);
		/* each of the upper 17 bits alone, on likely addresses */
		a = slot_va(rnd() & 511, rnd() & (SLOT - 1)) ^
		    1ull << (47 + rnd() % 17);
		if (!canonical(a) && !canonical(a + 15))
			probe(a, false);
	}
	for (unsigned b = 47; b < 64; b++)
		for (unsigned s = 0; s < 8; s++) {
			u64 a = ((u64)s * 0x1000 + 0x100000) ^ 1ull << b;

			if (!canonical(a))
				probe(a, true && s == 0);
		}
	part("likely host addresses");
	static const u64 host[] = {
		0x400000 + (64ull << 20), 0x100000000, 0x10000000000,
		0x555555554000, 0x555555555000, 0x555555600000, 0x560000000000,
		0x55a0b0c0d000, 0x5600deadb000, 0x7f0000000000, 0x7f1234567000,
		0x7f7fffff0000, 0x7fff00000000, 0x7fffff000000, 0x7ffff7a00000,
		0x7ffff7dd5000, 0x7ffff7fc1000, 0x7ffff7ffd000, 0x7ffff7fff000,
		0x7ffffffde000, 0x7fffffffe000, 0x7ffffffff000 - 0x10,
		0xffffffffff600000, 0xffff888000000000, 0xffffffff81000000,
	};
	for (unsigned i = 0; i < sizeof(host) / 8; i++)
		probe(host[i] + 0x10, true);
	for (unsigned i = 0; i < 4000; i++) {
		static const u64 top[] = { 0x55, 0x56, 0x7f, 0x7e, 0x00, 0x7f };
		u64 a = top[i % 6] << 40 | (rnd() & 0xfffffff000);

		probe(a, false);
	}
	part("the ends");
	for (u64 d = 0; d < 32; d++) {
		probe(0x800000000000 - d, d < 20 && !(d & 3));
		probe(0xffff800000000000 - d, d < 20 && !(d & 3));
		probe(0 - d - 1, !(d & 7));
		probe(0x8000000000000000 - d, false);
		probe(0x7fffffffffffffff + d, false);
		for (unsigned s = 1; s < 512; s += 17)
			probe(slot_va(s, 0) - d, false);
	}
}

/* ---- RSP: walks, then touches ---- */
SNIP(walk_sub, "1: sub %rbx, %rsp\n dec %rcx\n jnz 1b\n"
	       ".globl walk_sub_at\nwalk_sub_at: push %rax");
SNIP(walk_line, "add %rbx, %rsp\n add %rbx, %rsp\n add %rbx, %rsp\n"
		"add %rbx, %rsp\n.globl walk_line_at\nwalk_line_at:"
		"mov %rax, 0x40(%rsp)");
SNIP(walk_lea, "lea 0x7ffffff0(%rsp), %rsp\n lea 0x7ffffff0(%rsp), %rsp\n"
	       ".globl walk_lea_at\nwalk_lea_at: pop %rax");
SNIP(walk_mul, "shl $1, %rsp\n.globl walk_mul_at\nwalk_mul_at: pop %rax");
SNIP(walk_xor, "xor %rbx, %rsp\n.globl walk_xor_at\nwalk_xor_at: call done");
SNIP(walk_disp, ".globl walk_disp_at\nwalk_disp_at: mov 0x7fffffff(%rsp), "
		"%rax");
SNIP(walk_disp_n, ".globl walk_disp_n_at\nwalk_disp_n_at: mov %rax, "
		  "-0x80000000(%rsp)");
SNIP(walk_and, "and %rbx, %rsp\n.globl walk_and_at\nwalk_and_at: ret");
SNIP(walk_leave, "mov %rbx, %rbp\n.globl walk_leave_at\nwalk_leave_at: leave");
SNIP(walk_xchg, "xchg %rbx, %rsp\n.globl walk_xchg_at\nwalk_xchg_at: pushfq");
SNIP(walk_enter, "mov %rbx, %rsp\n.globl walk_enter_at\nwalk_enter_at:"
		 "enter $0xfff0, $0");
SNIP(walk_iret, "mov %rbx, %rsp\n.globl walk_iret_at\nwalk_iret_at: iretq");
/* a loop of touches that walks off: each push moves, the last faults */
SNIP(walk_push, "1: push %rax\n jmp 1b");
SNIP(walk_pop, "1: pop %rax\n jmp 1b");
SNIP(walk_far, "1: push %rax\n pop %rdx\n sub $0x40000000, %rsp\n jmp 1b");
extern char walk_sub_at[], walk_line_at[], walk_lea_at[], walk_mul_at[],
	walk_xor_at[], walk_disp_at[], walk_disp_n_at[], walk_and_at[],
	walk_leave_at[], walk_xchg_at[], walk_enter_at[], walk_iret_at[];

static void rsp_walks(void)
{
	struct regs r;
	u64 mine = slot_va(MINE, 0x100000);

	part("rsp");
	/* one mapped page in the slot, so that a stack is at home there */
	map_page(mine, NULL, KRW);
	for (unsigned i = 0; i < 1200; i++) {
		u64 sp = mine + 0x800, to;
		static const u64 steps[] = { 4096, 1 << 20, 1ull << 30,
					     0x7ffffff0, 1ull << 39,
					     (1ull << 39) - 4096, 1ull << 40,
					     1ull << 46, 1ull << 47, 1ull << 62 };

		regs_kernel(&r, walk_sub);
		r.rsp = sp;
		r.rbx = steps[i % 10] * (i & 16 ? -1 : 1);
		r.rcx = 1 + rnd() % 200;
		to = r.rsp - r.rbx * r.rcx - 8;
		if (mapped(to) || mapped(to + 7))
			continue;
		run(&r);
		verdict("walk sub", &r, to, 8, true, true, false,
			(u64)walk_sub_at);
		CHECK_EQ(r.rsp, to + 8);

		regs_kernel(&r, walk_line);
		r.rsp = sp;
		r.rbx = rnd() >> (rnd() & 31);
		to = sp + 4 * r.rbx + 0x40;
		if (!mapped(to) && !mapped(to + 7)) {
			run(&r);
			verdict("walk line", &r, to, 8, true, true, false,
				(u64)walk_line_at);
		}
		regs_kernel(&r, walk_xor);
		r.rsp = sp;
		r.rbx = 1ull << (20 + rnd() % 44) | 1ull << (20 + rnd() % 44);
		to = (sp ^ r.rbx) - 8;
		if (!mapped(to) && !mapped(to + 7)) {
			run(&r);
			verdict("walk xor", &r, to, 8, true, true, false,
				(u64)walk_xor_at);
		}
		to = slot_va(rnd() & 511, rnd() & (SLOT - 1)) &
		     ~(i & 1 ? 7ull : 0);
		if (i % 5 == 0)
			to = rnd();
		if (mapped(to) || mapped(to + 64) || mapped(to - 64) ||
		    to >> 39 == 0 || (to + 64) >> 39 != to >> 39)
			continue;
		regs_kernel(&r, walk_and);
		r.rsp = ~0ull;
		r.rbx = to;
		run(&r);
		verdict("walk and", &r, to, 8, false, true, false,
			(u64)walk_and_at);
		regs_kernel(&r, walk_leave);
		r.rbx = to;
		run(&r);
		verdict("walk leave", &r, to, 8, false, true, false,
			(u64)walk_leave_at);
		regs_kernel(&r, walk_xchg);
		r.rbx = to;
		run(&r);
		verdict("walk xchg", &r, to - 8, 8, true, true, false,
			(u64)walk_xchg_at);
		regs_kernel(&r, walk_enter);
		r.rbx = to;
		run(&r);
		verdict("walk enter", &r, to - 8, 8, true, true, false,
			(u64)walk_enter_at);
		regs_kernel(&r, walk_iret);
		r.rbx = to;
		run(&r);
		verdict("walk iret", &r, to, 40, false, true, false,
			(u64)walk_iret_at);
		regs_kernel(&r, walk_disp);
		r.rsp = to - 0x7fffffff;
		run(&r);
		verdict("walk disp", &r, to, 8, false, true, false,
			(u64)walk_disp_at);
		regs_kernel(&r, walk_disp_n);
		r.rsp = to + 0x80000000;
		run(&r);
		verdict("walk -disp", &r, to, 8, true, true, false,
			(u64)walk_disp_n_at);
	}
	regs_kernel(&r, walk_lea);
	for (unsigned i = 0; i < 300; i++) {
		regs_kernel(&r, walk_lea);
		r.rsp = slot_va(MINE, SLOT - 0x7fffffe0 + i * 8);
		run(&r);
		verdict("walk lea", &r, r.rsp, 8, false, true, false,
			(u64)walk_lea_at);
		regs_kernel(&r, walk_mul);
		r.rsp = slot_va(MINE + (i & 31) * 3 + 3, 0x1230 * i);
		run(&r);
		verdict("walk shl", &r, r.rsp, 8, false, true, false,
			(u64)walk_mul_at);
	}
	/* running off both ends of the one page */
	regs_kernel(&r, walk_push);
	r.rsp = mine + PG;
	run(&r);
	expect_pf(&r, PF_W, walk_push, mine - 8);
	CHECK_EQ(r.rsp, mine);
	regs_kernel(&r, walk_pop);
	r.rsp = mine;
	run(&r);
	expect_pf(&r, 0, walk_pop, mine + PG);
	/* touches far apart, off the slot's lower end and through the others */
	for (unsigned s = 3; s < 512; s += 50) {
		u64 a = slot_va(s, 0x80000000);

		map_page(a, NULL, KRW);
		regs_kernel(&r, walk_far);
		r.rsp = a + 0x100;
		run(&r);
		expect_pf(&r, PF_W, walk_far, a + 0x100 - 0x40000000 - 8);
		unmap_page(a);
	}
	unmap_page(mine);
}

/* ---- FS, GS: any base that WRMSR or WRGSBASE takes ---- */
SNIP(seg_store, ".globl seg_store_at\nseg_store_at: mov %rax, %gs:(%rbx,%rcx,8)");
SNIP(seg_moffs, ".globl seg_moffs_at\nseg_moffs_at: movabs %fs:"
		"0x7123456789abcdef, %al");
SNIP(seg_wr, "wrgsbase %rax\n.globl seg_wr_at\nseg_wr_at: mov %gs:0x20, %rbx");
SNIP(seg_wr2, "wrfsbase %rax\n.globl seg_wr2_at\nseg_wr2_at: mov %rax, "
	      "%fs:-8(%r15)");
SNIP(seg_msr, "wrmsr\n.globl seg_msr_at\nseg_msr_at: incb %gs:0");
SNIP(seg_swap, "swapgs\n.globl seg_swap_at\nseg_swap_at: pushq %gs:(%r10)\n"
	       "swapgs");
SNIP(seg_a32, ".globl seg_a32_at\nseg_a32_at: addr32 mov %rax, %gs:(%ebx)");
SNIP(seg_rip, ".globl seg_rip_at\nseg_rip_at: mov %gs:0x1000(%rip), %rax");
extern char seg_store_at[], seg_moffs_at[], seg_wr_at[], seg_wr2_at[],
	seg_msr_at[], seg_swap_at[], seg_a32_at[], seg_rip_at[], seg_rip_end[];

static void segment_bases(void)
{
	bool fsgs = has_fsgsbase();

	part("segment bases");
	if (fsgs)
		write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < 1500; i++) {
		u64 base = slot_va(rnd() & 511, rnd() & (SLOT - 1)), to;
		struct regs r;

		wrmsr(MSR_GS_BASE, base);
		wrmsr(MSR_FS_BASE, base);
		regs_kernel(&r, seg_store);
		r.rbx = rnd() >> (rnd() & 63);
		r.rcx = rnd() >> (rnd() & 63);
		to = base + r.rbx + r.rcx * 8;
		if (!mapped(to) && !mapped(to + 7)) {
			run(&r);
			verdict("gs store", &r, to, 8, true, false, false,
				(u64)seg_store_at);
		}
		to = base + 0x7123456789abcdef;
		if (!mapped(to)) {
			regs_kernel(&r, seg_moffs);
			run(&r);
			verdict("fs moffs", &r, to, 1, false, false, false,
				(u64)seg_moffs_at);
		}
		to = base + 0x20;
		if (fsgs && !mapped(to) && !mapped(to + 7)) {
			wrmsr(MSR_GS_BASE, 0);
			regs_kernel(&r, seg_wr);
			r.rax = base;
			run(&r);
			verdict("wrgsbase", &r, to, 8, false, false, false,
				(u64)seg_wr_at);
			regs_kernel(&r, seg_wr2);
			r.rax = base;
			r.r15 = rnd();
			to = base + r.r15 - 8;
			if (!mapped(to) && !mapped(to + 7)) {
				run(&r);
				verdict("wrfsbase", &r, to, 8, true, false,
					false, (u64)seg_wr2_at);
			}
		}
		to = base;
		if (!mapped(to)) {
			regs_kernel(&r, seg_msr);
			r.rcx = MSR_GS_BASE;
			r.rax = (u32)base;
			r.rdx = base >> 32;
			run(&r);
			verdict("wrmsr", &r, to, 1, true, false, false,
				(u64)seg_msr_at);
			wrmsr(MSR_GS_BASE, 0);
			wrmsr(MSR_KGS_BASE, base);
			regs_kernel(&r, seg_swap);
			r.r10 = 0;
			if (!mapped(to + 7)) {
				run(&r);
				verdict("swapgs", &r, to, 8, false, false,
					false, (u64)seg_swap_at);
				asm volatile("swapgs");
			}
		}
		wrmsr(MSR_GS_BASE, base);
		regs_kernel(&r, seg_a32);
		r.rbx = rnd();
		to = base + (u32)r.rbx;
		if (!mapped(to) && !mapped(to + 7)) {
			run(&r);
			verdict("gs a32", &r, to, 8, true, false, false,
				(u64)seg_a32_at);
		}
		/* gs + RIP-relative: 9-byte instruction (65 48 8b 05 disp) */
		to = base + (u64)seg_rip_end - 2 + 0x1000;
		if (!mapped(to) && !mapped(to + 7)) {
			regs_kernel(&r, seg_rip);
			run(&r);
			verdict("gs rip", &r, to, 8, false, false, false,
				(u64)seg_rip_at);
		}
	}
	/* what WRMSR must refuse */
	if (!is_tcg())
		for (unsigned i = 0; i < 200; i++) {
			static const u32 msr[] = { MSR_FS_BASE, MSR_GS_BASE,
						   MSR_KGS_BASE };
			u64 bad = rnd(), old;
			struct regs r;

			if (canonical(bad))
				continue;
			old = rdmsr(msr[i % 3]);
			regs_kernel(&r, seg_msr);
			r.rcx = msr[i % 3];
			r.rax = (u32)bad, r.rdx = bad >> 32;
			run(&r);
			expect_fault(&r, 13, 0, seg_msr);
			CHECK_EQ(rdmsr(msr[i % 3]), old);
		}
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_KGS_BASE, 0);
}

/* ---- string instructions off the end of slots ---- */
SNIP(str_stos, "rep stosb");
SNIP(str_movs, "rep movsq");
SNIP(str_movsb_s, "rep movsb");
SNIP(str_lods, "rep lodsq");
SNIP(str_scas, "repne scasb");
SNIP(str_outs, "mov $0x80, %edx\n.globl str_outs_at\nstr_outs_at: rep outsb");
SNIP(str_ins, "mov $0x80, %edx\n.globl str_ins_at\nstr_ins_at: rep insb");
extern char str_outs_at[], str_ins_at[];

static void strings(void)
{
	part("strings");
	for (unsigned i = 0; i < 400; i++) {
		unsigned s = 1 + rnd() % 511, df = i & 1;
		/* the last, or the first, page of a slot */
		u64 va = slot_va(s, df ? 0 : SLOT - PG), edge;
		struct regs r;
		u8 *f = map_page(va, NULL, KRW);

		if (s == MINE)
			continue;
		memset(f, 0x11, PG);
		edge = df ? va - 1 : va + PG;
		regs_kernel(&r, str_stos);
		r.rflags |= df ? FL_DF : 0;
		r.rdi = df ? va + 99 : va + PG - 100;
		r.rcx = 1ull << (10 + rnd() % 50);
		u64 n = r.rcx;

		run(&r);
		verdict("stos", &r, edge, 1, true, false, false, (u64)str_stos);
		CHECK_EQ(r.rcx, n - 100);
		CHECK_EQ(r.rdi, edge);

		regs_kernel(&r, str_movs);
		r.rflags |= df ? FL_DF : 0;
		r.rsi = df ? va + 96 : va + PG - 104;
		r.rdi = slot_va((s + 7) & 511 ? (s + 7) & 511 : 9, 0x1230 * i);
		u64 di = r.rdi;

		if (!mapped(di)) {
			r.rcx = ~0ull;
			run(&r);
			verdict("movs to nowhere", &r, di, 8, true, false,
				false, (u64)str_movs);
			CHECK_EQ(r.rcx, ~0ull);
		}
		regs_kernel(&r, str_lods);
		r.rflags |= df ? FL_DF : 0;
		r.rsi = df ? va + 80 : va + PG - 88;
		r.rcx = ~0ull >> (rnd() & 40);
		n = r.rcx;
		run(&r);
		verdict("lods", &r, df ? va - 8 : va + PG, 8, false, false,
			false, (u64)str_lods);
		CHECK_EQ(r.rcx, n - 11);
		regs_kernel(&r, str_scas);
		r.rflags |= df ? FL_DF : 0;
		memset(f, 0x11, PG);
		r.rax = 0x77;
		r.rdi = df ? va + 7 : va + PG - 8;
		r.rcx = ~0ull;
		run(&r);
		verdict("scas", &r, edge, 1, false, false, false, (u64)str_scas);
		regs_kernel(&r, str_outs);
		r.rflags |= df ? FL_DF : 0;
		r.rsi = df ? va + 3 : va + PG - 4;
		r.rcx = 1ull << 40;
		run(&r);
		verdict("outs", &r, edge, 1, false, false, false,
			(u64)str_outs_at);
		regs_kernel(&r, str_ins);
		r.rflags |= df ? FL_DF : 0;
		r.rdi = df ? va + 3 : va + PG - 4;
		r.rcx = 1ull << 40;
		run(&r);
		verdict("ins", &r, edge, 1, true, false, false,
			(u64)str_ins_at);
		/* from here to likely places of the host */
		regs_kernel(&r, str_movsb_s);
		r.rsi = va + 0x100;
		r.rdi = 0x7f0000000000 | (rnd() & 0xfffffff000);
		r.rcx = 1 << 20;
		di = r.rdi;
		if (i & 2) {
			r.rdi = va + 0x100;
			r.rsi = di;
		}
		if (di >> 39 != va >> 39) {
			run(&r);
			verdict("movs host", &r, di, 1, !(i & 2), false, false,
				(u64)str_movsb_s);
		}
		unmap_page(va);
		page_free(f);
	}
}

/* ---- large and vector operands ---- */
SNIP(big_fxsave, "fxsave (%r11)");
SNIP(big_fxrstor, "fxrstor (%r10)");
SNIP(big_xsave, "mov $7, %eax\n xor %edx, %edx\n.globl big_xsave_at\n"
		"big_xsave_at: xsave (%r11)");
SNIP(big_xrstor, "mov $7, %eax\n xor %edx, %edx\n.globl big_xrstor_at\n"
		 "big_xrstor_at: xrstor (%r10)");
SNIP(big_gather, "vpcmpeqd %xmm1, %xmm1, %xmm1\n vmovq %r12, %xmm2\n"
		 "vpunpcklqdq %xmm2, %xmm2, %xmm2\n.globl big_gather_at\n"
		 "big_gather_at: vpgatherqq %xmm1, (%r10,%xmm2,8), %xmm3");
SNIP(big_ymm, "vmovups %ymm1, (%r11)");
SNIP(big_zmm, "vmovups %zmm17, (%r11)");
SNIP(big_zmmd, "vmovups 8128(%r10), %zmm17");
SNIP(big_kmov, "kmovq %k2, (%r11)");
SNIP(big_scatter, "kxnorq %k1, %k1, %k1\n vpbroadcastq %r12, %zmm18\n"
		  ".globl big_scatter_at\n"
		  "big_scatter_at: vpscatterqq %zmm1, (%r10,%zmm18,8){%k1}");
SNIP(big_cx16, "cmpxchg16b (%rdi)");
SNIP(big_fnsave, "fnsave (%r10)\n");
SNIP(big_lgdt, "lgdt (%r11)");
SNIP(big_sidt, "sidt (%r10)");
SNIP(big_invpcid, "mov $1, %eax\n.globl big_invpcid_at\nbig_invpcid_at:"
		  "invpcid (%r11), %rax");
SNIP(big_maskmov, "vpcmpeqd %ymm1, %ymm1, %ymm1\n.globl big_maskmov_at\n"
		  "big_maskmov_at: vpmaskmovd %ymm2, %ymm1, (%r10)");
SNIP(big_maskmovdqu, "pcmpeqd %xmm1, %xmm1\n.globl big_maskmovdqu_at\n"
		     "big_maskmovdqu_at: maskmovdqu %xmm1, %xmm2");
extern char big_scatter_at[], big_xsave_at[], big_xrstor_at[], big_gather_at[], big_invpcid_at[],
	big_maskmov_at[], big_maskmovdqu_at[];

static void big(void)
{
	static const struct {
		const char *name, *code, *at;
		unsigned size, align;
		u8 write, avx; /* avx: 2 for AVX-512 */
	} t[] = {
		{ "fxsave", big_fxsave, big_fxsave, 512, 16, 1, 0 },
		{ "fxrstor", big_fxrstor, big_fxrstor, 512, 16, 0, 0 },
		{ "xsave", big_xsave, big_xsave_at, 832, 64, 1, 1 },
		{ "xrstor", big_xrstor, big_xrstor_at, 832, 64, 0, 1 },
		{ "gather", big_gather, big_gather_at, 8, 1, 0, 1 },
		{ "ymm", big_ymm, big_ymm, 32, 1, 1, 1 },
		{ "zmm", big_zmm, big_zmm, 64, 1, 1, 2 },
		{ "zmm disp8", big_zmmd, big_zmmd, 64, 1, 0, 2 },
		{ "kmov", big_kmov, big_kmov, 8, 1, 1, 2 },
		{ "scatter", big_scatter, big_scatter_at, 8, 1, 1, 2 },
		{ "cx16", big_cx16, big_cx16, 16, 16, 1, 0 },
		{ "fnsave", big_fnsave, big_fnsave, 108, 1, 1, 0 },
		{ "lgdt", big_lgdt, big_lgdt, 10, 1, 0, 0 },
		{ "sidt", big_sidt, big_sidt, 10, 1, 1, 0 },
		{ "invpcid", big_invpcid, big_invpcid_at, 16, 1, 0, 0 },
		{ "maskmov", big_maskmov, big_maskmov_at, 32, 1, 1, 1 },
		{ "maskmovdqu", big_maskmovdqu, big_maskmovdqu_at, 16, 1, 1, 0 },
	};
	unsigned avx = xsave_enable() && has_avx2() ? 1 + has_avx512() : 0;

	part("big operands");
	for (unsigned n = 0; n < 2500; n++) {
		unsigned i = n % (sizeof(t) / sizeof(t[0]));
		u64 a = slot_va(1 + rnd() % 511, rnd() & (SLOT - 1));
		struct regs r;
		bool end = n & 1;

		if (t[i].avx > avx ||
		    (t[i].code == big_invpcid && !has_invpcid()))
			continue;
		if (n % 3 == 0)
			a = 0x7f0000000000 | (rnd() & 0xfffffffff);
		if (n % 7 == 0)
			a = rnd() | 1ull << 50;
		else if (end) /* over the end of a slot */
			a = slot_va(1 + rnd() % 510, SLOT - rnd() % t[i].size);
		a &= -(u64)t[i].align;
		if (mapped(a) || mapped(a + t[i].size) ||
		    canonical(a) != canonical(a + t[i].size))
			continue;
		regs_kernel(&r, t[i].code);
		r.r12 = rnd();
		r.r10 = t[i].code == big_zmmd ? a - 8128
			: t[i].code == big_gather || t[i].code == big_scatter
				? a - r.r12 * 8
				: a;
		r.r11 = a, r.rdi = a;
		run(&r);
		if (r.vec == 14 && t[i].code == big_fnsave)
			r.rip = (u64)t[i].at;
		verdict(t[i].name, &r, a, t[i].size, t[i].write, false, false,
			(u64)t[i].at);
	}
	asm volatile("fninit");
}

/* ---- jumps and returns into what might be the monitor ---- */
SNIP(go_jmp, "jmp *%r11");
SNIP(go_ret, "push %rax\n ret");
SNIP(go_call, "call *%r10");
SNIP(go_jm, "jmp *(%rdi)");
USNIP(go_user, "jmp *%r11");

static void jumps(void)
{
	static u64 cell;

	part("jumps");
	for (unsigned i = 0; i < 3000; i++) {
		u64 to = slot_va(1 + rnd() % 511, rnd() & (SLOT - 1));
		struct regs r;
		bool user = i % 5 == 4;

		if (i & 1)
			to = (i & 2 ? 0x7f0000000000 : 0x550000000000) |
			     (rnd() & 0xffffffffff);
		if (mapped(to))
			continue;
		cell = to;
		if (user)
			regs_user(&r, go_user);
		else
			regs_kernel(&r, (const char *[]){ go_jmp, go_ret,
				    go_call, go_jm }[i % 5 & 3]);
		r.r10 = r.r11 = r.rax = to;
		r.rdi = (u64)&cell;
		run(&r);
		tries++;
		expect_pf(&r, PF_I | (user ? PF_U : 0), to, to);
	}
	if (is_tcg())
		return;
	for (unsigned i = 0; i < 500; i++) {
		u64 to = rnd();
		struct regs r;

		if (canonical(to))
			continue;
		regs_kernel(&r, go_jmp);
		r.r11 = to;
		run(&r);
		tries++;
		expect_fault(&r, 13, 0, go_jmp);
	}
}

/* ---- RIP-relative and absolute operands ---- */
static void rip_relative(void)
{
	u8 *f = page_alloc();
	static const unsigned slots[] = { 1, 77, 255, 256, 400, 510 };

	part("rip-relative");
	for (unsigned i = 0; i < 300; i++) {
		/* code at the very start or end of a slot, reaching out */
		u64 va = slot_va(slots[i % 6], i & 1 ? SLOT - PG : 0), to;
		int disp = (int)(rnd() >> 16);
		struct mem m = { .base = -2, .index = -1, .scale = 1 };
		struct regs r;
		u8 *p = f + 64 * (i & 31);
		u64 at = va + (u64)(p - f), next;

		map_page(va, f, KRW);
		if (i % 3 == 0)
			disp = i & 1 ? 0x7fffffff : (int)0x80000000;
		m.disp = disp;
		e_insn(&p, 0, true, 0, i & 2 ? 0x89 : 0x8b, 0, &m, true);
		next = va + (u64)(p - f);
		e_done(&p);
		to = next + disp;
		if (to - va < PG || to + 7 - va < PG || mapped(to) ||
		    mapped(to + 7)) {
			unmap_page(va);
			continue;
		}
		regs_kernel(&r, (void *)at);
		run(&r);
		verdict("rip", &r, to, 8, i & 2, false, false, at);
		unmap_page(va);
	}
	/* absolute: 64-bit offsets and sign-extended 32-bit ones */
	for (unsigned i = 0; i < 400; i++) {
		u8 *p = code + 4 * PG, *start = p;
		u64 a = slot_va(1 + rnd() % 511, rnd() & (SLOT - 1));
		struct regs r;

		if (i % 4 == 0)
			a = rnd() | 1ull << 55;
		if (canonical(a) != canonical(a + 7) || mapped(a))
			continue;
		e8(&p, 0x48);
		e8(&p, i & 1 ? 0xa3 : 0xa1);
		e64(&p, a);
		e_done(&p);
		regs_kernel(&r, start);
		run(&r);
		verdict("moffs", &r, a, 8, i & 1, false, false, (u64)start);
	}
	page_free(f);
}

/* ---- page tables that point anywhere in physical memory ---- */
static void physical(void)
{
	u64 va = slot_va(9, 0);
	struct regs r;

	part("physical");
	for (unsigned i = 0; i < 200; i++) {
		/* beyond RAM: no fault, no effect, nobody's memory */
		u64 pa = (rnd() & 0x7ffffff000) | 1ull << 36;

		if (i % 4 == 3)
			map2m(root_now(), va + (8ull << 20), pa & ~0x1fffffull,
			      KRW);
		else
			map_page(va, (void *)pa, KRW);
		invlpg(va);
		regs_kernel(&r, built[0][i & 1][BASE]);
		r.r11 = va + 0x10;
		if (i % 4 == 3)
			r.r11 = va + (8ull << 20) + 0x5000;
		invlpg(r.r11);
		run(&r);
		tries++;
		CHECK(r.vec == VEC_DONE || r.vec == 14, "vec %lu", r.vec);
	}
	/* a page-table page in no memory: absent or reserved, never the host */
	pte_t *pml4e = pte_at(root_now(), va, 4, false);
	u64 keep = *pml4e;

	for (unsigned i = 0; i < 100; i++) {
		*pml4e = ((rnd() & 0x7ffffff000) | 1ull << 36) | URW;
		write_cr3(read_cr3());
		regs_kernel(&r, built[0][i & 1][BASE]);
		r.r11 = va + 0x10;
		run(&r);
		tries++;
		CHECK(r.vec == 14 || r.vec == VEC_DONE, "vec %lu", r.vec);
	}
	*pml4e = keep;
	write_cr3(read_cr3());
}

/* CPL 3 against the kernel's pages, by all forms: never reads, never writes. */
static void user_to_kernel(void)
{
	part("user to kernel");
	for (unsigned i = 0; i < 1500; i++) {
		static const enum kind kinds[] = { BASE, SP, R10IDX };
		unsigned f = rnd() % NFORM;
		enum kind k = kinds[rnd() % 3];
		u64 a = 0x800000 + (rnd() & 0x7fffff);
		u8 *c = built[1][f][k];
		struct regs r;

		regs_user(&r, c);
		r.r9 = 0;
		r.r11 = a;
		if (k == SP)
			r.rsp = a - 8;
		r.r12 = rnd();
		r.r10 = a - r.r12 * 8;
		run(&r);
		tries++;
		if (r.vec != 14 || !(r.err & PF_U) || r.rip != (u64)c)
			fail_at(forms[f].name, k, "user at %lx: vec %lu err %lx",
				a, r.vec, r.err);
	}
}

int main(void)
{
	u64 sum = 0, again = 0;
	u64 *mine;

	code = pages_alloc(5, PG);
	mine = pages_alloc(64, PG);
	for (unsigned i = 0; i < 64 * 512; i++)
		sum += mine[i] = rnd();
	build();
	sweep();
	rsp_walks();
	segment_bases();
	strings();
	big();
	jumps();
	rip_relative();
	physical();
	user_to_kernel();
	/* and our own memory is as it was */
	for (unsigned i = 0; i < 64 * 512; i++)
		again += mine[i];
	CHECK_EQ(sum, again);
	printf("%lu tries\n", tries);
	CHECK(tries > 20000);
	return 0;
}
