/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spec {
	const char *text, *vm;
	char *err;
	size_t errlen;
};

static int bad(const struct spec *s, const char *why)
{
	snprintf(s->err, s->errlen, "--disk %s: %s", s->text, why);
	return -EINVAL;
}

/* s with each {vm} replaced; NULL: out of memory. */
static char *expand(const char *s, const char *vm)
{
	size_t n = strlen(vm), len = strlen(s) + 1;
	const char *at, *p = s;
	char *out, *to;

	while ((at = strstr(p, "{vm}"))) {
		len += n;
		p = at + 4;
	}
	out = to = malloc(len);
	for (p = s; out && (at = strstr(p, "{vm}")); p = at + 4) {
		to = mempcpy(to, p, (size_t)(at - p));
		to = mempcpy(to, vm, n);
	}
	if (out)
		strcpy(to, p);
	return out;
}

static int set_word(const struct spec *s, struct disk_config *d, const char *w)
{
	if (!strcmp(w, "ro")) {
		d->read_only = true;
	} else if (!strcmp(w, "aio=ring")) {
		d->aio = AIO_URING;
	} else if (!strcmp(w, "aio=thread")) {
		d->aio = AIO_THREAD;
	} else if (!strcmp(w, "snapshot")) {
		d->snapshot = true;
	} else if (!strncmp(w, "cow=", 4) && w[4]) {
		free((char *)d->overlay);
		d->overlay = expand(w + 4, s->vm);
		if (!d->overlay)
			return bad(s, "out of memory");
	} else if (!strncmp(w, "serial=", 7)) {
		if (strlen(w + 7) > 20)
			return bad(s, "a serial has at most 20 characters");
		free((char *)d->serial);
		d->serial = strdup(w + 7);
	} else {
		return bad(s, "write FILE[,ro][,cow=OVERLAY][,snapshot]"
			      "[,serial=TEXT]");
	}
	return 0;
}

static int parse_one(const struct spec *s, struct disk_config *d)
{
	char *text = strdup(s->text), *save = NULL, *w;
	int r = 0;

	if (!text)
		return bad(s, "out of memory");
	w = *text == ',' ? NULL : strtok_r(text, ",", &save);
	d->path = w ? strdup(w) : NULL;
	if (!d->path)
		r = bad(s, "names no file");
	while (!r && (w = strtok_r(NULL, ",", &save)))
		r = set_word(s, d, w);
	if (!r && d->read_only + d->snapshot + (d->overlay != NULL) > 1)
		r = bad(s, "ro, cow= and snapshot exclude each other");
	free(text);
	return r;
}

int disks_parse(char *const *specs, const char *vm, struct disk_config **out,
		unsigned *n, char *err, size_t errlen)
{
	struct spec s = {.vm = vm, .err = err, .errlen = errlen};
	int r = 0;

	*n = 0;
	*out = calloc(DISKS_MAX, sizeof(**out));
	if (!*out) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	for (; specs && *specs && !r; specs++) {
		s.text = *specs;
		if (*n == DISKS_MAX)
			r = bad(&s, "a VM has at most 8 disks");
		else
			r = parse_one(&s, &(*out)[(*n)++]);
	}
	if (!r)
		return 0;
	disks_free(*out, *n);
	*out = NULL;
	*n = 0;
	return r;
}

void disks_free(struct disk_config *d, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free((char *)d[i].path);
		free((char *)d[i].overlay);
		free((char *)d[i].serial);
	}
	free(d);
}
