/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds for the running address space only: the indirect-branch table
 * (IBTC), and the chains that lead from one page to another.
 *
 * It holds, for the low 16 bits of a target, the checked entry of a CCF;
 * others with the same low bits hang behind it, each check that fails leading
 * to the next. (A kernel has some thousand hot targets: without that, a fork
 * in the guest missed 150 times.) What it holds is right for the running
 * address space: it is filled after a walk, and emptied when translations
 * change (exec.c).
 *
 * A chain within a page (ccf.c) leads from a physical page into the same one,
 * however it came to be run. One across pages holds as long as the walk for its
 * target does, exactly like an IBTC entry: so it is made and undone with them. A
 * log of such exits, and one of the IBTC's entries in use, make emptying cheap.
 * An exit in the log may have been unchained or its CCF replaced by another
 * since; then what is undone is nothing, or a chain that can be made again.
 *
 * Contexts. User code has NR_CTX tables, each in a view of the vCPU of its own,
 * so that going from one process to another changes rT and empties nothing. A
 * context is a set of pages of code, (page number, PPN), with the table and the
 * chains that were made from them; it serves any address space that has all of
 * them, as those of a fork do. Each CR3 write, and each flush, proves that
 * before user code runs: by walking for every page of the set, or by having done
 * so since anything of that space was flushed (its epoch). If it does not hold
 * the context is emptied. A flush of one page empties the context of the space
 * that it was in: another context that this space may have used is walked for
 * again, as the space gets another epoch. Translations belong to a context (it
 * is in their key), so a chain across pages leads from a unit of one context to
 * another of it, and what another context has proved is never relied on. A space
 * stays with its context, as far as `home` remembers, for the translations'
 * sake; spaces that share one without having the same code empty it in turn, and
 * one that has found its context emptied by another CLASHES times moves to the
 * one that was not used for longest.
 *
 * Returns. An indirect jump for each return asks too much of the host's
 * predictor of such jumps when there is much code: a quarter of gcc's samples
 * were at the entries that returns led to. So calls are made with a call of the
 * host, and returns with a return of it, which has a predictor of its own; but
 * what the host pushes may not lie in the guest's stack. bt_ret, in the vCPU's
 * page, is 256 code pointers, by the low byte of the guest's return address. The
 * code of a guest's call
 *
 *	push the return address, as ever ; mov r10, rsp ; rsp = past its entry
 *	call the target	   so the entry holds the pad's address
 *	the pad: mov rsp, r10 ; check that r11 is the return address
 *	what follows the guest's call
 *
 * where the target's unit has mov rsp, r10 in front of its code if it was first
 * reached by such a call, and else that is in the cold part of the caller's;
 * and that of a guest's return
 *
 *	pop r11, as ever ; r10 = the entry for r11 ; xchg r10, rsp ; ret
 *
 * Nothing faults while RSP is elsewhere, and no signal but for a fault is taken.
 * An entry that has another call's pad by now, or none (TC_RET_STUB), leads to
 * the jump through the IBTC in the end, as does a return that no call
 * belongs to. What is in bt_ret is only written by such calls and emptied here.
 * A pad holds while its own unit's page is where it was when it ran: so all
 * entries of CPL 3 go with each change of address space or of any context, those
 * of CPL 0 with the kernel's IBTC, and a unit's with the unit. It is six more
 * instructions for a call and its return, and where the predictor of jumps holds
 * all of a program's returns these are for nothing (sqlite took 1.13 times as
 * long, python 1.01; gcc 0.8): only user code of PAIR_PAGES pages or more
 * is paired, with gcc at 2600 and the others at little more than 500. What such a
 * program has from before is dropped then, and translated anew where it still
 * runs: what comes first is used most (gcc 0.96). Code that is paired and code
 * that is not may call each other.
 *
 * The index is the target's low 16 bits. (PEXT of 16 higher ones, by which targets lie
 * closer together in the first-level cache, gained nothing: sqlite 0.93 to 1.02, python
 * and gcc 0.98 to 1.02.)
 *
 * Memory. The table is 512 KiB a view, and its entries are scattered over it. It
 * is a private mapping of a few pages full of misses, over and over, so that
 * what was never filled costs nothing and throwing the private pages away
 * empties it exactly. A VM at rest runs a few thousand indirect branches a
 * second, to targets all over the table: after a trim nothing is filled until
 * there are more (a miss costs a tenth of a microsecond, a page 4 KiB).
 *
 * Built with -mgeneral-regs-only: bt_fast_dispatch calls in here.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/bt/bt_priv.h"
#include "vmm/mmu/walk.h"
#include "vmm/x86/regs.h"

#define IBTC_LOG    65536
#define CROSS_LOG   65536
#define IBTC_WAYS   4	  /* CCFs that share an entry, tried in turn */
#define MISS_BYTES  16384 /* of the page of misses */
/* At rest: with fewer misses than this in a second or so, nothing is filled. */
#define COLD_MISSES 16384
#define COLD_CYCLES (1ull << 31)
/* A set of at least so many pages that holds is no accident. */
#define LIKELY_SAME 8
/* Address spaces that share a place in `home`. */
#define HOMES	    4u
/* Two that work in turn (a server and its client) need contexts of their own; a
 * process that takes the place of another does not. */
#define CLASHES	    8u
/* Contexts with at least so many pages of code pair calls and returns. */
#define PAIR_PAGES  1024
#define LOG_BYTES   (IBTC_LOG * sizeof(uint16_t))
#define CROSS_BYTES (CROSS_LOG * sizeof(uint32_t))

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int ibtc_init(struct bt *bt)
{
	for (unsigned v = 0; v < NR_VIEWS; v++) {
		bt->ibtc_log[v] = reserve(LOG_BYTES);
		bt->cross_log[v] = reserve(CROSS_BYTES);
		if (!bt->ibtc_log[v] || !bt->cross_log[v])
			return -ENOMEM;
	}
	bt->set = reserve(NR_CTX * sizeof(*bt->set));
	return bt->set ? 0 : -ENOMEM;
}

int ibtc_map(struct bt *bt, unsigned v, void *at)
{
	void *page[MISS_BYTES / sizeof(void *)];

	if (bt->miss_fd < 0) {
		for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = bt->ibtc_miss;
		bt->miss_fd = memfd_create("sardine-miss", MFD_CLOEXEC);
		if (bt->miss_fd < 0 ||
		    write(bt->miss_fd, page, MISS_BYTES) != MISS_BYTES)
			return -ENOMEM;
	}
	for (size_t o = 0; o < BT_IBTC_BYTES; o += MISS_BYTES)
		if (mmap((char *)at + o, MISS_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED, bt->miss_fd, 0) == MAP_FAILED)
			return -ENOMEM;
	bt->ibtc[v] = at;
	return 0;
}

void ibtc_fini(struct bt *bt)
{
	for (unsigned v = 0; v < NR_VIEWS; v++) {
		munmap(bt->ibtc_log[v], LOG_BYTES);
		munmap(bt->cross_log[v], CROSS_BYTES);
	}
	munmap(bt->set, NR_CTX * sizeof(*bt->set));
}

void ibtc_trim(struct bt *bt)
{
	for (unsigned v = 0; v < NR_VIEWS; v++) {
		madvise(bt->ibtc[v], BT_IBTC_BYTES, MADV_DONTNEED);
		madvise(bt->ibtc_log[v], LOG_BYTES, MADV_DONTNEED);
		madvise(bt->cross_log[v], CROSS_BYTES, MADV_DONTNEED);
	}
	madvise(bt->set, NR_CTX * sizeof(*bt->set), MADV_DONTNEED);
	bt->cold = true;
	bt->cold_misses = 0;
	bt->cold_since = __builtin_ia32_rdtsc();
}

/* A miss at rest: is it still? */
static bool still_cold(struct bt *bt)
{
	uint64_t now;

	if (++bt->cold_misses < COLD_MISSES)
		return true;
	now = __builtin_ia32_rdtsc();
	bt->cold = now - bt->cold_since > COLD_CYCLES;
	bt->cold_since = now;
	bt->cold_misses = 0;
	return bt->cold;
}

/* The first CCF of an entry, or 0: its id is in front of its code (tc.c). */
static uint32_t get_head(struct bt *bt, unsigned v, unsigned slot)
{
	const void *e = bt->ibtc[v][slot];
	uint32_t id;

	if (e == bt->ibtc_miss)
		return 0;
	memcpy(&id, bt->rw + ((const uint8_t *)e - bt->rx) - sizeof(id),
	       sizeof(id));
	return id;
}

static void set_head(struct bt *bt, unsigned v, unsigned slot, uint32_t id)
{
	bt->ibtc[v][slot] = id ? bt->rx + bt->ccf[id].checked : bt->ibtc_miss;
}

/* Where the check of a CCF leads when it fails. */
static void set_next(struct bt *bt, uint32_t id, uint32_t next)
{
	struct ccf *c = &bt->ccf[id];
	uint32_t at = ccf_miss(c);
	uint32_t to = next ? bt->ccf[next].checked : TC_MISS_STUB;
	int32_t d = (int32_t)(to - (at + 4));

	c->ibtc_next = next;
	memcpy(bt->rw + at, &d, 4);
}

void ibtc_clear(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned v = mode_view(c->mode);
	unsigned slot = c->rip & (BT_IBTC_ENTRIES - 1);
	uint32_t p;

	if (!c->in_ibtc)
		return;
	p = get_head(bt, v, slot);
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
	uint32_t id = get_head(bt, v, slot);

	while (id) {
		uint32_t next = bt->ccf[id].ibtc_next;

		set_next(bt, id, 0);
		bt->ccf[id].in_ibtc = false;
		id = next;
	}
	set_head(bt, v, slot, 0);
}

/* ---- returns ---- */

bool ret_pairs(const struct bt *bt)
{
	return bt->pair_all ||
	       ((bt->mode & MODE_USER) && bt->set[bt->ctx].n >= PAIR_PAGES);
}

void ret_pair_all(struct bt *bt)
{
	const struct exec_set *s = &bt->set[bt->ctx];

	bt->pair_due = false;
	for (unsigned i = 0; i < s->n && ret_pairs(bt); i++)
		tc_drop_unpaired(bt, s->page[i].ppn, bt_key(bt));
}

void ret_clear(struct bt *bt, bool user)
{
	uint64_t *r = bt->v->bt_ret[user];

	for (unsigned i = 0; i < ARRAY_SIZE(bt->v->bt_ret[user]); i++)
		r[i] = (uint64_t)bt->rx + TC_RET_STUB;
}

void ret_forget(struct bt *bt, const struct ccf *c)
{
	for (unsigned i = 0; i < c->n_pad; i++) {
		uint64_t *r = ret_entry(bt, c->mode, c->rip + c->pad[i].next);

		if (*r == (uint64_t)bt->rx + c->host + c->pad[i].host)
			*r = (uint64_t)bt->rx + TC_RET_STUB;
	}
}

static void set_reset(struct exec_set *s)
{
	uint64_t *p = (uint64_t *)s->hash;

	/* By hand: libc's memset would use the guest's vector registers. */
	for (unsigned i = 0; s->n && i < sizeof(s->hash) / 8; i++)
		p[i] = 0;
	s->n = 0;
	s->gen++;
	s->life++;
}

/* Where vpage is in the hash, or belongs. It is never more than half full. */
static uint16_t *set_slot(struct exec_set *s, uint64_t vpage)
{
	unsigned h = (vpage * 0x9e3779b97f4a7c15ull) >> 51;

	while (s->hash[h] && s->page[s->hash[h] - 1].vpage != vpage)
		h = (h + 1) % UEXEC_HASH;
	return &s->hash[h];
}

bool ibtc_uses(struct bt *bt, uint64_t vpage)
{
	for (unsigned k = 0; k < NR_CTX; k++)
		if (bt->set[k].n && *set_slot(&bt->set[k], vpage))
			return true;
	return false;
}

/* User view v is about to depend on this page. */
static void set_add(struct bt *bt, unsigned v, uint64_t vpage, uint32_t ppn)
{
	struct exec_set *s = &bt->set[v - VIEW_USER];
	uint64_t epoch = shadow_space_epoch(bt->sh);
	unsigned k = epoch % ARRAY_SIZE(s->ok);
	uint16_t *slot = set_slot(s, vpage);

	if (*slot && s->page[*slot - 1].ppn == ppn)
		return;
	/* Full, or the same page was elsewhere before. */
	if (*slot || s->n == UEXEC_MAX) {
		ibtc_flush(bt, v);
		slot = set_slot(s, vpage);
	}
	s->page[s->n].vpage = vpage;
	s->page[s->n++].ppn = ppn;
	*slot = s->n;
	s->gen++;
	bt->pair_due |= s->n == PAIR_PAGES;
	/* It has just been walked for (exec.c): what held still does. */
	if (s->ok[k].epoch == epoch && s->ok[k].gen == s->gen - 1)
		s->ok[k].gen = s->gen;
}

static void note_pages(struct bt *bt, const struct ccf *c)
{
	unsigned v = mode_view(c->mode);

	if (!v)
		return;
	set_add(bt, v, c->rip >> PAGE_SHIFT, c->ppn);
	if (c->flags & CCF_STRADDLE)
		set_add(bt, v, (c->rip >> PAGE_SHIFT) + 1, c->ppn2);
}

void ibtc_note_cross(struct bt *bt, uint32_t from, unsigned exit, uint32_t to)
{
	unsigned v = mode_view(bt->ccf[to].mode);

	note_pages(bt, &bt->ccf[to]);
	if (bt->n_cross[v] == CROSS_LOG) {
		ibtc_flush(bt, v);
		note_pages(bt, &bt->ccf[to]);
	}
	bt->cross_log[v][bt->n_cross[v]++] = EXIT_ID(from, exit);
}

void ibtc_fill(struct bt *bt, uint32_t id)
{
	struct ccf *c = &bt->ccf[id];
	unsigned v = mode_view(c->mode);
	unsigned i = c->rip & (BT_IBTC_ENTRIES - 1), n;
	uint32_t head, k;

	if (bt->cold && still_cold(bt))
		return;
	note_pages(bt, c);
	if (c->in_ibtc)
		return;
	head = get_head(bt, v, i);
	for (n = 0, k = head; k; k = bt->ccf[k].ibtc_next)
		n++;
	if (n >= IBTC_WAYS) {
		clear_slot(bt, v, i);
		head = 0;
	} else if (!n) {
		if (bt->ibtc_log_n[v] == IBTC_LOG) {
			ibtc_flush(bt, v);
			note_pages(bt, c);
		}
		bt->ibtc_log[v][bt->ibtc_log_n[v]++] = i;
	}
	c->in_ibtc = c->reached = true;
	set_next(bt, id, head);
	set_head(bt, v, i, id);
	bt->stats.ibtc_fills++;
}

void ibtc_flush(struct bt *bt, unsigned v)
{
	for (uint32_t k = 0; k < bt->ibtc_log_n[v]; k++)
		clear_slot(bt, v, bt->ibtc_log[v][k]);
	bt->ibtc_log_n[v] = 0;
	/* The newest first: it is the first in its target's list. */
	for (uint32_t k = bt->n_cross[v]; k-- > 0;)
		ccf_unchain_cross(bt, EXIT_CCF(bt->cross_log[v][k]),
				  EXIT_NO(bt->cross_log[v][k]));
	bt->n_cross[v] = 0;
	if (v)
		set_reset(&bt->set[v - VIEW_USER]);
	ret_clear(bt, v);
	bt->stats.ibtc_flushes++;
}

void ibtc_flush_user(struct bt *bt)
{
	for (unsigned v = VIEW_USER; v < NR_VIEWS; v++)
		ibtc_flush(bt, v);
}

/* ---- contexts ---- */

/* Does the running address space have all pages of the set? */
static bool set_holds(struct bt *bt, struct exec_set *s)
{
	uint64_t epoch = shadow_space_epoch(bt->sh);
	unsigned k = epoch % ARRAY_SIZE(s->ok);
	struct walk_hint h = {0};
	struct walk w;

	/* Between the two nothing was flushed, or the epoch would be another:
	 * what held then may be used still. */
	if (epoch && s->ok[k].epoch == epoch && s->ok[k].gen == s->gen)
		return true;
	for (unsigned i = 0; i < s->n; i++)
		if (mmu_probe(bt->v, s->page[i].vpage << PAGE_SHIFT, &h, &w) ||
		    !w.user || w.nx || !w.accessed ||
		    gpa_to_ppn(w.gpa).n != s->page[i].ppn)
			return false;
	if (epoch) {
		s->ok[k].epoch = epoch;
		s->ok[k].gen = s->gen;
	}
	return true;
}

/* A new address space: has it (after a fork) the code of one that is known? Else
 * it shall have the context that was not used for longest. */
static unsigned new_home(struct bt *bt)
{
	unsigned oldest = 0;

	if (bt->set[bt->ctx].n && set_holds(bt, &bt->set[bt->ctx]))
		return bt->ctx;
	for (unsigned k = 0; k < NR_CTX; k++) {
		if (bt->set[k].n >= LIKELY_SAME && set_holds(bt, &bt->set[k]))
			return k;
		if (bt->set[k].used < bt->set[oldest].used)
			oldest = k;
	}
	return oldest;
}

/* The home of an address space: where it was, if that is known. Else NULL, and *to
 * is where that shall be remembered. */
static struct home *home_find(struct bt *bt, uint64_t root, unsigned *to)
{
	unsigned h = (root * 0x9e3779b97f4a7c15ull >> 32) % CTX_HOMES & -HOMES;

	*to = h + bt->ctx_clock % HOMES;
	for (unsigned i = h; i < h + HOMES; i++) {
		if (bt->home[i].root == (root | 1))
			return &bt->home[i];
		if (!bt->home[i].root)
			*to = i;
	}
	return NULL;
}

static struct home *home_of(struct bt *bt, uint64_t root)
{
	unsigned to;
	struct home *h = home_find(bt, root, &to);

	if (h)
		return h;
	bt->home[to] = (struct home){root | 1, new_home(bt), 0};
	return &bt->home[to];
}

int ibtc_known(struct bt *bt, uint64_t root, uint64_t epoch)
{
	unsigned to;
	const struct home *h = home_find(bt, root, &to);
	const struct exec_set *s = h ? &bt->set[h->ctx] : NULL;
	unsigned k = epoch % ARRAY_SIZE(s->ok);

	return s && s->ok[k].epoch == epoch && s->ok[k].gen == s->gen
		       ? (int)h->ctx
		       : -1;
}

void ibtc_take(struct bt *bt, unsigned k)
{
	ret_clear(bt, true);
	bt->set[k].used = ++bt->ctx_clock;
	bt->set[k].root = bt->v->cr3 & PAGE_MASK;
	bt->stats.ctx_switches += k != bt->ctx;
	bt->ctx = k;
}

void ibtc_choose(struct bt *bt)
{
	uint64_t root = bt->v->cr3 & PAGE_MASK;
	struct home *h = home_of(bt, root);
	unsigned k = h->ctx;
	bool holds = set_holds(bt, &bt->set[k]);

	if (!holds && bt->set[k].root != root && ++h->clashes >= CLASHES) {
		h->clashes = 0;
		k = h->ctx = new_home(bt);
		holds = set_holds(bt, &bt->set[k]);
	}
	if (!holds)
		ibtc_flush(bt, VIEW_USER + k);
	ibtc_take(bt, k);
}
