/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A unit that moves RSP touches the stack (bt/translate_rsp.c): by an access that
 * is sure to be one, or by a load that is added. What follows a move of RSP in
 * each of these units tells which. (A walk off a window by what only looks like an
 * access takes minutes; the guest case edges has the first step of one.)
 */
#include "tests/unit/bt_fixture.h"

#include "vmm/cpu/xstate.h"

#define CODE 0x600000ul

static struct fix *f;
static struct bt *bt;

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	halt_on_exceptions(f);
	f->v->cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE;
	f->v->xcr0 = xstate()->avx512 ? XCR0_ALL : 7;
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

/* Touches that the unit at rip has. */
static unsigned touches(uint64_t rip)
{
	unsigned n = 0, units = 0;

	for (uint32_t id = 1; id < bt->region[0].n_ccf; id++) {
		const struct ccf *c = &bt->ccf[id];

		if (c->rip != rip || (c->flags & CCF_DEAD))
			continue;
		units++;
		for (unsigned k = 0; k < c->n_recov; k++)
			n += bt->recov[c->recov + k].kind == RK_TOUCH;
	}
	assert_int_equal(units, 1);
	return n;
}

static void run(uint64_t rip)
{
	struct vcpu *v = f->v;

	go_user(f);
	v->rip = rip;
	v->gpr[R_RSP] = USER_STACK;
	run_to_halt(&engine_bt, v);
}

static void test_touch(void **state)
{
	static const struct {
		const char *what;
		uint8_t code[12], len, touches;
		bool avx512;
	} t[] = {
		{"nothing", {0x90}, 1, 1, 0},
		{"mov [rsp], rax", {0x48, 0x89, 0x04, 0x24}, 4, 0, 0},
		{"bts [rsp], rax", {0x48, 0x0f, 0xab, 0x04, 0x24}, 5, 1, 0},
		{"vmovdqu [rsp], ymm1",
		 {0xc5, 0xfe, 0x7f, 0x0c, 0x24},
		 5,
		 0,
		 0},
		{"vpmaskmovd [rsp], ymm0, ymm1",
		 {0xc4, 0xe2, 0x7d, 0x8e, 0x0c, 0x24},
		 6,
		 1,
		 0},
		{"vmovdqu64 [rsp], zmm17",
		 {0x62, 0xe1, 0xfe, 0x48, 0x7f, 0x0c, 0x24},
		 7,
		 0,
		 1},
		{"vmovdqu64 [rsp] {k1}, zmm17",
		 {0x62, 0xe1, 0xfe, 0x49, 0x7f, 0x0c, 0x24},
		 7,
		 1,
		 1},
		{"vpandq zmm1 {k1}, zmm1, [rsp]",
		 {0x62, 0xf1, 0xf5, 0x49, 0xdb, 0x0c, 0x24},
		 7,
		 1,
		 1},
		{"vpcompressd [rsp] {k1}, zmm1",
		 {0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x0c, 0x24},
		 7,
		 1,
		 1},
		{"kmovq [rsp], k1",
		 {0xc4, 0xe1, 0xf8, 0x91, 0x0c, 0x24},
		 6,
		 1,
		 1},
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		uint64_t at = CODE + i * PAGE_SIZE;

		if (t[i].avx512 && !xstate()->avx512)
			continue;
		poke(f, at, "\x48\x83\xec\x40", 4); /* sub rsp, 64 */
		poke(f, at + 4, t[i].code, t[i].len);
		poke(f, at + 4 + t[i].len, "\xf4", 1);
		run(at);
		if (touches(at) != t[i].touches)
			fail_msg("%s: %u touches, not %u", t[i].what,
				 touches(at), t[i].touches);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_touch, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
