/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding, by Zydis and by what Zydis has decoded before.
 *
 * The problem: decoding was half of the time that translating takes (400 cycles an
 * instruction), and a program of which most is run once waits for translations a
 * tenth of its time.
 *
 * Code says the same things over and over, to other places and by other constants.
 * So what is kept is an instruction's shape: its bytes but for the displacement
 * and the immediate, and what Zydis made of them. The decoding of another
 * instruction with these bytes is the same, with the two values written over.
 *
 * What a shape does not leave out is a question of form alone: fields that have
 * the whole of their bytes to themselves and are values to Zydis, too. So none of
 * VEX and EVEX (an immediate may name a register, a displacement is scaled),
 * none where there are two immediates, none of 64 bits, no address of MOV AL, no
 * displacement that 67 cuts short. tests/prop/prop_decode
 * compares with Zydis, field by field.
 *
 * The kind of an instruction (tu.c) is kept with it, and depends on the mode, which
 * is therefore part of a shape.
 *
 * Data: SHAPE_WAYS shapes a set, the oldest of which goes first. A set is found by
 * the prefixes, the opcode and, where that has them, ModRM and SIB. Which opcodes
 * do is learnt from Zydis; to be wrong about it costs a look-up that finds nothing
 * and no more, as all bytes are compared in the end. 4096 shapes serve 90% of
 * gcc's code. (Whole instructions, all bytes alike, would serve 60%.)
 *
 * The memory is given back with the translations' (tc_trim): all zero is empty.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/bt/bt_priv.h"

#define SHAPE_BITS 10
#define SHAPE_SETS (1u << SHAPE_BITS)
#define SHAPE_WAYS 4u
/* Operands of one. The first few are always valid, whether there are as many or
 * not: who looks at the second of an instruction that has one finds none. */
#define SHAPE_OPS  8u
#define FIRST_OPS  3u
/* Where an instruction's bytes have their end: the mode, and that there is one. */
#define TAG_BYTE   15
#define TAG_THERE  0x80

union tag {
	uint8_t b[16];
	uint64_t q[2];
};
struct shape {
	/* As a tu_insn begins. */
	struct ginsn i;
	struct gop op[SHAPE_OPS];
	uint8_t kind;
};
#define ALIKE(m)                                                               \
	_Static_assert(                                                        \
		offsetof(struct shape, m) == offsetof(struct tu_insn, m), #m)
ALIKE(i);
ALIKE(op);
struct shapes {
	struct {
		union tag is, mask;
	} tag[SHAPE_SETS][SHAPE_WAYS];
	uint8_t oldest[SHAPE_SETS];
	uint8_t has_modrm[2][256]; /* opcodes of one byte; 0f and one byte */
	struct shape shape[SHAPE_SETS][SHAPE_WAYS];
};

int decode_init(struct bt *bt)
{
	void *p = mmap(NULL, sizeof(*bt->shapes), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ZydisDecoderInit(&bt->dec, ZYDIS_MACHINE_MODE_LONG_64,
			 ZYDIS_STACK_WIDTH_64);
	bt->shapes = p == MAP_FAILED ? NULL : p;
	bt->tu = calloc(1, sizeof(*bt->tu));
	return bt->shapes && bt->tu ? 0 : -ENOMEM;
}

void decode_fini(struct bt *bt)
{
	if (bt->shapes)
		munmap(bt->shapes, sizeof(*bt->shapes));
	free(bt->tu);
}

void decode_trim(struct bt *bt)
{
	madvise(bt->shapes, sizeof(*bt->shapes), MADV_DONTNEED);
}

/* The opcode is at b[at], b[at - 1] being 0f or not: which entry of has_modrm? */
static uint8_t *modrm_of(struct shapes *s, const uint8_t *b, unsigned at,
			 bool two)
{
	return &s->has_modrm[two][b[at]];
}

static bool is_prefix(uint8_t b)
{
	return b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0 || b == 0x64 ||
	       b == 0x65;
}

/* The set for the instruction in t; and *learn: what is known of its opcode, or
 * NULL. */
static unsigned set_of(struct shapes *s, const union tag *t, uint8_t **learn)
{
	const uint8_t *b = t->b;
	uint32_t h = b[TAG_BYTE];
	unsigned p = 0;
	bool two;

	*learn = NULL;
	while (p < 4 && is_prefix(b[p]))
		h = h * 31 + b[p++];
	if ((b[p] & 0xf0) == 0x40)
		h = h * 31 + b[p++];
	two = b[p] == 0x0f;
	p += two;
	h = h * 31 + b[p] + two * 7;
	if ((two && (b[p] == 0x38 || b[p] == 0x3a)) || b[p] == 0xc4 ||
	    b[p] == 0xc5 || b[p] == 0x62) {
		/* Three bytes that say what it is, or nearly. */
		h = h * 31 + b[p + 1] * 7 + b[p + 2] * 13 + b[p + 3] * 131;
	} else {
		*learn = modrm_of(s, b, p, two);
		if (**learn) {
			h = h * 131 + b[p + 1];
			if ((b[p + 1] & 7) == 4 && b[p + 1] < 0xc0)
				h = h * 131 + b[p + 2];
		}
	}
	return h * 0x9e3779b1u >> (32 - SHAPE_BITS);
}

static void tag_of(union tag *t, unsigned mode, const uint8_t *bytes,
		   unsigned avail)
{
	t->q[0] = t->q[1] = 0;
	if (avail >= 15)
		memcpy(t->b, bytes, 15);
	else
		memcpy(t->b, bytes, avail);
	t->b[TAG_BYTE] = TAG_THERE | mode;
}

static int64_t value_at(const union tag *t, unsigned at, unsigned bits,
			bool is_signed)
{
	int32_t v = 0;

	memcpy(&v, t->b + at, bits / 8);
	switch (bits) {
	case 8:
		return is_signed ? (int8_t)v : (uint8_t)v;
	case 16:
		return is_signed ? (int16_t)v : (uint16_t)v;
	default:
		return is_signed ? v : (int64_t)(uint32_t)v;
	}
}

/* What of the instruction is a value. */
static bool has_disp(const struct ginsn *i)
{
	return i->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       (i->attributes & ZYDIS_ATTRIB_HAS_MODRM) &&
	       i->address_width == 64 && i->disp_bits;
}
static bool has_imm(const struct ginsn *i)
{
	return i->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       i->imm_bits && i->imm_bits <= 32 && !i->two_imms;
}

/* Its values, from its bytes. */
static void put_values(struct tu_insn *in, const union tag *t)
{
	bool disp = has_disp(&in->i), imm = has_imm(&in->i);
	int64_t v = 0;

	if (disp)
		in->i.disp = value_at(t, in->i.disp_at, in->i.disp_bits, true);
	if (imm)
		v = value_at(t, in->i.imm_at, in->i.imm_bits, in->i.imm_signed);
	if (!disp && !imm)
		return;
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		struct gop *o = &in->op[k];

		if (disp && o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			o->mem.disp = in->i.disp;
		else if (imm && o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
			 o->encoding != ZYDIS_OPERAND_ENCODING_NONE)
			o->imm.s = v;
	}
}

static void take_op(struct gop *o, const ZydisDecodedOperand *z)
{
	o->type = z->type;
	o->visibility = z->visibility;
	o->encoding = z->encoding;
	o->actions = z->actions;
	o->size = z->size;
	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		o->reg = z->reg.value;
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		o->mem.type = z->mem.type;
		o->mem.scale = z->mem.scale;
		o->mem.segment = z->mem.segment;
		o->mem.base = z->mem.base;
		o->mem.index = z->mem.index;
		if (z->mem.disp.has_displacement)
			o->mem.disp = z->mem.disp.value;
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		o->imm.u = z->imm.value.u;
		break;
	default:
		break;
	}
}

void decode_take(struct tu_insn *in, const ZydisDecodedInstruction *z,
		 const ZydisDecodedOperand *op)
{
	in->i = (struct ginsn){
		.attributes = z->attributes,
		.cpu_flags = z->cpu_flags,
		.disp = z->raw.disp.value,
		.mnemonic = z->mnemonic,
		.isa_set = z->meta.isa_set,
		.length = z->length,
		.encoding = z->encoding,
		.opcode_map = z->opcode_map,
		.opcode = z->opcode,
		.category = z->meta.category,
		.branch_type = z->meta.branch_type,
		.exception_class = z->meta.exception_class,
		.operand_width = z->operand_width,
		.address_width = z->address_width,
		.operand_count = z->operand_count,
		.operand_count_visible = z->operand_count_visible,
		.n_prefix = z->raw.prefix_count,
		.rex_b = z->raw.rex.B,
		.evex_aaa = z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX
				    ? z->raw.evex.aaa
				    : 0,
		.modrm_at = z->raw.modrm.offset,
		.disp_at = z->raw.disp.offset,
		.disp_bits = z->raw.disp.size,
		.imm_at = z->raw.imm[0].offset,
		.imm_bits = z->raw.imm[0].size,
		.imm_signed = z->raw.imm[0].is_signed,
		.two_imms = z->raw.imm[1].size,
	};
	memset(in->op, 0, sizeof(in->op));
	for (unsigned k = 0; k < z->operand_count; k++)
		take_op(&in->op[k], &op[k]);
}

/* Of a shape with n operands, what is to be copied. */
static size_t head_bytes(unsigned n)
{
	return offsetof(struct shape, op) +
	       (n > FIRST_OPS ? n : FIRST_OPS) * sizeof(struct gop);
}

static void learn(struct shapes *s, const union tag *t, unsigned set,
		  uint8_t *modrm, const struct tu_insn *in)
{
	unsigned w = s->oldest[set], n = in->i.operand_count;
	union tag *mask = &s->tag[set][w].mask, *is = &s->tag[set][w].is;
	struct shape *sh = &s->shape[set][w];

	if (modrm && (in->i.attributes & ZYDIS_ATTRIB_HAS_MODRM))
		*modrm = 1;
	if (n > SHAPE_OPS)
		return;
	s->oldest[set] = (w + 1) % SHAPE_WAYS;
	mask->q[0] = mask->q[1] = 0;
	memset(mask->b, 0xff, in->i.length);
	mask->b[TAG_BYTE] = 0xff;
	if (has_disp(&in->i))
		memset(mask->b + in->i.disp_at, 0, in->i.disp_bits / 8);
	if (has_imm(&in->i))
		memset(mask->b + in->i.imm_at, 0, in->i.imm_bits / 8);
	is->q[0] = t->q[0] & mask->q[0];
	is->q[1] = t->q[1] & mask->q[1];
	memcpy(sh, in, head_bytes(n));
	sh->kind = in->kind;
}

static const struct shape *known(const struct shapes *s, const union tag *t,
				 unsigned set)
{
	for (unsigned w = 0; w < SHAPE_WAYS; w++) {
		const union tag *is = &s->tag[set][w].is;
		const union tag *mask = &s->tag[set][w].mask;

		if ((t->q[0] & mask->q[0]) == is->q[0] &&
		    (t->q[1] & mask->q[1]) == is->q[1] && is->b[TAG_BYTE])
			return &s->shape[set][w];
	}
	return NULL;
}

bool decode_insn(struct bt *bt, struct tu_insn *in, const uint8_t *bytes,
		 unsigned avail, bool *short_of)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	const struct shape *sh;
	union tag t;
	uint8_t *modrm;
	unsigned set, n;
	ZyanStatus st;

	*short_of = false;
	tag_of(&t, bt->mode, bytes, avail);
	set = set_of(bt->shapes, &t, &modrm);
	sh = known(bt->shapes, &t, set);
	if (sh && (avail == 15 || sh->i.length <= avail)) {
		n = sh->i.operand_count;
		memcpy(in, sh, head_bytes(n));
		memcpy(in->bytes, t.b, 15);
		in->kind = sh->kind;
		put_values(in, &t);
		return true;
	}
	bt->stats.decoded++;
	st = ZydisDecoderDecodeFull(&bt->dec, bytes, avail, &z, op);
	if (ZYAN_SUCCESS(st)) {
		decode_take(in, &z, op);
		memcpy(in->bytes, t.b, 15);
		in->kind = tu_classify(bt, in);
		learn(bt->shapes, &t, set, modrm, in);
		return true;
	}
	*short_of = st == ZYDIS_STATUS_NO_MORE_DATA && avail < 15;
	memset(&in->i, 0, sizeof(in->i));
	/* What was decoded here before is no branch's target (gen_flow asks). */
	memset(in->op, 0, sizeof(in->op));
	in->i.length = 1;
	in->kind = K_CALLOUT;
	return false;
}
