/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways out of a unit: branches, exits and their stubs, callouts, polls.
 *
 * Jumps to constant targets are chained. Within a page the target is in the
 * same physical page as the source, however the address space came to run it;
 * across pages the chain lives as long as the walk for the target holds (ibtc.c).
 * Other jumps go through the IBTC; what is in it has been walked for.
 *
 * A unit runs on past conditional branches forward (tu.c), each with an exit of
 * its own; what follows is done with what is known of registers there
 * (translate_facts.c). It also runs on past calls that are paired with their
 * returns (ibtc.c): what follows is entered from the pad, and knows nothing.
 */
#include "mm/base/log.h"
#include "vmm/bt/translate_priv.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/regs.h"

static bool same_page(const struct tr *t, uint64_t target)
{
	/* Units in the last bytes of a page may straddle. */
	return !t->tu->straddle && !((target ^ t->tu->rip) >> PAGE_SHIFT) &&
	       (target & (PAGE_SIZE - 1)) < PAGE_SIZE - 15;
}

static bool is_chainable(struct tr *t, uint64_t target)
{
	return same_page(t, target) ||
	       (is_canonical(t, target) && fits32(target - t->tu->rip));
}

/* rel32 at patch leads to guest address target, by chaining or the IBTC. */
static void add_exit(struct tr *t, uint8_t *patch, uint64_t target)
{
	t->stub[t->n_stub].patch = patch;
	t->stub[t->n_stub].call = false;
	t->stub[t->n_stub++].target = target;
}

/* Jump to a constant through the IBTC. Code that runs on past the end of the
 * canonical half: the #GP is that of the fetch, and there is no branch to take
 * back (undo_branch). */
static void gen_jmp_const(struct tr *t, uint64_t target)
{
	pin(t);
	if (!gva_canonical(target))
		emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_IND), 0);
	gen_count(t, EXEC_IBTC, 1);
	emit_imm(&t->e, S0, target);
	emit_jmp_m(&t->e, RT, BT_D_IBTC + 8 * (int32_t)(target & 0xffff));
}

/* The branch at `at` in the unit's code is about to go to where r11 says. For a
 * target that is not canonical: who wanted to go there? Mostly a poll has said so. */
static void gen_ind(struct tr *t, uint32_t at)
{
	if (!t->placed)
		gen_place(t, BT_D_HOT(HOT_IND), at);
}

/* Jump to the guest address in r11. */
static void gen_jmp_s0(struct tr *t)
{
	gen_count(t, EXEC_IBTC, 1);
	emit_movzx16(&t->e, S1, S0);
	emit_jmp_x(&t->e, RT, S1, BT_D_IBTC);
}

/* Exits that can be chained have their stubs in the cold part. */
void gen_stubs(struct tr *t)
{
	unsigned n_exit = 0;

	for (unsigned i = 0; i < t->n_stub; i++) {
		uint64_t target = t->stub[i].target;

		if (is_chainable(t, target)) {
			struct ccf_exit *x = &t->c->exit[n_exit++];

			x->cross = !same_page(t, target);
			x->call = t->stub[i].call;
			x->patch = t->stub[i].patch - t->e.start;
			x->target = target - t->tu->rip;
		} else {
			emit_patch(t->stub[i].patch, t->e.p);
			if (t->stub[i].call)
				emit_mov(&t->e, R_RSP, S1);
			gen_jmp_const(t, target);
		}
	}
	for (unsigned i = 0; i < t->n_late; i++) {
		emit_patch(t->late[i].patch, t->e.p);
		emit_mov(&t->e, R_RSP, S1);
		t->placed = false;
		gen_ind(t, t->late[i].at);
		gen_jmp_s0(t);
	}
}

static int32_t ret_disp(struct tr *t, uint64_t rip)
{
	return BT_D_VCPU((uint8_t *)ret_entry(t->bt, t->c->mode, rip) -
			 (uint8_t *)t->bt->v);
}

static bool pairs(const struct tr *t)
{
	if (!ret_pairs(t->bt))
		t->c->flags |= CCF_UNPAIRED;
	return ret_pairs(t->bt);
}

/* A return to an address that is not canonical faults as a return: there is no
 * pad for that (undo_branch). */
static bool pairs_call(struct tr *t, uint64_t next)
{
	return pairs(t) && is_canonical(t, next);
}

/* To where a check that is about to be emitted, with a call in front of it, can
 * reach: r11 through the IBTC. */
#define CALL_BYTES 56
static void have_miss(struct tr *t)
{
	uint8_t *over = NULL;

	if (t->miss && t->e.p + CALL_BYTES - t->miss < 128)
		return;
	if (t->e.p != t->e.start) {
		e8(&t->e, 0xeb);
		e8(&t->e, MISS_BYTES);
		over = t->e.p;
	}
	t->miss = t->e.p;
	put_miss(&t->e);
	field(t, t->e.p - 4, R_STUB, TC_JMP_STUB);
	BUG_ON(over && t->e.p != over + MISS_BYTES);
}

/* A call, of a constant or of r11, that its return will find the pad of (ibtc.c).
 * False: and the unit ends with it. */
static bool gen_paired_call(struct tr *t, const struct tu_insn *in, bool more)
{
	uint64_t next = in->rip + in->i.length;
	struct ccf_pad *pad = &t->c->pad[t->c->n_pad++];
	uint32_t at = here(t);
	uint8_t *p;

	have_miss(t);
	gen_push_addr(t, next);
	emit_mov(&t->e, S1, R_RSP);
	emit_lea(&t->e, R_RSP, RT, ret_disp(t, next) + 8);
	p = emit_call(&t->e);
	if (in->kind == K_CALL) {
		add_exit(t, p, branch_target(in));
		t->stub[t->n_stub - 1].call = true;
	} else {
		t->late[t->n_late].patch = p;
		t->late[t->n_late++].at = at;
	}
	pad->host = here(t);
	pad->next = next - t->tu->rip;
	emit_mov(&t->e, R_RSP, S1);
	gen_addr_check(t, next, t->miss);
	if (!more)
		gen_goto(t, next);
	return more;
}

static bool gen_call(struct tr *t, const struct tu_insn *in, bool more)
{
	uint64_t next = in->rip + in->i.length;

	if (in->kind == K_CALL_IND)
		gen_rm64(t, in, &in->op[0]);
	if (pairs_call(t, next))
		return gen_paired_call(t, in, more);
	gen_push_addr(t, next);
	if (in->kind == K_CALL_IND) {
		gen_ind(t, here(t));
		gen_jmp_s0(t);
	} else {
		gen_goto(t, branch_target(in));
	}
	return false;
}

/* Return to the guest address in r11. */
static void gen_paired_ret(struct tr *t)
{
	gen_count(t, EXEC_IBTC, 1);
	emit_movzx8(&t->e, S1, S0);
	emit_lea_x(&t->e, S1, RT, S1, 3, ret_disp(t, 0));
	emit_xchg(&t->e, S1, R_RSP);
	emit_ret(&t->e);
}

void gen_goto(struct tr *t, uint64_t target)
{
	if (is_chainable(t, target)) {
		add_exit(t, emit_jmp(&t->e), target);
	} else {
		gen_jmp_const(t, target);
	}
}

bool gen_callout(struct tr *t, const struct tu_insn *in)
{
	gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
	emit_jmp_m(&t->e, RT, BT_D_HOT(HOT_J_CALLOUT));
	return false; /* the unit ends here */
}

void gen_call_stub(struct tr *t, int32_t d)
{
	uint8_t *p;

	/* lea r10, [rip + the length of the jump] */
	e8(&t->e, rex(1, S1, -1, 0));
	e8(&t->e, 0x8d);
	e8(&t->e, (S1 & 7) << 3 | 5);
	p = t->e.p;
	e32(&t->e, 0);
	emit_jmp_m(&t->e, RT, d);
	emit_patch(p, t->e.p);
	delta_lost(t);
}

void gen_poll(struct tr *t, unsigned goff, bool places)
{
	recov_mark(t, goff, RK_NORMAL);
	emit_load(&t->e, S0, RT, BT_D_HOT(HOT_POLL));
	if (!places) {
		emit_load(&t->e, S0, S0, 0);
		return;
	}
	emit_store_imm32(&t->e, S0, BT_IND_OFF, 0);
	field(t, t->e.p - 4, R_HOST, here(t) | 1u << BT_IND_LAST);
	t->placed = true;
}

bool gen_flow(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];
	const struct gop *o = &in->op[0];
	uint64_t next = in->rip + in->i.length;
	uint64_t target = branch_target(in);
	uint8_t *p;

	/* The branch itself faults, before its effect. */
	if (!is_canonical(t, target))
		return gen_callout(t, in);
	switch (in->kind) {
	case K_JCC:
		s0_kept(t);
		/* A loop goes on in the unit, and out of it when it ends. */
		if (k + 1 < t->tu->n && in->op[0].imm.s < 0) {
			p = emit_jcc(&t->e, (in->i.opcode & 15) ^ 1);
			add_exit(t, p, next);
			return true;
		}
		p = emit_jcc(&t->e, in->i.opcode & 15);
		add_exit(t, p, target);
		if (k + 1 < t->tu->n)
			return true;
		gen_goto(t, next);
		break;
	case K_JMP:
		gen_goto(t, target);
		break;
	case K_LOOP:
		emit_lea(&t->e, R_RCX, R_RCX, -1);
		/* fall through */
	case K_JRCXZ:
		/* jrcxz +5 over a jump */
		e8(&t->e, 0xe3);
		e8(&t->e, 5);
		p = emit_jmp(&t->e);
		add_exit(t, p, in->kind == K_LOOP ? target : next);
		gen_goto(t, in->kind == K_LOOP ? next : target);
		break;
	case K_CALL:
	case K_CALL_IND:
		return gen_call(t, in, k + 1 < t->tu->n);
	case K_JMP_IND:
		gen_rm64(t, in, o);
		gen_ind(t, here(t));
		gen_jmp_s0(t);
		break;
	case K_RET:
		/* The unit may have been entered at a pad, past its poll. */
		if (t->c->n_pad)
			gen_poll(t, in->rip - t->tu->rip, true);
		emit_pop(&t->e, S0);
		if (in->i.operand_count_visible)
			emit_lea(&t->e, R_RSP, R_RSP, o->imm.u & 0xffff);
		gen_ind(t, here(t));
		if (pairs(t))
			gen_paired_ret(t);
		else
			gen_jmp_s0(t);
		break;
	case K_IRET:
		gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
		emit_jmp_m(&t->e, RT, BT_D_HOT(HOT_J_IRET));
		break;
	case K_SYSCALL:
	case K_SYSRET:
		/* For the case that the stub gives it to the interpreter. */
		gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
		if (in->kind == K_SYSCALL)
			gen_addr(t, S0, next);
		emit_jmp_m(&t->e, RT,
			   BT_D_HOT(in->kind == K_SYSCALL ? HOT_J_SYSCALL
							  : HOT_J_SYSRET));
		break;
	default:
		gen_callout(t, in);
	}
	return false;
}

/* Any loop goes through a backward or an indirect branch: units with such a one
 * look for kicks, where they begin. One that goes through a pad goes through the
 * return that leads there: a unit that may have been entered at a pad looks again
 * before it returns. */
static bool may_loop(const struct tu_insn *in)
{
	switch (in->kind) {
	case K_JMP_IND:
	case K_CALL_IND:
	case K_RET:
	case K_SYSCALL:
	case K_SYSRET:
	case K_IRET:
		return true;
	case K_JCC:
	case K_JMP:
	case K_CALL:
	case K_JRCXZ:
	case K_LOOP:
		return in->op[0].imm.s < 0;
	default:
		return false;
	}
}

static bool needs_poll(const struct tu *tu)
{
	for (unsigned k = 0; k < tu->n; k++)
		if (may_loop(&tu->insn[k]))
			return true;
	return false;
}

/* Does the unit end in an indirect branch that is come to from its start only? */
static bool ends_ind(const struct tr *t)
{
	const struct tu *tu = t->tu;

	for (unsigned k = 0; k + 1 < tu->n; k++)
		if (is_call(&tu->insn[k]))
			return false;
	switch (tu->insn[tu->n - 1].kind) {
	case K_JMP_IND:
	case K_RET:
	case K_CALL_IND:
		return true;
	default:
		return false;
	}
}

/* What comes in front of the code. A miss for pads, while that takes no jump; the
 * checked entry with its header, or the call entry; and the look for kicks. */
void gen_entry(struct tr *t)
{
	uint8_t *header;

	for (unsigned k = 0; k < t->tu->n && !t->miss; k++) {
		const struct tu_insn *in = &t->tu->insn[k];

		if (is_call(in) && pairs_call(t, in->rip + in->i.length))
			have_miss(t);
	}
	if (t->bt->pend_ibtc) {
		header = put_header(&t->e);
		t->c->check = here(t);
		gen_addr_check(t, t->tu->rip, header);
	} else if (t->bt->pend_call && ret_pairs(t->bt)) {
		emit_mov(&t->e, R_RSP, S1);
		t->c->flags |= CCF_CALLED;
	}
	t->c->direct = here(t);
	gen_count(t, EXEC_UNITS, 1);
	gen_count(t, EXEC_INSNS, t->tu->n);
	if (needs_poll(t->tu))
		gen_poll(t, 0, ends_ind(t));
}
