/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_PROM_H
#define SARDINE_VMM_CLI_PROM_H
/*
 * A sample in Prometheus' text exposition format 0.0.4. Families come from the
 * table of fields: sardine_SECTION_NAME, in base units (a field in _ms, _us or
 * _ns becomes _seconds), _total for counters, and the field's sentence as HELP.
 * What is absent or not known yet has no line.
 */
#include <stdio.h>

#include "vmm/cli/report.h"

#define PROM_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

void prom_write(const struct report *r, FILE *f);
/* A label's value, with what the format wants escaped. */
void prom_write_label(FILE *f, const char *value);
#endif
