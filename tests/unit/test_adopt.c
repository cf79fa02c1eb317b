/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manager that finds a note, and a process that answers its offers but is not
 * what it should be: whatever it sends, it does not become a VM, and nothing
 * of what the note claims is given to anybody.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mm/control.h"
#include "mm/types.h"
#include "vmm/adopt.h"
#include "vmm/cli/manager.h"

#define MEM  (16ull << 20)
#define MORE (ADOPT_FDS + 2)

static char dir[] = "/tmp/sardine-adopt.XXXXXX";
static char path[60], events[8192];
static struct manager *m;
static int offers = -1;		   /* the fake monitor's socket */
static int fds[MORE];		   /* what it was made with */
static int conn = -1, frames = -1; /* of the last offer */

static void on_event(void *ctx, const char *text)
{
	size_t n = strlen(events);

	snprintf(events + n, sizeof(events) - n, "%s\n", text);
}

static int a_file(uint64_t bytes)
{
	int fd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

static void write_note(void)
{
	char name[200], files[400] = "";
	FILE *f;

	for (unsigned i = 0; i < ADOPT_FDS; i++) {
		size_t n = strlen(files);
		struct stat st = {0};

		if (fds[i] >= 0)
			assert_int_equal(fstat(fds[i], &st), 0);
		snprintf(files + n, sizeof(files) - n, "%s%lu,%lu",
			 i ? "," : "", (unsigned long)st.st_dev,
			 (unsigned long)st.st_ino);
	}
	snprintf(name, sizeof(name), "%s" NOTES_SUFFIX "/n.fake", path);
	f = fopen(name, "w");
	assert_non_null(f);
	fprintf(f,
		"{\"version\":%u,\"group\":\"g\",\"mem\":%llu,\"min\":4096,"
		"\"max\":%llu,\"shares\":10,\"start_ns\":1,\"layout\":7,"
		"\"paused\":false,\"balloon_fixed\":false,\"balloon\":0,"
		"\"files\":[%s]}",
		ADOPT_VERSION, MEM, MEM, files);
	fclose(f);
}

static void bind_offers(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s" NOTES_SUFFIX "/s.fake",
		 path);
	offers = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(offers, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

static int create(void)
{
	struct manager_config c = {.budget_bytes = 1ull << 30,
				   .socket_path = path,
				   .share = true,
				   .event = on_event};
	char err[500];

	return manager_create(&c, &m, err, sizeof(err));
}

/* The next offer, into conn and frames. */
static void take_offer(void)
{
	struct ucred who;
	int got[ADOPT_OFFER_FDS], n = -EAGAIN;

	if (conn >= 0)
		close(conn);
	if (frames >= 0)
		close(frames);
	for (unsigned i = 0; i < 100 && n == -EAGAIN; i++) {
		manager_poll(m, 50);
		n = adopt_receive(offers, got, ADOPT_OFFER_FDS, &who);
	}
	assert_int_equal(n, ADOPT_OFFER_FDS);
	conn = got[ADOPT_OFFER_SOCKET];
	frames = got[ADOPT_OFFER_FRAMES];
}

static void send_answer(const int *with, unsigned n, uint64_t magic,
			uint32_t version)
{
	struct adopt_msg msg = {magic, version, n};
	struct iovec iov = {&msg, sizeof(msg)};
	union {
		char buf[CMSG_SPACE(sizeof(int) * MORE)];
		struct cmsghdr align;
	} u = {0};
	struct msghdr h = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.buf,
			   .msg_controllen = CMSG_SPACE(sizeof(int) * n)};

	u.align.cmsg_level = SOL_SOCKET;
	u.align.cmsg_type = SCM_RIGHTS;
	u.align.cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(&u.align), with, sizeof(int) * n);
	assert_int_equal(sendmsg(conn, &h, MSG_NOSIGNAL), sizeof(msg));
	for (unsigned i = 0; i < 3; i++)
		manager_poll(m, 20);
}

static int open_fds(void)
{
	int n = 0;

	for (int i = 3; i < 256; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

/* Refused: no VM, no descriptor kept, and it is asked again. */
static void assert_refused(void)
{
	assert_int_equal(manager_alive(m), 0);
	assert_int_equal(manager_claims(m), 1);
	assert_null(strstr(events, "taken over"));
	take_offer();
}

static int setup(void **s)
{
	char notes[200];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(notes, sizeof(notes), "%s" NOTES_SUFFIX, path);
	assert_int_equal(mkdir(notes, 0700), 0);
	fds[ADOPT_MEM] = a_file(MEM);
	fds[ADOPT_CONTROL] = a_file(control_bytes(MEM, 0));
	fds[ADOPT_POOL] = a_file(4 << 20);
	fds[ADOPT_STORE] = a_file(MEM);
	fds[ADOPT_TEXT] = a_file(0);
	fds[ADOPT_SWAP] = -1;
	write_note();
	bind_offers();
	assert_int_equal(create(), 0);
	take_offer();
	return 0;
}

static void test_files(void **s)
{
	int before = open_fds(), other[MORE];

	for (unsigned i = 0; i < ADOPT_SWAP; i++) {
		memcpy(other, fds, sizeof(other));
		other[i] = a_file(MEM);
		send_answer(other, ADOPT_SWAP, ADOPT_MAGIC, ADOPT_VERSION);
		close(other[i]);
		assert_refused();
	}
	/* The right ones, in another order. */
	memcpy(other, fds, sizeof(other));
	other[ADOPT_POOL] = fds[ADOPT_MEM];
	other[ADOPT_MEM] = fds[ADOPT_POOL];
	send_answer(other, ADOPT_SWAP, ADOPT_MAGIC, ADOPT_VERSION);
	assert_refused();
	/* One that the note does not know; one less; more than there are. */
	memcpy(other, fds, sizeof(other));
	other[ADOPT_SWAP] = other[ADOPT_FDS] = other[ADOPT_FDS + 1] =
		fds[ADOPT_TEXT];
	send_answer(other, ADOPT_FDS, ADOPT_MAGIC, ADOPT_VERSION);
	assert_refused();
	send_answer(fds, ADOPT_SWAP - 1, ADOPT_MAGIC, ADOPT_VERSION);
	assert_refused();
	send_answer(other, MORE, ADOPT_MAGIC, ADOPT_VERSION);
	assert_refused();
	assert_int_equal(open_fds(), before);
}

static void test_messages(void **s)
{
	int before = open_fds();

	send_answer(fds, ADOPT_SWAP, ADOPT_MAGIC + 1, ADOPT_VERSION);
	assert_refused();
	send_answer(fds, ADOPT_SWAP, ADOPT_MAGIC, ADOPT_VERSION + 1);
	assert_refused();
	assert_int_equal(send(conn, "x", 1, MSG_NOSIGNAL), 1);
	manager_poll(m, 20);
	assert_refused();
	assert_int_equal(open_fds(), before);
	/* No answer at all is no end. */
	close(conn);
	conn = -1;
	assert_refused();
}

static void test_frames(void **s)
{
	struct stat st;

	/* The manager will read it: it must not become shorter. */
	assert_int_equal(ftruncate(frames, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fstat(frames, &st), 0);
	assert_true((uint64_t)st.st_size >= MEM / PAGE_SIZE * 4);
}

static void test_end(void **s)
{
	char note[200];

	snprintf(note, sizeof(note), "%s" NOTES_SUFFIX "/n.fake", path);
	assert_int_equal(access(note, F_OK), 0);
	close(offers);
	close(conn);
	conn = -1;
	for (unsigned i = 0; i < 100 && manager_claims(m); i++)
		manager_poll(m, 50);
	assert_int_equal(manager_claims(m), 0);
	assert_non_null(strstr(events, "fake: has ended meanwhile"));
	assert_int_equal(access(note, F_OK), -1);
}

/* The directory must be its user's alone. */
static void test_directory(void **s)
{
	char notes[200];

	manager_destroy(m);
	m = NULL;
	snprintf(notes, sizeof(notes), "%s" NOTES_SUFFIX, path);
	assert_int_equal(access(notes, F_OK), -1); /* it was empty */
	assert_int_equal(mkdir(notes, 0700), 0);
	assert_int_equal(chmod(notes, 0770), 0);
	assert_int_equal(create(), -EPERM);
	assert_int_equal(rmdir(notes), 0);
	assert_int_equal(symlink("/tmp", notes), 0);
	assert_int_not_equal(create(), 0);
	assert_int_equal(unlink(notes), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_directory),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
