/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation cache under pressure: a guest whose code is a few times what
 * the TC holds, made of small blocks that lead to one another at random (near
 * and far, direct and indirect, by calls and returns, some across a page's
 * end), while some of its bytes are rewritten. The interpreter runs the same.
 * After each leg the registers must agree and the TC's books must add up.
 */
#include "tests/unit/bt_fixture.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define CODE	0x400000ul
#define STRIDE	48
#define BLOCKS	4000
#define END	(CODE + BLOCKS * STRIDE + 4096)
#define STEPS	6000
#define LEGS	40
#define RSP_TOP 0x380000ul

static uint64_t rng;

static uint32_t rnd(uint32_t n)
{
	rng = rng * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(rng >> 33) % n;
}

static struct side bt, itp;

static int teardown(void **state)
{
	side_drop(&bt);
	side_drop(&itp);
	return 0;
}

static void put(uint64_t at, const void *b, size_t n)
{
	poke(bt.f, at, b, n);
	poke(itp.f, at, b, n);
}

/* An address of a block: where it begins moves within its stride. */
static uint64_t block_at(unsigned k)
{
	return CODE + (uint64_t)k * STRIDE + k * 7 % 11;
}

static unsigned some_block(unsigned k)
{
	unsigned near = k + rnd(60);

	return rnd(3) && near < BLOCKS ? near : rnd(BLOCKS);
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
	return p + 4;
}

static void put_block(unsigned k)
{
	uint8_t buf[64], *p = buf;
	uint64_t at = block_at(k), to = block_at(some_block(k));
	uint64_t far = block_at(some_block(k));

#define OP(...)                                                                \
	do {                                                                   \
		static const uint8_t op[] = {__VA_ARGS__};                     \
		memcpy(p, op, sizeof(op));                                     \
		p += sizeof(op);                                               \
	} while (0)
#define REL(target) (p = put32(p, (target) - (at + (p - buf) + 4)))
	OP(0x48, 0x05); /* add rax, imm32 */
	p = put32(p, rnd(1 << 30));
	OP(0x48, 0xc1, 0xc0, 13); /* rol rax, 13 */
	OP(0xff, 0xc9);		  /* dec ecx */
	OP(0x0f, 0x84);		  /* jz */
	REL(END);
	OP(0xa8, 0x21); /* test al, 0x21 */
	OP(0x0f, 0x85); /* jnz */
	REL(far);
	switch (rnd(4)) {
	case 0:
		OP(0xe9); /* jmp */
		REL(to);
		break;
	case 1:
		OP(0xbb); /* mov ebx, imm32; jmp rbx */
		p = put32(p, to);
		OP(0xff, 0xe3);
		break;
	case 2:
		OP(0x68); /* push imm32; ret */
		p = put32(p, to);
		OP(0xc3);
		break;
	default:
		OP(0xe8); /* call */
		REL(to);
	}
	assert_true((size_t)(p - buf) <= STRIDE - 11);
	put(at, buf, p - buf);
}

static void run_side(struct side *s, uint64_t rip)
{
	struct vcpu *v = s->f->v;

	v->rip = rip;
	v->gpr[R_RAX] = rip;
	v->gpr[R_RCX] = STEPS;
	v->gpr[R_RSP] = RSP_TOP;
	run_to_halt(s->e, v);
}

static struct bt *begin(uint64_t tc, bool pair)
{
	struct vm_config cfg = {.tc_bytes = tc, .pair_all = pair};

	rng = tc;
	side_make(&bt, &engine_bt, &cfg);
	side_make(&itp, &engine_interp, &cfg);
	for (unsigned k = 0; k < BLOCKS; k++)
		put_block(k);
	put(END, "\xf4", 1);
	return (struct bt *)bt.f->v->bt;
}

static void run_leg(struct bt *b)
{
	uint64_t rip = block_at(rnd(BLOCKS));

	run_side(&bt, rip);
	run_side(&itp, rip);
	for (unsigned r = 0; r < 16; r++)
		assert_int_equal(bt.f->v->gpr[r], itp.f->v->gpr[r]);
	assert_int_equal(bt.f->v->rip, itp.f->v->rip);
	assert_int_equal(tc_audit(b), 0);
}

static void pressure(uint64_t tc, bool must_evict, bool pair)
{
	struct bt *b = begin(tc, pair);

	for (unsigned leg = 0; leg < LEGS; leg++) {
		run_leg(b);
		for (unsigned k = rnd(20); k; k--)
			put_block(rnd(BLOCKS));
		assert_int_equal(tc_audit(b), 0);
		if (leg % 16 == 15) {
			bt.e->trim(&bt.f->vm);
			assert_int_equal(tc_audit(b), 0);
			assert_int_equal(b->stats.units_live, 0);
		}
	}
	print_message("TC of %lu KiB: %lu units translated, %lu evictions of "
		      "%lu units, %lu live\n",
		      tc >> 10, b->stats.translations, b->stats.tc_evictions,
		      b->stats.tc_evicted, b->stats.units_live);
	assert_true(b->stats.tc_peak <= b->tc_size);
	if (must_evict)
		assert_true(b->stats.tc_evictions > 100);
	else
		assert_int_equal(b->stats.tc_evictions, 0);
}

static void test_128k(void **state)
{
	pressure(128 << 10, true, false);
}
static void test_300k(void **state)
{
	pressure(300 << 10, true, false);
}
static void test_enough(void **state)
{
	pressure(16 << 20, false, false);
}
static void test_128k_paired(void **state)
{
	pressure(128 << 10, true, true);
}
static void test_300k_paired(void **state)
{
	pressure(300 << 10, true, true);
}
static void test_enough_paired(void **state)
{
	pressure(16 << 20, false, true);
}

/* Does the host make a TC large when asked to? */
static bool host_can(void)
{
	int fd = memfd_create("probe", MFD_CLOEXEC);
	bool can = false;
	uint8_t *p;

	if (fd < 0 || ftruncate(fd, LARGE_PAGE_SIZE))
		return false;
	p = tc_large_map(fd, LARGE_PAGE_SIZE, PROT_READ | PROT_WRITE);
	if (p) {
		*p = 1;
		can = !madvise(p, LARGE_PAGE_SIZE, MADV_COLLAPSE);
		munmap(p, LARGE_PAGE_SIZE);
	}
	close(fd);
	return can;
}

/* A block of the TC becomes large under code that runs, and small again. */
static void test_large(void **state)
{
	struct bt *b = begin(16 << 20, false);
	struct tc_region *g = &b->region[0];
	bool can = host_can();

	for (unsigned round = 0; round < 2; round++) {
		run_leg(b);
		assert_int_equal(b->stats.tc_large, 0);
		/* As if so much had been translated. */
		g->used += LARGE_PAGE_SIZE / 2;
		b->stats.tc_used += LARGE_PAGE_SIZE / 2;
		for (unsigned leg = 0; leg < 10; leg++)
			run_leg(b);
		assert_int_equal(b->stats.tc_large, can ? LARGE_PAGE_SIZE : 0);
		bt.e->trim(&bt.f->vm);
		assert_int_equal(tc_audit(b), 0);
		assert_int_equal(b->stats.tc_large, 0);
	}
	if (!can)
		print_message("no MADV_COLLAPSE here\n");
}

/* Sizes that cannot be are refused. */
static void test_bounds(void **state)
{
	struct fix *f;

	fix_setup((void **)&f);
	vcpu_destroy(f->v);
	f->v = f->vm.vcpu = vcpu_create(&f->vm, 0, &f->vm.vcpu_memfd);
	f->vm.cfg = (struct vm_config){.tc_bytes = 64 << 10};
	assert_int_equal(engine_bt.init(&f->vm, f->v), -EINVAL);
	f->vm.cfg.tc_bytes = 2ull << 30;
	assert_int_equal(engine_bt.init(&f->vm, f->v), -EINVAL);
	fix_teardown((void **)&f);
}

int main(void)
{
#define T(name) cmocka_unit_test_teardown(name, teardown)
	const struct CMUnitTest tests[] = {
		T(test_128k),	     T(test_300k),
		T(test_enough),	     T(test_128k_paired),
		T(test_300k_paired), T(test_enough_paired),
		T(test_large),	     cmocka_unit_test(test_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
