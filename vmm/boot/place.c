/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who gets which guest memory at boot. A short list of taken ranges, pairwise
 * disjoint; everything else below c->low is free. Numbers come from files, so
 * nothing here adds before it has compared.
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot_priv.h"

/* The taken range that [start, end) overlaps, or NULL. */
static const struct boot_range *overlap(const struct boot_ctx *c,
					uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < c->n_taken; i++)
		if (start < c->taken[i].end && c->taken[i].start < end)
			return &c->taken[i];
	return NULL;
}

bool boot_is_free(const struct boot_ctx *c, uint64_t start, uint64_t len)
{
	if (start > c->low || len > c->low - start)
		return false;
	return !overlap(c, start, start + len);
}

bool boot_take(struct boot_ctx *c, uint64_t start, uint64_t len)
{
	if (!len)
		return true;
	if (!boot_is_free(c, start, len) || c->n_taken == BOOT_RANGES_MAX)
		return false;
	c->taken[c->n_taken++] = (struct boot_range){start, start + len};
	return true;
}

bool boot_take_rest(struct boot_ctx *c, uint64_t start, uint64_t end)
{
	while (start < end) {
		const struct boot_range *r = overlap(c, start, start + 1);
		uint64_t stop = end;

		if (r) {
			start = r->end;
			continue;
		}
		for (unsigned i = 0; i < c->n_taken; i++)
			if (c->taken[i].start > start &&
			    c->taken[i].start < stop)
				stop = c->taken[i].start;
		if (!boot_take(c, start, stop - start))
			return false;
		start = stop;
	}
	return true;
}

/* First fit in [start, end), upwards. */
static gpa_t alloc_up(struct boot_ctx *c, uint64_t start, uint64_t end,
		      uint64_t len)
{
	const struct boot_range *r;

	if (end > c->low)
		end = c->low;
	if (start > end)
		return BOOT_NOWHERE;
	for (start = align_up(start, PAGE_SIZE);
	     start <= end && len <= end - start;
	     start = align_up(r->end, PAGE_SIZE)) {
		r = overlap(c, start, start + len);
		if (!r)
			return boot_take(c, start, len) ? start : BOOT_NOWHERE;
	}
	return BOOT_NOWHERE;
}

gpa_t boot_alloc_low(struct boot_ctx *c, uint64_t len)
{
	return alloc_up(c, BOOT_LOW_START, BOOT_LOW_END, len);
}

gpa_t boot_alloc_from(struct boot_ctx *c, uint64_t start, uint64_t len)
{
	return alloc_up(c, start < BOOT_MIB ? BOOT_MIB : start, c->low, len);
}

gpa_t boot_alloc_top(struct boot_ctx *c, uint64_t len, uint64_t limit)
{
	uint64_t end = limit < c->low ? limit : c->low, start;
	const struct boot_range *r;

	while (end >= BOOT_MIB && len <= end - BOOT_MIB) {
		start = (end - len) & PAGE_MASK;
		r = overlap(c, start, start + len);
		if (!r)
			return boot_take(c, start, len) ? start : BOOT_NOWHERE;
		end = r->start;
	}
	return BOOT_NOWHERE;
}

int boot_write(struct boot_ctx *c, gpa_t gpa, const void *buf, size_t len)
{
	int r = p2m_copy_in(c->p2m, gpa, buf, len);

	return r ? boot_fail(c, -r,
			     "%s: cannot write guest memory at %#llx: "
			     "%s: is the host out of memory?",
			     c->kernel.path, (unsigned long long)gpa,
			     strerror(-r))
		 : 0;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

int boot_zero(struct boot_ctx *c, gpa_t gpa, uint64_t len)
{
	static const uint8_t zeroes[PAGE_SIZE];
	int r = 0;

	while (len && !r) {
		unsigned off = gpa & ~PAGE_MASK;
		uint64_t n = PAGE_SIZE - off;
		ppn_t ppn = gpa_to_ppn(gpa);
		const uint8_t *p;

		if (n > len)
			n = len;
		p = p2m_get_state(c->p2m, ppn) == P2M_ZERO
			    ? zeroes
			    : p2m_read(c->p2m, ppn);
		if (!p || !all_zero(p + off, n))
			r = boot_write(c, gpa, zeroes, n);
		gpa += n;
		len -= n;
	}
	return r;
}

int boot_load_initrd(struct boot_ctx *c, gpa_t gpa)
{
	return boot_file_copy_in(c, &c->initrd, 0, gpa, c->initrd.size);
}

int boot_initrd_too_large(struct boot_ctx *c)
{
	return boot_fail(c, E2BIG,
			 "initrd %s: its %llu KiB do not fit beside the kernel "
			 "in %llu MiB of guest memory: give more --mem or a "
			 "smaller initrd",
			 c->initrd.path,
			 (unsigned long long)((c->initrd.size + 1023) >> 10),
			 (unsigned long long)(c->low + c->high) >> 20);
}
