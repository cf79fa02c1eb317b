/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates of moved units (bt/reloc.c), at addresses that a guest might choose:
 * where the code moves in the TC as far as the guest's address does, and where
 * addresses take another form. A copy must be what a translation would be, byte
 * by byte. (prop_reloc.c has random ones.)
 */
#include "tests/unit/bt_fixture.h"

#define CODE  0x600000ul
#define FILL  0x601000ul
#define HLT   0x700ff0ul
#define BASE  ((20ul << 39) + (64ul << 30))
#define OTHER ((200ul << 39) + (80ul << 30))

/* mov rax, [rip + 16] ; hlt */
static const uint8_t load[] = {0x48, 0x8b, 0x05, 16, 0, 0, 0, 0xf4};
/* call to a hlt */
static const uint8_t call[] = {0xe8, 1, 0, 0, 0, 0x90, 0xf4};
/* ret (to a hlt) */
static const uint8_t ret[] = {0xc3};

/* lea eax, [rip + 16] ; hlt */
static const uint8_t lea32[] = {0x8d, 0x05, 16, 0, 0, 0, 0xf4};
/* lea rax, [rip - 1.75 GiB] ; hlt */
static const uint8_t back[] = {0x48, 0x8d, 0x05, 0, 0, 0, 0x90, 0xf4};
/* jmp + 1 GiB */
static const uint8_t jump[] = {0xe9, 0, 0, 0, 0x40};

static struct fix *f;
static struct bt *bt;

static void start(const uint8_t *code, size_t n)
{
	bt = bt_setup(&f, (struct vm_config){.pair_all = true});
	/* In user code, HLT is a #GP, whose handler halts. */
	poke(f, HANDLER + 16 * EXC_GP, "\xf4", 1);
	poke(f, HANDLER + 16 * EXC_PF, "\xf4", 1);
	poke(f, CODE, code, n);
	poke(f, HLT, "\xf4", 1);
}

static void stop(void)
{
	bt_teardown(&f);
}

/* Run user code at va; answers its unit. */
static struct ccf *run_at(uint64_t va)
{
	struct vcpu *v = f->v;

	go_user(f);
	v->rip = va;
	v->gpr[R_RSP] = USER_STACK;
	poke64(f, USER_STACK, HLT);
	run_to_halt(&engine_bt, v);
	assert_int_equal(tc_audit(bt), 0);
	assert_int_equal(reloc_audit(bt), 0);
	for (uint32_t id = 1; id < bt->region[0].n_ccf; id++)
		if (bt->ccf[id].rip == va && !(bt->ccf[id].flags & CCF_DEAD))
			return &bt->ccf[id];
	fail();
	return NULL;
}

static struct ccf *run_alias(uint64_t va)
{
	map_page(f, va, CODE, PTE_P | PTE_U);
	return run_at(va);
}

static uint32_t aligned(uint32_t n)
{
	return (n + TC_ALIGN - 1) & -TC_ALIGN;
}

/* Units of no use, until the next one would be placed at `want`. */
static void fill_to(uint32_t want)
{
	unsigned empty = 0, at = 0;

	while (aligned(bt->region[0].used) != want) {
		uint32_t here = aligned(bt->region[0].used);
		unsigned n = 0, len = 0;
		uint8_t code[128];

		/* n times add eax, imm32, and a hlt */
		for (unsigned k = 1; k < 23 && empty; k++) {
			uint32_t next = aligned(here + empty + 5 * k);

			if (next == want || next + 64 <= want)
				n = k;
		}
		for (; n; n--, len += 5)
			memcpy(code + len, "\x05\x01\x01\x01\x01", 5);
		code[len++] = 0xf4;
		poke(f, FILL + at, code, len);
		if (!empty)
			empty = run_at(FILL + at)->host_len;
		else
			run_at(FILL + at);
		at += len;
		if (at % PAGE_SIZE > PAGE_SIZE - sizeof(code))
			at = (at | (PAGE_SIZE - 1)) + 1;
		assert_true(at < 32 * PAGE_SIZE);
	}
}

/* The code at c, after it ran at a and then, `gap` bytes of the TC on, at b. By a
 * copy, if that can be; or translated. */
static unsigned code_at(const uint8_t *code, size_t n, uint64_t a, uint64_t b,
			uint64_t c, uint32_t gap, bool copy, uint8_t *out)
{
	struct ccf *x;
	unsigned len;

	start(code, n);
	x = run_alias(a);
	if (gap)
		fill_to(x->host + gap);
	x = run_alias(b);
	/* The third is not as far from the second as it is from the first. */
	run_at(HLT);
	if (!copy)
		memset(bt->tmpl, 0, sizeof(*bt->tmpl) << TMPL_BITS);
	x = run_alias(c);
	len = x->host_len;
	memcpy(out, bt->rw + x->host, len);
	stop();
	return len;
}

static void same(const uint8_t *code, size_t n, uint64_t a, uint64_t b,
		 uint64_t c, uint32_t gap)
{
	uint8_t copied[CCF_MAX_BYTES], made[CCF_MAX_BYTES];
	unsigned len = code_at(code, n, a, b, c, gap, true, copied);

	assert_int_equal(code_at(code, n, a, b, c, gap, false, made), len);
	assert_memory_equal(copied, made, len);
}

/* Where nothing is special a copy is made, or the tests below test nothing. */
static void check_copied(const uint8_t *code, size_t n)
{
	uint64_t made;

	start(code, n);
	run_alias(BASE);
	run_at(HLT);
	assert_int_equal(bt->stats.copies, 0);
	made = bt->stats.translations;
	run_alias(BASE + 0x123000);
	run_alias(OTHER);
	assert_true(bt->stats.copies);
	assert_int_equal(bt->stats.translations, made);
	stop();
	same(code, n, BASE, BASE + 0x123000, BASE + 0x777000, 0);
	same(code, n, BASE, OTHER + 0x123000, BASE + (3ul << 39), 0);
}

static void test_copied(void **state)
{
	check_copied(load, sizeof(load));
	check_copied(call, sizeof(call));
	check_copied(ret, sizeof(ret));
}

/* The guest address moves as far as the code in the TC does, or as far back. */
static void test_same_move(void **state)
{
	for (uint32_t gap = 4096; gap <= 3 * 4096; gap += 4096) {
		uint64_t c = BASE + 0x777000;

		same(call, sizeof(call), BASE, BASE + gap, c, gap);
		same(call, sizeof(call), BASE, BASE - gap, c, gap);
		same(ret, sizeof(ret), BASE, BASE + gap, c, gap);
		same(ret, sizeof(ret), BASE, BASE - gap, c, gap);
		same(load, sizeof(load), BASE, BASE + gap, c, gap);
		same(load, sizeof(load), BASE, BASE - gap, c, gap);
	}
}

/* The delta table's entry moves as far as the code in the TC does. */
static void test_slot_move(void **state)
{
	for (uint32_t s = 16; s < 128; s += 16)
		same(load, sizeof(load), BASE, BASE + ((uint64_t)s << 39),
		     OTHER, 8 * s);
}

/* Addresses that fit 32 bits are fields of 32 bits: what moves further must not
 * change the code behind them. */
static void test_low(void **state)
{
	uint64_t a = 1ul << 28, b = 2ul << 28;

	for (uint64_t k = 0; k < 5; k++) {
		uint64_t c = (k << 32) + (3ul << 28);

		same(load, sizeof(load), a, b, c, 0);
		same(call, sizeof(call), a, b, c, 0);
		same(ret, sizeof(ret), a, b, c, 0);
		/* From 2 GiB on they are no longer sign-extended. */
		same(call, sizeof(call), a + (2ul << 30), b + (2ul << 30), c,
		     0);
		/* The address itself need not be small. */
		same(back, sizeof(back), a + (4ul << 30), b + (4ul << 30),
		     c + (4ul << 30), 0);
		same(lea32, sizeof(lea32), BASE, BASE + 0x123000,
		     BASE + 0x777000 + (k << 32), 0);
	}
}

/* A branch that leads out of the canonical half is no branch. */
static void test_branch_out(void **state)
{
	uint64_t a = (255ul << 39) + (64ul << 30);

	same(jump, sizeof(jump), a, a + 0x123000, (1ul << 47) - (1ul << 29), 0);
}

/* A return to where a call at the end of the lower half has pushed: #GP at the
 * return, with RSP before it. */
static void test_past_canonical(void **state)
{
	static const uint8_t again[] = {0xe8, 0xf0, 0xff, 0xff, 0xff};
	uint64_t page = (1ul << 47) - PAGE_SIZE;

	start(ret, sizeof(ret));
	poke(f, CODE + 0xff0, ret, sizeof(ret));
	poke(f, CODE + 0xffb, again, sizeof(again));
	map_page(f, page, CODE, PTE_P | PTE_U);
	run_at(page + 0xffb);
	assert_int_equal(peek64(f, RSP0 - 40), page + 0xff0);
	assert_int_equal(peek64(f, RSP0 - 16), USER_STACK - 8);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copied),
		cmocka_unit_test(test_same_move),
		cmocka_unit_test(test_slot_move),
		cmocka_unit_test(test_low),
		cmocka_unit_test(test_branch_out),
		cmocka_unit_test(test_past_canonical),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
