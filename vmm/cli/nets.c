/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/nets.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "vmm/cli/cli.h"

/* Seven segments of that fit into the window of a TCP without scaling, which
 * libslirp's is; see make bench-net. */
#define USER_MTU     9000u
#define TAP_MTU	     1500u
#define READY_MS     10000
#define SOCKET_BYTES (1 << 20)

struct parse {
	const char *text, *vm;
	struct net_spec *s;
	char *err;
	size_t errlen;
};

static int bad(const struct parse *p, const char *why)
{
	snprintf(p->err, p->errlen, "--net %s: %s", p->text, why);
	return -EINVAL;
}

/* ---- forwarded ports ---- */

/* The number that a name ends in; 0: none. */
static unsigned long number_of(const char *vm)
{
	const char *p = vm + strlen(vm);

	while (p > vm && isdigit((unsigned char)p[-1]))
		p--;
	return strtoul(p, NULL, 10);
}

/* "[ADDR]:PORT[+{n}]" up to `end`. */
static int parse_side(const char **at, char end, const char *vm,
		      struct in_addr *addr, uint16_t *port)
{
	const char *colon = strchr(*at, ':');
	char text[INET_ADDRSTRLEN];
	unsigned long v;
	char *p;

	if (!colon || (size_t)(colon - *at) >= sizeof(text))
		return -EINVAL;
	if (colon > *at) {
		memcpy(text, *at, (size_t)(colon - *at));
		text[colon - *at] = '\0';
		if (inet_pton(AF_INET, text, addr) != 1)
			return -EINVAL;
	}
	if (!isdigit((unsigned char)colon[1]))
		return -EINVAL;
	v = strtoul(colon + 1, &p, 10);
	if (vm && !strncmp(p, "+{n}", 4)) {
		p += 4;
		v += number_of(vm);
	}
	if (!v || v > 65535 || *p != end)
		return -EINVAL;
	*port = (uint16_t)v;
	*at = end ? p + 1 : p;
	return 0;
}

int net_fwd_parse(const char *text, const char *vm, struct net_fwd *f)
{
	*f = (struct net_fwd){.host.s_addr = htonl(INADDR_LOOPBACK),
			      .guest.s_addr = inet_addr("10.0.2.15")};
	if (!strncmp(text, "udp:", 4))
		f->udp = true;
	else if (strncmp(text, "tcp:", 4) != 0)
		return -EINVAL;
	text += 4;
	if (parse_side(&text, '-', vm, &f->host, &f->host_port))
		return -EINVAL;
	return parse_side(&text, '\0', NULL, &f->guest, &f->guest_port);
}

static int add_fwd(const struct parse *p, const char *text)
{
	struct net_spec *s = p->s;
	struct net_fwd *f = &s->fwd[s->n_fwd];
	char host[INET_ADDRSTRLEN], guest[INET_ADDRSTRLEN], *copy;

	if (s->n_fwd == NET_FWD_MAX)
		return bad(p, "more than 16 hostfwd");
	if (net_fwd_parse(text, p->vm, f))
		return bad(p, "write hostfwd=tcp:127.0.0.1:2222-:22");
	inet_ntop(AF_INET, &f->host, host, sizeof(host));
	inet_ntop(AF_INET, &f->guest, guest, sizeof(guest));
	if (asprintf(&copy, "%s:%s:%u-%s:%u", f->udp ? "udp" : "tcp", host,
		     f->host_port, guest, f->guest_port) < 0)
		return bad(p, "out of memory");
	s->fwd_text[s->n_fwd++] = copy;
	return 0;
}

/* ---- the rest ---- */

/* One of our own (the bit of local administration), the same for a name. */
static void make_mac(const char *vm, uint8_t mac[6])
{
	uint64_t h = XXH3_64bits_withSeed(vm, strlen(vm), 0x5a2d1e);

	memcpy(mac, &h, 6);
	mac[0] = (mac[0] & 0xfc) | 2;
}

static int parse_mac(const char *text, uint8_t mac[6])
{
	unsigned v[6];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", v, v + 1, v + 2, v + 3,
		   v + 4, v + 5, &end) != 6 ||
	    text[end] || v[0] & 1)
		return -EINVAL;
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)v[i];
	return 0;
}

static int set_word(const struct parse *p, const char *w)
{
	struct net_spec *s = p->s;
	char *end;

	if (!strncmp(w, "mac=", 4)) {
		if (parse_mac(w + 4, s->mac))
			return bad(p, "write mac=02:00:00:12:34:56, with an "
				      "even first byte");
		return 0;
	}
	if (!strncmp(w, "mtu=", 4)) {
		s->mtu = (unsigned)strtoul(w + 4, &end, 10);
		if (!isdigit((unsigned char)w[4]) || *end ||
		    s->mtu < NET_MTU_MIN || s->mtu > NET_MTU_MAX)
			return bad(p, "mtu is 576 to 65520");
		return 0;
	}
	if (!s->tap && !strncmp(w, "hostfwd=", 8))
		return add_fwd(p, w + 8);
	if (!s->tap && !strcmp(w, "restrict")) {
		s->restricted = true;
		return 0;
	}
	return bad(p, "write user[,hostfwd=..][,restrict] or tap=NAME, "
		      "[,mac=..][,mtu=N]");
}

int net_parse(const char *text, const char *vm, struct net_spec *s, char *err,
	      size_t errlen)
{
	struct parse p = {text, vm, s, err, errlen};
	char *copy = strdup(text), *save = NULL, *w;
	int r = 0;

	*s = (struct net_spec){.mtu = USER_MTU};
	make_mac(vm, s->mac);
	if (!copy)
		return bad(&p, "out of memory");
	w = *text == ',' ? NULL : strtok_r(copy, ",", &save);
	if (w && !strncmp(w, "tap=", 4) && w[4] &&
	    strlen(w + 4) < sizeof(s->tap_name)) {
		s->tap = true;
		s->mtu = TAP_MTU;
		strcpy(s->tap_name, w + 4);
	} else if (!w || strcmp(w, "user") != 0) {
		r = bad(&p, "starts with user or tap=NAME (15 letters at "
			    "most)");
	}
	while (!r && (w = strtok_r(NULL, ",", &save)))
		r = set_word(&p, w);
	free(copy);
	if (r)
		net_spec_free(s);
	return r;
}

void net_spec_free(struct net_spec *s)
{
	for (unsigned i = 0; i < s->n_fwd; i++)
		free(s->fwd_text[i]);
	*s = (struct net_spec){.n_fwd = 0};
}

/* ---- opening ---- */

static int open_tap(const struct net_spec *s, struct virtio_net_config *c,
		    char *err, size_t errlen)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int e;

	strcpy(ifr.ifr_name, s->tap_name);
	c->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (c->fd >= 0 && !ioctl(c->fd, TUNSETIFF, &ifr))
		return 0;
	e = errno;
	snprintf(err, errlen,
		 "--net tap=%s: %s; make one that you may use: ip tuntap add "
		 "%s mode tap user $USER",
		 s->tap_name, strerror(e), s->tap_name);
	if (c->fd >= 0)
		close(c->fd);
	return -e;
}

/* Child, after fork(); in a session of its own, so that the terminal's Ctrl-C
 * is not for it. */
static _Noreturn void exec_helper(char *const *argv, int fd)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (null >= 0 && dup2(null, 0) >= 0 && dup2(null, 1) >= 0 &&
	    !fcntl(fd, F_SETFD, 0))
		execv("/proc/self/exe", argv);
	_exit(CLI_HOST);
}

/* Its first message is empty but for a zero byte, or says what is wrong. */
static int await_helper(int fd, char *err, size_t errlen)
{
	struct pollfd p = {fd, POLLIN, 0};
	char text[512];
	ssize_t n = -1;
	int r;

	do
		r = poll(&p, 1, READY_MS);
	while (r < 0 && errno == EINTR);
	if (r > 0)
		n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
	if (n == 1 && !text[0])
		return 0;
	text[n > 0 ? n : 0] = '\0';
	snprintf(err, errlen, "--net: %s",
		 n > 0 ? text : "its helper process does not start");
	return -EIO;
}

static int start_helper(const struct net_spec *s, const char *confine,
			struct virtio_net_config *c, char *err, size_t errlen)
{
	char num[16], mtu[16];
	const char *argv[16 + 2 * NET_FWD_MAX];
	unsigned n = 0;
	int sock[2], size = SOCKET_BYTES, r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock)) {
		snprintf(err, errlen, "--net: %s", strerror(errno));
		return -EMFILE;
	}
	for (unsigned i = 0; i < 2; i++)
		(void)setsockopt(sock[i], SOL_SOCKET, SO_SNDBUF, &size,
				 sizeof(size));
	snprintf(num, sizeof(num), "%d", sock[1]);
	snprintf(mtu, sizeof(mtu), "%u", s->mtu);
	argv[n++] = "sardine";
	argv[n++] = "netd";
	argv[n++] = "--fd";
	argv[n++] = num;
	argv[n++] = "--mtu";
	argv[n++] = mtu;
	argv[n++] = "--confine";
	argv[n++] = confine;
	if (s->restricted)
		argv[n++] = "--restrict";
	for (unsigned i = 0; i < s->n_fwd; i++) {
		argv[n++] = "--hostfwd";
		argv[n++] = s->fwd_text[i];
	}
	argv[n] = NULL;
	signal(SIGCHLD, SIG_IGN); /* nobody can wait for it later */
	pid = fork();
	if (!pid)
		exec_helper((char *const *)argv, sock[1]);
	close(sock[1]);
	r = pid < 0 ? -errno : await_helper(sock[0], err, errlen);
	if (pid < 0)
		snprintf(err, errlen, "--net: %s", strerror(-r));
	if (r) {
		close(sock[0]);
		return r;
	}
	c->fd = sock[0];
	return 0;
}

int net_open(const struct net_spec *s, const char *confine,
	     struct virtio_net_config *c, char *err, size_t errlen)
{
	*c = (struct virtio_net_config){
		.mtu = s->mtu, .tap = s->tap, .trusted = !s->tap};
	memcpy(c->mac, s->mac, sizeof(c->mac));
	return s->tap ? open_tap(s, c, err, errlen)
		      : start_helper(s, confine, c, err, errlen);
}
