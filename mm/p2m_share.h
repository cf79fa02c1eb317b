/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_P2M_SHARE_H
#define SARDINE_MM_P2M_SHARE_H
/*
 * The p2m's verbs for sharing: collect what was written, commit a page to a
 * pool frame or to zero. All on the owner thread. mm/sharing/monitor.c is the
 * caller; engines do not need this.
 *
 * Code pages are shared like others. Such a page keeps its code mark and is
 * read-only before and after; its bytes do not change, so the engine may keep
 * its translations: drop() tells only that mappings must go. A write to it
 * later is code_written() and a break, in that order.
 */
#include "mm/control.h"
#include "mm/p2m.h"

/*
 * Write-protect at most budget pages that are noted and have rested long
 * enough (a page that keeps coming back is asked for less and less often, at
 * most 128 s apart), and put them in the control area's collected map. Returns
 * how many; *more: the budget ended it.
 */
uint32_t p2m_collect(struct p2m *p, uint64_t now_ns, uint32_t budget,
		     bool *more);

/* From now on the guest does little (or no longer): a second of rest is enough
 * for any page. */
void p2m_set_quiet(struct p2m *p, bool quiet);

/* The same for one page, rested or not: a device has just filled it with what
 * many VMs may read and few will change. True: it is in the collected map now;
 * not when it is pinned, not noted, or part of a large region. */
bool p2m_collect_page(struct p2m *p, ppn_t ppn);

/*
 * Switch a page to a frame of the pool, or to zero. SHARE_ok, or why not (and
 * nothing has changed). The page's block stays until p2m_punch().
 */
enum share_reason p2m_commit_frame(struct p2m *p, ppn_t ppn, uint32_t frame);
enum share_reason p2m_commit_zero(struct p2m *p, ppn_t ppn);
/* Give back the blocks of n pages that were just committed. */
void p2m_punch(struct p2m *p, ppn_t ppn, uint64_t n);

/*
 * A new manager must know what the old one knew: write one 32-bit word a PPN
 * into the file, from its beginning: the pool frame + 1 of a SHARED page;
 * P2M_TELL_PRIVATE for one that is private and not noted, so that nobody would
 * look at it otherwise; else 0 (left out: the file is new). The released map is
 * cleared before: what is in it from now on happened after this. The caller has
 * seen to it that nothing comes from the old one any more. 0 or -errno.
 */
int p2m_tell_frames(struct p2m *p, int fd);
#define P2M_TELL_PRIVATE 0xffffffffu

/* Maximal runs of shared pages on consecutive frames (a nested mapping needs
 * about two VMAs for each), and a limit on them: 0, none. */
uint64_t p2m_runs(const struct p2m *p);
void p2m_set_max_runs(struct p2m *p, uint64_t n);
/* The control area that the p2m was created with (its own if with none). */
struct control *p2m_control(struct p2m *p);
/* The frame of a SHARED page, or MPN_NONE. */
mpn_t p2m_frame(const struct p2m *p, ppn_t ppn);
#endif
