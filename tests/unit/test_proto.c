/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What processes say to each other and what users write in files: samples
 * (report.c), the manager's socket (server.c), fleet files (fleet.c). Hostile
 * input must be refused and must not show.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/disks.h"
#include "vmm/cli/fleet.h"
#include "vmm/cli/report_table.h"
#include "vmm/cli/server.h"

/* ---- samples ---- */

static struct report_vm two[2] = {
	{.name = "vm0",
	 .state = "running",
	 .pid = 123,
	 .configured_bytes = 1 << 27,
	 .private_bytes = 30 << 20,
	 .shared_bytes = 40 << 20,
	 .zero_bytes = 58 << 20,
	 .overhead_bytes = 5 << 20,
	 .boot_ms = 2300,
	 .granted_bytes = REPORT_ABSENT,
	 .active_bytes = REPORT_ABSENT,
	 .ballooned_bytes = REPORT_ABSENT,
	 .compressed_bytes = REPORT_ABSENT,
	 .store_bytes = REPORT_ABSENT,
	 .wait_ms = REPORT_ABSENT,
	 .decompressed_pages = REPORT_ABSENT,
	 .decompress_p99_us = REPORT_ABSENT,
	 .swapped_in_pages = REPORT_ABSENT,
	 .swap_in_p99_us = REPORT_ABSENT,
	 .fetched_pages = REPORT_ABSENT,
	 .swapped_bytes = 1 << 20},
	{.name = "vm1",
	 .state = "killed",
	 .configured_bytes = 1 << 27,
	 .granted_bytes = REPORT_ABSENT,
	 .active_bytes = REPORT_ABSENT,
	 .ballooned_bytes = REPORT_ABSENT,
	 .compressed_bytes = REPORT_ABSENT,
	 .store_bytes = REPORT_ABSENT,
	 .wait_ms = REPORT_ABSENT,
	 .decompressed_pages = REPORT_ABSENT,
	 .decompress_p99_us = REPORT_ABSENT,
	 .swapped_in_pages = REPORT_ABSENT,
	 .swap_in_p99_us = REPORT_ABSENT,
	 .fetched_pages = REPORT_ABSENT,
	 .swapped_bytes = REPORT_ABSENT},
};

static void fill(struct report *r)
{
	report_init(r);
	r->budget_bytes = 1ull << 34;
	r->used_bytes = 5ull << 30;
	r->pool_bytes = 77 << 20;
	strcpy(r->host_state, "ok");
	r->vms = two;
	r->n_vms = 2;
	r->saved_bytes = 100 << 20;
	r->oracle_bytes = 110 << 20;
	r->oracle_valid = true;
	r->merged_pages = 11;
	r->broken_pages = 12;
	r->scanned_pages = 13;
	strcpy(r->refused[0].name, "changed");
	r->refused[0].count = 3;
	r->n_refused = 1;
}

/* The shape that issue 2 promises: names and types. */
static void test_shape(void **state)
{
	static const char *const paths[][2] = {
		{"host", "budget_bytes"},    {"host", "used_bytes"},
		{"host", "pool_bytes"},	     {"sharing", "saved_bytes"},
		{"sharing", "oracle_bytes"}, {"sharing", "merged_pages"},
		{"sharing", "broken_pages"}, {"sharing", "scanned_pages"},
	};
	static const char *const vm_ints[] = {
		"pid",		"configured_bytes", "private_bytes",
		"shared_bytes", "zero_bytes",	    "overhead_bytes",
		"boot_ms"};
	struct report r;
	json_t *o, *vm;

	fill(&r);
	o = report_to_json(&r);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		assert_true(json_is_integer(json_object_get(
			json_object_get(o, paths[i][0]), paths[i][1])));
	assert_true(json_is_string(
		json_object_get(json_object_get(o, "host"), "state")));
	vm = json_array_get(json_object_get(o, "vms"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(vm_ints); i++)
		assert_true(json_is_integer(json_object_get(vm, vm_ints[i])));
	assert_string_equal(json_string_value(json_object_get(vm, "name")),
			    "vm0");
	assert_string_equal(json_string_value(json_object_get(vm, "state")),
			    "running");
	assert_int_equal(json_integer_value(json_object_get(
				 json_object_get(json_object_get(o, "sharing"),
						 "refused"),
				 "changed")),
			 3);
	json_decref(o);
}

static void test_round_trip(void **state)
{
	struct report r, back;
	json_t *o;

	fill(&r);
	o = report_to_json(&r);
	assert_int_equal(report_from_json(o, &back), 0);
	json_decref(o);
	assert_int_equal(back.n_vms, 2);
	assert_memory_equal(&back.vms[0], &two[0], sizeof(two[0]));
	assert_memory_equal(&back.vms[1], &two[1], sizeof(two[1]));
	assert_int_equal(back.used_bytes, r.used_bytes);
	assert_int_equal(back.oracle_bytes, r.oracle_bytes);
	assert_true(back.oracle_valid);
	assert_int_equal(back.n_refused, 1);
	assert_string_equal(back.refused[0].name, "changed");
	report_free(&back);
}

/* Take one thing out, or make it another type: refused, never a crash. */
static void test_hostile_samples(void **state)
{
	static const char *const texts[] = {
		"[]",
		"{}",
		"3",
		"{\"host\":[],\"vms\":[],\"sharing\":{}}",
		"{\"host\":{\"budget_bytes\":1,\"used_bytes\":1,"
		"\"pool_bytes\":-1,\"state\":\"ok\"},\"vms\":[],"
		"\"sharing\":{\"saved_bytes\":0,\"oracle_bytes\":0,"
		"\"merged_pages\":0,\"broken_pages\":0,\"scanned_pages\":0,"
		"\"refused\":{}}}",
		"{\"host\":{\"budget_bytes\":1,\"used_bytes\":1,"
		"\"pool_bytes\":1,\"state\":\"ok\"},\"vms\":[3],"
		"\"sharing\":{\"saved_bytes\":0,\"oracle_bytes\":0,"
		"\"merged_pages\":0,\"broken_pages\":0,\"scanned_pages\":0,"
		"\"refused\":{}}}",
		"{\"host\":{\"budget_bytes\":1,\"used_bytes\":1,"
		"\"pool_bytes\":1,\"state\":\"ok\"},\"vms\":[],"
		"\"sharing\":{\"saved_bytes\":0,\"oracle_bytes\":0,"
		"\"merged_pages\":0,\"broken_pages\":0,\"scanned_pages\":0,"
		"\"refused\":{\"x\":\"y\"}}}",
	};
	struct report r;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		json_t *o = json_loads(texts[i], JSON_DECODE_ANY, NULL);

		assert_non_null(o);
		if (report_from_json(o, &r) != -EINVAL)
			fail_msg("accepted: %s", texts[i]);
		json_decref(o);
	}
}

static void test_names_cannot_move_the_cursor(void **state)
{
	struct report r, back;
	char *text = NULL;
	size_t len;
	json_t *o, *vm;
	FILE *f;

	fill(&r);
	o = report_to_json(&r);
	vm = json_array_get(json_object_get(o, "vms"), 0);
	json_object_set_new(vm, "name", json_string("a\033[2Jb\n\tc"));
	json_object_set_new(vm, "state",
			    json_string("0123456789012345678901234567890"));
	assert_int_equal(report_from_json(o, &back), 0);
	json_decref(o);
	assert_string_equal(back.vms[0].name, "a?[2Jb??c");
	assert_string_equal(back.vms[0].state, "012345678901234");
	f = open_memstream(&text, &len);
	report_print(&back, f, 0);
	fclose(f);
	assert_null(strchr(text, '\033'));
	free(text);
	report_free(&back);
}

static void test_table(void **state)
{
	struct report r;
	char *text = NULL, line[300];
	unsigned lines = 0, n;
	size_t len;
	FILE *f;

	fill(&r);
	strcpy(r.audit, "clean");
	f = open_memstream(&text, &len);
	n = report_print(&r, f, 0);
	fclose(f);
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	assert_int_equal(n, lines); /* the live table moves up this far */
	assert_non_null(strstr(text, "killed"));
	assert_non_null(strstr(text, "90.9%"));
	assert_non_null(strstr(text, "changed 3"));
	assert_non_null(strstr(text, "audit clean"));
	free(text);
	f = open_memstream(&text, &len);
	n = report_print(&r, f, 1);
	fclose(f);
	lines = 0;
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	assert_int_equal(n, lines);
	assert_non_null(strstr(text, "... and 1 more"));
	assert_null(strstr(text, "vm1"));
	free(text);
	report_line(&r, line, sizeof(line));
	assert_non_null(strstr(line, "1 VMs run, 1 reached userland"));
}

static void test_columns_fit(void **state)
{
	static const unsigned widths[] = {0, 200, 100, 80, 60, 40, 20, 1};
	char row[REPORT_ROW_MAX];
	struct report_columns c;
	size_t before = REPORT_MAX_COLUMNS;
	struct report r;

	fill(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(widths); i++) {
		report_columns_pick(&r, widths[i], &c);
		assert_true(c.n >= 2 && c.n <= before);
		before = c.n;
		assert_string_equal(c.f[0]->name, "name");
		report_head(&c, row);
		if (widths[i] >= 40)
			assert_true(strlen(row) <= widths[i]);
		report_row(&c, &r.vms[0], row);
		assert_non_null(strstr(row, "30.0"));
	}
	/* An optional column is there when one VM has it, and empty in others. */
	report_columns_pick(&r, 0, &c);
	report_head(&c, row);
	assert_non_null(strstr(row, "SWAPPED"));
	assert_null(strstr(row, "BALLOONED"));
	report_total_row(&c, &r, row);
	assert_non_null(strstr(row, "256.0"));
	assert_non_null(strstr(row, " 1.0"));
}

static void test_order(void **state)
{
	const struct report_section *s = &report_vm_section;
	struct report_vm vms[4];
	size_t order[4];
	struct report r;

	report_init(&r);
	r.vms = vms;
	r.n_vms = 4;
	for (unsigned i = 0; i < 4; i++) {
		report_section_clear(s, &vms[i]);
		snprintf(vms[i].name, REPORT_NAME, "vm%u", 10 - i);
		vms[i].private_bytes = i == 2 ? 9 : 5;
	}
	vms[3].active_bytes = 0;
	vms[1].active_bytes = 7;
	report_sort(&r, NULL, true, order);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(order[i], i);
	/* Numbers in names count as numbers: vm7, vm8, vm9, vm10. */
	report_sort(&r, report_field_find(s, "name"), false, order);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(order[i], 3 - i);
	/* Those that are equal stay in their order. */
	report_sort(&r, report_field_find(s, "private_bytes"), true, order);
	assert_int_equal(order[0], 2);
	assert_int_equal(order[1], 0);
	assert_int_equal(order[3], 3);
	/* Absent is less than 0. */
	report_sort(&r, report_field_find(s, "active_bytes"), true, order);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 3);
}

static void test_optional_fields(void **state)
{
	struct report r, back;
	json_t *o, *vms;

	fill(&r);
	o = report_to_json(&r);
	vms = json_object_get(o, "vms");
	assert_non_null(
		json_object_get(json_array_get(vms, 0), "swapped_bytes"));
	assert_null(json_object_get(json_array_get(vms, 1), "swapped_bytes"));
	assert_null(json_object_get(json_array_get(vms, 0), "active_bytes"));
	assert_null(json_object_get(json_object_get(o, "host"), "store_bytes"));
	assert_int_equal(report_from_json(o, &back), 0);
	assert_true(back.vms[0].swapped_bytes == 1 << 20);
	assert_true(back.vms[1].swapped_bytes == REPORT_ABSENT);
	assert_true(back.store_bytes == REPORT_ABSENT);
	json_decref(o);
	report_free(&back);
}

/* ---- the socket ---- */

static char dir[64];

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/test_proto.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}
static int remove_dir(void **state)
{
	return rmdir(dir); /* fails when something was left behind */
}

static char *path_of(const char *name)
{
	static char p[200];

	snprintf(p, sizeof(p), "%s/%s", dir, name);
	return p;
}

static pid_t query_in_child(const char *path, const char *want)
{
	pid_t pid = fork();
	char *text, err[256];
	size_t len;

	if (pid)
		return pid;
	if (server_query(path, "top", &text, &len, err, sizeof(err)))
		_exit(1);
	_exit(strcmp(text, want) ? 2 : 0);
}

/* Wait for a client and what it wants. */
static int asked(struct server *s, const char *want)
{
	const char *line;
	int fd;

	while ((fd = server_accept(s, 0)) < 0)
		usleep(1000);
	while (server_client_ready(s, fd, &line) != SERVER_ASKED)
		usleep(1000);
	assert_string_equal(line, want);
	return fd;
}

static void test_query(void **state)
{
	struct server *s;
	char err[256];
	pid_t pid;
	int st;

	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	pid = query_in_child(path_of("a"), "hello");
	assert_int_equal(server_answer(s, asked(s, "top"), strdup("hello"), 5),
			 SERVER_DONE);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	server_close(s);
}

/* A line in pieces, no line at all, one without end, and nobody. */
static void test_requests(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char err[256], many[300];
	const char *line;
	struct server *s;

	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	strcpy(sa.sun_path, path_of("a"));
	memset(many, 'x', sizeof(many));
	for (int k = 0; k < 4; k++) {
		int c = socket(AF_UNIX, SOCK_STREAM, 0), fd;

		assert_int_equal(connect(c, (void *)&sa, sizeof(sa)), 0);
		fd = server_accept(s, 0);
		assert_true(fd >= 0);
		assert_int_equal(server_client_ready(s, fd, &line),
				 SERVER_WAIT);
		if (k == 0) {
			assert_int_equal(write(c, "sta", 3), 3);
			assert_int_equal(server_client_ready(s, fd, &line),
					 SERVER_WAIT);
			assert_int_equal(write(c, "ts a\nb", 6), 6);
			assert_int_equal(server_client_ready(s, fd, &line),
					 SERVER_ASKED);
			assert_string_equal(line, "stats a");
		} else if (k == 1) {
			shutdown(c, SHUT_WR);
			assert_int_equal(server_client_ready(s, fd, &line),
					 SERVER_ASKED);
			assert_string_equal(line, "");
		} else if (k == 2) {
			assert_int_equal(write(c, many, sizeof(many)),
					 sizeof(many));
			assert_int_equal(server_client_ready(s, fd, &line),
					 SERVER_DONE);
			close(c);
			continue;
		}
		assert_int_equal(server_answer(s, fd, NULL, 0), SERVER_DONE);
		close(c);
	}
	server_close(s);
}

/* More than a socket buffer: written in parts as the client reads. */
static void test_long_answer(void **state)
{
	size_t len = 3 << 20;
	char *text = malloc(len + 1), *want, err[256];
	const char *line;
	struct server *s;
	pid_t pid;
	int st, fd;

	memset(text, 'x', len);
	text[len] = '\0';
	want = strdup(text);
	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	pid = query_in_child(path_of("a"), want);
	fd = asked(s, "top");
	if (server_answer(s, fd, strdup(text), len) == SERVER_WAIT)
		while (server_client_ready(s, fd, &line) != SERVER_DONE)
			usleep(100);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	free(text);
	free(want);
	server_close(s);
}

/* A client that never reads is dropped, and costs the manager no wait. */
static void test_deaf_client(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t len = 3 << 20;
	const char *line;
	char err[256], b;
	struct server *s;
	int c, fd;

	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	strcpy(sa.sun_path, path_of("a"));
	c = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(c, (void *)&sa, sizeof(sa)), 0);
	fd = server_accept(s, 1000);
	assert_true(fd >= 0);
	assert_int_equal(write(c, "top\n", 4), 4);
	assert_int_equal(server_client_ready(s, fd, &line), SERVER_ASKED);
	assert_int_equal(server_answer(s, fd, calloc(1, len), len),
			 SERVER_WAIT);
	server_expire(s, 1000 + 4900000000ull);
	assert_int_equal(server_client_ready(s, fd, &line), SERVER_WAIT);
	server_expire(s, 1000 + 5000000000ull);
	while (read(c, &b, 1) == 1)
		;
	close(c);
	server_close(s);
}

/* In a process of its own, as managers are: is it refused, with a line that
 * says by whom? */
static bool refused_elsewhere(void)
{
	int pid = getpid(), child = fork(), status;

	if (!child) {
		char err[256] = "", text[16];
		struct server *t;
		int r = server_open(path_of("a"), false, &t, err, 256);

		snprintf(text, sizeof(text), "%d", pid);
		_exit(r != -EADDRINUSE || !strstr(err, path_of("a")) ||
		      !strstr(err, text) || !strstr(err, "--socket"));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return !status;
}

static void test_second_manager(void **state)
{
	struct server *s;
	char err[256] = "";

	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	assert_true(refused_elsewhere());
	server_close(s);
	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	assert_true(refused_elsewhere());
	server_close(s);
}

/* Killed between fork() and exec() of a child: the next need not wait for it. */
static void test_dead_with_a_child(void **state)
{
	struct server *s;
	char err[256] = "", c;
	int p[2], a, status;

	assert_int_equal(pipe(p), 0);
	a = fork();
	if (!a) {
		if (server_open(path_of("a"), false, &s, err, 256))
			_exit(1);
		if (!fork()) { /* holds all that its parent had */
			(void)!write(p[1], "x", 1);
			sleep(20);
			_exit(0);
		}
		pause();
	}
	close(p[1]);
	assert_int_equal(read(p[0], &c, 1), 1);
	kill(a, SIGKILL);
	assert_int_equal(waitpid(a, &status, 0), a);
	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	server_close(s);
	close(p[0]);
}

/* kill -9 of a manager leaves its socket and lock: replaced by the next. */
static void test_stale_socket(void **state)
{
	char err[256], *text;
	struct server *s;
	size_t len;
	pid_t pid = fork();
	int st;

	if (!pid) {
		server_open(path_of("a"), false, &s, err, 256);
		kill(getpid(), SIGKILL);
	}
	waitpid(pid, &st, 0);
	assert_int_equal(access(path_of("a"), F_OK), 0);
	assert_true(server_query(path_of("a"), "top", &text, &len, err, 256) <
		    0);
	assert_non_null(strstr(err, "no manager"));
	assert_int_equal(server_open(path_of("a"), false, &s, err, 256), 0);
	server_close(s);
}

/* Another's file at our path is not ours to remove. */
static void test_not_a_socket(void **state)
{
	struct server *s;
	char err[256];

	fclose(fopen(path_of("a"), "w"));
	assert_int_equal(server_open(path_of("a"), false, &s, err, 256),
			 -EEXIST);
	assert_int_equal(access(path_of("a"), F_OK), 0);
	assert_int_equal(unlink(path_of("a")), 0);
}

static void test_bad_paths(void **state)
{
	char longer[300], err[400], *text;
	struct server *s;
	size_t len;

	memset(longer, 'a', 200);
	longer[200] = '\0';
	assert_int_equal(server_open(longer, false, &s, err, 400),
			 -ENAMETOOLONG);
	assert_non_null(strstr(err, "--socket"));
	assert_true(server_open("/nonexistent/dir/a", false, &s, err, 400) < 0);
	assert_non_null(strstr(err, "/nonexistent/dir/a"));
	assert_true(server_query(path_of("none"), "top", &text, &len, err,
				 400) < 0);
	assert_non_null(strstr(err, "sardine pack"));
}

/* The default directory: made 0700; one that others can write is refused. */
static void test_directory(void **state)
{
	char sub[200], p[220], err[400];
	struct server *s;
	struct stat st;

	strcpy(sub, path_of("d"));
	snprintf(p, sizeof(p), "%s/s", sub);
	assert_int_equal(server_open(p, true, &s, err, 400), 0);
	assert_int_equal(stat(sub, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(stat(p, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	server_close(s);
	assert_int_equal(access(sub, F_OK), -1);
	assert_int_equal(mkdir(sub, 0777), 0);
	assert_int_equal(chmod(sub, 0777), 0);
	assert_int_equal(server_open(p, true, &s, err, 400), -EPERM);
	assert_int_equal(rmdir(sub), 0);
	assert_int_equal(symlink("/tmp", sub), 0);
	assert_int_equal(server_open(p, true, &s, err, 400), -EPERM);
	assert_int_equal(unlink(sub), 0);
}

/* ---- fleets ---- */

static const struct vm_spec like = {.kernel = "K",
				    .append = "console=ttyS0",
				    .group = "default",
				    .mem = 128 << 20};

static int fleet(const char *text, struct fleet *f, char err[256])
{
	char *copy = strdup(text);
	int r = fleet_parse("FILE", copy, strlen(copy), &like, f, err, 256);

	free(copy);
	return r;
}

static void test_fleet_text(void **state)
{
	struct fleet f;
	char err[256];

	assert_int_equal(
		fleet("# a comment\n\n"
		      "web kernel=a/b initrd=\"c d\" mem=64M group=g1\r\n"
		      "  db append=\"x=\"1\" y\"\tcount=2 # two\n"
		      "last",
		      &f, err),
		0);
	assert_int_equal(f.n, 4);
	assert_string_equal(f.vms[0].name, "web");
	assert_string_equal(f.vms[0].kernel, "a/b");
	assert_string_equal(f.vms[0].initrd, "c d");
	assert_string_equal(f.vms[0].group, "g1");
	assert_int_equal(f.vms[0].mem, 64 << 20);
	assert_string_equal(f.vms[0].append, "console=ttyS0");
	assert_string_equal(f.vms[1].name, "db0");
	assert_string_equal(f.vms[2].name, "db1");
	assert_string_equal(f.vms[2].kernel, "K");
	assert_null(f.vms[2].initrd);
	assert_int_equal(f.vms[2].mem, 128 << 20);
	assert_string_equal(f.vms[3].name, "last");
	fleet_free(&f);
}

static void test_fleet_json(void **state)
{
	struct fleet f;
	char err[256];

	assert_int_equal(fleet(" [{\"name\":\"a\",\"mem\":\"64M\"},"
			       "{\"name\":\"b\",\"mem\":4096,\"count\":2,"
			       "\"append\":\"q r\"}]",
			       &f, err),
			 0);
	assert_int_equal(f.n, 3);
	assert_int_equal(f.vms[0].mem, 64 << 20);
	assert_int_equal(f.vms[2].mem, 4096);
	assert_string_equal(f.vms[2].name, "b1");
	assert_string_equal(f.vms[2].append, "q r");
	fleet_free(&f);
	assert_int_equal(fleet("{\"vms\":[{\"name\":\"a\"}]}", &f, err), 0);
	fleet_free(&f);
}

static void test_fleet_disks(void **state)
{
	char *given[] = {"all.img,ro", NULL};
	struct vm_spec l = like;
	char text[] = "a disk=x.img disk=\"y z\",cow={vm}.cow rng=yes "
		      "balloon=off\nb",
	     err[256];
	struct fleet f;

	l.disks = given;
	assert_int_equal(fleet_parse("F", text, strlen(text), &l, &f, err, 256),
			 0);
	assert_string_equal(f.vms[0].disks[0], "x.img");
	assert_string_equal(f.vms[0].disks[1], "y z,cow={vm}.cow");
	assert_null(f.vms[0].disks[2]);
	assert_true(f.vms[0].rng && f.vms[0].no_balloon);
	assert_string_equal(f.vms[1].disks[0], "all.img,ro");
	assert_null(f.vms[1].disks[1]);
	assert_false(f.vms[1].rng || f.vms[1].no_balloon);
	fleet_free(&f);
	assert_int_equal(fleet("[{\"name\":\"a\",\"disk\":[\"x\",\"y\"]},"
			       "{\"name\":\"b\",\"disk\":\"z\"}]",
			       &f, err),
			 0);
	assert_string_equal(f.vms[0].disks[1], "y");
	assert_string_equal(f.vms[1].disks[0], "z");
	fleet_free(&f);
}

static void test_disks(void **state)
{
	char *specs[] = {"a", "b,ro,serial=x", "c,cow=d/{vm}{vm}.{vm",
			 "e,snapshot", NULL};
	char *bad[] = {"",
		       ",ro",
		       "a,rw",
		       "a,ro,snapshot",
		       "a,cow=",
		       "a,cow=b,ro",
		       "a,serial=123456789012345678901"};
	struct disk_config *d;
	char err[256];
	unsigned n;

	assert_int_equal(disks_parse(specs, "V", &d, &n, err, sizeof(err)), 0);
	assert_int_equal(n, 4);
	assert_string_equal(d[0].path, "a");
	assert_false(d[0].read_only || d[0].snapshot || d[0].overlay);
	assert_true(d[1].read_only);
	assert_string_equal(d[1].serial, "x");
	assert_string_equal(d[2].overlay, "d/VV.{vm");
	assert_true(d[3].snapshot);
	disks_free(d, n);
	assert_int_equal(disks_parse(NULL, "V", &d, &n, err, sizeof(err)), 0);
	assert_int_equal(n, 0);
	disks_free(d, n);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char *one[] = {bad[i], NULL};

		assert_int_equal(
			disks_parse(one, "V", &d, &n, err, sizeof(err)),
			-EINVAL);
		assert_non_null(strstr(err, "--disk"));
	}
}

static void test_fleet_complaints(void **state)
{
	static const struct {
		const char *text, *where, *what;
	} cases[] = {
		{"", "FILE", "names no VM"},
		{"# only\n", "FILE", "names no VM"},
		{"a\nb mem=1Q", "line 2", "mem=1Q"},
		{"a b=c", "line 1", "no such key"},
		{"a b", "line 1", "KEY=VALUE"},
		{"a\na", "line 2", "already"},
		{"../x", "line 1", "not a name"},
		{".x", "line 1", "not a name"},
		{"-x", "line 1", "not a name"},
		{"a/b", "line 1", "not a name"},
		{"a123456789012345678901234567890123", "line 1", "not a name"},
		{"a append=\"x", "line 1", "quote"},
		{"a count=0", "line 1", "count=0"},
		{"a count=-1", "line 1", "count=-1"},
		{"a count=1025", "line 1", "count=1025"},
		{"a count=1024\nb", "line 2", "more than 1024"},
		{"a group=../x", "line 1", "group=../x"},
		{"a disk=x,rw", "line 1", "--disk x,rw"},
		{"a rng=1", "line 1", "rng=1"},
		{"a balloon=0", "line 1", "write on or off"},
		{"[{\"name\":\"a\",\"disk\":[1]}]", "VM 1", "disk"},
		{"[", "line", "not JSON"},
		{"[3]", "VM 1", "not an object"},
		{"[{\"name\":\"a\"},{}]", "VM 2", "no \"name\""},
		{"[{\"name\":\"a\",\"mem\":[]}]", "VM 1", "mem"},
		{"[{\"name\":7}]", "VM 1", "name"},
		{"{\"x\":1}", "line 1", "list"},
		{"[{\"name\":\"a\",\"x\":1}]", "VM 1", "no such key"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fleet f;
		char err[256] = "";

		if (fleet(cases[i].text, &f, err) >= 0 ||
		    !strstr(err, cases[i].where) ||
		    !strstr(err, cases[i].what) || strchr(err, '\n'))
			fail_msg("'%s': '%s'", cases[i].text, err);
		assert_int_equal(f.n, 0);
	}
}

static void test_fleet_needs_kernel(void **state)
{
	const struct vm_spec none = {.group = "default", .mem = 4096};
	char text[] = "a", zero[] = "a\0b", err[256];
	struct fleet f;

	assert_true(fleet_parse("F", text, 1, &none, &f, err, 256) < 0);
	assert_non_null(strstr(err, "kernel=FILE"));
	assert_true(fleet_parse("F", zero, 3, &like, &f, err, 256) < 0);
	assert_non_null(strstr(err, "zero byte"));
	assert_true(fleet_load("/nonexistent", &like, &f, err, 256) < 0);
	assert_non_null(strstr(err, "/nonexistent"));
	assert_true(fleet_load("/tmp", &like, &f, err, 256) < 0);
	assert_non_null(strstr(err, "/tmp"));
}

static void test_fleet_uniform(void **state)
{
	struct fleet f;
	char err[256];

	assert_int_equal(fleet_uniform(&like, 3, &f, err, 256), 0);
	assert_int_equal(f.n, 3);
	assert_string_equal(f.vms[2].name, "vm2");
	fleet_free(&f);
	assert_true(fleet_uniform(&like, 0, &f, err, 256) < 0);
	assert_true(fleet_uniform(&like, 1025, &f, err, 256) < 0);
	assert_non_null(strstr(err, "1024"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shape),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_hostile_samples),
		cmocka_unit_test(test_names_cannot_move_the_cursor),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_columns_fit),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_optional_fields),
		cmocka_unit_test_setup_teardown(test_query, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_requests, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_long_answer, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_deaf_client, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_dead_with_a_child,
						make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_second_manager, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_stale_socket, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_not_a_socket, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_bad_paths, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_directory, make_dir,
						remove_dir),
		cmocka_unit_test(test_fleet_text),
		cmocka_unit_test(test_fleet_json),
		cmocka_unit_test(test_fleet_disks),
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_fleet_complaints),
		cmocka_unit_test(test_fleet_needs_kernel),
		cmocka_unit_test(test_fleet_uniform),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
