/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_CLI_H
#define SARDINE_VMM_CLI_CLI_H
/*
 * What the subcommands share: exit statuses and the table of engines. Each
 * subcommand is one file that defines one struct command.
 */
#include "mm/largepage/largepage.h"
#include "vmm/cli/options.h"
#include "vmm/confine.h"
#include "vmm/engine.h"

enum cli_status {
	CLI_OK = 0,	/* done; the guest powered off */
	CLI_HOST = 1,	/* host-side error: a file, memory, a socket */
	CLI_USAGE = 2,	/* the command line is wrong */
	CLI_RESET = 3,	/* the guest reset under --no-reboot */
	CLI_ENGINE = 4, /* the engine stopped the VM */
};

extern const struct command cmd_run, cmd_pack, cmd_top, cmd_stats, cmd_set,
	cmd_report, cmd_check, cmd_man, cmd_monitor, cmd_memsweep, cmd_netd;
extern const struct command cmd_pause, cmd_resume, cmd_balloon, cmd_audit;
/* All of them, for main and the man page. */
extern const struct command *const cli_commands[];
extern const size_t cli_n_commands;

/* The engines by name, best first. */
struct cli_engine {
	const char *name;
	const char *what;	      /* a line for people */
	const struct engine_ops *ops; /* NULL: not built */
};
extern const struct cli_engine cli_engines[];
extern const size_t cli_n_engines;

/* The engine to use for a name ("auto": the best whose probe passes). NULL:
 * err holds one line; *status CLI_USAGE or CLI_HOST. */
const struct engine_ops *cli_engine_pick(const char *name, char *err,
					 size_t errlen,
					 enum cli_status *status);

/* Is `bytes` a possible size of a VM's memory here? CLI_OK, or a status with
 * one line in err. what: "--mem". */
enum cli_status cli_check_mem(const char *what, uint64_t bytes, char *err,
			      size_t errlen);
/* Is --tc-size one that bt takes? */
enum cli_status cli_check_tc(uint64_t bytes, char *err, size_t errlen);
/* Bytes of memory that the host has; 0: unknown. */
uint64_t cli_host_mem(void);

/* Can `path` be read as a regular file? CLI_OK, or CLI_HOST with one line in
 * err. what: "--kernel". */
enum cli_status cli_check_file(const char *what, const char *path, char *err,
			       size_t errlen);

/* Opens what cli_check_file has found good, for vm_config's kernel_fd and
 * initrd_fd; NULL gives 0. -1: gone meanwhile. */
int cli_open_file(const char *path);

/* "auto", "4k", "2m" of --backing. CLI_OK, or CLI_USAGE with a line in err. */
enum cli_status cli_backing(const char *name, enum backing *out, char *err,
			    size_t errlen);

/* "kill", "trap", "off". 0 or -EINVAL. */
int cli_confine_mode(const char *name, enum confine_mode *mode);
#endif
