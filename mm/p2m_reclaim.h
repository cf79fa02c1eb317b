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
 * since. Nothing for pages that are away. The mark goes with the first touch.
 */
void p2m_mark_idle(struct p2m *p, ppn_t ppn);
bool p2m_is_idle(const struct p2m *p, ppn_t ppn);

/*
 * Compress a PRIVATE page into the store; one that is all zero becomes ZERO.
 * EVICT_compressed, EVICT_zero, or why not (counted, and nothing has changed).
 * The page's block stays until p2m_punch() (p2m_share.h).
 */
enum evict p2m_compress(struct p2m *p, ppn_t ppn);

/* Bytes that are the VM's own: PRIVATE pages, and the store. */
uint64_t p2m_resident(const struct p2m *p);
/* Called on the owner thread, also within a touch, whenever memory of the VM's
 * own has grown and is over the control area's quota. It may only take note. */
void p2m_set_pressure(struct p2m *p, void (*fn)(void *ctx), void *ctx);
/*
 * Called when the bytes of a page are lost (a swap device that does not read,
 * a store whose sums do not agree): must not return, so that the guest never
 * sees a wrong byte. Without it the process is aborted.
 */
void p2m_set_lost(struct p2m *p, void (*fn)(void *ctx, const char *why),
		  void *ctx);
#endif
