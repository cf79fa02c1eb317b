/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit protected mode, 16-bit protected mode and real mode: run by the
 * start-up before it goes to long mode (early32). Each step stores a dword in
 * leg[]; legacy.c knows what each must be.
 */
	.code32
	.section .data
	.globl leg
leg:	.fill 256, 4, 0x5eed5eed
leg_esp: .long 0
leg_cont: .long 0
leg_vec: .long 0
leg_err: .long 0
leg_eip: .long 0
leg_cs: .long 0
	.balign 8
lgdt32:	.quad 0
	.quad 0x00cf9b000000ffff	/* 08 flat code */
	.quad 0x00cf93000000ffff	/* 10 flat data */
sel18:	.quad 0x0040930000000fff	/* 18 data, base set later, limit fff */
sel20:	.quad 0x0040970000000fff	/* 20 expand-down, valid 1000.. */
sel28:	.quad 0x0000930000000fff	/* 28 stack, limit fff */
	.quad 0x00009b000000ffff	/* 30 16-bit code, base 0 */
	.quad 0x000093000000ffff	/* 38 16-bit data */
	.quad 0x0040910000000fff	/* 40 read-only data */
	.quad 0x00cf99000000ffff	/* 48 execute-only code */
	.quad 0x00cf13000000ffff	/* 50 not present */
	.quad 0x00cffb000000ffff	/* 58 code, DPL 3 */
	.quad 0x00cff3000000ffff	/* 60 data, DPL 3 */
sel68:	.quad 0				/* 68 TSS */
sel70:	.quad 0				/* 70 call gate */
sel78:	.quad 0x00409b000000ffff	/* 78 code, byte limit ffff, base later */
lgdt32_end:
lgdtr:	.word lgdt32_end - lgdt32 - 1
	.long lgdt32
lidtr:	.word 256 * 8 - 1
	.long lidt32
rmidt:	.word 0x3ff
	.long 0
	.balign 16
pattern: .fill 8, 4, 0x01020304
dsbuf:	.fill 1024, 4, 0x11223344
dsend:	.fill 16, 4, 0xdeadbeef
	.section .bss
	.balign 16
lidt32:	.skip 256 * 8
tss32:	.skip 104
	.balign 16
stk32:	.skip 8192
stk32_top:
	.text

#define REC(n, r) movl r, leg + (n) * 4

/* Run the code; leg[n] = vector (-1: none), leg[n+1] = error, leg[n+2] = EIP
 * of the fault less that of the code. */
	.macro TRY n, code:vararg
	movl %esp, leg_esp
	movl $882f, leg_cont
	movl $-1, leg_vec
	movl $0, leg_err
	movl $881f, leg_eip
881:	\code
882:	movl leg_vec, %eax
	movl %eax, leg + (\n) * 4
	movl leg_err, %eax
	movl %eax, leg + (\n) * 4 + 4
	movl leg_eip, %eax
	subl $881b, %eax
	movl %eax, leg + (\n) * 4 + 8
	.endm

	.balign 16
stubs32:
v = 0
	.rept 64
	.balign 16
	.if v == 8 || (v >= 10 && v <= 14) || v == 17
	.else
	pushl $0
	.endif
	pushl $v
	jmp common32
	v = v + 1
	.endr
common32:
	cld
	pushl %eax
	movl $0x10, %eax
	movl %eax, %ds
	popl %eax
	popl leg_vec
	popl leg_err
	popl leg_eip
	popl leg_cs
	movl $0x10, %eax
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	movl %eax, %ss
	movl leg_esp, %esp
	jmp *leg_cont

int60:	addl $0x100, %eax
	iretl

	.globl early32
early32:
	pushal
	sgdt old_gdtr
	lgdt lgdtr
	ljmp $8, $1f
1:	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	movl %eax, %ss
	/* the IDT */
	movl $stubs32, %eax
	movl $lidt32, %edi
	movl $64, %ecx
2:	movw %ax, (%edi)
	movw $8, 2(%edi)
	movl %eax, %edx
	movw $0x8e00, %dx
	movl %edx, 4(%edi)
	movw %ax, (%edi)
	addl $16, %eax
	addl $8, %edi
	decl %ecx
	jnz 2b
	movl $int60, %eax
	movw %ax, lidt32 + 0x60 * 8
	movw $8, lidt32 + 0x60 * 8 + 2
	movw $0x8e00, lidt32 + 0x60 * 8 + 4
	shrl $16, %eax
	movw %ax, lidt32 + 0x60 * 8 + 6
	lidt lidtr
	/* bases of the small segments */
	movl $dsbuf, %eax
	movw %ax, sel18 + 2
	movw %ax, sel28 + 2
	movw %ax, sel20 + 2
	movw %ax, sel18 + 0x28 + 2	/* 40 */
	shrl $16, %eax
	movb %al, sel18 + 4
	movb %al, sel28 + 4
	movb %al, sel20 + 4
	movb %al, sel18 + 0x28 + 4

	/* ---- segment bases and limits ---- */
	movl $0x18, %eax
	movl %eax, %fs
	movl $0xcafe0001, dsbuf + 0x20
	movl %fs:0x20, %eax
	REC(0, %eax)			/* cafe0001 */
	movl $0x77, %fs:0xffc
	movl dsbuf + 0xffc, %eax
	REC(1, %eax)			/* 77 */
	TRY 2, movl %fs:0xffd, %eax	/* 13, 0, 0 */
	movl $0x18, %ecx
	movl %ecx, %fs
	TRY 5, movb %fs:0x1000, %al
	movl %ecx, %fs
	TRY 8, movb %fs:0xfff, %al	/* fine */
	movl %ecx, %fs
	TRY 11, movl %fs:0xffffffff, %eax
	/* expand-down: 1000 and up are valid */
	movl $0x20, %ecx
	movl %ecx, %gs
	TRY 14, movl %gs:0xffc, %eax	/* 13 */
	movl $0x20, %ecx
	movl %ecx, %gs
	movl $0x99, dsbuf + 0x1000
	TRY 17, movl %gs:0x1000, %eax	/* fine */
	/* read-only */
	movl $0x40, %ecx
	movl %ecx, %fs
	TRY 20, movl %fs:0, %eax	/* fine */
	movl $0x40, %ecx
	movl %ecx, %fs
	TRY 23, movl %eax, %fs:0	/* 13 */
	TRY 26, movl %eax, %cs:tss32	/* 13: code is not writable */
	movl %cs:pattern, %eax
	REC(29, %eax)			/* 01020304 */
	/* a null selector: the load is fine, the use is not */
	xorl %ecx, %ecx
	movl %ecx, %gs
	TRY 30, movl %gs:0, %eax	/* 13 */
	/* bad loads */
	movl $0x50, %ecx
	TRY 33, movl %ecx, %fs		/* 11, 50 */
	movl $0x48, %ecx
	TRY 36, movl %ecx, %fs		/* 13, 48: execute-only */
	movl $0x200, %ecx
	TRY 39, movl %ecx, %fs		/* 13, 200 */
	movl $0, %ecx
	TRY 42, movl %ecx, %ss		/* 13, 0 */
	movl $0x50, %ecx
	TRY 45, movl %ecx, %ss		/* 12, 50 */
	TRY 48, ljmp $0x10, $1f		/* 13, 10: data */
	TRY 51, ljmp $0x58, $1f		/* 13, 58: DPL 3 */
1:
	/* stack segment with a limit */
	movl $0x28, %ecx
	movl %esp, %edx
	movl %ecx, %ss
	movl $0x1000, %esp
	pushl $0x4321
	movl dsbuf + 0xffc, %eax
	REC(54, %eax)			/* 4321 */
	popl %eax
	REC(55, %esp)			/* 1000: 16-bit stack, sp = 1000 */
	movl $0x10, %ecx
	movl %ecx, %ss
	movl %edx, %esp
	/* limit of the stack: #SS. The handler needs a stack: none with 28, so
	 * use ebp on a fine stack but through SS's limit: skipped; lss */
	lss lssptr, %esp
	REC(56, %esp)
	movl %ss, %eax
	REC(57, %eax)			/* 10 */
	movl %edx, %esp

	/* ---- BCD ---- */
#define BCD(n, al, fl, insn)						      \
	pushl $(fl); popfl; movl $(al), %eax; insn; pushfl; popl %ecx;	      \
	andl $0x11, %ecx; shll $16, %ecx; andl $0xffff, %eax;		      \
	orl %ecx, %eax; REC(n, %eax)
	BCD(60, 0x9b, 2, daa)		/* 01, AF CF */
	BCD(61, 0x45, 2, daa)		/* 45 */
	BCD(62, 0x0a, 2, daa)		/* 10, AF */
	BCD(63, 0x15, 0x13, daa)	/* 7b, AF CF */
	BCD(64, 0xee, 2, das)		/* 88, AF CF */
	BCD(65, 0x3c, 2, das)		/* 36, AF */
	BCD(66, 0x050b, 2, aaa)		/* 0601, AF CF */
	BCD(67, 0x0509, 2, aaa)		/* 0509 */
	BCD(68, 0x020f, 2, aas)		/* 0109, AF CF */
	BCD(69, 0x0204, 2, aas)		/* 0204 */
	movl $0x3f, %eax
	aam
	pushfl
	popl %ecx
	andl $0xc4, %ecx
	shll $16, %ecx
	orl %ecx, %eax
	REC(70, %eax)			/* 0603: 63 = 6, 3; PF */
	movl $0x0603, %eax
	aad
	pushfl
	popl %ecx
	andl $0xc4, %ecx
	shll $16, %ecx
	orl %ecx, %eax
	REC(71, %eax)			/* 003f */
	movl $0xff, %eax
	.byte 0xd4, 0x10		/* aam 16 */
	REC(72, %eax)			/* 0f0f */
	TRY 73, .byte 0xd4, 0		/* aam 0: #DE */

	/* ---- 32-bit only instructions ---- */
	movl $1, %eax
	movl $2, %ecx
	movl $3, %edx
	movl $4, %ebx
	movl $5, %ebp
	movl $6, %esi
	movl $7, %edi
	pushal
	xorl %eax, %eax
	xorl %edi, %edi
	xorl %ebp, %ebp
	popal
	leal (%eax, %ecx, 8), %eax
	addl %edi, %eax
	addl %ebp, %eax
	REC(76, %eax)			/* 1+16+7+5 = 1d */
	movl $0xaaaa5555, %eax
	pushw %ax
	pushw $0x77
	popl %ecx
	REC(77, %ecx)			/* 55550077 */
	movl $0x80000000, %eax
	.byte 0x40			/* inc eax */
	.byte 0x48, 0x48		/* dec eax twice */
	REC(78, %eax)			/* 7fffffff */
	movl $pattern, %ebx
	movl $0, pattern + 4
	movw $0x10, pattern + 4
	lesl (%ebx), %esi
	REC(79, %esi)			/* 01020304 */
	movl %es, %eax
	REC(80, %eax)			/* 10 */
	movl $5, %eax
	movl $3, bounds
	movl $9, bounds + 4
	TRY 81, boundl %eax, bounds	/* 3: fine; eax was 5 */
	movl $10, %eax
	TRY 84, boundl %eax, bounds	/* 5 */
	movl $0x7fffffff, %eax
	addl $1, %eax
	TRY 87, into			/* 4, eip + 1 */
	xorl %eax, %eax
	TRY 90, into			/* none */
	movl $0x13, %eax
	movl $0x10, %ecx
	arpl %ax, %cx			/* cx = 13 */
	REC(93, %ecx)
	movb $0x33, %al
	stc
	.byte 0xd6			/* salc */
	andl $0xff, %eax
	REC(94, %eax)			/* ff */
	movl $5, %eax
	int $0x60
	REC(95, %eax)			/* 105 */
	TRY 96, int $0x70		/* 13, 0x382 : no gate */
	/* push of selectors, far call and return */
	pushl %cs
	popl %eax
	REC(99, %eax)			/* 8 */
	lcall $8, $fcall
	REC(100, %eax)			/* fc */
	lcall *fptr
	REC(101, %eax)			/* fc */
	/* 16-bit addresses in 32-bit code: only the low 64 KiB, wrapping */
	movl $0xabcd5678, 0x9100
	movl $0xffff9000, %ebx
	movl $0x7fff0100, %esi
	addr16 movl (%bx,%si), %eax
	REC(102, %eax)			/* abcd5678 */
	movl $0x12349f00, %ebx
	addr16 movl -0xe00(%bx), %eax
	REC(103, %eax)			/* abcd5678 */
	movl $0xf9fe0, %ebx
	movl $0xf120, %edi
	addr16 leal (%bx,%di), %eax
	REC(104, %eax)			/* 9100 */
	movl $0x30001, %ecx
	xorl %edx, %edx
1:	incl %edx
	addr16 loop 1b
	REC(105, %edx)			/* 1 */
	REC(106, %ecx)			/* 30000 */
	/* a 32-bit sum wraps */
	movl $0xfffff000, %ebx
	movl pattern + 0x1000(%ebx), %eax
	REC(107, %eax)			/* 01020304 */
	/* xlat, cbw, string ops with 16-bit addresses */
	movl $tbl, %ebx
	movl $2, %eax
	xlat
	REC(108, %eax)			/* 33 */
	/* flags: 16-bit popf keeps the upper half; IOPL */
	pushl $0x3002
	popfl
	pushw $2
	popfw
	pushfl
	popl %eax
	REC(109, %eax)			/* 2 */

	/* ---- CPL 3 through IRET and a call gate back ---- */
	movl $tss32, %eax
	movl $0x10, 8(%eax)
	movl $stk32_top, 4(%eax)
	movw %ax, sel68 + 2
	movw $103, sel68
	shrl $16, %eax
	movb %al, sel68 + 4
	movb $0x89, sel68 + 5
	movl $0x68, %eax
	ltr %ax
	movl $gate_in, %eax
	movw %ax, sel70
	movw $8, sel70 + 2
	movw $0xec01, sel70 + 4		/* 386 call gate, DPL 3, 1 dword */
	shrl $16, %eax
	movw %ax, sel70 + 6
	movl %esp, leg_esp
	pushl $0x63
	pushl $stk32 + 2048
	pushfl
	pushl $0x5b
	pushl $user32
	iretl
user32:	movl %cs, %eax
	movl $0x63, %ecx
	movl %ecx, %ds
	movl %eax, leg + 110 * 4	/* 5b */
	pushl $0x1357
	lcall $0x73, $0
	ud2
gate_in:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl 8(%esp), %eax		/* the copied parameter */
	REC(111, %eax)			/* 1357 */
	movl 4(%esp), %eax
	REC(112, %eax)			/* 5b */
	movl 16(%esp), %eax
	REC(113, %eax)			/* 63 */
	movl %esp, %eax
	subl $stk32_top, %eax
	REC(114, %eax)			/* -20 */
	movl leg_esp, %esp

	/* ---- 16-bit protected mode and real mode, from 0x8000 ---- */
	movl $code16, %esi
	movl $0x8000, %edi
	movl $code16_end - code16, %ecx
	cld
	rep movsb
	movl %esp, leg_esp
	ljmp $0x30, $0x8000
back32:	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	movl %eax, %ss
	movl leg_esp, %esp
	lidt lidtr
	/* what it left at 0x9200.. */
	movl $0x9200, %esi
	movl $leg + 120 * 4, %edi
	movl $40, %ecx
	rep movsl
	/* ---- 32-bit paging without PAE, with a 4 MiB page ---- */
	movl $pd32, %edi
	movl $0x83, (%edi)		/* 0..4M, 4 MiB page */
	movl $pt32 + 3, 4(%edi)
	movl $0x8000 + 3, pt32		/* 4M -> 8000 */
	movl $0x9000 + 1, pt32 + 4	/* 4M+1000 -> 9000, read-only */
	movl %cr4, %eax
	orl $0x10, %eax
	movl %eax, %cr4
	movl %edi, %cr3
	movl %cr0, %eax
	orl $0x80010000, %eax
	movl %eax, %cr0
	jmp 1f
1:	movl 0x400000, %eax
	REC(170, %eax)			/* the first dword of code16 */
	movl 0x401100, %eax
	REC(171, %eax)			/* abcd5678 */
	TRY 172, movl %eax, 0x401100	/* 14, 3 */
	movl %cr2, %eax
	REC(175, %eax)			/* 401100 */
	TRY 176, movl 0x402000, %eax	/* 14, 0 */
	movl %cr2, %eax
	REC(179, %eax)			/* 402000 */
	TRY 180, jmp *farjmp		/* 14, 0: no NX, so no I bit */
	movl pt32, %eax
	andl $0x60, %eax
	REC(183, %eax)			/* 20: A */
	movl $1, 0x400ff0
	movl pt32, %eax
	andl $0x60, %eax
	REC(184, %eax)			/* 60 */
	movl pd32, %eax
	andl $0x60, %eax
	REC(185, %eax)			/* 60: A and D of the 4 MiB page */
	movl %cr0, %eax
	andl $0x7ffeffff, %eax
	movl %eax, %cr0
	jmp 1f
1:	movl %cr4, %eax
	andl $~0x10, %eax
	movl %eax, %cr4
	lgdt old_gdtr
	popal
	movl $0x600d, leg + 199 * 4
	ret

fcall:	movl $0xfc, %eax
	lret

/* At 0x8000. Selector 30 first (16-bit, base 0), then real mode. */
	.code16
	.globl code16
code16:
	movw $0x38, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7f00, %sp
	movl $0x12345678, %eax
	pushl %eax
	popw %bx
	popw %cx
	movw %bx, 0x9200		/* 5678 */
	movw %cx, 0x9204		/* 1234 */
	/* 16-bit arithmetic and addressing */
	movw $0xffff, %ax
	addw $2, %ax
	movw %ax, 0x9208		/* 1 */
	movw $0x9000, %bp
	movw $0x100, %si
	movl (%bp,%si), %eax
	movl %eax, 0x920c		/* abcd5678 */
	movl $0x9100, %ebx
	addr32 movl (%ebx), %eax
	movl %eax, 0x9210		/* abcd5678 */
	/* real mode */
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $0x800, $(real - code16)
real:
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw $0x700, %ax
	movw %ax, %ss
	movw $0xe00, %sp
	/* (the IDT register must point at the IVT, data is in our image above
	 * 1 MiB: so its value is put at 9300) */
	movw $0x3ff, 0x9300
	movl $0, 0x9302
	lidtl 0x9300
	pushl 0x60 * 4
	pushl 13 * 4
	pushl 12 * 4
	movw $(isr60 - code16), 0x60 * 4
	movw $0x800, 0x60 * 4 + 2
	movw $(isr13 - code16), 13 * 4
	movw $0x800, 13 * 4 + 2
	movw $(isr13 - code16), 12 * 4
	movw $0x800, 12 * 4 + 2
	movw %cs, %ax
	movw %ax, 0x9214		/* 800 */
	movw $0x10, %ax
	int $0x60
	movw %ax, 0x9218		/* 1110 */
	/* segment:offset */
	movw $0x900, %ax
	movw %ax, %fs
	movl %fs:0x100, %eax
	movl %eax, 0x921c		/* abcd5678 */
	movw $0xffff, %ax		/* ffff:10 is 1 MiB: above, with A20 */
	movw %ax, %gs
	movw %gs:0x0f, %ax
	/* offsets wrap at 64 KiB in the sum */
	movw $0x900, %ax
	movw %ax, %fs
	movw $0xff00, %bx
	movw $0x200, %si
	movl %fs:(%bx,%si), %eax
	movl %eax, 0x9220		/* abcd5678 */
	/* but an operand may not cross: #GP by vector 13 */
	movl $0, 0x9224
	movw $0xffff, %bx
	movw %fs:(%bx), %ax
after13:
	/* 32-bit offsets have the limit of 64 KiB, too */
	movl $0, 0x922c
	movl 0x9224, %eax
	movl %eax, 0x9228		/* d: what came */
	movl $0, 0x9224
	movl $0x10000, %ebx
	movw $(after13b - code16), 0x9280
	addr32 movb (%ebx), %al
after13b:
	/* push, pop wrap? string ops by segments; loop; far call */
	movw $(str - code16), %si
	movw $0x800, %ax
	movw %ax, %ds
	movw $0x900, %ax
	movw %ax, %es
	movw $0x230, %di
	movw $4, %cx
	cld
	rep movsb
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es			/* 9230: "Sard" */
	lcall $0x800, $(rfar - code16)
	movw %ax, 0x9234		/* 77 */
	smsw %ax
	andw $1, %ax
	movw %ax, 0x9238		/* 0 */
	pushfw
	popw %ax
	andw $0x0200, %ax
	movw %ax, 0x923c		/* 0 */
	stc
	pushfw
	popw %ax
	andw $1, %ax
	movw %ax, 0x9240		/* 1 */
	movw $3, %cx
	xorw %ax, %ax
1:	addw $5, %ax
	loop 1b
	movw %ax, 0x9244		/* f */
	movl $0x12345678, %eax
	bswapl %eax
	movl %eax, 0x9248		/* 78563412 */
	/* unreal: the limit that protected mode loaded stays in the cache -
	 * and back: limits are loaded in protected mode with selector 10 */
	popl 12 * 4
	popl 13 * 4
	popl 0x60 * 4
	movw %sp, 0x924c		/* e00 */
	movl $0, 0x9306
	/* the 32-bit GDT is above 1 MiB, GDTR is still loaded: just set PE */
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	movw $0x10, %ax
	movw %ax, %gs			/* 4 GiB limit, base 0 */
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $0x800, $(unreal - code16)
unreal:
	/* big real mode: a base of 0 and 4 GiB through GS */
	movl $pattern, %ebx
	addr32 movl %gs:(%ebx), %eax
	movl %eax, 0x9250		/* 01020304 */
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $back32

isr60:	addw $0x1100, %ax
	iretw
isr13:	/* resume: after13 at first, then where 9280 says */
	addw $6, %sp
	movl $0xd, 0x9224
	cmpw $0x5678, 0x9284
	je 1f
	movw $0x5678, 0x9284
	ljmp $0x800, $(after13 - code16)
1:	movl $0xd1, 0x922c
	ljmp $0x800, $(after13b - code16)
rfar:	movw $0x77, %ax
	lretw
str:	.ascii "Sard"
code16_end:
	.code32

	.section .data
old_gdtr: .word 0
	.long 0, 0
	.balign 8
lssptr:	.long stk32 + 1024
	.word 0x10
	.balign 4
bounds:	.long 0, 0
fptr:	.long fcall
	.word 8
farjmp:	.long 0x402123
tbl:	.byte 0x11, 0x22, 0x33
	.section .bss
	.balign 4096
pd32:	.skip 4096
pt32:	.skip 4096
	.section .note.GNU-stack, "", @progbits
