/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter: one instruction at a time, for every mode. It is the oracle
 * that the translator is compared with, the translator's slow path, and an
 * engine by itself.
 *
 * One step: fetch up to 15 bytes at cs:rip, find them decoded in the vcpu's
 * decode cache, call the handler, move rip on. The cache is direct-mapped by
 * linear address; an entry is believed only if its mode and its bytes are those
 * just fetched. So nobody has to tell it about self-modifying code, changed
 * page tables or another address space, and the fetch makes every instruction
 * fault exactly where hardware would.
 *
 * Files: interp_decode.c (bytes to handler), interp_alu.c, interp_bits.c,
 * interp_flow.c, interp_string.c, interp_sys.c, and interp_fpu.c (x87, MMX,
 * SSE, AVX: executed by the real CPU in thunks that native.c makes).
 *
 * Invariants: a handler that answers CPU_EXC has changed nothing but v->exc
 * (REP string instructions: but for finished iterations). rip is the
 * instruction's until its handler has succeeded.
 *
 * Limits: hardware breakpoints (DR0-3) never match. #AC is never raised. The
 * undefined flags are those of the host CPU (of an AMD one after BCD).
 */
#include "vmm/cpu/interp.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vmm/cpu/interp_priv.h"
#include "vmm/cpu/native.h"
#include "vmm/vm.h"

#define DR6_BS (1ull << 14)

/* Which of the 16 fetched bytes belong to an instruction of this length. */
static const uint64_t len_mask[16][2] = {
	{0, 0},
	{0xffull, 0},
	{0xffffull, 0},
	{0xffffffull, 0},
	{0xffffffffull, 0},
	{0xffffffffffull, 0},
	{0xffffffffffffull, 0},
	{0xffffffffffffffull, 0},
	{~0ull, 0},
	{~0ull, 0xffull},
	{~0ull, 0xffffull},
	{~0ull, 0xffffffull},
	{~0ull, 0xffffffffull},
	{~0ull, 0xffffffffffull},
	{~0ull, 0xffffffffffffull},
	{~0ull, 0xffffffffffffffull},
};

static inline enum x86_mode current_mode(const struct vcpu *v)
{
	if (likely(vcpu_code64(v)))
		return X86_MODE_LONG64;
	if (!(v->cr0 & CR0_PE) || (v->rflags & FL_VM))
		return X86_MODE_REAL16;
	return v->seg[SEG_CS].attr & SEG_ATTR_DB ? X86_MODE_PROT32
						 : X86_MODE_PROT16;
}

static inline struct insn *dcache_slot(struct vcpu *v, gva_t lin)
{
	return &v->interp->dcache[(lin ^ lin >> DCACHE_BITS) &
				  (DCACHE_SIZE - 1)];
}

static void dcache_clear(struct interp_vcpu *iv)
{
	/* Zero means never used (but in slot 0). Untouched pages are only
	 * read here. */
	for (unsigned i = 0; i < DCACHE_SIZE; i++)
		if (iv->dcache[i].lin || !i)
			iv->dcache[i].lin = ~0ull;
}

/* The pages come back zeroed: never used, as in interp_vcpu_init. */
void interp_trim(struct vcpu *v)
{
	struct interp_vcpu *iv = v->interp;

	if (madvise(iv->dcache, sizeof(struct insn) * DCACHE_SIZE,
		    MADV_DONTNEED))
		return;
	iv->dcache[0].lin = ~0ull;
}

void interp_native_full(struct vcpu *v)
{
	v->interp->stats.native_full++;
	dcache_clear(v->interp);
	native_clear(v->interp->native);
}

union code_bytes {
	uint8_t b[16];
	uint64_t w[2];
};

static inline struct code_page *code_slot(struct vcpu *v, gva_t lin)
{
	return &v->interp->code[(lin >> PAGE_SHIFT) & (CODE_PAGES - 1)];
}

static inline gva_t code_key(const struct vcpu *v, gva_t lin)
{
	return (lin & PAGE_MASK) | (v->cpl == 3 ? 2 : 1);
}

/* After a successful fetch at lin: keep the page, for the next ones. */
static void keep_code_page(struct vcpu *v, gva_t lin)
{
	unsigned access = WALK_EXEC | (v->cpl == 3 ? WALK_USER : 0);
	struct code_page *c = code_slot(v, lin);
	struct p2m *p = v->vm->p2m;
	struct interp_vcpu *iv = v->interp;
	struct walk w;

	if (v->mem_log || mmu_walk(v, lin, access, &w))
		return;
	if (iv->code_epoch != mem_epoch(v) || iv->code_gen != p2m_gen(p)) {
		memset(iv->code, 0, sizeof(iv->code));
		iv->stats.code_drops++;
	}
	c->page = p2m_read(p, gpa_to_ppn(w.gpa));
	c->key = c->page ? code_key(v, lin) : 0;
	iv->code_epoch = mem_epoch(v);
	iv->code_gen = p2m_gen(p);
	iv->stats.code_pages++;
}

static inline bool insn_is(const struct insn *in, gva_t lin, enum x86_mode mode,
			   uint64_t w0, uint64_t w1, unsigned got)
{
	const uint64_t *m = len_mask[in->len];

	return in->lin == lin && in->mode == mode && in->len <= got &&
	       !((in->raw[0] ^ w0) & m[0]) && !((in->raw[1] ^ w1) & m[1]);
}

/* The instruction that these bytes are, from the cache if they are the same. */
static enum cpu_status decoded(struct vcpu *v, gva_t lin, enum x86_mode mode,
			       const union code_bytes *buf, unsigned got,
			       struct insn **out)
{
	struct insn *in = dcache_slot(v, lin);

	*out = in;
	if (insn_is(in, lin, mode, buf->w[0], buf->w[1], got))
		return CPU_OK;
	v->interp->stats.decodes++;
	/* Nothing half made stays behind when this fails. */
	TRY(interp_decode(v, mode, lin, buf->b, got, &v->interp->tmp));
	*in = v->interp->tmp;
	return CPU_OK;
}

static enum cpu_status fetch_slow(struct vcpu *v, gva_t lin, enum x86_mode mode,
				  struct insn **out)
{
	union code_bytes buf = {.w = {0, 0}};
	unsigned got;

	TRY(mem_fetch(v, lin, buf.b, &got));
	if ((lin & (PAGE_SIZE - 1)) <= PAGE_SIZE - 16)
		keep_code_page(v, lin);
	return decoded(v, lin, mode, &buf, got, out);
}

/* The bytes at lin. Most come straight from a page kept; they are looked at
 * anew each time, as the guest may just have written there. */
static inline enum cpu_status
fetch_linear(struct vcpu *v, gva_t lin, enum x86_mode mode, struct insn **out)
{
	struct interp_vcpu *iv = v->interp;
	struct code_page *c = code_slot(v, lin);
	struct insn *in = dcache_slot(v, lin);
	unsigned off = lin & (PAGE_SIZE - 1);
	union code_bytes buf;

	if (unlikely(c->key != code_key(v, lin) || off > PAGE_SIZE - 16 ||
		     iv->code_epoch != mem_epoch(v) || v->mem_log ||
		     iv->code_gen != p2m_gen(v->vm->p2m)))
		return fetch_slow(v, lin, mode, out);
	memcpy(&buf, c->page + off, 16);
	if (unlikely(!insn_is(in, lin, mode, buf.w[0], buf.w[1], 15)))
		return decoded(v, lin, mode, &buf, 15, out);
	*out = in;
	return CPU_OK;
}

/* The instruction at cs:rip, decoded. */
static inline enum cpu_status fetch(struct vcpu *v, struct insn **out)
{
	enum x86_mode mode = current_mode(v);
	gva_t lin = v->rip;

	if (likely(mode == X86_MODE_LONG64))
		return fetch_linear(v, lin, mode, out);
	if (lin > v->seg[SEG_CS].limit)
		return vcpu_raise_err(v, EXC_GP, 0);
	lin = (uint32_t)(lin + v->seg[SEG_CS].base);
	TRY(fetch_linear(v, lin, mode, out));
	if (v->rip + (*out)->len - 1 > v->seg[SEG_CS].limit)
		return vcpu_raise_err(v, EXC_GP, 0);
	return CPU_OK;
}

/* RFLAGS.RF and TF were set before the instruction, which has completed. */
static enum cpu_status finish_flags(struct vcpu *v, const struct insn *in,
				    uint64_t old)
{
	bool by_new = in->flags & INSN_NOTRAP;

	if ((old & FL_RF) && !by_new)
		v->rflags &= ~FL_RF;
	if (!(old & FL_TF) || (by_new && !(v->rflags & FL_TF)))
		return CPU_OK;
	/* MOV SS and POP SS hold the trap off for one instruction. */
	if (v->irq_shadow && in->mnemonic != ZYDIS_MNEMONIC_STI)
		return CPU_OK;
	vcpu_raise(v, EXC_DB);
	v->exc.dr6 = DR6_BS;
	return CPU_EXC;
}

static inline enum cpu_status step(struct vcpu *v)
{
	uint64_t old = v->rflags;
	enum cpu_status st;
	struct insn *in;
	unsigned flags;

	v->irq_shadow = 0;
	TRY(fetch(v, &in));
	flags = in->flags;
	if (unlikely(v->mem_log && (flags & INSN_VOLATILE))) {
		v->mem_log->side_effect = true;
		v->exit = EXIT_NONE;
		return CPU_EXIT;
	}
	st = in->fn(v, in);
	if (unlikely(st))
		return st;
	v->instructions++;
	if (!(flags & INSN_BRANCH))
		v->rip = rip_next(v, in);
	if (unlikely(old & (FL_TF | FL_RF)))
		return finish_flags(v, in, old);
	return CPU_OK;
}

enum cpu_status interp_step_raw(struct vcpu *v)
{
	return step(v);
}

static inline enum cpu_status step_deliver(struct vcpu *v)
{
	enum cpu_status st = step(v);

	while (unlikely(st == CPU_EXC))
		st = cpu_deliver_exception(v);
	return st;
}

enum cpu_status interp_step(struct vcpu *v)
{
	return step_deliver(v);
}

/* ---- life ---- */
int interp_vcpu_init(struct vcpu *v)
{
	struct interp_vcpu *iv;
	int r;

	if (v->interp)
		return 0;
	iv = aligned_alloc(64, (sizeof(*iv) + 63) & ~63ul);
	if (!iv)
		return -ENOMEM;
	memset(iv, 0, sizeof(*iv));
	/* Pages on demand: bt uses few of them. */
	iv->dcache = mmap(NULL, sizeof(struct insn) * DCACHE_SIZE,
			  PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (iv->dcache == MAP_FAILED) {
		r = -errno;
		free(iv);
		return r;
	}
	r = native_create(&iv->native);
	if (r) {
		munmap(iv->dcache, sizeof(struct insn) * DCACHE_SIZE);
		free(iv);
		return r;
	}
	dcache_clear(iv);
	v->interp = iv;
	return 0;
}

void interp_vcpu_fini(struct vcpu *v)
{
	struct interp_vcpu *iv = v->interp;

	if (!iv)
		return;
	native_destroy(iv->native);
	munmap(iv->dcache, sizeof(struct insn) * DCACHE_SIZE);
	free(iv);
	v->interp = NULL;
}

/* ---- as an engine ---- */
static const struct stat_desc interp_stat_desc[] = {
#define DESC(name, help) STAT_DESC_ENTRY(interp_stats, name, help),
	INTERP_STATS(DESC)};

static void interp_tlb_flush(struct vcpu *v, enum tlb_flush kind, uint16_t pcid,
			     gva_t gva)
{
	if (kind == TLB_FLUSH_PAGE || kind == TLB_FLUSH_PAGE_PCID)
		mem_flush_page(v, gva);
	else
		mem_flush(v);
}

/* mem.c's TLB does not know PCIDs: another root, another TLB. */
static void interp_cr3_written(struct vcpu *v, bool noflush)
{
	mem_flush(v);
}

static void interp_mode_changed(struct vcpu *v)
{
	mem_flush(v);
}

/* The loop looks at v->requests before each instruction: nothing to do. */
static void interp_kick(struct vcpu *v)
{
}

static const struct vcpu_ops interp_vcpu_ops = {
	.tlb_flush = interp_tlb_flush,
	.cr3_written = interp_cr3_written,
	.mode_changed = interp_mode_changed,
	.kick = interp_kick,
};

static int interp_probe(char *why, size_t len)
{
	if (__builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx2"))
		return 0;
	snprintf(why, len,
		 "this CPU lacks BMI2 or AVX2 (x86-64-v3); use a "
		 "newer machine or CPU model");
	return -ENODEV;
}

static int interp_init(struct vm *vm, struct vcpu *v)
{
	int r = interp_vcpu_init(v);

	if (r)
		return r;
	v->ops = &interp_vcpu_ops;
	v->interp->stat_group = (struct stat_group){
		.prefix = "interp",
		.desc = interp_stat_desc,
		.n = ARRAY_SIZE(interp_stat_desc),
		.base = &v->interp->stats,
	};
	vm_add_stats(vm, &v->interp->stat_group);
	return 0;
}

static void interp_fini(struct vm *vm, struct vcpu *v)
{
	interp_vcpu_fini(v);
}

/* Has this instruction made it possible to take an interrupt? Called only when
 * IF went from 0 to 1 or a shadow ended. */
static bool irq_now_possible(struct vcpu *v)
{
	return cpu_can_take_irq(v) && v->irq && v->irq->peek(v->irq_ctx) >= 0;
}

static enum vcpu_exit run_loop(struct vcpu *v)
{
	for (;;) {
		uint64_t old = v->rflags;
		bool shadow = v->irq_shadow;

		if (unlikely(atomic_load_explicit(&v->requests,
						  memory_order_relaxed)))
			return EXIT_KICK;
		if (unlikely(step_deliver(v) == CPU_EXIT))
			return v->exit;
		if (unlikely(v->halted))
			return EXIT_HLT;
		if (unlikely((~old & v->rflags & FL_IF) || shadow) &&
		    irq_now_possible(v))
			return EXIT_KICK;
	}
}

static enum vcpu_exit interp_run(struct vcpu *v)
{
	enum vcpu_exit e = run_loop(v);

	v->interp->stats.instructions = v->instructions;
	return e;
}

const struct engine_ops engine_interp = {
	.name = "interp",
	.probe = interp_probe,
	.init = interp_init,
	.fini = interp_fini,
	.run = interp_run,
};
