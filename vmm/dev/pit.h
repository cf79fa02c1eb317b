/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_PIT_H
#define SARDINE_VMM_DEV_PIT_H
/*
 * The 8254 timer and port 0x61. Intel's 8254 data sheet (231164). Channel 0's
 * OUT is the interrupt line; channel 2's gate and OUT are in port 0x61.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/irq.h"

#define PIT_HZ 1193182u

struct pit;
struct pit *pit_create(struct clock clock, struct irq_line irq);
void pit_destroy(struct pit *p);
void pit_reset(struct pit *p);
int pit_attach(struct pit *p, struct bus *pio); /* 0 or -errno */
#endif
