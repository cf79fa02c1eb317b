/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tiny Multiboot guest for the tests of the command line. What it does is
 * the first letter of its command line's second word:
 *
 *   i  print the marker, fill 4 MiB (the same in every VM), halt for ever
 *   s  the same, then spin
 *   w  the same, then write to every page in turn for ever
 *   o  power off (ACPI S5)		r  reset (0xcf9)
 *   t  triple fault			e  write 0x10 to port 0xf4
 *   v  enter virtual-8086 mode, which is not built: the engine stops
 *   c  echo the console until 'q' comes, then power off
 */
#define COM1	0x3f8
#define FILL	0x400000
#define PAGES	1024

	.text
	.balign 4
	.long 0x1badb002, 2, -(0x1badb002 + 2)
	.globl _start
_start:
	mov	$stack, %esp
	mov	16(%ebx), %esi		/* the command line */
1:	lodsb
	test	%al, %al
	jz	idle
	cmp	$' ', %al
	jne	1b
	lodsb
	cmp	$'o', %al
	je	off
	cmp	$'r', %al
	je	reset
	cmp	$'t', %al
	je	triple
	cmp	$'e', %al
	je	debug_exit
	cmp	$'v', %al
	je	v86
	cmp	$'c', %al
	je	echo
	cmp	$'s', %al
	je	spin
	cmp	$'w', %al
	je	writer

idle:	call	hello
1:	cli
	hlt
	jmp	1b

spin:	call	hello
1:	jmp	1b

writer:	call	hello
2:	mov	$FILL, %edi
1:	incl	(%edi)
	add	$4096, %edi
	cmp	$FILL + PAGES * 4096, %edi
	jb	1b
	jmp	2b

off:	mov	$0x604, %dx
	mov	$(5 << 10 | 1 << 13), %ax
	out	%ax, %dx
	jmp	.

reset:	mov	$0xcf9, %dx
	mov	$6, %al
	out	%al, %dx
	jmp	.

triple:	lidt	nothing
	int3

debug_exit:
	mov	$0x10, %al
	out	%al, $0xf4
	jmp	.

v86:	push	$0			/* gs fs ds es ss esp */
	push	$0
	push	$0
	push	$0
	push	$0
	push	$0x1000
	push	$0x20002		/* VM */
	push	$0
	push	$0x1000
	iret

echo:	mov	$ready, %esi
	call	puts
1:	mov	$COM1 + 5, %dx
	in	%dx, %al
	test	$1, %al
	jz	1b
	mov	$COM1, %dx
	in	%dx, %al
	cmp	$'q', %al
	je	off
	call	putc
	jmp	1b

hello:	mov	$FILL, %edi
	mov	$1, %eax
1:	mov	%eax, (%edi)
	mov	%eax, 2048(%edi)
	inc	%eax
	add	$4096, %edi
	cmp	$PAGES + 1, %eax
	jne	1b
	mov	$marker, %esi
puts:	lodsb
	test	%al, %al
	jz	1f
	call	putc
	jmp	puts
1:	ret

putc:	mov	$COM1, %dx
	out	%al, %dx
	ret

	.data
marker:	.asciz "booted\nSARDINE-GUEST: userland\n"
ready:	.asciz "ready\n"
	.balign 8
nothing:
	.word 0
	.long 0
	.bss
	.skip 4096
stack:
