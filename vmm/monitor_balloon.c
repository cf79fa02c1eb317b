/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target is a word in the control area, so there is no message to lose:
 * it is looked at with each nudge, and every two seconds without.
 *
 * Statistics cost the guest an interrupt and a look at its counters (some
 * 100 us), so a quiet one is asked seldom.
 */
#include "vmm/monitor_balloon.h"

#include <time.h>

#include "mm/control.h"
#include "vmm/board_pci.h"
#include "vmm/dev/virtio_balloon.h"

#define ASK_NS	 1900000000ull
#define QUIET_NS 15000000000ull

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void publish(struct control *c, const struct virtio_balloon_state *s)
{
	control_set(&c->balloon_up, s->up | s->reports << 1);
	control_set(&c->balloon_actual, s->actual << PAGE_SHIFT);
	control_set(&c->balloon_oom, s->oom);
	control_set(&c->guest_free, s->free_bytes);
	control_set(&c->guest_available, s->available_bytes);
	__atomic_store_n(&c->guest_seq, s->stats_seq, __ATOMIC_RELEASE);
}

void monitor_balloon_tick(struct monitor_balloon *b, bool quiet)
{
	struct virtio_dev *d = board_pci_balloon(b->vm);
	uint64_t target = control_get(&b->control->balloon_target);
	uint64_t now = now_ns();
	struct virtio_balloon_state s;

	if (!d)
		return;
	/* A guest whose balloon moves is asked how it does. */
	if (target != b->target)
		quiet = false;
	b->target = target;
	pthread_mutex_lock(&b->vm->dev_lock);
	virtio_balloon_set_target(d, target >> PAGE_SHIFT);
	virtio_balloon_get_state(d, &s);
	if (now - b->asked_ns >= (quiet ? QUIET_NS : ASK_NS)) {
		b->asked_ns = now;
		virtio_balloon_ask_stats(d);
	}
	pthread_mutex_unlock(&b->vm->dev_lock);
	publish(b->control, &s);
}
