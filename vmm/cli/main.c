/* SPDX-License-Identifier: Apache-2.0 */
/* The program: find the subcommand in the table, parse, run, exit. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"

/* jemalloc's: one arena and no thread caches. Nothing here allocates often
 * enough to gain from more, and each VM's monitor pays for them. */
const char *malloc_conf = "narenas:1,tcache:false";

const struct command *const cli_commands[] = {
	&cmd_run,   &cmd_pack,	   &cmd_top,	 &cmd_stats,   &cmd_set,
	&cmd_pause, &cmd_resume,   &cmd_balloon, &cmd_audit,   &cmd_report,
	&cmd_check, &cmd_memsweep, &cmd_man,	 &cmd_monitor, &cmd_netd,
};
const size_t cli_n_commands = ARRAY_SIZE(cli_commands);

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < cli_n_commands; i++)
		if (!strcmp(cli_commands[i]->name, name))
			return cli_commands[i];
	return NULL;
}

static void usage(FILE *f)
{
	fputs("usage: sardine COMMAND [options]\n\n", f);
	for (size_t i = 0; i < cli_n_commands; i++)
		if (!cli_commands[i]->hidden)
			fprintf(f, "  %-8s %s\n", cli_commands[i]->name,
				cli_commands[i]->summary);
	fputs("\n`sardine COMMAND --help` lists a command's options.\n", f);
}

static int run_command(const struct command *c, int argc, char **argv)
{
	char *args[OPT_MAX_ARGS + 1];
	void *values = calloc(1, c->values_size + 1);
	char err[512];
	int status = CLI_USAGE;

	if (!values) {
		log_error("out of memory");
		return CLI_HOST;
	}
	switch (options_parse(c, argc, argv, values, args, err, sizeof(err))) {
	case OPTIONS_OK:
		status = c->run(values, args);
		break;
	case OPTIONS_HELP:
		options_help(c, stdout);
		status = CLI_OK;
		break;
	case OPTIONS_BAD:
		log_error("%s", err);
		break;
	}
	options_free(c, values, args);
	free(values);
	return status;
}

/* Descriptors 0 to 2 must be open, or a guest's memory would get their
 * numbers and somebody's message would land in it. */
static int open_std_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	const struct command *c;

	if (open_std_fds())
		return CLI_HOST;
	if (argc < 2) {
		usage(stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
	    (!strcmp(argv[1], "help") && argc == 2)) {
		usage(stdout);
		return CLI_OK;
	}
	if (!strcmp(argv[1], "help")) {
		c = find(argv[2]);
		if (c)
			options_help(c, stdout);
		else
			log_error("%s: no such command; `sardine --help` "
				  "lists them",
				  argv[2]);
		return c ? CLI_OK : CLI_USAGE;
	}
	c = find(argv[1]);
	if (!c) {
		log_error("%s: no such command; `sardine --help` lists them",
			  argv[1]);
		return CLI_USAGE;
	}
	return run_command(c, argc - 1, argv + 1);
}
