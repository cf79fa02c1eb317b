/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a page mapped? The books say so exactly (shadow_node.c), but for a page that
 * the host took out of a carpet, which faults then.
 *
 * Built with -mgeneral-regs-only: called with the guest's vector registers in
 * place.
 */
#include "vmm/mmu/shadow_priv.h"

bool shadow_has(const struct shadow *s, uint64_t hva, bool write)
{
	unsigned wi = hva >> SLOT_SHIFT < HOST_SLOTS
			      ? s->host_win[hva >> SLOT_SHIFT]
			      : 0;
	uint32_t i = wi ? node_at(s, wi, (hva & SLOT_MASK) >> PAGE_SHIFT) : 0;

	return i && (!write || (s->node[i].flags & N_W));
}
