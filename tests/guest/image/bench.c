/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The five programs that the field measures a translator by (Adams & Agesen,
 * ASPLOS'06; Agesen's talk):
 *
 *   primes    user code with divisions and branches: what translation costs
 *	       when nothing but IDENT instructions run
 *   fib       calls and returns: what indirect branches cost
 *   getppid   system calls
 *   forkwait  fork, exit, wait: page tables, faults, context switches
 *   memsweep  a write to a new page each time: TLB misses
 *
 * Each result depends on the parameters alone, so that a wrong translation
 * shows.
 */
#include "guest.h"

#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long count_primes(long n)
{
	long count = n > 2;

	for (uint32_t i = 3; i < n; i += 2) {
		uint32_t d = 3;

		while (d * d <= i && i % d)
			d += 2;
		count += d * d > i;
	}
	return count;
}

int primes_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 10000000);
	double t = now_s();
	long r = count_primes(n);

	printf("primes n=%ld result=%ld seconds=%.3f\n", n, r, now_s() - t);
	return 0;
}

/* noipa, and no turning of the second call into a loop: every number of the
 * sequence is a call and a return. */
static __attribute__((noipa, optimize("no-optimize-sibling-calls"))) long
fib(long n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

int fib_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 42);
	double t = now_s();
	long r = fib(n);

	printf("fib n=%ld result=%ld seconds=%.3f\n", n, r, now_s() - t);
	return 0;
}

int getppid_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 8000000);
	long parent = syscall(SYS_getppid), same = 0;
	double t = now_s();

	for (long i = 0; i < n; i++)
		same += syscall(SYS_getppid) == parent;
	printf("getppid n=%ld result=%ld seconds=%.3f\n", n, same, now_s() - t);
	return same != n;
}

int forkwait_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 10000), sum = 0;
	double t = now_s();

	for (long i = 0; i < n; i++) {
		int st = 0;
		pid_t p = fork();

		if (p < 0) {
			perror("forkwait: fork");
			return 1;
		}
		if (!p)
			_exit(i & 63);
		if (waitpid(p, &st, 0) != p || !WIFEXITED(st)) {
			perror("forkwait: waitpid");
			return 1;
		}
		sum += WEXITSTATUS(st);
	}
	printf("forkwait n=%ld result=%ld seconds=%.3f\n", n, sum, now_s() - t);
	return 0;
}

int memsweep_main(int argc, char **argv)
{
	long n = arg_long(argc, argv, 1, 300000000);
	unsigned long s = arg_long(argc, argv, 2, 32) << 20;
	uint8_t *large = calloc(1, s);
	uint64_t sum = 0;
	double t;

	if (!large || (s & (s - 1))) {
		fprintf(stderr, "memsweep: %lu bytes: need a power of two\n",
			s);
		return 1;
	}
	t = now_s();
	for (unsigned long i = 0; i < (unsigned long)n; i++)
		large[(4096 * i + i) & (s - 1)] = 1 + large[i & (s - 1)];
	t = now_s() - t;
	for (unsigned long i = 0; i < s; i++)
		sum = sum * 31 + large[i];
	printf("memsweep n=%ld mib=%lu result=%016lx seconds=%.3f\n", n,
	       s >> 20, sum, t);
	free(large);
	return 0;
}
