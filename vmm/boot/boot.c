/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Booting: open the files, find out what kind of kernel it is, lay out memory,
 * and leave the rest to the loader of that kind. Everything that is read from
 * a file is untrusted: checked before it is used, by comparisons that cannot
 * overflow.
 */
#include <errno.h>
#include <string.h>

#include "vmm/board_pci.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/boot_priv.h"

#define MIN_RAM	   (2 * BOOT_MIB)
/* Less than this is no kernel of any kind. */
#define MIN_KERNEL 64

static void add_map(struct boot_ctx *c, uint64_t start, uint64_t end,
		    enum boot_mem_type type)
{
	if (end > start)
		c->map[c->n_map++] =
			(struct boot_mem){start, end - start, type};
}

static void build_map(struct boot_ctx *c)
{
	add_map(c, 0, BOOT_CONV_END, BOOT_MEM_RAM);
	add_map(c, BOOT_CONV_END, 0xa0000, BOOT_MEM_RESERVED);
	add_map(c, BOOT_ACPI_START, BOOT_ACPI_END, BOOT_MEM_RESERVED);
	add_map(c, BOOT_MIB, c->low, BOOT_MEM_RAM);
	add_map(c, BOOT_4G, BOOT_4G + c->high, BOOT_MEM_RAM);
	boot_take(c, BOOT_CONV_END, BOOT_MIB - BOOT_CONV_END);
}

/* A kind of file that people try, with a better answer than "no kernel". */
static const char *what_else(const struct boot_ctx *c)
{
	static const struct {
		const char *magic, *is;
		unsigned len;
	} known[] = {
		{"\x1f\x8b", "a gzip file: unpack it first", 2},
		{"\xfd"
		 "7zXZ",
		 "an xz file: unpack it first", 5},
		{"\x28\xb5\x2f\xfd", "a zstd file: unpack it first", 4},
		{"070701", "a cpio archive: is it the initrd?", 6},
		{"!<arch>", "a package or library: unpack it first", 7},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (c->head_len >= known[i].len &&
		    !memcmp(c->head, known[i].magic, known[i].len))
			return known[i].is;
	return "not a kernel that Sardine knows: give a Linux bzImage "
	       "(vmlinuz), an ELF vmlinux with a PVH note, or a Multiboot 1 "
	       "image";
}

static int load_elf(struct boot_ctx *c)
{
	long mb = multiboot_find_header(c);
	/* ELF32 means Multiboot, if it has a header; ELF64 means PVH. */
	bool is64 = c->head[4] == 2;

	if (mb >= 0 && !is64)
		return multiboot_load(c, mb);
	return pvh_load(c);
}

static int load_kernel(struct boot_ctx *c)
{
	long mb;

	c->head_len =
		c->kernel.size < BOOT_HEAD_MAX ? c->kernel.size : BOOT_HEAD_MAX;
	if (c->head_len < MIN_KERNEL)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: its %zu bytes are too few for a "
				 "kernel: truncated? get the file again",
				 c->kernel.path, c->head_len);
	if (boot_file_read(c, &c->kernel, 0, c->head, c->head_len))
		return -ENOEXEC;
	if (linux_is_bzimage(c))
		return linux_load(c);
	if (elf_is(c))
		return load_elf(c);
	mb = multiboot_find_header(c);
	if (mb >= 0)
		return multiboot_load(c, mb);
	if (c->head_len < 0x400 && !memcmp(c->head, "MZ", 2))
		return boot_fail(c, ENOEXEC,
				 "kernel %s: is truncated: a bzImage has more "
				 "than its %zu bytes: get the file again",
				 c->kernel.path, c->head_len);
	return boot_fail(c, ENOEXEC, "kernel %s: is %s", c->kernel.path,
			 what_else(c));
}

static int prepare(struct boot_ctx *c)
{
	int r;

	if (!c->vm->cfg.kernel)
		return boot_fail(c, EINVAL,
				 "no kernel: name one with --kernel");
	r = boot_file_open(c, "kernel", c->vm->cfg.kernel, c->vm->cfg.kernel_fd,
			   &c->kernel);
	if (!r && c->vm->cfg.initrd)
		r = boot_file_open(c, "initrd", c->vm->cfg.initrd,
				   c->vm->cfg.initrd_fd, &c->initrd);
	if (r)
		return r;
	if (c->low < MIN_RAM)
		return boot_fail(c, EINVAL,
				 "kernel %s: %llu KiB of guest memory cannot "
				 "boot anything: give more --mem",
				 c->kernel.path,
				 (unsigned long long)c->low >> 10);
	/* It would be E2BIG for every loader, and this says so at once. */
	if (c->initrd.fd >= 0 && c->initrd.size >= c->low)
		return boot_initrd_too_large(c);
	build_map(c);
	r = acpi_build(c->p2m, board_pci_slots(c->vm), &c->rsdp);
	return r ? boot_fail(c, -r, "%s: cannot write the ACPI tables: %s",
			     c->kernel.path, strerror(-r))
		 : 0;
}

int boot_load(struct vm *vm, char *err, size_t errlen)
{
	struct boot_ctx c = {
		.vm = vm,
		.p2m = vm->p2m,
		.low = p2m_low_bytes(vm->p2m),
		.high = p2m_high_bytes(vm->p2m),
		.kernel.fd = -1,
		.initrd.fd = -1,
		.cmdline = vm->cfg.cmdline ?: "",
		.err = err,
		.errlen = errlen,
	};
	int r;

	vcpu_reset(vm->vcpu);
	r = prepare(&c);
	if (!r)
		r = load_kernel(&c);
	boot_file_close(&c.kernel);
	boot_file_close(&c.initrd);
	return r;
}
