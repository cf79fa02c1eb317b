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
#include "mm/largepage/largepage.h"
#include "mm/p2m.h"
#include "vmm/cpu/vcpu.h"
#include "vmm/engine.h"

struct bus;
struct uart;
struct lapic;
struct ioapic;
struct pic;
struct pit;
struct rtc;
struct pm;
struct iothread;
struct board;
struct disk_config;
struct virtio_net_config;
struct board_pci;
struct vm_large;

/* What tc_bytes may be. */
#define VM_TC_MIN     (128ull << 10)
#define VM_TC_DEFAULT (32ull << 20)
#define VM_TC_MAX     (1ull << 30)

struct vm_config {
	const char *name;
	uint64_t mem_bytes;
	const struct engine_ops *engine;
	const char *kernel, *initrd, *cmdline; /* paths; initrd, cmdline may be
						  NULL */
	/* > 0: read these instead of opening the paths. They must stay open:
	 * a reset loads the kernel again, when a confined process cannot open
	 * anything any more. */
	int kernel_fd, initrd_fd;
	enum backing backing;
	bool debug_exit; /* port 0xf4 */
	bool rng;	 /* a virtio-rng */
	bool balloon;	 /* a virtio-balloon */
	bool hvc;	 /* a virtio-console on the same console as the UART */
	const struct disk_config *disks; /* virtio-blk, in this order */
	unsigned n_disks;
	/* virtio-net, but for its name, want and ctx; NULL: none */
	const struct virtio_net_config *net;
	bool no_reboot;	 /* a reset ends the run */
	int console_out; /* fd for UART output */
	int console_in;	 /* fd or -1 */
	/* Sees what console_in gave, before the UART does: may change or
	 * swallow bytes, answers how many are left in buf. NULL: none. Called
	 * on the I/O thread without locks (vm_stop is fine in it). */
	size_t (*console_filter)(void *ctx, uint8_t *buf, size_t n);
	void *console_filter_ctx;
	/* Not 0: what a Linux decompressor takes for random comes from this,
	 * so that VMs of equal seed choose the same KASLR layout and their
	 * kernels' text stays equal (cpu/layout.h). */
	uint64_t layout_seed;
	int memfd;	   /* from the manager, or -1 */
	int pool_fd;	   /* or -1 */
	int store_fd;	   /* > 0: for compressed pages (mm/p2m.h) */
	int swap_fd;	   /* > 0: swap file */
	void *control;	   /* shared control area, or NULL */
	uint64_t tc_bytes; /* bt's translation cache; 0: VM_TC_DEFAULT */
	/* bt's test knobs (0 = default) */
	unsigned tu_max; /* guest instructions per TU */
	bool no_chain;
	bool count; /* translated code counts what it executes */
	bool lockstep;
	bool pair_all; /* calls and returns paired everywhere */
	/* How addresses are checked: as suits the host, or as suits a CPU whose
	 * LOOP is slow, or is not (tests). */
	enum { CHECK_AUTO, CHECK_JRCXZ, CHECK_LOOP } check;
	bool touch_all; /* every access is at a careful site (bt/site.c) */
	/* The guest's clocks and TSC run 2^this times slower than real ones: for
	 * what is too slow to keep up with its timer (lockstep). */
	unsigned time_shift;
};

#define RUN_STATS(X)                                                           \
	X(engine_runs, "times the engine was entered")                         \
	X(exit_kick, "times it came back because it was kicked")               \
	X(exit_hlt, "times it came back because the guest halted")             \
	X(irq_injected, "interrupts delivered to the guest")                   \
	X(irq_shadow_steps, "single steps past STI or MOV SS")                 \
	X(hlt_waits, "sleeps in HLT")                                          \
	X(hlt_ns, "nanoseconds slept in HLT")                                  \
	X(paused_ns, "nanoseconds paused")                                     \
	X(work, "work items run for other threads")                            \
	X(resets, "resets of the machine")
struct run_stats {
	RUN_STATS(STAT_FIELD)
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
	struct pic *pic;
	struct pit *pit;
	struct rtc *rtc;
	struct pm *pm;
	struct iothread *io;
	struct board *board;	/* vmm/board.c: the small devices, the wiring */
	struct board_pci *pci;	/* vmm/board_pci.c; NULL: no PCI */
	struct vm_large *large; /* vmm/large.h; NULL: BACKING_4K */
	struct stat_group *stats;
	/* Where the engine's own machine code runs, [start, end): no system
	 * call may come from there (vmm/confine.h). Set by the engine's init;
	 * 0: nowhere. */
	uint64_t code_start, code_end;
	/* vm_post's queue and the HLT wait */
	pthread_mutex_t wait_lock;
	pthread_cond_t wait_cond;
	struct vm_work *work;
	_Atomic bool waiting; /* the vCPU thread sleeps in HLT */
	/* What VCPU_REQ_EXIT asks for: enum vcpu_exit, and the code << 32. The
	 * run loop moves it to v->exit and v->exit_code. */
	_Atomic uint64_t exit_request;
	_Atomic bool stopping; /* vm_stop was called */
	_Atomic bool paused;   /* the guest does not run; work is done */
	/* A disk has filled this page with what other VMs have, too. vCPU
	 * thread, under dev_lock. NULL: nobody wants to know. */
	void (*page_read)(void *ctx, ppn_t ppn);
	void *page_read_ctx;
	struct run_stats run_stats;
	struct stat_group run_stat_group;
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
/* Any thread: keep the guest from running, or let it go on. Posted work is done
 * meanwhile; timers and devices go on. */
void vm_pause(struct vm *vm, bool on);
/* Any thread: end the run with this exit (code: v->exit_code). Devices come
 * here for power-off, reset and debug exit; the first one to ask wins. */
void vm_request_exit(struct vm *vm, enum vcpu_exit why, int code);
/* Any thread: vcpu_kick() calls this after it has set the request bits. Wakes
 * the vCPU thread if it sleeps in HLT; cheap otherwise. */
void vm_wake(struct vm *vm);
/* The run loop (cpu/run.c), one leg: until an exit other than HLT and kicks. */
enum vcpu_exit vcpu_run(struct vcpu *v);
void vm_add_stats(struct vm *vm, struct stat_group *g);
#endif
