/* SPDX-License-Identifier: Apache-2.0 */
/* Recording a run, reading it back, choosing what to draw. */
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/history.h"
#include "vmm/cli/record.h"
#include "vmm/cli/report_fields.h"

#define NS 1000000000ull

static char dir[64], path[128];

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/test_history.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/r.jsonl", dir);
	return 0;
}

static int remove_dir(void **state)
{
	unlink(path);
	return rmdir(dir); /* fails when something else was left behind */
}

static void sample(struct report *r, uint64_t used, size_t n_vms)
{
	report_init(r);
	strcpy(r->host_state, "ok");
	r->budget_bytes = 1000;
	r->used_bytes = used;
	r->vms = calloc(n_vms + 1, sizeof(*r->vms));
	r->n_vms = n_vms;
	for (size_t i = 0; i < n_vms; i++) {
		report_section_clear(&report_vm_section, &r->vms[i]);
		snprintf(r->vms[i].name, REPORT_NAME, "vm%zu", i);
		strcpy(r->vms[i].state, "running");
		r->vms[i].pid = 7;
	}
}

static void put(struct record *rec, double t, uint64_t used)
{
	struct report r;

	sample(&r, used, 2);
	assert_int_equal(record_sample(rec, &r, t, 0), 0);
	report_free(&r);
}

static struct record *open_new(size_t max_samples, uint64_t max_bytes)
{
	struct record *rec = NULL;
	char err[300];

	assert_int_equal(record_open(path, max_samples, max_bytes, &rec, err,
				     sizeof(err)),
			 0);
	return rec;
}

static void load(struct history *h)
{
	char err[300] = "";

	if (history_load(path, h, err, sizeof(err)))
		fail_msg("%s", err);
}

static void expect_bad(const char *why)
{
	struct history h;
	char err[300] = "";

	assert_true(history_load(path, &h, err, sizeof(err)) < 0);
	assert_non_null(strstr(err, path));
	if (!strstr(err, why))
		fail_msg("says: %s", err);
	assert_null(strchr(err, '\n'));
}

static void write_text(const char *text, const char *mode)
{
	FILE *f = fopen(path, mode);

	fputs(text, f);
	fclose(f);
}

/* ---- the record ---- */

static void what_is_written_is_read(void **state)
{
	struct record *rec = open_new(0, 0);
	struct history h;

	put(rec, 1000.25, 5);
	assert_int_equal(record_event(rec, "vm0: \"up\"\n\033[2J", 1001), 0);
	put(rec, 1002, 6);
	record_close(rec);
	load(&h);
	assert_int_equal(h.n, 2);
	assert_true(h.s[0].time == 1000.25 && h.s[1].time == 1002);
	assert_int_equal(h.s[1].r.used_bytes, 6);
	assert_int_equal(h.s[1].r.n_vms, 2);
	assert_int_equal(h.n_events, 1);
	assert_string_equal(h.events[0].text, "vm0: \"up\"??[2J");
	history_free(&h);
}

static void a_torn_last_line_is_skipped(void **state)
{
	struct record *rec = open_new(0, 0);
	struct history h;
	struct stat st;

	put(rec, 1, 5);
	put(rec, 2, 6);
	record_close(rec);
	assert_int_equal(stat(path, &st), 0);
	/* Torn at each byte of the last line. */
	for (off_t cut = st.st_size - 2; cut > st.st_size / 2 + 1; cut -= 7) {
		assert_int_equal(truncate(path, cut), 0);
		load(&h);
		assert_int_equal(h.n, 1);
		history_free(&h);
	}
}

static void bad_records_are_refused(void **state)
{
	struct record *rec = open_new(0, 0);
	struct report r;
	char err[300];

	put(rec, 1, 5);
	record_close(rec);
	write_text("{\"time\":2,\"ev", "a");
	write_text("\n{\"time\":3,\"event\":\"x\"}\n", "a");
	expect_bad(":2: no sample");
	write_text("", "w");
	expect_bad("holds no sample");
	write_text("{\"time\":3,\"event\":\"x\"}\n", "w");
	expect_bad("holds no sample");
	write_text("\177ELF nonsense", "w");
	expect_bad(":1: no sample");
	/* And are not overwritten either. */
	assert_true(record_open(path, 0, 0, &rec, err, sizeof(err)) < 0);
	assert_non_null(strstr(err, "no record of a run"));
	write_text("{\"time\":-1,\"event\":\"x\"}\n{}\n", "w");
	expect_bad(":1: no sample");
	write_text("{\"time\":1e300,\"event\":\"x\"}\n{}\n", "w");
	expect_bad(":1: no sample");
	write_text("[]\n[]\n", "w");
	expect_bad(":1: no sample");
	unlink(path);
	expect_bad("no such file");
	assert_int_equal(mkdir(path, 0700), 0);
	expect_bad("is a directory");
	assert_true(record_open(path, 0, 0, &rec, err, sizeof(err)) < 0);
	rmdir(path);
	sample(&r, 0, 0);
	report_free(&r);
}

static void a_new_run_starts_the_record_anew(void **state)
{
	struct record *rec = open_new(0, 0);
	struct history h;

	put(rec, 1, 5);
	put(rec, 2, 5);
	record_close(rec);
	rec = open_new(0, 0);
	put(rec, 3, 5);
	record_close(rec);
	load(&h);
	assert_int_equal(h.n, 1);
	assert_true(h.s[0].time == 3);
	history_free(&h);
}

/* A peak in the middle, the ends and all events outlive any thinning. */
static void long_records_are_thinned(void **state)
{
	struct record *rec = open_new(20, 0);
	uint64_t clock = 0, gaps[2] = {0};
	struct history h;
	bool peak = false;
	struct stat st;

	for (unsigned i = 0; i < 500; i++) {
		put(rec, i, i == 137 ? 900 : i % 7);
		if (!(i % 100))
			assert_int_equal(record_event(rec, "e", i), 0);
		gaps[i > 0] = record_due_ns(rec) - clock;
	}
	put(rec, 500, 1);
	record_close(rec);
	assert_int_equal(gaps[0], NS);
	assert_true(gaps[1] > 8 * NS); /* sampled less often */
	load(&h);
	assert_true(h.n <= 20 && h.n >= 5);
	for (size_t i = 0; i < h.n; i++)
		peak |= h.s[i].time == 137 && h.s[i].r.used_bytes == 900;
	assert_true(peak);
	assert_true(h.s[0].time == 0 && h.s[h.n - 1].time == 500);
	assert_int_equal(h.n_events, 5);
	history_free(&h);
	rec = open_new(0, 8192);
	for (unsigned i = 0; i < 200; i++) {
		put(rec, i, i);
		assert_int_equal(stat(path, &st), 0);
		assert_true(st.st_size <= 8192);
	}
	record_close(rec);
	load(&h);
	assert_true(h.n > 3);
	history_free(&h);
}

/* A limit on the size of files stands for a full disk. */
static void a_full_disk_ends_the_record(void **state)
{
	struct rlimit old, tight = {4096, RLIM_INFINITY};
	struct record *rec = open_new(0, 0);
	unsigned n = 0;
	struct report r;
	struct history h;
	int e;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	setrlimit(RLIMIT_FSIZE, &tight);
	sample(&r, 1, 2);
	while (!(e = record_sample(rec, &r, n, 0)) && n < 100)
		n++;
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(e < 0 && n > 2);
	/* Told once; from then on nothing is due. */
	assert_int_equal(record_sample(rec, &r, n, 0), 0);
	assert_int_equal(record_event(rec, "x", n), 0);
	assert_true(record_due_ns(rec) == UINT64_MAX);
	report_free(&r);
	record_close(rec);
	load(&h);
	assert_int_equal(h.n, n);
	history_free(&h);
}

/* ---- in memory ---- */

static void add(struct history *h, double t, uint64_t used)
{
	struct report r;

	sample(&r, used, 0);
	assert_int_equal(history_add(h, t, &r), 0);
}

static void memory_is_bounded_and_time_never_falls(void **state)
{
	struct history h = {0};
	bool peak = false;

	for (unsigned i = 0; i < 3 * HISTORY_SAMPLES; i++)
		add(&h, i % 10 ? i : 0, i == 5001 ? 999 : 1);
	assert_true(h.n <= HISTORY_SAMPLES);
	assert_true(h.s[0].time == 0);
	for (size_t i = 0; i < h.n; i++) {
		peak |= h.s[i].r.used_bytes == 999;
		assert_true(!i || h.s[i].time >= h.s[i - 1].time);
	}
	assert_true(peak);
	history_free(&h);
}

static double used(const struct report *r, const void *ctx)
{
	return (double)r->used_bytes;
}

static void picking_keeps_ends_and_peaks(void **state)
{
	static const size_t maxes[] = {2, 3, 10, 99, 100, 1000, 1001, 4000};
	struct history h = {0};
	size_t index[4001];

	for (unsigned i = 0; i < 1000; i++)
		add(&h, i * i, (i * 7919) % 101 + (i == 613 ? 500 : 0));
	for (unsigned k = 0; k < ARRAY_SIZE(maxes); k++) {
		size_t n = history_pick(&h, maxes[k], used, NULL, index);
		bool peak = maxes[k] == 2;

		assert_true(n <= maxes[k] && n >= 2);
		assert_int_equal(index[0], 0);
		assert_int_equal(index[n - 1], 999);
		for (size_t i = 1; i < n; i++)
			assert_true(index[i] > index[i - 1]);
		for (size_t i = 0; i < n; i++)
			peak |= index[i] == 613;
		assert_true(peak);
	}
	history_free(&h);
	/* All at one time: by number. */
	for (unsigned i = 0; i < 50; i++)
		add(&h, 5, i);
	assert_true(history_pick(&h, 10, used, NULL, index) <= 10);
	history_free(&h);
}

static void marks_are_found(void **state)
{
	struct history h = {0};
	struct history_mark *m;
	struct report r;
	size_t n;

	sample(&r, 1, 9);
	assert_int_equal(history_add(&h, 1, &r), 0);
	sample(&r, 1, 9);
	for (unsigned i = 0; i < 8; i++)
		r.vms[i].boot_ms = 5;
	assert_int_equal(history_add(&h, 2, &r), 0);
	sample(&r, 1, 9);
	for (unsigned i = 0; i < 9; i++)
		r.vms[i].boot_ms = 5;
	r.vms[3].pid = 0;
	strcpy(r.vms[3].state, "killed");
	r.budget_bytes = 4096;
	assert_int_equal(history_add(&h, 3, &r), 0);
	m = history_marks(&h, &n);
	assert_int_equal(n, 4);
	assert_int_equal(m[0].kind, HISTORY_UP);
	assert_int_equal(m[0].vms, 8);
	assert_string_equal(m[0].text, "vm0, vm1, vm2, vm3, vm4, vm5, ...");
	assert_string_equal(m[1].text, "vm8");
	assert_int_equal(m[2].kind, HISTORY_END);
	assert_string_equal(m[2].text, "vm3 killed");
	assert_int_equal(m[3].kind, HISTORY_BUDGET);
	assert_non_null(strstr(m[3].text, "to 4 KiB"));
	free(m);
	history_free(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(a_torn_last_line_is_skipped),
		cmocka_unit_test(bad_records_are_refused),
		cmocka_unit_test(a_new_run_starts_the_record_anew),
		cmocka_unit_test(long_records_are_thinned),
		cmocka_unit_test(a_full_disk_ends_the_record),
		cmocka_unit_test(memory_is_bounded_and_time_never_falls),
		cmocka_unit_test(picking_keeps_ends_and_peaks),
		cmocka_unit_test(marks_are_found),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
