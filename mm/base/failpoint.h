/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_BASE_FAILPOINT_H
#define SARDINE_MM_BASE_FAILPOINT_H
/*
 * Failures on demand, for tests. The environment of the process says which:
 *
 *	SARDINE_FAIL=NAME[@WHO][:AFTER[:TIMES]],...
 *
 * the point NAME passes AFTER times (0), then fails TIMES times (1), then
 * passes for good. Names that begin with "kill-" end the process with SIGKILL.
 * With @WHO only in the process that is called so: a VM's monitor, by the VM's
 * name. Without the variable a point costs one load.
 *
 * The points that kill, in the order of a page's way:
 *
 *	kill-manager-released	what left its frame is taken, not yet believed
 *	kill-manager-pool	a frame is written, not yet proposed
 *	kill-manager-propose	before a batch of proposals is sent
 *	kill-manager-proposed	after it
 *	kill-manager-answer	in the middle of a batch of answers
 *	kill-manager-frame	a frame is free, its memory not yet given back
 *	kill-manager-divide	before the budget is divided
 *	kill-manager-quota	between two VMs' quotas
 *	kill-manager-nudge	before a monitor is told
 *	kill-manager-balloon	a balloon's target is written, and nobody told
 *	kill-manager-budget	the budget is another, the quotas are not
 *	kill-monitor-commit	in the middle of a batch of commits
 *	kill-monitor-released	a page has left its frame, and nobody told
 *	kill-monitor-balloon	in the middle of an inflation
 *	kill-monitor-compress	a page is in the store, and where it was
 *	kill-monitor-compact	an object of the store is in two places
 *	kill-monitor-decompress	a page is back, its object not yet free
 *	kill-swap-write		before a write to the swap file
 *	kill-monitor-swapped	a page is on the disk, and where it was
 *	kill-monitor-swap-in	a page is back, its slot not yet free
 */
#include <stdbool.h>

extern bool fail_points_on;
bool fail_point_hit(const char *name);
/* Any thread. True: fail now. */
static inline bool fail_point(const char *name)
{
	return __builtin_expect(fail_points_on, 0) && fail_point_hit(name);
}
/* What this process is called. */
void fail_points_who(const char *who);
/* For tests in one process: instead of the variable; NULL: none. */
void fail_points_set(const char *text);
#endif
