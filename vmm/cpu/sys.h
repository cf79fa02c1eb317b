/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_SYS_H
#define SARDINE_VMM_CPU_SYS_H
/*
 * System semantics, written once for every engine. Each function does one
 * architectural operation on the vcpu, validates first and commits in a part
 * that cannot fail. rip: unless a function's comment says that it sets rip,
 * the caller advances it after CPU_OK. All on the vCPU's thread.
 */
#include "vmm/cpu/vcpu.h"

/* ---- events (event.c; SDM vol. 3, ch. 6) ---- */
/* Deliver v->exc (pending) or an external interrupt through the IDT (or the
 * real-mode IVT). Handles contributory faults, #DF, and triple fault
 * (CPU_EXIT with EXIT_SHUTDOWN). Sets rip, cs, ss, rsp, rflags, cpl. */
enum cpu_status cpu_deliver_exception(struct vcpu *v);
enum cpu_status cpu_deliver_interrupt(struct vcpu *v, uint8_t vector);
/* INT n / INT3 / INTO / INT1: rip is that of the instruction, next the one
 * after. Sets rip. */
enum cpu_status cpu_soft_interrupt(struct vcpu *v, uint8_t vector, gva_t next);
/* IRET of operand size 2, 4, 8. Sets rip. */
enum cpu_status cpu_iret(struct vcpu *v, unsigned opsize);
/* True when an interrupt could be taken now (IF, no shadow). */
bool cpu_can_take_irq(const struct vcpu *v);

/* ---- fast system calls (syscall.c) ---- rip: next = after the insn */
enum cpu_status cpu_syscall(struct vcpu *v, gva_t next);
enum cpu_status cpu_sysret(struct vcpu *v, unsigned opsize);
enum cpu_status cpu_sysenter(struct vcpu *v, gva_t next);
enum cpu_status cpu_sysexit(struct vcpu *v, unsigned opsize);
enum cpu_status cpu_swapgs(struct vcpu *v);

/* ---- segmentation (seg.c; vol. 3, ch. 3, 5) ---- */
/* Linear address of seg:off for an access of len bytes; checks limits and
 * rights outside 64-bit mode, canonical form inside it (#GP/#SS). */
enum cpu_status seg_linear(struct vcpu *v, enum seg_reg s, uint64_t off,
			   unsigned len, unsigned mem_access, gva_t *out);
/* MOV/POP to Sreg, LDS and friends. CS is #UD. SS sets irq_shadow. */
enum cpu_status cpu_load_seg(struct vcpu *v, enum seg_reg s, uint16_t sel);
enum cpu_status cpu_lldt(struct vcpu *v, uint16_t sel);
enum cpu_status cpu_ltr(struct vcpu *v, uint16_t sel);
enum cpu_status cpu_lgdt(struct vcpu *v, bool idt, uint16_t limit,
			 uint64_t base);
/* Far transfers; set rip. opsize 2, 4, 8. */
enum cpu_status cpu_far_jmp(struct vcpu *v, uint16_t sel, uint64_t off,
			    unsigned opsize);
enum cpu_status cpu_far_call(struct vcpu *v, uint16_t sel, uint64_t off,
			     unsigned opsize, gva_t next);
enum cpu_status cpu_far_ret(struct vcpu *v, unsigned opsize, uint16_t pop);
/* LAR, LSL, VERR, VERW: *ok is ZF. */
void cpu_lar(struct vcpu *v, uint16_t sel, uint32_t *val, bool *ok);
void cpu_lsl(struct vcpu *v, uint16_t sel, uint32_t *val, bool *ok);
void cpu_verr(struct vcpu *v, uint16_t sel, bool write, bool *ok);
/* SGDT, SIDT, SLDT, STR, SMSW: #GP under UMIP at CPL > 0. */
enum cpu_status cpu_umip_check(struct vcpu *v);

/* ---- control registers (ctl.c) ---- */
enum cpu_status cpu_read_cr(struct vcpu *v, unsigned cr, uint64_t *val);
enum cpu_status cpu_write_cr(struct vcpu *v, unsigned cr, uint64_t val);
enum cpu_status cpu_read_dr(struct vcpu *v, unsigned dr, uint64_t *val);
enum cpu_status cpu_write_dr(struct vcpu *v, unsigned dr, uint64_t val);
enum cpu_status cpu_clts(struct vcpu *v);
enum cpu_status cpu_lmsw(struct vcpu *v, uint16_t val);
enum cpu_status cpu_invlpg(struct vcpu *v, gva_t a);
enum cpu_status cpu_invpcid(struct vcpu *v, uint64_t type,
			    const uint64_t desc[2]);
enum cpu_status cpu_xsetbv(struct vcpu *v, uint32_t idx, uint64_t val);
enum cpu_status cpu_xgetbv(struct vcpu *v, uint32_t idx, uint64_t *val);
enum cpu_status cpu_hlt(struct vcpu *v); /* CPL check; sets v->halted */
/* POPF semantics for a value of opsize 2, 4, 8 at the present CPL. Takes care
 * of IOPL, IF, VM, RF; arithmetic flags included. #GP never in 64-bit mode. */
enum cpu_status cpu_write_flags(struct vcpu *v, uint64_t val, unsigned opsize);
enum cpu_status cpu_cli(struct vcpu *v);
enum cpu_status cpu_sti(struct vcpu *v); /* sets irq_shadow if IF was 0 */

/* ---- MSRs and CPUID (msr.c, cpuid.c) ---- */
enum cpu_status cpu_rdmsr(struct vcpu *v, uint32_t msr, uint64_t *val);
enum cpu_status cpu_wrmsr(struct vcpu *v, uint32_t msr, uint64_t val);
struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};
void cpu_cpuid(struct vcpu *v, uint32_t leaf, uint32_t sub,
	       struct cpuid_regs *r);
/* The subleaf as far as this leaf's answer depends on it. */
static inline uint32_t cpu_cpuid_sub(uint32_t leaf, uint32_t sub)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd ? sub : 0;
}
/* In 64-bit code, does the answer depend on nothing that changes but XCR0? (Leaf 1
 * shows OSXSAVE, and whether the APIC is on.) */
static inline bool cpu_cpuid_keeps(uint32_t leaf)
{
	return leaf != 1;
}
/* Is the feature in the guest's CPUID? What the translator and the
 * interpreter ask before they let an instruction through (#UD if not). */
enum cpu_feature {
	FEAT_SSE3,
	FEAT_SSSE3,
	FEAT_SSE41,
	FEAT_SSE42,
	FEAT_AVX,
	FEAT_AVX2,
	FEAT_BMI1,
	FEAT_BMI2,
	FEAT_FMA,
	FEAT_F16C,
	FEAT_AES,
	FEAT_PCLMUL,
	FEAT_SHA,
	FEAT_ADX,
	FEAT_POPCNT,
	FEAT_LZCNT,
	FEAT_MOVBE,
	FEAT_RDRAND,
	FEAT_RDSEED,
	FEAT_RDTSCP,
	FEAT_RDPID,
	FEAT_FSGSBASE,
	FEAT_INVPCID,
	FEAT_XSAVE,
	FEAT_XSAVEC,
	FEAT_XSAVEOPT,
	FEAT_CLFLUSHOPT,
	FEAT_CLWB,
	FEAT_CX16,
	FEAT_SMAP,
	FEAT_GFNI,
	FEAT_VAES,
	FEAT_VPCLMUL,
	FEAT_AVX512, /* F, DQ, CD, BW and VL: all of them or none */
	FEAT_IFMA,
	FEAT_VBMI,
	FEAT_VBMI2,
	FEAT_VNNI,
	FEAT_BITALG,
	FEAT_VPOPCNTDQ,
	FEAT_MONITOR,
	FEAT_PREFETCHW,
	FEAT_NR
};
bool cpu_has(const struct vcpu *v, enum cpu_feature f);
/* Guest TSC frequency in kHz (the host's), told by CPUID 15h, 16h and the
 * KVM leaves. */
uint32_t cpu_tsc_khz(void);
/* The core crystal of CPUID 15h in Hz: what Linux takes for the input clock
 * of the local APIC's timer. */
uint32_t cpu_crystal_hz(void);
/* The guest's TSC now. */
uint64_t cpu_guest_tsc(const struct vcpu *v);
/* The crystal told by CPUID 15h (ECX); the local APIC's timer counts it.
 * With EAX = crystal / 1000 and EBX = TSC kHz the TSC comes out exact. */
uint32_t cpu_crystal_hz(void);

/* ---- port I/O (io.c) ---- rights: CPL <= IOPL or the TSS bitmap */
enum cpu_status cpu_io_check(struct vcpu *v, uint16_t port, unsigned len);
enum cpu_status cpu_in(struct vcpu *v, uint16_t port, unsigned len,
		       uint32_t *val);
enum cpu_status cpu_out(struct vcpu *v, uint16_t port, unsigned len,
			uint32_t val);
#endif
