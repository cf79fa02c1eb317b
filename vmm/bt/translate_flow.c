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
 * (translate_facts.c).
 */
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
	t->stub[t->n_stub++].target = target;
}

/* Jump to a constant through the IBTC. Code that runs on past the end of the
 * canonical half: the #GP is that of the fetch, and there is no branch to take
 * back (undo_branch). */
static void gen_jmp_const(struct tr *t, uint64_t target)
{
	pin(t);
	if (!gva_canonical(target))
		emit_store_imm32(&t->e, RT, BT_D_IND, 0);
	gen_count(t, EXEC_IBTC, 1);
	emit_imm(&t->e, S0, target);
	emit_jmp_m(&t->e, RT, BT_D_IBTC + 8 * (int32_t)(target & 0xffff));
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
			x->patch = t->stub[i].patch - t->e.start;
			x->target = target - t->tu->rip;
		} else {
			emit_patch(t->stub[i].patch, t->e.p);
			gen_jmp_const(t, target);
		}
	}
}

/* Jump to the guest address in r11. */
static void gen_jmp_s0(struct tr *t)
{
	/* For a target that is not canonical: who wanted to go there? */
	gen_place(t, BT_D_IND, here(t));
	gen_count(t, EXEC_IBTC, 1);
	emit_movzx16(&t->e, S1, S0);
	emit_jmp_x(&t->e, RT, S1, BT_D_IBTC);
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

/* After the push of the return address next (ibtc.c): call what is emitted after
 * this, and put the pad in between. */
static void gen_paired_call(struct tr *t, uint64_t next)
{
	uint8_t *p, *miss;

	emit_mov(&t->e, S1, R_RSP);
	emit_lea(&t->e, R_RSP, RT, ret_disp(t, next) + 8);
	p = emit_call(&t->e);
	t->c->pad = t->e.p - t->e.start;
	emit_mov(&t->e, R_RSP, S1);
	miss = gen_addr_check(t, next);
	field(t, miss, R_STUB, TC_JMP_STUB);
	gen_goto(t, next);
	emit_patch(p, t->e.p);
	emit_mov(&t->e, R_RSP, S1);
	delta_lost(t);
}

/* Return to the guest address in r11. */
static void gen_paired_ret(struct tr *t)
{
	gen_place(t, BT_D_IND, here(t));
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

void gen_poll(struct tr *t, unsigned goff, int hot)
{
	recov_mark(t, goff, RK_NORMAL);
	emit_load(&t->e, S0, RT, BT_D_HOT(hot));
	emit_load(&t->e, S0, S0, 0);
}

uint64_t branch_target(const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	return in->rip + in->i.length +
	       (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.value.s : 0);
}

bool gen_flow(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];
	const ZydisDecodedOperand *o = &in->op[0];
	uint64_t next = in->rip + in->i.length;
	uint64_t target = branch_target(in);
	uint8_t *p;

	/* The branch itself faults, before its effect. */
	if (!is_canonical(t, target))
		return gen_callout(t, in);
	switch (in->kind) {
	case K_JCC:
		/* A loop goes on in the unit, and out of it when it ends. */
		if (k + 1 < t->tu->n && in->op[0].imm.value.s < 0) {
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
		gen_push_addr(t, next);
		if (pairs_call(t, next))
			gen_paired_call(t, next);
		gen_goto(t, target);
		break;
	case K_CALL_IND:
		gen_rm64(t, in, o);
		gen_push_addr(t, next);
		if (pairs_call(t, next))
			gen_paired_call(t, next);
		gen_jmp_s0(t);
		break;
	case K_JMP_IND:
		gen_rm64(t, in, o);
		gen_jmp_s0(t);
		break;
	case K_RET:
		emit_pop(&t->e, S0);
		if (in->i.operand_count_visible)
			emit_lea(&t->e, R_RSP, R_RSP, o->imm.value.u & 0xffff);
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

/* Any loop goes through a unit that ends with a backward or an indirect
 * branch: such units look for kicks. */
bool needs_poll(const struct tu *tu)
{
	const struct tu_insn *in = &tu->insn[tu->n - 1];

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
		return in->op[0].imm.value.s < 0;
	default:
		return false;
	}
}

/* The checked entry, in front of the code. */
void gen_check(struct tr *t)
{
	t->c->miss = gen_addr_check(t, t->tu->rip) - t->e.start;
}
