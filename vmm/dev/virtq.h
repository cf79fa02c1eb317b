/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_VIRTQ_H
#define SARDINE_VMM_DEV_VIRTQ_H
/*
 * A split virtqueue, the device's side (virtio 1.2, 2.7), with indirect
 * descriptors and event indices.
 *
 * How a device uses it:
 *
 *	struct virtq_chain c;
 *
 *	while (virtq_pop(q, &c) > 0) {
 *		virtq_read(q, &c, 0, &request, sizeof(request));
 *		...
 *		virtq_write(q, &c, 0, &answer, sizeof(answer));
 *		virtq_push(q, c.head, sizeof(answer));
 *	}
 *
 * A chain may be kept (by its head and a copy of its segments) and pushed later
 * and in any order. The interrupt is not the device's business: virtio_run()
 * looks after the device's turn whether the driver wants one.
 *
 * Everything in the rings belongs to the guest. What virtq_pop hands out is
 * checked: every segment is RAM, all of it; readable segments come before
 * writable ones; there are at most VIRTQ_MAX_SEGS. What is wrong breaks the
 * queue (enum virtq_error): the device asks for a reset, and pop answers 0
 * until there was one. A driver may still change a ring or a buffer at any
 * time: copy a request out once, then check it, then use it.
 *
 * Owner thread, under the device lock.
 */
#include "mm/p2m.h"

#define VIRTQ_MAX_SIZE 256 /* descriptors */
#define VIRTQ_MAX_SEGS 256 /* of one chain */

/* clang-format off */
#define VIRTQ_ERRORS(X)                                                        \
	X(ok, "none")                                                          \
	X(size, "the queue's size is not a power of two, or too large")        \
	X(align, "a ring is not aligned")                                      \
	X(ring, "a ring is not in RAM")                                        \
	X(avail, "the available index is more than the queue's size ahead")    \
	X(head, "the head of a chain is beyond the table")                     \
	X(next, "a descriptor's next is beyond the table")                     \
	X(chain, "a chain is too long, or a loop")                             \
	X(order, "a readable segment comes after a writable one")              \
	X(indirect_flags, "an indirect descriptor has other flags, or nests")  \
	X(indirect_size, "an indirect table's size is not a multiple of 16, or too large") \
	X(indirect_off, "an indirect descriptor without having agreed to them") \
	X(segment, "a segment is not in RAM")                                  \
	X(memory, "the host is out of memory")                                 \
	X(request, "a request is malformed")
/* clang-format on */
enum virtq_error {
#define E(name, what) VIRTQ_E_##name,
	VIRTQ_ERRORS(E)
#undef E
		VIRTQ_NR_ERRORS
};
extern const char *const virtq_error_names[VIRTQ_NR_ERRORS];

struct virtio_dev;

struct virtq {
	struct virtio_dev *dev;
	unsigned index;
	/* The driver's settings, by the transport. */
	uint16_t size;
	uint16_t vector; /* MSI-X; 0xffff: none */
	bool ready;
	gpa_t desc, avail, used;
	/* Where we are. */
	uint16_t next_avail; /* the next entry of the available ring */
	uint16_t next_used;
	uint16_t told_used; /* next_used when the driver was last told */
	uint64_t popped, pushed;
};

struct virtq_seg {
	gpa_t gpa;
	uint32_t len;
};

/* Segments 0..n_out-1 are for the device to read, n_out..n_out+n_in-1 to
 * write; lengths are their sums. */
struct virtq_chain {
	uint16_t head;
	uint16_t n_out, n_in;
	uint64_t out_len, in_len;
	struct virtq_seg seg[VIRTQ_MAX_SEGS];
};

/* The driver has enabled the queue: check its rings. 0, or -EINVAL and the
 * device is broken. */
int virtq_enable(struct virtq *q);
/* The next chain. 1; 0: there is none, or the device is broken. */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Give a chain back, after `written` bytes were put into its writable part. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* Is there something to pop? Asks the driver to kick when there will be. */
bool virtq_more(struct virtq *q);
/* Does the driver want an interrupt for what was pushed since the last call?
 * For virtio_run(). */
bool virtq_must_tell(struct virtq *q);

/* Copy len bytes from off on out of the readable part, or into the writable
 * one. False: it has fewer (as many as there are were copied), or the host is
 * out of memory (then the device is broken). */
bool virtq_read(struct virtq *q, const struct virtq_chain *c, uint64_t off,
		void *buf, size_t len);
bool virtq_write(struct virtq *q, const struct virtq_chain *c, uint64_t off,
		 const void *buf, size_t len);
/* Is all of [gpa, gpa + len) RAM? */
bool virtq_in_ram(const struct p2m *p, gpa_t gpa, uint64_t len);
#endif
