/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which register has which slot's delta (bt/translate_facts.c): random code that
 * follows pointers between three slots, with copies, small steps, indexes, constant
 * addresses, the stack, and the registers that translated code does not have, under
 * the translator and under the interpreter. All registers, flags, the exception at
 * the end and all memory must be alike. A delta that is taken for another slot's
 * leads to where nothing is mapped, and is done slowly; so these are counted, too.
 *
 * SARDINE_DIFF_SEED and SARDINE_DIFF_COUNT choose other seeds and longer runs.
 */
#include "tests/unit/bt_fixture.h"

#define CODE	 0x600000ul
#define CODE_LEN 0x10000ul
#define DATA	 0x640000ul /* of the three, one after the other */
#define LEN	 0x4000ul
#define N_INSN	 28

static const uint64_t slot_va[3] = {DATA, 0x550000640000, 0x7f1234560000};
static struct side side[2];
static uint64_t seed;
static uint8_t code[512], *p;

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 20) % n;
}

static uint64_t pointer(void)
{
	return slot_va[rnd(3)] + 0x1000 + rnd(LEN / 2 / 8) * 8;
}

/* A register: not RSP. */
static unsigned reg(void)
{
	/* Some more often than others, so that facts last. */
	static const uint8_t r[] = {0,	1, 2,  3,  5, 6, 7, 9, 12, 13, 14,
				    15, 8, 10, 11, 3, 3, 5, 5, 7,  7,  0};

	return r[rnd(sizeof(r))];
}

static void b(uint8_t x)
{
	*p++ = x;
}
static void d(uint32_t x)
{
	memcpy(p, &x, 4);
	p += 4;
}

/* REX and opcode; wide: 64 bits. */
static void head(bool wide, unsigned op, unsigned r, unsigned x, unsigned base)
{
	b(0x40 | wide << 3 | (r >> 3) << 2 | (x >> 3) << 1 | base >> 3);
	if (op > 0xff)
		b(0x0f);
	b(op);
}

/* op reg, [base + disp8] */
static void mem(bool wide, unsigned op, unsigned r, unsigned base)
{
	head(wide, op, r, 0, base);
	b(0x40 | (r & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		b(0x24);
	b(rnd(256) & 0xf8);
}

/* op reg, [base + index * 8] */
static void mem_x(unsigned op, unsigned r, unsigned base, unsigned x)
{
	head(true, op, r, x, base);
	b(0x44 | (r & 7) << 3);
	b(3 << 6 | (x & 7) << 3 | (base & 7));
	b(0);
}

static void rr(bool wide, unsigned op, unsigned r, unsigned rm)
{
	head(wide, op, r, 0, rm);
	b(0xc0 | (r & 7) << 3 | (rm & 7));
}

static void put_insn(void)
{
	unsigned r = reg(), s = reg(), x = reg();

	switch (rnd(34)) {
	default:
		return mem(true, 0x8b, r, s); /* mov r, [s + d] */
	case 8:
	case 9:
	case 10:
		return mem(true, 0x89, r, s); /* mov [s + d], r */
	case 11:
	case 12:
		return rr(true, 0x89, r, s); /* mov s, r */
	case 13:
		return rr(true, 0x87, r, s); /* xchg */
	case 14:			     /* add r, 8 */
		rr(true, 0x83, 0, r);
		return b(rnd(2) ? 8 : -8);
	case 15: /* lea r, [s + d] */
		return mem(true, 0x8d, r, s);
	case 16: /* and x, 7 ; mov r, [s + x * 8] */
		rr(false, 0x83, 4, x);
		b(7);
		return mem_x(rnd(2) ? 0x8b : 0x89, r, s, x);
	case 17: /* inc */
		return rr(true, 0xff, 0, r);
	case 18:
	case 30:
	case 31:
	case 32: /* mov r, [a constant] */
		b(0x48 | (r >> 3) << 2);
		b(0x8b);
		b(4 | (r & 7) << 3);
		b(0x25);
		return d(DATA + 0x1000 + rnd(256) * 8);
	case 19:
	case 33: /* mov r, [rip + d], or to there */
		b(0x48 | (r >> 3) << 2);
		b(rnd(2) ? 0x8b : 0x89);
		b(5 | (r & 7) << 3);
		return d(DATA + 0x1000 - CODE);
	case 20: /* push r */
		b(0x40 | r >> 3);
		return b(0x50 | (r & 7));
	case 21: /* pop r */
		b(0x40 | r >> 3);
		return b(0x58 | (r & 7));
	case 22: /* test r, s ; js to the end */
		rr(true, 0x85, r, s);
		b(0x0f);
		b(0x88);
		return d(0x40);
	case 23: /* cmovs r, s */
		return rr(true, 0x148, r, s);
	case 24: /* movzx r, byte [s + d] */
		return mem(false, 0x1b6, r, s);
	case 25: /* add [s + d], ah */
		s &= 7;
		b(0);
		b(0x40 | 4 << 3 | (s == 4 ? 3 : s));
		return b(16);
	case 26: /* lea r, [s + x * 8], x small */
		rr(false, 0x83, 4, x);
		b(7);
		return mem_x(0x8d, r, s, x);
	case 27: /* mov [rsp + d], r */
		b(0x48 | (r >> 3) << 2);
		b(rnd(2) ? 0x8b : 0x89);
		b(0x44 | (r & 7) << 3);
		b(0x24);
		return b(rnd(16) * 8);
	case 28: /* sub or add rsp */
		b(0x48);
		b(0x83);
		b(rnd(2) ? 0xec : 0xc4);
		return b(8);
	case 29: /* add to cmp r, [s + d] */
		x = rnd(8);
		return mem(rnd(4), 8 * x + 3, r, s);
	}
}

struct outcome {
	uint64_t gpr[16], rip, rflags, cr2;
	unsigned vector;
	uint8_t data[3 * LEN], stack[LEN];
};

static void run_side(struct side *s, uint64_t at, const uint64_t *gpr,
		     struct outcome *o)
{
	struct vcpu *v = s->f->v;
	uint64_t frame;

	go_user(s->f);
	memcpy(v->gpr, gpr, sizeof(v->gpr));
	v->rip = at;
	v->cr2 = 0;
	run_to_halt(s->e, v);
	memcpy(o->gpr, v->gpr, sizeof(o->gpr));
	o->cr2 = v->cr2;
	frame = exception_frame(s->f, &o->vector);
	o->rip = peek64(s->f, frame);
	o->rflags = peek64(s->f, frame + 16);
	o->gpr[R_RSP] = peek64(s->f, frame + 24);
	p2m_copy_out(s->f->vm.p2m, DATA, o->data, sizeof(o->data));
	p2m_copy_out(s->f->vm.p2m, USER_STACK - LEN / 2, o->stack, LEN);
}

static void make_side(struct side *s, const struct engine_ops *e)
{
	struct vm_config cfg = {0};

	side_make(s, e, &cfg);
	halt_on_exceptions(s->f);
	for (unsigned k = 0; k < 3; k++)
		for (uint64_t o = 0; o < LEN; o += PAGE_SIZE)
			map_page(s->f, slot_va[k] + o, DATA + k * LEN + o,
				 PTE_P | PTE_W | PTE_U);
}

static void test_near(void **state)
{
	const char *env_seed = getenv("SARDINE_DIFF_SEED");
	const char *env_count = getenv("SARDINE_DIFF_COUNT");
	unsigned long count = env_count ? strtoul(env_count, NULL, 0) : 20000;
	unsigned long first = env_seed ? strtoul(env_seed, NULL, 0) : 1;
	static struct outcome a, c;
	uint64_t at = CODE, far = 0, faults = 0, slow;
	static uint64_t data[3 * LEN / 8];

	make_side(&side[0], &engine_bt);
	make_side(&side[1], &engine_interp);
	for (unsigned long n = first; n < first + count; n++) {
		uint64_t gpr[16];

		seed = n * 0x9e3779b97f4a7c15 | 1;
		for (unsigned i = 0; i < 8; i++)
			rnd(2);
		p = code;
		for (unsigned i = 0; i < N_INSN; i++)
			put_insn();
		memset(p, 0xf4, 0x60);
		p += 0x60;
		for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
			data[i] = pointer();
		for (unsigned i = 0; i < 16; i++)
			gpr[i] = pointer();
		gpr[R_RSP] = USER_STACK;
		if (at + sizeof(code) > CODE + CODE_LEN)
			at = CODE;
		for (unsigned k = 0; k < 2; k++) {
			poke(side[k].f, at, code, p - code);
			poke(side[k].f, DATA, data, sizeof(data));
			poke(side[k].f, USER_STACK - LEN / 2, data, LEN);
			run_side(&side[k], at, gpr, k ? &c : &a);
		}
		if (memcmp(&a, &c, sizeof(a)))
			fail_msg("seed %lu: bt: %u at +%lu, cr2 %lx; interp: "
				 "%u at +%lu, cr2 %lx%s",
				 n, a.vector, a.rip - at, a.cr2, c.vector,
				 c.rip - at, c.cr2,
				 memcmp(a.data, c.data, sizeof(a.data))
					 ? "; memory differs"
					 : "");
		faults += c.vector == EXC_PF;
		far += c.vector == EXC_GP;
		at += (p - code + 15) & ~15ul;
	}
	print_message("%lu sequences, %lu to the end, %lu to a page fault\n",
		      count, far, faults);
	slow = ((struct bt *)side[0].f->v->bt)->stats.faults_slow;
	print_message("%lu faults done slowly\n", slow);
	assert_true(far > count / 4);
	assert_true(slow < count * 2 / 5);
	side_drop(&side[0]);
	side_drop(&side[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
