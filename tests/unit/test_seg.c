/* SPDX-License-Identifier: Apache-2.0 */
/* Segment loads, limits, far transfers, call gates, LAR and friends, ports. */
#include "tests/unit/sys_fixture.h"

static void loads64(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_int_equal(cpu_load_seg(v, SEG_DS, S_UDATA), CPU_OK);
	assert_int_equal(v->seg[SEG_DS].sel, S_UDATA);
	assert_int_equal(v->seg[SEG_DS].limit, 0xffffffff);
	assert_int_equal(v->seg[SEG_DS].attr, 0xcf3);
	/* the accessed bit went to memory */
	assert_int_equal(peek64(f, GDT + (S_UDATA & ~7)) >> 40 & 0xff, 0xf3);
	/* null clears the base of FS (Intel) */
	v->seg[SEG_FS].base = 0x1234;
	assert_int_equal(cpu_load_seg(v, SEG_FS, 3), CPU_OK);
	assert_int_equal(v->seg[SEG_FS].sel, 3);
	assert_int_equal(v->seg[SEG_FS].base, 0);
	assert_false(v->seg[SEG_FS].attr & SEG_ATTR_P);
	assert_int_equal(cpu_load_seg(v, SEG_FS, S_RODATA), CPU_OK);
	assert_int_equal(v->seg[SEG_FS].base, 0x1234);
	assert_int_equal(v->seg[SEG_FS].limit, 0xfff);
	/* faults leave everything */
	assert_exc(cpu_load_seg(v, SEG_DS, S_NPDATA), EXC_NP, S_NPDATA);
	assert_exc(cpu_load_seg(v, SEG_DS, S_XONLY), EXC_GP, S_XONLY);
	assert_exc(cpu_load_seg(v, SEG_DS, S_TSS), EXC_GP, S_TSS);
	assert_exc(cpu_load_seg(v, SEG_DS, S_LAST), EXC_GP, S_LAST);
	assert_exc(cpu_load_seg(v, SEG_DS, 0x14), EXC_GP, 0x14); /* no LDT */
	assert_exc(cpu_load_seg(v, SEG_DS, S_DATA | 3), EXC_GP, S_DATA);
	assert_exc(cpu_load_seg(v, SEG_CS, S_CODE64), EXC_UD, 0);
	/* a limit in the middle of a descriptor */
	v->gdtr.limit = S_DATA + 6;
	assert_exc(cpu_load_seg(v, SEG_DS, S_DATA), EXC_GP, S_DATA);
	v->gdtr.limit = S_LAST - 1;
	assert_int_equal(v->seg[SEG_DS].sel, S_UDATA);
	/* readable code may be data; conforming code for anyone */
	assert_int_equal(cpu_load_seg(v, SEG_ES, S_CODE64), CPU_OK);
	go_user(f);
	assert_exc(cpu_load_seg(v, SEG_ES, S_DATA), EXC_GP, S_DATA);
	assert_exc(cpu_load_seg(v, SEG_ES, S_CODE64), EXC_GP, S_CODE64);
	assert_int_equal(cpu_load_seg(v, SEG_ES, S_CONF64 | 3), CPU_OK);
}

static void loads_ss(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->irq_shadow = 0;
	assert_int_equal(cpu_load_seg(v, SEG_SS, S_DATA), CPU_OK);
	assert_true(v->irq_shadow);
	v->irq_shadow = 0;
	assert_int_equal(cpu_load_seg(v, SEG_DS, S_DATA), CPU_OK);
	assert_false(v->irq_shadow);
	assert_int_equal(cpu_load_seg(v, SEG_SS, 0), CPU_OK);
	assert_exc(cpu_load_seg(v, SEG_SS, 3), EXC_GP, 0);
	assert_exc(cpu_load_seg(v, SEG_SS, S_RODATA), EXC_GP, S_RODATA);
	assert_exc(cpu_load_seg(v, SEG_SS, S_CODE64), EXC_GP, S_CODE64);
	assert_exc(cpu_load_seg(v, SEG_SS, S_UDATA), EXC_GP, S_UDATA & ~3);
	assert_exc(cpu_load_seg(v, SEG_SS, S_DATA | 3), EXC_GP, S_DATA);
	assert_exc(cpu_load_seg(v, SEG_SS, S_NPDATA), EXC_SS, S_NPDATA);
	go_user(f);
	assert_exc(cpu_load_seg(v, SEG_SS, 0), EXC_GP, 0);
	assert_exc(cpu_load_seg(v, SEG_SS, 3), EXC_GP, 0);
	assert_int_equal(cpu_load_seg(v, SEG_SS, S_UDATA), CPU_OK);
}

static void ldt_and_tr(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_int_equal(cpu_lldt(v, 0), CPU_OK);
	assert_false(v->ldtr.attr & SEG_ATTR_P);
	/* base above 4 GiB needs the high half */
	poke64(f, GDT + S_LDT + 8, 0);
	assert_int_equal(cpu_lldt(v, S_LDT), CPU_OK);
	assert_int_equal(v->ldtr.base, 0x6000);
	poke64(f, 0x6008, descriptor(0x777, 0xff, 0x0f3));
	assert_int_equal(cpu_load_seg(v, SEG_DS, 0x8 | 4 | 3), CPU_OK);
	assert_int_equal(v->seg[SEG_DS].base, 0x777);
	assert_exc(cpu_load_seg(v, SEG_DS, 0x20 | 4), EXC_GP, 0x24);
	assert_exc(cpu_lldt(v, S_LDT | 4), EXC_GP, S_LDT | 4);
	assert_exc(cpu_lldt(v, S_TSS), EXC_GP, S_TSS);
	assert_exc(cpu_lldt(v, S_DATA), EXC_GP, S_DATA);
	/* the upper half of a system descriptor has type 0 */
	poke64(f, GDT + S_LDT + 8, 0x1full << 40);
	assert_exc(cpu_lldt(v, S_LDT), EXC_GP, S_LDT);

	poke64(f, GDT + S_TSS + 8, 0xffff8000);
	assert_int_equal(cpu_ltr(v, S_TSS), CPU_OK);
	assert_true(v->tr.base == (0xffff800000000000 | TSS));
	assert_int_equal(v->tr.attr, 0x08b);
	assert_int_equal(peek64(f, GDT + S_TSS) >> 40 & 0xff, 0x8b);
	assert_exc(cpu_ltr(v, S_TSS), EXC_GP, S_TSS); /* busy */
	poke64(f, GDT + S_TSS, descriptor(TSS, 0x67, 0x009));
	assert_exc(cpu_ltr(v, S_TSS), EXC_NP, S_TSS);
	poke64(f, GDT + S_TSS, descriptor(TSS, 0x67, 0x089));
	poke64(f, GDT + S_TSS + 8, 0x8000);
	assert_exc(cpu_ltr(v, S_TSS), EXC_GP, S_TSS); /* base not canonical */
	assert_exc(cpu_ltr(v, 0), EXC_GP, 0);
	go_user(f);
	assert_exc(cpu_ltr(v, S_TSS), EXC_GP, 0);
	assert_exc(cpu_lldt(v, 0), EXC_GP, 0);
	assert_exc(cpu_lgdt(v, false, 1, 2), EXC_GP, 0);
}

static void tables(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_int_equal(cpu_lgdt(v, true, 0xfff, 0xfffffe0000000000), CPU_OK);
	assert_true(v->idtr.base == 0xfffffe0000000000);
	assert_int_equal(v->idtr.limit, 0xfff);
	assert_exc(cpu_lgdt(v, false, 0xff, 1ull << 47), EXC_GP, 0);
	assert_int_equal(v->gdtr.base, GDT);
	assert_int_equal(cpu_umip_check(v), CPU_OK);
	go_user(f);
	assert_int_equal(cpu_umip_check(v), CPU_OK);
	v->cr4 |= CR4_UMIP;
	assert_exc(cpu_umip_check(v), EXC_GP, 0);
}

static void linear64(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	gva_t a;

	long_mode(f);
	v->seg[SEG_DS].base = 0x1000; /* ignored */
	v->seg[SEG_GS].base = 0xffff888000000000;
	assert_int_equal(seg_linear(v, SEG_DS, 0x10, 4, MEM_WRITE, &a), CPU_OK);
	assert_int_equal(a, 0x10);
	assert_int_equal(seg_linear(v, SEG_GS, 0x10, 4, MEM_WRITE, &a), CPU_OK);
	assert_true(a == 0xffff888000000010);
	assert_exc(seg_linear(v, SEG_DS, 1ull << 47, 1, MEM_READ, &a), EXC_GP,
		   0);
	assert_exc(seg_linear(v, SEG_SS, (1ull << 47) - 1, 2, MEM_READ, &a),
		   EXC_SS, 0);
	/* base + offset wraps */
	v->seg[SEG_FS].base = -16;
	assert_int_equal(seg_linear(v, SEG_FS, 0x20, 4, MEM_READ, &a), CPU_OK);
	assert_int_equal(a, 0x10);
}

static void linear32(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	gva_t a;

	prot_mode(f);
	v->seg[SEG_DS] = (struct segment){S_DATA, 0x493, 0xfff, 0x5000};
	assert_int_equal(seg_linear(v, SEG_DS, 0xffc, 4, MEM_WRITE, &a),
			 CPU_OK);
	assert_int_equal(a, 0x5ffc);
	assert_exc(seg_linear(v, SEG_DS, 0xffd, 4, MEM_READ, &a), EXC_GP, 0);
	assert_exc(seg_linear(v, SEG_DS, 0xffffffff, 4, MEM_READ, &a), EXC_GP,
		   0);
	/* expand down: strictly above the limit, up to 64K or 4G */
	v->seg[SEG_DS] = (struct segment){S_DOWN, 0x497, 0xfff, 0};
	assert_exc(seg_linear(v, SEG_DS, 0xfff, 4, MEM_READ, &a), EXC_GP, 0);
	assert_int_equal(seg_linear(v, SEG_DS, 0x1000, 4, MEM_READ, &a),
			 CPU_OK);
	assert_int_equal(seg_linear(v, SEG_DS, 0xfffffffc, 4, MEM_READ, &a),
			 CPU_OK);
	v->seg[SEG_DS].attr = 0x097;
	assert_exc(seg_linear(v, SEG_DS, 0xfffe, 4, MEM_READ, &a), EXC_GP, 0);
	/* rights */
	v->seg[SEG_DS] = (struct segment){S_RODATA, 0xc91, ~0u, 0};
	assert_int_equal(seg_linear(v, SEG_DS, 0, 4, MEM_READ, &a), CPU_OK);
	assert_exc(seg_linear(v, SEG_DS, 0, 4, MEM_WRITE, &a), EXC_GP, 0);
	v->seg[SEG_DS] = (struct segment){S_CODE32, 0xc9b, ~0u, 0};
	assert_int_equal(seg_linear(v, SEG_DS, 0, 4, MEM_READ, &a), CPU_OK);
	assert_exc(seg_linear(v, SEG_DS, 0, 4, MEM_WRITE, &a), EXC_GP, 0);
	v->seg[SEG_DS].attr = 0xc99;
	assert_exc(seg_linear(v, SEG_DS, 0, 4, MEM_READ, &a), EXC_GP, 0);
	v->seg[SEG_DS] = (struct segment){0};
	assert_exc(seg_linear(v, SEG_DS, 0, 1, MEM_READ, &a), EXC_GP, 0);
	v->seg[SEG_SS].limit = 0xff;
	assert_exc(seg_linear(v, SEG_SS, 0xff, 2, MEM_READ, &a), EXC_SS, 0);
	/* base + offset is cut to 32 bits */
	v->seg[SEG_ES] = (struct segment){S_DATA, 0xc93, ~0u, 0xfffff000};
	assert_int_equal(seg_linear(v, SEG_ES, 0x2000, 4, MEM_READ, &a),
			 CPU_OK);
	assert_int_equal(a, 0x1000);
}

static void linear_real(void **state)
{
	struct fix *f = *state;
	gva_t a;

	assert_int_equal(cpu_load_seg(f->v, SEG_DS, 0xb800), CPU_OK);
	assert_int_equal(f->v->seg[SEG_DS].base, 0xb8000);
	assert_int_equal(seg_linear(f->v, SEG_DS, 0xfffe, 2, MEM_WRITE, &a),
			 CPU_OK);
	assert_int_equal(a, 0xc7ffe);
	assert_exc(seg_linear(f->v, SEG_DS, 0xffff, 2, MEM_WRITE, &a), EXC_GP,
		   0);
	/* a limit loaded in protected mode stays ("unreal" mode) */
	f->v->seg[SEG_DS].limit = ~0u;
	assert_int_equal(cpu_load_seg(f->v, SEG_DS, 0), CPU_OK);
	assert_int_equal(seg_linear(f->v, SEG_DS, 0x100000, 2, MEM_WRITE, &a),
			 CPU_OK);
	/* a segment that protected mode left unusable is usable here */
	f->v->seg[SEG_ES] = (struct segment){.limit = 0xffff};
	assert_int_equal(cpu_load_seg(f->v, SEG_ES, 0x10), CPU_OK);
	f->v->cr0 |= CR0_PE;
	assert_int_equal(seg_linear(f->v, SEG_ES, 1, 1, MEM_WRITE, &a), CPU_OK);
	assert_int_equal(a, 0x101);
	f->v->cr0 &= ~CR0_PE;
	/* no LLDT here */
	assert_exc(cpu_lldt(f->v, 0), EXC_UD, 0);
}

static void far_jumps(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_int_equal(cpu_far_jmp(v, S_CODE64, 0xffffffff81000000, 8),
			 CPU_OK);
	assert_true(v->rip == 0xffffffff81000000);
	assert_int_equal(cpu_far_jmp(v, S_CODE64, 0xffffffff81000000, 4),
			 CPU_OK);
	assert_int_equal(v->rip, 0x81000000);
	assert_exc(cpu_far_jmp(v, S_CODE64, 1ull << 47, 8), EXC_GP, 0);
	assert_exc(cpu_far_jmp(v, 0, 0, 8), EXC_GP, 0);
	assert_exc(cpu_far_jmp(v, S_DATA, 0, 8), EXC_GP, S_DATA);
	assert_exc(cpu_far_jmp(v, S_UCODE64, 0, 8), EXC_GP, S_UCODE64 & ~3);
	assert_exc(cpu_far_jmp(v, S_CODE64 | 1, 0, 8), EXC_GP, S_CODE64);
	assert_exc(cpu_far_jmp(v, S_NPCODE, 0, 8), EXC_NP, S_NPCODE);
	assert_exc(cpu_far_jmp(v, S_BADLD, 0, 8), EXC_GP, S_BADLD);
	assert_exc(cpu_far_jmp(v, S_TSS, 0, 8), EXC_GP, S_TSS);
	/* to compatibility mode: 32 bits of offset within the limit */
	assert_int_equal(cpu_far_jmp(v, S_CODE32, 0x1000, 8), CPU_OK);
	assert_false(vcpu_code64(v));
	assert_exc(cpu_far_jmp(v, S_CODE16, 0x10000, 4), EXC_GP, 0);
	/* a conforming segment keeps the ring */
	go_user(f);
	assert_int_equal(cpu_far_jmp(v, S_CONF64, 0x1000, 8), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->seg[SEG_CS].sel, S_CONF64 | 3);
	assert_exc(cpu_far_jmp(v, S_CODE64, 0, 8), EXC_GP, S_CODE64);
}

/* push cs; push rip; lretq: how 64-bit code reloads CS. */
static void lretq(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->gpr[R_RSP] = STACK - 16;
	poke64(f, STACK - 16, 0xffffffff81000000);
	poke64(f, STACK - 8, S_CODE64);
	assert_int_equal(cpu_far_ret(v, 8, 0), CPU_OK);
	assert_true(v->rip == 0xffffffff81000000);
	assert_int_equal(v->gpr[R_RSP], STACK);
	assert_int_equal(v->seg[SEG_CS].attr, 0xa9b);
	/* popping parameters, 32-bit words, from 64-bit mode */
	v->gpr[R_RSP] = STACK - 16;
	poke32(f, STACK - 16, 0x1000);
	poke32(f, STACK - 12, S_CODE32);
	assert_int_equal(cpu_far_ret(v, 4, 8), CPU_OK);
	assert_int_equal(v->rip, 0x1000);
	assert_int_equal(v->gpr[R_RSP], STACK);
	assert_false(vcpu_code64(v));
}

static void far_ret_to_user(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->seg[SEG_DS] = seg_of(S_DATA, ~0u, 0xc93);
	v->gpr[R_RSP] = STACK - 48;
	poke64(f, STACK - 48, 0x400000);
	poke64(f, STACK - 40, S_UCODE64);
	/* 16 bytes of parameters on both stacks */
	poke64(f, STACK - 16, USER_STACK);
	poke64(f, STACK - 8, S_UDATA);
	assert_int_equal(cpu_far_ret(v, 8, 16), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->rip, 0x400000);
	assert_int_equal(v->gpr[R_RSP], USER_STACK + 16);
	assert_int_equal(v->seg[SEG_DS].sel, 0);
	/* inwards: no */
	poke64(f, USER_STACK + 16, 0x1000);
	poke64(f, USER_STACK + 24, S_CODE64);
	assert_exc(cpu_far_ret(v, 8, 0), EXC_GP, S_CODE64);
}

static void far_calls(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_int_equal(cpu_far_call(v, S_CODE64, 0x9000, 8, 0x8007), CPU_OK);
	assert_int_equal(v->rip, 0x9000);
	assert_int_equal(v->gpr[R_RSP], STACK - 16);
	assert_int_equal(peek64(f, STACK - 16), 0x8007);
	assert_int_equal(peek64(f, STACK - 8), S_CODE64);
	assert_int_equal(cpu_far_ret(v, 8, 0), CPU_OK);
	assert_int_equal(v->rip, 0x8007);
	assert_int_equal(v->gpr[R_RSP], STACK);
	/* a fault of the push leaves CS */
	v->gpr[R_RSP] = 0x600000000000;
	assert_int_equal(cpu_far_call(v, S_CODE64, 0x9000, 8, 0), CPU_EXC);
	assert_int_equal(v->rip, 0x8007);
}

static void call_gate64(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	poke64(f, GDT + S_GATE,
	       0x0000ec0000000000ull | 0x9000 | (uint64_t)S_CODE64 << 16);
	poke64(f, GDT + S_GATE + 8, 0xffff8000);
	go_user(f);
	assert_int_equal(cpu_far_call(v, S_GATE | 3, 0x1234, 8, 0x400107),
			 CPU_OK);
	assert_int_equal(v->cpl, 0);
	assert_true(v->rip == 0xffff800000009000);
	assert_int_equal(v->gpr[R_RSP], RSP0 - 32);
	assert_int_equal(peek64(f, RSP0 - 32), 0x400107);
	assert_int_equal(peek64(f, RSP0 - 24), S_UCODE64);
	assert_int_equal(peek64(f, RSP0 - 16), USER_STACK);
	assert_int_equal(peek64(f, RSP0 - 8), S_UDATA);
	assert_int_equal(v->seg[SEG_SS].sel, 0);
	assert_int_equal(cpu_far_ret(v, 8, 0), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->gpr[R_RSP], USER_STACK);
	/* a jump may not go inwards; the gate's DPL counts */
	assert_exc(cpu_far_jmp(v, S_GATE | 3, 0, 8), EXC_GP, S_CODE64);
	poke64(f, GDT + S_GATE,
	       0x00008c0000000000ull | 0x9000 | (uint64_t)S_CODE64 << 16);
	assert_exc(cpu_far_call(v, S_GATE, 0, 8, 0), EXC_GP, S_GATE);
}

static void call_gate32(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	prot_mode(f);
	/* two parameters */
	poke64(f, GDT + S_GATE,
	       0x0000ec0200000000ull | 0x9000 | (uint64_t)S_CODE32 << 16);
	v->cpl = 3;
	v->seg[SEG_CS] = seg_of(S_UCODE32, ~0u, 0xcfb);
	v->seg[SEG_SS] = seg_of(S_UDATA, ~0u, 0xcf3);
	v->gpr[R_RSP] = USER_STACK;
	poke32(f, USER_STACK, 0x11);
	poke32(f, USER_STACK + 4, 0x22);
	assert_int_equal(cpu_far_call(v, S_GATE | 3, 0, 4, 0x400007), CPU_OK);
	assert_int_equal(v->cpl, 0);
	assert_int_equal(v->gpr[R_RSP], RSP0 - 24);
	assert_int_equal(peek32(f, RSP0 - 24), 0x400007);
	assert_int_equal(peek32(f, RSP0 - 20), S_UCODE32);
	assert_int_equal(peek32(f, RSP0 - 16), 0x11);
	assert_int_equal(peek32(f, RSP0 - 12), 0x22);
	assert_int_equal(peek32(f, RSP0 - 8), USER_STACK);
	assert_int_equal(peek32(f, RSP0 - 4), S_UDATA);
	assert_int_equal(cpu_far_ret(v, 4, 8), CPU_OK);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->gpr[R_RSP], USER_STACK + 8);
	/* a TSS: says what is not built */
	v->cpl = 0;
	assert_int_equal(cpu_far_jmp(v, S_TSS, 0, 4), CPU_EXIT);
	assert_non_null(strstr(v->exit_reason, "task switch"));
}

static void far_real(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	v->seg[SEG_SS].base = 0x30000;
	v->gpr[R_RSP] = 0x1000;
	assert_int_equal(cpu_far_call(v, 0x1234, 0x5678, 2, 0x103), CPU_OK);
	assert_int_equal(v->rip, 0x5678);
	assert_int_equal(v->seg[SEG_CS].base, 0x12340);
	assert_int_equal(peek16(f, 0x30ffc), 0x103);
	assert_int_equal(peek16(f, 0x30ffe), 0xf000);
	assert_int_equal(cpu_far_ret(v, 2, 0), CPU_OK);
	assert_int_equal(v->rip, 0x103);
	assert_int_equal(v->seg[SEG_CS].base, 0xf0000);
	assert_int_equal(v->gpr[R_RSP], 0x1000);
	assert_exc(cpu_far_jmp(v, 0, 0x10000, 4), EXC_GP, 0);
}

static void questions(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint32_t val = 0;
	bool ok;

	long_mode(f);
	cpu_lar(v, S_CODE64, &val, &ok);
	assert_true(ok);
	assert_int_equal(val, 0x00af9a00 & 0x00ffff00);
	cpu_lsl(v, S_CODE64, &val, &ok);
	assert_true(ok);
	assert_int_equal(val, 0xffffffff);
	cpu_lsl(v, S_RODATA, &val, &ok);
	assert_int_equal(val, 0xfff);
	cpu_lsl(v, S_TSS, &val, &ok);
	assert_true(ok);
	assert_int_equal(val, 0x2087);
	poke64(f, GDT + S_GATE, 0x0000ec0000000000ull);
	cpu_lsl(v, S_GATE, &val, &ok);
	assert_false(ok);
	cpu_lar(v, S_GATE, &val, &ok);
	assert_true(ok);
	cpu_lar(v, 0, &val, &ok);
	assert_false(ok);
	cpu_lar(v, S_LAST, &val, &ok);
	assert_false(ok || v->exc.pending);
	cpu_verr(v, S_RODATA, false, &ok);
	assert_true(ok);
	cpu_verr(v, S_RODATA, true, &ok);
	assert_false(ok);
	cpu_verr(v, S_DATA, true, &ok);
	assert_true(ok);
	cpu_verr(v, S_DATA | 3, true, &ok); /* RPL */
	assert_false(ok);
	cpu_verr(v, S_XONLY, false, &ok);
	assert_false(ok);
	go_user(f);
	cpu_lsl(v, S_CODE64, &val, &ok);
	assert_false(ok);
	cpu_lsl(v, S_UDATA, &val, &ok);
	assert_true(ok);
	cpu_lar(v, S_CONF64, &val, &ok);
	assert_true(ok);
}

static void ports(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint32_t val = 0;

	long_mode(f);
	assert_int_equal(cpu_in(v, 0x80, 4, &val), CPU_OK);
	assert_int_equal(val, 0xffffffff);
	assert_int_equal(cpu_in(v, 0x80, 1, &val), CPU_OK);
	assert_int_equal(val, 0xff);
	go_user(f);
	/* bitmap at TSS + 104, all zero: allowed */
	assert_int_equal(cpu_io_check(v, 0x80, 4), CPU_OK);
	poke16(f, TSS + 104 + 0x80 / 8, 0x0100); /* port 0x88 */
	assert_int_equal(cpu_io_check(v, 0x87, 1), CPU_OK);
	assert_exc(cpu_io_check(v, 0x87, 2), EXC_GP, 0); /* crosses a byte */
	assert_exc(cpu_out(v, 0x88, 1, 0), EXC_GP, 0);
	assert_int_equal(cpu_io_check(v, 0x89, 4), CPU_OK);
	v->tr.limit = 104 + 0x80 / 8; /* the second byte is beyond */
	assert_exc(cpu_io_check(v, 0x80, 1), EXC_GP, 0);
	v->tr.limit = 0x67;
	poke16(f, TSS + 102, 0xffff);
	assert_exc(cpu_io_check(v, 0, 1), EXC_GP, 0);
	v->rflags |= FL_IOPL;
	assert_int_equal(cpu_io_check(v, 0x88, 4), CPU_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(loads64),	       TEST(loads_ss),	TEST(ldt_and_tr),
		TEST(tables),	       TEST(linear64),	TEST(linear32),
		TEST(linear_real),     TEST(far_jumps), TEST(lretq),
		TEST(far_ret_to_user), TEST(far_calls), TEST(call_gate64),
		TEST(call_gate32),     TEST(far_real),	TEST(questions),
		TEST(ports),
	};
	return cmocka_run_group_tests_name("seg", tests, NULL, NULL);
}
