/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Candidates are random bytes in the shape of an instruction (prefixes, opcode
 * map, opcode, ModRM with a memory form that stays in the arena, immediate);
 * Zydis says whether that is an instruction and what it touches, and a filter
 * keeps what is safe and deterministic. So every encoding of every instruction
 * that the filter knows turns up sooner or later.
 *
 * Memory forms: [r15+disp], [r15+r14*scale+disp], [abs32], [rip+disp]; in 32-bit
 * code [ebp+disp], [ebp+ebx*scale+disp], [abs32].
 */
#include "tests/diff/gen.h"

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MIDDLE (GEN_ARENA + GEN_ARENA_SIZE / 2)

struct rng {
	uint64_t s;
};

static uint64_t rnd(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Does the state of this seed have unmasked exceptions? */
static bool unmasks(uint64_t seed)
{
	struct rng r = {seed};

	return rnd(&r) % 8 == 0;
}

static unsigned below(struct rng *r, unsigned n)
{
	return rnd(r) % n;
}

/* ---- candidates ---- */
struct cand {
	uint8_t b[64];
	unsigned n;
};

static void add(struct cand *c, unsigned byte)
{
	c->b[c->n++] = byte;
}

static void add32(struct cand *c, uint32_t v)
{
	memcpy(c->b + c->n, &v, 4);
	c->n += 4;
}

/* Displacements: mostly near, mostly aligned. */
static int32_t displacement(struct rng *r)
{
	int32_t d = (int32_t)below(r, 4096) - 2048;

	switch (below(r, 12)) {
	case 0:
		return d;
	case 1:
		return d & ~7;
	default:
		return d & ~31;
	}
}

/* How the base and index registers of a memory form must be extended. */
enum form { FORM_REG, FORM_BASE, FORM_BASE_INDEX, FORM_ABS, FORM_RIP };

static bool form_b(enum form f)
{
	return f == FORM_BASE || f == FORM_BASE_INDEX;
}

static void add_modrm32(struct cand *c, struct rng *r, enum form f)
{
	unsigned reg = below(r, 8) << 3;

	switch (f) {
	case FORM_REG:
		add(c, 0xc0 | reg | below(r, 8));
		break;
	case FORM_BASE: /* [ebp + disp32] */
		add(c, 0x85 | reg);
		add32(c, displacement(r));
		break;
	case FORM_BASE_INDEX: /* [ebp + ebx*s + disp32] */
		add(c, 0x84 | reg);
		add(c, below(r, 4) << 6 | 3 << 3 | 5);
		add32(c, displacement(r));
		break;
	default:
		add(c, 0x05 | reg);
		add32(c, MIDDLE + displacement(r));
	}
}

/* rip_at: linear address of the candidate's byte 0; tail: bytes that follow
 * the displacement. */
static void add_modrm(struct cand *c, struct rng *r, enum form f,
		      uint64_t rip_at, unsigned tail)
{
	unsigned reg = below(r, 8) << 3;

	switch (f) {
	case FORM_REG:
		add(c, 0xc0 | reg | below(r, 8));
		break;
	case FORM_BASE: /* [r15 + disp32] */
		add(c, 0x87 | reg);
		add32(c, displacement(r));
		break;
	case FORM_BASE_INDEX: /* [r15 + r14*s + disp32] */
		add(c, 0x84 | reg);
		add(c, below(r, 4) << 6 | 6 << 3 | 7);
		add32(c, displacement(r));
		break;
	case FORM_ABS:
		add(c, 0x04 | reg);
		add(c, 0x25);
		add32(c, MIDDLE + displacement(r));
		break;
	case FORM_RIP:
		add(c, 0x05 | reg);
		add32(c, MIDDLE + displacement(r) - (rip_at + c->n + 4 + tail));
		break;
	}
}

static void candidate_legacy(struct cand *c, struct rng *r, enum form f,
			     unsigned map, uint64_t at, unsigned tail)
{
	static const uint8_t prefix[8] = {0, 0, 0, 0x66, 0x66, 0xf2, 0xf3, 0};
	unsigned p = prefix[below(r, 8)], rex = 0x40 | below(r, 16);

	if (below(r, 16) == 0)
		add(c, 0x67);
	if (f != FORM_REG && map == 0 && below(r, 12) == 0)
		add(c, 0xf0);
	if (p)
		add(c, p);
	if (p && below(r, 16) == 0)
		add(c, 0x66);
	rex = (rex & ~3u) |
	      (form_b(f)       ? 1
	       : f == FORM_REG ? below(r, 2)
			       : 0) |
	      (f == FORM_BASE_INDEX ? 2 : 0);
	if (rex != 0x40 || below(r, 4) == 0)
		if (f != FORM_REG || below(r, 4))
			add(c, rex);
	if (map)
		add(c, 0x0f);
	if (map == 2)
		add(c, 0x38);
	if (map == 3)
		add(c, 0x3a);
	add(c, rnd(r));
	add_modrm(c, r, f, at, tail);
}

static void candidate_x87(struct cand *c, struct rng *r, enum form f,
			  uint64_t at, unsigned tail)
{
	if (f != FORM_REG)
		add(c, 0x40 | (form_b(f) ? 1 : 0) |
			       (f == FORM_BASE_INDEX ? 2 : 0));
	add(c, 0xd8 + below(r, 8));
	add_modrm(c, r, f, at, tail);
}

static void candidate_vex(struct cand *c, struct rng *r, enum form f,
			  uint64_t at, unsigned tail)
{
	unsigned b = form_b(f) ? 0 : f == FORM_REG ? rnd(r) & 0x20 : 0x20;
	unsigned x = f == FORM_BASE_INDEX ? 0 : 0x40;
	unsigned map = 1 + below(r, 3);
	unsigned vvvv = below(r, 3) ? rnd(r) & 0x78 : 0x78;

	if (below(r, 16) == 0)
		add(c, 0x67);
	if (map == 1 && b && x && below(r, 2)) {
		add(c, 0xc5);
		add(c, (rnd(r) & 0x87) | vvvv);
	} else {
		add(c, 0xc4);
		add(c, (rnd(r) & 0x80) | x | b | map);
		add(c, (rnd(r) & 0x87) | vvvv);
	}
	add(c, rnd(r));
	add_modrm(c, r, f, at, tail);
}

/* Displacements of one byte count in units of up to 64: within the arena. */
static void add_modrm_disp8(struct cand *c, struct rng *r, enum form f,
			    bool code32)
{
	unsigned reg = below(r, 8) << 3;

	if (f == FORM_BASE) { /* [r15 + disp8 * n], [ebp + ..] */
		add(c, 0x40 | reg | (code32 ? 5 : 7));
	} else { /* [r15 + r14*s + disp8 * n], [ebp + ebx*s + ..] */
		add(c, 0x44 | reg);
		add(c, below(r, 4) << 6 | (code32 ? 3 << 3 | 5 : 6 << 3 | 7));
	}
	add(c, rnd(r));
}

static void candidate_evex(struct cand *c, struct rng *r, enum form f,
			   uint64_t at, unsigned tail, bool code32)
{
	unsigned b = f == FORM_REG ? rnd(r) & 0x20 : form_b(f) ? 0 : 0x20;
	unsigned x = f == FORM_REG	  ? rnd(r) & 0x40
		     : f == FORM_BASE_INDEX ? 0
					    : 0x40;
	unsigned vvvv = below(r, 3) ? rnd(r) & 0x78 : 0x78;
	unsigned aaa = below(r, 3) ? below(r, 8) : 0;
	unsigned bits = rnd(r) & 0x90, vl = below(r, 16) ? below(r, 3) : 3;

	add(c, 0x62);
	add(c, (code32 ? 0xf0 : bits | x | b) | (1 + below(r, 3)));
	add(c, (rnd(r) & 0x83) | (code32 ? vvvv | 0x40 : vvvv) | 4);
	add(c, (aaa ? rnd(r) & 0x80 : 0) | vl << 5 |
		       (below(r, 3) ? 0 : 0x10) |
		       (code32 || vvvv == 0x78 || below(r, 2) ? 8 : 0) | aaa);
	add(c, rnd(r));
	if ((f == FORM_BASE || f == FORM_BASE_INDEX) && below(r, 2))
		add_modrm_disp8(c, r, f, code32);
	else if (code32)
		add_modrm32(c, r, f);
	else
		add_modrm(c, r, f, at, tail);
}

static void candidate_32(struct cand *c, struct rng *r, enum form f,
			 unsigned what)
{
	static const uint8_t prefix[8] = {0, 0, 0, 0x66, 0x66, 0xf2, 0xf3, 0};
	unsigned p = prefix[below(r, 8)], map = 1 + below(r, 3);

	if (what < 3) { /* VEX: the extension bits must be off (ones) */
		if (map == 1 && below(r, 2)) {
			add(c, 0xc5);
			add(c, 0xc0 | rnd(r));
		} else {
			add(c, 0xc4);
			add(c, 0xe0 | map);
			add(c, 0x40 | rnd(r));
		}
		add(c, rnd(r));
	} else if (what < 5) {
		add(c, 0xd8 + below(r, 8));
	} else {
		if (f != FORM_REG && below(r, 16) == 0)
			add(c, 0xf0);
		if (p)
			add(c, p);
		if (what >= 8)
			add(c, 0x0f);
		if (what == 10)
			add(c, 0x38);
		if (what == 11)
			add(c, 0x3a);
		add(c, rnd(r));
	}
	add_modrm32(c, r, f);
}

/* ---- the filter ---- */
/* Registers that the code must keep. */
static bool reserved(unsigned n, bool code32)
{
	return n == 4 || (code32 ? n == 3 || n == 5 : n == 14 || n == 15);
}

static bool is_gpr(ZydisRegister reg, unsigned *n)
{
	ZydisRegister w = ZydisRegisterGetLargestEnclosing(
		ZYDIS_MACHINE_MODE_LONG_64, reg);

	if (w < ZYDIS_REGISTER_RAX || w > ZYDIS_REGISTER_R15)
		return false;
	*n = w - ZYDIS_REGISTER_RAX;
	return true;
}

/* clang-format off */
static unsigned kind_of(const ZydisDecodedInstruction *i)
{
	switch (i->meta.isa_set) {
	case ZYDIS_ISA_SET_I86: case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386: case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_CMOV: case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_BMI1: case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_LZCNT: case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_MOVBE: case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_CMPXCHG16B: case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_LAHF: case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_PPRO: case ZYDIS_ISA_SET_I286PROTECTED:
		return GEN_INT;
	case ZYDIS_ISA_SET_SSE: case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE3: case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSE4: case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_AES: case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA: case ZYDIS_ISA_SET_GFNI:
	case ZYDIS_ISA_SET_SSEMXCSR:
		return i->mnemonic == ZYDIS_MNEMONIC_CRC32 ? GEN_INT : GEN_SSE;
	case ZYDIS_ISA_SET_AVX: case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_FMA: case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_AVXAES: case ZYDIS_ISA_SET_VAES:
	case ZYDIS_ISA_SET_VPCLMULQDQ: case ZYDIS_ISA_SET_AVX_GFNI:
		return GEN_AVX;
	case ZYDIS_ISA_SET_X87: case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_PENTIUMMMX: case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSSE3MMX: case ZYDIS_ISA_SET_SSE3X87:
		return GEN_X87;
#define LENGTHS(set) set##_128: case set##_256: case set##_512
	case LENGTHS(ZYDIS_ISA_SET_AVX512F): case ZYDIS_ISA_SET_AVX512F_128N:
	case LENGTHS(ZYDIS_ISA_SET_AVX512BW): case ZYDIS_ISA_SET_AVX512BW_128N:
	case LENGTHS(ZYDIS_ISA_SET_AVX512DQ): case ZYDIS_ISA_SET_AVX512DQ_128N:
	case LENGTHS(ZYDIS_ISA_SET_AVX512CD): case ZYDIS_ISA_SET_AVX512F_KOP:
	case ZYDIS_ISA_SET_AVX512BW_KOP: case ZYDIS_ISA_SET_AVX512DQ_KOP:
	case ZYDIS_ISA_SET_AVX512F_SCALAR: case ZYDIS_ISA_SET_AVX512DQ_SCALAR:
	case LENGTHS(ZYDIS_ISA_SET_AVX512_IFMA):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VBMI):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VBMI2):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VNNI):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_BITALG):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VPOPCNTDQ):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_GFNI):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VAES):
	case LENGTHS(ZYDIS_ISA_SET_AVX512_VPCLMULQDQ):
#undef LENGTHS
		return GEN_AVX512;
	default:
		return 0;
	}
}
/* clang-format on */

/* clang-format off */
static bool banned(const ZydisDecodedInstruction *i)
{
	switch (i->meta.category) {
	case ZYDIS_CATEGORY_CALL: case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR: case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM: case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_STRINGOP:
		return true;
	default:
		break;
	}
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_ENTER: case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_XLAT:
	case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_FLDCW: case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2: case ZYDIS_MNEMONIC_CLDEMOTE:
		return true;
	default:
		return false;
	}
}

/* clang-format on */
static bool operand_ok(const ZydisDecodedInstruction *i,
		       const ZydisDecodedOperand *o,
		       const ZydisDecodedOperand *ops)
{
	bool code32 = i->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
	unsigned n;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		bool wr = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		ZydisRegisterClass k = ZydisRegisterGetClass(o->reg.value);

		if (k == ZYDIS_REGCLASS_SEGMENT ||
		    k == ZYDIS_REGCLASS_CONTROL || k == ZYDIS_REGCLASS_DEBUG)
			return false;
		if (!wr || !is_gpr(o->reg.value, &n))
			return true;
		if (n == 4 && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			return i->meta.category == ZYDIS_CATEGORY_PUSH ||
			       i->meta.category == ZYDIS_CATEGORY_POP;
		return !reserved(n, code32);
	}
	if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
		return true;
	if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
		return i->meta.category == ZYDIS_CATEGORY_PUSH ||
		       i->meta.category == ZYDIS_CATEGORY_POP;
	if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return true;
	if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
		return false; /* VSIB: any address */
	/* A bit string reaches far with a random bit number. */
	return i->meta.category != ZYDIS_CATEGORY_BITBYTE || o->id != 0 ||
	       ops[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	       (is_gpr(ops[1].reg.value, &n) && n == (code32 ? 3 : 14));
}

static void init_decoder(ZydisDecoder *d, bool code32)
{
	ZydisDecoderInit(d,
			 code32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
				: ZYDIS_MACHINE_MODE_LONG_64,
			 code32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
}

static bool acceptable(const struct cand *c, unsigned kinds, unsigned *len)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	init_decoder(&d, kinds & GEN_CODE32);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, c->b, c->n, &i, ops)))
		return false;
	if (!(kind_of(&i) & kinds) || banned(&i))
		return false;
	if (i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    i.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    i.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	for (unsigned k = 0; k < i.operand_count; k++)
		if (!operand_ok(&i, &ops[k], ops))
			return false;
	*len = i.length;
	return true;
}

/* DPPS, DPPD: the flags of their two stages are the CPU's own business. */
static bool is_dot_product(const struct cand *c, unsigned kinds)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	init_decoder(&d, kinds & GEN_CODE32);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, c->b, c->n, &i, ops)) &&
	       (i.mnemonic == ZYDIS_MNEMONIC_DPPS ||
		i.mnemonic == ZYDIS_MNEMONIC_DPPD ||
		i.mnemonic == ZYDIS_MNEMONIC_VDPPS ||
		i.mnemonic == ZYDIS_MNEMONIC_VDPPD);
}

/* REP and single string instructions need their registers in the arena. */
static void string_insn(struct cand *c, struct rng *r, bool code32)
{
	static const uint8_t op[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa,
				     0xab, 0xac, 0xad, 0xae, 0xaf};
	static const uint8_t rep[] = {0, 0xf2, 0xf3, 0xf3};
	unsigned p = rep[below(r, 4)];

	if (!code32 && below(r, 8) == 0)
		add(c, 0x67);
	if (p)
		add(c, p);
	switch (below(r, code32 ? 1 + below(r, 2) * 4 : 4)) {
	case 0:
		add(c, 0x66);
		break;
	case 1:
		if (!code32)
			add(c, 0x48);
		break;
	}
	add(c, op[below(r, 10)]);
}

static void string_setup(struct cand *c, struct rng *r, bool code32)
{
	if (code32) {
		/* lea esi/edi, [ebp + disp32], a NOP before each */
		add(c, 0x90), add(c, 0x8d), add(c, 0xb5);
		add32(c, displacement(r));
		add(c, 0x90), add(c, 0x8d), add(c, 0xbd);
		add32(c, displacement(r));
		add(c, 0xb9);
		add32(c, below(r, 4) ? below(r, 20) : below(r, 600));
		return;
	}
	/* lea rsi/rdi, [r15 + disp32]; mov ecx, imm32 */
	add(c, 0x49), add(c, 0x8d), add(c, 0xb7), add32(c, displacement(r));
	add(c, 0x49), add(c, 0x8d), add(c, 0xbf), add32(c, displacement(r));
	add(c, 0xb9), add32(c, below(r, 4) ? below(r, 20) : below(r, 600));
}

static void make_candidate(struct cand *c, struct rng *r, unsigned kinds,
			   uint64_t at)
{
	enum form f = below(r, 5) < 2 ? FORM_REG : 1 + below(r, 4);
	static const uint8_t tails[] = {0, 0, 1, 4};
	unsigned tail = tails[below(r, 4)], what = below(r, 12);

	c->n = 0;
	if ((kinds & GEN_AVX512) && what < 7)
		candidate_evex(c, r, f, at, tail, kinds & GEN_CODE32);
	else if ((kinds & GEN_AVX512) && what < 9 && !(kinds & GEN_CODE32))
		candidate_vex(c, r, f, at, tail);
	else if (kinds & GEN_CODE32)
		candidate_32(c, r, f, what);
	else if ((kinds & GEN_AVX) && what < 4)
		candidate_vex(c, r, f, at, tail);
	else if ((kinds & GEN_X87) && what < 5)
		candidate_x87(c, r, f, at, tail);
	else
		candidate_legacy(c, r, f,
				 what < 8    ? 0
				 : what < 10 ? 1
					     : what - 8,
				 at, tail);
	for (unsigned k = 0; k < 8; k++)
		add(c, rnd(r));
}

static void append(struct gen_code *c, const uint8_t *b, unsigned len)
{
	memcpy(c->bytes + c->len, b, len);
	c->off[c->n++] = c->len;
	c->len += len;
}

/* [rip+x] counts from the end of the instruction, whose length was a guess
 * when x was chosen: what misses the arena is dropped. */
static bool rip_ok(const struct cand *c, unsigned len, uint64_t at, bool code32)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	init_decoder(&d, code32);
	ZydisDecoderDecodeFull(&d, c->b, len, &i, ops);
	for (unsigned k = 0; k < i.operand_count; k++) {
		ZyanU64 a;

		if (ops[k].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    ops[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (code32 && ops[k].mem.base == ZYDIS_REGISTER_EBP)
			continue;
		if (ops[k].mem.base == ZYDIS_REGISTER_R15 ||
		    ops[k].mem.base == ZYDIS_REGISTER_R15D)
			continue;
		if (ops[k].mem.index != ZYDIS_REGISTER_NONE)
			return false;
		if (!ZYAN_SUCCESS(
			    ZydisCalcAbsoluteAddress(&i, &ops[k], at, &a)) ||
		    a < GEN_ARENA + 4096 ||
		    a > GEN_ARENA + GEN_ARENA_SIZE - 4096)
			return false;
	}
	return true;
}

/* ---- groups: instructions that only make sense one after the other ---- */
#define INSN(c, ...)                                                           \
	append(c, (const uint8_t[]){__VA_ARGS__},                              \
	       sizeof((const uint8_t[]){__VA_ARGS__}))

static void append_disp(struct gen_code *c, struct cand *k, uint32_t disp)
{
	add32(k, disp);
	append(c, k->b, k->n);
	k->n = 0;
}

static void string_group(struct gen_code *c, struct rng *r)
{
	struct cand k = {.n = 0};

	string_setup(&k, r, c->code32);
	append(c, k.b, 7);
	append(c, k.b + 7, 7);
	append(c, k.b + 14, 5);
	k.n = 0;
	string_insn(&k, r, c->code32);
	append(c, k.b, k.n);
}

/* Small indices, then VPGATHER/VGATHER of any kind. */
static void gather_group(struct gen_code *c, struct rng *r)
{
	unsigned d = below(r, 8), i = (d + 1 + below(r, 7)) % 8, m;
	unsigned op = 0x90 + below(r, 4), w = rnd(r) & 0x80;
	bool q = op & 1;
	struct cand k = {.n = 0};

	do
		m = below(r, 8);
	while (m == d || m == i);
	/* vpsrld/q ymm_i, ymm_i, 22 or 54 */
	INSN(c, 0xc5, 0x85 | (~i & 15) << 3, q ? 0x73 : 0x72, 0xd0 | i,
	     q ? 54 : 22);
	add(&k, 0xc4);
	add(&k, c->code32 ? 0xe2 : 0xc2);
	add(&k, w | (~m & 15) << 3 | below(r, 2) << 2 | 1);
	add(&k, op);
	add(&k, 0x84 | d << 3);
	add(&k, below(r, 4) << 6 | i << 3 | (c->code32 ? 5 : 7));
	append_disp(c, &k, displacement(r));
}

/* Small indices, then an EVEX gather or scatter of any kind. */
static void scatter_group(struct gen_code *c, struct rng *r)
{
	unsigned regs = c->code32 ? 8 : 32;
	unsigned d = below(r, regs), i = (d + 1 + below(r, regs - 1)) % regs;
	unsigned op = (below(r, 2) ? 0x90 : 0xa0) + below(r, 4);
	bool q = op & 1;
	struct cand k = {.n = 0};

	/* vpsrld/q zmm_i, zmm_i, 22 or 54 */
	INSN(c, 0x62, 0x91 | (~i >> 4 & 1) << 6 | (~i >> 3 & 1) << 5,
	     (q ? 0x85 : 5) | (~i & 15) << 3, 0x40 | (~i >> 4 & 1) << 3,
	     q ? 0x73 : 0x72, 0xd0 | (i & 7), q ? 54 : 22);
	add(&k, 0x62);
	add(&k, (~d >> 3 & 1) << 7 | (~i >> 3 & 1) << 6 |
			(c->code32 ? 0x20 : 0) | (~d >> 4 & 1) << 4 | 2);
	add(&k, (rnd(r) & 0x80) | 0x7d);
	add(&k, below(r, 3) << 5 | (~i >> 4 & 1) << 3 | (1 + below(r, 7)));
	add(&k, op);
	add(&k, 0x84 | (d & 7) << 3);
	add(&k, below(r, 4) << 6 | (i & 7) << 3 | (c->code32 ? 5 : 7));
	append_disp(c, &k, displacement(r));
}

static void maskmov_group(struct gen_code *c, struct rng *r)
{
	struct cand k = {.n = 0};

	if (c->code32)
		add(&k, 0x8d), add(&k, 0xbd);
	else
		add(&k, 0x49), add(&k, 0x8d), add(&k, 0xbf);
	append_disp(c, &k, displacement(r));
	switch (below(r, 3)) {
	case 0:
		INSN(c, 0x66, 0x0f, 0xf7, 0xc0 | below(r, 64));
		break;
	case 1:
		INSN(c, 0xc5, 0xf9, 0xf7, 0xc0 | below(r, 64));
		break;
	default:
		INSN(c, 0x0f, 0xf7, 0xc0 | below(r, 64));
	}
}

/* MXCSR with another rounding mode, all masked. */
static void mxcsr_group(struct gen_code *c, struct rng *r)
{
	uint32_t m = 0x1f80 | below(r, 4) << 13 | below(r, 64);
	int32_t d = displacement(r);
	struct cand k = {.n = 0};

	if (!c->code32)
		add(&k, 0x41);
	add(&k, 0xc7), add(&k, c->code32 ? 0x85 : 0x87), add32(&k, d);
	append_disp(c, &k, m);
	if (!c->code32)
		add(&k, 0x41);
	add(&k, 0x0f), add(&k, 0xae), add(&k, c->code32 ? 0x95 : 0x97);
	append_disp(c, &k, d);
}

static void stack_group(struct gen_code *c, struct rng *r)
{
	struct cand k = {.n = 0};

	switch (below(r, 5)) {
	case 0: /* push imm; popf: any flags but TF, IF on */
		add(&k, 0x68);
		append_disp(c, &k, 0x202 | (rnd(r) & 0xcd5));
		INSN(c, 0x9d);
		break;
	case 1: /* enter; leave */
		INSN(c, 0xc8, below(r, 64), 0, 0);
		INSN(c, 0xc9);
		break;
	case 2: /* call the next; pop eax */
		INSN(c, 0xe8, 0, 0, 0, 0);
		INSN(c, 0x58);
		break;
	case 3: /* push the address after; ret */
		add(&k, 0x68);
		append_disp(c, &k, GEN_CODE + c->len + 6);
		INSN(c, 0xc3);
		break;
	default: /* mov eax, after; jmp rax */
		add(&k, 0xb8);
		append_disp(c, &k, GEN_CODE + c->len + 7);
		INSN(c, 0xff, 0xe0);
	}
}

/* A jump over the next groups: where its rel8 is, and how many are left. */
struct skip {
	unsigned at, groups;
};

static void jump_group(struct gen_code *c, struct rng *r, struct skip *s)
{
	switch (below(r, 6)) {
	case 0:
		INSN(c, 0xeb, 0);
		break;
	case 1:
		INSN(c, 0xe0 + below(r, 4), 0); /* loop.., jrcxz */
		break;
	default:
		INSN(c, 0x70 | below(r, 16), 0);
	}
	s->at = c->len;
	s->groups = 1 + below(r, 3);
}

/* A group is done: land the jump whose time has come. Groups are short; one
 * that is too far lands at once, at the last place that it can reach. */
static void land(struct gen_code *c, struct skip *s)
{
	if (!s->groups)
		return;
	if (c->len - s->at > 127) {
		s->groups = 0; /* stays a jump to the next instruction */
		return;
	}
	if (--s->groups == 0)
		c->bytes[s->at - 1] = c->len - s->at;
}

static bool special_group(struct gen_code *c, struct rng *r, unsigned kinds,
			  struct skip *s)
{
	unsigned what = below(r, 48);

	if (what < 3 && (kinds & GEN_STRING))
		string_group(c, r);
	else if (what == 3 && (kinds & GEN_AVX))
		gather_group(c, r);
	else if (what == 4 && (kinds & GEN_AVX) && (kinds & GEN_X87))
		maskmov_group(c, r);
	else if (what == 5 && (kinds & GEN_SSE))
		mxcsr_group(c, r);
	else if (what < 8 && (kinds & GEN_FLOW))
		stack_group(c, r);
	else if (what == 11 && (kinds & GEN_AVX512))
		scatter_group(c, r);
	else if (what < 11 && (kinds & GEN_FLOW) && !s->groups)
		jump_group(c, r, s);
	else
		return false;
	return true;
}

static bool random_group(struct gen_code *c, struct rng *r, unsigned kinds,
			 bool no_dots)
{
	uint64_t at = GEN_CODE + c->len;
	struct cand k;
	unsigned len;

	make_candidate(&k, r, kinds, at);
	if (no_dots && is_dot_product(&k, kinds))
		return false;
	if (!acceptable(&k, kinds, &len) || !rip_ok(&k, len, at, c->code32))
		return false;
	append(c, k.b, len);
	/* AAA, AAS: flags that nobody knows; TEST AL, AL hides them */
	if (c->code32 && (k.b[len - 1] == 0x37 || k.b[len - 1] == 0x3f))
		INSN(c, 0x84, 0xc0);
	return true;
}

void gen_code(uint64_t seed, unsigned n, unsigned kinds, struct gen_code *c)
{
	struct rng r = {seed * 2 + 1};
	struct skip s = {0, 0};

	c->n = c->len = 0;
	c->code32 = !!(kinds & GEN_CODE32);
	if (n >= GEN_MAX_INSNS - 8)
		n = GEN_MAX_INSNS - 8;
	while (c->n < n) {
		bool was = s.groups;

		if (special_group(c, &r, kinds, &s) ||
		    random_group(c, &r, kinds, unmasks(seed)))
			if (was)
				land(c, &s);
	}
	INSN(c, 0xf4);
	c->off[c->n] = c->len;
}

void gen_cut(const struct gen_code *c, unsigned k, struct gen_code *out)
{
	*out = *c;
	out->n = k + 1;
	out->bytes[c->off[k]] = 0xf4;
	out->len = c->off[k] + 1;
}

/* ---- the state ---- */
static uint64_t interesting(struct rng *r)
{
	static const uint64_t odd[] = {0,
				       1,
				       2,
				       0x7f,
				       0x80,
				       0xff,
				       0x7fff,
				       0x8000,
				       0xffff,
				       0x7fffffff,
				       0x80000000,
				       0xffffffff,
				       0x7fffffffffffffff,
				       0x8000000000000000,
				       ~0ull};

	switch (below(r, 4)) {
	case 0:
		return odd[below(r, sizeof(odd) / 8)];
	case 1:
		return below(r, 100);
	default:
		return rnd(r);
	}
}

/* Lanes that are often sensible floating-point numbers. */
static void fill_lane(struct rng *r, uint8_t *b)
{
	float f[2] = {(int)below(r, 2000) - 1000, 1.0f / (1 + below(r, 999))};
	double d = ((int)below(r, 20000) - 10000) / 7.0;
	uint64_t x = interesting(r);

	switch (below(r, 3)) {
	case 0:
		memcpy(b, f, 8);
		break;
	case 1:
		memcpy(b, &d, 8);
		break;
	default:
		memcpy(b, &x, 8);
	}
}

static void fill_fpu(struct rng *r, uint64_t seed, uint8_t *f)
{
	uint64_t bv = 7;
	uint32_t mxcsr = 0x1f80 | below(r, 4) << 13;
	uint16_t fcw = 0x37f;

	if (unmasks(seed)) { /* some exceptions unmasked; SIMD overflow and
				 * underflow differ (see interp_fpu.c) */
		mxcsr &= ~((below(r, 64) & ~0x18u) << 7);
		fcw &= ~below(r, 64);
	}
	memset(f, 0, GEN_FPU_BYTES);
	memcpy(f, &fcw, 2);
	if (below(r, 4) == 0)
		mxcsr |= below(r, 2) << 15 | below(r, 2) << 6;
	memcpy(f + 24, &mxcsr, 4);
	for (unsigned k = 0; k < 16; k++) {
		fill_lane(r, f + 160 + 16 * k);
		fill_lane(r, f + 168 + 16 * k);
		fill_lane(r, f + 576 + 16 * k);
		fill_lane(r, f + 584 + 16 * k);
	}
	memcpy(f + 512, &bv, 8);
}

void gen_state(uint64_t seed, unsigned kinds, struct gen_state *s)
{
	struct rng r = {seed * 2 + 2};

	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = interesting(&r);
	for (unsigned k = 0; k < 16 && (kinds & GEN_CODE32); k++)
		s->gpr[k] = k < 8 ? (uint32_t)s->gpr[k] : 0;
	s->gpr[4] = MIDDLE + 0x4000;
	if (kinds & GEN_CODE32) {
		s->gpr[5] = MIDDLE;
		s->gpr[3] = below(&r, 256) & (below(&r, 8) ? ~31u : ~0u);
	} else {
		s->gpr[14] = below(&r, 256) & (below(&r, 8) ? ~31u : ~0u);
		s->gpr[15] = MIDDLE;
	}
	s->rip = GEN_CODE;
	s->rflags = 0x202 | (rnd(&r) & 0x8d5);
	s->vector = 0;
	fill_fpu(&r, seed, s->fpu);
	for (unsigned k = 0; k < GEN_WIDE_BYTES; k += 8)
		fill_lane(&r, s->wide + k);
	for (unsigned k = 0; k < GEN_ARENA_SIZE; k += 8)
		fill_lane(&r, s->arena + k);
}

void gen_print(const struct gen_code *c, unsigned k, char *buf, size_t len)
{
	ZydisDisassembledInstruction d;
	unsigned n = c->off[k + 1] - c->off[k], at = 0;

	for (unsigned j = 0; j < n; j++)
		at += snprintf(buf + at, len - at, "%02x",
			       c->bytes[c->off[k] + j]);
	if (ZYAN_SUCCESS(ZydisDisassembleIntel(
		    c->code32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
			      : ZYDIS_MACHINE_MODE_LONG_64,
		    GEN_CODE + c->off[k], c->bytes + c->off[k], n, &d)))
		snprintf(buf + at, len - at, "  %s", d.text);
}

void gen_normalise(struct gen_state *s)
{
	uint32_t tag = s->fpu[4], empty = ~tag & 0xff;
	uint16_t fsw;

	memset(s->fpu + 6, 0, 18); /* FOP, FIP, FDP */
	memset(s->fpu + 28, 0, 4); /* MXCSR_MASK */
	memset(s->fpu + 416, 0, 160);
	for (unsigned k = 0; k < 8; k++)
		memset(s->fpu + 32 + 16 * k + 10, 0, 6);
	memcpy(&fsw, s->fpu + 2, 2);
	(void)empty;
	s->rflags &= ~(1ull << 16); /* RF: set in what a fault pushes */
}
