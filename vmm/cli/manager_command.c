/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands for a running manager: `sardine set` and `balloon`. A socket beside the one that
 * `top` reads (its path and ".c", for its owner alone): one packet with the
 * command comes in, one with the answer goes out, and the connection ends.
 *
 *	set VM mem.min=SIZE mem.max=SIZE mem.shares=N
 *	set host mem=SIZE
 *	pause VM, resume VM
 *	balloon VM SIZE|auto
 *	audit host
 *
 * All of a command is checked before any of it is done.
 */
#include "vmm/cli/manager_priv.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/control.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/options.h"
#include "vmm/cli/server.h"

#define ANSWER_MAX 400

/* ---- the commands ---- */

static int refuse(char *answer, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static int refuse(char *answer, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(answer, ANSWER_MAX, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static struct mvm *find_vm(struct manager *m, const char *name)
{
	for (size_t i = 0; i < m->n_vms; i++)
		if (m->vms[i]->pid && m->vms[i]->control &&
		    !strcmp(m->vms[i]->name, name))
			return m->vms[i];
	return NULL;
}

static int parse_vm_key(const char *key, const char *val, struct mvm_reclaim *n,
			char *answer)
{
	uint64_t *to = !strcmp(key, "mem.min")	 ? &n->min
		       : !strcmp(key, "mem.max") ? &n->max
						 : NULL;
	char *end;

	if (to)
		return size_parse(val, to) ? refuse(answer,
						    "%s=%s: not a size; write "
						    "it as 128M",
						    key, val)
					   : 0;
	if (strcmp(key, "mem.shares"))
		return refuse(answer,
			      "%s: no such setting of a VM; there are mem.min, "
			      "mem.max, mem.shares",
			      key);
	n->shares = strtoull(val, &end, 10);
	if (!isdigit((unsigned char)*val) || *end || !n->shares ||
	    n->shares > 1000000)
		return refuse(answer,
			      "mem.shares=%s: give a number from 1 to 1000000",
			      val);
	return 0;
}

/* Splits "key=value". */
static char *value_of(char *word)
{
	char *eq = strchr(word, '=');

	if (eq)
		*eq++ = '\0';
	return eq;
}

static int set_vm(struct manager *m, const char *name, char **save,
		  char *answer)
{
	struct mvm *v = find_vm(m, name);
	struct mvm_reclaim n;
	char a[32], b[32];

	if (!v)
		return refuse(answer, "%s: no such VM runs", name);
	n = v->re;
	for (char *w; (w = strtok_r(NULL, " ", save));) {
		char *val = value_of(w);
		int r = val ? parse_vm_key(w, val, &n, answer)
			    : refuse(answer, "%s: no value; write %s=VALUE", w,
				     w);

		if (r)
			return r;
	}
	if (n.min > n.max)
		return refuse(answer, "%s: mem.min %s is more than mem.max %s",
			      name, size_format(n.min, a, sizeof(a)),
			      size_format(n.max, b, sizeof(b)));
	if (n.min > v->mem)
		return refuse(answer, "%s: has no more than %s", name,
			      size_format(v->mem, a, sizeof(a)));
	if (m->cfg.enforce &&
	    manager_minima(m) - v->re.min + n.min > m->cfg.budget_bytes)
		return refuse(
			answer,
			"%s: a minimum of %s does not fit beside those of "
			"the others in the budget of %s",
			name, size_format(n.min, a, sizeof(a)),
			size_format(m->cfg.budget_bytes, b, sizeof(b)));
	v->re = n;
	mvm_note_again(v);
	return 0;
}

static int set_host(struct manager *m, char **save, char *answer)
{
	uint64_t bytes = m->cfg.budget_bytes, host = cli_host_mem();
	char a[32], b[32];

	for (char *w; (w = strtok_r(NULL, " ", save));) {
		char *val = value_of(w);

		if (!val || strcmp(w, "mem"))
			return refuse(answer,
				      "%s: no such setting of the host; there "
				      "is mem=SIZE",
				      w);
		if (size_parse(val, &bytes))
			return refuse(answer,
				      "mem=%s: not a size; write it as 4G",
				      val);
	}
	if (host && bytes > host)
		return refuse(answer, "mem=%s: more than this host's %s",
			      size_format(bytes, a, sizeof(a)),
			      size_format(host, b, sizeof(b)));
	if (manager_minima(m) > bytes)
		return refuse(answer,
			      "mem=%s: the VMs need %s at the least; lower "
			      "their mem.min first",
			      size_format(bytes, a, sizeof(a)),
			      size_format(manager_minima(m), b, sizeof(b)));
	m->cfg.budget_bytes = bytes;
	m->cfg.enforce = true;
	(void)fail_point("kill-manager-budget");
	return 0;
}

static int pause_vm(struct manager *m, const char *name, bool on, char *answer)
{
	struct mvm *v = find_vm(m, name);

	if (!v || !v->control)
		return refuse(answer, "%s: no such VM runs", name);
	v->paused = on;
	mvm_note_again(v);
	control_set(&v->control->paused, on);
	manager_nudge(v);
	manager_event(m, "%s: %s", v->name, on ? "paused" : "resumed");
	return 0;
}

static int balloon(struct manager *m, const char *name, char **save,
		   char *answer)
{
	const char *val = strtok_r(NULL, " ", save);
	struct mvm *v = find_vm(m, name);
	uint64_t bytes = 0;
	bool auto_;

	if (!v)
		return refuse(answer, "%s: no such VM runs", name);
	auto_ = val && !strcmp(val, "auto");
	if (!val || (!auto_ && size_parse(val, &bytes)) ||
	    strtok_r(NULL, " ", save))
		return refuse(answer,
			      "%s: not a size; write it as 64M, or auto",
			      val ? val : "");
	return manager_balloon_set(v, bytes, auto_, answer, ANSWER_MAX);
}

static void run_command(struct manager *m, char *text, char *answer)
{
	char *save = NULL, *verb = strtok_r(text, " ", &save);
	char *whom = verb ? strtok_r(NULL, " ", &save) : NULL;
	int r;

	snprintf(answer, ANSWER_MAX, "ok");
	if (verb && whom && (!strcmp(verb, "pause") || !strcmp(verb, "resume")))
		r = pause_vm(m, whom, *verb == 'p', answer);
	else if (verb && !strcmp(verb, "balloon") && whom)
		r = balloon(m, whom, &save, answer);
	else if (verb && !strcmp(verb, "audit") && whom)
		r = manager_audit(m) ? refuse(answer, "the audit has failed")
				     : 0;
	else if (!verb || strcmp(verb, "set") || !whom)
		r = refuse(answer, "no such command");
	else if (!strcmp(whom, "host"))
		r = set_host(m, &save, answer);
	else
		r = set_vm(m, whom, &save, answer);
	if (!r)
		m->reclaim_ns = 0; /* at once */
}

/* ---- the socket ---- */

int manager_open_commands(struct manager *m)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t n = strlen(m->cfg.socket_path) + sizeof(COMMAND_SUFFIX);

	if (n > sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s" COMMAND_SUFFIX,
		 m->cfg.socket_path);
	/* We hold the lock of the socket beside it. */
	unlink(sa.sun_path);
	m->commands = socket(AF_UNIX,
			     SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (m->commands < 0 || fchmod(m->commands, 0600) ||
	    bind(m->commands, (struct sockaddr *)&sa, sizeof(sa)) ||
	    chmod(sa.sun_path, 0600) || listen(m->commands, 8))
		return -errno;
	return manager_watch(m, m->commands, SRC_COMMANDS, 0, EPOLLIN);
}

void manager_close_commands(struct manager *m)
{
	char path[SERVER_PATH_MAX + sizeof(COMMAND_SUFFIX)];

	if (m->commands < 0)
		return;
	snprintf(path, sizeof(path), "%s" COMMAND_SUFFIX, m->cfg.socket_path);
	unlink(path);
	manager_close_fd(&m->commands);
	for (unsigned i = 0; i < COMMANDERS; i++)
		manager_close_fd(&m->commander[i]);
}

/* Those that connect and say nothing make room for others. */
void manager_on_commands(struct manager *m)
{
	int fd = accept4(m->commands, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int *slot = &m->commander[m->next_commander++ % COMMANDERS];

	if (fd < 0)
		return;
	manager_close_fd(slot);
	*slot = fd;
	if (manager_watch(m, fd, SRC_COMMANDER, (uint32_t)fd, EPOLLIN))
		manager_close_fd(slot);
}

void manager_on_commander(struct manager *m, int fd)
{
	char text[512], answer[ANSWER_MAX];
	ssize_t n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		text[n] = '\0';
		run_command(m, text, answer);
		(void)send(fd, answer, strlen(answer),
			   MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	for (unsigned i = 0; i < COMMANDERS; i++)
		if (m->commander[i] == fd)
			manager_close_fd(&m->commander[i]);
}
