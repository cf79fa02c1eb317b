/* SPDX-License-Identifier: Apache-2.0 */
/* A Multiboot 1 image's entry: header, a stack, and EAX, EBX to C. */
	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.globl _start
_start:
	movl $stack_top, %esp
	pushl $0
	popfl
	pushl %ebx
	pushl %eax
	call mb_main
1:	hlt
	jmp 1b

	.bss
	.balign 16
	.skip 8192
stack_top:
	.section .note.GNU-stack, "", @progbits
