/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_LAYOUT_H
#define SARDINE_VMM_CPU_LAYOUT_H
/*
 * One kernel layout for a share group.
 *
 * KASLR puts each kernel at an address of its own and relocates its text for
 * it: nearly every page of text and rodata then differs, and nothing of it can
 * be shared (15 MiB a VM of Debian's cloud kernel). The place is chosen once, by
 * the decompressor that comes with a bzImage, from RDRAND, RDTSC and a hash of
 * its build and boot parameters (the kernel's boot documentation). So VMs for
 * which these two instructions answer alike, while the decompressor runs,
 * choose alike: the layout is still random, drawn anew for each group by each
 * manager, but it is one for the group.
 *
 * What that costs: who knows the layout of one VM knows that of its group.
 * Members of a group already trust each other that far: equal pages of theirs
 * are one frame, and the time of a first write tells whether a page is shared,
 * which is enough to find a neighbour's layout. `pack --kaslr vm` gives each VM
 * its own, and VMs of different groups never have one in common.
 *
 * The answers end for good with the first of these instructions outside of the
 * decompressor: in the upper half of the address space, where the kernel
 * proper runs, or at a CPL other than 0. What the kernel draws later (its random
 * pool, the places of its memory regions, stack canaries) is each VM's own.
 */
#include "vmm/cpu/vcpu.h"

/* The next word of the group's sequence, for the RDRAND, RDSEED or RDTSC at
 * v->rip; false: the true one is wanted. */
static inline bool cpu_layout_word(struct vcpu *v, uint64_t *word)
{
	uint64_t z;

	if (likely(!v->layout_seed))
		return false;
	if (v->cpl || v->rip >> 63) {
		v->layout_seed = 0;
		if (v->ops && v->ops->mode_changed)
			v->ops->mode_changed(v);
		return false;
	}
	/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
	v->layout_seed += 0x9e3779b97f4a7c15ull;
	z = v->layout_seed;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	*word = z ^ z >> 31;
	return true;
}
#endif
