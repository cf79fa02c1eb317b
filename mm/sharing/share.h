/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_SHARING_SHARE_H
#define SARDINE_MM_SHARING_SHARE_H
/*
 * Page sharing between VMs: the manager proposes, the monitor commits.
 *
 *   manager (share_host)                        monitor (share_monitor)
 *     COLLECT  ------------------------------->   write-protect some of the
 *                                                 pages written since, put
 *     (collected map) <------------------------   them in the collected map
 *              <-------------------------------  COLLECTED
 *     read, hash, look up: zero? a shared
 *     frame? a hint (first sighting)?
 *     PROPOSE (ppn -> frame or zero) --------->   still protected? same 4096
 *                                                 bytes? then drop mappings,
 *              <-------------------------------  switch the p2m, punch: ANSWER
 *              <-------------------------------  READ: collected, and need not
 *                                                rest (read from a disk's base)
 *     (released map) <-------------------------   guest wrote: copied back
 *
 * Messages are flat structs of at most SHARE_MSG_MAX bytes; any reliable
 * ordered transport does (SOCK_SEQPACKET: one message a packet, the first
 * share_msg_bytes() bytes of it). Both sides are plain libraries without
 * threads, sockets or clocks of their own.
 *
 * References. A pool frame is held by (VM, PPN) pairs. The manager takes the
 * reference when it proposes; a refusal, the released bit or the VM's death
 * gives it back, and nothing else does. So a frame is never freed while a
 * monitor that keeps the protocol uses it. One that does not keep it (says
 * "released" and reads on) sees later contents of that frame: of its own share
 * group, whose pool it may read anyway. Groups never mix.
 *
 * What saving means (share_stats, oracle):
 *   A guest page has content if its bytes are not all zero.
 *   wanted   = pages with content + all-zero pages that hold or once held a
 *              block of the memfd (merged to zero by us, not untouched ones)
 *   resident = private blocks + pool frames in use
 *   saved    = wanted - resident
 *            = shared pages - pool frames + zero pages merged
 *   oracle   = wanted - distinct contents per group: what perfect sharing
 *              would save at this moment; zero costs nothing.
 *   saved <= oracle, so saved / oracle is the share of the possible reached
 *   (both are snapshots; guests run on while the oracle compares).
 */
#include "mm/control.h"
#include "mm/types.h"

/* Messages. */

enum share_msg_type {
	SHARE_MSG_COLLECT = 1, /* manager: collect */
	SHARE_MSG_COLLECTED,   /* monitor: collected */
	SHARE_MSG_PROPOSE,     /* manager: n proposals */
	SHARE_MSG_ANSWER,      /* monitor: n answers, same order, same seq */
	SHARE_MSG_NUDGE,       /* manager: look at the quota in the control
				  area; no part of sharing, and no answer */
	SHARE_MSG_READ,	       /* monitor: n pages, collected; no answer */
};
#define SHARE_BATCH	 128
#define SHARE_FRAME_ZERO 0xffffffffu

struct share_proposal {
	uint64_t ppn;
	uint32_t frame; /* of the pool, or SHARE_FRAME_ZERO */
	uint32_t pad;
};
struct share_answer {
	uint64_t ppn;
	uint32_t frame;
	uint32_t reason; /* enum share_reason; SHARE_ok: committed */
};
struct share_msg {
	uint32_t type;
	uint32_t n; /* entries of the arrays */
	uint64_t seq;
	union {
		struct {
			uint64_t now_ns; /* the manager's monotonic clock */
			uint32_t budget; /* pages to protect at most */
			uint32_t pad;
		} collect;
		struct {
			uint32_t taken; /* pages put in the collected map */
			uint32_t more;	/* 1: the budget ended it */
		} collected;
		struct share_proposal proposals[SHARE_BATCH];
		struct share_answer answers[SHARE_BATCH];
		uint64_t ppns[SHARE_BATCH];
	};
};
#define SHARE_MSG_MAX sizeof(struct share_msg)
/* Bytes of m to send. */
size_t share_msg_bytes(const struct share_msg *m);
/* Is this packet of len bytes a well-formed message? */
bool share_msg_ok(const struct share_msg *m, size_t len);

/* The monitor's side (mm/sharing/monitor.c): on the p2m's owner thread. */

struct p2m;
/*
 * Do what the manager's message asks; the reply is in *out, always to be sent.
 * busy: answer without doing anything (the VM is stopping). 0, or -EPROTO for
 * a message that is no request (nothing to send).
 */
int share_monitor_handle(struct p2m *p, const struct share_msg *in,
			 struct share_msg *out, bool busy);

/* The manager's side: one thread. */

struct share_host;
struct share_group;
struct share_vm;

struct share_host_ops {
	/* Send to the VM's monitor, without blocking: 0, -EAGAIN (tried again
	 * later), or another -errno (the VM gets no more messages until it is
	 * removed). */
	int (*send)(void *ctx, struct share_vm *vm, const struct share_msg *m);
};
struct share_params { /* 0: the default */
	uint64_t
		collect_min_ns; /* between collects while there is work: 50 ms */
	uint64_t collect_max_ns; /* and of a quiet VM: 1 s */
	uint64_t settle_ns;	 /* a page is read when it has not been written
				    for so long after it was collected (or up
				    to twice that): 500 ms */
	uint32_t collect_budget; /* pages protected per collect: 1024 */
	uint32_t inflight;	 /* unanswered PROPOSE messages per VM: 4 */
};
#define SHARE_STEP_PAGES 4096 /* a good budget for share_scan_step */

int share_host_create(const struct share_host_ops *ops, void *ctx,
		      const struct share_params *params,
		      struct share_host **out);
/* All VMs and groups go with it. */
void share_host_destroy(struct share_host *h);

/* A pool of at most pool_bytes (sparse: costs what is used; 0: 64 GiB). */
int share_group_create(struct share_host *h, const char *name,
		       uint64_t pool_bytes, struct share_group **out);
/* -EBUSY while it has VMs. */
int share_group_destroy(struct share_group *g);

/*
 * A group whose manager has died, with VMs that live (share_adopt.c). pool_fd
 * is a descriptor of its pool, as its monitors have. What each of its VMs uses
 * is told by its monitor (p2m_tell_frames): file descriptor frames_fd, for a VM
 * that was just added; -EUCLEAN: it names a frame that there is not. Until
 * share_group_settle, when all of them have told or ended, no frame that the
 * pool had is given to others.
 */
int share_group_adopt(struct share_host *h, const char *name, int pool_fd,
		      struct share_group **out);
int share_vm_adopt(struct share_vm *vm, int frames_fd);
void share_group_settle(struct share_group *g);
/* Between share_group_adopt and share_group_settle. */
bool share_group_held(const struct share_group *g);

/* The read-only descriptor to hand to monitors (stays the group's). */
int share_group_pool_fd(const struct share_group *g);

/*
 * memfd and control are the manager's own (dup'ed / borrowed: control must
 * outlive the VM; its size is control_bytes(ram_bytes, low_limit)). user is
 * for the ops.
 */
struct share_vm_config {
	const char *name;
	int memfd;
	struct control *control;
	uint64_t ram_bytes, low_limit;
	void *user;
};
int share_vm_add(struct share_group *g, const struct share_vm_config *cfg,
		 struct share_vm **out);
/* The monitor is dead (its process is gone: it maps nothing any more). Its
 * references are given back at once. */
void share_vm_remove(struct share_vm *vm);
void *share_vm_user(const struct share_vm *vm);
/* For how long something that the VM was sent has been waiting for an answer,
 * with none to anything else in between; 0: nothing has. */
uint64_t share_vm_silent_ns(const struct share_vm *vm, uint64_t now_ns);
/* Sharing for this VM off or on (on at first); off makes no new proposals. */
void share_vm_enable(struct share_vm *vm, bool on);

/*
 * One step of work: take news from the control areas, send collects that are
 * due, hash at most budget pages, send proposals. Returns the time (ns, same
 * clock) at which there is something to do again; now_ns at the least when
 * the budget ended it. Call it also after share_on_msg.
 */
uint64_t share_scan_step(struct share_host *h, uint32_t budget,
			 uint64_t now_ns);
/* A message from the VM's monitor. -EPROTO: it breaks the protocol (kill it);
 * the message had no effect from the bad entry on. */
int share_on_msg(struct share_vm *vm, const struct share_msg *m, size_t len);

#define SHARE_STATS(X)                                                         \
	X(saved_bytes, "saved now by sharing, as share.h defines it")          \
	X(pool_bytes, "pool frames in use")                                    \
	X(shared_bytes, "guest pages backed by pool frames")                   \
	X(zero_merged_bytes, "guest pages found zero and given back")          \
	X(merged_pages, "pages committed to pool frames, ever")                \
	X(zero_merged_pages, "pages committed to zero, ever")                  \
	X(broken_pages, "shared pages that were written again, ever")          \
	X(scanned_pages, "pages read and hashed, ever")                        \
	X(collected_pages, "pages taken from collected maps, ever")            \
	X(skipped_changed, "collected pages in use again before the hash")     \
	X(read_pages,                                                          \
	  "pages that need not rest: just read from a shared disk")            \
	X(hints_made, "pages entered as a hint")                               \
	X(hint_matches, "hints that met an equal page")                        \
	X(hint_stale, "hints whose page had changed")                          \
	X(frame_matches, "pages equal to a frame already shared")              \
	X(collisions, "equal hashes of unequal pages")                         \
	X(pool_full, "matches given up because the pool was full")             \
	X(no_memory, "matches given up because the host had no memory")        \
	X(read_errors, "pages of a memfd that could not be read")              \
	X(index_entries, "entries of the hash index now")                      \
	X(index_bytes, "memory of the hash index now")                         \
	X(host_bytes, "memory of the manager's page records now")              \
	X(pool_runs, "runs of consecutive (PPN, frame) now, all VMs")          \
	X(cpu_ns, "thread CPU time spent in share_scan_step")
struct share_stats {
#define X(n, h) uint64_t n;
	SHARE_STATS(X)
#undef X
	uint64_t refused[SHARE_NR_REASONS]; /* [SHARE_ok] stays 0 */
};
void share_get_stats(struct share_host *h, struct share_stats *s);

struct share_vm_info {
	uint64_t private_bytes; /* blocks of the memfd, as the kernel says */
	uint64_t shared_bytes;	/* pages on pool frames, as we know */
	uint64_t zero_bytes;	/* the rest of its RAM */
	uint64_t merged_pages, zero_merged_pages, broken_pages;
	uint64_t pool_runs;
};
void share_vm_get_info(struct share_vm *vm, struct share_vm_info *i);

/* Exact duplicates, by comparing all guest pages of all VMs. Expensive: reads
 * all of it. bytes that perfect sharing would save (see above). */
struct share_oracle {
	uint64_t oracle_bytes;
	uint64_t wanted_pages, distinct_pages, zero_pages;
};
int share_oracle(struct share_host *h, struct share_oracle *o);

/* Recount references, runs, index and pool blocks from scratch; 0, or -EUCLEAN
 * after logging each difference. */
int share_audit(struct share_host *h);
/* For tests: what the host believes backs a page: the frame, or MPN_NONE; if
 * pending, it has been proposed and not answered. */
mpn_t share_vm_frame(struct share_vm *vm, ppn_t ppn, bool *pending);
#endif
