/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a VM here: manager_add makes memfd, control area, socket pair and a
 * pipe for the monitor's stderr, registers the VM with the sharing code and
 * starts `sardine monitor` with exactly these descriptors. From then on the
 * process's end (SIGCHLD) is the only thing that ends it: an end of file on
 * the socket alone means that the monitor does not want proposals any more.
 *
 * When the process has ended, nothing maps the VM's memory any more, so its
 * pool references go back and its memfd is closed at once: that is when the
 * host has its memory back.
 */
#include "vmm/cli/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/control.h"
#include "mm/sharing/share.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/overhead.h"
#include "vmm/cli/server.h"

#define NS_PER_S	 1000000000ull
#define STOP_NS		 (5 * NS_PER_S)
#define TEXT_MAX	 4096		/* of a monitor's stderr that we keep */
#define OVERHEAD_NS	 (2 * NS_PER_S) /* between samples of a young VM */
#define OVERHEAD_SLOW_NS (15 * NS_PER_S) /* and of one that is up */
#define YOUNG_NS	 (40 * NS_PER_S)

/* What an epoll event is about: kind in the upper half, index or fd below. */
enum source { SRC_SIGNAL, SRC_LISTEN, SRC_CLIENT, SRC_SOCKET, SRC_STDERR };

struct mvm {
	struct manager *m;
	unsigned index;
	char name[FLEET_NAME_MAX + 1];
	uint64_t mem;
	pid_t pid; /* 0: gone */
	int memfd, control_fd, socket, text_fd;
	struct control *control;
	size_t control_bytes;
	struct share_vm *share;
	struct share_group *group;
	int pool_fd;	   /* the group's */
	const char *state; /* of a process that has ended */
	bool told_up;	   /* the event was sent */
	uint64_t boot_ms;
	uint64_t start_ns;
	uint64_t overhead, overhead_next_ns;
	char text[TEXT_MAX]; /* stderr */
	size_t text_len;
};

struct group {
	char name[FLEET_NAME_MAX + 1];
	struct share_group *g;
};

struct manager {
	struct manager_config cfg;
	struct share_host *host;
	struct group *groups;
	size_t n_groups;
	struct mvm **vms;
	size_t n_vms;
	struct server *server;
	int epfd, signals;
	int signal; /* that asks us to end */
	bool stopping;
	uint64_t start_ns, scan_ns; /* when the scanner wants to run */
	size_t engine_errors, failed;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void event(struct manager *m,
							const char *fmt, ...)
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

static int watch(struct manager *m, int fd, enum source src, uint32_t index,
		 uint32_t events)
{
	struct epoll_event ev = {.events = events,
				 .data.u64 = (uint64_t)src << 32 | index};

	return epoll_ctl(m->epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void close_fd(int *fd)
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
	return watch(m, m->signals, SRC_SIGNAL, 0, EPOLLIN);
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
	if (r)
		return r;
	return watch(m, server_fd(m->server), SRC_LISTEN, 0, EPOLLIN);
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
	m->epfd = m->signals = -1;
	m->start_ns = now_ns();
	raise_fd_limit();
	r = set_up(m, err, errlen);
	if (r) {
		manager_destroy(m);
		return r;
	}
	*out = m;
	return 0;
}

/* ---- starting a VM ---- */

static struct share_group *get_group(struct manager *m, const char *name)
{
	struct group *g;

	for (size_t i = 0; i < m->n_groups; i++)
		if (!strcmp(m->groups[i].name, name))
			return m->groups[i].g;
	g = realloc(m->groups, (m->n_groups + 1) * sizeof(*g));
	if (!g)
		return NULL;
	m->groups = g;
	g += m->n_groups;
	snprintf(g->name, sizeof(g->name), "%s", name);
	if (share_group_create(m->host, name, 0, &g->g))
		return NULL;
	m->n_groups++;
	return g->g;
}

static int open_log(struct manager *m, struct mvm *v, char *err, size_t errlen)
{
	char path[4096];
	int fd;

	if (!m->cfg.log_dir)
		return -1;
	snprintf(path, sizeof(path), "%s/%s.log", m->cfg.log_dir, v->name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		  0666);
	if (fd >= 0)
		return fd;
	snprintf(err, errlen,
		 "--log-dir: %s: %s; give a directory that can be "
		 "written",
		 path, strerror(errno));
	return -2;
}

/* What the child needs, made before fork(): between fork() and exec() nothing
 * may allocate. */
struct launch {
	char num[5][16];
	char mem[24], tc[24];
	const char *argv[40];
	unsigned argc;
	int fds[5];
	int text_w, null;
};

static void arg(struct launch *l, const char *name, const char *val)
{
	l->argv[l->argc++] = name;
	if (val)
		l->argv[l->argc++] = val;
}

static void build_argv(struct launch *l, const struct manager *m,
		       const struct mvm *v, const struct vm_spec *s)
{
	static const char *const fd_names[] = {"--socket-fd", "--mem-fd",
					       "--control-fd", "--pool-fd",
					       "--log-fd"};

	arg(l, "sardine", "monitor");
	arg(l, "--name", v->name);
	arg(l, "--kernel", s->kernel);
	if (s->initrd)
		arg(l, "--initrd", s->initrd);
	if (s->append)
		arg(l, "--append", s->append);
	snprintf(l->mem, sizeof(l->mem), "%" PRIu64, s->mem);
	arg(l, "--mem", l->mem);
	arg(l, "--engine", m->cfg.engine);
	if (m->cfg.marker)
		arg(l, "--marker", m->cfg.marker);
	if (m->cfg.confine)
		arg(l, "--confine", m->cfg.confine);
	if (m->cfg.tc_bytes) {
		snprintf(l->tc, sizeof(l->tc), "%" PRIu64, m->cfg.tc_bytes);
		arg(l, "--tc-size", l->tc);
	}
	if (m->cfg.verbose)
		arg(l, "--verbose", NULL);
	for (unsigned i = 0; i < 5; i++) {
		if (l->fds[i] < 0)
			continue;
		snprintf(l->num[i], sizeof(l->num[i]), "%d", l->fds[i]);
		arg(l, fd_names[i], l->num[i]);
	}
	l->argv[l->argc] = NULL;
}

/* Child, after fork(). A session of its own: the terminal's Ctrl-C is for the
 * manager, and the VM lives on when the manager's terminal goes away. */
static _Noreturn void child(const struct launch *l)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (dup2(l->null, 0) < 0 || dup2(l->null, 1) < 0 ||
	    dup2(l->text_w, 2) < 0)
		_exit(CLI_HOST);
	for (unsigned i = 0; i < 5; i++)
		if (l->fds[i] >= 0 && fcntl(l->fds[i], F_SETFD, 0))
			_exit(CLI_HOST);
	execv("/proc/self/exe", (char *const *)l->argv);
	_exit(CLI_HOST);
}

static int spawn(struct manager *m, struct mvm *v, const struct vm_spec *s,
		 char *err, size_t errlen)
{
	struct launch l = {.argc = 0};
	int sock[2] = {-1, -1}, text[2] = {-1, -1};
	int log = open_log(m, v, err, errlen), r = 0;

	if (log == -2)
		return -EACCES;
	l.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (l.null < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) ||
	    pipe2(text, O_CLOEXEC)) {
		r = -errno;
	} else {
		l.text_w = text[1];
		l.fds[0] = sock[1];
		l.fds[1] = v->memfd;
		l.fds[2] = v->control_fd;
		l.fds[3] = v->pool_fd;
		l.fds[4] = log;
		build_argv(&l, m, v, s);
		v->start_ns = now_ns();
		v->pid = fork();
		if (!v->pid)
			child(&l);
		r = v->pid < 0 ? -errno : 0;
	}
	close_fd(&sock[1]);
	close_fd(&text[1]);
	close_fd(&l.null);
	close_fd(&log);
	v->socket = sock[0];
	v->text_fd = text[0];
	if (!r)
		r = watch(m, v->socket, SRC_SOCKET, v->index, EPOLLIN);
	if (!r)
		r = watch(m, v->text_fd, SRC_STDERR, v->index, EPOLLIN);
	if (r) {
		if (v->pid > 0)
			kill(v->pid, SIGKILL);
		v->pid = v->pid > 0 ? v->pid : 0;
		snprintf(err, errlen, "%s: cannot start its monitor: %s",
			 v->name, strerror(-r));
	}
	return r;
}

static int make_memory(struct manager *m, struct mvm *v,
		       const struct vm_spec *s)
{
	struct share_vm_config c = {
		.name = v->name, .ram_bytes = s->mem, .user = v};
	char name[FLEET_NAME_MAX + 16];
	int r;

	snprintf(name, sizeof(name), "sardine-%s", v->name);
	v->memfd = memfd_create(name, MFD_CLOEXEC);
	if (v->memfd < 0)
		return -errno;
	if (ftruncate(v->memfd, 0))
		return -errno;
	v->control_bytes = control_bytes(s->mem, 0);
	r = control_create(s->mem, 0, v->name, &v->control_fd, &v->control);
	if (r)
		return r;
	v->group = get_group(m, s->group);
	if (!v->group)
		return -ENOMEM;
	v->pool_fd = share_group_pool_fd(v->group);
	c.memfd = v->memfd;
	c.control = v->control;
	r = share_vm_add(v->group, &c, &v->share);
	if (!r && !m->cfg.share)
		share_vm_enable(v->share, false);
	return r;
}

/* Everything that the VM holds in this process. */
static void release(struct mvm *v)
{
	if (v->share)
		share_vm_remove(v->share);
	v->share = NULL;
	if (v->control)
		control_unmap(v->control, v->control_bytes);
	v->control = NULL;
	close_fd(&v->memfd);
	close_fd(&v->control_fd);
	close_fd(&v->socket);
	close_fd(&v->text_fd);
}

int manager_add(struct manager *m, const struct vm_spec *spec, char *err,
		size_t errlen)
{
	struct mvm **list = realloc(m->vms, (m->n_vms + 1) * sizeof(*list));
	struct mvm *v = calloc(1, sizeof(*v));
	int r = -ENOMEM;

	if (list)
		m->vms = list;
	if (list && v) {
		v->m = m;
		v->index = (unsigned)m->n_vms;
		v->memfd = v->control_fd = v->socket = v->text_fd = -1;
		v->mem = spec->mem;
		snprintf(v->name, sizeof(v->name), "%s", spec->name);
		r = make_memory(m, v, spec);
	}
	if (r) {
		snprintf(err, errlen, "%s: cannot make its memory: %s",
			 spec->name, strerror(-r));
		if (v)
			release(v);
		free(v);
		return r;
	}
	m->vms[m->n_vms++] = v;
	r = spawn(m, v, spec, err, errlen);
	if (r && !v->pid) {
		v->state = "failed";
		m->failed++;
		release(v);
	}
	return r;
}

/* ---- the end of a VM ---- */

/* One line out of the monitor's stderr, printable, without our own prefix. */
static const char *first_line(struct mvm *v, char *buf, size_t len)
{
	const char *s = v->text;
	size_t n = 0;

	if (!strncmp(s, "sardine: ", 9))
		s += 9;
	for (; *s && *s != '\n' && n + 1 < len; s++)
		buf[n++] = *s >= ' ' && *s <= '~' ? *s : '?';
	buf[n] = '\0';
	return buf;
}

/* The rest, for whoever wants to read registers; same cleaning. */
static void tell_text(struct mvm *v)
{
	char *s = strchr(v->text, '\n');
	char line[256];

	while (s && *++s) {
		size_t n = strcspn(s, "\n"), k = n < 255 ? n : 255;

		for (size_t i = 0; i < k; i++)
			line[i] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
		line[k] = '\0';
		event(v->m, "%s: | %s", v->name, line);
		s += n;
		if (!*s)
			break;
	}
}

static void on_text(struct mvm *v)
{
	char buf[TEXT_MAX];
	ssize_t n = read(v->text_fd, buf, sizeof(buf));
	size_t room = TEXT_MAX - 1 - v->text_len, k;

	if (n <= 0) {
		if (n < 0 && errno == EINTR)
			return;
		close_fd(&v->text_fd);
		return;
	}
	k = (size_t)n < room ? (size_t)n : room;
	memcpy(v->text + v->text_len, buf, k);
	v->text_len += k;
	v->text[v->text_len] = '\0';
}

static void drain_text(struct mvm *v)
{
	if (v->text_fd < 0)
		return;
	fcntl(v->text_fd, F_SETFL, O_NONBLOCK);
	/* Bounded: a process of the same pipe could write for ever. */
	for (unsigned i = 0; i < 64 && v->text_fd >= 0; i++) {
		size_t before = v->text_len;

		on_text(v);
		if (v->text_len == before)
			break;
	}
}

static void tell_end(struct mvm *v, int status)
{
	struct manager *m = v->m;
	char line[300];
	int sig;

	first_line(v, line, sizeof(line));
	if (WIFSIGNALED(status)) {
		sig = WTERMSIG(status);
		v->state = "killed";
		event(m, "%s: killed by signal %d (%s)%s", v->name, sig,
		      strsignal(sig),
		      sig == SIGSYS ? ": a system call that its filter forbids"
				    : "");
		m->engine_errors += sig != SIGKILL && sig != SIGTERM;
		return;
	}
	switch (WEXITSTATUS(status)) {
	case CLI_OK:
		v->state = "off";
		event(m, "%s: powered off", v->name);
		break;
	case CLI_RESET:
		v->state = "reset";
		event(m, "%s: reset", v->name);
		break;
	case CLI_ENGINE:
		v->state = "error";
		m->engine_errors++;
		event(m, "%s: stopped: %s", v->name, line);
		tell_text(v);
		break;
	default:
		v->state = "failed";
		m->failed++;
		event(m, "%s: failed: %s", v->name,
		      *line ? line : "no reason given");
		break;
	}
}

static void on_exit_of(struct mvm *v, int status)
{
	drain_text(v);
	v->pid = 0;
	if (v->control) {
		uint64_t ms = control_get(&v->control->boot_ms);
		uint64_t age = (now_ns() - v->start_ns) / 1000000 + 1;

		v->boot_ms = ms <= age ? ms : age;
	}
	release(v);
	v->overhead = 0;
	/* What we ended ourselves is no news. */
	if (v->m->stopping &&
	    !(WIFEXITED(status) && WEXITSTATUS(status) == CLI_ENGINE)) {
		v->state = "off";
		return;
	}
	tell_end(v, status);
}

static void reap(struct manager *m)
{
	for (size_t i = 0; i < m->n_vms; i++) {
		struct mvm *v = m->vms[i];
		int status;

		if (v->pid && waitpid(v->pid, &status, WNOHANG) == v->pid)
			on_exit_of(v, status);
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
			close_fd(&v->socket);
			return;
		}
		if (!share_msg_ok(&msg, (size_t)n) ||
		    share_on_msg(v->share, &msg, (size_t)n)) {
			event(v->m,
			      "%s: its monitor broke the protocol; killed",
			      v->name);
			kill(v->pid, SIGKILL);
			close_fd(&v->socket);
			return;
		}
	}
}

static void on_listen(struct manager *m)
{
	struct report r;
	char *text = NULL;
	json_t *o;
	int fd;

	if (!manager_sample(m, &r, false)) {
		o = report_to_json(&r);
		text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
		json_decref(o);
		report_free(&r);
	}
	fd = server_accept(m->server, text, text ? strlen(text) : 0, now_ns());
	if (fd >= 0)
		watch(m, fd, SRC_CLIENT, (uint32_t)fd, EPOLLOUT);
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
		server_client_ready(m->server, (int)index);
		return;
	case SRC_SOCKET:
		v = m->vms[index];
		if (v->socket >= 0 && v->share)
			on_socket(v);
		return;
	case SRC_STDERR:
		v = m->vms[index];
		if (v->text_fd >= 0)
			on_text(v);
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
		age = (now_ns() - v->start_ns) / 1000000 + 1;
		v->boot_ms = ms <= age ? ms : age;
		v->told_up = true;
		event(m, "%s: userland after %" PRIu64 " ms", v->name,
		      v->boot_ms);
	}
}

void manager_poll(struct manager *m, int timeout_ms)
{
	struct epoll_event ev[32];
	uint64_t now = now_ns();
	int n;

	if (m->scan_ns <= now) {
		timeout_ms = 0;
	} else {
		uint64_t ms = (m->scan_ns - now + 999999) / 1000000;

		if (ms < (uint64_t)timeout_ms)
			timeout_ms = (int)ms;
	}
	n = epoll_wait(m->epfd, ev, ARRAY_SIZE(ev), timeout_ms);
	for (int i = 0; i < n; i++)
		dispatch(m, &ev[i]);
	now = now_ns();
	if (!m->stopping && (n > 0 || m->scan_ns <= now))
		m->scan_ns = share_scan_step(m->host, SHARE_STEP_PAGES, now);
	else if (m->stopping)
		m->scan_ns = now + NS_PER_S;
	look_for_boots(m);
	server_expire(m->server, now);
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

size_t manager_engine_errors(const struct manager *m)
{
	return m->engine_errors;
}

size_t manager_failed(const struct manager *m)
{
	return m->failed;
}

/* ---- what is ---- */

static const char *live_state(const struct mvm *v)
{
	switch (control_get(&v->control->state)) {
	case CONTROL_RUNNING:
		return v->boot_ms ? "running" : "booting";
	case CONTROL_POWEROFF:
	case CONTROL_RESET:
	case CONTROL_ERROR:
		return "ending";
	default:
		return "starting";
	}
}

static void sample_overhead(struct mvm *v, uint64_t now, bool fresh)
{
	int skip[2] = {v->memfd, v->pool_fd};
	uint64_t bytes;

	if (!fresh && now < v->overhead_next_ns)
		return;
	if (!overhead_sample(v->pid, skip, 2, &bytes))
		v->overhead = bytes;
	v->overhead_next_ns =
		now +
		(now - v->start_ns < YOUNG_NS ? OVERHEAD_NS : OVERHEAD_SLOW_NS);
}

static void sample_vm(struct mvm *v, struct report_vm *o, uint64_t now,
		      bool fresh)
{
	struct share_vm_info info = {0};

	memset(o, 0, sizeof(*o));
	snprintf(o->name, sizeof(o->name), "%s", v->name);
	o->configured_bytes = v->mem;
	o->boot_ms = v->boot_ms;
	o->pid = v->pid;
	if (!v->pid || !v->share) {
		snprintf(o->state, sizeof(o->state), "%s",
			 v->state ? v->state : "ending");
		return;
	}
	snprintf(o->state, sizeof(o->state), "%s", live_state(v));
	share_vm_get_info(v->share, &info);
	sample_overhead(v, now, fresh);
	o->private_bytes = info.private_bytes;
	o->shared_bytes = info.shared_bytes;
	o->zero_bytes = info.zero_bytes;
	o->overhead_bytes = v->overhead;
}

static uint64_t mem_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb << 10;
}

static void sample_sharing(struct manager *m, struct report *r, bool oracle)
{
	struct share_oracle o;
	struct share_stats s;

	/* Before the counters: guests run on while it compares. */
	if (oracle && !share_oracle(m->host, &o)) {
		r->oracle_bytes = o.oracle_bytes;
		r->oracle_valid = true;
	}
	share_get_stats(m->host, &s);
	r->pool_bytes = s.pool_bytes;
	r->saved_bytes = s.saved_bytes;
	r->merged_pages = s.merged_pages;
	r->zero_merged_pages = s.zero_merged_pages;
	r->broken_pages = s.broken_pages;
	r->scanned_pages = s.scanned_pages;
	for (unsigned i = 0; i < SHARE_NR_REASONS; i++) {
		if (i == SHARE_ok || r->n_refused == REPORT_REFUSED)
			continue;
		snprintf(r->refused[r->n_refused].name, REPORT_NAME, "%s",
			 share_reason_names[i]);
		r->refused[r->n_refused++].count = s.refused[i];
	}
}

int manager_sample(struct manager *m, struct report *r, bool oracle)
{
	uint64_t now = now_ns();

	memset(r, 0, sizeof(*r));
	r->vms = calloc(m->n_vms + 1, sizeof(*r->vms));
	if (!r->vms)
		return -ENOMEM;
	sample_sharing(m, r, oracle);
	for (size_t i = 0; i < m->n_vms; i++) {
		struct report_vm *v = &r->vms[r->n_vms++];

		sample_vm(m->vms[i], v, now, oracle);
		r->used_bytes += v->private_bytes + v->overhead_bytes;
	}
	r->used_bytes += r->pool_bytes;
	r->budget_bytes = m->cfg.budget_bytes;
	snprintf(r->host_state, sizeof(r->host_state), "%s",
		 r->used_bytes > r->budget_bytes ? "over" : "ok");
	r->available_bytes = mem_available();
	r->seconds = (now - m->start_ns) / NS_PER_S;
	return 0;
}

/* ---- the end ---- */

void manager_stop(struct manager *m)
{
	uint64_t kill_at = now_ns() + STOP_NS;
	bool killed = false;

	m->stopping = true;
	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i]->pid)
			kill(m->vms[i]->pid, SIGTERM);
	m->scan_ns = kill_at;
	reap(m);
	while (manager_alive(m)) {
		if (!killed && now_ns() >= kill_at) {
			killed = true;
			for (size_t i = 0; i < m->n_vms; i++)
				if (m->vms[i]->pid)
					kill(m->vms[i]->pid, SIGKILL);
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
		release(m->vms[i]);
		free(m->vms[i]);
	}
	free(m->vms);
	if (m->host)
		share_host_destroy(m->host);
	free(m->groups);
	server_close(m->server);
	close_fd(&m->signals);
	close_fd(&m->epfd);
	free(m);
}
