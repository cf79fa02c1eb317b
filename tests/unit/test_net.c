/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net over a socket pair: frames both ways, in one buffer and in many;
 * buffers that are missing, too small, too many; headers and frames that are
 * nonsense; an end that stalls, and one that goes away. And how --net is read.
 */
#include <stdio.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_util.h"
#include "vmm/cli/nets.h"
#include "vmm/dev/virtio_net.h"

#define F_CSUM	     (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU	     (1ull << 3)
#define F_MRG	     (1ull << 15)
#define F_STATUS     (1ull << 16)
#define RX	     0
#define TX	     1
#define HDR	     12u
#define MTU	     9000u
#define BUF(i)	     (0x200000ull + 0x4000 * (i))

static struct vdrv v;
static int sock[2] = {-1, -1};
static bool want_in, want_out;
static uint8_t frame[MTU + 100], got[MTU + 200];

static void want(void *ctx, bool in, bool out)
{
	want_in = in;
	want_out = out;
}

static void up(uint64_t features)
{
	assert_true(vd_negotiate(&v, VIRTIO_F_VERSION_1 | features));
	vd_queue(&v, RX, 16);
	vd_queue(&v, TX, 16);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
}

static int setup(void **state)
{
	struct virtio_net_config c = {
		"net0", {2, 1, 2, 3, 4, 5}, MTU, -1, false, true, want, NULL};
	struct virtio_host h;
	int small = 4096;

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sock),
		0);
	setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	c.fd = sock[0];
	vd_machine(&v, &h);
	vd_plug(&v, virtio_net_create(&h, &c));
	for (unsigned i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)(i * 7 + i / 256);
	return 0;
}

static int teardown(void **state)
{
	vd_unplug(&v);
	close(sock[0]);
	if (sock[1] >= 0)
		close(sock[1]);
	return 0;
}

static void arrive(size_t n)
{
	assert_int_equal(send(sock[1], frame, n, 0), n);
	virtio_net_ready(v.d);
	vd_run(&v);
}

static void give(unsigned i, uint32_t len)
{
	vd_set_desc(&v, v.q[RX].desc, i, BUF(i), len, 2, 0);
	vd_avail(&v, RX, i);
	vd_bell(&v, RX);
	vd_run(&v);
}

/* Frame of n bytes behind this header. */
static void transmit(const void *hdr, size_t n)
{
	assert_int_equal(p2m_copy_in(v.p2m, BUF(20), hdr, HDR), 0);
	assert_int_equal(p2m_copy_in(v.p2m, BUF(21), frame, n), 0);
	vd_set_desc(&v, v.q[TX].desc, 0, BUF(20), HDR, 1, 1);
	vd_set_desc(&v, v.q[TX].desc, 1, BUF(21), n, 0, 0);
	vd_avail(&v, TX, 0);
	vd_bell(&v, TX);
	vd_run(&v);
}

static const uint8_t plain[HDR];

static ssize_t at_other_end(void)
{
	return recv(sock[1], got, sizeof(got), MSG_DONTWAIT);
}

static void test_config(void **state)
{
	assert_true(vd_offered(&v) & F_MTU);
	assert_true(vd_offered(&v) & F_GUEST_CSUM);
	assert_int_equal(vd_in(&v, v.device, 1), 2);
	assert_int_equal(vd_in(&v, v.device + 5, 1), 5);
	assert_int_equal(vd_in(&v, v.device + 6, 2), 1);
	assert_int_equal(vd_in(&v, v.device + 10, 2), MTU);
}

static void test_out(void **state)
{
	uint32_t id, len;

	up(0);
	transmit(plain, 100);
	assert_int_equal(at_other_end(), 100);
	assert_memory_equal(got, frame, 100);
	assert_true(vd_used(&v, TX, &id, &len));
	assert_int_equal(id, 0);
	assert_int_equal(v.msis[0x42], 1);
}

static void expect_dropped(const void *hdr, size_t n)
{
	uint32_t id, len;

	transmit(hdr, n);
	assert_int_equal(at_other_end(), -1);
	assert_true(vd_used(&v, TX, &id, &len));
	assert_false(v.d->status & VIRTIO_S_NEEDS_RESET);
}

/* The field is between the start and the end, whatever the header says. */
static void test_nonsense(void **state)
{
	uint16_t h[6] = {0};
	uint32_t id, len;

	up(F_CSUM);
	expect_dropped(plain, 13);
	expect_dropped(plain, MTU + 19);
	h[0] = 1;
	h[3] = 100; /* start */
	expect_dropped(h, 100);
	h[3] = 40;
	h[4] = 59; /* offset: one byte beyond */
	expect_dropped(h, 100);
	h[3] = h[4] = 0xffff;
	expect_dropped(h, 100);
	h[0] = 1 << 8; /* segmentation, not agreed upon */
	expect_dropped(h, 100);
	/* No room for a header; a chain of nothing. */
	vd_set_desc(&v, v.q[TX].desc, 0, BUF(20), HDR - 1, 0, 0);
	vd_avail(&v, TX, 0);
	vd_set_desc(&v, v.q[TX].desc, 1, BUF(20), 0, 2, 0);
	vd_avail(&v, TX, 1);
	/* All of memory many times over. */
	for (unsigned i = 2; i < 16; i++)
		vd_set_desc(&v, v.q[TX].desc, i, 0, VD_RAM, i < 15, i + 1);
	vd_avail(&v, TX, 2);
	vd_bell(&v, TX);
	vd_run(&v);
	assert_int_equal(at_other_end(), -1);
	for (unsigned i = 0; i < 3; i++)
		assert_true(vd_used(&v, TX, &id, &len));
	transmit(plain, 100);
	assert_int_equal(at_other_end(), 100);
}

static void test_checksum(void **state)
{
	uint16_t h[6] = {1, 0, 0, 34, 16, 0};
	uint32_t sum = 0;
	uint16_t w;

	/* An odd length, and a partial sum in the field. */
	up(F_CSUM);
	transmit(h, 101);
	assert_int_equal(at_other_end(), 101);
	assert_memory_equal(got, frame, 50);
	assert_memory_equal(got + 52, frame + 52, 49);
	/* The receiver's sum, with what the field held as the pseudo header. */
	got[101] = 0;
	for (unsigned i = 34; i < 101; i += 2) {
		memcpy(&w, got + i, 2);
		sum += w;
	}
	memcpy(&w, frame + 50, 2);
	sum += w;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	assert_int_equal(sum, 0xffff);
	/* Not agreed upon: no such frame. */
	vd_out(&v, v.common + 20, 1, 0);
	up(0);
	expect_dropped(h, 101);
}

static void test_in(void **state)
{
	uint32_t id, len;
	uint16_t n;

	up(F_GUEST_CSUM | F_MRG);
	give(3, 2000);
	arrive(1000);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(id, 3);
	assert_int_equal(len, 1000 + HDR);
	p2m_copy_out(v.p2m, BUF(3), got, 1000 + HDR);
	assert_int_equal(got[0], 2);
	memcpy(&n, got + 10, 2);
	assert_int_equal(n, 1);
	assert_memory_equal(got + HDR, frame, 1000);
	/* Short ones are none. */
	give(3, 2000);
	arrive(13);
	assert_false(vd_used(&v, RX, &id, &len));
}

/* A frame waits for buffers, part by part, and nothing behind it is read. */
static void test_merge(void **state)
{
	uint32_t id, len = 0, at = 0;
	uint16_t n;

	up(F_MRG);
	give(0, 1500);
	arrive(4000);
	assert_false(vd_used(&v, RX, &id, &len));
	assert_false(want_in);
	assert_int_equal(send(sock[1], frame, 60, 0), 60);
	give(1, 1500);
	assert_false(vd_used(&v, RX, &id, &len));
	give(2, 1500);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(vd_used(&v, RX, &id, &len));
		assert_int_equal(id, i);
		p2m_copy_out(v.p2m, BUF(i), got + at, len);
		at += len;
	}
	assert_int_equal(at, 4000 + HDR);
	memcpy(&n, got + 10, 2);
	assert_int_equal(n, 3);
	assert_memory_equal(got + HDR, frame, 4000);
	give(3, 1500);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(len, 60 + HDR);
	assert_true(want_in);
}

/* Buffers that cannot take a frame cost that frame, not the device. */
static void test_small_buffers(void **state)
{
	uint32_t id, len;

	up(0); /* without merging */
	give(0, 500);
	arrive(1000);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(len, 0);
	give(1, 2000);
	arrive(1000);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(len, 1000 + HDR);
	vd_out(&v, v.common + 20, 1, 0);
	up(F_MRG);
	give(0, HDR - 1); /* no room for the header */
	give(1, 0);
	arrive(100);
	arrive(100);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(vd_used(&v, RX, &id, &len));
		assert_int_equal(len, 0);
	}
	assert_false(v.d->status & VIRTIO_S_NEEDS_RESET);
	/* Hundreds of buffers of a few bytes. */
	for (unsigned i = 0; i < 16; i++)
		give(i, i ? 8 : HDR);
	arrive(MTU);
	for (unsigned k = 0; k < 10; k++)
		for (unsigned i = 0; i < 16; i++)
			if (vd_used(&v, RX, &id, &len))
				give(id, 8);
	assert_false(v.d->status & VIRTIO_S_NEEDS_RESET);
}

/* A header over two segments, its last byte alone in the second. */
static void test_split_header(void **state)
{
	uint32_t id, len;
	uint16_t n;

	up(F_MRG);
	vd_set_desc(&v, v.q[RX].desc, 0, BUF(0), 11, 3, 1);
	vd_set_desc(&v, v.q[RX].desc, 1, BUF(1), 100, 2, 0);
	vd_avail(&v, RX, 0);
	vd_bell(&v, RX);
	give(2, 1000);
	arrive(500);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(len, 111);
	assert_true(vd_used(&v, RX, &id, &len));
	assert_int_equal(len, 500 + HDR - 111);
	p2m_copy_out(v.p2m, BUF(0) + 10, &n, 1);
	p2m_copy_out(v.p2m, BUF(1), (uint8_t *)&n + 1, 1);
	assert_int_equal(n, 2);
}

/* An end that does not read stalls the queue, and loses nothing. */
static void test_stall(void **state)
{
	unsigned sent = 0, came = 0;
	uint32_t id, len;

	up(0);
	do
		transmit(plain, 1000);
	while (vd_used(&v, TX, &id, &len) && ++sent < 1000);
	assert_true(sent < 1000);
	assert_true(want_out);
	while (at_other_end() == 1000)
		came++;
	assert_int_equal(came, sent);
	virtio_net_ready(v.d);
	vd_run(&v);
	assert_int_equal(at_other_end(), 1000);
	assert_true(vd_used(&v, TX, &id, &len));
	assert_false(want_out);
}

static void test_hang_up(void **state)
{
	uint32_t id, len;

	up(F_STATUS);
	give(0, 2000);
	close(sock[1]);
	sock[1] = -1;
	virtio_net_ready(v.d);
	vd_run(&v);
	assert_int_equal(vd_in(&v, v.device + 6, 2), 0);
	assert_int_equal(v.msis[0x40], 1);
	assert_false(want_in || want_out);
	transmit(plain, 100);
	assert_true(vd_used(&v, TX, &id, &len));
	assert_false(v.d->status & VIRTIO_S_NEEDS_RESET);
	/* And a driver that starts anew still has no link. */
	vd_out(&v, v.common + 20, 1, 0);
	up(F_STATUS);
	assert_int_equal(vd_in(&v, v.device + 6, 2), 0);
}

/* Rings of random bytes: it may break, no more. */
static void test_random(void **state)
{
	uint64_t s = 12345;

	for (unsigned round = 0; round < 300; round++) {
		up(round & 1 ? F_MRG | F_CSUM : 0);
		for (unsigned k = 0; k < 16; k++) {
			s = s * 6364136223846793005ull + 1442695040888963407ull;
			vd_set_desc(&v, v.q[round & 2 ? TX : RX].desc, k,
				    (s >> 20) % (2 * VD_RAM),
				    (s >> 8) % 3 ? (s >> 44) & 0xfff : s >> 32,
				    (s >> 16) & 7, (s >> 60));
			vd_avail(&v, k & 1, (s >> 50) % 18);
		}
		vd_bell(&v, RX);
		vd_bell(&v, TX);
		(void)!send(sock[1], frame, 14 + (s >> 40) % MTU, 0);
		virtio_net_ready(v.d);
		vd_run(&v);
		while (at_other_end() > 0)
			;
		vd_out(&v, v.common + 20, 1, 0);
	}
	assert_int_equal(p2m_audit(v.p2m), 0);
	while (recv(sock[0], got, sizeof(got), MSG_DONTWAIT) > 0)
		;
	up(0);
	transmit(plain, 100);
	assert_int_equal(at_other_end(), 100);
}

/* ---- --net ---- */

static int parse(const char *text, struct net_spec *s)
{
	char err[256];

	return net_parse(text, "web12", s, err, sizeof(err));
}

static void test_parse(void **state)
{
	static const char *const bad[] = {"",
					  ",",
					  "tap=",
					  "tap=averyverylongname",
					  "slirp",
					  "user,mtu=100",
					  "user,mtu=65521",
					  "user,mtu=9k",
					  "user,mac=1:2:3",
					  "user,mac=01:02:03:04:05:06",
					  "user,mac=02:02:03:04:05:06:07",
					  "user,hostfwd=tcp::1-:",
					  "user,hostfwd=tcp::0-:22",
					  "user,hostfwd=tcp::65536-:22",
					  "user,hostfwd=icmp::1-:2",
					  "user,hostfwd=tcp:1.2.3:1-:2",
					  "user,hostfwd=tcp::1-:2x",
					  "user,hostfwd=tcp::1+{n}x-:2",
					  "user,hostfwd=tcp::65530+{n}-:2",
					  "tap=t0,hostfwd=tcp::1-:2",
					  "user,hostfwd=tcp:",
					  "user,hostfwd=tcp:1-2"};
	struct net_spec s, t;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &s), -EINVAL);
	assert_int_equal(parse("user,hostfwd=tcp::2200+{n}-:22,hostfwd=udp:"
			       "0.0.0.0:53-10.0.2.20:5353,restrict",
			       &s),
			 0);
	assert_true(s.restricted && !s.tap && s.n_fwd == 2);
	assert_string_equal(s.fwd_text[0], "tcp:127.0.0.1:2212-10.0.2.15:22");
	assert_string_equal(s.fwd_text[1], "udp:0.0.0.0:53-10.0.2.20:5353");
	/* The same VM has the same address, another one another. */
	assert_int_equal(parse("tap=tap0,mtu=1400", &t), 0);
	assert_true(t.tap && t.mtu == 1400);
	assert_memory_equal(s.mac, t.mac, 6);
	assert_int_equal(s.mac[0] & 3, 2);
	net_spec_free(&s);
	assert_int_equal(net_parse("user", "web13", &s, (char[99]){0}, 99), 0);
	assert_memory_not_equal(s.mac, t.mac, 6);
	assert_int_equal(parse("user,mac=52:54:00:ab:cd:ef", &s), 0);
	assert_int_equal(s.mac[5], 0xef);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_config),
		T(test_out),
		T(test_nonsense),
		T(test_checksum),
		T(test_in),
		T(test_merge),
		T(test_small_buffers),
		T(test_split_header),
		T(test_stall),
		T(test_hang_up),
		T(test_random),
		cmocka_unit_test(test_parse),
	};

	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
