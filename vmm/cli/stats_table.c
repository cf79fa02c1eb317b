/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translation statistics as tables: what went through the translator and
 * when, in the columns that the field prints; how the translated code is
 * linked; and why it is left, as frequency x cost.
 *
 * Everything is computed from the JSON object alone, so a file, a running VM
 * and the end of a run look the same. No rate is shown that was not measured:
 * a hit in the indirect-branch table leaves no trace unless the code was made
 * to count (run --count).
 */
#include "vmm/cli/stats_table.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mm/types.h"

struct table {
	const json_t *root;
	FILE *f;
};

static uint64_t get(const struct table *t, const char *group, const char *name)
{
	const json_t *v =
		json_object_get(json_object_get(t->root, group), name);

	return json_is_integer(v) && json_integer_value(v) > 0
		       ? (uint64_t)json_integer_value(v)
		       : 0;
}

static uint64_t bt(const struct table *t, const char *name)
{
	return get(t, "bt", name);
}

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

/* At most six characters: 99999, 413k, 2994M. */
#define SHORT 24
static const char *shorten(uint64_t n, char buf[SHORT])
{
	static const char unit[] = " kMGTP";
	unsigned u = 0;

	for (; n >= 100000 || (u && n >= 10000); u++)
		n = (n + 500) / 1000;
	snprintf(buf, SHORT, "%" PRIu64 "%.1s", n, u ? unit + u : "");
	return buf;
}

/* ---- the translator's work ---- */

struct work {
	uint64_t units, bytes, insns, cycles, timed, host;
};

static void work_row(const struct table *t, const char *label,
		     const struct work *w)
{
	char a[SHORT], b[SHORT], c[SHORT], d[SHORT], e[SHORT];

	fprintf(t->f, "%5s %7s %6s %6s %7s  %6s %7.0f %8.2f\n", label,
		shorten(w->units, a), shorten(w->bytes, b),
		shorten(w->insns, c), shorten(w->cycles, d),
		shorten(w->host, e), ratio(w->cycles, w->timed),
		ratio(w->insns, w->units));
}

static void print_work(const struct table *t)
{
	static const char rule[] =
		"--------------------------------------------"
		"--------------\n";
	struct work all = {bt(t, "translations"),    bt(t, "guest_bytes"),
			   bt(t, "guest_insns"),     bt(t, "translate_cycles"),
			   bt(t, "translate_timed"), bt(t, "host_bytes")};

	fprintf(t->f,
		"Translation (rows: equal spans of the run)\n"
		"              -------input-------   output\n"
		"    #   units   size  instr  cycles    size cyc/ins ins/unit\n"
		"%s",
		rule);
	for (unsigned i = 0; i < 8; i++) {
		char group[16], label[4];
		struct work w;

		snprintf(group, sizeof(group), "phase%u", i);
		snprintf(label, sizeof(label), "%u", i);
		w = (struct work){get(t, group, "units"),
				  get(t, group, "guest_bytes"),
				  get(t, group, "guest_insns"),
				  get(t, group, "cycles"),
				  get(t, group, "timed_insns"),
				  get(t, group, "host_bytes")};
		if (w.units)
			work_row(t, label, &w);
	}
	fputs(rule, t->f);
	work_row(t, "Total", &all);
	fprintf(t->f,
		"%s"
		"average unit %.1f bytes in, %.1f out; %.2f bytes out per byte "
		"in; %.1f%% of\nthe instructions copied as they are\n",
		rule, ratio(all.bytes, all.units), ratio(all.host, all.units),
		ratio(all.host, all.bytes),
		100 * ratio(bt(t, "ident"), all.insns));
}

/* ---- how it is kept and linked ---- */

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static void print_cache(const struct table *t)
{
	fprintf(t->f,
		"cache     %.2f MiB in use, %.2f at most, of %.2f; %" PRIu64
		" units live;\n          %" PRIu64 " regions evicted with "
		"%" PRIu64 " units, %" PRIu64 " flushes of everything\n",
		mib(bt(t, "tc_used")), mib(bt(t, "tc_peak")),
		mib(bt(t, "tc_bytes")), bt(t, "units_live"),
		bt(t, "tc_evictions"), bt(t, "tc_evicted"),
		bt(t, "tc_flushes"));
	fprintf(t->f,
		"chained   %.1f%% of the exits of live units (%" PRIu64
		" of %" PRIu64 "); %" PRIu64 "\n          exits were taken "
		"before they were chained\n",
		100 * ratio(bt(t, "exits_chained"), bt(t, "exits")),
		bt(t, "exits_chained"), bt(t, "exits"), bt(t, "chain_misses"));
	fprintf(t->f,
		"indirect  %" PRIu64 " misses, %" PRIu64 " entries filled, the "
		"table emptied %" PRIu64 " times;\n          ",
		bt(t, "ibtc_misses"), bt(t, "ibtc_fills"),
		bt(t, "ibtc_flushes"));
	if (get(t, "executed", "ibtc"))
		fprintf(t->f, "%.3f%% of %" PRIu64 " branches hit\n",
			100 - 100 * ratio(bt(t, "ibtc_misses"),
					  get(t, "executed", "ibtc")),
			get(t, "executed", "ibtc"));
	else
		fputs("hits leave no trace (run --count counts them)\n", t->f);
	if (get(t, "executed", "units"))
		fprintf(t->f,
			"executed  %" PRIu64 " instructions in %" PRIu64
			" units (%.2f a unit)\n",
			get(t, "executed", "insns"),
			get(t, "executed", "units"),
			ratio(get(t, "executed", "insns"),
			      get(t, "executed", "units")));
}

static uint64_t sh(const struct table *t, const char *name)
{
	return get(t, "shadow", name);
}

static void print_windows(const struct table *t)
{
	uint64_t walked = sh(t, "revalidated");
	uint64_t gone = sh(t, "reval_gone");

	fprintf(t->f,
		"windows   %" PRIu64 " fills mapped %" PRIu64 " pages; %" PRIu64
		" flushes walked %" PRIu64 " pages again\n          and kept "
		"%.1f%% of them; %" PRIu64 " CR3 writes found theirs valid\n",
		sh(t, "fills"), sh(t, "pages"), sh(t, "revalidations"), walked,
		100 * ratio(walked - (gone < walked ? gone : walked), walked),
		sh(t, "space_hits"));
	fprintf(t->f,
		"interp    %" PRIu64 " instructions, of these %" PRIu64
		" in 16- or 32-bit code, steps or\n          interrupt "
		"shadows, "
		"%" PRIu64 " after failed fetches\n",
		bt(t, "interp_insns"), bt(t, "interp_mode"),
		bt(t, "interp_fetch"));
}

/* ---- why it is left ---- */

struct exit_row {
	char name[48];
	uint64_t count, timed;
	double each, cost;
};

static int by_cost(const void *a, const void *b)
{
	const struct exit_row *x = a, *y = b;

	if (x->cost != y->cost)
		return x->cost < y->cost ? 1 : -1;
	return strcmp(x->name, y->name);
}

/* Names come from the object itself: printable ASCII, no more than fits. */
static size_t gather(const struct table *t, const char *group,
		     const char *label, struct exit_row *row, size_t max)
{
	json_t *o = json_object_get(t->root, group), *v;
	char timed[40], cycles[40];
	const char *name;
	size_t n = 0;

	snprintf(timed, sizeof(timed), "%s_timed", group);
	snprintf(cycles, sizeof(cycles), "%s_cycles", group);
	json_object_foreach(o, name, v)
	{
		struct exit_row *r = &row[n];

		if (n == max || !get(t, group, name))
			continue;
		snprintf(r->name, sizeof(r->name), "%s%.30s", label, name);
		for (char *p = r->name; *p; p++)
			if (*p < ' ' || *p > '~')
				*p = '?';
		r->count = get(t, group, name);
		r->timed = get(t, timed, name);
		r->each = ratio(get(t, cycles, name), r->timed);
		r->cost = r->each * (double)r->count;
		n++;
	}
	return n;
}

#define ROWS 64
static void print_exits(const struct table *t)
{
	struct exit_row row[ROWS];
	double total = 0;
	size_t n;

	n = gather(t, "callouts", "", row, ROWS);
	n += gather(t, "faults", "fault: ", row + n, ROWS - n);
	for (size_t i = 0; i < n; i++)
		total += row[i].cost;
	qsort(row, n, sizeof(*row), by_cost);
	fprintf(t->f,
		"\nWhy translated code was left (frequency x cost, TSC "
		"cycles)\n"
		"reason                 count      each     total  share\n"
		"-----------------------------------------------------------"
		"\n");
	for (size_t i = 0; i < n; i++) {
		char b[SHORT];

		fprintf(t->f, "%-18s %9" PRIu64, row[i].name, row[i].count);
		if (row[i].timed)
			fprintf(t->f, " %9.0f %9s %5.1f%%\n", row[i].each,
				shorten((uint64_t)row[i].cost, b),
				100 * ratio(row[i].cost, total));
		else
			fputs("         -         -      -\n", t->f);
	}
}

void stats_table_print(const json_t *root, FILE *f)
{
	struct table t = {root, f};

	if (!json_object_get(root, "bt")) {
		fputs("no translator ran\n", f);
		return;
	}
	print_work(&t);
	print_cache(&t);
	print_windows(&t);
	print_exits(&t);
}
