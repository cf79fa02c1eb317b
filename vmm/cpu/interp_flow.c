/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control flow and the stack. Handlers marked INSN_BRANCH set rip themselves. A
 * target is checked before anything is pushed.
 */
#include "vmm/cpu/interp_priv.h"

/* ---- near branches ---- */
static enum cpu_status check_target(struct vcpu *v, const struct insn *in,
				    uint64_t *target)
{
	if (likely(in->mode == X86_MODE_LONG64)) {
		if (unlikely(!gva_canonical(*target)))
			return vcpu_raise_err(v, EXC_GP, 0);
		return CPU_OK;
	}
	*target &= size_mask(in->opsize == 2 ? 2 : 4);
	if (*target > v->seg[SEG_CS].limit)
		return vcpu_raise_err(v, EXC_GP, 0);
	return CPU_OK;
}

static enum cpu_status jump(struct vcpu *v, const struct insn *in,
			    uint64_t target)
{
	TRY(check_target(v, in, &target));
	v->rip = target;
	return CPU_OK;
}

/* Target of a near JMP or CALL: relative, or a register or memory. */
static enum cpu_status near_target(struct vcpu *v, const struct insn *in,
				   uint64_t *target)
{
	if (in->op[0].kind == OPK_IMM)
		*target = rip_next(v, in) + in->imm;
	else
		TRY(opnd_read(v, in, 0, in->opsize, MEM_READ, target));
	return check_target(v, in, target);
}

static enum cpu_status h_jmp(struct vcpu *v, const struct insn *in)
{
	uint64_t t;

	TRY(near_target(v, in, &t));
	v->rip = t;
	return CPU_OK;
}

static enum cpu_status h_jcc(struct vcpu *v, const struct insn *in)
{
	uint64_t next = rip_next(v, in);

	if (!cond_true(v->rflags, in->cc)) {
		v->rip = next;
		return CPU_OK;
	}
	return jump(v, in, next + in->imm);
}

static enum cpu_status h_call(struct vcpu *v, const struct insn *in)
{
	uint64_t t;

	TRY(near_target(v, in, &t));
	TRY(push(v, in, in->opsize, rip_next(v, in)));
	v->rip = t;
	return CPU_OK;
}

static enum cpu_status h_ret(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in);
	uint64_t sp = sp_wrap(v->gpr[R_RSP], w), t;
	uint64_t pop = in->nops ? (uint16_t)in->imm : 0;

	TRY(stack_read(v, in, sp, in->opsize, &t));
	TRY(jump(v, in, t));
	sp_set(v, w, sp + in->opsize + pop);
	return CPU_OK;
}

static enum cpu_status h_loop(struct vcpu *v, const struct insn *in)
{
	uint64_t next = rip_next(v, in), n = reg_get(v, R_RCX, in->asize) - 1;
	bool taken = (n & size_mask(in->asize)) != 0;

	if (in->mnemonic == ZYDIS_MNEMONIC_LOOPE)
		taken = taken && (v->rflags & FL_ZF);
	else if (in->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
		taken = taken && !(v->rflags & FL_ZF);
	if (taken)
		TRY(jump(v, in, next + in->imm));
	else
		v->rip = next;
	reg_set(v, R_RCX, in->asize, n);
	return CPU_OK;
}

static enum cpu_status h_jcxz(struct vcpu *v, const struct insn *in)
{
	uint64_t next = rip_next(v, in);

	if (reg_get(v, R_RCX, in->asize) == 0)
		return jump(v, in, next + in->imm);
	v->rip = next;
	return CPU_OK;
}

/* ---- far transfers ---- */
static enum cpu_status far_pointer(struct vcpu *v, const struct insn *in,
				   uint16_t *sel, uint64_t *off)
{
	uint8_t buf[10];

	if (in->op[0].kind == OPK_IMM) {
		*sel = in->imm >> 32;
		*off = in->imm & size_mask(in->opsize);
		return CPU_OK;
	}
	TRY(mop_read(v, in, buf, in->opsize + 2, MEM_READ));
	*off = 0;
	memcpy(off, buf, in->opsize);
	memcpy(sel, buf + in->opsize, 2);
	return CPU_OK;
}

static enum cpu_status h_jmp_far(struct vcpu *v, const struct insn *in)
{
	uint16_t sel;
	uint64_t off;

	TRY(far_pointer(v, in, &sel, &off));
	return cpu_far_jmp(v, sel, off, in->opsize);
}

static enum cpu_status h_call_far(struct vcpu *v, const struct insn *in)
{
	uint16_t sel;
	uint64_t off;

	TRY(far_pointer(v, in, &sel, &off));
	return cpu_far_call(v, sel, off, in->opsize, rip_next(v, in));
}

static enum cpu_status h_ret_far(struct vcpu *v, const struct insn *in)
{
	return cpu_far_ret(v, in->opsize, in->nops ? in->imm : 0);
}

insn_fn interp_far_fn(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return h_jmp_far;
	case ZYDIS_MNEMONIC_CALL:
		return h_call_far;
	case ZYDIS_MNEMONIC_RET:
		return h_ret_far;
	default:
		return NULL;
	}
}

static enum cpu_status h_iret(struct vcpu *v, const struct insn *in)
{
	return cpu_iret(v, in->mnemonic == ZYDIS_MNEMONIC_IRETQ	  ? 8
			   : in->mnemonic == ZYDIS_MNEMONIC_IRETD ? 4
								  : 2);
}

static enum cpu_status h_int(struct vcpu *v, const struct insn *in)
{
	uint8_t vec;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_INT1:
		vec = EXC_DB;
		break;
	case ZYDIS_MNEMONIC_INT3:
		vec = EXC_BP;
		break;
	case ZYDIS_MNEMONIC_INTO:
		vec = EXC_OF;
		if (!(v->rflags & FL_OF)) {
			v->rip = rip_next(v, in);
			return CPU_OK;
		}
		break;
	default:
		vec = in->imm;
	}
	return cpu_soft_interrupt(v, vec, rip_next(v, in));
}

/* ---- stack ---- */
static enum cpu_status h_push(struct vcpu *v, const struct insn *in)
{
	const struct opnd *o = &in->op[0];
	uint64_t a = 0;

	if (o->kind == OPK_SEG)
		a = v->seg[o->reg].sel;
	else
		TRY(opnd_read(v, in, 0, in->opsize, MEM_READ, &a));
	return push(v, in, in->opsize, a);
}

static enum cpu_status h_pop(struct vcpu *v, const struct insn *in)
{
	const struct opnd *o = &in->op[0];
	unsigned w = stack_width(v, in), size = in->opsize;
	uint64_t old = v->gpr[R_RSP], sp = sp_wrap(old, w), a;
	enum cpu_status st;

	TRY(stack_read(v, in, sp, size, &a));
	if (o->kind == OPK_SEG) {
		TRY(cpu_load_seg(v, o->reg, a));
		sp_set(v, w, sp + size);
		if (o->reg == SEG_SS)
			v->irq_shadow = 1;
		return CPU_OK;
	}
	/* POP [rsp + x] addresses with the new rsp; POP rsp keeps the value. */
	sp_set(v, w, sp + size);
	st = opnd_write(v, in, 0, size, a);
	if (unlikely(st))
		v->gpr[R_RSP] = old;
	return st;
}

static enum cpu_status h_pusha(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in), size = in->opsize;
	uint64_t sp = sp_wrap(v->gpr[R_RSP] - 8 * size, w);
	uint8_t buf[32];
	gva_t lin;

	for (int r = 0; r < 8; r++)
		memcpy(buf + (7 - r) * size, &v->gpr[r], size);
	TRY(stack_linear(v, in, sp, 8 * size, MEM_WRITE, &lin));
	TRY(mem_write(v, lin, buf, 8 * size, MEM_WRITE | MEM_STACK));
	sp_set(v, w, sp);
	return CPU_OK;
}

static enum cpu_status h_popa(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in), size = in->opsize;
	uint64_t sp = sp_wrap(v->gpr[R_RSP], w), val;
	uint8_t buf[32];
	gva_t lin;

	TRY(stack_linear(v, in, sp, 8 * size, MEM_READ, &lin));
	TRY(mem_read(v, lin, buf, 8 * size, MEM_READ | MEM_STACK));
	for (int r = 0; r < 8; r++) {
		if (r == R_RSP)
			continue;
		val = 0;
		memcpy(&val, buf + (7 - r) * size, size);
		reg_set(v, r, size, val);
	}
	sp_set(v, w, sp + 8 * size);
	return CPU_OK;
}

static enum cpu_status h_pushf(struct vcpu *v, const struct insn *in)
{
	if ((v->rflags & FL_VM) && (v->rflags & FL_IOPL) != FL_IOPL)
		return vcpu_raise_err(v, EXC_GP, 0);
	return push(v, in, in->opsize, v->rflags & ~(FL_VM | FL_RF));
}

static enum cpu_status h_popf(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in), size = in->opsize;
	uint64_t sp = sp_wrap(v->gpr[R_RSP], w), a;

	TRY(stack_read(v, in, sp, size, &a));
	TRY(cpu_write_flags(v, a, size));
	sp_set(v, w, sp + size);
	return CPU_OK;
}

/* ENTER, SDM vol. 2. What it pushed before a fault lies below rsp. */
static enum cpu_status enter(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in), size = in->opsize;
	unsigned level = in->disp & 31;
	uint64_t frame, bp = v->gpr[R_RBP], a;
	gva_t lin;

	TRY(push(v, in, size, v->gpr[R_RBP]));
	frame = v->gpr[R_RSP];
	for (unsigned i = 1; i < level; i++) {
		bp = sp_wrap(bp - size, w);
		TRY(stack_read(v, in, bp, size, &a));
		TRY(push(v, in, size, a));
	}
	if (level)
		TRY(push(v, in, size, frame));
	a = sp_wrap(v->gpr[R_RSP] - (uint16_t)in->imm, w);
	TRY(stack_linear(v, in, a, size, MEM_WRITE, &lin));
	TRY(mem_probe_write(v, lin, 1, MEM_WRITE | MEM_STACK));
	reg_set(v, R_RBP, size, frame);
	sp_set(v, w, a);
	return CPU_OK;
}

static enum cpu_status h_enter(struct vcpu *v, const struct insn *in)
{
	uint64_t rsp = v->gpr[R_RSP];
	enum cpu_status st = enter(v, in);

	if (unlikely(st))
		v->gpr[R_RSP] = rsp;
	return st;
}

static enum cpu_status h_leave(struct vcpu *v, const struct insn *in)
{
	unsigned w = stack_width(v, in), size = in->opsize;
	uint64_t sp = sp_wrap(v->gpr[R_RBP], w), a;

	TRY(stack_read(v, in, sp, size, &a));
	sp_set(v, w, sp + size);
	reg_set(v, R_RBP, size, a);
	return CPU_OK;
}

/* clang-format off */
#define JCC(c) OPS1(J##c, INSN_BRANCH, h_jcc)
#define BR INSN_BRANCH
const struct op_desc interp_ops_flow[] = {
	OPS1(JMP, BR, h_jmp), OPS1(CALL, BR, h_call), OPS1(RET, BR, h_ret),
	JCC(O), JCC(NO), JCC(B), JCC(NB), JCC(Z), JCC(NZ), JCC(BE), JCC(NBE),
	JCC(S), JCC(NS), JCC(P), JCC(NP), JCC(L), JCC(NL), JCC(LE), JCC(NLE),
	OPS1(LOOP, BR, h_loop), OPS1(LOOPE, BR, h_loop),
	OPS1(LOOPNE, BR, h_loop), OPS1(JCXZ, BR, h_jcxz),
	OPS1(JECXZ, BR, h_jcxz), OPS1(JRCXZ, BR, h_jcxz),
	OPS1(IRET, BR | INSN_NOTRAP, h_iret),
	OPS1(IRETD, BR | INSN_NOTRAP, h_iret),
	OPS1(IRETQ, BR | INSN_NOTRAP, h_iret),
	OPS1(INT, BR | INSN_NOTRAP, h_int),
	OPS1(INT1, BR | INSN_NOTRAP, h_int),
	OPS1(INT3, BR | INSN_NOTRAP, h_int),
	OPS1(INTO, BR | INSN_NOTRAP, h_int),
	OPS1(PUSH, 0, h_push), OPS1(POP, 0, h_pop),
	OPS1(PUSHA, 0, h_pusha), OPS1(PUSHAD, 0, h_pusha),
	OPS1(POPA, 0, h_popa), OPS1(POPAD, 0, h_popa),
	OPS1(PUSHF, 0, h_pushf), OPS1(PUSHFD, 0, h_pushf),
	OPS1(PUSHFQ, 0, h_pushf), OPS1(POPF, 0, h_popf),
	OPS1(POPFD, 0, h_popf), OPS1(POPFQ, 0, h_popf),
	OPS1(ENTER, 0, h_enter), OPS1(LEAVE, 0, h_leave),
	{0},
};
/* clang-format on */
