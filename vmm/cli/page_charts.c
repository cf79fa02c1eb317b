/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/page_priv.h"

#include <stdlib.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/cli/report_fields.h"

/* ---- what is stacked ---- */

struct part {
	const char *field; /* of a VM (all of them added up), or of the host */
	bool of_vm;
	const char *colour, *label;
};
static const struct part host_parts[] = {
	{"private_bytes", true, "private", "private"},
	{"pool_bytes", false, "pool", "pool (shared frames)"},
	{"overhead_bytes", true, "overhead", "overhead of the monitors"},
	{"store_bytes", false, "store", "compressed pages"},
};
static const struct part guest_parts[] = {
	{"private_bytes", true, "private", "private"},
	{"shared_bytes", true, "pool", "shared"},
	{"compressed_bytes", true, "store", "compressed"},
	{"swapped_bytes", true, "swapped", "swapped"},
	{"ballooned_bytes", true, "ballooned", "ballooned"},
	{"zero_bytes", true, "zero", "zero or untouched"},
};

static const struct report_field *field_of(const struct part *p)
{
	return report_field_find(p->of_vm ? &report_vm_section : &report_host,
				 p->field);
}

/* vm: that one; SIZE_MAX: all. Absent is 0. */
static double value_of(const struct part *p, const struct report *r, size_t vm)
{
	const struct report_field *f = field_of(p);
	double sum = 0;

	for (size_t i = 0; i < (p->of_vm ? r->n_vms : 1); i++) {
		uint64_t v;

		if (p->of_vm && vm != SIZE_MAX && vm != i)
			continue;
		v = report_field_value(f, p->of_vm ? (const void *)&r->vms[i]
						   : (const void *)r);
		sum += v == REPORT_ABSENT ? 0 : (double)v;
	}
	return sum;
}

static bool present(const struct part *p, const struct history *h)
{
	const struct report_field *f = field_of(p);

	if (!f->optional)
		return true;
	for (size_t i = 0; i < h->n; i++) {
		const struct report *r = &h->s[i].r;

		for (size_t k = 0; k < (p->of_vm ? r->n_vms : 1); k++)
			if (report_field_value(
				    f, p->of_vm ? (const void *)&r->vms[k]
						: (const void *)r) !=
			    REPORT_ABSENT)
				return true;
	}
	return false;
}

size_t page_guest_parts(const struct history *h, const char *label[SVG_SERIES],
			const char *colour[SVG_SERIES])
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(guest_parts); i++) {
		if (!present(&guest_parts[i], h))
			continue;
		label[n] = guest_parts[i].label;
		colour[n++] = guest_parts[i].colour;
	}
	return n;
}

/* ---- curves ---- */

/* The samples that a chart shows, and its curves, which it owns. */
struct curves {
	const struct history *h;
	size_t *index;
	double *time;
	size_t n;
	double *owned[2 * SVG_SERIES];
	size_t n_owned;
	struct svg_chart c;
};

static double used_of(const struct report *r, const void *ctx)
{
	return (double)r->used_bytes;
}

static double private_of(const struct report *r, const void *ctx)
{
	size_t vm = *(const size_t *)ctx;

	return vm < r->n_vms ? (double)r->vms[vm].private_bytes : 0;
}

static bool curves_init(struct curves *v, const struct history *h, size_t max,
			double (*value)(const struct report *, const void *),
			const void *ctx)
{
	memset(v, 0, sizeof(*v));
	v->h = h;
	v->index = malloc((max + 1) * sizeof(*v->index));
	v->time = malloc((max + 1) * sizeof(*v->time));
	if (!v->index || !v->time)
		return false;
	v->n = history_pick(h, max, value, ctx, v->index);
	for (size_t i = 0; i < v->n; i++)
		v->time[i] = h->s[v->index[i]].time;
	/* One sample is shown as a second of it. */
	if (v->n == 1) {
		v->index[1] = v->index[0];
		v->time[1] = v->time[0] + 1;
		v->n = 2;
	}
	v->c.time = v->time;
	v->c.n = v->n;
	v->c.t0 = v->time[0];
	v->c.t1 = v->time[v->n - 1];
	v->c.bytes = true;
	return true;
}

static void curves_free(struct curves *v)
{
	free(v->index);
	free(v->time);
	for (size_t i = 0; i < v->n_owned; i++)
		free(v->owned[i]);
}

static const struct report *at(const struct curves *v, size_t i)
{
	return &v->h->s[v->index[i]].r;
}

static double *new_curve(struct curves *v)
{
	double *d = v->n_owned < ARRAY_SIZE(v->owned) ? calloc(v->n, sizeof(*d))
						      : NULL;

	if (d)
		v->owned[v->n_owned++] = d;
	return d;
}

static void add_parts(struct curves *v, const struct part *p, size_t n,
		      size_t vm)
{
	for (size_t i = 0; i < n; i++) {
		double *d;

		if (!present(&p[i], v->h))
			continue;
		d = new_curve(v);
		if (!d)
			return;
		for (size_t k = 0; k < v->n; k++)
			d[k] = value_of(&p[i], at(v, k), vm);
		v->c.areas[v->c.n_areas++] =
			(struct svg_series){p[i].label, p[i].colour, d, false};
	}
}

static double saved_of(const struct report *r, const void *ctx)
{
	return (double)r->saved_bytes;
}

static void add_line(struct curves *v, const char *label, const char *colour,
		     double (*value)(const struct report *, const void *))
{
	double *d = new_curve(v);

	if (!d)
		return;
	for (size_t k = 0; k < v->n; k++)
		d[k] = value(at(v, k), NULL);
	v->c.lines[v->c.n_lines++] =
		(struct svg_series){label, colour, d, value != saved_of};
}

static double budget_of(const struct report *r, const void *ctx)
{
	return (double)r->budget_bytes;
}

/* What VMs that live were told they have. */
static double configured_of(const struct report *r, const void *ctx)
{
	double sum = 0;

	for (size_t i = 0; i < r->n_vms; i++)
		sum += r->vms[i].pid ? (double)r->vms[i].configured_bytes : 0;
	return sum;
}

static double started_of(const struct report *r, const void *ctx)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n_vms; i++)
		n += r->vms[i].pid != 0;
	return (double)n;
}

static double up_of(const struct report *r, const void *ctx)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n_vms; i++)
		n += r->vms[i].pid && r->vms[i].boot_ms;
	return (double)n;
}

static double highest(const struct history *h,
		      double (*value)(const struct report *, const void *))
{
	double max = 0;

	for (size_t i = 0; i < h->n; i++) {
		double v = value(&h->s[i].r, NULL);

		max = v > max ? v : max;
	}
	return max;
}

/* A line far above the areas would press them flat. */
static bool near(const struct history *h,
		 double (*value)(const struct report *, const void *),
		 double times)
{
	return highest(h, value) <= times * highest(h, used_of);
}

bool page_budget_shown(const struct history *h)
{
	return near(h, budget_of, 6);
}

/* ---- charts ---- */

void page_host_chart(FILE *f, const struct history *h,
		     const struct page_marks *marks, const char *alone)
{
	struct curves v;

	if (curves_init(&v, h, PAGE_POINTS, used_of, NULL)) {
		add_parts(&v, host_parts, ARRAY_SIZE(host_parts), SIZE_MAX);
		if (near(h, configured_of, 6))
			add_line(&v, "configured, sold to the guests",
				 "configured", configured_of);
		if (page_budget_shown(h))
			add_line(&v, "budget", "budget", budget_of);
		add_line(&v, "saved by sharing", "saved", saved_of);
		v.c.title = alone ? alone : "Host memory over time";
		v.c.width = 920;
		v.c.height = alone ? 400 : 360;
		v.c.marks = marks->m;
		v.c.n_marks = marks->n;
		v.c.alone = alone != NULL;
		svg_chart(f, &v.c);
	}
	curves_free(&v);
}

void page_guest_chart(FILE *f, const struct history *h,
		      const struct page_marks *marks)
{
	struct curves v;

	if (curves_init(&v, h, PAGE_POINTS, used_of, NULL)) {
		add_parts(&v, guest_parts, ARRAY_SIZE(guest_parts), SIZE_MAX);
		v.c.title = "Memory of all guests over time";
		v.c.width = 920;
		v.c.height = 320;
		v.c.marks = marks->m;
		v.c.n_marks = marks->n;
		svg_chart(f, &v.c);
	}
	curves_free(&v);
}

void page_count_chart(FILE *f, const struct history *h,
		      const struct page_marks *marks)
{
	struct curves v;

	if (curves_init(&v, h, PAGE_POINTS, started_of, NULL)) {
		v.c.bytes = false;
		add_line(&v, "VMs that run", "configured", started_of);
		add_line(&v, "VMs in userland", "pool", up_of);
		v.c.title = "VMs over time";
		v.c.width = 920;
		v.c.height = 200;
		svg_chart(f, &v.c);
	}
	curves_free(&v);
}

void page_vm_chart(FILE *f, const struct history *h, size_t vm, double top)
{
	char title[REPORT_NAME + 32];
	struct curves v;

	if (curves_init(&v, h, PAGE_VM_POINTS, private_of, &vm)) {
		add_parts(&v, guest_parts, ARRAY_SIZE(guest_parts), vm);
		snprintf(title, sizeof(title), "Memory of %s over time",
			 h->s[h->n - 1].r.vms[vm].name);
		v.c.title = title;
		v.c.width = 280;
		v.c.height = 130;
		v.c.small = true;
		v.c.top = top;
		svg_chart(f, &v.c);
	}
	curves_free(&v);
}

/* ---- marks ---- */

static char sign_of(enum history_kind k)
{
	return k == HISTORY_UP ? '^' : k == HISTORY_END ? 'x' : '=';
}

static char *mark_text(const struct history_mark *m, unsigned vms, double t0)
{
	static const char *const what[HISTORY_KINDS] = {
		[HISTORY_UP] = "in userland: ",
		[HISTORY_END] = "ended: ",
		[HISTORY_BUDGET] = "",
	};
	char *text;
	int n;

	if (vms > m->vms)
		n = asprintf(&text, "from %.0f s: %u VMs %s%s, ...",
			     m->time - t0, vms, what[m->kind], m->text);
	else
		n = asprintf(&text, "%.0f s: %s%s", m->time - t0, what[m->kind],
			     m->text);
	return n < 0 ? NULL : text;
}

struct page_marks page_marks_make(const struct history *h)
{
	size_t n, k;
	struct history_mark *all = history_marks(h, &n);
	struct page_marks out = {calloc(n + 1, sizeof(*out.m)), 0};
	double t0 = h->s[0].time;
	double close = (h->s[h->n - 1].time - t0) / 80;

	/* Those of one kind that would cover each other are one. */
	for (size_t i = 0; out.m && i < n; i++) {
		const struct history_mark *m = &all[i];
		unsigned vms = m->vms;

		if (m->kind == HISTORY_KINDS)
			continue;
		for (k = i + 1; k < n && all[k].time - m->time <= close; k++) {
			if (all[k].kind != m->kind)
				continue;
			vms += all[k].vms;
			if (m->kind != HISTORY_BUDGET)
				all[k].kind = HISTORY_KINDS;
		}
		out.m[out.n] = (struct svg_mark){m->time, sign_of(m->kind),
						 mark_text(m, vms, t0)};
		out.n += out.m[out.n].text != NULL;
	}
	free(all);
	return out;
}

void page_marks_free(struct page_marks *m)
{
	for (size_t i = 0; i < m->n; i++)
		free((void *)m->m[i].text);
	free(m->m);
}
