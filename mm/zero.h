/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_MM_ZERO_H
#define SARDINE_MM_ZERO_H
/* Is a page all zero? Most pages that are not say so in their first line. */
#include "mm/types.h"

bool zero_page(const void *page); /* 8-byte aligned, PAGE_SIZE bytes */
#endif
