/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions done between units: IRETQ, XSAVE, XSAVEC, XRSTOR, CPUID, MOV
 * CR3.
 *
 * A unit jumps here at the instruction, with the guest's state as translated
 * code has it and HOT_EXIT_INFO telling where it is: whatever is unusual goes
 * to bt_exit_callout with that state untouched, and the interpreter does the
 * instruction from its beginning. So nothing is committed before all is known
 * to be well.
 *
 * Guest memory is accessed at the labels in bt_stub_faults. When such an access
 * faults and the window cannot be filled, the signal handler goes on at the
 * fixup beside the label, which leads to the callout.
 */
#include "vmm/bt/layout.h"

#define RTH(i)	BT_D_HOT(i)(%r15)
#define V(o)	((o) - BT_VCPU_SIZE + BT_T_BIAS)(%r15)
#define FL_HOST 0xcd5
#define FL_IF	0x200
#define FL_NT	0x4000

	.macro guest_access fixup, insn:vararg
77:	\insn
	.pushsection .data.rel.ro.stub_faults, "aw"
	.quad 77b, \fixup
	.popsection
	.endm

	.section .data.rel.ro.stub_faults, "aw"
	.globl bt_stub_faults
bt_stub_faults:
	.text

/*
 * IRETQ in 64-bit mode at CPL 0 (SDM vol. 2), to CPL 3 or CPL 0 with the code
 * and stack segments that SYSCALL and SYSRET use, whose descriptors in the GDT
 * must be the usual flat ones; other flags than the arithmetic ones, IF and RF
 * must stay as they are, and no interrupt may wait for IF. HOT_GDT is the host
 * form of the GDT's base, or 0 when this is not to be done here.
 */
	.globl bt_do_iret
bt_do_iret:
	mov %rsp, RTH(HOT_RSP_HOST)
	mov %rsp, %r10
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	push %rcx
	push %rdx
	cmpq $0, RTH(HOT_GDT)
	je iret_slow
	cmpq $0, RTH(HOT_PF_PENDING)
	jne iret_slow
	guest_access iret_slow, mov 16(%r10), %rdx
	mov %rdx, %rcx
	xor V(VCPU_RFLAGS), %rcx
	test $~(FL_HOST | FL_IF | 0x10002), %ecx
	jnz iret_slow
	test $FL_NT, %edx
	jnz iret_slow
	test $FL_IF, %edx
	jz 1f
	cmpq $BT_POLL_BAD, RTH(HOT_IRQ_POLL)
	je iret_slow
1:	guest_access iret_slow, mov 8(%r10), %rcx
	cmp %cx, RTH(HOT_UCS)
	jne iret_kernel

	/* To CPL 3. */
	cmpq $0, V(VCPU_GS_BASE)
	js iret_slow
	guest_access iret_slow, mov 32(%r10), %rcx
	cmp %cx, RTH(HOT_USS)
	jne iret_slow
	movzwl RTH(HOT_UCS), %ecx
	add RTH(HOT_GDT), %rcx
	guest_access iret_slow, mov -3(%rcx), %rcx
	movabs $0x00affb000000ffff, %r11
	cmp %r11, %rcx
	jne iret_slow
	movzwl RTH(HOT_USS), %ecx
	add RTH(HOT_GDT), %rcx
	guest_access iret_slow, mov -3(%rcx), %rcx
	movabs $0x00cff3000000ffff, %r11
	cmp %r11, %rcx
	jne iret_slow
	guest_access iret_slow, mov (%r10), %r11
	mov %r11, %rcx
	shr $47, %rcx
	jnz iret_slow
	guest_access iret_slow, mov 24(%r10), %r10
	mov %r10, %rcx
	shr $47, %rcx
	jnz iret_slow
	/* Committed. rdx flags, r11 rip, r10 rsp. */
	mov RTH(HOT_RT_USER), %r15
	mov RTH(HOT_UCS), %rcx
	mov %rcx, V(VCPU_CS)
	mov RTH(HOT_UCS + 1), %rcx
	mov %rcx, V(VCPU_CS + 8)
	mov RTH(HOT_USS), %rcx
	mov %rcx, V(VCPU_SS)
	mov RTH(HOT_USS + 1), %rcx
	mov %rcx, V(VCPU_SS + 8)
	movb $3, V(VCPU_CPL)
	mov RTH(HOT_MODE_P), %rcx
	orb $1, (%rcx)
iret_done:
	shrx %r15, %r10, %rcx
	mov BT_D_TABLE(%r15, %rcx, 8), %rcx
	mov %rcx, RTH(HOT_RSP_DELTA)
	add %rcx, %r10
	mov %r10, RTH(HOT_RSP_HOST)
	not %rcx
	mov %rcx, RTH(HOT_RSP_NOTD)
	mov %edx, %ecx
	and $FL_IF, %ecx
	mov %rcx, RTH(HOT_IF)
	and $FL_HOST, %edx
	or $0x202, %edx
	mov %rdx, 16(%rsp)
	pop %rdx
	pop %rcx
	movzwl %r11w, %r10d
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp *BT_D_IBTC(%r15, %r10, 8)

	/* To CPL 0, in the kernel's half. Linux comes from an interrupt of user
	 * code, and boots, with a null SS. */
	.macro iret_kernel_address
	guest_access iret_slow, mov (%r10), %r11
	mov %r11, %rcx
	sar $47, %rcx
	cmp $-1, %rcx
	jne iret_slow
	guest_access iret_slow, mov 24(%r10), %r10
	mov %r10, %rcx
	sar $47, %rcx
	cmp $-1, %rcx
	jne iret_slow
	.endm
iret_kernel:
	cmp %cx, RTH(HOT_KCS)
	jne iret_slow
	movzwl RTH(HOT_KCS), %ecx
	add RTH(HOT_GDT), %rcx
	guest_access iret_slow, mov (%rcx), %rcx
	movabs $0x00af9b000000ffff, %r11
	cmp %r11, %rcx
	jne iret_slow
	guest_access iret_slow, mov 32(%r10), %rcx
	test %cx, %cx
	jnz 2f
	iret_kernel_address
	movq $0, V(VCPU_SS)
	movq $0, V(VCPU_SS + 8)
	jmp 3f
2:	cmp %cx, RTH(HOT_KSS)
	jne iret_slow
	movzwl RTH(HOT_KSS), %ecx
	add RTH(HOT_GDT), %rcx
	guest_access iret_slow, mov (%rcx), %rcx
	movabs $0x00cf93000000ffff, %r11
	cmp %r11, %rcx
	jne iret_slow
	iret_kernel_address
	mov RTH(HOT_KSS), %rcx
	mov %rcx, V(VCPU_SS)
	mov RTH(HOT_KSS + 1), %rcx
	mov %rcx, V(VCPU_SS + 8)
3:	mov RTH(HOT_KCS), %rcx
	mov %rcx, V(VCPU_CS)
	mov RTH(HOT_KCS + 1), %rcx
	mov %rcx, V(VCPU_CS + 8)
	jmp iret_done
iret_slow:
	pop %rdx
	pop %rcx
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp bt_exit_callout

/*
 * XSAVE, XSAVEC and XRSTOR, 64-bit forms, while CR4.OSXSAVE is set, XCR0 is 7
 * or e7h, and TS is clear: the guest's state is the host's, and HOT_FPU_MASK is
 * the guest's XCR0. r11: the area's host
 * address; r10: where to go on. What is asked of the host is never more than
 * the guest's XCR0. The x87 part may hold the address of the last instruction,
 * which is in the TC: when it is in use, saving is left to the interpreter.
 */
	.macro xsave_begin
	mov %rsp, RTH(HOT_RSP_HOST)
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	push %rax
	push %rcx
	push %rdx
	push %r10
	.endm
	.macro xsave_stub name, insn:vararg
	.globl \name
\name:
	xsave_begin
	mov %eax, %r10d
	mov $1, %ecx
	xgetbv
	test $1, %al
	jnz xsave_slow
	mov %r10d, %eax
	and RTH(HOT_FPU_MASK), %eax
	xor %edx, %edx
	guest_access xsave_slow, \insn
	jmp xsave_done
	.endm

	xsave_stub bt_do_xsave, xsave64 (%r11)
	xsave_stub bt_do_xsavec, xsavec64 (%r11)

	/* The header may not ask for what is not in the guest's XCR0. */
	.globl bt_do_xrstor
bt_do_xrstor:
	xsave_begin
	mov RTH(HOT_FPU_MASK), %r10
	guest_access xsave_slow, mov 512(%r11), %rcx
	andn %rcx, %r10, %rcx
	jnz xsave_slow
	guest_access xsave_slow, mov 520(%r11), %rcx
	btr $63, %rcx
	andn %rcx, %r10, %rcx
	jnz xsave_slow
	and %r10d, %eax
	xor %edx, %edx
	guest_access xsave_slow, xrstor64 (%r11)
xsave_done:
	pop %r10
	pop %rdx
	pop %rcx
	pop %rax
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp *%r10
xsave_slow:
	add $8, %rsp
	pop %rdx
	pop %rcx
	pop %rax
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp bt_exit_callout

/*
 * What C code does with the guest's vector registers and FS base in place: no register
 * is lost. No access to guest memory. r10: where to go on (c_done). HOT_EXIT_INFO says
 * where the instruction is, for when it has to be called out for (c_slow). Flags that
 * are set before c_end are there after it.
 */
	.macro c_begin
	mov %rsp, RTH(HOT_RSP_HOST)
	mov RTH(HOT_HOST_RSP), %rsp
	pushfq
	push %rax
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	cld
	mov RTH(HOT_VCPU), %rdi
	.endm
	.macro c_end
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rax
	.endm
c_done:
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp *%r10
c_slow:
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	jmp bt_exit_callout

/*
 * The touch of a careful site (site.c). r11: where the access will be. HOT_EXIT_INFO
 * says whether it is a write, HOT_TMP2 which site it is.
 */
	.globl bt_do_touch
bt_do_touch:
	c_begin
	mov %r11, %rsi
	mov RTH(HOT_EXIT_INFO), %edx
	shr $BT_TOUCH_WRITE, %edx
	call bt_touch
	test %eax, %eax
	c_end
	jnz c_done
	popfq
	mov RTH(HOT_RSP_HOST), %rsp
	mov %r11, RTH(HOT_TMP1)
	movq $BT_EXIT_TOUCH, RTH(HOT_EXIT_KIND)
	jmp bt_exit_touch

/* CPUID, if the answer is known (cpuid.c). */
	.globl bt_do_cpuid
bt_do_cpuid:
	c_begin
	mov %eax, %esi
	mov %ecx, %edx
	call bt_cpuid
	mov %rax, RTH(HOT_TMP0)
	test %rax, %rax
	c_end
	jz c_slow
	mov RTH(HOT_TMP0), %r11
	mov (%r11), %eax
	mov 4(%r11), %ebx
	mov 8(%r11), %ecx
	mov 12(%r11), %edx
	jmp c_done

/* MOV CR3, if that is little work (cr3.c). r11: what is written. */
	.globl bt_do_cr3
bt_do_cr3:
	c_begin
	mov %r11, %rsi
	call bt_cr3
	test %eax, %eax
	c_end
	jz c_slow
	mov RTH(HOT_FS), %r11
	wrfsbase %r11
	mov RTH(HOT_GS), %r11
	wrgsbase %r11
	jmp c_done

	.section .data.rel.ro.stub_faults, "aw"
	.quad 0, 0
	.section .note.GNU-stack, "", @progbits
