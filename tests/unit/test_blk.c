/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk from the driver's side: each request type, what is refused, and
 * random traffic against a model; by ring and by thread. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/prop/prop.h"
#include "tests/unit/virtio_util.h"
#include "vmm/dev/virtio_blk.h"

#define SECTORS 2048ull
#define FLUSH	(1ull << 9)
#define DISCARD (1ull << 13)
#define HDR	0x200000ull
#define STATUS	0x201000ull
#define DATA	0x210000ull

struct hdr {
	uint32_t type, reserved;
	uint64_t sector;
};

static struct vdrv v;
static char path[64];
static uint8_t model[SECTORS * 512];
static enum aio_mode mode;

static void start(struct disk_config c)
{
	struct virtio_host h;
	struct virtio_dev *d;
	char err[256];

	c.path = path;
	c.aio = mode;
	vd_machine(&v, &h);
	if (virtio_blk_create(&h, "disk0", &c, &d, err, sizeof(err)))
		fail_msg("%s", err);
	vd_plug(&v, d);
}

static void run_driver(uint64_t features)
{
	assert_true(vd_negotiate(&v, features | VIRTIO_F_VERSION_1));
	vd_queue(&v, 0, 64);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
}

/* The ring's event, as the I/O thread would see it. */
static void events(void)
{
	struct virtio_blk;
	int fd = virtio_blk_event_fd(v.d);
	uint64_t n;

	if (fd >= 0 && read(fd, &n, sizeof(n)) == sizeof(n))
		virtio_schedule(v.d);
}

static uint32_t wait_used(uint32_t *len)
{
	uint32_t id;

	while (!vd_used(&v, 0, &id, len)) {
		events();
		if (!vd_run(&v))
			usleep(50);
	}
	return id;
}

/* One request of a header, len bytes at DATA and a status; what came back. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t len, bool in,
		       uint32_t *written)
{
	struct hdr h = {type, 0, sector};
	uint8_t status = 0xee;
	uint32_t w;

	assert_int_equal(p2m_copy_in(v.p2m, HDR, &h, sizeof(h)), 0);
	assert_int_equal(p2m_copy_in(v.p2m, STATUS, &status, 1), 0);
	vd_set_desc(&v, v.q[0].desc, 0, HDR, 16, 1, len ? 1 : 2);
	if (len)
		vd_set_desc(&v, v.q[0].desc, 1, DATA, len, in ? 3 : 1, 2);
	vd_set_desc(&v, v.q[0].desc, 2, STATUS, 1, 2, 0);
	vd_avail(&v, 0, 0);
	vd_bell(&v, 0);
	vd_run(&v);
	assert_int_equal(wait_used(written ? written : &w), 0);
	assert_int_equal(p2m_copy_out(v.p2m, STATUS, &status, 1), 0);
	return status;
}

static void fill_image(void)
{
	struct rnd r = {7};
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (size_t i = 0; i < sizeof(model); i++)
		model[i] = rnd64(&r);
	assert_int_equal(write(fd, model, sizeof(model)), sizeof(model));
	close(fd);
}

static void check_image(void)
{
	static uint8_t got[sizeof(model)];
	int fd = open(path, O_RDONLY);

	assert_int_equal(read(fd, got, sizeof(got)), sizeof(got));
	close(fd);
	assert_memory_equal(got, model, sizeof(model));
}

static void check_data(uint64_t sector, uint32_t len)
{
	static uint8_t got[1 << 20];

	assert_int_equal(p2m_copy_out(v.p2m, DATA, got, len), 0);
	assert_memory_equal(got, model + sector * 512, len);
}

static void test_config(void **state)
{
	fill_image();
	start((struct disk_config){.path = NULL});
	assert_int_equal(vd_in(&v, v.device, 4), SECTORS);
	assert_int_equal(vd_in(&v, v.device + 4, 4), 0);
	assert_int_equal(vd_in(&v, v.device + 20, 4), 512);
	assert_int_equal(vd_in(&v, v.device + 12, 4), 126);
	assert_int_equal(vd_in(&v, v.device + 58, 4), 0); /* over the end */
	assert_true(vd_offered(&v) & FLUSH);
	assert_true(vd_offered(&v) & DISCARD);
	assert_false(vd_offered(&v) & 1u << 5);
	vd_unplug(&v);
	start((struct disk_config){.read_only = true});
	assert_true(vd_offered(&v) & 1u << 5);
	assert_false(vd_offered(&v) & DISCARD);
	vd_unplug(&v);
}

static void test_requests(void **state)
{
	uint32_t w;
	uint8_t buf[512];
	struct {
		uint64_t sector;
		uint32_t n, flags;
	} range = {100, 16, 0};

	fill_image();
	start((struct disk_config){.serial = "a serial"});
	run_driver(FLUSH);
	assert_int_equal(request(0, 5, 4096, true, &w), 0);
	assert_int_equal(w, 4097);
	check_data(5, 4096);
	/* Write what was read elsewhere. */
	assert_int_equal(request(1, 500, 4096, false, &w), 0);
	assert_int_equal(w, 1);
	memcpy(model + 500 * 512, model + 5 * 512, 4096);
	assert_int_equal(request(4, 0, 0, false, &w), 0);
	check_image();
	/* To the last sector, and beyond. */
	assert_int_equal(request(0, SECTORS - 1, 512, true, NULL), 0);
	assert_int_equal(request(0, SECTORS - 1, 1024, true, NULL), 1);
	assert_int_equal(request(0, SECTORS, 512, true, NULL), 1);
	assert_int_equal(request(0, ~0ull, 512, true, NULL), 1);
	assert_int_equal(request(1, ~0ull, 512, false, NULL), 1);
	/* Not sectors; nothing; a type that is not there. */
	assert_int_equal(request(0, 0, 100, true, NULL), 1);
	assert_int_equal(request(0, 0, 0, true, NULL), 1);
	assert_int_equal(request(77, 0, 512, true, NULL), 2);
	/* The name */
	assert_int_equal(request(8, 0, 20, true, &w), 0);
	assert_int_equal(w, 21);
	assert_int_equal(p2m_copy_out(v.p2m, DATA, buf, 20), 0);
	assert_string_equal((char *)buf, "a serial");
	/* Zeroes */
	assert_int_equal(p2m_copy_in(v.p2m, DATA, &range, 16), 0);
	assert_int_equal(request(13, 0, 16, false, NULL), 0);
	memset(model + 100 * 512, 0, 16 * 512);
	range.sector = 300;
	assert_int_equal(p2m_copy_in(v.p2m, DATA, &range, 16), 0);
	assert_int_equal(request(11, 0, 16, false, NULL), 0);
	memset(model + 300 * 512, 0, 16 * 512);
	check_image();
	range.flags = 1; /* unmap: for zeroes, not for discard */
	assert_int_equal(p2m_copy_in(v.p2m, DATA, &range, 16), 0);
	assert_int_equal(request(13, 0, 16, false, NULL), 0);
	assert_int_equal(request(11, 0, 16, false, NULL), 2);
	range.flags = 0;
	range.sector = SECTORS - 15;
	assert_int_equal(p2m_copy_in(v.p2m, DATA, &range, 16), 0);
	assert_int_equal(request(11, 0, 16, false, NULL), 1);
	check_image();
	assert_int_equal(vd_status(&v), 15);
	assert_true(v.msis[0x41] > 10);
	vd_unplug(&v);
}

static void test_read_only(void **state)
{
	fill_image();
	start((struct disk_config){.read_only = true});
	run_driver(0);
	assert_int_equal(request(0, 0, 512, true, NULL), 0);
	assert_int_equal(request(1, 0, 512, false, NULL), 1);
	assert_int_equal(request(11, 0, 16, false, NULL), 1);
	check_image();
	vd_unplug(&v);
}

/* Chains that cannot be answered break the device, and a reset mends it. */
static void test_broken(void **state)
{
	fill_image();
	start((struct disk_config){.path = NULL});
	for (unsigned i = 0; i < 3; i++) {
		run_driver(0);
		/* no status; half a header; nothing to read */
		vd_set_desc(&v, v.q[0].desc, 0, HDR, i == 1 ? 8 : 16,
			    i == 1   ? 1
			    : i == 2 ? 2
				     : 0,
			    1);
		vd_set_desc(&v, v.q[0].desc, 1, STATUS, 1, 2, 0);
		vd_avail(&v, 0, 0);
		vd_bell(&v, 0);
		vd_run(&v);
		assert_true(vd_status(&v) & VIRTIO_S_NEEDS_RESET);
	}
	run_driver(0);
	assert_int_equal(request(0, 0, 512, true, NULL), 0);
	vd_unplug(&v);
}

/* A page that is shared is read by copy and not broken; zero pages, too. */
static void test_zero_page(void **state)
{
	fill_image();
	start((struct disk_config){.path = NULL});
	run_driver(FLUSH);
	assert_int_equal(p2m_get_state(v.p2m, gpa_to_ppn(DATA)), P2M_ZERO);
	assert_int_equal(request(1, 8, 8192, false, NULL), 0);
	assert_int_equal(p2m_get_state(v.p2m, gpa_to_ppn(DATA)), P2M_ZERO);
	memset(model + 8 * 512, 0, 8192);
	check_image();
	/* Reading makes it private, and it is not pinned any more. */
	assert_int_equal(request(0, 0, 8192, true, NULL), 0);
	assert_int_equal(p2m_get_state(v.p2m, gpa_to_ppn(DATA)), P2M_PRIVATE);
	assert_int_equal(p2m_discard(v.p2m, gpa_to_ppn(DATA), 2), 2);
	vd_unplug(&v);
}

/* A reset waits for what is under way, and nothing is written afterwards. */
static void test_reset(void **state)
{
	struct hdr h = {0, 0, 0};
	uint8_t zero[4096] = {0};

	fill_image();
	start((struct disk_config){.path = NULL});
	for (unsigned i = 0; i < 50; i++) {
		run_driver(0);
		assert_int_equal(p2m_copy_in(v.p2m, HDR, &h, sizeof(h)), 0);
		for (unsigned k = 0; k < 20; k++) {
			vd_set_desc(&v, v.q[0].desc, 3 * k, HDR, 16, 1,
				    3 * k + 1);
			vd_set_desc(&v, v.q[0].desc, 3 * k + 1, DATA + 4096 * k,
				    4096, 3, 3 * k + 2);
			vd_set_desc(&v, v.q[0].desc, 3 * k + 2, STATUS + k, 1,
				    2, 0);
			vd_avail(&v, 0, 3 * k);
		}
		vd_bell(&v, 0);
		vd_run(&v);
		vd_out(&v, v.common + 20, 1, 0);
		assert_int_equal(vd_status(&v), 0);
		for (unsigned k = 0; k < 20; k++) {
			assert_int_equal(
				p2m_copy_in(v.p2m, DATA + 4096 * k, zero, 4096),
				0);
			assert_int_equal(
				p2m_discard(v.p2m, gpa_to_ppn(DATA + 4096 * k),
					    1),
				1);
		}
	}
	vd_unplug(&v);
}

/* ---- random traffic ---- */

/* Anything goes as header and shape; what is right must do what it says. */
static void test_random(void **state)
{
	static const uint32_t types[] = {0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 99};
	struct rnd r = rnd_seeded("blk", 3);
	uint64_t steps = prop_env("PROP_STEPS", 1000);

	fill_image();
	start((struct disk_config){.path = NULL});
	run_driver(FLUSH | DISCARD | VIRTIO_F_INDIRECT_DESC);
	for (uint64_t i = 0; i < steps; i++) {
		uint32_t type = types[rnd_below(&r, ARRAY_SIZE(types))];
		bool in = rnd_below(&r, 8) ? type == 0 || type == 8
					   : rnd_below(&r, 2);
		uint64_t n = 1 + rnd_below(&r, 200);
		uint32_t len =
			rnd_below(&r, 8) ? n * 512 : rnd_below(&r, 1 << 17);
		uint64_t sector = rnd_below(&r, 16)
					  ? rnd_below(&r, SECTORS + 20)
					  : rnd64(&r);
		static uint8_t data[1 << 17];
		bool fits = len && len % 512 == 0 && sector < SECTORS &&
			    len / 512 <= SECTORS - sector;
		uint8_t st;

		if (!in && type == 1) {
			for (uint32_t k = 0; k < len; k += 64)
				*(uint64_t *)(data + k) = rnd64(&r);
			assert_int_equal(p2m_copy_in(v.p2m, DATA, data, len),
					 0);
		}
		if (type == 11 || type == 13) {
			struct {
				uint64_t sector;
				uint32_t n, flags;
			} g = {sector, n, 0};

			assert_int_equal(p2m_copy_in(v.p2m, DATA, &g, 16), 0);
			len = 16;
			in = false;
			fits = sector < SECTORS && n <= SECTORS - sector;
		}
		st = request(type, sector, len, in, NULL);
		assert_true(st <= 2);
		if (type == 0 && in) {
			assert_int_equal(st, !fits);
			if (fits)
				check_data(sector, len);
		} else if (type == 1 && !in) {
			assert_int_equal(st, !fits);
			if (fits)
				memcpy(model + sector * 512, data, len);
		} else if (type == 11 || type == 13) {
			assert_int_equal(st, !fits);
			if (fits)
				memset(model + sector * 512, 0, n * 512);
		} else if (type <= 1) {
			assert_int_equal(st, 1);
		}
		assert_int_equal(vd_status(&v), 15);
	}
	check_image();
	vd_unplug(&v);
}

static unsigned told;
static uint64_t told_last;

static void on_read(void *ctx, ppn_t ppn)
{
	assert_ptr_equal(ctx, &told);
	told++;
	told_last = ppn.n;
}

static void start_told(struct disk_config c)
{
	start(c);
	virtio_blk_on_read(v.d, on_read, &told);
	run_driver(FLUSH);
	told = 0;
}

/* Whole pages out of what others have, too, are told; nothing else is. */
static void test_common(void **state)
{
	fill_image();
	start_told((struct disk_config){.snapshot = true});
	assert_int_equal(request(0, 0, 8192, true, NULL), 0);
	assert_int_equal(told, 2);
	assert_int_equal(told_last, (DATA >> 12) + 1);
	assert_int_equal(request(0, 0, 2048, true, NULL), 0);
	assert_int_equal(told, 2);
	/* Of the overlay, wholly or in part: not common any more. */
	assert_int_equal(request(1, 8, 512, false, NULL), 0);
	assert_int_equal(request(0, 8, 4096, true, NULL), 0);
	assert_int_equal(request(0, 0, 8192, true, NULL), 0);
	assert_int_equal(told, 2);
	assert_int_equal(request(0, 16, 4096, true, NULL), 0);
	assert_int_equal(told, 3);
	/* A request that fails fills nothing. */
	assert_int_equal(request(0, SECTORS, 4096, true, NULL), 1);
	assert_int_equal(told, 3);
	vd_unplug(&v);
	start_told((struct disk_config){.read_only = true});
	assert_int_equal(request(0, 0, 4096, true, NULL), 0);
	assert_int_equal(told, 1);
	vd_unplug(&v);
	start_told((struct disk_config){.path = NULL});
	assert_int_equal(request(0, 0, 4096, true, NULL), 0);
	assert_int_equal(told, 0);
	vd_unplug(&v);
}

static void by_thread(void **state)
{
	mode = AIO_THREAD;
}

static int setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/sardine-blk.%d", (int)getpid());
	mode = AIO_AUTO;
	return 0;
}

static int teardown(void **state)
{
	return unlink(path);
}

int main(void)
{
#define ALL                                                                    \
	cmocka_unit_test(test_config), cmocka_unit_test(test_requests),        \
		cmocka_unit_test(test_read_only),                              \
		cmocka_unit_test(test_broken),                                 \
		cmocka_unit_test(test_zero_page),                              \
		cmocka_unit_test(test_common), cmocka_unit_test(test_reset),   \
		cmocka_unit_test(test_random)
	const struct CMUnitTest tests[] = {
		ALL,
		cmocka_unit_test(by_thread),
		ALL,
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
