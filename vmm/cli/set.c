/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine set` and `sardine balloon`: change what a running VM, or all of them
 * together, may have or should give back. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/manager.h"
#include "vmm/cli/server.h"

#define ANSWER_MS 5000

struct set_opts {
	char *socket;
};

static const struct opt opts[] = {
	{"socket", 's', OPT_STR, "PATH",
	 "the manager's socket (default: as for pack)",
	 OPT(struct set_opts, socket)},
};

static int connect_to(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd, e;

	if ((size_t)snprintf(sa.sun_path, sizeof(sa.sun_path),
			     "%s" COMMAND_SUFFIX, path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || !connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return fd < 0 ? -errno : fd;
	e = errno;
	close(fd);
	return -e;
}

/* Sends the command and waits for the answer: 0, or -errno. */
static int ask(const char *path, const char *text, char *answer, size_t len)
{
	int fd = connect_to(path), r = 0;
	struct pollfd p = {fd, POLLIN, 0};
	ssize_t n;

	if (fd < 0)
		return fd;
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		r = -errno;
	else if (poll(&p, 1, ANSWER_MS) <= 0)
		r = -ETIMEDOUT;
	n = r ? 0 : recv(fd, answer, len - 1, 0);
	if (!r && n <= 0)
		r = -EPIPE;
	answer[n > 0 ? n : 0] = '\0';
	close(fd);
	return r;
}

static int tell(const struct set_opts *o, const char *verb, char *const args[])
{
	char buf[256], text[512], answer[512];
	const char *path = o->socket;
	size_t n = (size_t)snprintf(text, sizeof(text), "%s", verb);
	int r;

	for (unsigned i = 0; args[i]; i++) {
		r = snprintf(text + n, sizeof(text) - n, " %s", args[i]);
		if (r < 0 || (size_t)r >= sizeof(text) - n) {
			log_error("%s: too much at once", verb);
			return CLI_USAGE;
		}
		n += (size_t)r;
	}
	if (!path) {
		if (server_default_path(buf, sizeof(buf))) {
			log_error("$XDG_RUNTIME_DIR is too long for a socket; "
				  "use --socket PATH");
			return CLI_HOST;
		}
		path = buf;
	}
	r = ask(path, text, answer, sizeof(answer));
	if (r) {
		log_error("%s: no manager answers there (%s); start one with "
			  "`sardine pack`, or give --socket PATH",
			  path, strerror(-r));
		return CLI_HOST;
	}
	if (!strcmp(answer, "ok"))
		return CLI_OK;
	for (char *c = answer; *c; c++)
		*c = *c >= ' ' && *c <= '~' ? *c : '?';
	log_error("%s", answer);
	return CLI_HOST;
}

static int set_main(void *values, char *const args[])
{
	if (args[0] && args[1])
		return tell(values, "set", args);
	log_error("set: give a VM's name or `host`, and settings: "
		  "sardine set VM mem.max=256M (see --help)");
	return CLI_USAGE;
}

static int pause_main(void *values, char *const args[])
{
	if (args[0])
		return tell(values, "pause", args);
	log_error("pause: give a VM's name");
	return CLI_USAGE;
}

static int resume_main(void *values, char *const args[])
{
	if (args[0])
		return tell(values, "resume", args);
	log_error("resume: give a VM's name");
	return CLI_USAGE;
}

const struct command cmd_pause = {
	.name = "pause",
	.summary = "Stop a VM's vCPU; its memory is reclaimed as it is needed",
	.args = "VM",
	.max_args = 1,
	.details = "The VM's clocks run on: after `sardine resume` it finds "
		   "that time has passed.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct set_opts),
	.run = pause_main,
};

const struct command cmd_resume = {
	.name = "resume",
	.summary = "Let a paused VM go on",
	.args = "VM",
	.max_args = 1,
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct set_opts),
	.run = resume_main,
};

static int audit_main(void *values, char *const args[])
{
	static char host[] = "host";
	char *whom[] = {host, NULL};

	return tell(values, "audit", whom);
}

const struct command cmd_audit = {
	.name = "audit",
	.summary = "Recount a running `sardine pack`'s books from scratch",
	.args = "",
	.details = "References of shared frames, the index and the pools are "
		   "counted anew while the VMs run. Status 1 and a line when "
		   "something differs; `sardine pack` says what on standard "
		   "error.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct set_opts),
	.run = audit_main,
};

static int balloon_main(void *values, char *const args[])
{
	if (args[0] && args[1])
		return tell(values, "balloon", args);
	log_error("balloon: give a VM's name and a size: sardine balloon VM "
		  "64M (see --help)");
	return CLI_USAGE;
}

const struct command cmd_balloon = {
	.name = "balloon",
	.summary = "Have a VM of a running `sardine pack` give memory back",
	.args = "VM SIZE|auto",
	.max_args = 2,
	.details = "SIZE is what the guest's balloon driver shall take from "
		   "the guest and give to the host; 0 gives all of it back. "
		   "The size stays until the next such command, but a guest "
		   "that would have to kill a process takes memory back "
		   "before. auto: let the budget's policy decide again.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct set_opts),
	.run = balloon_main,
};

const struct command cmd_set = {
	.name = "set",
	.summary = "Change what a VM of a running `sardine pack` may have",
	.args = "VM|host KEY=VALUE...",
	.max_args = OPT_MAX_ARGS,
	.details = "For a VM: mem.min=SIZE (it always has so much), "
		   "mem.max=SIZE (and never more than this), mem.shares=N (its "
		   "part of what there is, against the others'). For the host: "
		   "mem=SIZE, the budget of all VMs (as --host-mem of pack).",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct set_opts),
	.run = set_main,
};
