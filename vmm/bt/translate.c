/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One translation unit into one compiled code fragment.
 *
 * Registers. The guest's registers are in the host's, but for r10, r11 (work
 * registers S1, S0) and r15 (rT): these three are in vcpu->gpr[]. RSP is in
 * host form: guest value + HOT_RSP_DELTA, and HOT_RSP_NOTD is ~delta, so that
 * lea r,[nd + rsp + 1] takes it back without touching the flags. Arithmetic
 * flags and DF are in the host's RFLAGS; no helper sequence writes them.
 *
 * Memory. An operand [base + small disp] is looked up by the slot of base alone:
 * if the displacement leads out of the slot, it leads into the guard beside
 * the window, and the fault is then done slowly. So:
 *
 *	shrx r10, base, rT ; mov r10, [rT + r10*8 + 89] ; op [base + r10 + disp]
 *
 * and a following access off a base that is known to be near reuses r10, or r11
 * where that holds another's; an index that is known to be small does not count
 * (translate_facts.c). With any other index, the whole address is computed first. Where a load waits for
 * the one before (lists), the slot is guessed and compared (translate_mem.c).
 * [rsp + disp] and gs:[disp32], fs:[disp32] are IDENT.
 *
 * Exactness. Every sequence commits guest state last: whatever host
 * instruction faults, the guest's registers are those before the guest
 * instruction (kinds other than RK_NORMAL say what must be put back). This is
 * also why a sequence can be started again from its beginning.
 *
 * Layout of a CCF: [header, check that r11 is the unit's rip? or call entry?]
 * [poll?] body, exits; and elsewhere, stubs (translate_cold.c). The check is for
 * jumps through the IBTC, which is indexed by the low 16 bits of the target only;
 * chained jumps enter after it. A unit that was not reached by such a jump when it
 * was made has its check among the stubs. The call entry is for paired calls
 * (ibtc.c).
 *
 * The files: operands translate_mem.c, plain instructions translate_plain.c,
 * flags translate_flags.c, the stack translate_rsp.c, strings
 * translate_string.c, system instructions translate_sys.c, branches and exits
 * translate_flow.c; whatever depends on the unit's address translate_addr.c.
 */
#include <string.h>

#include "mm/base/log.h"

#include "vmm/bt/translate_priv.h"
#include "vmm/x86/regs.h"

/* True: go on with the next instruction. */
static bool gen_insn(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];

	t->was = t->near[NEAR_S0];
	t->near[NEAR_S0] = (struct near){0, 0};
	t->free_s0 = false;
	t->moved = t->moves;
	t->moves = false;
	recov_mark(t, in->rip - t->tu->rip, RK_NORMAL);
	switch (in->kind) {
	case K_PLAIN:
		gen_touch(t, in);
		return gen_plain(t, in, k);
	case K_NOP:
		s0_kept(t);
		return true;
	case K_PUSH:
		gen_push(t, in);
		return true;
	case K_POP:
		return gen_pop(t, in);
	case K_LEAVE:
		gen_leave(t);
		return true;
	case K_PUSHF:
		gen_pushf(t);
		return true;
	case K_STRING:
		gen_string(t, in);
		return true;
	case K_CLI:
		emit_store_imm(&t->e, RT, BT_D_HOT(HOT_IF), 0);
		return true;
	case K_STI:
		/* With an interrupt waiting, the load faults and the
		 * interpreter does this STI and the instruction after it. */
		emit_load(&t->e, S0, RT, BT_D_HOT(HOT_IRQ_POLL));
		emit_load(&t->e, S0, S0, 0);
		emit_store_imm(&t->e, RT, BT_D_HOT(HOT_IF), FL_IF);
		return true;
	case K_SWAPGS:
		gen_swapgs(t);
		return true;
	case K_RDTSC:
	case K_RDTSCP:
		gen_rdtsc(t, in->kind == K_RDTSCP);
		return true;
	case K_RDBASE:
		gen_from_vcpu(
			t, reg_id(in->op[0].reg), 8,
			in->i.mnemonic == ZYDIS_MNEMONIC_RDFSBASE
				? offsetof(struct vcpu, seg[SEG_FS].base)
				: offsetof(struct vcpu, seg[SEG_GS].base));
		return true;
	case K_WRBASE:
		gen_wrbase(t, in);
		return true;
	case K_XSAVE:
		return gen_xsave(t, in);
	case K_CPUID:
		gen_cpuid(t);
		return true;
	case K_MOV_FROM_SREG:
		return gen_from_sreg(t, in);
	case K_MOV_FROM_CR:
		return gen_from_cr(t, in);
	case K_MOV_CR3:
		gen_cr3(t, in);
		return true;
	default:
		return gen_flow(t, k);
	}
}

void gen_count(struct tr *t, unsigned i, unsigned n)
{
	int at = BT_D_VCPU(offsetof(struct vcpu, executed[i]));

	if (!t->bt->count)
		return;
	emit_load(&t->e, S1, RT, at);
	emit_lea(&t->e, S1, S1, n);
	emit_store(&t->e, S1, RT, at);
	delta_lost(t);
}

/* Which addresses a unit may be moved to, to begin with; each that it names will
 * narrow them (translate_addr.c). */
static void begin_moves(struct tr *t)
{
	if ((t->c->mode & MODE_USER) && !t->tu->straddle && !t->bt->lockstep &&
	    !(t->c->rip >> 47))
		t->c->hi = 1ll << 47;
	/* tu.c has asked, too. */
	for (unsigned k = 0; k < t->tu->n; k++)
		switch (t->tu->insn[k].kind) {
		case K_CALL:
		case K_CALL_IND:
			is_canonical(t, t->tu->insn[k].rip +
						t->tu->insn[k].i.length);
			/* fall through */
		case K_JCC:
			is_canonical(t, branch_target(&t->tu->insn[k]));
		}
}

void translate_into(struct bt *bt, const struct tu *tu, struct ccf *c,
		    uint8_t *code)
{
	struct tr t = {.bt = bt, .tu = tu, .c = c, .slot = -1};
	bool go = true;

	c->rip = tu->rip;
	c->ppn = tu->ppn;
	c->ppn2 = tu->ppn2;
	c->mode = bt_key(bt);
	c->n_insn = tu->n;
	c->guest_len = tu->next - tu->rip;
	c->flags = tu->straddle ? CCF_STRADDLE : 0;
	t.e.start = t.e.p = code;
	t.e.end = t.e.start + CCF_MAX_BYTES;
	begin_moves(&t);

	gen_entry(&t);
	for (unsigned k = 0; k < tu->n && go; k++) {
		go = gen_insn(&t, k);
		facts_after(&t, &tu->insn[k]);
	}
	if (go)
		gen_goto(&t, tu->next);
	gen_stubs(&t);
	BUG_ON(t.e.overflow);
	c->host_len = t.e.p - t.e.start;
}

uint32_t bt_translate(struct bt *bt, const struct tu *tu)
{
	uint32_t id = tc_begin(bt, tu->rip);
	struct ccf *c = &bt->ccf[id];

	translate_into(bt, tu, c, bt->rw + c->host);
	bt->stats.translations++;
	bt->stats.guest_insns += tu->n;
	bt->stats.guest_bytes += c->guest_len;
	bt->stats.host_bytes += c->host_len;
	tc_commit(bt, id);
	return id;
}
