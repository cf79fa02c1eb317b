/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A: what drivers probe, FIFOs, interrupts, output, back pressure. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "tests/unit/devtest.h"
#include "vmm/dev/uart.h"

#define BASE 0x3f8
enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct box {
	pthread_mutex_t lock;
	struct bus *pio;
	struct test_clock tc;
	struct test_line irq;
	struct uart *u;
	int out[2];
	unsigned rooms;
};

static void room(void *ctx)
{
	((struct box *)ctx)->rooms++;
}

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));
	struct uart_config c = {.room = room, .ctx = b};

	pthread_mutex_init(&b->lock, NULL);
	assert_int_equal(pipe2(b->out, O_CLOEXEC), 0);
	fcntl(b->out[0], F_SETFL, O_NONBLOCK);
	b->pio = bus_create("pio", &b->lock);
	c.out_fd = b->out[1];
	c.clock = test_clock(&b->tc);
	c.irq = test_line(&b->irq);
	b->u = uart_create(&c);
	assert_int_equal(uart_attach(b->u, b->pio, BASE), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	uart_destroy(b->u);
	assert_int_equal(b->tc.heap.n, 0);
	bus_destroy(b->pio);
	close(b->out[0]);
	if (b->out[1] >= 0)
		close(b->out[1]);
	free(b);
	return 0;
}

static uint8_t in(struct box *b, unsigned r)
{
	return bus_read(b->pio, BASE + r, 1);
}
static void out(struct box *b, unsigned r, uint8_t v)
{
	bus_write(b->pio, BASE + r, 1, v);
}
static void say(struct box *b, const char *s)
{
	while (*s)
		out(b, RBR, *s++);
}
static size_t type(struct box *b, const char *s)
{
	return uart_input(b->u, (const uint8_t *)s, strlen(s));
}
static void expect(struct box *b, const char *s)
{
	char buf[512] = {0};
	ssize_t n = read(b->out[0], buf, sizeof(buf) - 1);

	assert_string_equal(n > 0 ? buf : "", s);
}

/* The questions that Linux's 8250 driver asks, and the answers of a 16550A. */
static void test_autoconfig(void **state)
{
	struct box *b = *state;
	uint8_t status[2];

	out(b, IER, 0);
	assert_int_equal(in(b, IER), 0);
	out(b, IER, 0xff); /* only four bits exist */
	assert_int_equal(in(b, IER), 0x0f);
	out(b, IER, 0);
	/* loopback: OUT2 and RTS must come back as DCD and CTS */
	out(b, MCR, 0x10 | 0x08 | 0x02);
	assert_int_equal(in(b, MSR) & 0xf0, 0x90);
	out(b, MCR, 0x10 | 0x01 | 0x04);
	assert_int_equal(in(b, MSR) & 0xf0, 0x60);
	out(b, MCR, 0);
	assert_int_equal(in(b, MSR) & 0xf0, 0xb0);
	/* FIFO bits */
	assert_int_equal(in(b, IIR) >> 6, 0);
	out(b, IIR, 1);
	assert_int_equal(in(b, IIR) >> 6, 3);
	/* not a 16650 (EFR), not a 16750 (64-byte FIFO bit) */
	out(b, LCR, 0xbf);
	assert_int_not_equal(in(b, IIR), 0);
	out(b, IIR, 1 | 0x20);
	status[0] = in(b, IIR) >> 5;
	out(b, LCR, 0);
	out(b, IIR, 1 | 0x20);
	status[1] = in(b, IIR) >> 5;
	assert_int_equal(status[0], 6);
	assert_int_equal(status[1], 6);
	/* scratch and divisor */
	out(b, SCR, 0xa5);
	assert_int_equal(in(b, SCR), 0xa5);
	out(b, LCR, 0x83);
	out(b, RBR, 0x01);
	out(b, IER, 0x02);
	assert_int_equal(in(b, RBR), 0x01);
	assert_int_equal(in(b, IER), 0x02);
	out(b, LCR, 3);
	assert_int_equal(in(b, IER), 0); /* untouched by the divisor */
	assert_int_equal(in(b, LSR), 0x60);
	expect(b, "");
}

static void test_output(void **state)
{
	struct box *b = *state;
	char long_line[300];

	say(b, "login: ");
	expect(b, ""); /* coalesced */
	test_advance(&b->tc, 999 * USEC);
	expect(b, "");
	test_advance(&b->tc, 2 * USEC);
	expect(b, "login: ");
	say(b, "one\n");
	expect(b, "one\n");
	assert_int_equal(b->tc.heap.n, 0); /* no timer left over */
	memset(long_line, 'x', sizeof(long_line));
	long_line[256] = 0;
	say(b, long_line);
	expect(b, long_line);
	say(b, "last words");
	uart_finish(b->u, 10);
	expect(b, "last words");
}

static void test_thre_irq(void **state)
{
	struct box *b = *state;

	out(b, IER, 2);
	assert_false(b->irq.level); /* OUT2 gates */
	out(b, MCR, 8);
	assert_true(b->irq.level);
	assert_int_equal(in(b, IIR) & 0xf, 2);
	assert_false(b->irq.level); /* reading IIR takes it back */
	assert_int_equal(in(b, IIR) & 0xf, 1);
	out(b, RBR, 'a');
	assert_true(b->irq.level);
	out(b, IER, 0);
	assert_false(b->irq.level);
	out(b, IER, 2); /* enabling it while empty interrupts */
	assert_true(b->irq.level);
}

static void test_rx_fifo(void **state)
{
	struct box *b = *state;

	/* nobody listens: it waits in the queue, and a clear loses nothing */
	assert_int_equal(type(b, "0123456789abcdefXY"), 18);
	out(b, IER, 0xf);  /* a probe */
	out(b, IIR, 0x81); /* FIFO on, trigger at 8 */
	out(b, IER, 0);
	out(b, MCR, 8);
	assert_int_equal(in(b, LSR) & 1, 0);
	out(b, IIR, 0x83);
	assert_int_equal(in(b, RBR), 0);
	assert_false(b->irq.level);
	out(b, IER, 1);
	assert_true(b->irq.level);
	assert_int_equal(in(b, IIR), 0xc4);
	assert_int_equal(in(b, LSR) & 1, 1);
	for (const char *s = "0123456789"; *s; s++)
		assert_int_equal(in(b, RBR), *s);
	/* 8 left, and then below the trigger: the timeout */
	assert_int_equal(in(b, IIR), 0xc4);
	assert_int_equal(in(b, RBR), 'a');
	assert_int_equal(in(b, IIR), 0xcc);
	assert_true(b->irq.level);
	for (const char *s = "bcdefXY"; *s; s++)
		assert_int_equal(in(b, RBR), *s);
	assert_false(b->irq.level);
	assert_int_equal(in(b, IIR), 0xc1);
	assert_int_equal(in(b, LSR) & 1, 0);
	/* without FIFO: one at a time */
	out(b, IIR, 0);
	type(b, "pq");
	assert_int_equal(in(b, IIR), 0x04);
	assert_int_equal(in(b, RBR), 'p');
	assert_int_equal(in(b, RBR), 'q');
	assert_int_equal(in(b, LSR) & 1, 0);
}

/* A polling driver has no interrupt: it reads LSR in a loop. */
static void test_rx_polled(void **state)
{
	struct box *b = *state;

	type(b, "ok");
	for (const char *s = "ok"; *s; s++) {
		unsigned n = 0;

		/* not at once: who opens a port reads LSR too */
		while (!(in(b, LSR) & 1))
			assert_true(++n < 100);
		assert_true(n > 3 || s[0] == 'k');
		assert_int_equal(in(b, RBR), *s);
	}
	assert_int_equal(in(b, LSR) & 1, 0);
}

/* Linux opens a port: interrupt first, FIFO then. Nothing typed is lost. */
static void test_rx_open(void **state)
{
	struct box *b = *state;

	type(b, "early");
	for (int i = 0; i < 3; i++) {
		in(b, LSR);
		in(b, LSR);
		assert_int_equal(in(b, RBR), 0);
		in(b, IIR);
	}
	out(b, MCR, 8);
	out(b, IER, 5);
	out(b, IIR, 1);
	out(b, IIR, 0x81);
	out(b, IIR, 0x87); /* and a clear on top */
	assert_true(b->irq.level);
	for (const char *s = "early"; *s; s++) {
		assert_int_equal(in(b, LSR) & 1, 1);
		assert_int_equal(in(b, RBR), *s);
	}
	assert_int_equal(in(b, LSR) & 1, 0);
}

static void test_loopback(void **state)
{
	struct box *b = *state;
	unsigned i;

	out(b, IIR, 1);
	out(b, MCR, 0x10);
	for (i = 0; i < 17; i++)
		out(b, RBR, 'A' + i);
	assert_int_equal(in(b, LSR) & 3, 3); /* data, and an overrun */
	assert_int_equal(in(b, LSR) & 2, 0); /* read clears */
	for (i = 0; i < 16; i++)
		assert_int_equal(in(b, RBR), 'A' + i);
	out(b, MCR, 0);
	test_advance(&b->tc, SEC);
	expect(b, ""); /* nothing got out */
}

static void test_modem_irq(void **state)
{
	struct box *b = *state;

	in(b, MSR);
	out(b, IER, 8);
	out(b, MCR, 0x18);	    /* loop: CTS, DSR drop; DCD stays by OUT2 */
	assert_false(b->irq.level); /* OUT2 is cut off in loopback */
	out(b, MCR, 0x08);
	assert_true(b->irq.level);
	assert_int_equal(in(b, IIR) & 0xf, 0);
	assert_int_equal(in(b, MSR), 0xb3); /* CTS and DSR changed */
	assert_false(b->irq.level);
}

static void test_back_pressure(void **state)
{
	struct box *b = *state;
	static uint8_t big[6000];
	unsigned i;

	for (i = 0; i < sizeof(big); i++)
		big[i] = i % 251;
	assert_int_equal(uart_input(b->u, big, sizeof(big)), 4096);
	assert_int_equal(b->rooms, 0);
	out(b, IIR, 1);
	out(b, MCR, 8);
	out(b, IER, 1);
	for (i = 0; i < 4096; i++) {
		assert_int_equal(in(b, RBR), big[i]);
		/* told once, when half is free */
		if (i < 2000)
			assert_int_equal(b->rooms, 0);
	}
	assert_int_equal(b->rooms, 1);
	assert_int_equal(uart_input(b->u, big + 4096, 1904), 1904);
	for (i = 4096; i < 6000; i++)
		assert_int_equal(in(b, RBR), big[i]);
	assert_int_equal(b->rooms, 1);
}

/* A reader that does not read: nothing blocks, nothing is lost, until 64 KiB
 * wait; then LSR says so, and goes on when it reads again. */
static void test_slow_reader(void **state)
{
	struct box *b = *state;
	size_t sent = 0, got = 0;
	struct stat_group g;
	char buf[4096];
	ssize_t n;
	unsigned i;

	while (in(b, LSR) & 0x20) {
		out(b, RBR, sent % 253);
		sent++;
		assert_true(sent < 1 << 20);
	}
	assert_true(sent >= 65536);
	out(b, MCR, 8);
	out(b, IER, 2);
	assert_false(b->irq.level); /* not empty */
	for (i = 0; i < 1000 && got < sent; i++) {
		n = read(b->out[0], buf, sizeof(buf));
		for (ssize_t k = 0; k < n; k++)
			assert_int_equal((uint8_t)buf[k], (got + k) % 253);
		got += n > 0 ? n : 0;
		test_advance(&b->tc, 10 * MSEC);
	}
	assert_int_equal(got, sent);
	assert_true(b->irq.level); /* it told the driver */
	assert_int_equal(in(b, LSR) & 0x60, 0x60);
	uart_stat_group(b->u, &g);
	for (i = 0; i < g.n; i++)
		if (!strcmp(g.desc[i].name, "tx_lost"))
			assert_int_equal(
				*(const uint64_t *)((const char *)g.base +
						    g.desc[i].offset),
				0);
}

static void *drain(void *arg)
{
	struct box *b = arg;
	char buf[1000];
	size_t got = 0;
	ssize_t n;

	fcntl(b->out[0], F_SETFL, 0);
	while ((n = read(b->out[0], buf, sizeof(buf))) > 0) {
		got += n;
		usleep(100);
	}
	return (void *)got;
}

/* At the end everything gets out, however slow the reader. */
static void test_finish(void **state)
{
	struct box *b = *state;
	size_t sent;
	pthread_t t;
	void *got;

	for (sent = 0; in(b, LSR) & 0x20; sent++)
		out(b, RBR, 'z');
	pthread_create(&t, NULL, drain, b);
	uart_finish(b->u, 2000);
	close(b->out[1]);
	b->out[1] = -1;
	pthread_join(t, &got);
	assert_int_equal((size_t)got, sent);
}

/* Random accesses: no crash, no loss of the line's consistency. */
static void test_random(void **state)
{
	struct box *b = *state;
	unsigned i;
	char buf[4096];

	srandom(7);
	for (i = 0; i < 100000; i++) {
		unsigned r = random() % 8, len = 1u << random() % 3;

		switch (random() % 4) {
		case 0:
			bus_read(b->pio, BASE + r, len);
			break;
		case 1:
			bus_write(b->pio, BASE + r, len, random());
			break;
		case 2:
			type(b, "abc");
			break;
		case 3:
			test_advance(&b->tc, random() % (2 * MSEC));
			break;
		}
		if (i % 16 == 0)
			(void)!read(b->out[0], buf, sizeof(buf));
		assert_int_equal(b->irq.rises - b->irq.falls, b->irq.level);
	}
	uart_reset(b->u);
	assert_false(b->irq.level);
	assert_int_equal(in(b, LSR) & 0x60, 0x60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_autoconfig),  T(test_output),	T(test_thre_irq),
		T(test_rx_fifo),     T(test_rx_polled), T(test_rx_open),
		T(test_loopback),    T(test_modem_irq), T(test_back_pressure),
		T(test_slow_reader), T(test_finish),	T(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
