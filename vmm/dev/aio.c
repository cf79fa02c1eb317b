/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ways to do file I/O beside the vCPU thread.
 *
 * Ring. The kernel does the work. What is in the page cache completes inside
 * the submitting call, so aio_flush() looks at once, with the event descriptor
 * muted meanwhile: a request that hits the cache costs one system call and
 * wakes no other thread. The mute is lifted before the last look, so that
 * nothing is missed in between.
 *
 * A ring is a door around seccomp: operations in it are no system calls of
 * ours. So it is created disabled, its operations are restricted to the four
 * here and to the files that were registered, and then it is enabled; what is
 * restricted once stays so. A guest that broke out could do with the ring what
 * it could do without: read and write its own disks.
 *
 * Thread. Where io_uring is not permitted (container profiles, the
 * kernel.io_uring_disabled sysctl), one thread per disk does the calls one
 * after the other. It knows nothing of the VM and takes no lock but its own.
 *
 * Either way short transfers go on where they ended, and end of file is an
 * error: disks have a size.
 */
#include "vmm/dev/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"

#define PUNCH_MODE (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define MAX_FILES  4

struct aio {
	struct aio_config cfg;
	int fds[MAX_FILES];
	enum aio_mode mode;
	unsigned pending;
	/* ring */
	struct io_uring ring;
	int event_fd;
	unsigned queued;
	/* thread; under lock */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, finished;
	struct aio_op *todo, **todo_end;
	struct aio_op *done;
	bool stop;
};

/* ---- an operation, and what is left of it ---- */

/* Forget the first n bytes. */
static void advance(struct aio_op *op, uint64_t n)
{
	op->off += n;
	op->left -= n;
	while (n && op->n_iov) {
		size_t part = op->iov->iov_len < n ? op->iov->iov_len : n;

		op->iov->iov_base = (char *)op->iov->iov_base + part;
		op->iov->iov_len -= part;
		n -= part;
		if (!op->iov->iov_len) {
			op->iov++;
			op->n_iov--;
		}
	}
}

/* res: what the call answered. True: the operation is over, op->result says
 * how; false: do it again. */
static bool finish(struct aio_op *op, long res)
{
	if (res == -EINTR || res == -EAGAIN)
		return false;
	if (res < 0) {
		op->result = (int)res;
		return true;
	}
	op->result = 0;
	if (op->kind == AIO_SYNC || op->kind == AIO_PUNCH)
		return true;
	if (!res && op->left) {
		op->result = -EIO; /* the file has become shorter */
		return true;
	}
	advance(op, (uint64_t)res < op->left ? (uint64_t)res : op->left);
	return !op->left;
}

static void complete(struct aio *a, struct aio_op *op)
{
	a->pending--;
	op->done(op, op->result);
}

/* ---- thread ---- */

static long call(const struct aio *a, struct aio_op *op)
{
	int fd = a->fds[op->file];
	long r = -1;

	switch (op->kind) {
	case AIO_READ:
		r = preadv(fd, op->iov, (int)op->n_iov, (off_t)op->off);
		break;
	case AIO_WRITE:
		r = pwritev(fd, op->iov, (int)op->n_iov, (off_t)op->off);
		break;
	case AIO_SYNC:
		r = fdatasync(fd);
		break;
	case AIO_PUNCH:
		r = fallocate(fd, PUNCH_MODE, (off_t)op->off, (off_t)op->len);
		break;
	}
	return r < 0 ? -errno : r;
}

static void *thread_main(void *arg)
{
	struct aio *a = arg;
	struct aio_op *op;

	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		op = a->todo;
		if (!op) {
			pthread_cond_wait(&a->work, &a->lock);
			continue;
		}
		a->todo = op->next;
		if (!a->todo)
			a->todo_end = &a->todo;
		pthread_mutex_unlock(&a->lock);
		while (!finish(op, call(a, op)))
			;
		pthread_mutex_lock(&a->lock);
		op->next = a->done;
		a->done = op;
		pthread_cond_signal(&a->finished);
		if (op->next)
			continue; /* was announced already */
		pthread_mutex_unlock(&a->lock);
		a->cfg.ready(a->cfg.ctx);
		pthread_mutex_lock(&a->lock);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static int thread_start(struct aio *a)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&a->thread, NULL, thread_main, a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return -err;
	pthread_setname_np(a->thread, "disk");
	a->mode = AIO_THREAD;
	return 0;
}

static void thread_submit(struct aio *a, struct aio_op *op)
{
	op->next = NULL;
	pthread_mutex_lock(&a->lock);
	*a->todo_end = op;
	a->todo_end = &op->next;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&a->lock);
}

static unsigned thread_reap(struct aio *a)
{
	struct aio_op *op, *next;
	unsigned n = 0;

	pthread_mutex_lock(&a->lock);
	op = a->done;
	a->done = NULL;
	pthread_mutex_unlock(&a->lock);
	for (; op; op = next, n++) {
		next = op->next;
		complete(a, op);
	}
	return n;
}

static void thread_wait(struct aio *a)
{
	pthread_mutex_lock(&a->lock);
	while (!a->done)
		pthread_cond_wait(&a->finished, &a->lock);
	pthread_mutex_unlock(&a->lock);
}

/* ---- ring ---- */

/* ... and enable. */
static int ring_restrict(struct aio *a)
{
	struct io_uring_restriction r[] = {
		{.opcode = IORING_RESTRICTION_SQE_OP,
		 .sqe_op = IORING_OP_READV},
		{.opcode = IORING_RESTRICTION_SQE_OP,
		 .sqe_op = IORING_OP_WRITEV},
		{.opcode = IORING_RESTRICTION_SQE_OP,
		 .sqe_op = IORING_OP_FSYNC},
		{.opcode = IORING_RESTRICTION_SQE_OP,
		 .sqe_op = IORING_OP_FALLOCATE},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
		 .sqe_flags = IOSQE_FIXED_FILE},
	};

	/* liburing 2.3 declares functions for these two and does not export
	 * them. */
	int err = io_uring_register((unsigned)a->ring.ring_fd,
				    IORING_REGISTER_RESTRICTIONS, r,
				    ARRAY_SIZE(r));

	return err ? err
		   : io_uring_register((unsigned)a->ring.ring_fd,
				       IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static int ring_start(struct aio *a)
{
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED |
					     IORING_SETUP_CQSIZE,
				    .cq_entries = 4 * a->cfg.depth};
	int r = io_uring_queue_init_params(a->cfg.depth, &a->ring, &p);

	if (r < 0)
		return r;
	a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = a->event_fd < 0 ? -errno : 0;
	if (!r)
		r = io_uring_register_files(&a->ring, a->fds, a->cfg.n_fds);
	if (!r)
		r = io_uring_register_eventfd(&a->ring, a->event_fd);
	if (!r)
		r = ring_restrict(a);
	if (!r) {
		a->mode = AIO_URING;
		return 0;
	}
	io_uring_queue_exit(&a->ring);
	if (a->event_fd >= 0)
		close(a->event_fd);
	a->event_fd = -1;
	return r;
}

static void ring_push(struct aio *a)
{
	int r;

	/* EBUSY, EAGAIN: completions must be taken first, or no memory now. */
	do
		r = io_uring_submit(&a->ring);
	while (r == -EINTR);
	if (r >= 0)
		a->queued -= (unsigned)r < a->queued ? (unsigned)r : a->queued;
}

static void ring_submit(struct aio *a, struct aio_op *op)
{
	struct io_uring_sqe *s;
	int fd = (int)op->file;

	while (!(s = io_uring_get_sqe(&a->ring))) {
		ring_push(a);
		if (a->queued)
			aio_wait(a);
	}
	switch (op->kind) {
	case AIO_READ:
		io_uring_prep_readv(s, fd, op->iov, op->n_iov, op->off);
		break;
	case AIO_WRITE:
		io_uring_prep_writev(s, fd, op->iov, op->n_iov, op->off);
		break;
	case AIO_SYNC:
		io_uring_prep_fsync(s, fd, IORING_FSYNC_DATASYNC);
		break;
	case AIO_PUNCH:
		io_uring_prep_fallocate(s, fd, PUNCH_MODE, (off_t)op->off,
					(off_t)op->len);
		break;
	}
	s->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(s, op);
	a->queued++;
}

static unsigned ring_reap(struct aio *a)
{
	struct io_uring_cqe *c;
	unsigned n = 0;

	while (!io_uring_peek_cqe(&a->ring, &c)) {
		struct aio_op *op = io_uring_cqe_get_data(c);
		int res = c->res;

		io_uring_cqe_seen(&a->ring, c);
		if (!finish(op, res)) {
			ring_submit(a, op);
			continue;
		}
		complete(a, op);
		n++;
	}
	return n;
}

static unsigned ring_flush(struct aio *a)
{
	unsigned n = 0;

	if (!a->queued)
		return 0;
	io_uring_cq_eventfd_toggle(&a->ring, false);
	while (a->queued) {
		unsigned before = a->queued, done;

		ring_push(a);
		done = ring_reap(a);
		n += done;
		if (a->queued >= before && !done)
			break; /* the kernel is short of something: later */
	}
	io_uring_cq_eventfd_toggle(&a->ring, true);
	return n + ring_reap(a);
}

static void ring_wait(struct aio *a)
{
	const struct timespec ms = {.tv_nsec = 1000000};
	struct io_uring_cqe *c;

	ring_push(a);
	/* Nothing is under way, and the kernel takes nothing: short of memory. */
	while (a->queued && a->queued == a->pending) {
		nanosleep(&ms, NULL);
		ring_push(a);
	}
	while (io_uring_wait_cqe(&a->ring, &c) == -EINTR)
		;
}

/* ---- both ---- */

void aio_submit(struct aio *a, struct aio_op *op)
{
	ASSERT(op->file < a->cfg.n_fds && op->n_iov <= AIO_MAX_IOV);
	op->left = op->kind == AIO_READ || op->kind == AIO_WRITE ? op->len : 0;
	a->pending++;
	if (a->mode == AIO_URING)
		ring_submit(a, op);
	else
		thread_submit(a, op);
}

unsigned aio_reap(struct aio *a)
{
	unsigned n = a->mode == AIO_URING ? ring_reap(a) : thread_reap(a);

	/* done() and retries may have submitted. */
	return n + aio_flush(a);
}

unsigned aio_flush(struct aio *a)
{
	return a->mode == AIO_URING ? ring_flush(a) : 0;
}

unsigned aio_pending(const struct aio *a)
{
	return a->pending;
}

void aio_wait(struct aio *a)
{
	if (a->mode == AIO_URING)
		ring_wait(a);
	else
		thread_wait(a);
	aio_reap(a);
}

enum aio_mode aio_mode(const struct aio *a)
{
	return a->mode;
}

int aio_event_fd(const struct aio *a)
{
	return a->event_fd;
}

void aio_clear_event(struct aio *a)
{
	uint64_t n;

	(void)!read(a->event_fd, &n, sizeof(n));
}

int aio_create(const struct aio_config *cfg, struct aio **out)
{
	struct aio *a;
	int r = -ENOTSUP;

	if (!cfg->n_fds || cfg->n_fds > MAX_FILES)
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->cfg = *cfg;
	memcpy(a->fds, cfg->fds, cfg->n_fds * sizeof(*cfg->fds));
	a->event_fd = -1;
	a->todo_end = &a->todo;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->work, NULL);
	pthread_cond_init(&a->finished, NULL);
	if (cfg->mode != AIO_THREAD)
		r = ring_start(a);
	if (r && cfg->mode != AIO_URING)
		r = thread_start(a);
	if (r) {
		free(a);
		return r;
	}
	*out = a;
	return 0;
}

void aio_destroy(struct aio *a)
{
	if (!a)
		return;
	while (a->pending)
		aio_wait(a);
	if (a->mode == AIO_URING) {
		io_uring_queue_exit(&a->ring);
		close(a->event_fd);
	} else {
		pthread_mutex_lock(&a->lock);
		a->stop = true;
		pthread_cond_signal(&a->work);
		pthread_mutex_unlock(&a->lock);
		pthread_join(a->thread, NULL);
	}
	pthread_cond_destroy(&a->work);
	pthread_cond_destroy(&a->finished);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
