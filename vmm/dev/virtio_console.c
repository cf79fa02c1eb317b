/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two queues: 0 holds empty buffers for input, 1 full ones of output.
 *
 * Input may come at any time and on another thread, guest memory is the
 * vCPU thread's: so it waits in a small ring here until the device's turn, and
 * the sender is held back when that is full. Input that nobody has provided
 * buffers for stays in the ring.
 *
 * Output that the outside does not take stays in its chain (`tx`), and the
 * chains behind it stay in the queue: a slow reader slows the guest down and
 * nothing else.
 */
#include "vmm/dev/virtio_console.h"

#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE    64
#define IN_SIZE	      1024u
#define TURN_BYTES    (1u << 18) /* of output, then others have their turn */
#define RX	      0
#define TX	      1
#define F_EMERG_WRITE (1ull << 2)

struct console_regs {
	uint16_t cols, rows;
	uint32_t max_nr_ports, emerg_wr;
};
#define AT_EMERG 8

struct virtio_console {
	struct virtio_dev dev; /* first */
	struct virtio_console_config cfg;
	struct console_regs regs;
	uint8_t in[IN_SIZE];
	unsigned in_head, in_len;
	bool in_short;	 /* somebody waits for room */
	bool tx_busy;	 /* tx is not all out */
	uint64_t tx_off; /* what is out of it */
	struct virtq_chain tx;
	struct virtq_chain rx; /* the one being filled: here for its size */
};

static struct virtio_console *of(struct virtio_dev *d)
{
	return container_of(d, struct virtio_console, dev);
}

/* ---- output ---- */

/* True: all of the chain is out. False: not yet; *budget: what may still be
 * written in this turn. */
static bool write_chain(struct virtio_console *c, struct virtq *q,
			uint64_t *budget)
{
	uint8_t buf[512];

	while (c->tx_off < c->tx.out_len) {
		uint64_t left = c->tx.out_len - c->tx_off;
		size_t n = left < sizeof(buf) ? left : sizeof(buf), took;

		if (!virtq_read(q, &c->tx, c->tx_off, buf, n))
			return true;
		took = c->cfg.out(c->cfg.ctx, buf, n);
		c->tx_off += took;
		if (took < n)
			return false;
		if (*budget < n) {
			virtio_schedule(&c->dev);
			return false;
		}
		*budget -= n;
	}
	return true;
}

static void output(struct virtio_console *c)
{
	struct virtq *q = &c->dev.vq[TX];
	uint64_t budget = TURN_BYTES;

	for (;;) {
		if (!c->tx_busy) {
			if (!virtq_pop(q, &c->tx))
				return;
			c->tx_busy = true;
			c->tx_off = 0;
		}
		if (!write_chain(c, q, &budget))
			return;
		c->tx_busy = false;
		virtq_push(q, c->tx.head, 0);
	}
}

void virtio_console_out_room(struct virtio_dev *d)
{
	virtio_schedule(d);
}

/* ---- input ---- */

static unsigned take_in(struct virtio_console *c, uint8_t *buf, unsigned max)
{
	unsigned n = 0;

	while (n < max && c->in_len) {
		buf[n++] = c->in[c->in_head];
		c->in_head = (c->in_head + 1) % IN_SIZE;
		c->in_len--;
	}
	return n;
}

static void input(struct virtio_console *c)
{
	struct virtq *q = &c->dev.vq[RX];
	uint8_t buf[IN_SIZE];

	while (c->in_len && virtq_pop(q, &c->rx)) {
		unsigned n = c->rx.in_len < IN_SIZE ? c->rx.in_len : IN_SIZE;

		n = take_in(c, buf, n);
		(void)virtq_write(q, &c->rx, 0, buf, n);
		virtq_push(q, c->rx.head, n);
	}
	if (c->in_short && c->in_len < IN_SIZE / 2) {
		c->in_short = false;
		c->cfg.in_room(c->cfg.ctx);
	}
}

bool virtio_console_up(const struct virtio_dev *d)
{
	return virtio_running(d) && d->vq[RX].ready;
}

size_t virtio_console_input(struct virtio_dev *d, const uint8_t *buf, size_t n)
{
	struct virtio_console *c = of(d);
	size_t i;

	for (i = 0; i < n && c->in_len < IN_SIZE; i++)
		c->in[(c->in_head + c->in_len++) % IN_SIZE] = buf[i];
	c->in_short = i < n;
	virtio_schedule(d);
	return i;
}

/* ---- the device ---- */

static void console_turn(struct virtio_dev *d)
{
	if (!virtio_running(d))
		return;
	output(of(d));
	input(of(d));
}

static void console_kick(struct virtio_dev *d, struct virtq *q)
{
	console_turn(d);
}

static void console_reset(struct virtio_dev *d)
{
	of(d)->tx_busy = false;
}

static void console_config_write(struct virtio_dev *d, unsigned off,
				 unsigned len, uint64_t val)
{
	uint8_t byte = val;

	if (off == AT_EMERG)
		(void)of(d)->cfg.out(of(d)->cfg.ctx, &byte, 1);
}

static void console_destroy(struct virtio_dev *d)
{
	free(of(d));
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = 3,
	.class_code = 0x078000,
	.features = F_EMERG_WRITE,
	.reset = console_reset,
	.kick = console_kick,
	.work = console_turn,
	.config_write = console_config_write,
	.destroy = console_destroy,
};

struct virtio_dev *
virtio_console_create(const struct virtio_host *host,
		      const struct virtio_console_config *cfg)
{
	struct virtio_console *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->cfg = *cfg;
	virtio_init(&c->dev, &console_ops, cfg->name, host, 2, QUEUE_SIZE, 0,
		    &c->regs, sizeof(c->regs));
	return &c->dev;
}
