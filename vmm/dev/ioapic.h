/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_IOAPIC_H
#define SARDINE_VMM_DEV_IOAPIC_H
/*
 * The I/O APIC: 24 inputs, version 0x20 (with an EOI register). Intel's
 * 82093AA data sheet (290566) and the ICH's section on the APIC.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/irq.h"

/* A message to the local APICs. */
struct apic_msg {
	uint8_t vector;
	uint8_t mode; /* delivery mode, APIC_DM_* */
	uint8_t dest;
	bool logical;
	bool level; /* trigger mode */
};
enum {
	APIC_DM_FIXED,
	APIC_DM_LOWEST,
	APIC_DM_SMI,
	APIC_DM_NMI = 4,
	APIC_DM_INIT,
	APIC_DM_STARTUP,
	APIC_DM_EXTINT
};
struct apic_msg_sink {
	void (*send)(void *ctx, const struct apic_msg *m);
	void *ctx;
};

struct ioapic;
struct ioapic *ioapic_create(unsigned id, struct apic_msg_sink out);
void ioapic_destroy(struct ioapic *a);
void ioapic_reset(struct ioapic *a);
int ioapic_attach(struct ioapic *a, struct bus *mmio); /* 0 or -errno */
void ioapic_set_irq(struct ioapic *a, unsigned pin, bool level);
/* A local APIC has ended a level-triggered interrupt. */
void ioapic_eoi(struct ioapic *a, uint8_t vector);
#endif
