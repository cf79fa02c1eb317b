/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_PAGE_PRIV_H
#define SARDINE_VMM_CLI_PAGE_PRIV_H
/* page_charts.c draws, page.c writes what stands around the charts. */
#include "vmm/cli/page.h"
#include "vmm/cli/svg.h"

/* Marks for a chart, neighbours of a kind put together. malloc'ed texts and
 * array: page_marks_free. */
struct page_marks {
	struct svg_mark *m;
	size_t n;
};
struct page_marks page_marks_make(const struct history *h);
void page_marks_free(struct page_marks *m);

void page_host_chart(FILE *f, const struct history *h,
		     const struct page_marks *marks, const char *alone);
void page_guest_chart(FILE *f, const struct history *h,
		      const struct page_marks *marks);
void page_count_chart(FILE *f, const struct history *h,
		      const struct page_marks *marks);
/* top: of the axis, so that the charts of VMs compare. */
void page_vm_chart(FILE *f, const struct history *h, size_t vm, double top);
/* Is the budget near enough to be drawn? */
bool page_budget_shown(const struct history *h);
/* The parts of a guest's memory that the samples have: name and class. */
size_t page_guest_parts(const struct history *h, const char *label[SVG_SERIES],
			const char *colour[SVG_SERIES]);
#endif
