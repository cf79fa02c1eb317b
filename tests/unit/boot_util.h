/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_UNIT_BOOT_UTIL_H
#define SARDINE_TESTS_UNIT_BOOT_UTIL_H
/*
 * For the loaders' tests: files in a directory of their own, and a machine of
 * p2m and vCPU alone, which is all that boot_load looks at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/boot/boot.h"
#include "vmm/vm.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static char test_dir[256];

static int dir_setup(void **state)
{
	const char *t = getenv("TMPDIR");

	snprintf(test_dir, sizeof(test_dir), "%s/sardine-boot.XXXXXX",
		 t ? t : "/tmp");
	return mkdtemp(test_dir) ? 0 : -1;
}

static int dir_teardown(void **state)
{
	struct dirent *e;
	DIR *d = opendir(test_dir);

	while (d && (e = readdir(d)))
		if (unlinkat(dirfd(d), e->d_name, 0) && e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	if (d)
		closedir(d);
	return rmdir(test_dir);
}

/* The path of a file in the test's directory, in one of four buffers. */
static const char *in_dir(const char *name)
{
	static char buf[4][512];
	static unsigned n;

	n = (n + 1) % 4;
	snprintf(buf[n], sizeof(buf[n]), "%s/%s", test_dir, name);
	return buf[n];
}

static void put_file(const char *name, const void *data, size_t len)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

/* A file of n bytes, byte i being (i * 7 + seed). */
static void put_pattern(const char *name, size_t n, uint8_t seed)
{
	uint8_t *p = malloc(n);

	for (size_t i = 0; i < n; i++)
		p[i] = i * 7 + seed;
	put_file(name, p, n);
	free(p);
}

static unsigned open_fds(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

struct machine {
	struct vm vm;
	char err[512];
	char kernel[512], initrd[512];
};

/* mem bytes of RAM; initrd and cmdline may be NULL. Names are in the test's
 * directory. */
static void machine_init(struct machine *m, uint64_t mem, const char *kernel,
			 const char *initrd, const char *cmdline)
{
	struct p2m_config c = {
		.ram_bytes = mem, .memfd = -1, .pool_fd = -1, .name = "boot"};

	memset(m, 0, sizeof(*m));
	snprintf(m->kernel, sizeof(m->kernel), "%s", in_dir(kernel));
	m->vm.cfg.kernel = m->kernel;
	if (initrd) {
		snprintf(m->initrd, sizeof(m->initrd), "%s", in_dir(initrd));
		m->vm.cfg.initrd = m->initrd;
	}
	m->vm.cfg.cmdline = cmdline;
	assert_int_equal(p2m_create(&c, &m->vm.p2m), 0);
	m->vm.vcpu = vcpu_create(&m->vm, 0, NULL);
	assert_non_null(m->vm.vcpu);
}

static void machine_fini(struct machine *m)
{
	assert_int_equal(p2m_audit(m->vm.p2m), 0);
	vcpu_destroy(m->vm.vcpu);
	p2m_destroy(m->vm.p2m);
}

/* boot_load; checks that it leaves no descriptor open and that an error is
 * one line. */
static int machine_boot(struct machine *m)
{
	unsigned fds = open_fds();
	int r;

	memset(m->err, 0, sizeof(m->err));
	r = boot_load(&m->vm, m->err, sizeof(m->err));
	assert_int_equal(open_fds(), fds);
	if (r) {
		assert_true(r < 0);
		assert_true(strlen(m->err) > 10);
		assert_true(strlen(m->err) < 400);
		assert_null(strchr(m->err, '\n'));
	} else {
		assert_int_equal(m->err[0], 0);
	}
	return r;
}

static void guest_read(struct machine *m, gpa_t a, void *buf, size_t n)
{
	assert_int_equal(p2m_copy_out(m->vm.p2m, a, buf, n), 0);
}
static uint32_t guest32(struct machine *m, gpa_t a)
{
	uint32_t v;

	guest_read(m, a, &v, 4);
	return v;
}
static uint64_t guest64(struct machine *m, gpa_t a)
{
	uint64_t v;

	guest_read(m, a, &v, 8);
	return v;
}

/* Does guest memory at a hold the named file's bytes [off, off + n)? */
static void check_copy(struct machine *m, gpa_t a, const char *name, long off,
		       size_t n)
{
	uint8_t *want = malloc(n), *got = malloc(n);
	FILE *f = fopen(in_dir(name), "r");

	assert_non_null(f);
	assert_int_equal(fseek(f, off, SEEK_SET), 0);
	assert_int_equal(fread(want, 1, n, f), n);
	fclose(f);
	guest_read(m, a, got, n);
	assert_memory_equal(want, got, n);
	free(want);
	free(got);
}

static void check_zero(struct machine *m, gpa_t a, size_t n)
{
	uint8_t *got = malloc(n);

	guest_read(m, a, got, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(got[i], 0);
	free(got);
}
#endif
