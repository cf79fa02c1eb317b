/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_LAPIC_H
#define SARDINE_VMM_DEV_LAPIC_H
/*
 * The local APIC of one CPU: xAPIC (MMIO) and x2APIC (MSRs), with the timer in
 * one-shot, periodic and TSC-deadline mode. SDM vol. 3, ch. 11 ("APIC").
 *
 * It is the vCPU's interrupt source: struct irq_source_ops below, with the
 * lapic as ctx. The 8259 pair hangs on LINT0.
 */
#include "mm/base/stats.h"
#include "vmm/cpu/vcpu.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/ioapic.h"

struct pic;

struct lapic_config {
	unsigned id;
	pthread_mutex_t *lock; /* the device lock */
	struct clock clock;
	uint64_t timer_hz; /* what the timer counts (the crystal) */
	uint64_t tsc_khz;
	void *ctx; /* for the functions below */
	/* The guest's TSC now. */
	uint64_t (*guest_tsc)(void *ctx);
	/* A vector has become deliverable. Under the lock. */
	void (*kick)(void *ctx);
	/* The guest ended a level-triggered interrupt. Under the lock. */
	void (*eoi)(void *ctx, uint8_t vector);
	/* IA32_APIC_BASE has a new value (also at reset). */
	void (*base_changed)(void *ctx, uint64_t base);
	struct pic *pic; /* on LINT0; may be NULL */
};

struct lapic;
struct lapic *lapic_create(const struct lapic_config *cfg);
void lapic_destroy(struct lapic *l);
/* The state that PC firmware leaves: enabled by MSR and SVR, LINT0 = ExtINT
 * ("virtual wire mode"), LINT1 = NMI. */
void lapic_reset(struct lapic *l);
int lapic_attach(struct lapic *l, struct bus *mmio); /* 0 or -errno */
/* A message from an I/O APIC (or a device's MSI). The lock is held. */
void lapic_receive(struct lapic *l, const struct apic_msg *m);
/* The PIC's INT line has changed. The lock is held. */
void lapic_pic_changed(struct lapic *l);
void lapic_stat_group(struct lapic *l, struct stat_group *g);

/* ctx is the lapic. peek is one atomic load: cheap enough for every guest
 * STI. The others take the lock. */
extern const struct irq_source_ops lapic_irq_ops;
#endif
