/* SPDX-License-Identifier: Apache-2.0 */
/* The guest of `sardine memsweep`, as a file to boot. */
	.section .rodata
	.balign 16
	.globl memsweep_image, memsweep_image_end
memsweep_image:
	.incbin MEMSWEEP_ELF
memsweep_image_end:
	.section .note.GNU-stack, "", @progbits
