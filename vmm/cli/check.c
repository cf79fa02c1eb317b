/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine check`: what this host can do. For each thing that it cannot do:
 * why, and how to mend it. Status 0 when some engine works, else 1.
 *
 * What is told is what was tried or read here and now (CPUID, /proc, /sys,
 * open), never what a host of this kind should have.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <numa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/hostcpu.h"

#define KVM_GET_API_VERSION 0xae00 /* _IO(0xae, 0) */

struct check_opts {
	bool json;
};
static const struct opt opts[] = {
	{"json", 0, OPT_FLAG, NULL, "the same as JSON",
	 OPT(struct check_opts, json)},
};

enum verdict { GOOD, NOTE, BAD };
struct item {
	const char *section, *name;
	enum verdict verdict;
	char text[400];
	char mend[300]; /* "" when there is nothing to mend */
};

#define MAX_ITEMS 48
struct report_items {
	struct item items[MAX_ITEMS];
	size_t n;
	bool engine_works;
};

__attribute__((format(printf, 6, 7))) static void
add(struct report_items *r, const char *section, const char *name,
    enum verdict v, const char *mend, const char *fmt, ...)
{
	struct item *i;
	va_list ap;

	if (r->n == MAX_ITEMS)
		return;
	i = &r->items[r->n++];
	i->section = section;
	i->name = name;
	i->verdict = v;
	snprintf(i->mend, sizeof(i->mend), "%s", mend ? mend : "");
	va_start(ap, fmt);
	vsnprintf(i->text, sizeof(i->text), fmt, ap);
	va_end(ap);
}

/* ---- small readers ---- */

static bool read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(buf, (int)len, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

static bool read_number(const char *path, uint64_t *v)
{
	char buf[64];

	return read_line(path, buf, sizeof(buf)) &&
	       sscanf(buf, "%" SCNu64, v) == 1;
}

static uint64_t meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	size_t n = strlen(key);
	uint64_t kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && line[n] == ':' &&
		    sscanf(line + n + 1, " %" SCNu64, &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb << 10;
}

/* The word in [brackets] of a /sys choice file. */
static bool chosen(const char *path, char *buf, size_t len)
{
	char line[200], *a, *b;

	if (!read_line(path, line, sizeof(line)))
		return false;
	a = strchr(line, '[');
	b = a ? strchr(a, ']') : NULL;
	if (!b)
		return false;
	*b = '\0';
	snprintf(buf, len, "%s", a + 1);
	return true;
}

/* ---- engines ---- */

static void check_cpu(struct report_items *r)
{
	bool v3 = hostcpu_bmi2() && hostcpu_avx2();

	add(r, "cpu", "x86-64-v3 (BMI2, AVX2)", v3 ? GOOD : BAD,
	    v3 ? NULL
	       : "use a CPU of 2013 (Intel Haswell), 2015 (AMD Excavator) or "
		 "later, or a VM whose CPU model shows it",
	    "BMI2 %s, AVX2 %s", hostcpu_bmi2() ? "yes" : "no",
	    hostcpu_avx2() ? "yes" : "no");
	if (hostcpu_fsgsbase_usable())
		add(r, "cpu", "FSGSBASE", GOOD, NULL,
		    "the CPU has it and the kernel lets programs use it");
	else if (hostcpu_fsgsbase())
		add(r, "cpu", "FSGSBASE", BAD,
		    "use Linux 5.9 or later, without nofsgsbase on its "
		    "command line",
		    "the CPU has it, but the kernel does not let programs use "
		    "it");
	else
		add(r, "cpu", "FSGSBASE", BAD,
		    "use a CPU of 2012 (Intel Ivy Bridge) or later, or a VM "
		    "whose CPU model shows it",
		    "the CPU does not have it");
}

static bool cpu_flag(const char *flag)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char *line = NULL;
	size_t cap = 0, n = strlen(flag);
	bool found = false;

	while (f && !found && getline(&line, &cap, f) > 0) {
		char *p = line;

		if (strncmp(line, "flags", 5))
			continue;
		while ((p = strstr(p, flag))) {
			if (p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n'))
				found = true;
			p += n;
		}
		break;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* The engine is not built; what the host would say to it is told anyway. */
static void check_kvm(struct report_items *r)
{
	const char *hw = cpu_flag("vmx")   ? "vmx"
			 : cpu_flag("svm") ? "svm"
					   : NULL;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version = fd >= 0 ? ioctl(fd, KVM_GET_API_VERSION, 0) : -1;
	char dev[160];

	if (fd >= 0)
		snprintf(dev, sizeof(dev), "/dev/kvm opens (API %d)%s", version,
			 hw ? ""
			    : ", but is a software KVM: it cannot run a stock "
			      "kernel");
	else
		snprintf(dev, sizeof(dev), "/dev/kvm: %s",
			 errno == ENOENT   ? "there is none"
			 : errno == EACCES ? "may not be opened (not in group "
					     "kvm?)"
					   : strerror(errno));
	add(r, "engine", "kvm", NOTE, "use --engine bt",
	    "not built yet; %s; CPU flags: %s", dev,
	    hw ? hw : "neither vmx nor svm");
	if (fd >= 0)
		close(fd);
}

static void check_engines(struct report_items *r)
{
	char why[300];

	for (size_t i = 0; i < cli_n_engines; i++) {
		const struct cli_engine *e = &cli_engines[i];

		if (!strcmp(e->name, "kvm")) {
			check_kvm(r);
		} else if (!e->ops) {
			add(r, "engine", e->name, BAD, NULL,
			    "not in this build");
		} else if (e->ops->probe(why, sizeof(why))) {
			add(r, "engine", e->name, BAD, NULL, "%s", why);
		} else {
			add(r, "engine", e->name, GOOD, NULL, "works: %s",
			    e->what);
			r->engine_works = true;
		}
	}
}

/* ---- limits ---- */

/* bt wants windows of 512 GiB in the 47-bit user space. */
static void check_address_space(struct report_items *r)
{
	struct rlimit rl;
	size_t want = 1ul << 40;
	void *p;

	if (!getrlimit(RLIMIT_AS, &rl) && rl.rlim_cur != RLIM_INFINITY) {
		add(r, "limits", "address space", BAD,
		    "run `ulimit -v unlimited`",
		    "limited to %" PRIu64 " KiB; windows need terabytes of "
		    "addresses (no memory)",
		    (uint64_t)rl.rlim_cur >> 10);
		return;
	}
	p = mmap(NULL, want, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		add(r, "limits", "address space", BAD,
		    "look at `ulimit -v` and vm.overcommit_memory",
		    "1 TiB of addresses cannot be reserved: %s",
		    strerror(errno));
		return;
	}
	munmap(p, want);
	add(r, "limits", "address space", GOOD, NULL,
	    "unlimited; 1 TiB of addresses can be reserved");
}

static void check_limits(struct report_items *r)
{
	struct rlimit rl;
	uint64_t n;

	check_address_space(r);
	if (read_number("/proc/sys/vm/max_map_count", &n))
		add(r, "limits", "vm.max_map_count", n >= 65530 ? GOOD : NOTE,
		    n >= 65530 ? NULL : "sysctl vm.max_map_count=262144",
		    "%" PRIu64 " mappings a process%s", n,
		    n >= 262144 ? ""
				: "; guests with scattered memory run better "
				  "with sysctl vm.max_map_count=262144");
	if (!getrlimit(RLIMIT_NOFILE, &rl))
		add(r, "limits", "open files",
		    rl.rlim_max >= 1024 ? GOOD : NOTE,
		    rl.rlim_max >= 1024 ? NULL : "raise `ulimit -Hn`",
		    "%" PRIu64 ": about %" PRIu64 " VMs under one manager",
		    (uint64_t)rl.rlim_max, ((uint64_t)rl.rlim_max - 20) / 5);
	add(r, "limits", "seccomp",
	    access("/proc/sys/kernel/seccomp/actions_avail", F_OK) ? BAD : GOOD,
	    NULL, "%s",
	    access("/proc/sys/kernel/seccomp/actions_avail", F_OK)
		    ? "the kernel has no filters: VMs cannot be confined"
		    : "filters are there");
}

/* ---- memory ---- */

static void check_thp(struct report_items *r)
{
	static const char shmem[] =
		"/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	static const char anon[] =
		"/sys/kernel/mm/transparent_hugepage/enabled";
	char a[32] = "not there", s[32] = "not there";
	bool ok;

	chosen(anon, a, sizeof(a));
	chosen(shmem, s, sizeof(s));
	ok = strcmp(s, "never") && strcmp(s, "deny") && strcmp(s, "not there");
	add(r, "memory", "large pages", ok ? GOOD : NOTE,
	    ok ? NULL
	       : "as root: echo advise > /sys/kernel/mm/"
		 "transparent_hugepage/shmem_enabled",
	    "enabled: %s; shmem_enabled: %s%s", a, s,
	    ok ? ""
	       : " (guest memory is in memfds: 2 MiB pages only by "
		 "collapsing them)");
}

static void check_memory(struct report_items *r)
{
	uint64_t total = cli_host_mem(), avail = meminfo("MemAvailable");
	char a[32], b[32], c[32];
	uint64_t ksm = 0;

	add(r, "memory", "memory", GOOD, NULL,
	    "%s, of which %s available; "
	    "swap %s",
	    size_format(total, a, sizeof(a)), size_format(avail, b, sizeof(b)),
	    size_format(meminfo("SwapTotal"), c, sizeof(c)));
	check_thp(r);
	if (read_number("/sys/kernel/mm/ksm/run", &ksm))
		add(r, "memory", "KSM", GOOD, NULL,
		    "%s; not used: it does not merge memfd pages",
		    ksm == 1 ? "runs" : "is off");
}

static void check_numa(struct report_items *r)
{
	int max = numa_available() < 0 ? 0 : numa_max_node();
	char a[32];

	for (int i = 0; i <= max; i++) {
		long long total = numa_available() < 0
					  ? (long long)cli_host_mem()
					  : numa_node_size64(i, NULL);

		if (total <= 0)
			continue;
		add(r, "numa", "node", GOOD, NULL, "node %d has %s", i,
		    size_format((uint64_t)total, a, sizeof(a)));
	}
	add(r, "numa", "CPUs", GOOD, NULL, "%ld online",
	    sysconf(_SC_NPROCESSORS_ONLN));
}

/* ---- telling ---- */

static void print_text(const struct report_items *r)
{
	static const char *const mark[] = {"yes", "-", "NO"};
	const char *section = "";

	for (size_t i = 0; i < r->n; i++) {
		const struct item *it = &r->items[i];

		if (strcmp(section, it->section))
			printf("%s%s\n", *section ? "\n" : "", it->section);
		section = it->section;
		printf("  %-3s %-24s %s\n", mark[it->verdict], it->name,
		       it->text);
		if (*it->mend)
			printf("      %-24s to mend it: %s\n", "", it->mend);
	}
}

static int print_json(const struct report_items *r)
{
	static const char *const words[] = {"yes", "note", "no"};
	json_t *list = json_array();
	int e;

	for (size_t i = 0; list && i < r->n; i++) {
		const struct item *it = &r->items[i];

		json_array_append_new(
			list, json_pack("{s:s,s:s,s:s,s:s,s:s}", "section",
					it->section, "name", it->name, "usable",
					words[it->verdict], "text", it->text,
					"mend", it->mend));
	}
	e = !list || json_dumpf(list, stdout, JSON_INDENT(2)) ||
	    putchar('\n') == EOF;
	json_decref(list);
	return e;
}

static int check_main(void *values, char *const args[])
{
	const struct check_opts *o = values;
	struct report_items r = {.n = 0};

	check_engines(&r);
	check_cpu(&r);
	check_limits(&r);
	check_memory(&r);
	check_numa(&r);
	if (!o->json)
		print_text(&r);
	else if (print_json(&r))
		return CLI_HOST;
	return r.engine_works ? CLI_OK : CLI_HOST;
}

const struct command cmd_check = {
	.name = "check",
	.summary = "Say what this host can do, and how to mend what it cannot",
	.args = "",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct check_opts),
	.run = check_main,
};
