/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The indirect-branch table (IBTC).
 *
 * It holds, for the low 16 bits of a target, the checked entry of a CCF;
 * others with the same low bits hang behind it, each check that fails leading
 * to the next. (A kernel has some thousand hot targets: without that, a fork
 * in the guest missed 150 times.) What it holds is right for the running
 * address space: it is filled after a walk, and emptied when translations
 * change (exec.c).
 *
 * A log of the entries in use makes emptying it cheap.
 *
 * Built with -mgeneral-regs-only: bt_fast_dispatch calls in here.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/bt/bt_priv.h"

#define IBTC_LOG   16384
#define IBTC_WAYS  4 /* CCFs that share an entry, tried in turn */
#define HEAD_BYTES (BT_IBTC_ENTRIES * sizeof(uint32_t))
#define LOG_BYTES  (IBTC_LOG * sizeof(uint16_t))

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int ibtc_init(struct bt *bt)
{
	for (int v = 0; v < 2; v++) {
		bt->ibtc_log[v] = reserve(LOG_BYTES);
		bt->ibtc_head[v] = reserve(HEAD_BYTES);
		if (!bt->ibtc_log[v] || !bt->ibtc_head[v])
			return -ENOMEM;
	}
	return 0;
}

void ibtc_fini(struct bt *bt)
{
	for (int v = 0; v < 2; v++) {
		munmap(bt->ibtc_log[v], LOG_BYTES);
		munmap(bt->ibtc_head[v], HEAD_BYTES);
	}
}

void ibtc_trim(struct bt *bt)
{
	for (int v = 0; v < 2; v++)
		madvise(bt->ibtc_head[v], HEAD_BYTES, MADV_DONTNEED);
}

static void set_head(struct bt *bt, unsigned v, unsigned slot, uint32_t id)
{
	bt->ibtc_head[v][slot] = id;
	bt->ibtc[v][slot] = id ? bt->rx + bt->ccf[id].host : bt->ibtc_miss;
}

/* Where the check of a CCF leads when it fails. */
static void set_next(struct bt *bt, uint32_t id, uint32_t next)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t at = c->host + c->miss;
	uint32_t to = next ? bt->ccf[next].host : TC_MISS_STUB;
	int32_t d = (int32_t)(to - (at + 4));

	c->ibtc_next = next;
	memcpy(bt->rw + at, &d, 4);
}

void ibtc_clear(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned v = c->mode & MODE_USER ? 1 : 0;
	unsigned slot = c->rip & (BT_IBTC_ENTRIES - 1);
	uint32_t p = bt->ibtc_head[v][slot];

	if (!c->in_ibtc)
		return;
	if (p == id) {
		set_head(bt, v, slot, c->ibtc_next);
	} else {
		while (bt->ccf[p].ibtc_next != id)
			p = bt->ccf[p].ibtc_next;
		set_next(bt, p, c->ibtc_next);
	}
	set_next(bt, id, 0);
	c->in_ibtc = false;
}

static void clear_slot(struct bt *bt, unsigned v, unsigned slot)
{
	uint32_t id = bt->ibtc_head[v][slot];

	while (id) {
		uint32_t next = bt->ccf[id].ibtc_next;

		set_next(bt, id, 0);
		bt->ccf[id].in_ibtc = false;
		id = next;
	}
	set_head(bt, v, slot, 0);
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
		clear_slot(bt, v, i);
		head = 0;
	} else if (!n) {
		if (bt->ibtc_log_n[v] == IBTC_LOG)
			ibtc_flush(bt, v);
		bt->ibtc_log[v][bt->ibtc_log_n[v]++] = i;
	}
	c->in_ibtc = true;
	set_next(bt, id, head);
	set_head(bt, v, i, id);
	bt->stats.ibtc_fills++;
}

void ibtc_flush(struct bt *bt, unsigned v)
{
	for (uint32_t k = 0; k < bt->ibtc_log_n[v]; k++)
		clear_slot(bt, v, bt->ibtc_log[v][k]);
	bt->ibtc_log_n[v] = 0;
	bt->stats.ibtc_flushes++;
}
