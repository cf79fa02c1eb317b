/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_PAGE_H
#define SARDINE_VMM_CLI_PAGE_H
/*
 * A run as a page: HTML with its charts inside, which needs no script and no
 * other file, or one chart as an SVG file. What is drawn is what the samples
 * hold: a field that none of them has is left out.
 */
#include <stdio.h>

#include "vmm/cli/history.h"

#define PAGE_POINTS    480 /* of a large chart */
#define PAGE_VM_POINTS 64  /* of a VM's */
#define PAGE_VMS       240 /* VMs that get a chart */

/* h has a sample at least. Whether f took it all is its owner's to ask. */
void page_write(const struct history *h, FILE *f);
/* The host's memory over time. title: NULL for the usual one. */
void page_write_svg(const struct history *h, const char *title, FILE *f);
#endif
