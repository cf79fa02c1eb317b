/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native thunks. There is no sense in writing a thousand vector instructions
 * in C when the host has them. A thunk is a small function that loads the
 * registers an instruction names out of the guest's XSAVE image, executes the
 * instruction, and stores them back:
 *
 *   NATIVE_VEC	 ldmxcsr; load the XMM/YMM registers named, whole; the GPR
 *		 operand in rax (or rcx, rdx, rax as implicit operands); the
 *		 instruction; store all of it; flags; stmxcsr; host's mxcsr
 *   NATIVE_EVEX the same with ZMM0 to 31 and K0 to 7
 *   NATIVE_X87	 the same with FXRSTOR64 and FXSAVE64 of the image for the
 *		 registers, and FNINIT for the host at the end
 *
 * The instruction is the guest's own bytes with few changes: address-size and
 * segment prefixes go, a memory operand becomes [rdi + MEM] (struct
 * native_regs.mem, filled and emptied by the caller), and a general register
 * becomes rax. Encodings of vector instructions do not depend on the mode, so
 * code from 16- and 32-bit guests works alike.
 *
 * What cannot happen in a thunk: a memory fault (fixed addresses), #NM or #UD
 * (the caller checks the guest's control registers; the host has the features
 * that the guest is shown), #XM (the caller masks all in mxcsr), #MF (the
 * caller runs waiting instructions only when no exception is pending, and
 * FXSAVE and FNINIT do not wait), alignment (the buffer is aligned).
 *
 * W^X: one memfd mapped twice, readable-writable and readable-executable.
 * Thunks are found again by their bytes; when the space is full, all go.
 */
#include "vmm/cpu/native.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm/cpu/xstate.h"

#define CODE_BYTES  (1u << 20)
#define SLOTS	    8192u /* a power of two */
#define MAX_THUNKS  6000u
#define THUNK_BYTES 1024 /* of one, at most: 16 registers and change */

#define OFF(field)  offsetof(struct native_regs, field)

struct slot {
	struct native_thunk t;
	uint32_t off, len; /* in the code space; len 0: free */
	uint64_t hash;
};

struct native {
	uint8_t *rw, *rx;
	uint32_t used;
	unsigned count;
	struct slot slots[SLOTS];
};

int native_create(struct native **out)
{
	struct native *n = calloc(1, sizeof(*n));
	int fd, r = -ENOMEM;

	if (!n)
		return -ENOMEM;
	fd = memfd_create("sardine-thunks", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, CODE_BYTES))
		goto err;
	n->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     0);
	if (n->rw == MAP_FAILED)
		goto err;
	n->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd,
		     0);
	if (n->rx == MAP_FAILED) {
		munmap(n->rw, CODE_BYTES);
		goto err;
	}
	close(fd);
	*out = n;
	return 0;
err:
	r = errno ? -errno : r;
	if (fd >= 0)
		close(fd);
	free(n);
	return r;
}

void native_destroy(struct native *n)
{
	if (!n)
		return;
	munmap(n->rw, CODE_BYTES);
	munmap(n->rx, CODE_BYTES);
	free(n);
}

void native_clear(struct native *n)
{
	memset(n->slots, 0, sizeof(n->slots));
	n->used = 0;
	n->count = 0;
}

/* ---- emission into a local buffer ---- */
struct buf {
	uint8_t b[THUNK_BYTES];
	unsigned n;
};

static void emit(struct buf *e, const void *bytes, unsigned len)
{
	memcpy(e->b + e->n, bytes, len);
	e->n += len;
}
#define EMIT(e, ...)                                                           \
	emit(e, (const uint8_t[]){__VA_ARGS__},                                \
	     sizeof((const uint8_t[]){__VA_ARGS__}))

static void emit32(struct buf *e, uint32_t v)
{
	emit(e, &v, 4);
}

enum { RAX = 0, RCX = 1, RDX = 2 };

/* mov reg, [rdi + off] and back */
static void emit_load(struct buf *e, unsigned reg, uint8_t off)
{
	EMIT(e, 0x48, 0x8b, 0x47 | reg << 3, off);
}

static void emit_store(struct buf *e, unsigned reg, uint8_t off)
{
	EMIT(e, 0x48, 0x89, 0x47 | reg << 3, off);
}

/* VEX.128/256 op with register n and [rsi + off] */
static void emit_vec_load(struct buf *e, unsigned n)
{
	uint8_t r = n < 8 ? 0x80 : 0, reg = (n & 7) << 3;

	/* vmovups xmm, [rsi+disp32] */
	EMIT(e, 0xc5, r | 0x78, 0x10, 0x86 | reg);
	emit32(e, XS_XMM + 16 * n);
	/* vinsertf128 ymm, ymm, [rsi+disp32], 1 */
	EMIT(e, 0xc4, r | 0x63, (~n & 15) << 3 | 5, 0x18, 0x86 | reg);
	emit32(e, XS_YMM + 16 * n);
	EMIT(e, 1);
}

static void emit_vec_store(struct buf *e, unsigned n)
{
	uint8_t r = n < 8 ? 0x80 : 0, reg = (n & 7) << 3;

	/* vmovups [rsi+disp32], xmm */
	EMIT(e, 0xc5, r | 0x78, 0x11, 0x86 | reg);
	emit32(e, XS_XMM + 16 * n);
	/* vextractf128 [rsi+disp32], ymm, 1 */
	EMIT(e, 0xc4, r | 0x63, 0x7d, 0x19, 0x86 | reg);
	emit32(e, XS_YMM + 16 * n);
	EMIT(e, 1);
}

/* ZMM16 to 31 are whole in the image, of the others the upper half is */
static void emit_zmm(struct buf *e, unsigned n, bool store)
{
	uint8_t reg = 0x86 | (n & 7) << 3;

	if (n >= 16) {
		/* vmovups zmm, [rsi+disp32] */
		EMIT(e, 0x62, n & 8 ? 0x61 : 0xe1, 0x7c, 0x48, 0x10 | store,
		     reg);
		emit32(e, xstate()->hi16 + 64 * (n - 16));
		return;
	}
	if (store)
		emit_vec_store(e, n);
	else
		emit_vec_load(e, n);
	/* vinsertf64x4 zmm, zmm, [rsi+disp32], 1; vextractf64x4 */
	EMIT(e, 0x62, n & 8 ? 0x73 : 0xf3,
	     store ? 0xfd : 0x80 | (~n & 15) << 3 | 5, 0x48,
	     store ? 0x1b : 0x3a, reg);
	emit32(e, xstate()->zmm + 32 * n);
	EMIT(e, 1);
}

/* kmovq k, [rsi+disp32] */
static void emit_mask(struct buf *e, unsigned k, bool store)
{
	EMIT(e, 0xc4, 0xe1, 0xf8, 0x90 | store, 0x86 | k << 3);
	emit32(e, xstate()->opmask + 8 * k);
}

/* ---- what the instruction needs ---- */
struct needs {
	uint32_t vec; /* registers, a bit each */
	uint16_t vex_written;
	uint8_t masks;
	bool mem, gpr_reg, gpr_rm, implicit, is4, flags_in, flags_out;
};

static bool analyse(const struct x86_insn *x, struct needs *nd)
{
	const ZydisAccessedFlags *f = x->i.cpu_flags;

	*nd = (struct needs){0};
	for (unsigned k = 0; k < x->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &x->op[k];
		bool high;
		int n;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
			    o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
				return false;
			nd->mem = true;
		}
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_IS4)
			nd->is4 = true;
		n = x86_mask_number(o->reg.value);
		if (n >= 0)
			nd->masks |= 1u << n;
		n = x86_vec_number(o->reg.value);
		if (n >= 0)
			nd->vec |= 1u << n;
		if (n >= 0 && x->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
		    (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			nd->vex_written |= 1u << n;
		if (x86_gpr_number(o->reg.value, &high) < 0)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			nd->gpr_reg = true;
		else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			nd->gpr_rm = true;
		else
			nd->implicit = true;
	}
	if (f) {
		const uint32_t all = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF |
				     ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF |
				     ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;

		nd->flags_in = f->tested & all;
		nd->flags_out = (f->modified | f->set_0 | f->set_1) & all;
	}
	return !(nd->implicit && (nd->gpr_reg || nd->gpr_rm)) &&
	       !(nd->gpr_reg && nd->gpr_rm);
}

/* ---- the instruction itself ---- */
static bool is_legacy_prefix(uint8_t b)
{
	switch (b) {
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x26:
	case 0x64:
	case 0x65:
		return true;
	default:
		return false;
	}
}

/* Outside of 64-bit mode W means nothing where it is the size of an integer:
 * a general register, or memory in its place. */
static bool ignores_w(const ZydisDecodedInstruction *i, const struct needs *nd)
{
	if (i->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VMOVD:
		return true;
	default:
		return nd->gpr_reg || nd->gpr_rm || nd->implicit;
	}
}

/* The prefix. Its register bits count in 64-bit mode alone. */
static void emit_evex(struct buf *e, const struct x86_insn *x, const uint8_t *b,
		      const struct needs *nd)
{
	uint8_t p0 = b[1], p1 = b[2], p2 = b[3];

	if (x->i.machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
	}
	if (ignores_w(&x->i, nd))
		p1 &= 0x7f;
	if (nd->gpr_reg)
		p0 |= 0x90; /* R, R' */
	if (nd->mem || nd->gpr_rm)
		p0 |= 0x60; /* X, B */
	EMIT(e, 0x62, p0, p1, p2);
}

static void emit_insn(struct buf *e, const struct x86_insn *x, const uint8_t *b,
		      const struct needs *nd)
{
	const ZydisDecodedInstruction *i = &x->i;
	bool has_modrm = i->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	unsigned p = 0, end = has_modrm ? i->raw.modrm.offset : i->length;
	uint8_t rex = 0, m;

	for (; p < i->length; p++) {
		if (is_legacy_prefix(b[p])) {
			rex = 0;
			if (b[p] == 0x66 || b[p] == 0xf2 || b[p] == 0xf3)
				EMIT(e, b[p]);
		} else if (i->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 &&
			   (b[p] & 0xf0) == 0x40) {
			rex = b[p];
		} else {
			break;
		}
	}
	if (i->attributes & ZYDIS_ATTRIB_HAS_EVEX) {
		emit_evex(e, x, b + p, nd);
		p += 4;
	} else if (i->attributes & ZYDIS_ATTRIB_HAS_VEX) {
		uint8_t b1 = b[p + 1];

		if (nd->gpr_reg)
			b1 |= 0x80;
		if (b[p] == 0xc4 && nd->mem)
			b1 |= 0x60;
		if (b[p] == 0xc4 && nd->gpr_rm)
			b1 |= 0x20;
		EMIT(e, b[p], b1);
		p += 2;
		if (b[p - 2] == 0xc4 && ignores_w(i, nd))
			EMIT(e, b[p++] & 0x7f);
	} else if (rex) {
		if (nd->gpr_reg)
			rex &= ~4;
		if (nd->mem)
			rex &= ~3;
		if (nd->gpr_rm)
			rex &= ~1;
		EMIT(e, rex);
	}
	emit(e, b + p, end - p);
	if (!has_modrm)
		return;
	m = b[end];
	if (nd->gpr_reg)
		m &= ~0x38;
	if (nd->gpr_rm)
		m &= ~7;
	p = end + 1;
	if (nd->mem) {
		if (i->attributes & ZYDIS_ATTRIB_HAS_EVEX) {
			/* disp32: a disp8 would be in units of its own */
			EMIT(e, 0x80 | (m & 0x38) | 7);
			emit32(e, OFF(mem));
		} else {
			EMIT(e, 0x40 | (m & 0x38) | 7, OFF(mem));
		}
		if (i->attributes & ZYDIS_ATTRIB_HAS_SIB)
			p++;
		p += i->raw.disp.size / 8;
	} else {
		EMIT(e, m);
	}
	emit(e, b + p, i->length - p);
	/* A register in the immediate: its high bit is ignored outside of
	 * 64-bit mode. */
	if (nd->is4 && i->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
		e->b[e->n - 1] &= 0x7f;
}

static void emit_vectors(struct buf *e, enum native_kind kind,
			 const struct needs *nd, bool store)
{
	for (unsigned n = 0; n < 32 && kind != NATIVE_X87; n++) {
		if (!(nd->vec >> n & 1))
			continue;
		if (kind == NATIVE_EVEX)
			emit_zmm(e, n, store);
		else if (store)
			emit_vec_store(e, n);
		else
			emit_vec_load(e, n);
	}
	for (unsigned k = 0; k < 8 && kind == NATIVE_EVEX; k++)
		if (nd->masks >> k & 1)
			emit_mask(e, k, store);
}

static void build(struct buf *e, enum native_kind kind,
		  const struct x86_insn *x, const uint8_t *bytes,
		  const struct needs *nd)
{
	if (kind == NATIVE_X87)
		EMIT(e, 0x48, 0x0f, 0xae, 0x0e); /* fxrstor64 [rsi] */
	EMIT(e, 0x0f, 0xae, 0x57, OFF(mxcsr));	 /* ldmxcsr [rdi+..] */
	emit_vectors(e, kind, nd, false);
	if (nd->gpr_reg || nd->gpr_rm)
		emit_load(e, RAX, OFF(gpr));
	if (nd->implicit) {
		emit_load(e, RAX, OFF(rax));
		emit_load(e, RCX, OFF(rcx));
		emit_load(e, RDX, OFF(rdx));
	}
	if (nd->flags_in)
		EMIT(e, 0xff, 0x77, OFF(rflags), 0x9d); /* push; popfq */
	emit_insn(e, x, bytes, nd);
	if (nd->gpr_reg || nd->gpr_rm)
		emit_store(e, RAX, OFF(gpr));
	if (nd->implicit) {
		emit_store(e, RAX, OFF(rax));
		emit_store(e, RCX, OFF(rcx));
		emit_store(e, RDX, OFF(rdx));
	}
	if (nd->flags_out)
		EMIT(e, 0x9c, 0x8f, 0x47, OFF(rflags)); /* pushfq; pop */
	EMIT(e, 0x0f, 0xae, 0x5f, OFF(mxcsr));		/* stmxcsr [rdi+..] */
	emit_vectors(e, kind, nd, true);
	if (kind == NATIVE_X87)
		EMIT(e, 0x48, 0x0f, 0xae, 0x06,	    /* fxsave64 [rsi] */
		     0xdb, 0xe3);		    /* fninit */
	EMIT(e, 0x0f, 0xae, 0x57, OFF(host_mxcsr)); /* ldmxcsr */
	EMIT(e, 0xc5, 0xf8, 0x77, 0xc3);	    /* vzeroupper; ret */
}

/* ---- the cache ---- */
static struct slot *find(struct native *n, const struct buf *e, uint64_t hash)
{
	unsigned k = hash & (SLOTS - 1);

	while (n->slots[k].len) {
		struct slot *s = &n->slots[k];

		if (s->hash == hash && s->len == e->n &&
		    !memcmp(n->rw + s->off, e->b, e->n))
			return s;
		k = (k + 1) & (SLOTS - 1);
	}
	return &n->slots[k];
}

const struct native_thunk *native_get(struct native *n, enum native_kind kind,
				      const struct x86_insn *x,
				      const uint8_t *bytes, bool *full)
{
	struct buf e = {.n = 0};
	struct needs nd;
	struct slot *s;
	uint64_t hash;

	*full = false;
	if (!analyse(x, &nd) ||
	    (kind != NATIVE_EVEX && (nd.vec >> 16 || nd.masks)))
		return NULL;
	build(&e, kind, x, bytes, &nd);
	hash = XXH3_64bits(e.b, e.n);
	s = find(n, &e, hash);
	if (s->len)
		return &s->t;
	if (n->used + e.n > CODE_BYTES || n->count >= MAX_THUNKS) {
		*full = true;
		return NULL;
	}
	memcpy(n->rw + n->used, e.b, e.n);
	s->t.code = (void (*)(struct native_regs *, void *))(n->rx + n->used);
	s->t.gpr = nd.gpr_reg || nd.gpr_rm;
	s->t.implicit = nd.implicit;
	s->t.flags = nd.flags_out;
	s->t.vex_written = nd.vex_written;
	s->t.mask = x86_evex_mask(x);
	s->off = n->used;
	s->len = e.n;
	s->hash = hash;
	n->used += (e.n + 15) & ~15u;
	n->count++;
	return &s->t;
}
