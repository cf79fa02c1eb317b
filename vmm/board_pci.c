/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI and virtio on the board: each device that the configuration names is
 * created, put behind a virtio-pci function, and given a work item by which it
 * gets its turns on the vCPU thread.
 */
#include "vmm/board_pci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include "mm/base/log.h"
#include "vmm/board.h"
#include "vmm/dev/lapic.h"
#include "vmm/dev/iothread.h"
#include "vmm/dev/uart.h"
#include "vmm/dev/virtio_balloon.h"
#include "vmm/dev/virtio_blk.h"
#include "vmm/dev/virtio_console.h"
#include "vmm/dev/virtio_net.h"
#include "vmm/dev/virtio_pci.h"
#include "vmm/dev/virtio_rng.h"
#include "vmm/vm.h"

struct pci_slot {
	struct vm_work work; /* first */
	struct virtio_dev *dev;
	struct virtio_pci *pci;
	struct vm *vm;
	char name[16];
	struct stat_group more; /* the device's own counters; desc NULL: none */
};

struct board_pci {
	struct pci_bus *bus;
	struct pci_slot slot[PCI_SLOTS];
	struct virtio_dev *console, *balloon;
	unsigned n;
};

/* ---- what devices see of the VM ---- */

static void run_work(struct vm *vm, struct vm_work *w)
{
	virtio_run(container_of(w, struct pci_slot, work)->dev);
}

static void defer(void *ctx, struct virtio_dev *d)
{
	vm_post(ctx, &((struct pci_slot *)d->slot)->work);
}

static void send_msi(void *ctx, const struct apic_msg *m)
{
	lapic_receive(((struct vm *)ctx)->lapic, m);
}

static struct virtio_host host(struct vm *vm)
{
	return (struct virtio_host){
		.p2m = vm->p2m,
		.lock = &vm->dev_lock,
		.defer = defer,
		.ctx = vm,
	};
}

/* ---- devices ---- */

static void fill_random(void *ctx, void *buf, size_t n)
{
	/* Up to 256 bytes come at once, whatever signals do. */
	for (size_t part; n; n -= part, buf = (char *)buf + part) {
		part = n < 256 ? n : 256;
		BUG_ON(getrandom(buf, part, 0) != (ssize_t)part);
	}
}

/* The next free place, and the device's name: "rng0". */
static struct pci_slot *next_slot(struct vm *vm, const char *kind, unsigned n)
{
	struct board_pci *b = vm->pci;
	struct pci_slot *s = &b->slot[b->n];

	if (b->n == PCI_SLOTS - 1)
		return NULL;
	snprintf(s->name, sizeof(s->name), "%s%u", kind, n);
	s->work.fn = run_work;
	s->vm = vm;
	return s;
}

/* Takes d over, NULL too. */
static int plug(struct vm *vm, struct pci_slot *s, struct virtio_dev *d)
{
	struct board_pci *b = vm->pci;

	if (!d)
		return -ENOMEM;
	s->dev = d;
	d->slot = s;
	b->n++;
	return virtio_pci_create(b->bus, d, &s->pci);
}

static int add_rng(struct vm *vm)
{
	struct pci_slot *s = next_slot(vm, "rng", 0);
	struct virtio_rng_config c = {.fill = fill_random};
	struct virtio_host h = host(vm);

	if (!s)
		return -ENOSPC;
	c.name = s->name;
	return plug(vm, s, virtio_rng_create(&h, &c));
}

static int add_balloon(struct vm *vm)
{
	struct pci_slot *s = next_slot(vm, "balloon", 0);
	struct virtio_host h = host(vm);
	struct virtio_dev *d;
	int r;

	if (!s)
		return -ENOSPC;
	d = virtio_balloon_create(&h, s->name);
	if (d)
		virtio_balloon_stat_group(d, &s->more);
	r = plug(vm, s, d);
	if (!r)
		vm->pci->balloon = d;
	return r;
}

static void blk_event(void *ctx, uint32_t events)
{
	virtio_blk_ready(ctx);
}

static void page_read(void *ctx, ppn_t ppn)
{
	struct vm *vm = ctx;

	if (vm->page_read)
		vm->page_read(vm->page_read_ctx, ppn);
}

static int add_disk(struct vm *vm, unsigned n, char *err, size_t errlen)
{
	struct pci_slot *s = next_slot(vm, "disk", n);
	struct virtio_host h = host(vm);
	struct virtio_dev *d;
	int r, fd;

	if (!s)
		return -ENOSPC;
	r = virtio_blk_create(&h, s->name, &vm->cfg.disks[n], &d, err, errlen);
	if (r)
		return r;
	virtio_blk_stat_group(d, &s->more);
	virtio_blk_on_read(d, page_read, vm);
	r = plug(vm, s, d);
	fd = virtio_blk_event_fd(d);
	if (!r && fd >= 0)
		r = iothread_add_fd(vm->io, fd, EPOLLIN, blk_event, d);
	return r;
}

static size_t console_out(void *ctx, const uint8_t *buf, size_t n)
{
	return uart_output(((struct vm *)ctx)->uart, buf, n);
}

static void console_in_room(void *ctx)
{
	board_console_room(ctx);
}

static int add_console(struct vm *vm)
{
	struct pci_slot *s = next_slot(vm, "hvc", 0);
	struct virtio_console_config c = {
		.out = console_out, .in_room = console_in_room, .ctx = vm};
	struct virtio_host h = host(vm);
	struct virtio_dev *d;
	int r;

	if (!s)
		return -ENOSPC;
	c.name = s->name;
	d = virtio_console_create(&h, &c);
	r = plug(vm, s, d);
	if (!r)
		vm->pci->console = d;
	return r;
}

/* I/O thread. What hung up would be reported again and again. */
static void net_event(void *ctx, uint32_t events)
{
	struct pci_slot *s = ctx;

	if (events & (EPOLLHUP | EPOLLERR))
		iothread_del_fd(s->vm->io, s->vm->cfg.net->fd);
	virtio_net_ready(s->dev);
}

static void net_want(void *ctx, bool in, bool out)
{
	struct pci_slot *s = ctx;

	(void)iothread_mod_fd(s->vm->io, s->vm->cfg.net->fd,
			      (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0));
}

static int add_net(struct vm *vm)
{
	struct pci_slot *s = next_slot(vm, "net", 0);
	struct virtio_net_config c = *vm->cfg.net;
	struct virtio_host h = host(vm);
	struct virtio_dev *d;
	int r;

	if (!s)
		return -ENOSPC;
	c.name = s->name;
	c.want = net_want;
	c.ctx = s;
	d = virtio_net_create(&h, &c);
	if (d)
		virtio_net_stat_group(d, &s->more);
	r = plug(vm, s, d);
	return r ? r : iothread_add_fd(vm->io, c.fd, EPOLLIN, net_event, s);
}

static int add_devices(struct vm *vm, char *err, size_t errlen)
{
	int r = 0;

	for (unsigned i = 0; i < vm->cfg.n_disks && !r; i++)
		r = add_disk(vm, i, err, errlen);
	if (!r && vm->cfg.net)
		r = add_net(vm);
	if (!r && vm->cfg.rng)
		r = add_rng(vm);
	if (!r && vm->cfg.hvc)
		r = add_console(vm);
	if (!r && vm->cfg.balloon)
		r = add_balloon(vm);
	return r;
}

/* ---- the board's side ---- */

int board_pci_create(struct vm *vm, const struct irq_line intx[4], char *err,
		     size_t errlen)
{
	struct pci_bus_config c = {.msi = {send_msi, vm}};
	int r;

	if (!vm->cfg.rng && !vm->cfg.n_disks && !vm->cfg.hvc && !vm->cfg.net &&
	    !vm->cfg.balloon)
		return 0;
	vm->pci = calloc(1, sizeof(*vm->pci));
	if (!vm->pci)
		return -ENOMEM;
	memcpy(c.intx, intx, sizeof(c.intx));
	vm->pci->bus = pci_bus_create(&c);
	if (!vm->pci->bus)
		return -ENOMEM;
	r = pci_bus_attach(vm->pci->bus, vm->pio, vm->mmio);
	if (!r)
		r = add_devices(vm, err, errlen);
	if (!r)
		pci_reset(vm->pci->bus);
	return r;
}

void board_pci_destroy(struct vm *vm)
{
	struct board_pci *b = vm->pci;

	if (!b)
		return;
	for (unsigned i = 0; i < b->n; i++) {
		virtio_pci_destroy(b->slot[i].pci);
		virtio_destroy(b->slot[i].dev);
	}
	pci_bus_destroy(b->bus);
	free(b);
	vm->pci = NULL;
}

void board_pci_reset(struct vm *vm)
{
	if (vm->pci)
		pci_reset(vm->pci->bus);
}

void board_pci_add_stats(struct vm *vm)
{
	for (unsigned i = 0; vm->pci && i < vm->pci->n; i++) {
		struct pci_slot *s = &vm->pci->slot[i];

		vm_add_stats(vm, &s->dev->stat_group);
		if (s->more.desc)
			vm_add_stats(vm, &s->more);
	}
}

struct virtio_dev *board_pci_console(const struct vm *vm)
{
	return vm->pci ? vm->pci->console : NULL;
}

struct virtio_dev *board_pci_balloon(const struct vm *vm)
{
	return vm->pci ? vm->pci->balloon : NULL;
}

struct pci_bus *board_pci_bus(const struct vm *vm)
{
	return vm->pci ? vm->pci->bus : NULL;
}

unsigned board_pci_slots(const struct vm *vm)
{
	return vm->pci ? pci_n_slots(vm->pci->bus) : 0;
}
