/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTIO_NET_H
#define SARDINE_VMM_DEV_VIRTIO_NET_H
/*
 * The network device (virtio 1.2, 5.1): one pair of queues over a descriptor
 * that carries an Ethernet frame a message.
 */
#include "vmm/dev/virtio.h"

#define NET_MTU_MIN 576u
#define NET_MTU_MAX 65520u

struct virtio_net_config {
	const char *name;
	uint8_t mac[6];
	/* Of the link; the guest is told when it is not Ethernet's 1500. */
	unsigned mtu;
	/* A SOCK_SEQPACKET socket (its end is the end of the link), or a tap
	 * device without headers. Non-blocking; stays the caller's. */
	int fd;
	bool tap;
	/* Who is at the other end makes every frame itself, with good
	 * checksums: the guest need not look at them. */
	bool trusted;
	/* Have virtio_net_ready called when fd can be read, written (neither:
	 * a pause); at first when it can be read. Owner thread, under the
	 * device lock. */
	void (*want)(void *ctx, bool in, bool out);
	void *ctx;
};
/* NULL: out of memory. virtio_destroy frees it. */
struct virtio_dev *virtio_net_create(const struct virtio_host *host,
				     const struct virtio_net_config *c);
/* fd has what was wanted, or has hung up. Any thread. */
void virtio_net_ready(struct virtio_dev *d);
/* The device's own counters. */
void virtio_net_stat_group(struct virtio_dev *d, struct stat_group *g);
#endif
