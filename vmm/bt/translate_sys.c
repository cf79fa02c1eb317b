/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that are done in the TC: each is harmless where tu.c
 * lets it through. Everything else calls out.
 */
#include "vmm/bt/translate_priv.h"
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
	t->delta_base = -1;
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
	t->delta_base = -1;
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
	else if (t->delta_base == g)
		t->delta_base = -1;
}

void gen_from_sreg(struct tr *t, const struct tu_insn *in)
{
	unsigned s = ZydisRegisterGetId(in->op[1].reg.value);

	gen_from_vcpu(t, reg_id(in->op[0].reg.value), 2,
		      offsetof(struct vcpu, seg[0].sel) +
			      s * sizeof(struct segment));
}

bool gen_from_cr(struct tr *t, const struct tu_insn *in)
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
	if (t->delta_base == R_RAX || t->delta_base == R_RDX ||
	    t->delta_base == R_RCX)
		t->delta_base = -1;
}
