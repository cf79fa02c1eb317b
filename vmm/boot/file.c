/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel and initrd files. They are untrusted and may change while we read
 * them, so they are read with pread into our memory (a mapped file that
 * shrinks would be a SIGBUS) and every length is checked again by what pread
 * really gives.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/boot/boot_priv.h"

#define CHUNK 65536

int boot_fail(struct boot_ctx *c, int e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (c->errlen)
		vsnprintf(c->err, c->errlen, fmt, ap);
	va_end(ap);
	return e > 0 ? -e : -EIO;
}

static int check(struct boot_ctx *c, const char *what, const char *path, int fd,
		 struct boot_file *f)
{
	struct stat st;

	if (fstat(fd, &st))
		return boot_fail(c, errno, "%s %s: %s", what, path,
				 strerror(errno));
	if (S_ISDIR(st.st_mode))
		return boot_fail(c, EISDIR,
				 "%s %s: is a directory: name the file in it",
				 what, path);
	if (!S_ISREG(st.st_mode))
		return boot_fail(c, EINVAL,
				 "%s %s: is not a regular file: copy it to one",
				 what, path);
	if (st.st_size <= 0)
		return boot_fail(c, ENOEXEC,
				 "%s %s: is empty: get the file again", what,
				 path);
	f->path = path;
	f->fd = fd;
	f->size = st.st_size;
	return 0;
}

int boot_file_open(struct boot_ctx *c, const char *what, const char *path,
		   int have, struct boot_file *f)
{
	/* O_NONBLOCK: a FIFO must not hold us here. */
	int fd = have > 0 ? have
			  : open(path,
				 O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int e = errno, r;

	f->fd = -1;
	f->borrowed = have > 0;
	if (fd < 0)
		return boot_fail(c, e, "%s %s: %s: %s", what, path, strerror(e),
				 e == EACCES ? "make it readable for this user"
					     : "check the path");
	r = check(c, what, path, fd, f);
	if (r && !f->borrowed)
		close(fd);
	return r;
}

void boot_file_close(struct boot_file *f)
{
	if (f->fd >= 0 && !f->borrowed)
		close(f->fd);
	f->fd = -1;
}

int boot_file_read(struct boot_ctx *c, const struct boot_file *f, uint64_t off,
		   void *buf, size_t len)
{
	uint8_t *p = buf;

	if (off > f->size || len > f->size - off)
		goto truncated;
	if (f->mem) {
		memcpy(buf, f->mem + off, len);
		return 0;
	}
	while (len) {
		ssize_t n = pread(f->fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return boot_fail(c, errno, "%s: cannot read: %s",
					 f->path, strerror(errno));
		if (!n)
			goto truncated;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
truncated:
	return boot_fail(c, ENOEXEC,
			 "%s: is truncated: its headers promise more than its "
			 "%llu bytes: get the file again",
			 f->path, (unsigned long long)f->size);
}

int boot_file_copy_in(struct boot_ctx *c, const struct boot_file *f,
		      uint64_t off, gpa_t gpa, uint64_t len)
{
	uint8_t buf[CHUNK];
	int r = 0;

	while (len && !r) {
		size_t n = len < CHUNK ? len : CHUNK;

		r = boot_file_read(c, f, off, buf, n);
		if (!r)
			r = boot_write(c, gpa, buf, n);
		off += n;
		gpa += n;
		len -= n;
	}
	return r;
}
