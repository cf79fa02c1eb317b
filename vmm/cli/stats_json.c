/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/stats_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "vmm/large.h"

const char *vcpu_exit_name(enum vcpu_exit why)
{
	static const char *const names[] = {
		[EXIT_NONE] = "none",	     [EXIT_KICK] = "kick",
		[EXIT_HLT] = "hlt",	     [EXIT_SHUTDOWN] = "shutdown",
		[EXIT_RESET] = "reset",	     [EXIT_POWEROFF] = "poweroff",
		[EXIT_DEBUG] = "debug_exit", [EXIT_ERROR] = "error",
	};

	if ((unsigned)why >= ARRAY_SIZE(names) || !names[why])
		return "unknown";
	return names[why];
}

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static json_t *run_json(struct vm *vm, enum vcpu_exit why)
{
	struct rusage ru = {0};
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
	getrusage(RUSAGE_SELF, &ru);
	return json_pack("{s:s,s:s,s:f,s:f,s:f,s:I,s:I}", "exit",
			 vcpu_exit_name(why), "engine", vm->engine->name,
			 "wall_seconds", (double)(ns - vm->boot_ns) / 1e9,
			 "user_seconds", seconds(ru.ru_utime), "system_seconds",
			 seconds(ru.ru_stime), "max_rss_bytes",
			 (json_int_t)ru.ru_maxrss * 1024, "configured_bytes",
			 (json_int_t)vm->cfg.mem_bytes);
}

static json_t *memory_json(struct vm *vm)
{
	struct p2m_usage u;

	p2m_get_usage(vm->p2m, &u);
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "private_bytes",
			 (json_int_t)u.private_bytes, "shared_bytes",
			 (json_int_t)u.shared_bytes, "zero_bytes",
			 (json_int_t)u.zero_bytes, "large_bytes",
			 (json_int_t)p2m_large_regions(vm->p2m) *
				 (json_int_t)LARGE_PAGE_SIZE,
			 "large_mapped_bytes", (json_int_t)vm_large_mapped(vm));
}

static json_t *group_json(const struct stat_group *g)
{
	json_t *o = json_object();

	for (size_t i = 0; o && i < g->n; i++) {
		uint64_t v;

		memcpy(&v, (const char *)g->base + g->desc[i].offset,
		       sizeof(v));
		json_object_set_new(o, g->desc[i].name,
				    json_integer((json_int_t)v));
	}
	return o;
}

json_t *stats_json(struct vm *vm, enum vcpu_exit why)
{
	json_t *root = json_object();

	if (!root)
		return NULL;
	json_object_set_new(root, "run", run_json(vm, why));
	json_object_set_new(root, "memory", memory_json(vm));
	for (const struct stat_group *g = vm->stats; g; g = g->next) {
		json_t *o = json_object_get(root, g->prefix);

		/* Two groups may share a prefix: they become one object. */
		if (o) {
			json_t *more = group_json(g);

			json_object_update(o, more);
			json_decref(more);
		} else {
			json_object_set_new(root, g->prefix, group_json(g));
		}
	}
	return root;
}

int stats_json_write(struct vm *vm, enum vcpu_exit why, int fd)
{
	json_t *root = stats_json(vm, why);
	int r = -ENOMEM;

	if (root)
		r = json_dumpfd(root, fd, JSON_INDENT(2)) ? -EIO : 0;
	json_decref(root);
	if (!r && write(fd, "\n", 1) != 1)
		r = -errno;
	return r;
}
