/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/zero.h"

/* 256 bytes at a time: the compiler makes vector ORs of the inner loop, and
 * the test in between ends it early for pages with content. */
bool zero_page(const void *page)
{
	const uint64_t *w = page;

	if (w[0] | w[PAGE_SIZE / 8 - 1])
		return false;
	for (unsigned i = 0; i < PAGE_SIZE / 8; i += 32) {
		uint64_t any = 0;

		for (unsigned k = 0; k < 32; k++)
			any |= w[i + k];
		if (any)
			return false;
	}
	return true;
}
