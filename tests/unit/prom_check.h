/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_TESTS_UNIT_PROM_CHECK_H
#define SARDINE_TESTS_UNIT_PROM_CHECK_H
/*
 * A strict reader of Prometheus' text format 0.0.4: what a scraper would trip
 * over, and besides what well-made metrics do (HELP and TYPE for each family
 * before its first line, families in one piece, no series twice, counters end
 * in _total and nothing else does, base units).
 */
#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PC_FAMILIES 256
#define PC_SERIES   65536

struct prom_check {
	struct {
		char name[128], type[16];
		bool help;
		bool closed; /* lines of another family came after it */
		unsigned lines;
	} fam[PC_FAMILIES];
	unsigned n_fam, n_series;
	int open; /* family whose lines these are, or -1 */
	char *series[PC_SERIES];
	char why[256];
	unsigned line;
};

static inline bool pc_bad(struct prom_check *c, const char *why)
{
	snprintf(c->why, sizeof(c->why), "line %u: %s", c->line, why);
	return false;
}

static inline size_t pc_name(const char *s, bool colon)
{
	size_t n = 0;

	while (isalpha((unsigned char)s[n]) || s[n] == '_' ||
	       (colon && s[n] == ':') || (n && isdigit((unsigned char)s[n])))
		n++;
	return n;
}

static inline int pc_family(struct prom_check *c, const char *s, size_t n,
			    bool make)
{
	for (unsigned i = 0; i < c->n_fam; i++)
		if (strlen(c->fam[i].name) == n &&
		    !strncmp(c->fam[i].name, s, n))
			return (int)i;
	if (!make || c->n_fam == PC_FAMILIES || n > 127)
		return -1;
	snprintf(c->fam[c->n_fam].name, 128, "%.*s", (int)n, s);
	return (int)c->n_fam++;
}

static inline bool pc_ends(const char *s, const char *end)
{
	size_t n = strlen(s), e = strlen(end);

	return n > e && !strcmp(s + n - e, end);
}

/* Lines of one family at a time, and none comes back. */
static inline bool pc_enter(struct prom_check *c, int f)
{
	if (c->open == f)
		return true;
	if (c->open >= 0)
		c->fam[c->open].closed = true;
	c->open = f;
	return c->fam[f].closed ? pc_bad(c, "the family is in two pieces")
				: true;
}

static inline bool pc_comment(struct prom_check *c, const char *s)
{
	static const char *const units[] = {
		"_ms",	     "_us",	  "_ns",      "_mib",
		"_ms_total", "_us_total", "_ns_total"};
	bool help = !strncmp(s, "# HELP ", 7), type = !strncmp(s, "# TYPE ", 7);
	size_t n;
	int f;

	if (!help && !type)
		return s[1] == ' ' ? true : pc_bad(c, "odd comment");
	s += 7;
	n = pc_name(s, true);
	if (!n || s[n] != ' ')
		return pc_bad(c, "no metric name in HELP or TYPE");
	f = pc_family(c, s, n, true);
	if (f < 0)
		return pc_bad(c, "too many families");
	if (!pc_enter(c, f))
		return false;
	if (c->fam[f].lines)
		return pc_bad(c, "HELP or TYPE after the first sample");
	s += n + 1;
	if (help) {
		if (c->fam[f].help)
			return pc_bad(c, "HELP twice");
		for (const char *p = s; *p; p++)
			if (*p == '\\' && *++p != 'n' && *p != '\\')
				return pc_bad(c, "bad escape in HELP");
		c->fam[f].help = true;
		return *s ? true : pc_bad(c, "empty HELP");
	}
	if (c->fam[f].type[0])
		return pc_bad(c, "TYPE twice");
	if (strcmp(s, "counter") && strcmp(s, "gauge"))
		return pc_bad(c, "a TYPE that Sardine has none of");
	snprintf(c->fam[f].type, sizeof(c->fam[f].type), "%s", s);
	if (!strcmp(s, "counter") != pc_ends(c->fam[f].name, "_total"))
		return pc_bad(c, "_total is for counters and for all of them");
	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (pc_ends(c->fam[f].name, units[i]))
			return pc_bad(c, "not a base unit");
	return true;
}

/* {a="b",c="d"}: its end, or NULL. */
static inline const char *pc_labels(struct prom_check *c, const char *s)
{
	do {
		size_t n = pc_name(++s, false);

		if (!n || !strncmp(s, "__", 2))
			return pc_bad(c, "bad label name"), NULL;
		s += n;
		if (s[0] != '=' || s[1] != '"')
			return pc_bad(c, "label without =\""), NULL;
		for (s += 2; *s && *s != '"'; s++)
			if (*s == '\\' && *++s != 'n' && *s != '\\' &&
			    *s != '"')
				return pc_bad(c, "bad escape in a label"), NULL;
		if (*s++ != '"')
			return pc_bad(c, "label value without an end"), NULL;
	} while (*s == ',');
	if (*s != '}')
		return pc_bad(c, "labels without an end"), NULL;
	return s + 1;
}

static inline bool pc_sample(struct prom_check *c, const char *s)
{
	size_t n = pc_name(s, true);
	const char *p = s + n;
	char *end;
	double v;
	int f;

	if (!n)
		return pc_bad(c, "no metric name");
	f = pc_family(c, s, n, false);
	if (f < 0 || !c->fam[f].help || !c->fam[f].type[0])
		return pc_bad(c, "a sample without HELP and TYPE before it");
	if (!pc_enter(c, f))
		return false;
	if (*p == '{')
		p = pc_labels(c, p);
	if (!p)
		return false;
	for (unsigned i = 0; i < c->n_series; i++)
		if (strlen(c->series[i]) == (size_t)(p - s) &&
		    !strncmp(c->series[i], s, (size_t)(p - s)))
			return pc_bad(c, "the series is there twice");
	if (c->n_series == PC_SERIES)
		return pc_bad(c, "too many series");
	c->series[c->n_series++] = strndup(s, (size_t)(p - s));
	if (*p != ' ' || isspace((unsigned char)p[1]))
		return pc_bad(c, "one blank belongs before the value");
	v = strtod(p + 1, &end);
	if (end == p + 1 || *end)
		return pc_bad(c, "no number, or something after it");
	if (!strcmp(c->fam[f].type, "counter") && !(v >= 0))
		return pc_bad(c, "a counter below 0");
	c->fam[f].lines++;
	return true;
}

/* Is text (NUL-terminated) all right? If not, why says what and where. */
static inline bool prom_check(const char *text, char *why, size_t len)
{
	struct prom_check *c = calloc(1, sizeof(*c));
	char *copy = strdup(text), *line = copy, *nl;
	bool good = true;

	c->open = -1;
	while (good && *line) {
		c->line++;
		nl = strchr(line, '\n');
		if (!nl) {
			good = pc_bad(c, "the last line has no end");
			break;
		}
		*nl = '\0';
		for (char *p = line; *p && good; p++)
			if ((unsigned char)*p < ' ' || *p == 0x7f)
				good = pc_bad(c, "a control character");
		if (!good)
			break;
		good = *line == '#' ? pc_comment(c, line)
		       : *line	    ? pc_sample(c, line)
				    : pc_bad(c, "an empty line");
		line = nl + 1;
	}
	for (unsigned i = 0; good && i < c->n_fam; i++)
		if (!c->fam[i].lines)
			good = pc_bad(c, "a family without samples");
	if (good && !c->n_fam)
		good = pc_bad(c, "nothing at all");
	snprintf(why, len, "%s", c->why);
	for (unsigned i = 0; i < c->n_series; i++)
		free(c->series[i]);
	free(copy);
	free(c);
	return good;
}
#endif
