/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls and returns, under the translator and under the interpreter: random programs
 * of functions on a few pages, which call one another directly, through registers and
 * through memory, in loops and past branches, with flags that live across calls and
 * returns; and which return in other ways than they were called in. The same code
 * lies at several addresses, so that units are copied and moved; between runs, code is
 * written and the TLB flushed. Registers, flags and the pages of data and stack must be the same
 * after each run, which ends with HLT or when a push faults, and the translator's books right.
 */
#include "tests/prop/prop.h"
#include "tests/unit/bt_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define CODE  0x600000ul /* physical */
#define PAGES 8u
#define DATA  0x620000ul
#define VDATA 0x7000000000ul
#define STK   0x630000ul /* a page of stack, and nothing below or above it */
#define VSTK  0x7100000000ul
#define FUNCS 40u
/* Where the code is, in turn: the same offset in each, 64 pages apart. */
#define BASE0 0x555500000000ul
#define BASE1 0x7f5512340000ul
#define BASE2 0x00000a400000ul

#define CALLS 0	  /* in data: how many more calls may begin */
#define TABLE 512 /* and addresses of functions */

static struct rnd r;

struct prog {
	uint8_t code[PAGES * PAGE_SIZE];
	unsigned at[FUNCS]; /* where each begins */
	unsigned p, end;    /* of the function being written */
	unsigned fixups, where[512], to[512];
};
static struct prog g;

static unsigned below(unsigned n)
{
	return rnd_below(&r, n);
}

static void put(const void *b, unsigned n)
{
	memcpy(g.code + g.p, b, n);
	g.p += n;
}
#define PUT(...)                                                               \
	put((const uint8_t[]){__VA_ARGS__},                                    \
	    sizeof((const uint8_t[]){__VA_ARGS__}))

/* rel32 to a function, filled in when all of them are placed. */
static void put_rel(unsigned f)
{
	g.where[g.fixups] = g.p;
	g.to[g.fixups++] = f;
	PUT(0, 0, 0, 0);
}

static void work(void)
{
	uint8_t d = 8 * (8 + below(7));

	switch (below(16)) {
	case 0:
		return PUT(0x48, 0x11, 0xd0); /* adc rax, rdx */
	case 1:
		return PUT(0x49, 0x13, 0xc3); /* adc rax, r11 */
	case 2:
		return PUT(0x4d, 0x01, 0xd7); /* add r15, r10 */
	case 3:
		return PUT(0x48, 0xd1, 0xd2); /* rcl rdx, 1 */
	case 4:
		return PUT(0x4c, 0x31, 0xd2); /* xor rdx, r10 */
	case 5:
		return PUT(0x48, 0x89, 0x43, d); /* mov [rbx + d], rax */
	case 6:
		return PUT(0x48, 0x13, 0x43, d); /* adc rax, [rbx + d] */
	case 7:
		return PUT(0x48, 0x29, 0x53, d); /* sub [rbx + d], rdx */
	case 8:
		return PUT(0x4c, 0x8b, 0x54, 0x24, 0); /* mov r10, [rsp] */
	case 9:
		return PUT(0x0f, 0x92, 0xc1); /* setc cl */
	case 10:
		return PUT(0x49, 0xff, 0xc3); /* inc r11: CF stays */
	case 11:
		return PUT(0x48, 0x01, 0xc8); /* add rax, rcx */
	case 12:
		return PUT(0x48, 0x89, 0xde, 0x48, 0x03, 0x46, d);
		/* mov rsi, rbx ; add rax, [rsi + d] */
	case 13:
		return PUT(0x48, 0x83, 0xec, 24, 0x48, 0x83, 0xc4, 24);
		/* sub rsp, 24 ; add rsp, 24 */
	case 14:
		return PUT(0xf8 + below(2)); /* clc, stc */
	default:
		return PUT(0x48, 0x8d, 0x4c, 0x01,
			   d); /* lea rcx, [rcx+rax+d] */
	}
}

static void call(unsigned from)
{
	unsigned f = from + 1 + below(FUNCS - from - 1);

	switch (below(8)) {
	case 0: /* lea rcx, [rip + f] ; call rcx */
		PUT(0x48, 0x8d, 0x0d);
		put_rel(f);
		PUT(0xff, 0xd1);
		break;
	case 1: /* call [rbx + d] */
		PUT(0xff, 0x93);
		put((const uint32_t[]){TABLE + 8 * f}, 4);
		break;
	case 2: /* push here ; jmp: a call that is none */
		PUT(0x48, 0x8d, 0x0d, 6, 0, 0, 0, 0x51, 0xe9);
		put_rel(f);
		break;
	case 3:		      /* three turns */
		PUT(0x6a, 3); /* push 3 */
		PUT(0xe8);    /* L: call */
		put_rel(f);
		PUT(0x48, 0xff, 0x0c, 0x24); /* dec qword [rsp] */
		PUT(0x75, 256 - 11);	     /* jnz L */
		PUT(0x59);		     /* pop rcx */
		break;
	default:
		PUT(0xe8);
		put_rel(f);
	}
	/* A callee may return one byte further. */
	PUT(0x90);
	if (below(3) == 0)
		PUT(0x48, 0x83, 0xd0, 0); /* adc rax, 0 */
}

static void leave(void)
{
	switch (below(10)) {
	case 0:
		PUT(0x41, 0x5e, 0x41, 0x56,
		    0xc3); /* pop r14 ; push r14 ; ret */
		break;
	case 1:
		PUT(0x41, 0x5e, 0x41, 0xff, 0xe6); /* pop r14 ; jmp r14 */
		break;
	case 2: /* inc qword [rsp]: past the NOP */
		PUT(0x48, 0xff, 0x04, 0x24, 0xc3);
		break;
	case 3:
		PUT(0xf3, 0xc3); /* rep ret */
		break;
	case 4: /* push [rsp] ; ret 8 */
		PUT(0xff, 0x34, 0x24, 0xc2, 8, 0);
		break;
	default:
		PUT(0xc3);
	}
}

static void function(unsigned n)
{
	unsigned items = 2 + below(9);

	g.at[n] = g.p;
	/* sub qword [rbx + CALLS], 1 ; jns +1 ; ret */
	PUT(0x48, 0x83, 0x6b, CALLS, 1, 0x79, 1, 0xc3);
	while (items--) {
		unsigned k = below(8), from = g.p;

		if (k < 3 && n + 1 < FUNCS) {
			call(n);
		} else if (k == 3) { /* jcc over some of it */
			PUT(0x70 + below(16), 0);
			work();
			if (n + 1 < FUNCS && below(2))
				call(n);
			work();
			g.code[from + 1] = g.p - from - 2;
		} else {
			work();
		}
	}
	leave();
	g.p += below(4) ? below(16) : below(400);
}

static void make_program(void)
{
	memset(&g, 0, sizeof(g));
	memset(g.code, 0xcc, sizeof(g.code));
	g.p = below(64);
	/* call f0 ; hlt */
	PUT(0xe8);
	put_rel(0);
	PUT(0xf4);
	for (unsigned n = 0; n < FUNCS; n++)
		function(n);
	assert_true(g.p < sizeof(g.code));
	for (unsigned i = 0; i < g.fixups; i++) {
		int32_t d = (int)g.at[g.to[i]] - (int)(g.where[i] + 4);

		memcpy(g.code + g.where[i], &d, 4);
	}
}

static struct side bt, itp;

static void make_side(struct side *s, const struct engine_ops *e,
		      struct vm_config cfg)
{
	static const uint64_t base[] = {BASE0, BASE1, BASE2};
	struct fix *f;

	side_make(s, e, &cfg);
	f = s->f;
	halt_on_exceptions(f);
	for (unsigned b = 0; b < ARRAY_SIZE(base); b++)
		for (unsigned k = 0; k < PAGES; k++)
			map_page(f, base[b] + k * PAGE_SIZE,
				 CODE + k * PAGE_SIZE, PTE_P | PTE_U);
	map_page(f, VDATA, DATA, PTE_P | PTE_W | PTE_U);
	map_page(f, VSTK, STK, PTE_P | PTE_W | PTE_U);
}

struct out {
	uint64_t gpr[16], rip, rflags, vector;
	uint8_t data[PAGE_SIZE], stack[PAGE_SIZE];
};

static void run(struct side *s, uint64_t base, uint64_t seed, unsigned calls,
		uint64_t rsp, struct out *o)
{
	struct fix *f = s->f;
	struct vcpu *v = f->v;
	struct rnd q = {seed};
	uint64_t at;

	for (unsigned a = 0; a < PAGE_SIZE; a += 8) {
		poke64(f, DATA + a, rnd64(&q));
		poke64(f, STK + a, rnd64(&q));
	}
	poke64(f, DATA + CALLS, calls);
	for (unsigned n = 0; n < FUNCS; n++)
		poke64(f, DATA + TABLE + 8 * n, base + g.at[n]);
	go_user(f);
	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = rnd64(&q);
	v->gpr[R_RBX] = VDATA;
	v->gpr[R_RSP] = rsp;
	v->rip = base + g.at[0] - 6;
	v->rflags |= rnd64(&q) & FL_ARITH;
	run_to_halt(s->e, v);
	memcpy(o->gpr, v->gpr, sizeof(o->gpr));
	o->vector = (v->rip - HANDLER) / 16;
	at = v->gpr[R_RSP] + 8;
	o->rip = peek64(f, at);
	o->rflags = peek64(f, at + 16);
	assert_int_equal(p2m_copy_out(f->vm.p2m, DATA, o->data, PAGE_SIZE), 0);
	assert_int_equal(p2m_copy_out(f->vm.p2m, STK, o->stack, PAGE_SIZE), 0);
}

static void load_program(void)
{
	poke(bt.f, CODE, g.code, sizeof(g.code));
	poke(itp.f, CODE, g.code, sizeof(g.code));
}

/* Of everything, or of a page of code: its context is emptied, and what is run at
 * another address after that is moved there. */
static void flush(struct side *s, uint64_t base)
{
	gva_t va = base + below(PAGES) * PAGE_SIZE;

	s->f->v->ops->tlb_flush(
		s->f->v, below(3) ? TLB_FLUSH_PAGE : TLB_FLUSH_ALL, 0, va);
}

static void check(struct vm_config cfg)
{
	static const uint64_t base[] = {BASE0, BASE1, BASE2};
	uint64_t programs = prop_env("PROP_STEPS", 40), units, pads = 0;
	unsigned faults = 0;
	static struct out a, b;
	struct bt *t;

	r = rnd_seeded("call", 11);
	make_side(&bt, &engine_bt, cfg);
	make_side(&itp, &engine_interp, (struct vm_config){0});
	t = (struct bt *)bt.f->v->bt;
	for (uint64_t k = 0; k < programs; k++) {
		make_program();
		load_program();
		for (unsigned n = 0; n < 12; n++) {
			uint64_t at = base[below(3)], seed = rnd64(&r);
			unsigned calls = below(4) ? 300 : below(20);
			/* With room, or until a push faults. */
			uint64_t rsp =
				VSTK + (below(3) ? PAGE_SIZE : 8 * below(24));

			run(&itp, at, seed, calls, rsp, &a);
			run(&bt, at, seed, calls, rsp, &b);
			faults += a.vector == EXC_PF;
			if (memcmp(&a, &b, sizeof(a)))
				fail_msg("program %lu, run %u at %lx: #%lu at "
					 "%lx, not #%lu at %lx; rax %lx, not "
					 "%lx",
					 k, n, at, b.vector, b.rip, a.vector,
					 a.rip, b.gpr[0], a.gpr[0]);
			assert_int_equal(tc_audit(t), 0);
			assert_int_equal(reloc_audit(t), 0);
			if (!below(3))
				flush(&bt, at);
			/* Written, with what is there: a line, or all of it. */
			if (!below(4)) {
				unsigned line = 64 * below(sizeof(g.code) / 64);

				poke(bt.f, CODE + line, g.code + line, 64);
			}
			if (!below(12))
				load_program();
		}
	}
	units = t->stats.translations;
	for (uint32_t id = 1; id < t->region[0].n_ccf; id++)
		pads += t->ccf[id].n_pad > 1;
	print_message("%lu programs, %lu units, %lu of them with two pads; "
		      "%lu copies, %lu moved\n",
		      programs, units, pads, t->stats.copies, t->stats.moves);
	assert_true(faults > programs);
	if (cfg.pair_all && cfg.tu_max != 1 && !cfg.tc_bytes)
		assert_true(pads > programs);
	if (!cfg.lockstep && !cfg.tc_bytes)
		assert_true(t->stats.copies > units / 4 && t->stats.moves > 0);
	side_drop(&bt);
	side_drop(&itp);
}

static void test_paired(void **state)
{
	check((struct vm_config){.pair_all = true});
}

static void test_plain(void **state)
{
	check((struct vm_config){0});
}

static void test_slow_loop(void **state)
{
	check((struct vm_config){.pair_all = true, .check = CHECK_JRCXZ});
}

static void test_single(void **state)
{
	check((struct vm_config){.pair_all = true, .tu_max = 1});
}

static void test_tiny_cache(void **state)
{
	check((struct vm_config){.pair_all = true, .tc_bytes = 256 << 10});
}

static void test_counting(void **state)
{
	check((struct vm_config){.pair_all = true, .count = true});
}

static void test_lockstep(void **state)
{
	check((struct vm_config){
		.pair_all = true, .lockstep = true, .check = CHECK_JRCXZ});
	check((struct vm_config){
		.pair_all = true, .lockstep = true, .check = CHECK_LOOP});
}

static void test_touched(void **state)
{
	check((struct vm_config){.pair_all = true, .touch_all = true});
}

/* Returns that lead to one another by way of a pad, and to no unit's beginning. */
static atomic_int back;

static void *kick(void *arg)
{
	struct vcpu *v = arg;

	for (unsigned ms = 0; ms < 10000 && !back; ms += 50) {
		usleep(50000);
		atomic_store(&v->requests, 1);
		v->ops->kick(v);
	}
	if (!back) {
		fprintf(stderr, "not ok: a kick does not get through\n");
		abort();
	}
	return NULL;
}

static void test_kick(void **state)
{
	/* call f ; mov rsp, rbx ; ret ; f: ret */
	static const uint8_t code[] = {0xe8, 4,	   0,	 0,    0,
				       0x48, 0x89, 0xdc, 0xc3, 0xc3};
	struct vcpu *v;
	pthread_t th;

	make_side(&bt, &engine_bt, (struct vm_config){.pair_all = true});
	v = bt.f->v;
	poke(bt.f, CODE, code, sizeof(code));
	poke64(bt.f, DATA, BASE0 + 5);
	go_user(bt.f);
	v->gpr[R_RBX] = VDATA;
	v->gpr[R_RSP] = USER_STACK;
	v->rip = BASE0;
	back = 0;
	assert_int_equal(pthread_create(&th, NULL, kick, v), 0);
	assert_int_equal(bt.e->run(v), EXIT_KICK);
	back = 1;
	pthread_join(th, NULL);
	side_drop(&bt);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paired),
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_slow_loop),
		cmocka_unit_test(test_single),
		cmocka_unit_test(test_tiny_cache),
		cmocka_unit_test(test_counting),
		cmocka_unit_test(test_lockstep),
		cmocka_unit_test(test_touched),
		cmocka_unit_test(test_kick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
