/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes as instructions in every mode and at every privilege: whatever
 * a guest feeds the interpreter ends in a completed step, a guest exception or a
 * named exit (something that is not built yet may be named too), never in a fault of the monitor (the sanitizer build looks closer).
 * Valid opcodes are favoured by taking most first bytes from a list of escapes.
 *
 * SARDINE_FUZZ_SEED and SARDINE_FUZZ_COUNT choose other runs.
 */
#include "tests/unit/sys_fixture.h"

#include <signal.h>
#include <unistd.h>

#include "vmm/cpu/interp.h"

static uint64_t seed;
static uint8_t last[16];

static uint64_t rnd(void)
{
	uint64_t z = (seed += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void random_bytes(uint8_t b[16])
{
	static const uint8_t lead[] = {0x0f, 0x0f, 0x0f, 0x66, 0x67, 0xf2,
				       0xf3, 0x48, 0x4c, 0xc4, 0xc5, 0xd8,
				       0xdb, 0xdd, 0xf0, 0x64, 0xff, 0xf7};
	unsigned n = 0;

	for (unsigned k = 0; k < 16; k++)
		b[k] = rnd();
	while (n < 4 && rnd() % 3)
		b[n++] = lead[rnd() % sizeof(lead)];
}

static uint64_t random_value(void)
{
	switch (rnd() % 6) {
	case 0:
		return rnd();
	case 1:
		return rnd() % 64;
	case 2:
		return rnd() << 47;
	default: /* low memory, tables and all */
		return rnd() % (9 << 20) & (rnd() % 2 ? ~63ull : ~0ull);
	}
}

enum { LONG_KERNEL, LONG_USER, COMPAT, PROT32, PROT16, REAL, NR_MODES };

static void enter_mode(struct fix *f, unsigned mode)
{
	static const uint8_t zero[16 * PAGE_SIZE];
	struct vcpu *v = f->v;

	/* The guest has had its way with the tables. */
	poke(f, TABLES, zero, sizeof(zero));
	f->next_table = TABLES;
	vcpu_reset(v);
	v->exit = EXIT_NONE;
	v->halted = 0;
	v->exc.pending = false;
	if (mode <= COMPAT) {
		long_mode(f);
		v->cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
		v->xcr0 = 7;
	} else if (mode != REAL) {
		prot_mode(f);
		v->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
		v->xcr0 = 3;
	}
	if (mode == LONG_USER || mode == COMPAT)
		go_user(f);
	if (mode == COMPAT)
		v->seg[SEG_CS] = seg_of(S_UCODE32, ~0u, 0xcfb);
	if (mode == PROT16)
		v->seg[SEG_CS] = seg_of(S_CODE16, 0xffff, 0x09b);
	if (mode == REAL || mode == PROT16)
		v->rip = 0x7c00;
	if (mode == REAL)
		v->seg[SEG_CS].base = v->seg[SEG_CS].sel = 0;
}

static void crashed(int sig)
{
	char buf[128];
	int n = snprintf(buf, sizeof(buf), "signal %d, seed %lu, bytes", sig,
			 seed);

	for (unsigned k = 0; k < 16; k++)
		n += snprintf(buf + n, sizeof(buf) - n, " %02x", last[k]);
	buf[n++] = '\n';
	if (write(2, buf, n) < 0)
		_exit(2);
	signal(sig, SIG_DFL);
	raise(sig);
}

static unsigned long env(const char *name, unsigned long def)
{
	const char *s = getenv(name);

	return s ? strtoul(s, NULL, 0) : def;
}

static void fuzz(struct fix *f, unsigned mode, unsigned long count)
{
	struct vcpu *v = f->v;
	unsigned long done = 0, exc = 0, exits = 0;

	for (unsigned long t = 0; t < count; t++) {
		unsigned steps = 1 + rnd() % 3;
		uint64_t rsp;

		if (t % 64 == 0)
			enter_mode(f, mode);
		v->exc.pending = false;
		rsp = v->gpr[R_RSP];
		for (unsigned k = 0; k < 16; k++)
			if (rnd() % 2)
				v->gpr[k] = random_value();
		if (rnd() % 8)
			v->gpr[R_RSP] = rsp;
		v->rflags = (v->rflags & ~0xcd5ull) | (rnd() & 0xcd5);
		if (rnd() % 16 == 0)
			v->cr0 ^= 1ull << (1 + rnd() % 3);
		for (unsigned k = 0; k < 8 && rnd() % 4 == 0; k++)
			((uint8_t *)
				 v->fpu)[rnd() % 416 < 24 ? rnd() % 4
							  : 32 + rnd() % 384] =
				rnd();
		while (steps--) {
			uint8_t *b = last;
			gva_t at = v->rip + v->seg[SEG_CS].base;
			enum cpu_status st;
			struct walk w;

			random_bytes(b);
			if (!mmu_walk(v, at, WALK_PROBE, &w))
				p2m_copy_in(f->vm.p2m, w.gpa, b, 16);
			st = rnd() % 2 ? interp_step(v) : interp_step_raw(v);
			if (st == CPU_OK)
				done++;
			else if (st == CPU_EXC)
				exc++;
			else
				exits++;
			if (st == CPU_EXIT) {
				assert_int_not_equal(v->exit, EXIT_NONE);
				if (v->exit == EXIT_ERROR &&
				    !strstr(v->exit_reason, "not built"))
					fail_msg("seed %lu: %s", seed,
						 v->exit_reason);
				enter_mode(f, mode);
			}
			if (st == CPU_EXC) {
				assert_true(v->exc.pending);
				v->exc.pending = false;
			}
			assert_true(v->cpl <= 3);
			v->halted = 0;
		}
		if (v->rip >= 8 << 20)
			enter_mode(f, mode);
	}
	print_message("mode %u: %lu done, %lu exceptions, %lu exits\n", mode,
		      done, exc, exits);
	assert_true(done > count / 20);
}

static void test_fuzz(void **state)
{
	struct fix *f = *state;
	unsigned long count = env("SARDINE_FUZZ_COUNT", 60000);

	seed = env("SARDINE_FUZZ_SEED", 1);
	signal(SIGSEGV, crashed);
	signal(SIGILL, crashed);
	signal(SIGFPE, crashed);
	signal(SIGBUS, crashed);
	for (unsigned m = 0; m < NR_MODES; m++)
		fuzz(f, m, count);
}

static int setup(void **state)
{
	struct fix *f;

	fix_setup(state);
	f = *state;
	return engine_interp.init(&f->vm, f->v);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	engine_interp.fini(&f->vm, f->v);
	return fix_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fuzz),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
