/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that are done in the TC: each is harmless where tu.c
 * lets it through. Everything else calls out.
 */
#include "vmm/bt/translate_priv.h"
#include "vmm/cpu/sys.h"
#include "vmm/x86/regs.h"

/* The host's arithmetic flags and DF, plus the guest's others from memory. */
void gen_pushf(struct tr *t)
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
	delta_lost(t);
}

void gen_swapgs(struct tr *t)
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
	delta_lost(t);
}

/* A register from a field of the vCPU: len 2 (zero-extended) or 8 bytes. */
void gen_from_vcpu(struct tr *t, int g, unsigned len, size_t field)
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
	else
		delta_wrote(t, 1u << g);
}

bool gen_from_sreg(struct tr *t, const struct tu_insn *in)
{
	unsigned s = ZydisRegisterGetId(in->op[1].reg);
	int g = reg_id(in->op[0].reg);
	size_t field =
		offsetof(struct vcpu, seg[0].sel) + s * sizeof(struct segment);

	if (in->op[0].size >= 32) {
		gen_from_vcpu(t, g, 2, field);
		return true;
	}
	if (is_special(g))
		return gen_callout(t, in);
	/* mov r16, [field] */
	e8(&t->e, 0x66);
	emit_op_mem(&t->e, 0, 0x8b, g, RT, -1, 0, BT_D_VCPU(field));
	delta_wrote(t, 1u << g);
	return true;
}

/* The address in r11, also in TMP2: a load that faults, and so calls the
 * interpreter, if it is not canonical. Bits 63..32 less the sign-extended bits
 * 47..32 are k * 2^16, and k * 2^48 is added to an address of ours. */
static void gen_check_canonical(struct tr *t)
{
	int32_t high = BT_D_HOT(HOT_TMP2) + 4;

	emit_op_mem(&t->e, 1, 0x63, S0, RT, -1, 0, high); /* movsxd */
	e8(&t->e, rex(1, S1, -1, RT));			  /* movsx, 16 bits */
	e8(&t->e, 0x0f);
	e8(&t->e, 0xbf);
	emit_modrm_mem(&t->e, S1, RT, -1, 0, high);
	emit_not(&t->e, S1);
	emit_lea_x(&t->e, S0, S0, S1, 0, 1);
	emit_store_imm(&t->e, RT, BT_D_HOT(HOT_TMP1), 0);
	emit_op_mem(&t->e, 0, 0x89, S0, RT, -1, 0, BT_D_HOT(HOT_TMP1) + 4);
	emit_load(&t->e, S0, RT, BT_D_HOT(HOT_TMP1));
	emit_load_x(&t->e, S0, RT, S0, 0, BT_D_HOT(HOT_TMP1));
	emit_load(&t->e, S0, RT, BT_D_HOT(HOT_TMP2));
}

/* WRFSBASE, WRGSBASE. The host form is made as bt_sync_in does: in the view of
 * CPL 3, but for a GS base in the kernel's half at CPL 0. */
void gen_wrbase(struct tr *t, const struct tu_insn *in)
{
	bool fs = in->i.mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
	unsigned s = fs ? SEG_FS : SEG_GS;

	load_guest(t, S0, ZydisRegisterGetId(in->op[0].reg));
	emit_store(&t->e, S0, RT, BT_D_HOT(HOT_TMP2));
	gen_check_canonical(t);
	if (fs || (t->bt->mode & MODE_USER)) {
		emit_load(&t->e, S1, RT, BT_D_HOT(HOT_RT_USER));
	} else {
		/* HOT_RT_KERN is the word below HOT_RT_USER. */
		emit_imm(&t->e, S1, 63);
		emit_sarx(&t->e, true, S1, S0, S1);
		emit_load_x(&t->e, S1, RT, S1, 3, BT_D_HOT(HOT_RT_USER));
	}
	emit_shrx(&t->e, S0, S0, RT);
	emit_load_x(&t->e, S0, S1, S0, 3, BT_D_TABLE);
	emit_load(&t->e, S1, RT, BT_D_HOT(HOT_TMP2));
	emit_lea_x(&t->e, S0, S0, S1, 0, 0);
	emit_store(&t->e, S1, RT,
		   BT_D_VCPU(offsetof(struct vcpu, seg[0].base) +
			     s * sizeof(struct segment)));
	emit_store(&t->e, S0, RT, BT_D_HOT(fs ? HOT_FS : HOT_GS));
	/* wrfsbase / wrgsbase r11 */
	e8(&t->e, 0xf3);
	e8(&t->e, rex(1, 0, -1, S0));
	e8(&t->e, 0x0f);
	e8(&t->e, 0xae);
	e8(&t->e, 0xc0 | (fs ? 2 : 3) << 3 | (S0 & 7));
	delta_lost(t);
}

/* XSAVE64, XSAVEC64, XRSTOR64: by stubs.S, which comes back. */
bool gen_xsave(struct tr *t, const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];
	unsigned stub = in->i.mnemonic == ZYDIS_MNEMONIC_XSAVE64 ? HOT_J_XSAVE
			: in->i.mnemonic == ZYDIS_MNEMONIC_XSAVEC64
				? HOT_J_XSAVEC
				: HOT_J_XRSTOR;
	enum cpu_feature f = stub == HOT_J_XSAVEC ? FEAT_XSAVEC : FEAT_XSAVE;
	struct mref m;

	if (!cpu_has(t->bt->v, f) || o->type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    o->mem.base == ZYDIS_REGISTER_EIP ||
	    o->mem.segment == ZYDIS_REGISTER_FS ||
	    o->mem.segment == ZYDIS_REGISTER_GS)
		return gen_callout(t, in);
	gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
	gen_mem(t, in, o, &m);
	if (m.base < 0)
		return gen_callout(t, in);
	if (m.index >= 0)
		emit_lea_x(&t->e, S0, m.base, m.index, m.ss, m.disp);
	else
		emit_lea(&t->e, S0, m.base, m.disp);
	gen_call_stub(t, BT_D_HOT(stub));
	return true;
}

/* By stubs.S, which comes back if it knows the answer. */
void gen_cpuid(struct tr *t)
{
	gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
	gen_call_stub(t, BT_D_VCPU(offsetof(struct vcpu, bt_j_cpuid)));
}

/* By stubs.S, from r11; it comes back if there is little to do, and the unit goes on,
 * in another address space. */
void gen_cr3(struct tr *t, const struct tu_insn *in)
{
	gen_place(t, BT_D_HOT(HOT_EXIT_INFO), here(t));
	load_guest(t, S0, ZydisRegisterGetId(in->op[1].reg));
	gen_call_stub(t, BT_D_VCPU(offsetof(struct vcpu, bt_j_cr3)));
}

bool gen_from_cr(struct tr *t, const struct tu_insn *in)
{
	size_t field;

	switch (in->op[1].reg) {
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
	gen_from_vcpu(t, reg_id(in->op[0].reg), 8, field);
	return true;
}

void gen_rdtsc(struct tr *t, bool with_aux)
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
	delta_wrote(t,
		    1u << R_RAX | 1u << R_RDX | (with_aux ? 1u << R_RCX : 0));
}
