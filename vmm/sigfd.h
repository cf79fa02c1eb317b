/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_SIGFD_H
#define SARDINE_VMM_SIGFD_H
/*
 * Signals as a readable descriptor, without signalfd: whoever polls a signalfd
 * is woken by every signal of the process, and the bt engine lives by SIGSEGV.
 * (A boot of Debian had 19,000 context switches of a thread that waits for
 * SIGTERM.) Here a handler writes to an eventfd, in the one thread that has
 * the signals unblocked.
 */
#include <signal.h>

/*
 * Block the signals in the calling thread (before other threads exist), have
 * them caught, and answer a descriptor to poll, or -errno. It is readable once
 * at first, to make its reader call sigfd_take. One in a process at a time.
 */
int sigfd_open(const sigset_t *set);
/* When it is readable: the latest signal, or 0. The calling thread takes the
 * signals from now on; it must not run translated code. */
int sigfd_take(int fd);
/* Signals that come later stay pending. */
void sigfd_close(int fd);
#endif
