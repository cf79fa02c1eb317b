/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What belongs to a unit and is hardly ever run: the stubs of its exits, which
 * run once each until they are chained, and the checked entry of a unit that is
 * reached by chained jumps as a rule.
 *
 * Each region of the TC is filled from both ends, code from the beginning and
 * this from the end, so that the lines of the instruction cache that hold code
 * hold nothing else. (Mixed, three bytes of four in the TC were never run, and
 * gcc's working set was 550 KiB of them.)
 *
 *	cold: a stub for each exit that can be chained, CCF_STUB bytes each:
 *	      mov r11d, EXIT_ID ; jmp to the common stub at TC_CHAIN_STUB
 *	      then, if the unit has no check in front of its code:
 *	      the unit's id, and: check that r11 is its rip ; jmp to its code
 *
 * All of it follows from the unit's books, so a copy (reloc.c) has its own
 * written here too, rather than moved. Nothing in here faults.
 *
 * Built with -mgeneral-regs-only: reloc.c calls in here.
 */
#include "vmm/bt/translate_priv.h"

/* mov, movabs + lea or lea, jrcxz, mov, jmp, mov, jmp */
#define CHECK_MAX 40

/*
 * It must not write the flags even where this unit does not need them: a jump
 * that is not meant for it (two targets share an IBTC entry) goes on to
 * another, which may.
 */
uint8_t *put_check(struct emit *e, uint64_t rip)
{
	uint8_t *p, *miss;

	emit_mov(e, S1, R_RCX);
	if (fits32(-rip)) {
		emit_lea(e, R_RCX, S0, -rip);
	} else {
		emit_imm(e, R_RCX, -rip);
		emit_lea_x(e, R_RCX, R_RCX, S0, 0, 0);
	}
	e8(e, 0xe3); /* jrcxz over the miss */
	e8(e, 0);
	p = e->p;
	emit_mov(e, R_RCX, S1);
	/* To the next unit that shares the entry, or out. */
	miss = emit_jmp(e);
	p[-1] = e->p - p;
	emit_mov(e, R_RCX, S1);
	return miss;
}

static unsigned n_stubs(const struct ccf *c)
{
	unsigned n = 0;

	while (n < CCF_EXITS && c->exit[n].patch)
		n++;
	return n;
}

void cold_size(struct ccf *c)
{
	c->cold_len = n_stubs(c) * CCF_STUB;
	if (!c->direct)
		c->cold_len += sizeof(uint32_t) + CHECK_MAX;
}

static void put_id(struct bt *bt, uint32_t checked, uint32_t id)
{
	memcpy(bt->rw + checked - sizeof(id), &id, sizeof(id));
}

static void put_thunk(struct bt *bt, uint32_t id, uint8_t *at)
{
	struct ccf *c = &bt->ccf[id];
	struct emit e = {at, at, at + CHECK_MAX, false};
	uint8_t *jmp;

	c->checked = at - bt->rw;
	c->miss = put_check(&e, c->rip) - at;
	jmp = emit_jmp(&e);
	emit_patch(jmp, bt->rw + c->host);
}

/* As put_check has it for an address that is not small: mov, movabs. */
static bool move_check(uint8_t *at, uint64_t rip)
{
	uint64_t imm = -rip;

	if (fits32(imm) || at[CHECK_IMM - 2] != 0x48 ||
	    at[CHECK_IMM - 1] != 0xb8 + R_RCX)
		return false;
	memcpy(at + CHECK_IMM, &imm, sizeof(imm));
	return true;
}

void cold_move(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint8_t *at = bt->rw + c->checked;

	if (!c->direct && !move_check(at, c->rip))
		put_thunk(bt, id, at);
	emit_patch(bt->rw + c->checked + c->miss, bt->rw + TC_MISS_STUB);
}

void cold_put(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint8_t *at = bt->rw + c->cold;

	for (unsigned i = 0; i < n_stubs(c); i++, at += CCF_STUB) {
		struct emit e = {at, at, at + CCF_STUB, false};

		e8(&e, 0x41);
		e8(&e, 0xb8 | (S0 & 7));
		e32(&e, EXIT_ID(id, i));
		emit_patch(emit_jmp(&e), bt->rw + TC_CHAIN_STUB);
		emit_patch(bt->rw + c->host + c->exit[i].patch, at);
	}
	if (c->direct)
		c->checked = c->host;
	else
		put_thunk(bt, id, at + sizeof(id));
	put_id(bt, c->checked, id);
	emit_patch(bt->rw + c->checked + c->miss, bt->rw + TC_MISS_STUB);
}
