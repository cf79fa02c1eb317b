/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to a handler: decode with Zydis, reject what the guest's CPUID
 * does not show (#UD: CPUID alone binds nobody), compress the operands, and look
 * the handler up by mnemonic and size. Runs once per place in the code; the
 * result is kept in the decode cache (interp.c).
 */
#include <pthread.h>

#include "vmm/cpu/interp_priv.h"

static const struct op_desc *by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build_table(void)
{
	static const struct op_desc *const lists[] = {
		interp_ops_alu, interp_ops_bits, interp_ops_flow,
		interp_ops_sys, interp_ops_fpu,	 interp_ops_save,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
		for (const struct op_desc *d = lists[i]; d->mnemonic; d++)
			by_mnemonic[d->mnemonic] = d;
}

enum cpu_status interp_ud(struct vcpu *v, const struct insn *in)
{
	return vcpu_raise(v, EXC_UD);
}

enum cpu_status interp_nop(struct vcpu *v, const struct insn *in)
{
	return CPU_OK;
}

/* ---- what CPUID shows ---- */
#define BASE   0xff
#define NEVER  0xfe
#define S(set) ZYDIS_ISA_SET_##set

/* clang-format off */
/* The feature of an ISA set, BASE (always there), or NEVER (never shown). */
static unsigned isa_feature(ZydisISASet set)
{
	switch (set) {
	case S(SSE3): case S(SSE3X87): return FEAT_SSE3;
	case S(SSSE3): case S(SSSE3MMX): return FEAT_SSSE3;
	case S(SSE4): return FEAT_SSE41;
	case S(SSE42): return FEAT_SSE42;
	case S(AVX): return FEAT_AVX;
	case S(AVX2): case S(AVX2GATHER): return FEAT_AVX2;
	case S(BMI1): return FEAT_BMI1;
	case S(BMI2): return FEAT_BMI2;
	case S(FMA): return FEAT_FMA;
	case S(F16C): return FEAT_F16C;
	case S(AES): case S(AVXAES): return FEAT_AES;
	case S(PCLMULQDQ): return FEAT_PCLMUL;
	case S(SHA): return FEAT_SHA;
	case S(ADOX_ADCX): return FEAT_ADX;
	case S(POPCNT): return FEAT_POPCNT;
	case S(LZCNT): return FEAT_LZCNT;
	case S(MOVBE): return FEAT_MOVBE;
	case S(RDRAND): return FEAT_RDRAND;
	case S(RDSEED): return FEAT_RDSEED;
	case S(RDTSCP): return FEAT_RDTSCP;
	case S(RDPID): return FEAT_RDPID;
	case S(RDWRFSGS): return FEAT_FSGSBASE;
	case S(INVPCID): return FEAT_INVPCID;
	case S(XSAVE): return FEAT_XSAVE;
	case S(XSAVEC): return FEAT_XSAVEC;
	case S(XSAVEOPT): return FEAT_XSAVEOPT;
	case S(CLFLUSHOPT): return FEAT_CLFLUSHOPT;
	case S(CLWB): return FEAT_CLWB;
	case S(CMPXCHG16B): return FEAT_CX16;
	case S(SMAP): return FEAT_SMAP;
	case S(GFNI): case S(AVX_GFNI): return FEAT_GFNI;
	case S(VAES): return FEAT_VAES;
	case S(VPCLMULQDQ): return FEAT_VPCLMUL;
#define LENGTHS(set) S(set##_128): case S(set##_256): case S(set##_512)
	case LENGTHS(AVX512F): case LENGTHS(AVX512BW): case LENGTHS(AVX512CD):
	case LENGTHS(AVX512DQ): case S(AVX512F_128N): case S(AVX512BW_128N):
	case S(AVX512DQ_128N): case S(AVX512F_SCALAR): case S(AVX512DQ_SCALAR):
	case S(AVX512F_KOP): case S(AVX512BW_KOP): case S(AVX512DQ_KOP):
		return FEAT_AVX512;
	case LENGTHS(AVX512_IFMA): return FEAT_IFMA;
	case LENGTHS(AVX512_VBMI): return FEAT_VBMI;
	case LENGTHS(AVX512_VBMI2): return FEAT_VBMI2;
	case LENGTHS(AVX512_VNNI): return FEAT_VNNI;
	case LENGTHS(AVX512_BITALG): return FEAT_BITALG;
	case LENGTHS(AVX512_VPOPCNTDQ): return FEAT_VPOPCNTDQ;
	case LENGTHS(AVX512_GFNI): return FEAT_GFNI;
	case LENGTHS(AVX512_VAES): return FEAT_VAES;
	case LENGTHS(AVX512_VPCLMULQDQ): return FEAT_VPCLMUL;
#undef LENGTHS
	case S(MONITOR): return FEAT_MONITOR;
	/* Everybody has these. */
	case S(CLFSH): case S(CMOV): case S(FAT_NOP): case S(FCMOV):
	case S(FXSAVE): case S(FXSAVE64): case S(I186): case S(I286PROTECTED):
	case S(I286REAL): case S(I386): case S(I486): case S(I486REAL):
	case S(I86): case S(LAHF): case S(LONGMODE): case S(PAUSE):
	case S(PENTIUMMMX): case S(PENTIUMREAL): case S(PPRO):
	case S(PREFETCH_NOP): case S(RDPMC): case S(SSE): case S(SSE2):
	case S(SSE2MMX): case S(SSEMXCSR): case S(SSE_PREFETCH): case S(X87):
	case S(AMD): case S(PREFETCHWT1): case S(INVALID):
		return BASE;
	default:
		return NEVER;
	}
}
/* clang-format on */
#undef S

static bool shown(const struct vcpu *v, const struct x86_insn *x)
{
	unsigned f = isa_feature(x->i.meta.isa_set);

	switch (x->i.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		if (!cpu_has(v, FEAT_AVX512))
			return false;
		break;
	default: /* 3DNow!, XOP, MVEX */
		return false;
	}
	return f == BASE || (f != NEVER && cpu_has(v, f));
}

/* ---- operands ---- */
static void decode_reg(struct opnd *o, ZydisRegister r)
{
	bool high;
	int n;

	if ((n = x86_gpr_number(r, &high)) >= 0) {
		o->kind = high ? OPK_REGH : OPK_REG;
	} else if ((n = x86_seg_number(r)) >= 0) {
		o->kind = OPK_SEG;
	} else if ((n = x86_vec_number(r)) >= 0) {
		o->kind = r >= ZYDIS_REGISTER_YMM0 ? OPK_YMM : OPK_XMM;
	} else if (r >= ZYDIS_REGISTER_MM0 && r <= ZYDIS_REGISTER_MM7) {
		o->kind = OPK_MM;
		n = r - ZYDIS_REGISTER_MM0;
	} else if (r >= ZYDIS_REGISTER_ST0 && r <= ZYDIS_REGISTER_ST7) {
		o->kind = OPK_ST;
		n = r - ZYDIS_REGISTER_ST0;
	} else if (r >= ZYDIS_REGISTER_CR0 && r <= ZYDIS_REGISTER_CR15) {
		o->kind = OPK_CR;
		n = r - ZYDIS_REGISTER_CR0;
	} else if (r >= ZYDIS_REGISTER_DR0 && r <= ZYDIS_REGISTER_DR15) {
		o->kind = OPK_DR;
		n = r - ZYDIS_REGISTER_DR0;
	} else {
		o->kind = OPK_OTHER;
		n = 0;
	}
	o->reg = n;
}

static void decode_mem(struct insn *in, const ZydisDecodedOperandMem *m)
{
	bool high;
	int n;

	if (m->disp.has_displacement) {
		in->disp = m->disp.value;
		if (in->disp != m->disp.value &&
		    in->mode == X86_MODE_LONG64) { /* MOV's moffs64 */
			in->disp64 = m->disp.value;
			in->flags |= INSN_DISP64;
		}
	}
	in->seg = x86_seg_number(m->segment) < 0 ? SEG_DS
						 : x86_seg_number(m->segment);
	if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP)
		in->flags |= INSN_RIPREL;
	else if ((n = x86_gpr_number(m->base, &high)) >= 0)
		in->base = n;
	n = x86_gpr_number(m->index, &high);
	if (n < 0)
		n = x86_vec_number(m->index);
	if (n >= 0) {
		in->index = n;
		in->scale = m->scale ? __builtin_ctz(m->scale) : 0;
	}
}

static void decode_imm(struct insn *in, const ZydisDecodedOperand *o,
		       unsigned nth)
{
	/* ENTER's second one; the few others with two are refused (SSE4A). */
	if (nth)
		in->disp = o->imm.value.u;
	else
		in->imm = o->imm.value.u;
}

/* The segment of operands that are not visible (string sources, XLAT,
 * MASKMOVQ): DS, or the override. */
static uint8_t override_seg(const struct x86_insn *x)
{
	ZydisInstructionAttributes a = x->i.attributes;

	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		return SEG_FS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		return SEG_GS;
	if (x->i.machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return SEG_DS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
		return SEG_ES;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
		return SEG_CS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
		return SEG_SS;
	return SEG_DS;
}

static void decode_operands(struct insn *in, const struct x86_insn *x)
{
	unsigned imms = 0;
	bool mem = false;

	for (unsigned k = 0; k < x->i.operand_count_visible && k < 4; k++) {
		const ZydisDecodedOperand *s = &x->op[k];
		struct opnd *o = &in->op[k];

		o->size = s->size / 8;
		if (s->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			in->actions |= 1u << (2 * k);
		if (s->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			in->actions |= 2u << (2 * k);
		switch (s->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			decode_reg(o, s->reg.value);
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			o->kind = OPK_MEM;
			decode_mem(in, &s->mem);
			mem = true;
			break;
		case ZYDIS_OPERAND_TYPE_POINTER:
			o->kind = OPK_IMM;
			in->imm =
				(uint64_t)s->ptr.segment << 32 | s->ptr.offset;
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			o->kind = OPK_IMM;
			decode_imm(in, s, imms++);
			break;
		default:
			o->kind = OPK_OTHER;
		}
		in->nops++;
	}
	if (!mem)
		in->seg = override_seg(x);
	if (in->mode == X86_MODE_LONG64 && in->seg != SEG_FS &&
	    in->seg != SEG_GS)
		in->flags |= INSN_FLAT;
	if (in->seg == SEG_SS)
		in->flags |= INSN_STACKSEG;
}

/* ---- the handler ---- */
static insn_fn pick(const struct op_desc *d, const struct insn *in)
{
	unsigned size;

	if (!d->fn[1] && !d->fn[3])
		return d->fn[0];
	size = d->fn[0] ? in->op[0].size : in->opsize;
	switch (size) {
	case 1:
		return d->fn[0];
	case 2:
		return d->fn[1];
	case 4:
		return d->fn[2];
	case 8:
		return d->fn[3];
	default:
		return NULL;
	}
}

static insn_fn pick_general(const struct op_desc *d, const struct x86_insn *x,
			    struct insn *in)
{
	insn_fn fn = NULL;

	in->flags |= d->flags;
	if (in->mnemonic == ZYDIS_MNEMONIC_MOV) {
		fn = interp_mov_system(in);
		if (fn &&
		    (in->op[0].kind == OPK_CR || in->op[1].kind == OPK_CR))
			in->flags |= INSN_VOLATILE;
		if (!fn)
			fn = interp_mov_fast(in);
	} else if (x->i.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
		fn = interp_far_fn(in);
	}
	return fn ? fn : pick(d, in);
}

/* String instructions first (they share names with SSE), then the tables, then
 * whatever the vector units have. */
static bool find_handler(struct vcpu *v, const struct x86_insn *x,
			 const uint8_t *bytes, struct insn *in)
{
	const struct op_desc *d;

	if (!shown(v, x))
		return false;
	if (interp_string_decode(x, in))
		return true;
	d = by_mnemonic[in->mnemonic];
	if (d && x->i.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		if (x->i.meta.category == ZYDIS_CATEGORY_AVX2GATHER)
			in->align = x->i.avx.vector_length / 8;
		in->fn = pick_general(d, x, in);
		return in->fn;
	}
	return interp_fpu_decode(v, x, bytes, in);
}

enum cpu_status interp_decode(struct vcpu *v, enum x86_mode mode, gva_t lin,
			      const uint8_t *buf, unsigned got, struct insn *in)
{
	struct x86_insn x;

	pthread_once(&once, build_table);
	switch (x86_decode(mode, buf, got, &x)) {
	case X86_DECODE_OK:
		break;
	case X86_DECODE_SHORT:
		return mem_fetch_fault(v, lin);
	case X86_DECODE_TOO_LONG:
		return vcpu_raise_err(v, EXC_GP, 0);
	default:
		return vcpu_raise(v, EXC_UD);
	}
	memset(in, 0, sizeof(*in));
	in->base = in->index = REG_NONE;
	in->lin = lin;
	in->mode = mode;
	memcpy(in->raw, buf, x.i.length);
	in->len = x.i.length;
	in->mnemonic = x.i.mnemonic;
	in->opsize = x.i.operand_width / 8;
	in->asize = x.i.address_width / 8;
	in->cc = x.i.opcode & 15;
	decode_operands(in, &x);
	if (!find_handler(v, &x, buf, in))
		return vcpu_raise(v, EXC_UD);
	return CPU_OK;
}
