/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux bzImage by the 64-bit boot protocol (kernel documentation,
 * arch/x86/boot.rst and zero-page.rst).
 *
 * The file is setup_sects + 1 sectors of real-mode code, which holds the setup
 * header at 0x1f1 and is not used otherwise, and then the protected-mode
 * kernel: a decompressor with its payload, entered 0x200 bytes after where it
 * was loaded. The decompressor works in the init_size bytes from where the
 * kernel will run, which is pref_address, also when it was loaded lower; so it
 * is loaded there, and nothing else may lie in that range. The initrd goes to
 * the top of memory where KASLR leaves it alone, or, in a small guest, below
 * the kernel.
 *
 * A guest may be too small for the decompressor and yet large enough for the
 * kernel: Debian's 6.1 cloud kernel runs in [16, 62) MiB, but what its
 * decompressor writes (the ELF file with its relocations) ends at 67.5 MiB.
 * Then we unpack the payload, if it is LZ4, and enter the kernel itself as its
 * decompressor would: the same registers, no KASLR.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/base/log.h"
#include "vmm/boot/boot_priv.h"
#include "vmm/boot/lz4.h"

/* Offsets in the file's first sectors, and in the zero page */
#define ZP_ACPI_RSDP	0x070
#define ZP_E820_ENTRIES 0x1e8
#define HDR_START	0x1f1
#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE	0x1f4 /* of the protected-mode part, in 16 bytes */
#define HDR_BOOT_FLAG	0x1fe
#define HDR_LENGTH	0x201 /* the header ends at 0x202 + this */
#define HDR_MAGIC	0x202
#define HDR_VERSION	0x206
#define HDR_LOADER	0x210
#define HDR_LOADFLAGS	0x211
#define HDR_RAMDISK	0x218
#define HDR_RAMDISK_LEN 0x21c
#define HDR_CMDLINE	0x228
#define HDR_INITRD_MAX	0x22c
#define HDR_ALIGNMENT	0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS	0x236
#define HDR_CMDLINE_MAX 0x238
#define HDR_PAYLOAD	0x248 /* offset in the protected-mode part */
#define HDR_PAYLOAD_LEN 0x24c
#define HDR_SETUP_DATA	0x250
#define HDR_PREF_ADDR	0x258
#define HDR_INIT_SIZE	0x260
#define HDR_END_MIN	0x264 /* what protocol 2.12 has */
#define HDR_END_MAX	0x290
#define ZP_E820_TABLE	0x2d0

#define LOADED_HIGH	0x01
#define XLF_KERNEL_64	0x01
#define LOADER_UNKNOWN	0xff
#define ENTRY_64	0x200

/* A payload that unpacks to more is not a kernel. */
#define UNPACKED_MAX	(512ull << 20)

struct bzimage {
	uint64_t offset; /* of the protected-mode part in the file */
	uint64_t size;
	gpa_t load, entry;
	uint64_t init_size;
	uint64_t initrd_max; /* one past the highest byte it may have */
	uint32_t cmdline_max;
};

bool linux_is_bzimage(const struct boot_ctx *c)
{
	return c->head_len >= HDR_VERSION + 2 &&
	       get16(c->head + HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(c->head + HDR_MAGIC, "HdrS", 4);
}

static int parse(struct boot_ctx *c, struct bzimage *b)
{
	const uint8_t *h = c->head;
	const char *path = c->kernel.path;
	unsigned sects = h[HDR_SETUP_SECTS] ?: 4;

	b->offset = (sects + 1) * 512;
	if (c->head_len < HDR_END_MAX || c->kernel.size <= b->offset)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: is truncated: only %llu bytes: "
				 "get the file again",
				 path, (unsigned long long)c->kernel.size);
	if (get16(h + HDR_VERSION) < 0x20c ||
	    HDR_MAGIC + h[HDR_LENGTH] < HDR_END_MIN ||
	    !(h[HDR_LOADFLAGS] & LOADED_HIGH) ||
	    !(get16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return boot_fail(c, ENOEXEC,
				 "kernel %s: has no 64-bit entry point: give "
				 "an x86-64 kernel of Linux 3.8 or later",
				 path);
	b->size = c->kernel.size - b->offset;
	/* What comes after syssize is a signature. */
	if (get32(h + HDR_SYSSIZE)) {
		uint64_t want = get32(h + HDR_SYSSIZE) * 16ull;

		if (want > b->size)
			return boot_fail(
				c, ENOEXEC,
				"kernel %s: is truncated: %llu of "
				"%llu bytes: get the file again",
				path, (unsigned long long)c->kernel.size,
				(unsigned long long)(want + b->offset));
		b->size = want;
	}
	b->init_size = get32(h + HDR_INIT_SIZE);
	if (b->init_size < b->size)
		b->init_size = b->size;
	b->initrd_max = get32(h + HDR_INITRD_MAX) + 1ull;
	b->cmdline_max = get32(h + HDR_CMDLINE_MAX);
	return 0;
}

static int too_small(struct boot_ctx *c, const struct bzimage *b)
{
	return boot_fail(
		c, ENOMEM,
		"kernel %s: does not fit into %llu MiB of guest "
		"memory: give at least --mem %lluM",
		c->kernel.path, (unsigned long long)(c->low + c->high) >> 20,
		(unsigned long long)((b->load + b->init_size) >> 20) + 2);
}

/* Load the ELF file that the payload was. */
static int load_unpacked(struct boot_ctx *c, struct bzimage *b,
			 const uint8_t *mem, uint64_t len)
{
	struct boot_file packed = c->kernel;
	struct elf_image e;
	int r;

	c->kernel.mem = mem;
	c->kernel.size = len;
	memset(c->head, 0, sizeof(c->head));
	c->head_len = len < BOOT_HEAD_MAX ? len : BOOT_HEAD_MAX;
	memcpy(c->head, mem, c->head_len);
	r = elf_is(c) ? elf_parse(c, &e) : -ENOEXEC;
	/* Larger than memory even so, or not what we took it for */
	if (r || !e.is64 || elf_load(c, &e) ||
	    !boot_take_rest(c, e.phys_start, e.phys_end) ||
	    e.entry_phys < e.phys_start || e.entry_phys >= e.phys_end)
		r = -ENOMEM;
	else
		b->entry = e.entry_phys;
	c->kernel = packed;
	return r ? too_small(c, b) : 0;
}

/* The payload ends with its length when unpacked (little endian). */
static int read_payload(struct boot_ctx *c, const struct bzimage *b,
			uint8_t **buf, uint64_t *packed, uint64_t *unpacked)
{
	uint64_t off = get32(c->head + HDR_PAYLOAD);
	uint64_t len = get32(c->head + HDR_PAYLOAD_LEN);
	uint8_t *p;

	if (len < 12 || off > b->size || len > b->size - off)
		return too_small(c, b);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0);
	if (p == MAP_FAILED)
		return boot_fail(c, ENOMEM, "%s: out of memory",
				 c->kernel.path);
	*buf = p;
	*packed = len;
	if (boot_file_read(c, &c->kernel, b->offset + off, p, len))
		return -ENOEXEC;
	*unpacked = get32(p + len - 4);
	if (get32(p) != LZ4_LEGACY_MAGIC || *unpacked < BOOT_HEAD_MAX ||
	    *unpacked > UNPACKED_MAX)
		return too_small(c, b);
	return 0;
}

static int unpack_kernel(struct boot_ctx *c, struct bzimage *b)
{
	uint8_t *packed = NULL, *mem = MAP_FAILED;
	uint64_t packed_len = 0, len = 0;
	int r = read_payload(c, b, &packed, &packed_len, &len);

	if (!r) {
		mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mem == MAP_FAILED ||
		    !lz4_frame(packed, packed_len - 4, mem, len))
			r = too_small(c, b);
	}
	if (packed)
		munmap(packed, packed_len);
	r = r ?: load_unpacked(c, b, mem, len);
	if (mem != MAP_FAILED)
		munmap(mem, len);
	if (!r)
		log_info("kernel %s: %llu MiB are too few for its own "
			 "decompressor: unpacked by the loader, without KASLR",
			 c->kernel.path, (unsigned long long)c->low >> 20);
	return r;
}

static int place_kernel(struct boot_ctx *c, struct bzimage *b)
{
	uint64_t align = get32(c->head + HDR_ALIGNMENT);
	uint64_t len = align_up(b->init_size, PAGE_SIZE);

	b->load = get64(c->head + HDR_PREF_ADDR);
	if (!b->load && c->head[HDR_RELOCATABLE] && align &&
	    !(align & (align - 1)))
		b->load = align_up(BOOT_MIB, align);
	if (b->load < BOOT_MIB || b->load > BOOT_4G)
		return boot_fail(c, ENOEXEC,
				 "kernel %s: asks to be loaded at %#llx, which "
				 "is not above 1 MiB and below 4 GiB: is the "
				 "file damaged?",
				 c->kernel.path, (unsigned long long)b->load);
	b->entry = b->load + ENTRY_64;
	if (!boot_take(c, b->load, len))
		return unpack_kernel(c, b);
	return boot_file_copy_in(c, &c->kernel, b->offset, b->load, b->size);
}

static int place_initrd(struct boot_ctx *c, const struct bzimage *b,
			uint8_t *zp)
{
	gpa_t at;

	put32(zp + HDR_RAMDISK, 0);
	put32(zp + HDR_RAMDISK_LEN, 0);
	if (c->initrd.fd < 0)
		return 0;
	at = boot_alloc_top(c, c->initrd.size, b->initrd_max);
	if (at == BOOT_NOWHERE)
		return boot_initrd_too_large(c);
	put32(zp + HDR_RAMDISK, at);
	put32(zp + HDR_RAMDISK_LEN, c->initrd.size);
	return boot_load_initrd(c, at);
}

static int place_cmdline(struct boot_ctx *c, const struct bzimage *b,
			 uint8_t *zp)
{
	size_t len = strlen(c->cmdline);
	gpa_t at;

	if (len > b->cmdline_max)
		return boot_fail(c, E2BIG,
				 "kernel %s: takes a command line of %u bytes "
				 "at most, not %zu: shorten --append",
				 c->kernel.path, b->cmdline_max, len);
	at = boot_alloc_low(c, len + 1);
	if (at == BOOT_NOWHERE)
		return boot_fail(c, E2BIG,
				 "kernel %s: a command line of %zu bytes does "
				 "not fit: shorten --append",
				 c->kernel.path, len);
	put32(zp + HDR_CMDLINE, at);
	return boot_write(c, at, c->cmdline, len + 1);
}

static void fill_e820(struct boot_ctx *c, uint8_t *zp)
{
	for (unsigned i = 0; i < c->n_map; i++) {
		uint8_t *e = zp + ZP_E820_TABLE + i * 20;

		put64(e, c->map[i].start);
		put64(e + 8, c->map[i].len);
		put32(e + 16, c->map[i].type);
	}
	zp[ZP_E820_ENTRIES] = c->n_map;
}

int linux_load(struct boot_ctx *c)
{
	uint8_t zp[PAGE_SIZE] = {0};
	struct bzimage b = {0};
	unsigned end;
	gpa_t at;
	int r = parse(c, &b);

	if (r)
		return r;
	end = HDR_MAGIC + c->head[HDR_LENGTH];
	if (end > HDR_END_MAX)
		end = HDR_END_MAX;
	memcpy(zp + HDR_START, c->head + HDR_START, end - HDR_START);
	zp[HDR_LOADER] = LOADER_UNKNOWN;
	put64(zp + HDR_SETUP_DATA, 0);
	put64(zp + ZP_ACPI_RSDP, c->rsdp);
	fill_e820(c, zp);
	r = boot_build_gdt(c);
	r = r ?: place_kernel(c, &b);
	r = r ?: place_initrd(c, &b, zp);
	r = r ?: place_cmdline(c, &b, zp);
	if (r)
		return r;
	at = boot_alloc_low(c, PAGE_SIZE);
	if (at == BOOT_NOWHERE)
		return boot_fail(c, ENOSPC, "%s: no room for the zero page",
				 c->kernel.path);
	r = boot_write(c, at, zp, sizeof(zp));
	r = r ?: boot_enter_long(c, b.entry, at);
	if (!r)
		c->vm->vcpu->layout_seed = c->vm->cfg.layout_seed;
	return r;
}
