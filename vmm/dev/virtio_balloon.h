/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_BALLOON_H
#define SARDINE_VMM_DEV_VIRTIO_BALLOON_H
/*
 * virtio-balloon (virtio 1.2, 5.5): the guest gives pages back to the host,
 * because it was asked to (inflate), or because they are free (reporting), and
 * says how its memory stands (statistics).
 */
#include "vmm/dev/virtio.h"

#define BALLOON_UNKNOWN (~0ull)

/* What the driver has said. */
struct virtio_balloon_state {
	bool up;	     /* there is a driver */
	bool reports;	     /* it reports free pages */
	uint64_t target;     /* pages that it is asked to have in the balloon */
	uint64_t actual;     /* that it says it has */
	uint64_t oom;	     /* times it took pages back unasked, ever */
	uint64_t stats_seq;  /* counts statistics that have come */
	uint64_t free_bytes; /* BALLOON_UNKNOWN: it has not said */
	uint64_t total_bytes;
	uint64_t available_bytes; /* without swapping, about */
	uint64_t cache_bytes;
	uint64_t major_faults; /* ever */
};

/* name must live as long as the device. NULL: no memory. */
struct virtio_dev *virtio_balloon_create(const struct virtio_host *host,
					 const char *name);

/* The rest: any thread, under the device lock. */

/* How many pages the balloon should have. A target that was asked for before
 * changes nothing: so one that the guest, short of memory, has let go of is not
 * pressed on it again. */
void virtio_balloon_set_target(struct virtio_dev *d, uint64_t pages);
/* Have new statistics come; stats_seq says when they have. */
void virtio_balloon_ask_stats(struct virtio_dev *d);
void virtio_balloon_get_state(const struct virtio_dev *d,
			      struct virtio_balloon_state *s);
/* Its own counters. */
void virtio_balloon_stat_group(struct virtio_dev *d, struct stat_group *g);
#endif
