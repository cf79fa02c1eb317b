/* SPDX-License-Identifier: Apache-2.0 */
/* Event delivery, IRET and the fast system calls: frames, stacks, rights, and
 * what happens when the delivery itself faults. */
#include "tests/unit/sys_fixture.h"

#define assert_handler(n)                                                      \
	do {                                                                   \
		assert_int_equal(f->v->rip, HANDLER + 16 * (n));               \
		assert_int_equal(f->v->cpl, 0);                                \
		assert_false(f->v->exc.pending);                               \
	} while (0)

/* The frame of n words that starts at rsp. */
static void assert_frame(struct fix *f, const uint64_t *want, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (peek64(f, f->v->gpr[R_RSP] + 8 * i) != want[i])
			fail_msg("frame word %u is %lx, not %lx", i,
				 peek64(f, f->v->gpr[R_RSP] + 8 * i), want[i]);
}

static void same_ring(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->gpr[R_RSP] = STACK - 4; /* aligned to 16 before pushing */
	v->rflags = FL_R1 | FL_IF | FL_CF | FL_TF | FL_NT;
	v->irq_shadow = 1;
	v->halted = 1;
	assert_int_equal(vcpu_raise(v, EXC_UD), CPU_EXC);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_UD);
	assert_int_equal(v->gpr[R_RSP], STACK - 16 - 40);
	assert_frame(f,
		     (uint64_t[]){0x8000, S_CODE64,
				  FL_R1 | FL_IF | FL_CF | FL_TF | FL_NT | FL_RF,
				  STACK - 4, S_DATA},
		     5);
	assert_int_equal(v->rflags, FL_R1 | FL_CF);
	assert_int_equal(v->seg[SEG_SS].sel, S_DATA);
	assert_false(v->irq_shadow || v->halted);
}

static void error_code_and_trap_gate(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	set_gate(f, EXC_GP, S_CODE64, 0xffff800000012340, 0x8f, 0);
	v->rflags = FL_R1 | FL_IF;
	vcpu_raise_err(v, EXC_GP, 0x1238);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_true(v->rip == 0xffff800000012340);
	assert_frame(f,
		     (uint64_t[]){0x1238, 0x8000, S_CODE64,
				  FL_R1 | FL_IF | FL_RF, STACK, S_DATA},
		     6);
	assert_int_equal(v->rflags, FL_R1 | FL_IF); /* a trap gate keeps IF */
}

static void from_user(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	go_user(f);
	v->gpr[R_RSP] = 0x500008;
	vcpu_raise_pf(v, 0xdead, PF_U | PF_W);
	assert_int_equal(v->cr2, 0); /* not before delivery */
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_PF);
	assert_int_equal(v->cr2, 0xdead);
	assert_int_equal(v->gpr[R_RSP], RSP0 - 48);
	assert_frame(f,
		     (uint64_t[]){PF_U | PF_W, 0x400100, S_UCODE64,
				  FL_R1 | FL_IF | FL_RF, 0x500008, S_UDATA},
		     6);
	assert_int_equal(v->seg[SEG_SS].sel, 0); /* null, RPL = new CPL */
	assert_int_equal(v->seg[SEG_CS].sel, S_CODE64);
	/* and back */
	v->gpr[R_RSP] += 8;
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->rip, 0x400100);
	assert_int_equal(v->gpr[R_RSP], 0x500008);
	assert_int_equal(v->seg[SEG_CS].sel, S_UCODE64);
	assert_int_equal(v->seg[SEG_SS].sel, S_UDATA);
	assert_int_equal(v->rflags, FL_R1 | FL_IF | FL_RF);
}

static void ist(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	set_gate(f, EXC_DB, S_CODE64, HANDLER + 16, 0x8e, 1);
	vcpu_raise(v, EXC_DB);
	v->exc.dr6 = DR6_BS;
	v->dr[7] |= DR7_GD;
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(1);
	assert_int_equal(v->gpr[R_RSP], IST1 - 40);
	assert_true(v->dr[6] == (DR6_FIXED1 | DR6_BS));
	assert_false(v->dr[7] & DR7_GD);
	/* a #DB pushes RF as it was */
	assert_int_equal(peek64(f, IST1 - 24), FL_R1);
	assert_int_equal(v->seg[SEG_SS].sel, S_DATA); /* same ring: kept */
	/* also from ring 3, instead of RSP0 */
	go_user(f);
	vcpu_raise(v, EXC_DB);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_int_equal(v->gpr[R_RSP], IST1 - 40);
	assert_int_equal(peek64(f, IST1 - 8), S_UDATA);
	assert_int_equal(v->seg[SEG_SS].sel, 0);
}

static void interrupt(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->rflags |= FL_IF;
	assert_true(cpu_can_take_irq(v));
	v->irq_shadow = 1;
	assert_false(cpu_can_take_irq(v));
	v->irq_shadow = 0;
	assert_int_equal(cpu_deliver_interrupt(v, 0xec), CPU_OK);
	assert_handler(0xec);
	assert_frame(
		f, (uint64_t[]){0x8000, S_CODE64, FL_R1 | FL_IF, STACK, S_DATA},
		5);
	assert_false(cpu_can_take_irq(v));
	/* the lowest byte of the vector space: #PF's number from outside has
	 * no error code */
	v->gpr[R_RSP] = STACK;
	assert_int_equal(cpu_deliver_interrupt(v, 14), CPU_OK);
	assert_int_equal(v->gpr[R_RSP], STACK - 40);
}

static void soft_interrupts(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	/* from the kernel: DPL 0 will do, rip is the next instruction */
	assert_int_equal(cpu_soft_interrupt(v, 3, 0x8001), CPU_OK);
	assert_handler(3);
	assert_frame(f, (uint64_t[]){0x8001, S_CODE64, FL_R1}, 3);
	go_user(f);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0x400102), EXC_GP, 0x80 * 8 + 2);
	assert_int_equal(v->rip, 0x400100);
	assert_int_equal(v->cpl, 3);
	set_gate(f, 0x80, S_CODE64, HANDLER + 0x800, 0xee, 0);
	assert_int_equal(cpu_soft_interrupt(v, 0x80, 0x400102), CPU_OK);
	assert_handler(0x80);
	assert_int_equal(peek64(f, RSP0 - 40), 0x400102);
}

static void gate_checks(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->idtr.limit = 0x80 * 16 - 1;
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0x402);
	v->idtr.limit = 0x81 * 16 - 2;
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0x402);
	v->idtr.limit = 0xfff;
	set_gate(f, 0x80, S_CODE64, HANDLER, 0x0e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_NP, 0x402);
	set_gate(f, 0x80, S_CODE64, HANDLER, 0x8c, 0); /* a call gate */
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0x402);
	set_gate(f, 0x80, S_CODE64, HANDLER, 0x86, 0); /* 16-bit */
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0x402);
	set_gate(f, 0x80, S_CODE32, HANDLER, 0x8e, 0); /* not 64-bit code */
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, S_CODE32);
	set_gate(f, 0x80, S_DATA, HANDLER, 0x8e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, S_DATA);
	set_gate(f, 0x80, S_NPCODE, HANDLER, 0x8e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_NP, S_NPCODE);
	set_gate(f, 0x80, S_UCODE64, HANDLER, 0x8e, 0); /* less privileged */
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, S_UCODE64 & ~3);
	set_gate(f, 0x80, 0, HANDLER, 0x8e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0);
	set_gate(f, 0x80, 0x800, HANDLER, 0x8e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0x800);
	set_gate(f, 0x80, S_CODE64, 1ull << 47, 0x8e, 0);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_GP, 0);
	set_gate(f, 0x80, S_CODE64, HANDLER, 0x8e, 1);
	poke64(f, TSS + 36, 1ull << 50);
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_SS, 0);
	v->tr.limit = 36 + 6;
	assert_exc(cpu_soft_interrupt(v, 0x80, 0), EXC_TS, S_TSS);
	/* nothing has moved */
	assert_int_equal(v->rip, 0x8000);
	assert_int_equal(v->gpr[R_RSP], STACK);
	assert_int_equal(v->rflags, FL_R1);
}

/* A fault in the delivery of an interrupt: EXT, rip of the interrupted. */
static void fault_in_interrupt(void **state)
{
	struct fix *f = *state;

	long_mode(f);
	set_gate(f, 0x40, S_CODE64, HANDLER, 0x0e, 0);
	assert_int_equal(cpu_deliver_interrupt(f->v, 0x40), CPU_OK);
	assert_handler(EXC_NP);
	assert_frame(f, (uint64_t[]){0x40 * 8 + 2 + 1, 0x8000}, 2);
}

/* Table 6-5: #GP whose handler is not present gives #DF; #UD's gives #NP. */
static void double_fault(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	set_gate(f, EXC_GP, S_CODE64, HANDLER, 0x0e, 0);
	set_gate(f, EXC_DF, S_CODE64, HANDLER + 16 * EXC_DF, 0x8e, 1);
	vcpu_raise_err(v, EXC_GP, 5);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_DF);
	assert_int_equal(v->gpr[R_RSP], IST1 - 48);
	assert_frame(f, (uint64_t[]){0, 0x8000}, 2);

	v->rip = 0x8000;
	set_gate(f, EXC_UD, S_CODE64, HANDLER, 0x0e, 0);
	vcpu_raise(v, EXC_UD);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_NP);
	assert_frame(f, (uint64_t[]){EXC_UD * 8 + 3, 0x8000}, 2);
}

/* A stack overflow: #PF while pushing the frame of a #PF. CR2 is the second. */
static void page_fault_twice(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	set_gate(f, EXC_DF, S_CODE64, HANDLER + 16 * EXC_DF, 0x8e, 1);
	v->gpr[R_RSP] = 0x700000001000;
	vcpu_raise_pf(v, 0x123, PF_W);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_DF);
	assert_true(v->cr2 >> 12 == 0x700000000);
	assert_int_equal(peek64(f, IST1 - 16), 0x700000001000);
	/* #GP, then #PF while delivering: the #PF goes first, serially */
	v->gpr[R_RSP] = 0x700000001000;
	v->rip = 0x8000;
	set_gate(f, EXC_PF, S_CODE64, HANDLER + 16 * EXC_PF, 0x8e, 1);
	vcpu_raise(v, EXC_GP);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_PF);
	assert_int_equal(peek64(f, IST1 - 48), PF_W);
	assert_int_equal(peek64(f, IST1 - 40), 0x8000);
}

/* The highest word of a frame is pushed first: its page faults first. */
static void frame_across_pages(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	set_gate(f, EXC_PF, S_CODE64, HANDLER + 16 * EXC_PF, 0x8e, 1);
	map_page(f, 0x600000000000, 0x50000, PTE_P | PTE_W);
	map_page(f, 0x600000001000, 0x51000, PTE_P | PTE_W);
	v->gpr[R_RSP] = 0x600000001010;
	vcpu_raise(v, EXC_UD);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_UD);
	assert_int_equal(peek64(f, 0x51008), S_DATA);
	assert_int_equal(peek64(f, 0x51000), 0x600000001010);
	assert_int_equal(peek64(f, 0x50ff8), FL_R1 | FL_RF);
	assert_int_equal(peek64(f, 0x50fe8), 0x8000);
	map_page(f, 0x600000000000, 0, 0);
	mem_flush(v);
	v->gpr[R_RSP] = 0x600000001010;
	vcpu_raise(v, EXC_UD);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_PF);
	assert_true(v->cr2 == 0x600000000ff8);
}

static void triple_fault(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->idtr.limit = 0; /* how Linux resets as a last resort */
	assert_exc(cpu_soft_interrupt(v, 3, 0), EXC_GP, 3 * 8 + 2);
	vcpu_raise_err(v, EXC_GP, 26);
	assert_int_equal(cpu_deliver_exception(v), CPU_EXIT);
	assert_int_equal(v->exit, EXIT_SHUTDOWN);
	assert_int_equal(v->rip, 0x8000);
	assert_int_equal(v->gpr[R_RSP], STACK);
}

static void iret_same_ring(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t sp = STACK - 40;

	long_mode(f);
	v->gpr[R_RSP] = sp;
	poke64(f, sp, 0xffffffff81000000);
	poke64(f, sp + 8, S_CODE64);
	poke64(f, sp + 16, FL_IF | FL_ID | FL_AC | FL_IOPL | FL_VM | FL_DF);
	poke64(f, sp + 24, 0x1234567890);
	poke64(f, sp + 32, S_DATA);
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_true(v->rip == 0xffffffff81000000);
	assert_int_equal(v->gpr[R_RSP], 0x1234567890);
	assert_int_equal(v->rflags,
			 FL_R1 | FL_IF | FL_ID | FL_AC | FL_IOPL | FL_DF);
	/* a null SS is fine in ring 0 of 64-bit mode */
	v->gpr[R_RSP] = sp;
	poke64(f, sp + 32, 0);
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_int_equal(v->seg[SEG_SS].sel, 0);
}

static void iret_faults(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	const uint64_t sp = STACK - 40;
	const struct {
		uint64_t rip;
		uint16_t cs, ss;
		uint8_t vec;
		uint16_t err;
	} t[] = {
		{1ull << 47, S_CODE64, S_DATA, EXC_GP, 0},
		{1ull << 47, S_UCODE64, S_UDATA, EXC_GP, 0},
		{0x1000, 0, S_DATA, EXC_GP, 0},
		{0x1000, 3, S_DATA, EXC_GP, 0},
		{0x1000, S_DATA, S_DATA, EXC_GP, S_DATA},
		{0x1000, S_CODE64 | 3, S_UDATA, EXC_GP, S_CODE64},
		{0x1000, S_NPCODE, S_DATA, EXC_NP, S_NPCODE},
		{0x1000, S_BADLD, S_DATA, EXC_GP, S_BADLD},
		{0x1000, 0x7f8, S_DATA, EXC_GP, 0x7f8},
		{0x1000, S_UCODE64, 0, EXC_GP, 0},
		{0x1000, S_UCODE64, 3, EXC_GP, 0},
		{0x1000, S_CODE64, 3, EXC_GP, 0},
		{0x1000, S_CODE32, 0, EXC_GP, 0},
		{0x1000, S_UCODE64, S_DATA, EXC_GP, S_DATA},
		{0x1000, S_UCODE64, S_DATA | 3, EXC_GP, S_DATA},
		{0x1000, S_CODE64, S_RODATA, EXC_GP, S_RODATA},
		{0x1000, S_CODE64, S_NPDATA, EXC_SS, S_NPDATA},
		{0x1000, S_CODE64, S_UCODE64, EXC_GP, S_UCODE64 & ~3},
	};

	long_mode(f);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		v->gpr[R_RSP] = sp;
		poke64(f, sp, t[i].rip);
		poke64(f, sp + 8, t[i].cs);
		poke64(f, sp + 16, FL_IF);
		poke64(f, sp + 24, 0x9000);
		poke64(f, sp + 32, t[i].ss);
		if (cpu_iret(v, 8) != CPU_EXC || v->exc.vector != t[i].vec ||
		    v->exc.error != t[i].err)
			fail_msg("case %u: vector %u error %x", i,
				 v->exc.vector, v->exc.error);
		assert_int_equal(v->rip, 0x8000);
		assert_int_equal(v->gpr[R_RSP], sp);
		assert_int_equal(v->rflags, FL_R1);
		assert_int_equal(v->cpl, 0);
	}
	/* NT set in long mode */
	v->rflags |= FL_NT;
	assert_exc(cpu_iret(v, 8), EXC_GP, 0);
	v->rflags &= ~FL_NT;
	/* the stack is not there */
	v->gpr[R_RSP] = 0x600000000000;
	assert_exc(cpu_iret(v, 8), EXC_PF, 0);
	v->gpr[R_RSP] = 1ull << 50;
	assert_exc(cpu_iret(v, 8), EXC_SS, 0);
	/* ring 3 cannot return inwards, nor change IOPL and IF */
	go_user(f);
	v->gpr[R_RSP] = USER_STACK - 40;
	poke64(f, USER_STACK - 40, 0x1000);
	poke64(f, USER_STACK - 32, S_CODE64);
	assert_exc(cpu_iret(v, 8), EXC_GP, S_CODE64);
	poke64(f, USER_STACK - 32, S_UCODE64);
	poke64(f, USER_STACK - 24, FL_IOPL | FL_CF);
	poke64(f, USER_STACK - 16, 0x9000);
	poke64(f, USER_STACK - 8, S_UDATA);
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_int_equal(v->rflags, FL_R1 | FL_IF | FL_CF);
}

static void iret_to_compat_user(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	const uint64_t sp = STACK - 40;

	long_mode(f);
	v->seg[SEG_DS] = seg_of(S_DATA, ~0u, 0xc93); /* ring 0's: goes */
	v->seg[SEG_ES] = seg_of(S_UDATA, ~0u, 0xcf3);
	v->seg[SEG_FS].base = 0x1234;
	v->gpr[R_RSP] = sp;
	poke64(f, sp, 0xaaaa000000401000);
	poke64(f, sp + 8, S_UCODE32);
	poke64(f, sp + 16, FL_IF);
	poke64(f, sp + 24, 0xbbbb000000501000);
	poke64(f, sp + 32, S_UDATA);
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_false(vcpu_code64(v));
	assert_int_equal(v->rip, 0x401000);
	assert_int_equal(v->gpr[R_RSP], 0x501000);
	assert_int_equal(v->seg[SEG_DS].sel, 0);
	assert_false(v->seg[SEG_DS].attr & SEG_ATTR_P);
	assert_int_equal(v->seg[SEG_ES].sel, S_UDATA);
	assert_int_equal(v->seg[SEG_FS].base, 0x1234);
	/* an interrupt out of it comes to 64-bit mode */
	assert_int_equal(cpu_deliver_interrupt(v, 0x30), CPU_OK);
	assert_handler(0x30);
	assert_true(vcpu_code64(v));
	assert_int_equal(v->gpr[R_RSP], RSP0 - 40);
	/* and back by an IRET of its frame */
	assert_int_equal(cpu_iret(v, 8), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_false(vcpu_code64(v));
	/* IRETD in compatibility mode, same ring: three words, no SS:ESP */
	v->gpr[R_RSP] = USER_STACK;
	poke32(f, USER_STACK, 0x402000);
	poke32(f, USER_STACK + 4, S_UCODE32);
	poke32(f, USER_STACK + 8, FL_CF | FL_IF);
	assert_int_equal(cpu_iret(v, 4), CPU_OK);
	assert_int_equal(v->rip, 0x402000);
	assert_int_equal(v->gpr[R_RSP], USER_STACK + 12);
	assert_int_equal(v->rflags, FL_R1 | FL_CF | FL_IF);
}

static void protected32(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t sp;

	prot_mode(f);
	v->rflags |= FL_IF;
	vcpu_raise_err(v, EXC_GP, 0x18);
	assert_int_equal(cpu_deliver_exception(v), CPU_OK);
	assert_handler(EXC_GP);
	sp = v->gpr[R_RSP];
	assert_int_equal(sp, STACK - 16); /* no SS:ESP, four bytes each */
	assert_int_equal(peek32(f, sp), 0x18);
	assert_int_equal(peek32(f, sp + 4), 0x8000);
	assert_int_equal(peek32(f, sp + 8), S_CODE32);
	assert_int_equal(peek32(f, sp + 12), FL_R1 | FL_IF | FL_RF);
	v->gpr[R_RSP] += 4;
	assert_int_equal(cpu_iret(v, 4), CPU_OK);
	assert_int_equal(v->rip, 0x8000);
	assert_int_equal(v->gpr[R_RSP], STACK);
	/* from ring 3: SS0:ESP0 */
	v->cpl = 3;
	v->seg[SEG_CS] = seg_of(S_UCODE32, ~0u, 0xcfb);
	v->seg[SEG_SS] = seg_of(S_UDATA, ~0u, 0xcf3);
	v->gpr[R_RSP] = 0x501234;
	v->rflags = FL_R1 | FL_IF;
	assert_int_equal(cpu_deliver_interrupt(v, 0x30), CPU_OK);
	assert_handler(0x30);
	assert_int_equal(v->gpr[R_RSP], RSP0 - 20);
	assert_int_equal(v->seg[SEG_SS].sel, S_DATA);
	assert_int_equal(peek32(f, RSP0 - 4), S_UDATA);
	assert_int_equal(peek32(f, RSP0 - 8), 0x501234);
	assert_int_equal(peek32(f, RSP0 - 16), S_UCODE32);
	assert_int_equal(cpu_iret(v, 4), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->gpr[R_RSP], 0x501234);
	/* the TSS's SS0 is no good: #TS with its selector and EXT */
	poke32(f, TSS + 8, S_UDATA);
	assert_int_equal(cpu_deliver_interrupt(v, 0x30), CPU_EXIT);
	assert_int_equal(v->exit, EXIT_SHUTDOWN); /* #TS, #DF, shutdown */
	/* a task gate says what it is */
	poke64(f, IDT + 8 * EXC_DF, 0x850000000000ull | (uint64_t)S_TSS << 16);
	vcpu_raise(v, EXC_DF);
	assert_int_equal(cpu_deliver_exception(v), CPU_EXIT);
	assert_int_equal(v->exit, EXIT_ERROR);
	assert_non_null(strstr(v->exit_reason, "task gate"));
}

/* A 32-bit stack segment with a limit below the frame. */
static void stack_limit(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	prot_mode(f);
	v->seg[SEG_SS].limit = STACK - 20;
	assert_exc(cpu_soft_interrupt(v, 3, 0x8001), EXC_SS, 0);
	v->seg[SEG_SS].limit = ~0u;
	v->seg[SEG_SS].attr = 0x497; /* expand down: above the limit only */
	v->seg[SEG_SS].limit = STACK - 9;
	assert_exc(cpu_soft_interrupt(v, 3, 0x8001), EXC_SS, 0);
	v->seg[SEG_SS].limit = STACK - 13;
	assert_int_equal(cpu_soft_interrupt(v, 3, 0x8001), CPU_OK);
}

static void real_mode(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	v->idtr = (struct dtable){.limit = 0x3ff};
	poke16(f, 0x21 * 4, 0x1234);
	poke16(f, 0x21 * 4 + 2, 0x2000);
	v->seg[SEG_CS].sel = 0x700;
	v->seg[SEG_CS].base = 0x7000;
	v->seg[SEG_SS].sel = 0x3000;
	v->seg[SEG_SS].base = 0x30000;
	v->gpr[R_RSP] = 0xdead0004;
	v->rflags = FL_R1 | FL_IF | FL_AC;
	assert_int_equal(cpu_soft_interrupt(v, 0x21, 0x102), CPU_OK);
	assert_int_equal(v->rip, 0x1234);
	assert_int_equal(v->seg[SEG_CS].base, 0x20000);
	/* SP wraps within 64 KiB and the upper half of ESP stays */
	assert_int_equal(v->gpr[R_RSP], 0xdeadfffe);
	assert_int_equal(peek16(f, 0x30002), FL_R1 | FL_IF);
	assert_int_equal(peek16(f, 0x30000), 0x700);
	assert_int_equal(peek16(f, 0x3fffe), 0x102);
	assert_int_equal(v->rflags, FL_R1);
	assert_int_equal(cpu_iret(v, 2), CPU_OK);
	assert_int_equal(v->rip, 0x102);
	assert_int_equal(v->seg[SEG_CS].base, 0x7000);
	assert_int_equal(v->gpr[R_RSP], 0xdead0004);
	assert_int_equal(v->rflags, FL_R1 | FL_IF);
}

/* SYSCALL, SYSRET */

static void syscalls(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->star = (uint64_t)S_UCODE32 << 48 | (uint64_t)S_CODE64 << 32;
	v->lstar = 0xffffffff81000000;
	v->fmask = FL_IF | FL_DF | FL_TF;
	go_user(f);
	v->rflags = FL_R1 | FL_IF | FL_DF | FL_CF | FL_RF;
	assert_int_equal(cpu_syscall(v, 0x400102), CPU_OK);
	assert_true(v->rip == v->lstar);
	assert_int_equal(v->cpl, 0);
	assert_int_equal(v->gpr[R_RCX], 0x400102);
	assert_int_equal(v->gpr[R_R11], FL_R1 | FL_IF | FL_DF | FL_CF);
	assert_int_equal(v->rflags, FL_R1 | FL_CF);
	assert_int_equal(v->seg[SEG_CS].sel, S_CODE64);
	assert_int_equal(v->seg[SEG_SS].sel, S_DATA);
	assert_int_equal(v->gpr[R_RSP], USER_STACK);
	assert_true(vcpu_code64(v));
	/* back: R11's RF and VM do not come, R1 is set */
	v->gpr[R_R11] = ~0ull;
	assert_int_equal(cpu_sysret(v, 8), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->rip, 0x400102);
	assert_int_equal(v->seg[SEG_CS].sel, S_UCODE64);
	assert_int_equal(v->seg[SEG_SS].sel, S_UDATA);
	assert_int_equal(v->rflags, 0x3c7fd7);
	/* non-canonical RCX: #GP in ring 0, nothing changed */
	v->cpl = 0;
	v->seg[SEG_CS] = seg_of(S_CODE64, ~0u, 0xa9b);
	v->rip = 0x8000;
	v->gpr[R_RCX] = 1ull << 47;
	assert_exc(cpu_sysret(v, 8), EXC_GP, 0);
	assert_int_equal(v->cpl, 0);
	assert_int_equal(v->rip, 0x8000);
	/* to compat: 32 bits of it */
	assert_int_equal(cpu_sysret(v, 4), CPU_OK);
	assert_int_equal(v->rip, 0);
	assert_int_equal(v->seg[SEG_CS].sel, S_UCODE32);
	assert_false(vcpu_code64(v));
	/* Intel: SYSCALL is #UD outside of 64-bit mode */
	assert_exc(cpu_syscall(v, 0), EXC_UD, 0);
	go_user(f);
	assert_exc(cpu_sysret(v, 8), EXC_GP, 0);
	v->efer &= ~EFER_SCE;
	assert_exc(cpu_syscall(v, 0), EXC_UD, 0);
	assert_exc(cpu_sysret(v, 8), EXC_UD, 0);
}

static void sysenter(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	go_user(f);
	assert_exc(cpu_sysenter(v, 0), EXC_GP, 0);
	v->sysenter_cs = S_CODE64;
	v->sysenter_eip = 0xffffffff81000000;
	v->sysenter_esp = 0xffffffff82000000;
	assert_int_equal(cpu_sysenter(v, 0), CPU_OK);
	assert_int_equal(v->cpl, 0);
	assert_true(v->rip == v->sysenter_eip);
	assert_true(v->gpr[R_RSP] == v->sysenter_esp);
	assert_int_equal(v->rflags, FL_R1);
	v->gpr[R_RDX] = 0x401000;
	v->gpr[R_RCX] = 1ull << 63;
	assert_exc(cpu_sysexit(v, 8), EXC_GP, 0);
	assert_int_equal(v->cpl, 0);
	v->gpr[R_RCX] = 0x501000;
	assert_int_equal(cpu_sysexit(v, 8), CPU_OK);
	assert_int_equal(v->rip, 0x401000);
	assert_int_equal(v->gpr[R_RSP], 0x501000);
	assert_int_equal(v->seg[SEG_CS].sel, S_CODE64 + 32 + 3);
	assert_int_equal(v->seg[SEG_SS].sel, S_CODE64 + 40 + 3);
	assert_exc(cpu_sysexit(v, 8), EXC_GP, 0); /* ring 3 */
}

static void swapgs(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->seg[SEG_GS].base = 1;
	v->kernel_gs_base = 2;
	assert_int_equal(cpu_swapgs(v), CPU_OK);
	assert_int_equal(v->seg[SEG_GS].base, 2);
	assert_int_equal(v->kernel_gs_base, 1);
	go_user(f);
	assert_exc(cpu_swapgs(v), EXC_GP, 0);
	v->cpl = 0;
	v->seg[SEG_CS] = seg_of(S_CODE32, ~0u, 0xc9b);
	assert_exc(cpu_swapgs(v), EXC_UD, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(same_ring),
		TEST(error_code_and_trap_gate),
		TEST(from_user),
		TEST(ist),
		TEST(interrupt),
		TEST(soft_interrupts),
		TEST(gate_checks),
		TEST(fault_in_interrupt),
		TEST(double_fault),
		TEST(page_fault_twice),
		TEST(frame_across_pages),
		TEST(triple_fault),
		TEST(iret_same_ring),
		TEST(iret_faults),
		TEST(iret_to_compat_user),
		TEST(protected32),
		TEST(stack_limit),
		TEST(real_mode),
		TEST(syscalls),
		TEST(sysenter),
		TEST(swapgs),
	};
	return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
