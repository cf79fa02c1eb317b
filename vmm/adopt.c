/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one message of an adoption, with descriptors. What is received was sent by
 * whoever could: who that was, and what the descriptors are, is for the caller
 * to judge.
 */
#include "vmm/adopt.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int adopt_send(int socket, const struct sockaddr_un *to, const int *fds,
	       unsigned n)
{
	struct adopt_msg msg = {ADOPT_MAGIC, ADOPT_VERSION, n};
	struct iovec iov = {&msg, sizeof(msg)};
	union {
		char buf[CMSG_SPACE(sizeof(int) * ADOPT_FDS)];
		struct cmsghdr head;
	} u = {.head = {.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int) * n)}};
	struct msghdr h = {.msg_name = (void *)to,
			   .msg_namelen = to ? sizeof(*to) : 0,
			   .msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.buf,
			   .msg_controllen = CMSG_SPACE(sizeof(int) * n)};

	if (n > ADOPT_FDS)
		return -EINVAL;
	memcpy(CMSG_DATA(&u.head), fds, sizeof(int) * n);
	return sendmsg(socket, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno
								    : 0;
}

/* How many descriptors came. More than max are closed at once. */
static unsigned take_control(struct msghdr *h, int *fds, unsigned max,
			     struct ucred *who)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS)
			memcpy(who, CMSG_DATA(c), sizeof(*who));
		if (c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t o = CMSG_LEN(0); o < c->cmsg_len;
		     o += sizeof(int)) {
			int fd;

			memcpy(&fd, (char *)c + o, sizeof(fd));
			if (n < max)
				fds[n] = fd;
			else
				close(fd);
			n++;
		}
	}
	return n;
}

int adopt_receive(int socket, int *fds, unsigned max, struct ucred *who)
{
	struct adopt_msg msg;
	struct iovec iov = {&msg, sizeof(msg)};
	union {
		char buf[CMSG_SPACE(sizeof(int) * ADOPT_FDS) +
			 CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} u;
	struct msghdr h = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.buf,
			   .msg_controllen = sizeof(u.buf)};
	unsigned n;
	ssize_t len;

	if (max > ADOPT_FDS)
		return -EINVAL;
	for (unsigned i = 0; i < max; i++)
		fds[i] = -1;
	*who = (struct ucred){0};
	len = recvmsg(socket, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (len <= 0)
		return -EPIPE;
	n = take_control(&h, fds, max, who);
	if (n <= max && len == sizeof(msg) &&
	    !(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
	    msg.magic == ADOPT_MAGIC && msg.version == ADOPT_VERSION)
		return (int)n;
	for (unsigned i = 0; i < max; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
	return -EPROTO;
}
