/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contexts of user code (bt/ibtc.c): address spaces that have other code at the
 * same address run their own, however they come to share a context; and two
 * that work in turn do not go on emptying each other's.
 */
#include "tests/unit/sys_fixture.h"

#include <stdatomic.h>

#include "vmm/bt/bt_priv.h"

#define SPACES (NR_CTX + 2)
#define CODE   0x600000ul
#define VA     ((40ul << 39) + (5ul << 30))

static struct fix *f;
static struct bt *bt;
static uint64_t root[SPACES];

/* mov eax, imm32 ; jmp rcx */
static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xff, 0xe1};

static int setup(void **state)
{
	fix_setup((void **)&f);
	vcpu_destroy(f->v);
	f->v = f->vm.vcpu = vcpu_create(&f->vm, 0, &f->vm.vcpu_memfd);
	assert_non_null(f->v);
	assert_int_equal(engine_bt.init(&f->vm, f->v), 0);
	long_mode(f);
	bt = (struct bt *)f->v->bt;
	poke(f, HANDLER + 16 * EXC_GP, "\xf4", 1);
	root[0] = f->v->cr3;
	for (uint32_t i = 0; i < SPACES; i++) {
		gpa_t page = CODE + i * PAGE_SIZE;

		if (i) {
			root[i] = f->next_table;
			f->next_table += PAGE_SIZE;
			poke64(f, root[i], peek64(f, root[0]));
			f->v->cr3 = root[i];
		}
		poke(f, page, code, sizeof(code));
		poke32(f, page + 1, 1000 + i);
		poke(f, page + 0x80, "\xf4", 1);
		map_page(f, VA, page, PTE_P | PTE_U);
	}
	return 0;
}

static int teardown(void **state)
{
	engine_bt.fini(&f->vm, f->v);
	return fix_teardown((void **)&f);
}

static void run(unsigned i)
{
	struct vcpu *v = f->v;
	enum vcpu_exit x;

	v->cr3 = root[i];
	v->ops->cr3_written(v, false);
	go_user(f);
	v->rip = VA;
	v->gpr[R_RAX] = 0;
	v->gpr[R_RCX] = VA + 0x80;
	v->gpr[R_RSP] = USER_STACK;
	v->halted = 0;
	do {
		x = engine_bt.run(v);
		atomic_store(&v->requests, 0);
	} while (x == EXIT_KICK);
	assert_int_equal(x, EXIT_HLT);
	assert_int_equal(v->gpr[R_RAX], 1000 + i);
	assert_int_equal(tc_audit(bt), 0);
}

/* How many times is a context emptied while a and b run 100 times in turn? (Each
 * change of CR3 empties the kernel's table here, as its pages are not global.) */
static uint64_t flushes(unsigned a, unsigned b)
{
	uint64_t before = bt->stats.ibtc_flushes + 200;

	for (unsigned n = 0; n < 100; n++) {
		run(a);
		run(b);
	}
	return bt->stats.ibtc_flushes - before;
}

static void test_pairs(void **state)
{
	for (unsigned i = 0; i < SPACES; i++)
		run(i);
	for (unsigned a = 0; a < SPACES; a++)
		for (unsigned b = 0; b < a; b++)
			assert_in_range(flushes(a, b), 0, 30);
}

static void test_more_than_there_are(void **state)
{
	for (unsigned n = 0; n < 300; n++)
		run(n * 7 % SPACES);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_pairs),
		T(test_more_than_there_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
