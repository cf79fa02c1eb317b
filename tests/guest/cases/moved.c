/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same pages of user code at many addresses, one after the other and
 * in turn: PC-relative operands, return addresses, jumps within and across
 * pages, loops, slots and their borders, code that changes in between; and a
 * program of so many pages that its calls are made in another way from the middle
 * of it on (vmm/bt/ibtc.c).
 */
#include "tests/guest/rt/enc.h"

/* Two pages; the third has data. The result is in rax (address of `here`), rbx
 * (a return address), rcx, rdx (data), rsi (loop). */
asm(".pushsection .snip,\"awx\",@progbits\n.globl moved, moved_end, moved_ret,"
    " moved_here, moved_imm\n.balign 4096\n"
    "moved: lea moved_here(%rip), %rax\n"
    "call 1f\nmoved_ret: jmp 2f\n1: pop %rbx\n push %rbx\n ret\n"
    "2: mov moved+0x2008(%rip), %rcx\n incq moved+0x2010(%rip)\n"
    "xor %esi, %esi\n mov $5, %edi\n"
    "3: add %rdi, %rsi\n dec %edi\n jnz 3b\n"
    "cmpq $0, moved+0x2018(%rip)\n jne 5f\n jmp moved_here\n"
    "5: mov $1, %esi\n jmp moved_here\n"
    ".balign 4096\n.skip 64\n"
    "moved_here: movabs $0x123456789a, %r9\n"
    "lea 4f(%rip), %r10\n jmp *%r10\n ud2\n"
    "4: push moved+0x2010(%rip)\n pop %rdx\n"
    "moved_imm: mov $0x1111, %r8d\n int $0x81\n"
    ".balign 4096\nmoved_end: .popsection");
extern u8 moved[], moved_end[], moved_ret[], moved_here[], moved_imm[];

/* One of many: calls the next, as the table at rdi says. */
asm(".pushsection .snip,\"awx\",@progbits\n"
    ".globl nest, nest_here, nest_last, nest_start, nest_end\n"
    "nest: add $8, %rdi\n call *(%rdi)\n"
    "nest_here: lea nest_here(%rip), %rax\n add %rax, %rbx\n ret\n"
    "nest_last: inc %rcx\n ret\n"
    "nest_start: call *(%rdi)\n int $0x81\n"
    "nest_end: .popsection");
extern u8 nest[], nest_here[], nest_last[], nest_start[], nest_end[];

static u8 *code, *data, *second;
static u64 runs;

static void at(u64 va, u32 imm, u64 alt)
{
	struct regs r;

	map_page(va, code, URW);
	map_page(va + PG, second, URW);
	map_page(va + 2 * PG, data, URW);
	*(u64 *)(data + 8) = va ^ 0x5555;
	*(u64 *)(data + 0x18) = alt;
	for (unsigned i = 0; i < 3; i++) {
		u64 n = *(volatile u64 *)(data + 0x10);

		regs_user(&r, (void *)va);
		run(&r);
		runs++;
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.rax, va + (moved_here - moved));
		CHECK_EQ(r.rbx, va + (moved_ret - moved));
		CHECK_EQ(r.rcx, va ^ 0x5555);
		CHECK_EQ(r.rdx, n + 1);
		CHECK_EQ(r.rsi, alt ? 1 : 15);
		CHECK_EQ(r.r8, imm);
		CHECK_EQ(r.r9, 0x123456789a);
	}
}

static u64 place(unsigned i)
{
	static const u8 slots[] = {1, 5, 170, 171, 254, 255};
	u64 off = (rnd() & 0x7fffff) << 12;

	switch (i % 8) {
	case 0: /* close to a border */
		off = 0x1000 * (1 + (rnd() & 7));
		break;
	case 1:
		off = SLOT - 0x10000 + 0x1000 * (rnd() & 7);
		break;
	default:
		off += 0x100000000ull * (1 + rnd() % 100);
	}
	return slot_va(slots[rnd() % 6], off);
}

static void gone(u64 va)
{
	for (unsigned k = 0; k < 3; k++)
		unmap_page(va + k * PG);
}

/* Each has the pages elsewhere, twice; an exec gives them another place. */
static void in_spaces(u32 imm)
{
	u64 root[6], va[6][2], home = root_now();

	part("in several address spaces");
	for (unsigned i = 0; i < 6; i++) {
		root[i] = root_new();
		va[i][0] = place(2 + i);
		va[i][1] = place(3 + i) ^ SLOT;
	}
	for (unsigned i = 0; i < 300; i++) {
		unsigned k = i < 100 ? i % 6 : rnd() % 6;

		write_cr3(root[k]);
		at(va[k][0], imm, i & 1);
		if (i % 4 == 0)
			at(va[k][1], imm, i & 1);
		if (i % 7)
			continue;
		gone(va[k][0]);
		va[k][0] = place(i);
	}
	write_cr3(home);
}

/* The page that the code goes on in is not there. */
static void at_hole(u64 va)
{
	struct regs r;

	map_page(va, code, URW);
	map_page(va + 2 * PG, data, URW);
	*(u64 *)(data + 0x18) = runs & 1;
	regs_user(&r, (void *)va);
	run(&r);
	runs++;
	CHECK_EQ(r.vec, 14);
	CHECK_EQ(r.err & ~16ul, PF_U); /* and I, if the machine says so */
	CHECK_EQ(r.rip, va + (moved_here - moved));
	CHECK_EQ(r.cr2, r.rip);
}

/* The first page has moved; the one that it leads to has as well, or there is
 * another in its place, or none. */
static void with_another(u32 imm)
{
	u64 root[3], va[3] = {0}, spot[4], home = root_now();
	u8 *copy = page_alloc();

	part("with another page after it");
	memcpy(copy, second, PG);
	*(volatile u32 *)(copy + (moved_imm - moved) - PG + 2) = ~imm;
	for (unsigned i = 0; i < 3; i++)
		root[i] = root_new();
	for (unsigned i = 0; i < 4; i++)
		spot[i] = place(2 + i);
	for (unsigned i = 0; i < 400; i++) {
		unsigned k = rnd() % 3;

		write_cr3(root[k]);
		if (va[k])
			gone(va[k]);
		va[k] = spot[rnd() % 4];
		switch (rnd() % 4) {
		case 0:
			at_hole(va[k]);
			break;
		case 1:
			second = copy;
			at(va[k], ~imm, i & 1);
			second = code + PG;
			break;
		default:
			at(va[k], imm, i & 1);
			at(va[k], imm, ~i & 1);
		}
	}
	write_cr3(home);
}

/* The same page 1100 times, each calling the next. */
static void many_pages(void)
{
	enum { N = 1100, TABLE = 3, STACK = 4 };
	u64 base = slot_va(9, 0x40000000), table = base + 2048 * PG, want = 0;
	u64 stack = table + 16 * PG, *t = (u64 *)pages_alloc(TABLE, PG);
	u8 *page = page_alloc();
	struct regs r;

	part("many pages");
	memcpy(page, nest, nest_end - nest);
	for (unsigned i = 0; i < N; i++) {
		map_page(base + i * PG, page, URW);
		t[i] = base + i * PG;
		want += t[i] + (nest_here - nest);
	}
	t[N] = base + (nest_last - nest);
	for (unsigned i = 0; i < TABLE; i++)
		map_page(table + i * PG, (u8 *)t + i * PG, URW);
	for (unsigned i = 0; i < STACK; i++)
		map_page(stack + i * PG, page_alloc(), URW);
	for (unsigned i = 0; i < 4; i++) {
		regs_user(&r, (void *)(base + (nest_start - nest)));
		r.rdi = table;
		r.rbx = r.rcx = 0;
		r.rsp = stack + STACK * PG;
		run(&r);
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.rbx, want);
		CHECK_EQ(r.rcx, 1);
		CHECK_EQ(r.rdi, table + 8 * N);
		CHECK_EQ(r.rsp, stack + STACK * PG);
	}
}

int main(void)
{
	static u64 vas[12];
	u32 imm = 0x1111;

	code = pages_alloc(2, PG);
	second = code + PG;
	data = page_alloc();
	memcpy(code, moved, 2 * PG);
	part("one after the other");
	for (unsigned i = 0; i < 150; i++) {
		u64 va = place(i);

		at(va, imm, i & 1);
		for (unsigned k = 0; k < 3; k++)
			unmap_page(va + k * PG);
	}
	part("in turn, with changes");
	for (unsigned i = 0; i < 12; i++)
		vas[i] = place(i);
	for (unsigned i = 0; i < 40; i++) {
		for (unsigned k = 0; k < 12; k++)
			at(vas[k], imm, (i + k) & 1);
		imm = 0x1111 + i;
		if (i % 3 == 0)
			*(volatile u32 *)(code + (moved_imm - moved) + 2) = imm;
		else
			imm = *(u32 *)(code + (moved_imm - moved) + 2);
	}
	in_spaces(imm);
	with_another(imm);
	many_pages();
	printf("%lu runs\n", runs);
	return 0;
}
