/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run-time of the guest cases.
 *
 * A case is a bare-metal 64-bit program: main() does its checks and returns;
 * the run-time prints the verdict and ends the run through the debug-exit port
 * (0x10: passed, 0x11: failed).
 *
 * Its centre is run(): it loads *every* register, RIP, RSP, RFLAGS, CS and SS
 * from a struct regs with one IRETQ, and whatever ends the code - a fault, or
 * `int $0x81` (SNIP adds one at the end) - is caught on a stack of its own (IST
 * 1), written back whole to the struct, with vector, error code and CR2. So a
 * piece of code can be tested with any RSP, at CPL 0 or 3, and state at a fault
 * is compared register by register.
 */
#ifndef GUEST_RT_H
#define GUEST_RT_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/guest/rt/sel.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int64_t s64;

/* The order is that of trap.S. */
struct regs {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx,
		rax;
	u64 err, vec;
	u64 rip, cs, rflags, rsp, ss;
	u64 cr2; /* at vector 14, else 0 */
};
#define NR_GPR 16
extern const char *const gpr_names[NR_GPR];
/* n in the encoding's order: rax rcx rdx rbx rsp rbp rsi rdi r8.. */
u64 *reg_n(struct regs *r, unsigned n);

/* Distinctive values in all registers, IF clear; at CPL 0 on the snippets'
 * stack, or at CPL 3 on the user stack. */
void regs_kernel(struct regs *r, const void *code);
void regs_user(struct regs *r, const void *code);
void run(struct regs *r);
/* The same, and checks that it ended at a VEC_DONE. */
#define run_ok(r)                                                             \
	do {                                                                  \
		run(r);                                                       \
		CHECK((r)->vec == VEC_DONE, "ended by vector %u error %lx "   \
		      "rip %lx cr2 %lx", (unsigned)(r)->vec, (r)->err,        \
		      (r)->rip, (r)->cr2);                                    \
	} while (0)
/* All registers (not rip, not flags) as in a, but those in the mask (bit n:
 * register n in the encoding's order). */
#define same_regs(a, b, mask) same_regs_at(__FILE__, __LINE__, a, b, mask)
bool same_regs_at(const char *file, int line, const struct regs *a,
		  const struct regs *b, unsigned mask);
/* Vector, error, and rip of a fault. */
#define expect_fault(r, v, e, at)                                             \
	expect_fault_at(__FILE__, __LINE__, r, v, e, (u64)(at))
bool expect_fault_at(const char *file, int line, const struct regs *r, u64 vec,
		     u64 err, u64 rip);
#define expect_pf(r, e, at, cr2)                                              \
	expect_pf_at(__FILE__, __LINE__, r, e, (u64)(at), (u64)(cr2))
bool expect_pf_at(const char *file, int line, const struct regs *r, u64 err,
		  u64 rip, u64 cr2);

extern char done[]; /* INT VEC_DONE by itself */
/* Where QEMU's TCG is known to differ from the SDM and from the CPUs: non-
 * canonical stack accesses are #GP there, and a read-modify-write of an absent
 * page reports a read. These make the report what it should be, under TCG only. */
void tcg_ss(struct regs *r);
void tcg_rmw(struct regs *r);

/* A snippet: `name` is its first byte, ends in INT 0x81; local labels may be
 * made with L(name, x) -> symbol name_x. USNIP goes to user pages. */
#define SNIP_IN(sec, name, body)                                              \
	asm(".pushsection " sec ",\"awx\",@progbits\n.balign 16\n.globl " #name         \
	    "\n" #name ":\n" body "\nint $0x81\n.globl " #name "_end\n" #name \
	    "_end: ud2\n.popsection\n");                                      \
	extern char name[], name##_end[]
#define SNIP(name, body) SNIP_IN(".snip", name, body)
#define USNIP(name, body) SNIP_IN(".usersnip", name, body)
#define USER_DATA __attribute__((section(".user.data"), aligned(16)))

/* ---- reports ---- */
void printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void fail_at(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void check_failed(const char *file, int line, const char *cond,
		  const char *fmt, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(cond, ...)                                                      \
	({                                                                    \
		bool ok_ = (cond);                                            \
		if (!ok_)                                                     \
			check_failed(__FILE__, __LINE__, #cond,               \
				     "" __VA_ARGS__);                         \
		ok_;                                                          \
	})
#define CHECK_EQ(a, b)                                                        \
	({                                                                    \
		u64 a_ = (u64)(a), b_ = (u64)(b);                             \
		if (a_ != b_)                                                 \
			fail_at(__FILE__, __LINE__, "%s is %lx, not %lx",     \
				#a, a_, b_);                                  \
		a_ == b_;                                                     \
	})
void skip(const char *what);	 /* printed: this was not tested */
void part(const char *name);	 /* a heading for later failures */
void finish(void) __attribute__((noreturn));
extern unsigned failures;
int main(void);

/* ---- the machine ---- */
#define FL_CF 0x1ull
#define FL_PF 0x4ull
#define FL_AF 0x10ull
#define FL_ZF 0x40ull
#define FL_SF 0x80ull
#define FL_TF 0x100ull
#define FL_IF 0x200ull
#define FL_DF 0x400ull
#define FL_OF 0x800ull
#define FL_IOPL 0x3000ull
#define FL_NT 0x4000ull
#define FL_RF 0x10000ull
#define FL_AC 0x40000ull
#define FL_ID 0x200000ull
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

static inline void outb(u16 p, u8 v)
{
	asm volatile("outb %0, %1" ::"a"(v), "Nd"(p));
}
static inline u8 inb(u16 p)
{
	u8 v;
	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(p));
	return v;
}
static inline u64 rdmsr(u32 m)
{
	u32 a, d;
	asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(m));
	return a | (u64)d << 32;
}
static inline void wrmsr(u32 m, u64 v)
{
	asm volatile("wrmsr" ::"a"((u32)v), "d"((u32)(v >> 32)), "c"(m)
		     : "memory");
}
#define RW_CR(n)                                                              \
	static inline u64 read_cr##n(void)                                    \
	{                                                                     \
		u64 v;                                                        \
		asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory");       \
		return v;                                                     \
	}                                                                     \
	static inline void write_cr##n(u64 v)                                 \
	{                                                                     \
		asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory");          \
	}
RW_CR(0)
RW_CR(2)
RW_CR(3)
RW_CR(4)
RW_CR(8)
#undef RW_CR
static inline void invlpg(u64 a)
{
	asm volatile("invlpg (%0)" ::"r"(a) : "memory");
}
static inline u64 rdtsc(void)
{
	u32 a, d;
	asm volatile("rdtsc" : "=a"(a), "=d"(d));
	return a | (u64)d << 32;
}
static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline void sti(void) { asm volatile("sti" ::: "memory"); }
struct cpuid {
	u32 a, b, c, d;
};
struct cpuid cpuid(u32 leaf, u32 sub);
bool is_tcg(void); /* under QEMU's TCG, whose own limits we know */
bool has_pcid(void), has_invpcid(void), has_fsgsbase(void), has_umip(void),
	has_smep(void), has_smap(void), has_avx(void), has_avx2(void), has_avx512(void),
	has_xsave(void), has_xsavec(void), has_x2apic(void),
	has_tsc_deadline(void), has_rdtscp(void), has_rdpid(void),
	has_1g(void), has_pge(void), has_bmi2(void), has_bmi1(void);
#define CR0_MP 0x2ull
#define CR0_EM 0x4ull
#define CR0_TS 0x8ull
#define CR0_WP 0x10000ull
#define CR0_AM 0x40000ull
#define CR4_TSD 0x4ull
#define CR4_PGE 0x80ull
#define CR4_UMIP 0x800ull
#define CR4_FSGSBASE 0x10000ull
#define CR4_PCIDE 0x20000ull
#define CR4_OSXSAVE 0x40000ull
#define CR4_SMEP 0x100000ull
#define CR4_SMAP 0x200000ull
#define NOFLUSH (1ull << 63)
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KGS_BASE 0xc0000102
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
/* OSXSAVE on, XCR0 = x87 | SSE | AVX | AVX-512 as far as there is one. False:
 * none. */
bool xsave_enable(void);

/* ---- descriptor tables ---- */
extern u64 gdt[];
struct gate {
	u16 off0, sel, attr, off1;
	u32 off2, zero;
};
extern struct gate idt[256];
/* Fill one IDT entry: dpl, interrupt stack (0 none), trap gate or not. */
void set_gate(unsigned vec, void *entry, unsigned dpl, unsigned ist, bool trap);
void set_ist(unsigned vec, unsigned ist);
void gate_default(unsigned vec);
struct tss {
	u32 res0;
	u64 rsp[3];
	u64 ist[8]; /* [1..7]; [0] is reserved */
	u64 res1;
	u16 res2;
	u16 iomap;
	u8 bits[8193];
} __attribute__((packed));
extern struct tss tss;
/* A handler for a vector: called on the interrupt's stack, may change the
 * registers, and returning goes on. */
extern void (*handlers[256])(struct regs *r);
/* What happens without one: run() ends here. For handlers that do not want it
 * after all; does not return. */
void trap_default(struct regs *r) __attribute__((noreturn));
extern volatile u64 irq_count[256];

/* ---- memory ---- */
#define PG 4096ull
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_PCD 0x10ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u
#define KRW (PTE_P | PTE_W)
#define URW (PTE_P | PTE_W | PTE_U)
#define SLOT (1ull << 39)
/* A canonical address in slot n (0..511). */
static inline u64 slot_va(unsigned n, u64 off)
{
	return ((u64)n << 39 | off) | (n >= 256 ? 0xffffull << 48 : 0);
}
void *page_alloc(void);		  /* a zeroed 4 KiB page, identity mapped */
void *pages_alloc(unsigned n, u64 align);
void page_free(void *p);
u64 root_new(void);		  /* shares entry 0 (the image) */
u64 root_now(void);		  /* of CR3, without PCID */
typedef volatile u64 pte_t; /* the CPU writes it, too */
/* The entry of va at a level (1: 4 KiB .. 4: PML4E), made on the way if mk;
 * NULL if there is none. */
pte_t *pte_at(u64 root, u64 va, unsigned level, bool mk);
/* One leaf; no flush. */
void map4k(u64 root, u64 va, u64 pa, u64 flags);
void map2m(u64 root, u64 va, u64 pa, u64 flags);
void map1g(u64 root, u64 va, u64 pa, u64 flags);
/* In the present root, with INVLPG. NULL frame: allocates one. Returns the
 * frame's address as identity mapped. */
void *map_page(u64 va, void *frame, u64 flags);
void unmap_page(u64 va);
void protect_page(u64 va, u64 flags);
void flush_all(void);
#define USTACK_TOP ((u64)user_stack + sizeof(user_stack) - 64)
#define KSTACK_TOP ((u64)snip_stack + sizeof(snip_stack) - 64)
extern u8 user_stack[4 * 4096], snip_stack[4 * 4096];

/* ---- local APIC: x2APIC when there is one ---- */
void apic_init(void);
void apic_write(unsigned reg, u32 val); /* reg: the xAPIC offset */
u32 apic_read(unsigned reg);
void apic_self_ipi(u8 vec);
void apic_eoi(void);
/* Fires once after about that many TSC cycles (one-shot, calibrated). */
void apic_oneshot(u8 vec, u64 cycles);
void apic_deadline(u8 vec, u64 tsc); /* needs has_tsc_deadline() */
void apic_timer_stop(void);
extern bool apic_x2;
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_ISR 0x100
#define APIC_IRR 0x200

void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
int memcmp(const void *, const void *, size_t);
u64 rnd(void); /* a fixed sequence */
#endif
