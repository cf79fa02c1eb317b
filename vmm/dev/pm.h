/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_PM_H
#define SARDINE_VMM_DEV_PM_H
/*
 * ACPI fixed hardware: the PM1a event and control blocks, the power management
 * timer, the SCI. ACPI 6.4, section 4.8. Ports in platform.h.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/clock.h"
#include "vmm/dev/irq.h"
#include "vmm/dev/power.h"

struct pm;
struct pm *pm_create(struct clock clock, struct irq_line sci,
		     struct power_sink power);
void pm_destroy(struct pm *pm);
void pm_reset(struct pm *pm);
int pm_attach(struct pm *pm, struct bus *pio); /* 0 or -errno */
/* Somebody presses the power button: the guest is asked to shut down. */
void pm_press_power_button(struct pm *pm);
#endif
