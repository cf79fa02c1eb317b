/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_READ_H
#define SARDINE_VMM_MONITOR_READ_H
/*
 * Tells the manager which pages a disk has just filled from an image that other
 * VMs have, too (SHARE_MSG_READ), so that they are shared at once.
 */
#include "vmm/vm.h"

#define MONITOR_READ_PAGES 2048 /* a request of the largest size */

struct monitor_read {
	struct vm_work work; /* first */
	struct vm *vm;
	int socket_fd;
	bool posted;
	unsigned n;
	uint32_t ppn[MONITOR_READ_PAGES];
};

/* Becomes vm->page_read. Before the VM runs; r must live as long as it. */
void monitor_read_init(struct monitor_read *r, struct vm *vm, int socket_fd);
#endif
