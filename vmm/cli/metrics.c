/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures over HTTP.
 *
 * Problem: the manager is one thread that all VMs depend on, and here it talks
 * to whoever can reach a TCP port. Parsing HTTP is libmicrohttpd's work; ours
 * is that no client can hold the manager up or make it grow.
 *
 * The library has its own epoll descriptor, which lies in the manager's: when
 * something comes, metrics_run lets the library do what can be done without
 * waiting. Bounds: MAX_CLIENTS connections at a time, READ_BYTES of request
 * each, IDLE_S of silence, LIFE_NS in all (a client that sends a byte a second
 * is never silent), one request a connection, whose body is never read, and one
 * text made in FRESH_NS at most, which all clients of that time get. Who fills
 * all places makes other clients wait for LIFE_NS, and the VMs not at all.
 *
 * Nobody is asked who they are: on loopback, where it listens unless told
 * otherwise, every local user may read VM names and sizes.
 */
#include "vmm/cli/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/lazy.h"
#include "vmm/cli/prom.h"

#define MAX_CLIENTS 32
#define READ_BYTES  (8u << 10)
#define IDLE_S	    3u
#define LIFE_NS	    8000000000ull
#define FRESH_NS    250000000ull
#define TURN_MS	    500 /* between looks at ages while somebody is there */

static struct {
	typeof(MHD_start_daemon) *start;
	typeof(MHD_stop_daemon) *stop;
	typeof(MHD_run) *run;
	typeof(MHD_get_timeout) *get_timeout;
	typeof(MHD_get_daemon_info) *daemon_info;
	typeof(MHD_get_connection_info) *connection_info;
	typeof(MHD_create_response_from_buffer) *response;
	typeof(MHD_add_response_header) *add_header;
	typeof(MHD_queue_response) *queue;
	typeof(MHD_destroy_response) *destroy;
} lib;
#define SYMBOL(field, name)                                                    \
	{                                                                      \
#name, offsetof(typeof(lib), field)                            \
	}
static const struct lazy_symbol symbols[] = {
	SYMBOL(start, MHD_start_daemon),
	SYMBOL(stop, MHD_stop_daemon),
	SYMBOL(run, MHD_run),
	SYMBOL(get_timeout, MHD_get_timeout),
	SYMBOL(daemon_info, MHD_get_daemon_info),
	SYMBOL(connection_info, MHD_get_connection_info),
	SYMBOL(response, MHD_create_response_from_buffer),
	SYMBOL(add_header, MHD_add_response_header),
	SYMBOL(queue, MHD_queue_response),
	SYMBOL(destroy, MHD_destroy_response),
};

struct place {
	int fd; /* -1: free */
	uint64_t since_ns;
};

struct metrics {
	struct MHD_Daemon *daemon;
	int fd; /* the library's epoll descriptor */
	metrics_source *source;
	void *ctx;
	uint64_t now_ns;
	struct MHD_Response *fresh; /* or NULL */
	uint64_t fresh_until_ns;
	struct place places[MAX_CLIENTS];
	char url[96];
};

/* ---- the address ---- */

static int bad(const char *text, const char *why, char *err, size_t errlen)
{
	snprintf(err, errlen,
		 "--metrics %s: %s; give a port (on loopback), or an address "
		 "and a port such as 127.0.0.1:9464 or [::1]:9464",
		 text, why);
	return -EINVAL;
}

static int parse_port(const char *s, in_port_t *port)
{
	unsigned long n = 0;
	const char *p = s;

	for (; *p >= '0' && *p <= '9' && n <= 65535; p++)
		n = n * 10 + (unsigned long)(*p - '0');
	if (p == s || *p || n > 65535)
		return -EINVAL;
	*port = htons((uint16_t)n);
	return 0;
}

int metrics_parse(const char *text, struct sockaddr_storage *sa, socklen_t *len,
		  char *err, size_t errlen)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;
	const char *colon = strrchr(text, ':'), *port = text;
	size_t n = colon ? (size_t)(colon - text) : 0;
	char host[64] = "127.0.0.1";
	bool six = false;

	memset(sa, 0, sizeof(*sa));
	if (colon) {
		if (!n || n >= sizeof(host))
			return bad(text, "the address is missing or no number",
				   err, errlen);
		six = text[0] == '[' && text[n - 1] == ']';
		snprintf(host, sizeof(host), "%.*s", (int)(six ? n - 2 : n),
			 text + six);
		port = colon + 1;
	}
	if (six) {
		v6->sin6_family = AF_INET6;
		*len = sizeof(*v6);
		if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
			return bad(text, "no address in numbers", err, errlen);
		if (parse_port(port, &v6->sin6_port))
			return bad(text, "no port from 0 to 65535", err,
				   errlen);
		return 0;
	}
	v4->sin_family = AF_INET;
	*len = sizeof(*v4);
	if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
		return bad(text, "no address in numbers", err, errlen);
	if (parse_port(port, &v4->sin_port))
		return bad(text, "no port from 0 to 65535", err, errlen);
	return 0;
}

static void make_url(struct metrics *m, int fd)
{
	struct sockaddr_storage sa;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&sa;
	socklen_t len = sizeof(sa);
	char host[64] = "?";
	bool six;

	if (getsockname(fd, (struct sockaddr *)&sa, &len))
		return;
	six = sa.ss_family == AF_INET6;
	inet_ntop(sa.ss_family,
		  six ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr, host,
		  sizeof(host));
	snprintf(m->url, sizeof(m->url), "http://%s%s%s:%u/metrics",
		 six ? "[" : "", host, six ? "]" : "",
		 ntohs(six ? v6->sin6_port : v4->sin_port));
}

static int listen_on(const char *text, int *out, char *err, size_t errlen)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int fd = -1, one = 1, e = metrics_parse(text, &sa, &len, err, errlen);

	if (e)
		return e;
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
		    0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) ||
	    listen(fd, MAX_CLIENTS)) {
		e = -errno;
		snprintf(err, errlen, "--metrics %s: %s; give another %s", text,
			 strerror(-e),
			 e == -EADDRNOTAVAIL ? "address of this host" : "port");
		if (fd >= 0)
			close(fd);
		return e;
	}
	*out = fd;
	return 0;
}

/* ---- requests ---- */

static enum MHD_Result say(struct MHD_Connection *c, unsigned status,
			   const char *text, const char *header,
			   const char *value)
{
	struct MHD_Response *r = lib.response(strlen(text), (void *)text,
					      MHD_RESPMEM_PERSISTENT);
	enum MHD_Result e = MHD_NO;

	if (r && lib.add_header(r, "Content-Type", "text/plain") == MHD_YES &&
	    (!header || lib.add_header(r, header, value) == MHD_YES))
		e = lib.queue(c, status, r);
	if (r)
		lib.destroy(r);
	return e;
}

static void drop_fresh(struct metrics *m)
{
	if (m->fresh)
		lib.destroy(m->fresh);
	m->fresh = NULL;
}

/* The text of now, made once in a while; the library counts who still needs
 * an older one. */
static struct MHD_Response *fresh(struct metrics *m)
{
	size_t len;
	char *text;

	if (m->fresh && m->now_ns < m->fresh_until_ns)
		return m->fresh;
	drop_fresh(m);
	text = m->source(m->ctx, &len);
	if (!text)
		return NULL;
	m->fresh = lib.response(len, text, MHD_RESPMEM_MUST_FREE);
	if (!m->fresh) {
		free(text);
		return NULL;
	}
	lib.add_header(m->fresh, "Content-Type", PROM_CONTENT_TYPE);
	lib.add_header(m->fresh, "Cache-Control", "no-store");
	m->fresh_until_ns = m->now_ns + FRESH_NS;
	return m->fresh;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c,
				  const char *url, const char *method,
				  const char *version, const char *body,
				  size_t *body_size, void **state)
{
	struct MHD_Response *r;

	if (strcmp(method, "GET") && strcmp(method, "HEAD"))
		return say(c, MHD_HTTP_METHOD_NOT_ALLOWED, "use GET\n", "Allow",
			   "GET, HEAD");
	if (!strcmp(url, "/"))
		return say(c, MHD_HTTP_OK, "sardine: see /metrics\n", NULL,
			   NULL);
	if (strcmp(url, "/metrics"))
		return say(c, MHD_HTTP_NOT_FOUND, "there is only /metrics\n",
			   NULL, NULL);
	r = fresh(ctx);
	if (!r)
		return say(c, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n",
			   NULL, NULL);
	return lib.queue(c, MHD_HTTP_OK, r);
}

/* ---- how long they stay ---- */

static void on_connection(void *ctx, struct MHD_Connection *c, void **place,
			  enum MHD_ConnectionNotificationCode code)
{
	struct metrics *m = ctx;
	const union MHD_ConnectionInfo *i;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (*place)
			((struct place *)*place)->fd = -1;
		return;
	}
	i = lib.connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
	for (unsigned k = 0; i && k < MAX_CLIENTS; k++) {
		if (m->places[k].fd >= 0)
			continue;
		m->places[k] = (struct place){i->connect_fd, m->now_ns};
		*place = &m->places[k];
		return;
	}
}

static void end_old_ones(struct metrics *m)
{
	/* The library sees the end of the stream and closes it. */
	for (unsigned k = 0; k < MAX_CLIENTS; k++)
		if (m->places[k].fd >= 0 &&
		    m->now_ns - m->places[k].since_ns >= LIFE_NS)
			shutdown(m->places[k].fd, SHUT_RDWR);
}

/* ---- for the manager ---- */

static void quiet(void *ctx, const char *fmt, va_list ap)
{
}

static int start(struct metrics *m, int listener)
{
	const union MHD_DaemonInfo *i;

	m->daemon = lib.start(
		MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, m,
		MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL,
		MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_CONNECTION_LIMIT,
		MAX_CLIENTS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)READ_BYTES,
		MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, m, MHD_OPTION_END);
	if (!m->daemon)
		return -ENOMEM;
	i = lib.daemon_info(m->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (!i || i->epoll_fd < 0)
		return -ENOTSUP;
	m->fd = i->epoll_fd;
	return 0;
}

int metrics_open(const char *address, metrics_source *source, void *ctx,
		 struct metrics **out, char *err, size_t errlen)
{
	struct metrics *m;
	int fd = -1, e = listen_on(address, &fd, err, errlen);

	if (e)
		return e;
	e = lazy_load("libmicrohttpd.so.12", "libmicrohttpd12", symbols,
		      ARRAY_SIZE(symbols), &lib, err, errlen);
	m = e ? NULL : calloc(1, sizeof(*m));
	if (!m) {
		close(fd);
		if (!e)
			snprintf(err, errlen, "out of memory");
		return e ? e : -ENOMEM;
	}
	m->source = source;
	m->ctx = ctx;
	for (unsigned k = 0; k < MAX_CLIENTS; k++)
		m->places[k].fd = -1;
	make_url(m, fd);
	e = start(m, fd);
	if (e) {
		snprintf(err, errlen, "--metrics %s: libmicrohttpd: %s",
			 address, strerror(-e));
		if (!m->daemon)
			close(fd);
		metrics_close(m);
		return e;
	}
	*out = m;
	return 0;
}

int metrics_fd(const struct metrics *m)
{
	return m->fd;
}

int metrics_timeout_ms(const struct metrics *m)
{
	MHD_UNSIGNED_LONG_LONG ms;
	bool any = false;

	for (unsigned k = 0; k < MAX_CLIENTS; k++)
		any |= m->places[k].fd >= 0;
	if (lib.get_timeout(m->daemon, &ms) == MHD_YES && ms < TURN_MS)
		return (int)ms;
	return any ? TURN_MS : -1;
}

void metrics_run(struct metrics *m, uint64_t now_ns)
{
	m->now_ns = now_ns;
	end_old_ones(m);
	lib.run(m->daemon);
}

const char *metrics_url(const struct metrics *m)
{
	return m->url;
}

void metrics_close(struct metrics *m)
{
	if (!m)
		return;
	if (m->daemon)
		lib.stop(m->daemon);
	drop_fresh(m);
	free(m);
}
