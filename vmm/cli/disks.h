/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_DISKS_H
#define SARDINE_VMM_CLI_DISKS_H
/*
 * Disks as they are written on command lines and in fleet files:
 *
 *	FILE[,ro][,cow=OVERLAY][,snapshot][,serial=TEXT]
 *
 * {vm} in OVERLAY stands for the VM's name. For tests: ,aio=ring or ,aio=thread.
 */
#include "vmm/dev/disk.h"

#define DISKS_MAX 8 /* of a VM */
#define DISKS_HELP                                                             \
	"a disk, FILE[,ro][,cow=OVERLAY][,snapshot][,serial=TEXT]: raw image " \
	"or block device; ro: not written; cow: writes go to an overlay "      \
	"(made if it is not there, {vm} is the VM's name); snapshot: writes "  \
	"are forgotten at the end; may be given again"

/* specs: ends with NULL; NULL: none. *out: n disks, to be freed by disks_free.
 * 0, or -EINVAL with one line in err. */
int disks_parse(char *const *specs, const char *vm, struct disk_config **out,
		unsigned *n, char *err, size_t errlen);
void disks_free(struct disk_config *d, unsigned n);
#endif
