/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memwork's like in a redis server: fills it with values of 1 KiB that say who
 * they are, changes and reads a part of them for a while, and reads all back.
 * Every answer is checked; a byte that is not what was written last, an answer
 * that is none, or a lost connection ends the run as BAD.
 *
 *	rediswork MIB [ACTIVE% [SECONDS [SEED [PORT [ADDRESS]]]]]
 *
 * Requests go out in batches (pipelining), so that it is the server's memory
 * that is at work rather than the two processes' switching.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define VALUE 1024u
#define BATCH 32u

struct client {
	int fd;
	uint64_t seed;
	char in[65536]; /* answers, as they come */
	size_t at, have;
	size_t out_len;
	char out[BATCH * (VALUE + 128)];
};

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void value(const struct client *c, uint64_t key, uint32_t version,
		  char *to)
{
	uint64_t s = (key + 1) * 0x9e3779b97f4a7c15ull ^
		     (version + 1) * 0xc2b2ae3d27d4eb4full ^ c->seed << 32;

	for (unsigned i = 0; i < VALUE; i += 8, next(&s))
		memcpy(to + i, &s, 8);
}

static int fail(const char *what, uint64_t key)
{
	printf("rediswork: key %lu: %s\n", key, what);
	return 1;
}

/* ---- the protocol ---- */

static void put(struct client *c, uint64_t key, uint32_t version)
{
	char k[24];
	int n = snprintf(k, sizeof(k), "k%lu", key);

	c->out_len += sprintf(c->out + c->out_len,
			      "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%u\r\n", n, k,
			      VALUE);
	value(c, key, version, c->out + c->out_len);
	memcpy(c->out + c->out_len + VALUE, "\r\n", 2);
	c->out_len += VALUE + 2;
}

static void get(struct client *c, uint64_t key)
{
	char k[24];
	int n = snprintf(k, sizeof(k), "k%lu", key);

	c->out_len += sprintf(c->out + c->out_len,
			      "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", n, k);
}

static int flush(struct client *c)
{
	for (size_t off = 0; off < c->out_len;) {
		ssize_t n = write(c->fd, c->out + off, c->out_len - off);

		if (n <= 0)
			return -1;
		off += n;
	}
	c->out_len = 0;
	return 0;
}

/* n bytes of answer; NULL: the connection is gone. */
static const char *answer(struct client *c, size_t n)
{
	if (c->at + n > sizeof(c->in)) {
		memmove(c->in, c->in + c->at, c->have - c->at);
		c->have -= c->at;
		c->at = 0;
	}
	while (c->have - c->at < n) {
		ssize_t r = read(c->fd, c->in + c->have,
				 sizeof(c->in) - c->have);

		if (r <= 0)
			return NULL;
		c->have += r;
	}
	c->at += n;
	return c->in + c->at - n;
}

static int expect_ok(struct client *c, uint64_t key)
{
	const char *a = answer(c, 5);

	return a && !memcmp(a, "+OK\r\n", 5) ? 0 : fail("was not set", key);
}

static int expect_value(struct client *c, uint64_t key, uint32_t version)
{
	char head[16], should[VALUE];
	int n = snprintf(head, sizeof(head), "$%u\r\n", VALUE);
	const char *a = answer(c, n);

	if (!a || memcmp(a, head, n))
		return fail("is not there", key);
	a = answer(c, VALUE + 2);
	value(c, key, version, should);
	return a && !memcmp(a, should, VALUE) ? 0 : fail("is wrong", key);
}

/* ---- the work ---- */

static int fill(struct client *c, uint64_t keys)
{
	int bad = 0;

	for (uint64_t i = 0; i < keys && !bad; i += BATCH) {
		uint64_t n = keys - i < BATCH ? keys - i : BATCH;

		for (uint64_t k = i; k < i + n; k++)
			put(c, k, 0);
		if (flush(c))
			return fail("cannot be sent", i);
		for (uint64_t k = i; k < i + n && !bad; k++)
			bad = expect_ok(c, k);
	}
	return bad;
}

/* One in a batch goes anywhere; one in four is written. */
static int batch(struct client *c, uint64_t *r, uint64_t active, uint64_t keys,
		 uint32_t *version)
{
	uint64_t key[BATCH];
	uint32_t should[BATCH];
	int bad = 0, set[BATCH];

	for (unsigned i = 0; i < BATCH; i++) {
		key[i] = next(r) % (i ? active : keys);
		set[i] = !(next(r) & 3);
		should[i] = version[key[i]] += set[i];
		if (set[i])
			put(c, key[i], should[i]);
		else
			get(c, key[i]);
	}
	if (flush(c))
		return fail("cannot be sent", key[0]);
	for (unsigned i = 0; i < BATCH && !bad; i++)
		bad = set[i] ? expect_ok(c, key[i])
			     : expect_value(c, key[i], should[i]);
	return bad;
}

static int read_all(struct client *c, uint64_t keys, const uint32_t *version)
{
	int bad = 0;

	for (uint64_t i = 0; i < keys && !bad; i += BATCH) {
		uint64_t n = keys - i < BATCH ? keys - i : BATCH;

		for (uint64_t k = i; k < i + n; k++)
			get(c, k);
		if (flush(c))
			return fail("cannot be sent", i);
		for (uint64_t k = i; k < i + n && !bad; k++)
			bad = expect_value(c, k, version[k]);
	}
	return bad;
}

static int reach(const char *address, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1)
		return -1;
	/* It may still be starting. */
	for (unsigned i = 0; i < 100; i++, usleep(100000))
		if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
			return fd;
	return -1;
}

int rediswork_main(int argc, char **argv)
{
	static struct client c;
	uint64_t keys = arg_long(argc, argv, 1, 16) << 10;
	uint64_t active = keys * arg_long(argc, argv, 2, 25) / 100;
	double seconds = arg_long(argc, argv, 3, 10), begin, slowest = 0;
	uint32_t *version = calloc(keys + 1, sizeof(*version));
	uint64_t ops = 0, r;
	int bad;

	c.seed = arg_long(argc, argv, 4, 1);
	r = c.seed * 0x2545f4914f6cdd1dull + 1;
	c.fd = reach(argc > 6 ? argv[6] : "127.0.0.1",
		     arg_long(argc, argv, 5, 6379));
	if (c.fd < 0 || !version || !keys) {
		printf("rediswork: no server: %s\n", strerror(errno));
		return 1;
	}
	active = active ? active : 1;
	bad = fill(&c, keys);
	printf("rediswork: filled %lu keys\n", keys);
	fflush(stdout);
	begin = now_s();
	while (now_s() - begin < seconds && !bad) {
		double t = now_s(), took;

		bad = batch(&c, &r, active, keys, version);
		ops += BATCH;
		took = now_s() - t;
		slowest = took > slowest ? took : slowest;
	}
	begin = now_s() - begin;
	bad = bad || read_all(&c, keys, version);
	printf("rediswork: mib=%lu active=%lu ops=%lu seconds=%.1f "
	       "slowest_ms=%.0f %s\n",
	       keys >> 10, active, ops, begin, slowest * 1000,
	       bad ? "BAD" : "good");
	return bad;
}
