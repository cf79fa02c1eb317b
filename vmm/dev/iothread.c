/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One epoll loop. Three kinds of things wake it: an eventfd (stop, or look
 * again), a timerfd for the earliest timer, and the descriptors that were
 * added.
 *
 * Timers are set far more often than they fire (a guest's kernel sets its TSC
 * deadline at each interrupt), so setting one must be cheap: the timerfd is
 * programmed only when the new time is *earlier* than what it is programmed
 * for. A timer that is moved later or disarmed leaves the timerfd alone: it
 * fires, finds nothing due, and is programmed for what is next then. `armed_ns`
 * is what it is programmed for.
 *
 * Locks: dev_lock covers the heap and armed_ns; fd_lock covers the table of
 * descriptors, is taken inside dev_lock or alone, and never held in a callback.
 * A table entry that is removed is freed by the thread between two rounds, so
 * that the events of one epoll_wait() never meet a freed entry.
 */
#include "vmm/dev/iothread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/dev/timerheap.h"

struct io_fd {
	int fd;
	uint32_t events;
	bool dead;
	bool no_epoll; /* a regular file */
	void (*cb)(void *ctx, uint32_t events);
	void *ctx;
	struct io_fd *next;
};

#define IO_STATS(X)                                                            \
	X(rounds, "times the I/O thread woke up")                              \
	X(timers, "device timers that fired")                                  \
	X(timer_early, "wake-ups for a timer that had been moved")             \
	X(timer_set, "times the host's timer was programmed")                  \
	X(fd_events, "events on descriptors")
struct io_stats {
	IO_STATS(STAT_FIELD)
};
static const struct stat_desc io_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(io_stats, name, help),
	IO_STATS(D)
#undef D
};

struct iothread {
	pthread_mutex_t *dev_lock;
	pthread_mutex_t fd_lock;
	int epfd, wakefd, timerfd;
	pthread_t thread;
	bool running;
	_Atomic bool stop;
	struct timer_heap heap;
	unsigned time_shift;
	uint64_t armed_ns; /* ~0: not programmed */
	struct io_fd *fds;
	unsigned n_no_epoll; /* entries that epoll cannot watch, with events */
	struct io_stats st;
};

/* ---- the clock ---- */

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}
static uint64_t io_now(void *ctx)
{
	const struct iothread *io = ctx;

	return read_clock(CLOCK_MONOTONIC) >> io->time_shift;
}
static uint64_t io_wall(void *ctx)
{
	return read_clock(CLOCK_REALTIME);
}

/* Program the timerfd if what is next comes before what it knows. */
static void io_program(struct iothread *io)
{
	uint64_t next = timer_heap_next(&io->heap);
	struct itimerspec its = {0};

	if (next >= io->armed_ns)
		return;
	if (!next)
		next = 1; /* zero would disarm */
	next <<= io->time_shift;
	its.it_value.tv_sec = next / NS_PER_SEC;
	its.it_value.tv_nsec = next % NS_PER_SEC;
	io->st.timer_set++;
	BUG_ON(timerfd_settime(io->timerfd, TFD_TIMER_ABSTIME, &its, NULL));
	io->armed_ns = next;
}

static void io_arm(void *ctx, struct timer *t, uint64_t at_ns)
{
	struct iothread *io = ctx;

	timer_heap_set(&io->heap, t, at_ns);
	io_program(io);
}

static void io_disarm(void *ctx, struct timer *t)
{
	struct iothread *io = ctx;

	timer_heap_remove(&io->heap, t);
}

static const struct clock_ops io_clock_ops = {io_now, io_wall, io_arm,
					      io_disarm};

struct clock iothread_clock(struct iothread *io)
{
	return (struct clock){&io_clock_ops, io};
}

void iothread_run_timers(struct iothread *io)
{
	uint64_t now = io_now(io);
	struct timer *t;

	/* `now` is fixed: a timer that arms itself again cannot hold us. */
	while ((t = timer_heap_pop(&io->heap, now))) {
		io->st.timers++;
		t->fn(t->ctx);
	}
}

static void io_timerfd(struct iothread *io)
{
	uint64_t n, before;

	if (read(io->timerfd, &n, sizeof(n)) != sizeof(n))
		return; /* programmed anew meanwhile */
	pthread_mutex_lock(io->dev_lock);
	before = io->st.timers;
	io->armed_ns = ~0ull;
	iothread_run_timers(io);
	io->st.timer_early += io->st.timers == before;
	io_program(io);
	pthread_mutex_unlock(io->dev_lock);
}

/* ---- descriptors ---- */

static struct io_fd *io_find(struct iothread *io, int fd)
{
	struct io_fd *f;

	for (f = io->fds; f; f = f->next)
		if (f->fd == fd && !f->dead)
			return f;
	return NULL;
}

static void io_wake(struct iothread *io)
{
	uint64_t one = 1;

	(void)!write(io->wakefd, &one, sizeof(one));
}

static void count_no_epoll(struct iothread *io, struct io_fd *f, int sign)
{
	if (f->no_epoll && f->events)
		__atomic_fetch_add(&io->n_no_epoll, sign, __ATOMIC_RELAXED);
}

static int io_epoll_add(struct iothread *io, struct io_fd *f)
{
	struct epoll_event ev = {.events = f->events, .data.ptr = f};

	ASSERT(f->events);
	if (!epoll_ctl(io->epfd, EPOLL_CTL_ADD, f->fd, &ev))
		return 0;
	if (errno != EPERM)
		return -errno;
	f->no_epoll = true;
	count_no_epoll(io, f, 1);
	io_wake(io);
	return 0;
}

int iothread_add_fd(struct iothread *io, int fd, uint32_t events,
		    void (*cb)(void *ctx, uint32_t events), void *ctx)
{
	struct io_fd *f = calloc(1, sizeof(*f));
	int err = -EEXIST;

	if (!f)
		return -ENOMEM;
	*f = (struct io_fd){.fd = fd, .events = events, .cb = cb, .ctx = ctx};
	pthread_mutex_lock(&io->fd_lock);
	if (!io_find(io, fd))
		err = io_epoll_add(io, f);
	if (!err) {
		f->next = io->fds;
		io->fds = f;
	}
	pthread_mutex_unlock(&io->fd_lock);
	if (err)
		free(f);
	return err;
}

int iothread_mod_fd(struct iothread *io, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events};
	struct io_fd *f;
	int err = 0;

	pthread_mutex_lock(&io->fd_lock);
	f = io_find(io, fd);
	if (!f) {
		err = -ENOENT;
	} else if (f->no_epoll) {
		count_no_epoll(io, f, -1);
		f->events = events;
		count_no_epoll(io, f, 1);
		io_wake(io);
	} else {
		/* A pause takes it out: epoll tells EPOLLHUP unasked. */
		int op = !events      ? EPOLL_CTL_DEL
			 : !f->events ? EPOLL_CTL_ADD
				      : EPOLL_CTL_MOD;

		ev.data.ptr = f;
		if ((events || f->events) && epoll_ctl(io->epfd, op, fd, &ev))
			err = -errno;
		f->events = events;
	}
	pthread_mutex_unlock(&io->fd_lock);
	return err;
}

void iothread_del_fd(struct iothread *io, int fd)
{
	struct io_fd *f;

	pthread_mutex_lock(&io->fd_lock);
	f = io_find(io, fd);
	if (f) {
		count_no_epoll(io, f, -1);
		f->dead = true;
		if (!f->no_epoll && f->events)
			epoll_ctl(io->epfd, EPOLL_CTL_DEL, fd, NULL);
	}
	pthread_mutex_unlock(&io->fd_lock);
}

static void io_reap(struct iothread *io, bool all)
{
	struct io_fd **p, *f;

	pthread_mutex_lock(&io->fd_lock);
	for (p = &io->fds; (f = *p);) {
		if (all || f->dead) {
			*p = f->next;
			free(f);
		} else {
			p = &f->next;
		}
	}
	pthread_mutex_unlock(&io->fd_lock);
}

static void io_call(struct iothread *io, struct io_fd *f, uint32_t events)
{
	bool dead;

	pthread_mutex_lock(&io->fd_lock);
	dead = f->dead;
	pthread_mutex_unlock(&io->fd_lock);
	if (dead)
		return;
	io->st.fd_events++;
	f->cb(f->ctx, events);
}

/* Entries are added at the head and freed by this thread only, so the list can
 * be walked without the lock once its head has been read. */
static void io_call_no_epoll(struct iothread *io)
{
	struct io_fd *f;

	pthread_mutex_lock(&io->fd_lock);
	f = io->fds;
	pthread_mutex_unlock(&io->fd_lock);
	for (; f; f = f->next)
		if (f->no_epoll && f->events)
			io_call(io, f, f->events & (EPOLLIN | EPOLLOUT));
}

/* ---- the thread ---- */

static void io_round(struct iothread *io)
{
	struct epoll_event ev[16];
	unsigned files = __atomic_load_n(&io->n_no_epoll, __ATOMIC_RELAXED);
	uint64_t n;
	int i, r;

	r = epoll_wait(io->epfd, ev, ARRAY_SIZE(ev), files ? 0 : -1);
	io->st.rounds++;
	for (i = 0; i < r; i++) {
		if (ev[i].data.ptr == &io->wakefd)
			(void)!read(io->wakefd, &n, sizeof(n));
		else if (ev[i].data.ptr == &io->timerfd)
			io_timerfd(io);
		else
			io_call(io, ev[i].data.ptr, ev[i].events);
	}
	if (files)
		io_call_no_epoll(io);
	io_reap(io, false);
}

static void *io_main(void *arg)
{
	struct iothread *io = arg;

	while (!io->stop)
		io_round(io);
	return NULL;
}

int iothread_start(struct iothread *io)
{
	sigset_t all, old;
	int err;

	if (io->running)
		return 0;
	io->stop = false;
	/* Signals are for the vCPU thread (faults of translated code, kicks)
	 * and the cli's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&io->thread, NULL, io_main, io);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return -err;
	pthread_setname_np(io->thread, "io");
	io->running = true;
	return 0;
}

void iothread_stop(struct iothread *io)
{
	if (!io->running)
		return;
	io->stop = true;
	io_wake(io);
	pthread_join(io->thread, NULL);
	io->running = false;
}

static int io_watch_own(struct iothread *io, int fd, void *tag)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};

	if (fd < 0 || epoll_ctl(io->epfd, EPOLL_CTL_ADD, fd, &ev))
		return -errno;
	return 0;
}

int iothread_create(pthread_mutex_t *dev_lock, unsigned time_shift,
		    struct iothread **out)
{
	struct iothread *io = calloc(1, sizeof(*io));
	int err = 0;

	if (!io)
		return -ENOMEM;
	io->dev_lock = dev_lock;
	io->time_shift = time_shift;
	io->armed_ns = ~0ull;
	pthread_mutex_init(&io->fd_lock, NULL);
	io->wakefd = io->timerfd = -1;
	io->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (io->epfd < 0)
		err = -errno;
	if (!err) {
		io->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		err = io_watch_own(io, io->wakefd, &io->wakefd);
	}
	if (!err) {
		io->timerfd = timerfd_create(CLOCK_MONOTONIC,
					     TFD_CLOEXEC | TFD_NONBLOCK);
		err = io_watch_own(io, io->timerfd, &io->timerfd);
	}
	if (err) {
		iothread_destroy(io);
		return err;
	}
	*out = io;
	return 0;
}

void iothread_destroy(struct iothread *io)
{
	if (!io)
		return;
	iothread_stop(io);
	io_reap(io, true);
	if (io->timerfd >= 0)
		close(io->timerfd);
	if (io->wakefd >= 0)
		close(io->wakefd);
	if (io->epfd >= 0)
		close(io->epfd);
	pthread_mutex_destroy(&io->fd_lock);
	free(io);
}

void iothread_stat_group(struct iothread *io, struct stat_group *g)
{
	*g = (struct stat_group){"iothread", io_stat_desc,
				 ARRAY_SIZE(io_stat_desc), &io->st, NULL};
}
