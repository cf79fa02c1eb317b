/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manager's objects: the host, its share groups, their VMs. What they do
 * is in share_scan.c (news, reading, messages), share_match.c (equal pages) and
 * share_ref.c (references).
 *
 * Memory: 4 bytes and 1 bit a guest page that was ever looked at, 24 bytes a
 * page with a hint, 8 bytes a frame; all of it sparse.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "mm/sharing/share_priv.h"

#define POOL_DEFAULT (64ull << 30)

static void *sparse(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

static void unmap(void *m, size_t bytes)
{
	if (m)
		munmap(m, bytes);
}

/* The host. */

static void set_params(struct share_host *h, const struct share_params *p)
{
	if (p)
		h->par = *p;
	if (!h->par.collect_min_ns)
		h->par.collect_min_ns = 50000000;
	if (!h->par.collect_max_ns)
		h->par.collect_max_ns = 1000000000;
	if (!h->par.settle_ns)
		h->par.settle_ns = 500000000;
	if (!h->par.collect_budget)
		h->par.collect_budget = 1024;
	if (!h->par.inflight)
		h->par.inflight = 4;
}

int share_host_create(const struct share_host_ops *ops, void *ctx,
		      const struct share_params *params,
		      struct share_host **out)
{
	struct share_host *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->ops = ops;
	h->ctx = ctx;
	set_params(h, params);
	h->buf = aligned_alloc(PAGE_SIZE, CHUNK * PAGE_SIZE);
	h->buf2 = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	if (!h->buf || !h->buf2) {
		share_host_destroy(h);
		return -ENOMEM;
	}
	*out = h;
	return 0;
}

void share_host_destroy(struct share_host *h)
{
	if (!h)
		return;
	for (uint32_t i = 0; i < h->vms; i++)
		if (h->vm[i])
			share_vm_remove(h->vm[i]);
	while (h->groups)
		share_group_destroy(h->groups);
	free(h->vm);
	free(h->buf);
	free(h->buf2);
	free(h);
}

/* Groups. */

/* The pool goes with it, whatever happens. */
int share_group_make(struct share_host *h, const char *name, struct pool *pool,
		     struct share_group **out)
{
	struct share_group *g = calloc(1, sizeof(*g));

	if (!g) {
		pool_destroy(pool);
		return -ENOMEM;
	}
	g->h = h;
	snprintf(g->name, sizeof(g->name), "%s", name);
	g->next = h->groups;
	h->groups = g;
	g->pool = pool;
	g->frame_bytes = pool_frames(g->pool) * sizeof(*g->frame);
	g->frame = sparse(g->frame_bytes);
	g->index = index_create();
	if (!g->frame || !g->index) {
		share_group_destroy(g);
		return -ENOMEM;
	}
	*out = g;
	return 0;
}

int share_group_create(struct share_host *h, const char *name,
		       uint64_t pool_bytes, struct share_group **out)
{
	struct pool *pool;
	int r;

	r = pool_create(name, pool_bytes ? pool_bytes : POOL_DEFAULT, &pool);
	return r ? r : share_group_make(h, name, pool, out);
}

int share_group_destroy(struct share_group *g)
{
	struct share_group **link = &g->h->groups;

	if (g->vms)
		return -EBUSY;
	while (*link != g)
		link = &(*link)->next;
	*link = g->next;
	unmap(g->frame, g->frame_bytes);
	index_destroy(g->index);
	pool_destroy(g->pool);
	free(g);
	return 0;
}

int share_group_pool_fd(const struct share_group *g)
{
	return pool_ro_fd(g->pool);
}

/* VMs. */

bool share_vm_is_ram(const struct share_vm *v, uint64_t ppn)
{
	uint64_t high = 4ull << (30 - PAGE_SHIFT);

	return ppn < v->low_pages || (ppn >= high && ppn < v->max_ppn);
}

/* The file's size is settled before the monitor has it, so that it cannot
 * shrink it under a reader or grow it beyond its RAM. */
static int take_memfd(struct share_vm *v, int fd)
{
	uint64_t bytes = v->max_ppn << PAGE_SHIFT;
	struct stat st;

	v->memfd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (v->memfd < 0 || fstat(v->memfd, &st))
		return -errno;
	if ((uint64_t)st.st_size != bytes && ftruncate(v->memfd, bytes))
		return -errno;
	(void)fcntl(v->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	return 0;
}

static int take_id(struct share_vm *v)
{
	struct share_host *h = v->h;
	struct share_vm **more;
	uint32_t i;

	for (i = 0; i < h->vms; i++)
		if (!h->vm[i])
			break;
	if (i == h->vms) {
		more = realloc(h->vm, (i + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		h->vm = more;
		h->vms++;
	}
	h->vm[i] = v;
	v->id = i;
	return 0;
}

static void free_vm(struct share_vm *v)
{
	unmap(v->rec, v->rec_bytes);
	unmap(v->todo, v->todo_bytes);
	if (v->memfd >= 0)
		close(v->memfd);
	free(v->out);
	free(v);
}

static int fill_vm(struct share_vm *v, const struct share_vm_config *cfg)
{
	uint64_t low = cfg->low_limit ? cfg->low_limit : 3ull << 30, off[3];
	int r;

	v->max_ppn = control_max_ppn(cfg->ram_bytes, low);
	v->words = (v->max_ppn + 63) / 64;
	v->ram_pages = cfg->ram_bytes >> PAGE_SHIFT;
	v->low_pages =
		(cfg->ram_bytes < low ? cfg->ram_bytes : low) >> PAGE_SHIFT;
	v->ctl = cfg->control;
	control_offsets(cfg->ram_bytes, low, off);
	v->changed = (uint64_t *)((char *)v->ctl + off[0]);
	v->collected = (uint64_t *)((char *)v->ctl + off[1]);
	v->released = (uint64_t *)((char *)v->ctl + off[2]);
	v->rec_bytes = (v->max_ppn + 1) * sizeof(*v->rec);
	v->rec = sparse(v->rec_bytes);
	v->todo_bytes = 3 * v->words * 8;
	v->todo = sparse(v->todo_bytes);
	if (!v->rec || !v->todo)
		return -ENOMEM;
	v->young[0] = v->todo + v->words;
	v->young[1] = v->young[0] + v->words;
	r = take_memfd(v, cfg->memfd);
	return r ? r : take_id(v);
}

int share_vm_add(struct share_group *g, const struct share_vm_config *cfg,
		 struct share_vm **out)
{
	struct share_vm *v;
	int r;

	if (!cfg->ram_bytes || cfg->ram_bytes & ~PAGE_MASK || !cfg->control)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->h = g->h;
	v->g = g;
	v->memfd = -1;
	v->user = cfg->user;
	v->enabled = true;
	v->collect_gap = g->h->par.collect_min_ns;
	snprintf(v->name, sizeof(v->name), "%s", cfg->name ? cfg->name : "");
	r = fill_vm(v, cfg);
	if (r) {
		free_vm(v);
		return r;
	}
	g->vms++;
	*out = v;
	return 0;
}

void share_vm_remove(struct share_vm *v)
{
	for (uint64_t n = 0; n < v->max_ppn; n++) {
		if (n == v->low_pages && n < v->max_ppn)
			n = 4ull << (30 - PAGE_SHIFT);
		if (n < v->max_ppn)
			share_rec_clear(v, n);
	}
	pool_forget_owner(v->g->pool, v->id + 1);
	v->h->vm[v->id] = NULL;
	v->g->vms--;
	free_vm(v);
}

void *share_vm_user(const struct share_vm *v)
{
	return v->user;
}

void share_vm_enable(struct share_vm *v, bool on)
{
	v->enabled = on;
}
