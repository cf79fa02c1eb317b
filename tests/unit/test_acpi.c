/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables: sums, links, and that they say what platform.h says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "vmm/boot/acpi.h"
#include "vmm/boot/aml.h"
#include "vmm/boot/boot_priv.h"
#include "vmm/dev/platform.h"

static uint8_t mem[ACPI_MAX_SIZE];
static size_t used;

static int setup(void **state)
{
	memset(mem, 0xee, sizeof(mem));
	used = acpi_layout(mem, ACPI_BASE, 0);
	return 0;
}

static const uint8_t *at(uint64_t gpa, size_t len)
{
	assert_true(gpa >= ACPI_BASE && gpa - ACPI_BASE + len <= used);
	return mem + (gpa - ACPI_BASE);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s += *p++;
	return s;
}

/* A table by address: in bounds, right sum, this signature. */
static const uint8_t *table(uint64_t gpa, const char *sig)
{
	const uint8_t *t = at(gpa, 36);

	assert_memory_equal(t, sig, 4);
	at(gpa, get32(t + 4));
	assert_int_equal(sum(t, get32(t + 4)), 0);
	return t;
}

static const uint8_t *find(const char *sig)
{
	const uint8_t *x = table(get64(mem + 24), "XSDT");
	const uint8_t *found = NULL;

	for (unsigned o = 36; o < get32(x + 4); o += 8) {
		const uint8_t *t = at(get64(x + o), 36);

		if (!memcmp(t, sig, 4)) {
			assert_null(found);
			found = table(get64(x + o), sig);
		}
	}
	assert_non_null(found);
	return found;
}

static void test_root(void **state)
{
	const uint8_t *x, *r;

	assert_memory_equal(mem, "RSD PTR ", 8);
	assert_int_equal(mem[15], 2);
	assert_int_equal(sum(mem, 20), 0);
	assert_int_equal(sum(mem, 36), 0);
	assert_int_equal(ACPI_BASE % 16, 0);
	assert_true(ACPI_BASE + used <= 0x100000);
	x = table(get64(mem + 24), "XSDT");
	r = table(get32(mem + 16), "RSDT");
	/* Both list the same tables. */
	assert_int_equal(get32(x + 4) - 36, 2 * (get32(r + 4) - 36));
	for (unsigned i = 0; 36 + 4 * i < get32(r + 4); i++)
		assert_int_equal(get32(r + 36 + 4 * i), get64(x + 36 + 8 * i));
}

static void check_gas(const uint8_t *g, uint16_t port, unsigned bytes)
{
	assert_int_equal(g[0], 1);
	assert_int_equal(g[1], bytes * 8);
	assert_int_equal(get64(g + 4), port);
}

static void test_fadt(void **state)
{
	const uint8_t *f = find("FACP");
	uint32_t flags = get32(f + 112);
	uint16_t arch = get16(f + 109);

	assert_int_equal(f[8], 6);
	assert_int_equal(get32(f + 4), 276);
	assert_int_equal(get16(f + 46), IRQ_SCI);
	assert_int_equal(get32(f + 48), 0); /* no SMI command port */
	assert_int_equal(get32(f + 56), PORT_PM1A_EVT);
	assert_int_equal(get32(f + 64), PORT_PM1A_CNT);
	assert_int_equal(get32(f + 76), PORT_PM_TMR);
	assert_int_equal(f[88], 4);
	assert_int_equal(f[89], 2);
	assert_int_equal(f[91], 4);
	check_gas(f + 116, PORT_RESET, 1);
	assert_int_equal(f[128], RESET_VALUE);
	check_gas(f + 148, PORT_PM1A_EVT, 4);
	check_gas(f + 172, PORT_PM1A_CNT, 2);
	check_gas(f + 208, PORT_PM_TMR, 4);
	assert_true(flags & 1u << 10);	/* reset register */
	assert_false(flags & 1u << 20); /* not hardware-reduced */
	assert_true(flags & 1u << 4);	/* no fixed power button */
	assert_false(arch & 1u << 1);	/* no 8042 */
	assert_true(arch & 1u << 2);	/* no VGA */
	assert_memory_equal(at(get32(f + 36), 64), "FACS", 4);
	assert_int_equal(get32(f + 36) % 64, 0);
	assert_int_equal(get32(f + 40), get64(f + 140));
	table(get32(f + 40), "DSDT");
}

static void test_madt(void **state)
{
	const uint8_t *m = find("APIC"), *e = m + 44, *end = m + get32(m + 4);
	unsigned seen = 0;

	assert_int_equal(get32(m + 36), LAPIC_BASE);
	for (; e < end; e += e[1]) {
		assert_true(e[1] >= 6 && e + e[1] <= end);
		seen |= 1u << e[0];
		switch (e[0]) {
		case 0:
			assert_int_equal(e[3], LAPIC_ID_BSP);
			assert_int_equal(get32(e + 4), 1);
			break;
		case 1:
			assert_int_equal(e[2], IOAPIC_ID);
			assert_int_equal(get32(e + 4), IOAPIC_BASE);
			assert_int_equal(get32(e + 8), 0);
			break;
		case 2:
			if (e[3] == IRQ_PIT) {
				assert_int_equal(get32(e + 4), GSI_PIT);
			} else {
				assert_int_equal(e[3], IRQ_SCI);
				assert_int_equal(get32(e + 4), IRQ_SCI);
				assert_int_equal(get16(e + 8), 0xd);
			}
			seen |= 1u << (16 + e[3]);
			break;
		}
	}
	assert_ptr_equal(e, end);
	assert_int_equal(seen, 0x17 | 1u << 16 | 1u << (16 + IRQ_SCI));
}

static void test_waet(void **state)
{
	assert_int_equal(get32(find("WAET") + 36), 3);
}

static bool holds(const uint8_t *t, const void *bytes, size_t n)
{
	return memmem(t + 36, get32(t + 4) - 36, bytes, n) != NULL;
}

static void test_dsdt(void **state)
{
	const uint8_t *d = table(get32(find("FACP") + 40), "DSDT");
	/* Name(\_S5, Package(4){5, 5, 0, 0}) */
	static const uint8_t s5[] = {0x08, '\\', '_',  'S', '5',  '_',
				     0x12, 0x49, 0x00, 4,   0x0a, 5,
				     0x0a, 5,	 0,    0};
	static const uint8_t com_hid[] = {0x08, '_',  'H',  'I',  'D',
					  0x0c, 0x41, 0xd0, 0x05, 0x01};
	static const uint8_t com_crs[] = {0x47, 1,    0xf8, 3, 0xf8, 3, 1,
					  8,	0x22, 0x10, 0, 0x79, 0};

	assert_true(holds(d, s5, sizeof(s5)));
	assert_true(holds(d, com_hid, sizeof(com_hid)));
	assert_true(holds(d, com_crs, sizeof(com_crs)));
}

/* With PCI: the same tables, and in the DSDT a root bus with its windows and a
 * line for each slot. */
static void test_pci(void **state)
{
	static const uint8_t hid[] = {0x08, '_',  'H',	'I',  'D',
				      0x0c, 0x41, 0xd0, 0x0a, 0x03};
	static const uint8_t bus[] = {0x88, 13, 0, 2, 0x0c, 0, 0, 0,
				      0,    0,	0, 0, 0,    0, 1, 0};
	static const uint8_t io[] = {0x88, 13,	 0,    1,    0x0c, 3, 0, 0,
				     0,	   0xc0, 0xff, 0xdf, 0,	   0, 0, 0x20};
	static const uint8_t mem_res[] = {
		0x87, 23,   0,	  0,	0x0c, 1, 0, 0, 0, 0, 0, 0,    0,
		0xfe, 0xff, 0xff, 0x0f, 0xfe, 0, 0, 0, 0, 0, 0, 0x10, 0};
	/* Package(4){0x0001ffff, 0, 0, 17}, Package(4){0x0002ffff, 0, 0, 18} */
	static const uint8_t prt[] = {
		0x12, 0x4c, 0x00, 4, 0x0c, 0xff, 0xff, 1, 0, 0, 0, 0x0a, 17,
		0x12, 0x4c, 0x00, 4, 0x0c, 0xff, 0xff, 2, 0, 0, 0, 0x0a, 18};
	const uint8_t *d;

	d = table(get32(find("FACP") + 40), "DSDT");
	assert_false(holds(d, hid, sizeof(hid)));
	memset(mem, 0xee, sizeof(mem));
	used = acpi_layout(mem, ACPI_BASE, 3);
	d = table(get32(find("FACP") + 40), "DSDT");
	assert_true(holds(d, hid, sizeof(hid)));
	assert_true(holds(d, bus, sizeof(bus)));
	assert_true(holds(d, io, sizeof(io)));
	assert_true(holds(d, mem_res, sizeof(mem_res)));
	assert_true(holds(d, prt, sizeof(prt)));
	test_dsdt(state);
	/* The most there can be fits. */
	used = acpi_layout(mem, ACPI_BASE, 32);
	assert_true(used <= ACPI_MAX_SIZE);
	test_root(state);
	setup(state);
}

/* The emitter: known encodings, lengths, and overflow. */
static void test_aml(void **state)
{
	uint8_t buf[64];
	struct aml a;
	static const uint8_t want[] = {
		0x10, 0x4b, 0x02, '\\', '_', 'S',  'B',	 '_',  0x08, 'A', 'A',
		'A',  'A',  0x0e, 1,	2,   3,	   4,	 5,    6,    7,	  8,
		0x08, 'B',  'B',  'B',	'B', 0x0b, 0x34, 0x12, 0x08, 'C', 'C',
		'C',  'C',  0x0c, 0,	0,   1,	   0,	 0x01};

	aml_init(&a, buf, sizeof(buf));
	aml_scope_begin(&a, "\\_SB_");
	aml_name_int(&a, "AAAA", 0x0807060504030201);
	aml_name_int(&a, "BBBB", 0x1234);
	aml_name_int(&a, "CCCC", 0x10000);
	aml_int(&a, 1);
	aml_end(&a);
	assert_int_equal(buf[1] & 15, (a.len - 1) & 15);
	assert_int_equal(buf[2], (a.len - 1) >> 4);
	assert_int_equal(a.len, sizeof(want));
	assert_memory_equal(buf + 3, want + 3, sizeof(want) - 3);
	/* Too small a buffer: counted, not written. */
	memset(buf, 0xee, sizeof(buf));
	aml_init(&a, buf, 10);
	aml_scope_begin(&a, "\\_SB_");
	aml_name_int(&a, "AAAA", 5);
	aml_end(&a);
	assert_true(a.len > a.cap);
	for (unsigned i = 10; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0xee);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_root), cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt), cmocka_unit_test(test_waet),
		cmocka_unit_test(test_dsdt), cmocka_unit_test(test_pci),
		cmocka_unit_test(test_aml),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
