/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware, and the small ports of power and PCI. */
#include "tests/unit/devtest.h"
#include "vmm/dev/legacy.h"
#include "vmm/dev/platform.h"
#include "vmm/dev/pm.h"

struct power_log {
	unsigned n;
	enum power_event last;
	int code;
};

static void power_request(void *ctx, enum power_event e, int code)
{
	struct power_log *p = ctx;

	p->n++;
	p->last = e;
	p->code = code;
}

struct box {
	pthread_mutex_t lock;
	struct bus *pio;
	struct test_clock tc;
	struct test_line sci;
	struct power_log power;
	struct pm *pm;
	struct legacy *legacy;
};

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));
	struct power_sink sink = {power_request, &b->power};

	pthread_mutex_init(&b->lock, NULL);
	b->tc.now = 12345;
	b->pio = bus_create("pio", &b->lock);
	b->pm = pm_create(test_clock(&b->tc), test_line(&b->sci), sink);
	b->legacy = legacy_create(sink, true);
	assert_int_equal(pm_attach(b->pm, b->pio), 0);
	assert_int_equal(legacy_attach(b->legacy, b->pio), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	pm_destroy(b->pm);
	legacy_destroy(b->legacy);
	bus_destroy(b->pio);
	assert_int_equal(b->tc.heap.n, 0);
	free(b);
	return 0;
}

static void test_s5(void **state)
{
	struct box *b = *state;

	assert_int_equal(bus_read(b->pio, PORT_PM1A_CNT, 2), 1); /* SCI_EN */
	/* SLP_TYP without SLP_EN, SLP_EN with another type: nothing */
	bus_write(b->pio, PORT_PM1A_CNT, 2, 5 << 10);
	assert_int_equal(b->power.n, 0);
	assert_int_equal(bus_read(b->pio, PORT_PM1A_CNT, 2), 5 << 10 | 1);
	bus_write(b->pio, PORT_PM1A_CNT, 2, 1 << 10 | 1 << 13);
	assert_int_equal(b->power.n, 0);
	bus_write(b->pio, PORT_PM1A_CNT, 2, 5 << 10 | 1 << 13);
	assert_int_equal(b->power.n, 1);
	assert_int_equal(b->power.last, POWER_OFF);
	/* SLP_EN reads as 0; the high byte alone does it too */
	assert_int_equal(bus_read(b->pio, PORT_PM1A_CNT, 2), 5 << 10 | 1);
	bus_write(b->pio, PORT_PM1A_CNT + 1, 1, (5 << 10 | 1 << 13) >> 8);
	assert_int_equal(b->power.n, 2);
}

static void test_timer(void **state)
{
	struct box *b = *state;

	assert_int_equal(bus_read(b->pio, PORT_PM_TMR, 4), 0);
	test_advance(&b->tc, SEC);
	assert_int_equal(bus_read(b->pio, PORT_PM_TMR, 4), 3579545);
	test_advance(&b->tc, 999 * SEC);
	assert_int_equal(bus_read(b->pio, PORT_PM_TMR, 4), 3579545000u);
	test_advance(&b->tc, 1000 * SEC); /* wraps at 32 bits */
	assert_int_equal(bus_read(b->pio, PORT_PM_TMR, 4),
			 (uint32_t)(2 * 3579545000ull));
	assert_int_equal(b->tc.fired, 0); /* nobody asked for the interrupt */
}

static void test_timer_sci(void **state)
{
	struct box *b = *state;
	const uint64_t half = (1ull << 31) * SEC / 3579545;

	bus_write(b->pio, PORT_PM1A_EVT + 2, 2, 1); /* TMR_EN */
	test_advance(&b->tc, half - MSEC);
	assert_false(b->sci.level);
	assert_int_equal(bus_read(b->pio, PORT_PM1A_EVT, 2), 0);
	test_advance(&b->tc, 2 * MSEC);
	assert_true(b->sci.level);
	assert_int_equal(bus_read(b->pio, PORT_PM1A_EVT, 2), 1);
	bus_write(b->pio, PORT_PM1A_EVT, 2, 0xfffe); /* others: no effect */
	assert_true(b->sci.level);
	bus_write(b->pio, PORT_PM1A_EVT, 2, 1);
	assert_false(b->sci.level);
	test_advance(&b->tc, half);
	assert_true(b->sci.level);
	assert_int_equal(b->sci.rises, 2);
}

static void test_button(void **state)
{
	struct box *b = *state;

	pm_press_power_button(b->pm);
	assert_false(b->sci.level); /* not enabled */
	assert_int_equal(bus_read(b->pio, PORT_PM1A_EVT, 4), 0x100);
	bus_write(b->pio, PORT_PM1A_EVT + 2, 2, 0x100);
	assert_true(b->sci.level);
	assert_int_equal(bus_read(b->pio, PORT_PM1A_EVT, 4), 0x01000100);
	bus_write(b->pio, PORT_PM1A_EVT, 2, 0x100);
	assert_false(b->sci.level);
	pm_press_power_button(b->pm);
	assert_true(b->sci.level);
	pm_reset(b->pm);
	assert_false(b->sci.level);
	assert_int_equal(bus_read(b->pio, PORT_PM1A_EVT, 4), 0);
}

static void test_reset_ports(void **state)
{
	struct box *b = *state;
	static const struct {
		uint16_t port;
		uint8_t val;
		bool resets;
	} c[] = {
		{0x64, 0xd1, false}, {0x64, 0xfe, true},  {0xcf9, 0x02, false},
		{0xcf9, 0x06, true}, {0xcf9, 0x0e, true}, {0x92, 0x02, false},
		{0x92, 0x03, true},
	};
	unsigned i, n = 0;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		bus_write(b->pio, c[i].port, 1, c[i].val);
		n += c[i].resets;
		assert_int_equal(b->power.n, n);
	}
	assert_int_equal(b->power.last, POWER_RESET);
	assert_int_equal(bus_read(b->pio, 0x92, 1) & 2, 2);
	/* Output buffer full for ever, input buffer never. */
	assert_int_equal(bus_read(b->pio, 0x64, 1) & 3, 1);
}

static void test_pci_empty(void **state)
{
	struct box *b = *state;
	unsigned dev;

	bus_write(b->pio, 0xcf8, 4, 0x80000000);
	assert_int_equal(bus_read(b->pio, 0xcf8, 4), 0x80000000);
	for (dev = 0; dev < 32; dev++) {
		bus_write(b->pio, 0xcf8, 4, 0x80000000 | dev << 11);
		assert_int_equal(bus_read(b->pio, 0xcfc, 4), 0xffffffff);
		assert_int_equal(bus_read(b->pio, 0xcfe, 2), 0xffff);
	}
	/* 0xcf9 as a part of the address register is not a reset */
	bus_write(b->pio, 0xcf8, 4, 0x80000600);
	assert_int_equal(b->power.n, 0);
}

static void test_debug_exit(void **state)
{
	struct box *b = *state;

	bus_write(b->pio, PORT_DEBUG_EXIT, 1, 0);
	assert_int_equal(b->power.last, POWER_DEBUG_EXIT);
	assert_int_equal(b->power.code, 1);
	bus_write(b->pio, PORT_DEBUG_EXIT, 4, 0x10);
	assert_int_equal(b->power.code, 0x21);
	assert_int_equal(b->power.n, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_s5),	    T(test_timer),	 T(test_timer_sci),
		T(test_button),	    T(test_reset_ports), T(test_pci_empty),
		T(test_debug_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
