/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_SVG_H
#define SARDINE_VMM_CLI_SVG_H
/*
 * Charts over time as SVG: stacked areas, lines, marks, axes with units, a
 * legend. Colours are CSS classes; svg_style writes what they mean, in light
 * and dark. Nothing here needs a script, and nothing is fetched.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define SVG_SERIES 10

/* As text of HTML and XML, in an attribute or outside: what has a meaning there
 * is escaped, and what is no printable ASCII becomes '?'. */
void svg_escape(FILE *f, const char *text);

struct svg_series {
	const char *label;
	const char *colour; /* class: "private", "pool", ... (svg_style) */
	const double *v;    /* one for each time */
	bool steps;	    /* a line: keeps its value up to the next time */
};
struct svg_mark {
	double time;
	char sign;	  /* '^' up, 'x' end, '=' change */
	const char *text; /* shown when pointed at */
};
struct svg_chart {
	const char *title; /* for who cannot see it */
	double width, height;
	const double *time; /* seconds, never falling */
	size_t n;	    /* points, 1 or more */
	double t0, t1;	    /* what the axis spans; t0 is its zero */
	double top;	    /* of the axis at least, 0: as the data want */
	struct svg_series areas[SVG_SERIES], lines[SVG_SERIES];
	size_t n_areas, n_lines;
	const struct svg_mark *marks;
	size_t n_marks;
	bool bytes; /* what is counted; else plain numbers */
	bool small; /* few ticks, no legend */
	bool alone; /* a file of its own: style and background inside */
};
/* The whole <svg> element. */
void svg_chart(FILE *f, const struct svg_chart *c);
/* Rules for the classes, without the <style> element. */
void svg_style(FILE *f);

/* Exposed for tests. The distance of ticks so that `top` has about `want` of
 * them: 1, 2 or 5 times a power of 10, or a power of 2 for bytes. */
double svg_step(double top, unsigned want, bool bytes);
/* "1.5 GiB", "30", of a value on an axis whose ticks are `step` apart. */
const char *svg_tick(double v, double top, bool bytes, char *buf, size_t len);
#endif
