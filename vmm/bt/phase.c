/* SPDX-License-Identifier: Apache-2.0 */
/* The translator's work over time (phase.h). */
#include "vmm/bt/phase.h"

#include <string.h>

#include "mm/types.h"
#include "vmm/vm.h"

#define FIRST_SPAN (1ull << 26) /* some 30 ms */

static const struct stat_desc desc[] = {
#define X(n, h) STAT_DESC_ENTRY(phase, n, h),
	PHASE_STATS(X)
#undef X
};
static const char *const prefix[PHASES] = {
	"phase0", "phase1", "phase2", "phase3",
	"phase4", "phase5", "phase6", "phase7",
};

void phases_init(struct phases *p, struct vm *vm)
{
	p->start = __builtin_ia32_rdtsc();
	p->span = FIRST_SPAN;
	for (unsigned i = 0; i < PHASES; i++) {
		p->group[i] = (struct stat_group){
			prefix[i], desc, ARRAY_SIZE(desc), &p->row[i], NULL};
		vm_add_stats(vm, &p->group[i]);
	}
}

static void add(struct phase *to, const struct phase *from)
{
#define X(n, h) to->n += from->n;
	PHASE_STATS(X)
#undef X
}

static void halve(struct phases *p)
{
	for (unsigned i = 0; i < PHASES / 2; i++) {
		p->row[i] = p->row[2 * i];
		add(&p->row[i], &p->row[2 * i + 1]);
	}
	memset(p->row + PHASES / 2, 0, PHASES / 2 * sizeof(*p->row));
	p->span *= 2;
}

void phases_add(struct phases *p, uint64_t now, const struct phase *unit)
{
	/* Of another core's TSC, it may be a little early. */
	uint64_t age = now > p->start ? now - p->start : 0;

	while (age / p->span >= PHASES)
		halve(p);
	add(&p->row[age / p->span], unit);
}
