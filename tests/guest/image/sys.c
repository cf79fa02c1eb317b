/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel's services cost: switches between processes, signals, calls
 * that touch memory, exec. And the helpers of the bench: `timed` measures any
 * other program the way ours measure themselves, `onecpu` binds it to one CPU,
 * `clock` lets the host check a guest's clock.
 */
#include "guest.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A guest has one CPU; natively, processes that talk stay on one, too. */
static void one_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int ended_well(pid_t pid)
{
	int st;

	return waitpid(pid, &st, 0) == pid && WIFEXITED(st) && !WEXITSTATUS(st);
}

/* A byte goes over and comes back, one more each time. */
int pipe_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 150000), good = 0;
	int to[2], from[2];
	uint8_t b = 0, last = 0;
	pid_t pid;
	double t;

	one_cpu();
	if (pipe(to) || pipe(from) || (pid = fork()) < 0) {
		perror("pipe");
		return 1;
	}
	if (!pid) {
		close(to[1]);
		while (read(to[0], &b, 1) == 1) {
			b++;
			if (write(from[1], &b, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	t = now_s();
	for (long i = 0; i < n; i++) {
		if (write(to[1], &b, 1) != 1 || read(from[0], &b, 1) != 1)
			break;
		good += b == (uint8_t)(last + 1);
		last = b;
	}
	t = now_s() - t;
	close(to[1]);
	good += !ended_well(pid);
	printf("pipe n=%ld result=%ld seconds=%.3f\n", n, good, t);
	return good != n;
}

static volatile long signals;

static void on_signal(int sig)
{
	signals++;
}

int signals_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 300000);
	struct sigaction sa = {.sa_handler = on_signal};
	pid_t self = getpid();
	double t;

	sigaction(SIGUSR1, &sa, NULL);
	t = now_s();
	for (long i = 0; i < n; i++)
		kill(self, SIGUSR1);
	t = now_s() - t;
	printf("signals n=%ld result=%ld seconds=%.3f\n", n, signals, t);
	return signals != n;
}

/* read, write, stat, mmap and munmap, on a file in memory. */
int syscalls_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 80000);
	uint64_t sum = 0;
	char buf[512];
	struct stat st;
	int fd = syscall(SYS_memfd_create, "bench", 0);
	char path[64];
	double t;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fd < 0 || ftruncate(fd, 1 << 16)) {
		perror("syscalls");
		return 1;
	}
	t = now_s();
	for (long i = 0; i < n; i++) {
		off_t at = i * 512 & 0xffff;
		uint64_t *p;

		memset(buf, i, sizeof(buf));
		if (pwrite(fd, buf, sizeof(buf), at) != sizeof(buf) ||
		    pread(fd, buf, sizeof(buf), at ^ 0x8000) != sizeof(buf) ||
		    fstat(fd, &st) || stat("/proc", &st))
			break;
		p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, at & -4096);
		if (p == MAP_FAILED)
			break;
		sum = sum * 31 + buf[0] + p[at / 8 & 511] + S_ISDIR(st.st_mode);
		munmap(p, 4096);
	}
	t = now_s() - t;
	close(fd);
	printf("syscalls n=%ld result=%016lx seconds=%.3f\n", n, sum, t);
	return 0;
}

/* execloop [N [PROGRAM]]: spawn it N times; it must end with the status that its
 * argument says. The default is the bench tree's dynamically linked one. */
int execloop_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 1000), sum = 0;
	char *prog = argc > 2 ? argv[2] : "/bench/bin/dyn", status[16];
	char *args[] = {"quit", status, NULL}, *env[] = {NULL};
	double t = now_s();

	for (long i = 0; i < n; i++) {
		pid_t pid;
		int st, e;

		snprintf(status, sizeof(status), "%ld", i & 63);
		e = posix_spawn(&pid, prog, NULL, NULL, args, env);
		if (e) {
			fprintf(stderr, "execloop: %s: %s\n", prog, strerror(e));
			return 1;
		}
		if (waitpid(pid, &st, 0) != pid || !WIFEXITED(st))
			return 1;
		sum += WEXITSTATUS(st);
	}
	printf("execloop n=%ld result=%ld seconds=%.3f\n", n, sum, now_s() - t);
	return 0;
}

/* quit [STATUS]: what `execloop` runs where there is no dynamic linker. */
int quit_main(int argc, char **argv)
{
	return arg_long(argc, argv, 1, 0);
}

/* onecpu COMMAND...: run it on one CPU */
int onecpu_main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	one_cpu();
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}

/* timed NAME COMMAND...: its standard output, hashed, is the result. */
int timed_main(int argc, char **argv)
{
	uint64_t h = 0xcbf29ce484222325ull;
	static uint8_t buf[1 << 16];
	long total = 0;
	ssize_t len;
	int fd[2];
	pid_t pid;
	double t;

	if (argc < 3 || pipe(fd)) {
		fprintf(stderr, "timed NAME COMMAND...\n");
		return 2;
	}
	one_cpu();
	t = now_s();
	pid = fork();
	if (!pid) {
		dup2(fd[1], 1);
		close(fd[0]);
		close(fd[1]);
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	close(fd[1]);
	while ((len = read(fd[0], buf, sizeof(buf))) > 0) {
		total += len;
		for (ssize_t i = 0; i < len; i++)
			h = (h ^ buf[i]) * 0x100000001b3ull;
	}
	if (pid < 0 || !ended_well(pid)) {
		fprintf(stderr, "timed: %s failed\n", argv[1]);
		return 1;
	}
	t = now_s() - t;
	printf("%s bytes=%ld result=%016lx seconds=%.3f\n", argv[1], total, h,
	       t);
	return 0;
}

/* clock [MS]: busy for so long by this machine's clock. Whoever reads the two
 * lines compares their distance with a clock of his own. */
int clock_main(int argc, char **argv)
{
	long ms = arg_long(argc, argv, 1, 2000);
	double t = now_s();

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("clock begin\n");
	while (now_s() - t < ms * 1e-3)
		;
	printf("clock end seconds=%.3f\n", now_s() - t);
	return 0;
}
