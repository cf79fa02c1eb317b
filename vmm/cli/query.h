/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_QUERY_H
#define SARDINE_VMM_CLI_QUERY_H
/* Asking a running manager for a sample, for `top` and `report`. */
#include <stddef.h>

#include "vmm/cli/report.h"

/* socket (as --socket gave it), or the default path in buf. NULL: there is no
 * default, and the user was told. */
const char *query_path(const char *socket, char *buf, size_t len);
/* -errno with one line in err; -EINTR: a signal came first. report_free
 * afterwards if 0. */
int query_sample(const char *path, struct report *r, char *err, size_t len);
#endif
