/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1 entry of memsweep's guest: the first 32 MiB identical in pages of
 * 2 MiB, long mode, guest_main(). */
	.section .mb, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.section .text.start, "ax"
	.code32
	.globl _start
_start:
	cli
	cld
	movl $stack_top, %esp
	movl $boot_pd, %edi
	movl $0xe3, %eax		/* present, writable, A, D, large */
	movl $16, %ecx
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 1b
	movl $boot_pd + 0x63, boot_pdpt
	movl $boot_pdpt + 0x63, boot_pml4
	movl %cr4, %eax
	orl $0x20, %eax			/* PAE */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax		/* LME */
	wrmsr
	movl $0x80010033, %eax		/* PG WP NE ET MP PE */
	movl %eax, %cr0
	lgdt gdtr
	ljmp $8, $start64

	.code64
start64:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $stack_top, %esp
	xorl %ebp, %ebp
	call guest_main
	ud2

	.section .data
	.balign 16
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:	.word gdtr - gdt - 1
	.quad gdt

	.section .bss
	.balign 4096
	.globl boot_pdpt
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 4096
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
