/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_BASE_LOG_H
#define SARDINE_MM_BASE_LOG_H
/*
 * Messages to people (stderr, one line each) and the assert that stays in
 * release builds. Only cli/ ends the process for a user's mistake; BUG_ON ends
 * it for ours.
 */
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
extern enum log_level log_threshold;

/* One line, prefixed with "sardine: "; a newline is added. Any thread. */
void log_msg(enum log_level l, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

_Noreturn void bug_at(const char *file, int line, const char *what);
#define BUG_ON(c)                                                              \
	do {                                                                   \
		if (__builtin_expect(!!(c), 0))                                \
			bug_at(__FILE__, __LINE__, #c);                        \
	} while (0)
#define ASSERT(c) BUG_ON(!(c))
#endif
