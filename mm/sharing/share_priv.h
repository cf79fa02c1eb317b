/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_SHARING_SHARE_PRIV_H
#define SARDINE_MM_SHARING_SHARE_PRIV_H
/*
 * Inside the manager's side, for mm/sharing/share_*.c alone.
 *
 * One 32-bit record a guest page says what the host believes of it:
 *
 *   NONE     nothing: untouched, in use, waiting in todo, or found zero
 *   HINT     read and not matched: node number in the index
 *   PENDING  proposed for a frame and not answered; holds a reference
 *   EARLY    PENDING, and the released bit came before the answer
 *   ZEROING  proposed as zero and not answered
 *   SHARED   committed; holds a reference on the frame
 */
#include "mm/sharing/index.h"
#include "mm/sharing/pool.h"
#include "mm/sharing/share.h"

enum rec_kind {
	REC_NONE,
	REC_HINT,
	REC_PENDING,
	REC_EARLY,
	REC_ZEROING,
	REC_SHARED,
};
#define REC_SHIFT 3
static inline uint32_t rec_make(enum rec_kind k, uint32_t pay)
{
	return k | pay << REC_SHIFT;
}
static inline enum rec_kind rec_kind(uint32_t r)
{
	return r & 7;
}
static inline uint32_t rec_pay(uint32_t r)
{
	return r >> REC_SHIFT;
}
static inline bool rec_holds(uint32_t r)
{
	enum rec_kind k = rec_kind(r);

	return k == REC_PENDING || k == REC_EARLY || k == REC_SHARED;
}

#define CHUNK 64u /* pages read in one go */

struct frame {		    /* of a pool */
	uint32_t node;	    /* in the index */
	uint32_t refs : 31; /* records that hold it, and: */
	uint32_t held : 1;  /* VMs that have not told (share_adopt.c) */
};

struct share_group {
	struct share_host *h;
	struct share_group *next;
	char name[32];
	struct pool *pool;
	struct share_index *index;
	struct frame *frame; /* sparse mapping, by frame number */
	size_t frame_bytes;
	bool held; /* frames may be */
	unsigned vms;
};

struct share_vm {
	struct share_host *h;
	struct share_group *g;
	uint32_t id; /* in h->vm */
	char name[64];
	int memfd;
	void *user;
	bool enabled, broken_pipe;
	uint64_t ram_pages, low_pages, max_ppn, words;
	struct control *ctl;
	uint64_t *changed, *collected, *released; /* in the control area */

	uint32_t *rec;	    /* sparse mappings */
	uint64_t *todo;	    /* to be read now */
	uint64_t *young[2]; /* collected; collected and rested a while */
	uint64_t young_pages[2], aged_at;
	size_t rec_bytes, todo_bytes;
	uint64_t todo_pages, cursor;
	uint64_t collected_seq, released_seq; /* as last taken */

	struct share_proposal *out; /* queue: [out_head, out_tail) */
	uint32_t out_head, out_tail, out_cap;
	uint32_t unanswered; /* proposals sent */
	uint32_t in_flight;  /* the PROPOSE messages that they are in */
	uint64_t seq;

	bool collecting;   /* a COLLECT is unanswered */
	bool heard;	   /* an answer came since the last step */
	uint64_t asked_at; /* no step since then has found one */
	uint64_t collect_at, collect_gap;

	uint64_t shared, pending; /* records SHARED; PENDING, EARLY, ZEROING */
	uint64_t merged, zero_merged, broken;
};

struct share_host {
	const struct share_host_ops *ops;
	void *ctx;
	struct share_params par;
	struct share_group *groups;
	struct share_vm **vm; /* by id; NULL: free */
	uint32_t vms, turn;
	struct share_stats st; /* the counters "ever" */
	uint8_t *buf, *buf2;   /* CHUNK pages; one page */
};

/* share_host.c */
int share_group_make(struct share_host *h, const char *name, struct pool *pool,
		     struct share_group **out);
bool share_vm_is_ram(const struct share_vm *v, uint64_t ppn);
/* share_ref.c: references and records. */
void share_frame_put(struct share_group *g, uint32_t frame);
/* Forget what is believed of a page: hint out of the index, reference back.
 * Not for pages with an answer to come (except when the VM is gone). */
void share_rec_clear(struct share_vm *v, uint64_t ppn);
/* Enter a page as a hint. */
void share_rec_hint(struct share_vm *v, uint64_t ppn, uint64_t hash);
/* Queue a proposal; the frame's reference is taken here. */
int share_propose(struct share_vm *v, uint64_t ppn, uint32_t frame);
void share_flush(struct share_vm *v);
/* The page has left its frame. */
void share_rec_released(struct share_vm *v, uint64_t ppn);
void share_todo_add(struct share_vm *v, uint64_t ppn);
/* share_match.c: what to do about a page just read. */
void share_match_page(struct share_vm *v, uint64_t ppn, const uint8_t *page);
/* share_count.c */
uint64_t share_vm_runs(const struct share_vm *v);
uint64_t share_zero_merged(const struct share_vm *v);
#endif
