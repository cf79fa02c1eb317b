/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a virtio device: status, features, turns.
 *
 * A bell only sets a bit and asks for a turn; the queue is worked on at the
 * vCPU thread's next boundary, where guest memory may be changed without
 * translated code in the middle of an instruction, and where several bells are
 * served at once. Interrupts are decided at the end of the turn for the same
 * reason.
 */
#include "vmm/dev/virtio.h"

#include <stdatomic.h>
#include <string.h>

#include "mm/base/log.h"

static const struct stat_desc virtio_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(virtio_stats, name, help),
	VIRTIO_STATS(D)
#undef D
};

#define COMMON_FEATURES                                                        \
	(VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

void virtio_init(struct virtio_dev *d, const struct virtio_ops *ops,
		 const char *name, const struct virtio_host *host,
		 unsigned n_queues, unsigned queue_size, uint64_t extra,
		 void *config, unsigned config_len)
{
	ASSERT(n_queues <= VIRTIO_MAX_QUEUES && queue_size <= VIRTQ_MAX_SIZE);
	d->ops = ops;
	d->name = name;
	d->host = *host;
	d->n_queues = n_queues;
	d->queue_size = queue_size;
	d->offered = COMMON_FEATURES | ops->features | extra;
	d->config = config;
	d->config_len = config_len;
	for (unsigned i = 0; i < n_queues; i++)
		d->vq[i] = (struct virtq){.dev = d,
					  .index = i,
					  .size = queue_size,
					  .vector = 0xffff};
	d->stat_group =
		(struct stat_group){name, virtio_stat_desc,
				    ARRAY_SIZE(virtio_stat_desc), &d->st, NULL};
}

void virtio_destroy(struct virtio_dev *d)
{
	if (d && d->ops->destroy)
		d->ops->destroy(d);
}

bool virtio_running(const struct virtio_dev *d)
{
	return (d->status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET)) ==
	       VIRTIO_S_DRIVER_OK;
}

void virtio_break(struct virtio_dev *d, enum virtq_error why)
{
	if (d->status & VIRTIO_S_NEEDS_RESET)
		return;
	d->status |= VIRTIO_S_NEEDS_RESET;
	d->error = why;
	/* A driver may go on doing it: a line only now and then. */
	if (!(d->st.broken & (d->st.broken - 1)))
		log_info("virtio %s: stopped until the driver resets it: %s",
			 d->name, virtq_error_names[why]);
	d->st.broken++;
	if (d->status & VIRTIO_S_DRIVER_OK && d->irq.config)
		d->irq.config(d->irq.ctx);
}

void virtio_reset(struct virtio_dev *d)
{
	if (d->ops->reset)
		d->ops->reset(d);
	d->st.resets++;
	d->status = 0;
	d->features = 0;
	d->kicked = 0;
	d->error = VIRTQ_E_ok;
	for (unsigned i = 0; i < d->n_queues; i++)
		d->vq[i] = (struct virtq){.dev = d,
					  .index = i,
					  .size = d->queue_size,
					  .vector = 0xffff};
}

void virtio_set_status(struct virtio_dev *d, uint8_t status)
{
	uint8_t new = status & ~d->status;

	if (!status) {
		virtio_reset(d);
		return;
	}
	/* Bits are only added (2.1.1), and NEEDS_RESET is ours. */
	new &= ~VIRTIO_S_NEEDS_RESET;
	if (new &VIRTIO_S_FEATURES_OK &&
	    (d->features & ~d->offered || !virtio_has(d, VIRTIO_F_VERSION_1)))
		new &= ~VIRTIO_S_FEATURES_OK;
	if (!((d->status | new) & VIRTIO_S_FEATURES_OK))
		new &= ~VIRTIO_S_DRIVER_OK;
	d->status |= new;
	if (!(new &VIRTIO_S_DRIVER_OK))
		return;
	if (d->ops->start)
		d->ops->start(d);
	/* Bells from before count now. */
	d->kicked = (1u << d->n_queues) - 1;
	virtio_schedule(d);
}

void virtio_kick(struct virtio_dev *d, unsigned queue)
{
	d->st.kicks++;
	if (queue >= d->n_queues)
		return;
	d->kicked |= 1u << queue;
	virtio_schedule(d);
}

void virtio_schedule(struct virtio_dev *d)
{
	if (!atomic_exchange(&d->scheduled, true))
		d->host.defer(d->host.ctx, d);
}

static void run_queues(struct virtio_dev *d)
{
	uint32_t kicked = d->kicked;

	d->kicked = 0;
	for (unsigned i = 0; i < d->n_queues; i++)
		if (kicked & 1u << i && d->vq[i].ready && virtio_running(d))
			d->ops->kick(d, &d->vq[i]);
}

void virtio_run(struct virtio_dev *d)
{
	pthread_mutex_lock(d->host.lock);
	/* First: what comes from now on is another turn's. */
	atomic_store(&d->scheduled, false);
	d->st.turns++;
	if (d->ops->work)
		d->ops->work(d);
	if (virtio_running(d))
		run_queues(d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (!virtq_must_tell(&d->vq[i]))
			continue;
		d->st.interrupts++;
		d->irq.queue(d->irq.ctx, &d->vq[i]);
	}
	pthread_mutex_unlock(d->host.lock);
}

/* ---- device configuration ---- */

void virtio_config_changed(struct virtio_dev *d)
{
	d->config_gen++;
	if (virtio_running(d))
		d->irq.config(d->irq.ctx);
}

uint64_t virtio_config_read(struct virtio_dev *d, unsigned off, unsigned len)
{
	uint64_t v = 0;

	if (off >= d->config_len || len > d->config_len - off)
		return 0;
	if (d->ops->config_read)
		d->ops->config_read(d, off, len);
	memcpy(&v, d->config + off, len);
	return v;
}

void virtio_config_write(struct virtio_dev *d, unsigned off, unsigned len,
			 uint64_t val)
{
	if (off >= d->config_len || len > d->config_len - off)
		return;
	if (d->ops->config_write)
		d->ops->config_write(d, off, len, val);
}
