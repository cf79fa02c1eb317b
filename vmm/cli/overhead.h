/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_OVERHEAD_H
#define SARDINE_VMM_CLI_OVERHEAD_H
/*
 * What a monitor costs besides its guest's memory, asked of the kernel rather
 * than of the monitor: anonymous memory, its part of program files, page tables
 * (VmPTE), and every memfd it holds that is not the guest's and not a pool
 * (translation cache, control area); and the memory of the processes that it
 * started, of which there is one at most: its network (vmm/cli/netd.c, 2 MiB).
 *
 * What a resting monitor's 2.8 MiB are (128 MiB guest, KiB, two of them on the
 * host): page tables 550, allocator 530 (the engine's struct, the interpreter's
 * decoded instructions), the books of 2,400 units 260 and their code 250, windows'
 * books 120, parts of the program and its libraries that two share 600 and that
 * are its own (relocations, data) 250, stacks 170, control area 24. Trimming
 * (vmm/monitor.c) gives the rest back; it was 5 MiB when the indirect-branch
 * tables stayed.
 *
 * The part of program files is what the monitor has of them (RssFile) divided
 * among those who run the program. The kernel knows better (Pss_File of
 * smaps_rollup), but to find out it walks all mappings, tens of thousands, under
 * the lock that the monitor takes for each page that it maps; on a busy machine
 * that was seen to take 12 seconds. So only what is asked for at the end does it.
 */
#include <stdint.h>
#include <sys/types.h>

/* skip: descriptors of ours whose files do not count; sharers: processes that
 * run this program. Waits for nobody. 0 or -errno (the process is gone, /proc is
 * not there). */
int overhead_sample(pid_t pid, const int *skip, unsigned n_skip,
		    unsigned sharers, uint64_t *bytes);
/* By smaps_rollup: may take long. */
int overhead_exact(pid_t pid, const int *skip, unsigned n_skip,
		   uint64_t *bytes);
#endif
