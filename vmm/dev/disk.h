/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_DEV_DISK_H
#define SARDINE_VMM_DEV_DISK_H
/*
 * A disk of sectors of 512 bytes in a file, or in a read-only base with an
 * overlay of this VM's own. Asynchronous; one owner thread makes all calls.
 */
#include "vmm/dev/aio.h"

#define SECTOR_SHIFT 9
#define SECTOR_SIZE  512u

struct disk_config {
	const char *path;    /* a file or block device */
	const char *overlay; /* writes go there; made if it is not there. NULL:
				none */
	bool read_only;
	bool snapshot;	    /* an overlay that goes with the VM */
	const char *serial; /* NULL: the name of the file */
	enum aio_mode aio;  /* for tests */
};

enum disk_kind { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_ZERO };

/* The caller's until done(). */
struct disk_req {
	enum disk_kind kind;
	uint64_t sector, n;	 /* within the disk; n > 0 but for FLUSH */
	const struct iovec *iov; /* n sectors, for READ and WRITE */
	unsigned n_iov;
	/* 0 or -errno. Called by disk_poll; may submit, and free the request. */
	void (*done)(struct disk_req *rq, int err);
	void *ctx;
	/* disk.c's */
	unsigned pieces;
	int err;
	struct disk_req *next;
};

struct disk;
/* Open and lock. ready: as in aio.h. 0; or -errno with one line in err that
 * names the file and the remedy. Before confinement. */
int disk_open(const struct disk_config *c, void (*ready)(void *ctx), void *ctx,
	      struct disk **out, char *err, size_t errlen);
/* Waits for what is under way, and makes the overlay whole on its file. */
void disk_close(struct disk *d);
uint64_t disk_sectors(const struct disk *d);
bool disk_read_only(const struct disk *d);
/* Can it punch holes? Else DISK_ZERO must not be asked for. */
bool disk_can_zero(const struct disk *d);
const char *disk_serial(const struct disk *d);
/* Are these sectors what others read from the same image, too: of a base, or of a
 * disk that is only read? */
bool disk_is_common(const struct disk *d, uint64_t sector, uint64_t n);
int disk_event_fd(const struct disk *d); /* see aio_event_fd */
void disk_clear_event(struct disk *d);	 /* any thread */

/* Take a request. It is started by the next disk_poll at the latest. A FLUSH
 * covers every request that was done before it was submitted. */
void disk_submit(struct disk *d, struct disk_req *rq);
/* Start and finish what can be. */
void disk_poll(struct disk *d);
/* Until nothing is under way. */
void disk_drain(struct disk *d);
#endif
