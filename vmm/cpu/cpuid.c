/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU that a guest sees (SDM vol. 2, CPUID).
 *
 * One fixed model, so that a guest can move between hosts and so that a kernel
 * leaves out what translation would pay dearly for: an Intel Sapphire Rapids
 * (06-8F-08), not affected by Meltdown, L1TF, MDS and so on, with enhanced
 * IBRS: Linux then uses neither page-table isolation, nor retpolines, nor
 * return thunks. BHI_CTRL (7.2:EDX) is there because without it, whatever
 * BHI_NO says, Linux clears the branch history in a loop at each system call.
 * No SMAP (STAC/CLAC would be mode changes), no AMX, PKU,
 * 5-level paging, TSX, VMX, MONITOR, CET, PMU, XSAVEOPT or XSAVES. One
 * thread. AVX-512 where the host has F, DQ, CD, BW and VL; without BF16 and
 * FP16, which not all hosts with these have.
 *
 * features[] is the truth: each bit with its place and where it comes from.
 *   HOST   the instruction runs on the host: shown if the host has it
 *   OURS   done by Sardine's own code: always shown
 * From it two tables are made once: the words of each feature leaf, and the
 * answers of cpu_has().
 *
 * The time. The TSC is the host's (plus an offset), constant and nonstop.
 * Linux computes its frequency from leaf 15h as crystal_khz * EBX / EAX in 32
 * bits, and takes the crystal for the APIC timer's clock. So the ratio is
 * chosen (EAX = 1) such that the product comes nearest to the real frequency
 * with a crystal around 25 MHz in whole kHz.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "mm/base/log.h"
#include "vmm/cpu/sys.h"
#include "vmm/cpu/xstate.h"
#include "vmm/mmu/walk.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define CPU_SIGNATURE 0x000806f8u /* family 6, model 143, stepping 8 */
#define MAX_BASIC     0x16u
#define MAX_EXT	      0x80000008u
#define MAX_HYP	      0x40000010u

/* ---- the feature table ---- */

enum word {
	W1_ECX,
	W1_EDX,
	W7_EBX,
	W7_ECX,
	W7_EDX,
	W72_EDX,
	WD1_EAX,
	WX1_ECX,
	WX1_EDX,
	NR_WORDS
};
enum source { HOST, OURS };

static const struct {
	uint32_t leaf, sub;
	unsigned reg; /* 0 = eax */
} words[NR_WORDS] = {
	[W1_ECX] = {1, 0, 2},		[W1_EDX] = {1, 0, 3},
	[W7_EBX] = {7, 0, 1},		[W7_ECX] = {7, 0, 2},
	[W7_EDX] = {7, 0, 3},		[W72_EDX] = {7, 2, 3},
	[WD1_EAX] = {0xd, 1, 0},	[WX1_ECX] = {0x80000001, 0, 2},
	[WX1_EDX] = {0x80000001, 0, 3},
};

#define NONE FEAT_NR
static const struct {
	enum word word;
	uint8_t bit;
	enum source source;
	enum cpu_feature feat;
} features[] = {
	{W1_ECX, 0, HOST, FEAT_SSE3},
	{W1_ECX, 1, HOST, FEAT_PCLMUL},
	{W1_ECX, 9, HOST, FEAT_SSSE3},
	{W1_ECX, 12, HOST, FEAT_FMA},
	{W1_ECX, 13, HOST, FEAT_CX16},
	{W1_ECX, 17, OURS, NONE}, /* PCID */
	{W1_ECX, 19, HOST, FEAT_SSE41},
	{W1_ECX, 20, HOST, FEAT_SSE42},
	{W1_ECX, 21, OURS, NONE}, /* x2APIC */
	{W1_ECX, 22, HOST, FEAT_MOVBE},
	{W1_ECX, 23, HOST, FEAT_POPCNT},
	{W1_ECX, 24, OURS, NONE}, /* TSC deadline */
	{W1_ECX, 25, HOST, FEAT_AES},
	{W1_ECX, 26, HOST, FEAT_XSAVE},
	{W1_ECX, 28, HOST, FEAT_AVX},
	{W1_ECX, 29, HOST, FEAT_F16C},
	{W1_ECX, 30, HOST, FEAT_RDRAND},
	{W1_ECX, 31, OURS, NONE}, /* hypervisor */
	{W1_EDX, 0, HOST, NONE},  /* x87 */
	{W1_EDX, 2, OURS, NONE},  /* DE */
	{W1_EDX, 3, OURS, NONE},  /* PSE */
	{W1_EDX, 4, OURS, NONE},  /* TSC */
	{W1_EDX, 5, OURS, NONE},  /* MSR */
	{W1_EDX, 6, OURS, NONE},  /* PAE */
	{W1_EDX, 7, OURS, NONE},  /* MCE */
	{W1_EDX, 8, HOST, NONE},  /* CMPXCHG8B */
	{W1_EDX, 9, OURS, NONE},  /* APIC (while enabled) */
	{W1_EDX, 11, OURS, NONE}, /* SYSENTER */
	{W1_EDX, 12, OURS, NONE}, /* MTRR */
	{W1_EDX, 13, OURS, NONE}, /* PGE */
	{W1_EDX, 14, OURS, NONE}, /* MCA */
	{W1_EDX, 15, HOST, NONE}, /* CMOV */
	{W1_EDX, 16, OURS, NONE}, /* PAT */
	{W1_EDX, 17, OURS, NONE}, /* PSE-36 */
	{W1_EDX, 19, HOST, NONE}, /* CLFLUSH */
	{W1_EDX, 23, HOST, NONE}, /* MMX */
	{W1_EDX, 24, HOST, NONE}, /* FXSR */
	{W1_EDX, 25, HOST, NONE}, /* SSE */
	{W1_EDX, 26, HOST, NONE}, /* SSE2 */
	{W1_EDX, 27, OURS, NONE}, /* self-snoop */
	{W7_EBX, 0, HOST, FEAT_FSGSBASE},
	{W7_EBX, 1, OURS, NONE}, /* TSC_ADJUST */
	{W7_EBX, 3, HOST, FEAT_BMI1},
	{W7_EBX, 5, HOST, FEAT_AVX2},
	{W7_EBX, 7, OURS, NONE}, /* SMEP */
	{W7_EBX, 8, HOST, FEAT_BMI2},
	{W7_EBX, 9, HOST, NONE}, /* ERMS */
	{W7_EBX, 10, OURS, FEAT_INVPCID},
	{W7_EBX, 16, HOST, FEAT_AVX512}, /* F */
	{W7_EBX, 17, HOST, FEAT_AVX512}, /* DQ */
	{W7_EBX, 18, HOST, FEAT_RDSEED},
	{W7_EBX, 19, HOST, FEAT_ADX},
	{W7_EBX, 21, HOST, FEAT_IFMA},
	{W7_EBX, 23, HOST, FEAT_CLFLUSHOPT},
	{W7_EBX, 24, HOST, FEAT_CLWB},
	{W7_EBX, 28, HOST, FEAT_AVX512}, /* CD */
	{W7_EBX, 29, HOST, FEAT_SHA},
	{W7_EBX, 30, HOST, FEAT_AVX512}, /* BW */
	{W7_EBX, 31, HOST, FEAT_AVX512}, /* VL */
	{W7_ECX, 1, HOST, FEAT_VBMI},
	{W7_ECX, 2, OURS, NONE}, /* UMIP */
	{W7_ECX, 6, HOST, FEAT_VBMI2},
	{W7_ECX, 8, HOST, FEAT_GFNI},
	{W7_ECX, 9, HOST, FEAT_VAES},
	{W7_ECX, 10, HOST, FEAT_VPCLMUL},
	{W7_ECX, 11, HOST, FEAT_VNNI},
	{W7_ECX, 12, HOST, FEAT_BITALG},
	{W7_ECX, 14, HOST, FEAT_VPOPCNTDQ},
	{W7_ECX, 22, OURS, FEAT_RDPID},
	{W7_EDX, 4, HOST, NONE},  /* FSRM */
	{W7_EDX, 26, OURS, NONE}, /* IBRS, IBPB */
	{W7_EDX, 27, OURS, NONE}, /* STIBP */
	{W7_EDX, 29, OURS, NONE}, /* ARCH_CAPABILITIES */
	{W7_EDX, 31, OURS, NONE}, /* SSBD */
	{W72_EDX, 4, OURS, NONE}, /* BHI_CTRL */
	{WD1_EAX, 1, HOST, FEAT_XSAVEC},
	{WX1_ECX, 0, HOST, NONE}, /* LAHF in 64-bit mode */
	{WX1_ECX, 5, HOST, FEAT_LZCNT},
	{WX1_ECX, 8, HOST, FEAT_PREFETCHW},
	{WX1_EDX, 11, OURS, NONE}, /* SYSCALL */
	{WX1_EDX, 20, OURS, NONE}, /* NX */
	{WX1_EDX, 26, OURS, NONE}, /* 1 GiB pages */
	{WX1_EDX, 27, OURS, FEAT_RDTSCP},
	{WX1_EDX, 29, OURS, NONE}, /* long mode */
};

static struct {
	uint32_t word[NR_WORDS];
	bool has[FEAT_NR + 1];
} model;
static pthread_once_t model_once = PTHREAD_ONCE_INIT;

static uint32_t host_word(enum word w)
{
	uint32_t r[4] = {0};

	if (!__get_cpuid_count(words[w].leaf, words[w].sub, &r[0], &r[1], &r[2],
			       &r[3]))
		return 0;
	return r[words[w].reg];
}

/* What makes no sense without something else. */
static void drop_dependents(void)
{
	bool *has = model.has;

	if (!has[FEAT_XSAVE])
		has[FEAT_AVX] = has[FEAT_XSAVEC] = false;
	if (!has[FEAT_AVX])
		has[FEAT_AVX2] = has[FEAT_FMA] = has[FEAT_F16C] =
			has[FEAT_VAES] = has[FEAT_VPCLMUL] = false;
	/* XCR0 of the host has a say. */
	if (!has[FEAT_AVX2] || !has[FEAT_FMA] || !has[FEAT_F16C] ||
	    !xstate()->avx512)
		has[FEAT_AVX512] = false;
	if (!has[FEAT_AVX512])
		has[FEAT_IFMA] = has[FEAT_VBMI] = has[FEAT_VBMI2] =
			has[FEAT_VNNI] = has[FEAT_BITALG] =
				has[FEAT_VPOPCNTDQ] = false;
}

static void build_model(void)
{
	uint32_t host[NR_WORDS];

	for (unsigned w = 0; w < NR_WORDS; w++)
		host[w] = host_word(w);
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		model.has[features[i].feat] = true;
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		bool there = features[i].source == OURS ||
			     (host[features[i].word] >> features[i].bit & 1);

		if (features[i].feat != NONE)
			model.has[features[i].feat] &= there;
		else if (there)
			model.word[features[i].word] |= 1u << features[i].bit;
	}
	drop_dependents();
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (features[i].feat != NONE && model.has[features[i].feat])
			model.word[features[i].word] |= 1u << features[i].bit;
}

bool cpu_has(const struct vcpu *v, enum cpu_feature f)
{
	pthread_once(&model_once, build_model);
	return model.has[f];
}

/* ---- the time ---- */

static uint32_t tsc_khz, crystal_khz, crystal_ratio;
static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* A (tsc, ns) pair whose two halves are as close as a few tries allow. */
static void sample(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 16; i++) {
		uint64_t t0 = __rdtsc(), n = now_ns(), t1 = __rdtsc();

		if (t1 - t0 < best) {
			best = t1 - t0;
			*tsc = t0 + (t1 - t0) / 2;
			*ns = n;
		}
	}
}

static uint32_t measure_khz(void)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	uint64_t t0, t1, n0, n1;

	sample(&t0, &n0);
	nanosleep(&pause, NULL);
	sample(&t1, &n1);
	return (__uint128_t)(t1 - t0) * 1000000 / (n1 - n0);
}

static uint32_t told_khz(void)
{
	uint32_t a, b, c, d;
	uint64_t khz;

	if (__get_cpuid_max(0, NULL) < 0x15)
		return 0;
	__cpuid_count(0x15, 0, a, b, c, d);
	if (!a || !b || !c)
		return 0;
	khz = (uint64_t)c * b / a / 1000;
	return khz > 100000 && khz < 10000000 ? khz : 0;
}

static void choose_crystal(void)
{
	uint32_t best = UINT32_MAX;

	/* From 20 to 50 MHz */
	for (uint32_t n = tsc_khz / 50000 + 1; n <= tsc_khz / 20000; n++) {
		uint32_t khz = (tsc_khz + n / 2) / n, got = khz * n;
		uint32_t err = got > tsc_khz ? got - tsc_khz : tsc_khz - got;

		if (err >= best)
			continue;
		best = err;
		crystal_khz = khz;
		crystal_ratio = n;
	}
}

static void build_time(void)
{
	tsc_khz = told_khz();
	if (!tsc_khz)
		tsc_khz = measure_khz();
	choose_crystal();
}

uint32_t cpu_tsc_khz(void)
{
	pthread_once(&tsc_once, build_time);
	return tsc_khz;
}

uint32_t cpu_crystal_hz(void)
{
	pthread_once(&tsc_once, build_time);
	return crystal_khz * 1000;
}

uint64_t cpu_guest_tsc(const struct vcpu *v)
{
	return (__rdtsc() >> v->vm->cfg.time_shift) + v->tsc_offset;
}

/* ---- the leaves ---- */

#define STR4(s, i)                                                             \
	((uint32_t)(uint8_t)(s)[i] | (uint32_t)(uint8_t)(s)[(i) + 1] << 8 |    \
	 (uint32_t)(uint8_t)(s)[(i) + 2] << 16 |                               \
	 (uint32_t)(uint8_t)(s)[(i) + 3] << 24)

static void leaf_vendor(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	static const char id[] = "GenuineIntel";

	*r = (struct cpuid_regs){MAX_BASIC, STR4(id, 0), STR4(id, 8),
				 STR4(id, 4)};
}

static bool apic_enabled(struct vcpu *v)
{
	uint64_t base = v->apic_base;

	if (v->irq && v->irq->rdmsr)
		v->irq->rdmsr(v->irq_ctx, MSR_APIC_BASE, &base);
	return base & 0x800;
}

static void leaf_features(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = CPU_SIGNATURE;
	r->ebx = v->id << 24 | 1 << 16 | 8 << 8; /* one CPU, 64-byte lines */
	r->ecx = model.word[W1_ECX];
	r->edx = model.word[W1_EDX];
	if (v->cr4 & CR4_OSXSAVE)
		r->ecx |= 1u << 27;
	if (!apic_enabled(v))
		r->edx &= ~(1u << 9);
}

/* "Look at leaf 4" and "64-byte prefetch". */
static void leaf_descriptors(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	*r = (struct cpuid_regs){0x0000ff01, 0xf0, 0, 0};
}

static void leaf_caches(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	static const struct {
		uint8_t type, level; /* 1 data, 2 code, 3 unified */
		uint16_t ways;
		uint32_t sets;
	} c[] = {{1, 1, 12, 64},
		 {2, 1, 8, 64},
		 {3, 2, 16, 2048},
		 {3, 3, 16, 16384}};

	if (sub >= ARRAY_SIZE(c))
		return; /* type 0: no more */
	r->eax = c[sub].type | c[sub].level << 5 | 1 << 8;
	r->ebx = (uint32_t)(c[sub].ways - 1) << 22 | (64 - 1);
	r->ecx = c[sub].sets - 1;
}

static void leaf_power(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = 1 << 2; /* ARAT */
}

static void leaf_features7(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	switch (sub) {
	case 0:
		r->eax = 2; /* highest subleaf */
		r->ebx = model.word[W7_EBX];
		r->ecx = model.word[W7_ECX];
		r->edx = model.word[W7_EDX];
		break;
	case 2:
		r->edx = model.word[W72_EDX];
	}
}

static void leaf_topology(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->ecx = sub & 0xff;
	r->edx = v->id;
	if (sub > 1)
		return; /* type 0: invalid level */
	r->ebx = 1;
	r->ecx |= (sub + 1) << 8; /* thread, then core */
}

static uint64_t xcr0_supported(void)
{
	return XCR0_X87 | XCR0_SSE | (model.has[FEAT_AVX] ? XCR0_AVX : 0) |
	       (model.has[FEAT_AVX512] ? XCR0_AVX512 : 0);
}

static void leaf_xsave(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	if (!model.has[FEAT_XSAVE])
		return;
	switch (sub) {
	case 0:
		r->eax = xcr0_supported();
		r->ebx = xstate_bytes(v->xcr0, false);
		r->ecx = xstate_bytes(xcr0_supported(), false);
		break;
	case 1:
		r->eax = model.word[WD1_EAX];
		r->ebx = model.has[FEAT_XSAVEC] ? xstate_bytes(v->xcr0, true)
						: 0;
		break;
	default:
		if (sub < 64 && (xcr0_supported() >> sub & 1))
			xstate_component(sub, &r->eax, &r->ebx);
	}
}

static void leaf_tsc(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->ecx = cpu_crystal_hz();
	r->eax = 1;
	r->ebx = crystal_ratio;
}

static void leaf_mhz(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = r->ebx = (cpu_tsc_khz() + 500) / 1000;
	r->ecx = 100;
}

#define KVM_NOP_IO_DELAY       (1u << 1)
#define KVM_CLOCKSOURCE2       (1u << 3)
#define KVM_CLOCKSOURCE_STABLE (1u << 24)

static void leaf_hyp(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	static const char id[] = "KVMKVMKVM\0\0\0";

	*r = (struct cpuid_regs){MAX_HYP, STR4(id, 0), STR4(id, 4),
				 STR4(id, 8)};
}

static void leaf_hyp_features(struct vcpu *v, uint32_t sub,
			      struct cpuid_regs *r)
{
	r->eax = KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_CLOCKSOURCE_STABLE;
}

static void leaf_hyp_tsc(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = cpu_tsc_khz();
	r->ebx = cpu_crystal_hz() / 1000;
}

static void leaf_ext(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = MAX_EXT;
}

static void leaf_ext_features(struct vcpu *v, uint32_t sub,
			      struct cpuid_regs *r)
{
	r->ecx = model.word[WX1_ECX];
	r->edx = model.word[WX1_EDX];
	/* Intel shows SYSCALL in 64-bit mode only, where alone it works. */
	if (!vcpu_code64(v))
		r->edx &= ~(1u << 11);
}

static void brand(unsigned part, struct cpuid_regs *r)
{
	static const char name[2][48] = {"Sardine virtual CPU (x86-64-v3)",
					 "Sardine virtual CPU (x86-64-v4)"};

	memcpy(r, name[model.has[FEAT_AVX512]] + part * sizeof(*r), sizeof(*r));
}
static void leaf_brand0(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	brand(0, r);
}
static void leaf_brand1(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	brand(1, r);
}
static void leaf_brand2(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	brand(2, r);
}

static void leaf_l2(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->ecx = 2048u << 16 | 8 << 12 | 64; /* KiB, 16 ways, line */
}

static void leaf_ext_power(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->edx = 1 << 8; /* TSC constant and nonstop */
}

static void leaf_widths(struct vcpu *v, uint32_t sub, struct cpuid_regs *r)
{
	r->eax = MMU_PHYS_BITS | 48 << 8;
}

/* Leaves that are not here are zero. */
static const struct {
	uint32_t leaf;
	void (*get)(struct vcpu *v, uint32_t sub, struct cpuid_regs *r);
} leaves[] = {
	{0x0, leaf_vendor},
	{0x1, leaf_features},
	{0x2, leaf_descriptors},
	{0x4, leaf_caches},
	{0x6, leaf_power},
	{0x7, leaf_features7},
	{0xb, leaf_topology},
	{0xd, leaf_xsave},
	{0x15, leaf_tsc},
	{0x16, leaf_mhz},
	{0x40000000, leaf_hyp},
	{0x40000001, leaf_hyp_features},
	{0x40000010, leaf_hyp_tsc},
	{0x80000000, leaf_ext},
	{0x80000001, leaf_ext_features},
	{0x80000002, leaf_brand0},
	{0x80000003, leaf_brand1},
	{0x80000004, leaf_brand2},
	{0x80000006, leaf_l2},
	{0x80000007, leaf_ext_power},
	{0x80000008, leaf_widths},
};

void cpu_cpuid(struct vcpu *v, uint32_t leaf, uint32_t sub,
	       struct cpuid_regs *r)
{
	pthread_once(&model_once, build_model);
	*r = (struct cpuid_regs){0};
	/* Beyond the end Intel answers with the highest basic leaf. */
	if (leaf >> 16 != 0x4000 &&
	    (leaf & 0x80000000 ? leaf > MAX_EXT : leaf > MAX_BASIC))
		leaf = MAX_BASIC;
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
		if (leaves[i].leaf == leaf) {
			leaves[i].get(v, sub, r);
			return;
		}
}
