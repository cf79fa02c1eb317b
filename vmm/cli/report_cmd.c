/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine report`: a page of a run, from what `pack --record` wrote or from
 * samples of a running host. The page is made in memory and written at once:
 * what cannot be made leaves no file behind.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/history.h"
#include "vmm/cli/page.h"
#include "vmm/cli/query.h"

#define SECONDS_MAX 3600

struct report_opts {
	char *output, *socket, *title;
	uint32_t seconds;
};

static const struct opt opts[] = {
	{"output", 'o', OPT_STR, "FILE",
	 "where the page goes ('-': standard output); a name that ends in .svg "
	 "gets the chart of the host's memory alone",
	 OPT(struct report_opts, output), .required = true},
	{"socket", 's', OPT_STR, "PATH",
	 "without a FILE.jsonl: the socket of the manager to ask (default: as "
	 "for pack)",
	 OPT(struct report_opts, socket)},
	{"for", 0, OPT_UINT, "SECONDS",
	 "without a FILE.jsonl: how long to ask, once a second", .dflt = "30",
	 OPT(struct report_opts, seconds)},
	{"title", 0, OPT_STR, "STR", "title of the chart in an .svg",
	 OPT(struct report_opts, title)},
};

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	stop = 1;
}

/* ---- asking a running host ---- */

static double wall_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void wait_until(const struct timespec *t)
{
	while (!stop && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, t,
					NULL) == EINTR)
		;
}

/* Until the time is over, the manager is gone, or somebody has seen enough. */
static int ask(const struct report_opts *o, struct history *h, char *err,
	       size_t len)
{
	struct sigaction sa = {.sa_handler = on_signal};
	char buf[256];
	const char *path = query_path(o->socket, buf, sizeof(buf));
	struct timespec t;
	struct report r;
	int e = 0;

	if (!path)
		return CLI_HOST;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	clock_gettime(CLOCK_MONOTONIC, &t);
	for (uint32_t i = 0; !e && !stop && i <= o->seconds; i++) {
		e = query_sample(path, &r, err, len);
		if (!e)
			e = history_add(h, wall_time(), &r);
		t.tv_sec++;
		if (!e && i < o->seconds)
			wait_until(&t);
	}
	if (!h->n) {
		log_error("%s", e ? err : "ended before the first sample");
		return CLI_HOST;
	}
	if (e && !stop)
		log_warn("%s; the page ends there", err);
	return CLI_OK;
}

/* ---- writing ---- */

static bool is_svg(const char *name)
{
	size_t n = strlen(name);

	return n > 4 && !strcmp(name + n - 4, ".svg");
}

static int write_file(const char *path, const char *text, size_t len)
{
	bool out = !strcmp(path, "-");
	FILE *f = out ? stdout : fopen(path, "we");
	bool bad;

	if (!f) {
		log_error("-o %s: %s; give a file that can be written", path,
			  strerror(errno));
		return CLI_HOST;
	}
	bad = fwrite(text, 1, len, f) != len || fflush(f);
	if (bad)
		log_error("-o %s: cannot be written: %s", path,
			  strerror(errno));
	if (!out)
		fclose(f);
	return bad ? CLI_HOST : CLI_OK;
}

static int write_page(const struct report_opts *o, const struct history *h)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	int status = CLI_HOST;

	if (f && is_svg(o->output))
		page_write_svg(h, o->title, f);
	else if (f)
		page_write(h, f);
	if (!f || ferror(f) || fclose(f))
		log_error("out of memory");
	else
		status = write_file(o->output, text, len);
	free(text);
	return status;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static int report_main(void *values, char *const args[])
{
	const struct report_opts *o = values;
	struct history h = {0};
	char err[600];
	int status;

	if (args[0] && o->socket) {
		log_error("%s and --socket %s: give one of them, not both",
			  args[0], o->socket);
		return CLI_USAGE;
	}
	if (args[0] && same_file(args[0], o->output)) {
		log_error("-o %s: is the record itself; give another file",
			  o->output);
		return CLI_USAGE;
	}
	if (!*o->output) {
		log_error("-o: the name is empty; give -o FILE");
		return CLI_USAGE;
	}
	if (!o->seconds || o->seconds > SECONDS_MAX) {
		log_error("--for %u: give 1 to %d seconds, or record the run "
			  "with `sardine pack --record`",
			  o->seconds, SECONDS_MAX);
		return CLI_USAGE;
	}
	if (!args[0]) {
		status = ask(o, &h, err, sizeof(err));
	} else {
		status = history_load(args[0], &h, err, sizeof(err)) ? CLI_HOST
								     : CLI_OK;
		if (status)
			log_error("%s", err);
	}
	if (!status)
		status = write_page(o, &h);
	history_free(&h);
	return status;
}

const struct command cmd_report = {
	.name = "report",
	.summary = "Make a page of a run: memory over time, VM by VM",
	.args = "[FILE.jsonl]",
	.max_args = 1,
	.details =
		"FILE.jsonl is what `sardine pack --record` wrote. Without it, "
		"the manager that runs here is asked for a while; Ctrl-C makes "
		"the page of what there is so far. The page is one HTML file, "
		"charts inside, which needs no script and no network.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct report_opts),
	.run = report_main,
};
