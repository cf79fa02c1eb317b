/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of the reasons why translated code is left (reason.h). */
#include "vmm/bt/reason.h"

#include "mm/types.h"
#include "vmm/vm.h"

static const struct stat_desc callout_count[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, callout[CALLOUT_##n].count)},
	CALLOUT_REASONS(X)
#undef X
};
static const struct stat_desc callout_timed[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, callout[CALLOUT_##n].timed)},
	CALLOUT_REASONS(X)
#undef X
};
static const struct stat_desc callout_cycles[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, callout[CALLOUT_##n].cycles)},
	CALLOUT_REASONS(X)
#undef X
};
static const struct stat_desc fault_count[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, fault[FAULT_##n].count)},
	FAULT_REASONS(X)
#undef X
};
static const struct stat_desc fault_timed[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, fault[FAULT_##n].timed)},
	FAULT_REASONS(X)
#undef X
};
static const struct stat_desc fault_cycles[] = {
#define X(n, h) {#n, h, offsetof(struct reasons, fault[FAULT_##n].cycles)},
	FAULT_REASONS(X)
#undef X
};

static const struct {
	const char *prefix;
	const struct stat_desc *desc;
	size_t n;
} groups[] = {
	{"callouts", callout_count, N_CALLOUTS},
	{"callouts_timed", callout_timed, N_CALLOUTS},
	{"callouts_cycles", callout_cycles, N_CALLOUTS},
	{"faults", fault_count, N_FAULTS},
	{"faults_timed", fault_timed, N_FAULTS},
	{"faults_cycles", fault_cycles, N_FAULTS},
};

void reasons_add_stats(struct reasons *r, struct vm *vm)
{
	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++) {
		r->group[i] = (struct stat_group){
			groups[i].prefix, groups[i].desc, groups[i].n, r, NULL};
		vm_add_stats(vm, &r->group[i]);
	}
}

struct rule {
	uint16_t what;
	uint8_t reason;
};

static const struct rule by_mnemonic[] = {
	{ZYDIS_MNEMONIC_INVALID, CALLOUT_undefined},
	{ZYDIS_MNEMONIC_CPUID, CALLOUT_cpuid},
	{ZYDIS_MNEMONIC_RDMSR, CALLOUT_rdmsr},
	{ZYDIS_MNEMONIC_WRMSR, CALLOUT_wrmsr},
	{ZYDIS_MNEMONIC_CLTS, CALLOUT_mov_cr},
	{ZYDIS_MNEMONIC_LMSW, CALLOUT_mov_cr},
	{ZYDIS_MNEMONIC_SMSW, CALLOUT_mov_cr},
	{ZYDIS_MNEMONIC_INVLPG, CALLOUT_invlpg},
	{ZYDIS_MNEMONIC_INVPCID, CALLOUT_invlpg},
	{ZYDIS_MNEMONIC_HLT, CALLOUT_hlt},
	{ZYDIS_MNEMONIC_MWAIT, CALLOUT_hlt},
	{ZYDIS_MNEMONIC_CLI, CALLOUT_cli_sti},
	{ZYDIS_MNEMONIC_STI, CALLOUT_cli_sti},
	{ZYDIS_MNEMONIC_POPF, CALLOUT_popf},
	{ZYDIS_MNEMONIC_POPFQ, CALLOUT_popf},
	{ZYDIS_MNEMONIC_IRET, CALLOUT_iret},
	{ZYDIS_MNEMONIC_IRETD, CALLOUT_iret},
	{ZYDIS_MNEMONIC_IRETQ, CALLOUT_iret},
	{ZYDIS_MNEMONIC_UD0, CALLOUT_int_n},
	{ZYDIS_MNEMONIC_UD1, CALLOUT_int_n},
	{ZYDIS_MNEMONIC_UD2, CALLOUT_int_n},
	{ZYDIS_MNEMONIC_SYSCALL, CALLOUT_syscall},
	{ZYDIS_MNEMONIC_SYSENTER, CALLOUT_syscall},
	{ZYDIS_MNEMONIC_SYSRET, CALLOUT_sysret},
	{ZYDIS_MNEMONIC_SYSEXIT, CALLOUT_sysret},
	{ZYDIS_MNEMONIC_SWAPGS, CALLOUT_swapgs},
	{ZYDIS_MNEMONIC_RDTSC, CALLOUT_tsc},
	{ZYDIS_MNEMONIC_RDTSCP, CALLOUT_tsc},
	{ZYDIS_MNEMONIC_RDPMC, CALLOUT_tsc},
	{ZYDIS_MNEMONIC_RDPID, CALLOUT_tsc},
	{ZYDIS_MNEMONIC_LGDT, CALLOUT_segment},
	{ZYDIS_MNEMONIC_LIDT, CALLOUT_segment},
	{ZYDIS_MNEMONIC_LLDT, CALLOUT_segment},
	{ZYDIS_MNEMONIC_LTR, CALLOUT_segment},
	{ZYDIS_MNEMONIC_FXSAVE, CALLOUT_xsave},
	{ZYDIS_MNEMONIC_FXSAVE64, CALLOUT_xsave},
	{ZYDIS_MNEMONIC_FXRSTOR, CALLOUT_xsave},
	{ZYDIS_MNEMONIC_FXRSTOR64, CALLOUT_xsave},
	{ZYDIS_MNEMONIC_FNSTENV, CALLOUT_x87_env},
	{ZYDIS_MNEMONIC_FNSAVE, CALLOUT_x87_env},
	{ZYDIS_MNEMONIC_FLDENV, CALLOUT_x87_env},
	{ZYDIS_MNEMONIC_FRSTOR, CALLOUT_x87_env},
	{ZYDIS_MNEMONIC_LEAVE, CALLOUT_stack},
};

static const struct rule by_category[] = {
	{ZYDIS_CATEGORY_IO, CALLOUT_io},
	{ZYDIS_CATEGORY_IOSTRINGOP, CALLOUT_io},
	{ZYDIS_CATEGORY_INTERRUPT, CALLOUT_int_n},
	{ZYDIS_CATEGORY_RDWRFSGS, CALLOUT_base},
	{ZYDIS_CATEGORY_SEGOP, CALLOUT_segment},
	{ZYDIS_CATEGORY_XSAVE, CALLOUT_xsave},
	{ZYDIS_CATEGORY_XSAVEOPT, CALLOUT_xsave},
	{ZYDIS_CATEGORY_STRINGOP, CALLOUT_string},
	{ZYDIS_CATEGORY_PUSH, CALLOUT_stack},
	{ZYDIS_CATEGORY_POP, CALLOUT_stack},
	{ZYDIS_CATEGORY_CALL, CALLOUT_flow},
	{ZYDIS_CATEGORY_RET, CALLOUT_flow},
	{ZYDIS_CATEGORY_COND_BR, CALLOUT_flow},
	{ZYDIS_CATEGORY_UNCOND_BR, CALLOUT_flow},
};

/* MOV 0F 20..23 go by opcode: the decoder's operands are not at hand. */
static enum callout_reason callout_of_mov(const ZydisDecodedInstruction *i)
{
	if (i->opcode_map == ZYDIS_OPCODE_MAP_0F)
		return i->opcode & 1 ? CALLOUT_mov_dr : CALLOUT_mov_cr;
	return i->opcode == 0x8e ? CALLOUT_segment : CALLOUT_other;
}

enum callout_reason callout_of(const ZydisDecodedInstruction *i)
{
	if (i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR &&
	    i->meta.category != ZYDIS_CATEGORY_INTERRUPT)
		return i->mnemonic == ZYDIS_MNEMONIC_IRET ||
				       i->mnemonic == ZYDIS_MNEMONIC_IRETD ||
				       i->mnemonic == ZYDIS_MNEMONIC_IRETQ
			       ? CALLOUT_iret
			       : CALLOUT_far;
	if (i->mnemonic == ZYDIS_MNEMONIC_MOV)
		return callout_of_mov(i);
	for (unsigned k = 0; k < ARRAY_SIZE(by_mnemonic); k++)
		if (by_mnemonic[k].what == i->mnemonic)
			return by_mnemonic[k].reason;
	for (unsigned k = 0; k < ARRAY_SIZE(by_category); k++)
		if (by_category[k].what == i->meta.category)
			return by_category[k].reason;
	return CALLOUT_other;
}
