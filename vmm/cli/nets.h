/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_NETS_H
#define SARDINE_VMM_CLI_NETS_H
/*
 * The network as it is written on command lines and in fleet files:
 *
 *	user[,hostfwd=PROTO:[ADDR]:PORT-[ADDR]:PORT]...[,restrict]
 *	tap=NAME
 *	both: [,mac=XX:XX:XX:XX:XX:XX][,mtu=N]
 *
 * user: a helper process of the VM's own (vmm/cli/netd.c) does with libslirp
 * what the guest asks for. tap: a tap device that exists, or whose making is
 * allowed.
 */
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/dev/virtio_net.h"

#define NET_FWD_MAX 16
#define NET_HELP                                                               \
	"a network card: user[,hostfwd=tcp:[ADDR]:PORT-[ADDR]:PORT]..."        \
	"[,restrict] (no rights needed; the guest is 10.0.2.15 and sees the "  \
	"host as 10.0.2.2; a host address is 127.0.0.1 unless given; "         \
	"PORT+{n} "                                                            \
	"adds the number that the VM's name ends in; restrict: only what "     \
	"hostfwd lets in) or tap=NAME; [,mac=..][,mtu=N]"

struct net_fwd {
	bool udp;
	struct in_addr host, guest;
	uint16_t host_port, guest_port;
};

struct net_spec {
	bool tap, restricted;
	char tap_name[16];
	uint8_t mac[6];
	unsigned mtu;
	unsigned n_fwd;
	struct net_fwd fwd[NET_FWD_MAX];
	char *fwd_text[NET_FWD_MAX]; /* as net_fwd_parse reads them */
};

/* "tcp:[ADDR]:PORT-[ADDR]:PORT". 0 or -EINVAL. vm: for {n}; NULL: there is
 * none. */
int net_fwd_parse(const char *text, const char *vm, struct net_fwd *f);
/* vm: its name; the MAC follows from it unless it is given. 0, or -EINVAL with
 * one line in err. */
int net_parse(const char *text, const char *vm, struct net_spec *s, char *err,
	      size_t errlen);
void net_spec_free(struct net_spec *s);

/*
 * Open the tap device, or start the helper and wait until it is ready; fills c
 * (but name, want and ctx) for the VM. Before the process confines itself and
 * while it has one thread. SIGCHLD is ignored from now on. confine: "kill",
 * "trap", "off". 0; or -errno with one line in err.
 */
int net_open(const struct net_spec *s, const char *confine,
	     struct virtio_net_config *c, char *err, size_t errlen);
#endif
