/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory for C code.
 *
 * The software TLB. Direct-mapped, one array for each (user or supervisor) x
 * (read, write, execute): rights were judged by the walk that filled the
 * entry, so a hit needs no second look. An entry holds the guest-physical page
 * and, when there may be one, a host pointer. Two clocks keep it honest:
 *
 *   epoch   in the tag: mem_flush adds one, and everything misses.
 *   gen     p2m_gen() when the pointer was taken. A newer one makes the
 *	     pointer (not the translation) stale: it is asked for again.
 *
 * Write entries are never pointers into code pages: p2m_write is then called
 * for each write, so that the listener hears of it. As marking a page adds to
 * p2m_gen(), an old pointer cannot outlive the mark.
 *
 * INVLPG of one address must drop every entry that came from the same large
 * page, and flushing is an increment: mem_flush_page flushes all.
 *
 * An access that crosses a page is translated wholly before a byte is
 * written. Where there is no RAM the MMIO bus answers, in power-of-two pieces.
 * Instruction fetch where there is no RAM reads all ones.
 *
 * Lockstep (v->mem_log): writes go into the log, reads are overlaid with it,
 * and MMIO is not done at all: side_effect is set, CPU_EXIT answered.
 */
#include "vmm/mmu/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "mm/p2m.h"
#include "vmm/dev/bus.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define TLB_BITS  9
#define TLB_SIZE  (1u << TLB_BITS)
#define OFFSET(a) ((a) & (PAGE_SIZE - 1))

enum { KIND_READ, KIND_WRITE, KIND_EXEC, NR_KINDS };

struct tlb_entry {
	uint64_t tag; /* page number | epoch << MEM_EPOCH_SHIFT */
	uint64_t gen;
	uint8_t *page; /* NULL: MMIO, or ask p2m_write each time */
	ppn_t ppn;
};

struct mem_cache {
	uint64_t epoch; /* shifted; never 0 */
	struct tlb_entry e[2][NR_KINDS][TLB_SIZE];
};
_Static_assert(offsetof(struct mem_cache, epoch) == 0, "mem_epoch() reads it");

int mem_init(struct vcpu *v)
{
	v->mem_cache = calloc(1, sizeof(*v->mem_cache));
	if (!v->mem_cache)
		return -ENOMEM;
	v->mem_cache->epoch = 1ull << MEM_EPOCH_SHIFT;
	return 0;
}

void mem_fini(struct vcpu *v)
{
	free(v->mem_cache);
	v->mem_cache = NULL;
}

void mem_flush(struct vcpu *v)
{
	struct mem_cache *c = v->mem_cache;

	if (unlikely(!mem_flush_plain(v))) {
		memset(c, 0, sizeof(*c));
		c->epoch = 1ull << MEM_EPOCH_SHIFT;
	}
}

void mem_flush_page(struct vcpu *v, gva_t a)
{
	mem_flush(v);
}

/* ---- translation ---- */

static unsigned acc_kind(unsigned acc)
{
	return acc & MEM_EXEC	 ? KIND_EXEC
	       : acc & MEM_WRITE ? KIND_WRITE
				 : KIND_READ;
}

static bool acc_user(const struct vcpu *v, unsigned acc)
{
	return v->cpl == 3 && !(acc & MEM_SYSTEM);
}

/* Take the host pointer anew. Reads only: never breaks a page. */
static void refresh(struct vcpu *v, unsigned kind, struct tlb_entry *e)
{
	struct p2m *p = v->vm->p2m;

	if (kind == KIND_WRITE)
		e->page = NULL; /* taken by the write itself */
	else
		e->page = (uint8_t *)p2m_read(p, e->ppn);
	e->gen = p2m_gen(p);
}

/* The entry for the page of a (already canonical), or NULL and *err = the
 * walker's answer. */
static struct tlb_entry *translate(struct vcpu *v, gva_t a, unsigned acc,
				   uint32_t *err)
{
	unsigned kind = acc_kind(acc), user = acc_user(v, acc);
	struct mem_cache *c = v->mem_cache;
	uint64_t vpn = (a & ((1ull << 48) - 1)) >> PAGE_SHIFT;
	struct tlb_entry *e = &c->e[user][kind][vpn & (TLB_SIZE - 1)];
	unsigned access;
	struct walk w;

	if (likely(e->tag == (vpn | c->epoch))) {
		if (unlikely(e->gen != p2m_gen(v->vm->p2m)))
			refresh(v, kind, e);
		return e;
	}
	access = (user ? WALK_USER : 0) | (acc & MEM_WRITE ? WALK_WRITE : 0) |
		 (acc & MEM_EXEC ? WALK_EXEC : 0);
	*err = mmu_walk(v, a, access, &w);
	if (*err)
		return NULL;
	e->tag = vpn | c->epoch;
	e->ppn = gpa_to_ppn(w.gpa);
	refresh(v, kind, e);
	return e;
}

static enum cpu_status raise_walk(struct vcpu *v, gva_t a, uint32_t err)
{
	return vcpu_raise_pf(v, a, err & ~WALK_FAULT);
}

/* Is [a, a+len) an address at all? Outside of long mode it is cut to 32
 * bits. */
static enum cpu_status check_address(struct vcpu *v, gva_t *a, unsigned len,
				     unsigned acc)
{
	if (likely(v->in_long_mode)) {
		if (likely(gva_canonical(*a) && gva_canonical(*a + len - 1)))
			return CPU_OK;
		return vcpu_raise(v, acc & MEM_STACK ? EXC_SS : EXC_GP);
	}
	*a = (uint32_t)*a;
	return CPU_OK;
}

static gva_t next_page(const struct vcpu *v, gva_t a)
{
	a = (a & PAGE_MASK) + PAGE_SIZE;
	return v->in_long_mode ? a : (uint32_t)a;
}

/* ---- MMIO ---- */

static unsigned piece(size_t len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

static enum cpu_status mmio_refused(struct vcpu *v)
{
	if (v->mem_log) {
		v->mem_log->side_effect = true;
		v->exit = EXIT_NONE;
		return CPU_EXIT;
	}
	return vcpu_stop(v, "memory access with no RAM and no bus behind it");
}

static enum cpu_status mmio_read(struct vcpu *v, gpa_t a, uint8_t *buf,
				 unsigned len)
{
	if (v->mem_log || !v->vm->mmio)
		return mmio_refused(v);
	while (len) {
		unsigned n = piece(len);
		uint64_t val = bus_read(v->vm->mmio, a, n);

		memcpy(buf, &val, n);
		a += n, buf += n, len -= n;
	}
	return CPU_OK;
}

static enum cpu_status mmio_write(struct vcpu *v, gpa_t a, const uint8_t *buf,
				  unsigned len)
{
	if (v->mem_log || !v->vm->mmio)
		return mmio_refused(v);
	while (len) {
		unsigned n = piece(len);
		uint64_t val = 0;

		memcpy(&val, buf, n);
		bus_write(v->vm->mmio, a, n, val);
		a += n, buf += n, len -= n;
	}
	return CPU_OK;
}

/* ---- the lockstep log ---- */

void mem_log_overlay(const struct mem_log *l, gpa_t gpa, void *buf,
		     unsigned len)
{
	for (unsigned i = 0; i < l->n; i++) {
		const struct mem_log_entry *e = &l->e[i];
		gpa_t lo = e->gpa > gpa ? e->gpa : gpa;
		gpa_t hi = e->gpa + e->len < gpa + len ? e->gpa + e->len
						       : gpa + len;

		if (lo < hi)
			memcpy((uint8_t *)buf + (lo - gpa),
			       e->bytes + (lo - e->gpa), hi - lo);
	}
}

void mem_log_write(struct mem_log *l, gpa_t gpa, const void *buf, unsigned len)
{
	const uint8_t *from = buf;

	while (len) {
		unsigned n = len < 64 ? len : 64;

		if (l->n == MEM_LOG_MAX) {
			l->side_effect = true;
			return;
		}
		l->e[l->n] = (struct mem_log_entry){.gpa = gpa, .len = n};
		memcpy(l->e[l->n].bytes, from, n);
		l->n++;
		gpa += n, from += n, len -= n;
	}
}

/* ---- one page's part of an access ---- */

/* Guest accesses are mostly of four sizes, which the compiler can inline. */
static inline void copy(void *to, const void *from, unsigned len)
{
	switch (len) {
	case 8:
		memcpy(to, from, 8);
		break;
	case 4:
		memcpy(to, from, 4);
		break;
	case 2:
		memcpy(to, from, 2);
		break;
	case 1:
		memcpy(to, from, 1);
		break;
	default:
		memcpy(to, from, len);
	}
}

static enum cpu_status read_part(struct vcpu *v, const struct tlb_entry *e,
				 unsigned off, void *buf, unsigned len)
{
	gpa_t gpa = ppn_to_gpa(e->ppn) + off;
	const uint8_t *page = e->page;

	if (unlikely(!page)) {
		/* a write entry (read for a RMW) or no RAM */
		page = p2m_read(v->vm->p2m, e->ppn);
		if (!page)
			return mmio_read(v, gpa, buf, len);
	}
	copy(buf, page + off, len);
	if (unlikely(v->mem_log))
		mem_log_overlay(v->mem_log, gpa, buf, len);
	return CPU_OK;
}

static enum cpu_status write_part(struct vcpu *v, struct tlb_entry *e,
				  unsigned off, const void *buf, unsigned len)
{
	gpa_t gpa = ppn_to_gpa(e->ppn) + off;
	struct p2m *p = v->vm->p2m;
	uint8_t *page = e->page;

	if (unlikely(v->mem_log)) {
		if (!p2m_is_ram_state(p2m_get_state(p, e->ppn)))
			return mmio_refused(v);
		mem_log_write(v->mem_log, gpa, buf, len);
		return CPU_OK;
	}
	if (unlikely(!page || e->gen != p2m_gen(p))) {
		if (!p2m_is_ram_state(p2m_get_state(p, e->ppn)))
			return mmio_write(v, gpa, buf, len);
		page = p2m_write(p, e->ppn, off, len);
		if (!page)
			return vcpu_stop(v,
					 "out of host memory for guest "
					 "page %lx",
					 e->ppn.n);
		e->page = p2m_is_code(p, e->ppn) ? NULL : page;
		e->gen = p2m_gen(p);
	}
	copy(page + off, buf, len);
	return CPU_OK;
}

/* Both pages of an access that crosses. TLB entries are copied out, because
 * the second may displace the first. */
static enum cpu_status translate_two(struct vcpu *v, gva_t a, unsigned acc,
				     struct tlb_entry two[2])
{
	struct tlb_entry *e;
	gva_t b = next_page(v, a);
	uint32_t err;

	e = translate(v, a, acc, &err);
	if (!e)
		return raise_walk(v, a, err);
	two[0] = *e;
	e = translate(v, b, acc, &err);
	if (!e)
		return raise_walk(v, b, err);
	two[1] = *e;
	return CPU_OK;
}

/* ---- the interface ---- */

enum cpu_status mem_read(struct vcpu *v, gva_t a, void *buf, unsigned len,
			 unsigned acc)
{
	enum cpu_status s = check_address(v, &a, len, acc);
	unsigned off = OFFSET(a), first = PAGE_SIZE - off;
	struct tlb_entry *e, two[2];
	uint32_t err;

	if (unlikely(s))
		return s;
	if (likely(len <= first)) {
		e = translate(v, a, acc, &err);
		if (unlikely(!e))
			return raise_walk(v, a, err);
		return read_part(v, e, off, buf, len);
	}
	s = translate_two(v, a, acc, two);
	if (s)
		return s;
	s = read_part(v, &two[0], off, buf, first);
	if (s)
		return s;
	return read_part(v, &two[1], 0, (uint8_t *)buf + first, len - first);
}

enum cpu_status mem_write(struct vcpu *v, gva_t a, const void *buf,
			  unsigned len, unsigned acc)
{
	enum cpu_status s = check_address(v, &a, len, acc);
	unsigned off = OFFSET(a), first = PAGE_SIZE - off;
	struct tlb_entry *e, two[2];
	uint32_t err;

	acc |= MEM_WRITE;
	if (unlikely(s))
		return s;
	if (likely(len <= first)) {
		e = translate(v, a, acc, &err);
		if (unlikely(!e))
			return raise_walk(v, a, err);
		return write_part(v, e, off, buf, len);
	}
	s = translate_two(v, a, acc, two);
	if (s)
		return s;
	s = write_part(v, &two[0], off, buf, first);
	if (s)
		return s;
	return write_part(v, &two[1], 0, (const uint8_t *)buf + first,
			  len - first);
}

enum cpu_status mem_probe_write(struct vcpu *v, gva_t a, unsigned len,
				unsigned acc)
{
	enum cpu_status s = check_address(v, &a, len, acc);
	struct tlb_entry two[2];
	uint32_t err;

	acc |= MEM_WRITE;
	if (s)
		return s;
	if (OFFSET(a) + len > PAGE_SIZE)
		return translate_two(v, a, acc, two);
	if (!translate(v, a, acc, &err))
		return raise_walk(v, a, err);
	return CPU_OK;
}

static void fetch_part(struct vcpu *v, const struct tlb_entry *e, unsigned off,
		       uint8_t *buf, unsigned len)
{
	if (!e->page) {
		memset(buf, 0xff, len);
		return;
	}
	memcpy(buf, e->page + off, len);
	if (unlikely(v->mem_log))
		mem_log_overlay(v->mem_log, ppn_to_gpa(e->ppn) + off, buf, len);
}

enum cpu_status mem_fetch(struct vcpu *v, gva_t a, uint8_t buf[15],
			  unsigned *got)
{
	enum cpu_status s = check_address(v, &a, 1, MEM_EXEC);
	unsigned off = OFFSET(a), first = PAGE_SIZE - off;
	struct tlb_entry *e;
	uint32_t err;

	if (unlikely(s))
		return s;
	e = translate(v, a, MEM_EXEC, &err);
	if (unlikely(!e))
		return raise_walk(v, a, err);
	if (likely(first >= 15)) {
		fetch_part(v, e, off, buf, 15);
		*got = 15;
		return CPU_OK;
	}
	fetch_part(v, e, off, buf, first);
	*got = first;
	a = next_page(v, a);
	if (v->in_long_mode && !gva_canonical(a))
		return CPU_OK;
	e = translate(v, a, MEM_EXEC, &err);
	if (e) {
		fetch_part(v, e, 0, buf + first, 15 - first);
		*got = 15;
	}
	return CPU_OK;
}

enum cpu_status mem_fetch_fault(struct vcpu *v, gva_t a)
{
	uint32_t err;

	a = next_page(v, a);
	if (v->in_long_mode && !gva_canonical(a))
		return vcpu_raise(v, EXC_GP);
	if (!translate(v, a, MEM_EXEC, &err))
		return raise_walk(v, a, err);
	/* The page is there: the instruction was too long. */
	return vcpu_raise(v, EXC_GP);
}

/* ---- physical ---- */

static int phys_mmio(struct vm *vm, gpa_t a, void *in, const void *out,
		     size_t len)
{
	uint64_t val = 0;

	if (!vm->mmio || (len != 1 && len != 2 && len != 4 && len != 8))
		return -ENXIO;
	if (out) {
		memcpy(&val, out, len);
		bus_write(vm->mmio, a, len, val);
	} else {
		val = bus_read(vm->mmio, a, len);
		memcpy(in, &val, len);
	}
	return 0;
}

int phys_read(struct vm *vm, gpa_t a, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len) {
		size_t n = PAGE_SIZE - OFFSET(a);
		const uint8_t *page = p2m_read(vm->p2m, gpa_to_ppn(a));
		int r;

		if (n > len)
			n = len;
		if (page) {
			memcpy(to, page + OFFSET(a), n);
		} else {
			r = phys_mmio(vm, a, to, NULL, n);
			if (r)
				return r;
		}
		a += n, to += n, len -= n;
	}
	return 0;
}

int phys_write(struct vm *vm, gpa_t a, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len) {
		size_t n = PAGE_SIZE - OFFSET(a);
		ppn_t ppn = gpa_to_ppn(a);
		uint8_t *page = NULL;
		int r;

		if (n > len)
			n = len;
		if (p2m_is_ram_state(p2m_get_state(vm->p2m, ppn))) {
			page = p2m_write(vm->p2m, ppn, OFFSET(a), n);
			if (!page)
				return -ENOMEM;
			memcpy(page + OFFSET(a), from, n);
		} else {
			r = phys_mmio(vm, a, NULL, from, n);
			if (r)
				return r;
		}
		a += n, from += n, len -= n;
	}
	return 0;
}
