/* SPDX-License-Identifier: Apache-2.0 */
/* Counters in the control area (control_stats.h). */
#include "mm/control_stats.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "mm/control.h"

static bool put(struct control_stats *s, size_t *at, const char *mark,
		const char *name)
{
	size_t m = strlen(mark), n = strlen(name);

	if (*at + m + n + 2 > sizeof(s->text))
		return false;
	memcpy(s->text + *at, mark, m);
	memcpy(s->text + *at + m, name, n);
	s->text[*at + m + n] = '\n';
	*at += m + n + 1;
	return true;
}

int control_stats_init(struct control_stats *s, const struct stat_group *list)
{
	size_t at = 0;
	uint64_t n = 0;
	bool fits = true;

	for (const struct stat_group *g = list; g && fits; g = g->next) {
		fits = put(s, &at, ":", g->prefix);
		for (size_t i = 0; i < g->n && fits; i++) {
			fits = n < CONTROL_STATS_MAX &&
			       put(s, &at, "", g->desc[i].name);
			n += fits;
		}
	}
	s->text[at] = '\0';
	control_set(&s->n, n);
	return fits ? 0 : -ENOSPC;
}

void control_stats_publish(struct control_stats *s,
			   const struct stat_group *list)
{
	uint64_t n = 0, max = control_get(&s->n);

	for (const struct stat_group *g = list; g; g = g->next)
		for (size_t i = 0; i < g->n && n < max; i++) {
			const char *p = (const char *)g->base;

			control_set(
				&s->value[n++],
				control_get(
					(const uint64_t *)(p +
							   g->desc[i].offset)));
		}
}

/* One name of text up to its newline, into buf. How many bytes it and the
 * newline take, 0: the end, -1: not a name. */
static int take(const char *text, size_t left, char buf[CONTROL_STATS_NAME])
{
	for (size_t i = 0; i < left && i < CONTROL_STATS_NAME; i++) {
		char c = __atomic_load_n(&text[i], __ATOMIC_RELAXED);

		if (c == '\n') {
			buf[i] = '\0';
			return i ? (int)i + 1 : -1;
		}
		if (!c)
			return i ? -1 : 0;
		if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') &&
		    c != '_')
			return -1;
		buf[i] = c;
	}
	return -1;
}

int control_stats_read(const struct control_stats *s,
		       void (*fn)(void *ctx, const char *group,
				  const char *name, uint64_t value),
		       void *ctx)
{
	char group[CONTROL_STATS_NAME] = "", name[CONTROL_STATS_NAME];
	uint64_t n = control_get(&s->n), k = 0;
	size_t at = 0;

	if (n > CONTROL_STATS_MAX)
		return -EBADMSG;
	while (at < sizeof(s->text)) {
		bool is_group = s->text[at] == ':';
		int len;

		at += is_group;
		len = take(s->text + at, sizeof(s->text) - at,
			   is_group ? group : name);
		if (!len)
			return k == n ? 0 : -EBADMSG;
		if (len < 0)
			return -EBADMSG;
		at += (size_t)len;
		if (is_group)
			continue;
		if (k == n || !*group)
			return -EBADMSG;
		fn(ctx, group, name, control_get(&s->value[k++]));
	}
	return -EBADMSG;
}
