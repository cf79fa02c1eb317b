/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CPU_INTERP_PRIV_H
#define SARDINE_VMM_CPU_INTERP_PRIV_H
/*
 * Private to interp*.c: the decoded instruction, operand access, the stack,
 * and the tables that join mnemonics to handlers.
 */
#include <string.h>

#include "mm/base/stats.h"
#include "vmm/cpu/interp.h"
#include "vmm/cpu/sys.h"
#include "vmm/mmu/mem.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/decode.h"
#include "vmm/x86/regs.h"

/* Hand any answer but CPU_OK on. */
#define TRY(e)                                                                 \
	do {                                                                   \
		enum cpu_status st_ = (e);                                     \
		if (unlikely(st_))                                             \
			return st_;                                            \
	} while (0)

struct insn;
struct native_thunk;

/*
 * A handler executes one instruction. CPU_OK: done; the caller moves rip on,
 * unless the handler belongs to a table entry with INSN_BRANCH (then it has
 * set rip). CPU_EXC: v->exc is filled and nothing else has changed (REP string
 * instructions: what was done stays done).
 */
typedef enum cpu_status (*insn_fn)(struct vcpu *v, const struct insn *in);

/* clang-format off */
enum opnd_kind {
	OPK_NONE,
	OPK_REG,  /* general register */
	OPK_REGH, /* AH CH DH BH: reg is 0..3 */
	OPK_MEM,
	OPK_IMM,
	OPK_SEG, OPK_CR, OPK_DR,
	OPK_XMM, OPK_YMM, OPK_MM, OPK_ST,
	OPK_OTHER,
};
/* clang-format on */

/* clang-format off */
struct opnd {
	uint8_t kind : 4; /* enum opnd_kind */
	uint8_t reg : 4;  /* of a vector register, its low bits */
	uint8_t size;	  /* bytes */
};

#define REG_NONE 0xff

/* A decoded instruction, also the entry of the decode cache: one cache line. */
struct insn {
	/* the key, with mode and len */
	uint64_t lin;
	union {
		uint64_t raw[2]; /* the bytes, zero beyond len */
		struct {
			uint8_t bytes_[15];
			uint8_t len;
		};
	};
	insn_fn fn;
	union {
		uint64_t imm; /* sign-extended; far: selector << 32 | offset */
		uint64_t disp64; /* INSN_DISP64 */
		const struct native_thunk *thunk;
	};
	int32_t disp;
	uint16_t mnemonic;
	uint8_t flags;	     /* INSN_* */
	uint8_t base, index; /* REG_NONE; index may be a vector register */
	uint8_t mode : 2;    /* enum x86_mode */
	uint8_t scale : 2;   /* a shift */
	uint8_t seg : 3;     /* of the memory operand */
	uint8_t opsize : 4;  /* 1, 2, 4, 8: effective operand size */
	uint8_t asize : 4;   /* 2, 4, 8: address size */
	uint8_t nops : 3;
	uint8_t rep : 2;     /* 0, 2 (REPNE), 3 (REP, REPE) */
	uint8_t cc : 4;	     /* condition, or a small operation number */
	uint8_t cls : 4;     /* enum insn_class */
	uint8_t align;	     /* memory operand must be aligned to this; or 0 */
	uint8_t actions;     /* 2 bits an operand: 1 read, 2 written */
	struct opnd op[4];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct insn) == 64, "one cache line");
/* clang-format on */

static inline unsigned op_action(const struct insn *in, unsigned k)
{
	return in->actions >> (2 * k) & 3;
}

/* clang-format off */
#define INSN_BRANCH    1u  /* the handler sets rip */
#define INSN_FLAT      2u  /* linear address = offset: 64-bit, not FS/GS */
#define INSN_STACKSEG  4u  /* SS: faults are #SS */
#define INSN_RIPREL    8u  /* disp counts from the next instruction */
#define INSN_VOLATILE  16u /* side effects: not under lockstep */
#define INSN_NOTRAP    32u /* RFLAGS.TF is judged by its new value */
#define INSN_DISP64    64u /* the address is disp64 alone */
/* clang-format on */

/* What a vector or x87 instruction needs to be allowed to run. */
enum insn_class {
	CLS_NONE,
	CLS_X87,
	CLS_FWAIT,
	CLS_MMX,
	CLS_SSE,
	CLS_SSEMMX,
	CLS_AVX,
	CLS_AVX512,
	CLS_XSAVE,
};

/* ---- the per-vCPU state ---- */
#define DCACHE_BITS 16
#define DCACHE_SIZE (1u << DCACHE_BITS)
#define CODE_PAGES  256

/* clang-format off */
#define INTERP_STATS(X)                                                        \
	X(instructions, "guest instructions completed")                        \
	X(decodes, "instructions decoded (misses of the decode cache)")        \
	X(code_pages, "pages looked up to fetch code from")                    \
	X(code_drops, "times all of those were forgotten")                     \
	X(native_full, "times the code cache of the native thunks was full")
/* clang-format on */

struct native;
struct interp_vcpu {
	struct insn *dcache;   /* DCACHE_SIZE, direct mapped */
	struct native *native; /* code cache of the vector thunks */
	struct insn tmp;       /* an instruction that is not cached */
	/* Pages that code was fetched from, while nothing has changed. */
	struct code_page {
		gva_t key; /* address | user */
		const uint8_t *page;
	} code[CODE_PAGES];
	uint64_t code_gen, code_epoch;
	struct interp_stats {
		INTERP_STATS(STAT_FIELD)
	} stats;
	struct stat_group stat_group;
};

/* ---- handler tables (interp_decode.c joins them) ---- */
struct op_desc {
	uint16_t mnemonic;
	uint8_t flags;
	insn_fn fn[4]; /* by size of the first operand: 1, 2, 4, 8; or only
			  fn[0] for all */
};
/* clang-format off */
#define OPS1(m, fl, f)	{ZYDIS_MNEMONIC_##m, fl, {f, NULL, NULL, NULL}}
#define OPS4(m, fl, f)	{ZYDIS_MNEMONIC_##m, fl, {f##_1, f##_2, f##_4, f##_8}}
/* By opsize 2, 4, 8. */
#define OPS3(m, fl, f)	{ZYDIS_MNEMONIC_##m, fl, {NULL, f##_2, f##_4, f##_8}}
/* clang-format on */

extern const struct op_desc interp_ops_alu[], interp_ops_bits[],
	interp_ops_flow[], interp_ops_sys[], interp_ops_fpu[],
	interp_ops_save[];
/* Each ends with mnemonic 0. */

/* Build the decoded form of the bytes. CPU_EXC: #UD, #GP, or the fetch fault. */
enum cpu_status interp_decode(struct vcpu *v, enum x86_mode mode, gva_t lin,
			      const uint8_t *buf, unsigned got,
			      struct insn *in);
/* The native code cache is full: drop every thunk and all that refers to one. */
void interp_native_full(struct vcpu *v);
/* For every instruction of a vector class without an own handler: set
 * in->fn, cls, align, thunk. False: #UD. */
bool interp_fpu_decode(struct vcpu *v, const struct x86_insn *x,
		       const uint8_t *bytes, struct insn *in);
enum cpu_status interp_ud(struct vcpu *v, const struct insn *in);
enum cpu_status interp_nop(struct vcpu *v, const struct insn *in);
/* String instructions (some share names with SSE: MOVSD, CMPSD). True: it is
 * one, and in->fn is set. */
bool interp_string_decode(const struct x86_insn *x, struct insn *in);
/* A faster handler for a form of MOV, or NULL. */
insn_fn interp_mov_fast(const struct insn *in);
/* MOV to or from a segment, control or debug register, or NULL. */
insn_fn interp_mov_system(const struct insn *in);
/* The far form of JMP, CALL, RET. */
insn_fn interp_far_fn(const struct insn *in);
/* Flags of CMP a, b. */
void interp_cmp(unsigned size, uint64_t a, uint64_t b, uint64_t *fl);

/* Lockstep: may this instruction with a side effect run? False: v->exit is
 * set up and CPU_EXIT is to be answered. */
static inline bool interp_side_effect(struct vcpu *v)
{
	if (likely(!v->mem_log))
		return true;
	v->mem_log->side_effect = true;
	return false;
}

/* ---- registers ---- */
static inline uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

static inline uint64_t reg_get(const struct vcpu *v, unsigned r, unsigned size)
{
	return v->gpr[r] & size_mask(size);
}

static inline void reg_set(struct vcpu *v, unsigned r, unsigned size,
			   uint64_t val)
{
	if (size == 8)
		v->gpr[r] = val;
	else if (size == 4)
		v->gpr[r] = (uint32_t)val;
	else if (size == 2)
		v->gpr[r] = (v->gpr[r] & ~0xffffull) | (uint16_t)val;
	else
		v->gpr[r] = (v->gpr[r] & ~0xffull) | (uint8_t)val;
}

/* rip of the next instruction, wrapped by mode. */
static inline uint64_t rip_next(const struct vcpu *v, const struct insn *in)
{
	uint64_t r = v->rip + in->len;

	if (likely(in->mode == X86_MODE_LONG64))
		return r;
	return in->mode == X86_MODE_PROT32	     ? (uint32_t)r
	       : (v->seg[SEG_CS].attr & SEG_ATTR_DB) ? (uint32_t)r
						     : (uint16_t)r;
}

/* ---- memory operand ---- */
static inline uint64_t ea_offset(const struct vcpu *v, const struct insn *in)
{
	uint64_t a = (int64_t)in->disp;

	if (in->base != REG_NONE)
		a += v->gpr[in->base];
	else if (in->flags & (INSN_RIPREL | INSN_DISP64))
		a = in->flags & INSN_DISP64 ? in->disp64 : a + v->rip + in->len;
	if (in->index != REG_NONE)
		a += v->gpr[in->index] << in->scale;
	if (likely(in->asize == 8))
		return a;
	return in->asize == 4 ? (uint32_t)a : (uint16_t)a;
}

/* Linear address of an offset in the instruction's memory segment. */
static inline enum cpu_status off_linear(struct vcpu *v, const struct insn *in,
					 uint64_t off, unsigned len,
					 unsigned acc, gva_t *lin)
{
	if (likely(in->flags & INSN_FLAT)) {
		*lin = off;
		return CPU_OK;
	}
	if (in->mode == X86_MODE_LONG64) {
		*lin = off + v->seg[in->seg].base;
		return CPU_OK;
	}
	return seg_linear(v, in->seg, off, len, acc & MEM_WRITE, lin);
}

static inline unsigned mem_acc(const struct insn *in, unsigned acc)
{
	return acc | ((in->flags & INSN_STACKSEG) ? MEM_STACK : 0);
}

static inline enum cpu_status ea_linear(struct vcpu *v, const struct insn *in,
					unsigned len, unsigned acc, gva_t *lin)
{
	return off_linear(v, in, ea_offset(v, in), len, acc, lin);
}

/* Read the memory operand (acc MEM_WRITE: it will be written back). */
static inline enum cpu_status mop_read(struct vcpu *v, const struct insn *in,
				       void *buf, unsigned len, unsigned acc)
{
	gva_t lin;

	if (unlikely(ea_linear(v, in, len, acc, &lin)))
		return CPU_EXC;
	return mem_read(v, lin, buf, len, mem_acc(in, acc));
}

static inline enum cpu_status mop_write(struct vcpu *v, const struct insn *in,
					const void *buf, unsigned len)
{
	gva_t lin;

	if (unlikely(ea_linear(v, in, len, MEM_WRITE, &lin)))
		return CPU_EXC;
	return mem_write(v, lin, buf, len, mem_acc(in, MEM_WRITE));
}

/* ---- generic operands; size is a constant where it matters ---- */
static inline __attribute__((always_inline)) enum cpu_status
opnd_read(struct vcpu *v, const struct insn *in, unsigned n, unsigned size,
	  unsigned acc, uint64_t *val)
{
	const struct opnd *o = &in->op[n];

	switch (o->kind) {
	case OPK_REG:
		*val = v->gpr[o->reg] & size_mask(size);
		return CPU_OK;
	case OPK_MEM:
		*val = 0;
		return mop_read(v, in, val, size, acc);
	case OPK_IMM:
		*val = in->imm & size_mask(size);
		return CPU_OK;
	default: /* OPK_REGH */
		*val = (v->gpr[o->reg] >> 8) & 0xff;
		return CPU_OK;
	}
}

static inline __attribute__((always_inline)) enum cpu_status
opnd_write(struct vcpu *v, const struct insn *in, unsigned n, unsigned size,
	   uint64_t val)
{
	const struct opnd *o = &in->op[n];

	switch (o->kind) {
	case OPK_REG:
		reg_set(v, o->reg, size, val);
		return CPU_OK;
	case OPK_MEM:
		return mop_write(v, in, &val, size);
	default:
		v->gpr[o->reg] = (v->gpr[o->reg] & ~0xff00ull) |
				 (uint64_t)(uint8_t)val << 8;
		return CPU_OK;
	}
}

/* ---- the stack ---- */
/* Width of the stack pointer: 8 in 64-bit code, else by SS.B. */
static inline unsigned stack_width(const struct vcpu *v, const struct insn *in)
{
	if (likely(in->mode == X86_MODE_LONG64))
		return 8;
	return v->seg[SEG_SS].attr & SEG_ATTR_DB ? 4 : 2;
}

static inline uint64_t sp_wrap(uint64_t sp, unsigned width)
{
	return sp & size_mask(width);
}

static inline void sp_set(struct vcpu *v, unsigned width, uint64_t sp)
{
	/* A 16- or 32-bit stack pointer leaves the rest alone. */
	uint64_t m = size_mask(width);

	v->gpr[R_RSP] = (v->gpr[R_RSP] & ~m) | (sp & m);
}

static inline enum cpu_status stack_linear(struct vcpu *v,
					   const struct insn *in, uint64_t sp,
					   unsigned size, unsigned acc,
					   gva_t *lin)
{
	if (likely(in->mode == X86_MODE_LONG64)) {
		*lin = sp;
		return CPU_OK;
	}
	return seg_linear(v, SEG_SS, sp, size, acc, lin);
}

/* Read or write at a stack offset; does not move rsp. */
static inline enum cpu_status stack_read(struct vcpu *v, const struct insn *in,
					 uint64_t sp, unsigned size,
					 uint64_t *val)
{
	gva_t lin;

	*val = 0;
	if (unlikely(stack_linear(v, in, sp, size, MEM_READ, &lin)))
		return CPU_EXC;
	return mem_read(v, lin, val, size, MEM_READ | MEM_STACK);
}

static inline enum cpu_status stack_write(struct vcpu *v, const struct insn *in,
					  uint64_t sp, unsigned size,
					  uint64_t val)
{
	gva_t lin;

	if (unlikely(stack_linear(v, in, sp, size, MEM_WRITE, &lin)))
		return CPU_EXC;
	return mem_write(v, lin, &val, size, MEM_WRITE | MEM_STACK);
}

static inline enum cpu_status push(struct vcpu *v, const struct insn *in,
				   unsigned size, uint64_t val)
{
	unsigned w = stack_width(v, in);
	uint64_t sp = sp_wrap(v->gpr[R_RSP] - size, w);
	enum cpu_status st = stack_write(v, in, sp, size, val);

	if (likely(st == CPU_OK))
		sp_set(v, w, sp);
	return st;
}

/* ---- flags ---- */
/*
 * Operations are executed for real, with the guest's arithmetic flags loaded
 * before and stored after, so that undefined flags too are what this CPU
 * gives. LAHF/SAHF and SETO/ADD 7fh do it without the stack and without POPF.
 * %eax holds the packed flags: AH = low byte, AL = OF.
 */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

static inline uint32_t flags_pack(uint64_t fl)
{
	return (uint32_t)(fl & 0xff) << 8 | ((fl >> 11) & 1);
}

static inline uint64_t flags_unpack(uint64_t fl, uint32_t ax)
{
	return (fl & ~FL_ARITH) | ((ax >> 8) & (FL_ARITH & 0xff)) |
	       (uint64_t)(ax & 1) << 11;
}

/* clang-format off */
/* The 16 conditions (SDM vol. 2, appendix B.1.4.7). */
static inline bool cond_true(uint64_t fl, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case 0: r = fl & FL_OF; break;
	case 1: r = fl & FL_CF; break;
	case 2: r = fl & FL_ZF; break;
	case 3: r = fl & (FL_CF | FL_ZF); break;
	case 4: r = fl & FL_SF; break;
	case 5: r = fl & FL_PF; break;
	case 6: r = !(fl & FL_SF) != !(fl & FL_OF); break;
	default:
		r = (fl & FL_ZF) || !(fl & FL_SF) != !(fl & FL_OF);
		break;
	}
	return r ^ (cc & 1);
}
/* clang-format on */
#endif
