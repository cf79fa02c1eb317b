/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LZ4 (the block format's description, version 1.6; legacy frames: the frame
 * format's). A block is a chain of sequences:
 *
 *	token	high four bits: literals; low four: match length - 4
 *	[255..]	more of the literals' length, while the byte is 255
 *	literals
 *	offset	two bytes: how far back the match begins (may overlap)
 *	[255..]	more of the match's length
 *
 * The last sequence ends after its literals. The legacy frame's blocks are
 * independent of each other.
 */
#include "vmm/boot/lz4.h"

#include <string.h>

#include "vmm/boot/boot_priv.h"

struct in {
	const uint8_t *p, *end;
};

/* The rest of a length whose four bits were all ones. Stops growing where no
 * buffer can follow. */
static bool more_length(struct in *in, size_t *len)
{
	uint8_t b;

	do {
		if (in->p == in->end || *len > SIZE_MAX / 2)
			return false;
		b = *in->p++;
		*len += b;
	} while (b == 255);
	return true;
}

static void copy_match(uint8_t *d, size_t offset, size_t len)
{
	if (offset >= len) {
		memcpy(d, d - offset, len);
		return;
	}
	while (len--) {
		*d = *(d - offset);
		d++;
	}
}

long lz4_block(const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
	struct in in = {src, src + n};
	size_t out = 0;

	while (in.p < in.end) {
		uint8_t token = *in.p++;
		size_t lit = token >> 4, len = token & 15, offset;

		if (lit == 15 && !more_length(&in, &lit))
			return -1;
		if (lit > (size_t)(in.end - in.p) || lit > cap - out)
			return -1;
		memcpy(dst + out, in.p, lit);
		in.p += lit;
		out += lit;
		if (in.p == in.end)
			return out;
		if (in.end - in.p < 2)
			return -1;
		offset = get16(in.p);
		in.p += 2;
		if (len == 15 && !more_length(&in, &len))
			return -1;
		len += 4;
		if (!offset || offset > out || len > cap - out)
			return -1;
		copy_match(dst + out, offset, len);
		out += len;
	}
	return -1; /* a block ends with literals */
}

bool lz4_frame(const uint8_t *src, size_t n, uint8_t *dst, size_t want)
{
	size_t at = 4, out = 0;

	if (n < 4 || get32(src) != LZ4_LEGACY_MAGIC)
		return false;
	while (out < want) {
		uint32_t len;
		long got;

		if (n - at < 4)
			return false;
		len = get32(src + at);
		at += 4;
		if (len > n - at)
			return false;
		got = lz4_block(src + at, len, dst + out, want - out);
		if (got <= 0)
			return false;
		at += len;
		out += got;
	}
	return true;
}
