/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_UNIT_VIRTIO_UTIL_H
#define SARDINE_TESTS_UNIT_VIRTIO_UTIL_H
/*
 * The driver's side of a virtio device, for tests: a machine of a p2m, two
 * buses and a PCI bus with one device on it, found and set up through its
 * configuration space as an operating system would do it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mm/p2m.h"
#include "vmm/dev/platform.h"
#include "vmm/dev/virtio_pci.h"

#define VD_RAM	   (4ull << 20)
#define VD_QUEUES  6
/* Where queue q's rings are: 64 KiB each, from 1 MiB on. */
#define VD_RING(q) (0x100000ull + 0x10000ull * (q))

struct vd_queue {
	unsigned n;
	gpa_t desc, avail, used;
	uint16_t avail_idx, used_seen;
};

struct vdrv {
	struct p2m *p2m;
	pthread_mutex_t lock, defer_lock;
	pthread_cond_t deferred;
	unsigned n_deferred;
	struct bus *pio, *mmio;
	struct pci_bus *bus;
	struct virtio_dev *d;
	struct virtio_pci *pci;
	unsigned slot;
	uint16_t io;	/* base of the I/O BAR */
	uint32_t table; /* base of the MSI-X table */
	/* offsets in the I/O BAR, as the capabilities say */
	uint16_t common, isr, notify, device;
	unsigned msis[256]; /* by vector */
	bool line[4];
	struct vd_queue q[VD_QUEUES];
};

static inline void vd_msi(void *ctx, const struct apic_msg *m)
{
	((struct vdrv *)ctx)->msis[m->vector]++;
}

static inline void vd_line(void *ctx, unsigned pin, bool level)
{
	((struct vdrv *)ctx)->line[pin] = level;
}

static inline void vd_defer(void *ctx, struct virtio_dev *d)
{
	struct vdrv *v = ctx;

	pthread_mutex_lock(&v->defer_lock);
	v->n_deferred++;
	pthread_cond_signal(&v->deferred);
	pthread_mutex_unlock(&v->defer_lock);
}

/* Turns that were asked for; how many. */
static inline unsigned vd_run(struct vdrv *v)
{
	unsigned turns = 0;

	for (;; turns++) {
		pthread_mutex_lock(&v->defer_lock);
		if (!v->n_deferred) {
			pthread_mutex_unlock(&v->defer_lock);
			return turns;
		}
		v->n_deferred--;
		pthread_mutex_unlock(&v->defer_lock);
		virtio_run(v->d);
	}
}

/* Wait until a turn was asked for, and take it. */
static inline void vd_wait(struct vdrv *v)
{
	pthread_mutex_lock(&v->defer_lock);
	while (!v->n_deferred)
		pthread_cond_wait(&v->deferred, &v->defer_lock);
	pthread_mutex_unlock(&v->defer_lock);
	vd_run(v);
}

static inline uint32_t vd_cfg_read(struct vdrv *v, unsigned off, unsigned len)
{
	return pci_config_read(v->bus, 0x80000000u | v->slot << 11 | off, len);
}

static inline void vd_cfg_write(struct vdrv *v, unsigned off, unsigned len,
				uint32_t val)
{
	pci_config_write(v->bus, 0x80000000u | v->slot << 11 | off, len, val);
}

static inline uint64_t vd_in(struct vdrv *v, unsigned off, unsigned len)
{
	return bus_read(v->pio, v->io + off, len);
}

static inline void vd_out(struct vdrv *v, unsigned off, unsigned len,
			  uint64_t val)
{
	bus_write(v->pio, v->io + off, len, val);
}

static inline void vd_machine(struct vdrv *v, struct virtio_host *h)
{
	struct p2m_config pc = {
		.ram_bytes = VD_RAM, .memfd = -1, .pool_fd = -1, .name = "t"};
	struct pci_bus_config c = {.msi = {vd_msi, v}};

	memset(v, 0, sizeof(*v));
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_init(&v->defer_lock, NULL);
	pthread_cond_init(&v->deferred, NULL);
	assert_int_equal(p2m_create(&pc, &v->p2m), 0);
	v->pio = bus_create("pio", &v->lock);
	v->mmio = bus_create("mmio", &v->lock);
	for (unsigned i = 0; i < 4; i++)
		c.intx[i] = (struct irq_line){vd_line, v, i};
	v->bus = pci_bus_create(&c);
	assert_int_equal(pci_bus_attach(v->bus, v->pio, v->mmio), 0);
	*h = (struct virtio_host){v->p2m, &v->lock, vd_defer, v};
}

/* Behind PCI with it, and find its parts. */
static inline void vd_plug(struct vdrv *v, struct virtio_dev *d)
{
	uint8_t cap;

	v->d = d;
	v->slot = pci_n_slots(v->bus);
	assert_int_equal(virtio_pci_create(v->bus, d, &v->pci), 0);
	pci_reset(v->bus);
	assert_int_equal(vd_cfg_read(v, PCI_VENDOR, 2), 0x1af4);
	assert_int_equal(vd_cfg_read(v, PCI_DEVICE, 2), 0x1040 + d->ops->id);
	v->io = vd_cfg_read(v, PCI_BAR0, 4) & ~3u;
	v->table = vd_cfg_read(v, PCI_BAR0 + 4, 4) & ~15u;
	vd_cfg_write(v, PCI_COMMAND, 2,
		     PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER);
	for (cap = vd_cfg_read(v, PCI_CAP_PTR, 1); cap;
	     cap = vd_cfg_read(v, cap + 1, 1)) {
		uint32_t off = vd_cfg_read(v, cap + 8, 4);

		if (vd_cfg_read(v, cap, 1) != PCI_CAP_VENDOR)
			continue;
		switch (vd_cfg_read(v, cap + 3, 1)) {
		case 1:
			v->common = off;
			break;
		case 2:
			v->notify = off;
			break;
		case 3:
			v->isr = off;
			break;
		case 4:
			v->device = off;
			break;
		}
	}
}

static inline void vd_unplug(struct vdrv *v)
{
	pthread_mutex_lock(&v->lock);
	virtio_reset(v->d);
	pthread_mutex_unlock(&v->lock);
	virtio_destroy(v->d);
	virtio_pci_destroy(v->pci);
	pci_bus_destroy(v->bus);
	bus_destroy(v->pio);
	bus_destroy(v->mmio);
	assert_int_equal(p2m_audit(v->p2m), 0);
	p2m_destroy(v->p2m);
}

static inline uint8_t vd_status(struct vdrv *v)
{
	return vd_in(v, v->common + 20, 1);
}

static inline uint64_t vd_offered(struct vdrv *v)
{
	uint64_t f;

	vd_out(v, v->common, 4, 0);
	f = vd_in(v, v->common + 4, 4);
	vd_out(v, v->common, 4, 1);
	return f | vd_in(v, v->common + 4, 4) << 32;
}

/* Reset, acknowledge, these features. False: not accepted. */
static inline bool vd_negotiate(struct vdrv *v, uint64_t features)
{
	vd_out(v, v->common + 20, 1, 0);
	assert_int_equal(vd_status(v), 0);
	vd_out(v, v->common + 20, 1, 1);
	vd_out(v, v->common + 20, 1, 3);
	for (unsigned i = 0; i < 2; i++) {
		vd_out(v, v->common + 8, 4, i);
		vd_out(v, v->common + 12, 4, features >> 32 * i);
	}
	vd_out(v, v->common + 20, 1, 11);
	memset(v->q, 0, sizeof(v->q));
	return vd_status(v) & VIRTIO_S_FEATURES_OK;
}

static inline void vd_zero(struct vdrv *v, gpa_t at, size_t n)
{
	void *z = calloc(1, n);

	assert_int_equal(p2m_copy_in(v->p2m, at, z, n), 0);
	free(z);
}

static inline void vd_set64(struct vdrv *v, unsigned off, uint64_t val)
{
	vd_out(v, v->common + off, 4, val);
	vd_out(v, v->common + off + 4, 4, val >> 32);
}

/* Queue i with n descriptors and MSI-X vector i + 1. */
static inline void vd_queue(struct vdrv *v, unsigned i, unsigned n)
{
	struct vd_queue *q = &v->q[i];

	*q = (struct vd_queue){.n = n,
			       .desc = VD_RING(i),
			       .avail = VD_RING(i) + 0x4000,
			       .used = VD_RING(i) + 0x8000};
	vd_zero(v, VD_RING(i), 0x10000);
	vd_out(v, v->common + 22, 2, i);
	vd_out(v, v->common + 24, 2, n);
	vd_out(v, v->common + 26, 2, i + 1);
	vd_set64(v, 32, q->desc);
	vd_set64(v, 40, q->avail);
	vd_set64(v, 48, q->used);
	vd_out(v, v->common + 28, 2, 1);
}

/* Vectors 0..: to the local APIC as vectors 0x40.. */
static inline void vd_msix_on(struct vdrv *v)
{
	uint8_t cap = v->d->n_queues ? ((struct pci_dev *)v->pci)->msix_cap : 0;
	unsigned n = (vd_cfg_read(v, cap + 2, 2) & 0x7ff) + 1;

	for (unsigned i = 0; i < n; i++) {
		bus_write(v->mmio, v->table + 16 * i, 4, LAPIC_BASE);
		bus_write(v->mmio, v->table + 16 * i + 4, 4, 0);
		bus_write(v->mmio, v->table + 16 * i + 8, 4, 0x40 + i);
		bus_write(v->mmio, v->table + 16 * i + 12, 4, 0);
	}
	vd_cfg_write(v, cap + 2, 2, 0x8000);
	vd_out(v, v->common + 16, 2, 0);
}

static inline void vd_driver_ok(struct vdrv *v)
{
	vd_out(v, v->common + 20, 1, 15);
}

static inline void vd_set_desc(struct vdrv *v, gpa_t table, unsigned i,
			       gpa_t addr, uint32_t len, uint16_t flags,
			       uint16_t next)
{
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d = {addr, len, flags, next};

	assert_int_equal(p2m_copy_in(v->p2m, table + 16 * i, &d, 16), 0);
}

static inline void vd_set16(struct vdrv *v, gpa_t at, uint16_t val)
{
	assert_int_equal(p2m_copy_in(v->p2m, at, &val, 2), 0);
}

static inline uint16_t vd_get16(struct vdrv *v, gpa_t at)
{
	uint16_t val;

	assert_int_equal(p2m_copy_out(v->p2m, at, &val, 2), 0);
	return val;
}

/* Make the chain that begins at descriptor head available. */
static inline void vd_avail(struct vdrv *v, unsigned qi, uint16_t head)
{
	struct vd_queue *q = &v->q[qi];

	vd_set16(v, q->avail + 4 + 2 * (q->avail_idx & (q->n - 1)), head);
	vd_set16(v, q->avail + 2, ++q->avail_idx);
}

static inline void vd_bell(struct vdrv *v, unsigned qi)
{
	vd_out(v, v->notify, 2, qi);
}

/* The next used entry; false: there is none. */
static inline bool vd_used(struct vdrv *v, unsigned qi, uint32_t *id,
			   uint32_t *len)
{
	struct vd_queue *q = &v->q[qi];
	uint32_t e[2];

	if (vd_get16(v, q->used + 2) == q->used_seen)
		return false;
	assert_int_equal(
		p2m_copy_out(v->p2m,
			     q->used + 4 + 8 * (q->used_seen & (q->n - 1)), e,
			     8),
		0);
	q->used_seen++;
	*id = e[0];
	*len = e[1];
	return true;
}
#endif
