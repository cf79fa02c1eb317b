/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_MANAGER_H
#define SARDINE_VMM_CLI_MANAGER_H
/*
 * The manager: makes the share groups' pools and each VM's memory, starts a
 * monitor process for each VM, drives page sharing, answers `sardine top`, and
 * outlives any monitor. One thread, one epoll loop, turned by its owner with
 * manager_poll.
 *
 * What comes from a monitor (messages, control area, text on its stderr) is
 * data of a stranger: checked, bounded, never believed. Sizes and states that
 * matter come from the kernel: blocks of the memfd, wait status, /proc.
 */
#include <stdbool.h>
#include <stddef.h>

#include "vmm/cli/fleet.h"
#include "vmm/cli/report.h"
#include "vmm/confine.h"

struct manager_config {
	uint64_t budget_bytes;
	bool enforce;	      /* keep the VMs within the budget */
	const char *swap_dir; /* where swap files are made, or NULL */
	uint64_t swap_bytes;  /* of all together; 0: as big as the VMs */
	uint64_t fleet_bytes; /* configured sizes of all VMs to come */
	const char *socket_path;
	bool make_socket_dir;
	const char *log_dir; /* or NULL */
	const char *metrics; /* address to serve them at, or NULL */
	const char *engine;  /* for the monitors */
	const char *marker;
	const char *confine;
	uint64_t tc_bytes;
	bool verbose;
	bool share;	 /* false: never look for equal pages */
	bool keep_idle;	 /* do not compress pages of VMs at rest */
	bool own_layout; /* a KASLR layout for each VM, not one a group */
	/* Something happened that people want to read; no newline. */
	void (*event)(void *ctx, const char *text);
	void *ctx;
};

/* What `sardine set` talks to is beside the socket. */
#define COMMAND_SUFFIX ".c"

/* And the directory with what a next manager must know. */
#define NOTES_SUFFIX   ".vms"

struct manager;

/* Blocks SIGINT, SIGTERM, SIGHUP, SIGCHLD and takes them in manager_poll. VMs
 * that a manager of this socket left behind, being killed, are claimed: they
 * are taken over in manager_poll. 0 or -errno with one line in err. */
int manager_create(const struct manager_config *cfg, struct manager **out,
		   char *err, size_t errlen);
/* VMs that were claimed and have not answered yet. */
size_t manager_claims(const struct manager *m);
/* Is there a VM of that name that runs, or a claim? */
bool manager_has(const struct manager *m, const char *name);
/* Start a VM. -errno with one line in err. */
int manager_add(struct manager *m, const struct vm_spec *spec, char *err,
		size_t errlen);
/* What a VM needs of the budget at the least. */
uint64_t manager_need(const struct vm_spec *spec);
/* Wait for news and work on them, timeout_ms at the longest (less when the
 * scanner has something to do). */
void manager_poll(struct manager *m, int timeout_ms);
/* Have manager_poll return when fd can be read; the owner reads it then. 0 or
 * -errno. */
int manager_wake_for(struct manager *m, int fd);
/* The signal that asks the program to end, or 0. */
int manager_signal(const struct manager *m);
/* VMs whose process lives; those of them on their way to userland (for a minute
 * at most); of those that ever were: how many the engine (or a crash of the
 * monitor) stopped, and how many could not start. */
size_t manager_alive(const struct manager *m);
size_t manager_booting(const struct manager *m);
size_t manager_engine_errors(const struct manager *m);
size_t manager_failed(const struct manager *m);
/* Now; with oracle, all guest pages are compared (takes seconds). 0 or
 * -ENOMEM. report_free afterwards. */
int manager_sample(struct manager *m, struct report *r, bool oracle);
/* Power all VMs off: asks, waits 5 s, kills. None is left afterwards. */
void manager_stop(struct manager *m);
/* Everything about sharing recounted from scratch: 0 or -EUCLEAN. */
int manager_audit(struct manager *m);
/* Stops what still runs, removes the socket. */
void manager_destroy(struct manager *m);
#endif
