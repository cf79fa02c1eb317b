/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions. A REP form does a bounded part of its work and returns
 * with rip still at the instruction and rCX, rSI, rDI moved on, as after an
 * interrupt; the next step goes on. A fault in the middle leaves exactly the
 * finished iterations in the registers and in memory.
 *
 * MOVS and STOS upwards go in pieces that lie in one page at each end, unless
 * the destination overlaps the source from above, be it through another mapping
 * of the same page (then every element must see the ones stored before).
 * Everything else goes element by element.
 */
#include "vmm/cpu/interp_priv.h"

enum string_op {
	STR_MOVS,
	STR_CMPS,
	STR_STOS,
	STR_LODS,
	STR_SCAS,
	STR_INS,
	STR_OUTS
};
#define STEP_ELEMENTS 1024

/* Source: DS or an override. Destination: always ES. */
static enum cpu_status str_linear(struct vcpu *v, const struct insn *in,
				  enum seg_reg s, uint64_t off, unsigned len,
				  unsigned acc, gva_t *lin)
{
	if (in->mode != X86_MODE_LONG64)
		return seg_linear(v, s, off, len, acc, lin);
	*lin = off;
	if (s == SEG_FS || s == SEG_GS)
		*lin += v->seg[s].base;
	return CPU_OK;
}

struct str {
	uint64_t cnt, si, di; /* masked to the address size */
	int64_t step;
	unsigned size;
};

static void str_load(const struct vcpu *v, const struct insn *in, struct str *s)
{
	s->size = in->opsize;
	s->step = v->rflags & FL_DF ? -(int64_t)s->size : (int64_t)s->size;
	s->cnt = in->rep ? reg_get(v, R_RCX, in->asize) : 1;
	s->si = reg_get(v, R_RSI, in->asize);
	s->di = reg_get(v, R_RDI, in->asize);
}

/* n iterations are done. */
static void str_advance(struct vcpu *v, const struct insn *in, struct str *s,
			uint64_t n)
{
	uint64_t m = size_mask(in->asize);
	enum string_op op = in->cc;

	if (op != STR_STOS && op != STR_SCAS && op != STR_INS) {
		s->si = (s->si + n * s->step) & m;
		reg_set(v, R_RSI, in->asize, s->si);
	}
	if (op != STR_LODS && op != STR_OUTS) {
		s->di = (s->di + n * s->step) & m;
		reg_set(v, R_RDI, in->asize, s->di);
	}
	s->cnt -= n;
	if (in->rep)
		reg_set(v, R_RCX, in->asize, s->cnt);
}

/* How many elements from off on lie in one page and do not wrap? */
static uint64_t in_page(uint64_t off, unsigned size, gva_t lin)
{
	return (PAGE_SIZE - (lin & (PAGE_SIZE - 1))) / size;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Would a piece of len bytes store into what it has yet to load? Each end lies
 * in one page; different pages may be the same memory. */
static bool overlaps(struct vcpu *v, gva_t src, gva_t dst, unsigned len)
{
	uint64_t by = (dst & (PAGE_SIZE - 1)) - (src & (PAGE_SIZE - 1));
	struct walk a, b;

	if (by == 0 || by >= len)
		return false; /* (negative is large) */
	if ((src ^ dst) < PAGE_SIZE)
		return true;
	if (mmu_walk(v, src, WALK_PROBE, &a) ||
	    mmu_walk(v, dst, WALK_PROBE, &b))
		return true; /* will fault: by elements is exact */
	return (a.gpa ^ b.gpa) < PAGE_SIZE;
}

/* A piece of MOVS or STOS; *done = 0 when it has to go by elements. */
static enum cpu_status str_bulk(struct vcpu *v, const struct insn *in,
				struct str *s, uint64_t *done)
{
	uint8_t buf[PAGE_SIZE];
	unsigned size = s->size, len;
	gva_t src = 0, dst;
	uint64_t n = s->cnt;

	*done = 0;
	if (s->step < 0 || n < 4 || in->mode != X86_MODE_LONG64 || v->mem_log)
		return CPU_OK;
	if (in->asize != 8) /* may wrap in the middle */
		n = min_u64(n, (size_mask(in->asize) -
				(s->si > s->di ? s->si : s->di)) /
				       size);
	TRY(str_linear(v, in, SEG_ES, s->di, size, MEM_WRITE, &dst));
	n = min_u64(n, in_page(s->di, size, dst));
	if (in->cc == STR_MOVS) {
		TRY(str_linear(v, in, in->seg, s->si, size, MEM_READ, &src));
		n = min_u64(n, in_page(s->si, size, src));
		if (overlaps(v, src, dst, n * size))
			return CPU_OK;
	}
	if (n < 2)
		return CPU_OK;
	len = n * size;
	if (in->cc == STR_MOVS) {
		TRY(mem_read(v, src, buf, len, MEM_READ));
	} else if (size == 1) {
		memset(buf, v->gpr[R_RAX], len);
	} else {
		for (unsigned i = 0; i < len; i += size)
			memcpy(buf + i, &v->gpr[R_RAX], size);
	}
	TRY(mem_write(v, dst, buf, len, MEM_WRITE));
	*done = n;
	return CPU_OK;
}

static enum cpu_status str_io(struct vcpu *v, const struct insn *in,
			      struct str *s)
{
	uint16_t port = v->gpr[R_RDX];
	uint32_t val = 0;
	gva_t lin;

	TRY(cpu_io_check(v, port, s->size));
	if (in->cc == STR_INS) {
		TRY(str_linear(v, in, SEG_ES, s->di, s->size, MEM_WRITE, &lin));
		TRY(mem_probe_write(v, lin, s->size, MEM_WRITE));
		TRY(cpu_in(v, port, s->size, &val));
		return mem_write(v, lin, &val, s->size, MEM_WRITE);
	}
	TRY(str_linear(v, in, in->seg, s->si, s->size, MEM_READ, &lin));
	TRY(mem_read(v, lin, &val, s->size, mem_acc(in, MEM_READ)));
	return cpu_out(v, port, s->size, val);
}

/* One iteration; commits flags and rAX, not the address registers. */
static enum cpu_status str_one(struct vcpu *v, const struct insn *in,
			       struct str *s)
{
	unsigned size = s->size;
	enum string_op op = in->cc;
	uint64_t a = 0, b = 0;
	gva_t src, dst;

	if (op == STR_INS || op == STR_OUTS)
		return str_io(v, in, s);
	if (op == STR_MOVS || op == STR_CMPS || op == STR_LODS) {
		TRY(str_linear(v, in, in->seg, s->si, size, MEM_READ, &src));
		TRY(mem_read(v, src, &a, size, mem_acc(in, MEM_READ)));
	} else {
		a = reg_get(v, R_RAX, size);
	}
	if (op == STR_LODS) {
		reg_set(v, R_RAX, size, a);
		return CPU_OK;
	}
	if (op == STR_MOVS || op == STR_STOS) {
		TRY(str_linear(v, in, SEG_ES, s->di, size, MEM_WRITE, &dst));
		return mem_write(v, dst, &a, size, MEM_WRITE);
	}
	TRY(str_linear(v, in, SEG_ES, s->di, size, MEM_READ, &dst));
	TRY(mem_read(v, dst, &b, size, MEM_READ));
	interp_cmp(size, a, b, &v->rflags);
	return CPU_OK;
}

static enum cpu_status h_string(struct vcpu *v, const struct insn *in)
{
	bool compares = in->cc == STR_CMPS || in->cc == STR_SCAS;
	struct str s;
	uint64_t budget, n;

	str_load(v, in, &s);
	budget = v->rflags & FL_TF ? 1 : v->mem_log ? 8 : STEP_ELEMENTS;
	while (s.cnt && budget) {
		n = 0;
		if (in->rep && budget == STEP_ELEMENTS &&
		    (in->cc == STR_MOVS || in->cc == STR_STOS))
			TRY(str_bulk(v, in, &s, &n));
		if (n) {
			str_advance(v, in, &s, n);
			if (s.cnt)
				return CPU_OK;
			break;
		}
		TRY(str_one(v, in, &s));
		str_advance(v, in, &s, 1);
		budget--;
		if (in->rep && compares &&
		    !(v->rflags & FL_ZF) == (in->rep == 3)) {
			s.cnt = 0; /* REPE ends on ZF = 0, REPNE on 1 */
			break;
		}
	}
	if (!s.cnt)
		v->rip = rip_next(v, in);
	return CPU_OK;
}

/* clang-format off */
static const struct {
	uint16_t mnemonic;
	uint8_t op, size;
} string_insns[] = {
#define S4(n, b, w, d, q)                                                      \
	{ZYDIS_MNEMONIC_##b, STR_##n, 1}, {ZYDIS_MNEMONIC_##w, STR_##n, 2},    \
	{ZYDIS_MNEMONIC_##d, STR_##n, 4}, {ZYDIS_MNEMONIC_##q, STR_##n, 8},
	S4(MOVS, MOVSB, MOVSW, MOVSD, MOVSQ)
	S4(CMPS, CMPSB, CMPSW, CMPSD, CMPSQ)
	S4(STOS, STOSB, STOSW, STOSD, STOSQ)
	S4(LODS, LODSB, LODSW, LODSD, LODSQ)
	S4(SCAS, SCASB, SCASW, SCASD, SCASQ)
	{ZYDIS_MNEMONIC_INSB, STR_INS, 1}, {ZYDIS_MNEMONIC_INSW, STR_INS, 2},
	{ZYDIS_MNEMONIC_INSD, STR_INS, 4},
	{ZYDIS_MNEMONIC_OUTSB, STR_OUTS, 1},
	{ZYDIS_MNEMONIC_OUTSW, STR_OUTS, 2},
	{ZYDIS_MNEMONIC_OUTSD, STR_OUTS, 4},
};
/* clang-format on */

bool interp_string_decode(const struct x86_insn *x, struct insn *in)
{
	if (x->i.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return false; /* SSE2's MOVSD and CMPSD */
	for (unsigned i = 0; i < ARRAY_SIZE(string_insns); i++) {
		if (string_insns[i].mnemonic != x->i.mnemonic)
			continue;
		in->fn = h_string;
		in->cc = string_insns[i].op;
		in->opsize = string_insns[i].size;
		in->flags |= INSN_BRANCH;
		if (in->cc == STR_INS || in->cc == STR_OUTS)
			in->flags |= INSN_VOLATILE;
		for (unsigned k = 0; k < x->i.raw.prefix_count; k++)
			if ((x->i.raw.prefixes[k].value & 0xfe) == 0xf2)
				in->rep = x->i.raw.prefixes[k].value & 3;
		return true;
	}
	return false;
}
