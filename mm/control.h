/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_CONTROL_H
#define SARDINE_MM_CONTROL_H
/*
 * The control area: a memfd shared by the manager and one monitor.
 *
 * It holds what one side wants to know of the other without asking: counters,
 * a state word, the monitor's statistics (control_stats.h), and three bitmaps of
 * one bit a PPN that carry the scanner's news. Nothing in it moves guest memory: proposals and replies are messages
 * (mm/sharing/share.h).
 *
 * Trust: the manager treats every byte as the word of a possibly hostile
 * monitor. It takes sizes from its own configuration, never from here, reads
 * each word once, bounds what it shows, and uses bits only as hints. What a
 * lying monitor can get by lying is a wrong statistic and a loss of its own
 * guest's memory; see mm/sharing/share.h.
 *
 * Writers: each field says who writes it. Words are 64 bits, written and read
 * with relaxed atomics (control_get, control_set); bitmaps are changed with
 * atomic or / exchange.
 *
 * The bitmaps:
 *   changed    monitor: the page "may be written since last collected"; the
 *              manager only looks, to leave pages in use alone
 *   collected  monitor sets: changed, and now write-protected and worth a look;
 *              manager takes (exchanges with 0)
 *   released   monitor sets: the page no longer uses the pool frame that it
 *              had; manager takes, and gives the reference back
 */
#include "mm/types.h"

#define CONTROL_MAGIC	0x314c5443454e4453ull /* "SDNECTL1" */
#define CONTROL_VERSION 5u

enum control_state {
	CONTROL_NEW,	  /* made by the manager; no monitor has come yet */
	CONTROL_STARTING, /* monitor: loading the kernel */
	CONTROL_RUNNING,
	CONTROL_POWEROFF, /* the guest switched itself off */
	CONTROL_RESET,
	CONTROL_ERROR, /* the engine stopped it */
	CONTROL_NR_STATES
};
extern const char *const control_state_names[CONTROL_NR_STATES];

/* Why a proposal was not committed. Counted by the monitor, named in JSON. */
#define SHARE_REASONS(X)                                                       \
	X(ok, "committed")                                                     \
	X(not_ram, "the PPN is not RAM of this VM")                            \
	X(not_private, "the page is in another state by now")                  \
	X(changed, "written since it was collected")                           \
	X(differs, "the bytes are not those of the frame")                     \
	X(bad_frame, "no such frame in the pool")                              \
	X(no_pool, "the VM has no pool")                                       \
	X(busy, "the monitor is stopping or could not take it now")            \
	X(runs, "it would break the mapping into too many runs (VMAs)")
enum share_reason {
#define X(n, h) SHARE_##n,
	SHARE_REASONS(X)
#undef X
		SHARE_NR_REASONS
};
extern const char *const share_reason_names[SHARE_NR_REASONS];
extern const char *const share_reason_help[SHARE_NR_REASONS];

/*
 * What became of a page that the reclaimer looked at. Counted by the monitor,
 * named in JSON.
 */
#define EVICT_REASONS(X)                                                       \
	X(compressed, "now in the compressed store")                           \
	X(zero, "found all zero, or nothing behind it: now a zero page")       \
	X(swapped, "now in the swap file")                                     \
	X(not_private, "has no memory of its own to give back")                \
	X(pinned, "a device is at work on it")                                 \
	X(incompressible, "would be longer than three quarters of a page")     \
	X(no_store, "the VM has no compressed store, or it is full")           \
	X(no_memory, "the host had no memory for the compressed copy")         \
	X(changed, "written or touched while its copy was on the way out")     \
	X(busy, "enough pages are on their way to the swap file")              \
	X(swap_full, "the swap file is full")                                  \
	X(swap_error, "the swap file could not be written")
enum evict {
#define X(n, h) EVICT_##n,
	EVICT_REASONS(X)
#undef X
		EVICT_NR
};
extern const char *const evict_names[EVICT_NR];
extern const char *const evict_help[EVICT_NR];

/* How long a touch of a page that was away had to wait, by powers of two. */
enum { LATENCY_DECOMPRESS, LATENCY_SWAP_IN, LATENCY_KINDS };
#define LATENCY_BUCKETS 24u /* bucket b: below 2^b us, the last one: more */

struct control {
	/* Manager, before the monitor starts. */
	uint64_t magic;
	uint64_t version;
	uint64_t size;	  /* of the whole area, bytes */
	uint64_t max_ppn; /* bits in each bitmap */
	uint64_t changed_off, collected_off, released_off; /* bytes */
	uint64_t stats_off;
	char name[64];	      /* of the VM, NUL-terminated */
	uint64_t layout_seed; /* of the VM's share group; 0: none of its own
				 (vmm/vm.h) */

	/* Monitor: what it is doing. */
	uint64_t state; /* enum control_state */
	uint64_t pid;
	uint64_t boot_ms;	 /* creation to userland, 0: not yet */
	uint64_t overhead_bytes; /* monitor's own memory, translation cache
				    included */
	uint64_t cache_bytes;	 /* of that: translations and their books, as
				    the engine counts them */
	uint64_t guest_insns;	 /* if the engine counts */
	uint64_t exit_code;

	/* Monitor (p2m): pages now. */
	uint64_t private_pages;	    /* state PRIVATE, holes included */
	uint64_t shared_pages;	    /* state SHARED */
	uint64_t zero_pages;	    /* state ZERO, untouched ones included */
	uint64_t zero_merged_pages; /* of those: had a block once, found zero */
	uint64_t noted_pages;	    /* bits set in changed */
	uint64_t shared_runs;	    /* maximal runs of shared pages whose frames
				    follow one another */
	uint64_t large_regions;	    /* 2 MiB of guest memory on one host page */
	/* Monitor (p2m): events ever. */
	uint64_t large_promoted; /* regions that became so */
	uint64_t large_demoted;	 /* and that a page left, to be shared say */
	uint64_t merged;	 /* pages committed to a pool frame */
	uint64_t zero_merged;	 /* pages committed to zero */
	uint64_t broken;	 /* shared pages copied back on a write */
	uint64_t zero_broken;	 /* zero pages written (untouched included) */
	uint64_t protected_;	 /* pages collected */
	uint64_t collect_rounds;
	uint64_t released_seq;	/* counts bits ever set in released */
	uint64_t collected_seq; /* counts bits ever set in collected */
	uint64_t punch_failed;	/* holes that the kernel would not punch */
	uint64_t refused[16];	/* by enum share_reason */

	/* Monitor (p2m): what is not in memory as it is. */
	uint64_t ballooned_pages;  /* given back by the guest's balloon */
	uint64_t compressed_pages; /* state COMPRESSED */
	uint64_t swapped_pages;	   /* state SWAPPED */
	uint64_t store_bytes;	   /* memory of the compressed store */
	uint64_t store_payload;	   /* bytes of the objects in it */
	uint64_t store_limit;  /* what it may take, if there is a swap file */
	uint64_t decompressed; /* pages brought back from it, ever */
	uint64_t swapped_in;   /* pages brought back from swap, ever */
	uint64_t swap_ahead;   /* of both, brought back ahead of their touch */
	uint64_t swap_read_errors; /* reads that had to be tried again */
	uint64_t discarded;	   /* pages given back by the guest, ever */
	uint64_t evict[16];	   /* by enum evict, ever */
	uint64_t latency[LATENCY_KINDS][LATENCY_BUCKETS];
	uint64_t latency_ns[LATENCY_KINDS]; /* their sum */

	uint64_t active_bytes;	/* estimate of what the guest uses */
	uint64_t sampled_pages; /* pages in samples, ever */
	uint64_t touched_pages; /* of those, touched in their period */
	uint64_t marked_pages;	/* unmapped to see if they are used, ever */
	uint64_t forced_pages;	/* given up although in use, ever */
	uint64_t shrinks;	/* times that the VM was over its quota */
	uint64_t waiting; /* 1: over its quota, can give nothing up, and does
			     not run */
	uint64_t wait_ns; /* it has not run for that, ever */

	/* Monitor: the guest's balloon driver and what it says (mm/balloon.h).
	 */
	uint64_t balloon_up;	  /* bit 0: there is one; 1: reports free pages
				   */
	uint64_t balloon_actual;  /* bytes */
	uint64_t balloon_oom;	  /* times it let go unasked, ever */
	uint64_t guest_seq;	  /* counts what follows */
	uint64_t guest_free;	  /* bytes; ~0: unknown */
	uint64_t guest_available; /* bytes, without swapping; ~0: unknown */

	/* Manager, any time: bytes that the VM may have in its memfd and its
	 * store; 0: no limit. */
	uint64_t quota_bytes;
	/* Manager, any time: how much of cache_bytes was known when that was
	 * worked out. What it has grown by since is the quota's (p2m_quota). */
	uint64_t cache_seen;
	uint64_t paused; /* 1: the guest shall not run */
	/* Manager, any time: bytes that its balloon should have. */
	uint64_t balloon_target;
	/* Manager, any time: 1: when it is at rest, its pages may be compressed
	 * though memory is not short (vmm/monitor_rest.c). */
	uint64_t may_rest;

	/* Room for the cli engineer's own words, both directions. */
	uint64_t user[64];
};

/* Bytes for a VM of ram_bytes whose low part ends at low_limit (0: 3 GiB). */
size_t control_bytes(uint64_t ram_bytes, uint64_t low_limit);
/* Write the header into zeroed memory of that size. */
void control_init(struct control *c, uint64_t ram_bytes, uint64_t low_limit,
		  const char *name);
/* Manager: a sealed memfd of that size, header written, mapped. The fd (in
 * *fd) goes to the monitor. 0 or -errno. */
int control_create(uint64_t ram_bytes, uint64_t low_limit, const char *name,
		   int *fd, struct control **out);
/* Monitor: map the manager's memfd. -EPROTO when the header is not ours or
 * does not fit. */
int control_map(int fd, struct control **out, size_t *bytes);
void control_unmap(struct control *c, size_t bytes);
/* Where the three maps begin (changed, collected, released), for whoever must
 * not believe the header. */
void control_offsets(uint64_t ram_bytes, uint64_t low_limit, uint64_t off[3]);
/* Where the statistics are: behind the maps. */
uint64_t control_stats_offset(uint64_t ram_bytes, uint64_t low_limit);
/* One past the last PPN of a VM of this size. */
uint64_t control_max_ppn(uint64_t ram_bytes, uint64_t low_limit);

static inline uint64_t control_get(const uint64_t *w)
{
	return __atomic_load_n(w, __ATOMIC_RELAXED);
}
static inline void control_set(uint64_t *w, uint64_t v)
{
	__atomic_store_n(w, v, __ATOMIC_RELAXED);
}
/* Only one thread writes each counter, so a plain add is enough. */
static inline void control_add(uint64_t *w, uint64_t v)
{
	__atomic_store_n(w, *w + v, __ATOMIC_RELAXED);
}
static inline uint64_t *control_changed(struct control *c)
{
	return (uint64_t *)((char *)c + c->changed_off);
}
static inline uint64_t *control_collected(struct control *c)
{
	return (uint64_t *)((char *)c + c->collected_off);
}
static inline uint64_t *control_released(struct control *c)
{
	return (uint64_t *)((char *)c + c->released_off);
}
#endif
