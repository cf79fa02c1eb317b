/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two queues: 0 holds empty buffers for frames that come in, 1 frames that go
 * out. Both are worked on at the device's turn, on the vCPU thread, and so is
 * the descriptor: it never blocks, and the I/O thread only says when it is worth
 * another try.
 *
 * In. A frame is read into a buffer of ours and copied into the guest's, into
 * as many of them as it takes (MRG_RXBUF). When the guest has none left, the
 * frame waits half copied, and the descriptor is not read: what is behind it
 * (the helper's queue, the kernel's) holds the sender back. The buffers of a
 * frame are given back together, with their number in the first one's header.
 *
 * Out. A frame is copied out before it is looked at. What the descriptor does
 * not take waits, and the frames behind it stay in their queue. A frame that is
 * no frame (too short, too long, a checksum field outside of it, an offload that
 * was not agreed upon) is dropped and counted: a driver may send what it likes,
 * and so may its programs.
 *
 * Offloads. CSUM: the driver leaves TCP's and UDP's sum to us, and we make it,
 * because whoever is behind the descriptor gets the plain frame. GUEST_CSUM is
 * offered where every frame is made on this host by somebody we trust to have
 * made its sum: such a frame is said to be good. There is no segmentation
 * offload: where the other end has no wire (the helper), a larger MTU does as
 * much for less.
 *
 * The end of the helper is the end of the link: the guest sees a cable pulled.
 * It does not come back; what is sent is dropped.
 */
#include "vmm/dev/virtio_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mm/base/log.h"

#define QUEUE_SIZE     256
#define RX	       0
#define TX	       1
#define TURN_FRAMES    128 /* in, then others have their turn */
#define RX_MAX_BUFS    64  /* of one frame */
#define ETH_HEADER     14u
#define ETH_VLAN       4u
#define ETH_MTU	       1500u

#define F_CSUM	       (1ull << 0)
#define F_GUEST_CSUM   (1ull << 1)
#define F_MTU	       (1ull << 3)
#define F_MAC	       (1ull << 5)
#define F_MRG_RXBUF    (1ull << 15)
#define F_STATUS       (1ull << 16)

#define S_LINK_UP      1

#define HDR_NEEDS_CSUM 1
#define HDR_DATA_VALID 2
#define HDR_GSO_NONE   0

struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12, "virtio 1.2, 5.1.6");
#define AT_NUM_BUFFERS offsetof(struct net_header, num_buffers)

struct net_config {
	uint8_t mac[6];
	uint16_t status, max_pairs, mtu;
};

#define NET_STATS(X)                                                           \
	X(rx_frames, "frames given to the guest")                              \
	X(rx_bytes, "bytes of them")                                           \
	X(rx_dropped, "frames for the guest that it has no room for, or that " \
		      "are none")                                              \
	X(rx_waits, "times a frame waited for buffers of the guest")           \
	X(tx_frames, "frames of the guest sent")                               \
	X(tx_bytes, "bytes of them")                                           \
	X(tx_dropped, "frames of the guest that are none, or had no link")     \
	X(tx_waits, "times a frame waited for the other end")                  \
	X(csums, "checksums made for the guest")                               \
	X(link_downs, "times the other end went away")
struct net_stats {
	NET_STATS(STAT_FIELD)
};
static const struct stat_desc net_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(net_stats, name, help),
	NET_STATS(D)
#undef D
};

struct rx_buf {
	uint16_t head;
	uint32_t len;
};

struct virtio_net {
	struct virtio_dev dev; /* first */
	struct virtio_net_config c;
	struct net_config regs;
	struct net_stats st;
	bool up;		/* the link */
	bool want_in, want_out; /* as last told */
	size_t max_frame;
	/* In: the frame in rx, of which rx_off bytes, header included, are in
	 * the n_bufs buffers. rx_len 0: none. */
	uint8_t *rx;
	size_t rx_len, rx_off;
	unsigned n_bufs;
	struct rx_buf buf[RX_MAX_BUFS];
	gpa_t count_at[2]; /* the two bytes of the first one's num_buffers */
	/* Out: the frame in tx, of the chain tx_head. tx_len 0: none. */
	uint8_t *tx;
	size_t tx_len;
	uint16_t tx_head;
	struct virtq_chain chain; /* the one being looked at */
	char stat_name[24];
};

static struct virtio_net *of(struct virtio_dev *d)
{
	return container_of(d, struct virtio_net, dev);
}

static void want(struct virtio_net *n, bool in, bool out)
{
	if (in == n->want_in && out == n->want_out)
		return;
	n->want_in = in;
	n->want_out = out;
	n->c.want(n->c.ctx, in, out);
}

static void link_down(struct virtio_net *n)
{
	if (!n->up)
		return;
	n->up = false;
	n->st.link_downs++;
	n->regs.status &= (uint16_t)~S_LINK_UP;
	log_info("virtio %s: the other end is gone: link down", n->dev.name);
	virtio_config_changed(&n->dev);
}

/* ---- in ---- */

/* A frame into rx. False: there is none now, or the link is down. */
static bool receive(struct virtio_net *n)
{
	ssize_t r;

	while (n->up) {
		r = n->c.tap ? read(n->c.fd, n->rx, n->max_frame)
			     : recv(n->c.fd, n->rx, n->max_frame,
				    MSG_DONTWAIT | MSG_TRUNC);
		if (r >= (ssize_t)ETH_HEADER && r <= (ssize_t)n->max_frame) {
			n->rx_len = (size_t)r;
			n->rx_off = n->n_bufs = 0;
			return true;
		}
		if (r > 0) {
			n->st.rx_dropped++;
			continue;
		}
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && (errno == EAGAIN || n->c.tap))
			return false;
		link_down(n);
	}
	return false;
}

/* The address of byte `off` of the writable part. It has that many. */
static gpa_t byte_at(const struct virtq_chain *c, uint64_t off)
{
	unsigned i = c->n_out;

	for (; off >= c->seg[i].len; i++)
		off -= c->seg[i].len;
	return c->seg[i].gpa + off;
}

/* The header and the frame are one run of bytes: [rx_off, rx_off + len). */
static bool put(struct virtio_net *n, struct virtq *q, uint32_t len)
{
	struct net_header h = {
		.flags = virtio_has(&n->dev, F_GUEST_CSUM) ? HDR_DATA_VALID : 0,
		.gso_type = HDR_GSO_NONE,
		.num_buffers = 1};
	const size_t head = n->rx_off ? 0 : sizeof(h);

	if (head && !virtq_write(q, &n->chain, 0, &h, sizeof(h)))
		return false;
	return virtq_write(q, &n->chain, head,
			   n->rx + n->rx_off + head - sizeof(h), len - head);
}

static void drop_in(struct virtio_net *n, struct virtq *q)
{
	for (unsigned i = 0; i < n->n_bufs; i++)
		virtq_push(q, n->buf[i].head, 0);
	n->st.rx_dropped++;
	n->rx_len = 0;
}

static void finish_in(struct virtio_net *n, struct virtq *q)
{
	struct p2m *p = n->dev.host.p2m;
	uint16_t count = (uint16_t)n->n_bufs;

	for (unsigned i = 0; n->n_bufs > 1 && i < 2; i++)
		if (p2m_copy_in(p, n->count_at[i], (uint8_t *)&count + i, 1))
			virtio_break(&n->dev, VIRTQ_E_memory);
	for (unsigned i = 0; i < n->n_bufs; i++)
		virtq_push(q, n->buf[i].head, n->buf[i].len);
	n->st.rx_frames++;
	n->st.rx_bytes += n->rx_len;
	n->rx_len = 0;
}

/* Copy the frame into buffers. False: the guest has no more. */
static bool deliver(struct virtio_net *n, struct virtq *q)
{
	const size_t all = sizeof(struct net_header) + n->rx_len;

	while (n->rx_off < all) {
		size_t left = all - n->rx_off;
		uint64_t room;

		if (!virtq_pop(q, &n->chain)) {
			n->st.rx_waits++;
			return false;
		}
		room = n->chain.in_len;
		if (room > left)
			room = left;
		/* The header in one piece, and the first frame byte's place
		 * known (5.1.6.3.2); a buffer of nothing would never end. */
		if (!room || (!n->rx_off && room < sizeof(struct net_header)) ||
		    (room < left && !virtio_has(&n->dev, F_MRG_RXBUF)) ||
		    n->n_bufs == RX_MAX_BUFS) {
			virtq_push(q, n->chain.head, 0);
			drop_in(n, q);
			return true;
		}
		if (!put(n, q, (uint32_t)room))
			return false; /* the device is broken */
		if (!n->rx_off)
			for (unsigned i = 0; i < 2; i++)
				n->count_at[i] =
					byte_at(&n->chain, AT_NUM_BUFFERS + i);
		n->buf[n->n_bufs++] =
			(struct rx_buf){n->chain.head, (uint32_t)room};
		n->rx_off += room;
	}
	finish_in(n, q);
	return true;
}

/* True: the descriptor has nothing more, tell me when it has. */
static bool input(struct virtio_net *n)
{
	struct virtq *q = &n->dev.vq[RX];
	unsigned budget = TURN_FRAMES;

	while (q->ready && virtio_running(&n->dev)) {
		if (!n->rx_len && !receive(n))
			return n->up;
		if (!deliver(n, q))
			return false;
		if (!--budget) {
			virtio_schedule(&n->dev);
			return false;
		}
	}
	return false;
}

/* ---- out ---- */

/* RFC 1071. */
static uint16_t fold(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;
	uint32_t w;

	for (; len >= 4; p += 4, len -= 4) {
		memcpy(&w, p, 4);
		sum += w;
	}
	if (len) {
		w = 0;
		memcpy(&w, p, len);
		sum += w;
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* The frame's sum is to be made from csum_start on; its field holds the pseudo
 * header's. False: the field is not in the frame. */
static bool make_csum(struct virtio_net *n, const struct net_header *h)
{
	size_t at = (size_t)h->csum_start + h->csum_offset;
	uint16_t sum;

	if (h->csum_start >= n->tx_len || at + 2 > n->tx_len)
		return false;
	sum = (uint16_t)~fold(n->tx + h->csum_start, n->tx_len - h->csum_start);
	sum = sum ? sum : 0xffff;
	memcpy(n->tx + at, &sum, 2);
	n->st.csums++;
	return true;
}

/* The chain's frame into tx. False: it is none. */
static bool take(struct virtio_net *n, struct virtq *q)
{
	const struct virtq_chain *c = &n->chain;
	struct net_header h;
	uint64_t len = c->out_len - sizeof(h);

	if (c->out_len < sizeof(h) + ETH_HEADER || len > n->max_frame ||
	    !virtq_read(q, c, 0, &h, sizeof(h)) ||
	    !virtq_read(q, c, sizeof(h), n->tx, len))
		return false;
	n->tx_len = len;
	n->tx_head = c->head;
	if (h.gso_type == HDR_GSO_NONE &&
	    (!(h.flags & HDR_NEEDS_CSUM) ||
	     (virtio_has(&n->dev, F_CSUM) && make_csum(n, &h))))
		return true;
	n->tx_len = 0;
	return false;
}

/* True: it is gone, sent or not. */
static bool send_frame(struct virtio_net *n)
{
	ssize_t r;

	do
		r = !n->up     ? 0
		    : n->c.tap ? write(n->c.fd, n->tx, n->tx_len)
			       : send(n->c.fd, n->tx, n->tx_len,
				      MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
		n->st.tx_waits++;
		return false;
	}
	if (r < 0 && !n->c.tap)
		link_down(n);
	if (r == (ssize_t)n->tx_len) {
		n->st.tx_frames++;
		n->st.tx_bytes += n->tx_len;
	} else {
		n->st.tx_dropped++;
	}
	return true;
}

/* True: a frame waits for the descriptor. */
static bool output(struct virtio_net *n)
{
	struct virtq *q = &n->dev.vq[TX];

	if (!q->ready || !virtio_running(&n->dev))
		return false;
	for (;;) {
		if (!n->tx_len) {
			if (!virtq_pop(q, &n->chain))
				return false;
			if (!take(n, q)) {
				n->st.tx_dropped++;
				virtq_push(q, n->chain.head, 0);
				continue;
			}
		}
		if (!send_frame(n))
			return true;
		n->tx_len = 0;
		virtq_push(q, n->tx_head, 0);
	}
}

/* ---- the device ---- */

static void net_turn(struct virtio_dev *d)
{
	struct virtio_net *n = of(d);
	bool out = output(n);

	want(n, input(n), out);
}

static void net_kick(struct virtio_dev *d, struct virtq *q)
{
	net_turn(d);
}

static void net_reset(struct virtio_dev *d)
{
	of(d)->rx_len = of(d)->tx_len = 0;
}

static void net_destroy(struct virtio_dev *d)
{
	free(of(d)->rx);
	free(of(d)->tx);
	free(of(d));
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = 1,
	.class_code = 0x020000,
	.features = F_CSUM | F_MAC | F_MRG_RXBUF | F_STATUS,
	.reset = net_reset,
	.kick = net_kick,
	.work = net_turn,
	.destroy = net_destroy,
};

void virtio_net_ready(struct virtio_dev *d)
{
	virtio_schedule(d);
}

void virtio_net_stat_group(struct virtio_dev *d, struct stat_group *g)
{
	struct virtio_net *n = of(d);

	snprintf(n->stat_name, sizeof(n->stat_name), "%s_io", d->name);
	*g = (struct stat_group){n->stat_name, net_stat_desc,
				 ARRAY_SIZE(net_stat_desc), &n->st, NULL};
}

struct virtio_dev *virtio_net_create(const struct virtio_host *host,
				     const struct virtio_net_config *c)
{
	struct virtio_net *n = calloc(1, sizeof(*n));
	uint64_t extra = c->trusted ? F_GUEST_CSUM : 0;

	if (!n)
		return NULL;
	n->c = *c;
	n->up = n->want_in = true;
	n->max_frame = c->mtu + ETH_HEADER + ETH_VLAN;
	n->rx = malloc(n->max_frame);
	n->tx = malloc(n->max_frame);
	if (!n->rx || !n->tx) {
		net_destroy(&n->dev);
		return NULL;
	}
	memcpy(n->regs.mac, c->mac, sizeof(c->mac));
	n->regs.status = S_LINK_UP;
	n->regs.max_pairs = 1;
	n->regs.mtu = (uint16_t)c->mtu;
	if (c->mtu != ETH_MTU)
		extra |= F_MTU;
	virtio_init(&n->dev, &net_ops, c->name, host, 2, QUEUE_SIZE, extra,
		    (void *)&n->regs, sizeof(n->regs));
	return &n->dev;
}
