/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a VM: memfd, control area, socket pair and a pipe for the monitor's
 * stderr; the VM is registered with the sharing code, noted (manager_note.c),
 * and `sardine monitor` is started with exactly these descriptors.
 *
 * The monitor gets the other end of its stderr, too, for the next manager;
 * what nobody reads must not stop it, so what does not fit is dropped.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/sharing/share.h"
#include "vmm/cli/cli.h"

/* Without randomness each VM draws a layout of its own. */
static uint64_t draw_layout(const struct manager *m)
{
	uint64_t seed;

	if (m->cfg.own_layout ||
	    getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return 0;
	return seed;
}

static const struct group *get_group(struct manager *m, const char *name)
{
	struct group *g;

	for (size_t i = 0; i < m->n_groups; i++)
		if (!strcmp(m->groups[i].name, name))
			return &m->groups[i];
	g = realloc(m->groups, (m->n_groups + 1) * sizeof(*g));
	if (!g)
		return NULL;
	m->groups = g;
	g += m->n_groups;
	snprintf(g->name, sizeof(g->name), "%s", name);
	if (share_group_create(m->host, name, 0, &g->g))
		return NULL;
	if (manager_file_id(share_group_pool_fd(g->g), &g->pool)) {
		share_group_destroy(g->g);
		return NULL;
	}
	g->layout_seed = draw_layout(m);
	m->n_groups++;
	return g;
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

#define FDS 9

/* What the child needs, made before fork(): between fork() and exec() nothing
 * may allocate. */
struct launch {
	char num[FDS][16];
	char mem[24], tc[24];
	const char *argv[64];
	unsigned argc;
	int fds[FDS];
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
	static const char *const fd_names[] = {
		"--socket-fd", "--mem-fd",  "--control-fd",
		"--pool-fd",   "--log-fd",  "--store-fd",
		"--swap-fd",   "--text-fd", "--adopt-fd"};

	arg(l, "sardine", "monitor");
	arg(l, "--name", v->name);
	arg(l, "--kernel", s->kernel);
	if (s->initrd)
		arg(l, "--initrd", s->initrd);
	if (s->append)
		arg(l, "--append", s->append);
	for (char **d = s->disks; d && *d; d++)
		arg(l, "--disk", *d);
	if (s->net)
		arg(l, "--net", s->net);
	if (s->rng)
		arg(l, "--rng", NULL);
	if (s->no_balloon)
		arg(l, "--no-balloon", NULL);
	snprintf(l->mem, sizeof(l->mem), "%" PRIu64, s->mem);
	arg(l, "--mem", l->mem);
	arg(l, "--engine", m->cfg.engine);
	arg(l, "--backing", backing_names[s->backing]);
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
	for (unsigned i = 0; i < FDS; i++) {
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
	for (unsigned i = 0; i < FDS; i++)
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
	int log = open_log(m, v, err, errlen), offers = -1, r = 0;

	if (log == -2)
		return -EACCES;
	l.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (l.null < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) ||
	    pipe2(text, O_CLOEXEC) ||
	    fcntl(text[1], F_SETFL, O_WRONLY | O_NONBLOCK)) {
		r = -errno;
	} else {
		v->start_ns = v->since_ns = manager_now_ns();
		v->text_fd = text[0];
		offers = manager_bind_offers(m, v->name);
		r = offers < 0 ? offers : mvm_note(v);
	}
	(void)fail_point("kill-manager-noted");
	if (!r) {
		l.text_w = text[1];
		l.fds[0] = sock[1];
		l.fds[1] = v->memfd;
		l.fds[2] = v->control_fd;
		l.fds[3] = v->pool_fd;
		l.fds[4] = log;
		l.fds[5] = v->store_fd;
		l.fds[6] = v->swap_fd;
		l.fds[7] = text[0];
		l.fds[8] = offers;
		build_argv(&l, m, v, s);
		v->pid = fork();
		if (!v->pid)
			child(&l);
		r = v->pid < 0 ? -errno : 0;
	}
	manager_close_fd(&sock[1]);
	manager_close_fd(&text[1]);
	manager_close_fd(&l.null);
	manager_close_fd(&log);
	manager_close_fd(&offers);
	(void)fail_point("kill-manager-started");
	v->socket = sock[0];
	v->text_fd = text[0];
	if (!r)
		r = manager_watch(m, v->socket, SRC_SOCKET, v->index, EPOLLIN);
	if (!r)
		r = manager_watch(m, v->text_fd, SRC_STDERR, v->index, EPOLLIN);
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
	char name[FLEET_NAME_MAX + 24];
	const struct group *g;
	int r;

	snprintf(name, sizeof(name), "sardine-%s", v->name);
	v->memfd = memfd_create(name, MFD_CLOEXEC);
	if (v->memfd < 0)
		return -errno;
	if (ftruncate(v->memfd, 0))
		return -errno;
	snprintf(name, sizeof(name), "sardine-store-%s", v->name);
	v->store_fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (v->store_fd < 0 || ftruncate(v->store_fd, s->mem) ||
	    fcntl(v->store_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return -errno;
	v->control_bytes = control_bytes(s->mem, 0);
	r = control_create(s->mem, 0, v->name, &v->control_fd, &v->control);
	if (r)
		return r;
	g = get_group(m, s->group);
	if (!g)
		return -ENOMEM;
	v->group = g->g;
	v->layout_seed = g->layout_seed;
	snprintf(v->group_name, sizeof(v->group_name), "%s", s->group);
	/* Here rather than on the command line, which anyone may read. */
	control_set(&v->control->layout_seed, g->layout_seed);
	v->pool_fd = share_group_pool_fd(v->group);
	c.memfd = v->memfd;
	c.control = v->control;
	r = share_vm_add(v->group, &c, &v->share);
	if (!r && !m->cfg.share)
		share_vm_enable(v->share, false);
	return r;
}

void mvm_release(struct mvm *v)
{
	if (v->share)
		share_vm_remove(v->share);
	v->share = NULL;
	if (v->control)
		control_unmap(v->control, v->control_bytes);
	v->control = NULL;
	if (v->noted)
		manager_forget(v->m, v->name);
	v->noted = false;
	manager_close_fd(&v->pidfd);
	manager_close_fd(&v->memfd);
	manager_close_fd(&v->store_fd);
	manager_close_fd(&v->swap_fd);
	manager_close_fd(&v->control_fd);
	manager_close_fd(&v->socket);
	manager_close_fd(&v->text_fd);
}

int manager_add(struct manager *m, const struct vm_spec *spec, char *err,
		size_t errlen)
{
	struct mvm **list = realloc(m->vms, (m->n_vms + 1) * sizeof(*list));
	struct mvm *v = calloc(1, sizeof(*v));
	bool refused = false;
	int r = -ENOMEM;

	if (list)
		m->vms = list;
	if (list && v) {
		v->m = m;
		v->index = (unsigned)m->n_vms;
		v->memfd = v->store_fd = v->swap_fd = -1;
		v->control_fd = v->socket = v->text_fd = v->pidfd = -1;
		v->mem = spec->mem;
		snprintf(v->name, sizeof(v->name), "%s", spec->name);
		r = manager_admit(m, v, spec, err, errlen);
		if (!r && m->cfg.swap_dir) {
			v->swap_fd = manager_swap_file(
				m, manager_swap_bytes(m, spec->mem), err,
				errlen);
			r = v->swap_fd < 0 ? v->swap_fd : 0;
		}
		refused = r != 0;
	}
	if (!r)
		r = make_memory(m, v, spec);
	if (r) {
		if (!refused)
			snprintf(err, errlen, "%s: cannot make its memory: %s",
				 spec->name, strerror(-r));
		if (v)
			mvm_release(v);
		free(v);
		return r;
	}
	m->vms[m->n_vms++] = v;
	r = spawn(m, v, spec, err, errlen);
	if (r && !v->pid) {
		v->state = "failed";
		m->failed++;
		mvm_release(v);
	}
	return r;
}
