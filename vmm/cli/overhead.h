/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_OVERHEAD_H
#define SARDINE_VMM_CLI_OVERHEAD_H
/*
 * What a monitor costs besides its guest's memory, asked of the kernel rather
 * than of the monitor: anonymous memory and its proportional part of program
 * files (Pss_Anon, Pss_File of smaps_rollup), page tables (VmPTE), and every
 * memfd it holds that is not the guest's and not a pool (translation cache,
 * control area); and the memory of the processes that it started, of which there
 * is one at most: its network (vmm/cli/netd.c, 2 MiB).
 *
 * What a resting monitor's 2.8 MiB are (128 MiB guest, KiB, two of them on the
 * host): page tables 550, allocator 530 (the engine's struct, the interpreter's
 * decoded instructions), the books of 2,400 units 260 and their code 250, windows'
 * books 120, parts of the program and its libraries that two share 600 and that
 * are its own (relocations, data) 250, stacks 170, control area 24. Trimming
 * (vmm/monitor.c) gives the rest back; it was 5 MiB when the indirect-branch
 * tables stayed.
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
