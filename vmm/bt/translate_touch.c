/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The touch in front of an access at a site that keeps faulting (site.c has the
 * essay; stubs.S does it). Nothing is committed before the instruction itself,
 * so leaving here leaves the guest before it.
 */
#include "vmm/bt/translate_priv.h"

/* Does a misaligned operand raise #GP? */
static bool must_align(const struct tu_insn *in, const struct gop *o)
{
	if (o->size < 128)
		return false;
	switch (in->i.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return true;
	default:
		break;
	}
	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
		return false;
	default:
		return in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	}
}

/* Its one memory operand, addressed by registers; or NULL. */
static const struct gop *touched(const struct tu_insn *in)
{
	const struct gop *m = NULL;

	if (in->i.mnemonic == ZYDIS_MNEMONIC_LEA || !surely_accesses(in))
		return NULL;
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (m || o->mem.segment == ZYDIS_REGISTER_FS ||
		    o->mem.segment == ZYDIS_REGISTER_GS ||
		    o->mem.base == ZYDIS_REGISTER_RIP ||
		    (o->mem.base == ZYDIS_REGISTER_NONE &&
		     o->mem.index == ZYDIS_REGISTER_NONE) ||
		    must_align(in, o))
			return NULL;
		m = o;
	}
	return m;
}

void gen_touch(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o;
	uint32_t at, write;
	int site;

	if (t->tu->straddle || t->bt->lockstep)
		return;
	site = site_find(t->bt, t->tu->ppn, in->rip & (PAGE_SIZE - 1));
	if (site < 0)
		return;
	o = touched(in);
	if (!o)
		return;
	t->was = (struct near){0, 0};
	at = here(t);
	write = !!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	gen_ea(t, o);
	gen_delta(t, S0);
	emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	gen_place(t, BT_D_HOT(HOT_EXIT_INFO), at | write << BT_TOUCH_WRITE);
	emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_TMP2), site);
	gen_call_stub(t, BT_D_HOT(HOT_J_TOUCH));
}
