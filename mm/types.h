/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_TYPES_H
#define SARDINE_MM_TYPES_H
/*
 * The vocabulary of Sardine's memory.
 *
 *   GVA / VPN   guest virtual address / its page number (what guest code uses)
 *   GPA / PPN   guest "physical" address / page number (what guest page tables
 *               and devices use)
 *   MPN         a machine frame: one 4 KiB page in a file of Sardine's. Either
 *               page P of a VM's own memfd (its natural offset), or a frame of
 *               a share group's pool memfd.
 *   HVA         a virtual address of the monitor process.
 *
 * The page numbers are distinct struct types, in release builds too: passing
 * one for another does not compile.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT	 12
#define PAGE_SIZE	 4096ul
#define PAGE_MASK	 (~(PAGE_SIZE - 1))
#define LARGE_PAGE_SHIFT 21
#define LARGE_PAGE_SIZE	 (1ul << LARGE_PAGE_SHIFT)

typedef uint64_t gva_t;
typedef uint64_t gpa_t;
typedef struct {
	uint64_t n;
} vpn_t;
typedef struct {
	uint64_t n;
} ppn_t;
typedef struct {
	uint64_t n;
} mpn_t;

#define PPN_NONE ((ppn_t){~0ull})
#define MPN_NONE ((mpn_t){~0ull})

static inline ppn_t gpa_to_ppn(gpa_t a)
{
	return (ppn_t){a >> PAGE_SHIFT};
}
static inline gpa_t ppn_to_gpa(ppn_t p)
{
	return p.n << PAGE_SHIFT;
}
static inline vpn_t gva_to_vpn(gva_t a)
{
	return (vpn_t){a >> PAGE_SHIFT};
}
static inline bool ppn_eq(ppn_t a, ppn_t b)
{
	return a.n == b.n;
}

#define ARRAY_SIZE(a)	      (sizeof(a) / sizeof((a)[0]))
#define container_of(p, t, m) ((t *)((char *)(p)-offsetof(t, m)))
#define likely(x)	      __builtin_expect(!!(x), 1)
#define unlikely(x)	      __builtin_expect(!!(x), 0)
#endif
