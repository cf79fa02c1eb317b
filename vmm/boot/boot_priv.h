/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOOT_PRIV_H
#define SARDINE_VMM_BOOT_PRIV_H
/* What the loaders share; for vmm/boot/ alone. */
#include "mm/types.h"
#include "vmm/vm.h"

/*
 * Low guest memory, as every loader leaves it:
 *	0x0		free (the real-mode vectors' page)
 *	0x1000..0x9f000	what loaders allocate with boot_alloc_low
 *	0x9fc00		end of conventional memory
 *	0xe0000		ACPI tables, the RSDP first
 *	1 MiB ..	RAM: kernel, initrd
 */
#define BOOT_LOW_START	0x1000ull
#define BOOT_LOW_END	0x9f000ull
#define BOOT_CONV_END	0x9fc00ull
#define BOOT_ACPI_START 0xe0000ull
#define BOOT_ACPI_END	0x100000ull
#define BOOT_MIB	0x100000ull
#define BOOT_4G		(1ull << 32)

#define BOOT_HEAD_MAX	8192 /* Multiboot's header is in here, or nowhere */
#define BOOT_RANGES_MAX 96
#define BOOT_MAP_MAX	8

struct boot_file {
	const char *path;
	int fd;		    /* -1: there is none */
	const uint8_t *mem; /* the bytes themselves, when not in a file */
	bool borrowed;	    /* of vm->cfg: not ours to close */
	uint64_t size;
};

enum boot_mem_type { BOOT_MEM_RAM = 1, BOOT_MEM_RESERVED = 2 };
struct boot_mem {
	uint64_t start, len;
	enum boot_mem_type type;
};
struct boot_range {
	uint64_t start, end; /* [start, end) */
};

struct boot_ctx {
	struct vm *vm;
	struct p2m *p2m;
	uint64_t low; /* RAM is at [0, low) and [4 GiB, 4 GiB + high) */
	uint64_t high;
	struct boot_file kernel, initrd;
	const char *cmdline;	     /* "" when there is none */
	uint8_t head[BOOT_HEAD_MAX]; /* the kernel file's first bytes */
	size_t head_len;
	/* Guest memory in use already: pairwise disjoint. */
	struct boot_range taken[BOOT_RANGES_MAX];
	unsigned n_taken;
	/* The memory map as the guest is told it, ascending. */
	struct boot_mem map[BOOT_MAP_MAX];
	unsigned n_map;
	gpa_t rsdp, gdt;
	char *err;
	size_t errlen;
};

/* Writes the line into c->err; answers -e. */
int boot_fail(struct boot_ctx *c, int e, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- files (file.c): untrusted, may change under us ---- */
/* what: "kernel" or "initrd", for the message. Refuses what is not a regular
 * file, and an empty one. 0 or boot_fail. */
int boot_file_open(struct boot_ctx *c, const char *what, const char *path,
		   int have, struct boot_file *f);
void boot_file_close(struct boot_file *f);
/* Exactly len bytes at off, or boot_fail("truncated"). */
int boot_file_read(struct boot_ctx *c, const struct boot_file *f, uint64_t off,
		   void *buf, size_t len);
/* The same, into guest memory. */
int boot_file_copy_in(struct boot_ctx *c, const struct boot_file *f,
		      uint64_t off, gpa_t gpa, uint64_t len);

/* ---- guest memory (place.c) ---- */
#define BOOT_NOWHERE (~0ull)
/* Is [start, start + len) RAM that nobody has taken? No overflow. */
bool boot_is_free(const struct boot_ctx *c, uint64_t start, uint64_t len);
/* Take it. False: not free. */
bool boot_take(struct boot_ctx *c, uint64_t start, uint64_t len);
/* Take len bytes, page aligned; BOOT_NOWHERE when there is no room. Under
 * 640 KiB, for tables; as high as possible below limit and 4 GiB; as low as
 * possible from start on. The last two stay above 1 MiB. */
gpa_t boot_alloc_low(struct boot_ctx *c, uint64_t len);
gpa_t boot_alloc_top(struct boot_ctx *c, uint64_t len, uint64_t limit);
gpa_t boot_alloc_from(struct boot_ctx *c, uint64_t start, uint64_t len);
/* Take what is free in [start, end). */
bool boot_take_rest(struct boot_ctx *c, uint64_t start, uint64_t end);
/* Bytes in; 0 or boot_fail. */
int boot_write(struct boot_ctx *c, gpa_t gpa, const void *buf, size_t len);
/* Make it all zeroes, without touching pages that are zero already. */
int boot_zero(struct boot_ctx *c, gpa_t gpa, uint64_t len);
/* Read the initrd (if any) to gpa. */
int boot_load_initrd(struct boot_ctx *c, gpa_t gpa);
/* boot_fail: the initrd has no place. */
int boot_initrd_too_large(struct boot_ctx *c);

/* ---- entry states (entry.c) ---- */
/* Selectors of the GDT that boot_build_gdt leaves in guest memory. */
#define BOOT_CS32 0x08
#define BOOT_CS64 0x10 /* __BOOT_CS */
#define BOOT_DS	  0x18 /* __BOOT_DS */
#define BOOT_TSS  0x20
int boot_build_gdt(struct boot_ctx *c);
/* Long mode at rip, first 4 GiB identity-mapped, RSI = rsi. */
int boot_enter_long(struct boot_ctx *c, gpa_t rip, uint64_t rsi);
/* 32-bit protected mode, flat, no paging. */
void boot_enter_flat32(struct boot_ctx *c, uint32_t eip, uint32_t eax,
		       uint32_t ebx);

/* ---- loaders; c->head is filled; 0 or boot_fail ---- */
bool linux_is_bzimage(const struct boot_ctx *c);
int linux_load(struct boot_ctx *c);
/* Offset of the Multiboot header in c->head, or -1. */
long multiboot_find_header(const struct boot_ctx *c);
int multiboot_load(struct boot_ctx *c, size_t header);
int pvh_load(struct boot_ctx *c);

/* ---- ELF (elf.c) ---- */
struct elf_image {
	bool is64;
	uint64_t entry;	     /* e_entry */
	uint64_t phys_start; /* lowest byte loaded */
	uint64_t phys_end;   /* one past the highest */
	uint64_t entry_phys; /* e_entry, by the segment that holds it */
	bool has_pvh;
	uint64_t pvh_entry; /* physical */
};
bool elf_is(const struct boot_ctx *c);
/* Check the headers; find the PVH note. */
int elf_parse(struct boot_ctx *c, struct elf_image *e);
/* Put all PT_LOADs at their physical addresses. */
int elf_load(struct boot_ctx *c, struct elf_image *e);

static inline uint16_t get16(const void *p)
{
	uint16_t v;

	__builtin_memcpy(&v, p, 2);
	return v;
}
static inline uint32_t get32(const void *p)
{
	uint32_t v;

	__builtin_memcpy(&v, p, 4);
	return v;
}
static inline uint64_t get64(const void *p)
{
	uint64_t v;

	__builtin_memcpy(&v, p, 8);
	return v;
}
static inline void put16(void *p, uint16_t v)
{
	__builtin_memcpy(p, &v, 2);
}
static inline void put32(void *p, uint32_t v)
{
	__builtin_memcpy(p, &v, 4);
}
static inline void put64(void *p, uint64_t v)
{
	__builtin_memcpy(p, &v, 8);
}
static inline uint64_t align_up(uint64_t v, uint64_t a)
{
	return (v + a - 1) & ~(a - 1);
}
#endif
