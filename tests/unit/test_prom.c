/* SPDX-License-Identifier: Apache-2.0 */
/* `test_prom FILE` checks a file instead ("-": standard input). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>

#include "mm/types.h"
#include "tests/unit/prom_check.h"
#include "vmm/cli/metrics.h"
#include "vmm/cli/prom.h"
#include "vmm/cli/report_fields.h"

static char *text_of(const struct report *r)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	prom_write(r, f);
	fclose(f);
	return text;
}

static void fill(struct report *r, size_t n)
{
	report_init(r);
	r->budget_bytes = 1ull << 40;
	r->seconds = 7;
	snprintf(r->host_state, sizeof(r->host_state), "ok");
	r->vms = calloc(n + 1, sizeof(*r->vms));
	r->n_vms = n;
	for (size_t i = 0; i < n; i++) {
		report_section_clear(&report_vm_section, &r->vms[i]);
		snprintf(r->vms[i].name, REPORT_NAME, "vm%zu", i);
		snprintf(r->vms[i].state, sizeof(r->vms[i].state), "running");
		r->vms[i].configured_bytes = 128 << 20;
	}
	r->n_refused = 2;
	snprintf(r->refused[0].name, REPORT_NAME, "changed");
	snprintf(r->refused[1].name, REPORT_NAME, "busy");
	r->refused[1].count = 5;
	r->n_evict = 1;
	snprintf(r->evict[0].name, REPORT_NAME, "compressed");
	r->evict[0].count = 6;
}

static void expect_good(const char *text)
{
	char why[256];

	if (!prom_check(text, why, sizeof(why)))
		fail_msg("%s\n%s", why, text);
}

static void the_format_is_right(void **state)
{
	struct report r;
	char *text;

	fill(&r, 3);
	r.vms[1].boot_ms = 4056;
	r.vms[2].swapped_bytes = 12;
	r.merged_pages = 99;
	text = text_of(&r);
	expect_good(text);
	assert_non_null(
		strstr(text, "\nsardine_host_budget_bytes 1099511627776\n"));
	assert_non_null(strstr(text, "\nsardine_host_uptime_seconds 7\n"));
	assert_non_null(
		strstr(text, "\nsardine_vm_boot_seconds{vm=\"vm1\"} 4.056\n"));
	assert_null(strstr(text, "boot_seconds{vm=\"vm0\"}"));
	assert_non_null(
		strstr(text, "\nsardine_vm_swapped_bytes{vm=\"vm2\"} 12\n"));
	assert_null(strstr(text, "swapped_bytes{vm=\"vm0\"}"));
	assert_null(strstr(text, "ballooned"));
	assert_null(strstr(text, "18446744073709551615"));
	assert_non_null(
		strstr(text, "\nsardine_sharing_merged_pages_total 99"));
	assert_non_null(strstr(text, "{reason=\"busy\"} 5\n"));
	assert_non_null(strstr(
		text,
		"\nsardine_reclaim_pages_total{result=\"compressed\"} 6\n"));
	assert_non_null(strstr(
		text, "\nsardine_vm_state{vm=\"vm0\",state=\"running\"} 1\n"));
	free(text);
	report_free(&r);
}

/* Whatever the tables hold comes out right, once it is known. */
static void every_field_comes_out_right(void **state)
{
	const struct report_section *s = &report_vm_section;
	unsigned n = 0, lines = 0;
	struct report r;
	char *text;

	fill(&r, 1);
	for (size_t i = 0; i < s->n; i++) {
		const struct report_field *f = &s->fields[i];

		if (f->kind != REPORT_U64)
			continue;
		*(uint64_t *)((char *)&r.vms[0] + f->offset) = 1234567;
		n += f->metric != METRIC_NONE;
	}
	text = text_of(&r);
	expect_good(text);
	for (const char *p = text; (p = strstr(p, "{vm=\"vm0\"} ")); p++) {
		p += strlen("{vm=\"vm0\"} ");
		assert_true(!strncmp(p, "1234567\n", 8) ||
			    !strncmp(p, "1234.567\n", 9) ||
			    !strncmp(p, "1.234567\n", 9) ||
			    !strncmp(p, "0.001234567\n", 12));
		lines++;
	}
	assert_int_equal(lines, n);
	free(text);
	report_free(&r);
}

static void no_vm_and_many(void **state)
{
	struct report r;
	char *text;

	fill(&r, 0);
	text = text_of(&r);
	expect_good(text);
	assert_null(strstr(text, "sardine_vm"));
	free(text);
	report_free(&r);
	fill(&r, 300);
	text = text_of(&r);
	expect_good(text);
	free(text);
	report_free(&r);
}

static void labels_are_escaped(void **state)
{
	struct report r;
	char *text;

	fill(&r, 1);
	snprintf(r.vms[0].name, REPORT_NAME, "a\"b\\c\nd{},=");
	text = text_of(&r);
	expect_good(text);
	assert_non_null(strstr(text, "{vm=\"a\\\"b\\\\c\\nd{},=\"}"));
	free(text);
	report_free(&r);
}

/* Whatever the table of fields holds: each has its sentence. */
static void each_field_has_a_sentence(void **state)
{
	const struct report_section *all[] = {&report_host, &report_vm_section,
					      &report_sharing};

	for (unsigned k = 0; k < ARRAY_SIZE(all); k++)
		for (size_t i = 0; i < all[k]->n; i++) {
			const char *help = all[k]->fields[i].help;

			assert_non_null(help);
			assert_true(strlen(help) > 8);
			assert_null(strpbrk(help, "\\\n"));
			assert_true(help[strlen(help) - 1] != '.');
		}
}

/* The checker itself. */
static void bad_text_is_found(void **state)
{
#define HEAD "# HELP a_bytes x.\n# TYPE a_bytes gauge\n"
	static const char *const bad[] = {
		"",
		"a_bytes 1\n",
		HEAD,
		HEAD "a_bytes 1",
		HEAD "a_bytes 1\n\n",
		HEAD "a_bytes  1\n",
		HEAD "a_bytes 1 x\n",
		HEAD "a_bytes one\n",
		HEAD "a_bytes 1\na_bytes 2\n",
		HEAD "a_bytes{} 1\n",
		HEAD "a_bytes{b} 1\n",
		HEAD "a_bytes{b=\"c} 1\n",
		HEAD "a_bytes{b=\"c\\x\"} 1\n",
		HEAD "a_bytes{b=\"c\"\n",
		HEAD "a_bytes{9=\"c\"} 1\n",
		HEAD "a_bytes{__b=\"c\"} 1\n",
		HEAD "9a 1\n",
		HEAD "a_bytes 1\n# TYPE a_bytes gauge\n",
		HEAD "a_bytes 1\n# HELP b_total y\n# TYPE b_total counter\n"
		     "b_total -1\n",
		HEAD "a_bytes 1\n# HELP b y\n# TYPE b counter\nb 1\n",
		HEAD "a_bytes 1\n# HELP b_total y\n# TYPE b_total gauge\n",
		HEAD "a_bytes 1\n# HELP b_ms y\n# TYPE b_ms gauge\nb_ms 1\n",
		HEAD "a_bytes{v=\"1\"} 1\n# HELP b y\n# TYPE b gauge\nb 1\n"
		     "a_bytes{v=\"2\"} 1\n",
		"# HELP a b\n# TYPE a untyped\na 1\n",
	};
	char why[256];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (prom_check(bad[i], why, sizeof(why)))
			fail_msg("taken for good: %s", bad[i]);
	expect_good(HEAD "a_bytes{b=\"c\\\"\",d=\"\"} 1\na_bytes 1e9\n");
}

static void addresses(void **state)
{
	struct sockaddr_storage sa;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
	static const char *const bad[] = {
		"",
		":9464",
		"*:9464",
		"localhost:1",
		"65536",
		"94x4",
		"-1",
		"127.0.0.1:",
		"127.0.0.1",
		"::1:9464",
		"[::1]",
		"[::1]:x",
		"[]:1",
		"1.2.3.4.5:99",
		"127.0.0.1:1:2",
		"[:1",
		"99999999999999999999",
	};
	char err[256];
	socklen_t len;

	assert_int_equal(metrics_parse("9464", &sa, &len, err, 256), 0);
	assert_int_equal(sa.ss_family, AF_INET);
	assert_int_equal(v4->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(v4->sin_port, htons(9464));
	assert_int_equal(metrics_parse("0.0.0.0:1", &sa, &len, err, 256), 0);
	assert_int_equal(v4->sin_addr.s_addr, 0);
	assert_int_equal(metrics_parse("[::1]:0", &sa, &len, err, 256), 0);
	assert_int_equal(sa.ss_family, AF_INET6);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		err[0] = '\0';
		if (metrics_parse(bad[i], &sa, &len, err, 256) != -EINVAL)
			fail_msg("taken for an address: %s", bad[i]);
		assert_non_null(strstr(err, "--metrics"));
		assert_non_null(strstr(err, "give"));
	}
}

static int check_file(const char *path)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
	static char text[1 << 20];
	char why[256];

	if (!f)
		return 2;
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	if (prom_check(text, why, sizeof(why)))
		return 0;
	fprintf(stderr, "%s: %s\n", path, why);
	return 1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_format_is_right),
		cmocka_unit_test(every_field_comes_out_right),
		cmocka_unit_test(no_vm_and_many),
		cmocka_unit_test(labels_are_escaped),
		cmocka_unit_test(each_field_has_a_sentence),
		cmocka_unit_test(bad_text_is_found),
		cmocka_unit_test(addresses),
	};

	if (argc > 1)
		return check_file(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
