/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 1 images (the Multiboot Specification, version 0.6.96): a header
 * in the first 8 KiB, 4-byte aligned. Loaded by the header's own addresses if
 * it has them (flag 16, the "a.out kludge"), else as ELF. Entered in flat
 * 32-bit protected mode with EAX = magic and EBX = information.
 *
 * The initrd is the one module. It follows the kernel, page aligned, as with
 * other loaders: many kernels map only the first megabytes to begin with.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/boot/boot_priv.h"

#define HEADER_MAGIC	 0x1badb002
#define LOADER_MAGIC	 0x2badb002

#define NEED_ALIGN	 (1u << 0) /* modules at page boundaries: they are */
#define NEED_MEMORY	 (1u << 1) /* we always tell */
#define NEED_VIDEO	 (1u << 2) /* a wish, also for other loaders */
#define NEED_KNOWN	 (NEED_ALIGN | NEED_MEMORY | NEED_VIDEO)
#define NEED_MASK	 0xffffu /* "must" bits */
#define HAS_ADDRS	 (1u << 16)

#define INFO_MEM	 (1u << 0)
#define INFO_CMDLINE	 (1u << 2)
#define INFO_MODS	 (1u << 3)
#define INFO_MMAP	 (1u << 6)
#define INFO_LOADER_NAME (1u << 9)

struct header {
	uint32_t magic, flags, checksum;
	/* with HAS_ADDRS */
	uint32_t header_addr, load_addr, load_end, bss_end, entry;
};

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, loader_name;
	uint32_t apm, vbe[4], framebuffer[6];
};
struct mb_module {
	uint32_t start, end, string, reserved;
};
struct mb_mmap {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

/* Everything that the information points to, in one piece of low memory. */
struct block {
	struct mb_info info;
	struct mb_module module;
	struct mb_mmap map[BOOT_MAP_MAX];
	char loader[8];
	char strings[]; /* kernel's command line, module's string */
};

long multiboot_find_header(const struct boot_ctx *c)
{
	for (size_t i = 0; i + 12 <= c->head_len; i += 4) {
		const uint8_t *p = c->head + i;

		if (get32(p) == HEADER_MAGIC &&
		    get32(p) + get32(p + 4) + get32(p + 8) == 0)
			return i;
	}
	return -1;
}

/* The kludge: load [load_addr, load_end) from the file so that the header is
 * at header_addr, and clear up to bss_end. 0 for an end: the rest of the file,
 * no bss. */
static int load_flat(struct boot_ctx *c, size_t at, const struct header *h,
		     uint64_t *end)
{
	uint64_t off, size, memsz;
	int r;

	if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > at)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: Multiboot header with a bad load "
				 "address: is the file damaged?",
				 c->kernel.path);
	off = at - (h->header_addr - h->load_addr);
	size = h->load_end ? (uint64_t)h->load_end - h->load_addr
			   : c->kernel.size - off;
	if ((h->load_end && h->load_end < h->load_addr) ||
	    (h->bss_end && h->bss_end < h->load_addr + size))
		return boot_fail(c, ENOEXEC,
				 "kernel %s: Multiboot header with a bad end "
				 "address: is the file damaged?",
				 c->kernel.path);
	memsz = h->bss_end ? (uint64_t)h->bss_end - h->load_addr : size;
	if (off > c->kernel.size || size > c->kernel.size - off)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: is truncated: its Multiboot "
				 "header promises %llu bytes: get the file "
				 "again",
				 c->kernel.path,
				 (unsigned long long)(off + size));
	if (!boot_take(c, h->load_addr, memsz))
		return boot_fail(c, ENOMEM,
				 "kernel %s: its %#llx bytes at %#x do not fit "
				 "into %llu MiB of guest memory: give more "
				 "--mem",
				 c->kernel.path, (unsigned long long)memsz,
				 h->load_addr,
				 (unsigned long long)(c->low + c->high) >> 20);
	*end = h->load_addr + memsz;
	r = boot_file_copy_in(c, &c->kernel, off, h->load_addr, size);
	return r ?: boot_zero(c, h->load_addr + size, memsz - size);
}

static int load_image(struct boot_ctx *c, size_t at, uint32_t *entry,
		      uint64_t *end)
{
	struct header h = {0};
	struct elf_image e;
	size_t n = sizeof(h);
	int r;

	if (c->head_len - at < n)
		n = c->head_len - at;
	memcpy(&h, c->head + at, n);
	if (h.flags & NEED_MASK & ~NEED_KNOWN)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: its Multiboot header demands what "
				 "Sardine does not have (flags %#x): build it "
				 "with flags 0 to 2 only",
				 c->kernel.path, h.flags);
	if (h.flags & HAS_ADDRS) {
		if (n < sizeof(h))
			return boot_fail(c, ENOEXEC,
					 "kernel %s: is truncated in its "
					 "Multiboot header: get the file again",
					 c->kernel.path);
		*entry = h.entry;
		return load_flat(c, at, &h, end);
	}
	if (!elf_is(c))
		return boot_fail(c, ENOEXEC,
				 "kernel %s: Multiboot header without load "
				 "addresses in a file that is not ELF: link it "
				 "as ELF32",
				 c->kernel.path);
	r = elf_parse(c, &e);
	r = r ?: elf_load(c, &e);
	*entry = e.entry_phys;
	*end = e.phys_end;
	if (!r && e.entry_phys >= c->low)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: its entry point %#llx is not in "
				 "guest memory: is the file damaged?",
				 c->kernel.path,
				 (unsigned long long)e.entry_phys);
	return r;
}

/* A file's name without its folders, as one word. */
static size_t put_name(char *out, const char *path)
{
	const char *base = strrchr(path, '/');
	size_t n = 0;

	for (base = base ? base + 1 : path; *base; base++)
		out[n++] = *base == ' ' || *base == '\t' ? '_' : *base;
	return n;
}

/* "NAME COMMAND LINE\0MODULE\0" into s; answers the bytes used and where the
 * module's name begins. */
static size_t put_strings(const struct boot_ctx *c, char *s, size_t *mod)
{
	size_t n = put_name(s, c->kernel.path);

	if (*c->cmdline) {
		s[n++] = ' ';
		n = stpcpy(s + n, c->cmdline) - s;
	}
	s[n++] = 0;
	*mod = n;
	if (c->initrd.fd >= 0)
		n += put_name(s + n, c->initrd.path);
	s[n++] = 0;
	return n;
}

static void fill_block(const struct boot_ctx *c, struct block *b, gpa_t at,
		       size_t mod_name)
{
	struct mb_info *i = &b->info;

	i->flags = INFO_MEM | INFO_CMDLINE | INFO_MODS | INFO_MMAP |
		   INFO_LOADER_NAME;
	i->mem_lower = BOOT_CONV_END >> 10;
	i->mem_upper = (c->low - BOOT_MIB) >> 10;
	i->cmdline = at + offsetof(struct block, strings);
	i->loader_name = at + offsetof(struct block, loader);
	memcpy(b->loader, "Sardine", 8);
	i->mmap_addr = at + offsetof(struct block, map);
	i->mmap_length = c->n_map * sizeof(struct mb_mmap);
	for (unsigned k = 0; k < c->n_map; k++)
		b->map[k] = (struct mb_mmap){sizeof(struct mb_mmap) - 4,
					     c->map[k].start, c->map[k].len,
					     c->map[k].type};
	i->mods_addr = at + offsetof(struct block, module);
	i->mods_count = c->initrd.fd >= 0;
	b->module.string = i->cmdline + mod_name;
}

static int place_info(struct boot_ctx *c, uint32_t mod_start, gpa_t *out)
{
	size_t max = sizeof(struct block) + strlen(c->kernel.path) + 1 +
		     strlen(c->cmdline) + 1 + 1 +
		     (c->initrd.fd >= 0 ? strlen(c->initrd.path) : 0);
	struct block *b;
	size_t len, mod;
	int r = 0;

	*out = boot_alloc_low(c, max);
	if (*out == BOOT_NOWHERE)
		return boot_fail(c, E2BIG,
				 "kernel %s: a command line of %zu bytes does "
				 "not fit: shorten --append",
				 c->kernel.path, strlen(c->cmdline));
	b = calloc(1, max);
	if (!b)
		return boot_fail(c, ENOMEM, "%s: out of memory",
				 c->kernel.path);
	len = sizeof(*b) + put_strings(c, b->strings, &mod);
	fill_block(c, b, *out, mod);
	b->module.start = mod_start;
	b->module.end = mod_start + c->initrd.size;
	r = boot_write(c, *out, b, len);
	free(b);
	return r;
}

int multiboot_load(struct boot_ctx *c, size_t header)
{
	uint64_t end = 0;
	uint32_t entry = 0;
	gpa_t mod = 0, info = 0;
	int r = load_image(c, header, &entry, &end);

	r = r ?: boot_build_gdt(c);
	if (r)
		return r;
	if (c->initrd.fd >= 0) {
		mod = boot_alloc_from(c, end, c->initrd.size);
		if (mod == BOOT_NOWHERE)
			return boot_initrd_too_large(c);
		r = boot_load_initrd(c, mod);
	}
	r = r ?: place_info(c, mod, &info);
	if (!r)
		boot_enter_flat32(c, entry, LOADER_MAGIC, info);
	return r;
}
