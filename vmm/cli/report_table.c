/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/report_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

/* ---- columns ---- */

static bool any_has(const struct report *r, const struct report_field *f)
{
	if (!f->optional)
		return true;
	for (size_t i = 0; i < r->n_vms; i++)
		if (report_field_value(f, &r->vms[i]) != REPORT_ABSENT)
			return true;
	return false;
}

/* Text stands left, figures right. */
static bool is_text(const struct report_field *f)
{
	return f->kind == REPORT_STR;
}

static unsigned width_of(const struct report_columns *c)
{
	unsigned w = 0;

	for (size_t i = 0; i < c->n; i++)
		w += c->f[i]->width + (i != 0);
	return w;
}

static void drop_one(struct report_columns *c)
{
	size_t worst = 0;

	for (size_t i = 1; i < c->n; i++)
		if (c->f[i]->drop > c->f[worst]->drop)
			worst = i;
	c->n--;
	memmove(&c->f[worst], &c->f[worst + 1],
		(c->n - worst) * sizeof(c->f[0]));
}

void report_columns_pick(const struct report *r, unsigned width,
			 struct report_columns *c)
{
	const struct report_section *s = &report_vm_section;

	c->n = 0;
	for (size_t i = 0; i < s->n && c->n < REPORT_MAX_COLUMNS; i++)
		if (s->fields[i].title && any_has(r, &s->fields[i]))
			c->f[c->n++] = &s->fields[i];
	while (width && width_of(c) > width && c->n > 2)
		drop_one(c);
}

/* ---- rows ---- */

static size_t put(char *buf, size_t at, const struct report_field *f,
		  const char *text)
{
	int w = (int)f->width, n;

	n = snprintf(buf + at, REPORT_ROW_MAX - at, "%s%*s", at ? " " : "",
		     is_text(f) ? -w : w, text);
	at += n > 0 ? (size_t)n : 0;
	return at < REPORT_ROW_MAX ? at : REPORT_ROW_MAX - 1;
}

static void trim(char *buf, size_t n)
{
	while (n && buf[n - 1] == ' ')
		buf[--n] = '\0';
}

void report_head(const struct report_columns *c, char buf[REPORT_ROW_MAX])
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < c->n; i++)
		at = put(buf, at, c->f[i], c->f[i]->title);
	trim(buf, at);
}

void report_cell(const struct report_field *f, const struct report_vm *v,
		 char *buf, size_t len)
{
	uint64_t n;

	buf[0] = '\0';
	if (is_text(f)) {
		snprintf(buf, len, "%s", report_field_text(f, v));
		return;
	}
	n = report_field_value(f, v);
	if (n == REPORT_ABSENT || (f->not_yet_zero && !n))
		return;
	if (report_field_unit(f, "_bytes"))
		snprintf(buf, len, "%.1f", mib(n));
	else
		snprintf(buf, len, "%" PRIu64, n);
}

void report_row(const struct report_columns *c, const struct report_vm *v,
		char buf[REPORT_ROW_MAX])
{
	char text[64];
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < c->n; i++) {
		report_cell(c->f[i], v, text, sizeof(text));
		at = put(buf, at, c->f[i], text);
	}
	trim(buf, at);
}

void report_total_row(const struct report_columns *c, const struct report *r,
		      char buf[REPORT_ROW_MAX])
{
	struct report_vm t;

	report_total(r, &t);
	snprintf(t.name, sizeof(t.name), "total");
	snprintf(t.state, sizeof(t.state), "MiB");
	report_row(c, &t, buf);
}

/* ---- order ---- */

struct sort {
	const struct report *r;
	const struct report_field *by;
	bool down;
};

static int compare(const void *a, const void *b, void *ctx)
{
	size_t i = *(const size_t *)a, k = *(const size_t *)b;
	const struct sort *s = ctx;
	const struct report_vm *v = &s->r->vms[i], *w = &s->r->vms[k];
	int d;

	if (s->by->kind == REPORT_STR) {
		/* vm2 comes before vm10. */
		d = strverscmp(report_field_text(s->by, v),
			       report_field_text(s->by, w));
	} else {
		/* Unknown, which is the highest number, is less than any. */
		uint64_t x = report_field_value(s->by, v) + 1;
		uint64_t y = report_field_value(s->by, w) + 1;

		d = (x > y) - (x < y);
	}
	if (!d)
		return i < k ? -1 : 1;
	return s->down ? -d : d;
}

void report_sort(const struct report *r, const struct report_field *by,
		 bool down, size_t *order)
{
	struct sort s = {r, by, down};

	for (size_t i = 0; i < r->n_vms; i++)
		order[i] = i;
	if (by)
		qsort_r(order, r->n_vms, sizeof(*order), compare, &s);
}

/* ---- all of it ---- */

static void print_sharing(const struct report *r, FILE *f)
{
	bool any = false;

	fprintf(f, "saved %.1f MiB by sharing", mib(r->saved_bytes));
	if (r->oracle_valid)
		fprintf(f, ", of %.1f that an oracle could (%.1f%%)",
			mib(r->oracle_bytes),
			r->oracle_bytes ? 100.0 * (double)r->saved_bytes /
						  (double)r->oracle_bytes
					: 100.0);
	fprintf(f,
		"\npages: merged %" PRIu64 ", zero %" PRIu64 ", broken %" PRIu64
		", scanned %" PRIu64,
		r->merged_pages,
		r->zero_merged_pages == REPORT_ABSENT ? 0
						      : r->zero_merged_pages,
		r->broken_pages, r->scanned_pages);
	fprintf(f, "; refused:");
	for (size_t i = 0; i < r->n_refused; i++) {
		if (!r->refused[i].count)
			continue;
		fprintf(f, " %s %" PRIu64, r->refused[i].name,
			r->refused[i].count);
		any = true;
	}
	fprintf(f, "%s\n", any ? "" : " none");
}

void report_print_host(const struct report *r, FILE *f)
{
	print_sharing(r, f);
	fprintf(f,
		"host: using %.1f MiB (private + pool %.1f + overhead) of a "
		"budget of %.1f: %s",
		mib(r->used_bytes), mib(r->pool_bytes), mib(r->budget_bytes),
		r->host_state);
	if (r->store_bytes != REPORT_ABSENT)
		fprintf(f, "; store %.1f", mib(r->store_bytes));
	fputc('\n', f);
	if (r->audit[0])
		fprintf(f, "audit %s\n", r->audit);
}

unsigned report_print(const struct report *r, FILE *f, size_t max_vms)
{
	size_t n = max_vms && r->n_vms > max_vms ? max_vms : r->n_vms;
	struct report_columns c;
	char row[REPORT_ROW_MAX];

	report_columns_pick(r, 0, &c);
	report_head(&c, row);
	fprintf(f, "%s\n", row);
	for (size_t i = 0; i < n; i++) {
		report_row(&c, &r->vms[i], row);
		fprintf(f, "%s\n", row);
	}
	if (n < r->n_vms)
		fprintf(f, "... and %zu more\n", r->n_vms - n);
	report_total_row(&c, r, row);
	fprintf(f, "%s\n", row);
	report_print_host(r, f);
	return (unsigned)n + 5 + (n < r->n_vms) + (r->audit[0] != 0);
}

void report_line(const struct report *r, char *buf, size_t len)
{
	size_t running = 0, up = 0;
	struct report_vm t;

	report_total(r, &t);
	for (size_t i = 0; i < r->n_vms; i++) {
		up += r->vms[i].boot_ms != 0;
		running += r->vms[i].pid != 0;
	}
	snprintf(buf, len,
		 "%" PRIu64 " s: %zu VMs run, %zu reached userland; private "
		 "%.1f, shared %.1f, pool %.1f, overhead %.1f, saved %.1f MiB",
		 r->seconds, running, up, mib(t.private_bytes),
		 mib(t.shared_bytes), mib(r->pool_bytes), mib(t.overhead_bytes),
		 mib(r->saved_bytes));
}
