/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The division of memory.
 *
 * The problem: more is sold than there is. Each VM has shares, a minimum and a
 * maximum; memory that a VM holds and does not use should go to one that does.
 *
 * The formula (Waldspurger, OSDI'02, 5.2). A VM with S shares and P bytes of
 * which the fraction f is active pays
 *
 *	rho = S / (P * (f + k * (1 - f))),	k = 1 / (1 - tax)
 *
 * for each byte: an idle byte costs k times an active one. Memory goes from
 * the VM of the lowest rho to that of the highest, so at rest all are equal,
 * but for those held at a bound.
 *
 * In closed form. Let A be the bytes that the VM uses often, so f is
 * min(1, A / P). Then P * (f + k * (1 - f)) is P while P <= A, and
 * A + k * (P - A) beyond. Setting it to S * x, with 1/x the common price:
 *
 *	P(x) = S * x			while S * x <= A
 *	P(x) = A + (S * x - A) / k	beyond
 *
 * which grows with x, and so does the sum over all VMs of P(x), each held
 * between its bounds. One bisection on x finds the division; no steps, no
 * hunting. With equal shares and tax 0.75 a VM that is wholly idle gets a
 * quarter of what a wholly active one gets.
 *
 * A VM never gets more than it wants while others want more. What nobody wants
 * is then given out by shares up to the maxima: a quota is only a limit, and a
 * guest that starts to work should not have to ask first.
 *
 * Quotas. A monitor may take memory up to its quota without asking, and one that
 * is over it gives memory up before it takes more. So what a VM may have at any
 * instant is the greater of its quota and what it has; as long as the sum of
 * these is within bounds, memory is, whatever the guests do. A quota is
 * therefore raised only by what others have really given up: never by what
 * they were told to give.
 */
#include "mm/reclaim.h"

#define ROUNDS 64 /* of the bisection: more than a double has bits */

const char *const reclaim_state_names[RECLAIM_STATES] = {
	"high",
	"soft",
	"hard",
	"low",
};

enum reclaim_state reclaim_next_state(enum reclaim_state s, uint64_t free,
				      uint64_t budget)
{
	/* In percent: the state is at least this bad below. */
	static const unsigned below[RECLAIM_STATES] = {100, 6, 4, 2};
	enum reclaim_state worst = RECLAIM_HIGH;
	uint64_t percent = budget / 100;

	for (unsigned i = RECLAIM_SOFT; i < RECLAIM_STATES; i++)
		if (free < below[i] * percent)
			worst = i;
	if (worst >= s)
		return worst;
	return free >= (below[s] + 1) * percent ? s - 1 : s;
}

static uint64_t clamp(double bytes, uint64_t min, uint64_t max)
{
	if (bytes <= (double)min)
		return min;
	return bytes >= (double)max ? max : (uint64_t)bytes;
}

/* The most that a VM is given while others want more. */
static uint64_t cap_of(const struct reclaim_vm *v)
{
	uint64_t cap = v->want < v->max ? v->want : v->max;

	return cap > v->min ? cap : v->min;
}

/* P(x) of above. */
static uint64_t at_price(const struct reclaim_vm *v, double x, double k)
{
	double sx = (double)v->shares * x, a = (double)v->active;

	return clamp(sx <= a ? sx : a + (sx - a) / k, v->min, cap_of(v));
}

static uint64_t sum_at(const struct reclaim_vm *v, size_t n, double x, double k)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += at_price(&v[i], x, k);
	return sum;
}

/* Not even the minima fit: each gets its part of them. */
static void divide_minima(struct reclaim_vm *v, size_t n, uint64_t bytes,
			  uint64_t minima)
{
	for (size_t i = 0; i < n; i++)
		v[i].target = (double)v[i].min * (double)bytes / (double)minima;
}

/* All have what they want, and left is over. Whoever reaches its maximum
 * leaves the rest to the others. */
static void give_rest(struct reclaim_vm *v, size_t n, uint64_t left)
{
	for (unsigned round = 0; round < 8 && left >= PAGE_SIZE; round++) {
		uint64_t given = 0;
		double shares = 0;

		for (size_t i = 0; i < n; i++)
			if (v[i].target < v[i].max)
				shares += (double)v[i].shares;
		for (size_t i = 0; i < n && shares > 0; i++) {
			uint64_t more =
				(double)left * (double)v[i].shares / shares;

			if (v[i].target >= v[i].max)
				continue;
			if (more > v[i].max - v[i].target)
				more = v[i].max - v[i].target;
			v[i].target += more;
			given += more;
		}
		left -= given < left ? given : left;
	}
}

void reclaim_divide(struct reclaim_vm *v, size_t n, uint64_t bytes, double tax)
{
	double k = 1 / (1 - tax), lo = 0, hi = 1;
	uint64_t minima = 0, wanted = 0;

	for (size_t i = 0; i < n; i++) {
		minima += v[i].min;
		wanted += cap_of(&v[i]);
	}
	if (minima > bytes) {
		divide_minima(v, n, bytes, minima);
		return;
	}
	while (wanted > bytes && sum_at(v, n, hi, k) < bytes && hi < 1e18)
		hi *= 2;
	for (unsigned i = 0; wanted > bytes && i < ROUNDS; i++) {
		double x = (lo + hi) / 2;

		if (sum_at(v, n, x, k) <= bytes)
			lo = x;
		else
			hi = x;
	}
	for (size_t i = 0; i < n; i++)
		v[i].target =
			wanted > bytes ? at_price(&v[i], lo, k) : cap_of(&v[i]);
	if (wanted <= bytes)
		give_rest(v, n, bytes - wanted);
}

static uint64_t most(const struct reclaim_vm *v)
{
	return v->used > v->quota ? v->used : v->quota;
}

static void lower(struct reclaim_vm *v, enum reclaim_state s)
{
	uint64_t step = most(v) / 8, floor;

	if (v->quota <= v->target)
		return;
	/* What it does not use costs it nothing to lose. */
	floor = v->used > step ? v->used - step : 0;
	if (s < RECLAIM_HARD)
		floor = v->used; /* nobody needs it yet */
	v->quota = s == RECLAIM_LOW || floor < v->target ? v->target : floor;
}

void reclaim_step(struct reclaim_vm *v, size_t n, uint64_t bytes,
		  enum reclaim_state s)
{
	uint64_t out = 0, wish = 0, room;

	for (size_t i = 0; i < n; i++) {
		lower(&v[i], s);
		out += most(&v[i]);
		if (v[i].target > most(&v[i]))
			wish += v[i].target - most(&v[i]);
	}
	room = bytes > out ? bytes - out : 0;
	/* A quota below what the VM has may rise to that for nothing. */
	for (size_t i = 0; i < n && s != RECLAIM_LOW; i++) {
		uint64_t have = most(&v[i]), more;

		if (v[i].target <= v[i].quota)
			continue;
		more = v[i].target > have ? v[i].target - have : 0;
		if (wish > room)
			more = (double)more * (double)room / (double)wish;
		v[i].quota = v[i].target < have ? v[i].target : have + more;
	}
}
