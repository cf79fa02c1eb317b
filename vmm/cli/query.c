/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/query.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "mm/base/log.h"
#include "vmm/cli/server.h"

const char *query_path(const char *socket, char *buf, size_t len)
{
	if (socket && !*socket) {
		log_error("--socket: the path is empty; give one");
		return NULL;
	}
	if (socket)
		return socket;
	if (!server_default_path(buf, len))
		return buf;
	log_error("$XDG_RUNTIME_DIR is too long for a socket; use --socket "
		  "PATH");
	return NULL;
}

int query_sample(const char *path, struct report *r, char *err, size_t len)
{
	json_error_t je;
	json_t *o;
	char *text;
	size_t n;
	int e = server_query(path, "top", &text, &n, err, len);

	if (e)
		return e;
	o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	free(text);
	e = o ? report_from_json(o, r) : -EINVAL;
	json_decref(o);
	if (e)
		snprintf(err, len,
			 "%s: what answers there is no manager of this "
			 "version; check --socket",
			 path);
	return e;
}
