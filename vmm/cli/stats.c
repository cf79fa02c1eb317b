/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine stats`: the counters of VMs of a running `pack`, or of a file that
 * `run --stats` wrote, as tables or as JSON.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/server.h"
#include "vmm/cli/stats_table.h"

struct stats_opts {
	char *socket;
	bool json;
};

static const struct opt opts[] = {
	{"json", 0, OPT_FLAG, NULL,
	 "every counter as JSON, not the translation statistics as tables",
	 OPT(struct stats_opts, json)},
	{"socket", 's', OPT_STR, "PATH",
	 "the manager's socket (default: as for pack)",
	 OPT(struct stats_opts, socket)},
};

static bool is_file(const char *arg)
{
	size_t n = arg ? strlen(arg) : 0;

	return n &&
	       (strchr(arg, '/') || (n > 5 && !strcmp(arg + n - 5, ".json")));
}

static json_t *load_file(const char *path)
{
	json_error_t je;
	json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &je);

	if (json_is_object(o))
		return o;
	if (!o && je.line < 0)
		log_error("%s: cannot be read: %s", path, je.text);
	else
		log_error("%s: is not what `run --stats` writes", path);
	json_decref(o);
	return NULL;
}

static json_t *ask_manager(const char *path, const char *vm)
{
	char line[100], err[512], *text;
	json_error_t je;
	json_t *o;
	size_t n;

	snprintf(line, sizeof(line), "stats%s%s", vm ? " " : "", vm ? vm : "");
	if (server_query(path, line, &text, &n, err, sizeof(err))) {
		log_error("%s", err);
		return NULL;
	}
	o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	free(text);
	if (!json_is_object(o)) {
		log_error("%s: what answers there is no manager of this "
			  "version; check --socket",
			  path);
		json_decref(o);
		return NULL;
	}
	if (vm && !json_object_size(o)) {
		log_error("%s: no such VM runs there; `sardine top` lists them",
			  vm);
		json_decref(o);
		return NULL;
	}
	return o;
}

static int print_json(const json_t *o)
{
	int e = json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF ||
		fflush(stdout);

	return e ? CLI_HOST : CLI_OK;
}

static int print_vms(json_t *o)
{
	const char *name;
	bool more = false;
	json_t *vm;

	json_object_foreach(o, name, vm)
	{
		printf("%s%.60s\n", more ? "\n" : "", name);
		stats_table_print(vm, stdout);
		more = true;
	}
	return fflush(stdout) ? CLI_HOST : CLI_OK;
}

static int stats_main(void *values, char *const args[])
{
	const struct stats_opts *o = values;
	const char *path = o->socket;
	char buf[256];
	int status;
	json_t *j;

	if (!path && server_default_path(buf, sizeof(buf))) {
		log_error("$XDG_RUNTIME_DIR is too long for a socket; use "
			  "--socket PATH");
		return CLI_HOST;
	}
	j = is_file(args[0]) ? load_file(args[0])
			     : ask_manager(path ? path : buf, args[0]);
	if (!j)
		return CLI_HOST;
	if (o->json) {
		status = print_json(j);
	} else if (is_file(args[0])) {
		stats_table_print(j, stdout);
		status = fflush(stdout) ? CLI_HOST : CLI_OK;
	} else {
		status = print_vms(j);
	}
	json_decref(j);
	return status;
}

const struct command cmd_stats = {
	.name = "stats",
	.summary = "Show the translation statistics of VMs",
	.args = "[VM | FILE.json]",
	.max_args = 1,
	.details =
		"Of one VM of a running `sardine pack`, of all of them, or "
		"of a file that `sardine run --stats` wrote (its name has a "
		"slash or ends in .json). Those of running VMs are at most two "
		"seconds old. Cycles are those of the TSC; what was "
		"interrupted by the host is not timed.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct stats_opts),
	.run = stats_main,
};
