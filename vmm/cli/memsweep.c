/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine memsweep`: what large pages are worth, natively and under bt.
 *
 * The same loops (memsweep/loops.c, one object file) run in four processes:
 * natively and in a guest, on memory backed with 4 KiB and with 2 MiB pages;
 * the guest, which is inside this program, maps its memory with 4 KiB and with
 * 2 MiB pages. That makes six cells. They take turns, round by round, so that
 * the host's moods fall on all; what is shown is the median of the CPU time
 * that the loop's thread used. All cells must compute the same.
 *
 * The guest fetches its jobs through a port, and reading it waits for the next
 * job, so the host decides what runs when. Counts are those of perf events of
 * that thread: where the host gives none, the table says so.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/memsweep/loops.h"
#include "vmm/dev/bus.h"
#include "vmm/large.h"
#include "vmm/vm.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define MIB(n)	     ((n) << 10) /* in KiB, as jobs count */
#define GUEST_MEM    (MEMSWEEP_BASE + MEMSWEEP_MAX)
#define ROUNDS_MAX   25u
#define ROUNDS_DFLT  "3"
#define NOT_FOR_LONG 20 /* divides the steps under --quick */

extern const uint8_t memsweep_image[], memsweep_image_end[];

struct memsweep_opts {
	uint32_t rounds;
	uint64_t max;
	bool json, quick;
	char *engine;
};

static const struct opt opts[] = {
	{"rounds", 'r', OPT_UINT, "N", "runs of each cell; the median counts",
	 .dflt = ROUNDS_DFLT, OPT(struct memsweep_opts, rounds)},
	{"max", 0, OPT_SIZE, "SIZE",
	 "leave out what works on more memory than that", .dflt = "512M",
	 OPT(struct memsweep_opts, max)},
	{"quick", 'q', OPT_FLAG, NULL, "a twentieth of the work: to try it out",
	 OPT(struct memsweep_opts, quick)},
	{"json", 0, OPT_FLAG, NULL, "print the same as JSON",
	 OPT(struct memsweep_opts, json)},
	{"engine", 'e', OPT_STR, "NAME", "auto, bt or interp", .dflt = "auto",
	 OPT(struct memsweep_opts, engine), .hidden = true},
};

struct job {
	uint32_t kind, kib, n, large;
};

enum count { DTLB_LOADS, DTLB_STORES, FAULTS, NR_COUNTS };
static const struct {
	const char *name, *title;
	uint32_t type;
	uint64_t config;
} counts[NR_COUNTS] = {
#define CACHE(op)                                                              \
	PERF_TYPE_HW_CACHE, PERF_COUNT_HW_CACHE_DTLB |                         \
				    PERF_COUNT_HW_CACHE_OP_##op << 8 |         \
				    PERF_COUNT_HW_CACHE_RESULT_MISS << 16
	{"dtlb_load_misses", "LOAD MISSES", CACHE(READ)},
	{"dtlb_store_misses", "STORE MISSES", CACHE(WRITE)},
#undef CACHE
	{"page_faults", "HOST FAULTS", PERF_TYPE_SOFTWARE,
	 PERF_COUNT_SW_PAGE_FAULTS},
};

struct result {
	double seconds; /* CPU time of the thread */
	uint64_t sum;
	int64_t count[NR_COUNTS]; /* -1: not available */
	int64_t large_bytes;	  /* of the memory worked on, on 2 MiB pages */
};

static const struct work {
	const char *name;
	uint32_t kind, kib, n;
} works[] = {
	{"sweep", LOOP_SWEEP, MIB(32), 16000000},
	{"random", LOOP_RANDOM, MIB(64), 8000000},
	{"random", LOOP_RANDOM, MIB(512), 8000000},
	{"chase", LOOP_CHASE, 512, 8000000},
	{"chase", LOOP_CHASE, MIB(8), 2000000},
	{"chase", LOOP_CHASE, MIB(64), 1000000},
};
#define NR_WORKS ARRAY_SIZE(works)

/* A process that runs jobs. */
enum { P_NATIVE_4K, P_NATIVE_2M, P_BT_4K, P_BT_2M, NR_PROCS };
static const struct {
	const char *name;
	bool vm, large;
} procs[NR_PROCS] = {
	{"native, 4 KiB pages", false, false},
	{"native, 2 MiB pages", false, true},
	{"VM, 4 KiB backing", true, false},
	{"VM, 2 MiB backing", true, true},
};
struct proc {
	pid_t pid;
	int to, from;
};

static const struct cell {
	const char *name, *host, *guest; /* guest: its pages, or "" */
	unsigned proc;
	bool large;	 /* guest pages */
	unsigned native; /* the cell to compare with: same backing */
} cells[] = {
	{"native, 4 KiB", "4k", "", P_NATIVE_4K, false, 0},
	{"native, 2 MiB", "2m", "", P_NATIVE_2M, false, 1},
	{"bt on 4 KiB, guest 4 KiB", "4k", "4k", P_BT_4K, false, 0},
	{"bt on 4 KiB, guest 2 MiB", "4k", "2m", P_BT_4K, true, 0},
	{"bt on 2 MiB, guest 4 KiB", "2m", "4k", P_BT_2M, false, 1},
	{"bt on 2 MiB, guest 2 MiB", "2m", "2m", P_BT_2M, true, 1},
};
#define NR_CELLS ARRAY_SIZE(cells)

struct memsweep {
	const struct memsweep_opts *o;
	const struct engine_ops *engine;
	struct proc proc[NR_PROCS];
	struct result res[NR_WORKS][NR_CELLS]; /* medians */
	bool ran[NR_WORKS];
};

/* ---- measuring, in the thread that runs the loop ---- */

struct meter {
	int fd[NR_COUNTS];
	int64_t at[NR_COUNTS];
	double cpu;
};

static void meter_open(struct meter *m)
{
	for (unsigned i = 0; i < NR_COUNTS; i++) {
		struct perf_event_attr a = {.size = sizeof(a),
					    .type = counts[i].type,
					    .config = counts[i].config};

		m->fd[i] = (int)syscall(SYS_perf_event_open, &a, 0, -1, -1,
					PERF_FLAG_FD_CLOEXEC);
	}
}

static int64_t meter_read(const struct meter *m, unsigned i)
{
	int64_t v;

	if (m->fd[i] < 0 || read(m->fd[i], &v, sizeof(v)) != sizeof(v))
		return -1;
	return v;
}

static double cpu_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void meter_start(struct meter *m)
{
	for (unsigned i = 0; i < NR_COUNTS; i++)
		m->at[i] = meter_read(m, i);
	m->cpu = cpu_now();
}

static void meter_stop(struct meter *m, struct result *r)
{
	r->seconds = cpu_now() - m->cpu;
	for (unsigned i = 0; i < NR_COUNTS; i++)
		r->count[i] = m->at[i] < 0 ? -1 : meter_read(m, i) - m->at[i];
}

/* ---- native ---- */

/* From smaps: how much of the process's shared memory is in large pages. */
static int64_t pmd_mapped(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	int64_t kb = -1;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "ShmemPmdMapped: %" SCNd64, &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb < 0 ? -1 : kb << 10;
}

static uint8_t *native_memory(void)
{
	int fd = memfd_create("memsweep", MFD_CLOEXEC);
	uint8_t *m = mmap(NULL, MEMSWEEP_MAX + LARGE_PAGE_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (fd < 0 || m == MAP_FAILED || ftruncate(fd, MEMSWEEP_MAX))
		return NULL;
	m += -(uintptr_t)m & (LARGE_PAGE_SIZE - 1);
	m = mmap(m, MEMSWEEP_MAX, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fd, 0);
	return m == MAP_FAILED ? NULL : m;
}

static int native_job(uint8_t *mem, const struct job *j, bool large,
		      struct meter *m, struct result *r)
{
	uint64_t size = (uint64_t)j->kib << 10;
	uint64_t whole = (size + LARGE_PAGE_SIZE - 1) & -LARGE_PAGE_SIZE;

	loop_init(j->kind, mem, size);
	if (large && madvise(mem, whole, MADV_COLLAPSE))
		return -errno;
	loop_run(j->kind, mem, size, j->n / 8);
	loop_init(j->kind, mem, size);
	meter_start(m);
	r->sum = loop_run(j->kind, mem, size, j->n);
	meter_stop(m, r);
	r->large_bytes = pmd_mapped();
	if (r->large_bytes > (int64_t)size)
		r->large_bytes = (int64_t)size;
	return 0;
}

static int native_main(int from, int to, bool large)
{
	uint8_t *mem = native_memory();
	struct meter m;
	struct result r;
	struct job j;

	if (!mem) {
		log_error("memsweep: %s: out of memory", procs[0].name);
		return CLI_HOST;
	}
	meter_open(&m);
	while (read(from, &j, sizeof(j)) == sizeof(j) && j.kind) {
		int e = native_job(mem, &j, large, &m, &r);

		if (e) {
			log_error("memsweep: the host gives no 2 MiB pages: "
				  "%s",
				  strerror(-e));
			return CLI_HOST;
		}
		if (write(to, &r, sizeof(r)) != sizeof(r))
			return CLI_HOST;
	}
	return CLI_OK;
}

/* ---- in a VM ---- */

/* What is behind the guest's port. vCPU thread. */
struct port {
	struct vm *vm;
	int from, to;
	struct job job;
	unsigned next; /* word of the job to read; result's word to write */
	struct meter m;
	struct result r;
};

static uint64_t port_read(void *dev, uint64_t off, unsigned len)
{
	struct port *p = dev;

	if (p->next == 0 &&
	    read(p->from, &p->job, sizeof(p->job)) != sizeof(p->job))
		memset(&p->job, 0, sizeof(p->job)); /* LOOP_END */
	return (&p->job.kind)[p->next++ % 4];
}

static void port_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct port *p = dev;

	switch (p->next++) {
	case 4: /* MEMSWEEP_READY */
		vm_large_settle(p->vm);
		return;
	case 5:
		meter_start(&p->m);
		return;
	case 6:
		meter_stop(&p->m, &p->r);
		return;
	case 7:
		p->r.sum = val & 0xffffffff;
		return;
	}
	p->r.sum |= val << 32;
	p->next = 0;
	p->r.large_bytes = 0;
	for (uint64_t k = 0; k < p->job.kib << 10; k += LARGE_PAGE_SIZE)
		if (p2m_is_large(p->vm->p2m, gpa_to_ppn(MEMSWEEP_BASE + k)))
			p->r.large_bytes += LARGE_PAGE_SIZE;
	if (p->r.large_bytes > (int64_t)p->job.kib << 10)
		p->r.large_bytes = (int64_t)p->job.kib << 10;
	if (write(p->to, &p->r, sizeof(p->r)) != sizeof(p->r))
		vm_stop(p->vm);
}

static const struct bus_ops port_ops = {port_read, port_write};

static int image_file(void)
{
	size_t n = (size_t)(memsweep_image_end - memsweep_image);
	int fd = memfd_create("memsweep-guest", MFD_CLOEXEC);

	if (fd >= 0 && write(fd, memsweep_image, n) == (ssize_t)n)
		return fd;
	return -1;
}

static int vm_main(const struct memsweep *ms, int from, int to, bool large)
{
	struct port p = {.from = from, .to = to};
	struct vm_config cfg = {
		.name = "memsweep",
		.mem_bytes = GUEST_MEM,
		.engine = ms->engine,
		.kernel = "memsweep's guest",
		.kernel_fd = image_file(),
		.backing = large ? BACKING_2M : BACKING_4K,
		.debug_exit = true,
		.no_reboot = true,
		.console_out = STDERR_FILENO,
		.console_in = -1,
		.memfd = -1,
		.pool_fd = -1,
	};
	enum vcpu_exit why;
	char err[512];

	if (cfg.kernel_fd < 0 || vm_create(&cfg, &p.vm, err, sizeof(err))) {
		log_error("memsweep: %s",
			  cfg.kernel_fd < 0 ? "out of memory" : err);
		return CLI_HOST;
	}
	meter_open(&p.m);
	if (bus_add(p.vm->pio, "memsweep", MEMSWEEP_PORT, 4, &port_ops, &p) ||
	    confine_process(CONFINE_KILL, false, p.vm->code_start,
			    p.vm->code_end)) {
		log_error("memsweep: cannot prepare its VM");
		return CLI_HOST;
	}
	why = vm_run(p.vm);
	if (why != EXIT_DEBUG) {
		log_error("memsweep: its VM ended unexpectedly: %s",
			  p.vm->vcpu->exit_reason);
		return CLI_ENGINE;
	}
	vm_destroy(p.vm);
	return CLI_OK;
}

/* ---- the four processes ---- */

static int start(struct memsweep *ms, unsigned which)
{
	struct proc *p = &ms->proc[which];
	int job[2], res[2];

	if (pipe2(job, O_CLOEXEC) || pipe2(res, O_CLOEXEC))
		return -errno;
	p->pid = fork();
	if (p->pid < 0)
		return -errno;
	if (!p->pid) {
		int keep[2] = {job[0], res[1]};

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		confine_close_fds(keep, 2);
		_exit(procs[which].vm
			      ? vm_main(ms, job[0], res[1], procs[which].large)
			      : native_main(job[0], res[1],
					    procs[which].large));
	}
	close(job[0]);
	close(res[1]);
	p->to = job[1];
	p->from = res[0];
	return 0;
}

static void stop(struct memsweep *ms)
{
	for (unsigned i = 0; i < NR_PROCS; i++) {
		struct proc *p = &ms->proc[i];

		if (p->pid <= 0)
			continue;
		close(p->to); /* end of jobs */
		close(p->from);
		waitpid(p->pid, NULL, 0);
	}
}

static int run_job(const struct memsweep *ms, const struct cell *c,
		   const struct work *w, struct result *r)
{
	const struct proc *p = &ms->proc[c->proc];
	struct job j = {w->kind, w->kib, w->n, c->large};

	if (ms->o->quick)
		j.n /= NOT_FOR_LONG;
	if (write(p->to, &j, sizeof(j)) != sizeof(j) ||
	    read(p->from, r, sizeof(*r)) != sizeof(*r)) {
		log_error("memsweep: %s: it has ended", procs[c->proc].name);
		return -EPIPE;
	}
	return 0;
}

static int by_seconds(const void *a, const void *b)
{
	double x = ((const struct result *)a)->seconds;
	double y = ((const struct result *)b)->seconds;

	return (x > y) - (x < y);
}

static int run_work(struct memsweep *ms, unsigned wi)
{
	static struct result all[NR_CELLS][ROUNDS_MAX];
	unsigned rounds = ms->o->rounds;

	for (unsigned k = 0; k < rounds; k++) {
		for (unsigned c = 0; c < NR_CELLS; c++) {
			int e = run_job(ms, &cells[c], &works[wi], &all[c][k]);

			if (e)
				return e;
			if (all[c][k].sum == all[0][0].sum)
				continue;
			log_error("memsweep: %s: %s computed something else "
				  "than the native loop",
				  works[wi].name, cells[c].name);
			return -EILSEQ;
		}
	}
	for (unsigned c = 0; c < NR_CELLS; c++) {
		qsort(all[c], rounds, sizeof(all[c][0]), by_seconds);
		ms->res[wi][c] = all[c][rounds / 2];
	}
	ms->ran[wi] = true;
	return 0;
}

/* ---- what is printed ---- */

static double ratio(const struct memsweep *ms, unsigned w, unsigned c,
		    unsigned to)
{
	double base = ms->res[w][to].seconds;

	return base > 0 ? ms->res[w][c].seconds / base : 0;
}

static void print_count(int64_t n)
{
	if (n < 0)
		printf(" %13s", "not available");
	else
		printf(" %13" PRId64, n);
}

static void print_row(const struct memsweep *ms, unsigned w, unsigned c)
{
	const struct result *r = &ms->res[w][c];
	double steps = works[w].n / (ms->o->quick ? NOT_FOR_LONG : 1);
	char size[32] = "", name[48] = "";

	if (!c) {
		size_format((uint64_t)works[w].kib << 10, size, sizeof(size));
		snprintf(name, sizeof(name), "%s %s", works[w].name, size);
	}
	printf("%-15s %-25s %7.3f %7.2f %6.2f %6.2f %5.0f%%", name,
	       cells[c].name, r->seconds, r->seconds / steps * 1e9,
	       ratio(ms, w, c, 0), ratio(ms, w, c, cells[c].native),
	       r->large_bytes < 0 ? 0
				  : 100.0 * (double)r->large_bytes /
					    ((double)works[w].kib * 1024));
	for (unsigned i = 0; i < NR_COUNTS; i++)
		print_count(r->count[i]);
	putchar('\n');
}

static void print_table(const struct memsweep *ms)
{
	printf("%-15s %-25s %7s %7s %6s %6s %6s", "LOOP", "CELL", "SECONDS",
	       "NS/STEP", "RATIO", "PEER", "2 MiB");
	for (unsigned i = 0; i < NR_COUNTS; i++)
		printf(" %13s", counts[i].title);
	putchar('\n');
	for (unsigned w = 0; w < NR_WORKS; w++)
		for (unsigned c = 0; ms->ran[w] && c < NR_CELLS; c++)
			print_row(ms, w, c);
	printf("RATIO: to native on 4 KiB; PEER: to native on the same "
	       "backing; 2 MiB: share of the\nmemory on large host pages. CPU "
	       "seconds, median of %u rounds.\n",
	       ms->o->rounds);
}

static json_t *cell_json(const struct memsweep *ms, unsigned w, unsigned c)
{
	const struct result *r = &ms->res[w][c];
	json_t *o =
		json_pack("{s:s,s:s,s:s?,s:f,s:f,s:f,s:I}", "engine",
			  procs[cells[c].proc].vm ? ms->engine->name : "native",
			  "backing", cells[c].host, "guest_pages",
			  *cells[c].guest ? cells[c].guest : NULL, "seconds",
			  r->seconds, "ratio", ratio(ms, w, c, 0), "peer_ratio",
			  ratio(ms, w, c, cells[c].native), "large_bytes",
			  (json_int_t)r->large_bytes);

	for (unsigned i = 0; o && i < NR_COUNTS; i++)
		json_object_set_new(o, counts[i].name,
				    r->count[i] < 0
					    ? json_null()
					    : json_integer(r->count[i]));
	return o;
}

static int print_json(const struct memsweep *ms)
{
	json_t *list = json_array(), *root;
	int r;

	for (unsigned w = 0; w < NR_WORKS; w++) {
		json_t *cs = json_array();

		for (unsigned c = 0; ms->ran[w] && c < NR_CELLS; c++)
			json_array_append_new(cs, cell_json(ms, w, c));
		if (ms->ran[w])
			json_array_append_new(
				list,
				json_pack("{s:s,s:I,s:I,s:O}", "loop",
					  works[w].name, "bytes",
					  (json_int_t)works[w].kib << 10,
					  "steps",
					  (json_int_t)works[w].n /
						  (ms->o->quick ? NOT_FOR_LONG
								: 1),
					  "cells", cs));
		json_decref(cs);
	}
	root = json_pack("{s:i,s:o}", "rounds", (int)ms->o->rounds, "loops",
			 list);
	r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	putchar('\n');
	json_decref(root);
	return r;
}

static int run_all(struct memsweep *ms)
{
	for (unsigned i = 0; i < NR_PROCS; i++)
		if (start(ms, i)) {
			log_error("memsweep: cannot start a process: %s",
				  strerror(errno));
			return CLI_HOST;
		}
	for (unsigned w = 0; w < NR_WORKS; w++) {
		if ((uint64_t)works[w].kib << 10 > ms->o->max)
			continue;
		if (!ms->o->json && isatty(STDERR_FILENO))
			fprintf(stderr, "%s %u KiB ...\r", works[w].name,
				works[w].kib);
		if (run_work(ms, w))
			return CLI_HOST;
	}
	return CLI_OK;
}

static int memsweep_main(void *values, char *const args[])
{
	static struct memsweep ms;
	enum cli_status s = CLI_OK;
	char err[512];
	int status;

	ms.o = values;
	if (!ms.o->rounds || ms.o->rounds > ROUNDS_MAX) {
		log_error("--rounds %u: give a number from 1 to %u",
			  ms.o->rounds, ROUNDS_MAX);
		return CLI_USAGE;
	}
	ms.engine = cli_engine_pick(ms.o->engine, err, sizeof(err), &s);
	if (!ms.engine) {
		log_error("%s", err);
		return s;
	}
	status = run_all(&ms);
	stop(&ms);
	if (status != CLI_OK)
		return status;
	if (ms.o->json)
		return print_json(&ms) ? CLI_HOST : CLI_OK;
	print_table(&ms);
	return CLI_OK;
}

const struct command cmd_memsweep = {
	.name = "memsweep",
	.summary = "Compare 4 KiB and 2 MiB pages, natively and in a guest",
	.args = "",
	.details =
		"Three loops (a sweep of 32 MiB that touches a page a step, "
		"random reads, and a chain of dependent reads) run natively "
		"and in a guest that is part of this program, on memory backed "
		"with 4 KiB and with 2 MiB pages, the guest using either. It "
		"takes about 2.5 GiB of memory (less with --max) and a minute.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct memsweep_opts),
	.run = memsweep_main,
};
