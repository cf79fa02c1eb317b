/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC: priorities, EOI, IPIs, both register faces, the timer. */
#include "tests/unit/devtest.h"
#include "vmm/dev/lapic.h"
#include "vmm/dev/pic.h"
#include "vmm/dev/platform.h"
#include "vmm/x86/regs.h"

#define TSC_KHZ 2000000u  /* 2 ticks a nanosecond */
#define CRYSTAL 25000000u /* 40 ns a tick */

struct box {
	pthread_mutex_t lock;
	struct bus *mmio;
	struct test_clock tc;
	struct lapic *l;
	struct pic *pic;
	uint64_t tsc_offset, base;
	unsigned kicks, eois;
	uint8_t eoi_vector;
};

static uint64_t guest_tsc(void *ctx)
{
	struct box *b = ctx;

	return b->tc.now * 2 + b->tsc_offset;
}
static void kick(void *ctx)
{
	((struct box *)ctx)->kicks++;
}
static void eoi(void *ctx, uint8_t vector)
{
	struct box *b = ctx;

	b->eois++;
	b->eoi_vector = vector;
}
static void base_changed(void *ctx, uint64_t base)
{
	((struct box *)ctx)->base = base;
}
static void pic_int(void *ctx, unsigned pin, bool level)
{
	struct box *b = ctx;

	if (b->l)
		lapic_pic_changed(b->l);
}

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));
	struct lapic_config c = {
		.lock = &b->lock,
		.timer_hz = CRYSTAL,
		.tsc_khz = TSC_KHZ,
		.ctx = b,
		.guest_tsc = guest_tsc,
		.kick = kick,
		.eoi = eoi,
		.base_changed = base_changed,
	};

	pthread_mutex_init(&b->lock, NULL);
	b->tc.now = 1000000;
	c.clock = test_clock(&b->tc);
	b->pic = pic_create((struct irq_line){pic_int, b, 0});
	c.pic = b->pic;
	b->mmio = bus_create("mmio", &b->lock);
	b->l = lapic_create(&c);
	assert_int_equal(lapic_attach(b->l, b->mmio), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	lapic_destroy(b->l);
	assert_int_equal(b->tc.heap.n, 0);
	pic_destroy(b->pic);
	bus_destroy(b->mmio);
	free(b);
	return 0;
}

static uint32_t rd(struct box *b, unsigned reg)
{
	return bus_read(b->mmio, LAPIC_BASE + reg, 4);
}
static void wr(struct box *b, unsigned reg, uint32_t v)
{
	bus_write(b->mmio, LAPIC_BASE + reg, 4, v);
}
static int peek(struct box *b)
{
	return lapic_irq_ops.peek(b->l);
}
static int ack(struct box *b)
{
	return lapic_irq_ops.ack(b->l);
}
static int wrmsr(struct box *b, uint32_t msr, uint64_t v)
{
	return lapic_irq_ops.wrmsr(b->l, msr, v);
}
static uint64_t rdmsr(struct box *b, uint32_t msr)
{
	uint64_t v = 0xdead;

	assert_int_equal(lapic_irq_ops.rdmsr(b->l, msr, &v), 0);
	return v;
}
static bool rdmsr_gp(struct box *b, uint32_t msr)
{
	uint64_t v;

	return lapic_irq_ops.rdmsr(b->l, msr, &v) < 0;
}
static void receive(struct box *b, uint8_t vec, bool level)
{
	const struct apic_msg m = {.vector = vec, .level = level};

	lapic_receive(b->l, &m);
}
static void enable_x2(struct box *b)
{
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00d00), 0);
}

static void test_priorities(void **state)
{
	struct box *b = *state;

	assert_int_equal(peek(b), -1);
	receive(b, 0x41, false);
	assert_int_equal(b->kicks, 1);
	receive(b, 0x52, false);
	assert_int_equal(b->kicks, 2);
	receive(b, 0x43, false);
	assert_int_equal(b->kicks, 2); /* nothing new to tell */
	assert_int_equal(peek(b), 0x52);
	assert_int_equal(ack(b), 0x52);
	assert_int_equal(rd(b, 0xa0), 0x50); /* PPR */
	assert_int_equal(peek(b), -1);	     /* class 4 waits */
	receive(b, 0x55, false);	     /* the same class: waits too */
	assert_int_equal(peek(b), -1);
	receive(b, 0x61, false); /* nests */
	assert_int_equal(ack(b), 0x61);
	wr(b, 0xb0, 0);
	assert_int_equal(peek(b), -1);
	wr(b, 0xb0, 0); /* ends 0x52 */
	assert_int_equal(ack(b), 0x55);
	wr(b, 0xb0, 0);
	assert_int_equal(ack(b), 0x43);
	wr(b, 0xb0, 0);
	assert_int_equal(ack(b), 0x41);
	wr(b, 0xb0, 0);
	assert_int_equal(ack(b), -1);
	assert_int_equal(b->eois, 0); /* all were edges */
}

static void test_tpr(void **state)
{
	struct box *b = *state;

	lapic_irq_ops.set_tpr(b->l, 5);
	assert_int_equal(rd(b, 0x80), 0x50);
	receive(b, 0x51, false);
	assert_int_equal(peek(b), -1);
	assert_int_equal(b->kicks, 0);
	wr(b, 0x80, 0x4f);
	assert_int_equal(lapic_irq_ops.get_tpr(b->l), 4);
	assert_int_equal(peek(b), 0x51);
	assert_int_equal(b->kicks, 1);
	wr(b, 0x80, 0xff);
	assert_int_equal(peek(b), -1);
	assert_int_equal(ack(b), -1); /* vanished */
	assert_int_equal(rd(b, 0xa0), 0xff);
}

static void test_level_eoi(void **state)
{
	struct box *b = *state;

	receive(b, 0x39, true);
	assert_int_equal(rd(b, 0x190) >> 25, 1); /* TMR */
	assert_int_equal(ack(b), 0x39);
	assert_int_equal(rd(b, 0x110), 1u << 25); /* ISR */
	assert_int_equal(rd(b, 0x210), 0);	  /* IRR */
	wr(b, 0xb0, 0);
	assert_int_equal(b->eois, 1);
	assert_int_equal(b->eoi_vector, 0x39);
	wr(b, 0xb0, 0); /* nothing in service */
	assert_int_equal(b->eois, 1);
	receive(b, 0x39, false); /* the same vector as an edge */
	ack(b);
	wr(b, 0xb0, 0);
	assert_int_equal(b->eois, 1);
}

static void test_registers(void **state)
{
	struct box *b = *state;

	assert_int_equal(b->base, 0xfee00900);
	assert_int_equal(rd(b, 0x20), 0);
	assert_int_equal(rd(b, 0x30), 0x50014);
	assert_int_equal(rd(b, 0xf0), 0x1ff);
	assert_int_equal(rd(b, 0x350), 0x700); /* virtual wire */
	wr(b, 0xd0, 0x12345678);
	assert_int_equal(rd(b, 0xd0), 0x12000000);
	wr(b, 0xe0, 0);
	assert_int_equal(rd(b, 0xe0), 0x0fffffff);
	/* odd accesses */
	assert_int_equal(bus_read(b->mmio, LAPIC_BASE + 0x32, 1), 5);
	assert_int_equal(rd(b, 0x34), 0);
	bus_write(b->mmio, LAPIC_BASE + 0x80, 1, 0xff);
	assert_int_equal(rd(b, 0x80), 0);
	/* software disable masks all LVTs; they cannot be unmasked then */
	wr(b, 0xf0, 0xff);
	assert_int_equal(rd(b, 0x350), 0x10700);
	wr(b, 0x350, 0x700);
	assert_int_equal(rd(b, 0x350), 0x10700);
	receive(b, 0x40, false);
	assert_int_equal(peek(b), -1);
	/* an illegal vector is an error */
	wr(b, 0xf0, 0x1ff);
	wr(b, 0x370, 0xe1);
	receive(b, 3, false);
	assert_int_equal(ack(b), 0xe1);
	wr(b, 0xb0, 0);
	assert_int_equal(rd(b, 0x280), 0);
	wr(b, 0x280, 0);
	assert_int_equal(rd(b, 0x280), 1u << 6);
	wr(b, 0x280, 0);
	assert_int_equal(rd(b, 0x280), 0);
}

static void test_ipi(void **state)
{
	struct box *b = *state;

	wr(b, 0x300, 0x40000 | 0x71); /* self */
	assert_int_equal(ack(b), 0x71);
	wr(b, 0xb0, 0);
	wr(b, 0x310, 0);
	wr(b, 0x300, 0x72); /* physical, our id */
	assert_int_equal(ack(b), 0x72);
	wr(b, 0xb0, 0);
	wr(b, 0x310, 1u << 24);
	wr(b, 0x300, 0x73); /* nobody there */
	assert_int_equal(ack(b), -1);
	wr(b, 0x300, 0xc0000 | 0x74); /* all but self */
	assert_int_equal(ack(b), -1);
	wr(b, 0xd0, 0x04000000);
	wr(b, 0x310, 0x06u << 24);
	wr(b, 0x300, 0x800 | 0x75); /* logical, flat */
	assert_int_equal(ack(b), 0x75);
	wr(b, 0xb0, 0);
	wr(b, 0x310, 0x03u << 24);
	wr(b, 0x300, 0x800 | 0x76);
	assert_int_equal(ack(b), -1);
	wr(b, 0xe0, 0x0fffffff); /* cluster */
	wr(b, 0xd0, 0x12000000);
	wr(b, 0x310, 0x12u << 24);
	wr(b, 0x300, 0x800 | 0x77);
	assert_int_equal(ack(b), 0x77);
	wr(b, 0xb0, 0);
	wr(b, 0x310, 0x22u << 24);
	wr(b, 0x300, 0x800 | 0x78);
	assert_int_equal(ack(b), -1);
	wr(b, 0x300, 0x40000 | 0x400 | 2); /* NMI to self: ignored */
	assert_int_equal(ack(b), -1);
}

static void test_x2apic(void **state)
{
	struct box *b = *state;

	assert_true(rdmsr_gp(b, 0x802)); /* not in xAPIC mode */
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00500), -1); /* EN 0 */
	enable_x2(b);
	assert_int_equal(rdmsr(b, MSR_APIC_BASE), 0xfee00d00);
	assert_int_equal(b->base, 0xfee00d00);
	assert_int_equal(rd(b, 0x30), 0xffffffff); /* no MMIO now */
	wr(b, 0x80, 0x80);
	assert_int_equal(rdmsr(b, 0x808), 0);
	assert_int_equal(rdmsr(b, 0x802), 0);
	assert_int_equal(rdmsr(b, 0x803), 0x50014);
	assert_int_equal(rdmsr(b, 0x80d), 1);
	/* #GP: read-only, write-only, reserved, missing */
	assert_int_equal(wrmsr(b, 0x802, 0), -1);
	assert_int_equal(wrmsr(b, 0x80d, 0), -1);
	assert_int_equal(wrmsr(b, 0x839, 0), -1);
	assert_true(rdmsr_gp(b, 0x80b));
	assert_true(rdmsr_gp(b, 0x83f));
	assert_true(rdmsr_gp(b, 0x80e));
	assert_true(rdmsr_gp(b, 0x831));
	assert_true(rdmsr_gp(b, 0x8ff));
	assert_int_equal(wrmsr(b, 0x808, 0x100), -1);
	assert_int_equal(wrmsr(b, 0x80b, 1), -1);
	assert_int_equal(wrmsr(b, 0x80f, 0x1000), -1);
	assert_int_equal(wrmsr(b, 0x830, 1u << 20), -1);
	/* IPIs in one write */
	assert_int_equal(wrmsr(b, 0x83f, 0x91), 0);
	assert_int_equal(ack(b), 0x91);
	assert_int_equal(wrmsr(b, 0x80b, 0), 0);
	assert_int_equal(wrmsr(b, 0x830, 0x92), 0);
	assert_int_equal(ack(b), 0x92);
	assert_int_equal(wrmsr(b, 0x80b, 0), 0);
	assert_int_equal(wrmsr(b, 0x830, 1ull << 32 | 0x93), 0);
	assert_int_equal(ack(b), -1);
	assert_int_equal(wrmsr(b, 0x830, 1ull << 32 | 0x894), 0); /* logical */
	assert_int_equal(ack(b), 0x94);
	wrmsr(b, 0x80b, 0);
	assert_int_equal(wrmsr(b, 0x830, 0xffffffffull << 32 | 0x95), 0);
	assert_int_equal(ack(b), 0x95);
	wrmsr(b, 0x80b, 0);
	/* not back to xAPIC but through off */
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00900), -1);
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00100), 0);
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00d00), -1);
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00900), 0);
	assert_int_equal(rd(b, 0xf0), 0xff); /* reset by that */
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfed00900), -1);
	assert_int_equal(wrmsr(b, MSR_APIC_BASE, 0xfee00901), -1);
}

static void test_oneshot(void **state)
{
	struct box *b = *state;

	wr(b, 0x3e0, 0xb); /* divide by 1 */
	wr(b, 0x320, 0x20);
	wr(b, 0x380, 1000); /* 40 us */
	test_advance(&b->tc, 10 * USEC);
	assert_int_equal(rd(b, 0x390), 750);
	test_advance(&b->tc, 29 * USEC);
	assert_int_equal(peek(b), -1);
	test_advance(&b->tc, 1 * USEC);
	assert_int_equal(ack(b), 0x20);
	assert_int_equal(rd(b, 0x390), 0);
	wr(b, 0xb0, 0);
	test_advance(&b->tc, SEC);
	assert_int_equal(peek(b), -1);
	/* divide by 16; stop in the middle */
	wr(b, 0x3e0, 3);
	wr(b, 0x380, 1000); /* 640 us */
	test_advance(&b->tc, 320 * USEC);
	assert_int_equal(rd(b, 0x390), 500);
	wr(b, 0x380, 0);
	test_advance(&b->tc, SEC);
	assert_int_equal(peek(b), -1);
	/* masked: runs, but does not interrupt */
	wr(b, 0x320, 0x10020);
	wr(b, 0x380, 1000);
	test_advance(&b->tc, SEC);
	assert_int_equal(peek(b), -1);
	assert_int_equal(rd(b, 0x380), 1000);
}

static void test_periodic(void **state)
{
	struct box *b = *state;
	unsigned i, n = 0;

	wr(b, 0x3e0, 0xb);
	wr(b, 0x320, 0x20020);
	wr(b, 0x380, 25000); /* 1 ms */
	for (i = 0; i < 100; i++) {
		test_advance(&b->tc, 500 * USEC);
		if (peek(b) >= 0) {
			assert_int_equal(ack(b), 0x20);
			wr(b, 0xb0, 0);
			n++;
		}
	}
	assert_int_equal(n, 50); /* no drift */
	/* half a period later the count shows it */
	test_advance(&b->tc, 500 * USEC);
	assert_int_equal(rd(b, 0x390), 12500);
	/* late: the missed ones are one, and the next is on time */
	test_late(&b->tc, 10 * MSEC);
	assert_int_equal(ack(b), 0x20);
	wr(b, 0xb0, 0);
	assert_int_equal(ack(b), -1);
	test_advance(&b->tc, 499 * USEC);
	assert_int_equal(peek(b), -1);
	test_advance(&b->tc, 2 * USEC);
	assert_int_equal(ack(b), 0x20);
	wr(b, 0xb0, 0);
	/* an absurd rate is held down */
	b->tc.fired = 0;
	wr(b, 0x380, 1);
	test_advance(&b->tc, 10 * MSEC);
	assert_in_range(b->tc.fired, 1, 101);
}

static void test_deadline(void **state)
{
	struct box *b = *state;
	uint64_t now = guest_tsc(b);

	/* ignored in the other modes */
	assert_int_equal(wrmsr(b, MSR_TSC_DEADLINE, now + 100), 0);
	assert_int_equal(rdmsr(b, MSR_TSC_DEADLINE), 0);
	wr(b, 0x320, 0x40030);
	wr(b, 0x380, 77); /* and the count in this one */
	assert_int_equal(rd(b, 0x380), 0);
	wrmsr(b, MSR_TSC_DEADLINE, now + 200000); /* 100 us */
	assert_true(rdmsr(b, MSR_TSC_DEADLINE) == now + 200000);
	test_advance(&b->tc, 99 * USEC);
	assert_int_equal(peek(b), -1);
	test_advance(&b->tc, 2 * USEC);
	assert_int_equal(ack(b), 0x30);
	assert_int_equal(rdmsr(b, MSR_TSC_DEADLINE), 0);
	wr(b, 0xb0, 0);
	/* in the past: at once */
	wrmsr(b, MSR_TSC_DEADLINE, 1);
	assert_int_equal(ack(b), 0x30);
	wr(b, 0xb0, 0);
	/* zero disarms; a later one replaces */
	wrmsr(b, MSR_TSC_DEADLINE, guest_tsc(b) + 2000);
	wrmsr(b, MSR_TSC_DEADLINE, 0);
	test_advance(&b->tc, SEC);
	assert_int_equal(peek(b), -1);
	wrmsr(b, MSR_TSC_DEADLINE, guest_tsc(b) + 2000);
	wrmsr(b, MSR_TSC_DEADLINE, guest_tsc(b) + 2000000);
	test_advance(&b->tc, 999 * USEC);
	assert_int_equal(peek(b), -1);
	test_advance(&b->tc, 2 * USEC);
	assert_int_equal(ack(b), 0x30);
	wr(b, 0xb0, 0);
	/* the guest sets its TSC back while armed: not early */
	wrmsr(b, MSR_TSC_DEADLINE, guest_tsc(b) + 200000);
	b->tsc_offset -= 200000;
	test_advance(&b->tc, 150 * USEC);
	assert_int_equal(peek(b), -1);
	test_advance(&b->tc, 51 * USEC);
	assert_int_equal(ack(b), 0x30);
	wr(b, 0xb0, 0);
	/* "never" */
	wrmsr(b, MSR_TSC_DEADLINE, 0x7fffffffffffffff);
	test_advance(&b->tc, 1000 * SEC);
	assert_int_equal(peek(b), -1);
	/* a change of mode disarms */
	wrmsr(b, MSR_TSC_DEADLINE, guest_tsc(b) + 2000);
	wr(b, 0x320, 0x30);
	test_advance(&b->tc, SEC);
	assert_int_equal(peek(b), -1);
}

static void test_extint(void **state)
{
	struct box *b = *state;
	unsigned i;
	static const uint8_t icw[] = {0x20, 4, 1, 0};
	struct bus *pio = bus_create("pio", &b->lock);

	pic_attach(b->pic, pio);
	bus_write(pio, 0x20, 1, 0x11);
	for (i = 0; i < 4; i++)
		bus_write(pio, 0x21, 1, icw[i]);
	pic_set_irq(b->pic, 1, true);
	assert_int_equal(b->kicks, 1);
	assert_int_equal(peek(b), 0x21);
	lapic_irq_ops.set_tpr(b->l, 15); /* does not hold back ExtINT */
	assert_int_equal(ack(b), 0x21);
	assert_int_equal(rd(b, 0x110), 0); /* not the APIC's business */
	bus_write(pio, 0x20, 1, 0x20);
	wr(b, 0x350, 0x10700); /* LINT0 masked: cut off */
	pic_set_irq(b->pic, 1, false);
	pic_set_irq(b->pic, 1, true);
	assert_int_equal(peek(b), -1);
	wr(b, 0x350, 0x700);
	assert_int_equal(peek(b), 0x21);
	wr(b, 0x350, 0x10700);
	/* with the APIC off by MSR the PIC has the CPU for itself */
	wrmsr(b, MSR_APIC_BASE, 0xfee00100);
	assert_int_equal(ack(b), 0x21);
	bus_destroy(pio);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_priorities), T(test_tpr),      T(test_level_eoi),
		T(test_registers),  T(test_ipi),      T(test_x2apic),
		T(test_oneshot),    T(test_periodic), T(test_deadline),
		T(test_extint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
