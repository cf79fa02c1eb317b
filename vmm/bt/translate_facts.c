/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a unit knows of its registers' values, so that one slot lookup serves
 * several accesses.
 *
 * near: registers whose value is close to the address whose slot's delta is
 * in r10 or, while nothing else needs that, in r11: that address itself, copies of
 * it, and what small constants were added to. (Two of them, for code that goes
 * from one object to another and back.) slot: the slot of constant addresses whose
 * delta is in r10. width: registers whose value is no larger than 2 to that either
 * way, as indexes into arrays are: results of 32-bit operations, sign extensions, and
 * what is made of these by shifts, sums and products with constants. Small steps do
 * not count: a unit makes less than 2^26 of them, or a 64th of what is so known.
 *
 * A window has 512 GiB (2^39) of nothing on each side, and
 *
 *	near: 1 GiB of drift + index: 2^WIDTH_MAX + displacement: 2 GiB
 *
 * is less than half of that: an access that leaves the slot of its base faults, and
 * is then done slowly. So a fact must be *true*, or a guest reaches memory
 * that is not its own: what is not listed here makes a register unknown. Facts
 * begin anew with each unit, which is entered at its start alone.
 */
#include <string.h>

#include "vmm/bt/translate_priv.h"
#include "vmm/x86/regs.h"

#define WIDTH_MIN 32
#define WIDTH_MAX 37
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
	for (unsigned g = 0; g < 16; g++)
		if (regs >> g & 1)
			t->width[g] = 0;
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

/* Of an operand's 64-bit value. */
static unsigned width_of(const struct tr *t, const struct gop *o)
{
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return o->size == 64 && reg_id(o->reg) >= 0
			       ? t->width[reg_id(o->reg)]
			       : 0;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return fits32(o->imm.s) ? WIDTH_MIN : 0;
	default:
		return 0;
	}
}

/* Of what is no wider than either of two values, both of which must be known. */
static unsigned wider(unsigned a, unsigned b)
{
	return !a || !b ? 0 : a > b ? a : b;
}

/* Of two values' sum. */
static unsigned width_sum(unsigned a, unsigned b)
{
	return a && b ? wider(a, b) + 1 : 0;
}

static unsigned width_lea(const struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];
	unsigned w = fits32(o->mem.disp) ? WIDTH_MIN : 0, x;

	if (in->i.address_width != 64)
		return 0;
	if (o->mem.base != ZYDIS_REGISTER_NONE) {
		if (o->mem.base == ZYDIS_REGISTER_RIP)
			return 0;
		x = t->width[reg_id(o->mem.base)];
		w = o->mem.disp ? width_sum(w, x) : x;
	}
	if (o->mem.index != ZYDIS_REGISTER_NONE) {
		x = t->width[reg_id(o->mem.index)];
		w = width_sum(w, x ? x + scale_shift(o) : 0);
	}
	return w;
}

static unsigned width_shift(unsigned w, const struct tu_insn *in)
{
	const struct gop *by = &in->op[1];
	unsigned n = by->imm.u & 63;

	if (by->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return 0;
	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
		return w ? w + n : 0;
	case ZYDIS_MNEMONIC_SAR:
		return w && w < 64 - n ? w : 64 - n;
	default: /* SHR: a negative number becomes a large one */
		return n ? 64 - n : w;
	}
}

/* Of the 64-bit result in op[0]. */
static unsigned width64(const struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[1];
	unsigned a = width_of(t, &in->op[0]), b = width_of(t, o), n;
	int from;

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		return o->size <= 32 ? WIDTH_MIN : 0;
	case ZYDIS_MNEMONIC_MOV:
		return loads_address(in) ? 0 : b;
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_POPCNT:
		return WIDTH_MIN;
	case ZYDIS_MNEMONIC_AND:
		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.s >= 0)
			return b;
		/* fall through */
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		/* What did not count may be a bit more. */
		return width_sum(a, b);
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		return step_of(in) ? a : width_sum(a, b);
	case ZYDIS_MNEMONIC_NEG:
		return a;
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
		return width_shift(a, in);
	case ZYDIS_MNEMONIC_IMUL:
		if (!b || in->op[2].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		    in->op[2].imm.s <= 0)
			return 0;
		for (n = 0; in->op[2].imm.s >> n; n++)
			;
		return b + n;
	case ZYDIS_MNEMONIC_LEA:
		from = copy_of(in);
		return from >= 0 && step_of(in) ? t->width[from]
						: width_lea(t, in);
	default:
		return in->i.category == ZYDIS_CATEGORY_CMOV ? wider(a, b) : 0;
	}
}

static void set_width(uint8_t *width, int g, unsigned w)
{
	width[g] = w > WIDTH_MAX ? 0 : w && w < WIDTH_MIN ? WIDTH_MIN : w;
}

bool is_index(const struct tr *t, int g, unsigned ss)
{
	return t->width[g] && t->width[g] + ss <= WIDTH_MAX;
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
	uint8_t width[16];
	uint32_t lost = 0;
	int to = -1, from = -1;

	memcpy(width, t->width, sizeof(width));

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
			continue; /* the upper half is as it was */
		if (o->size == 32) {
			set_width(width, g,
				  surely_writes32(in, o) ? WIDTH_MIN : 0);
			continue;
		}
		/* CDQE's is no explicit one. */
		width[g] =
			in->i.mnemonic == ZYDIS_MNEMONIC_CDQE ? WIDTH_MIN : 0;
		if (k || o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			continue;
		set_width(width, g, width64(t, in));
		from = copy_of(in);
		if (from >= 0)
			to = g;
	}
	for (unsigned i = 0; i < 2; i++)
		near_after(&t->near[i], in, lost, to, from);
	memcpy(t->width, width, sizeof(width));
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
		memset(t->width, 0, sizeof(t->width));
		delta_lost(t);
		t->near[NEAR_S0] = (struct near){0, 0};
	}
}
