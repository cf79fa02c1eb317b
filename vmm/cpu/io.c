/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Port I/O: rights (IOPL or the TSS's bitmap; SDM vol. 1, 19.5) and the bus.
 *
 * In lockstep (v->mem_log) a port is not touched twice: the access answers
 * CPU_EXIT with side_effect set, as MMIO does.
 */
#include "vmm/cpu/protection.h"
#include "vmm/dev/bus.h"
#include "vmm/vm.h"

#define TSS_IOMAP 102 /* where the offset of the bitmap is */

/* The two bytes of the bitmap that cover port..port+7. */
static enum cpu_status bitmap_word(struct vcpu *v, uint16_t port,
				   uint16_t *word)
{
	unsigned acc = MEM_READ | MEM_SYSTEM;
	enum cpu_status s;
	uint16_t base;
	unsigned off;

	/* Only a 32- or 64-bit TSS has a bitmap. */
	if (!(v->tr.attr & SEG_ATTR_P) || !(v->tr.attr & 8) ||
	    v->tr.limit < TSS_IOMAP + 1)
		return vcpu_raise(v, EXC_GP);
	s = mem_read(v, v->tr.base + TSS_IOMAP, &base, 2, acc);
	if (s)
		return s;
	off = base + port / 8;
	if (off + 1 > v->tr.limit)
		return vcpu_raise(v, EXC_GP);
	return mem_read(v, v->tr.base + off, word, 2, acc);
}

enum cpu_status cpu_io_check(struct vcpu *v, uint16_t port, unsigned len)
{
	enum cpu_status s;
	uint16_t word;

	if (cpu_is_real(v) || v->cpl <= cpu_iopl(v))
		return CPU_OK;
	s = bitmap_word(v, port, &word);
	if (s)
		return s;
	if (word >> (port & 7) & ((1u << len) - 1))
		return vcpu_raise(v, EXC_GP);
	return CPU_OK;
}

static enum cpu_status io_begin(struct vcpu *v, uint16_t port, unsigned len)
{
	enum cpu_status s = cpu_io_check(v, port, len);

	if (s || !v->mem_log)
		return s;
	v->mem_log->side_effect = true;
	v->exit = EXIT_NONE;
	return CPU_EXIT;
}

enum cpu_status cpu_in(struct vcpu *v, uint16_t port, unsigned len,
		       uint32_t *val)
{
	enum cpu_status s = io_begin(v, port, len);

	if (!s)
		*val = bus_read(v->vm->pio, port, len);
	return s;
}

enum cpu_status cpu_out(struct vcpu *v, uint16_t port, unsigned len,
			uint32_t val)
{
	enum cpu_status s = io_begin(v, port, len);

	if (!s)
		bus_write(v->vm->pio, port, len, val);
	return s;
}
