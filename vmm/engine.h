/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_ENGINE_H
#define SARDINE_VMM_ENGINE_H
/*
 * What an engine is. The run loop (vmm/cpu/run.c) is common: it handles
 * requests, takes interrupts, waits in HLT, and calls run().
 */
#include "vmm/cpu/vcpu.h"

struct engine_ops {
	const char *name;
	/* Can it work on this host? 0, or -errno with the reason and the
	 * remedy in why. */
	int (*probe)(char *why, size_t len);
	/* Set up per-VM and per-vCPU state; sets v->ops and registers the
	 * p2m listener. 0 or -errno. */
	int (*init)(struct vm *vm, struct vcpu *v);
	void (*fini)(struct vm *vm, struct vcpu *v);
	/*
	 * Run guest code until v->requests is nonzero, v->halted, or an exit.
	 * On entry no exception is pending. The engine itself delivers
	 * exceptions. An interrupt that has become deliverable because the
	 * guest set IF makes run() return EXIT_KICK: the loop injects it.
	 */
	enum vcpu_exit (*run)(struct vcpu *v);
	/*
	 * Give back memory that only makes the guest faster (translations):
	 * called on the vCPU thread, outside run(), when the guest has been
	 * idle for a while. NULL: there is none.
	 */
	void (*trim)(struct vm *vm);
	/* About how many bytes trim would give back. Any thread. */
	uint64_t (*trimmable)(const struct vm *vm);
};

extern const struct engine_ops engine_interp, engine_bt;
#endif
