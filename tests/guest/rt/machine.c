/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID, page tables, local APIC. The contract is in rt.h. */
#include "tests/guest/rt/rt.h"

/* ---- CPUID ---- */
struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;

	asm volatile("cpuid"
		     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
		     : "a"(leaf), "c"(sub));
	return r;
}

bool is_tcg(void)
{
	struct cpuid r = cpuid(0x40000000, 0);

	return r.b == 0x54474354 && r.c == 0x43544743 && r.d == 0x47435447;
}

static struct cpuid leaf(u32 n, u32 sub)
{
	struct cpuid none = { 0 };
	u32 max = cpuid(n & 0x80000000, 0).a;

	return n <= max ? cpuid(n, sub) : none;
}
#define FEATURE(name, l, s, reg, bit)                                         \
	bool has_##name(void) { return leaf(l, s).reg >> (bit) & 1; }
FEATURE(pcid, 1, 0, c, 17)
FEATURE(x2apic, 1, 0, c, 21)
FEATURE(tsc_deadline, 1, 0, c, 24)
FEATURE(xsave, 1, 0, c, 26)
FEATURE(avx, 1, 0, c, 28)
FEATURE(pge, 1, 0, d, 13)
FEATURE(fsgsbase, 7, 0, b, 0)
FEATURE(bmi1, 7, 0, b, 3)
FEATURE(avx2, 7, 0, b, 5)
FEATURE(smep, 7, 0, b, 7)
FEATURE(avx512, 7, 0, b, 16)
FEATURE(bmi2, 7, 0, b, 8)
FEATURE(invpcid, 7, 0, b, 10)
FEATURE(smap, 7, 0, b, 20)
FEATURE(umip, 7, 0, c, 2)
FEATURE(rdpid, 7, 0, c, 22)
FEATURE(xsavec, 13, 1, a, 1)
FEATURE(rdtscp, 0x80000001, 0, d, 27)
FEATURE(1g, 0x80000001, 0, d, 26)

bool xsave_enable(void)
{
	u32 m = has_avx512() ? 0xe7 : has_avx() ? 7 : 3;

	if (!has_xsave())
		return false;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	asm volatile("xsetbv" ::"a"(m), "d"(0), "c"(0));
	return true;
}

/* ---- memory: frames from 16 MiB up, under the 2 MiB identity pages ---- */
static u64 next_frame = 16ull << 20;
static u64 free_list;

void *pages_alloc(unsigned n, u64 align)
{
	u64 a = (next_frame + align - 1) & ~(align - 1);

	next_frame = a + n * PG;
	if (next_frame > 62ull << 20) {
		fail_at("page_alloc", 0, "out of guest memory");
		finish();
	}
	memset((void *)a, 0, n * PG);
	return (void *)a;
}

void *page_alloc(void)
{
	u64 a = free_list;

	if (!a)
		return pages_alloc(1, PG);
	free_list = *(u64 *)a;
	return memset((void *)a, 0, PG);
}

void page_free(void *p)
{
	*(u64 *)p = free_list;
	free_list = (u64)p;
}

u64 root_now(void)
{
	return read_cr3() & PTE_ADDR;
}

u64 root_new(void)
{
	u64 *r = page_alloc();

	r[0] = *(u64 *)root_now();
	return (u64)r;
}

pte_t *pte_at(u64 root, u64 va, unsigned level, bool mk)
{
	pte_t *t = (pte_t *)root;

	for (unsigned l = 4;; l--) {
		pte_t *e = &t[va >> (12 + 9 * (l - 1)) & 511];

		if (l == level)
			return e;
		if (!(*e & PTE_P)) {
			if (!mk)
				return NULL;
			*e = (u64)page_alloc() | URW;
		} else if (*e & PTE_PS && l < 4) {
			return NULL;
		}
		t = (pte_t *)(*e & PTE_ADDR);
	}
}

static void map_at(u64 root, u64 va, unsigned level, u64 val)
{
	pte_t *e = pte_at(root, va, level, true);

	if (!e) {
		fail_at("map", 0, "large page in the way at %lx", va);
		finish();
	}
	*e = val;
}

void map4k(u64 root, u64 va, u64 pa, u64 flags)
{
	map_at(root, va, 1, pa | flags);
}

void map2m(u64 root, u64 va, u64 pa, u64 flags)
{
	map_at(root, va, 2, pa | flags | PTE_PS);
}

void map1g(u64 root, u64 va, u64 pa, u64 flags)
{
	map_at(root, va, 3, pa | flags | PTE_PS);
}

void *map_page(u64 va, void *frame, u64 flags)
{
	if (!frame)
		frame = page_alloc();
	map4k(root_now(), va, (u64)frame, flags);
	invlpg(va);
	return frame;
}

void unmap_page(u64 va)
{
	pte_t *e = pte_at(root_now(), va, 1, false);

	if (e)
		*e = 0;
	invlpg(va);
}

void protect_page(u64 va, u64 flags)
{
	pte_t *e = pte_at(root_now(), va, 1, false);

	*e = (*e & PTE_ADDR) | flags;
	invlpg(va);
}

void flush_all(void)
{
	u64 cr4 = read_cr4();

	write_cr4(cr4 ^ CR4_PGE);
	write_cr4(cr4);
	write_cr3(read_cr3());
}

extern char user_start[], user_end[];
void memory_init(void)
{
	for (u64 a = (u64)user_start; a < (u64)user_end; a += PG)
		*pte_at(root_now(), a, 1, false) |= PTE_U;
	write_cr3(read_cr3());
}

/* ---- local APIC ---- */
bool apic_x2;
static u64 tsc_per_tick;

void apic_write(unsigned reg, u32 val)
{
	if (apic_x2)
		wrmsr(0x800 + reg / 16, val);
	else
		*(volatile u32 *)(0xfee00000ull + reg) = val;
}

u32 apic_read(unsigned reg)
{
	if (apic_x2)
		return rdmsr(0x800 + reg / 16);
	return *(volatile u32 *)(0xfee00000ull + reg);
}

void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

void apic_self_ipi(u8 vec)
{
	if (apic_x2)
		wrmsr(0x83f, vec);
	else
		apic_write(0x300, 0x44000 | vec); /* shorthand: self */
}

void apic_timer_stop(void)
{
	apic_write(0x320, 0x10000 | 0xff);
	apic_write(0x380, 0);
}

void apic_init(void)
{
	u64 t, c0, c1;

	apic_x2 = has_x2apic();
	wrmsr(0x1b, (rdmsr(0x1b) & ~0xc00ull) | 0x800);
	if (apic_x2)
		wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
	apic_write(0xf0, 0x1ff); /* on; spurious vector 0xff */
	apic_write(APIC_TPR, 0);
	/* How many TSC cycles is a tick of the timer (divided by 16)? */
	apic_write(0x320, 0x10000 | 0xff);
	apic_write(0x3e0, 3);
	apic_write(0x380, 0xffffffff);
	t = rdtsc();
	c0 = apic_read(0x390);
	while (rdtsc() - t < 4000000)
		;
	c1 = apic_read(0x390);
	t = rdtsc() - t;
	tsc_per_tick = c0 > c1 ? t / (c0 - c1) : 0;
	if (!tsc_per_tick)
		tsc_per_tick = 1;
	apic_write(0x380, 0);
}

void apic_oneshot(u8 vec, u64 cycles)
{
	u64 n = cycles / tsc_per_tick;

	apic_write(0x320, vec);
	apic_write(0x380, n ? n : 1);
}

void apic_deadline(u8 vec, u64 tsc)
{
	apic_write(0x320, 0x40000 | vec);
	asm volatile("mfence" ::: "memory");
	wrmsr(0x6e0, tsc);
}
