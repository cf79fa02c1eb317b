/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ncurses draws, and is loaded when it is needed (lazy.h). Its functions take
 * the place of macros here, so that each can be a pointer. The window is as
 * large as the screen, and ncurses keeps it so: a change of size is a key.
 *
 * Everything on the screen is printable ASCII: names and events are cleaned
 * where they come in (report.c, manager_end.c), and cut to the width here.
 */
#define NCURSES_NOMACROS 1
#include "vmm/cli/live.h"

#include <errno.h>
#include <inttypes.h>
#include <ncurses.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli/lazy.h"
#include "vmm/cli/report_table.h"

#define MAX_EVENTS 6 /* lines of them under the table */
#define HEAD_ROWS  5 /* above the first VM */

static struct {
	typeof(newterm) *newterm;
	typeof(delscreen) *delscreen;
	typeof(endwin) *endwin;
	typeof(newwin) *newwin;
	typeof(delwin) *delwin;
	typeof(cbreak) *cbreak;
	typeof(noecho) *noecho;
	typeof(curs_set) *curs_set;
	typeof(keypad) *keypad;
	typeof(nodelay) *nodelay;
	typeof(wgetch) *wgetch;
	typeof(getmaxx) *getmaxx;
	typeof(getmaxy) *getmaxy;
	typeof(werase) *werase;
	typeof(wmove) *wmove;
	typeof(waddnstr) *waddnstr;
	typeof(wattrset) *wattrset;
	typeof(wrefresh) *wrefresh;
	typeof(clearok) *clearok;
} lib;
#define SYMBOL(name)                                                           \
	{                                                                      \
#name, offsetof(typeof(lib), name)                             \
	}
static const struct lazy_symbol symbols[] = {
	SYMBOL(newterm),  SYMBOL(delscreen), SYMBOL(endwin),  SYMBOL(newwin),
	SYMBOL(delwin),	  SYMBOL(cbreak),    SYMBOL(noecho),  SYMBOL(curs_set),
	SYMBOL(keypad),	  SYMBOL(nodelay),   SYMBOL(wgetch),  SYMBOL(getmaxx),
	SYMBOL(getmaxy),  SYMBOL(werase),    SYMBOL(wmove),   SYMBOL(waddnstr),
	SYMBOL(wattrset), SYMBOL(wrefresh),  SYMBOL(clearok),
};

struct live {
	SCREEN *screen;
	WINDOW *w;
	const char *name;
	bool quit;
	struct report r;
	size_t *order;
	char sort[32]; /* name of a field, or "": as they were started */
	bool up;       /* smallest first */
	size_t first;  /* row of the sorted table that is at the top */
	char *const *events;
	size_t n_events;
	char notice[160];
};

/* ---- open and close ---- */

/* Not safe in a handler, but this process has nothing else to lose, and its
 * user a terminal. SA_RESETHAND: then it dies of the signal as it would. */
static void on_crash(int sig)
{
	lib.endwin();
}

static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

static void catch_crashes(void)
{
	struct sigaction sa = {.sa_handler = on_crash,
			       .sa_flags = SA_RESETHAND | SA_NODEFER};

	for (unsigned i = 0; i < ARRAY_SIZE(crashes); i++)
		sigaction(crashes[i], &sa, NULL);
}

int live_open(const char *name, bool quit, struct live **out)
{
	struct live *l;
	char err[160];

	/* Changing a terminal from the background would stop us. */
	if (!isatty(STDOUT_FILENO) || tcgetpgrp(STDOUT_FILENO) != getpgrp())
		return -ENOTTY;
	if (lazy_load("libncursesw.so.6", "libncursesw6", symbols,
		      ARRAY_SIZE(symbols), &lib, err, sizeof(err)))
		return -ENOTTY;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	fflush(stdout);
	/* NULL where $TERM is not known. */
	l->screen = lib.newterm(NULL, stdout, stdin);
	l->w = l->screen ? lib.newwin(0, 0, 0, 0) : NULL;
	if (!l->w) {
		live_close(l);
		return -ENOTTY;
	}
	catch_crashes();
	l->name = name;
	l->quit = quit;
	lib.cbreak();
	lib.noecho();
	lib.curs_set(0);
	lib.keypad(l->w, TRUE);
	lib.nodelay(l->w, TRUE);
	*out = l;
	return 0;
}

void live_close(struct live *l)
{
	if (!l)
		return;
	if (l->w)
		lib.delwin(l->w);
	if (l->screen) {
		for (unsigned i = 0; i < ARRAY_SIZE(crashes); i++)
			signal(crashes[i], SIG_DFL);
		lib.endwin();
		lib.delscreen(l->screen);
	}
	report_free(&l->r);
	free(l->order);
	free(l);
}

int live_fd(const struct live *l)
{
	return isatty(STDIN_FILENO) ? STDIN_FILENO : -1;
}

/* ---- what it shows ---- */

int live_sample(struct live *l, const struct report *r)
{
	struct report_vm *vms = malloc((r->n_vms + 1) * sizeof(*vms));
	size_t *order = malloc((r->n_vms + 1) * sizeof(*order));

	if (!vms || !order) {
		free(vms);
		free(order);
		return -ENOMEM;
	}
	report_free(&l->r);
	free(l->order);
	l->r = *r;
	l->r.vms = memcpy(vms, r->vms, r->n_vms * sizeof(*vms));
	l->order = order;
	return 0;
}

void live_events(struct live *l, char *const *events, size_t n)
{
	l->events = events;
	l->n_events = n;
}

void live_notice(struct live *l, const char *text)
{
	snprintf(l->notice, sizeof(l->notice), "%s", text ? text : "");
}

static const struct report_field *sort_field(const struct live *l)
{
	return *l->sort ? report_field_find(&report_vm_section, l->sort) : NULL;
}

/* ---- drawing ---- */

static void line(struct live *l, int y, attr_t attr, const char *text)
{
	if (y < 0 || y >= lib.getmaxy(l->w))
		return;
	lib.wmove(l->w, y, 0);
	lib.wattrset(l->w, (int)attr);
	/* Not into the last column: the lowest line would scroll. */
	lib.waddnstr(l->w, text, lib.getmaxx(l->w) - 1);
	lib.wattrset(l->w, A_NORMAL);
}

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static void draw_top(struct live *l)
{
	const struct report *r = &l->r;
	size_t run = 0, up = 0;
	char text[256], bar[22];
	double part = r->budget_bytes
			      ? (double)r->used_bytes / (double)r->budget_bytes
			      : 1;

	for (size_t i = 0; i < r->n_vms; i++) {
		run += r->vms[i].pid != 0;
		up += r->vms[i].pid && r->vms[i].boot_ms;
	}
	snprintf(text, sizeof(text),
		 "%s  %zu of %zu VMs run, %zu in userland  up %" PRIu64
		 ":%02" PRIu64 ":%02" PRIu64 " %60s",
		 l->name, run, r->n_vms, up, r->seconds / 3600,
		 r->seconds / 60 % 60, r->seconds % 60, "");
	line(l, 0, A_REVERSE, text);
	for (unsigned i = 0; i < 20; i++)
		bar[i] = (double)i < 20 * part ? '#' : '.';
	bar[20] = '\0';
	snprintf(text, sizeof(text), "host [%s] %.1f of %.1f MiB: %s", bar,
		 mib(r->used_bytes), mib(r->budget_bytes), r->host_state);
	line(l, 1, r->used_bytes > r->budget_bytes ? A_BOLD : A_NORMAL, text);
	snprintf(text, sizeof(text),
		 "pool %.1f MiB, saved by sharing %.1f MiB; pages merged "
		 "%" PRIu64 ", broken %" PRIu64,
		 mib(r->pool_bytes), mib(r->saved_bytes), r->merged_pages,
		 r->broken_pages);
	line(l, 2, A_NORMAL, text);
	line(l, 3, A_BOLD, l->notice);
}

/* The heading, with the column that the table is sorted by set off. */
static void draw_head(struct live *l, const struct report_columns *c)
{
	const struct report_field *sort = sort_field(l);
	char text[REPORT_ROW_MAX];
	int x = 0;

	report_head(c, text);
	line(l, HEAD_ROWS - 1, A_BOLD, text);
	for (size_t i = 0; sort && i < c->n; i++) {
		const struct report_field *f = c->f[i];
		int w = (int)f->width;

		if (f == sort && x + w < lib.getmaxx(l->w)) {
			snprintf(text, sizeof(text), "%*s",
				 f->kind == REPORT_STR ? -w : w, f->title);
			lib.wmove(l->w, HEAD_ROWS - 1, x);
			lib.wattrset(l->w, (int)A_REVERSE);
			lib.waddnstr(l->w, text, w);
			lib.wattrset(l->w, A_NORMAL);
		}
		x += w + 1;
	}
}

static int event_rows(const struct live *l)
{
	int n = l->n_events < MAX_EVENTS ? (int)l->n_events : MAX_EVENTS;
	int room = (lib.getmaxy(l->w) - HEAD_ROWS) / 3;

	return n < room ? n : room;
}

/* Rows for VMs; below are the total, events, and the keys. */
static size_t table_rows(const struct live *l)
{
	int n = lib.getmaxy(l->w) - HEAD_ROWS - 2 - event_rows(l);

	return n > 1 ? (size_t)n : 1;
}

static void clamp(struct live *l)
{
	size_t rows = table_rows(l), n = l->r.n_vms;

	if (l->first + rows > n)
		l->first = n > rows ? n - rows : 0;
}

static void draw_vms(struct live *l, const struct report_columns *c)
{
	const struct report_field *by = sort_field(l);
	size_t rows = table_rows(l);
	char text[REPORT_ROW_MAX];
	int y = HEAD_ROWS;

	/* Figures start with the highest, text with the first. */
	report_sort(&l->r, by, by && (by->kind == REPORT_STR) == l->up,
		    l->order);
	clamp(l);
	for (size_t i = l->first; i < l->r.n_vms && i < l->first + rows; i++) {
		const struct report_vm *v = &l->r.vms[l->order[i]];

		report_row(c, v, text);
		line(l, y++, v->pid ? A_NORMAL : A_DIM, text);
	}
	report_total_row(c, &l->r, text);
	line(l, y++, A_BOLD, text);
	for (int k = event_rows(l); k > 0; k--)
		line(l, y++, A_DIM, l->events[l->n_events - (size_t)k]);
}

static void draw_keys(struct live *l)
{
	size_t rows = table_rows(l), n = l->r.n_vms;
	char text[200], where[64] = "";

	if (n > rows)
		snprintf(where, sizeof(where), "  VMs %zu-%zu of %zu",
			 l->first + 1,
			 l->first + rows < n ? l->first + rows : n, n);
	snprintf(text, sizeof(text),
		 "%s  < > sort  r reverse  up/down/page scroll%s",
		 l->quit ? "q quit" : "Ctrl-C end", where);
	line(l, lib.getmaxy(l->w) - 1, A_DIM, text);
}

void live_draw(struct live *l)
{
	int width = lib.getmaxx(l->w) - 1;
	struct report_columns c;

	if (!l->order)
		return;
	lib.werase(l->w);
	report_columns_pick(&l->r, width > 1 ? (unsigned)width : 1, &c);
	draw_top(l);
	draw_head(l, &c);
	draw_vms(l, &c);
	draw_keys(l);
	lib.wrefresh(l->w);
}

/* ---- keys ---- */

/* The next column to the right or left of those shown; before the first one
 * is the order in which the VMs were started. */
static void move_sort(struct live *l, int by)
{
	int width = lib.getmaxx(l->w) - 1, at = -1;
	struct report_columns c;

	report_columns_pick(&l->r, width > 1 ? (unsigned)width : 1, &c);
	for (size_t i = 0; i < c.n; i++)
		if (!strcmp(c.f[i]->name, l->sort))
			at = (int)i;
	at += by;
	if (at < -1)
		at = (int)c.n - 1;
	snprintf(l->sort, sizeof(l->sort), "%s",
		 at < 0 || at >= (int)c.n ? "" : c.f[at]->name);
}

static void scroll_by(struct live *l, long by)
{
	if (by < 0 && (size_t)-by > l->first)
		l->first = 0;
	else
		l->first += (size_t)by;
	clamp(l);
}

static bool key(struct live *l, int ch)
{
	long page = (long)table_rows(l);

	switch (ch) {
	case 'q':
	case 'Q':
		return l->quit;
	case KEY_LEFT:
	case '<':
		move_sort(l, -1);
		break;
	case KEY_RIGHT:
	case '>':
		move_sort(l, 1);
		break;
	case 'r':
		l->up = !l->up;
		break;
	case KEY_UP:
	case 'k':
		scroll_by(l, -1);
		break;
	case KEY_DOWN:
	case 'j':
		scroll_by(l, 1);
		break;
	case KEY_PPAGE:
		scroll_by(l, -page);
		break;
	case KEY_NPAGE:
	case ' ':
		scroll_by(l, page);
		break;
	case KEY_HOME:
		scroll_by(l, -(long)l->r.n_vms);
		break;
	case KEY_END:
		scroll_by(l, (long)l->r.n_vms);
		break;
	case 'L' & 31:
	case KEY_RESIZE:
		lib.clearok(l->w, TRUE);
		break;
	}
	return false;
}

bool live_keys(struct live *l)
{
	bool quit = false, any = false;
	int ch;

	/* Bounded: a terminal could send for ever. */
	for (unsigned i = 0; i < 256 && !quit; i++) {
		ch = lib.wgetch(l->w);
		if (ch == ERR)
			break;
		quit = key(l, ch);
		any = true;
	}
	if (any && !quit)
		live_draw(l);
	return quit;
}
