/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An offer comes on the I/O thread: from then on nothing is taken from the old
 * manager's socket, and work is posted. What had been taken from it before runs
 * before that work does (vm_post keeps the order), so when the vCPU thread
 * writes down what its pages are on, no proposal of the dead manager can change
 * it any more.
 *
 * Confinement. The process can make no sockets and open nothing; all that it
 * does here is receive descriptors and send those that it has: calls that it
 * has anyway for the manager's messages. Whoever may send an offer is the user
 * whose process this is, or root: the socket is in a directory of theirs
 * alone, and the kernel says who sent it.
 */
#include "vmm/monitor_adopt.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/p2m_share.h"
#include "vmm/dev/iothread.h"

static void close_all(const int fds[ADOPT_OFFER_FDS])
{
	for (unsigned i = 0; i < ADOPT_OFFER_FDS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int send_answer(struct monitor_adopt *a, int socket)
{
	struct adopt_msg msg = {ADOPT_MAGIC, ADOPT_VERSION, 0};
	struct iovec iov = {&msg, sizeof(msg)};
	union {
		char buf[CMSG_SPACE(sizeof(int) * ADOPT_FDS)];
		struct cmsghdr align;
	} u = {0};
	struct msghdr h = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf};
	struct cmsghdr *c = &u.align;

	msg.n_fds = a->fds[ADOPT_SWAP] < 0 ? ADOPT_SWAP : ADOPT_FDS;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * msg.n_fds);
	h.msg_controllen = CMSG_SPACE(sizeof(int) * msg.n_fds);
	memcpy(CMSG_DATA(c), a->fds, sizeof(int) * msg.n_fds);
	return sendmsg(socket, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno
								    : 0;
}

/* vCPU thread, outside of the engine. */
static void adopt(struct vm *vm, struct vm_work *w)
{
	struct monitor_adopt *a = container_of(w, struct monitor_adopt, work);
	int socket = a->offered[ADOPT_OFFER_SOCKET];
	int r = p2m_tell_frames(vm->p2m, a->offered[ADOPT_OFFER_FRAMES]);

	(void)fail_point("kill-monitor-adopt");
	if (!r)
		r = send_answer(a, socket);
	close(a->offered[ADOPT_OFFER_FRAMES]);
	if (r) {
		log_info("%s: a manager came and went: %s", vm->cfg.name,
			 strerror(-r));
		close(socket);
		socket = -1;
	}
	a->join(a->ctx, socket);
	atomic_store(&a->posted, false);
}

/* What came with the message: true if the sender may send it. */
static bool take_control(const struct monitor_adopt *a, struct msghdr *h,
			 int fds[ADOPT_OFFER_FDS])
{
	bool known = false;
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		struct ucred cred;

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			known = cred.uid == a->uid || !cred.uid;
		}
		if (c->cmsg_type == SCM_RIGHTS) {
			n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) /
				       sizeof(int));
			n = n < ADOPT_OFFER_FDS ? n : ADOPT_OFFER_FDS;
			memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		}
	}
	return known && n == ADOPT_OFFER_FDS && !(h->msg_flags & MSG_CTRUNC);
}

/* I/O thread. */
static void on_offer(void *ctx, uint32_t events)
{
	struct monitor_adopt *a = ctx;
	struct adopt_msg msg;
	struct iovec iov = {&msg, sizeof(msg)};
	union {
		char buf[CMSG_SPACE(sizeof(int) * ADOPT_OFFER_FDS) +
			 CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} u;
	struct msghdr h = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.buf,
			   .msg_controllen = sizeof(u.buf)};
	int fds[ADOPT_OFFER_FDS] = {-1, -1};
	ssize_t n;

	n = recvmsg(a->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return;
	/* One at a time: who finds the connection closed offers again. */
	if (!take_control(a, &h, fds) || n != sizeof(msg) ||
	    h.msg_flags & MSG_TRUNC || msg.magic != ADOPT_MAGIC ||
	    msg.version != ADOPT_VERSION || atomic_load(&a->posted)) {
		close_all(fds);
		return;
	}
	memcpy(a->offered, fds, sizeof(fds));
	a->leave(a->ctx);
	atomic_store(&a->posted, true);
	vm_post(a->vm, &a->work);
}

int monitor_adopt_init(struct monitor_adopt *a)
{
	int on = 1;

	a->work.fn = adopt;
	a->uid = geteuid();
	if (a->fd < 0)
		return 0;
	if (setsockopt(a->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
		return -errno;
	return iothread_add_fd(a->vm->io, a->fd, EPOLLIN, on_offer, a);
}
