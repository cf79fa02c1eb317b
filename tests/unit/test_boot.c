/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a bzImage and an ELF with a PVH note, made here: what lies where,
 * the entry state, and every refusal. No guest code runs.
 */
#include <elf.h>
#undef PF_W /* a page fault bit to us */

#include "tests/unit/boot_util.h"
#include "vmm/boot/boot_priv.h"
#include "vmm/boot/lz4.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/regs.h"

/* ---- a bzImage ---- */

#define SECTS	   3
#define HEAD_BYTES ((SECTS + 1) * 512)
#define BODY_BYTES (64 * KIB)
#define IMAGE_SIZE (HEAD_BYTES + BODY_BYTES)

static uint8_t image[IMAGE_SIZE + 4096];

static void make_bzimage(uint32_t init_size)
{
	for (unsigned i = 0; i < sizeof(image); i++)
		image[i] = i * 13 + (i >> 8);
	image[0x1f1] = SECTS;
	put32(image + 0x1f4, BODY_BYTES / 16);
	put16(image + 0x1fe, 0xaa55);
	image[0x200] = 0xeb;
	image[0x201] = 0x6a; /* header ends at 0x26c */
	memcpy(image + 0x202, "HdrS", 4);
	put16(image + 0x206, 0x20f);
	image[0x211] = 1;
	put32(image + 0x22c, 0x7fffffff);
	put32(image + 0x230, 2 * MIB);
	image[0x234] = 1;
	put16(image + 0x236, 0x7f);
	put32(image + 0x238, 2047);
	put64(image + 0x250, 0x1234567887654321);
	put64(image + 0x258, 16 * MIB);
	put32(image + 0x260, init_size);
}

static void put_bzimage(const char *name, uint32_t init_size)
{
	make_bzimage(init_size);
	put_file(name, image, IMAGE_SIZE);
}

/* The memory map's RAM must be all of the p2m's, but for the holes that every
 * PC has under 1 MiB; entries ascend and do not overlap. */
static void check_e820(struct machine *m, gpa_t zp)
{
	uint8_t n, type_bad = 0;
	uint64_t prev = 0, ram = 0;

	guest_read(m, zp + 0x1e8, &n, 1);
	assert_in_range(n, 4, 8);
	for (unsigned i = 0; i < n; i++) {
		uint64_t s = guest64(m, zp + 0x2d0 + 20 * i);
		uint64_t l = guest64(m, zp + 0x2d0 + 20 * i + 8);
		uint32_t t = guest32(m, zp + 0x2d0 + 20 * i + 16);

		assert_true(s >= prev && l > 0);
		prev = s + l;
		type_bad |= t != 1 && t != 2;
		if (t == 1)
			ram += l;
		/* The tables are not RAM to the guest. */
		if (s <= 0xe0000 && s + l > 0xe0000)
			assert_int_equal(t, 2);
	}
	assert_false(type_bad);
	assert_int_equal(ram + (0x100000 - 0x9fc00), p2m_ram_bytes(m->vm.p2m));
	assert_true(prev <= 4 * GIB + p2m_high_bytes(m->vm.p2m));
}

static void check_identity(struct vcpu *v)
{
	struct walk w;

	for (uint64_t a = 0x1234; a < 4 * GIB; a += 61 * MIB + 4096) {
		assert_int_equal(mmu_walk(v, a, WALK_PROBE, &w), 0);
		assert_int_equal(w.gpa, a);
		assert_true(w.writable && !w.nx);
	}
	assert_int_not_equal(mmu_walk(v, 4 * GIB, WALK_PROBE, &w), 0);
}

/* Entry by the 64-bit protocol; answers the zero page. */
static gpa_t check_linux_entry(struct machine *m)
{
	struct vcpu *v = m->vm.vcpu;

	assert_true(v->in_long_mode);
	assert_int_equal(v->rip, 16 * MIB + 0x200);
	assert_int_equal(v->efer & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
	assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
	assert_true(v->cr4 & CR4_PAE);
	assert_int_equal(v->rflags & FL_IF, 0);
	assert_int_equal(v->seg[SEG_CS].sel, 0x10);
	assert_true(v->seg[SEG_CS].attr & SEG_ATTR_L);
	for (int s = 0; s < NR_SEGS; s++)
		if (s != SEG_CS)
			assert_int_equal(v->seg[s].sel, 0x18);
	/* The GDT in memory says the same as the loaded segments. */
	assert_int_equal(guest64(m, v->gdtr.base + 0x10), 0x00af9b000000ffff);
	assert_int_equal(guest64(m, v->gdtr.base + 0x18), 0x00cf93000000ffff);
	assert_true(v->gpr[R_RSP] > 0x1000 && v->gpr[R_RSP] < 0x9fc00);
	check_identity(v);
	return v->gpr[R_RSI];
}

static void linux_at(uint64_t mem, uint64_t initrd_len)
{
	struct machine m;
	char cmd[32];
	gpa_t zp, rd;
	uint8_t b;

	put_bzimage("bz", 20 * MIB);
	if (initrd_len)
		put_pattern("initrd", initrd_len, 3);
	machine_init(&m, mem, "bz", initrd_len ? "initrd" : NULL,
		     "console=ttyS0 x=y");
	assert_int_equal(machine_boot(&m), 0);
	zp = check_linux_entry(&m);
	check_copy(&m, 16 * MIB, "bz", HEAD_BYTES, BODY_BYTES);
	check_e820(&m, zp);
	/* The setup header was copied, and the rest is zero. */
	assert_int_equal(guest32(&m, zp + 0x202), 0x53726448);
	assert_int_equal(guest32(&m, zp + 0x260), 20 * MIB);
	assert_int_equal(guest64(&m, zp + 0x250), 0);
	check_zero(&m, zp, 0x70);
	check_zero(&m, zp + 0x26c, 0x2d0 - 0x26c);
	guest_read(&m, zp + 0x210, &b, 1);
	assert_int_equal(b, 0xff);
	assert_int_equal(guest64(&m, zp + 0x70), 0xe0000);
	guest_read(&m, guest32(&m, zp + 0x228), cmd, 18);
	assert_string_equal(cmd, "console=ttyS0 x=y");
	rd = guest32(&m, zp + 0x218);
	assert_int_equal(guest32(&m, zp + 0x21c), initrd_len);
	if (initrd_len) {
		assert_int_equal(rd & 4095, 0);
		assert_true(rd + initrd_len <= p2m_low_bytes(m.vm.p2m));
		assert_true(rd + initrd_len <= 0x80000000);
		assert_true(rd >= 36 * MIB || rd + initrd_len <= 16 * MIB);
		check_copy(&m, rd, "initrd", 0, initrd_len);
	}
	machine_fini(&m);
}

static void test_linux_sizes(void **state)
{
	linux_at(64 * MIB, 0);
	linux_at(64 * MIB, 3 * MIB + 77);
	linux_at(128 * MIB, 1);
	linux_at(3 * GIB, 4096);
	linux_at(4 * GIB, 4097);
	linux_at(16 * GIB, 100000);
}

/* No room above the kernel: the initrd goes below it. */
static void test_linux_initrd_below(void **state)
{
	linux_at(38 * MIB, 5 * MIB);
	linux_at(36 * MIB, 15 * MIB);
}

/* Booted again, with RAM full of the last run's leavings. */
static void test_reboot(void **state)
{
	uint8_t junk[4096];
	struct machine m;
	gpa_t zp;

	memset(junk, 0xa5, sizeof(junk));
	put_bzimage("bz", 4 * MIB);
	machine_init(&m, 32 * MIB, "bz", NULL, "a");
	assert_int_equal(machine_boot(&m), 0);
	for (gpa_t a = 0; a < 1 * MIB; a += 4096)
		assert_int_equal(p2m_copy_in(m.vm.p2m, a, junk, 4096), 0);
	m.vm.vcpu->cr4 = ~0ull;
	m.vm.vcpu->gpr[R_RBX] = 7;
	assert_int_equal(machine_boot(&m), 0);
	zp = check_linux_entry(&m);
	assert_int_equal(m.vm.vcpu->gpr[R_RBX], 0);
	check_zero(&m, zp, 0x70);
	check_e820(&m, zp);
	machine_fini(&m);
}

/* One refusal: the errno, and a word that the line must have. */
static void refuse(const char *file, const char *initrd, uint64_t mem,
		   const char *cmdline, int e, const char *word)
{
	struct machine m;

	machine_init(&m, mem, file, initrd, cmdline);
	assert_int_equal(machine_boot(&m), -e);
	if (!strstr(m.err, word))
		fail_msg("no \"%s\" in: %s", word, m.err);
	/* It names the file that is to blame. */
	if (!strstr(m.err, m.kernel) && !strstr(m.err, m.initrd))
		fail_msg("no file named in: %s", m.err);
	machine_fini(&m);
}

static void test_bad_files(void **state)
{
	put_file("empty", "", 0);
	put_file("text",
		 "#!/bin/sh\necho this is a script, not a kernel at "
		 "all, whatever its length is\n",
		 78);
	put_file("gz",
		 "\x1f\x8b\x08 this could be a kernel once unpacked, "
		 "but nobody can tell........................",
		 70);
	put_file("tiny", "MZ", 2);
	mkdir(in_dir("dir"), 0700);
	assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
	refuse("missing", NULL, 64 * MIB, "", ENOENT, "check the path");
	refuse("dir", NULL, 64 * MIB, "", EISDIR, "directory");
	refuse("fifo", NULL, 64 * MIB, "", EINVAL, "regular file");
	refuse("empty", NULL, 64 * MIB, "", ENOEXEC, "empty");
	refuse("tiny", NULL, 64 * MIB, "", ENOEXEC, "truncated");
	refuse("text", NULL, 64 * MIB, "", ENOEXEC, "not a kernel");
	refuse("gz", NULL, 64 * MIB, "", ENOEXEC, "unpack it");
}

static void test_bad_initrd(void **state)
{
	put_bzimage("bz", 20 * MIB);
	put_file("empty", "", 0);
	mkdir(in_dir("dir"), 0700);
	refuse("bz", "nord", 64 * MIB, "", ENOENT, "initrd");
	refuse("bz", "dir", 64 * MIB, "", EISDIR, "directory");
	refuse("bz", "empty", 64 * MIB, "", ENOEXEC, "empty");
	/* Larger than memory; larger than every gap in it. */
	put_file("huge", "x", 1);
	assert_int_equal(truncate(in_dir("huge"), 80 * MIB), 0);
	refuse("bz", "huge", 64 * MIB, "", E2BIG, "--mem");
	assert_int_equal(truncate(in_dir("huge"), 29 * MIB), 0);
	refuse("bz", "huge", 64 * MIB, "", E2BIG, "--mem");
	assert_int_equal(truncate(in_dir("huge"), 1ull << 42), 0);
	refuse("bz", "huge", 64 * MIB, "", E2BIG, "--mem");
}

static void test_bad_bzimage(void **state)
{
	char *line = malloc(3000);

	put_bzimage("bz", 20 * MIB);
	refuse("bz", NULL, 24 * MIB, "", ENOMEM, "--mem 38M");
	memset(line, 'a', 2999);
	line[2999] = 0;
	refuse("bz", NULL, 64 * MIB, line, E2BIG, "2047");
	free(line);
	/* Truncated anywhere: in the header, in the body. */
	for (long n = IMAGE_SIZE - 1; n > 0x2a0; n /= 2) {
		assert_int_equal(truncate(in_dir("bz"), n), 0);
		refuse("bz", NULL, 64 * MIB, "", ENOEXEC, "truncated");
	}
	make_bzimage(20 * MIB);
	put64(image + 0x258, 0x1000);
	put_file("bz", image, IMAGE_SIZE);
	refuse("bz", NULL, 64 * MIB, "", ENOEXEC, "damaged");
	put64(image + 0x258, ~0ull);
	put_file("bz", image, IMAGE_SIZE);
	refuse("bz", NULL, 64 * MIB, "", ENOEXEC, "damaged");
	make_bzimage(0xffffffff);
	put_file("bz", image, IMAGE_SIZE);
	refuse("bz", NULL, 1 * GIB, "", ENOMEM, "does not fit");
	make_bzimage(MIB);
	put16(image + 0x206, 0x20b);
	put_file("bz", image, IMAGE_SIZE);
	refuse("bz", NULL, 64 * MIB, "", ENOEXEC, "64-bit entry");
	make_bzimage(MIB);
	put16(image + 0x236, 0);
	put_file("bz", image, IMAGE_SIZE);
	refuse("bz", NULL, 64 * MIB, "", ENOEXEC, "64-bit entry");
}

/* A signature behind the kernel is not loaded. */
static void test_trailing_bytes(void **state)
{
	struct machine m;

	make_bzimage(MIB);
	put_file("bz", image, IMAGE_SIZE + 4096);
	machine_init(&m, 64 * MIB, "bz", NULL, NULL);
	assert_int_equal(machine_boot(&m), 0);
	check_copy(&m, 16 * MIB, "bz", HEAD_BYTES, BODY_BYTES);
	check_zero(&m, 16 * MIB + BODY_BYTES, 4096);
	machine_fini(&m);
}

/* ---- PVH ---- */

#define PVH_FILE 0x3000
#define PVH_LOAD (1 * MIB)
#define PVH_MEM	 0x5000

static uint8_t elf[PVH_FILE];

static Elf64_Ehdr *ehdr(void)
{
	return (Elf64_Ehdr *)elf;
}
static Elf64_Phdr *phdr(int i)
{
	return (Elf64_Phdr *)(elf + 64) + i;
}

static void make_pvh(void)
{
	uint8_t *note = elf + 0x800;

	memset(elf, 0, sizeof(elf));
	for (unsigned i = 0x1000; i < sizeof(elf); i++)
		elf[i] = i * 11;
	*ehdr() = (Elf64_Ehdr){
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = 1,
		.e_entry = PVH_LOAD + 0x100,
		.e_phoff = 64,
		.e_ehsize = 64,
		.e_phentsize = 56,
		.e_phnum = 2,
	};
	*phdr(0) = (Elf64_Phdr){.p_type = PT_LOAD,
				.p_offset = 0x1000,
				.p_vaddr = 0xffffffff81000000,
				.p_paddr = PVH_LOAD,
				.p_filesz = 0x2000,
				.p_memsz = PVH_MEM};
	*phdr(1) = (Elf64_Phdr){.p_type = PT_NOTE,
				.p_offset = 0x800,
				.p_filesz = 20 + 24,
				.p_memsz = 44};
	/* Another note first: the walk must step over it. */
	put32(note, 4);
	put32(note + 4, 6);
	put32(note + 8, 6);
	memcpy(note + 12, "Xen", 4);
	note += 12 + 4 + 8;
	put32(note, 4);
	put32(note + 4, 4);
	put32(note + 8, 18);
	memcpy(note + 12, "Xen", 4);
	put32(note + 16, PVH_LOAD + 0x40);
}

static void put_pvh(void)
{
	put_file("vmlinux", elf, sizeof(elf));
}

static void check_flat32(struct vcpu *v)
{
	assert_false(v->in_long_mode);
	assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_int_equal(v->efer, 0);
	assert_int_equal(v->rflags, FL_R1);
	for (int s = 0; s < NR_SEGS; s++) {
		assert_int_equal(v->seg[s].base, 0);
		assert_int_equal(v->seg[s].limit, 0xffffffff);
		assert_true(v->seg[s].attr & SEG_ATTR_DB);
	}
	assert_int_equal(v->seg[SEG_CS].attr & 0x1b, 0x1b);
}

static void pvh_at(uint64_t mem, uint64_t initrd_len)
{
	uint8_t junk[4096];
	struct machine m;
	gpa_t si, mod, map;
	char cmd[8];

	memset(junk, 0x77, sizeof(junk));
	make_pvh();
	put_pvh();
	if (initrd_len)
		put_pattern("initrd", initrd_len, 9);
	machine_init(&m, mem, "vmlinux", initrd_len ? "initrd" : NULL,
		     "hi=you");
	/* bss is cleared also when RAM was not. */
	p2m_copy_in(m.vm.p2m, PVH_LOAD + 0x4000, junk, sizeof(junk));
	assert_int_equal(machine_boot(&m), 0);
	check_flat32(m.vm.vcpu);
	assert_int_equal(m.vm.vcpu->rip, PVH_LOAD + 0x40);
	check_copy(&m, PVH_LOAD, "vmlinux", 0x1000, 0x2000);
	check_zero(&m, PVH_LOAD + 0x2000, PVH_MEM - 0x2000);
	si = m.vm.vcpu->gpr[R_RBX];
	assert_int_equal(guest32(&m, si), 0x336ec578);
	assert_int_equal(guest32(&m, si + 4), 1);
	assert_int_equal(guest32(&m, si + 12), initrd_len ? 1 : 0);
	assert_int_equal(guest64(&m, si + 32), 0xe0000);
	guest_read(&m, guest64(&m, si + 24), cmd, 7);
	assert_string_equal(cmd, "hi=you");
	map = guest64(&m, si + 40);
	assert_in_range(guest32(&m, si + 48), 4, 8);
	assert_int_equal(guest64(&m, map + 8), 0x9fc00);
	assert_int_equal(guest32(&m, map + 16), 1);
	mod = guest64(&m, si + 16);
	if (initrd_len) {
		assert_int_equal(guest64(&m, mod + 8), initrd_len);
		check_copy(&m, guest64(&m, mod), "initrd", 0, initrd_len);
	}
	machine_fini(&m);
}

static void test_pvh(void **state)
{
	pvh_at(2 * MIB, 0);
	pvh_at(64 * MIB, 12345);
	pvh_at(8 * GIB, 5000);
}

/* A note with an 8-byte address, and one that ends with its segment. */
static void test_pvh_note_forms(void **state)
{
	struct machine m;

	make_pvh();
	put32(elf + 0x800 + 24 + 4, 8);
	put64(elf + 0x800 + 24 + 16, PVH_LOAD + 0x80);
	phdr(1)->p_filesz += 4;
	put_pvh();
	machine_init(&m, 4 * MIB, "vmlinux", NULL, NULL);
	assert_int_equal(machine_boot(&m), 0);
	assert_int_equal(m.vm.vcpu->rip, PVH_LOAD + 0x80);
	machine_fini(&m);
}

#define BAD(change, e, word)                                                   \
	do {                                                                   \
		make_pvh();                                                    \
		change;                                                        \
		put_pvh();                                                     \
		refuse("vmlinux", NULL, 64 * MIB, "", e, word);                \
	} while (0)

static void test_bad_elf(void **state)
{
	BAD(ehdr()->e_machine = EM_AARCH64, ENOEXEC, "x86");
	BAD(ehdr()->e_ident[EI_DATA] = ELFDATA2MSB, ENOEXEC, "big-endian");
	BAD(ehdr()->e_ident[EI_CLASS] = 7, ENOEXEC, "class");
	BAD(ehdr()->e_type = ET_REL, ENOEXEC, "no program");
	BAD(ehdr()->e_phnum = 0, ENOEXEC, "no program headers");
	BAD(ehdr()->e_phnum = 65535, ENOEXEC, "too many");
	BAD(ehdr()->e_phentsize = 55, ENOEXEC, "wrong size");
	BAD(ehdr()->e_phoff = ~0ull, ENOEXEC, "truncated");
	BAD(ehdr()->e_phoff = PVH_FILE - 60, ENOEXEC, "truncated");
	BAD(phdr(0)->p_type = PT_NULL, ENOEXEC, "nothing to load");
	BAD(phdr(0)->p_offset = ~0ull - 5, ENOEXEC, "truncated");
	BAD(phdr(0)->p_offset = 0x1001, ENOEXEC, "truncated");
	BAD(phdr(0)->p_filesz = PVH_MEM + 1, ENOEXEC, "larger");
	BAD(phdr(0)->p_memsz = ~0ull, ENOMEM, "does not fit");
	BAD(phdr(0)->p_memsz = 1 * GIB, ENOMEM, "does not fit");
	BAD(phdr(0)->p_paddr = ~0ull - 0x100, ENOMEM, "does not fit");
	BAD(phdr(0)->p_paddr = 0x9f000, ENOMEM, "does not fit");
	BAD(phdr(0)->p_paddr = 0xe0000, ENOMEM, "does not fit");
	BAD(phdr(1)->p_type = PT_NULL, ENOEXEC, "CONFIG_PVH");
	BAD(phdr(1)->p_offset = ~0ull, ENOEXEC, "notes");
	BAD(phdr(1)->p_offset = PVH_FILE - 3, ENOEXEC, "truncated");
	BAD(put32(elf + 0x800, ~0u), ENOEXEC, "CONFIG_PVH");
	BAD(put32(elf + 0x800 + 4, ~0u), ENOEXEC, "CONFIG_PVH");
	BAD(put32(elf + 0x800 + 24 + 16, 0), ENOEXEC, "PVH entry");
	BAD(put32(elf + 0x800 + 24 + 16, ~0u), ENOEXEC, "PVH entry");
	/* Two segments in one place */
	BAD((*phdr(2) = *phdr(0), ehdr()->e_phnum = 3), ENOMEM, "does not fit");
}

/* ---- a bzImage that must be unpacked here ---- */

/* What lz4_block makes of a block in hex, or -1; the output in out. */
static long unlz4(const char *hexes, uint8_t *out, size_t cap)
{
	uint8_t in[64], *exact, *room;
	size_t n = strlen(hexes) / 2;
	long r;

	for (size_t i = 0; i < n; i++)
		sscanf(hexes + 2 * i, "%2hhx", &in[i]);
	/* Exact sizes: the sanitizer build sees any byte too many. */
	exact = malloc(n ? n : 1);
	room = malloc(cap ? cap : 1);
	memcpy(exact, in, n);
	r = lz4_block(exact, n, room, cap);
	assert_true(r <= (long)cap);
	if (r > 0)
		memcpy(out, room, r);
	free(exact);
	free(room);
	return r;
}

static void test_lz4(void **state)
{
	uint8_t out[600];

	assert_int_equal(unlz4("30616263", out, 3), 3);
	assert_memory_equal(out, "abc", 3);
	/* overlapping match: "ab" and 6 more, then "c" */
	assert_int_equal(unlz4("226162020010"
			       "63",
			       out, 9),
			 9);
	assert_memory_equal(out,
			    "abababab"
			    "c",
			    9);
	/* long lengths: 1 literal, match of 4 + 15 + 255 + 5, one literal */
	assert_int_equal(unlz4("1f7a0100ff0510"
			       "79",
			       out, 281),
			 281);
	for (int i = 0; i < 280; i++)
		assert_int_equal(out[i], 'z');
	assert_int_equal(out[280], 'y');
	/* Does not fit; cut short; offset of 0 or too far; no last literals */
	assert_int_equal(unlz4("30616263", out, 2), -1);
	assert_int_equal(unlz4("226162020010"
			       "63",
			       out, 8),
			 -1);
	assert_int_equal(unlz4("306162", out, 9), -1);
	assert_int_equal(unlz4("2261620200", out, 99), -1);
	assert_int_equal(unlz4("22616202", out, 99), -1);
	assert_int_equal(unlz4("226162000010"
			       "63",
			       out, 99),
			 -1);
	assert_int_equal(unlz4("226162030010"
			       "63",
			       out, 99),
			 -1);
	assert_int_equal(unlz4("f0ffffff", out, 99), -1);
	assert_int_equal(unlz4("", out, 99), -1);
}

/* image: a bzImage whose payload is the PVH test's ELF file, in two blocks of
 * literals, moved to [1 MiB, ...). Answers the file's length. */
static size_t make_packed(uint32_t init_size)
{
	uint8_t *p;
	size_t half = sizeof(elf) / 2;

	make_pvh();
	ehdr()->e_entry = 0xffffffff81000010;
	make_bzimage(init_size);
	p = image + HEAD_BYTES + 0x400;
	put32(p, LZ4_LEGACY_MAGIC);
	p += 4;
	for (int i = 0; i < 2; i++) {
		uint8_t *len = p, *start = p + 4;
		size_t n = half - 15;

		p = start;
		*p++ = 0xf0;
		for (; n >= 255; n -= 255)
			*p++ = 255;
		*p++ = n;
		memcpy(p, elf + i * half, half);
		p += half;
		put32(len, p - start);
	}
	put32(p, sizeof(elf));
	p += 4;
	put32(image + 0x248, 0x400);
	put32(image + 0x24c, p - (image + HEAD_BYTES + 0x400));
	return IMAGE_SIZE;
}

static void test_unpacked(void **state)
{
	struct machine m;
	gpa_t zp, rd;

	put_file("packed", image, make_packed(20 * MIB));
	put_file("elf", elf, sizeof(elf));
	put_pattern("initrd", 3 * MIB, 5);
	machine_init(&m, 20 * MIB, "packed", "initrd", "small");
	assert_int_equal(machine_boot(&m), 0);
	assert_true(m.vm.vcpu->in_long_mode);
	assert_int_equal(m.vm.vcpu->rip, PVH_LOAD + 0x10);
	check_copy(&m, PVH_LOAD, "elf", 0x1000, 0x2000);
	check_zero(&m, PVH_LOAD + 0x2000, PVH_MEM - 0x2000);
	zp = m.vm.vcpu->gpr[R_RSI];
	assert_int_equal(guest32(&m, zp + 0x202), 0x53726448);
	rd = guest32(&m, zp + 0x218);
	assert_true(rd >= PVH_LOAD + PVH_MEM);
	check_copy(&m, rd, "initrd", 0, 3 * MIB);
	machine_fini(&m);
	/* With room for the decompressor, it is the guest's business. */
	machine_init(&m, 64 * MIB, "packed", NULL, "");
	assert_int_equal(machine_boot(&m), 0);
	assert_int_equal(m.vm.vcpu->rip, 16 * MIB + 0x200);
	machine_fini(&m);
}

static void test_bad_packed(void **state)
{
	static const struct {
		unsigned off;
		uint32_t val;
	} bad[] = {
		{0x248, 0x401},	     /* magic elsewhere */
		{0x248, 0xfffffff0}, /* outside */
		{0x24c, 11},
		{0x24c, 0xffffffff},
		{0x24c, 0x1000},		  /* cut short */
		{HEAD_BYTES + 0x400, 0},	  /* not LZ4 */
		{HEAD_BYTES + 0x404, 0xffffffff}, /* a block too long */
		{HEAD_BYTES + 0x404, 0},
		{HEAD_BYTES + 0x480, 0}, /* the ELF header broken */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		size_t n = make_packed(20 * MIB);

		if (i == ARRAY_SIZE(bad) - 1)
			memset(image + HEAD_BYTES + 0x408, 0xee, 200);
		put32(image + bad[i].off, bad[i].val);
		put_file("packed", image, n);
		refuse("packed", NULL, 20 * MIB, "", ENOMEM, "--mem 38M");
	}
	/* The segments themselves do not fit. */
	make_packed(20 * MIB);
	for (size_t i = HEAD_BYTES; i + 8 < IMAGE_SIZE; i++)
		if (get64(image + i) == PVH_MEM)
			put64(image + i, 64 * MIB);
	put_file("packed", image, IMAGE_SIZE);
	refuse("packed", NULL, 20 * MIB, "", ENOMEM, "--mem 38M");
}

static void test_tiny_memory(void **state)
{
	put_bzimage("bz", MIB);
	refuse("bz", NULL, 1 * MIB, "", EINVAL, "--mem");
}

/* Files with random bytes changed: any answer, but no crash (the sanitizer
 * build is watching), no leak, and never an entry outside RAM. */
static void mutate(const char *name, const uint8_t *good, size_t len,
		   size_t hot, unsigned rounds)
{
	uint8_t *bad = malloc(len);
	uint32_t s = 12345;
	struct machine m;

	put_file(name, good, len);
	put_pattern("initrd", 5000, 1);
	machine_init(&m, 64 * MIB, name, "initrd", "x");
	for (unsigned i = 0; i < rounds; i++) {
		memcpy(bad, good, len);
		for (unsigned k = 0; k <= i % 6; k++) {
			s = s * 1664525 + 1013904223;
			bad[(s >> 8) % hot] = s >> 3 & 1 ? 0xff : s >> 24;
		}
		put_file(name, bad, i % 7 ? len : (s >> 8) % len);
		if (!machine_boot(&m))
			assert_true(m.vm.vcpu->rip < 64 * MIB);
	}
	machine_fini(&m);
	free(bad);
}

static void test_mutations(void **state)
{
	make_bzimage(4 * MIB);
	memset(image, 0, 0x1f1);
	mutate("mbz", image, HEAD_BYTES + 4096, 0x270, 300);
	put32(image + 0x1f4, 4096 / 16);
	mutate("mbz", image, HEAD_BYTES + 4096, 0x270, 1000);
	mutate("mpk", image, make_packed(60 * MIB), HEAD_BYTES + 0x600, 300);
	make_pvh();
	mutate("melf", elf, sizeof(elf), 64 + 2 * 56, 1000);
	memcpy(elf + 0xb0, elf + 0x800, 44); /* notes within the hot bytes */
	phdr(1)->p_offset = 0xb0;
	mutate("melf", elf, sizeof(elf), 0xb0 + 44, 1500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linux_sizes),
		cmocka_unit_test(test_linux_initrd_below),
		cmocka_unit_test(test_reboot),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_bad_initrd),
		cmocka_unit_test(test_bad_bzimage),
		cmocka_unit_test(test_trailing_bytes),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_pvh_note_forms),
		cmocka_unit_test(test_bad_elf),
		cmocka_unit_test(test_lz4),
		cmocka_unit_test(test_unpacked),
		cmocka_unit_test(test_bad_packed),
		cmocka_unit_test(test_tiny_memory),
		cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
