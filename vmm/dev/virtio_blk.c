/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is a chain: a header (type, sector), data, and a status byte at the
 * end. It is copied out and checked once, its data mapped for DMA, and given to
 * the disk; the vCPU goes on. What has completed is answered at the device's
 * next turn: at once when it was in the page cache, else when the disk's event
 * has brought one.
 *
 * A request that is wrong in itself (beyond the end, not whole sectors, a type
 * we do not have) gets an error status; a chain that has no room for a header
 * and a status cannot be answered and breaks the device.
 *
 * Sizes: what a driver may ask for (size_max * seg_max) is below MAX_BYTES, so
 * the limit meets only drivers that ignore it, and bounds our memory.
 *
 * Write cache. Without FLUSH agreed upon, the driver trusts that a write that
 * was answered is safe, so each write is followed by a flush then.
 */
#include "vmm/dev/virtio_blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/dev/dma.h"

#define QUEUE_SIZE 128
#define SEG_MAX	   126u
#define SIZE_MAX_  65536u
#define MAX_BYTES  (8ull << 20)
#define MAX_RANGES 32u

#define F_SIZE_MAX (1ull << 1)
#define F_SEG_MAX  (1ull << 2)
#define F_RO	   (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH	   (1ull << 9)
#define F_DISCARD  (1ull << 13)
#define F_ZEROES   (1ull << 14)

enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};
enum { S_OK, S_IOERR, S_UNSUPP };

#define ID_BYTES	 20
#define ZEROES_MAY_UNMAP 1u

struct blk_config {
	uint64_t capacity;
	uint32_t size_max, seg_max;
	uint32_t geometry;
	uint32_t blk_size;
	uint8_t topology[8];
	uint8_t writeback, unused;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_alignment;
	uint32_t max_zeroes_sectors, max_zeroes_seg;
	uint8_t zeroes_may_unmap, pad[3];
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 60, "virtio 1.2, 5.2.4");

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* Discard and write zeroes */
struct blk_range {
	uint64_t sector;
	uint32_t n, flags;
};

#define BLK_STATS(X)                                                           \
	X(reads, "read requests")                                              \
	X(writes, "write requests")                                            \
	X(flushes, "flush requests")                                           \
	X(zeroes, "discard and write-zeroes requests")                         \
	X(read_bytes, "bytes read")                                            \
	X(written_bytes, "bytes written")                                      \
	X(at_once, "requests answered in the turn that brought them")          \
	X(errors, "requests answered with an error")
struct blk_stats {
	BLK_STATS(STAT_FIELD)
};
static const struct stat_desc blk_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(blk_stats, name, help),
	BLK_STATS(D)
#undef D
};

struct virtio_blk {
	struct virtio_dev dev; /* first */
	struct disk *disk;
	struct blk_config cfg;
	struct blk_stats st;
	struct virtq_chain chain; /* the one being looked at */
	uint64_t turn;
	void (*on_read)(void *ctx, ppn_t ppn);
	void *on_read_ctx;
	char stat_name[24];
};

struct blk_req {
	struct virtio_blk *b;
	struct virtq *q;
	uint16_t head;
	gpa_t status_at;
	uint64_t in_bytes; /* data written into the guest when it is done */
	uint64_t turn;
	bool then_flush;
	struct dma dma;
	unsigned parts; /* disk requests under way */
	bool failed;
	unsigned n_rq;
	struct disk_req rq[];
};

/* ---- answers ---- */

static void answer(struct blk_req *r, uint8_t status)
{
	struct virtio_blk *b = r->b;

	b->st.errors += status != S_OK;
	b->st.at_once += r->turn == b->turn;
	if (p2m_copy_in(b->dev.host.p2m, r->status_at, &status, 1))
		virtio_break(&b->dev, VIRTQ_E_memory);
	virtq_push(r->q, r->head,
		   (status == S_OK ? (uint32_t)r->in_bytes : 0) + 1);
	free(r);
}

/* Overlay or base: what it is now; a write meanwhile makes it less common, and
 * the page is compared in any case. */
static void end_dma(struct blk_req *r, const struct disk_req *rq)
{
	struct virtio_blk *b = r->b;
	bool common = b->on_read && rq->kind == DISK_READ && !r->failed &&
		      disk_is_common(b->disk, rq->sector, rq->n);

	dma_unmap_tell(&r->dma, common ? b->on_read : NULL, b->on_read_ctx);
}

static void req_done(struct disk_req *rq, int err)
{
	struct blk_req *r = rq->ctx;

	r->failed |= err != 0;
	if (--r->parts)
		return;
	if (r->dma.mem)
		end_dma(r, rq);
	if (r->then_flush && !r->failed) {
		r->then_flush = false;
		r->parts = 1;
		r->rq[0] = (struct disk_req){
			.kind = DISK_FLUSH, .done = req_done, .ctx = r};
		disk_submit(r->b->disk, &r->rq[0]);
		return;
	}
	answer(r, r->failed ? S_IOERR : S_OK);
}

/* ---- requests ---- */

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t n)
{
	uint64_t have = disk_sectors(b->disk);

	return sector <= have && n <= have - sector;
}

static void submit(struct blk_req *r)
{
	unsigned n = r->n_rq;

	r->parts = n;
	for (unsigned i = 0; i < n; i++) {
		r->rq[i].done = req_done;
		r->rq[i].ctx = r;
	}
	for (unsigned i = 0; i < n; i++)
		disk_submit(r->b->disk, &r->rq[i]);
}

/* A status other than S_OK answers the request; with S_OK the disk will. */

static uint8_t start_data(struct blk_req *r, const struct blk_header *h,
			  bool read)
{
	struct virtio_blk *b = r->b;
	const struct virtq_chain *c = &b->chain;
	uint64_t len = read ? c->in_len - 1 : c->out_len - sizeof(*h);
	int err;

	if (!len || len % SECTOR_SIZE || len > MAX_BYTES ||
	    !in_disk(b, h->sector, len >> SECTOR_SHIFT) ||
	    (!read && disk_read_only(b->disk)))
		return S_IOERR;
	err = dma_map(&r->dma, b->dev.host.p2m, read,
		      read ? c->seg + c->n_out : c->seg,
		      read ? c->n_in : c->n_out, read ? 0 : sizeof(*h), len);
	if (err)
		return S_IOERR;
	if (read) {
		b->st.reads++;
		b->st.read_bytes += len;
		r->in_bytes = len;
	} else {
		b->st.writes++;
		b->st.written_bytes += len;
		r->then_flush = !virtio_has(&b->dev, F_FLUSH);
	}
	r->rq[0] = (struct disk_req){.kind = read ? DISK_READ : DISK_WRITE,
				     .sector = h->sector,
				     .n = len >> SECTOR_SHIFT,
				     .iov = r->dma.iov,
				     .n_iov = r->dma.n_iov};
	submit(r);
	return S_OK;
}

static uint8_t start_ranges(struct blk_req *r, uint32_t type)
{
	struct virtio_blk *b = r->b;
	struct blk_range g;
	uint32_t may = type == T_WRITE_ZEROES ? ZEROES_MAY_UNMAP : 0;
	unsigned n = 0;

	if (!disk_can_zero(b->disk))
		return disk_read_only(b->disk) ? S_IOERR : S_UNSUPP;
	for (unsigned i = 0; i < r->n_rq; i++) {
		if (!virtq_read(r->q, &b->chain,
				sizeof(struct blk_header) + i * sizeof(g), &g,
				sizeof(g)))
			return S_IOERR;
		if (g.flags & ~may)
			return S_UNSUPP;
		if (!in_disk(b, g.sector, g.n))
			return S_IOERR;
		if (g.n)
			r->rq[n++] = (struct disk_req){.kind = DISK_ZERO,
						       .sector = g.sector,
						       .n = g.n};
	}
	b->st.zeroes++;
	r->n_rq = n;
	r->then_flush = !virtio_has(&b->dev, F_FLUSH);
	if (n)
		submit(r);
	else
		answer(r, S_OK);
	return S_OK;
}

static uint8_t start_id(struct blk_req *r)
{
	char id[ID_BYTES];
	uint64_t room = r->b->chain.in_len - 1;

	memset(id, 0, sizeof(id));
	memcpy(id, disk_serial(r->b->disk), strlen(disk_serial(r->b->disk)));
	r->in_bytes = room < ID_BYTES ? room : ID_BYTES;
	(void)virtq_write(r->q, &r->b->chain, 0, id, r->in_bytes);
	answer(r, S_OK);
	return S_OK;
}

static uint8_t start_flush(struct blk_req *r)
{
	r->b->st.flushes++;
	r->rq[0] = (struct disk_req){.kind = DISK_FLUSH};
	submit(r);
	return S_OK;
}

static uint8_t start(struct blk_req *r, const struct blk_header *h)
{
	switch (h->type) {
	case T_IN:
		return start_data(r, h, true);
	case T_OUT:
		return start_data(r, h, false);
	case T_FLUSH:
		return start_flush(r);
	case T_GET_ID:
		return start_id(r);
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return start_ranges(r, h->type);
	default:
		return S_UNSUPP;
	}
}

/* How many disk requests this one may become. */
static unsigned count_parts(const struct virtio_blk *b,
			    const struct blk_header *h)
{
	uint64_t n = (b->chain.out_len - sizeof(*h)) / sizeof(struct blk_range);

	if (h->type != T_DISCARD && h->type != T_WRITE_ZEROES)
		return 1;
	return n > MAX_RANGES ? MAX_RANGES + 1 : n;
}

static gpa_t last_byte(const struct virtq_chain *c)
{
	for (unsigned i = c->n_out + c->n_in; i-- > c->n_out;)
		if (c->seg[i].len)
			return c->seg[i].gpa + c->seg[i].len - 1;
	return 0; /* not reached: in_len > 0 */
}

static void take(struct virtio_blk *b, struct virtq *q)
{
	const struct virtq_chain *c = &b->chain;
	struct blk_header h;
	struct blk_req *r;
	unsigned parts;
	uint8_t status;

	if (!c->in_len || !virtq_read(q, c, 0, &h, sizeof(h))) {
		virtio_break(&b->dev, VIRTQ_E_request);
		return;
	}
	parts = count_parts(b, &h);
	r = calloc(1, sizeof(*r) + (parts ? parts : 1) * sizeof(r->rq[0]));
	if (!r) {
		virtio_break(&b->dev, VIRTQ_E_memory);
		return;
	}
	r->b = b;
	r->q = q;
	r->head = c->head;
	r->status_at = last_byte(c);
	r->turn = b->turn;
	r->n_rq = parts;
	status = parts > MAX_RANGES ? S_IOERR : start(r, &h);
	if (status != S_OK)
		answer(r, status);
}

static void blk_kick(struct virtio_dev *d, struct virtq *q)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, dev);

	b->turn++;
	while (virtq_pop(q, &b->chain))
		take(b, q);
	disk_poll(b->disk);
}

static void blk_work(struct virtio_dev *d)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, dev);

	b->turn++;
	disk_poll(b->disk);
}

static void blk_reset(struct virtio_dev *d)
{
	disk_drain(container_of(d, struct virtio_blk, dev)->disk);
}

static void blk_destroy(struct virtio_dev *d)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, dev);

	disk_close(b->disk);
	free(b);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = 2,
	.class_code = 0x018000,
	.features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH,
	.reset = blk_reset,
	.kick = blk_kick,
	.work = blk_work,
	.destroy = blk_destroy,
};

static void ready(void *ctx)
{
	struct virtio_blk *b = ctx;

	virtio_schedule(&b->dev);
}

int virtio_blk_event_fd(const struct virtio_dev *d)
{
	return disk_event_fd(container_of(d, struct virtio_blk, dev)->disk);
}

void virtio_blk_ready(struct virtio_dev *d)
{
	disk_clear_event(container_of(d, struct virtio_blk, dev)->disk);
	virtio_schedule(d);
}

void virtio_blk_on_read(struct virtio_dev *d, void (*fn)(void *ctx, ppn_t ppn),
			void *ctx)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, dev);

	b->on_read = fn;
	b->on_read_ctx = ctx;
}

void virtio_blk_stat_group(struct virtio_dev *d, struct stat_group *g)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, dev);

	snprintf(b->stat_name, sizeof(b->stat_name), "%s_io", d->name);
	*g = (struct stat_group){b->stat_name, blk_stat_desc,
				 ARRAY_SIZE(blk_stat_desc), &b->st, NULL};
}

int virtio_blk_create(const struct virtio_host *host, const char *name,
		      const struct disk_config *cfg, struct virtio_dev **out,
		      char *err, size_t errlen)
{
	struct virtio_blk *b = calloc(1, sizeof(*b));
	uint64_t extra = 0;
	int r;

	if (!b) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	r = disk_open(cfg, ready, b, &b->disk, err, errlen);
	if (r) {
		free(b);
		return r;
	}
	b->cfg = (struct blk_config){
		.capacity = disk_sectors(b->disk),
		.size_max = SIZE_MAX_,
		.seg_max = SEG_MAX,
		.blk_size = SECTOR_SIZE,
		.max_discard_sectors = 1u << 22,
		.max_discard_seg = MAX_RANGES,
		.discard_alignment = PAGE_SIZE / SECTOR_SIZE,
		.max_zeroes_sectors = 1u << 22,
		.max_zeroes_seg = MAX_RANGES,
		.zeroes_may_unmap = 1,
	};
	if (disk_read_only(b->disk))
		extra |= F_RO;
	else if (disk_can_zero(b->disk))
		extra |= F_DISCARD | F_ZEROES;
	virtio_init(&b->dev, &blk_ops, name, host, 1, QUEUE_SIZE, extra,
		    &b->cfg, sizeof(b->cfg));
	*out = &b->dev;
	return 0;
}
