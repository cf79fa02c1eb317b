/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The budget: several times a second, what each VM has is asked of the kernel,
 * what it wants is taken from its control area (and bounded), mm/reclaim.c
 * divides, and the new quotas are written. The monitors do the rest
 * (vmm/monitor_reclaim.c): nothing that this process could lose is in it, so
 * when it is killed the VMs go on under the quotas that they have.
 *
 * What the VMs may have together is the budget less the pools, less the
 * monitors' own memory, less a reserve for what grows between two looks
 * (page tables, frames of the pool). A guest that runs new code makes translations
 * faster than that: what the monitor's grow by until the next look goes off its
 * quota (p2m_quota).
 *
 * Trust. A quota is a word in memory that a monitor could ignore. One whose
 * memory grows beyond its bound, which is its quota, or what it had while that
 * is more, is killed: the others' memory is not its own to take. A monitor that
 * does not run (stopped, or stuck) keeps what it has and gets no more.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/sharing/share.h"
#include "mm/types.h"
#include "vmm/cli/options.h"

#define MB	       ((uint64_t)1 << 20)
#define TAX	       0.75
#define RESERVE	       40	      /* the budget's fortieth part */
#define NUDGE_NS       (2 * NS_PER_S) /* for sampling */
#define YOUNG_NS       (10 * NS_PER_S)
#define YOUNG_OVERHEAD (12 * MB)
#define HEADROOM       (16 * MB)
#define SLACK	       (16 * MB) /* beyond the bound, before a monitor is killed */

/* ---- admission ---- */

static uint64_t min_of(const struct vm_spec *s)
{
	uint64_t min = s->mem / 8 > 16 * MB ? s->mem / 8 : 16 * MB;

	if (s->mem_min)
		min = s->mem_min;
	return min < s->mem ? min : s->mem;
}

uint64_t manager_need(const struct vm_spec *s)
{
	return min_of(s) + YOUNG_OVERHEAD;
}

static uint64_t reserve_of(const struct manager *m)
{
	return m->cfg.budget_bytes / RESERVE;
}

uint64_t manager_minima(const struct manager *m)
{
	uint64_t sum = reserve_of(m);

	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i]->pid)
			sum += m->vms[i]->re.min + YOUNG_OVERHEAD;
	return sum + manager_claimed_min(m);
}

int manager_admit(struct manager *m, struct mvm *v, const struct vm_spec *s,
		  char *err, size_t errlen)
{
	uint64_t taken = manager_minima(m), need = manager_need(s);
	char a[32], b[32];

	v->re.min = min_of(s);
	/* A compressed page is a little more than nothing: a VM may have some
	 * memory besides its configured size, for its store. */
	v->re.max = s->mem_max && s->mem_max < s->mem ? s->mem_max
						      : s->mem + s->mem / 8;
	if (v->re.max < v->re.min)
		v->re.max = v->re.min;
	v->re.shares = s->mem_shares ? s->mem_shares : s->mem / MB * 10;
	if (!v->re.shares)
		v->re.shares = 1;
	if (!m->cfg.enforce)
		return 0;
	if (taken + need > m->cfg.budget_bytes) {
		snprintf(err, errlen,
			 "%s: its minimum of %s does not fit beside those of "
			 "the others in --host-mem %s; give more, or fewer or "
			 "smaller VMs, or a smaller mem.min",
			 v->name, size_format(v->re.min, a, sizeof(a)),
			 size_format(m->cfg.budget_bytes, b, sizeof(b)));
		return -ENOMEM;
	}
	v->re.quota = v->re.bound = v->re.min;
	return 0;
}

/* ---- what there is ---- */

static uint64_t blocks(int fd)
{
	struct stat st;

	return fd >= 0 && !fstat(fd, &st) ? (uint64_t)st.st_blocks * 512 : 0;
}

static bool lives(const struct mvm *v)
{
	return v->pid && v->share;
}

static uint64_t overhead_of(struct mvm *v, uint64_t now)
{
	uint64_t kept = 0;

	manager_sample_overhead(v, now, false);
	if (now - v->start_ns < YOUNG_NS && v->overhead < YOUNG_OVERHEAD)
		kept = YOUNG_OVERHEAD - v->overhead;
	v->re.cache_seen = v->cache + kept;
	return v->overhead + kept;
}

/* The monitor's word, so it is bounded by what was configured. */
uint64_t manager_own_bytes(const struct mvm *v)
{
	const struct control *c = v->control;
	uint64_t pages = v->mem >> PAGE_SHIFT, own = 0;
	const uint64_t *const words[] = {
		&c->private_pages, &c->compressed_pages, &c->swapped_pages};

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		uint64_t n = control_get(words[i]);

		own += n < pages ? n : pages;
	}
	return (own < pages ? own : pages) << PAGE_SHIFT;
}

static uint64_t wanted(const struct mvm *v)
{
	uint64_t own = manager_own_bytes(v);

	return own + own / 8 + HEADROOM;
}

static void fill(struct mvm *v, struct reclaim_vm *r)
{
	uint64_t active = control_get(&v->control->active_bytes);

	v->re.used = blocks(v->memfd) + blocks(v->store_fd);
	*r = (struct reclaim_vm){
		.shares = v->re.shares,
		.min = v->re.min,
		.max = v->re.max,
		.used = v->re.used,
		.want = wanted(v),
		.active = active < v->mem ? active : v->mem,
		.quota = v->re.quota,
	};
}

/* ---- what is done about it ---- */

static void check_bound(struct manager *m, struct mvm *v, uint64_t now)
{
	uint64_t used = v->re.used;

	/* Kernel and initrd are loaded before it listens; and one that was
	 * taken over had another's quota. */
	if (now - v->since_ns < YOUNG_NS) {
		v->re.bound = used > v->re.quota ? used : v->re.quota;
		return;
	}
	if (used > v->re.bound + SLACK) {
		manager_event(m,
			      "%s: has taken %" PRIu64 " MiB, its quota is "
			      "%" PRIu64 ": killed",
			      v->name, used / MB, v->re.quota / MB);
		mvm_kill(v, SIGKILL);
	}
	if (used < v->re.bound)
		v->re.bound = used;
	if (v->re.bound < v->re.quota)
		v->re.bound = v->re.quota;
}

void manager_nudge(struct mvm *v)
{
	struct share_msg msg = {.type = SHARE_MSG_NUDGE};

	if (v->socket < 0)
		return;
	(void)fail_point("kill-manager-nudge");
	(void)send(v->socket, &msg, share_msg_bytes(&msg),
		   MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void nudge(struct mvm *v, uint64_t now)
{
	bool over = v->re.used > v->re.quota;

	if (now - v->re.nudge_ns < (over ? RECLAIM_MS * 1000000ull : NUDGE_NS))
		return;
	v->re.nudge_ns = now;
	manager_nudge(v);
}

static void tell_waiting(struct manager *m, struct mvm *v)
{
	bool waits = control_get(&v->control->waiting) != 0;

	if (waits && !v->re.told_waiting) {
		v->re.told_waiting = true;
		manager_event(
			m,
			"%s: waits for memory: %" PRIu64 " MiB of its own "
			"do not compress, and its quota is %" PRIu64 " MiB",
			v->name, v->re.used / MB, v->re.quota / MB);
	}
}

/* Loud, but once a minute at most. */
static void tell_swap(struct manager *m, struct mvm *v, uint64_t now)
{
	static const enum evict why[2] = {EVICT_swap_full, EVICT_swap_error};
	static const char *const what[2] = {"is full", "cannot be written"};

	for (unsigned i = 0; i < 2; i++) {
		uint64_t n = control_get(&v->control->evict[why[i]]);
		bool more = n != v->re.swap_bad[i];

		v->re.swap_bad[i] = n;
		if (!more || v->swap_fd < 0 ||
		    (v->re.swap_told_ns &&
		     now - v->re.swap_told_ns < 60 * NS_PER_S))
			continue;
		v->re.swap_told_ns = now;
		manager_event(m,
			      "%s: its swap file %s; its pages stay in memory, "
			      "and it may have to wait",
			      v->name, what[i]);
	}
}

static void apply(struct manager *m, struct mvm *v, const struct reclaim_vm *r,
		  uint64_t now)
{
	v->re.quota = r->quota > PAGE_SIZE ? r->quota : PAGE_SIZE;
	(void)fail_point("kill-manager-quota");
	control_set(&v->control->quota_bytes, v->re.quota);
	control_set(&v->control->cache_seen, v->re.cache_seen);
	check_bound(m, v, now);
	manager_balloon(v, r->target, now);
	nudge(v, now);
	tell_waiting(m, v);
	tell_swap(m, v, now);
}

static uint64_t pools(struct manager *m)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m->n_groups; i++)
		sum += blocks(share_group_pool_fd(m->groups[i].g));
	return sum;
}

/* A manager that does not get to run, or is held up, is to be known: the VMs go
 * on under the quotas that they have. */
static void tell_late(struct manager *m, uint64_t now)
{
	uint64_t late = m->reclaim_ns ? now - m->reclaim_ns : 0;

	if (late < NS_PER_S || late < m->late_ns + m->late_ns / 4)
		return;
	m->late_ns = late;
	manager_event(m, "the budget was not looked at for %" PRIu64 " ms",
		      late / 1000000);
}

void manager_reclaim(struct manager *m, uint64_t now)
{
	uint64_t budget = m->cfg.budget_bytes, used = pools(m), bytes;
	uint64_t fixed = used + reserve_of(m);
	struct reclaim_vm *r;
	size_t n = 0, k = 0;

	if (!m->cfg.enforce || now < m->reclaim_ns)
		return;
	tell_late(m, now);
	m->reclaim_ns = now + RECLAIM_MS * 1000000ull;
	r = calloc(m->n_vms + 1, sizeof(*r));
	if (!r)
		return;
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];
		uint64_t overhead;

		if (!lives(v))
			continue;
		overhead = overhead_of(v, now);
		fill(v, &r[n]);
		used += r[n++].used + overhead;
		fixed += overhead;
	}
	bytes = budget > fixed ? budget - fixed : 0;
	m->reclaim_state = reclaim_next_state(
		m->reclaim_state, budget > used ? budget - used : 0, budget);
	(void)fail_point("kill-manager-divide");
	reclaim_divide(r, n, bytes, TAX);
	reclaim_step(r, n, bytes, m->reclaim_state);
	for (size_t i = 0; i < m->n_vms; i++)
		if (lives(m->vms[i]))
			apply(m, m->vms[i], &r[k++], now);
	free(r);
}
