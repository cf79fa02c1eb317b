/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_BOOT_AML_H
#define SARDINE_VMM_BOOT_AML_H
/*
 * A small emitter of AML (ACPI 6.3, ch. 20), enough for a static namespace:
 * scopes and devices that hold names of integers, packages and buffers.
 * Whatever has a length is opened by *_begin and closed by aml_end, which
 * writes the PkgLength back.
 */
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *buf;
	size_t len, cap; /* len > cap: it did not fit; nothing was written
			    beyond cap */
	size_t open[8];	 /* where the PkgLength of each open object is */
	unsigned depth;
};

void aml_init(struct aml *a, uint8_t *buf, size_t cap);
void aml_byte(struct aml *a, uint8_t b);
/* A name path of up to two segments of four characters, "\\" allowed first:
 * "\\_SB_", "COM1". */
void aml_path(struct aml *a, const char *path);
void aml_int(struct aml *a, uint64_t v);
/* Name(seg, ...): the value follows. */
void aml_name(struct aml *a, const char *seg);
void aml_name_int(struct aml *a, const char *seg, uint64_t v);
/* Name(seg, EisaId(id)): three letters, four hex digits. */
void aml_name_eisaid(struct aml *a, const char *seg, const char *id);
void aml_scope_begin(struct aml *a, const char *path);
void aml_device_begin(struct aml *a, const char *seg);
void aml_package_begin(struct aml *a, unsigned n);
/* A Buffer of n bytes as one object. */
void aml_buffer(struct aml *a, const uint8_t *bytes, size_t n);
void aml_end(struct aml *a);
/* Append resource descriptors (ch. 6.4) to r; answer the bytes written. */
size_t aml_res_io(uint8_t *r, uint16_t port, uint8_t len);
/* 6.4.3.5: what a bridge passes on: bus numbers, ports, memory (not cached). */
size_t aml_res_bus(uint8_t *r, uint16_t min, uint16_t max);
size_t aml_res_io_window(uint8_t *r, uint16_t port, uint16_t len);
size_t aml_res_mem_window(uint8_t *r, uint32_t base, uint32_t len);
size_t aml_res_irq(uint8_t *r, unsigned irq);
size_t aml_res_end(uint8_t *r);
#endif
