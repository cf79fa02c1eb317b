/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine monitor`: what `pack` starts for each VM. Not for people. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/disks.h"
#include "vmm/cli/nets.h"
#include "vmm/monitor.h"

#define LOG_MAX (64ull << 20)

struct monitor_opts {
	char *name, *kernel, *initrd, *append, *engine, *marker, *confine,
		**disks, *backing, *net;
	uint64_t mem, tc_size;
	uint32_t socket_fd, mem_fd, control_fd, pool_fd, store_fd, swap_fd,
		log_fd, adopt_fd, text_fd;
	bool no_reboot, verbose, rng, no_balloon;
};

#define NO_FD "4294967295"
static const struct opt opts[] = {
	{"name", 0, OPT_STR, "NAME", "of the VM",
	 OPT(struct monitor_opts, name), .required = true},
	{"kernel", 0, OPT_STR, "FILE", "kernel",
	 OPT(struct monitor_opts, kernel), .required = true},
	{"initrd", 0, OPT_STR, "FILE", "initial ramdisk",
	 OPT(struct monitor_opts, initrd)},
	{"append", 0, OPT_STR, "STR", "command line",
	 OPT(struct monitor_opts, append)},
	{"mem", 0, OPT_SIZE, "SIZE", "guest memory",
	 OPT(struct monitor_opts, mem), .required = true},
	{"disk", 0, OPT_LIST, "SPEC", "a disk",
	 OPT(struct monitor_opts, disks)},
	{"net", 0, OPT_STR, "SPEC", "a network card",
	 OPT(struct monitor_opts, net)},
	{"rng", 0, OPT_FLAG, NULL, "a virtio-rng",
	 OPT(struct monitor_opts, rng)},
	{"no-balloon", 0, OPT_FLAG, NULL, "no virtio-balloon",
	 OPT(struct monitor_opts, no_balloon)},
	{"engine", 0, OPT_STR, "NAME", "engine", .dflt = "auto",
	 OPT(struct monitor_opts, engine)},
	{"backing", 0, OPT_STR, "SIZE", "auto, 4k or 2m", .dflt = "auto",
	 OPT(struct monitor_opts, backing)},
	{"marker", 0, OPT_STR, "STR", "what the guest prints in userland",
	 OPT(struct monitor_opts, marker)},
	{"confine", 0, OPT_STR, "MODE", "kill, trap or off", .dflt = "kill",
	 OPT(struct monitor_opts, confine)},
	{"tc-size", 0, OPT_SIZE, "SIZE", "translation cache",
	 OPT(struct monitor_opts, tc_size)},
	{"socket-fd", 0, OPT_UINT, "N", "the manager's socket",
	 OPT(struct monitor_opts, socket_fd), .required = true},
	{"mem-fd", 0, OPT_UINT, "N", "the guest's memfd",
	 OPT(struct monitor_opts, mem_fd), .required = true},
	{"control-fd", 0, OPT_UINT, "N", "the control area",
	 OPT(struct monitor_opts, control_fd), .required = true},
	{"pool-fd", 0, OPT_UINT, "N", "the share group's pool", .dflt = NO_FD,
	 OPT(struct monitor_opts, pool_fd)},
	{"store-fd", 0, OPT_UINT, "N", "memory for compressed pages",
	 .dflt = NO_FD, OPT(struct monitor_opts, store_fd)},
	{"swap-fd", 0, OPT_UINT, "N", "its swap file", .dflt = NO_FD,
	 OPT(struct monitor_opts, swap_fd)},
	{"adopt-fd", 0, OPT_UINT, "N", "where a new manager's offer comes",
	 .dflt = NO_FD, OPT(struct monitor_opts, adopt_fd)},
	{"text-fd", 0, OPT_UINT, "N", "the other end of standard error",
	 .dflt = NO_FD, OPT(struct monitor_opts, text_fd)},
	{"log-fd", 0, OPT_UINT, "N", "console output", .dflt = NO_FD,
	 OPT(struct monitor_opts, log_fd)},
	{"no-reboot", 0, OPT_FLAG, NULL, "a reset ends the run",
	 OPT(struct monitor_opts, no_reboot)},
	{"verbose", 0, OPT_FLAG, NULL, "say more",
	 OPT(struct monitor_opts, verbose)},
};

static int monitor_status(enum vcpu_exit why)
{
	switch (why) {
	case EXIT_POWEROFF:
		return CLI_OK;
	case EXIT_RESET:
	case EXIT_SHUTDOWN:
		return CLI_RESET;
	default:
		return CLI_ENGINE;
	}
}

/* At once: another thread may be at work for the guest. */
static void give_up(void)
{
	_exit(CLI_ENGINE);
}

static int monitor_main(void *values, char *const args[])
{
	const struct monitor_opts *o = values;
	struct monitor_config cfg = {
		.vm =
			{
				.name = o->name,
				.mem_bytes = o->mem,
				.kernel = o->kernel,
				.initrd = o->initrd,
				.cmdline = o->append,
				.no_reboot = o->no_reboot,
				.rng = o->rng,
				.balloon = !o->no_balloon,
				.tc_bytes = o->tc_size,
			},
		.socket_fd = (int)o->socket_fd,
		.memfd = (int)o->mem_fd,
		.control_fd = (int)o->control_fd,
		.pool_fd = (int)o->pool_fd,
		.store_fd = (int)o->store_fd,
		.swap_fd = (int)o->swap_fd,
		.adopt_fd = (int)o->adopt_fd,
		.text_fd = (int)o->text_fd,
		.log_fd = (int)o->log_fd,
		.log_max = LOG_MAX,
		.marker = o->marker,
		.give_up = give_up,
	};
	enum vcpu_exit why = EXIT_NONE;
	enum cli_status s = CLI_OK;
	const int keep[] = {cfg.socket_fd, cfg.memfd,	 cfg.control_fd,
			    cfg.pool_fd,   cfg.store_fd, cfg.swap_fd,
			    cfg.log_fd,	   cfg.adopt_fd, cfg.text_fd};
	struct disk_config *disks;
	struct net_spec net_spec;
	struct virtio_net_config net;
	char err[512];

	fail_points_who(o->name);
	if (o->verbose)
		log_threshold = LOG_INFO;
	if (cli_confine_mode(o->confine, &cfg.confine)) {
		log_error("--confine %s: use kill, trap or off", o->confine);
		return CLI_USAGE;
	}
	if (disks_parse(o->disks, o->name, &disks, &cfg.vm.n_disks, err,
			sizeof(err))) {
		log_error("%s: %s", o->name, err);
		return CLI_USAGE;
	}
	cfg.vm.disks = disks;
	s = cli_backing(o->backing, &cfg.vm.backing, err, sizeof(err));
	if (s != CLI_OK) {
		log_error("%s", err);
		return s;
	}
	cfg.vm.engine = cli_engine_pick(o->engine, err, sizeof(err), &s);
	if (!cfg.vm.engine) {
		log_error("%s: %s", o->name, err);
		return s;
	}
	if (confine_close_fds(keep, ARRAY_SIZE(keep)) ||
	    (cfg.vm.kernel_fd = cli_open_file(o->kernel)) < 0 ||
	    (cfg.vm.initrd_fd = cli_open_file(o->initrd)) < 0) {
		log_error("%s: cannot read its kernel or initrd", o->name);
		return CLI_HOST;
	}
	if (o->net) {
		if (net_parse(o->net, o->name, &net_spec, err, sizeof(err)) ||
		    net_open(&net_spec, o->confine, &net, err, sizeof(err))) {
			log_error("%s: %s", o->name, err);
			return CLI_HOST;
		}
		cfg.vm.net = &net;
	}
	if (monitor_run(&cfg, &why, err, sizeof(err))) {
		log_error("%s: %s", o->name, err);
		return CLI_HOST;
	}
	return monitor_status(why);
}

const struct command cmd_monitor = {
	.name = "monitor",
	.summary = "One VM under a manager (started by `sardine pack`)",
	.args = "",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct monitor_opts),
	.hidden = true,
	.run = monitor_main,
};
