/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How things stand, for the table and for `top`. Sizes come from the kernel and
 * from the sharing code's own records; of the monitor's word only the state and
 * the boot time are shown, and the latter is bounded by the VM's age.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/control.h"
#include "mm/sharing/share.h"
#include "mm/types.h"
#include "vmm/cli/overhead.h"
#include "vmm/cli/report_fields.h"

#define OVERHEAD_NS	 (2 * NS_PER_S)	 /* between samples of a young VM */
#define OVERHEAD_SLOW_NS (15 * NS_PER_S) /* and of one that is up */
#define YOUNG_NS	 (40 * NS_PER_S)

static const char *live_state(const struct mvm *v)
{
	switch (control_get(&v->control->state)) {
	case CONTROL_RUNNING:
		return v->boot_ms ? "running" : "booting";
	case CONTROL_POWEROFF:
	case CONTROL_RESET:
	case CONTROL_ERROR:
		return "ending";
	default:
		return "starting";
	}
}

static void sample_overhead(struct mvm *v, uint64_t now, bool fresh)
{
	int skip[2] = {v->memfd, v->pool_fd};
	uint64_t bytes;

	if (!fresh && now < v->overhead_next_ns)
		return;
	if (!overhead_sample(v->pid, skip, 2, &bytes))
		v->overhead = bytes;
	v->overhead_next_ns =
		now +
		(now - v->start_ns < YOUNG_NS ? OVERHEAD_NS : OVERHEAD_SLOW_NS);
}

static void sample_vm(struct mvm *v, struct report_vm *o, uint64_t now,
		      bool fresh)
{
	struct share_vm_info info = {0};

	report_section_clear(&report_vm_section, o);
	snprintf(o->name, sizeof(o->name), "%s", v->name);
	o->configured_bytes = v->mem;
	o->boot_ms = v->boot_ms;
	o->pid = v->pid;
	if (!v->pid || !v->share) {
		snprintf(o->state, sizeof(o->state), "%s",
			 v->state ? v->state : "ending");
		return;
	}
	snprintf(o->state, sizeof(o->state), "%s", live_state(v));
	share_vm_get_info(v->share, &info);
	sample_overhead(v, now, fresh);
	o->private_bytes = info.private_bytes;
	o->shared_bytes = info.shared_bytes;
	o->zero_bytes = info.zero_bytes;
	o->overhead_bytes = v->overhead;
}

static uint64_t mem_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb << 10;
}

static void sample_sharing(struct manager *m, struct report *r, bool oracle)
{
	struct share_oracle o;
	struct share_stats s;

	/* Before the counters: guests run on while it compares. */
	if (oracle && !share_oracle(m->host, &o)) {
		r->oracle_bytes = o.oracle_bytes;
		r->oracle_valid = true;
	}
	share_get_stats(m->host, &s);
	r->pool_bytes = s.pool_bytes;
	r->saved_bytes = s.saved_bytes;
	r->merged_pages = s.merged_pages;
	r->zero_merged_pages = s.zero_merged_pages;
	r->broken_pages = s.broken_pages;
	r->scanned_pages = s.scanned_pages;
	for (unsigned i = 0; i < SHARE_NR_REASONS; i++) {
		if (i == SHARE_ok || r->n_refused == REPORT_REFUSED)
			continue;
		snprintf(r->refused[r->n_refused].name, REPORT_NAME, "%s",
			 share_reason_names[i]);
		r->refused[r->n_refused++].count = s.refused[i];
	}
}

int manager_sample(struct manager *m, struct report *r, bool oracle)
{
	uint64_t now = manager_now_ns();

	report_init(r);
	r->vms = calloc(m->n_vms + 1, sizeof(*r->vms));
	if (!r->vms)
		return -ENOMEM;
	sample_sharing(m, r, oracle);
	for (size_t i = 0; i < m->n_vms; i++) {
		struct report_vm *v = &r->vms[r->n_vms++];

		sample_vm(m->vms[i], v, now, oracle);
		r->used_bytes += v->private_bytes + v->overhead_bytes;
	}
	r->used_bytes += r->pool_bytes;
	r->budget_bytes = m->cfg.budget_bytes;
	snprintf(r->host_state, sizeof(r->host_state), "%s",
		 r->used_bytes > r->budget_bytes ? "over" : "ok");
	r->available_bytes = mem_available();
	r->seconds = (now - m->start_ns) / NS_PER_S;
	return 0;
}
