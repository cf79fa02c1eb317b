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
 * monitor's FS base (bt_signal_entry sets it before any C code runs). All
 * signals but the synchronous ones are blocked in this thread, and these change
 * no mask; so the handler need not return through the kernel: registers and
 * vector state are loaded from the signal frame here. A process killed anywhere
 * in here leaves nothing: all state is memory of this process.
 */
#include "vmm/bt/layout.h"

#define HOT(i) (BT_VCPU_SIZE - BT_GAP - 512 + 8 * (i))
#define GPR(n) (BT_VCPU_SIZE - BT_GAP - 128 + 8 * (n))
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
enter_with_fpu:
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
	mov RTH(HOT_IND), %r10d
	mov %r10, RTH(HOT_LAST_IND)
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
	.globl bt_exit_touch
bt_exit_touch:
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

/*
 * SYSCALL from 64-bit user code, entered by a jump from its unit with r11 = the
 * rip after it (SDM vol. 2, SYSCALL). HOT_J_SYSCALL leads here only while
 * EFER.SCE is set; nothing in here can fault. The vCPU's fields are those of
 * vmm/cpu/syscall.c, which does the same in C.
 */
#define FL_HOST	 0xcd5
#define FL_IF	 0x200
#define V(o)	 ((o) - BT_VCPU_SIZE + BT_T_BIAS)(%r15)
	.globl bt_do_syscall
bt_do_syscall:
	mov %r11, %rcx
	mov %rsp, RTH(HOT_RSP_HOST)
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	pop %r11
	and $FL_HOST, %r11d
	or V(VCPU_RFLAGS), %r11
	or RTH(HOT_IF), %r11
	mov %r11, RTG(11)
	mov RTH(HOT_FMASK), %r10
	andn %r11, %r10, %r10
	mov %r10d, %r11d
	and $FL_IF, %r11d
	mov %r11, RTH(HOT_IF)
	mov %r10, %r11
	and $~(FL_HOST | FL_IF), %r11
	mov %r11, V(VCPU_RFLAGS)
	and $FL_HOST, %r10d
	or $2, %r10d
	mov %r10, RTH(HOT_TMP0)
	mov RTH(HOT_KCS), %r10
	mov RTH(HOT_KCS + 1), %r11
	mov %r10, V(VCPU_CS)
	mov %r11, V(VCPU_CS + 8)
	mov RTH(HOT_KSS), %r10
	mov RTH(HOT_KSS + 1), %r11
	mov %r10, V(VCPU_SS)
	mov %r11, V(VCPU_SS + 8)
	movb $0, V(VCPU_CPL)
	mov RTH(HOT_MODE_P), %r10
	andb $~1, (%r10)
	/* The stack through the kernel's view. */
	mov RTH(HOT_RSP_NOTD), %r11
	mov RTH(HOT_RSP_HOST), %r10
	lea 1(%r10, %r11), %r11
	mov RTH(HOT_RT_KERN), %r15
	shrx %r15, %r11, %r10
	mov BT_D_TABLE(%r15, %r10, 8), %r10
	mov %r10, RTH(HOT_RSP_DELTA)
	lea (%r10, %r11), %r11
	not %r10
	mov %r10, RTH(HOT_RSP_NOTD)
	cmpq $2, RTH(HOT_TMP0)
	jne 1f
	/* All flags clear, as Linux's FMASK has it: POPF is slow. */
	cld
	mov $1, %r10d
	test %r10d, %r10d
	jmp 2f
1:	orq $0x202, RTH(HOT_TMP0)
	push RTH(HOT_TMP0)
	popfq
2:	mov %r11, %rsp
	mov RTH(HOT_LSTAR), %r11
	movzwl %r11w, %r10d
	jmp *BT_D_IBTC(%r15, %r10, 8)

/*
 * SYSRET to 64-bit user code at CPL 0. What is unusual (flags other than the
 * arithmetic ones and IF that change, an interrupt waiting for IF, addresses
 * not in the lower half, a GS base in the kernel's half) goes to the
 * interpreter, with the guest's flags intact.
 */
	.globl bt_do_sysret
bt_do_sysret:
	mov %rsp, RTH(HOT_RSP_HOST)
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	mov %rcx, %r10
	shr $47, %r10
	jnz sysret_slow
	cmpq $0, V(VCPU_GS_BASE)
	js sysret_slow
	mov RTG(11), %r11
	mov %r11, %r10
	xor V(VCPU_RFLAGS), %r10
	test $~(FL_HOST | FL_IF | 0x10002), %r10d
	jnz sysret_slow
	test $FL_IF, %r11d
	jz 1f
	cmpq $BT_POLL_BAD, RTH(HOT_IRQ_POLL)
	je sysret_slow
1:	push %rcx
	mov RTH(HOT_RSP_NOTD), %rcx
	mov RTH(HOT_RSP_HOST), %r10
	lea 1(%r10, %rcx), %rcx
	mov %rcx, %r10
	shr $47, %r10
	jnz sysret_slow_pop
	/* Committed. */
	mov RTH(HOT_RT_USER), %r15
	shrx %r15, %rcx, %r10
	mov BT_D_TABLE(%r15, %r10, 8), %r10
	mov %r10, RTH(HOT_RSP_DELTA)
	add %r10, %rcx
	mov %rcx, RTH(HOT_RSP_HOST)
	not %r10
	mov %r10, RTH(HOT_RSP_NOTD)
	mov %r11d, %r10d
	and $FL_IF, %r10d
	mov %r10, RTH(HOT_IF)
	and $FL_HOST, %r11d
	or $0x202, %r11d
	mov %r11, 8(%rsp)
	mov RTH(HOT_UCS), %r10
	mov RTH(HOT_UCS + 1), %r11
	mov %r10, V(VCPU_CS)
	mov %r11, V(VCPU_CS + 8)
	mov RTH(HOT_USS), %r10
	mov RTH(HOT_USS + 1), %r11
	mov %r10, V(VCPU_SS)
	mov %r11, V(VCPU_SS + 8)
	movb $3, V(VCPU_CPL)
	mov RTH(HOT_MODE_P), %r10
	orb $1, (%r10)
	pop %rcx
	mov %rcx, %r11
	movzwl %r11w, %r10d
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp *BT_D_IBTC(%r15, %r10, 8)
sysret_slow_pop:
	pop %rcx
sysret_slow:
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp bt_exit_callout

/*
 * rdi, rsi, rdx: as a SA_SIGINFO handler. bt_signal says how to go on; what it
 * cannot handle it does not return from. r15 is rT: the fault was in the TC.
 */
#define UC_R(n)	     (40 + 8 * (n))(%rbx) /* uc_mcontext, in its order */
#define UC_RDI	     UC_R(8)
#define UC_RSI	     UC_R(9)
#define UC_RBP	     UC_R(10)
#define UC_RBX	     UC_R(11)
#define UC_RDX	     UC_R(12)
#define UC_RAX	     UC_R(13)
#define UC_RCX	     UC_R(14)
#define UC_RSP	     UC_R(15)
#define UC_RIP	     UC_R(16)
#define UC_FLAGS     UC_R(17)
#define UC_FPSTATE   UC_R(23)
	.globl bt_signal_entry
	.type bt_signal_entry, @function
bt_signal_entry:
	mov %rsp, %rcx
	and $-BT_ALTSTACK_SIZE, %rcx
	mov (%rcx), %rax
	wrfsbase %rax
	sub $8, %rsp
	mov %rdx, %rbx
	call bt_signal
	mov %eax, %esi
	mov UC_FPSTATE, %rcx
	mov RTH(HOT_FPU_MASK), %eax
	xor %edx, %edx
	xrstor64 (%rcx)
	cmp $BT_SIG_LEAVE, %esi
	je bt_exit_fault
	mov RTH(HOT_VCPU), %rdi
	cmp $BT_SIG_ENTER, %esi
	je 1f
	/* BT_SIG_RETRY: where it was. */
	mov RTH(HOT_FS), %rax
	wrfsbase %rax
	mov UC_RIP, %rax
	mov %rax, RTH(HOT_PC)
	push UC_FLAGS
	popfq
	mov UC_R(0), %r8
	mov UC_R(1), %r9
	mov UC_R(2), %r10
	mov UC_R(3), %r11
	mov UC_R(4), %r12
	mov UC_R(5), %r13
	mov UC_R(6), %r14
	mov UC_RDI, %rdi
	mov UC_RSI, %rsi
	mov UC_RBP, %rbp
	mov UC_RDX, %rdx
	mov UC_RAX, %rax
	mov UC_RCX, %rcx
	mov UC_RSP, %rsp
	mov UC_RBX, %rbx
	jmp *RTH(HOT_PC)
	/* As bt_enter does, with vector state in place. */
1:	mov HOT(HOT_RT)(%rdi), %r15
	jmp enter_with_fpu
	.size bt_signal_entry, . - bt_signal_entry

	.section .rodata
	.align 4
mxcsr_default:
	.long 0x1f80
	.section .note.GNU-stack, "", @progbits
