/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console: output through a reader that stalls, input before and after
 * there are buffers for it. */
#include <stdio.h>

#include "tests/unit/virtio_util.h"
#include "vmm/dev/virtio_console.h"

#define BUF(i) (0x200000ull + 0x1000 * (i))

static struct vdrv v;
static char out[65536];
static size_t out_len, out_room;
static unsigned rooms;

static size_t take(void *ctx, const uint8_t *buf, size_t n)
{
	n = n < out_room ? n : out_room;
	memcpy(out + out_len, buf, n);
	out_len += n;
	out_room -= n;
	return n;
}

static void in_room(void *ctx)
{
	rooms++;
}

static int setup(void **state)
{
	struct virtio_console_config c = {"hvc0", take, in_room, NULL};
	struct virtio_host h;

	vd_machine(&v, &h);
	vd_plug(&v, virtio_console_create(&h, &c));
	assert_false(virtio_console_up(v.d));
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 8);
	vd_queue(&v, 1, 8);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
	assert_true(virtio_console_up(v.d));
	out_len = rooms = 0;
	out_room = sizeof(out);
	return 0;
}

static int teardown(void **state)
{
	vd_unplug(&v);
	return 0;
}

static void send(unsigned i, const char *text)
{
	assert_int_equal(p2m_copy_in(v.p2m, BUF(i), text, strlen(text)), 0);
	vd_set_desc(&v, v.q[1].desc, i, BUF(i), strlen(text), 0, 0);
	vd_avail(&v, 1, i);
	vd_bell(&v, 1);
	vd_run(&v);
}

static void test_output(void **state)
{
	uint32_t id, len;

	send(0, "hello ");
	send(1, "world");
	assert_int_equal(out_len, 11);
	assert_memory_equal(out, "hello world", 11);
	assert_true(vd_used(&v, 1, &id, &len));
	assert_int_equal(id, 0);
	assert_true(vd_used(&v, 1, &id, &len));
	assert_false(vd_used(&v, 1, &id, &len));
	assert_int_equal(v.msis[0x42], 2);
}

/* What the reader does not take comes when it does, in order. */
static void test_stall(void **state)
{
	uint32_t id, len;

	out_room = 3;
	send(0, "abcdef");
	send(1, "ghi");
	assert_int_equal(out_len, 3);
	assert_false(vd_used(&v, 1, &id, &len));
	out_room = 4;
	virtio_console_out_room(v.d);
	vd_run(&v);
	assert_int_equal(out_len, 7);
	assert_true(vd_used(&v, 1, &id, &len));
	assert_false(vd_used(&v, 1, &id, &len));
	/* A reset in the middle forgets the rest of that chain. */
	vd_out(&v, v.common + 20, 1, 0);
	out_room = 100;
	virtio_console_out_room(v.d);
	vd_run(&v);
	assert_int_equal(out_len, 7);
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1));
	vd_queue(&v, 1, 8);
	vd_driver_ok(&v);
	vd_run(&v);
	send(0, "x");
	assert_int_equal(out_len, 8);
	assert_memory_equal(out, "abcdefgx", 8);
}

/* A chain that is all of memory many times over has its turns. */
static void test_long(void **state)
{
	unsigned turns;

	out_room = 0;
	for (unsigned i = 0; i < 8; i++)
		vd_set_desc(&v, v.q[1].desc, i, 0, VD_RAM, i < 7, i + 1);
	vd_avail(&v, 1, 0);
	vd_bell(&v, 1);
	vd_run(&v);
	for (turns = 0; turns < 20; turns++) {
		out_len = 0;
		out_room = sizeof(out);
		virtio_console_out_room(v.d);
		vd_run(&v);
		assert_int_equal(out_len, sizeof(out));
	}
	assert_int_equal(vd_status(&v), 15);
}

static size_t type(const char *text, size_t n)
{
	size_t took;

	pthread_mutex_lock(&v.lock);
	took = virtio_console_input(v.d, (const uint8_t *)text, n);
	pthread_mutex_unlock(&v.lock);
	vd_run(&v);
	return took;
}

static void offer(unsigned i, uint32_t len)
{
	vd_set_desc(&v, v.q[0].desc, i, BUF(i), len, 2, 0);
	vd_avail(&v, 0, i);
	vd_bell(&v, 0);
	vd_run(&v);
}

static void expect(const char *text)
{
	uint32_t id = 0, len = 0;
	char got[64];

	assert_true(vd_used(&v, 0, &id, &len));
	assert_int_equal(len, strlen(text));
	assert_int_equal(p2m_copy_out(v.p2m, BUF(id), got, len), 0);
	assert_memory_equal(got, text, len);
}

static void test_input(void **state)
{
	uint32_t id, len;
	static char many[3000];

	assert_int_equal(type("early", 5), 5);
	assert_false(vd_used(&v, 0, &id, &len));
	offer(0, 3);
	expect("ear");
	offer(1, 60);
	expect("ly");
	offer(2, 60);
	assert_int_equal(type("now", 3), 3);
	expect("now");
	assert_int_equal(v.msis[0x41], 3);
	/* Too much: the sender is told when there is room. */
	memset(many, 'm', sizeof(many));
	assert_int_equal(type(many, sizeof(many)), 1024);
	assert_int_equal(type(many, 10), 0);
	assert_int_equal(rooms, 0);
	offer(0, 100);
	assert_true(vd_used(&v, 0, &id, &len));
	assert_int_equal(rooms, 0);
	offer(1, 900);
	assert_true(vd_used(&v, 0, &id, &len));
	assert_int_equal(len, 900);
	assert_int_equal(rooms, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_output),
		T(test_stall),
		T(test_long),
		T(test_input),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
