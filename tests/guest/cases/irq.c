/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts: the local APIC's timer against loops of all shapes, with the
 * state checked where they were interrupted; STI and MOV SS shadows; STI;HLT;
 * CLI; POPF and IRET that enable IF with something pending; priorities, TPR and
 * CR8, self IPIs, EOI; the TSC deadline.
 */
#include "tests/guest/rt/enc.h"

#define VEC 0x60
static volatile u64 hits, hit_rip, hit_rsp, hit_tsc;
static struct regs hit_regs;
static volatile u64 leave_to; /* nonzero: the handler goes on there */

static void on_irq(struct regs *r)
{
	hit_tsc = rdtsc();
	hits++;
	hit_rip = r->rip;
	hit_rsp = r->rsp;
	memcpy(&hit_regs, r, offsetof(struct regs, cr2));
	apic_eoi();
	if (leave_to) {
		r->rip = leave_to;
		r->rflags &= ~(FL_IF | FL_DF);
		r->cs = KCS;
		r->ss = KDS;
		r->rsp = KSTACK_TOP;
	}
}

/* ---- loops that only an interrupt ends ---- */
SNIP(l_self, "1: jmp 1b");
SNIP(l_inc, "1: inc %rax\n inc %rbx\n jmp 1b");
SNIP(l_two, "1: inc %rax\n jmp 2f\n ud2\n 2: inc %rbx\n jmp 1b");
SNIP(l_call, "1: call 2f\n inc %rbx\n jmp 1b\n 2: inc %rax\n ret");
SNIP(l_ind, "lea 1f(%rip), %rcx\n 1: inc %rax\n inc %rbx\n jmp *%rcx");
SNIP(l_mem, "1: incq (%rdi)\n incq 8(%rdi)\n jmp 1b");
SNIP(l_jcc, "1: inc %rax\n jz 2f\n inc %rbx\n jnz 1b\n 2: ud2");
SNIP(l_loop, "1: mov $0x7fffffff, %ecx\n 2: inc %rax\n inc %rbx\n loop 2b\n"
	     "jmp 1b");
SNIP(l_push, "1: push %rax\n inc %rax\n pop %rdx\n inc %rbx\n jmp 1b");
SNIP(l_pushf, "1: inc %rax\n pushfq\n popfq\n inc %rbx\n jmp 1b");
SNIP(l_rep, "1: mov %r8, %rdi\n mov $0x8000, %ecx\n rep stosb\n jmp 1b");
SNIP(l_drift, "1: sub $64, %rsp\n inc %rax\n add $64, %rsp\n inc %rbx\n jmp 1b");
SNIP(l_port, "mov $0x80, %edx\n 1: inc %rax\n out %al, %dx\n inc %rbx\n jmp 1b");
SNIP(l_cpuid, "1: mov %rsi, %rbx\n xor %eax, %eax\n cpuid\n inc %rsi\n jmp 1b");
USNIP(u_self, "1: jmp 1b");
USNIP(u_inc, "1: inc %rax\n inc %rbx\n jmp 1b");
USNIP(u_call, "1: call 2f\n inc %rbx\n jmp 1b\n 2: inc %rax\n ret");
/* nops of one block each: every boundary may be hit */
SNIP(l_chain, "1: inc %rax\n jmp 2f\n 2: jmp 3f\n 3: jmp 4f\n 4: inc %rbx\n"
	      "jmp 5f\n 5: jmp 1b");

static void loops(void)
{
	static const struct {
		const char *name, *code;
		bool user, diff;
	} t[] = {
		{ "self", l_self, 0, 0 },   { "inc", l_inc, 0, 1 },
		{ "two", l_two, 0, 1 },	    { "call", l_call, 0, 1 },
		{ "ind", l_ind, 0, 1 },	    { "mem", l_mem, 0, 0 },
		{ "jcc", l_jcc, 0, 1 },	    { "loop", l_loop, 0, 1 },
		{ "push", l_push, 0, 1 },   { "pushf", l_pushf, 0, 1 },
		{ "rep", l_rep, 0, 0 },	    { "drift", l_drift, 0, 1 },
		{ "port", l_port, 0, 1 },   { "cpuid", l_cpuid, 0, 0 },
		{ "uself", u_self, 1, 0 },  { "uinc", u_inc, 1, 1 },
		{ "ucall", u_call, 1, 1 },  { "chain", l_chain, 0, 1 },
	};
	static u64 cells[2];
	static u8 area[0x8000];

	part("loops");
	handlers[VEC] = on_irq;
	for (unsigned k = 0; k < 8; k++)
		for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
			struct regs r, a;
			u64 before = hits;

			if (t[i].user)
				regs_user(&r, t[i].code);
			else
				regs_kernel(&r, t[i].code);
			r.rax = r.rbx = 1;
			r.rdi = (u64)cells;
			r.r8 = (u64)area;
			r.rflags |= FL_IF;
			cells[0] = cells[1] = 0;
			leave_to = (u64)done;
			a = r;
			apic_oneshot(VEC, 20000 + rnd() % 400000);
			run_ok(&r);
			CHECK_EQ(hits, before + 1);
			leave_to = 0;
			/* where it stopped, and whether that fits */
			CHECK(hit_rip >= (u64)t[i].code &&
			      hit_rip < (u64)t[i].code + 64,
			      "%s at %lx", t[i].name, hit_rip);
			if (t[i].diff && hit_regs.rax - hit_regs.rbx > 1)
				fail_at(t[i].name, k, "rax %lx rbx %lx",
					hit_regs.rax, hit_regs.rbx);
			if (t[i].code == l_inc)
				CHECK_EQ(hit_regs.rax - hit_regs.rbx,
					 hit_rip == (u64)l_inc + 3);
			if (t[i].code == l_mem)
				CHECK_EQ(cells[0] - cells[1],
					 hit_rip == (u64)l_mem + 3);
			if (t[i].code == l_rep &&
			    hit_rip == (u64)l_rep + 8)
				CHECK_EQ(hit_regs.rdi + hit_regs.rcx,
					 (u64)area + 0x8000);
			if (t[i].code == l_rep)
				same_regs(&a, &hit_regs, 1 << 1 | 1 << 7);
			if (t[i].code == l_self || t[i].code == u_self)
				same_regs(&a, &hit_regs, 0);
			CHECK_EQ(hit_regs.cs, a.cs);
			CHECK_EQ(hit_regs.rflags & FL_IF, FL_IF);
			if (t[i].code == l_drift)
				CHECK(hit_rsp == a.rsp || hit_rsp == a.rsp - 64,
				      "rsp %lx", hit_rsp);
		}
}

/* A program that is interrupted often must compute the same. */
SNIP(crunch, "xor %eax, %eax\n mov $50000, %ecx\n"
	     "1: lea 7(%rax,%rax,4), %rax\n rol $5, %rax\n xor %rcx, %rax\n"
	     "push %rax\n call 2f\n pop %rdx\n add %rdx, %rbx\n dec %ecx\n"
	     "jnz 1b\n jmp 9f\n"
	     "2: mov 8(%rsp), %rsi\n imul %rsi, %rdi\n adc %rsi, %rdi\n ret\n 9:");
static void rearm(struct regs *r)
{
	hits++;
	apic_eoi();
	apic_oneshot(VEC, 5000 + rnd() % 60000);
}

static void interrupted_work(void)
{
	struct regs r, want;
	u64 before;

	part("interrupted work");
	regs_kernel(&want, crunch);
	run_ok(&want);
	handlers[VEC] = rearm;
	before = hits;
	apic_oneshot(VEC, 10000);
	/* a fast engine is done before the first interrupt */
	for (unsigned i = 0; hits < before + 50 && i < 2000; i++) {
		regs_kernel(&r, crunch);
		r.rflags |= FL_IF;
		run_ok(&r);
		same_regs(&want, &r, 0);
	}
	CHECK(hits > before, "no interrupt came");
	apic_timer_stop();
	handlers[VEC] = on_irq;
	sti();
	for (unsigned i = 0; i < 10; i++)
		asm volatile("nop");
	cli();
}

/* ---- shadows: a self IPI is pending all the time ---- */
#define AT(name, n) extern char name##_##n[]
#define LAB(name, n) ".globl " #name "_" #n "\n" #name "_" #n ": "
SNIP(s_sti, "sti\n nop\n" LAB(s_sti, 2) "nop\n nop\n cli");
AT(s_sti, 2);
SNIP(s_sti2, "sti\n sti\n" LAB(s_sti2, 2) "nop\n nop\n cli");
AT(s_sti2, 2);
SNIP(s_sticli, "sti\n cli\n nop\n sti\n cli\n nop");
SNIP(s_stijmp, "sti\n jmp 1f\n nop\n" LAB(s_stijmp, 2) "1: nop\n cli");
AT(s_stijmp, 2);
SNIP(s_popf, "pushfq\n orq $0x200, (%rsp)\n popfq\n" LAB(s_popf, 2)
	     "nop\n cli");
AT(s_popf, 2);
SNIP(s_movss, "mov %ss, %eax\n sti\n mov %eax, %ss\n nop\n" LAB(s_movss, 2)
	      "nop\n cli");
AT(s_movss, 2);
SNIP(s_hlt, "sti\n hlt\n" LAB(s_hlt, 2) "cli");
AT(s_hlt, 2);
SNIP(s_stiret, "lea 1f(%rip), %rax\n push %rax\n sti\n ret\n nop\n"
	       LAB(s_stiret, 2) "1: nop\n cli");
AT(s_stiret, 2);
SNIP(s_cr8, "xor %eax, %eax\n mov %rax, %cr8\n" LAB(s_cr8, 2) "nop\n nop");
AT(s_cr8, 2);
SNIP(s_iret, "mov %rsp, %rcx\n mov %ss, %eax\n push %rax\n push %rcx\n pushfq\n"
	     "orq $0x200, (%rsp)\n mov %cs, %eax\n push %rax\n"
	     "lea 1f(%rip), %rax\n push %rax\n iretq\n nop\n"
	     LAB(s_iret, 2) "1: nop\n cli");
AT(s_iret, 2);
SNIP(s_plain, "nop\n nop\n cli");

static void shadow(const char *name, const char *code, const char *at,
		   u64 flags)
{
	struct regs r;
	u64 before = hits;

	for (unsigned i = 0; i < 20; i++) {
		regs_kernel(&r, code);
		r.rflags |= flags;
		before = hits;
		hit_rip = 0;
		apic_self_ipi(VEC);
		run(&r);
		if (r.vec != VEC_DONE || hits != before + 1 ||
		    hit_rip != (u64)at) {
			fail_at(name, i, "vec %lu, %lu hits, at %lx, want %lx",
				r.vec, hits - before, hit_rip, (u64)at);
			/* take what is pending */
			sti();
			asm volatile("nop; nop");
			cli();
			return;
		}
	}
}

static void shadows(void)
{
	struct regs r;
	u64 before;

	part("shadows");
	handlers[VEC] = on_irq;
	shadow("sti nop", s_sti, s_sti_2, 0);
	shadow("sti sti", s_sti2, s_sti2_2, 0);
	shadow("sti jmp", s_stijmp, s_stijmp_2, 0);
	shadow("sti ret", s_stiret, s_stiret_2, 0);
	shadow("popf", s_popf, s_popf_2, 0);
	/* of two in a row only the first must hold interrupts back */
	regs_kernel(&r, s_movss);
	apic_self_ipi(VEC);
	run_ok(&r);
	CHECK(hit_rip == (u64)s_movss_2 || hit_rip == (u64)s_movss_2 - 1,
	      "at %lx", hit_rip);
	shadow("sti hlt", s_hlt, s_hlt_2, 0);
	shadow("iret", s_iret, s_iret_2, 0);
	shadow("iret in", s_plain, s_plain, FL_IF);
	/* sti; cli lets nothing in */
	before = hits;
	regs_kernel(&r, s_sticli);
	apic_self_ipi(VEC);
	run_ok(&r);
	CHECK_EQ(hits, before);
	sti();
	asm volatile("nop; nop");
	cli();
	CHECK_EQ(hits, before + 1);
	/* MOV CR8 that unmasks */
	for (unsigned i = 0; i < 20; i++) {
		before = hits;
		write_cr8(15);
		apic_self_ipi(VEC);
		regs_kernel(&r, s_cr8);
		r.rflags |= FL_IF;
		run_ok(&r);
		CHECK_EQ(hits, before + 1);
		CHECK_EQ(hit_rip, s_cr8_2);
	}
}

/* ---- sti;hlt against the timer, at all distances ---- */
static void halts(void)
{
	part("halt");
	handlers[VEC] = on_irq;
	for (unsigned i = 0; i < 300; i++) {
		struct regs r;
		u64 before = hits, spin = rnd() % 3000;

		apic_oneshot(VEC, 1000 + rnd() % 20000);
		for (volatile u64 k = 0; k < spin; k++)
			;
		regs_kernel(&r, s_hlt);
		run_ok(&r);
		CHECK_EQ(hits, before + 1);
		CHECK_EQ(hit_rip, s_hlt_2);
	}
	/* HLT waits */
	for (unsigned i = 0; i < 3; i++) {
		u64 t = rdtsc();

		apic_oneshot(VEC, 20000000);
		asm volatile("sti\n hlt\n cli");
		CHECK(rdtsc() - t > 10000000, "woke after %lu", rdtsc() - t);
	}
}

/* ---- CLI means it ---- */
static void clis(void)
{
	u64 before;

	part("cli");
	handlers[VEC] = on_irq;
	for (unsigned i = 0; i < 20; i++) {
		u64 t;

		before = hits;
		apic_oneshot(VEC, 2000);
		t = rdtsc();
		while (rdtsc() - t < 400000 || !(apic_read(APIC_IRR +
					(VEC / 32) * 16) >> (VEC % 32) & 1))
			if (rdtsc() - t > 40000000000) {
				fail_at("cli", i, "IRR never set");
				break;
			}
		CHECK_EQ(hits, before);
		/* pending across port I/O, CPUID, CR3 and MSR writes */
		cpuid(0, 0);
		outb(0x80, 0);
		write_cr3(read_cr3());
		wrmsr(MSR_KGS_BASE, 0);
		CHECK_EQ(hits, before);
		sti();
		asm volatile("nop");
		asm volatile("nop");
		cli();
		CHECK_EQ(hits, before + 1);
	}
}

/* ---- priorities ---- */
static u8 order[16];
static unsigned norder;
static bool no_eoi;
static void log_irq(struct regs *r)
{
	if (norder < 16)
		order[norder++] = r->vec;
	if (!no_eoi)
		apic_eoi();
}

static void window(void)
{
	sti();
	for (unsigned i = 0; i < 20; i++)
		asm volatile("nop");
	cli();
}

static bool irr(u8 v)
{
	return apic_read(APIC_IRR + v / 32 * 16) >> (v % 32) & 1;
}

static bool isr(u8 v)
{
	return apic_read(APIC_ISR + v / 32 * 16) >> (v % 32) & 1;
}

static void nested(struct regs *r)
{
	order[norder++] = r->vec;
	if (r->vec == 0x50) {
		/* a lower one stays out, a higher one comes in */
		apic_self_ipi(0x45);
		apic_self_ipi(0x72);
		window();
		order[norder++] = 1;
	}
	apic_eoi();
}

static void priorities(void)
{
	static const u8 v[] = { 0x41, 0x72, 0x55, 0x91, 0x4f, 0xe0 };
	static const u8 sorted[] = { 0xe0, 0x91, 0x72, 0x55, 0x4f, 0x41 };

	part("priorities");
	for (unsigned i = 0x30; i < 0xf0; i++)
		if (i != VEC_DONE)
			handlers[i] = log_irq;
	for (unsigned round = 0; round < 5; round++) {
		norder = 0;
		for (unsigned i = 0; i < 6; i++)
			apic_self_ipi(v[(i + round) % 6]);
		for (unsigned i = 0; i < 6; i++)
			CHECK(irr(v[i]), "vector %x is not in the IRR", v[i]);
		window();
		CHECK_EQ(norder, 6);
		CHECK(!memcmp(order, sorted, 6), "order %x %x %x %x %x %x",
		      order[0], order[1], order[2], order[3], order[4],
		      order[5]);
	}
	/* twice pending is once */
	norder = 0;
	apic_self_ipi(0x55);
	apic_self_ipi(0x55);
	window();
	CHECK_EQ(norder, 1);
	/* without EOI the same class and lower wait, higher come */
	norder = 0;
	no_eoi = true;
	apic_self_ipi(0x55);
	window();
	CHECK_EQ(norder, 1);
	CHECK(isr(0x55));
	CHECK_EQ(apic_read(APIC_PPR) & 0xf0, 0x50);
	apic_self_ipi(0x41);
	apic_self_ipi(0x5e);
	window();
	CHECK_EQ(norder, 1);
	apic_self_ipi(0x61);
	window();
	CHECK_EQ(norder, 2);
	CHECK_EQ(order[1], 0x61);
	CHECK(irr(0x41) && irr(0x5e));
	no_eoi = false;
	apic_eoi(); /* 61 */
	window();
	CHECK_EQ(norder, 2);
	apic_eoi(); /* 55 */
	window();
	CHECK_EQ(norder, 4);
	CHECK_EQ(order[2], 0x5e);
	CHECK_EQ(order[3], 0x41);
	CHECK(!isr(0x55));
	CHECK_EQ(apic_read(APIC_PPR), 0);
	/* TPR and CR8 are one */
	norder = 0;
	write_cr8(5);
	CHECK_EQ(apic_read(APIC_TPR), 0x50);
	CHECK_EQ(read_cr8(), 5);
	apic_self_ipi(0x55);
	apic_self_ipi(0x41);
	window();
	CHECK_EQ(norder, 0);
	apic_self_ipi(0x61);
	window();
	CHECK_EQ(norder, 1);
	apic_write(APIC_TPR, 0x40);
	CHECK_EQ(read_cr8(), 4);
	window();
	CHECK_EQ(norder, 2);
	CHECK_EQ(order[1], 0x55);
	write_cr8(0);
	window();
	CHECK_EQ(norder, 3);
	/* nesting */
	norder = 0;
	handlers[0x45] = handlers[0x50] = handlers[0x72] = nested;
	apic_self_ipi(0x50);
	window();
	CHECK_EQ(norder, 4);
	CHECK(order[0] == 0x50 && order[1] == 0x72 && order[2] == 1 &&
	      order[3] == 0x45, "%x %x %x %x", order[0], order[1], order[2],
	      order[3]);
	for (unsigned i = 0x30; i < 0xf0; i++)
		handlers[i] = NULL;
}

/* Halt until that many have come. */
static void wait_for(u64 n)
{
	cli();
	while (hits < n)
		asm volatile("sti\n hlt\n cli");
}

/* ---- TSC deadline ---- */
static void deadline(void)
{
	part("deadline");
	if (!has_tsc_deadline())
		return skip("TSC deadline");
	handlers[VEC] = on_irq;
	for (unsigned i = 0; i < 100; i++) {
		u64 t = rdtsc(), target = t + 1000 + rnd() % 2000000;
		u64 before = hits;
		struct regs r;

		apic_deadline(VEC, target);
		if (i & 1) {
			regs_kernel(&r, s_hlt);
		} else {
			leave_to = (u64)done;
			regs_kernel(&r, i & 2 ? l_self : l_inc);
			r.rflags |= FL_IF;
		}
		run_ok(&r);
		leave_to = 0;
		CHECK_EQ(hits, before + 1);
		CHECK(hit_tsc >= target, "%ld cycles early", target - hit_tsc);
		CHECK_EQ(rdmsr(0x6e0), 0);
	}
	/* in the past: at once; 0: never; a new one replaces the old one */
	u64 before = hits;

	apic_deadline(VEC, 1);
	window();
	for (u64 t = rdtsc(); rdtsc() - t < 20000000 && hits == before;)
		window();
	CHECK_EQ(hits, before + 1);
	before = hits;
	u64 t = rdtsc();
	apic_deadline(VEC, t + 4000000);
	wrmsr(0x6e0, 0);
	if (rdtsc() < t + 4000000) { /* the host did not stop us */
		for (t = rdtsc(); rdtsc() - t < 6000000;)
			window();
		CHECK_EQ(hits, before);
	}
	window();
	before = hits;
	t = rdtsc();
	apic_deadline(VEC, t + 4000000);
	apic_deadline(VEC, t + 12000000);
	if (rdtsc() < t + 4000000) {
		for (;;) {
			u64 seen;

			window();
			seen = hits;
			if (rdtsc() > t + 11000000)
				break;
			CHECK_EQ(seen, before);
		}
		wait_for(before + 1);
		CHECK(hit_tsc >= t + 12000000);
	} else {
		wait_for(before + 1);
	}
	/* RDTSC goes forward, also over HLT */
	u64 last = rdtsc();

	for (unsigned i = 0; i < 1000; i++) {
		t = rdtsc();
		CHECK(t >= last);
		last = t;
	}
}

/* ---- a periodic timer ---- */
static void periodic(void)
{
	u64 before = hits;

	part("periodic");
	handlers[VEC] = on_irq;
	apic_write(0x3e0, 3);
	apic_write(0x320, 0x20000 | VEC);
	apic_write(0x380, 20000);
	wait_for(before + 10);
	apic_timer_stop();
	window();
	before = hits;
	for (u64 t = rdtsc(); rdtsc() - t < 3000000;)
		window();
	CHECK_EQ(hits, before);
	/* masked: counts, but does not fire */
	apic_write(0x320, 0x10000 | VEC);
	apic_write(0x380, 100);
	for (u64 t = rdtsc(); rdtsc() - t < 3000000;)
		window();
	CHECK_EQ(hits, before);
	CHECK(!irr(VEC));
}

int main(void)
{
	apic_init();
	loops();
	interrupted_work();
	shadows();
	halts();
	clis();
	priorities();
	deadline();
	periodic();
	printf("%lu interrupts%s\n", hits, apic_x2 ? ", x2APIC" : "");
	return 0;
}
