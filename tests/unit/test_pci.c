/* SPDX-License-Identifier: Apache-2.0 */
/* PCI: configuration space, BARs that are sized and moved, MSI-X, INTA; and
 * virtio behind it: status, features, the access window, the rng. */
#include "tests/unit/virtio_util.h"
#include "vmm/dev/virtio_rng.h"

static struct vdrv v;
static uint8_t next_byte;

static void fill(void *ctx, void *buf, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)buf)[i] = ++next_byte;
}

static int setup(void **state)
{
	struct virtio_rng_config c = {"rng0", fill, NULL};
	struct virtio_host h;

	next_byte = 0;
	vd_machine(&v, &h);
	vd_plug(&v, virtio_rng_create(&h, &c));
	return 0;
}

static int teardown(void **state)
{
	vd_unplug(&v);
	return 0;
}

static uint32_t cfg(unsigned bus, unsigned slot, unsigned fn, unsigned off)
{
	return pci_config_read(
		v.bus, 0x80000000u | bus << 16 | slot << 11 | fn << 8 | off, 4);
}

static void test_scan(void **state)
{
	assert_int_equal(cfg(0, 0, 0, 0), 0x00081b36);
	assert_int_equal(cfg(0, 0, 0, 8) >> 8, 0x060000);
	assert_int_equal(cfg(0, 1, 0, 0), 0x10441af4);
	assert_int_equal(cfg(0, 1, 0, 8) & 0xff, 1);
	/* Nobody: other slots, functions, buses; without the enable bit. */
	assert_int_equal(cfg(0, 2, 0, 0), ~0u);
	assert_int_equal(cfg(0, 1, 1, 0), ~0u);
	assert_int_equal(cfg(1, 1, 0, 0), ~0u);
	assert_int_equal(pci_config_read(v.bus, 1 << 11, 4), ~0u);
	/* By byte and word; across the end. */
	assert_int_equal(vd_cfg_read(&v, 1, 1), 0x1a);
	assert_int_equal(vd_cfg_read(&v, 2, 2), 0x1044);
	assert_int_equal(vd_cfg_read(&v, 254, 4), ~0u);
	/* What is read-only stays. */
	vd_cfg_write(&v, 0, 4, 0);
	vd_cfg_write(&v, 8, 4, 0x12345678);
	assert_int_equal(cfg(0, 1, 0, 0), 0x10441af4);
	assert_int_equal(cfg(0, 1, 0, 8), 0xff000001);
	assert_int_equal(vd_cfg_read(&v, PCI_INT_PIN, 1), 1);
}

static void test_capabilities(void **state)
{
	unsigned n = 0, seen = 0, msix = 0;
	uint8_t cap;

	assert_true(vd_cfg_read(&v, PCI_STATUS, 2) & PCI_STS_CAPS);
	for (cap = vd_cfg_read(&v, PCI_CAP_PTR, 1); cap && n < 16;
	     cap = vd_cfg_read(&v, cap + 1, 1), n++) {
		assert_int_equal(cap % 4, 0);
		assert_true(cap >= 0x40);
		if (vd_cfg_read(&v, cap, 1) == PCI_CAP_MSIX)
			msix++;
		else
			seen |= 1u << vd_cfg_read(&v, cap + 3, 1);
	}
	assert_int_equal(cap, 0);
	assert_int_equal(msix, 1);
	/* Common, notify, ISR, PCI; a rng has no device configuration. */
	assert_int_equal(seen, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 5);
}

static void test_bars(void **state)
{
	uint16_t old = v.io;

	vd_cfg_write(&v, PCI_BAR0, 4, ~0u);
	assert_int_equal(vd_cfg_read(&v, PCI_BAR0, 4), 0xffffff01);
	vd_cfg_write(&v, PCI_BAR0 + 4, 4, ~0u);
	assert_int_equal(vd_cfg_read(&v, PCI_BAR0 + 4, 4), 0xfffff000);
	vd_cfg_write(&v, PCI_BAR0 + 8, 4, ~0u);
	assert_int_equal(vd_cfg_read(&v, PCI_BAR0 + 8, 4), 0);
	/* Elsewhere in the window: it answers there, and no longer here. */
	vd_cfg_write(&v, PCI_BAR0, 4, old + 0x300);
	assert_int_equal(bus_read(v.pio, old + 18, 2), 0xffff);
	v.io = old + 0x300;
	assert_int_equal(vd_in(&v, v.common + 18, 2), 1);
	/* Outside of it, or beyond its end: nowhere. */
	vd_cfg_write(&v, PCI_BAR0, 4, 0x3f00);
	assert_int_equal(bus_read(v.pio, 0x3f00 + 18, 2), 0xffff);
	vd_cfg_write(&v, PCI_BAR0, 4, PORT_PCI_WINDOW + PORT_PCI_WINDOW_LEN);
	assert_int_equal(
		bus_read(v.pio, PORT_PCI_WINDOW + PORT_PCI_WINDOW_LEN + 18, 2),
		0xffff);
	/* Decoding off. */
	vd_cfg_write(&v, PCI_BAR0, 4, v.io);
	vd_cfg_write(&v, PCI_COMMAND, 2, PCI_CMD_MEM);
	assert_int_equal(vd_in(&v, v.common + 18, 2), 0xffff);
	/* Reset: as firmware left it. */
	pci_reset(v.bus);
	assert_int_equal(vd_cfg_read(&v, PCI_BAR0, 4), old | 1);
	assert_int_equal(vd_cfg_read(&v, PCI_COMMAND, 2), 0);
}

static void test_features(void **state)
{
	uint64_t f = vd_offered(&v);

	assert_true(f & VIRTIO_F_VERSION_1);
	assert_true(vd_negotiate(&v, f));
	assert_false(vd_negotiate(&v, f & ~VIRTIO_F_VERSION_1));
	assert_false(vd_negotiate(&v, f | 1));
	/* DRIVER_OK needs FEATURES_OK. */
	vd_out(&v, v.common + 20, 1, 15);
	assert_int_equal(vd_status(&v) & 4, 0);
	/* Settled is settled. */
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_out(&v, v.common + 8, 4, 0);
	vd_out(&v, v.common + 12, 4, ~0u);
	assert_int_equal(vd_in(&v, v.common + 12, 4), 0);
	/* There is no third word. */
	vd_out(&v, v.common, 4, 2);
	assert_int_equal(vd_in(&v, v.common + 4, 4), 0);
	/* Nobody but us says "needs reset". */
	vd_out(&v, v.common + 20, 1, 0x4f);
	assert_int_equal(vd_status(&v) & 0x40, 0);
}

static void ask(unsigned len)
{
	vd_set_desc(&v, v.q[0].desc, 0, 0x2000, len, 2, 0);
	vd_avail(&v, 0, 0);
	vd_bell(&v, 0);
	vd_run(&v);
}

static void test_rng(void **state)
{
	uint8_t buf[300];
	uint32_t id, len;

	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 8);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
	ask(300);
	assert_true(vd_used(&v, 0, &id, &len));
	assert_int_equal(id, 0);
	assert_int_equal(len, 300);
	assert_false(vd_used(&v, 0, &id, &len));
	assert_int_equal(p2m_copy_out(v.p2m, 0x2000, buf, 300), 0);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(buf[i], (uint8_t)(i + 1));
	assert_int_equal(v.msis[0x41], 1);
	assert_false(v.line[1]);
	/* A long one is not filled whole. */
	ask(1 << 20);
	assert_true(vd_used(&v, 0, &id, &len));
	assert_int_equal(len, 4096);
	/* No interrupt, please. */
	vd_set16(&v, v.q[0].avail, 1);
	ask(1);
	assert_int_equal(v.msis[0x41], 2);
}

static void test_msix_mask(void **state)
{
	uint8_t cap = ((struct pci_dev *)v.pci)->msix_cap;

	assert_int_equal(vd_cfg_read(&v, cap + 2, 2), 1); /* two vectors */
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 8);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	/* Masked by vector: pending, and comes when unmasked, once. */
	bus_write(v.mmio, v.table + 16 + 12, 4, 1);
	ask(1);
	ask(1);
	assert_int_equal(v.msis[0x41], 0);
	assert_int_equal(bus_read(v.mmio, v.table + 0x800, 8), 2);
	bus_write(v.mmio, v.table + 16 + 12, 4, 0);
	assert_int_equal(v.msis[0x41], 1);
	assert_int_equal(bus_read(v.mmio, v.table + 0x800, 8), 0);
	/* The same by function. */
	vd_cfg_write(&v, cap + 2, 2, 0xc000);
	ask(1);
	assert_int_equal(v.msis[0x41], 1);
	vd_cfg_write(&v, cap + 2, 2, 0x8000);
	assert_int_equal(v.msis[0x41], 2);
	/* An address that is not the local APIC's sends nothing. */
	bus_write(v.mmio, v.table + 16, 4, 0x1000);
	ask(1);
	assert_int_equal(v.msis[0x41], 2);
	/* Beyond the table, and misaligned. */
	assert_int_equal(bus_read(v.mmio, v.table + 16 * 2, 4), 0);
	bus_write(v.mmio, v.table + 16 * 2, 4, 1);
	assert_int_equal(bus_read(v.mmio, v.table + 6, 4), 0);
	/* A vector that is not there cannot be chosen. */
	vd_out(&v, v.common + 22, 2, 0);
	vd_out(&v, v.common + 26, 2, 7);
	assert_int_equal(vd_in(&v, v.common + 26, 2), 0xffff);
	ask(1);
}

static void test_intx(void **state)
{
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 8);
	vd_driver_ok(&v);
	ask(1);
	assert_true(v.line[1]);
	assert_true(vd_cfg_read(&v, PCI_STATUS, 2) & PCI_STS_INTX);
	/* Disabled, enabled, and read away. */
	vd_cfg_write(&v, PCI_COMMAND, 2, PCI_CMD_IO | PCI_CMD_INTX_OFF);
	assert_false(v.line[1]);
	vd_cfg_write(&v, PCI_COMMAND, 2, PCI_CMD_IO);
	assert_true(v.line[1]);
	assert_int_equal(vd_in(&v, v.isr, 1), 1);
	assert_false(v.line[1]);
	assert_int_equal(vd_in(&v, v.isr, 1), 0);
	/* A reset takes it away, too. */
	ask(1);
	assert_true(v.line[1]);
	vd_out(&v, v.common + 20, 1, 0);
	assert_false(v.line[1]);
}

/* The same registers through configuration space. */
static void test_access_window(void **state)
{
	uint8_t cap = 0, c;

	for (c = vd_cfg_read(&v, PCI_CAP_PTR, 1); c;
	     c = vd_cfg_read(&v, c + 1, 1))
		if (vd_cfg_read(&v, c, 1) == PCI_CAP_VENDOR &&
		    vd_cfg_read(&v, c + 3, 1) == 5)
			cap = c;
	assert_true(cap);
	vd_cfg_write(&v, cap + 8, 4, v.common + 20);
	vd_cfg_write(&v, cap + 12, 4, 1);
	vd_cfg_write(&v, cap + 16, 4, 0xffffff03);
	assert_int_equal(vd_status(&v), 3);
	assert_int_equal(vd_cfg_read(&v, cap + 16, 1), 3);
	/* Nonsense does nothing. */
	vd_cfg_write(&v, cap + 12, 4, 3);
	vd_cfg_write(&v, cap + 16, 4, 0);
	vd_cfg_write(&v, cap + 12, 4, 4);
	vd_cfg_write(&v, cap + 8, 4, 0xfffffffe);
	vd_cfg_write(&v, cap + 16, 4, 0);
	vd_cfg_write(&v, cap + 8, 4, 0);
	vd_cfg_write(&v, cap + 4, 1, 1);
	vd_cfg_write(&v, cap + 16, 4, 0);
	assert_int_equal(vd_status(&v), 3);
}

/* Rings that are not there break the device; a reset mends it. */
static void test_bad_queue(void **state)
{
	static const struct {
		unsigned n;
		gpa_t desc, avail, used;
	} bad[] = {
		{0, 0x1000, 0x2000, 0x3000},
		{3, 0x1000, 0x2000, 0x3000},
		{512, 0x10000, 0x20000, 0x30000},
		{8, 0x1008, 0x2000, 0x3000},
		{8, 0x1000, 0x2001, 0x3000},
		{8, 0x1000, 0x2000, 0x3002},
		{8, VD_RAM - 64, 0x2000, 0x3000},
		{8, 0x1000, VD_RAM - 8, 0x3000},
		{8, 0x1000, 0x2000, VD_RAM - 16},
		{8, ~15ull, 0x2000, 0x3000},
		{8, 0x1000, 0x2000, 1ull << 32},
		{8, 0x1000, 0x2000, 0xfffffffffffffffcull},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
		vd_out(&v, v.common + 22, 2, 0);
		vd_out(&v, v.common + 24, 2, bad[i].n);
		vd_set64(&v, 32, bad[i].desc);
		vd_set64(&v, 40, bad[i].avail);
		vd_set64(&v, 48, bad[i].used);
		vd_out(&v, v.common + 28, 2, 1);
		assert_int_equal(vd_in(&v, v.common + 28, 2), 0);
		assert_true(vd_status(&v) & VIRTIO_S_NEEDS_RESET);
		vd_driver_ok(&v);
		vd_bell(&v, 0);
		vd_run(&v);
	}
	test_rng(state);
	/* Queues that are not there */
	vd_out(&v, v.common + 22, 2, 1);
	assert_int_equal(vd_in(&v, v.common + 24, 2), 0);
	vd_out(&v, v.common + 28, 2, 1);
	vd_bell(&v, 1);
	vd_bell(&v, 0xffff);
	vd_run(&v);
	assert_int_equal(vd_status(&v), 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_scan),	  T(test_capabilities),	 T(test_bars),
		T(test_features), T(test_rng),		 T(test_msix_mask),
		T(test_intx),	  T(test_access_window), T(test_bad_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
