/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_CONSOLE_H
#define SARDINE_VMM_DEV_VIRTIO_CONSOLE_H
/* The console device (virtio 1.2, 5.3): one port, which Linux calls hvc0. */
#include "vmm/dev/virtio.h"

struct virtio_console_config {
	const char *name;
	/* Output. Takes as many bytes as it can; when that is not all,
	 * virtio_console_out_room must follow. Under the device lock. */
	size_t (*out)(void *ctx, const uint8_t *buf, size_t n);
	/* There is room for input again, after virtio_console_input took less
	 * than it was offered. Under the device lock. */
	void (*in_room)(void *ctx);
	void *ctx;
};
/* NULL: out of memory. virtio_destroy frees it. */
struct virtio_dev *virtio_console_create(const struct virtio_host *host,
					 const struct virtio_console_config *c);
/* Has the guest's driver brought it up, with buffers for input? */
bool virtio_console_up(const struct virtio_dev *d);
/* Bytes from the outside; how many were taken. Any thread, lock held. */
size_t virtio_console_input(struct virtio_dev *d, const uint8_t *buf, size_t n);
/* `out` has room again. Any thread. */
void virtio_console_out_room(struct virtio_dev *d);
#endif
