/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_IRQ_H
#define SARDINE_VMM_DEV_IRQ_H
/*
 * An interrupt line as a device sees it: a function to call with the line's
 * new level. What is behind it (PIC, I/O APIC, a test) is wired by whoever
 * creates the device. All under the device lock.
 */
#include "mm/types.h"

struct irq_line {
	/* level: true = asserted (whatever the electrical polarity). NULL: not
	 * connected. */
	void (*set)(void *ctx, unsigned pin, bool level);
	void *ctx;
	unsigned pin;
};

static inline void irq_set(const struct irq_line *l, bool level)
{
	if (l->set)
		l->set(l->ctx, l->pin, level);
}
/* A rising edge; the line stays asserted until the next (a 8259A wants an
 * edge-triggered request to last until it is acknowledged). */
static inline void irq_pulse(const struct irq_line *l)
{
	irq_set(l, false);
	irq_set(l, true);
}
#endif
