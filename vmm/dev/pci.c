/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI bus.
 *
 * Configuration space is 256 bytes a device and a mask of what may be written:
 * no register has behaviour but the BARs (whose low bits are masked, which is
 * all that sizing needs), the command register and what devices hook.
 *
 * BARs move when the guest says so, but the two windows of the bus do not. So
 * the machine's buses know two ranges, and a table of the BARs that are decoded
 * now (`map`, made anew at each configuration write that may change it) says
 * who answers inside. BARs that overlap: the first slot wins, as undefined
 * as on a real bus, and harmless.
 *
 * INTA of slot n is wired to line n % 4, lines are ORed. A device whose MSI-X
 * is on does not drive it.
 */
#include "vmm/dev/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "vmm/dev/platform.h"

/* A host bridge that no driver claims or mends. */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

#define CMD_WRITABLE                                                           \
	(PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER | PCI_CMD_INTX_OFF)

struct mapping {
	uint32_t base, size;
	struct pci_bar *bar;
};

/* An address window and who is in it. */
struct window {
	uint32_t base, size;
	uint32_t next; /* firmware: the first free address */
	unsigned n, last;
	struct mapping map[PCI_SLOTS * PCI_BARS];
};

struct pci_bus {
	struct pci_bus_config cfg;
	struct pci_dev *slot[PCI_SLOTS];
	unsigned n;
	struct pci_dev bridge;
	struct window io, mem;
	bool line[4];
};

/* ---- windows ---- */

static void window_add(struct window *w, const struct pci_dev *d, unsigned i,
		       uint32_t base)
{
	struct pci_bar *bar = (struct pci_bar *)&d->bar[i];

	if (base < w->base || base - w->base > w->size - bar->size)
		return; /* outside: nobody would ask us there */
	w->map[w->n++] = (struct mapping){base, bar->size, bar};
}

/* Work out anew who is decoded where. */
static void remap(struct pci_bus *b)
{
	b->io.n = b->mem.n = b->io.last = b->mem.last = 0;
	for (unsigned s = 0; s < b->n; s++) {
		struct pci_dev *d = b->slot[s];
		uint16_t cmd = pci_get16(d, PCI_COMMAND);

		for (unsigned i = 0; i < PCI_BARS; i++) {
			uint32_t v = pci_get32(d, PCI_BAR0 + 4 * i);

			if (!d->bar[i].size)
				continue;
			if (d->bar[i].io && cmd & PCI_CMD_IO)
				window_add(&b->io, d, i, v & ~3u);
			else if (!d->bar[i].io && cmd & PCI_CMD_MEM)
				window_add(&b->mem, d, i, v & ~15u);
		}
	}
}

static struct mapping *window_find(struct window *w, uint32_t addr,
				   unsigned len)
{
	struct mapping *m = &w->map[w->last];

	if (w->last < w->n && addr - m->base < m->size &&
	    m->size - (addr - m->base) >= len)
		return m;
	for (unsigned i = 0; i < w->n; i++) {
		m = &w->map[i];
		if (addr - m->base >= m->size)
			continue;
		w->last = i;
		return m->size - (addr - m->base) >= len ? m : NULL;
	}
	return NULL;
}

static uint64_t window_read(void *dev, uint64_t off, unsigned len)
{
	struct window *w = dev;
	struct mapping *m = window_find(w, w->base + off, len);

	if (!m || !m->bar->ops->read)
		return ~0ull;
	return m->bar->ops->read(m->bar->ctx, w->base + off - m->base, len);
}

static void window_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct window *w = dev;
	struct mapping *m = window_find(w, w->base + off, len);

	if (m && m->bar->ops->write)
		m->bar->ops->write(m->bar->ctx, w->base + off - m->base, len,
				   val);
}

static const struct bus_ops window_ops = {window_read, window_write};

int pci_bus_attach(struct pci_bus *b, struct bus *pio, struct bus *mmio)
{
	int err = bus_add(pio, "pci-io", b->io.base, b->io.size, &window_ops,
			  &b->io);

	if (!err)
		err = bus_add(mmio, "pci-mem", b->mem.base, b->mem.size,
			      &window_ops, &b->mem);
	return err;
}

/* ---- interrupts ---- */

bool pci_msix_enabled(const struct pci_dev *d)
{
	return d->n_msix && pci_get16(d, d->msix_cap + 2) & 0x8000;
}

static bool function_masked(const struct pci_dev *d)
{
	return pci_get16(d, d->msix_cap + 2) & 0x4000;
}

/* SDM vol. 3, 11.11: the address is 0xfee, destination, RH, DM. */
static void msix_send(struct pci_dev *d, const struct msix_entry *e)
{
	const struct pci_bus_config *c = &d->bus->cfg;
	struct apic_msg m = {
		.vector = e->data & 0xff,
		.mode = e->data >> 8 & 7,
		.dest = e->addr >> 12 & 0xff,
		.logical = e->addr & 4,
		.level = e->data & 0x8000,
	};

	if (e->addr >> 20 != LAPIC_BASE >> 20)
		return; /* to memory: nobody does that */
	c->msi.send(c->msi.ctx, &m);
}

void pci_msix_raise(struct pci_dev *d, unsigned n)
{
	if (n >= d->n_msix || !pci_msix_enabled(d))
		return;
	if (d->msix[n].control & 1 || function_masked(d))
		d->msix_pending |= 1u << n;
	else
		msix_send(d, &d->msix[n]);
}

static void msix_flush(struct pci_dev *d)
{
	if (!pci_msix_enabled(d) || function_masked(d))
		return;
	for (unsigned n = 0; n < d->n_msix; n++) {
		if (!(d->msix_pending & 1u << n) || d->msix[n].control & 1)
			continue;
		d->msix_pending &= ~(1u << n);
		msix_send(d, &d->msix[n]);
	}
}

static void intx_update(struct pci_dev *d)
{
	struct pci_bus *b = d->bus;
	unsigned line = d->slot % 4;
	bool level = false;

	if (d->intx)
		d->cfg[PCI_STATUS] |= PCI_STS_INTX;
	else
		d->cfg[PCI_STATUS] &= ~PCI_STS_INTX;
	for (unsigned s = line; s < b->n; s += 4) {
		struct pci_dev *o = b->slot[s];

		level |= o->intx && !pci_msix_enabled(o) &&
			 !(pci_get16(o, PCI_COMMAND) & PCI_CMD_INTX_OFF);
	}
	if (level == b->line[line])
		return;
	b->line[line] = level;
	irq_set(&b->cfg.intx[line], level);
}

void pci_set_intx(struct pci_dev *d, bool level)
{
	if (d->intx == level)
		return;
	d->intx = level;
	intx_update(d);
}

/* The table: 16 bytes a vector; the pending bits at 0x800. */
#define PBA_OFFSET 0x800

static uint64_t msix_read(void *ctx, uint64_t off, unsigned len)
{
	struct pci_dev *d = ctx;
	uint64_t v = 0;

	if (off & (len - 1))
		return 0;
	if (off / 16 < d->n_msix)
		memcpy(&v, (char *)d->msix + off, len);
	else if (off >= PBA_OFFSET && off < PBA_OFFSET + 8)
		v = (uint64_t)d->msix_pending >> 8 * (off - PBA_OFFSET);
	return v;
}

static void msix_write(void *ctx, uint64_t off, unsigned len, uint64_t val)
{
	struct pci_dev *d = ctx;

	if (off & (len - 1) || len < 4 || off / 16 >= d->n_msix)
		return;
	memcpy((char *)d->msix + off, &val, len);
	d->msix[off / 16].addr &= ~3ull;
	d->msix[off / 16].control &= 1;
	msix_flush(d);
}

static const struct bus_ops msix_ops = {msix_read, msix_write};

/* ---- configuration ---- */

static struct pci_dev *config_target(struct pci_bus *b, uint32_t addr)
{
	unsigned slot = addr >> 11 & 31;

	/* Bus 0, function 0 */
	if (!(addr >> 31) || addr >> 16 & 0xff || addr >> 8 & 7)
		return NULL;
	return slot < b->n ? b->slot[slot] : NULL;
}

uint32_t pci_config_read(struct pci_bus *b, uint32_t addr, unsigned len)
{
	struct pci_dev *d = config_target(b, addr);
	unsigned off = addr & 0xff;
	uint32_t v = 0;

	if (!d || len > 4 || off + len > PCI_CONFIG_SIZE)
		return ~0u;
	if (d->cfg_read)
		d->cfg_read(d, off, len);
	memcpy(&v, d->cfg + off, len);
	return v;
}

static bool touches(unsigned off, unsigned len, unsigned reg, unsigned n)
{
	return off < reg + n && reg < off + len;
}

void pci_config_write(struct pci_bus *b, uint32_t addr, unsigned len,
		      uint32_t val)
{
	struct pci_dev *d = config_target(b, addr);
	unsigned off = addr & 0xff;

	if (!d || len > 4 || off + len > PCI_CONFIG_SIZE)
		return;
	for (unsigned i = 0; i < len; i++) {
		uint8_t in = val >> (8 * i), m = d->wmask[off + i];

		d->cfg[off + i] = (d->cfg[off + i] & ~m) | (in & m);
	}
	if (touches(off, len, PCI_COMMAND, 2) ||
	    touches(off, len, PCI_BAR0, 4 * PCI_BARS))
		remap(b);
	if (d->n_msix && touches(off, len, d->msix_cap + 2, 2))
		msix_flush(d);
	intx_update(d);
	if (d->cfg_written)
		d->cfg_written(d, off, len);
}

/* ---- building a device ---- */

void pci_dev_init(struct pci_dev *d, const char *name, uint16_t vendor,
		  uint16_t device, uint32_t class_code, uint8_t revision)
{
	d->name = name;
	pci_put16(d, PCI_VENDOR, vendor);
	pci_put16(d, PCI_DEVICE, device);
	pci_put32(d, PCI_REVISION, class_code << 8 | revision);
	pci_put16(d, PCI_SUBVENDOR, vendor);
	pci_put16(d, PCI_SUBDEVICE, device);
	d->wmask[PCI_COMMAND] = CMD_WRITABLE & 0xff;
	d->wmask[PCI_COMMAND + 1] = CMD_WRITABLE >> 8;
	d->wmask[PCI_INT_LINE] = 0xff;
	d->cap_end = PCI_FIRST_CAP;
}

void pci_set_bar(struct pci_dev *d, unsigned n, uint32_t size, bool io,
		 const struct bus_ops *ops, void *ctx)
{
	uint32_t mask = ~(size - 1);

	ASSERT(size && !(size & (size - 1)) && size >= (io ? 4 : 16));
	d->bar[n] = (struct pci_bar){size, io, ops, ctx};
	memcpy(d->wmask + PCI_BAR0 + 4 * n, &mask, 4);
}

uint8_t pci_add_cap(struct pci_dev *d, uint8_t id, uint8_t len)
{
	uint8_t at = d->cap_end;

	ASSERT(at + len <= PCI_CONFIG_SIZE);
	d->cfg[d->cap_last ? d->cap_last + 1 : PCI_CAP_PTR] = at;
	d->cfg[PCI_STATUS] |= PCI_STS_CAPS;
	d->cfg[at] = id;
	d->cap_last = at;
	d->cap_end = (at + len + 3) & ~3;
	return at;
}

void pci_add_msix(struct pci_dev *d, unsigned n, unsigned bar)
{
	uint8_t at = pci_add_cap(d, PCI_CAP_MSIX, 12);

	ASSERT(n && n <= PCI_MSIX_MAX);
	d->msix_cap = at;
	d->n_msix = n;
	pci_put16(d, at + 2, n - 1);
	d->wmask[at + 3] = 0xc0; /* enable, function mask */
	pci_put32(d, at + 4, bar);
	pci_put32(d, at + 8, PBA_OFFSET | bar);
	pci_set_bar(d, bar, PAGE_SIZE, false, &msix_ops, d);
}

/* ---- the bus ---- */

/* The next address in w for size bytes; 0: none. */
static uint32_t window_place(struct window *w, uint32_t size)
{
	uint32_t at = (w->next + size - 1) & ~(size - 1);

	if (at - w->base > w->size - size)
		return 0;
	w->next = at + size;
	return at;
}

int pci_add(struct pci_bus *b, struct pci_dev *d)
{
	if (b->n == PCI_SLOTS)
		return -ENOSPC;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &d->bar[i];
		uint32_t at;

		if (!bar->size)
			continue;
		at = window_place(bar->io ? &b->io : &b->mem, bar->size);
		if (!at)
			return -ENOSPC;
		pci_put32(d, PCI_BAR0 + 4 * i, at | bar->io);
	}
	d->bus = b;
	d->slot = b->n;
	if (d->slot)
		d->cfg[PCI_INT_PIN] = 1;
	b->slot[b->n++] = d;
	return 0;
}

static void reset_dev(struct pci_bus *b, struct pci_dev *d)
{
	if (d->reset)
		d->reset(d);
	d->intx = false;
	d->msix_pending = 0;
	for (unsigned i = 0; i < d->n_msix; i++)
		d->msix[i] = (struct msix_entry){.control = 1};
	if (d->n_msix)
		d->cfg[d->msix_cap + 3] &= 0x3f;
	pci_put16(d, PCI_COMMAND, 0);
	d->cfg[PCI_INT_LINE] = d->slot ? GSI_PCI + d->slot % 4 : 0;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &d->bar[i];

		if (bar->size)
			pci_put32(d, PCI_BAR0 + 4 * i,
				  window_place(bar->io ? &b->io : &b->mem,
					       bar->size) |
					  bar->io);
	}
	intx_update(d);
}

void pci_reset(struct pci_bus *b)
{
	b->io.next = b->io.base;
	b->mem.next = b->mem.base;
	for (unsigned s = 0; s < b->n; s++)
		reset_dev(b, b->slot[s]);
	remap(b);
}

unsigned pci_n_slots(const struct pci_bus *b)
{
	return b->n;
}

struct pci_bus *pci_bus_create(const struct pci_bus_config *cfg)
{
	struct pci_bus *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->cfg = *cfg;
	b->io.base = b->io.next = PORT_PCI_WINDOW;
	b->io.size = PORT_PCI_WINDOW_LEN;
	b->mem.base = b->mem.next = PCI_MMIO_BASE;
	b->mem.size = PCI_MMIO_LEN;
	pci_dev_init(&b->bridge, "host-bridge", BRIDGE_VENDOR, BRIDGE_DEVICE,
		     BRIDGE_CLASS, 0);
	(void)pci_add(b, &b->bridge);
	return b;
}

void pci_bus_destroy(struct pci_bus *b)
{
	free(b);
}
