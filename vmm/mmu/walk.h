/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MMU_WALK_H
#define SARDINE_VMM_MMU_WALK_H
/*
 * The guest's page tables (GVA -> GPA), as the hardware walks them: no paging,
 * 32-bit, PAE and 4-level (SDM vol. 3, ch. 4). Sets accessed and dirty bits.
 * Called by everything: fault handler of bt, interpreter, instruction fetch.
 */
#include "vmm/cpu/vcpu.h"

/* Physical-address width of every guest (CPUID 80000008h): bits from here up
 * are reserved in paging structures, CR3 and the MTRRs. */
#define MMU_PHYS_BITS 46

#define WALK_WRITE    1u
#define WALK_USER     2u /* a user-mode access (CPL 3) */
#define WALK_EXEC     4u
#define WALK_PROBE                                                             \
	8u /* do not set A/D and do not judge rights: what is there?
			 Rights are in the result. */

struct walk {
	gpa_t gpa;	    /* of the byte asked for */
	uint8_t page_shift; /* 12, 21, 30 (22 for 32-bit PSE; 0 = no paging) */
	bool writable;	    /* W at every level (CR0.WP is not applied) */
	bool user;	    /* U at every level */
	bool nx;	    /* NX at any level (and EFER.NXE) */
	bool global;	    /* G in the leaf, CR4.PGE */
	bool dirty;	    /* D in the leaf (after this walk) */
	bool accessed;
	gpa_t leaf_gpa; /* where the leaf entry is; ~0 when no paging */
};

/* 0, or the #PF error code | WALK_FAULT. Non-canonical addresses are the
 * caller's to refuse. Does not touch v->exc. */
#define WALK_FAULT 0x80000000u
uint32_t mmu_walk(struct vcpu *v, gva_t gva, unsigned access, struct walk *w);

/* The same against a root other than CR3's (bt revalidates other spaces). */
uint32_t mmu_walk_root(struct vcpu *v, gpa_t root, gva_t gva, unsigned access,
		       struct walk *w);

/*
 * As mmu_walk with WALK_PROBE, for many addresses in turn: what the walk before
 * learnt of the page table that holds the leaf is used again while addresses
 * stay in it. For as long as no other code of the guest or a device's runs: zero
 * the hint first. (Hardware caches the same; vol. 3, 4.10.3.)
 */
struct walk_hint {
	gpa_t table;		 /* 0: nothing known */
	uint64_t region;	 /* gva >> 21 */
	bool writable, user, nx; /* of the levels above */
};
uint32_t mmu_probe(struct vcpu *v, gva_t gva, struct walk_hint *h,
		   struct walk *w);

static inline bool gva_canonical(gva_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}
#endif
