/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vmm/bt/decode.c makes of an instruction whose shape it knows is what Zydis
 * makes of it, in each field: byte strings that begin as instructions do, and
 * others that differ from one of these in some bytes, with more or less of them in
 * the page, in all modes.
 *
 * SARDINE_DIFF_SEED and SARDINE_DIFF_COUNT choose other seeds and longer runs.
 */
#include "tests/unit/bt_fixture.h"

#define COUNT 400000ul
#define POOL  512u

static struct fix *f;
static struct bt *bt;
static uint64_t seed;
static uint8_t pool[POOL][15];
static struct tu_insn is, want;

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 20) % n;
}

/* Prefixes, an opcode of any map, and anything behind that. */
static void make(uint8_t *b)
{
	static const uint8_t prefix[] = {0x66, 0x66, 0xf2, 0xf3, 0xf0,
					 0x64, 0x65, 0x67, 0x2e};
	unsigned n = 0;

	for (unsigned k = 0; k < 15; k++)
		b[k] = rnd(256);
	while (n < 5 && !rnd(4))
		b[n++] = prefix[rnd(sizeof(prefix))];
	if (rnd(2))
		b[n++] = 0x40 | rnd(16);
	switch (rnd(6)) {
	case 0:
	case 1:
		b[n++] = 0x0f;
		break;
	case 2:
		b[n++] = 0x0f;
		b[n++] = rnd(2) ? 0x38 : 0x3a;
		break;
	case 3:
		if (!rnd(2))
			b[n] = (uint8_t[]){0xc4, 0xc5, 0x62}[rnd(3)];
		break;
	}
	/* Small numbers are signed as large ones are not. */
	if (!rnd(3))
		memset(b + n + 2 + rnd(4), rnd(2) ? 0 : 0xff, 4);
}

static const uint8_t *next(void)
{
	static uint8_t b[15];
	uint8_t *of = pool[rnd(POOL)];
	unsigned from;

	if (!rnd(8))
		make(of);
	memcpy(b, of, sizeof(b));
	from = rnd(16);
	/* The end of it, as displacements and immediates are; or one byte. */
	if (rnd(4))
		for (unsigned k = from; k < 15; k++)
			b[k] = rnd(4) ? rnd(256) : b[k];
	else if (from < 15)
		b[from] = rnd(256);
	return b;
}

static void differs(const char *what, const uint8_t *b, unsigned avail)
{
	char s[48] = "";

	for (unsigned k = 0; k < avail; k++)
		sprintf(s + 3 * k, "%02x ", b[k]);
	fail_msg("%s of %s(mode %x) differs", what, s, bt->mode);
}

static void compare(const uint8_t *b, unsigned avail)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	bool short_of, ok;
	unsigned n;
	ZyanStatus st;

	ok = decode_insn(bt, &is, b, avail, &short_of);
	st = ZydisDecoderDecodeFull(&bt->dec, b, avail, &z, op);
	if (ok != !!ZYAN_SUCCESS(st))
		differs("validity", b, avail);
	if (!ok) {
		assert_int_equal(short_of,
				 st == ZYDIS_STATUS_NO_MORE_DATA && avail < 15);
		assert_int_equal(is.kind, K_CALLOUT);
		return;
	}
	decode_take(&want, &z, op);
	memcpy(want.bytes, b, want.i.length);
	n = want.i.operand_count;
	if (memcmp(&is.i, &want.i, sizeof(is.i)))
		differs("the instruction", b, avail);
	if (memcmp(is.op, want.op, (n > 3 ? n : 3) * sizeof(is.op[0])))
		differs("an operand", b, avail);
	if (memcmp(is.bytes, b, want.i.length))
		differs("a byte", b, avail);
	if (is.kind != tu_classify(bt, &want))
		differs("the kind", b, avail);
}

static void test_decode(void **state)
{
	const char *s = getenv("SARDINE_DIFF_SEED");
	const char *c = getenv("SARDINE_DIFF_COUNT");
	uint64_t count = c ? strtoull(c, NULL, 0) : COUNT, known;
	uint8_t mode = bt->mode;

	seed = s ? strtoull(s, NULL, 0) : 20261201;
	for (unsigned k = 0; k < POOL; k++)
		make(pool[k]);
	bt->stats.decoded = 0;
	for (uint64_t k = 0; k < count; k++) {
		/* Each with what there is of the other values as it was. */
		if (!rnd(1000))
			bt->mode = rnd(64);
		if (!rnd(100000))
			decode_trim(bt);
		compare(next(), rnd(4) ? 15 : 1 + rnd(15));
	}
	known = count - bt->stats.decoded;
	print_message("%lu instructions, %lu of a known shape\n", count, known);
	assert_true(known > count / 20);
	bt->mode = mode;
}

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_decode, setup, teardown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
