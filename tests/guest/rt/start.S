/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up of a guest case: Multiboot 1 entry in 32-bit protected mode, page
 * tables, long mode, then rt_main() in C.
 *
 * Memory map that every case can rely on:
 *   page 0            not present
 *   4 KiB .. 8 MiB    identity, 4 KiB pages, supervisor, read-write-execute
 *                     (the image is here; rt.c makes the .user part U)
 *   8 .. 64 MiB       identity, 2 MiB pages, supervisor
 *   fee00000          2 MiB page, uncached, supervisor (local APIC)
 * Nothing else is mapped. All upper-level entries have U set: leaves decide.
 */
#include "tests/guest/rt/sel.h"

	.section .mb, "a"
	.balign 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.section .text.start, "ax"
	.code32
	.globl _start
_start:
	cli
	cld
	movl $boot_stack_top, %esp
	movl %eax, mb_magic
	movl %ebx, mb_info
	movl $early32, %eax
	testl %eax, %eax
	jz 1f
	call *%eax
1:
	/* 4 tables of 4 KiB pages */
	movl $pt0, %edi
	movl $3, %eax
	movl $2048, %ecx
2:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $4096, %eax
	addl $8, %edi
	decl %ecx
	jnz 2b
	movl $0, pt0
	/* the first page directory */
	movl $pt0 + 7, pd0
	movl $pt0 + 4096 + 7, pd0 + 8
	movl $pt0 + 8192 + 7, pd0 + 16
	movl $pt0 + 12288 + 7, pd0 + 24
	movl $pd0 + 32, %edi
	movl $0x800083, %eax
	movl $28, %ecx
3:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 3b
	movl $0xfee00000 + 0x93, pd3 + 503 * 8
	movl $pd0 + 7, pdpt0
	movl $pd3 + 7, pdpt0 + 24
	movl $pdpt0 + 7, boot_pml4

	movl %cr4, %eax
	orl $0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax		/* SCE, LME, NXE */
	wrmsr
	movl $0x80010033, %eax		/* PG WP NE ET MP PE */
	movl %eax, %cr0
	lgdt boot_gdtr
	ljmp $KCS, $start64

	.code64
start64:
	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movabsq $boot_stack_top, %rsp
	xorl %ebp, %ebp
	call rt_main
	ud2

	.weak early32

	.section .data
	.balign 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* 08 KCS */
	.quad 0x00cf93000000ffff	/* 10 KDS */
	.quad 0x00cffb000000ffff	/* 18 UCS32 */
	.quad 0x00cff3000000ffff	/* 20 UDS */
	.quad 0x00affb000000ffff	/* 28 UCS */
	.quad 0, 0			/* 30 TSS */
	.quad 0x00cf9b000000ffff	/* 40 KCS32 */
	.quad 0x00009b000000ffff	/* 48 KCS16 */
	.quad 0x000093000000ffff	/* 50 KDS16 */
	.fill 21, 8, 0			/* 58.. free for cases */
gdt_end:
boot_gdtr:
	.word gdt_end - gdt - 1
	.quad gdt

	.section .bss
	.balign 4096
	.globl boot_pml4, pdpt0, pd0, pd3, pt0
boot_pml4: .skip 4096
pdpt0:	.skip 4096
pd0:	.skip 4096
pd3:	.skip 4096
pt0:	.skip 4 * 4096
	.skip 65536
	.globl boot_stack_top
boot_stack_top:
	.globl mb_magic, mb_info
mb_magic: .long 0
mb_info: .long 0
	.section .note.GNU-stack, "", @progbits
