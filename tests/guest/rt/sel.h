/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors of the start-up GDT (start.S) and the vector that ends a run. */
#ifndef GUEST_RT_SEL_H
#define GUEST_RT_SEL_H
#define KCS   0x08
#define KDS   0x10
#define UCS32 0x1b
#define UDS   0x23
#define UCS   0x2b
#define TSSEL 0x30
#define KCS32 0x40
#define KCS16 0x48
#define KDS16 0x50
#define FREESEL 0x58 /* first of 21 free slots */
#define VEC_DONE 0x81
#endif
