/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up a page's memory, and bringing it back.
 *
 * One mechanism brings pages back: every road into the p2m (p2m.h) begins with
 * p2m_touch, and that calls p2m_bring_in for a page that is away. So an
 * engine's fill, a device, the interpreter and a page-table walk all find the
 * page PRIVATE, or ZERO for a ballooned one, and know nothing of this file.
 * It runs on the owner thread; under bt that may be in its signal handler, on
 * top of translated code alone, where ordinary C is fine.
 *
 * Bringing a page in changes that page only: pointers to others stay good.
 * Giving one up does not, so it happens only between entries of the engine,
 * never inside a touch, however far over its quota the VM is: the touch calls
 * pressure(), which has the engine come out soon.
 *
 * Never a wrong byte. A page is given up in this order: mappings dropped, bytes
 * read, compressed and written elsewhere, the entry switched, its block
 * punched. Until the switch the page is what it was; a failure leaves it there.
 * The way back: bytes read, unpacked, compared with the sum taken when they
 * left, written to the page's place, the entry switched, the copy freed. A
 * failure there is tried again for a while; then the VM is stopped with the
 * reason (p2m_set_lost), because no other byte would be right.
 *
 * Idle marks. A marked page has no mapping and no pointer into it is trusted
 * (gen moved); p2m_touch clears the mark. So a mark that is still there says
 * that the guest has not used the page since. Runs (p2m_get_backing) end at a
 * marked page: each page tells for itself. But where the page before the touched
 * one is in use, too, AROUND marked pages behind it come along: a guest that goes
 * through its memory would pay a fault for each page, and neighbours of pages in
 * use are mostly in use. An exception is translated code,
 * which does not read its own page again: it may look idle and is none the
 * worse for being compressed.
 *
 * Killed here: all of it (entries, store, books) is this process's own, and the
 * guest ends with it.
 */
#include "mm/p2m_reclaim.h"

#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/base/failpoint.h"
#include "mm/base/log.h"
#include "mm/p2m_priv.h"
#include "mm/p2m_share.h"
#include "mm/store.h"
#include "mm/swap.h"
#include "mm/zero.h"

#define TRIES	 50
#define TRY_MS	 20
#define PINS_MAX 0xffffu

static void *sparse(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

static size_t idle_bytes(const struct p2m *p)
{
	return (p->max_ppn + 63) / 64 * 8;
}

/* The store has moved a page's object. */
static void moved(void *ctx, uint32_t n, uint32_t from, uint32_t to)
{
	struct p2m *p = ctx;
	uint32_t e;

	ASSERT(p2m_is_ram(p, (ppn_t){n}));
	e = p->ent[n];
	ASSERT(ent_state(e) == P2M_COMPRESSED && ent_payload(e) == from);
	p->ent[n] = ent_make(P2M_COMPRESSED, e & ENT_CODE, to);
}

int p2m_reclaim_init(struct p2m *p, const struct p2m_config *cfg)
{
	int r = 0;

	p->idle = sparse(idle_bytes(p));
	p->fresh = sparse(idle_bytes(p));
	p->pins = sparse(p->max_ppn * sizeof(*p->pins));
	p->use = sparse(p->max_ppn * sizeof(*p->use));
	if (!p->idle || !p->fresh || !p->pins || !p->use || p2m_clock_init(p))
		return -ENOMEM;
	if (cfg->store_fd <= 0 && cfg->swap_fd <= 0)
		return 0;
	p->lz = malloc(LZ4_sizeofState());
	p->page = aligned_alloc(PAGE_SIZE, (2 + SWAP_AHEAD) * PAGE_SIZE);
	if (!p->lz || !p->page)
		return -ENOMEM;
	if (cfg->swap_fd > 0)
		r = p2m_swap_init(p, cfg->swap_fd);
	if (!r && cfg->store_fd > 0)
		r = store_create(cfg->store_fd, cfg->ram_bytes, &p->store);
	if (p->store)
		store_set_moved(p->store, moved, p);
	return r;
}

void p2m_reclaim_fini(struct p2m *p)
{
	if (p->idle)
		munmap(p->idle, idle_bytes(p));
	if (p->fresh)
		munmap(p->fresh, idle_bytes(p));
	if (p->pins)
		munmap(p->pins, p->max_ppn * sizeof(*p->pins));
	if (p->use)
		munmap(p->use, p->max_ppn * sizeof(*p->use));
	p2m_swap_fini(p);
	p2m_clock_fini(p);
	store_destroy(p->store);
	free(p->lz);
	free(p->page);
}

void p2m_set_pressure(struct p2m *p, void (*fn)(void *ctx), void *ctx)
{
	p->pressure = fn;
	p->pressure_ctx = ctx;
}

void p2m_set_came(struct p2m *p, void (*fn)(void *ctx), void *ctx)
{
	p->came = fn;
	p->came_ctx = ctx;
}

void p2m_set_lost(struct p2m *p, void (*fn)(void *ctx, const char *why),
		  void *ctx)
{
	p->lost = fn;
	p->lost_ctx = ctx;
}

uint64_t p2m_resident(const struct p2m *p)
{
	return (p->count[P2M_PRIVATE] << PAGE_SHIFT) +
	       (p->store ? store_bytes(p->store) : 0);
}

uint64_t p2m_quota(const struct p2m *p)
{
	uint64_t quota = control_get(&p->ctl->quota_bytes);
	uint64_t cache = control_get(&p->ctl->cache_bytes);
	uint64_t seen = control_get(&p->ctl->cache_seen);
	uint64_t grown = cache > seen ? cache - seen : 0, most = quota / 4;

	return quota - (grown < most ? grown : most);
}

void p2m_set_cache(struct p2m *p, uint64_t bytes)
{
	uint64_t was = control_get(&p->ctl->cache_bytes);

	control_set(&p->ctl->cache_bytes, bytes);
	if (bytes > was)
		p2m_grown(p);
}

void p2m_grown(struct p2m *p)
{
	uint64_t quota = p2m_quota(p);

	if (quota && p->pressure && p2m_resident(p) > quota)
		p->pressure(p->pressure_ctx);
}

void p2m_unnote(struct p2m *p, ppn_t ppn)
{
	p->ent[ppn.n] &= ~ENT_NOTED;
	bit_clear(p->changed, ppn.n);
	control_add(&p->ctl->noted_pages, -1ull);
}

static void publish_store(struct p2m *p)
{
	control_set(&p->ctl->store_bytes, store_bytes(p->store));
	control_set(&p->ctl->store_payload, store_payload(p->store));
}

/* Bringing in. */

uint64_t p2m_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void p2m_count_latency(struct p2m *p, unsigned kind, uint64_t begin)
{
	uint64_t ns = p2m_now_ns() - begin, us = ns / 1000;
	unsigned b = us ? 64 - __builtin_clzll(us) : 0;

	if (b >= LATENCY_BUCKETS)
		b = LATENCY_BUCKETS - 1;
	control_add(&p->ctl->latency[kind][b], 1);
	control_add(&p->ctl->latency_ns[kind], ns);
	p2m_clock_in(p, kind, ns);
}

_Noreturn void p2m_lost(struct p2m *p, ppn_t ppn, const char *what, int err)
{
	char why[200];

	snprintf(why, sizeof(why), "page %#lx of the guest: %s: %s",
		 (unsigned long)ppn.n, what, strerror(err));
	if (p->lost)
		p->lost(p->lost_ctx, why);
	log_error("%s", why);
	abort();
}

static uint32_t sum_of(const void *page)
{
	return (uint32_t)XXH3_64bits(page, PAGE_SIZE);
}

/* The page's bytes out of the store into p->page. */
int p2m_unpack(struct p2m *p, ppn_t ppn)
{
	char packed[STORE_MAX_LEN];
	struct store_tag tag;
	int len = store_get(p->store, ent_payload(p->ent[ppn.n]), packed, &tag);

	if (len < 0)
		return len;
	if (tag.ppn != ppn.n ||
	    LZ4_decompress_safe(packed, (char *)p->page, len, PAGE_SIZE) !=
		    (int)PAGE_SIZE ||
	    sum_of(p->page) != tag.sum)
		return -EBADMSG;
	return 0;
}

/* Write the page to its place; the host may be out of memory for a moment. */
void p2m_put_back(struct p2m *p, ppn_t ppn, const void *page)
{
	struct timespec pause = {0, TRY_MS * 1000000};

	for (unsigned i = 0; pwrite(p->memfd, page, PAGE_SIZE,
				    ppn.n << PAGE_SHIFT) != (ssize_t)PAGE_SIZE;
	     i++) {
		if (i == TRIES)
			p2m_lost(p, ppn, "the host has no memory for it",
				 ENOMEM);
		nanosleep(&pause, NULL);
	}
}

void p2m_came_back(struct p2m *p, ppn_t ppn)
{
	/* Sharing has lost sight of it. */
	bit_set(p->collected, ppn.n);
	control_add(&p->ctl->collected_seq, 1);
}

void p2m_store_free(struct p2m *p, uint32_t handle)
{
	store_free(p->store, handle);
	publish_store(p);
}

static void decompress(struct p2m *p, ppn_t ppn)
{
	uint32_t e = p->ent[ppn.n];
	uint64_t begin = p2m_now_ns();
	int r = p2m_unpack(p, ppn);

	if (r)
		p2m_lost(p, ppn, "its compressed copy is damaged", -r);
	p2m_put_back(p, ppn, p->page);
	(void)fail_point("kill-monitor-decompress");
	p2m_store_free(p, ent_payload(e));
	p2m_set_ent(p, ppn,
		    ent_make(P2M_PRIVATE, e & ENT_CODE, PRIV_BACK(p->tick)));
	control_add(&p->ctl->decompressed, 1);
	p2m_came_back(p, ppn);
	p2m_count_latency(p, LATENCY_DECOMPRESS, begin);
}

static uint32_t zero_ent(const struct p2m *p, ppn_t ppn)
{
	return ent_make(P2M_ZERO, p->ent[ppn.n] & ENT_CODE, 0);
}

void p2m_bring_in(struct p2m *p, ppn_t ppn)
{
	switch (ent_state(p->ent[ppn.n])) {
	case P2M_BALLOONED:
		p2m_set_ent(p, ppn, zero_ent(p, ppn));
		break;
	case P2M_COMPRESSED:
		decompress(p, ppn);
		break;
	default:
		p2m_swap_in(p, ppn);
	}
	p->gen++;
	if (p->came)
		p->came(p->came_ctx);
}

/* Idle marks. */

void p2m_mark_idle(struct p2m *p, ppn_t ppn)
{
	if (!p2m_is_ram(p, ppn) || bit_test(p->idle, ppn.n))
		return;
	if (ent_state(p->ent[ppn.n]) < P2M_BALLOONED)
		p2m_call_drop(p, ppn);
	p->idle[ppn.n / 64] |= 1ull << ppn.n % 64;
	p->gen++;
}

void p2m_mark_idle_range(struct p2m *p, ppn_t ppn, uint64_t n)
{
	if (!n)
		return;
	p2m_call_drop_range(p, ppn, n);
	for (uint64_t i = ppn.n; i < ppn.n + n; i++)
		p->idle[i / 64] |= 1ull << i % 64;
	p->gen++;
}

bool p2m_is_idle(const struct p2m *p, ppn_t ppn)
{
	return p2m_is_ram(p, ppn) && bit_test(p->idle, ppn.n);
}

/* Giving up. */

enum evict p2m_count_evict(struct p2m *p, enum evict why)
{
	control_add(&p->ctl->evict[why], 1);
	return why;
}

void p2m_give_up(struct p2m *p, ppn_t ppn, enum p2m_state s, uint32_t pay)
{
	if (p->ent[ppn.n] & ENT_NOTED)
		p2m_unnote(p, ppn);
	p2m_set_ent(p, ppn, ent_make(s, p->ent[ppn.n] & ENT_CODE, pay));
	p->gen++;
}

static enum evict pack(struct p2m *p, ppn_t ppn)
{
	char *packed = (char *)p->page + PAGE_SIZE;
	struct store_tag tag = {ppn.n, sum_of(p->page), p->tick};
	int len = LZ4_compress_fast_extState(p->lz, (char *)p->page, packed,
					     PAGE_SIZE, STORE_MAX_LEN, 1);
	uint32_t handle;
	int r;

	if (len <= 0) {
		p->ent[ppn.n] |= PRIV_STIFF << ENT_PAY_SHIFT;
		return EVICT_incompressible;
	}
	r = store_put(p->store, packed, len, &tag, &handle);
	if (r)
		return r == -ENOSPC ? EVICT_no_store : EVICT_no_memory;
	publish_store(p);
	p->fresh[ppn.n / 64] |= 1ull << ppn.n % 64;
	(void)fail_point("kill-monitor-compress");
	p2m_give_up(p, ppn, P2M_COMPRESSED, handle);
	return EVICT_compressed;
}

enum evict p2m_compress(struct p2m *p, ppn_t ppn)
{
	bool hole;

	if (!p2m_is_ram(p, ppn) || ent_state(p->ent[ppn.n]) != P2M_PRIVATE)
		return p2m_count_evict(p, EVICT_not_private);
	if (p2m_pinned(p, ppn))
		return p2m_count_evict(p, EVICT_pinned);
	if (!p->store)
		return p2m_count_evict(p, EVICT_no_store);
	p2m_call_drop(p, ppn);
	hole = p2m_is_hole(p, ppn);
	/* By pread: reading through the mapping would fill page tables. */
	if (!hole && pread(p->memfd, p->page, PAGE_SIZE, ppn.n << PAGE_SHIFT) !=
			     (ssize_t)PAGE_SIZE)
		return p2m_count_evict(p, EVICT_no_memory);
	if (hole || zero_page(p->page)) {
		p2m_give_up(p, ppn, P2M_ZERO, !hole);
		return p2m_count_evict(p, EVICT_zero);
	}
	return p2m_count_evict(p, pack(p, ppn));
}

/* Pages that the guest gives back. */

/* What the page had goes; its entry becomes e. True: a block is to be punched.
 */
static bool let_go(struct p2m *p, ppn_t ppn, enum p2m_state to)
{
	uint32_t old;

	p2m_call_drop(p, ppn);
	if (p->ent[ppn.n] & ENT_CODE && p->ops && p->ops->code_written)
		p->ops->code_written(p->ctx, ppn, 0, PAGE_SIZE);
	if (p->ent[ppn.n] & ENT_NOTED)
		p2m_unnote(p, ppn);
	old = p->ent[ppn.n];
	p2m_set_ent(p, ppn, ent_make(to, old & ENT_CODE, 0));
	p->gen++;
	if (ent_state(old) == P2M_SHARED)
		p2m_release_frame(p, ppn);
	if (ent_state(old) == P2M_COMPRESSED)
		p2m_store_free(p, ent_payload(old));
	if (ent_state(old) == P2M_SWAPPED)
		p2m_swap_free(p, ent_payload(old));
	return ent_state(old) == P2M_PRIVATE;
}

static bool range_is_ram(const struct p2m *p, ppn_t ppn, uint64_t n)
{
	ppn_t last = {ppn.n + n - 1};

	/* RAM is two ranges: the ends tell, if they are in the same one. */
	return p2m_is_ram(p, ppn) && p2m_is_ram(p, last) &&
	       (ppn.n < p->low_pages) == (last.n < p->low_pages);
}

static uint64_t give_up(struct p2m *p, ppn_t ppn, uint64_t n, enum p2m_state to)
{
	uint64_t taken = 0, start = 0, run = 0;

	/* Mappings of many pages go in a few calls. */
	if (n > 1 && n <= p->max_ppn && range_is_ram(p, ppn, n))
		p2m_call_drop_range(p, ppn, n);
	for (uint64_t i = 0; i < n && ppn.n + i < p->max_ppn; i++) {
		ppn_t q = {ppn.n + i};

		if (!p2m_is_ram(p, q) || p2m_pinned(p, q))
			continue;
		if (ent_state(p->ent[q.n]) == to && !ent_payload(p->ent[q.n]))
			continue;
		taken++;
		if (to == P2M_BALLOONED)
			(void)fail_point("kill-monitor-balloon");
		if (!let_go(p, q, to))
			continue;
		if (run && q.n != start + run) {
			p2m_punch(p, (ppn_t){start}, run);
			run = 0;
		}
		if (!run++)
			start = q.n;
	}
	p2m_punch(p, (ppn_t){start}, run);
	control_add(&p->ctl->discarded, taken);
	return taken;
}

uint64_t p2m_discard(struct p2m *p, ppn_t ppn, uint64_t n)
{
	return give_up(p, ppn, n, P2M_ZERO);
}

uint64_t p2m_balloon(struct p2m *p, ppn_t ppn, uint64_t n)
{
	return give_up(p, ppn, n, P2M_BALLOONED);
}

uint64_t p2m_unballoon(struct p2m *p, ppn_t ppn, uint64_t n)
{
	uint64_t taken = 0;

	for (uint64_t i = 0; i < n && ppn.n + i < p->max_ppn; i++) {
		ppn_t q = {ppn.n + i};

		if (p2m_get_state(p, q) != P2M_BALLOONED)
			continue;
		p2m_bring_in(p, q);
		taken++;
	}
	return taken;
}

/* Pins. */

void *p2m_pin(struct p2m *p, ppn_t ppn, bool write)
{
	void *page;

	if (!p2m_is_ram(p, ppn) ||
	    __atomic_load_n(&p->pins[ppn.n], __ATOMIC_RELAXED) == PINS_MAX)
		return NULL;
	/* A frame of the pool may be reused when the guest writes the page. */
	if (!write && ent_state(p->ent[ppn.n]) == P2M_SHARED &&
	    p2m_make_writable(p, ppn, 1) < 0)
		return NULL;
	page = write ? p2m_write(p, ppn, 0, PAGE_SIZE)
		     : (void *)p2m_read(p, ppn);
	if (page)
		__atomic_fetch_add(&p->pins[ppn.n], 1, __ATOMIC_RELAXED);
	return page;
}

void p2m_unpin(struct p2m *p, ppn_t ppn)
{
	uint16_t was = __atomic_fetch_sub(&p->pins[ppn.n], 1, __ATOMIC_RELEASE);

	ASSERT(was);
}
