/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operands: guest registers and memory in host form, and instructions written
 * again with other registers.
 */
#include "mm/base/log.h"
#include "vmm/bt/translate_priv.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/regs.h"

bool is_special(int g)
{
	return g == S0 || g == S1 || g == RT || g == R_RSP;
}

int reg_id(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
		/* AL..BL 0-3, AH..BH 4-7, SPL.. 8-11, R8B.. */
		if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
			return r - ZYDIS_REGISTER_AL;
		if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
			return r - ZYDIS_REGISTER_AH;
		if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
			return r - ZYDIS_REGISTER_SPL + 4;
		return r - ZYDIS_REGISTER_R8B + 8;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(r);
	default:
		return -1;
	}
}
bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

void recov_mark(struct tr *t, unsigned guest, enum recov_kind kind)
{
	struct recov *r = &t->bt->recov[t->c->recov + t->c->n_recov++];

	r->host = t->e.p - t->e.start;
	r->guest = guest;
	r->kind = kind == RK_NORMAL && t->moved ? RK_MOVED : kind;
}

/* Host register `dst` := guest register g (any). */
void load_guest(struct tr *t, unsigned dst, int g)
{
	if (g == R_RSP) {
		emit_load(&t->e, dst, RT, BT_D_HOT(HOT_RSP_NOTD));
		/* dst + rsp + 1; rsp cannot be an index */
		emit_lea_x(&t->e, dst, R_RSP, dst, 0, 1);
	} else if (is_special(g)) {
		emit_load(&t->e, dst, RT, BT_D_GPR(g));
	} else {
		emit_mov(&t->e, dst, g);
	}
	if (dst == S1)
		delta_lost(t);
}

unsigned scale_shift(const struct gop *o)
{
	return o->mem.scale == 8   ? 3
	       : o->mem.scale == 4 ? 2
				   : o->mem.scale == 2;
}

/* The effective address of a memory operand into r11 (no segment base). */
void gen_ea(struct tr *t, const struct gop *o)
{
	int base = -1, index = -1;
	unsigned ss = scale_shift(o);
	int64_t disp = o->mem.disp;

	if (o->mem.base != ZYDIS_REGISTER_NONE)
		base = ZydisRegisterGetId(o->mem.base);
	if (o->mem.index != ZYDIS_REGISTER_NONE)
		index = ZydisRegisterGetId(o->mem.index);
	if (base >= 0 && is_special(base)) {
		load_guest(t, S0, base);
		base = S0;
	}
	if (index >= 0 && is_special(index)) {
		load_guest(t, S1, index);
		index = S1;
	}
	if (base >= 0 && index >= 0) {
		emit_lea_x(&t->e, S0, base, index, ss, disp);
	} else if (base >= 0) {
		if (disp || base != S0)
			emit_lea(&t->e, S0, base, disp);
	} else if (index >= 0) {
		/* [index*s + disp32] has no base: mod 00, base 5 */
		e8(&t->e, rex(1, S0, index, 0));
		e8(&t->e, 0x8d);
		e8(&t->e, 0 << 6 | (S0 & 7) << 3 | 4);
		e8(&t->e, ss << 6 | (index & 7) << 3 | 5);
		e32(&t->e, disp);
	} else {
		emit_imm(&t->e, S0, disp);
	}
}

/* delta of the address in host register a, into work register to */
static void gen_delta_to(struct tr *t, unsigned to, unsigned a)
{
	emit_shrx(&t->e, to, a, RT);
	emit_load_x(&t->e, to, RT, to, 3, BT_D_TABLE);
}

/* The same into r10. */
void gen_delta(struct tr *t, unsigned a)
{
	gen_delta_to(t, S1, a);
}

/* The delta of the slot of a, which is a constant, into r10. */
void gen_slot_delta(struct tr *t, uint64_t a)
{
	int slot = a >> 39 & 511;

	if (t->slot == slot)
		return;
	emit_load(&t->e, S1, RT, table_disp(a));
	delta_lost(t);
	t->slot = slot;
}

/* r10 has the delta of this register, and nothing else has been done with it. */
static void near_is(struct tr *t, unsigned which, int base)
{
	if (which == NEAR_S1)
		t->slot = -1;
	t->near[which] = (struct near){1u << base, 0};
	if (which == NEAR_S0)
		t->was = t->near[which]; /* s0_kept keeps that */
	t->used = which;
}

/* The delta of base into r10, unless it is there; answers the host register
 * that has base's guest value. */
static int gen_near(struct tr *t, int base)
{
	int h = base;

	if (is_special(base)) {
		load_guest(t, S0, base);
		h = S0;
	}
	if (!(t->near[NEAR_S1].regs >> base & 1)) {
		gen_delta(t, h);
		near_is(t, NEAR_S1, base);
	}
	return h;
}

/*
 * The delta of base, which is in its register, into r10 or r11, and of what either
 * holds already the one: answers which. Of both, what was used last stays.
 */
static int gen_near_either(struct tr *t, int base)
{
	static const uint8_t work[] = {[NEAR_S1] = S1, [NEAR_S0] = S0};
	unsigned to = t->used == NEAR_S1 ? NEAR_S0 : NEAR_S1;

	if (!t->free_s0) {
		gen_near(t, base);
		return S1;
	}
	s0_kept(t);
	for (unsigned i = 0; i < 2; i++)
		if (t->near[i].regs >> base & 1) {
			t->used = i;
			return work[i];
		}
	if (!t->near[NEAR_S1].regs && t->slot < 0)
		to = NEAR_S1;
	else if (!t->near[NEAR_S0].regs)
		to = NEAR_S0;
	gen_delta_to(t, work[to], base);
	near_is(t, to, base);
	return work[to];
}

/*
 * A load of a register through itself in a loop follows a list: the next load
 * waits for the lookup of its delta, 6 cycles and more on top of the 4 or 5 of
 * the load. There, guess the slot, and let the CPU predict that the guess is
 * right. (For any pointer that has just been loaded, that is too much: python 1.1 to
 * 1.2, sqlite 1.04.) The guess is the slot that the register is in now, at translation; the
 * comparison is exact, and JRCXZ leaves the flags alone.
 */
static bool follows_list(const struct tr *t, const struct tu_insn *in, int base)
{
	const struct tu_insn *last = &t->tu->insn[t->tu->n - 1];
	uint64_t to;

	if (in->i.mnemonic != ZYDIS_MNEMONIC_MOV || is_special(base) ||
	    in->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    in->op[0].size != 64 || reg_id(in->op[0].reg) != base)
		return false;
	if (last->kind != K_JCC && last->kind != K_JMP)
		return false;
	to = branch_target(last);
	return to <= in->rip && in->rip - to < 256;
}

/* The guess is in one place, and the table is looked at where it turned out to be
 * right: whatever number a copy has there (reloc.c), the entry is the address's. */
static void gen_delta_guessed(struct tr *t, int base)
{
	uint8_t *miss, *done;

	emit_mov(&t->e, S0, R_RCX);
	emit_imm(&t->e, S1, 0);
	field(t, t->e.p - 4, R_GUESS, t->bt->v->gpr[base] >> 39);
	emit_not(&t->e, S1);
	emit_shrx(&t->e, R_RCX, base == R_RCX ? S0 : base, RT);
	emit_lea_x(&t->e, R_RCX, R_RCX, S1, 0, 1);
	e8(&t->e, 0xe3); /* jrcxz */
	e8(&t->e, 0);
	miss = t->e.p;
	emit_mov(&t->e, R_RCX, S0);
	gen_delta(t, base); /* may fault: everything is as it was */
	done = emit_jmp(&t->e);
	miss[-1] = t->e.p - miss;
	emit_mov(&t->e, R_RCX, S0);
	emit_not(&t->e, S1);
	emit_load_x(&t->e, S1, RT, S1, 3, BT_D_TABLE);
	emit_patch(done, t->e.p);
	near_is(t, NEAR_S1, base);
}

/* This operand needs no S0; nor does the rest of the instruction? */
static void s0_spared(struct tr *t)
{
	if (t->free_s0)
		s0_kept(t);
}

/* [x * 2^ss + disp], x an index, around the address disp. */
static void gen_mem_table(struct tr *t, int x, unsigned ss, int64_t disp,
			  struct mref *m)
{
	if (is_special(x)) {
		load_guest(t, S0, x);
		x = S0;
	} else {
		s0_spared(t);
	}
	gen_slot_delta(t, disp);
	*m = (struct mref){S1, x, ss, disp, 0};
}

/*
 * Operands whose slot is that of one register, or of the displacement, as far
 * as the guard reaches (translate_facts.c). False: not one of these.
 */
static bool gen_mem_near(struct tr *t, const struct tu_insn *in,
			 const struct gop *o, struct mref *m)
{
	int64_t disp = o->mem.disp;
	bool far = disp >= FAR || disp <= -FAR;
	int base = -1, index = -1;
	unsigned ss = scale_shift(o);

	if (o->mem.base != ZYDIS_REGISTER_NONE)
		base = ZydisRegisterGetId(o->mem.base);
	if (o->mem.index != ZYDIS_REGISTER_NONE)
		index = ZydisRegisterGetId(o->mem.index);
	if (base < 0) {
		if (!is_index(t, index, ss))
			return false;
		gen_mem_table(t, index, ss, disp, m);
		return true;
	}
	if (index < 0) {
		if (base == R_RSP) {
			*m = (struct mref){R_RSP, -1, 0, disp, 0};
			s0_spared(t);
			return true;
		}
		if (far && is_index(t, base, 0)) {
			gen_mem_table(t, base, 0, disp, m);
			return true;
		}
		if (far)
			return false;
		if (is_special(base)) {
			*m = (struct mref){gen_near(t, base), S1, 0, disp, 0};
			return true;
		}
		if (!(t->near[NEAR_S1].regs >> base & 1) &&
		    follows_list(t, in, base)) {
			gen_delta_guessed(t, base);
			t->free_s0 = false;
		}
		*m = (struct mref){base, gen_near_either(t, base), 0, disp, 0};
		return true;
	}
	if (far)
		return false;
	if (!is_index(t, index, ss)) {
		int x = base;

		if (ss || !is_index(t, base, 0) || base == R_RSP)
			return false;
		base = index;
		index = x;
	}
	if (base != R_RSP) {
		int h = gen_near(t, base);

		emit_lea_x(&t->e, S0, h, S1, 0, 0);
		base = S0;
	}
	if (is_special(index)) {
		load_guest(t, S1, index);
		index = S1;
	}
	*m = (struct mref){base, index, ss, disp, 0};
	return true;
}

/* Make a memory operand addressable. Uses r10, and r11 unless the answer has other
 * registers; r11, too, as an index, if free_s0 (translate_facts.c). */
void gen_mem(struct tr *t, const struct tu_insn *in, const struct gop *o,
	     struct mref *m)
{
	bool seg = o->mem.segment == ZYDIS_REGISTER_FS ||
		   o->mem.segment == ZYDIS_REGISTER_GS;
	int64_t disp = o->mem.disp;
	int32_t add = 0;
	int base = S0;

	*m = (struct mref){-1, -1, 0, 0, 0};
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		uint64_t a = in->rip + in->i.length + disp;

		if (fits32(a))
			pin(t);
		if (seg && fits32(a)) {
			m->seg = o->mem.segment == ZYDIS_REGISTER_FS ? 0x64
								     : 0x65;
			m->disp = a;
			return;
		}
		if (!seg) {
			gen_addr_delta(t, a);
			if (fits32(a)) {
				m->base = S1;
				m->disp = a;
				s0_spared(t);
				return;
			}
			gen_addr(t, S0, a);
			m->base = S0;
			m->index = S1;
			return;
		}
		gen_addr(t, S0, a);
	} else if (o->mem.base == ZYDIS_REGISTER_NONE &&
		   o->mem.index == ZYDIS_REGISTER_NONE) {
		if (seg) {
			m->seg = o->mem.segment == ZYDIS_REGISTER_FS ? 0x64
								     : 0x65;
			m->disp = disp;
			s0_spared(t);
			return;
		}
		gen_slot_delta(t, disp);
		s0_spared(t);
		m->base = S1;
		m->disp = disp;
		return;
	} else if (!seg && gen_mem_near(t, in, o, m)) {
		return;
	} else if (seg && o->mem.index == ZYDIS_REGISTER_NONE &&
		   !is_special(ZydisRegisterGetId(o->mem.base))) {
		base = ZydisRegisterGetId(o->mem.base);
		add = disp;
	} else {
		gen_ea(t, o);
	}
	delta_lost(t);
	if (seg) {
		int s = o->mem.segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		emit_load(&t->e, S1, RT,
			  BT_D_VCPU(offsetof(struct vcpu, seg[s].base)));
		emit_lea_x(&t->e, S0, base, S1, 0, add);
	}
	gen_delta(t, S0);
	m->base = S0;
	m->index = S1;
}

/* Does the operand's host form occupy r10 / r11? */
bool mref_uses(const struct mref *m, int r)
{
	return m->base == r || m->index == r;
}

static void put_modrm(struct tr *t, uint8_t modrm, const struct rewrite *w,
		      unsigned reg, unsigned rm)
{
	const struct mref *m = w->m;

	if (!m) {
		e8(&t->e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	} else if (m->base < 0) { /* absolute disp32 */
		e8(&t->e, (reg & 7) << 3 | 4);
		e8(&t->e, 0x25);
		e32(&t->e, m->disp);
	} else {
		emit_modrm_mem(&t->e, reg, m->base, m->index, m->ss, m->disp);
	}
}

/*
 * The same for EVEX, whose disp8 counts in units that depend on the instruction:
 * it stays as it is when it means the same as before, else there is none, or
 * four bytes.
 */
static void put_evex_modrm(struct tr *t, const struct tu_insn *in,
			   const struct mref *m, unsigned reg)
{
	const struct ginsn *i = &in->i;
	unsigned mod = 2;
	int64_t disp = 0;

	for (unsigned k = 0; k < i->operand_count; k++)
		if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			disp = in->op[k].mem.disp;
	if (i->disp_bits == 8 && disp == m->disp)
		mod = 1;
	else if (!m->disp && (m->base & 7) != R_RBP)
		mod = 0;
	if (m->index >= 0 || (m->base & 7) == R_RSP) {
		e8(&t->e, mod << 6 | (reg & 7) << 3 | 4);
		e8(&t->e, m->ss << 6 | (m->index >= 0 ? m->index & 7 : 4) << 3 |
				  (m->base & 7));
	} else {
		e8(&t->e, mod << 6 | (reg & 7) << 3 | (m->base & 7));
	}
	if (mod == 1)
		e8(&t->e, i->disp);
	else if (mod == 2)
		e32(&t->e, m->disp);
}

/* From the prefix (at in->bytes[p]) to the displacement. R', V' and, without
 * memory, X are the high bits of vector registers' numbers: they stay. */
static void put_evex(struct tr *t, const struct tu_insn *in,
		     const struct rewrite *w, unsigned p)
{
	const uint8_t *b = in->bytes + p;
	uint8_t modrm = in->bytes[in->i.modrm_at], p0 = b[1];
	unsigned reg = modrm >> 3 & 7, rm = modrm & 7;

	BUG_ON(w->vvvv >= 0 || w->opreg >= 0);
	if (w->reg >= 0) {
		reg = w->reg;
		p0 = (p0 & ~0x80) | 0x10 | (reg > 7 ? 0 : 0x80);
	}
	if (w->m) {
		p0 = (p0 & ~0x60) | (w->m->index > 7 ? 0 : 0x40) |
		     (w->m->base > 7 ? 0 : 0x20);
	} else if (w->rm >= 0) {
		rm = w->rm;
		p0 = (p0 & ~0x20) | 0x40 | (rm > 7 ? 0 : 0x20);
	}
	e8(&t->e, 0x62);
	e8(&t->e, p0);
	e8(&t->e, b[2]);
	e8(&t->e, b[3]);
	e8(&t->e, b[4]);
	if (w->m && w->m->base >= 0)
		put_evex_modrm(t, in, w->m, reg);
	else
		put_modrm(t, modrm, w, reg, rm);
}

void put_rewritten(struct tr *t, const struct tu_insn *in,
		   const struct rewrite *w)
{
	const uint8_t *b = in->bytes;
	unsigned n = in->i.length, p = 0, rexb = 0, modrm_at;
	bool has_modrm = in->i.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	uint8_t modrm = has_modrm ? b[in->i.modrm_at] : 0;
	unsigned reg, rm, bx = 0, xx = 0, tail;

	if (w->m && w->m->seg)
		e8(&t->e, w->m->seg);
	for (; p < n; p++) {
		switch (b[p]) {
		case 0x66:
		case 0xf2:
		case 0xf3:
		case 0xf0:
			e8(&t->e, b[p]);
			continue;
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x26:
		case 0x64:
		case 0x65:
		case 0x67:
			continue;
		}
		break;
	}
	if (in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    (b[p] & 0xf0) == 0x40)
		rexb = b[p++];
	if (in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		put_evex(t, in, w, p);
	} else if (in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		bool three = b[p] == 0xc4;
		uint8_t v1 = b[p + 1], v2 = three ? b[p + 2] : v1 & 0x7f;
		unsigned map = three ? v1 & 0x1f : 1;

		reg = (modrm >> 3 & 7) | (v1 & 0x80 ? 0 : 8);
		rm = (modrm & 7) | (three && !(v1 & 0x20) ? 8 : 0);
		if (w->reg >= 0)
			reg = w->reg;
		if (w->rm >= 0)
			rm = w->rm;
		if (w->vvvv >= 0)
			v2 = (v2 & 0x87) | (~w->vvvv & 15) << 3;
		if (!three)
			v2 &= 0x7f;
		if (w->m) {
			bx = w->m->base > 7;
			xx = w->m->index > 7;
		} else {
			bx = rm > 7;
		}
		e8(&t->e, 0xc4);
		e8(&t->e, (reg > 7 ? 0 : 0x80) | (xx ? 0 : 0x40) |
				  (bx ? 0 : 0x20) | map);
		e8(&t->e, v2);
		p += three ? 3 : 2;
		e8(&t->e, b[p++]);
		put_modrm(t, modrm, w, reg, rm);
	} else {
		unsigned r = 0;

		reg = (modrm >> 3 & 7) | (rexb & 4 ? 8 : 0);
		rm = (modrm & 7) | (rexb & 1 ? 8 : 0);
		if (w->reg >= 0)
			reg = w->reg;
		if (w->rm >= 0)
			rm = w->rm;
		if (has_modrm) {
			if (w->m) {
				bx = w->m->base > 7;
				xx = w->m->index > 7;
			} else {
				bx = rm > 7;
			}
			r = (reg > 7 ? 4 : 0) | (xx ? 2 : 0) | (bx ? 1 : 0);
		} else {
			r = w->opreg >= 0 ? (w->opreg > 7 ? 1 : 0) : rexb & 1;
		}
		r |= rexb & 8;
		if (rexb || r)
			e8(&t->e, 0x40 | r);
		modrm_at = has_modrm ? in->i.modrm_at : 0;
		if (has_modrm) {
			ebytes(&t->e, b + p, modrm_at - p - 1);
			e8(&t->e, b[modrm_at - 1] ^ w->flip);
			put_modrm(t, modrm, w, reg, rm);
		} else {
			if (b[p] == 0x0f)
				e8(&t->e, b[p++]);
			e8(&t->e, w->opreg >= 0 ? (b[p] & 0xf8) | (w->opreg & 7)
						: b[p]);
			p++;
		}
	}
	/* What follows ModRM, SIB and displacement: the immediate. */
	if (has_modrm) {
		tail = in->i.modrm_at + 1;
		if (in->i.attributes & ZYDIS_ATTRIB_HAS_SIB)
			tail++;
		tail += in->i.disp_bits / 8;
	} else {
		tail = p;
	}
	ebytes(&t->e, b + tail, n - tail);
}

/* Value of a 64-bit r/m operand into r11. */
void gen_rm64(struct tr *t, const struct tu_insn *in, const struct gop *o)
{
	struct mref m;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		load_guest(t, S0, ZydisRegisterGetId(o->reg));
		return;
	}
	gen_mem(t, in, o, &m);
	if (m.seg)
		e8(&t->e, m.seg);
	if (m.base < 0) {
		e8(&t->e, rex(1, S0, -1, 0));
		e8(&t->e, 0x8b);
		e8(&t->e, (S0 & 7) << 3 | 4);
		e8(&t->e, 0x25);
		e32(&t->e, m.disp);
	} else {
		emit_op_mem(&t->e, 1, 0x8b, S0, m.base, m.index, m.ss, m.disp);
	}
}
