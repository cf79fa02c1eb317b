/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scanner: work follows what changed.
 *
 * The problem: looking at every page every few seconds costs all the time and
 * finds nothing. The data: a page enters a VM's todo map only through the
 * collected map, that is after it was written and then protected. So a quiet
 * VM has an empty todo, and a round over it is one comparison of two counters.
 *
 * A page that was just collected may be written again at once; sharing it then
 * costs a copy and wins nothing. So collected pages rest in a young map, and
 * only those that nobody wrote for settle_ns go on to todo.
 *
 * Read from a disk. What a VM has just read from an image that others have as
 * well (a base under an overlay, a read-only disk) will hardly change, and the
 * others have it or soon will. Its monitor collects such a page at once and says
 * so (READ), and the page goes to todo without a rest. The key is the content's
 * hash, as ever, rather than image and block: it costs 0.2 us a page, needs no
 * second table to be kept true, and finds equal blocks of unequal images, too.
 * A READ is a hint: one that gets lost is a page that rests like the others.
 *
 * A step: take the news (collected and released maps, only when their counts
 * have moved), send the collects that are due, read todo pages in turn from the
 * VMs in chunks (neighbours in one pread; a hole reads as zeroes and stays a
 * hole), match them (share_match.c), send the proposals.
 *
 * Pace. After a collect that its budget ended the next one comes at once
 * (collect_min); one that found little doubles the gap up to collect_max. A VM
 * that has no page noted is not asked at all.
 *
 * Trust: maps and counters are the monitor's word. Bits beyond RAM are
 * dropped, a released bit for a page without a frame is nothing, and how much
 * work a VM makes in a step is bounded by its turn and the budget.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/sharing/share_priv.h"

/* News. */

static void take_map(struct share_vm *v, uint64_t *map,
		     void (*fn)(struct share_vm *, uint64_t))
{
	for (uint64_t w = 0; w < v->words; w++) {
		uint64_t bits;

		if (!control_get(&map[w]))
			continue;
		bits = __atomic_exchange_n(&map[w], 0, __ATOMIC_ACQUIRE);
		if (map == v->released)
			(void)fail_point("kill-manager-released");
		for (; bits; bits &= bits - 1) {
			uint64_t ppn = w * 64 + __builtin_ctzll(bits);

			if (share_vm_is_ram(v, ppn))
				fn(v, ppn);
		}
	}
}

static void todo_done(struct share_vm *v, uint64_t ppn)
{
	v->todo[ppn / 64] &= ~(1ull << ppn % 64);
	v->todo_pages--;
}

static void on_collected(struct share_vm *v, uint64_t ppn)
{
	uint64_t bit = 1ull << ppn % 64;

	/* What was believed of it is old. (A released page is NONE by now; an
	 * answer to come decides for itself.) */
	if (rec_kind(v->rec[ppn]) == REC_HINT)
		share_rec_clear(v, ppn);
	v->h->st.collected_pages++;
	/* It begins its rest anew. */
	if (v->todo[ppn / 64] & bit)
		todo_done(v, ppn);
	if (v->young[1][ppn / 64] & bit) {
		v->young[1][ppn / 64] &= ~bit;
		v->young_pages[1]--;
	}
	if (!(v->young[0][ppn / 64] & bit)) {
		v->young[0][ppn / 64] |= bit;
		v->young_pages[0]++;
	}
}

/* Pages that have rested go to todo, unless they are in use again; pages that
 * were just collected begin to rest. */
static void age(struct share_vm *v, uint64_t now)
{
	uint64_t *rested = v->young[1];

	if (now - v->aged_at < v->h->par.settle_ns)
		return;
	v->aged_at = now;
	for (uint64_t w = 0; w < v->words && v->young_pages[1]; w++) {
		uint64_t used = rested[w] & control_get(&v->changed[w]);
		uint64_t more = rested[w] & ~used & ~v->todo[w];

		if (!rested[w])
			continue;
		v->h->st.skipped_changed += __builtin_popcountll(used);
		v->todo_pages += __builtin_popcountll(more);
		v->todo[w] |= more;
		v->young_pages[1] -= __builtin_popcountll(rested[w]);
		rested[w] = 0;
	}
	v->young[1] = v->young[0];
	v->young[0] = rested;
	v->young_pages[1] = v->young_pages[0];
	v->young_pages[0] = 0;
}

/* Should a collected page still have a record, because the news of its release
 * or an answer is under way, it waits in todo until the record is gone. */
static void take_news(struct share_vm *v)
{
	uint64_t col = control_get(&v->ctl->collected_seq);
	uint64_t rel = __atomic_load_n(&v->ctl->released_seq, __ATOMIC_ACQUIRE);

	if (rel != v->released_seq) {
		v->released_seq = rel;
		take_map(v, v->released, share_rec_released);
	}
	if (col != v->collected_seq) {
		v->collected_seq = col;
		take_map(v, v->collected, on_collected);
	}
}

/* Collects. */

static void send_collect(struct share_vm *v, uint64_t now)
{
	struct share_msg m = {.type = SHARE_MSG_COLLECT};
	int r;

	m.seq = ++v->seq;
	m.collect.now_ns = now;
	m.collect.budget = v->h->par.collect_budget;
	r = v->h->ops->send(v->h->ctx, v, &m);
	if (!r)
		v->collecting = true;
	else if (r != -EAGAIN)
		v->broken_pipe = true;
}

static void collect_if_due(struct share_vm *v, uint64_t now)
{
	if (v->collecting || now < v->collect_at)
		return;
	v->collect_at = now + v->collect_gap;
	if (!v->enabled || v->broken_pipe)
		return;
	if (control_get(&v->ctl->noted_pages))
		send_collect(v, now);
	else
		v->collect_gap = v->h->par.collect_max_ns;
}

/* Reading. */

static bool may_scan(const struct share_vm *v)
{
	return v && v->todo_pages && v->enabled && !v->broken_pipe &&
	       v->out_tail - v->out_head < v->h->par.inflight * SHARE_BATCH;
}

/* The first page of todo in [from, end), or ~0. */
static uint64_t find_todo(const struct share_vm *v, uint64_t from, uint64_t end)
{
	uint64_t w = from / 64, bits;

	if (from >= end)
		return ~0ull;
	bits = v->todo[w] & ~0ull << from % 64;
	while (!bits && ++w < (end + 63) / 64)
		bits = v->todo[w];
	return bits ? w * 64 + __builtin_ctzll(bits) : ~0ull;
}

/* The next page of todo at or after the cursor, going round; ~0: none. */
static uint64_t next_todo(struct share_vm *v)
{
	uint64_t ppn = find_todo(v, v->cursor, v->max_ppn);

	return ppn != ~0ull ? ppn : find_todo(v, 0, v->max_ppn);
}

static bool ready(struct share_vm *v, uint64_t ppn)
{
	return ppn < v->max_ppn && v->todo[ppn / 64] >> ppn % 64 & 1 &&
	       !v->rec[ppn];
}

/* Pages ppn.. that are in todo and can be read together. */
static unsigned take_run(struct share_vm *v, uint64_t ppn, unsigned max)
{
	unsigned n = 0;

	while (n < max && ready(v, ppn + n))
		todo_done(v, ppn + n++);
	return n;
}

static void match_run(struct share_vm *v, uint64_t ppn, unsigned n)
{
	ssize_t got =
		pread(v->memfd, v->h->buf, n * PAGE_SIZE, ppn << PAGE_SHIFT);

	for (unsigned i = 0; i < n; i++) {
		uint64_t w = control_get(&v->changed[(ppn + i) / 64]);

		if (got < (ssize_t)((i + 1) * PAGE_SIZE))
			v->h->st.read_errors++;
		else if (w >> (ppn + i) % 64 & 1)
			v->h->st.skipped_changed++;
		else
			share_match_page(v, ppn + i, v->h->buf + i * PAGE_SIZE);
	}
}

/* One turn of a VM: at most budget pages. Returns pages used. */
static unsigned scan_turn(struct share_vm *v, unsigned budget)
{
	unsigned used = 0, tries = 0;

	while (used < budget && tries++ < 4 * CHUNK && may_scan(v)) {
		uint64_t ppn = next_todo(v);
		unsigned n;

		if (ppn == ~0ull)
			break;
		n = take_run(v, ppn, budget - used);
		if (n)
			match_run(v, ppn, n);
		v->cursor = ppn + (n ? n : 1);
		used += n;
	}
	return used;
}

/* Turns until the budget is spent or nobody can use it. */
static bool scan_all(struct share_host *h, uint32_t budget)
{
	uint32_t idle = 0;

	while (budget && h->vms && idle < h->vms) {
		struct share_vm *v = h->vm[h->turn++ % h->vms];
		unsigned n = 0;

		if (may_scan(v))
			n = scan_turn(v, budget < CHUNK ? budget : CHUNK);
		idle = n ? 0 : idle + 1;
		budget -= n;
	}
	return !budget;
}

static bool owes(const struct share_vm *v)
{
	return v->collecting || v->unanswered;
}

uint64_t share_vm_silent_ns(const struct share_vm *v, uint64_t now)
{
	return owes(v) && !v->heard && now > v->asked_at ? now - v->asked_at
							 : 0;
}

static void listen_to(struct share_vm *v, uint64_t now)
{
	if (v->heard || !owes(v))
		v->asked_at = now;
	v->heard = false;
}

static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* When is there something to do for this VM, if before next? */
static uint64_t vm_next(const struct share_vm *v, uint64_t now, uint64_t next)
{
	uint64_t aged = v->aged_at + v->h->par.settle_ns;

	if (!v->collecting && v->collect_at < next)
		next = v->collect_at;
	if (v->young_pages[0] + v->young_pages[1] && aged < next)
		next = aged;
	if (v->out_head < v->out_tail && now + 20000000 < next)
		next = now + 20000000; /* the socket was full */
	return next;
}

uint64_t share_scan_step(struct share_host *h, uint32_t budget, uint64_t now)
{
	uint64_t begin = thread_ns(), next = now + h->par.collect_max_ns;
	bool more;

	for (uint32_t i = 0; i < h->vms; i++)
		if (h->vm[i]) {
			listen_to(h->vm[i], now);
			take_news(h->vm[i]);
			age(h->vm[i], now);
		}
	more = scan_all(h, budget);
	for (uint32_t i = 0; i < h->vms; i++) {
		struct share_vm *v = h->vm[i];

		if (!v)
			continue;
		share_flush(v);
		collect_if_due(v, now);
		next = vm_next(v, now, next);
	}
	h->st.cpu_ns += thread_ns() - begin;
	return more ? now : next;
}

/* Messages. */

static void pace(struct share_vm *v, uint32_t taken, bool more)
{
	const struct share_params *p = &v->h->par;

	if (more)
		v->collect_gap = p->collect_min_ns;
	else if (taken >= 64)
		v->collect_gap = 4 * p->collect_min_ns;
	else
		v->collect_gap *= 2;
	if (v->collect_gap > p->collect_max_ns)
		v->collect_gap = p->collect_max_ns;
	v->collect_at += v->collect_gap;
}

static int on_collected_msg(struct share_vm *v, const struct share_msg *m)
{
	if (!v->collecting)
		return -EPROTO;
	v->collecting = false;
	v->collect_at -= v->collect_gap; /* counted from when it was sent */
	pace(v, m->collected.taken, m->collected.more);
	return 0;
}

static void accepted(struct share_vm *v, uint64_t ppn)
{
	uint32_t r = v->rec[ppn];

	switch (rec_kind(r)) {
	case REC_ZEROING:
		share_rec_clear(v, ppn);
		v->zero_merged++;
		v->h->st.zero_merged_pages++;
		return;
	case REC_EARLY:
		share_rec_clear(v, ppn);
		v->broken++;
		v->h->st.broken_pages++;
		break;
	default:
		v->rec[ppn] = rec_make(REC_SHARED, rec_pay(r));
		v->pending--;
		v->shared++;
	}
	v->merged++;
	v->h->st.merged_pages++;
}

static void refused(struct share_vm *v, uint64_t ppn, uint32_t reason)
{
	v->h->st.refused[reason]++;
	share_rec_clear(v, ppn);
	/* The others come back by themselves when they are written. */
	if (reason == SHARE_busy)
		share_todo_add(v, ppn);
}

static int on_answer(struct share_vm *v, const struct share_answer *a)
{
	enum rec_kind k;

	if (a->reason >= SHARE_NR_REASONS || !share_vm_is_ram(v, a->ppn) ||
	    !v->unanswered)
		return -EPROTO;
	k = rec_kind(v->rec[a->ppn]);
	if (k == REC_ZEROING) {
		if (a->frame != SHARE_FRAME_ZERO)
			return -EPROTO;
	} else if ((k != REC_PENDING && k != REC_EARLY) ||
		   rec_pay(v->rec[a->ppn]) != a->frame) {
		return -EPROTO;
	}
	v->unanswered--;
	(void)fail_point("kill-manager-answer");
	if (a->reason)
		refused(v, a->ppn, a->reason);
	else
		accepted(v, a->ppn);
	return 0;
}

/* What is not young is in use again, in todo already, or a lie. */
static void on_read(struct share_vm *v, uint64_t ppn)
{
	uint64_t bit = 1ull << ppn % 64;

	if (!share_vm_is_ram(v, ppn))
		return;
	for (unsigned i = 0; i < 2; i++) {
		if (!(v->young[i][ppn / 64] & bit))
			continue;
		v->young[i][ppn / 64] &= ~bit;
		v->young_pages[i]--;
		v->h->st.read_pages++;
		share_todo_add(v, ppn);
	}
}

int share_on_msg(struct share_vm *v, const struct share_msg *m, size_t len)
{
	int r = 0;

	if (!share_msg_ok(m, len))
		return -EPROTO;
	v->heard |= m->type != SHARE_MSG_READ;
	if (m->type == SHARE_MSG_COLLECTED)
		return on_collected_msg(v, m);
	if (m->type == SHARE_MSG_READ) {
		take_news(v);
		for (uint32_t i = 0; i < m->n; i++)
			on_read(v, m->ppns[i]);
		return 0;
	}
	if (m->type != SHARE_MSG_ANSWER)
		return -EPROTO;
	for (uint32_t i = 0; i < m->n && !r; i++)
		r = on_answer(v, &m->answers[i]);
	/* One message for each; who sends more gets more, and drowns alone. */
	if (v->in_flight)
		v->in_flight--;
	return r;
}
