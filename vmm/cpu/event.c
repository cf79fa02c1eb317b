/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: exceptions, interrupts, INT n and IRET (SDM vol. 3, ch. 6; vol. 2,
 * INT n and IRET).
 *
 * deliver_once() takes one event through the IDT: it reads the gate, the code
 * segment and the new stack, pushes the frame and only then changes the vcpu.
 * If a step faults, v->exc holds the new fault and the vcpu is as it was.
 * deliver() goes round: it combines the new fault with the event that it
 * disturbed (vol. 3, table 6-5) into the next event: serially, a double fault,
 * or a triple fault (EXIT_SHUTDOWN).
 *
 * CR2 and DR6 are written when the delivery of their exception begins, so the
 * address of a second page fault is seen by the #DF handler, as on hardware.
 *
 * The error codes of faults in delivery carry EXT (bit 0) unless the event was
 * INT n; INT n faults are the instruction's own, with rip still at it.
 *
 * Frames are pushed with the new ring's rights: rings 0 to 2 are supervisor
 * (MEM_SYSTEM), whatever the old ring was.
 */
#include <stdio.h>

#include "vmm/cpu/protection.h"

struct event {
	uint8_t vector;
	bool has_error;
	bool soft;  /* check the gate's DPL; not external */
	bool fault; /* a fault-class exception: RF is pushed set */
	uint32_t error;
	uint64_t rip; /* to push */
};

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned ist;
	unsigned opsize;
	bool trap;
};

#define IDT_ERR(vector) ((uint32_t)(vector) << 3 | 2)

bool cpu_can_take_irq(const struct vcpu *v)
{
	return (v->rflags & FL_IF) && !v->irq_shadow;
}

/* ---- protected and long mode ---- */

static enum cpu_status read_gate(struct vcpu *v, const struct event *e,
				 struct gate *g)
{
	unsigned size = v->in_long_mode ? 16 : 8, off = e->vector * size, type;
	uint32_t err = IDT_ERR(e->vector);
	uint64_t d[2] = {0};
	enum cpu_status s;

	if (off + size - 1 > v->idtr.limit)
		return vcpu_raise_err(v, EXC_GP, err);
	s = mem_read(v, v->idtr.base + off, d, size, MEM_READ | MEM_SYSTEM);
	if (s)
		return s;
	type = desc_attr(d[0]) & (SEG_ATTR_S | SEG_ATTR_TYPE);
	if (type == DESC_TASK_GATE && !v->in_long_mode)
		return vcpu_stop(v, "task gates are not built (vector %u)",
				 e->vector);
	if (type != DESC_INT && type != DESC_TRAP &&
	    (v->in_long_mode || (type != DESC_INT16 && type != DESC_TRAP16)))
		return vcpu_raise_err(v, EXC_GP, err);
	if (e->soft && attr_dpl(desc_attr(d[0])) < v->cpl)
		return vcpu_raise_err(v, EXC_GP, err);
	if (!(desc_attr(d[0]) & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, err);
	*g = (struct gate){.sel = d[0] >> 16,
			   .off = (d[0] & 0xffff) | (d[0] >> 32 & 0xffff0000),
			   .opsize = type & 8 ? 4 : 2,
			   .trap = type & 1};
	if (v->in_long_mode) {
		g->opsize = 8;
		g->off |= d[1] << 32;
		g->ist = d[0] >> 32 & 7;
	} else if (g->opsize == 2) {
		g->off &= 0xffff;
	}
	return CPU_OK;
}

static enum cpu_status handler_cs(struct vcpu *v, const struct gate *g,
				  struct segment *cs, unsigned *cpl)
{
	enum cpu_status s;
	uint16_t attr;
	uint64_t d;

	if (sel_is_null(g->sel))
		return vcpu_raise(v, EXC_GP);
	s = desc_read(v, g->sel, EXC_GP, &d);
	if (s)
		return s;
	attr = desc_attr(d);
	if (!attr_is_code(attr) || attr_dpl(attr) > v->cpl)
		return vcpu_raise_err(v, EXC_GP, sel_err(g->sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(g->sel));
	if (v->in_long_mode &&
	    (attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
		return vcpu_raise_err(v, EXC_GP, sel_err(g->sel));
	s = desc_set_accessed(v, g->sel, &d);
	if (s)
		return s;
	*cpl = attr_is_conforming(attr) ? v->cpl : attr_dpl(attr);
	*cs = seg_from_desc((g->sel & ~SEL_RPL) | *cpl, d);
	return CPU_OK;
}

/* The stack that the frame goes to; *ss is its SS if switched. */
static enum cpu_status handler_stack(struct vcpu *v, const struct gate *g,
				     unsigned cpl, struct segment *ss,
				     struct stack *st)
{
	enum cpu_status s;

	if (cpl < v->cpl || g->ist) {
		s = tss_stack(v, cpl, g->ist, ss, st);
		if (s)
			return s;
		/* With IST alone the ring, and so SS, stays. */
		if (v->in_long_mode && cpl == v->cpl)
			*ss = v->seg[SEG_SS];
	} else {
		stack_init(v, st);
		*ss = v->seg[SEG_SS];
	}
	st->acc = cpl == 3 ? 0 : MEM_SYSTEM;
	if (v->in_long_mode) {
		st->flat = true;
		st->mask = ~0ull;
		if (!(cpl < v->cpl || g->ist))
			st->sp = v->gpr[R_RSP];
		st->sp &= ~15ull;
	}
	return CPU_OK;
}

static uint64_t flags_image(const struct vcpu *v, const struct event *e)
{
	return e->fault ? v->rflags | FL_RF : v->rflags;
}

static enum cpu_status push_frame(struct vcpu *v, const struct event *e,
				  const struct gate *g, bool with_stack,
				  struct stack *st)
{
	uint64_t vals[6];
	unsigned n = 0;

	if (with_stack) {
		vals[n++] = v->seg[SEG_SS].sel;
		vals[n++] = v->gpr[R_RSP];
	}
	vals[n++] = flags_image(v, e);
	vals[n++] = v->seg[SEG_CS].sel;
	vals[n++] = e->rip;
	if (e->has_error)
		vals[n++] = e->error;
	return stack_push(v, st, g->opsize, vals, n);
}

static enum cpu_status deliver_protected(struct vcpu *v, const struct event *e)
{
	struct segment cs, ss;
	enum cpu_status s;
	struct stack st;
	struct gate g;
	unsigned cpl = 0;

	s = read_gate(v, e, &g);
	if (!s)
		s = handler_cs(v, &g, &cs, &cpl);
	if (!s)
		s = seg_check_rip(v, &cs, &g.off);
	if (!s)
		s = handler_stack(v, &g, cpl, &ss, &st);
	if (!s)
		s = push_frame(v, e, &g, v->in_long_mode || cpl < v->cpl, &st);
	if (s)
		return s;
	v->seg[SEG_CS] = cs;
	v->seg[SEG_SS] = ss;
	v->cpl = cpl;
	v->rip = g.off;
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], st.sp, st.mask);
	v->rflags &= ~(FL_TF | FL_NT | FL_RF | FL_VM);
	if (!g.trap)
		v->rflags &= ~FL_IF;
	return CPU_OK;
}

/* ---- real mode ---- */

static enum cpu_status deliver_real(struct vcpu *v, const struct event *e)
{
	unsigned off = e->vector * 4;
	uint64_t vals[3] = {flags_image(v, e), v->seg[SEG_CS].sel, e->rip};
	enum cpu_status s;
	struct stack st;
	uint16_t ivt[2];

	if (off + 3u > v->idtr.limit)
		return vcpu_raise(v, EXC_GP);
	s = mem_read(v, v->idtr.base + off, ivt, 4, MEM_READ | MEM_SYSTEM);
	if (s)
		return s;
	stack_init(v, &st);
	s = stack_push(v, &st, 2, vals, 3);
	if (s)
		return s;
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], st.sp, st.mask);
	v->seg[SEG_CS].sel = ivt[1];
	v->seg[SEG_CS].base = (uint64_t)ivt[1] << 4;
	v->rip = ivt[0];
	v->rflags &= ~(FL_IF | FL_TF | FL_AC | FL_RF);
	return CPU_OK;
}

static enum cpu_status deliver_once(struct vcpu *v, const struct event *e)
{
	enum cpu_status s =
		cpu_is_real(v) ? deliver_real(v, e) : deliver_protected(v, e);

	if (s == CPU_OK) {
		v->exc.pending = false;
		v->irq_shadow = 0;
		v->halted = 0;
	}
	return s;
}

/* ---- faults in faults ---- */

enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum class event_class(uint8_t vector) {
	switch (vector){
		case EXC_DE : case EXC_TS : case EXC_NP : case EXC_SS : case
		EXC_GP : return CONTRIBUTORY;
		case EXC_PF : return PAGE_FAULT;
		case EXC_DF : return DOUBLE_FAULT;
	}
return BENIGN;
}

/* Does a fault of class b while delivering class a become a double fault? */
static bool makes_double(enum class a, enum class b)
{
	if (a == CONTRIBUTORY)
		return b == CONTRIBUTORY;
	if (a == PAGE_FAULT)
		return b == CONTRIBUTORY || b == PAGE_FAULT;
	return false;
}

static void begin(struct vcpu *v, const struct exception *x, struct event *e)
{
	*e = (struct event){.vector = x->vector,
			    .has_error = x->has_error,
			    .soft = x->soft,
			    .error = x->error,
			    .rip = v->rip};
	e->fault = x->vector != EXC_DB && x->vector != EXC_NMI &&
		   x->vector != EXC_BP && x->vector != EXC_OF &&
		   x->vector != EXC_DF && !x->soft;
	if (x->vector == EXC_PF)
		v->cr2 = x->cr2;
	if (x->vector == EXC_DB) {
		v->dr[6] |= x->dr6;
		v->dr[7] &= ~DR7_GD;
	}
}

static enum cpu_status triple_fault(struct vcpu *v, const struct event *e)
{
	snprintf(v->exit_reason, sizeof(v->exit_reason),
		 "triple fault: vector %u (error %x, cr2 %lx) while delivering "
		 "a double fault at rip %lx",
		 v->exc.vector, v->exc.error, v->exc.cr2, e->rip);
	v->exit = EXIT_SHUTDOWN;
	v->exit_info[0] = v->rip;
	v->exc.pending = false;
	return CPU_EXIT;
}

static enum cpu_status deliver(struct vcpu *v, struct event *e)
{
	for (;;) {
		enum cpu_status s = deliver_once(v, e);
		enum class was = event_class(e->vector), now;

		if (s != CPU_EXC)
			return s;
		now = event_class(v->exc.vector);
		if (v->exc.has_error && v->exc.vector != EXC_PF &&
		    v->exc.vector != EXC_DF && !e->soft)
			v->exc.error |= 1;
		if (was == DOUBLE_FAULT && now != BENIGN)
			return triple_fault(v, e);
		if (makes_double(was, now)) {
			if (now == PAGE_FAULT)
				v->cr2 = v->exc.cr2;
			vcpu_raise(v, EXC_DF);
		}
		begin(v, &v->exc, e);
	}
}

enum cpu_status cpu_deliver_exception(struct vcpu *v)
{
	struct event e;

	begin(v, &v->exc, &e);
	return deliver(v, &e);
}

enum cpu_status cpu_deliver_interrupt(struct vcpu *v, uint8_t vector)
{
	struct event e = {.vector = vector, .rip = v->rip};
	enum cpu_status s = deliver_once(v, &e);

	if (s != CPU_EXC)
		return s;
	/* An interrupt is benign: the fault in its delivery comes next, and
	 * the interrupt is gone, as on hardware. */
	if (v->exc.has_error && v->exc.vector != EXC_PF)
		v->exc.error |= 1;
	return cpu_deliver_exception(v);
}

enum cpu_status cpu_soft_interrupt(struct vcpu *v, uint8_t vector, gva_t next)
{
	struct event e = {.vector = vector, .soft = true, .rip = next};

	return deliver_once(v, &e);
}

/* ---- IRET ---- */

#define IRET_ALWAYS (FL_ARITH | FL_TF | FL_DF | FL_NT)

static void iret_flags(struct vcpu *v, uint64_t val, unsigned opsize,
		       unsigned cpl)
{
	uint64_t mask = IRET_ALWAYS;

	if (opsize > 2)
		mask |= FL_RF | FL_AC | FL_ID;
	if (cpl <= cpu_iopl(v))
		mask |= FL_IF;
	if (cpl == 0)
		mask |= FL_IOPL | (opsize > 2 ? FL_VIF | FL_VIP : 0);
	v->rflags = (v->rflags & ~mask) | (val & mask) | FL_R1;
}

static enum cpu_status iret_real(struct vcpu *v, unsigned opsize)
{
	struct segment cs = v->seg[SEG_CS];
	enum cpu_status s;
	struct stack st;
	uint64_t vals[3], mask;

	stack_init(v, &st);
	s = stack_peek(v, &st, 0, opsize, vals, 3);
	if (!s)
		s = seg_check_rip(v, &cs, &vals[0]);
	if (s)
		return s;
	v->gpr[R_RSP] = stack_moved(v, &st, 3 * opsize);
	v->seg[SEG_CS].sel = vals[1];
	v->seg[SEG_CS].base = (vals[1] & 0xffff) << 4;
	v->rip = vals[0];
	mask = IRET_ALWAYS | FL_IF | FL_IOPL;
	if (opsize > 2)
		mask |= FL_RF | FL_AC | FL_ID;
	v->rflags = (v->rflags & ~mask) | (vals[2] & mask) | FL_R1;
	return CPU_OK;
}

static void iret_commit(struct vcpu *v, const struct segment *cs, uint64_t rip,
			uint64_t flags, unsigned opsize)
{
	unsigned old = v->cpl;

	iret_flags(v, flags, opsize, old);
	v->seg[SEG_CS] = *cs;
	v->rip = rip;
	v->cpl = cs->sel & SEL_RPL;
}

/* With RSP and SS off the stack: to an outer ring, or any from 64-bit mode. */
static enum cpu_status iret_full(struct vcpu *v, const struct stack *st,
				 const struct segment *cs, uint64_t rip,
				 uint64_t flags, unsigned opsize)
{
	unsigned old = v->cpl;
	enum cpu_status s;
	struct segment ss;
	uint64_t vals[2], mask;

	s = stack_peek(v, st, 3 * opsize, opsize, vals, 2);
	if (!s)
		s = ret_check_ss(v, vals[1], cs, &ss);
	if (!s)
		s = seg_check_rip(v, cs, &rip);
	if (s)
		return s;
	iret_commit(v, cs, rip, flags, opsize);
	v->seg[SEG_SS] = ss;
	mask = vcpu_code64(v)	       ? ~0ull
	       : ss.attr & SEG_ATTR_DB ? 0xffffffff
				       : 0xffff;
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], vals[0], mask);
	if (v->cpl > old)
		ret_drop_segments(v);
	return CPU_OK;
}

static enum cpu_status iret_protected(struct vcpu *v, unsigned opsize)
{
	struct segment cs;
	enum cpu_status s;
	struct stack st;
	uint64_t vals[3];

	if (v->rflags & FL_NT) {
		if (v->in_long_mode)
			return vcpu_raise(v, EXC_GP);
		return vcpu_stop(v, "IRET to a nested task is not built");
	}
	stack_init(v, &st);
	s = stack_peek(v, &st, 0, opsize, vals, 3);
	if (s)
		return s;
	if (opsize > 2 && (vals[2] & FL_VM) && !v->cpl && !v->in_long_mode)
		return vcpu_stop(v, "virtual-8086 mode is not built");
	s = ret_check_cs(v, vals[1], &cs);
	if (s)
		return s;
	if (vcpu_code64(v) || (cs.sel & SEL_RPL) > v->cpl)
		return iret_full(v, &st, &cs, vals[0], vals[2], opsize);
	s = seg_check_rip(v, &cs, &vals[0]);
	if (s)
		return s;
	v->gpr[R_RSP] = stack_moved(v, &st, 3 * opsize);
	iret_commit(v, &cs, vals[0], vals[2], opsize);
	return CPU_OK;
}

enum cpu_status cpu_iret(struct vcpu *v, unsigned opsize)
{
	return cpu_is_real(v) ? iret_real(v, opsize)
			      : iret_protected(v, opsize);
}
