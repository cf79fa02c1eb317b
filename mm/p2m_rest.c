/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM at rest: its pages go into the store though nobody is short of memory.
 *
 * A guest that has nothing to do keeps some 4000 pages of its kernel's that no
 * other VM has, and uses a few hundred of them. The others, compressed, take a
 * quarter. Whether a page is used is found out as the clock does it
 * (p2m_clock.c): all PRIVATE pages are marked, and those that still are after a
 * while are given up. Never by force: a page in use costs one fault a round and
 * stays.
 *
 * Sharing comes first. A page that is still noted as written has not been
 * looked at by the scanner, and stays for now.
 *
 * What it costs: marking, 1 to 10 us a page that is mapped; giving up, 10 to 15
 * us a page, once; and the guest 10 us and a fault for each that it wants back.
 *
 * Killed here: nothing is promised to anybody.
 */
#include "mm/p2m_priv.h"
#include "mm/p2m_reclaim.h"
#include "mm/p2m_share.h"

/* The next RAM page at or after *at; false: there is none. */
static bool next_ram(const struct p2m *p, uint64_t *at)
{
	if (*at >= p->low_pages && *at < HIGH_PPN)
		*at = HIGH_PPN;
	return p2m_is_ram(p, (ppn_t){*at});
}

static bool is_private(const struct p2m *p, uint64_t n)
{
	return ent_state(p->ent[n]) == P2M_PRIVATE;
}

bool p2m_rest_mark(struct p2m *p, uint64_t *at, unsigned max)
{
	for (; next_ram(p, at); ++*at) {
		if (!is_private(p, *at) || bit_test(p->idle, *at))
			continue;
		if (!max--)
			return false;
		p2m_mark_idle(p, (ppn_t){*at});
		control_add(&p->ctl->marked_pages, 1);
	}
	*at = 0;
	return true;
}

/* Is it worth a try? */
static bool cold(const struct p2m *p, uint64_t n)
{
	uint32_t e = p->ent[n];

	return is_private(p, n) && bit_test(p->idle, n) && !(e & ENT_NOTED) &&
	       !(ent_payload(e) & PRIV_STIFF) && !p2m_pinned(p, (ppn_t){n});
}

bool p2m_rest_take(struct p2m *p, uint64_t *at, unsigned max)
{
	uint64_t start = 0, run = 0; /* of blocks to punch */
	bool end = true;

	for (; next_ram(p, at); ++*at) {
		enum evict why;

		if (!cold(p, *at))
			continue;
		if (!max--) {
			end = false;
			break;
		}
		why = p2m_compress(p, (ppn_t){*at});
		if (why != EVICT_compressed && why != EVICT_zero)
			continue;
		if (run && *at != start + run) {
			p2m_punch(p, (ppn_t){start}, run);
			run = 0;
		}
		if (!run++)
			start = *at;
	}
	p2m_punch(p, (ppn_t){start}, run);
	if (end)
		*at = 0;
	return end;
}
