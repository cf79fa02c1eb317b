/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of redis that knows every answer.
 *
 *	kv SOCKET MIB ACTIVE% SECONDS [SEED]
 *
 * Fills the server with MIB of records, then reads and writes among the first
 * ACTIVE% of them (7 reads to 3 writes), and one time in 500 reads any of them, PIPE
 * commands at a time, and compares each byte of each answer with the record that
 * was written last. Those others are not written: redis puts a new value
 * where the last one that was replaced had been, so each such write would put a
 * record in use on a page of others, and what is used would grow by a page each
 * time (at 15,000 commands a second by a half in a quarter of an hour). At the end
 * all records are read once more. A record is made of its number and version: names
 * and numbers as an application has them, half of it random digits, which LZ4 brings
 * to some 60%.
 *
 * Prints a line every ten seconds, so that what a busy host does to the
 * throughput can be seen, and one at the end that says good or BAD.
 */
#include "guest.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define VALUE 1000u
#define PIPE  16u
#define TICK  10.0

static struct {
	int fd;
	char in[1 << 16];
	size_t at, len;
	char out[PIPE * (VALUE + 96)];
	size_t fill;
} c;
static uint16_t *version; /* by record */
static uint64_t seed, bad;
static char want[VALUE + 80];

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void make_value(char *p, uint32_t key, uint16_t ver)
{
	static const char form[] = "{\"name\":\"customer\",\"account\":\"";
	static const char hex[] = "0123456789abcdef";
	uint64_t s = (key + 1) * 0x9e3779b97f4a7c15ull ^
		     (ver + 1ull) * 0xc2b2ae3d27d4eb4full ^ seed << 40;

	for (unsigned i = 0; i < VALUE;) {
		unsigned n = VALUE - i < sizeof(form) - 1 ? VALUE - i
							  : sizeof(form) - 1;
		uint64_t a, b;

		memcpy(p + i, form, n);
		i += n;
		a = next(&s);
		b = next(&s);
		for (unsigned k = 0; k < 32 && i < VALUE; k++) {
			uint64_t w = k < 16 ? a : b;

			p[i++] = hex[w >> 4 * (k % 16) & 15];
		}
	}
}

static int send_all(void)
{
	for (size_t at = 0; at < c.fill;) {
		ssize_t w = write(c.fd, c.out + at, c.fill - at);

		if (w <= 0)
			return -1;
		at += (size_t)w;
	}
	c.fill = 0;
	return 0;
}

static int get_bytes(char *to, size_t n)
{
	while (n) {
		size_t k = c.len - c.at < n ? c.len - c.at : n;

		memcpy(to, c.in + c.at, k);
		c.at += k, to += k, n -= k;
		if (n) {
			ssize_t r = read(c.fd, c.in, sizeof(c.in));

			if (r <= 0)
				return -1;
			c.at = 0;
			c.len = (size_t)r;
		}
	}
	return 0;
}

static int get_line(char *line, size_t max)
{
	for (size_t i = 0; i + 1 < max; i++) {
		if (get_bytes(line + i, 1))
			return -1;
		if (line[i] == '\n') {
			line[i - 1] = '\0';
			return 0;
		}
	}
	return -1;
}

static void put_set(uint32_t key)
{
	char *p = c.out + c.fill;
	int n = sprintf(p, "*3\r\n$3\r\nSET\r\n$9\r\nk%08x\r\n$%u\r\n", key,
			VALUE);

	make_value(p + n, key, version[key]);
	memcpy(p + n + VALUE, "\r\n", 2);
	c.fill += (size_t)n + VALUE + 2;
}

static void put_get(uint32_t key)
{
	c.fill += (size_t)sprintf(c.out + c.fill,
				  "*2\r\n$3\r\nGET\r\n$9\r\nk%08x\r\n", key);
}

static int wrong(uint32_t key, const char *line)
{
	printf("kv: record %u version %u: wrong answer (%.40s)\n", key,
	       version[key], line);
	bad++;
	return -1;
}

static int answer_set(uint32_t key)
{
	char line[256];

	if (get_line(line, sizeof(line)))
		return -1;
	return strcmp(line, "+OK") ? wrong(key, line) : 0;
}

/* ver: what it was when the command was sent. */
static int answer_get(uint32_t key, uint16_t ver)
{
	char line[256], got[VALUE + 2];

	if (get_line(line, sizeof(line)))
		return -1;
	if (line[0] != '$' || atoi(line + 1) != (int)VALUE)
		return wrong(key, line);
	if (get_bytes(got, VALUE + 2))
		return -1;
	make_value(want, key, ver);
	return memcmp(got, want, VALUE) ? wrong(key, "its bytes differ") : 0;
}

struct op {
	uint32_t key;
	uint16_t version;
	int set;
};

/* One round of commands and their answers. */
static int round_trip(struct op *op, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (op[i].set) {
			version[op[i].key]++;
			put_set(op[i].key);
		} else {
			put_get(op[i].key);
		}
		op[i].version = version[op[i].key];
	}
	if (send_all())
		return -1;
	for (unsigned i = 0; i < n; i++)
		if (op[i].set ? answer_set(op[i].key)
			      : answer_get(op[i].key, op[i].version))
			return -1;
	return 0;
}

/* All records once, in order. */
static int sweep(uint32_t keys, int set)
{
	struct op op[PIPE];
	unsigned n = 0;

	for (uint32_t k = 0; k < keys; k++) {
		op[n++] = (struct op){.key = k, .set = set};
		if (n < PIPE && k + 1 < keys)
			continue;
		if (round_trip(op, n))
			return -1;
		n = 0;
	}
	return 0;
}

static int work(uint32_t keys, uint32_t active, double seconds, uint64_t *ops,
		double *slowest)
{
	double begin = now_s(), tick = begin, now = begin;
	uint64_t at_tick = 0, r = seed * 0x2545f4914f6cdd1dull + 1;
	struct op op[PIPE];

	while (now - begin < seconds) {
		double t = now;

		for (unsigned i = 0; i < PIPE; i++) {
			uint64_t x = next(&r);

			op[i].key = (x >> 24) % (x % 500 ? active : keys);
			op[i].set = op[i].key < active &&
				    (x >> 12) % 10 < 3;
		}
		if (round_trip(op, PIPE))
			return -1;
		*ops += PIPE;
		now = now_s();
		if (now - t > *slowest)
			*slowest = now - t;
		if (now - tick < TICK)
			continue;
		printf("kv: at %.0f s: %.0f a second\n", now - begin,
		       (*ops - at_tick) / (now - tick));
		fflush(stdout);
		tick = now;
		at_tick = *ops;
	}
	return 0;
}

static int dial(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	c.fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return connect(c.fd, (struct sockaddr *)&sa, sizeof(sa));
}

int kv_main(int argc, char **argv)
{
	uint32_t keys = arg_long(argc, argv, 2, 16) * 1048576 / (VALUE + 120);
	uint32_t active = keys * arg_long(argc, argv, 3, 25) / 100;
	double seconds = arg_long(argc, argv, 4, 10), begin, slowest = 0;
	uint64_t ops = 0;
	int r;

	seed = arg_long(argc, argv, 5, 1);
	version = calloc(keys, sizeof(*version));
	if (argc < 2 || !active || !version || dial(argv[1])) {
		printf("kv: cannot begin\n");
		return 1;
	}
	r = sweep(keys, 1);
	printf("kv: filled %u records\n", keys);
	fflush(stdout);
	begin = now_s();
	if (!r)
		r = work(keys, active, seconds, &ops, &slowest);
	seconds = now_s() - begin;
	printf("kv: reading all\n");
	fflush(stdout);
	if (!r)
		r = sweep(keys, 0);
	printf("kv: ops=%lu seconds=%.1f slowest_ms=%.0f %s\n", ops, seconds,
	       slowest * 1000, r || bad ? "BAD" : "good");
	return r != 0 || bad;
}
