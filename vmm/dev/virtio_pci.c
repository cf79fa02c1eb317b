/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI transport.
 *
 * All structures are in an I/O BAR: a port access is a call from translated
 * code (0.35 us), a memory-mapped register is a host fault (5 us). Drivers must
 * take either (4.1.4); Linux does. BAR 0, 256 ports:
 *
 *	0x00  common configuration	4.1.4.3
 *	0x40  ISR status		4.1.4.5
 *	0x44  notification, one address for all queues (multiplier 0)
 *	0x60  device configuration
 *
 * MSI-X has its table in BAR 1, which is memory as PCI wants it; the guest
 * writes it when it sets up or moves an interrupt.
 *
 * Writes that make no sense (a vector beyond the table, a queue that is
 * enabled already) are ignored or read back as 0xffff, as the standard says.
 */
#include "vmm/dev/virtio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_VENDOR	   0x1af4
#define VIRTIO_DEVICE_BASE 0x1040
#define NO_VECTOR	   0xffff

#define BAR_IO		   0
#define BAR_MSIX	   1
#define IO_SIZE		   0x100
#define AT_COMMON	   0x00
#define AT_ISR		   0x40
#define AT_NOTIFY	   0x44
#define AT_DEVICE	   0x60

/* cfg_type */
#define CAP_COMMON	   1
#define CAP_NOTIFY	   2
#define CAP_ISR		   3
#define CAP_DEVICE	   4
#define CAP_PCI		   5

/* Offsets in the common configuration */
#define C_DEVICE_SELECT	   0
#define C_DEVICE_FEATURES  4
#define C_DRIVER_SELECT	   8
#define C_DRIVER_FEATURES  12
#define C_CONFIG_VECTOR	   16
#define C_NUM_QUEUES	   18
#define C_STATUS	   20
#define C_GENERATION	   21
#define C_QUEUE_SELECT	   22
#define C_QUEUE_SIZE	   24
#define C_QUEUE_VECTOR	   26
#define C_QUEUE_ENABLE	   28
#define C_QUEUE_NOTIFY_OFF 30
#define C_QUEUE_DESC	   32
#define C_QUEUE_DRIVER	   40
#define C_QUEUE_DEVICE	   48
#define C_LEN		   56

#define ISR_QUEUE	   1
#define ISR_CONFIG	   2

struct virtio_pci {
	struct pci_dev pci; /* first */
	struct virtio_dev *d;
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	uint8_t isr;
	uint8_t cap_pci; /* offset of the access capability */
};

/* ---- interrupts ---- */

static void raise(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&p->pci)) {
		pci_msix_raise(&p->pci, vector);
		return;
	}
	p->isr |= isr;
	pci_set_intx(&p->pci, true);
}

static void irq_queue(void *ctx, struct virtq *q)
{
	raise(ctx, q->vector, ISR_QUEUE);
}

static void irq_config(void *ctx)
{
	struct virtio_pci *p = ctx;

	raise(p, p->config_vector, ISR_QUEUE | ISR_CONFIG);
}

static uint8_t isr_read(struct virtio_pci *p)
{
	uint8_t isr = p->isr;

	p->isr = 0;
	pci_set_intx(&p->pci, false);
	return isr;
}

/* ---- common configuration ---- */

static struct virtq *selected(struct virtio_pci *p)
{
	return p->queue_select < p->d->n_queues ? &p->d->vq[p->queue_select]
						: NULL;
}

/* The registers as they read now. */
static void common_image(struct virtio_pci *p, uint8_t r[C_LEN])
{
	struct virtio_dev *d = p->d;
	struct virtq *q = selected(p);
	uint32_t offered = 0, agreed = 0;
	uint16_t n = d->n_queues, enable = q && q->ready;

	if (p->device_select < 2)
		offered = d->offered >> 32 * p->device_select;
	if (p->driver_select < 2)
		agreed = d->features >> 32 * p->driver_select;
	memset(r, 0, C_LEN);
	memcpy(r + C_DEVICE_SELECT, &p->device_select, 4);
	memcpy(r + C_DEVICE_FEATURES, &offered, 4);
	memcpy(r + C_DRIVER_SELECT, &p->driver_select, 4);
	memcpy(r + C_DRIVER_FEATURES, &agreed, 4);
	memcpy(r + C_CONFIG_VECTOR, &p->config_vector, 2);
	memcpy(r + C_NUM_QUEUES, &n, 2);
	r[C_STATUS] = d->status;
	r[C_GENERATION] = d->config_gen;
	memcpy(r + C_QUEUE_SELECT, &p->queue_select, 2);
	if (!q)
		return;
	memcpy(r + C_QUEUE_SIZE, &q->size, 2);
	memcpy(r + C_QUEUE_VECTOR, &q->vector, 2);
	memcpy(r + C_QUEUE_ENABLE, &enable, 2);
	memcpy(r + C_QUEUE_DESC, &q->desc, 8);
	memcpy(r + C_QUEUE_DRIVER, &q->avail, 8);
	memcpy(r + C_QUEUE_DEVICE, &q->used, 8);
}

static uint64_t common_read(struct virtio_pci *p, unsigned off, unsigned len)
{
	uint8_t r[C_LEN];
	uint64_t v = 0;

	if (off + len > C_LEN)
		return 0;
	common_image(p, r);
	memcpy(&v, r + off, len);
	return v;
}

static uint16_t valid_vector(struct virtio_pci *p, uint16_t v)
{
	return v < p->pci.n_msix ? v : NO_VECTOR;
}

/* [off, off+len) of a 64-bit ring address. */
static void set_addr(gpa_t *a, unsigned off, unsigned len, uint64_t val)
{
	if (off + len <= 8)
		memcpy((char *)a + off, &val, len);
}

static void write_queue(struct virtio_pci *p, unsigned off, unsigned len,
			uint64_t val)
{
	struct virtq *q = selected(p);

	if (!q || p->d->status & VIRTIO_S_NEEDS_RESET)
		return;
	if (off == C_QUEUE_VECTOR)
		q->vector = valid_vector(p, val);
	if (q->ready)
		return;
	switch (off) {
	case C_QUEUE_SIZE:
		q->size = val;
		return;
	case C_QUEUE_ENABLE:
		if (val == 1)
			(void)virtq_enable(q);
		return;
	}
	if (off >= C_QUEUE_DEVICE)
		set_addr(&q->used, off - C_QUEUE_DEVICE, len, val);
	else if (off >= C_QUEUE_DRIVER)
		set_addr(&q->avail, off - C_QUEUE_DRIVER, len, val);
	else if (off >= C_QUEUE_DESC)
		set_addr(&q->desc, off - C_QUEUE_DESC, len, val);
}

static void write_features(struct virtio_pci *p, uint64_t val)
{
	struct virtio_dev *d = p->d;
	unsigned shift = 32 * p->driver_select;

	if (p->driver_select > 1 || d->status & VIRTIO_S_FEATURES_OK)
		return;
	d->features = (d->features & ~(0xffffffffull << shift)) |
		      (val & 0xffffffff) << shift;
}

static void write_status(struct virtio_pci *p, uint8_t val)
{
	virtio_set_status(p->d, val);
	if (val)
		return;
	p->config_vector = NO_VECTOR;
	p->device_select = p->driver_select = p->queue_select = 0;
	(void)isr_read(p);
}

static void common_write(struct virtio_pci *p, unsigned off, unsigned len,
			 uint64_t val)
{
	switch (off) {
	case C_DEVICE_SELECT:
		p->device_select = val;
		return;
	case C_DRIVER_SELECT:
		p->driver_select = val;
		return;
	case C_DRIVER_FEATURES:
		write_features(p, val);
		return;
	case C_CONFIG_VECTOR:
		p->config_vector = valid_vector(p, val);
		return;
	case C_STATUS:
		write_status(p, val);
		return;
	case C_QUEUE_SELECT:
		p->queue_select = val;
		return;
	}
	if (off >= C_QUEUE_SIZE)
		write_queue(p, off, len, val);
}

/* ---- the I/O BAR ---- */

static uint64_t io_read(void *ctx, uint64_t off, unsigned len)
{
	struct virtio_pci *p = ctx;

	if (off >= AT_DEVICE)
		return virtio_config_read(p->d, off - AT_DEVICE, len);
	if (off < C_LEN)
		return common_read(p, off, len);
	return off == AT_ISR ? isr_read(p) : 0;
}

static void io_write(void *ctx, uint64_t off, unsigned len, uint64_t val)
{
	struct virtio_pci *p = ctx;

	if (off == AT_NOTIFY)
		virtio_kick(p->d, val & 0xffff);
	else if (off >= AT_DEVICE)
		virtio_config_write(p->d, off - AT_DEVICE, len, val);
	else if (off < C_LEN)
		common_write(p, off, len, val);
}

static const struct bus_ops io_ops = {io_read, io_write};

/* ---- the window in configuration space (4.1.4.9) ---- */

#define W_BAR	 4
#define W_OFFSET 8
#define W_LENGTH 12
#define W_DATA	 16

/* Where the window points, if it points at something: the offset, or -1. */
static int window_at(struct virtio_pci *p, unsigned *len)
{
	uint32_t off = pci_get32(&p->pci, p->cap_pci + W_OFFSET);

	*len = pci_get32(&p->pci, p->cap_pci + W_LENGTH);
	if (p->pci.cfg[p->cap_pci + W_BAR] != BAR_IO ||
	    (*len != 1 && *len != 2 && *len != 4) || off > IO_SIZE - *len)
		return -1;
	return off;
}

static bool window_hit(struct virtio_pci *p, unsigned off, unsigned len)
{
	unsigned at = p->cap_pci + W_DATA;

	return off < at + 4 && at < off + len;
}

static void cfg_read(struct pci_dev *pci, unsigned off, unsigned len)
{
	struct virtio_pci *p = container_of(pci, struct virtio_pci, pci);
	unsigned n;
	int at;

	if (!window_hit(p, off, len))
		return;
	at = window_at(p, &n);
	if (at >= 0)
		pci_put32(pci, p->cap_pci + W_DATA, io_read(p, at, n));
}

static void cfg_written(struct pci_dev *pci, unsigned off, unsigned len)
{
	struct virtio_pci *p = container_of(pci, struct virtio_pci, pci);
	unsigned n;
	int at;

	if (!window_hit(p, off, len))
		return;
	at = window_at(p, &n);
	if (at >= 0)
		io_write(p, at, n,
			 pci_get32(pci, p->cap_pci + W_DATA) &
				 (~0u >> (32 - 8 * n)));
}

/* ---- building ---- */

static uint8_t add_cap(struct virtio_pci *p, uint8_t type, uint8_t len,
		       uint32_t off, uint32_t size)
{
	uint8_t at = pci_add_cap(&p->pci, PCI_CAP_VENDOR, len);

	p->pci.cfg[at + 2] = len;
	p->pci.cfg[at + 3] = type;
	p->pci.cfg[at + 4] = BAR_IO;
	pci_put32(&p->pci, at + 8, off);
	pci_put32(&p->pci, at + 12, size);
	return at;
}

static void pci_reset_hook(struct pci_dev *pci)
{
	struct virtio_pci *p = container_of(pci, struct virtio_pci, pci);

	write_status(p, 0);
}

int virtio_pci_create(struct pci_bus *b, struct virtio_dev *d,
		      struct virtio_pci **out)
{
	struct virtio_pci *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->d = d;
	p->config_vector = NO_VECTOR;
	pci_dev_init(&p->pci, d->name, VIRTIO_VENDOR,
		     VIRTIO_DEVICE_BASE + d->ops->id, d->ops->class_code, 1);
	pci_set_bar(&p->pci, BAR_IO, IO_SIZE, true, &io_ops, p);
	add_cap(p, CAP_COMMON, 16, AT_COMMON, C_LEN);
	add_cap(p, CAP_ISR, 16, AT_ISR, 1);
	add_cap(p, CAP_NOTIFY, 20, AT_NOTIFY, 4); /* multiplier 0 */
	if (d->config_len)
		add_cap(p, CAP_DEVICE, 16, AT_DEVICE, d->config_len);
	p->cap_pci = add_cap(p, CAP_PCI, 20, 0, 0);
	p->pci.wmask[p->cap_pci + W_BAR] = 0xff;
	memset(p->pci.wmask + p->cap_pci + W_OFFSET, 0xff, 12);
	pci_add_msix(&p->pci, d->n_queues + 1, BAR_MSIX);
	p->pci.cfg_read = cfg_read;
	p->pci.cfg_written = cfg_written;
	p->pci.reset = pci_reset_hook;
	d->irq = (struct virtio_irq){irq_queue, irq_config, p};
	r = pci_add(b, &p->pci);
	if (r) {
		free(p);
		return r;
	}
	*out = p;
	return 0;
}

void virtio_pci_destroy(struct virtio_pci *p)
{
	free(p);
}
