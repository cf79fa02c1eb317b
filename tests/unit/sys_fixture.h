/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_UNIT_SYS_FIXTURE_H
#define SARDINE_TESTS_UNIT_SYS_FIXTURE_H
/*
 * A vcpu with 16 MiB of real p2m, two buses and no engine, for the tests of
 * system semantics. long_mode() puts it into 64-bit mode at CPL 0 with this
 * layout (all identity-mapped by 4 KiB pages):
 *
 *   [0, 4M)    supervisor, writable: tables and ring-0 stacks
 *   [4M, 8M)   user, writable
 *   GDT 0x1000 (selectors below), IDT 0x2000 (256 gates), TSS 0x4000
 *   RSP0 0x20000, IST1 0x30000, the running stack 0x40000
 * Page tables come from 0x800000 up.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include <cmocka.h>

#include "mm/p2m.h"
#include "vmm/cpu/sys.h"
#include "vmm/dev/bus.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define GDT	   0x1000ul
#define IDT	   0x2000ul
#define TSS	   0x4000ul
#define RSP0	   0x20000ul
#define IST1	   0x30000ul
#define STACK	   0x40000ul
#define USER_STACK 0x500000ul
#define HANDLER	   0x10000ul /* handler of vector n: HANDLER + 16 * n */
#define TABLES	   0x800000ul

enum {
	S_CODE64 = 0x08,
	S_DATA = 0x10,
	S_UCODE32 = 0x1b,
	S_UDATA = 0x23,
	S_UCODE64 = 0x2b,
	S_CODE32 = 0x30,
	S_CONF64 = 0x38,
	S_TSS = 0x40,
	S_LDT = 0x50,
	S_NPDATA = 0x60,
	S_RODATA = 0x68,
	S_XONLY = 0x70,
	S_GATE = 0x80,
	S_NPCODE = 0x90,
	S_BADLD = 0x98,
	S_CODE16 = 0xa0,
	S_DATA16 = 0xa8,
	S_DOWN = 0xb0,
	S_UCONF32 = 0xb8,
	S_LAST = 0xc0
};

struct fix {
	struct vm vm;
	struct vcpu *v;
	gpa_t next_table;
};

static inline void poke(struct fix *f, gpa_t a, const void *buf, size_t len)
{
	assert_int_equal(p2m_copy_in(f->vm.p2m, a, buf, len), 0);
}
static inline void poke64(struct fix *f, gpa_t a, uint64_t val)
{
	poke(f, a, &val, 8);
}
static inline void poke32(struct fix *f, gpa_t a, uint32_t val)
{
	poke(f, a, &val, 4);
}
static inline void poke16(struct fix *f, gpa_t a, uint16_t val)
{
	poke(f, a, &val, 2);
}
static inline uint64_t peek64(struct fix *f, gpa_t a)
{
	uint64_t val;

	assert_int_equal(p2m_copy_out(f->vm.p2m, a, &val, 8), 0);
	return val;
}
static inline uint32_t peek32(struct fix *f, gpa_t a)
{
	return peek64(f, a);
}
static inline uint16_t peek16(struct fix *f, gpa_t a)
{
	return peek64(f, a);
}

static inline int fix_setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct p2m_config c = {.ram_bytes = 16 << 20,
			       .memfd = -1,
			       .pool_fd = -1,
			       .name = "test"};

	assert_int_equal(p2m_create(&c, &f->vm.p2m), 0);
	pthread_mutex_init(&f->vm.dev_lock, NULL);
	f->vm.pio = bus_create("pio", &f->vm.dev_lock);
	f->vm.mmio = bus_create("mmio", &f->vm.dev_lock);
	f->v = f->vm.vcpu = vcpu_create(&f->vm, 0, NULL);
	assert_non_null(f->v);
	f->next_table = TABLES;
	*state = f;
	return 0;
}

static inline int fix_teardown(void **state)
{
	struct fix *f = *state;

	vcpu_destroy(f->v);
	bus_destroy(f->vm.pio);
	bus_destroy(f->vm.mmio);
	p2m_destroy(f->vm.p2m);
	free(f);
	return 0;
}

/* Map one page by 4-level tables, making tables as needed. */
static inline void map_page(struct fix *f, gva_t va, gpa_t pa, uint64_t bits)
{
	gpa_t table = f->v->cr3 & CR3_ADDR;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		gpa_t at = table + (va >> shift & 511) * 8;
		uint64_t e = peek64(f, at);

		if (!(e & PTE_P)) {
			e = f->next_table | PTE_P | PTE_W | PTE_U;
			f->next_table += PAGE_SIZE;
			poke64(f, at, e);
		}
		table = e & PTE_ADDR;
	}
	poke64(f, table + (va >> 12 & 511) * 8, pa | bits);
}

static inline uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
	       (uint64_t)(attr & 0xff) << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)(attr >> 8 & 15) << 52 | (uint64_t)(base >> 24) << 56;
}

static inline void make_gdt(struct fix *f)
{
	poke64(f, GDT + S_CODE64, descriptor(0, 0xfffff, 0xa9a));
	poke64(f, GDT + S_DATA, descriptor(0, 0xfffff, 0xc92));
	poke64(f, GDT + (S_UCODE32 & ~7), descriptor(0, 0xfffff, 0xcfa));
	poke64(f, GDT + (S_UDATA & ~7), descriptor(0, 0xfffff, 0xcf2));
	poke64(f, GDT + (S_UCODE64 & ~7), descriptor(0, 0xfffff, 0xafa));
	poke64(f, GDT + S_CODE32, descriptor(0, 0xfffff, 0xc9a));
	poke64(f, GDT + S_CONF64, descriptor(0, 0xfffff, 0xa9e));
	poke64(f, GDT + S_TSS, descriptor(TSS, 0x2087, 0x089));
	poke64(f, GDT + S_TSS + 8, 0);
	poke64(f, GDT + S_LDT, descriptor(0x6000, 0x1f, 0x082));
	poke64(f, GDT + S_LDT + 8, 0);
	poke64(f, GDT + S_NPDATA, descriptor(0, 0xfffff, 0xc12));
	poke64(f, GDT + S_RODATA, descriptor(0x1234, 0xfff, 0x490));
	poke64(f, GDT + S_XONLY, descriptor(0, 0xfffff, 0xa98));
	poke64(f, GDT + S_NPCODE, descriptor(0, 0xfffff, 0xa1a));
	poke64(f, GDT + S_BADLD, descriptor(0, 0xfffff, 0xe9a));
	poke64(f, GDT + S_CODE16, descriptor(0, 0xffff, 0x09a));
	poke64(f, GDT + S_DATA16, descriptor(0x10000, 0xffff, 0x092));
	poke64(f, GDT + S_DOWN, descriptor(0, 0x1000, 0x496));
	poke64(f, GDT + S_UCONF32, descriptor(0, 0xfffff, 0xc9e));
	f->v->gdtr = (struct dtable){.base = GDT, .limit = S_LAST - 1};
}

static inline void set_gate(struct fix *f, unsigned n, uint16_t sel,
			    uint64_t off, uint8_t access, unsigned ist)
{
	poke64(f, IDT + 16 * n,
	       (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 |
		       (uint64_t)access << 40 | (off >> 16 & 0xffff) << 48);
	poke64(f, IDT + 16 * n + 8, off >> 32);
}

static inline struct segment seg_of(uint16_t sel, uint32_t limit, uint16_t attr)
{
	return (struct segment){.sel = sel, .attr = attr, .limit = limit};
}

/* Ring 3, 64-bit, on the user stack. */
static inline void go_user(struct fix *f)
{
	struct vcpu *v = f->v;

	v->cpl = 3;
	v->seg[SEG_CS] = seg_of(S_UCODE64, ~0u, 0xafb);
	v->seg[SEG_SS] = seg_of(S_UDATA, ~0u, 0xcf3);
	v->rip = 0x400100;
	v->gpr[R_RSP] = USER_STACK;
	v->rflags = FL_R1 | FL_IF;
}

static inline void long_mode(struct fix *f)
{
	struct vcpu *v = f->v;

	v->cr3 = f->next_table;
	f->next_table += PAGE_SIZE;
	for (gpa_t a = 0; a < 8 << 20; a += PAGE_SIZE)
		map_page(f, a, a, PTE_P | PTE_W | (a >= 4 << 20 ? PTE_U : 0));
	v->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE;
	v->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
	v->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	v->in_long_mode = 1;
	v->cpl = 0;
	make_gdt(f);
	v->seg[SEG_CS] = seg_of(S_CODE64, ~0u, 0xa9b);
	v->seg[SEG_SS] = seg_of(S_DATA, ~0u, 0xc93);
	for (unsigned s = 0; s < NR_SEGS; s++)
		if (s != SEG_CS && s != SEG_SS)
			v->seg[s] = seg_of(0, 0, 0);
	for (unsigned n = 0; n < 256; n++)
		set_gate(f, n, S_CODE64, HANDLER + 16 * n, 0x8e, 0);
	v->idtr = (struct dtable){.base = IDT, .limit = 256 * 16 - 1};
	poke64(f, TSS + 4, RSP0);
	poke64(f, TSS + 36, IST1);
	poke16(f, TSS + 102, 104);
	v->tr = seg_of(S_TSS, 0x2087, 0x08b);
	v->tr.base = TSS;
	v->rip = 0x8000;
	v->gpr[R_RSP] = STACK;
	v->rflags = FL_R1;
	mem_flush(v);
}

/* 32-bit protected mode without paging, flat. */
static inline void prot_mode(struct fix *f)
{
	struct vcpu *v = f->v;

	make_gdt(f);
	v->cr0 = CR0_PE | CR0_ET;
	v->seg[SEG_CS] = seg_of(S_CODE32, ~0u, 0xc9b);
	for (unsigned s = 0; s < NR_SEGS; s++)
		if (s != SEG_CS)
			v->seg[s] = seg_of(S_DATA, ~0u, 0xc93);
	v->idtr = (struct dtable){.base = IDT, .limit = 256 * 8 - 1};
	for (unsigned n = 0; n < 256; n++) {
		uint64_t off = HANDLER + 16 * n;

		poke64(f, IDT + 8 * n,
		       (off & 0xffff) | (uint64_t)S_CODE32 << 16 |
			       0x8eull << 40 | (off >> 16) << 48);
	}
	poke32(f, TSS + 4, RSP0);
	poke32(f, TSS + 8, S_DATA);
	v->tr = seg_of(S_TSS, 0x67, 0x08b);
	v->tr.base = TSS;
	v->rip = 0x8000;
	v->gpr[R_RSP] = STACK;
	v->rflags = FL_R1;
	mem_flush(v);
}

#define assert_exc(status, vec, err)                                           \
	do {                                                                   \
		assert_int_equal(status, CPU_EXC);                             \
		assert_int_equal(f->v->exc.vector, vec);                       \
		assert_int_equal(f->v->exc.error, err);                        \
		f->v->exc.pending = false;                                     \
	} while (0)

#define TEST(name)                                                             \
	cmocka_unit_test_setup_teardown(name, fix_setup, fix_teardown)
#endif
