/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads. The main thread is the vCPU thread. The I/O thread brings the
 * manager's messages: each is received into a slot of a small queue and posted
 * to the vCPU thread, which alone may change the p2m; that thread also sends
 * the answer. The manager has a bounded number of messages under way, so the
 * queue cannot overflow unless the manager breaks the protocol; then the
 * monitor hangs up, as it does on any malformed message, and runs on alone.
 *
 * Console. The UART writes into a pipe of ours; the I/O thread moves it to the
 * log file and looks for the marker on the way. The log is bounded, because a
 * guest decides how much it prints.
 *
 * Statistics. The same timer copies the VM's counters into the control area,
 * where the manager reads them (mm/control_stats.h).
 *
 * Idle. What makes a guest fast costs memory: the translations of its boot are
 * most of a monitor. A timer looks at the process's CPU time; when the guest has
 * been quiet for two periods after having done something, the engine is asked
 * to give back what it can make again (trim), and so is the allocator. An idle
 * guest needs a few hundred translations; they come back in milliseconds. A busy
 * one that has to give up pages that it uses does the same, once a minute at most
 * and if that gives some megabytes: what it has not executed since its boot is
 * worth less than its memory.
 */
#include "vmm/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/control.h"
#include "mm/control_stats.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"
#include "vmm/dev/iothread.h"
#include "vmm/monitor_adopt.h"
#include "vmm/monitor_balloon.h"
#include "vmm/monitor_read.h"
#include "vmm/monitor_reclaim.h"
#include "vmm/monitor_rest.h"
#include "vmm/sigfd.h"

#define QUEUE	      16

/* Idle: less CPU time than this in each of two periods; worth a trim: more than
 * that since the last one. */
#define IDLE_PERIOD_S 2
#define IDLE_NS	      (IDLE_PERIOD_S * 50000000ull) /* 5% */
#define TRIM_NS	      200000000ull
/* A busy guest that has too little memory: so often at the most, and if it
 * is worth what comes back a fault each. */
#define SHORT_NS      60000000000ull
#define SHORT_BYTES   (4ull << 20)

/* jemalloc's; absent in builds with a sanitizer. */
extern int mallctl(const char *name, void *old, size_t *oldlen, void *new,
		   size_t newlen) __attribute__((weak));

struct request {
	struct vm_work work; /* first: the work's address is the request's */
	struct monitor *m;
	bool busy;
	size_t len;
	struct share_msg msg;
};

struct monitor {
	const struct monitor_config *cfg;
	struct vm *vm;
	struct control *control;
	size_t control_bytes;
	int signals;
	int socket; /* to the manager; -1: none. The vCPU thread changes it. */
	int idle_timer;
	uint64_t cpu_ns, cpu_trimmed_ns; /* CPU time at the last look, trim */
	uint64_t trimmed_ns;
	_Atomic unsigned quiet; /* periods in a row; the I/O thread's */
	struct vm_work trim_work;
	_Atomic bool trim_posted;
	int console[2]; /* pipe: UART -> I/O thread */
	uint64_t boot_ns;
	uint64_t logged;
	bool log_full;
	size_t matched;	      /* bytes of the marker seen */
	bool up;	      /* the marker came */
	pthread_mutex_t lock; /* busy flags, hung_up */
	bool hung_up;
	struct request queue[QUEUE];
	struct monitor_reclaim reclaim;
	struct monitor_balloon balloon;
	struct monitor_rest rest;
	struct monitor_read read;
	struct monitor_adopt adopt;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* ---- the manager's messages ---- */

/* No more from this manager. I/O or vCPU thread. shutdown() makes the other
 * side see it, and the I/O thread take the descriptor out. */
static void hang_up(struct monitor *m, const char *why)
{
	bool first;

	pthread_mutex_lock(&m->lock);
	first = !m->hung_up;
	m->hung_up = true;
	pthread_mutex_unlock(&m->lock);
	if (!first)
		return;
	log_info("%s: no manager any more (%s); running on unshared",
		 m->cfg->vm.name, why);
	if (m->socket >= 0)
		shutdown(m->socket, SHUT_RDWR);
}

/* vCPU thread. */
static void serve(struct vm *vm, struct vm_work *w)
{
	struct request *rq = container_of(w, struct request, work);
	struct monitor *m = rq->m;
	struct share_msg out;
	int r;

	p2m_set_quiet(vm->p2m, m->quiet > 0);
	r = share_monitor_handle(vm->p2m, &rq->msg, &out, false);
	if (r)
		hang_up(m, "it sent something that is no request");
	else if (send(m->socket, &out, share_msg_bytes(&out),
		      MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		hang_up(m, "it takes no answers");
	pthread_mutex_lock(&m->lock);
	rq->busy = false;
	pthread_mutex_unlock(&m->lock);
}

static struct request *free_request(struct monitor *m)
{
	struct request *rq = NULL;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < QUEUE && !rq; i++) {
		if (m->queue[i].busy)
			continue;
		rq = &m->queue[i];
		rq->busy = true;
	}
	pthread_mutex_unlock(&m->lock);
	return rq;
}

static void drop_request(struct monitor *m, struct request *rq)
{
	pthread_mutex_lock(&m->lock);
	rq->busy = false;
	pthread_mutex_unlock(&m->lock);
}

/* I/O thread: one message, or the end of the manager. */
static void on_socket(void *ctx, uint32_t events)
{
	struct monitor *m = ctx;
	struct request *rq = free_request(m);
	ssize_t n;

	if (!rq) {
		hang_up(m, "too many messages at once");
		iothread_del_fd(m->vm->io, m->socket);
		return;
	}
	n = recv(m->socket, &rq->msg, sizeof(rq->msg),
		 MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		drop_request(m, rq);
		return;
	}
	if (n <= 0 || !share_msg_ok(&rq->msg, (size_t)n)) {
		drop_request(m, rq);
		hang_up(m, n <= 0 ? "it is gone" : "a malformed message");
		iothread_del_fd(m->vm->io, m->socket);
		return;
	}
	if (rq->msg.type == SHARE_MSG_NUDGE) {
		drop_request(m, rq);
		vm_pause(m->vm, control_get(&m->control->paused) == 1);
		monitor_reclaim_nudge(&m->reclaim);
		monitor_balloon_tick(&m->balloon, m->quiet >= 2);
		return;
	}
	rq->len = (size_t)n;
	vm_post(m->vm, &rq->work);
}

/* ---- another manager ---- */

/* I/O thread. Nothing is taken from the socket any more after this. */
static void leave(void *ctx)
{
	struct monitor *m = ctx;

	iothread_del_fd(m->vm->io, m->socket);
}

/* vCPU thread; the I/O thread does not look at the socket. */
static void join(void *ctx, int socket)
{
	struct monitor *m = ctx;

	if (m->socket >= 0)
		close(m->socket);
	m->socket = m->read.socket_fd = socket;
	pthread_mutex_lock(&m->lock);
	m->hung_up = socket < 0;
	pthread_mutex_unlock(&m->lock);
	if (socket >= 0 &&
	    iothread_add_fd(m->vm->io, socket, EPOLLIN, on_socket, m))
		hang_up(m, "no memory");
}

/* ---- signals ---- */

static void on_signal(void *ctx, uint32_t events)
{
	struct monitor *m = ctx;

	if (sigfd_take(m->signals))
		vm_stop(m->vm);
}

/* SIGTERM ends the VM; what a terminal sends to everybody does not. */
static int take_signals(struct monitor *m)
{
	static const int ignored[] = {SIGINT, SIGHUP, SIGQUIT, SIGPIPE};
	sigset_t set;

	for (unsigned i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	m->signals = sigfd_open(&set);
	return m->signals < 0 ? m->signals : 0;
}

/* ---- idle ---- */

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* vCPU thread. */
static void trim(struct vm *vm, struct vm_work *w)
{
	struct monitor *m = container_of(w, struct monitor, trim_work);

	if (vm->engine->trim)
		vm->engine->trim(vm);
	if (mallctl) /* MALLCTL_ARENAS_ALL is 4096 */
		mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
	m->trim_posted = false;
}

/* I/O thread; before and after it, the main thread. */
static void publish(struct monitor *m)
{
	control_stats_publish(
		(void *)((char *)m->control + m->control->stats_off),
		m->vm->stats);
}

/* A guest at work that could do with what a trim gives? */
static bool short_of_memory(struct monitor *m)
{
	const struct vm *vm = m->vm;

	return monitor_reclaim_short(&m->reclaim) &&
	       now_ns() - m->trimmed_ns >= SHORT_NS && vm->engine->trimmable &&
	       vm->engine->trimmable(vm) >= SHORT_BYTES;
}

/* I/O thread. */
static void on_idle_timer(void *ctx, uint32_t events)
{
	struct monitor *m = ctx;
	uint64_t n, now, used;

	if (read(m->idle_timer, &n, sizeof(n)) != sizeof(n))
		return;
	publish(m);
	now = cpu_ns();
	used = now - m->cpu_ns;
	m->cpu_ns = now;
	m->quiet = used < IDLE_NS ? m->quiet + 1 : 0;
	monitor_balloon_tick(&m->balloon, m->quiet >= 2);
	monitor_rest_tick(&m->rest, m->quiet);
	if (now - m->cpu_trimmed_ns < TRIM_NS || m->trim_posted)
		return;
	if (m->quiet < 2 && !short_of_memory(m))
		return;
	m->trimmed_ns = now_ns();
	m->cpu_trimmed_ns = now;
	m->trim_posted = true;
	m->trim_work.fn = trim;
	vm_post(m->vm, &m->trim_work);
}

static int open_idle_timer(struct monitor *m)
{
	struct itimerspec its = {{IDLE_PERIOD_S, 0}, {IDLE_PERIOD_S, 0}};

	m->idle_timer =
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (m->idle_timer < 0 || timerfd_settime(m->idle_timer, 0, &its, NULL))
		return -errno;
	return 0;
}

/* ---- console ---- */

static void userland(struct monitor *m)
{
	uint64_t ms = (now_ns() - m->boot_ns) / 1000000;

	m->up = true;
	control_set(&m->control->boot_ms, ms ? ms : 1);
}

/*
 * Look for the marker across reads. On a mismatch the longest prefix that is
 * also a suffix of what was seen would be kept (Knuth, Morris, Pratt); with a
 * marker of a few dozen bytes the plain way of trying shorter prefixes costs
 * nothing.
 */
static void watch(struct monitor *m, const char *buf, size_t n)
{
	const char *k = m->cfg->marker;
	size_t len = k ? strlen(k) : 0;

	for (size_t i = 0; len && !m->up && i < n; i++) {
		while (m->matched && k[m->matched] != buf[i]) {
			size_t p = m->matched - 1;

			while (p && memcmp(k, k + m->matched - p, p))
				p--;
			m->matched = p;
		}
		if (k[m->matched] == buf[i])
			m->matched++;
		if (m->matched == len)
			userland(m);
	}
}

static void log_bytes(struct monitor *m, const char *buf, size_t n)
{
	static const char full[] = "\n[sardine: log full, rest dropped]\n";

	if (m->cfg->log_fd < 0 || m->log_full)
		return;
	if (m->logged + n > m->cfg->log_max) {
		m->log_full = true;
		buf = full;
		n = sizeof(full) - 1;
	}
	while (n) {
		ssize_t w = write(m->cfg->log_fd, buf, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0) { /* disk full, say: the VM goes on */
			m->log_full = true;
			return;
		}
		buf += w;
		n -= (size_t)w;
		m->logged += (uint64_t)w;
	}
}

/* I/O thread; the main thread when that one has stopped. */
static void on_console(void *ctx, uint32_t events)
{
	struct monitor *m = ctx;
	char buf[4096];
	ssize_t n = read(m->console[0], buf, sizeof(buf));

	if (n <= 0)
		return;
	watch(m, buf, (size_t)n);
	log_bytes(m, buf, (size_t)n);
}

static void drain_console(struct monitor *m)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(m->console[0], buf, sizeof(buf))) > 0) {
		watch(m, buf, (size_t)n);
		log_bytes(m, buf, (size_t)n);
	}
}

/* ---- life ---- */

static int prepare(struct monitor *m, char *err, size_t errlen)
{
	int r = control_map(m->cfg->control_fd, &m->control, &m->control_bytes);

	if (!r)
		r = take_signals(m);
	if (!r)
		r = open_idle_timer(m);
	if (!r && pipe2(m->console, O_CLOEXEC | O_NONBLOCK))
		r = -errno;
	if (r)
		snprintf(err, errlen, "%s: the monitor cannot start: %s",
			 m->cfg->vm.name, strerror(-r));
	return r;
}

static int create_vm(struct monitor *m, char *err, size_t errlen)
{
	struct vm_config c = m->cfg->vm;
	int r;

	c.memfd = m->cfg->memfd;
	c.pool_fd = m->cfg->pool_fd;
	c.store_fd = m->cfg->store_fd;
	c.swap_fd = m->cfg->swap_fd;
	c.control = m->control;
	c.console_out = m->console[1];
	c.console_in = -1;
	c.layout_seed = control_get(&m->control->layout_seed);
	control_set(&m->control->pid, (uint64_t)getpid());
	control_set(&m->control->state, CONTROL_STARTING);
	m->boot_ns = now_ns();
	r = vm_create(&c, &m->vm, err, errlen);
	if (!r && control_stats_init(
			  (void *)((char *)m->control + m->control->stats_off),
			  m->vm->stats))
		log_error("%s: has more counters than the manager can see",
			  m->cfg->vm.name);
	return r;
}

static int connect_io(struct monitor *m)
{
	struct iothread *io = m->vm->io;
	int r;

	for (unsigned i = 0; i < QUEUE; i++) {
		m->queue[i].work.fn = serve;
		m->queue[i].m = m;
	}
	r = iothread_add_fd(io, m->console[0], EPOLLIN, on_console, m);
	if (!r)
		r = iothread_add_fd(io, m->signals, EPOLLIN, on_signal, m);
	if (!r)
		r = iothread_add_fd(io, m->idle_timer, EPOLLIN, on_idle_timer,
				    m);
	if (!r)
		r = iothread_add_fd(io, m->socket, EPOLLIN, on_socket, m);
	if (!r)
		r = monitor_adopt_init(&m->adopt);
	return r;
}

static enum control_state end_state(enum vcpu_exit why)
{
	switch (why) {
	case EXIT_POWEROFF:
		return CONTROL_POWEROFF;
	case EXIT_RESET:
	case EXIT_SHUTDOWN:
		return CONTROL_RESET;
	default:
		return CONTROL_ERROR;
	}
}

/*
 * The vCPU thread, which this one is about to be, does not take a CPU from another
 * VM's the moment it wakes up, but when its turn comes, some milliseconds later (on a
 * CPU that is free, and for its share of the CPU, it makes no difference). A VM short
 * of memory wakes up a thousand times a second, as its pages come in, and each time the
 * caches and the TLB of another were lost: sixteen guests, two of which dirty all
 * their memory, did 194,000 commands a second so and 164,000 without (by turns, four
 * rounds in one run whose load changed meanwhile). The I/O thread stays as it is.
 */
static void wait_for_turn(void)
{
	struct sched_param p = {0};

	/* Else it is only slower. */
	(void)!sched_setscheduler(0, SCHED_BATCH, &p);
}

static enum vcpu_exit run(struct monitor *m)
{
	enum vcpu_exit why;

	control_set(&m->control->state, CONTROL_RUNNING);
	why = vm_run(m->vm);
	if (why == EXIT_ERROR) {
		log_error("%s: the %s engine stopped the VM: %s",
			  m->cfg->vm.name, m->vm->engine->name,
			  m->vm->vcpu->exit_reason);
		vcpu_dump(m->vm->vcpu, STDERR_FILENO);
	} else if (p2m_audit(m->vm->p2m)) {
		log_error("%s: the audit of its memory failed",
			  m->cfg->vm.name);
		why = EXIT_ERROR;
	}
	control_set(&m->control->exit_code, (uint64_t)m->vm->vcpu->exit_code);
	return why;
}

int monitor_run(const struct monitor_config *cfg, enum vcpu_exit *why,
		char *err, size_t errlen)
{
	struct monitor *m = calloc(1, sizeof(*m));
	int r;

	if (!m) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	m->cfg = cfg;
	m->socket = cfg->socket_fd;
	m->signals = m->console[0] = m->console[1] = -1;
	pthread_mutex_init(&m->lock, NULL);
	r = prepare(m, err, errlen);
	if (!r)
		r = create_vm(m, err, errlen);
	if (r)
		return r; /* the process ends now; nothing to tidy up */
	monitor_read_init(&m->read, m->vm, cfg->socket_fd);
	monitor_reclaim_init(&m->reclaim, m->vm, m->control, cfg->give_up);
	monitor_rest_init(&m->rest, m->vm, m->control);
	m->adopt = (struct monitor_adopt){
		.vm = m->vm,
		.fd = cfg->adopt_fd,
		.fds =
			{
				[ADOPT_MEM] = cfg->memfd,
				[ADOPT_CONTROL] = cfg->control_fd,
				[ADOPT_POOL] = cfg->pool_fd,
				[ADOPT_STORE] = cfg->store_fd,
				[ADOPT_TEXT] = cfg->text_fd,
				[ADOPT_SWAP] = cfg->swap_fd,
			},
		.leave = leave,
		.join = join,
		.ctx = m,
	};
	m->balloon =
		(struct monitor_balloon){.vm = m->vm, .control = m->control};
	r = connect_io(m);
	wait_for_turn();
	if (!r)
		r = confine_process(cfg->confine, false, m->vm->code_start,
				    m->vm->code_end);
	if (r) {
		snprintf(err, errlen,
			 "%s: the monitor cannot confine itself: "
			 "%s; does this kernel have seccomp?",
			 cfg->vm.name, strerror(-r));
		vm_destroy(m->vm);
		return r;
	}
	*why = run(m);
	iothread_stop(m->vm->io);
	publish(m);
	vm_destroy(m->vm); /* flushes the UART into the pipe */
	drain_console(m);
	control_set(&m->control->state, end_state(*why));
	return 0;
}
