/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF kernels, 32 and 64 bits: program headers only (System V ABI, ch. 5).
 * Segments go to their *physical* addresses. Nothing is believed: counts are
 * bounded, sums are compared before they are made, and boot_take refuses what
 * is not RAM or overlaps something else.
 */
#include <elf.h>
#undef PF_W /* a page fault bit to us */
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot_priv.h"

#define MAX_PHDRS	      64 /* < BOOT_RANGES_MAX */
#define MAX_NOTES	      65536
#define XEN_NOTE_PHYS32_ENTRY 18

/* The fields that both classes have, widened. */
struct phdr {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz;
};

bool elf_is(const struct boot_ctx *c)
{
	return c->head_len >= sizeof(Elf64_Ehdr) &&
	       !memcmp(c->head, ELFMAG, SELFMAG);
}

static int bad(struct boot_ctx *c, const char *why)
{
	return boot_fail(c, ENOEXEC,
			 "kernel %s: ELF file with %s: get the file again",
			 c->kernel.path, why);
}

static bool class64(const struct boot_ctx *c)
{
	return c->head[EI_CLASS] == ELFCLASS64;
}

static unsigned phdr_count(const struct boot_ctx *c)
{
	return class64(c) ? ((const Elf64_Ehdr *)c->head)->e_phnum
			  : ((const Elf32_Ehdr *)c->head)->e_phnum;
}

static int read_phdr(struct boot_ctx *c, unsigned i, struct phdr *p)
{
	union {
		Elf32_Phdr p32;
		Elf64_Phdr p64;
	} u;
	uint64_t off = class64(c) ? ((const Elf64_Ehdr *)c->head)->e_phoff
				  : ((const Elf32_Ehdr *)c->head)->e_phoff;
	size_t n = class64(c) ? sizeof(u.p64) : sizeof(u.p32);
	int r;

	if (off > c->kernel.size)
		return bad(c, "program headers outside the file (truncated?)");
	r = boot_file_read(c, &c->kernel, off + i * n, &u, n);
	if (r)
		return r;
	if (class64(c))
		*p = (struct phdr){u.p64.p_type,   u.p64.p_offset,
				   u.p64.p_vaddr,  u.p64.p_paddr,
				   u.p64.p_filesz, u.p64.p_memsz};
	else
		*p = (struct phdr){u.p32.p_type,   u.p32.p_offset,
				   u.p32.p_vaddr,  u.p32.p_paddr,
				   u.p32.p_filesz, u.p32.p_memsz};
	return 0;
}

static int check_header(struct boot_ctx *c, struct elf_image *e)
{
	const Elf64_Ehdr *h64 = (const void *)c->head;
	const Elf32_Ehdr *h32 = (const void *)c->head;
	unsigned phsize = class64(c) ? h64->e_phentsize : h32->e_phentsize;

	/* e_type and e_machine are at the same place in both classes. */
	if (c->head[EI_CLASS] != ELFCLASS32 && c->head[EI_CLASS] != ELFCLASS64)
		return bad(c, "an unknown class");
	if (c->head[EI_DATA] != ELFDATA2LSB)
		return bad(c, "big-endian data: it is not for x86");
	if (h32->e_machine != EM_386 && h32->e_machine != EM_X86_64)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: is an ELF file for another "
				 "machine: give one for x86",
				 c->kernel.path);
	if (h32->e_type != ET_EXEC && h32->e_type != ET_DYN)
		return bad(c, "no program in it (an object or a core?)");
	if (!phdr_count(c))
		return bad(c, "no program headers");
	if (phdr_count(c) > MAX_PHDRS)
		return bad(c, "too many program headers");
	if (phsize != (class64(c) ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return bad(c, "program headers of a wrong size");
	e->is64 = class64(c);
	e->entry = e->is64 ? h64->e_entry : h32->e_entry;
	return 0;
}

/* One PT_NOTE: look for Xen's 32-bit entry point. */
static int scan_notes(struct boot_ctx *c, const struct phdr *p,
		      struct elf_image *e)
{
	uint64_t off = 0, len = p->filesz < MAX_NOTES ? p->filesz : MAX_NOTES;

	while (len - off >= sizeof(Elf64_Nhdr)) {
		uint8_t buf[sizeof(Elf64_Nhdr) + 4 + 8] = {0};
		const Elf64_Nhdr *n = (const void *)buf;
		size_t got = len - off < sizeof(buf) ? len - off : sizeof(buf);
		uint64_t next;
		int r;

		if (p->offset > c->kernel.size)
			return bad(c, "notes outside the file");
		r = boot_file_read(c, &c->kernel, p->offset + off, buf, got);
		if (r)
			return r;
		if (n->n_namesz == 4 && n->n_type == XEN_NOTE_PHYS32_ENTRY &&
		    !memcmp(n + 1, "Xen", 4) &&
		    (n->n_descsz == 4 || n->n_descsz == 8)) {
			e->has_pvh = true;
			e->pvh_entry = n->n_descsz == 4
					       ? get32(buf + sizeof(*n) + 4)
					       : get64(buf + sizeof(*n) + 4);
		}
		next = off + sizeof(*n) + align_up(n->n_namesz, 4) +
		       align_up(n->n_descsz, 4);
		if (next > len)
			break;
		off = next;
	}
	return 0;
}

int elf_parse(struct boot_ctx *c, struct elf_image *e)
{
	bool any = false;
	struct phdr p;
	int r;

	*e = (struct elf_image){0};
	r = check_header(c, e);
	if (r)
		return r;
	e->entry_phys = e->entry;
	for (unsigned i = 0; i < phdr_count(c); i++) {
		r = read_phdr(c, i, &p);
		if (!r && p.type == PT_NOTE)
			r = scan_notes(c, &p, e);
		if (r)
			return r;
		if (p.type != PT_LOAD || !p.memsz)
			continue;
		any = true;
		if (e->entry >= p.vaddr && e->entry - p.vaddr < p.memsz)
			e->entry_phys = e->entry - p.vaddr + p.paddr;
	}
	return any ? 0 : bad(c, "nothing to load");
}

static int load_segment(struct boot_ctx *c, const struct phdr *p)
{
	int r;

	if (p->filesz > p->memsz)
		return bad(c, "a segment that is larger in the file than in "
			      "memory");
	if (p->offset > c->kernel.size ||
	    p->filesz > c->kernel.size - p->offset)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: is truncated: a segment ends "
				 "beyond its %llu bytes: get the file again",
				 c->kernel.path,
				 (unsigned long long)c->kernel.size);
	if (!boot_take(c, p->paddr, p->memsz))
		return boot_fail(c, ENOMEM,
				 "kernel %s: its segment of %#llx bytes at "
				 "%#llx does not fit into guest memory (%llu "
				 "MiB, free below 0x9fc00 and from 1 MiB on): "
				 "give more --mem, or link it elsewhere",
				 c->kernel.path, (unsigned long long)p->memsz,
				 (unsigned long long)p->paddr,
				 (unsigned long long)(c->low + c->high) >> 20);
	r = boot_file_copy_in(c, &c->kernel, p->offset, p->paddr, p->filesz);
	return r ?: boot_zero(c, p->paddr + p->filesz, p->memsz - p->filesz);
}

int elf_load(struct boot_ctx *c, struct elf_image *e)
{
	struct phdr p;
	int r = 0;

	e->phys_start = ~0ull;
	for (unsigned i = 0; i < phdr_count(c) && !r; i++) {
		r = read_phdr(c, i, &p);
		if (r || p.type != PT_LOAD || !p.memsz)
			continue;
		r = load_segment(c, &p);
		if (r)
			break;
		if (p.paddr + p.memsz > e->phys_end)
			e->phys_end = p.paddr + p.memsz;
		if (p.paddr < e->phys_start)
			e->phys_start = p.paddr;
	}
	return r;
}
