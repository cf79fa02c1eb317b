/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_BLK_H
#define SARDINE_VMM_DEV_VIRTIO_BLK_H
/* The block device (virtio 1.2, 5.2): one queue; flush, discard, write zeroes. */
#include "vmm/dev/disk.h"
#include "vmm/dev/virtio.h"

/* Opens the disk and makes a device of it; virtio_destroy closes it. 0; or
 * -errno with one line in err. */
int virtio_blk_create(const struct virtio_host *host, const char *name,
		      const struct disk_config *cfg, struct virtio_dev **out,
		      char *err, size_t errlen);
/* When this becomes readable, call virtio_blk_ready; -1: no need. */
int virtio_blk_event_fd(const struct virtio_dev *d);
void virtio_blk_ready(struct virtio_dev *d); /* any thread */
/* fn: this page was filled from what is common to all VMs with this image
 * (disk_is_common). Owner thread, device lock held. */
void virtio_blk_on_read(struct virtio_dev *d, void (*fn)(void *ctx, ppn_t ppn),
			void *ctx);
/* What it did, besides the group of every device. */
void virtio_blk_stat_group(struct virtio_dev *d, struct stat_group *g);
#endif
