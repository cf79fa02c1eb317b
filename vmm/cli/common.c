/* SPDX-License-Identifier: Apache-2.0 */
/* Checks and choices that several subcommands make alike. */
#include "vmm/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/vm.h"

/* An engine is chosen by link: one whose code is not there is not offered. */
extern const struct engine_ops engine_bt __attribute__((weak));
extern const struct engine_ops engine_interp __attribute__((weak));

const struct cli_engine cli_engines[] = {
	{"bt", "binary translation, no hardware support needed", &engine_bt},
	{"kvm", "VT-x or AMD-V through /dev/kvm", NULL},
	{"interp", "interpreter: slow, the reference for the others",
	 &engine_interp},
};
const size_t cli_n_engines = ARRAY_SIZE(cli_engines);

static const struct engine_ops *pick_auto(char *err, size_t errlen,
					  enum cli_status *status)
{
	char why[256];

	for (size_t i = 0; i < cli_n_engines; i++) {
		const struct engine_ops *ops = cli_engines[i].ops;

		if (ops && !ops->probe(why, sizeof(why)))
			return ops;
	}
	*status = CLI_HOST;
	snprintf(err, errlen,
		 "no engine works on this host; `sardine check` says why");
	return NULL;
}

const struct engine_ops *cli_engine_pick(const char *name, char *err,
					 size_t errlen, enum cli_status *status)
{
	char why[256];

	if (!strcmp(name, "auto"))
		return pick_auto(err, errlen, status);
	for (size_t i = 0; i < cli_n_engines; i++) {
		const struct engine_ops *ops = cli_engines[i].ops;

		if (strcmp(cli_engines[i].name, name))
			continue;
		if (ops && !ops->probe(why, sizeof(why)))
			return ops;
		*status = CLI_HOST;
		if (!ops) {
			snprintf(err, errlen,
				 "--engine %s: not built yet; use --engine bt "
				 "or interp",
				 name);
			return NULL;
		}
		snprintf(err, errlen, "--engine %s: %s", name, why);
		return NULL;
	}
	*status = CLI_USAGE;
	snprintf(err, errlen,
		 "--engine %s: no such engine; use auto, bt or interp", name);
	return NULL;
}

uint64_t cli_host_mem(void)
{
	long pages = sysconf(_SC_PHYS_PAGES);

	return pages > 0 ? (uint64_t)pages * PAGE_SIZE : 0;
}

enum cli_status cli_check_tc(uint64_t bytes, char *err, size_t errlen)
{
	char is[32], lo[32], hi[32];

	if (bytes >= VM_TC_MIN && bytes <= VM_TC_MAX)
		return CLI_OK;
	snprintf(err, errlen, "--tc-size %s: give %s to %s",
		 size_format(bytes, is, sizeof(is)),
		 size_format(VM_TC_MIN, lo, sizeof(lo)),
		 size_format(VM_TC_MAX, hi, sizeof(hi)));
	return CLI_USAGE;
}

enum cli_status cli_check_mem(const char *what, uint64_t bytes, char *err,
			      size_t errlen)
{
	uint64_t host = cli_host_mem();
	char a[32], b[32];

	if (!bytes) {
		snprintf(err, errlen,
			 "%s 0: a VM needs memory; give a size such as 128M",
			 what);
		return CLI_USAGE;
	}
	if (bytes % PAGE_SIZE) {
		snprintf(err, errlen,
			 "%s %" PRIu64 ": not a multiple of 4096; the next "
			 "below is %" PRIu64,
			 what, bytes, bytes & PAGE_MASK);
		return CLI_USAGE;
	}
	if (host && bytes > host) {
		snprintf(err, errlen,
			 "%s %s: more than this host's %s; give a smaller size",
			 what, size_format(bytes, a, sizeof(a)),
			 size_format(host, b, sizeof(b)));
		return CLI_HOST;
	}
	return CLI_OK;
}

enum cli_status cli_check_file(const char *what, const char *path, char *err,
			       size_t errlen)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *why = NULL;

	if (fd < 0)
		why = errno == ENOENT	? "no such file; check the path"
		      : errno == EACCES ? "may not be read; check its rights"
					: strerror(errno);
	else if (fstat(fd, &st))
		why = strerror(errno);
	else if (S_ISDIR(st.st_mode))
		why = "is a directory; give the file itself";
	else if (!S_ISREG(st.st_mode))
		why = "is not a regular file; give a file";
	else if (!st.st_size)
		why = "is empty; give a complete file";
	if (fd >= 0)
		close(fd);
	if (!why)
		return CLI_OK;
	snprintf(err, errlen, "%s %s: %s", what, path, why);
	return CLI_HOST;
}

int cli_open_file(const char *path)
{
	return path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
		    : 0;
}

int cli_confine_mode(const char *name, enum confine_mode *mode)
{
	static const char *const names[] = {
		[CONFINE_OFF] = "off",
		[CONFINE_TRAP] = "trap",
		[CONFINE_KILL] = "kill",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]))
			continue;
		*mode = (enum confine_mode)i;
		return 0;
	}
	return -EINVAL;
}

enum cli_status cli_backing(const char *name, enum backing *out, char *err,
			    size_t errlen)
{
	if (!backing_parse(name, out))
		return CLI_OK;
	snprintf(err, errlen, "--backing %s: use auto, 4k or 2m", name);
	return CLI_USAGE;
}
