/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_REST_H
#define SARDINE_VMM_MONITOR_REST_H
/*
 * What a VM that has nothing to do can do without: its cold pages are
 * compressed.
 */
#include <stdatomic.h>

#include "vmm/vm.h"

enum rest_phase { REST_MARK, REST_WAIT, REST_TAKE, REST_DONE };

struct monitor_rest {
	struct vm *vm;
	struct control *control;
	struct vm_work work;
	_Atomic bool posted;
	/* vCPU thread while posted, else I/O thread. */
	enum rest_phase phase;
	unsigned ticks; /* until the next phase */
	uint64_t at;	/* the page that it has come to */
};

void monitor_rest_init(struct monitor_rest *r, struct vm *vm,
		       struct control *control);
/* I/O thread, every two seconds; quiet: for so many times on end the guest had
 * little to do. */
void monitor_rest_tick(struct monitor_rest *r, unsigned quiet);
#endif
