/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_CONSOLE_H
#define SARDINE_VMM_CLI_CONSOLE_H
/*
 * The user's terminal as a VM's serial console.
 *
 * Input goes through a thread of ours into a pipe that the VM reads: that
 * thread knows the escape (Ctrl-A x quits, Ctrl-A Ctrl-A sends one Ctrl-A) when
 * the input is a terminal, and hears the signals that end the program. The
 * terminal is raw from console_open to console_close and is given back on
 * every way out that a program can see, crashes included.
 */
#include <stdbool.h>

struct console;

enum console_end {
	CONSOLE_QUIT,	/* Ctrl-A x */
	CONSOLE_SIGNAL, /* SIGINT, SIGTERM, SIGHUP or SIGQUIT; see sig */
};

/* Blocks the signals above in the calling thread, so call it before any other
 * thread exists. in_fd -1: no input. 0 or -errno. */
int console_open(int in_fd, struct console **out);
/* What the VM reads: a pipe, or -1 when there is no input. */
int console_vm_fd(const struct console *c);
/*
 * Start the thread. quit is called on it once at most; when the program has
 * not called console_close three seconds later, the terminal is given back and
 * the process ends with the status that quit returned.
 */
int console_start(struct console *c,
		  int (*quit)(void *ctx, enum console_end why, int sig),
		  void *ctx);
/* Stops the thread, gives the terminal back, frees c. */
void console_close(struct console *c);
#endif
