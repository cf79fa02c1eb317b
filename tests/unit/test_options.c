/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/cli/options.h"

struct vals {
	char *file, *text;
	uint64_t size;
	uint32_t n, hidden;
	bool flag;
};
static const struct opt opts[] = {
	{"file", 'f', OPT_STR, "FILE", "a file to read", OPT(struct vals, file),
	 .required = true},
	{"text", 0, OPT_STR, "STR", "some text", .dflt = "a b",
	 OPT(struct vals, text)},
	{"size", 's', OPT_SIZE, "SIZE", "how much", .dflt = "128M",
	 OPT(struct vals, size)},
	{NULL, 'n', OPT_UINT, "N", "how many", OPT(struct vals, n)},
	{"flag", 0, OPT_FLAG, NULL, "a switch", OPT(struct vals, flag)},
	{"secret", 0, OPT_UINT, "N", "hidden from people",
	 OPT(struct vals, hidden), .hidden = true},
};
static const struct command cmd = {
	.name = "try",
	.summary = "Try things",
	.args = "[THING]",
	.max_args = 1,
	.details = "A paragraph - with a dash.",
	.opts = opts,
	.n_opts = ARRAY_SIZE(opts),
	.values_size = sizeof(struct vals),
};

struct parsed {
	struct vals v;
	char *args[OPT_MAX_ARGS + 1];
	char err[256];
	enum opt_result r;
};

/* words: "a b c"; a word may hold '_' for a space. */
static void parse(struct parsed *p, const char *words)
{
	char buf[256], *argv[16], *s;
	int argc = 0;

	memset(p, 0, sizeof(*p));
	snprintf(buf, sizeof(buf), "try %s", words);
	for (s = strtok(buf, " "); s; s = strtok(NULL, " ")) {
		for (char *c = s; *c; c++)
			if (*c == '_')
				*c = ' ';
		argv[argc++] = s;
	}
	argv[argc] = NULL;
	p->r = options_parse(&cmd, argc, argv, &p->v, p->args, p->err,
			     sizeof(p->err));
}
static void done(struct parsed *p)
{
	options_free(&cmd, &p->v, p->args);
	assert_null(p->v.file);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *s;
		int r;
		uint64_t v;
	} cases[] = {
		{"0", 0, 0},
		{"4096", 0, 4096},
		{"4096B", 0, 4096},
		{"128M", 0, 128ull << 20},
		{"128m", 0, 128ull << 20},
		{"128MiB", 0, 128ull << 20},
		{"128MB", 0, 128ull << 20},
		{"3K", 0, 3072},
		{"4G", 0, 4ull << 30},
		{"1T", 0, 1ull << 40},
		{"18446744073709551615", 0, UINT64_MAX},
		{"16777215T", 0, 16777215ull << 40},
		{"16777216T", -ERANGE, 0},
		{"18446744073709551616", -ERANGE, 0},
		{"99999999999999999999G", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"M", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 M", -EINVAL, 0},
		{"1.5G", -EINVAL, 0},
		{"12Q", -EINVAL, 0},
		{"12Mx", -EINVAL, 0},
		{"12Mi", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t v = 77;
		int r = size_parse(cases[i].s, &v);

		if (r != cases[i].r || v != (r ? 77 : cases[i].v))
			fail_msg("'%s': %d, %llu", cases[i].s, r,
				 (unsigned long long)v);
	}
}

static void test_size_format(void **state)
{
	char b[32];

	assert_string_equal(size_format(0, b, 32), "0 B");
	assert_string_equal(size_format(1023, b, 32), "1023 B");
	assert_string_equal(size_format(128 << 20, b, 32), "128 MiB");
	assert_string_equal(size_format(3ull << 29, b, 32), "1.5 GiB");
	assert_string_equal(size_format(1ull << 40, b, 32), "1 TiB");
	assert_string_equal(size_format(1ull << 50, b, 32), "1024 TiB");
}

static void test_all_kinds(void **state)
{
	struct parsed p;

	parse(&p, "--file x/y --text=c_d -s 2G -n 7 --flag --secret 9 thing");
	assert_int_equal(p.r, OPTIONS_OK);
	assert_string_equal(p.v.file, "x/y");
	assert_string_equal(p.v.text, "c d");
	assert_int_equal(p.v.size, 2ull << 30);
	assert_int_equal(p.v.n, 7);
	assert_int_equal(p.v.hidden, 9);
	assert_true(p.v.flag);
	assert_string_equal(p.args[0], "thing");
	assert_null(p.args[1]);
	done(&p);
}

static void test_defaults(void **state)
{
	struct parsed p;

	parse(&p, "-f k");
	assert_int_equal(p.r, OPTIONS_OK);
	assert_string_equal(p.v.text, "a b");
	assert_int_equal(p.v.size, 128 << 20);
	assert_int_equal(p.v.n, 0);
	assert_false(p.v.flag);
	assert_null(p.args[0]);
	done(&p);
}

/* The last one given wins, as with most programs. */
static void test_repeated(void **state)
{
	struct parsed p;

	parse(&p, "-f a --file b");
	assert_int_equal(p.r, OPTIONS_OK);
	assert_string_equal(p.v.file, "b");
	done(&p);
}

static void test_help(void **state)
{
	struct parsed p;

	parse(&p, "--help");
	assert_int_equal(p.r, OPTIONS_HELP);
	done(&p);
	parse(&p, "-f a -h");
	assert_int_equal(p.r, OPTIONS_HELP);
	done(&p);
}

/* Each complaint is one line that names the thing and says what to do. */
static void test_complaints(void **state)
{
	static const struct {
		const char *words, *thing, *remedy;
	} cases[] = {
		{"", "--file", "give --file FILE"},
		{"-f a --wrong", "--wrong", "--help"},
		{"-f a -z", "-z", "--help"},
		{"-f", "-f", "argument"},
		{"--file", "--file", "argument"},
		{"-f a --flag=3", "--flag", "no argument"},
		{"-f a --size 12Q", "--size 12Q", "128M"},
		{"-f a --size 99999999999T", "99999999999T", "64 bits"},
		{"-f a -n x", "-n x", "digits"},
		{"-f a -n -3", "-n -3", "digits"},
		{"-f a -n 4294967296", "4294967296", "at most"},
		{"-f a one two", "two", "too many"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct parsed p;

		parse(&p, cases[i].words);
		if (p.r != OPTIONS_BAD || !strstr(p.err, cases[i].thing) ||
		    !strstr(p.err, cases[i].remedy) || strchr(p.err, '\n'))
			fail_msg("'%s': %d '%s'", cases[i].words, p.r, p.err);
		done(&p);
	}
}

static char *print_to_string(void (*fn)(FILE *f))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	fn(f);
	fclose(f);
	return text;
}
static void print_help(FILE *f)
{
	options_help(&cmd, f);
}
static void print_man(FILE *f)
{
	const struct command *const all[] = {&cmd};

	options_man(all, 1, f);
}

static void test_help_text(void **state)
{
	char *t = print_to_string(print_help), *line;

	assert_non_null(strstr(t, "usage: sardine try [options] [THING]"));
	assert_non_null(strstr(t, "-s, --size SIZE"));
	assert_non_null(strstr(t, "how much (default 128M)"));
	assert_non_null(strstr(t, "a file to read (required)"));
	assert_non_null(strstr(t, "  -n N  "));
	assert_null(strstr(t, "secret"));
	for (line = strtok(t, "\n"); line; line = strtok(NULL, "\n"))
		assert_in_range(strlen(line), 0, 80);
	free(t);
}

static void test_man_text(void **state)
{
	char *t = print_to_string(print_man);

	assert_non_null(strstr(t, ".TH SARDINE 1"));
	assert_non_null(strstr(t, ".SS sardine try"));
	assert_non_null(strstr(t, ".B \\-s, \\-\\-size \\fISIZE\\fR"));
	assert_non_null(strstr(t, "A paragraph \\- with a dash."));
	assert_null(strstr(t, "secret"));
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_size_format),
		cmocka_unit_test(test_all_kinds),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_repeated),
		cmocka_unit_test(test_help),
		cmocka_unit_test(test_complaints),
		cmocka_unit_test(test_help_text),
		cmocka_unit_test(test_man_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
