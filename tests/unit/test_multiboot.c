/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1 images made here, ELF32 and flat: placement, the information
 * structure, the entry state, refusals. */
#include <elf.h>
#undef PF_W /* a page fault bit to us */

#include "tests/unit/boot_util.h"

#include "vmm/boot/boot_priv.h"
#include "vmm/x86/regs.h"

#define FILE_LEN 0x3000
#define HDR	 0x400 /* where the Multiboot header is in the file */
#define LOAD	 (1 * MIB)

static uint8_t img[FILE_LEN];

static void put_header(size_t at, uint32_t flags)
{
	put32(img + at, 0x1badb002);
	put32(img + at + 4, flags);
	put32(img + at + 8, -(0x1badb002 + flags));
}

static Elf32_Ehdr *ehdr(void)
{
	return (Elf32_Ehdr *)img;
}
static Elf32_Phdr *phdr(int i)
{
	return (Elf32_Phdr *)(img + 52) + i;
}

static void make_elf(void)
{
	for (unsigned i = 0; i < sizeof(img); i++)
		img[i] = i * 5;
	*ehdr() = (Elf32_Ehdr){
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_version = 1,
		.e_entry = 0xc0100010, /* virtual: 16 bytes into segment 0 */
		.e_phoff = 52,
		.e_ehsize = 52,
		.e_phentsize = 32,
		.e_phnum = 2,
	};
	*phdr(0) = (Elf32_Phdr){.p_type = PT_LOAD,
				.p_offset = 0x1000,
				.p_vaddr = 0xc0100000,
				.p_paddr = LOAD,
				.p_filesz = 0x1234,
				.p_memsz = 0x6000};
	/* Under 640 KiB, where our own tables would go first. */
	*phdr(1) = (Elf32_Phdr){.p_type = PT_LOAD,
				.p_offset = 0x2800,
				.p_vaddr = 0x1000,
				.p_paddr = 0x1000,
				.p_filesz = 0x800,
				.p_memsz = 0x2000};
	put_header(HDR, 3);
}

static void check_entry(struct machine *m, uint32_t eip)
{
	struct vcpu *v = m->vm.vcpu;

	assert_int_equal(v->rip, eip);
	assert_int_equal(v->gpr[R_RAX], 0x2badb002);
	assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_false(v->in_long_mode);
	assert_int_equal(v->rflags & (FL_IF | FL_VM), 0);
	for (int s = 0; s < NR_SEGS; s++) {
		assert_int_equal(v->seg[s].base, 0);
		assert_int_equal(v->seg[s].limit, 0xffffffff);
		assert_true(v->seg[s].attr & SEG_ATTR_DB);
	}
}

static void check_string(struct machine *m, gpa_t a, const char *want)
{
	char got[128] = "";

	assert_true(strlen(want) < sizeof(got));
	guest_read(m, a, got, strlen(want) + 1);
	assert_string_equal(got, want);
}

static void check_mmap(struct machine *m, gpa_t info)
{
	gpa_t a = guest32(m, info + 48), end = a + guest32(m, info + 44);
	uint64_t ram = 0;

	assert_true(end > a);
	for (; a < end; a += guest32(m, a) + 4) {
		assert_int_equal(guest32(m, a), 20);
		if (guest32(m, a + 20) == 1)
			ram += guest64(m, a + 12);
	}
	assert_int_equal(a, end);
	assert_int_equal(ram + (0x100000 - 0x9fc00), p2m_ram_bytes(m->vm.p2m));
}

static void check_info(struct machine *m, const char *cmdline, size_t mod_len)
{
	gpa_t i = m->vm.vcpu->gpr[R_RBX], mod;

	assert_true(i >= 0x3000 && i < 0x9f000);
	assert_int_equal(guest32(m, i) & 0x24d, 0x24d);
	assert_int_equal(guest32(m, i + 4), 639);
	assert_int_equal(guest32(m, i + 8),
			 (p2m_low_bytes(m->vm.p2m) >> 10) - 1024);
	check_string(m, guest32(m, i + 16), cmdline);
	check_string(m, guest32(m, i + 64), "Sardine");
	check_mmap(m, i);
	assert_int_equal(guest32(m, i + 20), mod_len ? 1 : 0);
	if (!mod_len)
		return;
	mod = guest32(m, i + 24);
	assert_int_equal(guest32(m, mod) & 4095, 0);
	assert_int_equal(guest32(m, mod + 4) - guest32(m, mod), mod_len);
	assert_true(guest32(m, mod) >= LOAD + 0x6000);
	check_copy(m, guest32(m, mod), "the module", 0, mod_len);
	check_string(m, guest32(m, mod + 8), "the_module");
}

static void test_elf32(void **state)
{
	static const uint64_t mems[] = {2 * MIB, 64 * MIB, 5 * GIB};

	make_elf();
	put_file("kernel.elf", img, sizeof(img));
	put_pattern("the module", 10001, 2);
	for (unsigned i = 0; i < ARRAY_SIZE(mems); i++) {
		struct machine m;

		machine_init(&m, mems[i], "kernel.elf", "the module",
			     "one two=3");
		assert_int_equal(machine_boot(&m), 0);
		check_entry(&m, LOAD + 16);
		check_copy(&m, LOAD, "kernel.elf", 0x1000, 0x1234);
		check_zero(&m, LOAD + 0x1234, 0x6000 - 0x1234);
		check_copy(&m, 0x1000, "kernel.elf", 0x2800, 0x800);
		check_zero(&m, 0x1800, 0x1800);
		check_info(&m, "kernel.elf one two=3", 10001);
		machine_fini(&m);
	}
}

static void test_plain(void **state)
{
	struct machine m;

	make_elf();
	put_file("my kernel", img, sizeof(img));
	machine_init(&m, 4 * MIB, "my kernel", NULL, NULL);
	assert_int_equal(machine_boot(&m), 0);
	check_info(&m, "my_kernel", 0);
	machine_fini(&m);
}

/* The header's own addresses, in a file that is not ELF. */
static void make_flat(uint32_t load_end, uint32_t bss_end)
{
	for (unsigned i = 0; i < sizeof(img); i++)
		img[i] = i * 3;
	put_header(HDR, 0x10000);
	put32(img + HDR + 12, LOAD + 0x300); /* header; load is at 0x100 */
	put32(img + HDR + 16, LOAD);
	put32(img + HDR + 20, load_end);
	put32(img + HDR + 24, bss_end);
	put32(img + HDR + 28, LOAD + 0x77);
	put_file("flat", img, sizeof(img));
}

static void flat(uint32_t load_end, uint32_t bss_end, size_t len)
{
	struct machine m;

	make_flat(load_end, bss_end);
	machine_init(&m, 16 * MIB, "flat", NULL, "");
	assert_int_equal(machine_boot(&m), 0);
	check_entry(&m, LOAD + 0x77);
	check_copy(&m, LOAD, "flat", 0x100, len);
	check_zero(&m, LOAD + len, 0x1000);
	machine_fini(&m);
}

static void test_flat(void **state)
{
	flat(0, 0, FILE_LEN - 0x100);
	flat(LOAD + 0x1000, 0, 0x1000);
	flat(LOAD + 0x1000, LOAD + 0x9000, 0x1000);
	flat(0, LOAD + 0x9000, FILE_LEN - 0x100);
}

static void refuse(const char *name, uint64_t mem, int e, const char *word)
{
	struct machine m;

	machine_init(&m, mem, name, NULL, "");
	assert_int_equal(machine_boot(&m), -e);
	if (!strstr(m.err, word) || !strstr(m.err, m.kernel))
		fail_msg("no \"%s\" in: %s", word, m.err);
	machine_fini(&m);
}

#define BAD(change, e, word)                                                   \
	do {                                                                   \
		make_elf();                                                    \
		change;                                                        \
		put_file("bad", img, sizeof(img));                             \
		refuse("bad", 16 * MIB, e, word);                              \
	} while (0)

static void test_bad(void **state)
{
	BAD(img[HDR + 8] ^= 1, ENOEXEC, "Multiboot header");
	BAD(put_header(HDR, 8), ENOEXEC, "demands");
	BAD(ehdr()->e_entry = 0xfffffff0, ENOEXEC, "entry point");
	BAD(phdr(0)->p_paddr = 0xffffffff, ENOMEM, "does not fit");
	BAD(phdr(0)->p_memsz = 0xffffffff, ENOMEM, "does not fit");
	BAD(phdr(1)->p_paddr = LOAD + 0x5fff, ENOMEM, "does not fit");
	BAD(memset(img, 'x', 4), ENOEXEC, "link it as ELF32");
	make_flat(LOAD - 1, 0);
	refuse("flat", 16 * MIB, ENOEXEC, "bad end");
	make_flat(LOAD + 0x1000, LOAD + 0xfff);
	refuse("flat", 16 * MIB, ENOEXEC, "bad end");
	make_flat(LOAD + 0x100000, 0);
	refuse("flat", 16 * MIB, ENOEXEC, "truncated");
	make_flat(0, 0xffffffff);
	refuse("flat", 16 * MIB, ENOMEM, "fit");
	make_flat(0, 0);
	put32(img + HDR + 12, LOAD + 0x401);
	put_file("flat", img, sizeof(img));
	refuse("flat", 16 * MIB, ENOEXEC, "bad load");
}

/* The header counts in the first 8 KiB only. */
static void test_header_window(void **state)
{
	make_elf();
	put32(img + HDR, 0);
	put_header(8192 - 12, 0);
	put_file("edge", img, sizeof(img));
	struct machine m;

	machine_init(&m, 16 * MIB, "edge", NULL, "");
	assert_int_equal(machine_boot(&m), 0);
	machine_fini(&m);
	put32(img + 8192 - 12, 0);
	put_header(8192 - 8, 0);
	put_file("edge", img, sizeof(img));
	refuse("edge", 16 * MIB, ENOEXEC, "neither");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_elf32),
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_flat),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_header_window),
	};

	return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
