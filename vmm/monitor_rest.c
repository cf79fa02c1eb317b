/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round over the VM's memory (mm/p2m_rest.c) while the guest is quiet: all
 * pages of its own are marked, time passes, those that were not touched are
 * compressed, a bounded number every two seconds; then it is left in peace for
 * some minutes. A guest that wakes up ends the round.
 *
 * The manager says whether it may be: pages that are compressed cannot be found
 * equal to others', so it waits until there was something to compare with
 * (vmm/cli/manager_rest.c).
 */
#include "vmm/monitor_rest.h"

#include "mm/control.h"
#include "mm/p2m_reclaim.h"

#define QUIET	   5u	 /* ticks of two seconds before it begins */
#define MARK_PAGES 1024u /* a tick: 10 ms at most */
#define TAKE_PAGES 384u	 /* a tick: 5 ms */
#define WAIT_TICKS 10u
#define DONE_TICKS 150u

/* vCPU thread, outside of the engine. */
static void step(struct vm *vm, struct vm_work *w)
{
	struct monitor_rest *r = container_of(w, struct monitor_rest, work);

	switch (r->phase) {
	case REST_MARK:
		if (!p2m_rest_mark(vm->p2m, &r->at, MARK_PAGES))
			break;
		r->phase = REST_WAIT;
		r->ticks = WAIT_TICKS;
		break;
	case REST_TAKE:
		if (!p2m_rest_take(vm->p2m, &r->at, TAKE_PAGES))
			break;
		r->phase = REST_DONE;
		r->ticks = DONE_TICKS;
		break;
	default:
		break;
	}
	atomic_store(&r->posted, false);
}

void monitor_rest_tick(struct monitor_rest *r, unsigned quiet)
{
	if (atomic_load(&r->posted))
		return;
	if (quiet < QUIET || !control_get(&r->control->may_rest)) {
		r->phase = REST_MARK;
		r->at = 0;
		return;
	}
	if (r->phase == REST_WAIT || r->phase == REST_DONE) {
		if (--r->ticks)
			return;
		r->phase = r->phase == REST_WAIT ? REST_TAKE : REST_MARK;
	}
	atomic_store(&r->posted, true);
	vm_post(r->vm, &r->work);
}

void monitor_rest_init(struct monitor_rest *r, struct vm *vm,
		       struct control *control)
{
	r->vm = vm;
	r->control = control;
	r->work.fn = step;
}
