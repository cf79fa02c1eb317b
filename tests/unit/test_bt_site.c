/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sites that keep faulting (bt/site.c): a load that reads a device is foreseen
 * after a while; when it reads memory instead, that settles; and nothing that it
 * reads is ever another value.
 */
#include "tests/unit/bt_fixture.h"

#define CODE   0x600000ul
#define DATA   0x610000ul
#define DEVICE 0xfed40000ul   /* nobody is there: all ones */
#define VA     0x7000000000ul /* in the slot of DATA, which has a window */

/* 1: add rax, [rdi] ; dec rcx ; jnz 1b ; hlt */
static const uint8_t loop[] = {0x48, 0x03, 0x07, 0x48, 0xff,
			       0xc9, 0x75, 0xf8, 0xf4};
/* The same with xor [rdi], rdx. */
static const uint8_t store[] = {0x48, 0x31, 0x17, 0x48, 0xff,
				0xc9, 0x75, 0xf8, 0xf4};

static struct fix *f;
static struct bt *bt;
static uint64_t code_at;

static int setup(void **state)
{
	code_at = CODE;
	bt = bt_setup(&f, (struct vm_config){0});
	poke(f, HANDLER + 16 * EXC_GP, "\xf4", 1);
	map_page(f, VA, DEVICE, PTE_P | PTE_U | PTE_W);
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

/* The loop at code_at, n times on what is at va. */
static void run(uint64_t va, uint64_t n)
{
	struct vcpu *v = f->v;

	go_user(f);
	v->rip = code_at;
	v->gpr[R_RSP] = USER_STACK;
	v->gpr[R_RAX] = 0;
	v->gpr[R_RCX] = n;
	v->gpr[R_RDI] = va;
	v->gpr[R_RDX] = 0x5a5a;
	run_to_halt(&engine_bt, v);
	assert_int_equal(v->gpr[R_RCX], 0);
	assert_int_equal(tc_audit(bt), 0);
	assert_int_equal(shadow_audit(bt->sh), 0);
}

static void test_foreseen(void **state)
{
	const struct bt_stats *s = &bt->stats;

	poke(f, CODE, loop, sizeof(loop));
	run(DATA, 1);
	run(VA, 1000);
	assert_int_equal(f->v->gpr[R_RAX], -1000ull);
	assert_int_equal(s->sites, 1);
	assert_in_range(s->touches, 900, 1000);
	assert_in_range(s->faults_slow, 1000, 1010);
	assert_int_equal(s->sites_settled, 0);
}

static void test_settles(void **state)
{
	const struct bt_stats *s = &bt->stats;
	uint64_t touches;

	poke(f, CODE, loop, sizeof(loop));
	poke64(f, DATA, 3);
	run(DATA, 1);
	run(VA, 1000);
	run(DATA, 100000);
	assert_int_equal(f->v->gpr[R_RAX], 300000);
	assert_int_equal(s->sites_settled, 1);
	/* It is one of many now, and has to fault more often than before. */
	touches = s->touches;
	run(DATA, 1000);
	run(VA, 100);
	assert_int_equal(s->touches, touches);
	run(VA, 100);
	assert_int_equal(s->sites, 2);
	assert_true(s->touches > touches);
}

/* Code that is no longer run gives its place in the table up. */
static void test_forgets(void **state)
{
	const struct bt_stats *s = &bt->stats;
	unsigned n;

	poke(f, CODE, loop, sizeof(loop));
	run(DATA, 1);
	/* More places than the table has, each careful for a while. */
	for (n = 0; n < 2 * NR_SITES; n++) {
		uint64_t at = CODE + n % 64 * 64 + n / 64 * PAGE_SIZE, was;

		code_at = at;
		poke(f, at, loop, sizeof(loop));
		was = s->touches;
		run(VA, 400);
		assert_int_equal(f->v->gpr[R_RAX], -400ull);
		assert_in_range(s->touches - was, 250, 400);
	}
	assert_int_equal(s->sites, n);
}

/* A misaligned operand is a #GP even where nothing is mapped. */
static void test_alignment(void **state)
{
	/* movaps xmm0, [rdi] ; hlt */
	static const uint8_t movaps[] = {0x0f, 0x28, 0x07, 0xf4};

	poke(f, CODE, loop, sizeof(loop));
	run(DATA, 1);
	poke(f, HANDLER + 16 * EXC_PF, "\xf4", 1);
	poke(f, CODE, movaps, sizeof(movaps));
	bt->touch_all = true;
	for (unsigned k = 0; k < 2; k++) {
		go_user(f);
		f->v->rip = CODE;
		f->v->gpr[R_RDI] = VA + 99 * PAGE_SIZE + 8 * k;
		f->v->halted = 0;
		f->v->cr2 = 0;
		assert_int_equal(engine_bt.run(f->v), EXIT_HLT);
		assert_int_equal(f->v->cr2, k ? 0 : VA + 99 * PAGE_SIZE);
		assert_int_equal(f->v->rip,
				 HANDLER + 16 * (k ? EXC_GP : EXC_PF) + 1);
	}
}

static void test_pages(void **state)
{
	const struct bt_stats *s = &bt->stats;

	/* Foreseen, the first access to a page fills it. */
	poke(f, CODE, store, sizeof(store));
	run(DATA, 1);
	run(VA, 1000);
	assert_int_equal(s->sites, 1);
	for (unsigned k = 0; k < 40; k++) {
		uint64_t touches = s->touches, va = VA + (k + 1) * PAGE_SIZE;
		uint64_t at = DATA + PAGE_SIZE * (k * 7 % 40);

		poke64(f, at, k);
		map_page(f, va, at, PTE_P | PTE_U | PTE_W);
		run(va, 1);
		assert_int_equal(peek64(f, at), k ^ 0x5a5a);
		assert_int_equal(s->touches, touches + 1);
		run(va, 2);
		assert_int_equal(peek64(f, at), k ^ 0x5a5a);
		assert_int_equal(s->touches, touches + 1);
	}
	/* To a page that may only be read, it is the guest's page fault. */
	poke(f, HANDLER + 16 * EXC_PF, "\xf4", 1);
	map_page(f, VA + 50 * PAGE_SIZE, DATA, PTE_P | PTE_U);
	f->v->gpr[R_RCX] = 0;
	go_user(f);
	f->v->rip = CODE;
	f->v->gpr[R_RCX] = 5;
	f->v->gpr[R_RDI] = VA + 50 * PAGE_SIZE + 8;
	f->v->halted = 0;
	assert_int_equal(engine_bt.run(f->v), EXIT_HLT);
	assert_int_equal(f->v->gpr[R_RCX], 5);
	assert_int_equal(f->v->cr2, VA + 50 * PAGE_SIZE + 8);
	assert_int_equal(f->v->cpl, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_foreseen), T(test_settles),   T(test_pages),
		T(test_forgets),  T(test_alignment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
