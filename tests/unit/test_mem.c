/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory by linear and physical address: faults, crossings, the software
 * TLB against TLB rules and p2m changes, code pages, MMIO, lockstep. */
#include "tests/unit/sys_fixture.h"

#define MMIO 0xd0000000ul
#define VA   0x700000001000ul

struct dev {
	unsigned reads, writes;
	uint64_t last_off, last_val;
	unsigned last_len;
};

static uint64_t dev_read(void *ctx, uint64_t off, unsigned len)
{
	struct dev *d = ctx;

	d->reads++;
	d->last_off = off;
	d->last_len = len;
	return 0x8877665544332211ull >> (off & 7) * 8;
}

static void dev_write(void *ctx, uint64_t off, unsigned len, uint64_t val)
{
	struct dev *d = ctx;

	d->writes++;
	d->last_off = off;
	d->last_len = len;
	d->last_val = val;
}
static const struct bus_ops dev_ops = {dev_read, dev_write};

static void read_write(void **state)
{
	struct fix *f = *state;
	uint64_t a = 0x1122334455667788, b = 0;

	long_mode(f);
	assert_int_equal(mem_write(f->v, 0x9003, &a, 8, 0), CPU_OK);
	assert_int_equal(mem_read(f->v, 0x9003, &b, 8, 0), CPU_OK);
	assert_true(a == b);
	assert_true(peek64(f, 0x9003) == a);
	b = 0;
	assert_int_equal(mem_read(f->v, 0x9005, &b, 1, 0), CPU_OK);
	assert_int_equal(b, 0x66);
}

static void crossing(void **state)
{
	struct fix *f = *state;
	uint8_t out[32], in[32];

	long_mode(f);
	/* two neighbours in linear space, not in physical space */
	map_page(f, VA, 0x9000, PTE_P | PTE_W);
	map_page(f, VA + PAGE_SIZE, 0x7000, PTE_P | PTE_W);
	for (unsigned i = 0; i < 32; i++)
		in[i] = i + 1;
	for (unsigned at = 1; at < 32; at++) {
		gva_t a = VA + PAGE_SIZE - at;

		assert_int_equal(mem_write(f->v, a, in, 32, 0), CPU_OK);
		memset(out, 0, 32);
		assert_int_equal(mem_read(f->v, a, out, 32, 0), CPU_OK);
		assert_memory_equal(in, out, 32);
		assert_int_equal(peek64(f, 0xa000 - at) & 0xff, 1);
		assert_int_equal(peek64(f, 0x7000) & 0xff, at + 1);
	}
}

static void crossing_writes_nothing(void **state)
{
	struct fix *f = *state;
	uint64_t val = ~0ull;

	long_mode(f);
	map_page(f, VA, 0x9000, PTE_P | PTE_W);
	poke64(f, 0x9ff8, 0);
	assert_exc(mem_write(f->v, VA + PAGE_SIZE - 4, &val, 8, 0), EXC_PF,
		   PF_W);
	assert_int_equal(f->v->exc.cr2, VA + PAGE_SIZE);
	assert_int_equal(peek64(f, 0x9ff8), 0);
	/* read-only second page */
	map_page(f, VA + PAGE_SIZE, 0x7000, PTE_P);
	mem_flush(f->v);
	assert_exc(mem_write(f->v, VA + PAGE_SIZE - 4, &val, 8, 0), EXC_PF,
		   PF_W | PF_P);
	assert_int_equal(f->v->exc.cr2, VA + PAGE_SIZE);
	assert_int_equal(peek64(f, 0x9ff8), 0);
	assert_exc(mem_probe_write(f->v, VA + PAGE_SIZE - 4, 8, 0), EXC_PF,
		   PF_W | PF_P);
	/* first page gone: its own address */
	assert_exc(mem_read(f->v, VA - 4, &val, 8, 0), EXC_PF, 0);
	assert_int_equal(f->v->exc.cr2, VA - 4);
}

static void rights_by_ring(void **state)
{
	struct fix *f = *state;
	uint64_t val;

	long_mode(f);
	/* warm the TLB as the kernel */
	assert_int_equal(mem_read(f->v, 0x9000, &val, 8, 0), CPU_OK);
	go_user(f);
	assert_exc(mem_read(f->v, 0x9000, &val, 8, 0), EXC_PF, PF_P | PF_U);
	assert_exc(mem_write(f->v, 0x9000, &val, 8, 0), EXC_PF,
		   PF_P | PF_U | PF_W);
	assert_int_equal(mem_read(f->v, 0x9000, &val, 8, MEM_SYSTEM), CPU_OK);
	assert_int_equal(mem_read(f->v, 0x400000, &val, 8, 0), CPU_OK);
	/* reading first does not give the right to write */
	map_page(f, VA, 0x9000, PTE_P | PTE_U);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	assert_exc(mem_write(f->v, VA, &val, 8, 0), EXC_PF, PF_P | PF_U | PF_W);
	assert_exc(mem_read(f->v, VA, &val, 8, MEM_WRITE), EXC_PF,
		   PF_P | PF_U | PF_W);
}

static void canonical(void **state)
{
	struct fix *f = *state;
	uint64_t val = 0;

	long_mode(f);
	assert_exc(mem_read(f->v, 0x800000000000, &val, 1, 0), EXC_GP, 0);
	assert_exc(mem_read(f->v, 0x7ffffffffffc, &val, 8, 0), EXC_GP, 0);
	assert_exc(mem_write(f->v, 0x800000000000, &val, 1, MEM_STACK), EXC_SS,
		   0);
	assert_exc(mem_read(f->v, 0xffff7fffffffffff, &val, 2, 0), EXC_GP, 0);
	map_page(f, 0x7ffffffff000, 0x9000, PTE_P | PTE_W);
	assert_int_equal(mem_read(f->v, 0x7ffffffffff8, &val, 8, 0), CPU_OK);
}

/* The same page number with another sign must not hit. */
static void high_half_is_not_low_half(void **state)
{
	struct fix *f = *state;
	uint64_t val;

	long_mode(f);
	map_page(f, 0xffff800000009000, 0x7000, PTE_P | PTE_W);
	poke64(f, 0x9000, 1);
	poke64(f, 0x7000, 2);
	assert_int_equal(mem_read(f->v, 0x9000, &val, 8, 0), CPU_OK);
	assert_int_equal(val, 1);
	assert_int_equal(mem_read(f->v, 0xffff800000009000, &val, 8, 0),
			 CPU_OK);
	assert_int_equal(val, 2);
}

static void wraps_at_4g(void **state)
{
	struct fix *f = *state;
	uint32_t val = 0;

	prot_mode(f);
	poke32(f, 0, 0xaabbccdd);
	assert_int_equal(mem_read(f->v, 0x100000000, &val, 4, 0), CPU_OK);
	assert_int_equal(val, 0xaabbccdd);
	/* two bytes at the top (a bus without anybody), two at 0 */
	assert_int_equal(mem_read(f->v, 0xfffffffe, &val, 4, 0), CPU_OK);
	assert_int_equal(val, 0xccddffff);
}

/* A stale entry may live until a flush, and no longer. */
static void flush(void **state)
{
	struct fix *f = *state;
	uint64_t val;

	long_mode(f);
	poke64(f, 0x9000, 9);
	poke64(f, 0x7000, 7);
	map_page(f, VA, 0x9000, PTE_P | PTE_W);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	map_page(f, VA, 0x7000, PTE_P | PTE_W);
	mem_flush_page(f->v, VA);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	assert_int_equal(val, 7);
	map_page(f, VA, 0x9000, 0);
	assert_int_equal(cpu_invlpg(f->v, VA + 123), CPU_OK);
	assert_exc(mem_read(f->v, VA, &val, 8, 0), EXC_PF, 0);
	map_page(f, VA, 0x9000, PTE_P);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	map_page(f, VA, 0x7000, PTE_P);
	assert_int_equal(cpu_write_cr(f->v, 3, f->v->cr3), CPU_OK);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	assert_int_equal(val, 7);
	/* WP matters to supervisor writes that were cached */
	f->v->cr0 &= ~CR0_WP;
	mem_flush(f->v);
	assert_int_equal(mem_write(f->v, VA, &val, 8, 0), CPU_OK);
	assert_int_equal(cpu_write_cr(f->v, 0, f->v->cr0 | CR0_WP), CPU_OK);
	assert_exc(mem_write(f->v, VA, &val, 8, 0), EXC_PF, PF_P | PF_W);
}

static unsigned told, told_off, told_len;
static void on_code(void *ctx, ppn_t ppn, unsigned off, unsigned len)
{
	told++;
	told_off = off;
	told_len = len;
}
static void on_any(void *ctx, ppn_t ppn)
{
}
static const struct p2m_listener_ops listener = {
	.drop = on_any, .protect = on_any, .code_written = on_code};

static void code_pages(void **state)
{
	struct fix *f = *state;
	uint64_t val = 5;

	long_mode(f);
	told = 0;
	p2m_set_listener(f->vm.p2m, &listener, NULL);
	/* a cached write pointer dies when the page becomes code */
	assert_int_equal(mem_write(f->v, 0x9000, &val, 8, 0), CPU_OK);
	assert_int_equal(mem_write(f->v, 0x9000, &val, 8, 0), CPU_OK);
	assert_int_equal(told, 0);
	p2m_set_code(f->vm.p2m, gpa_to_ppn(0x9000), true);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(mem_write(f->v, 0x9010 + i, &val, 4, 0),
				 CPU_OK);
		assert_int_equal(told, i + 1);
		assert_int_equal(told_off, 0x10 + i);
		assert_int_equal(told_len, 4);
	}
	/* through another alias, and across a page */
	map_page(f, VA, 0x9000, PTE_P | PTE_W);
	assert_int_equal(mem_write(f->v, VA, &val, 8, 0), CPU_OK);
	assert_int_equal(told, 4);
	assert_int_equal(mem_write(f->v, 0x9fff, &val, 2, 0), CPU_OK);
	assert_int_equal(told, 5);
	assert_int_equal(told_len, 1);
	/* asking whether one may write is not writing; reading is not */
	assert_int_equal(mem_probe_write(f->v, 0x9000, 8, 0), CPU_OK);
	assert_int_equal(mem_read(f->v, 0x9000, &val, 8, MEM_WRITE), CPU_OK);
	assert_int_equal(told, 5);
	assert_int_equal(phys_write(&f->vm, 0x9000, &val, 8), 0);
	assert_int_equal(told, 6);
	p2m_set_listener(f->vm.p2m, NULL, NULL);
}

/* Zero page read, then written: the read pointer must move. */
static void zero_then_written(void **state)
{
	struct fix *f = *state;
	uint64_t val = 1;

	prot_mode(f);
	assert_int_equal(p2m_get_state(f->vm.p2m, gpa_to_ppn(0x90000)),
			 P2M_ZERO);
	assert_int_equal(mem_read(f->v, 0x90000, &val, 8, 0), CPU_OK);
	assert_int_equal(val, 0);
	val = 77;
	assert_int_equal(mem_write(f->v, 0x90000, &val, 8, 0), CPU_OK);
	val = 0;
	assert_int_equal(mem_read(f->v, 0x90000, &val, 8, 0), CPU_OK);
	assert_int_equal(val, 77);
	assert_int_equal(p2m_get_state(f->vm.p2m, gpa_to_ppn(0x90000)),
			 P2M_PRIVATE);
	/* probing and RMW reads do not make a page private */
	assert_int_equal(mem_probe_write(f->v, 0x91000, 8, 0), CPU_OK);
	assert_int_equal(mem_read(f->v, 0x91000, &val, 8, MEM_WRITE), CPU_OK);
	assert_int_equal(p2m_get_state(f->vm.p2m, gpa_to_ppn(0x91000)),
			 P2M_ZERO);
}

static void mmio(void **state)
{
	struct fix *f = *state;
	struct dev d = {0};
	uint8_t buf[16];
	uint64_t val = 0;

	long_mode(f);
	assert_int_equal(bus_add(f->vm.mmio, "dev", MMIO, 0x1000, &dev_ops, &d),
			 0);
	map_page(f, VA, MMIO, PTE_P | PTE_W);
	assert_int_equal(mem_read(f->v, VA + 4, &val, 4, 0), CPU_OK);
	assert_int_equal(val, 0x88776655);
	assert_int_equal(d.last_len, 4);
	val = 0x1234;
	assert_int_equal(mem_write(f->v, VA + 0x20, &val, 2, 0), CPU_OK);
	assert_int_equal(d.last_val, 0x1234);
	assert_int_equal(d.last_off, 0x20);
	/* a 16-byte access is two of 8 */
	d.reads = 0;
	assert_int_equal(mem_read(f->v, VA, buf, 16, 0), CPU_OK);
	assert_int_equal(d.reads, 2);
	/* reading for a RMW reads the device once */
	d.reads = 0;
	assert_int_equal(mem_read(f->v, VA, &val, 4, MEM_WRITE), CPU_OK);
	assert_int_equal(d.reads, 1);
	/* from RAM into the device */
	map_page(f, VA - PAGE_SIZE, 0x9000, PTE_P | PTE_W);
	val = 0xaabbccddeeff0011;
	assert_int_equal(mem_write(f->v, VA - 4, &val, 8, 0), CPU_OK);
	assert_int_equal(d.last_val, 0xaabbccdd);
	assert_int_equal(peek64(f, 0x9ff8) >> 32, 0xeeff0011);
	/* nobody home */
	map_page(f, VA, 0xe0000000, PTE_P | PTE_W);
	mem_flush(f->v);
	assert_int_equal(mem_read(f->v, VA, &val, 8, 0), CPU_OK);
	assert_true(val == ~0ull);
}

static void fetch(void **state)
{
	struct fix *f = *state;
	uint8_t buf[15];
	unsigned got;

	long_mode(f);
	map_page(f, VA, 0x9000, PTE_P);
	poke64(f, 0x9ff8, 0x0706050403020100);
	assert_int_equal(mem_fetch(f->v, VA + 0x100, buf, &got), CPU_OK);
	assert_int_equal(got, 15);
	assert_int_equal(mem_fetch(f->v, VA + 0xffd, buf, &got), CPU_OK);
	assert_int_equal(got, 3);
	assert_int_equal(buf[0], 5);
	assert_exc(mem_fetch_fault(f->v, VA + 0xffd), EXC_PF, PF_I);
	assert_int_equal(f->v->exc.cr2, VA + PAGE_SIZE);
	map_page(f, VA + PAGE_SIZE, 0x7000, PTE_P);
	poke64(f, 0x7000, 0xabcd);
	assert_int_equal(mem_fetch(f->v, VA + 0xffd, buf, &got), CPU_OK);
	assert_int_equal(got, 15);
	assert_int_equal(buf[3], 0xcd);
	map_page(f, VA + PAGE_SIZE, 0x7000, PTE_P | PTE_NX);
	mem_flush(f->v);
	assert_int_equal(mem_fetch(f->v, VA + 0xffd, buf, &got), CPU_OK);
	assert_int_equal(got, 3);
	assert_exc(mem_fetch_fault(f->v, VA + 0xffd), EXC_PF, PF_I | PF_P);
	/* NX does not hinder reading what was fetched, nor the reverse */
	assert_exc(mem_fetch(f->v, VA + PAGE_SIZE, buf, &got), EXC_PF,
		   PF_I | PF_P);
	go_user(f);
	assert_exc(mem_fetch(f->v, VA, buf, &got), EXC_PF, PF_I | PF_P | PF_U);
	f->v->cpl = 0;
	assert_exc(mem_fetch(f->v, 1ull << 47, buf, &got), EXC_GP, 0);
	/* the end of the lower half */
	map_page(f, 0x7ffffffff000, 0x9000, PTE_P);
	assert_int_equal(mem_fetch(f->v, 0x7ffffffffffd, buf, &got), CPU_OK);
	assert_int_equal(got, 3);
	assert_exc(mem_fetch_fault(f->v, 0x7ffffffffffd), EXC_GP, 0);
	/* no RAM: ones */
	map_page(f, VA, 0xe0000000, PTE_P);
	mem_flush(f->v);
	assert_int_equal(mem_fetch(f->v, VA, buf, &got), CPU_OK);
	assert_int_equal(buf[7], 0xff);
}

static void smep(void **state)
{
	struct fix *f = *state;
	uint8_t buf[15];
	unsigned got;

	long_mode(f);
	assert_int_equal(mem_fetch(f->v, 0x400000, buf, &got), CPU_OK);
	assert_int_equal(cpu_write_cr(f->v, 4, f->v->cr4 | CR4_SMEP), CPU_OK);
	assert_exc(mem_fetch(f->v, 0x400000, buf, &got), EXC_PF, PF_I | PF_P);
	go_user(f);
	assert_int_equal(mem_fetch(f->v, 0x400000, buf, &got), CPU_OK);
}

/* Entries of the log in [from, to): stores, not the walks' accessed bits. */
static unsigned logged(const struct mem_log *log, gpa_t from, gpa_t to)
{
	unsigned n = 0;

	for (unsigned i = 0; i < log->n; i++)
		n += log->e[i].gpa >= from && log->e[i].gpa < to;
	return n;
}

static void lockstep_log(void **state)
{
	struct fix *f = *state;
	struct mem_log *log = calloc(1, sizeof(*log));
	struct dev d = {0};
	uint64_t val = 0x1111111111111111, got;
	uint8_t big[32];
	uint32_t io;

	long_mode(f);
	poke64(f, 0x9000, 0);
	f->v->mem_log = log;
	assert_int_equal(mem_write(f->v, 0x9000, &val, 8, 0), CPU_OK);
	val = 0x22;
	assert_int_equal(mem_write(f->v, 0x9003, &val, 1, 0), CPU_OK);
	assert_int_equal(logged(log, 0x9000, 0xb000), 2);
	/* accessed bits wait in the log too */
	assert_true(log->n > 2);
	assert_int_equal(peek64(f, 0x9000), 0); /* not done */
	assert_int_equal(mem_read(f->v, 0x9000, &got, 8, 0), CPU_OK);
	assert_true(got == 0x1111111122111111);
	assert_int_equal(mem_read(f->v, 0x8ffc, &got, 8, 0), CPU_OK);
	assert_int_equal(got >> 32, 0x22111111);
	/* crossing pages: two entries */
	memset(big, 0x33, 32);
	assert_int_equal(mem_write(f->v, 0x9ff0, big, 32, 0), CPU_OK);
	assert_int_equal(logged(log, 0x9000, 0xb000), 4);
	assert_false(log->side_effect);
	/* devices are not touched */
	assert_int_equal(bus_add(f->vm.mmio, "dev", MMIO, 0x1000, &dev_ops, &d),
			 0);
	assert_int_equal(bus_add(f->vm.pio, "dev", 0x60, 8, &dev_ops, &d), 0);
	map_page(f, VA, MMIO, PTE_P | PTE_W);
	assert_int_equal(mem_read(f->v, VA, &got, 8, 0), CPU_EXIT);
	assert_true(log->side_effect);
	log->side_effect = false;
	assert_int_equal(mem_write(f->v, VA, &got, 8, 0), CPU_EXIT);
	assert_true(log->side_effect);
	log->side_effect = false;
	assert_int_equal(cpu_in(f->v, 0x60, 1, &io), CPU_EXIT);
	assert_true(log->side_effect);
	assert_int_equal(d.reads + d.writes, 0);
	/* overflow is said */
	log->side_effect = false;
	for (unsigned i = 0; i <= MEM_LOG_MAX; i++)
		assert_int_equal(mem_write(f->v, 0x9000, &val, 1, 0), CPU_OK);
	assert_true(log->side_effect);
	f->v->mem_log = NULL;
	free(log);
}

static void physical(void **state)
{
	struct fix *f = *state;
	struct dev d = {0};
	uint8_t in[5000], out[5000];
	uint32_t val = 0;

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = i * 7;
	assert_int_equal(phys_write(&f->vm, 0x9abc, in, sizeof(in)), 0);
	assert_int_equal(phys_read(&f->vm, 0x9abc, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(bus_add(f->vm.mmio, "dev", MMIO, 0x1000, &dev_ops, &d),
			 0);
	assert_int_equal(phys_read(&f->vm, MMIO, &val, 4), 0);
	assert_int_equal(val, 0x44332211);
	assert_int_equal(phys_read(&f->vm, MMIO, out, 3), -ENXIO);
	assert_int_equal(phys_write(&f->vm, MMIO, out, 100), -ENXIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(read_write),
		TEST(crossing),
		TEST(crossing_writes_nothing),
		TEST(rights_by_ring),
		TEST(canonical),
		TEST(high_half_is_not_low_half),
		TEST(wraps_at_4g),
		TEST(flush),
		TEST(code_pages),
		TEST(zero_then_written),
		TEST(mmio),
		TEST(fetch),
		TEST(smep),
		TEST(lockstep_log),
		TEST(physical),
	};
	return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
