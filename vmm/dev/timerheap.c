/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/timerheap.h"

#include "mm/base/log.h"

static void put(struct timer_heap *h, uint32_t i, struct timer *t)
{
	h->t[i] = t;
	t->heap_index = i + 1;
}

static void sift_up(struct timer_heap *h, uint32_t i)
{
	struct timer *t = h->t[i];

	while (i && h->t[(i - 1) / 2]->at_ns > t->at_ns) {
		put(h, i, h->t[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	put(h, i, t);
}

static void sift_down(struct timer_heap *h, uint32_t i)
{
	struct timer *t = h->t[i];
	uint32_t c;

	while ((c = 2 * i + 1) < h->n) {
		if (c + 1 < h->n && h->t[c + 1]->at_ns < h->t[c]->at_ns)
			c++;
		if (h->t[c]->at_ns >= t->at_ns)
			break;
		put(h, i, h->t[c]);
		i = c;
	}
	put(h, i, t);
}

void timer_heap_set(struct timer_heap *h, struct timer *t, uint64_t at_ns)
{
	if (!t->heap_index) {
		BUG_ON(h->n == TIMER_HEAP_MAX);
		put(h, h->n++, t);
	}
	t->at_ns = at_ns;
	sift_up(h, t->heap_index - 1);
	sift_down(h, t->heap_index - 1);
}

void timer_heap_remove(struct timer_heap *h, struct timer *t)
{
	uint32_t i = t->heap_index - 1;
	struct timer *last;

	if (!t->heap_index)
		return;
	ASSERT(i < h->n && h->t[i] == t);
	t->heap_index = 0;
	last = h->t[--h->n];
	if (last == t)
		return;
	put(h, i, last);
	sift_up(h, i);
	sift_down(h, last->heap_index - 1);
}

uint64_t timer_heap_next(const struct timer_heap *h)
{
	return h->n ? h->t[0]->at_ns : ~0ull;
}

struct timer *timer_heap_pop(struct timer_heap *h, uint64_t now_ns)
{
	struct timer *t;

	if (!h->n || h->t[0]->at_ns > now_ns)
		return NULL;
	t = h->t[0];
	timer_heap_remove(h, t);
	return t;
}
