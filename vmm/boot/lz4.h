/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOOT_LZ4_H
#define SARDINE_VMM_BOOT_LZ4_H
/* Unpacking LZ4's legacy frames, the form in which Linux packs kernels. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LZ4_LEGACY_MAGIC 0x184c2102u

/*
 * One block: n bytes at src into dst, at most cap bytes. Any input is safe:
 * it reads and writes nothing outside. Answers the bytes written, or -1 when
 * the block is damaged or does not fit.
 */
long lz4_block(const uint8_t *src, size_t n, uint8_t *dst, size_t cap);

/* A whole frame: magic, then blocks, each after its length; exactly want bytes
 * must come out. What follows them is not looked at. */
bool lz4_frame(const uint8_t *src, size_t n, uint8_t *dst, size_t want);
#endif
