/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_BALLOON_H
#define SARDINE_VMM_MONITOR_BALLOON_H
/*
 * Between the control area and the guest's balloon: the manager's target goes
 * in, what the driver says goes out.
 */
#include "vmm/vm.h"

struct monitor_balloon {
	struct vm *vm;
	struct control *control;
	uint64_t asked_ns; /* for statistics */
	uint64_t target;
};

/* I/O thread, every two seconds or more often. quiet: the guest has little to
 * do and should not be woken often. */
void monitor_balloon_tick(struct monitor_balloon *b, bool quiet);
#endif
