/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random user-level code under the interpreter against the real CPU: every
 * register, flag (the undefined ones too: the interpreter lets this CPU compute
 * them), vector register and byte of memory at the first exception.
 *
 * SARDINE_DIFF_SEED and SARDINE_DIFF_COUNT choose other seeds and longer runs. A
 * difference is cut down to the first instruction that shows it.
 */
#include "tests/unit/sys_fixture.h"

#include "tests/diff/gen.c"
#include "tests/diff/ref.c"
#include "tests/diff/wide.h"

#include "vmm/cpu/interp.h"

#define CODE_GPA  0x400000ul
#define ARENA_GPA 0x500000ul

static void map_range(struct fix *f, gva_t va, gpa_t pa, uint64_t len)
{
	for (uint64_t o = 0; o < len; o += PAGE_SIZE)
		map_page(f, va + o, pa + o, PTE_P | PTE_W | PTE_U);
}

static int setup(void **state)
{
	struct fix *f;

	fix_setup(state);
	f = *state;
	assert_int_equal(engine_interp.init(&f->vm, f->v), 0);
	long_mode(f);
	map_range(f, GEN_CODE, CODE_GPA, GEN_CODE_SIZE);
	map_range(f, GEN_ARENA, ARENA_GPA, GEN_ARENA_SIZE);
	f->v->cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	f->v->xcr0 = xstate()->avx512 ? XCR0_ALL : 7;
	return ref_init();
}

static int teardown(void **state)
{
	struct fix *f = *state;

	engine_interp.fini(&f->vm, f->v);
	return fix_teardown(state);
}

static void interp_code(struct fix *f, const struct gen_code *c,
			const struct gen_state *in, struct gen_state *out)
{
	struct vcpu *v = f->v;
	enum cpu_status st;
	unsigned steps = 0;

	go_user(f);
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
	do {
		st = interp_step_raw(v);
	} while (st == CPU_OK && ++steps < 100000);
	if (st != CPU_EXC)
		fail_msg("status %d at rip %lx: %s", st, v->rip,
			 v->exit_reason);
	out->vector = v->exc.vector;
	out->cr2 = out->vector == EXC_PF ? v->exc.cr2 : 0;
	v->exc.pending = false;
	memcpy(out->gpr, v->gpr, sizeof(out->gpr));
	out->rip = v->rip;
	out->rflags = v->rflags;
	memcpy(out->fpu, v->fpu, GEN_FPU_BYTES);
	wide_out(v->fpu, out->wide);
	assert_int_equal(
		p2m_copy_out(f->vm.p2m, ARENA_GPA, out->arena, GEN_ARENA_SIZE),
		0);
}

/* 0, or a word about the first difference. */
static const char *compare(const struct gen_state *a, const struct gen_state *b,
			   char *buf, size_t len)
{
	if (a->vector != b->vector || a->rip != b->rip) {
		snprintf(buf, len, "cpu: #%u at %lx, interp: #%u at %lx",
			 a->vector, a->rip, b->vector, b->rip);
		return buf;
	}
	if (a->cr2 != b->cr2) {
		snprintf(buf, len, "cr2: cpu %lx interp %lx", a->cr2, b->cr2);
		return buf;
	}
	for (unsigned k = 0; k < 16; k++)
		if (a->gpr[k] != b->gpr[k]) {
			snprintf(buf, len, "gpr %u: cpu %016lx interp %016lx",
				 k, a->gpr[k], b->gpr[k]);
			return buf;
		}
	if (a->rflags != b->rflags) {
		snprintf(buf, len, "rflags: cpu %lx interp %lx", a->rflags,
			 b->rflags);
		return buf;
	}
	for (unsigned k = 0; k < GEN_FPU_BYTES; k += 8)
		if (memcmp(a->fpu + k, b->fpu + k, 8)) {
			uint64_t x, y;

			memcpy(&x, a->fpu + k, 8);
			memcpy(&y, b->fpu + k, 8);
			snprintf(buf, len, "image+%u: cpu %016lx interp %016lx",
				 k, x, y);
			return buf;
		}
	for (unsigned k = 0; k < GEN_WIDE_BYTES; k++)
		if (a->wide[k] != b->wide[k]) {
			snprintf(buf, len, "wide+%u: cpu %02x interp %02x", k,
				 a->wide[k], b->wide[k]);
			return buf;
		}
	for (unsigned k = 0; k < GEN_ARENA_SIZE; k++)
		if (a->arena[k] != b->arena[k]) {
			snprintf(buf, len, "arena+%x: cpu %02x interp %02x", k,
				 a->arena[k], b->arena[k]);
			return buf;
		}
	return NULL;
}

static struct gen_state in, cpu, itp;

static const char *run_both(struct fix *f, const struct gen_code *c, char *buf,
			    size_t len)
{
	ref_run(c, &in, &cpu);
	interp_code(f, c, &in, &itp);
	gen_normalise(&cpu);
	gen_normalise(&itp);
	return compare(&cpu, &itp, buf, len);
}

static void report(struct fix *f, uint64_t seed, const struct gen_code *c,
		   const char *what)
{
	struct gen_code cut;
	char buf[200], text[200];
	unsigned k;

	for (k = 1; k < c->n; k++) {
		gen_cut(c, k, &cut);
		if (run_both(f, &cut, buf, sizeof(buf)))
			break;
	}
	if (k == c->n) {
		print_error("seed %lu: %s (only whole)\n", seed, what);
		return;
	}
	gen_print(c, k - 1, text, sizeof(text));
	print_error("seed %lu insn %u: %s\n    %s\n", seed, k - 1, text, buf);
}

static unsigned long env(const char *name, unsigned long def)
{
	const char *s = getenv(name);

	return s ? strtoul(s, NULL, 0) : def;
}

static void diff(struct fix *f, unsigned kinds, unsigned insns, unsigned part)
{
	unsigned long seed = env("SARDINE_DIFF_SEED", 1), bad = 0;
	unsigned long count = env("SARDINE_DIFF_COUNT", 600), total = 0;
	static struct gen_code c;
	char buf[200];

	for (unsigned long k = 0; k < count; k++) {
		uint64_t s = (seed + k) * 8 + part;
		const char *what;

		gen_code(s, insns, kinds, &c);
		gen_state(s, kinds, &in);
		what = run_both(f, &c, buf, sizeof(buf));
		total += c.n;
		if (what && bad++ < 40)
			report(f, s, &c, what);
	}
	print_message("seeds from %lu, %lu sequences, %lu instructions\n", seed,
		      count, total);
	assert_int_equal(bad, 0);
}

static void test_int(void **state)
{
	diff(*state, GEN_INT, 40, 0);
}

static void test_string(void **state)
{
	diff(*state, GEN_INT | GEN_STRING | GEN_FLOW, 30, 1);
}

static void test_sse(void **state)
{
	diff(*state, GEN_SSE | GEN_INT, 40, 2);
}

static void test_avx(void **state)
{
	diff(*state, GEN_AVX, 40, 3);
}

static void test_x87(void **state)
{
	diff(*state, GEN_X87, 20, 4);
}

static void test_all(void **state)
{
	diff(*state, GEN_ALL, 60, 5);
}

static void test_32(void **state)
{
	diff(*state, GEN_INT | GEN_STRING | GEN_FLOW | GEN_CODE32, 30, 6);
}

static void test_all_32(void **state)
{
	diff(*state, GEN_ALL | GEN_CODE32, 40, 7);
}

static void test_avx512(void **state)
{
	if (!xstate()->avx512)
		skip();
	diff(*state, GEN_AVX512 | GEN_AVX | GEN_SSE, 40, 0);
}

static void test_avx512_32(void **state)
{
	if (!xstate()->avx512)
		skip();
	diff(*state, GEN_AVX512 | GEN_AVX | GEN_SSE | GEN_CODE32, 40, 1);
}

/* Instruction k of c, if it has a memory operand [r15 + disp], alone, such that
 * the operand begins at `at`. */
static bool alone(const struct gen_code *c, unsigned k, uint64_t at,
		  struct gen_code *out)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	unsigned len = c->off[k + 1] - c->off[k];
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	init_decoder(&d, false);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, c->bytes + c->off[k], len,
						 &i, ops)) ||
	    i.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	for (unsigned j = 0; j < i.operand_count; j++) {
		const ZydisDecodedOperandMem *m = &ops[j].mem;

		if (ops[j].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (m->type != ZYDIS_MEMOP_TYPE_MEM ||
		    m->base != ZYDIS_REGISTER_R15 ||
		    m->index != ZYDIS_REGISTER_NONE)
			return false;
		memcpy(out->bytes, c->bytes + c->off[k], len);
		out->bytes[len] = 0xf4;
		out->n = 2;
		out->off[1] = len;
		out->len = out->off[2] = len + 1;
		in.gpr[15] = at - m->disp.value;
		return true;
	}
	return false;
}

/* Operands that reach past the end of what is mapped: an element that is masked
 * off does not fault, and is not changed. */
static void test_masked_faults(void **state)
{
	unsigned long seed = env("SARDINE_DIFF_SEED", 1), bad = 0, n = 0;
	unsigned long count = env("SARDINE_DIFF_COUNT", 600), faults = 0;
	static struct gen_code c, one;
	char buf[200], text[200];

	if (!xstate()->avx512)
		skip();
	for (unsigned long s = seed * 8; s < (seed + count) * 8; s += 8) {
		struct rng r = {s};

		gen_code(s + 2, 40, GEN_AVX512, &c);
		gen_state(s + 2, GEN_AVX512, &in);
		for (unsigned k = 0; k + 1 < c.n; k++) {
			uint64_t end = GEN_ARENA + GEN_ARENA_SIZE;
			const char *what;

			if (!alone(&c, k, end - below(&r, 65), &one))
				continue;
			what = run_both(*state, &one, buf, sizeof(buf));
			n++;
			faults += itp.vector == EXC_PF;
			if (!what || bad++ > 40)
				continue;
			gen_print(&one, 0, text, sizeof(text));
			print_error("seed %lu insn %u, %ld from the end: %s\n"
				    "    %s\n",
				    s, k, (long)(end - in.gpr[15]), text, what);
		}
	}
	print_message("%lu instructions, %lu page faults\n", n, faults);
	assert_int_equal(bad, 0);
	assert_true(n > faults && faults > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_int),
		cmocka_unit_test(test_string),
		cmocka_unit_test(test_sse),
		cmocka_unit_test(test_avx),
		cmocka_unit_test(test_x87),
		cmocka_unit_test(test_all),
		cmocka_unit_test(test_32),
		cmocka_unit_test(test_all_32),
		cmocka_unit_test(test_avx512),
		cmocka_unit_test(test_avx512_32),
		cmocka_unit_test(test_masked_faults),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
