/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/base/failpoint.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS 24

static struct point {
	char name[32], who[33]; /* who "": anybody */
	unsigned long after, times;
} point[POINTS];
static unsigned n_points;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char self[33];
bool fail_points_on;

void fail_points_who(const char *who)
{
	snprintf(self, sizeof(self), "%s", who);
}

void fail_points_set(const char *text)
{
	char copy[1024], *save = NULL;

	n_points = 0;
	fail_points_on = text && *text;
	if (!fail_points_on)
		return;
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *s = strtok_r(copy, ",", &save); s && n_points < POINTS;
	     s = strtok_r(NULL, ",", &save)) {
		struct point *p = &point[n_points++];
		char *a = strchr(s, ':'), *t = a ? strchr(a + 1, ':') : NULL;

		char *w;

		if (a)
			*a = '\0';
		w = strchr(s, '@');
		if (w)
			*w++ = '\0';
		snprintf(p->name, sizeof(p->name), "%s", s);
		snprintf(p->who, sizeof(p->who), "%s", w ? w : "");
		p->after = a ? strtoul(a + 1, NULL, 10) : 0;
		p->times = t ? strtoul(t + 1, NULL, 10) : 1;
	}
}

/* Before anything else runs: later a confined process has threads. */
static __attribute__((constructor)) void read_environment(void)
{
	fail_points_set(getenv("SARDINE_FAIL"));
}

bool fail_point_hit(const char *name)
{
	bool hit = false;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_points && !hit; i++) {
		struct point *p = &point[i];

		if (strcmp(p->name, name) || (*p->who && strcmp(p->who, self)))
			continue;
		if (p->after) {
			p->after--;
		} else if (p->times) {
			p->times--;
			hit = true;
		}
	}
	pthread_mutex_unlock(&lock);
	if (hit && !strncmp(name, "kill-", 5))
		raise(SIGKILL);
	return hit;
}
