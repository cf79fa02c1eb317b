/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recording a run.
 *
 * Problem: a line a second for as long as a run takes, in a file that stays
 * small, is whole whenever the process or the machine dies, and does not hold
 * the manager up.
 *
 * Each line is one write to a file opened for appending: a death in the middle
 * tears the last line only, and readers skip that. When there are too many
 * samples or bytes, of each two samples the one with more memory in use is
 * copied into PATH.tmp, which then takes PATH's place: at any moment PATH is
 * the old record or the new one. From then on samples come half as often.
 * Peaks survive thinning, and so do the first and the last sample and all
 * events.
 *
 * Limits: a copy is at most RECORD_BYTES within the page cache (tens of ms,
 * once, then after twice the time, and so on); a disk that is full ends the
 * record, not the run.
 */
#include "vmm/cli/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

struct line {
	uint64_t offset, used;
	uint32_t len;
	bool event;
};

struct record {
	char *path, *tmp;
	int fd; /* -1: given up */
	size_t max_samples;
	uint64_t max_bytes, bytes;
	uint64_t interval_ns, due_ns;
	struct line *lines;
	size_t n, room, samples, events;
};

/* ---- opening ---- */

static const char *unfit(int fd)
{
	static const char start[] = "{\"time\":";
	char buf[sizeof(start) - 1];
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st))
		return strerror(errno);
	if (!S_ISREG(st.st_mode))
		return "is not a regular file";
	if (!st.st_size)
		return NULL;
	n = pread(fd, buf, sizeof(buf), 0);
	if (n != sizeof(buf) || memcmp(buf, start, sizeof(buf)))
		return "is there and no record of a run";
	return NULL;
}

static int open_file(struct record *rec, char *err, size_t errlen)
{
	const char *why = NULL;

	rec->fd = open(rec->path,
		       O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK |
			       O_NOCTTY,
		       0666);
	if (rec->fd < 0)
		why = strerror(errno);
	if (!why)
		why = unfit(rec->fd);
	if (!why && ftruncate(rec->fd, 0))
		why = strerror(errno);
	if (!why)
		return 0;
	snprintf(err, errlen, "--record %s: %s; give another file", rec->path,
		 why);
	return -EIO;
}

int record_open(const char *path, size_t max_samples, uint64_t max_bytes,
		struct record **out, char *err, size_t errlen)
{
	struct record *rec = calloc(1, sizeof(*rec));
	int r = -ENOMEM;

	snprintf(err, errlen, "out of memory");
	if (rec) {
		rec->fd = -1;
		rec->path = strdup(path);
		if (asprintf(&rec->tmp, "%s.tmp", path) < 0)
			rec->tmp = NULL;
		if (rec->path && rec->tmp)
			r = open_file(rec, err, errlen);
	}
	if (r) {
		record_close(rec);
		return r;
	}
	rec->max_samples = max_samples ? max_samples : RECORD_SAMPLES;
	rec->max_bytes = max_bytes ? max_bytes : RECORD_BYTES;
	rec->interval_ns = NS_PER_S;
	*out = rec;
	return 0;
}

uint64_t record_due_ns(const struct record *rec)
{
	return rec->fd < 0 ? UINT64_MAX : rec->due_ns;
}

void record_close(struct record *rec)
{
	if (!rec)
		return;
	if (rec->fd >= 0)
		close(rec->fd);
	free(rec->path);
	free(rec->tmp);
	free(rec->lines);
	free(rec);
}

/* ---- thinning ---- */

static int copy_line(int from, int to, const struct line *l)
{
	char *buf = malloc(l->len);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	if (pread(from, buf, l->len, (off_t)l->offset) != (ssize_t)l->len ||
	    write(to, buf, l->len) != (ssize_t)l->len)
		r = -EIO;
	free(buf);
	return r;
}

/* Marks what stays by leaving len; what goes gets len 0. Samples in pairs from
 * the second on, so that the first stays; an odd last one stays, too. */
static void choose(struct record *rec)
{
	struct line *pair = NULL;
	size_t k = 0;

	for (size_t i = 0; i < rec->n; i++) {
		struct line *l = &rec->lines[i];

		if (l->event || k++ == 0)
			continue;
		if (!pair) {
			pair = l;
			continue;
		}
		if (k == rec->samples || l->used >= pair->used)
			pair->len = 0;
		else
			l->len = 0;
		pair = NULL;
	}
}

static int copy_chosen(struct record *rec, int to)
{
	uint64_t at = 0;
	size_t n = 0;
	int r = 0;

	rec->samples = 0;
	for (size_t i = 0; !r && i < rec->n; i++) {
		struct line l = rec->lines[i];

		if (!l.len)
			continue;
		r = copy_line(rec->fd, to, &l);
		l.offset = at;
		at += l.len;
		rec->samples += !l.event;
		rec->lines[n++] = l;
	}
	rec->n = n;
	rec->bytes = at;
	return r;
}

static int thin(struct record *rec)
{
	int fd, r;

	unlink(rec->tmp);
	fd = open(rec->tmp, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC,
		  0666);
	if (fd < 0)
		return -errno;
	choose(rec);
	r = copy_chosen(rec, fd);
	if (!r && rename(rec->tmp, rec->path))
		r = -errno;
	if (r) {
		close(fd);
		unlink(rec->tmp);
		return r;
	}
	close(rec->fd);
	rec->fd = fd;
	rec->interval_ns *= 2;
	return 0;
}

/* ---- writing ---- */

/* Takes o. */
static int append(struct record *rec, json_t *o, const struct line *like)
{
	struct line l = *like;
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(14))
		       : NULL;
	size_t len = text ? strlen(text) : 0;
	ssize_t n;
	int r = 0;

	json_decref(o);
	if (rec->n == rec->room) {
		size_t room = rec->room ? rec->room * 2 : 256;
		struct line *more = realloc(rec->lines, room * sizeof(*more));

		if (more) {
			rec->lines = more;
			rec->room = room;
		}
	}
	if (!text || rec->n == rec->room) {
		free(text);
		return -ENOMEM;
	}
	text[len++] = '\n'; /* over the NUL */
	n = write(rec->fd, text, len);
	if (n != (ssize_t)len)
		r = n < 0 ? -errno : -ENOSPC;
	free(text);
	if (r)
		return r;
	l.offset = rec->bytes;
	l.len = (uint32_t)len;
	rec->bytes += len;
	rec->lines[rec->n++] = l;
	return 0;
}

static int done(struct record *rec, int r)
{
	if (r) {
		close(rec->fd);
		rec->fd = -1;
	}
	return r;
}

int record_sample(struct record *rec, const struct report *r, double time,
		  uint64_t now_ns)
{
	struct line l = {.used = r->used_bytes};
	json_t *o, *body;
	int e;

	if (rec->fd < 0)
		return 0;
	body = report_to_json(r);
	o = json_pack("{s:f}", "time", time);
	if (!body || !o || json_object_update(o, body)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(body);
	e = append(rec, o, &l);
	rec->samples += !e;
	if (!e &&
	    (rec->samples > rec->max_samples || rec->bytes > rec->max_bytes) &&
	    rec->samples > 4)
		e = thin(rec);
	rec->due_ns = now_ns + rec->interval_ns;
	return done(rec, e);
}

int record_event(struct record *rec, const char *text, double time)
{
	struct line l = {.event = true};

	if (rec->fd < 0 || rec->events >= RECORD_EVENTS)
		return 0;
	rec->events++;
	return done(rec,
		    append(rec,
			   json_pack("{s:f,s:s}", "time", time, "event", text),
			   &l));
}
