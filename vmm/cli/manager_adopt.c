/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs that a manager left behind because it was killed.
 *
 * What must live on does: a guest's memory, its compressed pages and its swap
 * file belong to its monitor, frames of the pool to whoever has it open. Lost
 * are the descriptors to reach them and the books about frames. Both come back
 * from the monitors (vmm/adopt.h); what they may not be believed comes from the
 * old manager's notes (manager_note.c).
 *
 * A claim is a VM of which there is a note. It is offered a connection; from
 * there it becomes a VM of this manager by the monitor's answer, or is
 * forgotten because nobody has its socket open any more: it has ended. One that
 * does neither (stopped, or busy for long) stays a claim, and until the last
 * claim on a pool is settled no frame is freed that the pool had before
 * (mm/sharing/share_adopt.c). A connection that is closed without an answer
 * means nothing: the offer is made again.
 *
 * The pool. A monitor holds it open for reading and hands that descriptor back;
 * it is opened anew for writing here, through /proc, by the user who made it.
 * No monitor could have made another one: it can open and create nothing. And
 * the note says which file it was.
 *
 * Who ends. The VMs are not our children, so a pidfd tells when; how is then
 * the monitor's word. The process is the one that the kernel says has sent the
 * answer; its pidfd is of that process if the connection is still open after
 * it was made.
 */
#include "vmm/cli/manager_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/sharing/share.h"
#include "mm/types.h"

#define AGAIN_NS (NS_PER_S / 5) /* between offers */
#define TELL_NS	 (2 * NS_PER_S) /* without an answer */

struct claim {
	struct vm_note note;
	int socket, frames; /* of the last offer, or -1 */
	uint64_t since_ns, offer_ns;
	bool told;
};

/* What came with an answer. */
struct answer {
	int fds[ADOPT_FDS];
	pid_t pid;
};

/* ---- claims ---- */

static void close_offer(struct claim *c)
{
	manager_close_fd(&c->socket);
	manager_close_fd(&c->frames);
}

/* Dealt with, one way or the other. */
static void drop_claim(struct manager *m, size_t i)
{
	close_offer(m->claims[i]);
	free(m->claims[i]);
	m->claims[i] = NULL;
}

static bool same_file(const struct file_id *a, const struct file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

/* Frames of pools that nobody has a claim on any more are held no longer. */
static void settle(struct manager *m)
{
	for (size_t g = 0; g < m->n_groups; g++) {
		bool open = false;

		if (!share_group_held(m->groups[g].g))
			continue;
		for (size_t i = 0; i < m->n_claims; i++)
			open |= m->claims[i] &&
				same_file(&m->claims[i]->note.file[ADOPT_POOL],
					  &m->groups[g].pool);
		if (open)
			continue;
		(void)fail_point("kill-manager-settle");
		share_group_settle(m->groups[g].g);
	}
}

static int add_claim(struct manager *m, const char *name)
{
	struct claim **list =
		realloc(m->claims, (m->n_claims + 1) * sizeof(*list));
	struct claim *c = calloc(1, sizeof(*c));

	if (list)
		m->claims = list;
	if (!list || !c) {
		free(c);
		return -ENOMEM;
	}
	c->socket = c->frames = -1;
	c->since_ns = manager_now_ns();
	if (manager_read_note(m, name, &c->note)) {
		manager_event(m,
			      "%s: its note cannot be read; if it runs, it "
			      "does so on its own",
			      name);
		free(c);
		return 0;
	}
	m->claims[m->n_claims++] = c;
	return 0;
}

int manager_find_claims(struct manager *m)
{
	int fd = openat(m->notes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	int r = 0;

	if (!d) {
		manager_close_fd(&fd);
		return -errno;
	}
	while (!r && (e = readdir(d)))
		if (!strncmp(e->d_name, "n.", 2) && e->d_name[2] &&
		    strlen(e->d_name + 2) <= FLEET_NAME_MAX)
			r = add_claim(m, e->d_name + 2);
	closedir(d);
	return r;
}

size_t manager_claims(const struct manager *m)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_claims; i++)
		n += m->claims[i] != NULL;
	return n;
}

bool manager_has(const struct manager *m, const char *name)
{
	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i]->pid && !strcmp(m->vms[i]->name, name))
			return true;
	for (size_t i = 0; i < m->n_claims; i++)
		if (m->claims[i] && !strcmp(m->claims[i]->note.name, name))
			return true;
	return false;
}

uint64_t manager_claimed_min(const struct manager *m)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m->n_claims; i++)
		if (m->claims[i])
			sum += m->claims[i]->note.min;
	return sum;
}

/* ---- the offer ---- */

static int make_offer(struct claim *c, int *theirs)
{
	uint64_t words = control_max_ppn(c->note.mem, 0), page = PAGE_SIZE / 4;
	int pair[2], on = 1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	c->socket = pair[0];
	*theirs = pair[1];
	c->frames =
		memfd_create("sardine-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (c->frames < 0 ||
	    setsockopt(c->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) ||
	    ftruncate(c->frames,
		      (off_t)((words + page - 1) / page * PAGE_SIZE)) ||
	    fcntl(c->frames, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return -errno;
	return 0;
}

/* -EAGAIN: later; -ECONNREFUSED: nobody is there any more. */
static int send_offer(struct manager *m, struct claim *c, int theirs)
{
	int fds[ADOPT_OFFER_FDS] = {[ADOPT_OFFER_SOCKET] = theirs,
				    [ADOPT_OFFER_FRAMES] = c->frames};
	struct sockaddr_un sa;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	manager_offer_address(m, c->note.name, &sa);
	r = adopt_send(fd, &sa, fds, ADOPT_OFFER_FDS);
	close(fd);
	return r == -ENOENT ? -ECONNREFUSED : r;
}

static void offer(struct manager *m, size_t i, uint64_t now)
{
	struct claim *c = m->claims[i];
	int theirs = -1, r;

	close_offer(c);
	c->offer_ns = now;
	r = make_offer(c, &theirs);
	if (!r)
		r = send_offer(m, c, theirs);
	manager_close_fd(&theirs);
	(void)fail_point("kill-manager-offer");
	if (!r)
		r = manager_watch(m, c->socket, SRC_CLAIM, (uint32_t)i,
				  EPOLLIN);
	if (r)
		close_offer(c);
	if (r == -ECONNREFUSED) {
		manager_event(m, "%s: has ended meanwhile", c->note.name);
		manager_forget(m, c->note.name);
		drop_claim(m, i);
	}
}

void manager_adopt(struct manager *m, uint64_t now)
{
	for (size_t i = 0; i < m->n_claims; i++) {
		struct claim *c = m->claims[i];

		if (c && c->socket < 0 && now - c->offer_ns >= AGAIN_NS)
			offer(m, i, now);
		c = m->claims[i];
		if (!c || c->told || now - c->since_ns < TELL_NS)
			continue;
		c->told = true;
		manager_event(m,
			      "%s: its monitor does not answer; what it uses "
			      "is kept until it does",
			      c->note.name);
	}
	settle(m);
}

/* ---- the answer ---- */

static void close_answer(struct answer *a)
{
	for (unsigned i = 0; i < ADOPT_FDS; i++)
		manager_close_fd(&a->fds[i]);
}

/* 0; -EAGAIN: not yet there; -EPIPE: the connection is closed; -EPROTO. */
static int receive(const struct claim *c, struct answer *a)
{
	struct ucred who;
	int n = adopt_receive(c->socket, a->fds, ADOPT_FDS, &who);

	a->pid = who.uid == geteuid() ? who.pid : 0;
	if (n < 0)
		return n;
	if (a->pid <= 0)
		return -EPROTO;
	for (unsigned i = 0; i < ADOPT_FDS; i++) {
		struct file_id id;

		if (manager_file_id(a->fds[i], &id) ||
		    !same_file(&id, &c->note.file[i]))
			return -EPROTO;
	}
	return 0;
}

static int open_pidfd(const struct claim *c, pid_t pid, int *fd)
{
	struct pollfd p = {c->socket, POLLRDHUP, 0};

	*fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (*fd < 0)
		return errno == ESRCH ? -EPIPE : -errno;
	/* Still open: it lives, so that was its number. */
	if (poll(&p, 1, 0) && p.revents & (POLLHUP | POLLRDHUP | POLLERR))
		return -EPIPE;
	return 0;
}

static int find_group(struct manager *m, const struct vm_note *n, int pool_fd,
		      struct group **out)
{
	struct group *g;
	int r;

	for (size_t i = 0; i < m->n_groups; i++) {
		*out = &m->groups[i];
		if (same_file(&m->groups[i].pool, &n->file[ADOPT_POOL]))
			return 0;
	}
	g = realloc(m->groups, (m->n_groups + 1) * sizeof(*g));
	if (!g)
		return -ENOMEM;
	m->groups = g;
	g += m->n_groups;
	r = share_group_adopt(m->host, n->group, pool_fd, &g->g);
	if (r)
		return r;
	snprintf(g->name, sizeof(g->name), "%s", n->group);
	g->layout_seed = n->layout_seed;
	g->pool = n->file[ADOPT_POOL];
	m->n_groups++;
	*out = g;
	return 0;
}

static void take_note(struct mvm *v, const struct vm_note *n)
{
	snprintf(v->name, sizeof(v->name), "%s", n->name);
	snprintf(v->group_name, sizeof(v->group_name), "%s", n->group);
	v->mem = n->mem;
	v->layout_seed = n->layout_seed;
	v->start_ns = n->start_ns;
	v->since_ns = manager_now_ns();
	v->paused = n->paused;
	v->noted = true;
	v->re.min = n->min;
	v->re.max = n->max;
	v->re.shares = n->shares;
	v->re.balloon_fixed = n->balloon_fixed;
}

static void take_answer(struct mvm *v, struct claim *c, struct answer *a)
{
	int *const to[ADOPT_FDS] = {
		[ADOPT_MEM] = &v->memfd,    [ADOPT_CONTROL] = &v->control_fd,
		[ADOPT_POOL] = NULL,	    [ADOPT_STORE] = &v->store_fd,
		[ADOPT_TEXT] = &v->text_fd, [ADOPT_SWAP] = &v->swap_fd,
	};

	for (unsigned i = 0; i < ADOPT_FDS; i++) {
		if (!to[i])
			continue;
		*to[i] = a->fds[i];
		a->fds[i] = -1;
	}
	v->pid = a->pid;
	epoll_ctl(v->m->epfd, EPOLL_CTL_DEL, c->socket, NULL);
	v->socket = c->socket;
	c->socket = -1;
}

/* Its words in the control area that are ours to write. */
static void take_control_area(struct mvm *v)
{
	struct control *c = v->control;
	uint64_t balloon = control_get(&c->balloon_target);
	struct stat mem, store;

	v->boot_ms = control_get(&c->boot_ms);
	v->told_up = v->boot_ms != 0;
	v->re.balloon = balloon < v->mem ? balloon : 0;
	control_set(&c->paused, v->paused);
	if (!v->m->cfg.enforce) {
		control_set(&c->quota_bytes, 0);
		if (!v->re.balloon_fixed)
			control_set(&c->balloon_target, v->re.balloon = 0);
		return;
	}
	if (fstat(v->memfd, &mem) || fstat(v->store_fd, &store))
		return;
	v->re.used = (uint64_t)(mem.st_blocks + store.st_blocks) * 512;
	v->re.quota = v->re.used > v->re.min ? v->re.used : v->re.min;
	v->re.bound = v->re.quota;
}

/* The files are the ones that they were, so the control area is sealed, and of
 * its size. */
static int take_over(struct manager *m, struct mvm *v, struct claim *c,
		     int pool_fd)
{
	struct share_vm_config sc = {
		.name = v->name, .ram_bytes = v->mem, .user = v};
	struct group *g;
	void *map;
	int r = find_group(m, &c->note, pool_fd, &g);

	if (r)
		return r;
	v->group = g->g;
	v->pool_fd = share_group_pool_fd(g->g);
	v->control_bytes = control_bytes(v->mem, 0);
	map = mmap(NULL, v->control_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		   v->control_fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	v->control = map;
	take_control_area(v);
	sc.memfd = v->memfd;
	sc.control = v->control;
	r = share_vm_add(v->group, &sc, &v->share);
	if (!r)
		r = share_vm_adopt(v->share, c->frames);
	if (!r && !m->cfg.share)
		share_vm_enable(v->share, false);
	if (!r)
		r = manager_watch(m, v->socket, SRC_SOCKET, v->index, EPOLLIN);
	if (!r)
		r = manager_watch(m, v->text_fd, SRC_STDERR, v->index, EPOLLIN);
	return r ? r : manager_watch(m, v->pidfd, SRC_PIDFD, v->index, EPOLLIN);
}

static struct mvm *new_vm(struct manager *m)
{
	struct mvm **list = realloc(m->vms, (m->n_vms + 1) * sizeof(*list));
	struct mvm *v = calloc(1, sizeof(*v));

	if (list)
		m->vms = list;
	if (!list || !v) {
		free(v);
		return NULL;
	}
	v->m = m;
	v->index = (unsigned)m->n_vms;
	v->memfd = v->store_fd = v->swap_fd = v->control_fd = -1;
	v->socket = v->text_fd = v->pidfd = -1;
	m->vms[m->n_vms++] = v;
	return v;
}

/* Gives the answer's descriptors away, or not. */
static int adopt_vm(struct manager *m, struct claim *c, struct answer *a)
{
	struct mvm *v;
	int fd, r = open_pidfd(c, a->pid, &fd);

	v = r ? NULL : new_vm(m);
	if (!v) {
		manager_close_fd(&fd);
		return r ? r : -ENOMEM;
	}
	v->pidfd = fd;
	take_note(v, &c->note);
	take_answer(v, c, a);
	r = take_over(m, v, c, a->fds[ADOPT_POOL]);
	(void)fail_point("kill-manager-adopt");
	if (!r) {
		manager_event(m, "%s: taken over, process %d", v->name,
			      (int)v->pid);
		manager_nudge(v);
		return 0;
	}
	manager_event(m, "%s: cannot be taken over (%s): killed", v->name,
		      r == -EUCLEAN ? "it names frames that are not there"
				    : strerror(-r));
	mvm_kill(v, SIGKILL);
	/* Until its process has ended it may be using what it has. */
	(void)manager_watch(m, v->pidfd, SRC_PIDFD, v->index, EPOLLIN);
	return 0;
}

void manager_on_claim(struct manager *m, size_t i)
{
	struct claim *c = m->claims[i];
	struct answer a;
	int r;

	if (!c || c->socket < 0)
		return;
	r = receive(c, &a);
	if (!r)
		r = adopt_vm(m, c, &a);
	close_answer(&a);
	if (r == -EAGAIN)
		return;
	if (!r) {
		drop_claim(m, i);
		settle(m);
		return;
	}
	if (r == -EPROTO && !c->told) {
		c->told = true;
		manager_event(m, "%s: its answer is not what it should be",
			      c->note.name);
	}
	/* Has it ended? The next offer will tell. */
	close_offer(c);
}

void manager_drop_claims(struct manager *m)
{
	for (size_t i = 0; i < m->n_claims; i++)
		if (m->claims[i])
			drop_claim(m, i);
	free(m->claims);
	m->claims = NULL;
	m->n_claims = 0;
}

/* ---- processes that are not our children ---- */

void mvm_kill(struct mvm *v, int sig)
{
	if (v->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, v->pidfd, sig, NULL, 0);
	else if (v->pid > 0)
		kill(v->pid, sig);
}
