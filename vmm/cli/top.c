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
#include <sys/ioctl.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/report_table.h"
#include "vmm/cli/server.h"

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

static int sample(const char *path, struct report *r, char *err, size_t len)
{
	json_error_t je;
	json_t *o;
	char *text;
	size_t n;
	int e = server_query(path, &text, &n, err, len);

	if (e)
		return e;
	o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	free(text);
	e = o ? report_from_json(o, r) : -EINVAL;
	json_decref(o);
	if (e)
		snprintf(err, len,
			 "%s: what answers there is no manager of this "
			 "version; check --socket",
			 path);
	return e;
}

static int print_json(const struct report *r)
{
	json_t *o = report_to_json(r);
	int e = !o || json_dumpf(o, stdout, JSON_INDENT(2)) ||
		putchar('\n') == EOF || fflush(stdout);

	json_decref(o);
	return e ? CLI_HOST : CLI_OK;
}

static int live(const char *path)
{
	unsigned drawn = 0;
	char err[512];

	for (;;) {
		struct winsize w = {0};
		struct report r;
		size_t room = 0;

		if (sample(path, &r, err, sizeof(err))) {
			log_error("%s", err);
			/* It ended while we watched: that is no error. */
			return drawn ? CLI_OK : CLI_HOST;
		}
		if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row > 10)
			room = w.ws_row - 9u;
		if (drawn)
			printf("\033[%uA\033[J", drawn);
		drawn = report_print(&r, stdout, room);
		fflush(stdout);
		report_free(&r);
		sleep(1);
	}
}

static int top_main(void *values, char *const args[])
{
	const struct top_opts *o = values;
	char buf[256], err[512];
	const char *path = o->socket;
	struct report r;
	int status = CLI_OK;

	if (!path) {
		if (server_default_path(buf, sizeof(buf))) {
			log_error("$XDG_RUNTIME_DIR is too long for a socket; "
				  "use --socket PATH");
			return CLI_HOST;
		}
		path = buf;
	}
	if (!o->json && !o->once && isatty(STDOUT_FILENO))
		return live(path);
	if (sample(path, &r, err, sizeof(err))) {
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
	.details = "On a terminal the table is redrawn every second; Ctrl-C "
		   "ends it. In a pipe it is printed once.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct top_opts),
	.run = top_main,
};
