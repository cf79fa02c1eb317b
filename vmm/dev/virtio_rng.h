/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_RNG_H
#define SARDINE_VMM_DEV_VIRTIO_RNG_H
/* The entropy device (virtio 1.2, 5.4). */
#include "vmm/dev/virtio.h"

struct virtio_rng_config {
	const char *name;
	/* Fill buf with n random bytes, without waiting. */
	void (*fill)(void *ctx, void *buf, size_t n);
	void *ctx;
};
/* NULL: out of memory. virtio_destroy frees it. */
struct virtio_dev *virtio_rng_create(const struct virtio_host *host,
				     const struct virtio_rng_config *cfg);
#endif
