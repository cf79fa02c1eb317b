/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation cache: memory for code, and the books about it.
 *
 * The TC is one memfd mapped twice: executable and not writable for running,
 * writable and not executable for the translator (W^X). CCFs are given out in
 * ascending order, so the one that holds a host PC is found by bisection. They
 * are found by (rip, PPN, mode) through a hash, and by PPN for invalidation.
 * When it is full everything is dropped (tc_flush): simple, and rare with a TC
 * of the size of the guest's working set.
 *
 * CCF 0 does not exist; id 0 means none.
 *
 * The IBTC holds, for the low 16 bits of a target, the checked entry of a CCF;
 * others with the same low bits hang behind it, each check that fails leading
 * to the next. (A kernel has some thousand hot targets: without that, a fork
 * in the guest missed 150 times.) What it holds is right for the running address space: it is filled
 * after a walk, and emptied when translations change (exec.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"
#include "vmm/x86/emit.h"

#define HASH_BITS 17
#define IBTC_LOG  16384
#define IBTC_WAYS 4 /* CCFs that share an entry, tried in turn */

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void put_miss_stub(struct bt *bt)
{
	struct emit e = {bt->rw, bt->rw, bt->rw + TC_START, false};

	emit_jmp_m(&e, 15, BT_D_HOT(HOT_J_IBTC));
	bt->tc_used = TC_START;
}

int tc_init(struct bt *bt, uint64_t bytes)
{
	bt->tc_size = bytes;
	bt->tc_fd = memfd_create("sardine-tc", MFD_CLOEXEC);
	if (bt->tc_fd < 0 || ftruncate(bt->tc_fd, bytes))
		return -errno;
	bt->rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, bt->tc_fd,
		      0);
	bt->rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		      bt->tc_fd, 0);
	bt->max_ccf = bytes / 64;
	bt->max_recov = bytes / 8;
	bt->max_ppn = p2m_max_ppn(bt->p2m);
	bt->ccf = reserve(bt->max_ccf * sizeof(*bt->ccf));
	bt->recov = reserve(bt->max_recov * sizeof(*bt->recov));
	bt->hash = reserve(sizeof(*bt->hash) << HASH_BITS);
	bt->page_head = reserve(bt->max_ppn * sizeof(*bt->page_head));
	bt->smc_count = reserve(bt->max_ppn * sizeof(*bt->smc_count));
	for (int v = 0; v < 2; v++) {
		bt->ibtc_log[v] = reserve(IBTC_LOG * sizeof(uint16_t));
		bt->ibtc_head[v] = reserve(BT_IBTC_ENTRIES * sizeof(uint32_t));
		if (!bt->ibtc_head[v])
			return -ENOMEM;
	}
	if (bt->rx == MAP_FAILED || bt->rw == MAP_FAILED || !bt->ccf ||
	    !bt->recov || !bt->hash || !bt->page_head || !bt->smc_count ||
	    !bt->ibtc_log[0] || !bt->ibtc_log[1])
		return -ENOMEM;
	bt->n_ccf = 1;
	put_miss_stub(bt);
	return 0;
}

void tc_fini(struct bt *bt)
{
	munmap(bt->rx, bt->tc_size);
	munmap(bt->rw, bt->tc_size);
	munmap(bt->ccf, bt->max_ccf * sizeof(*bt->ccf));
	munmap(bt->recov, bt->max_recov * sizeof(*bt->recov));
	munmap(bt->hash, sizeof(*bt->hash) << HASH_BITS);
	munmap(bt->page_head, bt->max_ppn * sizeof(*bt->page_head));
	munmap(bt->smc_count, bt->max_ppn * sizeof(*bt->smc_count));
	for (int v = 0; v < 2; v++) {
		munmap(bt->ibtc_log[v], IBTC_LOG * sizeof(uint16_t));
		munmap(bt->ibtc_head[v], BT_IBTC_ENTRIES * sizeof(uint32_t));
	}
	close(bt->tc_fd);
}

static unsigned hash_of(uint64_t rip, uint32_t ppn, uint8_t mode)
{
	uint64_t h =
		(rip ^ ((uint64_t)ppn << 20) ^ mode) * 0x9e3779b97f4a7c15ull;

	return h >> (64 - HASH_BITS);
}

uint32_t tc_lookup(struct bt *bt, uint64_t rip, uint32_t ppn, uint8_t mode)
{
	uint32_t id, ppn2;

	for (id = bt->hash[hash_of(rip, ppn, mode)]; id;
	     id = bt->ccf[id].next_hash) {
		const struct ccf *c = &bt->ccf[id];

		if (c->rip != rip || c->ppn != ppn || c->mode != mode)
			continue;
		if (!(c->flags & CCF_STRADDLE))
			return id;
		if (exec_cached(bt, (rip | (PAGE_SIZE - 1)) + 1, &ppn2) &&
		    ppn2 == c->ppn2)
			return id;
	}
	return 0;
}

void tc_insert(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t *h = &bt->hash[hash_of(c->rip, c->ppn, c->mode)];

	c->next_hash = *h;
	*h = id;
	c->next_page = bt->page_head[c->ppn];
	bt->page_head[c->ppn] = id;
	if (c->flags & CCF_STRADDLE) {
		c->next_page2 = bt->page_head[c->ppn2];
		bt->page_head[c->ppn2] = id;
	}
}

/* The link of a CCF in the list of page ppn. */
static uint32_t *page_next(struct bt *bt, uint32_t id, uint32_t ppn)
{
	struct ccf *c = &bt->ccf[id];

	/* ppn == ppn2 of a straddler: it is in the list twice; the first
	 * occurrence met is the ppn2 link, which was pushed last. */
	if ((c->flags & CCF_STRADDLE) && c->ppn2 == ppn && c->ppn != ppn)
		return &c->next_page2;
	return &c->next_page;
}

static void patch_rel32(struct bt *bt, uint32_t at, uint32_t to)
{
	int32_t d = (int32_t)(to - (at + 4));

	memcpy(bt->rw + at, &d, 4);
}

void tc_chain(struct bt *bt, uint32_t from, unsigned exit, uint32_t to)
{
	struct ccf *f = &bt->ccf[from], *c = &bt->ccf[to];
	struct ccf_exit *x = &f->exit[exit];

	if (x->to || (f->flags & CCF_DEAD))
		return;
	patch_rel32(bt, f->host + x->patch, c->host + c->direct);
	x->to = to;
	x->next_in = c->incoming;
	c->incoming = from * 2 + exit;
	bt->stats.chained++;
}

static void unchain_incoming(struct bt *bt, struct ccf *c)
{
	uint32_t in = c->incoming;

	while (in) {
		struct ccf *f = &bt->ccf[in / 2];
		struct ccf_exit *x = &f->exit[in & 1];

		patch_rel32(bt, f->host + x->patch, f->host + x->stub);
		x->to = 0;
		in = x->next_in;
		x->next_in = 0;
	}
	c->incoming = 0;
}

/* Take exit e of CCF id out of its target's list of incoming exits. */
static void unlink_exit(struct bt *bt, uint32_t id, unsigned e)
{
	struct ccf_exit *x = &bt->ccf[id].exit[e];
	uint32_t *p;

	if (!x->to)
		return;
	for (p = &bt->ccf[x->to].incoming; *p != id * 2 + e;
	     p = &bt->ccf[*p / 2].exit[*p & 1].next_in)
		;
	*p = x->next_in;
	x->to = 0;
}

/* ---- the IBTC ---- */

static void ibtc_set_head(struct bt *bt, unsigned v, unsigned slot, uint32_t id)
{
	bt->ibtc_head[v][slot] = id;
	bt->ibtc[v][slot] = id ? bt->rx + bt->ccf[id].host : bt->ibtc_miss;
}

/* Where the check of a CCF leads when it fails. */
static void ibtc_set_next(struct bt *bt, uint32_t id, uint32_t next)
{
	struct ccf *c = &bt->ccf[id];

	c->ibtc_next = next;
	patch_rel32(bt, c->host + c->miss,
		    next ? bt->ccf[next].host : TC_MISS_STUB);
}

static void ibtc_clear(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned v = c->mode & MODE_USER ? 1 : 0;
	unsigned slot = c->rip & (BT_IBTC_ENTRIES - 1);
	uint32_t p = bt->ibtc_head[v][slot];

	if (!c->in_ibtc)
		return;
	if (p == id) {
		ibtc_set_head(bt, v, slot, c->ibtc_next);
	} else {
		while (bt->ccf[p].ibtc_next != id)
			p = bt->ccf[p].ibtc_next;
		ibtc_set_next(bt, p, c->ibtc_next);
	}
	ibtc_set_next(bt, id, 0);
	c->in_ibtc = false;
}

static void ibtc_clear_slot(struct bt *bt, unsigned v, unsigned slot)
{
	uint32_t id = bt->ibtc_head[v][slot];

	while (id) {
		uint32_t next = bt->ccf[id].ibtc_next;

		ibtc_set_next(bt, id, 0);
		bt->ccf[id].in_ibtc = false;
		id = next;
	}
	ibtc_set_head(bt, v, slot, 0);
}

static void ccf_kill(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t *p = &bt->hash[hash_of(c->rip, c->ppn, c->mode)];

	while (*p != id)
		p = &bt->ccf[*p].next_hash;
	*p = c->next_hash;
	unchain_incoming(bt, c);
	unlink_exit(bt, id, 0);
	unlink_exit(bt, id, 1);
	ibtc_clear(bt, id);
	c->flags |= CCF_DEAD;
}

/* Offsets of page ppn that CCF c was made from. */
static bool ccf_overlaps(const struct ccf *c, uint32_t ppn, unsigned off,
			 unsigned len)
{
	unsigned start = c->rip & (PAGE_SIZE - 1), end = start + c->guest_len;

	if (c->ppn == ppn && off < end && start < off + len)
		return true;
	return (c->flags & CCF_STRADDLE) && c->ppn2 == ppn &&
	       off < end - PAGE_SIZE;
}

unsigned tc_drop_page(struct bt *bt, uint32_t ppn, unsigned off, unsigned len)
{
	uint32_t *p = &bt->page_head[ppn];
	unsigned n = 0;

	while (*p) {
		uint32_t id = *p;
		struct ccf *c = &bt->ccf[id];

		if (c->flags & CCF_DEAD) {
			*p = *page_next(bt, id, ppn);
		} else if (ccf_overlaps(c, ppn, off, len)) {
			ccf_kill(bt, id);
			*p = *page_next(bt, id, ppn);
			n++;
		} else {
			p = page_next(bt, id, ppn);
		}
	}
	return n;
}

void tc_flush(struct bt *bt)
{
	for (uint32_t id = 1; id < bt->n_ccf; id++) {
		const struct ccf *c = &bt->ccf[id];

		bt->page_head[c->ppn] = 0;
		p2m_set_code(bt->p2m, (ppn_t){c->ppn}, false);
		if (c->flags & CCF_STRADDLE) {
			bt->page_head[c->ppn2] = 0;
			p2m_set_code(bt->p2m, (ppn_t){c->ppn2}, false);
		}
	}
	memset(bt->hash, 0, sizeof(*bt->hash) << HASH_BITS);
	ibtc_flush(bt, 0);
	ibtc_flush(bt, 1);
	bt->n_ccf = 1;
	bt->n_recov = 0;
	bt->tc_used = TC_START;
	bt->stats.tc_flushes++;
}

void tc_trim(struct bt *bt)
{
	/* What cannot be given back stays: it is only memory. */
	(void)!fallocate(bt->tc_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 0, (off_t)bt->tc_size);
	madvise(bt->ccf, bt->max_ccf * sizeof(*bt->ccf), MADV_DONTNEED);
	madvise(bt->recov, bt->max_recov * sizeof(*bt->recov), MADV_DONTNEED);
	madvise(bt->hash, sizeof(*bt->hash) << HASH_BITS, MADV_DONTNEED);
	for (int v = 0; v < 2; v++)
		madvise(bt->ibtc_head[v], BT_IBTC_ENTRIES * sizeof(uint32_t),
			MADV_DONTNEED);
	put_miss_stub(bt);
}

uint32_t tc_find(struct bt *bt, uint32_t host)
{
	uint32_t lo = 1, hi = bt->n_ccf;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (bt->ccf[mid].host <= host)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 1)
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

/* The user view's IBTC is about to depend on this page. */
static void uexec_add(struct bt *bt, uint64_t vpage, uint32_t ppn)
{
	bool other = false; /* the same page, elsewhere before */

	for (unsigned i = bt->n_uexec; i-- > 0;)
		if (bt->uexec[i].vpage == vpage) {
			if (bt->uexec[i].ppn == ppn)
				return;
			other = true;
		}
	if (bt->n_uexec == UEXEC_MAX || other) {
		ibtc_flush(bt, 1);
		bt->n_uexec = 0;
	}
	bt->uexec[bt->n_uexec].vpage = vpage;
	bt->uexec[bt->n_uexec++].ppn = ppn;
}

void ibtc_fill(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned v = c->mode & MODE_USER ? 1 : 0;
	unsigned i = c->rip & (BT_IBTC_ENTRIES - 1), n;
	uint32_t head, k;

	if (v) {
		uexec_add(bt, c->rip >> PAGE_SHIFT, c->ppn);
		if (c->flags & CCF_STRADDLE)
			uexec_add(bt, (c->rip >> PAGE_SHIFT) + 1, c->ppn2);
	}
	if (c->in_ibtc)
		return;
	head = bt->ibtc_head[v][i];
	for (n = 0, k = head; k; k = bt->ccf[k].ibtc_next)
		n++;
	if (n >= IBTC_WAYS) {
		ibtc_clear_slot(bt, v, i);
		head = 0;
	} else if (!n) {
		if (bt->ibtc_log_n[v] == IBTC_LOG)
			ibtc_flush(bt, v);
		bt->ibtc_log[v][bt->ibtc_log_n[v]++] = i;
	}
	c->in_ibtc = true;
	ibtc_set_next(bt, id, head);
	ibtc_set_head(bt, v, i, id);
	bt->stats.ibtc_fills++;
}

void ibtc_flush(struct bt *bt, unsigned v)
{
	for (uint32_t k = 0; k < bt->ibtc_log_n[v]; k++)
		ibtc_clear_slot(bt, v, bt->ibtc_log[v][k]);
	bt->ibtc_log_n[v] = 0;
	bt->stats.ibtc_flushes++;
}
