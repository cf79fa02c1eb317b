/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine run`: one VM in the foreground, in this very process. The main
 * thread becomes the vCPU thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/console.h"
#include "vmm/cli/disks.h"
#include "vmm/cli/nets.h"
#include "vmm/cli/stats_json.h"
#include "vmm/cli/stats_table.h"
#include "vmm/vm.h"

struct run_opts {
	char *kernel, *initrd, *append, *engine, *stats, *backing;
	uint64_t mem, tc_size;
	uint32_t tu_max, time_shift;
	bool no_reboot, debug_exit, rng, no_balloon, hvc, no_chain, count,
		lockstep, pair_all, touch_all, verbose;
	char *confine, **disks, *net;
};

static const struct opt opts[] = {
	{"kernel", 'k', OPT_STR, "FILE",
	 "kernel to boot: bzImage, ELF vmlinux with a PVH note, or Multiboot 1",
	 OPT(struct run_opts, kernel), .required = true},
	{"initrd", 'i', OPT_STR, "FILE",
	 "initial ramdisk (for Multiboot: the one module)",
	 OPT(struct run_opts, initrd)},
	{"append", 'a', OPT_STR, "STR", "the kernel's command line",
	 .dflt = "console=ttyS0", OPT(struct run_opts, append)},
	{"mem", 'm', OPT_SIZE, "SIZE",
	 "guest memory: bytes, or a number with K, M, G", .dflt = "128M",
	 OPT(struct run_opts, mem)},
	{"engine", 'e', OPT_STR, "NAME", "auto, bt or interp", .dflt = "auto",
	 OPT(struct run_opts, engine)},
	{"disk", 'd', OPT_LIST, "SPEC", DISKS_HELP,
	 OPT(struct run_opts, disks)},
	{"net", 'n', OPT_STR, "SPEC", NET_HELP, OPT(struct run_opts, net)},
	{"rng", 0, OPT_FLAG, NULL, "give the guest a virtio-rng",
	 OPT(struct run_opts, rng)},
	{"no-balloon", 0, OPT_FLAG, NULL,
	 "give the guest no virtio-balloon, by which it reports free memory",
	 OPT(struct run_opts, no_balloon)},
	{"hvc", 0, OPT_FLAG, NULL,
	 "give the guest a virtio-console, hvc0, on the same terminal; it "
	 "gets what is typed once the guest has brought it up",
	 OPT(struct run_opts, hvc)},
	{"backing", 0, OPT_STR, "SIZE",
	 "host pages under the guest: 2m, 4k, or auto: 2 MiB where memory is "
	 "dense, in use and not shared",
	 .dflt = "auto", OPT(struct run_opts, backing)},
	{"no-reboot", 0, OPT_FLAG, NULL,
	 "a reset by the guest ends the run, with status 3",
	 OPT(struct run_opts, no_reboot)},
	{"stats", 0, OPT_STR, "FILE.json",
	 "write every counter there when the run ends; '-': print the "
	 "translation statistics on standard error instead",
	 OPT(struct run_opts, stats)},
	{"debug-exit", 0, OPT_FLAG, NULL,
	 "a write of v to port 0xf4 ends the run with status (v<<1)|1",
	 OPT(struct run_opts, debug_exit)},
	{"tc-size", 0, OPT_SIZE, "SIZE",
	 "bound of bt's translation cache, 128K to 1G; when it is full the "
	 "oldest eighth is dropped",
	 .dflt = "32M", OPT(struct run_opts, tc_size)},
	{"verbose", 'v', OPT_FLAG, NULL, "say more on standard error",
	 OPT(struct run_opts, verbose)},
	{"count", 0, OPT_FLAG, NULL,
	 "bt's code counts the units, instructions and indirect branches it "
	 "executes, for --stats (slower)",
	 OPT(struct run_opts, count)},
	{"tu-max", 0, OPT_UINT, "N", "guest instructions in one TU at most",
	 OPT(struct run_opts, tu_max), .hidden = true},
	{"no-chain", 0, OPT_FLAG, NULL, "bt does not chain CCFs",
	 OPT(struct run_opts, no_chain), .hidden = true},
	{"pair-all", 0, OPT_FLAG, NULL,
	 "bt pairs calls and returns in all code, not only in large programs",
	 OPT(struct run_opts, pair_all), .hidden = true},
	{"touch-all", 0, OPT_FLAG, NULL,
	 "bt treats every access as one of a site that keeps faulting",
	 OPT(struct run_opts, touch_all), .hidden = true},
	{"lockstep", 0, OPT_FLAG, NULL,
	 "bt and interp side by side; stop at the first difference",
	 OPT(struct run_opts, lockstep), .hidden = true},
	{"time-shift", 0, OPT_UINT, "N",
	 "time in the guest passes 2^N times slower",
	 OPT(struct run_opts, time_shift), .hidden = true},
	{"confine", 0, OPT_STR, "MODE", "kill, trap or off", .dflt = "kill",
	 OPT(struct run_opts, confine), .hidden = true},
};

struct run {
	const struct run_opts *o;
	struct vm *vm;
	struct console *console;
	int stats_fd;
	enum confine_mode confine;
	volatile bool quit; /* the user or a signal ended it */
	volatile int sig;
};

static enum cli_status check(const struct run_opts *o, char *err, size_t len)
{
	enum cli_status s = cli_check_mem("--mem", o->mem, err, len);

	if (s == CLI_OK)
		s = cli_check_tc(o->tc_size, err, len);
	if (s == CLI_OK)
		s = cli_check_file("--kernel", o->kernel, err, len);
	if (s == CLI_OK && o->initrd)
		s = cli_check_file("--initrd", o->initrd, err, len);
	if (s == CLI_OK && o->time_shift > 10) {
		snprintf(err, len, "--time-shift %u: use 0 to 10",
			 o->time_shift);
		s = CLI_USAGE;
	}
	return s;
}

/* Console thread. The status is for a VM that does not stop. */
static int on_quit(void *ctx, enum console_end why, int sig)
{
	struct run *r = ctx;

	r->sig = why == CONSOLE_SIGNAL ? sig : 0;
	r->quit = true;
	vm_stop(r->vm);
	return r->sig ? 128 + r->sig : CLI_OK;
}

static int open_stats(struct run *r)
{
	r->stats_fd = -1;
	if (!r->o->stats)
		return 0;
	json_object_seed(0); /* reads /dev/urandom: not once confined */
	if (!strcmp(r->o->stats, "-"))
		return 0;
	r->stats_fd = open(r->o->stats,
			   O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (r->stats_fd >= 0)
		return 0;
	log_error("--stats %s: %s; give a file that can be written",
		  r->o->stats, strerror(errno));
	return -1;
}

static void print_error_exit(struct run *r)
{
	struct vcpu *v = r->vm->vcpu;

	log_error("the %s engine stopped the VM: %s", r->vm->engine->name,
		  v->exit_reason[0] ? v->exit_reason : "no reason given");
	vcpu_dump(v, STDERR_FILENO);
}

static void print_stats(struct run *r, enum vcpu_exit why)
{
	json_t *o = stats_json(r->vm, why);

	if (o)
		stats_table_print(o, stderr);
	json_decref(o);
}

static int end_status(struct run *r, enum vcpu_exit why)
{
	/* A guest that failed while we asked it to stop still failed. */
	if (why == EXIT_ERROR) {
		print_error_exit(r);
		return CLI_ENGINE;
	}
	if (r->quit)
		return r->sig ? 128 + r->sig : CLI_OK;
	switch (why) {
	case EXIT_POWEROFF:
		return CLI_OK;
	case EXIT_RESET:
	case EXIT_SHUTDOWN:
		return CLI_RESET;
	case EXIT_DEBUG:
		return r->vm->vcpu->exit_code & 0xff;
	default:
		log_error("bug: the run ended with '%s'", vcpu_exit_name(why));
		return CLI_ENGINE;
	}
}

static int run_vm(struct run *r, const struct vm_config *cfg)
{
	enum vcpu_exit why;
	char err[512];
	int status;

	if (vm_create(cfg, &r->vm, err, sizeof(err))) {
		console_close(r->console);
		log_error("%s", err);
		return CLI_HOST;
	}
	if (console_start(r->console, on_quit, r)) {
		console_close(r->console);
		vm_destroy(r->vm);
		log_error("cannot start a thread: out of memory or over "
			  "`ulimit -u`");
		return CLI_HOST;
	}
	/* Last: files are open and threads exist. */
	if (confine_process(r->confine, isatty(STDIN_FILENO), r->vm->code_start,
			    r->vm->code_end)) {
		console_close(r->console);
		vm_destroy(r->vm);
		log_error("cannot confine the VM: does this kernel have "
			  "seccomp filters?");
		return CLI_HOST;
	}
	why = vm_run(r->vm);
	console_close(r->console);
	status = end_status(r, why);
	if (r->o->stats && r->stats_fd < 0)
		print_stats(r, why);
	if (r->stats_fd >= 0 && stats_json_write(r->vm, why, r->stats_fd)) {
		log_error("--stats %s: cannot be written", r->o->stats);
		status = status ? status : CLI_HOST;
	}
	vm_destroy(r->vm);
	return status;
}

static int run_main(void *values, char *const args[])
{
	const struct run_opts *o = values;
	struct run r = {.o = o};
	struct disk_config *disks = NULL;
	struct net_spec net_spec = {.n_fwd = 0};
	struct virtio_net_config net;
	enum cli_status s;
	int status;
	char err[512];
	struct vm_config cfg = {
		.name = "run",
		.mem_bytes = o->mem,
		.kernel = o->kernel,
		.initrd = o->initrd,
		.cmdline = o->append,
		.debug_exit = o->debug_exit,
		.rng = o->rng,
		.balloon = !o->no_balloon,
		.hvc = o->hvc,
		.no_reboot = o->no_reboot,
		.console_out = STDOUT_FILENO,
		.memfd = -1,
		.pool_fd = -1,
		.tc_bytes = o->tc_size,
		.tu_max = o->tu_max,
		.no_chain = o->no_chain,
		.count = o->count,
		.lockstep = o->lockstep,
		.pair_all = o->pair_all,
		.touch_all = o->touch_all,
		.time_shift = o->time_shift,
	};

	if (o->verbose)
		log_threshold = LOG_INFO;
	s = check(o, err, sizeof(err));
	if (s == CLI_OK)
		cfg.engine = cli_engine_pick(o->engine, err, sizeof(err), &s);
	if (s == CLI_OK && cli_confine_mode(o->confine, &r.confine)) {
		snprintf(err, sizeof(err),
			 "--confine %s: use kill, trap or off", o->confine);
		s = CLI_USAGE;
	}
	if (s == CLI_OK && disks_parse(o->disks, "run", &disks, &cfg.n_disks,
				       err, sizeof(err)))
		s = CLI_USAGE;
	if (s == CLI_OK && o->net &&
	    net_parse(o->net, "run", &net_spec, err, sizeof(err)))
		s = CLI_USAGE;
	cfg.disks = disks;
	if (s == CLI_OK)
		s = cli_backing(o->backing, &cfg.backing, err, sizeof(err));
	if (s != CLI_OK) {
		log_error("%s", err);
		return s;
	}
	/* What the caller left open is not the guest's business. */
	confine_close_fds(NULL, 0);
	cfg.kernel_fd = cli_open_file(o->kernel);
	cfg.initrd_fd = cli_open_file(o->initrd);
	if (cfg.kernel_fd < 0 || cfg.initrd_fd < 0) {
		log_error("the kernel or initrd has just gone away");
		return CLI_HOST;
	}
	if (o->net) {
		if (net_open(&net_spec, o->confine, &net, err, sizeof(err))) {
			log_error("%s", err);
			return CLI_HOST;
		}
		cfg.net = &net;
	}
	if (open_stats(&r))
		return CLI_HOST;
	if (console_open(STDIN_FILENO, &r.console)) {
		log_error("cannot set up the console: too many open files");
		return CLI_HOST;
	}
	cfg.console_in = console_vm_fd(r.console);
	status = run_vm(&r, &cfg);
	disks_free(disks, cfg.n_disks);
	net_spec_free(&net_spec);
	return status;
}

const struct command cmd_run = {
	.name = "run",
	.summary = "Run one VM in the foreground, its serial console here",
	.args = "",
	.details = "The console is raw on a terminal and plain in a pipe. "
		   "Ctrl-A x quits; Ctrl-A Ctrl-A sends one Ctrl-A.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct run_opts),
	.run = run_main,
};
