/* SPDX-License-Identifier: Apache-2.0 */
/* What a monitor costs: its own memory, its memfds, and what it started. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/cli/overhead.h"

#define MIB	 (1ull << 20)
#define SIZE	 (32 * MIB)
#define ELSEWISE (8 * MIB) /* what else may come and go meanwhile */

typedef int sample_fn(pid_t, const int *, unsigned, uint64_t *);

static int cheap(pid_t pid, const int *skip, unsigned n, uint64_t *bytes)
{
	return overhead_sample(pid, skip, n, 2, bytes);
}
static sample_fn *const both[] = {overhead_exact, cheap};

static uint64_t ours(sample_fn *fn, int skip)
{
	uint64_t bytes = 0;

	assert_int_equal(fn(getpid(), &skip, 1, &bytes), 0);
	return bytes;
}

static void touch(void)
{
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		_exit(1);
	memset(p, 1, SIZE);
}

static void children_count(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		uint64_t before = ours(both[i], -1), during;
		int up[2];
		pid_t pid;
		char c;

		assert_int_equal(pipe(up), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			touch();
			if (write(up[1], "", 1) != 1)
				_exit(1);
			pause();
			_exit(0);
		}
		assert_int_equal(read(up[0], &c, 1), 1);
		during = ours(both[i], -1);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		close(up[0]);
		close(up[1]);
		assert_true(during >= before + SIZE);
		assert_true(ours(both[i], -1) < before + ELSEWISE);
	}
}

static void memfds_count_unless_skipped(void **state)
{
	int fd = memfd_create("overhead", MFD_CLOEXEC), twice;
	char *p;

	assert_true(fd >= 0);
	twice = dup(fd);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	memset(p, 1, SIZE);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t with = ours(both[i], -1), without = ours(both[i], fd);

		assert_true(with - without > SIZE - ELSEWISE);
		assert_true(with - without < SIZE + ELSEWISE);
	}
	munmap(p, SIZE);
	close(fd);
	close(twice);
}

static void a_process_that_is_gone(void **state)
{
	uint64_t bytes = 5;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(overhead_exact(pid, NULL, 0, &bytes), -ENOENT);
	assert_int_equal(cheap(pid, NULL, 0, &bytes), -ENOENT);
	assert_int_equal(bytes, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(children_count),
		cmocka_unit_test(memfds_count_unless_skipped),
		cmocka_unit_test(a_process_that_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
