/* SPDX-License-Identifier: Apache-2.0 */
/* The run-time itself: console, run() at CPL 0 and 3, faults, user pages. */
#include "tests/guest/rt/rt.h"

SNIP(k_regs, "lea 1(%rax), %rbx\n xchg %r8, %r15");
SNIP(k_ud, "inc %rax\n .globl k_ud_at\n k_ud_at: ud2");
USNIP(u_pf, "mov $7, %ecx\n.globl u_pf_at\nu_pf_at: mov 0x100000, %rax");
extern char k_ud_at[], u_pf_at[];

int main(void)
{
	struct regs a, r;

	printf("hello %d %x %s\n", -5, 0xbeef, is_tcg() ? "tcg" : "not tcg");
	regs_kernel(&r, k_regs);
	a = r;
	run_ok(&r);
	CHECK_EQ(r.rbx, a.rax + 1);
	CHECK_EQ(r.r8, a.r15);
	CHECK_EQ(r.r15, a.r8);
	same_regs(&a, &r, 1 << 3 | 1 << 8 | 1 << 15);
	CHECK_EQ(r.rip, k_regs_end);

	regs_kernel(&r, k_ud);
	a = r;
	run(&r);
	expect_fault(&r, 6, 0, k_ud_at);
	CHECK_EQ(r.rax, a.rax + 1);

	regs_user(&r, u_pf);
	a = r;
	run(&r);
	expect_pf(&r, PF_P | PF_U, u_pf_at, 0x100000);
	CHECK_EQ(r.rcx, 7);
	CHECK_EQ(r.cs, UCS);
	CHECK_EQ(r.ss, UDS);
	same_regs(&a, &r, 1 << 1);
	return 0;
}
