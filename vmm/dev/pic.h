/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_PIC_H
#define SARDINE_VMM_DEV_PIC_H
/*
 * The pair of 8259A interrupt controllers of a PC, with the edge/level
 * registers (ELCR). Intel's 8259A data sheet (231468).
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/irq.h"

struct pic;
/* out: the master's INT line, told on each change. NULL: out of memory. */
struct pic *pic_create(struct irq_line out);
void pic_destroy(struct pic *p);
void pic_reset(struct pic *p);
/* Registers 0x20, 0xa0, 0x4d0. 0 or -errno. */
int pic_attach(struct pic *p, struct bus *pio);
void pic_set_irq(struct pic *p, unsigned irq, bool level); /* 0..15 */
/* Is INT asserted? */
bool pic_pending(const struct pic *p);
/* The vector that an acknowledge now would answer (spurious when nothing is
 * pending); no change. */
int pic_peek(const struct pic *p);
/* The acknowledge cycle: the vector; IRR -> ISR. */
int pic_ack(struct pic *p);
#endif
