/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page faults that a handler mends, or not, and comes back from: what the
 * instruction then meets is what the tables say at that moment. Each part is
 * done often enough to be past every first time, from CPL 0 and CPL 3.
 */
#include "tests/guest/rt/enc.h"

#define VA slot_va(9, 0x40000)
#define FOREVER 40

SNIP(ld, "mov (%rdi), %rax");
SNIP(st, "mov %rax, (%rdi)");
SNIP(rmw, "addq $3, (%rdi)");
USNIP(uld, "mov (%rdi), %rax");
USNIP(ust, "mov %rax, (%rdi)");
USNIP(urmw, "addq $3, (%rdi)");

static u64 set_to[4]; /* entries that the handler makes, one after the other */
static unsigned n_faults, n_set;
static u64 errs[FOREVER + 1], other;
static pte_t *e;

static void on_pf(struct regs *r)
{
	if (n_faults < FOREVER)
		errs[n_faults] = r->err;
	if (read_cr2() != VA + 0x10 || n_faults++ == FOREVER)
		trap_default(r);
	if (other)
		r->rdi = other; /* back at the same place, elsewhere to */
	if (n_faults <= n_set)
		*e = set_to[n_faults - 1];
	if (n_faults == 2)
		invlpg(VA);
}

/* Vector that ended it. */
static u64 go(const char *code, bool user, u64 a, u64 b)
{
	struct regs r;

	n_faults = 0;
	n_set = b ? 2 : 1;
	set_to[0] = a;
	set_to[1] = b;
	*e = 0;
	invlpg(VA);
	if (user)
		regs_user(&r, code);
	else
		regs_kernel(&r, code);
	r.rdi = VA + 0x10;
	r.rax = 77;
	handlers[14] = on_pf;
	run(&r);
	handlers[14] = NULL;
	return r.vec;
}

static void one(bool user)
{
	u64 f = (u64)page_alloc(), g = (u64)page_alloc(), u = user ? PTE_U : 0;
	const char *l = user ? uld : ld, *s = user ? ust : st;
	const char *m = user ? urmw : rmw;
	u64 pu = user ? PF_U : 0;
	struct regs r;

	for (unsigned i = 0; i < 60; i++) {
		part("mended at once");
		*(u64 *)(f + 0x10) = 5;
		CHECK_EQ(go(l, user, f | PTE_P | u, 0), VEC_DONE);
		CHECK_EQ(n_faults, 1);
		CHECK_EQ(errs[0], pu);
		CHECK_EQ(*e, f | PTE_P | PTE_A | u);
		CHECK_EQ(go(s, user, f | KRW | u, 0), VEC_DONE);
		CHECK_EQ(errs[0], PF_W | pu);
		CHECK_EQ(*e, f | KRW | PTE_A | PTE_D | u);
		CHECK_EQ(*(u64 *)(f + 0x10), 77);
		CHECK_EQ(go(m, user, f | KRW | PTE_A | PTE_D | u, 0), VEC_DONE);
		CHECK_EQ(*(u64 *)(f + 0x10), 80);

		part("a read leaves the page clean");
		CHECK_EQ(go(l, user, f | KRW | u, 0), VEC_DONE);
		CHECK_EQ(*e, f | KRW | PTE_A | u);
		*(volatile u64 *)(VA + 0x10) = 81;
		CHECK_EQ(*e, f | KRW | PTE_A | PTE_D | u);

		part("mended in two steps");
		*(u64 *)(g + 0x10) = 9;
		CHECK_EQ(go(s, user, f | PTE_P | PTE_A | u, g | KRW | u),
			 VEC_DONE);
		CHECK_EQ(n_faults, 2);
		CHECK_EQ(errs[0], PF_W | pu);
		CHECK_EQ(errs[1], PF_P | PF_W | pu);
		CHECK_EQ(*(u64 *)(f + 0x10), 81);
		CHECK_EQ(*(u64 *)(g + 0x10), 77);
		if (user) {
			CHECK_EQ(go(l, true, f | KRW, g | URW), VEC_DONE);
			CHECK_EQ(errs[1], PF_P | PF_U);
			CHECK_EQ(*e, g | URW | PTE_A);
		}

		part("reserved bits");
		CHECK_EQ(go(l, user, f | KRW | u | 1ull << 50, g | KRW | u),
			 VEC_DONE);
		CHECK_EQ(errs[1], PF_RSVD | pu | (is_tcg() ? 0 : PF_P));

		part("not the write that it was");
		other = VA + 0x1010;
		map_page(other & ~0xfffull, (void *)g, KRW | u);
		CHECK_EQ(go(s, user, f | KRW | u, 0), VEC_DONE);
		CHECK_EQ(*e & PTE_D, 0);
		CHECK_EQ(*(u64 *)(g + 0x10), 77);
		other = 0;

		part("a page that the handler took away again");
		CHECK_EQ(go(l, user, f | KRW | u, 0), VEC_DONE);
		*e = 0;
		invlpg(VA);
		CHECK_EQ(go(l, user, 0, 0), 14);
		CHECK_EQ(n_faults, FOREVER + 1);
		CHECK_EQ(errs[FOREVER - 1], pu);
	}

	part("the stack of the handler is not there");
	regs_kernel(&r, st);
	r.rdi = VA + 0x10;
	*e = 0;
	invlpg(VA);
	for (unsigned i = 0; i < 20; i++) {
		set_ist(14, 5);
		tss.ist[5] = slot_va(10, 0x5000 + (i & 1) * 8);
		regs_kernel(&r, st);
		r.rdi = VA + 0x10;
		run(&r);
		CHECK_EQ(r.vec, 8);
		CHECK_EQ(r.err, 0);
		CHECK_EQ(r.rip, (u64)st);
		CHECK_EQ(r.rdi, VA + 0x10);
		gate_default(14);
	}
	page_free((void *)f);
	page_free((void *)g);
}

/* The handler's stack pointer may be what faults. */
SNIP(psh, "mov %rsp, %rax\n push %rbx\n push %rcx");
static void pushes(void)
{
	struct regs r;
	u64 f = (u64)page_alloc();

	part("pushes");
	for (unsigned i = 0; i < 60; i++) {
		n_faults = 0;
		n_set = 1;
		set_to[0] = f | KRW;
		*e = 0;
		invlpg(VA);
		regs_kernel(&r, psh);
		r.rsp = VA + 0x18;
		handlers[14] = on_pf;
		run(&r);
		handlers[14] = NULL;
		CHECK_EQ(r.vec, VEC_DONE);
		CHECK_EQ(n_faults, 1);
		CHECK_EQ(r.rsp, VA + 8);
		CHECK_EQ(*(u64 *)(f + 0x10), r.rbx);
		CHECK_EQ(*(u64 *)(f + 8), r.rcx);
	}
	page_free((void *)f);
}

int main(void)
{
	e = pte_at(root_now(), VA, 1, true);
	one(false);
	one(true);
	pushes();
	return 0;
}
