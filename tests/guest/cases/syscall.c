/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL, SYSRET, IRET to user mode, SWAPGS, the FS and GS bases by MSR and by
 * instruction, SYSENTER, and what faults in and around them.
 */
#include "tests/guest/rt/enc.h"

#define MSR_CSTAR 0xc0000083
/* A kernel for the user programs: entered by SYSCALL with the user's RSP. rax
 * says what to do: 0 end; 1 add rdi to a sum and SYSRET; 2 the same, but back by
 * IRETQ; 3 swapgs, keep a count at gs:8, swapgs. */
asm(".pushsection .text\n.globl entry\nentry:\n"
    "mov %rsp, entry_rsp(%rip)\n lea entry_stack_top(%rip), %rsp\n"
    "test %eax, %eax\n jz 9f\n cmp $2, %eax\n je 2f\n cmp $3, %eax\n je 3f\n"
    "add %rdi, entry_sum(%rip)\n incq entry_count(%rip)\n"
    "mov entry_rsp(%rip), %rsp\n sysretq\n"
    "2: incq entry_count(%rip)\n pushq $0x23\n pushq entry_rsp(%rip)\n"
    "push %r11\n pushq $0x2b\n push %rcx\n iretq\n"
    "3: swapgs\n incq %gs:8\n mov %gs:0, %rax\n swapgs\n"
    "mov entry_rsp(%rip), %rsp\n sysretq\n"
    "9: int $0x81\n .popsection\n"
    ".pushsection .bss\n .balign 16\n .skip 1024\n entry_stack_top:\n"
    ".globl entry_rsp, entry_sum, entry_count\n"
    "entry_rsp: .quad 0\n entry_sum: .quad 0\n entry_count: .quad 0\n"
    ".popsection");
extern char entry[];
extern volatile u64 entry_rsp, entry_sum, entry_count;

USNIP(u_sys, "mov $1, %eax\n.globl u_sys_at\nu_sys_at: syscall\n"
	     ".globl u_sys_n\nu_sys_n: mov %rcx, %r8\n mov %r11, %r9\n"
	     "pushfq\n pop %r10\n xor %eax, %eax\n syscall");
USNIP(u_loop, "1: mov $1, %eax\n mov %rbx, %rdi\n syscall\n dec %rbx\n jnz 1b\n"
	      "xor %eax, %eax\n syscall");
USNIP(u_loop2, "1: mov $2, %eax\n syscall\n dec %rbx\n jnz 1b\n"
	       "xor %eax, %eax\n syscall");
USNIP(u_gs, "1: mov $3, %eax\n syscall\n add %gs:0, %rdx\n add %rax, %rsi\n"
	    "dec %rbx\n jnz 1b\n xor %eax, %eax\n syscall");
USNIP(u_done, "nop");
extern char u_sys_at[], u_sys_n[];

static void setup(void)
{
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)KCS << 32);
	wrmsr(MSR_LSTAR, (u64)entry);
	wrmsr(MSR_FMASK, 0x700);
}

static void basics(void)
{
	struct regs r, a;

	part("syscall");
	for (unsigned i = 0; i < 64; i++) {
		u64 f = 2;

		f |= i & 1 ? FL_CF : 0;
		f |= i & 2 ? FL_ZF : 0;
		f |= i & 4 ? FL_SF | FL_OF | FL_AF : 0;
		f |= i & 8 ? FL_DF : 0;
		f |= i & 16 ? FL_AC : 0;
		f |= i & 32 ? FL_ID | FL_NT : 0;
		wrmsr(MSR_FMASK, 0x700 | (i & 1 ? FL_AC : 0));
		regs_user(&r, u_sys);
		r.rflags = f;
		r.rdi = i;
		a = r;
		entry_sum = 0;
		run(&r);
		/* the second SYSCALL came to the INT in the kernel */
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(r.cs, KCS);
		CHECK_EQ(r.ss, KDS);
		CHECK_EQ(r.r8, u_sys_n);
		CHECK_EQ(r.r9 & ~FL_RF, f);
		CHECK_EQ(r.r10 & ~FL_RF, f);
		CHECK_EQ(entry_sum, i);
		CHECK_EQ(entry_rsp, a.rsp);
		/* flags in the kernel: masked by FMASK */
		CHECK_EQ(r.rflags & (FL_DF | FL_TF | FL_IF), 0);
		CHECK_EQ(r.rflags & FL_AC, i & 16 && !(i & 1) ? FL_AC : 0);
		CHECK_EQ(r.rcx + 2, u_sys_end);
		a.rax = 0;
		same_regs(&a, &r, 1 << 1 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 10 |
			  1 << 11);
		/* IF from CPL 3 with IF set: masked too, and kept in r11 */
	}
	regs_user(&r, u_sys);
	r.rflags = 2 | FL_IF;
	run(&r);
	CHECK_EQ(r.r9 & FL_IF, FL_IF);
	CHECK_EQ(r.rflags & FL_IF, 0);
	CHECK_EQ(r.r10 & FL_IF, FL_IF);
	wrmsr(MSR_FMASK, 0x700);
	part("loops");
	entry_sum = entry_count = 0;
	regs_user(&r, u_loop);
	r.rbx = 50000;
	run(&r);
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ(entry_count, 50000);
	CHECK_EQ(entry_sum, 50000ull * 50001 / 2);
	regs_user(&r, u_loop2);
	r.rbx = 10000;
	run(&r);
	CHECK_EQ(entry_count, 60000);
	/* with interrupts of the user program in other slots */
	u64 va = slot_va(50, 0x1000), sp = slot_va(60, 0x2000);

	map_page(va, NULL, URW);
	map_page(sp, NULL, URW);
	memcpy((void *)va, u_loop, 64);
	regs_user(&r, (void *)va);
	r.rsp = sp + 0x800;
	r.rbx = 5000;
	run(&r);
	CHECK_EQ(entry_count, 65000);
	CHECK_EQ(entry_rsp, sp + 0x800);
	unmap_page(va);
	unmap_page(sp);
}

/* ---- SWAPGS and the bases ---- */
static u64 kgs[4], ugs[4] USER_DATA;
SNIP(s_swap, "swapgs\n mov %gs:16, %rax\n swapgs\n mov %gs:16, %rbx\n"
	     "swapgs\n mov %gs:(%rcx), %rdx\n addq $1, %gs:8(%rcx)\n swapgs");
static void gs_bases(void)
{
	struct regs r;

	part("swapgs");
	kgs[0] = 0x1000, ugs[0] = 0x10;
	wrmsr(MSR_GS_BASE, (u64)ugs);
	wrmsr(MSR_KGS_BASE, (u64)kgs);
	regs_user(&r, u_gs);
	r.rbx = 3000;
	r.rdx = r.rsi = 0;
	run(&r);
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ(r.rdx, 3000 * 0x10);
	CHECK_EQ(r.rsi, 3000 * 0x1000);
	CHECK_EQ(kgs[1], 3000);
	CHECK_EQ(ugs[1], 0);
	CHECK_EQ(rdmsr(MSR_GS_BASE), (u64)ugs);
	CHECK_EQ(rdmsr(MSR_KGS_BASE), (u64)kgs);
	kgs[2] = 0xbeef, ugs[2] = 0xcafe;
	for (unsigned i = 0; i < 50; i++) {
		regs_kernel(&r, s_swap);
		r.rcx = 0;
		run_ok(&r);
		CHECK_EQ(r.rax, 0xbeef);
		CHECK_EQ(r.rbx, 0xcafe);
		CHECK_EQ(r.rdx, kgs[0]);
	}
	CHECK_EQ(kgs[1], 3050);
	/* loading a selector: null keeps or clears the base; a data segment
	 * sets a 32-bit one */
	asm volatile("mov %0, %%gs" ::"r"(UDS));
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0);
	gdt[FREESEL / 8] = 0x12cf93345678ffff; /* base 12345678 */
	asm volatile("mov %0, %%fs" ::"r"(FREESEL));
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0x12345678);
	asm volatile("mov %0, %%fs" ::"r"(0));
	wrmsr(MSR_FS_BASE, 0x7fffffff000);
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0x7fffffff000);
	/* in 64-bit mode DS's base does not count */
	asm volatile("mov %0, %%ds" ::"r"(FREESEL));
	CHECK_EQ(*(volatile u64 *)&kgs[2], 0xbeef);
	asm volatile("mov %0, %%ds" ::"r"(KDS));
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

USNIP(u_fsgs, "wrfsbase %rdi\n wrgsbase %rsi\n rdfsbase %rax\n rdgsbase %rbx\n"
	      "mov %fs:8, %rcx\n mov %gs:8, %rdx\n mov %fs:(%r8), %r9\n"
	      "wrfsbase %r10d\n rdfsbase %r11\n rdgsbase %r12d");
SNIP(s_wrgs, "wrgsbase %rax\n rdgsbase %rbx");
SNIP(s_wrfs_bad, "inc %rcx\n.globl s_wrfs_at\ns_wrfs_at: wrfsbase %rax");
extern char s_wrfs_at[];
static void fsgsbase(void)
{
	u64 va = slot_va(40, 0x1000), vb = slot_va(41, 0x1000);
	struct regs r, a;

	part("fsgsbase");
	if (!has_fsgsbase())
		return skip("FSGSBASE");
	regs_kernel(&r, s_wrgs);
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	run(&r);
	expect_fault(&r, 6, 0, s_wrgs);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	map_page(va, NULL, URW);
	map_page(vb, NULL, URW);
	for (unsigned i = 0; i < 100; i++) {
		u64 x = va + (rnd() & 0x7f8), y = vb + (rnd() & 0x7f8);

		*(u64 *)(x + 8) = i, *(u64 *)(y + 8) = i + 1000;
		*(u64 *)(x + 0x100) = i * 3;
		regs_user(&r, u_fsgs);
		r.rdi = x, r.rsi = y, r.r8 = 0x100, r.r10 = 0xfffffffff1234567;
		a = r;
		run_ok(&r);
		CHECK_EQ(r.rax, x);
		CHECK_EQ(r.rbx, y);
		CHECK_EQ(r.rcx, i);
		CHECK_EQ(r.rdx, i + 1000);
		CHECK_EQ(r.r9, i * 3);
		CHECK_EQ(r.r11, 0xf1234567);
		CHECK_EQ(r.r12, (u32)y);
		CHECK_EQ(rdmsr(MSR_GS_BASE), y);
		same_regs(&a, &r, 0xf | 1 << 9 | 1 << 11 | 1 << 12);
	}
	regs_kernel(&r, s_wrgs);
	r.rax = 0xffff888000000000;
	run_ok(&r);
	CHECK_EQ(r.rbx, r.rax);
	CHECK_EQ(rdmsr(MSR_GS_BASE), r.rax);
	if (!is_tcg()) {
		regs_kernel(&r, s_wrfs_bad);
		r.rax = 0x800000000000;
		a = r;
		run(&r);
		expect_fault(&r, 13, 0, s_wrfs_at);
		a.rcx++;
		same_regs(&a, &r, 0);
	}
	unmap_page(va);
	unmap_page(vb);
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);
}

/* ---- faults around it ---- */
SNIP(s_sysret, ".globl s_sysret_at\ns_sysret_at: sysretq");
SNIP(s_sysretl, "sysretl");
SNIP(s_wrmsr, ".globl s_wrmsr_at\ns_wrmsr_at: wrmsr");
SNIP(s_iret, ".globl s_iret_at\ns_iret_at: iretq");
USNIP(u_fault, "mov $0x55, %eax\n.globl u_fault_at\nu_fault_at: mov (%rdi), "
	       "%rbx");
extern char s_sysret_at[], s_wrmsr_at[], s_iret_at[], u_fault_at[];

static void bad_iret(const char *name, u64 rip, u64 cs, u64 fl, u64 rsp, u64 ss,
		     u64 vec, u64 err)
{
	static u64 frame[5];
	struct regs r, a;

	frame[0] = rip, frame[1] = cs, frame[2] = fl, frame[3] = rsp;
	frame[4] = ss;
	regs_kernel(&r, s_iret);
	r.rsp = (u64)frame;
	a = r;
	run(&r);
	if (r.vec != vec || r.err != err || r.rip != (u64)s_iret_at ||
	    r.rsp != a.rsp)
		fail_at(name, 0, "vec %lu err %lx rip %lx rsp %lx, want %lu "
			"%lx %lx", r.vec, r.err, r.rip, r.rsp, vec, err,
			(u64)s_iret_at);
}

static void faults(void)
{
	struct regs r, a;
	u64 u = (u64)u_done, sp = USTACK_TOP;

	part("sysret faults");
	/* SYSRET to a program that faults at once */
	regs_kernel(&r, s_sysret);
	r.rcx = (u64)u_fault;
	r.r11 = 2 | FL_IF | FL_CF;
	r.rdi = 0x123000;
	a = r;
	cli();
	run(&r);
	expect_fault(&r, 14, PF_U | (r.err & PF_P), u_fault_at);
	CHECK_EQ(r.cs, UCS);
	CHECK_EQ(r.ss, UDS);
	CHECK_EQ(r.rflags & (FL_IF | FL_CF), FL_IF | FL_CF);
	CHECK_EQ(r.rsp, a.rsp);
	CHECK_EQ(r.rax, 0x55);
	/* to a page that is not there, and one that is not the user's */
	regs_kernel(&r, s_sysret);
	r.rcx = slot_va(99, 0);
	r.r11 = 2;
	run(&r);
	expect_pf(&r, PF_U | PF_I, slot_va(99, 0), slot_va(99, 0));
	regs_kernel(&r, s_sysret);
	r.rcx = (u64)done;
	r.r11 = 2;
	run(&r);
	expect_pf(&r, PF_U | PF_I | PF_P, done, done);
	/* SYSRET at CPL 3 */
	static const u8 sysret[] = { 0x48, 0x0f, 0x07 };
	u64 va = slot_va(70, 0);

	map_page(va, NULL, URW);
	memcpy((void *)va, sysret, 3);
	regs_user(&r, (void *)va);
	run(&r);
	expect_fault(&r, 13, 0, va);
	/* 32-bit SYSRET: compatibility mode code at CPL 3 */
	static const u8 c32[] = { 0x40, 0x90, 0xcd, VEC_DONE }; /* inc eax */

	u64 low = 0x60000000;

	map_page(low, NULL, URW);
	memcpy((void *)low, c32, 4);
	regs_kernel(&r, s_sysretl);
	r.rcx = low;
	r.r11 = 2;
	r.rax = 7;
	run(&r);
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ(r.cs, UCS32);
	CHECK_EQ(r.rax, 8);
	unmap_page(low);
	/* non-canonical MSRs */
	if (!is_tcg()) {
		static const u32 msr[] = { MSR_LSTAR, MSR_FS_BASE, MSR_GS_BASE,
					   MSR_KGS_BASE, MSR_CSTAR, 0x175,
					   0x176 };

		for (unsigned i = 0; i < sizeof(msr) / 4; i++) {
			regs_kernel(&r, s_wrmsr);
			r.rcx = msr[i];
			r.rax = 0x1000;
			r.rdx = 0x8000;
			a = r;
			run(&r);
			expect_fault(&r, 13, 0, s_wrmsr_at);
			same_regs(&a, &r, 0);
		}
		/* to a non-canonical RIP: #GP; in the kernel on Intel, in user
		 * mode on AMD */
		regs_kernel(&r, s_sysret);
		r.rcx = 0x800000000000;
		r.r11 = 2;
		run(&r);
		CHECK_EQ(r.vec, 13);
	}
	/* SCE off: #UD */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	regs_user(&r, u_sys);
	run(&r);
	expect_fault(&r, 6, 0, u_sys_at);
	regs_kernel(&r, s_sysret);
	run(&r);
	expect_fault(&r, 6, 0, s_sysret_at);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	unmap_page(va);

	part("iret faults");
	bad_iret("null cs", u, 0, 2, sp, UDS, 13, 0);
	bad_iret("data cs", u, UDS, 2, sp, UDS, 13, UDS & ~3);
	bad_iret("cs beyond", u, 0x4003, 2, sp, UDS, 13, 0x4000);
	bad_iret("ss rpl", u, UCS, 2, sp, KDS, 13, KDS);
	bad_iret("ss code", u, UCS, 2, sp, UCS, 13, UCS & ~3);
	bad_iret("null ss to cpl 3", u, UCS, 2, sp, 0, 13, 0);
	if (!is_tcg())
		bad_iret("rip nc", 0x800000000000, UCS, 2, sp, UDS, 13, 0);
	/* not present */
	gdt[FREESEL / 8] = 0x00af7b000000ffff;
	bad_iret("cs absent", u, FREESEL | 3, 2, sp, UDS, 11, FREESEL);
	gdt[FREESEL / 8] = 0x00cf73000000ffff; /* DPL 3, absent */
	bad_iret("ss absent", u, UCS, 2, sp, FREESEL | 3, is_tcg() ? 11 : 12,
		 FREESEL);
	gdt[FREESEL / 8] = 0x00cf93000000ffff; /* DPL 0 */
	bad_iret("ss dpl", u, UCS, 2, sp, FREESEL | 3, 13, FREESEL);
	/* a null SS is fine at CPL 0 */
	static u64 frame[5];

	frame[0] = (u64)done, frame[1] = KCS, frame[2] = 2, frame[3] =
		KSTACK_TOP - 256, frame[4] = 0;
	regs_kernel(&r, s_iret);
	r.rsp = (u64)frame;
	run(&r);
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ(r.rsp, KSTACK_TOP - 256);
	CHECK_EQ(r.ss, 0);
	/* IRET restores IOPL, AC, ID, NT and DF at CPL 0 */
	frame[2] = 2 | FL_IOPL | FL_AC | FL_ID | FL_DF | FL_ARITH;
	frame[4] = KDS;
	regs_kernel(&r, s_iret);
	r.rsp = (u64)frame;
	run(&r);
	CHECK_EQ(r.rflags & ~FL_RF, frame[2]);
	/* at CPL 3 it cannot change IF or IOPL */
	static const u8 iretq[] = { 0x48, 0xcf };

	va = slot_va(71, 0);
	map_page(va, NULL, URW);
	memcpy((void *)va, iretq, 2);
	u64 *uf = (u64 *)(va + 0x800);

	uf[0] = (u64)u_done, uf[1] = UCS;
	uf[2] = 2 | FL_IOPL | FL_IF | FL_CF | FL_AC;
	uf[3] = sp, uf[4] = UDS;
	regs_user(&r, (void *)va);
	r.rsp = (u64)uf;
	run_ok(&r);
	CHECK_EQ(r.rflags & ~FL_RF, 2 | FL_CF | FL_AC);
	CHECK_EQ(r.cs, UCS);
	/* and not go to CPL 0 */
	uf[1] = KCS, uf[4] = KDS;
	regs_user(&r, (void *)va);
	r.rsp = (u64)uf;
	run(&r);
	expect_fault(&r, 13, KCS, va);
	unmap_page(va);
}

/* ---- SYSENTER / SYSEXIT ---- */
USNIP(u_senter, "sysenter");
SNIP(s_sexit, "rex.w sysexit");
SNIP(s_senter_to, "nop");
static void sysenter(void)
{
	struct regs r, a;
	/* SYSEXIT's selectors are CS+16.. (32-bit), CS+32, +40 (64-bit) */

	part("sysenter");
	if (!(cpuid(1, 0).d >> 11 & 1))
		return skip("SEP");
	wrmsr(0x174, 0);
	regs_user(&r, u_senter);
	run(&r);
	if (r.vec == 6)
		return skip("SYSENTER in long mode (AMD)");
	expect_fault(&r, 13, 0, u_senter);
	wrmsr(0x174, KCS);
	wrmsr(0x175, KSTACK_TOP);
	wrmsr(0x176, (u64)s_senter_to);
	regs_user(&r, u_senter);
	r.rflags = 2 | FL_IF | FL_CF;
	a = r;
	run_ok(&r);
	CHECK_EQ(r.cs, KCS);
	CHECK_EQ(r.ss, KDS);
	CHECK_EQ(r.rsp, KSTACK_TOP);
	CHECK_EQ(r.rflags & (FL_IF | FL_CF), FL_CF);
	same_regs(&a, &r, 1 << 4);
	gdt[(KCS + 32) / 8] = gdt[UCS / 8];
	/* KCS + 32 is UCS' slot already: 0x28; SS is 0x30: the TSS. Its
	 * selector is not checked. */
	regs_kernel(&r, s_sexit);
	r.rdx = (u64)u_done;
	r.rcx = USTACK_TOP - 64;
	run_ok(&r);
	CHECK_EQ(r.cs, UCS);
	CHECK_EQ(r.rsp, USTACK_TOP - 64);
	wrmsr(0x174, 0);
}

/* User code by IRET, SYSCALL and faults in turn; nothing leaks over. */
static void mixed(void)
{
	struct regs r, a;

	part("mixed");
	for (unsigned i = 0; i < 300; i++) {
		switch (i % 4) {
		case 0:
			regs_user(&r, u_sys);
			a = r;
			run(&r);
			CHECK_EQ(r.vec, VEC_DONE);
			break;
		case 1:
			regs_user(&r, u_fault);
			r.rdi = slot_va(123, i * 8);
			a = r;
			run(&r);
			expect_pf(&r, PF_U, u_fault_at, r.rdi);
			same_regs(&a, &r, 1);
			break;
		case 2:
			regs_user(&r, u_loop);
			r.rbx = 5;
			run(&r);
			CHECK_EQ(r.vec, VEC_DONE);
			break;
		case 3:
			regs_user(&r, u_done);
			a = r;
			run_ok(&r);
			same_regs(&a, &r, 0);
		}
	}
}

int main(void)
{
	setup();
	basics();
	gs_bases();
	fsgsbase();
	faults();
	sysenter();
	mixed();
	return 0;
}
