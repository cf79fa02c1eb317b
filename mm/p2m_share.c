/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collect and commit: how a page stops being written and becomes shared.
 *
 * Collecting a page costs its guest a protection fault on the next write (with
 * what protects it 11 to 15 us under bt), so it must pay. A page has a heat:
 * collected and written again soon, heat + 1; quiet for longer than four of its
 * rests, heat 0. It rests 1, 2, 4, ... 128 s (heat 0, 1, 2, ... 7) before it is
 * collected again. So a page in use all the time costs a fault in 128 s (with 4,
 * sixteen busy guests on two cores spent a quarter of their time on it), and a
 * page written once is looked at after a second: a guest that boots in two is
 * hardly disturbed. When the guest is quiet nothing is hot: all that has rested
 * for a second is collected, and costs little, as little is written again.
 *
 * Committing compares all bytes while the page is not noted: p2m.c's invariant
 * says that then nobody can write it, on any road, until this thread lets him.
 */
#include "mm/p2m_share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/p2m_priv.h"
#include "mm/zero.h"

#define TICK_NS	 250000000ull
#define HEAT_MAX 7u
#define REST	 4u /* ticks at heat 0 */

static bool rested(const struct p2m *p, uint32_t e)
{
	uint16_t age = p->tick - PRIV_TICK(ent_payload(e));

	return age >= REST << (p->quiet ? 0 : PRIV_HEAT(ent_payload(e)));
}

void p2m_set_quiet(struct p2m *p, bool quiet)
{
	p->quiet = quiet;
}

/* The engine's mappings are read-only already. */
static void collect_ent(struct p2m *p, ppn_t ppn)
{
	uint32_t e = p->ent[ppn.n], heat = PRIV_HEAT(ent_payload(e));

	if (heat < HEAT_MAX)
		heat++;
	p->ent[ppn.n] = ent_make(P2M_PRIVATE, e & (ENT_CODE | ENT_NOTED),
				 PRIV_PAY(p->tick, heat));
	p2m_unnote(p, ppn);
	bit_set(p->collected, ppn.n);
}

/* A large region is collected as a whole: one call protects it, and one fault
 * of its guest makes all of it writable again. */
static uint32_t collect_region(struct p2m *p, uint64_t w)
{
	uint32_t taken = 0;

	if (w % (P2M_REGION_PAGES / 64))
		return 0; /* done, with its first word */
	for (uint64_t n = w * 64; n < w * 64 + P2M_REGION_PAGES; n++) {
		if (!(p->ent[n] & ENT_NOTED) || p2m_pinned(p, (ppn_t){n}))
			continue;
		if (!taken && !rested(p, p->ent[n]))
			return 0;
		if (!taken++)
			p2m_call_protect_range(p, (ppn_t){w * 64},
					       P2M_REGION_PAGES);
		collect_ent(p, (ppn_t){n});
	}
	return taken;
}

/* The noted pages of one word of the map. */
static uint32_t collect_word(struct p2m *p, uint64_t w, uint32_t budget)
{
	uint64_t bits = control_get(&p->changed[w]);
	uint32_t taken = 0;

	if (p2m_region_of(p, (ppn_t){w * 64})->large)
		return collect_region(p, w);
	for (; bits && taken < budget; bits &= bits - 1) {
		ppn_t ppn = {w * 64 + __builtin_ctzll(bits)};

		if (p2m_is_ram(p, ppn) && p->ent[ppn.n] & ENT_NOTED &&
		    rested(p, p->ent[ppn.n]) && !p2m_pinned(p, ppn)) {
			p2m_call_protect(p, ppn);
			collect_ent(p, ppn);
			taken++;
		}
	}
	return taken;
}

uint32_t p2m_collect(struct p2m *p, uint64_t now_ns, uint32_t budget,
		     bool *more)
{
	uint64_t words = (p->max_ppn + 63) / 64, w = p->collect_at, i;
	uint32_t taken = 0;

	p->tick = now_ns / TICK_NS;
	for (i = 0; i < words && taken < budget; i++) {
		w = w < words ? w : 0;
		taken += collect_word(p, w, budget - taken);
		w += taken < budget; /* the budget ended inside: go on there */
	}
	p->collect_at = w;
	*more = taken >= budget;
	if (taken)
		p->gen++;
	control_add(&p->ctl->protected_, taken);
	control_add(&p->ctl->collected_seq, taken);
	control_add(&p->ctl->collect_rounds, 1);
	return taken;
}

bool p2m_collect_page(struct p2m *p, ppn_t ppn)
{
	if (!p2m_is_ram(p, ppn) || !(p->ent[ppn.n] & ENT_NOTED) ||
	    ent_state(p->ent[ppn.n]) != P2M_PRIVATE || p2m_pinned(p, ppn) ||
	    p2m_region_of(p, ppn)->large)
		return false;
	p2m_call_protect(p, ppn);
	collect_ent(p, ppn);
	p->gen++;
	control_add(&p->ctl->protected_, 1);
	control_add(&p->ctl->collected_seq, 1);
	return true;
}

/* May this page be compared now? */
static enum share_reason check(const struct p2m *p, ppn_t ppn)
{
	if (!p2m_is_ram(p, ppn))
		return SHARE_not_ram;
	if (ent_state(p->ent[ppn.n]) != P2M_PRIVATE)
		return SHARE_not_private;
	if (p2m_pinned(p, ppn))
		return SHARE_busy;
	if (p->ent[ppn.n] & ENT_NOTED)
		return SHARE_changed;
	return SHARE_ok;
}

static const uint8_t *own_bytes(const struct p2m *p, ppn_t ppn)
{
	return p->base + (ppn.n << PAGE_SHIFT);
}

static void commit(struct p2m *p, ppn_t ppn, uint32_t e)
{
	p2m_call_drop(p, ppn);
	p2m_set_ent(p, ppn, e);
	p->gen++;
}

/* How many more runs there would be. */
static bool too_many_runs(const struct p2m *p, ppn_t ppn, uint32_t frame)
{
	uint32_t a = ppn.n ? p->ent[ppn.n - 1] : 0, b = p->ent[ppn.n + 1];
	int more = 1;

	if (!p->max_runs)
		return false;
	if (ent_state(a) == P2M_SHARED && ent_payload(a) + 1 == frame)
		more--;
	if (ent_state(b) == P2M_SHARED && ent_payload(b) == frame + 1)
		more--;
	return more > 0 && p->runs + more > p->max_runs;
}

enum share_reason p2m_commit_frame(struct p2m *p, ppn_t ppn, uint32_t frame)
{
	enum share_reason r = check(p, ppn);

	if (r)
		return r;
	if (!p->pool)
		return SHARE_no_pool;
	if (frame >= p->pool_frames)
		return SHARE_bad_frame;
	if (too_many_runs(p, ppn, frame))
		return SHARE_runs;
	if (memcmp(own_bytes(p, ppn), p->pool + ((size_t)frame << PAGE_SHIFT),
		   PAGE_SIZE))
		return SHARE_differs;
	commit(p, ppn, ent_make(P2M_SHARED, p->ent[ppn.n] & ENT_CODE, frame));
	control_add(&p->ctl->merged, 1);
	return SHARE_ok;
}

/* Engines prepare neighbours that are then never written. Nothing can appear
 * there while the page is not noted; reading it would make a block. */
bool p2m_is_hole(const struct p2m *p, ppn_t ppn)
{
	off_t at = ppn.n << PAGE_SHIFT, data = lseek(p->memfd, at, SEEK_DATA);

	return data != at && (data > at || errno == ENXIO);
}

enum share_reason p2m_commit_zero(struct p2m *p, ppn_t ppn)
{
	enum share_reason r = check(p, ppn);
	bool hole;

	if (r)
		return r;
	hole = p2m_is_hole(p, ppn);
	if (!hole && !zero_page(own_bytes(p, ppn)))
		return SHARE_differs;
	commit(p, ppn, ent_make(P2M_ZERO, p->ent[ppn.n] & ENT_CODE, !hole));
	control_add(&p->ctl->zero_merged, 1);
	return SHARE_ok;
}

static int punch(struct p2m *p, ppn_t ppn, uint64_t n)
{
	return fallocate(p->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 ppn.n << PAGE_SHIFT, n << PAGE_SHIFT);
}

/* Part of a large page goes only if the kernel can split that page. When
 * somebody holds it just now it clears the bytes, keeps the block, and says
 * yes. */
static bool punched(const struct p2m *p, ppn_t ppn, uint64_t n)
{
	off_t at = ppn.n << PAGE_SHIFT, data;

	if (!p2m_region_of(p, ppn)->was_large)
		return true;
	data = lseek(p->memfd, at, SEEK_DATA);
	return data < 0 || data >= at + (off_t)(n << PAGE_SHIFT);
}

void p2m_punch(struct p2m *p, ppn_t ppn, uint64_t n)
{
	if (!n)
		return;
	for (int tries = 0; tries < 3; tries++) {
		if (punch(p, ppn, n))
			break;
		if (punched(p, ppn, n))
			return;
	}
	/* The bytes there are those that a break or a zero page needs; only
	 * the memory is not won. */
	control_add(&p->ctl->punch_failed, n);
}

static uint32_t tell_word(const struct p2m *p, uint64_t n)
{
	uint32_t e;

	if (!p2m_is_ram(p, (ppn_t){n}))
		return 0;
	e = p->ent[n];
	if (ent_state(e) == P2M_SHARED)
		return ent_payload(e) + 1;
	return ent_state(e) == P2M_PRIVATE && !(e & ENT_NOTED)
		       ? P2M_TELL_PRIVATE
		       : 0;
}

int p2m_tell_frames(struct p2m *p, int fd)
{
	uint32_t words[1024];

	for (uint64_t w = 0; w < (p->max_ppn + 63) / 64; w++)
		if (control_get(&p->released[w]))
			(void)__atomic_exchange_n(&p->released[w], 0,
						  __ATOMIC_RELAXED);
	for (uint64_t n = 0; n < p->max_ppn; n += ARRAY_SIZE(words)) {
		uint32_t any = 0;

		for (uint64_t i = 0; i < ARRAY_SIZE(words); i++) {
			words[i] = n + i < p->max_ppn ? tell_word(p, n + i) : 0;
			any |= words[i];
		}
		if (any && pwrite(fd, words, sizeof(words),
				  (off_t)(n * sizeof(words[0]))) !=
				   (ssize_t)sizeof(words))
			return -ENOSPC;
	}
	return 0;
}

uint64_t p2m_runs(const struct p2m *p)
{
	return p->runs;
}

void p2m_set_max_runs(struct p2m *p, uint64_t n)
{
	p->max_runs = n;
}

struct control *p2m_control(struct p2m *p)
{
	return p->ctl;
}

mpn_t p2m_frame(const struct p2m *p, ppn_t ppn)
{
	if (p2m_get_state(p, ppn) != P2M_SHARED)
		return MPN_NONE;
	return (mpn_t){ent_payload(p->ent[ppn.n])};
}
