/* SPDX-License-Identifier: Apache-2.0 */
/* Counters through the control area: a round trip, and what a hostile monitor
 * could write there. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mm/control.h"
#include "mm/control_stats.h"

static struct control_stats *s;
static char got[65536];
static unsigned n_got;

static void take(void *ctx, const char *group, const char *name, uint64_t value)
{
	size_t at = strlen(got);

	n_got++;
	snprintf(got + at, sizeof(got) - at, "%s.%s=%lu ", group, name, value);
}

static int read_it(void)
{
	got[0] = '\0';
	n_got = 0;
	return control_stats_read(s, take, NULL);
}

static int setup(void **state)
{
	s = calloc(1, sizeof(*s));
	return !s;
}
static int teardown(void **state)
{
	free(s);
	return 0;
}

static uint64_t a[2] = {1, 2}, b[1] = {3};
static const struct stat_desc da[] = {{"one", "", 0}, {"two", "", 8}};
static const struct stat_desc db[] = {{"three", "", 0}};
static struct stat_group gb = {"beta", db, 1, b, NULL};
static struct stat_group ga = {"alpha", da, 2, a, &gb};

static void test_round_trip(void **state)
{
	assert_int_equal(control_stats_init(s, &ga), 0);
	assert_int_equal(read_it(), 0);
	assert_string_equal(got, "alpha.one=0 alpha.two=0 beta.three=0 ");
	control_stats_publish(s, &ga);
	assert_int_equal(read_it(), 0);
	assert_string_equal(got, "alpha.one=1 alpha.two=2 beta.three=3 ");
	b[0] = 30;
	control_stats_publish(s, &ga);
	assert_int_equal(read_it(), 0);
	assert_non_null(strstr(got, "beta.three=30"));
}

/* Before the monitor has come: nothing, and no mistake. */
static void test_empty(void **state)
{
	assert_int_equal(read_it(), 0);
	assert_int_equal(n_got, 0);
	assert_int_equal(control_stats_init(s, NULL), 0);
	assert_int_equal(read_it(), 0);
}

static void test_too_many(void **state)
{
	static struct stat_desc d[CONTROL_STATS_MAX + 10];
	struct stat_group g = {"g", d, CONTROL_STATS_MAX + 10, a, NULL};

	for (unsigned i = 0; i < CONTROL_STATS_MAX + 10; i++)
		d[i].name = "n";
	assert_int_equal(control_stats_init(s, &g), -ENOSPC);
	control_stats_publish(s, &g);
	assert_int_equal(read_it(), 0);
	assert_int_equal(n_got, CONTROL_STATS_MAX);
	/* Names that do not fit. */
	for (unsigned i = 0; i < CONTROL_STATS_MAX; i++)
		d[i].name = "a_name_of_thirty_five_characters___";
	g.n = CONTROL_STATS_MAX;
	assert_int_equal(control_stats_init(s, &g), -ENOSPC);
	assert_int_equal(read_it(), 0);
	assert_true(n_got > 200 && n_got < CONTROL_STATS_MAX);
}

static void test_hostile(void **state)
{
	static const char *const texts[] = {
		"one\n",     /* no group */
		":g\none",   /* cut */
		":g\n\n",    /* no name */
		":\none\n",  /* no group's name */
		":g\nOne\n", /* characters */
		":g\n\033[2J\n",  ":g\no ne\n",
		":g\none\ntwo\n", ":g\n:h\n::h\none\n",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
		strcpy(s->text, texts[i]);
		s->n = 1;
		assert_int_equal(read_it(), -EBADMSG);
		assert_true(n_got <= 1);
	}
	strcpy(s->text, ":g\none\n");
	s->n = 2; /* more values than names */
	assert_int_equal(read_it(), -EBADMSG);
	s->n = CONTROL_STATS_MAX + 1;
	assert_int_equal(read_it(), -EBADMSG);
	s->n = ~0ull;
	assert_int_equal(read_it(), -EBADMSG);
	control_stats_publish(s, &gb); /* stays inside, too */
	/* No end at all. */
	s->n = CONTROL_STATS_MAX;
	memset(s->text, 'a', sizeof(s->text));
	assert_int_equal(read_it(), -EBADMSG);
	strcpy(s->text, ":g");
	for (size_t k = 2; k < sizeof(s->text); k += 2)
		memcpy(s->text + k, "\na", 2);
	assert_int_equal(read_it(), -EBADMSG);
	assert_int_equal(n_got, CONTROL_STATS_MAX);
}

/* Anything at all: no crash, no more than there is. */
static void test_random(void **state)
{
	static const char alphabet[] = ":\n\nabc_0A\0";

	srand(1);
	for (unsigned k = 0; k < 20000; k++) {
		s->n = rand() % 600;
		for (unsigned i = 0; i < 200; i++)
			s->text[i] =
				alphabet[(unsigned)rand() % sizeof(alphabet)];
		read_it();
		assert_true(n_got <= s->n);
		control_stats_publish(s, &ga);
	}
}

/* It has its place in the area, and nothing else has. */
static void test_place(void **state)
{
	uint64_t off[3], at = control_stats_offset(64 << 20, 0);
	struct control *c;
	int fd;

	control_offsets(64 << 20, 0, off);
	assert_true(at > off[2]);
	assert_true(at + sizeof(struct control_stats) <=
		    control_bytes(64 << 20, 0));
	assert_int_equal(control_create(64 << 20, 0, "x", &fd, &c), 0);
	assert_int_equal(c->stats_off, at);
	control_unmap(c, control_bytes(64 << 20, 0));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_round_trip), T(test_empty),  T(test_too_many),
		T(test_hostile),    T(test_random), T(test_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
