/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine top`: the table of a running host from another terminal. What the
 * manager says is parsed into a struct report and printed from there, so that
 * nothing but numbers and printable text reaches the terminal.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/live.h"
#include "vmm/cli/query.h"
#include "vmm/cli/report_table.h"

struct top_opts {
	char *socket;
	bool json, once;
};

static const struct opt opts[] = {
	{"json", 0, OPT_FLAG, NULL, "one sample as JSON",
	 OPT(struct top_opts, json)},
	{"once", '1', OPT_FLAG, NULL, "one sample as a table",
	 OPT(struct top_opts, once)},
	{"socket", 's', OPT_STR, "PATH",
	 "the manager's socket (default: as for pack)",
	 OPT(struct top_opts, socket)},
};

static int print_json(const struct report *r)
{
	json_t *o = report_to_json(r);
	int e = !o || json_dumpf(o, stdout, JSON_INDENT(2)) ||
		putchar('\n') == EOF || fflush(stdout);

	json_decref(o);
	return e ? CLI_HOST : CLI_OK;
}

/* ---- the live table ---- */

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	stop = 1;
}

/* Blocked, but while we wait. */
static void take_signals(sigset_t *waiting)
{
	static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction sa = {.sa_handler = on_signal};
	sigset_t set;

	sigemptyset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++) {
		sigaction(sigs[i], &sa, NULL);
		sigaddset(&set, sigs[i]);
	}
	sigprocmask(SIG_BLOCK, &set, waiting);
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		sigdelset(waiting, sigs[i]);
	signal(SIGPIPE, SIG_IGN);
}

/* Keys and signals, for a second. True: that is the end. */
static bool wait_second(struct live *l, const sigset_t *waiting)
{
	struct timespec now, end, left;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec++;
	for (;;) {
		struct pollfd p = {live_fd(l), POLLIN, 0};

		clock_gettime(CLOCK_MONOTONIC, &now);
		left.tv_sec = end.tv_sec - now.tv_sec;
		left.tv_nsec = end.tv_nsec - now.tv_nsec;
		if (left.tv_nsec < 0) {
			left.tv_sec--;
			left.tv_nsec += 1000000000;
		}
		if (left.tv_sec < 0)
			return false;
		ppoll(&p, 1, &left, waiting);
		/* A terminal that is gone reads as its end, for ever. */
		if (stop || (p.revents & (POLLHUP | POLLERR | POLLNVAL)) ||
		    live_keys(l))
			return true;
	}
}

/* A manager that is busy is waited for; one that is gone ends it. */
static int watch(struct live *l, const char *path, const sigset_t *waiting,
		 char *err, size_t len)
{
	bool seen = false;

	for (;;) {
		sigset_t blocked;
		struct report r;
		int e;

		sigprocmask(SIG_SETMASK, waiting, &blocked);
		e = query_sample(path, &r, err, len);
		sigprocmask(SIG_SETMASK, &blocked, NULL);
		if (stop)
			return 0;
		if (!e) {
			live_notice(l, NULL);
			live_sample(l, &r);
			report_free(&r);
			seen = true;
		} else if (seen && (e == -ETIMEDOUT || e == -EINTR)) {
			live_notice(l, "the manager does not answer; still "
				       "trying");
		} else if (e != -EINTR) {
			/* It ended while we watched: that is no error. */
			return seen ? -ENOLINK : e;
		}
		live_draw(l);
		if (wait_second(l, waiting))
			return 0;
	}
}

/* False: this terminal cannot. */
static bool live(const char *path, int *status)
{
	char err[512];
	sigset_t waiting;
	struct live *l;
	int e;

	if (live_open("sardine top", true, &l))
		return false;
	take_signals(&waiting);
	e = watch(l, path, &waiting, err, sizeof(err));
	live_close(l);
	if (e)
		log_error("%s", err);
	*status = e && e != -ENOLINK ? CLI_HOST : CLI_OK;
	return true;
}

static int top_main(void *values, char *const args[])
{
	const struct top_opts *o = values;
	char buf[256], err[512];
	const char *path = query_path(o->socket, buf, sizeof(buf));
	struct report r;
	int status = CLI_OK;

	if (!path)
		return CLI_HOST;
	if (!o->json && !o->once && isatty(STDOUT_FILENO) &&
	    live(path, &status))
		return status;
	if (query_sample(path, &r, err, sizeof(err))) {
		log_error("%s", err);
		return CLI_HOST;
	}
	if (o->json)
		status = print_json(&r);
	else
		report_print(&r, stdout, 0);
	report_free(&r);
	return status;
}

const struct command cmd_top = {
	.name = "top",
	.summary = "Show the VMs of a running `sardine pack`",
	.args = "",
	.details = "On a terminal the table is drawn anew every second: q ends "
		   "it, < and > choose the column it is sorted by, r turns the "
		   "order round, the arrow and page keys scroll. In a pipe it "
		   "is printed once.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct top_opts),
	.run = top_main,
};
