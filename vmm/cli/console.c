/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/sigfd.h"

#define ESCAPE	     1 /* Ctrl-A */
#define QUIT_WAIT_MS 3000

struct console {
	int in;	      /* the user's, or -1 */
	int pipe[2];  /* to the VM */
	int signals;  /* sigfd */
	int done;     /* eventfd: console_close was called */
	bool tty;     /* in is a terminal, and raw */
	bool escaped; /* the last byte was the escape */
	bool started;
	bool quitting;
	int status; /* for the case that the VM does not stop */
	pthread_t thread;
	int (*quit)(void *ctx, enum console_end why, int sig);
	void *ctx;
};

/*
 * The terminal's settings belong to the process: a crash handler has nothing
 * else to find them by.
 */
static struct {
	volatile sig_atomic_t raw;
	int fd;
	struct termios saved;
} terminal;

static void terminal_restore(void)
{
	if (!terminal.raw)
		return;
	terminal.raw = 0;
	tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
}

/* SA_RESETHAND is set: coming back repeats the fault, or abort() goes on, and
 * the process dies of it as it would have. */
static void on_crash(int sig)
{
	int e = errno;

	terminal_restore();
	if (sig == SIGPIPE) /* not a fault: it would not come again */
		raise(sig);
	errno = e;
}

static void catch_crashes(void)
{
	static const int sigs[] = {SIGSEGV, SIGBUS,  SIGILL,
				   SIGFPE,  SIGABRT, SIGPIPE};
	struct sigaction sa = {.sa_handler = on_crash,
			       .sa_flags = SA_RESETHAND | SA_NODEFER};

	for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		sigaction(sigs[i], &sa, NULL);
}

static bool terminal_raw(int fd)
{
	struct termios t;

	/* In the background, touching the terminal would stop us. */
	if (!isatty(fd) || tcgetpgrp(fd) != getpgrp() || tcgetattr(fd, &t))
		return false;
	terminal.saved = t;
	terminal.fd = fd;
	cfmakeraw(&t);
	catch_crashes();
	terminal.raw = 1;
	if (tcsetattr(fd, TCSANOW, &t)) {
		terminal.raw = 0;
		return false;
	}
	return true;
}

static int open_fds(struct console *c)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	c->signals = sigfd_open(&set);
	if (c->signals < 0)
		return c->signals;
	c->done = eventfd(0, EFD_CLOEXEC);
	if (c->done < 0)
		return -errno;
	if (c->in >= 0 && pipe2(c->pipe, O_CLOEXEC))
		return -errno;
	return 0;
}

static void free_console(struct console *c)
{
	int fds[] = {c->pipe[0], c->pipe[1], c->done};

	for (unsigned i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (c->signals >= 0)
		sigfd_close(c->signals);
	free(c);
}

int console_open(int in_fd, struct console **out)
{
	struct console *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->in = in_fd;
	c->pipe[0] = c->pipe[1] = c->signals = c->done = -1;
	r = open_fds(c);
	if (r) {
		free_console(c);
		return r;
	}
	if (in_fd >= 0 && isatty(in_fd)) {
		c->tty = terminal_raw(in_fd);
		if (!c->tty)
			c->in = -1; /* in the background: no input */
	}
	*out = c;
	return 0;
}

int console_vm_fd(const struct console *c)
{
	return c->pipe[0];
}

static void begin_quit(struct console *c, enum console_end why, int sig)
{
	if (c->quitting)
		return;
	c->quitting = true;
	c->status = c->quit(c->ctx, why, sig);
}

/* Keep what the VM is to get of buf; answers true at the escape to quit. */
static bool filter(struct console *c, uint8_t *buf, ssize_t *n)
{
	ssize_t out = 0;

	for (ssize_t i = 0; i < *n; i++) {
		uint8_t b = buf[i];

		if (c->escaped) {
			c->escaped = false;
			if (b == 'x' || b == 'X')
				return true;
			buf[out++] = b;
		} else if (b == ESCAPE) {
			c->escaped = true;
		} else {
			buf[out++] = b;
		}
	}
	*n = out;
	return false;
}

/* The pipe may be full (a guest that does not read): wait for room, but still
 * hear the signals and console_close. POLLOUT promises PIPE_BUF bytes. */
static bool feed(struct console *c, const uint8_t *buf, ssize_t n)
{
	while (n > 0) {
		struct pollfd p[3] = {{c->pipe[1], POLLOUT, 0},
				      {c->done, POLLIN, 0},
				      {c->signals, POLLIN, 0}};
		ssize_t w;

		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return false;
		if (p[1].revents || p[2].revents)
			return true;
		if (!p[0].revents)
			continue;
		w = write(c->pipe[1], buf, (size_t)n);
		if (w < 0)
			return false;
		buf += w;
		n -= w;
	}
	return true;
}

static void end_input(struct console *c)
{
	close(c->pipe[1]);
	c->pipe[1] = -1;
	c->in = -1;
}

static void on_input(struct console *c)
{
	uint8_t buf[256];
	ssize_t n = read(c->in, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		end_input(c);
		return;
	}
	if (c->tty && filter(c, buf, &n)) {
		begin_quit(c, CONSOLE_QUIT, 0);
		return;
	}
	if (!feed(c, buf, n))
		end_input(c);
}

static void on_signal(struct console *c)
{
	int sig = sigfd_take(c->signals);

	if (sig)
		begin_quit(c, CONSOLE_SIGNAL, sig);
}

static void *console_thread(void *arg)
{
	struct console *c = arg;

	for (;;) {
		struct pollfd p[3] = {{c->done, POLLIN, 0},
				      {c->signals, POLLIN, 0},
				      {c->quitting ? -1 : c->in, POLLIN, 0}};
		int r = poll(p, 3, c->quitting ? QUIT_WAIT_MS : -1);

		if (r < 0 && errno == EINTR)
			continue;
		if (p[0].revents)
			return NULL;
		if (r == 0 && c->quitting) {
			terminal_restore();
			_exit(c->status);
		}
		if (p[1].revents)
			on_signal(c);
		if (p[2].revents)
			on_input(c);
	}
}

int console_start(struct console *c,
		  int (*quit)(void *ctx, enum console_end why, int sig),
		  void *ctx)
{
	int r;

	c->quit = quit;
	c->ctx = ctx;
	r = pthread_create(&c->thread, NULL, console_thread, c);
	c->started = !r;
	return -r;
}

void console_close(struct console *c)
{
	uint64_t one = 1;

	if (!c)
		return;
	if (c->started) {
		(void)!write(c->done, &one, sizeof(one));
		pthread_join(c->thread, NULL);
	}
	terminal_restore();
	free_console(c);
}
