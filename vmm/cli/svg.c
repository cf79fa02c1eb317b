/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/svg.h"

#include <math.h>
#include <string.h>

#include "mm/types.h"

void svg_escape(FILE *f, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", f);
			break;
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		case '\'':
			fputs("&#39;", f);
			break;
		default:
			fputc(*text >= ' ' && *text <= '~' ? *text : '?', f);
		}
	}
}

/* ---- colours ---- */

static const struct {
	const char *name, *light, *dark;
} colours[] = {
	{"private", "#3572b0", "#5b9bdb"},
	{"pool", "#2f9e77", "#3fb58b"},
	{"overhead", "#e3a12f", "#d9a441"},
	{"store", "#a85fa6", "#bd7cbb"},
	{"ballooned", "#7cc4e8", "#3f88ab"},
	{"swapped", "#c6553a", "#d9705a"},
	{"zero", "#d5dae0", "#3a424c"},
	{"budget", "#c62828", "#ff6b60"},
	{"saved", "#7b3fbf", "#b993ea"},
	{"configured", "#555c66", "#a7b0bb"},
};

static void write_colours(FILE *f, bool dark)
{
	fprintf(f, ":root{--ink:%s;--faint:%s;--grid:%s;--paper:%s;--card:%s;",
		dark ? "#e4e8ec" : "#1d232a", dark ? "#98a2ae" : "#5c6672",
		dark ? "#333b45" : "#e2e6ea", dark ? "#14181d" : "#ffffff",
		dark ? "#1b2027" : "#f6f8fa");
	for (size_t i = 0; i < ARRAY_SIZE(colours); i++)
		fprintf(f, "--%s:%s;", colours[i].name,
			dark ? colours[i].dark : colours[i].light);
	fputs("}\n", f);
}

void svg_style(FILE *f)
{
	write_colours(f, false);
	fputs("@media(prefers-color-scheme:dark){", f);
	write_colours(f, true);
	fputs("}\n"
	      "svg{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}\n"
	      "svg text{fill:var(--faint)}svg .ink{fill:var(--ink)}\n"
	      "svg .paper{fill:var(--paper)}\n"
	      ".grid{stroke:var(--grid);stroke-width:1;fill:none}\n"
	      ".axis{stroke:var(--faint);stroke-width:1;fill:none}\n"
	      ".line{fill:none;stroke-width:2}.dash{stroke-dasharray:6 4}\n"
	      ".mark{stroke:var(--faint);stroke-width:1;opacity:.45}\n"
	      ".up{fill:var(--pool)}.end{stroke:var(--budget);stroke-width:2;"
	      "fill:none}.change{fill:var(--ink)}\n",
	      f);
	for (size_t i = 0; i < ARRAY_SIZE(colours); i++)
		fprintf(f, ".f-%s{fill:var(--%s)}.s-%s{stroke:var(--%s)}\n",
			colours[i].name, colours[i].name, colours[i].name,
			colours[i].name);
}

/* ---- axes ---- */

double svg_step(double top, unsigned want, bool bytes)
{
	double raw = top / want, p;

	if (!(raw > 0))
		return 1;
	if (bytes)
		return exp2(ceil(log2(raw)));
	p = pow(10, floor(log10(raw)));
	raw /= p;
	p *= raw <= 1 ? 1 : raw <= 2 ? 2 : raw <= 5 ? 5 : 10;
	return p < 1 ? 1 : p;
}

const char *svg_tick(double v, double top, bool bytes, char *buf, size_t len)
{
	static const char *const unit[] = {"B",	  "KiB", "MiB",
					   "GiB", "TiB", "PiB"};
	unsigned i = 0;

	if (!bytes || v <= 0) {
		snprintf(buf, len, "%.6g", v);
		return buf;
	}
	/* All ticks of an axis in one unit. */
	while (top >= 1024 && i + 1 < ARRAY_SIZE(unit)) {
		top /= 1024;
		v /= 1024;
		i++;
	}
	snprintf(buf, len, "%.4g %s", v, unit[i]);
	return buf;
}

static double time_step(double span, unsigned want)
{
	static const double steps[] = {1,    2,	   5,	  10,	 15,	30,
				       60,   120,  300,	  600,	 900,	1800,
				       3600, 7200, 10800, 21600, 43200, 86400};

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (span / steps[i] <= want)
			return steps[i];
	return 86400 * ceil(span / want / 86400);
}

static const char *time_tick(double t, double span, char *buf, size_t len)
{
	unsigned long s = (unsigned long)(t + 0.5);

	if (span < 120)
		snprintf(buf, len, "%lu s", s);
	else if (span < 7200 && s % 60 == 0)
		snprintf(buf, len, "%lu min", s / 60);
	else if (span < 7200)
		snprintf(buf, len, "%lu:%02lu", s / 60, s % 60);
	else if (span < 3 * 86400)
		snprintf(buf, len, "%lu:%02lu h", s / 3600, s / 60 % 60);
	else
		snprintf(buf, len, "%.1f d", t / 86400);
	return buf;
}

/* ---- one chart ---- */

struct plot {
	FILE *f;
	const struct svg_chart *c;
	double left, top, right, bottom; /* of the area in which data lie */
	double max;			 /* of the vertical axis */
};

static double x_of(const struct plot *p, double t)
{
	const struct svg_chart *c = p->c;
	double span = c->t1 > c->t0 ? c->t1 - c->t0 : 1;
	double x = (t - c->t0) / span;

	x = x < 0 ? 0 : x > 1 ? 1 : x;
	return p->left + x * (p->right - p->left);
}

static double y_of(const struct plot *p, double v)
{
	double y = p->max > 0 ? v / p->max : 0;

	y = !(y > 0) ? 0 : y > 1 ? 1 : y;
	return p->bottom - y * (p->bottom - p->top);
}

static double sum_below(const struct svg_chart *c, size_t area, size_t i)
{
	double sum = 0;

	for (size_t k = 0; k < area; k++)
		sum += c->areas[k].v[i];
	return sum;
}

static double highest(const struct svg_chart *c)
{
	double max = c->top;

	for (size_t i = 0; i < c->n; i++) {
		double v = sum_below(c, c->n_areas, i);

		max = v > max ? v : max;
		for (size_t k = 0; k < c->n_lines; k++)
			if (c->lines[k].v[i] > max)
				max = c->lines[k].v[i];
	}
	return max > 0 ? max : 1;
}

static void write_grid(struct plot *p)
{
	const struct svg_chart *c = p->c;
	double step = svg_step(p->max, c->small ? 2 : 5, c->bytes);
	double span = c->t1 > c->t0 ? c->t1 - c->t0 : 1;
	double tstep = time_step(span, c->small ? 2 : 8);
	char buf[48];

	p->max = step * ceil(p->max / step - 1e-9);
	for (double v = 0; v <= p->max * 1.0001; v += step) {
		fprintf(p->f,
			"<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>"
			"<text x=\"%.1f\" y=\"%.1f\" "
			"text-anchor=\"end\">%s</text>\n",
			p->left, y_of(p, v), p->right, p->left - 6,
			y_of(p, v) + 4,
			svg_tick(v, p->max, c->bytes, buf, sizeof(buf)));
	}
	for (double t = 0; t <= span * 1.0001; t += tstep) {
		double x = x_of(p, c->t0 + t);

		fprintf(p->f,
			"<path class=\"axis\" d=\"M%.1f %.1fv4\"/>"
			"<text x=\"%.1f\" y=\"%.1f\" "
			"text-anchor=\"%s\">%s</text>\n",
			x, p->bottom, x, p->bottom + 17,
			x > p->right - 12 ? "end" : "middle",
			time_tick(t, span, buf, sizeof(buf)));
	}
}

static void write_area(struct plot *p, size_t a)
{
	const struct svg_chart *c = p->c;
	const struct svg_series *s = &c->areas[a];

	fprintf(p->f, "<path class=\"f-%s\" d=\"", s->colour);
	for (size_t i = 0; i < c->n; i++)
		fprintf(p->f, "%c%.1f %.1f", i ? 'L' : 'M', x_of(p, c->time[i]),
			y_of(p, sum_below(c, a + 1, i)));
	for (size_t i = c->n; i-- > 0;)
		fprintf(p->f, "L%.1f %.1f", x_of(p, c->time[i]),
			y_of(p, sum_below(c, a, i)));
	fputs("Z\"><title>", p->f);
	svg_escape(p->f, s->label);
	fputs("</title></path>\n", p->f);
}

static bool dashed(const struct svg_series *s)
{
	return !strcmp(s->colour, "saved") || !strcmp(s->colour, "configured");
}

static void write_line(struct plot *p, const struct svg_series *s)
{
	const struct svg_chart *c = p->c;

	fprintf(p->f, "<path class=\"line s-%s%s\" d=\"", s->colour,
		dashed(s) ? " dash" : "");
	for (size_t i = 0; i < c->n; i++) {
		if (i && s->steps)
			fprintf(p->f, "H%.1f", x_of(p, c->time[i]));
		fprintf(p->f, "%c%.1f %.1f", i ? 'L' : 'M', x_of(p, c->time[i]),
			y_of(p, s->v[i]));
	}
	fputs("\"><title>", p->f);
	svg_escape(p->f, s->label);
	fputs("</title></path>\n", p->f);
}

static void write_mark(struct plot *p, const struct svg_mark *m)
{
	double x = x_of(p, m->time), y = p->top - 7;

	fputs("<g><title>", p->f);
	svg_escape(p->f, m->text);
	fprintf(p->f, "</title><path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>", x,
		p->top, p->bottom);
	if (m->sign == '^')
		fprintf(p->f, "<path class=\"up\" d=\"M%.1f %.1fl5 9h-10z\"/>",
			x, y - 4);
	else if (m->sign == 'x')
		fprintf(p->f,
			"<path class=\"end\" d=\"M%.1f %.1fl8 8m0 -8l-8 8\"/>",
			x - 4, y - 4);
	else
		fprintf(p->f,
			"<path class=\"change\" d=\"M%.1f %.1fl5 5l-5 5l-5 "
			"-5z\"/>",
			x, y - 5);
	fputs("</g>\n", p->f);
}

/* ---- the legend ---- */

static const char *sign_label(char sign)
{
	return sign == '^'   ? "VM in userland"
	       : sign == 'x' ? "VM ended"
			     : "budget changed";
}

struct legend {
	FILE *f; /* NULL: only measure */
	double x, y, left, right;
};

/* Where an entry of that text goes; about 6.6 px a character. */
static void legend_place(struct legend *l, const char *text)
{
	double w = 24 + 6.6 * (double)strlen(text) + 14;

	if (l->x > l->left && l->x + w > l->right) {
		l->x = l->left;
		l->y += 20;
	}
	if (l->f) {
		fprintf(l->f, "<text class=\"ink\" x=\"%.1f\" y=\"%.1f\">",
			l->x + 20, l->y + 4);
		svg_escape(l->f, text);
		fputs("</text>", l->f);
	}
}

static void legend_step(struct legend *l, const char *text)
{
	l->x += 24 + 6.6 * (double)strlen(text) + 14;
}

static void legend_marks(struct legend *l, const struct svg_chart *c)
{
	static const char signs[] = "^x=";

	for (const char *s = signs; *s; s++) {
		size_t i;

		for (i = 0; i < c->n_marks && c->marks[i].sign != *s; i++)
			;
		if (i == c->n_marks)
			continue;
		legend_place(l, sign_label(*s));
		if (l->f && *s == '^')
			fprintf(l->f,
				"<path class=\"up\" d=\"M%.1f %.1fl5 "
				"9h-10z\"/>\n",
				l->x + 8, l->y - 5);
		else if (l->f && *s == 'x')
			fprintf(l->f,
				"<path class=\"end\" d=\"M%.1f %.1fl8 8m0 "
				"-8l-8 8\"/>\n",
				l->x + 4, l->y - 4);
		else if (l->f)
			fprintf(l->f,
				"<path class=\"change\" d=\"M%.1f %.1fl5 5l-5 "
				"5l-5 -5z\"/>\n",
				l->x + 8, l->y - 5);
		legend_step(l, sign_label(*s));
	}
}

/* Lines first, then areas from the top down, as they lie. Returns its lowest
 * line. */
static double write_legend(FILE *f, const struct svg_chart *c, double left,
			   double y)
{
	struct legend l = {f, left, y, left, c->width};

	for (size_t i = 0; i < c->n_lines; i++) {
		const struct svg_series *s = &c->lines[i];

		legend_place(&l, s->label);
		if (f)
			fprintf(f,
				"<path class=\"line s-%s%s\" d=\"M%.1f "
				"%.1fh16\"/>\n",
				s->colour, dashed(s) ? " dash" : "", l.x, l.y);
		legend_step(&l, s->label);
	}
	for (size_t i = c->n_areas; i-- > 0;) {
		const struct svg_series *s = &c->areas[i];

		legend_place(&l, s->label);
		if (f)
			fprintf(f,
				"<rect class=\"f-%s\" x=\"%.1f\" y=\"%.1f\" "
				"width=\"14\" height=\"12\" rx=\"2\"/>\n",
				s->colour, l.x, l.y - 6);
		legend_step(&l, s->label);
	}
	legend_marks(&l, c);
	return l.y;
}

/* ---- all of it ---- */

void svg_chart(FILE *f, const struct svg_chart *c)
{
	struct plot p = {.f = f, .c = c};
	double y = c->alone ? 44 : 12;
	double legend = c->small ? 0 : write_legend(NULL, c, 8, y) + 14;

	p.left = c->small ? 58 : 72;
	p.right = c->width - 14;
	p.top = c->small ? 8 : legend + 16;
	p.bottom = c->height - 26;
	p.max = highest(c);
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f "
		"%.0f\" role=\"img\"",
		c->width, c->height);
	if (c->alone)
		fprintf(f, " width=\"%.0f\" height=\"%.0f\"", c->width,
			c->height);
	fputs("><title>", f);
	svg_escape(f, c->title);
	fputs("</title>\n", f);
	if (c->alone) {
		fputs("<style>", f);
		svg_style(f);
		fprintf(f,
			"</style><rect class=\"paper\" width=\"%.0f\" "
			"height=\"%.0f\"/><text class=\"ink\" x=\"8\" y=\"22\" "
			"font-size=\"15\" font-weight=\"600\">",
			c->width, c->height);
		svg_escape(f, c->title);
		fputs("</text>\n", f);
	}
	if (!c->small)
		write_legend(f, c, 8, y);
	write_grid(&p);
	for (size_t i = 0; i < c->n_areas; i++)
		write_area(&p, i);
	fprintf(f, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>\n", p.left,
		p.bottom, p.right);
	for (size_t i = 0; i < c->n_marks; i++)
		write_mark(&p, &c->marks[i]);
	for (size_t i = 0; i < c->n_lines; i++)
		write_line(&p, &c->lines[i]);
	fputs("</svg>\n", f);
}
