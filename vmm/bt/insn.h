/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_INSN_H
#define SARDINE_VMM_BT_INSN_H
/*
 * A guest instruction as the translator has it: what it needs of what Zydis says,
 * in Zydis's numbers (ZYDIS_OPERAND_TYPE_..., ZYDIS_REGISTER_...), in a fifth of the
 * space: the instructions of a unit are gone through again and again, and those
 * of known shapes (decode.c) are many.
 */
#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

/* An operand; all zero: there is none (ZYDIS_OPERAND_TYPE_UNUSED). */
struct gop {
	uint8_t type, visibility, encoding, actions;
	uint16_t size; /* bits */
	union {
		uint16_t reg;
		struct {
			uint8_t type, scale;
			uint16_t segment, base, index;
			int64_t disp; /* 0 if there is none */
		} mem;
		union {
			int64_t s;
			uint64_t u;
		} imm;
	};
};
struct ginsn {
	uint64_t attributes;
	const ZydisAccessedFlags *cpu_flags; /* NULL: none */
	int64_t disp;
	uint16_t mnemonic, isa_set;
	uint8_t length, encoding, opcode_map, opcode, category, branch_type,
		exception_class;
	uint8_t operand_width, address_width; /* bits */
	uint8_t operand_count, operand_count_visible;
	uint8_t n_prefix; /* bytes before the opcode */
	uint8_t rex_b, evex_aaa;
	/* Where its fields are, and how many bits; disp and imm 0: none. */
	uint8_t modrm_at, disp_at, disp_bits, imm_at, imm_bits;
	bool imm_signed, two_imms;
};

/* What an instruction needs from the translator. */
enum insn_kind {
	K_CALLOUT, /* the default: nothing unknown is ever copied */
	K_PLAIN,
	K_NOP, /* nothing to emit */
	K_JCC,
	K_JMP,
	K_JMP_IND,
	K_CALL,
	K_CALL_IND,
	K_RET,
	K_JRCXZ,
	K_LOOP,
	K_PUSH,
	K_POP,
	K_LEAVE,
	K_PUSHF,
	K_STRING,
	K_CLI,
	K_STI,
	K_SWAPGS,
	K_RDTSC,
	K_RDTSCP,
	K_RDBASE,
	K_WRBASE,
	K_IRET,
	K_XSAVE,
	K_CPUID,
	K_MOV_FROM_SREG,
	K_MOV_FROM_CR,
	K_MOV_CR3,
	K_SYSCALL,
	K_SYSRET,
};
struct tu_insn {
	struct ginsn i;
	struct gop op[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t rip;
	uint8_t bytes[15];
	uint8_t kind; /* enum insn_kind */
};

#define TU_MAX	    24
/* The same of a loop that is done several times over (tu.c). */
#define TU_LOOP_MAX 60
struct tu {
	uint64_t rip;
	uint32_t ppn, ppn2;
	bool straddle;
	unsigned n;
	uint64_t next; /* rip after the last */
	struct tu_insn insn[TU_LOOP_MAX];
};

static inline bool is_call(const struct tu_insn *in)
{
	return in->kind == K_CALL || in->kind == K_CALL_IND;
}
/* Of a branch to a constant; of others, what follows them. */
static inline uint64_t branch_target(const struct tu_insn *in)
{
	const struct gop *o = &in->op[0];

	return in->rip + in->i.length +
	       (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.s : 0);
}
#endif
