/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two seccomp filters stand behind each other. The first (libseccomp) is a list
 * of system calls; what is not in it kills the process. The second (written
 * out below, because libseccomp cannot look at the instruction pointer) kills
 * when a call comes from the translation cache, whatever the call.
 *
 * What the list lets through is chosen so that none of it reaches anything new:
 * no call in it opens, connects, executes, or makes a thread or process. Where a
 * call could do that with certain arguments, the arguments are checked: mmap
 * and mprotect without PROT_EXEC, madvise for the advice named below, tgkill to
 * ourselves, ioctl for the terminal's settings (TIOCSTI would type into the
 * user's shell) and for mapping pages by a userfaultfd that is open.
 *
 * Known limits: fstat is newfstatat in glibc, and a filter cannot see whether
 * its path is empty, so a broken-out guest can ask whether a path exists and
 * how big it is. There are no namespaces of its own: the list leaves nothing
 * that they would hide.
 */
#include "vmm/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "mm/types.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* linux/mman.h, 6.1 */
#endif

#define CALL(name, why)                                                        \
	{                                                                      \
		SCMP_SYS(name), #name, why                                     \
	}

const struct confine_call confine_calls[] = {
	/* memory */
	CALL(munmap, "windows, heap"),
	CALL(mremap, "heap"),
	CALL(brk, "heap"),
	CALL(msync, "none of ours; harmless on memfds"),
	CALL(mincore, "what is resident, for statistics"),
	CALL(fallocate, "punch a merged page out of the guest's file"),
	CALL(ftruncate, "size of the guest's file"),
	CALL(lseek, "find the holes of the guest's file"),
	CALL(fstat, "blocks of the guest's file"),
	CALL(newfstatat, "the same, as glibc spells it"),
	/* descriptors that are already open */
	CALL(read, "console, timers, wakeups"),
	CALL(write, "console, wakeups, messages"),
	CALL(readv, "console"),
	CALL(writev, "console"),
	CALL(pread64, "own statistics"),
	CALL(pwrite64, "log"),
	CALL(preadv, "disks"),
	CALL(pwritev, "disks"),
	CALL(fdatasync, "disks"),
	CALL(io_uring_enter, "disks, on the rings that are there"),
	CALL(close, "the manager's socket when it has gone"),
	CALL(recvmsg, "proposals of the manager"),
	CALL(recvfrom, "proposals of the manager"),
	CALL(sendmsg, "replies to the manager"),
	CALL(sendto, "replies to the manager"),
	CALL(shutdown, "the manager's socket when it has gone"),
	CALL(poll, "console thread"),
	CALL(ppoll, "console thread"),
	CALL(epoll_wait, "I/O thread"),
	CALL(epoll_pwait, "I/O thread"),
	CALL(epoll_ctl, "I/O thread"),
	CALL(timerfd_settime, "guest timers"),
	CALL(timerfd_gettime, "guest timers"),
	CALL(fcntl, "non-blocking console"),
	/* threads, time, signals of our own */
	CALL(futex, "locks"),
	CALL(sched_yield, "locks"),
	CALL(clock_gettime, "time, where the vDSO does not serve"),
	CALL(clock_nanosleep, "HLT with a near deadline"),
	CALL(nanosleep, "the same"),
	CALL(gettimeofday, "time"),
	CALL(time, "time"),
	CALL(getcpu, "heap"),
	CALL(getrandom, "entropy for the guest"),
	CALL(getpid, "kicks"),
	CALL(gettid, "kicks"),
	CALL(getrusage, "statistics at the end"),
	CALL(rt_sigreturn, "faults of the guest"),
	CALL(rt_sigprocmask, "faults of the guest"),
	CALL(rt_sigaction, "abort"),
	CALL(sigaltstack, "faults of the guest"),
	CALL(set_robust_list, "end of a thread"),
	CALL(rseq, "end of a thread"),
	CALL(membarrier, "change of translated code"),
	CALL(restart_syscall, "after a stop and continue"),
	CALL(exit, "end of a thread"),
	CALL(exit_group, "end"),
};
const size_t confine_n_calls = ARRAY_SIZE(confine_calls);

/* Of the helper that is a VM's network (cli/netd.c); socket() and ioctl() are in
 * add_net. */
const struct confine_call confine_net_calls[] = {
	CALL(connect, "where the guest goes"),
	CALL(accept, "forwarded ports"),
	CALL(accept4, "forwarded ports"),
	CALL(getsockopt, "results of connect"),
	CALL(setsockopt, "options of new sockets"),
	CALL(getsockname, "ports of new sockets"),
	CALL(getpeername, "is it connected"),
	CALL(shutdown, "half-closed connections"),
	CALL(close, "connections that ended"),
	CALL(read, "sockets"),
	CALL(write, "sockets"),
	CALL(readv, "sockets"),
	CALL(writev, "sockets"),
	CALL(recvfrom, "sockets"),
	CALL(recvmsg, "sockets"),
	CALL(sendto, "sockets"),
	CALL(sendmsg, "sockets"),
	CALL(poll, "its loop"),
	CALL(ppoll, "its loop"),
	CALL(fcntl, "non-blocking sockets"),
	CALL(newfstatat, "is resolv.conf what it was"),
	CALL(brk, "heap"),
	CALL(munmap, "heap"),
	CALL(mremap, "heap"),
	CALL(futex, "heap"),
	CALL(sched_yield, "heap"),
	CALL(getcpu, "heap"),
	CALL(getrandom, "ports and sequence numbers"),
	CALL(clock_gettime, "time, where the vDSO does not serve"),
	CALL(gettimeofday, "time"),
	CALL(time, "time"),
	CALL(getpid, "abort"),
	CALL(gettid, "abort"),
	CALL(rt_sigreturn, "signals"),
	CALL(rt_sigprocmask, "abort"),
	CALL(rt_sigaction, "abort"),
	CALL(restart_syscall, "after a stop and continue"),
	CALL(exit_group, "end"),
};
const size_t confine_n_net_calls = ARRAY_SIZE(confine_net_calls);

static int compare_fds(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

int confine_close_fds(const int *keep, size_t n)
{
	int sorted[32];
	unsigned from = 3;

	if (n > ARRAY_SIZE(sorted))
		return -EINVAL;
	if (n)
		memcpy(sorted, keep, n * sizeof(*keep));
	qsort(sorted, n, sizeof(*sorted), compare_fds);
	for (size_t i = 0; i < n; i++) {
		if (sorted[i] < (int)from)
			continue;
		if (sorted[i] > (int)from &&
		    close_range(from, (unsigned)sorted[i] - 1, 0))
			return -errno;
		from = (unsigned)sorted[i] + 1;
	}
	return close_range(from, ~0u, 0) ? -errno : 0;
}

int confine_privileges(void)
{
	struct __user_cap_header_struct h = {
		.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2];
	struct rlimit no_core = {0, 0};

	memset(none, 0, sizeof(none));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	if (syscall(SYS_capset, &h, none))
		return -errno;
	if (setrlimit(RLIMIT_CORE, &no_core))
		return -errno;
	return 0;
}

/* ---- the list ---- */

/* madvise: giving memory back (ours and the heap's), keeping it out of cores
 * (heap), large pages (mm/largepage). */
static const int confine_advice[] = {MADV_DONTNEED, MADV_FREE, MADV_DONTDUMP,
				     MADV_DODUMP, MADV_COLLAPSE};

/* What both lists let through with an eye on the arguments. */
static int add_common(scmp_filter_ctx ctx)
{
	int r;

	r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
			     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	for (size_t i = 0; !r && i < ARRAY_SIZE(confine_advice); i++)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1,
			SCMP_A2(SCMP_CMP_EQ, (scmp_datum_t)confine_advice[i]));
	return r;
}

/* On the userfaultfd that is open (vmm/mmu/shadow_carpet.c). */
static int add_uffd(scmp_filter_ctx ctx)
{
	static const unsigned long calls[] = {UFFDIO_REGISTER, UFFDIO_CONTINUE,
					      UFFDIO_ZEROPAGE};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(calls); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, calls[i]));
	return r;
}

static int add_tty(scmp_filter_ctx ctx, bool tty)
{
	static const unsigned long tty_calls[] = {TCGETS, TCSETS, TCSETSW,
						  TCSETSF, TIOCGPGRP};
	int r = 0;

	for (size_t i = 0; !r && tty && i < ARRAY_SIZE(tty_calls); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, tty_calls[i]));
	return r;
}

/* Sockets of the Internet only, and no packet sockets or raw ones: the guest's
 * frames are libslirp's business. Files look as if they were not there. */
static int add_net(scmp_filter_ctx ctx)
{
	static const unsigned types[] = {SOCK_STREAM, SOCK_DGRAM};
	int r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat),
				 0);

	for (size_t i = 0; !r && i < ARRAY_SIZE(types); i++)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
			SCMP_A0(SCMP_CMP_EQ, AF_INET),
			SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, types[i]));
	/* A guest's ping, where the kernel allows no ping sockets. */
	if (!r)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 2,
			SCMP_A0(SCMP_CMP_EQ, AF_INET),
			SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, SOCK_RAW));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, FIONREAD));
	/* glib asks it before it prints a warning. */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY),
				     SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, TCGETS));
	return r;
}

static int fill(scmp_filter_ctx ctx, const struct confine_call *calls, size_t n)
{
	int r;

	/* A call of another ABI (int 0x80, x32) must not slip through. */
	r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH,
			     SCMP_ACT_KILL_PROCESS);
	if (!r)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	/* A binary tree instead of a list; older libraries do without. */
	if (!r)
		(void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (size_t i = 0; !r && i < n; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i].nr, 0);
	return r ? r : add_common(ctx);
}

/* CONFINE_TRAP: no stdio here, the interrupted code may hold its locks. */
static void on_sigsys(int sig, siginfo_t *si, void *uc)
{
	static const char head[] =
		"sardine: confined process made system call ";
	char num[16];
	int n = si->si_syscall, i = (int)sizeof(num);

	num[--i] = '\n';
	do
		num[--i] = (char)('0' + n % 10);
	while ((n /= 10) && i);
	(void)!write(STDERR_FILENO, head, sizeof(head) - 1);
	(void)!write(STDERR_FILENO, num + i, sizeof(num) - (size_t)i);
	abort();
}

/* The list of a monitor, or that of a VM's network. */
static int load(enum confine_mode mode, bool net, bool tty)
{
	struct sigaction sa = {.sa_sigaction = on_sigsys,
			       .sa_flags = SA_SIGINFO};
	scmp_filter_ctx ctx;
	int r;

	if (mode == CONFINE_OFF)
		return 0;
	/* gmtime_r() reads /etc/localtime the first time (the RTC uses it). */
	tzset();
	if (mode == CONFINE_TRAP && sigaction(SIGSYS, &sa, NULL))
		return -errno;
	ctx = seccomp_init(mode == CONFINE_TRAP ? SCMP_ACT_TRAP
						: SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return -ENOMEM;
	r = net ? fill(ctx, confine_net_calls, confine_n_net_calls)
		: fill(ctx, confine_calls, confine_n_calls);
	if (!r)
		r = net ? add_net(ctx) : add_tty(ctx, tty);
	if (!r && !net)
		r = add_uffd(ctx);
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

int confine_seccomp(enum confine_mode mode, bool tty)
{
	return load(mode, false, tty);
}

int confine_net(enum confine_mode mode)
{
	int r = mode == CONFINE_OFF ? 0 : confine_privileges();

	return r ? r : load(mode, true, false);
}

/* ---- who asks ---- */

/*
 * The kernel gives the address after the SYSCALL instruction, so a call made in
 * [start, end) shows one in (start, end]. Addresses come in two 32-bit halves.
 *
 *   ip > start:  hi > S.hi, or hi == S.hi and lo > S.lo
 *   ip <= end:   hi < E.hi, or hi == E.hi and lo <= E.lo
 */
int seccomp_deny_ip_range(uint64_t start, uint64_t end)
{
	const uint32_t lo = offsetof(struct seccomp_data, instruction_pointer);
	const uint32_t hi = lo + 4;
	struct sock_filter f[] = {
		/* 0 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, hi),
		/* 1 */
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(start >> 32), 3,
			 0),
		/* 2 */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(start >> 32), 0,
			 8),
		/* 3 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, lo),
		/* 4 */
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)start, 0, 6),
		/* 5: above start */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, hi),
		/* 6 */
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(end >> 32), 4,
			 0),
		/* 7 */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(end >> 32), 0,
			 2),
		/* 8 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, lo),
		/* 9 */
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)end, 1, 0),
		/* 10 */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		/* 11 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(f), .filter = f};

	if (start >= end)
		return -EINVAL;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		    SECCOMP_FILTER_FLAG_TSYNC, &prog))
		return -errno;
	return 0;
}

int confine_process(enum confine_mode mode, bool tty, uint64_t start,
		    uint64_t end)
{
	int r;

	if (mode == CONFINE_OFF)
		return 0;
	r = confine_privileges();
	if (!r && end)
		r = seccomp_deny_ip_range(start, end);
	return r ? r : confine_seccomp(mode, tty);
}
