/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_LEGACY_H
#define SARDINE_VMM_DEV_LEGACY_H
/*
 * The ports of a PC that are not worth a chip: reset (0xcf9, 0x64, 0x92), the
 * keyboard controller that is not there, PCI's configuration ports, the POST
 * port, the debug exit.
 */
#include "vmm/dev/bus.h"
#include "vmm/dev/power.h"

struct pci_bus;
struct legacy;
/* debug_exit: have port 0xf4. */
struct legacy *legacy_create(struct power_sink power, bool debug_exit);
void legacy_destroy(struct legacy *d);
void legacy_reset(struct legacy *d);
/* What is behind the configuration ports; without, there are no devices. */
void legacy_set_pci(struct legacy *d, struct pci_bus *pci);
int legacy_attach(struct legacy *d, struct bus *pio); /* 0 or -errno */
#endif
