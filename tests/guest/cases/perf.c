/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Not a test of speed (a busy host says nothing), but a look at it: TSC cycles
 * of some loops that engines differ in, printed. It fails only when a loop's
 * result is wrong.
 */
#include "tests/guest/rt/enc.h"

SNIP(p_alu, "mov $2000000, %ecx\n xor %eax, %eax\n 1: add %rcx, %rax\n"
	    "rol $3, %rax\n dec %ecx\n jnz 1b");
SNIP(p_call, "mov $300000, %ecx\n xor %eax, %eax\n 1: call 2f\n dec %ecx\n"
	     "jnz 1b\n jmp 3f\n 2: inc %rax\n ret\n 3:");
SNIP(p_ind, "mov $300000, %ecx\n xor %eax, %eax\n lea 2f(%rip), %rdx\n"
	    "1: jmp *%rdx\n 2: inc %rax\n dec %ecx\n jnz 1b");
SNIP(p_mem, "mov $300000, %ecx\n xor %eax, %eax\n 1: mov %ecx, %edx\n"
	    "and $0xff8, %edx\n mov %rcx, (%rdi,%rdx)\n add (%rdi,%rdx), %rax\n"
	    "dec %ecx\n jnz 1b");
SNIP(p_two, "mov $300000, %ecx\n xor %eax, %eax\n 1: mov %rcx, (%rdi)\n"
	    "mov %rcx, (%rsi)\n add (%rdi), %rax\n dec %ecx\n jnz 1b");
SNIP(p_copy, "mov $200, %edx\n 1: mov %r8, %rsi\n mov %r9, %rdi\n"
	     "mov $512, %ecx\n rep movsq\n dec %edx\n jnz 1b");
SNIP(p_int, "mov $3000, %ecx\n xor %eax, %eax\n 1: int $0x50\n dec %ecx\n"
	    "jnz 1b");
SNIP(p_out, "mov $3000, %ecx\n 1: out %al, $0x80\n dec %ecx\n jnz 1b");
SNIP(p_cr3, "mov $1000, %ecx\n mov %cr3, %rdx\n 1: mov %rdx, %cr3\n"
	    "mov (%rdi), %rax\n dec %ecx\n jnz 1b");
USNIP(p_sys, "mov $20000, %ebx\n xor %eax, %eax\n 1: syscall\n dec %ebx\n"
	     "jnz 1b");
asm(".pushsection .text\n.globl p_entry\np_entry: inc %rax\n sysretq\n"
    ".popsection");
extern char p_entry[];

static void soft(struct regs *r)
{
	r->rax++;
}

static u64 timed(const char *name, struct regs *r, u64 n)
{
	struct regs first = *r;
	u64 t;

	run_ok(r);
	*r = first;
	t = rdtsc();
	run_ok(r);
	t = rdtsc() - t;
	printf("%s: %lu cycles/100\n", name, t * 100 / n);
	return t;
}

int main(void)
{
	u64 va = slot_va(5, 0), vb = slot_va(400, 0), sum;
	struct regs r;

	map_page(va, NULL, KRW);
	map_page(vb, NULL, KRW);
	regs_kernel(&r, p_alu);
	timed("alu iteration", &r, 2000000);
	CHECK(r.rcx == 0);
	regs_kernel(&r, p_call);
	timed("call+ret", &r, 300000);
	CHECK_EQ(r.rax, 300000);
	regs_kernel(&r, p_ind);
	timed("indirect jump", &r, 300000);
	CHECK_EQ(r.rax, 300000);
	sum = 300000ull * 300001 / 2;
	regs_kernel(&r, p_mem);
	r.rdi = va;
	timed("store+load", &r, 300000);
	CHECK_EQ(r.rax, sum);
	regs_kernel(&r, p_two);
	r.rdi = va, r.rsi = vb;
	timed("two slots", &r, 300000);
	CHECK_EQ(r.rax, sum);
	regs_kernel(&r, p_copy);
	r.r8 = va, r.r9 = vb;
	*(u64 *)(va + 8 * 77) = 0x77;
	timed("rep movsq of a page", &r, 200);
	CHECK_EQ(*(u64 *)(vb + 8 * 77), 0x77);
	handlers[0x50] = soft;
	regs_kernel(&r, p_int);
	timed("int+iret", &r, 3000);
	CHECK_EQ(r.rax, 3000);
	regs_kernel(&r, p_out);
	timed("out", &r, 3000);
	regs_kernel(&r, p_cr3);
	r.rdi = va;
	timed("mov cr3", &r, 1000);
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)KCS << 32);
	wrmsr(MSR_LSTAR, (u64)p_entry);
	regs_user(&r, p_sys);
	timed("syscall+sysret", &r, 20000);
	CHECK_EQ(r.rax, 20000);
	return 0;
}
