/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the monitor's C code and translated code.
 *
 * bt_enter(v): loads the guest's registers and jumps to HOT_PC. It returns
 * when translated code leaves by one of the exits below, with the kind. In
 * between, FS, GS, the vector state, MXCSR and the x87 control word are the
 * guest's, RSP is the guest's stack, and r15 is rT.
 *
 * The exits for chaining and for IBTC misses first try bt_fast_dispatch on the
 * monitor's stack, with vector state and FS left as they are.
 *
 * Signals: handlers run on the alternate stack, whose lowest words hold the
 * monitor's FS base (bt_signal_entry sets it before any C code runs and puts
 * the guest's back). All signals but the synchronous ones are blocked in this
 * thread. A process killed anywhere in here leaves nothing: all state is
 * memory of this process.
 */
#include "vmm/bt/layout.h"

#define HOT(i) (BT_VCPU_SIZE - 512 + 8 * (i))
#define GPR(n) (BT_VCPU_SIZE - 128 + 8 * (n))
#define RTH(i) BT_D_HOT(i)(%r15)
#define RTG(n) BT_D_GPR(n)(%r15)

	.text
	.globl bt_enter
	.type bt_enter, @function
bt_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	sub $8, %rsp
	mov %rsp, HOT(HOT_HOST_RSP)(%rdi)
	rdfsbase %rax
	mov %rax, HOT(HOT_HOST_FS)(%rdi)
	mov HOT(HOT_RT)(%rdi), %r15
	mov HOT(HOT_FPU)(%rdi), %rcx
	mov HOT(HOT_FPU_MASK)(%rdi), %eax
	xor %edx, %edx
	xrstor64 (%rcx)
	mov HOT(HOT_FS)(%rdi), %rax
	wrfsbase %rax
	mov HOT(HOT_GS)(%rdi), %rax
	wrgsbase %rax
	mov RTG(3), %rbx
	mov RTG(5), %rbp
	mov RTG(12), %r12
	mov RTG(13), %r13
	mov RTG(14), %r14
resume:
	push RTH(HOT_TMP0)
	popfq
	mov RTG(0), %rax
	mov RTG(1), %rcx
	mov RTG(2), %rdx
	mov RTG(6), %rsi
	mov RTG(7), %rdi
	mov RTG(8), %r8
	mov RTG(9), %r9
	mov RTH(HOT_RSP_HOST), %rsp
	jmp *RTH(HOT_PC)

	.globl bt_exit_ibtc
bt_exit_ibtc:
	mov %r11, RTH(HOT_EXIT_INFO)
	movq $BT_EXIT_IBTC, RTH(HOT_EXIT_KIND)
	jmp fast
	.globl bt_exit_chain
bt_exit_chain:
	movq $BT_EXIT_CHAIN, RTH(HOT_EXIT_KIND)
fast:
	mov %rax, RTG(0)
	mov %rcx, RTG(1)
	mov %rdx, RTG(2)
	mov %rsi, RTG(6)
	mov %rdi, RTG(7)
	mov %r8, RTG(8)
	mov %r9, RTG(9)
	mov %rsp, RTH(HOT_RSP_HOST)
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	pop %rax
	mov %rax, RTH(HOT_TMP0)
	cld
	mov RTH(HOT_VCPU), %rdi
	call bt_fast_dispatch
	mov %rax, RTH(HOT_PC)
	test %rax, %rax
	jnz resume
	mov %rbx, RTG(3)
	mov %rbp, RTG(5)
	mov %r12, RTG(12)
	mov %r13, RTG(13)
	mov %r14, RTG(14)
	mov RTH(HOT_RSP_NOTD), %rax
	mov RTH(HOT_RSP_HOST), %rcx
	lea 1(%rax, %rcx), %rax
	mov %rax, RTG(4)
	jmp slow

	.globl bt_exit_callout
bt_exit_callout:
	movq $BT_EXIT_CALLOUT, RTH(HOT_EXIT_KIND)
	mov %rax, RTG(0)
	mov %rcx, RTG(1)
	mov %rdx, RTG(2)
	mov %rbx, RTG(3)
	mov %rbp, RTG(5)
	mov %rsi, RTG(6)
	mov %rdi, RTG(7)
	mov %r8, RTG(8)
	mov %r9, RTG(9)
	mov %r12, RTG(12)
	mov %r13, RTG(13)
	mov %r14, RTG(14)
	mov RTH(HOT_RSP_NOTD), %rax
	lea 1(%rsp, %rax), %rax
	mov %rax, RTG(4)

	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	pop %rax
	mov %rax, RTH(HOT_TMP0)
	jmp slow
	.globl bt_exit_fault
bt_exit_fault:
	mov RTH(HOT_HOST_RSP), %rsp
slow:
	cld
	mov RTH(HOT_FPU), %rcx
	mov RTH(HOT_FPU_MASK), %eax
	xor %edx, %edx
	xsaveopt64 (%rcx)
	mov RTH(HOT_HOST_FS), %rax
	wrfsbase %rax
	fninit
	ldmxcsr mxcsr_default(%rip)
	vzeroupper
	mov RTH(HOT_EXIT_KIND), %eax
	add $8, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.size bt_enter, . - bt_enter

/* rdi, rsi, rdx: as a SA_SIGINFO handler. */
	.globl bt_signal_entry
	.type bt_signal_entry, @function
bt_signal_entry:
	mov %rsp, %rcx
	and $-BT_ALTSTACK_SIZE, %rcx
	mov (%rcx), %rax
	wrfsbase %rax
	sub $8, %rsp
	call bt_signal
	add $8, %rsp
	test %rax, %rax
	jz 1f
	wrfsbase %rax
1:	ret
	.size bt_signal_entry, . - bt_signal_entry

	.section .rodata
	.align 4
mxcsr_default:
	.long 0x1f80
	.section .note.GNU-stack, "", @progbits
