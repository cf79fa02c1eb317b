/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a vcpu: its pages, the reset state, raising exceptions, stopping
 * and describing itself.
 *
 * Reset (SDM vol. 3, table 9-1) with one liberty: Sardine has no firmware, so
 * the memory types that firmware would have programmed (MTRRs on, RAM
 * write-back, the hole below 4 GiB and the VGA window uncached) are there from
 * the start. Linux turns PAT off when it finds the MTRRs disabled.
 */
#include "vmm/cpu/vcpu.h"

#include <immintrin.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/p2m.h"
#include "vmm/cpu/xstate.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

struct vcpu *vcpu_create(struct vm *vm, unsigned id, int *memfd_out)
{
	struct vcpu *v;
	int fd = memfd_create("sardine-vcpu", MFD_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (ftruncate(fd, VCPU_SIZE))
		goto err_fd;
	v = mmap(NULL, VCPU_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (v == MAP_FAILED)
		goto err_fd;
	v->vm = vm;
	v->id = id;
	v->fpu_size = xstate()->size;
	v->host_xcr0 = xstate()->host_xcr0;
	if (posix_memalign(&v->fpu, 64, (v->fpu_size + 63) & ~63u))
		goto err_map;
	if (mem_init(v))
		goto err_fpu;
	vcpu_reset(v);
	if (memfd_out)
		*memfd_out = fd;
	else
		close(fd);
	return v;
err_fpu:
	free(v->fpu);
err_map:
	munmap(v, VCPU_SIZE);
err_fd:
	close(fd);
	return NULL;
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	mem_fini(v);
	free(v->fpu);
	munmap(v, VCPU_SIZE);
}

static void reset_fpu(struct vcpu *v)
{
	uint8_t *f = v->fpu;
	uint16_t fcw = 0x37f;
	uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
	uint64_t bv = XCR0_X87 | XCR0_SSE;

	memset(f, 0, v->fpu_size);
	memcpy(f, &fcw, 2);
	memcpy(f + 24, &mxcsr, 4);
	memcpy(f + 28, &mxcsr_mask, 4);
	memcpy(f + 512, &bv, 8);
}

static void reset_mtrr(struct vcpu *v)
{
	uint64_t mask = (1ull << MMU_PHYS_BITS) - 1;

	v->mtrr_def = 0xc06; /* on, fixed ranges on, write-back */
	for (unsigned i = 0; i < ARRAY_SIZE(v->mtrr_fixed); i++)
		v->mtrr_fixed[i] = 0x0606060606060606ull;
	v->mtrr_fixed[2] = 0; /* a0000..bffff: uncached */
	memset(v->mtrr_var, 0, sizeof(v->mtrr_var));
	v->mtrr_var[0] = 0xc0000000;
	v->mtrr_var[1] = (mask & ~0x3fffffffull) | 0x800;
}

static void reset_segments(struct vcpu *v)
{
	const struct segment data = {.attr = 0x93, .limit = 0xffff};

	for (unsigned i = 0; i < NR_SEGS; i++)
		v->seg[i] = data;
	v->seg[SEG_CS] = (struct segment){.sel = 0xf000,
					  .attr = 0x9b,
					  .limit = 0xffff,
					  .base = 0xffff0000};
	v->ldtr = (struct segment){.attr = 0x82, .limit = 0xffff};
	v->tr = (struct segment){.attr = 0x8b, .limit = 0xffff};
	v->gdtr = v->idtr = (struct dtable){.limit = 0xffff};
}

void vcpu_reset(struct vcpu *v)
{
	memset((struct vcpu_arch *)v, 0, sizeof(struct vcpu_arch));
	memset(v->gpr, 0, sizeof(v->gpr));
	memset(&v->exc, 0, sizeof(v->exc));
	v->exit = EXIT_NONE;
	v->exit_code = 0;
	v->exit_reason[0] = 0;
	memset(v->exit_info, 0, sizeof(v->exit_info));
	v->instructions = 0;
	v->layout_seed = 0;

	reset_segments(v);
	reset_mtrr(v);
	reset_fpu(v);
	v->rip = 0xfff0;
	v->rflags = FL_R1;
	v->cr0 = CR0_CD | CR0_NW | CR0_ET;
	v->xcr0 = XCR0_X87;
	v->dr[6] = DR6_FIXED1;
	v->dr[7] = DR7_FIXED1;
	v->gpr[R_RDX] = 0x000806f8; /* CPUID.1:EAX */
	v->pat = 0x0007040600070406ull;
	v->misc_enable = 0x1801; /* fast strings; no BTS, no PEBS */
	v->apic_base = 0xfee00900 & ~(v->id ? 0x100ull : 0);
	mem_flush(v);
	if (v->ops && v->ops->tlb_flush)
		v->ops->tlb_flush(v, TLB_FLUSH_ALL, 0, 0);
	if (v->ops && v->ops->mode_changed)
		v->ops->mode_changed(v);
}

static bool has_error_code(uint8_t vector)
{
	return vector < 32 &&
	       ((1u << vector) &
		(1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS |
		 1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC));
}

enum cpu_status vcpu_raise(struct vcpu *v, uint8_t vector)
{
	return vcpu_raise_err(v, vector, 0);
}

enum cpu_status vcpu_raise_err(struct vcpu *v, uint8_t vector, uint32_t err)
{
	v->exc = (struct exception){.pending = true,
				    .vector = vector,
				    .has_error = has_error_code(vector),
				    .error = err};
	return CPU_EXC;
}

enum cpu_status vcpu_raise_pf(struct vcpu *v, gva_t cr2, uint32_t err)
{
	vcpu_raise_err(v, EXC_PF, err);
	v->exc.cr2 = cr2;
	return CPU_EXC;
}

enum cpu_status vcpu_stop(struct vcpu *v, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->exit_reason, sizeof(v->exit_reason), fmt, ap);
	va_end(ap);
	v->exit = EXIT_ERROR;
	v->exit_info[0] = v->rip;
	return CPU_EXIT;
}

static void dump_segment(int fd, const char *name, const struct segment *s)
{
	dprintf(fd, "  %-4s %04x base %016lx limit %08x attr %03x%s\n", name,
		s->sel, s->base, s->limit, s->attr,
		s->attr & SEG_ATTR_P ? "" : " (unusable)");
}

/* Bytes at rip, without setting accessed bits or raising anything. */
static void dump_code(struct vcpu *v, int fd)
{
	bool flat = vcpu_code64(v);
	gva_t a = flat ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip);

	dprintf(fd, "  bytes at %016lx:", a);
	for (unsigned i = 0; i < 15; i++) {
		struct walk w;
		const uint8_t *p = NULL;
		gva_t at = flat ? a + i : (uint32_t)(a + i);

		if (v->vm && v->vm->p2m && (!flat || gva_canonical(at)) &&
		    !mmu_walk(v, at, WALK_PROBE, &w))
			p = p2m_read(v->vm->p2m, gpa_to_ppn(w.gpa));
		if (!p) {
			dprintf(fd, " ??");
			break;
		}
		dprintf(fd, " %02x", p[w.gpa & (PAGE_SIZE - 1)]);
	}
	dprintf(fd, "\n");
}

void vcpu_dump(struct vcpu *v, int fd)
{
	static const char gname[16][4] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const sname[] = {"es", "cs", "ss", "ds", "fs", "gs"};

	dprintf(fd, "vcpu %u: rip %016lx rflags %08lx cpl %u%s%s\n", v->id,
		v->rip, v->rflags, v->cpl,
		vcpu_code64(v)	  ? " 64-bit"
		: v->in_long_mode ? " compat"
				  : "",
		v->halted ? " halted" : "");
	for (unsigned i = 0; i < 16; i++)
		dprintf(fd, "%s%-3s %016lx%s", i % 4 ? " " : "  ", gname[i],
			v->gpr[i], i % 4 == 3 ? "\n" : "");
	for (unsigned i = 0; i < NR_SEGS; i++)
		dump_segment(fd, sname[i], &v->seg[i]);
	dump_segment(fd, "ldtr", &v->ldtr);
	dump_segment(fd, "tr", &v->tr);
	dprintf(fd, "  gdtr %016lx/%04x idtr %016lx/%04x\n", v->gdtr.base,
		v->gdtr.limit, v->idtr.base, v->idtr.limit);
	dprintf(fd,
		"  cr0 %08lx cr2 %016lx cr3 %016lx cr4 %08lx efer %04lx "
		"xcr0 %lx\n",
		v->cr0, v->cr2, v->cr3, v->cr4, v->efer, v->xcr0);
	if (v->exc.pending)
		dprintf(fd, "  pending vector %u error %x cr2 %016lx\n",
			v->exc.vector, v->exc.error, v->exc.cr2);
	if (v->exit_reason[0])
		dprintf(fd, "  reason: %s\n", v->exit_reason);
	dump_code(v, fd);
}

void vcpu_kick(struct vcpu *v, uint32_t req)
{
	atomic_fetch_or(&v->requests, req);
	if (v->ops && v->ops->kick)
		v->ops->kick(v);
}
