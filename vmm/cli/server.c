/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define CLIENT_NS   5000000000ull
#define QUERY_MS    5000
#define QUERY_MAX   (8u << 20)
#define LINE_MAX_   128

struct client {
	int fd; /* -1: free */
	char line[LINE_MAX_];
	size_t line_len;
	bool asked;
	char *text;
	size_t len, done;
	uint64_t deadline_ns;
};

struct server {
	char path[SERVER_PATH_MAX + 4];
	char lock_path[SERVER_PATH_MAX + 12];
	int listen_fd, lock_fd;
	bool made_dir;
	struct client clients[MAX_CLIENTS];
};

int server_default_path(char *path, size_t len)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	int n;

	if (run && *run == '/')
		n = snprintf(path, len, "%s/sardine.sock", run);
	else if (!geteuid())
		n = snprintf(path, len, "/run/sardine/sardine.sock");
	else
		n = snprintf(path, len, "/tmp/sardine-%u/sardine.sock",
			     (unsigned)geteuid());
	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

/* ---- opening ---- */

/* Anybody can make a directory of our name in /tmp: it must be ours alone. */
static int make_directory(struct server *s, char *err, size_t errlen)
{
	char dir[sizeof(s->path)];
	char *slash;
	struct stat st;

	snprintf(dir, sizeof(dir), "%s", s->path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	if (!mkdir(dir, 0700)) {
		s->made_dir = true;
		return 0;
	}
	if (errno != EEXIST) {
		snprintf(err, errlen, "%s: %s; use --socket PATH", dir,
			 strerror(errno));
		return -errno;
	}
	if (lstat(dir, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    (st.st_mode & 022)) {
		snprintf(err, errlen,
			 "%s: is not a directory of yours alone; use --socket "
			 "PATH",
			 dir);
		return -EPERM;
	}
	return 0;
}

static void holder(int fd, char *buf, size_t len)
{
	char pid[16] = "";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

	buf[0] = '\0';
	if (n > 0 && strspn(pid, "0123456789") == (size_t)n)
		snprintf(buf, len, " (pid %s)", pid);
}

/* Of this process: a child that has not come to its exec() does not keep a dead
 * manager's lock, as it would with flock(). Nothing else here opens the file. */
static int lock_file(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_SETLK, &l);
}

/* The lock file may be removed by a manager that ends between our open and our
 * lock: then what we hold is no longer at the path, and we try again. */
static int take_lock(struct server *s, char *err, size_t errlen)
{
	struct stat a, b;
	char who[40];

	for (;;) {
		int fd = open(s->lock_path,
			      O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0) {
			snprintf(err, errlen, "%s: %s; use --socket PATH",
				 s->lock_path, strerror(errno));
			return -errno;
		}
		if (lock_file(fd)) {
			holder(fd, who, sizeof(who));
			close(fd);
			snprintf(err, errlen,
				 "%s: a manager%s is running there; end it, "
				 "or give this one its own --socket PATH",
				 s->path, who);
			return -EADDRINUSE;
		}
		if (!fstat(fd, &a) && !stat(s->lock_path, &b) &&
		    a.st_ino == b.st_ino && a.st_dev == b.st_dev) {
			s->lock_fd = fd;
			break;
		}
		close(fd);
	}
	snprintf(who, sizeof(who), "%d", (int)getpid());
	if (ftruncate(s->lock_fd, 0) ||
	    pwrite(s->lock_fd, who, strlen(who), 0) < 0)
		return 0; /* only for the message */
	return 0;
}

static int bind_socket(struct server *s, char *err, size_t errlen)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", s->path);
	/* We hold the lock: what is there is a dead manager's, if a socket. */
	if (!lstat(s->path, &st)) {
		if (!S_ISSOCK(st.st_mode)) {
			snprintf(err, errlen,
				 "%s: is there and is no socket; use another "
				 "--socket PATH",
				 s->path);
			return -EEXIST;
		}
		unlink(s->path);
	}
	s->listen_fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0 || fchmod(s->listen_fd, 0600) ||
	    bind(s->listen_fd, (struct sockaddr *)&sa, sizeof(sa)) ||
	    chmod(s->path, 0600) || listen(s->listen_fd, 8)) {
		int e = errno;

		snprintf(err, errlen, "%s: %s; use --socket PATH", s->path,
			 strerror(e));
		return -e;
	}
	return 0;
}

int server_open(const char *path, bool make_dir, struct server **out, char *err,
		size_t errlen)
{
	struct server *s;
	int r = 0;

	if (!*path) {
		snprintf(err, errlen, "--socket: the path is empty; give one");
		return -EINVAL;
	}
	if (strlen(path) > SERVER_PATH_MAX) {
		snprintf(err, errlen,
			 "%s: longer than the %d bytes a socket's path may "
			 "have; use a shorter --socket PATH",
			 path, SERVER_PATH_MAX);
		return -ENAMETOOLONG;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	snprintf(s->path, sizeof(s->path), "%s", path);
	snprintf(s->lock_path, sizeof(s->lock_path), "%s.lock", path);
	s->listen_fd = s->lock_fd = -1;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		s->clients[i].fd = -1;
	if (make_dir)
		r = make_directory(s, err, errlen);
	if (!r)
		r = take_lock(s, err, errlen);
	if (!r)
		r = bind_socket(s, err, errlen);
	if (r) {
		server_close(s);
		return r;
	}
	*out = s;
	return 0;
}

int server_fd(const struct server *s)
{
	return s->listen_fd;
}

/* ---- clients ---- */

static void end_client(struct client *c)
{
	close(c->fd);
	free(c->text);
	memset(c, 0, sizeof(*c));
	c->fd = -1;
}

static enum server_client push(struct client *c)
{
	while (c->done < c->len) {
		ssize_t n = send(c->fd, c->text + c->done, c->len - c->done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return SERVER_WAIT;
		if (n < 0)
			break;
		c->done += (size_t)n;
	}
	end_client(c);
	return SERVER_DONE;
}

/* Read on, up to the end of the line. */
static enum server_client pull(struct client *c, const char **line)
{
	char *nl = NULL;

	while (!nl) {
		size_t room = sizeof(c->line) - 1 - c->line_len;
		ssize_t n =
			recv(c->fd, c->line + c->line_len, room, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return SERVER_WAIT;
		if (n < 0 || !room) {
			end_client(c);
			return SERVER_DONE;
		}
		c->line_len += (size_t)n;
		c->line[c->line_len] = '\0';
		nl = strchr(c->line, '\n');
		if (!n)
			break;
	}
	if (nl)
		*nl = '\0';
	c->asked = true;
	*line = c->line;
	return SERVER_ASKED;
}

int server_accept(struct server *s, uint64_t now_ns)
{
	int fd =
		accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c = NULL;

	for (unsigned i = 0; i < MAX_CLIENTS && !c; i++)
		if (s->clients[i].fd < 0)
			c = &s->clients[i];
	if (fd < 0 || !c) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	*c = (struct client){.fd = fd, .deadline_ns = now_ns + CLIENT_NS};
	return fd;
}

static struct client *client_of(struct server *s, int fd)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].fd == fd)
			return &s->clients[i];
	return NULL;
}

enum server_client server_client_ready(struct server *s, int fd,
				       const char **line)
{
	struct client *c = client_of(s, fd);

	if (!c)
		return SERVER_DONE;
	return c->asked ? push(c) : pull(c, line);
}

enum server_client server_answer(struct server *s, int fd, char *text,
				 size_t len)
{
	struct client *c = client_of(s, fd);

	if (!c) {
		free(text);
		return SERVER_DONE;
	}
	c->text = text;
	c->len = text ? len : 0;
	return push(c);
}

void server_expire(struct server *s, uint64_t now_ns)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].fd >= 0 &&
		    now_ns >= s->clients[i].deadline_ns)
			end_client(&s->clients[i]);
}

void server_close(struct server *s)
{
	char *slash;

	if (!s)
		return;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].fd >= 0)
			end_client(&s->clients[i]);
	if (s->listen_fd >= 0) {
		close(s->listen_fd);
		unlink(s->path);
	}
	if (s->lock_fd >= 0) {
		unlink(s->lock_path);
		close(s->lock_fd);
	}
	slash = strrchr(s->path, '/');
	if (s->made_dir && slash) {
		*slash = '\0';
		rmdir(s->path);
	}
	free(s);
}

/* ---- the other end ---- */

static int connect_to(const char *path, char *err, size_t errlen)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct timeval limit = {QUERY_MS / 1000, 0};
	int fd, e;

	if (strlen(path) > SERVER_PATH_MAX) {
		snprintf(err, errlen, "%s: longer than a socket's path may be",
			 path);
		return -ENAMETOOLONG;
	}
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* A manager that does not take its clients has a queue that is full. */
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return fd;
	e = errno == EAGAIN ? ETIMEDOUT : errno;
	if (fd >= 0)
		close(fd);
	if (e == ENOENT || e == ECONNREFUSED)
		snprintf(err, errlen,
			 "%s: no manager is running there; start one with "
			 "`sardine pack`, or give --socket PATH",
			 path);
	else
		snprintf(err, errlen, "%s: %s", path, strerror(e));
	return -e;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* To the end of the stream, at most QUERY_MAX bytes in QUERY_MS. */
static int read_all(int fd, char **text, size_t *len)
{
	int64_t end = now_ms() + QUERY_MS;
	size_t size = 0;

	*text = NULL;
	*len = 0;
	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		int64_t left = end - now_ms();
		ssize_t n;

		if (size - *len < 4096) {
			char *more = realloc(*text, size + 65536);

			if (!more)
				return -ENOMEM;
			*text = more;
			size += 65536;
		}
		if (left <= 0)
			return -ETIMEDOUT;
		switch (poll(&p, 1, (int)left)) {
		case 0:
			return -ETIMEDOUT;
		case -1:
			return -errno; /* -EINTR is the caller's business */
		}
		n = read(fd, *text + *len, size - *len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		(*text)[ *len += (size_t)n] = '\0';
		if (!n)
			return 0;
		if (*len > QUERY_MAX)
			return -EFBIG;
	}
}

static int send_line(int fd, const char *line)
{
	char buf[LINE_MAX_ + 1];
	int n = snprintf(buf, sizeof(buf), "%s\n", line);

	if (n >= LINE_MAX_)
		return -ENAMETOOLONG;
	return send(fd, buf, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -EPIPE;
}

int server_query(const char *path, const char *line, char **text, size_t *len,
		 char *err, size_t errlen)
{
	int fd = connect_to(path, err, errlen), r;

	*text = NULL;
	if (fd < 0)
		return fd;
	r = send_line(fd, line);
	if (!r)
		r = read_all(fd, text, len);
	close(fd);
	if (r) {
		snprintf(err, errlen, "%s: no answer from the manager: %s",
			 path, strerror(-r));
		free(*text);
		*text = NULL;
	}
	return r;
}
