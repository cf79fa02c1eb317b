/* SPDX-License-Identifier: Apache-2.0 */
#include "mm/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum log_level log_threshold = LOG_WARN;

void log_msg(enum log_level l, const char *fmt, ...)
{
	char buf[1024];
	va_list ap;
	int n, m;

	if (l > log_threshold)
		return;
	n = snprintf(buf, sizeof(buf), "sardine: ");
	va_start(ap, fmt);
	m = vsnprintf(buf + n, sizeof(buf) - n - 1, fmt, ap);
	va_end(ap);
	n += m;
	if (n > (int)sizeof(buf) - 2)
		n = sizeof(buf) - 2;
	/* Names come from the outside: they may not move the cursor, nor make
	 * two lines of one. */
	for (int i = 0; i < n; i++)
		if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
			buf[i] = '?';
	buf[n++] = '\n';
	/* One write, so that lines of several processes do not mix. */
	(void)!write(STDERR_FILENO, buf, n);
}

_Noreturn void bug_at(const char *file, int line, const char *what)
{
	log_msg(LOG_ERROR, "bug: %s:%d: %s", file, line, what);
	abort();
}
