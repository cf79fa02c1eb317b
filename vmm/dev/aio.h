/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_AIO_H
#define SARDINE_VMM_DEV_AIO_H
/*
 * File I/O that does not wait: by io_uring, or by a thread where that is not
 * permitted.
 *
 * One thread (the owner) makes every call here; the file is closed by its
 * owner, too. Operations complete in any order. There is no order between
 * operations that are under way together: who needs one waits.
 */
#include <sys/uio.h>

#include "mm/types.h"

enum aio_kind {
	AIO_READ,
	AIO_WRITE,
	AIO_SYNC,  /* fdatasync */
	AIO_PUNCH, /* [off, off+len) reads as zeroes and takes no room */
};
enum aio_mode { AIO_AUTO, AIO_URING, AIO_THREAD };

#define AIO_MAX_IOV 1024

/* The caller's until done() is called; iov may be changed on the way. */
struct aio_op {
	enum aio_kind kind;
	unsigned file;	   /* index into the table given at creation */
	struct iovec *iov; /* AIO_READ, AIO_WRITE */
	unsigned n_iov;	   /* up to AIO_MAX_IOV */
	uint64_t off, len; /* len: of all iov, too */
	/* 0: all of it was done; or -errno. Called by aio_reap, on the owner
	 * thread; may submit, and free op. */
	void (*done)(struct aio_op *op, int err);
	void *ctx;
	/* aio's */
	uint64_t left;
	int result;
	struct aio_op *next;
};

struct aio;
struct aio_config {
	enum aio_mode mode;
	const int *fds; /* the files; stay open until aio_destroy */
	unsigned n_fds;
	unsigned depth; /* operations under way at a time, about */
	/* Something is there to be reaped. Any thread. With a ring it is not
	 * called by itself: whoever watches aio_event_fd() calls it. */
	void (*ready)(void *ctx);
	void *ctx;
};

/* 0; -errno of the host (AIO_AUTO: of both ways). Before confinement. */
int aio_create(const struct aio_config *cfg, struct aio **out);
/* Waits for what is under way. */
void aio_destroy(struct aio *a);
enum aio_mode aio_mode(const struct aio *a);
/* A descriptor that becomes readable when there is something to reap; -1: there
 * is none, ready() is called. Its counter is reset by aio_clear_event. */
int aio_event_fd(const struct aio *a);
void aio_clear_event(struct aio *a); /* any thread */
/* Queue an operation. It starts at the next aio_flush at the latest. */
void aio_submit(struct aio *a, struct aio_op *op);
/* Start what is queued, and finish what is done already. Answers how many
 * done() calls there were. */
unsigned aio_flush(struct aio *a);
/* The done() of everything that has completed; how many. */
unsigned aio_reap(struct aio *a);
/* Operations submitted and not done. */
unsigned aio_pending(const struct aio *a);
/* Wait until something has completed; reap. Only when aio_pending(). */
void aio_wait(struct aio *a);
#endif
