/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF kernels entered by Xen's PVH protocol (Xen's docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h): 32-bit flat protected mode at the address
 * of the note XEN_ELFNOTE_PHYS32_ENTRY, EBX = hvm_start_info. An uncompressed
 * Linux vmlinux with CONFIG_PVH has it, and so do other kernels.
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot_priv.h"

#define START_MAGIC 0x336ec578

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp;
	/* version 1 */
	uint64_t memmap;
	uint32_t memmap_entries, reserved;
};
struct module {
	uint64_t paddr, size, cmdline, reserved;
};
struct memmap {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* Everything that the start info points to, in one piece of low memory. */
struct block {
	struct start_info info;
	struct module module;
	struct memmap map[BOOT_MAP_MAX];
	char cmdline[];
};

static int place_initrd(struct boot_ctx *c, struct module *m)
{
	gpa_t at = boot_alloc_top(c, c->initrd.size, 0x80000000);

	if (at == BOOT_NOWHERE)
		return boot_initrd_too_large(c);
	m->paddr = at;
	m->size = c->initrd.size;
	return boot_load_initrd(c, at);
}

static int place_info(struct boot_ctx *c, const struct module *m, gpa_t *out)
{
	size_t len = strlen(c->cmdline) + 1;
	gpa_t at = boot_alloc_low(c, sizeof(struct block) + len);
	struct block b = {0};
	int r;

	if (at == BOOT_NOWHERE)
		return boot_fail(c, E2BIG,
				 "kernel %s: a command line of %zu bytes does "
				 "not fit: shorten --append",
				 c->kernel.path, len - 1);
	b.info = (struct start_info){
		.magic = START_MAGIC,
		.version = 1,
		.nr_modules = m->size ? 1 : 0,
		.modules = m->size ? at + offsetof(struct block, module) : 0,
		.cmdline = at + offsetof(struct block, cmdline),
		.rsdp = c->rsdp,
		.memmap = at + offsetof(struct block, map),
		.memmap_entries = c->n_map,
	};
	b.module = *m;
	for (unsigned i = 0; i < c->n_map; i++)
		b.map[i] = (struct memmap){c->map[i].start, c->map[i].len,
					   c->map[i].type, 0};
	*out = at;
	r = boot_write(c, at, &b, sizeof(b));
	return r ?: boot_write(c, b.info.cmdline, c->cmdline, len);
}

int pvh_load(struct boot_ctx *c)
{
	struct module m = {0};
	struct elf_image e;
	gpa_t info = 0;
	int r = elf_parse(c, &e);

	if (r)
		return r;
	if (!e.has_pvh)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: ELF file with neither a PVH entry "
				 "note nor a Multiboot header: build it with "
				 "CONFIG_PVH, or give the bzImage (vmlinuz)",
				 c->kernel.path);
	r = elf_load(c, &e);
	if (r)
		return r;
	if (e.pvh_entry >= c->low || boot_is_free(c, e.pvh_entry, 1))
		return boot_fail(c, ENOEXEC,
				 "kernel %s: its PVH entry point %#llx is not "
				 "in any segment: is the file damaged?",
				 c->kernel.path,
				 (unsigned long long)e.pvh_entry);
	/* Linux hands out the gaps between its segments as its own. */
	if (!boot_take_rest(c,
			    e.phys_start < BOOT_MIB ? BOOT_MIB : e.phys_start,
			    e.phys_end))
		return boot_fail(c, ENOEXEC, "kernel %s: has too many segments",
				 c->kernel.path);
	r = boot_build_gdt(c);
	if (!r && c->initrd.fd >= 0)
		r = place_initrd(c, &m);
	r = r ?: place_info(c, &m, &info);
	if (!r)
		boot_enter_flat32(c, e.pvh_entry, 0, info);
	return r;
}
