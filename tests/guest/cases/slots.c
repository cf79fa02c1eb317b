/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a translator may know of registers, at the edges of 512 GiB slots:
 * bases that small steps, copies and 32-bit indexes take into the next slot, or
 * out of the canonical space, in the middle of a block; lists whose nodes are in
 * several slots; blocks left by branches in their middle, and rewritten there.
 */
#include "tests/guest/rt/enc.h"

#define EDGE 0x0000030000000000ull /* between slots 5 and 6 */
#define TOP  0x0000800000000000ull /* the end of the lower half */
#define HIGH 0xffff9ab000200000ull
#define GIB  (1ull << 30)

static u8 *below, *above, *far_up, *far_down, *top, *high;

static void put(u8 *page, u64 first)
{
	for (unsigned i = 0; i < PG / 8; i++)
		((u64 *)page)[i] = first + i;
}

static u8 *place(u64 va, u64 first)
{
	u8 *p = pages_alloc(1, PG);

	put(p, first);
	map_page(va, p, KRW);
	return p;
}

static void setup(void)
{
	below = place(EDGE - PG, 0x1000);
	above = place(EDGE, 0x2000);
	far_up = place(EDGE + 32 * GIB - 2 * PG, 0x3000);
	far_down = place(EDGE - 16 * GIB, 0x4000);
	top = place(TOP - PG, 0x5000);
	high = place(HIGH, 0x6000);
}

SNIP(steps, "mov (%rbx),%rax\n"
	    "add $0x1000,%rbx\n"
	    "mov (%rbx),%rcx\n"
	    "lea -0x1000(%rbx),%rdx\n"
	    "mov (%rdx),%rsi\n"
	    "mov %rbx,%rdi\n"
	    "mov 8(%rdi),%rdi\n"
	    "sub $0x1000,%rbx\n"
	    "mov %rcx,8(%rbx)\n"
	    "mov 8(%rdx),%r8\n"
	    "mov %rbx,%r15\n"
	    "mov 16(%r15),%r10\n"
	    "inc %r15\n"
	    "mov 0xfff(%r15),%r11\n");

static void small_steps(void)
{
	struct regs r;

	part("steps");
	for (unsigned n = 0; n < 3; n++) {
		put(below, 0x1000);
		regs_kernel(&r, steps);
		r.rbx = EDGE - PG;
		run_ok(&r);
		CHECK_EQ(r.rax, 0x1000);
		CHECK_EQ(r.rcx, 0x2000);
		CHECK_EQ(r.rsi, 0x1000);
		CHECK_EQ(r.rdi, 0x2001);
		CHECK_EQ(r.r8, 0x2000);
		CHECK_EQ(r.r10, 0x1002);
		CHECK_EQ(r.r11, 0x2000);
		CHECK_EQ(r.rbx, EDGE - PG);
	}
}

SNIP(indexes, "mov (%rbx),%r8\n"
	      "mov %eax,%eax\n"
	      "mov (%rbx,%rax,8),%rcx\n"
	      "movslq %edx,%rdx\n"
	      "mov (%rdi,%rdx,8),%rsi\n"
	      "mov %r11d,%r11d\n"
	      "add %rsi,16(%rbx,%r11,1)\n"
	      "mov 16(%r11,%rbx),%r10\n"
	      "mov (%rdi),%r9\n"
	      "mov %ebp,%ebp\n"
	      "lea 8(%rbx),%r15\n"
	      "mov -8(%r15,%rbp,8),%r15\n");

static void small_indexes(void)
{
	struct regs r;

	part("indexes");
	for (unsigned n = 0; n < 3; n++) {
		put(above, 0x2000);
		regs_kernel(&r, indexes);
		r.rbx = EDGE - PG;
		/* As large as can be: the upper halves go. */
		r.rax = 0xdeadbeef00000000 | (u32)(4 * GIB - PG / 8);
		r.rdx = 0x1234567880000000;
		r.rdi = EDGE;
		r.r11 = 0xffffffff00001000;
		r.rbp = 0x7777777700000200;
		run_ok(&r);
		CHECK_EQ(r.r8, 0x1000);
		CHECK_EQ(r.rcx, 0x3000);
		CHECK_EQ(r.rsi, 0x4000);
		CHECK_EQ(r.r10, 0x2002 + 0x4000);
		CHECK_EQ(r.r9, 0x2000);
		CHECK_EQ(r.r15, 0x2000);
	}
}

SNIP(hole, "mov (%rbx),%r8\n"
	   "mov %eax,%eax\n"
	   "cmp %rax,%r8\n"
	   "hole_at: mov 8(%rbx,%rax,8),%rcx\n");
extern char hole_at[];

static void into_a_hole(void)
{
	struct regs r, old;

	part("holes");
	for (u64 i = 0x400; i < 4 * GIB; i *= 16) {
		regs_kernel(&r, hole);
		r.rbx = EDGE - PG;
		r.rax = i;
		old = r;
		run(&r);
		expect_pf(&r, 0, hole_at, EDGE - PG + 8 + i * 8);
		old.r8 = 0x1000;
		same_regs(&r, &old, 0);
	}
}

SNIP(off_the_end, "mov (%rbx),%rax\n"
		  "add $0x1000,%rbx\n"
		  "mov %rbx,%rdx\n"
		  "xor %ecx,%ecx\n"
		  "off_at: mov %rax,(%rdx)\n");
extern char off_at[];

static void canonical_end(void)
{
	struct regs r;

	part("the canonical end");
	for (unsigned n = 0; n < 3; n++) {
		regs_kernel(&r, off_the_end);
		r.rbx = TOP - PG;
		run(&r);
		expect_fault(&r, 13, 0, off_at);
		CHECK_EQ(r.rax, 0x5000);
		CHECK_EQ(r.rbx, TOP);
		CHECK_EQ(r.rdx, TOP);
		CHECK_EQ(r.rcx, 0);
		CHECK_EQ(r.rflags & FL_ARITH, FL_ZF | FL_PF);
	}
}

SNIP(sums, "mov (%rbx),%r8\n"
	   "lea (%rbx,%rax),%rdx\n"
	   "mov (%rdx),%rcx\n"
	   "mov (%rbx),%r9\n"
	   "lea 8(%rbx,%rdi,8),%rdx\n"
	   "mov -8(%rdx),%rsi\n"
	   "mov (%rbx),%r9\n"
	   "add %rax,%rbx\n"
	   "mov (%rbx),%r10\n"
	   "sub %rax,%rbx\n"
	   "mov (%rbx),%r11\n"
	   "xchg %rbx,%r12\n"
	   "mov (%rbx),%r15\n");

/* What adds a register may go anywhere. */
static void large_steps(void)
{
	struct regs r;

	part("sums");
	for (unsigned n = 0; n < 3; n++) {
		put(below, 0x1000);
		put(above, 0x2000);
		regs_kernel(&r, sums);
		r.rbx = EDGE - PG;
		r.rax = HIGH - r.rbx;
		r.rdi = (TOP - PG - r.rbx) / 8;
		r.r12 = HIGH + 8;
		run_ok(&r);
		CHECK_EQ(r.r8, 0x1000);
		CHECK_EQ(r.rcx, 0x6000);
		CHECK_EQ(r.rsi, 0x5000);
		CHECK_EQ(r.r10, 0x6000);
		CHECK_EQ(r.r11, 0x1000);
		CHECK_EQ(r.r15, 0x6001);
	}
}

#define LEAP(name, body)                                                      \
	SNIP(name, "mov (%rbx),%r8\n" body #name "_at: mov (%rdx),%rcx\n"); \
	extern char name##_at[]
LEAP(leap_lea, "lea (%rbx,%rax),%rdx\n");
LEAP(leap_lea8, "lea 16(%rbx,%rdi,8),%rdx\n");
LEAP(leap_add, "mov %rbx,%rdx\nadd %rax,%rdx\n");
LEAP(leap_xchg, "mov %rbx,%rdx\nxchg %rsi,%rdx\n");
LEAP(leap_or, "mov %rbx,%rdx\nor %rsi,%rdx\nand %rsi,%rdx\n");
LEAP(leap_pop, "mov %rbx,%rdx\npush %rsi\npop %rdx\n");
LEAP(leap_cmov, "mov %rbx,%rdx\ncmp %edx,%edx\ncmove %rsi,%rdx\n");

/* Slots where nothing is mapped, one after the other, reached from one where
 * something is: whatever lies behind the wrong slot's window (other windows
 * have a page at the same place) must not be seen. */
static void strangers(void)
{
	static const struct {
		char *code, *at;
	} leap[] = {
		{ leap_lea, leap_lea_at },   { leap_lea8, leap_lea8_at },
		{ leap_add, leap_add_at },   { leap_xchg, leap_xchg_at },
		{ leap_or, leap_or_at },     { leap_pop, leap_pop_at },
		{ leap_cmov, leap_cmov_at },
	};
	u64 off = 0x12345000, sum = 0;
	u8 *page = pages_alloc(1, PG);

	part("strangers");
	put(page, 0x7000);
	for (u64 s = 20; s < 30; s++) {
		map_page((s << 39) + off, page, KRW);
		sum += *(volatile u64 *)((s << 39) + off);
	}
	CHECK_EQ(sum, 10 * 0x7000);
	for (u64 s = 1; s < 256; s++)
		for (unsigned k = 0; k < sizeof(leap) / sizeof(leap[0]); k++) {
			struct regs r;
			u64 to;

			if (s >= 20 && s < 30)
				continue;
			regs_kernel(&r, leap[k].code);
			r.rbx = (25ull << 39) + off;
			to = (s << 39) + off;
			r.rsi = to;
			r.rax = to - r.rbx;
			r.rdi = (s64)(r.rax - 16) / 8;
			run(&r);
			if (!expect_pf(&r, 0, leap[k].at, to))
				return;
			CHECK_EQ(r.r8, 0x7000);
		}
}

#define WALK(name, p, n)                                                      \
	SNIP(name, "stc\n"                                                    \
		   "1: " #name "_at: mov 8(%" #p "),%" #p "\n"                 \
		   "adc $0,%" #n "\n"                                         \
		   "lea -1(%" #p "),%rsi\n"                                   \
		   "test %" #p ",%" #p "\n"                                   \
		   "stc\n"                                                    \
		   "jnz 1b\n")
WALK(walk_rax, rax, rcx);
WALK(walk_rcx, rcx, rax);
WALK(walk_r9, r9, rcx);
extern char walk_rax_at[], walk_rcx_at[], walk_r9_at[];

/* A node on each page, in an order that changes slots all the time. */
static u64 make_list(u64 end)
{
	static const u64 at[] = {
		EDGE - PG, EDGE, HIGH,		     EDGE - 16 * GIB,
		TOP - PG,  EDGE, EDGE + 32 * GIB - 2 * PG,
	};
	u8 *page[] = { below, above, high, far_down, top, above, far_up };
	enum { N = sizeof(at) / sizeof(at[0]) };

	for (unsigned i = 0; i < 3 * N; i++) {
		unsigned k = i % N, off = 16 * (i / N + (i % N == 5) * 8);
		unsigned j = (i + 1) % N, m = i + 1;
		u64 next = at[j] + 16 * (m / N + (m % N == 5) * 8);

		*(u64 *)(page[k] + off + 8) = i + 1 < 3 * N ? next : end;
	}
	return at[0];
}

static void lists(void)
{
	static char *const code[] = { walk_rax, walk_rcx, walk_r9 };
	static char *const load[] = { walk_rax_at, walk_rcx_at, walk_r9_at };
	static const u8 p[] = { 0, 1, 9 }, n[] = { 1, 0, 1 };

	part("lists");
	for (unsigned k = 0; k < 9; k++) {
		unsigned w = k % 3;
		u64 head = make_list(0), bad = 0x4141414141414141;
		struct regs r;

		regs_kernel(&r, code[w]);
		*reg_n(&r, p[w]) = head;
		*reg_n(&r, n[w]) = 0;
		run_ok(&r);
		CHECK_EQ(*reg_n(&r, p[w]), 0);
		CHECK_EQ(*reg_n(&r, n[w]), 21);
		make_list(bad);
		regs_kernel(&r, code[w]);
		*reg_n(&r, p[w]) = head;
		*reg_n(&r, n[w]) = 0;
		run(&r);
		expect_fault(&r, 13, 0, load[w]);
		CHECK_EQ(*reg_n(&r, p[w]), bad);
		CHECK_EQ(*reg_n(&r, n[w]), 21);
		CHECK_EQ(r.rsi, bad - 1);
		CHECK_EQ(r.rflags & FL_CF, FL_CF);
	}
}

SNIP(sides, "test %edi,%edi\n"
	    "jz 1f\n"
	    "add $16,%eax\n"
	    "cmp $1,%edi\n"
	    "je 2f\n"
	    "jo .+2\n"
	    "sides_mid: add $1,%eax\n"
	    "cmp $2,%edi\n"
	    "ja 1f\n"
	    "add $256,%eax\n"
	    "1: add $4096,%eax\n"
	    "2: nop\n");
extern char sides_mid[];
SNIP(ahead, "mov %cl,ahead_mid+2(%rip)\n"
	    "test %edi,%edi\n"
	    "js 1f\n"
	    "ahead_mid: add $1,%eax\n"
	    "cmp $9,%eax\n"
	    "ja 1f\n"
	    "add $64,%eax\n"
	    "1: nop\n");

static u64 side(u64 rdi)
{
	struct regs r;

	regs_kernel(&r, sides);
	r.rax = 0;
	r.rdi = rdi;
	run_ok(&r);
	return r.rax;
}

static void side_exits(void)
{
	struct regs r;

	part("side exits");
	for (unsigned n = 0; n < 6; n++) {
		u8 imm = n * 3 + 1;

		*(volatile u8 *)(sides_mid + 2) = imm;
		CHECK_EQ(side(0), 4096);
		CHECK_EQ(side(1), 16);
		CHECK_EQ(side(2), 16 + imm + 256 + 4096);
		CHECK_EQ(side(3), 16 + imm + 4096);
		regs_kernel(&r, ahead);
		r.rax = 0;
		r.rdi = 0;
		r.rcx = imm;
		run_ok(&r);
		CHECK_EQ(r.rax, imm > 9 ? imm : imm + 64);
	}
}

int main(void)
{
	setup();
	small_steps();
	small_indexes();
	into_a_hole();
	canonical_end();
	large_steps();
	strangers();
	lists();
	side_exits();
	return 0;
}
