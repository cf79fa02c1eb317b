/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which VMs may have their cold pages compressed while they rest, although
 * memory is not short.
 *
 * A compressed page is lost to sharing until it is touched. So the pages of a
 * guest that another one like it could have must have met that one first: two
 * VMs of a share group that have been in userland for a while are enough, since
 * what they have in common is in the pool from then on, where later ones find
 * it. A VM alone in its group rests only when the budget is short.
 */
#include "vmm/cli/manager_priv.h"

#include "mm/control.h"

#define LOOK_NS	   (2 * NS_PER_S)
#define SETTLED_NS (30 * NS_PER_S)
#define UNKNOWN_NS (90 * NS_PER_S) /* to userland, if it does not say */

static bool settled(const struct mvm *v, uint64_t now)
{
	uint64_t boot = v->told_up ? v->boot_ms * 1000000 : UNKNOWN_NS;

	return v->pid && v->control && now - v->start_ns > boot + SETTLED_NS;
}

static bool has_company(const struct manager *m, const struct mvm *v,
			uint64_t now)
{
	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i] != v && m->vms[i]->group == v->group &&
		    settled(m->vms[i], now))
			return true;
	return false;
}

void manager_rest(struct manager *m, uint64_t now)
{
	bool short_ = m->cfg.enforce && m->reclaim_state != RECLAIM_HIGH;

	if (now < m->rest_ns)
		return;
	m->rest_ns = now + LOOK_NS;
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];

		if (v->control)
			control_set(&v->control->may_rest,
				    !m->cfg.keep_idle && settled(v, now) &&
					    (short_ || has_company(m, v, now)));
	}
}
