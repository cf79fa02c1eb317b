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
#include <sys/stat.h>

#include "mm/control.h"
#include "mm/sharing/share.h"
#include "mm/types.h"
#include "vmm/cli/overhead.h"
#include "vmm/cli/report_fields.h"

#define OVERHEAD_QUICK_NS (NS_PER_S / 2)  /* between samples under a budget, */
#define OVERHEAD_NS	  (2 * NS_PER_S)  /* of a young VM, */
#define OVERHEAD_SLOW_NS  (15 * NS_PER_S) /* and of one that is up */
#define YOUNG_NS	  (40 * NS_PER_S)

static const char *live_state(const struct mvm *v)
{
	switch (control_get(&v->control->state)) {
	case CONTROL_RUNNING:
		if (v->paused)
			return "paused";
		return v->boot_ms ? "running" : "booting";
	case CONTROL_POWEROFF:
	case CONTROL_RESET:
	case CONTROL_ERROR:
		return "ending";
	default:
		return "starting";
	}
}

static uint64_t overhead_gap(const struct mvm *v, uint64_t now)
{
	if (v->m->cfg.enforce)
		return OVERHEAD_QUICK_NS;
	return now - v->start_ns < YOUNG_NS ? OVERHEAD_NS : OVERHEAD_SLOW_NS;
}

void manager_sample_overhead(struct mvm *v, uint64_t now, bool exact)
{
	int skip[3] = {v->memfd, v->pool_fd, v->store_fd};
	unsigned sharers = manager_alive(v->m) + 1;
	uint64_t bytes, cache;

	if (!exact && now < v->overhead_next_ns)
		return;
	/* Before: what comes while it is summed up is counted twice rather than
	 * not at all. */
	cache = v->control ? control_get(&v->control->cache_bytes) : 0;
	if (!(exact ? overhead_exact(v->pid, skip, 3, &bytes)
		    : overhead_sample(v->pid, skip, 3, sharers, &bytes))) {
		v->overhead = bytes;
		v->cache = cache;
	}
	v->overhead_next_ns = now + overhead_gap(v, now);
}

static uint64_t pages_word(const struct mvm *v, const uint64_t *word)
{
	uint64_t n = control_get(word), max = v->mem >> PAGE_SHIFT;

	return (n < max ? n : max) << PAGE_SHIFT;
}

/* Below that many us are 99 of 100 of the histogram; 0: it is empty. The
 * counts are a stranger's: capped, so that their sum cannot overflow. */
static uint64_t p99_us(const uint64_t h[LATENCY_BUCKETS])
{
	uint64_t n[LATENCY_BUCKETS], sum = 0, seen = 0;
	unsigned b;

	for (b = 0; b < LATENCY_BUCKETS; b++) {
		n[b] = control_get(&h[b]) & ((1ull << 50) - 1);
		sum += n[b];
	}
	for (b = 0; b < LATENCY_BUCKETS && sum; b++) {
		seen += n[b];
		if (seen >= sum - sum / 100)
			return 1ull << b;
	}
	return 0;
}

/* What the guest's balloon driver said last, bounded. */
static void sample_guest(const struct mvm *v, struct report_vm *o)
{
	uint64_t free = control_get(&v->control->guest_free);
	uint64_t available = control_get(&v->control->guest_available);

	if (!control_get(&v->control->guest_seq))
		return;
	if (free <= v->mem)
		o->guest_free_bytes = free;
	if (available <= v->mem)
		o->guest_available_bytes = available;
}

/* What the VM's reclaimer does; the monitor's word, bounded, but for the store,
 * which the kernel knows. Returns the bytes of pages that are away. Without a
 * budget there is little to tell. */
static uint64_t sample_away(struct mvm *v, struct report_vm *o)
{
	const struct control *c = v->control;
	uint64_t active = control_get(&c->active_bytes);
	uint64_t balloon = pages_word(v, &c->ballooned_pages);
	uint64_t compressed = pages_word(v, &c->compressed_pages);
	bool enforce = v->m->cfg.enforce;
	struct stat st;

	if (balloon || enforce)
		o->ballooned_bytes = balloon;
	sample_guest(v, o);
	if (!enforce && !compressed)
		return balloon;
	o->store_bytes =
		fstat(v->store_fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
	o->compressed_bytes = compressed;
	o->swapped_bytes = pages_word(v, &c->swapped_pages);
	if (enforce) {
		o->active_bytes = active < v->mem ? active : v->mem;
		o->granted_bytes = v->re.quota;
	}
	o->decompressed_pages = control_get(&c->decompressed) & INT64_MAX;
	o->swapped_in_pages = control_get(&c->swapped_in) & INT64_MAX;
	o->fetched_pages = control_get(&c->swap_ahead) & INT64_MAX;
	o->decompress_p99_us = p99_us(c->latency[LATENCY_DECOMPRESS]);
	o->swap_in_p99_us = p99_us(c->latency[LATENCY_SWAP_IN]);
	o->wait_ms = control_get(&c->wait_ns) / 1000000 & UINT32_MAX;
	return balloon + o->compressed_bytes + o->swapped_bytes;
}

static void sample_vm(struct mvm *v, struct report_vm *o, uint64_t now,
		      bool fresh)
{
	struct share_vm_info info = {0};
	uint64_t away, large;

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
	manager_sample_overhead(v, now, fresh);
	o->private_bytes = info.private_bytes;
	o->shared_bytes = info.shared_bytes;
	away = sample_away(v, o);
	/* What is left. */
	o->zero_bytes = info.zero_bytes > away ? info.zero_bytes - away : 0;
	o->overhead_bytes = v->overhead;
	/* the monitor's word */
	large = control_get(&v->control->large_regions);
	o->large_bytes = large < v->mem / LARGE_PAGE_SIZE
				 ? large * LARGE_PAGE_SIZE
				 : v->mem;
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

static void sample_evict(struct manager *m, struct report *r)
{
	r->n_evict = EVICT_NR;
	for (unsigned e = 0; e < EVICT_NR; e++) {
		snprintf(r->evict[e].name, REPORT_NAME, "%s", evict_names[e]);
		for (size_t i = 0; i < m->n_vms; i++)
			if (m->vms[i]->control)
				r->evict[e].count +=
					control_get(
						&m->vms[i]->control->evict[e]) &
					((1ull << 50) - 1);
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
	if (m->cfg.enforce) {
		sample_evict(m, r);
		r->store_bytes = r->swap_bytes = 0;
	}
	for (size_t i = 0; i < m->n_vms; i++) {
		struct report_vm *v = &r->vms[r->n_vms++];

		sample_vm(m->vms[i], v, now, oracle);
		r->used_bytes += v->private_bytes + v->overhead_bytes;
		if (v->store_bytes != REPORT_ABSENT) {
			if (r->store_bytes == REPORT_ABSENT)
				r->store_bytes = r->swap_bytes = 0;
			r->used_bytes += v->store_bytes;
			r->store_bytes += v->store_bytes;
			r->swap_bytes += v->swapped_bytes;
		}
	}
	r->used_bytes += r->pool_bytes;
	r->budget_bytes = m->cfg.budget_bytes;
	snprintf(r->host_state, sizeof(r->host_state), "%s",
		 r->used_bytes > r->budget_bytes
			 ? "over"
			 : (m->cfg.enforce
				    ? reclaim_state_names[m->reclaim_state]
				    : "ok"));
	r->available_bytes = mem_available();
	r->seconds = (now - m->start_ns) / NS_PER_S;
	return 0;
}
