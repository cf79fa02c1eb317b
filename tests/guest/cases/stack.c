/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stack and RSP as a register: push, pop, call, ret in all forms, on stacks
 * in different 512 GiB slots; arithmetic on RSP and its flags; RSP that drifts
 * far without touching memory.
 */
#include "tests/guest/rt/enc.h"

static const unsigned slots[] = { 1, 5, 255, 256, 300, 511 };
#define NS (sizeof(slots) / sizeof(slots[0]))
#define STK_OFF 0x40000000ull
static u8 *stk[NS]; /* identity address of the 2 stack pages in each slot */
static u8 *code;

static u64 top_of(unsigned i) /* the middle of the two pages */
{
	return slot_va(slots[i], STK_OFF) + PG;
}

static u64 stack_at(unsigned i, s64 d)
{
	u64 v;

	memcpy(&v, stk[i] + PG + d, 8);
	return v;
}

static void setup(void)
{
	for (unsigned i = 0; i < NS; i++) {
		stk[i] = pages_alloc(2, PG);
		map_page(top_of(i) - PG, stk[i], KRW);
		map_page(top_of(i), stk[i] + PG, KRW);
		memset(stk[i], 0xee, 2 * PG);
	}
	code = pages_alloc(8, PG);
}

/* ---- push and pop of every register, 64 and 16 bit ---- */
static void push_pop_regs(void)
{
	part("push pop regs");
	for (unsigned i = 0; i < 16 * 16; i++) {
		unsigned from = i & 15, to = i >> 4, s = i % NS;
		u8 *p = code + (i & 127) * 64, *start = p;
		struct regs r, a;

		if (from >= 8)
			e8(&p, 0x41);
		e8(&p, 0x50 + (from & 7));
		if (to >= 8)
			e8(&p, 0x41);
		e8(&p, 0x58 + (to & 7));
		e_done(&p);
		regs_kernel(&r, start);
		r.rsp = top_of(s);
		a = r;
		run_ok(&r);
		CHECK_EQ(stack_at(s, -8), *reg_n(&a, from));
		CHECK_EQ(*reg_n(&r, to), *reg_n(&a, from));
		same_regs(&a, &r, 1 << to);
		/* 16 bits */
		p = start;
		e8(&p, 0x66);
		if (from >= 8)
			e8(&p, 0x41);
		e8(&p, 0x50 + (from & 7));
		e8(&p, 0x66);
		if (to >= 8)
			e8(&p, 0x41);
		e8(&p, 0x58 + (to & 7));
		e_done(&p);
		if (to == 4)
			continue; /* pop %sp: tested below */
		regs_kernel(&r, start);
		r.rsp = top_of(s);
		a = r;
		run_ok(&r);
		CHECK_EQ((u16)stack_at(s, -2), (u16)*reg_n(&a, from));
		CHECK_EQ(*reg_n(&r, to), (*reg_n(&a, to) & ~0xffffull) |
						 (u16)*reg_n(&a, from));
		same_regs(&a, &r, 1 << to);
	}
}

SNIP(imm, "push $-2\n push $0x12345678\n push $-0x70000000\n pushw $0x1234\n"
	  "pushw $-1\n popw %ax\n popw %bx\n pop %rcx\n pop %rdx\n pop %rsi");
SNIP(pmem, "pushq 8(%rsp)\n pushq (%rsp)\n pushq -8(%rsp)\n popq 16(%rsp)\n"
	   "popq (%rsp)\n pushq (%r10)\n popq 8(%r11)\n pushw 2(%r12)\n"
	   "popw 4(%r13)\n pushq (%rsp,%rbp,8)\n popq -16(%rsp,%rbp,8)");
SNIP(pop_rsp, "push %rbx\n pop %rsp\n push %rcx\n popw %sp");
SNIP(pfs, "push %fs\n push %gs\n pop %rax\n pop %rbx\n pushw $0\n popw %fs\n"
	  "push $0\n pop %gs");

static void push_pop_mem(void)
{
	static u64 m[8];

	part("push pop imm mem");
	for (unsigned s = 0; s < NS; s++) {
		struct regs r, a;
		u64 t = top_of(s);

		regs_kernel(&r, imm);
		r.rsp = t;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rsi, -2ull);
		CHECK_EQ(r.rdx, 0x12345678);
		CHECK_EQ(r.rcx, -0x70000000ll);
		CHECK_EQ((u16)r.rax, 0xffff);
		CHECK_EQ((u16)r.rbx, 0x1234);
		same_regs(&a, &r, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6);

		for (unsigned i = 0; i < 8; i++)
			((u64 *)(stk[s] + PG))[(int)i - 4] = 0x1000 + i;
		for (unsigned i = 0; i < 8; i++)
			m[i] = 0x2000 + i * 0x100000001ull;
		regs_kernel(&r, pmem);
		r.rsp = t;
		r.rbp = 1;
		r.r10 = (u64)&m[0], r.r11 = (u64)&m[1], r.r12 = (u64)&m[3];
		r.r13 = (u64)&m[4];
		a = r;
		run_ok(&r);
		/*
		 * words at t-32..t+24 are 1000..1007. push [t+8]=1005 at t-8;
		 * push [t-8]=1005 at t-16; push [t-24]=1001 at t-24;
		 * pop -> [t-16+16=t]=1001; pop -> [t-8]=1005; rsp=t-8.
		 * push m0, pop m2; 16 bits; push [t-8+8=t]=1001 at t-16;
		 * pop -> [t-8-16+8=t-16]=1001.
		 */
		CHECK_EQ(r.rsp, t - 8);
		CHECK_EQ(stack_at(s, 0), 0x1001);
		CHECK_EQ(stack_at(s, -8), 0x1005);
		CHECK_EQ(stack_at(s, -16), 0x1001);
		CHECK_EQ(stack_at(s, 8), 0x1005);
		CHECK_EQ(m[2], 0x2000);
		CHECK_EQ((u16)(m[4] >> 32), (u16)((0x2000 + 0x300000003ull) >> 16));
		same_regs(&a, &r, 1 << 4);

		regs_kernel(&r, pop_rsp);
		r.rsp = t;
		r.rbx = top_of((s + 1) % NS);
		r.rcx = 0xfffffffffffffff8;
		run_ok(&r);
		CHECK_EQ(r.rsp, (top_of((s + 1) % NS) & ~0xffffull) | 0xfff8);
		CHECK_EQ(stack_at((s + 1) % NS, -8), r.rcx);
		CHECK_EQ(stack_at(s, -8), r.rbx);

		asm volatile("mov %0, %%fs\n mov %0, %%gs" ::"r"(UDS));
		regs_kernel(&r, pfs);
		r.rsp = t;
		a = r;
		run_ok(&r);
		CHECK_EQ((u16)r.rax, UDS);
		CHECK_EQ((u16)r.rbx, UDS);
		CHECK_EQ(r.rsp, t);
		u16 fs, gs;
		asm volatile("mov %%fs, %0\n mov %%gs, %1" : "=r"(fs), "=r"(gs));
		CHECK_EQ(fs, 0);
		CHECK_EQ(gs, 0);
	}
}

/* ---- flags on the stack ---- */
SNIP(pf64, "pushfq\n pop %rax\n push %rbx\n popfq\n pushfq\n pop %rcx\n"
	   "pushfw\n popw %dx\n push $0\n pushw %si\n popfw\n pushfq\n"
	   "pop %rdi");
static void flags(void)
{
	struct regs r, a;

	part("pushf popf");
	for (unsigned s = 0; s < NS; s++) {
		regs_kernel(&r, pf64);
		r.rsp = top_of(s);
		r.rflags = 2 | FL_CF | FL_SF | FL_DF;
		r.rbx = FL_ARITH | FL_DF | FL_NT | FL_IOPL | FL_ID | FL_AC |
			FL_RF;
		r.rsi = FL_PF | FL_NT;
		r.rdx = 0;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, 2 | FL_CF | FL_SF | FL_DF);
		CHECK_EQ(r.rcx, 2 | (a.rbx & ~FL_RF));
		CHECK_EQ(r.rdx, (u16)(2 | a.rbx));
		CHECK_EQ(r.rdi, FL_PF | FL_NT | 2 | FL_ID | FL_AC);
		same_regs(&a, &r, 0x87 | 1 << 4);
		CHECK_EQ(r.rsp, a.rsp - 8);
	}
}

/* ---- enter, leave ---- */
SNIP(ent0, "enter $32, $0\n movq $77, -8(%rbp)\n mov -8(%rbp), %rax\n leave");
SNIP(ent1, "enter $64, $1\n mov %rsp, %rcx\n mov %rbp, %rdx\n leave");
SNIP(ent4, "enter $8, $4\n mov %rsp, %rcx\n mov %rbp, %rdx\n leave");
SNIP(lv16, "mov %rbx, %rbp\n leave");
static void frames(void)
{
	struct regs r, a;

	part("enter leave");
	for (unsigned s = 0; s < NS; s++) {
		u64 t = top_of(s), frame;

		regs_kernel(&r, ent0);
		r.rsp = t;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, 77);
		CHECK_EQ(stack_at(s, -8), a.rbp);
		CHECK_EQ(stack_at(s, -16), 77);
		same_regs(&a, &r, 1);
		regs_kernel(&r, ent1);
		r.rsp = t;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rdx, t - 8);
		CHECK_EQ(r.rcx, t - 8 - 8 - 64);
		CHECK_EQ(stack_at(s, -16), t - 8);
		same_regs(&a, &r, 6);
		/* level 4 copies three frame pointers from below rbp */
		frame = t + 0x400;
		for (int i = 1; i <= 3; i++)
			((u64 *)(stk[s] + PG + 0x400))[-i] = 0x7000 + i;
		regs_kernel(&r, ent4);
		r.rsp = t;
		r.rbp = frame;
		a = r;
		run_ok(&r);
		CHECK_EQ(stack_at(s, -8), frame);
		CHECK_EQ(stack_at(s, -16), 0x7001);
		CHECK_EQ(stack_at(s, -24), 0x7002);
		CHECK_EQ(stack_at(s, -32), 0x7003);
		CHECK_EQ(stack_at(s, -40), t - 8);
		CHECK_EQ(r.rdx, t - 8);
		CHECK_EQ(r.rcx, t - 40 - 8);
		same_regs(&a, &r, 6);
		/* leave to a stack in another slot */
		regs_kernel(&r, lv16);
		r.rsp = top_of((s + 2) % NS);
		r.rbx = t;
		((u64 *)(stk[s] + PG))[0] = 0xabc;
		run_ok(&r);
		CHECK_EQ(r.rsp, t + 8);
		CHECK_EQ(r.rbp, 0xabc);
	}
}

/* ---- call and ret ---- */
SNIP(calls, "call 1f\n call *%rbx\n call *(%r10)\n call *8(%rsp)\n"
	    "call *cl_ptr(%rip)\n push %rbx\n call *(%rsp)\n add $8, %rsp\n"
	    "push %rdx\n push %rdx\n call cl_ret16\n jmp 9f\n"
	    "1: inc %rax\n ret\n"
	    ".globl cl_ret16\ncl_ret16: inc %rax\n ret $16\n"
	    "cl_ptr: .quad cl_target\n"
	    ".globl cl_target\ncl_target: inc %rax\n rep; ret\n"
	    "9: nop");
extern char cl_target[];
/* a tail through the return stack: push addresses, return through them */
SNIP(retchain, "lea 1f(%rip), %rax\n lea 2f(%rip), %rbx\n lea 3f(%rip), %rcx\n"
	       "push %rax\n push %rbx\n push %rcx\n xor %edx, %edx\n ret\n"
	       "1: shl $4, %rdx\n or $1, %rdx\n jmp 9f\n"
	       "2: shl $4, %rdx\n or $2, %rdx\n ret\n"
	       "3: shl $4, %rdx\n or $3, %rdx\n ret\n 9:");
SNIP(changed, "call 1f\n mov $1, %eax\n jmp 9f\n"
	      "1: lea 2f(%rip), %rcx\n xchg %rcx, (%rsp)\n ret\n"
	      "2: mov $2, %eax\n 9:");
/* call of a place that the return address is read from (PIC idiom) */
SNIP(pic, "call 1f\n1: pop %rax\n lea 1b(%rip), %rbx");
SNIP(jmem, "lea 1f(%rip), %rax\n mov %rax, -64(%rsp)\n jmp *-64(%rsp)\n ud2\n"
	   "1: lea 2f(%rip), %r11\n jmp *%r11\n ud2\n"
	   "2: lea 3f(%rip), %r10\n push %r10\n jmp *(%rsp)\n ud2\n"
	   "3: pop %r12");
static void calls_rets(void)
{
	struct regs r, a;
	static u64 ptr;

	part("call ret");
	ptr = (u64)cl_target;
	for (unsigned s = 0; s < NS; s++) {
		u64 t = top_of(s);

		regs_kernel(&r, calls);
		r.rsp = t;
		r.rax = 0;
		r.rbx = (u64)cl_target;
		r.r10 = (u64)&ptr;
		((u64 *)(stk[s] + PG))[1] = (u64)cl_target;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, 7);
		same_regs(&a, &r, 1);
		regs_kernel(&r, retchain);
		r.rsp = t;
		run_ok(&r);
		CHECK_EQ(r.rdx, 0x321);
		CHECK_EQ(r.rsp, t);
		regs_kernel(&r, changed);
		r.rsp = t;
		run_ok(&r);
		CHECK_EQ(r.rax, 2);
		regs_kernel(&r, pic);
		r.rsp = t;
		run_ok(&r);
		CHECK_EQ(r.rax, r.rbx);
		CHECK_EQ(stack_at(s, -8), r.rbx);
		regs_kernel(&r, jmem);
		r.rsp = t;
		run_ok(&r);
		CHECK_EQ(r.r12, r.r10);
		CHECK_EQ(r.rsp, t);
	}
}

/* ---- RSP moved between slots ---- */
SNIP(hop, "mov %rsp, %rbp\n push %rax\n mov %rbx, %rsp\n push %rax\n"
	  "mov %rcx, %rsp\n push %rax\n xchg %rdx, %rsp\n push %rax\n"
	  "lea (%rsi), %rsp\n push %rax\n call 1f\n mov (%rdi), %rsp\n"
	  "pop %r15\n mov %rbp, %rsp\n jmp 2f\n 1: pop %r14\n push %r14\n ret\n"
	  "2: xchg %rsp, %rdx\n xchg %rdx, %rsp\n cmovne %rbx, %rsp");
static void hops(void)
{
	static u64 cell;

	part("hop");
	for (unsigned s = 0; s < NS; s++)
		for (unsigned k = 1; k < NS; k++) {
			struct regs r, a;
			u64 t[NS];

			for (unsigned i = 0; i < NS; i++) {
				t[i] = top_of((s + i * k) % NS);
				memset(stk[i], 0xee, 2 * PG);
			}
			cell = t[5];
			((u64 *)(stk[(s + 5 * k) % NS] + PG))[0] = 0x515151;
			regs_kernel(&r, hop);
			r.rsp = t[0], r.rbx = t[1], r.rcx = t[2], r.rdx = t[3];
			r.rsi = t[4], r.rdi = (u64)&cell;
			r.rflags = 2;
			a = r;
			run_ok(&r);
			CHECK_EQ(r.r15, 0x515151);
			CHECK_EQ(r.rsp, t[1]); /* cmovne with ZF clear */
			CHECK_EQ(r.rbp, t[0]);
			CHECK_EQ(r.rdx, t[2] - 8);
			for (unsigned i = 0; i < 5; i++)
				if (i == 0 || (s + i * k) % NS != s)
					CHECK_EQ(stack_at((s + i * k) % NS, -8),
						 a.rax);
		}
}

/* ---- RSP as an operand: result and flags against the same on rbx ---- */
/* Each text is assembled once with rsp and once with rbp as Q, D, W, B. */
#define T_ALL(M)                                                              \
	M(0, "add $8, " Q) M(1, "sub $8, " Q) M(2, "and $-16, " Q)            \
	M(3, "or $7, " Q) M(4, "xor %rcx, " Q) M(5, "inc " Q) M(6, "dec " Q)  \
	M(7, "neg " Q) M(8, "not " Q) M(9, "add %ecx, " D)                    \
	M(10, "sub $0x1000, " D) M(11, "add %cx, " W) M(12, "mov $9, " B)     \
	M(13, "mov %ecx, " D) M(14, "mov %cx, " W) M(15, "shl $3, " Q)        \
	M(16, "sar $7, " Q) M(17, "bswap " Q) M(18, "imul $3, " Q ", " Q)     \
	M(19, "lea 0x12345(" Q "), " Q) M(20, "lea 8(" Q ",%rcx,2), " Q)      \
	M(21, "lea -4(" Q "), " D) M(22, "cmp %rcx, " Q)                      \
	M(23, "test " Q ", " Q) M(24, "adc $0, " Q) M(25, "sbb %rcx, " Q)     \
	M(26, "cmp " Q ", %rcx") M(27, "add " Q ", %rcx")                     \
	M(28, "xchg " Q ", %rcx") M(29, "xadd " Q ", %rcx")                   \
	M(30, "xadd %rcx, " Q) M(31, "cmpxchg %rcx, " Q)                      \
	M(32, "movabs $0x123456789abcdef0, " Q) M(33, "mov $-1, " Q)          \
	M(34, "mov $-1, " D) M(35, "cmovc %rcx, " Q)                          \
	M(36, "cmovnc %ecx, " D) M(37, "movzbl %cl, " D)                      \
	M(38, "movslq %ecx, " Q) M(39, "bts $50, " Q) M(40, "bsf %rcx, " Q)   \
	M(41, "shld $1, %rcx, " Q) M(42, "rcl $1, " Q) M(43, "and $-16, " D)  \
	M(44, "add $0x7fffffff, " Q) M(45, "sub $-0x80000000, " Q)            \
	M(46, "sub " Q ", " Q) M(47, "xor " D ", " D) M(48, "sete " B)        \
	M(49, "movzwl " W ", " D) M(50, "mov " Q ", %rcx")                    \
	M(51, "mov " B ", %cl") M(52, "imul " Q ", %rcx")                     \
	M(53, "popcnt " Q ", " Q)                                             \
	M(54, "add $8, " Q "\n js 1f\n jz 1f\n jc 1f\n lahf\n 1:")            \
	M(55, "sub $0x20, " Q "\n setz %al\n setc %dl\n sets %sil\n"          \
	      "seto %dil")                                                    \
	M(56, "add $16, " Q "\n lahf\n sub $16, " Q "\n seto %dl")            \
	M(57, "sub $8, " Q "\n mov $5, %eax\n jbe 1f\n mov $6, %eax\n 1:")    \
	M(58, "cmp $0, " Q "\n jge 1f\n mov $3, %eax\n 1:")                   \
	M(59, "mul " Q) M(60, "add $-8, " Q "\n adc $0, %rax")                \
	M(61, "and $0xff, " Q "\n lahf\n sete %bh") M(62, "ror $9, " Q)       \
	M(63, "sub $8, " Q "\n add $8, " Q "\n setc %al\n sub $8, " Q)
#define Q "%rsp"
#define D "%esp"
#define W "%sp"
#define B "%spl"
#define M(n, t) SNIP(rs_##n, t);
T_ALL(M)
#undef Q
#undef D
#undef W
#undef B
#undef M
#define Q "%rbp"
#define D "%ebp"
#define W "%bp"
#define B "%bpl"
#define M(n, t) SNIP(rb_##n, t);
T_ALL(M)
#undef M
#define M(n, t) { rs_##n, rb_##n, t },
static const struct {
	const char *with_rsp, *with_rbp, *text;
} rsp_ops[] = { T_ALL(M) };

static void rsp_alu(void)
{
	static const u64 vals[] = {
		0, 8, 0x20, 0x1000, 0x7ffffffffff8, 0x800000000000,
		0xffff800000000000, 0xfffffffffffffff8, 0x8000000000000000,
		0x7fffffff, 0x80000000, 0xfffffff0, 0x28040000ff8,
	};

	part("rsp alu");
	for (unsigned i = 0; i < sizeof(rsp_ops) / sizeof(rsp_ops[0]); i++)
		for (unsigned j = 0; j < sizeof(vals) / 8 * 2; j++) {
			struct regs r, a, b;

			regs_kernel(&r, rsp_ops[i].with_rsp);
			r.rsp = vals[j >> 1];
			r.rcx = j & 2 ? 0x10 : vals[(j * 7) % (sizeof(vals) / 8)];
			r.rflags = 2 | (j & 1 ? FL_ARITH : 0);
			if (j & 1)
				r.rax = r.rsp;
			a = b = r;
			run_ok(&r);
			b.rip = (u64)rsp_ops[i].with_rbp;
			b.rbp = a.rsp;
			b.rsp = KSTACK_TOP;
			run_ok(&b);
			/* the same, with the roles of the two exchanged */
			b.rsp = b.rbp;
			b.rbp = a.rbp;
			if (!same_regs(&b, &r, 0) ||
			    (b.rflags ^ r.rflags) & FL_ARITH)
				fail_at("rsp op", i, "%s: rsp %lx rcx %lx "
					"flags %lx, want %lx",
					rsp_ops[i].text, a.rsp, a.rcx, r.rflags,
					b.rflags);
		}
}

/* ---- drift: RSP walks far without a touch ---- */
SNIP(drift_sub, "1: sub $4096, %rsp\n dec %rcx\n jnz 1b\n mov %rsp, %rdx\n"
		".globl drift_sub_at\ndrift_sub_at: push %rax");
SNIP(drift_add, "1: add %rbx, %rsp\n dec %rcx\n jnz 1b\n mov %rsp, %rdx\n"
		".globl drift_add_at\ndrift_add_at: mov %rax, -8(%rsp)");
SNIP(drift_lea, "1: lea -0x70000000(%rsp), %rsp\n dec %rcx\n jnz 1b\n"
		".globl drift_lea_at\ndrift_lea_at: call 2f\n2: nop");
SNIP(drift_line, "sub $0x7ffffff0, %rsp\n sub $0x7ffffff0, %rsp\n"
		 "sub $0x7ffffff0, %rsp\n sub $0x7ffffff0, %rsp\n"
		 ".globl drift_line_at\ndrift_line_at: mov (%rsp), %rax");
SNIP(drift_disp, ".globl drift_disp_at\ndrift_disp_at:"
		 " mov -0x7fffffff(%rsp), %rax");
SNIP(drift_disp2, "sub $0x7fffffff, %rsp\n.globl drift_disp2_at\n"
		  "drift_disp2_at: incq -0x7fffffff(%rsp)");
SNIP(drift_call, "1: call 2f\n2: sub %rbx, %rsp\n dec %rcx\n jnz 1b");
extern char drift_sub_at[], drift_add_at[], drift_lea_at[], drift_line_at[],
	drift_disp_at[], drift_disp2_at[];

static void drift(void)
{
	struct regs r, a;

	part("drift");
	/* 512 MiB in steps of a page, over ground that is not mapped */
	for (unsigned s = 0; s < NS; s++) {
		u64 n = s == 1 ? 1 << 17 : 1 << 14;

		regs_kernel(&r, drift_sub);
		r.rsp = top_of(s);
		r.rcx = n;
		a = r;
		run(&r);
		expect_pf(&r, PF_W, drift_sub_at, a.rsp - n * PG - 8);
		CHECK_EQ(r.rsp, a.rsp - n * PG);
		same_regs(&a, &r, 6 | 1 << 4);
	}
	/* from one slot exactly onto the stack of another, both directions */
	for (unsigned i = 0; i < NS; i++)
		for (unsigned j = 0; j < NS; j++) {
			u64 step, n = 1024, dist = top_of(j) - top_of(i);

			step = dist / n;
			regs_kernel(&r, drift_add);
			r.rsp = top_of(i);
			r.rbx = step;
			r.rcx = n;
			r.rsp += dist - step * n;
			if ((s64)dist < 0) {
				step = -(-dist / n);
				r.rbx = step;
				r.rsp = top_of(i) + (dist - step * n);
			}
			r.rax = 0x9900 + i * 16 + j;
			a = r;
			run_ok(&r);
			CHECK_EQ(r.rsp, top_of(j));
			CHECK_EQ(stack_at(j, -8), a.rax);
		}
	/* through the whole non-canonical middle and off both ends */
	regs_kernel(&r, drift_lea);
	r.rsp = top_of(3);
	r.rcx = 2000;
	a = r;
	run(&r);
	tcg_ss(&r);
	expect_fault(&r, 12, 0, drift_lea_at);
	CHECK_EQ(r.rsp, a.rsp - 2000 * 0x70000000ull);
	regs_kernel(&r, drift_lea);
	r.rsp = slot_va(2, 0x100);
	r.rcx = 400; /* 700 GiB: slot 0, nothing there */
	a = r;
	run(&r);
	expect_pf(&r, PF_W, drift_lea_at, a.rsp - 400 * 0x70000000ull - 8);
	regs_kernel(&r, drift_line);
	r.rsp = slot_va(256, 0x1000); /* into the hole */
	a = r;
	run(&r);
	tcg_ss(&r);
	expect_fault(&r, 12, 0, drift_line_at);
	CHECK_EQ(r.rsp, a.rsp - 4 * 0x7ffffff0ull);
	for (unsigned s = 1; s < 512; s += 15) {
		regs_kernel(&r, drift_line);
		r.rsp = slot_va(s, 0x1000);
		a = r;
		if (s == 256)
			continue;
		run(&r);
		expect_pf(&r, 0, drift_line_at, a.rsp - 4 * 0x7ffffff0ull);
		regs_kernel(&r, drift_disp);
		r.rsp = slot_va(s, 0x1000);
		run(&r);
		expect_pf(&r, 0, drift_disp_at, r.rsp - 0x7fffffff);
		regs_kernel(&r, drift_disp2);
		r.rsp = slot_va(s, 0x1000);
		run(&r);
		tcg_rmw(&r);
		expect_pf(&r, PF_W, drift_disp2_at, r.rsp - 0x7fffffff);
	}
	/* touch a little, walk a little: the stack pages in turn */
	for (unsigned s = 0; s < NS; s++) {
		regs_kernel(&r, drift_call);
		r.rsp = top_of(s) + 0xff0;
		r.rbx = 8;
		r.rcx = 0x1f0;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rsp, a.rsp - 16 * 0x1f0);
	}
}

/* RSP-based loads and stores with an index and large displacements. */
SNIP(rspidx, "mov %rax, (%rsp,%rbx)\n mov 0x70000000(%rsp,%rcx,8), %rdx\n"
	     "add %rax, -0x12345678(%rsp,%rsi)\n lea (%rsp,%rdi,4), %r8");
static void indexed(void)
{
	part("rsp index");
	for (unsigned i = 0; i < NS; i++)
		for (unsigned j = 0; j < NS; j++) {
			struct regs r, a;

			regs_kernel(&r, rspidx);
			r.rsp = top_of(i);
			r.rbx = top_of(j) + 0x100 - r.rsp;
			r.rcx = (s64)(top_of(j) + 0x100 - r.rsp - 0x70000000) / 8;
			r.rsi = top_of(j) + 0x100 - r.rsp + 0x12345678;
			a = r;
			run_ok(&r);
			CHECK_EQ(r.rdx, a.rax);
			CHECK_EQ(stack_at(j, 0x100), a.rax * 2);
			CHECK_EQ(r.r8, a.rsp + a.rdi * 4);
			same_regs(&a, &r, 1 << 2 | 1 << 8);
		}
}

/* Deep recursion over many pages, with a check of every return. */
SNIP(recurse, "mov $10000, %ecx\n call 1f\n jmp 9f\n"
	      "1: push %rcx\n dec %rcx\n jz 2f\n call 1b\n 2: pop %rdx\n"
	      "add %rdx, %rax\n ret\n 9:");
static void deep(void)
{
	u64 base = slot_va(77, 0x1000000);
	struct regs r;

	part("deep");
	for (unsigned i = 0; i < 45; i++)
		map_page(base + i * PG, NULL, KRW);
	regs_kernel(&r, recurse);
	r.rsp = base + 45 * PG;
	r.rax = 0;
	run_ok(&r);
	CHECK_EQ(r.rax, 10000ull * 10001 / 2);
	CHECK_EQ(r.rsp, base + 45 * PG);
	/* 16 bytes a level: 5000 levels are too deep for 19 pages */
	for (unsigned i = 0; i < 26; i++)
		unmap_page(base + i * PG);
	regs_kernel(&r, recurse);
	r.rsp = base + 45 * PG;
	run(&r);
	CHECK_EQ(r.vec, 14);
	CHECK_EQ(r.cr2, base + 26 * PG - 8);
	CHECK_EQ(r.rsp, base + 26 * PG);
}

int main(void)
{
	setup();
	push_pop_regs();
	push_pop_mem();
	flags();
	frames();
	calls_rets();
	hops();
	rsp_alu();
	drift();
	indexed();
	deep();
	return 0;
}
