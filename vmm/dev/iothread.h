/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_IOTHREAD_H
#define SARDINE_VMM_DEV_IOTHREAD_H
/*
 * A VM's one I/O thread: waits for descriptors and for the devices' timers.
 */
#include <pthread.h>

#include "mm/base/stats.h"
#include "vmm/dev/clock.h"

struct iothread;

/* 0 or -errno. The thread does not run before iothread_start; timers may be
 * armed and descriptors added already. dev_lock covers the timers. */
int iothread_create(pthread_mutex_t *dev_lock, unsigned time_shift,
		    struct iothread **out);
int iothread_start(struct iothread *io);
/* Ends the thread and waits for it; nothing is called back afterwards. Not
 * from the thread itself, not under the device lock. */
void iothread_stop(struct iothread *io);
/* Stops, and frees. Descriptors that were added stay open: their owner's. */
void iothread_destroy(struct iothread *io);

/*
 * Call cb(ctx, events) on the thread when one of `events` (EPOLLIN ...) is
 * there, level-triggered. cb runs without locks and takes dev_lock itself if
 * it touches devices. Any thread. Regular files, which epoll does not take,
 * count as always ready. 0 or -errno (-EEXIST: fd is here already).
 */
int iothread_add_fd(struct iothread *io, int fd, uint32_t events,
		    void (*cb)(void *ctx, uint32_t events), void *ctx);
/* Other events (0: none, a pause). Any thread, any lock but this file's. */
int iothread_mod_fd(struct iothread *io, int fd, uint32_t events);
/* cb is not called any more after this, when called on the thread itself or
 * while it is stopped; on another thread one call may be under way. */
void iothread_del_fd(struct iothread *io, int fd);

/* The clock of real time: CLOCK_MONOTONIC (2^time_shift times slower) and
 * CLOCK_REALTIME. */
struct clock iothread_clock(struct iothread *io);
/* Run the timers that are due, on the calling thread, under dev_lock. */
void iothread_run_timers(struct iothread *io);
void iothread_stat_group(struct iothread *io, struct stat_group *g);
#endif
