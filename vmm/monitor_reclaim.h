/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MONITOR_RECLAIM_H
#define SARDINE_VMM_MONITOR_RECLAIM_H
/*
 * The monitor's part in reclaiming: keeps the VM within the quota that the
 * manager wrote into the control area.
 */
#include <stdatomic.h>

#include "vmm/vm.h"

struct monitor_reclaim {
	struct vm *vm;
	struct control *control;
	struct vm_work press, look; /* over the quota; a nudge came */
	struct vm_work reap;	    /* pages are in the swap file */
	struct vm_work fetch;	    /* pages are brought back ahead */
	_Atomic bool press_posted, look_posted, reap_posted, fetch_posted;
	uint64_t came; /* back at the guest's touch, at the last look */
	uint64_t paid; /* of these, others have been fetched for */
	uint64_t next; /* where the search for others goes on */
	bool fetching;
	uint64_t rnd, sampled_ns, own_ns;
	uint64_t stuck_at; /* what it had when nothing could be given up */
	void (*give_up)(void);
};

/* Before confinement; p2m and control area are there. give_up ends the process
 * (it does not return): called when bytes of the guest are lost. */
void monitor_reclaim_init(struct monitor_reclaim *r, struct vm *vm,
			  struct control *control, void (*give_up)(void));
/* Is the VM near its quota, so that it has to give up pages? Any thread. */
bool monitor_reclaim_short(const struct monitor_reclaim *r);
/* Any thread: the manager says that there is something to look at. */
void monitor_reclaim_nudge(struct monitor_reclaim *r);
#endif
