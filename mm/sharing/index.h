/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_SHARING_INDEX_H
#define SARDINE_MM_SHARING_INDEX_H
/*
 * The content index of a share group: hash -> pages known to have had it. A
 * node is either a shared frame, or a hint: the first VM and PPN seen with that
 * content, which nobody protects (Waldspurger, OSDI'02, section 4).
 *
 * Nodes have numbers (1..2^27-1), so that whoever made one can keep its number
 * in a few bits and take it out again without a search.
 */
#include "mm/types.h"

#define INDEX_FRAME	0xffffffffu /* in vm: the node is a shared frame */
#define INDEX_MAX_NODES (1u << 27)

struct index_node {
	uint64_t hash;
	uint32_t next; /* in its bucket; or of the free list */
	uint32_t vm;   /* hint: whose page; or INDEX_FRAME */
	uint32_t page; /* hint: the PPN; else the frame; free: ~0 */
	uint32_t used;
};

struct share_index;
struct share_index *index_create(void); /* NULL: no memory */
void index_destroy(struct share_index *x);
/* A new node, or 0: out of memory. */
uint32_t index_insert(struct share_index *x, uint64_t hash, uint32_t vm,
		      uint32_t page);
void index_remove(struct share_index *x, uint32_t id);
/* The first node with that hash, or 0; then the next after id. */
uint32_t index_find(const struct share_index *x, uint64_t hash);
uint32_t index_find_next(const struct share_index *x, uint32_t id);
/* Valid until the next insert. */
struct index_node *index_node(struct share_index *x, uint32_t id);
uint32_t index_count(const struct share_index *x);
/* One past the highest number in use ever; free nodes have used == 0. */
uint32_t index_end(const struct share_index *x);
uint64_t index_bytes(const struct share_index *x);
/* Every node is on the chain of its hash exactly once: 0 or -EUCLEAN. */
int index_audit(const struct share_index *x);
#endif
