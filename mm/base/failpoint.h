/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_BASE_FAILPOINT_H
#define SARDINE_MM_BASE_FAILPOINT_H
/*
 * Failures on demand, for tests. The environment of the process says which:
 *
 *	SARDINE_FAIL=NAME[:AFTER[:TIMES]],...
 *
 * the point NAME passes AFTER times (0), then fails TIMES times (1), then
 * passes for good. Names that begin with "kill-" end the process with SIGKILL.
 * Without the variable a point costs one load.
 */
#include <stdbool.h>

extern bool fail_points_on;
bool fail_point_hit(const char *name);
/* Any thread. True: fail now. */
static inline bool fail_point(const char *name)
{
	return __builtin_expect(fail_points_on, 0) && fail_point_hit(name);
}
/* For tests in one process: instead of the variable; NULL: none. */
void fail_points_set(const char *text);
#endif
