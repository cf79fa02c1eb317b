/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/page_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mm/types.h"
#include "vmm/cli/options.h"
#include "vmm/cli/report_table.h"

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
	"<meta name=\"viewport\" content=\"width=device-width\"/>"
	"<meta name=\"color-scheme\" content=\"light dark\"/>"
	"<title>Sardine: a run</title>\n<style>\n";
static const char style[] =
	"body{background:var(--paper);color:var(--ink);margin:0 auto;"
	"padding:24px;max-width:1040px;"
	"font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\n"
	"h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}\n"
	"p,figcaption,.sub{color:var(--faint);margin:4px 0}"
	"figure{margin:0}svg{width:100%;height:auto;display:block}\n"
	".tiles{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}"
	".tile{background:var(--card);border-radius:8px;padding:10px 16px;"
	"flex:1 1 150px}.tile b{display:block;font-size:22px;font-weight:600}"
	".tile span{color:var(--faint);font-size:13px}\n"
	".vms{display:grid;gap:12px;"
	"grid-template-columns:repeat(auto-fill,minmax(230px,1fr))}"
	".vm{background:var(--card);border-radius:8px;padding:8px}"
	".vm h3{font-size:14px;margin:0 4px}.vm h3 span{color:var(--faint);"
	"font-weight:400}\n"
	".key{display:flex;flex-wrap:wrap;gap:4px 16px;margin:4px 0 10px;"
	"font-size:13px}.key i{display:inline-block;width:13px;height:12px;"
	"border-radius:2px;margin-right:6px;vertical-align:-1px}\n"
	"table{border-collapse:collapse;font-size:13px;"
	"font-variant-numeric:tabular-nums}"
	"th,td{padding:3px 10px;text-align:right;"
	"border-bottom:1px solid var(--grid)}"
	"th{color:var(--faint);font-weight:600}"
	".l{text-align:left}.wide{overflow-x:auto}"
	"summary{cursor:pointer;color:var(--faint);margin:8px 0}\n";

static const struct report *last(const struct history *h)
{
	return &h->s[h->n - 1].r;
}

static double span_of(const struct history *h)
{
	return h->s[h->n - 1].time - h->s[0].time;
}

/* For people, with a decimal even where size_format has none to give. */
static const char *size(uint64_t v, char *buf, size_t len)
{
	if (v >= 1ull << 30)
		snprintf(buf, len, "%.2f GiB", (double)v / (1ull << 30));
	else
		snprintf(buf, len, "%.1f MiB", (double)v / (1 << 20));
	return buf;
}

/* ---- the top ---- */

static void write_title(const struct history *h, FILE *f)
{
	time_t t = (time_t)h->s[0].time;
	double span = span_of(h);
	char when[64] = "?";
	struct tm tm;

	if (gmtime_r(&t, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	fprintf(f,
		"<h1>Sardine: a run of %zu VM%s</h1>\n<p class=\"sub\">from %s "
		"for ",
		last(h)->n_vms, last(h)->n_vms == 1 ? "" : "s", when);
	if (span < 120)
		fprintf(f, "%.0f s", span);
	else if (span < 7200)
		fprintf(f, "%.0f min %.0f s", (double)(long)(span / 60),
			span - 60 * (double)(long)(span / 60));
	else
		fprintf(f, "%.1f h", span / 3600);
	fprintf(f, "; %zu samples</p>\n", h->n);
}

static void tile(FILE *f, const char *value, const char *what)
{
	fputs("<div class=\"tile\"><b>", f);
	svg_escape(f, value);
	fputs("</b><span>", f);
	svg_escape(f, what);
	fputs("</span></div>\n", f);
}

/* The sample in which use was farthest above the budget, or least below. */
static const struct report *tightest(const struct history *h)
{
	const struct report *worst = &h->s[0].r;

	for (size_t i = 1; i < h->n; i++) {
		const struct report *r = &h->s[i].r;

		/* used/budget, without division. */
		if ((double)r->used_bytes * (double)worst->budget_bytes >
		    (double)worst->used_bytes * (double)r->budget_bytes)
			worst = r;
	}
	return worst;
}

static double seconds_over(const struct history *h)
{
	double sum = 0;

	for (size_t i = 0; i + 1 < h->n; i++)
		if (h->s[i].r.used_bytes > h->s[i].r.budget_bytes)
			sum += h->s[i + 1].time - h->s[i].time;
	return sum;
}

static uint64_t highest_of(const struct history *h,
			   const struct report_field *fl)
{
	uint64_t max = 0;

	for (size_t i = 0; i < h->n; i++) {
		uint64_t v = report_field_value(fl, &h->s[i].r);

		if (v != REPORT_ABSENT && v > max)
			max = v;
	}
	return max;
}

static void write_tiles(const struct history *h, FILE *f)
{
	const struct report *r = last(h), *t = tightest(h);
	size_t running = 0, ended = 0;
	struct report_vm total;
	uint64_t used;
	bool over;
	char a[64], b[160];

	report_total(r, &total);
	for (size_t i = 0; i < r->n_vms; i++) {
		running += r->vms[i].pid != 0;
		ended += r->vms[i].pid == 0;
	}
	used = highest_of(h, report_field_find(&report_host, "used_bytes"));
	fputs("<div class=\"tiles\">\n", f);
	tile(f, size(total.configured_bytes, a, sizeof(a)),
	     "configured for the guests");
	tile(f, size(used, a, sizeof(a)), "of the host used, at most");
	tile(f, size(r->saved_bytes, a, sizeof(a)),
	     "saved by sharing, at the end");
	over = t->used_bytes > t->budget_bytes;
	snprintf(b, sizeof(b), "the budget of %s: %.1f%% of it at most",
		 size(t->budget_bytes, a, sizeof(a)),
		 t->budget_bytes ? 100.0 * (double)t->used_bytes /
					   (double)t->budget_bytes
				 : 0);
	snprintf(a, sizeof(a), over ? "%.0f s over" : "inside",
		 seconds_over(h));
	tile(f, a, b);
	snprintf(a, sizeof(a), "%zu", running);
	snprintf(b, sizeof(b), "VMs run at the end, %zu ended", ended);
	tile(f, a, b);
	fputs("</div>\n", f);
}

/* ---- charts ---- */

static void write_charts(const struct history *h, FILE *f)
{
	struct page_marks marks = page_marks_make(h);
	char a[64];

	fputs("<h2>Host memory</h2>\n<figure>", f);
	page_host_chart(f, h, &marks, NULL);
	if (!page_budget_shown(h))
		fprintf(f,
			"<figcaption>The budget, %s, lies far "
			"above.</figcaption>",
			size(last(h)->budget_bytes, a, sizeof(a)));
	fputs("</figure>\n<h2>Guest memory: where it is</h2>\n<figure>", f);
	page_guest_chart(f, h, &marks);
	fputs("</figure>\n<h2>VMs</h2>\n<figure>", f);
	page_count_chart(f, h, &marks);
	fputs("</figure>\n", f);
	if (h->n > PAGE_POINTS)
		fprintf(f,
			"<p>Of %zu samples the charts show %d, those with the "
			"most memory in use.</p>\n",
			h->n, PAGE_POINTS);
	page_marks_free(&marks);
}

static void write_vm_charts(const struct history *h, FILE *f)
{
	const struct report *r = last(h);
	const char *label[SVG_SERIES], *colour[SVG_SERIES];
	size_t n = page_guest_parts(h, label, colour);
	size_t vms = r->n_vms < PAGE_VMS ? r->n_vms : PAGE_VMS;

	if (!vms)
		return;
	fputs("<h2>Each VM</h2>\n<div class=\"key\">", f);
	for (size_t i = 0; i < n; i++)
		fprintf(f,
			"<span><i style=\"background:var(--%s)\"></i>%s</span>",
			colour[i], label[i]);
	fputs("</div>\n<div class=\"vms\">\n", f);
	for (size_t i = 0; i < vms; i++) {
		fputs("<div class=\"vm\"><h3>", f);
		svg_escape(f, r->vms[i].name);
		fputs(" <span>", f);
		svg_escape(f, r->vms[i].state);
		fputs("</span></h3>", f);
		page_vm_chart(f, h, i, 0);
		fputs("</div>\n", f);
	}
	fputs("</div>\n", f);
	if (vms < r->n_vms)
		fprintf(f, "<p>... and %zu more VMs, in the table.</p>\n",
			r->n_vms - vms);
}

/* ---- tables ---- */

static void figure_text(const struct report_field *fl, uint64_t v, char *buf,
			size_t len)
{
	if (report_field_unit(fl, "_bytes"))
		size(v, buf, len);
	else
		snprintf(buf, len, "%" PRIu64, v);
}

static void write_figures(const struct history *h,
			  const struct report_section *s, FILE *f)
{
	const struct report *r = last(h);
	char a[64], b[64];

	for (size_t i = 0; i < s->n; i++) {
		const struct report_field *fl = &s->fields[i];
		uint64_t v;

		if (fl->kind != REPORT_U64 || fl->metric == METRIC_NONE)
			continue;
		v = report_field_value(fl, r);
		if (v == REPORT_ABSENT)
			continue;
		figure_text(fl, v, a, sizeof(a));
		figure_text(fl, highest_of(h, fl), b, sizeof(b));
		fprintf(f,
			"<tr><td "
			"class=\"l\">%s</td><td>%s</td><td>%s</td></tr>\n",
			fl->help, a, b);
	}
}

static void write_refused(const struct report *r, FILE *f)
{
	for (size_t i = 0; i < r->n_refused; i++) {
		if (!r->refused[i].count)
			continue;
		fputs("<tr><td class=\"l\">proposals refused: ", f);
		svg_escape(f, r->refused[i].name);
		fprintf(f, "</td><td>%" PRIu64 "</td><td></td></tr>\n",
			r->refused[i].count);
	}
}

static void write_host_table(const struct history *h, FILE *f)
{
	fputs("<h2>Figures</h2>\n<div class=\"wide\"><table><tr>"
	      "<th class=\"l\">what</th><th>at the end</th>"
	      "<th>highest</th></tr>\n",
	      f);
	write_figures(h, &report_host, f);
	write_figures(h, &report_sharing, f);
	write_refused(last(h), f);
	fputs("</table></div>\n", f);
}

static uint64_t highest_private(const struct history *h, size_t vm)
{
	uint64_t max = 0;

	for (size_t i = 0; i < h->n; i++)
		if (vm < h->s[i].r.n_vms &&
		    h->s[i].r.vms[vm].private_bytes > max)
			max = h->s[i].r.vms[vm].private_bytes;
	return max;
}

static void write_row(const struct report_columns *c, const struct report_vm *v,
		      const char *extra, FILE *f)
{
	char text[64];

	fputs("<tr>", f);
	for (size_t i = 0; i < c->n; i++) {
		report_cell(c->f[i], v, text, sizeof(text));
		fprintf(f, "<td%s>",
			c->f[i]->kind == REPORT_STR ? " class=\"l\"" : "");
		svg_escape(f, text);
		fputs("</td>", f);
	}
	fprintf(f, "<td>%s</td></tr>\n", extra);
}

static void write_vm_table(const struct history *h, FILE *f)
{
	const struct report *r = last(h);
	struct report_columns c;
	struct report_vm t;
	char extra[32];

	if (!r->n_vms)
		return;
	report_columns_pick(r, 0, &c);
	fprintf(f,
		"<details%s><summary>The VMs at the end (sizes in "
		"MiB)</summary><div class=\"wide\"><table><tr>",
		r->n_vms <= 20 ? " open=\"open\"" : "");
	for (size_t i = 0; i < c.n; i++)
		fprintf(f, "<th%s title=\"%s\">%s</th>",
			c.f[i]->kind == REPORT_STR ? " class=\"l\"" : "",
			c.f[i]->help, c.f[i]->title);
	fputs("<th>PRIVATE, HIGHEST</th></tr>\n", f);
	for (size_t i = 0; i < r->n_vms; i++) {
		snprintf(extra, sizeof(extra), "%.1f",
			 (double)highest_private(h, i) / (1 << 20));
		write_row(&c, &r->vms[i], extra, f);
	}
	report_total(r, &t);
	snprintf(t.name, sizeof(t.name), "total");
	write_row(&c, &t, "", f);
	fputs("</table></div></details>\n", f);
}

/* ---- what happened ---- */

static void write_event(FILE *f, double t, const char *text)
{
	fprintf(f, "<tr><td>%.1f s</td><td class=\"l\">", t);
	svg_escape(f, text);
	fputs("</td></tr>\n", f);
}

/* What the run said, or else what its samples show. */
static void write_events(const struct history *h, FILE *f)
{
	double t0 = h->s[0].time;
	size_t n = h->n_events;
	struct history_mark *m = n ? NULL : history_marks(h, &n);

	if (!n)
		return;
	fprintf(f, "<details%s><summary>What happened</summary><table>\n",
		n <= 40 ? " open=\"open\"" : "");
	for (size_t i = 0; i < n; i++) {
		char text[HISTORY_TEXT + 32];

		if (!m) {
			write_event(f, h->events[i].time - t0,
				    h->events[i].text);
			continue;
		}
		snprintf(text, sizeof(text), "%s%s",
			 m[i].kind == HISTORY_UP    ? "in userland: "
			 : m[i].kind == HISTORY_END ? "ended: "
						    : "",
			 m[i].text);
		write_event(f, m[i].time - t0, text);
	}
	fputs("</table></details>\n", f);
	free(m);
}

void page_write(const struct history *h, FILE *f)
{
	fputs(head, f);
	svg_style(f);
	fputs(style, f);
	fputs("</style></head><body>\n", f);
	write_title(h, f);
	write_tiles(h, f);
	write_charts(h, f);
	write_vm_charts(h, f);
	write_host_table(h, f);
	write_vm_table(h, f);
	write_events(h, f);
	fputs("</body></html>\n", f);
}

void page_write_svg(const struct history *h, const char *title, FILE *f)
{
	struct page_marks marks = page_marks_make(h);

	page_host_chart(f, h, &marks, title ? title : "Host memory over time");
	page_marks_free(&marks);
}
