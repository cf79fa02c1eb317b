/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is cut into pieces: where the overlay's map changes, and where an
 * iovec would get too long. Each piece is one operation of aio. A request whose
 * pieces are all done goes to the finished list, and disk_poll() calls its
 * done(): so nobody is called back while he submits.
 *
 * Flush. One chain at a time: sync the data; write the blocks of the overlay's
 * map that had changed before that; sync again. Flushes that come meanwhile
 * wait for the next chain and share it. (Two chains at once could write an old
 * copy of a block over a new one.) A disk that was not written since the last
 * flush has nothing to do.
 *
 * Locks. Open file description locks, which go with the process however it
 * ends: shared on what is only read (bases, read-only disks), exclusive on what
 * is written. They keep two VMs of ours from one image; they bind nobody else.
 * The kernel takes a ring apart some milliseconds after its process has gone,
 * and its files' locks with it: so a lock is waited for a little.
 *
 * kill -9 at any point: completed writes of a raw disk are in the host's page
 * cache and thus on the disk; an overlay falls back to the last flush
 * (overlay.c).
 */
#include "vmm/dev/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mm/base/log.h"
#include "vmm/dev/overlay.h"

#define DEPTH	      128
#define LOCK_TRIES    20
#define LOCK_PAUSE_NS 20000000

struct map_block {
	struct aio_op op;
	struct iovec iov;
	struct disk *d;
	uint64_t off;
	struct map_block *next;
	uint8_t bytes[OVERLAY_BLOCK];
};

struct disk {
	struct aio *aio;
	int fd[2];	 /* the file or base; the overlay, or -1 */
	unsigned target; /* which of them is written */
	uint64_t sectors;
	bool read_only, snapshot, can_zero;
	char serial[21];
	struct overlay *ov;
	bool unsynced; /* data was written since the last chain began */
	struct disk_req *finished, **finished_end;
	/* the flush chain */
	struct disk_req *flushing, *waiting; /* lists; flushing: it runs */
	struct aio_op sync;
	bool last_sync;
	struct map_block *blocks;
	unsigned writing;
	int flush_err;
};

struct piece {
	struct aio_op op;
	struct disk_req *rq;
	struct disk *d;
	struct iovec iov[];
};

/* ---- requests ---- */

static void finished(struct disk *d, struct disk_req *rq, int err)
{
	rq->err = err;
	rq->next = NULL;
	*d->finished_end = rq;
	d->finished_end = &rq->next;
}

/* A piece is done, or the cutting is. */
static void put_piece(struct disk *d, struct disk_req *rq, int err)
{
	if (err && !rq->err)
		rq->err = err;
	if (--rq->pieces)
		return;
	if (rq->kind == DISK_WRITE || rq->kind == DISK_ZERO) {
		d->unsynced = true;
		if (!rq->err && d->ov)
			overlay_set(d->ov, rq->sector, rq->n);
	}
	finished(d, rq, rq->err);
}

static void piece_done(struct aio_op *op, int err)
{
	struct piece *p = container_of(op, struct piece, op);
	struct disk_req *rq = p->rq;
	struct disk *d = p->d;

	free(p);
	put_piece(d, rq, err);
}

/* Where in the request's iovec the next piece begins. */
struct cursor {
	const struct iovec *iov;
	unsigned n;
	size_t off;
};

/* Entries that the next len bytes need (at most AIO_MAX_IOV), and how many
 * bytes those hold. */
static unsigned measure(const struct cursor *c, uint64_t *len)
{
	uint64_t have = 0;
	size_t off = c->off;
	unsigned i;

	for (i = 0; i < c->n && i < AIO_MAX_IOV && have < *len; i++) {
		have += c->iov[i].iov_len - off;
		off = 0;
	}
	/* A whole number of sectors, whatever the iovec's shape. */
	if (have < *len)
		*len = have & ~(SECTOR_SIZE - 1ull);
	return i;
}

static unsigned slice(struct cursor *c, struct iovec *to, uint64_t len)
{
	unsigned n = 0;

	while (len) {
		size_t part = c->iov->iov_len - c->off;

		part = part < len ? part : len;
		to[n++] =
			(struct iovec){(char *)c->iov->iov_base + c->off, part};
		len -= part;
		c->off += part;
		if (c->off == c->iov->iov_len) {
			c->iov++;
			c->n--;
			c->off = 0;
		}
	}
	return n;
}

static uint64_t offset(const struct disk *d, unsigned file, uint64_t sector)
{
	return (sector << SECTOR_SHIFT) + (file ? overlay_data_off(d->ov) : 0);
}

/* Submit up to n sectors from s on; how many, or -errno. */
static long submit_piece(struct disk *d, struct disk_req *rq, struct cursor *c,
			 unsigned file, uint64_t s, uint64_t n)
{
	static const enum aio_kind kinds[] = {
		[DISK_READ] = AIO_READ,
		[DISK_WRITE] = AIO_WRITE,
		[DISK_ZERO] = AIO_PUNCH,
	};
	uint64_t len = n << SECTOR_SHIFT;
	unsigned iovs = rq->kind == DISK_ZERO ? 0 : measure(c, &len);
	struct piece *p;

	if (!len)
		return -EINVAL; /* the iovec is shorter than the request */
	p = malloc(sizeof(*p) + iovs * sizeof(p->iov[0]));
	if (!p)
		return -ENOMEM;
	p->op = (struct aio_op){.kind = kinds[rq->kind],
				.file = file,
				.iov = p->iov,
				.off = offset(d, file, s),
				.len = len,
				.done = piece_done};
	p->op.n_iov = iovs ? slice(c, p->iov, len) : 0;
	p->rq = rq;
	p->d = d;
	rq->pieces++;
	aio_submit(d->aio, &p->op);
	return (long)(len >> SECTOR_SHIFT);
}

static void submit_data(struct disk *d, struct disk_req *rq)
{
	struct cursor c = {rq->iov, rq->n_iov, 0};
	uint64_t s = rq->sector, end = s + rq->n;
	long r = 0;

	rq->err = 0;
	rq->pieces = 1; /* until all are submitted */
	while (s < end && r >= 0) {
		uint64_t n = end - s;
		unsigned file = d->target;
		bool in = false;

		if (rq->kind == DISK_READ && d->ov) {
			n = overlay_run(d->ov, s, n, &in);
			file = in;
		}
		r = submit_piece(d, rq, &c, file, s, n);
		s += r > 0 ? (uint64_t)r : 0;
	}
	put_piece(d, rq, r < 0 ? (int)r : 0);
}

/* ---- flush ---- */

static void chain_start(struct disk *d);

static void chain_end(struct disk *d)
{
	struct disk_req *rq, *next;
	struct map_block *b;

	while ((b = d->blocks)) {
		d->blocks = b->next;
		if (d->flush_err)
			overlay_untake(d->ov, b->off);
		free(b);
	}
	if (d->flush_err)
		d->unsynced = true;
	for (rq = d->flushing; rq; rq = next) {
		next = rq->next;
		finished(d, rq, d->flush_err);
	}
	d->flushing = NULL;
	if (d->waiting)
		chain_start(d);
}

static void chain_synced(struct aio_op *op, int err);

static void chain_sync(struct disk *d, bool last)
{
	d->last_sync = last;
	d->sync = (struct aio_op){
		.kind = AIO_SYNC, .file = d->target, .done = chain_synced};
	aio_submit(d->aio, &d->sync);
}

static void block_written(struct aio_op *op, int err)
{
	struct disk *d = container_of(op, struct map_block, op)->d;

	if (err)
		d->flush_err = err;
	if (--d->writing)
		return;
	if (d->flush_err)
		chain_end(d);
	else
		chain_sync(d, true);
}

static void chain_synced(struct aio_op *op, int err)
{
	struct disk *d = container_of(op, struct disk, sync);

	if (err)
		d->flush_err = err;
	if (d->flush_err || d->last_sync) {
		chain_end(d);
		return;
	}
	d->writing = 1;
	for (struct map_block *b = d->blocks; b; b = b->next) {
		b->iov = (struct iovec){b->bytes, OVERLAY_BLOCK};
		b->op = (struct aio_op){.kind = AIO_WRITE,
					.file = d->target,
					.iov = &b->iov,
					.n_iov = 1,
					.off = b->off,
					.len = OVERLAY_BLOCK,
					.done = block_written};
		d->writing++;
		aio_submit(d->aio, &b->op);
	}
	/* The one that was ours. */
	if (!--d->writing)
		chain_sync(d, true);
}

/* The blocks as they are before the sync. */
static int take_blocks(struct disk *d)
{
	struct map_block *b = NULL;
	uint64_t i = 0;

	while (d->ov && overlay_is_dirty(d->ov)) {
		b = malloc(sizeof(*b));
		if (!b)
			return -ENOMEM;
		if (!overlay_take(d->ov, &i, b->bytes, &b->off)) {
			free(b);
			break;
		}
		b->d = d;
		b->next = d->blocks;
		d->blocks = b;
	}
	return 0;
}

static void chain_start(struct disk *d)
{
	d->flushing = d->waiting;
	d->waiting = NULL;
	d->unsynced = false;
	d->flush_err = take_blocks(d);
	if (d->flush_err)
		chain_end(d);
	else
		chain_sync(d, !d->blocks);
}

static void submit_flush(struct disk *d, struct disk_req *rq)
{
	bool clean = !d->unsynced && !(d->ov && overlay_is_dirty(d->ov));

	if (d->snapshot || d->read_only || (clean && !d->flushing)) {
		finished(d, rq, 0);
		return;
	}
	rq->next = d->waiting;
	d->waiting = rq;
	if (!d->flushing)
		chain_start(d);
}

/* ---- */

void disk_submit(struct disk *d, struct disk_req *rq)
{
	if (rq->kind == DISK_FLUSH) {
		submit_flush(d, rq);
		return;
	}
	ASSERT(rq->n && rq->sector <= d->sectors &&
	       rq->n <= d->sectors - rq->sector);
	ASSERT(rq->kind == DISK_READ || !d->read_only);
	ASSERT(rq->kind != DISK_ZERO || d->can_zero);
	submit_data(d, rq);
}

static bool call_finished(struct disk *d)
{
	struct disk_req *rq = d->finished, *next;

	if (!rq)
		return false;
	d->finished = NULL;
	d->finished_end = &d->finished;
	for (; rq; rq = next) {
		next = rq->next;
		rq->done(rq, rq->err);
	}
	return true;
}

void disk_poll(struct disk *d)
{
	do {
		aio_flush(d->aio);
		aio_reap(d->aio);
	} while (call_finished(d));
}

void disk_drain(struct disk *d)
{
	disk_poll(d);
	while (aio_pending(d->aio)) {
		aio_wait(d->aio);
		disk_poll(d);
	}
}

uint64_t disk_sectors(const struct disk *d)
{
	return d->sectors;
}

bool disk_read_only(const struct disk *d)
{
	return d->read_only;
}

bool disk_is_common(const struct disk *d, uint64_t sector, uint64_t n)
{
	bool in = false;

	if (!d->ov)
		return d->read_only;
	return overlay_run(d->ov, sector, n, &in) >= n && !in;
}

bool disk_can_zero(const struct disk *d)
{
	return d->can_zero;
}

const char *disk_serial(const struct disk *d)
{
	return d->serial;
}

int disk_event_fd(const struct disk *d)
{
	return aio_event_fd(d->aio);
}

void disk_clear_event(struct disk *d)
{
	aio_clear_event(d->aio);
}

/* ---- opening ---- */

struct opening {
	struct disk *d;
	const struct disk_config *c;
	char *err;
	size_t errlen;
};

__attribute__((format(printf, 4, 5))) static int
complain(const struct opening *o, int e, const char *path, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(o->err, o->errlen, "--disk %s: ", path);

	if (n < 0 || (size_t)n >= o->errlen)
		return e;
	va_start(ap, fmt);
	vsnprintf(o->err + n, o->errlen - (size_t)n, fmt, ap);
	va_end(ap);
	return e;
}

static int complain_open(const struct opening *o, const char *path, bool write)
{
	switch (errno) {
	case ENOENT:
		return complain(o, -ENOENT, path,
				"no such file; check the path");
	case EACCES:
	case EPERM:
	case EROFS:
		return complain(o, -EACCES, path,
				write ? "may not be written; check its rights, "
					"or add ,ro"
				      : "may not be read; check its rights");
	case EISDIR:
		return complain(o, -EISDIR, path,
				"is a directory; give an image file");
	default:
		return complain(o, -errno, path, "%s", strerror(errno));
	}
}

static int lock_file(const struct opening *o, int fd, const char *path,
		     bool write)
{
	struct flock l = {.l_type = write ? F_WRLCK : F_RDLCK,
			  .l_whence = SEEK_SET};

	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};

		if (!fcntl(fd, F_OFD_SETLK, &l))
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			break;
		nanosleep(&pause, NULL);
	}
	if (errno != EAGAIN && errno != EACCES)
		return 0; /* a file system without locks */
	return complain(o, -EBUSY, path,
			write ? "is in use by a VM; stop that, or give each "
				"its own ,cow=FILE or ,snapshot"
			      : "is being written by a VM; stop that, or give "
				"it a ,cow=FILE");
}

/* Open and lock; *bytes is how large it is. */
static int open_image(const struct opening *o, const char *path, bool write,
		      int flags, uint64_t *bytes)
{
	int fd = open(path,
		      (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK |
			      O_NOCTTY | flags,
		      0666);
	struct stat st;
	off_t end;
	int r = 0;

	if (fd < 0)
		return complain_open(o, path, write);
	if (fstat(fd, &st))
		r = complain(o, -errno, path, "%s", strerror(errno));
	else if (S_ISDIR(st.st_mode))
		r = complain(o, -EISDIR, path,
			     "is a directory; give an image file");
	else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		r = complain(o, -EINVAL, path,
			     "is not a file or block device; give one");
	else
		r = lock_file(o, fd, path, write);
	end = r ? 0 : lseek(fd, 0, SEEK_END);
	if (!r && end < 0)
		r = complain(o, -errno, path, "%s", strerror(errno));
	if (r) {
		close(fd);
		return r;
	}
	*bytes = (uint64_t)end;
	return fd;
}

static int open_base(const struct opening *o)
{
	struct disk *d = o->d;
	uint64_t bytes;
	bool write = !d->read_only && !o->c->overlay && !d->snapshot;
	int fd = open_image(o, o->c->path, write, 0, &bytes);

	if (fd < 0)
		return fd;
	d->fd[0] = fd;
	d->sectors = bytes >> SECTOR_SHIFT;
	if (!bytes)
		return complain(o, -EINVAL, o->c->path,
				"is empty; make it as large as the disk is to "
				"be (truncate -s 1G)");
	if (bytes % SECTOR_SIZE)
		return complain(o, -EINVAL, o->c->path,
				"is not a multiple of 512 bytes long; is it a "
				"raw image? (truncate -s %%512 pads it)");
	return 0;
}

static int complain_overlay(const struct opening *o, const char *path, int r)
{
	switch (r) {
	case -EBADMSG:
		return complain(o, r, path,
				"is not an overlay of ours; name another file");
	case -ESTALE:
		return complain(o, r, path,
				"belongs to another base, or %s was changed "
				"under it; name another file",
				o->c->path);
	default:
		return complain(o, r, path, "%s", strerror(-r));
	}
}

static int open_temporary(const struct opening *o)
{
	const char *dir = getenv("TMPDIR");
	int fd;

	dir = dir && *dir ? dir : "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return complain(o, -errno, o->c->path,
				"no temporary file in %s: %s; set TMPDIR", dir,
				strerror(errno));
	return fd;
}

static int open_overlay(const struct opening *o)
{
	struct disk *d = o->d;
	uint64_t bytes = 0;
	int r;

	if (!o->c->overlay && !d->snapshot)
		return 0;
	r = d->snapshot ? open_temporary(o)
			: open_image(o, o->c->overlay, true, O_CREAT, &bytes);
	if (r < 0)
		return r;
	d->fd[1] = r;
	d->target = 1;
	r = overlay_create(d->fd[1], d->fd[0], d->sectors, !bytes, !d->snapshot,
			   &d->ov);
	return r ? complain_overlay(o, d->snapshot ? o->c->path : o->c->overlay,
				    r)
		 : 0;
}

/* Beyond the end there is nothing to lose. */
static bool can_punch(int fd)
{
	off_t end = lseek(fd, 0, SEEK_END);

	return !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (end + 4095) & ~4095ll, 4096);
}

static void set_serial(struct disk *d, const struct disk_config *c)
{
	const char *slash = strrchr(c->path, '/');

	snprintf(d->serial, sizeof(d->serial), "%s",
		 c->serial ? c->serial
		 : slash   ? slash + 1
			   : c->path);
}

static void free_disk(struct disk *d)
{
	struct flock l = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	overlay_destroy(d->ov);
	for (unsigned i = 0; i < 2; i++) {
		if (d->fd[i] < 0)
			continue;
		/* A ring that is being taken apart still holds the file. */
		(void)fcntl(d->fd[i], F_OFD_SETLK, &l);
		close(d->fd[i]);
	}
	free(d);
}

int disk_open(const struct disk_config *c, void (*ready)(void *ctx), void *ctx,
	      struct disk **out, char *err, size_t errlen)
{
	struct disk *d = calloc(1, sizeof(*d));
	struct opening o = {d, c, err, errlen};
	struct aio_config a = {.mode = c->aio,
			       .n_fds = 1,
			       .depth = DEPTH,
			       .ready = ready,
			       .ctx = ctx};
	int r;

	if (!d)
		return complain(&o, -ENOMEM, c->path, "out of memory");
	d->fd[0] = d->fd[1] = -1;
	d->finished_end = &d->finished;
	d->read_only = c->read_only;
	d->snapshot = c->snapshot;
	set_serial(d, c);
	r = open_base(&o);
	if (!r)
		r = open_overlay(&o);
	if (!r) {
		d->can_zero = !d->read_only && can_punch(d->fd[d->target]);
		a.fds = d->fd;
		a.n_fds = 1 + d->target;
		r = aio_create(&a, &d->aio);
		if (r)
			complain(&o, r, c->path, "cannot start its I/O: %s",
				 strerror(-r));
	}
	if (r) {
		free_disk(d);
		return r;
	}
	*out = d;
	return 0;
}

static void nothing(struct disk_req *rq, int err)
{
	if (err)
		log_error("a disk's overlay could not be saved: %s; what the "
			  "guest wrote since its last flush is lost",
			  strerror(-err));
}

void disk_close(struct disk *d)
{
	struct disk_req last = {.kind = DISK_FLUSH, .done = nothing};

	if (!d)
		return;
	disk_drain(d);
	if (d->ov) {
		disk_submit(d, &last);
		disk_drain(d);
	}
	aio_destroy(d->aio);
	free_disk(d);
}
