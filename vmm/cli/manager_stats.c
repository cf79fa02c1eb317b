/* SPDX-License-Identifier: Apache-2.0 */
/* What monitors publish of their counters, as JSON. Words of strangers: names
 * and numbers are checked by control_stats_read, and are only shown. */
#include "vmm/cli/manager_priv.h"

#include <jansson.h>
#include <string.h>

#include "mm/control.h"
#include "mm/control_stats.h"

static void take(void *ctx, const char *group, const char *name, uint64_t value)
{
	json_t *root = ctx, *o = json_object_get(root, group);

	if (!o) {
		json_object_set_new(root, group, json_object());
		o = json_object_get(root, group);
	}
	json_object_set_new(o, name, json_integer((json_int_t)value));
}

static json_t *vm_stats(const struct mvm *v)
{
	const struct control_stats *s =
		(void *)((char *)v->control + control_stats_offset(v->mem, 0));
	json_t *o = json_object();

	if (o)
		control_stats_read(s, take, o);
	return o;
}

json_t *manager_stats(struct manager *m, const char *name)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < m->n_vms; i++) {
		const struct mvm *v = m->vms[i];

		if (v->control && (!name || !strcmp(v->name, name)))
			json_object_set_new(o, v->name, vm_stats(v));
	}
	return o;
}
