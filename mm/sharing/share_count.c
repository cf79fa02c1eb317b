/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of the manager's side, from its own records wherever it can; the one
 * figure it must take from monitors (zero pages merged) is bounded. */
#include <string.h>
#include <sys/stat.h>

#include "mm/sharing/share_priv.h"

uint64_t share_zero_merged(const struct share_vm *v)
{
	uint64_t n = control_get(&v->ctl->zero_merged_pages);
	uint64_t max = v->ram_pages - v->shared;

	return n < max ? n : max;
}

uint64_t share_vm_runs(const struct share_vm *v)
{
	uint64_t runs = 0;
	uint32_t prev = 0;

	for (uint64_t n = 0; n < v->max_ppn && v->shared; n++) {
		uint32_t r = v->rec[n];

		if (n == v->low_pages)
			n = (4ull << (30 - PAGE_SHIFT)) - 1, r = 0;
		else if (rec_kind(r) == REC_SHARED)
			runs += rec_kind(prev) != REC_SHARED ||
				rec_pay(prev) + 1 != rec_pay(r);
		prev = r;
	}
	return runs;
}

static void add_vm(struct share_stats *s, const struct share_vm *v)
{
	s->shared_bytes += v->shared << PAGE_SHIFT;
	s->zero_merged_bytes += share_zero_merged(v) << PAGE_SHIFT;
	s->pool_runs += share_vm_runs(v);
	s->host_bytes += v->ram_pages * sizeof(*v->rec) + v->todo_bytes +
			 v->out_cap * sizeof(*v->out);
}

void share_get_stats(struct share_host *h, struct share_stats *s)
{
	uint64_t gain;

	*s = h->st;
	for (uint32_t i = 0; i < h->vms; i++)
		if (h->vm[i])
			add_vm(s, h->vm[i]);
	for (struct share_group *g = h->groups; g; g = g->next) {
		s->pool_bytes += (uint64_t)pool_used(g->pool) << PAGE_SHIFT;
		s->index_entries += index_count(g->index);
		s->index_bytes += index_bytes(g->index);
	}
	/* A frame may be spent before its first page is committed. */
	gain = s->shared_bytes + s->zero_merged_bytes;
	s->saved_bytes = gain > s->pool_bytes ? gain - s->pool_bytes : 0;
}

void share_vm_get_info(struct share_vm *v, struct share_vm_info *i)
{
	struct stat st = {0};
	uint64_t ram = v->ram_pages << PAGE_SHIFT, used;

	(void)fstat(v->memfd, &st);
	*i = (struct share_vm_info){
		.private_bytes = (uint64_t)st.st_blocks * 512,
		.shared_bytes = v->shared << PAGE_SHIFT,
		.merged_pages = v->merged,
		.zero_merged_pages = v->zero_merged,
		.broken_pages = v->broken,
		.pool_runs = share_vm_runs(v),
	};
	used = i->private_bytes + i->shared_bytes;
	i->zero_bytes = ram > used ? ram - used : 0;
}

mpn_t share_vm_frame(struct share_vm *v, ppn_t ppn, bool *pending)
{
	uint32_t r;

	*pending = false;
	if (!share_vm_is_ram(v, ppn.n))
		return MPN_NONE;
	r = v->rec[ppn.n];
	*pending = rec_kind(r) == REC_PENDING || rec_kind(r) == REC_EARLY ||
		   rec_kind(r) == REC_ZEROING;
	return rec_holds(r) ? (mpn_t){rec_pay(r)} : MPN_NONE;
}
