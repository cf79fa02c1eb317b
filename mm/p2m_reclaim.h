/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_P2M_RECLAIM_H
#define SARDINE_MM_P2M_RECLAIM_H
/*
 * The p2m's verbs for reclaiming: mark pages as idle, give up a page's memory
 * and keep its bytes elsewhere. All on the owner thread, and only where nobody
 * holds a pointer of p2m_read or p2m_write (between two entries of the engine).
 * What brings pages back is inside the p2m: whoever touches one has it.
 */
#include "mm/control.h"
#include "mm/p2m.h"

/*
 * Take every mapping of the page away and remember that nobody has touched it
 * since. The mark goes with the first touch.
 */
void p2m_mark_idle(struct p2m *p, ppn_t ppn);
/* The same for n PRIVATE pages that are not marked, in fewer calls. */
void p2m_mark_idle_range(struct p2m *p, ppn_t ppn, uint64_t n);
bool p2m_is_idle(const struct p2m *p, ppn_t ppn);

/*
 * Compress a PRIVATE page into the store; one that is all zero becomes ZERO.
 * EVICT_compressed, EVICT_zero, or why not (counted, and nothing has changed).
 * The page's block stays until p2m_punch() (p2m_share.h).
 */
enum evict p2m_compress(struct p2m *p, ppn_t ppn);

/*
 * Send a PRIVATE or COMPRESSED page to the swap file. EVICT_swapped: its copy
 * is on the way (not counted yet), and p2m_swap_reap will let go of the page
 * if it is still the same; EVICT_zero as above; EVICT_busy: not now, because
 * enough is under way. Others: why not.
 */
enum evict p2m_swap_out(struct p2m *p, ppn_t ppn);
/* Send what waits for its batch to be full. */
void p2m_swap_flush(struct p2m *p);
/* Settle the pages whose copies have been written. */
void p2m_swap_reap(struct p2m *p);
/* Are pages on their way? */
bool p2m_swapping(const struct p2m *p);
/* Called on the swap file's own thread when p2m_swap_reap has something to do.
 */
void p2m_set_written(struct p2m *p, void (*fn)(void *ctx), void *ctx);

/*
 * Give up cold pages until p2m_resident is at most bytes, or max_pages have
 * been looked at. Returns how many pages were given up.
 */
uint64_t p2m_shrink(struct p2m *p, uint64_t bytes, uint64_t max_pages);
/* Mark at most max pages, so that p2m_shrink finds pages that have had time to
 * be used. */
void p2m_look_ahead(struct p2m *p, uint64_t max);

/*
 * Of a VM at rest (p2m_rest.c), from page *at on: mark at most max PRIVATE pages;
 * compress at most max of those that are still marked. True: that was the last
 * page, and *at is 0 again.
 */
bool p2m_rest_mark(struct p2m *p, uint64_t *at, unsigned max);
bool p2m_rest_take(struct p2m *p, uint64_t *at, unsigned max);

/*
 * Estimate what the guest uses: counts what was touched of the running sample,
 * and takes another now and then; call it every second or two. Results go to the
 * control area. rnd: a number that the guest cannot guess.
 */
void p2m_sample(struct p2m *p, uint64_t rnd);

/* Bytes that are the VM's own: PRIVATE pages, and the store. */
uint64_t p2m_resident(const struct p2m *p);
/*
 * How much that may be now; 0: no limit. It is the control area's quota less what
 * the engine's translations have grown by since the manager looked at the monitor's
 * own memory, which it does too seldom for a guest that runs new code. Never less
 * than three quarters: without a manager nobody looks, and a guest must run.
 */
uint64_t p2m_quota(const struct p2m *p);
/* Owner thread, not within a touch: translations and their books take so much. */
void p2m_set_cache(struct p2m *p, uint64_t bytes);
/* Called on the owner thread, also within a touch, whenever memory of the VM's
 * own has grown and is over its quota. It may only take note. */
void p2m_set_pressure(struct p2m *p, void (*fn)(void *ctx), void *ctx);
/* Called on the owner thread, also within a touch, when a page was away and has been
 * brought back. It may only take note. */
void p2m_set_came(struct p2m *p, void (*fn)(void *ctx), void *ctx);
/*
 * Called when the bytes of a page are lost (a swap device that does not read,
 * a store whose sums do not agree): must not return, so that the guest never
 * sees a wrong byte. Without it the process is aborted.
 */
void p2m_set_lost(struct p2m *p, void (*fn)(void *ctx, const char *why),
		  void *ctx);
#endif
