/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The check in front of a unit and behind a call (bt/translate_cold.c), run by itself: it
 * lets through the one address that it is for, in both of its forms, and written for an
 * address as well as moved to it (bt/reloc.c); and it leaves RCX and the flags as they
 * were, whatever becomes of it.
 */
#include "tests/unit/bt_fixture.h"

#include <sys/mman.h>

#include "vmm/bt/translate_priv.h"

/* Runs the check with these; answers whether it let r11 through, and in out what RCX
 * and the flags are after it. */
typedef uint64_t check_fn(uint64_t r11, uint64_t rcx, uint64_t out[2],
			  uint64_t flags);

static uint8_t *code;

static void store_out(struct emit *e, unsigned answer)
{
	e8(e, 0x9c); /* pushf */
	emit_pop(e, R_RSI);
	emit_store(e, R_RCX, R_RDX, 0);
	emit_store(e, R_RSI, R_RDX, 8);
	emit_imm(e, R_RAX, answer);
	emit_ret(e);
}

static check_fn *make(uint64_t rip, bool moved)
{
	struct emit e = {code, code, code + 4096, false};
	struct ccf c = {.rip = rip};
	uint8_t *entry, *check;

	put_miss(&e);
	entry = e.p;
	/* mov r8, rcx: the flags are the fourth argument */
	emit_mov(&e, R_R8, R_RCX);
	emit_mov(&e, S0, R_RDI);
	emit_mov(&e, R_RCX, R_RSI);
	emit_push(&e, R_R8);
	e8(&e, 0x9d); /* popf */
	check = e.p;
	patch_check(put_check(&e, moved ? (uint64_t)LOW_END : rip), code);
	store_out(&e, 1);
	emit_patch(code + MISS_BYTES - 4, e.p);
	store_out(&e, 0);
	assert_false(e.overflow);
	if (moved) {
		struct reloc r = {0, check + CHECK_IMM - code, R_MINUS};

		reloc_put(&c, code, &r);
	}
	return (check_fn *)entry;
}

static void try(uint64_t rip, bool moved)
{
	static const int64_t off[] = {
		0,	   1,	       -1,	     2,
		1 << 12,   -(1 << 12), 1 << 16,	     -(1 << 16),
		1ll << 31, 1ll << 32,  -(1ll << 32), 1ll << 39,
		1ll << 47, INT64_MIN};
	static const uint64_t rcx[] = {0, 1, 2, ~0ull, 1ull << 63};
	check_fn *f = make(rip, moved);

	for (unsigned i = 0; i < ARRAY_SIZE(off); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(rcx); k++)
			for (unsigned fl = 0; fl < 2; fl++) {
				uint64_t want = fl ? FL_ARITH : 0, out[2];
				uint64_t got = f(rip + off[i], rcx[k], out,
						 want | 0x202);

				if (got == !off[i] && out[0] == rcx[k] &&
				    (out[1] & FL_ARITH) == want)
					continue;
				fail_msg("for %lx%s, %+ld: answers %lu, rcx "
					 "%lx, not %lx, flags %lx, not %lx",
					 rip, moved ? " (moved)" : "", off[i],
					 got, out[0], rcx[k], out[1], want);
			}
}

static void try_all(bool slow_loop)
{
	static const uint64_t rip[] = {0,
				       1,
				       2,
				       0x400000,
				       0x7fffffff,
				       0x80000000,
				       0x80000001,
				       0x80000002,
				       0xffffffff,
				       1ull << 32,
				       0x555555554123,
				       0x7ffff7dd1fff,
				       (1ull << 47) - 1,
				       0xffff800000000000,
				       0xffffffff7fffffff,
				       0xffffffff80000000,
				       0xffffffff81000002,
				       ~0ull};

	cold_init(slow_loop);
	for (unsigned i = 0; i < ARRAY_SIZE(rip); i++) {
		try(rip[i], false);
		if ((int64_t)rip[i] >= LOW_END)
			try(rip[i], true);
	}
}

static void test_loop(void **state)
{
	try_all(false);
}

static void test_jrcxz(void **state)
{
	try_all(true);
}

static int setup(void **state)
{
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return code == MAP_FAILED;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loop),
		cmocka_unit_test(test_jrcxz),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
