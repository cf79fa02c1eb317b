/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/prom.h"

#include <inttypes.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/cli/report_fields.h"

void prom_write_label(FILE *f, const char *value)
{
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", f);
		else if (*value == '"' || *value == '\\')
			fprintf(f, "\\%c", *value);
		else
			fputc(*value, f);
	}
}

/* ---- a family ---- */

struct family {
	char name[96];
	const struct report_field *field;
	const struct unit *unit; /* of time, or NULL */
	bool told;		 /* HELP and TYPE are written */
};

/* Prometheus knows base units only. */
static const struct unit {
	const char *end;
	uint64_t in_a_second;
	int digits;
} units[] = {
	{"_ms", 1000, 3},
	{"_us", 1000000, 6},
	{"_ns", 1000000000, 9},
};

static const struct unit *time_unit(const struct report_field *f)
{
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (report_field_unit(f, units[i].end))
			return &units[i];
	return NULL;
}

static struct family family(const struct report_section *s,
			    const struct report_field *f)
{
	const char *name = f->metric_name ? f->metric_name : f->name;
	const struct unit *u = f->metric_name ? NULL : time_unit(f);
	struct family fam = {.field = f, .unit = u};
	int n = (int)(strlen(name) - (u ? strlen(u->end) : 0));

	snprintf(fam.name, sizeof(fam.name), "sardine_%s_%.*s%s%s", s->name, n,
		 name, u ? "_seconds" : "",
		 f->metric == METRIC_COUNTER ? "_total" : "");
	return fam;
}

/* Sentences of the tables are plain text: nothing in them needs escaping, but
 * for a backslash, which none has. */
static void tell(FILE *f, const char *name, const char *help, const char *type)
{
	fprintf(f, "# HELP %s %s.\n# TYPE %s %s\n", name, help, name, type);
}

static void write_value(struct family *fam, const char *vm, const void *base,
			FILE *f)
{
	const struct report_field *fl = fam->field;
	bool state = fl->metric == METRIC_STATE;
	uint64_t v = state ? 1 : report_field_value(fl, base);

	if (v == REPORT_ABSENT || (fl->not_yet_zero && !v))
		return;
	if (!fam->told)
		tell(f, fam->name, fl->help,
		     fl->metric == METRIC_COUNTER ? "counter" : "gauge");
	fam->told = true;
	fputs(fam->name, f);
	if (vm || state)
		fputc('{', f);
	if (vm) {
		fputs("vm=\"", f);
		prom_write_label(f, vm);
		fputs(state ? "\"," : "\"", f);
	}
	if (state) {
		fputs("state=\"", f);
		prom_write_label(f, report_field_text(fl, base));
		fputc('"', f);
	}
	if (vm || state)
		fputc('}', f);
	if (fam->unit)
		fprintf(f, " %" PRIu64 ".%0*" PRIu64 "\n",
			v / fam->unit->in_a_second, fam->unit->digits,
			v % fam->unit->in_a_second);
	else
		fprintf(f, " %" PRIu64 "\n", v);
}

static void write_section(const struct report_section *s,
			  const struct report *r, FILE *f)
{
	for (size_t i = 0; i < s->n; i++) {
		struct family fam = family(s, &s->fields[i]);

		if (s->fields[i].metric == METRIC_NONE)
			continue;
		if (s != &report_vm_section) {
			write_value(&fam, NULL, r, f);
			continue;
		}
		/* All of a family stand together. */
		for (size_t k = 0; k < r->n_vms; k++)
			write_value(&fam, r->vms[k].name, &r->vms[k], f);
	}
}

/* Counters that have a name each, as one family with a label. */
static void write_counts(const struct report_count *c, size_t n,
			 const char *name, const char *label, const char *help,
			 FILE *f)
{
	if (n)
		tell(f, name, help, "counter");
	for (size_t i = 0; i < n; i++) {
		fprintf(f, "%s{%s=\"", name, label);
		prom_write_label(f, c[i].name);
		fprintf(f, "\"} %" PRIu64 "\n", c[i].count);
	}
}

void prom_write(const struct report *r, FILE *f)
{
	write_section(&report_host, r, f);
	write_section(&report_vm_section, r, f);
	write_section(&report_sharing, r, f);
	write_counts(r->refused, r->n_refused, "sardine_sharing_refused_total",
		     "reason",
		     "proposals that a monitor did not commit, by reason", f);
	write_counts(r->evict, r->n_evict, "sardine_reclaim_pages_total",
		     "result",
		     "pages that the reclaimers looked at, by what became of "
		     "them",
		     f);
}
