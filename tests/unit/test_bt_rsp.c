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
		poke(f, at, "\x48\x8d\x64\x24\xc0", 5); /* lea rsp, [rsp-64] */
		poke(f, at + 5, t[i].code, t[i].len);
		poke(f, at + 5 + t[i].len, "\xf4", 1);
		run(at);
		if (touches(at) != t[i].touches)
			fail_msg("%s: %u touches, not %u", t[i].what,
				 touches(at), t[i].touches);
	}
}

/* ---- flags of additions to RSP ---- */

struct outcome {
	unsigned vector;
	uint64_t rip, rflags, rsp, rax, cr2;
};

static void put_code(struct side *s, uint64_t at, const uint8_t *code,
		     unsigned n)
{
	poke(s->f, at, code, n);
	poke(s->f, at + n, "\xf4", 1);
}

static struct outcome run_side(struct side *s, uint64_t at, uint64_t rsp)
{
	struct vcpu *v = s->f->v;
	struct outcome o = {0};
	uint64_t frame;

	go_user(s->f);
	v->rip = at;
	v->gpr[R_RSP] = rsp;
	v->gpr[R_RAX] = 1;
	v->cr2 = 0;
	v->rflags = FL_R1 | FL_IF | FL_PF;
	run_to_halt(s->e, v);
	frame = exception_frame(s->f, &o.vector);
	o.rip = peek64(s->f, frame);
	o.rflags = peek64(s->f, frame + 16);
	o.rsp = peek64(s->f, frame + 24);
	o.rax = v->gpr[R_RAX];
	o.cr2 = v->cr2;
	return o;
}

static bool same(const struct outcome *a, const struct outcome *b)
{
	return a->vector == b->vector && a->rip == b->rip &&
	       a->rflags == b->rflags && a->rsp == b->rsp && a->rax == b->rax &&
	       a->cr2 == b->cr2;
}

/*
 * add and sub of RSP with what may follow, from RSPs of which some are mapped after
 * it, some are not, and some are no user's: all that the exception at the end shows
 * is what the interpreter says. Page 0 is the user's, and full of addresses of HLTs,
 * as is the stack.
 */
static void test_flags(void **state)
{
	static const struct {
		uint8_t b[9], n;
		int by;
	} op[] = {
		{{0x48, 0x83, 0xec, 8}, 4, -8},
		{{0x48, 0x83, 0xc4, 8}, 4, 8},
		{{0x48, 0x83, 0xec, 0x78}, 4, -0x78},
		{{0x48, 0x83, 0xc4, 0x78}, 4, 0x78},
		{{0x48, 0x83, 0xec, 0x80}, 4, 0x80},
		{{0x48, 0x83, 0xc4, 0x80}, 4, -0x80},
		{{0x48, 0x81, 0xec, 0x10, 1}, 7, -0x110},
		{{0x48, 0x81, 0xc4, 0x10, 1}, 7, 0x110},
		{{0x48, 0x81, 0xec, 0, 0, 1}, 7, -0x10000},
		{{0x48, 0x83, 0xc4, 1}, 4, 1},
		/* lea rsp, [rsp - 64] ; add rsp, 64 */
		{{0x48, 0x8d, 0x64, 0x24, 0xc0, 0x48, 0x83, 0xc4, 0x40}, 9, 0},
	};
	static const struct {
		uint8_t b[5], n;
	} next[] = {
		{{0x50}, 1},		       /* push rax */
		{{0x41, 0x57}, 2},	       /* push r15 */
		{{0x6a, 1}, 2},		       /* push 1 */
		{{0x54}, 1},		       /* push rsp */
		{{0x58}, 1},		       /* pop rax */
		{{0x41, 0x5f}, 2},	       /* pop r15 */
		{{0x5c}, 1},		       /* pop rsp */
		{{0xc3}, 1},		       /* ret */
		{{0xe8, 0, 0, 0, 0}, 5},       /* call the HLT */
		{{0x90}, 1},		       /* nop */
		{{0x0f, 0x98, 0xc0}, 3},       /* sets al */
		{{0x48, 0x83, 0xd0, 0}, 4},    /* adc rax, 0 */
		{{0x8b, 0x44, 0x24, 8}, 4},    /* mov eax, [rsp + 8] */
		{{0x8b, 0x44, 0x24, 0xf8}, 4}, /* mov eax, [rsp - 8] */
		{{0xff, 0x34, 0x24}, 3},       /* push [rsp] */
	};
	static const uint64_t rsp[] = {
		USER_STACK,
		0x400000,
		0x400008,
		0x400078,
		0x800000,
		0x7ffff8,
		0x7fff88,
		0,
		8,
		16,
		0x78,
		0x80,
		0x88,
		0x110,
		0x118,
		0x10000,
		-8ull,
		-16ull,
		-0x78ull,
		-0x80ull,
		-0x110ull,
		1ull << 47,
		(1ull << 47) - 8,
		(1ull << 47) - 0x78,
		-1ull << 47,
		1ull << 46,
		0x7fffffffffull,
		0x8000000008,
		0x8000000000,
		-0x10000ull,
	};
	struct side s[2];
	uint64_t at = CODE;

	for (unsigned k = 0; k < 2; k++) {
		struct vm_config cfg = {0};

		side_make(&s[k], k ? &engine_interp : &engine_bt, &cfg);
		halt_on_exceptions(s[k].f);
		map_page(s[k].f, 0, 0x700000, PTE_P | PTE_W | PTE_U);
		for (uint64_t a = 0; a < PAGE_SIZE; a += 8) {
			poke64(s[k].f, 0x700000 + a, CODE + 0x1000 - 1);
			poke64(s[k].f, USER_STACK + a, CODE + 0x1000 - 1);
			poke64(s[k].f, USER_STACK - PAGE_SIZE + a,
			       CODE + 0x1000 - 1);
		}
		poke(s[k].f, CODE + 0x1000 - 1, "\xf4", 1);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(op); i++)
		for (unsigned n = 0; n < ARRAY_SIZE(next); n++) {
			uint8_t code[16];

			memcpy(code, op[i].b, op[i].n);
			memcpy(code + op[i].n, next[n].b, next[n].n);
			for (unsigned k = 0; k < 2; k++)
				put_code(&s[k], at, code, op[i].n + next[n].n);
			for (unsigned r = 0; r < ARRAY_SIZE(rsp); r++) {
				struct outcome a = run_side(&s[0], at, rsp[r]);
				struct outcome b = run_side(&s[1], at, rsp[r]);

				/* translate_rsp.c says so. */
				if (!(rsp[r] + op[i].by))
					a.rflags |= b.rflags & FL_ZF;
				if (!same(&a, &b))
					fail_msg("op %u next %u rsp %lx: %u at "
						 "%lx fl %lx rsp %lx rax %lx "
						 "cr2 %lx, not %u %lx %lx %lx "
						 "%lx %lx",
						 i, n, rsp[r], a.vector, a.rip,
						 a.rflags, a.rsp, a.rax, a.cr2,
						 b.vector, b.rip, b.rflags,
						 b.rsp, b.rax, b.cr2);
			}
			at += 32;
			if (at % PAGE_SIZE == PAGE_SIZE - 32)
				at += 32;
		}
	side_drop(&s[0]);
	side_drop(&s[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_touch, setup, teardown),
		cmocka_unit_test(test_flags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
