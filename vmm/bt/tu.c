/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A translation unit: up to TU_MAX guest instructions from one page, one after
 * the other, ending with the first that changes the flow (but for a few
 * conditional branches forward, which it runs past, and calls that are paired
 * with their returns, after which it goes on), and what kind of care each needs.
 *
 * A unit that ends with a conditional branch to its own start is a whole loop.
 * A short one is written down several times, one after the other: the branches
 * in the middle leave the unit where the loop ends (gen_flow). The unit looks
 * for kicks once, at its start, and what is known of registers carries over. In
 * a loop of 15 instructions whose loads miss, the poll's two loads took the
 * place of a tenth of the loop in the CPU's window. (Units of 28 and 32 instructions
 * with four and five branches in them gained nothing: 1.00, gcc 1.01 and 1.03.)
 *
 * The rule of safety is here: an instruction is copied or re-encoded only if
 * it is known to be harmless (its instruction set is on the list and in the
 * guest's CPUID, its category is on the list, all its register operands are
 * general, vector, mask or x87 registers, its one memory operand is an ordinary
 * ModRM operand). Everything else calls out to the system semantics, which
 * raise #UD for what is not there. A raw `syscall` can so never be emitted.
 */
#include <errno.h>
#include <string.h>

#include "vmm/bt/bt_priv.h"
#include "vmm/cpu/sys.h"
#include "vmm/mmu/walk.h"

/* Instruction sets that may be translated; feat -1: every x86-64 has it. */
struct isa_rule {
	uint8_t ok;
	int8_t feat; /* enum cpu_feature or -1 */
	uint8_t vec; /* 1: x87/MMX/SSE state, 2: AVX state, 3: AVX-512 */
};
static struct isa_rule isa[ZYDIS_ISA_SET_MAX_VALUE + 1];
static uint8_t category_ok[ZYDIS_CATEGORY_MAX_VALUE + 1];

void tu_init(void)
{
	static const struct {
		uint8_t set;
		struct isa_rule r;
	} sets[] = {
		{ZYDIS_ISA_SET_I86, {1, -1, 0}},
		{ZYDIS_ISA_SET_I186, {1, -1, 0}},
		{ZYDIS_ISA_SET_I386, {1, -1, 0}},
		{ZYDIS_ISA_SET_I486, {1, -1, 0}},
		{ZYDIS_ISA_SET_I486REAL, {1, -1, 0}},
		{ZYDIS_ISA_SET_PENTIUMREAL, {1, -1, 0}},
		{ZYDIS_ISA_SET_PPRO, {1, -1, 0}},
		{ZYDIS_ISA_SET_LONGMODE, {1, -1, 0}},
		{ZYDIS_ISA_SET_CMOV, {1, -1, 0}},
		{ZYDIS_ISA_SET_FAT_NOP, {1, -1, 0}},
		{ZYDIS_ISA_SET_PREFETCH_NOP, {1, -1, 0}},
		{ZYDIS_ISA_SET_SSE_PREFETCH, {1, -1, 0}},
		{ZYDIS_ISA_SET_PAUSE, {1, -1, 0}},
		{ZYDIS_ISA_SET_LAHF, {1, -1, 0}},
		{ZYDIS_ISA_SET_CLFSH, {1, -1, 0}},
		{ZYDIS_ISA_SET_CET, {1, -1, 0}}, /* ENDBR only */
		{ZYDIS_ISA_SET_AMD3DNOW, {1, FEAT_PREFETCHW, 0}}, /* PREFETCH */
		{ZYDIS_ISA_SET_CMPXCHG16B, {1, FEAT_CX16, 0}},
		{ZYDIS_ISA_SET_POPCNT, {1, FEAT_POPCNT, 0}},
		{ZYDIS_ISA_SET_LZCNT, {1, FEAT_LZCNT, 0}},
		{ZYDIS_ISA_SET_BMI1, {1, FEAT_BMI1, 0}},
		{ZYDIS_ISA_SET_BMI2, {1, FEAT_BMI2, 0}},
		{ZYDIS_ISA_SET_ADOX_ADCX, {1, FEAT_ADX, 0}},
		{ZYDIS_ISA_SET_MOVBE, {1, FEAT_MOVBE, 0}},
		{ZYDIS_ISA_SET_RDRAND, {1, FEAT_RDRAND, 0}},
		{ZYDIS_ISA_SET_RDSEED, {1, FEAT_RDSEED, 0}},
		{ZYDIS_ISA_SET_CLFLUSHOPT, {1, FEAT_CLFLUSHOPT, 0}},
		{ZYDIS_ISA_SET_CLWB, {1, FEAT_CLWB, 0}},
		{ZYDIS_ISA_SET_X87, {1, -1, 1}},
		{ZYDIS_ISA_SET_FCMOV, {1, -1, 1}},
		{ZYDIS_ISA_SET_PENTIUMMMX, {1, -1, 1}},
		{ZYDIS_ISA_SET_SSE, {1, -1, 1}},
		{ZYDIS_ISA_SET_SSE2, {1, -1, 1}},
		{ZYDIS_ISA_SET_SSE2MMX, {1, -1, 1}},
		{ZYDIS_ISA_SET_SSEMXCSR, {1, -1, 1}},
		{ZYDIS_ISA_SET_SSE3, {1, FEAT_SSE3, 1}},
		{ZYDIS_ISA_SET_SSE3X87, {1, FEAT_SSE3, 1}},
		{ZYDIS_ISA_SET_SSSE3, {1, FEAT_SSSE3, 1}},
		{ZYDIS_ISA_SET_SSSE3MMX, {1, FEAT_SSSE3, 1}},
		{ZYDIS_ISA_SET_SSE4, {1, FEAT_SSE41, 1}},
		{ZYDIS_ISA_SET_SSE42, {1, FEAT_SSE42, 1}},
		{ZYDIS_ISA_SET_AES, {1, FEAT_AES, 1}},
		{ZYDIS_ISA_SET_PCLMULQDQ, {1, FEAT_PCLMUL, 1}},
		{ZYDIS_ISA_SET_SHA, {1, FEAT_SHA, 1}},
		{ZYDIS_ISA_SET_GFNI, {1, FEAT_GFNI, 1}},
		{ZYDIS_ISA_SET_AVX, {1, FEAT_AVX, 2}},
		{ZYDIS_ISA_SET_AVX2, {1, FEAT_AVX2, 2}},
		{ZYDIS_ISA_SET_AVXAES, {1, FEAT_AES, 2}},
		{ZYDIS_ISA_SET_AVX_GFNI, {1, FEAT_GFNI, 2}},
		{ZYDIS_ISA_SET_F16C, {1, FEAT_F16C, 2}},
		{ZYDIS_ISA_SET_FMA, {1, FEAT_FMA, 2}},
		{ZYDIS_ISA_SET_VAES, {1, FEAT_VAES, 2}},
		{ZYDIS_ISA_SET_VPCLMULQDQ, {1, FEAT_VPCLMUL, 2}},
/* clang-format off */
#define RULE(set, feat) {ZYDIS_ISA_SET_##set, {1, feat, 3}}
#define LENGTHS(set, feat)                                                     \
	RULE(set##_128, feat), RULE(set##_256, feat), RULE(set##_512, feat)
		LENGTHS(AVX512F, FEAT_AVX512),
		LENGTHS(AVX512BW, FEAT_AVX512),
		LENGTHS(AVX512CD, FEAT_AVX512),
		LENGTHS(AVX512DQ, FEAT_AVX512),
		RULE(AVX512F_128N, FEAT_AVX512),
		RULE(AVX512BW_128N, FEAT_AVX512),
		RULE(AVX512DQ_128N, FEAT_AVX512),
		RULE(AVX512F_SCALAR, FEAT_AVX512),
		RULE(AVX512DQ_SCALAR, FEAT_AVX512),
		RULE(AVX512F_KOP, FEAT_AVX512),
		RULE(AVX512BW_KOP, FEAT_AVX512),
		RULE(AVX512DQ_KOP, FEAT_AVX512),
		LENGTHS(AVX512_IFMA, FEAT_IFMA),
		LENGTHS(AVX512_VBMI, FEAT_VBMI),
		LENGTHS(AVX512_VBMI2, FEAT_VBMI2),
		LENGTHS(AVX512_VNNI, FEAT_VNNI),
		LENGTHS(AVX512_BITALG, FEAT_BITALG),
		LENGTHS(AVX512_VPOPCNTDQ, FEAT_VPOPCNTDQ),
		LENGTHS(AVX512_GFNI, FEAT_GFNI),
		LENGTHS(AVX512_VAES, FEAT_VAES),
		LENGTHS(AVX512_VPCLMULQDQ, FEAT_VPCLMUL),
#undef LENGTHS
#undef RULE
		/* clang-format on */
	};
	static const uint8_t cats[] = {
		ZYDIS_CATEGORY_ADOX_ADCX,     ZYDIS_CATEGORY_AES,
		ZYDIS_CATEGORY_AVX,	      ZYDIS_CATEGORY_AVX2,
		ZYDIS_CATEGORY_BINARY,	      ZYDIS_CATEGORY_BITBYTE,
		ZYDIS_CATEGORY_BLEND,	      ZYDIS_CATEGORY_BMI1,
		ZYDIS_CATEGORY_BMI2,	      ZYDIS_CATEGORY_BROADCAST,
		ZYDIS_CATEGORY_CLFLUSHOPT,    ZYDIS_CATEGORY_CLWB,
		ZYDIS_CATEGORY_CMOV,	      ZYDIS_CATEGORY_CONVERT,
		ZYDIS_CATEGORY_DATAXFER,      ZYDIS_CATEGORY_FCMOV,
		ZYDIS_CATEGORY_GFNI,	      ZYDIS_CATEGORY_LOGICAL,
		ZYDIS_CATEGORY_LOGICAL_FP,    ZYDIS_CATEGORY_LZCNT,
		ZYDIS_CATEGORY_MMX,	      ZYDIS_CATEGORY_NOP,
		ZYDIS_CATEGORY_WIDENOP,	      ZYDIS_CATEGORY_PCLMULQDQ,
		ZYDIS_CATEGORY_RDRAND,	      ZYDIS_CATEGORY_RDSEED,
		ZYDIS_CATEGORY_ROTATE,	      ZYDIS_CATEGORY_SEMAPHORE,
		ZYDIS_CATEGORY_SETCC,	      ZYDIS_CATEGORY_SHA,
		ZYDIS_CATEGORY_SHIFT,	      ZYDIS_CATEGORY_SSE,
		ZYDIS_CATEGORY_STTNI,	      ZYDIS_CATEGORY_VAES,
		ZYDIS_CATEGORY_VFMA,	      ZYDIS_CATEGORY_VPCLMULQDQ,
		ZYDIS_CATEGORY_X87_ALU,	      ZYDIS_CATEGORY_AVX512,
		ZYDIS_CATEGORY_AVX512_BITALG, ZYDIS_CATEGORY_AVX512_VBMI,
		ZYDIS_CATEGORY_COMPRESS,      ZYDIS_CATEGORY_CONFLICT,
		ZYDIS_CATEGORY_EXPAND,	      ZYDIS_CATEGORY_IFMA,
		ZYDIS_CATEGORY_KMASK,	      ZYDIS_CATEGORY_VBMI2,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sets); i++)
		isa[sets[i].set] = sets[i].r;
	for (unsigned i = 0; i < ARRAY_SIZE(cats); i++)
		category_ok[cats[i]] = 1;
}

static bool is_vector_ok(const struct isa_rule *r, unsigned mode)
{
	static const uint8_t below[4] = {8, MODE_NOSSE, MODE_NOAVX, MODE_NO512};

	return (mode & MODE_VEC) < below[r->vec];
}

static bool draws_random(const struct ginsn *i)
{
	return i->category == ZYDIS_CATEGORY_RDRAND ||
	       i->category == ZYDIS_CATEGORY_RDSEED;
}

/* Every register operand is one that translated code may touch, and memory is
 * only what ModRM addresses. */
static bool operands_plain(const struct tu_insn *in)
{
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			    o->mem.type == ZYDIS_MEMOP_TYPE_VSIB ||
			    o->mem.type == ZYDIS_MEMOP_TYPE_MIB ||
			    in->i.address_width != 64)
				return false;
			if (o->mem.base == ZYDIS_REGISTER_EIP)
				return false;
		}
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(o->reg)) {
		case ZYDIS_REGCLASS_GPR8:
		case ZYDIS_REGCLASS_GPR16:
		case ZYDIS_REGCLASS_GPR32:
		case ZYDIS_REGCLASS_GPR64:
			if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
			    ZydisRegisterGetId(o->reg) == R_RSP)
				return false;
			break;
		case ZYDIS_REGCLASS_X87:
		case ZYDIS_REGCLASS_MMX:
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
		case ZYDIS_REGCLASS_ZMM:
		case ZYDIS_REGCLASS_MASK:
		case ZYDIS_REGCLASS_FLAGS:
			break;
		default:
			if (o->reg == ZYDIS_REGISTER_MXCSR ||
			    o->reg == ZYDIS_REGISTER_X87CONTROL ||
			    o->reg == ZYDIS_REGISTER_X87STATUS ||
			    o->reg == ZYDIS_REGISTER_X87TAG)
				break;
			return false;
		}
	}
	return true;
}

static enum insn_kind classify_stack(const struct tu_insn *in)
{
	const struct ginsn *i = &in->i;
	const struct gop *o = &in->op[0];

	if (i->operand_width != 64 || i->address_width != 64)
		return K_CALLOUT;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(o->reg) != ZYDIS_REGCLASS_GPR64)
			return K_CALLOUT;
		return i->mnemonic == ZYDIS_MNEMONIC_PUSH ? K_PUSH : K_POP;
	case ZYDIS_MNEMONIC_LEAVE:
		return K_LEAVE;
	case ZYDIS_MNEMONIC_PUSHFQ:
		return K_PUSHF;
	default:
		return K_CALLOUT;
	}
}

static enum insn_kind classify_flow(const struct tu_insn *in, unsigned mode)
{
	const struct ginsn *i = &in->i;
	const struct gop *o = &in->op[0];
	bool rel = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	if (i->mnemonic == ZYDIS_MNEMONIC_IRETQ)
		return mode & (MODE_USER | MODE_CPL12) ? K_CALLOUT : K_IRET;
	if (i->branch_type == ZYDIS_BRANCH_TYPE_FAR || i->n_prefix > 8)
		return K_CALLOUT;
	for (unsigned k = 0; k < i->n_prefix; k++)
		if (in->bytes[k] == 0x66 || in->bytes[k] == 0x67)
			return K_CALLOUT;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return rel ? K_JMP : K_JMP_IND;
	case ZYDIS_MNEMONIC_CALL:
		return rel ? K_CALL : K_CALL_IND;
	case ZYDIS_MNEMONIC_RET:
		return K_RET;
	case ZYDIS_MNEMONIC_JRCXZ:
		return K_JRCXZ;
	case ZYDIS_MNEMONIC_LOOP:
		return K_LOOP;
	default:
		break;
	}
	if (i->category == ZYDIS_CATEGORY_COND_BR &&
	    (i->opcode_map == ZYDIS_OPCODE_MAP_0F ? (i->opcode & 0xf0) == 0x80
						  : (i->opcode & 0xf0) == 0x70))
		return K_JCC;
	return K_CALLOUT;
}

static enum insn_kind classify_string(const struct tu_insn *in)
{
	if (in->i.address_width != 64)
		return K_CALLOUT;
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (o->mem.segment == ZYDIS_REGISTER_FS ||
		     o->mem.segment == ZYDIS_REGISTER_GS))
			return K_CALLOUT;
	}
	return K_STRING;
}

static enum insn_kind classify_misc(const struct tu_insn *in, unsigned mode)
{
	bool kernel = !(mode & (MODE_USER | MODE_CPL12));

	switch (in->i.mnemonic) {
	case ZYDIS_MNEMONIC_LEA:
		return in->i.address_width == 64 ? K_PLAIN : K_CALLOUT;
	case ZYDIS_MNEMONIC_PAUSE:
		/* Else it is no PAUSE to the CPU (interp_sys.c). */
		return in->i.rex_b ? K_CALLOUT : K_PLAIN;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
		return K_PLAIN;
	case ZYDIS_MNEMONIC_CLFLUSH:
		return operands_plain(in) ? K_PLAIN : K_CALLOUT;
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_ENDBR32:
		return K_NOP;
	case ZYDIS_MNEMONIC_CLI:
		return kernel ? K_CLI : K_CALLOUT;
	case ZYDIS_MNEMONIC_STI:
		return kernel ? K_STI : K_CALLOUT;
	case ZYDIS_MNEMONIC_SWAPGS:
		return kernel ? K_SWAPGS : K_CALLOUT;
	case ZYDIS_MNEMONIC_SYSCALL:
		return mode & MODE_USER ? K_SYSCALL : K_CALLOUT;
	case ZYDIS_MNEMONIC_SYSRET:
		return kernel && in->i.operand_width == 64 ? K_SYSRET
							   : K_CALLOUT;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
		return in->i.operand_width == 64 && !(mode & MODE_NOFSGS)
			       ? K_RDBASE
			       : K_CALLOUT;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return in->i.operand_width == 64 &&
				       !(mode & (MODE_NOFSGS | MODE_CPL12))
			       ? K_WRBASE
			       : K_CALLOUT;
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XRSTOR64:
		/* Not MODE_NOAVX: CR4.OSXSAVE, XCR0 is 7 or e7h, no #NM. */
		return !(mode & MODE_NOAVX) && in->i.address_width == 64
			       ? K_XSAVE
			       : K_CALLOUT;
	case ZYDIS_MNEMONIC_CPUID:
		return K_CPUID;
	case ZYDIS_MNEMONIC_RDTSCP:
		return mode & MODE_TSC_OUT ? K_CALLOUT : K_RDTSCP;
	case ZYDIS_MNEMONIC_RDTSC:
		return mode & MODE_TSC_OUT ? K_CALLOUT : K_RDTSC;
	default:
		return K_CALLOUT;
	}
}

/* A REX that is not the last prefix is ignored by the CPU, and would confuse
 * the re-encoder: nobody writes such code on purpose. */
static bool has_stray_rex(const struct tu_insn *in)
{
	bool rex = false;

	for (unsigned p = 0; p < in->i.length; p++) {
		switch (in->bytes[p]) {
		case 0x66:
		case 0x67:
		case 0xf2:
		case 0xf3:
		case 0xf0:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x26:
		case 0x64:
		case 0x65:
			if (rex)
				return true;
			continue;
		}
		if ((in->bytes[p] & 0xf0) != 0x40)
			return false;
		if (rex)
			return true;
		rex = true;
	}
	return false;
}

static bool is_allowed(struct bt *bt, const struct tu_insn *in)
{
	const struct isa_rule *r = &isa[in->i.isa_set];

	return r->ok && (r->feat < 0 || cpu_has(bt->v, r->feat)) &&
	       is_vector_ok(r, bt->mode) && operands_plain(in);
}

/* VEX and EVEX: no flow, no system instructions. */
static enum insn_kind classify_vector(struct bt *bt, const struct tu_insn *in)
{
	const struct ginsn *i = &in->i;

	if (!category_ok[i->category] || !is_allowed(bt, in) ||
	    (i->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
	     !cpu_has(bt->v, FEAT_AVX512)))
		return K_CALLOUT;
	return K_PLAIN;
}

enum insn_kind tu_classify(struct bt *bt, const struct tu_insn *in)
{
	const struct ginsn *i = &in->i;
	const struct isa_rule *r = &isa[i->isa_set];
	bool kernel = !(bt->mode & (MODE_USER | MODE_CPL12));

	switch (i->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		return classify_vector(bt, in);
	default:
		return K_CALLOUT;
	}
	if (has_stray_rex(in))
		return K_CALLOUT;
	switch (i->category) {
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
		return classify_stack(in);
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
		return classify_flow(in, bt->mode);
	case ZYDIS_CATEGORY_STRINGOP:
		return classify_string(in);
	case ZYDIS_CATEGORY_PREFETCH:
		/* One that is left out costs a program that means it dearly. */
		return !r->ok		    ? K_CALLOUT
		       : operands_plain(in) ? K_PLAIN
					    : K_NOP;
	default:
		break;
	}
	if (i->mnemonic == ZYDIS_MNEMONIC_LEAVE)
		return classify_stack(in);
	if (i->mnemonic == ZYDIS_MNEMONIC_MOV &&
	    in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
		if (in->op[0].reg == ZYDIS_REGISTER_CR3)
			return kernel && !bt->lockstep ? K_MOV_CR3 : K_CALLOUT;
		switch (ZydisRegisterGetClass(in->op[1].reg)) {
		case ZYDIS_REGCLASS_SEGMENT:
			return K_MOV_FROM_SREG;
		case ZYDIS_REGCLASS_CONTROL:
			return kernel && in->op[1].reg != ZYDIS_REGISTER_CR8
				       ? K_MOV_FROM_CR
				       : K_CALLOUT;
		default:
			break;
		}
	}
	if (!category_ok[i->category])
		return classify_misc(in, bt->mode);
	if (!is_allowed(bt, in) ||
	    ((bt->mode & MODE_TSC_OUT) && draws_random(i)) ||
	    (i->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
		return K_CALLOUT;
	switch (i->mnemonic) {
	/* These store the address of the last x87 instruction, which would be
	 * one in the TC. */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
		return K_CALLOUT;
	case ZYDIS_MNEMONIC_NOP:
		return K_NOP;
	default:
		return K_PLAIN;
	}
}

bool tu_ends(const struct tu_insn *in)
{
	switch (in->kind) {
	case K_PLAIN:
	case K_NOP:
	case K_PUSH:
	case K_POP:
	case K_LEAVE:
	case K_PUSHF:
	case K_STRING:
	case K_CLI:
	case K_STI:
	case K_SWAPGS:
	case K_RDTSC:
	case K_RDTSCP:
	case K_RDBASE:
	case K_WRBASE:
	case K_XSAVE:
	case K_CPUID:
	case K_MOV_FROM_SREG:
	case K_MOV_FROM_CR:
	case K_MOV_CR3:
		return false;
	default:
		return true;
	}
}

/* A branch that is more often not taken than taken, as compilers lay code
 * out, and that is not part of a loop (needs_poll). */
static bool runs_past(const struct tu_insn *in)
{
	return in->kind == K_JCC && in->op[0].imm.s > 0 &&
	       gva_canonical(branch_target(in));
}

/* A call whose return goes on in the unit (translate_flow.c). */
static bool comes_back(struct bt *bt, const struct tu_insn *in)
{
	return is_call(in) && ret_pairs(bt) &&
	       gva_canonical(in->rip + in->i.length) &&
	       gva_canonical(branch_target(in));
}

static bool is_loop(const struct tu *tu)
{
	const struct tu_insn *last = &tu->insn[tu->n - 1];

	return !tu->straddle && last->kind == K_JCC &&
	       branch_target(last) == tu->rip;
}

static bool has_call(const struct tu *tu)
{
	for (unsigned k = 0; k < tu->n; k++)
		if (is_call(&tu->insn[k]))
			return true;
	return false;
}

static void unroll(struct bt *bt, struct tu *tu, unsigned n_side)
{
	unsigned n = tu->n, turns;

	/* Who wants short units wants them. */
	if (bt->tu_max < TU_MAX || !is_loop(tu) || has_call(tu))
		return;
	/* Each turn has the exits in it, and its end; the last has two. */
	turns = (CCF_EXITS - 1) / (n_side + 1);
	if (turns > TU_LOOP_MAX / n)
		turns = TU_LOOP_MAX / n;
	for (; tu->n < n * turns; tu->n++)
		tu->insn[tu->n] = tu->insn[tu->n - n];
}

int tu_decode(struct bt *bt, uint64_t rip, uint32_t ppn, struct tu *tu)
{
	unsigned max = bt->tu_max;
	const uint8_t *page = p2m_read(bt->p2m, (ppn_t){ppn});
	unsigned off = rip & (PAGE_SIZE - 1);
	unsigned n_side = 0;
	bool short_of;

	tu->rip = rip;
	tu->ppn = ppn;
	tu->straddle = false;
	tu->n = 0;
	if (!page)
		return -EFAULT;
	while (tu->n < max && off < PAGE_SIZE) {
		struct tu_insn *in = &tu->insn[tu->n];
		unsigned avail = PAGE_SIZE - off;

		if (avail > 15)
			avail = 15;
		in->rip = rip;
		decode_insn(bt, in, page + off, avail, &short_of);
		if (short_of) {
			uint8_t buf[15];
			const uint8_t *page2;

			if (tu->n)
				break;
			if (!exec_page(bt, rip + avail, &tu->ppn2))
				return -EFAULT;
			page2 = p2m_read(bt->p2m, (ppn_t){tu->ppn2});
			if (!page2)
				return -EFAULT;
			memcpy(buf, page + off, avail);
			memcpy(buf + avail, page2, 15 - avail);
			decode_insn(bt, in, buf, 15, &short_of);
			tu->straddle = true;
			tu->n = 1;
			rip += in->i.length;
			break;
		}
		tu->n++;
		rip += in->i.length;
		off += in->i.length;
		if ((runs_past(in) || comes_back(bt, in)) &&
		    n_side < TU_SIDE_MAX)
			n_side++;
		else if (tu_ends(in))
			break;
	}
	/* STI must not end a unit: the next instruction is in its shadow. */
	if (tu->n && tu->insn[tu->n - 1].kind == K_STI)
		tu->insn[tu->n - 1].kind = K_CALLOUT;
	tu->next = rip;
	if (tu->n)
		unroll(bt, tu, n_side);
	return 0;
}
