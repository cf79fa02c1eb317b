/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_REPORT_TABLE_H
#define SARDINE_VMM_CLI_REPORT_TABLE_H
/*
 * A sample for people: rows and columns of plain text. Columns are those
 * fields of a VM that have a title; optional ones are there when a VM has
 * them, and those that matter least go when the width does not suffice.
 */
#include <stdio.h>

#include "vmm/cli/report.h"
#include "vmm/cli/report_fields.h"

#define REPORT_MAX_COLUMNS 24
#define REPORT_ROW_MAX	   320 /* bytes of a row, its NUL included */

struct report_columns {
	const struct report_field *f[REPORT_MAX_COLUMNS];
	size_t n;
};
/* width: columns of the terminal; 0: as wide as it gets. */
void report_columns_pick(const struct report *r, unsigned width,
			 struct report_columns *c);
/* What stands in a column: MiB for bytes, nothing for what nobody knows. */
void report_cell(const struct report_field *f, const struct report_vm *v,
		 char *buf, size_t len);
/* Each a line without its newline. */
void report_head(const struct report_columns *c, char buf[REPORT_ROW_MAX]);
void report_row(const struct report_columns *c, const struct report_vm *v,
		char buf[REPORT_ROW_MAX]);
void report_total_row(const struct report_columns *c, const struct report *r,
		      char buf[REPORT_ROW_MAX]);

/* The order of the VMs by one field, highest (or last) first if down; those of
 * the same value, and all with NULL, as they were. order: n_vms indices. */
void report_sort(const struct report *r, const struct report_field *by,
		 bool down, size_t *order);

/* What sharing saves, the host, the audit: three lines or four. */
void report_print_host(const struct report *r, FILE *f);
/* The whole table (at most max_vms VMs; 0: all), then the above. Returns how
 * many lines. */
unsigned report_print(const struct report *r, FILE *f, size_t max_vms);
/* One line: how things stand. No newline. */
void report_line(const struct report *r, char *buf, size_t len);
#endif
