/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_PLATFORM_H
#define SARDINE_VMM_DEV_PLATFORM_H
/*
 * The map of the platform: where each chip answers and which line it drives.
 * The one place that devices (vmm/dev) and firmware tables (vmm/boot) both
 * read, so that what ACPI says and what the bus does cannot differ.
 */

/* Ports */
#define PORT_PIC_MASTER	    0x20 /* 2 bytes; masked 8259s, if at all */
#define PORT_PIC_SLAVE	    0xa0
#define PORT_PIT	    0x40  /* 4 bytes: 8254 */
#define PORT_SPEAKER	    0x61  /* PIT channel 2 gate and output */
#define PORT_RTC	    0x70  /* 2 bytes: MC146818 */
#define PORT_DEBUG_EXIT	    0xf4  /* with --debug-exit */
#define PORT_COM1	    0x3f8 /* 8 bytes: 16550 */
#define PORT_PCI_CONFIG	    0xcf8 /* 8 bytes: address, data; but see PORT_RESET */
#define PORT_RESET	    0xcf9 /* bit 2 set: reset (FADT: value 6) */
#define RESET_VALUE	    0x06
#define PORT_I8042_CMD	    0x64 /* 0xfe: reset. There is no keyboard. */

/* PCI, in VMs with PCI devices: where BARs go */
#define PORT_PCI_WINDOW	    0xc000
#define PORT_PCI_WINDOW_LEN 0x2000
#define PCI_MMIO_BASE	    0xfe000000ull
#define PCI_MMIO_LEN	    0x100000ull
#define GSI_PCI		    16 /* INTA of slot n: 16 + n % 4, level */

/* ACPI fixed hardware (ACPI 6, 4.8.3) */
#define PORT_PM1A_EVT	    0x600 /* 4 bytes: status, enable */
#define PORT_PM1A_CNT	    0x604 /* 2 bytes: SCI_EN, SLP_TYP, SLP_EN */
#define PORT_PM_TMR	    0x608 /* 4 bytes: 3.579545 MHz, 24 or 32 bits */
#define PM_TMR_HZ	    3579545u
#define PM_SLP_TYP_S5	    5 /* what \_S5 holds */

/* Legacy IRQ lines; the I/O APIC input (GSI) is the same number but for the
 * PIT, which is wired to input 2. */
#define IRQ_PIT		    0
#define GSI_PIT		    2
#define IRQ_COM1	    4
#define IRQ_RTC		    8
#define IRQ_SCI		    9 /* level, active high */
#define IOAPIC_PINS	    24

/* MMIO */
#define IOAPIC_BASE	    0xfec00000ull /* 4 KiB */
#define LAPIC_BASE	    0xfee00000ull /* 4 KiB */

/* IDs */
#define LAPIC_ID_BSP	    0
#define IOAPIC_ID	    1
#endif
