/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a unit knows of its registers' values, so that one slot lookup serves
 * several accesses.
 *
 * near: registers whose value is close to the address whose slot's delta is
 * in r10 or, while nothing else needs that, in r11: that address itself, copies of
 * it, and what small constants were added to. (Two of them, for code that goes
 * from one object to another and back.) slot: the slot of constant addresses whose
 * delta is in r10. small: registers that are no larger than 2^32 either way (results
 * of 32-bit operations, sign extensions), as indexes into arrays are.
 *
 * A window has 512 GiB of nothing on each side, and
 *
 *	near: 1 GiB of drift + index: 8 * 4 GiB + displacement: 2 GiB
 *
 * does not cross it: an access that leaves the slot of its base faults, and
 * is then done slowly. So a fact must be *true*, or a guest reaches memory
 * that is not its own: what is not listed here makes a register unknown. Facts
 * begin anew with each unit, which is entered at its start alone.
 */
#include "vmm/bt/translate_priv.h"
#include "vmm/x86/regs.h"

#define STEP_MAX  0x100000
#define DRIFT_MAX 0x40000000

void delta_lost(struct tr *t)
{
	t->near[NEAR_S1] = (struct near){0, 0};
	t->slot = -1;
}

void s0_kept(struct tr *t)
{
	t->near[NEAR_S0] = t->was;
}

void delta_wrote(struct tr *t, uint32_t regs)
{
	t->near[NEAR_S1].regs &= ~regs;
	t->near[NEAR_S0].regs &= ~regs;
	t->small &= ~regs;
}

/* By how much at most does it move op[0], a 64-bit register? 0: unknown. */
static int64_t step_of(const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];
	int64_t by = 0;

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
		return 1;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			by = o->imm.s < 0 ? -o->imm.s : o->imm.s;
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (o->mem.index != ZYDIS_REGISTER_NONE ||
		    o->mem.base == ZYDIS_REGISTER_NONE)
			return 0;
		by = o->mem.disp < 0 ? -o->mem.disp : o->mem.disp;
		if (!by)
			by = 1; /* lea r, [r] */
		break;
	default:
		break;
	}
	return by > 0 && by <= STEP_MAX ? by : 0;
}

/* The register that op[0] is a copy of, but for step_of; or -1. */
static int copy_of(const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		return reg_id(in->op[0].reg);
	case ZYDIS_MNEMONIC_LEA:
		return in->i.address_width == 64 &&
				       ZydisRegisterGetClass(o->mem.base) ==
					       ZYDIS_REGCLASS_GPR64
			       ? (int)ZydisRegisterGetId(o->mem.base)
			       : -1;
	case ZYDIS_MNEMONIC_MOV:
		return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
				       ZydisRegisterGetClass(o->reg) ==
					       ZYDIS_REGCLASS_GPR64
			       ? (int)ZydisRegisterGetId(o->reg)
			       : -1;
	default:
		return -1;
	}
}

/* MOV of a constant that is more likely an address than an index: true to call
 * it small, but then the other register would be taken for the base, and each
 * access would fault beside the wrong slot. */
static bool loads_address(const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];

	return in->i.mnemonic == ZYDIS_MNEMONIC_MOV &&
	       o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	       (o->imm.s >= FAR || o->imm.s <= -FAR);
}

/* A 32-bit write that zero-extends, whatever happens. */
static bool surely_writes32(const struct tu_insn *in, const struct gop *o)
{
	if ((o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) || loads_address(in))
		return false;
	switch (in->i.category) {
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL:
	case ZYDIS_CATEGORY_DATAXFER:
		return true;
	case ZYDIS_CATEGORY_SHIFT:
		return in->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	default:
		return in->i.mnemonic == ZYDIS_MNEMONIC_LEA;
	}
}

/* Is the 64-bit result in op[0] small? */
static bool small64(const struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		return o->size <= 32;
	case ZYDIS_MNEMONIC_MOV:
		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return fits32(o->imm.s) && !loads_address(in);
		return copy_of(in) >= 0 && (t->small >> copy_of(in) & 1);
	case ZYDIS_MNEMONIC_AND:
		return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		       o->imm.s >= 0 && fits32(o->imm.s);
	case ZYDIS_MNEMONIC_SHR:
		return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		       (o->imm.u & 63) >= 32;
	default:
		return false;
	}
}

/* Register `to` has been set to what is in `from`, but for step_of; and of those
 * that were near before, what is in `lost` has been written. */
static void near_after(struct near *n, const struct tu_insn *in, uint32_t lost,
		       int to, int from)
{
	bool is = to >= 0 && (n->regs >> from & 1);

	n->regs &= ~lost;
	if (!is)
		return;
	if (in->i.mnemonic != ZYDIS_MNEMONIC_MOV) {
		if (!step_of(in) || n->drift > DRIFT_MAX)
			return;
		n->drift += step_of(in);
	}
	n->regs |= 1u << to;
}

static void plain_facts(struct tr *t, const struct tu_insn *in)
{
	uint32_t lost = 0, small = t->small;
	int to = -1, from = -1;

	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];
		int g;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		g = reg_id(o->reg);
		if (g < 0)
			continue;
		lost |= 1u << g;
		if (o->size < 32)
			continue; /* what is small stays small */
		small &= ~(1u << g);
		if (o->size == 32) {
			if (surely_writes32(in, o))
				small |= 1u << g;
			continue;
		}
		if (k || o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			continue;
		if (small64(t, in))
			small |= 1u << g;
		from = copy_of(in);
		if (from >= 0)
			to = g;
	}
	for (unsigned i = 0; i < 2; i++)
		near_after(&t->near[i], in, lost, to, from);
	t->small = small;
}

void facts_after(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];

	switch (in->kind) {
	case K_NOP:
	case K_JCC:
	case K_PUSH:
	case K_CLI:
	case K_STI:
		break;
	case K_POP:
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			delta_wrote(t, 1u << reg_id(o->reg));
		break;
	case K_PLAIN:
		plain_facts(t, in);
		break;
	default:
		t->small = 0;
		delta_lost(t);
		t->near[NEAR_S0] = (struct near){0, 0};
	}
}
