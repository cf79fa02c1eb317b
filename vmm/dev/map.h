/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_MAP_H
#define SARDINE_VMM_DEV_MAP_H
/*
 * Where the platform's devices are: what the devices answer to and what the
 * ACPI tables (vmm/boot) tell the guest. Pure constants.
 */

/* Ports */
#define MAP_PIC_MASTER	0x020 /* 2 ports */
#define MAP_PIT		0x040 /* 4 ports */
#define MAP_SYS_CTRL_B	0x061 /* PIT channel 2 gate, speaker, OUT2 */
#define MAP_I8042	0x060 /* 0x60 data, 0x64 status/command */
#define MAP_RTC		0x070 /* index, data */
#define MAP_POST	0x080
#define MAP_SYS_CTRL_A	0x092 /* fast A20, fast reset */
#define MAP_PIC_SLAVE	0x0a0 /* 2 ports */
#define MAP_DEBUG_EXIT	0x0f4 /* with vm_config.debug_exit */
#define MAP_COM1	0x3f8 /* 8 ports, IRQ 4 */
#define MAP_ELCR	0x4d0 /* 2 ports */
#define MAP_PM1_EVT	0x600 /* PM1a_EVT_BLK: 4 ports (status, enable) */
#define MAP_PM1_CNT	0x604 /* PM1a_CNT_BLK: 2 ports */
#define MAP_PM_TMR	0x608 /* PM_TMR_BLK: 4 ports, 32 bits wide
				 (FADT flag TMR_VAL_EXT) */
#define MAP_PCI_CONFIG	0xcf8 /* 0xcf8 address, 0xcfc data; no devices */
#define MAP_RESET	0xcf9 /* FADT RESET_REG; value below */
#define MAP_RESET_VALUE 0x06

/* No SMI_CMD (FADT: 0): the machine is always in ACPI mode, SCI_EN reads 1. */
#define MAP_SLP_TYP_S5 5 /* \_S5 = Package {5, 5, 0, 0} */

/* Memory */
#define MAP_IOAPIC     0xfec00000ull
#define MAP_IOAPIC_ID  0 /* id register's reset value */
#define MAP_LAPIC      0xfee00000ull
#define MAP_MMIO_START 0xfec00000ull /* from here to 4 GiB: never RAM */

/* Interrupts. ISA IRQ n is global system interrupt n, except IRQ 0 -> GSI 2
 * (MADT override). The SCI is level-triggered, active high (override). */
#define MAP_IRQ_PIT  0
#define MAP_IRQ_COM1 4
#define MAP_IRQ_RTC  8
#define MAP_IRQ_SCI  9
#define MAP_GSI_PIT  2
#define MAP_NR_GSI   24
#endif
