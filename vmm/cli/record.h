/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_RECORD_H
#define SARDINE_VMM_CLI_RECORD_H
/*
 * A run on disk, for `sardine report`: JSON, one object a line. A sample is
 * what `top --json` prints with "time" (seconds since 1970) before it; an event
 * is {"time":..,"event":".."}.
 */
#include <stdint.h>

#include "vmm/cli/report.h"

#define RECORD_SAMPLES 3600	     /* at most, then every second one goes */
#define RECORD_BYTES   (32ull << 20) /* likewise */
#define RECORD_EVENTS  2000	     /* later ones are not written */

struct record;
/* Starts the file anew; refuses one that is there and no record. -errno with
 * one line in err. The limits above hold where these are 0. */
int record_open(const char *path, size_t max_samples, uint64_t max_bytes,
		struct record **out, char *err, size_t errlen);
/* When the next sample is due, on the caller's clock (ns). */
uint64_t record_due_ns(const struct record *rec);
/* time: seconds since 1970. What cannot be written ends the record (and the
 * run goes on): -errno, once; 0 afterwards. */
int record_sample(struct record *rec, const struct report *r, double time,
		  uint64_t now_ns);
int record_event(struct record *rec, const char *text, double time);
void record_close(struct record *rec); /* NULL is fine */
#endif
