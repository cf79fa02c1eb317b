/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_SERVER_H
#define SARDINE_VMM_CLI_SERVER_H
/*
 * The manager's socket: whoever connects sends one line, what is wanted ("top",
 * "stats NAME"; a stream that ends at once means "top"), and gets JSON and the
 * end of the stream. One manager a path: a lock file beside it (PATH.lock)
 * is held while the manager lives, so a socket whose lock is free is a dead
 * manager's and is replaced.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVER_PATH_MAX 104 /* sun_path with room for a NUL */

/* Where the socket is unless --socket says otherwise:
 * $XDG_RUNTIME_DIR/sardine.sock, for root /run/sardine/sardine.sock, else
 * /tmp/sardine-UID/sardine.sock. -ENAMETOOLONG. */
int server_default_path(char *path, size_t len);

struct server;
/* Make the directory of a default path if need be, lock, bind, listen (mode
 * 0600). -errno with one line in err: -EADDRINUSE when a manager lives there.*/
int server_open(const char *path, bool make_dir, struct server **out, char *err,
		size_t errlen);
/* To be polled for input; then server_accept. */
int server_fd(const struct server *s);
/* Take one client. Its fd, to be polled for input, or -1: gone already. */
int server_accept(struct server *s, uint64_t now_ns);
enum server_client {
	SERVER_WAIT,  /* nothing new; poll on */
	SERVER_ASKED, /* line holds what it wants: call server_answer */
	SERVER_DONE,  /* finished, or gone: closed */
};
/* A client can be read from, or written to. */
enum server_client server_client_ready(struct server *s, int fd,
				       const char **line);
/* text (len bytes, malloc'ed, becomes the server's) is what it gets; NULL:
 * nothing. WAIT: it is slow, poll it for output; DONE. */
enum server_client server_answer(struct server *s, int fd, char *text,
				 size_t len);
/* Drop clients that have been here for 5 s. */
void server_expire(struct server *s, uint64_t now_ns);
/* Removes socket, lock, and the directory if it was made and is empty. */
void server_close(struct server *s);

/* The other end: send a line (without its newline) to the manager at path, and
 * get the answer, malloc'ed, NUL-terminated. -errno with one line in err. */
int server_query(const char *path, const char *line, char **text, size_t *len,
		 char *err, size_t errlen);
#endif
