/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balloon's size.
 *
 * A guest knows which of its pages are worth least (clean page cache); we do
 * not. So before its pages are compressed and swapped, its balloon is asked to
 * grow, and the guest gives up what it wants to. The quota (mm/reclaim.c) is
 * kept with or without: when the guest does not, or not fast enough, the
 * monitor compresses.
 *
 * The goal is that the pages that hold bytes of the VM's own, wherever they
 * are, stay between three quarters and fifteen sixteenths of its target:
 *
 *	above	the balloon grows by what is too much. Where free pages cost
 *		nothing (they are reported), those that are free go into the
 *		balloon first, without effect, so as much is asked for beyond.
 *	below	it shrinks by what is lacking, at once: a guest that lacks
 *		memory inside while its target has room is slow for nothing.
 *	between	it stays, so that it does not swing.
 *
 * A VM that may have all of its memory has no balloon.
 *
 * It never grows beyond what the guest says is available, less a reserve: a
 * balloon that made the guest swap or kill would cost more than compressing.
 * And it grows only when the guest has kept up with the last wish, by at most
 * a quarter of the VM at a time; each step sees what the last one did.
 */
#include "mm/balloon.h"

#define MB 1048576ull

static uint64_t reserve_of(const struct balloon_vm *v)
{
	uint64_t part = v->size / 16;

	return part < 16 * MB ? 16 * MB : part;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t grown(const struct balloon_vm *v, uint64_t much)
{
	uint64_t reserve = reserve_of(v), room;

	if (v->available == ~0ull || v->free == ~0ull ||
	    v->available <= reserve)
		return v->asked;
	/* It cannot follow: it is not asked over and over. */
	if (v->actual + v->size / 64 < v->asked)
		return v->actual;
	if (v->reports)
		much += v->free;
	room = least(v->available - reserve, v->size / 4);
	/* What it says it has is on top of what is available. */
	return least(v->actual + least(much, room), v->size);
}

uint64_t balloon_next(const struct balloon_vm *v)
{
	uint64_t high = v->target - v->target / 16;
	uint64_t low = v->target - v->target / 4;
	uint64_t next = v->asked;

	if (v->target >= v->size)
		next = 0;
	else if (v->own > high)
		next = grown(v, v->own - high);
	else if (v->own < low)
		next = v->asked > low - v->own ? v->asked - (low - v->own) : 0;
	return next & PAGE_MASK;
}
