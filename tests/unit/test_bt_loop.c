/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loops that a unit has several times (bt/tu.c), under the translator and under the
 * interpreter: after any number of turns, and when one of them faults, registers,
 * flags, RIP and memory are the same. The loops are real code, copied from here.
 */
#include "tests/unit/bt_fixture.h"

#define CODE  0x600000ul
#define DATA  0x7000000000ul /* two pages, and nothing behind them */
#define PAGES 0x620000ul
#define BYTES (2 * PAGE_SIZE)

/* Each begins with its first turn and ends with HLT. */
#define LOOP(name, body)                                                       \
	extern const uint8_t name[], name##_end[];                             \
	__asm__(".pushsection .rodata\n" #name ":\n" body "\nhlt\n" #name      \
		"_end:\n.popsection\n")

/* Of 15 instructions, one access to anywhere. */
LOOP(far_loads, "mov %rax,%rdx\n add $1,%rdi\n shl $13,%rdx\n xor %rdx,%rax\n"
		"mov %rax,%rdx\n shr $7,%rdx\n xor %rax,%rdx\n mov %rdx,%rax\n"
		"shl $17,%rax\n xor %rdx,%rax\n mov %rbx,%rdx\n"
		"and %rax,%rdx\n add (%rsi,%rdx,8),%r8\n cmp %rdi,%rcx\n"
		"jne far_loads");
/* CF goes round; DEC leaves it alone. */
LOOP(carried, "adc (%rsi),%rax\n lea 8(%rsi),%rsi\n dec %rcx\n jnz carried");
/* The registers that the host's code uses. */
LOOP(special, "add (%rsi),%r11\n lea 8(%rsi,%r10),%rsi\n xor %r11,%r15\n"
	      "mov %r15,-8(%rsi)\n dec %rcx\n jnz special");
/* A way out in the middle. */
LOOP(search, "cmp (%rsi),%al\n je 1f\n inc %rsi\n dec %rcx\n jnz search\n"
	     "hlt\n 1: mov $77,%ebx");
/* Two of them: too many to do it twice. */
LOOP(search2, "cmp (%rsi),%al\n je 1f\n cmp (%rsi),%ah\n ja 1f\n inc %rsi\n"
	      "dec %rcx\n jnz search2\n hlt\n 1: mov $78,%ebx");
LOOP(stack, "push %rcx\n sub $24,%rsp\n mov %rcx,8(%rsp)\n dec %rcx\n"
	    "jnz stack");
LOOP(copy, "movdqu (%rsi),%xmm1\n movdqu %xmm1,0x800(%rsi)\n add $16,%rsi\n"
	   "cmp %rsi,%rdi\n ja copy");
LOOP(string, "mov $3,%r9\n xchg %r9,%rcx\n rep stosb\n xchg %r9,%rcx\n"
	     "mov -3(%rdi),%al\n inc %al\n dec %rcx\n jnz string");
/* One instruction, whose branch is taken as often as ZF lets it. */
LOOP(itself, "1: jz 1b");
/* Signed, and with an operand beside RIP that is the code itself. */
LOOP(constant, "mov constant(%rip),%dx\n add %rdx,%rax\n sub $1,%rcx\n"
	       "jg constant");

static const struct loop {
	const char *name;
	const uint8_t *from, *to;
	unsigned turns; /* that the unit should have */
} loops[] = {
#define L(n, t)                                                                \
	{                                                                      \
#n, n, n##_end, t                                              \
	}
	L(far_loads, 4), L(carried, 4),	 L(special, 4), L(search, 2),
	L(search2, 1),	 L(stack, 4),	 L(copy, 4),	L(string, 4),
	L(itself, 4),	 L(constant, 4),
#undef L
};

struct out {
	uint64_t gpr[16], rip, rflags, rsp, vector;
	uint8_t data[BYTES];
};

static struct side bt, itp;

static void make(struct side *s, const struct engine_ops *e)
{
	struct fix *f;

	side_make(s, e, &(struct vm_config){0});
	f = s->f;
	halt_on_exceptions(f);
	for (unsigned k = 0; k < 2; k++)
		map_page(f, DATA + k * PAGE_SIZE, PAGES + k * PAGE_SIZE,
			 PTE_P | PTE_W | PTE_U);
}

static int setup(void **state)
{
	make(&bt, &engine_bt);
	make(&itp, &engine_interp);
	return 0;
}

static int teardown(void **state)
{
	side_drop(&bt);
	side_drop(&itp);
	return 0;
}

/* Turns from data + off on. */
static void run(struct side *s, uint64_t rip, uint64_t turns, uint64_t off,
		struct out *o)
{
	struct fix *f = s->f;
	struct vcpu *v = f->v;
	uint64_t at;

	for (uint64_t a = 0; a < BYTES; a += 8)
		poke64(f, PAGES + a, (a + 1) * 0x9e3779b97f4a7c15ull);
	go_user(f);
	for (unsigned r = 0; r < 16; r++)
		v->gpr[r] = 0x0123456789abcdefull * (r + 1);
	v->gpr[R_RAX] = 88172645463325252ull;
	v->gpr[R_RBX] = BYTES / 8 - 1;
	v->gpr[R_RCX] = turns;
	v->gpr[R_RSI] = DATA + off;
	v->gpr[R_RDI] = rip == CODE ? 0 : DATA + off + 16 * turns;
	v->gpr[R_R10] = 0;
	v->gpr[R_RSP] = DATA + BYTES - off;
	v->rip = rip;
	v->rflags |= turns & 1 ? FL_CF : FL_ZF * (turns & 2) / 2;
	if (rip == CODE + 8 * PAGE_SIZE) /* for ever */
		v->rflags &= ~(uint64_t)FL_ZF;
	run_to_halt(s->e, v);
	o->vector = (v->rip - HANDLER) / 16;
	at = v->gpr[R_RSP] + (o->vector == EXC_PF || o->vector == EXC_GP) * 8;
	memcpy(o->gpr, v->gpr, sizeof(o->gpr));
	o->gpr[R_RSP] = 0;
	o->rip = peek64(f, at);
	o->rflags = peek64(f, at + 16);
	o->rsp = peek64(f, at + 24);
	assert_int_equal(p2m_copy_out(f->vm.p2m, PAGES, o->data, BYTES), 0);
}

static unsigned insns_of(uint64_t rip, unsigned *guest_len)
{
	struct bt *b = (struct bt *)bt.f->v->bt;

	for (uint32_t id = 1; id < b->region[0].n_ccf; id++) {
		if (b->ccf[id].rip != rip || (b->ccf[id].flags & CCF_DEAD))
			continue;
		*guest_len = b->ccf[id].guest_len;
		return b->ccf[id].n_insn;
	}
	fail_msg("no unit at %lx", rip);
	return 0;
}

/* How many instructions are in the first len bytes? */
static unsigned count(const uint8_t *p, unsigned len)
{
	struct bt *b = (struct bt *)bt.f->v->bt;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	unsigned n = 0;

	for (unsigned o = 0; o < len; o += i.length, n++)
		assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(
			&b->dec, p + o, len - o, &i, op)));
	return n;
}

static void test_loops(void **state)
{
	static const uint64_t turns[] = {1, 2,	3,  4,	5,  6,	7,   8,
					 9, 15, 16, 17, 31, 64, 600, 3000};
	static const uint64_t off[] = {0, 4096 - 32, 8192 - 40, 8192 - 64};
	static struct out a, b;

	for (unsigned k = 0; k < ARRAY_SIZE(loops); k++) {
		const struct loop *l = &loops[k];
		uint64_t at = CODE + k * PAGE_SIZE;
		unsigned len = 0, n;

		poke(bt.f, at, l->from, l->to - l->from);
		poke(itp.f, at, l->from, l->to - l->from);
		for (unsigned i = 0; i < ARRAY_SIZE(turns); i++)
			for (unsigned j = 0; j < ARRAY_SIZE(off); j++) {
				run(&itp, at, turns[i], off[j], &a);
				run(&bt, at, turns[i], off[j], &b);
				if (memcmp(&a, &b, sizeof(a)))
					fail_msg("%s, %lu turns from %lx: "
						 "#%lu at %lx, not #%lu at %lx",
						 l->name, turns[i], off[j],
						 b.vector, b.rip, a.vector,
						 a.rip);
			}
		n = insns_of(at, &len);
		assert_int_equal(n, count(l->from, len) * l->turns);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
