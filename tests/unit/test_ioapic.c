/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC and the 8259 pair. */
#include "tests/unit/devtest.h"
#include "vmm/dev/ioapic.h"
#include "vmm/dev/pic.h"
#include "vmm/dev/platform.h"

struct box {
	pthread_mutex_t lock;
	struct bus *mmio, *pio;
	struct ioapic *a;
	struct pic *pic;
	struct test_line intr;
	struct apic_msg last;
	unsigned msgs;
};

static void send(void *ctx, const struct apic_msg *m)
{
	struct box *b = ctx;

	b->last = *m;
	b->msgs++;
}

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));

	pthread_mutex_init(&b->lock, NULL);
	b->mmio = bus_create("mmio", &b->lock);
	b->pio = bus_create("pio", &b->lock);
	b->a = ioapic_create(5, (struct apic_msg_sink){send, b});
	b->pic = pic_create(test_line(&b->intr));
	assert_int_equal(ioapic_attach(b->a, b->mmio), 0);
	assert_int_equal(pic_attach(b->pic, b->pio), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	ioapic_destroy(b->a);
	pic_destroy(b->pic);
	bus_destroy(b->mmio);
	bus_destroy(b->pio);
	free(b);
	return 0;
}

static uint32_t reg(struct box *b, unsigned i)
{
	bus_write(b->mmio, IOAPIC_BASE, 4, i);
	return bus_read(b->mmio, IOAPIC_BASE + 0x10, 4);
}
static void set_reg(struct box *b, unsigned i, uint32_t v)
{
	bus_write(b->mmio, IOAPIC_BASE, 4, i);
	bus_write(b->mmio, IOAPIC_BASE + 0x10, 4, v);
}
static void set_rte(struct box *b, unsigned pin, uint64_t v)
{
	set_reg(b, 0x11 + 2 * pin, v >> 32);
	set_reg(b, 0x10 + 2 * pin, v);
}

#define MASKED (1u << 16)
#define LEVEL  (1u << 15)
#define RIRR   (1u << 14)

static void test_registers(void **state)
{
	struct box *b = *state;
	unsigned i;

	assert_int_equal(reg(b, 0) >> 24, 5);
	assert_int_equal(reg(b, 1), 0x170020);
	for (i = 0; i < 24; i++)
		assert_int_equal(reg(b, 0x10 + 2 * i), MASKED);
	/* read-only bits stay: status, Remote IRR, reserved */
	set_rte(b, 3, ~0ull);
	assert_int_equal(reg(b, 0x16), 0x1afff);
	assert_int_equal(reg(b, 0x17), 0xff000000);
	/* past the last entry */
	set_reg(b, 0x10 + 48, 0x1234);
	assert_int_equal(reg(b, 0x10 + 48), 0);
}

static void test_edge(void **state)
{
	struct box *b = *state;

	ioapic_set_irq(b->a, 4, true); /* masked: lost */
	set_rte(b, 4, 0x31ull | 3ull << 56);
	assert_int_equal(b->msgs, 0);
	ioapic_set_irq(b->a, 4, true); /* no edge */
	assert_int_equal(b->msgs, 0);
	ioapic_set_irq(b->a, 4, false);
	ioapic_set_irq(b->a, 4, true);
	assert_int_equal(b->msgs, 1);
	assert_int_equal(b->last.vector, 0x31);
	assert_int_equal(b->last.dest, 3);
	assert_false(b->last.level);
	assert_false(b->last.logical);
	ioapic_set_irq(b->a, 4, false);
	ioapic_set_irq(b->a, 4, true);
	assert_int_equal(b->msgs, 2);
	ioapic_set_irq(b->a, 24, true); /* no such pin */
	assert_int_equal(b->msgs, 2);
}

static void test_level(void **state)
{
	struct box *b = *state;

	set_rte(b, 9, 0x59 | LEVEL | 1 << 11 | 1 << 8 | 0xffull << 56);
	ioapic_set_irq(b->a, 9, true);
	assert_int_equal(b->msgs, 1);
	assert_true(b->last.level && b->last.logical);
	assert_int_equal(b->last.mode, APIC_DM_LOWEST);
	assert_true(reg(b, 0x22) & RIRR);
	/* one at a time */
	ioapic_set_irq(b->a, 9, false);
	ioapic_set_irq(b->a, 9, true);
	assert_int_equal(b->msgs, 1);
	ioapic_eoi(b->a, 0x58); /* another vector */
	assert_int_equal(b->msgs, 1);
	ioapic_eoi(b->a, 0x59); /* still asserted: again */
	assert_int_equal(b->msgs, 2);
	ioapic_set_irq(b->a, 9, false);
	bus_write(b->mmio, IOAPIC_BASE + 0x40, 4, 0x59); /* EOI register */
	assert_int_equal(b->msgs, 2);
	assert_false(reg(b, 0x22) & RIRR);
	/* asserted while masked comes when unmasked */
	set_rte(b, 9, 0x59 | LEVEL | MASKED);
	ioapic_set_irq(b->a, 9, true);
	assert_int_equal(b->msgs, 2);
	set_rte(b, 9, 0x59 | LEVEL);
	assert_int_equal(b->msgs, 3);
	/* Linux clears a stuck Remote IRR by a turn through edge */
	set_rte(b, 9, 0x59 | MASKED);
	assert_false(reg(b, 0x22) & RIRR);
}

/* ---- 8259 ---- */

static void pic_program(struct box *b, uint8_t icw4)
{
	unsigned i;
	static const uint16_t port[2] = {0x20, 0xa0};

	for (i = 0; i < 2; i++) {
		bus_write(b->pio, port[i], 1, 0x11);
		bus_write(b->pio, port[i] + 1, 1, i ? 0x28 : 0x20);
		bus_write(b->pio, port[i] + 1, 1, i ? 2 : 4);
		bus_write(b->pio, port[i] + 1, 1, icw4);
		bus_write(b->pio, port[i] + 1, 1, 0); /* unmask all */
	}
}

static void test_pic_probe(void **state)
{
	struct box *b = *state;

	/* as Linux does: mask the slave, write and read the master's mask */
	bus_write(b->pio, 0xa1, 1, 0xff);
	bus_write(b->pio, 0x21, 1, 0xfb);
	assert_int_equal(bus_read(b->pio, 0x21, 1), 0xfb);
	pic_program(b, 1);
	assert_int_equal(bus_read(b->pio, 0x21, 1), 0);
	bus_write(b->pio, 0x21, 1, 0xff);
	pic_set_irq(b->pic, 0, true);
	assert_false(b->intr.level);
	assert_int_equal(bus_read(b->pio, 0x20, 1), 1); /* IRR */
}

static void test_pic_priority(void **state)
{
	struct box *b = *state;

	pic_program(b, 1);
	pic_set_irq(b->pic, 4, true);
	assert_true(b->intr.level);
	pic_set_irq(b->pic, 10, true); /* slave: at master input 2, higher */
	assert_int_equal(pic_peek(b->pic), 0x2a);
	assert_int_equal(pic_ack(b->pic), 0x2a);
	/* 4 is lower than 2 in service */
	assert_false(pic_pending(b->pic));
	pic_set_irq(b->pic, 0, true);
	assert_int_equal(pic_ack(b->pic), 0x20);
	/* read both ISRs */
	bus_write(b->pio, 0x20, 1, 0x0b);
	bus_write(b->pio, 0xa0, 1, 0x0b);
	assert_int_equal(bus_read(b->pio, 0x20, 1), 0x05);
	assert_int_equal(bus_read(b->pio, 0xa0, 1), 0x04);
	bus_write(b->pio, 0x20, 1, 0x20); /* ends 0 */
	assert_false(pic_pending(b->pic));
	bus_write(b->pio, 0xa0, 1, 0x20);
	bus_write(b->pio, 0x20, 1, 0x62); /* ends 2, by number */
	assert_int_equal(pic_ack(b->pic), 0x24);
	bus_write(b->pio, 0x20, 1, 0x20);
	assert_false(pic_pending(b->pic));
	/* all lines are still high: edges only */
	assert_int_equal(bus_read(b->pio, 0x20, 1), 0);
}

static void test_pic_spurious(void **state)
{
	struct box *b = *state;

	pic_program(b, 1);
	pic_set_irq(b->pic, 3, true);
	pic_set_irq(b->pic, 3, false); /* gone before the acknowledge */
	assert_false(pic_pending(b->pic));
	assert_int_equal(pic_ack(b->pic), 0x27);
	bus_write(b->pio, 0x20, 1, 0x0b);
	assert_int_equal(bus_read(b->pio, 0x20, 1), 0);
}

static void test_pic_level(void **state)
{
	struct box *b = *state;

	pic_program(b, 1);
	bus_write(b->pio, 0x4d0, 1, 0xff);
	assert_int_equal(bus_read(b->pio, 0x4d0, 1), 0xf8); /* 0..2: edge */
	bus_write(b->pio, 0x4d1, 1, 0x02);		    /* irq 9 */
	pic_set_irq(b->pic, 9, true);
	assert_int_equal(pic_ack(b->pic), 0x29);
	bus_write(b->pio, 0xa0, 1, 0x20);
	bus_write(b->pio, 0x20, 1, 0x20);
	assert_true(pic_pending(b->pic)); /* still asserted */
	pic_set_irq(b->pic, 9, false);
	assert_false(pic_pending(b->pic));
}

static void test_pic_modes(void **state)
{
	struct box *b = *state;

	pic_program(b, 1);
	/* a level that stays is one edge */
	pic_set_irq(b->pic, 3, true);
	assert_int_equal(pic_ack(b->pic), 0x23);
	pic_set_irq(b->pic, 3, true);
	bus_write(b->pio, 0x20, 1, 0x20);
	assert_false(pic_pending(b->pic));
	/* special mask: what is in service but masked holds nobody back */
	pic_set_irq(b->pic, 3, false);
	pic_set_irq(b->pic, 3, true);
	assert_int_equal(pic_ack(b->pic), 0x23);
	pic_set_irq(b->pic, 5, true);
	assert_false(pic_pending(b->pic));
	bus_write(b->pio, 0x21, 1, 0x08);
	assert_false(pic_pending(b->pic));
	bus_write(b->pio, 0x20, 1, 0x68);
	assert_true(pic_pending(b->pic));
	bus_write(b->pio, 0x20, 1, 0x48);
	assert_false(pic_pending(b->pic));
	bus_write(b->pio, 0x20, 1, 0x63); /* ends 3 */
	assert_int_equal(pic_ack(b->pic), 0x25);
	/* rotation: after "EOI and rotate" 5 is the lowest, 6 the highest */
	bus_write(b->pio, 0x20, 1, 0xa0);
	bus_write(b->pio, 0x21, 1, 0);
	pic_set_irq(b->pic, 0, true);
	pic_set_irq(b->pic, 6, true);
	assert_int_equal(pic_ack(b->pic), 0x26);
	bus_write(b->pio, 0x20, 1, 0x20);
	assert_int_equal(pic_ack(b->pic), 0x20);
	bus_write(b->pio, 0x20, 1, 0x20);
	/* poll: a read is the acknowledge */
	pic_set_irq(b->pic, 7, true);
	bus_write(b->pio, 0x20, 1, 0x0c);
	assert_int_equal(bus_read(b->pio, 0x20, 1), 0x87);
	assert_false(pic_pending(b->pic));
}

static void test_pic_aeoi(void **state)
{
	struct box *b = *state;

	pic_program(b, 3);
	pic_set_irq(b->pic, 8, true);
	pic_set_irq(b->pic, 12, true);
	assert_int_equal(pic_ack(b->pic), 0x28);
	/* nothing is in service: the slave's second comes by itself */
	assert_true(pic_pending(b->pic));
	assert_int_equal(pic_ack(b->pic), 0x2c);
	assert_false(pic_pending(b->pic));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_registers), T(test_edge),	 T(test_level),
		T(test_pic_probe), T(test_pic_priority), T(test_pic_spurious),
		T(test_pic_level), T(test_pic_modes),	 T(test_pic_aeoi),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
