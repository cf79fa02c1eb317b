/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two 8259As, the second's INT on the first's input 2.
 *
 * Each chip has three registers of eight bits: IRR (asked), ISR (in service)
 * and IMR (masked). INT is asserted when an unmasked request has a higher
 * priority than everything in service. Priorities rotate: `lowest` is the
 * input of the lowest one, 7 after initialisation.
 *
 * The 64-bit kernels that this machine is for look at the PIC once (write a
 * mask, read it back), mask everything and go on with the I/O APIC. Older or
 * smaller ones (Multiboot) live on it, through the local APIC's LINT0.
 *
 * Not built: the 8080 mode's three-byte vectors, buffered mode, and
 * specially fully nested mode (no PC uses them).
 */
#include "vmm/dev/pic.h"

#include <stdlib.h>
#include <string.h>

#define ICW1_INIT 0x10
#define ICW1_IC4  0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW4_AEOI 0x02
#define OCW3	  0x08
#define CASCADE	  2

struct chip {
	uint8_t irr, isr, imr, lines, elcr, elcr_mask;
	uint8_t base;	/* vector of input 0 */
	uint8_t lowest; /* input with the lowest priority */
	uint8_t icw;	/* next initialisation word wanted; 0 = none */
	bool want_icw4, single, aeoi, rotate_aeoi;
	bool read_isr, poll, special_mask, ltim;
};

struct pic {
	struct chip c[2]; /* master, slave */
	struct irq_line out;
	bool out_level;
};

/* The input of the highest priority among bits; -1 when there is none. */
static int chip_highest(const struct chip *c, uint8_t bits)
{
	unsigned i;

	for (i = 1; i <= 8; i++) {
		unsigned in = (c->lowest + i) & 7;

		if (bits & (1u << in))
			return in;
	}
	return -1;
}

/* 0 = highest. */
static unsigned chip_rank(const struct chip *c, int input)
{
	return input < 0 ? 8 : (unsigned)(input - c->lowest - 1) & 7;
}

/* The input that asks for service now, or -1. */
static int chip_request(const struct chip *c)
{
	uint8_t served = c->isr;
	int want = chip_highest(c, c->irr & ~c->imr);

	if (want < 0)
		return -1;
	if (c->special_mask)
		served &= ~c->imr;
	return chip_rank(c, want) < chip_rank(c, chip_highest(c, served)) ? want
									  : -1;
}

static bool chip_level(const struct chip *c, unsigned in)
{
	return c->ltim || (c->elcr & (1u << in));
}

static void chip_line(struct chip *c, unsigned in, bool level)
{
	uint8_t bit = 1u << in;

	if (chip_level(c, in))
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !(c->lines & bit))
		c->irr |= bit;
	else if (!level)
		c->irr &= ~bit; /* an edge must stay until acknowledged */
	c->lines = level ? c->lines | bit : c->lines & ~bit;
}

static void pic_update(struct pic *p)
{
	bool level;

	chip_line(&p->c[0], CASCADE, chip_request(&p->c[1]) >= 0);
	level = chip_request(&p->c[0]) >= 0;
	if (level != p->out_level) {
		p->out_level = level;
		irq_set(&p->out, level);
	}
}

static void chip_eoi(struct chip *c, int input)
{
	if (input >= 0)
		c->isr &= ~(1u << input);
}

/* The acknowledge of one chip: the input served, 7 when it was spurious. */
static unsigned chip_ack(struct chip *c)
{
	int in = chip_request(c);

	if (in < 0)
		return 7;
	if (!chip_level(c, in))
		c->irr &= ~(1u << in);
	if (!c->aeoi)
		c->isr |= 1u << in;
	else if (c->rotate_aeoi)
		c->lowest = in;
	return in;
}

void pic_set_irq(struct pic *p, unsigned irq, bool level)
{
	if (irq == CASCADE || irq > 15)
		return;
	chip_line(&p->c[irq >> 3], irq & 7, level);
	pic_update(p);
}

bool pic_pending(const struct pic *p)
{
	return p->out_level;
}

int pic_peek(const struct pic *p)
{
	int in = chip_request(&p->c[0]);

	if (in != CASCADE)
		return p->c[0].base + (in < 0 ? 7 : in);
	in = chip_request(&p->c[1]);
	return p->c[1].base + (in < 0 ? 7 : in);
}

int pic_ack(struct pic *p)
{
	unsigned in = chip_ack(&p->c[0]);
	int vector;

	if (in == CASCADE) {
		vector = p->c[1].base + chip_ack(&p->c[1]);
		/* The slave's INT drops at the acknowledge; if it asks again
		 * at once, that is a new edge for the master. */
		chip_line(&p->c[0], CASCADE, false);
	} else {
		vector = p->c[0].base + in;
	}
	pic_update(p);
	return vector;
}

/* ---- registers ---- */

static void chip_icw1(struct chip *c, uint8_t val)
{
	c->irr = c->lines & c->elcr;
	c->isr = c->imr = 0;
	c->lowest = 7;
	c->aeoi = c->rotate_aeoi = false;
	c->read_isr = c->poll = c->special_mask = false;
	c->single = val & ICW1_SNGL;
	c->ltim = val & ICW1_LTIM;
	c->want_icw4 = val & ICW1_IC4;
	c->icw = 2;
}

static void chip_icw(struct chip *c, uint8_t val)
{
	if (c->icw == 2) {
		c->base = val & 0xf8;
		c->icw = !c->single ? 3 : c->want_icw4 ? 4 : 0;
	} else if (c->icw == 3) {
		c->icw = c->want_icw4 ? 4 : 0; /* the wiring is known */
	} else {
		c->aeoi = val & ICW4_AEOI;
		c->icw = 0;
	}
}

static void chip_ocw2(struct chip *c, uint8_t val)
{
	int in = val & 7;

	switch (val >> 5) {
	case 0:
	case 4: /* rotate in automatic EOI mode: off, on */
		c->rotate_aeoi = val >> 5;
		break;
	case 1: /* nonspecific EOI */
	case 5: /* the same, and rotate */
		in = chip_highest(c,
				  c->special_mask ? c->isr & ~c->imr : c->isr);
		chip_eoi(c, in);
		if (in >= 0 && val >> 5 == 5)
			c->lowest = in;
		break;
	case 7: /* specific EOI, and rotate */
		c->lowest = in;
		/* fall through */
	case 3: /* specific EOI */
		chip_eoi(c, in);
		break;
	case 6: /* set priority */
		c->lowest = in;
		break;
	}
}

static void chip_ocw3(struct chip *c, uint8_t val)
{
	if (val & 0x40)
		c->special_mask = val & 0x20;
	if (val & 0x04)
		c->poll = true;
	if (val & 0x02)
		c->read_isr = val & 0x01;
}

static void chip_write(struct chip *c, unsigned off, uint8_t val)
{
	if (off & 1) {
		if (c->icw)
			chip_icw(c, val);
		else
			c->imr = val;
	} else if (val & ICW1_INIT) {
		chip_icw1(c, val);
	} else if (val & OCW3) {
		chip_ocw3(c, val);
	} else {
		chip_ocw2(c, val);
	}
}

static uint8_t chip_read(struct chip *c, unsigned off)
{
	int in;

	if (c->poll) { /* a read is the acknowledge */
		c->poll = false;
		in = chip_request(c);
		if (in < 0)
			return 7;
		chip_ack(c);
		return 0x80 | in;
	}
	if (off & 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static uint64_t pic_read(struct pic *p, unsigned chip, uint64_t off)
{
	uint8_t val = chip_read(&p->c[chip], off);

	pic_update(p);
	return val;
}
static uint64_t master_read(void *dev, uint64_t off, unsigned len)
{
	return pic_read(dev, 0, off);
}
static uint64_t slave_read(void *dev, uint64_t off, unsigned len)
{
	return pic_read(dev, 1, off);
}
static void master_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pic *p = dev;

	chip_write(&p->c[0], off, val);
	pic_update(p);
}
static void slave_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pic *p = dev;

	chip_write(&p->c[1], off, val);
	pic_update(p);
}
static uint64_t elcr_read(void *dev, uint64_t off, unsigned len)
{
	return ((struct pic *)dev)->c[off & 1].elcr;
}
static void elcr_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pic *p = dev;
	struct chip *c = &p->c[off & 1];

	c->elcr = val & c->elcr_mask;
	pic_update(p);
}

static const struct bus_ops master_ops = {master_read, master_write};
static const struct bus_ops slave_ops = {slave_read, slave_write};
static const struct bus_ops elcr_ops = {elcr_read, elcr_write};

int pic_attach(struct pic *p, struct bus *pio)
{
	int err = bus_add(pio, "pic", 0x20, 2, &master_ops, p);

	if (!err)
		err = bus_add(pio, "pic2", 0xa0, 2, &slave_ops, p);
	if (!err)
		err = bus_add(pio, "elcr", 0x4d0, 2, &elcr_ops, p);
	return err;
}

void pic_reset(struct pic *p)
{
	unsigned i;

	for (i = 0; i < 2; i++) {
		uint8_t lines = p->c[i].lines;

		p->c[i] = (struct chip){.lines = lines,
					.imr = 0xff,
					.lowest = 7,
					.base = i ? 0x70 : 0x08,
					.elcr_mask = i ? 0xde : 0xf8};
	}
	pic_update(p);
}

struct pic *pic_create(struct irq_line out)
{
	struct pic *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->out = out;
	pic_reset(p);
	return p;
}

void pic_destroy(struct pic *p)
{
	free(p);
}
