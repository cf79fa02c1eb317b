/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_HISTORY_H
#define SARDINE_VMM_CLI_HISTORY_H
/*
 * A run in memory: samples in the order of time, what happened, and choices of
 * samples to draw. Bounded: with too many samples every second one goes.
 */
#include <stddef.h>

#include "vmm/cli/report.h"

#define HISTORY_SAMPLES	   8192
#define HISTORY_VM_SAMPLES 400000 /* VMs, added up over the samples */
#define HISTORY_EVENTS	   2000
#define HISTORY_TEXT	   200

struct history_sample {
	double time; /* seconds since 1970, never less than the one before */
	struct report r;
};
struct history_event {
	double time;
	char text[HISTORY_TEXT]; /* printable ASCII */
};
struct history {
	struct history_sample *s;
	size_t n, room, vm_samples;
	struct history_event *events;
	size_t n_events;
};

/* Takes what r holds, in every case. 0 or -ENOMEM. */
int history_add(struct history *h, double time, struct report *r);
int history_add_event(struct history *h, double time, const char *text);
/* What `pack --record` wrote. A torn last line is skipped. -errno with one line
 * in err that names file and line. */
int history_load(const char *path, struct history *h, char *err, size_t errlen);
void history_free(struct history *h);

/* What a chart shows as a mark. */
enum history_kind { HISTORY_UP, HISTORY_END, HISTORY_BUDGET, HISTORY_KINDS };
struct history_mark {
	enum history_kind kind;
	double time;
	unsigned vms; /* how many it is about; 0: none */
	char text[HISTORY_TEXT];
};
/* Found by comparing neighbouring samples: VMs that reached userland, VMs that
 * ended, changes of the budget; one mark a kind and sample. malloc'ed; NULL
 * with *n = 0: none, or out of memory. */
struct history_mark *history_marks(const struct history *h, size_t *n);

/*
 * At most max samples (2 or more) for a curve: the first, the last, and of each
 * of the intervals between the one whose value is highest, so that no peak is
 * lost. Writes their indices in order and returns how many.
 */
size_t history_pick(const struct history *h, size_t max,
		    double (*value)(const struct report *r, const void *ctx),
		    const void *ctx, size_t *index);
#endif
