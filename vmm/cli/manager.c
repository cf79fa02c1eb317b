/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manager's loop. A VM's life: manager_add makes its memory and process;
 * from then on the process's end (SIGCHLD) is the only thing that ends it: an
 * end of file on the socket alone means that the monitor does not want
 * proposals any more.
 *
 * VMs of a manager before this one come by another road (manager_adopt.c), and
 * their end by a pidfd; else they are like the others.
 *
 * When the process has ended, nothing maps the VM's memory any more, so its
 * pool references go back and its memfd is closed at once: that is when the
 * host has its memory back.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/sharing/share.h"
#include "vmm/cli/metrics.h"
#include "vmm/cli/prom.h"
#include "vmm/cli/server.h"

#define STOP_NS	   (5 * NS_PER_S)
#define BOOT_NS	   (60 * NS_PER_S)
#define SCAN_NS	   (NS_PER_S / 100)
#define SCAN_PAGES 256u /* between two looks at the clock */
/* What a monitor does in one go takes less; it may wait for its disk. */
#define SILENT_NS  (4 * NS_PER_S)

uint64_t manager_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void manager_event(struct manager *m, const char *fmt, ...)
{
	char text[TEXT_MAX + 200];
	va_list ap;

	if (!m->cfg.event)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	m->cfg.event(m->cfg.ctx, text);
}

int manager_watch(struct manager *m, int fd, enum source src, uint32_t index,
		  uint32_t events)
{
	struct epoll_event ev = {.events = events,
				 .data.u64 = (uint64_t)src << 32 | index};

	return epoll_ctl(m->epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

void manager_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- making it ---- */

static int send_msg(void *ctx, struct share_vm *svm,
		    const struct share_msg *msg)
{
	struct mvm *v = share_vm_user(svm);

	if (v->socket < 0)
		return -EPIPE;
	if (send(v->socket, msg, share_msg_bytes(msg),
		 MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	return 0;
}
static const struct share_host_ops host_ops = {send_msg};

static int open_signals(struct manager *m)
{
	static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD};
	sigset_t set;

	sigemptyset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		sigaddset(&set, sigs[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	m->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (m->signals < 0)
		return -errno;
	return manager_watch(m, m->signals, SRC_SIGNAL, 0, EPOLLIN);
}

static char *metrics_text(void *ctx, size_t *len)
{
	struct report r;
	char *text = NULL;
	FILE *f;

	if (manager_sample(ctx, &r, false))
		return NULL;
	f = open_memstream(&text, len);
	if (f)
		prom_write(&r, f);
	if (f && fclose(f)) {
		free(text);
		text = NULL;
	}
	report_free(&r);
	return text;
}

static int open_metrics(struct manager *m, char *err, size_t errlen)
{
	int r;

	if (!m->cfg.metrics)
		return 0;
	r = metrics_open(m->cfg.metrics, metrics_text, m, &m->metrics, err,
			 errlen);
	if (r)
		return r;
	manager_event(m, "metrics at %s", metrics_url(m->metrics));
	return manager_watch(m, metrics_fd(m->metrics), SRC_METRICS, 0,
			     EPOLLIN);
}

/* Five descriptors a VM: the usual soft limit of 1024 is 200 VMs. */
static void raise_fd_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return;
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
}

static int set_up(struct manager *m, char *err, size_t errlen)
{
	int r;

	m->epfd = epoll_create1(EPOLL_CLOEXEC);
	r = m->epfd < 0 ? -errno : open_signals(m);
	if (!r)
		r = share_host_create(&host_ops, m, NULL, &m->host);
	if (r) {
		snprintf(err, errlen, "the manager cannot start: %s",
			 strerror(-r));
		return r;
	}
	if (m->cfg.log_dir && mkdir(m->cfg.log_dir, 0777) && errno != EEXIST) {
		r = -errno;
		snprintf(err, errlen,
			 "--log-dir %s: %s; give a directory that can be made",
			 m->cfg.log_dir, strerror(errno));
		return r;
	}
	r = server_open(m->cfg.socket_path, m->cfg.make_socket_dir, &m->server,
			err, errlen);
	if (!r)
		r = manager_watch(m, server_fd(m->server), SRC_LISTEN, 0,
				  EPOLLIN);
	if (r)
		return r;
	r = manager_open_notes(m, err, errlen);
	if (!r)
		r = manager_find_claims(m);
	if (r)
		return r;
	r = manager_open_commands(m);
	if (r) {
		snprintf(err, errlen, "%s" COMMAND_SUFFIX ": %s",
			 m->cfg.socket_path, strerror(-r));
		return r;
	}
	return open_metrics(m, err, errlen);
}

int manager_create(const struct manager_config *cfg, struct manager **out,
		   char *err, size_t errlen)
{
	struct manager *m = calloc(1, sizeof(*m));
	int r;

	if (!m) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	m->cfg = *cfg;
	m->epfd = m->signals = m->commands = m->notes = -1;
	for (unsigned i = 0; i < COMMANDERS; i++)
		m->commander[i] = -1;
	m->start_ns = manager_now_ns();
	raise_fd_limit();
	r = set_up(m, err, errlen);
	if (r) {
		manager_destroy(m);
		return r;
	}
	*out = m;
	return 0;
}

static void reap(struct manager *m)
{
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];
		int status;

		if (v->pid && v->pidfd < 0 &&
		    waitpid(v->pid, &status, WNOHANG) == v->pid)
			mvm_on_exit(v, status);
	}
}

/* ---- events ---- */

static void on_signals(struct manager *m)
{
	struct signalfd_siginfo si;

	while (read(m->signals, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo != SIGCHLD)
			m->signal = (int)si.ssi_signo;
	reap(m);
}

static void on_socket(struct mvm *v)
{
	struct share_msg msg;

	/* A round of a few: one VM must not keep the others waiting. */
	for (unsigned i = 0; i < 8 && v->socket >= 0; i++) {
		ssize_t n = recv(v->socket, &msg, sizeof(msg),
				 MSG_DONTWAIT | MSG_TRUNC);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			manager_close_fd(&v->socket);
			return;
		}
		if (!share_msg_ok(&msg, (size_t)n) ||
		    share_on_msg(v->share, &msg, (size_t)n)) {
			manager_event(
				v->m,
				"%s: its monitor broke the protocol; killed",
				v->name);
			mvm_kill(v, SIGKILL);
			manager_close_fd(&v->socket);
			return;
		}
	}
}

static void on_listen(struct manager *m)
{
	int fd = server_accept(m->server, manager_now_ns());

	if (fd >= 0)
		manager_watch(m, fd, SRC_CLIENT, (uint32_t)fd, EPOLLIN);
}

static json_t *answer_top(struct manager *m)
{
	struct report r;
	json_t *o;

	if (manager_sample(m, &r, false))
		return NULL;
	o = report_to_json(&r);
	report_free(&r);
	return o;
}

/* "top" and "stats [NAME]"; what is not known gets an empty object. */
static json_t *answer(struct manager *m, const char *line)
{
	if (!*line || !strcmp(line, "top"))
		return answer_top(m);
	if (!strcmp(line, "stats"))
		return manager_stats(m, NULL);
	if (!strncmp(line, "stats ", 6))
		return manager_stats(m, line + 6);
	return json_object();
}

static void on_client(struct manager *m, int fd)
{
	struct epoll_event ev = {.events = EPOLLOUT,
				 .data.u64 = (uint64_t)SRC_CLIENT << 32 |
					     (uint32_t)fd};
	const char *line;
	char *text;
	json_t *o;

	if (server_client_ready(m->server, fd, &line) != SERVER_ASKED)
		return;
	o = answer(m, line);
	text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	json_decref(o);
	if (server_answer(m->server, fd, text, text ? strlen(text) : 0) ==
	    SERVER_WAIT)
		epoll_ctl(m->epfd, EPOLL_CTL_MOD, fd, &ev);
}

static void dispatch(struct manager *m, const struct epoll_event *ev)
{
	uint32_t index = (uint32_t)ev->data.u64;
	struct mvm *v;

	switch ((enum source)(ev->data.u64 >> 32)) {
	case SRC_SIGNAL:
		on_signals(m);
		return;
	case SRC_LISTEN:
		on_listen(m);
		return;
	case SRC_CLIENT:
		on_client(m, (int)index);
		return;
	case SRC_METRICS: /* its turn comes in every round */
	case SRC_INPUT:	  /* the owner reads it */
		return;
	case SRC_COMMANDS:
		manager_on_commands(m);
		return;
	case SRC_COMMANDER:
		manager_on_commander(m, (int)index);
		return;
	case SRC_CLAIM:
		manager_on_claim(m, index);
		return;
	case SRC_PIDFD:
		v = m->vms[index];
		if (v->pid)
			mvm_on_gone(v);
		return;
	case SRC_SOCKET:
		v = m->vms[index];
		if (v->socket >= 0 && v->share)
			on_socket(v);
		return;
	case SRC_STDERR:
		v = m->vms[index];
		if (v->text_fd >= 0)
			mvm_on_text(v);
		return;
	}
}

/* Userland, as the control areas say. */
static void look_for_boots(struct manager *m)
{
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];
		uint64_t ms, age;

		if (v->told_up || !v->control)
			continue;
		ms = control_get(&v->control->boot_ms);
		if (!ms)
			continue;
		age = (manager_now_ns() - v->start_ns) / 1000000 + 1;
		v->boot_ms = ms <= age ? ms : age;
		v->told_up = true;
		manager_event(m, "%s: userland after %" PRIu64 " ms", v->name,
			      v->boot_ms);
	}
}

/* Looking for equal pages, for as long as nobody has to wait for it. */
static uint64_t scan(struct manager *m, uint64_t now)
{
	uint64_t end = now + SCAN_NS, next;

	do
		next = share_scan_step(m->host, SCAN_PAGES, now);
	while (next <= now && manager_now_ns() < end);
	return next;
}

/* A monitor that does not answer is left alone: it keeps what it has, the frames
 * that it may be using are not given to others, and its VM may be well. */
static void look_for_silence(struct manager *m, uint64_t now)
{
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];
		uint64_t ns = v->share && v->socket >= 0
				      ? share_vm_silent_ns(v->share, now)
				      : 0;

		if (v->told_silent ? ns > 0 : ns < SILENT_NS)
			continue;
		v->told_silent = !v->told_silent;
		if (v->pid && !m->stopping)
			manager_event(m, "%s: its monitor %s", v->name,
				      v->told_silent ? "does not answer"
						     : "answers again");
	}
}

void manager_poll(struct manager *m, int timeout_ms)
{
	struct epoll_event ev[32];
	uint64_t now = manager_now_ns();
	int n;

	if (m->scan_ns <= now) {
		timeout_ms = 0;
	} else {
		uint64_t ms = (m->scan_ns - now + 999999) / 1000000;

		if (ms < (uint64_t)timeout_ms)
			timeout_ms = (int)ms;
	}
	if (m->metrics) {
		int ms = metrics_timeout_ms(m->metrics);

		if (ms >= 0 && ms < timeout_ms)
			timeout_ms = ms;
	}
	if ((m->cfg.enforce || manager_claims(m)) && timeout_ms > RECLAIM_MS)
		timeout_ms = RECLAIM_MS;
	n = epoll_wait(m->epfd, ev, ARRAY_SIZE(ev), timeout_ms);
	for (int i = 0; i < n; i++)
		dispatch(m, &ev[i]);
	now = manager_now_ns();
	if (!m->stopping)
		manager_adopt(m, now);
	if (!m->stopping && (n > 0 || m->scan_ns <= now))
		m->scan_ns = scan(m, now);
	else if (m->stopping)
		m->scan_ns = now + NS_PER_S;
	if (!m->stopping)
		manager_reclaim(m, now);
	manager_rest(m, now);
	look_for_boots(m);
	look_for_silence(m, now);
	server_expire(m->server, now);
	if (m->metrics)
		metrics_run(m->metrics, now);
}

int manager_wake_for(struct manager *m, int fd)
{
	return manager_watch(m, fd, SRC_INPUT, 0, EPOLLIN);
}

int manager_signal(const struct manager *m)
{
	return m->signal;
}

size_t manager_alive(const struct manager *m)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_vms; i++)
		n += m->vms[i]->pid != 0;
	return n;
}

size_t manager_booting(const struct manager *m)
{
	uint64_t now = manager_now_ns();
	size_t n = 0;

	for (size_t i = 0; i < m->n_vms; i++) {
		const struct mvm *v = m->vms[i];

		n += v->pid && !v->told_up && now - v->start_ns < BOOT_NS;
	}
	return n;
}

size_t manager_engine_errors(const struct manager *m)
{
	return m->engine_errors;
}

size_t manager_failed(const struct manager *m)
{
	return m->failed;
}

/* ---- the end ---- */

void manager_stop(struct manager *m)
{
	uint64_t kill_at = manager_now_ns() + STOP_NS;
	bool killed = false;

	m->stopping = true;
	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i]->pid)
			mvm_kill(m->vms[i], SIGTERM);
	m->scan_ns = kill_at;
	reap(m);
	while (manager_alive(m)) {
		if (!killed && manager_now_ns() >= kill_at) {
			killed = true;
			for (size_t i = 0; i < m->n_vms; i++)
				if (m->vms[i]->pid)
					mvm_kill(m->vms[i], SIGKILL);
		}
		manager_poll(m, 100);
		reap(m);
	}
}

int manager_audit(struct manager *m)
{
	return share_audit(m->host);
}

void manager_destroy(struct manager *m)
{
	if (!m)
		return;
	if (manager_alive(m))
		manager_stop(m);
	for (size_t i = 0; i < m->n_vms; i++) {
		mvm_release(m->vms[i]);
		free(m->vms[i]);
	}
	free(m->vms);
	if (m->host)
		share_host_destroy(m->host);
	free(m->groups);
	manager_drop_claims(m);
	metrics_close(m->metrics);
	manager_close_notes(m);
	manager_close_commands(m);
	server_close(m->server);
	manager_close_fd(&m->signals);
	manager_close_fd(&m->epfd);
	free(m);
}
