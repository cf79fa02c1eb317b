/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtqueue against a model of a driver, and against a hostile one.
 *
 * traffic: chains of every shape (direct, indirect, both; any split into
 * segments; kept back by the device and returned out of order), with and
 * without event indices, long enough for the 16-bit indices to wrap. Every
 * byte, every used entry and every interrupt is checked.
 *
 * hostile: rings and tables full of nonsense, half of it near the truth. The
 * device must never see a segment outside RAM or a chain out of form, must
 * break by name, and must work again after a reset. Every name of
 * VIRTQ_ERRORS that a guest can cause has to come up.
 */
#include "tests/prop/prop.h"
#include "tests/unit/virtio_util.h"

#define N	 16 /* descriptors */
#define BUF	 0x200000ull
#define BUF_LEN	 0x100000ull
#define INDIRECT 0x300000ull
#define MAX_LEN	 6000

struct echo {
	struct virtio_dev dev; /* first */
	struct rnd *r;
	struct virtq_chain held[8];
	unsigned n_held;
	bool hostile;
	uint64_t chains;
};

static void check_chain(const struct echo *e, const struct virtq_chain *c)
{
	uint64_t out = 0, in = 0;

	assert_true(c->head < e->dev.vq[0].size);
	assert_true(c->n_out + c->n_in > 0);
	assert_true(c->n_out + c->n_in <= VIRTQ_MAX_SEGS);
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		assert_true(c->seg[i].gpa <= VD_RAM &&
			    c->seg[i].len <= VD_RAM - c->seg[i].gpa);
		*(i < c->n_out ? &out : &in) += c->seg[i].len;
	}
	assert_int_equal(out, c->out_len);
	assert_int_equal(in, c->in_len);
}

/* The answer: what was read, each byte plus one, as far as it fits. */
static void answer(struct echo *e, struct virtq *q, struct virtq_chain *c)
{
	static uint8_t buf[MAX_LEN];
	size_t n = c->out_len < c->in_len ? c->out_len : c->in_len;

	n = n < MAX_LEN ? n : MAX_LEN;
	if (!virtq_read(q, c, 0, buf, n)) {
		assert_true(e->hostile);
		return;
	}
	for (size_t i = 0; i < n; i++)
		buf[i]++;
	if (!virtq_write(q, c, 0, buf, n)) {
		assert_true(e->hostile);
		return;
	}
	virtq_push(q, c->head, n);
}

static void echo_kick(struct virtio_dev *d, struct virtq *q)
{
	struct echo *e = container_of(d, struct echo, dev);
	struct virtq_chain c;

	while (virtq_pop(q, &c)) {
		e->chains++;
		check_chain(e, &c);
		if (e->n_held < 8 && rnd_below(e->r, 3) == 0)
			e->held[e->n_held++] = c;
		else
			answer(e, q, &c);
	}
	while (e->n_held && rnd_below(e->r, 3)) {
		unsigned i = rnd_below(e->r, e->n_held);

		answer(e, q, &e->held[i]);
		e->held[i] = e->held[--e->n_held];
	}
}

static void echo_reset(struct virtio_dev *d)
{
	container_of(d, struct echo, dev)->n_held = 0;
}

static const struct virtio_ops echo_ops = {
	.name = "echo",
	.id = 40,
	.kick = echo_kick,
	.reset = echo_reset,
};

static struct vdrv v;
static struct echo e;

static void start(struct rnd *r, bool hostile)
{
	struct virtio_host h;

	memset(&e, 0, sizeof(e));
	e.r = r;
	e.hostile = hostile;
	vd_machine(&v, &h);
	virtio_init(&e.dev, &echo_ops, "echo", &h, 1, N, 0, NULL, 0);
	vd_plug(&v, &e.dev);
}

static void negotiate(uint64_t features)
{
	assert_true(vd_negotiate(&v, features));
	vd_queue(&v, 0, N);
	vd_msix_on(&v);
	vd_driver_ok(&v);
	vd_run(&v);
}

/* ---- traffic ---- */

struct sent {
	bool busy;
	bool indirect;
	unsigned first, n_desc; /* in the main table: its slots are marked */
	unsigned n_seg, n_out;
	struct virtq_seg seg[N];
	uint32_t out_len, in_len;
	uint8_t data[MAX_LEN];
};

static struct sent sent[N];
static bool slot_used[N];

static unsigned free_slots(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N; i++)
		n += !slot_used[i];
	return n;
}

static unsigned take_slot(void)
{
	for (unsigned i = 0; i < N; i++)
		if (!slot_used[i]) {
			slot_used[i] = true;
			return i;
		}
	fail();
	return 0;
}

static void write_segs(struct rnd *r, struct sent *s, unsigned head)
{
	gpa_t table = s->indirect ? INDIRECT + 0x1000 * head : v.q[0].desc;
	unsigned i = s->indirect ? 0 : head;

	for (unsigned k = 0; k < s->n_seg; k++) {
		bool last = k == s->n_seg - 1;
		unsigned next = last	      ? rnd64(r) & 0xffff
				: s->indirect ? i + 1
					      : take_slot();

		vd_set_desc(&v, table, i, s->seg[k].gpa, s->seg[k].len,
			    (last ? 0 : 1) | (k >= s->n_out ? 2 : 0), next);
		i = next;
	}
	if (s->indirect)
		vd_set_desc(&v, v.q[0].desc, head, table, 16 * s->n_seg, 4,
			    0x7777);
}

static void send_one(struct rnd *r, bool may_indirect)
{
	unsigned room = free_slots(), head, off = 0;
	struct sent *s;

	if (!room)
		return;
	head = take_slot();
	s = &sent[head];
	memset(s, 0, offsetof(struct sent, data));
	s->busy = true;
	s->indirect = may_indirect && rnd_below(r, 2);
	s->n_seg = 1 + rnd_below(r, s->indirect ? N : room < 5 ? room : 5);
	s->n_out = rnd_below(r, s->n_seg + 1);
	for (unsigned k = 0; k < s->n_seg; k++) {
		uint32_t len = rnd_below(r, MAX_LEN / N);

		/* Each head has its own 64 KiB: chains do not overlap. */
		s->seg[k] = (struct virtq_seg){
			BUF + 0x10000 * head + off + rnd_below(r, 50), len};
		off += len + 50 + (rnd_below(r, 4) ? 0 : 2000);
		*(k < s->n_out ? &s->out_len : &s->in_len) += len;
	}
	for (unsigned i = 0, k = 0; k < s->n_out; i += s->seg[k++].len) {
		for (unsigned j = 0; j < s->seg[k].len; j++)
			s->data[i + j] = rnd64(r);
		assert_int_equal(p2m_copy_in(v.p2m, s->seg[k].gpa, s->data + i,
					     s->seg[k].len),
				 0);
	}
	write_segs(r, s, head);
	vd_avail(&v, 0, head);
}

static void free_chain(struct sent *s, unsigned head)
{
	unsigned i = head;
	uint16_t d[8];

	for (;;) {
		slot_used[i] = false;
		assert_int_equal(
			p2m_copy_out(v.p2m, v.q[0].desc + 16 * i, d, 16), 0);
		if (!(d[6] & 1))
			break;
		i = d[7];
	}
	s->busy = false;
}

/* What came back is what was asked for. */
static void check_used(uint32_t id, uint32_t len)
{
	struct sent *s = &sent[id];
	uint32_t want = s->out_len < s->in_len ? s->out_len : s->in_len, at = 0;
	uint8_t got[MAX_LEN];

	assert_true(id < N && s->busy);
	assert_int_equal(len, want);
	for (unsigned k = s->n_out; k < s->n_seg; at += s->seg[k++].len)
		assert_int_equal(p2m_copy_out(v.p2m, s->seg[k].gpa, got + at,
					      s->seg[k].len),
				 0);
	for (unsigned i = 0; i < want; i++)
		assert_int_equal(got[i], (uint8_t)(s->data[i] + 1));
	free_chain(s, id);
}

static void traffic(uint64_t features, struct rnd *r, unsigned rounds)
{
	bool event = features & VIRTIO_F_EVENT_IDX;
	uint32_t id, len;

	memset(sent, 0, sizeof(sent));
	memset(slot_used, 0, sizeof(slot_used));
	negotiate(features);
	for (unsigned i = 0; i < rounds; i++) {
		uint16_t before = vd_get16(&v, v.q[0].used + 2), after, want;
		unsigned msis = v.msis[0x41], k = rnd_below(r, 6);
		bool quiet = rnd_below(r, 3) == 0, told;

		while (k--)
			send_one(r, features & VIRTIO_F_INDIRECT_DESC);
		want = before + rnd_below(r, 6) - 1;
		vd_set16(&v, v.q[0].avail, quiet);
		vd_set16(&v, v.q[0].avail + 4 + 2 * N, want);
		vd_bell(&v, 0);
		vd_run(&v);
		after = vd_get16(&v, v.q[0].used + 2);
		told = v.msis[0x41] != msis;
		if (event)
			assert_int_equal(told,
					 (uint16_t)(want - before) <
						 (uint16_t)(after - before));
		else
			assert_int_equal(told, after != before && !quiet);
		if (event)
			assert_int_equal(vd_get16(&v, v.q[0].used + 4 + 8 * N),
					 v.q[0].avail_idx);
		while (vd_used(&v, 0, &id, &len))
			check_used(id, len);
		assert_int_equal(vd_status(&v), 15);
	}
}

static void test_traffic(void **state)
{
	struct rnd r = rnd_seeded("traffic", 1);
	unsigned rounds = prop_env("PROP_STEPS", 40000);

	start(&r, false);
	traffic(VIRTIO_F_VERSION_1, &r, rounds / 4);
	traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC, &r, rounds / 4);
	traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX, &r, rounds / 4);
	e.chains = 0;
	traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
			VIRTIO_F_EVENT_IDX,
		&r, rounds);
	if (rounds >= 40000)
		assert_true(e.chains > 70000); /* it wrapped */
	vd_unplug(&v);
}

/* ---- hostile ---- */

static uint64_t odd_address(struct rnd *r)
{
	static const uint64_t near[] = {
		0,	     VD_RAM,	 VD_RAM - 1,
		VD_RAM - 16, 1ull << 32, ~0ull,
		~15ull,	     INDIRECT,	 (1ull << 32) - 1,
		BUF,	     1ull << 63, VD_RING(0),
	};

	if (rnd_below(r, 2))
		return BUF + rnd_below(r, BUF_LEN);
	return near[rnd_below(r, ARRAY_SIZE(near))] + rnd_below(r, 3) - 1;
}

static void odd_desc(struct rnd *r, gpa_t table, unsigned i, bool mild)
{
	static const uint32_t lens[] = {0, 1, 16, 64, 256, 4096, 17, 1 << 20};
	uint16_t flags = rnd_below(r, mild ? 4 : 8);
	uint32_t len = lens[rnd_below(r, ARRAY_SIZE(lens))];

	if (rnd_below(r, 20) == 0)
		len = rnd64(r);
	if (!mild && rnd_below(r, 10) == 0)
		flags = rnd64(r);
	if (flags & 4 && rnd_below(r, 2)) {
		vd_set_desc(&v, table, i, INDIRECT, 16 * rnd_below(r, 600), 4,
			    rnd64(r));
		return;
	}
	vd_set_desc(&v, table, i, mild ? BUF : odd_address(r), len, flags,
		    rnd_below(r, 30) ? rnd_below(r, N + (mild ? 0 : 2))
				     : rnd64(r));
}

static void hostile_round(struct rnd *r)
{
	bool mild = rnd_below(r, 2);

	for (unsigned i = 0; i < N; i++)
		odd_desc(r, v.q[0].desc, i, mild);
	/* Long enough for "too long" to be met without a loop. */
	for (unsigned i = 0; i < 600; i++)
		if (mild)
			vd_set_desc(&v, INDIRECT, i, BUF, 4, 3, i + 1);
		else if (i < 20)
			odd_desc(r, INDIRECT, i, false);
	for (unsigned i = 0; i < N; i++)
		vd_set16(&v, v.q[0].avail + 4 + 2 * i,
			 rnd_below(r, 10) ? rnd_below(r, N) : rnd64(r));
	vd_set16(&v, v.q[0].avail + 2,
		 e.dev.vq[0].next_avail +
			 (rnd_below(r, 20) ? rnd_below(r, N + 1) : rnd64(r)));
	vd_set16(&v, v.q[0].avail, rnd64(r));
	vd_set16(&v, v.q[0].avail + 4 + 2 * N, rnd64(r));
	vd_bell(&v, 0);
	vd_run(&v);
}

/* Straight and simple: it works. */
static void works(struct rnd *r)
{
	uint32_t id, len;

	negotiate(VIRTIO_F_VERSION_1);
	e.n_held = 8; /* nothing is kept back */
	vd_set_desc(&v, v.q[0].desc, 1, BUF, 4, 1, 2);
	vd_set_desc(&v, v.q[0].desc, 2, BUF + 8, 4, 2, 0);
	vd_avail(&v, 0, 1);
	e.n_held = 0;
	do {
		vd_bell(&v, 0);
		vd_run(&v);
	} while (!vd_used(&v, 0, &id, &len));
	assert_int_equal(id, 1);
	assert_int_equal(len, 4);
	assert_int_equal(vd_status(&v), 15);
}

static void test_hostile(void **state)
{
	struct rnd r = rnd_seeded("hostile", 2);
	uint64_t rounds = prop_env("PROP_STEPS", 40000), seen[VIRTQ_NR_ERRORS];
	static const uint64_t features[] = {
		VIRTIO_F_VERSION_1,
		VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX,
		VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC,
		VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
			VIRTIO_F_EVENT_IDX,
	};

	memset(seen, 0, sizeof(seen));
	start(&r, true);
	negotiate(features[3]);
	for (uint64_t i = 0; i < rounds; i++) {
		hostile_round(&r);
		assert_int_equal(!!(vd_status(&v) & VIRTIO_S_NEEDS_RESET),
				 e.dev.error != VIRTQ_E_ok);
		seen[e.dev.error]++;
		if (e.dev.error == VIRTQ_E_ok)
			continue;
		/* It says so, does nothing more, and can be reset. */
		assert_true(v.msis[0x40]);
		v.msis[0x40] = 0;
		hostile_round(&r);
		if (rnd_below(&r, 100) == 0)
			works(&r);
		negotiate(features[rnd_below(&r, 4)]);
	}
	for (unsigned i = VIRTQ_E_avail; i <= VIRTQ_E_segment; i++) {
		printf("# %8lu %s\n", (unsigned long)seen[i],
		       virtq_error_names[i]);
		if (rounds >= 40000)
			assert_true(seen[i]);
	}
	vd_unplug(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_traffic),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
