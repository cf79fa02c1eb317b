/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CONFINE_H
#define SARDINE_VMM_CONFINE_H
/*
 * Confinement of a process that runs a guest.
 *
 * A guest that found a way out of its engine would find itself in a process
 * that can compute, touch the descriptors it already holds, and die. Three
 * steps, in this order:
 *
 *   confine_close_fds   early: nothing inherited stays open by accident
 *   confine_privileges  no new privileges, no capabilities, no core dumps
 *   confine_seccomp     last, when files are open and threads exist: the
 *                       system calls of confine_calls[] and no others
 *
 * None of them can be undone; they hold for the whole process and what it
 * becomes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Close every descriptor above 2 that is not in keep[0..n). 0 or -errno. */
int confine_close_fds(const int *keep, size_t n);

/* PR_SET_NO_NEW_PRIVS, all capability sets emptied, RLIMIT_CORE 0. 0 or
 * -errno. */
int confine_privileges(void);

enum confine_mode {
	CONFINE_OFF,  /* for debuggers */
	CONFINE_TRAP, /* say which call it was on stderr, then die: for
			 finding out what is missing in the table */
	CONFINE_KILL, /* the process dies with SIGSYS */
};

struct confine_call {
	int nr;
	const char *name, *why;
};
extern const struct confine_call confine_calls[];
extern const size_t confine_n_calls;

/*
 * Install the filter in every thread of the process. tty: the terminal's
 * settings may still be changed (tcsetattr), so that they can be given back.
 * 0 or -errno (-EINVAL: the kernel has no seccomp filters).
 */
int confine_seccomp(enum confine_mode mode, bool tty);

/*
 * Any system call made by an instruction in [start, end) kills the process
 * from now on: translated code never makes one. Holds for every thread. Call it
 * before confine_seccomp, whose filter forbids further ones, and after
 * confine_privileges. 0 or -errno.
 */
int seccomp_deny_ip_range(uint64_t start, uint64_t end);

/* All of it but the descriptors, in the right order. end 0: no such range.
 * Nothing happens under CONFINE_OFF. 0 or -errno. */
int confine_process(enum confine_mode mode, bool tty, uint64_t start,
		    uint64_t end);

/* The process is a VM's network (cli/netd.c): it may connect where it likes and
 * do nothing else. Privileges and system calls (confine_net_calls); descriptors
 * are the caller's. 0 or -errno. */
extern const struct confine_call confine_net_calls[];
extern const size_t confine_n_net_calls;
int confine_net(enum confine_mode mode);
#endif
