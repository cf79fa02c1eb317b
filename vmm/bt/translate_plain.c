/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain instructions: copied where the host's registers and memory mean what
 * the guest's do, else written again with host operands around work registers.
 */
#include "vmm/bt/translate_priv.h"

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

/* A byte instruction on AH..BH with a memory operand cannot have the REX
 * prefix that [base + r10] needs: lend it RSI for the address. */
static void gen_high_byte_mem(struct tr *t, const struct tu_insn *in,
			      unsigned goff, struct mref *m)
{
	struct mref rsi = {R_RSI, -1, 0, 0, 0};
	struct rewrite w = {-1, -1, -1, -1, &rsi, 0};

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
			   unsigned *n_sp, const struct gop **mem, bool *high,
			   uint32_t *written)
{
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];
		int g;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (*mem)
				return false;
			*mem = o;
			continue;
		}
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		g = reg_id(o->reg);
		if (g < 0)
			continue;
		if (is_high_byte(o->reg))
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
		const struct gop *o = &in->op[k];
		int h;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    reg_id(o->reg) < 0)
			continue;
		h = special_host(sp, n_sp, reg_id(o->reg));
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
	return in->i.category == ZYDIS_CATEGORY_BITBYTE &&
	       (in->i.mnemonic == ZYDIS_MNEMONIC_BT ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTS ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTR ||
		in->i.mnemonic == ZYDIS_MNEMONIC_BTC) &&
	       in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool gen_bit_string(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];
	int g = reg_id(in->op[1].reg);
	bool wide = in->op[1].size == 64;
	struct mref m = {S0, -1, 0, 0, 0};
	struct rewrite w = {S1, -1, -1, -1, &m, 0};

	if (in->op[1].size == 16 || is_special(g))
		return gen_callout(t, in);
	if (o->mem.base == ZYDIS_REGISTER_RIP)
		gen_addr(t, S0, in->rip + in->i.length + o->mem.disp);
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
	delta_lost(t);
	return true;
}

/* What is copied must mean to the CPU what it means to the decoder, also with
 * several segment prefixes. */
static bool has_seg_prefix(const struct tu_insn *in)
{
	for (unsigned p = 0; p < in->i.n_prefix; p++)
		if (in->bytes[p] == 0x64 || in->bytes[p] == 0x65)
			return true;
	return false;
}

/* Does it mean the same with memory where it has a register rm? (Not so: bit
 * strings; XCHG, which would lock; what widens a result in a register.) */
static bool rm_may_be_memory(const struct tu_insn *in, const struct gop *o)
{
	/* A 32-bit result would leave the upper half as it was. */
	if ((o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && o->size == 32)
		return false;
	switch (in->i.category) {
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL:
		return true;
	case ZYDIS_CATEGORY_SHIFT:
		return in->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	case ZYDIS_CATEGORY_CMOV:
		return !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	case ZYDIS_CATEGORY_DATAXFER:
		switch (in->i.mnemonic) {
		case ZYDIS_MNEMONIC_MOV:
		case ZYDIS_MNEMONIC_MOVZX:
		case ZYDIS_MNEMONIC_MOVSX:
		case ZYDIS_MNEMONIC_MOVSXD:
			return true;
		default:
			return false;
		}
	default:
		return false;
	}
}

/*
 * One operand is a guest register that lives in memory (r10, r11, r15), and
 * the instruction has a form with just that operand in memory: as it is when
 * the register is ModRM.rm; with the operands' direction turned round when it
 * is ModRM.reg of one of the eight arithmetic operations, MOV or TEST.
 */
static bool gen_direct(struct tr *t, const struct tu_insn *in, int g)
{
	const struct gop *o = NULL;
	struct mref m = {RT, -1, 0, BT_D_GPR(g), 0};
	struct rewrite w = {-1, -1, -1, -1, &m, 0};
	uint8_t op = in->i.opcode, modrm, rexb = 0;

	if (g == R_RSP || in->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    !(in->i.attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return false;
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		if (in->op[k].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    reg_id(in->op[k].reg) != g)
			continue;
		if (o)
			return false;
		o = &in->op[k];
	}
	if (!o || !rm_may_be_memory(in, o))
		return false;
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
		modrm = in->bytes[in->i.modrm_at];
		rexb = in->i.rex_b;
		if (in->i.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
			return false;
		if ((op < 0x40 && (op & 7) < 4) || (op & 0xfc) == 0x88)
			w.flip = 2;
		else if ((op & 0xfe) != 0x84)
			return false;
		w.reg = (modrm & 7) | rexb << 3;
	} else if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM) {
		return false;
	}
	put_rewritten(t, in, &w);
	return true;
}

/*
 * op reg, [mem], 64 bits, where reg lives in memory: the operand is loaded, and the
 * arithmetic done on reg's place: two instructions behind the look-up, not the four
 * that it takes to have reg in a work register, of which there are two in all.
 */
static bool gen_direct_mem(struct tr *t, const struct tu_insn *in, int g,
			   const struct gop *mem)
{
	uint8_t op = in->i.opcode;

	if (g == R_RSP || in->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    in->i.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || op >= 0x40 ||
	    (op & 7) != 3 || in->op[0].size != 64 ||
	    in->op[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return false;
	gen_rm64(t, in, mem);
	emit_op_mem(&t->e, 1, op ^ 2, S0, RT, -1, 0, BT_D_GPR(g));
	return true;
}

bool gen_plain(struct tr *t, const struct tu_insn *in, unsigned k)
{
	struct special sp[4];
	unsigned n_sp = 0, avail[2], n_avail = 0, goff = in->rip - t->tu->rip;
	const struct gop *mem = NULL;
	bool high = false, lea = in->i.mnemonic == ZYDIS_MNEMONIC_LEA;
	uint32_t written = 0;
	struct mref m;
	struct rewrite w = {-1, -1, -1, -1, NULL, 0};

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
		int g = reg_id(in->op[0].reg);
		int b = mem->mem.base == ZYDIS_REGISTER_NONE ||
					mem->mem.base == ZYDIS_REGISTER_RIP
				? -1
				: ZydisRegisterGetId(mem->mem.base);
		int x = mem->mem.index == ZYDIS_REGISTER_NONE
				? -1
				: ZydisRegisterGetId(mem->mem.index);

		if (mem->mem.base == ZYDIS_REGISTER_RIP) {
			uint64_t a = in->rip + in->i.length + mem->mem.disp;
			int d = is_special(g) ? S0 : g;

			if (in->op[0].size == 16)
				return gen_callout(t, in);
			if (in->op[0].size == 32) {
				pin(t); /* there is no field of 32 bits */
				emit_imm(&t->e, d, (uint32_t)a);
			} else {
				gen_addr(t, d, a);
			}
			if (is_special(g))
				store_guest(t, g, S0);
			return true;
		}
		if (!is_special(g) && (b < 0 || !is_special(b)) &&
		    (x < 0 || !is_special(x))) {
			ebytes(&t->e, in->bytes, in->i.length);
			t->bt->stats.ident++;
			s0_kept(t);
			return true;
		}
		if (in->op[0].size == 16)
			return gen_callout(t, in);
		gen_ea(t, mem);
		delta_lost(t);
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
		s0_kept(t);
		return true;
	}
	if (!mem && n_sp == 1 && gen_direct(t, in, sp[0].g)) {
		s0_kept(t);
		return true;
	}
	t->free_s0 = !n_sp && !high;
	if (mem) {
		bool pure;

		if (n_sp > 1)
			return gen_callout(t, in);
		if (n_sp && gen_direct_mem(t, in, sp[0].g, mem))
			return true;
		gen_mem(t, in, mem, &m);
		w.m = &m;
		if (high && !m.seg && m.base >= 0 &&
		    (m.base > 7 || m.index > 7)) {
			gen_high_byte_mem(t, in, goff, &m);
			recov_mark(t, goff + in->i.length, RK_NORMAL);
			delta_lost(t);
			return true;
		}
		pure = n_sp && sp[0].write && !sp[0].read;
		if (n_sp && mref_uses(&m, S0) && !pure) {
			if (m.index >= 0) {
				emit_lea_x(&t->e, S0, m.base, m.index, m.ss,
					   m.disp);
				m = (struct mref){S0, -1, 0, 0, 0};
			}
			avail[n_avail++] = S1;
			delta_lost(t);
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
			delta_lost(t);
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
	return true;
}
