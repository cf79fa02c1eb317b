/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_PROTECTION_H
#define SARDINE_VMM_CPU_PROTECTION_H
/*
 * The machinery of protection under sys.h, shared by seg.c, event.c, syscall.c,
 * ctl.c, io.c and msr.c: descriptors, stacks that are not yet current, and the
 * checks of a return to an outer ring. Each function that can fault changes no
 * guest state before it knows that it will not (descriptor accessed bits are
 * the SDM's own exception).
 */
#include "vmm/cpu/sys.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/regs.h"

static inline uint16_t desc_attr(uint64_t d)
{
	return (d >> 40 & 0xff) | (d >> 44 & 0xf00);
}
static inline uint64_t desc_base(uint64_t d)
{
	return (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
}
static inline uint32_t desc_limit(uint64_t d)
{
	uint32_t l = (d & 0xffff) | (d >> 32 & 0xf0000);

	return desc_attr(d) & SEG_ATTR_G ? l << 12 | 0xfff : l;
}
static inline unsigned attr_dpl(uint16_t attr)
{
	return (attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}
static inline bool attr_is_code(uint16_t attr)
{
	return (attr & SEG_ATTR_S) && (attr & DESC_CODE);
}
static inline bool attr_is_conforming(uint16_t attr)
{
	return attr_is_code(attr) && (attr & DESC_CONFORMING);
}
static inline bool attr_is_writable(uint16_t attr)
{
	return (attr & SEG_ATTR_S) && !(attr & DESC_CODE) &&
	       (attr & DESC_WRITABLE);
}
static inline bool sel_is_null(uint16_t sel)
{
	return !(sel & ~SEL_RPL);
}
/* Selector part of an error code. */
static inline uint32_t sel_err(uint16_t sel)
{
	return sel & 0xfffc;
}
static inline bool cpu_is_real(const struct vcpu *v)
{
	return !(v->cr0 & CR0_PE);
}
static inline unsigned cpu_iopl(const struct vcpu *v)
{
	return (v->rflags & FL_IOPL) >> 12;
}
/* The current PCID. */
static inline uint16_t cpu_pcid(const struct vcpu *v)
{
	return v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID : 0;
}

/* Flat segments as SYSCALL and friends load them. */
static inline struct segment seg_flat_code(uint16_t sel, unsigned cpl, bool l)
{
	return (struct segment){.sel = sel,
				.attr = SEG_ATTR_G |
					(l ? SEG_ATTR_L : SEG_ATTR_DB) |
					SEG_ATTR_P | SEG_ATTR_S |
					cpl << SEG_ATTR_DPL_SHIFT | 0xb,
				.limit = 0xffffffff};
}
static inline struct segment seg_flat_data(uint16_t sel, unsigned cpl)
{
	return (struct segment){.sel = sel,
				.attr = SEG_ATTR_G | SEG_ATTR_DB | SEG_ATTR_P |
					SEG_ATTR_S | cpl << SEG_ATTR_DPL_SHIFT |
					0x3,
				.limit = 0xffffffff};
}

/* ---- seg.c ---- */

/* The 8 bytes at sel in the GDT or LDT; beyond its limit: vector(sel). */
enum cpu_status desc_read(struct vcpu *v, uint16_t sel, uint8_t vector,
			  uint64_t *d);
/* The upper 8 of a 16-byte system descriptor (long mode). */
enum cpu_status desc_read_high(struct vcpu *v, uint16_t sel, uint8_t vector,
			       uint64_t *hi);
/* Set the accessed bit in memory and in *d if it is clear. */
enum cpu_status desc_set_accessed(struct vcpu *v, uint16_t sel, uint64_t *d);
struct segment seg_from_desc(uint16_t sel, uint64_t d);

/* Can execution go on at rip in cs? Cuts *rip to the mode's width. #GP(0). */
enum cpu_status seg_check_rip(struct vcpu *v, const struct segment *cs,
			      uint64_t *rip);

/* A stack to push to or pop from before it becomes v's. */
struct stack {
	const struct segment *ss;
	uint64_t sp;
	uint64_t mask; /* of sp */
	bool flat;     /* 64-bit: neither base nor limit */
	unsigned acc;  /* MEM_SYSTEM or 0 */
	uint32_t err;  /* of the #SS of a limit violation */
};
void stack_init(struct vcpu *v, struct stack *s); /* the current one */
/* vals[0] first (highest address); size 2, 4, 8 each. All or nothing. */
enum cpu_status stack_push(struct vcpu *v, struct stack *s, unsigned size,
			   const uint64_t *vals, unsigned n);
/* n values from s->sp + skip on; s->sp does not move. */
enum cpu_status stack_peek(struct vcpu *v, const struct stack *s, unsigned skip,
			   unsigned size, uint64_t *vals, unsigned n);
/* Advance rsp by n, in the stack's width. */
uint64_t stack_moved(const struct vcpu *v, const struct stack *s, int64_t n);
/* RSP as it is after loading sp into a stack of this width. */
uint64_t stack_merge(uint64_t rsp, uint64_t sp, uint64_t mask);

/* The stack for ring cpl out of the TSS (ist: 0, or 1..7 in long mode).
 * *ss receives the new SS; s->ss points at it. #TS, #SS. */
enum cpu_status tss_stack(struct vcpu *v, unsigned cpl, unsigned ist,
			  struct segment *ss, struct stack *s);

/* Checks of IRET and RETF. */
enum cpu_status ret_check_cs(struct vcpu *v, uint16_t sel, struct segment *cs);
enum cpu_status ret_check_ss(struct vcpu *v, uint16_t sel,
			     const struct segment *cs, struct segment *ss);
/* After going to an outer ring: data segments it may not have become null. */
void ret_drop_segments(struct vcpu *v);
#endif
