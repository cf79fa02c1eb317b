/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_GUEST_H
#define SARDINE_GUEST_H
/*
 * The guest's one static binary: busybox style, the name that it is called by
 * chooses the program. The same file runs natively for the baseline.
 *
 * Each bench program prints a line for each thing that it measures
 *	NAME PARAMETERS result=R seconds=S [MORE]
 * where R depends on nothing but the parameters, and S is CLOCK_MONOTONIC
 * around the work alone. What follows S may differ from run to run.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int primes_main(int argc, char **argv);
int fib_main(int argc, char **argv);
int getppid_main(int argc, char **argv);
int forkwait_main(int argc, char **argv);
int memsweep_main(int argc, char **argv);
int chase_main(int argc, char **argv);
int tlbread4k_main(int argc, char **argv);
int tlbread2m_main(int argc, char **argv);
int faults_main(int argc, char **argv);
int pipe_main(int argc, char **argv);
int signals_main(int argc, char **argv);
int syscalls_main(int argc, char **argv);
int execloop_main(int argc, char **argv);
int quit_main(int argc, char **argv);
int timed_main(int argc, char **argv);
int onecpu_main(int argc, char **argv);
int clock_main(int argc, char **argv);
int selftest_main(int argc, char **argv);
int work_main(int argc, char **argv);
int memwork_main(int argc, char **argv);
int hog_main(int argc, char **argv);
int kv_main(int argc, char **argv);
int rediswork_main(int argc, char **argv);
int debugexit_main(int argc, char **argv);

static inline double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Argument n as a number, or the default. */
static inline long arg_long(int argc, char **argv, int n, long dflt)
{
	return argc > n ? strtol(argv[n], NULL, 0) : dflt;
}
#endif
