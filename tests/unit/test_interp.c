/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter where the random comparison (test_diff_interp.c) does not
 * look: faults and what they leave, system state, 16- and 32-bit code, traps,
 * exceptions of the vector units, state save and restore, the engine's loop.
 */
#include "tests/unit/sys_fixture.h"

#include <stdatomic.h>

#include "vmm/cpu/interp.h"
#include "vmm/cpu/layout.h"

/* Code to run in the guest, assembled here. */
#define SNIP_MODE(name, mode, text)                                            \
	asm(".pushsection .rodata\n" mode "\n" #name ":\n" text "\n" #name     \
	    "_end:\n.code64\n.popsection");                                    \
	extern const uint8_t name[], name##_end[]
#define SNIP(name, text)   SNIP_MODE(name, ".code64", text)
#define SNIP32(name, text) SNIP_MODE(name, ".code32", text)
#define SNIP16(name, text) SNIP_MODE(name, ".code16", text)
#define LOAD(f, at, name)  poke(f, at, name, (size_t)(name##_end - name))

#define CODE		   0x401000ul /* user pages */
#define DATA		   0x600000ul
#define HOLE		   0x700000ul /* a page that is not there, made by setup */
#define RODAT		   0x702000ul /* read-only */

static int setup(void **state)
{
	struct fix *f;

	fix_setup(state);
	f = *state;
	assert_int_equal(engine_interp.init(&f->vm, f->v), 0);
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	engine_interp.fini(&f->vm, f->v);
	return fix_teardown(state);
}

static void user64(struct fix *f)
{
	long_mode(f);
	map_page(f, HOLE, 0, 0);
	map_page(f, RODAT, RODAT, PTE_P | PTE_U);
	go_user(f);
	f->v->cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	f->v->xcr0 = 7;
	f->v->rip = CODE;
	memset(f->v->gpr, 0, sizeof(f->v->gpr));
	f->v->gpr[R_RSP] = USER_STACK;
	mem_flush(f->v);
}

/* One step that completes. */
static void ok(struct fix *f)
{
	enum cpu_status st = interp_step_raw(f->v);

	if (st == CPU_EXC)
		fail_msg("#%u(%x) at %lx", f->v->exc.vector, f->v->exc.error,
			 f->v->rip);
	assert_int_equal(st, CPU_OK);
}

static void oks(struct fix *f, unsigned n)
{
	while (n--)
		ok(f);
}

/* One step that faults, and leaves rip, flags and registers alone. */
static void faults(struct fix *f, unsigned vec)
{
	struct vcpu *v = f->v;
	uint64_t gpr[16], rip = v->rip, fl = v->rflags;

	memcpy(gpr, v->gpr, sizeof(gpr));
	v->exc.pending = false;
	assert_int_equal(interp_step_raw(v), CPU_EXC);
	assert_int_equal(v->exc.vector, vec);
	assert_int_equal(v->rip, rip);
	assert_int_equal(v->rflags, fl);
	assert_memory_equal(gpr, v->gpr, sizeof(gpr));
}

static void faults_pf(struct fix *f, gva_t cr2, unsigned err)
{
	faults(f, EXC_PF);
	assert_int_equal(f->v->exc.cr2, cr2);
	assert_int_equal(f->v->exc.error, err);
}

static void at(struct fix *f, const uint8_t *b, size_t n)
{
	f->v->rip = CODE;
	poke(f, CODE, b, n);
}
#define AT(f, ...)                                                             \
	at(f, (const uint8_t[]){__VA_ARGS__},                                  \
	   sizeof((const uint8_t[]){__VA_ARGS__}))

/* ---- faults of memory operands ---- */
SNIP(rmw_hole, "addl %eax, (%rbx)");
SNIP(xadd_hole, "lock xaddl %eax, (%rbx)");
SNIP(xchg_hole, "xchgq %rax, (%rbx)");
SNIP(pop_hole, "popq (%rbx)");
SNIP(push_hole, "pushq %rax");
SNIP(call_hole, "call .+100");
SNIP(cx16_hole, "lock cmpxchg16b (%rbx)");
SNIP(sse_store, "movups %xmm1, (%rbx)");
SNIP(x87_store, "fstpl (%rbx)");

static void test_precise_faults(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	user64(f);
	v->gpr[R_RBX] = HOLE + 8;
	v->gpr[R_RAX] = 5;
	v->rflags |= FL_CF | FL_OF;
	LOAD(f, CODE, rmw_hole);
	faults_pf(f, HOLE + 8, PF_U | PF_W);
	LOAD(f, CODE, xadd_hole);
	faults_pf(f, HOLE + 8, PF_U | PF_W);
	LOAD(f, CODE, xchg_hole);
	faults_pf(f, HOLE + 8, PF_U | PF_W);
	LOAD(f, CODE, pop_hole);
	faults_pf(f, HOLE + 8, PF_U | PF_W);
	LOAD(f, CODE, sse_store);
	faults_pf(f, HOLE + 8, PF_U | PF_W);
	v->gpr[R_RBX] = HOLE - 4; /* the second page is missing */
	poke64(f, HOLE - 8, 0x1111111111111111);
	LOAD(f, CODE, xchg_hole);
	faults_pf(f, HOLE, PF_U | PF_W);
	assert_int_equal(peek64(f, HOLE - 8), 0x1111111111111111);
	v->gpr[R_RBX] = RODAT;
	poke32(f, RODAT, 77);
	LOAD(f, CODE, rmw_hole);
	faults_pf(f, RODAT, PF_U | PF_W | PF_P);
	v->gpr[R_RBX] = RODAT + 8;
	LOAD(f, CODE, cx16_hole);
	faults(f, EXC_GP); /* not aligned */
	v->gpr[R_RBX] = RODAT + 16;
	faults_pf(f, RODAT + 16, PF_U | PF_W | PF_P);
	v->gpr[R_RSP] = HOLE + 8;
	LOAD(f, CODE, push_hole);
	faults_pf(f, HOLE, PF_U | PF_W);
	LOAD(f, CODE, call_hole);
	faults_pf(f, HOLE, PF_U | PF_W);
	v->gpr[R_RSP] = 1ull << 47; /* not canonical: the stack's own fault */
	LOAD(f, CODE, pop_hole);
	faults(f, EXC_SS);
	v->gpr[R_RBX] = 1ull << 62;
	LOAD(f, CODE, rmw_hole);
	faults(f, EXC_GP);
}

static void test_x87_store_fault(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint8_t before[512];

	user64(f);
	AT(f, 0xd9, 0xeb); /* fldpi */
	ok(f);
	v->gpr[R_RBX] = HOLE;
	v->rip = CODE;
	LOAD(f, CODE, x87_store);
	memcpy(before, v->fpu, 512);
	faults_pf(f, HOLE, PF_U | PF_W);
	assert_memory_equal(before, v->fpu, 512); /* not popped */
	v->gpr[R_RBX] = DATA;
	ok(f);
	assert_int_equal(peek64(f, DATA), 0x400921fb54442d18);
}

SNIP(rep_movs, "rep movsl");
SNIP(rep_stos, "std\nrep stosb");
SNIP(repne_scas, "repne scasb");

static void run_rep(struct fix *f, unsigned vec)
{
	enum cpu_status st;
	uint64_t rip = f->v->rip;

	do {
		st = interp_step_raw(f->v);
	} while (st == CPU_OK && f->v->rip == rip);
	assert_int_equal(st, vec ? CPU_EXC : CPU_OK);
	if (vec) {
		assert_int_equal(f->v->exc.vector, vec);
		assert_int_equal(f->v->rip, rip);
	}
}

static void test_strings(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	user64(f);
	LOAD(f, CODE, rep_movs); /* 3 elements and a half fit */
	poke64(f, DATA, 0x2222222211111111);
	poke64(f, DATA + 8, 0x4444444433333333);
	v->gpr[R_RSI] = DATA;
	v->gpr[R_RDI] = HOLE - 14;
	v->gpr[R_RCX] = 100;
	run_rep(f, EXC_PF);
	assert_int_equal(v->gpr[R_RCX], 97);
	assert_int_equal(v->gpr[R_RSI], DATA + 12);
	assert_int_equal(v->gpr[R_RDI], HOLE - 2);
	assert_int_equal(v->exc.cr2, HOLE);
	assert_int_equal(peek32(f, HOLE - 6), 0x33333333);
	/* more than a page, upwards */
	v->gpr[R_RSI] = DATA;
	v->gpr[R_RDI] = DATA + 0x10000;
	v->gpr[R_RCX] = 0x4001;
	for (unsigned k = 0; k <= 0x4000; k++)
		poke32(f, DATA + 4 * k, k * 7);
	v->gpr[R_RDI] = DATA + 0x20000 + 3;
	run_rep(f, 0);
	assert_int_equal(v->gpr[R_RCX], 0);
	for (unsigned k = 0; k <= 0x4000; k++)
		assert_int_equal(peek32(f, DATA + 0x20003 + 4 * k), k * 7);
	/* downwards */
	v->rip = CODE;
	LOAD(f, CODE, rep_stos);
	v->gpr[R_RAX] = 0x5a;
	v->gpr[R_RDI] = DATA + 0x1800;
	v->gpr[R_RCX] = 0x1900;
	ok(f);
	run_rep(f, 0);
	assert_int_equal(v->gpr[R_RDI], DATA - 0x100);
	assert_int_equal(peek64(f, DATA - 0xff), 0x5a5a5a5a5a5a5a5a);
	assert_int_equal(peek64(f, DATA - 0x107) >> 56, 0);
	v->rflags &= ~FL_DF;
	v->rip = CODE;
	LOAD(f, CODE, repne_scas);
	poke(f, DATA + 0x1000, "haystack!", 9);
	v->gpr[R_RDI] = DATA + 0x1000;
	v->gpr[R_RAX] = 't';
	v->gpr[R_RCX] = ~0ull;
	run_rep(f, 0);
	assert_int_equal(v->gpr[R_RDI], DATA + 0x1005);
	assert_int_equal(v->rflags & FL_ZF, FL_ZF);
	assert_int_equal(v->rip, CODE + 2);
	/* rCX = 0 touches nothing, flags stay */
	v->rip = CODE;
	v->gpr[R_RCX] = 0;
	v->gpr[R_RDI] = HOLE;
	ok(f);
	assert_int_equal(v->rflags & FL_ZF, FL_ZF);
}

/* ---- division ---- */
static void test_divide(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	static const struct {
		uint64_t hi, lo, d;
		bool sign, de;
	} t[] = {
		{0, 5, 0, false, true},
		{0, 5, 0, true, true},
		{1, 0, 1, false, true},
		{1, 0, 2, false, false},
		{6, ~0ull, 7, false, false},
		{7, 0, 7, false, true},
		{~0ull, 1ull << 63, ~0ull, true, true},
		{~0ull, 1ull << 63, 1, true, false},
		{0, 1ull << 63, 1, true, true},
		{0, 1ull << 63, ~0ull, true, false},
		{1ull << 63, 0, ~0ull, true, true},
		{1ull << 63, 0, 1, true, true},
		{~0ull, 0, 2, true, false},
		{0x3fffffffffffffff, ~0ull, 1ull << 63, true, false},
		{0x4000000000000000, 0, 1ull << 63, true, false},
		{0x4000000000000000, 1ull << 63, 1ull << 63, true, true},
	};

	user64(f);
	for (unsigned k = 0; k < ARRAY_SIZE(t); k++) {
		AT(f, 0x48, 0xf7, t[k].sign ? 0xfb : 0xf3);
		v->gpr[R_RDX] = t[k].hi;
		v->gpr[R_RAX] = t[k].lo;
		v->gpr[R_RBX] = t[k].d;
		if (t[k].de)
			faults(f, EXC_DE);
		else
			ok(f);
	}
	for (unsigned d = 0; d < 256; d++) /* all 8-bit signed ones */
		for (int n = -32768; n < 32768; n += 7) {
			int sd = (int8_t)d, q = sd ? n / sd : 0;

			AT(f, 0xf6, 0xfb);
			v->gpr[R_RAX] = (uint16_t)n;
			v->gpr[R_RBX] = d;
			if (!sd || q < -128 || q > 127) {
				faults(f, EXC_DE);
				continue;
			}
			ok(f);
			assert_int_equal(v->gpr[R_RAX],
					 (uint8_t)q | (uint8_t)(n % sd) << 8);
		}
}

/* ---- decoding ---- */
static void test_undefined(void **state)
{
	struct fix *f = *state;

	user64(f);
	AT(f, 0x0f, 0x0b); /* ud2 */
	faults(f, EXC_UD);
	AT(f, 0xf0, 0x89, 0x03); /* lock mov */
	faults(f, EXC_UD);
	AT(f, 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1); /* vaddps zmm */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x01, 0xc1); /* vmcall */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x01, 0xc8); /* monitor */
	faults(f, EXC_UD);
	AT(f, 0xc7, 0xf8, 0, 0, 0, 0); /* xbegin */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x01, 0xd6); /* xtest */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x01, 0xee); /* rdpkru */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x01, 0xca); /* clac */
	faults(f, EXC_UD);
	AT(f, 0x0f, 0x0f, 0xc1, 0x9e); /* 3DNow! pfadd */
	faults(f, EXC_UD);
	AT(f, 0x06); /* push es */
	faults(f, EXC_UD);
	AT(f, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	   0x66, 0x66, 0x66, 0x66, 0x90);
	faults(f, EXC_GP); /* too long */
	AT(f, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	   0x66, 0x66, 0x66, 0x90);
	ok(f);			       /* 15 bytes are not */
	AT(f, 0xf3, 0x0f, 0x1e, 0xc8); /* rdsspd eax: a NOP */
	ok(f);
	AT(f, 0xf3, 0x0f, 0x1e, 0xfa); /* endbr64 */
	ok(f);
}

static void test_fetch_faults(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	static const uint8_t mov[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};

	user64(f);
	poke(f, HOLE - 4, mov, 4);
	v->rip = HOLE - 4;
	faults_pf(f, HOLE, PF_U | PF_I);
	poke(f, HOLE - 4, "\x90\x90\x90\x90", 4);
	v->rip = HOLE - 4;
	oks(f, 4);
	faults_pf(f, HOLE, PF_U | PF_I);
	/* NX */
	map_page(f, DATA, DATA, PTE_P | PTE_W | PTE_U | PTE_NX);
	mem_flush(v);
	v->rip = DATA;
	faults_pf(f, DATA, PF_U | PF_I | PF_P);
	v->rip = 0x10000; /* supervisor's */
	faults_pf(f, 0x10000, PF_U | PF_I | PF_P);
	/* an instruction that lies in two pages with different frames */
	map_page(f, HOLE, 0x780000, PTE_P | PTE_W | PTE_U);
	mem_flush(v);
	poke(f, HOLE - 4, mov, 4);
	poke(f, 0x780000, mov + 4, 6);
	v->rip = HOLE - 4;
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0x0807060504030201);
	poke(f, 0x780000, "\xff", 1);
	v->rip = HOLE - 4;
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0x0807060504ff0201);
}

/* The next instruction is rewritten by this one; and the page moves. */
static void test_self_modifying(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	/* mov byte [rip+1], 2 ; mov eax, 1 */
	static const uint8_t code[] = {0xc6, 0x05, 1, 0, 0, 0,
				       2,    0xb8, 1, 0, 0, 0};

	user64(f);
	for (int k = 0; k < 3; k++) {
		poke(f, CODE, code, sizeof(code));
		v->rip = CODE;
		oks(f, 2);
		assert_int_equal(v->gpr[R_RAX], 2);
	}
	poke(f, 0x680000, (const uint8_t[]){0xb8, 9, 0, 0, 0}, 5);
	map_page(f, CODE, 0x680000, PTE_P | PTE_U);
	mem_flush(v);
	v->rip = CODE;
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 9);
}

/* ---- traps, shadows ---- */
SNIP(trap_code, "nop\npushfq\npopq %rax\nmovl %eax, %ss\nnop\nsti\nnop");

static void test_single_step(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	user64(f);
	LOAD(f, CODE, trap_code);
	v->rflags |= FL_TF | FL_RF;
	assert_int_equal(interp_step_raw(v), CPU_EXC);
	assert_int_equal(v->exc.vector, EXC_DB);
	assert_int_equal(v->exc.dr6, 1 << 14);
	assert_int_equal(v->rip, CODE + 1);
	assert_int_equal(v->rflags & FL_RF, 0);
	v->exc.pending = false;
	assert_int_equal(interp_step_raw(v), CPU_EXC); /* pushf */
	assert_int_equal(interp_step_raw(v), CPU_EXC);
	assert_int_equal(v->gpr[R_RAX] & FL_TF, FL_TF);
	v->gpr[R_RAX] = S_UDATA;
	ok(f);					       /* mov ss: no trap, */
	assert_int_equal(interp_step_raw(v), CPU_EXC); /* but after nop */
	assert_int_equal(v->rip, CODE + 6);
	/* a fault keeps RF and gives no trap */
	v->rflags |= FL_RF;
	AT(f, 0x0f, 0x0b);
	faults(f, EXC_UD);
}

static void test_irq_shadow(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	AT(f, 0xfb, 0x90, 0x8e, 0xd0, 0x90); /* sti nop mov ss,ax nop */
	v->gpr[R_RAX] = S_DATA;
	ok(f);
	assert_true(v->rflags & FL_IF);
	assert_false(cpu_can_take_irq(v));
	ok(f);
	assert_true(cpu_can_take_irq(v));
	ok(f);
	assert_false(cpu_can_take_irq(v));
	ok(f);
	assert_true(cpu_can_take_irq(v));
}

/* ---- the engine's loop ---- */
static int pending_vector;

static int peek_irq(void *ctx)
{
	return pending_vector;
}

static const struct irq_source_ops irq_ops = {.peek = peek_irq};

static void test_run_loop(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	v->irq = &irq_ops;
	pending_vector = -1;
	AT(f, 0xfb, 0x90, 0xf4, 0xfa, 0x90, 0xfb, 0x90, 0x90, 0xf4);
	assert_int_equal(engine_interp.run(v), EXIT_HLT);
	assert_int_equal(v->rip, CODE + 3);
	v->halted = 0;
	pending_vector = 0x30;
	/* cli nop sti nop: after the shadow, before the next nop */
	assert_int_equal(engine_interp.run(v), EXIT_KICK);
	assert_int_equal(v->rip, CODE + 7);
	atomic_fetch_or(&v->requests, VCPU_REQ_WORK);
	assert_int_equal(engine_interp.run(v), EXIT_KICK);
	assert_int_equal(v->rip, CODE + 7);
	atomic_store(&v->requests, 0);
	assert_int_equal(engine_interp.run(v), EXIT_HLT);
	/* an exception is delivered by the engine itself */
	v->halted = 0;
	poke(f, HANDLER + 16 * EXC_UD, "\xf4", 1);
	AT(f, 0x0f, 0x0b);
	assert_int_equal(engine_interp.run(v), EXIT_HLT);
	assert_int_equal(v->rip, HANDLER + 16 * EXC_UD + 1);
	assert_int_equal(peek64(f, v->gpr[R_RSP]), CODE);
}

static void test_lockstep(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	struct mem_log log = {0};
	static const uint8_t refused[][4] = {
		{0x0f, 0x31},	    {0xec}, {0xee},
		{0x0f, 0xc7, 0xf0}, {0x6c}, {0x0f, 0x32},
		{0x0f, 0x22, 0xd8}, {0xf4},
	};

	long_mode(f);
	v->mem_log = &log;
	for (unsigned k = 0; k < ARRAY_SIZE(refused); k++) {
		uint64_t gpr[16];

		AT(f, refused[k][0], refused[k][1], refused[k][2],
		   refused[k][3]);
		memcpy(gpr, v->gpr, sizeof(gpr));
		log.side_effect = false;
		assert_int_equal(interp_step_raw(v), CPU_EXIT);
		assert_true(log.side_effect);
		assert_int_equal(v->rip, CODE);
		assert_memory_equal(gpr, v->gpr, sizeof(gpr));
	}
	/* a store goes to the log */
	AT(f, 0x48, 0x89, 0x03);
	v->gpr[R_RBX] = DATA;
	v->gpr[R_RAX] = 42;
	ok(f);
	/* behind the walks' accessed bits */
	assert_true(log.n > 0);
	assert_int_equal(log.e[log.n - 1].gpa, DATA);
	assert_int_equal(log.e[log.n - 1].len, 8);
	assert_int_equal(peek64(f, DATA), 0);
	v->mem_log = NULL;
}

/* ---- vector units ---- */
static void put_xmm(struct fix *f, unsigned n, const float x[4])
{
	memcpy((uint8_t *)f->v->fpu + 160 + 16 * n, x, 16);
}

static uint32_t mxcsr(struct fix *f)
{
	uint32_t m;

	memcpy(&m, (uint8_t *)f->v->fpu + 24, 4);
	return m;
}

static void set_mxcsr(struct fix *f, uint32_t m)
{
	memcpy((uint8_t *)f->v->fpu + 24, &m, 4);
}

static void test_simd_exceptions(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint8_t before[832];
	const float a[4] = {1, 1, 3, 1}, z[4] = {1, 0, 7, 1};

	user64(f);
	AT(f, 0x0f, 0x5e, 0xc1); /* divps xmm0, xmm1 */
	put_xmm(f, 0, a);
	put_xmm(f, 1, z);
	ok(f); /* masked: flags only */
	assert_int_equal(mxcsr(f), 0x1f80 | 4 | 32);
	put_xmm(f, 0, a);
	set_mxcsr(f, 0x1d80); /* ZM = 0 */
	v->rip = CODE;
	memcpy(before, v->fpu, 832);
	faults(f, EXC_XM);
	assert_int_equal(mxcsr(f), 0x1d80 | 4); /* no PE: nothing computed */
	assert_memory_equal(before + 160, (uint8_t *)v->fpu + 160, 256);
	set_mxcsr(f, 0x0f80); /* PM = 0 */
	faults(f, EXC_XM);
	assert_int_equal(mxcsr(f), 0x0f80 | 4 | 32);
	v->cr4 &= ~CR4_OSXMMEXCPT;
	faults(f, EXC_UD);
	/* a conversion that stores nothing into its GPR */
	v->cr4 |= CR4_OSXMMEXCPT;
	AT(f, 0xf3, 0x0f, 0x2d, 0xc1); /* cvtss2si eax, xmm1 */
	put_xmm(f, 1, (const float[4]){1e30f});
	set_mxcsr(f, 0x1f00); /* IM = 0 */
	v->gpr[R_RAX] = 77;
	faults(f, EXC_XM);
	assert_int_equal(mxcsr(f), 0x1f00 | 1);
}

static void test_x87_exceptions(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint8_t *fpu = v->fpu;

	user64(f);
	/* fldz fld1 fdiv st0,st1 ; fnstsw ax ; fld1 ; fnclex */
	AT(f, 0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0xdf, 0xe0, 0xd9, 0xe8, 0xdb,
	   0xe2, 0xd9, 0xe8);
	fpu[0] = 0x7b; /* ZM = 0 */
	oks(f, 3);
	assert_int_equal(fpu[2] & 0x84, 0x84); /* ZE, ES */
	ok(f);				       /* does not wait */
	assert_int_equal(v->gpr[R_RAX] & 0x84, 0x84);
	faults(f, EXC_MF);
	v->rip += 2;
	ok(f); /* fnclex */
	ok(f);
	/* FIP in the stored environment is ours */
	v->rip = CODE;
	AT(f, 0xd8, 0xf1, 0xd9, 0x33); /* fdiv st0,st1; fnstenv [rbx] */
	memset(fpu, 0, 512);
	fpu[0] = 0x7b, fpu[1] = 3, fpu[24] = 0x80, fpu[25] = 0x1f;
	AT(f, 0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0xd9, 0x33);
	v->gpr[R_RBX] = DATA;
	oks(f, 4);
	assert_int_equal(peek32(f, DATA + 12), CODE + 4);
	assert_int_equal(peek16(f, DATA + 4) & 0x84, 0x84);
	assert_int_equal(fpu[0] & 0x3f, 0x3f); /* FNSTENV masks all */
}

static void test_unit_checks(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	static const struct {
		uint8_t b[6];
		uint8_t em, ts, no_osfxsr, no_osxsave; /* vectors; 0: runs */
	} t[] = {
		{{0xd9, 0xe8}, EXC_NM, EXC_NM, 0, 0},	    /* fld1 */
		{{0x9b}, 0, EXC_NM, 0, 0},		    /* fwait (MP) */
		{{0x0f, 0xef, 0xc0}, EXC_UD, EXC_NM, 0, 0}, /* pxor mm */
		{{0x66, 0x0f, 0xef, 0xc0}, EXC_UD, EXC_NM, EXC_UD, 0},
		{{0x0f, 0x2a, 0xc1}, EXC_UD, EXC_NM, EXC_UD, 0},  /* cvtpi2ps */
		{{0xc5, 0xf9, 0xef, 0xc0}, 0, EXC_NM, 0, EXC_UD}, /* vpxor */
		{{0xc5, 0xf8, 0x77}, 0, EXC_NM, 0, EXC_UD}, /* vzeroupper */
		{{0x0f, 0xae, 0x13}, EXC_UD, EXC_NM, EXC_UD, 0}, /* ldmxcsr */
		{{0x0f, 0xae, 0x03}, EXC_NM, EXC_NM, 0, 0},	 /* fxsave */
		{{0x0f, 0xae, 0x23}, 0, EXC_NM, 0, EXC_UD},	 /* xsave */
		{{0xf3, 0x0f, 0xb8, 0xc1}, 0, 0, 0, 0},		 /* popcnt */
		{{0x0f, 0x77}, EXC_UD, EXC_NM, 0, 0},		 /* emms */
	};

	user64(f);
	v->gpr[R_RBX] = DATA;
	v->gpr[R_RAX] = 7;
	for (unsigned k = 0; k < ARRAY_SIZE(t); k++) {
		uint64_t cr0 = v->cr0, cr4 = v->cr4;

		for (unsigned how = 0; how < 4; how++) {
			uint8_t want = how == 0	  ? t[k].em
				       : how == 1 ? t[k].ts
				       : how == 2 ? t[k].no_osfxsr
						  : t[k].no_osxsave;

			v->cr0 = cr0 | (how == 0   ? CR0_EM
					: how == 1 ? CR0_TS | CR0_MP
						   : 0);
			v->cr4 = cr4 & ~(how == 2   ? CR4_OSFXSR
					 : how == 3 ? CR4_OSXSAVE
						    : 0);
			poke64(f, DATA, 0x1f80);
			at(f, t[k].b, 6);
			if (want)
				faults(f, want);
			else
				ok(f);
			v->cr0 = cr0, v->cr4 = cr4;
		}
	}
	v->xcr0 = 3;
	AT(f, 0xc5, 0xf9, 0xef, 0xc0);
	faults(f, EXC_UD);
}

static void test_alignment(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	user64(f);
	v->gpr[R_RBX] = DATA + 8;
	AT(f, 0x0f, 0x28, 0x03); /* movaps xmm0, [rbx] */
	faults(f, EXC_GP);
	AT(f, 0x0f, 0x10, 0x03); /* movups */
	ok(f);
	AT(f, 0x0f, 0x58, 0x03); /* addps */
	faults(f, EXC_GP);
	AT(f, 0xc5, 0xf8, 0x58, 0x03); /* vaddps xmm: any */
	ok(f);
	v->gpr[R_RBX] = DATA + 16;
	AT(f, 0xc5, 0xfc, 0x28, 0x03); /* vmovaps ymm wants 32 */
	faults(f, EXC_GP);
	AT(f, 0x66, 0x0f, 0x3a, 0x63, 0x43, 1, 0); /* pcmpistri: any */
	ok(f);
	v->gpr[R_RBX] = DATA + 16;
	AT(f, 0x0f, 0xae, 0x23); /* xsave wants 64 */
	faults(f, EXC_GP);
}

/* ---- state save and restore ---- */
SNIP(save_code, "xsave64 (%rbx)\nxrstor64 (%rbx)\nxsavec64 (%rbx)\n"
		"fxsave64 (%rbx)\nfxrstor64 (%rbx)");

static void test_xsave(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint8_t *fpu = v->fpu, img[832], mem[832];

	user64(f);
	LOAD(f, CODE, save_code);
	for (unsigned k = 0; k < 128; k++)
		if (k % 16 < 10)
			fpu[32 + k] = k * 3;
	for (unsigned k = 0; k < 256; k++)
		fpu[160 + k] = k, fpu[576 + k] = ~k;
	fpu[512] = 7;
	memcpy(img, fpu, 832);
	v->gpr[R_RBX] = DATA;
	memset(mem, 0xee, sizeof(mem));
	poke(f, DATA, mem, 832);
	/* only SSE: the rest of memory stays */
	v->gpr[R_RAX] = 2;
	poke64(f, DATA + 512, 5);
	ok(f);
	p2m_copy_out(f->vm.p2m, DATA, mem, 832);
	assert_int_equal(mem[0], 0xee);
	assert_int_equal(mem[576], 0xee);
	assert_int_equal(mem[416], 0xee);
	assert_memory_equal(mem + 160, img + 160, 256);
	assert_int_equal(mem[512], 7); /* 5 from before, and 2 */
	/* all, and back into a cleared image */
	v->rip = CODE;
	v->gpr[R_RAX] = 7;
	v->gpr[R_RDX] = ~0ull;
	ok(f);
	memset(mem, 0, 64);
	poke(f, DATA + 512, mem, 64);
	poke64(f, DATA + 512, 7);
	memset(fpu + 32, 0, 384);
	memset(fpu + 576, 0, 256);
	ok(f);
	assert_memory_equal(fpu + 32, img + 32, 384);
	assert_memory_equal(fpu + 576, img + 576, 256);
	/* XSTATE_BV bit clear: AVX goes to its initial state */
	poke64(f, DATA + 512, 3);
	v->rip = CODE + 4;
	ok(f);
	for (unsigned k = 0; k < 256; k++)
		assert_int_equal(fpu[576 + k], 0);
	assert_memory_equal(fpu + 160, img + 160, 256);
	/* headers that are refused */
	poke64(f, DATA + 512, 8 + 7);
	v->rip = CODE + 4;
	faults(f, EXC_GP);
	poke64(f, DATA + 512, 7);
	poke64(f, DATA + 520, 1);
	faults(f, EXC_GP);
	poke64(f, DATA + 520, 0);
	poke32(f, DATA + 24, 0x80001f80);
	faults(f, EXC_GP);
	/* XSAVEC, and XRSTOR of what it made */
	memcpy(fpu, img, 832);
	v->rip = CODE + 8;
	ok(f);
	assert_int_equal(peek64(f, DATA + 520), 7 | 1ull << 63);
	memset(fpu + 160, 0, 256);
	v->rip = CODE + 4;
	ok(f);
	assert_memory_equal(fpu + 160, img + 160, 256);
	/* FXSAVE, FXRSTOR: no AVX */
	v->rip = CODE + 12;
	memset(fpu + 576, 0x11, 256);
	ok(f);
	memset(fpu + 160, 0, 256);
	ok(f);
	assert_memory_equal(fpu + 160, img + 160, 256);
	assert_int_equal(fpu[576], 0x11);
	poke32(f, DATA + 24, 0x10000);
	v->rip -= 4;
	faults(f, EXC_GP);
}

static void test_masked_memory(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint8_t *fpu = v->fpu;
	uint32_t *x0 = (uint32_t *)(fpu + 160), *x1 = x0 + 4, *x2 = x0 + 8;

	user64(f);
	for (unsigned k = 0; k < 16; k++)
		poke32(f, HOLE - 64 + 4 * k, 100 + k);
	/* vmaskmovps xmm0, xmm1, [rbx]: the masked half is not there */
	AT(f, 0xc4, 0xe2, 0x71, 0x2c, 0x03);
	v->gpr[R_RBX] = HOLE - 8;
	x1[0] = x1[1] = 0x80000000, x1[2] = x1[3] = 0x7fffffff;
	ok(f);
	assert_int_equal(x0[0], 114);
	assert_int_equal(x0[1], 115);
	assert_int_equal(x0[2], 0);
	x1[2] = 0x80000000;
	v->rip = CODE;
	faults_pf(f, HOLE, PF_U);
	/* vmaskmovps [rbx], xmm1, xmm0: nothing stored when one faults */
	AT(f, 0xc4, 0xe2, 0x71, 0x2e, 0x03);
	faults_pf(f, HOLE, PF_U | PF_W);
	x1[2] = 0;
	x0[0] = 55;
	ok(f);
	assert_int_equal(peek32(f, HOLE - 8), 55);
	/* maskmovdqu xmm0, xmm1 -> [rdi] */
	AT(f, 0x66, 0x0f, 0xf7, 0xc1);
	memset(x1, 0, 16);
	((uint8_t *)x1)[3] = 0x80;
	((uint8_t *)x0)[3] = 0xab;
	v->gpr[R_RDI] = HOLE - 4;
	ok(f);
	assert_int_equal(peek32(f, HOLE - 4), 115 | 0xabu << 24);
	((uint8_t *)x1)[4] = 0x80;
	v->rip = CODE;
	faults_pf(f, HOLE, PF_U | PF_W);
	/* vpgatherdd xmm0, [rbx+xmm2*4], xmm1: faults at the third */
	AT(f, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x93);
	v->gpr[R_RBX] = HOLE - 64;
	x2[0] = 1, x2[1] = -1u + 3, x2[2] = 16, x2[3] = 5;
	x1[0] = x1[1] = x1[2] = x1[3] = ~0u;
	memset(x0, 0, 16);
	assert_int_equal(interp_step_raw(v), CPU_EXC);
	assert_int_equal(v->exc.cr2, HOLE);
	assert_int_equal(x0[0], 101);
	assert_int_equal(x0[1], 102);
	assert_int_equal(x1[1], 0);
	assert_int_equal(x1[2], ~0u);
	x2[2] = 3;
	ok(f); /* goes on where it was */
	assert_int_equal(x0[2], 103);
	assert_int_equal(x0[3], 105);
	assert_int_equal(x1[3], 0);
	/* vpgatherqd xmm0, [rbx+ymm2], xmm1 fills 4, vgatherqpd ymm */
	AT(f, 0xc4, 0xe2, 0xf5, 0x91, 0x04, 0x13); /* vpgatherqq ymm0 */
	memset(fpu + 576, 0xff, 64);
	memset(x1, 0xff, 16);
	((uint64_t *)x2)[0] = 0, ((uint64_t *)x2)[1] = 8;
	((uint64_t *)(fpu + 576 + 32))[0] = 16;
	((uint64_t *)(fpu + 576 + 32))[1] = 24;
	ok(f);
	assert_int_equal(((uint32_t *)(fpu + 576))[0], 104);
	assert_int_equal(((uint32_t *)(fpu + 576))[2], 106);
}

/* ---- 32-bit code ---- */
static void prot(struct fix *f)
{
	prot_mode(f);
	memset(f->v->gpr, 0, sizeof(f->v->gpr));
	f->v->gpr[R_RSP] = STACK;
	f->v->rip = CODE;
}

SNIP32(bcd, "movl $0x9978, %eax\nclc\naddb $0x35, %al\ndaa\naaa\nmovb $47, "
	    "%al\naam\naad\n");
SNIP32(pusha32, "movl $1, %eax\nmovl $2, %ecx\nmovl $8, %edi\npushal\n"
		"movl 12(%esp), %ebx\npopal\npushaw\npopaw");
SNIP32(enter32, "enterl $16, $2\nleave\nenterw $4, $0\n");
SNIP32(les32, "lesl (%ebx), %eax\nboundl %ecx, 8(%ebx)");
SNIP32(jmp16, "data16 call 1f\n1: nop\n");
SNIP32(addr16, "movw %ax, (%bx,%si)\nloopw .\n");
SNIP32(sse32, "movd %eax, %xmm0\npaddd %xmm0, %xmm0\nmovd %xmm0, 4(%ebx)\n"
	      "pinsrw $3, 4(%ebx), %xmm0\nvmovd %xmm0, %ecx");

static void test_protected_32(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	prot(f);
	LOAD(f, CODE, bcd);
	oks(f, 3);
	assert_int_equal(v->gpr[R_RAX] & 0xff, 0xad);
	ok(f); /* 78 + 35 = 113 */
	assert_int_equal(v->gpr[R_RAX] & 0xff, 0x13);
	assert_int_equal(v->rflags & FL_CF, FL_CF);
	ok(f); /* aaa: AF is set by daa */
	assert_int_equal(v->gpr[R_RAX] & 0xffff, 0x9a09);
	oks(f, 2);
	assert_int_equal(v->gpr[R_RAX] & 0xffff, 0x0407);
	ok(f);
	assert_int_equal(v->gpr[R_RAX] & 0xffff, 47);

	prot(f);
	LOAD(f, CODE, pusha32);
	oks(f, 5);
	assert_int_equal(v->gpr[R_RBX], STACK); /* rsp before */
	assert_int_equal(v->gpr[R_RSP], STACK - 32);
	v->gpr[R_RDI] = 0;
	ok(f);
	assert_int_equal(v->gpr[R_RDI], 8);
	assert_int_equal(v->gpr[R_RSP], STACK);
	ok(f);
	assert_int_equal(v->gpr[R_RSP], STACK - 16);
	ok(f);
	assert_int_equal(v->gpr[R_RSP], STACK);

	prot(f);
	LOAD(f, CODE, enter32);
	v->gpr[R_RBP] = STACK + 0x100;
	poke32(f, STACK + 0xfc, 0xabcd);
	ok(f);
	assert_int_equal(v->gpr[R_RBP], STACK - 4);
	assert_int_equal(peek32(f, STACK - 8), 0xabcd);
	assert_int_equal(peek32(f, STACK - 12), STACK - 4);
	assert_int_equal(v->gpr[R_RSP], STACK - 12 - 16);
	ok(f);
	assert_int_equal(v->gpr[R_RBP], STACK + 0x100);
	assert_int_equal(v->gpr[R_RSP], STACK);
	ok(f);
	assert_int_equal(v->gpr[R_RSP], STACK - 6);

	prot(f);
	LOAD(f, CODE, les32);
	v->gpr[R_RBX] = DATA;
	poke32(f, DATA, 0x12345678);
	poke16(f, DATA + 4, S_RODATA);
	poke32(f, DATA + 8, -5);
	poke32(f, DATA + 12, 5);
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0x12345678);
	assert_int_equal(v->seg[SEG_ES].base, 0x1234);
	v->gpr[R_RCX] = (uint32_t)-5;
	ok(f);
	v->rip -= 4;
	v->gpr[R_RCX] = 6;
	v->rip = CODE + (les32_end - les32) - 3;
	faults(f, EXC_BR);

	prot(f); /* 16-bit operand: EIP is cut */
	LOAD(f, CODE, jmp16);
	ok(f);
	assert_int_equal(v->rip, (CODE + 4) & 0xffff);
	assert_int_equal(v->gpr[R_RSP], STACK - 2);

	prot(f);
	LOAD(f, CODE, addr16);
	v->gpr[R_RBX] = 0xdead5000;
	v->gpr[R_RSI] = 0xbeefc010;
	v->gpr[R_RAX] = 0x7788;
	ok(f);
	assert_int_equal(peek16(f, 0x1010), 0x7788);
	v->gpr[R_RCX] = 0x50001;
	ok(f);
	assert_int_equal(v->gpr[R_RCX], 0x50000);
	assert_int_equal(v->rip, CODE + (addr16_end - addr16));

	prot(f);
	v->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	v->xcr0 = 7;
	LOAD(f, CODE, sse32);
	v->gpr[R_RAX] = 0x11112222;
	v->gpr[R_RBX] = DATA;
	oks(f, 3);
	assert_int_equal(peek32(f, DATA + 4), 0x22224444);
	oks(f, 2);
	assert_int_equal(v->gpr[R_RCX], 0x22224444);
}

static void test_segment_limits(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	prot(f);
	v->seg[SEG_DS].limit = 0xfff;
	AT(f, 0x8b, 0x03); /* mov eax, [ebx] */
	v->gpr[R_RBX] = 0xffd;
	faults(f, EXC_GP);
	v->gpr[R_RBX] = 0xffc;
	ok(f);
	v->seg[SEG_SS].limit = STACK - 3; /* push would reach beyond */
	AT(f, 0x50);
	faults(f, EXC_SS);
	v->seg[SEG_CS].limit = CODE + 1;
	AT(f, 0x90, 0x90, 0x90);
	oks(f, 2);
	faults(f, EXC_GP);
	AT(f, 0xb8, 1, 2, 3, 4); /* runs over the limit */
	faults(f, EXC_GP);
	v->seg[SEG_CS].limit = ~0u;
	AT(f, 0xeb, 0x10);
	v->seg[SEG_CS].limit = CODE + 0x10;
	faults(f, EXC_GP);		  /* target */
	v->seg[SEG_DS] = seg_of(0, 0, 0); /* null */
	AT(f, 0x8b, 0x03);
	faults(f, EXC_GP);
}

/* ---- real mode ---- */
SNIP16(real1, "movw $0x1234, %ax\nmovw %ax, %ds\nmovb $5, (0x10)\n"
	      "pushw %ax\npopw %es\nmovl $0x11223344, %ebx\n"
	      "movl %ebx, %es:(%bp,%di)\n");
SNIP16(real2, "ljmp $0x2000, $0x0010");
SNIP16(real3, "movw $3, %cx\ncld\nrep movsw\nint $0x21");

static void real(struct fix *f)
{
	struct vcpu *v = f->v;

	for (unsigned s = 0; s < NR_SEGS; s++)
		v->seg[s] = (struct segment){.attr = s == SEG_CS ? 0x9b : 0x93,
					     .limit = 0xffff};
	v->cr0 = CR0_ET;
	v->cpl = 0;
	v->idtr = (struct dtable){.base = 0, .limit = 0x3ff};
	v->rflags = FL_R1;
	v->rip = 0x7c00;
	v->gpr[R_RSP] = 0x7000;
	mem_flush(v);
}

static void test_real_mode(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	real(f);
	LOAD(f, 0x7c00, real1);
	oks(f, 3);
	assert_int_equal(peek64(f, 0x12350) & 0xff, 5);
	ok(f);
	assert_int_equal(v->gpr[R_RSP], 0x6ffe);
	ok(f);
	assert_int_equal(v->seg[SEG_ES].base, 0x12340);
	ok(f);
	v->gpr[R_RBP] = 0xfff0;
	v->gpr[R_RDI] = 0x20; /* wraps to 0x10 */
	ok(f);
	assert_int_equal(peek32(f, 0x12350), 0x11223344);
	LOAD(f, 0x7c00, real2);
	v->rip = 0x7c00;
	ok(f);
	assert_int_equal(v->seg[SEG_CS].base, 0x20000);
	assert_int_equal(v->rip, 0x10);
	/* string with 16-bit registers, then INT through the vector table */
	real(f);
	LOAD(f, 0x7c00, real3);
	poke64(f, 0x8000, 0x6655443322110000);
	poke32(f, 4 * 0x21, 0x30000000 | 0x0123);
	v->gpr[R_RSI] = 0x70008002; /* upper halves stay */
	v->gpr[R_RDI] = 0x60009000;
	v->gpr[R_RCX] = 0x50000000;
	v->seg[SEG_DS].base = 0, v->seg[SEG_ES].base = 0;
	oks(f, 3);
	assert_int_equal(peek32(f, 0x9000), 0x44332211);
	assert_int_equal(v->gpr[R_RSI], 0x70008008);
	assert_int_equal(v->gpr[R_RCX], 0x50000000);
	ok(f);
	assert_int_equal(v->seg[SEG_CS].base, 0x30000);
	assert_int_equal(v->rip, 0x123);
	assert_int_equal(peek16(f, 0x7000 - 6), 0x7c00 + (real3_end - real3));
	/* the stack pointer wraps at 16 bits, IP too */
	real(f);
	v->gpr[R_RSP] = 0xffff0000;
	poke(f, 0xfffe, "\x50\x90", 2);
	v->rip = 0xfffe;
	v->gpr[R_RAX] = 0xbeef;
	ok(f);
	assert_int_equal(v->gpr[R_RSP], 0xfffffffe);
	assert_int_equal(peek16(f, 0xfffe), 0xbeef);
	AT(f, 0);
}

/* ---- small system instructions ---- */
static void test_system(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	static const uint8_t gp[][4] = {
		{0xf4},
		{0x0f, 0x32},
		{0x0f, 0x30},
		{0x0f, 0x20, 0xc0},
		{0x0f, 0x22, 0xd8},
		{0x0f, 0x06},
		{0x0f, 0x01, 0x38},
		{0x0f, 0x09},
		{0x0f, 0x01, 0xf8},
		{0x0f, 0x33},
		{0x0f, 0x00, 0xd8},
		{0x0f, 0x01, 0x13},
		{0xfa},
		{0xec},
	};

	user64(f);
	v->gpr[R_RBX] = DATA;
	v->tr.limit = 0x67; /* no I/O bitmap */
	for (unsigned k = 0; k < ARRAY_SIZE(gp); k++) {
		AT(f, gp[k][0], gp[k][1], gp[k][2], gp[k][3]);
		faults(f, EXC_GP);
	}
	v->cr4 |= CR4_TSD;
	AT(f, 0x0f, 0x31);
	faults(f, EXC_GP);
	v->cr4 &= ~CR4_TSD;
	v->tsc_aux = 0x77;
	AT(f, 0x0f, 0x01, 0xf9); /* rdtscp */
	v->gpr[R_RAX] = v->gpr[R_RDX] = ~0ull;
	ok(f);
	assert_int_equal(v->gpr[R_RCX], 0x77);
	assert_int_equal(v->gpr[R_RDX] >> 32, 0);
	AT(f, 0xf3, 0x48, 0x0f, 0xae, 0xd3); /* wrfsbase rbx */
	ok(f);
	assert_int_equal(v->seg[SEG_FS].base, DATA);
	poke64(f, DATA + 0x28, 0x1234567);
	AT(f, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0);
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0x1234567);
	v->gpr[R_RBX] = 1ull << 63;
	AT(f, 0xf3, 0x48, 0x0f, 0xae, 0xd3);
	faults(f, EXC_GP);
	v->cr4 &= ~CR4_FSGSBASE;
	AT(f, 0xf3, 0x48, 0x0f, 0xae, 0xc0);
	faults(f, EXC_UD);
	/* moffs64, and cmpxchg8b */
	AT(f, 0x48, 0xa1, 0, 0, 0x60, 0, 0, 0, 0, 0);
	poke64(f, DATA, 0x9988776655443322);
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0x9988776655443322);
	AT(f, 0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0, 1);
	faults(f, EXC_GP);
	/* a far pointer into nothing, INT n of DPL 0 */
	AT(f, 0xcd, 0x80);
	faults(f, EXC_GP);
	assert_int_equal(v->exc.error, 0x80 * 8 + 2);
	/* the full disp: rip relative */
	AT(f, 0x8b, 0x05, 0x00, 0xf0, 0x1f, 0x00);
	poke32(f, CODE + 6 + 0x1ff000, 0xcafe);
	ok(f);
	assert_int_equal(v->gpr[R_RAX], 0xcafe);
}

/* Bit strings reach as far as the bit number says. */
static void test_bit_strings(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	user64(f);
	v->gpr[R_RBX] = DATA;
	v->gpr[R_RCX] = (uint64_t)-1;
	AT(f, 0x48, 0x0f, 0xab, 0x0b); /* bts [rbx], rcx */
	ok(f);
	assert_int_equal(peek64(f, DATA - 8), 1ull << 63);
	v->gpr[R_RCX] = 0x7fff00000000 | 1000;
	AT(f, 0x0f, 0xab, 0x0b); /* 32 bits of it */
	ok(f);
	assert_int_equal(peek64(f, DATA + 120), 1ull << 40);
	v->gpr[R_RCX] = (HOLE - DATA) * 8;
	AT(f, 0x48, 0x0f, 0xa3, 0x0b); /* bt */
	faults_pf(f, HOLE, PF_U);
	AT(f, 0x48, 0x0f, 0xbb, 0x0b); /* btc */
	faults_pf(f, HOLE, PF_U | PF_W);
}

/* RDRAND, RDTSC and RDSEED of a decompressor with this seed. */
static void draw_three(struct fix *f, uint64_t seed, uint64_t got[3])
{
	struct vcpu *v = f->v;

	v->layout_seed = seed;
	AT(f, 0x48, 0x0f, 0xc7, 0xf0, 0x0f, 0x31); /* rdrand rax; rdtsc */
	ok(f);
	assert_true(v->rflags & FL_CF);
	got[0] = v->gpr[R_RAX];
	ok(f);
	got[1] = v->gpr[R_RDX] << 32 | v->gpr[R_RAX];
	AT(f, 0x48, 0x0f, 0xc7, 0xf8); /* rdseed rax */
	ok(f);
	got[2] = v->gpr[R_RAX];
}

/* The layout of a share group: equal seeds draw alike, until the kernel. */
static void test_layout(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t a[3], b[3], c[3], w;

	user64(f);
	v->cpl = 0;
	draw_three(f, 1, a);
	draw_three(f, 1, b);
	draw_three(f, 2, c);
	assert_memory_equal(a, b, sizeof(a));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_not_equal(a[i], c[i]);
		assert_int_not_equal(a[i], a[(i + 1) % 3]);
	}
	draw_three(f, 0, a);
	draw_three(f, 0, b);
	assert_int_not_equal(a[0], b[0]);
	assert_true(b[1] > a[1]); /* time */
	/* For good, with the first one outside of the decompressor. */
	v->layout_seed = 1;
	v->rip = 0xffffffff81000000;
	assert_false(cpu_layout_word(v, &w));
	v->rip = CODE;
	assert_false(cpu_layout_word(v, &w));
	v->layout_seed = 1;
	v->cpl = 3;
	assert_false(cpu_layout_word(v, &w));
	v->cpl = 0;
	assert_false(cpu_layout_word(v, &w));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_precise_faults), T(test_x87_store_fault),
		T(test_strings),	T(test_divide),
		T(test_undefined),	T(test_fetch_faults),
		T(test_self_modifying), T(test_single_step),
		T(test_irq_shadow),	T(test_run_loop),
		T(test_lockstep),	T(test_simd_exceptions),
		T(test_x87_exceptions), T(test_unit_checks),
		T(test_alignment),	T(test_xsave),
		T(test_masked_memory),	T(test_protected_32),
		T(test_segment_limits), T(test_real_mode),
		T(test_system),		T(test_bit_strings),
		T(test_layout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
