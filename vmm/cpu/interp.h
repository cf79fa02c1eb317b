/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_INTERP_H
#define SARDINE_VMM_CPU_INTERP_H
/*
 * The interpreter: the oracle, and the slow path of bt. Real, 16-, 32- and
 * 64-bit code.
 */
#include "vmm/cpu/vcpu.h"
#include "vmm/engine.h"

/*
 * Execute one instruction at cs:rip, including the delivery of the exception
 * it raises (then rip is the handler's). REP string instructions may return
 * part way, with rip unchanged and the registers advanced, as at an interrupt.
 * Clears irq_shadow left by an earlier instruction. CPU_OK, or CPU_EXIT with
 * v->exit set (HLT sets v->halted and answers CPU_OK). Never CPU_EXC.
 * External interrupts are the caller's business.
 */
enum cpu_status interp_step(struct vcpu *v);

/* The same, but an exception is left in v->exc and CPU_EXC answered (bt and
 * lockstep use it). */
enum cpu_status interp_step_raw(struct vcpu *v);

int interp_vcpu_init(struct vcpu *v); /* 0 or -errno; sets v->interp */
void interp_vcpu_fini(struct vcpu *v);
/* Give the decoded instructions' memory back; not inside interp_step. */
void interp_trim(struct vcpu *v);

extern const struct engine_ops engine_interp;
#endif
