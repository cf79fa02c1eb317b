/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_P2M_H
#define SARDINE_MM_P2M_H
/*
 * The p2m: what each guest-physical page (PPN) is, and where its bytes are.
 *
 * Every PPN is in exactly one named state. Engines read the p2m and listen to
 * its changes; no engine caches a mapping that it cannot be told to drop.
 *
 * Who may call: the p2m belongs to the VM's vCPU thread ("owner"). Other
 * threads of the monitor ask for changes with vm_post() (vmm/vm.h). The
 * statistics and the shared control page may be read by anyone.
 *
 * RAM layout: [0, low) and [4 GiB, 4 GiB + high), low <= 3 GiB. Page P of the
 * guest lives at file offset P * 4096 of the VM's memfd (natural offset), so
 * the file has a hole at [low, 4 GiB).
 */
#include "mm/types.h"

enum p2m_state {
	P2M_NONE,    /* not RAM */
	P2M_PRIVATE, /* in the VM's memfd at the natural offset (maybe still
			   a hole there, which reads as zeroes) */
	P2M_ZERO,    /* never written, or found all zero: the group's zero
			   frame; nothing of the VM's own behind it */
	P2M_SHARED,  /* a read-only frame of the share group's pool */
	/* What follows has no memory at its place. Whoever asks for such a
	 * page through this interface finds it brought back first. */
	P2M_BALLOONED,	/* given back by the guest: comes back as ZERO */
	P2M_COMPRESSED, /* in the VM's compressed store (mm/store.h) */
	P2M_SWAPPED,	/* in the VM's swap file */
	P2M_NR_STATES
};
extern const char *const p2m_state_names[P2M_NR_STATES];

/* Who must hear of changes: an engine. All calls come on the owner thread. */
struct p2m_listener_ops {
	/* The page's frame is about to change: every mapping of it must be
	 * gone when this returns. */
	void (*drop)(void *ctx, ppn_t ppn);
	/* Every mapping of the page must be read-only when this returns. */
	void (*protect)(void *ctx, ppn_t ppn);
	/* A page marked by p2m_set_code() is about to be written by the
	 * monitor (device, interpreter) at [off, off+len). */
	void (*code_written)(void *ctx, ppn_t ppn, unsigned off, unsigned len);
	/* drop and protect for pages ppn..ppn+n-1; may be NULL. */
	void (*drop_range)(void *ctx, ppn_t ppn, uint64_t n);
	void (*protect_range)(void *ctx, ppn_t ppn, uint64_t n);
};

struct p2m;
struct p2m_config {
	uint64_t ram_bytes; /* multiple of 4096, > 0 */
	uint64_t low_limit; /* 0: 3 GiB */
	int memfd;	    /* -1: create one; else use it (the manager's) and
			       size it */
	int pool_fd;	    /* read-only fd of the group's pool, or -1: none */
	void *control;	    /* shared control area (mm/control.h), or NULL */
	int store_fd;	    /* > 0: memfd for compressed pages, as big as the
			       RAM at least (mm/store.h) */
	int swap_fd;	    /* > 0: swap file, its size settled (mm/swap.h) */
	const char *name;   /* for the memfd's name in /proc */
};

/* 0 or -errno. *out owns everything; p2m_destroy frees it. */
int p2m_create(const struct p2m_config *cfg, struct p2m **out);
void p2m_destroy(struct p2m *p);
void p2m_set_listener(struct p2m *p, const struct p2m_listener_ops *ops,
		      void *ctx);

uint64_t p2m_ram_bytes(const struct p2m *p);
uint64_t p2m_low_bytes(const struct p2m *p);  /* RAM at [0, low) */
uint64_t p2m_high_bytes(const struct p2m *p); /* RAM at [4G, 4G + high) */
uint64_t p2m_max_ppn(const struct p2m *p);    /* one past the last */
int p2m_memfd(const struct p2m *p);

enum p2m_state p2m_get_state(const struct p2m *p, ppn_t ppn);
static inline bool p2m_is_ram_state(enum p2m_state s)
{
	return s != P2M_NONE;
}

/*
 * What to map for a page, and for how many pages the run goes on: pages
 * ppn..ppn+run-1 (run <= max) are all in the same state and lie one after the
 * other in the file. For P2M_ZERO the run is mapped from the memfd's hole only
 * after p2m_make_writable; for reads use the zero frame (run is then 1).
 * writable is false for shared and zero pages and for pages marked code, and
 * for private pages not yet noted as being written (p2m_make_writable).
 */
struct p2m_backing {
	int fd;
	uint64_t offset; /* bytes in fd, page aligned */
	uint64_t run;	 /* pages, >= 1 */
	bool writable;	 /* may be mapped writable as it is */
};
/* 0, or -ENXIO: not RAM. Counts as a touch of the page: one that was away is
 * brought back (p2m_reclaim.h); a run ends before the next page that is away
 * or marked idle. */
int p2m_get_backing(struct p2m *p, ppn_t ppn, uint64_t max,
		    struct p2m_backing *b);

/* How many pages before ppn, max at most, will be in one run with it? They are
 * here, in use (not marked idle), and of the same 2 MiB. A touch of ppn. */
uint64_t p2m_run_before(struct p2m *p, ppn_t ppn, uint64_t max);

/*
 * Prepare pages ppn..ppn+n-1 for being mapped writable by an engine: breaks a
 * shared page (copies it back to its natural place), turns zero into private,
 * notes the page as "may be written" (the scanner's changed set). For n > 1
 * only pages after the first that are PRIVATE or ZERO are taken, and the
 * number of pages prepared from the first on is returned. >= 1, or -errno
 * (-ENXIO not RAM, -ENOMEM host is out of memory).
 * The listener's drop() is called for pages whose frame changes.
 */
long p2m_make_writable(struct p2m *p, ppn_t ppn, uint64_t n);

/*
 * Pointers for the monitor's own C code, valid until the owner's next call
 * that changes the page (compare p2m_gen). NULL: not RAM.
 * p2m_write does what p2m_make_writable does, and tells the listener
 * (code_written) if the page is marked code; [off, off+len) is what is about
 * to be written.
 */
const void *p2m_read(struct p2m *p, ppn_t ppn);
void *p2m_write(struct p2m *p, ppn_t ppn, unsigned off, unsigned len);
/*
 * Hold a RAM page for a device that works on it outside of the owner thread:
 * the pointer stays good, and the page is neither reclaimed, shared nor
 * collected, until as many unpins. Owner thread; write: as p2m_write for the
 * whole page. NULL: not RAM, or no memory, or pinned too often. p2m_unpin may
 * be called by any thread.
 */
void *p2m_pin(struct p2m *p, ppn_t ppn, bool write);
void p2m_unpin(struct p2m *p, ppn_t ppn);

/*
 * Pages that the guest does not want: n pages from ppn on. Those that are
 * not RAM or pinned are left alone. Their bytes are gone; their memory is the
 * host's again. Owner thread. Returns how many pages it took.
 *   discard    free page reporting, discard: they read as zeroes from now on
 *   balloon    the same, and state BALLOONED until somebody touches them
 *   unballoon  BALLOONED pages become ZERO (a touch does the same)
 */
uint64_t p2m_discard(struct p2m *p, ppn_t ppn, uint64_t n);
uint64_t p2m_balloon(struct p2m *p, ppn_t ppn, uint64_t n);
uint64_t p2m_unballoon(struct p2m *p, ppn_t ppn, uint64_t n);

/* Counts every event after which a pointer or a mapping may be stale (state
 * change, protect for scanning, code mark). */
uint64_t p2m_gen(const struct p2m *p);

/* Copies across pages; -ENXIO when any byte is outside RAM (nothing done for
 * the pages from there on). */
int p2m_copy_out(struct p2m *p, gpa_t gpa, void *buf, size_t len);
int p2m_copy_in(struct p2m *p, gpa_t gpa, const void *buf, size_t len);

/* Mark a page as holding translated code; the engine has already made its own
 * mappings read-only. Clearing is silent. */
void p2m_set_code(struct p2m *p, ppn_t ppn, bool code);
bool p2m_is_code(const struct p2m *p, ppn_t ppn);

/* Host bytes in use by the VM (p2m_audit compares them with a recount). */
struct p2m_usage {
	uint64_t private_bytes; /* blocks really allocated in the memfd */
	uint64_t shared_bytes;	/* guest pages backed by pool frames */
	uint64_t zero_bytes;	/* guest pages backed by nothing (zero frame or
				   a hole) */
	uint64_t away_bytes;	/* guest pages ballooned, compressed, swapped */
	uint64_t store_bytes;	/* memory that the compressed ones take */
};
void p2m_get_usage(const struct p2m *p, struct p2m_usage *u);

/* Recount everything from scratch; 0, or -EUCLEAN after logging each
 * difference. */
int p2m_audit(struct p2m *p);
#endif
