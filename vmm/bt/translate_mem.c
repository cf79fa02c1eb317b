/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operands: guest registers and memory in host form, and instructions written
 * again with other registers.
 */
#include "vmm/bt/translate_priv.h"

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
	r->kind = kind;
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
		t->delta_base = -1;
}

/* Table entry of the slot of a constant address, as a displacement of rT. */
int32_t table_disp(uint64_t gva)
{
	return BT_D_TABLE + (int32_t)((gva >> 39) * 8);
}

/* The effective address of a memory operand into r11 (no segment base). */
void gen_ea(struct tr *t, const ZydisDecodedOperand *o)
{
	int base = -1, index = -1;
	unsigned ss = o->mem.scale == 8	  ? 3
		      : o->mem.scale == 4 ? 2
		      : o->mem.scale == 2 ? 1
					  : 0;
	int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;

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

/* delta of the address in host register a, into r10 */
void gen_delta(struct tr *t, unsigned a)
{
	emit_shrx(&t->e, S1, a, RT);
	emit_load_x(&t->e, S1, RT, S1, 3, BT_D_TABLE);
}

/* Make a memory operand addressable. Uses r10, and r11 unless the answer's
 * base is another register. */
void gen_mem(struct tr *t, const struct tu_insn *in,
	     const ZydisDecodedOperand *o, struct mref *m)
{
	bool seg = o->mem.segment == ZYDIS_REGISTER_FS ||
		   o->mem.segment == ZYDIS_REGISTER_GS;
	int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	int base = -1;

	*m = (struct mref){-1, -1, 0, 0, 0};
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		uint64_t a = in->rip + in->i.length + disp;

		if (seg && fits32(a)) {
			m->seg = o->mem.segment == ZYDIS_REGISTER_FS ? 0x64
								     : 0x65;
			m->disp = a;
			return;
		}
		if (!seg) {
			emit_load(&t->e, S1, RT, table_disp(a));
			t->delta_base = -1;
			if (fits32(a)) {
				m->base = S1;
				m->disp = a;
				return;
			}
			emit_imm(&t->e, S0, a);
			m->base = S0;
			m->index = S1;
			return;
		}
		emit_imm(&t->e, S0, a);
	} else if (o->mem.base == ZYDIS_REGISTER_NONE &&
		   o->mem.index == ZYDIS_REGISTER_NONE) {
		if (seg) {
			m->seg = o->mem.segment == ZYDIS_REGISTER_FS ? 0x64
								     : 0x65;
			m->disp = disp;
			return;
		}
		emit_load(&t->e, S1, RT, table_disp(disp));
		t->delta_base = -1;
		m->base = S1;
		m->disp = disp;
		return;
	} else if (!seg && o->mem.index == ZYDIS_REGISTER_NONE &&
		   ((disp < FAR && disp > -FAR) ||
		    o->mem.base == ZYDIS_REGISTER_RSP)) {
		base = ZydisRegisterGetId(o->mem.base);
		m->disp = disp;
		if (base == R_RSP) {
			m->base = R_RSP;
			return;
		}
		m->index = S1;
		if (is_special(base)) {
			load_guest(t, S0, base);
			gen_delta(t, S0);
			t->delta_base = -1;
			m->base = S0;
			return;
		}
		m->base = base;
		if (t->delta_base != base)
			gen_delta(t, base);
		t->delta_base = base;
		return;
	} else {
		gen_ea(t, o);
	}
	t->delta_base = -1;
	if (seg) {
		int s = o->mem.segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		emit_load(&t->e, S1, RT,
			  BT_D_VCPU(offsetof(struct vcpu, seg[s].base)));
		emit_lea_x(&t->e, S0, S0, S1, 0, 0);
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

void put_rewritten(struct tr *t, const struct tu_insn *in,
		   const struct rewrite *w)
{
	const uint8_t *b = in->bytes;
	unsigned n = in->i.length, p = 0, rexb = 0, modrm_at;
	bool has_modrm = in->i.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	uint8_t modrm = has_modrm ? b[in->i.raw.modrm.offset] : 0;
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
	if (in->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
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
		modrm_at = has_modrm ? in->i.raw.modrm.offset : 0;
		if (has_modrm) {
			ebytes(&t->e, b + p, modrm_at - p);
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
		tail = in->i.raw.modrm.offset + 1;
		if (in->i.attributes & ZYDIS_ATTRIB_HAS_SIB)
			tail++;
		tail += in->i.raw.disp.size / 8;
	} else {
		tail = p;
	}
	ebytes(&t->e, b + tail, n - tail);
}

/* Value of a 64-bit r/m operand into r11. */
void gen_rm64(struct tr *t, const struct tu_insn *in,
	      const ZydisDecodedOperand *o)
{
	struct mref m;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		load_guest(t, S0, ZydisRegisterGetId(o->reg.value));
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
