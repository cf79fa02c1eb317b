/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random user-level code under the translator against the interpreter, which
 * test_diff_interp.c compares with the CPU. Both run the same code at CPL 3; the
 * exception that ends it goes through the IDT to a HLT at CPL 0, and the state
 * is read from the frame. Every register, flag, vector register and byte of
 * memory is compared.
 *
 * SARDINE_DIFF_SEED and SARDINE_DIFF_COUNT choose other seeds and longer runs.
 */
#include "tests/unit/bt_fixture.h"

#include "tests/diff/gen.c"
#include "tests/diff/wide.h"

#include "vmm/cpu/interp.h"

#define CODE_GPA  0x400000ul
#define ARENA_GPA 0x500000ul

static struct side bt, itp;

static void map_range(struct fix *f, gva_t va, gpa_t pa, uint64_t len)
{
	for (uint64_t o = 0; o < len; o += PAGE_SIZE)
		map_page(f, va + o, pa + o, PTE_P | PTE_W | PTE_U);
}

static void make_side(struct side *s, const struct engine_ops *e,
		      const struct vm_config *cfg)
{
	struct fix *f;

	side_make(s, e, cfg);
	f = s->f;
	map_range(f, GEN_CODE, CODE_GPA, GEN_CODE_SIZE);
	map_range(f, GEN_ARENA, ARENA_GPA, GEN_ARENA_SIZE);
	halt_on_exceptions(f);
	f->v->cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	f->v->xcr0 = xstate()->avx512 ? XCR0_ALL : 7;
}

static int teardown(void **state)
{
	side_drop(&bt);
	side_drop(&itp);
	return 0;
}

static void put_state(struct fix *f, const struct gen_code *c,
		      const struct gen_state *in)
{
	struct vcpu *v = f->v;

	go_user(f);
	v->seg[SEG_DS] = v->seg[SEG_ES] = seg_of(0, 0, 0);
	if (c->code32) {
		v->seg[SEG_CS] = seg_of(S_UCODE32, ~0u, 0xcfb);
		v->seg[SEG_DS] = v->seg[SEG_ES] = v->seg[SEG_SS];
	}
	poke(f, CODE_GPA, c->bytes, c->len);
	poke(f, ARENA_GPA, in->arena, GEN_ARENA_SIZE);
	memcpy(v->gpr, in->gpr, sizeof(in->gpr));
	v->rip = in->rip;
	v->rflags = in->rflags;
	memcpy(v->fpu, in->fpu, GEN_FPU_BYTES);
	wide_in(v->fpu, in->wide);
	v->halted = 0;
}

static void get_state(struct fix *f, struct gen_state *out)
{
	struct vcpu *v = f->v;
	uint64_t at = exception_frame(f, &out->vector);

	memcpy(out->gpr, v->gpr, sizeof(out->gpr));
	out->rip = peek64(f, at);
	out->rflags = peek64(f, at + 16);
	out->gpr[R_RSP] = peek64(f, at + 24);
	memcpy(out->fpu, v->fpu, GEN_FPU_BYTES);
	wide_out(v->fpu, out->wide);
	assert_int_equal(
		p2m_copy_out(f->vm.p2m, ARENA_GPA, out->arena, GEN_ARENA_SIZE),
		0);
}

static void run_side(struct side *s, const struct gen_code *c,
		     const struct gen_state *in, struct gen_state *out)
{
	struct vcpu *v = s->f->v;

	put_state(s->f, c, in);
	run_to_halt(s->e, v);
	get_state(s->f, out);
}

static const char *compare(const struct gen_state *a, const struct gen_state *b,
			   char *buf, size_t len)
{
	if (a->vector != b->vector || a->rip != b->rip) {
		snprintf(buf, len, "interp: #%u at %lx, bt: #%u at %lx",
			 a->vector, a->rip, b->vector, b->rip);
		return buf;
	}
	for (unsigned k = 0; k < 16; k++)
		if (a->gpr[k] != b->gpr[k]) {
			snprintf(buf, len, "gpr %u: interp %016lx bt %016lx", k,
				 a->gpr[k], b->gpr[k]);
			return buf;
		}
	if (a->rflags != b->rflags) {
		snprintf(buf, len, "rflags: interp %lx bt %lx", a->rflags,
			 b->rflags);
		return buf;
	}
	for (unsigned k = 0; k < GEN_FPU_BYTES; k++)
		if (a->fpu[k] != b->fpu[k]) {
			snprintf(buf, len, "image+%u: interp %02x bt %02x", k,
				 a->fpu[k], b->fpu[k]);
			return buf;
		}
	for (unsigned k = 0; k < GEN_WIDE_BYTES; k++)
		if (a->wide[k] != b->wide[k]) {
			snprintf(buf, len, "wide+%u: interp %02x bt %02x", k,
				 a->wide[k], b->wide[k]);
			return buf;
		}
	for (unsigned k = 0; k < GEN_ARENA_SIZE; k++)
		if (a->arena[k] != b->arena[k]) {
			snprintf(buf, len, "arena+%x: interp %02x bt %02x", k,
				 a->arena[k], b->arena[k]);
			return buf;
		}
	return NULL;
}

static struct gen_state in, s_bt, s_itp;

/* A component that XSTATE_BV says is in its initial state has stale bytes. */
static void normalise(struct gen_state *s)
{
	uint64_t bv;

	memcpy(&bv, s->fpu + 512, 8);
	if (!(bv & 1)) {
		memset(s->fpu, 0, 24);
		s->fpu[0] = 0x7f, s->fpu[1] = 3;
		memset(s->fpu + 32, 0, 128);
	}
	if (!(bv & 2))
		memset(s->fpu + 160, 0, 256);
	if (!(bv & 4))
		memset(s->fpu + 576, 0, 256);
	gen_normalise(s);
	memset(s->fpu + 512, 0, 64);
}

static const char *run_both(const struct gen_code *c, char *buf, size_t len)
{
	run_side(&itp, c, &in, &s_itp);
	run_side(&bt, c, &in, &s_bt);
	normalise(&s_itp);
	normalise(&s_bt);
	return compare(&s_itp, &s_bt, buf, len);
}

/* Parts of groups (gen.c), without which the rest of the group would run on
 * for ever, or anywhere: LEA and MOV ECX before a string instruction, PUSH and
 * RET, MOV and JMP. */
static bool part_of_group(const uint8_t *b)
{
	return b[0] == 0x8d || b[1] == 0x8d || b[0] == 0xb9 || b[0] == 0xb8 ||
	       b[0] == 0x68 || b[0] == 0xc3 || b[0] == 0xff || b[0] == 0xe8;
}

/* Make NOPs of all instructions that the difference does not need, and print
 * the rest. */
static void report(uint64_t seed, const struct gen_code *c, const char *what)
{
	static struct gen_code small;
	char buf[200], last[200], text[200];
	uint8_t keep[16];

	snprintf(last, sizeof(last), "%s", what);
	small = *c;
	for (unsigned k = 0; k + 1 < c->n; k++) {
		unsigned len = c->off[k + 1] - c->off[k];
		uint8_t *b = small.bytes + c->off[k];

		if (part_of_group(b))
			continue;
		memcpy(keep, b, len);
		memset(b, 0x90, len);
		if (run_both(&small, buf, sizeof(buf)))
			memcpy(last, buf, sizeof(last));
		else
			memcpy(b, keep, len);
	}
	print_error("seed %lu: %s\n", seed, last);
	for (unsigned k = 0; k + 1 < c->n; k++)
		if (small.bytes[c->off[k]] != 0x90) {
			gen_print(&small, k, text, sizeof(text));
			print_error("    %4x: %s\n", c->off[k], text);
		}
}

static unsigned long env(const char *name, unsigned long def)
{
	const char *s = getenv(name);

	return s ? strtoul(s, NULL, 0) : def;
}

static void diff(const struct vm_config *cfg, unsigned kinds, unsigned insns,
		 unsigned part)
{
	unsigned long seed = env("SARDINE_DIFF_SEED", 1), bad = 0;
	unsigned long count = env("SARDINE_DIFF_COUNT", 300), total = 0;
	static struct gen_code c;
	char buf[200];

	make_side(&bt, &engine_bt, cfg);
	make_side(&itp, &engine_interp, cfg);
	for (unsigned long k = 0; k < count; k++) {
		uint64_t s = (seed + k) * 8 + part;
		const char *what;

		gen_code(s, insns, kinds, &c);
		gen_state(s, kinds, &in);
		what = run_both(&c, buf, sizeof(buf));
		total += c.n;
		if (what && bad++ < 20)
			report(s, &c, what);
	}
	print_message("seeds from %lu, %lu sequences, %lu instructions\n", seed,
		      count, total);
	assert_int_equal(bad, 0);
}

static void test_int(void **state)
{
	diff(&(struct vm_config){0}, GEN_INT | GEN_FLOW, 40, 0);
}

static void test_string(void **state)
{
	diff(&(struct vm_config){0}, GEN_INT | GEN_STRING | GEN_FLOW, 40, 1);
}

static void test_vector(void **state)
{
	diff(&(struct vm_config){0}, GEN_SSE | GEN_AVX, 40, 2);
}

static void test_x87(void **state)
{
	diff(&(struct vm_config){0}, GEN_X87, 20, 3);
}

static void test_avx512(void **state)
{
	if (!xstate()->avx512)
		skip();
	diff(&(struct vm_config){0}, GEN_SSE | GEN_AVX | GEN_AVX512, 40, 0);
}

static void test_all(void **state)
{
	diff(&(struct vm_config){0}, GEN_ALL, 60, 4);
}

static void test_single(void **state)
{
	diff(&(struct vm_config){.tu_max = 1}, GEN_ALL, 40, 5);
}

static void test_tiny_cache(void **state)
{
	diff(&(struct vm_config){.tc_bytes = 256 << 10, .no_chain = true},
	     GEN_ALL, 60, 6);
}

static void test_code32(void **state)
{
	diff(&(struct vm_config){0}, GEN_ALL | GEN_CODE32, 40, 7);
}

static void test_paired(void **state)
{
	diff(&(struct vm_config){.pair_all = true}, GEN_INT | GEN_FLOW, 60, 0);
}

static void test_slow_loop(void **state)
{
	diff(&(struct vm_config){.check = CHECK_JRCXZ}, GEN_INT | GEN_FLOW, 60,
	     0);
}

static void test_touched(void **state)
{
	diff(&(struct vm_config){.touch_all = true}, GEN_ALL, 60, 8);
}

int main(void)
{
#define T(name) cmocka_unit_test_teardown(name, teardown)
	const struct CMUnitTest tests[] = {
		T(test_int),	    T(test_string), T(test_vector),
		T(test_x87),	    T(test_all),    T(test_single),
		T(test_tiny_cache), T(test_code32), T(test_paired),
		T(test_touched),    T(test_avx512), T(test_slow_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
