/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a VM's process: what it said on stderr, what its status means, and
 * giving back what it held.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mm/control.h"
#include "vmm/cli/cli.h"

/* One line out of the monitor's stderr, printable, without our own prefix. */
static const char *first_line(struct mvm *v, char *buf, size_t len)
{
	const char *s = v->text;
	size_t n = 0;

	if (!strncmp(s, "sardine: ", 9))
		s += 9;
	for (; *s && *s != '\n' && n + 1 < len; s++)
		buf[n++] = *s >= ' ' && *s <= '~' ? *s : '?';
	buf[n] = '\0';
	return buf;
}

/* The rest, for whoever wants to read registers; same cleaning. */
static void tell_text(struct mvm *v)
{
	char *s = strchr(v->text, '\n');
	char line[256];

	while (s && *++s) {
		size_t n = strcspn(s, "\n"), k = n < 255 ? n : 255;

		for (size_t i = 0; i < k; i++)
			line[i] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
		line[k] = '\0';
		manager_event(v->m, "%s: | %s", v->name, line);
		s += n;
		if (!*s)
			break;
	}
}

void mvm_on_text(struct mvm *v)
{
	char buf[TEXT_MAX];
	ssize_t n = read(v->text_fd, buf, sizeof(buf));
	size_t room = TEXT_MAX - 1 - v->text_len, k;

	if (n <= 0) {
		if (n < 0 && errno == EINTR)
			return;
		manager_close_fd(&v->text_fd);
		return;
	}
	k = (size_t)n < room ? (size_t)n : room;
	memcpy(v->text + v->text_len, buf, k);
	v->text_len += k;
	v->text[v->text_len] = '\0';
}

static void drain_text(struct mvm *v)
{
	if (v->text_fd < 0)
		return;
	fcntl(v->text_fd, F_SETFL, O_NONBLOCK);
	/* Bounded: a process of the same pipe could write for ever. */
	for (unsigned i = 0; i < 64 && v->text_fd >= 0; i++) {
		size_t before = v->text_len;

		mvm_on_text(v);
		if (v->text_len == before)
			break;
	}
}

static void tell_end(struct mvm *v, int status)
{
	struct manager *m = v->m;
	char line[300];
	int sig;

	first_line(v, line, sizeof(line));
	if (WIFSIGNALED(status)) {
		sig = WTERMSIG(status);
		v->state = "killed";
		manager_event(
			m, "%s: killed by signal %d (%s)%s%s%s", v->name, sig,
			strsignal(sig), *line ? ": " : "", line,
			sig == SIGSYS
				? ": a system call that its filter forbids"
				: "");
		m->engine_errors += sig != SIGKILL && sig != SIGTERM;
		return;
	}
	switch (WEXITSTATUS(status)) {
	case CLI_OK:
		v->state = "off";
		manager_event(m, "%s: powered off", v->name);
		break;
	case CLI_RESET:
		v->state = "reset";
		manager_event(m, "%s: reset", v->name);
		break;
	case CLI_ENGINE:
		v->state = "error";
		m->engine_errors++;
		manager_event(m, "%s: stopped: %s", v->name, line);
		tell_text(v);
		break;
	default:
		v->state = "failed";
		m->failed++;
		manager_event(m, "%s: failed: %s", v->name,
			      *line ? line : "no reason given");
		break;
	}
}

/* What it held goes back. False: its end is no news, as we ended it. */
static bool end(struct mvm *v, bool stopped_by_engine)
{
	drain_text(v);
	v->pid = 0;
	if (v->control) {
		uint64_t ms = control_get(&v->control->boot_ms);
		uint64_t age = (manager_now_ns() - v->start_ns) / 1000000 + 1;

		v->boot_ms = ms <= age ? ms : age;
	}
	mvm_release(v);
	v->overhead = 0;
	/* What we ended ourselves is no news. */
	if (v->m->stopping && !stopped_by_engine) {
		v->state = "off";
		return false;
	}
	return true;
}

void mvm_on_exit(struct mvm *v, int status)
{
	if (end(v, WIFEXITED(status) && WEXITSTATUS(status) == CLI_ENGINE))
		tell_end(v, status);
}

void mvm_on_gone(struct mvm *v)
{
	uint64_t state =
		v->control ? control_get(&v->control->state) : CONTROL_RUNNING;

	if (!end(v, state == CONTROL_ERROR))
		return;
	switch (state) {
	case CONTROL_POWEROFF:
		tell_end(v, CLI_OK << 8);
		break;
	case CONTROL_RESET:
		tell_end(v, CLI_RESET << 8);
		break;
	case CONTROL_ERROR:
		tell_end(v, CLI_ENGINE << 8);
		break;
	default:
		v->state = "killed";
		manager_event(v->m, "%s: its process has ended", v->name);
	}
}
