/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_PCI_H
#define SARDINE_VMM_DEV_PCI_H
/*
 * PCI (PCI Local Bus 3.0): one bus behind a host bridge, configuration by
 * mechanism 1, one function a device, memory and I/O BARs of 32 bits, MSI-X
 * and INTA.
 *
 * A device embeds a struct pci_dev, fills it with the pci_* functions below,
 * and is added to the bus. Firmware's part (addresses of the BARs) is done by
 * pci_reset. All calls and callbacks are under the device lock.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/ioapic.h"
#include "vmm/dev/irq.h"

#define PCI_SLOTS	 32 /* slot 0 is the host bridge */
#define PCI_BARS	 6
#define PCI_CONFIG_SIZE	 256
#define PCI_MSIX_MAX	 32 /* vectors of a device */

/* Offsets in configuration space (6.1) */
#define PCI_VENDOR	 0x00
#define PCI_DEVICE	 0x02
#define PCI_COMMAND	 0x04
#define PCI_STATUS	 0x06
#define PCI_REVISION	 0x08
#define PCI_CLASS	 0x09 /* 3 bytes: interface, subclass, class */
#define PCI_BAR0	 0x10
#define PCI_SUBVENDOR	 0x2c
#define PCI_SUBDEVICE	 0x2e
#define PCI_CAP_PTR	 0x34
#define PCI_INT_LINE	 0x3c
#define PCI_INT_PIN	 0x3d
#define PCI_FIRST_CAP	 0x40

#define PCI_CMD_IO	 0x0001
#define PCI_CMD_MEM	 0x0002
#define PCI_CMD_MASTER	 0x0004
#define PCI_CMD_INTX_OFF 0x0400
#define PCI_STS_INTX	 0x0008
#define PCI_STS_CAPS	 0x0010
#define PCI_CAP_VENDOR	 0x09
#define PCI_CAP_MSIX	 0x11

struct pci_bus;
struct pci_dev;

struct pci_bar {
	uint32_t size; /* a power of two; 0: there is none */
	bool io;
	const struct bus_ops *ops; /* off is relative to the BAR */
	void *ctx;
};

struct msix_entry {
	uint64_t addr;
	uint32_t data, control; /* control bit 0: masked */
};

struct pci_dev {
	const char *name;
	struct pci_bus *bus;
	unsigned slot;
	uint8_t cfg[PCI_CONFIG_SIZE];
	uint8_t wmask[PCI_CONFIG_SIZE]; /* bits that the guest may write */
	struct pci_bar bar[PCI_BARS];
	uint8_t cap_end, cap_last; /* where the next capability goes */
	bool intx;		   /* asserted by the device */
	/* MSI-X; n_msix 0: none */
	unsigned n_msix;
	uint8_t msix_cap;
	uint32_t msix_pending; /* a bit a vector */
	struct msix_entry msix[PCI_MSIX_MAX];
	/* May be NULL. Before a read and after a write of [off, off+len) of
	 * configuration space; back to the state after reset. */
	void (*cfg_read)(struct pci_dev *d, unsigned off, unsigned len);
	void (*cfg_written)(struct pci_dev *d, unsigned off, unsigned len);
	void (*reset)(struct pci_dev *d);
};

struct pci_bus_config {
	struct apic_msg_sink msi; /* where MSI-X messages go */
	struct irq_line intx[4];  /* INTA of slot n goes to line n % 4 */
};

/* NULL: out of memory. The bus does not own its devices. */
struct pci_bus *pci_bus_create(const struct pci_bus_config *cfg);
void pci_bus_destroy(struct pci_bus *b);
/* The windows of PCI in both address spaces. 0 or -errno. */
int pci_bus_attach(struct pci_bus *b, struct bus *pio, struct bus *mmio);
/* Every device to its state after firmware: reset, BARs placed, decoding off
 * (an operating system turns it on). */
void pci_reset(struct pci_bus *b);
/* Slots in use, the host bridge included: 0..n-1. */
unsigned pci_n_slots(const struct pci_bus *b);

/* Configuration cycles: addr is what mechanism 1's address register holds
 * (bit 31 set) plus the byte offset in the data register. */
uint32_t pci_config_read(struct pci_bus *b, uint32_t addr, unsigned len);
void pci_config_write(struct pci_bus *b, uint32_t addr, unsigned len,
		      uint32_t val);

/* ---- for devices ---- */

/* Start a zeroed device. class_code: 24 bits, base class on top. */
void pci_dev_init(struct pci_dev *d, const char *name, uint16_t vendor,
		  uint16_t device, uint32_t class_code, uint8_t revision);
void pci_set_bar(struct pci_dev *d, unsigned n, uint32_t size, bool io,
		 const struct bus_ops *ops, void *ctx);
/* Append a capability of len bytes (header included); its offset. */
uint8_t pci_add_cap(struct pci_dev *d, uint8_t id, uint8_t len);
/* MSI-X with n vectors, table and pending bits in BAR bar (4 KiB). */
void pci_add_msix(struct pci_dev *d, unsigned n, unsigned bar);
/* The next free slot. 0, -ENOSPC: no slot, or no room in a window. */
int pci_add(struct pci_bus *b, struct pci_dev *d);

bool pci_msix_enabled(const struct pci_dev *d);
/* Send vector n, or note it as pending while it is masked. Beyond the table,
 * or with MSI-X off: nothing. */
void pci_msix_raise(struct pci_dev *d, unsigned n);
/* The level of INTA. Has no effect on the line while MSI-X is on or the
 * guest has it disabled. */
void pci_set_intx(struct pci_dev *d, bool level);

static inline uint16_t pci_get16(const struct pci_dev *d, unsigned off)
{
	uint16_t v;

	__builtin_memcpy(&v, d->cfg + off, 2);
	return v;
}
static inline uint32_t pci_get32(const struct pci_dev *d, unsigned off)
{
	uint32_t v;

	__builtin_memcpy(&v, d->cfg + off, 4);
	return v;
}
static inline void pci_put16(struct pci_dev *d, unsigned off, uint16_t v)
{
	__builtin_memcpy(d->cfg + off, &v, 2);
}
static inline void pci_put32(struct pci_dev *d, unsigned off, uint32_t v)
{
	__builtin_memcpy(d->cfg + off, &v, 4);
}
#endif
