/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers: one table, sorted by number, of ranges with a
 * reader, a writer and a sentence. No reader or no writer, or no entry at all:
 * #GP(0), which is how a kernel probes. The list is what a stock Linux 6.1
 * touches without its *_safe accessors on the CPU that cpuid.c describes.
 *
 * The local APIC's own (IA32_APIC_BASE, TSC_DEADLINE, 800h..8ffh) are asked of
 * v->irq.
 *
 * kvmclock: on the write of its MSR the page that the guest names is filled
 * once. It never has to be written again, because the host's TSC is constant
 * and there is one of it; time 0 is the creation of the VM.
 */
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "vmm/cpu/protection.h"
#include "vmm/vm.h"

struct msr;
typedef bool (*msr_get)(struct vcpu *v, uint32_t n, uint64_t *val);
typedef bool (*msr_set)(struct vcpu *v, uint32_t n, uint64_t val);

struct msr {
	uint32_t first, last;
	msr_get get; /* false: #GP */
	msr_set set;
	const char *help;
};

/* ---- plain ones ---- */

static bool get_zero(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = 0;
	return true;
}

static bool set_ignored(struct vcpu *v, uint32_t n, uint64_t val)
{
	return true;
}

/* A register that is a field: reader, and writers that differ in what they
 * take. */
#define MSR_READS(name, field)                                                 \
	static bool get_##name(struct vcpu *v, uint32_t n, uint64_t *val)      \
	{                                                                      \
		*val = v->field;                                               \
		return true;                                                   \
	}
#define MSR_WRITES(name, field, ok)                                            \
	static bool set_##name(struct vcpu *v, uint32_t n, uint64_t val)       \
	{                                                                      \
		if (!(ok))                                                     \
			return false;                                          \
		v->field = val;                                                \
		return true;                                                   \
	}
#define MSR_FIELD(name, field, ok)                                             \
	MSR_READS(name, field)                                                 \
	MSR_WRITES(name, field, ok)

MSR_FIELD(sysenter_cs, sysenter_cs, true)
MSR_FIELD(sysenter_esp, sysenter_esp, gva_canonical(val))
MSR_FIELD(sysenter_eip, sysenter_eip, gva_canonical(val))
MSR_FIELD(star, star, true)
MSR_FIELD(lstar, lstar, gva_canonical(val))
MSR_FIELD(cstar, cstar, gva_canonical(val))
MSR_FIELD(fmask, fmask, !(val >> 32))
MSR_FIELD(fs_base, seg[SEG_FS].base, gva_canonical(val))
MSR_FIELD(gs_base, seg[SEG_GS].base, gva_canonical(val))
MSR_FIELD(kernel_gs_base, kernel_gs_base, gva_canonical(val))
MSR_FIELD(tsc_aux, tsc_aux, !(val >> 32))
/* IBRS, STIBP, SSBD, BHI_DIS_S */
MSR_FIELD(spec_ctrl, spec_ctrl, !(val & ~0x407ull))
MSR_READS(misc_enable, misc_enable)
MSR_READS(efer, efer)
MSR_READS(pat, pat)
MSR_READS(mtrr_def, mtrr_def)
MSR_READS(tsc_adjust, tsc_adjust)
MSR_READS(kvm_wall_clock, kvm_wall_clock)
MSR_READS(kvm_system_time, kvm_system_time)

/* Bits a kernel may change: fast strings, XD disable's neighbours. The "not
 * available" bits stay. */
#define MISC_ENABLE_RW ((1ull << 0) | (1ull << 3) | (1ull << 16) | (1ull << 18))

static bool set_misc_enable(struct vcpu *v, uint32_t n, uint64_t val)
{
	v->misc_enable =
		(v->misc_enable & ~MISC_ENABLE_RW) | (val & MISC_ENABLE_RW);
	return true;
}

static bool set_pred_cmd(struct vcpu *v, uint32_t n, uint64_t val)
{
	return !(val & ~1ull); /* IBPB: nothing to do */
}

/* Only the bits of a debug control that we may ignore (LBR, BTF). */
static bool set_debugctl(struct vcpu *v, uint32_t n, uint64_t val)
{
	return !(val & ~3ull);
}

/* Linux writes 0, does a CPUID, which fills it in, and reads. */
static bool get_ucode(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = 0x2b000643ull << 32;
	return true;
}

static bool get_feature_control(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = 1; /* locked, everything off */
	return true;
}

static bool get_platform_info(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = (uint64_t)(cpu_tsc_khz() / 100000 & 0xff) << 8;
	return true;
}

/* Vol. 4: IA32_ARCH_CAPABILITIES. What this CPU need not be protected from. */
#define ARCH_CAPS                                                              \
	(1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ |                  \
	 1ull << 3 /* SKIP_L1DFL_VMENTRY */ | 1ull << 4 /* SSB_NO */ |         \
	 1ull << 5 /* MDS_NO */ | 1ull << 6 /* PSCHANGE_MC_NO */ |             \
	 1ull << 8 /* TAA_NO */ | 1ull << 13 /* SBDR_SSDP_NO */ |              \
	 1ull << 14 /* FBSDP_NO */ | 1ull << 15 /* PSDP_NO */ |                \
	 1ull << 20 /* BHI_NO */ | 1ull << 24 /* PBRSB_NO */ |                 \
	 1ull << 26 /* GDS_NO */ | 1ull << 27 /* RFDS_NO */ |                  \
	 1ull << 62 /* ITS_NO */)

static bool get_arch_caps(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = ARCH_CAPS;
	return true;
}

/* ---- EFER ---- */

static bool set_efer(struct vcpu *v, uint32_t n, uint64_t val)
{
	uint64_t writable = EFER_SCE | EFER_LME | EFER_NXE;
	uint64_t changed = (v->efer ^ val) & writable;

	if (val & ~(writable | EFER_LMA))
		return false;
	if ((changed & EFER_LME) && (v->cr0 & CR0_PG))
		return false;
	v->efer = (val & writable) | (v->efer & EFER_LMA);
	if (!changed)
		return true;
	mem_flush(v);
	if (v->ops && v->ops->mode_changed)
		v->ops->mode_changed(v);
	return true;
}

/* ---- TSC ---- */

static bool get_tsc(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = cpu_guest_tsc(v);
	return true;
}

/* Code that reads the TSC directly depends on the offset. */
static void move_tsc(struct vcpu *v, uint64_t by)
{
	if (!by)
		return;
	v->tsc_offset += by;
	v->tsc_adjust += by;
	if (v->ops && v->ops->mode_changed)
		v->ops->mode_changed(v);
}

static bool set_tsc(struct vcpu *v, uint32_t n, uint64_t val)
{
	move_tsc(v, val - cpu_guest_tsc(v));
	return true;
}

static bool set_tsc_adjust(struct vcpu *v, uint32_t n, uint64_t val)
{
	move_tsc(v, val - v->tsc_adjust);
	return true;
}

/* ---- the interrupt controller's ---- */

static bool get_apic(struct vcpu *v, uint32_t n, uint64_t *val)
{
	return v->irq && v->irq->rdmsr && !v->irq->rdmsr(v->irq_ctx, n, val);
}

static bool set_apic(struct vcpu *v, uint32_t n, uint64_t val)
{
	return v->irq && v->irq->wrmsr && !v->irq->wrmsr(v->irq_ctx, n, val);
}

static bool get_apic_base(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = v->apic_base;
	return !v->irq || !v->irq->rdmsr || !v->irq->rdmsr(v->irq_ctx, n, val);
}

static bool set_apic_base(struct vcpu *v, uint32_t n, uint64_t val)
{
	if (val >> MMU_PHYS_BITS || (val & 0x2ff))
		return false;
	if (v->irq && v->irq->wrmsr && v->irq->wrmsr(v->irq_ctx, n, val))
		return false;
	v->apic_base = val;
	return true;
}

/* ---- memory types (vol. 3, 11.11, 11.12) ---- */

static bool type_ok(uint64_t t)
{
	return t <= 6 && t != 2 && t != 3; /* UC WC WT WP WB */
}

/* Each byte is a type; PAT knows 7 (UC-) too. */
static bool types_ok(uint64_t val, bool pat)
{
	for (unsigned i = 0; i < 64; i += 8) {
		uint64_t t = val >> i & 0xff;

		if (!type_ok(t) && !(pat && t == 7))
			return false;
	}
	return true;
}

MSR_WRITES(pat, pat, types_ok(val, true))

#define MTRR_VARS 8

static bool get_mtrr_cap(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = MTRR_VARS | 1 << 8 /* fixed */ | 1 << 10 /* WC */;
	return true;
}

MSR_WRITES(mtrr_def, mtrr_def, !(val & ~0xcffull) && type_ok(val & 0xff))

static bool get_mtrr_var(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = v->mtrr_var[n - 0x200];
	return true;
}

static bool set_mtrr_var(struct vcpu *v, uint32_t n, uint64_t val)
{
	uint64_t rsvd =
		~((1ull << MMU_PHYS_BITS) - 1) | (n & 1 ? 0x7ff : 0xf00);

	if ((val & rsvd) || (!(n & 1) && !type_ok(val & 0xff)))
		return false;
	v->mtrr_var[n - 0x200] = val;
	return true;
}

static unsigned mtrr_fixed_index(uint32_t n)
{
	return n == 0x250 ? 0 : n < 0x268 ? n - 0x258 + 1 : n - 0x268 + 3;
}

static bool get_mtrr_fixed(struct vcpu *v, uint32_t n, uint64_t *val)
{
	*val = v->mtrr_fixed[mtrr_fixed_index(n)];
	return true;
}

MSR_WRITES(mtrr_fixed, mtrr_fixed[mtrr_fixed_index(n)], types_ok(val, false))

/* ---- kvmclock (the layout is the KVM guest interface's) ---- */

struct pvclock_time {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad[2];
};
_Static_assert(sizeof(struct pvclock_time) == 32, "guest interface");
#define PVCLOCK_TSC_STABLE 1

struct pvclock_wall {
	uint32_t version, sec, nsec;
};
_Static_assert(sizeof(struct pvclock_wall) == 12, "guest interface");

static uint64_t clock_ns(clockid_t c)
{
	struct timespec t;

	clock_gettime(c, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t vm_ns(struct vcpu *v)
{
	return (clock_ns(CLOCK_MONOTONIC) - v->vm->boot_ns) >>
	       v->vm->cfg.time_shift;
}

/* ns = ((tsc << shift) * mul) >> 32 (a negative shift goes right). */
static void pvclock_scale(uint32_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t hz = khz * 1000ull;

	*shift = 0;
	while (hz > 2000000000ull) {
		hz >>= 1;
		--*shift;
	}
	while (hz <= 1000000000ull) {
		hz <<= 1;
		++*shift;
	}
	*mul = (1000000000ull << 32) / hz;
}

static bool set_kvm_system_time(struct vcpu *v, uint32_t n, uint64_t val)
{
	struct pvclock_time t = {.version = 2, .flags = PVCLOCK_TSC_STABLE};

	v->kvm_system_time = val;
	if (!(val & 1) || !v->vm)
		return true;
	t.tsc_timestamp = cpu_guest_tsc(v);
	t.system_time = vm_ns(v);
	pvclock_scale(cpu_tsc_khz(), &t.tsc_to_system_mul, &t.tsc_shift);
	(void)p2m_copy_in(v->vm->p2m, val & ~1ull, &t, sizeof(t));
	return true;
}

static bool set_kvm_wall_clock(struct vcpu *v, uint32_t n, uint64_t val)
{
	struct pvclock_wall w = {.version = 2};
	uint64_t ns;

	v->kvm_wall_clock = val;
	if (!v->vm)
		return true;
	ns = clock_ns(CLOCK_REALTIME) - vm_ns(v);
	w.sec = ns / 1000000000;
	w.nsec = ns % 1000000000;
	(void)p2m_copy_in(v->vm->p2m, val, &w, sizeof(w));
	return true;
}

/* ---- the table ---- */

#define ONE(n) n, n
static const struct msr msrs[] = {
	{ONE(MSR_TSC), get_tsc, set_tsc, "time-stamp counter"},
	{ONE(0x17), get_zero, NULL, "platform id"},
	{ONE(MSR_APIC_BASE), get_apic_base, set_apic_base, "APIC base"},
	{ONE(0x3a), get_feature_control, NULL, "feature control: locked"},
	{ONE(MSR_TSC_ADJUST), get_tsc_adjust, set_tsc_adjust, "TSC adjust"},
	{ONE(MSR_SPEC_CTRL), get_spec_ctrl, set_spec_ctrl,
	 "speculation control: kept, without effect"},
	{ONE(MSR_PRED_CMD), NULL, set_pred_cmd, "prediction barrier"},
	{ONE(0x8b), get_ucode, set_ignored, "microcode revision"},
	{ONE(0xce), get_platform_info, NULL, "platform information"},
	{ONE(0xfe), get_mtrr_cap, NULL, "MTRR capabilities"},
	{ONE(MSR_ARCH_CAPS), get_arch_caps, NULL, "architectural capabilities"},
	{ONE(MSR_SYSENTER_CS), get_sysenter_cs, set_sysenter_cs, "SYSENTER CS"},
	{ONE(MSR_SYSENTER_ESP), get_sysenter_esp, set_sysenter_esp,
	 "SYSENTER RSP"},
	{ONE(MSR_SYSENTER_EIP), get_sysenter_eip, set_sysenter_eip,
	 "SYSENTER RIP"},
	{ONE(0x179), get_zero, NULL, "machine check capabilities: no banks"},
	{ONE(0x17a), get_zero, set_ignored, "machine check status"},
	{ONE(MSR_MISC_ENABLE), get_misc_enable, set_misc_enable,
	 "miscellaneous features"},
	{ONE(0x1d9), get_zero, set_debugctl, "debug control"},
	{0x200, 0x20f, get_mtrr_var, set_mtrr_var, "MTRR, variable"},
	{ONE(0x250), get_mtrr_fixed, set_mtrr_fixed, "MTRR, 64 KiB"},
	{0x258, 0x259, get_mtrr_fixed, set_mtrr_fixed, "MTRR, 16 KiB"},
	{0x268, 0x26f, get_mtrr_fixed, set_mtrr_fixed, "MTRR, 4 KiB"},
	{ONE(MSR_PAT), get_pat, set_pat, "page attribute table"},
	{ONE(0x2ff), get_mtrr_def, set_mtrr_def, "MTRR default type"},
	{ONE(MSR_TSC_DEADLINE), get_apic, set_apic, "TSC deadline"},
	{MSR_X2APIC_FIRST, MSR_X2APIC_LAST, get_apic, set_apic, "x2APIC"},
	{ONE(0x4b564d00), get_kvm_wall_clock, set_kvm_wall_clock,
	 "kvmclock: wall clock at boot"},
	{ONE(0x4b564d01), get_kvm_system_time, set_kvm_system_time,
	 "kvmclock: time page"},
	{ONE(MSR_EFER), get_efer, set_efer, "extended features"},
	{ONE(MSR_STAR), get_star, set_star, "SYSCALL selectors"},
	{ONE(MSR_LSTAR), get_lstar, set_lstar, "SYSCALL target, 64-bit"},
	{ONE(MSR_CSTAR), get_cstar, set_cstar, "SYSCALL target, compat"},
	{ONE(MSR_FMASK), get_fmask, set_fmask, "SYSCALL flag mask"},
	{ONE(MSR_FS_BASE), get_fs_base, set_fs_base, "FS base"},
	{ONE(MSR_GS_BASE), get_gs_base, set_gs_base, "GS base"},
	{ONE(MSR_KERNEL_GS_BASE), get_kernel_gs_base, set_kernel_gs_base,
	 "GS base for SWAPGS"},
	{ONE(MSR_TSC_AUX), get_tsc_aux, set_tsc_aux, "RDTSCP and RDPID value"},
};

static const struct msr *msr_find(uint32_t n)
{
	unsigned lo = 0, hi = ARRAY_SIZE(msrs);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (n < msrs[mid].first)
			hi = mid;
		else if (n > msrs[mid].last)
			lo = mid + 1;
		else
			return &msrs[mid];
	}
	return NULL;
}

enum cpu_status cpu_rdmsr(struct vcpu *v, uint32_t msr, uint64_t *val)
{
	const struct msr *m = v->cpl ? NULL : msr_find(msr);

	if (!m || !m->get || !m->get(v, msr, val))
		return vcpu_raise(v, EXC_GP);
	return CPU_OK;
}

enum cpu_status cpu_wrmsr(struct vcpu *v, uint32_t msr, uint64_t val)
{
	const struct msr *m = v->cpl ? NULL : msr_find(msr);

	if (!m || !m->set || !m->set(v, msr, val))
		return vcpu_raise(v, EXC_GP);
	return CPU_OK;
}
