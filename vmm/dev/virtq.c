/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue.
 *
 * The three parts (2.7): a table of descriptors {addr, len, flags, next}; the
 * available ring {flags, idx, ring[size], used_event}, which the driver writes;
 * the used ring {flags, idx, {id, len}[size], avail_event}, which we write. All
 * are read and written through the p2m at each use: a ring's page may be
 * shared, protected or away at any time, and the p2m knows.
 *
 * Trust. An index is used only after a comparison with q->size, and a
 * descriptor is copied before it is looked at, so that the driver cannot change
 * it in between. A chain ends after VIRTQ_MAX_SEGS descriptors at the latest,
 * which is also what finds loops; an indirect table is only entered from the
 * main table, once a chain, and its next indices are checked against its own
 * size. Buffers are checked to be RAM here, once: RAM stays RAM.
 *
 * Order. A used entry is written before the index that publishes it, and the
 * index before the driver's wish for an interrupt is read (2.7.13.4); with one
 * vCPU, on this thread, that is program order, and the fences cost nothing
 * measurable.
 */
#include "vmm/dev/virtq.h"

#include <errno.h>
#include <string.h>

#include "vmm/dev/virtio.h"

#define DESC_NEXT	   1
#define DESC_WRITE	   2
#define DESC_INDIRECT	   4

#define AVAIL_NO_INTERRUPT 1

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct used_elem {
	uint32_t id, len;
};

const char *const virtq_error_names[VIRTQ_NR_ERRORS] = {
#define E(name, what) what,
	VIRTQ_ERRORS(E)
#undef E
};

static struct p2m *mem(const struct virtq *q)
{
	return q->dev->host.p2m;
}

bool virtq_in_ram(const struct p2m *p, gpa_t gpa, uint64_t len)
{
	const uint64_t high = 1ull << 32, high_len = p2m_high_bytes(p);
	uint64_t end;

	if (__builtin_add_overflow(gpa, len, &end))
		return false;
	return end <= p2m_low_bytes(p) ||
	       (high_len && gpa >= high && end <= high + high_len);
}

static int broken(struct virtq *q, enum virtq_error why)
{
	virtio_break(q->dev, why);
	return -EINVAL;
}

static uint16_t get16(struct virtq *q, gpa_t at)
{
	uint16_t v = 0;

	if (p2m_copy_out(mem(q), at, &v, sizeof(v)))
		broken(q, VIRTQ_E_ring);
	return v;
}

static void put(struct virtq *q, gpa_t at, const void *v, size_t n)
{
	if (p2m_copy_in(mem(q), at, v, n))
		broken(q, VIRTQ_E_memory);
}

static bool event_idx(const struct virtq *q)
{
	return virtio_has(q->dev, VIRTIO_F_EVENT_IDX);
}

int virtq_enable(struct virtq *q)
{
	struct p2m *p = mem(q);
	uint64_t n = q->size;

	if (!n || n & (n - 1) || n > q->dev->queue_size)
		return broken(q, VIRTQ_E_size);
	if (q->desc & 15 || q->avail & 1 || q->used & 3)
		return broken(q, VIRTQ_E_align);
	/* Each with its event index, agreed upon or not. */
	if (!virtq_in_ram(p, q->desc, 16 * n) ||
	    !virtq_in_ram(p, q->avail, 6 + 2 * n) ||
	    !virtq_in_ram(p, q->used, 6 + 8 * n))
		return broken(q, VIRTQ_E_ring);
	q->next_avail = q->next_used = q->told_used = 0;
	q->ready = true;
	return 0;
}

/* ---- taking a chain ---- */

static int add_segment(struct virtq *q, struct virtq_chain *c,
		       const struct desc *d)
{
	unsigned n = c->n_out + c->n_in;

	if (n == VIRTQ_MAX_SEGS)
		return broken(q, VIRTQ_E_chain);
	if (!virtq_in_ram(mem(q), d->addr, d->len))
		return broken(q, VIRTQ_E_segment);
	c->seg[n] = (struct virtq_seg){d->addr, d->len};
	if (d->flags & DESC_WRITE) {
		c->n_in++;
		c->in_len += d->len;
		return 0;
	}
	if (c->n_in)
		return broken(q, VIRTQ_E_order);
	c->n_out++;
	c->out_len += d->len;
	return 0;
}

/* Walk one table of n descriptors from i on. *ind: where an indirect table
 * was met, which ends the chain; NULL: must not be. */
static int walk(struct virtq *q, struct virtq_chain *c, gpa_t table, uint32_t n,
		uint16_t i, struct desc *ind)
{
	struct desc d;
	uint32_t steps = 0;
	int r;

	do {
		if (i >= n)
			return broken(q, VIRTQ_E_next);
		if (++steps > n)
			return broken(q, VIRTQ_E_chain);
		if (p2m_copy_out(mem(q), table + 16ull * i, &d, sizeof(d)))
			return broken(q, VIRTQ_E_ring);
		if (d.flags & DESC_INDIRECT) {
			if (!ind || d.flags & (DESC_NEXT | DESC_WRITE))
				return broken(q, VIRTQ_E_indirect_flags);
			*ind = d;
			return 0;
		}
		r = add_segment(q, c, &d);
		if (r)
			return r;
		i = d.next;
	} while (d.flags & DESC_NEXT);
	return 0;
}

static int walk_indirect(struct virtq *q, struct virtq_chain *c,
			 const struct desc *ind)
{
	if (!virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC))
		return broken(q, VIRTQ_E_indirect_off);
	if (!ind->len || ind->len % 16 || ind->len / 16 > 0xffff)
		return broken(q, VIRTQ_E_indirect_size);
	if (!virtq_in_ram(mem(q), ind->addr, ind->len))
		return broken(q, VIRTQ_E_segment);
	return walk(q, c, ind->addr, ind->len / 16, 0, NULL);
}

static uint16_t waiting(struct virtq *q)
{
	uint16_t n = get16(q, q->avail + 2) - q->next_avail;

	if (n <= q->size)
		return n;
	broken(q, VIRTQ_E_avail);
	return 0;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	struct desc ind = {.flags = 0};
	int r;

	if (!q->ready || !virtio_running(q->dev) || !virtq_more(q))
		return 0;
	c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	c->head =
		get16(q, q->avail + 4 + 2ull * (q->next_avail & (q->size - 1)));
	if (c->head >= q->size)
		return broken(q, VIRTQ_E_head), 0;
	r = walk(q, c, q->desc, q->size, c->head, &ind);
	if (!r && ind.flags)
		r = walk_indirect(q, c, &ind);
	if (r || !virtio_running(q->dev))
		return 0;
	q->next_avail++;
	q->popped++;
	q->dev->st.chains++;
	return 1;
}

bool virtq_more(struct virtq *q)
{
	if (!q->ready || !virtio_running(q->dev))
		return false;
	if (waiting(q))
		return true;
	if (!event_idx(q))
		return false;
	/* "Ring the bell at this one"; it may have come meanwhile. */
	put(q, q->used + 4 + 8ull * q->size, &q->next_avail, 2);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return waiting(q) != 0;
}

/* ---- giving it back ---- */

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	struct used_elem e = {head, written};

	if (!q->ready || !virtio_running(q->dev))
		return;
	put(q, q->used + 4 + 8ull * (q->next_used & (q->size - 1)), &e,
	    sizeof(e));
	__atomic_thread_fence(__ATOMIC_RELEASE);
	q->next_used++;
	q->pushed++;
	put(q, q->used + 2, &q->next_used, 2);
}

bool virtq_must_tell(struct virtq *q)
{
	uint16_t old = q->told_used, now = q->next_used, event;

	if (!q->ready || old == now || !virtio_running(q->dev))
		return false;
	q->told_used = now;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!event_idx(q))
		return !(get16(q, q->avail) & AVAIL_NO_INTERRUPT);
	event = get16(q, q->avail + 4 + 2ull * q->size);
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* ---- bytes ---- */

static bool copy(struct virtq *q, const struct virtq_chain *c, unsigned first,
		 unsigned n, uint64_t off, void *buf, size_t len, bool in)
{
	int r;

	for (unsigned i = first; len && i < first + n; i++) {
		const struct virtq_seg *s = &c->seg[i];
		size_t part;

		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		part = s->len - off < len ? s->len - off : len;
		r = in ? p2m_copy_in(mem(q), s->gpa + off, buf, part)
		       : p2m_copy_out(mem(q), s->gpa + off, buf, part);
		if (r) {
			broken(q, VIRTQ_E_memory);
			return false;
		}
		off = 0;
		len -= part;
		buf = (char *)buf + part;
	}
	return !len;
}

bool virtq_read(struct virtq *q, const struct virtq_chain *c, uint64_t off,
		void *buf, size_t len)
{
	return copy(q, c, 0, c->n_out, off, buf, len, false);
}

bool virtq_write(struct virtq *q, const struct virtq_chain *c, uint64_t off,
		 const void *buf, size_t len)
{
	return copy(q, c, c->n_out, c->n_in, off, (void *)buf, len, true);
}
