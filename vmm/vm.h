/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_VM_H
#define SARDINE_VMM_VM_H
/*
 * One virtual machine: everything of it hangs off struct vm. There is no
 * process-wide VM state.
 *
 * Threads: the vCPU thread (vm_run) owns the vcpu, the p2m and the engine. One
 * I/O thread (vmm/dev/iothread.c) waits for console input, timers and the
 * manager's socket. Devices are shared by the two under vm->dev_lock, which
 * is taken by the bus dispatch and by the I/O thread's callbacks and is never
 * held while guest code runs.
 */
#include <pthread.h>

#include "mm/base/stats.h"
#include "mm/p2m.h"
#include "vmm/cpu/vcpu.h"
#include "vmm/engine.h"

struct bus;
struct uart;
struct lapic;
struct ioapic;
struct pit;
struct rtc;
struct pm;
struct iothread;

struct vm_config {
	const char *name;
	uint64_t mem_bytes;
	const struct engine_ops *engine;
	const char *kernel, *initrd, *cmdline; /* paths; initrd, cmdline may be
						  NULL */
	bool debug_exit;  /* port 0xf4 */
	bool no_reboot;	  /* a reset ends the run */
	int console_out;  /* fd for UART output */
	int console_in;	  /* fd or -1 */
	int memfd;	  /* from the manager, or -1 */
	int pool_fd;	  /* or -1 */
	void *control;	  /* shared control area, or NULL */
	/* bt's test knobs (0 = default) */
	uint64_t tc_bytes;
	unsigned tu_max;  /* guest instructions per TU */
	bool no_chain;
	bool lockstep;
};

struct vm_work {
	void (*fn)(struct vm *vm, struct vm_work *w);
	struct vm_work *next;
};

struct vm {
	struct vm_config cfg;
	struct p2m *p2m;
	struct vcpu *vcpu;
	int vcpu_memfd;
	const struct engine_ops *engine;
	struct bus *pio, *mmio;
	pthread_mutex_t dev_lock;
	struct uart *uart;
	struct lapic *lapic;
	struct ioapic *ioapic;
	struct pit *pit;
	struct rtc *rtc;
	struct pm *pm;
	struct iothread *io;
	struct stat_group *stats;
	/* vm_post's queue and the HLT wait */
	pthread_mutex_t wait_lock;
	pthread_cond_t wait_cond;
	struct vm_work *work;
	uint64_t boot_ns; /* CLOCK_MONOTONIC at creation */
};

/* 0 or -errno with one clear line in err (names the thing and the remedy). */
int vm_create(const struct vm_config *cfg, struct vm **out, char *err,
	      size_t errlen);
void vm_destroy(struct vm *vm);
/* Run to the end on the calling thread, which becomes the vCPU thread. The
 * answer is EXIT_POWEROFF, EXIT_RESET (only with no_reboot; otherwise the VM
 * is reset and goes on), EXIT_SHUTDOWN (counts as a reset), EXIT_DEBUG or
 * EXIT_ERROR; details in vm->vcpu. */
enum vcpu_exit vm_run(struct vm *vm);
/* Any thread: have w->fn called on the vCPU thread at its next boundary, also
 * while it halts. w stays the caller's and must live until then. */
void vm_post(struct vm *vm, struct vm_work *w);
/* Any thread: end the run with EXIT_POWEROFF. */
void vm_stop(struct vm *vm);
void vm_add_stats(struct vm *vm, struct stat_group *g);
#endif
