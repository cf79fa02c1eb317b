/* SPDX-License-Identifier: Apache-2.0 */
/* The CPUID model: leaves agree with each other, with cpu_has() and with what
 * the control registers accept. */
#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#include "tests/unit/sys_fixture.h"
#include "vmm/cpu/xstate.h"

static struct cpuid_regs id(struct fix *f, uint32_t leaf, uint32_t sub)
{
	struct cpuid_regs r;

	cpu_cpuid(f->v, leaf, sub, &r);
	return r;
}

static void model(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs r = id(f, 0, 0);
	char s[13] = {0};

	memcpy(s, &r.ebx, 4);
	memcpy(s + 4, &r.edx, 4);
	memcpy(s + 8, &r.ecx, 4);
	assert_string_equal(s, "GenuineIntel");
	assert_int_equal(r.eax, 0x16);
	r = id(f, 1, 0);
	/* family 6, model 143, stepping 8, as Linux adds them up */
	assert_int_equal(r.eax >> 8 & 15, 6);
	assert_int_equal((r.eax >> 4 & 15) + (r.eax >> 12 & 0xf0), 143);
	assert_int_equal(r.eax & 15, 8);
	assert_int_equal(r.eax, f->v->gpr[R_RDX]); /* RDX after reset */
	assert_int_equal(r.ebx >> 8 & 0xff, 8);
	assert_true(r.ecx >> 31);
	r = id(f, 0x40000000, 0);
	memcpy(s, &r.ebx, 12);
	assert_string_equal(s, "KVMKVMKVM");
	assert_int_equal(r.eax, 0x40000010);
	assert_int_equal(id(f, 0x40000001, 0).eax, 1 << 1 | 1 << 3 | 1 << 24);
	assert_int_equal(id(f, 0x40000002, 0).eax, 0);
	assert_int_equal(id(f, 0x80000000, 0).eax, 0x80000008);
	assert_int_equal(id(f, 0x80000008, 0).eax, 48 << 8 | MMU_PHYS_BITS);
	/* beyond the end: the highest basic leaf */
	assert_int_equal(id(f, 0x1f, 0).eax, id(f, 0x16, 0).eax);
	assert_int_equal(id(f, 0x80000009, 0).eax, id(f, 0x16, 0).eax);
	assert_int_equal(id(f, 0xa, 0).eax, 0); /* no PMU */
	assert_int_equal(id(f, 5, 0).eax, 0);	/* no MONITOR */
}

static void never_shown(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs r1 = id(f, 1, 0), r7 = id(f, 7, 0);

	assert_false(r1.ecx & (1u << 3 | 1u << 5));   /* MONITOR, VMX */
	assert_false(r1.edx & (1u << 28));	      /* HTT: one thread */
	assert_false(r7.ebx & (1u << 26 | 1u << 27)); /* AVX512PF, ER */
	assert_false(r7.ebx & (1u << 4 | 1u << 11 | 1u << 20 | 1u << 14));
	assert_false(r7.ecx & (1u << 3 | 1u << 7 | 1u << 16));
	assert_false(r7.edx & (7u << 22 | 1u << 20)); /* AMX, FP16, IBT */
	assert_false(r7.edx & (1u << 2 | 1u << 3 | 1u << 8)); /* AVX512_* */
	assert_int_equal(r7.eax, 2);
	assert_int_equal(id(f, 7, 1).eax | id(f, 7, 1).edx, 0);
	assert_int_equal(id(f, 7, 2).edx, 1 << 4); /* BHI_CTRL */
	assert_int_equal(id(f, 7, 3).edx, 0);
	assert_false(id(f, 0xd, 1).eax & ~2u); /* XSAVEC alone */
	for (unsigned i = 0; i < FEAT_NR; i++)
		if (i == FEAT_SMAP || i == FEAT_MONITOR || i == FEAT_XSAVEOPT)
			assert_false(cpu_has(f->v, i));
}

/* What runs on the host is shown only if the host has it. */
static void masked_by_host(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs g, h;
	/* Sardine's own, whatever the host has */
	const uint32_t ours1 = 1u << 17 | 1u << 21 | 1u << 24 | 1u << 31,
		       ours7b = 1u << 1 | 1u << 7 | 1u << 10,
		       ours7c = 1u << 2 | 1u << 22;

	g = id(f, 1, 0);
	__cpuid_count(1, 0, h.eax, h.ebx, h.ecx, h.edx);
	assert_int_equal(g.ecx & ~h.ecx & ~ours1, 0);
	g = id(f, 7, 0);
	__cpuid_count(7, 0, h.eax, h.ebx, h.ecx, h.edx);
	assert_int_equal(g.ebx & ~h.ebx & ~ours7b, 0);
	assert_int_equal(g.ecx & ~h.ecx & ~ours7c, 0);
	/* and this host's x86-64-v3 is all there */
	assert_true(cpu_has(f->v, FEAT_AVX2) && cpu_has(f->v, FEAT_BMI2) &&
		    cpu_has(f->v, FEAT_FMA) && cpu_has(f->v, FEAT_MOVBE) &&
		    cpu_has(f->v, FEAT_LZCNT) && cpu_has(f->v, FEAT_F16C) &&
		    cpu_has(f->v, FEAT_FSGSBASE));
}

static void bits_and_has_agree(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs r1 = id(f, 1, 0), r7 = id(f, 7, 0),
			  rx = id(f, 0x80000001, 0);

	assert_int_equal(r1.ecx >> 28 & 1, cpu_has(f->v, FEAT_AVX));
	assert_int_equal(r1.ecx >> 25 & 1, cpu_has(f->v, FEAT_AES));
	assert_int_equal(r1.ecx >> 30 & 1, cpu_has(f->v, FEAT_RDRAND));
	assert_int_equal(r7.ebx >> 29 & 1, cpu_has(f->v, FEAT_SHA));
	assert_int_equal(r7.ebx >> 10 & 1, cpu_has(f->v, FEAT_INVPCID));
	assert_int_equal(r7.ecx >> 22 & 1, cpu_has(f->v, FEAT_RDPID));
	assert_int_equal(rx.edx >> 27 & 1, cpu_has(f->v, FEAT_RDTSCP));
	assert_int_equal(rx.ecx >> 5 & 1, cpu_has(f->v, FEAT_LZCNT));
	assert_int_equal(id(f, 0xd, 1).eax >> 1 & 1,
			 cpu_has(f->v, FEAT_XSAVEC));
}

/* AVX-512 is shown whole or not at all, and only if the host's kernel has it
 * enabled. */
static void avx512(void **state)
{
	const uint32_t base = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 |
			      1u << 31,
		       more7b = 1u << 21,
		       more7c = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 |
				1u << 14;
	struct fix *f = *state;
	struct cpuid_regs g = id(f, 7, 0);
	uint32_t xcr0 = id(f, 0xd, 0).eax;

	if (!cpu_has(f->v, FEAT_AVX512)) {
		assert_false(g.ebx & (base | more7b));
		assert_false(g.ecx & more7c);
		assert_false(xcr0 & XCR0_AVX512);
		assert_int_equal(id(f, 0xd, 5).eax, 0);
		return;
	}
	assert_int_equal(g.ebx & base, base);
	assert_int_equal(g.ebx >> 21 & 1, cpu_has(f->v, FEAT_IFMA));
	assert_int_equal(g.ecx >> 1 & 1, cpu_has(f->v, FEAT_VBMI));
	assert_int_equal(xcr0, XCR0_ALL);
	assert_int_equal(xstate()->host_xcr0 & XCR0_ALL, XCR0_ALL);
}

static void follows_state(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	assert_false(id(f, 1, 0).ecx & 1u << 27);
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 | CR4_OSXSAVE), CPU_OK);
	assert_true(id(f, 1, 0).ecx & 1u << 27);
	assert_true(id(f, 1, 0).edx & 1u << 9);
	v->apic_base &= ~0x800ull;
	assert_false(id(f, 1, 0).edx & 1u << 9);
	assert_true(id(f, 0x80000001, 0).edx & 1u << 11);
	v->seg[SEG_CS] = seg_of(S_CODE32, ~0u, 0xc9b);
	assert_false(id(f, 0x80000001, 0).edx & 1u << 11);
}

/* Leaf 0Dh, XCR0 and the size of the area tell one story. */
static void xsave(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	struct cpuid_regs r;
	uint64_t val;

	long_mode(f);
	v->cr4 |= CR4_OSXSAVE;
	r = id(f, 0xd, 0);
	assert_int_equal(r.eax, cpu_has(v, FEAT_AVX512) ? XCR0_ALL : 7);
	assert_int_equal(r.edx, 0);
	assert_int_equal(r.ebx, 576); /* reset: XCR0 = 1 */
	assert_int_equal(cpu_xsetbv(v, 0, 7), CPU_OK);
	assert_int_equal(id(f, 0xd, 0).ebx, 832);
	assert_int_equal(id(f, 0xd, 1).ebx, 832);
	assert_int_equal(id(f, 0xd, 2).ebx, 576);
	assert_int_equal(id(f, 0xd, 3).eax, 0);
	assert_true(v->fpu_size >= 832 && v->fpu_size >= r.ecx);
	assert_int_equal((uintptr_t)v->fpu & 63, 0);
	assert_int_equal(cpu_xsetbv(v, 0, r.eax), CPU_OK);
	assert_int_equal(id(f, 0xd, 0).ebx, r.ecx);
	/* the components are apart, and as large as they are everywhere */
	for (unsigned n = 2, end = 576, sum = 576; n < 8; n++) {
		struct cpuid_regs c = id(f, 0xd, n);

		assert_int_equal(!!c.eax, r.eax >> n & 1);
		if (!c.eax)
			continue;
		assert_true(c.ebx >= end);
		assert_int_equal(c.ecx, 0); /* no alignment when compacted */
		end = c.ebx + c.eax;
		sum += c.eax;
		if (end == r.ecx)
			assert_int_equal(id(f, 0xd, 1).ebx, sum);
	}
	/* what is not in EAX is refused, and the parts of AVX-512 */
	for (unsigned bit = 3; bit < 64; bit++)
		assert_exc(cpu_xsetbv(v, 0, 7 | 1ull << bit), EXC_GP, 0);
	for (unsigned part = 0x20; part < 0xe0; part += 0x20)
		assert_exc(cpu_xsetbv(v, 0, 7 | part), EXC_GP, 0);
	assert_exc(cpu_xsetbv(v, 0, 0xe3), EXC_GP, 0);
	assert_int_equal(cpu_xsetbv(v, 0, 7), CPU_OK);
	assert_exc(cpu_xsetbv(v, 0, 5), EXC_GP, 0);
	assert_exc(cpu_xsetbv(v, 0, 6), EXC_GP, 0);
	assert_exc(cpu_xsetbv(v, 1, 7), EXC_GP, 0);
	assert_int_equal(cpu_xgetbv(v, 0, &val), CPU_OK);
	assert_int_equal(val, 7);
	/* XGETBV with ECX = 1 is not shown (leaf 0Dh.1 EAX bit 2) */
	assert_exc(cpu_xgetbv(v, 1, &val), EXC_GP, 0);
	v->cr4 &= ~CR4_OSXSAVE;
	assert_exc(cpu_xgetbv(v, 0, &val), EXC_UD, 0);
	assert_exc(cpu_xsetbv(v, 0, 7), EXC_UD, 0);
}

static void topology(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs r;
	unsigned i;

	for (i = 0; i < 2; i++) {
		r = id(f, 0xb, i);
		assert_int_equal(r.eax & 31, 0);
		assert_int_equal(r.ebx & 0xffff, 1);
		assert_int_equal(r.ecx, i | (i + 1) << 8);
		assert_int_equal(r.edx, 0);
	}
	r = id(f, 0xb, 2);
	assert_int_equal(r.ebx, 0);
	assert_int_equal(r.ecx >> 8, 0);
	/* no cache is shared by more than one thread, one core a package */
	for (i = 0; (r = id(f, 4, i)).eax & 31; i++) {
		assert_int_equal(r.eax >> 14, 0);
		assert_int_equal((r.ebx & 0xfff) + 1, 64);
	}
	assert_int_equal(i, 4);
	/* 80000006h agrees with leaf 4 about the L2 */
	r = id(f, 4, 2);
	assert_int_equal(((r.ebx >> 22) + 1) * 64 * (r.ecx + 1) / 1024,
			 id(f, 0x80000006, 0).ecx >> 16);
	assert_int_equal(id(f, 1, 0).ebx >> 24, 0);
}

static void frequency(void **state)
{
	struct fix *f = *state;
	struct cpuid_regs r = id(f, 0x15, 0);
	/* Linux's native_calibrate_tsc: 32-bit arithmetic in kHz */
	uint32_t linux_khz = r.ecx / 1000 * r.ebx / r.eax;
	struct timespec a, b, pause = {.tv_nsec = 50 * 1000 * 1000};
	uint64_t t0, t1;
	double khz, ns;

	assert_int_equal(r.ecx, cpu_crystal_hz());
	assert_int_equal(r.ecx % 1000, 0);
	assert_true(r.ecx >= 19000000 && r.ecx <= 51000000);
	assert_true((uint64_t)(r.ecx / 1000) * r.ebx < UINT32_MAX);
	/* within 10 ppm of what we say ourselves */
	assert_true(labs((long)linux_khz - (long)cpu_tsc_khz()) <=
		    cpu_tsc_khz() / 100000);
	assert_int_equal(id(f, 0x40000010, 0).eax, cpu_tsc_khz());
	assert_true(labs((long)id(f, 0x16, 0).eax -
			 (long)cpu_tsc_khz() / 1000) <= 1);
	assert_true(id(f, 0x80000007, 0).edx & 1 << 8);
	assert_true(id(f, 6, 0).eax & 1 << 2);
	/* and of the truth, as far as a noisy machine tells in 50 ms */
	clock_gettime(CLOCK_MONOTONIC_RAW, &a);
	t0 = __rdtsc();
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC_RAW, &b);
	t1 = __rdtsc();
	ns = (b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec);
	khz = (t1 - t0) * 1e6 / ns;
	assert_true(khz > cpu_tsc_khz() * 0.99 && khz < cpu_tsc_khz() * 1.01);
}

/* A CR4 bit is accepted exactly if its feature is shown. */
static void cr4_matches(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	struct cpuid_regs r1 = id(f, 1, 0), r7 = id(f, 7, 0);
	const struct {
		unsigned bit;
		bool shown;
	} t[] = {
		{0, r1.edx >> 1 & 1},
		{1, r1.edx >> 1 & 1},
		{2, r1.edx >> 4 & 1},
		{3, r1.edx >> 2 & 1},
		{4, r1.edx >> 3 & 1},
		{6, r1.edx >> 7 & 1},
		{7, r1.edx >> 13 & 1},
		{9, r1.edx >> 24 & 1},
		{10, r1.edx >> 25 & 1},
		{11, r7.ecx >> 2 & 1},
		{12, r7.ecx >> 16 & 1},
		{13, r1.ecx >> 5 & 1},
		{16, r7.ebx >> 0 & 1},
		{17, r1.ecx >> 17 & 1},
		{18, r1.ecx >> 26 & 1},
		{20, r7.ebx >> 7 & 1},
		{21, r7.ebx >> 20 & 1},
		{22, r7.ecx >> 3 & 1},
		{23, r7.ecx >> 7 & 1},
		{24, 0},
		{40, 0},
	};

	long_mode(f);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		uint64_t old = v->cr4 & ~(1ull << t[i].bit);
		enum cpu_status s;

		v->cr4 = old;
		s = cpu_write_cr(v, 4, old | 1ull << t[i].bit);
		if ((s == CPU_OK) != t[i].shown)
			fail_msg("CR4 bit %u: shown %d, accepted %d", t[i].bit,
				 t[i].shown, s == CPU_OK);
		v->exc.pending = false;
		v->cr4 = old;
	}
}

/* What sys.h says of the leaves, for who keeps answers. */
static void kept(void **state)
{
	static const uint32_t base[] = {0, 0x40000000, 0x80000000};
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	for (uint32_t k = 0; k < 0x20 * ARRAY_SIZE(base); k++) {
		uint32_t leaf = base[k / 0x20] + k % 0x20;
		struct cpuid_regs a, b;

		for (uint32_t sub = 0; sub < 70; sub++) {
			a = id(f, leaf, sub);
			b = id(f, leaf, cpu_cpuid_sub(leaf, sub));
			assert_memory_equal(&a, &b, sizeof(a));
			v->cr4 ^= CR4_OSXSAVE;
			v->apic_base ^= 0x800;
			b = id(f, leaf, sub);
			v->cr4 ^= CR4_OSXSAVE;
			v->apic_base ^= 0x800;
			if (cpu_cpuid_keeps(leaf))
				assert_memory_equal(&a, &b, sizeof(a));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(kept),
		TEST(model),
		TEST(never_shown),
		TEST(masked_by_host),
		TEST(bits_and_has_agree),
		TEST(follows_state),
		TEST(xsave),
		TEST(avx512),
		TEST(topology),
		TEST(frequency),
		TEST(cr4_matches),
	};
	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
