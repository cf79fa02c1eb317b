/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Balloons: the word of each guest is taken from its control area, mm/balloon.c
 * says what to ask for, and that is written back. All of it is hints: what the
 * VM may have is its quota (manager_reclaim.c), whatever its balloon does.
 *
 * A guest that took pages back because it ran out of memory is left alone for a
 * while. One that is over its quota hardly runs, and says nothing new: then its
 * last word is taken again, less what its balloon has grown by since.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <stdio.h>

#include "mm/balloon.h"
#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/types.h"
#include "vmm/cli/options.h"

#define OOM_NS	(30 * NS_PER_S)
#define STEP_NS (2 * NS_PER_S) /* without a new word */

static void ask_for(struct mvm *v, uint64_t bytes)
{
	if (bytes == v->re.balloon)
		return;
	v->re.balloon = bytes;
	control_set(&v->control->balloon_target, bytes);
	v->re.nudge_ns = 0; /* at once */
	(void)fail_point("kill-manager-balloon");
}

/* True: it is to be left alone. */
static bool ran_out(struct mvm *v, uint64_t now)
{
	uint64_t oom = control_get(&v->control->balloon_oom);

	if (oom != v->re.guest_oom) {
		v->re.guest_oom = oom;
		v->re.oom_ns = now;
	}
	return v->re.oom_ns && now - v->re.oom_ns < OOM_NS;
}

static uint64_t less(uint64_t word, uint64_t since)
{
	if (word == ~0ull)
		return word;
	return word > since ? word - since : 0;
}

void manager_balloon(struct mvm *v, uint64_t target, uint64_t now)
{
	const struct control *c = v->control;
	uint64_t seq = __atomic_load_n(&c->guest_seq, __ATOMIC_ACQUIRE);
	uint64_t up = control_get(&c->balloon_up);
	uint64_t actual = control_get(&c->balloon_actual);
	struct balloon_vm b;
	uint64_t since;

	if (v->re.balloon_fixed || !(up & 1) ||
	    (seq == v->re.guest_seq &&
	     (v->re.used <= v->re.quota || now - v->re.balloon_ns < STEP_NS)))
		return;
	actual = actual < v->mem ? actual : v->mem;
	if (seq != v->re.guest_seq)
		v->re.guest_actual = actual;
	v->re.guest_seq = seq;
	v->re.balloon_ns = now;
	since = actual > v->re.guest_actual ? actual - v->re.guest_actual : 0;
	if (ran_out(v, now)) {
		ask_for(v, actual < v->re.balloon ? actual : v->re.balloon);
		return;
	}
	b = (struct balloon_vm){
		.size = v->mem,
		.own = manager_own_bytes(v),
		.target = target,
		.asked = v->re.balloon,
		.actual = actual,
		.free = less(control_get(&c->guest_free), since),
		.available = less(control_get(&c->guest_available), since),
		.reports = up & 2,
	};
	ask_for(v, balloon_next(&b));
}

int manager_balloon_set(struct mvm *v, uint64_t bytes, bool auto_, char *err,
			size_t errlen)
{
	char a[32];

	if (!(control_get(&v->control->balloon_up) & 1)) {
		snprintf(err, errlen,
			 "%s: its guest has no balloon driver at work; load "
			 "virtio_balloon in it",
			 v->name);
		return -EINVAL;
	}
	if (!auto_ && bytes >= v->mem) {
		snprintf(err, errlen, "%s: has %s; the balloon must be smaller",
			 v->name, size_format(v->mem, a, sizeof(a)));
		return -EINVAL;
	}
	v->re.balloon_fixed = !auto_;
	if (!auto_)
		ask_for(v, bytes & PAGE_MASK);
	else if (!v->m->cfg.enforce)
		ask_for(v, 0); /* there is no policy */
	mvm_note_again(v);
	manager_nudge(v);
	return 0;
}
