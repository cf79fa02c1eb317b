/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"

/* ---- the fields, once ---- */

enum field_kind { F_U64, F_I64, F_BOOL, F_STR };

struct field {
	const char *name;
	enum field_kind kind;
	size_t offset, size; /* size: of a string's array */
	bool optional;
};
#define U64(st, f)                                                             \
	{                                                                      \
#f, F_U64, offsetof(struct st, f), 0, false                    \
	}
#define OPTIONAL(st, kind, f)                                                  \
	{                                                                      \
#f, kind, offsetof(struct st, f), sizeof(((struct st *)0)->f), \
			true                                                   \
	}
#define STR(st, n, f)                                                          \
	{                                                                      \
		n, F_STR, offsetof(struct st, f), sizeof(((struct st *)0)->f), \
			false                                                  \
	}

static const struct field host_fields[] = {
	U64(report, budget_bytes),
	U64(report, used_bytes),
	U64(report, pool_bytes),
	STR(report, "state", host_state),
	OPTIONAL(report, F_U64, available_bytes),
	OPTIONAL(report, F_U64, seconds),
	OPTIONAL(report, F_STR, audit),
};
static const struct field vm_fields[] = {
	STR(report_vm, "name", name),
	{"pid", F_I64, offsetof(struct report_vm, pid), 0, false},
	STR(report_vm, "state", state),
	U64(report_vm, configured_bytes),
	U64(report_vm, private_bytes),
	U64(report_vm, shared_bytes),
	U64(report_vm, zero_bytes),
	U64(report_vm, overhead_bytes),
	U64(report_vm, boot_ms),
};
static const struct field sharing_fields[] = {
	U64(report, saved_bytes),
	U64(report, oracle_bytes),
	U64(report, merged_pages),
	U64(report, broken_pages),
	U64(report, scanned_pages),
	OPTIONAL(report, F_BOOL, oracle_valid),
	OPTIONAL(report, F_U64, zero_merged_pages),
};

static json_t *field_json(const struct field *f, const void *base)
{
	const void *p = (const char *)base + f->offset;

	switch (f->kind) {
	case F_U64:
	case F_I64:
		return json_integer((json_int_t) * (const int64_t *)p);
	case F_BOOL:
		return json_boolean(*(const bool *)p);
	case F_STR:
		return json_string(p);
	}
	return NULL;
}

static json_t *pack_fields(const struct field *f, size_t n, const void *base)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < n; i++) {
		if (json_object_set_new(o, f[i].name,
					field_json(&f[i], base))) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

static json_t *refused_json(const struct report *r)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < r->n_refused; i++)
		json_object_set_new(
			o, r->refused[i].name,
			json_integer((json_int_t)r->refused[i].count));
	return o;
}

json_t *report_to_json(const struct report *r)
{
	json_t *vms = json_array(), *sharing, *root;

	for (size_t i = 0; vms && i < r->n_vms; i++)
		json_array_append_new(vms, pack_fields(vm_fields,
						       ARRAY_SIZE(vm_fields),
						       &r->vms[i]));
	sharing = pack_fields(sharing_fields, ARRAY_SIZE(sharing_fields), r);
	if (sharing)
		json_object_set_new(sharing, "refused", refused_json(r));
	root = json_pack("{s:o,s:o,s:o}", "host",
			 pack_fields(host_fields, ARRAY_SIZE(host_fields), r),
			 "vms", vms, "sharing", sharing);
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

static int read_field(const struct field *f, const json_t *v, void *base)
{
	void *p = (char *)base + f->offset;

	switch (f->kind) {
	case F_U64:
	case F_I64:
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return -EINVAL;
		*(int64_t *)p = json_integer_value(v);
		return 0;
	case F_BOOL:
		if (!json_is_boolean(v))
			return -EINVAL;
		*(bool *)p = json_is_true(v);
		return 0;
	case F_STR:
		if (!json_is_string(v))
			return -EINVAL;
		copy_clean(p, f->size, json_string_value(v));
		return 0;
	}
	return -EINVAL;
}

static int read_fields(const struct field *f, size_t n, const json_t *o,
		       void *base)
{
	if (!json_is_object(o))
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_object_get(o, f[i].name);

		if (!v && f[i].optional)
			continue;
		if (!v || read_field(&f[i], v, base))
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
	for (; r->n_vms < n; r->n_vms++)
		if (read_fields(vm_fields, ARRAY_SIZE(vm_fields),
				json_array_get(list, r->n_vms),
				&r->vms[r->n_vms]))
			return -EINVAL;
	return 0;
}

static int read_refused(json_t *o, struct report *r)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return -EINVAL;
	json_object_foreach(o, key, v)
	{
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return -EINVAL;
		if (r->n_refused == REPORT_REFUSED)
			break;
		copy_clean(r->refused[r->n_refused].name, REPORT_NAME, key);
		r->refused[r->n_refused++].count =
			(uint64_t)json_integer_value(v);
	}
	return 0;
}

int report_from_json(const json_t *o, struct report *r)
{
	const json_t *sharing = json_object_get(o, "sharing");
	int e;

	memset(r, 0, sizeof(*r));
	e = read_fields(host_fields, ARRAY_SIZE(host_fields),
			json_object_get(o, "host"), r);
	if (!e)
		e = read_vms(json_object_get(o, "vms"), r);
	if (!e)
		e = read_fields(sharing_fields, ARRAY_SIZE(sharing_fields),
				sharing, r);
	if (!e)
		e = read_refused(json_object_get(sharing, "refused"), r);
	if (e)
		report_free(r);
	return e;
}

void report_free(struct report *r)
{
	free(r->vms);
	memset(r, 0, sizeof(*r));
}

/* ---- for people ---- */

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static void sum(const struct report *r, struct report_vm *t)
{
	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < r->n_vms; i++) {
		t->configured_bytes += r->vms[i].configured_bytes;
		t->private_bytes += r->vms[i].private_bytes;
		t->shared_bytes += r->vms[i].shared_bytes;
		t->zero_bytes += r->vms[i].zero_bytes;
		t->overhead_bytes += r->vms[i].overhead_bytes;
	}
}

static void print_row(FILE *f, const char *name, const char *state,
		      const struct report_vm *v, const char *eol)
{
	fprintf(f, "%-12s %-9s %10.1f %9.1f %9.1f %9.1f %9.1f", name, state,
		mib(v->configured_bytes), mib(v->private_bytes),
		mib(v->shared_bytes), mib(v->zero_bytes),
		mib(v->overhead_bytes));
	if (v->boot_ms)
		fprintf(f, " %8" PRIu64, v->boot_ms);
	fputs(eol, f);
}

static void print_sharing(const struct report *r, FILE *f, const char *eol)
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
		"%spages: merged %" PRIu64 ", zero %" PRIu64 ", broken %" PRIu64
		", scanned %" PRIu64,
		eol, r->merged_pages, r->zero_merged_pages, r->broken_pages,
		r->scanned_pages);
	fprintf(f, "; refused:");
	for (size_t i = 0; i < r->n_refused; i++) {
		if (!r->refused[i].count)
			continue;
		fprintf(f, " %s %" PRIu64, r->refused[i].name,
			r->refused[i].count);
		any = true;
	}
	fprintf(f, "%s%s", any ? "" : " none", eol);
}

unsigned report_print(const struct report *r, FILE *f, size_t max_vms,
		      const char *eol)
{
	size_t n = max_vms && r->n_vms > max_vms ? max_vms : r->n_vms;
	unsigned lines = 6;
	struct report_vm t;

	sum(r, &t);
	fprintf(f, "%-12s %-9s %10s %9s %9s %9s %9s %8s%s", "NAME", "STATE",
		"CONFIGURED", "PRIVATE", "SHARED", "ZERO", "OVERHEAD",
		"BOOT ms", eol);
	for (size_t i = 0; i < n; i++)
		print_row(f, r->vms[i].name, r->vms[i].state, &r->vms[i], eol);
	if (n < r->n_vms) {
		fprintf(f, "... and %zu more%s", r->n_vms - n, eol);
		lines++;
	}
	print_row(f, "total", "MiB", &t, eol);
	print_sharing(r, f, eol);
	fprintf(f,
		"host: using %.1f MiB (private + pool %.1f + overhead) of a "
		"budget of %.1f: %s%s",
		mib(r->used_bytes), mib(r->pool_bytes), mib(r->budget_bytes),
		r->host_state, eol);
	if (r->audit[0])
		fprintf(f, "audit %s%s", r->audit, eol);
	else
		lines--;
	return lines + (unsigned)n;
}

void report_line(const struct report *r, char *buf, size_t len)
{
	size_t running = 0, up = 0;
	struct report_vm t;

	sum(r, &t);
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
