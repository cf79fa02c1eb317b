/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs, control and debug registers, TLB instructions, flags. */
#include <time.h>
#include <x86intrin.h>

#include "tests/unit/sys_fixture.h"

#define NC (1ull << 47) /* not canonical */

static uint64_t rd(struct fix *f, uint32_t n)
{
	uint64_t val = 0x5a5a;

	if (cpu_rdmsr(f->v, n, &val) != CPU_OK)
		fail_msg("rdmsr %x", n);
	return val;
}
#define wr(n, val) assert_int_equal(cpu_wrmsr(f->v, n, val), CPU_OK)
#define wr_gp(n, val)                                                          \
	do {                                                                   \
		if (cpu_wrmsr(f->v, n, val) != CPU_EXC)                        \
			fail_msg("wrmsr %x took %lx", n, (uint64_t)(val));     \
		assert_int_equal(f->v->exc.vector, EXC_GP);                    \
		assert_int_equal(f->v->exc.error, 0);                          \
		f->v->exc.pending = false;                                     \
	} while (0)

/* What engines are told. */
static unsigned flushes, modes, cr3s;
static enum tlb_flush last_kind;
static uint16_t last_pcid;
static gva_t last_gva;
static bool last_noflush;

static void on_flush(struct vcpu *v, enum tlb_flush kind, uint16_t pcid,
		     gva_t gva)
{
	flushes++;
	last_kind = kind;
	last_pcid = pcid;
	last_gva = gva;
}
static void on_cr3(struct vcpu *v, bool noflush)
{
	cr3s++;
	last_noflush = noflush;
}
static void on_mode(struct vcpu *v)
{
	modes++;
}
static const struct vcpu_ops spy = {on_flush, on_cr3, on_mode, NULL};

static void spy_on(struct fix *f)
{
	flushes = modes = cr3s = 0;
	f->v->ops = &spy;
}

/* ---- MSRs ---- */

static void canonical_ones(void **state)
{
	static const uint32_t n[] = {
		MSR_FS_BASE, MSR_GS_BASE,      MSR_KERNEL_GS_BASE, MSR_LSTAR,
		MSR_CSTAR,   MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
	};
	struct fix *f = *state;

	long_mode(f);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++) {
		const uint64_t ok = 0xffff800000001000 + i;

		wr(n[i], ok);
		assert_true(rd(f, n[i]) == ok);
		wr_gp(n[i], NC);
		wr_gp(n[i], 0xffff7fffffffffff);
		assert_true(rd(f, n[i]) == ok);
	}
	/* each is a register of its own */
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++)
		assert_true(rd(f, n[i]) == 0xffff800000001000 + i);
	assert_true(f->v->seg[SEG_FS].base == 0xffff800000001000);
	wr_gp(MSR_TSC_AUX, 1ull << 32);
	wr_gp(MSR_FMASK, 1ull << 32);
	wr(MSR_STAR, ~0ull);
	assert_true(rd(f, MSR_STAR) == ~0ull);
}

static void unknown_and_rights(void **state)
{
	static const uint32_t unknown[] = {
		0x2,   0x140,	   0x122,      0x10b,	   0x1b0, 0x345,
		0x38f, 0x606,	   0xda0,      0x260,	   0x210, 0x251,
		0x25a, 0xc0010015, 0xc0000104, 0xffffffff,
	};
	struct fix *f = *state;
	uint64_t val;

	long_mode(f);
	for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
		assert_exc(cpu_rdmsr(f->v, unknown[i], &val), EXC_GP, 0);
		wr_gp(unknown[i], 0);
	}
	go_user(f);
	assert_exc(cpu_rdmsr(f->v, MSR_TSC, &val), EXC_GP, 0);
	wr_gp(MSR_FS_BASE, 0);
}

/* What Debian's 6.1 reads or writes without a safety net on this CPU. */
static void linux_reads(void **state)
{
	struct fix *f = *state;
	uint64_t caps;

	long_mode(f);
	wr(0x8b, 0);
	assert_true(rd(f, 0x8b) >> 32);
	assert_int_equal(rd(f, 0x17), 0);
	assert_int_equal(rd(f, 0x179), 0);
	wr(0x17a, 0);
	assert_int_equal(rd(f, MSR_MISC_ENABLE) & 1, 1);
	assert_int_equal(rd(f, MSR_MISC_ENABLE) & 0x1800, 0x1800);
	wr(MSR_MISC_ENABLE, rd(f, MSR_MISC_ENABLE) & ~(1ull << 34));
	assert_int_equal(rd(f, 0x3a), 1);
	wr_gp(0x3a, 1); /* locked */
	assert_int_equal(rd(f, 0xfe), 0x508);
	caps = rd(f, MSR_ARCH_CAPS);
	assert_true(caps & 1 && caps & 2 && caps & 1 << 4 && caps & 1 << 5 &&
		    caps & 1 << 8 && caps >> 62 & 1);
	wr_gp(MSR_ARCH_CAPS, caps);
	wr(MSR_SPEC_CTRL, 1);
	assert_int_equal(rd(f, MSR_SPEC_CTRL), 1);
	wr(MSR_SPEC_CTRL, 0x401); /* BHI_DIS_S: CPUID 7.2 shows it */
	wr_gp(MSR_SPEC_CTRL, 1 << 3);
	wr(MSR_PRED_CMD, 1);
	wr_gp(MSR_PRED_CMD, 2);
	assert_exc(cpu_rdmsr(f->v, MSR_PRED_CMD, &caps), EXC_GP, 0);
	assert_int_equal(rd(f, MSR_APIC_BASE), 0xfee00900);
	wr(0x1d9, 0);
}

static void memory_types(void **state)
{
	struct fix *f = *state;

	long_mode(f);
	assert_true(rd(f, MSR_PAT) == 0x0007040600070406);
	wr(MSR_PAT, 0x0407050600070106);
	wr_gp(MSR_PAT, 0x0000000000000002);
	wr_gp(MSR_PAT, 0x0800000000000000);
	assert_true(rd(f, MSR_PAT) == 0x0407050600070106);
	/* MTRRs on, write-back, the hole below 4G uncached */
	assert_int_equal(rd(f, 0x2ff), 0xc06);
	assert_int_equal(rd(f, 0x200), 0xc0000000);
	assert_true(rd(f, 0x201) ==
		    ((1ull << MMU_PHYS_BITS) - 0x40000000 + 0x800));
	assert_int_equal(rd(f, 0x259), 0);
	for (unsigned i = 0; i < 16; i++)
		wr(0x200 + i, (i & 1 ? 0x800 : 6) + ((uint64_t)i << 20));
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(rd(f, 0x200 + i),
				 (i & 1 ? 0x800 : 6) + ((uint64_t)i << 20));
	wr_gp(0x200, 2);
	wr_gp(0x200, 0x106);
	wr_gp(0x201, 0x801);
	wr_gp(0x201, 1ull << MMU_PHYS_BITS);
	wr_gp(0x2ff, 0xc07);
	wr_gp(0x2ff, 1 << 12);
	static const uint32_t fixed[] = {0x250, 0x258, 0x259, 0x268,
					 0x269, 0x26a, 0x26b, 0x26c,
					 0x26d, 0x26e, 0x26f};
	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
		wr(fixed[i], i & 1 ? 0x0606060606060606 : 0x0505050505050505);
		wr_gp(fixed[i], 7);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
		assert_int_equal(rd(f, fixed[i]) & 0xff, i & 1 ? 6 : 5);
}

static void efer(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f);
	spy_on(f);
	wr_gp(MSR_EFER, v->efer | 1 << 12); /* SVME */
	wr_gp(MSR_EFER, v->efer | 2);
	wr_gp(MSR_EFER, v->efer & ~EFER_LME);		/* while paging */
	wr(MSR_EFER, v->efer & ~(EFER_LMA | EFER_NXE)); /* LMA is not ours */
	assert_true(v->efer == (EFER_LME | EFER_LMA | EFER_SCE));
	assert_int_equal(modes, 1);
	wr(MSR_EFER, v->efer);
	assert_int_equal(modes, 1);
}

static void tsc(void **state)
{
	struct fix *f = *state;
	uint64_t t;

	long_mode(f);
	t = rd(f, MSR_TSC);
	assert_true(__rdtsc() - t < 10000000000ull);
	wr(MSR_TSC, 1000);
	t = rd(f, MSR_TSC);
	assert_true(t >= 1000 && t < 10000000000ull);
	/* TSC_ADJUST has followed, and setting it to 0 undoes the write */
	assert_true(rd(f, MSR_TSC_ADJUST) == f->v->tsc_offset);
	wr(MSR_TSC_ADJUST, 0);
	assert_int_equal(f->v->tsc_offset, 0);
	wr(MSR_TSC_ADJUST, 5000);
	assert_int_equal(f->v->tsc_offset, 5000);
}

static uint32_t apic_msr;
static uint64_t apic_val;
static int apic_rd(void *ctx, uint32_t n, uint64_t *val)
{
	apic_msr = n;
	*val = apic_val;
	return n == 0x8ff ? -1 : 0;
}
static int apic_wr(void *ctx, uint32_t n, uint64_t val)
{
	apic_msr = n;
	apic_val = val;
	return n == 0x8ff ? -1 : 0;
}
static uint64_t tpr;
static uint64_t apic_get_tpr(void *ctx)
{
	return tpr;
}
static void apic_set_tpr(void *ctx, uint64_t val)
{
	tpr = val;
}
static const struct irq_source_ops apic = {
	.get_tpr = apic_get_tpr,
	.set_tpr = apic_set_tpr,
	.rdmsr = apic_rd,
	.wrmsr = apic_wr,
};

static void apic_msrs(void **state)
{
	struct fix *f = *state;
	uint64_t val;

	long_mode(f);
	assert_exc(cpu_rdmsr(f->v, 0x802, &val), EXC_GP, 0); /* nobody */
	f->v->irq = &apic;
	wr(0x80b, 0);
	assert_int_equal(apic_msr, 0x80b);
	wr(MSR_TSC_DEADLINE, 77);
	assert_int_equal(apic_msr, MSR_TSC_DEADLINE);
	assert_int_equal(rd(f, MSR_TSC_DEADLINE), 77);
	wr_gp(0x8ff, 1);
	wr(MSR_APIC_BASE, 0xfee00d00);
	assert_int_equal(f->v->apic_base, 0xfee00d00);
	assert_int_equal(rd(f, MSR_APIC_BASE), 0xfee00d00);
	wr_gp(MSR_APIC_BASE, 1);
	wr_gp(MSR_APIC_BASE, 1ull << 50);
	assert_int_equal(cpu_write_cr(f->v, 8, 9), CPU_OK);
	assert_int_equal(tpr, 9);
	assert_int_equal(cpu_read_cr(f->v, 8, &val), CPU_OK);
	assert_int_equal(val, 9);
	assert_exc(cpu_write_cr(f->v, 8, 16), EXC_GP, 0);
}

/* As Linux's pvclock computes it. */
static uint64_t pvclock_ns(struct fix *f, gpa_t page, uint64_t now)
{
	uint64_t delta = now - peek64(f, page + 8);
	int8_t shift = peek64(f, page + 28);

	delta = shift < 0 ? delta >> -shift : delta << shift;
	return peek64(f, page + 16) +
	       (uint64_t)((unsigned __int128)delta * peek32(f, page + 24) >>
			  32);
}

static void kvmclock(void **state)
{
	struct fix *f = *state;
	struct timespec ts, pause = {.tv_nsec = 20 * 1000 * 1000};
	uint64_t ns, a, b, t0, t1;

	long_mode(f);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	f->vm.boot_ns = ts.tv_sec * 1000000000ull + ts.tv_nsec - 5000000000ull;
	wr(0x4b564d01, 0x9000 | 1);
	assert_int_equal(rd(f, 0x4b564d01), 0x9001);
	assert_int_equal(peek32(f, 0x9000) & 1, 0);    /* version: even */
	assert_int_equal(peek64(f, 0x901d) & 0xff, 1); /* TSC_STABLE */
	t0 = rd(f, MSR_TSC);
	a = pvclock_ns(f, 0x9000, t0);
	assert_true(a >= 5000000000ull && a < 5500000000ull);
	nanosleep(&pause, NULL);
	t1 = rd(f, MSR_TSC);
	b = pvclock_ns(f, 0x9000, t1);
	ns = (t1 - t0) * 1000000 / cpu_tsc_khz();
	assert_true(b - a > ns - 10 && b - a < ns + 10);
	wr(0x4b564d00, 0xa000);
	ns = peek32(f, 0xa004);
	assert_true(ns >= (uint64_t)time(NULL) - 7 &&
		    ns <= (uint64_t)time(NULL) - 4);
	assert_true(peek32(f, 0xa008) < 1000000000);
	/* a bad address hurts nobody */
	wr(0x4b564d01, 0xffffffff00000001);
	wr(0x4b564d01, 0);
}

/* ---- control registers ---- */

/* The road of every 64-bit kernel: PE, PAE, LME, PG, far jump. */
static void into_long_mode(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	long_mode(f); /* for its tables; then back to the start */
	v->cr0 = CR0_ET | CR0_PE;
	v->cr4 = 0;
	v->efer = 0;
	v->in_long_mode = 0;
	v->seg[SEG_CS] = seg_of(S_CODE32, ~0u, 0xc9b);
	spy_on(f);
	assert_exc(cpu_write_cr(v, 4, 1u << 31), EXC_GP, 0);
	wr(MSR_EFER, EFER_LME);
	assert_false(v->in_long_mode);
	assert_exc(cpu_write_cr(v, 0, CR0_PE | CR0_PG), EXC_GP, 0); /* PAE */
	assert_int_equal(cpu_write_cr(v, 4, CR4_PAE), CPU_OK);
	assert_exc(cpu_write_cr(v, 4, CR4_PAE | CR4_PCIDE), EXC_GP, 0);
	v->seg[SEG_CS].attr |= SEG_ATTR_L;
	assert_exc(cpu_write_cr(v, 0, CR0_PE | CR0_PG), EXC_GP, 0); /* CS.L */
	v->seg[SEG_CS].attr &= ~SEG_ATTR_L;
	flushes = modes = 0;
	assert_int_equal(cpu_write_cr(v, 0, CR0_PE | CR0_PG), CPU_OK);
	assert_true(v->in_long_mode && (v->efer & EFER_LMA));
	assert_true(v->cr0 & CR0_ET);
	assert_true(modes && flushes && last_kind == TLB_FLUSH_ALL);
	assert_false(vcpu_code64(v));
	assert_int_equal(cpu_far_jmp(v, S_CODE64, 0x8000, 4), CPU_OK);
	assert_true(vcpu_code64(v));
	assert_exc(cpu_write_cr(v, 0, CR0_PE), EXC_GP, 0); /* from 64-bit */
	assert_exc(cpu_write_cr(v, 4, 0), EXC_GP, 0);	   /* PAE off */
	/* and out, by way of compatibility mode */
	assert_int_equal(cpu_far_jmp(v, S_CODE32, 0x8000, 4), CPU_OK);
	assert_int_equal(cpu_write_cr(v, 0, CR0_PE), CPU_OK);
	assert_false(v->in_long_mode || (v->efer & EFER_LMA));
	assert_true(v->efer & EFER_LME);
}

static void cr0(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t val, old;

	long_mode(f);
	old = v->cr0;
	assert_exc(cpu_write_cr(v, 0, old | 1ull << 32), EXC_GP, 0);
	assert_exc(cpu_write_cr(v, 0, old | CR0_NW), EXC_GP, 0);
	assert_exc(cpu_write_cr(v, 0, old & ~CR0_PE), EXC_GP, 0);
	/* reserved bits of the low half are ignored, ET stays */
	assert_int_equal(cpu_write_cr(v, 0, (old | 1 << 10) & ~CR0_ET), CPU_OK);
	assert_true(v->cr0 == old);
	spy_on(f);
	assert_int_equal(cpu_write_cr(v, 0, old ^ CR0_WP), CPU_OK);
	assert_int_equal(modes, 1);
	assert_int_equal(cpu_write_cr(v, 0, old | CR0_TS), CPU_OK);
	assert_int_equal(cpu_clts(v), CPU_OK);
	assert_false(v->cr0 & CR0_TS);
	assert_int_equal(modes, 3);
	/* LMSW sets PE but never clears it, and reaches four bits only */
	assert_int_equal(cpu_lmsw(v, 0xfff0 | CR0_MP), CPU_OK);
	assert_true(v->cr0 == ((old | CR0_MP) & ~(CR0_EM | CR0_TS)));
	assert_exc(cpu_read_cr(v, 1, &val), EXC_UD, 0);
	assert_exc(cpu_write_cr(v, 5, 0), EXC_UD, 0);
	go_user(f);
	assert_exc(cpu_read_cr(v, 0, &val), EXC_GP, 0);
	assert_exc(cpu_write_cr(v, 3, 0), EXC_GP, 0);
	assert_exc(cpu_clts(v), EXC_GP, 0);
	assert_exc(cpu_lmsw(v, 0), EXC_GP, 0);
	assert_exc(cpu_hlt(v), EXC_GP, 0);
	assert_exc(cpu_invlpg(v, 0), EXC_GP, 0);
	assert_exc(cpu_invpcid(v, 2, (uint64_t[2]){0}), EXC_GP, 0);
	assert_exc(cpu_read_dr(v, 0, &val), EXC_GP, 0);
}

static void cr3_and_pcid(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t root;

	long_mode(f);
	root = v->cr3;
	spy_on(f);
	assert_exc(cpu_write_cr(v, 3, root | CR3_NOFLUSH), EXC_GP, 0);
	assert_exc(cpu_write_cr(v, 3, root | 1ull << MMU_PHYS_BITS), EXC_GP, 0);
	assert_int_equal(cr3s, 0);
	assert_int_equal(cpu_write_cr(v, 3, root | 0x18), CPU_OK);
	assert_int_equal(cr3s, 1);
	assert_true(flushes == 1 && last_kind == TLB_FLUSH_PCID && !last_pcid);
	/* PCIDE: only with CR3[11:0] = 0 */
	assert_exc(cpu_write_cr(v, 4, v->cr4 | CR4_PCIDE), EXC_GP, 0);
	assert_int_equal(cpu_write_cr(v, 3, root), CPU_OK);
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 | CR4_PCIDE), CPU_OK);
	flushes = cr3s = 0;
	assert_int_equal(cpu_write_cr(v, 3, root | 0x123), CPU_OK);
	assert_true(flushes == 1 && last_kind == TLB_FLUSH_PCID &&
		    last_pcid == 0x123 && !last_noflush);
	assert_int_equal(cpu_write_cr(v, 3, root | 0x456 | CR3_NOFLUSH),
			 CPU_OK);
	assert_true(flushes == 1 && cr3s == 2 && last_noflush);
	assert_true(v->cr3 == (root | 0x456)); /* reads without bit 63 */
	/* paging cannot go while PCIDE is set */
	v->seg[SEG_CS] = seg_of(S_CODE32, ~0u, 0xc9b);
	assert_exc(cpu_write_cr(v, 0, CR0_PE), EXC_GP, 0);
}

static void flush_rules(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t d[2] = {0};

	long_mode(f);
	spy_on(f);
	/* CR4.PGE on or off: everything */
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 ^ CR4_PGE), CPU_OK);
	assert_true(flushes == 1 && last_kind == TLB_FLUSH_ALL && modes == 1);
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 ^ CR4_PGE), CPU_OK);
	assert_int_equal(flushes, 2);
	/* TSD: none */
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 | CR4_TSD), CPU_OK);
	assert_int_equal(flushes, 2);
	assert_int_equal(cpu_write_cr(v, 4, v->cr4), CPU_OK);
	assert_int_equal(modes, 3);
	/* PCIDE: none when set, all when cleared */
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 | CR4_PCIDE), CPU_OK);
	assert_int_equal(flushes, 2);
	assert_int_equal(cpu_write_cr(v, 3, v->cr3 | 5), CPU_OK);
	assert_int_equal(cpu_invlpg(v, 0xffff888000001234), CPU_OK);
	assert_true(flushes == 4 && last_kind == TLB_FLUSH_PAGE &&
		    last_pcid == 5 && last_gva == 0xffff888000001234);
	assert_int_equal(cpu_invlpg(v, NC), CPU_OK);
	assert_int_equal(flushes, 4);
	d[0] = 7;
	d[1] = 0x5000;
	assert_int_equal(cpu_invpcid(v, 0, d), CPU_OK);
	assert_true(last_kind == TLB_FLUSH_PAGE_PCID && last_pcid == 7 &&
		    last_gva == 0x5000);
	assert_int_equal(cpu_invpcid(v, 1, d), CPU_OK);
	assert_true(last_kind == TLB_FLUSH_PCID && last_pcid == 7);
	assert_int_equal(cpu_invpcid(v, 2, d), CPU_OK);
	assert_int_equal(last_kind, TLB_FLUSH_ALL);
	assert_int_equal(cpu_invpcid(v, 3, d), CPU_OK);
	assert_int_equal(last_kind, TLB_FLUSH_NONGLOBAL);
	flushes = 0;
	assert_exc(cpu_invpcid(v, 4, d), EXC_GP, 0);
	d[1] = NC;
	assert_exc(cpu_invpcid(v, 0, d), EXC_GP, 0);
	assert_int_equal(cpu_invpcid(v, 1, d), CPU_OK);
	d[0] = 0x1000;
	assert_exc(cpu_invpcid(v, 1, d), EXC_GP, 0);
	assert_int_equal(flushes, 1);
	assert_int_equal(cpu_write_cr(v, 4, v->cr4 & ~CR4_PCIDE), CPU_OK);
	assert_true(flushes == 2 && last_kind == TLB_FLUSH_ALL);
	d[0] = 1;
	d[1] = 0;
	assert_exc(cpu_invpcid(v, 0, d), EXC_GP, 0); /* PCID without PCIDE */
}

static void pae_pdptes(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;

	prot_mode(f);
	poke64(f, 0x9000, 0xa000 | PTE_P);
	v->cr3 = 0x9000;
	assert_int_equal(cpu_write_cr(v, 4, CR4_PAE), CPU_OK);
	assert_int_equal(cpu_write_cr(v, 0, v->cr0 | CR0_PG), CPU_OK);
	poke64(f, 0xb018, PTE_P | PTE_W); /* reserved in a PDPTE */
	assert_exc(cpu_write_cr(v, 3, 0xb000), EXC_GP, 0);
	assert_int_equal(v->cr3, 0x9000);
	poke64(f, 0xb018, PTE_W); /* not present: anything goes */
	assert_int_equal(cpu_write_cr(v, 3, 0xb000), CPU_OK);
}

static void debug_registers(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	uint64_t val;

	long_mode(f);
	assert_int_equal(cpu_write_dr(v, 0, ~0ull), CPU_OK);
	assert_int_equal(cpu_write_dr(v, 6, 0), CPU_OK);
	assert_int_equal(cpu_read_dr(v, 6, &val), CPU_OK);
	assert_int_equal(val, 0xffff0ff0);
	assert_int_equal(cpu_write_dr(v, 7, 0), CPU_OK);
	assert_int_equal(cpu_read_dr(v, 7, &val), CPU_OK);
	assert_int_equal(val, 0x400);
	assert_exc(cpu_write_dr(v, 6, 1ull << 32), EXC_GP, 0);
	assert_exc(cpu_write_dr(v, 7, 1ull << 32), EXC_GP, 0);
	/* 4 and 5 are 6 and 7, unless CR4.DE */
	assert_int_equal(cpu_read_dr(v, 5, &val), CPU_OK);
	assert_int_equal(val, 0x400);
	v->cr4 |= CR4_DE;
	assert_exc(cpu_read_dr(v, 4, &val), EXC_UD, 0);
	v->dr[7] |= DR7_GD;
	assert_int_equal(cpu_read_dr(v, 0, &val), CPU_EXC);
	assert_int_equal(v->exc.vector, EXC_DB);
	assert_int_equal(v->exc.dr6, DR6_BD);
}

static void flags(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	const uint64_t all = ~0ull;

	long_mode(f);
	assert_int_equal(cpu_write_flags(v, all, 8), CPU_OK);
	assert_true(v->rflags == (FL_R1 | FL_ARITH | FL_TF | FL_IF | FL_DF |
				  FL_IOPL | FL_NT | FL_AC | FL_ID));
	assert_int_equal(cpu_write_flags(v, 0, 2), CPU_OK);
	assert_true(v->rflags == (FL_R1 | FL_AC | FL_ID));
	v->rflags |= FL_RF;
	assert_int_equal(cpu_write_flags(v, 0, 8), CPU_OK);
	assert_true(v->rflags == FL_R1);
	/* ring 3: neither IF nor IOPL */
	go_user(f);
	assert_int_equal(cpu_write_flags(v, FL_IOPL, 8), CPU_OK);
	assert_true(v->rflags == (FL_R1 | FL_IF));
	assert_exc(cpu_cli(v), EXC_GP, 0);
	assert_exc(cpu_sti(v), EXC_GP, 0);
	v->rflags |= FL_IOPL;
	assert_int_equal(cpu_write_flags(v, 0, 8), CPU_OK);
	assert_true(v->rflags == (FL_R1 | FL_IOPL)); /* IF yes, IOPL no */
	assert_int_equal(cpu_sti(v), CPU_OK);
	assert_true((v->rflags & FL_IF) && v->irq_shadow);
	v->irq_shadow = 0;
	assert_int_equal(cpu_sti(v), CPU_OK); /* IF was set: no shadow */
	assert_false(v->irq_shadow);
	assert_int_equal(cpu_cli(v), CPU_OK);
	assert_false(v->rflags & FL_IF);
}

static void reset_state(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = f->v;
	void *fpu = v->fpu;

	assert_int_equal(v->seg[SEG_CS].base + v->rip, 0xfffffff0);
	assert_true(v->cr0 == 0x60000010 && v->rflags == 2);
	assert_int_equal(v->idtr.limit, 0xffff);
	assert_true(v->dr[6] == 0xffff0ff0 && v->dr[7] == 0x400);
	assert_int_equal(((uint16_t *)v->fpu)[0], 0x37f);
	assert_int_equal(((uint32_t *)v->fpu)[6], 0x1f80);
	long_mode(f);
	v->gpr[R_R15] = 1;
	v->tsc_offset = 5;
	vcpu_reset(v);
	assert_true(!v->in_long_mode && !v->efer && !v->gpr[R_R15] &&
		    !v->tsc_offset && v->xcr0 == 1);
	assert_true(v->vm == &f->vm && v->fpu == fpu && v->mem_cache);
}

static void dump(void **state)
{
	struct fix *f = *state;
	char buf[4096] = {0};
	FILE *t = tmpfile();

	long_mode(f);
	poke64(f, 0x8000, 0x90c3);
	assert_int_equal(vcpu_stop(f->v, "no %s", "way"), CPU_EXIT);
	vcpu_dump(f->v, fileno(t));
	rewind(t);
	assert_true(fread(buf, 1, sizeof(buf) - 1, t) > 500);
	fclose(t);
	assert_non_null(strstr(buf, "reason: no way"));
	assert_non_null(strstr(buf, "0000000000008000: c3 90"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(canonical_ones), TEST(unknown_and_rights),
		TEST(linux_reads),    TEST(memory_types),
		TEST(efer),	      TEST(tsc),
		TEST(apic_msrs),      TEST(kvmclock),
		TEST(into_long_mode), TEST(cr0),
		TEST(cr3_and_pcid),   TEST(flush_rules),
		TEST(pae_pdptes),     TEST(debug_registers),
		TEST(flags),	      TEST(reset_state),
		TEST(dump),
	};
	return cmocka_run_group_tests_name("msr", tests, NULL, NULL);
}
