/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manager that dies and another one that takes over, at the level of the
 * sharing code: VMs with random pages, messages that are lost with the dead
 * one, again and again. After each death the books are those that a recount
 * gives, and no page of any VM has another content than it should.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/p2m.h"
#include "mm/p2m_share.h"
#include "mm/sharing/pool.h"
#include "mm/sharing/share.h"

#define VMS   3u
#define PAGES 2048u
#define QUEUE 64u

struct fake {
	struct share_vm *sv;
	struct p2m *p;
	struct control *ctl;
	int memfd, pool_fd;
	uint8_t want[PAGES]; /* each page is this byte, over and over */
	struct share_msg in[QUEUE];
	unsigned n;
};

static struct share_host *host;
static struct share_group *group;
static struct fake vm[VMS];
static uint64_t now = 1000000000, seed = 12345;

static uint64_t draw(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int send_down(void *ctx, struct share_vm *sv, const struct share_msg *m)
{
	struct fake *v = share_vm_user(sv);

	if (v->n == QUEUE)
		return -EAGAIN;
	v->in[v->n++] = *m;
	return 0;
}
static const struct share_host_ops ops = {send_down};

static void add_vm(struct fake *v)
{
	struct p2m_config c = {.ram_bytes = PAGES * PAGE_SIZE, .name = "t"};
	struct share_vm_config sc = {.ram_bytes = c.ram_bytes, .user = v};
	int fd;

	memset(v, 0, sizeof(*v));
	assert_int_equal(control_create(c.ram_bytes, 0, "t", &fd, &v->ctl), 0);
	close(fd);
	v->memfd = c.memfd = sc.memfd = memfd_create("t", MFD_ALLOW_SEALING);
	c.control = sc.control = v->ctl;
	v->pool_fd = c.pool_fd =
		fcntl(share_group_pool_fd(group), F_DUPFD_CLOEXEC, 3);
	assert_int_equal(share_vm_add(group, &sc, &v->sv), 0);
	assert_int_equal(p2m_create(&c, &v->p), 0);
}

static void write_page(struct fake *v, uint64_t ppn, uint8_t byte)
{
	uint8_t *at = p2m_write(v->p, (ppn_t){ppn}, 0, PAGE_SIZE);

	assert_non_null(at);
	memset(at, byte, PAGE_SIZE);
	v->want[ppn] = byte;
}

static void check_pages(struct fake *v)
{
	for (uint64_t n = 0; n < PAGES; n++) {
		const uint8_t *at = p2m_read(v->p, (ppn_t){n});

		assert_non_null(at);
		if (at[0] != v->want[n] || memcmp(at, at + 1, PAGE_SIZE - 1))
			fail_msg("VM %d page %lu is %u, should be %u",
				 (int)(v - vm), (unsigned long)n, at[0],
				 v->want[n]);
	}
}

/* At most n messages of each VM are worked on. */
static void answer(struct fake *v, unsigned n)
{
	struct share_msg out;
	unsigned k = n < v->n ? n : v->n;

	for (unsigned i = 0; i < k; i++) {
		assert_int_equal(
			share_monitor_handle(v->p, &v->in[i], &out, false), 0);
		if (v->sv)
			assert_int_equal(share_on_msg(v->sv, &out,
						      share_msg_bytes(&out)),
					 0);
	}
	memmove(v->in, v->in + k, (v->n - k) * sizeof(v->in[0]));
	v->n -= k;
}

static void work(unsigned rounds)
{
	for (unsigned r = 0; r < rounds; r++) {
		struct fake *v = &vm[draw(VMS)];

		for (unsigned i = 0; i < 20; i++)
			write_page(v, draw(PAGES), (uint8_t)draw(40));
		now += 50000000 + draw(300000000);
		share_scan_step(host, 4096, now);
		answer(&vm[draw(VMS)], (unsigned)draw(8));
	}
}

/* As if the process were gone: what it held goes, but nothing that it would do
 * about the pool's file. */
static void kill_manager(void)
{
	int fd = fcntl(vm[0].pool_fd, F_DUPFD_CLOEXEC, 3);
	void *copy = malloc((size_t)64 << 20);
	off_t size = lseek(fd, 0, SEEK_END), used = 0;
	char path[40];
	int rw;

	/* share_host_destroy punches the frames: keep their bytes. */
	for (off_t a = 0, b = 0; (a = lseek(fd, b, SEEK_DATA)) >= 0;) {
		b = lseek(fd, a, SEEK_HOLE);
		used = b;
		assert_true(b <= (off_t)64 << 20);
	}
	assert_int_equal(pread(fd, copy, (size_t)used, 0), used);
	for (unsigned i = 0; i < VMS; i++) {
		share_vm_remove(vm[i].sv);
		vm[i].sv = NULL;
	}
	share_host_destroy(host);
	assert_true(size > 0);
	assert_int_equal(fchmod(fd, 0600), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rw = open(path, O_RDWR | O_CLOEXEC);
	assert_true(rw >= 0);
	for (off_t a = 0; a < used; a += PAGE_SIZE) {
		static const char zero[PAGE_SIZE];

		if (memcmp((char *)copy + a, zero, PAGE_SIZE))
			assert_int_equal(
				pwrite(rw, (char *)copy + a, PAGE_SIZE, a),
				PAGE_SIZE);
	}
	close(rw);
	close(fd);
	free(copy);
}

static void adopt_one(struct fake *v)
{
	struct share_vm_config sc = {.ram_bytes = PAGES * PAGE_SIZE,
				     .user = v,
				     .memfd = v->memfd,
				     .control = v->ctl};
	int frames = memfd_create("frames", MFD_CLOEXEC);

	/* What the dead one said and was not read yet. */
	answer(v, (unsigned)draw(3));
	v->n = 0;
	assert_int_equal(p2m_tell_frames(v->p, frames), 0);
	/* It goes on before the manager reads it. */
	for (unsigned i = 0; i < 50; i++)
		write_page(v, draw(PAGES), (uint8_t)draw(40));
	assert_int_equal(share_vm_add(group, &sc, &v->sv), 0);
	assert_int_equal(share_vm_adopt(v->sv, frames), 0);
	close(frames);
	assert_int_equal(share_audit(host), 0);
}

static void new_manager(void)
{
	assert_int_equal(share_host_create(&ops, NULL, NULL, &host), 0);
	assert_int_equal(share_group_adopt(host, "a", vm[0].pool_fd, &group),
			 0);
	assert_true(share_group_held(group));
	assert_int_equal(share_audit(host), 0);
	for (unsigned i = 0; i < VMS; i++) {
		adopt_one(&vm[i]);
		/* Meanwhile those that are here share and break. */
		for (unsigned k = 0; k < 5; k++) {
			now += 400000000;
			share_scan_step(host, 4096, now);
			for (unsigned j = 0; j <= i; j++)
				answer(&vm[j], 4);
		}
		for (unsigned j = 0; j < VMS; j++)
			check_pages(&vm[j]);
	}
	share_group_settle(group);
	assert_false(share_group_held(group));
	assert_int_equal(share_audit(host), 0);
}

static void test_deaths(void **s)
{
	struct share_stats st;
	uint64_t merged = 0;

	assert_int_equal(share_host_create(&ops, NULL, NULL, &host), 0);
	assert_int_equal(share_group_create(host, "a", 32 << 20, &group), 0);
	for (unsigned i = 0; i < VMS; i++)
		add_vm(&vm[i]);
	for (unsigned i = 0; i < VMS; i++)
		for (uint64_t n = 0; n < PAGES; n++)
			write_page(&vm[i], n, (uint8_t)draw(40));
	for (unsigned death = 0; death < 12; death++) {
		work(40 + (unsigned)draw(120));
		share_get_stats(host, &st);
		merged += st.merged_pages;
		kill_manager();
		for (unsigned i = 0; i < VMS; i++)
			for (unsigned k = 0; k < 30; k++)
				write_page(&vm[i], draw(PAGES),
					   (uint8_t)draw(40));
		new_manager();
		for (unsigned i = 0; i < VMS; i++) {
			check_pages(&vm[i]);
			assert_int_equal(p2m_audit(vm[i].p), 0);
		}
	}
	assert_true(merged > PAGES);
	/* The frames of VMs that end are free in the end. */
	for (unsigned i = 0; i < VMS; i++) {
		p2m_destroy(vm[i].p);
		share_vm_remove(vm[i].sv);
	}
	share_get_stats(host, &st);
	assert_int_equal(st.pool_bytes, 0);
	assert_int_equal(share_audit(host), 0);
	share_host_destroy(host);
}

/* A monitor that names what is not there. */
static void test_lies(void **s)
{
	uint32_t word = 100000;
	struct pool *pool;
	int frames = memfd_create("frames", MFD_CLOEXEC), fd;

	assert_int_equal(share_host_create(&ops, NULL, NULL, &host), 0);
	assert_int_equal(share_group_create(host, "a", 4 << 20, &group), 0);
	add_vm(&vm[0]);
	assert_int_equal(pwrite(frames, &word, 4, 40), 4);
	assert_int_equal(share_vm_adopt(vm[0].sv, frames), -EUCLEAN);
	word = 3; /* in the pool, and free */
	assert_int_equal(pwrite(frames, &word, 4, 40), 4);
	assert_int_equal(share_vm_adopt(vm[0].sv, frames), -EUCLEAN);
	assert_int_equal(share_audit(host), 0);
	/* The file must be a pool's. */
	assert_int_equal(pool_adopt(frames, &pool), -EINVAL);
	fd = open("/dev/zero", O_RDONLY);
	assert_int_equal(pool_adopt(fd, &pool), -EINVAL);
	close(fd);
	close(frames);
	p2m_destroy(vm[0].p);
	share_host_destroy(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_deaths),
		cmocka_unit_test(test_lies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
