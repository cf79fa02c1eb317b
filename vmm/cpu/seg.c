/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation (SDM vol. 3, ch. 3, 5 and 7): descriptors, segment loads, far
 * transfers, stacks out of the TSS.
 *
 * Each operation reads and judges everything first, into locals, and then
 * assigns. The hidden part of a segment register is struct segment; a null
 * selector leaves it without P ("unusable"). In 64-bit mode only FS and GS
 * have a base and nothing has a limit.
 *
 * Accessed bits are written to the descriptor when they are clear, which is
 * what makes read-only GDTs (Linux's) keep them set beforehand.
 *
 * Not built: hardware task switches (JMP, CALL or IRET through a TSS or task
 * gate) and virtual-8086 mode. They stop the VM with that reason; no kernel
 * that Sardine boots uses them.
 */
#include <string.h>

#include "vmm/cpu/protection.h"

/* ---- addresses ---- */

static bool in_limit(const struct segment *s, uint64_t off, unsigned len)
{
	uint64_t last = off + len - 1;
	uint64_t max = s->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;

	if ((s->attr & (DESC_CODE | DESC_EXPAND | SEG_ATTR_S)) ==
	    (DESC_EXPAND | SEG_ATTR_S))
		return off > s->limit && last <= max;
	return last <= s->limit;
}

static bool may_access(const struct segment *s, unsigned acc)
{
	bool code = attr_is_code(s->attr);

	if (!(s->attr & SEG_ATTR_P))
		return false;
	if (acc & MEM_EXEC)
		return code;
	if (acc & MEM_WRITE)
		return attr_is_writable(s->attr);
	return !code || (s->attr & DESC_READABLE);
}

enum cpu_status seg_linear(struct vcpu *v, enum seg_reg s, uint64_t off,
			   unsigned len, unsigned mem_access, gva_t *out)
{
	const struct segment *seg = &v->seg[s];

	if (vcpu_code64(v)) {
		gva_t a = s >= SEG_FS ? seg->base + off : off;

		*out = a;
		if (likely(gva_canonical(a) && gva_canonical(a + len - 1)))
			return CPU_OK;
	} else {
		off = (uint32_t)off;
		*out = (uint32_t)(seg->base + off);
		if (likely(in_limit(seg, off, len) &&
			   (cpu_is_real(v) || may_access(seg, mem_access))))
			return CPU_OK;
	}
	return vcpu_raise(v, s == SEG_SS ? EXC_SS : EXC_GP);
}

enum cpu_status seg_check_rip(struct vcpu *v, const struct segment *cs,
			      uint64_t *rip)
{
	if (v->in_long_mode && (cs->attr & SEG_ATTR_L))
		return gva_canonical(*rip) ? CPU_OK : vcpu_raise(v, EXC_GP);
	*rip = (uint32_t)*rip;
	return *rip <= cs->limit ? CPU_OK : vcpu_raise(v, EXC_GP);
}

/* ---- descriptors ---- */

static enum cpu_status desc_address(struct vcpu *v, uint16_t sel, unsigned len,
				    uint8_t vector, gva_t *a)
{
	unsigned off = sel & ~7u;
	uint64_t base = v->gdtr.base, limit = v->gdtr.limit;

	*a = 0;
	if (sel & SEL_TI) {
		base = v->ldtr.base;
		limit = v->ldtr.limit;
		if (!(v->ldtr.attr & SEG_ATTR_P))
			return vcpu_raise_err(v, vector, sel_err(sel));
	}
	if (off + len - 1 > limit)
		return vcpu_raise_err(v, vector, sel_err(sel));
	*a = base + off;
	return CPU_OK;
}

enum cpu_status desc_read(struct vcpu *v, uint16_t sel, uint8_t vector,
			  uint64_t *d)
{
	gva_t a;
	enum cpu_status s = desc_address(v, sel, 8, vector, &a);

	return s ? s : mem_read(v, a, d, 8, MEM_READ | MEM_SYSTEM);
}

enum cpu_status desc_read_high(struct vcpu *v, uint16_t sel, uint8_t vector,
			       uint64_t *hi)
{
	gva_t a;
	enum cpu_status s = desc_address(v, sel, 16, vector, &a);

	if (!s)
		s = mem_read(v, a + 8, hi, 8, MEM_READ | MEM_SYSTEM);
	if (s)
		return s;
	/* The type of the upper half must be 0 (vol. 3, 5.8.3.1). */
	return *hi >> 40 & 0x1f ? vcpu_raise_err(v, vector, sel_err(sel))
				: CPU_OK;
}

enum cpu_status desc_set_accessed(struct vcpu *v, uint16_t sel, uint64_t *d)
{
	enum cpu_status s;
	uint8_t access;
	gva_t a;

	if (*d >> 40 & DESC_ACCESSED)
		return CPU_OK;
	*d |= (uint64_t)DESC_ACCESSED << 40;
	access = *d >> 40;
	s = desc_address(v, sel, 8, EXC_GP, &a);
	return s ? s : mem_write(v, a + 5, &access, 1, MEM_WRITE | MEM_SYSTEM);
}

struct segment seg_from_desc(uint16_t sel, uint64_t d)
{
	return (struct segment){.sel = sel,
				.attr = desc_attr(d),
				.limit = desc_limit(d),
				.base = desc_base(d)};
}

/* ---- loads of data segments ---- */

/* Real mode: the limit and the size bits stay as they were ("unreal" mode);
 * a data segment becomes present and writable. */
static struct segment seg_real(const struct segment *old, uint16_t sel)
{
	struct segment s = *old;

	s.sel = sel;
	s.base = (uint64_t)sel << 4;
	if (!attr_is_code(s.attr))
		s.attr = (s.attr & 0xf00) | 0x93;
	return s;
}

static enum cpu_status check_ss(struct vcpu *v, uint16_t sel, unsigned cpl,
				uint64_t d, uint8_t vector)
{
	uint16_t attr = desc_attr(d);

	if ((sel & SEL_RPL) != cpl || !attr_is_writable(attr) ||
	    attr_dpl(attr) != cpl)
		return vcpu_raise_err(v, vector, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_SS, sel_err(sel));
	return CPU_OK;
}

static enum cpu_status check_data(struct vcpu *v, uint16_t sel, uint64_t d)
{
	uint16_t attr = desc_attr(d);
	unsigned rpl = sel & SEL_RPL;

	if (!(attr & SEG_ATTR_S) ||
	    (attr_is_code(attr) && !(attr & DESC_READABLE)))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!attr_is_conforming(attr) &&
	    (rpl > attr_dpl(attr) || v->cpl > attr_dpl(attr)))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	return CPU_OK;
}

static enum cpu_status load_null(struct vcpu *v, enum seg_reg s, uint16_t sel)
{
	struct segment null = {.sel = sel};

	if (s == SEG_SS) {
		if (!vcpu_code64(v) || v->cpl == 3 || (sel & SEL_RPL) != v->cpl)
			return vcpu_raise(v, EXC_GP);
		null.attr = v->cpl << SEG_ATTR_DPL_SHIFT;
		v->irq_shadow = 1;
	}
	v->seg[s] = null;
	return CPU_OK;
}

enum cpu_status cpu_load_seg(struct vcpu *v, enum seg_reg s, uint16_t sel)
{
	enum cpu_status st;
	uint64_t d;

	if (s == SEG_CS)
		return vcpu_raise(v, EXC_UD);
	if (cpu_is_real(v)) {
		v->seg[s] = seg_real(&v->seg[s], sel);
		v->irq_shadow |= s == SEG_SS;
		return CPU_OK;
	}
	if (sel_is_null(sel))
		return load_null(v, s, sel);
	st = desc_read(v, sel, EXC_GP, &d);
	if (!st)
		st = s == SEG_SS ? check_ss(v, sel, v->cpl, d, EXC_GP)
				 : check_data(v, sel, d);
	if (!st)
		st = desc_set_accessed(v, sel, &d);
	if (st)
		return st;
	v->seg[s] = seg_from_desc(sel, d);
	v->irq_shadow |= s == SEG_SS;
	return CPU_OK;
}

/* ---- system segments ---- */

/* Read a system descriptor whole; *base is 64 bits wide in long mode. */
static enum cpu_status read_system(struct vcpu *v, uint16_t sel, uint64_t *d,
				   uint64_t *base)
{
	enum cpu_status s = desc_read(v, sel, EXC_GP, d);
	uint64_t hi = 0;

	if (!s && v->in_long_mode)
		s = desc_read_high(v, sel, EXC_GP, &hi);
	if (s)
		return s;
	*base = desc_base(*d) | hi << 32;
	if (!gva_canonical(*base))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	return CPU_OK;
}

static enum cpu_status system_load_allowed(struct vcpu *v)
{
	if (cpu_is_real(v))
		return vcpu_raise(v, EXC_UD);
	return v->cpl ? vcpu_raise(v, EXC_GP) : CPU_OK;
}

enum cpu_status cpu_lldt(struct vcpu *v, uint16_t sel)
{
	enum cpu_status s = system_load_allowed(v);
	uint64_t d, base;

	if (s)
		return s;
	if (sel_is_null(sel)) {
		v->ldtr = (struct segment){.sel = sel};
		return CPU_OK;
	}
	if (sel & SEL_TI)
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	s = read_system(v, sel, &d, &base);
	if (s)
		return s;
	if ((desc_attr(d) & (SEG_ATTR_S | SEG_ATTR_TYPE)) != DESC_LDT)
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(desc_attr(d) & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	v->ldtr = seg_from_desc(sel, d);
	v->ldtr.base = base;
	return CPU_OK;
}

enum cpu_status cpu_ltr(struct vcpu *v, uint16_t sel)
{
	enum cpu_status s = system_load_allowed(v);
	uint64_t d, base;
	uint8_t access;
	unsigned type;
	gva_t a;

	if (s)
		return s;
	if (sel_is_null(sel))
		return vcpu_raise(v, EXC_GP);
	if (sel & SEL_TI)
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	s = read_system(v, sel, &d, &base);
	if (s)
		return s;
	type = desc_attr(d) & (SEG_ATTR_S | SEG_ATTR_TYPE);
	if (type != DESC_TSS_AVL && (type != DESC_TSS16_AVL || v->in_long_mode))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(desc_attr(d) & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	d |= 2ull << 40; /* busy */
	access = d >> 40;
	s = desc_address(v, sel, 8, EXC_GP, &a);
	if (!s)
		s = mem_write(v, a + 5, &access, 1, MEM_WRITE | MEM_SYSTEM);
	if (s)
		return s;
	v->tr = seg_from_desc(sel, d);
	v->tr.base = base;
	return CPU_OK;
}

enum cpu_status cpu_lgdt(struct vcpu *v, bool idt, uint16_t limit,
			 uint64_t base)
{
	struct dtable *t = idt ? &v->idtr : &v->gdtr;

	if (v->cpl)
		return vcpu_raise(v, EXC_GP);
	if (vcpu_code64(v) && !gva_canonical(base))
		return vcpu_raise(v, EXC_GP);
	t->base = vcpu_code64(v) ? base : (uint32_t)base;
	t->limit = limit;
	return CPU_OK;
}

/* ---- stacks ---- */

static uint64_t ss_mask(const struct segment *ss)
{
	return ss->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;
}

void stack_init(struct vcpu *v, struct stack *s)
{
	*s = (struct stack){
		.ss = &v->seg[SEG_SS], .flat = vcpu_code64(v), .mask = ~0ull};
	if (!s->flat)
		s->mask = ss_mask(s->ss);
	s->sp = v->gpr[R_RSP] & s->mask;
}

uint64_t stack_merge(uint64_t rsp, uint64_t sp, uint64_t mask)
{
	/* A 16-bit stack leaves the rest of ESP alone. */
	return mask == 0xffff ? (rsp & ~mask) | (sp & mask) : sp & mask;
}

uint64_t stack_moved(const struct vcpu *v, const struct stack *s, int64_t n)
{
	return stack_merge(v->gpr[R_RSP], s->sp + n, s->mask);
}

static enum cpu_status stack_linear(struct vcpu *v, const struct stack *s,
				    uint64_t sp, unsigned len, gva_t *a)
{
	sp &= s->mask;
	if (s->flat) {
		*a = sp; /* mem.c judges the canonical form */
		return CPU_OK;
	}
	if (!in_limit(s->ss, sp, len) ||
	    (!cpu_is_real(v) && !(s->ss->attr & SEG_ATTR_P)))
		return vcpu_raise_err(v, EXC_SS, s->err);
	*a = (uint32_t)(s->ss->base + sp);
	return CPU_OK;
}

/* The usual case: 64-bit, all in one page. */
static bool stack_in_page(const struct stack *s, uint64_t low, unsigned bytes)
{
	return s->flat && (low & ~PAGE_MASK) + bytes <= PAGE_SIZE;
}

#define STACK_MAX 48 /* values pushed at once: 31 parameters and a frame */

enum cpu_status stack_push(struct vcpu *v, struct stack *s, unsigned size,
			   const uint64_t *vals, unsigned n)
{
	unsigned acc = MEM_WRITE | MEM_STACK | s->acc;
	uint64_t sp = s->sp;
	enum cpu_status st;
	gva_t at[STACK_MAX];

	if (size == 8 && n <= 8 && stack_in_page(s, sp - 8 * n, 8 * n)) {
		uint64_t frame[8];

		for (unsigned i = 0; i < n; i++)
			frame[n - 1 - i] = vals[i];
		st = mem_write(v, sp - 8 * n, frame, 8 * n, acc);
		if (!st)
			s->sp = sp - 8 * n;
		return st;
	}
	for (unsigned i = 0; i < n; i++) {
		sp = (sp - size) & s->mask;
		st = stack_linear(v, s, sp, size, &at[i]);
		if (!st)
			st = mem_probe_write(v, at[i], size, acc);
		if (st)
			return st;
	}
	for (unsigned i = 0; i < n; i++) {
		st = mem_write(v, at[i], &vals[i], size, acc);
		if (st)
			return st;
	}
	s->sp = sp;
	return CPU_OK;
}

enum cpu_status stack_peek(struct vcpu *v, const struct stack *s, unsigned skip,
			   unsigned size, uint64_t *vals, unsigned n)
{
	unsigned acc = MEM_READ | MEM_STACK | s->acc;
	uint64_t sp = s->sp + skip;
	enum cpu_status st;
	gva_t a;

	if (size == 8 && stack_in_page(s, sp, 8 * n))
		return mem_read(v, sp, vals, 8 * n, acc);
	for (unsigned i = 0; i < n; i++, sp += size) {
		vals[i] = 0;
		st = stack_linear(v, s, sp, size, &a);
		if (!st)
			st = mem_read(v, a, &vals[i], size, acc);
		if (st)
			return st;
	}
	return CPU_OK;
}

static enum cpu_status tss_read(struct vcpu *v, unsigned off, void *buf,
				unsigned len)
{
	if (off + len - 1 > v->tr.limit)
		return vcpu_raise_err(v, EXC_TS, sel_err(v->tr.sel));
	return mem_read(v, v->tr.base + off, buf, len, MEM_READ | MEM_SYSTEM);
}

static enum cpu_status tss_stack64(struct vcpu *v, unsigned cpl, unsigned ist,
				   struct segment *ss, struct stack *s)
{
	unsigned off = ist ? 36 + 8 * (ist - 1) : 4 + 8 * cpl;
	enum cpu_status st = tss_read(v, off, &s->sp, 8);

	if (st)
		return st;
	if (!gva_canonical(s->sp))
		return vcpu_raise(v, EXC_SS);
	*ss = (struct segment){.sel = cpl, .attr = cpl << SEG_ATTR_DPL_SHIFT};
	s->flat = true;
	s->mask = ~0ull;
	return CPU_OK;
}

static enum cpu_status tss_stack32(struct vcpu *v, unsigned cpl,
				   struct segment *ss, struct stack *s)
{
	bool wide = v->tr.attr & 8; /* a 32-bit TSS */
	enum cpu_status st;
	uint16_t sel = 0;
	uint64_t d;

	s->sp = 0;
	st = tss_read(v, wide ? 4 + 8 * cpl : 2 + 4 * cpl, &s->sp,
		      wide ? 4 : 2);
	if (!st)
		st = tss_read(v, wide ? 8 + 8 * cpl : 4 + 4 * cpl, &sel, 2);
	if (st)
		return st;
	if (sel_is_null(sel))
		return vcpu_raise_err(v, EXC_TS, sel_err(sel));
	st = desc_read(v, sel, EXC_TS, &d);
	if (!st)
		st = check_ss(v, sel, cpl, d, EXC_TS);
	if (!st)
		st = desc_set_accessed(v, sel, &d);
	if (st)
		return st;
	*ss = seg_from_desc(sel, d);
	s->mask = ss_mask(ss);
	s->err = sel_err(sel);
	return CPU_OK;
}

enum cpu_status tss_stack(struct vcpu *v, unsigned cpl, unsigned ist,
			  struct segment *ss, struct stack *s)
{
	*s = (struct stack){.ss = ss, .acc = MEM_SYSTEM};
	if (v->in_long_mode)
		return tss_stack64(v, cpl, ist, ss, s);
	return tss_stack32(v, cpl, ss, s);
}

/* ---- far jumps and calls ---- */

/* A code segment as the target of JMP/CALL, not through a gate. */
static enum cpu_status check_code_target(struct vcpu *v, uint16_t sel,
					 uint16_t attr)
{
	if (attr_is_conforming(attr)
		    ? attr_dpl(attr) > v->cpl
		    : (sel & SEL_RPL) > v->cpl || attr_dpl(attr) != v->cpl)
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	if (v->in_long_mode && (attr & SEG_ATTR_L) && (attr & SEG_ATTR_DB))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	return CPU_OK;
}

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned params; /* to copy (32- and 16-bit) */
	unsigned opsize;
};

/* A far pointer's target: *cs filled for a code segment; *gate used when
 * *is_gate. */
struct far_target {
	struct segment cs;
	uint64_t rip;
	unsigned cpl; /* after the transfer */
	bool is_gate;
	struct gate gate;
};

static enum cpu_status read_call_gate(struct vcpu *v, uint16_t sel, uint64_t d,
				      struct gate *g)
{
	uint16_t attr = desc_attr(d);
	uint64_t hi = 0;

	if (attr_dpl(attr) < v->cpl || attr_dpl(attr) < (sel & SEL_RPL))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	if (v->in_long_mode) {
		enum cpu_status s = desc_read_high(v, sel, EXC_GP, &hi);

		if (s)
			return s;
	}
	*g = (struct gate){.sel = d >> 16,
			   .off = (d & 0xffff) | (d >> 32 & 0xffff0000) |
				  hi << 32,
			   .params = d >> 32 & 0x1f,
			   .opsize = 4};
	if (v->in_long_mode) {
		g->opsize = 8;
		g->params = 0;
	} else if ((attr & SEG_ATTR_TYPE) == DESC_CALL16) {
		g->opsize = 2;
		g->off &= 0xffff;
	}
	return CPU_OK;
}

/* The code segment behind a call gate; call says whether it may be more
 * privileged. */
static enum cpu_status resolve_gate(struct vcpu *v, struct far_target *t,
				    bool call)
{
	uint16_t sel = t->gate.sel, attr;
	enum cpu_status s;
	uint64_t d;

	if (sel_is_null(sel))
		return vcpu_raise(v, EXC_GP);
	s = desc_read(v, sel, EXC_GP, &d);
	if (s)
		return s;
	attr = desc_attr(d);
	if (!attr_is_code(attr) || attr_dpl(attr) > v->cpl ||
	    (!call && !attr_is_conforming(attr) && attr_dpl(attr) != v->cpl) ||
	    (v->in_long_mode &&
	     (attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	s = desc_set_accessed(v, sel, &d);
	if (s)
		return s;
	t->cpl = attr_is_conforming(attr) ? v->cpl : attr_dpl(attr);
	t->cs = seg_from_desc((sel & ~SEL_RPL) | t->cpl, d);
	t->rip = t->gate.off;
	return seg_check_rip(v, &t->cs, &t->rip);
}

static enum cpu_status resolve_far(struct vcpu *v, uint16_t sel, uint64_t off,
				   bool call, struct far_target *t)
{
	enum cpu_status s;
	uint16_t attr;
	uint64_t d;

	*t = (struct far_target){.rip = off, .cpl = v->cpl};
	if (cpu_is_real(v)) {
		t->cs = seg_real(&v->seg[SEG_CS], sel);
		return seg_check_rip(v, &t->cs, &t->rip);
	}
	if (sel_is_null(sel))
		return vcpu_raise(v, EXC_GP);
	s = desc_read(v, sel, EXC_GP, &d);
	if (s)
		return s;
	attr = desc_attr(d);
	if (attr_is_code(attr)) {
		s = check_code_target(v, sel, attr);
		if (!s)
			s = desc_set_accessed(v, sel, &d);
		if (s)
			return s;
		t->cs = seg_from_desc((sel & ~SEL_RPL) | v->cpl, d);
		return seg_check_rip(v, &t->cs, &t->rip);
	}
	if (attr & SEG_ATTR_S)
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	switch (attr & SEG_ATTR_TYPE) {
	case DESC_CALL16:
		if (v->in_long_mode)
			break;
		/* fallthrough */
	case DESC_CALL:
		s = read_call_gate(v, sel, d, &t->gate);
		if (s)
			return s;
		t->is_gate = true;
		return resolve_gate(v, t, call);
	case DESC_TSS16_AVL:
	case DESC_TASK_GATE:
	case DESC_TSS_AVL:
		if (v->in_long_mode)
			break;
		return vcpu_stop(v,
				 "hardware task switches are not built "
				 "(far transfer to selector %04x)",
				 sel);
	}
	return vcpu_raise_err(v, EXC_GP, sel_err(sel));
}

static void far_commit(struct vcpu *v, const struct far_target *t)
{
	v->seg[SEG_CS] = t->cs;
	v->rip = t->rip;
	v->cpl = t->cpl;
}

static uint64_t cut(uint64_t val, unsigned opsize)
{
	return opsize == 2 ? val & 0xffff : opsize == 4 ? (uint32_t)val : val;
}

enum cpu_status cpu_far_jmp(struct vcpu *v, uint16_t sel, uint64_t off,
			    unsigned opsize)
{
	struct far_target t;
	enum cpu_status s = resolve_far(v, sel, cut(off, opsize), false, &t);

	if (!s)
		far_commit(v, &t);
	return s;
}

/* CALL through a gate to a more privileged ring. */
static enum cpu_status call_inner(struct vcpu *v, const struct far_target *t,
				  gva_t next)
{
	unsigned size = t->gate.opsize, params = t->gate.params, n = 0;
	uint64_t vals[STACK_MAX], par[32];
	struct stack old, new;
	struct segment ss;
	enum cpu_status s = tss_stack(v, t->cpl, 0, &ss, &new);

	if (s)
		return s;
	stack_init(v, &old);
	s = stack_peek(v, &old, 0, size, par, params);
	if (s)
		return s;
	vals[n++] = v->seg[SEG_SS].sel;
	vals[n++] = v->gpr[R_RSP];
	while (params)
		vals[n++] = par[--params];
	vals[n++] = v->seg[SEG_CS].sel;
	vals[n++] = next;
	s = stack_push(v, &new, size, vals, n);
	if (s)
		return s;
	far_commit(v, t);
	v->seg[SEG_SS] = ss;
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], new.sp, new.mask);
	return CPU_OK;
}

enum cpu_status cpu_far_call(struct vcpu *v, uint16_t sel, uint64_t off,
			     unsigned opsize, gva_t next)
{
	struct far_target t;
	enum cpu_status s = resolve_far(v, sel, cut(off, opsize), true, &t);
	uint64_t vals[2] = {v->seg[SEG_CS].sel, next};
	struct stack st;

	if (s)
		return s;
	if (t.is_gate) {
		if (t.cpl < v->cpl)
			return call_inner(v, &t, next);
		opsize = t.gate.opsize;
	}
	stack_init(v, &st);
	/* A gate from compatibility mode pushes 64-bit values on what is then
	 * a 64-bit stack. */
	if (t.is_gate && v->in_long_mode) {
		st.flat = true;
		st.mask = ~0ull;
	}
	s = stack_push(v, &st, opsize, vals, 2);
	if (s)
		return s;
	far_commit(v, &t);
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], st.sp, st.mask);
	return CPU_OK;
}

/* ---- far returns ---- */

enum cpu_status ret_check_cs(struct vcpu *v, uint16_t sel, struct segment *cs)
{
	unsigned rpl = sel & SEL_RPL;
	enum cpu_status s;
	uint16_t attr;
	uint64_t d;

	if (sel_is_null(sel))
		return vcpu_raise(v, EXC_GP);
	s = desc_read(v, sel, EXC_GP, &d);
	if (s)
		return s;
	attr = desc_attr(d);
	if (!attr_is_code(attr) || rpl < v->cpl ||
	    (attr_is_conforming(attr) ? attr_dpl(attr) > rpl
				      : attr_dpl(attr) != rpl) ||
	    (v->in_long_mode && (attr & SEG_ATTR_L) && (attr & SEG_ATTR_DB)))
		return vcpu_raise_err(v, EXC_GP, sel_err(sel));
	if (!(attr & SEG_ATTR_P))
		return vcpu_raise_err(v, EXC_NP, sel_err(sel));
	s = desc_set_accessed(v, sel, &d);
	if (s)
		return s;
	*cs = seg_from_desc(sel, d);
	return CPU_OK;
}

enum cpu_status ret_check_ss(struct vcpu *v, uint16_t sel,
			     const struct segment *cs, struct segment *ss)
{
	unsigned rpl = cs->sel & SEL_RPL;
	enum cpu_status s;
	uint64_t d;

	if (sel_is_null(sel)) {
		if (!v->in_long_mode || !(cs->attr & SEG_ATTR_L) || rpl == 3 ||
		    (sel & SEL_RPL) != rpl)
			return vcpu_raise(v, EXC_GP);
		*ss = (struct segment){.sel = sel,
				       .attr = rpl << SEG_ATTR_DPL_SHIFT};
		return CPU_OK;
	}
	s = desc_read(v, sel, EXC_GP, &d);
	if (!s)
		s = check_ss(v, sel, rpl, d, EXC_GP);
	if (!s)
		s = desc_set_accessed(v, sel, &d);
	if (s)
		return s;
	*ss = seg_from_desc(sel, d);
	return CPU_OK;
}

void ret_drop_segments(struct vcpu *v)
{
	static const enum seg_reg data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &v->seg[data[i]];

		if (!(s->attr & SEG_ATTR_P) || attr_is_conforming(s->attr) ||
		    attr_dpl(s->attr) >= v->cpl)
			continue;
		s->sel = 0;
		s->attr = 0;
	}
}

static enum cpu_status far_ret_real(struct vcpu *v, struct stack *st,
				    unsigned opsize, uint16_t pop)
{
	struct far_target t = {.cpl = 0};
	enum cpu_status s;
	uint64_t vals[2];

	s = stack_peek(v, st, 0, opsize, vals, 2);
	if (s)
		return s;
	t.rip = vals[0];
	t.cs = seg_real(&v->seg[SEG_CS], vals[1]);
	s = seg_check_rip(v, &t.cs, &t.rip);
	if (s)
		return s;
	far_commit(v, &t);
	v->gpr[R_RSP] = stack_moved(v, st, 2 * opsize + pop);
	return CPU_OK;
}

static enum cpu_status far_ret_outer(struct vcpu *v, struct stack *st,
				     struct far_target *t, unsigned opsize,
				     uint16_t pop)
{
	enum cpu_status s;
	struct segment ss;
	uint64_t vals[2], mask = ~0ull;

	s = stack_peek(v, st, 2 * opsize + pop, opsize, vals, 2);
	if (!s)
		s = ret_check_ss(v, vals[1], &t->cs, &ss);
	if (!s)
		s = seg_check_rip(v, &t->cs, &t->rip);
	if (s)
		return s;
	far_commit(v, t);
	v->seg[SEG_SS] = ss;
	if (!vcpu_code64(v))
		mask = ss_mask(&ss);
	v->gpr[R_RSP] = stack_merge(v->gpr[R_RSP], vals[0] + pop, mask);
	ret_drop_segments(v);
	return CPU_OK;
}

enum cpu_status cpu_far_ret(struct vcpu *v, unsigned opsize, uint16_t pop)
{
	struct far_target t = {0};
	enum cpu_status s;
	struct stack st;
	uint64_t vals[2];

	stack_init(v, &st);
	if (cpu_is_real(v))
		return far_ret_real(v, &st, opsize, pop);
	s = stack_peek(v, &st, 0, opsize, vals, 2);
	if (!s)
		s = ret_check_cs(v, vals[1], &t.cs);
	if (s)
		return s;
	t.rip = vals[0];
	t.cpl = t.cs.sel & SEL_RPL;
	if (t.cpl > v->cpl)
		return far_ret_outer(v, &st, &t, opsize, pop);
	s = seg_check_rip(v, &t.cs, &t.rip);
	if (s)
		return s;
	far_commit(v, &t);
	v->gpr[R_RSP] = stack_moved(v, &st, 2 * opsize + pop);
	return CPU_OK;
}

/* ---- questions about selectors ---- */

/* The descriptor, if sel names one; nothing is raised. */
static bool peek_desc(struct vcpu *v, uint16_t sel, uint64_t *d)
{
	struct exception keep = v->exc;

	if (cpu_is_real(v) || sel_is_null(sel))
		return false;
	if (!desc_read(v, sel, EXC_GP, d))
		return true;
	v->exc = keep;
	return false;
}

static bool dpl_visible(const struct vcpu *v, uint16_t sel, uint16_t attr)
{
	return attr_is_conforming(attr) ||
	       (attr_dpl(attr) >= v->cpl && attr_dpl(attr) >= (sel & SEL_RPL));
}

/* Which system types LAR and LSL accept (vol. 2, tables at LAR and LSL). */
#define LAR_TYPES                                                              \
	(1u << DESC_TSS16_AVL | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY |       \
	 1u << DESC_CALL16 | 1u << DESC_TASK_GATE | 1u << DESC_TSS_AVL |       \
	 1u << DESC_TSS_BUSY | 1u << DESC_CALL)
#define LSL_TYPES                                                              \
	(1u << DESC_TSS16_AVL | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY |       \
	 1u << DESC_TSS_AVL | 1u << DESC_TSS_BUSY)
#define NOT_IN_LONG_MODE                                                       \
	(1u << DESC_TSS16_AVL | 1u << DESC_TSS16_BUSY | 1u << DESC_CALL16 |    \
	 1u << DESC_TASK_GATE)

static bool type_accepted(const struct vcpu *v, uint16_t attr, uint32_t types)
{
	if (attr & SEG_ATTR_S)
		return true;
	if (v->in_long_mode)
		types &= ~NOT_IN_LONG_MODE;
	return types >> (attr & SEG_ATTR_TYPE) & 1;
}

void cpu_lar(struct vcpu *v, uint16_t sel, uint32_t *val, bool *ok)
{
	uint64_t d;

	*ok = peek_desc(v, sel, &d) &&
	      type_accepted(v, desc_attr(d), LAR_TYPES) &&
	      dpl_visible(v, sel, desc_attr(d));
	if (*ok)
		*val = d >> 32 & 0x00ffff00;
}

void cpu_lsl(struct vcpu *v, uint16_t sel, uint32_t *val, bool *ok)
{
	uint64_t d;

	*ok = peek_desc(v, sel, &d) &&
	      type_accepted(v, desc_attr(d), LSL_TYPES) &&
	      dpl_visible(v, sel, desc_attr(d));
	if (*ok)
		*val = desc_limit(d);
}

void cpu_verr(struct vcpu *v, uint16_t sel, bool write, bool *ok)
{
	uint64_t d;
	uint16_t attr;

	*ok = peek_desc(v, sel, &d);
	if (!*ok)
		return;
	attr = desc_attr(d);
	*ok = (attr & SEG_ATTR_S) && dpl_visible(v, sel, attr);
	if (write)
		*ok &= attr_is_writable(attr);
	else
		*ok &= !attr_is_code(attr) || (attr & DESC_READABLE);
}

enum cpu_status cpu_umip_check(struct vcpu *v)
{
	if (v->cpl && (v->cr4 & CR4_UMIP))
		return vcpu_raise(v, EXC_GP);
	return CPU_OK;
}
