/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the machine is wired.
 *
 *   PIT --0--+                      +--> I/O APIC --message--+
 *   UART -4--+--> ISA lines 0..15 --+                        +--> local APIC
 *   RTC --8--+                      +--> 8259 pair --LINT0---+        |
 *   SCI --9--+                                                      vCPU
 *   PCI INTA..INTD --16..19--> I/O APIC
 *
 * The console is the UART's; a virtio-console writes to it through the UART's
 * buffer and takes over its input once the guest has brought it up.
 *
 * ISA line n is I/O APIC input n, except line 0, which is input 2; 8259 input
 * 2 is the cascade.
 *
 * Everything here runs under vm->dev_lock, but for the console's reader, which
 * takes it to hand its bytes over. Lock order: dev_lock, then wait_lock (a
 * kick) or the I/O thread's own.
 */
#include "vmm/board.h"

#include <errno.h>
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm/board_pci.h"
#include "vmm/cpu/sys.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/bus_stats.h"
#include "vmm/dev/ioapic.h"
#include "vmm/dev/iothread.h"
#include "vmm/dev/lapic.h"
#include "vmm/dev/legacy.h"
#include "vmm/dev/pic.h"
#include "vmm/dev/pit.h"
#include "vmm/dev/platform.h"
#include "vmm/dev/pm.h"
#include "vmm/dev/rtc.h"
#include "vmm/dev/uart.h"
#include "vmm/dev/virtio_console.h"
#include "vmm/vm.h"

/* How long the last output waits for a reader that does not read. */
#define FINISH_MS 5000

struct board {
	struct legacy *legacy;
	/* Console input that the UART has not taken yet. */
	uint8_t in[1024];
	size_t in_off, in_len;
	struct stat_group stats[6];
	unsigned n_stats;
};

/* ---- interrupts ---- */

static void isa_set_irq(void *ctx, unsigned pin, bool level)
{
	struct vm *vm = ctx;

	pic_set_irq(vm->pic, pin, level);
	ioapic_set_irq(vm->ioapic, pin == IRQ_PIT ? GSI_PIT : pin, level);
}

static struct irq_line isa_line(struct vm *vm, unsigned pin)
{
	return (struct irq_line){isa_set_irq, vm, pin};
}

static void pci_set_irq(void *ctx, unsigned pin, bool level)
{
	struct vm *vm = ctx;

	ioapic_set_irq(vm->ioapic, pin, level);
}

static void pic_int_changed(void *ctx, unsigned pin, bool level)
{
	struct vm *vm = ctx;

	if (vm->lapic)
		lapic_pic_changed(vm->lapic);
}

static void apic_message(void *ctx, const struct apic_msg *m)
{
	struct vm *vm = ctx;

	lapic_receive(vm->lapic, m);
}

static uint64_t board_guest_tsc(void *ctx)
{
	struct vm *vm = ctx;

	return cpu_guest_tsc(vm->vcpu);
}

static void board_kick(void *ctx)
{
	struct vm *vm = ctx;

	vcpu_kick(vm->vcpu, VCPU_REQ_IRQ);
	vm_wake(vm);
}

static void board_eoi(void *ctx, uint8_t vector)
{
	struct vm *vm = ctx;

	ioapic_eoi(vm->ioapic, vector);
}

static void board_apic_base(void *ctx, uint64_t base)
{
	struct vm *vm = ctx;

	vm->vcpu->apic_base = base;
}

/* ---- power ---- */

static void board_power(void *ctx, enum power_event e, int code)
{
	static const enum vcpu_exit why[] = {
		[POWER_OFF] = EXIT_POWEROFF,
		[POWER_RESET] = EXIT_RESET,
		[POWER_DEBUG_EXIT] = EXIT_DEBUG,
	};

	vm_request_exit(ctx, why[e], code);
}

/* ---- console input ---- */

/* What the UART does not take waits in the board's buffer, and the descriptor is
 * not watched meanwhile: so the buffer belongs to the I/O thread while it is
 * empty, and to whoever holds dev_lock while it is not. */

/* Under dev_lock. False: the UART is full, the rest waits. */
static bool console_push(struct vm *vm)
{
	struct board *b = vm->board;
	struct virtio_dev *hvc = board_pci_console(vm);
	const uint8_t *from = b->in + b->in_off;
	size_t n = b->in_len - b->in_off;

	b->in_off += hvc && virtio_console_up(hvc)
			     ? virtio_console_input(hvc, from, n)
			     : uart_input(vm->uart, from, n);
	if (b->in_off < b->in_len)
		return false;
	b->in_off = b->in_len = 0;
	return true;
}

/* There is room again: what waits goes in, and then we read on. */
void board_console_room(struct vm *vm)
{
	if (vm->cfg.console_in >= 0 && console_push(vm))
		iothread_mod_fd(vm->io, vm->cfg.console_in, EPOLLIN);
}

static void console_room(void *ctx)
{
	board_console_room(ctx);
}

static void console_out_room(void *ctx)
{
	struct virtio_dev *hvc = board_pci_console(ctx);

	if (hvc)
		virtio_console_out_room(hvc);
}

/* Fills the empty buffer; false: nothing came. */
static bool console_read(struct vm *vm)
{
	struct board *b = vm->board;
	ssize_t n = read(vm->cfg.console_in, b->in, sizeof(b->in));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) { /* the end: the machine runs on without */
		iothread_del_fd(vm->io, vm->cfg.console_in);
		return false;
	}
	b->in_len = n;
	if (vm->cfg.console_filter)
		b->in_len = vm->cfg.console_filter(vm->cfg.console_filter_ctx,
						   b->in, n);
	return true;
}

static void console_readable(void *ctx, uint32_t events)
{
	struct vm *vm = ctx;

	if (!console_read(vm))
		return;
	pthread_mutex_lock(&vm->dev_lock);
	if (!console_push(vm))
		iothread_mod_fd(vm->io, vm->cfg.console_in, 0);
	pthread_mutex_unlock(&vm->dev_lock);
}

/* ---- building ---- */

static int create_irq_chips(struct vm *vm)
{
	struct lapic_config lc = {
		.id = LAPIC_ID_BSP,
		.lock = &vm->dev_lock,
		.clock = iothread_clock(vm->io),
		.timer_hz = cpu_crystal_hz(),
		.tsc_khz = cpu_tsc_khz(),
		.ctx = vm,
		.guest_tsc = board_guest_tsc,
		.kick = board_kick,
		.eoi = board_eoi,
		.base_changed = board_apic_base,
	};

	vm->pic = pic_create((struct irq_line){pic_int_changed, vm, 0});
	lc.pic = vm->pic;
	vm->ioapic = ioapic_create(IOAPIC_ID,
				   (struct apic_msg_sink){apic_message, vm});
	vm->lapic = vm->pic ? lapic_create(&lc) : NULL;
	if (!vm->pic || !vm->ioapic || !vm->lapic)
		return -ENOMEM;
	vm->vcpu->irq = &lapic_irq_ops;
	vm->vcpu->irq_ctx = vm->lapic;
	return 0;
}

static int create_devices(struct vm *vm)
{
	struct clock clock = iothread_clock(vm->io);
	struct power_sink power = {board_power, vm};
	struct uart_config uc = {
		.out_fd = vm->cfg.console_out,
		.clock = clock,
		.irq = isa_line(vm, IRQ_COM1),
		.room = console_room,
		.out_room = console_out_room,
		.ctx = vm,
	};

	vm->uart = uart_create(&uc);
	vm->pit = pit_create(clock, isa_line(vm, IRQ_PIT));
	vm->rtc = rtc_create(clock, isa_line(vm, IRQ_RTC));
	vm->pm = pm_create(clock, isa_line(vm, IRQ_SCI), power);
	vm->board->legacy = legacy_create(power, vm->cfg.debug_exit);
	if (!vm->uart || !vm->pit || !vm->rtc || !vm->pm || !vm->board->legacy)
		return -ENOMEM;
	return 0;
}

static int attach_devices(struct vm *vm)
{
	int err = lapic_attach(vm->lapic, vm->mmio);

	if (!err)
		err = ioapic_attach(vm->ioapic, vm->mmio);
	if (!err)
		err = pic_attach(vm->pic, vm->pio);
	if (!err)
		err = uart_attach(vm->uart, vm->pio, PORT_COM1);
	if (!err)
		err = pit_attach(vm->pit, vm->pio);
	if (!err)
		err = rtc_attach(vm->rtc, vm->pio);
	if (!err)
		err = pm_attach(vm->pm, vm->pio);
	if (!err)
		err = legacy_attach(vm->board->legacy, vm->pio);
	return err;
}

static int create_pci(struct vm *vm, char *err, size_t errlen)
{
	struct irq_line intx[4];
	int r;

	for (unsigned i = 0; i < 4; i++)
		intx[i] = (struct irq_line){pci_set_irq, vm, GSI_PCI + i};
	r = board_pci_create(vm, intx, err, errlen);
	if (!r && vm->pci)
		legacy_set_pci(vm->board->legacy, board_pci_bus(vm));
	return r;
}

static struct stat_group *next_group(struct board *b)
{
	return &b->stats[b->n_stats++];
}

static void add_stats(struct vm *vm)
{
	struct board *b = vm->board;
	unsigned i;

	bus_stat_group(vm->pio, next_group(b));
	bus_stat_group(vm->mmio, next_group(b));
	lapic_stat_group(vm->lapic, next_group(b));
	uart_stat_group(vm->uart, next_group(b));
	iothread_stat_group(vm->io, next_group(b));
	for (i = 0; i < b->n_stats; i++)
		vm_add_stats(vm, &b->stats[i]);
	board_pci_add_stats(vm);
}

static int build(struct vm *vm, char *err_line, size_t errlen)
{
	int err;

	vm->board = calloc(1, sizeof(*vm->board));
	vm->pio = bus_create("pio", &vm->dev_lock);
	vm->mmio = bus_create("mmio", &vm->dev_lock);
	if (!vm->board || !vm->pio || !vm->mmio)
		return -ENOMEM;
	err = iothread_create(&vm->dev_lock, vm->cfg.time_shift, &vm->io);
	if (!err)
		err = create_irq_chips(vm);
	if (!err)
		err = create_devices(vm);
	if (!err)
		err = attach_devices(vm);
	if (!err)
		err = create_pci(vm, err_line, errlen);
	if (!err && vm->cfg.console_in >= 0)
		err = iothread_add_fd(vm->io, vm->cfg.console_in, EPOLLIN,
				      console_readable, vm);
	return err;
}

int board_create(struct vm *vm, char *err, size_t errlen)
{
	int r;

	*err = '\0';
	pthread_mutex_lock(&vm->dev_lock);
	r = build(vm, err, errlen);
	pthread_mutex_unlock(&vm->dev_lock);
	if (!r) {
		add_stats(vm);
		return 0;
	}
	if (*err)
		return r;
	snprintf(err, errlen, "%s: cannot create the devices: %s; %s",
		 vm->cfg.name ? vm->cfg.name : "vm", strerror(-r),
		 r == -EMFILE || r == -ENFILE ? "raise `ulimit -n`"
					      : "is the host out of memory?");
	return r;
}

void board_destroy(struct vm *vm)
{
	if (vm->io)
		iothread_stop(vm->io);
	pthread_mutex_lock(&vm->dev_lock);
	board_pci_destroy(vm);
	if (vm->board)
		legacy_destroy(vm->board->legacy);
	pm_destroy(vm->pm);
	rtc_destroy(vm->rtc);
	pit_destroy(vm->pit);
	uart_destroy(vm->uart);
	lapic_destroy(vm->lapic);
	ioapic_destroy(vm->ioapic);
	pic_destroy(vm->pic);
	pthread_mutex_unlock(&vm->dev_lock);
	iothread_destroy(vm->io);
	bus_destroy(vm->mmio);
	bus_destroy(vm->pio);
	free(vm->board);
}

void board_reset(struct vm *vm)
{
	pthread_mutex_lock(&vm->dev_lock);
	board_pci_reset(vm);
	uart_reset(vm->uart);
	pit_reset(vm->pit);
	rtc_reset(vm->rtc);
	pm_reset(vm->pm);
	legacy_reset(vm->board->legacy);
	ioapic_reset(vm->ioapic);
	pic_reset(vm->pic);
	lapic_reset(vm->lapic);
	pthread_mutex_unlock(&vm->dev_lock);
}

void board_finish(struct vm *vm)
{
	pthread_mutex_lock(&vm->dev_lock);
	uart_finish(vm->uart, FINISH_MS);
	pthread_mutex_unlock(&vm->dev_lock);
}
