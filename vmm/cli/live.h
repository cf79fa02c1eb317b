/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_LIVE_H
#define SARDINE_VMM_CLI_LIVE_H
/*
 * The live table of `top` and `pack`: the terminal's whole screen, sorted by
 * any column, scrolled, as wide as the terminal is. One at a time, one thread.
 *
 * The terminal is restored by live_close; while a live table is open its owner
 * must take SIGINT, SIGTERM and SIGHUP (handler or signalfd) and come there.
 */
#include <stdbool.h>
#include <stddef.h>

#include "vmm/cli/report.h"

struct live;

/* The terminal's owner asks it to show `name`; with quit, the key q ends it.
 * -ENOTTY: standard output is no terminal of ours that can do this (its owner
 * prints lines instead). */
int live_open(const char *name, bool quit, struct live **out);
/* To be polled for input, then live_keys; -1: there is no keyboard. */
int live_fd(const struct live *l);
/* A new sample, which the table copies. */
int live_sample(struct live *l, const struct report *r);
/* Lines under the table, the last ones that fit; owned by the caller until
 * live_close. */
void live_events(struct live *l, char *const *events, size_t n);
/* One line that matters now, or NULL. Copied. */
void live_notice(struct live *l, const char *text);
/* What was typed, and a new size of the terminal. True: q was pressed. */
bool live_keys(struct live *l);
void live_draw(struct live *l);
/* Restores the terminal. NULL is fine. */
void live_close(struct live *l);
#endif
