/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing counts here. A channel remembers when its count was loaded, and the
 * counter's value and OUT are worked out from the time that has passed:
 *
 *   mode 0  OUT low, high when the count has run out; counts on, modulo 2^16
 *   mode 1  the same, started by the gate's rising edge
 *   mode 2  rate generator: OUT low for the last tick of each period
 *   mode 3  square wave: OUT high for the first half of each period; counts by
 *	     two
 *   mode 4  OUT high, low for one tick when the count has run out
 *   mode 5  the same, started by the gate
 *
 * A gate that is low stops the count (modes 0, 2, 3, 4): the ticks so far are
 * kept in `ticks`, and `start_ns` is that of the latest start. A rising gate
 * starts modes 1, 2, 3 and 5 afresh. A new count in a running mode 2 or 3 takes
 * effect at once rather than at the end of the period.
 *
 * Only channel 0 has a timer, for its interrupt. It never fires more often than
 * each MIN_TICKS.
 */
#include "vmm/dev/pit.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/dev/platform.h"

#define MIN_TICKS   119 /* 100 us */
#define REFRESH_NS  15085

/* Port 0x61 */
#define SPK_GATE    0x01
#define SPK_SPEAKER 0x02
#define SPK_REFRESH 0x10
#define SPK_OUT	    0x20

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

struct channel {
	uint8_t mode, rw;
	bool bcd, gate;
	bool loaded;  /* a count has been written since the mode */
	bool running; /* start_ns is valid: time passes */
	bool write_high, read_high; /* RW_BOTH: the second byte is next */
	uint8_t low;		    /* first byte written */
	bool latched, status_latched;
	uint16_t latch;
	uint8_t status;
	uint32_t reload; /* 1..65536 (10000 with bcd) */
	uint64_t ticks;	 /* before start_ns */
	uint64_t start_ns;
};

struct pit {
	struct clock clock;
	struct irq_line irq;
	struct channel c[3];
	uint8_t speaker; /* bits 0, 1 of port 0x61 */
	struct timer timer;
	uint64_t fired_ticks; /* channel 0: when the timer is armed for */
};

static bool is_gate_started(const struct channel *c)
{
	return c->mode == 1 || c->mode == 5;
}
static bool is_periodic(const struct channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* Ticks since the count was loaded. */
static uint64_t chan_ticks(const struct pit *p, const struct channel *c)
{
	if (!c->running)
		return c->ticks;
	return c->ticks +
	       muldiv64(clock_now(&p->clock) - c->start_ns, PIT_HZ, NS_PER_SEC);
}

static void chan_stop(struct pit *p, struct channel *c)
{
	c->ticks = chan_ticks(p, c);
	c->running = false;
}

static void chan_start(struct pit *p, struct channel *c, bool afresh)
{
	if (afresh)
		c->ticks = 0;
	else
		c->ticks = chan_ticks(p, c);
	c->start_ns = clock_now(&p->clock);
	c->running = true;
}

static uint32_t chan_count(const struct pit *p, const struct channel *c)
{
	uint64_t t = chan_ticks(p, c);
	uint32_t modulus = c->bcd ? 10000 : 65536;

	if (!c->loaded || (is_gate_started(c) && !c->running))
		return c->reload % modulus;
	switch (c->mode) {
	case 2:
		return (c->reload - t % c->reload) % modulus;
	case 3:
		return (c->reload - (2 * t % c->reload & ~1ull)) % modulus;
	}
	/* Past zero it goes on from the top. */
	return (c->reload + modulus - t % modulus) % modulus;
}

static bool chan_out(const struct pit *p, const struct channel *c)
{
	uint64_t t = chan_ticks(p, c);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return t >= c->reload;
	case 1:
		return !c->running || t >= c->reload;
	case 2:
		return !c->gate || t % c->reload != c->reload - 1;
	case 3:
		return !c->gate || t % c->reload < (c->reload + 1) / 2;
	}
	return t != c->reload; /* 4, 5 */
}

static uint16_t to_bcd(uint32_t v)
{
	return v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 |
	       v % 10;
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 +
	       (v & 15);
}

static uint16_t chan_value(const struct pit *p, const struct channel *c)
{
	uint32_t v = chan_count(p, c);

	return c->bcd ? to_bcd(v) : v;
}

/* ---- channel 0's interrupt ---- */

static void irq_arm(struct pit *p)
{
	const struct channel *c = &p->c[0];
	uint64_t now = chan_ticks(p, c), next = c->reload;

	clock_disarm(&p->clock, &p->timer);
	if (!c->loaded || !c->running)
		return;
	if (is_periodic(c)) {
		uint64_t period = c->reload < MIN_TICKS ? MIN_TICKS : c->reload;

		next = (now / period + 1) * period;
	} else if (now >= c->reload) {
		return; /* ran out, and was told */
	}
	/* + 1 ns: the division rounds down, and a timer must not be early. */
	clock_arm(&p->clock, &p->timer,
		  c->start_ns + 1 +
			  muldiv64(next - c->ticks, NS_PER_SEC, PIT_HZ));
}

static void irq_timer(void *ctx)
{
	struct pit *p = ctx;
	const struct channel *c = &p->c[0];

	if (is_periodic(c)) {
		irq_pulse(&p->irq);
	} else if (c->mode == 4 || c->mode == 5) {
		irq_pulse(&p->irq);
	} else {
		irq_set(&p->irq, true);
	}
	irq_arm(p);
}

/* The channel has been programmed: its OUT may have a new level. */
static void chan_changed(struct pit *p, struct channel *c)
{
	if (c != &p->c[0])
		return;
	irq_set(&p->irq, chan_out(p, c));
	irq_arm(p);
}

/* ---- programming ---- */

static void chan_load(struct pit *p, struct channel *c, uint16_t v)
{
	uint32_t n = c->bcd ? from_bcd(v) : v;

	c->reload = n ? n : c->bcd ? 10000 : 65536;
	c->loaded = true;
	if (is_gate_started(c)) {
		c->running = false;
		c->ticks = 0;
	} else {
		chan_start(p, c, true);
		if (!c->gate)
			c->running = false;
	}
	chan_changed(p, c);
}

static void chan_write(struct pit *p, struct channel *c, uint8_t val)
{
	switch (c->rw) {
	case RW_LOW:
		chan_load(p, c, val);
		break;
	case RW_HIGH:
		chan_load(p, c, val << 8);
		break;
	case RW_BOTH:
		if (c->write_high)
			chan_load(p, c, c->low | val << 8);
		else
			c->low = val;
		c->write_high = !c->write_high;
		break;
	}
}

static uint8_t chan_read(struct pit *p, struct channel *c)
{
	uint16_t v = c->latched ? c->latch : chan_value(p, c);
	bool high = c->rw == RW_HIGH || (c->rw == RW_BOTH && c->read_high);

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->rw == RW_BOTH) {
		c->read_high = !c->read_high;
		if (high)
			c->latched = false;
	} else {
		c->latched = false;
	}
	return high ? v >> 8 : v;
}

static void chan_latch(struct pit *p, struct channel *c)
{
	if (c->latched)
		return;
	c->latch = chan_value(p, c);
	c->latched = true;
}

static void chan_latch_status(struct pit *p, struct channel *c)
{
	if (c->status_latched)
		return;
	c->status = chan_out(p, c) << 7 | !c->loaded << 6 | c->rw << 4 |
		    c->mode << 1 | c->bcd;
	c->status_latched = true;
}

static void read_back(struct pit *p, uint8_t val)
{
	unsigned i;

	for (i = 0; i < 3; i++) {
		if (!(val & (2u << i)))
			continue;
		if (!(val & 0x20))
			chan_latch(p, &p->c[i]);
		if (!(val & 0x10))
			chan_latch_status(p, &p->c[i]);
	}
}

static void pit_control(struct pit *p, uint8_t val)
{
	struct channel *c;

	if (val >> 6 == 3) {
		read_back(p, val);
		return;
	}
	c = &p->c[val >> 6];
	if ((val >> 4 & 3) == RW_LATCH) {
		chan_latch(p, c);
		return;
	}
	c->rw = val >> 4 & 3;
	c->mode = val >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = val & 1;
	c->write_high = c->read_high = false;
	c->latched = c->status_latched = false;
	c->loaded = c->running = false;
	c->ticks = 0;
	c->reload = c->bcd ? 10000 : 65536;
	chan_changed(p, c);
}

static void chan_set_gate(struct pit *p, struct channel *c, bool gate)
{
	bool rising = gate && !c->gate;

	if (gate == c->gate)
		return;
	if (!gate && !is_gate_started(c))
		chan_stop(p, c);
	c->gate = gate;
	if (rising && c->loaded)
		chan_start(p, c, c->mode != 0 && c->mode != 4);
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned len)
{
	struct pit *p = dev;

	return off < 3 ? chan_read(p, &p->c[off]) : 0xff;
}

static void pit_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pit *p = dev;

	if (off < 3)
		chan_write(p, &p->c[off], val);
	else
		pit_control(p, val);
}

static uint64_t speaker_read(void *dev, uint64_t off, unsigned len)
{
	struct pit *p = dev;
	bool refresh = clock_now(&p->clock) / REFRESH_NS & 1;

	return p->speaker | (refresh ? SPK_REFRESH : 0) |
	       (chan_out(p, &p->c[2]) ? SPK_OUT : 0);
}

static void speaker_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct pit *p = dev;

	p->speaker = val & (SPK_GATE | SPK_SPEAKER);
	chan_set_gate(p, &p->c[2], val & SPK_GATE);
}

static const struct bus_ops pit_ops = {pit_read, pit_write};
static const struct bus_ops speaker_ops = {speaker_read, speaker_write};

int pit_attach(struct pit *p, struct bus *pio)
{
	int err = bus_add(pio, "pit", PORT_PIT, 4, &pit_ops, p);

	if (!err)
		err = bus_add(pio, "speaker", PORT_SPEAKER, 1, &speaker_ops, p);
	return err;
}

void pit_reset(struct pit *p)
{
	unsigned i;

	clock_disarm(&p->clock, &p->timer);
	memset(p->c, 0, sizeof(p->c));
	for (i = 0; i < 3; i++) {
		p->c[i].reload = 65536;
		p->c[i].rw = RW_BOTH;
		p->c[i].mode = 3;
		p->c[i].gate = i != 2;
	}
	p->speaker = 0;
	irq_set(&p->irq, false);
}

struct pit *pit_create(struct clock clock, struct irq_line irq)
{
	struct pit *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->clock = clock;
	p->irq = irq;
	p->timer.fn = irq_timer;
	p->timer.ctx = p;
	pit_reset(p);
	return p;
}

void pit_destroy(struct pit *p)
{
	if (!p)
		return;
	clock_disarm(&p->clock, &p->timer);
	free(p);
}
