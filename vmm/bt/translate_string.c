/* SPDX-License-Identifier: Apache-2.0 */
/* String instructions, with and without REP. */
#include "vmm/bt/translate_priv.h"

static void string_uses(const struct tu_insn *in, bool *si, bool *di)
{
	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_LODSB:
	case ZYDIS_MNEMONIC_LODSW:
	case ZYDIS_MNEMONIC_LODSD:
	case ZYDIS_MNEMONIC_LODSQ:
		*si = true;
		*di = false;
		break;
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
	case ZYDIS_MNEMONIC_SCASB:
	case ZYDIS_MNEMONIC_SCASW:
	case ZYDIS_MNEMONIC_SCASD:
	case ZYDIS_MNEMONIC_SCASQ:
		*si = false;
		*di = true;
		break;
	default:
		*si = *di = true;
	}
}

/* RSI and RDI become host addresses for the instruction; a fault half way is
 * recovered by taking the deltas off again. */
void gen_string(struct tr *t, const struct tu_insn *in)
{
	unsigned goff = in->rip - t->tu->rip;
	struct rewrite w = {-1, -1, -1, -1, NULL, 0};
	bool si, di;

	string_uses(in, &si, &di);
	if (di) {
		emit_shrx(&t->e, S0, R_RDI, RT);
		emit_load_x(&t->e, S0, RT, S0, 3, BT_D_TABLE);
		emit_store(&t->e, S0, RT, BT_D_HOT(HOT_TMP0));
	}
	if (si) {
		gen_delta(t, R_RSI);
		emit_store(&t->e, S1, RT, BT_D_HOT(HOT_TMP1));
		emit_lea_x(&t->e, R_RSI, R_RSI, S1, 0, 0);
	}
	if (di)
		emit_lea_x(&t->e, R_RDI, R_RDI, S0, 0, 0);
	recov_mark(t, goff, si && di ? RK_RSI_RDI : si ? RK_RSI : RK_RDI);
	put_rewritten(t, in, &w);
	if (si) {
		emit_load(&t->e, S1, RT, BT_D_HOT(HOT_TMP1));
		emit_not(&t->e, S1);
		emit_lea_x(&t->e, R_RSI, R_RSI, S1, 0, 1);
	}
	if (di) {
		emit_load(&t->e, S1, RT, BT_D_HOT(HOT_TMP0));
		emit_not(&t->e, S1);
		emit_lea_x(&t->e, R_RDI, R_RDI, S1, 0, 1);
	}
	recov_mark(t, goff + in->i.length, RK_NORMAL);
	delta_lost(t);
}
