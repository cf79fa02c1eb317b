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
 *	      (in a unit with paired calls, mov rsp, r10 before that, which is
 *	      for the calls; chained to a unit that has no call entry, a jump to
 *	      that follows it)
 *	      then, if the unit has no check in front of its code:
 *	      TC_HEADER, and: check that r11 is its rip ; jmp to its code
 *
 * All of it follows from the unit's books, so a copy (reloc.c) has its own
 * written here too, rather than moved. Nothing in here faults.
 *
 * Built with -mgeneral-regs-only: reloc.c calls in here.
 */
#include "mm/base/log.h"
#include "vmm/bt/translate_priv.h"

/* mov, movabs + lea or lea, loop or jrcxz and jmp, mov, jmp */
#define CHECK_MAX 29

static const uint8_t nop3[] = {0x0f, 0x1f, 0x00};

/* LOOP is a jump like any other on AMD; on Intel it costs as much as seven
 * instructions, and a jump over another is less. */
static bool has_slow_loop;

void cold_init(bool slow_loop)
{
	has_slow_loop = slow_loop;
}

int64_t check_bias(void)
{
	return has_slow_loop ? 0 : 1;
}

void put_miss(struct emit *e)
{
	emit_mov(e, R_RCX, S1);
	emit_jmp(e);
}

uint8_t *put_header(struct emit *e)
{
	uint8_t *at = e->p;

	put_miss(e);
	e32(e, 0);
	return at;
}

/*
 * It must not write the flags even where this unit does not need them: a jump
 * that is not meant for it (two targets share an IBTC entry) goes on to
 * another, which may. When all is well it takes no jump: in large programs each
 * place that does is one more for the predictor to find, and a quarter of gcc's
 * samples were around these.
 */
uint8_t *put_check(struct emit *e, uint64_t rip)
{
	uint64_t minus = check_bias() - rip;

	emit_mov(e, S1, R_RCX);
	if (fits32(minus)) {
		emit_lea(e, R_RCX, S0, minus);
	} else {
		emit_imm(e, R_RCX, minus);
		emit_lea_x(e, R_RCX, R_RCX, S0, 0, 0);
	}
	if (has_slow_loop) {
		e8(e, 0xe3); /* jrcxz over the jump */
		e8(e, 2);
		e8(e, 0xeb);
	} else {
		e8(e, 0xe2); /* loop */
	}
	e8(e, 0);
	emit_mov(e, R_RCX, S1);
	return e->p - 4;
}

void patch_check(uint8_t *rel8, const uint8_t *miss)
{
	BUG_ON(!fits8(miss - (rel8 + 1)));
	*rel8 = miss - (rel8 + 1);
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
	c->cold_len = n_stubs(c) * ccf_stub_bytes(c);
	if (!c->check)
		c->cold_len += TC_HEADER + CHECK_MAX;
}

static void put_id(struct bt *bt, uint32_t checked, uint32_t id)
{
	memcpy(bt->rw + checked - sizeof(id), &id, sizeof(id));
}

/* Its own checked entry; the jump for when that fails leads nowhere yet. */
static void put_thunk(struct bt *bt, uint32_t id, uint8_t *header)
{
	struct ccf *c = &bt->ccf[id];
	struct emit e = {header, header, header + TC_HEADER + CHECK_MAX, false};

	put_header(&e);
	c->checked = e.p - bt->rw;
	patch_check(put_check(&e, c->rip), header);
	emit_patch(emit_jmp(&e), bt->rw + c->host + c->direct);
}

/* As put_check has it for an address that is not small: mov, movabs. */
static bool move_check(uint8_t *at, uint64_t rip)
{
	uint64_t imm = check_bias() - rip;

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

	if (!c->check && !move_check(at, c->rip)) {
		put_thunk(bt, id, at - TC_HEADER);
		put_id(bt, c->checked, id);
	}
	emit_patch(bt->rw + ccf_miss(c), bt->rw + TC_MISS_STUB);
}

void cold_put_stub(struct bt *bt, uint32_t id, unsigned i)
{
	const struct ccf *c = &bt->ccf[id];
	uint8_t *at = bt->rw + ccf_stub(c, i);
	struct emit e = {at, at, at + ccf_stub_bytes(c), false};

	if (c->n_pad) {
		if (c->exit[i].call)
			emit_mov(&e, R_RSP, S1);
		else
			ebytes(&e, nop3, CALL_ENTRY);
	}
	e8(&e, 0x41);
	e8(&e, 0xb8 | (S0 & 7));
	e32(&e, EXIT_ID(id, i));
	emit_patch(emit_jmp(&e), bt->rw + TC_CHAIN_STUB);
}

void cold_lead_stub(struct bt *bt, uint32_t id, unsigned i, uint32_t to)
{
	uint8_t *at = bt->rw + ccf_stub(&bt->ccf[id], i) + CALL_ENTRY;
	struct emit e = {at, at, at + CCF_STUB, false};

	emit_patch(emit_jmp(&e), bt->rw + to);
}

void cold_put(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned n = n_stubs(c);

	for (unsigned i = 0; i < n; i++) {
		cold_put_stub(bt, id, i);
		ccf_lead(bt, c, i, ccf_stub(c, i));
	}
	if (c->check)
		c->checked = c->host + c->check;
	else
		put_thunk(bt, id, bt->rw + ccf_stub(c, n));
	put_id(bt, c->checked, id);
	emit_patch(bt->rw + ccf_miss(c), bt->rw + TC_MISS_STUB);
}
