/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_MMU_MEM_H
#define SARDINE_VMM_MMU_MEM_H
/*
 * Guest memory for C code: by linear address (through the guest's page tables,
 * p2m and, where there is no RAM, the MMIO bus) and by physical address.
 * Accesses may cross pages; either all bytes are accessible or nothing is
 * written. Faults are raised in v->exc (#PF with CR2, #GP(0) or #SS(0) when
 * not canonical) and answered with CPU_EXC.
 *
 * A small software TLB inside (v->mem_cache) makes this fast; mem_flush drops
 * it (the engine's tlb_flush and mode_changed hooks call it). Entries also die
 * with p2m_gen().
 *
 * Lockstep: with v->mem_log set, writes go to the log instead of memory, later
 * reads see them, and MMIO answers CPU_EXIT (see mem_log below).
 */
#include "vmm/cpu/vcpu.h"

#define MEM_READ  0u
#define MEM_WRITE 1u /* also: check for write rights before a RMW */
#define MEM_EXEC  2u
#define MEM_SYSTEM                                                             \
	4u	     /* supervisor access whatever the CPL (descriptor tables,
			 TSS, event delivery) */
#define MEM_STACK 8u /* non-canonical gives #SS(0), not #GP(0) */

enum cpu_status mem_read(struct vcpu *v, gva_t a, void *buf, unsigned len,
			 unsigned acc);
enum cpu_status mem_write(struct vcpu *v, gva_t a, const void *buf,
			  unsigned len, unsigned acc);
/* Faults as a write of len bytes would, writes nothing. */
enum cpu_status mem_probe_write(struct vcpu *v, gva_t a, unsigned len,
				unsigned acc);
/* Up to 15 bytes at linear address a for the decoder; *got >= 1. CPU_EXC when
 * even the first is not there. A short *got means that the rest faults:
 * mem_fetch_fault raises that fault. */
enum cpu_status mem_fetch(struct vcpu *v, gva_t a, uint8_t buf[15],
			  unsigned *got);
enum cpu_status mem_fetch_fault(struct vcpu *v, gva_t a);
/* Changes with every mem_flush: who keeps what came of a translation compares
 * it (and p2m_gen, for a host pointer). The first word of struct mem_cache. */
static inline uint64_t mem_epoch(const struct vcpu *v)
{
	return *(const uint64_t *)v->mem_cache;
}
#define MEM_EPOCH_SHIFT 36 /* 48-bit addresses: 36 bits of page number */
void mem_flush(struct vcpu *v);
/* The same where no libc may be called. False, and nothing done: once in 2^28. */
static inline bool mem_flush_plain(struct vcpu *v)
{
	uint64_t *epoch = (uint64_t *)v->mem_cache;

	if (!(*epoch + (1ull << MEM_EPOCH_SHIFT)))
		return false;
	*epoch += 1ull << MEM_EPOCH_SHIFT;
	return true;
}
void mem_flush_page(struct vcpu *v, gva_t a);

/* vcpu_create and vcpu_destroy call these. 0 or -ENOMEM. */
int mem_init(struct vcpu *v);
void mem_fini(struct vcpu *v);

/* Physical. MMIO by size 1, 2, 4, 8. 0 or -ENXIO. */
int phys_read(struct vm *vm, gpa_t a, void *buf, size_t len);
int phys_write(struct vm *vm, gpa_t a, const void *buf, size_t len);

#define MEM_LOG_MAX 64
struct mem_log_entry {
	gpa_t gpa;
	uint8_t len;
	uint8_t bytes[64];
};
struct mem_log {
	unsigned n;
	bool side_effect; /* MMIO, overflow: what follows cannot be compared */
	struct mem_log_entry e[MEM_LOG_MAX];
};
void mem_log_write(struct mem_log *l, gpa_t gpa, const void *buf, unsigned len);
/* Paging-structure entries in which walks set accessed and dirty bits, or would
 * have (v->used_log): when that happens depends on what a TLB holds. */
#define USED_LOG_MAX 128
struct used_log {
	unsigned n; /* may go past the end: then nothing is known */
	gpa_t at[USED_LOG_MAX];
};
/* Lay the logged writes over buf, which holds the bytes at [gpa, gpa+len). */
void mem_log_overlay(const struct mem_log *l, gpa_t gpa, void *buf,
		     unsigned len);
#endif
