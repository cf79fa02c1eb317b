/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOARD_PCI_H
#define SARDINE_VMM_BOARD_PCI_H
/*
 * The PCI part of the board: the devices that vm->cfg asks for. A VM without
 * any has no PCI bus, and vm->pci is NULL.
 */
#include <stddef.h>

#include "vmm/dev/irq.h"

struct vm;
struct pci_bus;
struct virtio_dev;

/* Under dev_lock, with the chips and both buses in place. intx: the board's
 * lines for INTA..INTD. 0; or -errno, with a line in err when there is more to
 * say than the error; board_pci_destroy takes away what is there. */
int board_pci_create(struct vm *vm, const struct irq_line intx[4], char *err,
		     size_t errlen);
/* The virtio-console; the virtio-balloon; or NULL. */
struct virtio_dev *board_pci_console(const struct vm *vm);
struct virtio_dev *board_pci_balloon(const struct vm *vm);
/* The bus, or NULL. */
struct pci_bus *board_pci_bus(const struct vm *vm);
/* Under dev_lock; the I/O thread is stopped. */
void board_pci_destroy(struct vm *vm);
/* Under dev_lock. */
void board_pci_reset(struct vm *vm);
void board_pci_add_stats(struct vm *vm);
/* Slots of the bus in use; 0: there is no bus. */
unsigned board_pci_slots(const struct vm *vm);
#endif
