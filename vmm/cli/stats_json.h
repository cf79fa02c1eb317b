/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_STATS_JSON_H
#define SARDINE_VMM_CLI_STATS_JSON_H
/* What a finished (or running) VM counted, as JSON. */
#include <jansson.h>

#include "vmm/vm.h"

/* {"run":{...},"memory":{...},"PREFIX":{"NAME":value,...},...}: how it ended,
 * the p2m's usage, and every group of counters of the VM. vCPU thread, or
 * after vm_run. NULL: out of memory. */
json_t *stats_json(struct vm *vm, enum vcpu_exit why);
/* Writes it to fd, indented, with a newline. 0 or -errno. */
int stats_json_write(struct vm *vm, enum vcpu_exit why, int fd);
const char *vcpu_exit_name(enum vcpu_exit why);
#endif
