/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contexts of user code (bt/ibtc.c): address spaces that have other code at the
 * same address run their own, however they come to share a context; and two
 * that work in turn do not go on emptying each other's.
 */
#include "tests/unit/bt_fixture.h"

#define SPACES (NR_CTX + 2)
#define CODE   0x600000ul
#define VA     ((40ul << 39) + (5ul << 30))

static struct fix *f;
static struct bt *bt;
static uint64_t root[SPACES];

/* mov eax, imm32 ; jmp rcx */
static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xff, 0xe1};

/* mov ebx, imm32 ; hlt */
static const uint8_t end[] = {0xbb, 0, 0, 0, 0, 0xf4};

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
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
		poke(f, page + 0x80, end, sizeof(end));
		poke32(f, page + 0x81, 2000 + i);
		map_page(f, VA, page, PTE_P | PTE_U);
	}
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

static void run_here(unsigned i)
{
	struct vcpu *v = f->v;

	go_user(f);
	v->rip = VA;
	v->gpr[R_RAX] = 0;
	v->gpr[R_RCX] = VA + 0x80;
	v->gpr[R_RSP] = USER_STACK;
	run_to_halt(&engine_bt, v);
	assert_int_equal(v->gpr[R_RAX], 1000 + i);
	assert_int_equal(v->gpr[R_RBX], 2000 + i);
	assert_int_equal(tc_audit(bt), 0);
	assert_int_equal(reloc_audit(bt), 0);
}

static void run(unsigned i)
{
	f->v->cr3 = root[i];
	f->v->ops->cr3_written(f->v, false);
	run_here(i);
}

/* As MOV CR3 does it with PCIDs (cpu/ctl.c). */
static void run_pcid(unsigned i, bool noflush)
{
	struct vcpu *v = f->v;

	v->cr3 = root[i] | (i + 1);
	if (!noflush)
		v->ops->tlb_flush(v, TLB_FLUSH_PCID, i + 1, 0);
	v->ops->cr3_written(v, noflush);
	run_here(i);
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

/* What was seen to be so of the space that CR3 is changed to is nothing that the
 * one before has. */
static void test_change_of_cr3(void **state)
{
	run(0);
	run(1);
	f->v->cr4 |= CR4_PCIDE;
	for (unsigned n = 0; n < 3; n++) {
		run_pcid(0, n);
		run_pcid(1, false);
	}
	/* Where spaces were is a small table, and forgets. */
	memset(bt->home, 0, sizeof(bt->home));
	run_pcid(0, true);
	run_pcid(1, true);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_pairs),
		T(test_more_than_there_are),
		T(test_change_of_cr3),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
