/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOOT_ACPI_H
#define SARDINE_VMM_BOOT_ACPI_H
/* The firmware tables: what vmm/dev/platform.h says, in ACPI 6.3. */
#include "mm/p2m.h"

/* All tables fit in this much, from where acpi_build puts them. */
#define ACPI_BASE     0xe0000ull
#define ACPI_MAX_SIZE 0x2000u

/* Lay the tables out for being at base. pci_slots: slots of the PCI bus that
 * are in use, 0..n-1; 0: there is no PCI. Returns the bytes used; the RSDP is
 * the first. Pure; buf has ACPI_MAX_SIZE bytes. */
size_t acpi_layout(uint8_t *buf, gpa_t base, unsigned pci_slots);

/* Write the tables into guest memory at ACPI_BASE; *rsdp is where the RSDP is.
 * 0 or -errno of p2m_copy_in. */
int acpi_build(struct p2m *p, unsigned pci_slots, gpa_t *rsdp);
#endif
