/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_ADOPT_H
#define SARDINE_VMM_MONITOR_ADOPT_H
/*
 * The VM's manager was killed, and another one offers itself (vmm/adopt.h).
 */
#include "vmm/adopt.h"
#include "vmm/vm.h"

struct monitor_adopt {
	struct vm_work work; /* first */
	struct vm *vm;
	int fd; /* where offers come, or -1 */
	unsigned uid;
	int fds[ADOPT_FDS];
	/* I/O thread: nothing from the old manager any more, please. */
	void (*leave)(void *ctx);
	/* vCPU thread: this is the manager's socket now; -1: there is none. */
	void (*join)(void *ctx, int socket);
	void *ctx;
	_Atomic bool posted;
	int offered[ADOPT_OFFER_FDS]; /* while posted */
};

/* The caller has set vm, fd, fds, leave, join and ctx. Before the process is
 * confined. 0 or -errno. */
int monitor_adopt_init(struct monitor_adopt *a);
#endif
