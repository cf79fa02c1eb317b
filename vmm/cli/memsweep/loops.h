/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_MEMSWEEP_LOOPS_H
#define SARDINE_VMM_CLI_MEMSWEEP_LOOPS_H
/*
 * The loops of `sardine memsweep`, and how its guest and the tool talk. Shared
 * by the program and the guest image: one object file, so both sides run the
 * same machine code. Freestanding.
 */
#include <stdint.h>

enum loop_kind {
	LOOP_END,    /* no loop: the guest ends */
	LOOP_SWEEP,  /* large[(4096 * i + i) % S] = 1 + large[i % S], bytes */
	LOOP_RANDOM, /* independent reads of 8 bytes, all over */
	LOOP_CHASE,  /* dependent reads, one a cache line, in one long cycle */
};

/* Make memory ready: every byte of it is written. size: a power of two, bytes,
 * at least 4096. */
void loop_init(enum loop_kind kind, void *mem, uint64_t size);
/* n steps; a checksum. The same for the same kind, size, n after an init. */
uint64_t loop_run(enum loop_kind kind, void *mem, uint64_t size, uint64_t n);

/*
 * The guest reads a job from the port, 32 bits at a time: kind, size in KiB,
 * steps, 1 for pages of 2 MiB (0: 4 KiB). It writes a MEMSWEEP_READY when the
 * memory is initialized, _START and _STOP around the loop, then the checksum's
 * two halves. LOOP_END: it writes 0 to the debug exit port.
 */
#define MEMSWEEP_PORT  0x5d0
#define MEMSWEEP_READY 1u
#define MEMSWEEP_START 2u
#define MEMSWEEP_STOP  3u

/* The guest's memory: what is below is the image, its tables, its stack. */
#define MEMSWEEP_BASE  (32ull << 20)
#define MEMSWEEP_MAX   (512ull << 20) /* largest size */
/* Virtual addresses of the two mappings of [BASE, BASE + MAX). */
#define MEMSWEEP_VA_4K (1ull << 32)
#define MEMSWEEP_VA_2M (2ull << 32)
#endif
