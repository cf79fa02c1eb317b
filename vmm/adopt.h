/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_ADOPT_H
#define SARDINE_VMM_ADOPT_H
/*
 * How a new manager finds a VM whose manager was killed (vmm/cli/manager_adopt.c
 * and vmm/monitor_adopt.c).
 *
 * Each monitor has a datagram socket that is bound to a name beside the
 * manager's own, in a directory for its user alone. The new manager sends an
 * offer there with two descriptors: its end of a new connection
 * (SOCK_SEQPACKET, in place of the dead one's), and an empty file for what the
 * VM's pages are on (mm/p2m_share.h: p2m_tell_frames). The monitor looks at the
 * sender's user (SCM_CREDENTIALS), writes the file, and sends an answer on the
 * connection, with the descriptors that the old manager gave it. Only then
 * comes anything else.
 */
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ADOPT_MAGIC   0x314f445041445253ull /* "SRDAPDO1" */
#define ADOPT_VERSION 1u

enum { ADOPT_OFFER_SOCKET, ADOPT_OFFER_FRAMES, ADOPT_OFFER_FDS };
/* All are there, but for the swap file, which may be missing. */
enum {
	ADOPT_MEM,
	ADOPT_CONTROL,
	ADOPT_POOL,
	ADOPT_STORE,
	ADOPT_TEXT,
	ADOPT_SWAP,
	ADOPT_FDS
};

/* Both ways. */
struct adopt_msg {
	uint64_t magic;
	uint32_t version;
	uint32_t n_fds; /* that come with it */
};

/* Send one with n descriptors, to the socket's peer or, not NULL, to `to`; it
 * does not wait. 0 or -errno. n is ADOPT_FDS at most. */
int adopt_send(int socket, const struct sockaddr_un *to, const int *fds,
	       unsigned n);

/*
 * Receive one, without waiting. Its descriptors go to fds, which has room for
 * max (ADOPT_FDS at most), -1 for those that did not come. who: the sender, if the
 * socket has SO_PASSCRED; else its pid is 0.
 *
 * Their number; -EAGAIN: nothing is there; -EPIPE: the connection is closed;
 * -EPROTO: something else came, and what came with it is closed again.
 */
int adopt_receive(int socket, int *fds, unsigned max, struct ucred *who);
#endif
