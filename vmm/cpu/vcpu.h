/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_VCPU_H
#define SARDINE_VMM_CPU_VCPU_H
/*
 * The architectural state of one virtual CPU, and how engines, system
 * semantics and devices meet around it.
 *
 * While C code runs, this structure is the truth (all general registers,
 * rflags whole, rip of the next instruction). While translated code runs, the
 * host's registers are; vmm/bt/entry.S moves one to the other. The x87/SSE/AVX
 * state is in vcpu->fpu (an XSAVE image, standard format) while C code runs.
 *
 * The bt engine addresses `struct vcpu` from translated code, relative to a
 * register, through two mappings of the same pages (one for CPL 0, one for
 * CPL 3). So: the structure lives in pages of its own (vcpu_create), has a
 * fixed size of VCPU_PAGES pages, and gpr[] ends it.
 */
#include "mm/types.h"

enum gpr {
	R_RAX,
	R_RCX,
	R_RDX,
	R_RBX,
	R_RSP,
	R_RBP,
	R_RSI,
	R_RDI,
	R_R8,
	R_R9,
	R_R10,
	R_R11,
	R_R12,
	R_R13,
	R_R14,
	R_R15
};
enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, NR_SEGS };

/* attr: access byte in bits 0..7 (type 0-3, S 4, DPL 5-6, P 7), AVL 8, L 9,
 * DB 10, G 11 (descriptor bits 40..47 and 52..55). limit is in bytes,
 * expanded. attr without P: the segment is unusable. */
struct segment {
	uint16_t sel;
	uint16_t attr;
	uint32_t limit;
	uint64_t base;
};
#define SEG_ATTR_TYPE	   0x00f
#define SEG_ATTR_S	   0x010
#define SEG_ATTR_DPL	   0x060
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P	   0x080
#define SEG_ATTR_L	   0x200
#define SEG_ATTR_DB	   0x400
#define SEG_ATTR_G	   0x800

struct dtable {
	uint64_t base;
	uint16_t limit;
};

/* An exception raised by an instruction, not yet delivered. The state in the
 * vcpu is that before the instruction (a fault) or after it (a trap: rip
 * already advanced). */
struct exception {
	bool pending;
	uint8_t vector;
	bool has_error;
	bool soft; /* INT n, INT3, INTO: DPL of the gate is checked */
	uint32_t error;
	uint64_t cr2; /* for #PF: goes to CR2 upon delivery */
	uint64_t dr6; /* for #DB: bits to set */
};

/* What functions of the system semantics answer. */
enum cpu_status {
	CPU_OK = 0,
	CPU_EXC,  /* v->exc is filled; nothing else has changed */
	CPU_EXIT, /* v->exit is filled: the engine must leave its loop */
};

/* Why an engine's run() came back. */
enum vcpu_exit {
	EXIT_NONE,
	EXIT_KICK,     /* somebody called vcpu_kick; look at requests */
	EXIT_HLT,      /* HLT with nothing pending; v->halted is set */
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_RESET,    /* reset asked for (port 0x64, 0xcf9, ...) */
	EXIT_POWEROFF, /* ACPI S5 */
	EXIT_DEBUG,    /* debug-exit port; v->exit_code is the status */
	EXIT_ERROR,    /* our mistake or something not built; v->exit_reason */
};

struct vm;
struct vcpu;

/* TLB events, told by the system semantics to whoever caches translations
 * (SDM vol. 3, 4.10.4). */
enum tlb_flush {
	TLB_FLUSH_PAGE,	     /* INVLPG: gva, current PCID, and global */
	TLB_FLUSH_PAGE_PCID, /* INVPCID 0: gva in pcid, not global */
	TLB_FLUSH_PCID,	     /* MOV CR3 without bit 63, INVPCID 1 */
	TLB_FLUSH_NONGLOBAL, /* all PCIDs, not global: INVPCID 3 */
	TLB_FLUSH_ALL,	     /* everything: CR4.PGE/PAE/.. changes, INVPCID 2 */
};
struct vcpu_ops {
	/* After the registers have changed. cr3_old matters for bt only. */
	void (*tlb_flush)(struct vcpu *v, enum tlb_flush kind, uint16_t pcid,
			  gva_t gva);
	/* CR3 was written; bit 63 of the operand was `noflush`. A flush, when
	 * due, has been told by tlb_flush(TLB_FLUSH_PCID) before. */
	void (*cr3_written)(struct vcpu *v, bool noflush);
	/* Mode bits changed: CR0 (all but CD and NW), CR4, EFER, XCR0, the TSC
	 * offset, or everything by reset. */
	void (*mode_changed)(struct vcpu *v);
	/* Make a running engine come back soon. Any thread. */
	void (*kick)(struct vcpu *v);
};

/* Upcall to the interrupt controller (dev/lapic); any engine may ask.
 * Called on the vCPU thread; they take the device lock themselves. */
struct irq_source_ops {
	/* Highest-priority deliverable vector, or -1. Honours TPR. */
	int (*peek)(void *ctx);
	/* Takes that vector (IRR -> ISR). -1 if it vanished. */
	int (*ack)(void *ctx);
	uint64_t (*get_tpr)(void *ctx); /* CR8 */
	void (*set_tpr)(void *ctx, uint64_t cr8);
	/* x2APIC MSRs 0x800..0x8ff and IA32_APIC_BASE, TSC_DEADLINE; -1: #GP */
	int (*rdmsr)(void *ctx, uint32_t msr, uint64_t *val);
	int (*wrmsr)(void *ctx, uint32_t msr, uint64_t val);
};

#define VCPU_PAGES 2
#define VCPU_SIZE  (VCPU_PAGES * PAGE_SIZE)

struct vcpu_arch {
	uint64_t rip;
	/* Whole in C code. In translated code the arithmetic flags (CF PF AF ZF
	 * SF OF DF) are in the host's and read as 0 here, and IF is in tc_if. */
	uint64_t rflags;
	uint8_t cpl;
	uint8_t halted;	      /* in HLT, waiting for an interrupt */
	uint8_t irq_shadow;   /* STI / MOV SS: no interrupt before the next
				 instruction has completed */
	uint8_t in_long_mode; /* EFER.LMA */
	struct segment seg[NR_SEGS], ldtr, tr;
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t dr[8];
	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, misc_enable, spec_ctrl, tsc_aux;
	uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
	uint64_t tsc_adjust;
	uint64_t mtrr_def, mtrr_fixed[11], mtrr_var[16];
	uint64_t apic_base;
	uint64_t kvm_system_time,
		kvm_wall_clock; /* kvmclock MSRs, as written */
};

struct bt_vcpu;
struct interp_vcpu;
struct mem_cache;
struct mem_log;

struct vcpu {
	union {
		struct {
			struct vcpu_arch; /* anonymous (-fms-extensions) */
			struct exception exc;
			enum vcpu_exit exit;
			int exit_code;
			char exit_reason[160];
			uint64_t exit_info[4];

			struct vm *vm;
			unsigned id;
			const struct vcpu_ops *ops;
			const struct irq_source_ops *irq;
			void *irq_ctx;
			void *fpu; /* XSAVE area, 64-byte aligned */
			uint32_t fpu_size;
			uint64_t host_xcr0;
			struct bt_vcpu *bt; /* engine's own */
			struct interp_vcpu *interp;
			struct mem_cache *mem_cache; /* mmu/mem.c's own */
			struct mem_log *mem_log;     /* lockstep: writes are
							buffered, not done */
			struct used_log *used_log;   /* lockstep */
			_Atomic uint32_t requests;   /* VCPU_REQ_* */
			uint64_t instructions;	     /* interpreted so far */
			uint64_t layout_seed; /* cpu/layout.h; 0: not now */
			/* Counted by translated code itself, if it was asked to
			 * (run --count): units, instructions, branches through
			 * the IBTC. */
			uint64_t executed[3];
			/* Stubs, as HOT_J_ ones are. */
			uint64_t bt_j_cpuid, bt_j_cr3;
			/* Where returns of CPL 0 and CPL 3 go on
			 * (bt/ibtc.c). */
			_Alignas(64) uint64_t bt_ret[2][256];
		};
		uint8_t pad_[VCPU_SIZE - 512 - 64];
	};
	/* The bt engine's hot words, near the end (see bt/layout.h). */
	uint64_t bt_hot[48];
	uint64_t gpr[16];
	uint64_t gap_[8]; /* bt/layout.h */
};
_Static_assert(sizeof(struct vcpu) == VCPU_SIZE, "vcpu has a fixed size");

#define VCPU_REQ_IRQ  1u /* an interrupt may have become deliverable */
#define VCPU_REQ_WORK 2u /* vm_post: work for the owner thread */
#define VCPU_REQ_EXIT 4u /* leave run(): v->exit was set by another thread */

/* A vcpu in the reset state (SDM vol. 3, table 9-1), its pages from a memfd so
 * that they can be mapped again; *memfd_out (may be NULL) is that file.
 * NULL: out of memory. */
struct vcpu *vcpu_create(struct vm *vm, unsigned id, int *memfd_out);
void vcpu_destroy(struct vcpu *v);
void vcpu_reset(struct vcpu *v);

/* Fill v->exc and return CPU_EXC. */
enum cpu_status vcpu_raise(struct vcpu *v, uint8_t vector);
enum cpu_status vcpu_raise_err(struct vcpu *v, uint8_t vector, uint32_t err);
enum cpu_status vcpu_raise_pf(struct vcpu *v, gva_t cr2, uint32_t err);
/* Stop the VM: our mistake, or something that is not built. CPU_EXIT. */
enum cpu_status vcpu_stop(struct vcpu *v, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Registers and bytes at rip, for people. */
void vcpu_dump(struct vcpu *v, int fd);

/* Any thread: OR the request bits in and make the engine come back. */
void vcpu_kick(struct vcpu *v, uint32_t req);

static inline bool vcpu_code64(const struct vcpu *v)
{
	return v->in_long_mode && (v->seg[SEG_CS].attr & SEG_ATTR_L);
}

/* CPUs whose names code uses often */
enum {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_XM = 19
};
#define PF_P	1u
#define PF_W	2u
#define PF_U	4u
#define PF_RSVD 8u
#define PF_I	16u
#endif
