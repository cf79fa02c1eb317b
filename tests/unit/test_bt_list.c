/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads that follow a list guess the slot that the next one is in
 * (bt/translate_mem.c). Such units are copied for other addresses, and whatever
 * is guessed, they load from where the list is.
 */
#include "tests/unit/bt_fixture.h"

#define CODE  0x600000ul
#define LIST  0x610000ul
#define N     24
#define FAR   ((3ul << 39) + 0x5000)
#define PLACE ((20ul << 39) + (64ul << 30))

/* 1: mov rdi, [rdi] ; lea rax, [rax + 1] ; test rdi, rdi ; jnz 1b ; hlt */
static const uint8_t code[] = {0x48, 0x8b, 0x3f, 0x48, 0x8d, 0x40, 0x01,
			       0x48, 0x85, 0xff, 0x75, 0xf4, 0xf4};

static struct fix *f;
static struct bt *bt;

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	poke(f, HANDLER + 16 * EXC_GP, "\xf4", 1);
	poke(f, CODE, code, sizeof(code));
	map_page(f, FAR, LIST, PTE_P | PTE_U | PTE_W);
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

/* A list of N, each node in the slot of LIST or, by its bit, in that of FAR. */
static uint64_t list(uint32_t far)
{
	uint64_t next = 0;

	for (unsigned k = N; k-- > 0;) {
		poke64(f, LIST + 64 * k, next);
		next = (far >> k & 1 ? FAR : LIST) + 64 * k;
	}
	return next;
}

static struct ccf *run(unsigned place, uint32_t far)
{
	uint64_t va = PLACE + place * (7ul << 30);
	struct vcpu *v = f->v;

	map_page(f, va, CODE, PTE_P | PTE_U);
	go_user(f);
	v->rip = va;
	v->gpr[R_RSP] = USER_STACK;
	v->gpr[R_RAX] = 0;
	v->gpr[R_RCX] = 0x123456789;
	v->gpr[R_RDI] = list(far);
	run_to_halt(&engine_bt, v);
	assert_int_equal(v->gpr[R_RAX], N);
	assert_int_equal(v->gpr[R_RCX], 0x123456789);
	assert_int_equal(v->gpr[R_RDI], 0);
	assert_int_equal(tc_audit(bt), 0);
	for (uint32_t id = 1; id < bt->region[0].n_ccf; id++)
		if (bt->ccf[id].rip == va && !(bt->ccf[id].flags & CCF_DEAD))
			return &bt->ccf[id];
	fail();
	return NULL;
}

static void test_copied(void **state)
{
	uint64_t made;

	for (unsigned k = 0; k < 4; k++)
		run(k, 0);
	assert_true(bt->stats.copies > 0);
	made = bt->stats.translations;
	for (unsigned k = 4; k < 7; k++)
		run(k, 0x5a3c0f * k);
	assert_int_equal(bt->stats.translations, made);
}

/* With any number for the guess. */
static void test_any_guess(void **state)
{
	static const uint32_t guess[] = {
		0,   1,		2,	   3,	       5,	 255,
		256, 0x1ffffff, 0x2000000, 0x7fffffff, 1u << 31, ~0u};
	const struct ccf *c = run(0, 0xff0ff0);
	uint8_t *p = bt->rw + c->host;
	unsigned n = 0;

	for (unsigned k = 0; k + 9 < c->host_len; k++, p++) {
		/* mov r10d, imm32 ; not r10 */
		if (memcmp(p, "\x41\xba", 2) ||
		    memcmp(p + 6, "\x49\xf7\xd2", 3))
			continue;
		n++;
		for (unsigned i = 0; i < ARRAY_SIZE(guess); i++) {
			memcpy(p + 2, &guess[i], 4);
			assert_ptr_equal(run(0, 0xa5a5a5 + i), c);
		}
	}
	assert_true(n > 0); /* the loop may be there several times */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_copied), T(test_any_guess)};

	return cmocka_run_group_tests_name("bt_list", tests, NULL, NULL);
}
