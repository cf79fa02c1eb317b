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
 * the window, and the fault is then done slowly. With an index, the whole
 * address is computed first (an index may be anything). So:
 *
 *	shrx r10, base, rT ; mov r10, [rT + r10*8 + 25] ; op [base + r10 + disp]
 *
 * and a following access off the same unchanged base reuses r10.
 * [rsp + disp] and gs:[disp32], fs:[disp32] are IDENT.
 *
 * Exactness. Every sequence commits guest state last: whatever host
 * instruction faults, the guest's registers are those before the guest
 * instruction (kinds other than RK_NORMAL say what must be put back). This is
 * also why a sequence can be started again from its beginning.
 *
 * Layout of a CCF: [check that r11 is the unit's rip] [poll?] body, exits,
 * stubs. The first is for jumps through the IBTC, which is indexed by the low
 * 16 bits of the target only; chained jumps enter after it.
 *
 * Chaining is within a page only: the target is then in the same physical
 * page as the source, however the address space came to run it. Every jump
 * that leaves the page goes through the IBTC, with a constant index when the
 * target is constant; what is in the IBTC has been walked for.
 */
#include <string.h>

#include "mm/base/log.h"

#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/emit.h"
#include "vmm/x86/regs.h"

#define RT  15
/* With a displacement as large as this, the base is likely to be the index
 * and the displacement the address. */
#define FAR 0x100000
#define S0  11
#define S1  10

struct tr {
	struct bt *bt;
	const struct tu *tu;
	struct emit e;
	struct ccf *c;
	uint32_t id;
	int delta_base; /* guest register whose window's delta is in r10, or -1 */
	unsigned n_stub;
	struct {
		uint8_t *patch; /* rel32 that leads here */
		uint64_t target;
	} stub[4];
};

/* Host form of a memory operand. */
struct mref {
	int base, index; /* -1: none (absolute) */
	unsigned ss;
	int32_t disp;
	uint8_t seg; /* prefix to keep, or 0 */
};

static bool is_special(int g)
{
	return g == S0 || g == S1 || g == RT || g == R_RSP;
}

static int reg_id(ZydisRegister r)
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
static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static void recov_mark(struct tr *t, unsigned guest, enum recov_kind kind)
{
	struct recov *r = &t->bt->recov[t->c->recov + t->c->n_recov++];

	r->host = t->e.p - t->e.start;
	r->guest = guest;
	r->kind = kind;
}

/* Host register `dst` := guest register g (any). */
static void load_guest(struct tr *t, unsigned dst, int g)
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

/* RSP := guest value in host register v; uses the other work register. */
static void set_rsp(struct tr *t, unsigned v)
{
	unsigned s = v == S0 ? S1 : S0;

	emit_shrx(&t->e, s, v, RT);
	emit_load_x(&t->e, s, RT, s, 3, BT_D_TABLE);
	/* From here on nothing faults. */
	emit_store(&t->e, s, RT, BT_D_HOT(HOT_RSP_DELTA));
	emit_lea_x(&t->e, R_RSP, v, s, 0, 0);
	emit_not(&t->e, s);
	emit_store(&t->e, s, RT, BT_D_HOT(HOT_RSP_NOTD));
	t->delta_base = -1;
}

static void store_guest(struct tr *t, int g, unsigned src)
{
	if (g == R_RSP)
		set_rsp(t, src);
	else
		emit_store(&t->e, src, RT, BT_D_GPR(g));
}

/* Does it change anything but the one register it writes? */
static bool has_other_effects(const struct tu_insn *in, uint32_t written)
{
	const ZydisAccessedFlags *f = in->i.cpu_flags;

	for (unsigned k = 0; k < in->i.operand_count; k++)
		if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (in->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return true;
	return (written & (written - 1)) ||
	       (f && (f->modified | f->set_0 | f->set_1 | f->undefined));
}

/* Table entry of the slot of a constant address, as a displacement of rT. */
static int32_t table_disp(uint64_t gva)
{
	return BT_D_TABLE + (int32_t)((gva >> 39) * 8);
}

/* The effective address of a memory operand into r11 (no segment base). */
static void gen_ea(struct tr *t, const ZydisDecodedOperand *o)
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
static void gen_delta(struct tr *t, unsigned a)
{
	emit_shrx(&t->e, S1, a, RT);
	emit_load_x(&t->e, S1, RT, S1, 3, BT_D_TABLE);
}

/* Make a memory operand addressable. Uses r10, and r11 unless the answer's
 * base is another register. */
static void gen_mem(struct tr *t, const struct tu_insn *in,
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
static bool mref_uses(const struct mref *m, int r)
{
	return m->base == r || m->index == r;
}

/*
 * Write an instruction again with other registers: reg, rm (register form),
 * vvvv and opcode register when >= 0, the memory operand m when not NULL.
 */
struct rewrite {
	int reg, rm, vvvv, opreg;
	const struct mref *m;
};

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

static void put_rewritten(struct tr *t, const struct tu_insn *in,
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

/* ---- plain instructions ---- */

struct special {
	int g, host;
	bool read, write;
};

static struct special *special_add(struct special *s, unsigned *n, int g)
{
	for (unsigned i = 0; i < *n; i++)
		if (s[i].g == g)
			return &s[i];
	s[*n] = (struct special){g, -1, false, false};
	return &s[(*n)++];
}

static bool gen_callout(struct tr *t, const struct tu_insn *in);

/* RSP-changing arithmetic that compilers write: add/sub/and rsp, imm and
 * lea rsp, [rsp + disp]. False: not one of these. */
static bool flags_dead_after(const struct tr *t, unsigned k);

/*
 * Hazard 1: RSP moved by a constant again and again, never touching memory,
 * would walk off its window. So a unit that moves RSP touches memory close to
 * the new place (within +-2 GiB, and the guard is 512 GiB), by an instruction
 * of its own or by one that is added. No timing is involved.
 */
/* Does its memory operand mean an access to just there, whatever the registers
 * hold? BTS [rsp], rax goes elsewhere, VMASKMOV may go nowhere: only what is
 * known to. */
static bool surely_accesses(const struct tu_insn *in)
{
	switch (in->i.meta.category) {
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
		case K_PLAIN:
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
	recov_mark(t, in->rip + in->i.length - t->tu->rip, RK_NORMAL);
	emit_load(&t->e, S0, R_RSP, 0);
}

/* RSP := guest value in v, after an instruction that also changed flags or
 * other registers and so must not be done again: commit it to memory, then
 * derive. (Never v with another delta: that is an address of the guest's
 * choice, and the kernel looks at RSP when it delivers a signal.) */
static void commit_rsp(struct tr *t, const struct tu_insn *in, unsigned v)
{
	unsigned goff = in->rip + in->i.length - t->tu->rip;

	emit_store(&t->e, v, RT, BT_D_HOT(HOT_TMP0));
	recov_mark(t, goff, RK_RSP);
	set_rsp(t, v);
	recov_mark(t, goff, RK_NORMAL);
}

static bool gen_rsp_arith(struct tr *t, const struct tu_insn *in, unsigned k)
{
	const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];
	int64_t imm;

	if (d->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    d->reg.value != ZYDIS_REGISTER_RSP)
		return false;
	if (in->i.mnemonic == ZYDIS_MNEMONIC_LEA) {
		if (s->mem.base != ZYDIS_REGISTER_RSP ||
		    s->mem.index != ZYDIS_REGISTER_NONE ||
		    s->mem.disp.value < -65536 || s->mem.disp.value > 65536)
			return false;
		emit_lea(&t->e, R_RSP, R_RSP, s->mem.disp.value);
		settle_rsp(t, k);
		return true;
	}
	if (s->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return false;
	imm = s->imm.value.s;
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
	/* The flags are those of the guest's value. */
	load_guest(t, S0, R_RSP);
	e8(&t->e, rex(1, 0, -1, S0));
	e8(&t->e, 0x81);
	e8(&t->e, 0xc0 | (in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? 0 : 5) << 3 |
			  (S0 & 7));
	e32(&t->e, imm);
	emit_lea(&t->e, R_RSP, R_RSP,
		 in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? imm : -imm);
	settle_rsp(t, k);
	return true;
}

/* All six arithmetic flags are written, to values that do not depend on the
 * old ones. "Undefined" does not count: CPUs keep the old flag there (IMUL);
 * but the logical operations clear AF on every CPU there is. */
static bool kills_flags(const struct tu_insn *in)
{
	const ZydisAccessedFlags *f = in->i.cpu_flags;
	uint32_t set;

	if (in->kind != K_PLAIN || !f)
		return false;
	set = f->modified | f->set_0 | f->set_1;
	if (in->i.meta.category == ZYDIS_CATEGORY_LOGICAL)
		set |= FL_AF;
	else if (in->i.meta.category != ZYDIS_CATEGORY_BINARY)
		return false;
	return (set & ~f->undefined & FL_ARITH) == FL_ARITH ||
	       (in->i.meta.category == ZYDIS_CATEGORY_LOGICAL &&
		(set & FL_ARITH) == FL_ARITH &&
		!(f->undefined & FL_ARITH & ~FL_AF));
}
static bool reads_flags(const struct tu_insn *in)
{
	const ZydisAccessedFlags *f = in->i.cpu_flags;

	return in->kind != K_PLAIN ? in->kind != K_NOP : f && f->tested;
}
static bool may_fault(const struct tu_insn *in)
{
	if (in->kind == K_NOP)
		return false;
	if (in->kind != K_PLAIN)
		return true;
	if (in->i.mnemonic == ZYDIS_MNEMONIC_LEA)
		return false;
	for (unsigned k = 0; k < in->i.operand_count; k++)
		if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
	return in->i.mnemonic == ZYDIS_MNEMONIC_DIV ||
	       in->i.mnemonic == ZYDIS_MNEMONIC_IDIV ||
	       (in->i.meta.category != ZYDIS_CATEGORY_BINARY &&
		in->i.meta.category != ZYDIS_CATEGORY_LOGICAL &&
		in->i.meta.category != ZYDIS_CATEGORY_DATAXFER &&
		in->i.meta.category != ZYDIS_CATEGORY_SHIFT &&
		in->i.meta.category != ZYDIS_CATEGORY_ROTATE);
}

/* Are the arithmetic flags dead at the beginning of instruction k: written by
 * one that comes before any that reads them, or that may fault (a fault shows
 * them)? */
static bool flags_dead_at(const struct tr *t, unsigned k)
{
	for (; k < t->tu->n; k++) {
		const struct tu_insn *in = &t->tu->insn[k];

		if (reads_flags(in))
			return false;
		if (may_fault(in))
			return false;
		if (kills_flags(in))
			return true;
	}
	return false;
}
static bool flags_dead_after(const struct tr *t, unsigned k)
{
	return flags_dead_at(t, k + 1);
}

/* A byte instruction on AH..BH with a memory operand cannot have the REX
 * prefix that [base + r10] needs: lend it RSI for the address. */
static void gen_high_byte_mem(struct tr *t, const struct tu_insn *in,
			      unsigned goff, struct mref *m)
{
	struct mref rsi = {R_RSI, -1, 0, 0, 0};
	struct rewrite w = {-1, -1, -1, -1, &rsi};

	if (m->base < 0)
		emit_imm(&t->e, S0, m->disp);
	else if (m->index >= 0)
		emit_lea_x(&t->e, S0, m->base, m->index, m->ss, m->disp);
	else
		emit_lea(&t->e, S0, m->base, m->disp);
	emit_store(&t->e, R_RSI, RT, BT_D_HOT(HOT_TMP0));
	recov_mark(t, goff, RK_BORROW_RSI);
	emit_mov(&t->e, R_RSI, S0);
	put_rewritten(t, in, &w);
	emit_load(&t->e, R_RSI, RT, BT_D_HOT(HOT_TMP0));
}

static bool plain_operands(const struct tu_insn *in, struct special *sp,
			   unsigned *n_sp, const ZydisDecodedOperand **mem,
			   bool *high, uint32_t *written)
{
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		int g;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (*mem)
				return false;
			*mem = o;
			continue;
		}
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		g = reg_id(o->reg.value);
		if (g < 0)
			continue;
		if (is_high_byte(o->reg.value))
			*high = true;
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			*written |= 1u << g;
		if (is_special(g)) {
			struct special *s = special_add(sp, n_sp, g);

			if (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ |
					  ZYDIS_OPERAND_ACTION_CONDWRITE))
				s->read = true;
			if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
				s->write = true;
				/* BSF and BSR of 0 leave it as it was. */
				if (o->size < 32 ||
				    in->i.mnemonic == ZYDIS_MNEMONIC_BSF ||
				    in->i.mnemonic == ZYDIS_MNEMONIC_BSR)
					s->read = true;
			}
		}
	}
	return true;
}

static int special_host(const struct special *sp, unsigned n, int g)
{
	for (unsigned i = 0; i < n; i++)
		if (sp[i].g == g)
			return sp[i].host;
	return -1;
}

static void rewrite_regs(const struct tu_insn *in, const struct special *sp,
			 unsigned n_sp, struct rewrite *w)
{
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		int h;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    reg_id(o->reg.value) < 0)
			continue;
		h = special_host(sp, n_sp, reg_id(o->reg.value));
		if (h < 0)
			continue;
		switch (o->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			w->reg = h;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			w->rm = h;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			w->vvvv = h;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			w->opreg = h;
			break;
		default:
			break;
		}
	}
}

/* BT, BTS, BTR, BTC [mem], reg reach memory as far away as the register says:
 * make the address of the very word, and keep the bit's number within it. */
static bool is_bit_string(const struct tu_insn *in)
{
	return in->i.meta.category == ZYDIS_CATEGORY_BITBYTE &&
	       (in->i.mnemonic == ZYDIS_MNEMONIC_BT ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTS ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTR ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTC) &&
	       in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool gen_bit_string(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	int g = reg_id(in->op[1].reg.value);
	bool wide = in->op[1].size == 64;
	struct mref m = {S0, -1, 0, 0, 0};
	struct rewrite w = {S1, -1, -1, -1, &m};

	if (in->op[1].size == 16 || is_special(g))
		return gen_callout(t, in);
	if (o->mem.base == ZYDIS_REGISTER_RIP)
		emit_imm(&t->e, S0, in->rip + in->i.length + o->mem.disp.value);
	else
		gen_ea(t, o);
	if (o->mem.segment == ZYDIS_REGISTER_FS ||
	    o->mem.segment == ZYDIS_REGISTER_GS) {
		int s = o->mem.segment == ZYDIS_REGISTER_FS ? SEG_FS : SEG_GS;

		emit_load(&t->e, S1, RT,
			  BT_D_VCPU(offsetof(struct vcpu, seg[s].base)));
		emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	}
	emit_imm(&t->e, S1, wide ? 6 : 5);
	emit_sarx(&t->e, wide, S1, g, S1);
	if (!wide)
		emit_movsxd(&t->e, S1, S1);
	emit_lea_x(&t->e, S0, S0, S1, wide ? 3 : 2, 0);
	gen_delta(t, S0);
	emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	emit_imm(&t->e, S1, wide ? 63 : 31);
	emit_pextdep(&t->e, false, S1, g, S1);
	put_rewritten(t, in, &w);
	t->delta_base = -1;
	return true;
}

/* What is copied must mean to the CPU what it means to the decoder, also with
 * several segment prefixes. */
static bool has_seg_prefix(const struct tu_insn *in)
{
	for (unsigned p = 0; p < in->i.raw.prefix_count; p++)
		if (in->i.raw.prefixes[p].value == 0x64 ||
		    in->i.raw.prefixes[p].value == 0x65)
			return true;
	return false;
}

static bool gen_plain(struct tr *t, const struct tu_insn *in, unsigned k)
{
	struct special sp[4];
	unsigned n_sp = 0, avail[2], n_avail = 0, goff = in->rip - t->tu->rip;
	const ZydisDecodedOperand *mem = NULL;
	bool high = false, lea = in->i.mnemonic == ZYDIS_MNEMONIC_LEA;
	uint32_t written = 0;
	struct mref m;
	struct rewrite w = {-1, -1, -1, -1, NULL};

	/* AH..BH beside a work register, which would need a REX prefix:
	 * MOVZX ESP, AH and the like. */
	if (!plain_operands(in, sp, &n_sp, &mem, &high, &written) || n_sp > 3 ||
	    (high && n_sp))
		return gen_callout(t, in);
	if (is_bit_string(in))
		return gen_bit_string(t, in);
	if (n_sp && gen_rsp_arith(t, in, k))
		return true;
	if (lea) {
		/* Not an access: the address itself, in guest form. */
		int g = reg_id(in->op[0].reg.value);
		int b = mem->mem.base == ZYDIS_REGISTER_NONE ||
					mem->mem.base == ZYDIS_REGISTER_RIP
				? -1
				: ZydisRegisterGetId(mem->mem.base);
		int x = mem->mem.index == ZYDIS_REGISTER_NONE
				? -1
				: ZydisRegisterGetId(mem->mem.index);

		if (mem->mem.base == ZYDIS_REGISTER_RIP) {
			uint64_t a =
				in->rip + in->i.length + mem->mem.disp.value;
			int d = is_special(g) ? S0 : g;

			if (in->op[0].size == 16)
				return gen_callout(t, in);
			emit_imm(&t->e, d,
				 in->op[0].size == 32 ? (uint32_t)a : a);
			if (is_special(g))
				store_guest(t, g, S0);
			else if (t->delta_base == g)
				t->delta_base = -1;
			return true;
		}
		if (!is_special(g) && (b < 0 || !is_special(b)) &&
		    (x < 0 || !is_special(x))) {
			ebytes(&t->e, in->bytes, in->i.length);
			t->bt->stats.ident++;
			if (t->delta_base == g)
				t->delta_base = -1;
			return true;
		}
		if (in->op[0].size == 16)
			return gen_callout(t, in);
		gen_ea(t, mem);
		t->delta_base = -1;
		if (in->op[0].size == 32)
			emit_mov32(&t->e, S0, S0);
		if (is_special(g))
			store_guest(t, g, S0);
		else
			emit_mov(&t->e, g, S0);
		return true;
	}
	if (!mem && !n_sp) {
		ebytes(&t->e, in->bytes, in->i.length);
		t->bt->stats.ident++;
		goto out;
	}
	if (mem) {
		bool pure;

		if (n_sp > 1)
			return gen_callout(t, in);
		gen_mem(t, in, mem, &m);
		w.m = &m;
		if (high && !m.seg && m.base >= 0 &&
		    (m.base > 7 || m.index > 7)) {
			gen_high_byte_mem(t, in, goff, &m);
			recov_mark(t, goff + in->i.length, RK_NORMAL);
			t->delta_base = -1;
			goto out;
		}
		pure = n_sp && sp[0].write && !sp[0].read;
		if (n_sp && mref_uses(&m, S0) && !pure) {
			if (m.index >= 0) {
				emit_lea_x(&t->e, S0, m.base, m.index, m.ss,
					   m.disp);
				m = (struct mref){S0, -1, 0, 0, 0};
			}
			avail[n_avail++] = S1;
			t->delta_base = -1;
		} else {
			avail[n_avail++] = S0;
		}
	} else {
		avail[n_avail++] = S0;
		avail[n_avail++] = S1;
	}
	if (n_sp > n_avail)
		return gen_callout(t, in);
	for (unsigned i = 0; i < n_sp; i++) {
		sp[i].host = avail[i];
		if (avail[i] == S1)
			t->delta_base = -1;
		if (sp[i].read)
			load_guest(t, sp[i].host, sp[i].g);
	}
	rewrite_regs(in, sp, n_sp, &w);
	if (mem && !n_sp && m.base == R_RSP && m.index < 0 &&
	    !has_seg_prefix(in)) {
		ebytes(&t->e, in->bytes, in->i.length); /* [rsp+d] */
		t->bt->stats.ident++;
	} else {
		put_rewritten(t, in, &w);
	}
	for (unsigned i = 0; i < n_sp; i++)
		if (sp[i].write) {
			if (sp[i].g == R_RSP && n_sp > 1 && i + 1 < n_sp) {
				/* keep RSP for last: it needs both */
				struct special x = sp[i];

				sp[i] = sp[n_sp - 1];
				sp[n_sp - 1] = x;
				if (!sp[i].write)
					continue;
			}
			if (sp[i].g == R_RSP && has_other_effects(in, written))
				commit_rsp(t, in, sp[i].host);
			else
				store_guest(t, sp[i].g, sp[i].host);
		}
out:
	if (t->delta_base >= 0 && (written >> t->delta_base & 1))
		t->delta_base = -1;
	return true;
}

/* ---- ways out ---- */

static bool same_page(const struct tr *t, uint64_t target)
{
	/* Units in the last bytes of a page may straddle: never chained. */
	return !t->tu->straddle && !((target ^ t->tu->rip) >> PAGE_SHIFT) &&
	       (target & (PAGE_SIZE - 1)) < PAGE_SIZE - 15;
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
	if (!gva_canonical(target))
		emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_LAST_IND), 0);
	emit_imm(&t->e, S0, target);
	emit_jmp_m(&t->e, RT, BT_D_IBTC + 8 * (int32_t)(target & 0xffff));
}

static void gen_stubs(struct tr *t)
{
	unsigned n_exit = 0;

	for (unsigned i = 0; i < t->n_stub; i++) {
		uint64_t target = t->stub[i].target;
		uint16_t at = t->e.p - t->e.start;

		emit_patch(t->stub[i].patch, t->e.p);
		if (same_page(t, target)) {
			struct ccf_exit *x = &t->c->exit[n_exit++];

			x->patch = t->stub[i].patch - t->e.start;
			x->stub = at;
			x->target = target - t->tu->rip;
			emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_EXIT_INFO),
					 t->c->host + at);
			emit_jmp_m(&t->e, RT, BT_D_HOT(HOT_J_CHAIN));
		} else {
			gen_jmp_const(t, target);
		}
	}
}

/* Jump to the guest address in r11. */
static void gen_jmp_s0(struct tr *t)
{
	/* For a target that is not canonical: who wanted to go there? */
	emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_LAST_IND),
			 t->c->host + (t->e.p - t->e.start));
	emit_movzx16(&t->e, S1, S0);
	emit_jmp_x(&t->e, RT, S1, BT_D_IBTC);
}

static void gen_goto(struct tr *t, uint64_t target)
{
	if (same_page(t, target)) {
		add_exit(t, emit_jmp(&t->e), target);
	} else {
		gen_jmp_const(t, target);
	}
}

static bool gen_callout(struct tr *t, const struct tu_insn *in)
{
	uint32_t at = t->c->host + (t->e.p - t->e.start);

	emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_EXIT_INFO), at);
	emit_jmp_m(&t->e, RT, BT_D_HOT(HOT_J_CALLOUT));
	return false; /* the unit ends here */
}

static void gen_poll(struct tr *t, unsigned goff, int hot)
{
	recov_mark(t, goff, RK_NORMAL);
	emit_load(&t->e, S0, RT, BT_D_HOT(hot));
	emit_load(&t->e, S0, S0, 0);
}

static void gen_push_const(struct tr *t, uint64_t v)
{
	if (fits32(v)) {
		e8(&t->e, 0x68);
		e32(&t->e, v);
	} else {
		emit_imm(&t->e, S1, v);
		emit_push(&t->e, S1);
	}
	t->delta_base = -1;
}

/* Value of a 64-bit r/m operand into r11. */
static void gen_rm64(struct tr *t, const struct tu_insn *in,
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

static void gen_push(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	    (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	     !is_special(ZydisRegisterGetId(o->reg.value)))) {
		ebytes(&t->e, in->bytes, in->i.length);
		t->bt->stats.ident++;
		return;
	}
	gen_rm64(t, in, o);
	emit_push(&t->e, S0);
}

static bool gen_pop(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	struct mref m;
	int g;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		g = ZydisRegisterGetId(o->reg.value);
		if (g == R_RSP) {
			emit_load(&t->e, S0, R_RSP, 0);
			set_rsp(t, S0);
		} else if (is_special(g)) {
			emit_pop(&t->e, S0);
			store_guest(t, g, S0);
		} else {
			ebytes(&t->e, in->bytes, in->i.length);
			t->bt->stats.ident++;
			if (t->delta_base == g)
				t->delta_base = -1;
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
	t->delta_base = -1;
	return true;
}

static void gen_leave(struct tr *t)
{
	gen_delta(t, R_RBP);
	emit_load_x(&t->e, S0, R_RBP, S1, 0, 0);
	emit_store(&t->e, S1, RT, BT_D_HOT(HOT_RSP_DELTA));
	emit_lea_x(&t->e, R_RSP, R_RBP, S1, 0, 8);
	emit_not(&t->e, S1);
	emit_store(&t->e, S1, RT, BT_D_HOT(HOT_RSP_NOTD));
	emit_mov(&t->e, R_RBP, S0);
	t->delta_base = -1;
}

/* The host's arithmetic flags and DF, plus the guest's others from memory. */
static void gen_pushf(struct tr *t)
{
	e8(&t->e, 0x9c);
	emit_pop(&t->e, S0);
	emit_imm(&t->e, S1, FL_HOST);
	emit_pextdep(&t->e, false, S0, S0, S1);
	emit_pextdep(&t->e, true, S0, S0, S1);
	emit_load(&t->e, S1, RT, BT_D_VCPU(offsetof(struct vcpu, rflags)));
	emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	emit_load(&t->e, S1, RT, BT_D_HOT(HOT_IF));
	emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	emit_push(&t->e, S0);
	t->delta_base = -1;
}

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
static void gen_string(struct tr *t, const struct tu_insn *in)
{
	unsigned goff = in->rip - t->tu->rip;
	struct rewrite w = {-1, -1, -1, -1, NULL};
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
	t->delta_base = -1;
}

static void gen_swapgs(struct tr *t)
{
	int32_t gs = BT_D_VCPU(offsetof(struct vcpu, seg[SEG_GS].base));
	int32_t kgs = BT_D_VCPU(offsetof(struct vcpu, kernel_gs_base));

	emit_load(&t->e, S0, RT, gs);
	emit_load(&t->e, S1, RT, kgs);
	emit_store(&t->e, S1, RT, gs);
	emit_store(&t->e, S0, RT, kgs);
	emit_load(&t->e, S0, RT, BT_D_HOT(HOT_GS));
	emit_load(&t->e, S1, RT, BT_D_HOT(HOT_KGS));
	emit_store(&t->e, S1, RT, BT_D_HOT(HOT_GS));
	emit_store(&t->e, S0, RT, BT_D_HOT(HOT_KGS));
	/* wrgsbase r10 */
	e8(&t->e, 0xf3);
	e8(&t->e, rex(1, 0, -1, S1));
	e8(&t->e, 0x0f);
	e8(&t->e, 0xae);
	e8(&t->e, 0xc0 | 3 << 3 | (S1 & 7));
	t->delta_base = -1;
}

/* A register from a field of the vCPU: len 2 (zero-extended) or 8 bytes. */
static void gen_from_vcpu(struct tr *t, int g, unsigned len, size_t field)
{
	int d = is_special(g) ? S0 : g;

	if (len == 2) {
		e8(&t->e, rex(0, d, -1, RT));
		e8(&t->e, 0x0f);
		e8(&t->e, 0xb7);
		emit_modrm_mem(&t->e, d, RT, -1, 0, BT_D_VCPU(field));
	} else {
		emit_load(&t->e, d, RT, BT_D_VCPU(field));
	}
	if (is_special(g))
		store_guest(t, g, S0);
	else if (t->delta_base == g)
		t->delta_base = -1;
}

static void gen_from_sreg(struct tr *t, const struct tu_insn *in)
{
	unsigned s = ZydisRegisterGetId(in->op[1].reg.value);

	gen_from_vcpu(t, reg_id(in->op[0].reg.value), 2,
		      offsetof(struct vcpu, seg[0].sel) +
			      s * sizeof(struct segment));
}

static bool gen_from_cr(struct tr *t, const struct tu_insn *in)
{
	size_t field;

	switch (in->op[1].reg.value) {
	case ZYDIS_REGISTER_CR0:
		field = offsetof(struct vcpu, cr0);
		break;
	case ZYDIS_REGISTER_CR2:
		field = offsetof(struct vcpu, cr2);
		break;
	case ZYDIS_REGISTER_CR3:
		field = offsetof(struct vcpu, cr3);
		break;
	case ZYDIS_REGISTER_CR4:
		field = offsetof(struct vcpu, cr4);
		break;
	default:
		return gen_callout(t, in);
	}
	gen_from_vcpu(t, reg_id(in->op[0].reg.value), 8, field);
	return true;
}

static void gen_rdtsc(struct tr *t, bool with_aux)
{
	if (with_aux) {
		/* RDTSCP waits for what is before it; lfence; rdtsc */
		e8(&t->e, 0x0f);
		e8(&t->e, 0xae);
		e8(&t->e, 0xe8);
	}
	e8(&t->e, 0x0f);
	e8(&t->e, 0x31);
	if (with_aux) { /* mov ecx, [tsc_aux] */
		e8(&t->e, rex(0, R_RCX, -1, RT));
		e8(&t->e, 0x8b);
		emit_modrm_mem(&t->e, R_RCX, RT, -1, 0,
			       BT_D_VCPU(offsetof(struct vcpu, tsc_aux)));
	}
	if (t->delta_base == R_RAX || t->delta_base == R_RDX ||
	    t->delta_base == R_RCX)
		t->delta_base = -1;
}

static void gen_flow(struct tr *t, const struct tu_insn *in)
{
	const ZydisDecodedOperand *o = &in->op[0];
	uint64_t next = in->rip + in->i.length;
	uint64_t target =
		next +
		(o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.value.s : 0);
	uint8_t *p;

	/* The branch itself faults, before its effect. */
	if (!gva_canonical(target)) {
		gen_callout(t, in);
		return;
	}
	switch (in->kind) {
	case K_JCC:
		p = emit_jcc(&t->e, in->i.opcode & 15);
		add_exit(t, p, target);
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
		gen_push_const(t, next);
		gen_goto(t, target);
		break;
	case K_CALL_IND:
		gen_rm64(t, in, o);
		gen_push_const(t, next);
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
		gen_jmp_s0(t);
		break;
	case K_SYSCALL:
	case K_SYSRET:
		/* For the case that the stub gives it to the interpreter. */
		emit_store_imm32(&t->e, RT, BT_D_HOT(HOT_EXIT_INFO),
				 t->c->host + (t->e.p - t->e.start));
		if (in->kind == K_SYSCALL)
			emit_imm(&t->e, S0, next);
		emit_jmp_m(&t->e, RT,
			   BT_D_HOT(in->kind == K_SYSCALL ? HOT_J_SYSCALL
							  : HOT_J_SYSRET));
		break;
	default:
		gen_callout(t, in);
	}
}

/* True: go on with the next instruction. */
static bool gen_insn(struct tr *t, unsigned k)
{
	const struct tu_insn *in = &t->tu->insn[k];

	recov_mark(t, in->rip - t->tu->rip, RK_NORMAL);
	switch (in->kind) {
	case K_PLAIN:
		return gen_plain(t, in, k);
	case K_NOP:
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
			t, reg_id(in->op[0].reg.value), 8,
			in->i.mnemonic == ZYDIS_MNEMONIC_RDFSBASE
				? offsetof(struct vcpu, seg[SEG_FS].base)
				: offsetof(struct vcpu, seg[SEG_GS].base));
		return true;
	case K_MOV_FROM_SREG:
		gen_from_sreg(t, in);
		return true;
	case K_MOV_FROM_CR:
		return gen_from_cr(t, in);
	default:
		gen_flow(t, in);
		return false;
	}
}

/* Any loop goes through a unit that ends with a backward or an indirect
 * branch: such units look for kicks. */
static bool needs_poll(const struct tu *tu)
{
	const struct tu_insn *in = &tu->insn[tu->n - 1];

	switch (in->kind) {
	case K_JMP_IND:
	case K_CALL_IND:
	case K_RET:
	case K_SYSCALL:
	case K_SYSRET:
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

/*
 * The checked entry: r11 must be this unit's rip. It must not write the flags
 * even where this unit does not need them: a jump that is not meant for it
 * (two targets share an IBTC entry) goes on to another, which may.
 */
static void gen_check(struct tr *t)
{
	uint64_t rip = t->tu->rip;
	uint8_t *p, *patch;

	emit_store(&t->e, R_RCX, RT, BT_D_HOT(HOT_TMP2));
	if (fits32(-rip)) {
		emit_lea(&t->e, R_RCX, S0, -rip);
	} else {
		emit_imm(&t->e, R_RCX, -rip);
		emit_lea_x(&t->e, R_RCX, R_RCX, S0, 0, 0);
	}
	e8(&t->e, 0xe3); /* jrcxz over the miss */
	e8(&t->e, 0);
	p = t->e.p;
	emit_load(&t->e, R_RCX, RT, BT_D_HOT(HOT_TMP2));
	/* To the next unit that shares the entry, or out. */
	patch = emit_jmp(&t->e);
	t->c->miss = patch - t->e.start;
	emit_patch(patch, t->bt->rw + TC_MISS_STUB);
	p[-1] = t->e.p - p;
	emit_load(&t->e, R_RCX, RT, BT_D_HOT(HOT_TMP2));
}

#define CCF_MAX_BYTES 2560

uint32_t bt_translate(struct bt *bt, const struct tu *tu)
{
	struct tr t = {.bt = bt, .tu = tu, .delta_base = -1};
	struct ccf *c;
	bool go = true, poll;

	if (bt->n_ccf >= bt->max_ccf ||
	    bt->tc_used + CCF_MAX_BYTES > bt->tc_size ||
	    bt->n_recov + 4 * TU_MAX + 8 > bt->max_recov)
		return 0;
	t.id = bt->n_ccf;
	c = t.c = &bt->ccf[t.id];
	memset(c, 0, sizeof(*c));
	c->rip = tu->rip;
	c->ppn = tu->ppn;
	c->ppn2 = tu->ppn2;
	c->host = bt->tc_used;
	c->recov = bt->n_recov;
	c->mode = bt->mode;
	c->n_insn = tu->n;
	c->guest_len = tu->next - tu->rip;
	c->flags = tu->straddle ? CCF_STRADDLE : 0;
	t.e.start = t.e.p = bt->rw + bt->tc_used;
	t.e.end = t.e.start + CCF_MAX_BYTES;

	poll = needs_poll(tu);
	gen_check(&t);
	c->direct = t.e.p - t.e.start;
	if (poll)
		gen_poll(&t, 0, HOT_POLL);
	for (unsigned k = 0; k < tu->n && go; k++)
		go = gen_insn(&t, k);
	if (go)
		gen_goto(&t, tu->next);
	gen_stubs(&t);
	BUG_ON(t.e.overflow);
	c->host_len = t.e.p - t.e.start;

	bt->n_ccf++;
	bt->n_recov += c->n_recov;
	bt->tc_used += (c->host_len + 15) & ~15u;
	bt->stats.translations++;
	bt->stats.guest_insns += tu->n;
	bt->stats.guest_bytes += c->guest_len;
	bt->stats.host_bytes += c->host_len;
	tc_insert(bt, t.id);
	return t.id;
}
