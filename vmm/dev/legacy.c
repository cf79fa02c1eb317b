/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042: status reads 0xfd, all ones but "input buffer full". A driver's probe
 * drains what seems to be a never-ending output buffer and gives up within a
 * millisecond; a reset through 0x64 waits for the input buffer, and goes on at
 * once.
 *
 * PCI: the address register at 0xcf8 keeps what is written (that is how
 * mechanism 1 is found). The data register leads to the bus, if there is one;
 * else every configuration read answers all ones.
 *
 * A20 is always open; port 0x92 remembers its bit.
 */
#include "vmm/dev/legacy.h"

#include <stdlib.h>

#include "vmm/dev/pci.h"
#include "vmm/dev/platform.h"

#define PORT_I8042_DATA 0x60
#define PORT_POST	0x80
#define PORT_SYS_CTRL_A 0x92
#define PCI_ENABLE	0x80000000u
#define I8042_STATUS	0xfd
#define I8042_PULSE_RST 0xfe
#define CF9_RESET	0x04

struct legacy {
	struct power_sink power;
	bool debug_exit;
	uint32_t pci_address;
	struct pci_bus *pci;
	uint8_t cf9, sys_ctrl_a, post;
};

static void legacy_request_reset(struct legacy *d)
{
	d->power.request(d->power.ctx, POWER_RESET, 0);
}

static uint64_t i8042_read(void *dev, uint64_t off, unsigned len)
{
	return I8042_STATUS;
}

static void i8042_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	if ((val & 0xff) == I8042_PULSE_RST)
		legacy_request_reset(dev);
}

static uint64_t i8042_data_read(void *dev, uint64_t off, unsigned len)
{
	return 0xff;
}

static uint64_t sys_ctrl_a_read(void *dev, uint64_t off, unsigned len)
{
	return ((struct legacy *)dev)->sys_ctrl_a;
}

static void sys_ctrl_a_write(void *dev, uint64_t off, unsigned len,
			     uint64_t val)
{
	struct legacy *d = dev;

	d->sys_ctrl_a = val & 2;
	if (val & 1)
		legacy_request_reset(d);
}

static uint64_t post_read(void *dev, uint64_t off, unsigned len)
{
	return ((struct legacy *)dev)->post;
}

static void post_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	((struct legacy *)dev)->post = val;
}

/* 0xcf8..0xcff; the byte at 0xcf9 is the reset control register. */
static uint64_t pci_read(void *dev, uint64_t off, unsigned len)
{
	struct legacy *d = dev;

	if (off == 0 && len == 4)
		return d->pci_address;
	if (off == PORT_RESET - PORT_PCI_CONFIG && len == 1)
		return d->cf9;
	if (off >= 4 && d->pci)
		return pci_config_read(d->pci, d->pci_address + off - 4, len);
	return ~0ull;
}

static void pci_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct legacy *d = dev;

	if (off == 0 && len == 4) {
		d->pci_address = val & (PCI_ENABLE | 0x00fffffc);
	} else if (off == PORT_RESET - PORT_PCI_CONFIG && len == 1) {
		if (val & CF9_RESET)
			legacy_request_reset(d);
		d->cf9 = val & ~CF9_RESET;
	} else if (off >= 4 && d->pci) {
		pci_config_write(d->pci, d->pci_address + off - 4, len, val);
	}
}

static void debug_exit_write(void *dev, uint64_t off, unsigned len,
			     uint64_t val)
{
	struct legacy *d = dev;

	if (off == 0)
		d->power.request(d->power.ctx, POWER_DEBUG_EXIT,
				 (int)((uint32_t)val << 1 | 1));
}

static const struct {
	const char *name;
	uint16_t port, n;
	struct bus_ops ops;
} ports[] = {
	{"i8042-data", PORT_I8042_DATA, 1, {i8042_data_read, NULL}},
	{"i8042", PORT_I8042_CMD, 1, {i8042_read, i8042_write}},
	{"post", PORT_POST, 1, {post_read, post_write}},
	{"sys-ctrl-a", PORT_SYS_CTRL_A, 1, {sys_ctrl_a_read, sys_ctrl_a_write}},
	{"pci-config", PORT_PCI_CONFIG, 8, {pci_read, pci_write}},
	{"debug-exit", PORT_DEBUG_EXIT, 4, {NULL, debug_exit_write}},
};

void legacy_set_pci(struct legacy *d, struct pci_bus *pci)
{
	d->pci = pci;
}

int legacy_attach(struct legacy *d, struct bus *pio)
{
	size_t i;
	int err = 0;

	for (i = 0; i < ARRAY_SIZE(ports) && !err; i++) {
		if (ports[i].port == PORT_DEBUG_EXIT && !d->debug_exit)
			continue;
		err = bus_add(pio, ports[i].name, ports[i].port, ports[i].n,
			      &ports[i].ops, d);
	}
	return err;
}

void legacy_reset(struct legacy *d)
{
	d->pci_address = 0;
	d->cf9 = d->post = 0;
	d->sys_ctrl_a = 2;
}

struct legacy *legacy_create(struct power_sink power, bool debug_exit)
{
	struct legacy *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->power = power;
	d->debug_exit = debug_exit;
	legacy_reset(d);
	return d;
}

void legacy_destroy(struct legacy *d)
{
	free(d);
}
