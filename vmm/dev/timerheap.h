/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_TIMERHEAP_H
#define SARDINE_VMM_DEV_TIMERHEAP_H
/*
 * The armed timers, earliest first: a binary heap of pointers. A machine has
 * about eight timers, so the place for them is fixed. Not locked: its owner's
 * lock covers it. The I/O thread and the tests' clock use it.
 */
#include "vmm/dev/clock.h"

#define TIMER_HEAP_MAX 64
struct timer_heap {
	struct timer *t[TIMER_HEAP_MAX];
	uint32_t n;
};

void timer_heap_set(struct timer_heap *h, struct timer *t, uint64_t at_ns);
void timer_heap_remove(struct timer_heap *h, struct timer *t);
/* The time of the earliest; ~0: none armed. */
uint64_t timer_heap_next(const struct timer_heap *h);
/* Takes out the earliest if it is due; NULL: none is. */
struct timer *timer_heap_pop(struct timer_heap *h, uint64_t now_ns);
#endif
