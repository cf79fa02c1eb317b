/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balloon.
 *
 * Inflate and deflate queues carry lists of page numbers, the reporting queue
 * segments that are free pages themselves. What is on the first and the third
 * is given up at once (p2m_balloon, p2m_discard), before the chain goes back to
 * the driver: while we have it the driver does not use the pages. A page comes
 * back by being touched, so nothing that a driver does in a wrong order hurts
 * anybody but its guest; the deflate queue only puts the books right.
 *
 * Trust. A page number may be any 32 bits, twice in a list, or of a ring of
 * ours: the p2m takes what is RAM and not pinned. (A ring whose page is given
 * up reads as zeroes then, which is what the driver asked for.) A list may be
 * terabytes long and a report all of memory many times over, so a turn does at
 * most TURN_PAGES and the rest waits for the next: what is being worked on is
 * kept in a job.
 *
 * Poison. A driver that negotiates PAGE_POISON promises that free pages hold
 * poison_val and wants to find it there. Zero is what ours read as; with
 * another value reported pages are left as they are (counted): they are all
 * alike, and sharing keeps one of them.
 *
 * Which queue is which. The standard numbers the five queues; drivers that do
 * not negotiate a feature in the middle have been seen to close the gap (Linux
 * before 6.11, QEMU). All features are offered, so there is no gap with a
 * driver that takes them; for the others: if the queue that the last feature
 * should have is not there, the numbers are the closed-up ones.
 *
 * Hints (FREE_PAGE_HINT) say which pages are free at one moment, for a
 * migration; the guest may use them again before we look, so giving one up
 * would need to know that it was not written since. Debian's driver reports
 * free pages as well, which gives the same and sooner, so a round of hints is
 * never started: the command stays STOP, and what comes goes back.
 *
 * Out of memory. With DEFLATE_ON_OOM the guest takes pages back when it would
 * have to kill somebody otherwise. It shows as `actual` sinking below the
 * target, and the target sinks with it: whoever set it has to ask again.
 */
#include "vmm/dev/virtio_balloon.h"

#include <stdlib.h>
#include <string.h>

#define QUEUES		 5
#define QUEUE_SIZE	 128 /* Linux wants 32 for reports */
#define TURN_PAGES	 8192u
#define BATCH		 256u

#define F_STATS		 (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_HINT		 (1ull << 3)
#define F_POISON	 (1ull << 4)
#define F_REPORTING	 (1ull << 5)

struct balloon_regs {
	uint32_t num_pages; /* we write */
	uint32_t actual;    /* the driver writes */
	uint32_t hint_cmd;  /* 0: stop */
	uint32_t poison;    /* the driver writes */
};

/* 5.5.6.3 */
enum {
	STAT_MAJFLT = 2,
	STAT_FREE = 4,
	STAT_TOTAL = 5,
	STAT_AVAILABLE = 6,
	STAT_CACHES = 7,
	STAT_NR = 8
};
struct __attribute__((packed)) stat_entry {
	uint16_t tag;
	uint64_t val;
};
#define STAT_ENTRIES 64u /* of a buffer that are looked at */

#define BALLOON_STATS(X)                                                       \
	X(inflated, "pages taken into the balloon")                            \
	X(deflated, "pages that the guest took back by saying so")             \
	X(reported, "free pages reported whose memory or copy went")           \
	X(ignored, "page numbers without effect: no RAM, in use by a device, " \
		   "or there already")                                         \
	X(poisoned, "reported pages kept because they must hold a value")      \
	X(oom, "times the guest took pages back unasked")                      \
	X(statistics, "times the guest told its statistics")
struct balloon_stats {
	BALLOON_STATS(STAT_FIELD)
};
static const struct stat_desc balloon_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(balloon_stats, name, help),
	BALLOON_STATS(D)
#undef D
};

enum role { INFLATE, DEFLATE, STATS, HINT, REPORT, ROLES };

/* A chain that is being worked on. */
struct job {
	bool busy;
	uint64_t off; /* of what is done: bytes of a list, or of a segment */
	unsigned seg; /* of a report */
	struct virtq_chain c;
};

struct virtio_balloon {
	struct virtio_dev dev; /* first */
	struct balloon_regs regs;
	uint64_t asked;	 /* the last target that was set */
	bool target_new; /* and the driver has not been told */
	bool compact;	 /* queue numbers are closed up */
	struct job job[ROLES];
	bool stats_held; /* the driver's buffer is here */
	uint16_t stats_head;
	bool stats_wanted;
	uint64_t stats_seq;
	uint64_t stat[STAT_NR]; /* by tag */
	struct balloon_stats st;
};

static struct virtio_balloon *of(const struct virtio_dev *d)
{
	return container_of(d, struct virtio_balloon, dev);
}

/* ---- lists of page numbers ---- */

/* By insertion: at most BATCH, mostly in runs. (qsort asks the kernel how much
 * memory there is, which a monitor may not.) */
static void sort(uint32_t *v, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		uint32_t x = v[i];
		size_t k = i;

		for (; k && v[k - 1] > x; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
}

static void take_run(struct virtio_balloon *b, enum role role, uint32_t pfn,
		     uint64_t n)
{
	struct p2m *p = b->dev.host.p2m;
	uint64_t took;

	if (role == INFLATE)
		b->st.inflated += took = p2m_balloon(p, (ppn_t){pfn}, n);
	else
		b->st.deflated += took = p2m_unballoon(p, (ppn_t){pfn}, n);
	b->st.ignored += n - took;
}

/* In runs of neighbours, whatever order the driver found them in. */
static void take_batch(struct virtio_balloon *b, enum role role, uint32_t *pfn,
		       size_t n)
{
	size_t start = 0;

	sort(pfn, n);
	for (size_t i = 1; i <= n; i++) {
		if (i < n && pfn[i] == pfn[i - 1]) {
			/* Twice: leave it out, keep the order. */
			memmove(pfn + i, pfn + i + 1,
				(n - i - 1) * sizeof(*pfn));
			n--;
			i--;
			b->st.ignored++;
			continue;
		}
		if (i < n && pfn[i] == pfn[i - 1] + 1)
			continue;
		take_run(b, role, pfn[start], i - start);
		start = i;
	}
}

/* One step of a job. True: it is done. */
static bool list_step(struct virtio_balloon *b, struct virtq *q, enum role role,
		      int64_t *budget)
{
	struct job *j = &b->job[role];
	uint64_t left = (j->c.out_len - j->off) / 4;
	uint32_t pfn[BATCH];
	size_t n = left < BATCH ? left : BATCH;

	if (!n || !virtq_read(q, &j->c, j->off, pfn, 4 * n))
		return true;
	j->off += 4 * n;
	take_batch(b, role, pfn, n);
	*budget -= n;
	return n == left;
}

/* ---- reports ---- */

/* *budget > 0. */
static bool report_step(struct virtio_balloon *b, int64_t *budget)
{
	struct job *j = &b->job[REPORT];
	const struct virtq_seg *s;
	uint64_t first, end, n;

	if (j->seg == j->c.n_in)
		return true;
	s = &j->c.seg[j->c.n_out + j->seg];
	/* Whole pages only. */
	first = (s->gpa + PAGE_SIZE - 1) / PAGE_SIZE + j->off;
	end = (s->gpa + s->len) / PAGE_SIZE;
	n = first < end ? end - first : 0;
	n = n < (uint64_t)*budget ? n : (uint64_t)*budget;
	if (b->regs.poison && virtio_has(&b->dev, F_POISON))
		b->st.poisoned += n;
	else
		b->st.reported +=
			p2m_discard(b->dev.host.p2m, (ppn_t){first}, n);
	j->off += n;
	/* Segments without a page in them cost something, too. */
	*budget -= n ? n : 1;
	if (first + n >= end) {
		j->seg++;
		j->off = 0;
	}
	return j->seg == j->c.n_in;
}

/* ---- jobs ---- */

static void work_on(struct virtio_balloon *b, struct virtq *q, enum role role)
{
	struct job *j = &b->job[role];
	int64_t budget = TURN_PAGES;
	bool done;

	for (;;) {
		if (!j->busy) {
			if (!virtq_pop(q, &j->c))
				return;
			j->busy = true;
			j->off = j->seg = 0;
		}
		do {
			done = role == REPORT ? report_step(b, &budget)
			       : role == HINT ? true
					      : list_step(b, q, role, &budget);
		} while (!done && budget > 0);
		if (!done)
			break;
		j->busy = false;
		virtq_push(q, j->c.head, 0);
		if (--budget <= 0)
			break;
	}
	/* The guest runs, then we go on. */
	b->dev.kicked |= 1u << q->index;
	virtio_schedule(&b->dev);
}

/* ---- statistics ---- */

static void read_stats(struct virtio_balloon *b, struct virtq *q,
		       const struct virtq_chain *c)
{
	struct stat_entry e[STAT_ENTRIES];
	size_t n = c->out_len / sizeof(*e);

	n = n < STAT_ENTRIES ? n : STAT_ENTRIES;
	if (!virtq_read(q, c, 0, e, n * sizeof(*e)))
		return;
	for (unsigned i = 0; i < STAT_NR; i++)
		b->stat[i] = BALLOON_UNKNOWN;
	for (size_t i = 0; i < n; i++)
		if (e[i].tag < STAT_NR)
			b->stat[e[i].tag] = e[i].val;
	b->stats_seq++;
	b->st.statistics++;
}

/* The driver has one buffer, which stays here until we want new ones. */
static void stats_turn(struct virtio_balloon *b, struct virtq *q)
{
	struct virtq_chain *c = &b->job[STATS].c;

	while (virtq_pop(q, c)) {
		if (b->stats_held)
			virtq_push(q, b->stats_head, 0);
		b->stats_held = true;
		b->stats_head = c->head;
		read_stats(b, q, c);
	}
	if (!b->stats_wanted || !b->stats_held)
		return;
	b->stats_wanted = b->stats_held = false;
	virtq_push(q, b->stats_head, 0);
}

/* ---- the device ---- */

static const uint64_t role_feature[ROLES] = {
	[STATS] = F_STATS, [HINT] = F_HINT, [REPORT] = F_REPORTING};

static enum role role_of(const struct virtio_balloon *b, unsigned index)
{
	if (!b->compact)
		return index;
	for (enum role r = INFLATE; r < ROLES; r++)
		if (virtio_has(&b->dev, role_feature[r]) && !index--)
			return r;
	return ROLES;
}

static struct virtq *queue_of(struct virtio_balloon *b, enum role role)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (role_of(b, i) == role)
			return &b->dev.vq[i];
	return NULL;
}

static void balloon_kick(struct virtio_dev *d, struct virtq *q)
{
	enum role role = role_of(of(d), q->index);

	if (role == ROLES || !virtio_has(d, role_feature[role]))
		return;
	if (role == STATS)
		stats_turn(of(d), q);
	else
		work_on(of(d), q, role);
}

static void balloon_work(struct virtio_dev *d)
{
	struct virtio_balloon *b = of(d);
	struct virtq *q = queue_of(b, STATS);

	if (b->stats_wanted && q && virtio_running(d))
		stats_turn(b, q);
	if (!b->target_new)
		return;
	b->target_new = false;
	b->regs.num_pages = b->asked;
	virtio_config_changed(d);
}

static void forget(struct virtio_balloon *b)
{
	for (unsigned i = 0; i < ROLES; i++)
		b->job[i].busy = false;
	b->stats_held = b->compact = false;
	b->regs.actual = b->regs.poison = 0;
	for (unsigned i = 0; i < STAT_NR; i++)
		b->stat[i] = BALLOON_UNKNOWN;
}

static void balloon_start(struct virtio_dev *d)
{
	for (enum role r = STATS; r < ROLES; r++)
		if (virtio_has(d, role_feature[r]))
			of(d)->compact = !d->vq[r].ready;
}

static void balloon_reset(struct virtio_dev *d)
{
	forget(of(d));
}

static void set_actual(struct virtio_balloon *b, uint32_t actual)
{
	uint32_t was = b->regs.actual;

	b->regs.actual = actual;
	if (actual >= was || actual >= b->regs.num_pages)
		return;
	b->st.oom++;
	b->regs.num_pages = actual;
}

static void balloon_config_write(struct virtio_dev *d, unsigned off,
				 unsigned len, uint64_t val)
{
	struct virtio_balloon *b = of(d);
	struct balloon_regs r = b->regs;

	memcpy((char *)&r + off, &val, len);
	if (r.actual != b->regs.actual)
		set_actual(b, r.actual);
	b->regs.poison = r.poison;
}

static void balloon_destroy(struct virtio_dev *d)
{
	free(of(d));
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = 5,
	.class_code = 0xff0000,
	.features =
		F_STATS | F_DEFLATE_ON_OOM | F_HINT | F_POISON | F_REPORTING,
	.start = balloon_start,
	.reset = balloon_reset,
	.kick = balloon_kick,
	.work = balloon_work,
	.config_write = balloon_config_write,
	.destroy = balloon_destroy,
};

struct virtio_dev *virtio_balloon_create(const struct virtio_host *host,
					 const char *name)
{
	struct virtio_balloon *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	virtio_init(&b->dev, &balloon_ops, name, host, QUEUES, QUEUE_SIZE, 0,
		    &b->regs, sizeof(b->regs));
	forget(b);
	return &b->dev;
}

/* ---- for the monitor ---- */

void virtio_balloon_set_target(struct virtio_dev *d, uint64_t pages)
{
	struct virtio_balloon *b = of(d);

	if (pages > UINT32_MAX)
		pages = UINT32_MAX;
	if (pages == b->asked)
		return;
	b->asked = pages;
	b->target_new = true;
	virtio_schedule(d);
}

void virtio_balloon_ask_stats(struct virtio_dev *d)
{
	if (!virtio_running(d) || !virtio_has(d, F_STATS))
		return;
	of(d)->stats_wanted = true;
	virtio_schedule(d);
}

void virtio_balloon_get_state(const struct virtio_dev *d,
			      struct virtio_balloon_state *s)
{
	const struct virtio_balloon *b = of(d);

	*s = (struct virtio_balloon_state){
		.up = virtio_running(d),
		.reports = virtio_running(d) && virtio_has(d, F_REPORTING),
		.target = b->regs.num_pages,
		.actual = b->regs.actual,
		.oom = b->st.oom,
		.stats_seq = b->stats_seq,
		.free_bytes = b->stat[STAT_FREE],
		.total_bytes = b->stat[STAT_TOTAL],
		.available_bytes = b->stat[STAT_AVAILABLE],
		.cache_bytes = b->stat[STAT_CACHES],
		.major_faults = b->stat[STAT_MAJFLT],
	};
}

void virtio_balloon_stat_group(struct virtio_dev *d, struct stat_group *g)
{
	*g = (struct stat_group){"balloon", balloon_stat_desc,
				 ARRAY_SIZE(balloon_stat_desc), &of(d)->st,
				 NULL};
}
