/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOARD_H
#define SARDINE_VMM_BOARD_H
/*
 * The board: creates the VM's devices and wires them to each other, to the
 * vCPU and to the I/O thread.
 */
#include <stddef.h>

struct vm;

/* Fills vm->pio .. vm->pm, vm->io and vm->board; makes the local APIC the
 * vCPU's interrupt source. 0; or -errno with a line in err, and board_destroy
 * takes away what is there. */
int board_create(struct vm *vm, char *err, size_t errlen);
void board_destroy(struct vm *vm);
/* The console has room for input again. Under dev_lock. */
void board_console_room(struct vm *vm);
/* Reset every device. The vCPU does not run. */
void board_reset(struct vm *vm);
/* The end of the run: nothing that the guest printed may be lost. */
void board_finish(struct vm *vm);
#endif
