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
#endif
