/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack_kernel BZIMAGE OUT: the ELF vmlinux inside a bzImage with an LZ4
 * payload, for tests of the PVH entry on the stock kernel.
 */
#include <stdio.h>
#include <stdlib.h>

#include "vmm/boot/boot_priv.h"
#include "vmm/boot/lz4.h"

static uint8_t *slurp(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	uint8_t *p;

	if (!f || fseek(f, 0, SEEK_END) || (long)(*n = ftell(f)) < 0x290)
		return NULL;
	rewind(f);
	p = malloc(*n);
	if (p && fread(p, 1, *n, f) != *n)
		return NULL;
	fclose(f);
	return p;
}

int main(int argc, char **argv)
{
	uint8_t *bz, *out;
	size_t n, at, len, want;
	FILE *f;

	if (argc != 3 || !(bz = slurp(argv[1], &n)))
		goto bad;
	at = ((bz[0x1f1] ?: 4) + 1) * 512 + (size_t)get32(bz + 0x248);
	len = get32(bz + 0x24c);
	if (at > n || len > n - at || len < 8)
		goto bad;
	want = get32(bz + at + len - 4);
	out = malloc(want);
	if (!out || !lz4_frame(bz + at, len - 4, out, want))
		goto bad;
	f = fopen(argv[2], "wb");
	if (f && fwrite(out, 1, want, f) == want && !fclose(f))
		return 0;
bad:
	fprintf(stderr, "unpack_kernel: not a bzImage with an LZ4 payload, or "
			"cannot write\n");
	return 1;
}
