/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_P2M_LARGE_H
#define SARDINE_MM_P2M_LARGE_H
/*
 * The p2m's verbs for large pages: what a region (2 MiB of guest memory, 512
 * pages, aligned) consists of, and how it comes to lie on one host page of
 * 2 MiB. Who is promoted, and when, is mm/largepage's affair.
 *
 * A region is "large" while all its pages are PRIVATE and the host has put its
 * blocks on one large page. It stops being so when a page leaves: sharing and
 * reclamation never ask. The host may split a large page for reasons of its
 * own; then this is only an optimistic statistic. Nothing else depends on it.
 *
 * On the owner thread, but for p2m_region_collapse.
 */
#include "mm/p2m.h"

#define P2M_REGION_PAGES 512ul

/* Regions 0..n-1; page P is in region P / 512. */
uint64_t p2m_regions(const struct p2m *p);

struct p2m_region_info {
	bool ram;      /* all of it is RAM */
	bool large;    /* on one host page */
	bool touched;  /* an engine mapped a page since this was last asked */
	bool hinted;   /* p2m_region_hint since last asked */
	bool filled;   /* its last page became PRIVATE since last asked */
	bool askew;    /* touched, but p2m_region_place was only ever told so */
	uint16_t priv; /* pages PRIVATE */
	uint16_t away; /* pages neither PRIVATE nor ZERO */
	uint16_t code; /* pages marked code */
};
void p2m_region_look(const struct p2m *p, uint64_t region,
		     struct p2m_region_info *i);
/* Takes touched, hinted, filled and askew: they are clear afterwards. */
void p2m_region_take(struct p2m *p, uint64_t region, struct p2m_region_info *i);
/* Is the page in a large region? */
bool p2m_is_large(const struct p2m *p, ppn_t ppn);
/* Does the page's region hold code (so that not all can be writable)? */
bool p2m_region_has_code(const struct p2m *p, ppn_t ppn);
/* An engine is about to map the page; askew: where the region could not be mapped
 * as one, as the guest's address and the page's do not agree modulo 2 MiB. */
void p2m_region_place(struct p2m *p, ppn_t ppn, bool askew);
/* The guest itself maps the page's region with a large page for its user. */
void p2m_region_hint(struct p2m *p, ppn_t ppn);
/* Was there a hint for any region since p2m_clear_hints? Any thread. */
bool p2m_hints(const struct p2m *p);
/* Was any region filled? */
bool p2m_fills(const struct p2m *p);
/* Of both. */
void p2m_clear_hints(struct p2m *p);
/* Is every page of the region there in the file? One system call. */
bool p2m_region_populated(const struct p2m *p, uint64_t region);
uint64_t p2m_large_regions(const struct p2m *p);
/* May the VM have this much more and still be well within its quota? */
bool p2m_has_room(const struct p2m *p, uint64_t bytes);

/*
 * Promotion in three steps. prepare makes ZERO pages PRIVATE (they get blocks
 * now); collapse asks the host for large pages under n regions, which takes it
 * some milliseconds and may be done by another thread meanwhile (0 or -errno;
 * only the regions before the one that failed have been changed, and
 * p2m_region_finish must be called for all of them); finish takes note if the
 * region is still private throughout (true), or gives back the blocks that its
 * other pages should not have.
 */
void p2m_region_prepare(struct p2m *p, uint64_t region);
int p2m_region_collapse(const struct p2m *p, uint64_t region, uint64_t n);
bool p2m_region_finish(struct p2m *p, uint64_t region, bool collapsed);
/* Make the mappings of one page go, so that its next use is seen (touched). */
void p2m_region_sample(struct p2m *p, ppn_t ppn);

/*
 * May an engine map the page's whole region as one? 0: no. 1: for reading.
 * 3: for reading and writing, after p2m_make_writable() of all of it if
 * *prepare says so. The bytes are the memfd's, at the natural offset.
 */
unsigned p2m_region_access(struct p2m *p, ppn_t ppn, bool *prepare);
#endif
