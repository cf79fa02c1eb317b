/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_UNIT_BT_FIXTURE_H
#define TESTS_UNIT_BT_FIXTURE_H
/* A machine with the bt engine, or another, in long mode. */
#include <stdatomic.h>

#include "tests/unit/sys_fixture.h"

#include "vmm/bt/bt_priv.h"

/* Tests that compare engines have two. */
struct side {
	const struct engine_ops *e;
	struct fix *f;
};

static inline void side_make(struct side *s, const struct engine_ops *e,
			     const struct vm_config *cfg)
{
	struct fix *f;

	fix_setup((void **)&f);
	s->e = e;
	s->f = f;
	vcpu_destroy(f->v);
	f->vm.cfg = *cfg;
	f->v = f->vm.vcpu = vcpu_create(&f->vm, 0, &f->vm.vcpu_memfd);
	assert_non_null(f->v);
	assert_int_equal(e->init(&f->vm, f->v), 0);
	long_mode(f);
}

static inline void side_drop(struct side *s)
{
	s->e->fini(&s->f->vm, s->f->v);
	fix_teardown((void **)&s->f);
}

/* Every exception's handler is HLT. */
static inline void halt_on_exceptions(struct fix *f)
{
	for (unsigned n = 0; n < 32; n++)
		poke(f, HANDLER + 16 * n, "\xf4", 1);
}

/* At a handler's HLT: which exception led there, and where the frame is that it
 * pushed (RIP, CS, RFLAGS, RSP), behind the error code. */
static inline uint64_t exception_frame(struct fix *f, unsigned *vector)
{
	unsigned n = (f->v->rip - HANDLER) / 16;
	bool code = n == 8 || (n >= 10 && n <= 14) || n == 17;

	*vector = n;
	return f->v->gpr[R_RSP] + (code ? 8 : 0);
}

static inline void run_to_halt(const struct engine_ops *e, struct vcpu *v)
{
	enum vcpu_exit x;

	v->halted = 0;
	do {
		x = e->run(v);
		atomic_store(&v->requests, 0);
	} while (x == EXIT_KICK);
	if (x != EXIT_HLT)
		fail_msg("%s: exit %d at %lx: %s", e->name, x, v->rip,
			 v->exit_reason);
}

static inline struct bt *bt_setup(struct fix **f, struct vm_config cfg)
{
	struct side s;

	side_make(&s, &engine_bt, &cfg);
	*f = s.f;
	return (struct bt *)s.f->v->bt;
}

static inline void bt_teardown(struct fix **f)
{
	struct side s = {&engine_bt, *f};

	side_drop(&s);
}
#endif
