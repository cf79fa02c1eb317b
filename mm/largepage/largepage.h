/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_LARGEPAGE_H
#define SARDINE_MM_LARGEPAGE_H
/*
 * Which regions (2 MiB) of a VM's memory the host backs with large pages.
 *
 * Work goes in rounds of three steps, so that the slow one can run beside the
 * guest: plan (owner thread) looks and picks a few regions, work (any one
 * thread) has the host collapse them, finish (owner thread) takes note. The
 * caller alternates them strictly; see vmm/large.c.
 */
#include "mm/base/stats.h"
#include "mm/p2m_large.h"

enum backing {
	BACKING_AUTO, /* what is dense and in use, where no page is shared */
	BACKING_4K,   /* nothing */
	BACKING_2M,   /* whatever is in use at all */
	BACKING_ALL,  /* everything, from the start */
	BACKING_NR
};
extern const char
	*const backing_names[BACKING_NR]; /* "auto", "4k", "2m", ... */
/* 0 or -EINVAL. */
int backing_parse(const char *name, enum backing *out);

/* Why a region is as it is. Counted at each look (regions now). */
#define LARGE_REASONS(X)                                                       \
	X(ok, "backed by one host page of 2 MiB")                              \
	X(chosen, "about to be promoted")                                      \
	X(not_ram, "part of it is not RAM")                                    \
	X(untouched, "nothing of the guest is in it yet")                      \
	X(sparse, "some of its pages have no memory of their own")             \
	X(shared, "some of its pages are shared, or not in memory")            \
	X(code, "it holds translated code, which is protected by the page")    \
	X(holes, "some of its pages were never written")                       \
	X(askew, "its guest maps it where no large page fits")                 \
	X(cold, "not seen in use often enough")                                \
	X(cooling, "sharing or reclamation has broken it up lately")           \
	X(no_memory, "the host had no free 2 MiB page")                        \
	X(busy, "the host could not take its pages off their lists")           \
	X(changed, "one of its pages left while it was promoted")              \
	X(unsupported, "the host's kernel does not do this")
enum large_reason {
#define X(n, h) LARGE_##n,
	LARGE_REASONS(X)
#undef X
		LARGE_NR_REASONS
};
extern const char *const large_reason_names[LARGE_NR_REASONS];

struct largepage_counts {
	uint64_t looks;	     /* at all regions */
	uint64_t samples;    /* pages unmapped to see whether they are in use */
	uint64_t rounds;     /* batches given to the host */
	uint64_t promoted;   /* regions */
	uint64_t work_ns;    /* time that the host took for it */
	uint64_t at_once;    /* promoted as the guest came to them */
	uint64_t once_calls; /* in so many calls of the host */
	uint64_t once_ns;    /* time that the guest waited for that */
	uint64_t now[LARGE_NR_REASONS];	   /* regions, at the last look */
	uint64_t failed[LARGE_NR_REASONS]; /* promotions that failed, ever */
};

struct largepage;
/* shared: pages of this VM may be shared with others, which comes first; be
 * patient. 0 or -ENOMEM. Not for BACKING_4K. */
int largepage_create(struct p2m *p, enum backing mode, bool shared,
		     struct largepage **out);
void largepage_destroy(struct largepage *lp);

#define LARGEPAGE_BATCH 8u
/* Owner: look at every region if that is due (now_ns: CLOCK_MONOTONIC) and pick
 * at most LARGEPAGE_BATCH of them. How many; 0: nothing to do. */
unsigned largepage_plan(struct largepage *lp, uint64_t now_ns);
void largepage_work(struct largepage *lp);
/* Owner. How many were promoted. */
unsigned largepage_finish(struct largepage *lp);
/* What the guest has just done with a region that is not large. */
enum largepage_use {
	LARGEPAGE_CLEARED, /* clears it for the first time, it seems, to map it
			      as below */
	LARGEPAGE_MAPPED,  /* has mapped it with a large page for its user */
};
/* Owner: see to the region here and now if the policy allows, and to those that
 * are likely to come next. How many were promoted. */
unsigned largepage_now(struct largepage *lp, uint64_t region,
		       enum largepage_use use, uint64_t now_ns);
/* Is a plan worth its while now, though no second has gone by? Any thread. */
bool largepage_hinted(struct largepage *lp);

const struct largepage_counts *largepage_counts(const struct largepage *lp);
enum large_reason largepage_why(const struct largepage *lp, uint64_t region);
void largepage_stat_group(struct largepage *lp, struct stat_group *g);
#endif
