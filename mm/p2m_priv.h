/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_P2M_PRIV_H
#define SARDINE_MM_P2M_PRIV_H
/*
 * Inside the p2m, for mm/p2m*.c alone.
 *
 * One 32-bit entry a PPN:
 *
 *   31                 5   4     3    2..0
 *   [ payload, 27 bits ][noted][code][state ^ P2M_ZERO]
 *
 * The xor makes an entry of 0 an untouched ZERO page, so that the table of a
 * new VM is an untouched mapping. Payload by state: SHARED: the pool frame;
 * ZERO: 1 if the page had a block once (merged to zero); PRIVATE: when it was
 * noted (16 bits of ticks) and how often it has come back (heat); COMPRESSED:
 * the handle in the store.
 */
#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_large.h"

#define ENT_STATE_MASK 7u
#define ENT_CODE       8u
#define ENT_NOTED      16u
#define ENT_PAY_SHIFT  5
#define ENT_PAY_MAX    ((1u << 27) - 1)

#define HIGH_PPN       (4ull << (30 - PAGE_SHIFT))

struct store;
struct swap;
/* What p2m_large.c keeps of each 2 MiB of guest memory. */
struct p2m_region {
	uint16_t priv, away; /* pages PRIVATE; neither PRIVATE nor ZERO */
	uint16_t code;	     /* pages marked code */
	uint8_t large;	     /* one host page of 2 MiB, as far as we know */
	uint8_t was_large;   /* its blocks may still be parts of one */
	uint8_t touched, hinted;
	uint8_t filled; /* its last page has become PRIVATE */
	uint8_t askew;	/* all touches were where 2 MiB do not fit */
};

struct p2m {
	/* What the fast paths use. */
	uint8_t *base; /* the memfd, natural offsets */
	uint32_t *ent;
	uint64_t low_pages, high_pages, max_ppn;
	const uint8_t *pool; /* read-only, or NULL */
	uint64_t pool_frames;
	uint64_t gen;
	const struct p2m_listener_ops *ops;
	void *ctx;

	struct control *ctl;
	uint64_t *changed, *collected, *released;
	uint64_t count[P2M_NR_STATES];
	uint64_t runs, max_runs;
	struct p2m_region *region;
	uint64_t n_large;    /* regions with large set */
	bool hints;	     /* some region has hinted set */
	bool fills;	     /* some region has filled set */
	uint64_t collect_at; /* where the next collect begins */
	uint16_t tick;	     /* of the last collect: its clock, coarse */
	bool quiet;	     /* the guest does little */

	int memfd, pool_fd, zero_fd;
	uint64_t ram_bytes;
	size_t ent_bytes, region_bytes, own_ctl_bytes, pool_bytes;

	/* p2m_reclaim.c */
	uint64_t *idle;	 /* unmapped, and nobody has touched it since */
	uint64_t *fresh; /* compressed, and the clock has not been there */
	uint16_t *pins;	 /* by PPN */
	uint8_t *use;	 /* by PPN: how often in turn the clock found it used */
	struct store *store;
	struct swap *swap;
	uint64_t *out;	    /* pages on their way to the swap file */
	uint64_t out_bytes; /* memory that they will leave */
	void (*written)(void *ctx);
	void *written_ctx;
	struct p2m_clock *clock; /* p2m_clock.c */
	void *lz;		 /* state of the compressor */
	uint8_t *page;		 /* a page, its packed form, pages read ahead */
	void (*lost)(void *ctx, const char *why);
	void *lost_ctx;
	void (*pressure)(void *ctx);
	void *pressure_ctx;
	void (*came)(void *ctx);
	void *came_ctx;
};

static inline bool p2m_is_ram(const struct p2m *p, ppn_t ppn)
{
	return ppn.n < p->low_pages || ppn.n - HIGH_PPN < p->high_pages;
}
static inline enum p2m_state ent_state(uint32_t e)
{
	return (e & ENT_STATE_MASK) ^ P2M_ZERO;
}
static inline uint32_t ent_payload(uint32_t e)
{
	return e >> ENT_PAY_SHIFT;
}
static inline uint32_t ent_make(enum p2m_state s, uint32_t flags, uint32_t pay)
{
	return (s ^ P2M_ZERO) | flags | pay << ENT_PAY_SHIFT;
}
static inline bool bit_test(const uint64_t *map, uint64_t n)
{
	return __atomic_load_n(&map[n / 64], __ATOMIC_RELAXED) >> (n % 64) & 1;
}
static inline void bit_set(uint64_t *map, uint64_t n)
{
	__atomic_fetch_or(&map[n / 64], 1ull << (n % 64), __ATOMIC_RELEASE);
}
static inline void bit_clear(uint64_t *map, uint64_t n)
{
	__atomic_fetch_and(&map[n / 64], ~(1ull << (n % 64)), __ATOMIC_RELEASE);
}

/* p2m_reclaim.c: the parts of a p2m that it owns. */
int p2m_reclaim_init(struct p2m *p, const struct p2m_config *cfg);
void p2m_reclaim_fini(struct p2m *p);
/* The page is BALLOONED, COMPRESSED or SWAPPED: make it ZERO or PRIVATE. Does
 * not return when its bytes cannot be had (p2m_set_lost). */
void p2m_bring_in(struct p2m *p, ppn_t ppn);
/* The page is PRIVATE and noted: no longer noted. */
void p2m_unnote(struct p2m *p, ppn_t ppn);
bool p2m_is_hole(const struct p2m *p, ppn_t ppn);
/* The page leaves its pool frame, whose number may be reused from now on. */
void p2m_release_frame(struct p2m *p, ppn_t ppn);
/* Memory of the VM's own has grown. */
void p2m_grown(struct p2m *p);

/* Out of the store into p->page: 0 or -errno. */
int p2m_unpack(struct p2m *p, ppn_t ppn);
/* Write the page to its place; does not return when the host has no memory. */
void p2m_put_back(struct p2m *p, ppn_t ppn, const void *page);
/* Switch a page whose bytes are safe elsewhere. */
void p2m_give_up(struct p2m *p, ppn_t ppn, enum p2m_state s, uint32_t pay);
/* Its object in the store is not needed any more. */
void p2m_store_free(struct p2m *p, uint32_t handle);
void p2m_count_latency(struct p2m *p, unsigned kind, uint64_t begin);
uint64_t p2m_now_ns(void);
enum evict p2m_count_evict(struct p2m *p, enum evict why);
_Noreturn void p2m_lost(struct p2m *p, ppn_t ppn, const char *what, int err);
/* The page is back, and was not asked for by a write: sharing may look at it. */
void p2m_came_back(struct p2m *p, ppn_t ppn);

/* p2m_swap.c */
int p2m_swap_init(struct p2m *p, int fd);
void p2m_swap_fini(struct p2m *p);
void p2m_swap_in(struct p2m *p, ppn_t ppn);
int p2m_swap_audit(struct p2m *p, uint64_t kept);
bool p2m_swap_holds(const struct p2m *p, uint32_t slot, ppn_t ppn);
void p2m_swap_free(struct p2m *p, uint32_t slot);

/* p2m_clock.c */
int p2m_clock_init(struct p2m *p);
void p2m_clock_fini(struct p2m *p);
/* A page that was asked for is back, after so long (LATENCY_*). */
void p2m_clock_in(struct p2m *p, unsigned kind, uint64_t ns);

/* Somebody wants the page: it is no longer idle, and it is here. */
static inline void p2m_touch(struct p2m *p, ppn_t ppn)
{
	if (unlikely(bit_test(p->idle, ppn.n)))
		p->idle[ppn.n / 64] &= ~(1ull << ppn.n % 64);
	if (unlikely(ent_state(p->ent[ppn.n]) >= P2M_BALLOONED))
		p2m_bring_in(p, ppn);
}
/* Marked pages that a run may go over from a page whose neighbour is in use. */
#define P2M_AROUND 3u
static inline unsigned p2m_around(const struct p2m *p, ppn_t ppn)
{
	if (!ppn.n || ent_state(p->ent[ppn.n - 1]) != P2M_PRIVATE ||
	    bit_test(p->idle, ppn.n - 1))
		return 0;
	return P2M_AROUND;
}
/* May the run go on over page n? */
static inline bool p2m_run_on(struct p2m *p, uint64_t n, unsigned *around)
{
	if (likely(!bit_test(p->idle, n)))
		return true;
	if (!*around)
		return false;
	--*around;
	p->idle[n / 64] &= ~(1ull << n % 64);
	return true;
}
static inline bool p2m_pinned(const struct p2m *p, ppn_t ppn)
{
	return __atomic_load_n(&p->pins[ppn.n], __ATOMIC_ACQUIRE) != 0;
}

/* Change an entry with all its accounting (states, runs, merged zeroes). */
void p2m_set_ent(struct p2m *p, ppn_t ppn, uint32_t e);
/* PRIVATE payload. */
#define PRIV_PAY(tick, heat) ((uint32_t)(uint16_t)(tick) | (heat) << 16)
#define PRIV_TICK(pay)	     ((uint16_t)(pay))
#define PRIV_HEAT(pay)	     ((pay) >> 16 & 0xff)
/* A page that was away: its guest uses it, so it rests for 32 s (p2m_share.c). */
#define PRIV_BACK(tick)	     PRIV_PAY(tick, 5u)
/* The page did not compress; until it is written again it will not. */
#define PRIV_STIFF	     (1u << 26)

static inline void p2m_call_drop(struct p2m *p, ppn_t ppn)
{
	if (p->ops && p->ops->drop)
		p->ops->drop(p->ctx, ppn);
}
/* As p2m_call_drop and _protect, for n pages; a listener may lack the range
 * form. */
static inline void p2m_call_drop_range(struct p2m *p, ppn_t ppn, uint64_t n)
{
	if (p->ops && p->ops->drop_range)
		p->ops->drop_range(p->ctx, ppn, n);
	else if (p->ops && p->ops->drop)
		for (uint64_t i = 0; i < n; i++)
			p->ops->drop(p->ctx, (ppn_t){ppn.n + i});
}
static inline void p2m_call_protect_range(struct p2m *p, ppn_t ppn, uint64_t n)
{
	if (p->ops && p->ops->protect_range)
		p->ops->protect_range(p->ctx, ppn, n);
	else if (p->ops && p->ops->protect)
		for (uint64_t i = 0; i < n; i++)
			p->ops->protect(p->ctx, (ppn_t){ppn.n + i});
}
static inline struct p2m_region *p2m_region_of(const struct p2m *p, ppn_t ppn)
{
	return &p->region[ppn.n / P2M_REGION_PAGES];
}
/* p2m_large.c's books: an entry of a RAM page changes. */
void p2m_region_change(struct p2m *p, ppn_t ppn, uint32_t old, uint32_t e);
int p2m_region_init(struct p2m *p);
/* Make one ZERO page PRIVATE (not noted). */
void p2m_zero_to_private(struct p2m *p, ppn_t ppn);

static inline void p2m_call_protect(struct p2m *p, ppn_t ppn)
{
	if (p->ops && p->ops->protect)
		p->ops->protect(p->ctx, ppn);
}
#endif
