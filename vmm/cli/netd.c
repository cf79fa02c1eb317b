/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sardine netd`: the network of one VM, a process beside its monitor. Not for
 * people.
 *
 * A monitor may not open sockets, and what a guest sends is for somebody to
 * take apart who then talks to the world: that is libslirp's work, and it is
 * done here, in a process that has none of the guest's memory and a list of
 * system calls of its own (confine_net). Frames come and go on a
 * socket, one a message; its end is ours.
 *
 * Backpressure. What the monitor does not take waits in a bounded queue, and
 * while something is in it libslirp's sockets are not looked at, so that the
 * rest of the world waits, too. Frames that come meanwhile are still served;
 * what they make libslirp say beyond the bound is dropped, as a full wire would.
 *
 * Bounds. A guest decides how many connections there are: descriptors and
 * data are limited, and a guest that runs into the latter has lost its network.
 *
 * DNS. libslirp sends what comes to 10.0.2.3 to the first server of
 * /etc/resolv.conf, which it can no longer read once confined: it is made to
 * read it before that. A change of that file while the VM runs is not seen.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/lazy.h"
#include "vmm/cli/nets.h"

#define QUEUE_FRAMES 256u
#define TURN_FRAMES  128u
#define MAX_FDS	     512u
#define MAX_DATA     (256ull << 20)
#define FRAME_MAX    (NET_MTU_MAX + 32)

struct netd_opts {
	uint32_t fd, mtu;
	bool restricted;
	char **fwd, *confine;
};

static const struct opt opts[] = {
	{"fd", 0, OPT_UINT, "N", "the monitor's socket",
	 OPT(struct netd_opts, fd), .required = true},
	{"mtu", 0, OPT_UINT, "N", "of the link", OPT(struct netd_opts, mtu),
	 .required = true},
	{"restrict", 0, OPT_FLAG, NULL, "only what hostfwd lets in",
	 OPT(struct netd_opts, restricted)},
	{"hostfwd", 0, OPT_LIST, "SPEC", "a forwarded port",
	 OPT(struct netd_opts, fwd)},
	{"confine", 0, OPT_STR, "MODE", "kill, trap or off", .dflt = "kill",
	 OPT(struct netd_opts, confine)},
};

struct frame {
	struct frame *next;
	size_t len;
	uint8_t data[];
};

struct netd {
	int fd;
	bool quiet; /* nothing is sent yet */
	Slirp *slirp;
	struct pollfd *pfd;
	int n_pfd, max_pfd;
	struct frame *head, **tail;
	unsigned waiting;
	uint8_t buf[FRAME_MAX];
};

static struct {
	typeof(slirp_new) *new;
	typeof(slirp_input) *input;
	typeof(slirp_pollfds_fill) *fill;
	typeof(slirp_pollfds_poll) *poll;
	typeof(slirp_add_hostfwd) *add_hostfwd;
} lib;
static const struct lazy_symbol symbols[] = {
	{"slirp_new", 0 * sizeof(void *)},
	{"slirp_input", 1 * sizeof(void *)},
	{"slirp_pollfds_fill", 2 * sizeof(void *)},
	{"slirp_pollfds_poll", 3 * sizeof(void *)},
	{"slirp_add_hostfwd", 4 * sizeof(void *)},
};

/* The monitor is gone, or its patience with us should be. */
static _Noreturn void leave(void)
{
	_exit(CLI_OK);
}

/* ---- to the guest ---- */

/* 1: sent; 0: not now. */
static int try_send(struct netd *d, const void *buf, size_t len)
{
	ssize_t r;

	do
		r = send(d->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r < 0 && errno != EAGAIN && errno != ENOBUFS)
		leave();
	return r >= 0;
}

static ssize_t on_frame(const void *buf, size_t len, void *ctx)
{
	struct netd *d = ctx;
	struct frame *f;

	if (d->quiet || (!d->head && try_send(d, buf, len)) ||
	    d->waiting == QUEUE_FRAMES)
		return (ssize_t)len;
	f = malloc(sizeof(*f) + len);
	if (!f)
		return (ssize_t)len;
	f->next = NULL;
	f->len = len;
	memcpy(f->data, buf, len);
	*d->tail = f;
	d->tail = &f->next;
	d->waiting++;
	return (ssize_t)len;
}

static void send_waiting(struct netd *d)
{
	struct frame *f;

	while ((f = d->head) && try_send(d, f->data, f->len)) {
		d->head = f->next;
		if (!d->head)
			d->tail = &d->head;
		d->waiting--;
		free(f);
	}
}

/* ---- from the guest ---- */

static void take_frames(struct netd *d)
{
	for (unsigned i = 0; i < TURN_FRAMES; i++) {
		ssize_t n = recv(d->fd, d->buf, sizeof(d->buf), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			leave();
		lib.input(d->slirp, d->buf, (int)n);
	}
}

/* ---- libslirp's needs ---- */

static void on_guest_error(const char *msg, void *ctx)
{
}

static int64_t on_clock(void *ctx)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Timers are IPv6's only (router advertisements), which is off. */
static void *on_timer_new(SlirpTimerCb cb, void *cb_ctx, void *ctx)
{
	return ctx;
}

static void on_timer_free(void *timer, void *ctx)
{
}

static void on_timer_mod(void *timer, int64_t expire, void *ctx)
{
}

static void on_poll_fd(int fd, void *ctx)
{
}

static void on_notify(void *ctx)
{
}

static int on_add_poll(int fd, int events, void *ctx)
{
	struct netd *d = ctx;
	struct pollfd *p;

	if (d->n_pfd == d->max_pfd) {
		int max = d->max_pfd ? 2 * d->max_pfd : 16;

		p = realloc(d->pfd, (size_t)max * sizeof(*p));
		if (!p)
			leave();
		d->pfd = p;
		d->max_pfd = max;
	}
	p = &d->pfd[d->n_pfd];
	*p = (struct pollfd){.fd = fd};
	/* Errors and hang-ups come unasked. */
	p->events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) |
			    (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
			    (events & SLIRP_POLL_PRI ? POLLPRI : 0));
	return d->n_pfd++;
}

static int on_revents(int i, void *ctx)
{
	int e = ((struct netd *)ctx)->pfd[i].revents;

	return (e & POLLIN ? SLIRP_POLL_IN : 0) |
	       (e & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (e & POLLPRI ? SLIRP_POLL_PRI : 0) |
	       (e & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (e & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static const SlirpCb callbacks = {
	.send_packet = on_frame,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
};

/* ---- starting ---- */

/* Have /etc/resolv.conf read: an empty datagram to the name server's address,
 * which ignores it. UDP without a checksum; that of the IP header is a constant
 * of these bytes. */
static void read_resolv_conf(struct netd *d)
{
	static const uint8_t frame[] = {
		0x52, 0x55, 0x0a, 0x00, 0x02, 0x03, /* to: libslirp's name for
						       10.0.2.3 */
		0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00,
		/* IPv4: 28 bytes, TTL 64, UDP, 10.0.2.15 to 10.0.2.3 */
		0x45, 0x00, 0x00, 0x1c, 0x00, 0x00, 0x00, 0x00, 0x40, 0x11,
		0x62, 0xc0, 10, 0, 2, 15, 10, 0, 2, 3,
		/* port 1023 to 53, 8 bytes */
		0x03, 0xff, 0x00, 0x35, 0x00, 0x08, 0x00, 0x00};

	d->quiet = true;
	lib.input(d->slirp, frame, sizeof(frame));
	d->quiet = false;
}

static int start(struct netd *d, const struct netd_opts *o, char *err,
		 size_t errlen)
{
	SlirpConfig c = {
		.version = 1,
		.restricted = o->restricted,
		.in_enabled = true,
		.vnetwork.s_addr = inet_addr("10.0.2.0"),
		.vnetmask.s_addr = inet_addr("255.255.255.0"),
		.vhost.s_addr = inet_addr("10.0.2.2"),
		.vdhcp_start.s_addr = inet_addr("10.0.2.15"),
		.vnameserver.s_addr = inet_addr("10.0.2.3"),
		.if_mtu = o->mtu,
		.if_mru = o->mtu,
	};
	struct net_fwd f;
	int r = lazy_load("libslirp.so.0", "libslirp0", symbols,
			  ARRAY_SIZE(symbols), &lib, err, errlen);

	if (r)
		return r;
	d->slirp = lib.new(&c, &callbacks, d);
	if (!d->slirp) {
		snprintf(err, errlen, "libslirp does not start");
		return -ENOMEM;
	}
	for (char **t = o->fwd; t && *t; t++) {
		if (net_fwd_parse(*t, NULL, &f) ||
		    lib.add_hostfwd(d->slirp, f.udp, f.host, f.host_port,
				    f.guest, f.guest_port)) {
			snprintf(err, errlen,
				 "hostfwd=%s: the host's port cannot be had: "
				 "%s",
				 *t, strerror(errno));
			return -EADDRINUSE;
		}
	}
	read_resolv_conf(d);
	return 0;
}

static int limit(void)
{
	struct rlimit files = {MAX_FDS, MAX_FDS}, data = {MAX_DATA, MAX_DATA};

	return setrlimit(RLIMIT_NOFILE, &files) || setrlimit(RLIMIT_DATA, &data)
		       ? -errno
		       : 0;
}

static _Noreturn void serve(struct netd *d)
{
	for (;;) {
		uint32_t ms = d->head ? 1000 : UINT32_MAX;
		bool slirp = !d->head;
		int r;

		d->n_pfd = 0;
		on_add_poll(d->fd, SLIRP_POLL_IN, d);
		if (d->head)
			d->pfd[0].events |= POLLOUT;
		else
			lib.fill(d->slirp, &ms, on_add_poll, d);
		r = poll(d->pfd, (nfds_t)d->n_pfd,
			 ms == UINT32_MAX ? -1 : (int)ms);
		if (r > 0 && d->pfd[0].revents & POLLOUT)
			send_waiting(d);
		if (r > 0 && d->pfd[0].revents & (POLLIN | POLLHUP | POLLERR))
			take_frames(d);
		if (slirp)
			lib.poll(d->slirp, r < 0, on_revents, d);
	}
}

static int netd_main(void *values, char *const args[])
{
	static struct netd d;
	const struct netd_opts *o = values;
	enum confine_mode mode;
	char err[512];
	int r;

	d.fd = (int)o->fd;
	d.tail = &d.head;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN); /* it ends with its monitor */
	if (confine_close_fds(&d.fd, 1) ||
	    cli_confine_mode(o->confine, &mode) || o->mtu < NET_MTU_MIN ||
	    o->mtu > NET_MTU_MAX)
		return CLI_USAGE;
	r = start(&d, o, err, sizeof(err));
	if (!r) {
		r = limit();
		if (!r)
			r = confine_net(mode);
		if (r)
			snprintf(err, sizeof(err),
				 "the helper cannot confine itself: %s",
				 strerror(-r));
	}
	if (r) {
		(void)!write(d.fd, err, strlen(err));
		return CLI_HOST;
	}
	if (!try_send(&d, "", 1))
		return CLI_HOST;
	serve(&d);
}

const struct command cmd_netd = {
	.name = "netd",
	.summary = "The network of one VM (started by its monitor)",
	.args = "",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct netd_opts),
	.hidden = true,
	.run = netd_main,
};
