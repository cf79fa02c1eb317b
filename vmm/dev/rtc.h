/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_RTC_H
#define SARDINE_VMM_DEV_RTC_H
/*
 * The MC146818 clock and its RAM. Motorola's data sheet; register 0x32 is the
 * century (what the FADT says). Keeps UTC, of the host's clock of day until
 * the guest sets it.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/irq.h"

struct rtc;
struct rtc *rtc_create(struct clock clock, struct irq_line irq);
void rtc_destroy(struct rtc *r);
/* A machine reset: time and RAM stay, interrupts are off. */
void rtc_reset(struct rtc *r);
int rtc_attach(struct rtc *r, struct bus *pio); /* 0 or -errno */
#endif
