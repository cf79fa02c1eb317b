/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSP and the stack. RSP is a host address (translate.c), so push, pop and
 * [rsp + d] are IDENT; what sets RSP derives it through the delta table.
 *
 * Hazard 1: RSP moved by a constant again and again, never touching memory,
 * would walk off its window. So a unit that moves RSP touches memory close to
 * the new place (within +-2 GiB, and the guard is 512 GiB), by an instruction
 * of its own or by one that is added. No timing is involved.
 */
#include "vmm/bt/translate_priv.h"

/* RSP := guest value in host register v; uses the other work register. */
void set_rsp(struct tr *t, unsigned v)
{
	unsigned s = v == S0 ? S1 : S0;

	emit_shrx(&t->e, s, v, RT);
	emit_load_x(&t->e, s, RT, s, 3, BT_D_TABLE);
	/* From here on nothing faults. */
	emit_store(&t->e, s, RT, BT_D_HOT(HOT_RSP_DELTA));
	emit_lea_x(&t->e, R_RSP, v, s, 0, 0);
	emit_not(&t->e, s);
	emit_store(&t->e, s, RT, BT_D_HOT(HOT_RSP_NOTD));
	delta_lost(t);
}

void store_guest(struct tr *t, int g, unsigned src)
{
	if (g == R_RSP)
		set_rsp(t, src);
	else
		emit_store(&t->e, src, RT, BT_D_GPR(g));
}

/* Does its memory operand mean an access to just there, whatever the registers
 * hold? BTS [rsp], rax goes elsewhere, VMASKMOV and EVEX with a mask may go
 * nowhere: only what is known to. */
bool surely_accesses(const struct tu_insn *in)
{
	if (in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && in->i.evex_aaa)
		return false;
	switch (in->i.category) {
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL:
		return true;
	default:
		return false;
	}
}

static bool rsp_touched_after(const struct tr *t, unsigned k)
{
	for (k++; k < t->tu->n; k++) {
		const struct tu_insn *in = &t->tu->insn[k];

		switch (in->kind) {
		case K_PUSH:
		case K_POP:
		case K_CALL:
		case K_CALL_IND:
		case K_RET:
		case K_PUSHF:
			return true;
		case K_JCC: /* may leave */
			return false;
		case K_PLAIN:
			/* Moved again: what is known of RSP then (gen_rsp_direct)
			 * is known of where it has been, too. */
			if (in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			    in->op[0].reg == ZYDIS_REGISTER_RSP)
				return false;
			if (!surely_accesses(in))
				break;
			for (unsigned j = 0; j < in->i.operand_count; j++)
				if (in->op[j].type ==
					    ZYDIS_OPERAND_TYPE_MEMORY &&
				    in->op[j].mem.base == ZYDIS_REGISTER_RSP &&
				    in->op[j].mem.index ==
					    ZYDIS_REGISTER_NONE &&
				    in->op[j].mem.segment !=
					    ZYDIS_REGISTER_FS &&
				    in->op[j].mem.segment != ZYDIS_REGISTER_GS)
					return true;
			break;
		default:
			break;
		}
	}
	return false;
}

/* After a small move that nothing in the unit follows up, touch the stack. If
 * that faults for good, the slow path does the next instruction and derives
 * RSP anew (bt_sync_in). One load; deriving it here costs eight instructions
 * on RSP's own dependency chain (fib: 3.1 times native against 1.9). The load
 * may set an accessed bit early, as speculation on hardware may. */
static void settle_rsp(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];

	if (rsp_touched_after(t, k))
		return;
	recov_mark(t, in->rip + in->i.length - t->tu->rip, RK_TOUCH);
	emit_load(&t->e, S0, R_RSP, 0);
}

/* RSP := guest value in v, after an instruction that also changed flags or
 * other registers and so must not be done again: commit it to memory, then
 * derive. (Never v with another delta: that is an address of the guest's
 * choice, and the kernel looks at RSP when it delivers a signal.) */
void commit_rsp(struct tr *t, const struct tu_insn *in, unsigned v)
{
	unsigned goff = in->rip + in->i.length - t->tu->rip;

	emit_store(&t->e, v, RT, BT_D_HOT(HOT_TMP0));
	recov_mark(t, goff, RK_RSP);
	set_rsp(t, v);
	recov_mark(t, goff, RK_NORMAL);
}

/* Is the first thing that instruction k does an access just where RSP is, or just
 * below? (A branch to nowhere does not get so far.) */
static bool begins_at_rsp(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];

	if (k >= t->tu->n)
		return false;
	switch (in->kind) {
	case K_PUSH:
	case K_POP:
		return in->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
	case K_CALL:
	case K_RET:
		return is_canonical(t, branch_target(in));
	default:
		return false;
	}
}

/* add r, imm or sub r, imm. */
static void put_add(struct tr *t, const struct tu_insn *in, unsigned r,
		    int32_t imm)
{
	unsigned op = in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? 0 : 5;

	e8(&t->e, rex(1, 0, -1, r));
	e8(&t->e, fits8(imm) ? 0x83 : 0x81);
	e8(&t->e, 0xc0 | op << 3 | (r & 7));
	if (fits8(imm))
		e8(&t->e, imm);
	else
		e32(&t->e, imm);
}

/*
 * add rsp, imm or sub rsp, imm, of CPL 3, where somebody may want the flags: of the
 * host's RSP, and the next thing is an access there. If that is mapped, then what is
 * now in RSP is an address of the lower half in both forms, and so is what was before
 * (it is not a negative one, for its slot has no window in CPL 3's view): they differ
 * by a multiple of 512 GiB, and no flag tells them apart. (With page 0 mapped there are two
 * exceptions: ZF, if RSP is 0 now, says 0; and RSP may have been negative, between two
 * moves of which the first was settled by an access above it, [rsp + 24]: CF.) If it is not, the flags are made anew of the
 * guest's value (RK_MOVED, fault.c).
 */
static void gen_rsp_direct(struct tr *t, const struct tu_insn *in, unsigned k,
			   int32_t imm)
{
	put_add(t, in, R_RSP, imm);
	if (begins_at_rsp(t, k + 1)) {
		t->moves = true;
		return;
	}
	recov_mark(t, in->rip + in->i.length - t->tu->rip, RK_MOVED_TOUCH);
	emit_load(&t->e, S0, R_RSP, 0);
}

/* RSP-changing arithmetic that compilers write: add/sub rsp, imm and
 * lea rsp, [rsp + disp]. False: not one of these. */
bool gen_rsp_arith(struct tr *t, const struct tu_insn *in, unsigned k)
{
	const struct gop *d = &in->op[0], *s = &in->op[1];
	int64_t imm;

	if (d->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    d->reg != ZYDIS_REGISTER_RSP)
		return false;
	if (in->i.mnemonic == ZYDIS_MNEMONIC_LEA) {
		if (s->mem.base != ZYDIS_REGISTER_RSP ||
		    s->mem.index != ZYDIS_REGISTER_NONE ||
		    s->mem.disp < -65536 || s->mem.disp > 65536)
			return false;
		emit_lea(&t->e, R_RSP, R_RSP, s->mem.disp);
		settle_rsp(t, k);
		return true;
	}
	if (s->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return false;
	imm = s->imm.s;
	if (in->i.mnemonic != ZYDIS_MNEMONIC_ADD &&
	    in->i.mnemonic != ZYDIS_MNEMONIC_SUB)
		return false;
	if (imm < -65536 || imm > 65536)
		return false; /* generic: derived anew */
	if (flags_dead_after(t, k)) {
		emit_lea(&t->e, R_RSP, R_RSP,
			 in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? imm : -imm);
		settle_rsp(t, k);
		return true;
	}
	if ((t->c->mode & MODE_USER) && !t->tu->straddle) {
		gen_rsp_direct(t, in, k, imm);
		return true;
	}
	/* The flags are those of the guest's value. */
	load_guest(t, S0, R_RSP);
	put_add(t, in, S0, imm);
	emit_lea(&t->e, R_RSP, R_RSP,
		 in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? imm : -imm);
	settle_rsp(t, k);
	return true;
}

void gen_push_addr(struct tr *t, uint64_t v)
{
	if (fits32(v)) {
		pin(t);
		e8(&t->e, 0x68);
		e32(&t->e, v);
	} else {
		gen_addr(t, S1, v);
		emit_push(&t->e, S1);
	}
	delta_lost(t);
}

void gen_push(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	    (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	     !is_special(ZydisRegisterGetId(o->reg)))) {
		ebytes(&t->e, in->bytes, in->i.length);
		t->bt->stats.ident++;
		s0_kept(t);
		return;
	}
	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    o->reg != ZYDIS_REGISTER_RSP) {
		s0_kept(t);
		emit_push_m(&t->e, RT, BT_D_GPR(ZydisRegisterGetId(o->reg)));
		return;
	}
	gen_rm64(t, in, o);
	emit_push(&t->e, S0);
}

bool gen_pop(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];
	struct mref m;
	int g;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		g = ZydisRegisterGetId(o->reg);
		if (g == R_RSP) {
			emit_load(&t->e, S0, R_RSP, 0);
			set_rsp(t, S0);
		} else if (is_special(g)) {
			emit_pop_m(&t->e, RT, BT_D_GPR(g));
			s0_kept(t);
		} else {
			ebytes(&t->e, in->bytes, in->i.length);
			t->bt->stats.ident++;
			s0_kept(t);
		}
		return true;
	}
	if (o->mem.base == ZYDIS_REGISTER_RSP)
		return gen_callout(t, in); /* address after the increment */
	gen_mem(t, in, o, &m);
	if (m.seg)
		return gen_callout(t, in);
	if (m.index >= 0)
		emit_lea_x(&t->e, S0, m.base, m.index, m.ss, m.disp);
	else
		emit_lea(&t->e, S0, m.base, m.disp);
	emit_load(&t->e, S1, R_RSP, 0);
	emit_store(&t->e, S1, S0, 0);
	emit_lea(&t->e, R_RSP, R_RSP, 8);
	delta_lost(t);
	return true;
}

void gen_leave(struct tr *t)
{
	gen_delta(t, R_RBP);
	emit_load_x(&t->e, S0, R_RBP, S1, 0, 0);
	emit_store(&t->e, S1, RT, BT_D_HOT(HOT_RSP_DELTA));
	emit_lea_x(&t->e, R_RSP, R_RBP, S1, 0, 8);
	emit_not(&t->e, S1);
	emit_store(&t->e, S1, RT, BT_D_HOT(HOT_RSP_NOTD));
	emit_mov(&t->e, R_RBP, S0);
	delta_lost(t);
}
