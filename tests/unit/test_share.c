/* SPDX-License-Identifier: Apache-2.0 */
/* Sharing, one situation at a time: two equal pages, zero, break, death, full
 * pool, groups, code pages, run limits, sockets that are full or gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"
#include "mm/sharing/share.h"

#define PAGES 1024u
#define VMS   3u

struct fake {
	struct share_vm *sv;
	struct p2m *p;
	struct control *ctl;
	struct share_msg in[32];
	unsigned n;
	int send_result;
	unsigned drops;
	uint64_t low;
};

static struct share_host *host;
static struct share_group *group[2];
static struct fake vm[VMS];
static uint64_t now;

static int send_down(void *ctx, struct share_vm *sv, const struct share_msg *m)
{
	struct fake *v = share_vm_user(sv);

	if (v->send_result)
		return v->send_result;
	assert_true(v->n < 32);
	v->in[v->n++] = *m;
	return 0;
}
static const struct share_host_ops ops = {send_down};

static void on_drop(void *c, ppn_t p)
{
	((struct fake *)c)->drops++;
}
static void on_protect(void *c, ppn_t p)
{
}
static const struct p2m_listener_ops listener = {.drop = on_drop,
						 .protect = on_protect};

static void add_vm_low(struct fake *v, struct share_group *g, uint64_t low)
{
	struct p2m_config c = {
		.ram_bytes = PAGES * PAGE_SIZE, .name = "t", .low_limit = low};
	struct share_vm_config sc = {
		.ram_bytes = c.ram_bytes, .user = v, .low_limit = low};
	int fd;

	memset(v, 0, sizeof(*v));
	v->low = low;
	assert_int_equal(control_create(c.ram_bytes, low, "t", &fd, &v->ctl),
			 0);
	close(fd);
	c.memfd = sc.memfd = memfd_create("t", MFD_ALLOW_SEALING);
	c.control = sc.control = v->ctl;
	c.pool_fd = share_group_pool_fd(g);
	assert_int_equal(share_vm_add(g, &sc, &v->sv), 0);
	assert_int_equal(p2m_create(&c, &v->p), 0);
	p2m_set_listener(v->p, &listener, v);
	close(c.memfd);
}

static void add_vm(struct fake *v, struct share_group *g)
{
	add_vm_low(v, g, 0);
}

static void del_vm(struct fake *v)
{
	if (!v->p)
		return;
	p2m_destroy(v->p);
	share_vm_remove(v->sv);
	control_unmap(v->ctl, control_bytes(PAGES * PAGE_SIZE, v->low));
	v->p = NULL;
}

static int setup(void **s)
{
	now = 1000000000;
	assert_int_equal(share_host_create(&ops, NULL, NULL, &host), 0);
	assert_int_equal(share_group_create(host, "a", 4 << 20, &group[0]), 0);
	assert_int_equal(share_group_create(host, "b", 0, &group[1]), 0);
	for (unsigned i = 0; i < VMS; i++)
		add_vm(&vm[i], group[0]);
	return 0;
}

static int teardown(void **s)
{
	for (unsigned i = 0; i < VMS; i++)
		if (vm[i].p)
			assert_int_equal(p2m_audit(vm[i].p), 0);
	assert_int_equal(share_audit(host), 0);
	for (unsigned i = 0; i < VMS; i++)
		del_vm(&vm[i]);
	assert_int_equal(share_audit(host), 0);
	share_host_destroy(host);
	return 0;
}

static void serve(struct fake *v)
{
	struct share_msg out;

	for (unsigned i = 0; i < v->n; i++) {
		assert_int_equal(
			share_monitor_handle(v->p, &v->in[i], &out, false), 0);
		assert_int_equal(
			share_on_msg(v->sv, &out, share_msg_bytes(&out)), 0);
	}
	v->n = 0;
}

static void settle(void)
{
	for (unsigned r = 0; r < 40; r++) {
		now += 250000000;
		share_scan_step(host, SHARE_STEP_PAGES, now);
		for (unsigned i = 0; i < VMS; i++)
			if (vm[i].p)
				serve(&vm[i]);
	}
}

static void put(unsigned v, uint64_t ppn, uint8_t byte)
{
	memset(p2m_write(vm[v].p, (ppn_t){ppn}, 0, PAGE_SIZE), byte, PAGE_SIZE);
}

static enum p2m_state state(unsigned v, uint64_t ppn)
{
	return p2m_get_state(vm[v].p, (ppn_t){ppn});
}

static uint8_t byte_of(unsigned v, uint64_t ppn)
{
	return *(const uint8_t *)p2m_read(vm[v].p, (ppn_t){ppn});
}

static struct share_stats stats(void)
{
	struct share_stats s;

	share_get_stats(host, &s);
	return s;
}

static void test_two_equal(void **s)
{
	put(0, 5, 0x11);
	put(1, 9, 0x11);
	put(2, 9, 0x22);
	settle();
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_int_equal(state(1, 9), P2M_SHARED);
	assert_int_equal(state(2, 9), P2M_PRIVATE);
	assert_int_equal(p2m_frame(vm[0].p, (ppn_t){5}).n,
			 p2m_frame(vm[1].p, (ppn_t){9}).n);
	assert_int_equal(byte_of(0, 5), 0x11);
	assert_int_equal(stats().saved_bytes, PAGE_SIZE);
	assert_int_equal(stats().pool_bytes, PAGE_SIZE);
	/* A third meets the frame, not a hint. */
	put(2, 9, 0x11);
	settle();
	assert_int_equal(state(2, 9), P2M_SHARED);
	assert_int_equal(stats().frame_matches, 1);
	assert_int_equal(stats().saved_bytes, 2 * PAGE_SIZE);
}

static void test_within_one(void **s)
{
	put(0, 5, 0x11);
	put(0, 6, 0x11);
	settle();
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_int_equal(state(0, 6), P2M_SHARED);
}

static void test_break_gives_back(void **s)
{
	put(0, 5, 0x11);
	put(1, 5, 0x11);
	settle();
	assert_int_equal(vm[0].drops, 2); /* zero -> private, -> shared */
	put(0, 5, 0x33);
	assert_int_equal(vm[0].drops, 3);
	assert_int_equal(byte_of(1, 5), 0x11);
	settle();
	assert_int_equal(stats().broken_pages, 1);
	assert_int_equal(stats().pool_bytes, PAGE_SIZE);
	put(1, 5, 0x33);
	settle();
	/* The old frame is gone, and they have met again. */
	assert_int_equal(stats().broken_pages, 2);
	assert_int_equal(stats().pool_bytes, PAGE_SIZE);
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_int_equal(byte_of(0, 5), 0x33);
}

static void test_zero(void **s)
{
	struct share_oracle o;
	struct stat st;

	for (unsigned n = 0; n < 100; n++)
		put(0, n, 1);
	for (unsigned n = 0; n < 100; n++)
		put(0, n, 0);
	settle();
	for (unsigned n = 0; n < 100; n++)
		assert_int_equal(state(0, n), P2M_ZERO);
	assert_int_equal(fstat(p2m_memfd(vm[0].p), &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(stats().saved_bytes, 100 * PAGE_SIZE);
	assert_int_equal(share_oracle(host, &o), 0);
	assert_int_equal(o.oracle_bytes, 100 * PAGE_SIZE);
	assert_int_equal(o.zero_pages, 100);
}

static void test_death(void **s)
{
	for (unsigned n = 0; n < 50; n++) {
		put(0, n, 1 + n);
		put(1, n, 1 + n);
		put(1, 100 + n, 101 + n); /* hints */
	}
	settle();
	assert_int_equal(stats().pool_bytes, 50 * PAGE_SIZE);
	del_vm(&vm[0]);
	assert_int_equal(stats().pool_bytes, 50 * PAGE_SIZE);
	for (unsigned n = 0; n < 50; n++)
		assert_int_equal(byte_of(1, n), 1 + n);
	del_vm(&vm[1]);
	assert_int_equal(stats().pool_bytes, 0);
	assert_int_equal(stats().index_entries, 0);
	/* Its number is used again. */
	add_vm(&vm[0], group[0]);
	put(0, 5, 0x11);
	put(2, 5, 0x11);
	settle();
	assert_int_equal(state(2, 5), P2M_SHARED);
}

static void test_groups_never_mix(void **s)
{
	del_vm(&vm[2]);
	add_vm(&vm[2], group[1]);
	put(0, 5, 0x11);
	put(2, 5, 0x11);
	settle();
	assert_int_equal(state(0, 5), P2M_PRIVATE);
	assert_int_equal(state(2, 5), P2M_PRIVATE);
	assert_int_equal(share_group_destroy(group[1]), -EBUSY);
	struct share_oracle o;
	assert_int_equal(share_oracle(host, &o), 0);
	assert_int_equal(o.oracle_bytes, 0);
}

/* RAM at 4 GiB and above, and nothing in between. */
static void test_high_ram(void **s)
{
	uint64_t hi = 4ull << 18;
	struct share_oracle o;

	for (unsigned v = 0; v < 2; v++) {
		del_vm(&vm[v]);
		add_vm_low(&vm[v], group[0], 512 * PAGE_SIZE);
	}
	for (unsigned n = 0; n < 20; n++) {
		put(0, n, 1 + n);
		put(0, hi + n, 1 + n);
		put(1, hi + 100 + n, 1 + n);
	}
	put(1, hi + 511, 0);
	settle();
	assert_int_equal(p2m_runs(vm[1].p), 1);
	assert_int_equal(state(0, hi + 19), P2M_SHARED);
	assert_int_equal(state(1, hi + 511), P2M_ZERO);
	assert_int_equal(stats().saved_bytes, 41 * PAGE_SIZE);
	assert_int_equal(stats().pool_runs, 3);
	assert_int_equal(share_oracle(host, &o), 0);
	assert_int_equal(o.oracle_bytes, 41 * PAGE_SIZE);
	put(0, hi + 3, 0x99);
	assert_int_equal(byte_of(1, hi + 103), 4);
	settle();
}

static void test_pool_full(void **s)
{
	uint8_t page[PAGE_SIZE];

	/* 1024 frames; 3 VMs with 1024 contents each that two of them have. */
	for (unsigned n = 0; n < PAGES; n++)
		for (unsigned v = 0; v < 2; v++) {
			memset(page, 1, sizeof(page));
			memcpy(page, &n, 4);
			p2m_copy_in(vm[v].p, n * PAGE_SIZE, page, PAGE_SIZE);
		}
	settle();
	assert_int_equal(stats().pool_bytes, 1024 * PAGE_SIZE);
	put(0, 0, 0x77);
	put(2, 0, 0x77);
	settle();
	assert_int_equal(stats().pool_full, 1);
	assert_int_equal(state(2, 0), P2M_PRIVATE);
	assert_int_equal(byte_of(2, 0), 0x77);
}

static void test_code_page(void **s)
{
	put(0, 5, 0x11);
	put(1, 5, 0x11);
	p2m_set_code(vm[0].p, (ppn_t){5}, true);
	settle();
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_true(p2m_is_code(vm[0].p, (ppn_t){5}));
	put(0, 5, 0x12);
	assert_true(p2m_is_code(vm[0].p, (ppn_t){5}));
	assert_int_equal(byte_of(1, 5), 0x11);
}

static void test_run_limit(void **s)
{
	p2m_set_max_runs(vm[1].p, 2);
	for (unsigned n = 0; n < 10; n++) {
		put(0, n * 10, 1 + n);
		put(1, n * 10, 1 + n);
	}
	for (unsigned n = 0; n < 10; n++) {
		put(0, 200 + n, 100 + n);
		put(2, 200 + n, 100 + n);
	}
	settle();
	assert_int_equal(p2m_runs(vm[1].p), 2);
	assert_int_equal(stats().refused[SHARE_runs], 8);
	assert_int_equal(control_get(&vm[1].ctl->refused[SHARE_runs]), 8);
	/* Neighbours make one run. */
	assert_int_equal(p2m_runs(vm[2].p), 1);
}

static void test_equal_images_keep_runs(void **s)
{
	uint8_t page[PAGE_SIZE];

	for (unsigned i = 0; i < 700; i++) {
		unsigned n = i * 331 % 700; /* in a jumbled order */

		for (unsigned v = 0; v < VMS; v++) {
			memset(page, 1, sizeof(page));
			memcpy(page, &n, 4);
			p2m_copy_in(vm[v].p, n * PAGE_SIZE, page, PAGE_SIZE);
		}
		if (i % 50 == 0)
			settle();
	}
	settle();
	for (unsigned v = 0; v < VMS; v++) {
		assert_int_equal(control_get(&vm[v].ctl->shared_pages), 700);
		/* Two pieces of 2 MiB, wherever their extents are. */
		assert_in_range(p2m_runs(vm[v].p), 1, 2);
	}
}

static void test_full_socket(void **s)
{
	vm[1].send_result = -EAGAIN;
	put(0, 5, 0x11);
	put(1, 5, 0x11);
	settle();
	assert_int_equal(state(1, 5), P2M_PRIVATE);
	vm[1].send_result = 0;
	settle();
	assert_int_equal(state(1, 5), P2M_SHARED);
}

/* Proposals one at a time, and no answers: a monitor takes only so many
 * messages. */
static void test_slow_monitor(void **s)
{
	struct fake *v = &vm[0];
	unsigned held = 0;

	for (unsigned n = 0; n < 100; n++)
		put(0, n, n + 1);
	settle();
	for (unsigned n = 0; n < 100; n++)
		put(0, n, 0);
	for (unsigned i = 0; i < 400; i++) {
		now += 50000000;
		share_scan_step(host, 1, now);
		if (v->n > held && v->in[v->n - 1].type != SHARE_MSG_PROPOSE) {
			struct share_msg m = v->in[--v->n], out;

			assert_int_equal(
				share_monitor_handle(v->p, &m, &out, false), 0);
			assert_int_equal(share_on_msg(v->sv, &out,
						      share_msg_bytes(&out)),
					 0);
		}
		held = v->n;
		assert_in_range(held, 0, 4);
	}
	assert_int_equal(held, 4);
	settle();
	for (unsigned n = 0; n < 100; n++)
		assert_int_equal(state(0, n), P2M_ZERO);
}

static void test_broken_socket(void **s)
{
	put(0, 5, 0x11);
	put(1, 5, 0x11);
	settle();
	vm[1].send_result = -EPIPE;
	put(1, 6, 0x44);
	settle();
	vm[1].send_result = 0;
	put(0, 6, 0x44);
	settle();
	/* Out of the game until it is removed, and keeps what it has. */
	assert_int_equal(state(0, 6), P2M_PRIVATE);
	assert_int_equal(byte_of(1, 5), 0x11);
}

static void test_disabled(void **s)
{
	put(1, 5, 0x11); /* a hint by the time it is disabled */
	settle();
	share_vm_enable(vm[1].sv, false);
	put(0, 5, 0x11);
	put(1, 6, 0x11);
	settle();
	assert_int_equal(state(0, 5), P2M_PRIVATE);
	share_vm_enable(vm[1].sv, true);
	settle();
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_int_equal(state(1, 5), P2M_SHARED);
	assert_int_equal(state(1, 6), P2M_SHARED);
}

static void test_quiet_costs_nothing(void **s)
{
	uint64_t next;

	put(0, 5, 0x11);
	settle();
	for (unsigned i = 0; i < 100; i++) {
		now += 1000000000;
		next = share_scan_step(host, SHARE_STEP_PAGES, now);
		assert_true(next >= now + 500000000);
		for (unsigned v = 0; v < VMS; v++)
			assert_int_equal(vm[v].n, 0);
	}
}

static int say_read(unsigned v, uint64_t ppn)
{
	struct share_msg m = {.type = SHARE_MSG_READ, .n = 1, .ppns = {ppn}};

	return share_on_msg(vm[v].sv, &m, share_msg_bytes(&m));
}

static void step_now(void)
{
	share_scan_step(host, SHARE_STEP_PAGES, now);
	for (unsigned i = 0; i < VMS; i++)
		serve(&vm[i]);
}

/* Read from a disk: shared without a rest, and by no other road. */
static void test_read_from_disk(void **s)
{
	settle();
	put(0, 5, 0x11);
	put(1, 9, 0x11);
	assert_true(p2m_collect_page(vm[0].p, (ppn_t){5}));
	assert_false(p2m_collect_page(vm[0].p, (ppn_t){5})); /* not noted */
	assert_int_equal(say_read(0, 5), 0);
	step_now();
	/* Alone so far. The other one is not collected: a lie is no harm. */
	assert_int_equal(say_read(1, 9), 0);
	step_now();
	assert_int_equal(state(1, 9), P2M_PRIVATE);
	assert_true(p2m_collect_page(vm[1].p, (ppn_t){9}));
	assert_int_equal(say_read(1, 9), 0);
	step_now();
	assert_int_equal(state(0, 5), P2M_SHARED);
	assert_int_equal(state(1, 9), P2M_SHARED);
	assert_int_equal(stats().read_pages, 2);
	/* Written before the manager came to it: it is left alone. */
	put(2, 7, 0x11);
	assert_true(p2m_collect_page(vm[2].p, (ppn_t){7}));
	assert_int_equal(say_read(2, 7), 0);
	put(2, 7, 0x33);
	step_now();
	assert_int_equal(state(2, 7), P2M_PRIVATE);
	assert_int_equal(byte_of(2, 7), 0x33);
	/* Not the page that a device is at work on; nothing that is not RAM. */
	assert_non_null(p2m_pin(vm[2].p, (ppn_t){8}, true));
	assert_false(p2m_collect_page(vm[2].p, (ppn_t){8}));
	p2m_unpin(vm[2].p, (ppn_t){8});
	assert_false(p2m_collect_page(vm[2].p, (ppn_t){1ull << 40}));
	assert_int_equal(say_read(2, ~0ull), 0);
	assert_int_equal(say_read(2, PAGES), 0);
	settle();
	assert_int_equal(stats().read_pages, 3);
}

static void test_protocol(void **s)
{
	struct share_msg m = {.type = SHARE_MSG_COLLECTED}, out;

	/* Nobody asked. */
	assert_int_equal(share_on_msg(vm[0].sv, &m, share_msg_bytes(&m)),
			 -EPROTO);
	m.type = SHARE_MSG_PROPOSE;
	assert_int_equal(share_on_msg(vm[0].sv, &m, share_msg_bytes(&m)),
			 -EPROTO);
	m.type = SHARE_MSG_ANSWER;
	m.n = 1;
	assert_int_equal(share_on_msg(vm[0].sv, &m, share_msg_bytes(&m)),
			 -EPROTO);
	assert_int_equal(share_on_msg(vm[0].sv, &m, 3), -EPROTO);
	assert_int_equal(share_monitor_handle(vm[0].p, &m, &out, false),
			 -EPROTO);
	m.n = SHARE_BATCH + 1;
	assert_false(share_msg_ok(&m, share_msg_bytes(&m)));
	/* A proposal of nonsense is refused by its name. */
	m = (struct share_msg){.type = SHARE_MSG_PROPOSE, .n = 3};
	m.proposals[0] = (struct share_proposal){~0ull, 1, 0};
	m.proposals[1] = (struct share_proposal){5, 1u << 30, 0};
	m.proposals[2] = (struct share_proposal){6, 0, 0};
	put(0, 5, 0x11);
	settle();
	assert_int_equal(share_monitor_handle(vm[0].p, &m, &out, false), 0);
	assert_int_equal(out.answers[0].reason, SHARE_not_ram);
	assert_int_equal(out.answers[1].reason, SHARE_bad_frame);
	assert_int_equal(out.answers[2].reason, SHARE_not_private);
	assert_int_equal(share_monitor_handle(vm[0].p, &m, &out, true), 0);
	assert_int_equal(out.answers[1].reason, SHARE_busy);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest t[] = {
		T(test_two_equal),
		T(test_within_one),
		T(test_break_gives_back),
		T(test_zero),
		T(test_death),
		T(test_groups_never_mix),
		T(test_high_ram),
		T(test_pool_full),
		T(test_code_page),
		T(test_run_limit),
		T(test_equal_images_keep_runs),
		T(test_full_socket),
		T(test_slow_monitor),
		T(test_broken_socket),
		T(test_disabled),
		T(test_quiet_costs_nothing),
		T(test_read_from_disk),
		T(test_protocol),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
