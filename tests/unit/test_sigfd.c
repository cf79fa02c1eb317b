/* SPDX-License-Identifier: Apache-2.0 */
/* Signals as a descriptor: pending ones, ones that come, and no wake-up for
 * the signals of others. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/sigfd.h"

static volatile int got, rounds;
static volatile bool done;

static void *reader(void *arg)
{
	int fd = *(int *)arg;

	while (!done) {
		struct pollfd p = {fd, POLLIN, 0};
		int sig;

		rounds++;
		if (poll(&p, 1, -1) < 0 && errno == EINTR)
			continue;
		sig = sigfd_take(fd);
		if (sig)
			got = sig;
	}
	return NULL;
}

static bool wait_for(int sig)
{
	for (unsigned i = 0; i < 5000 && got != sig; i++)
		usleep(1000);
	return got == sig;
}

static void ignore(int sig)
{
}

/* Voluntary context switches of the thread, by /proc. */
static long switches(pid_t tid)
{
	char path[64], line[128];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "voluntary_ctxt_switches: %ld", &n);
	fclose(f);
	return n;
}

static pid_t reader_tid;
static void *reader_main(void *arg)
{
	reader_tid = gettid();
	return reader(arg);
}

static void test_signals(void **state)
{
	sigset_t set;
	pthread_t t;
	long before;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	signal(SIGUSR1, ignore);
	fd = sigfd_open(&set);
	assert_true(fd >= 0);
	assert_int_equal(sigfd_open(&set), -EBUSY);
	kill(getpid(), SIGHUP); /* pending before anybody listens */
	pthread_create(&t, NULL, reader_main, &fd);
	assert_true(wait_for(SIGHUP));
	kill(getpid(), SIGTERM);
	assert_true(wait_for(SIGTERM));
	/* what a signalfd is woken by */
	usleep(10000);
	before = switches(reader_tid);
	for (unsigned i = 0; i < 1000; i++)
		pthread_kill(pthread_self(), SIGUSR1);
	usleep(10000);
	assert_in_range(switches(reader_tid), before, before + 10);
	done = true;
	kill(getpid(), SIGHUP);
	pthread_join(t, NULL);
	sigfd_close(fd);
	fd = sigfd_open(&set); /* again */
	assert_true(fd >= 0);
	sigfd_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
