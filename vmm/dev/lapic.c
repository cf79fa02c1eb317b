/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC.
 *
 * What is pending is a question that engines ask often (at every instruction
 * that sets IF, or lowers TPR), and what changes it happens seldom. So every
 * change recomputes one word, `hint`: the vector that an acknowledge would
 * give now, or -1; lapic_peek() only loads it. When the hint becomes a vector,
 * the vCPU is kicked. IF and the interrupt shadow are the CPU's business.
 *
 *   IRR  asked (256 bits)     ISR  in service     TMR  level-triggered
 *   PPR = max(TPR, class of the highest in ISR); a vector is deliverable when
 *   its class (vector >> 4) is above PPR's.
 *
 * The timer counts timer_hz / divide. In the deadline mode it compares the
 * guest's TSC. The clock's timer is only a wake-up call: the deadline is
 * compared again when it comes (the guest may have written its TSC meanwhile;
 * the host's clock may have been slewed), and re-armed when it is early.
 *
 * One CPU: an ICR message goes to it or to nobody. SMI, INIT and start-up
 * messages to oneself are ignored and counted; so are NMIs (there is no NMI
 * path in the vCPU yet). The base address stays 0xfee00000: a write of another
 * is #GP. Interrupts that arrive while the APIC is disabled are dropped.
 *
 * The periodic timer never runs faster than MIN_PERIOD_NS: a guest must not be
 * able to keep the I/O thread busy. Ticks that the host was too late for are
 * merged into one, as in any APIC whose CPU keeps IF clear.
 */
#include "vmm/dev/lapic.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/dev/pic.h"
#include "vmm/dev/platform.h"
#include "vmm/x86/regs.h"

#define MIN_PERIOD_NS 100000

/* Register numbers: MMIO offset / 16 and x2APIC MSR - 0x800. */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_CMCI = 0x2f,
	REG_ICR = 0x30,
	REG_ICR2 = 0x31,
	REG_LVT = 0x32,
	REG_LVT_END = 0x38,
	REG_TIMER_INIT = 0x38,
	REG_TIMER_CUR = 0x39,
	REG_TIMER_DIV = 0x3e,
	REG_SELF_IPI = 0x3f
};
enum {
	LVT_TIMER,
	LVT_THERMAL,
	LVT_PERF,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	NR_LVT
};

/* Bits that can be written, per LVT entry. */
static const uint32_t lvt_mask[NR_LVT] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,	[LVT_ERROR] = 0x100ff,
};

#define VERSION	      (0x14 | (NR_LVT - 1) << 16)
#define SVR_ENABLE    0x100
#define SVR_WRITABLE  0x3ff
#define LVT_MASKED    0x10000
#define LVT_DM(v)     ((v) >> 8 & 7)
#define TIMER_MODE(v) ((v) >> 17 & 3)
enum { TIMER_ONESHOT, TIMER_PERIODIC, TIMER_DEADLINE };
#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_REGISTER	 (1u << 7)

#define BASE_BSP	 (1ull << 8)
#define BASE_X2APIC	 (1ull << 10)
#define BASE_ENABLE	 (1ull << 11)
#define BASE_ADDR	 0x000ffffffffff000ull

#define ICR_DM(v)	 ((v) >> 8 & 7)
#define ICR_LOGICAL	 (1u << 11)
#define ICR_SHORTHAND(v) ((v) >> 18 & 3)
#define ICR_WRITABLE	 0xccfffu

#define LAPIC_STATS(X)                                                         \
	X(injected, "interrupts taken by the vCPU from the local APIC")        \
	X(injected_pic, "interrupts taken by the vCPU from the 8259s")         \
	X(timer_fired, "timer expirations, any mode")                          \
	X(timer_early, "wake-ups before the deadline, armed again")            \
	X(timer_armed, "timer settings by the guest")                          \
	X(eoi, "end-of-interrupt writes")                                      \
	X(ipi_self, "IPIs to this CPU")                                        \
	X(ipi_nobody, "IPIs to CPUs that do not exist")                        \
	X(merged, "interrupts that were already pending")                      \
	X(dropped_disabled, "interrupts that came while disabled")             \
	X(ignored_mode, "SMI, NMI, INIT, start-up messages ignored")           \
	X(kicks, "times the vCPU was told of a new vector")                    \
	X(mmio, "xAPIC register accesses")                                     \
	X(msr, "x2APIC and timer MSR accesses")
struct lapic_stats {
	LAPIC_STATS(STAT_FIELD)
};
static const struct stat_desc lapic_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(lapic_stats, name, help),
	LAPIC_STATS(D)
#undef D
};

struct lapic {
	struct lapic_config cfg;
	_Atomic int hint;
	uint64_t base;
	uint32_t irr[8], isr[8], tmr[8];
	uint32_t tpr, svr, ldr, dfr, esr, esr_next, icr, icr2;
	uint32_t lvt[NR_LVT];
	uint32_t timer_init, timer_div;
	uint64_t timer_start; /* ns: when the count was timer_init */
	uint64_t deadline;    /* guest TSC; 0 = disarmed */
	struct timer timer;
	struct lapic_stats st;
};

/* ---- bit sets ---- */

static void bit_set(uint32_t *w, uint8_t vec)
{
	w[vec >> 5] |= 1u << (vec & 31);
}
static void bit_clear(uint32_t *w, uint8_t vec)
{
	w[vec >> 5] &= ~(1u << (vec & 31));
}
static bool bit_get(const uint32_t *w, uint8_t vec)
{
	return w[vec >> 5] >> (vec & 31) & 1;
}
static int bit_highest(const uint32_t *w)
{
	int i;

	for (i = 7; i >= 0; i--)
		if (w[i])
			return 32 * i + 31 - __builtin_clz(w[i]);
	return -1;
}

/* ---- what is deliverable ---- */

static bool lapic_hw_enabled(const struct lapic *l)
{
	return l->base & BASE_ENABLE;
}
static bool lapic_x2(const struct lapic *l)
{
	return (l->base & (BASE_ENABLE | BASE_X2APIC)) ==
	       (BASE_ENABLE | BASE_X2APIC);
}
static bool lapic_enabled(const struct lapic *l)
{
	return lapic_hw_enabled(l) && (l->svr & SVR_ENABLE);
}

static uint32_t lapic_ppr(const struct lapic *l)
{
	int isr = bit_highest(l->isr);
	uint32_t served = isr < 0 ? 0 : isr & 0xf0;

	return (l->tpr & 0xf0) >= served ? l->tpr : served;
}

/* Does the PIC's INT reach the CPU? */
static bool lapic_extint(const struct lapic *l)
{
	uint32_t lint0 = l->lvt[LVT_LINT0];

	if (!l->cfg.pic || !pic_pending(l->cfg.pic))
		return false;
	if (!lapic_hw_enabled(l))
		return true;
	return !(lint0 & LVT_MASKED) && LVT_DM(lint0) == APIC_DM_EXTINT;
}

static int lapic_highest(const struct lapic *l)
{
	int vec;

	if (!lapic_enabled(l))
		return -1;
	vec = bit_highest(l->irr);
	if (vec < 0 || (vec & 0xf0) <= (int)(lapic_ppr(l) & 0xf0))
		return -1;
	return vec;
}

/* To be called after every change. */
static void lapic_update(struct lapic *l)
{
	int old = atomic_load_explicit(&l->hint, memory_order_relaxed);
	int now = lapic_extint(l) ? pic_peek(l->cfg.pic) : lapic_highest(l);

	if (now == old)
		return;
	atomic_store(&l->hint, now);
	if (now >= 0) {
		l->st.kicks++;
		l->cfg.kick(l->cfg.ctx);
	}
}

void lapic_pic_changed(struct lapic *l)
{
	lapic_update(l);
}

static void lapic_error(struct lapic *l, uint32_t bit);

static void lapic_accept(struct lapic *l, uint8_t vec, bool level)
{
	if (vec < 16) {
		lapic_error(l, ESR_RECV_ILLEGAL);
		return;
	}
	if (bit_get(l->irr, vec))
		l->st.merged++;
	bit_set(l->irr, vec);
	if (level)
		bit_set(l->tmr, vec);
	else
		bit_clear(l->tmr, vec);
	lapic_update(l);
}

/* A fixed interrupt from an LVT entry. */
static void lapic_lvt_fire(struct lapic *l, unsigned n)
{
	if ((l->lvt[n] & LVT_MASKED) || !lapic_enabled(l))
		return;
	if (n != LVT_TIMER && n != LVT_ERROR && LVT_DM(l->lvt[n])) {
		l->st.ignored_mode++;
		return;
	}
	lapic_accept(l, l->lvt[n], false);
}

static void lapic_error(struct lapic *l, uint32_t bit)
{
	bool first = !(l->esr_next & bit);

	l->esr_next |= bit;
	/* An error LVT with an illegal vector must not call itself. */
	if (first && (l->lvt[LVT_ERROR] & 0xff) >= 16)
		lapic_lvt_fire(l, LVT_ERROR);
}

/* ---- messages ---- */

static bool lapic_match_logical(const struct lapic *l, uint32_t dest)
{
	if (lapic_x2(l)) {
		if (dest >> 16 != l->cfg.id >> 4 && dest != 0xffffffff)
			return false;
		return dest & (1u << (l->cfg.id & 15));
	}
	if (dest >= 0xff)
		return true;
	if (l->dfr >> 28 == 0xf) /* flat */
		return l->ldr >> 24 & dest;
	/* cluster */
	return (l->ldr >> 28 == dest >> 4 || dest >> 4 == 0xf) &&
	       (l->ldr >> 24 & dest & 0xf);
}

static bool lapic_match(const struct lapic *l, uint32_t dest, bool logical)
{
	uint32_t all = lapic_x2(l) ? 0xffffffff : 0xff;

	if (logical)
		return lapic_match_logical(l, dest);
	return dest == all || dest == l->cfg.id;
}

static void lapic_deliver(struct lapic *l, unsigned mode, uint8_t vec,
			  bool level)
{
	if (mode != APIC_DM_FIXED && mode != APIC_DM_LOWEST)
		l->st.ignored_mode++;
	else if (!lapic_enabled(l))
		l->st.dropped_disabled++;
	else
		lapic_accept(l, vec, level);
}

void lapic_receive(struct lapic *l, const struct apic_msg *m)
{
	/* The message's eight bits: 0xff is everybody in x2APIC mode too. */
	uint32_t dest = m->dest == 0xff ? 0xffffffff : m->dest;

	if (!lapic_x2(l))
		dest = m->dest;
	if (m->mode == APIC_DM_EXTINT)
		l->st.ignored_mode++; /* the PIC comes by LINT0 here */
	else if (lapic_match(l, dest, m->logical))
		lapic_deliver(l, m->mode, m->vector, m->level);
}

static void lapic_icr(struct lapic *l, uint32_t icr, uint32_t dest)
{
	bool self = false;

	switch (ICR_SHORTHAND(icr)) {
	case 0:
		self = lapic_match(l, dest, icr & ICR_LOGICAL);
		break;
	case 1: /* self */
	case 2: /* all, self too */
		self = true;
		break;
	}
	if (!self) {
		l->st.ipi_nobody++;
		return;
	}
	l->st.ipi_self++;
	if ((icr & 0xff) < 16 && ICR_DM(icr) <= APIC_DM_LOWEST)
		lapic_error(l, ESR_SEND_ILLEGAL);
	else
		lapic_deliver(l, ICR_DM(icr), icr, false);
}

static void lapic_eoi(struct lapic *l)
{
	int vec = bit_highest(l->isr);

	l->st.eoi++;
	if (vec < 0)
		return;
	bit_clear(l->isr, vec);
	if (bit_get(l->tmr, vec))
		l->cfg.eoi(l->cfg.ctx, vec);
	lapic_update(l);
}

/* ---- the timer ---- */

static unsigned timer_mode(const struct lapic *l)
{
	return TIMER_MODE(l->lvt[LVT_TIMER]);
}

static uint64_t timer_divide(const struct lapic *l)
{
	unsigned d = (l->timer_div & 3) | (l->timer_div >> 1 & 4);

	return d == 7 ? 1 : 2u << d;
}

static uint64_t timer_count_ns(const struct lapic *l, uint64_t count)
{
	return muldiv64(count * timer_divide(l), NS_PER_SEC, l->cfg.timer_hz);
}

static uint64_t timer_period_ns(const struct lapic *l)
{
	uint64_t ns = timer_count_ns(l, l->timer_init);

	return ns < MIN_PERIOD_NS ? MIN_PERIOD_NS : ns;
}

static uint32_t timer_current(const struct lapic *l)
{
	uint64_t gone, ticks;

	if (!l->timer_init || timer_mode(l) == TIMER_DEADLINE)
		return 0;
	gone = clock_now(&l->cfg.clock) - l->timer_start;
	ticks = muldiv64(gone, l->cfg.timer_hz, NS_PER_SEC) / timer_divide(l);
	if (ticks < l->timer_init)
		return l->timer_init - ticks;
	if (timer_mode(l) == TIMER_ONESHOT)
		return 0;
	return l->timer_init - ticks % l->timer_init;
}

static void timer_fire(struct lapic *l)
{
	l->st.timer_fired++;
	lapic_lvt_fire(l, LVT_TIMER);
}

/* Arm for what is left until the deadline, or fire. */
static void timer_deadline(struct lapic *l)
{
	int64_t left = l->deadline - l->cfg.guest_tsc(l->cfg.ctx);
	uint64_t ns;

	if (left <= 0) {
		l->deadline = 0;
		timer_fire(l);
		return;
	}
	ns = muldiv64(left, 1000000, l->cfg.tsc_khz) + 1;
	/* A far deadline is one that needs no wake-up: 100 days. */
	if (ns < 100ull * 86400 * NS_PER_SEC)
		clock_arm(&l->cfg.clock, &l->timer,
			  clock_now(&l->cfg.clock) + ns);
	else
		clock_disarm(&l->cfg.clock, &l->timer);
}

static void timer_expired(void *ctx)
{
	struct lapic *l = ctx;
	uint64_t now, next;

	switch (timer_mode(l)) {
	case TIMER_DEADLINE:
		if (!l->deadline)
			return;
		timer_deadline(l);
		if (l->deadline)
			l->st.timer_early++;
		return;
	case TIMER_PERIODIC:
		now = clock_now(&l->cfg.clock);
		next = l->timer.at_ns + timer_period_ns(l);
		if (next <= now) {
			uint64_t late = now - l->timer.at_ns;

			next = now + timer_period_ns(l) -
			       late % timer_period_ns(l);
		}
		clock_arm(&l->cfg.clock, &l->timer, next);
		break;
	}
	timer_fire(l);
}

/* From the count registers, as of timer_start. */
static void timer_restart(struct lapic *l)
{
	uint64_t ns;

	clock_disarm(&l->cfg.clock, &l->timer);
	if (!l->timer_init || timer_mode(l) == TIMER_DEADLINE)
		return;
	ns = timer_mode(l) == TIMER_PERIODIC ? timer_period_ns(l)
					     : timer_count_ns(l, l->timer_init);
	clock_arm(&l->cfg.clock, &l->timer, l->timer_start + ns);
}

static void timer_set_init(struct lapic *l, uint32_t val)
{
	if (timer_mode(l) == TIMER_DEADLINE)
		return;
	l->st.timer_armed++;
	l->timer_init = val;
	l->timer_start = clock_now(&l->cfg.clock);
	timer_restart(l);
}

/* The count goes on from where it is, at the new rate. */
static void timer_set_div(struct lapic *l, uint32_t val)
{
	uint32_t cur = timer_current(l);
	uint64_t now = clock_now(&l->cfg.clock);

	l->timer_div = val & 0xb;
	if (!cur)
		return;
	l->timer_start = now - timer_count_ns(l, l->timer_init - cur);
	timer_restart(l);
}

static void timer_set_lvt(struct lapic *l, uint32_t val)
{
	unsigned old = timer_mode(l);

	l->lvt[LVT_TIMER] = val;
	if (timer_mode(l) == old)
		return;
	/* Into and out of the deadline mode disarms (SDM 11.5.4.1). Between
	 * the others, a count that has not run out goes on. */
	if (old >= TIMER_DEADLINE || timer_mode(l) >= TIMER_DEADLINE) {
		l->deadline = 0;
		l->timer_init = 0;
		clock_disarm(&l->cfg.clock, &l->timer);
	} else if (timer_armed(&l->timer)) {
		timer_restart(l);
	}
}

static void timer_set_deadline(struct lapic *l, uint64_t val)
{
	if (timer_mode(l) != TIMER_DEADLINE)
		return;
	l->st.timer_armed++;
	l->deadline = val;
	if (val)
		timer_deadline(l);
	else
		clock_disarm(&l->cfg.clock, &l->timer);
}

/* ---- registers ---- */

static void lapic_write_svr(struct lapic *l, uint32_t val)
{
	unsigned i;

	l->svr = val & SVR_WRITABLE;
	if (!(l->svr & SVR_ENABLE))
		for (i = 0; i < NR_LVT; i++)
			l->lvt[i] |= LVT_MASKED;
}

static void lapic_write_lvt(struct lapic *l, unsigned n, uint32_t val)
{
	val &= lvt_mask[n];
	if (!(l->svr & SVR_ENABLE))
		val |= LVT_MASKED;
	if (n == LVT_TIMER)
		timer_set_lvt(l, val);
	else
		l->lvt[n] = val;
}

static uint32_t lapic_x2_ldr(const struct lapic *l)
{
	return l->cfg.id >> 4 << 16 | 1u << (l->cfg.id & 15);
}

/* Registers that read alike in both modes. */
static uint32_t lapic_reg_read(struct lapic *l, unsigned reg)
{
	switch (reg) {
	case REG_ID:
		return lapic_x2(l) ? l->cfg.id : l->cfg.id << 24;
	case REG_VERSION:
		return VERSION;
	case REG_TPR:
		return l->tpr;
	case REG_PPR:
		return lapic_ppr(l);
	case REG_LDR:
		return lapic_x2(l) ? lapic_x2_ldr(l) : l->ldr;
	case REG_DFR:
		return l->dfr;
	case REG_SVR:
		return l->svr;
	case REG_ISR ... REG_ISR + 7:
		return l->isr[reg - REG_ISR];
	case REG_TMR ... REG_TMR + 7:
		return l->tmr[reg - REG_TMR];
	case REG_IRR ... REG_IRR + 7:
		return l->irr[reg - REG_IRR];
	case REG_ESR:
		return l->esr;
	case REG_ICR:
		return l->icr;
	case REG_ICR2:
		return l->icr2;
	case REG_LVT ... REG_LVT_END - 1:
		return l->lvt[reg - REG_LVT];
	case REG_TIMER_INIT:
		return l->timer_init;
	case REG_TIMER_CUR:
		return timer_current(l);
	case REG_TIMER_DIV:
		return l->timer_div;
	}
	return 0;
}

static void lapic_reg_write(struct lapic *l, unsigned reg, uint32_t val)
{
	switch (reg) {
	case REG_TPR:
		l->tpr = val & 0xff;
		break;
	case REG_EOI:
		lapic_eoi(l);
		return;
	case REG_LDR:
		l->ldr = val & 0xff000000;
		break;
	case REG_DFR:
		l->dfr = val | 0x0fffffff;
		break;
	case REG_SVR:
		lapic_write_svr(l, val);
		break;
	case REG_ESR:
		l->esr = l->esr_next;
		l->esr_next = 0;
		break;
	case REG_ICR:
		l->icr = val & ICR_WRITABLE;
		lapic_icr(l, l->icr, l->icr2 >> 24);
		break;
	case REG_ICR2:
		l->icr2 = val & 0xff000000;
		break;
	case REG_LVT ... REG_LVT_END - 1:
		lapic_write_lvt(l, reg - REG_LVT, val);
		break;
	case REG_TIMER_INIT:
		timer_set_init(l, val);
		break;
	case REG_TIMER_DIV:
		timer_set_div(l, val);
		break;
	}
	lapic_update(l);
}

/* ---- xAPIC: MMIO ---- */

static uint64_t mmio_read(void *dev, uint64_t off, unsigned len)
{
	struct lapic *l = dev;
	uint64_t val;

	l->st.mmio++;
	if (!lapic_hw_enabled(l) || lapic_x2(l))
		return ~0ull;
	if ((off & 15) + len > 4)
		return 0;
	val = lapic_reg_read(l, off >> 4);
	return val >> (8 * (off & 3));
}

static void mmio_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct lapic *l = dev;

	l->st.mmio++;
	if (!lapic_hw_enabled(l) || lapic_x2(l))
		return;
	/* Only aligned 32-bit accesses are defined (SDM 11.4.1). */
	if ((off & 15) || len < 4)
		return;
	lapic_reg_write(l, off >> 4, val);
}

static const struct bus_ops mmio_ops = {mmio_read, mmio_write};

int lapic_attach(struct lapic *l, struct bus *mmio)
{
	return bus_add(mmio, "lapic", LAPIC_BASE, 0x1000, &mmio_ops, l);
}

/* ---- x2APIC: MSRs. 0, or -1 for #GP ---- */

static int x2_read(struct lapic *l, unsigned reg, uint64_t *val)
{
	switch (reg) {
	case REG_ICR:
		*val = l->icr | (uint64_t)l->icr2 << 32;
		return 0;
	case REG_ID ... REG_VERSION:
	case REG_TPR:
	case REG_PPR:
	case REG_LDR:
	case REG_SVR ... REG_ESR:
	case REG_LVT ... REG_TIMER_CUR:
	case REG_TIMER_DIV:
		*val = lapic_reg_read(l, reg);
		return 0;
	}
	return -1;
}

/* The bits that a write may have set. */
static uint64_t x2_writable(unsigned reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_SVR:
		return SVR_WRITABLE;
	case REG_ICR:
		return 0xffffffff00000000ull | ICR_WRITABLE;
	case REG_LVT ... REG_LVT_END - 1:
		/* Delivery status and Remote IRR may be written back. */
		return lvt_mask[reg - REG_LVT] | LVT_MASKED | 0x5000;
	case REG_TIMER_INIT:
		return 0xffffffff;
	case REG_TIMER_DIV:
		return 0xb;
	}
	return 0; /* EOI, ESR: zero only */
}

static int x2_write(struct lapic *l, unsigned reg, uint64_t val)
{
	switch (reg) {
	case REG_TPR:
	case REG_EOI:
	case REG_SVR:
	case REG_ESR:
	case REG_LVT ... REG_TIMER_INIT:
	case REG_TIMER_DIV:
		if (val & ~x2_writable(reg))
			return -1;
		lapic_reg_write(l, reg, val);
		return 0;
	case REG_ICR:
		if (val & ~x2_writable(reg))
			return -1;
		l->icr = val;
		l->icr2 = val >> 32;
		lapic_icr(l, l->icr, l->icr2);
		return 0;
	case REG_SELF_IPI:
		if (val & ~x2_writable(reg))
			return -1;
		l->st.ipi_self++;
		lapic_accept(l, val, false);
		return 0;
	}
	return -1;
}

/* ---- IA32_APIC_BASE ---- */

/* What a reset and a disable by MSR have in common. */
static void lapic_clear(struct lapic *l)
{
	unsigned i;

	clock_disarm(&l->cfg.clock, &l->timer);
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	l->tpr = l->ldr = l->esr = l->esr_next = l->icr = l->icr2 = 0;
	l->dfr = 0xffffffff;
	l->svr = 0xff;
	l->timer_init = l->timer_div = 0;
	l->deadline = 0;
	for (i = 0; i < NR_LVT; i++)
		l->lvt[i] = LVT_MASKED;
}

static int lapic_write_base(struct lapic *l, uint64_t val)
{
	uint64_t old = l->base;
	bool en = val & BASE_ENABLE, x2 = val & BASE_X2APIC;
	bool was_en = old & BASE_ENABLE, was_x2 = old & BASE_X2APIC;

	if (val & ~(BASE_ADDR | BASE_BSP | BASE_X2APIC | BASE_ENABLE))
		return -1;
	if ((val & BASE_ADDR) != LAPIC_BASE)
		return -1;
	/* SDM 11.12.5: x2APIC only from xAPIC, and out of it only by off. */
	if ((x2 && !en) || (x2 && !was_en) || (was_x2 && en && !x2))
		return -1;
	l->base = (val & ~BASE_BSP) | (l->cfg.id ? 0 : BASE_BSP);
	if (was_en && !en)
		lapic_clear(l);
	l->cfg.base_changed(l->cfg.ctx, l->base);
	lapic_update(l);
	return 0;
}

/* ---- the vCPU's side ---- */

static int lapic_peek(void *ctx)
{
	struct lapic *l = ctx;

	return atomic_load_explicit(&l->hint, memory_order_acquire);
}

static int lapic_ack(void *ctx)
{
	struct lapic *l = ctx;
	int vec;

	pthread_mutex_lock(l->cfg.lock);
	if (lapic_extint(l)) {
		vec = pic_ack(l->cfg.pic);
		l->st.injected_pic++;
	} else {
		vec = lapic_highest(l);
		if (vec >= 0) {
			bit_clear(l->irr, vec);
			bit_set(l->isr, vec);
			l->st.injected++;
		}
	}
	lapic_update(l);
	pthread_mutex_unlock(l->cfg.lock);
	return vec;
}

static uint64_t lapic_get_tpr(void *ctx)
{
	struct lapic *l = ctx;

	return l->tpr >> 4; /* only the vCPU thread writes it */
}

static void lapic_set_tpr(void *ctx, uint64_t cr8)
{
	struct lapic *l = ctx;

	pthread_mutex_lock(l->cfg.lock);
	l->tpr = cr8 << 4 & 0xf0;
	lapic_update(l);
	pthread_mutex_unlock(l->cfg.lock);
}

static int lapic_rdmsr(void *ctx, uint32_t msr, uint64_t *val)
{
	struct lapic *l = ctx;
	int r = 0;

	pthread_mutex_lock(l->cfg.lock);
	l->st.msr++;
	if (msr == MSR_APIC_BASE)
		*val = l->base;
	else if (msr == MSR_TSC_DEADLINE)
		*val = timer_mode(l) == TIMER_DEADLINE ? l->deadline : 0;
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST &&
		 lapic_x2(l))
		r = x2_read(l, msr - MSR_X2APIC_FIRST, val);
	else
		r = -1;
	pthread_mutex_unlock(l->cfg.lock);
	return r;
}

static int lapic_wrmsr(void *ctx, uint32_t msr, uint64_t val)
{
	struct lapic *l = ctx;
	int r = 0;

	pthread_mutex_lock(l->cfg.lock);
	l->st.msr++;
	if (msr == MSR_APIC_BASE)
		r = lapic_write_base(l, val);
	else if (msr == MSR_TSC_DEADLINE)
		timer_set_deadline(l, val);
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST &&
		 lapic_x2(l))
		r = x2_write(l, msr - MSR_X2APIC_FIRST, val);
	else
		r = -1;
	pthread_mutex_unlock(l->cfg.lock);
	return r;
}

const struct irq_source_ops lapic_irq_ops = {
	.peek = lapic_peek,
	.ack = lapic_ack,
	.get_tpr = lapic_get_tpr,
	.set_tpr = lapic_set_tpr,
	.rdmsr = lapic_rdmsr,
	.wrmsr = lapic_wrmsr,
};

/* ---- life ---- */

void lapic_reset(struct lapic *l)
{
	lapic_clear(l);
	l->base = LAPIC_BASE | BASE_ENABLE | (l->cfg.id ? 0 : BASE_BSP);
	l->svr = 0xff | SVR_ENABLE;
	l->lvt[LVT_LINT0] = APIC_DM_EXTINT << 8;
	l->lvt[LVT_LINT1] = APIC_DM_NMI << 8;
	l->cfg.base_changed(l->cfg.ctx, l->base);
	lapic_update(l);
}

struct lapic *lapic_create(const struct lapic_config *cfg)
{
	struct lapic *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->cfg = *cfg;
	l->timer.fn = timer_expired;
	l->timer.ctx = l;
	atomic_store(&l->hint, -1);
	lapic_reset(l);
	return l;
}

void lapic_destroy(struct lapic *l)
{
	if (!l)
		return;
	clock_disarm(&l->cfg.clock, &l->timer);
	free(l);
}

void lapic_stat_group(struct lapic *l, struct stat_group *g)
{
	*g = (struct stat_group){"lapic", lapic_stat_desc,
				 ARRAY_SIZE(lapic_stat_desc), &l->st, NULL};
}
