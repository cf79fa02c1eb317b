/* SPDX-License-Identifier: Apache-2.0 */
/* Names of callouts, the sampling of their cost, and the rows of time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mm/types.h"
#include "vmm/bt/phase.h"
#include "vmm/bt/reason.h"
#include "vmm/vm.h"

static void test_names(void **state)
{
	static const struct {
		const char *bytes;
		unsigned len;
		enum callout_reason reason;
	} t[] = {
		{"\xec", 1, CALLOUT_io},
		{"\x6e", 1, CALLOUT_io},
		{"\x0f\xa2", 2, CALLOUT_cpuid},
		{"\x0f\x30", 2, CALLOUT_wrmsr},
		{"\x0f\x32", 2, CALLOUT_rdmsr},
		{"\x0f\x22\xd8", 3, CALLOUT_mov_cr},
		{"\x0f\x20\xd8", 3, CALLOUT_mov_cr},
		{"\x0f\x06", 2, CALLOUT_mov_cr},
		{"\x0f\x23\xf8", 3, CALLOUT_mov_dr},
		{"\x0f\x01\x38", 3, CALLOUT_invlpg},
		{"\x66\x0f\x38\x82\x00", 5, CALLOUT_invlpg},
		{"\xf4", 1, CALLOUT_hlt},
		{"\xfa", 1, CALLOUT_cli_sti},
		{"\x9d", 1, CALLOUT_popf},
		{"\x48\xcf", 2, CALLOUT_iret},
		{"\xcd\x80", 2, CALLOUT_int_n},
		{"\xcc", 1, CALLOUT_int_n},
		{"\x0f\x0b", 2, CALLOUT_int_n},
		{"\x0f\x05", 2, CALLOUT_syscall},
		{"\x48\x0f\x07", 3, CALLOUT_sysret},
		{"\x0f\x01\xf8", 3, CALLOUT_swapgs},
		{"\xf3\x48\x0f\xae\xd0", 5, CALLOUT_base},
		{"\x8e\xd8", 2, CALLOUT_segment},
		{"\x0f\x01\x10", 3, CALLOUT_segment},
		{"\x0f\x00\xd8", 3, CALLOUT_segment},
		{"\x48\xcb", 2, CALLOUT_far},
		{"\x0f\xae\x20", 3, CALLOUT_xsave},
		{"\x48\x0f\xae\x28", 4, CALLOUT_xsave},
		{"\x0f\xae\x00", 3, CALLOUT_xsave},
		{"\xd9\x30", 2, CALLOUT_x87_env},
		{"\x0f\x31", 2, CALLOUT_tsc},
		{"\x65\xa4", 2, CALLOUT_string},
		{"\x66\x50", 2, CALLOUT_stack},
		{"\x67\xe2\x00", 3, CALLOUT_flow},
		{"\x0f\x09", 2, CALLOUT_other},
	};
	ZydisDecoder dec;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64,
			 ZYDIS_STACK_WIDTH_64);
	for (unsigned k = 0; k < ARRAY_SIZE(t); k++) {
		assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(
			&dec, t[k].bytes, t[k].len, &i, op)));
		if (callout_of(&i) != t[k].reason)
			fail_msg("row %u is %u, not %u", k, callout_of(&i),
				 t[k].reason);
	}
	memset(&i, 0, sizeof(i));
	assert_int_equal(callout_of(&i), CALLOUT_undefined);
}

static void test_sampling(void **state)
{
	static struct reasons r;
	struct reason *x = &r.callout[CALLOUT_io];

	for (unsigned k = 0; k < 10 * REASON_SAMPLE; k++) {
		reason_count(&r, x);
		reason_end(&r);
		reason_end(&r); /* once only */
	}
	assert_int_equal(x->count, 10 * REASON_SAMPLE);
	assert_in_range(x->timed, 1, 10); /* some may be interrupted */
	assert_true(x->cycles > 0);
	reason_count(&r, x);
	reason_drop(&r);
	reason_end(&r);
	assert_in_range(x->timed, 1, 10);
	/* A span that another process was part of is not timed. */
	x = &r.fault[FAULT_hidden];
	reason_add(x, __builtin_ia32_rdtsc() - 2 * REASON_TOO_LONG);
	assert_int_equal(x->count, 1);
	assert_int_equal(x->timed, 0);
	assert_int_equal(x->cycles, 0);
}

static void test_phases(void **state)
{
	struct phase unit = {.units = 1, .guest_insns = 3, .host_bytes = 9};
	static struct phases p;
	static struct vm vm;
	uint64_t now, n = 0;

	phases_init(&p, &vm);
	now = p.start;
	for (unsigned k = 0; k < 3000; k++) {
		uint64_t units = 0, insns = 0;

		now += (uint64_t)rand() << (rand() % 16);
		phases_add(&p, rand() % 50 ? now : p.start - 5, &unit);
		n++;
		for (unsigned i = 0; i < PHASES; i++) {
			units += p.row[i].units;
			insns += p.row[i].guest_insns;
		}
		assert_int_equal(units, n);
		assert_int_equal(insns, 3 * n);
		assert_true((now - p.start) / p.span < PHASES || k < 2);
	}
	/* Over half of the rows are in use, whatever the length of the run. */
	assert_true((now - p.start) / p.span >= PHASES / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_sampling),
		cmocka_unit_test(test_phases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
