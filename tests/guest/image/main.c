/* SPDX-License-Identifier: Apache-2.0 */
/* Choose the program by the name of the call, or by the first argument. */
#include "guest.h"
#include <string.h>

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *help;
} progs[] = {
	{"primes", primes_main, "[N]: count the primes below N"},
	{"fib", fib_main, "[N]: Fibonacci, by plain recursion"},
	{"getppid", getppid_main, "[N]: N system calls"},
	{"forkwait", forkwait_main, "[N]: fork, exit, wait; N times"},
	{"memsweep", memsweep_main, "[N [MiB]]: N scattered writes"},
	{"chase", chase_main, "[PERCENT]: dependent loads, L1 to memory"},
	{"tlbread4k", tlbread4k_main, "[N [MiB]]: random reads, 4 KiB pages"},
	{"tlbread2m", tlbread2m_main, "[N [MiB]]: random reads, 2 MiB pages"},
	{"faults", faults_main, "[N]: map, touch, unmap 16 MiB; N times"},
	{"pipe", pipe_main, "[N]: a byte to a process and back, N times"},
	{"signals", signals_main, "[N]: N signals to oneself"},
	{"syscalls", syscalls_main, "[N]: read, write, stat, mmap; N times"},
	{"execloop", execloop_main, "[N [PROGRAM]]: run PROGRAM N times"},
	{"quit", quit_main, "[STATUS]: end at once"},
	{"timed", timed_main, "NAME COMMAND...: measure and hash it"},
	{"onecpu", onecpu_main, "COMMAND...: run it on one CPU"},
	{"clock", clock_main, "[MS]: busy for MS ms, for a check of clocks"},
	{"selftest", selftest_main, "[NAME]: is this a good CPU and kernel?"},
	{"work", work_main, "[SEED [KIB]]: write a file, print its checksum"},
	{"memwork", memwork_main,
	 "MIB [ACTIVE% [SECONDS [SOFT% [SEED]]]]: check memory at work"},
	{"hog", hog_main, "MIB [SECONDS [ROUNDS]]: fill memory, free it"},
	{"kv", kv_main,
	 "SOCKET MIB ACTIVE% SECONDS [SEED]: redis under load, checked"},
	{"rediswork", rediswork_main,
	 "MIB [ACTIVE% [SECONDS [SEED [PORT [ADDRESS]]]]]: the same in redis"},
	{"debugexit", debugexit_main, "V: write V to port 0xf4"},
};

int main(int argc, char **argv)
{
	const char *name;
	unsigned i;

	for (int a = 0; a < 2 && a < argc; a++) {
		name = strrchr(argv[a], '/');
		name = name ? name + 1 : argv[a];
		for (i = 0; i < sizeof(progs) / sizeof(progs[0]); i++)
			if (!strcmp(name, progs[i].name))
				return progs[i].fn(argc - a, argv + a);
	}
	for (i = 0; i < sizeof(progs) / sizeof(progs[0]); i++)
		fprintf(stderr, "%s %s\n", progs[i].name, progs[i].help);
	return 2;
}
