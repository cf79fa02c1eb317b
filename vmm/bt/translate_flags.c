/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a unit knows of the arithmetic flags: where they are dead, a cheaper
 * sequence may write them.
 */
#include "vmm/bt/translate_priv.h"
#include "vmm/x86/regs.h"

/* All six arithmetic flags are written, to values that do not depend on the
 * old ones. "Undefined" does not count: CPUs keep the old flag there (IMUL);
 * but the logical operations clear AF on every CPU there is. */
static bool kills_flags(const struct tu_insn *in)
{
	const ZydisAccessedFlags *f = in->i.cpu_flags;
	uint32_t set;

	if (in->kind != K_PLAIN || !f)
		return false;
	set = f->modified | f->set_0 | f->set_1;
	if (in->i.category == ZYDIS_CATEGORY_LOGICAL)
		set |= FL_AF;
	else if (in->i.category != ZYDIS_CATEGORY_BINARY)
		return false;
	return (set & ~f->undefined & FL_ARITH) == FL_ARITH ||
	       (in->i.category == ZYDIS_CATEGORY_LOGICAL &&
		(set & FL_ARITH) == FL_ARITH &&
		!(f->undefined & FL_ARITH & ~FL_AF));
}
static bool reads_flags(const struct tu_insn *in)
{
	const ZydisAccessedFlags *f = in->i.cpu_flags;

	return in->kind != K_PLAIN ? in->kind != K_NOP : f && f->tested;
}
static bool may_fault(const struct tu_insn *in)
{
	if (in->kind == K_NOP)
		return false;
	if (in->kind != K_PLAIN)
		return true;
	if (in->i.mnemonic == ZYDIS_MNEMONIC_LEA)
		return false;
	for (unsigned k = 0; k < in->i.operand_count; k++)
		if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
	return in->i.mnemonic == ZYDIS_MNEMONIC_DIV ||
	       in->i.mnemonic == ZYDIS_MNEMONIC_IDIV ||
	       (in->i.category != ZYDIS_CATEGORY_BINARY &&
		in->i.category != ZYDIS_CATEGORY_LOGICAL &&
		in->i.category != ZYDIS_CATEGORY_DATAXFER &&
		in->i.category != ZYDIS_CATEGORY_SHIFT &&
		in->i.category != ZYDIS_CATEGORY_ROTATE);
}

/* Are the arithmetic flags dead at the beginning of instruction k: written by
 * one that comes before any that reads them, or that may fault (a fault shows
 * them)? */
bool flags_dead_at(const struct tr *t, unsigned k)
{
	for (; k < t->tu->n; k++) {
		const struct tu_insn *in = &t->tu->insn[k];

		if (reads_flags(in))
			return false;
		if (may_fault(in))
			return false;
		if (kills_flags(in))
			return true;
	}
	return false;
}
bool flags_dead_after(const struct tr *t, unsigned k)
{
	return flags_dead_at(t, k + 1);
}
