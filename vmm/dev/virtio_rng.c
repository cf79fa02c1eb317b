/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One queue of buffers to be filled. A buffer gets at most MAX_BYTES, which the
 * standard allows: a guest that asks for megabytes does not hold up its own
 * vCPU thread for long.
 */
#include "vmm/dev/virtio_rng.h"

#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE 64
#define MAX_BYTES  4096

struct virtio_rng {
	struct virtio_dev dev; /* first */
	struct virtio_rng_config cfg;
};

static void rng_kick(struct virtio_dev *d, struct virtq *q)
{
	struct virtio_rng *r = container_of(d, struct virtio_rng, dev);
	struct virtq_chain c;
	uint8_t buf[MAX_BYTES];

	while (virtq_pop(q, &c)) {
		size_t n = c.in_len < MAX_BYTES ? c.in_len : MAX_BYTES;

		r->cfg.fill(r->cfg.ctx, buf, n);
		if (!virtq_write(q, &c, 0, buf, n))
			break;
		virtq_push(q, c.head, n);
	}
	explicit_bzero(buf, sizeof(buf));
}

static void rng_destroy(struct virtio_dev *d)
{
	free(container_of(d, struct virtio_rng, dev));
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = 4,
	.class_code = 0xff0000,
	.kick = rng_kick,
	.destroy = rng_destroy,
};

struct virtio_dev *virtio_rng_create(const struct virtio_host *host,
				     const struct virtio_rng_config *cfg)
{
	struct virtio_rng *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->cfg = *cfg;
	virtio_init(&r->dev, &rng_ops, cfg->name, host, 1, QUEUE_SIZE, 0, NULL,
		    0);
	return &r->dev;
}
