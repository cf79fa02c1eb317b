/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_ARENA_H
#define SARDINE_MM_ARENA_H
/*
 * A jemalloc arena of one's own, where it is worth knowing what a structure
 * costs and giving it back as a whole. Without jemalloc (sanitizer builds) the
 * same calls go to malloc and only the sizes asked for are counted.
 */
#include <stddef.h>
#include <stdint.h>

struct arena;
/* NULL: out of memory. */
struct arena *arena_create(void);
/* Everything allocated from it must have been freed. */
void arena_destroy(struct arena *a);
void *arena_alloc(struct arena *a, size_t n);
/* n bytes of which the first old are kept; NULL and unchanged on failure. */
void *arena_realloc(struct arena *a, void *m, size_t old, size_t n);
void arena_free(struct arena *a, void *m, size_t n);
/* Bytes asked for and not freed; bytes that the arena holds in memory for
 * them (the same number without jemalloc). */
uint64_t arena_asked(const struct arena *a);
uint64_t arena_resident(const struct arena *a);
#endif
