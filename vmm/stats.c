/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's list of counters. Groups stay in the order they were added, which
 * is the order that people read them in. */
#include "vmm/vm.h"

void vm_add_stats(struct vm *vm, struct stat_group *g)
{
	struct stat_group **p = &vm->stats;

	while (*p)
		p = &(*p)->next;
	g->next = NULL;
	*p = g;
}
