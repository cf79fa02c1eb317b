/* SPDX-License-Identifier: Apache-2.0 */
/* Small things for /init: visible work of a guest's own, and the debug exit. */
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/io.h>

static uint64_t xorshift(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* FNV-1a, 64 bits */
static uint64_t fnv(uint64_t h, const void *p, size_t n)
{
	for (const uint8_t *b = p; n--; b++)
		h = (h ^ *b) * 0x100000001b3ull;
	return h;
}

/* Write a file that only this seed makes, read it back through the kernel, and
 * print the checksum of both; they must be one. */
int work_main(int argc, char **argv)
{
	long seed = arg_long(argc, argv, 1, 1);
	long kib = arg_long(argc, argv, 2, 256);
	const char *path = argc > 3 ? argv[3] : "/tmp/work";
	uint64_t s = 0x9e3779b97f4a7c15ull * (seed + 1), in, out, buf[128];
	FILE *f = fopen(path, "w+");
	long i;

	in = out = 0xcbf29ce484222325ull;
	if (!f) {
		fprintf(stderr, "work: %s: %s\n", path, strerror(errno));
		return 1;
	}
	for (i = 0; i < kib; i++) {
		for (unsigned k = 0; k < 128; k++)
			buf[k] = xorshift(&s);
		in = fnv(in, buf, sizeof(buf));
		if (fwrite(buf, sizeof(buf), 1, f) != 1)
			goto bad;
	}
	if (fflush(f))
		goto bad;
	rewind(f);
	for (i = 0; i < kib; i++) {
		if (fread(buf, sizeof(buf), 1, f) != 1)
			goto bad;
		out = fnv(out, buf, sizeof(buf));
	}
	fclose(f);
	printf("seed=%ld kib=%ld checksum=%016lx %s\n", seed, kib, out,
	       in == out ? "good" : "BAD");
	return in != out;
bad:
	fprintf(stderr, "work: %s: %s\n", path, strerror(errno));
	fclose(f);
	return 1;
}

int debugexit_main(int argc, char **argv)
{
	if (ioperm(0xf4, 1, 1)) {
		perror("debugexit: ioperm");
		return 1;
	}
	outb(arg_long(argc, argv, 1, 0), 0xf4);
	fprintf(stderr, "debugexit: still here: no --debug-exit?\n");
	return 1;
}
