/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_BUS_H
#define SARDINE_VMM_DEV_BUS_H
/*
 * A bus: address ranges and who answers. One for ports, one for MMIO. Dispatch
 * takes the VM's device lock. Nobody home: reads give all ones, writes vanish
 * (counted). Accesses that cross the end of a range are split into bytes.
 */
#include <pthread.h>

#include "mm/types.h"

struct bus_ops {
	/* off is relative to the range; len 1, 2, 4, 8. */
	uint64_t (*read)(void *dev, uint64_t off, unsigned len);
	void (*write)(void *dev, uint64_t off, unsigned len, uint64_t val);
};
struct bus;
struct bus *bus_create(const char *name, pthread_mutex_t *lock);
void bus_destroy(struct bus *b);
/* 0, -EEXIST when it overlaps another range, -ENOMEM. */
int bus_add(struct bus *b, const char *name, uint64_t start, uint64_t len,
	    const struct bus_ops *ops, void *dev);
uint64_t bus_read(struct bus *b, uint64_t addr, unsigned len);
void bus_write(struct bus *b, uint64_t addr, unsigned len, uint64_t val);
#endif
