/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Units moved to other addresses (bt/reloc.c): pages of random code, translated at
 * random addresses (near the borders of slots, of 2, 4 GiB and of the canonical
 * half, too), then copied, or moved page by page, to others, in other contexts,
 * chained or not. After each step every unit is what a translation at its address
 * would be (bt/reloc_audit.c).
 */
#include "tests/prop/prop.h"
#include "tests/unit/bt_fixture.h"

#define CODE 0x600000ul
#define PPN  (CODE >> PAGE_SHIFT)
#define GiB  (1ull << 30)
#define TOP  (1ull << 47)

static struct fix *f;
static struct bt *bt;
static struct rnd r;
static uint64_t n_copied, n_made, n_turned;

/* ---- code ---- */

/* An instruction: what is in front of its displacement or offset, of disp bytes,
 * and behind it. ModRM.reg (reg) and bits 2 and 3 of the REX are free (rex). */
struct form {
	uint8_t front[8], n, disp, behind;
	int8_t reg, rex; /* where, or -1 */
};
#define F(disp, behind, reg, rex, ...)                                         \
	{                                                                      \
		{__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), disp, behind, \
			reg, rex                                               \
	}
static const struct form forms[] = {
	/* PC-relative operands */
	F(4, 0, 2, 0, 0x48, 0x8b, 0x05),	 /* mov r, [] */
	F(4, 0, 2, 0, 0x48, 0x89, 0x05),	 /* mov [], r */
	F(4, 0, 2, 0, 0x48, 0x8d, 0x05),	 /* lea r, [] */
	F(4, 0, 2, 0, 0x40, 0x8d, 0x05),	 /* lea r32, [] */
	F(4, 0, 2, -1, 0x66, 0x8d, 0x05),	 /* lea r16, [] */
	F(4, 0, 1, -1, 0x8a, 0x05),		 /* mov r8, []: AH too */
	F(4, 1, -1, -1, 0x80, 0x3d),		 /* cmp byte [], 8 */
	F(4, 4, -1, -1, 0xc7, 0x05),		 /* mov [], 32 */
	F(4, 4, -1, -1, 0x48, 0x81, 0x05),	 /* add [], 32 */
	F(4, 0, 3, -1, 0xf3, 0x0f, 0x6f, 0x05),	 /* movdqu x, [] */
	F(4, 0, 3, -1, 0xc5, 0xf8, 0x28, 0x05),	 /* vmovaps x, [] */
	F(4, 0, 3, 0, 0x48, 0x0f, 0xab, 0x05),	 /* bts [], r */
	F(4, 1, 3, -1, 0x0f, 0xba, 0x25),	 /* bt [], 8 */
	F(4, 0, 3, 0, 0x48, 0x0f, 0xb1, 0x05),	 /* cmpxchg [], r */
	F(4, 0, -1, -1, 0xff, 0x35),		 /* push [] */
	F(4, 0, -1, -1, 0x8f, 0x05),		 /* pop [] */
	F(4, 0, 3, 1, 0x64, 0x48, 0x8b, 0x05),	 /* mov r, fs:[] */
	F(4, 0, 3, 1, 0x65, 0x48, 0x8d, 0x05),	 /* lea r, gs:[] */
	F(4, 0, -1, -1, 0x48, 0x0f, 0xae, 0x25), /* xsave64 [] */
	F(4, 0, -1, -1, 0x48, 0x0f, 0xae, 0x2d), /* xrstor64 [] */
	F(4, 0, -1, -1, 0x0f, 0x18, 0x0d),	 /* prefetcht0 [] */
	F(4, 0, -1, -1, 0xff, 0x15),		 /* call [] */
	F(4, 0, -1, -1, 0xff, 0x25),		 /* jmp [] */
	/* branches */
	F(4, 0, -1, -1, 0x0f, 0x84),	   /* jz */
	F(4, 0, -1, -1, 0x0f, 0x8f),	   /* jg */
	F(1, 0, -1, -1, 0x75),		   /* jnz */
	F(1, 0, -1, -1, 0x72),		   /* jb */
	F(1, 0, -1, -1, 0xeb),		   /* jmp */
	F(4, 0, -1, -1, 0xe9),		   /* jmp */
	F(4, 0, -1, -1, 0xe8),		   /* call */
	F(1, 0, -1, -1, 0xe2),		   /* loop */
	F(1, 0, -1, -1, 0xe3),		   /* jrcxz */
	F(0, 0, -1, -1, 0xff, 0xd0),	   /* call rax */
	F(0, 0, -1, -1, 0x41, 0xff, 0xe2), /* jmp r10 */
	F(0, 0, -1, -1, 0xc3),		   /* ret */
	F(0, 2, -1, -1, 0xc2),		   /* ret 16 */
	F(0, 0, -1, -1, 0x0f, 0x05),	   /* syscall */
	/* what calls out, and anything else */
	F(0, 0, -1, -1, 0x0f, 0xa2),		      /* cpuid */
	F(0, 0, -1, -1, 0xf4),			      /* hlt */
	F(0, 0, 2, 0, 0x48, 0x8b, 0x03),	      /* mov r, [rbx] */
	F(4, 0, 2, 0, 0x48, 0x8b, 0x83),	      /* mov r, [rbx + d] */
	F(4, 0, 2, 0, 0x48, 0x8b, 0x84, 0x24),	      /* mov r, [rsp + d] */
	F(4, 0, 2, 0, 0x48, 0x8b, 0x04, 0x25),	      /* mov r, [d] */
	F(4, 0, 2, 0, 0x48, 0x8b, 0x04, 0xdd),	      /* mov r, [8rbx + d] */
	F(0, 0, -1, -1, 0x48, 0x8b, 0x1b),	      /* mov rbx, [rbx] */
	F(0, 4, -1, -1, 0x48, 0x81, 0xec),	      /* sub rsp, 32 */
	F(0, 4, -1, -1, 0x05),			      /* add eax, 32 */
	F(0, 8, -1, -1, 0x48, 0xb8),		      /* mov rax, 64 */
	F(0, 0, -1, -1, 0x53), F(0, 0, -1, -1, 0x5b), /* push, pop rbx */
	F(0, 0, -1, -1, 0xc9), F(0, 0, -1, -1, 0x9c), /* leave, pushf */
	F(0, 0, -1, -1, 0xf3, 0xa4),		      /* rep movsb */
	F(0, 0, 2, -1, 0x4d, 0x01, 0xd2),	      /* add r10, r */
	F(0, 0, -1, -1, 0x90),
	F(0, 0, -1, -1, 0x06), /* no instruction: callouts without operands */
};
#undef F

static uint32_t random_disp(void)
{
	switch (rnd_below(&r, 4)) {
	case 0:
		return rnd_below(&r, 8192) - 4096;
	case 1:
		return rnd_below(&r, 2) ? 0x7fffffff - rnd_below(&r, 64)
					: 0x80000000 + rnd_below(&r, 64);
	default:
		return (int32_t)rnd64(&r) >> rnd_below(&r, 20);
	}
}

static unsigned put_random(uint8_t *p)
{
	const struct form *m = &forms[rnd_below(&r, ARRAY_SIZE(forms))];
	uint64_t behind = rnd64(&r);
	uint32_t disp = random_disp();

	memcpy(p, m->front, m->n);
	if (m->reg >= 0)
		p[m->reg] ^= rnd_below(&r, 8) << 3;
	if (m->rex >= 0)
		p[m->rex] ^= rnd_below(&r, 2) << 2;
	memcpy(p + m->n, &disp, m->disp);
	memcpy(p + m->n + m->disp, &behind, m->behind);
	return m->n + m->disp + m->behind;
}

static void put_page(void)
{
	uint8_t page[PAGE_SIZE + 32];
	unsigned n = 0;

	while (n < PAGE_SIZE)
		n += put_random(page + n);
	poke(f, CODE, page, PAGE_SIZE);
}

/* A page of user code, often one where something changes. */
static uint64_t random_page(void)
{
	static const uint64_t near[] = {0, 2 * GiB, 4 * GiB, 6 * GiB, TOP, TOP};
	uint64_t by = rnd_below(&r, 3 * GiB) >> rnd_below(&r, 24), at;

	switch (rnd_below(&r, 4)) {
	case 0:
		at = near[rnd_below(&r, ARRAY_SIZE(near))];
		break;
	case 1: /* a slot's border, the first ones often */
		at = rnd_below(&r, rnd_below(&r, 2) ? 10 : 256) << 39;
		break;
	case 2:
		at = 4 * GiB;
		by = rnd_below(&r, 8 * GiB);
		break;
	default:
		at = rnd64(&r) >> 17;
	}
	if (at + by >= TOP || (at >= by && rnd_below(&r, 2)))
		by = -by;
	return (at + by) % TOP & PAGE_MASK;
}

/* ---- units ---- */

/* The newest unit's last condition, as if it had been met. */
static void turn_newest(void)
{
	uint32_t id =
		bt->tc_cur * bt->region_ccf + bt->region[bt->tc_cur].n_ccf;

	for (unsigned e = 0; e < CCF_EXITS && id > 1; e++)
		if (rnd_below(&r, 2))
			ccf_make_last(bt, id - 1, e);
}

static uint32_t translate(uint64_t rip)
{
	static struct tu tu;
	uint32_t id;

	if (tu_decode(bt, rip, PPN, &tu) || tu.straddle)
		return 0;
	bt->pend_ibtc = rnd_below(&r, 2);
	bt->pend_call = !bt->pend_ibtc && rnd_below(&r, 2);
	turn_newest();
	id = bt_translate(bt, &tu);
	bt->pend_ibtc = bt->pend_call = false;
	p2m_set_code(bt->p2m, (ppn_t){PPN}, true);
	reloc_learn(bt, id);
	n_made++;
	return id;
}

/* All units of the page, one behind the other, as the guest might run them. */
static void run_page(uint64_t page)
{
	unsigned off = 0;

	while (off < PAGE_SIZE - 15) {
		uint32_t id = tc_lookup(bt, page | off, PPN, bt_key(bt));

		if (!id) {
			id = reloc_copy(bt, page | off, PPN, 0, false);
			n_copied += !!id;
			n_turned += id && bt->ccf[id].flags & CCF_TURNED;
		}
		if (!id)
			id = translate(page | off);
		if (!id)
			return;
		off += bt->ccf[id].guest_len;
	}
}

/* Chains within pages; those of others need a walk. */
static void chain_some(void)
{
	for (uint32_t id = 1; id < bt->region[0].n_ccf; id++) {
		const struct ccf *c = &bt->ccf[id];

		for (unsigned e = 0; e < CCF_EXITS && c->exit[e].patch; e++) {
			uint64_t to = c->rip + (int64_t)c->exit[e].target;
			uint32_t k = tc_lookup(bt, to, c->ppn, c->mode);

			if (k && !ccf_crosses(c, e) && rnd_below(&r, 2))
				tc_chain(bt, id, e, k);
		}
	}
}

static void round_of(unsigned moves)
{
	tc_flush(bt);
	put_page();
	for (unsigned i = 0; i < moves; i++) {
		uint64_t page = random_page();

		bt->ctx = rnd_below(&r, NR_CTX);
		bt->set[bt->ctx].life += rnd_below(&r, 2);
		run_page(page);
		/* As in another context. */
		if (rnd_below(&r, 4) == 0) {
			bt->ctx = (bt->ctx + 1) % NR_CTX;
			run_page(page);
		}
		assert_int_equal(reloc_audit(bt), 0);
		chain_some();
	}
	assert_int_equal(tc_audit(bt), 0);
}

static void check(struct vm_config cfg)
{
	uint64_t steps = prop_env("PROP_STEPS", 12);

	r = rnd_seeded("reloc", 5);
	n_copied = n_made = n_turned = 0;
	bt = bt_setup(&f, cfg);
	go_user(f);
	bt_sync_mode(bt);
	for (uint64_t i = 0; i < steps; i++)
		round_of(8);
	printf("# %llu translated, %llu copied (%llu turned), %llu moved\n",
	       (unsigned long long)n_made, (unsigned long long)n_copied,
	       (unsigned long long)n_turned,
	       (unsigned long long)bt->stats.moves);
	/* Else nothing was tested. */
	assert_true(n_copied > n_made / 2);
	assert_true(bt->stats.moves > n_made / 16);
	assert_true(n_turned > 0);
	assert_true(bt->stats.straight > 0);
	bt_teardown(&f);
}

static void test_plain(void **state)
{
	check((struct vm_config){0});
}

static void test_paired(void **state)
{
	check((struct vm_config){.pair_all = true});
}

static void test_slow_loop(void **state)
{
	check((struct vm_config){.pair_all = true, .check = CHECK_JRCXZ});
}

/* With a touch in front of each access, and counting. */
static void test_touched(void **state)
{
	check((struct vm_config){.touch_all = true, .pair_all = true});
}

/* A program that is linked to run at a low address has its code there in each
 * process: it is translated once, and copied into other contexts. */
static void test_low(void **state)
{
	r = rnd_seeded("reloc", 5);
	n_copied = n_made = n_turned = 0;
	bt = bt_setup(&f, (struct vm_config){0});
	go_user(f);
	bt_sync_mode(bt);
	/* No slot to guess, which would be another's in another context. */
	for (unsigned i = 0; i < 16; i++)
		f->v->gpr[i] = 1ull << 62;
	put_page();
	for (bt->ctx = 0; bt->ctx < NR_CTX; bt->ctx++)
		run_page(CODE);
	assert_true(n_made > 50);
	assert_int_equal(n_copied, (NR_CTX - 1) * n_made);
	bt->ctx = 0;
	assert_int_equal(reloc_audit(bt), 0);
	bt_teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_paired),
		cmocka_unit_test(test_slow_loop),
		cmocka_unit_test(test_touched),
		cmocka_unit_test(test_low),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
