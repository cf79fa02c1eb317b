/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O APIC. Each input has a redirection entry that says which message an
 * assertion becomes.
 *
 * Edge: the message goes out when the line rises while the entry is unmasked;
 * an edge at a masked entry is lost, as on the chip.
 * Level: the message goes out when the line is asserted, the entry unmasked
 * and Remote IRR clear; that sets Remote IRR. The EOI of the vector clears it,
 * and if the line is still asserted the message goes out again.
 *
 * The polarity bit is kept but does not invert: irq_line's level means
 * "asserted", whatever the wire would carry.
 */
#include "vmm/dev/ioapic.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/dev/platform.h"

#define IOAPIC_VERSION 0x20
#define REG_SELECT     0x00
#define REG_WINDOW     0x10
#define REG_EOI	       0x40

#define RTE_VECTOR     0xffull
#define RTE_DM_SHIFT   8
#define RTE_LOGICAL    (1ull << 11)
#define RTE_STATUS     (1ull << 12) /* read only, always idle */
#define RTE_RIRR       (1ull << 14) /* read only */
#define RTE_LEVEL      (1ull << 15)
#define RTE_MASK       (1ull << 16)
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE   0xff0000000001afffull

struct ioapic {
	struct apic_msg_sink out;
	uint8_t select;
	uint8_t id;
	uint32_t lines;
	uint64_t rte[IOAPIC_PINS];
};

static void ioapic_send(struct ioapic *a, unsigned pin)
{
	uint64_t rte = a->rte[pin];
	struct apic_msg m = {
		.vector = rte & RTE_VECTOR,
		.mode = rte >> RTE_DM_SHIFT & 7,
		.dest = rte >> RTE_DEST_SHIFT,
		.logical = rte & RTE_LOGICAL,
		.level = rte & RTE_LEVEL,
	};

	a->out.send(a->out.ctx, &m);
}

/* Sends the message of a level entry if its time has come. */
static void ioapic_service_level(struct ioapic *a, unsigned pin)
{
	if (!(a->rte[pin] & RTE_LEVEL) || (a->rte[pin] & (RTE_MASK | RTE_RIRR)))
		return;
	if (!(a->lines & (1u << pin)))
		return;
	a->rte[pin] |= RTE_RIRR;
	ioapic_send(a, pin);
}

void ioapic_set_irq(struct ioapic *a, unsigned pin, bool level)
{
	uint32_t bit = 1u << pin, old;

	if (pin >= IOAPIC_PINS)
		return;
	old = a->lines;
	a->lines = level ? old | bit : old & ~bit;
	if (a->rte[pin] & RTE_LEVEL)
		ioapic_service_level(a, pin);
	else if (level && !(old & bit) && !(a->rte[pin] & RTE_MASK))
		ioapic_send(a, pin);
}

void ioapic_eoi(struct ioapic *a, uint8_t vector)
{
	unsigned pin;

	for (pin = 0; pin < IOAPIC_PINS; pin++) {
		if ((a->rte[pin] & RTE_VECTOR) != vector ||
		    !(a->rte[pin] & RTE_RIRR))
			continue;
		a->rte[pin] &= ~RTE_RIRR;
		ioapic_service_level(a, pin);
	}
}

static uint32_t ioapic_reg_read(struct ioapic *a)
{
	unsigned pin = (a->select - 0x10) / 2;

	if (a->select == 0 || a->select == 2) /* id, arbitration id */
		return (uint32_t)a->id << 24;
	if (a->select == 1)
		return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
	if (a->select < 0x10 || pin >= IOAPIC_PINS)
		return 0;
	return a->rte[pin] >> (a->select & 1 ? 32 : 0);
}

static void ioapic_rte_write(struct ioapic *a, unsigned pin, bool high,
			     uint32_t val)
{
	uint64_t mask = high ? 0xffffffffull << 32 : 0xffffffffull;
	uint64_t in = high ? (uint64_t)val << 32 : val;

	mask &= RTE_WRITABLE;
	a->rte[pin] = (a->rte[pin] & ~mask) | (in & mask);
	/* Turning an entry to edge forgets what was in flight (Linux mends a
	 * stuck Remote IRR that way). */
	if (!(a->rte[pin] & RTE_LEVEL))
		a->rte[pin] &= ~RTE_RIRR;
	ioapic_service_level(a, pin);
}

static void ioapic_reg_write(struct ioapic *a, uint32_t val)
{
	unsigned pin = (a->select - 0x10) / 2;

	if (a->select == 0)
		a->id = val >> 24 & 0xf;
	else if (a->select >= 0x10 && pin < IOAPIC_PINS)
		ioapic_rte_write(a, pin, a->select & 1, val);
}

static uint64_t ioapic_read(void *dev, uint64_t off, unsigned len)
{
	struct ioapic *a = dev;

	if (off == REG_SELECT)
		return a->select;
	if (off == REG_WINDOW)
		return ioapic_reg_read(a);
	return 0;
}

static void ioapic_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct ioapic *a = dev;

	if (off == REG_SELECT)
		a->select = val;
	else if (off == REG_WINDOW)
		ioapic_reg_write(a, val);
	else if (off == REG_EOI)
		ioapic_eoi(a, val);
}

static const struct bus_ops ioapic_ops = {ioapic_read, ioapic_write};

int ioapic_attach(struct ioapic *a, struct bus *mmio)
{
	return bus_add(mmio, "ioapic", IOAPIC_BASE, 0x1000, &ioapic_ops, a);
}

void ioapic_reset(struct ioapic *a)
{
	unsigned i;

	a->select = 0;
	for (i = 0; i < IOAPIC_PINS; i++)
		a->rte[i] = RTE_MASK;
}

struct ioapic *ioapic_create(unsigned id, struct apic_msg_sink out)
{
	struct ioapic *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->id = id;
	a->out = out;
	ioapic_reset(a);
	return a;
}

void ioapic_destroy(struct ioapic *a)
{
	free(a);
}
