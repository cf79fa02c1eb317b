/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOOT_H
#define SARDINE_VMM_BOOT_H
/*
 * What firmware and boot loader do on a real machine: put the kernel named by
 * vm->cfg into guest memory with its initrd, command line and memory map,
 * build the ACPI tables, and set the vCPU to the kernel's entry state.
 *
 * The kind of kernel is found out from the file:
 *	Linux bzImage	the 64-bit entry of the boot protocol (>= 2.12)
 *	ELF64		Xen's PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY)
 *	ELF32, flat	Multiboot 1
 */
#include <stddef.h>

struct vm;

/*
 * vm->p2m and vm->vcpu exist; the caller is the vCPU's thread, and the vCPU
 * does not run. Resets the vCPU first. May be called again for a reboot: RAM
 * may then hold anything.
 *
 * 0; or -errno, with one line in err that names the file and the remedy: guest
 * memory is then undefined, and nothing is left open or allocated.
 */
int boot_load(struct vm *vm, char *err, size_t errlen);
#endif
