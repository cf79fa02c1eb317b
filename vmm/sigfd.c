/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sigfd.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A handler has nothing but the process to find these by. */
static struct {
	volatile sig_atomic_t fd, latest;
	sigset_t set;
} here = {.fd = -1};

static void on_signal(int sig)
{
	uint64_t one = 1;
	int e = errno;

	here.latest = sig;
	(void)!write(here.fd, &one, sizeof(one));
	errno = e;
}

int sigfd_open(const sigset_t *set)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	int fd, sig;

	if (here.fd >= 0)
		return -EBUSY;
	fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	pthread_sigmask(SIG_BLOCK, set, NULL);
	here.set = *set;
	here.latest = 0;
	here.fd = fd;
	for (sig = 1; sig < NSIG; sig++)
		if (sigismember(set, sig) == 1)
			sigaction(sig, &sa, NULL);
	return fd;
}

int sigfd_take(int fd)
{
	uint64_t n;
	int sig;

	/* Blocked meanwhile, so that no handler runs between the read and the
	 * look; what is pending at the end makes fd readable again. */
	pthread_sigmask(SIG_BLOCK, &here.set, NULL);
	(void)!read(fd, &n, sizeof(n));
	sig = here.latest;
	here.latest = 0;
	pthread_sigmask(SIG_UNBLOCK, &here.set, NULL);
	return sig;
}

void sigfd_close(int fd)
{
	pthread_sigmask(SIG_BLOCK, &here.set, NULL);
	here.fd = -1;
	close(fd);
}
