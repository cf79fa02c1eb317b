/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop, common to all engines: requests of other threads, interrupts,
 * the wait in HLT, and otherwise the engine.
 *
 * Waking up. Whoever wants the vCPU thread sets bits in v->requests, kicks the
 * engine, and calls vm_wake(). The thread in HLT announces that it sleeps
 * (vm->waiting), then looks at the requests once more; the other side sets the
 * request first and looks at vm->waiting then. Both in sequentially consistent
 * order, so one of them sees the other (Dekker), and vm_wake() costs one load
 * when nobody sleeps.
 *
 * An interrupt that is pending while IF is clear needs no request: the engine
 * asks irq->peek() itself when the guest sets IF. One that is held back by the
 * shadow of STI or MOV SS alone is the loop's: one instruction is interpreted,
 * which ends the shadow.
 */
#include <stdatomic.h>
#include <time.h>

#include "vmm/cpu/interp.h"
#include "vmm/cpu/sys.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void run_work(struct vm *vm)
{
	struct vm_work *w, *next;

	pthread_mutex_lock(&vm->wait_lock);
	w = vm->work;
	vm->work = NULL;
	pthread_mutex_unlock(&vm->wait_lock);
	for (; w; w = next) {
		next = w->next; /* fn may free or post w again */
		vm->run_stats.work++;
		w->fn(vm, w);
	}
}

/* True: leave, v->exit is set. */
static bool run_requests(struct vcpu *v)
{
	uint32_t req = atomic_exchange(&v->requests, 0);
	uint64_t why;

	if (req & VCPU_REQ_WORK)
		run_work(v->vm);
	if (!(req & VCPU_REQ_EXIT))
		return false;
	why = atomic_exchange(&v->vm->exit_request, 0);
	if (!why)
		return false;
	v->exit = (uint32_t)why;
	v->exit_code = (int)(why >> 32);
	return true;
}

/* The delivery itself may raise an exception: that is delivered then. */
static enum cpu_status run_deliver(struct vcpu *v, uint8_t vector)
{
	enum cpu_status s = cpu_deliver_interrupt(v, vector);

	while (s == CPU_EXC)
		s = cpu_deliver_exception(v);
	return s;
}

static enum cpu_status run_inject(struct vcpu *v)
{
	int vec = v->irq->ack(v->irq_ctx);

	if (vec < 0)
		return CPU_OK;
	v->halted = 0;
	v->vm->run_stats.irq_injected++;
	return run_deliver(v, vec);
}

/* Interrupts before the next instruction. CPU_EXIT: leave. */
static enum cpu_status run_interrupts(struct vcpu *v)
{
	if (v->irq->peek(v->irq_ctx) < 0)
		return CPU_OK;
	/* HLT has completed: the shadow of the STI before it is over. */
	if (v->halted)
		v->irq_shadow = 0;
	if (cpu_can_take_irq(v))
		return run_inject(v);
	if (v->irq_shadow && (v->rflags & FL_IF)) {
		v->vm->run_stats.irq_shadow_steps++;
		return interp_step(v);
	}
	return CPU_OK;
}

static bool run_must_wake(struct vcpu *v)
{
	return atomic_load(&v->requests) ||
	       ((v->rflags & FL_IF) && v->irq->peek(v->irq_ctx) >= 0);
}

static void run_halt(struct vcpu *v)
{
	struct vm *vm = v->vm;
	uint64_t start = now_ns();

	vm->run_stats.hlt_waits++;
	pthread_mutex_lock(&vm->wait_lock);
	atomic_store(&vm->waiting, true);
	while (!run_must_wake(v))
		pthread_cond_wait(&vm->wait_cond, &vm->wait_lock);
	atomic_store(&vm->waiting, false);
	pthread_mutex_unlock(&vm->wait_lock);
	vm->run_stats.hlt_ns += now_ns() - start;
}

/* Until there is something to do, or no longer paused. */
static void run_paused(struct vcpu *v)
{
	struct vm *vm = v->vm;
	uint64_t start = now_ns();

	pthread_mutex_lock(&vm->wait_lock);
	atomic_store(&vm->waiting, true);
	while (atomic_load(&vm->paused) && !atomic_load(&v->requests))
		pthread_cond_wait(&vm->wait_cond, &vm->wait_lock);
	atomic_store(&vm->waiting, false);
	pthread_mutex_unlock(&vm->wait_lock);
	vm->run_stats.paused_ns += now_ns() - start;
}

enum vcpu_exit vcpu_run(struct vcpu *v)
{
	struct run_stats *st = &v->vm->run_stats;
	enum vcpu_exit why;

	for (;;) {
		if (atomic_load_explicit(&v->requests, memory_order_relaxed) &&
		    run_requests(v))
			return v->exit;
		if (atomic_load_explicit(&v->vm->paused,
					 memory_order_relaxed)) {
			run_paused(v);
			continue;
		}
		if (run_interrupts(v) == CPU_EXIT)
			return v->exit;
		if (v->halted) {
			run_halt(v);
			continue;
		}
		st->engine_runs++;
		why = v->vm->engine->run(v);
		switch (why) {
		case EXIT_NONE:
		case EXIT_KICK:
			st->exit_kick++;
			break;
		case EXIT_HLT:
			st->exit_hlt++;
			break;
		default:
			return v->exit = why;
		}
	}
}
