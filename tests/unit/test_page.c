/* SPDX-License-Identifier: Apache-2.0 */
/* Pages and charts are well-formed XML whatever is in them, show what there is
 * and nothing else, and fetch nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/cli/page.h"
#include "vmm/cli/report_fields.h"
#include "vmm/cli/svg.h"

/* ---- a small XML reader: NULL, or what is wrong ---- */

static const char *attributes(const char **at)
{
	const char *p = *at;
	const char *seen[32];
	size_t len[32], n = 0;

	for (;;) {
		const char *name;

		while (isspace((unsigned char)*p))
			p++;
		if (*p == '/' || *p == '>') {
			*at = p;
			return NULL;
		}
		name = p;
		while (isalnum((unsigned char)*p) || *p == '-' || *p == ':')
			p++;
		if (p == name || p[0] != '=' || p[1] != '"')
			return "attribute without =\"";
		for (size_t i = 0; i < n; i++)
			if (len[i] == (size_t)(p - name) &&
			    !strncmp(seen[i], name, len[i]))
				return "attribute twice";
		if (n < 32) {
			seen[n] = name;
			len[n++] = (size_t)(p - name);
		}
		for (p += 2; *p && *p != '"'; p++)
			if (*p == '<')
				return "< in an attribute";
		if (!*p++)
			return "attribute without an end";
	}
}

static const char *entity(const char *p)
{
	static const char *const good[] = {"&amp;", "&lt;", "&gt;", "&quot;",
					   "&#39;"};

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		if (!strncmp(p, good[i], strlen(good[i])))
			return NULL;
	return "a bare &";
}

static const char *check_xml(const char *p)
{
	char stack[32][24];
	unsigned depth = 0, roots = 0;
	const char *e;

	if (!strncmp(p, "<!DOCTYPE html>\n", 16))
		p += 16;
	while (*p) {
		const char *name;
		size_t n;

		if (*p == '&' && (e = entity(p)))
			return e;
		if ((unsigned char)*p < ' ' && *p != '\n')
			return "a control character";
		if (*p != '<') {
			if (!depth && !isspace((unsigned char)*p))
				return "text outside";
			p++;
			continue;
		}
		p++;
		if (*p == '/') {
			n = strcspn(++p, ">");
			if (!depth || strlen(stack[depth - 1]) != n ||
			    strncmp(stack[depth - 1], p, n))
				return "ends what is not open";
			depth--;
			p += n + 1;
			continue;
		}
		name = p;
		while (isalnum((unsigned char)*p))
			p++;
		n = (size_t)(p - name);
		if (!n || n > 23 || depth == 32)
			return "no name";
		e = attributes(&p);
		if (e)
			return e;
		roots += !depth;
		snprintf(stack[depth++], 24, "%.*s", (int)n, name);
		if (*p == '/') {
			depth--;
			p++;
		}
		if (*p++ != '>')
			return "element without an end";
	}
	return depth ? "something stays open" : roots == 1 ? NULL : "no root";
}

static void the_reader_reads(void **state)
{
	static const char *const bad[] = {
		"",
		"<a>",
		"<a></b>",
		"<a b></a>",
		"<a b=c></a>",
		"<a b=\"<\"></a>",
		"<a>&</a>",
		"<a>\001</a>",
		"<a/><b/>",
		"<a b=\"1\" b=\"2\"/>",
		"<a/>x",
		"<a>&nbsp;</a>",
		"<a><b></a></b>",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (!check_xml(bad[i]))
			fail_msg("taken for good: %s", bad[i]);
	assert_null(check_xml("<a x=\"y\"><b/>&lt;</a>\n"));
}

/* ---- a run ---- */

static void run(struct history *h, size_t vms, size_t samples, bool reclaim)
{
	memset(h, 0, sizeof(*h));
	for (size_t t = 0; t < samples; t++) {
		struct report r;

		report_init(&r);
		r.budget_bytes = (t < samples / 2 ? 4ull : 2ull) << 30;
		r.used_bytes = vms * (20ull << 20) + (t % 5 << 20);
		r.pool_bytes = 30 << 20;
		r.saved_bytes = t << 20;
		if (reclaim)
			r.store_bytes = 3 << 20;
		strcpy(r.host_state, "ok");
		r.vms = calloc(vms + 1, sizeof(*r.vms));
		r.n_vms = vms;
		for (size_t i = 0; i < vms; i++) {
			struct report_vm *v = &r.vms[i];

			report_section_clear(&report_vm_section, v);
			snprintf(v->name, REPORT_NAME, "vm%zu", i);
			strcpy(v->state, "running");
			v->pid = t < samples - 1 || i ? 9 : 0;
			v->boot_ms = t > 3 ? 3000 : 0;
			v->configured_bytes = 128 << 20;
			v->private_bytes = (14 + t % 3) << 20;
			v->shared_bytes = 46 << 20;
			v->zero_bytes = 60 << 20;
			v->overhead_bytes = 5 << 20;
			if (reclaim)
				v->swapped_bytes = 1 << 20;
		}
		assert_int_equal(history_add(h, 1.76e9 + (double)t, &r), 0);
	}
}

static char *page(const struct history *h, bool svg)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	const char *bad;

	if (svg)
		page_write_svg(h, NULL, f);
	else
		page_write(h, f);
	fclose(f);
	bad = check_xml(text);
	if (bad)
		fail_msg("%s:\n%.2000s", bad, text);
	/* Nothing is fetched: the one address is the name of SVG. */
	for (const char *p = text; (p = strstr(p, "://")); p++)
		assert_int_equal(strncmp(p, "://www.w3.org/2000/svg\"", 23), 0);
	assert_null(strstr(text, "<script"));
	assert_null(strstr(text, "url("));
	assert_null(strstr(text, "nan"));
	assert_null(strstr(text, "inf\""));
	return text;
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void pages_of_all_sizes(void **state)
{
	static const size_t sizes[][2] = {{0, 1},  {1, 1},    {1, 2},
					  {8, 60}, {100, 90}, {300, 5}};

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t vms = sizes[i][0];
		struct history h;
		char *text;

		run(&h, vms, sizes[i][1], i & 1);
		text = page(&h, false);
		assert_int_equal(count(text, "<div class=\"vm\">"),
				 vms < PAGE_VMS ? vms : PAGE_VMS);
		free(text);
		free(page(&h, true));
		history_free(&h);
	}
}

static void what_is_absent_is_not_drawn(void **state)
{
	struct history h;
	char *text;

	run(&h, 2, 20, false);
	text = page(&h, false);
	assert_null(strstr(text, ">swapped<"));
	assert_null(strstr(text, ">compressed"));
	assert_null(strstr(text, ">ballooned<"));
	assert_non_null(strstr(text, "saved by sharing"));
	free(text);
	history_free(&h);
	run(&h, 2, 20, true);
	text = page(&h, false);
	assert_non_null(strstr(text, ">swapped<"));
	assert_non_null(strstr(text, ">compressed pages<"));
	assert_null(strstr(text, ">ballooned<"));
	free(text);
	history_free(&h);
}

static void marks_and_the_budget_are_drawn(void **state)
{
	const char *budget;
	struct history h;
	char *text;

	run(&h, 40, 20, false);
	text = page(&h, true);
	assert_non_null(strstr(text, "s-budget"));
	assert_non_null(strstr(text, "budget from 4 GiB to 2 GiB"));
	/* It keeps its value until it changes. */
	budget = strstr(text, "class=\"line s-budget\" d=\"M");
	/* The first is the legend's. */
	budget = budget ? strstr(budget + 20, "class=\"line s-budget") : NULL;
	assert_non_null(budget);
	assert_true(strcspn(budget, "H") < strcspn(budget, "L"));
	assert_non_null(strstr(text, "in userland: vm0, vm1"));
	assert_non_null(strstr(text, "ended: vm0 running"));
	free(text);
	history_free(&h);
	/* Far above what is used, it is told and not drawn. */
	run(&h, 1, 20, false);
	text = page(&h, false);
	assert_null(strstr(text, "class=\"line s-budget"));
	assert_non_null(strstr(text, "lies far above"));
	free(text);
	history_free(&h);
}

static void strings_are_escaped(void **state)
{
	static const char evil[] = "</svg><script>'\"&\033[2J\xff";
	struct history h;
	char *text;

	run(&h, 2, 20, false);
	for (size_t i = 0; i < h.n; i++) {
		snprintf(h.s[i].r.vms[0].name, REPORT_NAME, "%s", evil);
		snprintf(h.s[i].r.vms[1].state, 16, "<b>&\"'");
		snprintf(h.s[i].r.host_state, 16, "<i>");
	}
	h.s[h.n - 1].r.n_refused = 1;
	snprintf(h.s[h.n - 1].r.refused[0].name, REPORT_NAME, "<u>&");
	h.s[h.n - 1].r.refused[0].count = 1;
	assert_int_equal(history_add_event(&h, 1.76e9, evil), 0);
	text = page(&h, false);
	assert_non_null(strstr(text, "&lt;/svg&gt;&lt;script&gt;&#39;&quot;"));
	assert_null(strstr(text, "<b>&"));
	assert_null(strstr(text, "<u>"));
	free(text);
	history_free(&h);
}

/* Figures of a sample that somebody made up. */
static void huge_figures(void **state)
{
	struct history h;
	char *text;

	run(&h, 2, 5, true);
	for (size_t i = 0; i < h.n; i++) {
		struct report *r = &h.s[i].r;

		r->budget_bytes = i & 1 ? INT64_MAX : 0;
		r->used_bytes = r->pool_bytes = INT64_MAX;
		r->vms[0].private_bytes = INT64_MAX;
		h.s[i].time = i * 1e10;
	}
	text = page(&h, false);
	free(text);
	free(page(&h, true));
	history_free(&h);
}

static void ticks_are_round(void **state)
{
	char buf[48];

	assert_true(svg_step(100, 5, false) == 20);
	assert_true(svg_step(8, 5, false) == 2);
	assert_true(svg_step(1, 5, false) == 1);
	assert_true(svg_step(1000 << 20, 4, true) == 256 << 20);
	assert_true(svg_step(0, 4, true) == 1);
	assert_string_equal(svg_tick(0.25 * (1 << 30), 1 << 30, true, buf, 48),
			    "0.25 GiB");
	assert_string_equal(svg_tick(64 << 20, 128 << 20, true, buf, 48),
			    "64 MiB");
	assert_string_equal(svg_tick(30, 90, false, buf, 48), "30");
	assert_string_equal(svg_tick(0, 90, true, buf, 48), "0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_reader_reads),
		cmocka_unit_test(pages_of_all_sizes),
		cmocka_unit_test(what_is_absent_is_not_drawn),
		cmocka_unit_test(marks_and_the_budget_are_drawn),
		cmocka_unit_test(strings_are_escaped),
		cmocka_unit_test(huge_figures),
		cmocka_unit_test(ticks_are_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
