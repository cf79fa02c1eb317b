/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Within the quota, at all times.
 *
 * The manager says how much (a word in the control area, changed at any time);
 * the monitor says which pages, and gives them up itself. So there is no
 * message to lose: when the manager dies, the quota that it wrote last stays
 * and is kept.
 *
 * The p2m calls pressure() as soon as a touch has taken the VM over its quota.
 * That may be in the middle of anything, so it only posts work: the engine
 * comes out at its next boundary, having taken a few dozen pages at most, and
 * the vCPU thread gives up as many cold pages. A guest that dirties its memory
 * as fast as it can thus pays for each page with one of its own (direct
 * reclaim). When there is nothing that could be given up, the guest does not
 * run until the manager raises the quota; what else is asked of the thread
 * (messages, the end) is done meanwhile.
 *
 * A quota may be lowered far below what the VM has. Then the work is done in
 * pieces, between which the guest runs.
 *
 * A guest that stands still cannot give memory up either. While its balloon has
 * been asked to grow it may therefore run with what it has and a little more (a
 * loan), less than what the manager keeps in reserve.
 *
 * When the quota is raised again, a guest finds its pages in the store and in the
 * swap file one by one, at a host fault each. So while there is room, and the
 * guest has waited for FETCH_LEAST pages since the last look, FETCH_EACH more are
 * brought back for each that it waits for, wherever they are, before it goes on:
 * the guest sets the pace, and never stands still for long. (Brought back all in
 * one go after each look, every two seconds, it took 2.5 s and not 1.2 until eight
 * guests no longer waited, and one with much away did nothing meanwhile.)
 * They are marked idle: what nobody wants is the first to go again.
 *
 * Killed here: the guest ends, its memory, store and swap file with it.
 */
#include "vmm/monitor_reclaim.h"

#include <sys/random.h>
#include <time.h>

#include "mm/base/log.h"
#include "mm/p2m_reclaim.h"

#define PIECE	    512u /* pages given up in one go: some 5 ms */
#define SLACK	    128u /* pages below the quota when it was hit */
#define SAMPLE_NS   1900000000ull
#define SAMPLE_MOST 8u
#define LOOK_AHEAD  512u /* pages marked at a nudge */
#define WAIT_NS	    5000000ull
#define FETCH_LEAST 64u /* pages between two looks, for it to be worth it */
#define FETCH_EACH  64u
#define FETCH_PIECE 128u /* pages at a time: a millisecond or two */
#define LOAN	    64u	 /* the quota's part */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void post(struct vm *vm, struct vm_work *w, _Atomic bool *posted)
{
	if (!atomic_exchange(posted, true))
		vm_post(vm, w);
}

/* Owner thread, within a touch. */
static void pressure(void *ctx)
{
	struct monitor_reclaim *r = ctx;

	post(r->vm, &r->press, &r->press_posted);
}

static bool over(const struct monitor_reclaim *r)
{
	uint64_t quota = p2m_quota(r->vm->p2m);

	return quota && p2m_resident(r->vm->p2m) > quota;
}

/* Nothing could be given up, or only what the guest is using. May it run
 * nevertheless? */
static bool may_run(struct monitor_reclaim *r)
{
	const struct control *c = r->control;
	uint64_t have = p2m_resident(r->vm->p2m);

	if (!over(r))
		return true;
	if (!r->stuck_at || have < r->stuck_at)
		r->stuck_at = have;
	if (!(control_get(&c->balloon_up) & 1) ||
	    control_get(&c->balloon_target) <= control_get(&c->balloon_actual))
		return false;
	return have <= r->stuck_at + p2m_quota(r->vm->p2m) / LOAN;
}

/* One piece. False: there was nothing to give up. */
static bool shrink(struct monitor_reclaim *r)
{
	struct p2m *p = r->vm->p2m;
	uint64_t quota = p2m_quota(p);
	uint64_t slack = SLACK * PAGE_SIZE, have = p2m_resident(p), goal;

	if (slack > quota / 64)
		slack = quota / 64;
	goal = quota - slack;
	if (have > goal + PIECE * PAGE_SIZE)
		goal = have - PIECE * PAGE_SIZE;
	return p2m_shrink(p, goal, 4 * p2m_ram_bytes(p) / PAGE_SIZE) > 0;
}

/* Nothing to give up: the guest stands still, and others are served. */
static void wait(struct monitor_reclaim *r)
{
	const struct timespec pause = {0, WAIT_NS};
	uint64_t begin = now_ns();

	/* For the disk is no news for the manager. */
	control_set(&r->control->waiting, !p2m_swapping(r->vm->p2m));
	while (!may_run(r) && !atomic_load(&r->vm->vcpu->requests))
		nanosleep(&pause, NULL);
	control_set(&r->control->waiting, 0);
	control_add(&r->control->wait_ns, now_ns() - begin);
}

/* vCPU thread, outside of the engine. */
static void press(struct vm *vm, struct vm_work *w)
{
	struct monitor_reclaim *r =
		container_of(w, struct monitor_reclaim, press);

	uint64_t forced;

	r->press_posted = false;
	if (!over(r)) {
		r->stuck_at = 0;
		return;
	}
	/* The next page that it takes is looked at. */
	if (r->stuck_at && may_run(r))
		return;
	control_add(&r->control->shrinks, 1);
	forced = control_get(&r->control->forced_pages);
	if (!shrink(r)) {
		if (may_run(r))
			return;
		wait(r);
	} else if (control_get(&r->control->forced_pages) == forced) {
		r->stuck_at = 0;
	} else if (may_run(r)) {
		return;
	}
	if (over(r))
		pressure(r);
}

/* A guest that waits, for its pages or for a CPU that others have, touches
 * little, and would be taken for the more idle the more it lacks. So only the time
 * counts in which it ran or had nothing to do, within bounds. vCPU thread. */
static bool sample_due(struct monitor_reclaim *r, uint64_t now)
{
	const struct run_stats *st = &r->vm->run_stats;
	uint64_t own = thread_ns() + st->hlt_ns + st->paused_ns;
	uint64_t gone = now - r->sampled_ns, counts = own - r->own_ns;

	if (gone < SAMPLE_MOST * SAMPLE_NS && counts < SAMPLE_NS)
		return false;
	r->sampled_ns = now;
	r->own_ns = own;
	return true;
}

/* How many pages may come back without any others having to go. */
static uint64_t room(const struct monitor_reclaim *r)
{
	uint64_t quota = p2m_quota(r->vm->p2m);
	uint64_t most = quota - quota / 8, have = p2m_resident(r->vm->p2m);

	return have < most ? (most - have) / PAGE_SIZE : 0;
}

/* The next page that is in the store or in the swap file, or false. */
static bool next_away(struct monitor_reclaim *r, ppn_t *ppn)
{
	struct p2m *p = r->vm->p2m;
	uint64_t n = p2m_max_ppn(p);

	for (uint64_t i = 0; i < n; i++) {
		enum p2m_state st;

		r->next = r->next + 1 < n ? r->next + 1 : 0;
		*ppn = (ppn_t){(uint32_t)r->next};
		st = p2m_get_state(p, *ppn);
		if (st == P2M_COMPRESSED || st == P2M_SWAPPED)
			return true;
	}
	return false;
}

/* Pages that the guest has waited for, ever. */
static uint64_t waited_for(const struct monitor_reclaim *r)
{
	const struct control *c = r->control;

	return c->decompressed + c->swapped_in - c->swap_ahead;
}

/* Owner thread, within a touch. */
static void page_came(void *ctx)
{
	struct monitor_reclaim *r = ctx;

	if (!r->fetching && waited_for(r) - r->came >= FETCH_LEAST && room(r))
		post(r->vm, &r->fetch, &r->fetch_posted);
}

/* vCPU thread, outside of the engine. */
static void fetch(struct vm *vm, struct vm_work *w)
{
	struct monitor_reclaim *r =
		container_of(w, struct monitor_reclaim, fetch);
	uint64_t n = (waited_for(r) - r->paid) * FETCH_EACH, most = room(r);
	ppn_t ppn;

	r->fetch_posted = false;
	if (n > FETCH_PIECE)
		n = FETCH_PIECE;
	if (n > most)
		n = most;
	r->fetching = true;
	for (; n && next_away(r, &ppn); n--) {
		p2m_read(vm->p2m, ppn);
		p2m_mark_idle(vm->p2m, ppn);
		control_add(&r->control->swap_ahead, 1);
	}
	r->fetching = false;
	r->paid = waited_for(r);
}

/* vCPU thread, outside of the engine. */
static void look(struct vm *vm, struct vm_work *w)
{
	struct monitor_reclaim *r =
		container_of(w, struct monitor_reclaim, look);
	uint64_t quota = p2m_quota(r->vm->p2m);
	uint64_t now = now_ns();

	r->look_posted = false;
	if (sample_due(r, now)) {
		r->rnd = r->rnd * 6364136223846793005ull + now;
		p2m_sample(vm->p2m, r->rnd | 1);
	}
	if (quota && p2m_resident(vm->p2m) > quota - quota / 8)
		p2m_look_ahead(vm->p2m, LOOK_AHEAD);
	r->came = waited_for(r);
	if (over(r))
		pressure(r);
}

/* vCPU thread, outside of the engine. */
static void reap(struct vm *vm, struct vm_work *w)
{
	struct monitor_reclaim *r =
		container_of(w, struct monitor_reclaim, reap);

	r->reap_posted = false;
	p2m_swap_reap(vm->p2m);
}

/* The swap file's thread. */
static void written(void *ctx)
{
	struct monitor_reclaim *r = ctx;

	post(r->vm, &r->reap, &r->reap_posted);
}

bool monitor_reclaim_short(const struct monitor_reclaim *r)
{
	const struct control *c = r->control;
	uint64_t quota = p2m_quota(r->vm->p2m);

	return quota && (control_get(&c->private_pages) << PAGE_SHIFT) +
					control_get(&c->store_bytes) >
				quota - quota / 8;
}

void monitor_reclaim_nudge(struct monitor_reclaim *r)
{
	post(r->vm, &r->look, &r->look_posted);
}

/* The p2m cannot go on: no byte but the lost ones would be right. */
static void on_lost(void *ctx, const char *why)
{
	struct monitor_reclaim *r = ctx;

	log_error("%s: stopped, because memory of the guest is lost: %s",
		  r->vm->cfg.name, why);
	control_set(&r->control->state, CONTROL_ERROR);
	if (r->give_up)
		r->give_up();
	BUG_ON("give_up came back");
}

void monitor_reclaim_init(struct monitor_reclaim *r, struct vm *vm,
			  struct control *control, void (*give_up)(void))
{
	r->vm = vm;
	r->control = control;
	r->give_up = give_up;
	r->press.fn = press;
	r->look.fn = look;
	r->reap.fn = reap;
	r->fetch.fn = fetch;
	if (getrandom(&r->rnd, sizeof(r->rnd), GRND_NONBLOCK) != sizeof(r->rnd))
		r->rnd = now_ns();
	p2m_set_lost(vm->p2m, on_lost, r);
	p2m_set_pressure(vm->p2m, pressure, r);
	p2m_set_came(vm->p2m, page_came, r);
	p2m_set_written(vm->p2m, written, r);
	if (over(r)) /* the kernel and the initrd alone */
		pressure(r);
}
