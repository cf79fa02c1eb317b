/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_LARGE_H
#define SARDINE_VMM_LARGE_H
/* A VM's large pages: the clock and the thread of mm/largepage. */
#include "vmm/vm.h"

struct vm_large;

/* With the I/O thread made and not started. Nothing for BACKING_4K. 0 or
 * -errno. */
int vm_large_create(struct vm *vm);
/* vCPU thread: no more promotions; one under way is finished first. */
void vm_large_stop(struct vm *vm);
/* Any thread, after vm_run. */
void vm_large_destroy(struct vm *vm);
/* vCPU thread: promote here and now all that the policy would promote sooner or
 * later. How many regions lie on large pages then. */
uint64_t vm_large_settle(struct vm *vm);
/* vCPU thread, also in the engine's signal handler: the guest has come to this
 * page of a region that is not large. True: now it is. */
bool vm_large_now(struct vm *vm, ppn_t ppn, enum largepage_use use);
/* Bytes of large pages that the host's MMU maps as such in this process, all
 * mappings of one page counted; -1: not known. */
int64_t vm_large_mapped(struct vm *vm);
#endif
