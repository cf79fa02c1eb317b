/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (ACPI 6.3, ch. 5). A guest finds the RSDP by the boot
 * protocol, or by the scan of 0xe0000..0xfffff; RSDT and XSDT hold the same.
 *
 *	RSDP -> XSDT, RSDT -> FADT -> FACS, DSDT
 *			      MADT, WAET
 *
 * The fixed hardware is real (there is an SCI, a PM timer, S5), so this is not
 * a "hardware-reduced" platform; there is no SMI command port: the machine is
 * in ACPI mode from the start. WAET tells that reads of the PM timer are good
 * at once and that the RTC needs no acknowledging workaround: fewer exits.
 */
#include <string.h>

#include "mm/base/log.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/aml.h"
#include "vmm/boot/boot_priv.h"
#include "vmm/dev/platform.h"

#define HEADER_LEN	 36
#define FADT_LEN	 276
#define FACS_LEN	 64
#define RSDP_LEN	 36
#define GAS_IO		 1

/* FADT flags (table 5-34) */
#define F_WBINVD	 (1u << 0)
#define F_PROC_C1	 (1u << 2)
#define F_PWR_BUTTON	 (1u << 4) /* there is no fixed power button */
#define F_SLP_BUTTON	 (1u << 5)
#define F_FIX_RTC	 (1u << 6) /* no RTC wake status in PM1 */
#define F_TMR_VAL_EXT	 (1u << 8) /* the PM timer has 32 bits */
#define F_RESET_REG	 (1u << 10)
/* IA-PC boot architecture flags (table 5-35); 8042 (bit 1) is not set */
#define B_LEGACY	 (1u << 0)
#define B_NO_VGA	 (1u << 2)
#define B_NO_ASPM	 (1u << 4)

#define MADT_PCAT_COMPAT 1u
#define WAET_RTC_GOOD	 1u
#define WAET_PM_TMR_GOOD 2u

struct layout {
	uint8_t *buf;
	gpa_t base;
	size_t len;
};

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s += *p++;
	return s;
}

/* Room for n zero bytes at a multiple of align. */
static uint8_t *room(struct layout *l, size_t n, size_t align)
{
	uint8_t *p;

	l->len = align_up(l->len, align);
	p = l->buf + l->len;
	l->len += n;
	ASSERT(l->len <= ACPI_MAX_SIZE);
	memset(p, 0, n);
	return p;
}

static gpa_t where(const struct layout *l, const uint8_t *p)
{
	return l->base + (p - l->buf);
}

/* A table's header; the caller fills the rest and calls finish(). */
static uint8_t *table(struct layout *l, const char *sig, uint8_t rev, size_t n)
{
	uint8_t *t = room(l, n, 16);

	memcpy(t, sig, 4);
	put32(t + 4, n);
	t[8] = rev;
	memcpy(t + 10, "SARDIN", 6);
	memcpy(t + 16, "SARDINE ", 8);
	put32(t + 24, 1);
	memcpy(t + 28, "SRDN", 4);
	put32(t + 32, 1);
	return t;
}

static gpa_t finish(const struct layout *l, uint8_t *t)
{
	t[9] = 0;
	t[9] = -sum(t, get32(t + 4));
	return where(l, t);
}

/* 5.2.3.2: a generic address in port space */
static void gas_io(uint8_t *g, uint16_t port, uint8_t bytes)
{
	g[0] = GAS_IO;
	g[1] = bytes * 8;
	g[2] = 0;
	g[3] = bytes == 1 ? 1 : bytes == 2 ? 2 : 3; /* access size */
	put64(g + 4, port);
}

static void add_device(struct aml *a, const char *seg, const char *hid,
		       uint16_t port, uint8_t len, unsigned irq)
{
	uint8_t res[16];
	size_t n;

	n = aml_res_io(res, port, len);
	n += aml_res_irq(res + n, irq);
	n += aml_res_end(res + n);
	aml_device_begin(a, seg);
	aml_name_eisaid(a, "_HID", hid);
	aml_name_int(a, "_UID", 1);
	aml_name(a, "_CRS");
	aml_buffer(a, res, n);
	aml_end(a);
}

/* A root bus of its own windows. Every device's INTA has a line of the I/O
 * APIC (level, active low as PCI has it). */
static void add_pci(struct aml *a, unsigned slots)
{
	uint8_t res[96];
	size_t n;

	n = aml_res_bus(res, 0, 0);
	n += aml_res_io(res + n, PORT_PCI_CONFIG, 8);
	n += aml_res_io_window(res + n, PORT_PCI_WINDOW, PORT_PCI_WINDOW_LEN);
	n += aml_res_mem_window(res + n, PCI_MMIO_BASE, PCI_MMIO_LEN);
	n += aml_res_end(res + n);
	ASSERT(n <= sizeof(res));
	aml_device_begin(a, "PCI0");
	aml_name_eisaid(a, "_HID", "PNP0A03");
	aml_name_int(a, "_BBN", 0);
	aml_name(a, "_CRS");
	aml_buffer(a, res, n);
	aml_name(a, "_PRT");
	aml_package_begin(a, slots - 1);
	for (unsigned s = 1; s < slots; s++) {
		aml_package_begin(a, 4);
		aml_int(a, (uint64_t)s << 16 | 0xffff);
		aml_int(a, 0);
		aml_int(a, 0);
		aml_int(a, GSI_PCI + s % 4);
		aml_end(a);
	}
	aml_end(a);
	aml_end(a);
}

static void build_aml(struct aml *a, unsigned pci_slots)
{
	aml_name(a, "\\_S5_");
	aml_package_begin(a, 4);
	aml_int(a, PM_SLP_TYP_S5);
	aml_int(a, PM_SLP_TYP_S5);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a);
	aml_scope_begin(a, "\\_SB_");
	add_device(a, "COM1", "PNP0501", PORT_COM1, 8, IRQ_COM1);
	add_device(a, "RTC_", "PNP0B00", PORT_RTC, 2, IRQ_RTC);
	if (pci_slots)
		add_pci(a, pci_slots);
	aml_end(a);
}

static gpa_t build_dsdt(struct layout *l, unsigned pci_slots)
{
	uint8_t code[2048], *t;
	struct aml a;

	aml_init(&a, code, sizeof(code));
	build_aml(&a, pci_slots);
	ASSERT(!a.depth && a.len <= a.cap);
	t = table(l, "DSDT", 2, HEADER_LEN + a.len);
	memcpy(t + HEADER_LEN, code, a.len);
	return finish(l, t);
}

static gpa_t build_facs(struct layout *l)
{
	uint8_t *t = room(l, FACS_LEN, 64);

	memcpy(t, "FACS", 4);
	put32(t + 4, FACS_LEN);
	t[32] = 2; /* version */
	return where(l, t);
}

static gpa_t build_fadt(struct layout *l, gpa_t facs, gpa_t dsdt)
{
	uint8_t *t = table(l, "FACP", 6, FADT_LEN);

	t[131] = 3; /* minor version: 6.3 */
	put32(t + 36, facs);
	put32(t + 40, dsdt);
	put64(t + 140, dsdt);
	t[45] = 4; /* enterprise server */
	put16(t + 46, IRQ_SCI);
	put32(t + 56, PORT_PM1A_EVT);
	put32(t + 64, PORT_PM1A_CNT);
	put32(t + 76, PORT_PM_TMR);
	t[88] = 4;
	t[89] = 2;
	t[91] = 4;
	put16(t + 96, 0xfff); /* no C2, no C3 */
	put16(t + 98, 0xfff);
	t[108] = 0x32; /* century in the RTC */
	put16(t + 109, B_LEGACY | B_NO_VGA | B_NO_ASPM);
	put32(t + 112, F_WBINVD | F_PROC_C1 | F_PWR_BUTTON | F_SLP_BUTTON |
			       F_FIX_RTC | F_TMR_VAL_EXT | F_RESET_REG);
	gas_io(t + 116, PORT_RESET, 1);
	t[128] = RESET_VALUE;
	gas_io(t + 148, PORT_PM1A_EVT, 4);
	gas_io(t + 172, PORT_PM1A_CNT, 2);
	gas_io(t + 208, PORT_PM_TMR, 4);
	memcpy(t + 268, "SARDINE ", 8); /* hypervisor */
	return finish(l, t);
}

/* 5.2.12.5: a legacy line that is not what ISA lines are. */
static uint8_t * override(uint8_t *e, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	e[0] = 2;
	e[1] = 10;
	e[2] = 0; /* ISA */
	e[3] = irq;
	put32(e + 4, gsi);
	put16(e + 8, flags);
	return e + 10;
}

static gpa_t build_madt(struct layout *l)
{
	uint8_t *t = table(l, "APIC", 5, HEADER_LEN + 8 + 8 + 12 + 2 * 10 + 6);
	uint8_t *e = t + HEADER_LEN + 8;

	put32(t + 36, LAPIC_BASE);
	put32(t + 40, MADT_PCAT_COMPAT);
	e[0] = 0; /* local APIC */
	e[1] = 8;
	e[2] = 0; /* processor UID */
	e[3] = LAPIC_ID_BSP;
	put32(e + 4, 1); /* enabled */
	e += 8;
	e[0] = 1; /* I/O APIC */
	e[1] = 12;
	e[2] = IOAPIC_ID;
	put32(e + 4, IOAPIC_BASE);
	put32(e + 8, 0); /* first GSI */
	e += 12;
	e = override(e, IRQ_PIT, GSI_PIT, 0);
	e = override(e, IRQ_SCI, IRQ_SCI, 0x000d); /* high, level */
	e[0] = 4;				   /* NMI on LINT1 of all */
	e[1] = 6;
	e[2] = 0xff;
	e[5] = 1;
	return finish(l, t);
}

static gpa_t build_waet(struct layout *l)
{
	uint8_t *t = table(l, "WAET", 1, HEADER_LEN + 4);

	put32(t + 36, WAET_RTC_GOOD | WAET_PM_TMR_GOOD);
	return finish(l, t);
}

static void build_rsdp(struct layout *l, uint8_t *p, gpa_t rsdt, gpa_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "SARDIN", 6);
	p[15] = 2;
	put32(p + 16, rsdt);
	put32(p + 20, RSDP_LEN);
	put64(p + 24, xsdt);
	p[8] = -sum(p, 20);
	p[32] = -sum(p, RSDP_LEN);
}

size_t acpi_layout(uint8_t *buf, gpa_t base, unsigned pci_slots)
{
	struct layout l = {buf, base, 0};
	uint8_t *rsdp = room(&l, RSDP_LEN, 16);
	uint8_t *rsdt = table(&l, "RSDT", 1, HEADER_LEN + 3 * 4);
	uint8_t *xsdt = table(&l, "XSDT", 1, HEADER_LEN + 3 * 8);
	gpa_t facs = build_facs(&l), dsdt = build_dsdt(&l, pci_slots);
	const gpa_t tables[] = {
		build_fadt(&l, facs, dsdt),
		build_madt(&l),
		build_waet(&l),
	};

	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
		put32(rsdt + HEADER_LEN + 4 * i, tables[i]);
		put64(xsdt + HEADER_LEN + 8 * i, tables[i]);
	}
	build_rsdp(&l, rsdp, finish(&l, rsdt), finish(&l, xsdt));
	return l.len;
}

int acpi_build(struct p2m *p, unsigned pci_slots, gpa_t *rsdp)
{
	uint8_t buf[ACPI_MAX_SIZE];
	size_t n = acpi_layout(buf, ACPI_BASE, pci_slots);

	*rsdp = ACPI_BASE;
	return p2m_copy_in(p, ACPI_BASE, buf, n);
}
