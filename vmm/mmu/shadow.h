/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MMU_SHADOW_H
#define SARDINE_VMM_MMU_SHADOW_H
/*
 * The shadow projection: guest virtual addresses as host mappings, in windows.
 * See shadow.c for the essay. All calls on the vCPU thread; shadow_fill may
 * run in its signal handler (the interrupted code is translated code, which
 * holds nothing).
 */
#include "mm/base/stats.h"
#include "mm/p2m.h"
#include "vmm/cpu/vcpu.h"

struct shadow;

#define SHADOW_STATS(X, S)                                                     \
	X(S, fills, "fills of a window after a host fault")                    \
	X(S, pages, "pages mapped by fills")                                   \
	X(S, upgrades, "pages made writable in place")                         \
	X(S, unmaps, "pages unmapped")                                         \
	X(S, revalidations, "flushes answered by walking what is mapped")      \
	X(S, revalidated, "pages walked for that")                             \
	X(S, reval_gone, "of these: unmapped, their translation had changed")  \
	X(S, reval_readonly, "of these: made read-only")                       \
	X(S, spaces, "address spaces given windows")                           \
	X(S, recycled, "address spaces recycled")                              \
	X(S, windows, "windows created")                                       \
	X(S, space_hits, "CR3 writes that found their windows valid")          \
	X(S, flushes_vma, "flushes of everything for want of VMAs")            \
	X(S, recounts, "times that VMAs were counted for that")                \
	X(S, vmas_counted, "and how many there were, the last time")           \
	X(S, drops, "pages dropped for the p2m")                               \
	X(S, protects, "pages made read-only for the p2m or code")             \
	X(S, big_maps, "times 2 MiB were mapped as one")                       \
	X(S, big_upgrades, "times 2 MiB were made writable as one")            \
	X(S, big_splits, "such pieces that became 512 single pages")           \
	X(S, big_now, "such pieces mapped now")                                \
	X(S, big_no_region,                                                    \
	  "not so: a large guest page, but no large page of the host")         \
	X(S, big_no_align,                                                     \
	  "not so: guest address and place in memory do not agree")            \
	X(S, big_no_run, "not so: 512 guest PTEs that form no run")            \
	X(S, big_no_code, "not so: code in it keeps a page read-only")         \
	X(S, big_no_idle, "not so: a page of it is watched for being idle")    \
	X(S, big_no_write, "not so: a page cannot be written at once")         \
	X(S, carpets, "stretches laid ahead of runs of faults")                \
	X(S, carpet_pages, "pages mapped in them")                             \
	X(S, carpet_lost, "pages that the host took out of a window")          \
	X(S, big_cooling, "not so: it was split too often lately")

/* The delta tables (bt/layout.h): lower and upper page of each view. */
struct shadow_tables {
	uint64_t *lo[2], *hi[2]; /* [0] CPL 0, [1] CPL 3; 512 entries each */
};

int shadow_create(struct vcpu *v, struct p2m *p, const struct shadow_tables *t,
		  struct shadow **out);
void shadow_destroy(struct shadow *s);
/* Recount the books from scratch; 0, or -EUCLEAN after logging what differs. */
int shadow_audit(struct shadow *s);
void shadow_add_stats(struct shadow *s, struct vm *vm);

/* host = guest + this, for CPL class user (0, 1). Never fails: an address
 * whose slot has no window gets one that leads into the void. */
uint64_t shadow_delta(struct shadow *s, uint64_t gva, unsigned user);
/* The guest address of one in a window; else 0. */
gva_t shadow_gva(const struct shadow *s, uint64_t hva);

enum shadow_fill {
	SHADOW_OK,	/* mapped; try again */
	SHADOW_PF,	/* the guest's page tables say no: shadow_last_fault */
	SHADOW_FAULT,	/* what only the interpreter can judge */
	SHADOW_MMIO,	/* not RAM */
	SHADOW_CODE,	/* a write to a page that holds translated code */
	SHADOW_NOTOURS, /* host address in no window of the present view */
	SHADOW_NOMEM,
};
/* The host address hva faulted (write or not) in the view of CPL class user. */
enum shadow_fill shadow_fill(struct shadow *s, uint64_t hva, bool write,
			     unsigned user);
/* The same fault came as a SIGBUS, not as a SIGSEGV: first this. False: the host
 * has no memory for the page. */
bool shadow_bus(struct shadow *s, uint64_t hva);
/* After SHADOW_PF: where, and the error code of the #PF. */
void shadow_last_fault(const struct shadow *s, gva_t *gva, uint32_t *err);
/* An access to gva is likely to come: fill if the guest's entries allow it
 * without being changed (but for accessed bits). True: filled. */
bool shadow_prefill(struct shadow *s, gva_t gva, bool write, unsigned user);
/* Is hva mapped, for writing if so asked? It may be asked with the guest's vector
 * registers in place. */
bool shadow_has(const struct shadow *s, uint64_t hva, bool write);
/* Slow path: see to it that gva's slot has a window in the view (so that the
 * next access gets as far as shadow_fill). False: it leads nowhere. */
bool shadow_need_window(struct shadow *s, gva_t gva, unsigned user);

/* The guest's TLB events. */
void shadow_flush(struct shadow *s, enum tlb_flush kind, uint16_t pcid,
		  gva_t gva);
void shadow_cr3(struct shadow *s, bool noflush);
/* With PCIDs, and "no flush": if cr3's space is as it was left, and nothing has to be
 * looked at, its epoch; else 0. And if it was so, and CR3 has been written: what
 * shadow_cr3 does then. Both may be called with the guest's vector registers in
 * place. */
uint64_t shadow_cr3_known(const struct shadow *s, uint64_t cr3);
void shadow_cr3_take(struct shadow *s);
void shadow_mode(struct shadow *s);

/* Before running: CR3 may have been set by a loader or a reset. */
void shadow_enter(struct shadow *s);
/* Forget everything, spaces too (reset of the machine). */
void shadow_reset(struct shadow *s);

/* p2m listener's work. */
void shadow_drop_ppn(struct shadow *s, ppn_t ppn);
void shadow_protect_ppn(struct shadow *s, ppn_t ppn);
/* The same for n pages, with a call for each run of them. */
void shadow_drop_range(struct shadow *s, ppn_t ppn, uint64_t n);
void shadow_protect_range(struct shadow *s, ppn_t ppn, uint64_t n);
/* Unmap everything (idle trimming, VMA pressure). */
void shadow_drop_all(struct shadow *s);
/* The same, and give the books' memory back. */
void shadow_trim(struct shadow *s);

/* Changes whenever user-half translations of the running space may have. 0: CR3
 * is that of another already. */
uint64_t shadow_space_epoch(const struct shadow *s);
void shadow_new_epoch(struct shadow *s);
#endif
