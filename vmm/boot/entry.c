/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state in which kernels are entered, as the protocols ask: long mode with
 * identity-mapped memory for Linux, flat 32-bit protected mode for PVH and
 * Multiboot. Interrupts are off and the IDT is empty: a fault before the
 * kernel has its own handlers is a triple fault, as on a real machine.
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot_priv.h"
#include "vmm/mmu/mem.h"
#include "vmm/x86/regs.h"

/* Access bytes (SDM vol. 3, 3.4.5): present, S, accessed. */
#define ATTR_CODE32 (0x9b | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_CODE64 (0x9b | SEG_ATTR_L | SEG_ATTR_G)
#define ATTR_DATA   (0x93 | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_TSS    0x8b /* busy, as LTR leaves it */
#define TSS_LIMIT   0x67

/* attr as in struct segment: bits 0..7 and 8..11 are bits 40..47 and 52..55 */
static uint64_t descriptor(uint32_t limit20, unsigned attr)
{
	return (uint64_t)(attr & 0xff) << 40 | (uint64_t)(attr >> 8) << 52 |
	       (limit20 & 0xffff) | (uint64_t)(limit20 >> 16) << 48;
}

int boot_build_gdt(struct boot_ctx *c)
{
	uint64_t gdt[6] = {
		[BOOT_CS32 / 8] = descriptor(0xfffff, ATTR_CODE32),
		[BOOT_CS64 / 8] = descriptor(0xfffff, ATTR_CODE64),
		[BOOT_DS / 8] = descriptor(0xfffff, ATTR_DATA),
		[BOOT_TSS / 8] = descriptor(TSS_LIMIT, ATTR_TSS),
	};

	c->gdt = boot_alloc_low(c, sizeof(gdt));
	if (c->gdt == BOOT_NOWHERE)
		return boot_fail(c, ENOSPC,
				 "%s: leaves no room for a GDT under 640 KiB",
				 c->kernel.path);
	return boot_write(c, c->gdt, gdt, sizeof(gdt));
}

static void set_segments(struct boot_ctx *c, uint16_t cs, unsigned cs_attr)
{
	struct vcpu *v = c->vm->vcpu;
	const struct segment data = {BOOT_DS, ATTR_DATA, 0xffffffff, 0};

	for (int s = 0; s < NR_SEGS; s++)
		v->seg[s] = data;
	v->seg[SEG_CS] = (struct segment){cs, cs_attr, 0xffffffff, 0};
	v->tr = (struct segment){BOOT_TSS, ATTR_TSS, TSS_LIMIT, 0};
	v->ldtr = (struct segment){0};
	v->gdtr = (struct dtable){c->gdt, 6 * 8 - 1};
	v->idtr = (struct dtable){0, 0};
	v->cpl = 0;
	v->rflags = FL_R1;
}

/* Whoever caches translations hears of the new mode. */
static void tell_engine(struct vcpu *v)
{
	if (!v->ops)
		return;
	if (v->ops->mode_changed)
		v->ops->mode_changed(v);
	if (v->ops->tlb_flush)
		v->ops->tlb_flush(v, TLB_FLUSH_ALL, 0, 0);
	if (v->ops->cr3_written)
		v->ops->cr3_written(v, false);
}

/* PML4, PDPT and four page directories of 2 MiB pages: 4 GiB, identity. */
static gpa_t build_identity(struct boot_ctx *c)
{
	gpa_t root = boot_alloc_low(c, 6 * PAGE_SIZE), pd;
	uint64_t t[512] = {0};
	int r;

	if (root == BOOT_NOWHERE)
		return BOOT_NOWHERE;
	pd = root + 2 * PAGE_SIZE;
	t[0] = (root + PAGE_SIZE) | PTE_P | PTE_W;
	r = boot_write(c, root, t, sizeof(t));
	for (int i = 0; i < 4; i++)
		t[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_W;
	r = r ?: boot_write(c, root + PAGE_SIZE, t, sizeof(t));
	for (uint64_t i = 0; i < 4; i++) {
		for (uint64_t k = 0; k < 512; k++)
			t[k] = (i << 30 | k << LARGE_PAGE_SHIFT) | PTE_P |
			       PTE_W | PTE_PS;
		r = r ?: boot_write(c, pd + i * PAGE_SIZE, t, sizeof(t));
	}
	return r ? BOOT_NOWHERE : root;
}

int boot_enter_long(struct boot_ctx *c, gpa_t rip, uint64_t rsi)
{
	struct vcpu *v = c->vm->vcpu;
	gpa_t root = build_identity(c), stack = boot_alloc_low(c, PAGE_SIZE);

	if (root == BOOT_NOWHERE || stack == BOOT_NOWHERE)
		return boot_fail(c, ENOSPC,
				 "%s: no room for page tables under 640 KiB",
				 c->kernel.path);
	set_segments(c, BOOT_CS64, ATTR_CODE64);
	v->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_MP | CR0_WP;
	v->cr3 = root;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LME | EFER_LMA;
	v->in_long_mode = 1;
	v->gpr[R_RSI] = rsi;
	v->gpr[R_RSP] = stack + PAGE_SIZE - 16;
	v->rip = rip;
	tell_engine(v);
	return 0;
}

void boot_enter_flat32(struct boot_ctx *c, uint32_t eip, uint32_t eax,
		       uint32_t ebx)
{
	struct vcpu *v = c->vm->vcpu;

	set_segments(c, BOOT_CS32, ATTR_CODE32);
	v->cr0 = CR0_PE | CR0_ET;
	v->cr3 = 0;
	v->cr4 = 0;
	v->efer = 0;
	v->in_long_mode = 0;
	v->gpr[R_RAX] = eax;
	v->gpr[R_RBX] = ebx;
	v->rip = eip;
	tell_engine(v);
}
