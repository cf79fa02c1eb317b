/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_REPORT_FIELDS_H
#define SARDINE_VMM_CLI_REPORT_FIELDS_H
/*
 * The fields of a sample, each once: its name in JSON, one sentence, what kind
 * of metric it is, and its column in tables. JSON, Prometheus, the tables of
 * `top` and the pages of `report` are all made from this: who adds a figure
 * adds it to struct report, to the table, and to what fills it.
 */
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

enum report_kind { REPORT_U64, REPORT_I64, REPORT_BOOL, REPORT_STR };
enum report_metric {
	METRIC_NONE,	/* not in Prometheus */
	METRIC_GAUGE,	/* goes up and down */
	METRIC_COUNTER, /* only goes up; gets _total */
	METRIC_STATE,	/* a string: 1, with the string as the label "state" */
};

/* What an optional U64 is while nobody has filled it: left out everywhere. */
#define REPORT_ABSENT UINT64_MAX

struct report_field {
	const char *name; /* in JSON; ends in its unit: _bytes, _pages, _ms */
	const char *help; /* a sentence, no full stop */
	const char *metric_name; /* where `name` would not do, or NULL */
	const char *title;	 /* of its column, or NULL: has none */
	unsigned width;		 /* of the column */
	unsigned drop; /* what goes first when there is no room: highest */
	enum report_kind kind;
	enum report_metric metric;
	size_t offset;
	size_t size;	   /* of a string's array */
	bool optional;	   /* may be missing in JSON */
	bool not_yet_zero; /* 0 means that it is not known yet */
};

struct report_section {
	const char *name; /* its object in JSON */
	const struct report_field *fields;
	size_t n;
};
/* host and sharing: of a struct report; vm: of a struct report_vm. */
extern const struct report_section report_host, report_vm_section,
	report_sharing;

/* Of a number (not a string), from its struct; REPORT_ABSENT: nobody knows. */
uint64_t report_field_value(const struct report_field *f, const void *base);
/* Of a string. */
const char *report_field_text(const struct report_field *f, const void *base);
/* NULL: none of that name. */
const struct report_field *report_field_find(const struct report_section *s,
					     const char *name);
/* Does its name end in this unit ("_bytes")? */
bool report_field_unit(const struct report_field *f, const char *unit);
/* All zero, and what is optional absent. */
void report_section_clear(const struct report_section *s, void *base);
#endif
