/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation cache: memory for code, given out and taken back.
 *
 * The TC is one memfd mapped twice: executable and not writable for running,
 * writable and not executable for the translator (W^X). Its size is a bound
 * (--tc-size), and a guest may run more code than fits.
 *
 * Regions. The TC is cut into TC_REGIONS regions of equal size, and so are the
 * CCF ids and the recovery table: everything that belongs to a CCF of region r
 * lies in part r of its array. Regions are filled one after the other. When the
 * one being filled is full, the next in turn, which is the oldest, is evicted
 * as a whole and filled anew. A working set that is smaller than the TC less
 * one region so stays for the most part, and what was evicted by mistake costs
 * its own translation, not that of everything. (Dropping single CCFs would
 * need lists of free pieces, and knowledge of which CCFs are hot: chained code
 * leaves no trace of being run.)
 *
 * Eviction of a region undoes, for each CCF that is not dead already, what
 * others know of it: the hash, incoming chains (the exits of CCFs elsewhere go
 * back to their stubs), the IBTC, the list of its page; and its own outgoing
 * chains. The cost is that of its CCFs and, once a page, of the other CCFs in
 * that page's list. Pages without any CCF left are no code any more for the
 * p2m, so that writes to them are free.
 *
 * When. Only in tc_begin, for a new translation: the vCPU thread is in the
 * engine's loop then, no translated code is running or interrupted, and all of
 * the guest's state has been recovered. What points into the TC at that time
 * from outside of these books is listed in forget_outside. The callers hold no
 * ids across a translation but bt->pend_from, which is one of those.
 *
 * Invariants: CCFs of a region are in ascending order of TC offset and of id,
 * so the one that holds a host PC is found by bisection. An id is in the hash
 * if and only if it is below its region's n_ccf and not dead. A dead CCF has
 * no chains in or out and is not in the IBTC. CCF 0 does not exist; id 0 means
 * none.
 *
 * One thread. A killed process leaves nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"
#include "vmm/vm.h"
#include "vmm/x86/emit.h"
#include "vmm/x86/regs.h"

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void put_stubs(struct bt *bt)
{
	struct emit e = {bt->rw, bt->rw, bt->rw + TC_START, false};

	emit_jmp_m(&e, 15, BT_D_HOT(HOT_J_IBTC));
	e.p = bt->rw + TC_CHAIN_STUB;
	emit_store(&e, 11, 15, BT_D_HOT(HOT_EXIT_INFO));
	emit_jmp_m(&e, 15, BT_D_HOT(HOT_J_CHAIN));
	e.p = bt->rw + TC_RET_STUB;
	emit_mov(&e, R_RSP, 10);
	BUG_ON(e.p != bt->rw + TC_JMP_STUB);
	emit_movzx16(&e, 10, 11);
	emit_jmp_x(&e, 15, 10, BT_D_IBTC);
}

/* Region r has nothing in it. */
static void region_reset(struct bt *bt, unsigned r)
{
	/* Of region 0, the common stubs and CCF 0 are taken. */
	bt->region[r] = (struct tc_region){.used = r ? 0 : TC_START,
					   .n_ccf = r ? 0 : 1};
}

static void reset_all(struct bt *bt)
{
	for (unsigned r = 0; r < TC_REGIONS; r++)
		region_reset(bt, r);
	bt->tc_cur = 0;
	bt->stats.tc_used = TC_START;
	bt->stats.units_live = 0;
}

int tc_init(struct bt *bt, uint64_t bytes)
{
	bt->region_bytes = bytes / TC_REGIONS & PAGE_MASK;
	bt->region_ccf = bt->region_bytes / 64;
	bt->region_recov = bt->region_bytes / 8;
	bt->region_reloc = bt->region_bytes / 16;
	bt->tc_size = bytes = (uint64_t)bt->region_bytes * TC_REGIONS;
	bt->max_ccf = bt->region_ccf * TC_REGIONS;
	bt->max_recov = bt->region_recov * TC_REGIONS;
	bt->max_reloc = bt->region_reloc * TC_REGIONS;
	if (bytes < VM_TC_MIN || bytes > VM_TC_MAX)
		return -EINVAL;
	bt->tc_fd = memfd_create("sardine-tc", MFD_CLOEXEC);
	if (bt->tc_fd < 0 || ftruncate(bt->tc_fd, bytes))
		return -errno;
	bt->rx = tc_large_map(bt->tc_fd, bytes, PROT_READ | PROT_EXEC);
	bt->rw = tc_large_map(bt->tc_fd, bytes, PROT_READ | PROT_WRITE);
	bt->max_ppn = p2m_max_ppn(bt->p2m);
	bt->ccf = reserve(bt->max_ccf * sizeof(*bt->ccf));
	bt->recov = reserve(bt->max_recov * sizeof(*bt->recov));
	bt->reloc = reserve(bt->max_reloc * sizeof(*bt->reloc));
	bt->tmpl = reserve(sizeof(*bt->tmpl) << TMPL_BITS);
	bt->group = reserve(sizeof(*bt->group) << GROUP_BITS);
	bt->page_head = reserve(bt->max_ppn * sizeof(*bt->page_head));
	bt->smc_count = reserve(bt->max_ppn * sizeof(*bt->smc_count));
	if (!bt->rx || !bt->rw || !bt->ccf || !bt->recov || !bt->reloc ||
	    !bt->tmpl || !bt->group || !bt->page_head || !bt->smc_count ||
	    ccf_hash_init(bt) || ibtc_init(bt))
		return -ENOMEM;
	put_stubs(bt);
	ret_clear(bt, false);
	ret_clear(bt, true);
	reset_all(bt);
	bt->stats.tc_bytes = bytes;
	return 0;
}

void tc_fini(struct bt *bt)
{
	munmap(bt->rx, bt->tc_size);
	munmap(bt->rw, bt->tc_size);
	munmap(bt->ccf, bt->max_ccf * sizeof(*bt->ccf));
	munmap(bt->recov, bt->max_recov * sizeof(*bt->recov));
	munmap(bt->reloc, bt->max_reloc * sizeof(*bt->reloc));
	munmap(bt->tmpl, sizeof(*bt->tmpl) << TMPL_BITS);
	munmap(bt->group, sizeof(*bt->group) << GROUP_BITS);
	munmap(bt->page_head, bt->max_ppn * sizeof(*bt->page_head));
	munmap(bt->smc_count, bt->max_ppn * sizeof(*bt->smc_count));
	ccf_hash_fini(bt);
	ibtc_fini(bt);
	close(bt->tc_fd);
}

/* TC addresses that are kept outside of the CCFs' own books. Whoever keeps
 * another has to drop it here. */
static void forget_outside(struct bt *bt)
{
	bt->pend_from = 0;
	bt->v->bt_hot[HOT_LAST_IND] = 0;
}

static void evict(struct bt *bt, unsigned r)
{
	struct tc_region *g = &bt->region[r];
	uint32_t first = r * bt->region_ccf, end = first + g->n_ccf;

	forget_outside(bt);
	for (uint32_t id = first ? first : 1; id < end; id++)
		ccf_evict(bt, id);
	bt->stats.tc_evictions++;
	bt->stats.tc_used -= g->used + g->cold;
	region_reset(bt, r);
	bt->stats.tc_used += bt->region[r].used;
}

bool tc_has_room(const struct bt *bt)
{
	const struct tc_region *g = &bt->region[bt->tc_cur];

	return g->n_ccf < bt->region_ccf &&
	       g->used + g->cold + TC_ALIGN + CCF_MAX_BYTES + CCF_MAX_COLD <=
		       bt->region_bytes &&
	       g->n_recov + CCF_MAX_RECOV <= bt->region_recov &&
	       g->n_reloc + RELOC_MAX <= bt->region_reloc;
}

uint32_t tc_place(struct bt *bt, uint64_t rip)
{
	struct tc_region *g;
	struct ccf *c;
	uint32_t id;

	if (!tc_has_room(bt)) {
		bt->tc_cur = (bt->tc_cur + 1) % TC_REGIONS;
		if (bt->region[bt->tc_cur].n_recov)
			evict(bt, bt->tc_cur);
	}
	g = &bt->region[bt->tc_cur];
	id = bt->tc_cur * bt->region_ccf + g->n_ccf;
	c = &bt->ccf[id];
	c->host = bt->tc_cur * bt->region_bytes + g->used;
	if (!g->n_ccf || !ccf_falls_to(bt, id - 1, rip))
		c->host = (c->host + TC_ALIGN - 1) & -TC_ALIGN;
	c->recov = bt->tc_cur * bt->region_recov + g->n_recov;
	c->reloc = bt->tc_cur * bt->region_reloc + g->n_reloc;
	return id;
}

uint32_t tc_begin(struct bt *bt, uint64_t rip)
{
	uint32_t id = tc_place(bt, rip);
	struct ccf *c = &bt->ccf[id], at = *c;

	memset(c, 0, sizeof(*c));
	c->host = at.host;
	c->recov = at.recov;
	c->reloc = at.reloc;
	return id;
}

void tc_commit(struct bt *bt, uint32_t id)
{
	struct tc_region *g = &bt->region[bt->tc_cur];
	struct ccf *c = &bt->ccf[id];
	uint32_t start = bt->tc_cur * bt->region_bytes;
	uint32_t end = c->host + c->host_len - start;
	struct bt_stats *st = &bt->stats;

	cold_size(c);
	st->tc_used += end - g->used + c->cold_len;
	g->n_ccf++;
	g->n_recov += c->n_recov;
	g->n_reloc += c->n_reloc;
	g->used = end;
	g->cold += c->cold_len;
	c->cold = start + bt->region_bytes - g->cold;
	cold_put(bt, id);
	if (st->tc_used > st->tc_peak)
		st->tc_peak = st->tc_used;
	ccf_insert(bt, id);
}

void tc_flush(struct bt *bt)
{
	forget_outside(bt);
	for (unsigned r = 0; r < TC_REGIONS; r++) {
		uint32_t first = r * bt->region_ccf;

		for (uint32_t k = r ? 0 : 1; k < bt->region[r].n_ccf; k++)
			ccf_forget_pages(bt, first + k);
	}
	ibtc_flush(bt, 0);
	ibtc_flush_user(bt);
	ccf_hash_reset(bt);
	bt->stats.exits = bt->stats.exits_chained = 0;
	reset_all(bt);
	bt->stats.tc_flushes++;
}

uint64_t tc_memory(struct bt *bt)
{
	uint64_t sum = bt->stats.tc_used;

	for (unsigned r = 0; r < TC_REGIONS; r++) {
		const struct tc_region *g = &bt->region[r];

		sum += g->n_ccf * (uint64_t)sizeof(*bt->ccf) +
		       g->n_recov * (uint64_t)sizeof(*bt->recov) +
		       g->n_reloc * (uint64_t)sizeof(*bt->reloc);
	}
	/* What is evicted or flushed is still there, to be filled anew. */
	if (sum > bt->tc_memory)
		bt->tc_memory = sum;
	return bt->tc_memory;
}

void tc_trim(struct bt *bt)
{
	/* What cannot be given back stays: it is only memory. */
	(void)!fallocate(bt->tc_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 0, (off_t)bt->tc_size);
	tc_large_trim(bt);
	madvise(bt->ccf, bt->max_ccf * sizeof(*bt->ccf), MADV_DONTNEED);
	madvise(bt->recov, bt->max_recov * sizeof(*bt->recov), MADV_DONTNEED);
	madvise(bt->reloc, bt->max_reloc * sizeof(*bt->reloc), MADV_DONTNEED);
	madvise(bt->tmpl, sizeof(*bt->tmpl) << TMPL_BITS, MADV_DONTNEED);
	madvise(bt->group, sizeof(*bt->group) << GROUP_BITS, MADV_DONTNEED);
	ccf_hash_trim(bt);
	ibtc_trim(bt);
	decode_trim(bt);
	bt->tc_memory = 0;
	put_stubs(bt);
}

uint32_t tc_find(struct bt *bt, uint32_t host)
{
	uint32_t r = host / bt->region_bytes, first = r * bt->region_ccf;
	uint32_t lo = first, hi;

	if (r >= TC_REGIONS)
		return 0;
	hi = first + bt->region[r].n_ccf;
	if (!lo)
		lo = 1;
	/* The first CCF that begins after host. */
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (bt->ccf[mid].host <= host)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo <= (first ? first : 1))
		return 0;
	lo--;
	return host < bt->ccf[lo].host + bt->ccf[lo].host_len ? lo : 0;
}

const struct recov *tc_recov(struct bt *bt, uint32_t id, uint32_t host)
{
	const struct ccf *c = &bt->ccf[id];
	const struct recov *r = NULL;

	for (unsigned i = 0; i < c->n_recov; i++) {
		if (bt->recov[c->recov + i].host > host - c->host)
			break;
		r = &bt->recov[c->recov + i];
	}
	return r;
}
