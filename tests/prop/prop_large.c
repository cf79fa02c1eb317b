/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large regions, windows and sharing against a model.
 *
 * A vcpu without an engine has page tables in its own memory that map a few
 * 2 MiB of addresses, by large pages or by tables of small ones; the model
 * knows them, and one word of each page of memory. At random: entries change
 * (with INVLPG or a flush, as a kernel does it), memory is read and written
 * through the window, at the host's address, with this file as the signal
 * handler; regions are promoted; pages are collected, become zero or a frame
 * of the pool, hold code. An access must do what the tables say, A and D bits
 * must be as hardware sets them, and nothing but what the p2m has noted may be
 * writable. Both audits run all along.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "mm/p2m_large.h"
#include "mm/p2m_share.h"
#include "mm/sharing/pool.h"
#include "tests/prop/prop.h"
#include "vmm/mmu/shadow.h"
#include "vmm/mmu/shadow_priv.h"

#define REGIONS	   12u /* of memory; the tables are in the first two */
#define FIRST	   2u
#define VAS	   4u /* 2 MiB of addresses each */
#define PAGES	   (REGIONS * 512u)
#define FRAMES	   8u
#define ROOT	   0x100000ul
#define PDPT	   0x101000ul
#define PD	   0x102000ul
#define PT(v)	   (0x110000ul + (v)*PAGE_SIZE)
#define VA(v)	   ((1ul << 30) + (v)*LARGE_PAGE_SIZE)
#define RW	   (PTE_P | PTE_W)
#define AD	   (PTE_A | PTE_D)
#define WORD_OF(n) (8 * ((n) % 512))

/* A page of addresses: what its leaf says. */
struct leaf {
	uint32_t ppn;
	bool present, w;
};
struct model {
	struct rnd r;
	struct vm vm;
	struct vcpu *v;
	struct p2m *p;
	struct pool *pool;
	struct shadow *s;
	uint64_t tab[4][512];
	uint32_t frame[FRAMES];
	uint64_t frame_val[FRAMES];
	uint64_t val[PAGES]; /* the one word of each page */
	bool large[VAS];
	struct leaf leaf[VAS][512];
	uint64_t now, done[16];
};

static sigjmp_buf back;
static volatile sig_atomic_t armed, last_sig;

static void on_segv(int sig)
{
	if (!armed)
		abort();
	last_sig = sig;
	siglongjmp(back, 1);
}

/* The page tables themselves are the guest's memory. */
static void set_entry(struct model *m, gpa_t at, uint64_t e)
{
	assert_int_equal(p2m_copy_in(m->p, at, &e, 8), 0);
}
static uint64_t get_entry(struct model *m, gpa_t at)
{
	uint64_t e;

	assert_int_equal(p2m_copy_out(m->p, at, &e, 8), 0);
	return e;
}

static void on_drop(void *c, ppn_t p)
{
	shadow_drop_ppn(((struct model *)c)->s, p);
}
static void on_protect(void *c, ppn_t p)
{
	shadow_protect_ppn(((struct model *)c)->s, p);
}
static void on_drop_range(void *c, ppn_t p, uint64_t n)
{
	shadow_drop_range(((struct model *)c)->s, p, n);
}
static void on_protect_range(void *c, ppn_t p, uint64_t n)
{
	shadow_protect_range(((struct model *)c)->s, p, n);
}
static void on_code(void *c, ppn_t p, unsigned off, unsigned len)
{
	p2m_set_code(((struct model *)c)->p, p, false);
}
static const struct p2m_listener_ops ops = {
	.drop = on_drop,
	.protect = on_protect,
	.code_written = on_code,
	.drop_range = on_drop_range,
	.protect_range = on_protect_range,
};

static void make_pool(struct model *m)
{
	uint64_t page[PAGE_SIZE / 8];

	assert_int_equal(pool_create("prop", 4 << 20, &m->pool), 0);
	for (unsigned f = 0; f < FRAMES; f++) {
		struct pool_wish w = {1, f};

		/* frame f is a page whose number is f modulo 512 */
		memset(page, 0, sizeof(page));
		m->frame_val[f] = 0x5000 + f;
		page[f] = m->frame_val[f];
		m->frame[f] = pool_alloc(m->pool, POOL_NONE, &w, 1);
		assert_int_equal(pool_write(m->pool, m->frame[f], page), 0);
	}
}

static void setup(struct model *m)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE, .memfd = -1};
	struct shadow_tables t = {{m->tab[0], m->tab[1]},
				  {m->tab[2], m->tab[3]}};

	make_pool(m);
	c.pool_fd = pool_ro_fd(m->pool);
	assert_int_equal(p2m_create(&c, &m->p), 0);
	m->vm.p2m = m->p;
	m->v = m->vm.vcpu = vcpu_create(&m->vm, 0, NULL);
	assert_non_null(m->v);
	m->v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	m->v->cr4 = CR4_PAE | CR4_PGE;
	m->v->efer = EFER_LME | EFER_LMA;
	m->v->in_long_mode = 1;
	m->v->cr3 = ROOT;
	set_entry(m, ROOT, PDPT | RW);
	set_entry(m, PDPT + 8, PD | RW);
	assert_int_equal(shadow_create(m->v, m->p, &t, &m->s), 0);
	p2m_set_listener(m->p, &ops, m);
	shadow_enter(m->s);
}

/* ---- the guest ---- */

static void table_entry(struct model *m, unsigned v, unsigned i, uint32_t ppn,
			uint64_t flags)
{
	m->leaf[v][i] = (struct leaf){ppn, flags & PTE_P, flags & PTE_W};
	set_entry(m, PT(v) + i * 8,
		  flags & PTE_P ? (uint64_t)ppn << 12 | flags : 0);
}

static uint32_t any_region(struct model *m)
{
	return (FIRST + rnd_below(&m->r, REGIONS - FIRST)) * 512;
}

static void flush(struct model *m, unsigned v)
{
	if (rnd_below(&m->r, 2)) {
		shadow_flush(m->s, TLB_FLUSH_ALL, 0, 0);
		return;
	}
	for (unsigned i = 0; i < 512; i++)
		shadow_flush(m->s, TLB_FLUSH_PAGE, 0, VA(v) + i * PAGE_SIZE);
}

/* 2 MiB of addresses become a large page, or a run, or a run askew. */
static void remap(struct model *m)
{
	unsigned v = rnd_below(&m->r, VAS), kind = rnd_below(&m->r, 8);
	uint32_t ppn = any_region(m);
	uint64_t flags = RW | (rnd_below(&m->r, 3) ? AD : 0);

	if (rnd_below(&m->r, 8) == 0)
		flags &= ~PTE_W;
	if (kind == 7 && ppn + 1024 <= PAGES)
		ppn += 1 + rnd_below(&m->r, 511);
	m->large[v] = kind < 4;
	for (unsigned i = 0; i < 512; i++)
		table_entry(m, v, i, ppn + i, flags);
	set_entry(m, PD + v * 8,
		  m->large[v] ? (uint64_t)ppn << 12 | flags | PTE_PS
			      : PT(v) | RW);
	flush(m, v);
	m->done[0]++;
}

static void use_at(struct model *m, unsigned v, unsigned i);

static bool shadow_maps_big(struct model *m, gva_t va)
{
	for (int wi = 1; wi <= MAX_WIN; wi++)
		for (uint32_t i = node_first(&m->s->win[wi]); i;
		     i = node_after(m->s, &m->s->win[wi], i))
			if (m->s->node[i].flags & N_BIG &&
			    m->s->win[wi].gbase +
					    ((gva_t)m->s->node[i].vpn << 12) ==
				    va)
				return true;
	return false;
}

/* One small page becomes another, read-only, or none. As it was part of a run
 * that is mapped as one, perhaps, it is used at once. */
static void change_one(struct model *m)
{
	unsigned v = rnd_below(&m->r, VAS), i = rnd_below(&m->r, 512);
	uint64_t flags = RW | AD;
	uint32_t ppn;

	/* most likely one of a run that is mapped as one */
	for (unsigned k = 0; k < 3 * VAS; k++, v = (v + 1) % VAS)
		if (!m->large[v] && (k > VAS || !rnd_below(&m->r, 2)) &&
		    shadow_maps_big(m, VA(v)))
			break;
	ppn = m->leaf[v][i].ppn;
	if (m->large[v] || !ppn)
		return;
	switch (rnd_below(&m->r, 4)) {
	case 0:
		flags = 0;
		break;
	case 1:
		flags &= ~PTE_W;
		break;
	case 2:
		ppn = any_region(m) + rnd_below(&m->r, 512);
		break;
	case 3:
		flags &= ~AD; /* harvested */
		break;
	}
	table_entry(m, v, i, ppn, flags);
	if (rnd_below(&m->r, 2))
		shadow_flush(m->s, TLB_FLUSH_PAGE, 0, VA(v) + i * PAGE_SIZE);
	else
		shadow_flush(m->s, TLB_FLUSH_ALL, 0, 0);
	use_at(m, v, i);
	m->done[1]++;
}

/* The host instruction. False: SIGSEGV. */
static bool touch(uint64_t hva, bool write, uint64_t *val)
{
	bool ok = false;

	armed = 1;
	if (!sigsetjmp(back, 1)) {
		if (write)
			*(volatile uint64_t *)hva = *val;
		else
			*val = *(volatile uint64_t *)hva;
		ok = true;
	}
	armed = 0;
	return ok;
}

/* As the engine does: until it works, or the guest has a fault. */
static bool access_va(struct model *m, gva_t va, bool write, uint64_t *val)
{
	for (unsigned tries = 0; tries < 6; tries++) {
		uint64_t hva = va + shadow_delta(m->s, va, 0);
		struct walk w;

		if (touch(hva, write, val))
			return true;
		if (last_sig == SIGBUS)
			assert_true(shadow_bus(m->s, hva));
		switch (shadow_fill(m->s, hva, write, 0)) {
		case SHADOW_OK:
			break;
		case SHADOW_FAULT:
		case SHADOW_PF:
			return false;
		case SHADOW_NOTOURS:
			if (!shadow_need_window(m->s, va, 0))
				return false;
			break;
		case SHADOW_CODE:
			assert_int_equal(mmu_walk(m->v, va, WALK_WRITE, &w), 0);
			assert_int_equal(p2m_copy_in(m->p, w.gpa, val, 8), 0);
			m->done[2]++;
			return true;
		default:
			fail_msg("fill of %#lx", (unsigned long)va);
		}
	}
	fail_msg("%#lx does not come to an end", (unsigned long)va);
	return false;
}

static void use_at(struct model *m, unsigned v, unsigned i)
{
	struct leaf *l = &m->leaf[v][i];
	bool write = rnd_below(&m->r, 2), ok;
	uint64_t val = 0, was, is;
	gpa_t at = m->large[v] ? PD + v * 8 : PT(v) + i * 8;
	gva_t va = VA(v) + i * PAGE_SIZE + WORD_OF(l->ppn);

	if (write) /* 0 and the frames' words are likely */
		val = rnd_below(&m->r, 3) ? rnd_below(&m->r, 3) * 0
					  : 0x5000 + l->ppn % 512;
	if (write && !rnd_below(&m->r, 4))
		val = rnd64(&m->r);
	was = get_entry(m, at);
	ok = access_va(m, va, write, &val);
	is = get_entry(m, at);
	m->done[3]++;
	if (ok != (l->present && (l->w || !write)))
		fail_msg("va %#lx write %d: %s", (unsigned long)va, write,
			 ok ? "went through" : "did not");
	/* bits: what is needed is set, and D only by a write */
	if (ok)
		assert_true(is & PTE_A);
	if (ok && write)
		assert_true(is & PTE_D);
	if (!write)
		assert_int_equal(is & PTE_D, was & PTE_D);
	assert_int_equal((is ^ was) & ~AD, 0);
	if (!ok)
		return;
	if (write)
		m->val[l->ppn] = val;
	else
		assert_int_equal(val, m->val[l->ppn]);
}

static void use(struct model *m)
{
	use_at(m, rnd_below(&m->r, VAS), rnd_below(&m->r, 512));
}

/* ---- the p2m ---- */

static void promote(struct model *m)
{
	uint64_t region = any_region(m) / 512;
	struct p2m_region_info i;

	p2m_region_take(m->p, region, &i);
	if (i.large || i.away)
		return;
	p2m_region_prepare(m->p, region);
	assert_int_equal(p2m_region_collapse(m->p, region, 1), 0);
	if (p2m_region_finish(m->p, region, true))
		m->done[4]++;
}

static void collect(struct model *m)
{
	bool more;

	m->now += rnd_below(&m->r, 3000) * 1000000;
	m->done[5] +=
		p2m_collect(m->p, m->now, 1 + rnd_below(&m->r, 2000), &more);
}

/* Whatever is proposed: committed only if it is equal. */
static void commit(struct model *m)
{
	uint32_t n = any_region(m) + rnd_below(&m->r, 512);
	ppn_t ppn = {n};

	if (rnd_below(&m->r, 2)) {
		if (p2m_commit_zero(m->p, ppn) != SHARE_ok)
			return;
		assert_int_equal(m->val[n], 0);
		m->done[6]++;
	} else {
		unsigned f = rnd_below(&m->r, FRAMES);

		n = n / 512 * 512 + f;
		ppn.n = n;
		if (p2m_commit_frame(m->p, ppn, m->frame[f]) != SHARE_ok)
			return;
		assert_int_equal(m->val[n], m->frame_val[f]);
		m->done[7]++;
	}
	p2m_punch(m->p, ppn, 1);
}

static void code(struct model *m)
{
	ppn_t ppn = {any_region(m) + rnd_below(&m->r, 512)};

	if (rnd_below(&m->r, 4)) {
		for (uint64_t n = ppn.n / 512 * 512; n % 512 < 511; n++)
			p2m_set_code(m->p, (ppn_t){n}, false);
		return;
	}
	shadow_protect_ppn(m->s, ppn);
	p2m_set_code(m->p, ppn, true);
	m->done[8]++;
}

/* Page after page gets an entry and is used, most of them in a run, as the
 * guest of a program that touches fresh memory does it. */
static void grow(struct model *m)
{
	unsigned v = rnd_below(&m->r, VAS), i = rnd_below(&m->r, 512);
	unsigned n = 8 + rnd_below(&m->r, 150);
	uint32_t ppn = any_region(m) + rnd_below(&m->r, 512);

	for (unsigned k = 0; k < 512; k++)
		table_entry(m, v, k, 0, 0);
	m->large[v] = false;
	set_entry(m, PD + v * 8, PT(v) | RW);
	shadow_flush(m->s, TLB_FLUSH_ALL, 0, 0);
	for (; n-- && i < 512 && ppn < PAGES; i++, ppn++) {
		if (!rnd_below(&m->r, 24))
			ppn = any_region(m) + rnd_below(&m->r, 512);
		table_entry(m, v, i, ppn,
			    rnd_below(&m->r, 16) ? RW | AD : PTE_P | PTE_A);
		use_at(m, v, i);
		if (!rnd_below(&m->r, 4)) /* what is not there yet */
			use_at(m, v, rnd_below(&m->r, 512));
		if (!rnd_below(&m->r, 32))
			commit(m);
		if (!rnd_below(&m->r, 64))
			code(m);
		m->done[9]++;
	}
}

/* Mapped as one: all PRIVATE. Writable: noted and no code, too. */
static void check_nodes(struct model *m)
{
	for (int wi = 1; wi <= MAX_WIN; wi++) {
		for (uint32_t i = node_first(&m->s->win[wi]); i;
		     i = node_after(m->s, &m->s->win[wi], i)) {
			const struct node *n = &m->s->node[i];
			struct p2m_backing b;

			for (uint32_t k = 0; k < BIG_PAGES && n->flags & N_BIG;
			     k++)
				assert_int_equal(
					p2m_get_state(m->p,
						      (ppn_t){n->ppn + k}),
					P2M_PRIVATE);
			if (!(n->flags & N_W))
				continue;
			assert_int_equal(p2m_get_backing(m->p, (ppn_t){n->ppn},
							 node_pages(n), &b),
					 0);
			assert_true(b.writable && b.run == node_pages(n));
		}
	}
}

/* A page goes from under a mapping of 2 MiB that is read-only by then. */
static void squeeze(struct model *m)
{
	unsigned v = rnd_below(&m->r, VAS), i = rnd_below(&m->r, 512);
	ppn_t ppn = {m->leaf[v][i].ppn};
	uint64_t val = 0;
	bool more;

	if (!m->leaf[v][i].present)
		return;
	use_at(m, v, i ^ 1);
	if (m->val[ppn.n]) {
		if (!access_va(m, VA(v) + i * PAGE_SIZE + WORD_OF(ppn.n), true,
			       &val))
			return;
		m->val[ppn.n] = 0;
	}
	do {
		m->now += 4000000000;
		p2m_collect(m->p, m->now, 1 << 20, &more);
	} while (more);
	if (p2m_commit_zero(m->p, ppn) != SHARE_ok)
		return;
	p2m_punch(m->p, ppn, 1);
	check_nodes(m);
	use_at(m, v, i);
	m->done[10]++;
}

static void step(struct model *m)
{
	unsigned k = rnd_below(&m->r, 1000);

	if (k < 60)
		remap(m);
	else if (k < 100)
		change_one(m);
	else if (k < 112)
		promote(m);
	else if (k < 130)
		collect(m);
	else if (k < 160)
		commit(m);
	else if (k < 166)
		code(m);
	else if (k < 176)
		grow(m);
	else if (k < 186)
		squeeze(m);
	else if (k == 186)
		shadow_drop_all(m->s);
	else if (k == 187)
		shadow_cr3(m->s, false);
	else
		use(m);
}

static bool host_can(struct model *m)
{
	p2m_region_prepare(m->p, FIRST);
	return !p2m_region_collapse(m->p, FIRST, 1) &&
	       p2m_region_finish(m->p, FIRST, true);
}

static void large_against_model(void **state)
{
	static struct model m;
	uint64_t steps = prop_env("PROP_STEPS", 12000);
	struct sigaction sa = {.sa_handler = on_segv, .sa_flags = SA_NODEFER};

	m.r = rnd_seeded("prop_large", 20261);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	setup(&m);
	if (!host_can(&m))
		skip();
	for (uint64_t i = 0; i < steps; i++) {
		step(&m);
		if (i % 16)
			continue;
		assert_int_equal(p2m_audit(m.p), 0);
		assert_int_equal(shadow_audit(m.s), 0);
		check_nodes(&m);
	}
	for (unsigned n = FIRST * 512; n < PAGES; n++)
		assert_int_equal(*(const uint64_t *)((const char *)p2m_read(
							     m.p, (ppn_t){n}) +
						     WORD_OF(n)),
				 m.val[n]);
	printf("# remaps %lu changes %lu code writes %lu uses %lu promotions "
	       "%lu collected %lu zero %lu frames %lu code %lu; big maps %lu "
	       "splits %lu upgrades %lu; grown %lu squeezed %lu carpets %lu "
	       "pages %lu lost %lu\n",
	       m.done[0], m.done[1], m.done[2], m.done[3], m.done[4], m.done[5],
	       m.done[6], m.done[7], m.done[8], m.s->st.big_maps,
	       m.s->st.big_splits, m.s->st.big_upgrades, m.done[9], m.done[10],
	       m.s->st.carpets, m.s->st.carpet_pages, m.s->st.carpet_lost);
	/* the test is one only if these happen */
	assert_true(m.done[4] > 10 && m.done[6] + m.done[7] > 10);
	assert_true(m.done[9] > 100 && m.done[10] > 10);
	if (m.s->uffd >= 0)
		assert_true(m.s->st.carpets > 10 && m.s->st.carpet_pages > 100);
	assert_true(m.s->st.big_maps > 10 && m.s->st.big_splits > 10);
	shadow_destroy(m.s);
	p2m_set_listener(m.p, NULL, NULL);
	vcpu_destroy(m.v);
	p2m_destroy(m.p);
	pool_destroy(m.pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(large_against_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
