/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_UART_H
#define SARDINE_VMM_DEV_UART_H
/*
 * A 16550A serial port. National's PC16550D data sheet. Output goes to a file
 * descriptor, input comes from whoever calls uart_input (the I/O thread).
 */
#include "mm/base/stats.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/irq.h"

struct uart_config {
	int out_fd; /* -1: output is thrown away. Its O_NONBLOCK flag is
		       neither needed nor changed */
	struct clock clock;
	struct irq_line irq;
	/* There is room for input again, after uart_input took less than it
	 * was offered. May be NULL. Under the device lock. */
	void (*room)(void *ctx);
	/* The same for output, after uart_output. */
	void (*out_room)(void *ctx);
	void *ctx;
};

struct uart;
struct uart *uart_create(const struct uart_config *cfg);
/* Does not flush: see uart_finish. */
void uart_destroy(struct uart *u);
/* Registers to their reset state. Input and output on their way are kept. */
void uart_reset(struct uart *u);
int uart_attach(struct uart *u, struct bus *pio, uint16_t port);
/* Bytes from the outside; how many were taken. Lock held. */
size_t uart_input(struct uart *u, const uint8_t *buf, size_t n);
/* Bytes of another device for the same descriptor, in order with ours; how many
 * there was room for. Lock held. */
size_t uart_output(struct uart *u, const uint8_t *buf, size_t n);
/* Write out what is buffered, as far as that does not block. Lock held. */
void uart_flush(struct uart *u);
/* At the end of the run: write everything, waiting for the reader as long as
 * it makes progress (and at most max_ms without any). */
void uart_finish(struct uart *u, int max_ms);
void uart_stat_group(struct uart *u, struct stat_group *g);
#endif
