/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole VM: how runs end, resets, HLT and interrupts by both roads (8259 and
 * I/O APIC), console in and out, requests of other threads, and that nothing is
 * left when it is gone. The guests are a few instructions each, in one
 * Multiboot image; the test picks the entry point.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/cpu/interp.h"
#include "vmm/vm.h"

/* ---- the guests: 32-bit protected mode, flat, interrupts off ---- */

asm(".pushsection .rodata\n"
    ".code32\n"
    ".set BASE, 0x100000\n"
    "image:\n"
    "	.long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)\n"
    "	.long BASE, BASE, BASE + image_end - image, BASE + image_end - image\n"
    "	.long 0\n" /* entry: filled in */
    "g_exit:\n"
    "	mov $0x21, %al\n"
    "	out %al, $0xf4\n"
    "1:	jmp 1b\n"
    "g_poweroff:\n"
    "	mov $'h', %al\n"
    "	mov $0x3f8, %dx\n"
    "	out %al, %dx\n" /* a last word without a newline */
    "	mov $0x604, %dx\n"
    "	mov $(5 << 10 | 1 << 13), %ax\n"
    "	out %ax, %dx\n"
    "1:	hlt\n"
    "	jmp 1b\n"
    "g_reset:\n" /* the first time reset, the second time exit */
    "	mov $0x40, %al\n"
    "	out %al, $0x70\n"
    "	in $0x71, %al\n"
    "	cmp $2, %al\n"
    "	je g_exit\n"
    "	inc %al\n"
    "	out %al, $0x71\n"
    "	mov $6, %al\n"
    "	mov $0xcf9, %dx\n"
    "	out %al, %dx\n"
    "1:	jmp 1b\n"
    "g_triple:\n"
    "	push $0\n"
    "	push $0\n"
    "	lidt (BASE + idt0 - image)\n"
    "	int3\n"
    "idt0:	.word 0\n"
    "	.long 0\n"
    "g_spin:\n"
    "1:	jmp 1b\n"
    "g_halt:\n" /* IF is clear: for ever */
    "	hlt\n"
    "	jmp g_halt\n"
    /* ecx = vector, ebx = offset of the handler; uses the IDT at 0x8000 */
    "set_gate:\n"
    "	lea 0x8000(,%ecx,8), %edi\n"
    "	lea BASE(%ebx), %eax\n"
    "	mov %ax, (%edi)\n"
    "	mov %cs, 2(%edi)\n"
    "	movw $0x8e00, 4(%edi)\n"
    "	shr $16, %eax\n"
    "	mov %ax, 6(%edi)\n"
    "	lidt (BASE + idtr - image)\n"
    "	ret\n"
    "idtr:	.word 0x7ff\n"
    "	.long 0x8000\n"
    /* 20 ticks of the PIT through the 8259, asleep between them */
    "g_pit:\n"
    "	mov $0x7000, %esp\n"
    "	xor %esi, %esi\n"
    "	mov $0x20, %ecx\n"
    "	mov $(tick - image), %ebx\n"
    "	call set_gate\n"
    "	mov $0x11, %al\n"
    "	out %al, $0x20\n"
    "	mov $0x20, %al\n"
    "	out %al, $0x21\n"
    "	mov $4, %al\n"
    "	out %al, $0x21\n"
    "	mov $1, %al\n"
    "	out %al, $0x21\n"
    "	mov $0xfe, %al\n"
    "	out %al, $0x21\n"
    "	mov $0x34, %al\n"
    "	out %al, $0x43\n"
    "	mov $0x50, %al\n"
    "	out %al, $0x40\n"
    "	mov $0x09, %al\n"
    "	out %al, $0x40\n" /* 0x950: 2 ms */
    "1:	sti\n"
    "	hlt\n"
    "	cli\n"
    "	cmp $20, %esi\n"
    "	jb 1b\n"
    "	mov %esi, %eax\n"
    "	out %al, $0xf4\n"
    "2:	jmp 2b\n"
    "tick:	inc %esi\n"
    "	push %eax\n"
    "	mov $0x20, %al\n"
    "	out %al, $0x20\n"
    "	pop %eax\n"
    "	iret\n"
    /* echo what is typed, through the I/O APIC; 'q' ends it */
    "g_echo:\n"
    "	mov $0x7000, %esp\n"
    "	mov $0x44, %ecx\n"
    "	mov $(key - image), %ebx\n"
    "	call set_gate\n"
    "	movl $0x18, 0xfec00000\n" /* entry 4: vector 0x44 */
    "	movl $0x44, 0xfec00010\n"
    "	mov $0x3fa, %dx\n"
    "	mov $1, %al\n"
    "	out %al, %dx\n"
    "	mov $0x3fc, %dx\n"
    "	mov $8, %al\n"
    "	out %al, %dx\n"
    "	mov $0x3f9, %dx\n"
    "	mov $1, %al\n"
    "	out %al, %dx\n"
    "	sti\n"
    "1:	hlt\n"
    "	jmp 1b\n"
    "key:	mov $0x3fd, %dx\n"
    "	in %dx, %al\n"
    "	test $1, %al\n"
    "	jz 1f\n"
    "	mov $0x3f8, %dx\n"
    "	in %dx, %al\n"
    "	cmp $'q', %al\n"
    "	je g_exit\n"
    "	out %al, %dx\n"
    "	jmp key\n"
    "1:	movl $0, 0xfee000b0\n"
    "	iret\n"
    /* self-IPIs while spinning: each STI with one pending takes it */
    "g_ipi:\n"
    "	mov $0x7000, %esp\n"
    "	xor %esi, %esi\n"
    "	mov $0x51, %ecx\n"
    "	mov $(ipi - image), %ebx\n"
    "	call set_gate\n"
    "	mov $1000, %ebp\n"
    "1:	cli\n"
    "	movl $0x40051, 0xfee00300\n"
    "	mov %esi, %eax\n"
    "	nop\n"
    "	cmp %esi, %eax\n" /* not taken with IF clear */
    "	jne 2f\n"
    "	sti\n"
    "	mov %esi, %ecx\n" /* the shadow: not taken before this */
    "	nop\n"
    "	cmp %eax, %ecx\n"
    "	jne 2f\n"
    "	inc %eax\n"
    "	cmp %eax, %esi\n"
    "	jne 2f\n"
    "	dec %ebp\n"
    "	jnz 1b\n"
    "	mov $0x5a, %al\n"
    "	out %al, $0xf4\n"
    "3:	jmp 3b\n"
    "2:	mov $0x7f, %al\n"
    "	out %al, $0xf4\n"
    "	jmp 3b\n"
    "ipi:	inc %esi\n"
    "	movl $0, 0xfee000b0\n"
    "	iret\n"
    "	.balign 64\n"
    "image_end:\n"
    ".code64\n"
    ".popsection\n");
extern const uint8_t image[], image_end[], g_exit[], g_poweroff[], g_reset[],
	g_triple[], g_spin[], g_halt[], g_pit[], g_echo[], g_ipi[];

static char path[64];
static const struct engine_ops *engine;

static void write_image(const uint8_t *entry)
{
	size_t n = image_end - image;
	uint8_t *copy = malloc(n);
	uint32_t e = 0x100000 + (entry - image);
	int fd;

	memcpy(copy, image, n);
	memcpy(copy + 28, &e, 4);
	snprintf(path, sizeof(path), "/tmp/test_vm.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, copy, n), n);
	close(fd);
	free(copy);
}

static struct vm_config config(const uint8_t *entry)
{
	write_image(entry);
	return (struct vm_config){
		.name = "test",
		.mem_bytes = 4 << 20,
		.engine = engine,
		.kernel = path,
		.debug_exit = true,
		.console_out = -1,
		.console_in = -1,
		.memfd = -1,
		.pool_fd = -1,
	};
}

static struct vm *create(const struct vm_config *c)
{
	struct vm *vm = NULL;
	char err[256] = "";
	int r = vm_create(c, &vm, err, sizeof(err));

	if (r)
		print_error("%s\n", err);
	assert_int_equal(r, 0);
	unlink(path);
	return vm;
}

static enum vcpu_exit run(const uint8_t *entry, int *code)
{
	struct vm_config c = config(entry);
	struct vm *vm;
	enum vcpu_exit why;

	c.no_reboot = true;
	vm = create(&c);
	why = vm_run(vm);
	if (code)
		*code = vm->vcpu->exit_code;
	vm_destroy(vm);
	return why;
}

static void test_ends(void **state)
{
	int code = -1;

	assert_int_equal(run(g_exit, &code), EXIT_DEBUG);
	assert_int_equal(code, 0x43);
	assert_int_equal(run(g_poweroff, NULL), EXIT_POWEROFF);
	assert_int_equal(run(g_reset, NULL), EXIT_RESET);
	assert_int_equal(run(g_triple, NULL), EXIT_SHUTDOWN);
}

/* Two resets, then the end; the kernel is loaded anew each time. */
static void test_resets(void **state)
{
	struct vm_config c = config(g_reset);
	struct vm *vm = NULL;
	char err[256];

	/* not create(): the file is still needed */
	assert_int_equal(vm_create(&c, &vm, err, sizeof(err)), 0);
	assert_int_equal(vm_run(vm), EXIT_DEBUG);
	assert_int_equal(vm->run_stats.resets, 2);
	vm_destroy(vm);
	unlink(path);
}

static void test_pit_irq(void **state)
{
	int code;

	assert_int_equal(run(g_pit, &code), EXIT_DEBUG);
	assert_int_equal(code, 20 << 1 | 1);
}

static void test_irq_window(void **state)
{
	int code;

	assert_int_equal(run(g_ipi, &code), EXIT_DEBUG);
	assert_int_equal(code, 0x5a << 1 | 1);
}

/* ---- other threads ---- */

static void *run_thread(void *arg)
{
	return (void *)(uintptr_t)vm_run(arg);
}

struct job {
	struct vm_work w;
	_Atomic bool done;
	pthread_t on;
};

static void job_fn(struct vm *vm, struct vm_work *w)
{
	struct job *j = (struct job *)w;

	j->on = pthread_self();
	j->done = true;
}

static bool wait_done(struct job *j)
{
	for (unsigned i = 0; i < 5000 && !j->done; i++)
		usleep(1000);
	return j->done;
}

/* Work and a stop reach a guest that spins, and one that halts for ever. */
static void test_requests(void **state)
{
	const uint8_t *entry[] = {g_spin, g_halt};

	for (unsigned i = 0; i < 2; i++) {
		struct vm_config c = config(entry[i]);
		struct vm *vm = create(&c);
		pthread_t t;
		void *why;

		pthread_create(&t, NULL, run_thread, vm);
		for (unsigned n = 0; n < 50; n++) {
			struct job a = {.w.fn = job_fn}, b = {.w.fn = job_fn};

			vm_post(vm, &a.w);
			vm_post(vm, &b.w);
			assert_true(wait_done(&a));
			assert_true(wait_done(&b));
			assert_true(pthread_equal(a.on, t));
		}
		vm_stop(vm);
		pthread_join(t, &why);
		assert_int_equal((uintptr_t)why, EXIT_POWEROFF);
		vm_destroy(vm);
	}
}

/* A stop before the run, and one that meets a guest that only resets. */
static void test_stop(void **state)
{
	struct vm_config c = config(g_triple);
	struct vm *vm = NULL;
	char err[256];
	pthread_t t;
	void *why;

	assert_int_equal(vm_create(&c, &vm, err, sizeof(err)), 0);
	pthread_create(&t, NULL, run_thread, vm);
	for (unsigned n = 0; n < 500; n++) {
		usleep(20000);
		if (__atomic_load_n(&vm->run_stats.resets, __ATOMIC_RELAXED))
			break;
	}
	vm_stop(vm);
	pthread_join(t, &why);
	assert_int_equal((uintptr_t)why, EXIT_POWEROFF);
	assert_true(vm->run_stats.resets > 0);
	vm_destroy(vm);
	unlink(path);

	c = config(g_spin);
	vm = create(&c);
	vm_stop(vm);
	assert_int_equal(vm_run(vm), EXIT_POWEROFF);
	vm_destroy(vm);
}

/* ---- the console ---- */

static size_t upper(void *ctx, uint8_t *buf, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		if (buf[i] != '!')
			buf[k++] = buf[i];
	return k;
}

static void expect_out(int fd, const char *want)
{
	char buf[256] = "";
	size_t n = 0;

	for (unsigned i = 0; i < 2000 && n < strlen(want); i++) {
		ssize_t r = read(fd, buf + n, sizeof(buf) - 1 - n);

		n += r > 0 ? r : 0;
		if (r <= 0)
			usleep(1000);
	}
	assert_string_equal(buf, want);
}

static void test_console(void **state)
{
	struct vm_config c = config(g_echo);
	int in[2], out[2];
	struct vm *vm;
	pthread_t t;
	void *why;

	assert_int_equal(pipe(in) | pipe(out), 0);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	c.console_in = in[0];
	c.console_out = out[1];
	c.console_filter = upper;
	assert_int_equal(write(in[1], "early", 5), 5);
	vm = create(&c);
	pthread_create(&t, NULL, run_thread, vm);
	expect_out(out[0], "early");
	usleep(5000);
	assert_int_equal(write(in[1], "la!te!\n", 7), 7);
	expect_out(out[0], "late\n");
	assert_int_equal(write(in[1], "q", 1), 1);
	pthread_join(t, &why);
	assert_int_equal((uintptr_t)why, EXIT_DEBUG);
	vm_destroy(vm);
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
}

/* Megabytes in by a pipe, all of them out: back pressure both ways. */
static void *pump(void *arg)
{
	const int *fd = arg;
	char buf[1000];

	for (unsigned i = 0; i < 100; i++) {
		memset(buf, 'a' + i % 16, sizeof(buf));
		if (write(*fd, buf, sizeof(buf)) != sizeof(buf))
			return (void *)1;
	}
	return write(*fd, "q", 1) == 1 ? NULL : (void *)1;
}

static void test_console_bulk(void **state)
{
	struct vm_config c = config(g_echo);
	int in[2], out[2];
	struct vm *vm;
	pthread_t t, p;
	void *why;
	char buf[4096];
	size_t n = 0;
	ssize_t r;

	assert_int_equal(pipe(in) | pipe(out), 0);
	c.console_in = in[0];
	c.console_out = out[1];
	vm = create(&c);
	pthread_create(&p, NULL, pump, &in[1]);
	pthread_create(&t, NULL, run_thread, vm);
	while (n < 100000 && (r = read(out[0], buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < r; i++, n++)
			assert_int_equal(buf[i], 'a' + n / 1000 % 16);
	assert_int_equal(n, 100000);
	pthread_join(p, &why);
	assert_null(why);
	pthread_join(t, &why);
	assert_int_equal((uintptr_t)why, EXIT_DEBUG);
	vm_destroy(vm);
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
}

/* Input from a file, which epoll does not take; its end is fine; and what the
 * guest said last is there. */
static void test_console_file(void **state)
{
	struct vm_config c = config(g_echo);
	FILE *f = tmpfile(), *o = tmpfile();
	struct vm *vm;
	char buf[16] = "";

	fputs("file\nq", f);
	fflush(f);
	rewind(f);
	c.console_in = fileno(f);
	c.console_out = fileno(o);
	vm = create(&c);
	assert_int_equal(vm_run(vm), EXIT_DEBUG);
	vm_destroy(vm);
	assert_int_equal(pread(fileno(o), buf, 15, 0), 5);
	assert_string_equal(buf, "file\n");
	fclose(f);

	c = config(g_poweroff);
	c.console_in = open("/dev/null", O_RDONLY);
	c.console_out = fileno(o);
	vm = create(&c);
	assert_int_equal(vm_run(vm), EXIT_POWEROFF);
	vm_destroy(vm);
	close(c.console_in);
	assert_int_equal(pread(fileno(o), buf, 15, 0), 6);
	assert_int_equal(buf[5], 'h');
	fclose(o);
}

/* ---- nothing is left ---- */

static unsigned count_dir(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;
	int ch;

	while ((ch = fgetc(f)) != EOF)
		n += ch == '\n';
	fclose(f);
	return n;
}

static void test_leaks(void **state)
{
	unsigned fds = 0, threads = 0, maps = 0, i;

	for (i = 0; i < 40; i++) {
		if (i == 8) { /* after what allocators keep for good */
			fds = count_dir("/proc/self/fd");
			threads = count_dir("/proc/self/task");
			maps = count_maps();
		}
		run(i & 1 ? g_exit : g_pit, NULL);
	}
	assert_int_equal(count_dir("/proc/self/fd"), fds);
	assert_int_equal(count_dir("/proc/self/task"), threads);
	assert_in_range(count_maps(), 1, maps + 4);
}

/* Each way to fail says what and how, and leaves nothing. */
static void test_bad_config(void **state)
{
	struct vm_config good = config(g_exit), c;
	unsigned fds = count_dir("/proc/self/fd"), i;
	struct vm *vm = NULL;
	char err[256];

	for (i = 0; i < 6; i++) {
		c = good;
		switch (i) {
		case 0:
			c.engine = NULL;
			break;
		case 1:
			c.mem_bytes = 0;
			break;
		case 2:
			c.mem_bytes = 4097;
			break;
		case 3:
			c.kernel = "/nonexistent/kernel";
			break;
		case 4:
			c.kernel = "/tmp";
			break;
		case 5:
			c.kernel = NULL;
			break;
		}
		err[0] = 0;
		assert_true(vm_create(&c, &vm, err, sizeof(err)) < 0);
		assert_true(strlen(err) > 10);
		assert_null(strchr(err, '\n'));
		assert_null(vm);
	}
	assert_int_equal(count_dir("/proc/self/fd"), fds);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_resets),
		cmocka_unit_test(test_pit_irq),
		cmocka_unit_test(test_irq_window),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_console),
		cmocka_unit_test(test_console_bulk),
		cmocka_unit_test(test_console_file),
		cmocka_unit_test(test_leaks),
		cmocka_unit_test(test_bad_config),
	};

	char why[256];
	int failed;

	engine = &engine_interp;
	failed = cmocka_run_group_tests_name("interp", tests, NULL, NULL);
#if !defined(__SANITIZE_ADDRESS__) &&                                          \
	!defined(                                                              \
		__SANITIZE_THREAD__) /* which wants SIGSEGV and the address space */
	engine = &engine_bt;
	if (engine->probe(why, sizeof(why)))
		print_message("# no bt here: %s\n", why);
	else
		failed += cmocka_run_group_tests_name("bt", tests, NULL, NULL);
#else
	(void)why;
#endif
	return failed;
}
