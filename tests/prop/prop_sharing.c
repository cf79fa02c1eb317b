/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several small VMs, one share_host, and everything that can come between a
 * proposal and its commit: writes through pointers and through mappings,
 * messages delivered late, sockets that are full, code marks, deaths. A shadow
 * copy of all guest memory is compared after each step; both audits run, and
 * what the monitors map is checked against what the host believes.
 *
 * At the end all is let come to rest: then what is saved must be what the
 * oracle says could be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"
#include "tests/prop/prop.h"

#define PAGES	 48u
#define VMS	 4u
#define QUEUE	 64u
#define CONTENTS 80u

struct rig;
struct fake {
	struct rig *rig;
	struct share_vm *sv;
	struct p2m *p;
	struct control *ctl;
	uint8_t shadow[PAGES][PAGE_SIZE];
	bool writable[PAGES]; /* the fake engine's mappings */
	struct share_msg down[QUEUE], up[QUEUE];
	unsigned ndown, nup;
	unsigned group;
};

struct rig {
	struct rnd r;
	struct share_host *h;
	struct share_group *g[2];
	struct fake vm[VMS];
	uint64_t now;
	bool calm; /* the sockets are never full */
	uint64_t deaths, tried;
};

static void on_drop(void *c, ppn_t p)
{
	((struct fake *)c)->writable[p.n] = false;
}
static const struct p2m_listener_ops listener = {.drop = on_drop,
						 .protect = on_drop};

static int send_down(void *ctx, struct share_vm *sv, const struct share_msg *m)
{
	struct fake *v = share_vm_user(sv);

	assert_true(share_msg_ok(m, share_msg_bytes(m)));
	if (v->ndown == QUEUE || (!v->rig->calm && !rnd_below(&v->rig->r, 8)))
		return -EAGAIN;
	v->down[v->ndown++] = *m;
	return 0;
}
static const struct share_host_ops ops = {send_down};

static void start(struct rig *g, struct fake *v)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE, .memfd = -1};
	int memfd = memfd_create("prop", MFD_CLOEXEC | MFD_ALLOW_SEALING), fd;

	memset(v, 0, sizeof(*v));
	v->rig = g;
	v->group = v == &g->vm[VMS - 1]; /* the last one is another tenant */
	assert_int_equal(control_create(c.ram_bytes, 0, "prop", &fd, &v->ctl),
			 0);
	close(fd);
	struct share_vm_config sc = {.name = "prop",
				     .memfd = memfd,
				     .control = v->ctl,
				     .user = v,
				     .ram_bytes = c.ram_bytes};
	assert_int_equal(share_vm_add(g->g[v->group], &sc, &v->sv), 0);
	c.memfd = memfd;
	c.control = v->ctl;
	c.pool_fd = share_group_pool_fd(g->g[v->group]);
	assert_int_equal(p2m_create(&c, &v->p), 0);
	p2m_set_listener(v->p, &listener, v);
	close(memfd);
}

static void stop(struct fake *v)
{
	p2m_destroy(v->p); /* the process dies first */
	share_vm_remove(v->sv);
	control_unmap(v->ctl, control_bytes(PAGES * PAGE_SIZE, 0));
}

/* The guest writes: by the monitor's pointer, or by a mapping. */
static void do_write(struct rig *g, struct fake *v)
{
	unsigned n = rnd_below(&g->r, PAGES), off = rnd_below(&g->r, PAGE_SIZE);
	uint8_t *w = p2m_write(v->p, (ppn_t){n}, 0, PAGE_SIZE);

	assert_non_null(w);
	if (rnd_below(&g->r, 10))
		fill_page(v->shadow[n], rnd_below(&g->r, CONTENTS));
	else
		v->shadow[n][off]++;
	memcpy(w, v->shadow[n], PAGE_SIZE);
}

static void do_store(struct rig *g, struct fake *v)
{
	unsigned n = rnd_below(&g->r, PAGES), off = rnd_below(&g->r, PAGE_SIZE);
	uint8_t b = rnd64(&g->r);
	struct p2m_backing k;

	if (!v->writable[n]) {
		p2m_set_code(v->p, (ppn_t){n}, false);
		assert_true(p2m_make_writable(v->p, (ppn_t){n}, 1) == 1);
		assert_int_equal(p2m_get_backing(v->p, (ppn_t){n}, 1, &k), 0);
		assert_true(k.writable);
		v->writable[n] = true;
	}
	assert_int_equal(pwrite(p2m_memfd(v->p), &b, 1, n * PAGE_SIZE + off),
			 1);
	v->shadow[n][off] = b;
}

static void do_code(struct rig *g, struct fake *v)
{
	unsigned n = rnd_below(&g->r, PAGES);

	v->writable[n] = false;
	p2m_set_code(v->p, (ppn_t){n}, rnd_below(&g->r, 2));
}

/* The monitor takes one message; the manager takes one reply. */
static bool deliver_down(struct fake *v)
{
	if (!v->ndown || v->nup == QUEUE)
		return false;
	assert_int_equal(share_monitor_handle(
				 v->p, &v->down[0], &v->up[v->nup++],
				 !v->rig->calm && !rnd_below(&v->rig->r, 50)),
			 0);
	memmove(&v->down[0], &v->down[1], --v->ndown * sizeof(v->down[0]));
	return true;
}

static bool deliver_up(struct fake *v)
{
	if (!v->nup)
		return false;
	assert_int_equal(
		share_on_msg(v->sv, &v->up[0], share_msg_bytes(&v->up[0])), 0);
	memmove(&v->up[0], &v->up[1], --v->nup * sizeof(v->up[0]));
	return true;
}

static void do_scan(struct rig *g)
{
	g->now += rnd_below(&g->r, 400000000);
	share_scan_step(g->h, 1 + rnd_below(&g->r, 200), g->now);
}

/* What a monitor maps is what the host holds a reference for; at rest it is
 * all that the host holds. And a writable mapping is always a noted one. */
static void check_frames(struct fake *v, bool at_rest)
{
	for (unsigned n = 0; n < PAGES; n++) {
		mpn_t is = p2m_frame(v->p, (ppn_t){n});
		bool pending;

		if (at_rest || is.n != MPN_NONE.n)
			assert_int_equal(
				share_vm_frame(v->sv, (ppn_t){n}, &pending).n,
				is.n);
	}
}

static void check_noted(struct fake *v)
{
	for (unsigned n = 0; n < PAGES; n++)
		if (v->writable[n])
			assert_true(control_changed(v->ctl)[n / 64] >> n % 64 &
				    1);
}

static void check(struct rig *g, struct fake *v)
{
	for (unsigned n = 0; n < PAGES; n++)
		assert_memory_equal(p2m_read(v->p, (ppn_t){n}), v->shadow[n],
				    PAGE_SIZE);
	assert_int_equal(p2m_audit(v->p), 0);
	assert_int_equal(share_audit(g->h), 0);
	for (unsigned i = 0; i < VMS; i++) {
		check_frames(&g->vm[i], g->calm);
		check_noted(&g->vm[i]);
	}
}

static void step(struct rig *g)
{
	struct fake *v = &g->vm[rnd_below(&g->r, VMS)];

	switch (rnd_below(&g->r, 40)) {
	case 0 ... 6:
		do_write(g, v);
		break;
	case 7 ... 8:
		do_store(g, v);
		break;
	case 9:
		do_code(g, v);
		break;
	case 10 ... 19:
		do_scan(g);
		break;
	case 20 ... 28:
		deliver_down(v);
		break;
	case 29 ... 38:
		deliver_up(v);
		break;
	default:
		if (rnd_below(&g->r, 60))
			break;
		stop(v);
		start(g, v);
		g->deaths++;
	}
	check(g, v);
}

/* Nothing writes any more; the scanner has all the time it wants. */
static void rest(struct rig *g)
{
	g->calm = true;
	for (unsigned n = 0; n < 400; n++) {
		g->now += 250000000;
		share_scan_step(g->h, 1000, g->now);
		for (unsigned i = 0; i < VMS; i++) {
			while (deliver_down(&g->vm[i]))
				;
			while (deliver_up(&g->vm[i]))
				;
		}
	}
}

static void check_rested(struct rig *g)
{
	struct share_oracle o;
	struct share_stats s;

	assert_int_equal(share_oracle(g->h, &o), 0);
	share_get_stats(g->h, &s);
	printf("# saved %llu of %llu, wanted %llu pages, %llu distinct; "
	       "merged %llu zero %llu broken %llu stale %llu\n",
	       (unsigned long long)s.saved_bytes,
	       (unsigned long long)o.oracle_bytes,
	       (unsigned long long)o.wanted_pages,
	       (unsigned long long)o.distinct_pages,
	       (unsigned long long)s.merged_pages,
	       (unsigned long long)s.zero_merged_pages,
	       (unsigned long long)s.broken_pages,
	       (unsigned long long)s.hint_stale);
	assert_int_equal(s.saved_bytes, o.oracle_bytes);
	assert_true(o.oracle_bytes >= 16 * PAGE_SIZE);
}

static void create(struct rig *g, uint64_t pool_bytes)
{
	assert_int_equal(share_host_create(&ops, g, NULL, &g->h), 0);
	assert_int_equal(share_group_create(g->h, "a", pool_bytes, &g->g[0]),
			 0);
	assert_int_equal(share_group_create(g->h, "b", pool_bytes, &g->g[1]),
			 0);
	for (unsigned i = 0; i < VMS; i++)
		start(g, &g->vm[i]);
}

static void destroy(struct rig *g)
{
	for (unsigned i = 0; i < VMS; i++) {
		stop(&g->vm[i]);
		assert_int_equal(share_audit(g->h), 0);
	}
	struct share_stats s;

	share_get_stats(g->h, &s);
	assert_int_equal(s.pool_bytes, 0);
	assert_int_equal(s.index_entries, 0);
	assert_int_equal(share_group_destroy(g->g[0]), 0);
	share_host_destroy(g->h);
	free(g);
}

static void test_model(void **state)
{
	uint64_t steps = prop_env("PROP_STEPS", 12000);
	struct rig *g = calloc(1, sizeof(*g));
	struct share_stats s;

	g->r = rnd_seeded("prop_sharing", 1);
	create(g, 0);
	for (uint64_t n = 0; n < steps; n++)
		step(g);
	share_get_stats(g->h, &s);
	printf("# %llu deaths, %llu merged, %llu broken, %llu hints, %llu "
	       "matched, %llu stale, %llu frames matched; refused:",
	       (unsigned long long)g->deaths,
	       (unsigned long long)s.merged_pages,
	       (unsigned long long)s.broken_pages,
	       (unsigned long long)s.hints_made,
	       (unsigned long long)s.hint_matches,
	       (unsigned long long)s.hint_stale,
	       (unsigned long long)s.frame_matches);
	for (int i = 1; i < SHARE_NR_REASONS; i++)
		printf(" %s %llu", share_reason_names[i],
		       (unsigned long long)s.refused[i]);
	printf("\n");
	/* The interesting roads were travelled. */
	assert_true(s.merged_pages > steps / 100);
	assert_true(s.broken_pages > 0 && s.refused[SHARE_changed] > 0 &&
		    s.refused[SHARE_busy] > 0 && s.hint_stale > 0);
	rest(g);
	for (unsigned i = 0; i < VMS; i++)
		check(g, &g->vm[i]);
	check_rested(g);
	destroy(g);
}

/* Random and well-meant lies: the manager must stay in order, and must not
 * count one VM's lie against another. */
static void lie(struct rig *g, struct fake *v)
{
	struct share_msg m;
	uint8_t *b = (uint8_t *)&m;
	uint64_t off[3];

	memset(&m, 0, sizeof(m));
	for (unsigned i = 0; i < sizeof(m) && rnd_below(&g->r, 2); i++)
		b[i] = rnd64(&g->r);
	if (rnd_below(&g->r, 2)) {
		m.type = SHARE_MSG_ANSWER;
		m.n = rnd_below(&g->r, 4);
		for (unsigned i = 0; i < m.n; i++) {
			m.answers[i].ppn = rnd_below(&g->r, PAGES + 2);
			m.answers[i].frame = rnd_below(&g->r, 3)
						     ? rnd_below(&g->r, 600)
						     : SHARE_FRAME_ZERO;
			m.answers[i].reason =
				rnd_below(&g->r, 3) ? 0 : rnd64(&g->r);
		}
	}
	(void)share_on_msg(v->sv, &m,
			   rnd_below(&g->r, 3) ? share_msg_bytes(&m)
					       : rnd_below(&g->r, sizeof(m)));
	control_offsets(PAGES * PAGE_SIZE, 0, off);
	*(uint64_t *)((char *)v->ctl + off[2]) |= rnd64(&g->r) & rnd64(&g->r);
	*(uint64_t *)((char *)v->ctl + off[1]) |= rnd64(&g->r);
	v->ctl->released_seq++;
	v->ctl->collected_seq++;
	v->ctl->max_ppn = rnd64(&g->r);
	v->ctl->released_off = rnd64(&g->r);
	v->ctl->zero_merged_pages = rnd64(&g->r);
}

static void test_liar(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));
	struct fake *liar = &g->vm[0];
	struct share_stats s;

	g->r = rnd_seeded("prop_sharing liar", 2);
	create(g, 2 << 20);
	for (unsigned n = 0; n < prop_env("PROP_STEPS", 4000); n++) {
		struct fake *v = &g->vm[rnd_below(&g->r, VMS)];

		lie(g, liar);
		do_write(g, v);
		do_scan(g);
		if (v != liar) {
			deliver_down(v);
			deliver_up(v);
		} else {
			v->ndown = 0;
		}
		assert_int_equal(share_audit(g->h), 0);
		share_get_stats(g->h, &s);
		assert_true(s.zero_merged_bytes <= 4 * PAGES * PAGE_SIZE);
		for (unsigned i = 1; i < VMS; i++) {
			check_frames(&g->vm[i], false);
			assert_int_equal(p2m_audit(g->vm[i].p), 0);
		}
		for (unsigned k = 0; v != liar && k < PAGES; k++)
			assert_memory_equal(p2m_read(v->p, (ppn_t){k}),
					    v->shadow[k], PAGE_SIZE);
	}
	destroy(g);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_liar),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
