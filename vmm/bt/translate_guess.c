/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which slot an operand is likely to be in.
 *
 * The problem: a look-up of the delta puts 6 cycles between an address and the
 * access, and code that follows pointers is made of those. With the slot
 * guessed the delta is a constant of the unit, and the check of the guess
 * (translate_mem.c) is beside the address's way to the access.
 *
 * A unit is translated when it is about to run, so the guest's registers are at
 * hand: the unit's instructions are followed, simple ones by what they do to
 * known values, loads by what the guest's memory holds now. What is computed
 * here are hints. Each guess is checked when it is used; a wrong one costs a
 * host fault, upon which the site is marked (bt->poly, by a hash of where its
 * bytes are) and its units are dropped, to be made anew without that guess.
 *
 * A guess costs an instruction and ten bytes more than a look-up. It is made
 * where an access is likely to wait for its address: the address comes from a
 * load in this unit (t->fresh), or the unit has just begun; and where r10 has
 * the slot's delta anyway. Of an address in r11 the check takes two more, so
 * there only the first counts.
 */
#include "vmm/bt/translate_priv.h"
#include "vmm/mmu/walk.h"

/* So many instructions at the unit's beginning may well wait for what came
 * before it. */
#define EARLY 3

static unsigned poly_bit(uint32_t ppn, unsigned off)
{
	return (ppn << 12 | off) * 0x9e3779b1u >> (32 - POLY_BITS);
}

void guess_was_wrong(struct bt *bt, uint32_t ppn, unsigned off)
{
	unsigned b = poly_bit(ppn, off);

	bt->poly[b / 8] |= 1 << b % 8;
	bt->stats.guesses_wrong++;
	tc_drop_page(bt, ppn, off, 1);
}

static bool is_user(const struct tr *t)
{
	return t->bt->mode & MODE_USER;
}

/* A register that a load writes, or -1. */
static int loaded(const struct tu_insn *in)
{
	if (in->kind == K_POP && in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return reg_id(in->op[0].reg.value);
	if (in->kind != K_PLAIN || in->i.mnemonic != ZYDIS_MNEMONIC_MOV ||
	    in->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    in->op[1].type != ZYDIS_OPERAND_TYPE_MEMORY || in->op[0].size != 64)
		return -1;
	return reg_id(in->op[0].reg.value);
}

/* Registers that the end of the unit hands to its beginning. */
static uint32_t loop_fresh(const struct tu *tu)
{
	const struct tu_insn *last = &tu->insn[tu->n - 1];
	uint32_t fresh = 0;

	if ((last->kind != K_JCC && last->kind != K_JMP) ||
	    tu->next + last->op[0].imm.value.s != tu->rip)
		return 0;
	for (unsigned k = 0; k < tu->n; k++)
		if (loaded(&tu->insn[k]) >= 0)
			fresh |= 1u << loaded(&tu->insn[k]);
	return fresh;
}

void guess_begin(struct tr *t)
{
	struct vcpu *v = t->bt->v;

	t->fresh = loop_fresh(t->tu);
	t->known = 0xffff;
	for (int i = 0; i < 16; i++)
		t->val[i] = v->gpr[i];
	t->bt->n_guess = 0;
}

/* A register's value, as wide as it was named. */
static bool reg_val(const struct tr *t, ZydisRegister r, uint64_t *v)
{
	int g = reg_id(r);

	if (g < 0 || is_high_byte(r) || !(t->known >> g & 1))
		return false;
	*v = t->val[g];
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR64:
		return true;
	case ZYDIS_REGCLASS_GPR32:
		*v = (uint32_t)*v;
		return true;
	case ZYDIS_REGCLASS_GPR16:
		*v = (uint16_t)*v;
		return true;
	default:
		*v = (uint8_t)*v;
		return true;
	}
}

static bool ea_val(const struct tr *t, const struct tu_insn *in,
		   const ZydisDecodedOperand *o, uint64_t *a)
{
	uint64_t v;

	*a = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		*a += in->rip + in->i.length;
	} else if (o->mem.base != ZYDIS_REGISTER_NONE) {
		if (!reg_val(t, o->mem.base, &v))
			return false;
		*a += v;
	}
	if (o->mem.index != ZYDIS_REGISTER_NONE) {
		if (!reg_val(t, o->mem.index, &v))
			return false;
		*a += v * o->mem.scale;
	}
	return true;
}

/* What the guest would load there now; or something that is near where that is,
 * as pointers often lead to what is like what holds them. */
static bool mem_val(const struct tr *t, const struct tu_insn *in,
		    const ZydisDecodedOperand *o, uint64_t *v)
{
	uint64_t a;

	if (o->mem.segment == ZYDIS_REGISTER_FS ||
	    o->mem.segment == ZYDIS_REGISTER_GS || !ea_val(t, in, o, &a) ||
	    (o->size != 64 && o->size != 32))
		return false;
	if (!shadow_peek(t->bt->sh, a, is_user(t), o->size / 8, v)) {
		if (o->size == 32)
			return false;
		*v = a;
	}
	return true;
}

static bool operand_val(const struct tr *t, const struct tu_insn *in,
			const ZydisDecodedOperand *o, uint64_t *v)
{
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return reg_val(t, o->reg.value, v);
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		*v = o->imm.value.u;
		return true;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return mem_val(t, in, o, v);
	default:
		return false;
	}
}

/* The result in op[0], a register of 32 or 64 bits. */
static bool result_val(const struct tr *t, const struct tu_insn *in,
		       uint64_t *v)
{
	uint64_t a, b;

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
		return operand_val(t, in, &in->op[1], v);
	case ZYDIS_MNEMONIC_MOVSXD:
		if (!operand_val(t, in, &in->op[1], v))
			return false;
		*v = (int32_t)*v;
		return true;
	case ZYDIS_MNEMONIC_LEA:
		return ea_val(t, in, &in->op[1], v);
	case ZYDIS_MNEMONIC_XOR:
		*v = 0;
		return in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       in->op[1].reg.value == in->op[0].reg.value;
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
		if (!operand_val(t, in, &in->op[0], &a))
			return false;
		*v = in->i.mnemonic == ZYDIS_MNEMONIC_INC ? a + 1 : a - 1;
		return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
		if (!operand_val(t, in, &in->op[0], &a) ||
		    !operand_val(t, in, &in->op[1], &b))
			return false;
		*v = in->i.mnemonic == ZYDIS_MNEMONIC_ADD   ? a + b
		     : in->i.mnemonic == ZYDIS_MNEMONIC_SUB ? a - b
		     : in->i.mnemonic == ZYDIS_MNEMONIC_AND ? (a & b)
		     : in->i.mnemonic == ZYDIS_MNEMONIC_SHL ? a << (b & 63)
							    : a >> (b & 63);
		return true;
	default:
		return false;
	}
}

/* Does a memory operand's address come from a load? */
static bool is_fresh(const struct tr *t, const ZydisDecodedOperand *o)
{
	return (o->mem.base != ZYDIS_REGISTER_NONE &&
		o->mem.base != ZYDIS_REGISTER_RIP &&
		(t->fresh >> reg_id(o->mem.base) & 1)) ||
	       (o->mem.index != ZYDIS_REGISTER_NONE &&
		(t->fresh >> reg_id(o->mem.index) & 1));
}

static void note_fresh(struct tr *t, const struct tu_insn *in, uint32_t written)
{
	bool f = false;

	for (unsigned k = 0; k < in->i.operand_count && !f; k++) {
		const ZydisDecodedOperand *o = &in->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			f = in->i.mnemonic != ZYDIS_MNEMONIC_LEA ||
			    is_fresh(t, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 reg_id(o->reg.value) >= 0 &&
			 (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
			f = t->fresh >> reg_id(o->reg.value) & 1;
	}
	t->fresh &= ~written;
	if (f)
		t->fresh |= written;
}

static void plain_after(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	uint32_t written = 0;
	uint64_t v = 0;
	bool ok;

	for (unsigned k = 0; k < in->i.operand_count; k++)
		if (in->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (in->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    reg_id(in->op[k].reg.value) >= 0)
			written |= 1u << reg_id(in->op[k].reg.value);
	if (!written)
		return;
	note_fresh(t, in, written);
	ok = o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	     (o->size == 64 || o->size == 32) &&
	     written == 1u << reg_id(o->reg.value) && result_val(t, in, &v);
	t->known &= ~written;
	if (!ok)
		return;
	t->known |= written;
	t->val[reg_id(o->reg.value)] = o->size == 32 ? (uint32_t)v : v;
}

void guess_after(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	int g;

	switch (in->kind) {
	case K_NOP:
	case K_JCC:
	case K_CLI:
	case K_STI:
		break;
	case K_PLAIN:
		plain_after(t, in);
		break;
	case K_PUSH:
		t->val[R_RSP] -= 8;
		break;
	case K_POP:
		t->val[R_RSP] += 8;
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			break;
		g = reg_id(o->reg.value);
		t->fresh |= 1u << g;
		t->known &= ~(1u << g);
		if ((t->known >> R_RSP & 1) &&
		    shadow_peek(t->bt->sh, t->val[R_RSP] - 8, is_user(t), 8,
				&t->val[g]))
			t->known |= 1u << g;
		break;
	default:
		t->known = 0;
	}
}

int32_t guess_slot(struct tr *t, const struct tu_insn *in,
		   const ZydisDecodedOperand *o, int base)
{
	unsigned b = poly_bit(t->c->ppn, in->rip & (PAGE_SIZE - 1));
	uint64_t a;

	if (t->bt->poly[b / 8] >> b % 8 & 1)
		return NO_SLOT;
	if (base >= 0) {
		if (!(t->known >> base & 1))
			return NO_SLOT;
		a = t->val[base];
	} else if (!ea_val(t, in, o, &a)) {
		return NO_SLOT;
	}
	if (!(base >= 0 ? t->fresh >> base & 1 : is_fresh(t, o)) &&
	    (base < 0 || is_special(base) ||
	     (t->r10 != (int32_t)(a >> 39) && in - t->tu->insn >= EARLY)))
		return NO_SLOT;
	if (!shadow_has_window(t->bt->sh, a, is_user(t)))
		return NO_SLOT;
	return a >> 39;
}
