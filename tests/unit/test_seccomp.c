/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Confinement, tried for real: each case is a child process that confines
 * itself and then does one thing. What is forbidden must die of SIGSYS; what a
 * monitor needs must work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/confine.h"

/* The wait status of a child that runs fn and leaves with its answer. */
static int in_child(int (*fn)(void *), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(fn(arg));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int confined(int (*fn)(void *), void *arg)
{
	if (confine_privileges())
		return 90;
	if (confine_seccomp(CONFINE_KILL, false))
		return 91;
	return fn(arg);
}

struct job {
	const char *name;
	int (*fn)(void *);
};

static int run_job(void *arg)
{
	const struct job *j = arg;

	return confined(j->fn, NULL);
}

/* ---- must die ---- */

static int do_open(void *a)
{
	return (int)syscall(SYS_open, "/etc/passwd", O_RDONLY) & 0x7f;
}
static int do_openat(void *a)
{
	return open("/etc/passwd", O_RDONLY) & 0x7f;
}
static int do_socket(void *a)
{
	return socket(AF_UNIX, SOCK_STREAM, 0) & 0x7f;
}
static int do_execve(void *a)
{
	char *const argv[] = {"true", NULL};

	return execve("/bin/true", argv, argv);
}
static int do_fork(void *a)
{
	pid_t p = fork();

	if (!p)
		_exit(0);
	return 0;
}
static int do_ptrace(void *a)
{
	return (int)syscall(SYS_ptrace, 16, getppid(), 0, 0) & 0x7f;
}
static int do_kill(void *a)
{
	return kill(getppid(), 0) & 0x7f;
}
static int do_tgkill_other(void *a)
{
	return (int)syscall(SYS_tgkill, getppid(), getppid(), 0) & 0x7f;
}
static int do_memfd(void *a)
{
	return memfd_create("x", 0) & 0x7f;
}
static int do_vm_read(void *a)
{
	return (int)syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0) &
	       0x7f;
}
static int do_io_uring(void *a)
{
	return (int)syscall(SYS_io_uring_setup, 1, NULL) & 0x7f;
}
static int do_prctl(void *a)
{
	return prctl(PR_SET_NAME, "x") & 0x7f;
}
static int do_bpf(void *a)
{
	return (int)syscall(SYS_bpf, 0, 0, 0) & 0x7f;
}
static int do_tiocsti(void *a)
{
	char c = 'x';

	return ioctl(0, TIOCSTI, &c) & 0x7f;
}
static int do_unlink(void *a)
{
	return unlink("/nonexistent/x") & 0x7f;
}
static int do_mmap_exec(void *a)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int do_mprotect_exec(void *a)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mprotect(p, 4096, PROT_READ | PROT_EXEC);
}
/* getpid by the 32-bit gate: another table of numbers. */
static int do_int80(void *a)
{
	long r;

	asm volatile("int $0x80"
		     : "=a"(r)
		     : "a"(20)
		     : "memory", "r8", "r9", "r10", "r11");
	return 0;
}
static int do_x32(void *a)
{
	return (int)syscall(0x40000000 | SYS_getpid) & 0x7f;
}

static void test_forbidden(void **state)
{
	static const struct job jobs[] = {
		{"open", do_open},
		{"openat", do_openat},
		{"socket", do_socket},
		{"execve", do_execve},
		{"fork", do_fork},
		{"ptrace", do_ptrace},
		{"kill", do_kill},
		{"tgkill of another", do_tgkill_other},
		{"memfd_create", do_memfd},
		{"process_vm_readv", do_vm_read},
		{"io_uring_setup", do_io_uring},
		{"prctl", do_prctl},
		{"bpf", do_bpf},
		{"ioctl TIOCSTI", do_tiocsti},
		{"unlink", do_unlink},
		{"mmap PROT_EXEC", do_mmap_exec},
		{"mprotect PROT_EXEC", do_mprotect_exec},
		{"int 0x80", do_int80},
		{"x32", do_x32},
	};

	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
		int st = in_child(run_job, (void *)&jobs[i]);

		if (!WIFSIGNALED(st) || WTERMSIG(st) != SIGSYS)
			fail_msg("%s: not killed (wait status %x)",
				 jobs[i].name, st);
	}
}

/* ---- must work ---- */

static int do_memory(void *arg)
{
	int fd = *(int *)arg;
	uint8_t *p =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	void *heap;

	if (p == MAP_FAILED)
		return 1;
	p[5000] = 7;
	if (madvise(p, 1 << 20, MADV_DONTNEED) || p[5000] != 7)
		return 2;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096,
		      4096) ||
	    p[5000])
		return 3;
	if (mprotect(p, 4096, PROT_READ))
		return 4;
	if (munmap(p, 1 << 20))
		return 5;
	heap = malloc(10 << 20);
	if (!heap)
		return 6;
	memset(heap, 1, 10 << 20);
	free(heap);
	return 0;
}

static int confined_memory(void *arg)
{
	int fd = memfd_create("test", 0);

	if (fd < 0 || ftruncate(fd, 1 << 20))
		return 80;
	return confined(do_memory, &fd);
}

static int do_stdio(void *arg)
{
	char buf[8];
	int *fds = arg;

	if (write(fds[1], "abc", 3) != 3 || read(fds[0], buf, 8) != 3)
		return 1;
	return raise(SIGCONT); /* tgkill of ourselves */
}

static int confined_stdio(void *arg)
{
	int fds[2];

	if (pipe(fds))
		return 80;
	return confined(do_stdio, fds);
}

static void test_allowed(void **state)
{
	assert_int_equal(in_child(confined_memory, NULL), 0);
	assert_int_equal(in_child(confined_stdio, NULL), 0);
}

/* A bug in confined code must still end as one: abort, with its signal. */
static int do_abort(void *a)
{
	abort();
}

static void test_abort(void **state)
{
	struct job j = {"abort", do_abort};
	int st = in_child(run_job, &j);

	assert_true(WIFSIGNALED(st));
	assert_int_equal(WTERMSIG(st), SIGABRT);
}

/* ---- a VM's network ---- */

static int run_net_job(void *arg)
{
	if (confine_net(CONFINE_KILL))
		return 90;
	return ((const struct job *)arg)->fn(NULL);
}

static int do_bind(void *a)
{
	return (int)syscall(SYS_bind, 0, NULL, 0) & 0x7f;
}

static void test_net_forbidden(void **state)
{
	static const struct job jobs[] = {
		{"unix socket", do_socket}, {"bind", do_bind},
		{"execve", do_execve},	    {"fork", do_fork},
		{"ptrace", do_ptrace},	    {"kill", do_kill},
		{"memfd_create", do_memfd}, {"process_vm_readv", do_vm_read},
	};

	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
		int st = in_child(run_net_job, (void *)&jobs[i]);

		if (!WIFSIGNALED(st) || WTERMSIG(st) != SIGSYS)
			fail_msg("%s: wait status %#x", jobs[i].name, st);
	}
}

/* It connects, to nobody here; files are not there, and no packets but TCP's
 * and UDP's. */
static int do_connect(void *a)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(9),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return 1;
	(void)!connect(fd, (struct sockaddr *)&to, sizeof(to));
	if (open("/etc/passwd", O_RDONLY) >= 0 || errno != ENOENT)
		return 2;
	if (socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP) >= 0 ||
	    errno != EACCES)
		return 3;
	return isatty(2) ? 4 : 0;
}

static void test_net_allowed(void **state)
{
	struct job j = {"connect", do_connect};

	assert_int_equal(in_child(run_net_job, &j), 0);
}

/* Threads that exist already are confined too. */
static void *late_open(void *arg)
{
	uint64_t v;

	(void)!read(*(int *)arg, &v, sizeof(v));
	(void)!open("/etc/passwd", O_RDONLY);
	return NULL;
}

static int thread_case(void *arg)
{
	int ev = eventfd(0, 0);
	uint64_t one = 1;
	pthread_t t;

	if (pthread_create(&t, NULL, late_open, &ev))
		return 80;
	if (confine_privileges() || confine_seccomp(CONFINE_KILL, false))
		return 90;
	(void)!write(ev, &one, sizeof(one));
	pthread_join(t, NULL);
	return 0;
}

static void test_all_threads(void **state)
{
	int st = in_child(thread_case, NULL);

	assert_true(WIFSIGNALED(st));
	assert_int_equal(WTERMSIG(st), SIGSYS);
}

static int trap_case(void *arg)
{
	int fd = *(int *)arg;

	dup2(fd, 2);
	if (confine_privileges() || confine_seccomp(CONFINE_TRAP, false))
		return 90;
	return do_openat(NULL);
}

static void test_trap_names_the_call(void **state)
{
	char buf[200] = "", want[64];
	int fds[2], st;

	assert_int_equal(pipe(fds), 0);
	st = in_child(trap_case, &fds[1]);
	assert_true(WIFSIGNALED(st));
	assert_int_equal(WTERMSIG(st), SIGABRT);
	assert_true(read(fds[0], buf, sizeof(buf) - 1) > 0);
	snprintf(want, sizeof(want), "system call %d\n", SYS_openat);
	assert_non_null(strstr(buf, want));
	close(fds[0]);
	close(fds[1]);
}

/* ---- who asks: the instruction pointer ---- */

struct ip_case {
	uint64_t page;	 /* where the stub's page goes */
	unsigned offset; /* of the stub in it */
	uint64_t deny_start, deny_end;
};

static const uint8_t stub[] = {0xb8, 39,   0, 0, 0, /* mov $getpid, %eax */
			       0x0f, 0x05,	    /* syscall */
			       0xc3};		    /* ret */

static int ip_run(void *arg)
{
	const struct ip_case *c = arg;
	uint8_t *p =
		mmap((void *)c->page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	int (*fn)(void) = (int (*)(void))(p + c->offset);

	if (p == MAP_FAILED)
		return 80;
	memcpy(p + c->offset, stub, sizeof(stub));
	if (seccomp_deny_ip_range(c->deny_start, c->deny_end))
		return 90;
	if (getpid() <= 0) /* from libc: fine */
		return 1;
	return fn() == getpid() ? 0 : 2;
}

static void test_ip_range(void **state)
{
	const uint64_t a = 0x700000000000ull, b = 0x7000fffff000ull;
	const struct {
		struct ip_case c;
		bool dies;
	} cases[] = {
		/* first and last byte of the range; just outside */
		{{a, 0, a, a + 4096}, true},
		{{a, 4096 - 7, a, a + 4096}, true},
		{{a, 4096, a, a + 4096}, false},
		{{a, 100, a + 107, a + 4096}, false},
		{{a, 100, a + 105, a + 107}, true},
		{{a, 100, a + 106, a + 107}, true},
		{{a, 100, a, a + 105}, false},
		/* a range over a 4 GiB boundary, both sides of it */
		{{b, 0, b, b + 8192}, true},
		{{b, 4096, b, b + 8192}, true},
		{{b, 4096, b - 4096, b + 4096}, false},
		{{b, 0, b + 4096, b + 8192}, false},
		/* many GiB */
		{{b, 0, a, 0x710000000000ull}, true},
		{{b, 0, 0x700200000000ull, 0x710000000000ull}, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int st = in_child(ip_run, (void *)&cases[i].c);
		bool died = WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS;

		if (died != cases[i].dies || (!died && st))
			fail_msg("case %zu: wait status %x", i, st);
	}
	assert_int_equal(seccomp_deny_ip_range(5, 5), -EINVAL);
}

/* ---- descriptors and privileges ---- */

static int fds_case(void *arg)
{
	int keep[2], other, first = dup(0);

	keep[1] = dup(0);
	other = dup(0);
	keep[0] = fcntl(0, F_DUPFD, 100);
	if (confine_close_fds(keep, 2))
		return 80;
	if (fcntl(keep[0], F_GETFD) < 0 || fcntl(keep[1], F_GETFD) < 0)
		return 1;
	if (fcntl(other, F_GETFD) >= 0 || fcntl(first, F_GETFD) >= 0)
		return 2;
	if (fcntl(0, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0)
		return 3;
	if (confine_close_fds(NULL, 0))
		return 4;
	return fcntl(keep[0], F_GETFD) < 0 ? 0 : 5;
}

static void test_close_fds(void **state)
{
	assert_int_equal(in_child(fds_case, NULL), 0);
}

static int caps_case(void *arg)
{
	char line[256];
	unsigned long long v;
	int seen = 0;
	FILE *f;

	if (confine_privileges())
		return 80;
	f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "CapEff: %llx", &v) == 1 ||
		    sscanf(line, "CapPrm: %llx", &v) == 1 ||
		    sscanf(line, "CapInh: %llx", &v) == 1)
			seen += v == 0;
		if (sscanf(line, "NoNewPrivs: %llx", &v) == 1)
			seen += v == 1;
	}
	return seen == 4 ? 0 : 1;
}

static void test_privileges(void **state)
{
	assert_int_equal(in_child(caps_case, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_net_forbidden),
		cmocka_unit_test(test_net_allowed),
		cmocka_unit_test(test_forbidden),
		cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_all_threads),
		cmocka_unit_test(test_trap_names_the_call),
		cmocka_unit_test(test_ip_range),
		cmocka_unit_test(test_close_fds),
		cmocka_unit_test(test_privileges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
