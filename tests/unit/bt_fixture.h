/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_UNIT_BT_FIXTURE_H
#define TESTS_UNIT_BT_FIXTURE_H
/* The bt engine on the fixture's machine, in long mode. */
#include "tests/unit/sys_fixture.h"

#include "vmm/bt/bt_priv.h"

static inline struct bt *bt_setup(struct fix **f, struct vm_config cfg)
{
	fix_setup((void **)f);
	vcpu_destroy((*f)->v);
	(*f)->vm.cfg = cfg;
	(*f)->v = (*f)->vm.vcpu =
		vcpu_create(&(*f)->vm, 0, &(*f)->vm.vcpu_memfd);
	assert_non_null((*f)->v);
	assert_int_equal(engine_bt.init(&(*f)->vm, (*f)->v), 0);
	long_mode(*f);
	return (struct bt *)(*f)->v->bt;
}

static inline void bt_teardown(struct fix **f)
{
	engine_bt.fini(&(*f)->vm, (*f)->v);
	fix_teardown((void **)f);
}
#endif
