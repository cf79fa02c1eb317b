/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/cli/report_fields.h"

void report_init(struct report *r)
{
	memset(r, 0, sizeof(*r));
	report_section_clear(&report_host, r);
	report_section_clear(&report_sharing, r);
}

static json_t *field_json(const struct report_field *f, const void *base)
{
	const void *p = (const char *)base + f->offset;

	switch (f->kind) {
	case REPORT_U64:
	case REPORT_I64:
		return json_integer((json_int_t) * (const int64_t *)p);
	case REPORT_BOOL:
		return json_boolean(*(const bool *)p);
	case REPORT_STR:
		return json_string(p);
	}
	return NULL;
}

static json_t *pack_fields(const struct report_section *s, const void *base)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < s->n; i++) {
		const struct report_field *f = &s->fields[i];

		if (f->kind == REPORT_U64 &&
		    report_field_value(f, base) == REPORT_ABSENT)
			continue;
		if (json_object_set_new(o, f->name, field_json(f, base))) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

static json_t *counts_json(const struct report_count *c, size_t n)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < n; i++)
		json_object_set_new(o, c[i].name,
				    json_integer((json_int_t)c[i].count));
	return o;
}

json_t *report_to_json(const struct report *r)
{
	json_t *vms = json_array(), *sharing, *root;

	for (size_t i = 0; vms && i < r->n_vms; i++)
		json_array_append_new(
			vms, pack_fields(&report_vm_section, &r->vms[i]));
	sharing = pack_fields(&report_sharing, r);
	if (sharing)
		json_object_set_new(sharing, "refused",
				    counts_json(r->refused, r->n_refused));
	root = json_pack("{s:o,s:o,s:o,s:o}", "host",
			 pack_fields(&report_host, r), "vms", vms, "sharing",
			 sharing, "reclaim", counts_json(r->evict, r->n_evict));
	return root;
}

/* ---- reading back ---- */

/* Printable ASCII: a name must not be able to move the cursor. */
static void copy_clean(char *to, size_t size, const char *from)
{
	size_t i;

	for (i = 0; i + 1 < size && from[i]; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[i] = '\0';
}

static int read_field(const struct report_field *f, const json_t *v, void *base)
{
	void *p = (char *)base + f->offset;

	switch (f->kind) {
	case REPORT_U64:
	case REPORT_I64:
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return -EINVAL;
		*(int64_t *)p = json_integer_value(v);
		return 0;
	case REPORT_BOOL:
		if (!json_is_boolean(v))
			return -EINVAL;
		*(bool *)p = json_is_true(v);
		return 0;
	case REPORT_STR:
		if (!json_is_string(v))
			return -EINVAL;
		copy_clean(p, f->size, json_string_value(v));
		return 0;
	}
	return -EINVAL;
}

static int read_fields(const struct report_section *s, const json_t *o,
		       void *base)
{
	if (!json_is_object(o))
		return -EINVAL;
	for (size_t i = 0; i < s->n; i++) {
		const struct report_field *f = &s->fields[i];
		const json_t *v = json_object_get(o, f->name);

		if (!v && f->optional)
			continue;
		if (!v || read_field(f, v, base))
			return -EINVAL;
	}
	return 0;
}

static int read_vms(const json_t *list, struct report *r)
{
	size_t n = json_array_size(list);

	if (!json_is_array(list) || n > REPORT_MAX_VMS)
		return -EINVAL;
	r->vms = calloc(n + 1, sizeof(*r->vms));
	if (!r->vms)
		return -ENOMEM;
	for (; r->n_vms < n; r->n_vms++) {
		struct report_vm *v = &r->vms[r->n_vms];

		report_section_clear(&report_vm_section, v);
		if (read_fields(&report_vm_section,
				json_array_get(list, r->n_vms), v))
			return -EINVAL;
	}
	return 0;
}

/* Into at most REPORT_REFUSED counts. */
static int read_counts(json_t *o, struct report_count *c, size_t *n)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return -EINVAL;
	json_object_foreach(o, key, v)
	{
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return -EINVAL;
		if (*n == REPORT_REFUSED)
			break;
		copy_clean(c[*n].name, REPORT_NAME, key);
		c[(*n)++].count = (uint64_t)json_integer_value(v);
	}
	return 0;
}

int report_from_json(const json_t *o, struct report *r)
{
	const json_t *sharing = json_object_get(o, "sharing");
	int e;

	report_init(r);
	e = read_fields(&report_host, json_object_get(o, "host"), r);
	if (!e)
		e = read_vms(json_object_get(o, "vms"), r);
	if (!e)
		e = read_fields(&report_sharing, sharing, r);
	if (!e)
		e = read_counts(json_object_get(sharing, "refused"), r->refused,
				&r->n_refused);
	if (!e && json_object_get(o, "reclaim"))
		e = read_counts(json_object_get(o, "reclaim"), r->evict,
				&r->n_evict);
	if (e)
		report_free(r);
	return e;
}

void report_free(struct report *r)
{
	free(r->vms);
	memset(r, 0, sizeof(*r));
}

void report_total(const struct report *r, struct report_vm *t)
{
	const struct report_section *s = &report_vm_section;

	report_section_clear(s, t);
	for (size_t k = 0; k < s->n; k++) {
		const struct report_field *f = &s->fields[k];
		uint64_t *sum = (uint64_t *)((char *)t + f->offset);

		if (f->kind != REPORT_U64 || !report_field_unit(f, "_bytes"))
			continue;
		for (size_t i = 0; i < r->n_vms; i++) {
			uint64_t v = report_field_value(f, &r->vms[i]);

			if (v != REPORT_ABSENT)
				*sum = (*sum == REPORT_ABSENT ? 0 : *sum) + v;
		}
	}
}
