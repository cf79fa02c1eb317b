/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM from creation to the end: memory, vCPU, board, kernel, engine, I/O
 * thread, in this order, and away again in the opposite one. vm_destroy takes a
 * VM at any stage of its making, so every failure ends there.
 *
 * A reset keeps the RAM's content (as a warm reset does), resets the vCPU and
 * the devices, and loads the kernel again. The engine hears of it as a change
 * of everything: mode and TLB.
 */
#include "vmm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/board.h"
#include "vmm/boot/boot.h"
#include "vmm/dev/iothread.h"
#include "vmm/large.h"

static const struct stat_desc run_stat_desc[] = {
#define D(name, help) STAT_DESC_ENTRY(run_stats, name, help),
	RUN_STATS(D)
#undef D
};

static int vm_check_config(const struct vm_config *c, char *err, size_t errlen)
{
	if (!c->engine) {
		snprintf(err, errlen, "no engine given: use bt or interp");
		return -EINVAL;
	}
	if (!c->mem_bytes || c->mem_bytes % PAGE_SIZE) {
		snprintf(err, errlen,
			 "memory size %llu: give a multiple of 4096 bytes "
			 "above 0",
			 (unsigned long long)c->mem_bytes);
		return -EINVAL;
	}
	return 0;
}

static int vm_create_memory(struct vm *vm, char *err, size_t errlen)
{
	struct p2m_config pc = {
		.ram_bytes = vm->cfg.mem_bytes,
		.memfd = vm->cfg.memfd,
		.pool_fd = vm->cfg.pool_fd,
		.store_fd = vm->cfg.store_fd,
		.swap_fd = vm->cfg.swap_fd,
		.control = vm->cfg.control,
		.name = vm->cfg.name ? vm->cfg.name : "vm",
	};
	int r = p2m_create(&pc, &vm->p2m);

	if (r)
		snprintf(err, errlen,
			 "memory size %llu: cannot create the guest's memory: "
			 "%s; give less memory",
			 (unsigned long long)vm->cfg.mem_bytes, strerror(-r));
	return r;
}

static int vm_create_vcpu(struct vm *vm, char *err, size_t errlen)
{
	vm->vcpu = vcpu_create(vm, 0, &vm->vcpu_memfd);
	if (vm->vcpu)
		return 0;
	vm->vcpu_memfd = -1;
	snprintf(err, errlen, "cannot create the vCPU: %s", strerror(ENOMEM));
	return -ENOMEM;
}

static int vm_create_engine(struct vm *vm, char *err, size_t errlen)
{
	int r = vm->cfg.engine->init(vm, vm->vcpu);

	if (r) {
		snprintf(err, errlen, "cannot start the %s engine: %s",
			 vm->cfg.engine->name, strerror(-r));
		return r;
	}
	vm->engine = vm->cfg.engine;
	return 0;
}

static int vm_create_large(struct vm *vm, char *err, size_t errlen)
{
	int r = vm_large_create(vm);

	if (r)
		snprintf(err, errlen, "cannot prepare large pages: %s",
			 strerror(-r));
	return r;
}

static int vm_start_io(struct vm *vm, char *err, size_t errlen)
{
	int r = iothread_start(vm->io);

	if (r)
		snprintf(err, errlen,
			 "cannot start a thread: %s; raise `ulimit -u`",
			 strerror(-r));
	return r;
}

static int vm_build(struct vm *vm, char *err, size_t errlen)
{
	int r = vm_create_memory(vm, err, errlen);

	if (!r)
		r = vm_create_vcpu(vm, err, errlen);
	if (!r)
		r = board_create(vm, err, errlen);
	if (!r)
		r = boot_load(vm, err, errlen);
	if (!r)
		r = vm_create_engine(vm, err, errlen);
	if (!r)
		r = vm_create_large(vm, err, errlen);
	if (!r)
		r = vm_start_io(vm, err, errlen);
	return r;
}

static uint64_t vm_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

int vm_create(const struct vm_config *cfg, struct vm **out, char *err,
	      size_t errlen)
{
	struct vm *vm;
	int r = vm_check_config(cfg, err, errlen);

	if (r)
		return r;
	vm = calloc(1, sizeof(*vm));
	if (!vm) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	vm->cfg = *cfg;
	vm->vcpu_memfd = -1;
	vm->boot_ns = vm_now_ns();
	pthread_mutex_init(&vm->dev_lock, NULL);
	pthread_mutex_init(&vm->wait_lock, NULL);
	pthread_cond_init(&vm->wait_cond, NULL);
	vm->run_stat_group = (struct stat_group){"run_loop", run_stat_desc,
						 ARRAY_SIZE(run_stat_desc),
						 &vm->run_stats, NULL};
	vm_add_stats(vm, &vm->run_stat_group);
	r = vm_build(vm, err, errlen);
	if (r) {
		vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->io)
		iothread_stop(vm->io);
	vm_large_destroy(vm);
	if (vm->engine)
		vm->engine->fini(vm, vm->vcpu);
	board_destroy(vm);
	vcpu_destroy(vm->vcpu);
	if (vm->vcpu_memfd >= 0)
		close(vm->vcpu_memfd);
	if (vm->p2m)
		p2m_destroy(vm->p2m);
	pthread_cond_destroy(&vm->wait_cond);
	pthread_mutex_destroy(&vm->wait_lock);
	pthread_mutex_destroy(&vm->dev_lock);
	free(vm);
}

/* ---- running ---- */

/* 0, or -errno with the reason in v->exit_reason. */
static int vm_reset(struct vm *vm)
{
	struct vcpu *v = vm->vcpu;
	char err[sizeof(v->exit_reason)];
	int r;

	vm->run_stats.resets++;
	board_reset(vm);
	r = boot_load(vm, err, sizeof(err));
	if (r) {
		vcpu_stop(v, "reset: %s", err);
		return r;
	}
	if (v->ops && v->ops->mode_changed)
		v->ops->mode_changed(v);
	if (v->ops && v->ops->tlb_flush)
		v->ops->tlb_flush(v, TLB_FLUSH_ALL, 0, 0);
	return 0;
}

/* May the VM go on after this exit? Then it has been reset. */
static bool vm_goes_on(struct vm *vm, enum vcpu_exit *why)
{
	if (*why != EXIT_RESET && *why != EXIT_SHUTDOWN)
		return false;
	/* A reset that was asked for first must not swallow a stop. */
	if (atomic_load(&vm->stopping)) {
		*why = EXIT_POWEROFF;
		return false;
	}
	if (vm->cfg.no_reboot)
		return false;
	if (!vm_reset(vm))
		return true;
	*why = EXIT_ERROR;
	return false;
}

enum vcpu_exit vm_run(struct vm *vm)
{
	enum vcpu_exit why;
	sigset_t pipe;

	/* A reader of the console that goes away is no reason to die. */
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	do {
		why = vcpu_run(vm->vcpu);
	} while (vm_goes_on(vm, &why));
	vm_large_stop(vm);
	board_finish(vm);
	return why;
}

void vm_request_exit(struct vm *vm, enum vcpu_exit why, int code)
{
	uint64_t none = 0, want = (uint32_t)why | (uint64_t)code << 32;

	atomic_compare_exchange_strong(&vm->exit_request, &none, want);
	vcpu_kick(vm->vcpu, VCPU_REQ_EXIT);
	vm_wake(vm);
}

void vm_stop(struct vm *vm)
{
	atomic_store(&vm->stopping, true);
	vm_request_exit(vm, EXIT_POWEROFF, 0);
}

void vm_pause(struct vm *vm, bool on)
{
	if (atomic_exchange(&vm->paused, on) == on)
		return;
	/* Out of the engine, or out of the sleep. */
	vcpu_kick(vm->vcpu, VCPU_REQ_WORK);
	vm_wake(vm);
}

void vm_post(struct vm *vm, struct vm_work *w)
{
	struct vm_work **p;

	w->next = NULL;
	pthread_mutex_lock(&vm->wait_lock);
	for (p = &vm->work; *p; p = &(*p)->next)
		;
	*p = w;
	pthread_mutex_unlock(&vm->wait_lock);
	vcpu_kick(vm->vcpu, VCPU_REQ_WORK);
	vm_wake(vm);
}

void vm_wake(struct vm *vm)
{
	if (!atomic_load(&vm->waiting))
		return;
	pthread_mutex_lock(&vm->wait_lock);
	pthread_cond_signal(&vm->wait_cond);
	pthread_mutex_unlock(&vm->wait_lock);
}
