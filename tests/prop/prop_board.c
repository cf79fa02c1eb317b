/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile driver: random accesses to every port and register of a whole
 * board, APIC MSRs and interrupt acknowledges among them, with the real I/O
 * thread alive. Whatever a guest writes, the board answers, its timers do not
 * flood the host, and it can be reset to work as new.
 */
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

#include "vmm/board.h"
#include "vmm/cpu/interp.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/platform.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

#define STEPS 400000

static uint64_t rng = 0x9e3779b97f4a7c15ull;
static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	return rng ^= rng << 17;
}

static struct vm *make_vm(void)
{
	/* Multiboot, flat: "hlt; jmp $-1" */
	static const uint32_t head[32] = {
		0x1badb002, 0x10000,  -(0x1badb002u + 0x10000),
		0x100000,   0x100000, 0x100080,
		0x100080,   0x100020, 0xfdebf4};
	char path[] = "/tmp/prop_board.XXXXXX", err[256] = "";
	int fd = mkstemp(path);
	struct vm_config c = {
		.name = "board",
		.mem_bytes = 4 << 20,
		.engine = &engine_interp,
		.kernel = path,
		.debug_exit = true,
		.console_out = -1,
		.console_in = -1,
		.memfd = -1,
		.pool_fd = -1,
	};
	struct vm *vm = NULL;

	assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
	close(fd);
	if (vm_create(&c, &vm, err, sizeof(err)))
		print_error("%s\n", err);
	unlink(path);
	assert_non_null(vm);
	return vm;
}

/* Ports where something lives, so that not all is wasted on empty ones. */
static uint16_t rnd_port(void)
{
	static const uint16_t base[] = {
		0x20,  0x40,	      0x60,	     0x70,	  0x80,
		0x92,  0xa0,	      0xf4,	     0x3f8,	  0x4d0,
		0xcf8, PORT_PM1A_EVT, PORT_PM1A_CNT, PORT_PM_TMR,
	};

	if (rnd() % 16 == 0)
		return rnd();
	return base[rnd() % ARRAY_SIZE(base)] + rnd() % 9 - 1;
}

static uint64_t rnd_mmio(void)
{
	uint64_t base = rnd() & 1 ? LAPIC_BASE : IOAPIC_BASE;

	if (rnd() % 16 == 0)
		return base - 16 + rnd() % 0x1020;
	if (base == IOAPIC_BASE)
		return base + (rnd() & 1 ? 0x10 : rnd() % 3 ? 0 : 0x40);
	return base + (rnd() % 0x40) * 16;
}

static uint64_t rnd_value(void)
{
	switch (rnd() % 4) {
	case 0:
		return rnd();
	case 1:
		return rnd() & 0xff;
	case 2:
		return 1ull << rnd() % 64;
	}
	return rnd() % 3;
}

static uint32_t rnd_msr(void)
{
	switch (rnd() % 8) {
	case 0:
		return MSR_APIC_BASE;
	case 1:
		return MSR_TSC_DEADLINE;
	}
	return 0x800 + rnd() % 0x40;
}

static uint64_t rnd_msr_value(uint32_t msr)
{
	if (msr == MSR_APIC_BASE && rnd() % 4)
		return LAPIC_BASE | 0x100 | (rnd() & 3) << 10;
	if (msr == MSR_TSC_DEADLINE && rnd() % 4)
		return __builtin_ia32_rdtsc() + rnd() % 100000;
	return rnd_value();
}

static void step(struct vm *vm)
{
	const struct irq_source_ops *irq = vm->vcpu->irq;
	void *ctx = vm->vcpu->irq_ctx;
	unsigned len = 1u << rnd() % 3;
	uint64_t val;
	uint32_t msr;
	int vec;

	switch (rnd() % 8) {
	case 0:
	case 1:
		val = bus_read(vm->pio, rnd_port(), len);
		assert_true(val >> 8 * len == 0);
		break;
	case 2:
	case 3:
		bus_write(vm->pio, rnd_port(), len, rnd_value());
		break;
	case 4:
		bus_read(vm->mmio, rnd_mmio(), len << (rnd() & 1));
		break;
	case 5:
		bus_write(vm->mmio, rnd_mmio(), len << (rnd() & 1),
			  rnd_value());
		break;
	case 6:
		msr = rnd_msr();
		if (rnd() & 1)
			irq->wrmsr(ctx, msr, rnd_msr_value(msr));
		else
			irq->rdmsr(ctx, msr, &val);
		break;
	case 7:
		if (rnd() % 8 == 0)
			irq->set_tpr(ctx, rnd() & 15);
		vec = irq->peek(ctx);
		assert_in_range(vec + 1, 0, 256);
		vec = irq->ack(ctx);
		assert_in_range(vec + 1, 0, 256);
		break;
	}
}

static uint64_t thread_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void expect_as_new(struct vm *vm)
{
	bool deadline_ok;
	uint64_t val;

	board_reset(vm);
	assert_int_equal(vm->vcpu->irq->peek(vm->vcpu->irq_ctx), -1);
	assert_int_equal(vm->vcpu->apic_base, 0xfee00900);
	assert_int_equal(bus_read(vm->mmio, LAPIC_BASE + 0xf0, 4), 0x1ff);
	assert_int_equal(bus_read(vm->pio, 0x3fd, 1), 0x60);
	assert_int_equal(bus_read(vm->pio, PORT_PM1A_EVT, 4), 0);
	/* a timer interrupt still comes */
	bus_write(vm->mmio, LAPIC_BASE + 0x320, 4, 0x40033);
	vm->vcpu->irq->wrmsr(vm->vcpu->irq_ctx, MSR_TSC_DEADLINE,
			     __builtin_ia32_rdtsc() + vm->vcpu->tsc_offset +
				     1000);
	deadline_ok = false;
	for (unsigned i = 0; i < 2000 && !deadline_ok; i++) {
		deadline_ok = vm->vcpu->irq->peek(vm->vcpu->irq_ctx) == 0x33;
		usleep(1000);
	}
	assert_true(deadline_ok);
	assert_int_equal(vm->vcpu->irq->ack(vm->vcpu->irq_ctx), 0x33);
	vm->vcpu->irq->rdmsr(vm->vcpu->irq_ctx, MSR_TSC_DEADLINE, &val);
	assert_int_equal(val, 0);
}

static void test_hostile_driver(void **state)
{
	struct vm *vm = make_vm();
	char *seed = getenv("SEED");

	if (seed)
		rng = strtoull(seed, NULL, 0) | 1;
	for (unsigned round = 0; round < 4; round++) {
		uint64_t cpu, wall;

		for (unsigned i = 0; i < STEPS / 4; i++)
			step(vm);
		/* What is armed now costs the host little: less than half a
		 * core, however the timers were set. */
		wall = thread_ns(CLOCK_MONOTONIC);
		cpu = thread_ns(CLOCK_PROCESS_CPUTIME_ID);
		usleep(100000);
		cpu = thread_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		wall = thread_ns(CLOCK_MONOTONIC) - wall;
		assert_true(cpu * 2 < wall);
		expect_as_new(vm);
	}
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile_driver),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
