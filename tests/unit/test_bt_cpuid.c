/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID that is answered without a callout (bt/cpuid.c): what it answers is what
 * cpu_cpuid does, now, and the registers and flags around it are kept.
 */
#include "tests/unit/bt_fixture.h"

#define CODE 0x600000ul

/* cmp r8d, r8d ; stc ; cpuid ; setc r9b ; setz r10b ; hlt */
static const uint8_t code[] = {0x45, 0x39, 0xc0, 0xf9, 0x0f, 0xa2, 0x41, 0x0f,
			       0x92, 0xc1, 0x41, 0x0f, 0x94, 0xc2, 0xf4};

static struct fix *f;
static struct bt *bt;

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	poke(f, HANDLER + 16 * EXC_GP, "\xf4", 1);
	poke(f, CODE, code, sizeof(code));
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

/* Ask; answers whether that was a callout. */
static bool ask(uint32_t leaf, uint32_t sub)
{
	const struct reason *r = &bt->reasons.callout[CALLOUT_cpuid];
	uint64_t out = r->count, in = bt->stats.cpuids;
	struct cpuid_regs want;
	struct vcpu *v = f->v;

	go_user(f);
	v->rip = CODE;
	v->halted = 0;
	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = ~0ull - i;
	v->gpr[R_RSP] = USER_STACK;
	v->gpr[R_RAX] = 0x5555555500000000 | leaf;
	v->gpr[R_RCX] = 0x5555555500000000 | sub;
	run_to_halt(&engine_bt, v);
	cpu_cpuid(v, leaf, sub, &want);
	assert_int_equal(v->gpr[R_RAX], want.eax);
	assert_int_equal(v->gpr[R_RBX], want.ebx);
	assert_int_equal(v->gpr[R_RCX], want.ecx);
	assert_int_equal(v->gpr[R_RDX], want.edx);
	assert_int_equal(v->gpr[R_R9] & 0xff, 1);
	assert_int_equal(v->gpr[R_R10] & 0xff, 1);
	for (unsigned i = R_RBP; i < 16; i++)
		if (i != R_R9 && i != R_R10)
			assert_int_equal(v->gpr[i], ~0ull - i);
	assert_int_equal(tc_audit(bt), 0);
	assert_int_equal(r->count - out + bt->stats.cpuids - in, 1);
	return r->count != out;
}

static void test_kept(void **state)
{
	assert_true(ask(4, 1));
	assert_false(ask(4, 1));
	/* Another subleaf is another answer; where it has no say, it is not. */
	assert_true(ask(4, 2));
	assert_true(ask(2, 0));
	assert_false(ask(2, 0x12345678));
	/* Of another leaf: never the answer of what had its place. */
	for (uint32_t k = 0; k < 3; k++)
		for (uint32_t leaf = 0; leaf < 0x20; leaf++) {
			ask(leaf, k);
			ask(0x80000000 | leaf, k);
			ask(0x40000000 | leaf, k);
		}
}

/* What the guest's own registers have a say in. */
static void test_changes(void **state)
{
	struct vcpu *v = f->v;

	v->cr4 |= CR4_OSXSAVE | CR4_OSFXSR;
	v->xcr0 = XCR0_X87 | XCR0_SSE;
	v->ops->mode_changed(v);
	ask(0xd, 0);
	assert_false(ask(0xd, 0));
	assert_false(ask(0xd, 0));
	v->xcr0 |= XCR0_AVX;
	v->ops->mode_changed(v);
	ask(0xd, 0);
	assert_false(ask(0xd, 0));
	for (unsigned k = 0; k < 3; k++)
		assert_true(ask(1, 0));
	v->cr4 &= ~(uint64_t)CR4_OSXSAVE;
	v->ops->mode_changed(v);
	ask(1, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_kept), T(test_changes)};

	return cmocka_run_group_tests_name("bt_cpuid", tests, NULL, NULL);
}
