/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shadow from creation to destruction: host slots for windows, the books'
 * memory, statistics. shadow.c has the essay.
 */
#include "vmm/mmu/shadow_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static const struct stat_desc shadow_stat_desc[] = {
#define DESC(S, n, h) {#n, h, offsetof(struct shadow_stats, n)},
	SHADOW_STATS(DESC, )
#undef DESC
};

/* Host slots with nothing in them and nothing beside them. The kernel places
 * new mappings below the lowest one at the top (and above the heap), so a slot
 * below a slot in use is not taken either. */
static int find_slots(struct shadow *s)
{
	bool busy[HOST_SLOTS + 1] = {0};
	char line[512];
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned k = 0;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx", &a, &b) != 2)
			continue;
		for (a >>= SLOT_SHIFT, b = (b - 1) >> SLOT_SHIFT; a <= b; a++)
			if (a < HOST_SLOTS)
				busy[a] = true;
	}
	fclose(f);
	busy[HOST_SLOTS - 1] = true;
	for (unsigned i = 1; i + 2 < HOST_SLOTS; i++) {
		if (busy[i - 1] || busy[i] || busy[i + 1] || busy[i + 2])
			continue;
		if (!s->void_base)
			s->void_base = (uint64_t)i << SLOT_SHIFT;
		else if (k < MAX_WIN)
			s->free_slot[k++] = i;
		i++;
	}
	s->n_free = k;
	return k >= 16 ? 0 : -ENOMEM;
}

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint64_t vma_limit(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
	unsigned long n = 65530;

	if (f) {
		if (fscanf(f, "%lu", &n) != 1)
			n = 65530;
		fclose(f);
	}
	return n / 4 * 3;
}

int shadow_create(struct vcpu *v, struct p2m *p, const struct shadow_tables *t,
		  struct shadow **out)
{
	struct shadow *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->v = v;
	s->p = p;
	s->t = *t;
	s->max_node = 4 * p2m_ram_bytes(p) / PAGE_SIZE + 65536;
	s->node = reserve(s->max_node * sizeof(*s->node));
	s->rmap = reserve(p2m_max_ppn(p) * sizeof(*s->rmap));
	s->rmap_big = reserve((p2m_max_ppn(p) / BIG_PAGES + 1) *
			      sizeof(*s->rmap_big));
	s->splits = reserve(p2m_max_ppn(p) / BIG_PAGES + 1);
	s->hash = reserve(sizeof(*s->hash) << HASH_BITS);
	carpet_init(s);
	s->n_node = 1;
	s->vma_limit = vma_limit();
	err = s->node && s->rmap && s->rmap_big && s->splits && s->hash
		      ? find_slots(s)
		      : -ENOMEM;
	if (err) {
		shadow_destroy(s);
		return err;
	}
	shadow_tables_init(s);
	*out = s;
	return 0;
}

void shadow_trim(struct shadow *s)
{
	shadow_drop_all(s);
	/* Without nodes all heads are 0, as untouched memory is. */
	madvise(s->node, s->max_node * sizeof(*s->node), MADV_DONTNEED);
	madvise(s->rmap, p2m_max_ppn(s->p) * sizeof(*s->rmap), MADV_DONTNEED);
	madvise(s->hash, sizeof(*s->hash) << HASH_BITS, MADV_DONTNEED);
}

void shadow_destroy(struct shadow *s)
{
	shadow_drop_all(s);
	carpet_fini(s);
	if (s->node)
		munmap(s->node, s->max_node * sizeof(*s->node));
	if (s->rmap)
		munmap(s->rmap, p2m_max_ppn(s->p) * sizeof(*s->rmap));
	if (s->rmap_big)
		munmap(s->rmap_big, (p2m_max_ppn(s->p) / BIG_PAGES + 1) *
					    sizeof(*s->rmap_big));
	if (s->splits)
		munmap(s->splits, p2m_max_ppn(s->p) / BIG_PAGES + 1);
	if (s->hash)
		munmap(s->hash, sizeof(*s->hash) << HASH_BITS);
	free(s);
}

void shadow_add_stats(struct shadow *s, struct vm *vm)
{
	s->stat_group =
		(struct stat_group){"shadow", shadow_stat_desc,
				    ARRAY_SIZE(shadow_stat_desc), &s->st, NULL};
	vm_add_stats(vm, &s->stat_group);
}
