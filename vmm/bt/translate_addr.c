/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What in a unit's code depends on the unit's own address and place.
 *
 * Such a value is never emitted by itself: an instruction is emitted with some
 * constant of the same form, and field() writes the value over it and notes where
 * and what it is. reloc.c has the same function write the fields of a unit that
 * it moves. A field that somebody forgot to note has no address in it at all, not
 * even where it was translated.
 *
 * Whatever is decided by an address (the form of a constant, is a target
 * canonical?) is asked here, and each answer narrows [lo, hi), the addresses where
 * the same would be decided. What has no field of its own here (constants of 32
 * bits, as low addresses are; the first slots' table entries, which have a short
 * displacement; jumps to constants through the IBTC) pins the unit: it may be copied
 * to the same address in another context, and to no other.
 *
 * In pages, units keep their offset, so what depends on that (is it the same page?
 * the low byte of a return address) is no matter for here.
 */
#include "vmm/bt/translate_priv.h"
#include "vmm/mmu/walk.h"

#define TOP	  (1ll << 47)
/* From here on, an entry of the delta table takes 32 bits to displace. */
#define TABLE_LOW (8ll << 39)
_Static_assert(BT_D_TABLE + 8 * (TABLE_LOW >> 39) > 127, "TABLE_LOW");

void pin(struct tr *t)
{
	if (!t->c->hi)
		return;
	t->c->lo = t->c->rip;
	t->c->hi = t->c->lo + 1;
}

void unmovable(struct tr *t)
{
	t->c->lo = t->c->hi = 0;
	t->c->n_reloc = 0;
}

bool moves(struct tr *t, uint64_t a, int64_t lo)
{
	struct ccf *c = t->c;
	int64_t off = a - c->rip;

	if (!c->hi)
		return false;
	if ((int64_t)a < lo || (int64_t)a >= TOP || !fits32(off)) {
		pin(t);
		return false;
	}
	if (c->lo < lo - off)
		c->lo = lo - off;
	if (c->hi > TOP - off)
		c->hi = TOP - off;
	return true;
}

bool is_canonical(struct tr *t, uint64_t a)
{
	return moves(t, a, 0) || gva_canonical(a);
}

void field(struct tr *t, uint8_t *p, enum reloc_kind kind, int32_t off)
{
	struct ccf *c = t->c;
	struct reloc r = {off, p - t->e.start, kind};

	reloc_put(c, t->e.start, &r);
	if (!c->hi)
		return;
	if (c->n_reloc == RELOC_MAX)
		unmovable(t);
	else
		t->bt->reloc[c->reloc + c->n_reloc++] = r;
}

void gen_addr(struct tr *t, unsigned r, uint64_t a)
{
	if (moves(t, a, LOW_END)) {
		emit_imm(&t->e, r, LOW_END);
		field(t, t->e.p - 8, R_ADDR, a - t->c->rip);
	} else {
		emit_imm(&t->e, r, a);
	}
}

void gen_addr_delta(struct tr *t, uint64_t a)
{
	if (moves(t, a, TABLE_LOW)) {
		emit_load(&t->e, S1, RT, table_disp(TABLE_LOW));
		field(t, t->e.p - 4, R_TABLE, a - t->c->rip);
		delta_lost(t);
	} else {
		gen_slot_delta(t, a);
	}
}

void gen_addr_check(struct tr *t, uint64_t a, const uint8_t *miss)
{
	uint8_t *at = t->e.p;

	if (!moves(t, a, LOW_END)) {
		patch_check(put_check(&t->e, a), miss);
		return;
	}
	patch_check(put_check(&t->e, LOW_END), miss);
	field(t, at + CHECK_IMM, R_MINUS, a - t->c->rip);
}

uint32_t here(const struct tr *t)
{
	return t->e.p - t->e.start;
}

void gen_place(struct tr *t, int32_t d, uint32_t off)
{
	emit_store_imm32(&t->e, RT, d, 0);
	field(t, t->e.p - 4, R_HOST, off);
}
