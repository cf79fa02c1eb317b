/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_PCI_H
#define SARDINE_VMM_DEV_VIRTIO_PCI_H
/*
 * Virtio over PCI (virtio 1.2, 4.1): modern devices only.
 */
#include "vmm/dev/pci.h"
#include "vmm/dev/virtio.h"

struct virtio_pci;
/* Put d behind a PCI function on the bus, which becomes its interrupts. Owns
 * nothing of d. 0; -ENOMEM, -ENOSPC. */
int virtio_pci_create(struct pci_bus *b, struct virtio_dev *d,
		      struct virtio_pci **out);
void virtio_pci_destroy(struct virtio_pci *p);
#endif
