/* SPDX-License-Identifier: Apache-2.0 */
/* The 256 interrupt entries, and run_enter/run_return (see rt.h). The order of
 * pushes is that of struct regs. */
#include "tests/guest/rt/sel.h"

	.text
	.balign 16
	.globl trap_stubs
trap_stubs:
vec = 0
	.rept 256
	.balign 16
	.if vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21
	.else
	pushq $0
	.endif
	pushq $vec
	jmp trap_common
	vec = vec + 1
	.endr

trap_common:
	xchgq %rax, (%rsp)		/* rax = vector */
	xchgq %rax, 8(%rsp)		/* slot 1 = vector, rax = error */
	xchgq %rax, (%rsp)		/* slot 0 = error, rax = rax */
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call trap
	movq %rbp, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

	.globl run_enter
run_enter:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, run_rsp
	pushq 168(%rdi)
	pushq 160(%rdi)
	pushq 152(%rdi)
	pushq 144(%rdi)
	pushq 136(%rdi)
	movq 0(%rdi), %r15
	movq 8(%rdi), %r14
	movq 16(%rdi), %r13
	movq 24(%rdi), %r12
	movq 32(%rdi), %r11
	movq 40(%rdi), %r10
	movq 48(%rdi), %r9
	movq 56(%rdi), %r8
	movq 72(%rdi), %rsi
	movq 80(%rdi), %rbp
	movq 88(%rdi), %rbx
	movq 96(%rdi), %rdx
	movq 104(%rdi), %rcx
	movq 112(%rdi), %rax
	movq 64(%rdi), %rdi
	iretq

	.globl run_return
run_return:
	movq run_rsp, %rsp
	pushq $2
	popfq
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

	/* A bare end for jumps and calls out of snippets. */
	.globl done
done:
	int $VEC_DONE
	ud2

	.bss
	.balign 8
run_rsp: .quad 0
	.section .note.GNU-stack, "", @progbits
