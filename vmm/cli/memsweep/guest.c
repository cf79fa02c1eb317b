/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest of `sardine memsweep`: page tables of 4 KiB and of 2 MiB pages over
 * the same memory, and a loop that takes jobs from the port (loops.h). It has
 * no interrupts, no user mode and no devices but two ports.
 */
#include "vmm/cli/memsweep/loops.h"

#define PTE_BITS   0x63ull /* present, writable, accessed, dirty */
#define PTE_LARGE  0x80ull
#define DEBUG_EXIT 0xf4
#define PAGE	   4096ull
#define LARGE	   (2ull << 20)

/* start.S */
extern uint64_t boot_pdpt[512];

static uint64_t pd[2][512] __attribute__((aligned(4096)));
static uint64_t pt[MEMSWEEP_MAX / PAGE] __attribute__((aligned(4096)));

static uint32_t in32(uint16_t port)
{
	uint32_t v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static void out32(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static void make_tables(void)
{
	for (uint64_t i = 0; i < MEMSWEEP_MAX / PAGE; i++)
		pt[i] = (MEMSWEEP_BASE + i * PAGE) | PTE_BITS;
	for (uint64_t i = 0; i < MEMSWEEP_MAX / LARGE; i++) {
		pd[0][i] = (uint64_t)&pt[i * 512] | PTE_BITS;
		pd[1][i] = (MEMSWEEP_BASE + i * LARGE) | PTE_BITS | PTE_LARGE;
	}
	boot_pdpt[MEMSWEEP_VA_4K >> 30] = (uint64_t)pd[0] | PTE_BITS;
	boot_pdpt[MEMSWEEP_VA_2M >> 30] = (uint64_t)pd[1] | PTE_BITS;
}

void guest_main(void)
{
	uint32_t kind;

	make_tables();
	while ((kind = in32(MEMSWEEP_PORT)) != LOOP_END) {
		uint64_t size = (uint64_t)in32(MEMSWEEP_PORT) << 10, sum;
		uint32_t n = in32(MEMSWEEP_PORT);
		void *mem = (void *)(in32(MEMSWEEP_PORT) ? MEMSWEEP_VA_2M
							 : MEMSWEEP_VA_4K);

		loop_init(kind, mem, size);
		out32(MEMSWEEP_PORT, MEMSWEEP_READY);
		/* all of it seen, in the mapping that counts */
		loop_run(kind, mem, size, n / 8);
		loop_init(kind, mem, size);
		out32(MEMSWEEP_PORT, MEMSWEEP_START);
		sum = loop_run(kind, mem, size, n);
		out32(MEMSWEEP_PORT, MEMSWEEP_STOP);
		out32(MEMSWEEP_PORT, (uint32_t)sum);
		out32(MEMSWEEP_PORT, (uint32_t)(sum >> 32));
	}
	out32(DEBUG_EXIT, 0);
	for (;;)
		asm volatile("hlt");
}
