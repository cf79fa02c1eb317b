/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native thunks by themselves: re-encoding (memory operand, general registers,
 * prefixes), state in and out, the cache.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/cpu/native.h"

static struct native *nat;
static uint8_t image[832] __attribute__((aligned(64)));
static struct native_regs regs;

static int setup(void **state)
{
	uint64_t bv = 7;

	memset(image, 0, sizeof(image));
	image[0] = 0x7f, image[1] = 3;
	image[24] = 0x80, image[25] = 0x1f;
	memcpy(image + 512, &bv, 8);
	memset(&regs, 0, sizeof(regs));
	regs.mxcsr = 0x1f80;
	return native_create(&nat);
}

static int teardown(void **state)
{
	native_destroy(nat);
	return 0;
}

static const struct native_thunk *get(enum x86_mode mode, enum native_kind kind,
				      const uint8_t *b, unsigned n)
{
	struct x86_insn x;
	bool full;

	assert_int_equal(x86_decode(mode, b, n, &x), X86_DECODE_OK);
	assert_int_equal(x.i.length, n);
	return native_get(nat, kind, &x, b, &full);
}
#define GET(mode, kind, ...)                                                   \
	get(mode, kind, (const uint8_t[]){__VA_ARGS__},                        \
	    sizeof((const uint8_t[]){__VA_ARGS__}))

static void run(const struct native_thunk *t)
{
	assert_non_null(t);
	asm volatile("stmxcsr %0" : "=m"(regs.host_mxcsr));
	t->code(&regs, image);
}

static uint32_t *xmm(unsigned n)
{
	return (uint32_t *)(image + 160 + 16 * n);
}
static uint32_t *ymm_hi(unsigned n)
{
	return (uint32_t *)(image + 576 + 16 * n);
}

static void test_registers(void **state)
{
	xmm(9)[0] = 5, xmm(9)[3] = 7;
	xmm(14)[0] = 10, xmm(14)[3] = 20;
	ymm_hi(9)[1] = 3, ymm_hi(14)[1] = 4;
	/* paddd xmm9, xmm14: the upper half stays */
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0x66, 0x45, 0x0f, 0xfe, 0xce));
	assert_int_equal(xmm(9)[0], 15);
	assert_int_equal(xmm(9)[3], 27);
	assert_int_equal(ymm_hi(9)[1], 3);
	/* vpaddd ymm9, ymm9, ymm14 */
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0xc4, 0x41, 0x35, 0xfe, 0xce));
	assert_int_equal(xmm(9)[0], 25);
	assert_int_equal(ymm_hi(9)[1], 7);
	/* vpaddd xmm9, ...: clears it */
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0xc4, 0x41, 0x31, 0xfe, 0xce));
	assert_int_equal(ymm_hi(9)[1], 0);
}

static void test_memory(void **state)
{
	uint32_t m[4] = {1, 2, 3, 4}, out[4];

	/* paddd xmm3, gs:[r12+r13*4+0x11223344] */
	memcpy(regs.mem, m, 16);
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0x65, 0x66, 0x43, 0x0f, 0xfe, 0x9c,
		0xac, 0x44, 0x33, 0x22, 0x11));
	assert_memory_equal(xmm(3), m, 16);
	/* movdqu [rip+..], xmm3 in 64, [bx+si] in 16 bits */
	memset(regs.mem, 0, 16);
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0xf3, 0x0f, 0x7f, 0x1d, 1, 2, 3,
		4));
	memcpy(out, regs.mem, 16);
	assert_memory_equal(out, m, 16);
	memset(regs.mem, 0, 16);
	run(GET(X86_MODE_PROT16, NATIVE_VEC, 0xf3, 0x0f, 0x7f, 0x18));
	assert_memory_equal(regs.mem, m, 16);
	/* vpermilps ymm15, [r8], 0x1b: immediate after the operand */
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0xc4, 0x43, 0x7d, 0x04, 0x38,
		0x1b));
	assert_int_equal(xmm(15)[0], 4);
	assert_int_equal(xmm(15)[3], 1);
	/* blendv with its register in the immediate */
	memset(xmm(5), 0x80, 16);
	memset(xmm(6), 0, 16);
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0xc4, 0xe3, 0x49, 0x4a, 0x08,
		0x50)); /* vblendvps xmm1, xmm6, [rax], xmm5 */
	assert_memory_equal(xmm(1), m, 16);
}

static void test_general_registers(void **state)
{
	const struct native_thunk *t;

	/* movq xmm2, r11 */
	t = GET(X86_MODE_LONG64, NATIVE_VEC, 0x66, 0x49, 0x0f, 0x6e, 0xd3);
	assert_true(t->gpr);
	regs.gpr = 0x1122334455667788;
	run(t);
	assert_int_equal(xmm(2)[1], 0x11223344);
	/* cvttsd2si rdi, [rdi] */
	*(double *)regs.mem = -12345.9;
	t = GET(X86_MODE_LONG64, NATIVE_VEC, 0xf2, 0x48, 0x0f, 0x2c, 0x3f);
	run(t);
	assert_int_equal((int64_t)regs.gpr, -12345);
	assert_int_equal(regs.mxcsr & 0x3f, 0x20);
	/* vmovd in 32-bit code with W set is still 32 bits */
	regs.gpr = 0xffffffff00000001;
	memset(xmm(0), 0xff, 16);
	run(GET(X86_MODE_PROT32, NATIVE_VEC, 0xc4, 0xe1, 0xf9, 0x6e, 0xc0));
	assert_int_equal(xmm(0)[0], 1);
	assert_int_equal(xmm(0)[1], 0);
	/* pcmpestri xmm0, xmm1, 0x0c (equal ordered): implicit registers */
	memcpy(xmm(0), "needle          ", 16);
	memcpy(xmm(1), "a needle inside ", 16);
	regs.rax = 6, regs.rdx = 16;
	t = GET(X86_MODE_LONG64, NATIVE_VEC, 0x66, 0x0f, 0x3a, 0x61, 0xc1,
		0x0c);
	assert_true(t->implicit && t->flags && !t->gpr);
	run(t);
	assert_int_equal(regs.rcx, 2);
	assert_int_equal(regs.rflags & 1, 1);
}

static void test_x87(void **state)
{
	double d = 2.0, r;

	memcpy(regs.mem, &d, 8);
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xdd, 0x03)); /* fld qword */
	run(GET(X86_MODE_PROT32, NATIVE_X87, 0xd9, 0xfa)); /* fsqrt */
	run(GET(X86_MODE_PROT16, NATIVE_X87, 0xdd, 0x1f)); /* fstp [bx] */
	memcpy(&r, regs.mem, 8);
	assert_true(r > 1.41421356237 && r < 1.41421356238);
	assert_int_equal(image[4], 0); /* empty again */
	/* an unmasked exception stays in the image, the host does not trap */
	image[0] = 0x7b; /* ZM = 0 */
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xd9, 0xee));
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xd9, 0xe8));
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xd8, 0xf1));
	assert_int_equal(image[2] & 0x84, 0x84);
	asm volatile("fld1\n\tfwait\n\tfstp %%st" ::: "st");
	/* fcmovb st0, st1 by the flags given */
	image[0] = 0x7f, image[2] = image[3] = 0, image[4] = 0;
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xd9, 0xe8));
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xd9, 0xee));
	regs.rflags = 0x202;
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xda, 0xc1));
	assert_int_equal(image[32 + 9], 0); /* still zero */
	regs.rflags = 0x203;
	run(GET(X86_MODE_LONG64, NATIVE_X87, 0xda, 0xc1));
	assert_int_equal(image[32 + 9], 0x3f);
}

static void test_cache(void **state)
{
	const struct native_thunk *a, *b;
	struct x86_insn x;
	uint8_t code[] = {0x66, 0x0f, 0x70, 0xc1, 0}; /* pshufd, any imm */
	uint8_t vex[] = {0xc4, 0xe3, 0x7d, 0x04, 0xc1, 0};
	bool full = false;
	unsigned made = 0;

	a = GET(X86_MODE_LONG64, NATIVE_VEC, 0x0f, 0x58, 0x43, 0x10);
	b = GET(X86_MODE_LONG64, NATIVE_VEC, 0x0f, 0x58, 0x83, 1, 2, 3, 4);
	assert_ptr_equal(a, b); /* the address does not matter */
	b = GET(X86_MODE_LONG64, NATIVE_VEC, 0x0f, 0x58, 0x4b, 0x10);
	assert_ptr_not_equal(a, b);
	/* fill it; after a clear it works again */
	for (unsigned k = 0; k < 256 * 64 && !full; k++) {
		uint8_t *c = k & 1 ? vex : code;

		c[k & 1 ? 4 : 3] = 0xc0 | (k >> 9 & 63);
		c[k & 1 ? 5 : 4] = k >> 1;
		x86_decode(X86_MODE_LONG64, c, k & 1 ? 6 : 5, &x);
		made += native_get(nat, NATIVE_VEC, &x, c, &full) != NULL;
	}
	assert_true(full);
	assert_true(made > 3000);
	native_clear(nat);
	xmm(1)[0] = 42;
	run(GET(X86_MODE_LONG64, NATIVE_VEC, 0x66, 0x0f, 0x70, 0xc1, 0));
	assert_int_equal(xmm(0)[3], 42);
}

/* What has no thunk says so. */
static void test_refused(void **state)
{
	assert_null(GET(X86_MODE_LONG64, NATIVE_VEC, 0xc4, 0xe2, 0x71, 0x90,
			0x04, 0x93)); /* a gather */
	assert_null(GET(X86_MODE_LONG64, NATIVE_VEC, 0x66, 0x0f, 0xf7,
			0xc1)); /* maskmovdqu: hidden memory */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_registers), T(test_memory), T(test_general_registers),
		T(test_x87),	   T(test_cache),  T(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
