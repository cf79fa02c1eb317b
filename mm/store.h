/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_STORE_H
#define SARDINE_MM_STORE_H
/*
 * A store of small objects (compressed pages) in a file of memory: one a VM,
 * owned by the thread that owns the VM's p2m.
 */
#include "mm/types.h"

#define STORE_NONE    ~0u
#define STORE_MAX_LEN 3072u /* a longer object wins too little */

/* What is written with an object. */
struct store_tag {
	uint32_t ppn;  /* whose it is */
	uint32_t sum;  /* of the page it came from: checked by who reads it */
	uint16_t when; /* the owner's clock */
};

struct store;

/* fd (dup'ed) is a memfd of at least bytes, given from outside; its holes are
 * where nothing is stored. -EINVAL when it is too small or bytes is 0. */
int store_create(int fd, uint64_t bytes, struct store **out);
void store_destroy(struct store *s);

/* 0 and the object's handle (less than 2^27), or -ENOSPC: the store is full,
 * -ENOMEM: the host is out of memory, -E2BIG: longer than STORE_MAX_LEN. */
int store_put(struct store *s, const void *bytes, unsigned len,
	      const struct store_tag *tag, uint32_t *handle);
/* Bytes of an object into buf (STORE_MAX_LEN big): its length, or -EIO. */
int store_get(struct store *s, uint32_t handle, void *buf,
	      struct store_tag *tag);
void store_free(struct store *s, uint32_t handle);

/*
 * Objects that are left in slabs that have become half empty are moved together
 * when one is freed: fn is called for each, and what it was known by is its new
 * handle from then on. Without it nothing is moved.
 */
void store_set_moved(struct store *s,
		     void (*fn)(void *ctx, uint32_t ppn, uint32_t from,
				uint32_t to),
		     void *ctx);

uint64_t store_bytes(const struct store *s);   /* of memory in use */
uint64_t store_payload(const struct store *s); /* of objects in it */
uint64_t store_count(const struct store *s);   /* objects */

/* Is this a live object, and this page's? For the p2m's audit. */
bool store_holds(struct store *s, uint32_t handle, uint32_t ppn);
/* Everything recounted: 0, or -EUCLEAN after logging each difference. */
int store_audit(struct store *s);
#endif
