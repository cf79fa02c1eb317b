/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine man`: the man page, from the same tables as the parser. */
#include "vmm/cli/cli.h"

static int man_run(void *values, char *const args[])
{
	options_man(cli_commands, cli_n_commands, stdout);
	return CLI_OK;
}

const struct command cmd_man = {
	.name = "man",
	.summary = "Print the manual page (roff; try `sardine man | man -l -`)",
	.args = "",
	.run = man_run,
};
