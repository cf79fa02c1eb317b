/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_OVERHEAD_H
#define SARDINE_VMM_CLI_OVERHEAD_H
/*
 * What a monitor costs besides its guest's memory, asked of the kernel rather
 * than of the monitor: anonymous memory and its proportional part of program
 * files (Pss_Anon, Pss_File of smaps_rollup), page tables (VmPTE), and every
 * memfd it holds that is not the guest's and not a pool (translation cache,
 * control area).
 *
 * Costs a few milliseconds for a monitor with many mappings: sample rarely.
 */
#include <stdint.h>
#include <sys/types.h>

/* skip: descriptors of ours whose files do not count. 0 or -errno (the process
 * is gone, /proc is not there). */
int overhead_sample(pid_t pid, const int *skip, unsigned n_skip,
		    uint64_t *bytes);
/* The part of it that is cheap to ask for (RssAnon, VmPTE, memfds), several
 * times a second. */
int overhead_quick(pid_t pid, const int *skip, unsigned n_skip,
		   uint64_t *bytes);
#endif
