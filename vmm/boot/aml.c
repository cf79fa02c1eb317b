/* SPDX-License-Identifier: Apache-2.0 */
/* See aml.h. Opcodes from ACPI 6.3, table 20-448 and 20.2. */
#include <string.h>

#include "mm/base/log.h"
#include "vmm/boot/aml.h"

#define OP_ZERO	   0x00
#define OP_ONE	   0x01
#define OP_NAME	   0x08
#define OP_BYTE	   0x0a
#define OP_WORD	   0x0b
#define OP_DWORD   0x0c
#define OP_QWORD   0x0e
#define OP_SCOPE   0x10
#define OP_BUFFER  0x11
#define OP_PACKAGE 0x12
#define OP_DUAL	   0x2e
#define OP_EXT	   0x5b
#define OP_DEVICE  0x82 /* after OP_EXT */

/* Every PkgLength is written in its two-byte form: up to 4095 bytes. */
#define PKG_BYTES  2
#define PKG_MAX	   0xfff

void aml_init(struct aml *a, uint8_t *buf, size_t cap)
{
	*a = (struct aml){.buf = buf, .cap = cap};
}

void aml_byte(struct aml *a, uint8_t b)
{
	if (a->len < a->cap)
		a->buf[a->len] = b;
	a->len++;
}

static void aml_le(struct aml *a, uint64_t v, unsigned n)
{
	while (n--) {
		aml_byte(a, v);
		v >>= 8;
	}
}

void aml_path(struct aml *a, const char *path)
{
	size_t n;

	if (*path == '\\') {
		aml_byte(a, '\\');
		path++;
	}
	n = strlen(path);
	ASSERT(n == 4 || n == 8);
	if (n == 8)
		aml_byte(a, OP_DUAL);
	while (*path)
		aml_byte(a, *path++);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		aml_byte(a, v ? OP_ONE : OP_ZERO);
		return;
	}
	if (v <= 0xff) {
		aml_byte(a, OP_BYTE);
		aml_le(a, v, 1);
	} else if (v <= 0xffff) {
		aml_byte(a, OP_WORD);
		aml_le(a, v, 2);
	} else if (v <= 0xffffffff) {
		aml_byte(a, OP_DWORD);
		aml_le(a, v, 4);
	} else {
		aml_byte(a, OP_QWORD);
		aml_le(a, v, 8);
	}
}

void aml_name(struct aml *a, const char *seg)
{
	aml_byte(a, OP_NAME);
	aml_path(a, seg);
}

void aml_name_int(struct aml *a, const char *seg, uint64_t v)
{
	aml_name(a, seg);
	aml_int(a, v);
}

static unsigned hex(char c)
{
	return c <= '9' ? c - '0' : c - 'A' + 10;
}

/* 19.3.4: three letters of five bits, four hex digits, big endian */
void aml_name_eisaid(struct aml *a, const char *seg, const char *id)
{
	unsigned l =
		(id[0] - 0x40) << 10 | (id[1] - 0x40) << 5 | (id[2] - 0x40);

	aml_name(a, seg);
	aml_byte(a, OP_DWORD);
	aml_byte(a, l >> 8);
	aml_byte(a, l);
	aml_byte(a, hex(id[3]) << 4 | hex(id[4]));
	aml_byte(a, hex(id[5]) << 4 | hex(id[6]));
}

static void begin(struct aml *a)
{
	ASSERT(a->depth < sizeof(a->open) / sizeof(a->open[0]));
	a->open[a->depth++] = a->len;
	aml_le(a, 0, PKG_BYTES);
}

void aml_end(struct aml *a)
{
	size_t at, n;

	ASSERT(a->depth);
	at = a->open[--a->depth];
	n = a->len - at; /* PkgLength counts itself */
	ASSERT(n <= PKG_MAX);
	if (a->len > a->cap)
		return;
	a->buf[at] = 1 << 6 | (n & 0xf);
	a->buf[at + 1] = n >> 4;
}

void aml_scope_begin(struct aml *a, const char *path)
{
	aml_byte(a, OP_SCOPE);
	begin(a);
	aml_path(a, path);
}

void aml_device_begin(struct aml *a, const char *seg)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_DEVICE);
	begin(a);
	aml_path(a, seg);
}

void aml_package_begin(struct aml *a, unsigned n)
{
	aml_byte(a, OP_PACKAGE);
	begin(a);
	aml_byte(a, n);
}

void aml_buffer(struct aml *a, const uint8_t *bytes, size_t n)
{
	aml_byte(a, OP_BUFFER);
	begin(a);
	aml_int(a, n);
	while (n--)
		aml_byte(a, *bytes++);
	aml_end(a);
}

/* 6.4.2.5: I/O port, 16-bit decode, fixed */
size_t aml_res_io(uint8_t *r, uint16_t port, uint8_t len)
{
	const uint8_t d[8] = {0x47,	   1,	      port & 0xff, port >> 8,
			      port & 0xff, port >> 8, 1,	   len};

	memcpy(r, d, sizeof(d));
	return sizeof(d);
}

/* 6.4.3.5.2, 6.4.3.5.3: type 0 memory, 1 I/O, 2 bus numbers; min and max are
 * fixed. Fields of w bytes: granularity, min, max, translation, length. */
static size_t res_window(uint8_t *r, uint8_t tag, uint8_t type, uint8_t flags,
			 unsigned w, uint64_t min, uint64_t len)
{
	const uint64_t f[5] = {0, min, min + len - 1, 0, len};

	r[0] = tag;
	r[1] = 3 + 5 * w;
	r[2] = 0;
	r[3] = type;
	r[4] = 0x0c; /* min, max fixed; decoded positively */
	r[5] = flags;
	for (unsigned i = 0; i < 5; i++)
		memcpy(r + 6 + i * w, &f[i], w);
	return 6 + 5 * w;
}

#define RES_WORD  0x88
#define RES_DWORD 0x87

size_t aml_res_bus(uint8_t *r, uint16_t min, uint16_t max)
{
	return res_window(r, RES_WORD, 2, 0, 2, min, max - min + 1ull);
}

size_t aml_res_io_window(uint8_t *r, uint16_t port, uint16_t len)
{
	return res_window(r, RES_WORD, 1, 3 /* whole range */, 2, port, len);
}

size_t aml_res_mem_window(uint8_t *r, uint32_t base, uint32_t len)
{
	return res_window(r, RES_DWORD, 0, 1 /* read and write */, 4, base,
			  len);
}

/* 6.4.2.1: edge, active high, exclusive (the two-byte form) */
size_t aml_res_irq(uint8_t *r, unsigned irq)
{
	r[0] = 0x22;
	r[1] = 1u << irq & 0xff;
	r[2] = 1u << irq >> 8;
	return 3;
}

/* 6.4.2.9; checksum 0: not checked */
size_t aml_res_end(uint8_t *r)
{
	r[0] = 0x79;
	r[1] = 0;
	return 2;
}
