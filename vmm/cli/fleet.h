/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_FLEET_H
#define SARDINE_VMM_CLI_FLEET_H
/*
 * What to pack: a list of VMs, from -n N or from a fleet file.
 *
 * A fleet file is text, one VM a line, '#' starts a comment:
 *
 *   NAME [kernel=FILE] [initrd=FILE] [mem=SIZE] [append="STR"] [group=NAME]
 *        [backing=auto|4k|2m] [count=N] [disk=SPEC]... [rng=yes]
 *        [balloon=off] [net=SPEC]
 *
 * or JSON, a list of objects with the same names as keys ("name", "kernel",
 * "initrd", "mem" as text or bytes, "append", "group", "backing", "count",
 * "disk" as text or a list of texts, "rng", "balloon"). What is left out comes
 * from the command line.
 * count=N makes NAME0 .. NAME(N-1). VMs of different groups never share a page.
 * Disks are written as in vmm/cli/disks.h. mem.min=SIZE, mem.max=SIZE,
 * mem.shares=N: what the VM may have of the budget.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/largepage/largepage.h"

#define FLEET_MAX      1024
#define FLEET_NAME_MAX 32

struct vm_spec {
	char name[FLEET_NAME_MAX + 1];	/* [A-Za-z0-9._-], not '.' first */
	char *kernel, *initrd, *append; /* initrd may be NULL */
	char group[FLEET_NAME_MAX + 1];
	uint64_t mem;
	char *net;	/* as in vmm/cli/nets.h; NULL: none */
	char **disks;	/* as OPT_LIST; NULL: none */
	bool own_disks; /* not those of the command line */
	bool rng, no_balloon;
	/* Of the budget; 0: by default (manager_reclaim.c). */
	uint64_t mem_min, mem_max, mem_shares;
	enum backing backing;
};
struct fleet {
	struct vm_spec *vms;
	size_t n;
};

/* n VMs vm0, vm1, ... like `like`. 0 or -errno with one line in err. */
int fleet_uniform(const struct vm_spec *like, uint32_t n, struct fleet *f,
		  char *err, size_t errlen);
/* From a file. -errno with one line in err that names file and line. */
int fleet_load(const char *path, const struct vm_spec *like, struct fleet *f,
	       char *err, size_t errlen);
/* The same from memory; path is for messages. */
int fleet_parse(const char *path, char *text, size_t len,
		const struct vm_spec *like, struct fleet *f, char *err,
		size_t errlen);
void fleet_free(struct fleet *f);
#endif
