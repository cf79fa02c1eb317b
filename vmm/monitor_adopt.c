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
	return adopt_send(socket, NULL, a->fds,
			  a->fds[ADOPT_SWAP] < 0 ? ADOPT_SWAP : ADOPT_FDS);
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

/* I/O thread. */
static void on_offer(void *ctx, uint32_t events)
{
	struct monitor_adopt *a = ctx;
	struct ucred who;
	int fds[ADOPT_OFFER_FDS];
	int n = adopt_receive(a->fd, fds, ADOPT_OFFER_FDS, &who);

	if (n < 0)
		return;
	/* One at a time: who finds the connection closed offers again. */
	if (n != ADOPT_OFFER_FDS || !who.pid ||
	    (who.uid != a->uid && who.uid) || atomic_load(&a->posted)) {
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
