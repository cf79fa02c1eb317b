/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small operating system: processes at CPL 3 with an address space each (the
 * same addresses, other frames; PCIDs where there are any), preempted by the
 * timer, with system calls, copy-on-write after fork, pages taken away and
 * brought back, TLS by FS, exit and reuse of page tables. Each process computes
 * a checksum over its memory that C computes, too.
 */
#include "tests/guest/rt/enc.h"

#define NPROC 40
#define NDATA 12		     /* pages of data in each process */
#define DATA 0x0000008040000000ull   /* slot 1: slot 0 is shared */
#define DATA2 0x0000550000000000ull  /* the other half of the pages */
#define STACK 0x00007ffffffde000ull  /* one page */
#define TLS 0x00007f1234560000ull    /* one page */
#define ROUNDS 3000
#define TICK 0x60

/* rdi data, r14 data 2, rsi state, rcx rounds, r8 checksum. Each round: a step
 * of the generator, an update of one word in one of the pages, a push, a call,
 * a TLS counter; every 128th a system call. */
USNIP(program,
      "1: mov $6364136223846793005, %rax\n imul %rax, %rsi\n"
      "mov $1442695040888963407, %rax\n add %rax, %rsi\n"
      "mov %rsi, %rdx\n shr $33, %rdx\n mov %rdi, %r10\n test $1, %dl\n"
      "cmovnz %r14, %r10\n and $0x5ff8, %edx\n"
      "mov (%r10,%rdx), %rbx\n add %rsi, %rbx\n rol $7, %rbx\n"
      "mov %rbx, (%r10,%rdx)\n xor %rbx, %r8\n push %r8\n call 2f\n pop %r9\n"
      "add %r9, %r8\n incq %fs:0x40\n"
      "test $127, %ecx\n jnz 3f\n mov %rcx, %r12\n mov %ecx, %eax\n syscall\n"
      "mov %r12, %rcx\n"
      "3: dec %rcx\n jnz 1b\n mov %fs:0x40, %r13\n jmp 9f\n"
      "2: rolq $3, 8(%rsp)\n lea -32(%rsp), %rsp\n mov %rsi, 16(%rsp)\n"
      "add $32, %rsp\n ret\n 9:");

asm(".pushsection .text\n.globl sched_entry\nsched_entry:\n"
    "mov %rsp, sched_rsp(%rip)\n lea sched_stack(%rip), %rsp\n int $0x82\n"
    ".popsection\n.pushsection .bss\n.skip 512\nsched_stack: .quad 0\n"
    ".globl sched_rsp\nsched_rsp: .quad 0\n.popsection");
extern char sched_entry[];
extern volatile u64 sched_rsp;

struct proc {
	bool alive;
	struct regs regs;
	u64 root, want, fs_want, calls;
	unsigned pcid;
};
static struct proc procs[NPROC];
static u8 refs[64 << 8]; /* of frames below 64 MiB */
static u64 switches, faults, copies, calls, ticks, forks, evictions;
static bool pcids;

static u8 *ref(u64 frame)
{
	return &refs[(frame & PTE_ADDR) >> 12];
}

static u64 page_va(unsigned i)
{
	if (i < NDATA / 2)
		return DATA + i * PG;
	if (i < NDATA)
		return DATA2 + (i - NDATA / 2) * PG;
	return i == NDATA ? STACK : TLS;
}
#define NPAGES (NDATA + 2)

/* What the program must end with. */
static void expect(struct proc *p, u64 seed)
{
	static u64 mem[2][0x6000 / 8];
	u64 sum = 0, s = seed;

	memset(mem, 0, sizeof(mem));
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 *w, x, d;

		s = s * 6364136223846793005u + 1442695040888963407u;
		d = s >> 33;
		w = &mem[d & 1][(d & 0x5ff8) / 8];
		x = *w + s;
		x = x << 7 | x >> 57;
		*w = x;
		sum ^= x;
		sum += sum << 3 | sum >> 61;
	}
	p->want = sum;
	p->fs_want = ROUNDS;
}

static void switch_to(struct proc *p)
{
	static u64 seen[64];
	u64 cr3 = p->root;

	if (pcids) {
		cr3 |= p->pcid;
		if (seen[p->pcid] == p->root)
			cr3 |= NOFLUSH;
		seen[p->pcid] = p->root;
	}
	write_cr3(cr3);
	switches++;
}

static void spawn(struct proc *p, u64 seed)
{
	u64 root = p->root;

	memset(p, 0, sizeof(*p));
	p->alive = true;
	p->root = root ? root : root_new(); /* its tables are reused */
	p->pcid = 1 + (p - procs);
	expect(p, seed);
	for (unsigned i = 0; i < NPAGES; i++) {
		u64 f = (u64)page_alloc();

		*ref(f) = 1;
		map4k(p->root, page_va(i), f, URW);
	}
	regs_user(&p->regs, program);
	p->regs.rdi = DATA;
	p->regs.r14 = DATA2;
	p->regs.rsi = seed;
	p->regs.rcx = ROUNDS;
	p->regs.r8 = 0;
	p->regs.rsp = STACK + PG;
	p->regs.rflags = 2 | FL_IF;
}

/* Flush one page of a process, whoever runs. */
static void flush_page(struct proc *p, u64 va)
{
	u64 d[2] = { p->pcid, va };

	if (!pcids || (read_cr3() & 0xfff) == p->pcid)
		invlpg(va);
	else
		asm volatile("invpcid %0, %1" ::"m"(d), "r"(0ull) : "memory");
}

static void fork_proc(struct proc *p)
{
	struct proc *c = NULL;
	u64 root;

	for (unsigned i = 0; i < NPROC && !c; i++)
		if (!procs[i].alive)
			c = &procs[i];
	if (!c)
		return;
	root = c->root;
	*c = *p;
	c->pcid = 1 + (c - procs);
	c->root = root ? root : root_new();
	for (unsigned i = 0; i < NPAGES; i++) {
		pte_t *e = pte_at(p->root, page_va(i), 1, false);

		/* shared, read-only; the software bit 9 says why */
		*e = (*e & ~PTE_W) | 0x200;
		++*ref(*e);
		map4k(c->root, page_va(i), *e & PTE_ADDR,
		      (*e & ~PTE_ADDR) & ~(PTE_A | PTE_D));
		flush_page(p, page_va(i));
	}
	forks++;
}

static bool page_fault(struct proc *p)
{
	u64 va = p->regs.cr2 & -PG;
	pte_t *e = pte_at(p->root, va, 1, false);
	u64 *n;

	faults++;
	if (!e || !(p->regs.err & PF_U))
		return false;
	if (!(*e & PTE_P)) {
		if (!(*e & 0x400)) /* taken away by evict() */
			return false;
		*e = (*e & ~0x400ull) | PTE_P;
		return true;
	}
	if (!(p->regs.err & PF_W) || !(*e & 0x200)) {
		/* already mended in between: a stale entry may fault once */
		if (*e & PTE_W)
			return true;
		return false;
	}
	if (*ref(*e) > 1) {
		n = page_alloc();
		memcpy(n, (void *)(*e & PTE_ADDR), PG);
		--*ref(*e);
		*ref((u64)n) = 1;
		*e = (u64)n | URW;
		copies++;
	} else {
		*e = (*e & ~0x200ull) | PTE_W;
	}
	invlpg(va);
	return true;
}

/* Make a page absent; or harvest its A and D bits. */
static void evict(struct proc *p)
{
	u64 va = page_va(rnd() % NPAGES);
	pte_t *e = pte_at(p->root, va, 1, false);

	if (!(*e & PTE_P))
		return;
	if (rnd() & 1)
		*e = (*e & ~PTE_P) | 0x400;
	else
		*e &= ~(PTE_A | PTE_D);
	flush_page(p, va);
	evictions++;
}

static void end_proc(struct proc *p)
{
	CHECK_EQ(p->regs.r8, p->want);
	CHECK_EQ(p->regs.r13, p->fs_want);
	CHECK_EQ(p->regs.rsp, STACK + PG);
	CHECK_EQ(p->regs.rdi, DATA);
	for (unsigned i = 0; i < NPAGES; i++) {
		pte_t *e = pte_at(p->root, page_va(i), 1, false);

		if (--*ref(*e) == 0)
			page_free((void *)(*e & PTE_ADDR));
		*e = 0;
		flush_page(p, page_va(i));
	}
	p->alive = false;
}

static void pass(struct regs *r)
{
	if (r->cs == UCS)
		trap_default(r);
	apic_eoi(); /* a late one, at the end */
}

static void run_all(unsigned start, unsigned total)
{
	unsigned spawned = 0, ended = 0;
	u64 home = read_cr3() & PTE_ADDR;

	for (unsigned i = 0; i < start; i++, spawned++)
		spawn(&procs[i], rnd());
	for (unsigned turn = 0;; turn++) {
		struct proc *p = &procs[rnd() % NPROC];
		unsigned live = 0;

		if (!p->alive) {
			for (unsigned i = 0; i < NPROC; i++)
				if (procs[i].alive)
					live++, p = &procs[i];
			if (!live)
				break;
		}
		switch_to(p);
		wrmsr(MSR_FS_BASE, TLS);
		apic_oneshot(TICK, 1000 + rnd() % 200000);
		run(&p->regs);
		switch (p->regs.vec) {
		case TICK:
			ticks++;
			apic_eoi();
			CHECK_EQ(p->regs.cs, UCS);
			break;
		case 0x82:
			calls++;
			CHECK_EQ((u32)p->regs.rax, (u32)p->regs.r12);
			p->regs.rip = p->regs.rcx;
			p->regs.rflags = p->regs.r11;
			p->regs.rsp = sched_rsp;
			p->regs.cs = UCS;
			p->regs.ss = UDS;
			if (rnd() % 4 == 0 && ended < total)
				fork_proc(p);
			break;
		case 14:
			if (page_fault(p))
				break;
			/* fall through */
		default:
			fail_at("sched", turn, "vector %lu error %lx rip %lx "
				"cr2 %lx", p->regs.vec, p->regs.err,
				p->regs.rip, p->regs.cr2);
			return;
		case VEC_DONE:
			end_proc(p);
			ended++;
			if (spawned < total) {
				spawn(p, rnd());
				spawned++;
			}
		}
		if (rnd() % 8 == 0) {
			struct proc *q = &procs[rnd() % NPROC];

			if (q->alive)
				evict(q);
		}
	}
	apic_timer_stop();
	sti();
	asm volatile("nop\n nop");
	cli();
	write_cr3(home);
	printf("%u ended: %lu switches, %lu ticks, %lu calls, %lu faults, %lu "
	       "copies, %lu forks, %lu evictions\n", ended, switches, ticks,
	       calls, faults, copies, forks, evictions);
}

int main(void)
{
	apic_init();
	handlers[TICK] = pass;
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)KCS << 32);
	wrmsr(MSR_LSTAR, (u64)sched_entry);
	wrmsr(MSR_FMASK, 0x47700);
	part("plain");
	run_all(16, 40);
	CHECK(ticks > 10 && calls > 100 && faults > 100 && copies > 50);
	if (!has_pcid() || !has_invpcid()) {
		skip("PCID");
		return 0;
	}
	part("pcid");
	write_cr4(read_cr4() | CR4_PCIDE);
	pcids = true;
	run_all(16, 40);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	return 0;
}
