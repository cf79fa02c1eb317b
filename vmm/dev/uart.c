/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16550A.
 *
 * Output. A byte written to THR goes to `out`; the transmitter is always ready
 * again at once. `out` is written to the descriptor at a newline, at
 * FLUSH_BYTES, and FLUSH_NS after its first byte. A reader that does not read
 * must not stop the VM's I/O thread, nor the VM: we ask poll() before each
 * write, write no more than a pipe or a terminal takes without blocking, and
 * try again later. When even `out` is full (64 KiB), LSR says "not ready" until
 * there is room; a guest that writes all the same loses that byte (counted).
 *
 * Input. uart_input() fills a queue, out of which the receive FIFO (16 bytes)
 * is filled; so nothing overruns, and the sender is held back when the queue is
 * full. A FIFO that fills by itself while no driver listens would lose what a
 * pipe sent early (drivers clear the FIFO when they open the port), as if
 * somebody typed before the machine was up. So the queue moves on only when the
 * guest listens: the receive interrupt is enabled and OUT2 lets it through
 * (probing sets IER alone), or LSR is read many times without anything else in
 * between (a polling loop; Linux reads it two or three times when it opens the
 * port, and then throws away what it finds in the FIFO).
 *
 * Interrupts: the line is (highest pending source in IIR) and OUT2. The
 * character timeout comes at once instead of after four character times: what
 * is in the FIFO below the trigger level and followed by nothing waits for
 * nobody. All is instant here.
 */
#include "vmm/dev/uart.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIFO_SIZE   16
#define LSR_POLLS   16 /* reads of LSR that make a polling loop */
#define IN_SIZE	    4096
#define OUT_SIZE    65536
#define FLUSH_BYTES 256
#define FLUSH_NS    1000000
#define RETRY_NS    5000000
#define WRITE_MAX   4096 /* PIPE_BUF: what POLLOUT promises of a pipe */
#define TTY_MAX	    256

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define IER_RDI	     0x01
#define IER_THRI     0x02
#define IER_RLSI     0x04
#define IER_MSI	     0x08

#define IIR_NONE     0x01
#define IIR_MSI	     0x00
#define IIR_THRI     0x02
#define IIR_RDI	     0x04
#define IIR_RLSI     0x06
#define IIR_CTI	     0x0c
#define IIR_FIFO     0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04

#define LCR_DLAB     0x80

#define MCR_DTR	     0x01
#define MCR_RTS	     0x02
#define MCR_OUT1     0x04
#define MCR_OUT2     0x08
#define MCR_LOOP     0x10

#define LSR_DR	     0x01
#define LSR_OE	     0x02
#define LSR_ERRS     0x1e
#define LSR_THRE     0x20
#define LSR_TEMT     0x40

#define MSR_CTS	     0x10
#define MSR_DSR	     0x20
#define MSR_RI	     0x40
#define MSR_DCD	     0x80
#define MSR_TERI     0x04

#define UART_STATS(X)                                                          \
	X(tx_bytes, "bytes sent by the guest")                                 \
	X(rx_bytes, "bytes read by the guest")                                 \
	X(tx_lost, "bytes sent while nobody took the output")                  \
	X(flushes, "writes to the console descriptor")                         \
	X(flush_blocked, "flushes put off because the reader is slow")         \
	X(out_errors, "write errors of the console descriptor")                \
	X(irqs, "interrupts raised")
struct uart_stats {
	UART_STATS(STAT_FIELD)
};
static const struct stat_desc uart_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(uart_stats, name, help),
	UART_STATS(D)
#undef D
};

struct uart {
	struct uart_config cfg;
	uint8_t ier, fcr, lcr, mcr, scr, lsr_err, msr_delta;
	uint16_t divisor;
	bool thre_pending; /* the THRE interrupt, until IIR is read */
	bool irq_level;
	unsigned lsr_reads; /* of LSR, with nothing in between */
	bool starved;	    /* uart_input was refused bytes */
	uint8_t rx[FIFO_SIZE];
	unsigned rx_len;
	uint8_t in[IN_SIZE]; /* ring */
	unsigned in_head, in_len;
	uint8_t out[OUT_SIZE];
	unsigned out_head, out_len; /* not a ring: moved down when empty */
	size_t write_max;
	bool always_ready; /* a regular file: poll() is not needed */
	bool out_broken;
	struct timer timer;
	struct uart_stats st;
};

static void uart_update(struct uart *u);

/* ---- output ---- */

static bool out_ready(struct uart *u, int wait_ms)
{
	struct pollfd p = {.fd = u->cfg.out_fd, .events = POLLOUT};

	int r;

	if (u->always_ready)
		return true;
	do {
		r = poll(&p, 1, wait_ms);
	} while (r < 0 && errno == EINTR);
	return r > 0;
}

/* One write. False: it has to wait. Errors break the output for good. */
static bool out_write(struct uart *u)
{
	size_t n = u->out_len;
	ssize_t r;

	if (n > u->write_max)
		n = u->write_max;
	u->st.flushes++;
	r = write(u->cfg.out_fd, u->out + u->out_head, n);
	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (r < 0) {
		u->st.out_errors++;
		u->out_broken = true;
		u->out_head = u->out_len = 0;
		return true;
	}
	u->out_head += r;
	u->out_len -= r;
	if (!u->out_len)
		u->out_head = 0;
	return true;
}

static bool out_full(const struct uart *u)
{
	return u->out_len == OUT_SIZE;
}

void uart_flush(struct uart *u)
{
	bool was_full = out_full(u);

	while (u->out_len)
		if (!out_ready(u, 0) || !out_write(u)) {
			u->st.flush_blocked++;
			break;
		}
	if (u->out_len)
		clock_arm(&u->cfg.clock, &u->timer,
			  clock_now(&u->cfg.clock) + RETRY_NS);
	else
		clock_disarm(&u->cfg.clock, &u->timer);
	if (was_full && !out_full(u)) {
		u->thre_pending = true;
		uart_update(u);
		if (u->cfg.out_room)
			u->cfg.out_room(u->cfg.ctx);
	}
}

void uart_finish(struct uart *u, int max_ms)
{
	while (u->out_len && out_ready(u, max_ms))
		if (!out_write(u))
			usleep(1000);
	u->st.tx_lost += u->out_len;
	u->out_len = u->out_head = 0;
	clock_disarm(&u->cfg.clock, &u->timer);
}

static void uart_flush_timer(void *ctx)
{
	uart_flush(ctx);
}

static void uart_put(struct uart *u, uint8_t byte)
{
	u->st.tx_bytes++;
	if (u->out_broken || u->cfg.out_fd < 0)
		return;
	if (out_full(u)) {
		u->st.tx_lost++;
		return;
	}
	if (u->out_head + u->out_len == OUT_SIZE) {
		memmove(u->out, u->out + u->out_head, u->out_len);
		u->out_head = 0;
	}
	u->out[u->out_head + u->out_len++] = byte;
	/* A flush that was blocked has its retry armed. */
	if (byte == '\n' || u->out_len == FLUSH_BYTES)
		uart_flush(u);
	else if (!timer_armed(&u->timer))
		clock_arm(&u->cfg.clock, &u->timer,
			  clock_now(&u->cfg.clock) + FLUSH_NS);
}

size_t uart_output(struct uart *u, const uint8_t *buf, size_t n)
{
	size_t i = 0;

	while (i < n && (u->out_broken || !out_full(u)))
		uart_put(u, buf[i++]);
	return i;
}

/* ---- interrupts ---- */

static bool fifo_on(const struct uart *u)
{
	return u->fcr & FCR_ENABLE;
}

static unsigned rx_depth(const struct uart *u)
{
	return fifo_on(u) ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const uint8_t level[] = {1, 4, 8, 14};

	return fifo_on(u) ? level[u->fcr >> 6] : 1;
}

static uint8_t uart_source(const struct uart *u)
{
	if ((u->ier & IER_RLSI) && u->lsr_err)
		return IIR_RLSI;
	if ((u->ier & IER_RDI) && u->rx_len)
		return u->rx_len >= rx_trigger(u) ? IIR_RDI : IIR_CTI;
	if ((u->ier & IER_THRI) && u->thre_pending)
		return IIR_THRI;
	if ((u->ier & IER_MSI) && u->msr_delta)
		return IIR_MSI;
	return IIR_NONE;
}

static void uart_update(struct uart *u)
{
	/* In loopback the OUT2 pin is inactive, and with it the gate. */
	bool gate = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	bool level = gate && uart_source(u) != IIR_NONE;

	if (level == u->irq_level)
		return;
	u->irq_level = level;
	u->st.irqs += level;
	irq_set(&u->cfg.irq, level);
}

/* ---- input ---- */

static bool uart_listens(const struct uart *u)
{
	return ((u->ier & IER_RDI) && (u->mcr & MCR_OUT2)) ||
	       u->lsr_reads >= LSR_POLLS;
}

/* Queue -> FIFO, if the guest listens. */
static void rx_fill(struct uart *u)
{
	if ((u->mcr & MCR_LOOP) || !uart_listens(u))
		return;
	while (u->in_len && u->rx_len < rx_depth(u)) {
		u->rx[u->rx_len++] = u->in[u->in_head];
		u->in_head = (u->in_head + 1) % IN_SIZE;
		u->in_len--;
	}
	if (u->starved && u->in_len <= IN_SIZE / 2) {
		u->starved = false;
		if (u->cfg.room)
			u->cfg.room(u->cfg.ctx);
	}
}

size_t uart_input(struct uart *u, const uint8_t *buf, size_t n)
{
	size_t i;

	for (i = 0; i < n && u->in_len < IN_SIZE; i++)
		u->in[(u->in_head + u->in_len++) % IN_SIZE] = buf[i];
	u->starved = i < n;
	rx_fill(u);
	uart_update(u);
	return i;
}

static void rx_loop(struct uart *u, uint8_t byte)
{
	if (u->rx_len == rx_depth(u))
		u->lsr_err |= LSR_OE;
	else
		u->rx[u->rx_len++] = byte;
}

static uint8_t rx_pop(struct uart *u)
{
	uint8_t byte = u->rx[0];

	if (!u->rx_len)
		return 0;
	memmove(u->rx, u->rx + 1, --u->rx_len);
	u->st.rx_bytes++;
	rx_fill(u);
	return byte;
}

/* ---- registers ---- */

static uint8_t read_iir(struct uart *u)
{
	uint8_t src = uart_source(u);

	if (src == IIR_THRI)
		u->thre_pending = false;
	return src | (fifo_on(u) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u, unsigned before)
{
	uint8_t val;

	u->lsr_reads = before < LSR_POLLS ? before + 1 : before;
	rx_fill(u);
	val = u->lsr_err | (u->rx_len ? LSR_DR : 0);
	if (!out_full(u))
		val |= LSR_THRE | LSR_TEMT;
	u->lsr_err = 0;
	return val;
}

static uint8_t modem_lines(const struct uart *u)
{
	if (!(u->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (u->mcr & MCR_RTS ? MSR_CTS : 0) |
	       (u->mcr & MCR_DTR ? MSR_DSR : 0) |
	       (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
	       (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static uint8_t read_msr(struct uart *u)
{
	uint8_t val = modem_lines(u) | u->msr_delta;

	u->msr_delta = 0;
	return val;
}

static uint8_t uart_reg_read(struct uart *u, unsigned reg)
{
	unsigned before = u->lsr_reads;

	u->lsr_reads = 0;
	switch (reg) {
	case RBR:
		return u->lcr & LCR_DLAB ? u->divisor : rx_pop(u);
	case IER:
		return u->lcr & LCR_DLAB ? u->divisor >> 8 : u->ier;
	case IIR:
		return read_iir(u);
	case LCR:
		return u->lcr;
	case MCR:
		return u->mcr;
	case LSR:
		return read_lsr(u, before);
	case MSR:
		return read_msr(u);
	}
	return u->scr;
}

static void write_thr(struct uart *u, uint8_t val)
{
	if (u->mcr & MCR_LOOP)
		rx_loop(u, val);
	else
		uart_put(u, val);
	/* Empty again at once, if there is room for more. */
	u->thre_pending = !out_full(u);
}

static void write_ier(struct uart *u, uint8_t val)
{
	/* Enabling THRI while THR is empty interrupts at once. */
	if (!(u->ier & IER_THRI) && (val & IER_THRI))
		u->thre_pending = !out_full(u);
	u->ier = val & 0xf;
	rx_fill(u);
}

/* A clear throws away what nobody has read. Back into the queue with it: a
 * driver that opens the port enables the interrupt before the FIFO. */
static void rx_clear(struct uart *u)
{
	while (u->rx_len && !(u->mcr & MCR_LOOP) && u->in_len < IN_SIZE) {
		u->in_head = (u->in_head + IN_SIZE - 1) % IN_SIZE;
		u->in[u->in_head] = u->rx[--u->rx_len];
		u->in_len++;
	}
	u->rx_len = 0;
}

static void write_fcr(struct uart *u, uint8_t val)
{
	/* Turning the FIFOs on or off clears them. */
	if ((val ^ u->fcr) & FCR_ENABLE)
		val |= FCR_CLEAR_RX;
	if (val & FCR_CLEAR_RX)
		rx_clear(u);
	u->fcr = val & FCR_ENABLE ? val & 0xc9 : 0;
	rx_fill(u);
}

static void write_mcr(struct uart *u, uint8_t val)
{
	uint8_t was = modem_lines(u), changed;

	u->mcr = val & 0x1f;
	changed = was ^ modem_lines(u);
	u->msr_delta |= (changed & ~MSR_RI) >> 4;
	if ((changed & MSR_RI) && (was & MSR_RI)) /* trailing edge */
		u->msr_delta |= MSR_TERI;
	rx_fill(u);
}

static void uart_reg_write(struct uart *u, unsigned reg, uint8_t val)
{
	u->lsr_reads = 0;
	if (reg <= IER && (u->lcr & LCR_DLAB)) {
		unsigned shift = reg == IER ? 8 : 0;

		u->divisor = (u->divisor & ~(0xff << shift)) | val << shift;
		return;
	}
	switch (reg) {
	case RBR:
		write_thr(u, val);
		break;
	case IER:
		write_ier(u, val);
		break;
	case IIR:
		write_fcr(u, val);
		break;
	case LCR:
		u->lcr = val;
		break;
	case MCR:
		write_mcr(u, val);
		break;
	case SCR:
		u->scr = val;
		break;
	}
}

/* The registers are bytes; a wider access is a sequence of them. */
static uint64_t uart_read(void *dev, uint64_t off, unsigned len)
{
	struct uart *u = dev;
	uint64_t val = 0;
	unsigned i;

	for (i = 0; i < len; i++)
		val |= (uint64_t)uart_reg_read(u, (off + i) & 7) << (8 * i);
	uart_update(u);
	return val;
}

static void uart_write(void *dev, uint64_t off, unsigned len, uint64_t val)
{
	struct uart *u = dev;
	unsigned i;

	for (i = 0; i < len; i++)
		uart_reg_write(u, (off + i) & 7, val >> (8 * i));
	uart_update(u);
}

static const struct bus_ops uart_ops = {uart_read, uart_write};

int uart_attach(struct uart *u, struct bus *pio, uint16_t port)
{
	return bus_add(pio, "uart", port, 8, &uart_ops, u);
}

/* ---- life ---- */

void uart_reset(struct uart *u)
{
	u->ier = u->fcr = u->lcr = u->mcr = u->scr = 0;
	u->lsr_err = u->msr_delta = 0;
	u->divisor = 12; /* 9600, as firmware leaves it */
	u->thre_pending = false;
	u->lsr_reads = 0;
	u->rx_len = 0;
	uart_update(u);
}

struct uart *uart_create(const struct uart_config *cfg)
{
	struct uart *u = calloc(1, sizeof(*u));
	struct stat st;

	if (!u)
		return NULL;
	u->cfg = *cfg;
	u->write_max = WRITE_MAX;
	if (cfg->out_fd >= 0 && !fstat(cfg->out_fd, &st)) {
		u->always_ready = S_ISREG(st.st_mode);
		if (S_ISCHR(st.st_mode))
			u->write_max = TTY_MAX;
	}
	u->timer.fn = uart_flush_timer;
	u->timer.ctx = u;
	uart_reset(u);
	return u;
}

void uart_destroy(struct uart *u)
{
	if (!u)
		return;
	clock_disarm(&u->cfg.clock, &u->timer);
	free(u);
}

void uart_stat_group(struct uart *u, struct stat_group *g)
{
	*g = (struct stat_group){"uart", uart_stat_desc,
				 ARRAY_SIZE(uart_stat_desc), &u->st, NULL};
}
