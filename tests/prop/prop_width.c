/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How large a register may be (bt/translate_facts.c): random instructions on
 * registers, done by the interpreter one by one, each with what the translator then
 * believes. A value that is larger than that would lead an access out of its slot
 * and past what lies beside it, so this is looked at here, not in what guests do.
 *
 * SARDINE_DIFF_SEED and SARDINE_DIFF_COUNT choose other seeds and longer runs.
 */
#include "tests/unit/bt_fixture.h"

#include "vmm/bt/translate_priv.h"
#include "vmm/cpu/interp.h"

#define CODE  0x600000ul
#define UNIT  60u
#define COUNT 6000ul

static struct fix *f;
static struct bt *bt;
static uint64_t seed;
static uint8_t code[16];

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 20) % n;
}

/* Opcodes that make one value of another, more often than the rest; 0x100: 0f. */
static const uint16_t often[] = {
	0x01,  0x03,  0x29,  0x2b,  0x21,  0x23,  0x09,	 0x31,	0x63,
	0x63,  0x69,  0x6b,  0x81,  0x83,  0x83,  0x87,	 0x89,	0x8b,
	0x8b,  0x8d,  0x8d,  0x8d,  0x98,  0x99,  0xb8,	 0xbf,	0xc1,
	0xc1,  0xc1,  0xd1,  0xd3,  0xf7,  0xff,  0x142, 0x14f, 0x1af,
	0x1b6, 0x1b7, 0x1b8, 0x1bc, 0x1bd, 0x1be, 0x1bf, 0x1c1, 0x1c8,
};

static void make(void)
{
	unsigned op = rnd(3) ? often[rnd(ARRAY_SIZE(often))] : rnd(512), n = 0;

	for (unsigned k = 0; k < sizeof(code); k++)
		code[k] = rnd(256);
	if (!rnd(12))
		code[n++] = 0x66;
	if (!rnd(8))
		code[n++] = 0xf3;
	if (!rnd(20))
		code[n++] = 0x67;
	code[n++] = 0x40 | rnd(16) | (rnd(4) ? 8 : 0);
	if (op > 0xff)
		code[n++] = 0x0f;
	code[n++] = op;
	/* Registers, but where an address is made. */
	if (op != 0x8d)
		code[n] |= 0xc0;
	/* Immediates and displacements of all sizes. */
	if (!rnd(2))
		memset(code + n + 1 + rnd(4), rnd(2) ? 0 : 0xff, 4);
}

static uint64_t value(void)
{
	uint64_t v = seed * 0x9e3779b97f4a7c15ull;

	rnd(2);
	return (int64_t)v >> rnd(64);
}

/* May it be done here? Nothing but registers, and no RSP. */
static bool is_fit(const struct tu_insn *in)
{
	if (in->kind != K_PLAIN)
		return false;
	for (unsigned k = 0; k < in->i.operand_count; k++) {
		const struct gop *o = &in->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    in->i.mnemonic != ZYDIS_MNEMONIC_LEA)
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    reg_id(o->reg) == R_RSP)
			return false;
	}
	return true;
}

static void check(const struct tr *t, const struct tu_insn *in, uint64_t *known)
{
	for (unsigned g = 0; g < 16; g++) {
		__int128 v = (int64_t)f->v->gpr[g];
		char s[48] = "";

		if (!t->width[g])
			continue;
		++*known;
		/* Small steps do not count. */
		v = v < 0 ? -v : v;
		v -= v / 32;
		if (v <= (__int128)1 << t->width[g])
			continue;
		for (unsigned k = 0; k < in->i.length; k++)
			sprintf(s + 3 * k, "%02x ", code[k]);
		fail_msg("after %sregister %u is %lx, not within 2^%u", s, g,
			 f->v->gpr[g], t->width[g]);
	}
}

static void test_width(void **state)
{
	const char *s = getenv("SARDINE_DIFF_SEED");
	const char *c = getenv("SARDINE_DIFF_COUNT");
	uint64_t count = c ? strtoull(c, NULL, 0) : COUNT, known = 0, done = 0;
	struct vcpu *v = f->v;

	for (uint64_t n = 0; n < count; n++) {
		struct tr t = {.bt = bt, .slot = -1};
		unsigned k = 0;

		seed = ((s ? strtoull(s, NULL, 0) : 1) + n) *
			       0x9e3779b97f4a7c15ull |
		       1;
		for (unsigned g = 0; g < 16; g++)
			v->gpr[g] = g == R_RSP ? STACK : value();
		while (k < UNIT) {
			struct tu_insn in;
			bool short_of;

			make();
			if (!decode_insn(bt, &in, code, 15, &short_of) ||
			    !is_fit(&in))
				continue;
			in.rip = v->rip = CODE;
			poke(f, CODE, code, sizeof(code));
			k++;
			if (interp_step_raw(v) != CPU_OK) {
				v->exc.pending = false; /* #DE, say */
				continue;
			}
			facts_after(&t, &in);
			check(&t, &in, &known);
			done++;
		}
	}
	print_message("%lu instructions, %lu widths known after them\n", done,
		      known);
	assert_true(done > count * UNIT / 2 && known > done);
}

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	halt_on_exceptions(f);
	bt_sync_mode(bt);
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
		cmocka_unit_test_setup_teardown(test_width, setup, teardown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
