/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_STATS_TABLE_H
#define SARDINE_VMM_CLI_STATS_TABLE_H
/* A VM's counters for people: the translation statistics as tables. */
#include <jansson.h>
#include <stdio.h>

/* root: {GROUP: {COUNTER: value}}, as --stats and the manager give it; what is
 * missing, or not a number, counts as 0. */
void stats_table_print(const json_t *root, FILE *f);
#endif
