/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that go to the VM's swap file and come back.
 *
 * Out. A page is copied into a batch (mm/swap.c) and stays what it is, PRIVATE
 * or COMPRESSED, while the copy is written. Then, on the owner thread, its
 * bytes are compared with the copy: all 4096, whatever was touched, marked or
 * compressed anew meanwhile. If they are the same and nobody has touched the
 * page, it is switched to SWAPPED and its memory given back. Otherwise the slot
 * is free again.
 *
 * In. The page is read by the owner thread with those behind it that lie next
 * to it in guest and file (pages are given up in their order, so runs stay
 * runs). What was read ahead is marked idle: if nobody wants it, it is the
 * first to go again. A read that fails is tried again for a second; then the VM
 * is stopped, as nobody knows what the page held.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/failpoint.h"
#include "mm/p2m_priv.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"
#include "mm/swap.h"
#include "mm/zero.h"

#define TRIES  50
#define TRY_NS 20000000

static size_t out_bytes(const struct p2m *p)
{
	return (p->max_ppn + 63) / 64 * 8;
}

static void on_written(void *ctx)
{
	struct p2m *p = ctx;

	if (p->written)
		p->written(p->written_ctx);
}

int p2m_swap_init(struct p2m *p, int fd)
{
	p->out = mmap(NULL, out_bytes(p), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->out == MAP_FAILED) {
		p->out = NULL;
		return -ENOMEM;
	}
	return swap_create(fd, on_written, p, &p->swap);
}

void p2m_swap_fini(struct p2m *p)
{
	swap_destroy(p->swap);
	if (p->out)
		munmap(p->out, out_bytes(p));
}

void p2m_set_written(struct p2m *p, void (*fn)(void *ctx), void *ctx)
{
	p->written_ctx = ctx;
	p->written = fn;
}

bool p2m_swapping(const struct p2m *p)
{
	return p->swap && swap_under_way(p->swap);
}

void p2m_swap_flush(struct p2m *p)
{
	if (p->swap)
		swap_flush(p->swap);
}

bool p2m_swap_holds(const struct p2m *p, uint32_t slot, ppn_t ppn)
{
	return p->swap && swap_ppn(p->swap, slot) == ppn.n;
}

void p2m_swap_free(struct p2m *p, uint32_t slot)
{
	swap_free(p->swap, slot);
}

int p2m_swap_audit(struct p2m *p, uint64_t kept)
{
	return p->swap ? swap_audit(p->swap, kept) : 0;
}

/* Out. */

/* The page's bytes, without a touch, into p->page: 0 or -errno. */
static int peek(struct p2m *p, ppn_t ppn)
{
	if (ent_state(p->ent[ppn.n]) == P2M_COMPRESSED)
		return p2m_unpack(p, ppn);
	if (pread(p->memfd, p->page, PAGE_SIZE, ppn.n << PAGE_SHIFT) !=
	    (ssize_t)PAGE_SIZE)
		return -ENOMEM;
	return 0;
}

/* What a page takes where it is; a compressed one, on the average. */
static uint64_t weight(const struct p2m *p, ppn_t ppn)
{
	uint64_t n = p->count[P2M_COMPRESSED];

	if (ent_state(p->ent[ppn.n]) != P2M_COMPRESSED || !n)
		return PAGE_SIZE;
	return control_get(&p->ctl->store_bytes) / n;
}

static enum evict refuse(struct p2m *p, int r)
{
	if (r == -EAGAIN)
		return EVICT_busy; /* no news */
	return p2m_count_evict(p, r == -ENOSPC ? EVICT_swap_full
					       : EVICT_swap_error);
}

enum evict p2m_swap_out(struct p2m *p, ppn_t ppn)
{
	enum p2m_state s = p2m_get_state(p, ppn);
	int r;

	if (s != P2M_PRIVATE && s != P2M_COMPRESSED)
		return p2m_count_evict(p, EVICT_not_private);
	if (!p->swap)
		return p2m_count_evict(p, EVICT_swap_full);
	if (p2m_pinned(p, ppn))
		return p2m_count_evict(p, EVICT_pinned);
	if (bit_test(p->out, ppn.n))
		return EVICT_busy;
	p2m_mark_idle(p, ppn);
	if (s == P2M_PRIVATE && p2m_is_hole(p, ppn)) {
		p2m_give_up(p, ppn, P2M_ZERO, 0);
		return p2m_count_evict(p, EVICT_zero);
	}
	if (peek(p, ppn))
		return p2m_count_evict(p, EVICT_no_memory);
	if (s == P2M_PRIVATE && zero_page(p->page)) {
		p2m_give_up(p, ppn, P2M_ZERO, 1);
		return p2m_count_evict(p, EVICT_zero);
	}
	r = swap_write(p->swap, ppn.n, p->page);
	if (r)
		return refuse(p, r);
	p->out[ppn.n / 64] |= 1ull << ppn.n % 64;
	p->out_bytes += weight(p, ppn);
	return EVICT_swapped;
}

static bool same(struct p2m *p, ppn_t ppn, const void *copy)
{
	enum p2m_state s = ent_state(p->ent[ppn.n]);

	return (s == P2M_PRIVATE || s == P2M_COMPRESSED) &&
	       !p2m_pinned(p, ppn) && bit_test(p->idle, ppn.n) &&
	       !peek(p, ppn) && !memcmp(p->page, copy, PAGE_SIZE);
}

/* One copy has been written, or not. True: the page is in the slot now. */
static bool settle(void *ctx, uint32_t n, uint32_t slot, const void *copy,
		   int err)
{
	struct p2m *p = ctx;
	ppn_t ppn = {n};
	uint32_t old;

	p->out[n / 64] &= ~(1ull << n % 64);
	if (err || !same(p, ppn, copy)) {
		p2m_count_evict(p, err ? EVICT_swap_error : EVICT_changed);
		return false;
	}
	(void)fail_point("kill-monitor-swapped");
	old = p->ent[n];
	p2m_call_drop(p, ppn); /* idle: there is none; but never trust that */
	p2m_give_up(p, ppn, P2M_SWAPPED, slot);
	if (ent_state(old) == P2M_COMPRESSED)
		p2m_store_free(p, ent_payload(old));
	else
		p2m_punch(p, ppn, 1);
	p2m_count_evict(p, EVICT_swapped);
	return true;
}

void p2m_swap_reap(struct p2m *p)
{
	uint64_t before;

	if (!p2m_swapping(p))
		return;
	before = swap_under_way(p->swap);
	swap_reap(p->swap, settle, p);
	p->out_bytes = p->out_bytes * swap_under_way(p->swap) / before;
}

/* In. */

/* Pages from ppn on that are in slots next to each other. */
static unsigned run_of(const struct p2m *p, ppn_t ppn, uint32_t slot)
{
	uint64_t quota = p2m_quota(p);
	unsigned n = 1;

	/* No page that nobody asked for while others have to go. */
	if (quota && p2m_resident(p) + SWAP_AHEAD * PAGE_SIZE > quota)
		return 1;
	while (n < SWAP_AHEAD && p2m_is_ram(p, (ppn_t){ppn.n + n}) &&
	       p->ent[ppn.n + n] >> ENT_PAY_SHIFT == slot + n &&
	       ent_state(p->ent[ppn.n + n]) == P2M_SWAPPED)
		n++;
	return n;
}

/* n pages behind p->page; how many there really are. */
static unsigned read_in(struct p2m *p, ppn_t ppn, uint32_t slot, unsigned n)
{
	const struct timespec pause = {0, TRY_NS};
	uint8_t *buf = p->page + 2 * PAGE_SIZE;
	int r;

	for (unsigned i = 0; (r = swap_read(p->swap, slot, n, buf)); i++) {
		control_add(&p->ctl->swap_read_errors, 1);
		if (i == TRIES)
			p2m_lost(p, ppn, "the swap file cannot be read", -r);
		if (n > 1) { /* perhaps it is a neighbour */
			n = 1;
			continue;
		}
		nanosleep(&pause, NULL);
	}
	return n;
}

void p2m_swap_in(struct p2m *p, ppn_t ppn)
{
	uint32_t slot = ent_payload(p->ent[ppn.n]);
	const uint8_t *buf = p->page + 2 * PAGE_SIZE;
	uint64_t begin = p2m_now_ns();
	unsigned n = read_in(p, ppn, slot, run_of(p, ppn, slot));

	for (unsigned i = 0; i < n; i++) {
		ppn_t q = {ppn.n + i};
		uint32_t code = p->ent[q.n] & ENT_CODE;

		p2m_put_back(p, q, buf + i * PAGE_SIZE);
		(void)fail_point("kill-monitor-swap-in");
		swap_free(p->swap, slot + i);
		p2m_set_ent(p, q,
			    ent_make(P2M_PRIVATE, code, PRIV_BACK(p->tick)));
		p2m_came_back(p, q);
		if (i)
			p->idle[q.n / 64] |= 1ull << q.n % 64;
	}
	control_add(&p->ctl->swapped_in, n);
	control_add(&p->ctl->swap_ahead, n - 1);
	p2m_count_latency(p, LATENCY_SWAP_IN, begin);
}
