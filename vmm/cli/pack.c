/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine pack`: many VMs under one manager, and what that saves. On a
 * terminal there is a live table (live.h); in a pipe, a line for each thing
 * that happens and one every few seconds. The final table comes at
 * the end, whatever ended it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/types.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/disks.h"
#include "vmm/cli/nets.h"
#include "vmm/cli/live.h"
#include "vmm/cli/manager.h"
#include "vmm/cli/metrics.h"
#include "vmm/cli/record.h"
#include "vmm/cli/report_table.h"
#include "vmm/cli/server.h"

#define NS_PER_S    1000000000ull
#define TTY_NS	    NS_PER_S
#define LINE_NS	    (5 * NS_PER_S)
#define EVENT_LINES 200 /* the last ones, kept for after the live table */

struct pack_opts {
	char *kernel, *initrd, *append, *engine, *json, *log_dir, *socket,
		*marker, *backing, *confine, *kaslr, *metrics, *record, *swap,
		**disks, *net;
	uint64_t mem, host_mem, tc_size, swap_size;
	uint32_t n, seconds, at_once;
	bool oracle, no_share, verbose, rng, no_balloon, keep_idle, adopt;
};

static const struct opt opts[] = {
	{NULL, 'n', OPT_UINT, "N", "number of equal VMs, vm0 to vm(N-1)",
	 OPT(struct pack_opts, n)},
	{"kernel", 'k', OPT_STR, "FILE",
	 "kernel of each VM that the fleet file gives none",
	 OPT(struct pack_opts, kernel)},
	{"initrd", 'i', OPT_STR, "FILE", "initial ramdisk, likewise",
	 OPT(struct pack_opts, initrd)},
	{"append", 'a', OPT_STR, "STR", "command line, likewise",
	 .dflt = "console=ttyS0", OPT(struct pack_opts, append)},
	{"mem", 'm', OPT_SIZE, "SIZE", "guest memory, likewise", .dflt = "128M",
	 OPT(struct pack_opts, mem)},
	{"disk", 'd', OPT_LIST, "SPEC", DISKS_HELP " (likewise)",
	 OPT(struct pack_opts, disks)},
	{"net", 0, OPT_STR, "SPEC", NET_HELP " (likewise)",
	 OPT(struct pack_opts, net)},
	{"rng", 0, OPT_FLAG, NULL, "give each guest a virtio-rng, likewise",
	 OPT(struct pack_opts, rng)},
	{"no-balloon", 0, OPT_FLAG, NULL,
	 "give the guests no virtio-balloon, likewise",
	 OPT(struct pack_opts, no_balloon)},
	{"engine", 'e', OPT_STR, "NAME", "auto, bt or interp", .dflt = "auto",
	 OPT(struct pack_opts, engine)},
	{"backing", 0, OPT_STR, "SIZE",
	 "host pages under the guest: 2m, 4k, or auto: 2 MiB where memory is "
	 "dense, in use and not shared",
	 .dflt = "auto", OPT(struct pack_opts, backing)},
	{"host-mem", 0, OPT_SIZE, "SIZE",
	 "budget of host memory for all VMs: cold pages are compressed to keep "
	 "it (without it: all the host has, and nothing is reclaimed)",
	 OPT(struct pack_opts, host_mem)},
	{"swap", 0, OPT_STR, "DIR",
	 "with --host-mem: swap files in DIR (on a disk, without a name, space "
	 "reserved) for what does not compress",
	 OPT(struct pack_opts, swap)},
	{"swap-size", 0, OPT_SIZE, "SIZE",
	 "of all swap files together (default: the VMs' sizes)",
	 OPT(struct pack_opts, swap_size)},
	{"json", 0, OPT_STR, "FILE",
	 "write the final sample there ('-': standard output)",
	 OPT(struct pack_opts, json)},
	{"for", 0, OPT_UINT, "SECONDS",
	 "end the run after that long: VMs powered off, status 0",
	 OPT(struct pack_opts, seconds)},
	{"log-dir", 0, OPT_STR, "DIR", "keep each VM's console in DIR/NAME.log",
	 OPT(struct pack_opts, log_dir)},
	{"oracle", 0, OPT_FLAG, NULL,
	 "compare all guest pages at the end: what perfect sharing would save",
	 OPT(struct pack_opts, oracle)},
	{"no-share", 0, OPT_FLAG, NULL, "do not look for equal pages",
	 OPT(struct pack_opts, no_share)},
	{"at-once", 0, OPT_UINT, "N",
	 "VMs that boot at a time: the next starts when one has reached "
	 "userland (0: all of them)",
	 OPT(struct pack_opts, at_once)},
	{"adopt", 0, OPT_FLAG, NULL,
	 "start no VM: take over those that a killed manager of this socket "
	 "left behind (they are taken over in any case)",
	 OPT(struct pack_opts, adopt)},
	{"keep-idle", 0, OPT_FLAG, NULL,
	 "do not compress cold pages of VMs that rest, unless --host-mem needs "
	 "it",
	 OPT(struct pack_opts, keep_idle)},
	{"kaslr", 0, OPT_STR, "group|vm",
	 "who draws a Linux kernel's random layout: each share group, so that "
	 "its VMs can share kernel text, or each VM",
	 .dflt = "group", OPT(struct pack_opts, kaslr)},
	{"socket", 's', OPT_STR, "PATH",
	 "the manager's socket (default: in $XDG_RUNTIME_DIR, or "
	 "/run/sardine, or /tmp/sardine-UID)",
	 OPT(struct pack_opts, socket)},
	{"metrics", 0, OPT_STR, "ADDR",
	 "serve the figures over HTTP at /metrics, as Prometheus reads them; a "
	 "port alone is one on loopback, and whoever reaches ADDR may read",
	 OPT(struct pack_opts, metrics)},
	{"record", 0, OPT_STR, "FILE",
	 "write a sample a second there as JSON lines, for `sardine report`",
	 OPT(struct pack_opts, record)},
	{"ready-marker", 0, OPT_STR, "STR",
	 "what a guest prints once it is in userland",
	 .dflt = "SARDINE-GUEST: userland", OPT(struct pack_opts, marker)},
	{"tc-size", 0, OPT_SIZE, "SIZE",
	 "bound of each VM's translation cache, 128K to 1G; when it is full "
	 "the oldest eighth is dropped",
	 .dflt = "32M", OPT(struct pack_opts, tc_size)},
	{"verbose", 'v', OPT_FLAG, NULL, "say more on standard error",
	 OPT(struct pack_opts, verbose)},
	{"confine", 0, OPT_STR, "MODE", "kill, trap or off", .dflt = "kill",
	 OPT(struct pack_opts, confine), .hidden = true},
};

struct pack {
	const struct pack_opts *o;
	struct fleet fleet;
	struct manager *m;
	struct record *record; /* or NULL */
	int json_fd;	       /* or -1 */
	bool tty;
	struct live *live; /* the table on the terminal, or NULL */
	char *events[EVENT_LINES];
	size_t n_events;
	uint64_t start_ns, next_ns, end_ns;
	bool failed;  /* a VM could not be started */
	bool unheard; /* standard output is gone: nobody watches */
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static double wall_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- what to run ---- */

static enum cli_status make_fleet(struct pack *p, char *const args[], char *err,
				  size_t len)
{
	const struct pack_opts *o = p->o;
	enum cli_status s;
	struct vm_spec like = {.kernel = o->kernel,
			       .initrd = o->initrd,
			       .append = o->append,
			       .group = "default",
			       .mem = o->mem,
			       .disks = o->disks,
			       .net = o->net,
			       .rng = o->rng,
			       .no_balloon = o->no_balloon};

	s = cli_backing(o->backing, &like.backing, err, len);
	if (s != CLI_OK)
		return s;
	if (args[0] && o->n) {
		snprintf(err, len, "-n %u and %s: give one of them, not both",
			 o->n, args[0]);
		return CLI_USAGE;
	}
	if (o->adopt) {
		if (!args[0] && !o->n)
			return CLI_OK;
		snprintf(
			err, len,
			"--adopt and VMs to start: give one of them, not both");
		return CLI_USAGE;
	}
	if (args[0])
		return fleet_load(args[0], &like, &p->fleet, err, len)
			       ? CLI_HOST
			       : CLI_OK;
	if (!o->kernel) {
		snprintf(err, len,
			 "--kernel is missing; give --kernel FILE "
			 "(see `sardine pack --help`)");
		return CLI_USAGE;
	}
	if (!o->n) {
		snprintf(err, len,
			 "nothing to pack: -n is missing or 0; give -n N (1 to "
			 "%d) or a fleet file",
			 FLEET_MAX);
		return CLI_USAGE;
	}
	return fleet_uniform(&like, o->n, &p->fleet, err, len) ? CLI_USAGE
							       : CLI_OK;
}

static enum cli_status check_vm(const struct vm_spec *v, char *err, size_t len)
{
	enum cli_status s = cli_check_mem("--mem", v->mem, err, len);
	struct disk_config *d = NULL;
	struct net_spec net = {.n_fwd = 0};
	unsigned n = 0;

	if (s == CLI_OK)
		s = cli_check_file("--kernel", v->kernel, err, len);
	if (s == CLI_OK && v->initrd)
		s = cli_check_file("--initrd", v->initrd, err, len);
	if (s == CLI_OK && disks_parse(v->disks, v->name, &d, &n, err, len))
		return CLI_USAGE;
	disks_free(d, n);
	if (s == CLI_OK && v->net && net_parse(v->net, v->name, &net, err, len))
		s = CLI_USAGE;
	net_spec_free(&net);
	return s;
}

static enum cli_status check_budget(const struct pack *p, char *err, size_t len)
{
	uint64_t sum = p->o->host_mem / 40, host = cli_host_mem();
	char a[32], b[32];

	for (size_t i = 0; i < p->fleet.n; i++)
		sum += manager_need(&p->fleet.vms[i]);
	if (!p->o->host_mem)
		return CLI_OK;
	if (host && p->o->host_mem > host) {
		snprintf(err, len,
			 "--host-mem %s: more than this host's %s; give less",
			 size_format(p->o->host_mem, a, sizeof(a)),
			 size_format(host, b, sizeof(b)));
		return CLI_HOST;
	}
	if (sum <= p->o->host_mem)
		return CLI_OK;
	snprintf(err, len,
		 "--host-mem %s: the %zu VMs need %s at the least; give more, "
		 "or fewer or smaller VMs, or smaller minima (mem.min)",
		 size_format(p->o->host_mem, a, sizeof(a)), p->fleet.n,
		 size_format(sum, b, sizeof(b)));
	return CLI_HOST;
}

static enum cli_status check(struct pack *p, char *const args[], char *err,
			     size_t len)
{
	enum cli_status s = make_fleet(p, args, err, len);
	enum confine_mode mode;
	struct sockaddr_storage sa;
	socklen_t salen;

	if (s == CLI_OK)
		s = cli_check_tc(p->o->tc_size, err, len);
	for (size_t i = 0; s == CLI_OK && i < p->fleet.n; i++)
		s = check_vm(&p->fleet.vms[i], err, len);
	if (s == CLI_OK)
		s = check_budget(p, err, len);
	if (s == CLI_OK && p->o->metrics &&
	    metrics_parse(p->o->metrics, &sa, &salen, err, len))
		s = CLI_USAGE;
	if (s == CLI_OK && p->o->swap && !p->o->host_mem) {
		snprintf(err, len,
			 "--swap %s: nothing is swapped without a budget; give "
			 "--host-mem, too",
			 p->o->swap);
		s = CLI_USAGE;
	}
	if (s == CLI_OK && cli_confine_mode(p->o->confine, &mode)) {
		snprintf(err, len, "--confine %s: use kill, trap or off",
			 p->o->confine);
		s = CLI_USAGE;
	}
	if (s == CLI_OK && strcmp(p->o->kaslr, "group") &&
	    strcmp(p->o->kaslr, "vm")) {
		snprintf(err, len, "--kaslr %s: use group or vm", p->o->kaslr);
		s = CLI_USAGE;
	}
	if (s == CLI_OK)
		cli_engine_pick(p->o->engine, err, len, &s);
	return s;
}

/* ---- showing it ---- */

/* SIGPIPE is ignored here, because it would leave the VMs behind. */
static void flush(struct pack *p)
{
	fflush(stdout);
	if (ferror(stdout))
		p->unheard = true;
}

static void keep_event(struct pack *p, const char *text)
{
	if (p->n_events == EVENT_LINES) {
		free(p->events[0]);
		p->n_events--;
		memmove(p->events, p->events + 1,
			p->n_events * sizeof(p->events[0]));
	}
	p->events[p->n_events] = strdup(text);
	p->n_events += p->events[p->n_events] != NULL;
}

static void say(struct pack *p, const char *text)
{
	if (p->tty) {
		keep_event(p, text);
		return;
	}
	printf("%s\n", text);
	flush(p);
}

/* A record that cannot go on is no reason to end the VMs. */
static void recorded(struct pack *p, int e)
{
	char text[300];

	if (!e)
		return;
	snprintf(text, sizeof(text),
		 "--record %s: %s; the record ends here, the run goes on",
		 p->o->record, strerror(-e));
	say(p, text);
}

static void on_event(void *ctx, const char *text)
{
	struct pack *p = ctx;

	if (p->record)
		recorded(p, record_event(p->record, text, wall_time()));
	say(p, text);
}

static void draw(struct pack *p)
{
	struct report r;

	if (manager_sample(p->m, &r, false))
		return;
	live_events(p->live, p->events, p->n_events);
	if (!live_sample(p->live, &r))
		live_draw(p->live);
	report_free(&r);
}

static void say_line(struct pack *p)
{
	struct report r;
	char line[300];

	if (manager_sample(p->m, &r, false))
		return;
	report_line(&r, line, sizeof(line));
	printf("%s\n", line);
	flush(p);
	report_free(&r);
}

static void take_sample(struct pack *p)
{
	struct report r;

	if (manager_sample(p->m, &r, false))
		return;
	recorded(p, record_sample(p->record, &r, wall_time(), now_ns()));
	report_free(&r);
}

static void sample_if_due(struct pack *p)
{
	if (p->record && now_ns() >= record_due_ns(p->record))
		take_sample(p);
}

static void show(struct pack *p)
{
	uint64_t now = now_ns();

	if (now < p->next_ns)
		return;
	p->next_ns = now + (p->live ? TTY_NS : LINE_NS);
	if (p->live)
		draw(p);
	else
		say_line(p);
}

/* Before the run: what cannot be written is told now, not after it. What was
 * there stays until then. */
static int open_json(struct pack *p)
{
	if (!p->o->json || !strcmp(p->o->json, "-"))
		return 0;
	p->json_fd = open(p->o->json, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY,
			  0666);
	if (p->json_fd >= 0)
		return 0;
	log_error("--json %s: %s; give a file that can be written", p->o->json,
		  strerror(errno));
	return -1;
}

static int write_json(struct pack *p, const struct report *r)
{
	json_t *o = report_to_json(r);
	FILE *f = stdout;
	int e = 0;

	if (p->json_fd >= 0) {
		/* Of a device, nothing is cut off. */
		e = ftruncate(p->json_fd, 0) && errno != EINVAL;
		f = fdopen(p->json_fd, "w");
		p->json_fd = -1;
	}
	if (e || !o || !f || json_dumpf(o, f, JSON_INDENT(2)) ||
	    fputc('\n', f) == EOF || fflush(f))
		e = -EIO;
	if (f && f != stdout && fclose(f))
		e = -EIO;
	if (e)
		log_error("--json %s: cannot be written", p->o->json);
	json_decref(o);
	return e;
}

/* ---- the run ---- */

#define ADOPT_NS (3 * NS_PER_S)

/* What is there already comes first; but nothing waits for a VM that is stopped.
 * False: there was to be one. */
static bool adopt(struct pack *p)
{
	uint64_t until = now_ns() + ADOPT_NS;

	while (manager_claims(p->m) && now_ns() < until &&
	       !manager_signal(p->m))
		manager_poll(p->m, 20);
	return !p->o->adopt || manager_alive(p->m) || manager_claims(p->m);
}

/* Until another VM may boot. */
static void wait_for_boots(struct pack *p)
{
	while (p->o->at_once && manager_booting(p->m) >= p->o->at_once &&
	       !manager_signal(p->m)) {
		sample_if_due(p);
		manager_poll(p->m, 100);
	}
}

static void start_all(struct pack *p)
{
	char err[512];

	for (size_t i = 0; i < p->fleet.n; i++) {
		wait_for_boots(p);
		sample_if_due(p);
		if (manager_has(p->m, p->fleet.vms[i].name))
			continue;
		if (manager_add(p->m, &p->fleet.vms[i], err, sizeof(err))) {
			log_error("%s", err);
			p->failed = true;
			return;
		}
		manager_poll(p->m, 0);
		if (manager_signal(p->m))
			return;
	}
}

static bool ended(const struct pack *p)
{
	return manager_signal(p->m) || p->unheard ||
	       (!manager_alive(p->m) && !manager_claims(p->m)) ||
	       (p->end_ns && now_ns() >= p->end_ns);
}

static int wait_ms(const struct pack *p)
{
	uint64_t now = now_ns(), until = p->next_ns;

	if (p->end_ns && p->end_ns < until)
		until = p->end_ns;
	if (p->record && record_due_ns(p->record) < until)
		until = record_due_ns(p->record);
	return until <= now ? 0 : (int)((until - now) / 1000000 + 1);
}

/* On a terminal that can; else what was kept so far is told as lines. */
static void go_live(struct pack *p)
{
	if (!p->tty)
		return;
	if (!live_open("sardine pack", false, &p->live)) {
		if (live_fd(p->live) >= 0)
			manager_wake_for(p->m, live_fd(p->live));
		return;
	}
	p->tty = false;
	for (size_t i = 0; i < p->n_events; i++) {
		say(p, p->events[i]);
		free(p->events[i]);
	}
	p->n_events = 0;
}

static void loop(struct pack *p)
{
	go_live(p);
	while (!ended(p)) {
		sample_if_due(p);
		show(p);
		manager_poll(p->m, wait_ms(p));
		if (p->live)
			live_keys(p->live);
	}
	live_close(p->live);
	p->live = NULL;
}

static int finish(struct pack *p)
{
	struct report r;
	int status = CLI_OK;
	bool clean;

	if (manager_sample(p->m, &r, p->o->oracle)) {
		log_error("out of memory");
		return CLI_HOST;
	}
	clean = !manager_audit(p->m);
	manager_stop(p->m);
	snprintf(r.audit, sizeof(r.audit), "%s", clean ? "clean" : "failed");
	for (size_t i = 0; i < p->n_events; i++)
		printf("%s\n", p->events[i]);
	putchar('\n');
	report_print(&r, stdout, 0);
	fflush(stdout);
	if (p->o->json && write_json(p, &r))
		status = CLI_HOST;
	report_free(&r);
	if (!clean || manager_engine_errors(p->m))
		return CLI_ENGINE;
	return p->failed || manager_failed(p->m) ? CLI_HOST : status;
}

static int run_fleet(struct pack *p)
{
	const struct pack_opts *o = p->o;
	char path[256], err[512];
	struct manager_config c = {
		.budget_bytes = o->host_mem ? o->host_mem : cli_host_mem(),
		.enforce = o->host_mem != 0,
		.swap_dir = o->swap,
		.swap_bytes = o->swap_size,
		.socket_path = o->socket,
		.log_dir = o->log_dir,
		.metrics = o->metrics,
		.engine = o->engine,
		.marker = o->marker,
		.confine = o->confine,
		.tc_bytes = o->tc_size,
		.verbose = o->verbose,
		.share = !o->no_share,
		.own_layout = !strcmp(o->kaslr, "vm"),
		.keep_idle = o->keep_idle,
		.event = on_event,
		.ctx = p,
	};
	size_t had;
	int status;

	for (size_t i = 0; i < p->fleet.n; i++)
		c.fleet_bytes += p->fleet.vms[i].mem;
	if (!c.socket_path) {
		if (server_default_path(path, sizeof(path))) {
			log_error("$XDG_RUNTIME_DIR is too long for a socket; "
				  "use --socket PATH");
			return CLI_HOST;
		}
		c.socket_path = path;
		c.make_socket_dir = true;
	}
	if (open_json(p))
		return CLI_HOST;
	/* After the manager has the socket: a second one changes no record. */
	if (manager_create(&c, &p->m, err, sizeof(err))) {
		log_error("%s", err);
		return CLI_HOST;
	}
	if (o->record &&
	    record_open(o->record, 0, 0, &p->record, err, sizeof(err))) {
		log_error("%s", err);
		manager_destroy(p->m);
		return CLI_HOST;
	}
	p->start_ns = now_ns();
	p->next_ns = p->start_ns;
	if (o->seconds)
		p->end_ns = p->start_ns + o->seconds * NS_PER_S;
	if (!adopt(p)) {
		log_error("--adopt: no VM was left at %s", c.socket_path);
		p->failed = true;
	}
	/* VMs that ran before are not ended because another cannot start. */
	had = manager_alive(p->m) + manager_claims(p->m);
	if (!p->failed)
		start_all(p);
	if (!p->failed || had)
		loop(p);
	if (p->record)
		take_sample(p);
	status = finish(p);
	manager_destroy(p->m);
	record_close(p->record);
	return status;
}

static int pack_main(void *values, char *const args[])
{
	struct pack p = {.o = values, .json_fd = -1};
	char err[512];
	int status;

	if (p.o->verbose)
		log_threshold = LOG_INFO;
	status = check(&p, args, err, sizeof(err));
	if (status != CLI_OK) {
		log_error("%s", err);
	} else {
		/* What -v says would land in the middle of the table. */
		p.tty = isatty(STDOUT_FILENO) && !p.o->verbose;
		status = run_fleet(&p);
	}
	for (size_t i = 0; i < p.n_events; i++)
		free(p.events[i]);
	if (p.json_fd >= 0)
		close(p.json_fd);
	fleet_free(&p.fleet);
	return status;
}

const struct command cmd_pack = {
	.name = "pack",
	.summary = "Run many VMs that share their identical pages",
	.args = "[FLEET-FILE]",
	.max_args = 1,
	.details =
		"Give -n N for N equal VMs, or a fleet file: text, one VM a "
		"line, NAME [kernel=FILE] [initrd=FILE] [mem=SIZE] "
		"[append=\"STR\"] [group=NAME] [backing=auto|4k|2m] "
		"[count=N] [disk=SPEC]... [net=SPEC] [rng=yes] [balloon=off], "
		"or a JSON "
		"list of "
		"objects with these keys. VMs of different groups never share "
		"a page. VMs of a manager that was killed on this socket are "
		"taken over, and those of their names are not started again. "
		"The run ends after --for SECONDS, upon SIGINT or "
		"SIGTERM, or when all VMs have ended.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct pack_opts),
	.run = pack_main,
};
