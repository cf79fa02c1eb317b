/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_H
#define SARDINE_VMM_DEV_VIRTIO_H
/*
 * A virtio device (virtio 1.2, ch. 2 and 3) without its transport.
 *
 * A device type is one file: it embeds a struct virtio_dev (first), fills a
 * struct virtio_ops, and calls virtio_init(). vmm/board_pci.c puts it behind a
 * virtio-pci function.
 *
 * Threads. The p2m belongs to the vCPU thread (the owner), so everything that
 * touches guest memory runs there: a kick by the guest, and virtio_schedule()
 * from any thread, have the device's turn (virtio_run) called on the owner
 * thread at its next boundary. All of the ops below run on that thread (or
 * while it is stopped) and under the device lock. Work that waits (I/O on a
 * file or socket) is done elsewhere; what another thread has for the device it
 * keeps under a lock of its own, calls virtio_schedule(), and the `work` op
 * fetches it.
 */
#include <pthread.h>

#include "mm/base/stats.h"
#include "vmm/dev/virtq.h"

#define VIRTIO_MAX_QUEUES      16

/* Device status (2.1) */
#define VIRTIO_S_ACKNOWLEDGE   1
#define VIRTIO_S_DRIVER	       2
#define VIRTIO_S_DRIVER_OK     4
#define VIRTIO_S_FEATURES_OK   8
#define VIRTIO_S_NEEDS_RESET   64
#define VIRTIO_S_FAILED	       128

/* Features of every device (6) */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)

struct virtio_ops {
	const char *name;
	uint16_t id;	     /* device type (5) */
	uint32_t class_code; /* PCI's */
	/* A feature of the device's own that is not offered is never on. */
	uint64_t features;
	/* All but kick may be NULL. */
	/* The driver is ready (DRIVER_OK); d->features are agreed. */
	void (*start)(struct virtio_dev *d);
	/* Back to the state after power-on. Nothing may write into guest
	 * memory any more when this returns. */
	void (*reset)(struct virtio_dev *d);
	/* The driver has put something into this queue. Called only while the
	 * device runs and the queue is ready. */
	void (*kick)(struct virtio_dev *d, struct virtq *q);
	/* virtio_schedule() was called. Also while the device does not run. */
	void (*work)(struct virtio_dev *d);
	/* [off, off+len) of d->config is about to be read; was written by the
	 * guest (val). Without config_write it is read-only. */
	void (*config_read)(struct virtio_dev *d, unsigned off, unsigned len);
	void (*config_write)(struct virtio_dev *d, unsigned off, unsigned len,
			     uint64_t val);
	void (*destroy)(struct virtio_dev *d);
};

/* What is around a device: the board, or a test. */
struct virtio_host {
	struct p2m *p2m;
	pthread_mutex_t *lock; /* the device lock */
	/* Have virtio_run(d) called soon on the owner thread. Any thread; not
	 * called again for d before that has begun. */
	void (*defer)(void *ctx, struct virtio_dev *d);
	void *ctx;
};

/* How the device interrupts: the transport's. */
struct virtio_irq {
	void (*queue)(void *ctx, struct virtq *q);
	void (*config)(void *ctx);
	void *ctx;
};

#define VIRTIO_STATS(X)                                                        \
	X(kicks, "times the guest rang a queue's bell")                        \
	X(turns, "times the device had its turn on the vCPU thread")           \
	X(chains, "descriptor chains taken")                                   \
	X(interrupts, "interrupts asked for")                                  \
	X(resets, "resets by the driver or the machine")                       \
	X(broken, "times a driver's mistake stopped the device")
struct virtio_stats {
	VIRTIO_STATS(STAT_FIELD)
};

struct virtio_dev {
	const struct virtio_ops *ops;
	const char *name; /* unique in the VM: "blk0"; for messages */
	struct virtio_host host;
	struct virtio_irq irq;
	void *slot; /* the host's, for defer */
	unsigned n_queues;
	uint16_t queue_size; /* descriptors at most */
	struct virtq vq[VIRTIO_MAX_QUEUES];
	uint8_t *config;
	unsigned config_len;
	uint8_t config_gen;
	uint8_t status;
	uint64_t offered, features; /* features: the driver's */
	enum virtq_error error;	    /* why it is broken */
	uint32_t kicked;	    /* queues whose bell was rung */
	_Atomic bool scheduled;
	struct virtio_stats st;
	struct stat_group stat_group;
};

/* ---- for device types ---- */

/* Start a zeroed device; config stays the caller's. extra: features that this
 * one has beyond those of its ops. queue_size: a power of two up to
 * VIRTQ_MAX_SIZE. name must live as long as d. */
void virtio_init(struct virtio_dev *d, const struct virtio_ops *ops,
		 const char *name, const struct virtio_host *host,
		 unsigned n_queues, unsigned queue_size, uint64_t extra,
		 void *config, unsigned config_len);
/* Any thread: have ops->work called on the owner thread. */
void virtio_schedule(struct virtio_dev *d);
/* d->config has changed by itself: tell the driver. Owner. */
void virtio_config_changed(struct virtio_dev *d);
/* The driver has made a mistake that cannot be answered: the device stops and
 * asks for a reset. Owner. */
void virtio_break(struct virtio_dev *d, enum virtq_error why);
/* Owner: has the driver said DRIVER_OK, and is the device not broken? */
bool virtio_running(const struct virtio_dev *d);
static inline bool virtio_has(const struct virtio_dev *d, uint64_t feature)
{
	return (d->features & feature) == feature;
}

/* ---- for the host ---- */

/* The device's turn. Owner thread; takes the device lock. */
void virtio_run(struct virtio_dev *d);
void virtio_destroy(struct virtio_dev *d);

/* ---- for transports, under the device lock ---- */

void virtio_set_status(struct virtio_dev *d, uint8_t status);
void virtio_reset(struct virtio_dev *d);
void virtio_kick(struct virtio_dev *d, unsigned queue);
/* One aligned access of 1, 2, 4 or 8 bytes; zero and nothing beyond the end. */
uint64_t virtio_config_read(struct virtio_dev *d, unsigned off, unsigned len);
void virtio_config_write(struct virtio_dev *d, unsigned off, unsigned len,
			 uint64_t val);
#endif
