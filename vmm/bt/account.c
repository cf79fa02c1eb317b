/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine's loop counts: translations over time, callouts and faults by
 * reason. Nothing in here is on a path that translated code takes.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/mem.h"
#include "vmm/vm.h"

/* A translation that took longer was interrupted by the host. */
#define TOO_LONG (1u << 20)

#define EXECUTED(X)                                                            \
	X(0, units, "units executed")                                          \
	X(1, insns, "instructions in them, whether or not they came so far")   \
	X(2, ibtc, "branches through the indirect-branch table")
static const struct stat_desc executed_desc[] = {
#define X(i, n, h) {#n, h, offsetof(struct vcpu, executed[i])},
	EXECUTED(X)
#undef X
};

void account_init(struct bt *bt)
{
	reasons_add_stats(&bt->reasons, bt->vm);
	phases_init(&bt->phases, bt->vm);
	if (!bt->count)
		return;
	bt->executed_group =
		(struct stat_group){"executed", executed_desc,
				    ARRAY_SIZE(executed_desc), bt->v, NULL};
	vm_add_stats(bt->vm, &bt->executed_group);
}

void account_translation(struct bt *bt, const struct ccf *c, uint64_t start)
{
	uint64_t now = __builtin_ia32_rdtsc();
	struct phase unit = {.units = 1,
			     .guest_bytes = c->guest_len,
			     .guest_insns = c->n_insn,
			     .host_bytes = c->host_len};

	if (now - start < TOO_LONG) {
		unit.cycles = now - start;
		unit.timed_insns = c->n_insn;
	}
	bt->stats.translate_cycles += unit.cycles;
	bt->stats.translate_timed += unit.timed_insns;
	phases_add(&bt->phases, now, &unit);
}

static enum callout_reason decode_reason(struct bt *bt)
{
	struct vcpu *v = bt->v;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[15];
	unsigned got;

	if (mem_fetch(v, v->rip, bytes, &got) != CPU_OK) {
		v->exc.pending = false;
		return CALLOUT_other;
	}
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&bt->dec, bytes, got, &i, op)))
		return CALLOUT_undefined;
	return callout_of(&i);
}

/* A CCF calls out at one place, as a rule: decoded the first time only. */
void account_callout(struct bt *bt)
{
	struct ccf *c = &bt->ccf[bt->recovered];
	uint16_t at = bt->v->rip - c->rip;

	if (!c->callout || c->callout_at != at) {
		c->callout = decode_reason(bt) + 1;
		c->callout_at = at;
	}
	reason_count(&bt->reasons, &bt->reasons.callout[c->callout - 1]);
}

static enum fault_reason fault_of(const struct bt *bt)
{
	switch (bt->last_fill) {
	case SHADOW_FAULT:
	case SHADOW_PF:
		return FAULT_true;
	case SHADOW_CODE:
		return FAULT_smc;
	case SHADOW_MMIO:
		return FAULT_mmio;
	default:
		return bt->fault_is_access ? FAULT_elsewhere : FAULT_exception;
	}
}

void account_fault(struct bt *bt)
{
	reason_count(&bt->reasons, &bt->reasons.fault[fault_of(bt)]);
}
