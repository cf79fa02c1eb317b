/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TLB against a model. A few address spaces (roots) under a few PCIDs, two
 * of which share a root; some virtual pages in both halves, some global. At
 * random: page-table entries change, with and without flushes; INVLPG, INVPCID
 * of all types, MOV CR3 with and without NOFLUSH, CR4.PGE; and accesses - read,
 * write, fetch.
 *
 * For each (PCID, page) the model keeps the set of translations that a CPU may
 * use: the present one and those that it may have cached since the last flush
 * that covers it. An access must behave like one of the set. Absence is never
 * cached; a page fault flushes its page (SDM vol. 3, 4.10).
 */
#include "tests/guest/rt/enc.h"

#define NFRAME 12
#define NROOT 4
#define NPCID 6
#define NVA 10
#define NGLOBAL 3 /* the last of the pages are global, in shared tables */

/* A translation: frame * 4 + writable * 2 + executable; ABSENT. */
#define ABSENT (NFRAME * 4)
#define NSTATE (NFRAME * 4 + 1)
typedef u64 set_t; /* bit n: state n */

static u64 root[NROOT];
static const u8 root_of[NPCID] = { 0, 1, 2, 3, 1, 0 };
static u8 now[NROOT][NVA];	  /* the page tables' state */
static set_t may[NPCID][NVA];
static u8 *frame[NFRAME];
static unsigned cur;		  /* PCID index; its value is cur + 1 */
static bool pcids;
static u64 va[NVA];
static u64 accesses, stale, flushes, changes;

static bool global(unsigned v)
{
	return v >= NVA - NGLOBAL;
}

static pte_t *entry(unsigned r, unsigned v)
{
	return pte_at(root[r], va[v], 1, false);
}

static void set_state(unsigned r, unsigned v, unsigned s)
{
	u64 e = 0;

	if (s != ABSENT)
		e = (u64)frame[s / 4] | PTE_P | (s & 2 ? PTE_W : 0) |
		    (s & 1 ? 0 : PTE_NX) | (global(v) ? PTE_G : 0);
	*entry(r, v) = e;
	for (unsigned k = 0; k < NROOT; k++)
		if (k == r || global(v))
			now[k][v] = s;
	for (unsigned p = 0; p < NPCID; p++) {
		if (root_of[p] != r && !global(v))
			continue;
		may[p][v] &= ~(1ull << ABSENT);
		may[p][v] |= 1ull << s;
	}
	changes++;
}

static void flushed(unsigned p, unsigned v)
{
	may[p][v] = 1ull << now[root_of[p]][v];
}

static void flushed_all(bool globals_too)
{
	for (unsigned p = 0; p < NPCID; p++)
		for (unsigned v = 0; v < NVA; v++)
			if (globals_too || !global(v))
				flushed(p, v);
}

static void flushed_pcid(unsigned p)
{
	for (unsigned v = 0; v < NVA; v++)
		if (!global(v))
			flushed(p, v);
}

static void flushed_va(unsigned v)
{
	flushed(cur, v);
	if (global(v))
		for (unsigned p = 0; p < NPCID; p++)
			flushed(p, v);
}

static void invpcid(u64 type, u64 pcid, u64 a)
{
	u64 d[2] = { pcid, a };

	asm volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
	flushes++;
}

static void switch_to(unsigned p, bool noflush)
{
	if (!pcids) {
		/* one PCID: each switch flushes what is not global */
		cur = p;
		write_cr3(root[root_of[p]]);
		flushed_all(false);
		return;
	}
	cur = p;
	write_cr3(root[root_of[p]] | (p + 1) | (noflush ? NOFLUSH : 0));
	if (!noflush)
		flushed_pcid(p);
}

SNIP(rd, "mov (%rdi), %eax");
SNIP(wr, "mov %esi, 8(%rdi)");
SNIP(ex, "jmp *%rdi");

static void check_access(unsigned n)
{
	unsigned v = rnd() % NVA, kind = rnd() % 3, f = NFRAME;
	set_t m = may[cur][v];
	struct regs r;
	bool ok = false;

	regs_kernel(&r, kind == 0 ? rd : kind == 1 ? wr : ex);
	r.rdi = va[v] + (kind == 2 ? 0x800 : 0x100);
	r.rsi = n;
	if (kind == 1)
		for (unsigned i = 0; i < NFRAME; i++)
			*(u32 *)(frame[i] + 0x108) = 0xffffffff;
	run(&r);
	accesses++;
	if (r.vec == VEC_DONE && kind == 1) {
		for (f = 0; f < NFRAME; f++)
			if (*(u32 *)(frame[f] + 0x108) == n)
				break;
	} else if (r.vec == VEC_DONE) {
		f = (u32)r.rax - 0x7000;
	} else if (r.vec != 14 || r.cr2 != r.rdi + (kind == 1 ? 8 : 0)) {
		fail_at("tlb", n, "vec %lu cr2 %lx", r.vec, r.cr2);
		finish();
	}
	for (unsigned s = 0; s < NSTATE; s++) {
		bool w = s & 2, x = s & 1, a = s == ABSENT;

		if (!(m >> s & 1))
			continue;
		if (r.vec == VEC_DONE)
			ok |= !a && s / 4 == f && (kind != 1 || w) &&
			      (kind != 2 || x);
		else if (a)
			ok |= r.err == (kind == 1 ? PF_W : kind == 2 ? PF_I : 0);
		else
			ok |= (kind == 1 && !w && r.err == (PF_P | PF_W)) ||
			      (kind == 2 && !x && r.err == (PF_P | PF_I));
	}
	if (!ok) {
		fail_at("tlb", n, "pcid %u root %u page %lx %s: vec %lu err %lx "
			"frame %u; the entry is %lx, allowed %lx", cur + 1,
			root_of[cur], va[v], kind == 0 ? "read" : kind == 1 ?
			"write" : "fetch", r.vec, r.err, f,
			*entry(root_of[cur], v), m);
		return;
	}
	if (r.vec == VEC_DONE && f != now[root_of[cur]][v] / 4u)
		stale++;
	if (r.vec == 14 && !global(v))
		flushed(cur, v);
	/* D is set by a write that went through the present entry */
	if (r.vec == VEC_DONE && kind == 1 &&
	    m == 1ull << now[root_of[cur]][v])
		CHECK(*entry(root_of[cur], v) & PTE_D, "page %lx: no D", va[v]);
}

static void step(unsigned n)
{
	unsigned v = rnd() % NVA, p = rnd() % NPCID, r = rnd() % NROOT, s;

	switch (rnd() % 24) {
	case 0: case 1: case 2: /* an entry changes, flushed or not */
		s = rnd() % 6 ? rnd() % (NFRAME * 4) : ABSENT;
		set_state(r, v, s);
		if (rnd() & 1 && root_of[cur] == r) {
			invlpg(va[v]);
			flushed_va(v);
		}
		break;
	case 3:
		invlpg(va[v] + (rnd() & 0xfff));
		flushed_va(v);
		flushes++;
		break;
	case 4: switch_to(p, false); break;
	case 5: case 6: case 7: switch_to(p, true); break;
	case 8: case 9:
		if (!pcids)
			break;
		if (global(v))
			v = 0;
		invpcid(0, p + 1, va[v]);
		flushed(p, v);
		break;
	case 10:
		if (!pcids)
			break;
		invpcid(1, p + 1, 0);
		flushed_pcid(p);
		break;
	case 11:
		if (!pcids || rnd() % 4)
			break;
		if (rnd() & 1) {
			invpcid(2, 0, 0);
			flushed_all(true);
		} else {
			invpcid(3, 0, 0);
			flushed_all(false);
		}
		break;
	case 12:
		if (rnd() % 4)
			break;
		write_cr4(read_cr4() & ~CR4_PGE);
		write_cr4(read_cr4() | CR4_PGE);
		flushed_all(true);
		flushes++;
		break;
	default:
		check_access(n);
	}
}

static void all(const char *name, unsigned steps)
{
	part(name);
	flushed_all(true);
	for (unsigned n = 0; n < steps && failures < 10; n++)
		step(n);
	printf("%s: %lu accesses (%lu through stale entries), %lu changes, %lu "
	       "flushes\n", name, accesses, stale, changes, flushes);
}

int main(void)
{
	u64 first = read_cr3();

	for (unsigned i = 0; i < NFRAME; i++) {
		u8 *p = frame[i] = page_alloc();

		*(u32 *)(p + 0x100) = 0x7000 + i;
		p += 0x800;
		e8(&p, 0xb8);
		e32(&p, 0x7000 + i);
		e_done(&p);
	}
	for (unsigned v = 0; v < NVA; v++)
		va[v] = global(v) ? slot_va(350 + v, 0x1000 * v) :
			v < 3	  ? slot_va(3, 0x5000 + v * PG) :
			v < 5	  ? slot_va(255, 0x7fffe00000 + v * PG) :
				    slot_va(300 + v % 2, 0x4000 * v);
	for (unsigned r = 0; r < NROOT; r++) {
		root[r] = root_new();
		for (unsigned v = 0; v < NVA; v++)
			if (global(v) && r)
				((u64 *)root[r])[va[v] >> 39 & 511] =
					((u64 *)root[0])[va[v] >> 39 & 511];
			else
				pte_at(root[r], va[v], 1, true);
		for (unsigned v = 0; v < NVA; v++)
			set_state(r, v, rnd() % NSTATE);
	}
	write_cr4(read_cr4() | CR4_PGE);
	write_cr3(root[0]);
	all("plain", 30000);
	if (has_pcid() && has_invpcid()) {
		write_cr4(read_cr4() | CR4_PCIDE);
		pcids = true;
		cur = 0;
		for (unsigned p = 0; p < NPCID; p++)
			switch_to(p, false);
		write_cr4(read_cr4() & ~CR4_PGE);
		write_cr4(read_cr4() | CR4_PGE);
		all("pcid", 60000);
		write_cr3(root[0]);
		write_cr4(read_cr4() & ~CR4_PCIDE);
	} else {
		skip("PCID");
	}
	write_cr3(first & PTE_ADDR);
	return 0;
}
