/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock and the thread of mm/largepage.
 *
 * Collapsing takes the host some milliseconds a region, so it has a thread of
 * its own. A round goes: timer (I/O thread) -> step (vCPU thread: plan) ->
 * worker -> finish (vCPU thread), and at once the next step while there is
 * something to do. The worker sleeps on a condition; the round's state is the
 * only thing that the two share, under one lock.
 *
 * vm_large_stop waits for the worker before the run's audit and before the
 * memory goes away.
 */
#include "vmm/large.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mm/largepage/largepage.h"
#include "vmm/dev/iothread.h"

#define TICK_NS	     250000000l
#define TICKS_LOOK   4u /* without a hint */
#define WORKER_STACK 65536u

enum round { ROUND_NONE, ROUND_WORK, ROUND_DONE, ROUND_END };

struct vm_large {
	struct vm *vm;
	struct largepage *lp;
	int timer, smaps;
	unsigned ticks;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* round */
	pthread_cond_t cond;
	enum round round;
	struct vm_work step_work, finish_work;
	_Atomic bool step_posted;
	struct stat_group stat_group;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void *worker(void *arg)
{
	struct vm_large *l = arg;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		while (l->round == ROUND_NONE || l->round == ROUND_DONE)
			pthread_cond_wait(&l->cond, &l->lock);
		if (l->round == ROUND_END)
			break;
		pthread_mutex_unlock(&l->lock);
		largepage_work(l->lp);
		pthread_mutex_lock(&l->lock);
		l->round = ROUND_DONE;
		pthread_cond_broadcast(&l->cond);
		vm_post(l->vm, &l->finish_work);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* vCPU thread. */
static void step(struct vm_large *l)
{
	bool plan;

	pthread_mutex_lock(&l->lock);
	plan = l->round == ROUND_NONE;
	pthread_mutex_unlock(&l->lock);
	if (!plan || !largepage_plan(l->lp, now_ns()))
		return;
	pthread_mutex_lock(&l->lock);
	l->round = ROUND_WORK;
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->lock);
}

/* vCPU thread. Is it there to be finished? */
static bool finish(struct vm_large *l)
{
	bool done;

	pthread_mutex_lock(&l->lock);
	done = l->round == ROUND_DONE;
	if (done)
		l->round = ROUND_NONE;
	pthread_mutex_unlock(&l->lock);
	if (done)
		largepage_finish(l->lp);
	return done;
}

static void do_step(struct vm *vm, struct vm_work *w)
{
	struct vm_large *l = container_of(w, struct vm_large, step_work);

	l->step_posted = false;
	step(l);
}

static void do_finish(struct vm *vm, struct vm_work *w)
{
	struct vm_large *l = container_of(w, struct vm_large, finish_work);

	if (finish(l))
		step(l);
}

/* I/O thread. */
static void on_timer(void *ctx, uint32_t events)
{
	struct vm_large *l = ctx;
	uint64_t n;

	if (read(l->timer, &n, sizeof(n)) != sizeof(n))
		return;
	if (++l->ticks < TICKS_LOOK && !largepage_hinted(l->lp))
		return;
	l->ticks = 0;
	if (!atomic_exchange(&l->step_posted, true))
		vm_post(l->vm, &l->step_work);
}

static int start_worker(struct vm_large *l)
{
	pthread_attr_t a;
	int r;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, WORKER_STACK);
	r = pthread_create(&l->thread, &a, worker, l);
	pthread_attr_destroy(&a);
	l->started = !r;
	return -r;
}

static int start_timer(struct vm_large *l)
{
	struct itimerspec its = {{0, TICK_NS}, {0, TICK_NS}};

	l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer < 0 || timerfd_settime(l->timer, 0, &its, NULL))
		return -errno;
	return iothread_add_fd(l->vm->io, l->timer, EPOLLIN, on_timer, l);
}

int vm_large_create(struct vm *vm)
{
	struct vm_large *l;
	int r;

	if (vm->cfg.backing == BACKING_4K)
		return 0;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	vm->large = l;
	l->vm = vm;
	l->step_work.fn = do_step;
	l->finish_work.fn = do_finish;
	l->timer = -1;
	/* Confined processes open nothing. */
	l->smaps = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->cond, NULL);
	r = largepage_create(vm->p2m, vm->cfg.backing, vm->cfg.pool_fd >= 0,
			     &l->lp);
	if (r)
		return r;
	largepage_stat_group(l->lp, &l->stat_group);
	vm_add_stats(vm, &l->stat_group);
	if (vm->cfg.backing == BACKING_ALL)
		vm_large_settle(vm);
	r = start_worker(l);
	return r ? r : start_timer(l);
}

void vm_large_stop(struct vm *vm)
{
	struct vm_large *l = vm->large;

	if (!l || !l->started)
		return;
	pthread_mutex_lock(&l->lock);
	while (l->round == ROUND_WORK)
		pthread_cond_wait(&l->cond, &l->lock);
	pthread_mutex_unlock(&l->lock);
	finish(l);
	pthread_mutex_lock(&l->lock);
	l->round = ROUND_END;
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	l->started = false;
}

void vm_large_destroy(struct vm *vm)
{
	struct vm_large *l = vm->large;

	if (!l)
		return;
	vm_large_stop(vm);
	if (l->timer >= 0)
		close(l->timer);
	if (l->smaps >= 0)
		close(l->smaps);
	largepage_destroy(l->lp);
	pthread_cond_destroy(&l->cond);
	pthread_mutex_destroy(&l->lock);
	free(l);
	vm->large = NULL;
}

uint64_t vm_large_settle(struct vm *vm)
{
	struct vm_large *l = vm->large;
	uint64_t now = now_ns();

	if (!l)
		return 0;
	pthread_mutex_lock(&l->lock);
	while (l->round == ROUND_WORK)
		pthread_cond_wait(&l->cond, &l->lock);
	pthread_mutex_unlock(&l->lock);
	finish(l);
	/* A clock that runs ahead, so that a look is always due. */
	for (unsigned looks = 0; looks < 4; now += 1000000000ull) {
		if (!largepage_plan(l->lp, now)) {
			looks++;
			continue;
		}
		largepage_work(l->lp);
		largepage_finish(l->lp);
	}
	return p2m_large_regions(vm->p2m);
}

bool vm_large_now(struct vm *vm, ppn_t ppn, enum largepage_use use)
{
	struct vm_large *l = vm->large;

	return l &&
	       largepage_now(l->lp, ppn.n / P2M_REGION_PAGES, use, now_ns()) &&
	       p2m_is_large(vm->p2m, ppn);
}

/* The sum of the lines "ShmemPmdMapped: 2048 kB" and "FilePmdMapped: ..." */
int64_t vm_large_mapped(struct vm *vm)
{
	static const char *const keys[] = {"ShmemPmdMapped:", "FilePmdMapped:"};
	char text[4096];
	int64_t sum = 0;
	ssize_t n;

	if (!vm->large || vm->large->smaps < 0)
		return -1;
	n = pread(vm->large->smaps, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *p = strstr(text, keys[i]);

		if (p)
			sum += strtoll(p + strlen(keys[i]), NULL, 10) << 10;
	}
	return sum;
}
