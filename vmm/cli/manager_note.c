/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a next manager must know of each VM, should this one be killed: a
 * directory beside the socket (its path and ".vms"), for its user alone, with
 * two files a VM. s.NAME is the socket where its monitor takes offers
 * (vmm/adopt.h). n.NAME is a note of what was configured, and of which files
 * (device and inode) the VM was made with.
 *
 * So the next manager believes no monitor about a size or a group, and takes
 * no descriptor from it but those that it was given: it cannot make another
 * file of memory, and a pool that one VM could write must never become
 * another's.
 *
 * A note is there before its monitor is, and is replaced as a whole.
 */
#include "vmm/cli/manager_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/types.h"

#define NOTE_MAX 4096

static void note_name(char *buf, size_t len, char kind, const char *name)
{
	snprintf(buf, len, "%c.%s", kind, name);
}

void manager_offer_address(const struct manager *m, const char *name,
			   struct sockaddr_un *sa)
{
	*sa = (struct sockaddr_un){.sun_family = AF_UNIX};
	/* Short, however long the directory's path is. */
	snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d/s.%s",
		 m->notes, name);
}

/* ---- the directory ---- */

static int notes_path(const struct manager *m, char *path, size_t len)
{
	return (size_t)snprintf(path, len, "%s" NOTES_SUFFIX,
				m->cfg.socket_path) < len
		       ? 0
		       : -ENAMETOOLONG;
}

int manager_open_notes(struct manager *m, char *err, size_t errlen)
{
	char path[4096];
	struct stat st;
	int r = notes_path(m, path, sizeof(path));

	if (!r && mkdir(path, 0700) && errno != EEXIST)
		r = -errno;
	if (!r) {
		m->notes = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW |
					      O_CLOEXEC);
		r = m->notes < 0 ? -errno : 0;
	}
	if (!r && (fstat(m->notes, &st) || st.st_uid != geteuid() ||
		   st.st_mode & 077))
		r = -EPERM;
	if (r)
		manager_close_fd(&m->notes);
	if (r)
		snprintf(err, errlen,
			 "%s: %s; it must be a directory of yours alone, or "
			 "use another --socket PATH",
			 path, strerror(-r));
	return r;
}

void manager_close_notes(struct manager *m)
{
	char path[4096];

	if (m->notes < 0)
		return;
	manager_close_fd(&m->notes);
	/* It stays while there are VMs in it. */
	if (!notes_path(m, path, sizeof(path)))
		rmdir(path);
}

void manager_forget(const struct manager *m, const char *name)
{
	char file[FLEET_NAME_MAX + 8];

	note_name(file, sizeof(file), 's', name);
	unlinkat(m->notes, file, 0);
	note_name(file, sizeof(file), 'n', name);
	unlinkat(m->notes, file, 0);
}

int manager_bind_offers(const struct manager *m, const char *name)
{
	struct sockaddr_un sa;
	char file[FLEET_NAME_MAX + 8];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), e;

	if (fd < 0)
		return -errno;
	note_name(file, sizeof(file), 's', name);
	unlinkat(m->notes, file, 0);
	manager_offer_address(m, name, &sa);
	if (!bind(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return fd;
	e = errno;
	close(fd);
	return -e;
}

/* ---- notes ---- */

int manager_file_id(int fd, struct file_id *id)
{
	struct stat st;

	*id = (struct file_id){0, 0};
	if (fd < 0)
		return 0;
	if (fstat(fd, &st))
		return -errno;
	*id = (struct file_id){st.st_dev, st.st_ino};
	return 0;
}

static int note_files(const struct mvm *v, struct vm_note *n)
{
	const int fds[ADOPT_FDS] = {
		[ADOPT_MEM] = v->memfd,	   [ADOPT_CONTROL] = v->control_fd,
		[ADOPT_POOL] = v->pool_fd, [ADOPT_STORE] = v->store_fd,
		[ADOPT_TEXT] = v->text_fd, [ADOPT_SWAP] = v->swap_fd,
	};
	int r = 0;

	for (unsigned i = 0; i < ADOPT_FDS && !r; i++)
		r = manager_file_id(fds[i], &n->file[i]);
	return r;
}

static json_t *note_json(const struct mvm *v)
{
	struct vm_note n;
	json_t *files = json_array();

	if (!files || note_files(v, &n)) {
		json_decref(files);
		return NULL;
	}
	for (unsigned i = 0; i < ADOPT_FDS; i++) {
		json_array_append_new(files,
				      json_integer((json_int_t)n.file[i].dev));
		json_array_append_new(files,
				      json_integer((json_int_t)n.file[i].ino));
	}
	return json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, "
			 "s:I, s:o}",
			 "version", (int)ADOPT_VERSION, "group", v->group_name,
			 "mem", (json_int_t)v->mem, "min",
			 (json_int_t)v->re.min, "max", (json_int_t)v->re.max,
			 "shares", (json_int_t)v->re.shares, "start_ns",
			 (json_int_t)v->start_ns, "layout",
			 (json_int_t)v->layout_seed, "paused", (int)v->paused,
			 "balloon_fixed", (int)v->re.balloon_fixed, "balloon",
			 (json_int_t)v->re.balloon, "files", files);
}

static int write_all(int fd, const char *text)
{
	size_t n = strlen(text);

	while (n) {
		ssize_t w = write(fd, text, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w ? -errno : -EIO;
		text += w;
		n -= (size_t)w;
	}
	return 0;
}

int mvm_note(struct mvm *v)
{
	char file[FLEET_NAME_MAX + 8], tmp[FLEET_NAME_MAX + 8];
	json_t *o = note_json(v);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	int r = text ? 0 : -ENOMEM, fd = -1, dir = v->m->notes;

	json_decref(o);
	note_name(file, sizeof(file), 'n', v->name);
	note_name(tmp, sizeof(tmp), 't', v->name);
	if (!r) {
		fd = openat(dir, tmp,
			    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC |
				    O_NOFOLLOW,
			    0600);
		r = fd < 0 ? -errno : write_all(fd, text);
	}
	free(text);
	if (fd >= 0 && close(fd) && !r)
		r = -errno;
	if (!r && renameat(dir, tmp, dir, file))
		r = -errno;
	if (r && fd >= 0)
		unlinkat(dir, tmp, 0);
	v->noted = v->noted || !r;
	return r;
}

void mvm_note_again(struct mvm *v)
{
	int r = v->noted ? mvm_note(v) : 0;

	if (r)
		manager_event(v->m,
			      "%s: its note for a next manager cannot be "
			      "written (%s): the one before stays",
			      v->name, strerror(-r));
}

static int parse_files(json_t *files, struct vm_note *n)
{
	if (json_array_size(files) != 2 * ADOPT_FDS)
		return -EINVAL;
	for (unsigned i = 0; i < ADOPT_FDS; i++) {
		n->file[i].dev = (uint64_t)json_integer_value(
			json_array_get(files, 2 * i));
		n->file[i].ino = (uint64_t)json_integer_value(
			json_array_get(files, 2 * i + 1));
	}
	return 0;
}

static int parse_note(json_t *o, struct vm_note *n)
{
	json_int_t mem, min, max, shares, start, layout, balloon;
	json_t *files;
	const char *group;
	int version, paused, fixed;

	if (json_unpack(o,
			"{s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, "
			"s:I, s:o}",
			"version", &version, "group", &group, "mem", &mem,
			"min", &min, "max", &max, "shares", &shares, "start_ns",
			&start, "layout", &layout, "paused", &paused,
			"balloon_fixed", &fixed, "balloon", &balloon, "files",
			&files) ||
	    version != (int)ADOPT_VERSION || mem <= 0 || mem & ~PAGE_MASK ||
	    strlen(group) > FLEET_NAME_MAX || shares <= 0)
		return -EINVAL;
	snprintf(n->group, sizeof(n->group), "%s", group);
	n->mem = (uint64_t)mem;
	n->min = (uint64_t)min;
	n->max = (uint64_t)max;
	n->shares = (uint64_t)shares;
	n->start_ns = (uint64_t)start;
	n->layout_seed = (uint64_t)layout;
	n->balloon = (uint64_t)balloon;
	n->paused = paused;
	n->balloon_fixed = fixed;
	return parse_files(files, n);
}

int manager_read_note(const struct manager *m, const char *name,
		      struct vm_note *n)
{
	char file[FLEET_NAME_MAX + 8], text[NOTE_MAX];
	ssize_t len;
	json_t *o;
	int fd, r;

	memset(n, 0, sizeof(*n));
	note_name(file, sizeof(file), 'n', name);
	fd = openat(m->notes, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	len = read(fd, text, sizeof(text));
	close(fd);
	o = len > 0 && len < NOTE_MAX ? json_loadb(text, (size_t)len, 0, NULL)
				      : NULL;
	r = o ? parse_note(o, n) : -EINVAL;
	json_decref(o);
	snprintf(n->name, sizeof(n->name), "%s", name);
	return r;
}
