/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_METRICS_H
#define SARDINE_VMM_CLI_METRICS_H
/*
 * The HTTP end of the figures: GET /metrics answers with a sample in
 * Prometheus' text format. No thread: its owner polls one descriptor and calls
 * metrics_run.
 */
#include <stdint.h>
#include <sys/socket.h>

/* "9464" (on loopback), "127.0.0.1:9464", "[::1]:9464". Port 0: any that is
 * free. -EINVAL with one line in err. */
int metrics_parse(const char *text, struct sockaddr_storage *sa, socklen_t *len,
		  char *err, size_t errlen);

struct metrics;
/* The text to serve, malloc'ed, its length in len; NULL: out of memory. */
typedef char *metrics_source(void *ctx, size_t *len);

/* Listen. -errno with one line in err. */
int metrics_open(const char *address, metrics_source *source, void *ctx,
		 struct metrics **out, char *err, size_t errlen);
/* To be polled for input; then, and at the latest after metrics_timeout_ms,
 * metrics_run. */
int metrics_fd(const struct metrics *m);
int metrics_timeout_ms(const struct metrics *m); /* -1: no need */
void metrics_run(struct metrics *m, uint64_t now_ns);
/* "http://127.0.0.1:9464/metrics" */
const char *metrics_url(const struct metrics *m);
void metrics_close(struct metrics *m); /* NULL is fine */
#endif
