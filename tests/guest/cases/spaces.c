/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User code of several address spaces at the same addresses: the same frames in
 * some, others in others, more spaces than a translator may keep apart. Jumps,
 * calls and returns lead from page to page. At random: run, go to another
 * space, map another frame (flushed by INVLPG in the space itself, by the next
 * MOV CR3 in another), write to the code.
 */
#include "tests/guest/rt/enc.h"

#define NROOT  7
#define NFRAME 5
#define NPAGE  3
#define STEPS  4000

static u64 root[NROOT];
static unsigned map[NROOT][NPAGE], cur;
static u8 *frame[NFRAME];
static u32 mark[NFRAME];
static u64 va, runs, remaps;

static void rel32(u8 **p, u64 here, u64 to)
{
	e32(p, (u32)(to - (here + 4)));
}

/* Any frame can be any of the pages: entries at 0, 0x100, 0x200, and a leaf at
 * 0x300 that adds to rdi. */
static void write_code(unsigned f)
{
	for (unsigned n = 0; n < NPAGE; n++) {
		u8 *base = frame[f], *p = base + n * 0x100;
		u64 at = va + n * PG - (u64)base;

		e8(&p, 0xb8 + n); /* mov eax, ecx or edx */
		e32(&p, mark[f] + n);
		e8(&p, 0xe8); /* call the leaf in the next page */
		rel32(&p, at + (u64)p, va + (n + 1) % NPAGE * PG + 0x300);
		if (n == NPAGE - 1) {
			e_done(&p);
			continue;
		}
		e8(&p, 0xe9);
		rel32(&p, at + (u64)p, va + (n + 1) * PG + (n + 1) * 0x100);
	}
	u8 *p = frame[f] + 0x300;
	ebytes(&p, "\x48\x81\xc7", 3); /* add rdi, imm32 */
	e32(&p, mark[f]);
	e8(&p, 0xc3);
}

static void check_run(void)
{
	unsigned *m = map[cur];
	struct regs r;
	u64 sum = 0;

	regs_user(&r, (void *)va);
	r.rdi = 0;
	run(&r);
	runs++;
	for (unsigned n = 0; n < NPAGE; n++)
		sum += mark[m[n]];
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ(r.rax, mark[m[0]]);
	CHECK_EQ(r.rcx, mark[m[1]] + 1);
	CHECK_EQ(r.rdx, mark[m[2]] + 2);
	CHECK_EQ(r.rdi, sum);
}

static void remap(unsigned k, unsigned n, unsigned f)
{
	*pte_at(root[k], va + n * PG, 1, false) = (u64)frame[f] | URW;
	map[k][n] = f;
	remaps++;
	if (k == cur)
		invlpg(va + n * PG);
}

int main(void)
{
	u64 first = read_cr3();

	va = slot_va(9, 0x40000000);
	for (unsigned f = 0; f < NFRAME; f++) {
		frame[f] = page_alloc();
		mark[f] = 0x1000 * (f + 1);
		write_code(f);
	}
	for (unsigned k = 0; k < NROOT; k++) {
		root[k] = root_new();
		for (unsigned n = 0; n < NPAGE; n++) {
			pte_at(root[k], va + n * PG, 1, true);
			/* the first three are alike, as after a fork */
			map[k][n] = k < 3 ? n : rnd() % NFRAME;
			*pte_at(root[k], va + n * PG, 1, false) =
				(u64)frame[map[k][n]] | URW;
		}
	}
	cur = 0;
	write_cr3(root[0]);
	for (unsigned i = 0; i < STEPS; i++) {
		unsigned f;

		switch (rnd() % 16) {
		case 0:
			remap(cur, rnd() % NPAGE, rnd() % NFRAME);
			break;
		case 1:
			remap(rnd() % NROOT, rnd() % NPAGE, rnd() % NFRAME);
			break;
		case 2:
			f = rnd() % NFRAME;
			mark[f] = 0x1000 * (f + 1) + (rnd() & 0x7f) * 16;
			write_code(f);
			break;
		case 3:
		case 4:
		case 5:
		case 6:
			cur = rnd() % NROOT;
			write_cr3(root[cur]);
			break;
		default:
			check_run();
		}
	}
	printf("%lu runs, %lu remaps\n", runs, remaps);
	write_cr3(first);
	return 0;
}
