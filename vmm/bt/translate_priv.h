/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BT_TRANSLATE_PRIV_H
#define SARDINE_VMM_BT_TRANSLATE_PRIV_H
/*
 * What the files of the translator share. All gen_ functions emit host code
 * for one guest instruction, or a part of one, at t->e; see translate.c for
 * the conventions. bool ones: true, go on with the next instruction; false,
 * the unit ends here.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/x86/emit.h"

#define RT  15
/* With a displacement as large as this, the base is likely to be the index
 * and the displacement the address. */
#define FAR 0x100000
#define S0  11
#define S1  10
/* struct vcpu's executed[] */
enum { EXEC_UNITS, EXEC_INSNS, EXEC_IBTC };

/* A work register has the delta of a slot: that of these guest registers. */
struct near {
	uint32_t regs;	/* in or close to it */
	uint32_t drift; /* that these have seen */
};
enum { NEAR_S1, NEAR_S0 };

struct tr {
	struct bt *bt;
	const struct tu *tu;
	struct emit e;
	struct ccf *c;
	/* What r10 and r11 hold, and guest registers, by bit (translate_facts.c). */
	struct near near[2]; /* NEAR_S1, NEAR_S0 */
	struct near was;     /* NEAR_S0, before this instruction */
	bool free_s0;	     /* it needs no S0 but for addresses */
	unsigned used;	     /* which of the two was used last */
	int slot;	     /* r10 has the delta of that slot, or -1 */
	uint8_t width[16];   /* no larger than 2^this either way; 0: unknown */
	bool moved, moves;   /* this instruction is RK_MOVED; the next one is */
	bool placed;	     /* HOT_IND says which branch ends this unit */
	unsigned n_stub;
	struct {
		uint8_t *patch; /* rel32 that leads here */
		uint64_t target;
		bool call;
	} stub[CCF_EXITS];
	uint8_t *miss; /* a pad's way out when its check fails */
	unsigned n_late;
	struct {
		uint8_t *patch; /* rel32 of an indirect call that leads here */
		uint32_t at;	/* where in the unit the guest's call is */
	} late[CCF_PADS];
};

/* Host form of a memory operand. */
struct mref {
	int base, index; /* -1: none (absolute) */
	unsigned ss;
	int32_t disp;
	uint8_t seg; /* prefix to keep, or 0 */
};

/*
 * Write an instruction again with other registers: reg, rm (register form),
 * vvvv and opcode register when >= 0, the memory operand m when not NULL.
 */
struct rewrite {
	int reg, rm, vvvv, opreg;
	const struct mref *m;
	uint8_t flip; /* bits of the opcode to turn over */
};

/* translate.c: add n to executed[i], if translated code counts. No flags are
 * written, nothing faults; r10 is lost. */
void gen_count(struct tr *t, unsigned i, unsigned n);

/* translate_mem.c */
bool is_special(int g);	     /* not in the host register of its number */
int reg_id(ZydisRegister r); /* of a general register, or -1 */
bool is_high_byte(ZydisRegister r);
unsigned scale_shift(const struct gop *o); /* of a memory operand's index */
/* From here on, a fault is at the guest instruction at offset guest. */
void recov_mark(struct tr *t, unsigned guest, enum recov_kind kind);
void load_guest(struct tr *t, unsigned dst, int g);
void gen_ea(struct tr *t, const struct gop *o);
void gen_delta(struct tr *t, unsigned a);
void gen_slot_delta(struct tr *t, uint64_t a);
void gen_mem(struct tr *t, const struct tu_insn *in, const struct gop *o,
	     struct mref *m);
bool mref_uses(const struct mref *m, int r);
void put_rewritten(struct tr *t, const struct tu_insn *in,
		   const struct rewrite *w);
void gen_rm64(struct tr *t, const struct tu_insn *in, const struct gop *o);

/* translate_addr.c: what depends on the unit's address. */
/* The unit may be nowhere else; and not in another context, either. */
void pin(struct tr *t);
void unmovable(struct tr *t);
/* May a, an address next to the unit's, be any in [lo, 2^47) instead, if the unit
 * is moved? (It is to be kept within, from now on.) False: not so; pinned. */
bool moves(struct tr *t, uint64_t a, int64_t lo);
bool is_canonical(struct tr *t, uint64_t a);
/* The field at p, whose value is written now. */
void field(struct tr *t, uint8_t *p, enum reloc_kind kind, int32_t off);
/* mov r, a */
void gen_addr(struct tr *t, unsigned r, uint64_t a);
/* The delta of the slot of a into r10. */
void gen_addr_delta(struct tr *t, uint64_t a);
/* mov dword [rT + d], the unit's TC offset + off; where in the unit this is. */
void gen_place(struct tr *t, int32_t d, uint32_t off);
uint32_t here(const struct tr *t);
/* put_check for a, with the miss at `miss`. */
void gen_addr_check(struct tr *t, uint64_t a, const uint8_t *miss);

/* translate_facts.c */
void delta_lost(struct tr *t); /* r10 has another value now */
/* This instruction leaves r11 alone. (Else it is taken for lost.) */
void s0_kept(struct tr *t);
void delta_wrote(struct tr *t, uint32_t regs); /* nothing is known of them */
/* May register g, times 2^ss, be added to an address whose slot is looked up? */
bool is_index(const struct tr *t, int g, unsigned ss);
void facts_after(struct tr *t, const struct tu_insn *in);

/* translate_flags.c */
bool flags_dead_at(const struct tr *t, unsigned k);
bool flags_dead_after(const struct tr *t, unsigned k);

/* translate_touch.c: at a careful site (site.c), a touch of what the instruction
 * is about to access. Else nothing. */
void gen_touch(struct tr *t, const struct tu_insn *in);

/* translate_plain.c */
bool gen_plain(struct tr *t, const struct tu_insn *in, unsigned k);

/* translate_rsp.c. Does its memory operand mean an access to just there, whatever
 * the registers hold? */
bool surely_accesses(const struct tu_insn *in);
void set_rsp(struct tr *t, unsigned v);
void store_guest(struct tr *t, int g, unsigned src);
void commit_rsp(struct tr *t, const struct tu_insn *in, unsigned v);
bool gen_rsp_arith(struct tr *t, const struct tu_insn *in, unsigned k);
void gen_push_addr(struct tr *t, uint64_t v);
void gen_push(struct tr *t, const struct tu_insn *in);
bool gen_pop(struct tr *t, const struct tu_insn *in);
void gen_leave(struct tr *t);

/* translate_string.c */
void gen_string(struct tr *t, const struct tu_insn *in);

/* translate_sys.c */
void gen_pushf(struct tr *t);
void gen_swapgs(struct tr *t);
/* A register from a field of the vCPU: len 2 (zero-extended) or 8 bytes. */
void gen_from_vcpu(struct tr *t, int g, unsigned len, size_t field);
bool gen_from_sreg(struct tr *t, const struct tu_insn *in);
void gen_wrbase(struct tr *t, const struct tu_insn *in);
bool gen_xsave(struct tr *t, const struct tu_insn *in);
void gen_cpuid(struct tr *t);
void gen_cr3(struct tr *t, const struct tu_insn *in);
bool gen_from_cr(struct tr *t, const struct tu_insn *in);
void gen_rdtsc(struct tr *t, bool with_aux);

/* translate_flow.c */
void gen_goto(struct tr *t, uint64_t target);
bool gen_callout(struct tr *t, const struct tu_insn *in);
/* A look for kicks, and if it places, a note for the indirect branch that ends the
 * unit, both in two instructions. */
void gen_poll(struct tr *t, unsigned goff, bool places);
bool gen_flow(struct tr *t, unsigned k);
void gen_stubs(struct tr *t);
/* Jump to the stub whose address is at rT + d; it goes on behind the jump, where
 * r10 points. What r10 held is lost. */
void gen_call_stub(struct tr *t, int32_t d);
void gen_entry(struct tr *t);

/* translate_cold.c: compare r11 with rip; answers the rel8 of the jump for when it
 * differs, r10 is what RCX was then. Else r10 is lost. check_bias() - rip is a field of
 * 8 bytes at CHECK_IMM if rip is LOW_END or more. */
#define CHECK_IMM 5
#define LOW_END	  (1ll << 32)
uint8_t *put_check(struct emit *e, uint64_t rip);
void patch_check(uint8_t *rel8, const uint8_t *miss);
/* What such a jump leads to: mov rcx, r10 ; jmp with its rel32 at the end. */
#define MISS_BYTES 8
void put_miss(struct emit *e);
/* TC_HEADER bytes: such a one, and room for the id (cold_put); answers where. */
uint8_t *put_header(struct emit *e);
#endif
