/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_REASON_H
#define SARDINE_VMM_BT_REASON_H
/*
 * Why translated code was left for the monitor's C code, with how often and
 * at what price (frequency x cost). Every exit is counted; one in
 * REASON_SAMPLE of each kind is timed, with the TSC, from the handling of the
 * exit to the next entry. What a sample leaves out is the same for all: saving
 * and loading the vector state, and for faults the host kernel's part. (Hidden
 * faults are filled in the signal handler as a rule, and are all timed there.)
 *
 * Two lists: callouts, by what the instruction is, and faults, by what they
 * turned out to be.
 */
#include <Zydis/Zydis.h>
#include <stdint.h>

#include "mm/base/stats.h"

#define REASON_SAMPLE	16
#define REASON_TOO_LONG (1u << 22) /* another process ran meanwhile */

#define CALLOUT_REASONS(X)                                                     \
	X(other, "an instruction that the translator leaves out")              \
	X(undefined, "bytes that are no instruction")                          \
	X(io, "IN, OUT, INS and OUTS")                                         \
	X(cpuid, "CPUID")                                                      \
	X(rdmsr, "RDMSR")                                                      \
	X(wrmsr, "WRMSR")                                                      \
	X(mov_cr, "MOV to a control register (also CLTS, LMSW, SMSW)")         \
	X(mov_dr, "MOV to or from a debug register")                           \
	X(invlpg, "INVLPG and INVPCID")                                        \
	X(hlt, "HLT and MWAIT")                                                \
	X(cli_sti, "CLI and STI that were not translated")                     \
	X(popf, "POPF")                                                        \
	X(iret, "IRET")                                                        \
	X(int_n, "INT, INT3, INTO, UD")                                        \
	X(syscall, "SYSCALL and SYSENTER that took the slow path")             \
	X(sysret, "SYSRET and SYSEXIT that took the slow path")                \
	X(swapgs, "SWAPGS that was not translated")                            \
	X(base, "RDFSBASE, WRFSBASE and their kin")                            \
	X(segment, "loads of segment registers and descriptor tables")         \
	X(far, "far jumps, calls and returns")                                 \
	X(xsave, "XSAVE, XRSTOR, FXSAVE and their kin")                        \
	X(x87_env, "x87 state with addresses in it (FNSTENV and the like)")    \
	X(tsc, "RDTSC, RDTSCP, RDPMC and RDPID")                               \
	X(string, "string instructions with a segment or address prefix")      \
	X(stack, "PUSH, POP and LEAVE in unusual forms")                       \
	X(flow, "near jumps, calls and returns in unusual forms")
#define FAULT_REASONS(X)                                                       \
	X(hidden, "the window lacked the page: filled")                        \
	X(true, "the guest's page tables do not allow it: #PF")                \
	X(smc, "a write to a page that holds translated code")                 \
	X(mmio, "an access to a device's registers or to nothing")             \
	X(window, "no window there yet: made")                                 \
	X(elsewhere, "an address that only the interpreter can reach")         \
	X(exception, "another exception of the instruction: #DE, #MF, #XM")

enum callout_reason {
#define X(n, h) CALLOUT_##n,
	CALLOUT_REASONS(X)
#undef X
		N_CALLOUTS
};
enum fault_reason {
#define X(n, h) FAULT_##n,
	FAULT_REASONS(X)
#undef X
		N_FAULTS
};

struct reason {
	uint64_t count, timed, cycles;
};

struct reasons {
	struct reason callout[N_CALLOUTS], fault[N_FAULTS];
	struct reason *running; /* of the sample being taken, or NULL */
	uint64_t since;
	struct stat_group group[6];
};

struct vm;
void reasons_add_stats(struct reasons *r, struct vm *vm);
/* What kind of callout is it? */
enum callout_reason callout_of(const ZydisDecodedInstruction *i);

static inline void reason_count(struct reasons *r, struct reason *x)
{
	r->running = NULL;
	if (x->count++ % REASON_SAMPLE)
		return;
	r->running = x;
	r->since = __builtin_ia32_rdtsc();
}
static inline void reason_time(struct reason *x, uint64_t since)
{
	uint64_t cycles = __builtin_ia32_rdtsc() - since;

	if (cycles >= REASON_TOO_LONG)
		return;
	x->cycles += cycles;
	x->timed++;
}
/* One that began at TSC since and is over. */
static inline void reason_add(struct reason *x, uint64_t since)
{
	x->count++;
	reason_time(x, since);
}
/* Translated code is about to be entered. */
static inline void reason_end(struct reasons *r)
{
	if (!r->running)
		return;
	reason_time(r->running, r->since);
	r->running = NULL;
}
/* The sample is spoilt: the vCPU does something else in between. */
static inline void reason_drop(struct reasons *r)
{
	r->running = NULL;
}
#endif
