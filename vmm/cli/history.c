/* SPDX-License-Identifier: Apache-2.0 */
/* A record was written by somebody else: shapes are checked, strings made
 * printable (report.c), counts bounded, and time never runs backwards. */
#include "vmm/cli/history.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli/options.h"

#define TIME_MAX 1e11 /* seconds since 1970; beyond is no time of ours */

/* ---- adding ---- */

static void drop_half(struct history *h)
{
	size_t n = 0;

	h->vm_samples = 0;
	for (size_t i = 0; i < h->n; i++) {
		struct history_sample *a = &h->s[i], *b = a + 1;

		/* Of two the one with more in use; the ends stay. */
		if (i && i + 2 < h->n) {
			if (b->r.used_bytes > a->r.used_bytes) {
				struct history_sample t = *a;

				*a = *b;
				*b = t;
			}
			report_free(&b->r);
			i++;
		}
		h->vm_samples += a->r.n_vms;
		h->s[n++] = *a;
	}
	h->n = n;
}

int history_add(struct history *h, double time, struct report *r)
{
	struct history_sample *more;

	if (h->n > 4 && (h->n >= HISTORY_SAMPLES ||
			 h->vm_samples + r->n_vms > HISTORY_VM_SAMPLES))
		drop_half(h);
	if (h->n == h->room) {
		size_t room = h->room ? 2 * h->room : 64;

		more = realloc(h->s, room * sizeof(*more));
		if (!more) {
			report_free(r);
			return -ENOMEM;
		}
		h->s = more;
		h->room = room;
	}
	if (h->n && time < h->s[h->n - 1].time)
		time = h->s[h->n - 1].time;
	h->s[h->n].time = time;
	h->s[h->n].r = *r;
	h->vm_samples += r->n_vms;
	h->n++;
	memset(r, 0, sizeof(*r));
	return 0;
}

int history_add_event(struct history *h, double time, const char *text)
{
	struct history_event *e;
	size_t i;

	if (h->n_events >= HISTORY_EVENTS)
		return 0;
	e = realloc(h->events, (h->n_events + 1) * sizeof(*e));
	if (!e)
		return -ENOMEM;
	h->events = e;
	e += h->n_events++;
	e->time = time;
	for (i = 0; i + 1 < sizeof(e->text) && text[i]; i++)
		e->text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	e->text[i] = '\0';
	return 0;
}

void history_free(struct history *h)
{
	for (size_t i = 0; i < h->n; i++)
		report_free(&h->s[i].r);
	free(h->s);
	free(h->events);
	memset(h, 0, sizeof(*h));
}

/* ---- reading ---- */

static int add_line(struct history *h, const char *line, size_t len)
{
	json_error_t je;
	json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	const json_t *t = json_object_get(o, "time");
	const json_t *event = json_object_get(o, "event");
	double time = json_number_value(t);
	struct report r;
	int e = -EINVAL;

	if (json_is_number(t) && time >= 0 && time < TIME_MAX) {
		if (json_is_string(event)) {
			e = history_add_event(h, time,
					      json_string_value(event));
		} else {
			e = report_from_json(o, &r);
			if (!e)
				e = history_add(h, time, &r);
		}
	}
	json_decref(o);
	return e;
}

static int read_lines(FILE *f, const char *path, struct history *h, char *err,
		      size_t errlen)
{
	char *line = NULL;
	size_t room = 0, bad_line = 0, number = 0;
	ssize_t n;
	int e = 0;

	while (!e && (n = getline(&line, &room, f)) > 0) {
		number++;
		/* A bad line is forgiven if nothing comes after it. */
		if (bad_line)
			break;
		e = add_line(h, line, (size_t)n);
		if (e == -EINVAL) {
			bad_line = number;
			e = 0;
			continue;
		}
	}
	if (!e && ferror(f))
		e = -EIO;
	free(line);
	if (e)
		snprintf(err, errlen, "%s: %s", path, strerror(-e));
	if (!e && bad_line && (number > bad_line || number == 1)) {
		e = -EINVAL;
		snprintf(err, errlen,
			 "%s:%zu: no sample; give a file that `sardine pack "
			 "--record` wrote",
			 path, bad_line);
	}
	return e;
}

static const char *why_not(int fd)
{
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? "no such file; check the path"
				       : strerror(errno);
	if (fstat(fd, &st))
		return strerror(errno);
	if (S_ISDIR(st.st_mode))
		return "is a directory; give the record itself";
	if (!S_ISREG(st.st_mode))
		return "is not a regular file; give a record";
	if ((uint64_t)st.st_size > (256ull << 20))
		return "larger than any record; give one that `sardine pack "
		       "--record` wrote";
	return NULL;
}

int history_load(const char *path, struct history *h, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), e;
	const char *why = why_not(fd);
	FILE *f = why ? NULL : fdopen(fd, "r");

	memset(h, 0, sizeof(*h));
	if (!f) {
		snprintf(err, errlen, "%s: %s", path,
			 why ? why : "out of memory");
		if (fd >= 0)
			close(fd);
		return -EIO;
	}
	e = read_lines(f, path, h, err, errlen);
	fclose(f);
	if (!e && !h->n) {
		snprintf(err, errlen,
			 "%s: holds no sample; let the run last a second",
			 path);
		e = -ENODATA;
	}
	if (e)
		history_free(h);
	return e;
}

/* ---- marks ---- */

struct marks {
	struct history_mark *m;
	size_t n;
};

static bool ended(const struct report_vm *v)
{
	return !v->pid;
}

static struct history_mark *new_mark(struct marks *l, enum history_kind kind,
				     double time)
{
	struct history_mark *m = realloc(l->m, (l->n + 1) * sizeof(*m));

	if (!m)
		return NULL;
	l->m = m;
	m += l->n++;
	memset(m, 0, sizeof(*m));
	m->kind = kind;
	m->time = time;
	return m;
}

static void add_name(struct history_mark *m, const struct report_vm *v)
{
	size_t n = strlen(m->text);

	m->vms++;
	if (m->vms > 6) {
		if (m->vms == 7)
			snprintf(m->text + n, sizeof(m->text) - n, ", ...");
		return;
	}
	snprintf(m->text + n, sizeof(m->text) - n, "%s%s%s%s", n ? ", " : "",
		 v->name, m->kind == HISTORY_END ? " " : "",
		 m->kind == HISTORY_END ? v->state : "");
}

/* VMs in which something is so now and was not before. */
static void mark_vms(struct marks *l, enum history_kind kind,
		     const struct report *old, const struct history_sample *s)
{
	struct history_mark *m = NULL;

	/* What was so before the first sample: since when, nobody knows. */
	for (size_t i = 0; old && i < s->r.n_vms; i++) {
		const struct report_vm *v = &s->r.vms[i];
		const struct report_vm *was =
			i < old->n_vms ? &old->vms[i] : NULL;
		bool now = kind == HISTORY_UP ? v->boot_ms != 0 : ended(v);
		bool then = !was		 ? false
			    : kind == HISTORY_UP ? was->boot_ms != 0
						 : ended(was);

		if (!now || then)
			continue;
		if (!m)
			m = new_mark(l, kind, s->time);
		if (m)
			add_name(m, v);
	}
}

static void mark_budget(struct marks *l, const struct report *old,
			const struct history_sample *s)
{
	struct history_mark *m;
	char a[32], b[32];

	if (!old || old->budget_bytes == s->r.budget_bytes)
		return;
	m = new_mark(l, HISTORY_BUDGET, s->time);
	if (m)
		snprintf(m->text, sizeof(m->text), "budget from %s to %s",
			 size_format(old->budget_bytes, a, sizeof(a)),
			 size_format(s->r.budget_bytes, b, sizeof(b)));
}

struct history_mark *history_marks(const struct history *h, size_t *n)
{
	struct marks l = {NULL, 0};

	for (size_t i = 0; i < h->n; i++) {
		const struct report *old = i ? &h->s[i - 1].r : NULL;

		mark_vms(&l, HISTORY_UP, old, &h->s[i]);
		mark_vms(&l, HISTORY_END, old, &h->s[i]);
		mark_budget(&l, old, &h->s[i]);
	}
	*n = l.n;
	return l.m;
}

/* ---- picking ---- */

size_t history_pick(const struct history *h, size_t max,
		    double (*value)(const struct report *r, const void *ctx),
		    const void *ctx, size_t *index)
{
	double t0, span;
	size_t n = 0, slots = max > 2 ? max - 2 : 1, slot = 0;
	double best = -HUGE_VAL;
	size_t best_at = 0;

	if (h->n <= max) {
		for (size_t i = 0; i < h->n; i++)
			index[i] = i;
		return h->n;
	}
	t0 = h->s[0].time;
	span = h->s[h->n - 1].time - t0;
	index[n++] = 0;
	for (size_t i = 1; i + 1 < h->n; i++) {
		/* Without a span in time, by number. */
		double x = span > 0 ? (h->s[i].time - t0) / span
				    : (double)i / (double)h->n;
		size_t k = (size_t)(x * (double)slots);
		double v = value(&h->s[i].r, ctx);

		k = k >= slots ? slots - 1 : k;
		if (best_at && k != slot) {
			index[n++] = best_at;
			best_at = 0;
		}
		if (!best_at || v > best) {
			best = v;
			best_at = i;
		}
		slot = k;
	}
	if (best_at && n < max - 1)
		index[n++] = best_at;
	index[n++] = h->n - 1;
	return n;
}
